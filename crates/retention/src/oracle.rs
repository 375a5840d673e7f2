//! P1: made-up pasts, and an oracle that tries every promised restore before and after.
//!
//! The oracle knows what happened, step of WAL by step of WAL, and replays as PostgreSQL does. It
//! shares no code with the plan: it knows neither history files nor segment arithmetic from the
//! `wal` crate, and reads the names of removed files digit by digit.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use jiff::civil::ISOWeekDate;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use wal::{
    HistoryEntry, Lsn, SegmentSize, SystemIdentifier, TimelineHistory, TimelineId, WalFileName,
};

use crate::{Backup, Inventory, Plan, Policy, Refusal, Snapshot, plan};

/// How many steps of WAL a segment has.
const STEPS: u64 = 4;
/// What stands in a step of a segment file that was never written.
const UNWRITTEN: u32 = 0;

#[derive(Clone, Debug)]
enum Event {
    /// WAL is written, a step every so many hours.
    Write { steps: u64, hours: i64 },
    /// Nothing happens.
    Wait { hours: i64 },
    /// A backup is taken while WAL is written.
    Backup {
        steps: u64,
        hours: i64,
        good: bool,
        parent: Option<Index>,
        pinned: bool,
    },
    /// A checkpoint is complete; replay from it begins so many steps earlier.
    Checkpoint { back: u64 },
    /// A snapshot is taken.
    Snapshot,
    /// The cluster is restored along one of its timelines, and goes on on a new one.
    Restore {
        backup: Index,
        timeline: Index,
        at: Index,
        tail: Tail,
    },
    /// The cluster that was left by the latest restore is taken into use again, and backed up.
    GoBack { tail: Tail },
    /// Another cluster takes the place of this one. `initdb` may have made it earlier.
    Replace { is_older: bool, size: usize },
}

/// What becomes of the segment that was being written when a timeline was left.
#[derive(Clone, Copy, Debug)]
enum Tail {
    Lost,
    Partial,
    Whole,
}

#[derive(Clone, Debug)]
struct Past {
    events: Vec<Event>,
    first_size: usize,
    lost_files: Vec<Index>,
    lost_histories: Vec<Index>,
    lost_backups: Vec<Index>,
    wait: i64,
    policy: Policy,
}

/// One timeline as it happened. Its WAL before `begin` is that of `parent`.
#[derive(Clone, Debug)]
struct Line {
    parent: u32,
    begin: u64,
    /// The hour in which each of its own steps was written.
    hours: Vec<i64>,
    /// When it was left.
    left: Option<i64>,
    tail: Option<Tail>,
    has_history: bool,
}

#[derive(Clone, Debug)]
struct Taken {
    id: String,
    timeline: u32,
    start: u64,
    stop: u64,
    hour: i64,
    parent: Option<String>,
    good: bool,
    pinned: bool,
    /// It shows that a timeline is in use again, which nothing else shows.
    is_return: bool,
}

/// What the control file says.
#[derive(Clone, Copy, Debug)]
struct Checkpoint {
    redo: u64,
    at: u64,
    hour: i64,
}

/// A snapshot as it was taken, with what nobody can see in it: where it ends.
#[derive(Clone, Debug)]
struct Shot {
    id: String,
    timeline: u32,
    checkpoint: Checkpoint,
    moment: u64,
}

#[derive(Clone, Debug)]
struct Lived {
    identifier: u64,
    size: SegmentSize,
    lines: Vec<Line>,
    live: u32,
    /// The timeline that the latest restore left, if it can still be gone back to.
    before: Option<u32>,
    backups: Vec<Taken>,
    checkpoint: Checkpoint,
    snapshots: Vec<Shot>,
}

/// Timeline and number of a segment file, to the writer of each of its steps.
type Files = BTreeMap<(u32, u64), Vec<u32>>;

impl Lived {
    fn new(identifier: u64, size: usize, now: i64) -> Self {
        let line = Line {
            parent: 0,
            begin: 0,
            hours: Vec::new(),
            left: None,
            tail: None,
            has_history: true,
        };
        Self {
            identifier,
            size: SegmentSize::new([1 << 20, 16 << 20, 1 << 30][size % 3]).unwrap(),
            lines: vec![line],
            live: 1,
            before: None,
            backups: Vec::new(),
            checkpoint: Checkpoint {
                redo: 0,
                at: 0,
                hour: now,
            },
            snapshots: Vec::new(),
        }
    }

    fn line(&self, timeline: u32) -> &Line {
        &self.lines[timeline as usize - 1]
    }

    fn line_mut(&mut self, timeline: u32) -> &mut Line {
        &mut self.lines[timeline as usize - 1]
    }

    fn timelines(&self) -> std::ops::RangeInclusive<u32> {
        1..=u32::try_from(self.lines.len()).unwrap()
    }

    fn end(&self, timeline: u32) -> u64 {
        let line = self.line(timeline);
        line.begin + u64::try_from(line.hours.len()).unwrap()
    }

    fn write(&mut self, steps: u64, hours: i64, now: &mut i64) {
        for _ in 0..steps {
            *now += hours;
            let live = self.live;
            self.line_mut(live).hours.push(*now);
        }
    }

    /// Who wrote this step, as a server on `timeline` has it. Past its end, whoever would write it.
    fn writer(&self, timeline: u32, step: u64) -> u32 {
        let line = self.line(timeline);
        if line.parent == 0 || step >= line.begin {
            timeline
        } else {
            self.writer(line.parent, step)
        }
    }

