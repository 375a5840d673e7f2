//! What there is: roles and databases as the server's catalogs describe them.
//!
//! Each question is one query that returns one JSON text, so that looking at a database costs one
//! connection and one round trip.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, anyhow, ensure};
use postgres::{Client, GenericClient, SimpleQueryMessage, SimpleQueryRow};
use serde::Deserialize;
use serde_json::Value;
use tool::Hinted;

use crate::plan::{Birth, Offer, Offered, OfferedVersion};
use crate::scram::{self, Verifier};
use crate::session::failed;
use crate::state::{
    Attribute, Database, Extension, Facts, Grantee, Kind, Object, Objects, Rights, Role, Stored,
    privilege,
};

/// The schema with the records of this program.
pub const OWN_SCHEMA: &str = "backstay";

/// What the catalogs that all databases share hold.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Major version of the server.
    pub major: u32,
    /// Roles by name.
    pub roles: BTreeMap<String, Role>,
    /// Roles that may do everything.
    pub superusers: BTreeSet<String>,
    /// Databases by name.
    pub databases: BTreeMap<String, Shared>,
    /// Iterations of a new verifier.
    pub scram_iterations: u32,
    role_names: BTreeMap<u32, String>,
}

/// What the shared catalogs say about a database.
#[derive(Clone, Debug)]
pub struct Shared {
    /// Its owner.
    pub owner: String,
    /// Whether it is a template.
    pub is_template: bool,
    /// Whether anybody may connect to it.
    pub allows_connections: bool,
    /// How many connections it takes.
    pub connection_limit: Option<u32>,
    /// Parameters of its sessions.
    pub parameters: BTreeMap<String, String>,
    /// What it was created with.
    pub birth: Birth,
    /// What may be done with it.
    rights: Rights,
}

/// A database with what is inside.
#[derive(Clone, Debug)]
pub struct Whole {
    /// The database.
    pub database: Database,
    /// Its objects.
    pub objects: Objects,
    /// An event trigger whose function is not a superuser's, and the function's owner.
    pub foreign_event_trigger: Option<(String, String)>,
}

const CLUSTER: &str = "
SELECT json_build_object(
  'version', current_setting('server_version_num')::int,
  'superuser', (SELECT rolsuper FROM pg_roles WHERE rolname = session_user),
  'iterations', current_setting('scram_iterations', true)::int,
  'roles', (SELECT json_agg(json_build_object(
      'oid', r.oid::int8, 'name', r.rolname, 'super', r.rolsuper,
      'attributes', json_build_array(r.rolcreatedb, r.rolcreaterole, r.rolreplication, r.rolcanlogin),
      'limit', r.rolconnlimit, 'password', r.rolpassword)) FROM pg_authid r),
  'members', (SELECT json_agg(json_build_array(m.member::int8, m.roleid::int8)) FROM pg_auth_members m),
  'parameters', (SELECT json_agg(json_build_array(s.setdatabase::int8, s.setrole::int8, s.setconfig))
                 FROM pg_db_role_setting s),
  'databases', (SELECT json_agg(json_build_object(
      'oid', d.oid::int8, 'owner', d.datdba::int8, 'encoding', pg_encoding_to_char(d.encoding),
      'tablespace', t.spcname, 'row', to_jsonb(d) - 'datacl',
      'acl', (SELECT json_agg(json_build_array(a.grantee::int8, a.privilege_type))
              FROM aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a
              WHERE a.grantor = d.datdba AND a.grantee <> d.datdba)))
    FROM pg_database d JOIN pg_tablespace t ON t.oid = d.dattablespace)
)::text";

/// What is inside a database: simple questions in one round trip, since a session that has just
/// begun has to look up everything that a plan for a clever one needs. `initdb` gives the numbers below
/// 16384 (`FirstNormalObjectId`), so all that is below is the system's, but for the schema `public`.
const INSIDE: &str = "
SELECT oid::int8, nspname, nspowner::int8 FROM pg_namespace;
SELECT n.oid::int8, a.grantor::int8, a.grantee::int8, a.privilege_type
  FROM pg_namespace n, aclexplode(n.nspacl) a;
