//! The clusters in an inventory: their timelines, their backups, and which of them are past.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use wal::{SegmentName, SegmentSize, SystemIdentifier, TimelineHistory, TimelineId, WalFileName};

use crate::{Backup, Inventory, Snapshot};

/// What can be said of the backups as a whole, by their place in the inventory.
pub(crate) struct Clusters<'a> {
    pub(crate) inventory: &'a Inventory,
    /// Whether the backup and everything it builds on is there and good.
    pub(crate) sound: Vec<bool>,
    /// Whether it is sound and the archive has all WAL from its start to its stop.
    pub(crate) complete: Vec<bool>,
    /// The clusters that may be in use.
    pub(crate) current: BTreeSet<SystemIdentifier>,
    pub(crate) by_identifier: BTreeMap<SystemIdentifier, Cluster>,
}

/// One cluster.
pub(crate) struct Cluster {
    /// Its backups, by their place in the inventory.
    pub(crate) backups: Vec<usize>,
    /// Its snapshots, by their place in the inventory.
    pub(crate) snapshots: Vec<usize>,
    /// The size of its segments, if its backups agree about it.
    pub(crate) size: Option<SegmentSize>,
    pub(crate) timelines: BTreeMap<TimelineId, Timeline>,
}

/// One timeline of a cluster.
pub(crate) struct Timeline {
    /// The path that leads to it.
    pub(crate) history: TimelineHistory,
    /// Whether that path is known, or only assumed to have no parents.
    pub(crate) is_known: bool,
    /// It was not in use any more at this time, as far as backups tell.
    past_since: Option<Timestamp>,
}

impl Timeline {
    /// Whether the timeline may have been in use after `cutoff`.
    pub(crate) fn reaches_past(&self, cutoff: Timestamp) -> bool {
        self.past_since.is_none_or(|past| past > cutoff)
    }

    /// Whether `backup` lies on the path to this timeline, from its start to its stop.
    pub(crate) fn passes(&self, backup: &Backup) -> bool {
        let on_timeline = |lsn| self.history.timeline_at(lsn) == backup.timeline;
        backup.start < backup.stop
            && on_timeline(backup.start)
            && backup.stop.checked_sub(1).is_some_and(on_timeline)
    }

    /// Whether `snapshot` may lie on the path to this timeline: its checkpoint does.
    pub(crate) fn may_pass(&self, snapshot: &Snapshot) -> bool {
        [snapshot.redo, snapshot.checkpoint]
            .iter()
            .all(|lsn| self.history.timeline_at(*lsn) == snapshot.timeline)
    }
}

impl<'a> Clusters<'a> {
    pub(crate) fn new(inventory: &'a Inventory) -> Self {
        let sound = sound(&inventory.backups);
        let current = current(inventory);
        let mut clusters: BTreeMap<SystemIdentifier, Cluster> = BTreeMap::new();
        let identifiers = inventory
            .wal
            .iter()
            .map(|(identifier, _)| *identifier)
            .chain(inventory.backups.iter().map(|b| b.system_identifier));
        for identifier in identifiers.collect::<BTreeSet<_>>() {
            clusters.insert(
                identifier,
                Cluster::new(inventory, identifier, &sound, &current),
            );
        }
        let mut clusters = Self {
            complete: Vec::new(),
            inventory,
            sound,
            current,
            by_identifier: clusters,
        };
        clusters.complete = clusters.find_complete();
        clusters
    }

    pub(crate) fn backup(&self, index: usize) -> &'a Backup {
        &self.inventory.backups[index]
    }

    /// Sorts from old to new: by the time they ended, then by the address. Never by name.
    pub(crate) fn age(&self, index: usize) -> (Timestamp, wal::Lsn, TimelineId, &'a str) {
        let backup = self.backup(index);
        (
            backup.stop_time,
            backup.stop,
            backup.timeline,
            backup.id.as_str(),
        )
    }

    fn find_complete(&self) -> Vec<bool> {
        let segments: BTreeSet<(SystemIdentifier, SegmentName)> = self
            .inventory
            .wal
            .iter()
            .filter_map(|(identifier, name)| match name {
                WalFileName::Segment(segment) => Some((*identifier, *segment)),
                _ => None,
            })
            .collect();
        let is_complete = |index: usize, backup: &Backup| -> bool {
            let Some(cluster) = self.by_identifier.get(&backup.system_identifier) else {
                return false;
            };
            let has = |name| segments.contains(&(backup.system_identifier, name));
            self.sound[index]
                && cluster.size.is_some_and(|size| {
                    // Along any path on which it lies: the last segment may have been archived only
                    // under the number of the next timeline.
                    cluster.timelines.values().any(|timeline| {
                        timeline.passes(backup) && has_wal(backup, &timeline.history, size, has)
                    })
                })
        };
        let backups = self.inventory.backups.iter().enumerate();
        backups
            .map(|(index, backup)| is_complete(index, backup))
            .collect()
    }
}

/// Whether every segment of the backup is there, or one that PostgreSQL would read in its place.
fn has_wal(
    backup: &Backup,
    history: &TimelineHistory,
    size: SegmentSize,
    has: impl Fn(SegmentName) -> bool,
) -> bool {
    let first = backup.start.0 / size.bytes();
    let last = (backup.stop.0 - 1) / size.bytes();
    (first..=last).all(|number| {
        SegmentName::from_number(backup.timeline, number, size).is_some_and(|segment| {
            has(segment)
                || wal::needed::substitutes(history, segment, size)
                    .into_iter()
                    .any(&has)
        })
    })
}

