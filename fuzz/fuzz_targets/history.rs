//! A history is refused, or is the same after being written and read again, and every address has
//! its timeline.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wal::{Lsn, TimelineHistory, TimelineId};

fuzz_target!(|input: (u32, u64, &str)| {
    let (timeline, lsn, text) = input;
    let Some(timeline) = TimelineId::new(timeline) else {
        return;
    };
    if let Ok(history) = TimelineHistory::parse(timeline, text) {
        assert_eq!(
            TimelineHistory::parse(timeline, &history.render()).as_ref(),
            Ok(&history)
        );
        let at = history.timeline_at(Lsn(lsn));
        assert!(history.begin_of(at).is_some_and(|begin| begin <= Lsn(lsn)));
        assert!(history.switch_point_of(at).is_none_or(|end| Lsn(lsn) < end));
    }
});
