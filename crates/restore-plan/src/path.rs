//! The archived WAL as one recovery would read it: segment after segment along one history.

use serde::{Deserialize, Serialize};
use wal::{Lsn, SegmentName, SegmentSize, TimelineHistory, TimelineId};

use crate::{ArchiveContents, StartingPoint};

/// Segments that are not in the archive although it has later ones.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Missing {
    /// Their names in order, the first thousand if there are more.
    pub segments: Vec<SegmentName>,
    /// How many there are.
    pub count: u64,
}

impl Missing {
    /// Enough to see what happened. Two segments that are far apart could have 2^44 between them.
    const LISTED: usize = 1000;

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// The archived WAL along one history.
pub(crate) struct Path<'a> {
    pub(crate) history: TimelineHistory,
    contents: &'a ArchiveContents,
    /// Numbers of the segments that are there, first and last of each unbroken run, in order.
    runs: Vec<(u64, u64)>,
}

/// What a recovery finds that begins at one starting point and follows one path.
pub(crate) struct Survey {
    /// The WAL is there, and is that of the path, from the start up to here.
    pub(crate) reach: Lsn,
    /// The segment that is not there at `reach`.
    pub(crate) absent: SegmentName,
    /// The segment before it, if the recovery needs that one.
    pub(crate) before_absent: Option<SegmentName>,
    /// A file that PostgreSQL would read in place of `absent`, and that leads away from the path.
    pub(crate) stray: Option<SegmentName>,
    /// What is missing between `reach` and the newest segment on the path.
    pub(crate) missing: Missing,
    /// The first segment after that gap, if there is one, and how many are missing before it.
    pub(crate) after_absent: Option<(SegmentName, u64)>,
}

impl<'a> Path<'a> {
    pub(crate) fn new(history: TimelineHistory, contents: &'a ArchiveContents) -> Self {
        let size = contents.segment_size;
        let mut numbers: Vec<u64> = contents
            .segments
            .iter()
            .filter_map(|segment| {
                let number = segment.number(size).ok()?;
                (required(&history, number, size) == *segment).then_some(number)
            })
            .collect();
        numbers.sort_unstable();
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for number in numbers {
            match runs.last_mut() {
                Some((_, last)) if *last + 1 == number => *last = number,
                _ => runs.push((number, number)),
            }
        }
        Self {
            history,
            contents,
            runs,
        }
    }

    fn size(&self) -> SegmentSize {
        self.contents.segment_size
    }

    /// Whether `point` lies on this path, from its start to its stop.
    pub(crate) fn passes(&self, point: &StartingPoint) -> bool {
        let on_timeline = |lsn| self.history.timeline_at(lsn) == point.timeline;
        on_timeline(point.start) && point.stop.checked_sub(1).is_some_and(on_timeline)
    }

    /// Follows the WAL from the start of `point`, which has to lie on this path.
    pub(crate) fn survey(&self, point: &StartingPoint) -> Survey {
        let size = self.size();
        let first = point.start.0 / size.bytes();
        let run = self.runs.iter().find(|(_, last)| *last >= first);
        let (mut reach, next) = match run {
            Some((begin, last)) if *begin <= first => (segment_end(*last, size), last + 1),
            _ => (point.start, first),
        };
        let absent = required(&self.history, next, size);
        let before = (next > first).then(|| required(&self.history, next - 1, size));

        // XLogFileReadAnyTLI() goes on to the older timelines, down to that of the segment before,
        // and takes what it finds. Up to where the path leaves that timeline this is the same WAL;
        // past it, replay carries on along the branch that was abandoned, without a word. Seen with
        // 15.20.
        let stray = self
            .history
            .timelines()
            .rev()
            .filter(|older| *older < absent.timeline())
            .take_while(|older| before.is_none_or(|before| *older >= before.timeline()))
            .filter(|older| {
                let begin = self.history.begin_of(*older);
                begin.is_some_and(|begin| begin.0 / size.bytes() <= next)
            })
            .map(|older| absent.with_timeline(older))
            .find(|file| self.contents.segments.contains(file))
            .map(|file| (file, self.history.switch_point_of(file.timeline())))
            // Where nothing of the file is of the path, the checkpoint of the backup is not in it,
            // and PostgreSQL stops with an error before it replays anything.
            .filter(|(_, left)| next > first || left.is_some_and(|left| left > point.start));
        if let Some((_, Some(left))) = stray {
            reach = reach.max(left);
        }
        let stray = stray.map(|(file, _)| file);

        let mut missing = Missing::default();
        let mut after_absent = None;
        let mut from = next;
        for (begin, last) in self.runs.iter().filter(|(begin, _)| *begin >= next) {
            missing.count += begin - from;
            let after = || (required(&self.history, *begin, size), begin - from);
            after_absent = after_absent.or_else(|| Some(after()));
            let room = Missing::LISTED - missing.segments.len();
            let names = (from..*begin).take(room);
            missing
                .segments
                .extend(names.map(|number| required(&self.history, number, size)));
            from = last + 1;
        }
        Survey {
            reach,
            absent,
            before_absent: before,
            stray,
            missing,
            after_absent,
        }
    }

    /// The files a recovery from `point` to `end` reads, given that the WAL is there up to `end`.
    pub(crate) fn files(&self, point: &StartingPoint, end: Lsn) -> Vec<SegmentName> {
        let size = self.size();
        let needed = wal::segments_needed(&self.history, (point.timeline, point.start), end, size);
        needed
            .unwrap_or_default()
            .into_iter()
            .map(|segment| {
                let newer = wal::needed::substitutes(&self.history, segment, size);
                let mut files = newer.into_iter().chain([segment]);
                files
                    .find(|file| self.contents.segments.contains(file))
                    .unwrap_or(segment)
            })
            .collect()
    }

    /// The lowest address at which this path and `other` are on different timelines.
    pub(crate) fn parts_from(&self, other: &Path<'_>) -> Option<Lsn> {
        let begins = |path: &Path<'_>| -> Vec<Lsn> {
            let timelines = path.history.timelines();
            timelines
                .filter_map(|timeline| path.history.begin_of(timeline))
                .collect()
        };
        let mut places = begins(self);
        places.extend(begins(other));
        places
            .into_iter()
            .filter(|lsn| self.history.timeline_at(*lsn) != other.history.timeline_at(*lsn))
            .min()
    }

    pub(crate) fn timeline(&self) -> TimelineId {
        self.history.timeline
    }
}

/// The file that holds the whole of segment `number` as this history has it.
fn required(history: &TimelineHistory, number: u64, size: SegmentSize) -> SegmentName {
    let last_byte = Lsn(segment_end(number, size).0 - 1);
    SegmentName::containing(history.timeline_at(last_byte), last_byte, size)
}

fn segment_end(number: u64, size: SegmentSize) -> Lsn {
    Lsn(number.saturating_add(1).saturating_mul(size.bytes()))
}
