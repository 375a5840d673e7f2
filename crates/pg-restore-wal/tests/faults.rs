//! R1 to R5: whatever is wrong, `pg-restore-wal` either hands over the very file that was archived,
//! or proves that it is absent, or ends with a status that stops recovery.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use archive::Archive;
use testbed::{Cluster, ClusterOptions, Run, StopMode, Testbed, strace};
use wal::{SegmentName, WalFileName};

const STOP: i32 = 200;
const ABSENT: i32 = 1;

/// A stopped cluster whose WAL is archived.
struct Bench {
    testbed: Testbed,
    cluster: Cluster,
    segments: Vec<SegmentName>,
}

impl Bench {
    fn new(settings: &serde_json::Value) -> Result<Self> {
        let testbed = Testbed::new()?;
        let cluster = testbed.cluster(
            "main",
            ClusterOptions::archiving()
                .segment_size_mib(1)
                .settings(settings),
        )?;
        cluster.start()?;
        cluster
            .psql("CREATE TABLE t AS SELECT g, md5(g::text) FROM generate_series(1, 30000) g")?;
        cluster.archive_everything()?;
        cluster.stop(StopMode::Fast)?;
        let archive = Archive::open(&cluster.archive(), "main")?;
        let segments = archive
            .list(archive.newest_cluster()?)?
            .segments()
            .collect();
        Ok(Self {
            testbed,
            cluster,
            segments,
        })
    }

    fn stored(&self, segment: SegmentName) -> Result<PathBuf> {
        let archive = Archive::open(&self.cluster.archive(), "main")?;
        archive.path_of(archive.newest_cluster()?, &WalFileName::Segment(segment))
    }

    /// What PostgreSQL wrote, from the archive's own `zstd` file by the standard program.
    fn original(&self, segment: SegmentName) -> Result<Vec<u8>> {
        let archive = Archive::open(&self.cluster.archive(), "main")?;
        let mut content = Vec::new();
        archive.read(
            archive.newest_cluster()?,
            &WalFileName::Segment(segment),
            &mut |part| {
                content.extend_from_slice(part);
                Ok(())
            },
        )?;
        Ok(content)
    }

    fn command(&self, name: &str) -> Result<command::Command> {
        self.cluster
            .program("pg-restore-wal", [name, "pg_wal/RECOVERYXLOG"])
    }

    fn restore(&self, name: &str) -> Result<Run> {
        Run::of(&self.command(name)?)
    }

    fn handed_over(&self) -> PathBuf {
        self.cluster.data().join("pg_wal/RECOVERYXLOG")
    }

    fn take_back(&self) -> Result<()> {
        let staging = self
            .cluster
            .data()
            .join("pg_wal")
            .join(archive::SEGMENT_STAGING);
        // A fetcher of the call before may still be putting files there.
        testbed::wait_until("the fetched files are removed", || {
            Ok(match std::fs::remove_dir_all(&staging) {
                Ok(()) => Some(()),
                Err(err) if err.kind() == std::io::ErrorKind::NotFound => Some(()),
                Err(_) => None,
            })
        })?;
        if self.handed_over().exists() {
            std::fs::remove_file(self.handed_over())?;
        }
        Ok(())
    }
}

fn one_at_a_time() -> serde_json::Value {
    serde_json::json!({ "archive": { "prefetchMebibytes": 0 } })
}

#[test]
fn r2_an_absent_file_is_absent_and_a_present_one_is_what_was_archived() -> Result<()> {
    let bench = Bench::new(&one_at_a_time())?;
    for segment in &bench.segments {
        bench.restore(&segment.to_string())?.expect_success()?;
        ensure!(std::fs::read(bench.handed_over())? == bench.original(*segment)?);
    }
    for absent in [
        "0000000100000099000000FF",
        "00000002.history",
        "000000070000000000000001",
    ] {
        bench.take_back()?;
        bench.restore(absent)?.expect_code(ABSENT)?;
        ensure!(!bench.handed_over().exists());
    }
    Ok(())
}

