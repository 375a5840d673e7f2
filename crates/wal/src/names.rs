//! The names of the files that PostgreSQL archives.

use std::fmt;
use std::str::FromStr;

use crate::ids::shorten;
use crate::{Lsn, SegmentSize, TimelineId, serde_as_text};

/// The name of a WAL segment, `0000000100000000000000A7`: timeline, log and segment within the log.
///
/// What address a name stands for depends on the segment size of its cluster. Sorts as its text
/// does: by timeline, then by address.
///
/// # Source
///
/// `XLogFileName` and `XLogFromFileName` in `xlog_internal.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SegmentName {
    timeline: TimelineId,
    log: u32,
    segment: u32,
}

impl SegmentName {
    /// Reads a name of exactly 24 upper-case hexadecimal digits.
    ///
    /// # Errors
    ///
    /// Fails with [`NameError::Malformed`] for anything else, timeline 0 included.
    pub fn parse(name: &str) -> Result<Self, NameError> {
        Self::from_digits(name).ok_or_else(|| NameError::malformed(name))
    }

    fn from_digits(digits: &str) -> Option<Self> {
        Some(Self {
            timeline: TimelineId::new(eight_digits(digits.get(..8)?)?)?,
            log: eight_digits(digits.get(8..16)?)?,
            segment: eight_digits(digits.get(16..)?)?,
        })
    }

    /// The segment numbered `number`, counted from the beginning of the WAL, or nothing past the
    /// last address.
    #[must_use]
    pub fn from_number(timeline: TimelineId, number: u64, size: SegmentSize) -> Option<Self> {
        let per_log = u64::from(size.segments_per_log());
        Some(Self {
            timeline,
            log: u32::try_from(number / per_log).ok()?,
            segment: u32::try_from(number % per_log).ok()?,
        })
    }

    /// The segment of `timeline` that holds the byte at `lsn`.
    #[must_use]
    pub const fn containing(timeline: TimelineId, lsn: Lsn, size: SegmentSize) -> Self {
        // Both halves have at most 32 bits.
        let (log, segment) = (
            (lsn.0 >> 32) as u32,
            ((lsn.0 & 0xFFFF_FFFF) / size.bytes()) as u32,
        );
        Self {
            timeline,
            log,
            segment,
        }
    }

    /// The timeline, the first eight digits.
    #[must_use]
    pub const fn timeline(self) -> TimelineId {
        self.timeline
    }

    /// The upper 32 bits of the address, the middle eight digits.
    #[must_use]
    pub const fn log(self) -> u32 {
        self.log
    }

    /// The number within the log, the last eight digits.
    #[must_use]
    pub const fn segment(self) -> u32 {
        self.segment
    }

    /// The number of this segment, counted from the beginning of the WAL.
    ///
    /// # Errors
    ///
    /// Fails with [`NameError::BeyondLog`] when a log of this segment size has no such segment: the
    /// name is of a cluster with smaller segments.
    pub fn number(self, size: SegmentSize) -> Result<u64, NameError> {
        if self.segment >= size.segments_per_log() {
            return Err(NameError::BeyondLog { name: self, size });
        }
        Ok(u64::from(self.log) * u64::from(size.segments_per_log()) + u64::from(self.segment))
    }

    /// The address of the first byte.
    ///
    /// Meaningful for a name that [`number`](Self::number) accepts. For another one it is some
    /// address at or past the end of the log, and never an overflow.
    #[must_use]
    pub fn start(self, size: SegmentSize) -> Lsn {
        let within = u64::from(self.segment) * size.bytes();
        Lsn((u64::from(self.log) << 32).saturating_add(within))
    }

    /// The address just past the last byte, which is the start of the next segment.
    ///
    /// The very last segment would end at 2^64; it is said to end one byte earlier.
    #[must_use]
    pub fn end(self, size: SegmentSize) -> Lsn {
        Lsn(self.start(size).0.saturating_add(size.bytes()))
    }

    /// The segment after this one on the same timeline, or nothing after the last or for a name
    /// that [`number`](Self::number) refuses.
    #[must_use]
    pub fn next(self, size: SegmentSize) -> Option<Self> {
        Self::from_number(self.timeline, self.number(size).ok()?.checked_add(1)?, size)
    }

    /// The segment with the same address on another timeline.
    #[must_use]
    pub const fn with_timeline(self, timeline: TimelineId) -> Self {
        Self { timeline, ..self }
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:08X}{:08X}{:08X}",
            self.timeline.get(),
            self.log,
            self.segment
        )
    }
}

