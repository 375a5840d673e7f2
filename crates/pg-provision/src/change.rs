//! One step from what is to what should be: as data, as a sentence and as SQL.

use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;

use crate::parameters;
use crate::scram::Verifier;
use crate::state::{Attribute, Grantee, Kind, Object, Privilege, words};

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(
    tag = "change",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub enum Change {
    /// A role is created. It may nothing yet.
    CreateRole {
        /// Its name.
        role: String,
    },
    /// A property of a role is set.
    SetAttribute {
        /// The role.
        role: String,
        /// The property.
        attribute: Attribute,
        /// Whether it has it.
        on: bool,
    },
    /// A role gets a password.
    SetPassword {
        /// The role.
        role: String,
        /// Why.
        why: PasswordChange,
        /// What the server stores.
        #[serde(skip)]
        verifier: Verifier,
    },
    /// The number of connections of a role or a database is limited, or no longer.
    LimitConnections {
        /// What has the limit.
        of: Subject,
        /// The limit.
        limit: Option<u32>,
    },
    /// A role gets the rights of another.
    GrantRole {
        /// The other.
        role: String,
        /// Who gets them.
        member: String,
    },
    /// A role loses the rights of another.
    RevokeRole {
        /// The other.
        role: String,
        /// Who loses them.
        member: String,
    },
    /// A parameter of the sessions of a role or a database is set, or reset.
    SetParameter {
        /// What has the parameter.
        of: Subject,
        /// Its name.
        name: String,
        /// Its value, or nothing to reset it.
        value: Option<String>,
    },
    /// A database is created.
    CreateDatabase {
        /// How.
        creation: Creation,
    },
    /// A database gets another owner.
    SetOwner {
        /// The database.
        database: String,
        /// The new owner.
        owner: String,
    },
    /// A database becomes a template for everybody, or no longer.
    SetTemplate {
        /// The database.
        database: String,
        /// Whether it is one.
        on: bool,
    },
    /// A schema is created for an extension.
    CreateSchema {
        /// Its name.
        schema: String,
        /// Its owner.
        owner: String,
    },
    /// An extension is created.
    CreateExtension {
        /// Its name.
        extension: String,
        /// Its schema, unless it insists on one.
        schema: Option<String>,
        /// Its version, unless the server's default will do.
        version: Option<String>,
        /// Why, where it is not declared by this name.
        why: Option<String>,
    },
    /// An extension is updated.
    UpdateExtension {
        /// Its name.
        extension: String,
        /// The version to have.
        version: String,
    },
    /// The objects of an extension move to another schema.
    MoveExtension {
        /// Its name.
        extension: String,
        /// The schema.
        schema: String,
    },
    /// Rights are granted.
    Grant {
        /// The database, for what is said of the database itself.
        database: String,
        /// On what.
        object: Object,
        /// To whom.
        to: Grantee,
        /// Which.
        privileges: BTreeSet<Privilege>,
    },
    /// Rights are revoked.
    Revoke {
        /// The database, for what is said of the database itself.
        database: String,
        /// On what.
        object: Object,
        /// From whom.
        from: Grantee,
        /// Which.
        privileges: BTreeSet<Privilege>,
    },
    /// SQL that somebody declared is run.
    Run {
        /// What it is called there.
        kind: Script,
        /// Its file.
        file: String,
    },
    /// Rows of an application's table of migrations are added or removed.
    Record {
        /// The table.
        table: String,
        /// Versions that are added.
        add: Vec<String>,
        /// Versions that are removed.
        remove: Vec<String>,
    },
}

/// What a limit or a parameter belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Subject {
    /// A role.
    Role(String),
    /// A database.
    Database(String),
}

/// Why a password is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum PasswordChange {
    /// There was none.
    Missing,
    /// It was stored as something else than a SCRAM verifier.
    Older,
    /// It was another.
    Differs,
}

/// How a database is created.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Creation {
    /// Its name.
    pub database: String,
    /// Its owner.
    pub owner: String,
    /// The database that it is a copy of.
    pub template: Option<String>,
    /// Its encoding.
    pub encoding: Option<String>,
    /// `libc`, `icu` or `builtin`.
    pub locale_provider: Option<String>,
    /// The locale of that provider, if it is not the operating system's.
    pub locale: Option<String>,
    /// `LC_COLLATE`.
    pub collation: Option<String>,
    /// `LC_CTYPE`.
    pub lc_ctype: Option<String>,
    /// Its tablespace.
    pub tablespace: Option<String>,
}