    /// When this step was written, as a server on `timeline` has it.
    fn hour(&self, timeline: u32, step: u64) -> Option<i64> {
        let writer = self.line(self.writer(timeline, step));
        let own = usize::try_from(step - writer.begin).unwrap();
        writer.hours.get(own).copied()
    }

    /// The timelines in the history file, newest first and with itself, each with its beginning.
    /// Without the file PostgreSQL takes the timeline to be alone.
    fn lineage(&self, timeline: u32) -> Vec<(u32, u64)> {
        let mut lineage = vec![];
        let mut next = timeline;
        while next != 0 {
            let line = self.line(next);
            lineage.push((next, line.begin));
            next = line.parent;
        }
        lineage
    }

    fn seen_lineage(&self, timeline: u32) -> Vec<(u32, u64)> {
        if self.line(timeline).has_history {
            self.lineage(timeline)
        } else {
            vec![(timeline, 0)]
        }
    }

    /// Whether recovery towards `timeline` may begin with this backup.
    fn is_on_path(&self, timeline: u32, backup: &Taken) -> bool {
        if !self.line(timeline).has_history {
            return backup.timeline == timeline;
        }
        (backup.start..backup.stop).all(|step| self.writer(timeline, step) == backup.timeline)
    }

    /// Whether recovery towards `timeline` may begin with this snapshot.
    fn leads_to(&self, timeline: u32, snapshot: &Shot) -> bool {
        if !self.line(timeline).has_history {
            return snapshot.timeline == timeline;
        }
        let first = snapshot.checkpoint.redo;
        (first..snapshot.moment.max(first + 1))
            .all(|step| self.writer(timeline, step) == snapshot.timeline)
    }

    /// The states that can be restored towards `timeline` from snapshots, each as the number of steps
    /// that it has. A snapshot holds the WAL to its own moment.
    fn restorable_from_snapshots(&self, timeline: u32, files: &Files) -> BTreeSet<u64> {
        self.snapshots
            .iter()
            .filter(|snapshot| self.leads_to(timeline, snapshot))
            .flat_map(|snapshot| snapshot.moment..=self.replay(timeline, snapshot.moment, files))
            .collect()
    }

    /// Whether WAL may be kept for this snapshot: there are not yet two checkpoints on its timeline after
    /// its own, each with a snapshot, that were before `cutoff`.
    fn may_be_needed(&self, timeline: u32, snapshot: &Shot, cutoff: i64) -> bool {
        let on_path = |shot: &&Shot| {
            let checkpoint = shot.checkpoint;
            [checkpoint.redo, checkpoint.at].iter().all(|step| {
                let writer = if self.line(timeline).has_history {
                    self.writer(timeline, *step)
                } else {
                    timeline
                };
                writer == shot.timeline
            })
        };
        let later: BTreeSet<u64> = self
            .snapshots
            .iter()
            .filter(|shot| shot.timeline == snapshot.timeline)
            .filter(|shot| shot.checkpoint.at > snapshot.checkpoint.at)
            .filter(|shot| shot.checkpoint.hour < cutoff)
            .filter(on_path)
            .map(|shot| shot.checkpoint.at)
            .collect();
        on_path(&snapshot) && later.len() < 2
    }

    fn complete_checkpoint(&mut self, back: u64, mut now: i64) {
        let at = self.end(self.live);
        let begin = self.line(self.live).begin;
        self.write(1, 0, &mut now);
        self.checkpoint = Checkpoint {
            redo: at.saturating_sub(back).max(begin),
            at,
            hour: now,
        };
    }

    /// Up to which step recovery from `start` towards `timeline` finds the WAL that a server there
    /// had.
    fn replay(&self, timeline: u32, start: u64, files: &Files) -> u64 {
        let lineage = self.seen_lineage(timeline);
        let mut current = 0;
        let mut step = start;
        loop {
            if step == start || step.is_multiple_of(STEPS) {
                let segment = step / STEPS;
                let file = lineage
                    .iter()
                    .enumerate()
                    .take_while(|(_, (timeline, _))| *timeline >= current)
                    // The oldest has always been there.
                    .filter(|(at, (_, begin))| at + 1 == lineage.len() || begin / STEPS <= segment)
                    .map(|(_, (timeline, _))| *timeline)
                    .find(|timeline| files.contains_key(&(*timeline, segment)));
                match file {
                    Some(file) => current = file,
                    None => return step,
                }
            }
            let steps = &files[&(current, step / STEPS)];
            if steps[usize::try_from(step % STEPS).unwrap()] != self.writer(timeline, step) {
                return step;
            }
            step += 1;
        }
    }

    fn files(&self) -> Files {
        let mut files = Files::new();
        for timeline in self.timelines() {
            let end = self.end(timeline);
            let is_whole = matches!(self.line(timeline).tail, Some(Tail::Whole));
            let last = if is_whole {
                end.div_ceil(STEPS)
            } else {
                end / STEPS
            };
            for segment in self.line(timeline).begin / STEPS..last {
                let steps = (segment * STEPS..(segment + 1) * STEPS).map(|step| {
                    if step < end {
                        self.writer(timeline, step)
                    } else {
                        UNWRITTEN
                    }
                });
                files.insert((timeline, segment), steps.collect());
            }
        }
        files
    }

