//! Restores that begin with a copy of the data directory, as a snapshot is one.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use testbed::{
    Cluster, ClusterOptions, Ledger, LedgerOptions, Run, Stop, StopMode, Testbed, Until,
};
use wal::{Lsn, SegmentName};

/// A cluster without any base backup, a copy of it, and writers who went on.
struct History {
    testbed: Testbed,
    cluster: Cluster,
    ledger: Ledger,
    copy: PathBuf,
}

impl History {
    fn new() -> Result<Self> {
        let testbed = Testbed::new()?;
        let cluster = testbed.cluster("main", ClusterOptions::archiving().segment_size_mib(1))?;
        cluster.change_settings(&serde_json::json!({ "baseBackup": null }))?;
        cluster.start()?;
        let ledger = cluster.ledger(&LedgerOptions {
            writers: 3,
            payload_bytes: 2000,
            ..LedgerOptions::default()
        })?;
        ledger.wait_for_commits(200)?;
        cluster.psql("CHECKPOINT")?;
        ledger.wait_for_commits(200)?;
        let copy = testbed.path().join("copy");
        cluster.copy_at_one_moment(&copy)?;
        // Two segments and more.
        ledger.wait_for_commits(1000)?;
        Ok(Self {
            testbed,
            cluster,
            ledger,
            copy,
        })
    }

    /// Lets the writers rest and archives all that they wrote.
    fn settle(&self) -> Result<()> {
        self.ledger.pause()?;
        self.cluster.archive_everything().map(drop)
    }

    fn restore(&self, arguments: &[&str]) -> Result<Run> {
        let from = format!("directory:{}", self.copy.display());
        let mut all = vec!["restore", "main", "--yes", "--json", "--from", &from];
        all.extend(arguments);
        self.cluster.run("backstay", all)
    }

    fn refuses(&self, arguments: &[&str], expected: &str) -> Result<()> {
        let run = self.restore(arguments)?.expect_code(1)?;
        ensure!(run.stderr.contains(expected), "{}", run.stderr);
        ensure!(run.stderr.contains("hint: "), "no hint: {}", run.stderr);
        ensure!(self.cluster.is_running(), "the server was stopped");
        Ok(())
    }

    /// Restores beside the server and compares every row with the ledger.
    fn reaches(&self, name: &str, arguments: &[&str], stop: Option<Stop>) -> Result<()> {
        let into = self.testbed.path().join(name);
        let text = into.display().to_string();
        let mut all = arguments.to_vec();
        all.extend(["--into", &text]);
        let outcome = self.restore(&all)?.expect_success()?.json()?;
        assert_eq!(outcome["plan"]["startingPoint"]["kind"], "copy");
        assert_eq!(
            outcome["plan"]["startingPoint"]["directory"],
            self.copy.display().to_string()
        );
        let stop = match stop {
            Some(stop) => stop,
            None => Stop::Before(address(&outcome["endedAt"])?),
        };
        let restored = self.testbed.adopt(&into, self.cluster.settings_path())?;
        restored.start()?;
        self.ledger
            .expected(&Until::on_first_timeline(stop))
            .compare(&restored)?
            .expect_exact()
            .with_context(|| format!("{arguments:?}, {stop:?}"))?;
        restored.stop(StopMode::Immediate)
    }
}

fn address(value: &serde_json::Value) -> Result<Lsn> {
    let text = value.as_str().context("no address")?;
    text.parse().map_err(|err| anyhow::anyhow!("{err}"))
}

/// The content of every file below `directory`, with its mode and its times.
fn fingerprint(directory: &Path) -> Result<String> {
    let script = format!(
        "cd {0} && find . -type f -exec sha256sum {{}} + | sort && find . -printf '%p %m %s %T@ %l\\n' | sort",
        command::quoted(&directory.display().to_string())
    );
    let run = Run::of(&command::Command::new("/bin/sh").args(["-c", &script]))?;
    Ok(run.expect_success()?.stdout)
}

