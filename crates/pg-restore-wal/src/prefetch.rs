//! Fetching ahead: recovery replays one segment while the next ones are being decompressed.
//!
//! An ordinary call that finds too few files waiting starts this program once more, on its own, to
//! fetch the segments after the one in hand. They wait in a directory below `pg_wal`, where each
//! appears whole, checked and synced or not at all, so that handing one over is a rename. Nothing is
//! remembered about files that were absent: the archive is asked again each time.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use archive::{Fetched, SEGMENT_STAGING};
use command::Command;
use durable_file::{Published, Temporary};
use wal::{SegmentName, WalFileName};

use crate::Archives;

/// What PostgreSQL gives for `%p` in recovery, for segments and for history files. For any other
/// destination a person asks, and nothing is fetched ahead.
const RECOVERY_DESTINATIONS: [&str; 2] = ["RECOVERYXLOG", "RECOVERYHISTORY"];
/// How long a fetcher waits for recovery to take a file before it ends. The next call starts
/// another.
const LONGEST_IDLE: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(4);
const LOCK: &str = "lock";

/// Directory for files on their way to `destination`, on the same file system.
fn staging(destination: &Path) -> PathBuf {
    let directory = match destination.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    };
    if is_recovery(destination) {
        directory.join(SEGMENT_STAGING)
    } else {
        directory.to_owned()
    }
}

fn is_recovery(destination: &Path) -> bool {
    destination
        .file_name()
        .is_some_and(|name| RECOVERY_DESTINATIONS.iter().any(|known| name == *known))
}

/// Puts the file at `destination`: the one that waits there already, or else from the archive.
pub fn get(archives: &Archives, name: &WalFileName, destination: &Path) -> Result<Fetched> {
    let staging = staging(destination);
    if is_recovery(destination) {
        durable_file::ensure_directory(&staging)?;
        let waiting = staging.join(name.to_string());
        wait_while_underway(&staging, name, &waiting);
        // PostgreSQL syncs what it keeps (`durable_rename()` in `KeepFileRestoredFromArchive()`), and
        // after a crash it removes the file and asks again.
        if waiting.exists() && durable_file::hand_over(&waiting, destination).is_ok() {
            return Ok(Fetched::Yes);
        }
    }
    archives.get(name, &staging, destination)
}

/// Waits while the fetcher is at work on this very file, which it finishes sooner than we would.
fn wait_while_underway(staging: &Path, name: &WalFileName, waiting: &Path) {
    let begin = Instant::now();
    while !waiting.exists()
        && begin.elapsed() < LONGEST_IDLE
        && durable_file::is_being_written(staging, &name.to_string())
    {
        std::thread::sleep(POLL / 4);
    }
}

/// Removes what recovery has passed, and starts a fetcher if too little is waiting.
///
/// What fails here costs speed only, so it is not reported.
pub fn keep_ahead(
    settings: &settings::Archive,
    archives: &Archives,
    config: &Path,
    name: &WalFileName,
    destination: &Path,
) {
    let WalFileName::Segment(segment) = *name else {
        return;
    };
    if !is_recovery(destination) {
        return;
    }
    let staging = staging(destination);
    let room = room_for(settings, archives);
    let waiting = remove_passed(&staging, segment);
    if waiting * 2 >= room {
        return;
    }
    // Should the fetcher that is at work end just now, the next call starts another.
    if is_locked(&staging) {
        return;
    }
    let Ok(program) = std::env::current_exe() else {
        return;
    };
    let _ = Command::new(program)
        .arg("--config")
        .arg(config)
        .arg("--ahead")
        .arg(name.to_string())
        .arg(destination)
        .start_detached();
}

/// Whether a fetcher is at work: it holds the lock for as long as it lives.
fn is_locked(staging: &Path) -> bool {
    !matches!(durable_file::try_lock(&staging.join(LOCK)), Ok(Some(_)))
}

/// How many segments may wait.
fn room_for(settings: &settings::Archive, archives: &Archives) -> usize {
    archives
        .sources
        .first()
        .and_then(|archive| archive.cluster(archives.system_identifier).ok())
        .map_or(0, |cluster| {
            (u64::from(settings.prefetch_mebibytes) << 20) / cluster.segment_size_bytes
        })
        .try_into()
        .unwrap_or(usize::MAX)
}