    /// The states that can be restored towards `timeline`, each as the number of steps that it has.
    fn restorable(&self, timeline: u32, backups: &[&Taken], files: &Files) -> BTreeSet<u64> {
        let good_ids = sound(backups);
        let mut states = BTreeSet::new();
        for backup in backups {
            if good_ids.contains(&backup.id) && self.is_on_path(timeline, backup) {
                let reached = self.replay(timeline, backup.start, files);
                states.extend(backup.stop..=reached);
            }
        }
        states
    }

    /// The states of `timeline` that were there at some instant after `cutoff`.
    fn states_since(&self, timeline: u32, cutoff: i64, now: i64) -> BTreeSet<u64> {
        let until = |state: u64| match self.hour(timeline, state) {
            Some(next) => next,
            None => self.line(timeline).left.unwrap_or(now + 1),
        };
        let states = 1..=self.end(timeline);
        states.filter(|state| until(*state) > cutoff).collect()
    }

    fn segment_name(&self, timeline: u32, segment: u64) -> String {
        // Not from 0, so that numbers carry over into the middle digits.
        let per_log = (1_u64 << 32) / self.size.bytes();
        let number = per_log - 2 + segment;
        format!(
            "{timeline:08X}{:08X}{:08X}",
            number / per_log,
            number % per_log
        )
    }

    fn address(&self, step: u64) -> Lsn {
        Lsn((1 << 32) - 2 * self.size.bytes() + step * (self.size.bytes() / STEPS))
    }

    fn label_name(&self, backup: &Taken) -> String {
        let offset = (backup.start % STEPS) * (self.size.bytes() / STEPS);
        let segment = self.segment_name(backup.timeline, backup.start / STEPS);
        format!("{segment}.{offset:08X}.backup")
    }
}

/// Which backups are good with all that they build on.
fn sound(backups: &[&Taken]) -> BTreeSet<String> {
    let by_id: BTreeMap<&String, &&Taken> = backups.iter().map(|b| (&b.id, b)).collect();
    let is_sound = |id: &String| {
        let mut next = Some(id.clone());
        while let Some(id) = next {
            match by_id.get(&id) {
                Some(backup) if backup.good => next = backup.parent.clone(),
                _ => return false,
            }
        }
        true
    };
    let ids = backups.iter().map(|b| b.id.clone());
    ids.filter(is_sound).collect()
}

/// What a past left behind.
struct Left {
    clusters: Vec<Lived>,
    files: Vec<Files>,
    now: i64,
    policy: Policy,
    inventory: Inventory,
}

fn at(hour: i64) -> Timestamp {
    let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    start + SignedDuration::from_hours(hour)
}

/// Lives through the events.
fn live(past: &Past) -> Left {
    let mut now = 0;
    let mut clusters = vec![Lived::new(1_000_000, past.first_size, now)];
    for (number, event) in past.events.iter().enumerate() {
        let count = u64::try_from(clusters.len()).unwrap();
        let cluster = clusters.last_mut().unwrap();
        // Names say nothing about age.
        let id = format!("{:02}", (number * 37) % 100);
        match event {
            Event::Write { steps, hours } => cluster.write(*steps, *hours, &mut now),
            Event::Wait { hours } => now += hours,
            Event::Backup {
                steps,
                hours,
                good,
                parent,
                pinned,
            } => {
                let parent = parent.filter(|_| !cluster.backups.is_empty());
                let parent = parent.map(|p| p.get(&cluster.backups).id.clone());
                let start = cluster.end(cluster.live);
                cluster.complete_checkpoint(0, now);
                cluster.write(*steps - 1, *hours, &mut now);
                cluster.backups.push(Taken {
                    id,
                    timeline: cluster.live,
                    start,
                    stop: start + steps,
                    hour: now,
                    parent,
                    good: *good,
                    pinned: *pinned,
                    is_return: false,
                });
            }
            Event::Checkpoint { back } => cluster.complete_checkpoint(*back, now),
            Event::Snapshot => cluster.snapshots.push(Shot {
                id,
                timeline: cluster.live,
                checkpoint: cluster.checkpoint,
                moment: cluster.end(cluster.live),
            }),
            Event::Restore {
                backup,
                timeline,
                at,
                tail,
            } => cluster.restore(*backup, *timeline, *at, *tail, now),
            Event::GoBack { tail } => cluster.go_back(id, *tail, &mut now),
            Event::Replace { is_older, size } => {
                cluster.leave(Tail::Lost, now);
                let identifier = if *is_older {
                    1_000_000 - count
                } else {
                    1_000_000 + count
                };
                clusters.push(Lived::new(identifier, *size, now));
            }
        }
    }
    lose(past, clusters, now + past.wait)
}

impl Lived {
    fn leave(&mut self, tail: Tail, now: i64) {
        let live = self.live;
        self.line_mut(live).left = Some(now);
        self.line_mut(live).tail = Some(tail);
    }

    fn restore(&mut self, backup: Index, timeline: Index, at: Index, tail: Tail, now: i64) {
        if self.backups.is_empty() {
            return;
        }
        let backup = backup.get(&self.backups);
        let leads_there = |timeline: &u32| self.is_on_path(*timeline, backup);
        let timelines: Vec<u32> = self.timelines().filter(leads_there).collect();
        let parent = *timeline.get(&timelines);
        // Anywhere from the end of the backup to the end of that timeline; PostgreSQL names the
        // timeline as the parent even where it had not begun yet.
        let room = self.end(parent).saturating_sub(backup.stop) + 1;
        let begin = backup.stop + at.index(usize::try_from(room).unwrap()) as u64;
        self.leave(tail, now);
        self.before = Some(self.live);
        self.lines.push(Line {
            parent,
            begin,
            hours: Vec::new(),
            left: None,
            tail: None,
            has_history: true,
        });
        self.live = u32::try_from(self.lines.len()).unwrap();
        self.checkpoint = Checkpoint {
            redo: begin,
            at: begin,
            hour: now,
        };
    }

