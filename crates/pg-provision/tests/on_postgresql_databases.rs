//! Declared databases on a real server: the examples of the guide, rights, and what becomes of what
//! is no longer declared.

mod common;

use std::fs;

use anyhow::{Result, ensure};
use common::Instance;
use serde_json::{Value, json};

/// The service of the guide with uuid-ossp and a reader.
fn dispatcharr(instance: &Instance) -> Result<Value> {
    Ok(json!({
        "roles": {
            "dispatcharr": { "passwordFile": instance.secret("dispatcharr", "one\n")? },
            "readonly": {}
        },
        "declared": { "dispatcharr": {
            "owner": "dispatcharr",
            "revokePublic": true,
            "extensions": [{ "name": "uuid-ossp" }, { "name": "pg_trgm" }],
            "permissions": { "dispatcharr": ["ALL"], "readonly": ["SELECT"] }
        } }
    }))
}

#[test]
fn a_service_of_the_guide_gets_its_database_and_a_reader_that_reads_and_nothing_else() -> Result<()>
{
    let instance = Instance::new()?;
    instance.declare(&dispatcharr(&instance)?)?;
    instance.provision()?;
    instance.converged()?;
    // PostgreSQL 15 took away what everybody had in the schema public; the owner has it.
    instance.psql_as(
        "dispatcharr",
        "dispatcharr",
        "CREATE TABLE channels (id serial PRIMARY KEY, name text);
         INSERT INTO channels (name) VALUES ('one');
         CREATE VIEW names AS SELECT name FROM channels;
         CREATE SCHEMA later;
         CREATE TABLE later.more AS SELECT 1 AS one;
         SELECT uuid_generate_v4()",
    )?;
    for (sql, expected) in [
        ("SELECT name FROM channels", "one"),
        ("SELECT name FROM names", "one"),
        ("SELECT one FROM later.more", "1"),
        ("SELECT last_value FROM channels_id_seq", "1"),
        ("SELECT similarity('a', 'a')", "1"),
    ] {
        assert_eq!(instance.psql_as("readonly", "dispatcharr", sql)?, expected);
    }
    for sql in [
        "INSERT INTO channels (name) VALUES ('two')",
        "UPDATE channels SET name = 'two'",
        "DELETE FROM channels",
        "TRUNCATE channels",
        "SELECT nextval('channels_id_seq')",
        "CREATE TABLE mine (i int)",
        "CREATE SCHEMA mine",
        "CREATE TEMPORARY TABLE mine (i int)",
        "DROP TABLE channels",
    ] {
        let reason = instance.refused("readonly", "dispatcharr", sql)?;
        ensure!(
            reason.contains("permission denied") || reason.contains("must be owner"),
            "{sql}: {reason}"
        );
    }
    // Whoever is not named does not get in.
    instance.cluster.psql("CREATE ROLE stranger LOGIN")?;
    let reason = instance.refused("stranger", "dispatcharr", "SELECT 1")?;
    ensure!(
        reason.contains("does not have CONNECT privilege"),
        "{reason}"
    );
    instance.converged()
}

#[test]
fn the_guides_extensions_are_found_by_their_names() -> Result<()> {
    let instance = Instance::new()?;
    instance.declare(&json!({
        "roles": { "immich": {}, "backup": {} },
        "declared": { "immich": {
            "owner": "immich",
            "extensions": [{ "name": "earthdistance" }, { "name": "pg_trgm" }],
            "permissions": { "immich": ["ALL"], "backup": ["SELECT"] }
        } }
    }))?;
    instance.provision()?;
    assert_eq!(
        instance
            .cluster
            .psql_in("immich", "SELECT extname FROM pg_extension ORDER BY 1")?,
        "cube\nearthdistance\npg_trgm\nplpgsql"
    );
    instance.converged()?;

    // pgvector may not be on this machine; then the message says what is meant.
    instance.declare(&json!({
        "roles": { "immich": {} },
        "declared": { "immich": { "owner": "immich", "extensions": [{ "name": "vectors" }] } }
    }))?;
    let offers = instance
        .cluster
        .psql("SELECT count(*) FROM pg_available_extensions WHERE name IN ('vector', 'vectors')")?;
    if offers == "0" {
        let said = instance.fails()?;
        ensure!(said.contains("pgvector's is called \"vector\""), "{said}");
    } else {
        instance.provision()?;
    }
    Ok(())
}

