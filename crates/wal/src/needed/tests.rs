use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::HistoryEntry;

const MIB: u64 = 1 << 20;

fn id(timeline: u32) -> TimelineId {
    TimelineId::new(timeline).unwrap()
}

fn mib(mib: u64) -> SegmentSize {
    SegmentSize::new(mib * MIB).unwrap()
}

fn history(timeline: u32, entries: &[(u32, u64)]) -> TimelineHistory {
    TimelineHistory {
        timeline: id(timeline),
        entries: entries
            .iter()
            .map(|&(timeline, switch_point)| HistoryEntry {
                timeline: id(timeline),
                switch_point: Lsn(switch_point),
                reason: String::new(),
            })
            .collect(),
    }
}

fn texts(segments: &[SegmentName]) -> Vec<String> {
    segments.iter().map(ToString::to_string).collect()
}

/// The segments as text, for a backup on `timeline` and segments of 16 MiB.
fn needed(history: &TimelineHistory, timeline: u32, start: u64, end: u64) -> Vec<String> {
    texts(
        &segments_needed(
            history,
            (id(timeline), Lsn(start)),
            Lsn(end),
            SegmentSize::DEFAULT,
        )
        .unwrap(),
    )
}

#[test]
fn the_first_and_the_last_segment_are_those_that_hold_the_first_and_the_last_byte() {
    let history = TimelineHistory::without_parents(id(1));
    assert_eq!(
        needed(&history, 1, 0x0300_0028, 0x0500_0001),
        [
            "000000010000000000000003",
            "000000010000000000000004",
            "000000010000000000000005"
        ]
    );
    assert_eq!(
        needed(&history, 1, 0x0300_0028, 0x0500_0000),
        ["000000010000000000000003", "000000010000000000000004"]
    );
    assert_eq!(
        needed(&history, 1, 0x03FF_FFFF, 0x0400_0000),
        ["000000010000000000000003"]
    );
    assert_eq!(needed(&history, 1, 0x0300_0028, 0x0300_0028), [""; 0]);
}

#[test]
fn the_segments_of_one_log_are_followed_by_those_of_the_next() {
    let history = TimelineHistory::without_parents(id(0x1F));
    assert_eq!(
        needed(&history, 0x1F, 0xFFFF_0000, 0x1_0000_0001),
        ["0000001F00000000000000FF", "0000001F0000000100000000"]
    );
    let last = u64::MAX;
    assert_eq!(
        needed(&history, 0x1F, last - 1, last),
        ["0000001FFFFFFFFF000000FF"]
    );
}

/// What 15.20 asked of `restore_command` when it followed the histories in `fixtures/15.20`.
#[test]
fn the_segments_that_a_real_recovery_read_are_needed() {
    let third = history(3, &[(1, 0x0713_96F0), (2, 0x0800_7E00)]);
    assert_eq!(
        needed(&third, 1, 0x0600_0028, 0x0900_0000),
        [
            "000000010000000000000006",
            "000000020000000000000007",
            "000000030000000000000008"
        ]
    );
    let fourth = history(4, &[(1, 0x0713_96F0), (2, 0x0800_7E00), (3, 0x0600_5050)]);
    assert_eq!(
        needed(&fourth, 1, 0x0300_0028, 0x0800_0000),
        [
            "000000010000000000000003",
            "000000010000000000000004",
            "000000010000000000000005",
            "000000040000000000000006",
            "000000040000000000000007"
        ]
    );
}

#[test]
fn a_recovery_that_ends_at_the_change_of_timelines_reads_the_older_file_or_a_substitute() {
    let history = history(3, &[(1, 0x0713_96F0), (2, 0x0713_9800)]);
    let older = SegmentName::parse("000000010000000000000007").unwrap();
    assert_eq!(
        needed(&history, 1, 0x0700_0028, 0x0713_96F0),
        [older.to_string()]
    );
    assert_eq!(
        texts(&substitutes(&history, older, SegmentSize::DEFAULT)),
        ["000000030000000000000007", "000000020000000000000007"]
    );
    assert_eq!(
        needed(&history, 1, 0x0700_0028, 0x0713_96F1),
        ["000000020000000000000007"]
    );
    let before = SegmentName::parse("000000010000000000000006").unwrap();
    assert_eq!(substitutes(&history, before, SegmentSize::DEFAULT), []);
}

