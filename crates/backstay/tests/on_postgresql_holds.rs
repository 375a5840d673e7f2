//! Snapshots that are restored from are held meanwhile, and no hold is left whatever happens. `zfs` is a
//! stand-in here; the real one is asked in the scenario `snapshots`.

use std::fs;
use std::path::PathBuf;

use anyhow::Result;
use serde_json::json;
use testbed::{Cluster, ClusterOptions, Run, StandInZfs, Testbed};

/// A running cluster with a snapshot of it.
struct OnZfs {
    testbed: Testbed,
    cluster: Cluster,
    zfs: StandInZfs,
}

impl OnZfs {
    fn new() -> Result<Self> {
        let testbed = Testbed::new()?;
        let cluster = testbed.cluster(
            "main",
            ClusterOptions::archiving()
                .segment_size_mib(1)
                .settings(&json!({
                    "snapshots": { "dataset": "tank/pg" },
                    "stateDirectory": testbed.path().join("main/state"),
                })),
        )?;
        cluster.start()?;
        cluster.psql("CREATE TABLE rows AS SELECT i FROM generate_series(1, 100) i")?;
        cluster.psql("CHECKPOINT")?;
        let zfs = StandInZfs::new(&testbed.path().join("zfs"), &[("tank/pg", cluster.home())])?;
        zfs.run(["snapshot", "tank/pg@hourly"])?;
        cluster.archive_everything()?;
        Ok(Self {
            testbed,
            cluster,
            zfs,
        })
    }

    fn into(&self) -> PathBuf {
        self.testbed.path().join("copy")
    }

    fn restore(&self) -> Result<Run> {
        let into = self.into().display().to_string();
        let arguments = [
            "restore",
            "main",
            "--yes",
            "--to",
            "latest",
            "--from",
            "snapshot:hourly",
            "--into",
            &into,
        ];
        Run::of(
            &self
                .zfs
                .found_by(self.cluster.program("backstay", arguments)?),
        )
    }

    /// The files in which holds are written down.
    fn notes(&self) -> Result<usize> {
        let state = self.cluster.settings()?.state_directory();
        Ok(fs::read_dir(state.join("holds")).map_or(0, Iterator::count))
    }

    /// What holding and releasing was asked for since the last time, by the first word.
    fn words(&self) -> Result<Vec<String>> {
        Ok(self
            .zfs
            .calls()?
            .iter()
            .filter_map(|call| call.split(' ').next())
            .filter(|word| ["hold", "release", "destroy"].contains(word))
            .map(ToOwned::to_owned)
            .collect())
    }

    fn nothing_is_held(&self) -> Result<()> {
        assert_eq!(self.zfs.holds()?, [""; 0]);
        assert_eq!(self.notes()?, 0);
        Ok(())
    }
}

#[test]
fn t62_a_snapshot_that_is_restored_from_cannot_be_destroyed_and_is_released_at_the_end()
-> Result<()> {
    let on = OnZfs::new()?;
    on.zfs.tell(
        "after-hold",
        "\"$1\" destroy tank/pg@hourly 2> \"$(dirname \"$1\")/said\" && exit 1\nexit 0\n",
    )?;
    on.restore()?.expect_success()?;
    assert_eq!(on.words()?, ["hold", "destroy", "release"]);
    let said = fs::read_to_string(on.testbed.path().join("zfs/bin/said"))?;
    assert!(said.contains("it's being held"), "{said}");
    assert_eq!(on.zfs.snapshots()?, ["tank/pg@hourly"]);
    on.nothing_is_held()?;

    // A plan reads it for a moment only.
    let plan = ["restore", "main", "--to", "latest", "--plan"];
    Run::of(&on.zfs.found_by(on.cluster.program("backstay", plan)?))?.expect_success()?;
    assert_eq!(on.words()?, [""; 0]);
    Ok(())
}

#[test]
fn t62_a_restore_that_fails_leaves_no_hold() -> Result<()> {
    let on = OnZfs::new()?;
    let data = on.cluster.home().join(".zfs/snapshot/hourly");
    on.zfs
        .tell("after-hold", &format!("rm -rf '{}'\n", data.display()))?;
    let said = on.restore()?.expect_code(1)?.stderr;
    assert!(
        said.contains("snapshot \"hourly\" has been destroyed meanwhile"),
        "{said}"
    );
    assert_eq!(on.words()?, ["hold", "release"]);
    on.nothing_is_held()
}

#[test]
fn t62_what_a_killed_restore_holds_is_released_by_the_next() -> Result<()> {
    let on = OnZfs::new()?;
    on.zfs.tell("after-hold", "kill -KILL \"$PARENT\"\n")?;
    let killed = on.restore()?;
    assert_eq!(killed.code(), None);
    assert_eq!(on.zfs.holds()?.len(), 1);
    assert_eq!(on.notes()?, 2);
    on.words()?;

    on.zfs.take_back("after-hold")?;
    let run = on.restore()?.expect_success()?;
    assert!(
        run.stderr
            .contains("released snapshots that an interrupted run has held"),
        "{}",
        run.stderr
    );
    assert_eq!(on.words()?, ["release", "hold", "release"]);
    on.nothing_is_held()
}

#[test]
fn who_may_not_hold_restores_all_the_same_and_says_so() -> Result<()> {
    let on = OnZfs::new()?;
    on.zfs.tell("refused", "hold\nrelease\n")?;
    let run = on.restore()?.expect_success()?;
    assert!(
        run.stderr.contains(
            "the snapshot is not held while it is read: hold snapshot \"tank/pg@hourly\""
        ),
        "{}",
        run.stderr
    );
    on.nothing_is_held()
}
