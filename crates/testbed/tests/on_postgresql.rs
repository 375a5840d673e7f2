//! What the testbed promises, on a real server and with `cp` as the archive.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use testbed::{
    Cluster, ClusterOptions, LedgerOptions, Stop, StopMode, Testbed, Until, postgresql_time,
};

/// A cluster that archives with `cp` into `<home>/archive`.
fn cluster_with_cp(testbed: &Testbed) -> Result<Cluster> {
    let archive = testbed.path().join("main/archive");
    testbed.cluster(
        "main",
        ClusterOptions::default()
            .segment_size_mib(1)
            .configure("archive_mode = on")
            .configure(format!(
                "archive_command = 'cp %p {}/%f'",
                archive.display()
            ))
            .configure(format!(
                "restore_command = 'cp {}/%f %p'",
                archive.display()
            )),
    )
}

fn take_backup(cluster: &Cluster) -> Result<PathBuf> {
    let backup = cluster.backups().join("first");
    cluster
        .client_program("pg_basebackup")
        .args(["-X", "none", "-c", "fast", "-D"])
        .arg(&backup)
        .run()?;
    Ok(backup)
}

/// Restores `backup` into a directory `name` and recovers it as the lines say.
fn restore(
    testbed: &Testbed,
    cluster: &Cluster,
    backup: &Path,
    name: &str,
    target: &[String],
) -> Result<Cluster> {
    let data = testbed.path().join(name);
    command::Command::new("/bin/cp")
        .arg("-a")
        .arg(backup)
        .arg(&data)
        .run()?;
    fs::write(data.join("recovery.signal"), "").context("ask for recovery")?;
    let restored = testbed.adopt(&data, cluster.settings_path())?;
    // The restored server would archive its new timeline beside the old one.
    restored.configure("archive_mode = off")?;
    restored.configure("recovery_target_action = promote")?;
    for line in target {
        restored.configure(line)?;
    }
    restored.start()?;
    restored.wait_until_promoted()?;
    Ok(restored)
}

#[test]
fn every_acknowledged_row_survives_sigkill_and_no_process_does() -> Result<()> {
    let testbed = Testbed::new()?;
    let cluster = testbed.cluster("main", ClusterOptions::default())?;
    cluster.start()?;
    let ledger = cluster.ledger(&LedgerOptions::default())?;
    ledger.wait_for_commits(200)?;
    cluster.kill_hard()?;
    assert!(!cluster.is_running());
    cluster.start()?;
    // The writers find the server again by themselves.
    ledger.wait_for_commits(200)?;
    ledger.stop()?;
    let comparison = ledger
        .expected(&Until::end())
        .compare(&cluster)?
        .expect_exact()?;
    assert!(comparison.present >= 400, "{comparison}");
    Ok(())
}

#[test]
fn the_ledger_notices_one_row_lost_one_too_many_and_one_altered() -> Result<()> {
    let testbed = Testbed::new()?;
    let cluster = testbed.cluster("main", ClusterOptions::default())?;
    cluster.start()?;
    let ledger = cluster.ledger(&LedgerOptions::default())?;
    ledger.wait_for_commits(50)?;
    ledger.stop()?;
    cluster.psql("DELETE FROM ledger WHERE writer = 0 AND sequence = 1")?;
    cluster.psql("UPDATE ledger SET payload = 'other' WHERE writer = 1 AND sequence = 1")?;
    let comparison = ledger.expected(&Until::end()).compare(&cluster)?;
    assert_eq!(
        (
            comparison.missing.len(),
            comparison.extra.len(),
            comparison.altered.len()
        ),
        (1, 0, 1)
    );
    cluster.psql("INSERT INTO ledger VALUES (0, 1000000, '')")?;
    let comparison = ledger.expected(&Until::end()).compare(&cluster)?;
    let shown: Vec<String> = comparison
        .missing
        .iter()
        .chain(&comparison.extra)
        .map(ToString::to_string)
        .collect();
    assert_eq!(shown, ["ledger(0, 1)", "ledger(0, 1000000)"]);
    assert!(comparison.expect_exact().is_err());
    Ok(())
}

#[test]
fn a_paused_ledger_has_no_open_transaction_and_goes_on_when_told() -> Result<()> {
    let testbed = Testbed::new()?;
    let cluster = testbed.cluster("main", ClusterOptions::default())?;
    cluster.start()?;
    let ledger = cluster.ledger(&LedgerOptions::default())?;
    ledger.wait_for_commits(20)?;
    ledger.pause()?;
    let before = ledger.acknowledged();
    ledger
        .expected(&Until::end())
        .compare(&cluster)?
        .expect_exact()?;
    assert_eq!(ledger.acknowledged(), before);
    ledger.resume();
    ledger.wait_for_commits(20)?;
    ledger.stop()
}

