//! Holds: what is being read out of a snapshot keeps it from being destroyed.
//!
//! What is going to be held is written down first, beside a lock that ends with its process. So the next
//! run finds the holds of one that was killed, whoever that was, and takes them back.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};
use durable_file::Lock;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tool::Level;
use zfs::{SnapshotName, Zfs};

/// What all tags of ours begin with.
const TAG: &str = "backstay-";
/// What the file with the snapshots of a hold is called after its number.
const NOTE: &str = "json";

/// Somebody who may hold snapshots.
pub trait Holder: Send {
    /// Holds `snapshots` under `tag`.
    ///
    /// # Errors
    ///
    /// Fails when that is refused. Some of them may be held then.
    fn hold(&mut self, tag: &str, snapshots: &[SnapshotName]) -> Result<()>;

    /// Takes back the holds under `tag`. One that there is not is no error.
    ///
    /// # Errors
    ///
    /// Fails when that is refused.
    fn release(&mut self, tag: &str, snapshots: &[SnapshotName]) -> Result<()>;
}

impl Holder for Zfs {
    fn hold(&mut self, tag: &str, snapshots: &[SnapshotName]) -> Result<()> {
        Zfs::hold(self, tag, snapshots)
    }

    fn release(&mut self, tag: &str, snapshots: &[SnapshotName]) -> Result<()> {
        Zfs::release(self, tag, snapshots)
    }
}

/// Whether a hold of this name may be one of ours.
#[must_use]
pub fn is_tag(tag: &str) -> bool {
    tag.strip_prefix(TAG).is_some_and(|id| {
        (1..64).contains(&id.len())
            && id
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    })
}

/// What is held, for whoever comes after a process that was killed.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Note {
    snapshots: Vec<String>,
}

/// The holds of an instance.
pub struct Holds {
    /// Where they are written down.
    directory: PathBuf,
    holder: Mutex<Box<dyn Holder>>,
}

/// Snapshots that are held for as long as this lives.
pub struct Held<'a> {
    holds: &'a Holds,
    id: String,
    snapshots: Vec<SnapshotName>,
    _lock: Lock,
}

impl Holds {
    /// The holds that are written down below `state_directory` and set by `holder`.
    #[must_use]
    pub fn new(state_directory: &Path, holder: Box<dyn Holder>) -> Self {
        Self {
            directory: state_directory.join("holds"),
            holder: Mutex::new(holder),
        }
    }

