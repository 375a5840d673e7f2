//! `pg-preseed` on machines that have lost their data, and on those that have not.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use archive::Archive;
use base_backups::Repository;
use command::Command;
use instance_state::{InstanceRecord, PreseedOutcome, PreseedRecord, PreseedStep, Reach};
use restore_journal::{Journal, Places, Step};
use serde_json::{Value, json};
use testbed::{Cluster, ClusterOptions, LedgerOptions, Run, StopMode, Testbed};
use wal::{Lsn, SystemIdentifier, TimelineId};

/// How many rows the ledger writes at a time.
const ROWS: usize = 200;

/// A machine with an instance whose WAL is archived.
struct Machine {
    testbed: Testbed,
    cluster: Cluster,
}

impl Machine {
    /// One that declares a preseed with these sources.
    fn with(sources: &Value) -> Result<Self> {
        let testbed = Testbed::new()?;
        let place = |name: &str| -> Result<PathBuf> {
            let path = testbed.path().join(name);
            fs::create_dir(&path)?;
            Ok(path)
        };
        let options = ClusterOptions::archiving()
            .segment_size_mib(1)
            .settings(&json!({
                "stateDirectory": place("state")?,
                "metrics": { "directory": place("metrics")? },
                "preseed": { "sources": sources },
            }));
        let cluster = testbed.cluster("main", options)?;
        Ok(Self { testbed, cluster })
    }

    fn with_base_backups() -> Result<Self> {
        Self::with(&json!([{ "kind": "baseBackups" }]))
    }

    /// With a base backup in the middle of what a ledger writes, all of it archived, and a row after that
    /// only the server has. Returns what has to come back.
    fn in_use(&self) -> Result<testbed::Expected> {
        self.cluster.start()?;
        let ledger = self.cluster.ledger(&LedgerOptions {
            writers: 2,
            ..LedgerOptions::default()
        })?;
        ledger.wait_for_commits(ROWS)?;
        self.cluster
            .run("pg-base-backup", ["--full"])?
            .expect_success()?;
        ledger.wait_for_commits(ROWS)?;
        ledger.stop()?;
        self.cluster.archive_everything()?;
        self.cluster.psql("CREATE TABLE not_archived ()")?;
        Ok(ledger.expected(&testbed::Until::end()))
    }

    fn state(&self) -> PathBuf {
        self.testbed.path().join("state")
    }

    fn data(&self) -> &Path {
        self.cluster.data()
    }

    fn lose_data(&self) -> Result<()> {
        self.cluster.kill_hard()?;
        fs::remove_dir_all(self.data())?;
        Ok(())
    }

    fn preseed(&self, arguments: &[&str]) -> Result<Run> {
        self.cluster.run("pg-preseed", arguments)
    }

    fn plan(&self) -> Result<Value> {
        self.preseed(&["--plan", "--json"])?
            .expect_success()?
            .json()
    }

    fn record(&self) -> Result<PreseedRecord> {
        PreseedRecord::read(&self.state())?.context("there is no record")
    }

    fn metrics(&self) -> Result<String> {
        let path = "metrics/postgresql_preseed_main.prom";
        Ok(fs::read_to_string(self.testbed.path().join(path))?)
    }

    /// Whether the server runs on exactly the rows that were archived, on a new timeline, and goes on.
    fn is_back(&self, expected: &testbed::Expected) -> Result<()> {
        self.cluster.start()?;
        expected.compare(&self.cluster)?.expect_exact()?;
        assert_eq!(
            self.cluster
                .psql("SELECT to_regclass('not_archived') IS NULL")?,
            "t"
        );
        assert_eq!(self.cluster.psql("SELECT pg_is_in_recovery()")?, "f");
        let timeline = self
            .cluster
            .psql("SELECT timeline_id FROM pg_control_checkpoint()")?;
        ensure!(timeline != "1", "it is still on timeline 1");
        self.cluster.archive_everything()?;
        Ok(())
    }

    /// Whether the run refused, with one message that says `what` and a way out, and made nothing.
    fn refuses(&self, what: &str, hint: &str) -> Result<()> {
        let run = self.preseed(&[])?.expect_code(1)?;
        let complaints: Vec<&str> = run
            .stderr
            .lines()
            .filter(|line| line.starts_with("could not fill the data directory: "))
            .collect();
        ensure!(complaints.len() == 1, "{}", run.stderr);
        ensure!(complaints[0].contains(what), "{}", run.stderr);
        let given = run.stderr.lines().last().unwrap_or_default();
        ensure!(
            given.starts_with("hint: ") && given.contains(hint),
            "{}",
            run.stderr
        );
        let is_empty = fs::read_dir(self.data()).map_or(true, |mut entries| {
            entries.all(|entry| entry.is_ok_and(|entry| entry.file_name() != "PG_VERSION"))
        });
        ensure!(is_empty, "something was made");
        Ok(())
    }

    /// Everything about every file that belongs to the instance.
    fn everything(&self) -> Result<BTreeMap<PathBuf, (u64, u64, i64, i64)>> {
        let mut found = BTreeMap::new();
        collect(self.testbed.path(), &mut found)?;
        Ok(found)
    }
}

