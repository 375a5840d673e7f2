//! Drills on a real cluster: the good one, and each reason for which one fails.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use archive::Archive;
use command::Command;
use instance_state::{DrillReason, DrillRecord};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use testbed::{Cluster, ClusterOptions, Run, StopMode, Testbed, wait_until};
use wal::{SegmentName, WalFileName};

/// A cluster with a tablespace, a base backup and canaries before and after it.
struct Rehearsed {
    testbed: Testbed,
    cluster: Cluster,
    /// Archived after the base backup, each with canaries.
    segments: Vec<SegmentName>,
}

impl Rehearsed {
    fn new() -> Result<Self> {
        Self::with(ClusterOptions::archiving())
    }

    fn with(options: ClusterOptions) -> Result<Self> {
        let testbed = Testbed::new()?;
        let place = |name: &str| -> Result<PathBuf> {
            let path = testbed.path().join(name);
            fs::create_dir(&path)?;
            Ok(path)
        };
        let options = options
            .segment_size_mib(1)
            .configure("track_commit_timestamp = on")
            .configure("log_connections = on")
            // Its transactions would make the window longer than the last canary.
            .configure("autovacuum = off")
            .settings(&json!({
                "stateDirectory": place("state")?,
                "metrics": { "directory": place("metrics")? },
                "archive": { "prefetchMebibytes": 4 },
                "drill": {
                    "directory": place("drill")?,
                    "minimumFreeBytes": 0,
                    "deadlineSeconds": 600,
                    "canary": { "intervalSeconds": 1 },
                    "checks": [
                        { "database": "app", "query": "select count(*) from orders", "expect": "100" },
                        { "database": "app", "query": "select exists (select from elsewhere)" }
                    ]
                }
            }));
        let cluster = testbed.cluster("main", options)?;
        cluster.start()?;
        let tablespace = place("tablespace")?;
        cluster.psql("CREATE DATABASE app")?;
        cluster.psql(&format!(
            "CREATE TABLESPACE elsewhere LOCATION '{}'",
            tablespace.display()
        ))?;
        cluster.psql_in(
            "app",
            "CREATE TABLE orders (i int PRIMARY KEY); INSERT INTO orders SELECT generate_series(1, 100);
             CREATE TABLE elsewhere (i int) TABLESPACE elsewhere; INSERT INTO elsewhere VALUES (1)",
        )?;
        let mut rehearsed = Self {
            testbed,
            cluster,
            segments: Vec::new(),
        };
        rehearsed.write_canary()?;
        rehearsed
            .cluster
            .run("pg-base-backup", ["--full"])?
            .expect_success()?;
        for _ in 0..4 {
            for _ in 0..3 {
                rehearsed.write_canary()?;
            }
            let name = rehearsed.cluster.archive_everything()?;
            rehearsed.segments.push(SegmentName::parse(&name)?);
        }
        Ok(rehearsed)
    }

    fn write_canary(&self) -> Result<()> {
        self.cluster
            .run("pg-canary", ["--once"])?
            .expect_success()?;
        Ok(())
    }

    fn drill(&self) -> Result<Run> {
        self.cluster.run("pg-drill", [] as [&str; 0])
    }

    fn record(&self) -> Result<DrillRecord> {
        DrillRecord::read(&self.testbed.path().join("state"))?.context("there is no record")
    }

    fn metrics(&self) -> Result<String> {
        Ok(fs::read_to_string(
            self.testbed
                .path()
                .join("metrics/postgresql_restore_drill_main.prom"),
        )?)
    }

    fn scratch(&self) -> PathBuf {
        self.testbed.path().join("drill/scratch")
    }

    fn stored(&self, segment: SegmentName) -> Result<PathBuf> {
        let archive = Archive::open(&self.cluster.archive(), "main")?;
        archive.path_of(archive.newest_cluster()?, &WalFileName::Segment(segment))
    }

