//! The header of a segment is refused, or is one of a known major version and can be compared with
//! a name.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wal::page::Expected;
use wal::{LongPageHeader, SegmentName, check_segment};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(header) = LongPageHeader::parse(bytes) {
        assert!(header.postgres_major().is_some());
        let name =
            SegmentName::containing(header.timeline, header.page_address, header.segment_size);
        let is_a_start = header.page_address.0 % header.segment_size.bytes() == 0;
        assert_eq!(
            check_segment(&header, name, Expected::default()).is_ok(),
            is_a_start
        );
    }
});
