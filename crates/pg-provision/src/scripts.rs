//! SQL that a database's owner runs: init scripts, migrations, and rows of an application's own
//! table of migrations.
//!
//! All of it happens in a session of the owner. A table in a database may have a trigger, and a
//! function that is called may be another than was meant; behind a superuser's session either could do
//! anything.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use postgres::Client;
use settings::databases::{ColumnType, Database as Declared, SchemaMigrations};
use tool::{Hinted, Level};

use crate::catalog;
use crate::change::{Change, Script, Statement};
use crate::files::{Files, SqlFile};
use crate::session::{self, failed, message_of};

/// Whether a declaration has anything for the owner's session.
#[must_use]
pub fn has_any(declared: &Declared) -> bool {
    !declared.init_scripts.is_empty()
        || declared.migrations.is_some()
        || declared.schema_migrations.is_some()
}

/// What has been run in a database.
#[derive(Clone, Debug, Default)]
struct Ran {
    /// Checksums of init scripts.
    init_scripts: BTreeSet<String>,
    /// Checksums of migrations by name.
    migrations: BTreeMap<String, String>,
    exists: bool,
}

/// What has to be run, and what is to be entered in the application's table.
#[derive(Clone, Default)]
pub struct Pending<'a> {
    scripts: Vec<(Script, &'a SqlFile)>,
    rows: Option<Rows<'a>>,
    exists: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rows<'a> {
    table: &'a SchemaMigrations,
    create: bool,
    add: Vec<String>,
    remove: Vec<String>,
}

impl<'a> Pending<'a> {
    /// Everything, in a database that is about to be created.
    #[must_use]
    pub fn in_new_database(declared: &'a Declared, files: &'a Files) -> Self {
        Self {
            scripts: unrun(&Ran::default(), files),
            rows: declared
                .schema_migrations
                .as_ref()
                .filter(|table| table.ensure_table)
                .and_then(|table| rows(table, None)),
            exists: false,
        }
    }

    /// Compares what is declared with what was run, in the session `client` of `owner`.
    ///
    /// # Errors
    ///
    /// Fails when the records cannot be read or belong to another role, and when migrations that
    /// ran were changed or removed, or when a new one sorts before one that ran.
    pub fn find(
        client: &mut Client,
        owner: &str,
        declared: &'a Declared,
        files: &'a Files,
    ) -> Result<Self> {
        let ran = ran(client, owner)?;
        check_history(&ran.migrations, &files.migrations)?;
        let rows = match &declared.schema_migrations {
            Some(table) => {
                let versions = versions(client, table)?;
                if versions.is_none() && !table.ensure_table {
                    None
                } else {
                    rows(table, versions)
                }
            }
            None => None,
        };
        Ok(Self {
            scripts: unrun(&ran, files),
            rows,
            exists: ran.exists,
        })
    }

    /// The steps.
    #[must_use]
    pub fn changes(&self) -> Vec<Change> {
        let scripts = self.scripts.iter().map(|(kind, file)| Change::Run {
            kind: *kind,
            file: file.name.clone(),
        });
        let rows = self.rows.iter().map(|rows| Change::Record {
            table: format!("{}.{}", rows.table.schema, rows.table.table),
            add: rows.add.clone(),
            remove: rows.remove.clone(),
        });
        scripts.chain(rows).collect()
    }

    /// Carries them out, each in a transaction of its own together with the record of it.
    ///
    /// # Errors
    ///
    /// Fails with the first that fails, which leaves nothing behind; those before it are done.
    pub fn run(&self, client: &mut Client, database: &str) -> Result<()> {
        if !self.scripts.is_empty() && !self.exists {
            client
                .batch_execute(
                    "BEGIN;
                     CREATE SCHEMA backstay;
                     CREATE TABLE backstay.init_scripts (
                         checksum text PRIMARY KEY, name text NOT NULL,
                         run_at timestamptz NOT NULL DEFAULT now());
                     CREATE TABLE backstay.migrations (
                         name text PRIMARY KEY, checksum text NOT NULL,
                         run_at timestamptz NOT NULL DEFAULT now());
                     COMMIT",
                )
                .map_err(|err| failed(&err, "make the record of what was run"))?;
        }
        for (kind, file) in &self.scripts {
            let change = Change::Run {
                kind: *kind,
                file: file.name.clone(),
            };
            tool::log(
                Level::Info,
                format_args!("database \"{database}\": {change}"),
            );
            run_script(client, *kind, file)?;
        }
        if let Some(rows) = &self.rows {
            rows.write(client)?;
            for change in self
                .changes()
                .iter()
                .filter(|change| matches!(change, Change::Record { .. }))
            {
                tool::log(
                    Level::Info,
                    format_args!("database \"{database}\": {change}"),
                );
            }
        }
        Ok(())
    }
}

