//! A name is refused, or is written back exactly as it was read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wal::{SegmentName, SegmentSize, WalFileName};

fuzz_target!(|text: &str| {
    if let Ok(name) = WalFileName::parse(text) {
        assert_eq!(name.to_string(), text);
        assert!(text.len() <= 40 && !text.contains('/') && !text.starts_with('.'));
    }
    if let Ok(name) = SegmentName::parse(text) {
        assert_eq!(name.to_string(), text);
        for shift in 20..=30 {
            let Ok(size) = SegmentSize::new(1 << shift) else {
                panic!("2^{shift} is a segment size");
            };
            if let Ok(number) = name.number(size) {
                assert_eq!(
                    SegmentName::from_number(name.timeline(), number, size),
                    Some(name)
                );
                assert_eq!(
                    SegmentName::containing(name.timeline(), name.start(size), size),
                    name
                );
            }
            let _ = (name.end(size), name.next(size));
        }
    }
});
