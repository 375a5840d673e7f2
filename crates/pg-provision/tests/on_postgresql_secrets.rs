//! Hostile names and passwords, and whether anybody gets to see a secret.

mod common;

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use common::Instance;
use postgres::NoTls;
use serde_json::{Value, json};

/// Names that a careless program makes something else of, and whether PostgreSQL can have them.
fn hostile_names() -> Vec<(String, bool)> {
    let mut names: Vec<(String, bool)> = [
        "a\"b",
        "\"",
        "\"\"",
        "a'b",
        "'",
        "a;b",
        "a; DROP TABLE x; --",
        "--",
        "/*",
        "*/",
        "a b",
        " a",
        "a ",
        " ",
        "a\\b",
        "\\",
        "a%b",
        "%I",
        "%s%L",
        "$1",
        "$$",
        "$a$",
        "select",
        "table",
        "user",
        "current_user",
        "all",
        "PUBLIC",
        "Größe",
        "数据",
        "🐘",
        "e\u{301}",
        "A",
        "1",
        "a.b",
        "a,b",
        "{}",
        "a=b",
        "(a)",
        "a/b",
        "{\"a\":1}",
        "true",
    ]
    .map(|name| (name.to_owned(), true))
    .into();
    names.push(("x".repeat(63), true));
    names.push((format!("{}é", "x".repeat(61)), true));
    for refused in ["", "a\nb", "a\u{0}b", "\u{7f}", "pg_app", "public", "none"] {
        names.push((refused.to_owned(), false));
    }
    names.push(("x".repeat(64), false));
    names.push((format!("{}é", "x".repeat(62)), false));
    names
}

#[test]
fn v1_hostile_names_are_created_exactly_or_refused_and_nothing_else_changes() -> Result<()> {
    // Tens of databases are created; nothing here is about a crash.
    let instance = Instance::with(&["fsync = off"])?;
    let names = hostile_names();
    ensure!(names.len() >= 40, "{} names", names.len());
    let good: Vec<&String> = names
        .iter()
        .filter(|(_, good)| *good)
        .map(|(name, _)| name)
        .collect();
    let before = instance.catalog()?;

    // One name that cannot be is refused before anything is asked of the server.
    for (bad, _) in names.iter().filter(|(_, good)| !good) {
        instance.declare(&json!({ "roles": { bad: {} } }))?;
        let said = instance.fails()?;
        ensure!(said.contains("databases.roles"), "{bad:?}: {said}");
        assert_eq!(instance.catalog()?, before, "{bad:?}");
    }

    // All others at once: as roles, as databases, as schemas and tables that are granted on.
    let roles: serde_json::Map<String, Value> = good
        .iter()
        .map(|name| ((*name).clone(), json!({})))
        .collect();
    let declared: serde_json::Map<String, Value> = good
        .iter()
        .map(|name| {
            (
                (*name).clone(),
                json!({ "owner": name, "revokePublic": true, "settings": { "app.name": name },
                        "permissions": { good[0]: ["SELECT"] } }),
            )
        })
        .collect();
    instance.declare(&json!({ "roles": roles, "declared": declared }))?;
    instance.provision()?;
    instance.converged()?;
    let mut client = instance.cluster.connect()?;
    let made: Vec<String> = client
        .query("SELECT datname::text FROM pg_database WHERE NOT datistemplate AND datname <> 'postgres'", &[])?
        .iter()
        .map(|row| row.get(0))
        .collect();
    let mut expected: Vec<String> = good.iter().map(ToString::to_string).collect();
    let mut found = made.clone();
    expected.sort();
    found.sort();
    assert_eq!(found, expected);
    let mut owners: Vec<String> = client
        .query(
            "SELECT rolname::text FROM pg_roles JOIN pg_database ON datdba = pg_roles.oid AND datname = rolname
             WHERE rolcanlogin AND NOT rolsuper",
            &[],
        )?
        .iter()
        .map(|row| row.get(0))
        .collect();
    owners.sort();
    assert_eq!(owners, expected);

    // Inside one of them, with hostile names of schemas, tables, sequences and functions.
    let database = good[2];
    let mut config = instance.cluster.connection();
    let mut client = config.dbname(database).user(database).connect(NoTls)?;
    for name in good.iter().filter(|name| !name.contains('\u{0}')) {
        let quoted = format!("\"{}\"", name.replace('"', "\"\""));
        client.batch_execute(&format!(
            "CREATE SCHEMA {quoted};
             CREATE TABLE {quoted}.{quoted} ({quoted} serial);
             CREATE FUNCTION {quoted}.{quoted}() RETURNS int LANGUAGE sql AS 'SELECT 1'"
        ))?;
    }
    drop(client);
    instance.converged()?;
    let mut permissions = serde_json::Map::new();
    for name in &good {
        let part = format!("\"{}\"", name.replace('"', "\"\""));
        permissions.insert(format!("{part}.{part}"), json!({ good[1]: ["SELECT"] }));
    }
    let mut declared = declared;
    declared[database]["tablePermissions"] = permissions.clone().into();
    declared[database]["functionPermissions"] = permissions
        .into_iter()
        .map(|(name, _)| (name, json!({ good[1]: ["EXECUTE"] })))
        .collect::<serde_json::Map<_, _>>()
        .into();
    instance.declare(&json!({ "roles": roles, "declared": declared }))?;
    instance.provision()?;
    instance.converged()?;
    let mut client = instance
        .cluster
        .connection()
        .dbname(database)
        .connect(NoTls)?;
    let readable: i64 = client
        .query_one(
            "SELECT count(*) FROM pg_class WHERE relkind = 'r' AND has_table_privilege($1, oid, 'SELECT')
             AND relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)",
            &[good[1]],
        )?
        .get(0);
    assert_eq!(readable, i64::try_from(good.len())?);
    Ok(())
}

