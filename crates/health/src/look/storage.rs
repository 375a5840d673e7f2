//! How much room there is.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nix::sys::statvfs::statvfs;
use settings::Settings;

use crate::seen::{Seen, Storage, Unseen};

/// The places that the instance writes to, by name.
pub fn places(settings: &Settings) -> Vec<(String, PathBuf)> {
    let data = &settings.postgresql.data_directory;
    let mut places: Vec<(String, PathBuf)> = vec![
        ("data".into(), data.clone()),
        ("archive".into(), settings.archive.directory.clone()),
    ];
    // pg_wal may be a link to another disk.
    let wal = data.join("pg_wal");
    if fs::symlink_metadata(&wal).is_ok_and(|metadata| metadata.is_symlink()) {
        places.push(("wal".into(), wal));
    }
    if let Some(backup) = &settings.base_backup {
        places.push(("base-backups".into(), backup.directory.clone()));
    }
    if let Ok(links) = fs::read_dir(data.join("pg_tblspc")) {
        places.extend(links.flatten().map(|link| {
            let oid = link.file_name();
            (format!("tablespace-{}", oid.to_string_lossy()), link.path())
        }));
    }
    places.sort();
    places
}

/// How much room there is at each place.
pub fn of(places: &[(String, PathBuf)]) -> Vec<(String, Seen<Storage>)> {
    places
        .iter()
        .map(|(name, path)| (name.clone(), look(path).map_err(Unseen::from)))
        .collect()
}

fn look(path: &Path) -> Result<Storage> {
    let context = || format!("examine \"{}\"", path.display());
    let device = fs::metadata(path).with_context(context)?.dev();
    let seen = statvfs(path).with_context(context)?;
    let unit = seen.fragment_size();
    Ok(Storage {
        device,
        // What root may write beyond that is not the server's.
        free_bytes: seen.blocks_available().saturating_mul(unit),
        size_bytes: seen.blocks().saturating_mul(unit),
        free_files: seen.files_available(),
        files: seen.files(),
    })
}
