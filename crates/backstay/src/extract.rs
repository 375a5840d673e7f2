//! `backstay extract`: a database or some of its tables as they were at a moment, as a file.

use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use tool::{Hinted, WithHint as _};

use crate::branch::{self, Running, Where};
use crate::instance::Instance;
use crate::restore::{Moment, say};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    moment: Moment,

    /// The database
    #[arg(long, value_name = "NAME")]
    database: String,

    /// Only this table, as in `pg_dump --table`; can be given several times
    #[arg(long, value_name = "TABLE")]
    table: Vec<String>,

    /// The file to write, for `pg_restore`; must not exist
    #[arg(long, value_name = "FILE", value_parser = crate::absolute)]
    output: PathBuf,

    #[command(flatten)]
    place: Where,
}

/// Makes a branch, dumps what is wanted from it and removes it again.
pub fn extract(instance: &Instance, arguments: &Arguments) -> Result<()> {
    let partial = durable_file::with_suffix(&arguments.output, ".partial");
    check_output(&arguments.output, &partial)?;
    let running = branch::temporary(instance, &arguments.place, &arguments.moment)?;
    let dumped = dump(instance, arguments, &running, &partial);
    if dumped.is_err() {
        durable_file::remove(&partial)?;
    }
    running
        .destroy(&instance.settings)
        .unwrap_or_else(|err| tool::report("could not remove the branch", &err));
    dumped?;
    let bytes = fs::metadata(&arguments.output)
        .with_context(|| format!("examine \"{}\"", arguments.output.display()))?
        .len();
    tool::print(&format!(
        "{} holds {} of database \"{}\", {bytes} bytes.\nPut it back with: pg_restore --dbname=DATABASE {}\n",
        arguments.output.display(),
        if arguments.table.is_empty() {
            "all".to_owned()
        } else {
            arguments.table.join(", ")
        },
        arguments.database,
        command::quoted(&arguments.output.display().to_string())
    ))
}

/// Refuses a place in which the file could not appear, before anything is made.
fn check_output(output: &Path, partial: &Path) -> Result<()> {
    if fs::symlink_metadata(output).is_ok() {
        return Err(Hinted::new(
            format!("\"{}\" exists already", output.display()),
            "name a file that does not exist yet",
        )
        .into());
    }
    // What an interrupted command has left.
    durable_file::remove(partial)?;
    File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(partial)
        .with_context(|| format!("create \"{}\"", partial.display()))
        .with_hint(|| {
            "the file is written by the user whom the data belongs to: name a directory in which that user may write".into()
        })?;
    Ok(())
}

fn dump(
    instance: &Instance,
    arguments: &Arguments,
    running: &Running,
    partial: &Path,
) -> Result<()> {
    let settings = &instance.settings;
    check_database(instance, arguments, running)?;
    say(&format!("dumping database {}", arguments.database));
    let programs = instance.server.programs();
    programs
        .command("pg_dump")
        .args(running.connection_arguments(settings))
        .args(["--format", "custom", "--file"])
        .arg(partial)
        .args(arguments.table.iter().map(|table| format!("--table={table}")))
        .arg("--dbname")
        .arg(connection_string(&arguments.database))
        .run()
        .with_hint(|| {
            "the tables of that moment are in the branch: look at them with `backstay branch create`".into()
        })?;
    let contents = programs
        .command("pg_restore")
        .arg("--list")
        .arg(partial)
        .run()?;
    if !contents.stdout.contains(";     dbname: ") {
        bail!(
            "pg_restore finds no table of contents in \"{}\"",
            partial.display()
        );
    }
    File::open(partial)
        .and_then(|file| file.sync_all())
        .with_context(|| format!("sync \"{}\"", partial.display()))?;
    durable_file::move_to_new_name(partial, &arguments.output)
}

/// Refuses a database that was not there, and names those that were.
fn check_database(instance: &Instance, arguments: &Arguments, running: &Running) -> Result<()> {
    let mut client = running.client(&instance.settings, "postgres")?;
    let names: Vec<String> = client
        .query(
            "select datname::text from pg_database where datallowconn and datname <> 'template1' order by 1",
            &[],
        )
        .context("list the databases")?
        .iter()
        .map(|row| row.get(0))
        .collect();
    if names.contains(&arguments.database) {
        return Ok(());
    }
    Err(anyhow!(Hinted::new(
        format!(
            "there was no database \"{}\" at that moment",
            arguments.database
        ),
        format!("there were {}", names.join(", ")),
    )))
}

/// The name of a database where a whole connection string may stand: with an equals sign in it, it
/// would be taken for one.
fn connection_string(database: &str) -> String {
    format!(
        "dbname='{}'",
        database.replace('\\', "\\\\").replace('\'', "\\'")
    )
}
