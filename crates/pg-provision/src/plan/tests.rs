use super::*;
use crate::scram;

fn role(text: &str) -> DeclaredRole {
    serde_json::from_str(text).unwrap()
}

fn database(text: &str) -> Declared {
    serde_json::from_str(text).unwrap()
}

fn past<T>(created: bool, declarations: Vec<T>) -> Past<T> {
    Past {
        created,
        declarations,
        ..Past::default()
    }
}

/// The steps and remarks for role "app".
fn for_role(
    declared: Option<&str>,
    past: &Past<DeclaredRole>,
    current: Option<&Role>,
) -> (Vec<String>, Vec<String>) {
    let declared = declared.map(role);
    let (desired, remarks) =
        desired_role("app", declared.as_ref(), past, current, Password::AsItIs);
    let changes = desired.map_or_else(Vec::new, |desired| {
        between_roles("app", current, &desired)
            .iter()
            .map(ToString::to_string)
            .collect()
    });
    (changes, remarks)
}

#[test]
fn a_new_role_gets_what_is_declared_of_it() {
    let declared = r#"{ "createDb": true, "connectionLimit": 5, "memberOf": ["pg_monitor"], "settings": { "Work_Mem": "8MB" } }"#;
    assert_eq!(
        for_role(Some(declared), &Past::default(), None).0,
        [
            "create role \"app\"",
            "role \"app\" may create databases",
            "role \"app\" may log in",
            "role \"app\" takes at most 5 connections",
            "sessions of role \"app\" begin with work_mem = \"8MB\"",
            "role \"app\" gets the rights of role \"pg_monitor\"",
        ]
    );
}

#[test]
fn v8_what_somebody_else_gave_a_role_is_remarked_on_and_left() {
    let current = Role {
        attributes: BTreeSet::from([Attribute::Login, Attribute::CreateDb]),
        member_of: BTreeSet::from(["pg_monitor".into()]),
        parameters: BTreeMap::from([("work_mem".into(), "8MB".into())]),
        connection_limit: Some(3),
        ..Role::default()
    };
    assert_eq!(
        for_role(Some("{}"), &Past::default(), Some(&current)),
        (
            vec![],
            vec![
                "role \"app\" may create databases, which nothing declares and somebody else decided; it is left so".into()
            ]
        )
    );
    // Of a role that was created here, nobody else decides that.
    let ours = past(true, vec![role("{}")]);
    assert_eq!(
        for_role(Some("{}"), &ours, Some(&current)).0,
        [
            "role \"app\" may no longer create databases",
            "role \"app\" has no limit of connections of its own"
        ]
    );
}

#[test]
fn what_is_no_longer_declared_of_a_role_is_taken_back() {
    let current = Role {
        attributes: BTreeSet::from([Attribute::Login, Attribute::Replication]),
        member_of: BTreeSet::from(["pg_monitor".into(), "by_hand".into()]),
        parameters: BTreeMap::from([
            ("work_mem".into(), "8MB".into()),
            ("by.hand".into(), "1".into()),
        ]),
        ..Role::default()
    };
    let before =
        r#"{ "replication": true, "memberOf": ["pg_monitor"], "settings": { "work_mem": "8MB" } }"#;
    let taken_back = [
        "role \"app\" may no longer stream WAL",
        "sessions of role \"app\" begin with the server's work_mem",
        "role \"app\" loses the rights of role \"pg_monitor\"",
    ];
    let adopted = past(false, vec![role(before)]);
    assert_eq!(for_role(Some("{}"), &adopted, Some(&current)).0, taken_back);
    assert_eq!(for_role(None, &adopted, Some(&current)).0, taken_back);
}

#[test]
fn a_role_that_was_created_here_and_is_no_longer_declared_cannot_log_in() {
    let current = Role {
        attributes: BTreeSet::from([Attribute::Login]),
        ..Role::default()
    };
    let ours = past(true, vec![role("{}")]);
    assert_eq!(
        for_role(None, &ours, Some(&current)).0,
        ["role \"app\" may no longer log in"]
    );
    assert_eq!(for_role(None, &ours, None), (vec![], vec![]));
}

