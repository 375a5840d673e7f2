//! The section `databases`: databases and roles by declaration.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use crate::postgresql::LocaleProvider;
use crate::problem::{Findings, what_is_wrong_with};

/// Databases and roles that `pg-provision` brings about and keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Databases {
    /// File with the hash of what was brought about last, secrets included. Without it everything
    /// is looked at again and the configuration hooks run again.
    pub stamp_file: PathBuf,
    /// Longest time, in seconds, to wait until the server answers and has left recovery.
    #[serde(default = "default_ready_deadline")]
    pub ready_deadline_seconds: u32,
    /// Longest time, in seconds, that one change waits for a lock. Past it the database counts as
    /// failed, so that an application's long transaction is not blocked behind it.
    #[serde(default = "default_lock_deadline")]
    pub lock_deadline_seconds: u32,
    /// Roles by name. Every role that a database names has to be among them.
    #[serde(default)]
    pub roles: BTreeMap<String, Role>,
    /// Databases by name.
    #[serde(default)]
    pub declared: BTreeMap<String, Database>,
}

/// One role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is a key of the file")]
pub struct Role {
    /// Whether it may log in.
    #[serde(default = "yes")]
    pub login: bool,
    /// File with its password: an absolute path, or the name of a credential below
    /// `$CREDENTIALS_DIRECTORY`. Without it the role's password is left as it is.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// Whether it may create databases.
    #[serde(default)]
    pub create_db: bool,
    /// Whether it may create roles.
    #[serde(default)]
    pub create_role: bool,
    /// Whether it may stream WAL and take base backups.
    #[serde(default)]
    pub replication: bool,
    /// How many connections it may have at a time. Without it there is no limit.
    #[serde(default)]
    pub connection_limit: Option<u32>,
    /// Roles whose rights it has.
    #[serde(default)]
    pub member_of: BTreeSet<String>,
    /// Server parameters of its sessions, as in `ALTER ROLE … SET`.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
}

/// One database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Database {
    /// Whether `pg-provision` may touch it. A database that is not managed is left as it is, and
    /// nothing that was granted in it is revoked.
    #[serde(default = "yes")]
    pub managed: bool,
    /// Its owner; the default is `postgresql.role`.
    #[serde(default)]
    pub owner: Option<String>,
    /// Encoding at creation.
    #[serde(default)]
    pub encoding: Option<String>,
    /// Locale provider at creation.
    #[serde(default)]
    pub locale_provider: Option<LocaleProvider>,
    /// Locale of the `icu` or `builtin` provider at creation.
    #[serde(default)]
    pub locale: Option<String>,
    /// Collation order of the operating system (`LC_COLLATE`) at creation.
    #[serde(default)]
    pub collation: Option<String>,
    /// Character classes of the operating system (`LC_CTYPE`) at creation.
    #[serde(default)]
    pub lc_ctype: Option<String>,
    /// Database that it is a copy of when it is created.
    #[serde(default)]
    pub template: Option<String>,
    /// Tablespace at creation.
    #[serde(default)]
    pub tablespace: Option<String>,
    /// Whether every role with `CREATEDB` may copy it.
    #[serde(default)]
    pub is_template: bool,
    /// How many connections it takes at a time. Without it there is no limit.
    #[serde(default)]
    pub connection_limit: Option<u32>,
    /// Server parameters of its sessions, as in `ALTER DATABASE … SET`.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
    /// Extensions. What they require is created too.
    #[serde(default)]
    pub extensions: Vec<Extension>,
    /// Whether to take from `PUBLIC` what every role has by default: to connect, to make temporary
    /// tables, and, before PostgreSQL 15, to create objects in schema `public`.
    #[serde(default)]
    pub revoke_public: bool,
    /// A whole set of rights by one word.
    #[serde(default)]
    pub permissions_policy: PermissionsPolicy,
    /// The role that may read, with the policy `ownerReadwriteReadonlySelect`.
    #[serde(default)]
    pub readonly_role: Option<String>,
    /// What a role may do in the whole database, now and with what is created later.
    #[serde(default)]
    pub permissions: Grants,
    /// Rights on the database itself.
    #[serde(default)]
    pub database_permissions: Grants,
    /// Rights on schemas, by schema.
    #[serde(default)]
    pub schema_permissions: BTreeMap<String, Grants>,
    /// Rights on tables, views and sequences, by `schema.name` or `schema.*`.
    #[serde(default)]
    pub table_permissions: BTreeMap<String, Grants>,
    /// Rights on functions and procedures, by `schema.name` or `schema.*`.
    #[serde(default)]
    pub function_permissions: BTreeMap<String, Grants>,
    /// Rights on what one role has created and will create, by a name of your own.
    #[serde(default)]
    pub default_privileges: BTreeMap<String, DefaultPrivileges>,
    /// SQL around its creation and its configuration.
    #[serde(default)]
    pub custom_sql: CustomSql,
    /// SQL files that the owner runs, in this order, each once for each content.
    #[serde(default)]
    pub init_scripts: Vec<PathBuf>,
    /// Directory of SQL files that the owner runs in the order of their names, each once.
    #[serde(default)]
    pub migrations: Option<PathBuf>,
    /// Rows of the application's own table of migrations.
    #[serde(default)]
    pub schema_migrations: Option<SchemaMigrations>,
    /// Dumps of this database alone.
    #[serde(default)]
    pub dump: Option<Dump>,
}