fn collect(directory: &Path, found: &mut BTreeMap<PathBuf, (u64, u64, i64, i64)>) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let metadata = fs::symlink_metadata(&path)?;
        found.insert(
            path.clone(),
            (
                metadata.ino(),
                metadata.len(),
                metadata.ctime(),
                metadata.ctime_nsec(),
            ),
        );
        if metadata.is_dir() {
            collect(&path, found)?;
        }
    }
    Ok(())
}

#[test]
fn s1_s2_s3_s22_a_cluster_is_left_alone_without_a_write_however_often_and_in_whatever_state()
-> Result<()> {
    let machine = Machine::with_base_backups()?;
    machine.in_use()?;
    machine.cluster.stop(StopMode::Fast)?;
    let is_left_alone = || -> Result<()> {
        let before = machine.everything()?;
        for _ in 0..3 {
            let run = machine.preseed(&[])?.expect_success()?;
            assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("", ""));
        }
        ensure!(machine.everything()? == before, "something was written");
        Ok(())
    };
    is_left_alone()?;
    assert_eq!(machine.plan()?["action"], "leave");
    // What crashed is recovered by the server, and what is damaged is for pg-init to refuse: nothing is
    // ever restored over it.
    machine.cluster.start()?;
    machine.cluster.kill_hard()?;
    is_left_alone()?;
    let control = machine.data().join("global/pg_control");
    let good = fs::read(&control)?;
    fs::write(&control, vec![0; good.len()])?;
    is_left_alone()?;
    fs::write(&control, good)?;
    fs::remove_dir_all(machine.data().join("pg_wal"))?;
    is_left_alone()
}

#[test]
fn s4_s9_s25_an_empty_machine_gets_every_row_up_to_the_last_archived_change() -> Result<()> {
    let machine = Machine::with_base_backups()?;
    let expected = machine.in_use()?;
    machine.lose_data()?;
    fs::create_dir(machine.data())?;

    let plan = machine.plan()?;
    assert_eq!(plan["action"], "restore");
    assert_eq!(plan["from"], "1 (baseBackups)");
    assert_eq!(plan["sources"][0]["answer"], "has");
    ensure!(
        plan["sources"][0]["changesBefore"].is_string()
            && plan["sources"][0]["contentBytes"].as_u64() > Some(1 << 20),
        "{plan}"
    );
    ensure!(
        fs::read_dir(machine.data())?.next().is_none()
            && fs::read_dir(machine.state())?.next().is_none(),
        "the plan made something"
    );
    let text = machine.preseed(&["--plan"])?.expect_success()?.stdout;
    ensure!(
        text.contains("would restore 1 (baseBackups) into "),
        "{text}"
    );

    let run = machine.preseed(&[])?.expect_success()?;
    ensure!(
        run.stderr
            .contains("was filled from source 1 (baseBackups)"),
        "{}",
        run.stderr
    );
    let mode = fs::metadata(machine.data())?.permissions().mode();
    assert_eq!(mode & 0o7777, 0o700);
    for signal in ["recovery.signal", "standby.signal", "postmaster.pid"] {
        ensure!(!machine.data().join(signal).exists(), "{signal} is there");
    }
    let record = machine.record()?;
    assert_eq!(record.outcome, PreseedOutcome::Restored);
    assert_eq!(record.source.as_deref(), Some("1 (baseBackups)"));
    let restored = record.restored.context("nothing was restored")?;
    assert_eq!(restored.reach.timeline, TimelineId::new(2).context("2")?);
    ensure!(
        machine
            .metrics()?
            .contains("postgresql_preseed_status{instance=\"main\",source=\"baseBackups\"} 1"),
        "{}",
        machine.metrics()?
    );
    let request = instance_state::base_backup_request(&machine.state());
    ensure!(request.exists(), "no base backup is asked for");

    let before = machine.everything()?;
    machine.preseed(&[])?.expect_success()?;
    ensure!(
        machine.everything()? == before,
        "a second run wrote something"
    );
    machine.is_back(&expected)?;
    // What was asked for is done by the next base backup.
    machine
        .cluster
        .run("pg-base-backup", ["--full"])?
        .expect_success()?;
    ensure!(!request.exists(), "the request is still there");
    Ok(())
}

