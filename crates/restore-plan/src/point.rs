//! What a restore can begin with: backups and archived WAL.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use wal::{Lsn, SegmentName, SegmentSize, SystemIdentifier, TimelineHistory, TimelineId};

/// A state of the cluster's files from which WAL can be replayed: a good base backup.
///
/// The caller has checked that it is whole; one that failed or was not verified is no starting
/// point.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StartingPoint {
    /// Its name.
    pub id: String,
    /// The cluster it is of.
    pub system_identifier: SystemIdentifier,
    /// The timeline it is on.
    pub timeline: TimelineId,
    /// Where replay has to begin.
    pub start: Lsn,
    /// Where its files are consistent; a restore cannot stop earlier.
    pub stop: Lsn,
    /// When `stop` was reached, rounded up if at all: a target must not seem to be later than it
    /// is.
    pub stop_time: Timestamp,
    /// The PostgreSQL that wrote it.
    pub postgres_major: u32,
}

/// The WAL that an archive holds of one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiveContents {
    /// The cluster.
    pub system_identifier: SystemIdentifier,
    /// The size of its segments.
    pub segment_size: SegmentSize,
    /// Its whole segments. A `.partial` file is none: recovery never asks for it.
    pub segments: BTreeSet<SegmentName>,
    /// The histories of its timelines, by timeline. Timeline 1 has none.
    pub histories: BTreeMap<TimelineId, TimelineHistory>,
}

impl ArchiveContents {
    /// The path to `timeline`, or nothing when its history file is absent.
    pub(crate) fn history(&self, timeline: TimelineId) -> Option<TimelineHistory> {
        match self.histories.get(&timeline) {
            Some(history) => Some(history.clone()),
            None => {
                (timeline == TimelineId::FIRST).then(|| TimelineHistory::without_parents(timeline))
            }
        }
    }

    /// The path along the timeline that `point` is on.
    ///
    /// Without a history file PostgreSQL takes the timeline to have no parents
    /// (`readTimeLineHistory()`), which is enough for a backup that began on it.
    pub(crate) fn own_history(&self, point: &StartingPoint) -> TimelineHistory {
        self.history(point.timeline)
            .unwrap_or_else(|| TimelineHistory::without_parents(point.timeline))
    }

    /// Those of `points` that are of this cluster and have an extent.
    pub(crate) fn points<'a>(&self, points: &'a [StartingPoint]) -> Vec<&'a StartingPoint> {
        points
            .iter()
            .filter(|p| p.system_identifier == self.system_identifier && p.start < p.stop)
            .collect()
    }
}