/// Passwords that a careless program stores as something else.
fn hostile_passwords() -> Vec<Vec<u8>> {
    let mut passwords: Vec<Vec<u8>> = [
        "simple",
        "it's",
        "''",
        "\"",
        "back\\slash",
        "\\'",
        "$$",
        "$1",
        "$a$b$a$",
        ";",
        "; DROP TABLE x; --",
        "--",
        "/*",
        "%I%L%s",
        " leading",
        "trailing ",
        "in the middle",
        "tab\there",
        "ünïcödé",
        "密码",
        "🐘🐘",
        "e\u{301}",
        "\u{2168}",
        "I\u{ad}X",
        "a\u{a0}b",
        "ﬁne",
        "SCRAM-SHA-256$4096:c2FsdA==$a:b",
        "md5a3556571e93b0d20722ba62be61e8c2d",
        "NULL",
        "{\"json\": true}",
        "a\u{7f}b",
        "0",
    ]
    .map(|password| password.as_bytes().to_vec())
    .into();
    passwords.push("x".repeat(1024).into_bytes());
    passwords.push(vec![b'n', 0xff, 0xfe, b'u']);
    passwords
}

#[test]
fn v2_hostile_passwords_log_in_with_psql_and_with_another_driver() -> Result<()> {
    let instance = Instance::new()?;
    let passwords = hostile_passwords();
    ensure!(passwords.len() >= 30, "{} passwords", passwords.len());
    let mut roles = serde_json::Map::new();
    for (index, password) in passwords.iter().enumerate() {
        let file = instance.secret(&format!("password-{index}"), password)?;
        roles.insert(format!("role{index}"), json!({ "passwordFile": file }));
    }
    instance.declare(&json!({ "roles": roles }))?;
    instance.provision()?;
    instance.converged()?;
    instance.ask_for_passwords()?;
    for (index, password) in passwords.iter().enumerate() {
        let role = format!("role{index}");
        let shown = String::from_utf8_lossy(password);
        instance
            .cluster
            .connection()
            .user(&role)
            .password(password)
            .connect(NoTls)
            .with_context(|| format!("the driver with {shown:?}"))?;
        psql_login(&instance, &role, password).with_context(|| format!("psql with {shown:?}"))?;
        let mut wrong = password.clone();
        wrong.push(b'x');
        ensure!(
            psql_login(&instance, &role, &wrong).is_err(),
            "{shown:?} and one letter more"
        );
    }
    Ok(())
}

