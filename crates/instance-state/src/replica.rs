//! What a replica holds.

use std::path::{Path, PathBuf};

use anyhow::Result;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use settings::ReplicaContent;

use crate::{FORMAT_VERSION, read, write};

/// What a replica said of itself when it was asked last, as `pg-replica` has written it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReplicaRecord {
    /// Version of this form.
    pub format: u32,
    /// When it was asked.
    pub asked_at: Timestamp,
    /// The dataset there.
    pub dataset: String,
    /// Its newest snapshot. Nothing if it has none, or is not there.
    pub newest: Option<ReplicaSnapshot>,
}

/// A snapshot of a replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReplicaSnapshot {
    /// Its name, without that of the dataset.
    pub name: String,
    /// When it was taken on the source.
    pub created_at: Timestamp,
}

impl ReplicaRecord {
    /// The version of the form that this program writes.
    pub const FORMAT: u32 = FORMAT_VERSION;

    /// Where the record is in the state directory.
    #[must_use]
    pub fn path(state_directory: &Path, content: ReplicaContent) -> PathBuf {
        state_directory.join(format!("replica-{}.json", content.name()))
    }

    /// Reads the record, if there is one.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be read or is of another form.
    pub fn read(state_directory: &Path, content: ReplicaContent) -> Result<Option<Self>> {
        read(&Self::path(state_directory, content), |record: &Self| {
            record.format
        })
    }

    /// Writes the record, durably, in the place of the last one.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be written; the old one stays then.
    pub fn write(&self, state_directory: &Path, content: ReplicaContent) -> Result<()> {
        write(&Self::path(state_directory, content), self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_of_one_replica_is_read_of_that_one() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path();
        let record = ReplicaRecord {
            format: ReplicaRecord::FORMAT,
            asked_at: Timestamp::from_second(1_000).unwrap(),
            dataset: "vault/main".into(),
            newest: Some(ReplicaSnapshot {
                name: "hourly".into(),
                created_at: Timestamp::from_second(900).unwrap(),
            }),
        };
        record.write(state, ReplicaContent::Data).unwrap();
        assert_eq!(
            ReplicaRecord::read(state, ReplicaContent::Data).unwrap(),
            Some(record)
        );
        assert_eq!(
            ReplicaRecord::read(state, ReplicaContent::Wal).unwrap(),
            None
        );
    }
}
