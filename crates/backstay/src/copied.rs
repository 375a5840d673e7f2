//! A copy of the data directory as the beginning of a restore: where its own WAL ends, and what of that
//! the archive has not.
//!
//! PostgreSQL takes such a copy for a server that has crashed. It replays the whole of the copy's own
//! `pg_wal` before it looks into the archive, and calls the cluster consistent there and not before. So
//! the restore cannot stop earlier than where that WAL ends, which this finds out by reading it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use cluster_copy::{ClusterCopy, Files};
use jiff::{SignedDuration, Timestamp};
use restore_plan::StartingPoint;
use tool::Hinted;
use wal::{Lsn, SegmentName};

use crate::instance::{Contents, Instance, Unarchived};

/// A copy that a restore begins with.
pub struct Copied {
    /// The copy.
    pub copy: ClusterCopy,
    /// The name of the snapshot that it is in, where it was found there.
    pub snapshot: Option<String>,
    /// What it is to a plan.
    pub point: StartingPoint,
    /// Its files.
    pub files: Files,
    /// What its `pg_wal` holds from its checkpoint on, and what else of that the archive has not.
    own: Unarchived,
    /// The segment in which its WAL ends, unless it ends with that segment.
    unfinished: Option<SegmentName>,
}

/// Where the WAL of a copy ends.
struct End {
    /// Address of the last record.
    last: Lsn,
    /// The latest time in a transaction's end from the checkpoint on.
    time: Option<Timestamp>,
    /// Whether the last record is the one after which a segment stays empty.
    is_switch: bool,
}

impl Copied {
    /// Looks at the copy in `directory`.
    ///
    /// # Errors
    ///
    /// Fails as [`ClusterCopy::examine`] does, and when the copy is of another cluster or version, or
    /// lacks WAL that it needs to be consistent.
    pub fn examine(
        instance: &Instance,
        contents: &Contents,
        directory: &Path,
        tablespaces: &[(PathBuf, PathBuf)],
    ) -> Result<Self> {
        let copy = ClusterCopy::examine(directory, tablespaces)?;
        let archived = contents.plan.system_identifier;
        if copy.control.system_identifier != archived {
            return Err(Hinted::new(
                format!(
                    "\"{}\" is of cluster {}, the archive \"{}\" is of cluster {archived}",
                    directory.display(),
                    copy.control.system_identifier,
                    instance.archive.root().display()
                ),
                "name a copy of this instance's cluster",
            )
            .into());
        }
        let programs = instance.server.programs();
        let programs_major = programs.major()?;
        if programs_major != copy.major {
            return Err(other_version(copy.major, programs_major));
        }
        let size = contents.plan.segment_size;
        let timeline = copy.control.timeline;
        let redo = copy.control.redo;
        let mut own = Unarchived::all_in(directory, contents)?;
        if let Some((newer, _)) = own
            .segments
            .iter()
            .find(|(name, _)| name.timeline() > timeline)
        {
            return Err(Hinted::new(
                format!(
                    "\"{}\" was copied on timeline {timeline}, while it went over to timeline {}",
                    directory.display(),
                    newer.timeline()
                ),
                "name a copy from after the first checkpoint on the new timeline",
            )
            .into());
        }
        let first = SegmentName::containing(timeline, redo, size);
        let mut last = None;
        let mut at = Some(first);
        while let Some(name) = at
            && own.segments.iter().any(|(own, _)| *own == name)
        {
            last = Some(name);
            at = name.next(size);
        }
        let lacking = |what: String| {
            Hinted::new(
                format!(
                    "\"{}\" lacks WAL that makes it consistent: {what}",
                    directory.display()
                ),
                "a copy has to hold pg_wal as it was at the same moment; take another one, or restore from a base backup",
            )
        };
        let last = last.ok_or_else(|| lacking(format!("segment \"{first}\" is missing")))?;
        let end = end_of_wal(instance, &copy, first, last, contents)?
            .filter(|end| end.last >= copy.control.checkpoint)
            .ok_or_else(|| {
                lacking(format!(
                    "it ends before the checkpoint at {}",
                    copy.control.checkpoint
                ))
            })?;
        let holds_end = SegmentName::containing(timeline, end.last, size);
        let archived = &contents.plan;
        own.segments.retain(|(name, _)| {
            (*name >= first && *name <= last) || !archived.segments.contains(name)
        });
        let wal: BTreeSet<PathBuf> = own
            .segments
            .iter()
            .map(|(_, path)| path)
            .chain(own.histories.iter().map(|(_, path)| path))
            .filter_map(|path| path.file_name().map(PathBuf::from))
            .chain([PathBuf::from("archive_status")])
            .collect();
        let files = copy.files(&wal)?;
        let point = StartingPoint {
            id: directory.display().to_string(),
            system_identifier: copy.control.system_identifier,
            timeline,
            start: redo,
            // Replay can stop after the next record, wherever that begins.
            stop: Lsn(end.last.0 + 1),
            stop_time: match end.time {
                Some(time) => time,
                // Without a transaction since the checkpoint, all of them are from before it.
                None => after_checkpoint(&copy)?,
            },
            postgres_major: copy.major,
        };
        Ok(Self {
            copy,
            snapshot: None,
            point,
            files,
            own,
            unfinished: (!end.is_switch).then_some(holds_end),
        })
    }

