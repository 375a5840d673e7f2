//! From declared permissions to rights on objects. Nothing here asks the server.
//!
//! A declaration speaks of what a role may do in the whole database, of schemas, of patterns and of
//! single objects. For each object that exists, the statement that is closest to it decides; what
//! is created later gets the statements that are not about single objects, as default privileges.

use std::collections::{BTreeMap, BTreeSet};

use settings::databases::{
    Database as Declared, DefaultPrivileges, Grants, Pattern, PermissionsPolicy,
};

use crate::state::{DATABASE_OWNER, Grantee, Kind, Object, Objects, Privilege, Rights};

/// PostgreSQL 17 brought `MAINTAIN`.
const MAINTAIN_MAJOR: u32 = 17;
/// Before PostgreSQL 15 everybody could create objects in the schema `public`.
const CLOSED_PUBLIC_MAJOR: u32 = 15;

type Privileges = BTreeSet<Privilege>;

/// The database that a declaration is applied to.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Major version of the server.
    pub major: u32,
    /// The database's owner, as it will be.
    pub owner: &'a str,
    /// What exists in it.
    pub objects: &'a Objects,
    /// The rights that there are.
    pub rights: &'a Rights,
}

/// What a database that was just created holds: the schema `public`, and what everybody may do.
#[must_use]
pub fn of_new_database(major: u32, own_role: &str) -> (Objects, Rights) {
    let closed = major >= CLOSED_PUBLIC_MAJOR;
    let public = Object::Schema("public".into());
    let facts = |owner: &str| crate::state::Facts {
        owner: owner.into(),
        of_extension: false,
        in_extension_schema: false,
    };
    let objects = BTreeMap::from([
        (Object::Database, facts(own_role)),
        (
            public.clone(),
            facts(if closed { DATABASE_OWNER } else { own_role }),
        ),
    ]);
    let mut in_public = BTreeSet::from([Privilege::Usage]);
    if !closed {
        in_public.insert(Privilege::Create);
    }
    let rights = BTreeMap::from([
        (
            (Object::Database, Grantee::Public),
            BTreeSet::from([Privilege::Connect, Privilege::Temporary]),
        ),
        ((public, Grantee::Public), in_public),
    ]);
    (objects, rights)
}

/// The rights that there should be.
///
/// What no declaration speaks of is as it is. What one of the `previous` declarations spoke of, and
/// `declared` does not, is taken away. `was_closed` says that everybody was shut out by a declaration
/// that is forgotten otherwise.
#[must_use]
pub fn desired(
    declared: Option<&Declared>,
    previous: &[Declared],
    was_closed: bool,
    place: Place<'_>,
) -> Rights {
    let mut rights = place.rights.clone();
    for earlier in previous {
        for (key, _) in wanted(earlier, place) {
            rights.insert(key, Privileges::new());
        }
    }
    if let Some(declared) = declared {
        rights.extend(wanted(declared, place));
        let revoked_before = was_closed || previous.iter().any(closes);
        of_public(closes(declared), revoked_before, place, &mut rights);
    }
    rights
}

/// Whether a declaration shuts out everybody who is not named.
#[must_use]
pub fn closes(declared: &Declared) -> bool {
    declared.revoke_public || declared.permissions_policy != PermissionsPolicy::Custom
}

/// What everybody may do: taken away where that is declared, and given back where it was.
fn of_public(revoke: bool, revoked_before: bool, place: Place<'_>, rights: &mut Rights) {
    let database = (Object::Database, Grantee::Public);
    let schema = Object::Schema("public".into());
    let has_public_schema = place.objects.contains_key(&schema);
    let schema = (schema, Grantee::Public);
    if revoke {
        rights.insert(database, Privileges::new());
        if let Some(in_schema) = rights.get_mut(&schema) {
            in_schema.remove(&Privilege::Create);
        }
    } else if revoked_before {
        rights.insert(
            database,
            BTreeSet::from([Privilege::Connect, Privilege::Temporary]),
        );
        if place.major < CLOSED_PUBLIC_MAJOR && has_public_schema {
            rights.entry(schema).or_default().insert(Privilege::Create);
        }
    }
}

