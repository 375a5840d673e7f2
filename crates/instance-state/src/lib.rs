//! What the programs remember of an instance outside its data directory.
//!
//! These files are evidence, not truth: the data directory and the archive are asked what they are.
//! But an empty directory cannot say that there was a cluster in it yesterday, and these can.

mod drill;
mod off_site;
mod preseed;
mod recovery;
mod replica;

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use wal::{Lsn, SystemIdentifier, TimelineId};

pub use drill::{DrillFailure, DrillFindings, DrillReason, DrillRecord};
pub use off_site::{OffSiteHoldings, OffSiteRecord};
pub use preseed::{
    PreseedOutcome, PreseedRecord, PreseedStep, Restored, SourceAnswer, base_backup_request,
};
pub use recovery::{RecoveryRecord, RecoveryState};
pub use replica::{ReplicaRecord, ReplicaSnapshot};

/// Version of the form of these files.
const FORMAT_VERSION: u32 = 1;

/// Name of the record of the cluster.
const INSTANCE: &str = "instance.json";

/// What `pg-init` found or made at its last success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InstanceRecord {
    /// Version of this form.
    pub format: u32,
    /// The cluster in the data directory.
    pub system_identifier: SystemIdentifier,
    /// Its major version.
    pub postgres_major: u32,
    /// The data directory.
    pub data_directory: PathBuf,
    /// The archive directory that was marked as this instance's.
    pub archive_directory: PathBuf,
    /// The base backup directory that was marked as this instance's.
    pub base_backup_directory: Option<PathBuf>,
    /// When this was written first for this cluster, in RFC 3339.
    pub since: String,
    /// How far the cluster's archived WAL reached when that was last looked at. Nothing that reaches less
    /// far is taken for this cluster's newest state.
    #[serde(default)]
    pub archived: Option<Reach>,
}

/// How far WAL reaches.
///
/// A later timeline is further: what it does not have of an older one was given up by a restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Reach {
    /// The timeline.
    pub timeline: TimelineId,
    /// The end of the last segment on it.
    pub lsn: Lsn,
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on timeline {}", self.lsn, self.timeline)
    }
}

impl InstanceRecord {
    /// The version of the form that this program writes.
    pub const FORMAT: u32 = FORMAT_VERSION;

    /// Where the record is in the state directory.
    #[must_use]
    pub fn path(state_directory: &Path) -> PathBuf {
        state_directory.join(INSTANCE)
    }

    /// Reads the record, if there is one.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be read or is of another form: that is no proof that there was nothing.
    pub fn read(state_directory: &Path) -> Result<Option<Self>> {
        read(&Self::path(state_directory), |record: &Self| record.format)
    }

    /// Writes the record, durably.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be written; the old one stays then.
    pub fn write(&self, state_directory: &Path) -> Result<()> {
        write(&Self::path(state_directory), self)
    }

    /// Writes copies of the record into the archive and beside the base backups, durably, where they differ. They
    /// go off-site with these, and are there when the disk with the state directory is lost.
    ///
    /// Where a place does not show that it is the archive or the directory of the base backups, nothing is
    /// written: something else may be mounted there, or nothing.
    ///
    /// # Errors
    ///
    /// Fails when a copy cannot be read or written; the old one stays then.
    pub fn write_copies(&self) -> Result<()> {
        for (copy, sign) in copies(
            &self.archive_directory,
            self.base_backup_directory.as_deref(),
        ) {
            if sign.exists() && Self::read_copy(&copy)?.as_ref() != Some(self) {
                write(&copy, self)?;
            }
        }
        Ok(())
    }

    /// The copy that remembers most of those in the archive and beside the base backups, and where it is.
    ///
    /// # Errors
    ///
    /// Fails when one is there and cannot be read or is of another form.
    fn of_copies(
        archive_directory: &Path,
        base_backup_directory: Option<&Path>,
    ) -> Result<Option<(Self, PathBuf)>> {
        let mut best: Option<(Self, PathBuf)> = None;
        for (copy, _) in copies(archive_directory, base_backup_directory) {
            if let Some(record) = Self::read_copy(&copy)?
                && best
                    .as_ref()
                    .is_none_or(|(best, _)| best.archived < record.archived)
            {
                best = Some((record, copy));
            }
        }
        Ok(best)
    }

    /// The record in the state directory or, where that has none, the copy that remembers most; and where it is.
    ///
    /// # Errors
    ///
    /// Fails when one that is asked is there and cannot be read or is of another form.
    pub fn remembered(
        state_directory: &Path,
        archive_directory: &Path,
        base_backup_directory: Option<&Path>,
    ) -> Result<Option<(Self, PathBuf)>> {
        match Self::read(state_directory)? {
            Some(record) => Ok(Some((record, Self::path(state_directory)))),
            None => Self::of_copies(archive_directory, base_backup_directory),
        }
    }

    fn read_copy(path: &Path) -> Result<Option<Self>> {
        read(path, |record: &Self| record.format)
    }
}