    /// Whether a drill fails for `reason`, says `said`, has cleaned up and has written metrics.
    fn fails(&self, run: Run, reason: DrillReason, said: &str) -> Result<()> {
        let run = run.expect_code(1)?;
        let record = self.record()?;
        let failure = record.failure.context("the record has no failure")?;
        ensure!(
            failure.reason == reason,
            "{:?}: {}\n{}",
            failure.reason,
            failure.message,
            run.stderr
        );
        ensure!(failure.message.contains(said), "{}", failure.message);
        ensure!(run.stderr.contains(said), "{}", run.stderr);
        ensure!(!self.scratch().exists(), "the copy is left");
        let metrics = self.metrics()?;
        for line in [
            "postgresql_restore_drill_last_run_success{instance=\"main\"} 0.0".to_owned(),
            format!(
                "postgresql_restore_drill_failure{{instance=\"main\",reason=\"{}\"}} 1.0",
                reason.label()
            ),
        ] {
            ensure!(metrics.lines().any(|found| found == line), "{metrics}");
        }
        ensure!(
            metrics.contains("postgresql_restore_drill_last_success_timestamp")
                == record.last_success_at.is_some(),
            "{metrics}"
        );
        Ok(())
    }

    /// Puts `pg-drill` beside a `backstay` that does what `script` says where a restore is asked for.
    /// In the script `$real` is the true program, and `$to` the target, which stands between `"$@"` and
    /// `$rest`.
    fn with_another_backstay(&self, script: &str) -> Result<Command> {
        let real = testbed::program_directory()?;
        let own = self.testbed.path().join("bin");
        fs::create_dir(&own)?;
        let program = own.join("pg-drill");
        fs::write(&program, fs::read(real.join("pg-drill"))?)?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        let wrapper = own.join("backstay");
        fs::write(
            &wrapper,
            format!(
                "#!/bin/sh\nset -eu\nreal='{}/backstay'\nhere='{}'\n[ \"$1\" = restore ] || exec \"$real\" \"$@\"\n\
                 # restore main --config FILE --to TARGET …\n\
                 to=${{6%Z}}\nhead=\"$1 $2 $3 $4\"\nshift 6\n{script}\n",
                real.display(),
                self.testbed.path().display()
            ),
        )?;
        fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755))?;
        Ok(Command::new(program)
            .arg("--config")
            .arg(self.cluster.settings_path()))
    }

    /// Makes a canary the last transaction that can be restored, so that after every moment there is one.
    fn end_with_a_canary(&self) -> Result<()> {
        self.write_canary()?;
        // What is usually written before a switch is a transaction too.
        let name = self
            .cluster
            .psql("SELECT pg_walfile_name(pg_switch_wal() - 1::numeric)")?;
        self.cluster.wait_archived(&name)
    }

    /// Writes down the canaries after the base backup: commit time and transaction, in order.
    fn list_canaries(&self) -> Result<()> {
        let list = self.cluster.psql_in(
            "backstay_canary",
            "SELECT to_char(pg_xact_commit_timestamp(xmin) AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US') || ' ' || xmin::text
             FROM canary WHERE sequence > 1 ORDER BY sequence",
        )?;
        Ok(fs::write(
            self.testbed.path().join("canaries"),
            list + "\n",
        )?)
    }
}

/// Every file below `directory`, with what tells whether it was written.
fn state_of(directory: &Path) -> Result<BTreeMap<PathBuf, (u64, i64, i64, u64)>> {
    let mut found = BTreeMap::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            let metadata = fs::symlink_metadata(&path)?;
            if metadata.is_dir() {
                directories.push(path.clone());
            }
            found.insert(
                path,
                (
                    metadata.len(),
                    metadata.mtime(),
                    metadata.mtime_nsec(),
                    metadata.ino(),
                ),
            );
        }
    }
    Ok(found)
}

/// Inverts a byte in the middle of a file.
fn damage(path: &Path) -> Result<()> {
    let mut bytes = fs::read(path)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    Ok(fs::write(path, bytes)?)
}

