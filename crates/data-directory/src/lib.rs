//! What is in a data directory: nothing, a cluster, or something else.
//!
//! An empty directory is no proof of anything: it may be a mount point on which nothing is mounted. Whoever
//! would fill one asks [`check_mounts`] first.

mod owner;

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use cluster::Programs;
use mounts::{Mount, Mounts, Place};
use nix::unistd::{Uid, User};
use tool::Hinted;
use wal::ControlFile;

pub use owner::{become_owner, owner};

/// What the data directory is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// There is none, and the directory above it is there.
    Absent,
    /// It is empty.
    Empty,
    /// It is a mount point with nothing in it. It can hold a cluster and cannot be renamed.
    EmptyMountPoint,
    /// The name is a link or a file.
    NoDirectory,
    /// It belongs to another user.
    OfAnotherUser {
        /// That user.
        owner: String,
        /// This one.
        user: String,
    },
    /// It holds something that is no cluster, this for one.
    SomethingElse(PathBuf),
    /// It holds a cluster.
    Cluster(Box<ClusterFound>),
}

/// What the cluster in the data directory is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterFound {
    /// The permission bits of the data directory.
    pub mode: u32,
    /// Its major version, or why that is not known.
    pub major: Result<u32, String>,
    /// Its control file, or why it cannot be used.
    pub control: Result<ControlFile, String>,
    /// Whether the directory of its WAL is there.
    pub has_wal: bool,
    /// Whether a server runs on it.
    pub is_running: bool,
    /// Tablespaces whose directory holds nothing of this cluster.
    pub missing_tablespaces: Vec<PathBuf>,
}

impl Data {
    /// Why a directory that is like this must neither be filled nor served, with a way out. A cluster is
    /// not judged here.
    #[must_use]
    pub fn refusal(&self, path: &Path) -> Option<anyhow::Error> {
        let shown = path.display();
        let (what, hint) = match self {
            Self::Absent | Self::Empty | Self::Cluster(_) => return None,
            Self::NoDirectory => (
                format!("\"{shown}\" is a link or a file"),
                "name the directory itself as postgresql.dataDirectory; a restore gives it another name".to_owned(),
            ),
            Self::OfAnotherUser { owner, user } => (
                format!("\"{shown}\" belongs to user \"{owner}\", the server runs as \"{user}\""),
                format!(
                    "if it is this instance's, give it to its user: `chown -R {user}: {}`",
                    command::quoted(&shown.to_string())
                ),
            ),
            Self::SomethingElse(something) => (
                format!(
                    "\"{shown}\" holds \"{}\" and no PG_VERSION: it is no cluster, and not empty",
                    something.strip_prefix(path).unwrap_or(something).display()
                ),
                "move what does not belong there away; nothing is ever removed".to_owned(),
            ),
            Self::EmptyMountPoint => (
                format!("\"{shown}\" is a mount point, which cannot be renamed"),
                "make the data directory a directory below the mount, so that a restore can keep the old cluster beside the new one".to_owned(),
            ),
        };
        Some(Hinted::new(what, hint).into())
    }
}

/// Refuses to go on while something of `required` is not mounted, or hides another mount.
///
/// # Errors
///
/// Fails then, with the names of what is mounted instead, and when the kernel cannot be asked.
pub fn check_mounts(required: &[PathBuf]) -> Result<()> {
    if required.is_empty() {
        return Ok(());
    }
    let mounts = Mounts::read()?;
    let named = |mount: &Mount| format!("{} \"{}\"", mount.filesystem, mount.source);
    for path in required {
        let (what, hint) = match mounts.place(path)? {
            Place::MountPoint(_) => continue,
            Place::Directory(below) => (
                format!(
                    "nothing is mounted at \"{}\": it is a directory of {}",
                    path.display(),
                    named(&below)
                ),
                "mount what belongs there; nothing was made or started on the file system below it",
            ),
            Place::Hiding { seen, hidden } => (
                format!(
                    "two file systems are mounted at \"{}\": {} hides {}",
                    path.display(),
                    named(&seen),
                    named(&hidden)
                ),
                "unmount the one that does not belong there, and give each dataset a mount point of its own",
            ),
        };
        return Err(Hinted::new(what, hint).into());
    }
    Ok(())
}

/// Refuses to go on where the file system that the data directory `path` is in takes no changes: no server runs
/// there, and nothing can be put there. A pool that was imported read-only is like that, and a disk that failed.
///
/// # Errors
///
/// Fails then, with the name of what is mounted, and when the kernel cannot be asked.
pub fn check_takes_changes(path: &Path) -> Result<()> {
    let above = path.parent().unwrap_or(path);
    // That it is not there is told by whoever looks at the directory.
    if !above.is_dir() {
        return Ok(());
    }
    let (Place::MountPoint(seen) | Place::Directory(seen) | Place::Hiding { seen, .. }) =
        Mounts::read()?.place(above)?;
    if !seen.is_read_only {
        return Ok(());
    }
    Err(Hinted::new(
        format!(
            "{} \"{}\", which \"{}\" is in, takes no changes",
            seen.filesystem,
            seen.source,
            path.display()
        ),
        "it is mounted read-only, by its declaration or because a disk has failed: look at the disk or the pool, and start the server once it is writable",
    )
    .into())
}

