//! `backstay windows`: from when to when a restore can reach, and what is missing.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Result;
use cluster_copy::snapshots::{self, Snapshot};
use jiff::Timestamp;
use restore_plan::{Missing, StartingPoint, Window};
use serde::Serialize;
use wal::{Lsn, TimelineHistory, TimelineId};

use crate::instance::{Contents, Instance, Unarchived, starting_points};
use crate::locate::Trail;

/// A window with the time of its end.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Shown {
    /// The window.
    #[serde(flatten)]
    pub window: Window,
    /// Time of the last transaction in the window; nothing where it holds none.
    pub to_time: Option<Timestamp>,
}

/// A snapshot of the data directory, with which a restore to any moment after it can begin.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownSnapshot {
    /// Its name, what stands after the `@`.
    name: String,
    /// Its timeline.
    timeline: TimelineId,
    /// Where its last checkpoint is.
    checkpoint: Lsn,
    /// When that was, to the second.
    checkpoint_time: Option<Timestamp>,
}

/// Everything that a restore can begin with.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Everything {
    /// Oldest base backup first.
    windows: Vec<Shown>,
    /// The one with the oldest WAL first.
    snapshots: Vec<ShownSnapshot>,
}

pub fn show(instance: &Instance, json: bool) -> Result<()> {
    let data = &instance.settings.postgresql.data_directory;
    let identifier = instance.archive.newest_cluster()?.system_identifier;
    let snapshots = snapshots::all(data, identifier)?;
    // Who has snapshots can do without base backups.
    let shown = if instance.settings.base_backup.is_none() && !snapshots.is_empty() {
        Vec::new()
    } else {
        collect(instance)?
    };
    if json {
        let everything = Everything {
            windows: shown,
            snapshots: snapshots
                .into_iter()
                .map(|snapshot| ShownSnapshot {
                    timeline: snapshot.control.timeline,
                    checkpoint: snapshot.control.checkpoint,
                    checkpoint_time: snapshot.checkpoint_time(),
                    name: snapshot.name,
                })
                .collect(),
        };
        return tool::print(&(serde_json::to_string_pretty(&everything)? + "\n"));
    }
    let mut reaches = Vec::new();
    if !snapshots.is_empty() {
        let (contents, _) = instance.wal()?;
        for snapshot in snapshots {
            let missing = missing_after(&snapshot, &contents)?;
            reaches.push((snapshot, missing));
        }
    }
    tool::print(&text(&instance.settings.instance, &shown, &reaches)?)
}

/// What is missing of the WAL that leads on from `snapshot`, along its own timeline.
fn missing_after(snapshot: &Snapshot, contents: &Contents) -> Result<Missing> {
    let control = &snapshot.control;
    let own = Unarchived::all_in(&snapshot.directory, contents)?;
    let mut with_own = contents.clone();
    // Its last segment is half a segment, which stands in for none that the archive should have.
    let size = contents.plan.segment_size;
    let last = own
        .segments
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| name.timeline() == control.timeline)
        .max();
    own.add_to(&mut with_own);
    if let Some(last) = last
        && !contents.plan.segments.contains(&last)
        && last
            .next(size)
            .is_some_and(|next| contents.plan.segments.contains(&next))
    {
        with_own.plan.segments.remove(&last);
    }
    let point = StartingPoint {
        id: snapshot.name.clone(),
        system_identifier: control.system_identifier,
        timeline: control.timeline,
        start: control.redo,
        stop: Lsn(control.checkpoint.0 + 1),
        stop_time: snapshot.checkpoint_time().unwrap_or(Timestamp::UNIX_EPOCH),
        postgres_major: 0,
    };
    let windows = restore_plan::windows(&[point], &with_own.plan);
    Ok(windows
        .into_iter()
        .find(|window| window.timeline == control.timeline)
        .map(|window| window.missing)
        .unwrap_or_default())
}

