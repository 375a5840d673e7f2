//! Each fault turns the check red with a reason of its own, and its cure turns it green again: on a real
//! server, with a real archive and real base backups.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use archive::Archive;
use command::Command;
use serde_json::{Value, json};
use testbed::{Cluster, ClusterOptions, Run, StopMode, Testbed, wait_until};

const FAKETIME: &str = "/usr/bin/faketime";

/// An instance that is well: it archives and has a base backup.
struct Patient {
    /// Ends what the test leaves running.
    testbed: Testbed,
    cluster: Cluster,
}

/// What was found: the check, how bad it is, and what is wrong.
type Finding = (String, String, String);

impl Patient {
    fn new() -> Result<Self> {
        Self::with(&json!({}), &[])
    }

    fn with(health: &Value, configuration: &[&str]) -> Result<Self> {
        let testbed = Testbed::new()?;
        let home = testbed.path().join("main");
        let mut options = ClusterOptions::archiving()
            .segment_size_mib(1)
            .configure("autovacuum = off")
            .settings(&json!({
                "stateDirectory": home.join("state"),
                "metrics": { "directory": home.join("metrics") },
                // The disk of this machine is not the patient.
                "healthCheck": { "minimumFreeBytes": 1, "maximumUsedPercent": 100 },
            }))
            .settings(&json!({ "healthCheck": health }));
        for line in configuration {
            options = options.configure(*line);
        }
        let cluster = testbed.cluster("main", options)?;
        fs::create_dir(home.join("metrics"))?;
        cluster.start()?;
        cluster.psql(
            "CREATE TABLE rows AS SELECT i, md5(i::text) AS t FROM generate_series(1, 2000) i",
        )?;
        cluster
            .run("pg-base-backup", ["--full"])?
            .expect_success()?;
        Ok(Self { testbed, cluster })
    }

    fn check(&self) -> Result<(Option<i32>, Vec<Finding>)> {
        read(&self.cluster.run("pg-healthcheck", ["--json"])?)
    }

    /// Waits until `check` finds what contains `what`, and compares the exit status.
    fn falls_ill(&self, check: &str, severity: &str, what: &str) -> Result<String> {
        falls_ill(&self.cluster, check, severity, what)
    }

    fn is_well_again(&self) -> Result<()> {
        is_well(&self.cluster)
    }

    fn set(&self, name: &str, value: &str) -> Result<()> {
        let value = value.replace('\'', "''");
        self.cluster
            .psql(&format!("ALTER SYSTEM SET {name} = '{value}'"))?;
        self.cluster.psql("SELECT pg_reload_conf()").map(drop)
    }

    fn unset(&self, name: &str) -> Result<()> {
        self.cluster.psql(&format!("ALTER SYSTEM RESET {name}"))?;
        self.cluster.psql("SELECT pg_reload_conf()").map(drop)
    }

    fn thresholds(&self, health: &Value) -> Result<()> {
        self.cluster
            .change_settings(&json!({ "healthCheck": health }))
    }

    fn archived_path(&self, name: &str) -> Result<PathBuf> {
        let archive = Archive::open(&self.cluster.archive(), "main")?;
        let name = wal::WalFileName::parse(name)?;
        archive.path_of(archive.newest_cluster()?, &name)
    }

    fn metrics(&self) -> Result<String> {
        let path = self
            .cluster
            .home()
            .join("metrics/postgresql_health_main.prom");
        fs::read_to_string(&path).with_context(|| format!("read \"{}\"", path.display()))
    }

    fn newest_backup(&self) -> Result<PathBuf> {
        fs::read_dir(self.cluster.backups())?
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.join("backup_manifest").exists())
            .max()
            .context("there is no base backup")
    }
}

fn read(run: &Run) -> Result<(Option<i32>, Vec<Finding>)> {
    let report = run.json()?;
    ensure!(
        report["status"].as_i64() == run.code().map(i64::from),
        "{report:#}"
    );
    let findings = report["findings"]
        .as_array()
        .context("no findings")?
        .iter()
        .map(|finding| {
            let text = |key: &str| finding[key].as_str().unwrap_or_default().to_owned();
            assert!(!text("hint").is_empty(), "{finding:#}");
            (text("check"), text("severity"), text("what"))
        })
        .collect();
    Ok((run.code(), findings))
}

fn falls_ill(cluster: &Cluster, check: &str, severity: &str, what: &str) -> Result<String> {
    let mut last = Vec::new();
    let found = wait_until(&format!("{check}: {what}"), || {
        let (code, findings) = read(&cluster.run("pg-healthcheck", ["--json"])?)?;
        let found = findings
            .iter()
            .find(|finding| finding.0 == check && finding.2.contains(what))
            .cloned();
        last = findings;
        let Some(found) = found else {
            std::thread::sleep(Duration::from_millis(200));
            return Ok(None);
        };
        ensure!(found.1 == severity, "{found:?}");
        let status = if severity == "critical" { 2 } else { 1 };
        ensure!(code >= Some(status), "status {code:?}: {last:?}");
        Ok(Some(found.2))
    });
    found.with_context(|| format!("found at last: {last:#?}"))
}

