//! Fetches one WAL file from the archive, for PostgreSQL's `restore_command`.
//!
//! PostgreSQL reads the exit status as follows (`xlogarchive.c`, `wait_error.c`): 0 is "here it is",
//! 1 to 125 is "there is no such file, recovery may end here", and anything above stops recovery. So
//! 1 has one meaning only, and everything that is not proven absence is [`PROGRAM`]'s failure.

mod off_site;
mod prefetch;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use archive::{Archive, Fetched};
use clap::Parser;
use settings::Settings;
use tool::{Hinted, Program};
use wal::{SystemIdentifier, WalFileName};

use crate::off_site::OffSite;

/// Above 125, so that PostgreSQL stops instead of promoting a half-restored server.
const PROGRAM: Program = Program {
    complaint: "could not restore WAL file",
    failure: 200,
};
/// The file is in no archive. PostgreSQL may end recovery here.
const NOT_IN_ARCHIVE: u8 = 1;

/// Fetch one WAL file from the archive, or prove that it is absent
#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    /// Settings file, JSON
    #[arg(long, value_name = "FILE")]
    config: PathBuf,

    /// Check the settings file, then exit
    #[arg(long)]
    check_config: bool,

    /// Ask the archives on this machine only, and no off-site copy
    #[arg(long)]
    local: bool,

    /// Directory with plain WAL files that no archive has; asked last, and taken as they are
    #[arg(long, value_name = "DIRECTORY", hide = true)]
    unarchived: Option<PathBuf>,

    /// Fetch the segments after NAME into DESTINATION's directory ahead of recovery; started by an
    /// ordinary call
    #[arg(long, hide = true)]
    ahead: bool,

    /// Name of the wanted file, `%f` in `restore_command`
    #[arg(value_name = "NAME", required_unless_present = "check_config")]
    name: Option<String>,

    /// Where to put it, `%p` in `restore_command`
    #[arg(value_name = "DESTINATION", required_unless_present = "check_config")]
    destination: Option<PathBuf>,
}

fn main() -> ExitCode {
    tool::run(PROGRAM, |cli: Cli| {
        let settings = tool::read_settings(&cli.config)?;
        let (Some(name), Some(destination), false) =
            (&cli.name, &cli.destination, cli.check_config)
        else {
            return Ok(ExitCode::SUCCESS);
        };
        tool::end_after(
            Duration::from_secs(settings.archive.restore_deadline_seconds.into()),
            PROGRAM,
        );
        let name = WalFileName::parse(name).map_err(|err| anyhow::anyhow!("{err}"))?;
        let archives = Archives::open(&settings, destination, cli.local || cli.ahead)?;
        if cli.ahead {
            prefetch::fetch_ahead(&settings.archive, &archives, &name, destination)?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut fetched = prefetch::get(&archives, &name, destination)?;
        if fetched == Fetched::NotInArchive
            && let Some(directory) = &cli.unarchived
        {
            fetched = unarchived(directory, &name, destination)?;
        }
        prefetch::keep_ahead(
            &settings.archive,
            &archives,
            &cli.config,
            &name,
            destination,
        );
        Ok(match fetched {
            Fetched::Yes => ExitCode::SUCCESS,
            Fetched::NotInArchive => NOT_IN_ARCHIVE.into(),
        })
    })
}

/// Takes the file from a directory in which a restore has put what a server had not archived.
fn unarchived(directory: &Path, name: &WalFileName, destination: &Path) -> Result<Fetched> {
    let source = directory.join(name.to_string());
    // The directory is the restore's own: should it be gone, nothing is absent.
    std::fs::metadata(directory).with_context(|| format!("open \"{}\"", directory.display()))?;
    match std::fs::symlink_metadata(&source) {
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(Fetched::NotInArchive),
        _ => {}
    }
    // PostgreSQL removes what a failed call has left.
    durable_file::remove(destination)?;
    durable_file::copy_file(&source, destination, durable_file::FILE_MODE, |_| {}).with_context(
        || {
            format!(
                "copy \"{}\" to \"{}\"",
                source.display(),
                destination.display()
            )
        },
    )?;
    Ok(Fetched::Yes)
}

/// The archive and its further sources, for one cluster.
struct Archives {
    sources: Vec<Archive>,
    /// What is asked last, since it takes longest.
    off_site: Option<OffSite>,
    system_identifier: SystemIdentifier,
}

impl Archives {
    /// Opens every declared archive. One that cannot be opened is an error now, not once it is
    /// needed: a file counts as absent only when each of them has said so.
    fn open(settings: &Settings, destination: &Path, local: bool) -> Result<Self> {
        let first = Archive::open(&settings.archive.directory, &settings.instance)?;
        let system_identifier = recovering_cluster(&first, destination)?;
        first.cluster(system_identifier)?;
        let mut sources = vec![first];
        for directory in &settings.archive.further_directories {
            sources.push(Archive::open(directory, &settings.instance)?);
        }
        Ok(Self {
            sources,
            off_site: (!local && !settings.restic.is_empty()).then(|| OffSite::of(settings)),
            system_identifier,
        })
    }

    /// Writes the file to `destination`, from the first archive that holds it.
    ///
    /// A copy that is damaged in one archive may be whole in the next, so the others are asked
    /// before the damage is an error; but then "absent" is no answer any more.
    fn get(&self, name: &WalFileName, staging: &Path, destination: &Path) -> Result<Fetched> {
        let mut first_error = None;
        for source in &self.sources {
            match source.get(self.system_identifier, name, staging, destination) {
                Ok(Fetched::Yes) => {
                    if let Some(err) = first_error {
                        tool::report("took a WAL file from a further archive", &err);
                    }
                    return Ok(Fetched::Yes);
                }
                Ok(Fetched::NotInArchive) => {}
                Err(err) => first_error = first_error.or(Some(err)),
            }
        }
        if let (Some(off_site), Some(first)) = (&self.off_site, self.sources.first()) {
            let cluster = first.cluster(self.system_identifier)?;
            let fetched = off_site.get(first, cluster, name, staging, destination)?;
            if fetched == Fetched::Yes {
                if let Some(err) = first_error {
                    tool::report("took a WAL file from off-site", &err);
                }
                return Ok(fetched);
            }
        }
        first_error.map_or(Ok(Fetched::NotInArchive), Err)
    }
}

/// The cluster that asks: that of the data directory whose `pg_wal` the destination is in.
fn recovering_cluster(archive: &Archive, destination: &Path) -> Result<SystemIdentifier> {
    let data_directory = match destination.parent().and_then(Path::parent) {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    };
    match archive::read_control_file(data_directory) {
        Ok(control) => Ok(control.system_identifier),
        // A person who fetches a file into some directory means the archive's cluster, as long as
        // there is only one.
        Err(_) if archive.manifest().clusters.len() == 1 => {
            Ok(archive.newest_cluster()?.system_identifier)
        }
        Err(err) => Err(err)
            .context("find out which cluster is recovering")
            .map_err(|err| {
                Hinted::new(
                    format!("{err:#}"),
                    "run it in the data directory with a destination in pg_wal, as PostgreSQL does",
                )
                .into()
            }),
    }
}
