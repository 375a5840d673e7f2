//! Whole plans for small inventories.
#![expect(
    clippy::needless_raw_string_hashes,
    reason = "expect-test writes them when it updates a text"
)]

use expect_test::{Expect, expect};
use wal::{HistoryEntry, Lsn, SegmentName, SegmentSize, TimelineHistory, WalFileName};

use super::*;
use crate::Backup;

const CLUSTER: SystemIdentifier = SystemIdentifier(7_710_581_305_782_851_992);
const YOUNGER: SystemIdentifier = SystemIdentifier(7_720_000_000_000_000_000);

/// Noon on a Wednesday.
const NOW: &str = "2026-10-14T12:00:00Z";

const KEEP_LITTLE: Policy = Policy {
    days: 7,
    daily: 0,
    weekly: 0,
    monthly: 0,
    minimum_good: 1,
};

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// So many days before [`NOW`].
fn days_ago(days: i64) -> Timestamp {
    at(NOW) - SignedDuration::from_hours(24 * days)
}

fn id(timeline: u32) -> TimelineId {
    TimelineId::new(timeline).unwrap()
}

/// A good backup that needs the segments from `first` to `last`.
fn backup(name: &str, timeline: u32, (first, last): (u64, u64), stop_time: Timestamp) -> Backup {
    let size = SegmentSize::DEFAULT;
    Backup {
        id: name.to_owned(),
        system_identifier: CLUSTER,
        segment_size: size,
        timeline: id(timeline),
        start: Lsn(first * size.bytes() + 0x28),
        stop: Lsn(last * size.bytes() + 0x100),
        stop_time,
        parent: None,
        good: true,
        pinned: false,
    }
}

fn bad(backup: Backup) -> Backup {
    Backup {
        good: false,
        ..backup
    }
}

fn pinned(backup: Backup) -> Backup {
    Backup {
        pinned: true,
        ..backup
    }
}

fn on(parent: &str, backup: Backup) -> Backup {
    Backup {
        parent: Some(parent.to_owned()),
        ..backup
    }
}

