//! How large the WAL files of a cluster are.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The size of a WAL segment, in bytes: a power of two from 1 MiB to 1 GiB, chosen by `initdb
/// --wal-segsize`.
///
/// It decides what the name of a segment means, so it is never guessed: it is read from the header
/// of a segment or from `global/pg_control`. In JSON it is an integer, in bytes.
///
/// # Source
///
/// `IsValidWalSegSize` in `xlog_internal.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct SegmentSize(u32);

impl SegmentSize {
    /// What `initdb` chooses when it is not told: 16 MiB.
    pub const DEFAULT: Self = Self(16 << 20);

    const SMALLEST: u32 = 1 << 20;
    const LARGEST: u32 = 1 << 30;

    /// The size of `bytes` bytes.
    ///
    /// # Errors
    ///
    /// Fails when `bytes` is not a power of two from 1 MiB to 1 GiB.
    pub fn new(bytes: u64) -> Result<Self, SegmentSizeError> {
        match u32::try_from(bytes) {
            Ok(size @ Self::SMALLEST..=Self::LARGEST) if size.is_power_of_two() => Ok(Self(size)),
            _ => Err(SegmentSizeError { bytes }),
        }
    }

    /// The size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0 as u64
    }

    /// How many segments share the middle eight digits of their names, PostgreSQL's
    /// `XLogSegmentsPerXLogId`.
    #[must_use]
    pub const fn segments_per_log(self) -> u32 {
        // 2^32 divided by a power of two no smaller than 2^20.
        1 << (32 - self.0.trailing_zeros())
    }
}

impl TryFrom<u64> for SegmentSize {
    type Error = SegmentSizeError;

    fn try_from(bytes: u64) -> Result<Self, SegmentSizeError> {
        Self::new(bytes)
    }
}

impl From<SegmentSize> for u64 {
    fn from(size: SegmentSize) -> Self {
        size.bytes()
    }
}

/// A number of bytes that no WAL segment has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentSizeError {
    bytes: u64,
}

impl fmt::Display for SegmentSizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} bytes is not the size of a WAL segment, which is a power of two from 1 MiB to 1 GiB",
            self.bytes
        )
    }
}

impl std::error::Error for SegmentSizeError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_eleven_sizes_of_initdb_and_no_others_are_accepted() {
        for shift in 0..64 {
            let bytes = 1_u64 << shift;
            assert_eq!(
                SegmentSize::new(bytes).is_ok(),
                (20..=30).contains(&shift),
                "{bytes}"
            );
            assert!(bytes == 1 || SegmentSize::new(bytes | 1).is_err());
        }
        assert!(SegmentSize::new(0).is_err());
        // The low 32 bits alone would be a valid size.
        assert!(SegmentSize::new((1 << 32) + (16 << 20)).is_err());
    }

    #[test]
    fn the_segments_of_a_log_fill_it() {
        assert_eq!(SegmentSize::DEFAULT.segments_per_log(), 256);
        for shift in 20..=30 {
            let size = SegmentSize::new(1 << shift).unwrap();
            assert_eq!(u64::from(size.segments_per_log()) * size.bytes(), 1 << 32);
        }
    }

    #[test]
    fn a_size_is_a_number_of_bytes_in_json() {
        assert_eq!(
            serde_json::to_string(&SegmentSize::DEFAULT).unwrap(),
            "16777216"
        );
        assert_eq!(
            serde_json::from_str::<SegmentSize>("1048576")
                .unwrap()
                .bytes(),
            1 << 20
        );
        let error = serde_json::from_str::<SegmentSize>("3000000").unwrap_err();
        assert!(
            error.to_string().starts_with(
                "3000000 bytes is not the size of a WAL segment, which is a power of two from 1 MiB to 1 GiB"
            ),
            "{error}"
        );
    }
}