#[test]
fn v5_a_second_run_writes_nothing() -> Result<()> {
    let instance = Instance::new()?;
    let mut declared = dispatcharr(&instance)?;
    declared["declared"]["dispatcharr"]["settings"] =
        json!({ "search_path": "app, public", "timezone": "UTC" });
    declared["roles"]["dispatcharr"]["connectionLimit"] = json!(5);
    declared["roles"]["dispatcharr"]["settings"] = json!({ "statement_timeout": "30s" });
    declared["roles"]["dispatcharr"]["memberOf"] = json!(["pg_monitor"]);
    instance.declare(&declared)?;
    instance.provision()?;
    let before = instance.next_transaction()?;
    let catalog = instance.catalog()?;
    let said = instance.provision()?;
    ensure!(said.contains("everything is as it is declared"), "{said}");
    assert_eq!(
        instance.next_transaction()?,
        before,
        "a run without changes wrote"
    );
    assert_eq!(instance.catalog()?, catalog);
    assert_eq!(instance.plan()?, "nothing has to change\n");
    Ok(())
}

#[test]
fn what_is_changed_by_hand_is_found_and_mended() -> Result<()> {
    let instance = Instance::new()?;
    instance.declare(&dispatcharr(&instance)?)?;
    instance.provision()?;
    instance.psql_as("dispatcharr", "dispatcharr", "CREATE TABLE t (i int)")?;
    for (sql, sentence) in [
        (
            "GRANT INSERT ON t TO readonly",
            "revoke INSERT on table \"public.t\" from \"readonly\"",
        ),
        (
            "REVOKE SELECT ON t FROM readonly",
            "grant SELECT on table \"public.t\" to \"readonly\"",
        ),
        (
            "GRANT CONNECT ON DATABASE dispatcharr TO PUBLIC",
            "revoke CONNECT on the database from everybody",
        ),
        (
            "ALTER DEFAULT PRIVILEGES FOR ROLE dispatcharr REVOKE SELECT ON TABLES FROM readonly",
            "grant SELECT on future tables of \"dispatcharr\" to \"readonly\"",
        ),
        (
            "DROP EXTENSION pg_trgm",
            "create extension \"pg_trgm\", in schema \"public\"",
        ),
        (
            "ALTER ROLE dispatcharr CREATEDB",
            "role \"dispatcharr\" may no longer create databases",
        ),
        (
            "ALTER ROLE dispatcharr PASSWORD 'other'",
            "set the password of role \"dispatcharr\", which has another",
        ),
        (
            "ALTER DATABASE dispatcharr OWNER TO postgres",
            "role \"dispatcharr\" becomes the owner",
        ),
    ] {
        instance.cluster.psql_in("dispatcharr", sql)?;
        let run = instance.run(&["--check"])?.expect_code(1)?;
        ensure!(run.stdout.contains(sentence), "{sql}: {}", run.stdout);
        let said = instance.provision()?;
        ensure!(said.contains(sentence), "{sql}: {said}");
        instance.converged()?;
    }
    Ok(())
}

