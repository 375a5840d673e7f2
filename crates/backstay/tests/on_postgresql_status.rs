//! `backstay status` and `backstay report` on a real server: when it is well, and with faults.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use archive::Archive;
use serde_json::json;
use testbed::{Cluster, ClusterOptions, StopMode, Testbed, wait_until};
use wal::{SegmentName, WalFileName};

const NONE: [&str; 0] = [];

fn instance(testbed: &Testbed) -> Result<Cluster> {
    let home = testbed.path().join("main");
    let options = ClusterOptions::archiving()
        .segment_size_mib(1)
        .configure("archive_timeout = 3600")
        .settings(&json!({
            "stateDirectory": home.join("state"),
            "objectives": { "rpoSeconds": 86_400, "rtoSeconds": 3600 },
            // The disk of this machine is not the patient.
            "healthCheck": { "minimumFreeBytes": 1, "maximumUsedPercent": 100 },
        }));
    let cluster = testbed.cluster("main", options)?;
    cluster.start()?;
    cluster
        .run("pg-base-backup", ["--full"])?
        .expect_success()?;
    cluster.psql("CREATE TABLE rows (i int)")?;
    cluster.archive_everything()?;
    Ok(cluster)
}

fn status(cluster: &Cluster) -> Result<String> {
    let run = cluster
        .run("backstay", ["status", "main"])?
        .expect_success()?;
    ensure!(run.stderr.is_empty(), "{}", run.stderr);
    ensure!(!run.stdout.contains('\x1b'), "{}", run.stdout);
    Ok(run.stdout)
}

fn says(text: &str, expected: &[&str]) -> Result<()> {
    for part in expected {
        ensure!(text.contains(part), "{part:?} is missing in\n{text}");
    }
    Ok(())
}

#[test]
fn an_instance_that_is_well_is_one_screen_and_nothing_is_written() -> Result<()> {
    let testbed = Testbed::new()?;
    let cluster = instance(&testbed)?;
    let text = status(&cluster)?;
    says(
        &text,
        &[
            "main  OK, ",
            "\n  server            running for ",
            "\n  can be restored   from  20",
            "\n  base backups      1, newest ",
            "\n  WAL archive       last file ",
            "\n  last drill        none, and none is declared: nobody knows whether a restore works\n",
            "\n  objectives        lost with this server's disk: 0 seconds, at most 24 hours: kept\n",
            "\n                    lost with this whole host: not measured (no objective)\n",
            "\n  to go back        backstay restore main --to latest\n",
        ],
    )?;
    ensure!(text.lines().count() < 24, "{text}");
    ensure!(!cluster.home().join("state").exists(), "status has written");

    let shown = cluster
        .run("backstay", ["status", "main", "--json"])?
        .expect_success()?
        .json()?;
    assert_eq!(shown["severity"], "ok");
    assert_eq!(shown["findings"], json!([]));
    assert_eq!(shown["server"]["state"], "running");
    assert_eq!(shown["windows"].as_array().map(Vec::len), Some(1));
    assert_eq!(shown["windows"][0]["restorable"], true);
    assert_eq!(shown["baseBackups"][0]["incremental"], false);
    assert_eq!(shown["archive"]["waitingFiles"], 0);
    Ok(())
}

#[test]
fn each_fault_is_said_with_what_can_still_be_restored() -> Result<()> {
    let testbed = Testbed::new()?;
    let cluster = instance(&testbed)?;

    // The archiver fails.
    cluster.psql("ALTER SYSTEM SET archive_command = 'false'")?;
    cluster.psql("SELECT pg_reload_conf()")?;
    cluster.psql("INSERT INTO rows VALUES (1)")?;
    cluster.switch_wal()?;
    let text = wait_until("the failure is found", || {
        let text = status(&cluster)?;
        Ok(text.contains("critical: archiver: ").then_some(text))
    })?;
    says(
        &text,
        &[
            "main  CRITICAL, ",
            "archive_command fails",
            "the server's log has what the command said",
            "running for ",
            "from  20",
        ],
    )?;
    cluster.psql("ALTER SYSTEM RESET archive_command")?;
    cluster.psql("SELECT pg_reload_conf()")?;
    let last = cluster.archive_everything()?;
    wait_until("the instance is well again", || {
        Ok(status(&cluster)?.contains("main  OK, ").then_some(()))
    })?;

    // A file is missing in the archive, and the server has it no more.
    wait_until("the server has recycled the file", || {
        cluster.psql("INSERT INTO rows VALUES (2)")?;
        cluster.archive_everything()?;
        cluster.psql("CHECKPOINT")?;
        Ok((!cluster.data().join("pg_wal").join(&last).exists()).then_some(()))
    })?;
    let archive = Archive::open(&cluster.archive(), "main")?;
    let stored = archive.path_of(
        archive.newest_cluster()?,
        &WalFileName::Segment(SegmentName::parse(&last)?),
    )?;
    let aside = testbed.path().join("aside");
    durable_file::move_to_new_name(&stored, &aside)?;
    says(
        &status(&cluster)?,
        &[
            "critical: continuity: the archive has a gap",
            "NOT THE PRESENT: WAL is missing after it\n",
            &format!("a gap of 1 WAL files on timeline 1, from {last} on"),
            "\n  to go back        backstay windows main\n",
        ],
    )?;
    let windows = cluster
        .run("backstay", ["windows", "main"])?
        .expect_success()?;
    says(
        &windows.stdout,
        &["missing after that: 1 WAL files", &last, "hint: "],
    )?;
    durable_file::move_to_new_name(&aside, &stored)?;

    // The server is down, and what can be restored is known all the same.
    cluster.stop(StopMode::Fast)?;
    says(
        &status(&cluster)?,
        &[
            "critical: server: ",
            "server            DOES NOT ANSWER",
            "can be restored   from  20",
            "to go back",
        ],
    )?;

    // The archive is gone with its disk.
    let away = testbed.path().join("away");
    durable_file::move_to_new_name(&cluster.archive(), &away)?;
    says(
        &status(&cluster)?,
        &[
            "critical: archive: ",
            "WAL archive       CANNOT BE READ",
            "can be restored   NOTHING that is known",
            // They are on another disk.
            "base backups      1, newest ",
        ],
    )?;
    durable_file::move_to_new_name(&away, &cluster.archive())?;
    Ok(())
}