SELECT oid::int8, relnamespace::int8, relname, relkind, relowner::int8
  FROM pg_class WHERE oid >= 16384 AND relkind IN ('r', 'p', 'v', 'm', 'f', 'S');
SELECT c.oid::int8, a.grantor::int8, a.grantee::int8, a.privilege_type
  FROM pg_class c, aclexplode(c.relacl) a
  WHERE c.oid >= 16384 AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S');
SELECT oid::int8, pronamespace::int8, proname, proowner::int8, oid::regprocedure::text
  FROM pg_proc WHERE oid >= 16384;
SELECT p.oid::int8, a.grantor::int8, a.grantee::int8, a.privilege_type
  FROM pg_proc p, aclexplode(p.proacl) a WHERE p.oid >= 16384;
SELECT defaclrole::int8, defaclnamespace::int8, defaclobjtype, a.grantee::int8, a.privilege_type
  FROM pg_default_acl, aclexplode(defaclacl) a;
SELECT extname, extnamespace::int8, extversion FROM pg_extension;
SELECT evtname, (SELECT proowner::int8 FROM pg_proc p WHERE p.oid = evtfoid)
  FROM pg_event_trigger WHERE evtenabled <> 'D';
SELECT objid::int8 FROM pg_depend
  WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e' AND objid >= 16384";

const OFFERED: &str = "
SELECT json_build_object(
  'defaults', (SELECT json_agg(json_build_array(name, default_version)) FROM pg_available_extensions),
  'versions', (SELECT json_agg(json_build_array(name, version, requires, schema))
               FROM pg_available_extension_versions)
)::text";

type Acl = Option<Vec<(u32, String)>>;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClusterRows {
    version: u32,
    superuser: bool,
    iterations: Option<u32>,
    roles: Vec<RoleRow>,
    members: Option<Vec<(u32, u32)>>,
    parameters: Option<Vec<(u32, u32, Vec<String>)>>,
    databases: Vec<DatabaseRow>,
}

#[derive(Deserialize)]
struct RoleRow {
    oid: u32,
    name: String,
    #[serde(rename = "super")]
    superuser: bool,
    /// In the order of [`Attribute::ALL`].
    attributes: [bool; 4],
    limit: i64,
    password: Option<String>,
}

#[derive(Deserialize)]
struct DatabaseRow {
    oid: u32,
    owner: u32,
    encoding: String,
    tablespace: String,
    /// The columns of `pg_database`, which differ between versions.
    row: serde_json::Map<String, Value>,
    acl: Acl,
}

#[derive(Deserialize)]
struct OfferedRows {
    defaults: Option<Vec<(String, Option<String>)>>,
    versions: Option<Vec<OfferedVersionRow>>,
}

/// Name, version, what it requires, and the schema that it insists on.
type OfferedVersionRow = (String, String, Option<Vec<String>>, Option<String>);

