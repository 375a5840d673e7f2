//! What has to change. Nothing here asks the server: desired and current state come in as values of
//! the same type, and their difference goes out as data.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use settings::databases::{
    Database as Declared, Extension as DeclaredExtension, Role as DeclaredRole,
};

use crate::change::{Change, Creation, PasswordChange, Subject};
use crate::parameters;
use crate::rights;
use crate::scram::Verifier;
use crate::state::{Attribute, Database, Extension, Object, Objects, Role, Stored};

/// What is known of earlier declarations of one thing.
#[derive(Clone, Debug)]
pub struct Past<T> {
    /// Whether it was created by this program.
    pub created: bool,
    /// Whether everybody was shut out of a database that is no longer declared. Nobody is let in again
    /// because a declaration is gone, so this outlives it.
    pub closed: bool,
    /// Declarations whose effects may be there.
    pub declarations: Vec<T>,
}

impl<T> Default for Past<T> {
    fn default() -> Self {
        Self {
            created: false,
            closed: false,
            declarations: Vec::new(),
        }
    }
}

impl<T> Past<T> {
    fn any(&self, said: impl FnMut(&T) -> bool) -> bool {
        self.declarations.iter().any(said)
    }
}

/// What is known of a declared password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Password {
    /// None is declared, or it cannot be read now: what is stored stays.
    AsItIs,
    /// The role has to have a password with this verifier.
    Wanted(Verifier),
}

/// The role that there should be, and remarks about what is left alone.
///
/// What is declared holds. What an earlier declaration brought about, and none says any more, is taken
/// back. Everything else stays as it is: on a role that this program did not create, rights that
/// somebody gave it by hand are only remarked on.
#[must_use]
pub fn desired_role(
    name: &str,
    declared: Option<&DeclaredRole>,
    past: &Past<DeclaredRole>,
    current: Option<&Role>,
    password: Password,
) -> (Option<Role>, Vec<String>) {
    let mut remarks = Vec::new();
    if declared.is_none() && current.is_none() {
        return (None, remarks);
    }
    let ours = past.created || current.is_none();
    let mut role = current.cloned().unwrap_or_default();
    for attribute in Attribute::ALL {
        if declared.is_some_and(|role| declares(role, attribute)) {
            role.attributes.insert(attribute);
            continue;
        }
        let takes_back = match attribute {
            // Whether a role logs in is always said, and said no more of one that is gone.
            Attribute::Login => declared.is_some() || past.created,
            _ => ours || past.any(|role| declares(role, attribute)),
        };
        if takes_back {
            role.attributes.remove(&attribute);
        } else if declared.is_some() && role.attributes.contains(&attribute) {
            remarks.push(format!(
                "role \"{name}\" may {}, which nothing declares and somebody else decided; it is left so",
                attribute.deed()
            ));
        }
    }
    role.connection_limit = match declared.and_then(|role| role.connection_limit) {
        Some(limit) => Some(limit),
        None if ours || past.any(|role| role.connection_limit.is_some()) => None,
        None => role.connection_limit,
    };
    let granted_before: BTreeSet<&String> = past
        .declarations
        .iter()
        .flat_map(|role| &role.member_of)
        .collect();
    role.member_of
        .retain(|other| !granted_before.contains(other));
    if let Some(declared) = declared {
        role.member_of.extend(declared.member_of.iter().cloned());
    }
    role.parameters = desired_parameters(
        &role.parameters,
        declared.map(|role| &role.settings),
        past.declarations.iter().map(|role| &role.settings),
    );
    if let Password::Wanted(verifier) = password {
        role.password = Stored::Scram(verifier);
    }
    (Some(role), remarks)
}

fn declares(role: &DeclaredRole, attribute: Attribute) -> bool {
    match attribute {
        Attribute::CreateDb => role.create_db,
        Attribute::CreateRole => role.create_role,
        Attribute::Replication => role.replication,
        Attribute::Login => role.login,
    }
}

