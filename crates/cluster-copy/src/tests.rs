use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::*;

/// The control file of a server of version 15 that was running.
const IN_PRODUCTION: &[u8] = include_bytes!("../../wal/fixtures/15.20/pg_control.in-production");

/// A directory as a server of version 15 leaves it, with the least that is looked at.
fn cluster(root: &Path) -> PathBuf {
    let directory = root.join("data");
    for name in [
        "global",
        "base/5",
        "pg_wal/archive_status",
        "pg_tblspc",
        "pg_replslot/old",
    ] {
        fs::create_dir_all(directory.join(name)).unwrap();
    }
    for (name, content) in [
        ("PG_VERSION", "15\n"),
        ("postgresql.conf", "port = 1\n"),
        ("base/5/1259", "pages"),
        ("base/5/pg_internal.init", "cache"),
        ("base/5/pgsql_tmp77", "sorted"),
        ("pg_wal/000000010000000000000005", "wal"),
        ("pg_wal/000000010000000000000009", "for later"),
        ("pg_wal/archive_status/000000010000000000000005.ready", ""),
        ("pg_replslot/old/state", "slot"),
    ] {
        fs::write(directory.join(name), content).unwrap();
    }
    fs::write(directory.join(CONTROL_FILE), IN_PRODUCTION).unwrap();
    directory
}

fn wal() -> BTreeSet<PathBuf> {
    ["000000010000000000000005", "archive_status"]
        .map(PathBuf::from)
        .into()
}

fn refusal(directory: &Path) -> String {
    format!("{:#}", ClusterCopy::examine(directory, &[]).unwrap_err())
}

/// Every file below `directory`, by its path there.
fn listing(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut waiting = vec![directory.to_owned()];
    while let Some(next) = waiting.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if fs::symlink_metadata(&path).unwrap().is_dir() {
                waiting.push(path.clone());
            }
            let below = path.strip_prefix(directory).unwrap();
            found.push(below.display().to_string());
        }
    }
    found.sort();
    found
}

#[test]
fn what_makes_up_the_cluster_is_copied_and_what_was_the_servers_own_is_not() {
    let root = tempfile::tempdir().unwrap();
    let directory = cluster(root.path());
    let before = listing(&directory);
    fs::set_permissions(
        directory.join("postgresql.conf"),
        fs::Permissions::from_mode(0o644),
    )
    .unwrap();
    let copy = ClusterCopy::examine(&directory, &[]).unwrap();
    assert_eq!(copy.major, 15);
    let files = copy.files(&wal()).unwrap();
    let to = root.path().join("new");
    let counted = std::sync::atomic::AtomicU64::new(0);
    files
        .put_into(&to, &BTreeMap::new(), &|bytes| {
            counted.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
        })
        .unwrap();
    assert_eq!(
        listing(&to),
        [
            "PG_VERSION",
            "base",
            "base/5",
            "base/5/1259",
            "global",
            "global/pg_control",
            "pg_replslot",
            "pg_tblspc",
            "pg_wal",
            "pg_wal/000000010000000000000005",
            "pg_wal/archive_status",
            "postgresql.conf",
        ]
    );
    assert_eq!(counted.into_inner(), files.bytes());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&to), 0o700);
    assert_eq!(mode(&to.join("postgresql.conf")), 0o640);
    assert_eq!(listing(&directory), before);
    copy.check_unchanged().unwrap();
}

#[test]
fn a_torn_control_file_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let directory = cluster(root.path());
    let mut bytes = IN_PRODUCTION.to_vec();
    bytes[40] ^= 1;
    fs::write(directory.join(CONTROL_FILE), &bytes).unwrap();
    assert!(refusal(&directory).ends_with("pg_control does not match its checksum"));
    // Of 17 the checksum is looked for; a copy for which it is not found is not trusted.
    bytes[8..12].copy_from_slice(&1700_u32.to_le_bytes());
    fs::write(directory.join(CONTROL_FILE), &bytes).unwrap();
    assert!(
        refusal(&directory).contains("pg_control does not match its checksum, or is of a form")
    );
}

#[test]
fn what_is_no_copy_of_one_moment_is_refused() {
    let said = |spoil: &dyn Fn(&Path)| {
        let root = tempfile::tempdir().unwrap();
        let directory = cluster(root.path());
        spoil(&directory);
        refusal(&directory)
    };
    assert!(
        said(&|d| fs::write(d.join("backup_label"), "").unwrap()).contains("holds backup_label")
    );
    assert!(
        said(&|d| fs::write(d.join("standby.signal"), "").unwrap())
            .contains("replaying WAL of another")
    );
    assert!(
        said(&|d| fs::remove_file(d.join("PG_VERSION")).unwrap()).contains("holds no PG_VERSION")
    );
    assert!(
        said(&|d| {
            durable_file::move_to_new_name(&d.join("pg_wal"), &d.with_file_name("wal")).unwrap();
            symlink(d.with_file_name("wal"), d.join("pg_wal")).unwrap();
        })
        .contains("the WAL is not of the same moment")
    );
}

