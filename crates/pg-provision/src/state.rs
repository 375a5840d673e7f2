//! Roles and databases, as they are and as they should be: one type for both, so that a plan is
//! the difference of two values.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;
pub use settings::databases::Privilege;

use crate::scram::Verifier;

/// The role that PostgreSQL 15 and later give to the owner of whatever database a session is in.
pub const DATABASE_OWNER: &str = "pg_database_owner";

/// One role.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Role {
    /// What it may do.
    pub attributes: BTreeSet<Attribute>,
    /// How many connections it may have, or nothing where there is no limit.
    pub connection_limit: Option<u32>,
    /// What is stored of its password.
    pub password: Stored,
    /// Roles whose rights it has.
    pub member_of: BTreeSet<String>,
    /// Server parameters of its sessions, by their name in small letters.
    pub parameters: BTreeMap<String, String>,
}

/// What a role may do apart from rights on objects. Logging in comes last: by then the rest is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Attribute {
    /// It may create databases.
    CreateDb,
    /// It may create roles.
    CreateRole,
    /// It may stream WAL.
    Replication,
    /// It may log in.
    Login,
}

impl Attribute {
    /// Every one.
    pub const ALL: [Self; 4] = [
        Self::CreateDb,
        Self::CreateRole,
        Self::Replication,
        Self::Login,
    ];

    /// What the role may do, for messages.
    #[must_use]
    pub fn deed(self) -> &'static str {
        match self {
            Self::CreateDb => "create databases",
            Self::CreateRole => "create roles",
            Self::Replication => "stream WAL",
            Self::Login => "log in",
        }
    }
}

/// What is stored of a password.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Stored {
    /// Nothing.
    #[default]
    Nothing,
    /// A verifier.
    Scram(Verifier),
    /// Something older, such as an MD5 hash.
    Other,
}

/// One database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Database {
    /// Its owner.
    pub owner: String,
    /// Whether every role with `CREATEDB` may copy it.
    pub is_template: bool,
    /// How many connections it takes, or nothing where there is no limit.
    pub connection_limit: Option<u32>,
    /// Server parameters of its sessions, by their name in small letters.
    pub parameters: BTreeMap<String, String>,
    /// Its schemas, but for those of the system.
    pub schemas: BTreeSet<String>,
    /// Its extensions.
    pub extensions: BTreeMap<String, Extension>,
    /// What roles may do, apart from what they may as owners.
    pub rights: Rights,
}

/// An extension in a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extension {
    /// The schema with its objects.
    pub schema: String,
    /// Its version.
    pub version: String,
}

/// Rights by object and holder.
pub type Rights = BTreeMap<(Object, Grantee), BTreeSet<Privilege>>;

/// Who a right is granted to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Grantee {
    /// Every role.
    Public,
    /// One role.
    Role(String),
}

impl Grantee {
    /// The role `name`.
    #[must_use]
    pub fn role(name: impl Into<String>) -> Self {
        Self::Role(name.into())
    }
}

impl fmt::Display for Grantee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Public => f.write_str("everybody"),
            Self::Role(name) => write!(f, "\"{name}\""),
        }
    }
}

/// What a right is granted on, in one database.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Object {
    /// The database itself.
    Database,
    /// A schema.
    Schema(String),
    /// A table, a view or whatever else is read as one.
    Table {
        /// Its schema.
        schema: String,
        /// Its name.
        name: String,
    },
    /// A sequence.
    Sequence {
        /// Its schema.
        schema: String,
        /// Its name.
        name: String,
    },
    /// A function or procedure.
    Function {
        /// Its schema.
        schema: String,
        /// Its name.
        name: String,
        /// The whole name with the types of its arguments, quoted by the server.
        signature: String,
    },
    /// What one role will create.
    Future {
        /// That role.
        creator: String,
        /// The schema it is created in, or nothing for any.
        schema: Option<String>,
        /// What it is.
        kind: Kind,
    },
}

/// A kind of object that is created later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// Tables and views.
    Tables,
    /// Sequences.
    Sequences,
    /// Functions and procedures.
    Functions,
    /// Schemas.
    Schemas,
}

impl Kind {
    /// The word in SQL and in messages.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Tables => "tables",
            Self::Sequences => "sequences",
            Self::Functions => "functions",
            Self::Schemas => "schemas",
        }
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Database => f.write_str("the database"),
            Self::Schema(name) => write!(f, "schema \"{name}\""),
            Self::Table { schema, name } => write!(f, "table \"{schema}.{name}\""),
            Self::Sequence { schema, name } => write!(f, "sequence \"{schema}.{name}\""),
            Self::Function { signature, .. } => write!(f, "function \"{signature}\""),
            Self::Future {
                creator,
                schema,
                kind,
            } => {
                write!(f, "future {} of \"{creator}\"", kind.word())?;
                match schema {
                    Some(schema) => write!(f, " in schema \"{schema}\""),
                    None => Ok(()),
                }
            }
        }
    }
}

/// What is known of an object that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Its owner.
    pub owner: String,
    /// Whether it belongs to an extension.
    pub of_extension: bool,
    /// Whether it lies in a schema that belongs to an extension.
    pub in_extension_schema: bool,
}

/// The objects that exist in a database.
pub type Objects = BTreeMap<Object, Facts>;

/// PostgreSQL's word for a privilege.
#[must_use]
pub fn word(privilege: Privilege) -> &'static str {
    match privilege {
        Privilege::All => "ALL",
        Privilege::Connect => "CONNECT",
        Privilege::Temporary => "TEMPORARY",
        Privilege::Create => "CREATE",
        Privilege::Usage => "USAGE",
        Privilege::Select => "SELECT",
        Privilege::Insert => "INSERT",
        Privilege::Update => "UPDATE",
        Privilege::Delete => "DELETE",
        Privilege::Truncate => "TRUNCATE",
        Privilege::References => "REFERENCES",
        Privilege::Trigger => "TRIGGER",
        Privilege::Maintain => "MAINTAIN",
        Privilege::Execute => "EXECUTE",
    }
}

/// PostgreSQL's words for privileges, separated by commas.
#[must_use]
pub fn words(privileges: &BTreeSet<Privilege>) -> String {
    privileges
        .iter()
        .map(|&privilege| word(privilege))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Reads PostgreSQL's word for a privilege; nothing for one that is not known here.
#[must_use]
pub fn privilege(word: &str) -> Option<Privilege> {
    Some(match word {
        "CONNECT" => Privilege::Connect,
        "TEMPORARY" => Privilege::Temporary,
        "CREATE" => Privilege::Create,
        "USAGE" => Privilege::Usage,
        "SELECT" => Privilege::Select,
        "INSERT" => Privilege::Insert,
        "UPDATE" => Privilege::Update,
        "DELETE" => Privilege::Delete,
        "TRUNCATE" => Privilege::Truncate,
        "REFERENCES" => Privilege::References,
        "TRIGGER" => Privilege::Trigger,
        "MAINTAIN" => Privilege::Maintain,
        "EXECUTE" => Privilege::Execute,
        _ => return None,
    })
}
