//! What there is before anything is done.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use archive::Archive;
use cluster::Programs;
use data_directory::Data;
use instance_state::{InstanceRecord, PreseedOutcome, PreseedRecord, PreseedStep, Reach};
use nix::sys::signal::kill;
use nix::unistd::Pid;
use restore_journal::{Journal, Places, Step};
use settings::Settings;
use tool::Hinted;
use wal::SystemIdentifier;

/// What there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Situation {
    /// A cluster, whatever its state. It is not this program's.
    Cluster,
    /// A cluster that this program has put there, and something around it is left to do.
    Unfinished,
    /// A restored cluster that only has to get its name.
    Swapping(Journal),
    /// Nothing.
    Empty,
}

impl Situation {
    /// Looks, without changing anything.
    ///
    /// # Errors
    ///
    /// Refuses, with a way out, where nothing may be filled: something is not mounted or hides a mount,
    /// something else is there, a server runs. What cannot be seen is an error too.
    pub fn look(settings: &Settings) -> Result<Self> {
        let server = &settings.postgresql;
        let path = &server.data_directory;
        data_directory::check_mounts(&server.required_mounts)?;
        data_directory::check_takes_changes(path)?;
        let programs = Programs::in_directory(&server.bin_directory);
        let data = data_directory::look_at(path, &programs)?;
        if let Some(refusal) = data.refusal(path) {
            return Err(refusal);
        }
        if let Data::Cluster(_) = data {
            return Ok(if is_unfinished(settings)? {
                Self::Unfinished
            } else {
                Self::Cluster
            });
        }
        if let Some(journal) = Places::beside(path).read_journal()?
            && journal.step == Step::Swapping
        {
            return Ok(Self::Swapping(journal));
        }
        if let Some(process) = living_server(&server.socket_directory, server.port) {
            return Err(Hinted::new(
                format!(
                    "there is nothing in \"{}\", and a server still runs, process {process}",
                    path.display()
                ),
                "it may have the last copy of the data in memory and in deleted files: find out what happened before it is stopped",
            )
            .into());
        }
        if let Some(other) = data_directory::clusters_beside(path)?.first() {
            return Err(Hinted::new(
                format!(
                    "there is no cluster in \"{}\", and \"{}\" beside it is one",
                    path.display(),
                    other.display()
                ),
                "a new version takes over the old one's data with pg_upgrade; to go on as before, declare the old version, or give the directory its name back",
            )
            .into());
        }
        Ok(Self::Empty)
    }
}

/// Whether this program was interrupted after the cluster was in its place.
fn is_unfinished(settings: &Settings) -> Result<bool> {
    let record = PreseedRecord::read(&settings.state_directory())?;
    Ok(record.is_some_and(|record| {
        record.outcome == PreseedOutcome::Begun
            && matches!(record.step, PreseedStep::Restoring | PreseedStep::Finishing)
    }))
}

/// The server whose socket is in `directory`: one whose data directory was removed under it still runs.
///
/// # Source
///
/// `CreateLockFile()` in `miscinit.c`: the first line of `.s.PGSQL.<port>.lock` is its process.
fn living_server(directory: &Path, port: u16) -> Option<Pid> {
    let text = fs::read_to_string(directory.join(format!(".s.PGSQL.{port}.lock"))).ok()?;
    let process = Pid::from_raw(text.lines().next()?.trim().parse().ok()?);
    // The file of a killed server stays, and its number may be another program's by now.
    let name = fs::read_to_string(format!("/proc/{process}/comm")).ok()?;
    (name.trim() == "postgres" && kill(process, None).is_ok()).then_some(process)
}

/// What is known of the cluster that was here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Its identity.
    pub system_identifier: Option<SystemIdentifier>,
    /// How far its archived WAL reached.
    pub archived: Option<Reach>,
    /// Who knows it.
    pub by: PathBuf,
}

impl Known {
    /// Asks the record outside of the data directory, its copies, and the archive.
    ///
    /// # Errors
    ///
    /// Fails when one of them is there and cannot be read.
    pub fn of(settings: &Settings) -> Result<Self> {
        let state = settings.state_directory();
        let known = InstanceRecord::remembered(
            &state,
            &settings.archive.directory,
            settings
                .base_backup
                .as_ref()
                .map(|declared| declared.directory.as_path()),
        )?;
        if let Some((record, by)) = known {
            return Ok(Self {
                system_identifier: Some(record.system_identifier),
                archived: record.archived,
                by,
            });
        }
        let root = &settings.archive.directory;
        if Archive::is_at(root)? {
            let archive = Archive::open(root, &settings.instance)?;
            if archive.something()?.is_some() {
                return Ok(Self {
                    system_identifier: Some(archive.newest_cluster()?.system_identifier),
                    archived: None,
                    by: root.clone(),
                });
            }
        }
        Ok(Self::default())
    }
}
