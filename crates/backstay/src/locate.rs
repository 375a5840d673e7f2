//! Finding out where in the WAL a target is, before anything is stopped.

use std::ops::ControlFlow;

use anyhow::Result;
use jiff::Timestamp;
use restore_plan::{StartingPoint, Target, TargetPosition};
use wal::{SegmentName, TimelineHistory};
use wal_scan::Segment;

use crate::instance::{Contents, Instance, Unarchived, stretch};

/// The WAL along the path to `history`'s timeline from the oldest of `points` on.
pub struct Trail<'a> {
    instance: &'a Instance,
    contents: &'a Contents,
    unarchived: &'a Unarchived,
    history: TimelineHistory,
}

impl<'a> Trail<'a> {
    /// The trail to the timeline of `history`.
    pub fn new(
        instance: &'a Instance,
        contents: &'a Contents,
        unarchived: &'a Unarchived,
        history: TimelineHistory,
    ) -> Self {
        Self {
            instance,
            contents,
            unarchived,
            history,
        }
    }

    /// The segments from the start of `point` on.
    pub fn segments_from(&self, point: &StartingPoint) -> Vec<Segment> {
        let first =
            SegmentName::containing(point.timeline, point.start, self.contents.plan.segment_size);
        stretch(self.contents, self.unarchived, &self.history, first)
    }

    /// Reads the records of `segments`.
    pub fn scan(
        &self,
        segments: &[Segment],
        record: impl FnMut(&wal_scan::WalRecord<'_>) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        wal_scan::scan(
            &self.instance.archive,
            &self.contents.cluster,
            self.instance.server.programs(),
            segments,
            record,
        )
    }

    /// Looks for a transaction's end or a restore point, in the newest stretch first.
    pub fn locate(&self, target: &Target, points: &[StartingPoint]) -> Result<TargetPosition> {
        let mut found = TargetPosition::default();
        let mut until: Option<SegmentName> = None;
        let mut points: Vec<&StartingPoint> = points
            .iter()
            .filter(|point| self.history.contains(point.timeline))
            .collect();
        points.sort_by_key(|point| std::cmp::Reverse(point.start));
        for point in points {
            let mut segments = self.segments_from(point);
            if let Some(until) = until {
                // One segment more: a record may begin in it and end in the next.
                let known = segments.iter().position(|segment| segment.name >= until);
                segments.truncate(known.map_or(segments.len(), |at| at + 1));
            }
            until = segments.first().map(|segment| segment.name).or(until);
            self.scan(&segments, |record| {
                let is_it = match target {
                    Target::Xid(xid) => {
                        record.commits().is_some() && u64::from(record.ended_transaction()) == *xid
                    }
                    Target::Name(name) => record.restore_point() == Some(name.as_str()),
                    _ => false,
                };
                if !is_it {
                    return Ok(ControlFlow::Continue(()));
                }
                found.lsn = Some(record.lsn);
                found.time = record.transaction_time();
                found.timeline = Some(self.history.timeline_at(record.lsn));
                Ok(ControlFlow::Break(()))
            })?;
            if found.lsn.is_some() {
                break;
            }
        }
        Ok(found)
    }

    /// Whether the trail has a record behind the end of `point`.
    pub fn goes_on_after(&self, point: &StartingPoint) -> Result<bool> {
        let size = self.contents.plan.segment_size;
        let mut segments = self.segments_from(point);
        segments.retain(|segment| segment.name.end(size) > point.stop);
        let mut goes_on = false;
        self.scan(&segments, |record| {
            goes_on = record.lsn >= point.stop;
            Ok(if goes_on {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        })?;
        Ok(goes_on)
    }

    /// The time of the last transaction that the trail holds, if `segments` hold any.
    ///
    /// Read from the end, one segment at a time: usually the last one has it.
    pub fn last_transaction(&self, segments: &[Segment]) -> Result<Option<Timestamp>> {
        for at in (0..segments.len()).rev() {
            // The segment before supplies the beginning of a record that crosses into this one.
            let stretch = &segments[at.saturating_sub(1)..=at];
            let mut last = None;
            self.scan(stretch, |record| {
                if record.commits().is_some() {
                    last = record.transaction_time().or(last);
                }
                Ok(ControlFlow::Continue(()))
            })?;
            if last.is_some() {
                return Ok(last);
            }
        }
        Ok(None)
    }
}