#[test]
fn b16_a_copy_of_one_moment_leads_to_every_later_one_to_the_row() -> Result<()> {
    let history = History::new()?;
    history.settle()?;
    let before = fingerprint(&history.copy)?;
    let plan = history
        .restore(&["--to", "latest", "--plan"])?
        .expect_success()?
        .json()?;
    let consistent = address(&plan["consistentAt"])?;
    let entries = history.ledger.entries();
    let commits = |late: bool| {
        entries
            .iter()
            .filter_map(|entry| entry.commit)
            .filter(move |commit| (commit.start > consistent) == late)
    };
    let after: Vec<_> = commits(true).collect();
    ensure!(after.len() >= 100, "too few commits after the copy");

    let time = after[after.len() / 3].time;
    history.reaches(
        "by-time",
        &["--to", &time.to_string()],
        Some(Stop::Time(time, true)),
    )?;
    let xid = after[after.len() / 2].xid;
    history.reaches(
        "by-xid",
        &["--to", &format!("xid:{xid}"), "--exclusive"],
        Some(Stop::Xid(xid, false)),
    )?;
    // The first commit after the copy: nothing between its end and the target is passed over.
    let first = after
        .iter()
        .map(|commit| commit.start)
        .min()
        .context("none")?;
    history.reaches(
        "by-lsn",
        &["--to", &format!("lsn:{first}")],
        Some(Stop::Lsn(first, true)),
    )?;
    history.reaches("first", &["--to", "immediate"], None)?;
    history.reaches("latest", &["--to", "latest"], Some(Stop::End))?;

    let early = commits(false)
        .map(|commit| commit.time)
        .max()
        .context("none")?;
    history.refuses(
        &["--to", &early.to_string()],
        "is not after the moment of the copy",
    )?;
    let early = commits(false)
        .map(|commit| commit.start)
        .max()
        .context("none")?;
    history.refuses(
        &["--to", &format!("lsn:{early}")],
        &format!("({consistent})"),
    )?;
    ensure!(
        fingerprint(&history.copy)? == before,
        "the copy was changed"
    );
    Ok(())
}

#[test]
fn a_copy_replaces_the_data_directory_and_the_tail_of_the_dead_server_is_not_lost() -> Result<()> {
    let history = History::new()?;
    let cluster = &history.cluster;
    // From here on nothing is archived, and the server dies.
    cluster.psql("ALTER SYSTEM SET archive_command = 'false'")?;
    cluster.psql("SELECT pg_reload_conf()")?;
    history.ledger.wait_for_commits(800)?;
    history.ledger.pause()?;
    let entries = history.ledger.entries();
    let middle = entries[entries.len() - 300].commit.context("no commit")?;
    cluster.kill_hard()?;
    // A moment in the WAL that only the dead server has: it is not taken for a part of the copy's.
    history.reaches(
        "middle",
        &["--to", &format!("lsn:{}", middle.start)],
        Some(Stop::Lsn(middle.start, true)),
    )?;
    let outcome = history
        .restore(&["--to", "latest"])?
        .expect_success()?
        .json()?;
    ensure!(outcome["plan"]["unarchivedSegments"].as_u64() > Some(0));
    ensure!(outcome["plan"]["kept"].is_string());
    history
        .ledger
        .expected(&Until::end())
        .compare(cluster)?
        .expect_exact()?;
    // What came from the dead server gets into the archive: from the copy the new timeline is reached
    // without it.
    let command = "ALTER SYSTEM RESET archive_command";
    cluster.psql(command)?;
    cluster.psql("SELECT pg_reload_conf()")?;
    cluster.archive_everything()?;
    std::fs::remove_dir_all(
        outcome["plan"]["kept"]
            .as_str()
            .context("nothing was kept")?,
    )?;
    cluster.stop(StopMode::Fast)?;
    durable_file::move_to_new_name(cluster.data(), &history.testbed.path().join("lost"))?;

    // Into an empty directory, for somebody else to start.
    std::fs::create_dir(cluster.data())?;
    let outcome = history
        .restore(&["--to", "latest", "--no-start"])?
        .expect_success()?
        .json()?;
    ensure!(outcome["plan"]["kept"].is_null() && outcome["downtimeSeconds"].is_null());
    ensure!(!cluster.is_running(), "the server was started");
    cluster.start()?;
    history
        .ledger
        .expected(&Until::end())
        .compare(cluster)?
        .expect_exact()?;
    history.refuses(&["--to", "latest", "--no-start"], "a server runs in")
}