/// What a declaration calls some SQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Script {
    /// `customSql.preCreate`
    PreCreate,
    /// `customSql.postCreate`
    PostCreate,
    /// `customSql.preConfig`
    PreConfig,
    /// `customSql.postConfig`
    PostConfig,
    /// `initScripts`
    Initialization,
    /// `migrations`
    Migration,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Role(name) => write!(f, "role \"{name}\""),
            Self::Database(name) => write!(f, "database \"{name}\""),
        }
    }
}

impl fmt::Display for Change {
    #[expect(clippy::too_many_lines, reason = "one sentence for each kind of step")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateRole { role } => write!(f, "create role \"{role}\""),
            Self::SetAttribute {
                role,
                attribute,
                on,
            } => {
                let may = if *on { "may" } else { "may no longer" };
                write!(f, "role \"{role}\" {may} {}", attribute.deed())
            }
            Self::SetPassword { role, why, .. } => {
                let why = match why {
                    PasswordChange::Missing => "has none",
                    PasswordChange::Older => "has one that is stored as something else than SCRAM",
                    PasswordChange::Differs => "has another",
                };
                write!(f, "set the password of role \"{role}\", which {why}")
            }
            Self::LimitConnections { of, limit } => match limit {
                Some(limit) => write!(f, "{of} takes at most {limit} connections"),
                None => write!(f, "{of} has no limit of connections of its own"),
            },
            Self::GrantRole { role, member } => {
                write!(f, "role \"{member}\" gets the rights of role \"{role}\"")
            }
            Self::RevokeRole { role, member } => {
                write!(f, "role \"{member}\" loses the rights of role \"{role}\"")
            }
            Self::SetParameter { of, name, value } => match value {
                Some(value) => write!(f, "sessions of {of} begin with {name} = \"{value}\""),
                None => write!(f, "sessions of {of} begin with the server's {name}"),
            },
            Self::CreateDatabase { creation } => {
                write!(
                    f,
                    "create database \"{}\" of role \"{}\"",
                    creation.database, creation.owner
                )?;
                let Creation {
                    database: _,
                    owner: _,
                    template,
                    encoding,
                    locale_provider,
                    locale,
                    collation,
                    lc_ctype,
                    tablespace,
                } = creation;
                for (what, value) in [
                    ("template", template),
                    ("encoding", encoding),
                    ("locale provider", locale_provider),
                    ("locale", locale),
                    ("collation", collation),
                    ("character classes", lc_ctype),
                    ("tablespace", tablespace),
                ] {
                    if let Some(value) = value {
                        write!(f, ", {what} \"{value}\"")?;
                    }
                }
                Ok(())
            }
            Self::SetOwner { owner, .. } => write!(f, "role \"{owner}\" becomes the owner"),
            Self::SetTemplate { on, .. } => f.write_str(if *on {
                "every role that may create databases may copy it"
            } else {
                "only its owner may copy it"
            }),
            Self::CreateSchema { schema, owner } => {
                write!(f, "create schema \"{schema}\" of role \"{owner}\"")
            }
            Self::CreateExtension {
                extension,
                schema,
                version,
                why,
            } => {
                write!(f, "create extension \"{extension}\"")?;
                if let Some(version) = version {
                    write!(f, ", version {version}")?;
                }
                if let Some(schema) = schema {
                    write!(f, ", in schema \"{schema}\"")?;
                }
                match why {
                    Some(why) => write!(f, ": {why}"),
                    None => Ok(()),
                }
            }
            Self::UpdateExtension { extension, version } => {
                write!(f, "update extension \"{extension}\" to version {version}")
            }
            Self::MoveExtension { extension, schema } => {
                write!(f, "move extension \"{extension}\" to schema \"{schema}\"")
            }
            Self::Grant {
                object,
                to,
                privileges,
                ..
            } => write!(f, "grant {} on {object} to {to}", words(privileges)),
            Self::Revoke {
                object,
                from,
                privileges,
                ..
            } => write!(f, "revoke {} on {object} from {from}", words(privileges)),
            Self::Run { kind, file } => {
                let what = match kind {
                    Script::PreCreate => "SQL before creation",
                    Script::PostCreate => "SQL after creation",
                    Script::PreConfig => "SQL before configuration",
                    Script::PostConfig => "SQL after configuration",
                    Script::Initialization => "init script",
                    Script::Migration => "migration",
                };
                write!(f, "run {what} \"{file}\"")
            }
            Self::Record { table, add, remove } => {
                let list = |versions: &[String]| versions.join(", ");
                match (add.is_empty(), remove.is_empty()) {
                    (false, false) => write!(
                        f,
                        "add {} to table \"{table}\" and remove {}",
                        list(add),
                        list(remove)
                    ),
                    (true, _) => write!(f, "remove {} from table \"{table}\"", list(remove)),
                    (_, true) => write!(f, "add {} to table \"{table}\"", list(add)),
                }
            }
        }
    }
}

