//! Timeline history files: which timelines a timeline grew out of, and where it left each.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Lsn, TimelineId};

/// The path through the timelines that leads to one of them.
///
/// # The order of the addresses
///
/// Timeline numbers rise from line to line; addresses need not. Restoring to a point before the
/// place where the newest timeline began makes PostgreSQL name that newest timeline as the parent
/// all the same. 15.20 wrote this for a restore to 0/6005050 in an archive that had timelines 1, 2
/// and 3:
///
/// ```text
/// 1   0/71396F0   no recovery target specified
/// 2   0/8007E00   at restore point "here"
/// 3   0/6005050   after LSN 0/6005010
/// ```
///
/// Nothing of timelines 2 and 3 is part of timeline 4, which left timeline 1 at 0/6005050. Every
/// method here answers for the path that recovery takes, not for single lines;
/// [`entries`](Self::entries) has the lines.
///
/// # Source
///
/// `readTimeLineHistory()`, `tliOfPointInHistory()` and `writeTimeLineHistory()` in `timeline.c`;
/// `StartupXLOG()` in `xlog.c` passes `recoveryTargetTLI` as the parent.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TimelineHistory {
    /// The timeline that the path leads to.
    pub timeline: TimelineId,
    /// The timelines before it, oldest first, as the history file lists them. Empty for timeline 1.
    pub entries: Vec<HistoryEntry>,
}

/// One line of a history file.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HistoryEntry {
    /// The timeline that was left.
    pub timeline: TimelineId,
    /// The address at which the next timeline begins.
    pub switch_point: Lsn,
    /// Why, in PostgreSQL's words.
    pub reason: String,
}

impl TimelineHistory {
    /// The history of a timeline that grew out of no other. Right for timeline 1, which has no
    /// history file.
    #[must_use]
    pub const fn without_parents(timeline: TimelineId) -> Self {
        Self {
            timeline,
            entries: Vec::new(),
        }
    }

    /// Reads the history file of `timeline`.
    ///
    /// Accepts what PostgreSQL accepts: blank lines, which it writes itself after the first entry,
    /// and lines that begin with `#` are passed over.
    ///
    /// # Errors
    ///
    /// Fails where PostgreSQL would stop with an error: a line without a timeline and an address,
    /// timelines that do not rise, or one that is not below `timeline`.
    pub fn parse(timeline: TimelineId, text: &str) -> Result<Self, HistoryError> {
        let mut entries: Vec<HistoryEntry> = Vec::new();
        for (index, line) in text.split('\n').enumerate() {
            let content = line.trim_ascii_start();
            if content.is_empty() || content.starts_with('#') {
                continue;
            }
            let line = index + 1;
            let entry = read_entry(content).ok_or(HistoryError::Syntax { timeline, line })?;
            if entries
                .last()
                .is_some_and(|before| before.timeline >= entry.timeline)
            {
                return Err(HistoryError::Order { timeline, line });
            }
            if entry.timeline >= timeline {
                return Err(HistoryError::NotAnAncestor {
                    timeline,
                    line,
                    listed: entry.timeline,
                });
            }
            entries.push(entry);
        }
        Ok(Self { timeline, entries })
    }

    /// The text of the history file, as PostgreSQL writes it.
    ///
    /// Comments and blank lines are not kept, so this need not be byte for byte what was
    /// [parsed](Self::parse): PostgreSQL 15 ends some reasons (`after LSN 0/6005010`) in a newline
    /// of their own.
    #[must_use]
    pub fn render(&self) -> String {
        // PostgreSQL copies the parent's file and puts a newline before its own line, in case the
        // copy did not end with one.
        let lines: Vec<String> = self
            .entries
            .iter()
            .map(|e| format!("{}\t{}\t{}\n", e.timeline, e.switch_point, e.reason))
            .collect();
        lines.join("\n")
    }

    /// The timeline that wrote the WAL at `lsn`, as seen from this one.
    #[must_use]
    pub fn timeline_at(&self, lsn: Lsn) -> TimelineId {
        // The newest timeline that had begun by then, as in tliOfPointInHistory(): each begins
        // where the entry before it ends, and the oldest has always been there.
        for (index, entry) in self.entries.iter().enumerate().rev() {
            if lsn >= entry.switch_point {
                return self
                    .entries
                    .get(index + 1)
                    .map_or(self.timeline, |next| next.timeline);
            }
        }
        self.entries
            .first()
            .map_or(self.timeline, |oldest| oldest.timeline)
    }