/// Removes waiting segments that recovery will not ask for again, and counts the others.
///
/// Recovery moves forward and changes to a newer timeline only, so a segment up to the one in hand,
/// or on another timeline, has been passed. Should it be asked for, the archive has it.
fn remove_passed(staging: &Path, segment: SegmentName) -> usize {
    let Ok(entries) = fs::read_dir(staging) else {
        return 0;
    };
    let mut waiting = 0;
    for entry in entries.filter_map(Result::ok) {
        let Some(name) = entry
            .file_name()
            .to_str()
            .and_then(|name| SegmentName::parse(name).ok())
        else {
            continue;
        };
        if name.timeline() == segment.timeline() && name > segment {
            waiting += 1;
        } else {
            let _ = fs::remove_file(entry.path());
        }
    }
    waiting
}

/// Fetches the segments after `name` into the staging directory, as many as may wait, and goes on
/// while recovery takes them. Ends when the archive holds no next segment, when nothing was taken
/// for a while, or when another fetcher is at work.
///
/// # Errors
///
/// Fails as the archive does. Recovery meets the same error when it asks for that file.
pub fn fetch_ahead(
    settings: &settings::Archive,
    archives: &Archives,
    name: &WalFileName,
    destination: &Path,
) -> Result<()> {
    let WalFileName::Segment(mut segment) = *name else {
        return Ok(());
    };
    let staging = staging(destination);
    let Some(_lock) = durable_file::try_lock(&staging.join(LOCK))? else {
        return Ok(());
    };
    durable_file::sweep(&staging, usize::MAX)?;
    let size = archives
        .sources
        .first()
        .context("there is no archive")?
        .cluster(archives.system_identifier)?
        .segment_size()?;
    let room = room_for(settings, archives);
    // Those that the other thread has yet to sync and to name.
    let underway = AtomicUsize::new(0);
    let mut fetch_all = |publish: &mpsc::SyncSender<(Temporary, PathBuf)>| -> Result<()> {
        while let Some(next) = segment.next(size) {
            segment = next;
            let waiting = staging.join(next.to_string());
            if waiting.exists() {
                continue;
            }
            let full_since = Instant::now();
            while count_waiting(&staging)? + underway.load(Ordering::Relaxed) >= room {
                if full_since.elapsed() > LONGEST_IDLE {
                    return Ok(());
                }
                std::thread::sleep(POLL);
            }
            let Some(temporary) = fetch(archives, next, &staging)? else {
                return Ok(());
            };
            underway.fetch_add(1, Ordering::Relaxed);
            if publish.send((temporary, waiting)).is_err() {
                // The other thread has failed, and says why.
                return Ok(());
            }
        }
        Ok(())
    };
    // The disk syncs one file while the processor decompresses the next.
    std::thread::scope(|scope| {
        let (publish, fetched) = mpsc::sync_channel::<(Temporary, PathBuf)>(0);
        let second = scope.spawn(|| -> Result<()> {
            for (temporary, waiting) in fetched {
                // A name that is taken is the same file, from an earlier fetcher.
                let (Published::Yes | Published::NameTaken) = temporary.publish(&waiting)?;
                underway.fetch_sub(1, Ordering::Relaxed);
            }
            Ok(())
        });
        let outcome = fetch_all(&publish);
        drop(publish);
        let published = second
            .join()
            .unwrap_or_else(|_| bail!("the publishing thread ended early"));
        outcome.and(published)
    })
}

/// Fetches `segment` from the first archive that holds it.
fn fetch(archives: &Archives, segment: SegmentName, staging: &Path) -> Result<Option<Temporary>> {
    let name = WalFileName::Segment(segment);
    for source in &archives.sources {
        let found = source.fetch(archives.system_identifier, &name, staging)?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

fn count_waiting(staging: &Path) -> Result<usize> {
    Ok(fs::read_dir(staging)
        .with_context(|| format!("list \"{}\"", staging.display()))?
        .filter_map(Result::ok)
        .filter(|entry| {
            entry
                .file_name()
                .to_str()
                .is_some_and(|name| SegmentName::parse(name).is_ok())
        })
        .count())
}
