//! `backstay verify`: what is damaged or missing, by name.

use std::fs;

use anyhow::{Result, ensure};
use archive::Archive;
use testbed::{ClusterOptions, Testbed};
use wal::{SegmentName, WalFileName};

#[test]
fn everything_that_is_damaged_or_missing_is_named_and_has_its_status() -> Result<()> {
    let testbed = Testbed::new()?;
    let cluster = testbed.cluster("main", ClusterOptions::archiving().segment_size_mib(1))?;
    cluster.start()?;
    cluster
        .run("pg-base-backup", ["--full"])?
        .expect_success()?;
    let mut segments = Vec::new();
    for _ in 0..5 {
        cluster.psql("SELECT pg_create_restore_point('here')")?;
        segments.push(SegmentName::parse(&cluster.archive_everything()?)?);
    }
    let archive = Archive::open(&cluster.archive(), "main")?;
    let stored = |segment: SegmentName| {
        archive.path_of(archive.newest_cluster()?, &WalFileName::Segment(segment))
    };
    let damage = |path: &std::path::Path| -> Result<()> {
        let mut bytes = fs::read(path)?;
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0xff;
        Ok(fs::write(path, bytes)?)
    };

    for deep in [&[][..], &["--deep"]] {
        let arguments = [&["verify", "main"], deep].concat();
        let run = cluster.run("backstay", arguments)?.expect_success()?;
        ensure!(
            run.stdout
                .ends_with("Everything is as it was recorded, without a gap.\n"),
            "{}",
            run.stdout
        );
    }

    fs::remove_file(stored(segments[1])?)?;
    damage(&stored(segments[3])?)?;
    let backup = base_backups::Repository::open(&cluster.backups(), "main")?
        .list()?
        .remove(0)
        .name;
    damage(&cluster.backups().join(&backup).join("global/pg_control"))?;
    let run = cluster
        .run("backstay", ["verify", "main", "--json"])?
        .expect_code(2)?;
    let report = run.json()?;
    assert_eq!(report["baseBackups"], 1);
    assert_eq!(report["faults"].as_array().map(Vec::len), Some(2));
    assert_eq!(report["faults"][0]["name"], segments[3].to_string());
    assert_eq!(report["faults"][1]["name"], backup);
    assert_eq!(report["gaps"][0]["afterBaseBackup"], backup);
    assert_eq!(
        report["gaps"][0]["missing"],
        serde_json::json!([segments[1].to_string()])
    );
    let run = cluster
        .run("backstay", ["verify", "main"])?
        .expect_code(2)?;
    for line in [
        format!("  DAMAGED  {}: ", segments[3]),
        format!("  DAMAGED  {backup}: "),
        format!(
            "  MISSING  1 WAL files after base backup {backup} on timeline 1: {}\n",
            segments[1]
        ),
    ] {
        ensure!(run.stdout.contains(&line), "{}", run.stdout);
    }

    // What cannot be looked at is another thing than what is damaged.
    let away = testbed.path().join("away");
    durable_file::move_to_new_name(&cluster.archive(), &away)?;
    cluster
        .run("backstay", ["verify", "main"])?
        .expect_code(1)?;
    Ok(())
}

#[test]
fn damage_that_was_archived_as_it_was_is_found_by_reading_the_records() -> Result<()> {
    let testbed = Testbed::new()?;
    let cluster = testbed.cluster("main", ClusterOptions::archiving().segment_size_mib(1))?;
    cluster.start()?;
    cluster
        .run("pg-base-backup", ["--full"])?
        .expect_success()?;
    // Nothing is archived until the segment has been damaged in pg_wal.
    let command = cluster.psql("SHOW archive_command")?;
    cluster.psql("ALTER SYSTEM SET archive_command = 'false'")?;
    cluster.psql("SELECT pg_reload_conf()")?;
    cluster.psql("CREATE TABLE t AS SELECT generate_series(1, 3000) AS i")?;
    let name = cluster.psql("SELECT pg_walfile_name(pg_current_wal_lsn())")?;
    cluster.switch_wal()?;
    let path = cluster.data().join("pg_wal").join(&name);
    let mut bytes = fs::read(&path)?;
    let middle = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0) / 2;
    bytes[middle] ^= 0xff;
    fs::write(&path, bytes)?;
    cluster.psql(&format!(
        "ALTER SYSTEM SET archive_command = '{}'",
        command.replace('\'', "''")
    ))?;
    cluster.psql("SELECT pg_reload_conf()")?;
    cluster.archive_everything()?;
    cluster.psql("INSERT INTO t VALUES (1)")?;
    cluster.archive_everything()?;

    cluster
        .run("backstay", ["verify", "main"])?
        .expect_success()?;
    let run = cluster
        .run("backstay", ["verify", "main", "--deep"])?
        .expect_code(2)?;
    ensure!(
        run.stdout.contains("  DAMAGED  WAL after base backup "),
        "{}",
        run.stdout
    );
    Ok(())
}
