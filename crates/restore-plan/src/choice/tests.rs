use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use wal::{HistoryEntry, SegmentSize};

use super::*;
use crate::windows;

const CLUSTER: SystemIdentifier = SystemIdentifier(7_710_581_305_782_851_992);

fn id(timeline: u32) -> TimelineId {
    TimelineId::new(timeline).unwrap()
}

fn time(hour: i64) -> Timestamp {
    // Hours from 2026-10-11 00:00 UTC.
    Timestamp::from_second(1_791_676_800 + hour * 3600).unwrap()
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

fn point(name: &str, timeline: u32, start: u64, stop: u64, hour: i64) -> StartingPoint {
    StartingPoint {
        id: name.to_owned(),
        system_identifier: CLUSTER,
        timeline: id(timeline),
        start: Lsn(start),
        stop: Lsn(stop),
        stop_time: time(hour),
        postgres_major: 15,
    }
}

/// Segments of 16 MiB, given as timeline and range of the last two digits.
fn contents(
    segments: &[(u32, std::ops::RangeInclusive<u64>)],
    histories: &[TimelineHistory],
) -> ArchiveContents {
    let size = SegmentSize::DEFAULT;
    ArchiveContents {
        system_identifier: CLUSTER,
        segment_size: size,
        segments: segments
            .iter()
            .flat_map(|(timeline, numbers)| {
                numbers
                    .clone()
                    .map(|number| SegmentName::from_number(id(*timeline), number, size).unwrap())
            })
            .collect(),
        histories: histories.iter().map(|h| (h.timeline, h.clone())).collect(),
    }
}

fn without(mut contents: ArchiveContents, name: &str) -> ArchiveContents {
    assert!(contents.segments.remove(&name.parse().unwrap()), "{name}");
    contents
}

fn names(segments: &[SegmentName]) -> Vec<String> {
    segments.iter().map(ToString::to_string).collect()
}

/// Two backups on timeline 1 and its WAL up to segment 9.
fn one_timeline() -> (Vec<StartingPoint>, ArchiveContents) {
    (
        vec![
            point("first", 1, 0x0200_0028, 0x0200_0100, 2),
            point("second", 1, 0x0500_0028, 0x0600_0100, 5),
        ],
        contents(&[(1, 1..=9)], &[]),
    )
}

/// Four branches: 2 left 1 in the middle of segment 7; 3 left 2 at the very start of segment 9; 4
/// was restored to segment 4, long before 2 and 3 began; 5 left 4 in the segment in which 4 began.
fn four_branches() -> (Vec<StartingPoint>, ArchiveContents) {
    let points = vec![
        point("on 1, early", 1, 0x0200_0028, 0x0200_0100, 2),
        point("on 1, late", 1, 0x0800_0028, 0x0800_0100, 3),
        point("on 2", 2, 0x0800_0028, 0x0800_0100, 8),
        point("on 3", 3, 0x0A00_0028, 0x0A00_0100, 10),
        point("on 5", 5, 0x0500_0028, 0x0500_0100, 15),
    ];
    let contents = contents(
        &[
            (1, 1..=10),
            (2, 7..=10),
            (3, 9..=12),
            (4, 4..=5),
            (5, 4..=6),
        ],
        &[
            history(2, &[(1, 0x0713_96F0)]),
            history(3, &[(1, 0x0713_96F0), (2, 0x0900_0000)]),
            history(4, &[(1, 0x0713_96F0), (2, 0x0900_0000), (3, 0x0450_0000)]),
            history(
                5,
                &[
                    (1, 0x0713_96F0),
                    (2, 0x0900_0000),
                    (3, 0x0450_0000),
                    (4, 0x0480_0000),
                ],
            ),
        ],
    );
    (points, contents)
}

/// Chooses without having learned anything from the WAL.
fn plan(
    (points, contents): &(Vec<StartingPoint>, ArchiveContents),
    target: &Target,
    timeline: TimelineChoice,
) -> Result<Choice, Refusal> {
    choose(
        points,
        contents,
        target,
        timeline,
        &TargetPosition::default(),
    )
}

/// Point and files, or the refusal as a program prints it.
fn outcome(result: &Result<Choice, Refusal>) -> String {
    match result {
        Ok(choice) => format!("{}: {}", choice.point, names(&choice.needed).join(" ")),
        Err(refusal) => format!("{refusal}\nhint: {}", refusal.hint()),
    }
}

#[test]
fn the_newest_backup_that_ended_before_the_target_is_taken() {
    let there = one_timeline();
    let choice = plan(
        &there,
        &Target::Lsn(Lsn(0x0800_0000)),
        TimelineChoice::Latest,
    )
    .unwrap();
    assert_eq!(
        choice,
        Choice {
            point: "second".into(),
            history: TimelineHistory::without_parents(id(1)),
            recovery_target_timeline: "1".into(),
            needed: [
                "000000010000000000000005",
                "000000010000000000000006",
                "000000010000000000000007",
                "000000010000000000000008"
            ]
            .map(|name| name.parse().unwrap())
            .to_vec(),
            end: Some(Lsn(0x0800_0001)),
            also_on: vec![],
        }
    );
    let choice = plan(
        &there,
        &Target::Lsn(Lsn(0x0300_0000)),
        TimelineChoice::Latest,
    )
    .unwrap();
    assert_eq!(choice.point, "first");
}

#[test]
fn r13_a_backup_that_had_not_ended_at_the_target_is_passed_over() {
    let there = one_timeline();
    for (lsn, expected) in [
        (0x0500_0028, "first"),
        (0x0600_00FF, "first"),
        (0x0600_0100, "first"),
        (0x0600_0101, "second"),
    ] {
        let choice = plan(&there, &Target::Lsn(Lsn(lsn)), TimelineChoice::Latest).unwrap();
        assert_eq!(choice.point, expected, "{}", Lsn(lsn));
    }
    let one_microsecond_later = time(5) + jiff::SignedDuration::from_micros(1);
    for (target, expected) in [
        (time(4), "first"),
        (time(5), "first"),
        (one_microsecond_later, "second"),
    ] {
        let choice = plan(&there, &Target::Time(target), TimelineChoice::Latest).unwrap();
        assert_eq!(choice.point, expected, "{target}");
    }
}

#[test]
fn r13_a_target_before_the_first_backup_is_refused_with_what_can_be_restored() {
    let there = one_timeline();
    let refusal = plan(&there, &Target::Time(time(2)), TimelineChoice::Latest).unwrap_err();
    assert_eq!(
        outcome(&Err(refusal.clone())),
        "target \"2026-10-11 02:00:00.000000+00\" is not after the end of any backup on the way to timeline 1\n\
         hint: the earliest state that can be restored is that after 2026-10-11 02:00:00.000000+00 (0/2000100), from backup \"first\""
    );
    let Refusal::BeforeFirst {
        windows: listed, ..
    } = refusal
    else {
        panic!("{refusal:?}");
    };
    let (points, contents) = &there;
    let mut all = windows(points, contents);
    all.reverse();
    assert_eq!(listed, all);

    let refusal = plan(
        &there,
        &Target::Lsn(Lsn(0x0200_0100)),
        TimelineChoice::Latest,
    );
    assert!(
        matches!(refusal, Err(Refusal::BeforeFirst { .. })),
        "{refusal:?}"
    );
}

#[test]
fn the_end_of_a_recovery_is_given_where_it_is_known() {
    let there = one_timeline();
    let end = |target: &Target| {
        let choice = plan(&there, target, TimelineChoice::Latest).unwrap();
        (choice.point, choice.needed.len(), choice.end)
    };
    assert_eq!(
        end(&Target::Latest),
        ("second".into(), 5, Some(Lsn(0x0A00_0000)))
    );
    assert_eq!(
        end(&Target::Immediate),
        ("second".into(), 2, Some(Lsn(0x0600_0100)))
    );
    // The second backup ended after the target, so replay stops before that.
    assert_eq!(
        end(&Target::Time(time(4))),
        ("first".into(), 5, Some(Lsn(0x0600_0100)))
    );
    // Nothing is known to be later. What the backup itself needs is needed anyway.
    assert_eq!(end(&Target::Time(time(6))), ("second".into(), 2, None));
}

#[test]
fn a_missing_segment_is_named_with_its_neighbours() {
    let (points, contents) = one_timeline();
    let there = (points, without(contents, "000000010000000000000007"));
    assert_eq!(
        outcome(&plan(&there, &Target::Latest, TimelineChoice::Latest)),
        "missing 000000010000000000000007 between 000000010000000000000006 and 000000010000000000000008\n\
         hint: bring the file back, or choose a target no later than the end of 000000010000000000000006; \
         if a time is before that, give its address as lsn:… instead"
    );
    // Before the gap everything is there.
    let before = plan(
        &there,
        &Target::Lsn(Lsn(0x06FF_FFFF)),
        TimelineChoice::Latest,
    )
    .unwrap();
    assert_eq!(before.needed.len(), 2);
    assert!(plan(&there, &Target::Immediate, TimelineChoice::Latest).is_ok());
    assert!(plan(&there, &Target::Time(time(4)), TimelineChoice::Latest).is_ok());
    // Nobody knows on which side of the gap this is.
    let unknown = plan(&there, &Target::Time(time(6)), TimelineChoice::Latest);
    assert!(matches!(unknown, Err(Refusal::Gap { .. })), "{unknown:?}");
    let (points, contents) = &there;
    let learned = TargetPosition {
        lsn: Some(Lsn(0x0680_0000)),
        ..TargetPosition::default()
    };
    assert!(
        choose(
            points,
            contents,
            &Target::Time(time(6)),
            TimelineChoice::Latest,
            &learned
        )
        .is_ok()
    );
}

#[test]
fn a_time_on_an_unknown_side_of_a_gap_is_refused() {
    // The second backup ended later than the target, but it lies behind the gap.
    let (points, contents) = one_timeline();
    let there = (points, without(contents, "000000010000000000000004"));
    let refusal = plan(&there, &Target::Time(time(4)), TimelineChoice::Latest).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "missing 000000010000000000000004 between 000000010000000000000003 and 000000010000000000000005"
    );
}

