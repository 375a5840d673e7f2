//! The plan: which backups are kept, by which rules.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use wal::{SystemIdentifier, TimelineId};

use crate::calendar::Period;
use crate::clusters::{Cluster, Clusters, Timeline};
use crate::types::{Inventory, Kept, Plan, Policy, Refusal, Removed, Snapshot};
use crate::wal_files;

/// How far the end of a backup may lie in the future: its time may have been rounded up.
const ROUNDING: SignedDuration = SignedDuration::from_secs(60);

/// What may be missing in the time of a checkpoint.
const CUT_OFF_FRACTION: SignedDuration = SignedDuration::from_secs(1);

/// By how many days the newest good backup may be older than the window.
const GRACE_DAYS: u32 = 30;

/// 2020-01-01 00:00:00 UTC, in seconds. No clock that is right shows an earlier time.
const EARLIEST: i64 = 1_577_836_800;

/// Says what to keep and what to remove under `policy`, at the instant `now`.
///
/// Each cluster is planned for on its own, by its system identifier: after an upgrade the numbers
/// of timelines begin anew, and the old cluster's high ones say nothing about the new one's.
///
/// # Errors
///
/// Refuses to plan at all when the clock seems to be wrong or two backups have the same name; see
/// [`Refusal`]. Nothing may be removed then.
pub fn plan(inventory: &Inventory, policy: &Policy, now: Timestamp) -> Result<Plan, Refusal> {
    check(inventory, now)?;
    let clusters = Clusters::new(inventory);
    let cutoff = days_before(now, policy.days);
    let mut keeper = Keeper {
        clusters: &clusters,
        kept: BTreeMap::new(),
        window: BTreeSet::new(),
        paths: BTreeSet::new(),
        snapshots: BTreeMap::new(),
        snapshot_paths: BTreeSet::new(),
        cutoff,
    };
    for (identifier, cluster) in &clusters.by_identifier {
        keeper.keep_window(*identifier, cluster, policy);
        keeper.keep_for_snapshots(*identifier, cluster, policy);
        if clusters.current.contains(identifier) {
            keeper.keep_newest(cluster, policy);
        }
        keeper.keep_calendar(cluster, policy, now);
    }
    keeper.keep_pinned();
    keeper.keep_bad_without_better();
    keeper.keep_chains();

    let plan = keeper.plan(policy);
    let newest = (0..inventory.backups.len())
        .filter(|index| clusters.sound[*index])
        .max_by_key(|index| clusters.age(*index))
        .map(|index| clusters.backup(index));
    if let Some(newest) = newest
        && newest.stop_time < days_before(now, policy.days.saturating_add(GRACE_DAYS))
        && !(plan.remove_backups.is_empty() && plan.remove_wal.is_empty())
    {
        return Err(Refusal::NoRecentBackup {
            id: newest.id.clone(),
            stop_time: newest.stop_time,
            now,
        });
    }
    Ok(plan)
}

fn check(inventory: &Inventory, now: Timestamp) -> Result<(), Refusal> {
    if now.as_second() < EARLIEST {
        return Err(Refusal::ClockBehind { now });
    }
    let mut seen = BTreeSet::new();
    for backup in &inventory.backups {
        if !seen.insert(&backup.id) {
            return Err(Refusal::SameName {
                id: backup.id.clone(),
            });
        }
    }
    let newest = inventory.backups.iter().max_by_key(|b| b.stop_time);
    match newest {
        Some(backup) if backup.stop_time.duration_since(now) > ROUNDING => {
            Err(Refusal::BackupInFuture {
                id: backup.id.clone(),
                stop_time: backup.stop_time,
                now,
            })
        }
        _ => Ok(()),
    }
}

fn days(days: u32) -> String {
    match days {
        1 => "1 day".to_owned(),
        _ => format!("{days} days"),
    }
}

fn days_before(now: Timestamp, days: u32) -> Timestamp {
    now.checked_sub(SignedDuration::from_hours(24 * i64::from(days)))
        .unwrap_or(Timestamp::MIN)
}

