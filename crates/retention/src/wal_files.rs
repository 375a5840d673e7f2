//! Which files of the WAL archive are kept, given the backups that are.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use wal::{Lsn, SegmentName, SegmentSize, SystemIdentifier, TimelineId, WalFileName};

use crate::clusters::{Cluster, Clusters};
use crate::plan::Keeper;
use crate::types::{KeptWal, Snapshot};

/// The last segment of a range that has no end.
const OPEN: u64 = u64::MAX;

/// What is kept of the WAL of one timeline.
#[derive(Debug)]
enum Extent {
    /// Everything, for this reason.
    All(Cow<'static, str>),
    /// Some segments, by number.
    Some {
        size: SegmentSize,
        /// The segment in which the timeline begins. An earlier one cannot be there, and would stay
        /// if it was.
        begin: u64,
        /// First and last of each range to keep, in order; [`OPEN`] for one without an end.
        ranges: Vec<(u64, u64)>,
    },
    /// Nothing.
    None,
}

/// Says which files go, and what stays of each timeline.
pub(crate) fn judge(keeper: &Keeper<'_>) -> (Vec<(SystemIdentifier, WalFileName)>, Vec<KeptWal>) {
    let clusters = keeper.clusters;
    let mut extents: BTreeMap<(SystemIdentifier, TimelineId), Extent> = BTreeMap::new();
    for (identifier, cluster) in &clusters.by_identifier {
        for timeline in cluster.timelines.keys() {
            let extent = extent(keeper, *identifier, cluster, *timeline);
            extents.insert((*identifier, *timeline), extent);
        }
    }
    let mut removed: Vec<(SystemIdentifier, WalFileName)> = clusters
        .inventory
        .wal
        .iter()
        .copied()
        .filter(|(identifier, name)| {
            let extent = extents.get(&(*identifier, name.timeline()));
            match (name.segment(), extent) {
                (Some(segment), Some(extent)) => !extent.holds(segment),
                // A history file, which is kept for ever.
                _ => false,
            }
        })
        .collect();
    removed.sort_unstable();
    removed.dedup();

    let with_segments: BTreeSet<(SystemIdentifier, TimelineId)> = clusters
        .inventory
        .wal
        .iter()
        .filter_map(|(identifier, name)| Some((*identifier, name.segment()?.timeline())))
        .collect();
    let texts = with_segments.into_iter().filter_map(|key| {
        let extent = extents.get(&key)?;
        let (system_identifier, timeline) = key;
        Some(KeptWal {
            system_identifier,
            timeline,
            text: extent.text(timeline),
        })
    });
    (removed, texts.collect())
}

/// The segment size that all backups and the snapshots that WAL is kept for have.
fn agreed_size(cluster: &Cluster, for_snapshots: &[&Snapshot]) -> Option<SegmentSize> {
    let sizes: BTreeSet<SegmentSize> = for_snapshots
        .iter()
        .map(|snapshot| snapshot.segment_size)
        .chain(cluster.size)
        .collect();
    let backups_agree = cluster.size.is_some() || cluster.backups.is_empty();
    sizes
        .first()
        .copied()
        .filter(|_| sizes.len() == 1 && backups_agree)
}

fn extent(
    keeper: &Keeper<'_>,
    identifier: SystemIdentifier,
    cluster: &Cluster,
    timeline: TimelineId,
) -> Extent {
    let clusters = keeper.clusters;
    let all = |why: &'static str| Extent::All(Cow::Borrowed(why));
    if let Some(name) = clusters.inventory.unreadable_snapshots.first() {
        return Extent::All(Cow::Owned(format!(
            "snapshot \"{name}\" cannot be read, so nobody can say what it needs"
        )));
    }
    if !every_current_cluster_has_a_good_backup(clusters) {
        return all("there is no good backup of the current cluster yet");
    }
    let kept: Vec<usize> = cluster
        .backups
        .iter()
        .copied()
        .filter(|index| keeper.kept.contains_key(index))
        .collect();
    let for_snapshots: Vec<&Snapshot> = cluster
        .snapshots
        .iter()
        .filter(|index| keeper.snapshots.contains_key(index))
        .map(|index| &clusters.inventory.snapshots[*index])
        .collect();
    if kept.is_empty() && for_snapshots.is_empty() && !clusters.current.contains(&identifier) {
        return Extent::None;
    }
    let Some(size) = agreed_size(cluster, &for_snapshots) else {
        return all("its backups and snapshots do not agree about the segment size");
    };
    let Some(of_timeline) = cluster.timelines.get(&timeline) else {
        return all("nothing is known of this timeline");
    };
    // Without its history a timeline may go on from any backup on a lower one.
    let mut timelines_kept = kept
        .iter()
        .map(|index| clusters.backup(*index).timeline)
        .chain(for_snapshots.iter().map(|snapshot| snapshot.timeline));
    let lowest_kept = timelines_kept.clone().min();
    let has_own = timelines_kept.any(|kept| kept == timeline);
    if !of_timeline.is_known && (!has_own || lowest_kept.is_some_and(|kept| kept < timeline)) {
        return all("its history file is missing, so nobody can say what it belongs to");
    }
    let mut leads_here = cluster
        .backups
        .iter()
        .filter(|index| clusters.sound[**index] && of_timeline.passes(clusters.backup(**index)));
    if keeper.is_in_window(of_timeline) && leads_here.next().is_none() {
        return all("no good backup leads to it yet");
    }

    let number = |lsn: Lsn| lsn.0 / size.bytes();
    let begin = of_timeline.history.begin_of(timeline).map_or(0, number);
    let mut ranges = BTreeSet::new();
    let mut keep = |first: u64, last: u64| {
        let first = first.max(begin);
        if first <= last {
            ranges.insert((first, last));
        }
    };
    for index in kept {
        let backup = clusters.backup(index);
        // Its own timeline in any case, even if the history file contradicts the backup.
        if of_timeline.passes(backup) || backup.timeline == timeline {
            let last_byte = backup.stop.0.saturating_sub(1).max(backup.start.0);
            let is_open = keeper.window.contains(&index);
            keep(
                number(backup.start),
                if is_open {
                    OPEN
                } else {
                    number(Lsn(last_byte))
                },
            );
        }
    }
    for snapshot in for_snapshots {
        // As of a backup.
        if snapshot.timeline == timeline && !of_timeline.may_pass(snapshot) {
            keep(number(snapshot.redo), OPEN);
        }
    }
    for (target, start) in starts_of_paths(keeper, identifier) {
        // What a recovery to the target timeline can read of this one's files, from that on.
        // The first of them begins with a copy of the older timelines' WAL, so it may be of use
        // even where the path leaves this timeline at once.
        let Some(target) = cluster.timelines.get(&target) else {
            continue;
        };
        if !target.history.contains(timeline) {
            continue;
        }
        let end = target.history.switch_point_of(timeline);
        if end.is_none_or(|end| start < end) {
            keep(
                number(start),
                end.map_or(OPEN, |end| number(Lsn(end.0 - 1))),
            );
        }
    }
    Extent::Some {
        size,
        begin,
        ranges: merge(ranges),
    }
}

/// Which timelines a restore of the cluster goes to, and from where on it reads WAL.
fn starts_of_paths(
    keeper: &Keeper<'_>,
    identifier: SystemIdentifier,
) -> impl Iterator<Item = (TimelineId, Lsn)> {
    let of_backups = keeper
        .paths
        .iter()
        .map(|(of, target, index)| (*of, *target, keeper.clusters.backup(*index).start));
    let of_snapshots = keeper.snapshot_paths.iter().map(|(of, target, index)| {
        let snapshot = &keeper.clusters.inventory.snapshots[*index];
        (*of, *target, snapshot.redo)
    });
    of_backups
        .chain(of_snapshots)
        .filter(move |(of, _, _)| *of == identifier)
        .map(|(_, target, start)| (target, start))
}

/// The same segments in as few ranges as possible.
fn merge(ranges: BTreeSet<(u64, u64)>) -> Vec<(u64, u64)> {
    let mut merged: Vec<(u64, u64)> = Vec::new();
    for (first, last) in ranges {
        match merged.last_mut() {
            Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
            _ => merged.push((first, last)),
        }
    }
    merged
}

fn every_current_cluster_has_a_good_backup(clusters: &Clusters<'_>) -> bool {
    clusters.current.iter().all(|identifier| {
        let cluster = clusters.by_identifier.get(identifier);
        cluster.is_some_and(|c| c.backups.iter().any(|index| clusters.sound[*index]))
    })
}

impl Extent {
    fn holds(&self, segment: SegmentName) -> bool {
        match self {
            Self::All(_) => true,
            Self::None => false,
            Self::Some {
                size,
                begin,
                ranges,
            } => match segment.number(*size) {
                Ok(number) => {
                    number < *begin
                        || ranges
                            .iter()
                            .any(|(first, last)| (*first..=*last).contains(&number))
                }
                // The name is none of this cluster's, so it cannot be judged.
                Err(_) => true,
            },
        }
    }

    fn text(&self, timeline: TimelineId) -> String {
        match self {
            Self::All(why) => format!("all: {why}"),
            Self::None => "nothing: it is of a cluster without backups".to_owned(),
            Self::Some { ranges, .. } if ranges.is_empty() => {
                "nothing: no kept backup leads to it".to_owned()
            }
            Self::Some { size, ranges, .. } => {
                let name = |number: u64| name(timeline, number, *size);
                let texts = ranges.iter().map(|&(first, last)| match last {
                    OPEN => format!("from {} on", name(first)),
                    last if last == first => name(first),
                    last => format!("{} to {}", name(first), name(last)),
                });
                texts.collect::<Vec<_>>().join(", ")
            }
        }
    }
}

fn name(timeline: TimelineId, number: u64, size: SegmentSize) -> String {
    SegmentName::from_number(timeline, number, size)
        .map(|name| name.to_string())
        .unwrap_or_default()
}
