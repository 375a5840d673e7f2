//! The snapshots that a drill may begin with.

use std::path::{Path, PathBuf};

use anyhow::Result;
use cluster_copy::snapshots;
use tool::Hinted;
use wal::SystemIdentifier;

/// The data directory of the cluster `identifier` in each snapshot of the dataset that it is on, the newest
/// first.
///
/// # Errors
///
/// Fails when the directory is on no file system with snapshots that can be read as directories, and when
/// no snapshot holds the cluster.
pub fn newest_first(data_directory: &Path, identifier: SystemIdentifier) -> Result<Vec<PathBuf>> {
    let Some((shown, _)) = snapshots::place_of(data_directory) else {
        return Err(Hinted::new(
            format!(
                "\"{}\" is on no dataset whose snapshots can be read",
                data_directory.display()
            ),
            "leave \"snapshot\" out of drill.sources, or put the data on ZFS",
        )
        .into());
    };
    let found = snapshots::all(data_directory, identifier)?;
    if found.is_empty() {
        return Err(Hinted::new(
            format!("no snapshot in \"{}\" holds a cluster", shown.display()),
            "is sanoid running? `zfs list -t snapshot` shows what it has taken",
        )
        .into());
    }
    Ok(found
        .into_iter()
        .rev()
        .map(|snapshot| snapshot.directory)
        .collect())
}