    fn go_back(&mut self, id: String, tail: Tail, now: &mut i64) {
        let Some(before) = self.before.take() else {
            return;
        };
        self.leave(tail, *now);
        self.line_mut(before).left = None;
        self.line_mut(before).tail = None;
        self.live = before;
        let start = self.end(before);
        self.complete_checkpoint(0, *now);
        self.backups.push(Taken {
            id,
            timeline: before,
            start,
            stop: start + 1,
            hour: *now,
            parent: None,
            good: true,
            pinned: false,
            is_return: true,
        });
    }
}

/// Takes away what was lost, and lists the rest.
fn lose(past: &Past, mut clusters: Vec<Lived>, now: i64) -> Left {
    let mut files: Vec<Files> = clusters.iter().map(Lived::files).collect();
    for lost in &past.lost_files {
        let all: Vec<_> = files
            .iter()
            .enumerate()
            .flat_map(|(of, files)| files.keys().map(move |file| (of, *file)))
            .collect();
        if !all.is_empty() {
            let (of, file) = lost.get(&all);
            files[*of].remove(file);
        }
    }
    for lost in &past.lost_histories {
        let of = lost.index(clusters.len());
        let timeline = lost.index(clusters[of].lines.len());
        // Timeline 1 has none to lose.
        if timeline > 0 {
            clusters[of].lines[timeline].has_history = false;
        }
    }
    for lost in &past.lost_backups {
        let of = lost.index(clusters.len());
        if !clusters[of].backups.is_empty() {
            let which = lost.index(clusters[of].backups.len());
            if !clusters[of].backups[which].is_return {
                clusters[of].backups.remove(which);
            }
        }
    }
    let inventory = inventory(&clusters, &files);
    Left {
        clusters,
        files,
        now,
        policy: past.policy,
        inventory,
    }
}

fn inventory(clusters: &[Lived], files: &[Files]) -> Inventory {
    let mut inventory = Inventory::default();
    for (cluster, files) in clusters.iter().zip(files) {
        let identifier = SystemIdentifier(cluster.identifier);
        let id = |timeline: u32| TimelineId::new(timeline).unwrap();
        let mut names: Vec<String> = files
            .keys()
            .map(|(timeline, segment)| cluster.segment_name(*timeline, *segment))
            .collect();
        for timeline in cluster.timelines() {
            let line = cluster.line(timeline);
            let end = cluster.end(timeline);
            if matches!(line.tail, Some(Tail::Partial)) && !end.is_multiple_of(STEPS) {
                names.push(format!(
                    "{}.partial",
                    cluster.segment_name(timeline, end / STEPS)
                ));
            }
            if timeline > 1 && line.has_history {
                names.push(format!("{timeline:08X}.history"));
                let mut entries: Vec<HistoryEntry> = cluster
                    .lineage(timeline)
                    .windows(2)
                    .map(|pair| HistoryEntry {
                        timeline: id(pair[1].0),
                        switch_point: cluster.address(pair[0].1),
                        reason: String::new(),
                    })
                    .collect();
                entries.reverse();
                let timeline = id(timeline);
                let history = TimelineHistory { timeline, entries };
                inventory.histories.insert((identifier, timeline), history);
            }
        }
        names.extend(cluster.backups.iter().map(|b| cluster.label_name(b)));
        let names = names.iter().map(|name| WalFileName::parse(name).unwrap());
        inventory.wal.extend(names.map(|name| (identifier, name)));
        inventory
            .backups
            .extend(cluster.backups.iter().map(|b| Backup {
                id: b.id.clone(),
                system_identifier: identifier,
                segment_size: cluster.size,
                timeline: id(b.timeline),
                start: cluster.address(b.start),
                stop: cluster.address(b.stop),
                stop_time: at(b.hour),
                parent: b.parent.clone(),
                good: b.good,
                pinned: b.pinned,
            }));
    }
    for cluster in clusters {
        inventory
            .snapshots
            .extend(cluster.snapshots.iter().map(|snapshot| Snapshot {
                id: snapshot.id.clone(),
                system_identifier: SystemIdentifier(cluster.identifier),
                segment_size: cluster.size,
                timeline: TimelineId::new(snapshot.timeline).unwrap(),
                redo: cluster.address(snapshot.checkpoint.redo),
                checkpoint: cluster.address(snapshot.checkpoint.at),
                checkpoint_time: at(snapshot.checkpoint.hour),
            }));
    }
    // The order in which things are listed means nothing.
    inventory.snapshots.sort_by(|a, b| a.id.cmp(&b.id));
    inventory.backups.sort_by(|a, b| a.id.cmp(&b.id));
    inventory.wal.reverse();
    inventory
}

/// What the plan did over all pasts, so that a plan that keeps everything does not pass.
#[derive(Default)]
struct Seen {
    planned: Cell<u64>,
    refused: Cell<u64>,
    backups_removed: Cell<u64>,
    segments_removed: Cell<u64>,
    segments_kept: Cell<u64>,
    partials_removed: Cell<u64>,
    labels_removed: Cell<u64>,
    chains_kept: Cell<u64>,
    old_clusters_removed: Cell<u64>,
    instants_promised: Cell<u64>,
    instants_by_snapshots: Cell<u64>,
}

