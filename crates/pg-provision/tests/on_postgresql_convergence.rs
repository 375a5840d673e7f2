//! Many declarations, one after the other, and what happens when something else happens meanwhile.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use common::Instance;
use serde_json::{Map, Value, json};
use testbed::{Random, StopMode};

/// Steps of the random walk; `BACKSTAY_DECLARATIONS` sets another number.
const STEPS: usize = 15;
/// Databases that are looked at; `BACKSTAY_DATABASES` sets another number.
const MANY: usize = 25;
const ROLES: [&str; 6] = ["app", "other", "writer", "reader", "monitor", "Odd \"one\""];
const DATABASES: [&str; 3] = ["one", "two", "Three \"3\""];

/// A count that a campaign may set.
fn count(variable: &str, otherwise: usize) -> Result<usize> {
    match std::env::var(variable) {
        Ok(text) => text.parse().with_context(|| format!("read {variable}")),
        Err(_) => Ok(otherwise),
    }
}

/// Takes one of `items`.
fn one<'a, T>(random: &mut Random, items: &'a [T]) -> &'a T {
    &items[random.below(items.len())]
}

fn sometimes(random: &mut Random, of: usize) -> bool {
    random.below(of) == 0
}

fn some_privileges(random: &mut Random, words: &[&str]) -> Value {
    if sometimes(random, 4) {
        return json!(["ALL"]);
    }
    let mut chosen: Vec<&str> = words
        .iter()
        .copied()
        .filter(|_| random.below(2) == 0)
        .collect();
    chosen.dedup();
    json!(chosen)
}

fn grants(random: &mut Random, roles: &[&str], words: &[&str]) -> Value {
    let mut grants = Map::new();
    for _ in 0..random.below(3) {
        let role = *one(random, roles);
        grants.insert(role.into(), some_privileges(random, words));
    }
    grants.into()
}

fn random_role(random: &mut Random, name: &str, roles: &[&str]) -> Value {
    let mut role = json!({});
    for key in ["createDb", "createRole", "replication"] {
        role[key] = json!(sometimes(random, 3));
    }
    role["login"] = json!(!sometimes(random, 4));
    if sometimes(random, 3) {
        role["connectionLimit"] = json!(random.below(20));
    }
    if sometimes(random, 3) {
        role["settings"] = json!({ "work_mem": format!("{}MB", random.below(9) + 1), "search_path": "app, public" });
    }
    // Only later names, so that no circle comes about.
    let later: Vec<&str> = roles
        .iter()
        .copied()
        .filter(|other| *other > name)
        .collect();
    if sometimes(random, 2) && !later.is_empty() {
        role["memberOf"] = json!([*one(random, &later), "pg_monitor"]);
    }
    role
}

const TABLE_WORDS: [&str; 5] = ["SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE"];

fn random_database(random: &mut Random, roles: &[&str]) -> Value {
    let mut database = json!({
        "owner": one(random, roles),
        "revokePublic": sometimes(random, 2),
        "isTemplate": sometimes(random, 5),
        "permissions": grants(random, roles, &["SELECT", "INSERT", "UPDATE", "CONNECT", "CREATE", "TEMP", "EXECUTE", "USAGE"]),
        "databasePermissions": grants(random, roles, &["CONNECT", "CREATE", "TEMP"]),
        "schemaPermissions": {
            "public": grants(random, roles, &["USAGE", "CREATE"]),
            "extra": grants(random, roles, &["USAGE", "CREATE"])
        },
        "tablePermissions": {
            "public.*": grants(random, roles, &TABLE_WORDS),
            "extra.*": grants(random, roles, &TABLE_WORDS),
            "*.*": grants(random, roles, &TABLE_WORDS),
            "public.first": grants(random, roles, &TABLE_WORDS),
            "public.missing": grants(random, roles, &TABLE_WORDS)
        },
        "functionPermissions": { "public.*": grants(random, roles, &["EXECUTE"]), "extra.twice": grants(random, roles, &["EXECUTE"]) },
        "defaultPrivileges": {
            "all": { "tables": grants(random, roles, &TABLE_WORDS), "sequences": grants(random, roles, &["USAGE", "SELECT"]) },
            "some": { "owner": one(random, roles), "schema": "extra", "tables": grants(random, roles, &TABLE_WORDS), "functions": grants(random, roles, &["EXECUTE"]) }
        }
    });
    if sometimes(random, 3) {
        database["connectionLimit"] = json!(random.below(20) + 10);
    }
    if sometimes(random, 3) {
        database["settings"] = json!({ "TimeZone": one(random, &["UTC", "Europe/Berlin"]) });
    }
    if sometimes(random, 4) {
        database["permissionsPolicy"] = json!("ownerReadwriteReadonlySelect");
        database["readonlyRole"] = json!(one(random, roles));
    }
    database
}