fn unrun<'a>(ran: &Ran, files: &'a Files) -> Vec<(Script, &'a SqlFile)> {
    let init = files
        .init_scripts
        .iter()
        .filter(|file| !ran.init_scripts.contains(&file.checksum))
        .map(|file| (Script::Initialization, file));
    let migrations = files
        .migrations
        .iter()
        .filter(|file| !ran.migrations.contains_key(&file.name))
        .map(|file| (Script::Migration, file));
    init.chain(migrations).collect()
}

/// Reads what was run.
fn ran(client: &mut Client, owner: &str) -> Result<Ran> {
    if !catalog::expect_owner(client, owner)? {
        return Ok(Ran::default());
    }
    let what = "read what was run in the database";
    let init_scripts = client
        .query("SELECT checksum FROM backstay.init_scripts", &[])
        .map_err(|err| failed(&err, what))?;
    let migrations = client
        .query("SELECT name, checksum FROM backstay.migrations", &[])
        .map_err(|err| failed(&err, what))?;
    Ok(Ran {
        init_scripts: init_scripts.iter().map(|row| row.get(0)).collect(),
        migrations: migrations
            .iter()
            .map(|row| (row.get(0), row.get(1)))
            .collect(),
        exists: true,
    })
}

/// Checks that the migrations that ran are still there as they were, and that new ones come after.
fn check_history(ran: &BTreeMap<String, String>, files: &[SqlFile]) -> Result<()> {
    let now: BTreeMap<&str, &str> = files
        .iter()
        .map(|file| (file.name.as_str(), file.checksum.as_str()))
        .collect();
    for (name, checksum) in ran {
        let hint = "a migration that ran stays as it is; undo the change, and write a new migration for what has to be different";
        match now.get(name.as_str()) {
            // No migrations are declared any more: nothing is run, and nothing is compared.
            None if files.is_empty() => {}
            None => {
                return Err(
                    Hinted::new(format!("migration \"{name}\" has run and is gone"), hint).into(),
                );
            }
            Some(is) if is != checksum => {
                return Err(Hinted::new(
                    format!("migration \"{name}\" has been changed since it ran"),
                    hint,
                )
                .into());
            }
            Some(_) => {}
        }
    }
    if let Some(last) = ran.keys().next_back()
        && let Some(late) = files
            .iter()
            .find(|file| !ran.contains_key(&file.name) && file.name < *last)
    {
        return Err(Hinted::new(
            format!(
                "migration \"{}\" is new and sorts before \"{last}\", which has run",
                late.name
            ),
            "on another machine they would run in the other order; give it a later name",
        )
        .into());
    }
    Ok(())
}