/// Rights by role.
pub type Grants = BTreeMap<String, BTreeSet<Privilege>>;

/// One extension.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Extension {
    /// Its name, as in `pg_available_extensions`.
    pub name: String,
    /// Schema for its objects; the default is `public`, or the one that the extension insists on.
    #[serde(default)]
    pub schema: Option<String>,
    /// The version to have. Without it a new extension gets the server's default version, and an
    /// existing one stays as it is.
    #[serde(default)]
    pub version: Option<String>,
    /// Whether to update it whenever the server offers a newer default version.
    #[serde(default)]
    pub update_to_latest: bool,
}

/// A whole set of rights by one word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum PermissionsPolicy {
    /// Only what the other keys say.
    #[default]
    Custom,
    /// The owner everything, everybody else nothing.
    OwnerOnly,
    /// The owner everything, `readonlyRole` may read, everybody else nothing.
    OwnerReadwriteReadonlySelect,
}

/// A right, in PostgreSQL's word.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "UPPERCASE")]
pub enum Privilege {
    /// Every right that the object has.
    All,
    /// Connect to a database.
    Connect,
    /// Make temporary tables.
    #[serde(alias = "TEMP")]
    Temporary,
    /// Create schemas in a database, or objects in a schema.
    Create,
    /// Look into a schema, or take values from a sequence.
    Usage,
    /// Read.
    Select,
    /// Add rows.
    Insert,
    /// Change rows.
    Update,
    /// Remove rows.
    Delete,
    /// Empty a table.
    Truncate,
    /// Refer to a table by a foreign key.
    References,
    /// Create triggers on a table.
    Trigger,
    /// Vacuum, analyze, cluster, refresh and lock (PostgreSQL 17 or later).
    Maintain,
    /// Call a function or procedure.
    Execute,
}

/// Rights on what one role has created and will create.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DefaultPrivileges {
    /// The role that creates; the default is the database's owner.
    #[serde(default)]
    pub owner: Option<String>,
    /// Only what is in this schema. Without it, what is in any.
    #[serde(default)]
    pub schema: Option<String>,
    /// Rights on tables and views.
    #[serde(default)]
    pub tables: Grants,
    /// Rights on sequences.
    #[serde(default)]
    pub sequences: Grants,
    /// Rights on functions and procedures.
    #[serde(default)]
    pub functions: Grants,
}

/// SQL files around the creation and the configuration of a database, run by `postgresql.role` with
/// `search_path = pg_catalog`. They run in the database, `preCreate` in `postgres`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CustomSql {
    /// Before it is created.
    #[serde(default)]
    pub pre_create: Vec<PathBuf>,
    /// Once, after it was created.
    #[serde(default)]
    pub post_create: Vec<PathBuf>,
    /// Before extensions and rights are brought about, whenever the declaration has changed.
    #[serde(default)]
    pub pre_config: Vec<PathBuf>,
    /// After that.
    #[serde(default)]
    pub post_config: Vec<PathBuf>,
}

/// Rows of the application's own table of migrations, for an application that is told by them which
/// migrations it has seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SchemaMigrations {
    /// Schema of the table.
    #[serde(default = "default_migrations_schema")]
    pub schema: String,
    /// The table.
    #[serde(default = "default_migrations_table")]
    pub table: String,
    /// The column with the version.
    #[serde(default = "default_migrations_column")]
    pub column: String,
    /// Type of that column where the table has to be made.
    #[serde(default)]
    pub column_type: ColumnType,
    /// Whether to make the table when it is missing. Otherwise nothing is done until it is there.
    #[serde(default)]
    pub ensure_table: bool,
    /// A column that gets the time of the insertion.
    #[serde(default)]
    pub inserted_at_column: Option<String>,
    /// Whether to delete the rows that are not among the entries.
    #[serde(default)]
    pub prune_unknown: bool,
    /// The versions.
    #[serde(default)]
    pub entries: Vec<String>,
}