#[test]
fn a_copy_of_another_cluster_or_of_no_moment_is_refused_before_anything_is_stopped() -> Result<()> {
    let history = History::new()?;
    history.settle()?;
    let other = history
        .testbed
        .cluster("other", ClusterOptions::archiving().segment_size_mib(1))?;
    let from = |directory: &Path| format!("directory:{}", directory.display());
    let refused = |directory: &Path, expected: &str| -> Result<()> {
        let arguments = ["restore", "main", "--yes", "--to", "latest", "--from"];
        let run = history
            .cluster
            .run(
                "backstay",
                arguments
                    .into_iter()
                    .map(str::to_owned)
                    .chain([from(directory)]),
            )?
            .expect_code(1)?;
        ensure!(run.stderr.contains(expected), "{}", run.stderr);
        ensure!(run.stderr.contains("hint: "), "no hint: {}", run.stderr);
        ensure!(history.cluster.is_running(), "the server was stopped");
        Ok(())
    };
    refused(other.data(), "is of cluster")?;
    refused(history.cluster.data(), "a server runs in")?;

    // The segment in which the copy ends is gone from the archive, and later ones are there.
    let plan = history
        .restore(&["--to", "latest", "--plan"])?
        .expect_success()?
        .json()?;
    let size = wal::SegmentSize::new(1 << 20).map_err(|err| anyhow::anyhow!("{err}"))?;
    let end = address(&plan["consistentAt"])?;
    let last = SegmentName::containing(wal::TimelineId::FIRST, end, size);
    let archive = archive::Archive::open(&history.cluster.archive(), "main")?;
    let stored = archive.path_of(archive.newest_cluster()?, &wal::WalFileName::Segment(last))?;
    let aside = history.testbed.path().join("aside");
    durable_file::move_to_new_name(&stored, &aside)?;
    // A server that still has it would help out.
    std::fs::remove_file(history.cluster.data().join("pg_wal").join(last.to_string()))?;
    refused(&history.copy, &format!("missing {last}"))?;
    durable_file::move_to_new_name(&aside, &stored)?;

    // Without its own WAL nobody knows when a copy is consistent, although the archive has it all.
    let own = history.copy.join("pg_wal").join(last.to_string());
    durable_file::move_to_new_name(&own, &aside)?;
    for entry in std::fs::read_dir(history.copy.join("pg_wal"))? {
        let path = entry?.path();
        if path.is_file() {
            std::fs::remove_file(path)?;
        }
    }
    refused(&history.copy, "lacks WAL that makes it consistent")?;

    let control = history.copy.join("global/pg_control");
    let mut bytes = std::fs::read(&control)?;
    bytes[100] ^= 1;
    std::fs::write(&control, bytes)?;
    refused(&history.copy, "does not match its checksum")
}

#[test]
fn the_tablespaces_of_a_copy_come_from_the_same_moment() -> Result<()> {
    let testbed = Testbed::new()?;
    let cluster = testbed.cluster("main", ClusterOptions::archiving().segment_size_mib(1))?;
    cluster.start()?;
    let place = testbed.path().join("fast");
    std::fs::create_dir(&place)?;
    cluster.psql(&format!(
        "CREATE TABLESPACE fast LOCATION '{}'",
        place.display()
    ))?;
    cluster.psql("CREATE TABLE spaced (i int) TABLESPACE fast")?;
    cluster.psql("INSERT INTO spaced SELECT generate_series(1, 1000)")?;
    cluster.stop(StopMode::Immediate)?;
    let copies = [
        testbed.path().join("copy"),
        testbed.path().join("copied-space"),
    ];
    cluster.copy_at_one_moment(&copies[0])?;
    command::Command::new("/bin/cp")
        .arg("--archive")
        .args([&place, &copies[1]])
        .run()?;
    let before = [fingerprint(&copies[0])?, fingerprint(&copies[1])?];
    cluster.start()?;
    cluster.psql("INSERT INTO spaced VALUES (1001)")?;
    cluster.archive_everything()?;
    cluster.psql("DROP TABLE spaced")?;

    let into = testbed.path().join("restored");
    let new = testbed.path().join("slow");
    let from = format!("directory:{}", copies[0].display());
    let into_text = into.display().to_string();
    let mapping = format!("{}={}", place.display(), new.display());
    let source = format!("{}={}", place.display(), copies[1].display());
    let mut arguments = vec![
        "restore", "main", "--yes", "--to", "latest", "--from", &from,
    ];
    let refuses = |arguments: &[&str], expected: &str| -> Result<()> {
        let run = cluster.run("backstay", arguments)?.expect_code(1)?;
        ensure!(run.stderr.contains(expected), "{}", run.stderr);
        Ok(())
    };
    refuses(
        &arguments,
        "is not to be found as it was at the moment of the copy",
    )?;
    arguments.extend(["--tablespace-from", &source, "--into", &into_text]);
    refuses(&arguments, "is not mapped")?;
    arguments.extend(["--tablespace-mapping", &mapping]);
    cluster.run("backstay", &arguments)?.expect_success()?;
    let restored = testbed.adopt(&into, cluster.settings_path())?;
    restored.start()?;
    // The tail of the running server is part of it, and with it the removal.
    assert_eq!(restored.psql("SELECT to_regclass('spaced') IS NULL")?, "t");
    restored.stop(StopMode::Immediate)?;
    ensure!(new.is_dir(), "the tablespace was put elsewhere");
    ensure!(
        before == [fingerprint(&copies[0])?, fingerprint(&copies[1])?],
        "the copy was changed"
    );
    Ok(())
}