/// The rights that one declaration speaks of.
fn wanted(declared: &Declared, place: Place<'_>) -> Rights {
    let statements = Statements::of(declared);
    let mut rights = Rights::new();
    for (object, facts) in place.objects {
        for role in &statements.roles {
            if facts.owner == *role {
                continue;
            }
            if facts.owner == DATABASE_OWNER && place.owner == *role {
                // It has everything by owning the database. What was granted to it by its own name
                // would stay with it when the database gets another owner.
                rights.insert(
                    (object.clone(), Grantee::role(role.as_str())),
                    Privileges::new(),
                );
                continue;
            }
            let reach = if facts.of_extension {
                Reach::Named
            } else if facts.in_extension_schema {
                Reach::Schema
            } else {
                Reach::Everything
            };
            if let Some(privileges) =
                statements.about(object, &facts.owner, role, reach, place.major)
            {
                rights.insert((object.clone(), Grantee::role(role.as_str())), privileges);
            }
        }
    }
    statements.about_future(place, &mut rights);
    rights
}

/// Which statements may speak of an object: what belongs to an extension is left to it, unless
/// somebody names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reach {
    /// Only those that name it.
    Named,
    /// Those that name its schema, too.
    Schema,
    /// All.
    Everything,
}

/// One declaration, sorted by what it speaks of.
struct Statements<'a> {
    declared: &'a Declared,
    owner: Option<&'a str>,
    /// Every role that is spoken of.
    roles: BTreeSet<String>,
    /// What a role may do in the whole database.
    whole: Grants,
    tables: Vec<(Pattern, &'a Grants)>,
    functions: Vec<(Pattern, &'a Grants)>,
}

impl<'a> Statements<'a> {
    fn of(declared: &'a Declared) -> Self {
        let mut whole = declared.permissions.clone();
        if let Some(owner) = &declared.owner {
            whole.insert(owner.clone(), BTreeSet::from([Privilege::All]));
        }
        if let (PermissionsPolicy::OwnerReadwriteReadonlySelect, Some(reader)) =
            (declared.permissions_policy, &declared.readonly_role)
        {
            whole
                .entry(reader.clone())
                .or_default()
                .insert(Privilege::Select);
        }
        let policies = declared.default_privileges.values();
        let roles = whole
            .keys()
            .chain(declared.database_permissions.keys())
            .chain(
                declared
                    .schema_permissions
                    .values()
                    .flat_map(BTreeMap::keys),
            )
            .chain(declared.table_permissions.values().flat_map(BTreeMap::keys))
            .chain(
                declared
                    .function_permissions
                    .values()
                    .flat_map(BTreeMap::keys),
            )
            .chain(policies.flat_map(|policy| {
                policy
                    .tables
                    .keys()
                    .chain(policy.sequences.keys())
                    .chain(policy.functions.keys())
            }))
            .cloned()
            .collect();
        Self {
            declared,
            owner: declared.owner.as_deref(),
            roles,
            whole,
            tables: parsed(&declared.table_permissions),
            functions: parsed(&declared.function_permissions),
        }
    }

    /// What `role` should be allowed on `object`, or nothing if no statement speaks of it.
    fn about(
        &self,
        object: &Object,
        object_owner: &str,
        role: &str,
        reach: Reach,
        major: u32,
    ) -> Option<Privileges> {
        let whole = || {
            (reach == Reach::Everything)
                .then(|| self.whole.get(role))
                .flatten()
        };
        match object {
            Object::Database => match self.declared.database_permissions.get(role) {
                Some(said) => Some(on_database(said)),
                None => Some(whole_on_database(whole()?)),
            },
            Object::Schema(name) => {
                let said = self.declared.schema_permissions.get(name);
                match said.and_then(|grants| grants.get(role)) {
                    Some(said) => Some(on_schema(said)),
                    None => Some(whole_on_schema(whole()?)),
                }
            }
            Object::Table { schema, name } => self
                .closest(
                    &self.tables,
                    Kind::Tables,
                    schema,
                    name,
                    object_owner,
                    role,
                    reach,
                )
                .or_else(whole)
                .map(|said| on_table(said, major)),
            Object::Sequence { schema, name } => self
                .closest(
                    &self.tables,
                    Kind::Sequences,
                    schema,
                    name,
                    object_owner,
                    role,
                    reach,
                )
                .map(on_sequence)
                .or_else(|| whole().map(whole_on_sequence)),
            Object::Function { schema, name, .. } => self
                .closest(
                    &self.functions,
                    Kind::Functions,
                    schema,
                    name,
                    object_owner,
                    role,
                    reach,
                )
                .or_else(whole)
                .map(on_function),
            Object::Future { .. } => None,
        }
    }

    /// The statement about `schema.name` that is closest to it, short of what is said of the whole
    /// database.
    #[expect(clippy::too_many_arguments, reason = "each tells statements apart")]
    fn closest(
        &self,
        patterns: &[(Pattern, &'a Grants)],
        kind: Kind,
        schema: &str,
        name: &str,
        object_owner: &str,
        role: &str,
        reach: Reach,
    ) -> Option<&Privileges> {
        let named = |wanted_schema: Option<&str>, wanted_name: Option<&str>| {
            patterns
                .iter()
                .find(|(pattern, grants)| {
                    pattern.schema.as_deref() == wanted_schema
                        && pattern.name.as_deref() == wanted_name
                        && grants.contains_key(role)
                })
                .and_then(|(_, grants)| grants.get(role))
        };
        let in_schema = || {
            (reach >= Reach::Schema)
                .then(|| named(Some(schema), None))
                .flatten()
        };
        let by_creator = |wanted_schema: Option<&str>| {
            (reach == Reach::Everything)
                .then(|| self.policy(object_owner, wanted_schema, kind, role))
                .flatten()
        };
        let anywhere = || {
            (reach == Reach::Everything)
                .then(|| named(None, None))
                .flatten()
        };
        named(Some(schema), Some(name))
            .or_else(in_schema)
            .or_else(|| by_creator(Some(schema)))
            .or_else(|| by_creator(None))
            .or_else(anywhere)
    }

    /// What is said of what `creator` creates in `schema`.
    fn policy(
        &self,
        creator: &str,
        schema: Option<&str>,
        kind: Kind,
        role: &str,
    ) -> Option<&Privileges> {
        self.declared
            .default_privileges
            .values()
            .filter(|policy| {
                policy.owner.as_deref().or(self.owner) == Some(creator)
                    && policy.schema.as_deref() == schema
            })
            .find_map(|policy| grants_of(policy, kind)?.get(role))
    }

    /// Roles that may create tables, whose objects the statements about the whole database speak of.
    fn creators(&self, place: Place<'_>) -> BTreeSet<String> {
        let creates =
            |said: &Privileges| said.contains(&Privilege::All) || said.contains(&Privilege::Create);
        let by_whole = self
            .whole
            .iter()
            .filter(|(_, said)| said.contains(&Privilege::All));
        let by_schema = self
            .declared
            .schema_permissions
            .values()
            .flatten()
            .filter(|(_, said)| creates(said));
        by_whole
            .chain(by_schema)
            .map(|(role, _)| role.clone())
            .chain([place.owner.to_owned()])
            .collect()
    }

    fn about_future(&self, place: Place<'_>, rights: &mut Rights) {
        let general = self.creators(place);
        let own: BTreeSet<String> = self
            .declared
            .default_privileges
            .values()
            .filter_map(|policy| policy.owner.clone())
            .collect();
        for creator in general.union(&own) {
            for role in self.roles.iter().filter(|role| *role != creator) {
                for kind in [Kind::Tables, Kind::Sequences, Kind::Functions] {
                    self.future_of(
                        creator,
                        general.contains(creator),
                        role,
                        kind,
                        place,
                        rights,
                    );
                }
                if let Some(said) = self.whole.get(role).filter(|_| general.contains(creator)) {
                    let key = (
                        future(creator, None, Kind::Schemas),
                        Grantee::role(role.as_str()),
                    );
                    rights.insert(key, whole_on_schema(said));
                }
            }
        }
        // What a role may do in the whole database is all that it may: default privileges that
        // somebody gave it by hand would add to that with every new table.
        for (object, grantee) in place.rights.keys() {
            if let (Object::Future { creator, .. }, Grantee::Role(role)) = (object, grantee)
                && general.contains(creator)
                && creator != role
                && self.whole.contains_key(role)
            {
                rights.entry((object.clone(), grantee.clone())).or_default();
            }
        }
    }

    fn future_of(
        &self,
        creator: &str,
        is_general: bool,
        role: &str,
        kind: Kind,
        place: Place<'_>,
        rights: &mut Rights,
    ) {
        let on = |said: &Privileges| match kind {
            Kind::Tables => on_table(said, place.major),
            Kind::Sequences => on_sequence(said),
            Kind::Functions | Kind::Schemas => on_function(said),
        };
        let whole_on = |said: &Privileges| match kind {
            Kind::Sequences => whole_on_sequence(said),
            _ => on(said),
        };
        let patterns = if kind == Kind::Functions {
            &self.functions
        } else {
            &self.tables
        };
        let by_pattern = |schema: Option<&str>| {
            patterns
                .iter()
                .filter(|(pattern, _)| {
                    is_general && pattern.name.is_none() && pattern.schema.as_deref() == schema
                })
                .find_map(|(_, grants)| grants.get(role))
        };
        let anywhere = self
            .policy(creator, None, kind, role)
            .or_else(|| by_pattern(None))
            .map(on)
            .or_else(|| self.whole.get(role).filter(|_| is_general).map(whole_on));
        let named_schemas = patterns
            .iter()
            .filter_map(|(pattern, _)| pattern.schema.clone())
            .chain(
                self.declared
                    .default_privileges
                    .values()
                    .filter_map(|policy| policy.schema.clone()),
            );
        let by_schema: BTreeMap<String, Privileges> = named_schemas
            .filter(|schema| place.objects.contains_key(&Object::Schema(schema.clone())))
            .filter_map(|schema| {
                let said = by_pattern(Some(&schema))
                    .or_else(|| self.policy(creator, Some(&schema), kind, role))?;
                Some((schema, on(said)))
            })
            .collect();

        let mut put = |schema: Option<&str>, privileges: Privileges| {
            let key = (future(creator, schema, kind), Grantee::role(role));
            rights.insert(key, privileges);
        };
        let Some(anywhere) = anywhere else {
            for (schema, privileges) in by_schema {
                put(Some(&schema), privileges);
            }
            return;
        };
        // PostgreSQL adds what is said of a schema to what is said of any. Where less is wanted in
        // one, it has to be said of each of the others.
        let less_somewhere = by_schema.values().any(|here| !here.is_superset(&anywhere));
        if less_somewhere {
            put(None, Privileges::new());
            for (object, facts) in place.objects {
                if let Object::Schema(schema) = object
                    && !facts.of_extension
                {
                    let here = by_schema.get(schema).unwrap_or(&anywhere);
                    put(Some(schema), here.clone());
                }
            }
        } else {
            for (schema, here) in &by_schema {
                put(Some(schema), here.difference(&anywhere).copied().collect());
            }
            put(None, anywhere);
        }
    }
}

fn future(creator: &str, schema: Option<&str>, kind: Kind) -> Object {
    Object::Future {
        creator: creator.into(),
        schema: schema.map(Into::into),
        kind,
    }
}

fn grants_of(policy: &DefaultPrivileges, kind: Kind) -> Option<&Grants> {
    match kind {
        Kind::Tables => Some(&policy.tables),
        Kind::Sequences => Some(&policy.sequences),
        Kind::Functions => Some(&policy.functions),
        Kind::Schemas => None,
    }
}

/// Patterns and what is said of them. One that cannot be read was refused with the settings file.
fn parsed(permissions: &BTreeMap<String, Grants>) -> Vec<(Pattern, &Grants)> {
    permissions
        .iter()
        .filter_map(|(text, grants)| Some((text.parse().ok()?, grants)))
        .collect()
}

/// Objects that a declaration names and that do not exist.
#[must_use]
pub fn missing(declared: &Declared, objects: &Objects) -> Vec<String> {
    let is_there = |pattern: &Pattern, functions: bool| {
        objects.keys().any(|object| match object {
            Object::Table { schema, name } | Object::Sequence { schema, name } => {
                !functions
                    && pattern.schema.as_ref() == Some(schema)
                    && pattern.name.as_ref() == Some(name)
            }
            Object::Function { schema, name, .. } => {
                functions
                    && pattern.schema.as_ref() == Some(schema)
                    && pattern.name.as_ref() == Some(name)
            }
            _ => false,
        })
    };
    let named = |permissions: &BTreeMap<String, Grants>, functions: bool| -> Vec<String> {
        parsed(permissions)
            .into_iter()
            .filter(|(pattern, _)| pattern.name.is_some() && !is_there(pattern, functions))
            .filter_map(|(pattern, _)| {
                let what = if functions { "function" } else { "table" };
                Some(format!("{what} \"{}.{}\"", pattern.schema?, pattern.name?))
            })
            .collect()
    };
    let mut missing = named(&declared.table_permissions, false);
    missing.extend(named(&declared.function_permissions, true));
    missing.extend(
        declared
            .schema_permissions
            .keys()
            .filter(|name| !objects.contains_key(&Object::Schema((*name).clone())))
            .map(|name| format!("schema \"{name}\"")),
    );
    missing
}

/// Privileges of `all` that are said, where `ALL` says all of them.
fn said_of(said: &Privileges, all: &[Privilege]) -> Privileges {
    all.iter()
        .copied()
        .filter(|privilege| said.contains(&Privilege::All) || said.contains(privilege))
        .collect()
}

const ON_TABLE: [Privilege; 8] = [
    Privilege::Select,
    Privilege::Insert,
    Privilege::Update,
    Privilege::Delete,
    Privilege::Truncate,
    Privilege::References,
    Privilege::Trigger,
    Privilege::Maintain,
];

fn on_database(said: &Privileges) -> Privileges {
    said_of(
        said,
        &[Privilege::Connect, Privilege::Create, Privilege::Temporary],
    )
}

/// Whoever may do anything in a database may connect to it.
fn whole_on_database(said: &Privileges) -> Privileges {
    let mut privileges = on_database(said);
    if !said.is_empty() {
        privileges.insert(Privilege::Connect);
    }
    privileges
}

fn on_schema(said: &Privileges) -> Privileges {
    said_of(said, &[Privilege::Usage, Privilege::Create])
}

/// Whoever may do something with tables or functions may look into the schemas. `CREATE` is about the
/// database.
fn whole_on_schema(said: &Privileges) -> Privileges {
    let looks_inside = said.contains(&Privilege::All)
        || said.contains(&Privilege::Usage)
        || said.contains(&Privilege::Execute)
        || ON_TABLE.iter().any(|privilege| said.contains(privilege));
    let mut privileges = Privileges::new();
    if looks_inside {
        privileges.insert(Privilege::Usage);
    }
    if said.contains(&Privilege::All) {
        privileges.insert(Privilege::Create);
    }
    privileges
}

fn on_table(said: &Privileges, major: u32) -> Privileges {
    let mut privileges = said_of(said, &ON_TABLE);
    if major < MAINTAIN_MAJOR {
        privileges.remove(&Privilege::Maintain);
    }
    privileges
}

/// What is said of tables holds for sequences as far as it fits: who adds rows takes values.
fn on_sequence(said: &Privileges) -> Privileges {
    let mut privileges = said_of(
        said,
        &[Privilege::Usage, Privilege::Select, Privilege::Update],
    );
    if said.contains(&Privilege::Insert) {
        privileges.insert(Privilege::Usage);
    }
    privileges
}

/// In what is said of the whole database, `USAGE` is about schemas.
fn whole_on_sequence(said: &Privileges) -> Privileges {
    let mut said = said.clone();
    said.remove(&Privilege::Usage);
    on_sequence(&said)
}

fn on_function(said: &Privileges) -> Privileges {
    said_of(said, &[Privilege::Execute])
}

#[cfg(test)]
mod tests;