fn random_declaration(random: &mut Random, instance: &Instance) -> Result<Value> {
    let roles: Vec<&str> = ROLES
        .into_iter()
        .filter(|_| !sometimes(random, 4))
        .collect();
    let mut declared_roles = Map::new();
    for name in &roles {
        let mut role = random_role(random, name, &roles);
        if sometimes(random, 3) {
            let content = format!("secret {}", random.below(3));
            let file = format!("password of {}", name.len());
            role["passwordFile"] = json!(instance.secret(&file, content)?);
        }
        declared_roles.insert((*name).into(), role);
    }
    let mut databases = Map::new();
    for name in DATABASES {
        if !roles.is_empty() && !sometimes(random, 5) {
            databases.insert(name.into(), random_database(random, &roles));
        }
    }
    Ok(json!({ "roles": declared_roles, "declared": databases }))
}

/// Objects in a database, made by whoever owns it when there are none yet.
fn put_objects(instance: &Instance, database: &str) -> Result<()> {
    instance
        .cluster
        .psql_in(
            database,
            "DO $$ BEGIN
                 IF to_regnamespace('extra') IS NULL THEN
                     EXECUTE format('SET LOCAL ROLE %I', (SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = current_database()));
                     CREATE SCHEMA extra;
                     CREATE TABLE public.first (i serial);
                     CREATE TABLE extra.second (i serial);
                     CREATE FUNCTION extra.twice(int) RETURNS int LANGUAGE sql AS 'SELECT $1 * 2';
                 END IF;
             END $$",
        )
        .map(drop)
}

/// The rights of roles in a database, and what it and the roles are, as one text for each line.
fn state(instance: &Instance, database: &str) -> Result<String> {
    instance.cluster.psql_in(
        database,
        "SELECT x FROM (
           SELECT format('database %s %s %s', pg_get_userbyid(datdba), datistemplate, datconnlimit)
             FROM pg_database WHERE datname = current_database()
           UNION ALL SELECT format('database right %s %s', CASE grantee WHEN 0 THEN '' ELSE pg_get_userbyid(grantee) END, privilege_type)
             FROM pg_database, aclexplode(coalesce(datacl, acldefault('d', datdba))) WHERE datname = current_database()
           UNION ALL SELECT format('schema right %s %s %s', nspname, CASE grantee WHEN 0 THEN '' ELSE pg_get_userbyid(grantee) END, privilege_type)
             FROM pg_namespace, aclexplode(coalesce(nspacl, acldefault('n', nspowner))) WHERE nspname IN ('public', 'extra') AND grantee <> nspowner
           UNION ALL SELECT format('relation right %s %s %s', relname, pg_get_userbyid(grantee), privilege_type)
             FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace, aclexplode(coalesce(relacl, acldefault('r', relowner)))
             WHERE nspname IN ('public', 'extra') AND grantee <> relowner
           UNION ALL SELECT format('function right %s %s', proname, CASE grantee WHEN 0 THEN '' ELSE pg_get_userbyid(grantee) END)
             FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace, aclexplode(coalesce(proacl, acldefault('f', proowner)))
             WHERE nspname IN ('public', 'extra') AND grantee <> proowner
           UNION ALL SELECT format('future right %s %s %s %s %s', pg_get_userbyid(defaclrole), coalesce(nspname, ''), defaclobjtype, CASE grantee WHEN 0 THEN '' ELSE pg_get_userbyid(grantee) END, privilege_type)
             FROM pg_default_acl LEFT JOIN pg_namespace n ON n.oid = defaclnamespace, aclexplode(defaclacl) WHERE grantee NOT IN (defaclrole, 0)
           UNION ALL SELECT format('setting %s %s', coalesce(setrole::regrole::text, ''), setconfig)
             FROM pg_db_role_setting WHERE setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
         ) AS all_of_it (x) ORDER BY 1",
    )
}