#[test]
fn a_role_has_its_password_before_it_may_log_in() {
    let verifier = Verifier::new(&scram::Password::new(b"secret"), &[1; 16], 1);
    let (desired, _) = desired_role(
        "app",
        Some(&role("{}")),
        &Past::default(),
        None,
        Password::Wanted(verifier.clone()),
    );
    let desired = desired.unwrap();
    let sentences: Vec<String> = between_roles("app", None, &desired)
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        sentences,
        [
            "create role \"app\"",
            "set the password of role \"app\", which has none",
            "role \"app\" may log in",
        ]
    );
    assert_eq!(between_roles("app", Some(&desired), &desired), []);
    let md5 = Role {
        password: Stored::Other,
        ..desired.clone()
    };
    assert_eq!(
        between_roles("app", Some(&md5), &desired)[0].to_string(),
        "set the password of role \"app\", which has one that is stored as something else than SCRAM"
    );
}

/// An empty database of "app" on PostgreSQL 16.
fn empty() -> (Database, Objects) {
    let (mut objects, rights) = rights::of_new_database(16, "postgres");
    if let Some(facts) = objects.get_mut(&Object::Database) {
        facts.owner = "app".into();
    }
    let database = Database {
        owner: "app".into(),
        is_template: false,
        connection_limit: None,
        parameters: BTreeMap::new(),
        schemas: BTreeSet::from(["public".into()]),
        extensions: BTreeMap::new(),
        rights,
    };
    (database, objects)
}

fn offered() -> Offered {
    let version = |requires: &[&str], schema: Option<&str>| OfferedVersion {
        requires: requires.iter().map(ToString::to_string).collect(),
        schema: schema.map(Into::into),
    };
    let offer = |versions: &[(&str, OfferedVersion)]| Offer {
        default_version: versions.last().map(|(name, _)| (*name).to_owned()),
        versions: versions
            .iter()
            .map(|(name, version)| ((*name).to_owned(), version.clone()))
            .collect(),
    };
    BTreeMap::from([
        ("cube".into(), offer(&[("1.5", version(&[], None))])),
        (
            "earthdistance".into(),
            offer(&[("1.1", version(&["cube"], None))]),
        ),
        (
            "pg_trgm".into(),
            offer(&[("1.5", version(&[], None)), ("1.6", version(&[], None))]),
        ),
        (
            "plpgsql".into(),
            offer(&[("1.0", version(&[], Some("pg_catalog")))]),
        ),
        ("vector".into(), offer(&[("0.8", version(&[], None))])),
    ])
}

fn for_extensions(declared: &str, current: &Database, offered: &Offered) -> DatabasePlan {
    let (_, objects) = empty();
    for_database(
        "app",
        Some(&database(declared)),
        &Past::default(),
        current,
        &objects,
        Server { major: 16, offered },
    )
}

fn sentences(plan: &DatabasePlan) -> Vec<String> {
    plan.changes.iter().map(ToString::to_string).collect()
}

#[test]
fn an_extension_brings_along_what_it_requires() {
    let plan = for_extensions(
        r#"{ "extensions": [{ "name": "earthdistance" }, { "name": "plpgsql" }] }"#,
        &empty().0,
        &offered(),
    );
    assert_eq!(
        sentences(&plan),
        [
            "create extension \"cube\", in schema \"public\": extension \"earthdistance\" requires it",
            "create extension \"earthdistance\", in schema \"public\"",
            "create extension \"plpgsql\"",
        ]
    );
}

#[test]
fn the_name_of_another_vector_extension_is_explained() {
    let declared = r#"{ "extensions": [{ "name": "vectors" }] }"#;
    let plan = for_extensions(declared, &empty().0, &offered());
    assert_eq!(
        sentences(&plan),
        ["create extension \"vector\", in schema \"public\": \"vectors\" is declared"]
    );
    assert_eq!(plan.remarks.len(), 1);
    let plan = for_extensions(declared, &empty().0, &Offered::new());
    assert_eq!(
        plan.problem,
        Some(Problem {
            what: "the server does not offer extension \"vectors\"".into(),
            hint: "\"vectors\" is the extension of pgvecto.rs; pgvector's is called \"vector\". Install the one that you mean: on NixOS, in extraPackages of the instance".into(),
        })
    );
}

