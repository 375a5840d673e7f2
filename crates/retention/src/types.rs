//! What a plan is made from, and what it says.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use wal::{Lsn, SegmentSize, SystemIdentifier, TimelineHistory, TimelineId, WalFileName};

/// What the user asked to keep. A backup that any of these rules names is kept.
///
/// Days, weeks and months are those of UTC, and the current one counts: `daily: 7` is today and
/// the six days before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Policy {
    /// For how many days back every instant can be restored.
    pub days: u32,
    /// For how many days the newest good backup of the day is kept.
    pub daily: u32,
    /// For how many ISO weeks, Monday to Sunday, the newest good backup of the week is kept.
    pub weekly: u32,
    /// For how many months the newest good backup of the month is kept.
    pub monthly: u32,
    /// How many of the newest good backups are kept whatever the other rules say. 0 is taken as 1.
    pub minimum_good: u32,
}

/// A base backup.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Backup {
    /// Its name, which no other backup has.
    pub id: String,
    /// The cluster it is of.
    pub system_identifier: SystemIdentifier,
    /// The size of that cluster's WAL segments.
    pub segment_size: SegmentSize,
    /// The timeline it is on.
    pub timeline: TimelineId,
    /// Where replay has to begin.
    pub start: Lsn,
    /// Where its files are consistent.
    pub stop: Lsn,
    /// When `stop` was reached.
    pub stop_time: Timestamp,
    /// The backup that this one is a difference to.
    pub parent: Option<String>,
    /// Whether it was completed and verified.
    pub good: bool,
    /// Whether the user asked to keep it.
    pub pinned: bool,
}

/// A snapshot of the data directory, which holds the WAL up to its own moment. Whoever made it removes
/// it, at any time; so nothing else may go because it is there.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// Its name.
    pub id: String,
    /// The cluster in it.
    pub system_identifier: SystemIdentifier,
    /// The size of that cluster's WAL segments.
    pub segment_size: SegmentSize,
    /// The timeline of its latest checkpoint.
    pub timeline: TimelineId,
    /// Where replay has to begin.
    pub redo: Lsn,
    /// Where the record of that checkpoint is. The snapshot was taken after it.
    pub checkpoint: Lsn,
    /// When that checkpoint was complete, with the fraction of the second cut off.
    pub checkpoint_time: Timestamp,
}

/// Everything there is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// The backups, in any order. One that is still being taken is left out.
    pub backups: Vec<Backup>,
    /// The files in the WAL archive, in any order, with the cluster each is of.
    pub wal: Vec<(SystemIdentifier, WalFileName)>,
    /// The snapshots, in any order.
    pub snapshots: Vec<Snapshot>,
    /// Names of snapshots that could not be read. As long as there is one, no WAL goes.
    pub unreadable_snapshots: Vec<String>,
    /// What the history files say.
    pub histories: BTreeMap<(SystemIdentifier, TimelineId), TimelineHistory>,
}

/// What to keep and what to remove, with the reasons.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// The backups to keep, oldest first.
    pub keep: Vec<Kept>,
    /// The backups to remove, in this order: an incremental backup comes before what it builds on,
    /// so that an interruption leaves no half chain.
    pub remove_backups: Vec<Removed>,
    /// The files to remove from the WAL archive, in order. To be removed after the backups, so that
    /// no backup is left without its WAL.
    pub remove_wal: Vec<(SystemIdentifier, WalFileName)>,
    /// The snapshots for which WAL is kept, oldest first.
    pub keep_wal_for: Vec<Kept>,
    /// What is kept of the WAL of each timeline, for people.
    pub keep_wal_from: Vec<KeptWal>,
}

/// A backup to keep, or a snapshot for which WAL is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Kept {
    /// Its name.
    pub id: String,
    /// Why, one phrase for each rule that keeps it; at least one.
    pub reasons: Vec<String>,
}

/// A backup to remove.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Removed {
    /// The backup.
    pub id: String,
    /// Why.
    pub reason: String,
}

/// What is kept of the WAL of one timeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KeptWal {
    /// The cluster.
    pub system_identifier: SystemIdentifier,
    /// The timeline.
    pub timeline: TimelineId,
    /// What is kept, and why: `from 000000010000000000000005 on`.
    pub text: String,
}

/// Why nothing is removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is earlier than this program.
    ClockBehind {
        /// What the clock says.
        now: Timestamp,
    },
    /// A backup ended later than now.
    BackupInFuture {
        /// The backup.
        id: String,
        /// When it ended.
        stop_time: Timestamp,
        /// What the clock says.
        now: Timestamp,
    },
    /// Something would be removed, though the newest good backup is older than the window by a
    /// month.
    NoRecentBackup {
        /// The newest good backup.
        id: String,
        /// When it ended.
        stop_time: Timestamp,
        /// What the clock says.
        now: Timestamp,
    },
    /// Two backups have the same name, so nobody can say which is meant.
    SameName {
        /// The name.
        id: String,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClockBehind { now } => {
                write!(f, "the clock says {}, which cannot be", utc(*now))
            }
            Self::BackupInFuture { id, stop_time, now } => write!(
                f,
                "backup \"{id}\" ended at {}, and the clock says {}",
                utc(*stop_time),
                utc(*now)
            ),
            Self::NoRecentBackup { id, stop_time, now } => write!(
                f,
                "the newest good backup, \"{id}\", ended at {}, and the clock says {}",
                utc(*stop_time),
                utc(*now)
            ),
            Self::SameName { id } => write!(f, "two backups have the name \"{id}\""),
        }
    }
}

impl std::error::Error for Refusal {}

impl Refusal {
    /// What to do, in one line.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::ClockBehind { .. } | Self::BackupInFuture { .. } => {
                "set the clock; nothing is removed until it is right"
            }
            Self::NoRecentBackup { .. } => {
                "set the clock if it is wrong, otherwise take a base backup; nothing is removed until then"
            }
            Self::SameName { .. } => "rename one of them",
        }
    }
}

fn utc(instant: Timestamp) -> String {
    instant.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}