/// Parameters that there should be: those that are declared, and those of which no declaration
/// ever spoke.
fn desired_parameters<'a>(
    current: &BTreeMap<String, String>,
    declared: Option<&BTreeMap<String, String>>,
    previous: impl Iterator<Item = &'a BTreeMap<String, String>>,
) -> BTreeMap<String, String> {
    let before: BTreeSet<String> = previous
        .flat_map(BTreeMap::keys)
        .map(|name| name.to_lowercase())
        .collect();
    let mut desired: BTreeMap<String, String> = current
        .iter()
        .filter(|(name, _)| !before.contains(*name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    for (name, value) in declared.into_iter().flatten() {
        desired.insert(name.to_lowercase(), value.clone());
    }
    desired
}

/// The steps from one role to another.
#[must_use]
pub fn between_roles(name: &str, current: Option<&Role>, desired: &Role) -> Vec<Change> {
    let mut changes = Vec::new();
    if current.is_none() {
        changes.push(Change::CreateRole { role: name.into() });
    }
    let none = Role::default();
    let Role {
        attributes,
        connection_limit,
        password,
        member_of,
        parameters,
    } = current.unwrap_or(&none);
    // Before the role may log in, so that it never can without its password.
    if password != &desired.password
        && let Stored::Scram(verifier) = &desired.password
    {
        changes.push(Change::SetPassword {
            role: name.into(),
            why: match password {
                Stored::Nothing => PasswordChange::Missing,
                Stored::Scram(_) => PasswordChange::Differs,
                Stored::Other => PasswordChange::Older,
            },
            verifier: verifier.clone(),
        });
    }
    for attribute in attributes.symmetric_difference(&desired.attributes) {
        changes.push(Change::SetAttribute {
            role: name.into(),
            attribute: *attribute,
            on: desired.attributes.contains(attribute),
        });
    }
    if connection_limit != &desired.connection_limit {
        changes.push(Change::LimitConnections {
            of: Subject::Role(name.into()),
            limit: desired.connection_limit,
        });
    }
    changes.extend(between_parameters(
        &Subject::Role(name.into()),
        parameters,
        &desired.parameters,
    ));
    for role in member_of.difference(&desired.member_of) {
        changes.push(Change::RevokeRole {
            role: role.clone(),
            member: name.into(),
        });
    }
    for role in desired.member_of.difference(member_of) {
        changes.push(Change::GrantRole {
            role: role.clone(),
            member: name.into(),
        });
    }
    changes
}

fn between_parameters(
    of: &Subject,
    current: &BTreeMap<String, String>,
    desired: &BTreeMap<String, String>,
) -> Vec<Change> {
    let reset = current
        .keys()
        .filter(|name| !desired.contains_key(*name))
        .map(|name| (name, None));
    let set = desired
        .iter()
        .filter(|(name, value)| {
            current
                .get(*name)
                .is_none_or(|is| !parameters::same(name, is, value))
        })
        .map(|(name, value)| (name, Some(value.clone())));
    reset
        .chain(set)
        .map(|(name, value)| Change::SetParameter {
            of: of.clone(),
            name: name.clone(),
            value,
        })
        .collect()
}

/// What the server knows that a plan for a database needs.
#[derive(Clone, Copy, Debug)]
pub struct Server<'a> {
    /// Its major version.
    pub major: u32,
    /// Extensions that it can create.
    pub offered: &'a Offered,
}

/// Extensions that a server can create, by name.
pub type Offered = BTreeMap<String, Offer>;

/// One extension that a server can create.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// The version that it prefers.
    pub default_version: Option<String>,
    /// Every version.
    pub versions: BTreeMap<String, OfferedVersion>,
}

/// One version of an extension.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OfferedVersion {
    /// Extensions that it needs.
    pub requires: Vec<String>,
    /// The schema that it insists on.
    pub schema: Option<String>,
}

/// What makes a plan impossible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong.
    pub what: String,
    /// A way out.
    pub hint: String,
}

/// A plan for one database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DatabasePlan {
    /// The steps.
    pub changes: Vec<Change>,
    /// What is left alone, and why.
    pub remarks: Vec<String>,
    /// What makes it impossible.
    pub problem: Option<Problem>,
}

