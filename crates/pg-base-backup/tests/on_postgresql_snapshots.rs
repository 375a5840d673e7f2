//! Base backups that are snapshots: what is taken, what is refused, and what goes again. `zfs` is a stand-in
//! here; the real one is asked in the scenario `snapshots`.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde_json::json;
use testbed::{Cluster, ClusterOptions, Run, StandInZfs, StopMode, Testbed};

/// A running cluster whose data is on dataset `tank/pg`.
struct OnZfs {
    testbed: Testbed,
    cluster: Cluster,
    zfs: StandInZfs,
}

impl OnZfs {
    fn new(keep: u32) -> Result<Self> {
        let testbed = Testbed::new()?;
        let metrics = testbed.path().join("main/metrics");
        let cluster = testbed.cluster(
            "main",
            ClusterOptions::archiving()
                .segment_size_mib(1)
                .settings(&json!({
                    "snapshots": { "dataset": "tank/pg", "keep": keep },
                    "metrics": { "directory": metrics },
                    "stateDirectory": testbed.path().join("main/state"),
                })),
        )?;
        fs::create_dir(&metrics)?;
        cluster.start()?;
        cluster.psql("CREATE TABLE rows AS SELECT i FROM generate_series(1, 100) i")?;
        let space = |name: &str| testbed.path().join(name);
        let zfs = StandInZfs::new(
            &space("zfs"),
            &[
                ("tank/pg", cluster.home()),
                ("tank/pg/fast", &space("fast")),
                ("tank/beside", &space("beside")),
                ("other/pg", &space("other")),
            ],
        )?;
        Ok(Self {
            testbed,
            cluster,
            zfs,
        })
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<Run> {
        Run::of(&self.zfs.found_by(self.cluster.program(program, arguments)?))
    }

    /// Takes one that has to be good, and returns its name.
    fn take(&self) -> Result<String> {
        let taken = self
            .run("pg-base-backup", &["--method", "snapshot", "--json"])?
            .expect_success()?
            .json()?;
        taken["name"]
            .as_str()
            .map(ToOwned::to_owned)
            .context("no name")
    }

    /// Tries to take one, and returns what was said.
    fn fails(&self) -> Result<String> {
        Ok(self
            .run("pg-base-backup", &["--method", "snapshot"])?
            .expect_code(1)?
            .stderr)
    }

    fn prune(&self, arguments: &[&str]) -> Result<Run> {
        let mut all = vec!["--snapshots"];
        all.extend(arguments);
        self.run("pg-prune", &all)
    }

    /// Makes a tablespace on the dataset that is mounted in `mount`.
    fn tablespace(&self, mount: &str) -> Result<PathBuf> {
        let location = self.testbed.path().join(mount).join("space");
        fs::create_dir(&location)?;
        self.cluster.psql(&format!(
            "CREATE TABLESPACE {mount} LOCATION '{}'",
            location.display()
        ))?;
        self.cluster.psql(&format!(
            "CREATE TABLE in_{mount} TABLESPACE {mount} AS SELECT i FROM generate_series(1, 10) i"
        ))?;
        Ok(location)
    }

    fn metrics(&self) -> Result<String> {
        let path = self
            .cluster
            .home()
            .join("metrics/postgresql_snapshot_main.prom");
        fs::read_to_string(&path).with_context(|| format!("read \"{}\"", path.display()))
    }

    /// Restores from the snapshot `name` beside the server and returns how many rows `table` has there.
    fn rows_from(&self, name: &str, table: &str, mapping: &[String]) -> Result<String> {
        let into: PathBuf = self.testbed.path().join("copy");
        let from = format!("snapshot:{name}");
        let into_text = into.display().to_string();
        let mut arguments = vec![
            "restore", "main", "--yes", "--to", "latest", "--from", &from, "--into", &into_text,
        ];
        for words in mapping {
            arguments.extend(["--tablespace-mapping", words.as_str()]);
        }
        self.run("backstay", &arguments)?.expect_success()?;
        let copy = self.testbed.adopt(&into, self.cluster.settings_path())?;
        copy.start()?;
        let rows = copy.psql(&format!("SELECT count(*) FROM {table}"))?;
        copy.stop(StopMode::Immediate)?;
        Ok(rows)
    }
}

/// How `zfs` was told to take a snapshot.
fn taking(calls: &[String]) -> Vec<&String> {
    calls
        .iter()
        .filter(|call| call.starts_with("snapshot "))
        .collect()
}

#[test]
fn a_snapshot_is_of_data_and_tablespaces_at_one_moment_and_a_restore_can_begin_with_it()
-> Result<()> {
    let on = OnZfs::new(2)?;
    let location = on.tablespace("fast")?;
    let identifier = on
        .cluster
        .psql("SELECT system_identifier FROM pg_control_system()")?;
    let before = on.cluster.psql("SELECT pg_current_wal_flush_lsn()")?;
    let name = on.take()?;

    let parts = [format!("tank/pg/fast@{name}"), format!("tank/pg@{name}")];
    assert_eq!(on.zfs.snapshots()?, parts);
    let calls = on.zfs.calls()?;
    let taken = taking(&calls);
    assert_eq!(taken.len(), 1, "{calls:?}");
    assert!(
        taken[0].ends_with(&format!(" tank/pg@{name} tank/pg/fast@{name}")),
        "{calls:?}"
    );
    for part in &parts {
        let mark = |property: &str| on.zfs.mark(part, property);
        assert_eq!(mark("backstay:instance").as_deref(), Some("main"));
        assert_eq!(
            mark("backstay:system-identifier").as_ref(),
            Some(&identifier)
        );
        assert_eq!(mark("backstay:timeline").as_deref(), Some("1"));
        let lsn = mark("backstay:lsn").context("no position")?;
        let is_later = on
            .cluster
            .psql(&format!("SELECT '{lsn}'::pg_lsn >= '{before}'::pg_lsn"))?;
        assert_eq!(is_later, "t");
    }
    assert_eq!(
        on.zfs.mark(&parts[1], "backstay:verified").as_deref(),
        Some("yes")
    );
    let metrics = on.metrics()?;
    for line in [
        "postgresql_snapshot_last_run_success{instance=\"main\"} 1",
        "postgresql_snapshot_count{instance=\"main\"} 1",
    ] {
        assert!(metrics.lines().any(|l| l.starts_with(line)), "{metrics}");
    }

    // As any other snapshot it is a restore point.
    let windows = on.run("backstay", &["windows", "main", "--json"])?.json()?;
    assert_eq!(windows["snapshots"][0]["name"], name.as_str());
    on.cluster.psql("INSERT INTO in_fast VALUES (11)")?;
    on.cluster.archive_everything()?;
    let moved = on.testbed.path().join("moved");
    let mapping = format!("{}={}", location.display(), moved.display());
    assert_eq!(on.rows_from(&name, "in_fast", &[mapping])?, "11");
    Ok(())
}

#[test]
fn e11_what_no_snapshot_takes_at_one_moment_is_refused_with_both_datasets() -> Result<()> {
    let on = OnZfs::new(2)?;
    for (mount, what) in [
        (
            "beside",
            "is on dataset \"tank/beside\", which is not below dataset \"tank/pg\" of the data directory",
        ),
        (
            "other",
            "is on dataset \"other/pg\", which is in another pool than dataset \"tank/pg\" of the data directory",
        ),
    ] {
        on.tablespace(mount)?;
        let said = on.fails()?;
        assert!(said.contains(what), "{said}");
        on.cluster.psql(&format!("DROP TABLE in_{mount}"))?;
        on.cluster.psql(&format!("DROP TABLESPACE {mount}"))?;
    }

    // The declaration names another dataset than the one that is mounted.
    on.cluster
        .change_settings(&json!({ "snapshots": { "dataset": "tank/other" } }))?;
    let said = on.fails()?;
    assert!(
        said.contains("is on dataset \"tank/pg\", and dataset \"tank/other\" is declared for it"),
        "{said}"
    );
    assert!(taking(&on.zfs.calls()?).is_empty());
    assert_eq!(on.zfs.snapshots()?, [""; 0]);
    assert!(
        on.metrics()?
            .contains("postgresql_snapshot_last_run_success{instance=\"main\"} 0")
    );
    Ok(())
}

#[test]
fn a_snapshot_that_nobody_would_ever_destroy_is_not_taken() -> Result<()> {
    let on = OnZfs::new(2)?;
    on.cluster
        .change_settings(&json!({ "snapshots": { "keep": null } }))?;
    let nobody = "the settings do not say how many snapshots are kept";
    let said = on.fails()?;
    assert!(said.contains(nobody), "{said}");
    let said = on.prune(&[])?.expect_code(1)?.stderr;
    assert!(said.contains(nobody), "{said}");
    for flag in ["--full", "--pin"] {
        let said = on
            .run("pg-base-backup", &["--method", "snapshot", flag])?
            .expect_code(1)?
            .stderr;
        assert!(
            said.contains(&format!("{flag} is not for --method snapshot")),
            "{said}"
        );
    }
    assert!(taking(&on.zfs.calls()?).is_empty());
    Ok(())
}

#[test]
fn who_lacks_the_rights_is_told_who_has_them() -> Result<()> {
    let on = OnZfs::new(2)?;
    on.zfs.tell("refused", "snapshot\n")?;
    let said = on.fails()?;
    assert!(said.contains("permission denied"), "{said}");
    assert!(
        said.contains("hint: postgresql-snapshot-main.service has the rights"),
        "{said}"
    );
    assert!(said.contains("zfs allow -u USER destroy,mount,snapshot,userprop tank/pg"));
    Ok(())
}

#[test]
fn a_snapshot_that_is_not_whole_is_destroyed_again_and_if_not_then_by_the_next_run() -> Result<()> {
    let on = OnZfs::new(1)?;
    let good = on.take()?;
    on.zfs.tell("torn", "")?;
    let said = on.fails()?;
    assert!(
        said.contains("could not take a base backup: check snapshot \"backstay-"),
        "{said}"
    );
    assert!(said.contains("was destroyed again"), "{said}");
    assert_eq!(on.zfs.snapshots()?, [format!("tank/pg@{good}")]);

    on.zfs.tell("refused", "destroy\n")?;
    let said = on.fails()?;
    assert!(
        said.contains("does not count, and could not be destroyed"),
        "{said}"
    );
    assert_eq!(on.zfs.snapshots()?.len(), 2);
    on.zfs.take_back("refused")?;
    on.zfs.take_back("torn")?;

    // It takes nobody's place.
    let plan = on.prune(&["--plan"])?.expect_success()?.stdout;
    assert!(
        plan.contains(&format!("keep    snapshot {good}: the newest")),
        "{plan}"
    );
    assert!(plan.contains(": it was never found whole"), "{plan}");
    let run = on
        .run("pg-base-backup", &["--method", "snapshot"])?
        .expect_success()?;
    assert!(
        run.stderr
            .contains("removed unfinished snapshot \"backstay-"),
        "{}",
        run.stderr
    );
    assert_eq!(on.zfs.snapshots()?.len(), 2);
    Ok(())
}

#[test]
fn a_killed_run_leaves_nothing_that_counts_and_the_next_one_removes_it() -> Result<()> {
    let on = OnZfs::new(2)?;
    // The last step is refused, as if the run had ended before it.
    on.zfs.tell("refused", "set\ndestroy\n")?;
    on.fails()?;
    on.zfs.take_back("refused")?;
    let left = on.zfs.snapshots()?;
    assert_eq!(left.len(), 1);
    let name = on.take()?;
    assert_eq!(on.zfs.snapshots()?, [format!("tank/pg@{name}")]);
    assert_ne!(left, on.zfs.snapshots()?);
    Ok(())
}

#[test]
fn only_expired_snapshots_of_our_own_are_destroyed_and_what_is_held_stays() -> Result<()> {
    let on = OnZfs::new(2)?;
    on.tablespace("fast")?;
    // Somebody else's, one of them with a name like ours, on a dataset that is marked itself.
    for name in ["hourly", "backstay-20200101-000000"] {
        on.zfs.run(["snapshot", &format!("tank/pg@{name}")])?;
    }
    on.zfs.tell("inherited/backstay:instance", "main")?;
    on.zfs.tell("inherited/backstay:verified", "yes")?;
    let theirs = on.zfs.snapshots()?;
    let of = |name: &str| [format!("tank/pg@{name}"), format!("tank/pg/fast@{name}")];
    let expected = |ours: &[&String]| {
        let mut all = theirs.clone();
        all.extend(ours.iter().flat_map(|name| of(name)));
        all.sort();
        all
    };

    let names: Vec<String> = (0..4).map(|_| on.take()).collect::<Result<_>>()?;
    let [first, second, third, fourth] = names.as_slice() else {
        unreachable!("four were taken");
    };
    on.zfs.run(["hold", "mine", &format!("tank/pg@{first}")])?;

    let said = on.prune(&["--plan"])?.expect_success()?.stdout;
    assert_eq!(
        said,
        format!(
            "held    snapshot {first}: there are 2 newer ones, and it is held; `zfs holds tank/pg@{first}` shows by whom\n\
             remove  snapshot {second}: there are 2 newer ones\n\
             keep    snapshot {third}: one of the newest 2\n\
             keep    snapshot {fourth}: one of the newest 2\n"
        )
    );
    assert_eq!(
        on.zfs.snapshots()?,
        expected(&[first, second, third, fourth])
    );

    on.zfs.calls()?;
    on.prune(&[])?.expect_success()?;
    assert_eq!(on.zfs.snapshots()?, expected(&[first, third, fourth]));
    let destroyed: Vec<String> = on
        .zfs
        .calls()?
        .into_iter()
        .filter(|call| call.starts_with("destroy"))
        .collect();
    assert_eq!(
        destroyed,
        of(second).map(|part| format!("destroy {part}")),
        "the part with the data directory goes first"
    );

    // Released, it goes; one that cannot be destroyed is named, and keeps no other from it.
    on.zfs
        .run(["release", "mine", &format!("tank/pg@{first}")])?;
    on.cluster
        .change_settings(&json!({ "snapshots": { "keep": 1 } }))?;
    on.zfs.tell("busy", &format!("tank/pg@{first}\n"))?;
    let said = on.prune(&[])?.expect_code(1)?.stderr;
    assert!(
        said.contains(&format!("snapshots could not be destroyed: {first}\n")),
        "{said}"
    );
    assert_eq!(on.zfs.snapshots()?, expected(&[first, fourth]));
    Ok(())
}