    /// The address at which the path leaves `timeline`: WAL before it counts, WAL from it on does
    /// not.
    ///
    /// Nothing for the last timeline, which is not left, and for a timeline that is not in the
    /// history. Usually the address on the timeline's own line, and lower when a later line has a
    /// lower one.
    #[must_use]
    pub fn switch_point_of(&self, timeline: TimelineId) -> Option<Lsn> {
        let position = self.entries.iter().position(|e| e.timeline == timeline)?;
        self.entries
            .iter()
            .skip(position)
            .map(|e| e.switch_point)
            .min()
    }

    /// The address at which `timeline` begins on this path, 0/0 for the oldest; nothing for a
    /// timeline that is not in the history.
    ///
    /// On a path whose addresses do not rise it may lie past
    /// [`switch_point_of`](Self::switch_point_of); then no WAL of that timeline is on the path.
    #[must_use]
    pub fn begin_of(&self, timeline: TimelineId) -> Option<Lsn> {
        let position = if timeline == self.timeline {
            self.entries.len()
        } else {
            self.entries.iter().position(|e| e.timeline == timeline)?
        };
        Some(
            position
                .checked_sub(1)
                .and_then(|before| self.entries.get(before))
                .map_or(Lsn(0), |before| before.switch_point),
        )
    }

    /// Whether `timeline` is this one or is listed as one that it grew out of.
    #[must_use]
    pub fn contains(&self, timeline: TimelineId) -> bool {
        self.timelines().any(|listed| listed == timeline)
    }

    /// Every timeline of the history, oldest first; the last is [`timeline`](Self::timeline).
    #[must_use]
    pub fn timelines(&self) -> impl DoubleEndedIterator<Item = TimelineId> + '_ {
        self.entries
            .iter()
            .map(|e| e.timeline)
            .chain(std::iter::once(self.timeline))
    }

    /// The timeline named in the last line, which PostgreSQL calls the parent.
    #[must_use]
    pub fn parent(&self) -> Option<TimelineId> {
        self.entries.last().map(|e| e.timeline)
    }
}

fn read_entry(line: &str) -> Option<HistoryEntry> {
    let (timeline, rest) = line.split_once(is_space)?;
    let rest = rest.trim_start_matches(is_space);
    let (lsn, reason) = rest.split_once(is_space).unwrap_or((rest, ""));
    Some(HistoryEntry {
        timeline: timeline.parse().ok()?,
        switch_point: lsn.parse().ok()?,
        reason: reason.to_owned(),
    })
}

/// `isspace()` in the C locale, which separates the fields for PostgreSQL.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\x0b' | '\x0c')
}

/// Why a text is not the history of a timeline. Lines are counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HistoryError {
    /// A line does not begin with a timeline and an address.
    Syntax {
        /// Whose history it should be.
        timeline: TimelineId,
        /// The line.
        line: usize,
    },
    /// A line names a timeline that is not above the one before.
    Order {
        /// Whose history it should be.
        timeline: TimelineId,
        /// The line.
        line: usize,
    },
    /// A line names a timeline that cannot be an ancestor, because it is not below the timeline
    /// itself.
    NotAnAncestor {
        /// Whose history it should be.
        timeline: TimelineId,
        /// The line.
        line: usize,
        /// The timeline named there.
        listed: TimelineId,
    },
}

impl fmt::Display for HistoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax { timeline, line } => write!(
                f,
                "history of timeline {timeline}, line {line}: expected a timeline and an address such as 0/7000028"
            ),
            Self::Order { timeline, line } => write!(
                f,
                "history of timeline {timeline}, line {line}: timelines must rise from line to line"
            ),
            Self::NotAnAncestor {
                timeline,
                line,
                listed,
            } => write!(
                f,
                "history of timeline {timeline}, line {line}: timeline {listed} cannot be its ancestor"
            ),
        }
    }
}

impl std::error::Error for HistoryError {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const REAL: [(u32, &str); 4] = [
        (2, include_str!("../fixtures/15.20/00000002.history")),
        (3, include_str!("../fixtures/15.20/00000003.history")),
        (4, include_str!("../fixtures/15.20/00000004.history")),
        (5, include_str!("../fixtures/15.20/00000005.history")),
    ];