fn is_well(cluster: &Cluster) -> Result<()> {
    let mut last = Vec::new();
    wait_until("the instance is well", || {
        let (code, findings) = read(&cluster.run("pg-healthcheck", ["--json"])?)?;
        ensure!(
            !findings.iter().any(|finding| finding.1 == "unknown"),
            "{findings:#?}"
        );
        last = findings;
        if code != Some(0) {
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok((code == Some(0)).then_some(()))
    })
    .with_context(|| format!("found at last: {last:#?}"))
}

#[test]
fn h12_an_instance_in_use_and_in_the_middle_of_a_base_backup_is_well() -> Result<()> {
    let patient = Patient::new()?;
    let run = patient
        .cluster
        .run("pg-healthcheck", [] as [&str; 0])?
        .expect_success()?;
    ensure!(
        run.stdout == "ok: instance main: 15 checks, nothing is wrong\n",
        "{}{}",
        run.stdout,
        run.stderr
    );
    ensure!(run.stderr.is_empty(), "{}", run.stderr);
    // KiB per second: it takes some seconds.
    patient
        .cluster
        .change_settings(&json!({ "baseBackup": { "maximumRateKibibytesPerSecond": 8 << 10 } }))?;
    std::thread::scope(|scope| {
        let backup = scope.spawn(|| patient.cluster.run("pg-base-backup", ["--full"]));
        wait_until("the base backup streams", || {
            let phase =
                "SELECT count(*) FROM pg_stat_progress_basebackup WHERE phase LIKE 'streaming%'";
            Ok((patient.cluster.psql(phase)? == "1").then_some(()))
        })?;
        let (code, findings) = patient.check()?;
        ensure!(code == Some(0), "{findings:#?}");
        match backup.join() {
            Ok(run) => run?.expect_success().map(drop),
            Err(_) => bail!("the base backup panicked"),
        }
    })?;
    patient.is_well_again()
}

#[test]
fn the_metrics_are_those_of_the_guide_and_say_what_the_check_says() -> Result<()> {
    let patient = Patient::new()?;
    patient.cluster.archive_everything()?;
    patient.is_well_again()?;
    let well = patient.metrics()?;
    for line in [
        "postgresql_health{instance=\"main\"} 1.0",
        "postgresql_health_status{instance=\"main\"} 0.0",
        "postgresql_health_check_status{instance=\"main\",check=\"server\"} 0.0",
        "postgresql_up{instance=\"main\"} 1.0",
        "postgresql_in_recovery{instance=\"main\"} 0.0",
        "postgresql_wal_archive_missing_files{instance=\"main\"} 0.0",
    ] {
        ensure!(well.lines().any(|have| have == line), "{line} in\n{well}");
    }
    let archive = Archive::open(&patient.cluster.archive(), "main")?;
    let files = archive.list(archive.newest_cluster()?)?.files.len();
    let present = format!("postgresql_wal_archive_files_present{{instance=\"main\"}} {files}.0");
    ensure!(well.contains(&present), "{present} in\n{well}");
    for name in [
        "postgresql_health_last_check_timestamp",
        "postgresql_wal_archive_last_success_timestamp",
        "postgresql_recovery_window_start_timestamp",
    ] {
        let value = well
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{name}{{instance=\"main\"}} ")))
            .with_context(|| format!("{name} in\n{well}"))?;
        let age = patient.cluster.psql(&format!(
            "SELECT extract(epoch from clock_timestamp()) - {value} BETWEEN 0 AND 600"
        ))?;
        ensure!(age == "t", "{name} is {value}");
    }
    patient.cluster.stop(StopMode::Fast)?;
    patient.falls_ill("server", "critical", "connect to the server")?;
    let down = patient.metrics()?;
    for line in [
        "postgresql_health{instance=\"main\"} 0.0",
        "postgresql_health_status{instance=\"main\"} 2.0",
        "postgresql_up{instance=\"main\"} 0.0",
    ] {
        ensure!(down.lines().any(|have| have == line), "{line} in\n{down}");
    }
    patient.cluster.start()?;
    patient.is_well_again()
}

#[test]
fn h8_metrics_and_memory_that_cannot_be_written_are_warnings() -> Result<()> {
    let patient = Patient::new()?;
    let metrics = patient.cluster.home().join("metrics");
    let state = patient.cluster.home().join("state");
    patient.is_well_again()?;
    for directory in [&metrics, &state] {
        fs::set_permissions(directory, Permissions::from_mode(0o500))?;
    }
    let run = patient.cluster.run("pg-healthcheck", ["--json"])?;
    for directory in [&metrics, &state] {
        fs::set_permissions(directory, Permissions::from_mode(0o700))?;
    }
    ensure!(run.code() == Some(0), "{}{}", run.stdout, run.stderr);
    for warning in [
        "could not write the metrics: create ",
        "could not remember what this check saw: create ",
    ] {
        ensure!(run.stderr.contains(warning), "{}", run.stderr);
    }
    fs::remove_dir_all(&metrics)?;
    let run = patient.cluster.run("pg-healthcheck", ["--json"])?;
    ensure!(run.code() == Some(0), "{}{}", run.stdout, run.stderr);
    ensure!(
        run.stderr.contains("could not write the metrics: list "),
        "{}",
        run.stderr
    );
    Ok(())
}