impl FromStr for SegmentName {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        Self::parse(name)
    }
}

serde_as_text!(SegmentName);

/// The name of a file that PostgreSQL hands to `archive_command` or asks of `restore_command`.
///
/// # Source
///
/// `IsXLogFileName` and its neighbours in `xlog_internal.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WalFileName {
    /// A full segment, `000000010000000000000007`.
    Segment(SegmentName),
    /// The last segment of a timeline that a promotion left, `000000010000000000000007.partial`.
    /// Recovery never asks for it: the new timeline has its own copy of the beginning.
    Partial(SegmentName),
    /// The history of a timeline, `00000002.history`.
    History(TimelineId),
    /// The note that a base backup leaves in the WAL archive,
    /// `000000010000000000000003.00000028.backup`.
    BackupHistory {
        /// The segment in which the backup starts.
        segment: SegmentName,
        /// Where in that segment it starts, in bytes.
        offset: u32,
    },
}

impl WalFileName {
    /// Reads a name exactly as PostgreSQL writes it.
    ///
    /// Nothing else passes: a name that was parsed and displayed again has no slash, no dot at the
    /// beginning and no more than 40 characters, so it is safe as the last part of a path.
    ///
    /// # Errors
    ///
    /// Fails with [`NameError::Malformed`].
    pub fn parse(name: &str) -> Result<Self, NameError> {
        Self::read(name).ok_or_else(|| NameError::malformed(name))
    }

    fn read(name: &str) -> Option<Self> {
        let Some((stem, suffix)) = name.split_once('.') else {
            return SegmentName::from_digits(name).map(Self::Segment);
        };
        match suffix {
            "partial" => SegmentName::from_digits(stem).map(Self::Partial),
            "history" => TimelineId::new(eight_digits(stem)?).map(Self::History),
            _ => Some(Self::BackupHistory {
                segment: SegmentName::from_digits(stem)?,
                offset: eight_digits(suffix.strip_suffix(".backup")?)?,
            }),
        }
    }

    /// The segment that the file is, or is about; a history file is about none.
    #[must_use]
    pub const fn segment(self) -> Option<SegmentName> {
        match self {
            Self::Segment(segment)
            | Self::Partial(segment)
            | Self::BackupHistory { segment, .. } => Some(segment),
            Self::History(_) => None,
        }
    }

    /// The timeline in the name.
    #[must_use]
    pub const fn timeline(self) -> TimelineId {
        match self {
            Self::Segment(segment)
            | Self::Partial(segment)
            | Self::BackupHistory { segment, .. } => segment.timeline(),
            Self::History(timeline) => timeline,
        }
    }
}

impl fmt::Display for WalFileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Segment(segment) => write!(f, "{segment}"),
            Self::Partial(segment) => write!(f, "{segment}.partial"),
            Self::History(timeline) => write!(f, "{}.history", timeline.hex()),
            Self::BackupHistory { segment, offset } => write!(f, "{segment}.{offset:08X}.backup"),
        }
    }
}

impl FromStr for WalFileName {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        Self::parse(name)
    }
}

serde_as_text!(WalFileName);

/// Exactly eight upper-case hexadecimal digits, the way every number in these names is written.
fn eight_digits(digits: &str) -> Option<u32> {
    let upper_case_hex = |b: u8| matches!(b, b'0'..=b'9' | b'A'..=b'F');
    if digits.len() != 8 || !digits.bytes().all(upper_case_hex) {
        return None;
    }
    u32::from_str_radix(digits, 16).ok()
}

/// Why a name is not one of a WAL file, or not one of this cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameError {
    /// PostgreSQL gives no file such a name.
    Malformed {
        /// The name, shortened if it is long.
        name: String,
    },
    /// The name is one that a cluster with smaller segments would use.
    BeyondLog {
        /// The name.
        name: SegmentName,
        /// The segment size by which it was to be understood.
        size: SegmentSize,
    },
}

impl NameError {
    fn malformed(name: &str) -> Self {
        Self::Malformed {
            name: shorten(name),
        }
    }
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed { name } => write!(f, "{name:?} is not the name of a WAL file"),
            Self::BeyondLog { name, size } => write!(
                f,
                "\"{name}\" is not the name of a WAL segment of {} bytes, of which a log has {}",
                size.bytes(),
                size.segments_per_log()
            ),
        }
    }
}

impl std::error::Error for NameError {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn size_in_mib(mib: u64) -> SegmentSize {
        SegmentSize::new(mib << 20).unwrap()
    }