fn count(cell: &Cell<u64>, more: usize) {
    cell.set(cell.get() + u64::try_from(more).unwrap());
}

macro_rules! ensure {
    ($condition:expr, $($text:tt)*) => {
        if !$condition {
            return Err(TestCaseError::fail(format!($($text)*)));
        }
    };
}

fn check(past: &Past, seen: &Seen) -> Result<(), TestCaseError> {
    let left = live(past);
    let plan = match plan(&left.inventory, &left.policy, at(left.now)) {
        Ok(plan) => plan,
        Err(refusal) => {
            count(&seen.refused, 1);
            return check_refusal(&left, &refusal);
        }
    };
    count(&seen.planned, 1);
    let removed: BTreeSet<&String> = plan.remove_backups.iter().map(|r| &r.id).collect();
    let kept: BTreeSet<&String> = plan.keep.iter().map(|k| &k.id).collect();
    let all: BTreeSet<&String> = left.inventory.backups.iter().map(|b| &b.id).collect();
    ensure!(removed.is_disjoint(&kept), "kept and removed");
    ensure!(
        removed.union(&kept).copied().collect::<BTreeSet<_>>() == all,
        "neither kept nor removed"
    );
    ensure!(
        plan.keep.iter().all(|k| !k.reasons.is_empty()),
        "kept without a reason"
    );
    check_order(&left, &plan)?;
    count(&seen.backups_removed, removed.len());

    let wal: BTreeSet<_> = left.inventory.wal.iter().collect();
    ensure!(
        plan.remove_wal.iter().all(|file| wal.contains(file)),
        "a file that is not there"
    );
    let mut clusters_with_good = 0;
    for (cluster, files) in left.clusters.iter().zip(&left.files) {
        let gone: BTreeSet<String> = plan
            .remove_wal
            .iter()
            .filter(|(identifier, _)| identifier.0 == cluster.identifier)
            .map(|(_, name)| name.to_string())
            .collect();
        ensure!(
            !gone.iter().any(|name| name.ends_with(".history")),
            "a history file goes"
        );
        let remaining: Files = files
            .iter()
            .filter(|((timeline, segment), _)| {
                !gone.contains(&cluster.segment_name(*timeline, *segment))
            })
            .map(|(file, steps)| (*file, steps.clone()))
            .collect();
        count(&seen.segments_removed, files.len() - remaining.len());
        count(&seen.segments_kept, remaining.len());
        count(
            &seen.partials_removed,
            gone.iter().filter(|n| n.ends_with(".partial")).count(),
        );
        count(
            &seen.labels_removed,
            gone.iter().filter(|n| n.ends_with(".backup")).count(),
        );
        if !files.is_empty() && remaining.is_empty() {
            count(&seen.old_clusters_removed, 1);
        }
        let backups: Vec<&Taken> = cluster.backups.iter().collect();
        let kept: Vec<&Taken> = backups
            .iter()
            .copied()
            .filter(|b| kept.contains(&b.id))
            .collect();
        check_backups(cluster, &left, &backups, &kept, seen)?;
        check_calendar(&left, &backups, &kept)?;
        check_restores(cluster, &left, &backups, &kept, files, &remaining, seen)?;
        check_snapshots(cluster, &left, &kept, files, &remaining, seen)?;
        check_labels(cluster, &kept, &gone)?;
        clusters_with_good += usize::from(!sound(&backups).is_empty());
        check_nothing_useless_stays(cluster, &left, &backups, &kept, &remaining)?;
    }

    // P4: as long as the youngest cluster has no good backup, no WAL goes.
    let youngest = left.clusters.iter().max_by_key(|c| c.identifier).unwrap();
    let has_wal = left.inventory.wal.iter().any(|(identifier, name)| {
        identifier.0 == youngest.identifier && !matches!(name, WalFileName::History(_))
    });
    let backups: Vec<&Taken> = youngest.backups.iter().collect();
    if sound(&backups).is_empty() && (has_wal || !backups.is_empty()) {
        ensure!(
            plan.remove_wal.is_empty(),
            "WAL goes although the youngest cluster has no good backup"
        );
    }
    ensure!(
        clusters_with_good > 0 || removed.is_empty(),
        "a bad backup goes without a good one"
    );

    check_snapshots_protect_nothing_else(&left, &plan)?;
    check_second_run(&left, &plan)
}

fn check_refusal(left: &Left, refusal: &Refusal) -> Result<(), TestCaseError> {
    let good = left.clusters.iter().flat_map(|cluster| {
        let backups: Vec<&Taken> = cluster.backups.iter().collect();
        let good_ids = sound(&backups);
        let good = backups
            .into_iter()
            .filter(move |b| good_ids.contains(&b.id));
        good.map(|b| b.hour)
    });
    let is_old = good
        .max()
        .is_some_and(|newest| left.now - newest > 24 * (i64::from(left.policy.days) + 30));
    ensure!(
        matches!(refusal, Refusal::NoRecentBackup { .. }) && is_old,
        "refused: {refusal}"
    );
    Ok(())
}

