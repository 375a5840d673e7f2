//! Copies of a data directory as it was at one moment: a snapshot, a dataset that was received, the
//! directory of a server that has died.
//!
//! Such a copy is what a power cut would have left. PostgreSQL recovers it from its own `pg_wal`, and
//! then goes on through the archive. Nothing here ever writes into a copy.

mod files;
pub mod snapshots;

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, ensure};
use cluster::Tablespace;
use tool::Hinted;
use wal::ControlFile;
use wal::control::ClusterState;

pub use files::{Content, Files};

/// Directory with the links to the tablespaces.
const TABLESPACE_LINKS: &str = "pg_tblspc";
/// Directory with the WAL.
const WAL_DIRECTORY: &str = "pg_wal";
const CONTROL_FILE: &str = "global/pg_control";

/// A data directory as it was at one moment.
#[derive(Clone, Debug)]
pub struct ClusterCopy {
    /// Where it is.
    pub directory: PathBuf,
    /// Its control file.
    pub control: ControlFile,
    /// Major version of the server that wrote it.
    pub major: u32,
    /// The tablespaces outside of it.
    pub tablespaces: Vec<TablespaceCopy>,
    control_bytes: Vec<u8>,
}

/// A tablespace as it was at the same moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TablespaceCopy {
    /// The tablespace, with the place where the server has it.
    pub tablespace: Tablespace,
    /// Where it is as it was at the moment.
    pub directory: PathBuf,
}

impl ClusterCopy {
    /// Looks at the copy in `directory`. `places` says where tablespaces are as they were at the same
    /// moment: of each, the server's place and that of the copy.
    ///
    /// A tablespace that `places` does not name is looked for in the snapshot of the same name, where
    /// the copy is in a snapshot of a ZFS dataset.
    ///
    /// # Errors
    ///
    /// Fails when something cannot be read, and when it is no such copy: a server runs in it, its
    /// control file is torn, it is of a standby or is a base backup, its WAL is elsewhere, a tablespace
    /// is not to be found.
    pub fn examine(directory: &Path, places: &[(PathBuf, PathBuf)]) -> Result<Self> {
        let metadata = fs::metadata(directory)
            .with_context(|| format!("examine \"{}\"", directory.display()))?;
        ensure!(
            metadata.is_dir(),
            "\"{}\" is no directory",
            directory.display()
        );
        if !is_there(&directory.join("PG_VERSION"))? {
            return Err(Hinted::new(
                format!("\"{}\" holds no PG_VERSION", directory.display()),
                "name the data directory itself, not the mount point or the snapshot that it is in",
            )
            .into());
        }
        check_that_nobody_writes(directory, &metadata)?;
        let major = cluster::major_of(directory)?;
        let control_bytes = read_control(directory)?;
        let control = whole_control(directory, &control_bytes)?;
        check_kind(directory, &control)?;
        let tablespaces = tablespaces_of(directory, places, &version_directory(major, &control))?;
        Ok(Self {
            directory: directory.to_owned(),
            control,
            major,
            tablespaces,
            control_bytes,
        })
    }

    /// Its directory of WAL.
    #[must_use]
    pub fn wal_directory(&self) -> PathBuf {
        self.directory.join(WAL_DIRECTORY)
    }

    /// Whether the copy is still what it was when it was examined, as far as its control file tells: a
    /// server that runs in it writes there at every checkpoint.
    ///
    /// # Errors
    ///
    /// Fails when it has changed or is gone.
    pub fn check_unchanged(&self) -> Result<()> {
        if read_control(&self.directory)? == self.control_bytes {
            return Ok(());
        }
        Err(Hinted::new(
            format!(
                "\"{}\" has changed while it was being read",
                self.directory.display()
            ),
            "a copy has to stand still: name a snapshot, or stop the server that runs in it",
        )
        .into())
    }

    fn version_directory(&self) -> String {
        version_directory(self.major, &self.control)
    }
}

/// The directory in a tablespace that belongs to one version of the server.
///
/// # Source
///
/// `TABLESPACE_VERSION_DIRECTORY` in `relpath.h`.
fn version_directory(major: u32, control: &ControlFile) -> String {
    format!("PG_{major}_{}", control.catalog_version)
}

fn read_control(directory: &Path) -> Result<Vec<u8>> {
    let path = directory.join(CONTROL_FILE);
    fs::read(&path).with_context(|| format!("read \"{}\"", path.display()))
}

/// The control file in `directory`, if it was not torn when it was copied.
fn whole_control(directory: &Path, bytes: &[u8]) -> Result<ControlFile> {
    let control = ControlFile::parse(bytes).map_err(|err| torn(directory, &err.to_string()))?;
    if !control.checksum_verified {
        return Err(torn(
            directory,
            "pg_control does not match its checksum, or is of a form that this program does not know",
        ));
    }
    Ok(control)
}

fn torn(directory: &Path, what: &str) -> anyhow::Error {
    Hinted::new(
        format!("use \"{}\": {what}", directory.join(CONTROL_FILE).display()),
        "a copy has to be of one moment; take another one, or restore from a base backup",
    )
    .into()
}