/// Reads the shared catalogs.
///
/// # Errors
///
/// Fails when they cannot be read, which takes a superuser.
pub fn cluster(client: &mut impl GenericClient) -> Result<Cluster> {
    let rows: ClusterRows = ask(client, CLUSTER, &[]).map_err(|err| match err.code() {
        Some(code) if *code == postgres::error::SqlState::INSUFFICIENT_PRIVILEGE => {
            not_a_superuser()
        }
        _ => failed(&err, "read the catalogs of the server"),
    })??;
    if !rows.superuser {
        return Err(not_a_superuser());
    }
    let role_names: BTreeMap<u32, String> = rows
        .roles
        .iter()
        .map(|role| (role.oid, role.name.clone()))
        .collect();
    let name = |oid: u32| role_names.get(&oid).cloned().unwrap_or_default();

    let mut of_roles: BTreeMap<u32, BTreeMap<String, String>> = BTreeMap::new();
    let mut of_databases: BTreeMap<u32, BTreeMap<String, String>> = BTreeMap::new();
    for (database, role, parameters) in rows.parameters.unwrap_or_default() {
        let target = match (database, role) {
            (0, role) => of_roles.entry(role).or_default(),
            (database, 0) => of_databases.entry(database).or_default(),
            // What holds for one role in one database is nobody's declaration.
            _ => continue,
        };
        for parameter in parameters {
            if let Some((name, value)) = parameter.split_once('=') {
                target.insert(name.to_lowercase(), value.to_owned());
            }
        }
    }
    let mut roles = BTreeMap::new();
    let mut superusers = BTreeSet::new();
    for row in rows.roles {
        if row.superuser {
            superusers.insert(row.name.clone());
        }
        roles.insert(
            row.name,
            Role {
                attributes: Attribute::ALL
                    .into_iter()
                    .zip(row.attributes)
                    .filter_map(|(attribute, has)| has.then_some(attribute))
                    .collect(),
                connection_limit: u32::try_from(row.limit).ok(),
                password: match &row.password {
                    None => Stored::Nothing,
                    Some(text) => Verifier::parse(text).map_or(Stored::Other, Stored::Scram),
                },
                member_of: BTreeSet::new(),
                parameters: of_roles.remove(&row.oid).unwrap_or_default(),
            },
        );
    }
    for (member, role) in rows.members.unwrap_or_default() {
        if let Some(member) = roles.get_mut(&name(member)) {
            member.member_of.insert(name(role));
        }
    }
    let databases = rows
        .databases
        .into_iter()
        .map(|row| {
            let parameters = of_databases.remove(&row.oid).unwrap_or_default();
            shared(row, parameters, &role_names)
        })
        .collect::<Result<_>>()?;
    Ok(Cluster {
        major: rows.version / 10_000,
        roles,
        superusers,
        databases,
        scram_iterations: rows.iterations.unwrap_or(scram::DEFAULT_ITERATIONS),
        role_names,
    })
}

fn not_a_superuser() -> anyhow::Error {
    Hinted::new(
        "the role of the programs is no superuser",
        "only a superuser can set verifiers and create extensions; set postgresql.role to one",
    )
    .into()
}

fn shared(
    row: DatabaseRow,
    parameters: BTreeMap<String, String>,
    role_names: &BTreeMap<u32, String>,
) -> Result<(String, Shared)> {
    let text = |key: &str| row.row.get(key).and_then(Value::as_str).map(str::to_owned);
    let flag = |key: &str| row.row.get(key).and_then(Value::as_bool).unwrap_or(false);
    let name = text("datname").context("a database has no name")?;
    let provider = match text("datlocprovider").as_deref() {
        Some("i") => "icu",
        Some("b") => "builtin",
        _ => "libc",
    };
    let mut rights = Rights::new();
    add_rights(&mut rights, &Object::Database, row.acl, role_names);
    Ok((
        name,
        Shared {
            owner: role_names.get(&row.owner).cloned().unwrap_or_default(),
            is_template: flag("datistemplate"),
            allows_connections: flag("datallowconn"),
            connection_limit: row
                .row
                .get("datconnlimit")
                .and_then(Value::as_u64)
                .and_then(|limit| u32::try_from(limit).ok()),
            parameters,
            birth: Birth {
                encoding: row.encoding,
                locale_provider: provider.into(),
                // Called daticulocale in PostgreSQL 15 and 16.
                locale: text("datlocale").or_else(|| text("daticulocale")),
                collation: text("datcollate").unwrap_or_default(),
                lc_ctype: text("datctype").unwrap_or_default(),
                tablespace: row.tablespace,
            },
            rights,
        },
    ))
}