#[test]
fn a_server_is_known_by_its_working_directory_and_not_by_its_number_alone() {
    let root = tempfile::tempdir().unwrap();
    let directory = cluster(root.path());
    // This process stands for the server; it works elsewhere, as that of a snapshot does.
    let pid = directory.join("postmaster.pid");
    fs::write(&pid, format!("{}\n", std::process::id())).unwrap();
    ClusterCopy::examine(&directory, &[]).unwrap();
    let here = std::env::current_dir().unwrap();
    let metadata = fs::metadata(&here).unwrap();
    let err = check_that_nobody_writes(&directory, &metadata).unwrap_err();
    assert!(err.to_string().contains("a server runs in"), "{err}");
}

#[test]
fn a_tablespace_is_taken_from_the_same_snapshot_or_from_where_the_user_says() {
    let root = tempfile::tempdir().unwrap();
    let real = cluster(root.path());
    let spaces = root.path().join("spaces");
    fs::create_dir_all(&spaces).unwrap();
    symlink(spaces.join("fast"), real.join("pg_tblspc/16400")).unwrap();
    assert!(refusal(&real).contains("tablespace 16400"));
    let err = ClusterCopy::examine(&real, &[]).unwrap_err();
    assert!(tool::hint_of(&err).unwrap().contains("--tablespace-from"));

    let snapshot = root.path().join(".zfs/snapshot/hourly");
    fs::create_dir_all(&snapshot).unwrap();
    durable_file::move_to_new_name(&real, &snapshot.join("15")).unwrap();
    let there = spaces.join(".zfs/snapshot/hourly/fast");
    fs::create_dir_all(there.join("PG_15_202209061/5")).unwrap();
    fs::write(there.join("PG_15_202209061/5/777"), "rows").unwrap();
    let copy = ClusterCopy::examine(&snapshot.join("15"), &[]).unwrap();
    assert_eq!(copy.tablespaces[0].directory, there);

    let elsewhere = root.path().join("elsewhere");
    durable_file::move_to_new_name(&there, &elsewhere).unwrap();
    assert!(refusal(&snapshot.join("15")).contains("tablespace 16400"));
    let places = [(spaces.join("fast"), elsewhere)];
    let copy = ClusterCopy::examine(&snapshot.join("15"), &places).unwrap();
    let to = root.path().join("new");
    let new_space = root.path().join("new-space");
    fs::create_dir(&new_space).unwrap();
    let mapped = BTreeMap::from([(16400, new_space)]);
    let files = copy.files(&wal()).unwrap();
    files.put_into(&to, &mapped, &|_| {}).unwrap();
    assert_eq!(
        fs::read_to_string(to.join("pg_tblspc/16400/PG_15_202209061/5/777")).unwrap(),
        "rows"
    );
    assert_eq!(
        fs::read_link(to.join("pg_tblspc/16400")).unwrap(),
        mapped[&16400]
    );
}

#[test]
fn a_file_that_vanishes_is_an_error() {
    let root = tempfile::tempdir().unwrap();
    let directory = cluster(root.path());
    let copy = ClusterCopy::examine(&directory, &[]).unwrap();
    let files = copy.files(&wal()).unwrap();
    fs::remove_file(directory.join("base/5/1259")).unwrap();
    let err = files
        .put_into(&root.path().join("new"), &BTreeMap::new(), &|_| {})
        .unwrap_err();
    assert!(format!("{err:#}").contains("1259"), "{err:#}");
}

#[test]
fn a_snapshot_that_cannot_be_read_is_told_from_one_that_holds_no_cluster() {
    let root = tempfile::tempdir().unwrap();
    let shown = root.path().join(".zfs/snapshot");
    let data = root.path().join("data");
    assert!(snapshots::look(&data).unwrap().snapshots.is_empty());
    fs::create_dir_all(shown.join("before-the-instance/other")).unwrap();
    fs::create_dir_all(shown.join("whole")).unwrap();
    cluster(&shown.join("whole"));
    fs::create_dir_all(shown.join("torn")).unwrap();
    let torn = cluster(&shown.join("torn"));
    fs::write(torn.join(CONTROL_FILE), [0; 8192]).unwrap();
    fs::create_dir_all(shown.join("without-control")).unwrap();
    fs::remove_file(cluster(&shown.join("without-control")).join(CONTROL_FILE)).unwrap();
    // As the kernel leaves it when it cannot mount the snapshot.
    fs::create_dir(shown.join("not-mounted")).unwrap();
    symlink("itself", shown.join("itself")).unwrap();

    let found = snapshots::look(&data).unwrap();
    let names: Vec<&str> = found.snapshots.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["whole"]);
    let unreadable: Vec<&str> = found.unreadable.iter().map(|(n, _)| n.as_str()).collect();
    assert_eq!(
        unreadable,
        ["itself", "not-mounted", "torn", "without-control"]
    );
    assert!(found.unreadable[1].1.to_string().contains("did not mount"));
    let identifier = found.snapshots[0].control.system_identifier;
    assert_eq!(snapshots::all(&data, identifier).unwrap().len(), 1);
    let other = wal::SystemIdentifier(identifier.0 + 1);
    assert!(snapshots::all(&data, other).unwrap().is_empty());

    // A place that cannot be looked at is no place without snapshots.
    let hidden = root.path().join("hidden");
    symlink("hidden", &hidden).unwrap();
    assert!(snapshots::look(&hidden.join("data")).is_err());
}
