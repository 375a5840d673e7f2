//! The header at the beginning of every WAL segment.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Lsn, SegmentName, SegmentSize, SystemIdentifier, TimelineId};

/// How many bytes from the beginning of a segment [`LongPageHeader::parse`] has to see.
pub const LONG_HEADER_BYTES: usize = 40;

/// `xlp_info` of a page that begins with the long form of the header. The first page of a segment
/// always does.
const LONG_HEADER: u16 = 0x0002;
/// Every flag that PostgreSQL 13 to 18 defines for `xlp_info`; 0x0008 since 13.5 and 14.1.
const ALL_FLAGS: u16 = 0x000F;

/// The magic number of a WAL page, by major version. It changes whenever the WAL of one major
/// cannot be read by another.
///
/// # Source
///
/// `XLOG_PAGE_MAGIC` in `xlog_internal.h` on each stable branch; that of 15 also seen on disk.
const MAGIC: [(u16, u32); 6] = [
    (0xD106, 13),
    (0xD10D, 14),
    (0xD110, 15),
    (0xD113, 16),
    (0xD116, 17),
    (0xD118, 18),
];

/// What the first page of a WAL segment says about the segment.
///
/// # Source
///
/// `XLogLongPageHeaderData` in `xlog_internal.h`, the same from 13 to 18.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LongPageHeader {
    /// Says which major version wrote the page, see [`postgres_major`](Self::postgres_major).
    pub magic: u16,
    /// Flags: 1 a record continues here from the page before, 2 long header, 4 backup blocks may be
    /// left out, 8 a record that was torn by a crash is overwritten here.
    pub info: u16,
    /// The timeline on which the page was written, which may be older than the one in the name of
    /// the file. See [`check_segment`].
    pub timeline: TimelineId,
    /// The address of the page, so that of the segment.
    pub page_address: Lsn,
    /// The cluster that wrote it.
    pub system_identifier: SystemIdentifier,
    /// The size of this and every other segment of the cluster.
    pub segment_size: SegmentSize,
    /// The size of a WAL page, in bytes; 8192 unless PostgreSQL was built otherwise.
    pub block_size: u32,
}

impl LongPageHeader {
    /// Reads the header from the first [`LONG_HEADER_BYTES`] or more bytes of a segment.
    ///
    /// PostgreSQL writes the header in the byte order of its machine. Only little-endian is read;
    /// the other order has its own error.
    ///
    /// # Errors
    ///
    /// Fails when the bytes are too few or are not such a header of PostgreSQL 13 to 18;
    /// [`PageError`] says which.
    pub fn parse(bytes: &[u8]) -> Result<Self, PageError> {
        let Some(header) = bytes.first_chunk::<LONG_HEADER_BYTES>() else {
            return Err(PageError::TooShort { bytes: bytes.len() });
        };
        if header.iter().all(|byte| *byte == 0) {
            return Err(PageError::Empty);
        }
        let [
            m0,
            m1,
            i0,
            i1,
            t0,
            t1,
            t2,
            t3,
            a0,
            a1,
            a2,
            a3,
            a4,
            a5,
            a6,
            a7,
            rest @ ..,
        ] = *header;
        // The four bytes after xlp_rem_len are padding.
        let [_, _, _, _, _, _, _, _, rest @ ..] = rest;
        let [
            s0,
            s1,
            s2,
            s3,
            s4,
            s5,
            s6,
            s7,
            z0,
            z1,
            z2,
            z3,
            b0,
            b1,
            b2,
            b3,
        ] = rest;

        let magic = u16::from_le_bytes([m0, m1]);
        if major_of(magic).is_none() {
            return Err(match major_of(magic.swap_bytes()) {
                Some(_) => PageError::OtherByteOrder,
                None => PageError::Magic { magic },
            });
        }
        let info = u16::from_le_bytes([i0, i1]);
        if info & LONG_HEADER == 0 || info & !ALL_FLAGS != 0 {
            return Err(PageError::Info { info });
        }
        let segment_size = u64::from(u32::from_le_bytes([z0, z1, z2, z3]));
        let block_size = u32::from_le_bytes([b0, b1, b2, b3]);
        if !(1024..=65536).contains(&block_size) || !block_size.is_power_of_two() {
            return Err(PageError::BlockSize { bytes: block_size });
        }
        Ok(Self {
            magic,
            info,
            timeline: TimelineId::new(u32::from_le_bytes([t0, t1, t2, t3]))
                .ok_or(PageError::NoTimeline)?,
            page_address: Lsn(u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7])),
            system_identifier: SystemIdentifier(u64::from_le_bytes([
                s0, s1, s2, s3, s4, s5, s6, s7,
            ])),
            segment_size: SegmentSize::new(segment_size).map_err(|_| PageError::SegmentSize {
                bytes: segment_size,
            })?,
            block_size,
        })
    }

    /// The major version that wrote the page, or nothing for a `magic` that [`parse`](Self::parse)
    /// would refuse.
    #[must_use]
    pub fn postgres_major(&self) -> Option<u32> {
        major_of(self.magic)
    }
}