/// Plans what has to change in a database that exists.
#[must_use]
pub fn for_database(
    name: &str,
    declared: Option<&Declared>,
    past: &Past<Declared>,
    current: &Database,
    objects: &Objects,
    server: Server<'_>,
) -> DatabasePlan {
    let mut plan = DatabasePlan::default();
    let mut desired = current.clone();
    if let Some(declared) = declared {
        if let Some(owner) = &declared.owner {
            desired.owner.clone_from(owner);
        }
        match extensions(declared, &desired, server) {
            Ok((wanted, steps, remarks)) => {
                desired
                    .schemas
                    .extend(steps.iter().filter_map(|step| match step {
                        Change::CreateSchema { schema, .. } => Some(schema.clone()),
                        _ => None,
                    }));
                desired.extensions = wanted;
                plan.changes.extend(steps);
                plan.remarks.extend(remarks);
            }
            Err(problem) => {
                plan.problem = Some(problem);
                return plan;
            }
        }
    }
    plan.remarks
        .extend(what_stays(name, declared, past, current));
    desired.is_template = declared.is_some_and(|database| database.is_template)
        || current.is_template && !past.any(|database| database.is_template) && !past.created;
    desired.connection_limit = match declared.and_then(|database| database.connection_limit) {
        Some(limit) => Some(limit),
        None if past.created || past.any(|database| database.connection_limit.is_some()) => None,
        None => current.connection_limit,
    };
    desired.parameters = desired_parameters(
        &current.parameters,
        declared.map(|database| &database.settings),
        past.declarations.iter().map(|database| &database.settings),
    );
    // What the owner may do is not granted to it.
    let mut objects = Cow::Borrowed(objects);
    if desired.owner != current.owner
        && let Some(facts) = objects.to_mut().get_mut(&Object::Database)
    {
        facts.owner.clone_from(&desired.owner);
    }
    desired.rights = rights::desired(
        declared,
        &past.declarations,
        past.closed,
        rights::Place {
            major: server.major,
            owner: &desired.owner,
            objects: &objects,
            rights: &current.rights,
        },
    );
    plan.changes
        .splice(0..0, properties(name, current, &desired));
    plan.changes
        .extend(between_rights(name, &current.rights, &desired.rights));
    if let Some(declared) = declared {
        plan.remarks.extend(
            rights::missing(declared, &objects)
                .into_iter()
                .map(|object| format!("{object} is not there yet, so nothing is granted on it")),
        );
    }
    plan
}

/// What an earlier declaration brought about and nothing removes.
fn what_stays(
    name: &str,
    declared: Option<&Declared>,
    past: &Past<Declared>,
    current: &Database,
) -> Vec<String> {
    let Some(declared) = declared else {
        return vec![format!(
            "database \"{name}\" is no longer declared; it stays"
        )];
    };
    let is_declared = |name: &String| declared.extensions.iter().any(|other| other.name == *name);
    let before: BTreeSet<&String> = past
        .declarations
        .iter()
        .flat_map(|database| &database.extensions)
        .map(|extension| &extension.name)
        .collect();
    before
        .into_iter()
        .filter(|name| !is_declared(name) && current.extensions.contains_key(*name))
        .map(|name| format!("extension \"{name}\" is no longer declared; it stays"))
        .collect()
}

/// The steps between two databases, but for extensions and rights.
fn properties(name: &str, current: &Database, desired: &Database) -> Vec<Change> {
    let mut changes = Vec::new();
    let Database {
        owner,
        is_template,
        connection_limit,
        parameters,
        schemas: _,
        extensions: _,
        rights: _,
    } = current;
    if owner != &desired.owner {
        changes.push(Change::SetOwner {
            database: name.into(),
            owner: desired.owner.clone(),
        });
    }
    if is_template != &desired.is_template {
        changes.push(Change::SetTemplate {
            database: name.into(),
            on: desired.is_template,
        });
    }
    if connection_limit != &desired.connection_limit {
        changes.push(Change::LimitConnections {
            of: Subject::Database(name.into()),
            limit: desired.connection_limit,
        });
    }
    changes.extend(between_parameters(
        &Subject::Database(name.into()),
        parameters,
        &desired.parameters,
    ));
    changes
}

fn between_rights(
    database: &str,
    current: &crate::state::Rights,
    desired: &crate::state::Rights,
) -> Vec<Change> {
    let none = BTreeSet::new();
    let keys: BTreeSet<_> = current.keys().chain(desired.keys()).collect();
    let mut revoked = Vec::new();
    let mut granted = Vec::new();
    for key in keys {
        let is = current.get(key).unwrap_or(&none);
        let should = desired.get(key).unwrap_or(&none);
        let (object, holder) = key;
        let less: BTreeSet<_> = is.difference(should).copied().collect();
        if !less.is_empty() {
            revoked.push(Change::Revoke {
                database: database.into(),
                object: object.clone(),
                from: holder.clone(),
                privileges: less,
            });
        }
        let more: BTreeSet<_> = should.difference(is).copied().collect();
        if !more.is_empty() {
            granted.push(Change::Grant {
                database: database.into(),
                object: object.clone(),
                to: holder.clone(),
                privileges: more,
            });
        }
    }
    revoked.extend(granted);
    revoked
}

