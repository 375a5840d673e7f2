//! Room: on each file system once, however many places of the instance are on it.

use std::collections::BTreeMap;

use super::{Judge, bytes, span};
use crate::finding::Check;
use crate::seen::Storage;

/// A file system that is full within this many seconds is worth a look.
const SOON: f64 = 86_400.0;
/// Of a hundred files that there can be, this many may exist.
const FILES_PERCENT: u64 = 95;

impl Judge<'_> {
    pub(super) fn storage(&mut self) {
        self.verdict.checked(Check::Storage);
        let seen = self.seen;
        let mut devices: BTreeMap<u64, (Vec<&str>, &Storage)> = BTreeMap::new();
        for (place, storage) in &seen.storage {
            match storage {
                Ok(storage) => devices
                    .entry(storage.device)
                    .or_insert_with(|| (Vec::new(), storage))
                    .0
                    .push(place),
                Err(unseen) => {
                    self.unknown(
                        Check::Storage,
                        unseen,
                        "is it there, and may this user see it?",
                    );
                }
            }
        }
        for (places, storage) in devices.into_values() {
            self.device(&places, storage);
        }
    }

    fn device(&mut self, places: &[&str], storage: &Storage) {
        let names = places.join(", ");
        let health = &self.settings.health_check;
        let free = bytes(storage.free_bytes);
        let used = storage.size_bytes.saturating_sub(storage.free_bytes);
        let used_percent = |of: u64, part: u64| {
            u128::from(part) * 100 > u128::from(of) * u128::from(health.maximum_used_percent)
        };
        let is_used_up = used_percent(storage.size_bytes, used);
        let hint = "make room or enlarge it; a full disk of the data or of pg_wal stops the server, a full archive fills pg_wal";
        if storage.free_bytes < health.minimum_free_bytes {
            let least = bytes(health.minimum_free_bytes);
            self.critical(
                Check::Storage,
                format!("the file system of {names} has {free} left, and {least} have to be"),
                hint,
            );
        } else if is_used_up {
            let percent = health.maximum_used_percent;
            self.warning(
                Check::Storage,
                format!(
                    "the file system of {names} is more than {percent} per cent full: {free} of {} are left",
                    bytes(storage.size_bytes)
                ),
                hint,
            );
        }
        let existing = storage.files.saturating_sub(storage.free_files);
        if u128::from(existing) * 100 > u128::from(storage.files) * u128::from(FILES_PERCENT) {
            self.critical(
                Check::Storage,
                format!(
                    "the file system of {names} has room for {} more files of {}",
                    storage.free_files, storage.files
                ),
                "remove files that nobody needs, or make a file system with more inodes",
            );
        }
        let now = self.seen.now;
        let to_full = places
            .first()
            .and_then(|place| self.history.seconds_to_full(place, storage.free_bytes, now));
        if let Some(seconds) = to_full {
            for place in places {
                self.measured
                    .seconds_to_full
                    .push(((*place).to_owned(), seconds));
            }
            if seconds < SOON {
                self.warning(
                    Check::Storage,
                    format!(
                        "the file system of {names} is full in {} if it goes on as in the last day",
                        span(seconds)
                    ),
                    hint,
                );
            }
        }
    }
}