/// One statement: a template of `format()`, which the server fills in with quoted arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// The template: `%I` is an identifier, `%L` a literal, `%s` a word that stands in this program.
    pub template: String,
    /// Its arguments.
    pub arguments: Vec<String>,
}

impl Statement {
    fn new<const N: usize>(template: impl Into<String>, arguments: [&str; N]) -> Self {
        Self {
            template: template.into(),
            arguments: arguments.map(Into::into).into(),
        }
    }

    fn with(mut self, template: &str, argument: &str) -> Self {
        self.template.push_str(template);
        self.arguments.push(argument.into());
        self
    }
}

impl Change {
    /// The statement that carries it out; nothing for what is more than one statement.
    #[must_use]
    pub fn statement(&self) -> Option<Statement> {
        Some(match self {
            Self::CreateRole { role } => Statement::new("CREATE ROLE %I NOLOGIN", [role]),
            Self::SetAttribute {
                role,
                attribute,
                on,
            } => {
                let word = match (attribute, on) {
                    (Attribute::Login, true) => "LOGIN",
                    (Attribute::Login, false) => "NOLOGIN",
                    (Attribute::CreateDb, true) => "CREATEDB",
                    (Attribute::CreateDb, false) => "NOCREATEDB",
                    (Attribute::CreateRole, true) => "CREATEROLE",
                    (Attribute::CreateRole, false) => "NOCREATEROLE",
                    (Attribute::Replication, true) => "REPLICATION",
                    (Attribute::Replication, false) => "NOREPLICATION",
                };
                Statement::new(format!("ALTER ROLE %I {word}"), [role])
            }
            Self::SetPassword { role, verifier, .. } => {
                Statement::new("ALTER ROLE %I PASSWORD %L", [role, &verifier.text()])
            }
            Self::LimitConnections { of, limit } => {
                let limit = limit.map_or_else(|| "-1".into(), |limit| limit.to_string());
                alter(of, &format!("CONNECTION LIMIT {limit}"))
            }
            Self::GrantRole { role, member } => Statement::new("GRANT %I TO %I", [role, member]),
            Self::RevokeRole { role, member } => {
                Statement::new("REVOKE %I FROM %I", [role, member])
            }
            Self::SetParameter {
                of,
                name,
                value: None,
            } => alter(of, "RESET ").with("%I", name),
            Self::SetParameter {
                of,
                name,
                value: Some(value),
            } => {
                let mut statement = alter(of, "SET ").with("%I", name);
                for (index, value) in parameters::values(name, value).iter().enumerate() {
                    statement = statement.with(if index == 0 { " TO %L" } else { ", %L" }, value);
                }
                statement
            }
            Self::CreateDatabase { creation } => create(creation),
            Self::SetOwner { database, owner } => {
                Statement::new("ALTER DATABASE %I OWNER TO %I", [database, owner])
            }
            Self::SetTemplate { database, on } => {
                Statement::new(format!("ALTER DATABASE %I IS_TEMPLATE {on}"), [database])
            }
            Self::CreateSchema { schema, owner } => {
                Statement::new("CREATE SCHEMA %I AUTHORIZATION %I", [schema, owner])
            }
            Self::CreateExtension {
                extension,
                schema,
                version,
                ..
            } => {
                let mut statement = Statement::new("CREATE EXTENSION %I", [extension]);
                if let Some(schema) = schema {
                    statement = statement.with(" SCHEMA %I", schema);
                }
                if let Some(version) = version {
                    statement = statement.with(" VERSION %L", version);
                }
                statement
            }
            Self::UpdateExtension { extension, version } => {
                Statement::new("ALTER EXTENSION %I UPDATE TO %L", [extension, version])
            }
            Self::MoveExtension { extension, schema } => {
                Statement::new("ALTER EXTENSION %I SET SCHEMA %I", [extension, schema])
            }
            Self::Grant {
                database,
                object,
                to,
                privileges,
            } => on_object("GRANT", database, object, "TO", to, privileges),
            Self::Revoke {
                database,
                object,
                from,
                privileges,
            } => on_object("REVOKE", database, object, "FROM", from, privileges),
            Self::Run { .. } | Self::Record { .. } => return None,
        })
    }
}

fn alter(of: &Subject, rest: &str) -> Statement {
    match of {
        Subject::Role(name) => Statement::new(format!("ALTER ROLE %I {rest}"), [name]),
        Subject::Database(name) => Statement::new(format!("ALTER DATABASE %I {rest}"), [name]),
    }
}

