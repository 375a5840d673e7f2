use std::path::{Path, PathBuf};

use anyhow::Result;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use wal::TimelineId;

use crate::{FORMAT_VERSION, read, write};

/// Name of the record of the declared recovery.
const RECOVERY: &str = "recovery.json";

/// What became of the declared recovery that was begun last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RecoveryRecord {
    /// Version of this form.
    pub format: u32,
    /// `recovery.id` of the settings.
    pub id: String,
    /// The moment that was declared.
    pub target: String,
    /// Whether it is complete.
    pub state: RecoveryState,
    /// The timeline of the cluster before it. A recovery always ends on a later one.
    pub from_timeline: TimelineId,
    /// When this was written.
    pub at: Timestamp,
}

/// How far a declared recovery has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RecoveryState {
    /// It was begun.
    Begun,
    /// The cluster in the data directory is the recovered one, or one that came after it.
    Done,
    /// It was tried and has failed. The cluster is what it was.
    Failed {
        /// Why.
        why: String,
    },
}

impl RecoveryRecord {
    /// The version of the form that this program writes.
    pub const FORMAT: u32 = FORMAT_VERSION;

    /// Where the record is in the state directory.
    #[must_use]
    pub fn path(state_directory: &Path) -> PathBuf {
        state_directory.join(RECOVERY)
    }

    /// Reads the record, if there is one.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be read or is of another form: a recovery that has been done must not be done
    /// again because nobody can tell.
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