#[test]
fn s19_s20_the_server_begins_anew_only_on_proof_or_with_consent() -> Result<()> {
    let machine = Machine::with_base_backups()?;
    fs::remove_dir_all(machine.data())?;
    fs::remove_dir_all(machine.cluster.archive())?;
    fs::create_dir(machine.cluster.archive())?;
    // Nobody has said that this is the place of the base backups.
    let backups = machine.cluster.backups();
    fs::remove_dir_all(&backups)?;
    fs::create_dir(&backups)?;
    machine.refuses(
        &format!(
            "source 1 (baseBackups): \"{}\" does not show that it is the place of this instance's base backups",
            backups.display()
        ),
        "preseed.allowEmptyStartWithoutProof",
    )?;
    let record = machine.record()?;
    assert_eq!(record.outcome, PreseedOutcome::Failed);
    ensure!(
        record
            .failure
            .is_some_and(|failure| failure.contains("mount what belongs there"))
    );
    ensure!(machine.metrics()?.contains("source=\"none\"} 0"));
    assert_eq!(machine.plan()?["action"], "refuse");
    let init = machine
        .cluster
        .run("pg-init", [] as [&str; 0])?
        .expect_code(1)?;
    ensure!(
        init.stderr
            .contains("the preseed has not shown that its sources hold none"),
        "{}",
        init.stderr
    );

    // The proof.
    Repository::init(&backups, "main")?;
    assert_eq!(machine.plan()?["action"], "beginEmpty");
    machine.preseed(&[])?.expect_success()?;
    assert_eq!(machine.record()?.outcome, PreseedOutcome::NothingToRestore);
    ensure!(machine.metrics()?.contains("source=\"empty\"} 1"));

    // The consent.
    fs::remove_dir_all(&backups)?;
    machine.cluster.change_settings(&json!({
        "preseed": { "allowEmptyStartWithoutProof": true },
        "postgresql": { "initdb": { "arguments": ["--auth-local=trust"] } },
    }))?;
    let run = machine.preseed(&[])?.expect_success()?;
    ensure!(
        run.stderr.contains("THE SERVER MAY START WITHOUT DATA"),
        "{}",
        run.stderr
    );
    assert_eq!(machine.record()?.outcome, PreseedOutcome::EmptyWithoutProof);
    ensure!(machine.metrics()?.contains("source=\"empty\"} 1"));
    ensure!(!machine.data().exists(), "pg-preseed made a cluster");
    machine
        .cluster
        .run("pg-init", [] as [&str; 0])?
        .expect_success()?;
    archive::read_control_file(machine.data())?;
    Ok(())
}

#[test]
fn s5_s7_s24_only_an_empty_directory_in_the_right_place_and_without_a_server_is_filled()
-> Result<()> {
    let machine = Machine::with_base_backups()?;
    machine.in_use()?;
    let data = machine.data().to_owned();
    let aside = machine.testbed.path().join("aside");

    // A running server is not disturbed; one whose directory was taken away under it is noticed.
    machine.preseed(&[])?.expect_success()?;
    durable_file::move_to_new_name(&data, &aside)?;
    machine.refuses(
        "and a server still runs, process ",
        "find out what happened before it is stopped",
    )?;
    durable_file::move_to_new_name(&aside, &data)?;
    machine.cluster.stop(StopMode::Fast)?;
    durable_file::move_to_new_name(&data, &aside)?;

    // Another version's directory, or what a restore has kept, is a cluster of this instance.
    let kept = durable_file::with_suffix(&data, ".before-restore-20261121-000000");
    durable_file::move_to_new_name(&aside, &kept)?;
    machine.refuses("beside it is one", "give the directory its name back")?;
    durable_file::move_to_new_name(&kept, &aside)?;

    fs::create_dir(&data)?;
    fs::write(data.join("notes.txt"), "mine")?;
    machine.refuses(
        "holds \"notes.txt\" and no PG_VERSION",
        "nothing is ever removed",
    )?;
    fs::remove_file(data.join("notes.txt"))?;
    // The top of a file system cannot be renamed, so nothing can be put in its place.
    for own in ["lost+found", ".zfs"] {
        fs::create_dir(data.join(own))?;
        machine.refuses(
            "is a mount point, which cannot be renamed",
            "a directory below the mount",
        )?;
        fs::remove_dir(data.join(own))?;
    }
    // Beside the data directory they are where they belong.
    fs::create_dir(machine.cluster.home().join("lost+found"))?;

    machine.cluster.change_settings(&json!({
        "postgresql": { "requiredMounts": [machine.cluster.home()] },
    }))?;
    machine.refuses(
        "nothing is mounted at ",
        "nothing was made or started on the file system below it",
    )?;
    machine
        .cluster
        .change_settings(&json!({ "postgresql": { "requiredMounts": [] } }))?;

    let lock = Places::beside(&data)
        .try_lock()?
        .context("the lock is free")?;
    machine.refuses("a restore into ", "wait for it to end")?;
    drop(lock);
    let lock = durable_file::try_lock(&machine.state().join("preseed.lock"))?;
    machine.refuses(
        "another preseed of this instance is running",
        "wait for it to end",
    )?;
    drop(lock);
    ensure!(
        PreseedRecord::read(&machine.state())?.is_none(),
        "a refusal was taken for a run"
    );
    machine.preseed(&[])?.expect_success()?;
    archive::read_control_file(&data)?;
    Ok(())
}

