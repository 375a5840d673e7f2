//! `global/pg_control`, in which a cluster keeps its identity and its state.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Lsn, SegmentSize, SystemIdentifier, TimelineId};

/// How many bytes from the beginning of `global/pg_control` [`ControlFile::parse`] has to see. The
/// file has 8192, nearly all of them zeros.
pub const CONTROL_BYTES: usize = 512;

/// `pg_control_version` of PostgreSQL 13 to 16.
const VERSION_13_TO_16: u32 = 1300;
/// Where the checksum of that format is: it covers everything before itself.
const CHECKSUM_OFFSET_13_TO_16: usize = 288;
/// Where the checksum of a later format may be. 17 has it where 13 has it; 18 has one more field
/// before it.
const CHECKSUM_OFFSETS: std::ops::RangeInclusive<usize> = 256..=384;

/// Where `floatFormat` is, which always holds 1234567.0: seeing that shows that the fields around
/// it are where they are expected.
const FLOAT_FORMAT_OFFSET: usize = 208;
const FLOAT_FORMAT: f64 = 1_234_567.0;
/// Where `xlog_seg_size` is, five fields further on.
const SEGMENT_SIZE_OFFSET: usize = 228;

/// What `global/pg_control` says of its cluster, as far as the file has the same form in all
/// versions.
///
/// # Source
///
/// `ControlFileData` in `pg_control.h`. Each field was compared with the output of `pg_controldata`
/// 15.20.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ControlFile {
    /// The identity of the cluster.
    pub system_identifier: SystemIdentifier,
    /// The form of this file: 1300 for PostgreSQL 13 to 16, 1700 for 17, 1800 for 18.
    pub control_version: u32,
    /// The form of the system catalogs, `202209061` for 15. Each major version has its own.
    pub catalog_version: u32,
    /// What the cluster was last seen doing.
    pub state: ClusterState,
    /// When the file was last written, in seconds since 1970; the fraction is cut off. Each
    /// checkpoint writes it.
    pub written_seconds: i64,
    /// Where the record of the latest checkpoint is.
    pub checkpoint: Lsn,
    /// Where crash recovery would begin.
    pub redo: Lsn,
    /// The timeline of the latest checkpoint.
    pub timeline: TimelineId,
    /// The size of the cluster's WAL segments, or nothing if the file has an unfamiliar form.
    pub segment_size: Option<SegmentSize>,
    /// Whether the checksum was found and matches. Always so for PostgreSQL 13 to 16, where a
    /// difference is an error. For a later version `false` says only that the checksum is not where
    /// it is looked for.
    pub checksum_verified: bool,
}

/// What a cluster was last seen doing, in the words of `pg_controldata`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ClusterState {
    /// Starting up.
    StartingUp,
    /// Shut down cleanly.
    ShutDown,
    /// Shut down cleanly while it was replaying WAL.
    ShutDownInRecovery,
    /// Shutting down; if no server runs, it was interrupted.
    ShuttingDown,
    /// Recovering from a crash.
    InCrashRecovery,
    /// Replaying WAL from an archive or a primary.
    InArchiveRecovery,
    /// Running; if no server runs, it crashed, or this is a copy of a running cluster.
    InProduction,
}

impl fmt::Display for ClusterState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::StartingUp => "starting up",
            Self::ShutDown => "shut down",
            Self::ShutDownInRecovery => "shut down in recovery",
            Self::ShuttingDown => "shutting down",
            Self::InCrashRecovery => "in crash recovery",
            Self::InArchiveRecovery => "in archive recovery",
            Self::InProduction => "in production",
        })
    }
}

