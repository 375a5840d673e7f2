//! Looking at the restored cluster.

use std::path::Path;

use anyhow::{Context as _, anyhow, bail};
use cluster::Programs;
use command::how_it_ended;
use instance_state::DrillReason;
use postgres::SimpleQueryMessage;
use settings::DrillCheck;
use tool::Hinted;

use crate::failed::{Because as _, Failed};
use crate::server::Copy;

/// How much of what a program says is passed on, in lines.
const LINES: usize = 10;

/// Compares every page with its checksum.
pub fn pages(programs: &Programs, data: &Path) -> Result<(), Failed> {
    let command = programs
        .command("pg_checksums")
        .arg("--check")
        .arg("--pgdata")
        .arg(data);
    let (status, output) = command.run_any_status()?;
    if status.success() {
        return Ok(());
    }
    // It ends with 1 for whatever is wrong, and names each page on a line of its own.
    let is_verdict = output.stderr.contains("checksum verification failed");
    let what = anyhow!(
        "\"{}\" {}: {}",
        command.line(),
        how_it_ended(status),
        first_lines(&output.stderr)
    );
    if is_verdict {
        let hinted = Hinted::new(
            format!("{what:#}"),
            "the page was damaged when the base backup was taken, or WAL that changes it is; restore it from an earlier base backup and compare",
        );
        Err(Failed::new(DrillReason::WrongChecksum, hinted))
    } else {
        Err(what.into())
    }
}

/// Asks every database that can be connected to, and returns their names.
pub fn databases(copy: &Copy) -> Result<Vec<String>, Failed> {
    let list = || -> anyhow::Result<Vec<String>> {
        Ok(copy
            .connect("postgres")?
            .query(
                "select datname from pg_database where datallowconn order by datname",
                &[],
            )
            .context("list the databases")?
            .iter()
            .map(|row| row.get(0))
            .collect())
    };
    let names = list().because(DrillReason::DatabaseDoesNotAnswer)?;
    for name in &names {
        let ask = || -> anyhow::Result<()> {
            copy.connect(name)?
                .query_one(
                    "select count(*) from pg_class, pg_relation_size(oid) where relkind in ('r', 'i', 'm')",
                    &[],
                )
                .map(drop)
                .context("ask for its relations")
        };
        ask()
            .with_context(|| format!("database \"{name}\""))
            .because(DrillReason::DatabaseDoesNotAnswer)?;
    }
    Ok(names)
}

/// Asks a declared question.
pub fn check(copy: &Copy, check: &DrillCheck) -> Result<(), Failed> {
    let ask = || -> anyhow::Result<()> {
        let mut client = copy.connect(&check.database)?;
        client
            .batch_execute("begin transaction read only")
            .context("begin a transaction")?;
        let answer = client.simple_query(&check.query)?;
        let rows: Vec<_> = answer
            .iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => Some(row),
                _ => None,
            })
            .collect();
        let [row] = rows.as_slice() else {
            bail!("it returned {} rows and not one", rows.len());
        };
        if row.len() != 1 {
            bail!("it returned {} columns and not one", row.len());
        }
        judge(row.get(0), check.expect.as_deref())
    };
    ask()
        .map_err(|err| {
            Hinted::new(
                format!(
                    "the question {:?} to database \"{}\" of the copy: {err:#}",
                    check.query, check.database
                ),
                "is the answer wrong, or the question in drill.checks?",
            )
            .into()
        })
        .because(DrillReason::CheckFailed)
}

/// Whether the one value that a question returned is right.
fn judge(value: Option<&str>, expected: Option<&str>) -> anyhow::Result<()> {
    match (value, expected) {
        (Some(value), Some(expected)) if value == expected => Ok(()),
        (Some(value), None) if value != "f" => Ok(()),
        (Some(value), Some(expected)) => bail!("it returned {value:?} and not {expected:?}"),
        (None, Some(expected)) => bail!("it returned null and not {expected:?}"),
        (Some(_), None) => bail!("it returned false"),
        (None, None) => bail!("it returned null"),
    }
}

/// What looking at tables and indexes came to.
pub enum Relations {
    Sound,
    /// And why.
    NotLookedAt(String),
}

/// Checks the structure of every table and B-tree index, where `pg_amcheck` and its extension are
/// installed.
pub fn relations(programs: &Programs, copy: &Copy) -> Result<Relations, Failed> {
    /// `pg_amcheck`: everything could be looked at, and something is damaged.
    const DAMAGED: i32 = 2;
    let is_installed = copy
        .connect("postgres")
        .because(DrillReason::DatabaseDoesNotAnswer)?
        .query_opt(
            "select from pg_available_extensions where name = 'amcheck'",
            &[],
        )
        .context("look for the extension amcheck")?
        .is_some();
    if !is_installed || programs.version("pg_amcheck").is_err() {
        return Ok(Relations::NotLookedAt(
            "pg_amcheck or its extension is not installed, so tables and indexes were not looked at"
                .into(),
        ));
    }
    let command = programs
        .command("pg_amcheck")
        .args(copy.connection_arguments())
        .args(["--all", "--install-missing"]);
    let (status, output) = command.run_any_status()?;
    match status.code() {
        Some(0) => Ok(Relations::Sound),
        Some(DAMAGED) => Err(Failed::new(
            DrillReason::DamagedRelation,
            Hinted::new(
                format!("pg_amcheck found damage: {}", first_lines(&output.stdout)),
                "look at the same relation in the running server: an index is mended by REINDEX, a table is not",
            ),
        )),
        _ => Err(anyhow!(
            "\"{}\" {}: {}",
            command.line(),
            how_it_ended(status),
            first_lines(&output.stderr)
        )
        .into()),
    }
}

fn first_lines(text: &str) -> String {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .take(LINES)
        .collect::<Vec<_>>()
        .join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_answered_rightly_by_the_expected_value_or_by_any_that_is_not_null_or_false() {
        for (value, expected) in [
            (Some("7"), Some("7")),
            (Some("f"), Some("f")),
            (Some("t"), None),
            (Some("0"), None),
        ] {
            assert!(judge(value, expected).is_ok(), "{value:?} {expected:?}");
        }
        for (value, expected, said) in [
            (Some("8"), Some("7"), "it returned \"8\" and not \"7\""),
            (None, Some("7"), "it returned null and not \"7\""),
            (None, None, "it returned null"),
            (Some("f"), None, "it returned false"),
        ] {
            assert_eq!(judge(value, expected).unwrap_err().to_string(), said);
        }
    }
}