#[test]
fn a_good_backup_passes_and_the_server_in_production_notices_nothing() -> Result<()> {
    let rehearsed = Rehearsed::new()?;
    let cluster = &rehearsed.cluster;
    cluster.psql("SELECT pg_create_physical_replication_slot('standby', true)")?;
    let slots = "SELECT slot_name, restart_lsn, active, wal_status FROM pg_replication_slots";
    let slots_before = cluster.psql(slots)?;
    let connections = |log: &str| log.matches("connection received").count();
    let before = connections(&cluster.log());

    rehearsed.drill()?.expect_success()?;
    assert_eq!(connections(&cluster.log()), before, "somebody connected");
    assert_eq!(cluster.psql(slots)?, slots_before);

    // With the server stopped it passes too, and no file of it has changed.
    cluster.stop(StopMode::Fast)?;
    let places = [
        cluster.data().to_owned(),
        rehearsed.testbed.path().join("tablespace"),
        cluster.archive(),
    ];
    let look = || places.iter().map(|place| state_of(place)).collect();
    let before: Result<Vec<_>> = look();
    // Nor is any file of it read: a restore on a new machine could not.
    fs::set_permissions(cluster.data(), fs::Permissions::from_mode(0o000))?;
    let run = rehearsed.drill();
    fs::set_permissions(cluster.data(), fs::Permissions::from_mode(0o700))?;
    let run = run?.expect_success()?;
    let after: Result<Vec<_>> = look();
    ensure!(before? == after?, "a file of the server was touched");
    ensure!(!rehearsed.scratch().exists(), "the copy is left");

    let record = rehearsed.record()?;
    let findings = &record.findings;
    ensure!(record.failure.is_none(), "{record:?}");
    assert_eq!(record.last_success_at, Some(record.finished_at));
    assert_eq!(findings.checks, Some(2));
    assert_eq!(findings.databases, Some(4));
    assert_eq!(findings.checksums_are_right, Some(true));
    ensure!(
        findings.canary.is_some_and(|last| last >= 1),
        "{findings:?}"
    );
    assert_eq!(findings.relations_are_sound, Some(true));
    ensure!(findings.notes.is_empty(), "{findings:?}");
    ensure!(findings.recovery_seconds.is_some_and(|s| s > 0.0));
    ensure!(findings.target.as_deref() != Some("latest"), "{findings:?}");
    ensure!(run.stderr.contains("is right"), "{}", run.stderr);
    let metrics = rehearsed.metrics()?;
    for name in [
        "last_run_success{instance=\"main\"} 1.0",
        "canary_checked{instance=\"main\"} 1.0",
        "relations_checked{instance=\"main\"} 1.0",
        "recovery_seconds{instance=\"main\"} ",
        "last_success_timestamp{instance=\"main\"} ",
    ] {
        ensure!(
            metrics.contains(&format!("\npostgresql_restore_drill_{name}")),
            "{metrics}"
        );
    }
    ensure!(!metrics.contains("drill_failure"), "{metrics}");
    Ok(())
}