#[test]
fn h14_what_cannot_be_asked_for_ends_with_3() -> Result<()> {
    for arguments in [
        &["--no-such-flag"][..],
        &["--config", "/nonexistent/settings.json"],
    ] {
        testbed::run("pg-healthcheck", arguments)?.expect_code(3)?;
    }
    let patient = Patient::new()?;
    patient
        .cluster
        .run("pg-healthcheck", ["--check-config"])?
        .expect_success()?;
    Ok(())
}

#[test]
fn h1_an_archive_command_that_fails_is_red() -> Result<()> {
    let patient = Patient::new()?;
    patient.set("archive_command", "exit 1")?;
    let name = patient.cluster.switch_wal()?;
    let what = patient.falls_ill("archiver", "critical", "archive_command fails")?;
    ensure!(what.contains(&name), "{what}");
    patient.unset("archive_command")?;
    patient.cluster.wait_archived(&name)?;
    patient.is_well_again()
}

#[test]
fn h1_an_archiver_that_dies_is_red_although_no_failure_is_counted() -> Result<()> {
    dies_again_and_again("/nonexistent/program %p", |_| Ok(()))
}

#[test]
fn h1_an_archiver_whose_call_is_killed_is_red_although_no_failure_is_counted() -> Result<()> {
    // By a signal, as a sandbox kills what makes a system call that it forbids.
    dies_again_and_again("kill -SYS $$", |patient| {
        wait_until("a call was killed", || {
            let log = patient.cluster.log();
            Ok(log.contains("terminated by signal 31").then_some(()))
        })
    })
}

/// Has the archiver die of its command, as `seen` can see, and heals it.
fn dies_again_and_again(
    archive_command: &str,
    seen: impl Fn(&Patient) -> Result<()>,
) -> Result<()> {
    let patient = Patient::new()?;
    patient.set("archive_command", archive_command)?;
    let name = patient.cluster.switch_wal()?;
    seen(&patient)?;
    patient.falls_ill("archiver", "critical", "the archiver dies again and again")?;
    let counted = patient
        .cluster
        .psql("SELECT failed_count FROM pg_stat_archiver")?;
    ensure!(counted == "0", "{counted} failures were counted");
    patient.unset("archive_command")?;
    patient.cluster.wait_archived(&name)?;
    patient.is_well_again()
}

#[test]
fn h1_an_archive_command_that_hangs_is_red() -> Result<()> {
    let patient = Patient::new()?;
    patient
        .cluster
        .change_settings(&json!({ "archive": { "archiveDeadlineSeconds": 1 } }))?;
    // It hangs until the test lets it go, or is over.
    let gate = patient.testbed.path().join("gate");
    fs::write(&gate, "")?;
    patient.set(
        "archive_command",
        &format!(
            "while test -e {}; do sleep 0.1; done; exit 1",
            gate.display()
        ),
    )?;
    let name = patient.cluster.switch_wal()?;
    let what = patient.falls_ill("archiver", "critical", "archive_command hangs");
    fs::remove_file(&gate)?;
    ensure!(what?.contains(&name));
    patient.unset("archive_command")?;
    patient.cluster.wait_archived(&name)?;
    patient.is_well_again()
}

#[test]
fn h1_an_archive_command_that_only_pretends_is_red_and_the_file_can_be_saved() -> Result<()> {
    let patient = Patient::new()?;
    patient.set("archive_command", "/bin/true")?;
    let lost = patient.cluster.archive_everything()?;
    let what = patient.falls_ill("archiver", "critical", "counts")?;
    ensure!(
        what == format!(
            "the server counts \"{lost}\" as archived, and the archive does not hold it"
        ),
        "{what}"
    );
    patient.unset("archive_command")?;
    patient.cluster.archive_everything()?;
    // The archiver works again, and what it lost is still missing.
    let what = patient.falls_ill("continuity", "critical", "the archive has a gap")?;
    ensure!(what.contains(&lost), "{what}");
    patient
        .cluster
        .run("pg-archive-wal", [format!("pg_wal/{lost}")])?
        .expect_success()?;
    patient.is_well_again()
}

#[test]
fn h1_archiving_that_is_switched_off_is_red() -> Result<()> {
    let patient = Patient::new()?;
    patient.set("archive_command", "")?;
    patient.falls_ill("archiver", "critical", "archive_command is empty")?;
    patient.unset("archive_command")?;
    patient.is_well_again()?;
    patient.set("archive_mode", "off")?;
    patient.cluster.restart()?;
    patient.falls_ill("archiver", "critical", "archive_mode is off")?;
    patient.unset("archive_mode")?;
    patient.cluster.restart()?;
    patient.is_well_again()
}