#[test]
fn s10_s12_what_is_older_or_of_another_cluster_is_not_restored() -> Result<()> {
    let machine = Machine::with_base_backups()?;
    machine.in_use()?;
    machine.cluster.kill_hard()?;
    let own = archive::read_control_file(machine.data())?.system_identifier;
    fs::remove_dir_all(machine.data())?;
    let reach = |lsn| Reach {
        timeline: TimelineId::FIRST,
        lsn: Lsn(lsn),
    };
    let record = InstanceRecord {
        format: InstanceRecord::FORMAT,
        system_identifier: own,
        postgres_major: machine.cluster.server().major(),
        data_directory: machine.data().to_owned(),
        archive_directory: machine.cluster.archive(),
        base_backup_directory: None,
        since: "2026-11-21T00:00:00Z".into(),
        archived: Some(reach(1 << 40)),
    };
    record.write(&machine.state())?;
    machine.refuses(
        "it is older than what was here: it reaches to 0/",
        "a restore by hand takes it as it is",
    )?;
    InstanceRecord {
        system_identifier: SystemIdentifier(7),
        archived: None,
        ..record.clone()
    }
    .write(&machine.state())?;
    machine.refuses(
        "it holds another cluster: system identifier ",
        "find out whose data this is",
    )?;
    InstanceRecord {
        archived: Some(reach(0x0010_0000)),
        ..record
    }
    .write(&machine.state())?;
    machine.preseed(&[])?.expect_success()?;
    Ok(())
}

#[test]
fn a_standby_is_left_that_follows_until_it_is_promoted() -> Result<()> {
    let machine = Machine::with_base_backups()?;
    let expected = machine.in_use()?;
    machine
        .cluster
        .change_settings(&json!({ "preseed": { "asStandby": true } }))?;
    machine.lose_data()?;
    machine.preseed(&[])?.expect_success()?;
    ensure!(machine.data().join("standby.signal").exists());
    ensure!(
        machine
            .record()?
            .restored
            .is_some_and(|restored| restored.as_standby)
    );
    machine.cluster.start()?;
    assert_eq!(machine.cluster.psql("SELECT pg_is_in_recovery()")?, "t");
    machine.cluster.psql("SELECT pg_promote(true, 300)")?;
    machine.cluster.wait_until_promoted()?;
    expected.compare(&machine.cluster)?.expect_exact()?;
    Ok(())
}

#[test]
fn s17_a_restore_that_lacked_only_its_last_rename_is_completed() -> Result<()> {
    let machine = Machine::with_base_backups()?;
    let expected = machine.in_use()?;
    machine.lose_data()?;
    machine.preseed(&[])?.expect_success()?;
    // As a power cut between the two would leave it.
    let places = Places::beside(machine.data());
    durable_file::move_to_new_name(machine.data(), &places.staging)?;
    places.write_journal(&Journal {
        step: Step::Swapping,
        kept: None,
        tablespaces: Vec::new(),
    })?;
    let mut record = machine.record()?;
    record.outcome = PreseedOutcome::Begun;
    record.step = PreseedStep::Restoring;
    record.write(&machine.state())?;
    assert_eq!(machine.plan()?["action"], "finish");
    machine.preseed(&[])?.expect_success()?;
    ensure!(!places.staging.exists() && !places.journal.exists());
    assert_eq!(machine.record()?.outcome, PreseedOutcome::Restored);
    machine.is_back(&expected)
}

#[test]
fn s23_killed_at_any_time_it_never_leaves_half_a_cluster_and_in_the_end_every_row_is_there()
-> Result<()> {
    let machine = Machine::with_base_backups()?;
    let expected = machine.in_use()?;
    machine.lose_data()?;
    let log = machine.testbed.path().join("log");
    // Somewhere in the look around, the copying, the replay and after it, as fast as the machine is.
    for milliseconds in [30, 400, 1500, 3500] {
        let mut run = machine
            .cluster
            .program("pg-preseed", [] as [&str; 0])?
            .start_with_log(&log)?;
        std::thread::sleep(std::time::Duration::from_millis(milliseconds));
        let group = nix::unistd::Pid::from_raw(i32::try_from(run.id())?);
        // It may have ended well by then.
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        run.wait()?;
        if machine.data().join("PG_VERSION").exists() {
            archive::read_control_file(machine.data())?;
        }
        let consents = PreseedRecord::read(&machine.state())?
            .is_some_and(|record| record.outcome.allows_empty_cluster());
        ensure!(!consents, "an empty cluster would be made");
    }
    // What a killed run has left behind goes on by itself, and is not worked against.
    testbed::wait_until("the directory is filled", || {
        let run = machine.preseed(&[])?;
        ensure!(
            run.code() == Some(0) || run.stderr.contains("is running"),
            "{}",
            run.stderr
        );
        Ok((run.code() == Some(0)).then_some(()))
    })?;
    assert_eq!(machine.record()?.outcome, PreseedOutcome::Restored);
    machine.is_back(&expected)
}

/// A machine whose data directory is on what shows snapshots as ZFS does, and that has nothing else to restore
/// from.
struct Snapshots {
    machine: Machine,
}

impl Snapshots {
    fn new() -> Result<Self> {
        let machine = Machine::with(&json!([{ "kind": "local", "dataset": "tank/pg/main" }]))?;
        let snapshots = Self { machine };
        fs::create_dir_all(snapshots.shown())?;
        Ok(snapshots)
    }

    fn shown(&self) -> PathBuf {
        self.machine.cluster.home().join(".zfs/snapshot")
    }

