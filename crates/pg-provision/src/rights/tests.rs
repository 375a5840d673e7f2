use super::*;
use crate::state::{Facts, words};

/// A database of role "app" on PostgreSQL 16 with one schema and some objects in it.
struct Example {
    major: u32,
    objects: Objects,
    rights: Rights,
}

impl Example {
    fn new() -> Self {
        let (mut objects, rights) = of_new_database(16, "postgres");
        if let Some(facts) = objects.get_mut(&Object::Database) {
            facts.owner = "app".into();
        }
        let mut example = Self {
            major: 16,
            objects,
            rights,
        };
        example.add(table("public", "orders"), "app");
        example.add(sequence("public", "orders_id_seq"), "app");
        example
    }

    fn add(&mut self, object: Object, owner: &str) -> &mut Facts {
        self.objects.entry(object).or_insert(Facts {
            owner: owner.into(),
            of_extension: false,
            in_extension_schema: false,
        })
    }

    fn grant(&mut self, object: Object, role: &str, privileges: &[Privilege]) {
        self.rights.insert(
            (object, Grantee::role(role)),
            privileges.iter().copied().collect(),
        );
    }

    fn place(&self) -> Place<'_> {
        Place {
            major: self.major,
            owner: "app",
            objects: &self.objects,
            rights: &self.rights,
        }
    }

    /// The rights of one role with `declaration`, as sentences.
    fn of(&self, role: &str, declaration: &str) -> Vec<String> {
        self.after(role, declaration, &[])
    }

    fn after(&self, role: &str, declaration: &str, previous: &[&str]) -> Vec<String> {
        let previous: Vec<Declared> = previous.iter().map(|text| declared(text)).collect();
        let rights = desired(Some(&declared(declaration)), &previous, false, self.place());
        shown(&rights, &Grantee::role(role))
    }
}

fn declared(text: &str) -> Declared {
    serde_json::from_str(text).unwrap()
}

fn table(schema: &str, name: &str) -> Object {
    Object::Table {
        schema: schema.into(),
        name: name.into(),
    }
}

fn sequence(schema: &str, name: &str) -> Object {
    Object::Sequence {
        schema: schema.into(),
        name: name.into(),
    }
}

fn shown(rights: &Rights, grantee: &Grantee) -> Vec<String> {
    rights
        .iter()
        .filter(|((_, other), privileges)| other == grantee && !privileges.is_empty())
        .map(|((object, _), privileges)| format!("{} on {object}", words(privileges)))
        .collect()
}

#[test]
fn a_reader_reads_what_is_there_and_what_comes_and_nothing_else() {
    let example = Example::new();
    assert_eq!(
        example.of(
            "readonly",
            r#"{ "owner": "app", "permissions": { "readonly": ["SELECT"] } }"#
        ),
        [
            "CONNECT on the database",
            "USAGE on schema \"public\"",
            "SELECT on table \"public.orders\"",
            "SELECT on sequence \"public.orders_id_seq\"",
            "SELECT on future tables of \"app\"",
            "SELECT on future sequences of \"app\"",
            "USAGE on future schemas of \"app\"",
        ]
    );
}

#[test]
fn all_is_everything_but_what_a_newer_server_adds() {
    let mut example = Example::new();
    let everything = |example: &Example| {
        example.of(
            "writer",
            r#"{ "owner": "app", "permissions": { "writer": ["ALL"] } }"#,
        )
    };
    assert_eq!(
        everything(&example),
        [
            "CONNECT, TEMPORARY, CREATE on the database",
            "CREATE, USAGE on schema \"public\"",
            "SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER on table \"public.orders\"",
            "USAGE, SELECT, UPDATE on sequence \"public.orders_id_seq\"",
            "SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER on future tables of \"app\"",
            "USAGE, SELECT, UPDATE on future sequences of \"app\"",
            "EXECUTE on future functions of \"app\"",
            "CREATE, USAGE on future schemas of \"app\"",
        ]
    );
    example.major = 17;
    assert!(everything(&example)[2].contains("TRIGGER, MAINTAIN on table"));
}

#[test]
fn who_may_create_shares_what_it_creates_with_everybody_else() {
    let example = Example::new();
    let declaration =
        r#"{ "owner": "app", "permissions": { "writer": ["ALL"], "readonly": ["SELECT"] } }"#;
    let of = |role: &str| -> Vec<String> {
        example
            .of(role, declaration)
            .into_iter()
            .filter(|right| right.contains("future tables"))
            .collect()
    };
    assert_eq!(
        of("readonly"),
        [
            "SELECT on future tables of \"app\"",
            "SELECT on future tables of \"writer\""
        ]
    );
    assert_eq!(of("app").len(), 1, "the owner may use what others create");
}

