//! The `.backup` file that a base backup leaves in the WAL archive when it ends.

use serde::{Deserialize, Serialize};

use crate::backup_label::{BackupFrom, Common, IncrementalFrom, read_incremental};
use crate::label_lines::Lines;
use crate::{Lsn, SegmentName, TimelineId};

pub use crate::label_lines::LabelError;

/// What a backup history file says: from where to where the backup needs WAL.
///
/// # Source
///
/// `build_backup_content()` in `xlogbackup.c`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupHistory {
    /// Where replay has to begin.
    pub start: Lsn,
    /// The segment that holds `start`.
    pub start_segment: SegmentName,
    /// Where the backup is consistent; replay has to reach it.
    pub stop: Lsn,
    /// The segment that holds `stop`. When `stop` is the first byte of a segment, the segment
    /// before it is the last one that is needed.
    pub stop_segment: SegmentName,
    /// Where the record of the backup's checkpoint is.
    pub checkpoint: Lsn,
    /// How the backup was taken, `streamed`.
    pub method: String,
    /// What it was taken from.
    pub from: BackupFrom,
    /// When it began, for people; see [`BackupLabel::start_time`](crate::BackupLabel::start_time).
    pub start_time: String,
    /// The name its taker gave it. May hold newlines.
    pub label: String,
    /// The timeline on which it began.
    pub start_timeline: TimelineId,
    /// When it ended, for people.
    pub stop_time: String,
    /// The timeline on which it ended: that on which it began, unless it was taken from a standby
    /// whose primary changed timelines.
    pub stop_timeline: TimelineId,
    /// The backup that this one is a difference to; only from PostgreSQL 17 on.
    pub incremental_from: Option<IncrementalFrom>,
}

impl BackupHistory {
    /// Reads the text of a backup history file.
    ///
    /// # Errors
    ///
    /// Fails when a line is missing, out of order, cut short or of another form than PostgreSQL 13
    /// to 18 write.
    pub fn parse(text: &str) -> Result<Self, LabelError> {
        let mut lines = Lines::new(text)?;
        let (start, start_segment) = lines.location("START WAL LOCATION")?;
        let (stop, stop_segment) = lines.location("STOP WAL LOCATION")?;
        let common = Common::parse(&mut lines)?;
        let label = lines.label_before("START TIMELINE")?.to_owned();
        let start_timeline = lines.timeline("START TIMELINE")?;
        let stop_time = lines.value("STOP TIME")?.to_owned();
        let stop_timeline = lines.timeline("STOP TIMELINE")?;
        let incremental_from = read_incremental(&mut lines)?;
        lines.end()?;
        Ok(Self {
            start,
            start_segment,
            stop,
            stop_segment,
            checkpoint: common.checkpoint,
            method: common.method,
            from: common.from,
            start_time: common.start_time,
            label,
            start_timeline,
            stop_time,
            stop_timeline,
            incremental_from,
        })
    }
}