    fn id(timeline: u32) -> TimelineId {
        TimelineId::new(timeline).unwrap()
    }

    fn parse(timeline: u32, text: &str) -> Result<TimelineHistory, HistoryError> {
        TimelineHistory::parse(id(timeline), text)
    }

    fn real(timeline: u32) -> TimelineHistory {
        let (_, text) = REAL.iter().find(|(t, _)| *t == timeline).unwrap();
        parse(timeline, text).unwrap()
    }

    #[test]
    fn a_real_history_is_read_and_written_back() {
        let lines = |text: &str| -> Vec<String> {
            let lines = text.lines().filter(|line| !line.is_empty());
            lines.map(ToOwned::to_owned).collect()
        };
        for (timeline, text) in REAL {
            assert_eq!(lines(&real(timeline).render()), lines(text));
        }
        assert_eq!(real(3).render(), REAL[1].1);
        assert_eq!(
            real(3).entries,
            [
                HistoryEntry {
                    timeline: id(1),
                    switch_point: Lsn(0x0713_96F0),
                    reason: "no recovery target specified".into()
                },
                HistoryEntry {
                    timeline: id(2),
                    switch_point: Lsn(0x0800_7E00),
                    reason: "at restore point \"here\"".into()
                },
            ]
        );
    }

    #[test]
    fn an_address_belongs_to_the_timeline_that_wrote_it() {
        let history = real(3);
        for (lsn, timeline) in [
            (0, 1),
            (0x0713_96EF, 1),
            (0x0713_96F0, 2),
            (0x0800_7DFF, 2),
            (0x0800_7E00, 3),
            (u64::MAX, 3),
        ] {
            assert_eq!(history.timeline_at(Lsn(lsn)), id(timeline), "{}", Lsn(lsn));
        }
        assert_eq!(history.switch_point_of(id(1)), Some(Lsn(0x0713_96F0)));
        assert_eq!(history.switch_point_of(id(2)), Some(Lsn(0x0800_7E00)));
        assert_eq!(history.switch_point_of(id(3)), None);
        assert_eq!(history.begin_of(id(1)), Some(Lsn(0)));
        assert_eq!(history.begin_of(id(2)), Some(Lsn(0x0713_96F0)));
        assert_eq!(history.begin_of(id(3)), Some(Lsn(0x0800_7E00)));
        assert_eq!(history.begin_of(id(4)), None);
        assert!(history.contains(id(3)) && history.contains(id(1)) && !history.contains(id(4)));
        assert_eq!(history.parent(), Some(id(2)));
    }

    #[test]
    fn a_restore_to_before_its_listed_parent_leaves_the_timeline_it_really_left() {
        let history = real(4);
        assert_eq!(history.timeline_at(Lsn(0x0600_504F)), id(1));
        for lsn in [0x0600_5050, 0x0713_96F0, 0x0800_0000, 0x0800_7E00] {
            assert_eq!(history.timeline_at(Lsn(lsn)), id(4), "{}", Lsn(lsn));
        }
        // Not 0/71396F0, which is on its line: that part of timeline 1 is not on the path.
        assert_eq!(history.switch_point_of(id(1)), Some(Lsn(0x0600_5050)));
        assert_eq!(history.begin_of(id(4)), Some(Lsn(0x0600_5050)));
        assert_eq!(real(5).timeline_at(Lsn(0x0700_0000)), id(5));
        assert_eq!(real(5).timeline_at(Lsn(0x06FF_FFFF)), id(4));
    }

    #[test]
    fn the_first_timeline_has_no_parents() {
        let history = TimelineHistory::without_parents(TimelineId::FIRST);
        assert_eq!(history.timeline_at(Lsn(0)), id(1));
        assert_eq!(history.timeline_at(Lsn(u64::MAX)), id(1));
        assert_eq!(history.begin_of(id(1)), Some(Lsn(0)));
        assert_eq!(history.render(), "");
        assert_eq!(parse(1, ""), Ok(history));
    }