#[test]
fn several_missing_segments_are_counted() {
    let (points, contents) = one_timeline();
    let contents = without(
        without(contents, "000000010000000000000003"),
        "000000010000000000000004",
    );
    let contents = without(contents, "000000010000000000000008");
    let there = (points[..1].to_vec(), contents);
    let refusal = plan(&there, &Target::Latest, TimelineChoice::Latest).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "missing 000000010000000000000003 and 1 more between 000000010000000000000002 and 000000010000000000000005"
    );
    let Refusal::Gap { missing, .. } = refusal else {
        panic!("{refusal:?}");
    };
    assert_eq!(missing.count, 3);
    assert_eq!(
        names(&missing.segments),
        [
            "000000010000000000000003",
            "000000010000000000000004",
            "000000010000000000000008"
        ]
    );
}

#[test]
fn a_gap_before_the_newest_backup_does_not_matter_to_it() {
    let (points, contents) = one_timeline();
    let there = (points, without(contents, "000000010000000000000003"));
    let choice = plan(&there, &Target::Latest, TimelineChoice::Latest).unwrap();
    assert_eq!(choice.point, "second");
}

#[test]
fn a_backup_whose_own_wal_is_missing_cannot_be_restored() {
    let (points, contents) = one_timeline();
    let there = (
        points.clone(),
        without(contents.clone(), "000000010000000000000005"),
    );
    assert_eq!(
        outcome(&plan(&there, &Target::Immediate, TimelineChoice::Latest)),
        "missing 000000010000000000000005, the first WAL that backup \"second\" needs\n\
         hint: bring the file back, or choose another backup's time"
    );
    let (points, none) = (
        points,
        ArchiveContents {
            segments: BTreeSet::new(),
            ..contents
        },
    );
    assert_eq!(
        plan(&(points, none), &Target::Immediate, TimelineChoice::Latest)
            .unwrap_err()
            .to_string(),
        "missing 000000010000000000000005, all WAL that backup \"second\" needs"
    );
}