/// Type of a column of versions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ColumnType {
    /// `text`
    #[default]
    Text,
    /// `varchar(255)`
    Varchar,
    /// `integer`
    Integer,
    /// `bigint`
    Bigint,
}

/// Dumps of one database, made by `pg_dump` in its custom format and checked by `pg_restore --list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Dump {
    /// Directory of the dumps, one file each, named by their UTC time.
    pub directory: PathBuf,
    /// For how many days the newest dump of the day is kept.
    #[serde(default = "default_dump_daily")]
    pub daily: u32,
    /// For how many ISO weeks the newest dump of the week is kept.
    #[serde(default)]
    pub weekly: u32,
    /// For how many months the newest dump of the month is kept.
    #[serde(default)]
    pub monthly: u32,
    /// How old the newest dump may get, in seconds. Past it an alert fires. Without it any age will
    /// do.
    #[serde(default)]
    pub maximum_age_seconds: Option<u32>,
}

/// A name of a relation or a function in a list of rights: `schema.name`, `schema.*` or `*.*`.
///
/// Names are exact: nothing is folded to lower case, and a part with a dot or an asterisk in it stands
/// in double quotes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pattern {
    /// The schema, or nothing for every schema.
    pub schema: Option<String>,
    /// The name, or nothing for every name.
    pub name: Option<String>,
}

impl FromStr for Pattern {
    type Err = String;

    /// Reads a pattern.
    ///
    /// # Errors
    ///
    /// Says that the text is none.
    fn from_str(text: &str) -> Result<Self, String> {
        let read = || -> Option<Self> {
            let (schema, rest) = pattern_part(text)?;
            let (name, rest) = pattern_part(rest.strip_prefix('.')?)?;
            // A name in any schema would mean another object once a schema is added.
            (rest.is_empty() && (schema.is_some() || name.is_none()))
                .then_some(Self { schema, name })
        };
        read().ok_or_else(|| format!("\"{text}\" is not schema.name or schema.*"))
    }
}

/// Reads one part of a pattern, nothing for `*`, and returns what follows it.
fn pattern_part(text: &str) -> Option<(Option<String>, &str)> {
    if let Some(rest) = text.strip_prefix('*') {
        return Some((None, rest));
    }
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(['.', '"', '*']).unwrap_or(text.len());
        return (end > 0).then(|| (Some(text[..end].to_owned()), &text[end..]));
    };
    let mut name = String::new();
    let mut rest = quoted;
    loop {
        let (before, after) = rest.split_once('"')?;
        name.push_str(before);
        match after.strip_prefix('"') {
            Some(more) => {
                name.push('"');
                rest = more;
            }
            None => return (!name.is_empty()).then_some((Some(name), after)),
        }
    }
}

/// The longest name of a role, a database or an extension, in bytes: `NAMEDATALEN` less its final
/// zero.
const LONGEST_NAME: usize = 63;
/// The most connections that PostgreSQL can be told to take, `MAX_BACKENDS`.
const MOST_CONNECTIONS: u32 = 262_143;

impl Databases {
    /// Checks what types cannot express. `own_role` is `postgresql.role`, and nothing of a database may
    /// lie in the directories of `kept_apart`, each of which has its key.
    pub(crate) fn check(
        &self,
        own_role: &str,
        kept_apart: &[(&str, &Path)],
        findings: &mut Findings,
    ) {
        findings.path("databases.stampFile", &self.stamp_file);
        findings.range(
            "databases.readyDeadlineSeconds",
            self.ready_deadline_seconds,
            &(1..=86_400),
        );
        findings.range(
            "databases.lockDeadlineSeconds",
            self.lock_deadline_seconds,
            &(1..=86_400),
        );
        let roles = KnownRoles {
            declared: &self.roles,
            own: own_role,
        };
        for (name, role) in &self.roles {
            role.check(name, &roles, findings);
        }
        for (name, database) in &self.declared {
            database.check(name, &roles, kept_apart, findings);
            self.check_template(name, findings);
        }
    }