#[test]
fn h2_a_file_that_is_missing_in_the_archive_is_named() -> Result<()> {
    let patient = Patient::new()?;
    let mut names = Vec::new();
    for _ in 0..5 {
        names.push(patient.cluster.switch_wal()?);
    }
    patient.cluster.archive_everything()?;
    patient.is_well_again()?;
    let path = patient.archived_path(&names[2])?;
    let aside = patient.testbed.path().join("aside");
    fs::hard_link(&path, &aside)?;
    fs::remove_file(&path)?;
    let what = patient.falls_ill("continuity", "critical", "gap")?;
    ensure!(
        what == format!("the archive has a gap: \"{}\" is missing", names[2]),
        "{what}"
    );
    // A base backup behind it makes the present safe again; the past stays lost.
    patient
        .cluster
        .run("pg-base-backup", ["--full"])?
        .expect_success()?;
    patient.falls_ill("continuity", "warning", &names[2])?;
    fs::hard_link(&aside, &path)?;
    patient.is_well_again()
}

#[test]
fn an_archive_or_a_base_backup_directory_that_is_gone_is_red() -> Result<()> {
    let patient = Patient::new()?;
    for (check, directory) in [
        ("archive", patient.cluster.archive()),
        ("base-backup", patient.cluster.backups()),
    ] {
        // As an unmounted dataset looks.
        let permissions = fs::metadata(&directory)?.permissions();
        fs::set_permissions(&directory, Permissions::from_mode(0o000))?;
        let what = patient.falls_ill(check, "critical", "Permission denied");
        fs::set_permissions(&directory, permissions)?;
        what?;
        patient.is_well_again()?;
    }
    Ok(())
}

#[test]
fn h3_a_base_backup_that_is_gone_or_changed_is_red() -> Result<()> {
    let patient = Patient::new()?;
    let backup = patient.newest_backup()?;
    let aside = patient.testbed.path().join("aside");
    let file = backup.join("global/pg_control");
    fs::hard_link(&file, &aside)?;
    fs::remove_file(&file)?;
    patient.falls_ill("base-backup", "critical", "is not what it was")?;
    patient.falls_ill("base-backup", "critical", "nothing can be restored")?;
    fs::hard_link(&aside, &file)?;
    patient.is_well_again()?;

    let record = patient.cluster.backups().join(".backstay").join(format!(
        "{}.json",
        backup.file_name().context("a name")?.to_string_lossy()
    ));
    let text = fs::read(&record)?;
    fs::remove_file(&record)?;
    patient.falls_ill("base-backup", "critical", "there is no good base backup")?;
    fs::write(&record, text)?;
    patient.is_well_again()
}

#[test]
fn h3_a_byte_that_flips_in_a_base_backup_is_red_after_the_next_drill() -> Result<()> {
    let patient = Patient::new()?;
    patient.cluster.change_settings(&json!({
        "drill": { "directory": patient.testbed.path().join("drill"), "minimumFreeBytes": 1 },
    }))?;
    fs::create_dir(patient.testbed.path().join("drill"))?;
    patient.cluster.archive_everything()?;
    let drill = || patient.cluster.run("pg-drill", [] as [&str; 0]);
    drill()?.expect_success()?;
    patient.is_well_again()?;
    let file = patient.newest_backup()?.join("PG_VERSION");
    let text = fs::read(&file)?;
    let mut flipped = text.clone();
    flipped[0] ^= 1;
    fs::write(&file, flipped)?;
    // Its size is what it was, and reading every file is what drills are for.
    patient.is_well_again()?;
    drill()?.expect_code(1)?;
    let what = patient.falls_ill("drill", "critical", "the last restore drill failed")?;
    ensure!(what.contains("PG_VERSION"), "{what}");
    fs::write(&file, text)?;
    drill()?.expect_success()?;
    patient.is_well_again()
}

#[test]
fn h12_a_quiet_day_stays_green() -> Result<()> {
    if !Path::new(FAKETIME).exists() {
        testbed::skip!("faketime is not installed");
    }
    let patient = Patient::with(
        &json!({ "maximumBaseBackupAgeSeconds": 30 * 3600 }),
        &["archive_timeout = '5min'"],
    )?;
    let cluster = &patient.cluster;
    cluster.archive_everything()?;
    for clock in ["+0h", "+1h", "+6h", "+12h", "+24h"] {
        let command = cluster
            .program("pg-healthcheck", ["--json"])?
            .wrapped_in(FAKETIME, ["-f", clock]);
        let (code, findings) = read(&Run::of(&command)?)?;
        ensure!(code == Some(0), "{clock}: {findings:#?}");
    }
    Ok(())
}