/// Where copies of the record are, each with the file by which its place shows what it is.
fn copies(
    archive_directory: &Path,
    base_backup_directory: Option<&Path>,
) -> Vec<(PathBuf, PathBuf)> {
    let ours = base_backup_directory.map(|directory| directory.join(".backstay"));
    [(archive_directory.to_owned(), "archive.json")]
        .into_iter()
        .chain(ours.map(|ours| (ours, "repository.json")))
        .map(|(directory, sign)| (directory.join(INSTANCE), directory.join(sign)))
        .collect()
}

fn read<T: DeserializeOwned>(path: &Path, format: impl Fn(&T) -> u32) -> Result<Option<T>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(err) => return Err(err).with_context(|| format!("read \"{}\"", path.display())),
    };
    let record: T =
        serde_json::from_slice(&text).with_context(|| format!("read \"{}\"", path.display()))?;
    let found = format(&record);
    ensure!(
        found == FORMAT_VERSION,
        "\"{}\" is of format {found}, this program reads format {FORMAT_VERSION}",
        path.display()
    );
    Ok(Some(record))
}

fn write(path: &Path, record: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(record)
        .with_context(|| format!("write \"{}\"", path.display()))?;
    text.push(b'\n');
    if let Some(directory) = path.parent() {
        durable_file::ensure_directory(directory)?;
    }
    durable_file::replace(path, &text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> InstanceRecord {
        InstanceRecord {
            format: InstanceRecord::FORMAT,
            system_identifier: SystemIdentifier(7_710_581_305_782_851_992),
            postgres_major: 16,
            data_directory: "/data/16".into(),
            archive_directory: "/archive".into(),
            base_backup_directory: None,
            since: "2026-11-21T00:00:00Z".into(),
            archived: None,
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let state = tempfile::tempdir().unwrap();
        let directory = state.path().join("main");
        assert_eq!(InstanceRecord::read(&directory).unwrap(), None);
        record().write(&directory).unwrap();
        assert_eq!(InstanceRecord::read(&directory).unwrap(), Some(record()));
        let reached = InstanceRecord {
            archived: Some(Reach {
                timeline: TimelineId::FIRST,
                lsn: Lsn(0x0300_0000),
            }),
            ..record()
        };
        reached.write(&directory).unwrap();
        assert_eq!(InstanceRecord::read(&directory).unwrap(), Some(reached));
    }

    #[test]
    fn copies_are_where_the_archive_and_the_base_backups_are_and_the_furthest_counts() {
        let place = tempfile::tempdir().unwrap();
        let archive = place.path().join("archive");
        let backups = place.path().join("backups");
        let at = |lsn| InstanceRecord {
            archive_directory: archive.clone(),
            base_backup_directory: Some(backups.clone()),
            archived: Some(Reach {
                timeline: TimelineId::FIRST,
                lsn: Lsn(lsn),
            }),
            ..record()
        };
        fs::create_dir_all(backups.join(".backstay")).unwrap();
        fs::create_dir(&archive).unwrap();
        let furthest = || InstanceRecord::of_copies(&archive, Some(&backups)).unwrap();
        // Directories that do not show what they are may be below a mount point.
        at(1).write_copies().unwrap();
        assert_eq!(furthest(), None);
        fs::write(archive.join("archive.json"), "").unwrap();
        at(1).write_copies().unwrap();
        assert_eq!(furthest(), Some((at(1), archive.join("instance.json"))));
        fs::write(backups.join(".backstay/repository.json"), "").unwrap();
        at(2).write_copies().unwrap();
        at(1).write(&archive).unwrap();
        assert_eq!(
            furthest(),
            Some((at(2), backups.join(".backstay/instance.json")))
        );
        fs::write(archive.join("instance.json"), "{}").unwrap();
        assert!(InstanceRecord::of_copies(&archive, None).is_err());
    }

    #[test]
    fn a_later_timeline_reaches_further_whatever_the_address() {
        let reach = |timeline, lsn| Reach {
            timeline: TimelineId::new(timeline).unwrap(),
            lsn: Lsn(lsn),
        };
        assert!(reach(2, 1) > reach(1, 9) && reach(1, 9) > reach(1, 8));
        assert_eq!(reach(2, 0x0700_0028).to_string(), "0/7000028 on timeline 2");
    }

    #[test]
    fn a_record_that_cannot_be_understood_is_no_absence() {
        let state = tempfile::tempdir().unwrap();
        fs::write(InstanceRecord::path(state.path()), "{}").unwrap();
        assert!(InstanceRecord::read(state.path()).is_err());
        InstanceRecord {
            format: 2,
            ..record()
        }
        .write(state.path())
        .unwrap();
        let message = InstanceRecord::read(state.path()).unwrap_err().to_string();
        assert!(
            message.ends_with("is of format 2, this program reads format 1"),
            "{message}"
        );
    }
}