fn major_of(magic: u16) -> Option<u32> {
    MAGIC
        .iter()
        .find_map(|&(of_major, major)| (of_major == magic).then_some(major))
}

/// Why the beginning of a file is not that of a WAL segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageError {
    /// There are fewer than [`LONG_HEADER_BYTES`] bytes.
    TooShort {
        /// How many there are.
        bytes: usize,
    },
    /// There are only zeros: a segment that was created ahead of time and never written.
    Empty,
    /// The header is one of a machine that stores its numbers the other way round.
    OtherByteOrder,
    /// The magic number is not one of PostgreSQL 13 to 18.
    Magic {
        /// The number found.
        magic: u16,
    },
    /// The flags are not those of the first page of a segment.
    Info {
        /// The flags found.
        info: u16,
    },
    /// The timeline is 0.
    NoTimeline,
    /// The segment size is one that no cluster can have.
    SegmentSize {
        /// The size found, in bytes.
        bytes: u64,
    },
    /// The page size is one that no cluster can have.
    BlockSize {
        /// The size found, in bytes.
        bytes: u32,
    },
}

impl fmt::Display for PageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort { bytes } => write!(
                f,
                "{bytes} bytes are too few for the header of a WAL segment, which has {LONG_HEADER_BYTES}"
            ),
            Self::Empty => f.write_str("segment begins with zeros, it was never written"),
            Self::OtherByteOrder => {
                f.write_str("segment was written on a machine of the other byte order")
            }
            Self::Magic { magic } => write!(
                f,
                "segment begins with {magic:#06X}, which is not the magic number of PostgreSQL 13 to 18"
            ),
            Self::Info { info } => {
                write!(f, "segment has flags {info:#06X}, which no first page has")
            }
            Self::NoTimeline => f.write_str("segment says timeline 0, which does not exist"),
            Self::SegmentSize { bytes } => {
                write!(
                    f,
                    "segment says that segments have {bytes} bytes, which is not possible"
                )
            }
            Self::BlockSize { bytes } => {
                write!(
                    f,
                    "segment says that pages have {bytes} bytes, which is not possible"
                )
            }
        }
    }
}

impl std::error::Error for PageError {}

/// What a caller knows of the cluster a segment should be from. What is `None` is not compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// The cluster.
    pub system_identifier: Option<SystemIdentifier>,
    /// The size of its segments.
    pub segment_size: Option<SegmentSize>,
}

/// Compares the header of a segment with the name of its file and with its cluster.
///
/// The timeline in the header may be older than the one in the name. A promotion in the middle of a
/// segment copies the beginning of that segment, byte for byte, into the first file of the new
/// timeline, so the first page still carries the number of the timeline it was written on. A newer
/// timeline in the header can never be right: nothing writes new WAL into a file of an old
/// timeline.
///
/// # Errors
///
/// Fails with the first difference in the order of [`Mismatch`]'s variants, which goes from the
/// most telling on.
///
/// # Source
///
/// `XLogReaderValidatePageHeader()` in `xlogreader.c` makes the same comparisons, and for the
/// timeline only refuses one that is lower than that of an earlier page. `XLogInitNewTimeline()` in
/// `xlog.c` copies the beginning with `XLogFileCopy()`. Seen with 15.20: after a promotion at
/// 0/71396F0, `000000020000000000000007` has timeline 1 on its pages up to 0/7138000 and timeline 2
/// from 0/713A000 on. A promotion at 0/6000000, the very start of a segment, copies nothing.
pub fn check_segment(
    header: &LongPageHeader,
    name: SegmentName,
    expected: Expected,
) -> Result<(), Mismatch> {
    if let Some(expected) = expected.system_identifier
        && header.system_identifier != expected
    {
        return Err(Mismatch::SystemIdentifier {
            found: header.system_identifier,
            expected,
        });
    }
    if let Some(expected) = expected.segment_size
        && header.segment_size != expected
    {
        return Err(Mismatch::SegmentSize {
            found: header.segment_size,
            expected,
        });
    }
    if name.number(header.segment_size).is_err() {
        return Err(Mismatch::NameBeyondLog {
            name,
            size: header.segment_size,
        });
    }
    let start = name.start(header.segment_size);
    if header.page_address != start {
        return Err(Mismatch::Address {
            found: header.page_address,
            named: start,
        });
    }
    if header.timeline > name.timeline() {
        return Err(Mismatch::Timeline {
            found: header.timeline,
            named: name.timeline(),
        });
    }
    Ok(())
}

