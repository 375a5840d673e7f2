//! Puts one WAL file into the archive, for PostgreSQL's `archive_command`.
//!
//! PostgreSQL reads the exit status as follows (`shell_archive.c`, `wait_error.c`): 0 is "archived,
//! the file may go", 1 to 125 is a failure that is counted in `pg_stat_archiver` and tried again.
//! Anything above, and death by a signal, restarts the archiver and is counted nowhere.

mod ahead;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use archive::{Archive, Receipts};
use clap::Parser;
use settings::Settings;
use tool::Program;
use wal::{SystemIdentifier, WalFileName};

const PROGRAM: Program = Program {
    complaint: "could not archive WAL file",
    failure: 1,
};

/// Put one WAL file into the archive, durably and never in place of another
#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    /// Settings file, JSON
    #[arg(long, value_name = "FILE")]
    config: PathBuf,

    /// Check the settings file, then exit
    #[arg(long)]
    check_config: bool,

    /// The WAL file, `%p` in `archive_command`
    #[arg(value_name = "PATH", required_unless_present = "check_config")]
    path: Option<PathBuf>,
}

fn main() -> ExitCode {
    tool::run(PROGRAM, |cli: Cli| {
        let settings = tool::read_settings(&cli.config)?;
        if let (Some(path), false) = (&cli.path, cli.check_config) {
            tool::end_after(
                Duration::from_secs(settings.archive.archive_deadline_seconds.into()),
                PROGRAM,
            );
            archive_wal(&settings, path)?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// Archives the file at `path`, and further files that are ready while there is time.
///
/// Returns once `path` and every further file that was begun is durable or has failed. Only what
/// became of `path` counts: PostgreSQL asks for each of the others itself.
fn archive_wal(settings: &Settings, path: &Path) -> Result<()> {
    let archive = Archive::open(&settings.archive.directory, &settings.instance)?;
    let receipts = Receipts::of(&archive);
    if let Some(name) = wal_file_name(path)
        && let Ok(cluster) = archive.newest_cluster()
        && receipts.redeem(&archive, cluster, &name, path)
    {
        return Ok(());
    }
    ahead::put_with_company(&archive, &receipts, &settings.archive, path)
}

fn wal_file_name(path: &Path) -> Option<WalFileName> {
    WalFileName::parse(path.file_name()?.to_str()?).ok()
}

/// The cluster whose `pg_wal` the file at `path` is in.
///
/// PostgreSQL runs the command in the data directory with a relative path, so that a data directory
/// behind a link or a moved one is the right one all the same.
fn origin(path: &Path) -> Option<SystemIdentifier> {
    let data_directory = match path.parent()?.parent()? {
        empty if empty.as_os_str().is_empty() => Path::new("."),
        directory => directory,
    };
    archive::read_control_file(data_directory)
        .ok()
        .map(|control| control.system_identifier)
}
