//! Snapshots of the data directory, as they are below `.zfs`.

use std::cmp::Reverse;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use tool::Hinted;

/// The data directory in each snapshot of the dataset that it is on, the newest first.
///
/// A snapshot is as old as its `pg_control`, which a server writes at every checkpoint: between two
/// snapshots of one checkpoint the WAL that is replayed differs, and nothing else.
///
/// # Errors
///
/// Fails when the directory is on no file system with snapshots that can be read as directories, and when
/// no snapshot holds a data directory.
pub fn of(data_directory: &Path) -> Result<Vec<PathBuf>> {
    // Not listed in the directory that it is in, and there all the same.
    let root = data_directory
        .ancestors()
        .find(|directory| directory.join(".zfs/snapshot").is_dir())
        .ok_or_else(|| {
            Hinted::new(
                format!(
                    "\"{}\" is on no dataset whose snapshots can be read",
                    data_directory.display()
                ),
                "leave \"snapshot\" out of drill.sources, or put the data on ZFS",
            )
        })?;
    let snapshots = root.join(".zfs/snapshot");
    let inside = data_directory
        .strip_prefix(root)
        .context("find the data directory in its dataset")?;
    let mut found: Vec<(SystemTime, PathBuf)> = Vec::new();
    for entry in
        fs::read_dir(&snapshots).with_context(|| format!("list \"{}\"", snapshots.display()))?
    {
        let entry = entry.with_context(|| format!("list \"{}\"", snapshots.display()))?;
        let directory = entry.path().join(inside);
        // One from before the cluster was made, or that has just been destroyed.
        let Ok(metadata) = fs::metadata(directory.join("global/pg_control")) else {
            continue;
        };
        let written = metadata
            .modified()
            .with_context(|| format!("examine \"{}\"", directory.display()))?;
        found.push((written, directory));
    }
    if found.is_empty() {
        return Err(Hinted::new(
            format!("no snapshot in \"{}\" holds a cluster", snapshots.display()),
            "is sanoid running? `zfs list -t snapshot` shows what it has taken",
        )
        .into());
    }
    found.sort_unstable_by_key(|(written, directory)| Reverse((*written, directory.clone())));
    Ok(found.into_iter().map(|(_, directory)| directory).collect())
}