fn create(creation: &Creation) -> Statement {
    let Creation {
        database,
        owner,
        template,
        encoding,
        locale_provider,
        locale,
        collation,
        lc_ctype,
        tablespace,
    } = creation;
    let mut statement = Statement::new("CREATE DATABASE %I OWNER %I", [database, owner]);
    let provider = locale_provider.as_deref();
    let locale_word = match provider {
        Some("builtin") => " BUILTIN_LOCALE %L",
        _ => " ICU_LOCALE %L",
    };
    for (template, value) in [
        (" TEMPLATE %I", template),
        (" ENCODING %L", encoding),
        (" LOCALE_PROVIDER %I", locale_provider),
        (locale_word, locale),
        (" LC_COLLATE %L", collation),
        (" LC_CTYPE %L", lc_ctype),
        (" TABLESPACE %I", tablespace),
    ] {
        if let Some(value) = value {
            statement = statement.with(template, value);
        }
    }
    statement
}

fn on_object(
    verb: &str,
    database: &str,
    object: &Object,
    preposition: &str,
    grantee: &Grantee,
    privileges: &BTreeSet<Privilege>,
) -> Statement {
    let words = words(privileges);
    let statement = match object {
        Object::Database => Statement::new(format!("{verb} {words} ON DATABASE %I"), [database]),
        Object::Schema(name) => Statement::new(format!("{verb} {words} ON SCHEMA %I"), [name]),
        Object::Table { schema, name } => {
            Statement::new(format!("{verb} {words} ON TABLE %I.%I"), [schema, name])
        }
        Object::Sequence { schema, name } => {
            Statement::new(format!("{verb} {words} ON SEQUENCE %I.%I"), [schema, name])
        }
        // The server has quoted the signature itself: it is the text of a regprocedure.
        Object::Function { signature, .. } => {
            Statement::new(format!("{verb} {words} ON ROUTINE %s"), [signature])
        }
        Object::Future {
            creator,
            schema,
            kind,
        } => {
            let mut statement = Statement::new("ALTER DEFAULT PRIVILEGES FOR ROLE %I", [creator]);
            if let Some(schema) = schema {
                statement = statement.with(" IN SCHEMA %I", schema);
            }
            let what = match kind {
                Kind::Tables => "TABLES",
                Kind::Sequences => "SEQUENCES",
                Kind::Functions => "ROUTINES",
                Kind::Schemas => "SCHEMAS",
            };
            for word in [" ", verb, " ", &words, " ON ", what] {
                statement.template.push_str(word);
            }
            statement
        }
    };
    match grantee {
        Grantee::Public => Statement {
            template: format!("{} {preposition} PUBLIC", statement.template),
            ..statement
        },
        Grantee::Role(name) => statement.with(&format!(" {preposition} %I"), name),
    }
}

/// Sentences for people: steps that differ only in the object are one sentence.
#[must_use]
pub fn sentences(changes: &[Change]) -> Vec<String> {
    let mut sentences: Vec<(Option<Group>, Vec<&Change>)> = Vec::new();
    for change in changes {
        let group = group_of(change);
        match sentences
            .iter_mut()
            .find(|(other, _)| group.is_some() && *other == group)
        {
            Some((_, members)) => members.push(change),
            None => sentences.push((group, vec![change])),
        }
    }
    sentences
        .into_iter()
        .flat_map(|(group, members)| match group {
            Some(group) if members.len() > 3 => vec![group.sentence(members.len())],
            _ => members.iter().map(ToString::to_string).collect(),
        })
        .collect()
}

/// Steps that one sentence can tell.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Group {
    verb: &'static str,
    privileges: String,
    kind: &'static str,
    schema: String,
    preposition: &'static str,
    grantee: Grantee,
}

impl Group {
    fn sentence(&self, count: usize) -> String {
        let Self {
            verb,
            privileges,
            kind,
            schema,
            preposition,
            grantee,
        } = self;
        format!(
            "{verb} {privileges} on {count} {kind} in schema \"{schema}\" {preposition} {grantee}"
        )
    }
}

fn group_of(change: &Change) -> Option<Group> {
    let (verb, object, preposition, grantee, privileges) = match change {
        Change::Grant {
            object,
            to,
            privileges,
            ..
        } => ("grant", object, "to", to, privileges),
        Change::Revoke {
            object,
            from,
            privileges,
            ..
        } => ("revoke", object, "from", from, privileges),
        _ => return None,
    };
    let (kind, schema) = match object {
        Object::Table { schema, .. } => ("tables", schema),
        Object::Sequence { schema, .. } => ("sequences", schema),
        Object::Function { schema, .. } => ("functions", schema),
        Object::Database | Object::Schema(_) | Object::Future { .. } => return None,
    };
    Some(Group {
        verb,
        privileges: words(privileges),
        kind,
        schema: schema.clone(),
        preposition,
        grantee: grantee.clone(),
    })
}

#[cfg(test)]
mod tests;
