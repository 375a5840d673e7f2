//! Snapshots of the data directory, as ZFS shows them: directories below `.zfs/snapshot` of the file
//! system that it is on, whoever made them.
//!
//! They are listed and read without any rights of ZFS. Where there are none, there is no such directory.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use jiff::Timestamp;
use restore_plan::Target;
use tool::Level;
use wal::{ControlFile, SystemIdentifier};

/// Where ZFS shows the snapshots of a file system, from its mount point on.
const SNAPSHOTS: &str = ".zfs/snapshot";

/// A snapshot that holds the data directory.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Its name, what stands after the `@`.
    pub name: String,
    /// The data directory in it.
    pub directory: PathBuf,
    /// The control file of that.
    pub control: ControlFile,
}

impl Snapshot {
    /// When its last checkpoint was complete, to the second.
    #[must_use]
    pub fn checkpoint_time(&self) -> Option<Timestamp> {
        Timestamp::from_second(self.control.written_seconds).ok()
    }

    /// Whether it may be from before `target`. Its WAL alone can tell for sure.
    #[must_use]
    pub fn may_lead_to(&self, target: &Target) -> bool {
        match target {
            Target::Time(time) => self
                .checkpoint_time()
                .is_none_or(|written| written <= *time),
            Target::Lsn(lsn) => self.control.checkpoint < *lsn,
            Target::Latest | Target::Immediate | Target::Xid(_) | Target::Name(_) => true,
        }
    }
}

/// What the snapshots of a data directory hold.
#[derive(Debug, Default)]
pub struct Found {
    /// Those that hold a cluster, of whichever system identifier, the one with the oldest WAL first.
    pub snapshots: Vec<Snapshot>,
    /// Those of which nobody can say what they hold, by name, and why.
    pub unreadable: Vec<(String, anyhow::Error)>,
}

/// Looks into every snapshot of the file system that the data directory `data` is on. One that holds no
/// data directory, as from before the instance, is left out.
///
/// # Errors
///
/// Fails when the snapshots cannot be listed, and when it cannot be seen whether there are any.
pub fn look(data: &Path) -> Result<Found> {
    let mut found = Found::default();
    let Some((shown, below)) = place_to_look(data)? else {
        return Ok(found);
    };
    for entry in fs::read_dir(&shown).with_context(|| format!("list \"{}\"", shown.display()))? {
        let entry = entry.with_context(|| format!("list \"{}\"", shown.display()))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        match read(&entry.path(), &below) {
            Ok(Some((directory, control))) => found.snapshots.push(Snapshot {
                name,
                directory,
                control,
            }),
            Ok(None) => {}
            Err(err) => found.unreadable.push((name, err)),
        }
    }
    found.snapshots.sort_by(|a, b| {
        let order = |snapshot: &Snapshot| (snapshot.control.checkpoint, snapshot.control.timeline);
        order(a).cmp(&order(b)).then_with(|| a.name.cmp(&b.name))
    });
    found.unreadable.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

/// Every snapshot that holds the data directory `data` of the cluster `identifier`, the one with the
/// oldest WAL first. One that cannot be used is passed over with a word.
///
/// # Errors
///
/// Fails as [`look`] does.
pub fn all(data: &Path, identifier: SystemIdentifier) -> Result<Vec<Snapshot>> {
    let mut found = look(data)?;
    for (name, err) in found.unreadable {
        tool::log(
            Level::Warning,
            format_args!("passing over snapshot \"{name}\": {err:#}"),
        );
    }
    // Another one is of a cluster that was here before.
    found
        .snapshots
        .retain(|snapshot| snapshot.control.system_identifier == identifier);
    Ok(found.snapshots)
}

/// The data directory at `below` in the snapshot that is shown as `root`, and its control file. Nothing
/// where the snapshot holds none, or has just been removed.
fn read(root: &Path, below: &Path) -> Result<Option<(PathBuf, ControlFile)>> {
    let directory = root.join(below);
    let version = directory.join("PG_VERSION");
    if !is_there(&version)? {
        return if is_place_of_a_mount(root)? {
            Err(anyhow!(
                "\"{}\" is empty; the kernel did not mount the snapshot there",
                root.display()
            ))
        } else {
            Ok(None)
        };
    }
    let control =
        crate::read_control(&directory).and_then(|bytes| crate::whole_control(&directory, &bytes));
    match control {
        Ok(control) => Ok(Some((directory, control))),
        // Removed in between.
        Err(_) if !is_there(&version)? => Ok(None),
        Err(err) => Err(err),
    }
}

/// Whether a snapshot ought to be mounted on `root` and is not: such a directory is empty, and belongs to
/// the file system around it.
fn is_place_of_a_mount(root: &Path) -> Result<bool> {
    let looked = || -> std::io::Result<bool> {
        let around = root.parent().unwrap_or(root);
        Ok(fs::read_dir(root)?.next().is_none()
            && fs::metadata(root)?.dev() == fs::metadata(around)?.dev())
    };
    match looked() {
        Err(err) if err.kind() == ErrorKind::NotFound => Ok(false),
        looked => looked.with_context(|| format!("look at \"{}\"", root.display())),
    }
}

/// Whether there is something. That it cannot be seen is no proof that there is nothing.
fn is_there(path: &Path) -> Result<bool> {
    match fs::metadata(path) {
        Ok(_) => Ok(true),
        Err(err) if matches!(err.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(false)
        }
        Err(err) => Err(err).with_context(|| format!("look at \"{}\"", path.display())),
    }
}

fn place_to_look(data: &Path) -> Result<Option<(PathBuf, PathBuf)>> {
    for mount in data.ancestors() {
        let shown = mount.join(SNAPSHOTS);
        if is_there(&shown)?
            && let Ok(below) = data.strip_prefix(mount)
        {
            return Ok(Some((shown, below.to_owned())));
        }
    }
    Ok(None)
}

/// Where the snapshots of the file system of `data` are shown, and where `data` is in each. Nothing where
/// there are none to be shown.
#[must_use]
pub fn place_of(data: &Path) -> Option<(PathBuf, PathBuf)> {
    place_to_look(data).ok().flatten()
}