    /// Checks that the database `name` is not made out of itself.
    fn check_template(&self, name: &str, findings: &mut Findings) {
        let mut path = vec![name];
        while let Some(template) = path
            .last()
            .and_then(|last| self.declared.get(*last))
            .and_then(|database| database.template.as_deref())
        {
            if template == name {
                findings.say(
                    format!("databases.declared.{name}.template"),
                    format!(
                        "\"{name}\" would be a copy of itself, by way of {}",
                        path.join(", ")
                    ),
                );
            }
            if path.contains(&template) {
                return;
            }
            path.push(template);
        }
    }
}

/// The roles that a declaration may name.
struct KnownRoles<'a> {
    declared: &'a BTreeMap<String, Role>,
    own: &'a str,
}

impl KnownRoles<'_> {
    /// Notes a role that is not declared.
    fn expect(&self, key: String, role: &str, findings: &mut Findings) {
        if role != self.own && !self.declared.contains_key(role) {
            findings.say(key, format!("role \"{role}\" is not in databases.roles"));
        }
    }
}

/// Notes a name that PostgreSQL cannot give.
fn check_name(key: &str, name: &str, findings: &mut Findings) {
    if name.is_empty() || name.len() > LONGEST_NAME || name.chars().any(char::is_control) {
        findings.say(
            key,
            format!("{name:?} is not 1 to {LONGEST_NAME} bytes without control characters"),
        );
    }
}

/// Notes a server parameter that cannot be set, or would make the session another role's.
fn check_parameters(key: &str, settings: &BTreeMap<String, String>, findings: &mut Findings) {
    for name in settings.keys() {
        let is_parameter = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"_$.".contains(&b));
        if !is_parameter {
            findings.say(key, format!("{name:?} is no name of a server parameter"));
        } else if ["role", "session_authorization"].contains(&name.to_lowercase().as_str()) {
            findings.say(
                key,
                format!("\"{name}\" makes a session that of another role"),
            );
        }
    }
}

fn check_connection_limit(key: &str, limit: Option<u32>, findings: &mut Findings) {
    findings.range_if_set(
        format!("{key}.connectionLimit"),
        limit,
        &(0..=MOST_CONNECTIONS),
    );
}

impl Role {
    fn check(&self, name: &str, roles: &KnownRoles<'_>, findings: &mut Findings) {
        let key = format!("databases.roles.{name}");
        check_name(&key, name, findings);
        if name.starts_with("pg_") || ["public", "none"].contains(&name) {
            findings.say(&key, "is reserved by PostgreSQL");
        }
        if name == roles.own {
            findings.say(&key, "is the role of the programs, which is left as it is");
        }
        if let Some(file) = &self.password_file {
            let is_credential = file.to_str().is_some_and(|text| {
                !text.contains(['/', '\0']) && !["", ".", ".."].contains(&text)
            });
            if !is_credential && what_is_wrong_with(file).is_some() {
                findings.say(
                    format!("{key}.passwordFile"),
                    format!(
                        "\"{}\" is neither an absolute path nor the name of a credential",
                        file.display()
                    ),
                );
            }
        }
        check_connection_limit(&key, self.connection_limit, findings);
        for parent in &self.member_of {
            if parent == name {
                findings.say(format!("{key}.memberOf"), "a role is no member of itself");
            } else if !parent.starts_with("pg_") {
                roles.expect(format!("{key}.memberOf"), parent, findings);
            }
        }
        check_parameters(&format!("{key}.settings"), &self.settings, findings);
    }
}

/// Notes roles that are not declared, and rights that this kind of object does not have.
fn check_grants(
    key: &str,
    kind: &str,
    possible: &[Privilege],
    grants: &Grants,
    roles: &KnownRoles<'_>,
    findings: &mut Findings,
) {
    for (role, privileges) in grants {
        let key = format!("{key}.{role}");
        roles.expect(key.clone(), role, findings);
        for privilege in privileges {
            if !possible.contains(privilege) {
                findings.say(
                    &key,
                    format!("{} is no right on {kind}", privilege.keyword()),
                );
            }
        }
    }
}