#[test]
fn what_is_no_longer_declared_is_revoked_and_nothing_with_data_is_dropped() -> Result<()> {
    let instance = Instance::new()?;
    instance.declare(&dispatcharr(&instance)?)?;
    instance.provision()?;
    instance.psql_as(
        "dispatcharr",
        "dispatcharr",
        "CREATE TABLE t AS SELECT 1 AS i",
    )?;

    // A role that is no longer named loses its rights and its login.
    let mut less = dispatcharr(&instance)?;
    less["roles"] = json!({ "dispatcharr": less["roles"]["dispatcharr"] });
    less["declared"]["dispatcharr"]["permissions"] = json!({});
    instance.declare(&less)?;
    let plan = instance.plan()?;
    for sentence in [
        "role \"readonly\" may no longer log in",
        "revoke CONNECT on the database from \"readonly\"",
        "revoke SELECT on table \"public.t\" from \"readonly\"",
        "revoke SELECT on future tables of \"dispatcharr\" from \"readonly\"",
        "note: role \"readonly\" is no longer declared; it stays",
    ] {
        ensure!(plan.contains(sentence), "{sentence}: {plan}");
    }
    instance.provision()?;
    instance.converged()?;
    instance.psql_as(
        "dispatcharr",
        "dispatcharr",
        "CREATE TABLE later AS SELECT 1 AS i",
    )?;
    let rights = instance.cluster.psql_in(
        "dispatcharr",
        "SELECT has_table_privilege('readonly', 't', 'SELECT'),
                has_table_privilege('readonly', 'later', 'SELECT'),
                has_database_privilege('readonly', 'dispatcharr', 'CONNECT'),
                (SELECT rolcanlogin FROM pg_roles WHERE rolname = 'readonly')",
    )?;
    assert_eq!(rights, "f|f|f|f");

    // So does the owner of a database that is no longer declared, and its data stays.
    instance.declare(&json!({}))?;
    instance.provision()?;
    instance.converged()?;
    assert_eq!(
        instance.cluster.psql_in("dispatcharr", "SELECT i FROM t")?,
        "1"
    );
    assert_eq!(
        instance.cluster.psql(
            "SELECT rolcanlogin, pg_get_userbyid(datdba) FROM pg_database, pg_roles
             WHERE datname = 'dispatcharr' AND rolname = 'dispatcharr'"
        )?,
        "f|dispatcharr"
    );

    // Declared again, everything is as before.
    instance.declare(&dispatcharr(&instance)?)?;
    instance.provision()?;
    instance.converged()?;
    assert_eq!(
        instance.psql_as("readonly", "dispatcharr", "SELECT i FROM later")?,
        "1"
    );
    Ok(())
}

#[test]
fn a_database_that_is_not_managed_is_left_as_it_is() -> Result<()> {
    let instance = Instance::new()?;
    let mut declared = dispatcharr(&instance)?;
    instance.declare(&declared)?;
    instance.provision()?;
    declared["declared"]["dispatcharr"] =
        json!({ "managed": false, "owner": "dispatcharr", "permissions": { "readonly": [] } });
    instance.declare(&declared)?;
    instance.converged()?;
    instance.cluster.psql_in(
        "dispatcharr",
        "GRANT CONNECT ON DATABASE dispatcharr TO PUBLIC",
    )?;
    instance.converged()?;
    instance.provision()?;
    assert_eq!(
        instance
            .cluster
            .psql("SELECT has_database_privilege('readonly', 'dispatcharr', 'CONNECT')")?,
        "t"
    );
    Ok(())
}

#[test]
fn one_database_that_fails_does_not_stop_the_others_and_is_named() -> Result<()> {
    let instance = Instance::new()?;
    instance.declare(&json!({
        "roles": {
            "good": {},
            "bad": { "passwordFile": instance.secret("bad", "")? },
            "other": {}
        },
        "declared": {
            "a": { "owner": "good" },
            "b": { "owner": "bad" },
            "c": { "owner": "good", "permissions": { "bad": ["SELECT"] } },
            "d": { "owner": "good", "extensions": [{ "name": "no_such_extension" }] },
            "e": { "owner": "other", "tablespace": "nowhere" },
            "f": { "owner": "good" }
        }
    }))?;
    let said = instance.fails()?;
    for line in [
        "could not bring about role \"bad\": read the password of role \"bad\":",
        "could not bring about database \"b\": role \"bad\" could not be brought about",
        "could not bring about database \"c\": role \"bad\" could not be brought about",
        "could not bring about database \"d\": the server does not offer extension \"no_such_extension\"",
        "could not bring about database \"e\": tablespace \"nowhere\" does not exist",
        "could not provision databases: role \"bad\", database \"b\", database \"c\", database \"d\", database \"e\"; everything else is as it is declared",
    ] {
        ensure!(said.contains(line), "{line}: {said}");
    }
    assert_eq!(
        instance
            .cluster
            .psql("SELECT datname FROM pg_database WHERE NOT datistemplate ORDER BY 1")?,
        "a\nf\npostgres"
    );
    ensure!(!instance.stamp().exists());
    instance.run(&["--ready", "a"])?.expect_success()?;
    let said = instance.run(&["--ready", "d"])?.expect_code(2)?.stderr;
    ensure!(
        said.contains("database \"d\" is not as it is declared"),
        "{said}"
    );
    Ok(())
}