/// Nothing goes because there are snapshots, and when one cannot be read no WAL goes at all.
fn check_snapshots_protect_nothing_else(left: &Left, with: &Plan) -> Result<(), TestCaseError> {
    let now = at(left.now);
    let mut there = left.inventory.clone();
    there.snapshots.clear();
    if let Ok(without) = plan(&there, &left.policy, now) {
        ensure!(
            with.remove_backups == without.remove_backups && with.keep == without.keep,
            "other backups go because there are snapshots"
        );
        ensure!(
            with.remove_wal
                .iter()
                .all(|file| without.remove_wal.contains(file)),
            "WAL goes because there are snapshots"
        );
    }
    there.unreadable_snapshots = vec!["torn".to_owned()];
    if let Ok(unread) = plan(&there, &left.policy, now) {
        ensure!(
            unread.remove_wal.is_empty() && unread.remove_backups == with.remove_backups,
            "WAL goes although a snapshot cannot be read"
        );
    }
    Ok(())
}

/// What builds on another backup goes before it.
fn check_order(left: &Left, plan: &Plan) -> Result<(), TestCaseError> {
    let mut gone = BTreeSet::new();
    for removed in &plan.remove_backups {
        gone.insert(&removed.id);
        let mut builds_on_it = left.inventory.backups.iter();
        ensure!(
            builds_on_it.all(|b| b.parent.as_ref() != Some(&removed.id) || gone.contains(&b.id)),
            "{} goes before what builds on it",
            removed.id
        );
    }
    Ok(())
}

fn check_backups(
    cluster: &Lived,
    left: &Left,
    backups: &[&Taken],
    kept: &[&Taken],
    seen: &Seen,
) -> Result<(), TestCaseError> {
    let good_ids = sound(backups);
    let is_kept = |id: &String| kept.iter().any(|b| b.id == *id);
    for backup in backups {
        ensure!(
            !backup.pinned || is_kept(&backup.id),
            "pinned {} goes",
            backup.id
        );
        if let Some(parent) = &backup.parent
            && is_kept(&backup.id)
            && backups.iter().any(|b| b.id == *parent)
        {
            ensure!(is_kept(parent), "{} stays without {parent}", backup.id);
            count(&seen.chains_kept, 1);
        }
        if !good_ids.contains(&backup.id) && !is_kept(&backup.id) {
            let mut good = left.clusters.iter().flat_map(|cluster| {
                let backups: Vec<&Taken> = cluster.backups.iter().collect();
                let good_ids = sound(&backups);
                backups
                    .into_iter()
                    .filter(move |b| good_ids.contains(&b.id))
            });
            ensure!(
                good.any(|good| good.hour >= backup.hour),
                "bad {} goes without a better one",
                backup.id
            );
        }
    }

    // The newest good ones of the cluster that was backed up last.
    let last_backup = left
        .clusters
        .iter()
        .flat_map(|c| c.backups.iter().map(|b| (b.hour, c.identifier)));
    let in_use = last_backup.max_by_key(|(hour, identifier)| (*hour, *identifier));
    let backed_up_last = left.clusters.iter().filter(|c| {
        c.backups
            .iter()
            .any(|b| Some(b.hour) == in_use.map(|(hour, _)| hour))
    });
    if backed_up_last.count() == 1
        && in_use.is_some_and(|(_, identifier)| identifier == cluster.identifier)
    {
        let minimum = usize::try_from(left.policy.minimum_good.max(1)).unwrap();
        let mut good: Vec<&&Taken> = backups
            .iter()
            .filter(|b| good_ids.contains(&b.id))
            .collect();
        good.sort_by_key(|b| (b.hour, b.stop));
        let kept_good = good.iter().filter(|b| is_kept(&b.id)).count();
        ensure!(
            kept_good >= minimum.min(good.len()),
            "only {kept_good} good backups stay"
        );
        if let Some(newest) = good.last() {
            ensure!(
                is_kept(&newest.id),
                "the newest good backup {} goes",
                newest.id
            );
        }
    }
    Ok(())
}

/// The newest good backup of every day, week and month stays; found by walking back through the
/// calendar.
fn check_calendar(left: &Left, backups: &[&Taken], kept: &[&Taken]) -> Result<(), TestCaseError> {
    let good_ids = sound(backups);
    let date = |hour: i64| TimeZone::UTC.to_datetime(at(hour)).date();
    let newest_where = |is_in: &dyn Fn(jiff::civil::Date) -> bool| {
        let good = backups
            .iter()
            .filter(|b| good_ids.contains(&b.id) && is_in(date(b.hour)));
        good.map(|b| (b.hour, b.stop)).max()
    };
    let ensure_kept = |newest: Option<(i64, u64)>, what: &str| {
        let mut stays = kept.iter().filter(|b| good_ids.contains(&b.id));
        let is_there = newest.is_none_or(|newest| stays.any(|b| (b.hour, b.stop) == newest));
        if is_there {
            Ok(())
        } else {
            Err(TestCaseError::fail(format!("the newest of a {what} goes")))
        }
    };
    let mut day = date(left.now);
    for _ in 0..left.policy.daily {
        ensure_kept(newest_where(&|date| date == day), "day")?;
        day = day.yesterday().unwrap();
    }
    let week = |date: jiff::civil::Date| -> (i16, i8) {
        let week: ISOWeekDate = date.iso_week_date();
        (week.year(), week.week())
    };
    let mut day = date(left.now);
    for _ in 0..left.policy.weekly {
        ensure_kept(newest_where(&|date| week(date) == week(day)), "week")?;
        for _ in 0..7 {
            day = day.yesterday().unwrap();
        }
    }
    let mut day = date(left.now);
    for _ in 0..left.policy.monthly {
        let in_month = |date: jiff::civil::Date| date.first_of_month() == day.first_of_month();
        ensure_kept(newest_where(&in_month), "month")?;
        day = day.first_of_month().yesterday().unwrap();
    }
    Ok(())
}