impl Privilege {
    /// The word in `GRANT`.
    #[must_use]
    pub fn keyword(self) -> &'static str {
        match self {
            Self::All => "ALL",
            Self::Connect => "CONNECT",
            Self::Temporary => "TEMPORARY",
            Self::Create => "CREATE",
            Self::Usage => "USAGE",
            Self::Select => "SELECT",
            Self::Insert => "INSERT",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Truncate => "TRUNCATE",
            Self::References => "REFERENCES",
            Self::Trigger => "TRIGGER",
            Self::Maintain => "MAINTAIN",
            Self::Execute => "EXECUTE",
        }
    }

    /// Every right that there is.
    const EVERY: [Self; 14] = [
        Self::All,
        Self::Connect,
        Self::Temporary,
        Self::Create,
        Self::Usage,
        Self::Select,
        Self::Insert,
        Self::Update,
        Self::Delete,
        Self::Truncate,
        Self::References,
        Self::Trigger,
        Self::Maintain,
        Self::Execute,
    ];
    /// The rights on a database.
    const ON_DATABASES: [Self; 4] = [Self::All, Self::Connect, Self::Temporary, Self::Create];
    /// The rights on a schema.
    const ON_SCHEMAS: [Self; 3] = [Self::All, Self::Usage, Self::Create];
    /// The rights on tables and views.
    const ON_TABLES: [Self; 9] = [
        Self::All,
        Self::Select,
        Self::Insert,
        Self::Update,
        Self::Delete,
        Self::Truncate,
        Self::References,
        Self::Trigger,
        Self::Maintain,
    ];
    /// The rights on tables, views and sequences together.
    const ON_RELATIONS: [Self; 10] = [
        Self::All,
        Self::Select,
        Self::Insert,
        Self::Update,
        Self::Delete,
        Self::Truncate,
        Self::References,
        Self::Trigger,
        Self::Maintain,
        Self::Usage,
    ];
    /// The rights on sequences.
    const ON_SEQUENCES: [Self; 4] = [Self::All, Self::Usage, Self::Select, Self::Update];
    /// The rights on functions and procedures.
    const ON_FUNCTIONS: [Self; 2] = [Self::All, Self::Execute];
}

impl Database {
    fn check(
        &self,
        name: &str,
        roles: &KnownRoles<'_>,
        kept_apart: &[(&str, &Path)],
        findings: &mut Findings,
    ) {
        let database = format!("databases.declared.{name}");
        let key = |field: &str| format!("{database}.{field}");
        check_name(&database, name, findings);
        if ["template0", "template1"].contains(&name) {
            findings.say(&database, "is reserved by PostgreSQL");
        }
        if let Some(owner) = &self.owner {
            roles.expect(key("owner"), owner, findings);
        }
        if self.locale.is_some()
            && matches!(self.locale_provider, None | Some(LocaleProvider::Libc))
        {
            findings.say(
                key("locale"),
                "has no effect with the provider libc; set collation and lcCtype",
            );
        }
        check_connection_limit(&database, self.connection_limit, findings);
        check_parameters(&key("settings"), &self.settings, findings);
        for (index, extension) in self.extensions.iter().enumerate() {
            let key = key(&format!("extensions.[{index}]"));
            check_name(&format!("{key}.name"), &extension.name, findings);
            if extension.version.is_some() && extension.update_to_latest {
                findings.say(
                    format!("{key}.updateToLatest"),
                    "has no effect beside a version",
                );
            }
        }
        findings.distinct(
            self.extensions.iter().map(|extension| &extension.name),
            |index| key(&format!("extensions.[{index}].name")),
        );
        self.check_rights(&database, roles, findings);
        self.check_files(&database, kept_apart, findings);
    }