/// Whether `path` is there, without following a link.
fn is_there(path: &Path) -> Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(err) => Err(err).with_context(|| format!("examine \"{}\"", path.display())),
    }
}

/// Refuses a directory in which a server runs.
///
/// `postmaster.pid` alone says little: that of a snapshot names the server that ran when it was taken,
/// and runs on in another directory. The working directory of a server is the one that it writes to.
fn check_that_nobody_writes(directory: &Path, metadata: &fs::Metadata) -> Result<()> {
    let Ok(text) = fs::read_to_string(directory.join("postmaster.pid")) else {
        return Ok(());
    };
    let Some(pid) = text
        .lines()
        .next()
        .and_then(|line| line.trim().parse::<u32>().ok())
    else {
        return Ok(());
    };
    let Ok(at_work) = fs::metadata(format!("/proc/{pid}/cwd")) else {
        return Ok(());
    };
    if (at_work.dev(), at_work.ino()) != (metadata.dev(), metadata.ino()) {
        return Ok(());
    }
    Err(Hinted::new(
        format!(
            "a server runs in \"{}\", process {pid}: it is no copy of one moment",
            directory.display()
        ),
        "name a snapshot of it, or stop that server",
    )
    .into())
}

/// Refuses what PostgreSQL would not recover from its own WAL to its own end.
fn check_kind(directory: &Path, control: &ControlFile) -> Result<()> {
    let refuse = |what: String, hint: &str| Err(Hinted::new(what, hint).into());
    if is_there(&directory.join("backup_label"))? {
        return refuse(
            format!(
                "\"{}\" holds backup_label: it is a base backup, or a base backup was being taken without a connection of its own",
                directory.display()
            ),
            "restore a base backup without --from, or name a copy from before or after that backup",
        );
    }
    let is_standby = matches!(
        control.state,
        ClusterState::InArchiveRecovery | ClusterState::ShutDownInRecovery
    );
    for signal in ["standby.signal", "recovery.signal"] {
        if is_standby || is_there(&directory.join(signal))? {
            return refuse(
                format!(
                    "\"{}\" is a copy of a server that was replaying WAL of another",
                    directory.display()
                ),
                "name a copy of the primary",
            );
        }
    }
    if fs::symlink_metadata(directory.join(WAL_DIRECTORY))
        .with_context(|| format!("examine \"{}\"", directory.join(WAL_DIRECTORY).display()))?
        .is_symlink()
    {
        return refuse(
            format!(
                "pg_wal of \"{}\" is a link, so the WAL is not of the same moment",
                directory.display()
            ),
            "restore from a base backup; a copy can be used when pg_wal is in the data directory",
        );
    }
    Ok(())
}

fn tablespaces_of(
    directory: &Path,
    places: &[(PathBuf, PathBuf)],
    version: &str,
) -> Result<Vec<TablespaceCopy>> {
    let links = directory.join(TABLESPACE_LINKS);
    let mut found = Vec::new();
    for entry in fs::read_dir(&links).with_context(|| format!("list \"{}\"", links.display()))? {
        let entry = entry.with_context(|| format!("list \"{}\"", links.display()))?;
        let path = entry.path();
        let Some(oid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        // A directory of that name is part of the data directory.
        if !fs::symlink_metadata(&path).is_ok_and(|m| m.is_symlink()) {
            continue;
        }
        let location =
            fs::read_link(&path).with_context(|| format!("read link \"{}\"", path.display()))?;
        let directory = place_of(directory, &location, places)
            .filter(|place| place.join(version).is_dir())
            .ok_or_else(|| {
                Hinted::new(
                    format!(
                        "tablespace {oid} at \"{}\" is not to be found as it was at the moment of the copy",
                        location.display()
                    ),
                    format!(
                        "say where it is: --tablespace-from {}=DIRECTORY",
                        location.display()
                    ),
                )
            })?;
        found.push(TablespaceCopy {
            tablespace: Tablespace { oid, location },
            directory,
        });
    }
    found.sort_by_key(|space| space.tablespace.oid);
    Ok(found)
}

/// Where the tablespace at `location` is as it was at the moment of the copy in `directory`.
fn place_of(directory: &Path, location: &Path, places: &[(PathBuf, PathBuf)]) -> Option<PathBuf> {
    if let Some((_, place)) = places.iter().find(|(old, _)| old == location) {
        return Some(place.clone());
    }
    let snapshot = snapshot_name(directory)?;
    location.ancestors().find_map(|mount| {
        let whole = mount.join(".zfs/snapshot").join(&snapshot);
        let below = location.strip_prefix(mount).ok()?;
        whole.is_dir().then(|| whole.join(below))
    })
}

/// The snapshot that a path leads into, `NAME` of `…/.zfs/snapshot/NAME/…`.
fn snapshot_name(path: &Path) -> Option<PathBuf> {
    let mut names = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name),
        _ => None,
    });
    names.find(|name| *name == ".zfs")?;
    (names.next()? == "snapshot").then(|| names.next().map(PathBuf::from))?
}

/// Names a number that PostgreSQL gave, for a message.
fn not_mapped(oid: u32) -> anyhow::Error {
    anyhow!("tablespace {oid} is not mapped to a directory")
}

#[cfg(test)]
mod tests;