impl ControlFile {
    /// Reads the first [`CONTROL_BYTES`] or more bytes of `global/pg_control`.
    ///
    /// # Errors
    ///
    /// Fails when the bytes are too few, or are not such a file of PostgreSQL 13 or later on a
    /// little-endian machine, or, for 13 to 16, when the checksum differs. [`ControlError`] says
    /// which.
    pub fn parse(bytes: &[u8]) -> Result<Self, ControlError> {
        if bytes.len() < CONTROL_BYTES {
            return Err(ControlError::TooShort { bytes: bytes.len() });
        }
        let too_short = ControlError::TooShort { bytes: bytes.len() };
        let u32_at = |offset: usize| -> Result<u32, ControlError> {
            let field = bytes.get(offset..).and_then(|rest| rest.first_chunk());
            field.map(|b| u32::from_le_bytes(*b)).ok_or(too_short)
        };
        let u64_at = |offset: usize| -> Result<u64, ControlError> {
            let field = bytes.get(offset..).and_then(|rest| rest.first_chunk());
            field.map(|b| u64::from_le_bytes(*b)).ok_or(too_short)
        };
        let checksum_at = |offset: usize| -> Result<bool, ControlError> {
            Ok(bytes.get(..offset).map(crc32c::crc32c) == Some(u32_at(offset)?))
        };

        let control_version = u32_at(8)?;
        // Written by a machine of the other byte order, the version ends in two zero bytes;
        // pg_controldata tells by the same sign.
        if control_version.is_multiple_of(65536) && control_version != 0 {
            return Err(ControlError::OtherByteOrder);
        }
        if !matches!(control_version, VERSION_13_TO_16 | 1700..=9999) {
            return Err(ControlError::Version {
                version: control_version,
            });
        }
        let checksum_verified = if control_version == VERSION_13_TO_16 {
            if !checksum_at(CHECKSUM_OFFSET_13_TO_16)? {
                return Err(ControlError::Checksum);
            }
            true
        } else {
            let mut found = false;
            for offset in CHECKSUM_OFFSETS.step_by(4) {
                found |= checksum_at(offset)?;
            }
            found
        };
        let state = u32_at(16)?;
        let segment_size = if u64_at(FLOAT_FORMAT_OFFSET)? == FLOAT_FORMAT.to_bits() {
            SegmentSize::new(u64::from(u32_at(SEGMENT_SIZE_OFFSET)?)).ok()
        } else {
            None
        };
        Ok(Self {
            system_identifier: SystemIdentifier(u64_at(0)?),
            control_version,
            catalog_version: u32_at(12)?,
            state: match state {
                0 => ClusterState::StartingUp,
                1 => ClusterState::ShutDown,
                2 => ClusterState::ShutDownInRecovery,
                3 => ClusterState::ShuttingDown,
                4 => ClusterState::InCrashRecovery,
                5 => ClusterState::InArchiveRecovery,
                6 => ClusterState::InProduction,
                _ => return Err(ControlError::State { state }),
            },
            written_seconds: u64_at(24)?.cast_signed(),
            checkpoint: Lsn(u64_at(32)?),
            redo: Lsn(u64_at(40)?),
            timeline: TimelineId::new(u32_at(48)?).ok_or(ControlError::NoTimeline)?,
            segment_size,
            checksum_verified,
        })
    }
}

/// Why bytes are not those of a `pg_control`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlError {
    /// There are fewer than [`CONTROL_BYTES`] bytes.
    TooShort {
        /// How many there are.
        bytes: usize,
    },
    /// The file was written on a machine that stores its numbers the other way round.
    OtherByteOrder,
    /// The version is not one of PostgreSQL 13 or later.
    Version {
        /// The version found.
        version: u32,
    },
    /// The contents do not match their checksum.
    Checksum,
    /// The state is one that no cluster has.
    State {
        /// The number found.
        state: u32,
    },
    /// The timeline is 0.
    NoTimeline,
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort { bytes } => {
                write!(
                    f,
                    "{bytes} bytes are too few for pg_control, {CONTROL_BYTES} are needed"
                )
            }
            Self::OtherByteOrder => {
                f.write_str("pg_control was written on a machine of the other byte order")
            }
            Self::Version { version } => {
                write!(
                    f,
                    "pg_control has version {version}, which is not one of PostgreSQL 13 or later"
                )
            }
            Self::Checksum => f.write_str("pg_control does not match its checksum"),
            Self::State { state } => write!(
                f,
                "pg_control says cluster state {state}, which does not exist"
            ),
            Self::NoTimeline => f.write_str("pg_control says timeline 0, which does not exist"),
        }
    }
}

impl std::error::Error for ControlError {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const IN_PRODUCTION: &[u8] = include_bytes!("../fixtures/15.20/pg_control.in-production");
    const SHUT_DOWN: &[u8] = include_bytes!("../fixtures/15.20/pg_control.shut-down");