/// In what a segment differs from its name or from its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mismatch {
    /// It is of another cluster.
    SystemIdentifier {
        /// The cluster in the header.
        found: SystemIdentifier,
        /// The cluster it should be from.
        expected: SystemIdentifier,
    },
    /// It is of a cluster with segments of another size.
    SegmentSize {
        /// The size in the header.
        found: SegmentSize,
        /// The size it should have.
        expected: SegmentSize,
    },
    /// Its name cannot occur with segments of the size in its header.
    NameBeyondLog {
        /// The name.
        name: SegmentName,
        /// The size in the header.
        size: SegmentSize,
    },
    /// It holds WAL of another address.
    Address {
        /// The address in the header.
        found: Lsn,
        /// The address that its name stands for.
        named: Lsn,
    },
    /// It holds WAL of a newer timeline.
    Timeline {
        /// The timeline in the header.
        found: TimelineId,
        /// The timeline in the name.
        named: TimelineId,
    },
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SystemIdentifier { found, expected } => {
                write!(
                    f,
                    "segment says system identifier {found}, its cluster has {expected}"
                )
            }
            Self::SegmentSize { found, expected } => write!(
                f,
                "segment says that segments have {} bytes, its cluster has {}",
                found.bytes(),
                expected.bytes()
            ),
            Self::NameBeyondLog { name, size } => write!(
                f,
                "segment says that segments have {} bytes, its name \"{name}\" does not occur with that size",
                size.bytes()
            ),
            Self::Address { found, named } => {
                write!(f, "segment says address {found}, its name says {named}")
            }
            Self::Timeline { found, named } => {
                write!(f, "segment says timeline {found}, its name says {named}")
            }
        }
    }
}

impl std::error::Error for Mismatch {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FIRST_TIMELINE: &[u8] = include_bytes!("../fixtures/15.20/000000010000000000000003.head");
    const PARTIAL: &[u8] =
        include_bytes!("../fixtures/15.20/000000010000000000000007.partial.head");
    /// The first segment of timeline 2, which began in its middle.
    const AFTER_PROMOTION: &[u8] =
        include_bytes!("../fixtures/15.20/000000020000000000000007.head");
    const SECOND_TIMELINE: &[u8] =
        include_bytes!("../fixtures/15.20/000000020000000000000008.head");
    const ALL: [&[u8]; 4] = [FIRST_TIMELINE, PARTIAL, AFTER_PROMOTION, SECOND_TIMELINE];

    const CLUSTER: SystemIdentifier = SystemIdentifier(7_710_581_305_782_851_992);
    const OF_CLUSTER: Expected = Expected {
        system_identifier: Some(CLUSTER),
        segment_size: Some(SegmentSize::DEFAULT),
    };

    fn timeline(id: u32) -> TimelineId {
        TimelineId::new(id).unwrap()
    }

    fn check(bytes: &[u8], name: &str) -> Result<(), Mismatch> {
        check_segment(
            &LongPageHeader::parse(bytes).unwrap(),
            SegmentName::parse(name).unwrap(),
            OF_CLUSTER,
        )
    }

    #[test]
    fn the_header_of_a_real_segment_is_read() {
        assert_eq!(
            LongPageHeader::parse(FIRST_TIMELINE).unwrap(),
            LongPageHeader {
                magic: 0xD110,
                info: 2,
                timeline: TimelineId::FIRST,
                page_address: Lsn(0x0300_0000),
                system_identifier: CLUSTER,
                segment_size: SegmentSize::DEFAULT,
                block_size: 8192,
            }
        );
    }

    #[test]
    fn the_major_version_is_known_by_the_magic_number() {
        for (magic, major) in [
            (0xD106_u16, 13),
            (0xD10D, 14),
            (0xD110, 15),
            (0xD113, 16),
            (0xD116, 17),
            (0xD118, 18),
        ] {
            let mut bytes = FIRST_TIMELINE.to_vec();
            bytes[..2].copy_from_slice(&magic.to_le_bytes());
            let header = LongPageHeader::parse(&bytes).unwrap();
            assert_eq!(header.postgres_major(), Some(major));
            bytes[..2].copy_from_slice(&magic.to_be_bytes());
            assert_eq!(
                LongPageHeader::parse(&bytes),
                Err(PageError::OtherByteOrder)
            );
        }
    }