    fn check_rights(&self, database: &str, roles: &KnownRoles<'_>, findings: &mut Findings) {
        let key = |field: &str| format!("{database}.{field}");
        let wants_reader =
            self.permissions_policy == PermissionsPolicy::OwnerReadwriteReadonlySelect;
        match &self.readonly_role {
            Some(role) => {
                roles.expect(key("readonlyRole"), role, findings);
                if !wants_reader {
                    findings.say(
                        key("readonlyRole"),
                        "has no effect without the policy ownerReadwriteReadonlySelect",
                    );
                }
            }
            None if wants_reader => findings.say(
                key("readonlyRole"),
                "is missing; the policy ownerReadwriteReadonlySelect needs it",
            ),
            None => {}
        }
        let mut check = |key: &str, kind: &str, possible: &[Privilege], grants: &Grants| {
            check_grants(key, kind, possible, grants, roles, findings);
        };
        check(
            &key("permissions"),
            "anything",
            &Privilege::EVERY,
            &self.permissions,
        );
        check(
            &key("databasePermissions"),
            "a database",
            &Privilege::ON_DATABASES,
            &self.database_permissions,
        );
        for (schema, grants) in &self.schema_permissions {
            check(
                &key(&format!("schemaPermissions.{schema}")),
                "a schema",
                &Privilege::ON_SCHEMAS,
                grants,
            );
        }
        for (pattern, grants) in &self.table_permissions {
            check(
                &key(&format!("tablePermissions.{pattern}")),
                "a table, a view or a sequence",
                &Privilege::ON_RELATIONS,
                grants,
            );
        }
        for (pattern, grants) in &self.function_permissions {
            check(
                &key(&format!("functionPermissions.{pattern}")),
                "a function",
                &Privilege::ON_FUNCTIONS,
                grants,
            );
        }
        for (name, defaults) in &self.default_privileges {
            let key = key(&format!("defaultPrivileges.{name}"));
            check(
                &format!("{key}.tables"),
                "tables",
                &Privilege::ON_TABLES,
                &defaults.tables,
            );
            check(
                &format!("{key}.sequences"),
                "sequences",
                &Privilege::ON_SEQUENCES,
                &defaults.sequences,
            );
            check(
                &format!("{key}.functions"),
                "functions",
                &Privilege::ON_FUNCTIONS,
                &defaults.functions,
            );
        }
        for (name, defaults) in &self.default_privileges {
            if let Some(owner) = &defaults.owner {
                roles.expect(
                    key(&format!("defaultPrivileges.{name}.owner")),
                    owner,
                    findings,
                );
            }
        }
        let patterns = [
            ("tablePermissions", self.table_permissions.keys()),
            ("functionPermissions", self.function_permissions.keys()),
        ];
        for (field, patterns) in patterns {
            for pattern in patterns {
                if let Err(what) = pattern.parse::<Pattern>() {
                    findings.say(key(&format!("{field}.{pattern}")), what);
                }
            }
        }
    }

    fn check_files(&self, database: &str, kept_apart: &[(&str, &Path)], findings: &mut Findings) {
        let lists = [
            ("customSql.preCreate", &self.custom_sql.pre_create),
            ("customSql.postCreate", &self.custom_sql.post_create),
            ("customSql.preConfig", &self.custom_sql.pre_config),
            ("customSql.postConfig", &self.custom_sql.post_config),
            ("initScripts", &self.init_scripts),
        ];
        for (field, files) in lists {
            for (index, file) in files.iter().enumerate() {
                findings.path(format!("{database}.{field}.[{index}]"), file);
            }
        }
        if let Some(directory) = &self.migrations {
            findings.path(format!("{database}.migrations"), directory);
        }
        if let Some(migrations) = &self.schema_migrations {
            for (field, name) in [
                ("schema", Some(&migrations.schema)),
                ("table", Some(&migrations.table)),
                ("column", Some(&migrations.column)),
                ("insertedAtColumn", migrations.inserted_at_column.as_ref()),
            ] {
                if let Some(name) = name {
                    check_name(
                        &format!("{database}.schemaMigrations.{field}"),
                        name,
                        findings,
                    );
                }
            }
        }
        if let Some(dump) = &self.dump {
            dump.check(&format!("{database}.dump"), kept_apart, findings);
        }
    }
}

impl Dump {
    fn check(&self, key: &str, kept_apart: &[(&str, &Path)], findings: &mut Findings) {
        findings.path(format!("{key}.directory"), &self.directory);
        for (other, directory) in kept_apart {
            if self.directory.starts_with(directory) {
                findings.say(
                    format!("{key}.directory"),
                    format!("\"{}\" is inside {other}", self.directory.display()),
                );
            }
        }
        for (field, value) in [
            ("daily", self.daily),
            ("weekly", self.weekly),
            ("monthly", self.monthly),
        ] {
            findings.range(format!("{key}.{field}"), value, &(0..=36_500));
        }
        findings.range_if_set(
            format!("{key}.maximumAgeSeconds"),
            self.maximum_age_seconds,
            &(1..=u32::MAX),
        );
        if self.daily == 0 && self.weekly == 0 && self.monthly == 0 {
            findings.say(
                key,
                "daily, weekly and monthly are all 0: no dump would be kept",
            );
        }
    }
}

fn yes() -> bool {
    true
}
fn default_ready_deadline() -> u32 {
    900
}
fn default_lock_deadline() -> u32 {
    30
}
fn default_migrations_schema() -> String {
    "public".into()
}
fn default_migrations_table() -> String {
    "schema_migrations".into()
}
fn default_migrations_column() -> String {
    "version".into()
}
fn default_dump_daily() -> u32 {
    7
}