#[test]
fn the_newest_snapshot_that_is_early_enough_is_the_beginning() -> Result<()> {
    let history = History::new()?;
    let cluster = &history.cluster;
    // Where ZFS would show them.
    let shown = cluster.home().join(".zfs/snapshot");
    let snapshot = |name: &str| -> Result<()> {
        std::fs::create_dir_all(shown.join(name))?;
        cluster.copy_at_one_moment(&shown.join(name).join("data"))
    };
    snapshot("hourly-1")?;
    history.ledger.wait_for_commits(100)?;
    let entries = history.ledger.entries();
    let between = entries[entries.len() - 20].commit.context("no commit")?;
    history.ledger.wait_for_commits(20)?;
    snapshot("hourly-2")?;
    // One from before the instance.
    std::fs::create_dir_all(shown.join("before/other"))?;
    history.ledger.wait_for_commits(100)?;
    history.settle()?;
    let started_with = |arguments: &[&str]| -> Result<String> {
        let mut all = vec!["restore", "main", "--plan", "--json"];
        all.extend(arguments);
        let plan = cluster.run("backstay", all)?.expect_success()?.json()?;
        assert_eq!(plan["startingPoint"]["kind"], "snapshot");
        let name = plan["startingPoint"]["name"].as_str();
        name.map(str::to_owned).context("no name")
    };
    let time = between.time.to_string();
    assert_eq!(started_with(&["--to", "latest"])?, "hourly-2");
    assert_eq!(started_with(&["--to", &time])?, "hourly-1");
    assert_eq!(
        started_with(&["--to", &format!("xid:{}", between.xid)])?,
        "hourly-1"
    );
    assert_eq!(
        started_with(&["--to", "latest", "--from", "snapshot:hourly-1"])?,
        "hourly-1"
    );
    let refuses = |from: &str, expected: &str| -> Result<()> {
        let run = cluster
            .run(
                "backstay",
                ["restore", "main", "--to", &time, "--from", from],
            )?
            .expect_code(1)?;
        ensure!(run.stderr.contains(expected), "{}", run.stderr);
        ensure!(run.stderr.contains("hint: "), "no hint: {}", run.stderr);
        Ok(())
    };
    refuses("snapshot:daily", "there is no snapshot \"daily\"")?;
    refuses("snapshot:hourly-2", "is not after the moment of the copy")?;
    refuses("base-backup", "declare no base backups")?;
    let windows = cluster
        .run("backstay", ["windows", "main"])?
        .expect_success()?;
    ensure!(
        windows.stdout.contains("hourly-1, timeline 1, after ")
            && windows.stdout.contains("hourly-2, timeline 1, after "),
        "{}",
        windows.stdout
    );
    let json = |command: &str| -> Result<serde_json::Value> {
        cluster
            .run("backstay", [command, "main", "--json"])?
            .expect_success()?
            .json()
    };
    let [windows, status] = [json("windows")?, json("status")?];
    assert_eq!(windows["windows"], serde_json::json!([]));
    for (number, name) in ["hourly-1", "hourly-2"].into_iter().enumerate() {
        let snapshot = &windows["snapshots"][number];
        assert_eq!(snapshot["name"], name);
        assert_eq!(snapshot["timeline"], 1);
        assert!(snapshot["checkpoint"].is_string(), "{snapshot}");
        let at = &status["snapshots"][number]["checkpointAt"];
        assert!(at.is_string() && snapshot["checkpointTime"] == *at, "{at}");
    }

    // From the snapshot to the row, by a branch.
    let made = cluster
        .run(
            "backstay",
            [
                "branch", "create", "main", "--json", "--name", "then", "--at", &time,
            ],
        )?
        .expect_success()?
        .json()?;
    assert_eq!(made["made"]["from"], "snapshot hourly-1");
    let branches = durable_file::with_suffix(cluster.data(), ".branches");
    let branch = history.testbed.take_over(
        &branches.join("then/data"),
        &branches.join("then/socket"),
        5432,
        cluster.settings_path(),
    );
    history
        .ledger
        .expected(&Until::on_first_timeline(Stop::Time(between.time, true)))
        .compare(&branch)?
        .expect_exact()
        .map(drop)
}