#[test]
fn the_owner_is_not_granted_what_it_has_as_owner() {
    let mut example = Example::new();
    assert_eq!(
        example.of(
            "app",
            r#"{ "owner": "app", "permissions": { "app": ["ALL"] } }"#
        ),
        Vec::<String>::new()
    );
    // What somebody else has made before it became the owner is another matter.
    example.add(table("public", "old"), "postgres");
    assert_eq!(
        example.of("app", r#"{ "owner": "app" }"#),
        ["SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER on table \"public.old\""]
    );
}

#[test]
fn what_the_owner_of_the_database_was_granted_before_does_not_outlive_its_ownership() {
    let mut example = Example::new();
    let public = Object::Schema("public".into());
    example.grant(public, "app", &[Privilege::Usage]);
    assert_eq!(
        example.of("app", r#"{ "owner": "app" }"#),
        Vec::<String>::new()
    );
}

#[test]
fn before_postgresql_15_the_owner_is_let_into_the_public_schema() {
    let mut example = Example::new();
    example.major = 14;
    (example.objects, example.rights) = of_new_database(14, "postgres");
    assert!(
        example
            .of("app", r#"{ "owner": "app" }"#)
            .contains(&"CREATE, USAGE on schema \"public\"".to_owned())
    );
}

#[test]
fn the_closest_statement_decides() {
    let mut example = Example::new();
    example.add(table("public", "secrets"), "app");
    example.add(Object::Schema("reports".into()), "app");
    example.add(table("reports", "daily"), "app");
    assert_eq!(
        example
            .of(
                "reader",
                r#"{
                "permissions": { "reader": ["SELECT", "INSERT"] },
                "databasePermissions": { "reader": ["TEMP"] },
                "schemaPermissions": { "reports": { "reader": [] } },
                "tablePermissions": {
                    "*.*": { "reader": ["SELECT"] },
                    "reports.*": { "reader": ["DELETE"] },
                    "public.secrets": { "reader": [] }
                }
            }"#
            )
            .into_iter()
            .filter(|right| !right.contains("future"))
            .collect::<Vec<_>>(),
        [
            "TEMPORARY on the database",
            "USAGE on schema \"public\"",
            "SELECT on table \"public.orders\"",
            "DELETE on table \"reports.daily\"",
            "SELECT on sequence \"public.orders_id_seq\"",
        ]
    );
}

#[test]
fn less_in_one_schema_is_said_of_every_other_schema() {
    let mut example = Example::new();
    example.add(Object::Schema("private".into()), "app");
    let future = |declaration: &str| -> Vec<String> {
        example
            .of("reader", declaration)
            .into_iter()
            .filter(|right| right.contains("future tables"))
            .collect()
    };
    assert_eq!(
        future(
            r#"{ "owner": "app", "permissions": { "reader": ["SELECT"] },
                 "tablePermissions": { "private.*": { "reader": [] } } }"#
        ),
        ["SELECT on future tables of \"app\" in schema \"public\""]
    );
    // More in one schema is only an addition.
    assert_eq!(
        future(
            r#"{ "owner": "app", "permissions": { "reader": ["SELECT"] },
                 "tablePermissions": { "private.*": { "reader": ["SELECT", "INSERT"] } } }"#
        ),
        [
            "SELECT on future tables of \"app\"",
            "INSERT on future tables of \"app\" in schema \"private\""
        ]
    );
}

#[test]
fn default_privileges_hold_for_what_one_role_made_and_will_make() {
    let mut example = Example::new();
    example.add(table("public", "imported"), "importer");
    assert_eq!(
        example.of(
            "grafana",
            r#"{ "owner": "app", "defaultPrivileges": { "imports": {
                "owner": "importer", "schema": "public", "tables": { "grafana": ["SELECT"] } } } }"#
        ),
        [
            "SELECT on table \"public.imported\"",
            "SELECT on future tables of \"importer\" in schema \"public\"",
        ]
    );
}

