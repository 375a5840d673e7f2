//! What base backups and prunes tell Prometheus, and that telling it is not what they are for.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use testbed::{Cluster, ClusterOptions, StopMode, Testbed};

/// A running instance whose metrics go to `metrics` in its directory.
fn instance(testbed: &Testbed) -> Result<Cluster> {
    let metrics = testbed.path().join("main/metrics");
    let cluster = testbed.cluster(
        "main",
        ClusterOptions::archiving()
            .segment_size_mib(1)
            .settings(&json!({ "metrics": { "directory": metrics } })),
    )?;
    fs::create_dir(&metrics)?;
    cluster.start()?;
    Ok(cluster)
}

/// The values in the file of `writer`, by series.
fn values(cluster: &Cluster, writer: &str) -> Result<BTreeMap<String, f64>> {
    let path = cluster
        .home()
        .join(format!("metrics/postgresql_{writer}_main.prom"));
    let text = fs::read_to_string(&path).with_context(|| format!("read \"{}\"", path.display()))?;
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').context("no value")?;
            Ok((series.to_owned(), value.parse()?))
        })
        .collect()
}

fn of_backups(cluster: &Cluster) -> Result<impl Fn(&str) -> Option<f64>> {
    let values = values(cluster, "backup")?;
    Ok(move |name: &str| {
        values
            .get(&format!(
                "postgresql_backup_{name}{{instance=\"main\",type=\"base\"}}"
            ))
            .copied()
    })
}

#[test]
fn a_base_backup_is_measured_and_one_that_fails_leaves_the_last_success() -> Result<()> {
    let testbed = Testbed::new()?;
    let cluster = instance(&testbed)?;
    let record = cluster
        .run("pg-base-backup", ["--full", "--json"])?
        .expect_success()?
        .json()?;
    let first = of_backups(&cluster)?;
    let number = |key: &str| record[key].as_f64();
    assert_eq!(first("last_run_success"), Some(1.0));
    assert_eq!(first("count"), Some(1.0));
    assert_eq!(first("size_bytes"), number("contentBytes"));
    assert_eq!(first("stored_bytes"), number("storedBytes"));
    ensure!(first("duration_seconds") >= number("copySeconds"));
    let stopped: jiff::Timestamp = record["stoppedAt"].as_str().context("a time")?.parse()?;
    let told = first("last_success_timestamp").context("no last success")?;
    ensure!((told - stopped.as_duration().as_secs_f64()).abs() < 0.001);
    ensure!(first("last_run_timestamp") >= first("last_success_timestamp"));

    cluster.stop(StopMode::Fast)?;
    // The file itself is not what remembers.
    fs::remove_file(cluster.home().join("metrics/postgresql_backup_main.prom"))?;
    cluster.run("pg-base-backup", ["--full"])?.expect_code(1)?;
    let failed = of_backups(&cluster)?;
    assert_eq!(failed("last_run_success"), Some(0.0));
    for kept in ["last_success_timestamp", "size_bytes", "count"] {
        assert_eq!(failed(kept), first(kept), "{kept}");
    }
    ensure!(failed("last_run_timestamp") > first("last_run_timestamp"));
    Ok(())
}

#[test]
fn h8_without_a_place_for_metrics_the_work_is_done_with_a_warning() -> Result<()> {
    let testbed = Testbed::new()?;
    let cluster = instance(&testbed)?;
    fs::remove_dir_all(cluster.home().join("metrics"))?;
    for (program, arguments) in [("pg-base-backup", &["--full"][..]), ("pg-prune", &[])] {
        let run = cluster.run(program, arguments)?.expect_success()?;
        ensure!(
            run.stderr.contains("could not write the metrics: list ")
                && run.stderr.contains("\nhint: does "),
            "{}",
            run.stderr
        );
    }
    Ok(())
}

#[test]
fn a_prune_is_measured_also_when_it_fails_and_a_plan_is_not() -> Result<()> {
    let testbed = Testbed::new()?;
    let cluster = instance(&testbed)?;
    cluster
        .run("pg-base-backup", ["--full"])?
        .expect_success()?;
    cluster.run("pg-prune", ["--plan"])?.expect_success()?;
    ensure!(values(&cluster, "prune").is_err());
    cluster.run("pg-prune", [] as [&str; 0])?.expect_success()?;
    let pruned = values(&cluster, "prune")?;
    let value = |name: &str| format!("postgresql_prune_{name}{{instance=\"main\"}}");
    assert_eq!(pruned.get(&value("last_run_success")), Some(&1.0));
    assert_eq!(pruned.get(&value("removed_base_backups")), Some(&0.0));
    ensure!(pruned.contains_key(&value("removed_wal_files")));
    fs::remove_file(cluster.archive().join("archive.json"))?;
    cluster.run("pg-prune", [] as [&str; 0])?.expect_code(1)?;
    let failed = values(&cluster, "prune")?;
    assert_eq!(failed.get(&value("last_run_success")), Some(&0.0));
    ensure!(!failed.contains_key(&value("removed_base_backups")));
    ensure!(failed.get(&value("last_run_timestamp")) > pruned.get(&value("last_run_timestamp")));
    Ok(())
}
