//! `backup_label`, which tells PostgreSQL where to begin replaying a base backup.

use serde::{Deserialize, Serialize};

use crate::label_lines::Lines;
use crate::{Lsn, SegmentName, TimelineId};

pub use crate::label_lines::LabelError;

/// What `backup_label` at the root of a base backup says.
///
/// # Source
///
/// `build_backup_content()` in `xlogbackup.c` writes it, `read_backup_label()` in `xlogrecovery.c`
/// reads it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupLabel {
    /// Where replay has to begin.
    pub start: Lsn,
    /// The segment that holds `start`, on the timeline of the backup.
    pub start_segment: SegmentName,
    /// Where the record of the backup's checkpoint is.
    pub checkpoint: Lsn,
    /// How the backup was taken: `streamed`, or `pg_start_backup` for an exclusive one before
    /// PostgreSQL 15.
    pub method: String,
    /// What it was taken from.
    pub from: BackupFrom,
    /// When it began, to the second and in the time zone of the server's log: `2026-11-21 11:13:28
    /// UTC`. The zone may be an abbreviation that means different things in different places, so
    /// this is for people.
    pub start_time: String,
    /// The name its taker gave it. May hold newlines.
    pub label: String,
    /// The timeline on which it began.
    pub start_timeline: TimelineId,
    /// The backup that this one is a difference to; only from PostgreSQL 17 on.
    pub incremental_from: Option<IncrementalFrom>,
}

/// The kind of server that a backup was taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum BackupFrom {
    /// One that accepted writes.
    Primary,
    /// One that was replaying WAL.
    Standby,
}

/// The start of the backup that an incremental one builds on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IncrementalFrom {
    /// Where the earlier backup began.
    pub lsn: Lsn,
    /// On which timeline.
    pub timeline: TimelineId,
}

impl BackupLabel {
    /// Reads the text of a `backup_label`.
    ///
    /// # Errors
    ///
    /// Fails when a line is missing, out of order, cut short or of another form than PostgreSQL 13
    /// to 18 write.
    pub fn parse(text: &str) -> Result<Self, LabelError> {
        let mut lines = Lines::new(text)?;
        let (start, start_segment) = lines.location("START WAL LOCATION")?;
        let common = Common::parse(&mut lines)?;
        let label = lines.label_before("START TIMELINE")?.to_owned();
        let start_timeline = lines.timeline("START TIMELINE")?;
        let incremental_from = read_incremental(&mut lines)?;
        lines.end()?;
        Ok(Self {
            start,
            start_segment,
            checkpoint: common.checkpoint,
            method: common.method,
            from: common.from,
            start_time: common.start_time,
            label,
            start_timeline,
            incremental_from,
        })
    }
}

/// The four lines in the middle, which both kinds of file have.
pub(crate) struct Common {
    pub(crate) checkpoint: Lsn,
    pub(crate) method: String,
    pub(crate) from: BackupFrom,
    pub(crate) start_time: String,
}

impl Common {
    pub(crate) fn parse(lines: &mut Lines<'_>) -> Result<Self, LabelError> {
        Ok(Self {
            checkpoint: lines.lsn("CHECKPOINT LOCATION")?,
            method: lines.value("BACKUP METHOD")?.to_owned(),
            from: match lines.value("BACKUP FROM")? {
                // Called "master" before PostgreSQL 14.
                "primary" | "master" => BackupFrom::Primary,
                "standby" => BackupFrom::Standby,
                _ => return Err(LabelError::Value { key: "BACKUP FROM" }),
            },
            start_time: lines.value("START TIME")?.to_owned(),
        })
    }
}

pub(crate) fn read_incremental(
    lines: &mut Lines<'_>,
) -> Result<Option<IncrementalFrom>, LabelError> {
    Ok(lines
        .incremental()?
        .map(|(lsn, timeline)| IncrementalFrom { lsn, timeline }))
}
