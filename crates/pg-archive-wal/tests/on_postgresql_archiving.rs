//! A server that archives through `pg-archive-wal` while it is killed, while its archive is full, and
//! while another server wants to archive into the same place.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use archive::Archive;
use serde_json::json;
use testbed::{Cluster, ClusterOptions, StopMode, Testbed, strace, wait_until};
use wal::{SegmentName, WalFileName};

fn small() -> ClusterOptions {
    ClusterOptions::archiving()
        .segment_size_mib(1)
        .configure("autovacuum = off")
}

fn archive_of(cluster: &Cluster) -> Result<Archive> {
    Archive::open(&cluster.archive(), "main")
}

/// Names of the archived files, each of which is as it was archived.
fn archived(cluster: &Cluster) -> Result<BTreeSet<String>> {
    let archive = archive_of(cluster)?;
    let newest = archive.newest_cluster()?;
    let mut names = BTreeSet::new();
    for (name, _) in archive.list(newest)?.files {
        archive.read(newest, &name, &mut |_| Ok(()))?;
        names.insert(name.to_string());
    }
    Ok(names)
}

/// The archived segments follow each other.
fn there_is_no_gap(cluster: &Cluster) -> Result<()> {
    let archive = archive_of(cluster)?;
    let newest = archive.newest_cluster()?;
    let size = newest.segment_size()?;
    let mut expected: Option<SegmentName> = None;
    for (name, _) in archive.list(newest)?.files {
        let WalFileName::Segment(segment) = name else {
            continue;
        };
        ensure!(
            expected.is_none_or(|expected| expected == segment),
            "\"{segment}\" follows a gap"
        );
        expected = segment.next(size);
    }
    expected.map(drop).context("nothing is archived")
}

fn ready(cluster: &Cluster) -> Result<usize> {
    Ok(fs::read_dir(cluster.data().join("pg_wal/archive_status"))?
        .flatten()
        .filter(|entry| entry.path().extension() == Some(OsStr::new("ready")))
        .count())
}

fn wait_until_drained(cluster: &Cluster) -> Result<()> {
    wait_until("every ready file is archived", || {
        Ok((ready(cluster)? == 0).then_some(()))
    })
}

fn failures(cluster: &Cluster) -> Result<u64> {
    Ok(cluster
        .psql("SELECT failed_count FROM pg_stat_archiver")?
        .parse()?)
}

fn wait_until_failed(cluster: &Cluster) -> Result<()> {
    wait_until("a failure is counted", || {
        Ok((failures(cluster)? > 0).then_some(()))
    })
}

fn set_archive_command(cluster: &Cluster, command: &str) -> Result<()> {
    cluster.psql(&format!(
        "ALTER SYSTEM SET archive_command = '{}'",
        command.replace('\'', "''")
    ))?;
    cluster.psql("SELECT pg_reload_conf()").map(drop)
}

fn command_line(cluster: &Cluster) -> Result<String> {
    Ok(testbed::program("pg-archive-wal")?
        .arg("--config")
        .arg(cluster.settings_path())
        .line())
}

/// Archives with a script: `$program` is ours with its settings, `$1` the path.
fn wrap(cluster: &Cluster, script: &str) -> Result<()> {
    let path = cluster.home().join("archive.sh");
    fs::write(
        &path,
        format!(
            "#!/bin/sh\nprogram={:?}\n{script}\n",
            command_line(cluster)?
        ),
    )?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    set_archive_command(cluster, &format!("{} %p", path.display()))
}

/// Ends `count` segments.
fn switch(cluster: &Cluster, count: usize) -> Result<()> {
    cluster
        .psql(&format!(
            "DO $$ BEGIN FOR i IN 1..{count} LOOP
               PERFORM pg_logical_emit_message(false, 'testbed', i::text);
               PERFORM pg_switch_wal();
             END LOOP; END $$"
        ))
        .map(drop)
}

