//! A1, A6, A8, A9 and A10: what `pg-archive-wal` leaves behind when it is killed, or when a system
//! call fails, at each of its system calls. Real WAL files of all kinds, from a stopped server.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use archive::Archive;
use testbed::{Cluster, ClusterOptions, StopMode, Testbed, strace};
use wal::WalFileName;

/// The fewest points that count as "every system call": a run that sees less is not looking.
const FEWEST_POINTS: u32 = 100;

/// A cluster that is stopped, with files of every kind in its `pg_wal`.
struct Bench {
    testbed: Testbed,
    cluster: Cluster,
}

impl Bench {
    fn new(settings: &serde_json::Value) -> Result<Self> {
        let testbed = Testbed::new()?;
        let cluster = testbed.cluster(
            "main",
            ClusterOptions::archiving()
                .segment_size_mib(1)
                .configure("archive_command = ''")
                .settings(settings),
        )?;
        cluster.start()?;
        cluster
            .psql("CREATE TABLE t AS SELECT g, md5(g::text) FROM generate_series(1, 20000) g")?;
        cluster.psql("SELECT pg_switch_wal()")?;
        cluster.stop(StopMode::Fast)?;
        Ok(Self { testbed, cluster })
    }

    fn archive(&self) -> Result<Archive> {
        Archive::open(&self.cluster.archive(), "main")
    }

    fn archived(&self, name: &WalFileName) -> Result<PathBuf> {
        let archive = self.archive()?;
        archive.path_of(archive.newest_cluster()?, name)
    }

    /// The first segment, and a history and a backup file as PostgreSQL writes them.
    fn names(&self) -> Result<Vec<WalFileName>> {
        let directory = self.cluster.data().join("pg_wal");
        let segments = self.cluster.ready_files()?;
        let segment = segments.first().context("no segment is ready")?;
        std::fs::write(
            directory.join("00000002.history"),
            "1\t0/7000000\tno recovery target specified\n",
        )?;
        let backup = format!("{segment}.00000028.backup");
        std::fs::write(directory.join(&backup), "START WAL LOCATION: 0/7000028\n")?;
        Ok([segment.as_str(), "00000002.history", &backup]
            .iter()
            .map(|name| WalFileName::parse(name))
            .collect::<Result<_, _>>()?)
    }

    fn command(&self, name: &WalFileName) -> Result<command::Command> {
        self.cluster
            .program("pg-archive-wal", [format!("pg_wal/{name}")])
    }

    /// What must hold after anything: a file is absent, or is what PostgreSQL wrote.
    fn nothing_partial_is_visible(&self) -> Result<()> {
        let archive = self.archive()?;
        let cluster = archive.newest_cluster()?;
        let listing = archive.list(cluster)?;
        ensure!(
            listing.foreign.is_empty(),
            "foreign files: {:?}",
            listing.foreign
        );
        for (name, _) in listing.files {
            let original =
                std::fs::read(self.cluster.data().join("pg_wal").join(name.to_string()))?;
            let mut archived = Vec::new();
            archive.read(cluster, &name, &mut |part| {
                archived.extend_from_slice(part);
                Ok(())
            })?;
            ensure!(
                archived == original,
                "\"{name}\" differs from what PostgreSQL wrote"
            );
        }
        Ok(())
    }

    /// Runs the program again without a fault, which has to succeed, and clears the archive.
    fn retry_and_clear(&self, name: &WalFileName) -> Result<()> {
        testbed::Run::of(&self.command(name)?)?.expect_success()?;
        ensure!(self.archived(name)?.exists(), "\"{name}\" is not archived");
        self.nothing_partial_is_visible()?;
        self.clear()
    }

    fn clear(&self) -> Result<()> {
        let archive = self.archive()?;
        let cluster = archive.newest_cluster()?;
        for (name, _) in archive.list(cluster)?.files {
            archive.remove(cluster, &name)?;
        }
        remove_files_below(&archive.incoming())
    }
}