fn run_script(client: &mut Client, kind: Script, file: &SqlFile) -> Result<()> {
    let shown = file.path.display();
    let mut transaction = client
        .transaction()
        .map_err(|err| failed(&err, "begin a transaction"))?;
    let number = |transaction: &mut postgres::Transaction<'_>| -> Result<String> {
        let row = transaction
            .query_one("SELECT pg_current_xact_id()::text", &[])
            .map_err(|err| failed(&err, format!("run \"{shown}\"")))?;
        Ok(row.get(0))
    };
    let before = number(&mut transaction)?;
    transaction
        .batch_execute(&file.text)
        .map_err(|err| failed(&err, format!("run \"{shown}\"")))?;
    // What it has set for its session is not for the next.
    transaction
        .batch_execute("RESET ALL; RESET ROLE")
        .map_err(|err| failed(&err, format!("run \"{shown}\"")))?;
    if number(&mut transaction)? != before {
        return Err(Hinted::new(
            format!("\"{shown}\" ends its transaction itself, and was not recorded"),
            "each file runs in a transaction of its own: take BEGIN and COMMIT out of it, and undo what it has done",
        )
        .into());
    }
    let table = match kind {
        Script::Migration => "INSERT INTO backstay.migrations (name, checksum) VALUES ($1, $2)",
        _ => "INSERT INTO backstay.init_scripts (name, checksum) VALUES ($1, $2)",
    };
    transaction
        .execute(table, &[&file.name, &file.checksum])
        .map_err(|err| failed(&err, format!("record \"{shown}\"")))?;
    transaction
        .commit()
        .map_err(|err| failed(&err, format!("commit \"{shown}\"")))
}

/// The versions in the application's table, or nothing if there is no such table.
fn versions(client: &mut Client, table: &SchemaMigrations) -> Result<Option<BTreeSet<String>>> {
    let there: bool = client
        .query_one(
            "SELECT to_regclass(format('%I.%I', $1::text, $2::text)) IS NOT NULL",
            &[&table.schema, &table.table],
        )
        .map_err(|err| failed(&err, "look for the table of migrations"))?
        .get(0);
    if !there {
        return Ok(None);
    }
    let sql = session::quoted(
        client,
        &[statement(
            "SELECT %I::text FROM %I.%I",
            &[&table.column, &table.schema, &table.table],
        )],
    )?;
    let rows = client
        .query(&sql, &[])
        .map_err(|err| failed(&err, "read the table of migrations"))?;
    rows.iter()
        .map(|row| row.get::<_, Option<String>>(0))
        .map(|version| version.context("the table of migrations has a row without a version"))
        .collect::<Result<_>>()
        .map(Some)
}

fn rows(table: &SchemaMigrations, versions: Option<BTreeSet<String>>) -> Option<Rows<'_>> {
    let create = versions.is_none();
    let there = versions.unwrap_or_default();
    let add: Vec<String> = table
        .entries
        .iter()
        .filter(|version| !there.contains(*version))
        .cloned()
        .collect();
    let remove: Vec<String> = there
        .into_iter()
        .filter(|version| table.prune_unknown && !table.entries.contains(version))
        .collect();
    (create || !add.is_empty() || !remove.is_empty()).then_some(Rows {
        table,
        create,
        add,
        remove,
    })
}

impl Rows<'_> {
    fn write(&self, client: &mut Client) -> Result<()> {
        let SchemaMigrations {
            schema,
            table,
            column,
            column_type,
            ensure_table: _,
            inserted_at_column,
            prune_unknown: _,
            entries: _,
        } = self.table;
        let mut statements = Vec::new();
        if self.create {
            let column_type = match column_type {
                ColumnType::Text => "text",
                ColumnType::Varchar => "varchar(255)",
                ColumnType::Integer => "integer",
                ColumnType::Bigint => "bigint",
            };
            statements.push(statement("CREATE SCHEMA IF NOT EXISTS %I", &[schema]));
            let mut create = statement(
                &format!("CREATE TABLE %I.%I (%I {column_type} PRIMARY KEY"),
                &[schema, table, column],
            );
            if let Some(inserted_at) = inserted_at_column {
                create.template.push_str(", %I timestamp");
                create.arguments.push(inserted_at.clone());
            }
            create.template.push(')');
            statements.push(create);
        }
        for version in &self.add {
            statements.push(match inserted_at_column {
                Some(inserted_at) => statement(
                    "INSERT INTO %I.%I (%I, %I) VALUES (%L, now())",
                    &[schema, table, column, inserted_at, version],
                ),
                None => statement(
                    "INSERT INTO %I.%I (%I) VALUES (%L)",
                    &[schema, table, column, version],
                ),
            });
        }
        for version in &self.remove {
            statements.push(statement(
                "DELETE FROM %I.%I WHERE %I::text = %L",
                &[schema, table, column, version],
            ));
        }
        let mut transaction = client
            .transaction()
            .map_err(|err| failed(&err, "begin a transaction"))?;
        session::execute(&mut transaction, &statements).context("fill the table of migrations")?;
        transaction
            .commit()
            .map_err(|err| failed(&err, "fill the table of migrations"))
    }
}

