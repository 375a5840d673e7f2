//! A backup label is refused or read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wal::BackupLabel;

fuzz_target!(|text: &str| {
    if let Ok(label) = BackupLabel::parse(text) {
        assert!(text.contains(&label.label) && text.contains(&label.start_time));
    }
});