#[test]
fn every_instance_of_the_host_is_shown_and_one_that_cannot_be_does_not_hide_the_others()
-> Result<()> {
    let testbed = Testbed::new()?;
    let cluster = instance(&testbed)?;
    let directory = testbed.path().join("etc");
    fs::create_dir(&directory)?;
    fs::write(
        directory.join("main.json"),
        fs::read(cluster.settings_path())?,
    )?;
    // Settings of other programs stand beside those of instances.
    fs::write(directory.join("datasets.json"), r#"{ "datasets": [] }"#)?;
    let place = directory.display().to_string();
    let all = |arguments: &[&str]| {
        testbed::run(
            "backstay",
            [arguments, &["--settings-directory", &place]].concat(),
        )
    };
    let run = all(&["status"])?.expect_success()?;
    says(&run.stdout, &["main  OK, "])?;

    fs::write(
        directory.join("other.json"),
        r#"{ "instance": "other", "postgresql": {}, "typo": 1 }"#,
    )?;
    let run = all(&["status"])?.expect_code(1)?;
    says(
        &run.stdout,
        &[
            "main  OK, ",
            "other  UNKNOWN, it cannot be looked at",
            "typo",
        ],
    )?;
    says(&run.stderr, &["cannot look at other"])?;
    let shown = all(&["status", "--json"])?.expect_code(1)?.json()?;
    assert_eq!(shown.as_array().map(Vec::len), Some(1));

    let file = testbed.path().join("report.html");
    let path = file.display().to_string();
    let run = all(&["report", &path])?.expect_code(1)?;
    says(&run.stderr, &["wrote ", "cannot look at other"])?;
    let page = fs::read_to_string(&file)?;
    says(
        &page,
        &[
            "<h2>main <span class=\"badge ok\">",
            "<h2>other <span class=\"badge unknown\">",
        ],
    )?;

    let nowhere = testbed.path().join("nowhere/report.html");
    let run = all(&["report", &nowhere.display().to_string()])?.expect_code(1)?;
    says(&run.stderr, &["there is no directory ", "hint: "])?;

    fs::remove_file(directory.join("other.json"))?;
    fs::remove_file(directory.join("main.json"))?;
    let run = all(&["status"])?.expect_code(1)?;
    says(&run.stderr, &["has no settings of an instance", "hint: "])
}

#[test]
fn a_report_has_the_windows_and_what_the_health_check_noted_over_time() -> Result<()> {
    let testbed = Testbed::new()?;
    let cluster = instance(&testbed)?;
    let file = testbed.path().join("report.html");
    let path = file.display().to_string();
    cluster
        .run("backstay", ["report", &path])?
        .expect_success()?;
    let page = fs::read_to_string(&file)?;
    let backup = cluster
        .run("backstay", ["status", "main", "--json"])?
        .json()?["baseBackups"][0]["name"]
        .as_str()
        .context("no base backup")?
        .to_owned();
    says(
        &page,
        &[
            "<!DOCTYPE html>",
            "class=\"reach\"",
            &format!("<title>{backup} (full, "),
            "It has not been measured for long enough",
        ],
    )?;
    ensure!(page.ends_with("</html>\n"), "it is not whole");

    // The check of an hour ago.
    cluster.run("pg-healthcheck", NONE)?.expect_success()?;
    let chronicle = cluster.home().join("state/chronicle.json");
    let mut past: serde_json::Value = serde_json::from_slice(&fs::read(&chronicle)?)?;
    let entry = past["space"][0].clone();
    ensure!(entry["archiveBytes"].as_u64() > Some(0), "{entry}");
    ensure!(entry["baseBackupBytes"].as_u64() > Some(0), "{entry}");
    let mut earlier = entry.clone();
    earlier["at"] = json!("2026-01-01T00:00:00Z");
    past["space"] = json!([earlier, entry]);
    fs::write(&chronicle, past.to_string())?;
    cluster
        .run("backstay", ["report", &path])?
        .expect_success()?;
    says(
        &fs::read_to_string(&file)?,
        &[
            "<polygon class=\"archive\"",
            "<polygon class=\"base-backups\"",
        ],
    )
}
