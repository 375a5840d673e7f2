//! Which of several copies of one thing are the newest of their day, week or month.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::calendar::Period;

/// The moments to keep: the newest of each of the last `daily` days, `weekly` ISO weeks and `monthly`
/// months, all of UTC, and the newest of all.
///
/// A clock that was set back makes the newest lie in the future, and then nothing can be said: all
/// are kept.
#[must_use]
pub fn newest_of_periods(
    moments: &BTreeSet<Timestamp>,
    daily: u32,
    weekly: u32,
    monthly: u32,
    now: Timestamp,
) -> BTreeSet<Timestamp> {
    let Some(&newest) = moments.last() else {
        return BTreeSet::new();
    };
    if newest > now {
        return moments.clone();
    }
    let mut kept = BTreeSet::from([newest]);
    for (period, count) in [
        (Period::Day, daily),
        (Period::Week, weekly),
        (Period::Month, monthly),
    ] {
        // In the order of time, so that the newest of a period is entered last.
        let newest_of: BTreeMap<i64, Timestamp> = moments
            .iter()
            .map(|&moment| (period.number(moment), moment))
            .filter(|(number, _)| period.number(now) - number < i64::from(count))
            .collect();
        kept.extend(newest_of.into_values());
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(texts: &[&str]) -> BTreeSet<Timestamp> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn kept(daily: u32, weekly: u32, monthly: u32, texts: &[&str], now: &str) -> Vec<String> {
        newest_of_periods(
            &moments(texts),
            daily,
            weekly,
            monthly,
            now.parse().unwrap(),
        )
        .iter()
        .map(ToString::to_string)
        .collect()
    }

    #[test]
    fn the_newest_of_each_period_is_kept_and_the_newest_of_all() {
        let all = [
            "2026-08-31T12:00:00Z",
            "2026-09-30T12:00:00Z",
            "2026-10-09T12:00:00Z",
            "2026-10-10T06:00:00Z",
            "2026-10-10T18:00:00Z",
            "2026-10-11T06:00:00Z",
        ];
        let now = "2026-10-11T12:00:00Z";
        assert_eq!(
            kept(2, 0, 0, &all, now),
            ["2026-10-10T18:00:00Z", "2026-10-11T06:00:00Z"]
        );
        assert_eq!(
            kept(0, 0, 2, &all, now),
            ["2026-09-30T12:00:00Z", "2026-10-11T06:00:00Z"]
        );
        assert_eq!(kept(0, 1, 0, &all, now), ["2026-10-11T06:00:00Z"]);
        // However old it is.
        assert_eq!(kept(1, 1, 1, &all[..1], now), ["2026-08-31T12:00:00Z"]);
        assert_eq!(kept(1, 1, 1, &[], now), Vec::<String>::new());
    }

    #[test]
    fn nothing_goes_while_the_clock_is_behind() {
        let all = ["2026-10-01T00:00:00Z", "2026-10-11T00:00:00Z"];
        assert_eq!(kept(1, 0, 0, &all, "2026-10-10T00:00:00Z"), all);
    }
}