    fn data_in(&self, snapshot: &str) -> PathBuf {
        self.shown().join(snapshot).join("data")
    }

    fn take(&self, snapshot: &str) -> Result<()> {
        fs::create_dir(self.shown().join(snapshot))?;
        self.machine
            .cluster
            .copy_at_one_moment(&self.data_in(snapshot))
    }

    /// Takes two while a ledger is written, one of a directory that was still empty, and archives what came
    /// after them. Returns what has to come back.
    fn in_use(&self) -> Result<testbed::Expected> {
        let cluster = &self.machine.cluster;
        cluster.start()?;
        fs::create_dir(self.shown().join("before"))?;
        let ledger = cluster.ledger(&LedgerOptions {
            writers: 2,
            ..LedgerOptions::default()
        })?;
        for snapshot in ["hourly-1", "hourly-2"] {
            ledger.wait_for_commits(ROWS)?;
            cluster.psql("CHECKPOINT")?;
            self.take(snapshot)?;
        }
        ledger.wait_for_commits(ROWS)?;
        ledger.stop()?;
        cluster.archive_everything()?;
        cluster.psql("CREATE TABLE not_archived ()")?;
        Ok(ledger.expected(&testbed::Until::end()))
    }

    /// What the source says, and why.
    fn answer(&self) -> Result<(String, String)> {
        let plan = self.machine.plan()?;
        let said = &plan["sources"][0];
        let text = |key: &str| said[key].as_str().unwrap_or_default().to_owned();
        Ok((text("answer"), text("why") + &text("startingPoint")))
    }

    fn cannot_say(&self, expected: &str) -> Result<()> {
        let (answer, why) = self.answer()?;
        ensure!(
            answer == "cannotSay" && why.contains(expected),
            "{answer}: {why}"
        );
        Ok(())
    }
}

/// The content of every file below `directory`, with its mode and its times.
fn fingerprint(directory: &Path) -> Result<String> {
    let script = format!(
        "cd {0} && find . -type f -exec sha256sum {{}} + | sort && find . -printf '%p %m %s %T@ %l\\n' | sort",
        command::quoted(&directory.display().to_string())
    );
    let run = Run::of(&Command::new("/bin/sh").args(["-c", &script]))?;
    Ok(run.expect_success()?.stdout)
}

#[test]
fn s4_s15_s16_a_lost_data_directory_comes_back_from_the_newest_snapshot_and_every_snapshot_stays()
-> Result<()> {
    let snapshots = Snapshots::new()?;
    let machine = &snapshots.machine;
    let expected = snapshots.in_use()?;
    machine.lose_data()?;
    let before = fingerprint(&snapshots.shown())?;

    let plan = machine.plan()?;
    assert_eq!(plan["action"], "restore");
    assert_eq!(plan["from"], "1 (local)");
    assert_eq!(plan["sources"][0]["startingPoint"], "snapshot hourly-2");
    assert_eq!(plan["sources"][0]["fetchBytes"], 0);
    ensure!(!machine.data().exists(), "the plan made something");

    // One that somebody reads, as a clone or a hold keeps one.
    let busy = fs::File::open(snapshots.data_in("hourly-2").join("PG_VERSION"))?;
    let run = machine.preseed(&[])?.expect_success()?;
    drop(busy);
    ensure!(
        run.stderr.contains("was filled from source 1 (local)"),
        "{}",
        run.stderr
    );
    let record = machine.record()?;
    assert_eq!(record.outcome, PreseedOutcome::Restored);
    let restored = record.restored.context("nothing was restored")?;
    assert_eq!(restored.starting_point, "snapshot hourly-2");
    assert_eq!(restored.reach.timeline, TimelineId::new(2).context("2")?);
    ensure!(machine.metrics()?.contains("source=\"local\"} 1"));
    ensure!(
        fingerprint(&snapshots.shown())? == before,
        "a snapshot was changed"
    );
    machine.is_back(&expected)
}