#[test]
fn an_extension_is_updated_and_moved_only_where_that_is_declared() {
    let mut current = empty().0;
    current.extensions.insert(
        "pg_trgm".into(),
        Extension {
            schema: "public".into(),
            version: "1.5".into(),
        },
    );
    let steps = |declared: &str| sentences(&for_extensions(declared, &current, &offered()));
    assert_eq!(
        steps(r#"{ "extensions": [{ "name": "pg_trgm" }] }"#),
        Vec::<String>::new()
    );
    assert_eq!(
        steps(r#"{ "extensions": [{ "name": "pg_trgm", "updateToLatest": true }] }"#),
        ["update extension \"pg_trgm\" to version 1.6"]
    );
    assert_eq!(
        steps(r#"{ "extensions": [{ "name": "pg_trgm", "schema": "extra" }] }"#),
        [
            "create schema \"extra\" of role \"app\"",
            "move extension \"pg_trgm\" to schema \"extra\""
        ]
    );
    let plan = for_extensions(
        r#"{ "extensions": [{ "name": "pg_trgm", "version": "9" }] }"#,
        &current,
        &offered(),
    );
    assert_eq!(
        plan.problem,
        Some(Problem {
            what: "the server does not offer extension \"pg_trgm\" in version 9".into(),
            hint: "it offers 1.5, 1.6".into(),
        })
    );
}

#[test]
fn an_extension_that_is_no_longer_declared_stays() {
    let mut current = empty().0;
    current.extensions.insert(
        "pg_trgm".into(),
        Extension {
            schema: "public".into(),
            version: "1.6".into(),
        },
    );
    let (_, objects) = empty();
    let before = database(r#"{ "extensions": [{ "name": "pg_trgm" }] }"#);
    let plan = for_database(
        "app",
        Some(&database("{}")),
        &past(true, vec![before]),
        &current,
        &objects,
        Server {
            major: 16,
            offered: &Offered::new(),
        },
    );
    assert_eq!(plan.changes, []);
    assert_eq!(
        plan.remarks,
        ["extension \"pg_trgm\" is no longer declared; it stays"]
    );
}

#[test]
fn properties_of_a_database_follow_the_declaration_and_go_with_it() {
    let (mut current, objects) = empty();
    let server = Server {
        major: 16,
        offered: &Offered::new(),
    };
    let full = database(
        r#"{ "owner": "other", "isTemplate": true, "connectionLimit": 5, "settings": { "timezone": "UTC" } }"#,
    );
    let plan = for_database(
        "app",
        Some(&full),
        &Past::default(),
        &current,
        &objects,
        server,
    );
    assert_eq!(
        sentences(&plan)[..4],
        [
            "role \"other\" becomes the owner",
            "every role that may create databases may copy it",
            "database \"app\" takes at most 5 connections",
            "sessions of database \"app\" begin with timezone = \"UTC\"",
        ]
    );
    current.is_template = true;
    current.connection_limit = Some(5);
    current.parameters.insert("timezone".into(), "UTC".into());
    // By hand: left. Declared before: taken back, and the owner stays with who has it.
    let plan = for_database(
        "app",
        Some(&database("{}")),
        &Past::default(),
        &current,
        &objects,
        server,
    );
    assert_eq!(plan.changes, []);
    let plan = for_database(
        "app",
        Some(&database("{}")),
        &past(
            false,
            vec![database(
                r#"{ "isTemplate": true, "connectionLimit": 5, "settings": { "timezone": "UTC" } }"#,
            )],
        ),
        &current,
        &objects,
        server,
    );
    assert_eq!(
        sentences(&plan),
        [
            "only its owner may copy it",
            "database \"app\" has no limit of connections of its own",
            "sessions of database \"app\" begin with the server's timezone",
        ]
    );
}

#[test]
fn what_was_fixed_at_creation_is_compared_as_the_server_spells_it() {
    let birth = Birth {
        encoding: "UTF8".into(),
        locale_provider: "libc".into(),
        locale: None,
        collation: "de_DE.utf8".into(),
        lc_ctype: "de_DE.utf8".into(),
        tablespace: "pg_default".into(),
    };
    let compare = |text: &str| {
        compare_birth(&creation("app", &database(text), "postgres"), &birth)
            .map_err(|problem| problem.what)
    };
    assert_eq!(
        compare(r#"{ "encoding": "utf-8", "collation": "de_DE.UTF-8" }"#),
        Ok(())
    );
    assert_eq!(
        compare(r#"{ "encoding": "LATIN1" }"#),
        Err("its encoding is \"UTF8\", and \"LATIN1\" is declared".into())
    );
    assert_eq!(
        compare(r#"{ "localeProvider": "icu", "locale": "de-DE" }"#),
        Err("its locale provider is \"libc\", and \"icu\" is declared".into())
    );
}

#[test]
fn a_declared_locale_makes_a_copy_of_the_empty_template() {
    let template = |text: &str| creation("app", &database(text), "postgres").template;
    assert_eq!(template("{}"), None);
    assert_eq!(
        template(r#"{ "encoding": "LATIN1" }"#).as_deref(),
        Some("template0")
    );
    assert_eq!(
        template(r#"{ "encoding": "LATIN1", "template": "mine" }"#).as_deref(),
        Some("mine")
    );
}