/// How the server creates a database that is declared.
#[must_use]
pub fn creation(name: &str, declared: &Declared, own_role: &str) -> Creation {
    let Declared {
        owner,
        encoding,
        locale_provider,
        locale,
        collation,
        lc_ctype,
        template,
        tablespace,
        ..
    } = declared;
    let says_locale = encoding.is_some()
        || locale_provider.is_some()
        || locale.is_some()
        || collation.is_some()
        || lc_ctype.is_some();
    Creation {
        database: name.into(),
        owner: owner.clone().unwrap_or_else(|| own_role.into()),
        template: template.clone().or_else(|| {
            // template1 may hold data of its own encoding and order; template0 never does.
            says_locale.then(|| "template0".into())
        }),
        encoding: encoding.clone(),
        locale_provider: locale_provider.map(|provider| {
            match provider {
                settings::LocaleProvider::Libc => "libc",
                settings::LocaleProvider::Icu => "icu",
                settings::LocaleProvider::Builtin => "builtin",
            }
            .into()
        }),
        locale: locale.clone(),
        collation: collation.clone(),
        lc_ctype: lc_ctype.clone(),
        tablespace: tablespace.clone(),
    }
}

/// What a database was created with and another declaration cannot change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Birth {
    /// Its encoding.
    pub encoding: String,
    /// `libc`, `icu` or `builtin`.
    pub locale_provider: String,
    /// The locale of that provider, if it is not the operating system's.
    pub locale: Option<String>,
    /// `LC_COLLATE`.
    pub collation: String,
    /// `LC_CTYPE`.
    pub lc_ctype: String,
    /// Its tablespace.
    pub tablespace: String,
}

/// Compares what is declared of a database's creation with what it is.
///
/// # Errors
///
/// Says what differs: none of it can be changed without copying the data.
pub fn compare_birth(declared: &Creation, birth: &Birth) -> Result<(), Problem> {
    let folded = |locale: &str| locale.to_lowercase().replace('-', "");
    let same_encoding = |left: &str, right: &str| {
        let plain = |text: &str| text.to_lowercase().replace(['-', '_'], "");
        plain(left) == plain(right)
    };
    let differs = |what: &str, wanted: &str, is: &str| Problem {
        what: format!("its {what} is \"{is}\", and \"{wanted}\" is declared"),
        hint: format!(
            "the {what} of a database is fixed when it is created; declare what it is, or dump the database and restore it into a new one"
        ),
    };
    if let Some(wanted) = &declared.encoding
        && !same_encoding(wanted, &birth.encoding)
    {
        return Err(differs("encoding", wanted, &birth.encoding));
    }
    for (what, wanted, is) in [
        (
            "locale provider",
            &declared.locale_provider,
            Some(&birth.locale_provider),
        ),
        ("locale", &declared.locale, birth.locale.as_ref()),
        ("collation", &declared.collation, Some(&birth.collation)),
        (
            "character classes",
            &declared.lc_ctype,
            Some(&birth.lc_ctype),
        ),
        ("tablespace", &declared.tablespace, Some(&birth.tablespace)),
    ] {
        let is = is.map_or("", String::as_str);
        if let Some(wanted) = wanted
            && folded(wanted) != folded(is)
        {
            return Err(differs(what, wanted, is));
        }
    }
    Ok(())
}

type Extensions = BTreeMap<String, Extension>;

/// The extensions that there should be, the steps to them, and remarks.
fn extensions(
    declared: &Declared,
    current: &Database,
    server: Server<'_>,
) -> Result<(Extensions, Vec<Change>, Vec<String>), Problem> {
    let mut wanted = current.extensions.clone();
    let mut steps = Vec::new();
    let mut remarks = Vec::new();
    for extension in &declared.extensions {
        let name = known_name(&extension.name, &wanted, server.offered);
        if name != extension.name {
            remarks.push(format!(
                "extension \"{}\" is that of pgvecto.rs, which the server does not offer; pgvector's is called \"{name}\" and takes its place",
                extension.name
            ));
        }
        match wanted.get(name) {
            Some(installed) => {
                let installed = installed.clone();
                let changed = adjusted(name, extension, &installed, current, server, &mut steps)?;
                wanted.insert(name.into(), changed);
            }
            None => create_extension(
                name,
                extension,
                None,
                current,
                server,
                &mut wanted,
                &mut steps,
            )?,
        }
    }
    Ok((wanted, steps, remarks))
}

/// The name by which the server knows an extension.
fn known_name<'a>(name: &'a str, installed: &Extensions, offered: &Offered) -> &'a str {
    let is_known = |name: &str| installed.contains_key(name) || offered.contains_key(name);
    if name == "vectors" && !is_known(name) && is_known("vector") {
        "vector"
    } else {
        name
    }
}