#[test]
fn s10_s12_s14_a_snapshot_that_is_torn_or_of_another_cluster_is_passed_over() -> Result<()> {
    let snapshots = Snapshots::new()?;
    let machine = &snapshots.machine;
    let expected = snapshots.in_use()?;
    machine.lose_data()?;
    let is = |name: &str| -> Result<()> {
        assert_eq!(
            snapshots.answer()?,
            ("has".to_owned(), format!("snapshot {name}"))
        );
        Ok(())
    };
    is("hourly-2")?;

    // Data and WAL of two moments, as datasets that are not snapshot in one step give them.
    let wal = snapshots.data_in("hourly-2").join("pg_wal");
    let elsewhere = machine.testbed.path().join("pg_wal");
    durable_file::move_to_new_name(&wal, &elsewhere)?;
    fs::create_dir(&wal)?;
    is("hourly-1")?;
    fs::remove_dir(&wal)?;
    durable_file::move_to_new_name(&elsewhere, &wal)?;
    is("hourly-2")?;

    for snapshot in ["hourly-1", "hourly-2"] {
        let control = snapshots.data_in(snapshot).join("global/pg_control");
        let mut torn = fs::read(&control)?;
        torn[40] ^= 1;
        fs::write(&control, torn)?;
    }
    snapshots.cannot_say("its snapshots hold no whole cluster of system identifier ")?;
    let control = snapshots.data_in("hourly-1").join("global/pg_control");
    let mut good = fs::read(&control)?;
    good[40] ^= 1;
    fs::write(&control, &good)?;
    is("hourly-1")?;

    // What had been archived and is gone from the archive may not be forgotten.
    let own = archive::read_control_file(&snapshots.data_in("hourly-1"))?.system_identifier;
    let record = |reach: u64, system_identifier| -> Result<()> {
        InstanceRecord {
            format: InstanceRecord::FORMAT,
            system_identifier,
            postgres_major: cluster::major_of(&snapshots.data_in("hourly-1"))?,
            data_directory: machine.data().to_owned(),
            archive_directory: machine.cluster.archive(),
            base_backup_directory: None,
            since: "2026-11-21T00:00:00Z".into(),
            archived: Some(Reach {
                timeline: TimelineId::FIRST,
                lsn: Lsn(reach),
            }),
        }
        .write(&machine.state())
    };
    record(u64::MAX, own)?;
    snapshots.cannot_say("it is older than what was here")?;
    record(1, SystemIdentifier(7))?;
    snapshots.cannot_say("it holds another cluster")?;
    machine.refuses("it holds another cluster", "find out whose data this is")?;
    record(1, own)?;
    machine.preseed(&[])?.expect_success()?;
    assert_eq!(
        machine
            .record()?
            .restored
            .context("restored")?
            .starting_point,
        "snapshot hourly-1"
    );
    machine.is_back(&expected)
}

#[test]
fn s5_s19_that_no_snapshot_is_seen_is_no_proof_unless_the_dataset_is() -> Result<()> {
    let snapshots = Snapshots::new()?;
    let machine = &snapshots.machine;
    snapshots.in_use()?;
    machine.lose_data()?;
    let aside = machine.testbed.path().join("aside");

    // Snapshots are all that is left: what came after them is in no archive.
    durable_file::move_to_new_name(&machine.cluster.archive(), &aside)?;
    fs::create_dir(machine.cluster.archive())?;
    snapshots.cannot_say("is of a cluster, and there is no WAL of it in ")?;

    // The dataset is not mounted, and what is below it is empty.
    durable_file::move_to_new_name(
        &snapshots.shown(),
        &machine.testbed.path().join("snapshots"),
    )?;
    snapshots.cannot_say("no snapshots are shown for ")?;
    fs::create_dir(snapshots.shown())?;
    snapshots.cannot_say("dataset \"tank/pg/main\" is not mounted at ")?;
    machine.refuses("is not mounted at ", "mount it: `zfs mount tank/pg/main`")?;
    assert_eq!(machine.plan()?["action"], "refuse");

    fs::remove_dir_all(machine.cluster.archive())?;
    durable_file::move_to_new_name(&aside, &machine.cluster.archive())?;
    snapshots.cannot_say("no snapshot holds a cluster, and ")
}

/// Where restic is, if it is installed.
fn restic() -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|directory| directory.join("restic"))
        .find(|program| program.is_file())
}

/// A machine whose archive and base backups are copied into a restic repository.
struct Copied {
    machine: Machine,
    restic: PathBuf,
}

impl Copied {
    fn new(restic: PathBuf) -> Result<Self> {
        let machine = Machine::with_base_backups()?;
        fs::write(machine.testbed.path().join("password"), "correct horse\n")?;
        fs::write(machine.testbed.path().join("wrong"), "battery staple\n")?;
        let copied = Self { machine, restic };
        copied.restic("nas", &["init", "--quiet"])?;
        copied.declare(&json!([copied.source("nas", "password")]))?;
        Ok(copied)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.machine.testbed.path().join(name)
    }

    fn source(&self, repository: &str, password: &str) -> Value {
        json!({
            "kind": "restic",
            "repository": self.path(repository),
            "passwordFile": self.path(password),
        })
    }

    fn declare(&self, sources: &Value) -> Result<()> {
        self.machine
            .cluster
            .change_settings(&json!({ "preseed": { "sources": sources } }))
    }

    fn restic(&self, repository: &str, arguments: &[&str]) -> Result<String> {
        Ok(Command::new(&self.restic)
            .args(arguments)
            .arg("--no-cache")
            .env("RESTIC_REPOSITORY", self.path(repository))
            .env("RESTIC_PASSWORD_FILE", self.path("password"))
            .run()?
            .stdout)
    }

    /// Copies archive and base backups, with the tags that the module gives.
    fn copy(&self, repository: &str, host: &str) -> Result<()> {
        let cluster = &self.machine.cluster;
        for (directory, tag, excluded) in [
            (cluster.backups(), "base-backup", "*.partial"),
            (cluster.archive(), "wal-archive", "incoming"),
        ] {
            let directory = directory.display().to_string();
            self.restic(
                repository,
                &[
                    "backup",
                    "--quiet",
                    &format!("--host={host}"),
                    &format!("--tag=postgresql,main,{tag}"),
                    &format!("--exclude={directory}/{excluded}"),
                    &directory,
                ],
            )?;
        }
        Ok(())
    }

