//! What `pg-drill` came to.

use std::path::{Path, PathBuf};

use anyhow::Result;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use settings::DrillSource;
use wal::Lsn;

use crate::{FORMAT_VERSION, read, write};

/// Name of the record of the last drill.
const DRILL: &str = "restore-drill.json";

/// What `pg-drill` came to at its last run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DrillRecord {
    /// Version of this form.
    pub format: u32,
    /// When the drill began.
    pub started_at: Timestamp,
    /// When it had ended and cleaned up.
    pub finished_at: Timestamp,
    /// What was restored from.
    pub source: DrillSource,
    /// Why it failed, if it did.
    pub failure: Option<DrillFailure>,
    /// What it found out, as far as it came.
    pub findings: DrillFindings,
    /// When the last drill that succeeded had ended. This one, if it did.
    pub last_success_at: Option<Timestamp>,
}

/// Why a drill failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DrillFailure {
    /// The kind of reason.
    pub reason: DrillReason,
    /// What happened.
    pub message: String,
    /// What a person can do about it.
    pub hint: Option<String>,
}

/// What a drill found out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DrillFindings {
    /// The moment that was restored, as `backstay restore --to` takes it.
    pub target: Option<String>,
    /// The base backup that the restore began with.
    pub base_backup: Option<String>,
    /// Where the recovery ended.
    pub ended_at: Option<Lsn>,
    /// How many archived WAL files were compared with their hashes.
    pub wal_files_verified: Option<u64>,
    /// Length of the files of the base backup, in bytes.
    pub restored_bytes: Option<u64>,
    /// Time from the start of the restore until the copy answered, in seconds.
    pub recovery_seconds: Option<f64>,
    /// Whether the checksums of all data pages were right. Nothing if they were not looked at.
    pub checksums_are_right: Option<bool>,
    /// How many databases answered.
    pub databases: Option<u64>,
    /// How many of the declared questions were answered as expected.
    pub checks: Option<u64>,
    /// The last canary of the copy, which is the last one before the target.
    pub canary: Option<i64>,
    /// Whether `pg_amcheck` found tables and indexes sound. Nothing if they were not looked at.
    pub relations_are_sound: Option<bool>,
    /// What was not looked at, and why.
    pub notes: Vec<String>,
}

/// The kinds of reasons for which a drill fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum DrillReason {
    /// There is no restorable window.
    NothingToRestore,
    /// The copy would not fit, or did not.
    NoSpace,
    /// An archived WAL file is not what was archived.
    DamagedWal,
    /// The WAL between a base backup and the newest archived file has a gap.
    MissingWal,
    /// A base backup is not what its manifest says.
    DamagedBaseBackup,
    /// The source could not be reached, or refused.
    SourceFailed,
    /// The restore failed for another reason.
    RestoreFailed,
    /// The restored cluster does not start.
    DoesNotStart,
    /// A page of the restored cluster has a wrong checksum.
    WrongChecksum,
    /// A database of the restored cluster cannot be read.
    DatabaseDoesNotAnswer,
    /// The recovery ended at another transaction than the target asks for.
    NotAccurate,
    /// A declared question was answered otherwise than expected.
    CheckFailed,
    /// `pg_amcheck` found a table or an index that is not sound.
    DamagedRelation,
    /// The drill was not done within the declared time.
    Deadline,
    /// Somebody ended the drill.
    Interrupted,
    /// Something in the way of the drill itself.
    NotPossible,
}

impl DrillReason {
    /// The reason as a label of a metric, the same word as in the record.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::NothingToRestore => "nothingToRestore",
            Self::NoSpace => "noSpace",
            Self::DamagedWal => "damagedWal",
            Self::MissingWal => "missingWal",
            Self::DamagedBaseBackup => "damagedBaseBackup",
            Self::SourceFailed => "sourceFailed",
            Self::RestoreFailed => "restoreFailed",
            Self::DoesNotStart => "doesNotStart",
            Self::WrongChecksum => "wrongChecksum",
            Self::DatabaseDoesNotAnswer => "databaseDoesNotAnswer",
            Self::NotAccurate => "notAccurate",
            Self::CheckFailed => "checkFailed",
            Self::DamagedRelation => "damagedRelation",
            Self::Deadline => "deadline",
            Self::Interrupted => "interrupted",
            Self::NotPossible => "notPossible",
        }
    }
}

impl DrillRecord {
    /// The version of the form that this program writes.
    pub const FORMAT: u32 = FORMAT_VERSION;

    /// Where the record is in the state directory.
    #[must_use]
    pub fn path(state_directory: &Path) -> PathBuf {
        state_directory.join(DRILL)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_one_word_in_the_record_and_in_the_metrics() {
        use DrillReason as R;
        for reason in [
            R::NothingToRestore,
            R::NoSpace,
            R::DamagedWal,
            R::MissingWal,
            R::DamagedBaseBackup,
            R::SourceFailed,
            R::RestoreFailed,
            R::DoesNotStart,
            R::WrongChecksum,
            R::DatabaseDoesNotAnswer,
            R::NotAccurate,
            R::CheckFailed,
            R::DamagedRelation,
            R::Deadline,
            R::Interrupted,
            R::NotPossible,
        ] {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.label());
        }
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(DrillRecord::read(state.path()).unwrap(), None);
        let record = DrillRecord {
            format: DrillRecord::FORMAT,
            started_at: "2026-10-11T02:00:00Z".parse().unwrap(),
            finished_at: "2026-10-11T02:10:00Z".parse().unwrap(),
            source: DrillSource::Restic,
            failure: Some(DrillFailure {
                reason: DrillReason::NoSpace,
                message: "it is full".into(),
                hint: None,
            }),
            findings: DrillFindings {
                ended_at: Some(Lsn(0x200_0028)),
                recovery_seconds: Some(1.5),
                ..DrillFindings::default()
            },
            last_success_at: None,
        };
        record.write(state.path()).unwrap();
        assert_eq!(DrillRecord::read(state.path()).unwrap(), Some(record));
    }
}