fn check_restores(
    cluster: &Lived,
    left: &Left,
    backups: &[&Taken],
    kept: &[&Taken],
    files: &Files,
    remaining: &Files,
    seen: &Seen,
) -> Result<(), TestCaseError> {
    let cutoff = left.now - 24 * i64::from(left.policy.days);
    let good_ids = sound(backups);
    let first_of_window = {
        let mut good: Vec<&&Taken> = backups
            .iter()
            .filter(|b| good_ids.contains(&b.id))
            .collect();
        good.sort_by_key(|b| (b.hour, b.stop));
        let before = good.iter().rposition(|b| b.hour <= cutoff);
        good.get(before.unwrap_or(0)).copied().copied()
    };
    let youngest = left.clusters.iter().map(|c| c.identifier).max();
    for timeline in cluster.timelines() {
        // Every instant of the window that could be restored still can be.
        let before = cluster.restorable(timeline, backups, files);
        let after = cluster.restorable(timeline, kept, remaining);
        for state in cluster.states_since(timeline, cutoff, left.now) {
            if before.contains(&state) {
                count(&seen.instants_promised, 1);
                ensure!(
                    after.contains(&state),
                    "{state} steps of timeline {timeline} cannot be restored any more"
                );
            }
        }
        // Every backup that stays can be restored to its own end.
        for backup in kept {
            if good_ids.contains(&backup.id) && cluster.is_on_path(timeline, backup) {
                let before = cluster.replay(timeline, backup.start, files);
                let after = cluster.replay(timeline, backup.start, remaining);
                ensure!(
                    before < backup.stop || after >= backup.stop,
                    "{} cannot be restored any more towards timeline {timeline}",
                    backup.id
                );
            }
        }
        // From the first backup of the window on, everything stays as it was, on every timeline.
        if let Some(first) = first_of_window
            && youngest == Some(cluster.identifier)
            && cluster.line(timeline).has_history
            && cluster.is_on_path(timeline, first)
        {
            let before = cluster.replay(timeline, first.start, files);
            let after = cluster.replay(timeline, first.start, remaining);
            ensure!(
                before == after,
                "from {} towards timeline {timeline} only {after} steps, not {before}",
                first.id
            );
        }
    }

    // The newest that can be restored at all stays so.
    let restores = |backups: &[&Taken], files: &Files, backup: &Taken| {
        sound(backups).contains(&backup.id)
            && cluster.timelines().any(|timeline| {
                cluster.is_on_path(timeline, backup)
                    && cluster.replay(timeline, backup.start, files) >= backup.stop
            })
    };
    let newest = backups
        .iter()
        .filter(|b| restores(backups, files, b))
        .max_by_key(|b| (b.hour, b.stop));
    if let Some(newest) = newest
        && youngest == Some(cluster.identifier)
    {
        ensure!(
            kept.iter().any(|b| b.id == newest.id) && restores(kept, remaining, newest),
            "the newest backup that can be restored, {}, cannot any more",
            newest.id
        );
    }
    Ok(())
}

/// Every instant of the window to which a snapshot led can still be restored from one.
fn check_snapshots(
    cluster: &Lived,
    left: &Left,
    kept: &[&Taken],
    files: &Files,
    remaining: &Files,
    seen: &Seen,
) -> Result<(), TestCaseError> {
    let cutoff = left.now - 24 * i64::from(left.policy.days);
    for timeline in cluster.timelines() {
        let before = cluster.restorable_from_snapshots(timeline, files);
        let after = cluster.restorable_from_snapshots(timeline, remaining);
        let by_backups = cluster.restorable(timeline, kept, remaining);
        for state in cluster.states_since(timeline, cutoff, left.now) {
            if before.contains(&state) {
                ensure!(
                    after.contains(&state),
                    "no snapshot leads to {state} steps of timeline {timeline} any more"
                );
                count(
                    &seen.instants_by_snapshots,
                    usize::from(!by_backups.contains(&state)),
                );
            }
        }
    }
    Ok(())
}

fn check_labels(
    cluster: &Lived,
    kept: &[&Taken],
    gone: &BTreeSet<String>,
) -> Result<(), TestCaseError> {
    for backup in kept {
        ensure!(
            !gone.contains(&cluster.label_name(backup)),
            "the label of {} goes",
            backup.id
        );
    }
    Ok(())
}