#[test]
fn h12_an_instance_that_is_being_restored_stays_well() -> Result<()> {
    let patient = Patient::with(&json!({}), &["hot_standby = on"])?;
    let cluster = &patient.cluster;
    for number in 0..3 {
        cluster.psql(&format!("INSERT INTO rows VALUES ({number}, 'x')"))?;
        cluster.archive_everything()?;
    }
    cluster.stop(StopMode::Fast)?;
    let gate = patient.testbed.path().join("gate");
    fs::create_dir(&gate)?;
    fs::remove_dir_all(cluster.data())?;
    Command::new("/bin/cp")
        .arg("-a")
        .arg(patient.newest_backup()?)
        .arg(cluster.data())
        .run()?;
    fs::set_permissions(cluster.data(), Permissions::from_mode(0o700))?;
    fs::write(cluster.data().join("recovery.signal"), "")?;
    // Each segment comes when it is let through, and is replayed before the next one is asked for.
    cluster.configure("recovery_prefetch = off")?;
    cluster.configure(&format!(
        "restore_command = 'case %f in *.history) ;; *) touch {gate}/%f; until test -e {gate}/%f.go || test -e {gate}/all; do sleep 0.05; done ;; esac; {fetch}'",
        gate = gate.display(),
        fetch = cluster.program("pg-restore-wal", ["%f", "%p"])?.line(),
    ))?;
    let stays_well = |when: &str| -> Result<()> {
        let (code, findings) = patient.check()?;
        ensure!(code == Some(0), "{when}: {findings:#?}");
        Ok(())
    };
    std::thread::scope(|scope| {
        let start = scope.spawn(|| cluster.start());
        let outcome = (|| {
            // Nobody is let in yet.
            wait_until("the server asks for the first segment", || {
                Ok(fs::read_dir(&gate)?.next().map(drop))
            })?;
            ensure!(cluster.psql("SELECT 1").is_err());
            stays_well("before it is consistent")?;
            // Segment for segment, until somebody is; each has its time to be replayed.
            let mut released: Option<Instant> = None;
            wait_until("the server lets somebody in", || {
                if cluster.psql("SELECT 1").is_ok() {
                    return Ok(Some(()));
                }
                if released.is_none_or(|at| at.elapsed() > Duration::from_secs(10)) {
                    released = Some(Instant::now());
                    for entry in fs::read_dir(&gate)? {
                        let name = entry?.file_name();
                        let name = name.to_string_lossy();
                        if !name.ends_with(".go") {
                            fs::write(gate.join(format!("{name}.go")), "")?;
                        }
                    }
                }
                std::thread::sleep(Duration::from_millis(100));
                Ok(None)
            })?;
            assert_eq!(cluster.psql("SELECT pg_is_in_recovery()")?, "t");
            stays_well("while it replays")
        })();
        // Whatever came of it, nothing waits any more.
        fs::write(gate.join("all"), "")?;
        match start.join() {
            Ok(started) => started?,
            Err(_) => bail!("the start panicked"),
        }
        outcome
    })?;
    cluster.wait_until_promoted()?;
    assert_eq!(
        cluster.psql("SELECT count(*) FROM rows WHERE t = 'x'")?,
        "3"
    );
    patient.is_well_again()
}

#[test]
fn h13_a_server_that_does_not_sync_is_red() -> Result<()> {
    let patient = Patient::new()?;
    patient.set("fsync", "off")?;
    patient.falls_ill("durability", "critical", "fsync is off")?;
    patient.unset("fsync")?;
    patient.is_well_again()
}

#[test]
fn h3_h10_age_is_told_by_the_clock_and_a_clock_that_is_set_back_is_no_fault() -> Result<()> {
    if !Path::new(FAKETIME).exists() {
        testbed::skip!("faketime is not installed");
    }
    let patient = Patient::with(&json!({ "maximumBaseBackupAgeSeconds": 30 * 3600 }), &[])?;
    let at = |clock: &str| -> Result<(Option<i32>, Vec<Finding>)> {
        let command = patient
            .cluster
            .program("pg-healthcheck", ["--json"])?
            .wrapped_in(FAKETIME, ["-f", clock]);
        read(&Run::of(&command)?)
    };
    let (code, findings) = at("+40h")?;
    ensure!(code == Some(2), "{findings:#?}");
    let [(check, _, what)] = findings.as_slice() else {
        bail!("{findings:#?}");
    };
    ensure!(
        check == "base-backup" && what.contains("40 hours old, and 30 hours are allowed"),
        "{what}"
    );
    let (code, findings) = at("-40h")?;
    ensure!(code == Some(0), "{findings:#?}");
    patient.is_well_again()
}

#[test]
fn h4_a_disk_with_too_little_room_is_red() -> Result<()> {
    let patient = Patient::new()?;
    patient.thresholds(&json!({ "minimumFreeBytes": 1_u64 << 60 }))?;
    patient.falls_ill(
        "storage",
        "critical",
        "the file system of archive, base-backups, data has",
    )?;
    patient.thresholds(&json!({ "minimumFreeBytes": 1, "maximumUsedPercent": 1 }))?;
    patient.falls_ill("storage", "warning", "more than 1 per cent full")?;
    patient.thresholds(&json!({ "maximumUsedPercent": 100 }))?;
    patient.is_well_again()
}

