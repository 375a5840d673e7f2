//! The canary on a real cluster.

use anyhow::{Result, ensure};
use serde_json::json;
use testbed::{ClusterOptions, Testbed};

#[test]
fn rows_follow_each_other_and_only_so_many_are_kept() -> Result<()> {
    let testbed = Testbed::new()?;
    let drill = testbed.path().join("drill");
    let cluster = testbed.cluster(
        "main",
        ClusterOptions::default()
            .settings(&json!({ "drill": { "directory": drill, "canary": { "rowsKept": 3 } } })),
    )?;
    cluster.start()?;
    for _ in 0..5 {
        cluster.run("pg-canary", ["--once"])?.expect_success()?;
    }
    let mut client = cluster::connect(
        cluster.socket(),
        cluster.port(),
        "postgres",
        "backstay_canary",
    )?;
    let rows = canary::read(&mut client)?;
    ensure!(
        rows.as_ref()
            .is_some_and(|rows| (rows.first, rows.last) == (3, 5)),
        "{rows:?}"
    );
    // A row that somebody takes out of the middle breaks the chain.
    cluster.psql_in("backstay_canary", "DELETE FROM canary WHERE sequence = 4")?;
    assert_eq!(
        canary::read(&mut client).unwrap_err().to_string(),
        "the chain of canaries is broken: rows 3 to 5 are 2 and not 3"
    );
    cluster.psql_in(
        "backstay_canary",
        "UPDATE canary SET sequence = 4, lsn = '0/1' WHERE sequence = 5",
    )?;
    ensure!(
        canary::read(&mut client)
            .unwrap_err()
            .to_string()
            .ends_with("was written before the one that it follows")
    );
    Ok(())
}

#[test]
fn without_a_declaration_nothing_is_written() -> Result<()> {
    let testbed = Testbed::new()?;
    let cluster = testbed.cluster("main", ClusterOptions::default())?;
    cluster.start()?;
    let run = cluster.run("pg-canary", ["--once"])?.expect_code(1)?;
    ensure!(
        run.stderr.contains("the settings declare no canary"),
        "{}",
        run.stderr
    );
    assert_eq!(cluster.psql("SELECT count(*) FROM pg_database")?, "3");
    Ok(())
}