fn of(identifier: SystemIdentifier, backup: Backup) -> Backup {
    Backup {
        system_identifier: identifier,
        ..backup
    }
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

fn segments(timeline: u32, numbers: std::ops::RangeInclusive<u64>) -> Vec<WalFileName> {
    numbers
        .map(|number| SegmentName::from_number(id(timeline), number, SegmentSize::DEFAULT).unwrap())
        .map(WalFileName::Segment)
        .collect()
}

fn files(names: &[&str]) -> Vec<WalFileName> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

fn inventory(
    backups: &[Backup],
    wal: &[Vec<WalFileName>],
    histories: &[TimelineHistory],
) -> Inventory {
    Inventory {
        backups: backups.to_vec(),
        wal: wal
            .concat()
            .into_iter()
            .map(|name| (CLUSTER, name))
            .collect(),
        histories: histories
            .iter()
            .map(|h| ((CLUSTER, h.timeline), h.clone()))
            .collect(),
        ..Inventory::default()
    }
}

/// The plan as text. Segments in a row are shown as the first and the last of them.
fn shown(inventory: &Inventory, policy: &Policy) -> String {
    let plan = match plan(inventory, policy, at(NOW)) {
        Ok(plan) => plan,
        Err(refusal) => return format!("{refusal}\nhint: {}", refusal.hint()),
    };
    let mut lines = Vec::new();
    for kept in &plan.keep {
        lines.push(format!("keep {}: {}", kept.id, kept.reasons.join("; ")));
    }
    for removed in &plan.remove_backups {
        lines.push(format!("remove {}: {}", removed.id, removed.reason));
    }
    for (identifier, name) in &plan.remove_wal {
        let of = if *identifier == CLUSTER {
            ""
        } else {
            " of the younger"
        };
        lines.push(format!("remove {name}{of}"));
    }
    for kept in &plan.keep_wal_for {
        lines.push(format!(
            "keep WAL for {}: {}",
            kept.id,
            kept.reasons.join("; ")
        ));
    }
    for wal in &plan.keep_wal_from {
        let of = if wal.system_identifier == CLUSTER {
            ""
        } else {
            " of the younger"
        };
        lines.push(format!("timeline {}{of}: {}", wal.timeline, wal.text));
    }
    lines.join("\n") + "\n"
}

#[track_caller]
fn plans(inventory: &Inventory, policy: &Policy, expected: &Expect) {
    expected.assert_eq(&shown(inventory, policy));
}

#[test]
fn the_window_begins_with_the_newest_backup_that_ended_before_it() {
    let there = inventory(
        &[
            backup("a", 1, (2, 2), days_ago(20)),
            backup("b", 1, (4, 5), days_ago(8)),
            backup("c", 1, (8, 8), days_ago(1)),
        ],
        &[segments(1, 2..=9)],
        &[],
    );
    plans(
        &there,
        &KEEP_LITTLE,
        &expect![[r#"
        keep b: begins the last 7 days
        keep c: in the last 7 days; the newest good
        remove a: older than 7 days, and not the newest of a day, week or month to keep
        remove 000000010000000000000002
        remove 000000010000000000000003
        timeline 1: from 000000010000000000000004 on
    "#]],
    );
}

#[test]
fn without_a_backup_before_the_window_the_oldest_one_begins_it() {
    let there = inventory(
        &[
            backup("a", 1, (3, 3), days_ago(2)),
            backup("b", 1, (5, 5), days_ago(1)),
        ],
        &[segments(1, 1..=6)],
        &[],
    );
    plans(
        &there,
        &KEEP_LITTLE,
        &expect![[r#"
        keep a: begins the last 7 days
        keep b: in the last 7 days; the newest good
        remove 000000010000000000000001
        remove 000000010000000000000002
        timeline 1: from 000000010000000000000003 on
    "#]],
    );
}

#[test]
fn the_newest_backup_of_a_day_a_week_and_a_month_stays_with_the_wal_it_needs() {
    let there = inventory(
        &[
            backup("august", 1, (1, 1), at("2026-08-30T10:00:00Z")),
            backup("september, early", 1, (3, 3), at("2026-09-01T10:00:00Z")),
            backup("september, late", 1, (5, 6), at("2026-09-30T23:59:59Z")),
            backup("sunday", 1, (8, 8), at("2026-10-11T23:59:59Z")),
            backup("monday", 1, (10, 10), at("2026-10-12T00:00:00Z")),
            backup("tuesday, early", 1, (12, 12), at("2026-10-13T01:00:00Z")),
            backup("tuesday, late", 1, (14, 14), at("2026-10-13T13:00:00Z")),
        ],
        &[segments(1, 1..=16)],
        &[],
    );
    let policy = Policy {
        days: 1,
        daily: 3,
        weekly: 2,
        monthly: 2,
        minimum_good: 1,
    };
    plans(
        &there,
        &policy,
        &expect![[r#"
        keep september, late: newest of month 2026-09
        keep sunday: newest of week 2026-W41
        keep monday: newest of day 2026-10-12
        keep tuesday, early: begins the last 1 day
        keep tuesday, late: in the last 1 day; the newest good; newest of day 2026-10-13; newest of week 2026-W42; newest of month 2026-10
        remove august: older than 1 day, and not the newest of a day, week or month to keep
        remove september, early: older than 1 day, and not the newest of a day, week or month to keep
        remove 000000010000000000000001
        remove 000000010000000000000002
        remove 000000010000000000000003
        remove 000000010000000000000004
        remove 000000010000000000000007
        remove 000000010000000000000009
        remove 00000001000000000000000B
        timeline 1: 000000010000000000000005 to 000000010000000000000006, 000000010000000000000008, 00000001000000000000000A, from 00000001000000000000000C on
    "#]],
    );
}

#[test]
fn p7_a_kept_incremental_keeps_its_whole_chain_and_a_chain_goes_from_its_end() {
    let there = inventory(
        &[
            backup("full 1", 1, (1, 1), days_ago(40)),
            on("full 1", backup("step 1", 1, (2, 2), days_ago(39))),
            on("step 1", backup("step 2", 1, (3, 3), days_ago(38))),
            backup("full 2", 1, (4, 4), days_ago(30)),
            on("full 2", backup("step 3", 1, (5, 5), days_ago(29))),
            on("step 3", backup("step 4", 1, (6, 6), days_ago(8))),
            on("full 2", backup("other", 1, (7, 7), days_ago(28))),
        ],
        &[segments(1, 1..=9)],
        &[],
    );
    plans(
        &there,
        &KEEP_LITTLE,
        &expect![[r#"
        keep full 2: "step 3" builds on it
        keep step 3: "step 4" builds on it
        keep step 4: begins the last 7 days; the newest good
        remove step 2: older than 7 days, and not the newest of a day, week or month to keep
        remove step 1: older than 7 days, and not the newest of a day, week or month to keep
        remove other: older than 7 days, and not the newest of a day, week or month to keep
        remove full 1: older than 7 days, and not the newest of a day, week or month to keep
        remove 000000010000000000000001
        remove 000000010000000000000002
        remove 000000010000000000000003
        timeline 1: from 000000010000000000000004 on
    "#]],
    );
}

#[test]
fn p4_a_bad_backup_counts_for_nothing_and_goes_once_a_good_one_is_as_new() {
    let there = inventory(
        &[
            backup("good", 1, (2, 2), days_ago(30)),
            bad(backup("bad, old", 1, (1, 1), days_ago(31))),
            bad(backup("bad, new", 1, (4, 4), days_ago(1))),
        ],
        &[segments(1, 1..=5)],
        &[],
    );
    plans(
        &there,
        &KEEP_LITTLE,
        &expect![[r#"
        keep good: begins the last 7 days; the newest good
        keep bad, new: not good, but no good one is as new
        remove bad, old: not good, and "good" is as new
        remove 000000010000000000000001
        timeline 1: from 000000010000000000000002 on
    "#]],
    );
}

#[test]
fn a_backup_whose_chain_is_broken_does_not_count_as_good() {
    let there = inventory(
        &[
            backup("good", 1, (2, 2), days_ago(9)),
            on("gone", backup("orphan", 1, (4, 4), days_ago(3))),
            bad(backup("bad", 1, (5, 5), days_ago(3))),
            on("bad", backup("on bad", 1, (6, 6), days_ago(2))),
            on("ring 2", backup("ring 1", 1, (7, 7), days_ago(1))),
            on("ring 1", backup("ring 2", 1, (7, 7), days_ago(1))),
        ],
        &[segments(1, 1..=8)],
        &[],
    );
    plans(
        &there,
        &KEEP_LITTLE,
        &expect![[r#"
        keep good: begins the last 7 days; the newest good
        keep orphan: not good, but no good one is as new
        keep bad: not good, but no good one is as new; "on bad" builds on it
        keep on bad: not good, but no good one is as new
        keep ring 1: not good, but no good one is as new; "ring 2" builds on it
        keep ring 2: not good, but no good one is as new; "ring 1" builds on it
        remove 000000010000000000000001
        timeline 1: from 000000010000000000000002 on
    "#]],
    );
}

#[test]
fn the_newest_good_backups_stay_whatever_the_policy_says() {
    let there = inventory(
        &[
            backup("a", 1, (1, 1), days_ago(13)),
            backup("b", 1, (3, 3), days_ago(12)),
            backup("c", 1, (5, 5), days_ago(11)),
        ],
        &[segments(1, 1..=6)],
        &[],
    );
    for minimum_good in [0, 1] {
        let policy = Policy {
            minimum_good,
            ..KEEP_LITTLE
        };
        let planned = plan(&there, &policy, at(NOW)).unwrap();
        assert_eq!(planned.keep.len(), 1);
    }
    let policy = Policy {
        minimum_good: 2,
        ..KEEP_LITTLE
    };
    plans(
        &there,
        &policy,
        &expect![[r#"
        keep b: one of the newest 2 good
        keep c: begins the last 7 days; one of the newest 2 good
        remove a: older than 7 days, and not the newest of a day, week or month to keep
        remove 000000010000000000000001
        remove 000000010000000000000002
        remove 000000010000000000000004
        timeline 1: 000000010000000000000003, from 000000010000000000000005 on
    "#]],
    );
    let policy = Policy {
        minimum_good: 100,
        ..KEEP_LITTLE
    };
    assert_eq!(plan(&there, &policy, at(NOW)).unwrap().remove_backups, []);
}

#[test]
fn a_backup_without_its_wal_does_not_stand_in_for_one_that_has_it() {
    let mut wal = segments(1, 1..=6);
    wal.retain(|name| name.to_string() != "000000010000000000000005");
    let there = inventory(
        &[
            backup("whole", 1, (2, 2), days_ago(9)),
            backup("without WAL", 1, (5, 5), days_ago(8)),
        ],
        &[wal],
        &[],
    );
    plans(
        &there,
        &KEEP_LITTLE,
        &expect![[r#"
        keep whole: begins the last 7 days
        keep without WAL: begins the last 7 days; the newest good
        remove 000000010000000000000001
        timeline 1: from 000000010000000000000002 on
    "#]],
    );
}

#[test]
fn the_newest_backups_with_wal_stay_beside_the_newest_without() {
    let mut wal = segments(1, 1..=9);
    wal.retain(|name| !["5", "7"].contains(&&name.to_string()[23..]));
    let there = inventory(
        &[
            backup("a", 1, (1, 1), days_ago(13)),
            backup("b", 1, (3, 3), days_ago(12)),
            backup("without WAL", 1, (5, 5), days_ago(11)),
            backup("without WAL either", 1, (7, 7), days_ago(10)),
        ],
        &[wal],
        &[],
    );
    let policy = Policy {
        minimum_good: 2,
        ..KEEP_LITTLE
    };
    plans(
        &there,
        &policy,
        &expect![[r#"
        keep a: one of the newest 2 with all its WAL
        keep b: begins the last 7 days
        keep without WAL: one of the newest 2 good
        keep without WAL either: begins the last 7 days; one of the newest 2 good
        remove 000000010000000000000002
        timeline 1: 000000010000000000000001, from 000000010000000000000003 on
    "#]],
    );
}

#[test]
fn the_first_segment_of_a_timeline_that_was_left_at_once_may_carry_the_wal_before_it() {
    // Timelines 2 and 3 both left 1 in segment 4, which was archived as that of 2 alone. Up to
    // there it is the WAL of timeline 3 as well.
    let there = inventory(
        &[
            backup("a", 1, (2, 2), days_ago(20)),
            backup("b", 2, (8, 8), days_ago(8)),
        ],
        &[segments(1, 2..=3), segments(2, 4..=9)],
        &[
            history(2, &[(1, 0x0450_0000)]),
            history(3, &[(1, 0x0450_0000), (2, 0x0450_0000)]),
        ],
    );
    plans(
        &there,
        &KEEP_LITTLE,
        &expect![[r#"
        keep a: begins the last 7 days of timeline 1
        keep b: begins the last 7 days; the newest good
        remove 000000020000000000000005
        remove 000000020000000000000006
        remove 000000020000000000000007
        timeline 1: from 000000010000000000000002 on
        timeline 2: 000000020000000000000004, from 000000020000000000000008 on
    "#]],
    );
}

#[test]
fn a_pinned_backup_stays_with_the_wal_it_needs() {
    let there = inventory(
        &[
            pinned(backup("pinned", 1, (1, 2), days_ago(300))),
            pinned(bad(backup("pinned, bad", 1, (4, 4), days_ago(200)))),
            backup("a", 1, (6, 6), days_ago(8)),
        ],
        &[segments(1, 1..=7)],
        &[],
    );
    plans(
        &there,
        &KEEP_LITTLE,
        &expect![[r#"
        keep pinned: pinned
        keep pinned, bad: pinned
        keep a: begins the last 7 days; the newest good
        remove 000000010000000000000003
        remove 000000010000000000000005
        timeline 1: 000000010000000000000001 to 000000010000000000000002, 000000010000000000000004, from 000000010000000000000006 on
    "#]],
    );
}

#[test]
fn partial_segments_and_labels_go_with_their_segments_and_histories_stay() {
    let there = inventory(
        &[
            backup("a", 1, (2, 2), days_ago(30)),
            backup("b", 2, (8, 8), days_ago(8)),
            backup("c", 2, (9, 9), days_ago(1)),
        ],
        &[
            segments(1, 2..=6),
            segments(2, 7..=9),
            files(&[
                "00000002.history",
                "000000010000000000000002.00000028.backup",
                "000000010000000000000007.partial",
                "000000020000000000000008.00000028.backup",
                // Of a backup that is not there, in a segment that stays.
                "000000020000000000000009.00000060.backup",
            ]),
        ],
        &[history(2, &[(1, 0x0713_96F0)])],
    );
    plans(
        &there,
        &KEEP_LITTLE,
        &expect![[r#"
        keep b: begins the last 7 days
        keep c: in the last 7 days; the newest good
        remove a: older than 7 days, and not the newest of a day, week or month to keep
        remove 000000010000000000000002
        remove 000000010000000000000003
        remove 000000010000000000000004
        remove 000000010000000000000005
        remove 000000010000000000000006
        remove 000000020000000000000007
        remove 000000010000000000000007.partial
        remove 000000010000000000000002.00000028.backup
        timeline 1: nothing: no kept backup leads to it
        timeline 2: from 000000020000000000000008 on
    "#]],
    );
}

#[test]
fn t36_after_a_promotion_without_a_new_backup_the_old_one_stays() {
    // Timeline 2 has run for weeks on the backup of timeline 1.
    let there = inventory(
        &[
            backup("a", 1, (2, 2), days_ago(40)),
            backup("b", 1, (4, 4), days_ago(35)),
        ],
        &[segments(1, 2..=6), segments(2, 6..=20)],
        &[history(2, &[(1, 0x0650_0000)])],
    );
    plans(
        &there,
        &KEEP_LITTLE,
        &expect![[r#"
        keep b: begins the last 7 days; the newest good
        remove a: older than 7 days, and not the newest of a day, week or month to keep
        remove 000000010000000000000002
        remove 000000010000000000000003
        timeline 1: from 000000010000000000000004 on
        timeline 2: from 000000020000000000000006 on
    "#]],
    );
}

#[test]
fn a_backup_on_a_part_of_a_timeline_that_was_left_does_not_begin_the_window_of_another() {
    // "left behind" is newer than "a", but timeline 2 was restored to before it.
    let there = inventory(
        &[
            backup("a", 1, (2, 2), days_ago(12)),
            backup("left behind", 1, (6, 6), days_ago(8)),
            backup("c", 2, (8, 8), days_ago(2)),
        ],
        &[segments(1, 1..=7), segments(2, 4..=9)],
        &[history(2, &[(1, 0x0450_0000)])],
    );
    plans(
        &there,
        &KEEP_LITTLE,
        &expect![[r#"
        keep a: begins the last 7 days of timeline 2
        keep left behind: begins the last 7 days
        keep c: in the last 7 days; the newest good
        remove 000000010000000000000001
        remove 000000010000000000000005
        timeline 1: 000000010000000000000002 to 000000010000000000000004, from 000000010000000000000006 on
        timeline 2: from 000000020000000000000004 on
    "#]],
    );
}

#[test]
fn a_part_of_a_timeline_that_was_left_before_the_window_goes() {
    let there = inventory(
        &[
            backup("a", 1, (2, 2), days_ago(40)),
            backup("left behind", 1, (6, 6), days_ago(35)),
            backup("c", 2, (8, 8), days_ago(30)),
            backup("d", 2, (10, 10), days_ago(5)),
        ],
        &[segments(1, 1..=7), segments(2, 4..=11)],
        &[history(2, &[(1, 0x0450_0000)])],
    );
    plans(
        &there,
        &KEEP_LITTLE,
        &expect![[r#"
        keep c: begins the last 7 days
        keep d: in the last 7 days; the newest good
        remove a: older than 7 days, and not the newest of a day, week or month to keep
        remove left behind: older than 7 days, and not the newest of a day, week or month to keep
        remove 000000010000000000000001
        remove 000000010000000000000002
        remove 000000010000000000000003
        remove 000000010000000000000004
        remove 000000010000000000000005
        remove 000000010000000000000006
        remove 000000010000000000000007
        remove 000000020000000000000004
        remove 000000020000000000000005
        remove 000000020000000000000006
        remove 000000020000000000000007
        timeline 1: nothing: no kept backup leads to it
        timeline 2: from 000000020000000000000008 on
    "#]],
    );
}

#[test]
fn the_wal_of_a_timeline_without_a_history_file_stays() {
    let there = inventory(
        &[
            backup("a", 1, (5, 5), days_ago(8)),
            backup("b", 1, (7, 7), days_ago(1)),
        ],
        &[segments(1, 1..=8), segments(3, 2..=3)],
        &[],
    );
    plans(
        &there,
        &KEEP_LITTLE,
        &expect![[r#"
        keep a: begins the last 7 days
        keep b: in the last 7 days; the newest good
        remove 000000010000000000000001
        remove 000000010000000000000002
        remove 000000010000000000000003
        remove 000000010000000000000004
        timeline 1: from 000000010000000000000005 on
        timeline 3: all: its history file is missing, so nobody can say what it belongs to
    "#]],
    );
}

#[test]
fn a_cluster_that_came_here_on_a_later_timeline_is_pruned_like_another() {
    // Its history was written elsewhere; nothing here is on an earlier timeline.
    let there = inventory(
        &[
            backup("a", 3, (2, 2), days_ago(20)),
            backup("b", 3, (5, 5), days_ago(8)),
        ],
        &[segments(3, 1..=6)],
        &[],
    );
    plans(
        &there,
        &KEEP_LITTLE,
        &expect![[r#"
        keep b: begins the last 7 days; the newest good
        remove a: older than 7 days, and not the newest of a day, week or month to keep
        remove 000000030000000000000001
        remove 000000030000000000000002
        remove 000000030000000000000003
        remove 000000030000000000000004
        timeline 3: from 000000030000000000000005 on
    "#]],
    );
}

#[test]
fn wal_that_no_backup_leads_to_yet_stays() {
    // Timeline 2 goes on from a backup that is gone; one of timeline 2 may be running.
    let there = inventory(
        &[backup("b", 1, (6, 6), days_ago(8))],
        &[segments(1, 5..=7), segments(2, 4..=9)],
        &[history(2, &[(1, 0x0450_0000)])],
    );
    plans(
        &there,
        &KEEP_LITTLE,
        &expect![[r#"
        keep b: begins the last 7 days; the newest good
        remove 000000010000000000000005
        timeline 1: from 000000010000000000000006 on
        timeline 2: all: no good backup leads to it yet
    "#]],
    );
}

#[test]
fn p13_after_an_upgrade_the_old_cluster_stays_until_the_window_has_passed_it() {
    let old = || backup("old", 9, (2, 2), days_ago(20));
    let new = |name: &str, days| of(YOUNGER, backup(name, 1, (1, 1), days_ago(days)));
    let there = |backups: &[Backup]| {
        let mut there = inventory(backups, &[segments(9, 2..=3)], &[]);
        let younger = segments(1, 1..=2).into_iter();
        there.wal.extend(younger.map(|name| (YOUNGER, name)));
        there
            .wal
            .push((CLUSTER, "00000009.history".parse().unwrap()));
        there
    };
    // No backup of the new cluster yet, or only a bad one.
    plans(
        &there(&[old()]),
        &KEEP_LITTLE,
        &expect![[r#"
        keep old: begins the last 7 days; the newest good
        timeline 9: all: there is no good backup of the current cluster yet
        timeline 1 of the younger: all: there is no good backup of the current cluster yet
    "#]],
    );
    plans(
        &there(&[old(), bad(new("new", 1))]),
        &KEEP_LITTLE,
        &expect![[r#"
            keep old: begins the last 7 days
            keep new: not good, but no good one is as new
            timeline 9: all: there is no good backup of the current cluster yet
            timeline 1 of the younger: all: there is no good backup of the current cluster yet
        "#]],
    );
    // Replaced within the window.
    plans(
        &there(&[old(), new("new", 3)]),
        &KEEP_LITTLE,
        &expect![[r#"
            keep old: begins the last 7 days
            keep new: begins the last 7 days; the newest good
            timeline 9: from 000000090000000000000002 on
            timeline 1 of the younger: from 000000010000000000000001 on
        "#]],
    );
    // Replaced before it. The high timeline of the old cluster means nothing.
    let past = there(&[old(), new("a", 10), new("b", 1)]);
    plans(
        &past,
        &KEEP_LITTLE,
        &expect![[r#"
        keep a: begins the last 7 days
        keep b: in the last 7 days; the newest good
        remove old: older than 7 days, and not the newest of a day, week or month to keep
        remove 000000090000000000000002
        remove 000000090000000000000003
        timeline 9: nothing: it is of a cluster without backups
        timeline 1 of the younger: from 000000010000000000000001 on
    "#]],
    );
    // What another rule keeps of the old cluster stays.
    let monthly = Policy {
        monthly: 2,
        ..KEEP_LITTLE
    };
    plans(
        &past,
        &monthly,
        &expect![[r#"
        keep old: newest of month 2026-09
        keep a: begins the last 7 days
        keep b: in the last 7 days; the newest good; newest of month 2026-10
        remove 000000090000000000000003
        timeline 9: 000000090000000000000002
        timeline 1 of the younger: from 000000010000000000000001 on
    "#]],
    );
}

#[test]
fn without_a_backup_in_the_window_nobody_can_say_which_timeline_was_in_use() {
    let there = inventory(
        &[
            backup("a", 1, (2, 2), days_ago(30)),
            backup("b", 2, (8, 8), days_ago(8)),
        ],
        &[segments(1, 1..=8), segments(2, 7..=9)],
        &[history(2, &[(1, 0x0713_96F0)])],
    );
    plans(
        &there,
        &KEEP_LITTLE,
        &expect![[r#"
        keep a: begins the last 7 days of timeline 1
        keep b: begins the last 7 days; the newest good
        remove 000000010000000000000001
        remove 000000020000000000000007
        timeline 1: from 000000010000000000000002 on
        timeline 2: from 000000020000000000000008 on
    "#]],
    );
}

#[test]
fn wal_of_an_older_cluster_without_backups_goes() {
    let mut there = inventory(
        &[of(YOUNGER, backup("new", 1, (1, 1), days_ago(8)))],
        &[
            segments(1, 4..=5),
            files(&[
                "00000002.history",
                "000000010000000000000004.00000028.backup",
            ]),
        ],
        &[history(2, &[(1, 0x0450_0000)])],
    );
    there
        .wal
        .extend(segments(1, 1..=2).into_iter().map(|name| (YOUNGER, name)));
    plans(
        &there,
        &KEEP_LITTLE,
        &expect![[r#"
        keep new: begins the last 7 days; the newest good
        remove 000000010000000000000004
        remove 000000010000000000000005
        remove 000000010000000000000004.00000028.backup
        timeline 1: nothing: it is of a cluster without backups
        timeline 1 of the younger: from 000000010000000000000001 on
    "#]],
    );
}

#[test]
fn the_histories_of_a_cluster_that_is_gone_do_not_stop_anything() {
    let mut there = inventory(
        &[backup("a", 1, (2, 2), days_ago(8))],
        &[segments(1, 1..=3)],
        &[],
    );
    there
        .wal
        .push((YOUNGER, "00000002.history".parse().unwrap()));
    plans(
        &there,
        &KEEP_LITTLE,
        &expect![[r#"
        keep a: begins the last 7 days; the newest good
        remove 000000010000000000000001
        timeline 1: from 000000010000000000000002 on
    "#]],
    );
}

#[test]
fn everything_after_a_backup_of_the_window_stays_though_its_timeline_seems_to_have_been_left() {
    // By their times, "e" shows that timeline 2 was left before "a" was taken. One of the times is
    // wrong.
    let there = inventory(
        &[
            backup("a", 1, (2, 2), days_ago(1)),
            backup("e", 3, (9, 9), days_ago(10)),
        ],
        &[segments(1, 2..=3), segments(2, 4..=8), segments(3, 4..=10)],
        &[
            history(2, &[(1, 0x0450_0000)]),
            history(3, &[(1, 0x0460_0000)]),
        ],
    );
    plans(
        &there,
        &KEEP_LITTLE,
        &expect![[r#"
        keep e: begins the last 7 days
        keep a: in the last 7 days; the newest good
        timeline 1: from 000000010000000000000002 on
        timeline 2: from 000000020000000000000004 on
        timeline 3: from 000000030000000000000004 on
    "#]],
    );
}

#[test]
fn a_backup_that_its_history_contradicts_keeps_its_wal() {
    let there = inventory(
        &[
            pinned(backup("early", 2, (3, 4), days_ago(20))),
            backup("b", 2, (8, 8), days_ago(8)),
            backup("c", 2, (9, 9), days_ago(1)),
        ],
        &[
            segments(2, 2..=9),
            files(&["000000020000000000000003.00000028.backup"]),
        ],
        &[history(2, &[(1, 0x0350_0000)])],
    );
    plans(
        &there,
        &KEEP_LITTLE,
        &expect![[r#"
        keep early: pinned
        keep b: begins the last 7 days
        keep c: in the last 7 days; the newest good
        remove 000000020000000000000005
        remove 000000020000000000000006
        remove 000000020000000000000007
        timeline 2: 000000020000000000000003 to 000000020000000000000004, from 000000020000000000000008 on
    "#]],
    );
}

#[test]
fn backups_that_disagree_about_the_segment_size_keep_all_wal() {
    let there = inventory(
        &[
            backup("a", 1, (4, 4), days_ago(9)),
            Backup {
                segment_size: SegmentSize::new(1 << 20).unwrap(),
                ..backup("b", 1, (5, 5), days_ago(8))
            },
        ],
        &[segments(1, 1..=6)],
        &[],
    );
    plans(
        &there,
        &KEEP_LITTLE,
        &expect![[r#"
        keep b: begins the last 7 days; the newest good
        remove a: older than 7 days, and not the newest of a day, week or month to keep
        timeline 1: all: its backups and snapshots do not agree about the segment size
    "#]],
    );
}

#[test]
fn a_name_that_cannot_be_one_of_the_cluster_stays() {
    let there = inventory(
        &[backup("a", 1, (4, 4), days_ago(8))],
        &[segments(1, 3..=5), files(&["000000010000000000000200"])],
        &[],
    );
    plans(
        &there,
        &KEEP_LITTLE,
        &expect![[r#"
        keep a: begins the last 7 days; the newest good
        remove 000000010000000000000003
        timeline 1: from 000000010000000000000004 on
    "#]],
    );
}

#[test]
fn with_nothing_there_nothing_is_to_be_done() {
    assert_eq!(
        plan(&Inventory::default(), &KEEP_LITTLE, at(NOW)),
        Ok(Plan::default())
    );
    let wal_only = inventory(&[], &[segments(1, 1..=3)], &[]);
    plans(
        &wal_only,
        &KEEP_LITTLE,
        &expect![[r#"
        timeline 1: all: there is no good backup of the current cluster yet
    "#]],
    );
}

#[test]
fn p5_a_clock_that_cannot_be_right_removes_nothing() {
    let there = inventory(
        &[
            backup("a", 1, (1, 1), at("2026-09-14T12:00:00Z")),
            backup("b", 1, (3, 3), at("2026-10-14T11:00:00Z")),
        ],
        &[segments(1, 1..=4)],
        &[],
    );
    let said = |now: &str| match plan(&there, &KEEP_LITTLE, at(now)) {
        Ok(plan) => format!(
            "{} backups, {} files",
            plan.remove_backups.len(),
            plan.remove_wal.len()
        ),
        Err(refusal) => format!("{refusal}\nhint: {}", refusal.hint()),
    };
    assert_eq!(
        said("1970-01-01T00:00:00Z"),
        "the clock says 1970-01-01 00:00:00 UTC, which cannot be\n\
         hint: set the clock; nothing is removed until it is right"
    );
    assert_eq!(
        said("2019-12-31T23:59:59Z"),
        "the clock says 2019-12-31 23:59:59 UTC, which cannot be\n\
         hint: set the clock; nothing is removed until it is right"
    );
    assert_eq!(
        said("2026-10-14T10:58:59Z"),
        "backup \"b\" ended at 2026-10-14 11:00:00 UTC, and the clock says 2026-10-14 10:58:59 UTC\n\
         hint: set the clock; nothing is removed until it is right"
    );
    // A time that was rounded up is not one in the future.
    assert_eq!(said("2026-10-14T10:59:00Z"), "0 backups, 0 files");
    assert_eq!(said(NOW), "0 backups, 0 files");
    // 7 and 30 days later "a" may still go, and after that nothing.
    assert_eq!(said("2026-11-20T11:00:00Z"), "1 backups, 2 files");
    assert_eq!(
        said("2026-11-20T11:00:01Z"),
        "the newest good backup, \"b\", ended at 2026-10-14 11:00:00 UTC, and the clock says 2026-11-20 11:00:01 UTC\n\
         hint: set the clock if it is wrong, otherwise take a base backup; nothing is removed until then"
    );
    assert_eq!(
        said("2036-10-14T12:00:00Z"),
        "the newest good backup, \"b\", ended at 2026-10-14 11:00:00 UTC, and the clock says 2036-10-14 12:00:00 UTC\n\
         hint: set the clock if it is wrong, otherwise take a base backup; nothing is removed until then"
    );
}

#[test]
fn an_old_host_with_nothing_to_remove_is_no_reason_to_complain() {
    let there = inventory(
        &[backup("a", 1, (1, 1), days_ago(400))],
        &[segments(1, 1..=4)],
        &[],
    );
    plans(
        &there,
        &KEEP_LITTLE,
        &expect![[r#"
        keep a: begins the last 7 days; the newest good
        timeline 1: from 000000010000000000000001 on
    "#]],
    );
}

#[test]
fn two_backups_of_one_name_are_refused() {
    let there = inventory(
        &[
            backup("a", 1, (1, 1), days_ago(9)),
            backup("a", 1, (3, 3), days_ago(8)),
        ],
        &[],
        &[],
    );
    plans(
        &there,
        &KEEP_LITTLE,
        &expect![[r#"
        two backups have the name "a"
        hint: rename one of them"#]],
    );
}

#[test]
fn a_policy_of_more_days_than_there_ever_were_keeps_everything() {
    let there = inventory(
        &[
            backup("a", 1, (1, 1), days_ago(4000)),
            backup("b", 1, (3, 3), days_ago(1)),
        ],
        &[segments(1, 1..=4)],
        &[],
    );
    let policy = Policy {
        days: u32::MAX,
        daily: u32::MAX,
        weekly: u32::MAX,
        monthly: u32::MAX,
        minimum_good: u32::MAX,
    };
    let plan = plan(&there, &policy, at(NOW)).unwrap();
    assert_eq!((plan.remove_backups, plan.remove_wal), (vec![], vec![]));
}

/// A snapshot whose checkpoint is in segment `checkpoint` and whose replay begins in `redo`.
fn snapshot(
    name: &str,
    timeline: u32,
    (redo, checkpoint): (u64, u64),
    time: Timestamp,
) -> Snapshot {
    let size = SegmentSize::DEFAULT;
    Snapshot {
        id: name.to_owned(),
        system_identifier: CLUSTER,
        segment_size: size,
        timeline: id(timeline),
        redo: Lsn(redo * size.bytes() + 0x28),
        checkpoint: Lsn(checkpoint * size.bytes() + 0x100),
        checkpoint_time: time,
    }
}

fn with_snapshots(snapshots: &[Snapshot]) -> Inventory {
    Inventory {
        snapshots: snapshots.to_vec(),
        ..inventory(
            &[
                backup("a", 1, (2, 2), days_ago(20)),
                backup("b", 1, (9, 9), days_ago(8)),
            ],
            &[segments(1, 1..=9)],
            &[],
        )
    }
}

#[test]
fn the_wal_of_a_snapshot_stays_from_where_its_replay_begins_and_no_base_backup_for_it() {
    plans(
        &with_snapshots(&[
            snapshot("young", 1, (7, 8), days_ago(2)),
            snapshot("old", 1, (5, 5), days_ago(6)),
        ]),
        &KEEP_LITTLE,
        &expect![[r#"
        keep b: begins the last 7 days; the newest good
        remove a: older than 7 days, and not the newest of a day, week or month to keep
        remove 000000010000000000000001
        remove 000000010000000000000002
        remove 000000010000000000000003
        remove 000000010000000000000004
        keep WAL for old: in the last 7 days
        keep WAL for young: in the last 7 days
        timeline 1: from 000000010000000000000005 on
    "#]],
    );
}

#[test]
fn a_snapshot_from_before_the_window_needs_nothing_once_a_later_one_surely_is_too() {
    plans(
        &with_snapshots(&[
            snapshot("oldest", 1, (2, 3), days_ago(19)),
            snapshot("old", 1, (4, 4), days_ago(12)),
            // It may have been taken in the window: nobody knows how long its checkpoint was the last.
            snapshot("last", 1, (6, 6), days_ago(9)),
        ]),
        &KEEP_LITTLE,
        &expect![[r#"
        keep b: begins the last 7 days; the newest good
        remove a: older than 7 days, and not the newest of a day, week or month to keep
        remove 000000010000000000000001
        remove 000000010000000000000002
        remove 000000010000000000000003
        keep WAL for old: begins the last 7 days
        keep WAL for last: begins the last 7 days
        timeline 1: from 000000010000000000000004 on
    "#]],
    );
}

#[test]
fn a_snapshot_is_followed_onto_the_timelines_that_grew_out_of_it() {
    let size = SegmentSize::DEFAULT.bytes();
    let mut there = inventory(
        &[
            backup("a", 1, (1, 1), days_ago(20)),
            backup("b", 2, (7, 7), days_ago(8)),
            backup("c", 2, (9, 9), days_ago(1)),
        ],
        &[segments(1, 1..=8), segments(2, 6..=9)],
        &[history(2, &[(1, 6 * size + 0x40)])],
    );
    there.snapshots = vec![snapshot("s", 1, (4, 4), days_ago(9))];
    plans(
        &there,
        &KEEP_LITTLE,
        &expect![[r#"
        keep b: begins the last 7 days
        keep c: in the last 7 days; the newest good
        remove a: older than 7 days, and not the newest of a day, week or month to keep
        remove 000000010000000000000001
        remove 000000010000000000000002
        remove 000000010000000000000003
        remove 000000010000000000000007
        remove 000000010000000000000008
        keep WAL for s: begins the last 7 days
        timeline 1: 000000010000000000000004 to 000000010000000000000006
        timeline 2: from 000000020000000000000006 on
    "#]],
    );
}

#[test]
fn no_wal_goes_while_a_snapshot_cannot_be_read() {
    let mut there = with_snapshots(&[]);
    there.unreadable_snapshots = vec!["torn".to_owned()];
    plans(
        &there,
        &KEEP_LITTLE,
        &expect![[r#"
        keep b: begins the last 7 days; the newest good
        remove a: older than 7 days, and not the newest of a day, week or month to keep
        timeline 1: all: snapshot "torn" cannot be read, so nobody can say what it needs
    "#]],
    );
}

#[test]
fn a_snapshot_of_another_segment_size_takes_no_wal_with_it() {
    let mut there = with_snapshots(&[snapshot("s", 1, (7, 8), days_ago(2))]);
    there.snapshots[0].segment_size = SegmentSize::new(1 << 20).unwrap();
    plans(
        &there,
        &KEEP_LITTLE,
        &expect![[r#"
        keep b: begins the last 7 days; the newest good
        remove a: older than 7 days, and not the newest of a day, week or month to keep
        keep WAL for s: in the last 7 days
        timeline 1: all: its backups and snapshots do not agree about the segment size
    "#]],
    );
}