#[test]
fn a_change_that_fails_in_the_middle_leaves_the_database_as_it_was() -> Result<()> {
    let instance = Instance::new()?;
    instance.declare(&json!({
        "roles": { "app": {} },
        "declared": { "app": { "owner": "app" } }
    }))?;
    instance.provision()?;
    // The last of several steps cannot work.
    instance.declare(&json!({
        "roles": { "app": {}, "reader": {} },
        "declared": { "app": {
            "owner": "app",
            "connectionLimit": 5,
            "extensions": [{ "name": "pg_trgm" }],
            "settings": { "work_mem": "many" },
            "permissions": { "reader": ["SELECT"] }
        } }
    }))?;
    let said = instance.fails()?;
    ensure!(
        said.contains("invalid value for parameter \"work_mem\""),
        "{said}"
    );
    assert_eq!(
        instance.cluster.psql_in(
            "app",
            "SELECT datconnlimit, has_database_privilege('reader', 'app', 'CREATE'),
                    (SELECT count(*) FROM pg_extension)
             FROM pg_database WHERE datname = 'app'"
        )?,
        "-1|f|1"
    );
    Ok(())
}

#[test]
fn properties_are_set_at_creation_and_what_cannot_be_changed_is_refused() -> Result<()> {
    let instance = Instance::new()?;
    instance.declare(&json!({
        "roles": { "app": {} },
        "declared": {
            "app": { "owner": "app", "encoding": "LATIN1", "collation": "C", "lcCtype": "C", "isTemplate": true,
                     "connectionLimit": 7, "settings": { "timezone": "Europe/Berlin" } },
            "copy": { "template": "app" }
        }
    }))?;
    instance.provision()?;
    instance.converged()?;
    assert_eq!(
        instance.cluster.psql(
            "SELECT datname, pg_encoding_to_char(encoding), datcollate, datistemplate, datconnlimit,
                    pg_get_userbyid(datdba)
             FROM pg_database WHERE datname IN ('app', 'copy') ORDER BY 1"
        )?,
        "app|LATIN1|C|t|7|app\ncopy|LATIN1|C|f|-1|postgres"
    );
    assert_eq!(
        instance.cluster.psql_in("app", "SHOW timezone")?,
        "Europe/Berlin"
    );
    instance.declare(&json!({
        "roles": { "app": {} },
        "declared": { "app": { "owner": "app", "encoding": "UTF8" } }
    }))?;
    let said = instance.fails()?;
    ensure!(
        said.contains("could not bring about database \"app\": its encoding is \"LATIN1\", and \"UTF8\" is declared"),
        "{said}"
    );
    ensure!(
        said.contains("hint: the encoding of a database is fixed"),
        "{said}"
    );
    Ok(())
}

#[test]
fn init_scripts_run_once_for_each_content_as_the_owner() -> Result<()> {
    let instance = Instance::new()?;
    let script = instance.cluster.home().join("schema.sql");
    let declare = || {
        instance.declare(&json!({
            "roles": { "app": {}, "reader": {} },
            "declared": { "app": {
                "owner": "app", "permissions": { "reader": ["SELECT"] }, "initScripts": [script]
            } }
        }))
    };
    fs::write(
        &script,
        "CREATE TABLE notes (note text); INSERT INTO notes VALUES (current_user)",
    )?;
    declare()?;
    ensure!(
        instance.plan()?.contains("run init script \"schema.sql\""),
        "{}",
        instance.plan()?
    );
    instance.provision()?;
    instance.converged()?;
    instance.provision()?;
    assert_eq!(
        instance.psql_as("reader", "app", "SELECT string_agg(note, ',') FROM notes")?,
        "app"
    );
    fs::write(&script, "INSERT INTO notes VALUES ('again')")?;
    instance.provision()?;
    fs::write(&script, "INSERT INTO notes VALUES ('half'); SELECT 1 / 0")?;
    let said = instance.fails()?;
    ensure!(said.contains("division by zero"), "{said}");
    fs::write(
        &script,
        "BEGIN; INSERT INTO notes VALUES ('itself'); COMMIT",
    )?;
    let said = instance.fails()?;
    ensure!(said.contains("ends its transaction itself"), "{said}");
    fs::write(&script, "INSERT INTO notes VALUES ('again')")?;
    instance.provision()?;
    assert_eq!(
        instance.psql_as("app", "app", "SELECT string_agg(note, ',') FROM notes")?,
        "app,again,itself"
    );
    Ok(())
}