#[test]
fn a_backup_that_overlaps_a_gap_gives_way_to_one_that_started_after_it() {
    let points = vec![
        point("slow", 1, 0x0200_0028, 0x0700_0100, 7),
        point("quick", 1, 0x0500_0028, 0x0600_0100, 6),
    ];
    let there = (
        points,
        without(contents(&[(1, 1..=9)], &[]), "000000010000000000000003"),
    );
    assert_eq!(
        plan(&there, &Target::Latest, TimelineChoice::Latest)
            .unwrap()
            .point,
        "quick"
    );
    // But not for the end of the backup, which is another state.
    assert!(plan(&there, &Target::Immediate, TimelineChoice::Latest).is_err());
}

#[test]
fn a_target_past_the_end_of_the_wal_is_refused() {
    let there = one_timeline();
    assert_eq!(
        outcome(&plan(
            &there,
            &Target::Lsn(Lsn(0x0A00_0000)),
            TimelineChoice::Latest
        )),
        "target \"lsn:0/A000000\" is past the end of the archived WAL of timeline 1, 0/A000000\n\
         hint: use \"latest\" for the end of the WAL"
    );
    assert!(
        plan(
            &there,
            &Target::Lsn(Lsn(0x09FF_FFFF)),
            TimelineChoice::Latest
        )
        .is_ok()
    );
    // The list of what would be needed is not even begun.
    assert!(plan(&there, &Target::Lsn(Lsn(u64::MAX)), TimelineChoice::Latest).is_err());
}

#[test]
fn a_transaction_or_a_name_needs_to_have_been_found() {
    let there = one_timeline();
    assert_eq!(
        outcome(&plan(&there, &Target::Xid(742), TimelineChoice::Latest)),
        "target \"xid:742\" was not found in the archived WAL\n\
         hint: check the number, or find the time of the change and restore to that"
    );
    assert_eq!(
        outcome(&plan(
            &there,
            &Target::Name("x".into()),
            TimelineChoice::Latest
        )),
        "target \"name:x\" was not found in the archived WAL\n\
         hint: check the spelling, or find the time of the change and restore to that"
    );
    let (points, contents) = &there;
    let found = |position: TargetPosition| {
        choose(
            points,
            contents,
            &Target::Xid(742),
            TimelineChoice::Latest,
            &position,
        )
        .map(|c| (c.point, c.end))
    };
    assert_eq!(
        found(TargetPosition {
            lsn: Some(Lsn(0x0550_0000)),
            ..TargetPosition::default()
        }),
        Ok(("first".into(), Some(Lsn(0x0550_0001))))
    );
    assert_eq!(
        found(TargetPosition {
            time: Some(time(6)),
            ..TargetPosition::default()
        }),
        Ok(("second".into(), None))
    );
}

