//! What the programs remember of an instance outside its data directory.
//!
//! These files are evidence, not truth: the data directory and the archive are asked what they are.
//! But an empty directory cannot say that there was a cluster in it yesterday, and these can.

mod drill;
mod off_site;
mod preseed;
mod recovery;

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
