//! Dumps one declared database, checks the dump, and removes those that are too old.
//!
//! Base backups and the archive bring a whole instance back; a dump brings back one database of it. It
//! is what `pg_dump` writes in its custom format, and counts only once `pg_restore` has read its table of
//! contents.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::UNIX_EPOCH;

use anyhow::{Context as _, Result, anyhow};
use clap::Parser;
use cluster::Server;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::Offset;
use settings::Settings;
use settings::databases::Dump;
use textfile::{Writer, table};
use tool::{Hinted, Level, Program, WithHint as _};

const PROGRAM: Program = Program {
    complaint: "could not dump the database",
    failure: 1,
};

/// Name of a dump: the time at which it began, in UTC.
const NAME: &str = "%Y%m%d-%H%M%S";
/// Ends the name of a dump that counts.
const FINISHED: &str = "dump";
/// Ends the name of one that is being made.
const PARTIAL: &str = "partial";

/// Dump one declared database, check the dump, and remove those that are too old
#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    /// Settings file, JSON
    #[arg(long, value_name = "FILE")]
    config: PathBuf,

    /// Check the settings file, then exit
    #[arg(long)]
    check_config: bool,

    /// The database
    #[arg(long, value_name = "NAME", required_unless_present = "check_config")]
    database: Option<String>,
}

fn main() -> ExitCode {
    tool::run(PROGRAM, |cli: Cli| {
        let settings = tool::read_settings(&cli.config)?;
        if let (Some(database), false) = (&cli.database, cli.check_config) {
            let dumped = dump(&settings, database);
            write_metrics(&settings, database, dumped.is_ok());
            dumped?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// What is declared of the dumps of `database`.
fn declared<'a>(settings: &'a Settings, database: &str) -> Result<&'a Dump> {
    let declared = settings
        .databases
        .as_ref()
        .and_then(|databases| databases.declared.get(database)?.dump.as_ref())
        .ok_or_else(|| {
            Hinted::new(
                format!("no dumps of database \"{database}\" are declared"),
                format!("set databases.declared.{database}.dump"),
            )
        })?;
    Ok(declared)
}

fn dump(settings: &Settings, database: &str) -> Result<()> {
    let declared = declared(settings, database)?;
    let directory = &declared.directory;
    let _lock = durable_file::try_lock(&directory.join(".lock"))
        .with_hint(|| {
            format!(
                "does \"{}\" exist, and may this user write there?",
                directory.display()
            )
        })?
        .ok_or_else(|| anyhow!("another dump is being made in \"{}\"", directory.display()))?;
    remove_unfinished(directory)?;

    let began = Timestamp::now();
    let name = began.strftime(NAME).to_string();
    let partial = directory.join(format!("{name}.{PARTIAL}"));
    let made = make(settings, database, &partial);
    if made.is_err() {
        // A dump that failed is worth nothing, and the disk may be full.
        remove_unfinished(directory)?;
    }
    made?;
    let finished = directory.join(format!("{name}.{FINISHED}"));
    durable_file::move_to_new_name(&partial, &finished)?;
    let size = fs::metadata(&finished)
        .with_context(|| format!("examine \"{}\"", finished.display()))?
        .len();
    tool::log(
        Level::Info,
        format_args!(
            "dump \"{}\" of database \"{database}\" is good: {size} bytes",
            finished.display()
        ),
    );
    prune(declared, began)
}

/// Makes a dump, reads its table of contents and makes it durable.
fn make(settings: &Settings, database: &str, partial: &Path) -> Result<()> {
    let server = Server::new(&settings.postgresql);
    server
        .programs()
        .command("pg_dump")
        .args(server.connection_arguments())
        .args(["--format", "custom", "--file"])
        .arg(partial)
        .arg("--dbname")
        .arg(connection_string(database))
        .run()?;
    let contents = server
        .programs()
        .command("pg_restore")
        .arg("--list")
        .arg(partial)
        .run()?;
    if !contents.stdout.contains(";     dbname: ") {
        return Err(anyhow!(
            "pg_restore finds no table of contents in \"{}\"",
            partial.display()
        ));
    }
    File::open(partial)
        .and_then(|file| file.sync_all())
        .with_context(|| format!("sync \"{}\"", partial.display()))
}

/// The name of a database where a whole connection string may stand: with an equals sign in it, it
/// would be taken for one.
fn connection_string(database: &str) -> String {
    format!(
        "dbname='{}'",
        database.replace('\\', "\\\\").replace('\'', "\\'")
    )
}

fn remove_unfinished(directory: &Path) -> Result<()> {
    for path in files(directory, PARTIAL)?.into_values() {
        durable_file::remove(&path)?;
    }
    Ok(())
}

/// Dumps in `directory` whose names end in `extension`, by the time in their names. Other files are
/// somebody else's.
fn files(directory: &Path, extension: &str) -> Result<BTreeMap<Timestamp, PathBuf>> {
    let mut found = BTreeMap::new();
    let entries =
        fs::read_dir(directory).with_context(|| format!("list \"{}\"", directory.display()))?;
    for entry in entries {
        let path = entry
            .with_context(|| format!("list \"{}\"", directory.display()))?
            .path();
        let time = path
            .file_stem()
            .and_then(OsStr::to_str)
            .and_then(|stem| DateTime::strptime(NAME, stem).ok())
            .and_then(|time| Offset::UTC.to_timestamp(time).ok());
        if let Some(time) = time
            && path.extension() == Some(OsStr::new(extension))
        {
            found.insert(time, path);
        }
    }
    Ok(found)
}

/// Removes dumps that no rule keeps.
fn prune(declared: &Dump, now: Timestamp) -> Result<()> {
    let dumps = files(&declared.directory, FINISHED)?;
    let times: BTreeSet<Timestamp> = dumps.keys().copied().collect();
    let kept = retention::newest_of_periods(
        &times,
        declared.daily,
        declared.weekly,
        declared.monthly,
        now,
    );
    for (_, path) in dumps.iter().filter(|(time, _)| !kept.contains(time)) {
        durable_file::remove(path)?;
        tool::log(
            Level::Info,
            format_args!("removed dump \"{}\"", path.display()),
        );
    }
    Ok(())
}

/// Measures the newest dump that there is: a run that fails changes nothing about it.
fn write_metrics(settings: &Settings, database: &str, success: bool) {
    // Of a database without dumps there is nothing to say.
    let Ok(declared) = declared(settings, database) else {
        return;
    };
    let mut file = textfile::File::of_part(Writer::Dump, &settings.instance, database);
    if let Some((time, size)) = newest(&declared.directory) {
        file.set_for(&table::DUMP_LAST_SUCCESS, &[database], time);
        file.set_for(&table::DUMP_SIZE, &[database], size);
    }
    file.set_for(
        &table::DUMP_LAST_RUN_SUCCESS,
        &[database],
        if success { 1.0 } else { 0.0 },
    );
    file.write_or_warn(settings.metrics.as_ref().map(|metrics| &*metrics.directory));
}

/// When the newest dump was finished, and its size.
fn newest(directory: &Path) -> Option<(f64, f64)> {
    let dumps = files(directory, FINISHED).ok()?;
    let metadata = fs::metadata(dumps.values().next_back()?).ok()?;
    let finished = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    #[expect(clippy::cast_precision_loss, reason = "exact below 2^53")]
    let size = metadata.len() as f64;
    Some((finished.as_secs_f64(), size))
}
