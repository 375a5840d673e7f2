//! How far a restore has come, as a file beside the data directory.
//!
//! A restore builds the new cluster beside the present one. Whoever finds such a directory has to
//! know what it is worth: `backstay restore`, which goes on or starts over, and `pg-init`, which must
//! not start a server in the middle of one.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use anyhow::{Context as _, Result, ensure};
use durable_file::Lock;
use serde::{Deserialize, Serialize};

/// Suffix of the directory in which a restore is built.
const STAGING: &str = ".backstay-staging";
/// Suffix of the journal.
const JOURNAL: &str = ".backstay-restore.json";
/// Suffix of the lock.
const LOCK: &str = ".backstay-restore.lock";

/// How far a restore has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Journal {
    /// What is being done.
    pub step: Step,
    /// Where the present cluster is kept.
    pub kept: Option<PathBuf>,
    /// Directories for tablespaces that this restore took.
    pub tablespaces: Vec<Taken>,
}

/// An empty directory that a restore took to fill it, known by more than its name: years after an
/// interrupted restore somebody else's data may have that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Taken {
    /// Where it is.
    pub path: PathBuf,
    /// Whether it was there, empty, before the restore.
    pub was_there: bool,
    inode: u64,
    /// When it was made, in nanoseconds since 1970, where the file system knows.
    born_nanoseconds: Option<u64>,
}

impl Taken {
    /// Makes the directory `path`, or takes the one that is there, with nothing in it.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be made and when it holds something.
    pub fn take(path: &Path) -> Result<Self> {
        let was_there = path.is_dir();
        if was_there {
            let mut entries =
                fs::read_dir(path).with_context(|| format!("list \"{}\"", path.display()))?;
            ensure!(
                entries.next().is_none(),
                "\"{}\" is not empty",
                path.display()
            );
        } else {
            DirBuilder::new()
                .mode(0o700)
                .create(path)
                .with_context(|| format!("create directory \"{}\"", path.display()))?;
        }
        let (inode, born_nanoseconds) = identity(path)?;
        Ok(Self {
            path: path.to_owned(),
            was_there,
            inode,
            born_nanoseconds,
        })
    }

    /// Removes what the restore has put into the directory, and the directory if the restore made it.
    /// Returns whether it was still the same one; what has its name now is left alone if not.
    ///
    /// # Errors
    ///
    /// Fails when something cannot be removed; the rest remains.
    pub fn give_back(&self) -> Result<bool> {
        match identity(&self.path) {
            Err(_) if fs::symlink_metadata(&self.path).is_err() => return Ok(true),
            Err(err) => return Err(err),
            Ok(found) if found != (self.inode, self.born_nanoseconds) => return Ok(false),
            Ok(_) => {}
        }
        let remove = || -> io::Result<()> {
            if !self.was_there {
                return fs::remove_dir_all(&self.path);
            }
            for entry in fs::read_dir(&self.path)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    fs::remove_dir_all(entry.path())?;
                } else {
                    fs::remove_file(entry.path())?;
                }
            }
            Ok(())
        };
        remove().with_context(|| format!("remove \"{}\"", self.path.display()))?;
        Ok(true)
    }
}

/// What tells a directory from another one that gets its name later.
fn identity(path: &Path) -> Result<(u64, Option<u64>)> {
    let metadata =
        fs::symlink_metadata(path).with_context(|| format!("examine \"{}\"", path.display()))?;
    let born = metadata
        .created()
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
        .and_then(|since| u64::try_from(since.as_nanos()).ok());
    Ok((metadata.ino(), born))
}

/// A step of a restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Step {
    /// The staging directory is being filled or recovered. It is worth nothing yet.
    Building,
    /// The restore has failed and said so. The staging directory is there to be looked at, and the
    /// present cluster is what it was.
    Failed,
    /// The staging directory is the restored cluster, checked. It only has to get its name.
    Swapping,
}

/// The names beside the data directory `destination` that belong to restores into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// Where the restored cluster goes.
    pub destination: PathBuf,
    /// Where it is built.
    pub staging: PathBuf,
    /// The journal.
    pub journal: PathBuf,
    lock: PathBuf,
}

impl Places {
    /// The names beside `destination`.
    #[must_use]
    pub fn beside(destination: &Path) -> Self {
        Self {
            destination: destination.to_owned(),
            staging: durable_file::with_suffix(destination, STAGING),
            journal: durable_file::with_suffix(destination, JOURNAL),
            lock: durable_file::with_suffix(destination, LOCK),
        }
    }

    /// Takes the lock of whoever builds a cluster for this destination. Returns `None` when another
    /// process has it.
    ///
    /// # Errors
    ///
    /// Fails when the lock file cannot be opened.
    pub fn try_lock(&self) -> Result<Option<Lock>> {
        durable_file::try_lock(&self.lock)
    }

