//! Which moment a drill restores. Pure.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};

use jiff::{SignedDuration, Timestamp};
use restore_plan::Window;
use serde::Deserialize;
use wal::TimelineId;

/// What `backstay windows --json` prints, as far as a drill reads it.
#[derive(Clone, Debug, Deserialize)]
pub struct Printed {
    /// The windows.
    pub windows: Vec<Shown>,
}

/// A window as `backstay windows --json` prints it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Shown {
    #[serde(flatten)]
    pub window: Window,
    /// Time of the last transaction in the window; nothing where it holds none.
    pub to_time: Option<Timestamp>,
}

/// What is restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The moment. Without one, the latest state: no transaction ended after the base backups.
    pub time: Option<Timestamp>,
    /// The timeline that is followed.
    pub timeline: TimelineId,
}

impl Moment {
    /// As `backstay restore --to` takes it.
    pub fn target(&self) -> String {
        self.time
            .map_or_else(|| "latest".into(), |time| time.to_string())
    }
}

/// A number that nobody can foresee, evenly below `bound`, which is not 0.
pub fn random_below(bound: u64) -> u64 {
    // The keys of a `RandomState` are random, so the hash of nothing is.
    RandomState::new().build_hasher().finish() % bound
}

/// Whether every moment of a window can be restored.
pub fn is_whole(window: &Window) -> bool {
    window.restorable && window.missing.is_empty()
}

/// Picks a moment in one of `windows`, each of all restorable moments being as likely as any other.
/// `random` gives a number below the one that it is given.
///
/// Nothing if there is no window without a gap: up to a gap a time cannot be restored, since nobody knows
/// at which time it begins. Where a moment is in the windows of several timelines, the newest
/// counts, as in a restore that names none.
pub fn pick(windows: &[Shown], random: impl Fn(u64) -> u64) -> Option<Moment> {
    let restorable = || windows.iter().filter(|shown| is_whole(&shown.window));
    // First and last restorable millisecond: after the end of the base backup, and before the last
    // transaction, or PostgreSQL would find none to stop at.
    let mut spans: Vec<(i64, i64)> = restorable()
        .filter_map(|shown| {
            let first = shown.window.from_time.as_millisecond() + 1;
            let last = shown.to_time?.as_millisecond() - 1;
            (first <= last).then_some((first, last))
        })
        .collect();
    spans.sort_unstable();
    let mut apart: Vec<(i64, i64)> = Vec::new();
    for (first, last) in spans {
        match apart.last_mut() {
            Some((_, end)) if first <= *end => *end = last.max(*end),
            _ => apart.push((first, last)),
        }
    }
    let length = |(first, last): (i64, i64)| (last - first).unsigned_abs() + 1;
    let total: u64 = apart.iter().copied().map(length).sum();
    if total == 0 {
        let newest = restorable().max_by_key(|shown| (shown.window.timeline, shown.window.to))?;
        return Some(Moment {
            time: None,
            timeline: newest.window.timeline,
        });
    }
    let mut at = random(total);
    let span = apart.into_iter().find(|span| {
        let inside = at < length(*span);
        if !inside {
            at -= length(*span);
        }
        inside
    })?;
    let millisecond = span.0.checked_add_unsigned(at)?;
    let time = Timestamp::from_millisecond(millisecond).ok()?;
    let margin = SignedDuration::from_millis(1);
    let timeline = restorable()
        .filter(|shown| {
            shown.window.from_time < time && shown.to_time.is_some_and(|to| time + margin <= to)
        })
        .map(|shown| shown.window.timeline)
        .max()?;
    Some(Moment {
        time: Some(time),
        timeline,
    })
}

/// The window of a copy that is consistent from `consistent` on: what the archive has after it. Nothing if
/// there is no window to end it.
pub fn from_copy(windows: Vec<Shown>, consistent: Timestamp) -> Vec<Shown> {
    windows
        .into_iter()
        .max_by_key(|shown| (shown.window.timeline, shown.window.to))
        .map(|mut shown| {
            shown.window.from_time = consistent;
            shown
        })
        .into_iter()
        .collect()
}

#[cfg(test)]
mod tests {
    use restore_plan::Missing;
    use wal::Lsn;

