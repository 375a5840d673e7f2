//! A backup manifest is refused or read, and names no path outside the backup.
#![no_main]

use base_backups::manifest::{Manifest, is_inside};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(manifest) = Manifest::parse(bytes) {
        assert!(manifest.files.keys().all(|path| is_inside(path)));
    }
});