    fn sizes() -> impl Strategy<Value = SegmentSize> {
        (0_u32..=10).prop_map(|shift| size_in_mib(1 << shift))
    }

    fn timelines() -> impl Strategy<Value = TimelineId> + Clone {
        (1_u32..).prop_map(|id| TimelineId::new(id).unwrap())
    }

    fn file_names() -> impl Strategy<Value = WalFileName> {
        let segments =
            (timelines(), any::<u32>(), any::<u32>()).prop_map(|(timeline, log, segment)| {
                SegmentName {
                    timeline,
                    log,
                    segment,
                }
            });
        prop_oneof![
            segments.clone().prop_map(WalFileName::Segment),
            segments.clone().prop_map(WalFileName::Partial),
            timelines().prop_map(WalFileName::History),
            (segments, any::<u32>())
                .prop_map(|(segment, offset)| WalFileName::BackupHistory { segment, offset }),
        ]
    }

    #[test]
    fn the_four_kinds_of_name_are_told_apart() {
        let segment = SegmentName::parse("0000000A00000001000000A7").unwrap();
        let timeline = TimelineId::new(10).unwrap();
        assert_eq!(segment.timeline(), timeline);
        assert_eq!((segment.log(), segment.segment()), (1, 0xA7));
        for (text, name) in [
            ("0000000A00000001000000A7", WalFileName::Segment(segment)),
            (
                "0000000A00000001000000A7.partial",
                WalFileName::Partial(segment),
            ),
            ("0000000A.history", WalFileName::History(timeline)),
            (
                "0000000A00000001000000A7.00000028.backup",
                WalFileName::BackupHistory {
                    segment,
                    offset: 0x28,
                },
            ),
        ] {
            assert_eq!(WalFileName::parse(text), Ok(name));
            assert_eq!(name.to_string(), text);
            assert_eq!(name.timeline(), timeline);
            assert_eq!(
                name.segment(),
                (!matches!(name, WalFileName::History(_))).then_some(segment)
            );
        }
    }

    #[test]
    fn recovery_asks_for_the_history_of_timeline_1_so_its_name_is_one() {
        assert_eq!(
            WalFileName::parse("00000001.history"),
            Ok(WalFileName::History(TimelineId::FIRST))
        );
    }

    #[test]
    fn whatever_else_a_name_could_be_is_refused() {
        for name in [
            "",
            ".",
            "..",
            "../000000010000000000000001",
            "/000000010000000000000001",
            "000000010000000000000001/",
            "000000010000000000000001\n",
            " 000000010000000000000001",
            "00000001000000000000000",
            "0000000100000000000000011",
            "00000001000000000000000g",
            "0000000100000000000000a7",
            "000000000000000000000001",
            "+00000010000000000000001",
            "00000001+00000000000000A",
            "0000000100000000000000０",
            "000000010000000000000001.",
            "000000010000000000000001.Partial",
            "000000010000000000000001.partial.partial",
            "000000010000000000000001.backup",
            "000000010000000000000001.28.backup",
            "000000010000000000000001.0000002a.backup",
            "000000010000000000000001.00000028.backup.gz",
            "00000001.00000028.backup",
            "00000000.history",
            "1.history",
            "0000000a.history",
            ".history",
            "00000001.history ",
            "archive_status",
            "RECOVERYXLOG",
            "-rf",
        ] {
            assert!(WalFileName::parse(name).is_err(), "{name:?} was accepted");
            assert!(SegmentName::parse(name).is_err(), "{name:?} was accepted");
        }
    }

    #[test]
    fn a_refused_name_is_shown_as_one_short_line() {
        assert_eq!(
            WalFileName::parse("../x\n").unwrap_err().to_string(),
            r#""../x\n" is not the name of a WAL file"#
        );
        let message = WalFileName::parse(&"A".repeat(300))
            .unwrap_err()
            .to_string();
        assert_eq!(
            message,
            format!("\"{}…\" is not the name of a WAL file", "A".repeat(64))
        );
    }

    #[test]
    fn a_name_means_another_address_with_another_segment_size() {
        let name = SegmentName::parse("000000010000000100000003").unwrap();
        for (mib, number, start) in [
            (1, 0x1003, 0x1_0030_0000),
            (16, 0x103, 0x1_0300_0000),
            (1024, 7, 0x1_C000_0000),
        ] {
            let size = size_in_mib(mib);
            assert_eq!(name.number(size), Ok(number));
            assert_eq!(name.start(size), Lsn(start));
            assert_eq!(name.end(size), Lsn(start + size.bytes()));
        }
    }

