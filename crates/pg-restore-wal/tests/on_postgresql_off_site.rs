//! WAL files that only a restic repository has.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use archive::Archive;
use command::Command;
use serde_json::json;
use testbed::{ClusterOptions, Testbed};
use wal::{SegmentName, WalFileName};

fn restic() -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|directory| directory.join("restic"))
        .find(|program| program.is_file())
}

#[test]
fn a_file_that_is_gone_here_comes_from_restic_and_absence_needs_its_proof_too() -> Result<()> {
    let Some(restic) = restic() else {
        testbed::skip!("restic is not installed");
    };
    let testbed = Testbed::new()?;
    let password = testbed.path().join("password");
    fs::write(&password, "correct horse\n")?;
    let repository = testbed.path().join("repository");
    let cluster = testbed.cluster(
        "main",
        ClusterOptions::archiving()
            .segment_size_mib(1)
            .settings(&json!({
                "stateDirectory": testbed.path().join("state"),
                "archive": { "prefetchMebibytes": 2 },
                "restic": [{ "name": "nas", "repository": repository, "passwordFile": password }]
            })),
    )?;
    cluster.start()?;
    cluster.psql("CREATE TABLE rows (i int)")?;
    cluster
        .run("pg-base-backup", ["--full"])?
        .expect_success()?;
    let mut segments = Vec::new();
    for row in 1..=6 {
        cluster.psql(&format!("INSERT INTO rows VALUES ({row})"))?;
        segments.push(SegmentName::parse(&cluster.archive_everything()?)?);
    }
    let restic = |arguments: &[&str]| {
        Command::new(&restic)
            .args(arguments)
            .arg("--no-cache")
            .env("RESTIC_REPOSITORY", &repository)
            .env("RESTIC_PASSWORD_FILE", &password)
            .run()
    };
    restic(&["init", "--quiet"])?;
    let place = cluster.archive().display().to_string();
    restic(&[
        "backup",
        "--quiet",
        "--host=forge",
        "--tag=postgresql,main,wal-archive,postgresql-main-wal",
        &format!("--exclude={place}/incoming"),
        &place,
    ])?;

    let archive = Archive::open(&cluster.archive(), "main")?;
    let stored = |segment: SegmentName| {
        archive.path_of(archive.newest_cluster()?, &WalFileName::Segment(segment))
    };
    let last = *segments.last().context("no segment")?;
    let size = archive.newest_cluster()?.segment_size()?;
    let absent = last
        .next(size)
        .and_then(|name| name.next(size))
        .context("no next segment")?
        .to_string();
    for segment in &segments[1..4] {
        fs::remove_file(stored(*segment)?)?;
    }
    let fetched = testbed.path().join("fetched");
    let get = |name: &str, more: &[&str]| {
        let mut arguments = vec![name.to_owned(), fetched.display().to_string()];
        arguments.extend(more.iter().map(ToString::to_string));
        cluster.run("pg-restore-wal", arguments)
    };
    let name = segments[2].to_string();
    get(&name, &["--local"])?.expect_code(1)?;
    ensure!(!fetched.exists());
    get(&name, &[])?.expect_success()?;
    ensure!(
        fs::metadata(&fetched)?.len() == 1 << 20,
        "it is no whole segment"
    );
    let expected = fs::read(cluster.data().join("pg_wal").join(&name));
    if let Ok(expected) = expected {
        ensure!(fs::read(&fetched)? == expected, "it is another segment");
    }
    get(&absent, &[])?.expect_code(1)?;

    // Away, or with another password: then nobody can say that the file is absent.
    let away = testbed.path().join("away");
    durable_file::move_to_new_name(&repository, &away)?;
    let run = get(&absent, &[])?.expect_code(200)?;
    ensure!(
        run.stderr.contains("restic repository \"nas\""),
        "{}",
        run.stderr
    );
    durable_file::move_to_new_name(&away, &repository)?;
    fs::write(&password, "battery staple\n")?;
    let run = get(&absent, &[])?.expect_code(200)?;
    ensure!(run.stderr.contains("wrong password"), "{}", run.stderr);
    Ok(())
}