/// Logs in with psql, which takes the password from the environment.
fn psql_login(instance: &Instance, role: &str, password: &[u8]) -> Result<()> {
    use std::os::unix::ffi::OsStrExt as _;
    instance
        .cluster
        .client_program("psql")
        .env("PGUSER", role)
        .env("PGPASSWORD", std::ffi::OsStr::from_bytes(password))
        .args(["-X", "-w", "-d", "postgres", "-c", "SELECT 1"])
        .run()
        .map(drop)
}

#[test]
fn v3_a_password_file_that_cannot_be_meant_changes_nothing() -> Result<()> {
    let instance = Instance::new()?;
    let file = instance.secret("app", "good\n")?;
    instance.declare(&json!({ "roles": { "app": { "passwordFile": file } } }))?;
    instance.provision()?;
    let before = instance.catalog()?;
    for content in ["", "\n", "two\nlines\n", "zero\0byte", "\u{feff}mark"] {
        instance.secret("app", content)?;
        let said = instance.fails()?;
        ensure!(
            said.contains("could not bring about role \"app\""),
            "{said}"
        );
        ensure!(
            !said.contains("lines") && !said.contains("mark\""),
            "{said}"
        );
        assert_eq!(instance.catalog()?, before, "{content:?}");
    }
    fs::remove_file(&file)?;
    let said = instance.fails()?;
    ensure!(said.contains("No such file or directory"), "{said}");
    assert_eq!(instance.catalog()?, before);
    Ok(())
}

#[test]
fn credentials_are_found_where_systemd_puts_them() -> Result<()> {
    let instance = Instance::new()?;
    let directory = instance.cluster.home().join("credentials");
    fs::create_dir(&directory)?;
    let file = instance.secret("credentials/password-app", "secret")?;
    instance.declare(&json!({ "roles": { "app": { "passwordFile": "password-app" } } }))?;
    let program = instance.cluster.program("pg-provision", [] as [&str; 0])?;
    let run = testbed::Run::of(&program)?.expect_code(2)?;
    ensure!(
        run.stderr.contains("CREDENTIALS_DIRECTORY is not set"),
        "{}",
        run.stderr
    );
    // Somebody who only looks has no credentials, and is told so.
    ensure!(
        instance
            .plan()?
            .contains("note: its password is not compared"),
        "{}",
        instance.plan()?
    );
    testbed::Run::of(&program.clone().env("CREDENTIALS_DIRECTORY", &directory))?
        .expect_success()?;
    instance.ask_for_passwords()?;
    psql_login(&instance, "app", b"secret")?;
    // What the unit puts in the place of a secret that is missing.
    fs::remove_file(&file)?;
    instance.secret("credentials/password-app", "\n")?;
    let run =
        testbed::Run::of(&program.env("CREDENTIALS_DIRECTORY", &directory))?.expect_code(2)?;
    ensure!(run.stderr.contains("is empty"), "{}", run.stderr);
    psql_login(&instance, "app", b"secret")
}