    /// Takes away all that was on the machine, and makes the directories again as a new one has them.
    fn lose_the_host(&self) -> Result<()> {
        self.machine.lose_data()?;
        for directory in [
            self.machine.cluster.archive(),
            self.machine.cluster.backups(),
        ] {
            fs::remove_dir_all(&directory)?;
            fs::create_dir(&directory)?;
        }
        Ok(())
    }
}

#[test]
fn a_host_that_was_lost_with_everything_on_it_comes_back_from_restic_and_its_archive_goes_on()
-> Result<()> {
    let Some(restic) = restic() else {
        testbed::skip!("restic is not installed");
    };
    let copied = Copied::new(restic)?;
    let machine = &copied.machine;
    let expected = machine.in_use()?;
    copied.copy("nas", "forge")?;
    copied.lose_the_host()?;

    let plan = machine.plan()?;
    assert_eq!(plan["from"], "1 (restic)");
    ensure!(
        plan["sources"][0]["fetchBytes"].as_u64() > Some(1 << 20),
        "{plan}"
    );
    machine.preseed(&[])?.expect_success()?;
    let left: Vec<_> = fs::read_dir(machine.cluster.home())?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.contains("backstay-preseed") || name.contains("staging"))
        .collect();
    ensure!(left.is_empty(), "{left:?} is left");
    ensure!(machine.metrics()?.contains("source=\"restic\"} 1"));
    machine.is_back(&expected)?;
    machine.cluster.stop(StopMode::Fast)?;
    machine
        .cluster
        .run("pg-init", [] as [&str; 0])?
        .expect_success()?;

    // The old timeline's WAL is in the archive together with the new one's, as a base backup of the old
    // timeline needs them.
    let archive = Archive::open(&machine.cluster.archive(), "main")?;
    let listing = archive.list(archive.newest_cluster()?)?;
    let timelines: std::collections::BTreeSet<u32> = listing
        .segments()
        .map(|name| name.timeline().get())
        .collect();
    assert_eq!(timelines, [1, 2].into());
    Ok(())
}

#[test]
fn s9_what_was_archived_after_the_last_copy_comes_back_if_the_archive_is_still_there() -> Result<()>
{
    let Some(restic) = restic() else {
        testbed::skip!("restic is not installed");
    };
    let copied = Copied::new(restic)?;
    let machine = &copied.machine;
    machine.in_use()?;
    copied.copy("nas", "forge")?;
    machine.cluster.psql("CREATE TABLE after_the_copy ()")?;
    machine.cluster.archive_everything()?;
    machine.lose_data()?;
    fs::remove_dir_all(machine.cluster.backups())?;
    machine.preseed(&[])?.expect_success()?;
    machine.cluster.start()?;
    assert_eq!(
        machine
            .cluster
            .psql("SELECT to_regclass('after_the_copy') IS NOT NULL")?,
        "t"
    );
    Ok(())
}

#[test]
fn s18_a_repository_that_fails_in_any_way_is_no_proof_and_hides_no_other_source() -> Result<()> {
    let Some(restic) = restic() else {
        testbed::skip!("restic is not installed");
    };
    let copied = Copied::new(restic)?;
    let machine = &copied.machine;
    let expected = machine.in_use()?;
    machine.lose_data()?;
    copied.restic("empty", &["init", "--quiet"])?;
    let base_backups = json!({ "kind": "baseBackups" });
    let answer = |source: Value| -> Result<(String, String)> {
        copied.declare(&json!([source, base_backups]))?;
        let plan = machine.plan()?;
        assert_eq!(plan["from"], "2 (baseBackups)");
        let said = &plan["sources"][0];
        Ok((
            said["answer"].as_str().unwrap_or_default().to_owned(),
            said["why"].as_str().unwrap_or_default().to_owned(),
        ))
    };
    for (repository, password, expected) in [
        ("nowhere", "password", "repository"),
        ("nas", "wrong", "password"),
        ("nas", "no-such-file", "no-such-file"),
    ] {
        let (answer, why) = answer(copied.source(repository, password))?;
        assert_eq!(answer, "cannotSay");
        ensure!(why.contains(expected), "{why}");
        ensure!(!why.contains("battery"), "the password is shown");
    }
    assert_eq!(answer(copied.source("empty", "password"))?.0, "nothing");

    // Copies of two hosts with an instance of this name.
    copied.copy("nas", "forge")?;
    copied.copy("nas", "anvil")?;
    copied.declare(&json!([copied.source("nas", "password"), base_backups]))?;
    let plan = machine.plan()?;
    assert_eq!(plan["from"], "2 (baseBackups)");
    ensure!(
        plan["sources"][0]["why"]
            .as_str()
            .is_some_and(|why| why.contains("on several hosts: anvil, forge")),
        "{plan}"
    );

    // Statuses that only a stand-in gives when it is told to.
    let fakes = copied.path("fakes");
    fs::create_dir(&fakes)?;
    for status in [1, 2, 3, 11, 77, 130] {
        let fake = fakes.join("restic");
        fs::write(&fake, format!("#!/bin/sh\necho '[]'\nexit {status}\n"))?;
        fs::set_permissions(&fake, fs::Permissions::from_mode(0o755))?;
        let path = format!("{}:/usr/bin:/bin", fakes.display());
        let run = Run::of(
            &machine
                .cluster
                .program("pg-preseed", ["--plan", "--json"])?
                .env("PATH", path),
        )?
        .expect_success()?;
        assert_eq!(
            run.json()?["sources"][0]["answer"],
            "cannotSay",
            "status {status}"
        );
    }
    let run = machine.preseed(&[])?.expect_success()?;
    ensure!(
        run.stderr.contains("source 1 (restic): restic repository"),
        "{}",
        run.stderr
    );
    assert_eq!(machine.record()?.answers.len(), 2);
    machine.is_back(&expected)
}