    /// Holds `snapshots`, and takes back what killed processes have left held.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be written down and when ZFS refuses. Then nothing is held.
    pub fn keep(&self, snapshots: Vec<SnapshotName>) -> Result<Held<'_>> {
        durable_file::ensure_directory(&self.directory)?;
        self.release_stale();
        let id = format!(
            "{}-{}",
            Timestamp::now().as_nanosecond(),
            std::process::id()
        );
        let lock = durable_file::try_lock(&self.lock_path(&id))?
            .with_context(|| format!("somebody else has the lock of hold \"{id}\""))?;
        let note = Note {
            snapshots: snapshots.iter().map(ToString::to_string).collect(),
        };
        durable_file::replace(&self.note_path(&id), &serde_json::to_vec_pretty(&note)?)?;
        let held = Held {
            holds: self,
            id,
            snapshots,
            _lock: lock,
        };
        // Should it fail, what is held of them is released with this value.
        self.ask(|holder| holder.hold(&held.tag(), &held.snapshots))?;
        Ok(held)
    }

    fn ask<T>(&self, question: impl FnOnce(&mut dyn Holder) -> Result<T>) -> Result<T> {
        let mut holder = self.holder.lock().unwrap_or_else(PoisonError::into_inner);
        question(&mut **holder)
    }

    /// Takes back the holds of processes that have ended without doing so. What cannot be done is said: it is
    /// no reason to hold nothing.
    fn release_stale(&self) {
        let ids = match self.written_down() {
            Ok(ids) => ids,
            Err(err) => {
                tool::report("could not look for holds that were left behind", &err);
                return;
            }
        };
        for id in ids {
            match self.release_if_stale(&id) {
                Ok(true) => tool::log(
                    Level::Info,
                    format_args!("released snapshots that an interrupted run has held"),
                ),
                Ok(false) => {}
                Err(err) => tool::report(
                    &format!("could not release what an interrupted run has held as \"{TAG}{id}\""),
                    &err,
                ),
            }
        }
    }

    /// The numbers of the holds that are written down.
    fn written_down(&self) -> Result<Vec<String>> {
        let entries = fs::read_dir(&self.directory)
            .with_context(|| format!("list \"{}\"", self.directory.display()))?;
        let mut ids = Vec::new();
        for entry in entries {
            let name = entry
                .with_context(|| format!("list \"{}\"", self.directory.display()))?
                .file_name();
            let path = Path::new(&name);
            if path.extension().is_some_and(|extension| extension == NOTE)
                && let Some(id) = path.file_stem().and_then(|stem| stem.to_str())
            {
                ids.push(id.to_owned());
            }
        }
        Ok(ids)
    }

    fn release_if_stale(&self, id: &str) -> Result<bool> {
        let Some(_lock) = durable_file::try_lock(&self.lock_path(id))? else {
            return Ok(false);
        };
        let path = self.note_path(id);
        let text = match fs::read(&path) {
            Err(err) if err.kind() == ErrorKind::NotFound => return Ok(false),
            read => read.with_context(|| format!("read \"{}\"", path.display()))?,
        };
        let note: Note = serde_json::from_slice(&text)
            .with_context(|| format!("read \"{}\"", path.display()))?;
        let snapshots: Vec<SnapshotName> = note
            .snapshots
            .iter()
            .map(|name| SnapshotName::parse(name))
            .collect::<Result<_>>()?;
        let tag = format!("{TAG}{id}");
        if !is_tag(&tag) {
            bail!("\"{}\" is no file of ours", path.display());
        }
        self.ask(|holder| holder.release(&tag, &snapshots))?;
        self.forget(id)?;
        Ok(true)
    }

    fn forget(&self, id: &str) -> Result<()> {
        durable_file::remove(&self.note_path(id))?;
        durable_file::remove(&self.lock_path(id))
    }

    fn note_path(&self, id: &str) -> PathBuf {
        self.directory.join(format!("{id}.{NOTE}"))
    }

    fn lock_path(&self, id: &str) -> PathBuf {
        self.directory.join(format!("{id}.lock"))
    }
}

impl Held<'_> {
    fn tag(&self) -> String {
        format!("{TAG}{}", self.id)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let released = self
            .holds
            .ask(|holder| holder.release(&self.tag(), &self.snapshots))
            .and_then(|()| self.holds.forget(&self.id));
        if let Err(err) = released {
            tool::report(
                &format!("could not release what was held as \"{}\"", self.tag()),
                &err,
            );
        }
    }
}

/// The snapshots that `directories` are in: of each that is below `.zfs/snapshot`, its dataset's.
///
/// # Errors
///
/// Fails when ZFS cannot say which dataset is mounted there.
pub fn snapshots_of<'a>(
    zfs: &Zfs,
    directories: impl IntoIterator<Item = &'a Path>,
) -> Result<Vec<SnapshotName>> {
    let mut found = Vec::new();
    for directory in directories {
        let Some((mount, name)) = place_in_snapshot(directory) else {
            continue;
        };
        let snapshot = SnapshotName::new(&zfs.dataset_of(mount)?, name)?;
        if !found.contains(&snapshot) {
            found.push(snapshot);
        }
    }
    Ok(found)
}