    #[test]
    fn what_is_not_a_first_page_is_refused_with_the_reason() {
        let with = |at: usize, new: &[u8]| {
            let mut bytes = FIRST_TIMELINE.to_vec();
            bytes[at..at + new.len()].copy_from_slice(new);
            LongPageHeader::parse(&bytes).unwrap_err().to_string()
        };
        assert_eq!(
            LongPageHeader::parse(&FIRST_TIMELINE[..39])
                .unwrap_err()
                .to_string(),
            "39 bytes are too few for the header of a WAL segment, which has 40"
        );
        assert_eq!(
            LongPageHeader::parse(&[0; 40]).unwrap_err().to_string(),
            "segment begins with zeros, it was never written"
        );
        assert_eq!(
            with(0, &[0xD1, 0x10]),
            "segment was written on a machine of the other byte order"
        );
        assert_eq!(
            with(0, &[0x10, 0xD2]),
            "segment begins with 0xD210, which is not the magic number of PostgreSQL 13 to 18"
        );
        assert_eq!(
            with(2, &[0x05]),
            "segment has flags 0x0005, which no first page has"
        );
        assert_eq!(
            with(2, &[0x12]),
            "segment has flags 0x0012, which no first page has"
        );
        assert_eq!(
            with(4, &[0]),
            "segment says timeline 0, which does not exist"
        );
        assert_eq!(
            with(32, &[1]),
            "segment says that segments have 16777217 bytes, which is not possible"
        );
        assert_eq!(
            with(36, &[0, 0x21]),
            "segment says that pages have 8448 bytes, which is not possible"
        );
    }

    #[test]
    fn a_segment_under_its_own_name_passes() {
        assert_eq!(check(FIRST_TIMELINE, "000000010000000000000003"), Ok(()));
        assert_eq!(check(PARTIAL, "000000010000000000000007"), Ok(()));
        assert_eq!(check(SECOND_TIMELINE, "000000020000000000000008"), Ok(()));
    }

    #[test]
    fn the_first_segment_after_a_promotion_may_begin_on_the_older_timeline() {
        assert_eq!(
            LongPageHeader::parse(AFTER_PROMOTION).unwrap().timeline,
            timeline(1)
        );
        assert_eq!(check(AFTER_PROMOTION, "000000020000000000000007"), Ok(()));
    }

    #[test]
    fn each_difference_is_named() {
        let said = |bytes: &[u8], name: &str| check(bytes, name).unwrap_err().to_string();
        assert_eq!(
            said(SECOND_TIMELINE, "000000010000000000000008"),
            "segment says timeline 2, its name says 1"
        );
        assert_eq!(
            said(FIRST_TIMELINE, "000000010000000000000004"),
            "segment says address 0/3000000, its name says 0/4000000"
        );
        // 0/100000000 is the address of 000000010000000100000000 too.
        assert_eq!(
            said(FIRST_TIMELINE, "000000010000000000000100"),
            "segment says that segments have 16777216 bytes, its name \"000000010000000000000100\" does not occur with that size"
        );
        let mut other = FIRST_TIMELINE.to_vec();
        other[24] ^= 1;
        assert_eq!(
            said(&other, "000000010000000000000003"),
            "segment says system identifier 7710581305782851993, its cluster has 7710581305782851992"
        );
        let mut other = FIRST_TIMELINE.to_vec();
        other[32..36].copy_from_slice(&(1_u32 << 20).to_le_bytes());
        assert_eq!(
            said(&other, "000000010000000000000003"),
            "segment says that segments have 1048576 bytes, its cluster has 16777216"
        );
    }

    #[test]
    fn what_the_caller_does_not_know_is_not_compared() {
        let mut header = LongPageHeader::parse(FIRST_TIMELINE).unwrap();
        header.system_identifier = SystemIdentifier(1);
        header.segment_size = SegmentSize::new(1 << 20).unwrap();
        let name = SegmentName::parse("000000010000000000000030").unwrap();
        assert_eq!(check_segment(&header, name, Expected::default()), Ok(()));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = LongPageHeader::parse(&bytes);
        }

        #[test]
        fn a_changed_byte_is_refused_or_shows_in_the_header(which in 0..ALL.len(), at in 0..40_usize, change in 1..=255_u8) {
            let original = LongPageHeader::parse(ALL[which]).unwrap();
            let mut bytes = ALL[which].to_vec();
            bytes[at] ^= change;
            // xlp_rem_len and the padding after it say nothing about the file.
            let unread = (16..24).contains(&at);
            match LongPageHeader::parse(&bytes) {
                Ok(header) => prop_assert_eq!(header == original, unread),
                Err(_) => prop_assert!(!unread),
            }
        }
    }
}
