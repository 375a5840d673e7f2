use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::Server;

/// A relation as the WAL knows it: the numbers of its tablespace, database and file.
///
/// The WAL holds no names. They are asked for while the relation exists, with every base backup, so
/// that one that was dropped can still be named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Relation {
    /// Object identifier of its database; 0 for relations that all databases share.
    pub database: u32,
    /// Number of its file (`relfilenode`), which changes when it is rewritten.
    pub file: u32,
    /// Its object identifier, which does not.
    pub oid: u32,
    /// Name of the database.
    pub database_name: String,
    /// Name of the schema.
    pub schema: String,
    /// Name of the relation.
    pub name: String,
    /// `pg_class.relkind`: `r` is a table, `i` an index.
    pub kind: String,
}

/// The relations of a cluster at some moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Relations {
    /// All of them that have a file.
    pub relations: Vec<Relation>,
}

impl Relations {
    /// Asks the server for the relations of every database that accepts connections.
    ///
    /// # Errors
    ///
    /// Fails when a database cannot be asked.
    pub fn of(server: &Server) -> Result<Self> {
        let mut client = server.connect("postgres")?;
        let databases: Vec<(u32, String)> = client
            .query(
                "select oid, datname from pg_database where datallowconn and not datistemplate",
                &[],
            )
            .context("list the databases")?
            .iter()
            .map(|row| (row.get(0), row.get(1)))
            .collect();
        let mut relations = Vec::new();
        for (database, database_name) in databases {
            let rows = server
                .connect(&database_name)?
                .query(
                    "select c.oid, pg_relation_filenode(c.oid), n.nspname, c.relname, c.relkind::text
                     from pg_class c join pg_namespace n on n.oid = c.relnamespace
                     where pg_relation_filenode(c.oid) is not null and not c.relisshared
                       and c.oid >= 16384
                       and n.nspname not like 'pg_temp_%'",
                    &[],
                )
                .with_context(|| format!("list the relations of database \"{database_name}\""))?;
            relations.extend(rows.iter().map(|row| Relation {
                database,
                file: row.get(1),
                oid: row.get(0),
                database_name: database_name.clone(),
                schema: row.get(2),
                name: row.get(3),
                kind: row.get(4),
            }));
        }
        Ok(Self { relations })
    }
}
