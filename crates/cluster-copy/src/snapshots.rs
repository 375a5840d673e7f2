//! Snapshots of the data directory, as ZFS shows them: directories below `.zfs/snapshot` of the file
//! system that it is on, whoever made them.
//!
//! They are listed and read without any rights of ZFS. Where there are none, there is no such directory.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
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

/// Every snapshot that holds the data directory `data` of the cluster `identifier`, the one with the
/// oldest WAL first. One that cannot be used is passed over with a word.
///
/// # Errors
///
/// Fails when the snapshots cannot be listed.
pub fn all(data: &Path, identifier: SystemIdentifier) -> Result<Vec<Snapshot>> {
    let mut found = Vec::new();
    let Some((shown, below)) = place_of(data) else {
        return Ok(found);
    };
    for entry in fs::read_dir(&shown).with_context(|| format!("list \"{}\"", shown.display()))? {
        let entry = entry.with_context(|| format!("list \"{}\"", shown.display()))?;
        let directory = entry.path().join(&below);
        // One from before the instance, or one that has just been removed.
        if !directory.join("PG_VERSION").exists() {
            continue;
        }
        match archive::read_control_file(&directory) {
            Ok(control) if control.system_identifier == identifier => found.push(Snapshot {
                name: entry.file_name().to_string_lossy().into_owned(),
                directory,
                control,
            }),
            // Of a cluster that was here before.
            Ok(_) => {}
            Err(err) => tool::log(
                Level::Warning,
                format_args!("passing over snapshot \"{}\": {err:#}", directory.display()),
            ),
        }
    }
    found.sort_by(|a, b| {
        let order = |snapshot: &Snapshot| (snapshot.control.checkpoint, snapshot.control.timeline);
        order(a).cmp(&order(b)).then_with(|| a.name.cmp(&b.name))
    });
    Ok(found)
}

/// Where the snapshots of the file system of `data` are shown, and where `data` is in each. Nothing where
/// there are none to be shown.
#[must_use]
pub fn place_of(data: &Path) -> Option<(PathBuf, PathBuf)> {
    data.ancestors().find_map(|mount| {
        let shown = mount.join(SNAPSHOTS);
        let below = data.strip_prefix(mount).ok()?;
        shown.is_dir().then(|| (shown, below.to_owned()))
    })
}
