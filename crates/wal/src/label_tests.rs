//! Tests of `backup_label` and the backup history file, which share their lines.

use proptest::prelude::*;

use crate::backup_label::{BackupFrom, IncrementalFrom, LabelError};
use crate::{BackupHistory, BackupLabel, Lsn, SegmentName, TimelineId};

const LABEL: &str = include_str!("../fixtures/15.20/backup_label");
const LABEL_OF_TWO_LINES: &str = include_str!("../fixtures/15.20/backup_label.label-of-two-lines");
const HISTORY: &str = include_str!("../fixtures/15.20/000000010000000000000003.00000028.backup");
const HISTORY_OF_TWO_LINES: &str =
    include_str!("../fixtures/15.20/000000010000000000000005.00000028.backup");

#[test]
fn a_real_backup_label_is_read() {
    assert_eq!(
        BackupLabel::parse(LABEL).unwrap(),
        BackupLabel {
            start: Lsn(0x0300_0028),
            start_segment: SegmentName::parse("000000010000000000000003").unwrap(),
            checkpoint: Lsn(0x0300_0060),
            method: "streamed".into(),
            from: BackupFrom::Primary,
            start_time: "2026-11-21 11:13:28 UTC".into(),
            label: "first label".into(),
            start_timeline: TimelineId::FIRST,
            incremental_from: None,
        }
    );
}

#[test]
fn a_real_backup_history_file_is_read() {
    assert_eq!(
        BackupHistory::parse(HISTORY).unwrap(),
        BackupHistory {
            start: Lsn(0x0300_0028),
            start_segment: SegmentName::parse("000000010000000000000003").unwrap(),
            stop: Lsn(0x0300_0100),
            stop_segment: SegmentName::parse("000000010000000000000003").unwrap(),
            checkpoint: Lsn(0x0300_0060),
            method: "streamed".into(),
            from: BackupFrom::Primary,
            start_time: "2026-11-21 11:13:28 UTC".into(),
            label: "first label".into(),
            start_timeline: TimelineId::FIRST,
            stop_time: "2026-11-21 11:13:29 UTC".into(),
            stop_timeline: TimelineId::FIRST,
            incremental_from: None,
        }
    );
}

#[test]
fn a_label_may_have_two_lines() {
    assert_eq!(
        BackupLabel::parse(LABEL_OF_TWO_LINES).unwrap().label,
        "the second\nlabel"
    );
    let history = BackupHistory::parse(HISTORY_OF_TWO_LINES).unwrap();
    assert_eq!(history.label, "the second\nlabel");
    assert_eq!(history.start, Lsn(0x0500_0028));
}

#[test]
fn a_label_cannot_pass_for_the_lines_after_it() {
    let sly = "x\nSTART TIMELINE: 7\nINCREMENTAL FROM LSN: 0/1\nINCREMENTAL FROM TLI: 7";
    let label = BackupLabel::parse(&LABEL.replace("first label", sly)).unwrap();
    assert_eq!(label.label, sly);
    assert_eq!(label.start_timeline, TimelineId::FIRST);
    assert_eq!(label.incremental_from, None);
}

#[test]
fn an_incremental_backup_names_the_one_before() {
    // As build_backup_content() of PostgreSQL 17 appends it.
    let lines = "INCREMENTAL FROM LSN: 0/2000028\nINCREMENTAL FROM TLI: 1\n";
    let from = Some(IncrementalFrom {
        lsn: Lsn(0x0200_0028),
        timeline: TimelineId::FIRST,
    });
    assert_eq!(
        BackupLabel::parse(&format!("{LABEL}{lines}"))
            .unwrap()
            .incremental_from,
        from
    );
    assert_eq!(
        BackupHistory::parse(&format!("{HISTORY}{lines}"))
            .unwrap()
            .incremental_from,
        from
    );
    let half = format!("{LABEL}INCREMENTAL FROM LSN: 0/2000028\n");
    assert_eq!(
        BackupLabel::parse(&half),
        Err(LabelError::Missing {
            key: "INCREMENTAL FROM TLI"
        })
    );
}

#[test]
fn a_backup_of_a_standby_says_so() {
    let label = BackupLabel::parse(&LABEL.replace("primary", "standby")).unwrap();
    assert_eq!(label.from, BackupFrom::Standby);
    // The word of PostgreSQL 13.
    let label = BackupLabel::parse(&LABEL.replace("primary", "master")).unwrap();
    assert_eq!(label.from, BackupFrom::Primary);
}

#[test]
fn a_label_that_was_cut_short_anywhere_is_refused() {
    for end in 0..LABEL.len() {
        assert!(
            BackupLabel::parse(&LABEL[..end]).is_err(),
            "{:?}",
            &LABEL[..end]
        );
    }
    for end in 0..HISTORY.len() {
        assert!(
            BackupHistory::parse(&HISTORY[..end]).is_err(),
            "{:?}",
            &HISTORY[..end]
        );
    }
}

#[test]
fn each_defect_is_named() {
    let said = |text: &str| BackupLabel::parse(text).unwrap_err().to_string();
    assert_eq!(said(LABEL.trim_end()), "the last line has no end");
    assert_eq!(
        said(&LABEL.replace("CHECKPOINT LOCATION", "CHECKPOINT")),
        "line \"CHECKPOINT LOCATION\" is not where it should be"
    );
    assert_eq!(
        said(&LABEL.replace("LABEL: ", "")),
        "line \"LABEL\" is not where it should be"
    );
    assert_eq!(
        said(&LABEL.replace("(file 0", "(file ")),
        "line \"START WAL LOCATION\" has a value that PostgreSQL does not write"
    );
    assert_eq!(
        said(&format!("{LABEL}STOP TIME: 2026\n")),
        "there are lines after the last one that PostgreSQL writes"
    );
    assert!(BackupLabel::parse(HISTORY).is_err());
    assert!(BackupHistory::parse(LABEL).is_err());
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text: String) {
        let _ = BackupLabel::parse(&text);
        let _ = BackupHistory::parse(&text);
    }

    #[test]
    fn a_damaged_label_is_read_or_refused(at in 0_usize..340, insert in "[ -~\\n:]{0,3}", remove in 0_usize..4) {
        for text in [LABEL, LABEL_OF_TWO_LINES, HISTORY, HISTORY_OF_TWO_LINES] {
            let start = at.min(text.len());
            let end = (start + remove).min(text.len());
            let damaged = format!("{}{insert}{}", &text[..start], &text[end..]);
            let _ = BackupLabel::parse(&damaged);
            let _ = BackupHistory::parse(&damaged);
        }
    }

    #[test]
    fn every_label_is_found_whole(label in "[ -~\\n]{0,60}") {
        let parsed = BackupLabel::parse(&LABEL.replace("first label", &label)).unwrap();
        prop_assert_eq!(parsed.label, label);
        prop_assert_eq!(parsed.start_timeline, TimelineId::FIRST);
    }
}