#[test]
fn without_a_backup_of_this_cluster_nothing_can_be_restored() {
    let (mut points, contents) = one_timeline();
    for point in &mut points {
        point.system_identifier = SystemIdentifier(1);
    }
    assert!(windows(&points, &contents).is_empty());
    assert_eq!(
        outcome(&plan(
            &(points, contents.clone()),
            &Target::Latest,
            TimelineChoice::Latest
        )),
        "no good backup of the cluster 7710581305782851992 was found\n\
         hint: take a base backup, or give the place where the backups are"
    );
    let no_extent = vec![point("empty", 1, 0x0200_0028, 0x0200_0028, 2)];
    let refusal = plan(
        &(no_extent, contents),
        &Target::Latest,
        TimelineChoice::Latest,
    );
    assert!(
        matches!(refusal, Err(Refusal::NoStartingPoint { .. })),
        "{refusal:?}"
    );
}

#[test]
fn a_timeline_without_a_history_file_is_refused() {
    let (points, mut contents) = four_branches();
    contents.histories.remove(&id(5));
    let there = (points[..4].to_vec(), contents);
    for timeline in [TimelineChoice::Latest, TimelineChoice::Id(id(5))] {
        assert_eq!(
            outcome(&plan(&there, &Target::Latest, timeline)),
            "timeline 5 has no history file in the archive, \"00000005.history\"\n\
             hint: bring the file back, or choose another timeline than 5"
        );
    }
    assert!(plan(&there, &Target::Latest, TimelineChoice::Id(id(3))).is_ok());
}

#[test]
fn a_backup_on_a_timeline_without_a_history_file_can_follow_that_timeline() {
    // As PostgreSQL does; by its number it would refuse, so it has to be told "current".
    let there = (
        vec![point("moved here", 3, 0x0200_0028, 0x0200_0100, 2)],
        contents(&[(3, 1..=4)], &[]),
    );
    for timeline in [
        TimelineChoice::Latest,
        TimelineChoice::Current,
        TimelineChoice::Id(id(3)),
    ] {
        let choice = plan(&there, &Target::Latest, timeline).unwrap();
        assert_eq!(choice.recovery_target_timeline, "current");
        assert_eq!(choice.end, Some(Lsn(0x0500_0000)));
    }
}

#[test]
fn r9_each_of_four_branches_reaches_its_own_wal() {
    let there = four_branches();
    let all = |timeline| {
        let result = plan(&there, &Target::Latest, timeline);
        let timeline = result.as_ref().map(|c| c.recovery_target_timeline.clone());
        (outcome(&result), timeline.unwrap_or_default())
    };
    for (timeline, expected) in [
        (
            1,
            "on 1, late: 000000010000000000000008 000000010000000000000009 00000001000000000000000A",
        ),
        (
            2,
            "on 2: 000000020000000000000008 000000020000000000000009 00000002000000000000000A",
        ),
        (
            3,
            "on 3: 00000003000000000000000A 00000003000000000000000B 00000003000000000000000C",
        ),
        (
            4,
            "on 1, early: 000000010000000000000002 000000010000000000000003 000000040000000000000004 000000040000000000000005",
        ),
        (5, "on 5: 000000050000000000000005 000000050000000000000006"),
    ] {
        assert_eq!(
            all(TimelineChoice::Id(id(timeline))),
            (expected.to_owned(), timeline.to_string())
        );
    }
    assert_eq!(all(TimelineChoice::Latest), all(TimelineChoice::Id(id(5))));
    assert_eq!(all(TimelineChoice::Current), all(TimelineChoice::Id(id(5))));
}

#[test]
fn r9_a_path_crosses_the_changes_of_timeline() {
    let there = four_branches();
    let files = |timeline, lsn| {
        let choice = plan(
            &there,
            &Target::Lsn(Lsn(lsn)),
            TimelineChoice::Id(id(timeline)),
        );
        outcome(&choice)
    };
    // The backups on timelines 2 and 3 are too late; "on 1, late" is on the part of 1 that was
    // left.
    assert_eq!(
        files(3, 0x0800_0000),
        "on 1, early: 000000010000000000000002 000000010000000000000003 000000010000000000000004 \
         000000010000000000000005 000000010000000000000006 000000020000000000000007 000000020000000000000008"
    );
    assert_eq!(
        files(3, 0x0900_0000),
        "on 2: 000000020000000000000008 000000030000000000000009"
    );
    // 5 began in the same segment as 4, so the file of 4 is passed over.
    assert_eq!(
        files(5, 0x0480_0000),
        "on 1, early: 000000010000000000000002 000000010000000000000003 000000050000000000000004"
    );
    // Before either of them began, PostgreSQL still takes the newest file that there is.
    assert_eq!(
        files(5, 0x0400_0000),
        "on 1, early: 000000010000000000000002 000000010000000000000003 000000050000000000000004"
    );
}

#[test]
fn r9_a_backup_on_a_part_that_was_left_is_on_no_other_path() {
    let (points, contents) = four_branches();
    let there = (points[1..2].to_vec(), contents);
    assert_eq!(
        outcome(&plan(&there, &Target::Latest, TimelineChoice::Id(id(2)))),
        "no good backup is on the way to timeline 2\n\
         hint: choose a timeline that a backup leads to, or \"current\" for that of the newest backup"
    );
    assert_eq!(
        plan(&there, &Target::Latest, TimelineChoice::Current)
            .unwrap()
            .recovery_target_timeline,
        "1"
    );
}