/// The steps for an extension that is there.
fn adjusted(
    name: &str,
    extension: &DeclaredExtension,
    installed: &Extension,
    current: &Database,
    server: Server<'_>,
    steps: &mut Vec<Change>,
) -> Result<Extension, Problem> {
    let mut adjusted = installed.clone();
    let latest = || {
        extension
            .update_to_latest
            .then(|| server.offered.get(name)?.default_version.clone())
            .flatten()
    };
    if let Some(version) = extension.version.clone().or_else(latest)
        && version != installed.version
    {
        offered_version(name, Some(&version), server.offered)?;
        steps.push(Change::UpdateExtension {
            extension: name.into(),
            version: version.clone(),
        });
        adjusted.version = version;
    }
    if let Some(schema) = &extension.schema
        && schema != &installed.schema
    {
        create_schema(schema, current, steps);
        steps.push(Change::MoveExtension {
            extension: name.into(),
            schema: schema.clone(),
        });
        adjusted.schema.clone_from(schema);
    }
    Ok(adjusted)
}

/// The steps that create an extension and, before it, what it requires.
fn create_extension(
    name: &str,
    extension: &DeclaredExtension,
    needed_by: Option<&str>,
    current: &Database,
    server: Server<'_>,
    wanted: &mut Extensions,
    steps: &mut Vec<Change>,
) -> Result<(), Problem> {
    let version = extension.version.as_ref().filter(|_| needed_by.is_none());
    let (chosen, offered) = offered_version(name, version.map(String::as_str), server.offered)?;
    let schema = match (&offered.schema, &extension.schema) {
        (Some(own), Some(declared)) if needed_by.is_none() && own != declared => {
            return Err(Problem {
                what: format!(
                    "extension \"{name}\" insists on schema \"{own}\", and \"{declared}\" is declared"
                ),
                hint: "leave its schema out".into(),
            });
        }
        (Some(_), _) => None,
        (None, declared) => Some(declared.clone().unwrap_or_else(|| "public".into())),
    };
    // Entered before what it requires, so that two that require each other end.
    wanted.insert(
        name.into(),
        Extension {
            schema: schema
                .clone()
                .or_else(|| offered.schema.clone())
                .unwrap_or_default(),
            version: chosen,
        },
    );
    for required in &offered.requires {
        if !wanted.contains_key(required) {
            create_extension(
                required,
                extension,
                Some(name),
                current,
                server,
                wanted,
                steps,
            )?;
        }
    }
    if let Some(schema) = &schema {
        create_schema(schema, current, steps);
    }
    let why = match needed_by {
        Some(other) => Some(format!("extension \"{other}\" requires it")),
        None => (name != extension.name).then(|| format!("\"{}\" is declared", extension.name)),
    };
    steps.push(Change::CreateExtension {
        extension: name.into(),
        schema,
        version: version.cloned(),
        why,
    });
    Ok(())
}

fn create_schema(schema: &str, current: &Database, steps: &mut Vec<Change>) {
    let step = Change::CreateSchema {
        schema: schema.into(),
        owner: current.owner.clone(),
    };
    if !current.schemas.contains(schema) && !steps.contains(&step) {
        steps.push(step);
    }
}

/// A version of an extension that the server can create: the one that is asked for, or the one that
/// it prefers.
fn offered_version<'a>(
    name: &str,
    version: Option<&str>,
    offered: &'a Offered,
) -> Result<(String, &'a OfferedVersion), Problem> {
    let Some(offer) = offered.get(name) else {
        return Err(not_offered(name));
    };
    let chosen = version.or(offer.default_version.as_deref());
    chosen
        .and_then(|version| Some((version.to_owned(), offer.versions.get(version)?)))
        .ok_or_else(|| Problem {
            what: format!(
                "the server does not offer extension \"{name}\" in version {}",
                chosen.unwrap_or("(none is preferred)")
            ),
            hint: format!(
                "it offers {}",
                offer
                    .versions
                    .keys()
                    .map(String::as_str)
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
        })
}

fn not_offered(name: &str) -> Problem {
    Problem {
        what: format!("the server does not offer extension \"{name}\""),
        hint: match name {
            "vectors" => "\"vectors\" is the extension of pgvecto.rs; pgvector's is called \"vector\". Install the one that you mean: on NixOS, in extraPackages of the instance".into(),
            _ => "install the package that brings it along: on NixOS, in extraPackages of the instance".into(),
        },
    }
}

#[cfg(test)]
mod tests;