    /// Counts the WAL of the copy among what there is, for a plan, and adds what only the copy has to
    /// `unarchived`, for reading.
    pub fn add_to(&self, contents: &mut Contents, unarchived: &mut Unarchived) {
        let size = contents.plan.segment_size;
        let mut own = self.own.clone();
        // Half a segment leads nowhere if the WAL goes on in the next: counted, it would hide the gap.
        if let Some(unfinished) = self.unfinished
            && let Some(next) = unfinished.next(size)
            && contents.plan.segments.contains(&next)
        {
            own.segments.retain(|(name, _)| *name != unfinished);
        }
        own.segments
            .retain(|(name, _)| !contents.plan.segments.contains(name));
        own.histories
            .retain(|(history, _)| !contents.plan.histories.contains_key(&history.timeline));
        own.add_to(contents);
        unarchived.add_missing(own);
    }
}

/// Says that the server's programs cannot read a copy or a backup.
pub fn other_version(found: u32, programs: u32) -> anyhow::Error {
    Hinted::new(
        format!("the files are of PostgreSQL {found}, the programs are of PostgreSQL {programs}"),
        "set postgresql.binDirectory to the programs of the files' version; nothing was changed",
    )
    .into()
}

/// Reads the WAL of the copy to its end. Nothing when there is no record in it.
fn end_of_wal(
    instance: &Instance,
    copy: &ClusterCopy,
    first: SegmentName,
    last: SegmentName,
    contents: &Contents,
) -> Result<Option<End>> {
    let mut end: Option<End> = None;
    wal_scan::scan_directory(
        instance.server.programs(),
        &copy.wal_directory(),
        first,
        last,
        contents.plan.segment_size,
        |record| {
            if record.lsn < copy.control.redo {
                return Ok(());
            }
            let ended = record.commits().and_then(|_| record.transaction_time());
            end = Some(End {
                last: record.lsn,
                time: end.as_ref().and_then(|end| end.time).max(ended),
                is_switch: record.manager == "XLOG" && record.description.starts_with("SWITCH"),
            });
            Ok(())
        },
    )
    .with_context(|| format!("read the WAL of \"{}\"", copy.directory.display()))?;
    Ok(end)
}

/// A moment that is not before any transaction from before the checkpoint.
fn after_checkpoint(copy: &ClusterCopy) -> Result<Timestamp> {
    // The file is written once the checkpoint is complete; its time has no fraction.
    Timestamp::from_second(copy.control.written_seconds)
        .and_then(|time| time.checked_add(SignedDuration::from_secs(1)))
        .map_err(|err| {
            anyhow!(
                "read the time in pg_control of \"{}\": {err}",
                copy.directory.display()
            )
        })
}