    use super::*;

    fn window(timeline: u32, from: &str, to: Option<&str>) -> Shown {
        Shown {
            window: Window {
                point: "20261011-020000".into(),
                timeline: TimelineId::new(timeline).unwrap(),
                from: Lsn(1),
                from_time: from.parse().unwrap(),
                to: Lsn(2),
                restorable: true,
                missing: Missing::default(),
                stray: None,
            },
            to_time: to.map(|to| to.parse().unwrap()),
        }
    }

    fn moment(time: &str, timeline: u32) -> Moment {
        Moment {
            time: Some(time.parse().unwrap()),
            timeline: TimelineId::new(timeline).unwrap(),
        }
    }

    #[test]
    fn first_and_last_moment_are_inside_and_gaps_between_windows_are_not() {
        let windows = [
            window(1, "2026-10-11T02:00:00Z", Some("2026-10-11T02:00:01Z")),
            window(1, "2026-10-11T02:00:00.5Z", Some("2026-10-11T02:00:01Z")),
            window(1, "2026-10-12T02:00:00Z", Some("2026-10-12T02:00:00.004Z")),
        ];
        // 999 milliseconds of the first two together, 3 of the third.
        let pick_at = |at: u64| {
            pick(&windows, |bound| {
                assert_eq!(bound, 1002);
                at
            })
        };
        assert_eq!(pick_at(0), Some(moment("2026-10-11T02:00:00.001Z", 1)));
        assert_eq!(pick_at(998), Some(moment("2026-10-11T02:00:00.999Z", 1)));
        assert_eq!(pick_at(999), Some(moment("2026-10-12T02:00:00.001Z", 1)));
        assert_eq!(pick_at(1001), Some(moment("2026-10-12T02:00:00.003Z", 1)));
    }

    #[test]
    fn the_newest_timeline_counts_where_a_moment_is_on_several() {
        let windows = [
            window(1, "2026-10-11T02:00:00Z", Some("2026-10-11T04:00:00Z")),
            window(3, "2026-10-11T02:00:00Z", Some("2026-10-11T03:00:00Z")),
        ];
        assert_eq!(
            pick(&windows, |_| 0),
            Some(moment("2026-10-11T02:00:00.001Z", 3))
        );
        assert_eq!(
            pick(&windows, |bound| bound - 1),
            Some(moment("2026-10-11T03:59:59.999Z", 1))
        );
    }

    #[test]
    fn without_a_transaction_the_latest_state_is_restored_and_without_a_window_nothing() {
        let mut shown = window(2, "2026-10-11T02:00:00Z", None);
        assert_eq!(
            pick(std::slice::from_ref(&shown), |bound| bound - 1)
                .unwrap()
                .target(),
            "latest"
        );
        shown.window.restorable = false;
        assert_eq!(pick(&[shown], |bound| bound - 1), None);
        let mut shown = window(2, "2026-10-11T02:00:00Z", Some("2026-10-11T03:00:00Z"));
        shown.window.missing.count = 1;
        assert_eq!(pick(&[shown], |bound| bound - 1), None);
        assert_eq!(pick(&[], |bound| bound - 1), None);
    }

    #[test]
    fn a_copy_begins_where_it_is_consistent_and_ends_with_the_newest_window() {
        let windows = vec![
            window(1, "2026-10-11T02:00:00Z", Some("2026-10-11T04:00:00Z")),
            window(2, "2026-10-11T02:00:00Z", Some("2026-10-11T05:00:00Z")),
        ];
        let copied = from_copy(windows, "2026-10-11T04:30:00Z".parse().unwrap());
        assert_eq!(
            pick(&copied, |_| 0),
            Some(moment("2026-10-11T04:30:00.001Z", 2))
        );
        assert!(from_copy(Vec::new(), "2026-10-11T04:30:00Z".parse().unwrap()).is_empty());
    }

    #[test]
    fn a_random_number_is_below_its_bound_and_not_always_the_same() {
        let numbers: Vec<u64> = (0..64).map(|_| random_below(1000)).collect();
        assert!(numbers.iter().all(|number| *number < 1000));
        assert!(numbers.iter().any(|number| *number != numbers[0]));
    }
}