#[test]
fn a_gap_on_one_timeline_is_not_passed_over_for_another_timeline() {
    // Neither is the segment of another timeline: the backup's checkpoint is not in it.
    let (points, contents) = four_branches();
    let there = (points, without(contents, "000000050000000000000005"));
    let refusal = plan(&there, &Target::Latest, TimelineChoice::Current).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "missing 000000050000000000000005, the first WAL that backup \"on 5\" needs"
    );
}

#[test]
fn a_partial_segment_of_the_old_timeline_is_not_missed() {
    // Timeline 1 ended at 0/71396F0; only its .partial was archived, and that is not among the
    // segments.
    let there = (
        vec![point("first", 1, 0x0600_0028, 0x0710_0000, 2)],
        contents(
            &[(1, 1..=6), (2, 7..=8)],
            &[history(2, &[(1, 0x0713_96F0)])],
        ),
    );
    assert_eq!(
        outcome(&plan(&there, &Target::Immediate, TimelineChoice::Latest)),
        "first: 000000010000000000000006 000000020000000000000007"
    );
    // Along timeline 1 itself its end is lost.
    let refusal = plan(&there, &Target::Immediate, TimelineChoice::Current).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "missing 000000010000000000000007 after 000000010000000000000006"
    );
}

#[test]
fn a_timeline_that_has_just_begun_is_as_long_as_the_one_before() {
    let there = (
        vec![point("first", 1, 0x0600_0028, 0x0600_0100, 2)],
        contents(&[(1, 1..=6)], &[history(2, &[(1, 0x0713_96F0)])]),
    );
    let choice = plan(&there, &Target::Latest, TimelineChoice::Latest).unwrap();
    assert_eq!(choice.end, Some(Lsn(0x0700_0000)));
    assert_eq!(choice.recovery_target_timeline, "2");
}

/// Seen with 15.20: timeline 2 was restored to the middle of segment 6 and lost before that segment
/// was archived; a second recovery along timeline 2 replayed segments 6 and 7 of timeline 1 to
/// their end, and with them what the first had undone.
#[test]
fn wal_of_the_timeline_that_was_left_does_not_pass_for_that_of_the_new_one() {
    let there = (
        vec![point("first", 1, 0x0300_0028, 0x0300_0100, 2)],
        contents(&[(1, 1..=7)], &[history(2, &[(1, 0x0600_5050)])]),
    );
    let refused = "missing 000000020000000000000006: PostgreSQL would replay 000000010000000000000006 instead \
                   and go on past 0/6005050, where timeline 2 left timeline 1\n\
                   hint: stop just before lsn:0/6005050 to get the state with which timeline 2 began, \
                   or choose timeline 1 to follow the older one";
    for target in [
        Target::Latest,
        Target::Time(time(3)),
        Target::Lsn(Lsn(0x0600_5050)),
        Target::Lsn(Lsn(0x0680_0000)),
    ] {
        assert_eq!(
            outcome(&plan(&there, &target, TimelineChoice::Latest)),
            refused,
            "{target}"
        );
    }
    assert!(
        plan(
            &there,
            &Target::Lsn(Lsn(0x0600_504F)),
            TimelineChoice::Latest
        )
        .is_ok()
    );
    assert!(plan(&there, &Target::Latest, TimelineChoice::Id(id(1))).is_ok());
    let (points, contents) = &there;
    let window = &windows(points, contents)[1];
    assert_eq!(window.timeline, id(2));
    assert_eq!(window.to, Lsn(0x0600_5050));
    assert_eq!(names(window.stray.as_slice()), ["000000010000000000000006"]);
}

#[test]
fn a_time_that_may_mean_two_afternoons_is_said_to() {
    // Timeline 1 went on until it was restored to 0/5800000.
    let two = |backups: Vec<StartingPoint>| {
        (
            backups,
            contents(
                &[(1, 1..=9), (2, 5..=7)],
                &[history(2, &[(1, 0x0580_0000)])],
            ),
        )
    };
    let early = point("early", 1, 0x0200_0028, 0x0200_0100, 2);
    let later = point("later", 1, 0x0400_0028, 0x0400_0100, 4);
    let abandoned = point("abandoned", 1, 0x0800_0028, 0x0800_0100, 8);
    let after = point("after", 2, 0x0600_0028, 0x0600_0100, 12);
    let also_on = |points: &[&StartingPoint], target: &Target, timeline| {
        let there = two(points.iter().map(|p| (*p).clone()).collect());
        plan(&there, target, timeline).unwrap().also_on
    };
    let latest = TimelineChoice::Latest;
    let all = [&early, &later, &abandoned, &after];
    // Before the later backup on the common part: before the two parted.
    assert_eq!(also_on(&all, &Target::Time(time(3)), latest), []);
    // After it: either.
    assert_eq!(also_on(&all, &Target::Time(time(7)), latest), [id(1)]);
    // After a backup of the new timeline: the new one.
    assert_eq!(also_on(&all, &Target::Time(time(13)), latest), []);
    // The other way round.
    assert_eq!(
        also_on(
            &[&early, &later, &after],
            &Target::Time(time(7)),
            TimelineChoice::Id(id(1))
        ),
        [id(2)]
    );
    // Addresses past the parting occur on both as well.
    assert_eq!(
        also_on(&all, &Target::Lsn(Lsn(0x0580_0000)), latest),
        [id(1)]
    );
    assert_eq!(also_on(&all, &Target::Lsn(Lsn(0x057F_FFFF)), latest), []);
    assert_eq!(also_on(&all, &Target::Latest, latest), []);
}

