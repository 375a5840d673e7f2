//! What `pg-archive-wal` does with what it should not be given, and what PostgreSQL sees of it.

use anyhow::{Context as _, Result, ensure};
use testbed::{Cluster, ClusterOptions, StopMode, Testbed};

fn stopped_cluster(testbed: &Testbed) -> Result<(Cluster, String)> {
    let cluster = testbed.cluster(
        "main",
        ClusterOptions::archiving()
            .segment_size_mib(1)
            .configure("archive_command = ''"),
    )?;
    cluster.start()?;
    cluster.psql("CREATE TABLE t AS SELECT g FROM generate_series(1, 20000) g")?;
    cluster.psql("SELECT pg_switch_wal()")?;
    cluster.stop(StopMode::Fast)?;
    let mut ready = cluster.ready_files()?;
    ensure!(!ready.is_empty(), "no segment is ready");
    let ready = ready.remove(0);
    Ok((cluster, ready))
}

fn files_below(directory: &std::path::Path) -> Result<Vec<std::path::PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files_below(&path)?);
        } else {
            found.push(path);
        }
    }
    Ok(found)
}

#[test]
fn an_unmounted_archive_is_refused_and_nothing_is_written_into_it() -> Result<()> {
    let testbed = Testbed::new()?;
    let (cluster, segment) = stopped_cluster(&testbed)?;
    durable_file::move_to_new_name(&cluster.archive(), &testbed.path().join("elsewhere"))?;
    std::fs::create_dir(cluster.archive())?;
    let run = cluster
        .run("pg-archive-wal", [format!("pg_wal/{segment}")])?
        .expect_code(1)?;
    ensure!(
        run.stderr.contains("hint: is the archive mounted at"),
        "{}",
        run.stderr
    );
    assert_eq!(std::fs::read_dir(cluster.archive())?.count(), 0);
    Ok(())
}

#[test]
fn a10_a_missing_or_read_only_archive_is_a_counted_failure_and_loses_nothing() -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let testbed = Testbed::new()?;
    let (cluster, segment) = stopped_cluster(&testbed)?;
    let source = cluster.data().join("pg_wal").join(&segment);
    let before = std::fs::read(&source)?;
    let archive = || cluster.run("pg-archive-wal", [format!("pg_wal/{segment}")]);

    let directory = cluster.archive().join("incoming");
    let usual = std::fs::metadata(&directory)?.permissions();
    std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o500))?;
    archive()?.expect_code(1)?;
    std::fs::set_permissions(&directory, usual)?;
    let aside = testbed.path().join("incoming");
    durable_file::move_to_new_name(&directory, &aside)?;
    archive()?.expect_code(1)?;
    durable_file::move_to_new_name(&aside, &directory)?;
    archive()?.expect_success()?;
    ensure!(std::fs::read(&source)? == before, "the source changed");
    Ok(())
}

#[test]
fn a25_hostile_names_and_arguments_are_counted_failures_and_create_nothing() -> Result<()> {
    let testbed = Testbed::new()?;
    let (cluster, _) = stopped_cluster(&testbed)?;
    let before = files_below(testbed.path())?;
    let long = "0".repeat(300);
    for name in [
        "pg_wal/../x",
        "pg_wal/a b",
        "-rf",
        "--",
        &long,
        "pg_wal/00000001\n0000000000000007",
        "",
        "/etc/passwd",
        "pg_wal/000000010000000000000007.gz",
    ] {
        cluster
            .run("pg-archive-wal", [name])?
            .expect_code(1)
            .with_context(|| format!("{name:?}"))?;
    }
    // Usage errors are failures that PostgreSQL counts, too.
    cluster
        .run("pg-archive-wal", ["--no-such-option"])?
        .expect_code(1)?;
    cluster.run("pg-archive-wal", ["a", "b"])?.expect_code(1)?;
    assert_eq!(files_below(testbed.path())?, before);
    Ok(())
}

#[test]
fn a29_a_closed_or_full_stderr_changes_no_exit_status() -> Result<()> {
    let testbed = Testbed::new()?;
    let (cluster, segment) = stopped_cluster(&testbed)?;
    let program = cluster.program("pg-archive-wal", [format!("pg_wal/{segment}")])?;
    let failing = cluster.program("pg-archive-wal", ["pg_wal/nonsense"])?;
    for (line, expected) in [(failing.line(), 1), (program.line(), 0)] {
        for redirection in ["2>&-", "2>/dev/full", ">&- 2>&- <&-"] {
            let script = format!(
                "cd {} && {line} {redirection}",
                command::quoted(&cluster.data().display().to_string())
            );
            let run = testbed::Run::of(&command::Command::new("/bin/sh").args(["-c", &script]))?;
            ensure!(run.code() == Some(expected), "{script}: {:?}", run.status);
        }
    }
    Ok(())
}

#[test]
fn a29_a_pipe_whose_reader_is_gone_changes_no_exit_status() -> Result<()> {
    let testbed = Testbed::new()?;
    let (cluster, _) = stopped_cluster(&testbed)?;
    let line = cluster
        .program("pg-archive-wal", ["pg_wal/nonsense"])?
        .line();
    let script = format!(
        "{{ {line}; echo $? >&3; }} 2>&1 3>{}/status | true",
        testbed.path().display()
    );
    testbed::Run::of(&command::Command::new("/bin/bash").args(["-c", &script]))?;
    let status = testbed::wait_until("the status is written", || {
        let text = std::fs::read_to_string(testbed.path().join("status")).unwrap_or_default();
        Ok((!text.is_empty()).then_some(text))
    })?;
    assert_eq!(status.trim(), "1");
    Ok(())
}

#[test]
fn a_settings_file_that_cannot_be_used_is_a_counted_failure() -> Result<()> {
    let testbed = Testbed::new()?;
    let (cluster, segment) = stopped_cluster(&testbed)?;
    cluster.change_settings(&serde_json::json!({ "archive": { "compresion": "lz4" } }))?;
    let run = cluster
        .run("pg-archive-wal", [format!("pg_wal/{segment}")])?
        .expect_code(1)?;
    ensure!(
        run.stderr.contains("archive.compresion: is no such key"),
        "{}",
        run.stderr
    );
    Ok(())
}