fn roles(instance: &Instance) -> Result<BTreeMap<String, String>> {
    let text = instance.cluster.psql(
        "SELECT rolname || E'\\t' || concat_ws(' ', rolcanlogin, rolcreatedb, rolcreaterole, rolreplication, rolconnlimit,
                (SELECT string_agg(roleid::regrole::text, ',' ORDER BY 1) FROM pg_auth_members WHERE member = r.oid))
         FROM pg_roles r WHERE rolname !~ '^pg_' AND rolname <> 'postgres'",
    )?;
    Ok(text
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .map(|(name, rest)| (name.to_owned(), rest.to_owned()))
        .collect())
}

#[test]
fn any_sequence_of_declarations_converges_to_the_last_one() -> Result<()> {
    let steps = count("BACKSTAY_DECLARATIONS", STEPS)?;
    let instance = Instance::with(&["fsync = off"])?;
    let mut random = Random::new(7);
    let mut last = Value::Null;
    for step in 0..steps {
        let declared = random_declaration(&mut random, &instance)?;
        instance.declare(&declared)?;
        let say = || format!("step {step}: {declared:#}");
        instance.provision().with_context(say)?;
        for database in declared["declared"]
            .as_object()
            .into_iter()
            .flat_map(Map::keys)
        {
            put_objects(&instance, database).with_context(say)?;
        }
        // What was made just now by hand may be granted on; after that nothing is left to be done.
        instance.provision().with_context(say)?;
        instance.converged().with_context(say)?;
        last = declared;
    }

    // The same declaration alone, on another cluster with the same objects of the same owners.
    let fresh = Instance::new()?;
    let mut again = last.clone();
    for (name, role) in again["roles"].as_object_mut().into_iter().flatten() {
        if let Some(file) = role.get("passwordFile").and_then(Value::as_str) {
            let content = fs::read(file)?;
            let place = fresh.secret(&format!("password of {}", name.len()), content)?;
            role["passwordFile"] = json!(place);
        }
    }
    fresh.declare(&again)?;
    fresh.provision()?;
    let all = roles(&instance)?;
    for (name, state_of_role) in roles(&fresh)? {
        assert_eq!(all.get(&name), Some(&state_of_role), "role {name}");
    }
    for (name, state_of_role) in &all {
        if again["roles"].get(name).is_none() {
            ensure!(
                state_of_role.starts_with("f f f f -1"),
                "role {name} is no longer declared: {state_of_role}"
            );
        }
    }
    for database in again["declared"]
        .as_object()
        .into_iter()
        .flat_map(Map::keys)
    {
        // Objects made by earlier owners belong to them; the fresh ones get the same owners.
        give_objects(&instance, &fresh, database)?;
        fresh.provision()?;
        fresh.converged()?;
        assert_eq!(
            state(&instance, database)?,
            state(&fresh, database)?,
            "database {database} after {steps} steps, and at once"
        );
    }
    Ok(())
}

