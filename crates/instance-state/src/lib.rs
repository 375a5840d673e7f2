//! What the programs remember of an instance outside its data directory.
//!
//! These files are evidence, not truth: the data directory and the archive are asked what they are.
//! But an empty directory cannot say that there was a cluster in it yesterday, and these can.

mod drill;
mod off_site;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use wal::SystemIdentifier;

pub use drill::{DrillFailure, DrillFindings, DrillReason, DrillRecord};
pub use off_site::{OffSiteHoldings, OffSiteRecord};

/// Version of the form of these files.
const FORMAT_VERSION: u32 = 1;

/// Name of the record of the cluster.
const INSTANCE: &str = "instance.json";
/// Name of the record of the preseed.
const PRESEED: &str = "preseed.json";

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
}

/// What `pg-preseed` came to at its last run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PreseedRecord {
    /// Version of this form.
    pub format: u32,
    /// What it came to.
    pub outcome: PreseedOutcome,
    /// When, in RFC 3339.
    pub at: String,
}

/// What a preseed came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PreseedOutcome {
    /// It was begun, and nothing has been said since.
    Begun,
    /// There was a cluster in the data directory, and nothing was done.
    NotNeeded,
    /// A source has given the cluster that is in the data directory.
    Restored,
    /// Every declared source has proven that it holds nothing of this instance, or the settings allow
    /// to do without the proof.
    NothingToRestore,
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
}

impl PreseedRecord {
    /// The version of the form that this program writes.
    pub const FORMAT: u32 = FORMAT_VERSION;

    /// Where the record is in the state directory.
    #[must_use]
    pub fn path(state_directory: &Path) -> PathBuf {
        state_directory.join(PRESEED)
    }

    /// Reads the record, if there is one.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be read or is of another form.
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
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let state = tempfile::tempdir().unwrap();
        let directory = state.path().join("main");
        assert_eq!(InstanceRecord::read(&directory).unwrap(), None);
        record().write(&directory).unwrap();
        assert_eq!(InstanceRecord::read(&directory).unwrap(), Some(record()));
        let preseed = PreseedRecord {
            format: PreseedRecord::FORMAT,
            outcome: PreseedOutcome::NothingToRestore,
            at: "2026-11-21T00:00:00Z".into(),
        };
        preseed.write(&directory).unwrap();
        assert_eq!(PreseedRecord::read(&directory).unwrap(), Some(preseed));
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
