//! The three numbers that say where a byte of WAL belongs: which cluster, which timeline, which
//! address.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::serde_as_text;

/// An address in the WAL of one timeline, in bytes from its beginning. PostgreSQL's `XLogRecPtr`.
///
/// Displays as PostgreSQL does, `0/7000028`. Parsing accepts what `pg_lsn` accepts: one to eight
/// hexadecimal digits of either case on each side of the slash, and nothing else.
///
/// # Source
///
/// `pg_lsn_in_internal()` in `pg_lsn.c`; `LSN_FORMAT_ARGS` in `xlogdefs.h`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lsn(pub u64);

impl Lsn {
    /// The address `bytes` further on, or nothing if there is no such address.
    #[must_use]
    pub fn checked_add(self, bytes: u64) -> Option<Self> {
        self.0.checked_add(bytes).map(Self)
    }

    /// The address `bytes` before this one, or nothing if there is no such address.
    #[must_use]
    pub fn checked_sub(self, bytes: u64) -> Option<Self> {
        self.0.checked_sub(bytes).map(Self)
    }

    /// How many bytes of WAL lie between `earlier` and this address, or nothing if `earlier` is
    /// later.
    #[must_use]
    pub fn bytes_since(self, earlier: Self) -> Option<u64> {
        self.0.checked_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl FromStr for Lsn {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let parse = || {
            let (high, low) = text.split_once('/')?;
            Some(Self(u64::from(hex(high)?) << 32 | u64::from(hex(low)?)))
        };
        parse().ok_or_else(|| ParseIdError::new("an LSN such as 0/7000028", text))
    }
}

serde_as_text!(Lsn);

/// One to eight hexadecimal digits. `u32::from_str_radix` alone would accept a sign as well.
fn hex(digits: &str) -> Option<u32> {
    if digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u32::from_str_radix(digits, 16).ok()
}

/// The number of a timeline. Never 0, which PostgreSQL uses for "none".
///
/// Two spellings exist: messages, history files and settings have it in decimal, which is what this
/// displays; file names have it as eight hexadecimal digits, see [`hex`](Self::hex). Timeline 10 is
/// `0000000A` in a name. In JSON it is an integer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TimelineId(NonZeroU32);

impl TimelineId {
    /// The timeline of a cluster that was never restored nor promoted. It alone has no history
    /// file.
    pub const FIRST: Self = Self(NonZeroU32::MIN);

    /// The timeline numbered `id`, or nothing for 0.
    #[must_use]
    pub const fn new(id: u32) -> Option<Self> {
        match NonZeroU32::new(id) {
            Some(id) => Some(Self(id)),
            None => None,
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0.get()
    }

    /// The eight upper-case hexadecimal digits that stand for this timeline in file names.
    #[must_use]
    pub fn hex(self) -> String {
        format!("{:08X}", self.0)
    }
}

impl fmt::Display for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for TimelineId {
    type Err = ParseIdError;

    /// Reads the decimal form, digits only.
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        decimal(text)
            .and_then(Self::new)
            .ok_or_else(|| ParseIdError::new("a timeline number such as 1", text))
    }
}

/// The number that `initdb` gave a cluster, by which its WAL and its backups know it.
///
/// Decimal in text and in JSON, where it is a string: it exceeds the 53 bits that many readers of
/// JSON keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SystemIdentifier(pub u64);

impl fmt::Display for SystemIdentifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for SystemIdentifier {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        decimal(text).map(Self).ok_or_else(|| {
            ParseIdError::new("a system identifier such as 7710581305782851992", text)
        })
    }
}

serde_as_text!(SystemIdentifier);

/// Digits only; `parse` alone would accept a plus sign as well.
fn decimal<T: FromStr>(text: &str) -> Option<T> {
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// A text that is not the number it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseIdError {
    expected: &'static str,
    found: String,
}

impl ParseIdError {
    fn new(expected: &'static str, found: &str) -> Self {
        Self {
            expected,
            found: shorten(found),
        }
    }
}

impl fmt::Display for ParseIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not {}", self.found, self.expected)
    }
}

impl std::error::Error for ParseIdError {}