fn statement(template: &str, arguments: &[&String]) -> Statement {
    Statement {
        template: template.into(),
        arguments: arguments.iter().map(ToString::to_string).collect(),
    }
}

/// Runs the files of one of the hooks of a database, each by itself, in a session of our own role.
///
/// # Errors
///
/// Fails with the first that fails.
pub fn run_hooks(
    client: &mut Client,
    database: &str,
    kind: Script,
    files: &[SqlFile],
) -> Result<()> {
    for file in files {
        let change = Change::Run {
            kind,
            file: file.name.clone(),
        };
        tool::log(
            Level::Info,
            format_args!("database \"{database}\": {change}"),
        );
        client.batch_execute(&file.text).map_err(|err| {
            anyhow::anyhow!("run \"{}\": {}", file.path.display(), message_of(&err))
        })?;
        let clean: bool = client
            .query_one("SELECT pg_current_xact_id_if_assigned() IS NULL", &[])
            .map_err(|err| failed(&err, format!("run \"{}\"", file.path.display())))?
            .get(0);
        ensure!(
            clean,
            "run \"{}\": it leaves a transaction open",
            file.path.display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, checksum: &str) -> SqlFile {
        SqlFile {
            path: name.into(),
            name: name.into(),
            checksum: checksum.into(),
            text: String::new(),
        }
    }

    fn history(ran: &[(&str, &str)], files: &[SqlFile]) -> Result<()> {
        let ran = ran
            .iter()
            .map(|(name, checksum)| ((*name).to_owned(), (*checksum).to_owned()))
            .collect();
        check_history(&ran, files)
    }

    #[test]
    fn migrations_that_ran_stay_as_they_were_and_new_ones_come_after_them() {
        let files = [file("1.sql", "a"), file("2.sql", "b"), file("3.sql", "c")];
        history(&[], &files).unwrap();
        history(&[("1.sql", "a"), ("2.sql", "b")], &files).unwrap();
        history(&[("1.sql", "a")], &[]).unwrap();
        for (ran, message) in [
            (
                [("1.sql", "a"), ("2.sql", "x")],
                "migration \"2.sql\" has been changed since it ran",
            ),
            (
                [("0.sql", "a"), ("1.sql", "a")],
                "migration \"0.sql\" has run and is gone",
            ),
            (
                [("1.sql", "a"), ("3.sql", "c")],
                "migration \"2.sql\" is new and sorts before \"3.sql\", which has run",
            ),
        ] {
            assert_eq!(history(&ran, &files).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn an_init_script_runs_once_for_each_content_whatever_its_name() {
        let ran = Ran {
            init_scripts: BTreeSet::from(["a".to_owned()]),
            ..Ran::default()
        };
        let files = Files {
            init_scripts: vec![file("renamed.sql", "a"), file("changed.sql", "b")],
            ..Files::default()
        };
        let names: Vec<&str> = unrun(&ran, &files)
            .iter()
            .map(|(_, file)| file.name.as_str())
            .collect();
        assert_eq!(names, ["changed.sql"]);
    }

    #[test]
    fn rows_are_added_and_only_removed_where_that_is_wanted() {
        let mut table: SchemaMigrations =
            serde_json::from_str(r#"{ "entries": ["1", "2"] }"#).unwrap();
        let there = || Some(BTreeSet::from(["1".to_owned(), "0".to_owned()]));
        assert_eq!(
            rows(&table, there()).map(|rows| (rows.add, rows.remove)),
            Some((vec!["2".to_owned()], vec![]))
        );
        table.prune_unknown = true;
        assert_eq!(
            rows(&table, there()).map(|rows| (rows.add, rows.remove)),
            Some((vec!["2".to_owned()], vec!["0".to_owned()]))
        );
        table.entries = vec!["1".into(), "0".into()];
        assert_eq!(rows(&table, there()), None);
    }
}
