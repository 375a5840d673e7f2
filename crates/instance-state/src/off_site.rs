//! What a copy off-site holds.

use std::path::{Path, PathBuf};

use anyhow::Result;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use settings::ResticContent;
use wal::{Lsn, SystemIdentifier, TimelineId};

use crate::{FORMAT_VERSION, read, write};

/// What the last copy into one restic repository that succeeded holds, as `pg-off-site` has written it.
///
/// It is what was there when the copy began, so the copy holds at least this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OffSiteRecord {
    /// Version of this form.
    pub format: u32,
    /// When the copy began.
    pub began_at: Timestamp,
    /// When it had ended well. Nothing while it is still being made.
    pub finished_at: Option<Timestamp>,
    /// What it holds.
    pub holds: OffSiteHoldings,
}

/// What a copy holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, tag = "content")]
pub enum OffSiteHoldings {
    /// The WAL archive.
    #[serde(rename_all = "camelCase")]
    Wal {
        /// The cluster that archived last.
        system_identifier: SystemIdentifier,
        /// Its newest timeline in the archive. Nothing if it has archived no segment yet.
        timeline: Option<TimelineId>,
        /// Where the WAL of that timeline ends.
        end: Option<Lsn>,
    },
    /// The base backups.
    #[serde(rename_all = "camelCase")]
    Base {
        /// The newest one. Nothing if there is none.
        newest: Option<String>,
        /// When that one ended.
        newest_stopped_at: Option<Timestamp>,
    },
}

impl OffSiteHoldings {
    /// What was copied.
    #[must_use]
    pub fn content(&self) -> ResticContent {
        match self {
            Self::Wal { .. } => ResticContent::Wal,
            Self::Base { .. } => ResticContent::Base,
        }
    }
}

impl OffSiteRecord {
    /// The version of the form that this program writes.
    pub const FORMAT: u32 = FORMAT_VERSION;

    /// Where the record of the last copy of `content` into `repository` is in the state directory.
    #[must_use]
    pub fn path(state_directory: &Path, repository: &str, content: ResticContent) -> PathBuf {
        state_directory.join(format!("off-site-{}-{repository}.json", content.name()))
    }

    /// Where the record of a copy is that has not ended.
    fn begun_path(state_directory: &Path, repository: &str, content: ResticContent) -> PathBuf {
        state_directory.join(format!("off-site-{}-{repository}.begun", content.name()))
    }

    /// Reads the record of the last copy that succeeded, if there is one.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be read or is of another form.
    pub fn read(
        state_directory: &Path,
        repository: &str,
        content: ResticContent,
    ) -> Result<Option<Self>> {
        read(
            &Self::path(state_directory, repository, content),
            |record: &Self| record.format,
        )
    }

    /// Reads the record of the copy that began last, if there is one.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be read or is of another form.
    pub fn read_begun(
        state_directory: &Path,
        repository: &str,
        content: ResticContent,
    ) -> Result<Option<Self>> {
        read(
            &Self::begun_path(state_directory, repository, content),
            |record: &Self| record.format,
        )
    }

    /// Writes the record, durably: that of a copy that has ended in the place of the last one, and that of
    /// a copy that has begun beside it.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be written; the old one stays then.
    pub fn write(&self, state_directory: &Path, repository: &str) -> Result<()> {
        let content = self.holds.content();
        let path = if self.finished_at.is_some() {
            Self::path(state_directory, repository, content)
        } else {
            Self::begun_path(state_directory, repository, content)
        };
        write(&path, self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_that_has_not_ended_takes_the_place_of_none() {
        let state = tempfile::tempdir().unwrap();
        let state = state.path();
        let wal = ResticContent::Wal;
        let mut record = OffSiteRecord {
            format: OffSiteRecord::FORMAT,
            began_at: "2026-10-11T02:00:00Z".parse().unwrap(),
            finished_at: Some("2026-10-11T02:00:09Z".parse().unwrap()),
            holds: OffSiteHoldings::Wal {
                system_identifier: SystemIdentifier(7_710_581_305_782_851_992),
                timeline: TimelineId::new(2),
                end: Some(Lsn(0x300_0000)),
            },
        };
        assert_eq!(OffSiteRecord::read(state, "nas", wal).unwrap(), None);
        record.write(state, "nas").unwrap();
        let ended = record.clone();
        record.finished_at = None;
        record.began_at = "2026-10-11T02:05:00Z".parse().unwrap();
        record.write(state, "nas").unwrap();
        assert_eq!(OffSiteRecord::read(state, "nas", wal).unwrap(), Some(ended));
        assert_eq!(
            OffSiteRecord::read_begun(state, "nas", wal).unwrap(),
            Some(record)
        );
        for (repository, content) in [("nas", ResticContent::Base), ("other", wal)] {
            assert_eq!(
                OffSiteRecord::read(state, repository, content).unwrap(),
                None
            );
        }
    }
}
