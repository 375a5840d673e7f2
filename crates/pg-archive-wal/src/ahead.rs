//! Working ahead: one call publishes further ready segments too, on every core.
//!
//! PostgreSQL asks for one file at a time and the next only after this one. Each file takes a core
//! some 30 ms; a second core would be idle. So the first call of a backlog archives the files after
//! its own as well, durably, and leaves a receipt for each, so that PostgreSQL's call for it ends at
//! once. Nothing is reported before PostgreSQL asks, `archive_status` is only read, and there is no
//! queue: what a killed call did not finish is done by the next one.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use archive::format::Threads;
use archive::{Archive, Receipts, format};
use wal::WalFileName;

use crate::{origin, wal_file_name};

/// No further file is begun this long after the call began. PostgreSQL waits for its own file, and a
/// fast shutdown waits for PostgreSQL.
const LONGEST_COMPANY: Duration = Duration::from_secs(2);

/// Archives `path`, and the ready segments after it as far as the settings allow.
pub fn put_with_company(
    archive: &Archive,
    receipts: &Receipts,
    settings: &settings::Archive,
    path: &Path,
) -> Result<()> {
    let begin = Instant::now();
    let company = Mutex::new(ready_after(
        receipts,
        path,
        settings.work_ahead_segments as usize,
    ));
    let own_failed = AtomicBool::new(false);

    let put_company = || {
        while !own_failed.load(Ordering::Relaxed) && begin.elapsed() < LONGEST_COMPANY {
            let Some(next) = company.lock().ok().and_then(|mut queue| queue.pop_front()) else {
                break;
            };
            // PostgreSQL asks for this file in a moment, and then the failure is reported.
            if put(archive, settings, &next, Threads::One).is_err()
                || note(archive, receipts, &next).is_err()
            {
                break;
            }
        }
    };
    std::thread::scope(|scope| {
        let helpers = settings
            .threads
            .saturating_sub(1)
            .min(u32::try_from(company.lock().map_or(0, |queue| queue.len())).unwrap_or(u32::MAX));
        for _ in 0..helpers {
            scope.spawn(put_company);
        }
        // With nothing to do ahead, the other core can do half of this.
        let threads = if helpers == 0 && settings.threads > 1 {
            Threads::Two
        } else {
            Threads::One
        };
        let own = put(archive, settings, path, threads);
        own_failed.store(own.is_err(), Ordering::Relaxed);
        if own.is_ok() {
            put_company();
        }
        own
    })
}

fn put(
    archive: &Archive,
    settings: &settings::Archive,
    path: &Path,
    threads: Threads,
) -> Result<()> {
    let mut codec = format::codec(settings.compression)?;
    archive
        .put(path, origin(path), &mut codec, threads)
        .map(drop)
}

fn note(archive: &Archive, receipts: &Receipts, path: &Path) -> Result<()> {
    let name =
        wal_file_name(path).ok_or_else(|| anyhow!("\"{}\" is no WAL file", path.display()))?;
    let archived = archive.path_of(archive.newest_cluster()?, &name)?;
    receipts.write(&name, path, &archived)
}

/// The segments after `path` that PostgreSQL has marked as ready, in the order in which it will ask
/// for them, at most `limit`.
fn ready_after(receipts: &Receipts, path: &Path, limit: usize) -> VecDeque<PathBuf> {
    let (Some(directory), Some(own)) = (path.parent(), wal_file_name(path)) else {
        return VecDeque::new();
    };
    if limit == 0 {
        return VecDeque::new();
    }
    let Ok(entries) = fs::read_dir(directory.join("archive_status")) else {
        return VecDeque::new();
    };
    let mut ready: Vec<WalFileName> = entries
        .filter_map(|entry| {
            let name = entry.ok()?.file_name();
            let name = WalFileName::parse(name.to_str()?.strip_suffix(".ready")?).ok()?;
            (matches!(name, WalFileName::Segment(_)) && name > own).then_some(name)
        })
        .collect();
    ready.sort_unstable();
    ready
        .into_iter()
        .filter(|name| !receipts.has(name))
        .take(limit)
        .map(|name| directory.join(name.to_string()))
        .collect()
}
