//! A line of pg_waldump is passed over or read.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|line: &str| {
    if let Some(record) = wal_scan::parse_line(line) {
        let _ = (
            record.commits(),
            record.transaction_time(),
            record.ended_transaction(),
        );
        let _ = (
            record.subtransactions(),
            record.removed_files(),
            record.created_file(),
        );
        let _ = record.restore_point();
    }
});
