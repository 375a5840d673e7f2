use super::*;

/// The properties that matter of a dataset in good order, as `zfs get -Hp` of OpenZFS 2.3 gives them.
const GOOD: &str = "type=filesystem mounted=yes mountpoint=/var/lib/postgresql/main canmount=on \
    recordsize=8192 compression=lz4 atime=off sync=standard keystatus=none readonly=off encryption=off";

fn declared() -> Datasets {
    let text = r#"{
        "containers": ["tank/services", "tank/services/postgresql"],
        "datasets": [{
            "name": "tank/services/postgresql/main",
            "mountpoint": "/var/lib/postgresql/main",
            "owner": "postgres", "group": "postgres", "mode": "0700",
            "properties": { "recordsize": "8K", "compression": "lz4", "atime": "off" }
        }]
    }"#;
    Datasets::parse(text).unwrap()
}

fn pool(health: &str) -> BTreeMap<String, Pool> {
    let pool = Pool {
        health: health.into(),
        is_read_only: false,
    };
    [("tank".to_owned(), pool)].into()
}

fn file_system(name: &str, mountpoint: &str, canmount: &str, is_mounted: bool) -> FileSystem {
    FileSystem {
        name: name.into(),
        mountpoint: mountpoint.into(),
        canmount: canmount.into(),
        is_mounted,
    }
}

/// A machine with the dataset, whose properties are [`GOOD`] but for `changes`.
fn present(changes: &[(&str, &str)]) -> Present {
    let mut values: BTreeMap<&str, &str> = GOOD
        .split_whitespace()
        .filter_map(|pair| pair.split_once('='))
        .collect();
    values.extend(changes.iter().copied());
    let properties = values
        .iter()
        .map(|(name, value)| {
            let property = zfs::Property {
                value: (*value).into(),
                source: "local".into(),
            };
            ((*name).to_owned(), property)
        })
        .collect();
    let name = "tank/services/postgresql/main";
    Present {
        pools: pool("ONLINE"),
        names: ["tank", "tank/services", "tank/services/postgresql", name]
            .map(String::from)
            .into(),
        properties: [(name.to_owned(), properties)].into(),
        file_systems: vec![file_system(
            name,
            values["mountpoint"],
            values["canmount"],
            values["mounted"] == "yes",
        )],
    }
}

fn steps(plan: &Plan) -> Vec<String> {
    plan.steps.iter().map(ToString::to_string).collect()
}

/// The one obstacle of a plan without steps for the dataset.
fn refusal(plan: &Plan) -> &str {
    let [obstacle] = plan.obstacles.as_slice() else {
        panic!("{plan:?}");
    };
    assert!(!obstacle.hint.is_empty());
    &obstacle.what
}

#[test]
fn what_is_as_declared_needs_nothing() {
    assert_eq!(plan(&declared(), &present(&[])), Plan::default());
}

#[test]
fn what_is_missing_is_made_from_the_top_and_mounted_last() {
    let empty = Present {
        pools: pool("ONLINE"),
        names: ["tank".to_owned()].into(),
        ..Present::default()
    };
    let plan = plan(&declared(), &empty);
    assert_eq!(plan.obstacles, []);
    assert_eq!(
        steps(&plan),
        [
            "create dataset \"tank/services\", which only holds others",
            "create dataset \"tank/services/postgresql\", which only holds others",
            "create dataset \"tank/services/postgresql/main\" with atime=off compression=lz4 \
             mountpoint=/var/lib/postgresql/main recordsize=8K",
            "mount dataset \"tank/services/postgresql/main\"",
        ]
    );
}

#[test]
fn a_pool_that_is_not_imported_proves_no_absence() {
    let plan = plan(&declared(), &Present::default());
    assert_eq!(plan.steps, []);
    assert_eq!(plan.obstacles.len(), 3);
    assert_eq!(plan.obstacles[0].what, "pool \"tank\" is not imported");
}

#[test]
fn a_pool_that_is_suspended_or_read_only_is_left_alone() {
    let suspended = Present {
        pools: pool("SUSPENDED"),
        ..Present::default()
    };
    let plan = plan(&declared(), &suspended);
    assert_eq!(plan.steps, []);
    assert_eq!(plan.obstacles[0].what, "pool \"tank\" is SUSPENDED");
    let mut read_only = present(&[("readonly", "on")]);
    read_only.pools.get_mut("tank").unwrap().is_read_only = true;
    let plan = super::plan(&declared(), &read_only);
    assert_eq!(plan.steps, []);
    assert_eq!(
        plan.obstacles[0].what,
        "pool \"tank\" is imported read-only"
    );
    let mut degraded = present(&[]);
    degraded.pools = pool("DEGRADED");
    assert_eq!(super::plan(&declared(), &degraded), Plan::default());
}

