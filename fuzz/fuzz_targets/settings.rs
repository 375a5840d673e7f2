//! A settings file is refused with a problem for each cause, or read and written back the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use settings::{Problems, Settings};

fuzz_target!(|text: &str| {
    match Settings::parse(text) {
        Ok(settings) => {
            let written = serde_json::to_string(&settings).expect("settings can be written");
            assert_eq!(Settings::parse(&written).as_ref(), Ok(&settings));
        }
        Err(Problems(problems)) => assert!(!problems.is_empty()),
    }
});
