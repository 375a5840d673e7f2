//! Which segments a recovery reads.

use std::fmt;

use crate::{Lsn, SegmentName, SegmentSize, TimelineHistory, TimelineId};

/// The segments that a recovery along `history` reads, from the start of a backup to `end`, in the
/// order it reads them.
///
/// `start` is the timeline and the address at which the backup began. `end` is the first address
/// that need not be read: when it is the start of a segment, the segment before is the last one.
///
/// A segment in which the path changes timelines exists on both sides of the change: the new
/// timeline's file begins with a copy of the old one's. PostgreSQL takes the file of the newer
/// timeline. Here that file is listed when the recovery goes past the change, and the older one
/// when it ends before or at it, since then either would do; see [`substitutes`].
///
/// Every listed file matters. Where the newer timeline's file is absent, PostgreSQL takes the older
/// one, if it is there, and replays it to its end, past the change: what was abandoned there is back,
/// without an error. Seen with 15.20.
///
/// # Errors
///
/// Fails with [`NotReachable`] when the path does not lead through `start`, or `end` is before it.
///
/// # Source
///
/// `XLogFileReadAnyTLI()` in `xlogrecovery.c`: timelines are tried newest first, passing over those
/// that begin in a later segment, and never one older than that of the segment before. Followed
/// with 15.20 over four timelines.
pub fn segments_needed(
    history: &TimelineHistory,
    start: (TimelineId, Lsn),
    end: Lsn,
    size: SegmentSize,
) -> Result<Vec<SegmentName>, NotReachable> {
    let (timeline, start) = start;
    // StartupXLOG() refuses to begin recovery on the same condition.
    if history.timeline_at(start) != timeline {
        return Err(match history.switch_point_of(timeline) {
            Some(switch_point) if start >= switch_point => NotReachable::LeftBefore {
                timeline,
                start,
                target: history.timeline,
                switch_point,
            },
            _ => NotReachable::NotInHistory {
                timeline,
                start,
                target: history.timeline,
            },
        });
    }
    if end < start {
        return Err(NotReachable::EndBeforeStart { start, end });
    }
    let Some(last_byte) = end.checked_sub(1).filter(|last| *last >= start) else {
        return Ok(Vec::new());
    };
    let first = start.0 / size.bytes();
    let last = last_byte.0 / size.bytes();
    let segment = |number: u64| {
        let last_byte_in_segment = number
            .saturating_mul(size.bytes())
            .saturating_add(size.bytes() - 1);
        let read_up_to = Lsn(last_byte_in_segment.min(last_byte.0));
        SegmentName::containing(history.timeline_at(read_up_to), read_up_to, size)
    };
    Ok((first..=last).map(segment).collect())
}

/// The files that PostgreSQL would rather read than `segment` on the way along `history`, newest
/// timeline first.
///
/// They are those of newer timelines that begin inside the segment, and hold the same WAL up to
/// there. A segment that [`segments_needed`] lists may be absent as long as one of these is
/// present. That is usual after a promotion: the old timeline's last segment is archived as
/// `.partial`, which recovery never asks for.
#[must_use]
pub fn substitutes(
    history: &TimelineHistory,
    segment: SegmentName,
    size: SegmentSize,
) -> Vec<SegmentName> {
    let end = segment.end(size);
    history
        .timelines()
        .rev()
        .take_while(|timeline| *timeline > segment.timeline())
        .filter(|timeline| history.begin_of(*timeline).is_some_and(|begin| begin < end))
        .map(|timeline| segment.with_timeline(timeline))
        .collect()
}

/// Why a recovery cannot go from a backup to where it should end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NotReachable {
    /// The target timeline did not grow out of the backup's, or not out of that part of it.
    NotInHistory {
        /// The timeline of the backup.
        timeline: TimelineId,
        /// Where the backup starts.
        start: Lsn,
        /// The timeline that recovery follows.
        target: TimelineId,
    },
    /// The target timeline left the backup's before the backup started.
    LeftBefore {
        /// The timeline of the backup.
        timeline: TimelineId,
        /// Where the backup starts.
        start: Lsn,
        /// The timeline that recovery follows.
        target: TimelineId,
        /// Where the path to it leaves the backup's timeline.
        switch_point: Lsn,
    },
    /// The end is before the start.
    EndBeforeStart {
        /// Where the backup starts.
        start: Lsn,
        /// Where recovery should end.
        end: Lsn,
    },
}

impl fmt::Display for NotReachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotInHistory {
                timeline,
                start,
                target,
            } => write!(
                f,
                "timeline {target} does not lead through {start} on timeline {timeline}"
            ),
            Self::LeftBefore {
                timeline,
                start,
                target,
                switch_point,
            } => write!(
                f,
                "timeline {target} left timeline {timeline} at {switch_point}, before {start}"
            ),
            Self::EndBeforeStart { start, end } => write!(f, "{end} is before {start}"),
        }
    }
}

impl std::error::Error for NotReachable {}

#[cfg(test)]
mod tests;