/// The beginning of a text for a message, which has to stay one readable line whatever a caller was
/// given.
pub(crate) fn shorten(text: &str) -> String {
    const LONGEST: usize = 64;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_lsn_is_written_as_postgresql_writes_it() {
        assert_eq!(Lsn(0x0700_0028).to_string(), "0/7000028");
        assert_eq!(Lsn(0x0000_00A1_0000_0000).to_string(), "A1/0");
        assert_eq!(Lsn(u64::MAX).to_string(), "FFFFFFFF/FFFFFFFF");
    }

    #[test]
    fn an_lsn_is_read_as_pg_lsn_reads_it() {
        assert_eq!("0/7000028".parse(), Ok(Lsn(0x0700_0028)));
        // PostgreSQL 19 will pad the second half.
        assert_eq!("0/07000028".parse(), Ok(Lsn(0x0700_0028)));
        assert_eq!("a1/ff".parse(), Ok(Lsn(0xA1_0000_00FF)));
        for text in [
            "",
            "/",
            "0",
            "0/",
            "/0",
            "0/+1",
            "+0/1",
            "-1/0",
            "0/1 ",
            " 0/1",
            "0x0/1",
            "0/1/2",
            "0/000000001",
            "123456789/0",
            "0/G",
            "0/１",
        ] {
            assert!(text.parse::<Lsn>().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn there_is_no_timeline_0_and_its_text_is_decimal() {
        assert_eq!(TimelineId::new(0), None);
        assert!("0".parse::<TimelineId>().is_err());
        let tenth = TimelineId::new(10).unwrap();
        assert_eq!(tenth.to_string(), "10");
        assert_eq!(tenth.hex(), "0000000A");
        assert_eq!("10".parse(), Ok(tenth));
        for text in ["", "A", "0000000A", "+1", "-1", "1 ", "4294967296"] {
            assert!(text.parse::<TimelineId>().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn a_system_identifier_is_a_string_in_json_and_a_timeline_is_a_number() {
        let identifier = SystemIdentifier(7_710_581_305_782_851_992);
        let json =
            serde_json::to_string(&(identifier, TimelineId::FIRST, Lsn(0x0300_0028))).unwrap();
        assert_eq!(json, r#"["7710581305782851992",1,"0/3000028"]"#);
        assert_eq!(
            serde_json::from_str::<(SystemIdentifier, TimelineId, Lsn)>(&json).unwrap(),
            (identifier, TimelineId::FIRST, Lsn(0x0300_0028))
        );
        assert!(serde_json::from_str::<SystemIdentifier>("7710581305782851992").is_err());
        assert!(serde_json::from_str::<TimelineId>("0").is_err());
        assert!(serde_json::from_str::<Lsn>(r#""7000028""#).is_err());
    }

    #[test]
    fn a_message_about_a_long_text_stays_one_short_line() {
        let text = "ä\n".repeat(200);
        let message = text.parse::<Lsn>().unwrap_err().to_string();
        assert!(
            message.ends_with("…\" is not an LSN such as 0/7000028"),
            "{message}"
        );
        assert!(!message.contains('\n'), "{message}");
        assert!(message.chars().count() < 200, "{message}");
    }

    proptest! {
        #[test]
        fn every_lsn_is_read_back_as_written(value: u64) {
            prop_assert_eq!(Lsn(value).to_string().parse(), Ok(Lsn(value)));
        }

        #[test]
        fn every_timeline_is_read_back_as_written(value in 1_u32..) {
            let timeline = TimelineId::new(value).unwrap();
            prop_assert_eq!(timeline.to_string().parse(), Ok(timeline));
        }

        #[test]
        fn addresses_add_and_subtract_without_wrapping(value: u64, bytes: u64) {
            let lsn = Lsn(value);
            match lsn.checked_add(bytes) {
                Some(later) => {
                    prop_assert_eq!(later.bytes_since(lsn), Some(bytes));
                    prop_assert_eq!(later.checked_sub(bytes), Some(lsn));
                    prop_assert!(bytes == 0 || lsn.bytes_since(later).is_none());
                }
                None => prop_assert!(bytes > u64::MAX - value),
            }
        }

        #[test]
        fn any_text_is_read_or_refused(text: String) {
            let _ = text.parse::<Lsn>();
            let _ = text.parse::<TimelineId>();
            let _ = text.parse::<SystemIdentifier>();
        }
    }
}
