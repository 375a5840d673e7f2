use super::*;

fn grant(name: &str, role: &str) -> Change {
    Change::Grant {
        database: "app".into(),
        object: Object::Table {
            schema: "public".into(),
            name: name.into(),
        },
        to: Grantee::role(role),
        privileges: BTreeSet::from([Privilege::Select]),
    }
}

#[test]
fn names_are_arguments_and_never_part_of_the_template() {
    let name = "a\"; DROP TABLE x; --";
    let role = || name.to_owned();
    let verifier = Verifier::new(&crate::scram::Password::new(b"canary"), &[1; 16], 1);
    let changes = [
        Change::CreateRole { role: role() },
        Change::SetAttribute {
            role: role(),
            attribute: Attribute::Login,
            on: true,
        },
        Change::SetPassword {
            role: role(),
            why: PasswordChange::Missing,
            verifier,
        },
        Change::LimitConnections {
            of: Subject::Database(role()),
            limit: Some(3),
        },
        Change::GrantRole {
            role: role(),
            member: role(),
        },
        Change::SetParameter {
            of: Subject::Role(role()),
            name: "search_path".into(),
            value: Some(format!("{name}, public")),
        },
        Change::CreateDatabase {
            creation: Creation {
                database: role(),
                owner: role(),
                template: Some(role()),
                encoding: Some(role()),
                locale_provider: Some("icu".into()),
                locale: Some(role()),
                collation: Some(role()),
                lc_ctype: Some(role()),
                tablespace: Some(role()),
            },
        },
        Change::CreateExtension {
            extension: role(),
            schema: Some(role()),
            version: Some(role()),
            why: None,
        },
        grant(name, name),
        Change::Revoke {
            database: role(),
            object: Object::Future {
                creator: role(),
                schema: Some(role()),
                kind: Kind::Tables,
            },
            from: Grantee::role(name),
            privileges: BTreeSet::from([Privilege::Select]),
        },
    ];
    for change in changes {
        let statement = change.statement().unwrap();
        assert!(!statement.template.contains("DROP"), "{statement:?}");
        let places = statement.template.matches('%').count();
        assert_eq!(places, statement.arguments.len(), "{statement:?}");
    }
}

#[test]
fn templates_are_what_the_server_expects() {
    let template = |change: &Change| change.statement().unwrap().template;
    assert_eq!(
        template(&grant("orders", "reader")),
        "GRANT SELECT ON TABLE %I.%I TO %I"
    );
    assert_eq!(
        template(&Change::Revoke {
            database: "app".into(),
            object: Object::Database,
            from: Grantee::Public,
            privileges: BTreeSet::from([Privilege::Connect, Privilege::Temporary]),
        }),
        "REVOKE CONNECT, TEMPORARY ON DATABASE %I FROM PUBLIC"
    );
    assert_eq!(
        template(&Change::Grant {
            database: "app".into(),
            object: Object::Future {
                creator: "app".into(),
                schema: None,
                kind: Kind::Functions,
            },
            to: Grantee::role("reader"),
            privileges: BTreeSet::from([Privilege::Execute]),
        }),
        "ALTER DEFAULT PRIVILEGES FOR ROLE %I GRANT EXECUTE ON ROUTINES TO %I"
    );
    assert_eq!(
        template(&Change::SetParameter {
            of: Subject::Role("app".into()),
            name: "search_path".into(),
            value: Some("app, public".into()),
        }),
        "ALTER ROLE %I SET %I TO %L, %L"
    );
}

#[test]
fn many_steps_of_one_kind_are_one_sentence() {
    let mut changes: Vec<Change> = (0..5).map(|i| grant(&format!("t{i}"), "reader")).collect();
    changes.insert(
        0,
        Change::CreateRole {
            role: "reader".into(),
        },
    );
    changes.push(grant("t0", "writer"));
    assert_eq!(
        sentences(&changes),
        [
            "create role \"reader\"",
            "grant SELECT on 5 tables in schema \"public\" to \"reader\"",
            "grant SELECT on table \"public.t0\" to \"writer\"",
        ]
    );
}

#[test]
fn a_plan_in_json_has_no_verifier() {
    let change = Change::SetPassword {
        role: "app".into(),
        why: PasswordChange::Differs,
        verifier: Verifier::new(&crate::scram::Password::new(b"canary"), &[1; 16], 1),
    };
    assert_eq!(
        serde_json::to_string(&change).unwrap(),
        r#"{"change":"setPassword","role":"app","why":"differs"}"#
    );
}