#[test]
fn migrations_run_in_order_and_an_edited_one_is_refused() -> Result<()> {
    let instance = Instance::new()?;
    let directory = instance.cluster.home().join("migrations");
    fs::create_dir(&directory)?;
    let write = |name: &str, sql: &str| fs::write(directory.join(name), sql);
    write("001.sql", "CREATE TABLE t (i int)")?;
    write("002.sql", "INSERT INTO t VALUES (2)")?;
    instance.declare(&json!({
        "roles": { "app": {} },
        "declared": { "app": { "owner": "app", "migrations": directory } }
    }))?;
    instance.provision()?;
    write("003.sql", "INSERT INTO t VALUES (3); SELECT 1 / 0")?;
    write("004.sql", "INSERT INTO t VALUES (4)")?;
    let said = instance.fails()?;
    ensure!(said.contains("003.sql\": division by zero"), "{said}");
    let rows = || instance.psql_as("app", "app", "SELECT string_agg(i::text, ',') FROM t");
    assert_eq!(rows()?, "2");
    write("003.sql", "INSERT INTO t VALUES (3)")?;
    instance.provision()?;
    instance.converged()?;
    assert_eq!(rows()?, "2,3,4");
    for (name, sql, message) in [
        (
            "002.sql",
            Some("INSERT INTO t VALUES (5)"),
            "migration \"002.sql\" has been changed since it ran",
        ),
        ("002.sql", None, "migration \"002.sql\" has run and is gone"),
        (
            "0015.sql",
            Some("SELECT 1"),
            "migration \"0015.sql\" is new and sorts before \"004.sql\", which has run",
        ),
    ] {
        match sql {
            Some(sql) => write(name, sql)?,
            None => fs::remove_file(directory.join(name))?,
        }
        let said = instance.fails()?;
        ensure!(said.contains(message), "{message}: {said}");
        write("002.sql", "INSERT INTO t VALUES (2)")?;
        instance.provision().or_else(|_| {
            fs::remove_file(directory.join(name))?;
            instance.provision()
        })?;
    }
    assert_eq!(rows()?, "2,3,4");
    Ok(())
}

#[test]
fn rows_of_an_applications_own_table_of_migrations_are_kept() -> Result<()> {
    let instance = Instance::new()?;
    let declare = |entries: &Value, prune: bool| {
        instance.declare(&json!({
            "roles": { "app": {} },
            "declared": { "app": { "owner": "app", "schemaMigrations": {
                "schema": "own", "ensureTable": true, "columnType": "bigint", "insertedAtColumn": "inserted_at",
                "entries": entries, "pruneUnknown": prune
            } } }
        }))
    };
    declare(&json!(["1", "2"]), false)?;
    instance.provision()?;
    instance.converged()?;
    let rows = || {
        instance.psql_as(
            "app",
            "app",
            "SELECT string_agg(version::text, ',' ORDER BY version) FROM own.schema_migrations WHERE inserted_at IS NOT NULL",
        )
    };
    assert_eq!(rows()?, "1,2");
    declare(&json!(["2", "3"]), false)?;
    instance.provision()?;
    assert_eq!(rows()?, "1,2,3");
    declare(&json!(["2", "3"]), true)?;
    ensure!(
        instance
            .plan()?
            .contains("remove 1 from table \"own.schema_migrations\"")
    );
    instance.provision()?;
    assert_eq!(rows()?, "2,3");
    instance.converged()
}