#[test]
fn a_timeline_that_begins_at_the_start_of_a_segment_has_no_copy_of_the_one_before() {
    let history = history(2, &[(1, 0x0600_0000)]);
    assert_eq!(
        needed(&history, 1, 0x0500_0028, 0x0600_0001),
        ["000000010000000000000005", "000000020000000000000006"]
    );
    let last = SegmentName::parse("000000010000000000000005").unwrap();
    assert_eq!(substitutes(&history, last, SegmentSize::DEFAULT), []);
}

#[test]
fn a_backup_that_is_not_on_the_path_is_refused() {
    let history = history(3, &[(1, 0x0713_96F0)]);
    let refused = |timeline: u32, start: u64, end: u64| {
        segments_needed(
            &history,
            (id(timeline), Lsn(start)),
            Lsn(end),
            SegmentSize::DEFAULT,
        )
        .unwrap_err()
        .to_string()
    };
    assert_eq!(
        refused(2, 0x0500_0028, 0x0600_0000),
        "timeline 3 does not lead through 0/5000028 on timeline 2"
    );
    assert_eq!(
        refused(1, 0x0713_96F0, 0x0800_0000),
        "timeline 3 left timeline 1 at 0/71396F0, before 0/71396F0"
    );
    assert_eq!(
        refused(3, 0x0700_0000, 0x0800_0000),
        "timeline 3 does not lead through 0/7000000 on timeline 3"
    );
    assert_eq!(
        refused(1, 0x0700_0000, 0x06FF_FFFF),
        "0/6FFFFFF is before 0/7000000"
    );
}

/// A cluster's past, as it happened: each timeline grew out of another one at some address and went
/// on to some address.
///
/// Nothing here knows of history files or of the functions under test. Addresses are in steps of a
/// quarter of a segment, from `base` on.
#[derive(Clone, Debug)]
struct Past {
    base: u64,
    size: SegmentSize,
    /// For each timeline from 1 on: the timeline that its history file names last, its beginning,
    /// its end.
    timelines: Vec<(u32, u64, u64)>,
}

impl Past {
    const STEPS: u64 = 4;

    fn step(&self) -> u64 {
        self.size.bytes() / Self::STEPS
    }

    fn address(&self, step: u64) -> u64 {
        self.base + step * self.step()
    }

    /// Which timeline wrote the WAL of this step, as a server on `timeline` has it.
    fn writer(&self, timeline: u32, step: u64) -> u32 {
        let (parent, begin, _) = self.timelines[timeline as usize - 1];
        if timeline == 1 || step >= begin {
            timeline
        } else {
            self.writer(parent, step)
        }
    }

    /// The timelines that the history file of `timeline` lists, newest first and with itself, each
    /// with its beginning.
    fn lineage(&self, timeline: u32) -> Vec<(u32, u64)> {
        let mut lineage = Vec::new();
        let mut next = timeline;
        loop {
            let (parent, begin, _) = self.timelines[next as usize - 1];
            lineage.push((next, begin));
            if next == 1 {
                return lineage;
            }
            next = parent;
        }
    }

    fn history(&self, timeline: u32) -> TimelineHistory {
        let mut entries: Vec<_> = self
            .lineage(timeline)
            .windows(2)
            .map(|pair| (pair[1].0, self.address(pair[0].1)))
            .collect();
        entries.reverse();
        history(timeline, &entries)
    }

    /// Every segment file that was ever completed, by name: who wrote each of its steps.
    fn files(&self) -> BTreeMap<String, Vec<u32>> {
        let mut files = BTreeMap::new();
        for (index, &(_, begin, end)) in self.timelines.iter().enumerate() {
            let timeline = u32::try_from(index).unwrap() + 1;
            for segment in begin / Self::STEPS..end.div_ceil(Self::STEPS) {
                let steps = (0..Self::STEPS)
                    .map(|within| self.writer(timeline, segment * Self::STEPS + within));
                files.insert(self.name(timeline, segment), steps.collect());
            }
        }
        files
    }

    fn name(&self, timeline: u32, segment: u64) -> String {
        let number = self.base / self.size.bytes() + segment;
        let per_log = (1 << 32) / self.size.bytes();
        format!(
            "{timeline:08X}{:08X}{:08X}",
            number / per_log,
            number % per_log
        )
    }