#[test]
fn v6_a_password_is_rotated_and_an_unchanged_one_keeps_its_salt() -> Result<()> {
    let instance = Instance::new()?;
    let file = instance.secret("app", "old")?;
    instance.declare(&json!({ "roles": { "app": { "passwordFile": file } } }))?;
    instance.provision()?;
    instance.ask_for_passwords()?;
    psql_login(&instance, "app", b"old")?;
    let stored = || {
        instance
            .cluster
            .psql("SELECT rolpassword, xmin FROM pg_authid WHERE rolname = 'app'")
    };
    let before = stored()?;
    fs::remove_file(instance.stamp())?;
    instance.provision()?;
    assert_eq!(stored()?, before);
    instance.secret("app", "new")?;
    instance.provision()?;
    psql_login(&instance, "app", b"new")?;
    ensure!(psql_login(&instance, "app", b"old").is_err());
    Ok(())
}

#[test]
fn v12_a_password_is_stored_as_scram_whatever_the_server_prefers() -> Result<()> {
    let instance = Instance::with(&["password_encryption = md5"])?;
    instance
        .cluster
        .psql("CREATE ROLE app LOGIN PASSWORD 'secret'")?;
    let file = instance.secret("app", "secret")?;
    instance.declare(&json!({ "roles": { "app": { "passwordFile": file } } }))?;
    ensure!(
        instance
            .plan()?
            .contains("stored as something else than SCRAM"),
        "{}",
        instance.plan()?
    );
    instance.provision()?;
    instance.converged()?;
    assert_eq!(
        instance
            .cluster
            .psql("SELECT left(rolpassword, 14) FROM pg_authid WHERE rolname = 'app'")?,
        "SCRAM-SHA-256$"
    );
    instance.ask_for_passwords()?;
    psql_login(&instance, "app", b"secret")
}

/// Files below `directory` that contain one of `needles`.
fn holding(directory: &Path, needles: &[&[u8]]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(holding(&path, needles)?);
        } else if let Ok(bytes) = fs::read(&path)
            && needles.iter().any(|needle| contains(&bytes, needle))
        {
            found.push(path.display().to_string());
        }
    }
    Ok(found)
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack
        .windows(needle.len())
        .any(|window| window == needle)
}

/// Collects what the process `id` and the server's activity show until something waits for a lock.
fn watch_until_it_waits(blocking: &mut postgres::Transaction<'_>, id: u32) -> Result<Vec<u8>> {
    let process = Path::new("/proc").join(id.to_string());
    let mut seen = Vec::new();
    testbed::wait_until("the program waits for the lock", || {
        for file in ["cmdline", "environ"] {
            seen.extend(fs::read(process.join(file)).unwrap_or_default());
        }
        let activity: String = blocking
            .query_one(
                "SELECT string_agg(a::text, E'\\n') FROM pg_stat_activity a",
                &[],
            )?
            .get(0);
        seen.extend(activity.into_bytes());
        let waits: bool = blocking
            .query_one(
                "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)",
                &[],
            )?
            .get(0);
        Ok(waits.then_some(()))
    })?;
    Ok(seen)
}

