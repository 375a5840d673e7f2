//! A tablespace map is refused, or is the same after being written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wal::tablespace_map::{parse, render};

fuzz_target!(|text: &str| {
    if let Ok(tablespaces) = parse(text) {
        assert_eq!(parse(&render(&tablespaces)), Ok(tablespaces));
    }
});