    /// Replays step by step as PostgreSQL does, and says which files it read, or nothing if it came
    /// to a step that is in no file or is not the WAL that a server on `target` had.
    fn replay(
        &self,
        target: u32,
        from: u64,
        to: u64,
        files: &BTreeMap<String, Vec<u32>>,
    ) -> Option<BTreeSet<String>> {
        let lineage = self.lineage(target);
        let mut read = BTreeSet::new();
        let mut current = 0;
        let mut open: Option<(u64, String)> = None;
        for step in from..to {
            let segment = step / Self::STEPS;
            if open.as_ref().is_none_or(|(opened, _)| *opened != segment) {
                let (timeline, name) = lineage
                    .iter()
                    .take_while(|(timeline, _)| *timeline >= current)
                    .filter(|(timeline, begin)| *timeline == 1 || begin / Self::STEPS <= segment)
                    .map(|(timeline, _)| (*timeline, self.name(*timeline, segment)))
                    .find(|(_, name)| files.contains_key(name))?;
                current = timeline;
                open = Some((segment, name));
            }
            let (_, name) = open.as_ref()?;
            let found = files[name][usize::try_from(step % Self::STEPS).unwrap()];
            if found != self.writer(target, step) {
                return None;
            }
            read.insert(name.clone());
        }
        Some(read)
    }
}

fn pasts() -> impl Strategy<Value = Past> {
    let branch = (any::<prop::sample::Index>(), 1_u64..24, 1_u64..16);
    (
        proptest::sample::select(vec![1_u64, 4, 16, 64, 1024]).prop_map(mib),
        // Some lie across the end of a log, so that names carry over.
        proptest::sample::select(vec![0_u64, 1, 2]),
        8_u64..32,
        proptest::collection::vec(branch, 0..12),
    )
        .prop_map(|(size, log, first_end, branches)| {
            let base = if log == 0 {
                0
            } else {
                (log << 32) - 2 * size.bytes()
            };
            let mut timelines = vec![(0, 0, first_end)];
            for (parent, begin, length) in branches {
                let parent = parent.index(timelines.len());
                // Before the parent's own beginning as well: that is what a restore to an earlier
                // point makes.
                let begin = begin.min(timelines[parent].2);
                timelines.push((u32::try_from(parent).unwrap() + 1, begin, begin + length));
            }
            Past {
                base,
                size,
                timelines,
            }
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_is_needed_is_what_a_replay_reads_and_no_less(
        past in pasts(),
        target: prop::sample::Index,
        from_timeline: prop::sample::Index,
        from: prop::sample::Index,
        length in 1_u64..32,
    ) {
        let target = u32::try_from(target.index(past.timelines.len())).unwrap() + 1;
        let (_, _, target_end) = past.timelines[target as usize - 1];
        let from = u64::try_from(from.index(usize::try_from(target_end).unwrap())).unwrap();
        let to = (from + length).min(target_end);
        let history = past.history(target);
        let all = past.files();

        let writer = past.writer(target, from);
        let other = u32::try_from(from_timeline.index(past.timelines.len())).unwrap() + 1;
        let start = Lsn(past.address(from));
        let end = Lsn(past.address(to));
        if other != writer {
            prop_assert!(segments_needed(&history, (id(other), start), end, past.size).is_err());
        }
        let needed = segments_needed(&history, (id(writer), start), end, past.size).unwrap();

        // With those files alone the replay gets there.
        let only: BTreeMap<_, _> = needed
            .iter()
            .map(|name| (name.to_string(), all[&name.to_string()].clone()))
            .collect();
        prop_assert_eq!(only.len(), needed.len());
        let read = past.replay(target, from, to, &only);
        prop_assert_eq!(read.as_ref(), Some(&only.keys().cloned().collect()));

        // With any one of them gone it does not.
        for name in only.keys() {
            let mut fewer = only.clone();
            fewer.remove(name);
            prop_assert_eq!(past.replay(target, from, to, &fewer), None);
        }

        // With everything there, what it reads is what is needed, or a substitute for it.
        let read = past.replay(target, from, to, &all).unwrap();
        for name in &needed {
            let newest_first: Vec<_> = substitutes(&history, *name, past.size)
                .into_iter()
                .chain([*name])
                .map(|name| name.to_string())
                .filter(|name| all.contains_key(name))
                .collect();
            prop_assert!(read.contains(&newest_first[0]));
            // Each substitute does as well.
            for substitute in newest_first {
                let mut instead = only.clone();
                instead.remove(&name.to_string());
                instead.insert(substitute.clone(), all[&substitute].clone());
                prop_assert!(past.replay(target, from, to, &instead).is_some(), "{}", substitute);
            }
        }
    }
}