#[test]
fn v4_no_secret_is_seen_anywhere() -> Result<()> {
    const CANARIES: [&str; 3] = [
        "canary-one-4c1f0a7e",
        "canary-two-9b3d55aa",
        "canary-three-07d2e6c1",
    ];
    // Everything is logged that can be, and statistics are kept of every statement.
    let instance = Instance::with(&[
        "log_statement = 'all'",
        "log_min_duration_statement = 0",
        "log_duration = on",
        "log_min_error_statement = 'debug5'",
        "log_parameter_max_length_on_error = -1",
        "log_connections = on",
        "shared_preload_libraries = 'pg_stat_statements, auto_explain'",
        "pg_stat_statements.track = 'all'",
        "auto_explain.log_min_duration = 0",
        "auto_explain.log_nested_statements = on",
        "track_activities = on",
    ])?;
    instance
        .cluster
        .psql("CREATE EXTENSION pg_stat_statements")?;
    let mut roles = serde_json::Map::new();
    for (index, canary) in CANARIES.iter().enumerate() {
        let file = instance.secret(&format!("secret-{index}"), canary)?;
        roles.insert(format!("role{index}"), json!({ "passwordFile": file }));
    }
    instance.declare(&json!({ "roles": &roles, "declared": { "app": { "owner": "role0" } } }))?;

    // The program waits for a lock while it sets passwords, so that there is time to look at it.
    let mut blocker = instance.cluster.connect()?;
    let mut blocking = blocker.transaction()?;
    blocking.batch_execute("LOCK TABLE pg_authid IN SHARE MODE")?;
    let program = instance.cluster.program("pg-provision", [] as [&str; 0])?;
    let output = instance.cluster.home().join("output");
    let mut started = program.start_with_log(&output)?;
    let mut seen = watch_until_it_waits(&mut blocking, started.id())?;
    blocking.rollback()?;
    ensure!(started.wait()?.success(), "{}", common::read(&output)?);

    // An error in the very statement that sets a password: it waits too long for the lock.
    instance.secret("secret-0", "canary-two-9b3d55aa and more")?;
    instance.declare(
        &json!({ "lockDeadlineSeconds": 1, "roles": roles, "declared": { "app": { "owner": "role0" } } }),
    )?;
    let mut blocking = blocker.transaction()?;
    blocking.batch_execute("LOCK TABLE pg_authid IN SHARE MODE")?;
    let said = instance.fails()?;
    ensure!(said.contains("due to lock timeout"), "{said}");
    blocking.rollback()?;
    seen.extend(said.into_bytes());
    seen.extend(instance.provision()?.into_bytes());
    seen.extend(instance.run(&["--json"])?.stdout.into_bytes());
    seen.extend(
        instance
            .cluster
            .psql("SELECT string_agg(s::text, E'\\n') FROM pg_stat_statements s")?
            .into_bytes(),
    );
    seen.extend(instance.cluster.log().into_bytes());
    seen.extend(common::read(&output)?.into_bytes());
    seen.extend(common::read(&instance.stamp())?.into_bytes());
    seen.extend(common::read(instance.cluster.settings_path())?.into_bytes());
    let verifiers = instance.cluster.psql(
        "SELECT substring(rolpassword FROM '\\$([^$]*)$') FROM pg_authid WHERE rolname ~ '^role'",
    )?;
    for needle in CANARIES.iter().copied().chain(verifiers.lines()) {
        ensure!(
            !contains(&seen, needle.as_bytes()),
            "{needle} was seen: {}",
            String::from_utf8_lossy(&seen)
                .lines()
                .find(|line| line.contains(needle))
                .unwrap_or_default()
        );
    }
    // The WAL and the data files hold the verifier, as they must; the password is nowhere.
    instance.cluster.psql("CHECKPOINT")?;
    let needles: Vec<&[u8]> = CANARIES.iter().map(|canary| canary.as_bytes()).collect();
    let holders = holding(instance.cluster.data(), &needles)?;
    ensure!(holders.is_empty(), "{holders:?}");
    Ok(())
}

#[test]
fn v8_a_superuser_by_hand_is_left_and_told() -> Result<()> {
    let instance = Instance::new()?;
    instance.cluster.psql(
        "CREATE ROLE admin SUPERUSER LOGIN; CREATE ROLE deployer CREATEDB LOGIN IN ROLE pg_monitor",
    )?;
    instance.declare(&json!({ "roles": { "admin": {}, "deployer": {} } }))?;
    let before = instance.catalog()?;
    let plan = instance.plan()?;
    for sentence in [
        "note: role \"admin\" is a superuser, which nothing declares; it is left so",
        "note: role \"deployer\" may create databases, which nothing declares and somebody else decided; it is left so",
    ] {
        ensure!(plan.contains(sentence), "{plan}");
    }
    instance.provision()?;
    assert_eq!(instance.catalog()?, before);
    instance.converged()
}