/// Collects the backups to keep.
pub(crate) struct Keeper<'a> {
    pub(crate) clusters: &'a Clusters<'a>,
    /// The backups to keep with the reasons, by their place in the inventory.
    pub(crate) kept: BTreeMap<usize, Vec<String>>,
    /// Those of them from which everything later has to be reachable, on every timeline.
    pub(crate) window: BTreeSet<usize>,
    /// Those of them from which everything later has to be reachable on the path to one timeline.
    pub(crate) paths: BTreeSet<(SystemIdentifier, TimelineId, usize)>,
    /// The snapshots that may be needed in the window with the reason, by their place in the inventory.
    pub(crate) snapshots: BTreeMap<usize, String>,
    /// Each of them with a timeline on whose path everything later has to be reachable from it.
    pub(crate) snapshot_paths: BTreeSet<(SystemIdentifier, TimelineId, usize)>,
    /// When the window begins.
    cutoff: Timestamp,
}

impl Keeper<'_> {
    fn keep(&mut self, index: usize, reason: impl Into<String>) {
        let reason = reason.into();
        let reasons = self.kept.entry(index).or_default();
        if !reasons.contains(&reason) {
            reasons.push(reason);
        }
    }

    /// Whether `timeline` may have been in use in the window.
    ///
    /// Only backups tell which timeline was in use when. Without one in the window nobody can say,
    /// so then each may have been.
    pub(crate) fn is_in_window(&self, timeline: &Timeline) -> bool {
        let clusters = self.clusters;
        let mut good = (0..clusters.inventory.backups.len()).filter(|index| clusters.sound[*index]);
        timeline.reaches_past(self.cutoff)
            || good.all(|index| clusters.backup(index).stop_time <= self.cutoff)
    }

    /// Keeps what is needed to restore every instant of the window.
    ///
    /// That is the newest backup that ended before the window, or else the oldest, and all after
    /// it: once for the cluster as a whole, and once for the path to each timeline that was in use
    /// since. The newest of all may lie on a part of its timeline that was left, and then leads to
    /// nothing that was written later.
    fn keep_window(&mut self, identifier: SystemIdentifier, cluster: &Cluster, policy: &Policy) {
        let in_window: Vec<TimelineId> = cluster
            .timelines
            .iter()
            .filter(|(_, timeline)| self.is_in_window(timeline))
            .map(|(id, _)| *id)
            .collect();
        if in_window.is_empty() {
            return;
        }
        // Once for all good backups, and once for those whose WAL is there: one without may be of
        // no use, and then must not stand in for one that is.
        for among in [&self.clusters.sound, &self.clusters.complete] {
            let good: Vec<usize> = cluster
                .backups
                .iter()
                .copied()
                .filter(|i| among[*i])
                .collect();
            for (index, is_first) in self.since_cutoff(&good) {
                self.window.insert(index);
                let word = if is_first { "begins" } else { "in" };
                self.keep(index, format!("{word} the last {}", days(policy.days)));
            }
            for id in &in_window {
                let passes = |index: &usize| {
                    let timeline = cluster.timelines.get(id);
                    timeline.is_some_and(|t| t.passes(self.clusters.backup(*index)))
                };
                let on_path: Vec<usize> = good.iter().copied().filter(passes).collect();
                for (index, _) in self.since_cutoff(&on_path) {
                    self.paths.insert((identifier, *id, index));
                    if !self.kept.contains_key(&index) {
                        self.keep(
                            index,
                            format!("begins the last {} of timeline {id}", days(policy.days)),
                        );
                    }
                }
            }
        }
    }

    /// Keeps WAL for the snapshots that a restore to an instant of the window may begin with: on the path
    /// to each timeline the newest that surely is from before the window, and all after it. One from
    /// before that needs nothing: every moment of the window that it leads to has a later snapshot.
    ///
    /// When a snapshot was taken is not known, only that it was before the next checkpoint. So one is
    /// from before the window if a later one on its timeline has a later checkpoint from before it.
    fn keep_for_snapshots(
        &mut self,
        identifier: SystemIdentifier,
        cluster: &Cluster,
        policy: &Policy,
    ) {
        let all = &self.clusters.inventory.snapshots;
        for (id, timeline) in &cluster.timelines {
            let on_path: Vec<usize> = cluster
                .snapshots
                .iter()
                .copied()
                .filter(|index| timeline.may_pass(&all[*index]))
                .collect();
            let is_from_before = |snapshot: &Snapshot| {
                on_path.iter().map(|index| &all[*index]).any(|later| {
                    later.timeline == snapshot.timeline
                        && later.checkpoint > snapshot.checkpoint
                        && later.checkpoint_time.duration_since(self.cutoff) <= -CUT_OFF_FRACTION
                })
            };
            let first = on_path
                .iter()
                .map(|index| &all[*index])
                .filter(|snapshot| is_from_before(snapshot))
                .map(|snapshot| snapshot.checkpoint)
                .max();
            // Backups tell that a timeline was left. One is no sign of it that is older than a snapshot.
            let seen = on_path
                .iter()
                .map(|index| all[*index].checkpoint_time)
                .max();
            let was_left = !self.is_in_window(timeline)
                && self.clusters.inventory.backups.iter().any(|other| {
                    (other.system_identifier != identifier || other.timeline != *id)
                        && other.stop_time <= self.cutoff
                        && seen.is_some_and(|seen| {
                            other.stop_time.duration_since(seen) > CUT_OFF_FRACTION
                        })
                });
            let needed: Vec<usize> = on_path
                .iter()
                .copied()
                .filter(|index| Some(all[*index].checkpoint) >= first)
                // Of a timeline that was left only what was seen on it since.
                .filter(|index| !was_left || all[*index].checkpoint_time > self.cutoff)
                .collect();
            for index in needed {
                let word = if all[index].checkpoint_time > self.cutoff {
                    "in"
                } else {
                    "begins"
                };
                let reason = format!("{word} the last {}", days(policy.days));
                self.snapshots.entry(index).or_insert(reason);
                self.snapshot_paths.insert((identifier, *id, index));
            }
        }
    }

    /// The newest of `backups` that ended before the window, or else the oldest, and all after it.
    fn since_cutoff(&self, backups: &[usize]) -> Vec<(usize, bool)> {
        let age = |index: &usize| self.clusters.age(*index);
        let ended_by_then = |index: &&usize| self.clusters.backup(**index).stop_time <= self.cutoff;
        let first = backups.iter().filter(ended_by_then).max_by_key(|i| age(i));
        let Some(first) = first.or_else(|| backups.iter().min_by_key(|i| age(i))) else {
            return Vec::new();
        };
        let since = backups.iter().filter(|i| age(i) >= age(first));
        since.map(|index| (*index, index == first)).collect()
    }

    /// Keeps the newest good backups whatever the policy says.
    fn keep_newest(&mut self, cluster: &Cluster, policy: &Policy) {
        let minimum = usize::try_from(policy.minimum_good.max(1)).unwrap_or(usize::MAX);
        for (among, what) in [
            (&self.clusters.sound, "good"),
            (&self.clusters.complete, "with all its WAL"),
        ] {
            let mut good: Vec<usize> = cluster
                .backups
                .iter()
                .copied()
                .filter(|i| among[*i])
                .collect();
            good.sort_by_key(|index| std::cmp::Reverse(self.clusters.age(*index)));
            for index in good.into_iter().take(minimum) {
                let reason = match minimum {
                    1 => format!("the newest {what}"),
                    _ => format!("one of the newest {minimum} {what}"),
                };
                // The second round has something to say only where the first did not keep it.
                if what == "good" || !self.kept.contains_key(&index) {
                    self.keep(index, reason);
                }
            }
        }
    }

    /// Keeps the newest good backup of each of the last days, weeks and months.
    fn keep_calendar(&mut self, cluster: &Cluster, policy: &Policy, now: Timestamp) {
        for (period, count) in [
            (Period::Day, policy.daily),
            (Period::Week, policy.weekly),
            (Period::Month, policy.monthly),
        ] {
            let mut newest: BTreeMap<i64, usize> = BTreeMap::new();
            for index in cluster.backups.iter().copied() {
                let number = period.number(self.clusters.backup(index).stop_time);
                if !self.clusters.sound[index] || period.number(now) - number >= i64::from(count) {
                    continue;
                }
                let newest = newest.entry(number).or_insert(index);
                if self.clusters.age(index) > self.clusters.age(*newest) {
                    *newest = index;
                }
            }
            for index in newest.into_values() {
                let name = period.name(self.clusters.backup(index).stop_time);
                self.keep(index, format!("newest of {name}"));
            }
        }
    }

    fn keep_pinned(&mut self) {
        for index in 0..self.clusters.inventory.backups.len() {
            if self.clusters.backup(index).pinned {
                self.keep(index, "pinned");
            }
        }
    }

    /// The good backup that makes one that is not good superfluous, if there is one.
    fn better_than(&self, index: usize) -> Option<usize> {
        let bad = self.clusters.backup(index);
        let is_current = self.clusters.current.contains(&bad.system_identifier);
        (0..self.clusters.inventory.backups.len())
            .filter(|good| self.clusters.sound[*good])
            .filter(|good| {
                let good = self.clusters.backup(*good);
                good.stop_time >= bad.stop_time
                    && (good.system_identifier == bad.system_identifier || !is_current)
            })
            .max_by_key(|good| self.clusters.age(*good))
    }

    fn keep_bad_without_better(&mut self) {
        for index in 0..self.clusters.inventory.backups.len() {
            if !self.clusters.sound[index] && self.better_than(index).is_none() {
                self.keep(index, "not good, but no good one is as new");
            }
        }
    }

    /// Keeps everything that a kept backup builds on.
    fn keep_chains(&mut self) {
        let by_id: BTreeMap<&str, usize> = self
            .clusters
            .inventory
            .backups
            .iter()
            .enumerate()
            .map(|(index, backup)| (backup.id.as_str(), index))
            .collect();
        let mut to_follow: Vec<usize> = self.kept.keys().copied().collect();
        while let Some(index) = to_follow.pop() {
            let backup = self.clusters.backup(index);
            let Some(parent) = backup.parent.as_deref().and_then(|id| by_id.get(id)) else {
                continue;
            };
            if !self.kept.contains_key(parent) {
                to_follow.push(*parent);
            }
            self.keep(*parent, format!("\"{}\" builds on it", backup.id));
        }
    }

    fn plan(self, policy: &Policy) -> Plan {
        let inventory = self.clusters.inventory;
        let (remove_wal, keep_wal_from) = wal_files::judge(&self);
        let mut kept: Vec<usize> = self.kept.keys().copied().collect();
        kept.sort_by_key(|index| self.clusters.age(*index));
        let mut removed: Vec<usize> = (0..inventory.backups.len())
            .filter(|index| !self.kept.contains_key(index))
            .collect();
        // What builds on another goes before it; otherwise the oldest goes first.
        removed.sort_by_key(|index| {
            let depth = std::cmp::Reverse(self.depth(*index));
            (depth, self.clusters.age(*index))
        });
        let id = |index: usize| self.clusters.backup(index).id.clone();
        let snapshot = |index: usize| &inventory.snapshots[index];
        let mut with_wal: Vec<(usize, &String)> =
            self.snapshots.iter().map(|(i, why)| (*i, why)).collect();
        with_wal.sort_by_key(|(i, _)| (snapshot(*i).checkpoint_time, snapshot(*i).checkpoint));
        Plan {
            remove_backups: removed
                .iter()
                .map(|index| Removed {
                    id: id(*index),
                    reason: self.why_removed(*index, policy),
                })
                .collect(),
            keep: kept
                .iter()
                .map(|index| Kept {
                    id: id(*index),
                    reasons: self.kept.get(index).cloned().unwrap_or_default(),
                })
                .collect(),
            remove_wal,
            keep_wal_for: with_wal
                .into_iter()
                .map(|(index, why)| Kept {
                    id: snapshot(index).id.clone(),
                    reasons: vec![why.clone()],
                })
                .collect(),
            keep_wal_from,
        }
    }

    fn why_removed(&self, index: usize, policy: &Policy) -> String {
        if !self.clusters.sound[index]
            && let Some(better) = self.better_than(index)
        {
            return format!(
                "not good, and \"{}\" is as new",
                self.clusters.backup(better).id
            );
        }
        format!(
            "older than {}, and not the newest of a day, week or month to keep",
            days(policy.days)
        )
    }

    /// How many backups this one builds on, one after another.
    fn depth(&self, index: usize) -> usize {
        let backups = &self.clusters.inventory.backups;
        let mut next = self.clusters.backup(index);
        let mut depth = 0;
        while let Some(parent) = &next.parent
            && let Some(parent) = backups.iter().find(|b| b.id == *parent)
            && depth < backups.len()
        {
            next = parent;
            depth += 1;
        }
        depth
    }
}

#[cfg(test)]
mod tests;
