//! Notes of copies of a real archive and of a real base backup.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use testbed::{Cluster, ClusterOptions, Testbed};

fn note(cluster: &Cluster, content: &str, when: &str) -> Result<testbed::Run> {
    cluster.run(
        "pg-off-site",
        ["--repository", "nas", "--content", content, when],
    )
}

fn record(cluster: &Cluster, content: &str) -> Result<Option<Value>> {
    let state = cluster.settings()?.state_directory();
    let path = state.join(format!("off-site-{content}-nas.json"));
    if !path.exists() {
        return Ok(None);
    }
    Ok(Some(serde_json::from_slice(&std::fs::read(&path)?)?))
}

#[test]
fn a_note_says_what_was_there_when_the_copy_began() -> Result<()> {
    let testbed = Testbed::new()?;
    let password = testbed.path().join("password");
    let cluster = testbed.cluster(
        "main",
        ClusterOptions::archiving().settings(
            &json!({ "stateDirectory": testbed.path().join("state"), "restic": [{
            "name": "nas",
            "repository": testbed.path().join("repository"),
            "passwordFile": password,
            "jobs": [
                { "job": "wal", "unit": "wal.service" },
                { "job": "base", "unit": "base.service" },
            ],
        }] }),
        ),
    )?;
    cluster.start()?;
    let first = cluster.archive_everything()?;
    cluster.run("pg-base-backup", [""; 0])?.expect_success()?;

    note(&cluster, "wal", "--begin")?.expect_success()?;
    ensure!(record(&cluster, "wal")?.is_none(), "it has not ended");
    let later = cluster.archive_everything()?;
    ensure!(later > first, "{later} comes after {first}");
    note(&cluster, "wal", "--end")?.expect_success()?;
    let of_first = record(&cluster, "wal")?.context("it has ended")?;
    ensure!(!of_first["finishedAt"].is_null());

    // What came in between is in the next note and not in this one.
    note(&cluster, "wal", "--begin")?.expect_success()?;
    note(&cluster, "wal", "--end")?.expect_success()?;
    let of_later = record(&cluster, "wal")?.context("it has ended")?;
    ensure!(
        of_first["holds"]["end"] != of_later["holds"]["end"],
        "{of_first} {of_later}"
    );
    assert_eq!(of_later["holds"]["timeline"], json!(1));

    note(&cluster, "base", "--begin")?.expect_success()?;
    note(&cluster, "base", "--end")?.expect_success()?;
    let base = record(&cluster, "base")?.context("it has ended")?;
    let name = base["holds"]["newest"].as_str().context("a name")?;
    ensure!(cluster.backups().join(name).is_dir(), "{base}");
    Ok(())
}

#[test]
fn a_copy_that_did_not_begin_has_not_ended_and_an_archive_that_is_away_is_not_noted() -> Result<()>
{
    let testbed = Testbed::new()?;
    let cluster = testbed.cluster(
        "main",
        ClusterOptions::archiving().settings(
            &json!({ "stateDirectory": testbed.path().join("state"), "restic": [{
            "name": "nas",
            "repository": "/nowhere",
            "passwordFile": "/nowhere/password",
            "jobs": [{ "job": "wal", "unit": "wal.service" }],
        }] }),
        ),
    )?;
    let run = note(&cluster, "wal", "--end")?.expect_code(1)?;
    ensure!(
        run.stderr.contains("nobody has noted when the copy began"),
        "{}",
        run.stderr
    );
    let run = note(&cluster, "base", "--begin")?.expect_code(1)?;
    ensure!(
        run.stderr
            .contains("no such copy into the repository \"nas\" is declared"),
        "{}",
        run.stderr
    );
    // As if nothing were mounted there any more.
    std::fs::remove_file(cluster.archive().join("archive.json"))?;
    note(&cluster, "wal", "--begin")?.expect_code(1)?;
    note(&cluster, "wal", "--end")?.expect_code(1)?;
    ensure!(record(&cluster, "wal")?.is_none());
    Ok(())
}
