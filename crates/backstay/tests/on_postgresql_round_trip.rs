//! The main job: a table is dropped, found and brought back, exact to the row.

use anyhow::{Context as _, Result, ensure};
use archive::Archive;
use testbed::{ClusterOptions, LedgerOptions, Testbed, Until};
use wal::WalFileName;

fn a_dropped_table_comes_back(segment_size_mib: u32, compression: &str) -> Result<()> {
    let testbed = Testbed::new()?;
    let cluster = testbed.cluster(
        "main",
        ClusterOptions::archiving()
            .segment_size_mib(segment_size_mib)
            .settings(&serde_json::json!({
                "archive": { "compression": { "algorithm": compression } },
            })),
    )?;
    cluster.start()?;
    let ledger = cluster.ledger(&LedgerOptions {
        tables: vec!["orders".into(), "events".into()],
        ..LedgerOptions::default()
    })?;
    ledger.wait_for_commits(100)?;
    cluster
        .run("pg-base-backup", ["--full"])?
        .expect_success()?;
    ledger.wait_for_commits(500)?;
    let dropped = cluster.commit("DROP TABLE orders")?;
    ledger.wait_for_commits(100)?;

    let found = cluster
        .run(
            "backstay",
            ["find", "main", "--relation", "orders", "--json"],
        )?
        .expect_success()?
        .json()?;
    let drop = found
        .as_array()
        .into_iter()
        .flatten()
        .find(|event| event["kind"] == "drop")
        .context("the drop was not found")?;
    assert_eq!(drop["relation"], "postgres.public.orders");
    assert_eq!(drop["xid"], dropped.xid);
    let target = drop["restoreTo"].as_str().context("no target")?;
    cluster
        .run("backstay", ["restore", "main", "--yes", "--to", target])?
        .expect_success()?;
    ledger.wait_for_commits(50)?;
    ledger.stop()?;

    let before = ledger.expected(&Until::before(dropped.start));
    let after = ledger.expected_where(|entry| entry.timeline.get() == 2);
    before.and(after).compare(&cluster)?.expect_exact()?;

    // Every archived segment is what PostgreSQL wrote, by the word of the standard program.
    let archive = Archive::open(&cluster.archive(), "main")?;
    let newest = archive.newest_cluster()?;
    for (name, _) in archive.list(newest)?.files {
        let WalFileName::Segment(_) = name else {
            continue;
        };
        let mut content = Vec::new();
        archive.read(newest, &name, &mut |part| {
            content.extend_from_slice(part);
            Ok(())
        })?;
        assert_eq!(content.len(), (segment_size_mib as usize) << 20);
    }
    let checked = cluster
        .run("backstay", ["archive", "verify", "main"])?
        .expect_success()?;
    ensure!(checked.stdout.contains(" 0 are not"), "{}", checked.stdout);
    Ok(())
}

#[test]
fn a33_a_dropped_table_comes_back_with_segments_of_1_mib() -> Result<()> {
    a_dropped_table_comes_back(1, "zstd")
}

#[test]
fn a33_a_dropped_table_comes_back_with_segments_of_16_mib() -> Result<()> {
    a_dropped_table_comes_back(16, "lz4")
}

#[test]
fn a33_a_dropped_table_comes_back_with_segments_of_64_mib() -> Result<()> {
    a_dropped_table_comes_back(64, "none")
}

#[test]
fn the_standard_program_gives_back_what_postgresql_wrote() -> Result<()> {
    let testbed = Testbed::new()?;
    let cluster = testbed.cluster("main", ClusterOptions::archiving().segment_size_mib(1))?;
    cluster.start()?;
    cluster.psql("CREATE TABLE t AS SELECT g, md5(g::text) FROM generate_series(1, 9000) g")?;
    let name = cluster.switch_wal()?;
    let original = std::fs::read(cluster.data().join("pg_wal").join(&name))?;
    cluster.wait_archived(&name)?;
    let archive = Archive::open(&cluster.archive(), "main")?;
    let stored = archive.path_of(archive.newest_cluster()?, &WalFileName::parse(&name)?)?;
    let plain = testbed.path().join("plain");
    let script = format!("zstd -dc {} > {}", stored.display(), plain.display());
    testbed::Run::of(&command::Command::new("/bin/sh").args(["-c", &script]))?.expect_success()?;
    ensure!(std::fs::read(plain)? == original);
    Ok(())
}
