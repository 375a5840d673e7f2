//! A backup history file is refused or read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wal::BackupHistory;

fuzz_target!(|text: &str| {
    if let Ok(history) = BackupHistory::parse(text) {
        assert!(text.contains(&history.label) && text.contains(&history.stop_time));
    }
});