/// Reads what is inside a database, in the session `client` with it.
///
/// `named_functions` are schemas and names of functions that are looked at even if they belong to an
/// extension: there can be very many of those, and nobody grants on them without naming them.
///
/// # Errors
///
/// Fails when the catalogs cannot be read.
pub fn inside(
    client: &mut impl GenericClient,
    cluster: &Cluster,
    shared: &Shared,
    named_functions: &[(String, String)],
) -> Result<Whole> {
    let mut answers = Answers::of(client, INSIDE)
        .map_err(|err| failed(&err, "read the catalogs of the database"))?;
    let [
        schemas,
        schema_rights,
        relations,
        relation_rights,
        functions,
        function_rights,
        future,
        extensions,
        event_triggers,
        members,
    ] = answers.take()?;
    let mut found = Found {
        cluster,
        members: members
            .iter()
            .map(|row| row.number(0))
            .collect::<Result<_>>()?,
        schemas: BTreeMap::new(),
        objects: Objects::new(),
        rights: shared.rights.clone(),
        numbers: BTreeMap::new(),
    };
    found.objects.insert(
        Object::Database,
        Facts {
            owner: shared.owner.clone(),
            of_extension: false,
            in_extension_schema: false,
        },
    );
    found.schemas(&schemas)?;
    found.rights(&schema_rights)?;
    found.relations(&relations)?;
    found.rights(&relation_rights)?;
    found.functions(&functions, named_functions)?;
    found.rights(&function_rights)?;
    found.future(&future)?;

    let mut installed = BTreeMap::new();
    for row in &extensions {
        let schema = found.schemas.get(&row.number(1)?);
        let extension = Extension {
            schema: schema.map(|schema| schema.name.clone()).unwrap_or_default(),
            version: row.text(2)?,
        };
        installed.insert(row.text(0)?, extension);
    }
    let mut foreign_event_trigger = None;
    for row in &event_triggers {
        let owner = cluster.role_name(row.number(1)?);
        if !cluster.superusers.contains(&owner) {
            foreign_event_trigger = Some((row.text(0)?, owner));
        }
    }
    Ok(Whole {
        database: Database {
            owner: shared.owner.clone(),
            is_template: shared.is_template,
            connection_limit: shared.connection_limit,
            parameters: shared.parameters.clone(),
            schemas: found
                .schemas
                .into_values()
                .filter(|schema| !schema.is_system)
                .map(|schema| schema.name)
                .collect(),
            extensions: installed,
            rights: found.rights,
        },
        objects: found.objects,
        foreign_event_trigger,
    })
}

impl Cluster {
    fn role_name(&self, oid: u32) -> String {
        self.role_names.get(&oid).cloned().unwrap_or_default()
    }
}

/// What has been found in a database so far.
struct Found<'a> {
    cluster: &'a Cluster,
    /// Numbers of what belongs to an extension.
    members: BTreeSet<u32>,
    schemas: BTreeMap<u32, Schema>,
    objects: Objects,
    rights: Rights,
    /// Objects of the kind that is being read, with their owners, by their number.
    numbers: BTreeMap<u32, (Object, u32)>,
}

struct Schema {
    name: String,
    /// Whether it is left out of everything: PostgreSQL's own, and ours.
    is_system: bool,
}