#[test]
fn r1_everything_that_is_not_proven_absence_stops_recovery() -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let bench = Bench::new(&one_at_a_time())?;
    let segment = bench.segments[1];
    let name = segment.to_string();
    let path = bench.stored(segment)?;
    let stops = |what: &str| -> Result<()> {
        bench.take_back()?;
        bench
            .restore(&name)?
            .expect_code(STOP)
            .with_context(|| what.to_owned())?;
        ensure!(
            !bench.handed_over().exists(),
            "{what}: something was handed over"
        );
        Ok(())
    };

    let mode = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
    };
    mode(&path, 0)?;
    stops("unreadable file")?;
    mode(&path, 0o640)?;
    let directory = path.parent().context("a segment has a directory")?;
    mode(directory, 0)?;
    stops("unreadable directory")?;
    mode(directory, 0o750)?;

    let manifest = bench.cluster.archive().join("archive.json");
    let text = std::fs::read(&manifest)?;
    std::fs::remove_file(&manifest)?;
    stops("no manifest: an unmounted archive")?;
    std::fs::write(&manifest, "{")?;
    stops("damaged manifest")?;
    std::fs::write(
        &manifest,
        String::from_utf8(text.clone())?.replace("\"main\"", "\"other\""),
    )?;
    stops("archive of another instance")?;
    std::fs::write(&manifest, &text)?;

    let settings = std::fs::read(bench.cluster.settings_path())?;
    std::fs::write(bench.cluster.settings_path(), "{}")?;
    stops("settings that cannot be used")?;
    std::fs::remove_file(bench.cluster.settings_path())?;
    stops("no settings")?;
    std::fs::write(bench.cluster.settings_path(), settings)?;

    for arguments in [
        &["--no-such-option"][..],
        &[],
        &["../../etc/passwd", "out"],
        &["a", "b", "c"],
    ] {
        bench
            .cluster
            .run("pg-restore-wal", arguments)?
            .expect_code(STOP)?;
    }
    bench.restore(&name)?.expect_success()?;
    Ok(())
}

#[test]
fn r1_too_little_memory_or_too_few_files_stop_recovery() -> Result<()> {
    let bench = Bench::new(&one_at_a_time())?;
    let line = bench.command(&bench.segments[1].to_string())?.line();
    let mut stopped = 0;
    for limit in ["-n 3", "-n 4", "-n 5", "-v 20000", "-v 12000", "-f 100"] {
        bench.take_back()?;
        let script = format!(
            "cd {} && ulimit {limit} && exec {line}",
            command::quoted(&bench.cluster.data().display().to_string())
        );
        let run = Run::of(&command::Command::new("/bin/bash").args(["-c", &script]))?;
        match run.code() {
            Some(0) => ensure!(
                std::fs::read(bench.handed_over())? == bench.original(bench.segments[1])?,
                "{limit}"
            ),
            Some(code) => {
                ensure!(code > 125, "ulimit {limit}: status {code}: {}", run.stderr);
                stopped += 1;
            }
            None => stopped += 1,
        }
    }
    ensure!(stopped > 0, "no limit had an effect");
    Ok(())
}

#[test]
fn r5_a_kill_at_any_system_call_leaves_nothing_or_the_whole_file() -> Result<()> {
    if !strace::is_available() {
        testbed::skip!("strace is not installed");
    }
    for settings in [
        one_at_a_time(),
        // With more room than there are segments, so that the fetcher ends by itself.
        serde_json::json!({ "archive": { "prefetchMebibytes": 1024 } }),
    ] {
        let bench = Bench::new(&settings)?;
        let segment = bench.segments[0];
        let name = segment.to_string();
        let original = bench.original(segment)?;
        let command = bench.command(&name)?;
        let log = bench.testbed.path().join("strace");
        let calls = strace::count_calls(&command, &log)?;
        let mut points = 0;
        for (call, count) in calls {
            for number in 1..=count {
                bench.take_back()?;
                strace::run_with_fault(&command, &log, &call, "signal=SIGKILL", number)?;
                let at = format!("kill at call {number} of {call}");
                if bench.handed_over().exists() {
                    ensure!(std::fs::read(bench.handed_over())? == original, "{at}");
                }
                bench.restore(&name)?.expect_success().context(at.clone())?;
                ensure!(std::fs::read(bench.handed_over())? == original, "{at}");
                // What waits for the next call is whole as well.
                let next = bench.segments[1];
                bench
                    .restore(&next.to_string())?
                    .expect_success()
                    .context(at.clone())?;
                ensure!(
                    std::fs::read(bench.handed_over())? == bench.original(next)?,
                    "{at}"
                );
                points += 1;
            }
        }
        println!("{points} points");
        ensure!(points >= 100, "only {points} points");
    }
    Ok(())
}