#[test]
fn h5_a_slot_that_nobody_uses_is_red_with_what_it_keeps() -> Result<()> {
    let patient = Patient::with(&json!({ "maximumSlotBytes": 2 << 20 }), &[])?;
    patient
        .cluster
        .psql("SELECT pg_create_physical_replication_slot('left_behind', true)")?;
    patient.is_well_again()?;
    for _ in 0..4 {
        patient.cluster.switch_wal()?;
    }
    patient.cluster.archive_everything()?;
    let what = patient.falls_ill(
        "slots",
        "critical",
        "nobody uses replication slot \"left_behind\"",
    )?;
    ensure!(what.contains(" KiB of WAL for it"), "{what}");
    let metrics = patient.metrics()?;
    ensure!(
        metrics.contains(
            "postgresql_replication_slot_retained_bytes{instance=\"main\",slot=\"left_behind\"} "
        ),
        "{metrics}"
    );
    patient
        .cluster
        .psql("SELECT pg_drop_replication_slot('left_behind')")?;
    patient.is_well_again()
}

#[test]
fn h12_a_standby_that_is_missing_paused_or_behind_is_red_and_one_that_keeps_up_is_not() -> Result<()>
{
    let patient = Patient::with(
        &json!({ "checkReplicationLag": true, "maximumReplicationLagSeconds": 1 }),
        &["hot_standby = on"],
    )?;
    let primary = &patient.cluster;
    patient.falls_ill("replication", "critical", "no standby is connected")?;

    let data = patient.testbed.path().join("standby/data");
    fs::create_dir(patient.testbed.path().join("standby"))?;
    primary
        .client_program("pg_basebackup")
        .args(["--write-recovery-conf", "--checkpoint=fast", "--pgdata"])
        .arg(&data)
        .run()?;
    fs::write(data.join("pg_hba.conf"), "local all all trust\n")?;
    let settings = patient.testbed.path().join("standby/settings.json");
    fs::write(&settings, fs::read(primary.settings_path())?)?;
    let standby = patient.testbed.adopt(&data, &settings)?;
    standby.change_settings(&json!({
        "postgresql": { "dataDirectory": data, "socketDirectory": standby.socket() },
        "stateDirectory": patient.testbed.path().join("standby/state"),
        "metrics": null,
    }))?;
    standby.start()?;
    patient.is_well_again()?;
    is_well(&standby)?;

    // How old the newest replayed commit is can be told once there is one.
    primary.psql("INSERT INTO rows VALUES (-2, 'x')")?;
    wait_until("the standby has the row", || {
        let rows = standby.psql("SELECT count(*) FROM rows WHERE i = -2")?;
        Ok((rows == "1").then_some(()))
    })?;
    standby.psql("SELECT pg_wal_replay_pause()")?;
    falls_ill(
        &standby,
        "server",
        "critical",
        "has stopped replaying WAL and waits",
    )?;
    primary.psql("INSERT INTO rows VALUES (-1, 'x')")?;
    patient.falls_ill("replication", "critical", "standby \"walreceiver\" is ")?;
    falls_ill(&standby, "replication", "critical", "this standby is ")?;
    standby.psql("SELECT pg_wal_replay_resume()")?;
    patient.is_well_again()?;
    is_well(&standby)
}

#[test]
fn damaged_pages_that_were_met_are_red() -> Result<()> {
    let patient = Patient::new()?;
    let file = patient
        .cluster
        .psql("SELECT pg_relation_filepath('rows')")?;
    patient.cluster.stop(StopMode::Fast)?;
    let path = patient.cluster.data().join(file);
    let mut bytes = fs::read(&path)?;
    for byte in &mut bytes[4000..4100] {
        *byte ^= 0xFF;
    }
    fs::write(&path, bytes)?;
    patient.cluster.start()?;
    ensure!(patient.cluster.psql("SELECT count(*) FROM rows").is_err());
    patient.falls_ill(
        "checksums",
        "critical",
        "1 damaged pages were met in database \"postgres\"",
    )?;
    patient.cluster.psql("DROP TABLE rows")?;
    patient.cluster.psql("SELECT pg_stat_reset()")?;
    patient.is_well_again()
}

#[test]
fn collations_that_have_changed_are_red_with_what_to_type_and_typing_it_helps() -> Result<()> {
    let patient = Patient::new()?;
    let cluster = &patient.cluster;
    let icu = "SELECT count(*) FROM pg_collation WHERE collname = 'en-x-icu'";
    if cluster.psql(icu)? == "0" {
        testbed::skip!("this PostgreSQL was built without ICU");
    }
    cluster.psql("CREATE DATABASE \"the app\"")?;
    let app = |sql: &str| cluster.psql_in("the app", sql);
    app("CREATE TABLE names (name text COLLATE \"en-x-icu\" PRIMARY KEY, plain text UNIQUE)")?;
    app("CREATE INDEX \"By Name\" ON names (lower(name) COLLATE \"en-x-icu\")")?;
    patient.is_well_again()?;
    app("UPDATE pg_collation SET collversion = '1' WHERE collname = 'en-x-icu'")?;
    let what = patient.falls_ill(
        "collations",
        "critical",
        "database \"the app\" has 2 indexes",
    )?;
    ensure!(
        what.contains("pg_catalog.\"en-x-icu\", version 1 when it was built"),
        "{what}"
    );
    let commands = commands(cluster)?;
    ensure!(
        commands
            == [
                "reindex index concurrently public.\"By Name\";",
                "reindex index concurrently public.names_pkey;",
                "alter collation pg_catalog.\"en-x-icu\" refresh version;",
            ],
        "{commands:#?}"
    );
    for command in commands {
        app(&command)?;
    }
    patient.is_well_again()
}