fn remove_files_below(directory: &Path) -> Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            remove_files_below(&path)?;
        } else {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Faults at each call of each of `names`, or of every call when there are none.
fn fault_everywhere(
    settings: &serde_json::Value,
    names: &[&str],
    fault: &str,
    judge: impl Fn(&testbed::Run) -> Result<()>,
) -> Result<u32> {
    let bench = Bench::new(settings)?;
    let log = bench.testbed.path().join("strace");
    let mut points = 0;
    for file in bench.names()? {
        let command = bench.command(&file)?;
        let calls = strace::count_calls(&command, &log)?;
        bench.clear()?;
        for (name, count) in calls {
            if !names.is_empty() && !names.contains(&name.as_str()) {
                continue;
            }
            for number in 1..=count {
                let run = strace::run_with_fault(&command, &log, &name, fault, number)?;
                let at = format!("{fault} at call {number} of {name} for \"{file}\"");
                judge(&run).with_context(|| at.clone())?;
                bench
                    .nothing_partial_is_visible()
                    .with_context(|| at.clone())?;
                bench.retry_and_clear(&file).with_context(|| at.clone())?;
                points += 1;
            }
        }
    }
    println!("{points} points with {fault}");
    Ok(points)
}

#[test]
fn a1_a_kill_at_any_system_call_leaves_no_partial_file_and_the_retry_succeeds() -> Result<()> {
    if !strace::is_available() {
        testbed::skip!("strace is not installed");
    }
    let settings = serde_json::json!({ "archive": { "workAheadSegments": 0 } });
    let points = fault_everywhere(&settings, &[], "signal=SIGKILL", |_| Ok(()))?;
    ensure!(points >= FEWEST_POINTS, "only {points} points");
    Ok(())
}

#[test]
fn a1_a_kill_while_working_ahead_leaves_no_partial_file_and_the_retry_succeeds() -> Result<()> {
    if !strace::is_available() {
        testbed::skip!("strace is not installed");
    }
    let settings = serde_json::json!({ "archive": { "workAheadSegments": 1 } });
    // Threads take turns, so a call's number does not always name the same call. Any will do.
    let points = fault_everywhere(
        &settings,
        &[
            "openat", "link", "linkat", "unlink", "unlinkat", "fsync", "mkdir", "write",
        ],
        "signal=SIGKILL",
        |_| Ok(()),
    )?;
    ensure!(points >= FEWEST_POINTS / 2, "only {points} points");
    Ok(())
}

/// A failure that PostgreSQL counts and tries again, or success where the call did not matter.
fn fails_countably(run: &testbed::Run) -> Result<()> {
    match run.code() {
        Some(0 | 1) => Ok(()),
        // The dynamic loader failed; our program had not begun.
        Some(127) if run.stderr.contains("error while loading shared libraries") => Ok(()),
        _ => bail!("{}: {}", command::how_it_ended(run.status), run.stderr),
    }
}

#[test]
fn a6_a8_a10_a_failing_system_call_is_a_counted_failure_and_publishes_nothing_partial() -> Result<()>
{
    if !strace::is_available() {
        testbed::skip!("strace is not installed");
    }
    let settings = serde_json::json!({ "archive": { "workAheadSegments": 0 } });
    let mut points = 0;
    for (names, error) in [
        (&["write", "fsync", "link", "linkat", "mkdir"][..], "ENOSPC"),
        (&["read", "write", "fsync", "close"][..], "EIO"),
        (
            &["openat", "link", "linkat", "mkdir", "unlink"][..],
            "EACCES",
        ),
        (&["openat", "mkdir", "link", "linkat"][..], "EROFS"),
    ] {
        points += fault_everywhere(&settings, names, &format!("error={error}"), fails_countably)?;
    }
    ensure!(points >= FEWEST_POINTS, "only {points} points");
    Ok(())
}

#[test]
fn a9_an_interrupted_system_call_is_made_again() -> Result<()> {
    if !strace::is_available() {
        testbed::skip!("strace is not installed");
    }
    let settings = serde_json::json!({ "archive": { "workAheadSegments": 0 } });
    let points = fault_everywhere(&settings, &["write", "fsync"], "error=EINTR", |run| {
        ensure!(run.code() == Some(0), "{}", run.stderr);
        Ok(())
    })?;
    ensure!(points > 0, "nothing was interrupted");
    Ok(())
}

#[test]
fn a13_a_repeated_file_is_made_durable_before_success() -> Result<()> {
    if !strace::is_available() {
        testbed::skip!("strace is not installed");
    }
    let bench = Bench::new(&serde_json::json!({ "archive": { "workAheadSegments": 0 } }))?;
    let log = bench.testbed.path().join("strace");
    let name = bench.names()?[0];
    testbed::Run::of(&bench.command(&name)?)?.expect_success()?;
    let calls = strace::count_calls(&bench.command(&name)?, &log)?;
    assert_eq!(calls.get("fsync"), Some(&2), "the file and its directory");
    Ok(())
}