fn user_name(uid: Uid) -> String {
    User::from_uid(uid)
        .ok()
        .flatten()
        .map_or_else(|| uid.to_string(), |user| user.name)
}

/// Looks at the directory `path`, whose servers run with `programs`, as the user whom it has to belong to.
///
/// # Errors
///
/// Fails when something cannot be seen, and when not even the directory above it is there. That is never
/// taken for absence.
pub fn look_at(path: &Path, programs: &Programs) -> Result<Data> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(err) if err.kind() == io::ErrorKind::NotFound => {
            let above = path.parent().unwrap_or(path);
            return match fs::metadata(above) {
                Ok(metadata) if metadata.is_dir() => Ok(Data::Absent),
                _ => Err(Hinted::new(
                    format!("there is no directory \"{}\"", above.display()),
                    "the data directory is below it; is its file system mounted?",
                )
                .into()),
            };
        }
        Err(err) => return Err(err).with_context(|| format!("examine \"{}\"", path.display())),
    };
    if !metadata.is_dir() {
        return Ok(Data::NoDirectory);
    }
    let user = nix::unistd::geteuid();
    let owner = Uid::from_raw(metadata.uid());
    if owner != user {
        return Ok(Data::OfAnotherUser {
            owner: user_name(owner),
            user: user_name(user),
        });
    }
    let mut something = None;
    let mut has_files_of_its_own = false;
    for entry in fs::read_dir(path).with_context(|| format!("list \"{}\"", path.display()))? {
        let entry = entry.with_context(|| format!("list \"{}\"", path.display()))?;
        if durable_file::is_of_the_file_system(&entry.file_name()) {
            has_files_of_its_own = true;
        } else {
            something = Some(entry.path());
            break;
        }
    }
    let Some(something) = something else {
        let is_mount_point = has_files_of_its_own
            || !matches!(Mounts::read()?.place(path)?, Place::Directory(mount) if mount.point != path);
        return Ok(if is_mount_point {
            Data::EmptyMountPoint
        } else {
            Data::Empty
        });
    };
    let version = path.join("PG_VERSION");
    if !version
        .try_exists()
        .with_context(|| format!("examine \"{}\"", version.display()))?
    {
        return Ok(Data::SomethingElse(something));
    }
    let control = archive::read_control_file(path).map_err(|err| format!("{err:#}"));
    Ok(Data::Cluster(Box::new(ClusterFound {
        mode: metadata.permissions().mode() & 0o7777,
        major: cluster::major_of(path).map_err(|err| format!("{err:#}")),
        has_wal: path.join("pg_wal").is_dir(),
        is_running: cluster::is_running_in(programs, path)?,
        missing_tablespaces: missing_tablespaces(path, control.as_ref().ok())?,
        control,
    })))
}

/// The tablespaces of the cluster in `data` whose directory holds nothing of it: replay would make
/// new files there, below the mount point.
///
/// # Source
///
/// `TABLESPACE_VERSION_DIRECTORY` in `relpath.h`: `PG_<major>_<catalog version>`.
fn missing_tablespaces(data: &Path, control: Option<&ControlFile>) -> Result<Vec<PathBuf>> {
    let links = data.join("pg_tblspc");
    let entries = match fs::read_dir(&links) {
        Ok(entries) => entries,
        // PostgreSQL says so itself.
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(err) => return Err(err).with_context(|| format!("list \"{}\"", links.display())),
    };
    let Some(control) = control else {
        return Ok(Vec::new());
    };
    let suffix = format!("_{}", control.catalog_version);
    let mut missing = Vec::new();
    for entry in entries {
        let link = entry
            .with_context(|| format!("list \"{}\"", links.display()))?
            .path();
        let Ok(target) = fs::read_link(&link) else {
            continue;
        };
        let holds_ours = fs::read_dir(&link).is_ok_and(|entries| {
            entries
                .filter_map(Result::ok)
                .any(|entry| entry.file_name().to_string_lossy().ends_with(&suffix))
        });
        if !holds_ours {
            missing.push(target);
        }
    }
    missing.sort();
    Ok(missing)
}

/// Clusters beside the data directory that are this instance's by their name: another version's
/// directory beside `16`, or what a restore has kept.
///
/// # Errors
///
/// Fails when the directory above cannot be listed.
pub fn clusters_beside(data: &Path) -> Result<Vec<PathBuf>> {
    let (Some(above), Some(own)) = (
        data.parent(),
        data.file_name().and_then(|name| name.to_str()),
    ) else {
        return Ok(Vec::new());
    };
    let is_version = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_digit())
            && name.bytes().all(|b| b.is_ascii_digit() || b == b'.')
    };
    let kept = format!("{own}.before-restore-");
    let mut found = Vec::new();
    for entry in fs::read_dir(above).with_context(|| format!("list \"{}\"", above.display()))? {
        let entry = entry.with_context(|| format!("list \"{}\"", above.display()))?;
        let is_ours = entry.file_name().to_str().is_some_and(|name| {
            name != own && (name.starts_with(&kept) || (is_version(own) && is_version(name)))
        });
        if is_ours && entry.path().join("PG_VERSION").exists() {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}