#[test]
fn a_property_that_differs_is_set() {
    let plan = plan(
        &declared(),
        &present(&[("recordsize", "131072"), ("atime", "on")]),
    );
    assert_eq!(plan.obstacles, []);
    assert_eq!(
        steps(&plan),
        [
            "set atime=off on dataset \"tank/services/postgresql/main\" (it was on)",
            "set recordsize=8K on dataset \"tank/services/postgresql/main\" (it was 131072), for files that are written from now on",
        ]
    );
}

#[test]
fn a_property_that_only_a_new_dataset_can_get_is_reported() {
    let mut declared = declared();
    declared.datasets[0]
        .properties
        .insert("encryption".into(), "aes-256-gcm".into());
    let plan = plan(&declared, &present(&[]));
    assert_eq!(plan.steps, []);
    assert_eq!(
        refusal(&plan),
        "encryption is off and is declared to be aes-256-gcm, which only a new dataset can get"
    );
}

#[test]
fn a_mount_point_is_not_changed_under_a_running_server() {
    let plan = plan(
        &declared(),
        &present(&[("mountpoint", "/srv/main"), ("mounted", "yes")]),
    );
    assert_eq!(plan.steps, []);
    assert_eq!(
        refusal(&plan),
        "it is mounted at \"/srv/main\" and declared to be at \"/var/lib/postgresql/main\""
    );
}

#[test]
fn a_received_dataset_gets_its_mount_point_and_is_mounted() {
    let plan = plan(
        &declared(),
        &present(&[
            ("mountpoint", "none"),
            ("mounted", "no"),
            ("canmount", "noauto"),
        ]),
    );
    assert_eq!(plan.obstacles, []);
    assert_eq!(
        steps(&plan),
        [
            "set mountpoint=/var/lib/postgresql/main on dataset \"tank/services/postgresql/main\" (it was none)",
            "set canmount=on on dataset \"tank/services/postgresql/main\" (it was noauto)",
            "mount dataset \"tank/services/postgresql/main\"",
        ]
    );
}

#[test]
fn t46_two_datasets_at_one_place_are_refused_and_both_are_named() {
    let mut present = present(&[("mounted", "no")]);
    present.file_systems.push(file_system(
        "tank/services/postgres",
        "/var/lib/postgresql/main",
        "on",
        true,
    ));
    let plan = plan(&declared(), &present);
    assert_eq!(plan.steps, []);
    assert_eq!(plan.obstacles[0].dataset, "tank/services/postgresql/main");
    assert_eq!(
        refusal(&plan),
        "dataset \"tank/services/postgres\" is mounted at \"/var/lib/postgresql/main\" too"
    );
}

#[test]
fn a_dataset_that_is_never_mounted_by_itself_claims_no_place() {
    let mut present = present(&[]);
    present.file_systems.push(file_system(
        "tank/restore/old",
        "/var/lib/postgresql/main",
        "noauto",
        false,
    ));
    assert_eq!(plan(&declared(), &present), Plan::default());
}

#[test]
fn sync_that_was_switched_off_above_is_refused() {
    let plan = plan(&declared(), &present(&[("sync", "disabled")]));
    assert_eq!(
        refusal(&plan),
        "sync is disabled, so a power cut undoes what PostgreSQL was told is durable"
    );
}

#[test]
fn what_cannot_be_mounted_says_why() {
    for (change, what) in [
        (("keystatus", "unavailable"), "its key is not loaded"),
        (("readonly", "on"), "it is read-only, as a replica is"),
        (("type", "volume"), "it is a volume, not a file system"),
    ] {
        let plan = plan(&declared(), &present(&[("mounted", "no"), change]));
        assert_eq!(refusal(&plan), what);
        assert_eq!(plan.steps, []);
    }
}

#[test]
fn a_directory_with_files_would_be_hidden() {
    let directory = tempfile::tempdir().unwrap();
    assert!(hides_nothing(directory.path()).unwrap());
    assert!(hides_nothing(&directory.path().join("absent")).unwrap());
    std::fs::write(directory.path().join("PG_VERSION"), "16\n").unwrap();
    assert!(!hides_nothing(directory.path()).unwrap());
}