/// Which backups are good together with everything they build on.
fn sound(backups: &[Backup]) -> Vec<bool> {
    let by_id: BTreeMap<&str, &Backup> = backups.iter().map(|b| (b.id.as_str(), b)).collect();
    let is_sound = |backup: &Backup| {
        let mut next = backup;
        // A chain cannot be longer than there are backups, unless it is a ring.
        for _ in 0..backups.len() {
            if !next.good || next.system_identifier != backup.system_identifier {
                return false;
            }
            let Some(parent) = &next.parent else {
                return true;
            };
            let Some(parent) = by_id.get(parent.as_str()) else {
                return false;
            };
            next = parent;
        }
        false
    };
    backups.iter().map(is_sound).collect()
}

/// The clusters that may be in use: the one with the newest backup, and the one that `initdb` made
/// last.
///
/// A system identifier begins with the second in which `initdb` ran (`BootStrapXLOG()` in
/// `xlog.c`), so the greatest is the youngest. Usually both are the same cluster. They differ when
/// a new cluster has no backup yet, and when an older one was brought back; then neither is given
/// up.
fn current(inventory: &Inventory) -> BTreeSet<SystemIdentifier> {
    let with_wal = inventory
        .wal
        .iter()
        // History files are kept for ever, so they say nothing about the present.
        .filter(|(_, name)| !matches!(name, WalFileName::History(_)))
        .map(|(identifier, _)| *identifier);
    let with_backup = inventory.backups.iter().map(|b| b.system_identifier);
    let youngest = with_wal.chain(with_backup).max();
    let backed_up_last = inventory
        .backups
        .iter()
        .max_by_key(|b| (b.stop_time, b.stop))
        .map(|b| b.system_identifier);
    youngest.into_iter().chain(backed_up_last).collect()
}

impl Cluster {
    fn new(
        inventory: &Inventory,
        identifier: SystemIdentifier,
        sound: &[bool],
        current: &BTreeSet<SystemIdentifier>,
    ) -> Self {
        let backups: Vec<usize> = (0..inventory.backups.len())
            .filter(|index| inventory.backups[*index].system_identifier == identifier)
            .collect();
        let snapshots: Vec<usize> = (0..inventory.snapshots.len())
            .filter(|index| inventory.snapshots[*index].system_identifier == identifier)
            .collect();
        let sizes: BTreeSet<SegmentSize> = backups
            .iter()
            .map(|index| inventory.backups[*index].segment_size)
            .collect();
        let of_wal = inventory
            .wal
            .iter()
            .filter(|(of, _)| *of == identifier)
            .map(|(_, name)| name.timeline());
        let of_histories = inventory
            .histories
            .keys()
            .filter(|(of, _)| *of == identifier)
            .map(|(_, timeline)| *timeline);
        let of_backups = backups
            .iter()
            .map(|index| inventory.backups[*index].timeline);
        let of_snapshots = snapshots
            .iter()
            .map(|index| inventory.snapshots[*index].timeline);
        let timelines: BTreeSet<TimelineId> = of_wal
            .chain(of_histories)
            .chain(of_backups)
            .chain(of_snapshots)
            .collect();

        let good: Vec<&Backup> = inventory
            .backups
            .iter()
            .zip(sound)
            .filter_map(|(backup, sound)| sound.then_some(backup))
            .collect();
        let last = good
            .iter()
            .filter(|b| b.system_identifier == identifier)
            .map(|b| b.stop_time)
            .max();
        // Another cluster has been backed up since this one's last backup.
        let replaced_since = good
            .iter()
            .filter(|b| b.system_identifier != identifier && !current.contains(&identifier))
            .map(|b| b.stop_time)
            .filter(|time| last.is_none_or(|last| *time > last))
            .min();
        let timeline = |timeline: TimelineId| {
            let of_cluster = good.iter().filter(|b| b.system_identifier == identifier);
            let (own, others): (Vec<&Backup>, Vec<&Backup>) =
                of_cluster.partition(|b| b.timeline == timeline);
            let last = own.iter().map(|b| b.stop_time).max();
            // Only one timeline is in use at a time, so once another is backed up and this one is
            // no longer, this one was left. One that was never backed up may be newer than all
            // backups, unless a higher one has some: timelines are numbered in the order in which
            // they begin.
            let left_since = others
                .iter()
                .filter(|b| last.is_some() || b.timeline > timeline)
                .map(|b| b.stop_time)
                .filter(|time| last.is_none_or(|last| *time > last))
                .min();
            let history = inventory.histories.get(&(identifier, timeline));
            Timeline {
                is_known: history.is_some() || timeline == TimelineId::FIRST,
                history: history
                    .cloned()
                    .unwrap_or_else(|| TimelineHistory::without_parents(timeline)),
                past_since: [replaced_since, left_since].into_iter().flatten().min(),
            }
        };
        Self {
            backups,
            snapshots,
            size: sizes.first().copied().filter(|_| sizes.len() == 1),
            timelines: timelines.into_iter().map(|t| (t, timeline(t))).collect(),
        }
    }
}