#[test]
fn s18_a_copy_that_is_damaged_is_given_up_and_the_next_source_is_taken() -> Result<()> {
    let Some(restic) = restic() else {
        testbed::skip!("restic is not installed");
    };
    let copied = Copied::new(restic)?;
    let machine = &copied.machine;
    let expected = machine.in_use()?;
    // What is copied is not what pg_basebackup wrote; what is on this machine is.
    let mut files = BTreeMap::new();
    collect(&machine.cluster.backups(), &mut files)?;
    let (file, _) = files
        .iter()
        .filter(|(path, _)| {
            path.is_file() && path.components().any(|part| part.as_os_str() == "base")
        })
        .max_by_key(|(_, (_, length, ..))| *length)
        .context("there are tables")?;
    let good = fs::read(file)?;
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 1;
    fs::write(file, bad)?;
    copied.copy("nas", "forge")?;
    fs::write(file, good)?;
    copied.declare(&json!([copied.source("nas", "password"), { "kind": "baseBackups" }]))?;
    machine.lose_data()?;
    assert_eq!(machine.plan()?["from"], "1 (restic)");
    let run = machine.preseed(&[])?.expect_success()?;
    ensure!(
        run.stderr
            .contains("could not restore from source 1 (restic)"),
        "{}",
        run.stderr
    );
    assert_eq!(machine.record()?.source.as_deref(), Some("2 (baseBackups)"));
    machine.is_back(&expected)
}

#[test]
fn the_freshest_source_is_taken_where_that_is_wanted() -> Result<()> {
    let Some(restic) = restic() else {
        testbed::skip!("restic is not installed");
    };
    let copied = Copied::new(restic)?;
    let machine = &copied.machine;
    machine.in_use()?;
    // An archive that has come back from an older state than the copy.
    let aside = copied.path("aside");
    Command::new("/bin/cp")
        .arg("-a")
        .args([machine.cluster.archive(), aside.clone()])
        .run()?;
    machine.cluster.psql("CREATE TABLE later ()")?;
    machine.cluster.archive_everything()?;
    copied.copy("nas", "forge")?;
    machine.lose_data()?;
    fs::remove_dir_all(machine.cluster.archive())?;
    durable_file::move_to_new_name(&aside, &machine.cluster.archive())?;
    copied.declare(&json!([{ "kind": "baseBackups" }, copied.source("nas", "password")]))?;
    for (choose, from) in [("order", "1 (baseBackups)"), ("freshest", "2 (restic)")] {
        machine
            .cluster
            .change_settings(&json!({ "preseed": { "choose": choose } }))?;
        assert_eq!(machine.plan()?["from"], from);
    }
    machine.preseed(&[])?.expect_success()?;
    machine.cluster.start()?;
    assert_eq!(
        machine
            .cluster
            .psql("SELECT to_regclass('later') IS NOT NULL")?,
        "t"
    );
    Ok(())
}

#[test]
fn s21_a_source_that_hangs_does_not_hold_the_start_beyond_the_deadline() -> Result<()> {
    let machine = Machine::with_base_backups()?;
    fs::write(machine.testbed.path().join("password"), "x")?;
    let fakes = machine.testbed.path().join("fakes");
    fs::create_dir(&fakes)?;
    let fake = fakes.join("restic");
    fs::write(&fake, "#!/bin/sh\nexec sleep 20\n")?;
    fs::set_permissions(&fake, fs::Permissions::from_mode(0o755))?;
    machine.cluster.change_settings(&json!({ "preseed": {
        "deadlineSeconds": 2,
        "sources": [{
            "kind": "restic",
            "repository": "/nowhere",
            "passwordFile": machine.testbed.path().join("password"),
        }],
    } }))?;
    fs::remove_dir_all(machine.data())?;
    let path = format!("{}:/usr/bin:/bin", fakes.display());
    let run = Run::of(
        &machine
            .cluster
            .program("pg-preseed", [] as [&str; 0])?
            .env("PATH", path),
    )?
    .expect_code(1)?;
    ensure!(run.stderr.contains("no answer within "), "{}", run.stderr);
    assert_eq!(machine.record()?.outcome, PreseedOutcome::Failed);
    Ok(())
}