    /// A copy with some bytes replaced and the checksum made right again at `checksum`.
    fn with(at: usize, new: &[u8], checksum: usize) -> Vec<u8> {
        let mut bytes = IN_PRODUCTION.to_vec();
        bytes[at..at + new.len()].copy_from_slice(new);
        let sum = crc32c::crc32c(&bytes[..checksum]);
        bytes[checksum..checksum + 4].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    #[test]
    fn a_real_control_file_is_read() {
        let running = ControlFile {
            system_identifier: SystemIdentifier(7_710_581_305_782_851_992),
            control_version: 1300,
            catalog_version: 202_209_061,
            state: ClusterState::InProduction,
            written_seconds: 1_795_259_610,
            checkpoint: Lsn(0x0500_0060),
            redo: Lsn(0x0500_0028),
            timeline: TimelineId::FIRST,
            segment_size: Some(SegmentSize::DEFAULT),
            checksum_verified: true,
        };
        assert_eq!(ControlFile::parse(IN_PRODUCTION), Ok(running));
        assert_eq!(
            ControlFile::parse(SHUT_DOWN),
            Ok(ControlFile {
                state: ClusterState::ShutDown,
                written_seconds: 1_795_259_618,
                checkpoint: Lsn(0x0900_0028),
                redo: Lsn(0x0900_0028),
                timeline: TimelineId::new(3).unwrap(),
                ..running
            })
        );
        assert_eq!(running.state.to_string(), "in production");
    }

    #[test]
    fn a_changed_byte_of_a_15_is_noticed() {
        for at in 0..CHECKSUM_OFFSET_13_TO_16 + 4 {
            let mut bytes = IN_PRODUCTION.to_vec();
            bytes[at] ^= 0x40;
            assert!(
                ControlFile::parse(&bytes)
                    .is_err_and(|e| e == ControlError::Checksum || (8..12).contains(&at)),
                "byte {at}"
            );
        }
    }

    #[test]
    fn a_later_version_is_read_whether_or_not_its_checksum_is_found() {
        let version = 1800_u32.to_le_bytes();
        let found = ControlFile::parse(&with(8, &version, 292)).unwrap();
        assert!(found.checksum_verified);
        assert_eq!(found.control_version, 1800);
        let mut bytes = with(8, &version, 292);
        bytes[200] ^= 1;
        let not_found = ControlFile::parse(&bytes).unwrap();
        assert!(!not_found.checksum_verified);
        assert_eq!(not_found.system_identifier, found.system_identifier);
    }

    #[test]
    fn the_segment_size_is_left_out_when_the_fields_are_not_where_they_were() {
        let moved = with(FLOAT_FORMAT_OFFSET, &[1], 288);
        assert_eq!(ControlFile::parse(&moved).unwrap().segment_size, None);
    }

    #[test]
    fn each_defect_is_named() {
        let said = |bytes: &[u8]| ControlFile::parse(bytes).unwrap_err().to_string();
        assert_eq!(
            said(&IN_PRODUCTION[..511]),
            "511 bytes are too few for pg_control, 512 are needed"
        );
        assert_eq!(
            said(&[0; 512]),
            "pg_control has version 0, which is not one of PostgreSQL 13 or later"
        );
        assert_eq!(
            said(&with(8, &1201_u32.to_le_bytes(), 288)),
            "pg_control has version 1201, which is not one of PostgreSQL 13 or later"
        );
        assert_eq!(
            said(&with(8, &1300_u32.to_be_bytes(), 288)),
            "pg_control was written on a machine of the other byte order"
        );
        assert_eq!(
            said(&with(16, &[7], 288)),
            "pg_control says cluster state 7, which does not exist"
        );
        assert_eq!(
            said(&with(48, &[0], 288)),
            "pg_control says timeline 0, which does not exist"
        );
        let mut bytes = IN_PRODUCTION.to_vec();
        bytes[16] = 1;
        assert_eq!(said(&bytes), "pg_control does not match its checksum");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 500..530), version in 1300_u32..2000) {
            let _ = ControlFile::parse(&bytes);
            if bytes.len() >= CONTROL_BYTES {
                let mut bytes = bytes;
                bytes[8..12].copy_from_slice(&version.to_le_bytes());
                let _ = ControlFile::parse(&bytes);
            }
        }
    }
}