#[test]
fn v13_what_lies_in_a_database_gets_no_rights_by_being_there() -> Result<()> {
    let instance = Instance::new()?;
    let declared = json!({
        "roles": { "app": {}, "reader": {} },
        "declared": { "app": { "owner": "app", "permissions": { "reader": ["SELECT"] } } }
    });
    instance
        .declare(&json!({ "roles": { "app": {} }, "declared": { "app": { "owner": "app" } } }))?;
    instance.provision()?;
    // Functions and operators by the names that catalogs are asked with, and a record that is no record.
    instance.psql_as(
        "app",
        "app",
        "CREATE FUNCTION public.format(text, VARIADIC text[]) RETURNS text LANGUAGE sql
             AS $$ SELECT 'ALTER ROLE app SUPERUSER' $$;
         CREATE FUNCTION public.string_agg_(text) RETURNS text LANGUAGE sql AS $$ SELECT 'x' $$;
         CREATE VIEW public.pg_class AS SELECT 1 AS oid;
         CREATE SCHEMA backstay;
         CREATE TABLE backstay.provisioned (kind text);
         ALTER DATABASE app SET search_path = public, pg_catalog;
         ALTER DATABASE app SET default_transaction_read_only = on",
    )?;
    instance.declare(&declared)?;
    instance.provision()?;
    instance.converged()?;
    assert_eq!(
        instance
            .cluster
            .psql("SELECT string_agg(rolname, ',') FROM pg_roles WHERE rolsuper")?,
        "postgres"
    );

    // An event trigger whose function belongs to the application would run with all rights.
    instance.psql_as(
        "app",
        "app",
        "SET TRANSACTION READ WRITE;
         CREATE FUNCTION public.trap() RETURNS event_trigger LANGUAGE plpgsql
             AS $$ BEGIN ALTER ROLE app SUPERUSER; END $$",
    )?;
    instance.cluster.psql_in(
        "app",
        "SET TRANSACTION READ WRITE;
         CREATE EVENT TRIGGER trap ON ddl_command_end EXECUTE FUNCTION public.trap()",
    )?;
    instance
        .declare(&json!({ "roles": { "app": {} }, "declared": { "app": { "owner": "app" } } }))?;
    let said = instance.fails()?;
    ensure!(
        said.contains(
            "event trigger \"trap\" calls a function of role \"app\", which is no superuser"
        ),
        "{said}"
    );
    assert_eq!(
        instance
            .cluster
            .psql("SELECT rolsuper FROM pg_roles WHERE rolname = 'app'")?,
        "f"
    );

    // A record in the database postgres that somebody else made is not read.
    instance
        .cluster
        .psql("DROP SCHEMA backstay CASCADE; CREATE SCHEMA backstay AUTHORIZATION app")?;
    let said = instance.fails()?;
    ensure!(
        said.contains("schema \"backstay\" belongs to another role than \"postgres\""),
        "{said}"
    );
    Ok(())
}

#[test]
fn sql_of_the_owner_cannot_become_a_superuser() -> Result<()> {
    let instance = Instance::new()?;
    let script = instance.cluster.home().join("grab.sql");
    fs::write(&script, "RESET ROLE; SET SESSION AUTHORIZATION postgres")?;
    instance.declare(&json!({
        "roles": { "app": {} },
        "declared": { "app": { "owner": "app", "initScripts": [script] } }
    }))?;
    let said = instance.fails()?;
    ensure!(
        said.contains("permission denied to set session authorization"),
        "{said}"
    );
    // And where the owner is not let in, the message says which line is missing.
    fs::write(
        instance.cluster.data().join("pg_hba.conf"),
        "local all postgres trust\n",
    )?;
    instance.cluster.psql("SELECT pg_reload_conf()")?;
    let run = testbed::wait_until("the server has read pg_hba.conf", || {
        let run = instance.run(&[])?;
        Ok(run.stderr.contains("no pg_hba.conf entry").then_some(run))
    })?;
    ensure!(
        run.stderr.contains("hint: SQL of a database runs in a session of its owner, so pg_hba.conf has to let this program in over the socket as role \"app\""),
        "{}",
        run.stderr
    );
    Ok(())
}
