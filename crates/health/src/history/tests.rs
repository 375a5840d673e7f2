use std::collections::BTreeMap;

use super::*;
use crate::judge::tests::{NOW, live};
use crate::seen::{Storage, Unseen};

const MINUTE: f64 = 60.0;

/// What a check sees whose server is at `position` and `next`.
fn seen(at: f64, position: u64, next: u64, deadlocks: i64, free_bytes: u64) -> Instance {
    let nothing = || Unseen {
        why: String::new(),
        hint: None,
    };
    let mut live = live();
    live.position = Some((Lsn(position), next));
    live.deadlocks = deadlocks;
    Instance {
        now: at,
        since: None,
        server: Server::Up(Box::new(live)),
        volumes: Vec::new(),
        mounts: Vec::new(),
        waiting: Err(nothing()),
        archive: Err(nothing()),
        backups: None,
        copies: Vec::new(),
        replicas: Vec::new(),
        drill: Ok(None),
        storage: vec![(
            "data".into(),
            Ok(Storage {
                device: 1,
                free_bytes,
                size_bytes: 1000,
                free_files: 0,
                files: 0,
            }),
        )],
    }
}

fn history(checks: &[Instance]) -> History {
    let mut history = History::default();
    for check in checks {
        history.add(check);
    }
    history
}

#[test]
fn h12_wal_without_a_transaction_is_no_change_that_waits() {
    // A checkpoint after the last switch: WAL, and nothing to lose.
    let history = history(&[
        seen(NOW - 5.0 * HOUR, 100, 7, 0, 0),
        seen(NOW - 4.0 * HOUR, 180, 7, 0, 0),
        seen(NOW, 260, 7, 0, 0),
    ]);
    let exposure = history.exposure_seconds(&live(), NOW, Lsn(100));
    assert_eq!(Some(exposure), Some(0.0));
}

#[test]
fn the_oldest_change_behind_the_archive_counts() {
    let history = history(&[
        seen(NOW - 30.0 * MINUTE, 100, 7, 0, 0),
        seen(NOW - 20.0 * MINUTE, 200, 8, 0, 0),
        seen(NOW - 10.0 * MINUTE, 300, 9, 0, 0),
        seen(NOW, 300, 9, 0, 0),
    ]);
    let exposure = |archived| Some(history.exposure_seconds(&live(), NOW, Lsn(archived)));
    assert_eq!(exposure(0), Some(20.0 * MINUTE));
    assert_eq!(exposure(100), Some(20.0 * MINUTE));
    assert_eq!(exposure(200), Some(10.0 * MINUTE));
    assert_eq!(exposure(300), Some(0.0));
}

#[test]
fn what_was_seen_of_another_timeline_or_before_a_restore_does_not_count() {
    let before = seen(NOW - 30.0 * MINUTE, 500, 7, 9, 0);
    let after = seen(NOW - 20.0 * MINUTE, 200, 8, 0, 0);
    let restored = history(&[before, after, seen(NOW, 200, 8, 0, 0)]);
    let exposure = restored.exposure_seconds(&live(), NOW, Lsn(0));
    assert_eq!(Some(exposure), Some(0.0));
    assert_eq!(restored.deadlocks_in_an_hour(&live(), NOW), 3);

    let mut other = live();
    other.timeline = TimelineId::new(2).unwrap();
    let changed = history(&[
        seen(NOW - 30.0 * MINUTE, 100, 7, 0, 0),
        seen(NOW, 200, 8, 0, 0),
    ]);
    let exposure = changed.exposure_seconds(&other, NOW, Lsn(0));
    assert_eq!(Some(exposure), Some(0.0));
}

#[test]
fn deadlocks_are_those_of_the_last_hour_also_after_a_reset() {
    let mut now = live();
    now.deadlocks = 50;
    let counted = history(&[
        seen(NOW - 2.0 * HOUR, 1, 1, 10, 0),
        seen(NOW - 50.0 * MINUTE, 1, 1, 44, 0),
        seen(NOW, 1, 1, 50, 0),
    ]);
    assert_eq!(counted.deadlocks_in_an_hour(&now, NOW), 6);
    now.deadlocks = 2;
    let reset = history(&[
        seen(NOW - 50.0 * MINUTE, 1, 1, 44, 0),
        seen(NOW, 1, 1, 2, 0),
    ]);
    assert_eq!(reset.deadlocks_in_an_hour(&now, NOW), 2);
}

#[test]
fn h4_a_disk_that_fills_is_full_at_some_time_and_one_that_does_not_never_is() {
    let filling = history(&[
        seen(NOW - 24.0 * HOUR, 1, 1, 0, 900),
        seen(NOW - 12.0 * HOUR, 1, 1, 0, 700),
        seen(NOW, 1, 1, 0, 600),
    ]);
    // 300 in a day, and 600 are left.
    assert_eq!(filling.seconds_to_full("data", 600, NOW), Some(48.0 * HOUR));
    assert_eq!(filling.seconds_to_full("data", 900, NOW), None);
    assert_eq!(filling.seconds_to_full("archive", 600, NOW), None);
    let young = history(&[seen(NOW - 10.0 * HOUR, 1, 1, 0, 900), seen(NOW, 1, 1, 0, 1)]);
    assert_eq!(young.seconds_to_full("data", 1, NOW), None);
}

#[test]
fn a_day_of_checks_every_minute_stays_small_and_keeps_its_first_hour_apart() {
    let mut history = History::default();
    let start = NOW - 40.0 * HOUR;
    for minute in 0..40 * 60 {
        history.add(&seen(start + f64::from(minute) * MINUTE, 1, 1, 0, 0));
    }
    assert!(history.samples.len() < 250, "{}", history.samples.len());
    let oldest = history.samples.first().unwrap().at;
    assert!(NOW - oldest > 24.0 * HOUR);
    let dense = history
        .samples
        .iter()
        .filter(|sample| NOW - sample.at < HOUR);
    assert!(dense.count() >= 58);
}

#[test]
fn h10_what_is_of_the_future_is_forgotten() {
    let history = history(&[seen(NOW + HOUR, 1, 1, 0, 0), seen(NOW, 1, 1, 0, 0)]);
    assert_eq!(history.samples.len(), 1);
}

#[test]
fn what_is_written_is_read_and_what_is_damaged_is_nothing() {
    let state = tempfile::tempdir().unwrap();
    assert_eq!(History::read(state.path()).unwrap(), History::default());
    let written = history(&[seen(NOW, 5, 6, 7, 8)]);
    written.write(state.path()).unwrap();
    assert_eq!(History::read(state.path()).unwrap(), written);
    std::fs::write(History::path(state.path()), "{").unwrap();
    assert_eq!(History::read(state.path()).unwrap(), History::default());
    assert_eq!(
        written.samples[0].free_bytes,
        BTreeMap::from([("data".into(), 8)])
    );
}