    #[test]
    fn a_name_past_the_end_of_its_log_has_no_number() {
        let name = SegmentName::parse("000000010000000000000100").unwrap();
        assert_eq!(name.number(size_in_mib(8)), Ok(256));
        let error = name.number(SegmentSize::DEFAULT).unwrap_err();
        assert_eq!(
            error.to_string(),
            "\"000000010000000000000100\" is not the name of a WAL segment of 16777216 bytes, of which a log has 256"
        );
        assert_eq!(name.next(SegmentSize::DEFAULT), None);
    }

    #[test]
    fn the_segment_after_the_last_of_a_log_is_the_first_of_the_next() {
        let last = SegmentName::parse("0000000100000000000000FF").unwrap();
        let next = last.next(SegmentSize::DEFAULT).unwrap();
        assert_eq!(next.to_string(), "000000010000000100000000");
        let very_last = SegmentName::parse("00000001FFFFFFFF000000FF").unwrap();
        assert_eq!(very_last.next(SegmentSize::DEFAULT), None);
        assert_eq!(very_last.end(SegmentSize::DEFAULT), Lsn(u64::MAX));
    }

    #[test]
    fn names_are_strings_in_json() {
        let names: Vec<WalFileName> =
            serde_json::from_str(r#"["00000002.history","000000010000000000000001"]"#).unwrap();
        assert_eq!(
            serde_json::to_string(&names).unwrap(),
            r#"["00000002.history","000000010000000000000001"]"#
        );
        assert!(serde_json::from_str::<SegmentName>(r#""00000002.history""#).is_err());
    }

    proptest! {
        #[test]
        fn every_name_is_read_back_as_written(name in file_names()) {
            prop_assert_eq!(WalFileName::parse(&name.to_string()), Ok(name));
            if let WalFileName::Segment(segment) = name {
                prop_assert_eq!(SegmentName::parse(&name.to_string()), Ok(segment));
            }
        }

        #[test]
        fn what_is_accepted_is_written_back_unchanged(text in "[0-9A-Fa-f]{7,9}([0-9A-F]{16})?(\\.[0-9A-F]{8})?(\\.(history|backup|partial))?") {
            if let Ok(name) = WalFileName::parse(&text) {
                prop_assert_eq!(name.to_string(), text);
            }
        }

        #[test]
        fn any_text_is_read_or_refused(text: String) {
            if let Ok(name) = WalFileName::parse(&text) {
                prop_assert_eq!(name.to_string(), text);
            }
        }

        #[test]
        fn names_sort_like_their_text(a in file_names(), b in file_names()) {
            if let (WalFileName::Segment(a), WalFileName::Segment(b)) = (a, b) {
                prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
            }
        }

        #[test]
        fn name_number_and_address_agree(timeline in timelines(), lsn: u64, size in sizes()) {
            let name = SegmentName::containing(timeline, Lsn(lsn), size);
            prop_assert_eq!(name.timeline(), timeline);
            prop_assert!(name.segment() < size.segments_per_log());
            let number = name.number(size).unwrap();
            prop_assert_eq!(number, lsn / size.bytes());
            prop_assert_eq!(SegmentName::from_number(timeline, number, size), Some(name));
            prop_assert!(name.start(size) <= Lsn(lsn));
            prop_assert_eq!(name.start(size).0 % size.bytes(), 0);
            prop_assert!(lsn - name.start(size).0 < size.bytes());
            match name.next(size) {
                Some(next) => {
                    prop_assert_eq!(next.start(size), name.end(size));
                    prop_assert_eq!(next.number(size).unwrap(), number + 1);
                    prop_assert!(next > name);
                }
                None => prop_assert!(lsn > u64::MAX - size.bytes()),
            }
        }

        #[test]
        fn a_name_that_does_not_fit_its_size_still_has_an_address(name in file_names(), size in sizes()) {
            if let Some(segment) = name.segment() {
                prop_assert_eq!(segment.number(size).is_ok(), segment.segment() < size.segments_per_log());
                prop_assert!(segment.start(size) <= segment.end(size));
                prop_assert!(segment.start(size).0 >= u64::from(segment.log()) << 32);
            }
        }

        #[test]
        fn another_timeline_changes_the_first_eight_digits_only(name in file_names(), timeline in timelines()) {
            if let Some(segment) = name.segment() {
                let other = segment.with_timeline(timeline);
                prop_assert_eq!(other.to_string(), format!("{}{}", timeline.hex(), &segment.to_string()[8..]));
            }
        }
    }
}