/// Makes the objects of a database anew in another cluster, with the owners that they have. A superuser
/// makes them, so that no default privileges of an owner of today come to what was made before.
fn give_objects(from: &Instance, to: &Instance, database: &str) -> Result<()> {
    to.cluster.psql_in(
        database,
        "CREATE SCHEMA extra;
         CREATE TABLE public.first (i serial);
         CREATE TABLE extra.second (i serial);
         CREATE FUNCTION extra.twice(int) RETURNS int LANGUAGE sql AS 'SELECT $1 * 2'",
    )?;
    let owners = from.cluster.psql_in(
        database,
        "SELECT format('CREATE ROLE %I', rolname) FROM pg_roles WHERE rolname !~ '^pg_' AND rolname <> 'postgres'",
    )?;
    for statement in owners.lines() {
        // It is there already if it is declared.
        let _ = to.cluster.psql(statement);
    }
    let statements = from.cluster.psql_in(
        database,
        "SELECT format('ALTER TABLE %s OWNER TO %I', c.oid::regclass, pg_get_userbyid(relowner))
           FROM pg_class c WHERE relname IN ('first', 'second')
         UNION ALL SELECT format('ALTER FUNCTION %s OWNER TO %I', p.oid::regprocedure, pg_get_userbyid(proowner))
           FROM pg_proc p WHERE proname = 'twice'
         UNION ALL SELECT format('ALTER SCHEMA %I OWNER TO %I', nspname, pg_get_userbyid(nspowner))
           FROM pg_namespace WHERE nspname IN ('extra')",
    )?;
    for statement in statements.lines() {
        to.cluster.psql_in(database, statement)?;
    }
    Ok(())
}

#[test]
fn many_databases_are_looked_at_much_faster_than_by_psql() -> Result<()> {
    let count = count("BACKSTAY_DATABASES", MANY)?;
    let instance = Instance::with(&["fsync = off", "max_connections = 50"])?;
    let mut roles = Map::new();
    let mut declared = Map::new();
    for index in 0..count {
        let name = format!("service{index}");
        roles.insert(
            name.clone(),
            json!({ "passwordFile": instance.secret(&name, &name)? }),
        );
        declared.insert(
            name.clone(),
            json!({ "owner": name, "revokePublic": true, "permissions": { "readonly": ["SELECT"] } }),
        );
    }
    roles.insert("readonly".into(), json!({}));
    instance.declare(&json!({ "roles": roles, "declared": declared }))?;
    instance.provision()?;
    let begun = Instant::now();
    instance.provision()?;
    let ours = begun.elapsed();
    let begun = Instant::now();
    for name in declared.keys() {
        instance.cluster.psql_in(name, "SELECT 1")?;
    }
    let psql = begun.elapsed();
    // Straight to stderr, so that it is seen when the test passes.
    let _ = writeln!(
        std::io::stderr(),
        "{count} databases, nothing to do: {} ms; one psql each that asks nothing: {} ms",
        ours.as_millis(),
        psql.as_millis()
    );
    instance.converged()
}

#[test]
fn v7_a_server_in_recovery_is_waited_for_and_one_that_is_gone_is_not_for_ever() -> Result<()> {
    let instance = Instance::new()?;
    let declared = json!({
        "readyDeadlineSeconds": 2,
        "roles": { "app": {} },
        "declared": { "app": { "owner": "app" } }
    });
    instance.declare(&declared)?;
    instance.cluster.stop(StopMode::Fast)?;
    let said = instance.fails()?;
    ensure!(
        said.contains("the server does not answer") && said.contains("for 2 seconds"),
        "{said}"
    );

    // A standby gets its databases from elsewhere.
    fs::write(instance.cluster.data().join("standby.signal"), "")?;
    let said = instance.provision()?;
    ensure!(said.contains("the server is a standby"), "{said}");
    fs::remove_file(instance.cluster.data().join("standby.signal"))?;

    // In recovery it answers and may not be written to. It is asked again until it may.
    let home = instance.cluster.home();
    instance.cluster.configure(&format!(
        "restore_command = 'case %f in *.history) exit 1;; esac; mkdir {0}/first && exit 1; until test -e {0}/go; do sleep 0.05; done; exit 1'",
        home.display()
    ))?;
    fs::write(instance.cluster.data().join("recovery.signal"), "")?;
    instance.cluster.start()?;
    let said = instance.fails()?;
    ensure!(
        said.contains("the server is in recovery, and that for 2 seconds"),
        "{said}"
    );
    let mut patient = declared.clone();
    patient["readyDeadlineSeconds"] = json!(600);
    instance.declare(&patient)?;
    let output = instance.cluster.home().join("output");
    let mut started = instance
        .cluster
        .program("pg-provision", [] as [&str; 0])?
        .start_with_log(&output)?;
    testbed::wait_until("the program waits", || {
        Ok(common::read(&output)?
            .contains("waiting: the server is in recovery")
            .then_some(()))
    })?;
    fs::write(home.join("go"), "")?;
    ensure!(started.wait()?.success(), "{}", common::read(&output)?);
    instance.converged()
}