impl Found<'_> {
    fn schemas(&mut self, rows: &[Answer]) -> Result<()> {
        for row in rows {
            let (oid, name, owner) = (row.number(0)?, row.text(1)?, row.number(2)?);
            let is_system =
                name.starts_with("pg_") || name == "information_schema" || name == OWN_SCHEMA;
            if !is_system {
                self.add(oid, 0, owner, Object::Schema(name.clone()));
            }
            self.schemas.insert(oid, Schema { name, is_system });
        }
        Ok(())
    }

    fn relations(&mut self, rows: &[Answer]) -> Result<()> {
        self.numbers.clear();
        for row in rows {
            let (oid, schema_oid) = (row.number(0)?, row.number(1)?);
            let Some(schema) = self.schema(schema_oid) else {
                continue;
            };
            let name = row.text(2)?;
            let object = if row.text(3)? == "S" {
                Object::Sequence { schema, name }
            } else {
                Object::Table { schema, name }
            };
            self.add(oid, schema_oid, row.number(4)?, object);
        }
        Ok(())
    }

    fn functions(&mut self, rows: &[Answer], named: &[(String, String)]) -> Result<()> {
        self.numbers.clear();
        for row in rows {
            let (oid, schema_oid) = (row.number(0)?, row.number(1)?);
            let Some(schema) = self.schema(schema_oid) else {
                continue;
            };
            let name = row.text(2)?;
            let is_named = named
                .iter()
                .any(|(in_schema, other)| *in_schema == schema && *other == name);
            if self.members.contains(&oid) && !is_named {
                continue;
            }
            let object = Object::Function {
                schema,
                name,
                signature: row.text(4)?,
            };
            self.add(oid, schema_oid, row.number(3)?, object);
        }
        Ok(())
    }

    fn future(&mut self, rows: &[Answer]) -> Result<()> {
        for row in rows {
            let (creator, schema) = (row.number(0)?, row.number(1)?);
            let kind = match row.text(2)?.as_str() {
                "r" => Kind::Tables,
                "S" => Kind::Sequences,
                "f" => Kind::Functions,
                "n" => Kind::Schemas,
                // Types and large objects, of which nothing is declared.
                _ => continue,
            };
            let schema = match self.schemas.get(&schema) {
                Some(schema) if schema.is_system => continue,
                Some(schema) => Some(schema.name.clone()),
                None => None,
            };
            let object = Object::Future {
                creator: self.cluster.role_name(creator),
                schema,
                kind,
            };
            let grantee = row.number(3)?;
            // That everybody may execute a function is no declaration, and a creator needs no right.
            if grantee != 0 && grantee != creator {
                self.allow(&object, grantee, &row.text(4)?);
            }
        }
        Ok(())
    }

    /// The name of a schema that is looked at.
    fn schema(&self, oid: u32) -> Option<String> {
        let schema = self.schemas.get(&oid)?;
        (!schema.is_system).then(|| schema.name.clone())
    }

    fn add(&mut self, oid: u32, schema: u32, owner: u32, object: Object) {
        let facts = Facts {
            owner: self.cluster.role_name(owner),
            of_extension: self.members.contains(&oid),
            in_extension_schema: self.members.contains(&schema),
        };
        self.numbers.insert(oid, (object.clone(), owner));
        self.objects.insert(object, facts);
    }

    /// Enters rows of object, grantor, grantee and privilege. What somebody granted who is not the
    /// owner can only be revoked by him.
    fn rights(&mut self, rows: &[Answer]) -> Result<()> {
        for row in rows {
            let (grantor, grantee) = (row.number(1)?, row.number(2)?);
            let Some((object, owner)) = self.numbers.get(&row.number(0)?).cloned() else {
                continue;
            };
            let is_default = matches!(object, Object::Function { .. }) && grantee == 0;
            if grantor == owner && grantee != owner && !is_default {
                self.allow(&object, grantee, &row.text(3)?);
            }
        }
        Ok(())
    }

    fn allow(&mut self, object: &Object, grantee: u32, word: &str) {
        allow(
            &mut self.rights,
            object,
            grantee,
            word,
            &self.cluster.role_names,
        );
    }
}

/// Answers to several questions that were asked at once.
struct Answers(Vec<Vec<Answer>>);

/// One row.
struct Answer(SimpleQueryRow);

impl Answers {
    fn of(client: &mut impl GenericClient, questions: &str) -> Result<Self, postgres::Error> {
        let mut answers = vec![Vec::new()];
        for message in client.simple_query(questions)? {
            match message {
                SimpleQueryMessage::Row(row) => {
                    if let Some(rows) = answers.last_mut() {
                        rows.push(Answer(row));
                    }
                }
                SimpleQueryMessage::CommandComplete(_) => answers.push(Vec::new()),
                _ => {}
            }
        }
        answers.pop();
        Ok(Self(answers))
    }