#[test]
fn what_belongs_to_an_extension_is_left_to_it_unless_it_is_named() {
    let mut example = Example::new();
    example
        .add(table("public", "spatial_ref_sys"), "postgres")
        .of_extension = true;
    example
        .add(Object::Schema("topology".into()), "postgres")
        .of_extension = true;
    example
        .add(table("topology", "layer"), "postgres")
        .in_extension_schema = true;
    let of = |declaration: &str| -> Vec<String> {
        example
            .of("reader", declaration)
            .into_iter()
            .filter(|right| right.contains("spatial") || right.contains("topology"))
            .collect()
    };
    assert_eq!(
        of(r#"{ "permissions": { "reader": ["SELECT"] } }"#),
        Vec::<String>::new()
    );
    assert_eq!(
        of(
            r#"{ "schemaPermissions": { "topology": { "reader": ["USAGE"] } },
                 "tablePermissions": {
                    "public.spatial_ref_sys": { "reader": ["SELECT"] },
                    "topology.*": { "reader": ["SELECT"] } } }"#
        )
        .into_iter()
        .filter(|right| !right.contains("future"))
        .collect::<Vec<_>>(),
        [
            "USAGE on schema \"topology\"",
            "SELECT on table \"public.spatial_ref_sys\"",
            "SELECT on table \"topology.layer\""
        ]
    );
}

#[test]
fn what_nothing_declares_is_left_and_what_was_declared_is_taken_back() {
    let mut example = Example::new();
    let orders = || table("public", "orders");
    example.grant(orders(), "stranger", &[Privilege::Select]);
    example.grant(orders(), "reader", &[Privilege::Select, Privilege::Insert]);
    let reads = r#"{ "permissions": { "reader": ["SELECT"] } }"#;
    assert_eq!(
        example.of("stranger", reads),
        ["SELECT on table \"public.orders\""]
    );
    assert!(
        example
            .of("reader", reads)
            .contains(&"SELECT on table \"public.orders\"".to_owned()),
        "what it has beyond the declaration is revoked"
    );
    assert_eq!(
        example.of("reader", "{}"),
        ["SELECT, INSERT on table \"public.orders\""]
    );
    assert_eq!(
        example.after("reader", "{}", &[reads]),
        Vec::<String>::new()
    );
}

#[test]
fn default_privileges_by_hand_of_a_role_that_is_declared_are_taken_back() {
    let mut example = Example::new();
    let later = Object::Future {
        creator: "app".into(),
        schema: Some("public".into()),
        kind: Kind::Tables,
    };
    example.grant(later, "reader", &[Privilege::Insert]);
    assert!(
        !example
            .of(
                "reader",
                r#"{ "owner": "app", "permissions": { "reader": ["SELECT"] } }"#
            )
            .iter()
            .any(|right| right.contains("INSERT"))
    );
}

#[test]
fn everybody_is_shut_out_and_let_in_again() {
    let mut example = Example::new();
    example.major = 14;
    (example.objects, example.rights) = of_new_database(14, "postgres");
    let public = |example: &Example, now: &str, previous: &[&str]| {
        let previous: Vec<Declared> = previous.iter().map(|text| declared(text)).collect();
        let rights = desired(Some(&declared(now)), &previous, false, example.place());
        shown(&rights, &Grantee::Public)
    };
    let open = [
        "CONNECT, TEMPORARY on the database",
        "CREATE, USAGE on schema \"public\"",
    ];
    let revoked = r#"{ "revokePublic": true }"#;
    assert_eq!(public(&example, "{}", &[]), open);
    assert_eq!(
        public(&example, revoked, &[]),
        ["USAGE on schema \"public\""]
    );
    example.rights = desired(Some(&declared(revoked)), &[], false, example.place());
    assert_eq!(public(&example, "{}", &[]), ["USAGE on schema \"public\""]);
    assert_eq!(public(&example, "{}", &[revoked]), open);
    // The declaration that shut them out may be long gone.
    let rights = desired(Some(&declared("{}")), &[], true, example.place());
    assert_eq!(shown(&rights, &Grantee::Public), open);
}

#[test]
fn a_policy_says_it_in_one_word() {
    let example = Example::new();
    let declaration = r#"{ "owner": "app", "permissionsPolicy": "ownerReadwriteReadonlySelect", "readonlyRole": "app_readonly" }"#;
    assert!(
        example
            .of("app_readonly", declaration)
            .contains(&"SELECT on table \"public.orders\"".to_owned())
    );
    let rights = desired(Some(&declared(declaration)), &[], false, example.place());
    assert_eq!(
        shown(&rights, &Grantee::Public),
        ["USAGE on schema \"public\""]
    );
}

#[test]
fn what_is_named_and_missing_is_told() {
    let example = Example::new();
    let declaration = declared(
        r#"{ "schemaPermissions": { "gone": { "a": ["USAGE"] } },
             "tablePermissions": { "public.gone": { "a": ["SELECT"] }, "public.orders": { "a": ["SELECT"] }, "gone.*": { "a": [] } },
             "functionPermissions": { "public.orders": { "a": ["EXECUTE"] } } }"#,
    );
    assert_eq!(
        missing(&declaration, &example.objects),
        [
            "table \"public.gone\"",
            "function \"public.orders\"",
            "schema \"gone\""
        ]
    );
}