#[test]
fn a2_a_server_that_is_killed_while_it_archives_goes_on_afterwards() -> Result<()> {
    let testbed = Testbed::new()?;
    let cluster = testbed.cluster("main", small())?;
    cluster.start()?;
    let marker = cluster.home().join("marker");
    let stop = format!(
        "if [ -e {0} ]; then touch {0}.seen; sleep 60; fi",
        marker.display()
    );
    let seen = durable_file::with_suffix(&marker, ".seen");
    for script in [
        format!("{stop}\n$program \"$1\""),
        // Archived, and PostgreSQL does not know.
        format!("$program \"$1\"\nstatus=$?\n{stop}\nexit $status"),
    ] {
        wrap(&cluster, &script)?;
        switch(&cluster, 3)?;
        wait_until_drained(&cluster)?;
        fs::write(&marker, "")?;
        switch(&cluster, 3)?;
        wait_until("the archiver is at work", || {
            Ok(seen.exists().then_some(()))
        })?;
        cluster.kill_hard()?;
        fs::remove_file(&marker)?;
        fs::remove_file(&seen)?;
        cluster.start()?;
        cluster.archive_everything()?;
        wait_until_drained(&cluster)?;
        assert_eq!(failures(&cluster)?, 0, "{}", cluster.log());
        there_is_no_gap(&cluster)?;
        archived(&cluster)?;
    }
    Ok(())
}

#[test]
fn a6_an_archive_without_room_is_counted_and_catches_up_afterwards() -> Result<()> {
    let testbed = Testbed::new()?;
    let cluster = testbed.cluster(
        "main",
        small().settings(&json!({ "archive": { "compression": { "algorithm": "none" } } })),
    )?;
    cluster.start()?;
    // No file of more than 50 KiB, which a full file system is in all but the number of the error.
    wrap(
        &cluster,
        "trap '' XFSZ\nulimit -f 100\nexec $program \"$1\"",
    )?;
    cluster.psql("CREATE TABLE rows AS SELECT md5(i::text) FROM generate_series(1, 50000) i")?;
    cluster.switch_wal()?;
    wait_until_failed(&cluster)?;
    let before = archived(&cluster)?;
    ensure!(ready(&cluster)? > 0, "something was taken for archived");
    wrap(&cluster, "exec $program \"$1\"")?;
    cluster.archive_everything()?;
    wait_until_drained(&cluster)?;
    ensure!(archived(&cluster)?.len() > before.len());
    there_is_no_gap(&cluster)
}

#[test]
fn a19_a22_wal_of_another_cluster_is_refused_until_it_is_admitted() -> Result<()> {
    let testbed = Testbed::new()?;
    let cluster = testbed.cluster("main", small())?;
    cluster.start()?;
    cluster.archive_everything()?;
    cluster.stop(StopMode::Fast)?;
    let before = archived(&cluster)?;

    let other = testbed.cluster(
        "other",
        ClusterOptions::default()
            .segment_size_mib(1)
            .configure("archive_mode = on"),
    )?;
    other.start()?;
    set_archive_command(&other, &format!("{} %p", command_line(&cluster)?))?;
    other.switch_wal()?;
    wait_until_failed(&other)?;
    let log = other.log();
    ensure!(
        log.contains("is not that of the archive") && log.contains("hint: "),
        "{log}"
    );
    assert_eq!(archived(&cluster)?, before);

    let old = archive_of(&cluster)?.newest_cluster()?.system_identifier;
    cluster.change_settings(&json!({ "postgresql": { "dataDirectory": other.data() } }))?;
    let admit = |replaces: &str| {
        cluster.run(
            "backstay",
            ["archive", "admit", "main", "--replaces", replaces],
        )
    };
    admit("1")?.expect_code(1)?;
    admit(&old.to_string())?.expect_success()?;
    other.archive_everything()?;
    wait_until_drained(&other)?;
    let archive = archive_of(&cluster)?;
    assert_eq!(archive.manifest().clusters.len(), 2);
    ensure!(archive.newest_cluster()?.system_identifier != old);
    // Each in a place of its own.
    let first = archive.list(archive.cluster(old)?)?;
    assert_eq!(first.files.len(), before.len());
    there_is_no_gap(&cluster)
}