#[test]
fn hooks_run_where_they_belong_and_again_only_when_something_changed() -> Result<()> {
    let instance = Instance::new()?;
    let hook = |name: &str, sql: &str| -> Result<std::path::PathBuf> {
        let path = instance.cluster.home().join(name);
        fs::write(&path, sql)?;
        Ok(path)
    };
    let declared = json!({
        "roles": { "app": {} },
        "declared": { "app": { "owner": "app", "customSql": {
            "preCreate": [hook("pre-create.sql", "CREATE TABLE public.log (what text)")?],
            "postCreate": [hook("post-create.sql", "CREATE TABLE public.log (what text); INSERT INTO public.log VALUES ('created')")?],
            "preConfig": [hook("pre-config.sql", "INSERT INTO public.log VALUES ('before')")?],
            "postConfig": [hook("post-config.sql", "INSERT INTO public.log VALUES ('after')")?]
        } } }
    });
    instance.declare(&declared)?;
    instance.provision()?;
    instance.converged()?;
    instance.provision()?;
    let log = || {
        instance
            .cluster
            .psql_in("app", "SELECT string_agg(what, ',') FROM log")
    };
    assert_eq!(log()?, "created,before,after");
    assert_eq!(instance.cluster.psql("SELECT count(*) FROM log")?, "0");
    hook(
        "post-config.sql",
        "INSERT INTO public.log VALUES ('changed')",
    )?;
    instance.provision()?;
    assert_eq!(log()?, "created,before,after,before,changed");
    // Without the stamp, they run once more.
    fs::remove_file(instance.stamp())?;
    instance.provision()?;
    instance.converged()?;
    assert_eq!(log()?, "created,before,after,before,changed,before,changed");
    Ok(())
}

#[test]
fn a_new_owner_takes_over_the_record_of_what_was_run() -> Result<()> {
    let instance = Instance::new()?;
    let script = instance.cluster.home().join("one.sql");
    fs::write(&script, "CREATE TABLE t (i int)")?;
    let declare = |owner: &str| {
        instance.declare(&json!({
            "roles": { "old": {}, "new": {} },
            "declared": { "app": { "owner": owner, "initScripts": [script] } }
        }))
    };
    declare("old")?;
    instance.provision()?;
    declare("new")?;
    instance.provision()?;
    instance.converged()?;
    instance.psql_as(
        "new",
        "app",
        "INSERT INTO t VALUES (1); CREATE TABLE mine (i int)",
    )?;
    assert_eq!(
        instance
            .cluster
            .psql_in("app", "SELECT has_table_privilege('old', 'mine', 'SELECT')")?,
        "f"
    );
    Ok(())
}

#[test]
fn stamp_and_metrics_are_those_of_the_guide() -> Result<()> {
    let instance = Instance::new()?;
    let metrics = instance.cluster.home().join("metrics");
    fs::create_dir(&metrics)?;
    instance
        .cluster
        .change_settings(&json!({ "metrics": { "directory": metrics } }))?;
    instance.declare(&dispatcharr(&instance)?)?;
    instance.provision()?;
    let stamp = common::read(&instance.stamp())?;
    assert_eq!(stamp.trim().len(), 64);
    let text = common::read(&metrics.join("postgresql_databases_main.prom"))?;
    for line in [
        "postgresql_databases_total{instance=\"main\"} 1.0".to_owned(),
        "postgresql_databases_provisioned_count{instance=\"main\"} 1.0".into(),
        format!(
            "postgresql_databases_provisioned_hash{{instance=\"main\",hash=\"{}\"}} 1.0",
            stamp.trim()
        ),
        "postgresql_database_provisioned{instance=\"main\",database=\"dispatcharr\"} 1.0".into(),
    ] {
        ensure!(text.lines().any(|other| other == line), "{line}: {text}");
    }
    // Another password is another hash, and nobody can tell which from the hash alone.
    instance.secret("dispatcharr", "two")?;
    instance.provision()?;
    assert_ne!(common::read(&instance.stamp())?, stamp);
    Ok(())
}