#[test]
fn a_restore_that_is_one_canary_short_or_one_too_far_is_noticed() -> Result<()> {
    let rehearsed = Rehearsed::new()?;
    rehearsed.end_with_a_canary()?;
    rehearsed.list_canaries()?;
    // The last canary up to the target, without it; or the first one, if there is none.
    let drill = rehearsed.with_another_backstay(
        r#"xid=$(awk -v to="$to" '$1 <= to { x = $2 } END { print x }' "$here/canaries")
if [ -n "$xid" ]; then exec "$real" $head --to "xid:$xid" --exclusive "$@"; fi
exec "$real" $head --to "xid:$(awk 'NR == 1 { print $2 }' "$here/canaries")" "$@""#,
    )?;
    rehearsed.fails(Run::of(&drill)?, DrillReason::NotAccurate, "canary")?;

    // The first one after it, which is always there.
    fs::remove_dir_all(rehearsed.testbed.path().join("bin"))?;
    let drill = rehearsed.with_another_backstay(
        r#"xid=$(awk -v to="$to" '$1 > to { print $2; exit }' "$here/canaries")
exec "$real" $head --to "xid:$xid" "$@""#,
    )?;
    rehearsed.fails(Run::of(&drill)?, DrillReason::NotAccurate, "went too far")?;

    // The same detour with the target as it was passes, so it was not the detour.
    fs::remove_dir_all(rehearsed.testbed.path().join("bin"))?;
    let drill = rehearsed.with_another_backstay(r#"exec "$real" $head --to "${to}Z" "$@""#)?;
    Run::of(&drill)?.expect_success()?;
    Ok(())
}

#[test]
fn damage_in_a_base_backup_in_a_wal_file_and_a_missing_wal_file_each_have_their_reason()
-> Result<()> {
    let rehearsed = Rehearsed::new()?;
    rehearsed.drill()?.expect_success()?;
    let success = rehearsed.record()?.last_success_at;

    let segment = rehearsed.segments[1];
    let stored = rehearsed.stored(segment)?;
    let whole = fs::read(&stored)?;
    damage(&stored)?;
    rehearsed.fails(
        rehearsed.drill()?,
        DrillReason::DamagedWal,
        &format!("archived WAL file \"{segment}\""),
    )?;
    // The server has it still, and a restore on a new machine would not.
    fs::remove_file(&stored)?;
    rehearsed.fails(
        rehearsed.drill()?,
        DrillReason::MissingWal,
        &segment.to_string(),
    )?;
    ensure!(rehearsed.record()?.findings.target.is_none());
    // What came after the gap can be restored from a base backup that came after it too. The drill
    // does that, and still tells of the gap.
    let cluster = &rehearsed.cluster;
    cluster
        .run("pg-base-backup", ["--full"])?
        .expect_success()?;
    rehearsed.write_canary()?;
    rehearsed.write_canary()?;
    cluster.archive_everything()?;
    rehearsed.fails(
        rehearsed.drill()?,
        DrillReason::MissingWal,
        &segment.to_string(),
    )?;
    let record = rehearsed.record()?;
    ensure!(record.findings.relations_are_sound.is_some(), "{record:?}");
    assert_eq!(record.last_success_at, success);
    fs::write(&stored, whole)?;

    let backups: Vec<PathBuf> = base_backups::Repository::open(&cluster.backups(), "main")?
        .list()?
        .iter()
        .map(|record| cluster.backups().join(&record.name))
        .collect();
    assert_eq!(backups.len(), 2);
    for backup in &backups {
        damage(&backup.join("global/pg_filenode.map"))?;
    }
    rehearsed.fails(
        rehearsed.drill()?,
        DrillReason::DamagedBaseBackup,
        "global/pg_filenode.map",
    )?;
    for backup in &backups {
        fs::remove_dir_all(backup)?;
    }
    rehearsed.fails(
        rehearsed.drill()?,
        DrillReason::NothingToRestore,
        "nothing can be restored",
    )
}

#[test]
fn a_full_disk_and_a_wrong_answer_each_have_their_reason() -> Result<()> {
    let rehearsed = Rehearsed::new()?;
    rehearsed
        .cluster
        .change_settings(&json!({ "drill": { "minimumFreeBytes": 1_u64 << 60 } }))?;
    rehearsed.fails(rehearsed.drill()?, DrillReason::NoSpace, "MiB free")?;
    rehearsed
        .cluster
        .change_settings(&json!({ "drill": { "minimumFreeBytes": 0 } }))?;
    // The disk is filled by somebody else, while the restore writes.
    let drill = rehearsed.with_another_backstay(
        r#"echo 'could not restore: write "base/1": No space left on device (os error 28)' >&2; exit 1"#,
    )?;
    rehearsed.fails(Run::of(&drill)?, DrillReason::NoSpace, "os error 28")?;

    for (check, said) in [
        (
            json!({ "database": "app", "query": "select count(*) from orders", "expect": "101" }),
            "it returned \"100\" and not \"101\"",
        ),
        (
            json!({ "database": "app", "query": "select i > 1 from orders order by i limit 1" }),
            "it returned false",
        ),
        (
            json!({ "database": "app", "query": "delete from orders returning 1" }),
            "read-only transaction",
        ),
    ] {
        rehearsed
            .cluster
            .change_settings(&json!({ "drill": { "checks": [check] } }))?;
        rehearsed.fails(rehearsed.drill()?, DrillReason::CheckFailed, said)?;
    }
    Ok(())
}

#[test]
fn a_page_with_a_wrong_checksum_is_found() -> Result<()> {
    let rehearsed = Rehearsed::new()?;
    // In the copy, after it was restored: what was backed up is as it was recorded.
    let drill = rehearsed.with_another_backstay(
        r#""$real" $head --to "${to}Z" "$@" > "$here/said"
file=$(find "$here/drill/scratch/cluster/base" -name 1259 | head -n 1)
printf 'damage' | dd of="$file" bs=1 seek=4000 conv=notrunc 2>/dev/null
cat "$here/said""#,
    )?;
    rehearsed.fails(
        Run::of(&drill)?,
        DrillReason::WrongChecksum,
        "checksum verification failed",
    )
}

#[test]
fn an_index_that_was_damaged_before_it_was_backed_up_is_found_by_pg_amcheck() -> Result<()> {
    let rehearsed = Rehearsed::with(ClusterOptions {
        checksums: false,
        ..ClusterOptions::archiving()
    })?;
    rehearsed.drill()?.expect_success()?;
    let record = rehearsed.record()?;
    assert_eq!(record.findings.checksums_are_right, None);
    ensure!(
        record.findings.notes[0].contains("no checksums"),
        "{record:?}"
    );

    let cluster = &rehearsed.cluster;
    let index = cluster.psql_in("app", "SELECT pg_relation_filepath('orders_pkey')")?;
    cluster.stop(StopMode::Fast)?;
    // The first key of the leaf page, which is page 1: 16 bytes of page trailer, then the first entry,
    // whose key is in its second half.
    let path = cluster.data().join(index);
    let mut bytes = fs::read(&path)?;
    let key = 2 * 8192 - 16 - 8;
    assert_eq!(bytes[key..key + 4], 1_i32.to_ne_bytes());
    bytes[key..key + 4].copy_from_slice(&9999_i32.to_ne_bytes());
    fs::write(&path, bytes)?;
    cluster.start()?;
    for backup in fs::read_dir(cluster.backups())? {
        let name = backup?.file_name();
        if !name.to_string_lossy().starts_with('.') {
            fs::remove_dir_all(cluster.backups().join(name))?;
        }
    }
    cluster
        .run("pg-base-backup", ["--full"])?
        .expect_success()?;
    rehearsed.write_canary()?;
    rehearsed.write_canary()?;
    cluster.archive_everything()?;
    rehearsed.fails(
        rehearsed.drill()?,
        DrillReason::DamagedRelation,
        "orders_pkey",
    )
}

#[test]
fn a_snapshot_takes_its_turn_and_one_that_the_archive_does_not_reach_is_passed_over() -> Result<()>
{
    let rehearsed = Rehearsed::new()?;
    let cluster = &rehearsed.cluster;
    // A snapshot of the data is one of no tablespace elsewhere.
    cluster.psql_in("app", "DROP TABLE elsewhere")?;
    cluster.psql("DROP TABLESPACE elsewhere")?;
    cluster.change_settings(&json!({
        "snapshots": { "dataset": "tank/main" },
        "drill": {
            "sources": ["snapshot"],
            "checks": [{ "database": "app", "query": "select count(*) from orders", "expect": "100" }],
        },
    }))?;
    rehearsed.fails(
        rehearsed.drill()?,
        DrillReason::NothingToRestore,
        "is on no dataset whose snapshots can be read",
    )?;

    let home = cluster.data().parent().context("the data has a place")?;
    let snapshots = home.join(".zfs/snapshot");
    let name = cluster.data().file_name().context("the data has a name")?;
    let snapshot = |number: u32| -> Result<PathBuf> {
        let directory = snapshots.join(format!("autosnap_{number}"));
        fs::create_dir_all(&directory)?;
        cluster.copy_at_one_moment(&directory.join(name))?;
        Ok(directory)
    };
    fs::create_dir_all(snapshots.join("autosnap_0"))?;
    rehearsed.fails(
        rehearsed.drill()?,
        DrillReason::NothingToRestore,
        "holds a cluster",
    )?;

    cluster.psql("CHECKPOINT")?;
    snapshot(1)?;
    for _ in 0..2 {
        for _ in 0..3 {
            rehearsed.write_canary()?;
        }
        cluster.archive_everything()?;
    }
    cluster.psql("CHECKPOINT")?;
    rehearsed.write_canary()?;
    snapshot(2)?;
    rehearsed.drill()?.expect_success()?;
    let record = rehearsed.record()?;
    assert_eq!(record.source, settings::DrillSource::Snapshot);
    assert_eq!(record.findings.base_backup, None);
    ensure!(record.findings.canary.is_some(), "{record:?}");
    ensure!(record.findings.checks == Some(1), "{record:?}");
    ensure!(
        record
            .findings
            .notes
            .iter()
            .any(|note| note.contains("autosnap_1")),
        "{record:?}"
    );
    ensure!(!rehearsed.scratch().exists(), "the copy is left");
    Ok(())
}

#[test]
fn off_site_takes_its_turn_and_a_wrong_password_has_its_reason() -> Result<()> {
    let Some(restic) = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .map(|directory| directory.join("restic"))
        .find(|program| program.is_file())
    else {
        testbed::skip!("restic is not installed");
    };
    let rehearsed = Rehearsed::new()?;
    let cluster = &rehearsed.cluster;
    let place = |name: &str| rehearsed.testbed.path().join(name);
    // The unit has the password as a credential, and not the file itself.
    fs::create_dir(place("credentials"))?;
    fs::write(place("credentials/restic-password-nas"), "correct horse\n")?;
    // A unit with several repositories has one for each.
    fs::write(place("credentials/restic-password"), "of another\n")?;
    cluster.change_settings(&json!({
        "drill": { "sources": ["local", "restic"] },
        "restic": [{ "name": "nas", "repository": place("nas"), "passwordFile": "/nonexistent/password" }]
    }))?;
    let run = |arguments: &[&str]| {
        Command::new(&restic)
            .args(arguments)
            .args(["--quiet", "--no-cache"])
            .env("RESTIC_REPOSITORY", place("nas"))
            .env("RESTIC_PASSWORD", "correct horse")
            .run()
    };
    run(&["init"])?;
    for (directory, tag) in [
        (cluster.backups(), "base-backup"),
        (cluster.archive(), "wal-archive"),
    ] {
        let tags = format!("--tag=postgresql,main,{tag}");
        run(&[
            "backup",
            "--host=forge",
            &tags,
            &directory.display().to_string(),
        ])?;
    }
    // What is on this machine is of no use to the drill from here on.
    rehearsed.drill()?.expect_success()?;
    for directory in [cluster.backups(), cluster.archive()] {
        durable_file::move_to_new_name(
            &directory,
            &durable_file::with_suffix(&directory, ".away"),
        )?;
    }
    let drill = |credentials: &str| -> Result<Run> {
        Run::of(
            &cluster
                .program("pg-drill", [] as [&str; 0])?
                .env("CREDENTIALS_DIRECTORY", place(credentials)),
        )
    };
    drill("credentials")?.expect_success()?;
    let record = rehearsed.record()?;
    assert_eq!(record.source, settings::DrillSource::Restic);
    ensure!(record.findings.canary.is_some(), "{record:?}");

    cluster.change_settings(&json!({ "drill": { "sources": ["restic"] } }))?;
    fs::write(place("credentials/restic-password-nas"), "battery staple\n")?;
    rehearsed.fails(
        drill("credentials")?,
        DrillReason::SourceFailed,
        "wrong password",
    )
}

/// Starts a drill that will not end by itself, and waits until the copy answers its last question.
fn stuck(rehearsed: &Rehearsed) -> Result<command::Started> {
    rehearsed
        .cluster
        .change_settings(&json!({ "drill": { "checks": [
        { "database": "app", "query": "select pg_sleep(3600)::text" }
    ] } }))?;
    let drill = rehearsed
        .cluster
        .program("pg-drill", [] as [&str; 0])?
        .start_with_log(&rehearsed.testbed.path().join("drill.log"))?;
    wait_until("the copy is being asked", || {
        let connect = cluster::connect(&rehearsed.scratch().join("s"), 5432, "postgres", "app");
        let Ok(mut client) = connect else {
            return Ok(None);
        };
        let asleep = client.query_opt(
            "select from pg_stat_activity where wait_event = 'PgSleep'",
            &[],
        )?;
        Ok(asleep.map(drop))
    })?;
    Ok(drill)
}

fn signal(drill: &command::Started, signal: Signal) -> Result<()> {
    Ok(kill(Pid::from_raw(i32::try_from(drill.id())?), signal)?)
}

fn server_of_the_copy(rehearsed: &Rehearsed) -> Result<i32> {
    let text = fs::read_to_string(rehearsed.scratch().join("cluster/postmaster.pid"))?;
    Ok(text.lines().next().context("no process")?.trim().parse()?)
}

/// Whether a process does anything still. One that has ended may wait for its parent to look at it.
fn is_alive(process: i32) -> bool {
    fs::read_link(format!("/proc/{process}/cwd")).is_ok()
}

#[test]
fn a_drill_that_is_ended_cleans_up_and_tells() -> Result<()> {
    let rehearsed = Rehearsed::new()?;
    let mut drill = stuck(&rehearsed)?;
    let server = server_of_the_copy(&rehearsed)?;
    let second = rehearsed.drill()?.expect_code(1)?;
    ensure!(
        second
            .stderr
            .contains("another restore drill of this instance is running"),
        "{}",
        second.stderr
    );
    signal(&drill, Signal::SIGTERM)?;
    let status = drill.wait()?;
    assert_eq!(status.code(), Some(1));
    let record = rehearsed.record()?;
    assert_eq!(
        record.failure.context("it did not fail")?.reason,
        DrillReason::Interrupted
    );
    ensure!(!rehearsed.scratch().exists(), "the copy is left");
    ensure!(!is_alive(server), "the server of the copy is left");
    ensure!(
        rehearsed.metrics()?.contains("reason=\"interrupted\""),
        "no metrics"
    );
    Ok(())
}

#[test]
fn what_a_killed_drill_left_is_removed_by_the_next() -> Result<()> {
    let rehearsed = Rehearsed::new()?;
    let mut drill = stuck(&rehearsed)?;
    let server = server_of_the_copy(&rehearsed)?;
    signal(&drill, Signal::SIGKILL)?;
    drill.wait()?;
    ensure!(is_alive(server));
    rehearsed
        .cluster
        .change_settings(&json!({ "drill": { "checks": [] } }))?;
    rehearsed.drill()?.expect_success()?;
    ensure!(!rehearsed.scratch().exists(), "the copy is left");
    ensure!(!is_alive(server), "the server of the first copy is left");
    Ok(())
}

#[test]
fn a_drill_that_takes_too_long_is_ended() -> Result<()> {
    let rehearsed = Rehearsed::new()?;
    rehearsed.cluster.change_settings(&json!({ "drill": {
        "deadlineSeconds": 1,
        "checks": [{ "database": "app", "query": "select pg_sleep(3600)::text" }]
    } }))?;
    rehearsed.fails(
        rehearsed.drill()?,
        DrillReason::Deadline,
        "it was not done after 1 seconds",
    )
}

#[test]
fn a_source_that_is_not_there_and_a_place_that_is_not_mounted_are_told_too() -> Result<()> {
    let rehearsed = Rehearsed::new()?;
    let archive = rehearsed.cluster.archive();
    let away = rehearsed.testbed.path().join("away");
    durable_file::move_to_new_name(&archive, &away)?;
    rehearsed.fails(
        rehearsed.drill()?,
        DrillReason::SourceFailed,
        "archive.json",
    )?;
    durable_file::move_to_new_name(&away, &archive)?;
    durable_file::move_to_new_name(&rehearsed.testbed.path().join("drill"), &away)?;
    rehearsed.fails(
        rehearsed.drill()?,
        DrillReason::NotPossible,
        "is no directory",
    )
}