#[test]
fn a_target_that_was_found_on_another_timeline_is_refused() {
    let (points, contents) = four_branches();
    let choose_with = |lsn: u64, found: u32, timeline| {
        let position = TargetPosition {
            lsn: Some(Lsn(lsn)),
            time: None,
            timeline: Some(id(found)),
        };
        outcome(&choose(
            &points,
            &contents,
            &Target::Xid(742),
            timeline,
            &position,
        ))
    };
    assert_eq!(
        choose_with(0x0850_0000, 1, TimelineChoice::Id(id(3))),
        "target \"xid:742\" is on timeline 1, which timeline \"3\" does not lead through\n\
         hint: choose timeline 1"
    );
    assert!(choose_with(0x0850_0000, 2, TimelineChoice::Id(id(3))).starts_with("on 2: "));
    assert!(choose_with(0x0850_0000, 1, TimelineChoice::Id(id(1))).starts_with("on 1, late: "));
    // "current" takes the newest backup that leads there.
    assert!(choose_with(0x0850_0000, 1, TimelineChoice::Current).starts_with("on 1, late: "));
}

#[test]
fn windows_show_from_when_to_when_and_what_is_missing() {
    let (points, contents) = four_branches();
    let contents = without(contents, "000000010000000000000003");
    let contents = without(contents, "00000003000000000000000B");
    let shown: Vec<String> = windows(&points, &contents)
        .iter()
        .map(|w| {
            format!(
                "{} -> {}: {} to {}{}, missing {:?}",
                w.point,
                w.timeline,
                w.from,
                w.to,
                if w.restorable {
                    ""
                } else {
                    " (not restorable)"
                },
                names(&w.missing.segments)
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            "on 1, early -> 1: 0/2000100 to 0/3000000, missing [\"000000010000000000000003\"]",
            "on 1, early -> 2: 0/2000100 to 0/3000000, missing [\"000000010000000000000003\"]",
            "on 1, early -> 3: 0/2000100 to 0/3000000, missing [\"000000010000000000000003\", \"00000003000000000000000B\"]",
            "on 1, early -> 4: 0/2000100 to 0/3000000, missing [\"000000010000000000000003\"]",
            "on 1, early -> 5: 0/2000100 to 0/3000000, missing [\"000000010000000000000003\"]",
            "on 1, late -> 1: 0/8000100 to 0/B000000, missing []",
            "on 2 -> 2: 0/8000100 to 0/B000000, missing []",
            "on 2 -> 3: 0/8000100 to 0/B000000, missing [\"00000003000000000000000B\"]",
            "on 3 -> 3: 0/A000100 to 0/B000000, missing [\"00000003000000000000000B\"]",
            "on 5 -> 5: 0/5000100 to 0/7000000, missing []",
        ]
    );
    let json = serde_json::to_value(&windows(&points[..1], &contents)[0]).unwrap();
    assert_eq!(
        json,
        serde_json::json!({
            "point": "on 1, early",
            "timeline": 1,
            "from": "0/2000100",
            "fromTime": "2026-10-11T02:00:00Z",
            "to": "0/3000000",
            "restorable": true,
            "missing": { "segments": ["000000010000000000000003"], "count": 1 },
            "stray": null,
        })
    );
}

#[test]
fn a_window_without_the_wal_of_its_backup_is_not_restorable() {
    let (points, contents) = one_timeline();
    let contents = without(contents, "000000010000000000000006");
    let windows = windows(&points, &contents);
    assert!(windows[0].restorable && !windows[1].restorable);
    assert_eq!(windows[1].to, Lsn(0x0600_0000));
}

#[test]
fn an_archive_with_two_distant_segments_does_not_exhaust_the_memory() {
    let mut contents = contents(&[(1, 1..=3)], &[]);
    contents
        .segments
        .insert("00000001FFFFFFFF000000FF".parse().unwrap());
    let points = vec![point("first", 1, 0x0200_0028, 0x0200_0100, 2)];
    let window = &windows(&points, &contents)[0];
    assert_eq!(window.missing.count, (1 << 40) - 5);
    assert_eq!(window.missing.segments.len(), 1000);
    assert!(plan(&(points, contents), &Target::Latest, TimelineChoice::Latest).is_err());
}

#[test]
fn a_timeline_is_chosen_by_word_or_number() {
    for (text, choice) in [
        ("latest", TimelineChoice::Latest),
        ("current", TimelineChoice::Current),
        ("10", TimelineChoice::Id(id(10))),
    ] {
        assert_eq!(text.parse(), Ok(choice));
        assert_eq!(choice.to_string(), text);
    }
    for text in ["", "0", "Latest", "0000000A", "0xA"] {
        assert!(text.parse::<TimelineChoice>().is_err(), "{text:?}");
    }
}

/// A cluster's past and what is left of it, as it happened; nothing here knows of history files or
/// of the code under test. Addresses are in steps of a quarter of a segment.
#[derive(Clone, Debug)]
struct Past {
    /// For each timeline from 1 on: the timeline that its history file names last, its beginning,
    /// its end.
    timelines: Vec<(u32, u64, u64)>,
    /// Timeline, start and stop.
    backups: Vec<(u32, u64, u64)>,
    /// The segment files that are in the archive: for each of their steps, the timeline that wrote
    /// it.
    files: BTreeMap<(u32, u64), Vec<u32>>,
}

const STEPS: u64 = 4;

impl Past {
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
        let (parent, begin, _) = self.timelines[timeline as usize - 1];
        let mut lineage = vec![(timeline, begin)];
        if timeline != 1 {
            lineage.extend(self.lineage(parent));
        }
        lineage
    }

    /// What PostgreSQL replays from step `from` on, told to follow `timeline` and to stop after
    /// step `last`: the files it reads, the step it comes to, and whether all of it was the WAL
    /// that a server on that timeline had.
    fn replay(&self, timeline: u32, from: u64, last: u64) -> (Vec<(u32, u64)>, u64, bool) {
        let lineage = self.lineage(timeline);
        let (mut read, mut is_right, mut current) = (Vec::new(), true, 0);
        for step in from..=last {
            let segment = step / STEPS;
            if step == from || step % STEPS == 0 {
                let file = lineage
                    .iter()
                    .take_while(|(timeline, _)| *timeline >= current)
                    .filter(|(timeline, begin)| *timeline == 1 || begin / STEPS <= segment)
                    .map(|(timeline, _)| (*timeline, segment))
                    .find(|file| self.files.contains_key(file));
                let Some(file) = file else {
                    return (read, step, is_right);
                };
                current = file.0;
                read.push(file);
            }
            let written = self.files[&(current, segment)][usize::try_from(step % STEPS).unwrap()];
            is_right &= written == self.writer(timeline, step);
        }
        (read, last + 1, is_right)
    }

    fn address(step: u64) -> Lsn {
        Lsn(step * (SegmentSize::DEFAULT.bytes() / STEPS))
    }

    /// The same past as the code under test gets to see it.
    fn seen(&self) -> (Vec<StartingPoint>, ArchiveContents) {
        let count = u32::try_from(self.timelines.len()).unwrap();
        let histories: Vec<_> = (2..=count)
            .map(|timeline| {
                let lineage = self.lineage(timeline);
                let mut entries: Vec<_> = lineage
                    .windows(2)
                    .map(|pair| (pair[1].0, Self::address(pair[0].1).0))
                    .collect();
                entries.reverse();
                history(timeline, &entries)
            })
            .collect();
        let mut seen = contents(&[], &histories);
        let name = |(timeline, segment): &(u32, u64)| {
            SegmentName::from_number(id(*timeline), *segment, SegmentSize::DEFAULT).unwrap()
        };
        seen.segments = self.files.keys().map(name).collect();
        let points = self.backups.iter().enumerate();
        let points = points.map(|(index, &(timeline, start, stop))| {
            // No two backups end at the same time, and the later in the list ended later.
            let hour = i64::try_from(index).unwrap();
            point(
                &index.to_string(),
                timeline,
                Self::address(start).0,
                Self::address(stop).0,
                hour,
            )
        });
        (points.collect(), seen)
    }

    /// The backups on the path to `timeline`, by their place in the list.
    fn on_path(&self, timeline: u32) -> Vec<usize> {
        let on_path = |&(own, start, stop): &(u32, u64, u64)| {
            (start..stop).all(|step| self.writer(timeline, step) == own)
        };
        let backups = self.backups.iter().enumerate();
        backups
            .filter(|(_, backup)| on_path(backup))
            .map(|(index, _)| index)
            .collect()
    }
}

