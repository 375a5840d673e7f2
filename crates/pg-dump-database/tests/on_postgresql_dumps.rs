//! Dumps of one database: what counts is what can be restored.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use testbed::{Cluster, ClusterOptions, Run, Testbed};

struct Source {
    cluster: Cluster,
    _testbed: Testbed,
}

impl Source {
    fn new(database: &str) -> Result<Self> {
        let testbed = Testbed::new()?;
        let cluster = testbed.cluster("main", ClusterOptions::default())?;
        cluster.start()?;
        let source = Self {
            cluster,
            _testbed: testbed,
        };
        fs::create_dir(source.dumps())?;
        fs::create_dir(source.metrics())?;
        source.cluster.change_settings(&json!({
            "metrics": { "directory": source.metrics() },
            "databases": {
                "stampFile": source.cluster.home().join("stamp"),
                "declared": { database: { "dump": { "directory": source.dumps(), "daily": 1 } } }
            }
        }))?;
        source
            .cluster
            .psql(&format!("CREATE DATABASE \"{database}\""))?;
        Ok(source)
    }

    fn dumps(&self) -> PathBuf {
        self.cluster.home().join("dumps")
    }

    fn metrics(&self) -> PathBuf {
        self.cluster.home().join("metrics")
    }

    fn run(&self, database: &str) -> Result<Run> {
        self.cluster
            .run("pg-dump-database", ["--database", database])
    }

    /// The names of the files in the directory of the dumps.
    fn names(&self) -> Result<Vec<String>> {
        let mut names: Vec<String> = fs::read_dir(self.dumps())?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name != ".lock")
            .collect();
        names.sort();
        Ok(names)
    }
}

#[test]
fn a_dump_is_restored_whatever_the_database_is_called() -> Result<()> {
    let name = "it's = a \\ name";
    let source = Source::new(name)?;
    // psql would take this name for a connection string as well.
    let mut config = source.cluster.connection();
    let mut client = config.dbname(name).connect(postgres::NoTls)?;
    client.batch_execute(
        "CREATE TABLE t AS SELECT i, md5(i::text) AS t FROM generate_series(1, 1000) i",
    )?;
    source.run(name)?.expect_success()?;
    let dump = source.names()?.pop().context("there is no dump")?;
    source
        .cluster
        .client_program("createdb")
        .arg("copy")
        .run()?;
    source
        .cluster
        .client_program("pg_restore")
        .args(["--exit-on-error", "--dbname", "copy"])
        .arg(source.dumps().join(&dump))
        .run()?;
    let content = "SELECT count(*) || md5(string_agg(i || t, ',' ORDER BY i)) FROM t";
    let expected: String = client.query_one(content, &[])?.get(0);
    assert_eq!(source.cluster.psql_in("copy", content)?, expected);
    let metrics: Vec<_> = fs::read_dir(source.metrics())?.flatten().collect();
    let text = fs::read_to_string(metrics.first().context("no metrics")?.path())?;
    let size = fs::metadata(source.dumps().join(&dump))?.len();
    ensure!(text.contains("} 1.0\n"), "{text}");
    ensure!(
        text.contains(&format!("database=\"it's = a \\\\ name\"}} {size}.0")),
        "{text}"
    );
    Ok(())
}

#[test]
fn a_dump_that_fails_leaves_nothing_and_removes_nothing() -> Result<()> {
    let source = Source::new("app")?;
    let old = source.dumps().join("20200101-000000.dump");
    fs::write(&old, "an older dump")?;
    fs::write(
        source.dumps().join("20260101-000000.partial"),
        "of a killed run",
    )?;
    source.cluster.psql("DROP DATABASE app")?;
    let said = source.run("app")?.expect_code(1)?.stderr;
    ensure!(said.contains("database \"app\" does not exist"), "{said}");
    assert_eq!(source.names()?, ["20200101-000000.dump"]);
    let metrics = fs::read_to_string(source.metrics().join("postgresql_dump_main_app.prom"))?;
    for line in [
        "postgresql_dump_last_run_success{instance=\"main\",database=\"app\"} 0.0\n",
        // The one that is there still counts.
        "postgresql_dump_size_bytes{instance=\"main\",database=\"app\"} ",
    ] {
        ensure!(metrics.contains(line), "{metrics}");
    }
    let said = source.run("other")?.expect_code(1)?.stderr;
    ensure!(
        said.contains("no dumps of database \"other\" are declared"),
        "{said}"
    );
    assert_eq!(fs::read_dir(source.metrics())?.count(), 1);
    Ok(())
}

#[test]
fn a_dump_that_pg_restore_cannot_read_does_not_count() -> Result<()> {
    let source = Source::new("app")?;
    let programs = source.cluster.home().join("programs");
    fs::create_dir(&programs)?;
    // Succeeds, and writes what is no dump.
    let fake = programs.join("pg_dump");
    fs::write(
        &fake,
        "#!/bin/sh\nwhile [ \"$1\" != --file ]; do shift; done\necho nonsense > \"$2\"\n",
    )?;
    fs::set_permissions(&fake, fs::Permissions::from_mode(0o755))?;
    std::os::unix::fs::symlink(
        source.cluster.server().bin().join("pg_restore"),
        programs.join("pg_restore"),
    )?;
    source
        .cluster
        .change_settings(&json!({ "postgresql": { "binDirectory": programs } }))?;
    let said = source.run("app")?.expect_code(1)?.stderr;
    ensure!(
        said.contains("input file does not appear to be a valid archive"),
        "{said}"
    );
    assert_eq!(source.names()?, Vec::<String>::new());
    Ok(())
}

#[test]
fn dumps_that_no_rule_keeps_go_and_other_files_stay() -> Result<()> {
    let source = Source::new("app")?;
    for name in [
        "20200101-000000.dump",
        "20200102-000000.dump",
        "notes.txt",
        "mine.dump",
    ] {
        fs::write(source.dumps().join(name), "")?;
    }
    source.run("app")?.expect_success()?;
    let names = source.names()?;
    assert_eq!(names.len(), 3, "{names:?}");
    ensure!(names.contains(&"notes.txt".to_owned()) && names.contains(&"mine.dump".to_owned()));
    Ok(())
}

#[test]
fn two_dumps_do_not_get_into_each_others_way() -> Result<()> {
    let source = Source::new("app")?;
    let mut blocker = source
        .cluster
        .connection()
        .dbname("app")
        .connect(postgres::NoTls)?;
    blocker.batch_execute("CREATE TABLE t (i int)")?;
    let mut blocking = blocker.transaction()?;
    blocking.batch_execute("LOCK TABLE t")?;
    let mut first = source
        .cluster
        .program("pg-dump-database", ["--database", "app"])?
        .start_with_log(&source.cluster.home().join("output"))?;
    testbed::wait_until("the first dump waits for the table", || {
        let waits: bool = blocking
            .query_one(
                "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)",
                &[],
            )?
            .get(0);
        Ok(waits.then_some(()))
    })?;
    let said = source.run("app")?.expect_code(1)?.stderr;
    ensure!(said.contains("another dump is being made"), "{said}");
    blocking.rollback()?;
    ensure!(first.wait()?.success());
    assert_eq!(source.names()?.len(), 1);
    Ok(())
}