/// A copy of the cluster's base backup that is about to recover.
fn recovering(testbed: &Testbed, cluster: &Cluster, name: &str) -> Result<Cluster> {
    let backup = fs::read_dir(cluster.backups())?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.join("PG_VERSION").exists())
        .context("no base backup")?;
    let data = testbed.path().join(name);
    command::Command::new("/bin/cp")
        .args([OsStr::new("-a"), backup.as_os_str(), data.as_os_str()])
        .run()?;
    fs::write(data.join("recovery.signal"), "")?;
    testbed.adopt(&data, cluster.settings_path())
}

#[test]
fn a23_a24_a_second_restore_cannot_replace_the_history_of_the_first() -> Result<()> {
    let testbed = Testbed::new()?;
    let cluster = testbed.cluster("main", small())?;
    cluster.start()?;
    cluster
        .run("pg-base-backup", ["--full"])?
        .expect_success()?;
    cluster.psql("CREATE TABLE rows AS SELECT 1 AS i")?;
    cluster.archive_everything()?;
    cluster.stop(StopMode::Fast)?;

    let first = recovering(&testbed, &cluster, "first")?;
    first.start()?;
    first.wait_until_promoted()?;
    first.archive_everything()?;
    wait_until_drained(&first)?;
    first.stop(StopMode::Fast)?;
    let names = archived(&cluster)?;
    for ending in [".history", ".backup"] {
        ensure!(
            names.iter().any(|name| name.ends_with(ending)),
            "no {ending} in {names:?}"
        );
    }
    let stored = |names: &BTreeSet<String>| -> Result<Vec<(PathBuf, Vec<u8>)>> {
        let archive = archive_of(&cluster)?;
        names
            .iter()
            .map(|name| {
                let name = WalFileName::parse(name).map_err(|err| anyhow!("{err}"))?;
                let path = archive.path_of(archive.newest_cluster()?, &name)?;
                let bytes = fs::read(&path)?;
                Ok((path, bytes))
            })
            .collect()
    };
    let before = stored(&names)?;

    // The second one does not see that timeline 2 is taken, and leaves timeline 1 elsewhere.
    let second = recovering(&testbed, &cluster, "second")?;
    second.configure("restore_command = 'false'")?;
    second.configure("recovery_target = 'immediate'")?;
    second.configure("recovery_target_action = 'promote'")?;
    second.start()?;
    second.wait_until_promoted()?;
    second.switch_wal()?;
    wait_until_failed(&second)?;
    let log = second.log();
    ensure!(
        log.contains("\"00000002.history\" is in the archive with another content"),
        "{log}"
    );
    ensure!(ready(&second)? > 1, "it archived all the same");
    assert_eq!(archived(&cluster)?, names);
    ensure!(stored(&names)? == before, "the first one's files changed");
    Ok(())
}

#[test]
fn a32_a_backlog_is_archived_in_order_and_without_a_gap() -> Result<()> {
    let backlog: usize = std::env::var("BACKSTAY_BACKLOG")
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(300);
    let testbed = Testbed::new()?;
    let cluster = testbed.cluster("main", small().configure("archive_command = ''"))?;
    cluster.start()?;
    switch(&cluster, backlog)?;
    ensure!(
        ready(&cluster)? >= backlog,
        "only {} ready",
        ready(&cluster)?
    );
    let asked = cluster.home().join("asked");
    let begin = Instant::now();
    wrap(
        &cluster,
        &format!("$program \"$1\" && basename \"$1\" >> {}", asked.display()),
    )?;
    wait_until_drained(&cluster)?;
    let seconds = begin.elapsed().as_secs_f64();
    assert_eq!(failures(&cluster)?, 0, "{}", cluster.log());
    let order: Vec<String> = fs::read_to_string(&asked)?
        .lines()
        .map(ToOwned::to_owned)
        .collect();
    ensure!(order.len() >= backlog);
    ensure!(order.is_sorted(), "out of order: {order:?}");
    there_is_no_gap(&cluster)?;
    assert_eq!(archived(&cluster)?, order.iter().cloned().collect());
    let left: Vec<_> = fs::read_dir(cluster.archive().join("incoming/ahead"))
        .into_iter()
        .flatten()
        .flatten()
        .collect();
    ensure!(left.is_empty(), "receipts of archived files: {left:?}");
    println!("{} segments in {seconds:.1} s", order.len());
    Ok(())
}