#[test]
fn the_ledger_knows_the_rows_at_every_kind_of_target() -> Result<()> {
    let testbed = Testbed::new()?;
    let cluster = cluster_with_cp(&testbed)?;
    cluster.start()?;
    let ledger = cluster.ledger(&LedgerOptions {
        tables: vec!["orders".into(), "events".into()],
        ..LedgerOptions::default()
    })?;
    ledger.wait_for_commits(50)?;
    let backup = take_backup(&cluster)?;
    ledger.wait_for_commits(200)?;
    let middle = ledger.entries().len();
    ledger.wait_for_commits(200)?;
    // The writers of orders wait for their table, those of events go on.
    let dropped = cluster.commit("DROP TABLE orders")?;
    ledger.wait_for_commits(100)?;
    ledger.stop()?;
    cluster.archive_everything()?;

    let target = ledger.entries()[middle]
        .commit
        .context("find the commit in the middle")?;
    let mut cases = vec![(
        Until::before(dropped.start),
        vec![format!("recovery_target_lsn = '{}'", dropped.start)],
        false,
    )];
    for inclusive in [true, false] {
        for (stop, line) in [
            (
                Stop::Lsn(target.start, inclusive),
                format!("recovery_target_lsn = '{}'", target.start),
            ),
            (
                Stop::Lsn(target.end, inclusive),
                format!("recovery_target_lsn = '{}'", target.end),
            ),
            (
                Stop::Time(target.time, inclusive),
                format!("recovery_target_time = '{}'", postgresql_time(target.time)),
            ),
            (
                Stop::Xid(target.xid, inclusive),
                format!("recovery_target_xid = '{}'", target.xid),
            ),
        ] {
            cases.push((Until::on_first_timeline(stop), vec![line], inclusive));
        }
    }
    for (number, (until, mut lines, inclusive)) in cases.into_iter().enumerate() {
        lines.push(format!("recovery_target_inclusive = {inclusive}"));
        let restored = restore(
            &testbed,
            &cluster,
            &backup,
            &format!("restored-{number}"),
            &lines,
        )?;
        let expected = ledger.expected(&until);
        let comparison = expected
            .compare(&restored)?
            .expect_exact()
            .with_context(|| format!("{until:?}"))?;
        assert!(comparison.present > 200, "{until:?}: {comparison}");
        restored.stop(StopMode::Immediate)?;
    }
    Ok(())
}

#[test]
fn a_commit_is_where_the_ledger_says() -> Result<()> {
    let testbed = Testbed::new()?;
    let cluster = testbed.cluster(
        "main",
        ClusterOptions::default().configure("track_commit_timestamp = on"),
    )?;
    cluster.start()?;
    cluster.psql("CREATE TABLE t (a int)")?;
    let commit = cluster.commit("INSERT INTO t VALUES (1)")?;
    let time = cluster.psql(&format!(
        "SELECT (extract(epoch FROM pg_xact_commit_timestamp('{}')) * 1000000)::bigint",
        commit.xid
    ))?;
    assert_eq!(time, commit.time.as_microsecond().to_string());
    assert!(commit.start < commit.end);
    assert_eq!(commit.timeline.get(), 1);
    Ok(())
}

#[test]
fn nothing_is_left_of_a_testbed_whatever_became_of_its_servers() -> Result<()> {
    let testbed = Testbed::new()?;
    let path = testbed.path().to_owned();
    let running = testbed.cluster("running", ClusterOptions::default())?;
    running.start()?;
    let killed = testbed.cluster("killed", ClusterOptions::default())?;
    killed.start()?;
    killed.kill_hard()?;
    // A server that the testbed does not know of, as a restore may start one.
    let unknown = testbed.cluster("unknown", ClusterOptions::default())?;
    unknown.start()?;
    std::mem::forget(unknown);
    let pids: Vec<String> = ["running", "unknown"]
        .iter()
        .map(|name| fs::read_to_string(path.join(name).join("data/postmaster.pid")))
        .map(|text| Ok(text?.lines().next().unwrap_or_default().to_owned()))
        .collect::<Result<_>>()?;
    drop((running, killed));
    drop(testbed);
    assert!(!path.exists());
    for pid in pids {
        let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        assert!(state.is_empty() || state.contains(") Z "), "{state}");
    }
    Ok(())
}

#[test]
fn a_server_that_does_not_start_shows_its_log() -> Result<()> {
    let testbed = Testbed::new()?;
    let cluster = testbed.cluster(
        "main",
        ClusterOptions::default().configure("no_such_setting = 1"),
    )?;
    let message = format!("{:#}", cluster.start().unwrap_err());
    assert!(
        message.contains("unrecognized configuration parameter \"no_such_setting\""),
        "{message}"
    );
    Ok(())
}