/// Segments from before every backup that stays go, unless nobody can say what they belong to.
fn check_nothing_useless_stays(
    cluster: &Lived,
    left: &Left,
    backups: &[&Taken],
    kept: &[&Taken],
    remaining: &Files,
) -> Result<(), TestCaseError> {
    let cutoff = left.now - 24 * i64::from(left.policy.days);
    let good_ids = sound(backups);
    let all_have_good_backups = left.clusters.iter().all(|cluster| {
        let backups: Vec<&Taken> = cluster.backups.iter().collect();
        !sound(&backups).is_empty()
    });
    if !all_have_good_backups {
        return Ok(());
    }
    for (timeline, segment) in remaining.keys() {
        let is_led_to = backups
            .iter()
            .any(|b| good_ids.contains(&b.id) && cluster.is_on_path(*timeline, b));
        let mut may_use = kept.iter().filter(|b| cluster.is_on_path(*timeline, b));
        let mut snapshots = cluster.snapshots.iter();
        ensure!(
            may_use.any(|b| b.start / STEPS <= *segment)
                || snapshots.any(|s| {
                    s.checkpoint.redo / STEPS <= *segment
                        && cluster.timelines().any(|target| {
                            let mut lineage = cluster.seen_lineage(target).into_iter();
                            lineage.any(|(ancestor, _)| ancestor == *timeline)
                                && cluster.may_be_needed(target, s, cutoff)
                        })
                })
                || !is_led_to
                || !cluster.line(*timeline).has_history,
            "{} stays for nothing",
            cluster.segment_name(*timeline, *segment)
        );
    }
    Ok(())
}

/// A second run finds nothing more to do.
fn check_second_run(left: &Left, plan_: &Plan) -> Result<(), TestCaseError> {
    let mut after = left.inventory.clone();
    after
        .backups
        .retain(|b| plan_.keep.iter().any(|k| k.id == b.id));
    after.wal.retain(|file| !plan_.remove_wal.contains(file));
    let second = plan(&after, &left.policy, at(left.now));
    match second {
        Ok(second) => {
            ensure!(
                second.remove_backups.is_empty() && second.remove_wal.is_empty(),
                "a second run removes {:?} {:?}",
                second.remove_backups,
                second
                    .remove_wal
                    .iter()
                    .map(|(_, name)| name.to_string())
                    .collect::<Vec<_>>()
            );
            Ok(())
        }
        Err(refusal) => Err(TestCaseError::fail(format!(
            "a second run is refused: {refusal}"
        ))),
    }
}

fn tails() -> impl Strategy<Value = Tail> {
    prop_oneof![Just(Tail::Lost), Just(Tail::Partial), Just(Tail::Whole)]
}

fn events() -> impl Strategy<Value = Event> {
    let backup = (
        1_u64..6,
        0_i64..5,
        prop::bool::weighted(0.85),
        prop::option::weighted(0.3, any::<Index>()),
        prop::bool::weighted(0.07),
    );
    prop_oneof![
        10 => (1_u64..12, 0_i64..40).prop_map(|(steps, hours)| Event::Write { steps, hours }),
        4 => (0_i64..500).prop_map(|hours| Event::Wait { hours }),
        2 => (0_u64..6).prop_map(|back| Event::Checkpoint { back }),
        1 => Just(Event::Snapshot),
        10 => backup.prop_map(|(steps, hours, good, parent, pinned)| Event::Backup { steps, hours, good, parent, pinned }),
        5 => (any::<Index>(), any::<Index>(), any::<Index>(), tails())
            .prop_map(|(backup, timeline, at, tail)| Event::Restore { backup, timeline, at, tail }),
        2 => tails().prop_map(|tail| Event::GoBack { tail }),
        1 => (prop::bool::weighted(0.2), 0_usize..3).prop_map(|(is_older, size)| Event::Replace { is_older, size }),
    ]
}

prop_compose! {
    fn pasts()(
        events in prop::collection::vec(events(), 1..24),
        first_size in 0_usize..3,
        lost_files in prop::collection::vec(any::<Index>(), 0..4),
        lost_histories in prop::collection::vec(any::<Index>(), 0..2),
        lost_backups in prop::collection::vec(any::<Index>(), 0..2),
        wait in 0_i64..800,
        days in 0_u32..45,
        daily in 0_u32..9,
        weekly in 0_u32..5,
        monthly in 0_u32..4,
        minimum_good in 0_u32..4,
    ) -> Past {
        Past {
            events,
            first_size,
            lost_files,
            lost_histories,
            lost_backups,
            wait,
            policy: Policy { days, daily, weekly, monthly, minimum_good },
        }
    }
}

#[test]
fn p1_over_random_pasts_every_promised_restore_stays_possible() {
    let cases = match std::env::var("BACKSTAY_HISTORIES") {
        Ok(number) => number.parse().expect("BACKSTAY_HISTORIES is a number"),
        Err(_) => 10_000,
    };
    let seen = Seen::default();
    let mut runner = TestRunner::new(Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    });
    if let Err(err) = runner.run(&pasts(), |past| check(&past, &seen)) {
        panic!("{err}");
    }
    // A plan that keeps everything, or a past in which nothing is promised, would pass all of the
    // above.
    let enough = |what: &str, cell: &Cell<u64>, each: u64| {
        let total = cell.get();
        println!("{what}: {total}");
        assert!(
            total * each >= u64::from(cases),
            "{what}: only {total} in {cases} pasts"
        );
    };
    enough("plans", &seen.planned, 2);
    enough("refusals", &seen.refused, 1000);
    enough("backups removed", &seen.backups_removed, 2);
    enough("segments removed", &seen.segments_removed, 1);
    enough("segments kept", &seen.segments_kept, 1);
    enough("partial segments removed", &seen.partials_removed, 200);
    enough("labels removed", &seen.labels_removed, 10);
    enough(
        "incremental backups kept with what they build on",
        &seen.chains_kept,
        10,
    );
    enough(
        "clusters of which all WAL is removed",
        &seen.old_clusters_removed,
        100,
    );
    enough("promised instants", &seen.instants_promised, 1);
    enough(
        "promised instants that only snapshots lead to",
        &seen.instants_by_snapshots,
        10,
    );
}