#[test]
fn a_database_whose_own_collation_has_changed_is_red_with_every_index_of_text() -> Result<()> {
    let patient = Patient::new()?;
    let cluster = &patient.cluster;
    if cluster.server().major() < 15 {
        testbed::skip!(
            "PostgreSQL {} does not note the version",
            cluster.server().major()
        );
    }
    cluster.psql("CREATE DATABASE app TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'de'")?;
    let app = |sql: &str| cluster.psql_in("app", sql);
    app(
        "CREATE TABLE names (id int PRIMARY KEY, name text UNIQUE, other text COLLATE \"C\" UNIQUE)",
    )?;
    patient.is_well_again()?;
    cluster.psql("UPDATE pg_database SET datcollversion = '1' WHERE datname = 'app'")?;
    patient.falls_ill("collations", "critical", "database \"app\" has 1 indexes")?;
    let commands = commands(cluster)?;
    ensure!(
        commands
            == [
                "reindex index concurrently public.names_name_key;",
                "alter database app refresh collation version;",
            ],
        "{commands:#?}"
    );
    for command in commands {
        app(&command)?;
    }
    patient.is_well_again()
}

/// What the check says to type.
fn commands(cluster: &Cluster) -> Result<Vec<String>> {
    let report = cluster.run("pg-healthcheck", ["--json"])?.json()?;
    Ok(report["findings"][0]["commands"]
        .as_array()
        .context("no commands")?
        .iter()
        .filter_map(|command| command.as_str().map(ToOwned::to_owned))
        .collect())
}

#[test]
fn a_transaction_that_is_open_for_too_long_is_a_warning_also_when_it_is_only_prepared() -> Result<()>
{
    let patient = Patient::with(
        &json!({ "maximumTransactionSeconds": 1 }),
        &["max_prepared_transactions = 2"],
    )?;
    let mut client = patient.cluster.connect()?;
    client.batch_execute("BEGIN; SELECT 1")?;
    patient.falls_ill(
        "transactions",
        "warning",
        "of role \"postgres\" in database \"postgres\" (idle in transaction) has been open",
    )?;
    client.batch_execute("INSERT INTO rows VALUES (-1, 'x'); PREPARE TRANSACTION 'left behind'")?;
    patient.falls_ill(
        "transactions",
        "warning",
        "prepared transaction \"left behind\"",
    )?;
    client.batch_execute("ROLLBACK PREPARED 'left behind'")?;
    patient.is_well_again()
}

#[test]
fn deadlocks_are_a_warning_for_an_hour() -> Result<()> {
    if !Path::new(FAKETIME).exists() {
        testbed::skip!("faketime is not installed");
    }
    let patient = Patient::with(
        &json!({ "maximumDeadlocksPerHour": 0 }),
        &["deadlock_timeout = '50ms'"],
    )?;
    patient.is_well_again()?;
    let cluster = &patient.cluster;
    let lock = |first: i32, second: i32| -> Result<bool> {
        let mut client = cluster.connect()?;
        let take = |key: i32| format!("SELECT pg_advisory_xact_lock({key})");
        client.batch_execute(&format!("BEGIN; {}", take(first)))?;
        wait_until("both hold their first lock", || {
            let held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'";
            let held: u32 = cluster.psql(held)?.parse()?;
            Ok((held >= 2).then_some(()))
        })?;
        let is_victim = client.batch_execute(&take(second)).is_err();
        client.batch_execute("ROLLBACK")?;
        Ok(is_victim)
    };
    let victims = std::thread::scope(|scope| {
        let other = scope.spawn(|| lock(2, 1));
        let own = lock(1, 2);
        let other = other.join().unwrap_or_else(|_| bail!("a thread panicked"));
        Ok::<_, anyhow::Error>([own?, other?])
    })?;
    ensure!(victims.contains(&true), "nobody was chosen as the victim");
    patient.falls_ill(
        "deadlocks",
        "warning",
        "there were 1 deadlocks within 60 minutes",
    )?;
    let later = cluster
        .program("pg-healthcheck", ["--json"])?
        .wrapped_in(FAKETIME, ["-f", "+2h"]);
    let (code, findings) = read(&Run::of(&later)?)?;
    ensure!(code == Some(0), "{findings:#?}");
    Ok(())
}