#[test]
fn v9_two_at_once_do_not_meet_and_an_application_sees_all_or_nothing() -> Result<()> {
    let instance = Instance::new()?;
    let declared = json!({
        "roles": { "app": {}, "reader": {} },
        "declared": { "app": { "owner": "app", "extensions": [{ "name": "pg_trgm" }],
                               "permissions": { "reader": ["SELECT"] } } }
    });
    instance.declare(&declared)?;
    let program = instance.cluster.program("pg-provision", [] as [&str; 0])?;
    let mut started = Vec::new();
    for number in 0..3 {
        let output = instance.cluster.home().join(format!("output{number}"));
        started.push((program.start_with_log(&output)?, output));
    }
    // A reader that gets in may do everything that a reader may: rights come in one transaction.
    let mut looked = 0;
    while looked == 0
        || started
            .iter_mut()
            .any(|(program, _)| matches!(program.has_ended(), Ok(None)))
    {
        if let Ok(answer) = instance.psql_as(
            "reader",
            "app",
            "SELECT has_schema_privilege('public', 'USAGE'),
                    EXISTS (SELECT FROM pg_default_acl), EXISTS (SELECT FROM pg_extension WHERE extname = 'pg_trgm')",
        ) {
            // Before PUBLIC is shut out, everybody gets in; then nothing is there yet.
            ensure!(answer == "t|t|t" || answer == "t|f|f", "{answer}");
            looked += 1;
        }
    }
    for (mut program, output) in started {
        ensure!(program.wait()?.success(), "{}", common::read(&output)?);
    }
    instance.converged()
}

#[test]
fn v10_a_connection_that_is_lost_leaves_nothing_half_done() -> Result<()> {
    let instance = Instance::new()?;
    instance.declare(&json!({
        "roles": { "app": {} },
        "declared": { "app": { "owner": "app" } }
    }))?;
    instance.provision()?;
    instance.psql_as("app", "app", "CREATE TABLE t (i int)")?;
    instance.declare(&json!({
        "roles": { "app": {}, "reader": {} },
        "declared": { "app": { "owner": "app", "connectionLimit": 5,
                               "extensions": [{ "name": "pg_trgm" }],
                               "permissions": { "reader": ["SELECT"] } } }
    }))?;
    let mut blocker = instance
        .cluster
        .connection()
        .dbname("app")
        .connect(postgres::NoTls)?;
    let mut blocking = blocker.transaction()?;
    blocking.batch_execute("LOCK TABLE pg_default_acl IN SHARE MODE")?;
    let output = instance.cluster.home().join("output");
    let mut started = instance
        .cluster
        .program("pg-provision", [] as [&str; 0])?
        .start_with_log(&output)?;
    testbed::wait_until(
        "the program waits for the lock and loses its connection",
        || {
            let ended: bool = blocking
                .query_one(
                    "SELECT coalesce(bool_or(pg_terminate_backend(pid)), false)
                 FROM pg_locks WHERE NOT granted",
                    &[],
                )?
                .get(0);
            Ok(ended.then_some(()))
        },
    )?;
    blocking.rollback()?;
    ensure!(!started.wait()?.success());
    let said = common::read(&output)?;
    ensure!(
        said.contains("could not bring about database \"app\""),
        "{said}"
    );
    assert_eq!(
        instance.cluster.psql_in(
            "app",
            "SELECT datconnlimit, has_table_privilege('reader', 't', 'SELECT'),
                    (SELECT count(*) FROM pg_extension WHERE extname = 'pg_trgm')
             FROM pg_database WHERE datname = 'app'"
        )?,
        "-1|f|0"
    );
    instance.provision()?;
    instance.converged()
}
