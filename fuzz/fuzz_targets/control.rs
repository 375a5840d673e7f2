//! A control file is refused or read, with its checksum as it is and with the checksum made right.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wal::control::{CONTROL_BYTES, ControlFile};

/// Where PostgreSQL 13 to 16 have the checksum.
const CHECKSUM: usize = 288;

fuzz_target!(|bytes: &[u8]| {
    let _ = ControlFile::parse(bytes);
    if bytes.len() >= CONTROL_BYTES {
        let mut bytes = bytes.to_vec();
        bytes[8..12].copy_from_slice(&1300_u32.to_le_bytes());
        let sum = crc32c::crc32c(&bytes[..CHECKSUM]);
        bytes[CHECKSUM..CHECKSUM + 4].copy_from_slice(&sum.to_le_bytes());
        if let Ok(control) = ControlFile::parse(&bytes) {
            assert!(control.checksum_verified);
        }
    }
});