#[test]
fn transaction_ids_that_grow_old_are_a_warning_until_they_are_frozen() -> Result<()> {
    let patient = Patient::with(&json!({ "maximumTransactionIdAge": 300 }), &[])?;
    let cluster = &patient.cluster;
    let mut client = cluster.connect()?;
    for _ in 0..400 {
        client.batch_execute("SELECT pg_current_xact_id()")?;
    }
    patient.falls_ill(
        "transaction-ids",
        "warning",
        "the oldest transaction id of database \"postgres\"",
    )?;
    cluster.psql("ALTER DATABASE template0 ALLOW_CONNECTIONS true")?;
    cluster
        .client_program("vacuumdb")
        .args(["--all", "--freeze", "--quiet"])
        .run()?;
    cluster.psql("ALTER DATABASE template0 ALLOW_CONNECTIONS false")?;
    patient.is_well_again()
}

#[test]
fn connections_that_run_out_are_red() -> Result<()> {
    let patient = Patient::with(
        &json!({ "maximumConnectionsPercent": 10 }),
        &["max_connections = 20"],
    )?;
    patient.is_well_again()?;
    let held = (0..3)
        .map(|_| patient.cluster.connect())
        .collect::<Result<Vec<_>>>()?;
    patient.falls_ill("connections", "critical", " of 20 connections are in use")?;
    drop(held);
    patient.is_well_again()
}

#[test]
fn h13_a_directory_that_has_to_be_a_mount_point_and_is_none_is_red() -> Result<()> {
    let patient = Patient::new()?;
    let mounts = |paths: &Value| {
        patient
            .cluster
            .change_settings(&json!({ "postgresql": { "requiredMounts": paths } }))
    };
    mounts(&json!(["/proc", patient.cluster.home()]))?;
    let what = patient.falls_ill("mounts", "critical", "nothing is mounted at")?;
    ensure!(
        what.contains(&patient.cluster.home().display().to_string()),
        "{what}"
    );
    mounts(&json!(["/proc", "/nonexistent/mount"]))?;
    patient.falls_ill("mounts", "critical", "examine \"/nonexistent/mount\"")?;
    mounts(&json!(["/proc"]))?;
    patient.is_well_again()
}

#[test]
fn the_archive_of_a_server_that_waits_longer_than_its_objective_is_red() -> Result<()> {
    if !Path::new(FAKETIME).exists() {
        testbed::skip!("faketime is not installed");
    }
    let patient = Patient::new()?;
    let cluster = &patient.cluster;
    cluster.change_settings(&json!({ "objectives": { "rpoSeconds": 600 } }))?;
    patient.falls_ill("freshness", "warning", "archive_timeout is 0")?;
    patient.set("archive_timeout", "1h")?;
    patient.is_well_again()?;
    cluster.psql("INSERT INTO rows VALUES (-1, 'x')")?;
    patient.is_well_again()?;
    let later = |clock: &str| -> Result<(Option<i32>, Vec<Finding>)> {
        let command = cluster
            .program("pg-healthcheck", ["--json"])?
            .wrapped_in(FAKETIME, ["-f", clock]);
        read(&Run::of(&command)?)
    };
    let (code, findings) = later("+20m")?;
    ensure!(
        code == Some(2)
            && findings.iter().any(|(check, _, what)| check == "freshness"
                && what.ends_with(
                    "is not in the archive; the objective is 600 seconds (objectives.rpoSeconds)"
                )),
        "{findings:#?}"
    );
    cluster.archive_everything()?;
    let (code, findings) = later("+21m")?;
    ensure!(code == Some(0), "{findings:#?}");
    Ok(())
}

#[test]
fn a_copy_off_site_that_is_behind_is_red_and_well_again_when_it_has_caught_up() -> Result<()> {
    let patient = Patient::new()?;
    let cluster = &patient.cluster;
    cluster.change_settings(&json!({
        "restic": [{
            "name": "nas",
            "repository": "/nowhere",
            "passwordFile": "/nowhere/password",
            "jobs": [{ "job": "wal", "unit": "restic-backups-postgresql-main-wal.service" }],
        }],
        "healthCheck": { "maximumOffsiteLagSeconds": 1 },
    }))?;
    let copy = || -> Result<()> {
        for when in ["--begin", "--end"] {
            cluster
                .run(
                    "pg-off-site",
                    ["--repository", "nas", "--content", "wal", when],
                )?
                .expect_success()?;
        }
        Ok(())
    };
    cluster.archive_everything()?;
    copy()?;
    patient.is_well_again()?;
    cluster.psql("INSERT INTO rows VALUES (0, 'not copied')")?;
    patient.falls_ill(
        "off-site",
        "critical",
        "in the repository \"nas\", changes of the last",
    )?;
    // In the archive it is not off-site yet.
    cluster.archive_everything()?;
    patient.falls_ill("off-site", "critical", "changes of the last")?;
    ensure!(
        patient
            .metrics()?
            .contains("postgresql_offsite_exposure_seconds{instance=\"main\",repository=\"nas\"} "),
        "{}",
        patient.metrics()?
    );
    copy()?;
    patient.is_well_again()?;

    let note = cluster
        .settings()?
        .state_directory()
        .join("off-site-wal-nas.json");
    fs::write(&note, "{}")?;
    patient.falls_ill("off-site", "unknown", "off-site-wal-nas.json")?;
    Ok(())
}