    /// Reads the journal. There is none unless a restore was begun and has not been completed.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be read or understood.
    pub fn read_journal(&self) -> Result<Option<Journal>> {
        match fs::read(&self.journal) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .with_context(|| format!("read \"{}\"", self.journal.display())),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(err) => Err(err).with_context(|| format!("read \"{}\"", self.journal.display())),
        }
    }

    /// Writes down how far the restore has come, durably.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be written; the journal is as it was then.
    pub fn write_journal(&self, journal: &Journal) -> Result<()> {
        let text = serde_json::to_vec_pretty(journal).context("write the journal")?;
        durable_file::replace(&self.journal, &text)
    }

    /// Gives the restored cluster its name, and what had that name the name `kept`; then the restore is
    /// complete. To be called in [`Step::Swapping`], by the holder of the lock.
    ///
    /// Each of the two renames can be found done: this is also how an interrupted one goes on.
    ///
    /// # Errors
    ///
    /// Fails when a directory cannot be renamed, and when there is something in the way that has no name
    /// to be kept under and is not empty. Nothing is lost; the next call goes on.
    pub fn swap(&self, kept: Option<&Path>) -> Result<()> {
        if let Some(kept) = kept
            && self.staging.is_dir()
            && fs::symlink_metadata(&self.destination).is_ok()
        {
            durable_file::move_to_new_name(&self.destination, kept)?;
        }
        if self.staging.is_dir() {
            if kept.is_none() && self.destination.is_dir() {
                // An empty directory, or remove_dir refuses.
                fs::remove_dir(&self.destination)
                    .with_context(|| format!("remove \"{}\"", self.destination.display()))?;
            }
            durable_file::move_to_new_name(&self.staging, &self.destination)?;
        }
        self.remove_journal()
    }

    /// Removes the journal, durably: the restore is complete or given up.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be removed.
    pub fn remove_journal(&self) -> Result<()> {
        durable_file::remove(&self.journal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_is_gone_when_removed() {
        let directory = tempfile::tempdir().unwrap();
        let places = Places::beside(&directory.path().join("16"));
        let space = Taken::take(&directory.path().join("space")).unwrap();
        assert_eq!(places.read_journal().unwrap(), None);
        for step in [Step::Building, Step::Failed, Step::Swapping] {
            let journal = Journal {
                step,
                kept: Some("/kept".into()),
                tablespaces: vec![space.clone()],
            };
            places.write_journal(&journal).unwrap();
            assert_eq!(places.read_journal().unwrap(), Some(journal));
        }
        places.remove_journal().unwrap();
        assert_eq!(places.read_journal().unwrap(), None);
    }

    #[test]
    fn a_directory_that_was_taken_is_given_back_as_it_was() {
        let root = tempfile::tempdir().unwrap();
        let [made, found] = ["made", "found"].map(|name| root.path().join(name));
        fs::create_dir(&found).unwrap();
        for path in [&made, &found] {
            let taken = Taken::take(path).unwrap();
            fs::create_dir(path.join("PG_16")).unwrap();
            fs::write(path.join("PG_16/1"), "").unwrap();
            fs::write(path.join("file"), "").unwrap();
            assert!(Taken::take(path).is_err());
            for _ in 0..2 {
                assert!(taken.give_back().unwrap());
            }
        }
        assert!(!made.exists());
        assert_eq!(fs::read_dir(&found).unwrap().count(), 0);
    }

    #[test]
    fn what_got_the_name_since_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("space");
        let taken = Taken::take(&path).unwrap();
        // The other one is there first, so it has another number in any file system.
        let other = root.path().join("other");
        fs::create_dir(&other).unwrap();
        fs::write(other.join("data"), "").unwrap();
        fs::remove_dir(&path).unwrap();
        durable_file::move_to_new_name(&other, &path).unwrap();
        assert!(!taken.give_back().unwrap());
        assert!(path.join("data").exists());
    }

    #[test]
    fn a_swap_goes_on_from_wherever_it_was_interrupted() {
        for done in 0..3 {
            let directory = tempfile::tempdir().unwrap();
            let places = Places::beside(&directory.path().join("16"));
            let kept = directory.path().join("16.kept");
            for (path, text) in [(&places.staging, "new"), (&places.destination, "old")] {
                fs::create_dir(path).unwrap();
                fs::write(path.join("PG_VERSION"), text).unwrap();
            }
            places
                .write_journal(&Journal {
                    step: Step::Swapping,
                    kept: Some(kept.clone()),
                    tablespaces: Vec::new(),
                })
                .unwrap();
            if done > 0 {
                durable_file::move_to_new_name(&places.destination, &kept).unwrap();
            }
            if done > 1 {
                durable_file::move_to_new_name(&places.staging, &places.destination).unwrap();
            }
            places.swap(Some(&kept)).unwrap();
            let text = |path: &Path| fs::read_to_string(path.join("PG_VERSION")).unwrap();
            assert_eq!(
                (text(&places.destination), text(&kept)),
                ("new".into(), "old".into())
            );
            assert_eq!(places.read_journal().unwrap(), None);
        }
    }

    #[test]
    fn a_journal_that_cannot_be_understood_is_no_absence() {
        let directory = tempfile::tempdir().unwrap();
        let places = Places::beside(&directory.path().join("16"));
        fs::write(&places.journal, "{").unwrap();
        assert!(places.read_journal().is_err());
    }

    #[test]
    fn only_one_at_a_time_builds_for_a_destination() {
        let directory = tempfile::tempdir().unwrap();
        let places = Places::beside(&directory.path().join("16"));
        let held = places.try_lock().unwrap();
        assert!(held.is_some());
        assert!(places.try_lock().unwrap().is_none());
        drop(held);
        assert!(places.try_lock().unwrap().is_some());
    }
}