/// The mount point and the name of the snapshot that a path leads into: `/srv` and `hourly` of
/// `/srv/.zfs/snapshot/hourly/17`.
fn place_in_snapshot(path: &Path) -> Option<(&Path, &str)> {
    path.ancestors().find_map(|snapshot| {
        let shown = snapshot.parent()?;
        let hidden = shown.parent()?;
        if shown.file_name()? != "snapshot" || hidden.file_name()? != ".zfs" {
            return None;
        }
        Some((hidden.parent()?, snapshot.file_name()?.to_str()?))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Remembers what it was asked, and may refuse to hold.
    #[derive(Default, Clone)]
    struct Recorder {
        asked: Arc<Mutex<Vec<String>>>,
        refuses: bool,
    }

    impl Recorder {
        fn note(&self, word: &str, tag: &str, snapshots: &[SnapshotName]) -> Result<()> {
            assert!(is_tag(tag), "{tag}");
            let names: Vec<String> = snapshots.iter().map(ToString::to_string).collect();
            self.asked
                .lock()
                .unwrap()
                .push(format!("{word} {}", names.join(" ")));
            if self.refuses && word == "hold" {
                bail!("refused");
            }
            Ok(())
        }

        fn asked(&self) -> Vec<String> {
            std::mem::take(&mut *self.asked.lock().unwrap())
        }
    }

    impl Holder for Recorder {
        fn hold(&mut self, tag: &str, snapshots: &[SnapshotName]) -> Result<()> {
            self.note("hold", tag, snapshots)
        }

        fn release(&mut self, tag: &str, snapshots: &[SnapshotName]) -> Result<()> {
            self.note("release", tag, snapshots)
        }
    }

    fn snapshots() -> Vec<SnapshotName> {
        vec![SnapshotName::parse("tank/pg@a").unwrap()]
    }

    fn files(state: &Path) -> usize {
        fs::read_dir(state.join("holds")).unwrap().count()
    }

    #[test]
    fn what_is_held_is_released_and_nothing_is_left_of_it() {
        let state = tempfile::tempdir().unwrap();
        let recorder = Recorder::default();
        let holds = Holds::new(state.path(), Box::new(recorder.clone()));
        let held = holds.keep(snapshots()).unwrap();
        assert_eq!(recorder.asked(), ["hold tank/pg@a"]);
        assert_eq!(files(state.path()), 2);
        drop(held);
        assert_eq!(recorder.asked(), ["release tank/pg@a"]);
        assert_eq!(files(state.path()), 0);
    }

    #[test]
    fn what_a_killed_process_held_is_released_by_the_next_and_what_a_living_one_holds_is_not() {
        let state = tempfile::tempdir().unwrap();
        let recorder = Recorder::default();
        let of_others = Holds::new(state.path(), Box::new(recorder.clone()));
        let living = of_others.keep(snapshots()).unwrap();
        fs::write(
            state.path().join("holds/1-2.json"),
            r#"{ "snapshots": ["tank/pg@b", "tank/pg/fast@b"] }"#,
        )
        .unwrap();
        recorder.asked();

        let holds = Holds::new(state.path(), Box::new(recorder.clone()));
        let held = holds.keep(snapshots()).unwrap();
        assert_eq!(
            recorder.asked(),
            ["release tank/pg@b tank/pg/fast@b", "hold tank/pg@a"]
        );
        drop(held);
        drop(living);
        assert_eq!(files(state.path()), 0);
    }

    #[test]
    fn who_may_not_hold_leaves_nothing_behind() {
        let state = tempfile::tempdir().unwrap();
        let recorder = Recorder {
            refuses: true,
            ..Recorder::default()
        };
        let holds = Holds::new(state.path(), Box::new(recorder.clone()));
        assert!(holds.keep(snapshots()).is_err());
        assert_eq!(recorder.asked(), ["hold tank/pg@a", "release tank/pg@a"]);
        assert_eq!(files(state.path()), 0);
    }

    #[test]
    fn a_path_leads_into_the_snapshot_of_the_nearest_file_system() {
        let of = |path: &'static str| place_in_snapshot(Path::new(path));
        assert_eq!(
            of("/srv/pg/.zfs/snapshot/hourly/17"),
            Some((Path::new("/srv/pg"), "hourly"))
        );
        assert_eq!(
            of("/srv/pg/.zfs/snapshot/hourly"),
            Some((Path::new("/srv/pg"), "hourly"))
        );
        assert_eq!(of("/srv/pg/17"), None);
        assert_eq!(of("/srv/pg/.zfs/snapshot"), None);
        assert_eq!(of("/srv/snapshot/hourly/17"), None);
    }

    #[test]
    fn only_tags_of_ours_are_taken_for_ours() {
        assert!(is_tag("backstay-1795309200000000000-4711"));
        for tag in ["backstay-", "mine", "-r", "backstay-a b", "backstay-a/b"] {
            assert!(!is_tag(tag), "{tag}");
        }
    }
}
