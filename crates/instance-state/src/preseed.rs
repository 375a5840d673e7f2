use std::path::{Path, PathBuf};

use anyhow::Result;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use wal::SystemIdentifier;

use crate::{FORMAT_VERSION, Reach, read, write};

/// Name of the record of the preseed.
const PRESEED: &str = "preseed.json";
/// Name of the request for a base backup.
const BASE_BACKUP_REQUEST: &str = "base-backup-requested";

/// What `pg-preseed` is doing or came to.
///
/// It is written before each step is begun, so that whoever finds the machine after a power cut knows
/// what it was at.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PreseedRecord {
    /// Version of this form.
    pub format: u32,
    /// What it came to.
    pub outcome: PreseedOutcome,
    /// What it was doing last.
    pub step: PreseedStep,
    /// When it was begun.
    pub begun_at: Timestamp,
    /// When this was written.
    pub at: Timestamp,
    /// The source that is or was restored from, as the answers name it.
    #[serde(default)]
    pub source: Option<String>,
    /// The moment that was declared.
    #[serde(default)]
    pub target: Option<String>,
    /// What each source said, in the order in which they were asked.
    #[serde(default)]
    pub answers: Vec<SourceAnswer>,
    /// The cluster that was restored.
    #[serde(default)]
    pub restored: Option<Restored>,
    /// Why it failed, with what to do.
    #[serde(default)]
    pub failure: Option<String>,
}

/// What a preseed came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PreseedOutcome {
    /// It was begun, and nothing has been said since.
    Begun,
    /// A source has given the cluster that is in the data directory.
    Restored,
    /// Every declared source has proven that it holds nothing of this instance.
    NothingToRestore,
    /// Not every source has proven that, and the settings allow to do without the proof.
    EmptyWithoutProof,
    /// Nothing could be restored, and the server must not start.
    Failed,
}

impl PreseedOutcome {
    /// Whether a new, empty cluster may be made.
    #[must_use]
    pub fn allows_empty_cluster(self) -> bool {
        matches!(self, Self::NothingToRestore | Self::EmptyWithoutProof)
    }
}

/// A state of `pg-preseed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PreseedStep {
    /// The sources are asked what they have.
    Asking,
    /// What a restore needs is brought to this machine, beside the data directory.
    Fetching,
    /// `backstay restore` builds the cluster beside the data directory and puts it in its place.
    Restoring,
    /// The cluster is in its place. What is left is around it: replication slots, the archive.
    Finishing,
    /// Nothing is left to do.
    Done,
}

/// What a source said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SourceAnswer {
    /// Its number in the settings, from 1 on, and its kind.
    pub source: String,
    /// What it has, or why it cannot say.
    pub answer: String,
}

/// A cluster that was restored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Restored {
    /// Its identity.
    pub system_identifier: SystemIdentifier,
    /// The timeline that it is on now, and up to where it was replayed or, for a standby, can be.
    pub reach: Reach,
    /// What the restore began with.
    pub starting_point: String,
    /// Its content, in bytes.
    pub content_bytes: u64,
    /// Whether it was left as a standby.
    pub as_standby: bool,
}

impl PreseedRecord {
    /// The version of the form that this program writes.
    pub const FORMAT: u32 = FORMAT_VERSION;

    /// A record without anything to tell yet.
    #[must_use]
    pub fn new(outcome: PreseedOutcome, step: PreseedStep, now: Timestamp) -> Self {
        Self {
            format: Self::FORMAT,
            outcome,
            step,
            begun_at: now,
            at: now,
            source: None,
            target: None,
            answers: Vec::new(),
            restored: None,
            failure: None,
        }
    }

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

/// The file whose presence asks for a base backup as soon as the server runs. `pg-base-backup` removes it
/// once it has taken one.
#[must_use]
pub fn base_backup_request(state_directory: &Path) -> PathBuf {
    state_directory.join(BASE_BACKUP_REQUEST)
}

#[cfg(test)]
mod tests {
    use wal::{Lsn, TimelineId};

    use super::*;

    #[test]
    fn what_a_preseed_came_to_is_read_as_it_was_written() {
        let state = tempfile::tempdir().unwrap();
        let mut record = PreseedRecord::new(
            PreseedOutcome::Restored,
            PreseedStep::Done,
            Timestamp::UNIX_EPOCH,
        );
        assert_eq!(PreseedRecord::read(state.path()).unwrap(), None);
        record.source = Some("1 (restic)".into());
        record.answers.push(SourceAnswer {
            source: "1 (restic)".into(),
            answer: "holds nothing of this instance".into(),
        });
        record.restored = Some(Restored {
            system_identifier: SystemIdentifier(7),
            reach: Reach {
                timeline: TimelineId::FIRST,
                lsn: Lsn(5),
            },
            starting_point: "20261121-000000".into(),
            content_bytes: 1,
            as_standby: false,
        });
        record.write(state.path()).unwrap();
        assert_eq!(PreseedRecord::read(state.path()).unwrap(), Some(record));
    }

    #[test]
    fn only_a_proof_or_the_consent_to_do_without_one_allows_an_empty_cluster() {
        let allowed = [
            (PreseedOutcome::Begun, false),
            (PreseedOutcome::Restored, false),
            (PreseedOutcome::NothingToRestore, true),
            (PreseedOutcome::EmptyWithoutProof, true),
            (PreseedOutcome::Failed, false),
        ];
        for (outcome, allows) in allowed {
            assert_eq!(outcome.allows_empty_cluster(), allows, "{outcome:?}");
        }
    }
}