#[test]
fn r5_a_failing_system_call_stops_recovery_or_does_not_matter() -> Result<()> {
    if !strace::is_available() {
        testbed::skip!("strace is not installed");
    }
    let bench = Bench::new(&one_at_a_time())?;
    let segment = bench.segments[0];
    let original = bench.original(segment)?;
    let command = bench.command(&segment.to_string())?;
    let log = bench.testbed.path().join("strace");
    let calls = strace::count_calls(&command, &log)?;
    bench.take_back()?;
    for error in ["EIO", "ENOSPC", "EACCES", "ENOMEM"] {
        for (call, count) in &calls {
            if ![
                "openat", "read", "write", "fsync", "rename", "mkdir", "mmap", "fstat", "statx",
                "flock",
            ]
            .contains(&call.as_str())
            {
                continue;
            }
            for number in 1..=*count {
                bench.take_back()?;
                let run = strace::run_with_fault(
                    &command,
                    &log,
                    call,
                    &format!("error={error}"),
                    number,
                )?;
                let at = format!("{error} at call {number} of {call}");
                match run.code() {
                    Some(0) => ensure!(std::fs::read(bench.handed_over())? == original, "{at}"),
                    Some(code) => ensure!(code > 125, "{at}: status {code}: {}", run.stderr),
                    None => {}
                }
            }
        }
    }
    Ok(())
}

#[test]
fn r1_an_archive_of_several_clusters_answers_for_the_one_that_recovers() -> Result<()> {
    let bench = Bench::new(&one_at_a_time())?;
    let other = bench
        .testbed
        .cluster("other", ClusterOptions::default().segment_size_mib(1))?;
    let name = bench.segments[0].to_string();
    let run = Run::of(
        &testbed::program("pg-restore-wal")?
            .args([&name, "pg_wal/RECOVERYXLOG"])
            .arg("--config")
            .arg(bench.cluster.settings_path())
            .directory(other.data()),
    )?
    .expect_code(STOP)?;
    ensure!(
        run.stderr.contains("is not that of the archive"),
        "{}",
        run.stderr
    );
    Ok(())
}

#[test]
fn a_further_archive_is_asked_before_a_file_counts_as_absent() -> Result<()> {
    let bench = Bench::new(&one_at_a_time())?;
    let segment = bench.segments[1];
    let name = segment.to_string();
    let replica = bench.testbed.path().join("replica");
    Run::of(
        &command::Command::new("/bin/cp")
            .arg("-a")
            .arg(bench.cluster.archive())
            .arg(&replica),
    )?
    .expect_success()?;
    bench
        .cluster
        .change_settings(&serde_json::json!({ "archive": { "furtherDirectories": [replica] } }))?;
    let original = bench.original(segment)?;

    let stored = std::fs::read(bench.stored(segment)?)?;
    std::fs::remove_file(bench.stored(segment)?)?;
    bench.restore(&name)?.expect_success()?;
    ensure!(
        std::fs::read(bench.handed_over())? == original,
        "missing in the first archive"
    );

    let mut damaged = stored.clone();
    damaged[100] ^= 1;
    std::fs::write(bench.stored(segment)?, damaged)?;
    bench.take_back()?;
    let run = bench.restore(&name)?.expect_success()?;
    ensure!(
        std::fs::read(bench.handed_over())? == original,
        "damaged in the first archive"
    );
    ensure!(
        run.stderr
            .contains("took a WAL file from a further archive"),
        "{}",
        run.stderr
    );

    std::fs::remove_file(replica.join("archive.json"))?;
    bench.take_back()?;
    bench
        .restore("000000010000009900000001")?
        .expect_code(STOP)?;
    Ok(())
}
