//! Days, weeks and months of UTC, numbered so that they can be counted back.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::Offset;

/// A kind of period of which the newest backup is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Period {
    Day,
    Week,
    Month,
}

impl Period {
    /// The number of the period that holds `instant`. The next period has the next number.
    pub(crate) fn number(self, instant: Timestamp) -> i64 {
        let date = date(instant);
        match self {
            Self::Day => day(instant),
            // Day 0 was a Thursday, and ISO weeks begin on Monday.
            Self::Week => (day(instant) + 3).div_euclid(7),
            Self::Month => i64::from(date.year()) * 12 + i64::from(date.month()),
        }
    }

    /// What the period that holds `instant` is called: `day 2026-10-11`.
    pub(crate) fn name(self, instant: Timestamp) -> String {
        let date = date(instant);
        match self {
            Self::Day => format!("day {date}"),
            Self::Week => {
                let week = date.iso_week_date();
                format!("week {}-W{:02}", week.year(), week.week())
            }
            Self::Month => format!("month {:04}-{:02}", date.year(), date.month()),
        }
    }
}

fn date(instant: Timestamp) -> Date {
    Offset::UTC.to_datetime(instant).date()
}

fn day(instant: Timestamp) -> i64 {
    instant.as_second().div_euclid(86_400)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_period_changes_at_midnight_utc() {
        for (period, before, after) in [
            (
                Period::Day,
                "2026-10-11T23:59:59.999999Z",
                "2026-10-12T00:00:00Z",
            ),
            (Period::Day, "1969-12-31T23:59:59Z", "1970-01-01T00:00:00Z"),
            // A Sunday and a Monday.
            (Period::Week, "2026-10-11T23:59:59Z", "2026-10-12T00:00:00Z"),
            (Period::Week, "2021-01-03T23:59:59Z", "2021-01-04T00:00:00Z"),
            (
                Period::Month,
                "2026-10-31T23:59:59Z",
                "2026-11-01T00:00:00Z",
            ),
            (
                Period::Month,
                "2026-12-31T23:59:59Z",
                "2027-01-01T00:00:00Z",
            ),
        ] {
            assert_eq!(
                period.number(at(after)),
                period.number(at(before)) + 1,
                "{after}"
            );
        }
        assert_eq!(
            Period::Week.number(at("2026-10-12T00:00:00Z")),
            Period::Week.number(at("2026-10-18T23:59:59Z"))
        );
    }

    #[test]
    fn a_period_has_a_name() {
        let instant = at("2027-01-01T12:00:00Z");
        assert_eq!(Period::Day.name(instant), "day 2027-01-01");
        assert_eq!(Period::Week.name(instant), "week 2026-W53");
        assert_eq!(Period::Month.name(instant), "month 2027-01");
    }
}