#[test]
fn a37_a_crash_in_the_middle_of_a_record_makes_no_conflict() -> Result<()> {
    let testbed = Testbed::new()?;
    let cluster = testbed.cluster("main", small())?;
    cluster.start()?;
    for round in 0..5_u64 {
        std::thread::scope(|scope| -> Result<()> {
            // Each record is longer than three segments.
            let writing = scope.spawn(|| {
                cluster.psql(
                    "DO $$ BEGIN FOR i IN 1..1000 LOOP
                       PERFORM pg_logical_emit_message(false, 'large', repeat(md5(i::text), 110000));
                     END LOOP; END $$",
                )
            });
            std::thread::sleep(Duration::from_millis(150 + 130 * round));
            let killed = cluster.kill_hard();
            drop(writing.join());
            killed
        })?;
        cluster.start()?;
        cluster.archive_everything()?;
        wait_until_drained(&cluster)?;
        assert_eq!(failures(&cluster)?, 0, "{}", cluster.log());
        there_is_no_gap(&cluster)?;
    }
    ensure!(
        !cluster.log().contains("another content"),
        "{}",
        cluster.log()
    );
    cluster
        .run("backstay", ["archive", "verify", "main"])?
        .expect_success()?;
    Ok(())
}

#[test]
fn a38_an_idle_server_archives_nothing_and_an_active_one_in_bounded_time() -> Result<()> {
    let testbed = Testbed::new()?;
    let cluster = testbed.cluster("main", small().configure("archive_timeout = 1s"))?;
    cluster.start()?;
    // The checkpointer, which watches over archive_timeout, often starts while the server counts as
    // recovering, and then first looks at it after checkpoint_timeout, or when something wakes it.
    cluster.psql("CHECKPOINT")?;
    let begin = Instant::now();
    cluster.psql("CREATE TABLE rows (i int)")?;
    wait_until("the change is archived", || {
        Ok((!archived(&cluster)?.is_empty()).then_some(()))
    })?;
    ensure!(
        begin.elapsed() < Duration::from_secs(15),
        "{:?}",
        begin.elapsed()
    );
    // What is left over from the start.
    std::thread::sleep(Duration::from_secs(3));
    wait_until_drained(&cluster)?;
    let idle = archived(&cluster)?;
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(archived(&cluster)?, idle);
    Ok(())
}

#[test]
fn a28_a_call_on_storage_that_hangs_ends_within_its_deadline() -> Result<()> {
    if !strace::is_available() {
        testbed::skip!("strace is not installed");
    }
    let testbed = Testbed::new()?;
    let cluster = testbed.cluster(
        "main",
        small()
            .configure("archive_command = ''")
            .settings(&json!({ "archive": { "archiveDeadlineSeconds": 1 } })),
    )?;
    cluster.start()?;
    let segment = cluster.switch_wal()?;
    cluster.stop(StopMode::Fast)?;
    let log = testbed.path().join("strace");
    let path = Path::new("pg_wal").join(&segment);
    let command = cluster.program("pg-archive-wal", [path.as_os_str()])?;
    // Six seconds in the first fsync. strace keeps hold of the process until they are over, so it is
    // the status and the message that show who ended it.
    let run = strace::run_with_fault(&command, &log, "fsync", "delay_enter=6000000", 1)?
        .expect_code(1)?;
    ensure!(
        run.stderr.contains("not done after 1 seconds"),
        "{}",
        run.stderr
    );
    ensure!(archived(&cluster)?.is_empty(), "something was published");
    testbed::Run::of(&command)?.expect_success()?;
    assert_eq!(archived(&cluster)?, BTreeSet::from([segment]));
    Ok(())
}