prop_compose! {
    fn pasts()(
        first_end in 8_u64..32,
        branches in prop::collection::vec((any::<prop::sample::Index>(), 1_u64..24, 1_u64..16), 0..6),
        backups in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 1_u64..8), 1..6),
        lost in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
    ) -> Past {
        let mut timelines = vec![(0, 0, first_end)];
        for (parent, begin, length) in branches {
            let parent = parent.index(timelines.len());
            let begin = begin.min(timelines[parent].2);
            timelines.push((u32::try_from(parent).unwrap() + 1, begin, begin + length));
        }
        let mut past = Past { timelines, backups: Vec::new(), files: BTreeMap::new() };
        for (timeline, start, length) in backups {
            let index = timeline.index(past.timelines.len());
            let (_, begin, end) = past.timelines[index];
            let start = begin + u64::try_from(start.index(usize::try_from(end - begin).unwrap())).unwrap();
            let stop = (start + length).min(end);
            past.backups.push((u32::try_from(index).unwrap() + 1, start, stop));
        }
        for index in 0..past.timelines.len() {
            let (_, begin, end) = past.timelines[index];
            let timeline = u32::try_from(index).unwrap() + 1;
            for segment in begin / STEPS..end.div_ceil(STEPS) {
                let steps = (segment * STEPS..(segment + 1) * STEPS).map(|step| past.writer(timeline, step)).collect();
                past.files.insert((timeline, segment), steps);
            }
        }
        for lost in lost {
            let names: Vec<_> = past.files.keys().copied().collect();
            past.files.remove(&names[lost.index(names.len())]);
            if past.files.is_empty() {
                break;
            }
        }
        past
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_is_chosen_for_an_address_gets_there_and_what_is_refused_would_not(past in pasts(), timeline: prop::sample::Index, step in 0_u64..48) {
        let (points, contents) = past.seen();
        let timeline = u32::try_from(timeline.index(past.timelines.len())).unwrap() + 1;
        let lsn = Lsn(Past::address(step).0 + 1);
        // Newest first by where they end; those that get there on the right WAL.
        let mut good: Vec<_> = past.on_path(timeline);
        good.retain(|index| {
            let (_, start, stop) = past.backups[*index];
            let (_, reached, is_right) = past.replay(timeline, start, step);
            stop <= step && reached == step + 1 && is_right
        });
        good.sort_by_key(|index| std::cmp::Reverse((past.backups[*index].2, *index)));

        let choice = choose(&points, &contents, &Target::Lsn(lsn), TimelineChoice::Id(id(timeline)), &TargetPosition::default());
        match choice {
            Ok(choice) => {
                prop_assert_eq!(Some(choice.point.clone()), good.first().map(ToString::to_string));
                let (_, start, _) = past.backups[good[0]];
                let (read, _, _) = past.replay(timeline, start, step);
                let read: Vec<_> = read.iter().map(|(t, n)| SegmentName::from_number(id(*t), *n, SegmentSize::DEFAULT).unwrap()).collect();
                prop_assert_eq!(choice.needed, read);
                prop_assert_eq!(choice.recovery_target_timeline, timeline.to_string());
            }
            Err(refusal) => {
                prop_assert!(good.is_empty(), "{refusal}");
                prop_assert_eq!(refusal.to_string().lines().count(), 1);
                prop_assert_eq!(refusal.hint().lines().count(), 1);
            }
        }
    }

    #[test]
    fn the_latest_state_is_never_one_of_another_branch(past in pasts(), timeline: prop::sample::Index) {
        let (points, contents) = past.seen();
        let timeline = u32::try_from(timeline.index(past.timelines.len())).unwrap() + 1;
        let choice = choose(&points, &contents, &Target::Latest, TimelineChoice::Id(id(timeline)), &TargetPosition::default());
        if let Ok(choice) = choice {
            let (_, start, stop) = past.backups[choice.point.parse::<usize>().unwrap()];
            let (_, reached, is_right) = past.replay(timeline, start, 100);
            prop_assert!(is_right && reached >= stop);
            prop_assert_eq!(choice.end, Some(Past::address(reached)));
            // Nothing of the path lies behind where it ends.
            let segments = reached / STEPS..25;
            for segment in segments {
                let last = (segment + 1) * STEPS - 1;
                prop_assert!(!past.files.contains_key(&(past.writer(timeline, last), segment)));
            }
        }
    }

    #[test]
    fn a_window_ends_where_the_right_wal_ends(past in pasts()) {
        let (points, contents) = past.seen();
        let windows = windows(&points, &contents);
        let mut expected = 0;
        for timeline in 1..=u32::try_from(past.timelines.len()).unwrap() {
            for index in past.on_path(timeline) {
                let (_, start, stop) = past.backups[index];
                expected += 1;
                let window = windows
                    .iter()
                    .find(|w| w.point == index.to_string() && w.timeline == id(timeline))
                    .unwrap();
                let is_right = |step: u64| {
                    let (_, reached, is_right) = past.replay(timeline, start, step);
                    is_right && reached == step + 1
                };
                let end = (start..100).find(|step| !is_right(*step)).unwrap();
                prop_assert_eq!(window.to, Past::address(end));
                prop_assert_eq!(window.restorable, end >= stop);
                let (read, _, _) = past.replay(timeline, start, 100);
                let leads_away = |(file, segment): &&(u32, u64)| *file != past.writer(timeline, segment * STEPS + STEPS - 1);
                // At the very start PostgreSQL needs the backup's checkpoint, and finds that there
                // is none.
                let begins = |(_, segment): &&(u32, u64)| *segment > start / STEPS || end > start;
                let stray = read.iter().find(leads_away).filter(begins).map(|(file, segment)| {
                    SegmentName::from_number(id(*file), *segment, SegmentSize::DEFAULT).unwrap()
                });
                prop_assert_eq!(window.stray, stray);
            }
        }
        prop_assert_eq!(windows.len(), expected);
    }
}
