//! From when to when each starting point can be restored.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use wal::{Lsn, SegmentName, TimelineId};

use crate::path::{Missing, Path};
use crate::{ArchiveContents, StartingPoint};

/// What can be restored from one starting point along one path through the timelines.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Window {
    /// The starting point.
    pub point: String,
    /// The timeline that the path leads to.
    pub timeline: TimelineId,
    /// The first state, that at the end of the base backup.
    pub from: Lsn,
    /// When that was.
    pub from_time: Timestamp,
    /// Up to here the archived WAL is unbroken, and is that of the path.
    pub to: Lsn,
    /// Whether the WAL of the backup itself is there. If not, nothing can be restored from it.
    pub restorable: bool,
    /// What is missing between `to` and the newest archived segment on the path.
    pub missing: Missing,
    /// A segment of an older timeline that PostgreSQL would read where the path's own is missing.
    ///
    /// A recovery that is not told to stop before `to` replays it to its end, and so brings back
    /// what was abandoned at `to`, without an error.
    pub stray: Option<SegmentName>,
}

/// The windows of every starting point, oldest first: one along its own timeline, and one for each
/// other timeline that grew out of it after the backup's end.
///
/// Points of another cluster than that of `contents` are passed over. So are timelines without a
/// history file, since nobody can say where they come from.
#[must_use]
pub fn windows(points: &[StartingPoint], contents: &ArchiveContents) -> Vec<Window> {
    let mut points = contents.points(points);
    points.sort_by_key(|p| (p.stop_time, p.stop, p.timeline));
    let descendants: Vec<Path<'_>> = contents
        .histories
        .values()
        .map(|history| Path::new(history.clone(), contents))
        .collect();
    let mut windows = Vec::new();
    for point in points {
        let own = Path::new(contents.own_history(point), contents);
        let others = descendants
            .iter()
            .filter(|path| path.timeline() != point.timeline);
        for path in std::iter::once(&own).chain(others) {
            if path.passes(point) {
                windows.push(window(point, path));
            }
        }
    }
    windows
}

pub(crate) fn window(point: &StartingPoint, path: &Path<'_>) -> Window {
    let survey = path.survey(point);
    Window {
        point: point.id.clone(),
        timeline: path.timeline(),
        from: point.stop,
        from_time: point.stop_time,
        to: survey.reach,
        restorable: survey.reach >= point.stop,
        missing: survey.missing,
        stray: survey.stray,
    }
}
