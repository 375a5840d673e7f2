//! What was declared before, kept in the database `postgres`.
//!
//! It lies in the cluster and not beside it, so that it says what holds for the cluster that it is
//! in: after a restore to last week, it is the record of last week. A declaration is entered before
//! anything of it is carried out, and takes the place of the earlier ones afterwards; in between, both
//! may have left something behind.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use postgres::{Client, GenericClient, Row};
use serde::Serialize;
use serde::de::DeserializeOwned;
use settings::databases::{Database, Role};
use tool::WithHint as _;

use crate::catalog;
use crate::plan::Past;
use crate::rights;
use crate::session::failed;

/// Everything that was declared before.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// Of roles, by name.
    pub roles: BTreeMap<String, Entry<Role>>,
    /// Of databases, by name.
    pub databases: BTreeMap<String, Entry<Database>>,
    exists: bool,
}

/// What was declared of one thing.
#[derive(Clone, Debug)]
pub struct Entry<T> {
    /// The declarations, and who created it.
    pub past: Past<T>,
    /// Whether it was created and what has to follow was not finished.
    pub fresh: bool,
    /// Hash of what was brought about, with the files that it names. Nothing while it is not finished.
    pub hash: Option<String>,
}

impl<T> Default for Entry<T> {
    fn default() -> Self {
        Self {
            past: Past::default(),
            fresh: false,
            hash: None,
        }
    }
}

/// A kind of thing that is declared.
pub trait Declarable: Serialize + DeserializeOwned + Clone + PartialEq {
    /// The word for it in the record.
    const KIND: &'static str;

    /// Whether it shuts out everybody who is not named.
    fn closes(&self) -> bool;
}

impl Declarable for Role {
    const KIND: &'static str = "role";

    fn closes(&self) -> bool {
        false
    }
}

impl Declarable for Database {
    const KIND: &'static str = "database";

    fn closes(&self) -> bool {
        rights::closes(self)
    }
}

/// Reads the record, in a session with the database `postgres`.
///
/// # Errors
///
/// Fails when it cannot be read, and when it belongs to another role than `own_role`.
pub fn read(client: &mut Client, own_role: &str) -> Result<Record> {
    if !catalog::expect_owner(client, own_role)? {
        return Ok(Record::default());
    }
    let rows = client
        .query(
            "SELECT kind, name, created, fresh, declarations::text, hash, closed FROM backstay.provisioned",
            &[],
        )
        .map_err(|err| failed(&err, "read what was declared before"))?;
    let mut record = Record {
        exists: true,
        ..Record::default()
    };
    for row in rows {
        let (kind, name): (String, String) = (row.get(0), row.get(1));
        let text: String = row.get(4);
        if kind == Role::KIND {
            let entry = entry(&row, &name, &text)?;
            record.roles.insert(name, entry);
        } else {
            let entry = entry(&row, &name, &text)?;
            record.databases.insert(name, entry);
        }
    }
    Ok(record)
}

fn entry<T: Declarable>(row: &Row, name: &str, declarations: &str) -> Result<Entry<T>> {
    let declarations = serde_json::from_str(declarations)
        .with_context(|| format!("read what was declared of {} \"{name}\" before", T::KIND))
        .with_hint(|| {
            "it was written by another version of this program; use that one to take back what it granted, or delete the row from backstay.provisioned in the database postgres".into()
        })?;
    Ok(Entry {
        past: Past {
            created: row.get(2),
            closed: row.get(6),
            declarations,
        },
        fresh: row.get(3),
        hash: row.get(5),
    })
}

impl Record {
    /// Makes the table, unless it is there.
    ///
    /// # Errors
    ///
    /// Fails when the server refuses.
    pub fn create(&mut self, client: &mut Client) -> Result<()> {
        if self.exists {
            return Ok(());
        }
        client
            .batch_execute(
                "BEGIN;
                 CREATE SCHEMA backstay;
                 CREATE TABLE backstay.provisioned (
                     kind text NOT NULL,
                     name text NOT NULL,
                     created boolean NOT NULL,
                     fresh boolean NOT NULL,
                     closed boolean NOT NULL,
                     declarations jsonb NOT NULL,
                     hash text,
                     PRIMARY KEY (kind, name));
                 COMMENT ON SCHEMA backstay IS 'What pg-provision has brought about.';
                 COMMIT",
            )
            .map_err(|err| failed(&err, "make the record of declarations"))?;
        self.exists = true;
        Ok(())
    }
}

impl<T: Declarable> Entry<T> {
    /// Whether nothing but `declared` was ever declared, and it was finished with this `hash`.
    #[must_use]
    pub fn is(&self, declared: &T, hash: &str) -> bool {
        !self.fresh
            && self.hash.as_deref() == Some(hash)
            && self.past.declarations.as_slice() == std::slice::from_ref(declared)
    }

    /// Enters that `declared` is about to be brought about.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be written.
    pub fn begin(
        &mut self,
        client: &mut impl GenericClient,
        name: &str,
        declared: Option<&T>,
    ) -> Result<()> {
        self.hash = None;
        if let Some(declared) = declared
            && !self.past.declarations.contains(declared)
        {
            self.past.declarations.push(declared.clone());
        }
        self.write(client, name)
    }

    /// Enters that `declared` has been brought about, and that what was declared before is gone.
    ///
    /// Of what is no longer declared it is kept that it was created here, and that everybody was shut
    /// out: declared again, it is known.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be written.
    pub fn finish(
        &mut self,
        client: &mut impl GenericClient,
        name: &str,
        declared: Option<(&T, &str)>,
    ) -> Result<()> {
        self.fresh = false;
        self.past.closed = match declared {
            Some((declared, _)) => declared.closes(),
            None => self.past.closed || self.past.declarations.iter().any(T::closes),
        };
        self.past.declarations = declared
            .map(|(declared, _)| declared.clone())
            .into_iter()
            .collect();
        self.hash = declared.map(|(_, hash)| hash.to_owned());
        if declared.is_none() && !self.past.created && !self.past.closed {
            return Self::forget(client, name);
        }
        self.write(client, name)
    }

    /// Removes the entry.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be written.
    pub fn forget(client: &mut impl GenericClient, name: &str) -> Result<()> {
        client
            .execute(
                "DELETE FROM backstay.provisioned WHERE kind = $1 AND name = $2",
                &[&T::KIND, &name],
            )
            .map(drop)
            .map_err(|err| failed(&err, "record what was declared"))
    }

    fn write(&self, client: &mut impl GenericClient, name: &str) -> Result<()> {
        let declarations = serde_json::to_string(&self.past.declarations)?;
        client
            .execute(
                "INSERT INTO backstay.provisioned (kind, name, created, fresh, closed, declarations, hash)
                 VALUES ($1, $2, $3, $4, $5, $6::text::jsonb, $7)
                 ON CONFLICT (kind, name) DO UPDATE
                 SET created = excluded.created, fresh = excluded.fresh, closed = excluded.closed,
                     declarations = excluded.declarations, hash = excluded.hash",
                &[
                    &T::KIND,
                    &name,
                    &self.past.created,
                    &self.fresh,
                    &self.past.closed,
                    &declarations,
                    &self.hash,
                ],
            )
            .map(drop)
            .map_err(|err| failed(&err, "record what was declared"))
    }
}
