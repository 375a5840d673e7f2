//! Names and records around what is received from another machine.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use settings::{Preseed, PreseedSource, Settings, SyncoidSource};

/// The property of a dataset that was received whole: the guid of its newest snapshot. Whoever receives sets it, and
/// root looks at nothing that does not have it.
pub const MARK: &str = "backstay:received";
/// Suffix of the dataset that what is received is put below, in which the server's user may do so.
const PLACE: &str = ".receiving";
/// Name of what is received in there.
const STAGING: &str = "replica";
/// Name of the record.
const RECORD: &str = "preseed-receive.json";

/// The replica that is declared, if any is.
pub fn declared(preseed: &Preseed) -> Option<&SyncoidSource> {
    preseed.sources.iter().find_map(|source| match source {
        PreseedSource::Syncoid(declared) => Some(declared.as_ref()),
        _ => None,
    })
}

/// The dataset beside `declared` below which what it gets is received.
pub fn place_of(declared: &str) -> String {
    format!("{declared}{PLACE}")
}

/// The dataset that is received, and gets the name `declared` once it is whole.
pub fn staging_of(declared: &str) -> String {
    format!("{}/{STAGING}", place_of(declared))
}

/// What the last receive came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Record {
    /// When it was begun.
    pub begun_at: Timestamp,
    /// When this was written.
    pub at: Timestamp,
    /// The newest snapshot of the data that was received, once all is.
    #[serde(default)]
    pub snapshot: Option<String>,
    /// Why not all was received.
    #[serde(default)]
    pub why: Option<String>,
    /// A way out.
    #[serde(default)]
    pub hint: Option<String>,
}

impl Record {
    /// One of a receive that begins.
    pub fn new(now: Timestamp) -> Self {
        Self {
            begun_at: now,
            at: now,
            snapshot: None,
            why: None,
            hint: None,
        }
    }

    fn path(settings: &Settings) -> PathBuf {
        settings.state_directory().join(RECORD)
    }

    /// Reads it, if there is one.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be read.
    pub fn read(settings: &Settings) -> Result<Option<Self>> {
        let path = Self::path(settings);
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .with_context(|| format!("read \"{}\"", path.display())),
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(err) => Err(err).with_context(|| format!("read \"{}\"", path.display())),
        }
    }

    /// Writes it durably.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be written; the one before is there then.
    pub fn write(&self, settings: &Settings) -> Result<()> {
        durable_file::replace(&Self::path(settings), &serde_json::to_vec_pretty(self)?)
    }

    /// Removes it, if there is one.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be removed.
    pub fn forget(settings: &Settings) -> Result<()> {
        let path = Self::path(settings);
        if path.exists() {
            durable_file::remove(&path)?;
        }
        Ok(())
    }
}

/// Something in the file system that is mounted at `mount`, or in a snapshot of it, that is worth keeping. Empty
/// files are locks, which a start that came to nothing has left.
///
/// # Errors
///
/// Fails when something cannot be seen. That is no emptiness.
pub fn something_in(mount: &Path) -> Result<Option<PathBuf>> {
    let mut found = something_below(mount)?;
    let shown = mount.join(".zfs/snapshot");
    if found.is_none() && shown.is_dir() {
        for entry in
            fs::read_dir(&shown).with_context(|| format!("list \"{}\"", shown.display()))?
        {
            let snapshot = entry
                .with_context(|| format!("list \"{}\"", shown.display()))?
                .path();
            found = something_below(&snapshot)?;
            if found.is_some() {
                break;
            }
        }
    }
    Ok(found)
}

fn something_below(directory: &Path) -> Result<Option<PathBuf>> {
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in
            fs::read_dir(&directory).with_context(|| format!("list \"{}\"", directory.display()))?
        {
            let entry = entry.with_context(|| format!("list \"{}\"", directory.display()))?;
            if durable_file::is_of_the_file_system(&entry.file_name()) {
                continue;
            }
            let metadata = entry
                .metadata()
                .with_context(|| format!("examine \"{}\"", entry.path().display()))?;
            if metadata.is_dir() {
                directories.push(entry.path());
            } else if !metadata.is_file() || metadata.len() > 0 {
                return Ok(Some(entry.path()));
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_worth_keeping_counts_and_snapshots_count_too() {
        let mount = tempfile::tempdir().unwrap();
        let at = |path: &str| mount.path().join(path);
        fs::create_dir_all(at("17")).unwrap();
        fs::create_dir_all(at(".zfs/snapshot/hourly/17")).unwrap();
        fs::write(at("17.backstay-restore.lock"), "").unwrap();
        assert_eq!(something_in(mount.path()).unwrap(), None);
        fs::write(at(".zfs/snapshot/hourly/17/PG_VERSION"), "17").unwrap();
        assert_eq!(
            something_in(mount.path()).unwrap(),
            Some(at(".zfs/snapshot/hourly/17/PG_VERSION"))
        );
        fs::remove_dir_all(at(".zfs")).unwrap();
        std::os::unix::fs::symlink("/nowhere", at("17/pg_wal")).unwrap();
        assert_eq!(something_in(mount.path()).unwrap(), Some(at("17/pg_wal")));
        assert!(something_in(&at("nowhere")).is_err());
    }
}