    #[test]
    fn comments_blank_lines_and_spaces_are_read_as_postgresql_reads_them() {
        let history = parse(0x0A, "# note\n\n \t\n  9 \t 0/07000000\tlast\treason\r\n").unwrap();
        assert_eq!(history.entries.len(), 1);
        assert_eq!(history.switch_point_of(id(9)), Some(Lsn(0x0700_0000)));
        assert_eq!(history.entries[0].reason, "last\treason\r");
        assert_eq!(parse(2, "1\t0/7000000").unwrap().entries[0].reason, "");
    }

    #[test]
    fn what_postgresql_would_stop_at_is_refused_with_the_line() {
        for (text, message) in [
            (
                "1\t0/1\tx\n\nno\n",
                "history of timeline 5, line 3: expected a timeline and an address such as 0/7000028",
            ),
            (
                "A\t0/1\tx\n",
                "history of timeline 5, line 1: expected a timeline and an address such as 0/7000028",
            ),
            (
                "1\t7000000\tx\n",
                "history of timeline 5, line 1: expected a timeline and an address such as 0/7000028",
            ),
            (
                "2\t0/1\tx\n2\t0/2\tx\n",
                "history of timeline 5, line 2: timelines must rise from line to line",
            ),
            (
                "1\t0/1\tx\n5\t0/2\tx\n",
                "history of timeline 5, line 2: timeline 5 cannot be its ancestor",
            ),
        ] {
            assert_eq!(parse(5, text).unwrap_err().to_string(), message);
        }
    }

    prop_compose! {
        fn histories()(
            below in proptest::collection::btree_set(1_u32..40, 0..6),
            points in proptest::collection::vec(0_u64..50, 6),
            reason in "[ -~]{0,20}",
        ) -> TimelineHistory {
            TimelineHistory {
                timeline: id(40),
                entries: below
                    .into_iter()
                    .zip(points)
                    .map(|(timeline, point)| HistoryEntry {
                        timeline: id(timeline),
                        switch_point: Lsn(point),
                        reason: reason.clone(),
                    })
                    .collect(),
            }
        }
    }

    proptest! {
        #[test]
        fn every_history_is_read_back_as_written(history in histories()) {
            prop_assert_eq!(TimelineHistory::parse(history.timeline, &history.render()), Ok(history));
        }

        /// Word for word what `tliOfPointInHistory()` does, with its list built as
        /// `readTimeLineHistory()` builds it.
        #[test]
        fn an_address_belongs_to_the_timeline_that_postgresql_would_say(history in histories(), lsn in 0_u64..55) {
            let mut newest_first = Vec::new();
            let mut previous_end = 0;
            for entry in &history.entries {
                newest_first.insert(0, (entry.timeline, previous_end, entry.switch_point.0));
                previous_end = entry.switch_point.0;
            }
            newest_first.insert(0, (history.timeline, previous_end, 0));
            let expected = newest_first
                .iter()
                .find(|(_, begin, end)| (*begin == 0 || *begin <= lsn) && (*end == 0 || lsn < *end));
            // PostgreSQL takes 0/0 for "not known", so a switch there, which cannot happen, has no
            // answer.
            if history.entries.iter().all(|e| e.switch_point.0 != 0) {
                prop_assert_eq!(history.timeline_at(Lsn(lsn)), expected.unwrap().0);
            }
        }

        #[test]
        fn begin_and_switch_point_bound_the_addresses_of_a_timeline(history in histories(), lsn in 0_u64..55) {
            for timeline in history.timelines() {
                let begins = history.begin_of(timeline).unwrap() <= Lsn(lsn);
                let lasts = history.switch_point_of(timeline).is_none_or(|end| Lsn(lsn) < end);
                prop_assert_eq!(begins && lasts, history.timeline_at(Lsn(lsn)) == timeline);
            }
        }

        #[test]
        fn any_text_is_read_or_refused(timeline in 1_u32.., text: String) {
            let _ = parse(timeline, &text);
        }

        #[test]
        fn a_damaged_history_is_read_or_refused(
            which in 0..REAL.len(),
            at in 0_usize..160,
            insert in "[ -~\\n\\t]{0,3}",
            remove in 0_usize..4,
        ) {
            let (timeline, text) = REAL[which];
            let start = at.min(text.len());
            let end = (start + remove).min(text.len());
            let damaged = format!("{}{insert}{}", &text[..start], &text[end..]);
            if let Ok(history) = parse(timeline, &damaged) {
                prop_assert_eq!(parse(timeline, &history.render()), Ok(history));
            }
        }
    }
}
