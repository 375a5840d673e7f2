use super::*;
use wal::{SegmentSize, SystemIdentifier, TimelineId};

fn point() -> StartingPoint {
    StartingPoint {
        id: "20261011-020000".into(),
        system_identifier: SystemIdentifier(1),
        timeline: TimelineId::FIRST,
        start: Lsn(0x200_0028),
        stop: Lsn(0x200_0100),
        stop_time: Timestamp::UNIX_EPOCH,
        postgres_major: 15,
    }
}

fn end(switch_point: u64, reason: &str) -> RecoveryEnd {
    RecoveryEnd {
        timeline: TimelineId::new(2).unwrap(),
        parent: TimelineId::FIRST,
        switch_point: Lsn(switch_point),
        reason: reason.into(),
        last_commit: None,
    }
}

fn contents() -> Contents {
    Contents {
        cluster: archive::Cluster {
            system_identifier: SystemIdentifier(1),
            segment_size_bytes: 16 << 20,
            postgres_major: 15,
            admitted_at: String::new(),
            because: String::new(),
        },
        plan: restore_plan::ArchiveContents {
            system_identifier: SystemIdentifier(1),
            segment_size: SegmentSize::DEFAULT,
            segments: std::collections::BTreeSet::new(),
            histories: BTreeMap::new(),
        },
    }
}

fn check(target: Target, inclusive: bool, end: &RecoveryEnd) -> Result<()> {
    let last = SegmentName::parse("000000010000000000000009").ok();
    check_end(
        &RecoveryTarget { target, inclusive },
        &point(),
        end,
        last,
        &contents(),
    )
}

#[test]
fn r15_an_end_short_of_the_last_wal_is_not_the_latest_state() {
    let reason = "no recovery target specified";
    assert!(check(Target::Latest, true, &end(0x9A0_0000, reason)).is_ok());
    assert_eq!(
        check(Target::Latest, true, &end(0x8A0_0000, reason))
            .unwrap_err()
            .to_string(),
        "it ended at 0/8A00000, but there is WAL up to \"000000010000000000000009\""
    );
}

#[test]
fn r15_an_end_for_another_reason_than_the_target_is_noticed() {
    for (target, inclusive, reason) in [
        (Target::Xid(742), true, "after transaction 742"),
        (Target::Xid(742), false, "before transaction 742"),
        (Target::Lsn(Lsn(0x900_0000)), true, "after LSN 0/9000000\n"),
        (Target::Lsn(Lsn(0x900_0000)), false, "before LSN 0/9000000"),
        (Target::Name("a b".into()), true, "at restore point \"a b\""),
        (Target::Immediate, true, "reached consistency"),
        (
            Target::Time(Timestamp::UNIX_EPOCH),
            true,
            "before 2026-10-11 12:00:00.1+00",
        ),
    ] {
        assert!(
            check(target.clone(), inclusive, &end(0x900_0000, reason)).is_ok(),
            "{reason}"
        );
        for other in [
            "no recovery target specified",
            "after transaction 743",
            "at restore point \"b\"",
        ] {
            assert!(check(target.clone(), inclusive, &end(0x900_0000, other)).is_err());
        }
    }
}

#[test]
fn an_end_before_the_backup_is_consistent_is_refused() {
    assert!(
        check(
            Target::Immediate,
            true,
            &end(0x200_0000, "reached consistency")
        )
        .is_err()
    );
}

#[test]
fn a_tablespace_that_was_moved_before_does_not_grow_its_name() {
    let arguments = Arguments {
        from: None,
        tablespace_from: Vec::new(),
        to: "latest".into(),
        exclusive: false,
        timeline: TimelineChoice::Latest,
        into: None,
        tablespace_mapping: Vec::new(),
        plan: false,
        abandon: false,
        no_start: false,
        yes: false,
        no_backup: false,
        as_standby: false,
        json: false,
        tablespace_directory: None,
    };
    let tablespace = Tablespace {
        oid: 16400,
        location: "/srv/fast.restored-20261011-120000".into(),
    };
    let placed = place_tablespaces(&[tablespace], &arguments, "20261012-130000").unwrap();
    assert_eq!(
        placed[&16400],
        Path::new("/srv/fast.restored-20261012-130000")
    );
}

#[test]
fn two_restores_within_a_second_keep_both_clusters() {
    let dir = tempfile::tempdir().unwrap();
    let destination = dir.path().join("data");
    let now = Timestamp::UNIX_EPOCH;
    assert_eq!(free_id(&destination, now), "19700101-000000");
    fs::create_dir(kept_name(&destination, "19700101-000000")).unwrap();
    assert_eq!(free_id(&destination, now), "19700101-000000-2");
}