/// The windows of an instance, oldest base backup first, each with the time of its end.
pub fn collect(instance: &Instance) -> Result<Vec<Shown>> {
    let records = instance.repository()?.list()?;
    let points = starting_points(&records);
    let (contents, unarchived) = instance.wal()?;
    let mut ends: BTreeMap<(TimelineId, Lsn), Option<Timestamp>> = BTreeMap::new();
    let mut shown = Vec::new();
    for window in restore_plan::windows(&points, &contents.plan) {
        let key = (window.timeline, window.to);
        if let std::collections::btree_map::Entry::Vacant(e) = ends.entry(key) {
            let end = match points.iter().find(|point| point.id == window.point) {
                Some(point) if window.restorable => {
                    let history = history_of(&contents, window.timeline);
                    let trail = Trail::new(instance, &contents, &unarchived, history);
                    let mut segments = trail.segments_from(point);
                    let size = contents.plan.segment_size;
                    segments.retain(|segment| segment.name.start(size) < window.to);
                    trail.last_transaction(&segments)?
                }
                _ => None,
            };
            e.insert(end);
        }
        // The segment in which the backup ended begins with transactions that are part of it.
        let to_time = ends
            .get(&key)
            .copied()
            .flatten()
            .filter(|end| *end > window.from_time);
        shown.push(Shown { window, to_time });
    }
    Ok(shown)
}

/// The history of a timeline; one without a history file began by itself.
pub fn history_of(contents: &Contents, timeline: TimelineId) -> TimelineHistory {
    contents
        .plan
        .histories
        .get(&timeline)
        .cloned()
        .unwrap_or_else(|| TimelineHistory::without_parents(timeline))
}

fn text(instance: &str, shown: &[Shown], snapshots: &[(Snapshot, Missing)]) -> Result<String> {
    let mut text = String::new();
    if shown.is_empty() {
        writeln!(
            text,
            "Instance \"{instance}\" has no base backup{}.",
            if snapshots.is_empty() {
                ", so nothing can be restored"
            } else {
                ""
            }
        )?;
        writeln!(text, "hint: take one with pg-base-backup")?;
    } else {
        writeln!(
            text,
            "Instance \"{instance}\" can be restored to any moment in these windows:\n"
        )?;
    }
    for Shown { window, to_time } in shown {
        writeln!(
            text,
            "base backup {}, timeline {}{}",
            window.point,
            window.timeline,
            if window.restorable {
                ""
            } else {
                ": CANNOT BE RESTORED"
            }
        )?;
        writeln!(
            text,
            "  from  {}  {}",
            instant(window.from_time),
            window.from
        )?;
        match to_time {
            Some(time) => writeln!(text, "  to    {}  {}", instant(*time), window.to)?,
            None => writeln!(text, "  to    (no transaction since)         {}", window.to)?,
        }
        if !window.missing.is_empty() {
            writeln!(
                text,
                "  missing after that: {} WAL files",
                window.missing.count
            )?;
            for name in window.missing.segments.iter().take(10) {
                writeln!(text, "    {name}")?;
            }
        }
    }
    if shown
        .iter()
        .any(|shown| shown.window.restorable && !shown.window.missing.is_empty())
    {
        writeln!(
            text,
            "hint: what is missing may be in pg_wal or in a copy of the archive; take a base backup now, so that what comes can be restored"
        )?;
    }
    if !snapshots.is_empty() {
        writeln!(
            text,
            "\nA restore can begin with these snapshots too, at any moment after each:"
        )?;
    }
    for (snapshot, missing) in snapshots {
        writeln!(
            text,
            "  {}, timeline {}, after {}  {}",
            snapshot.name,
            snapshot.control.timeline,
            snapshot
                .checkpoint_time()
                .map_or_else(|| "an unknown time".into(), instant),
            snapshot.control.checkpoint
        )?;
        if let Some(first) = missing.segments.first() {
            writeln!(
                text,
                "    only to before {first}: {} WAL files are missing from there on",
                missing.count
            )?;
        }
    }
    Ok(text)
}

/// A time as a person reads it, in UTC and saying so.
pub fn instant(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%S%.3f UTC").to_string()
}