    fn take<const N: usize>(&mut self) -> Result<[Vec<Answer>; N]> {
        std::mem::take(&mut self.0)
            .try_into()
            .map_err(|_| anyhow!("the server did not answer every question"))
    }
}

impl Answer {
    fn text(&self, column: usize) -> Result<String> {
        self.0
            .get(column)
            .map(ToOwned::to_owned)
            .context("read the answer of the server: a value is missing")
    }

    fn number(&self, column: usize) -> Result<u32> {
        self.text(column)?
            .parse()
            .context("read the answer of the server")
    }
}

/// Enters what an access list grants.
fn add_rights(rights: &mut Rights, object: &Object, acl: Acl, names: &BTreeMap<u32, String>) {
    for (grantee, word) in acl.unwrap_or_default() {
        allow(rights, object, grantee, &word, names);
    }
}

/// Enters one privilege. Grants to a role that no longer exists say nothing.
fn allow(
    rights: &mut Rights,
    object: &Object,
    grantee: u32,
    word: &str,
    names: &BTreeMap<u32, String>,
) {
    let grantee = match (grantee, names.get(&grantee)) {
        (0, _) => Grantee::Public,
        (_, Some(name)) => Grantee::role(name.as_str()),
        _ => return,
    };
    if let Some(privilege) = privilege(word) {
        rights
            .entry((object.clone(), grantee))
            .or_default()
            .insert(privilege);
    }
}

/// Reads which extensions the server can create.
///
/// # Errors
///
/// Fails when the server cannot be asked.
pub fn offered(client: &mut Client) -> Result<Offered> {
    let rows: OfferedRows = ask(client, OFFERED, &[])
        .map_err(|err| failed(&err, "ask which extensions the server offers"))??;
    let mut offered = Offered::new();
    for (name, default_version) in rows.defaults.unwrap_or_default() {
        offered.insert(
            name,
            Offer {
                default_version,
                versions: BTreeMap::new(),
            },
        );
    }
    for (name, version, requires, schema) in rows.versions.unwrap_or_default() {
        let version_of = OfferedVersion {
            requires: requires.unwrap_or_default(),
            schema,
        };
        offered
            .entry(name)
            .or_default()
            .versions
            .insert(version, version_of);
    }
    Ok(offered)
}

/// Asks a question that is answered by one JSON text.
fn ask<T: serde::de::DeserializeOwned>(
    client: &mut impl GenericClient,
    sql: &str,
    parameters: &[&(dyn postgres::types::ToSql + Sync)],
) -> Result<Result<T>, postgres::Error> {
    let text: String = client.query_one(sql, parameters)?.get(0);
    Ok(serde_json::from_str(&text).context("read the answer of the server"))
}

/// Fails when a schema or table of our own belongs to somebody whom this session should not trust.
///
/// # Errors
///
/// Fails when it does: whoever owns a table can make code of his own run when a row is added.
pub fn expect_owner(client: &mut impl GenericClient, owner: &str) -> Result<bool> {
    let rows = client
        .query(
            "SELECT n.nspowner::regrole::text = quote_ident($2),
                    NOT EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = n.oid
                                AND c.relowner <> n.nspowner)
             FROM pg_namespace n WHERE n.nspname = $1",
            &[&OWN_SCHEMA, &owner],
        )
        .map_err(|err| failed(&err, "look for the records of this program"))?;
    let Some(row) = rows.first() else {
        return Ok(false);
    };
    let (schema, tables): (bool, bool) = (row.get(0), row.get(1));
    ensure!(
        schema && tables,
        "schema \"{OWN_SCHEMA}\" belongs to another role than \"{owner}\""
    );
    Ok(true)
}
