//! What there is: the data directory, the archive, the base backups and what is remembered of them.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use archive::Archive;
use base_backups::Repository;
use cluster::Programs;
use instance_state::{InstanceRecord, PreseedOutcome, PreseedRecord};
use mounts::{Mount, Mounts, Place};
use nix::unistd::{Uid, User};
use restore_journal::{Places, Step};
use settings::Settings;
use tool::Hinted;
use wal::{ControlFile, SystemIdentifier};

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The data directory.
    pub data: Data,
    /// A restore that was begun and is not complete.
    pub restore: Option<Step>,
    /// The archive.
    pub archive: ArchiveFound,
    /// The base backups, if any are declared.
    pub base_backups: Option<BaseBackupsFound>,
    /// What was remembered of the cluster.
    pub record: Option<InstanceRecord>,
    /// What the preseed came to.
    pub preseed: Option<PreseedOutcome>,
    /// The major version of the programs.
    pub programs_major: u32,
    /// Clusters beside the data directory: of another version, or kept by a restore.
    pub beside: Vec<PathBuf>,
}

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

/// What the archive's directory is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArchiveFound {
    /// It holds nothing, or there is none.
    Nothing,
    /// It holds something, this for one, and no manifest.
    SomethingElse(PathBuf),
    /// It is the archive of this instance.
    Archive {
        /// The clusters whose WAL it takes, the newest last.
        clusters: Vec<SystemIdentifier>,
        /// A file in it, if there is one.
        holds: Option<PathBuf>,
    },
}

/// What the directory of the base backups is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BaseBackupsFound {
    /// It holds nothing, or there is none.
    Nothing,
    /// It holds something, this for one, and does not say whose base backups these are.
    SomethingElse(PathBuf),
    /// It is this instance's.
    Ours {
        /// Something in it, if there is anything.
        holds: Option<PathBuf>,
    },
}

/// Refuses root: the server that is started afterwards must own everything that is made.
pub fn check_user() -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Err(Hinted::new(
            "PostgreSQL does not run as root",
            "run this as the server's user, as User= of its unit does",
        )
        .into());
    }
    Ok(())
}

/// Refuses to go on while something that has to be mounted is not.
pub fn check_mounts(settings: &Settings) -> Result<()> {
    let required = &settings.postgresql.required_mounts;
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

/// Refuses to go on without the declared configuration: the server would start without an archive.
pub fn check_config_file(settings: &Settings) -> Result<()> {
    let Some(file) = &settings.postgresql.config_file else {
        return Ok(());
    };
    match fs::File::open(file) {
        Ok(_) => Ok(()),
        Err(err) => Err(Hinted::new(
            format!("open \"{}\": {err}", file.display()),
            "it is the server's configuration, postgresql.configFile in the settings; has the system been activated?",
        )
        .into()),
    }
}

impl Facts {
    /// Looks at everything, without changing anything.
    ///
    /// # Errors
    ///
    /// Fails when something cannot be seen. That is never taken for its absence.
    pub fn gather(settings: &Settings) -> Result<Self> {
        let server = &settings.postgresql;
        let programs = Programs::in_directory(&server.bin_directory);
        let state = settings.state_directory();
        let data = data(&server.data_directory, &programs)?;
        // Where there is a cluster, what is beside it does not matter.
        let beside = match data {
            Data::Cluster(_) => Vec::new(),
            _ => beside(&server.data_directory)?,
        };
        Ok(Self {
            data,
            restore: Places::beside(&server.data_directory)
                .read_journal()?
                .map(|journal| journal.step),
            archive: archive(&settings.archive.directory, &settings.instance)?,
            base_backups: settings
                .base_backup
                .as_ref()
                .map(|declared| base_backups(&declared.directory, &settings.instance))
                .transpose()?,
            record: InstanceRecord::read(&state)?,
            preseed: PreseedRecord::read(&state)?.map(|record| record.outcome),
            programs_major: programs.major()?,
            beside,
        })
    }
}

fn user_name(uid: Uid) -> String {
    User::from_uid(uid)
        .ok()
        .flatten()
        .map_or_else(|| uid.to_string(), |user| user.name)
}

/// Looks at the data directory.
fn data(path: &Path, programs: &Programs) -> Result<Data> {
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

/// Looks at the directory of the archive.
fn archive(root: &Path, instance: &str) -> Result<ArchiveFound> {
    if !Archive::is_at(root)? {
        return Ok(match durable_file::something_in(root)? {
            None => ArchiveFound::Nothing,
            Some(something) => ArchiveFound::SomethingElse(something),
        });
    }
    let archive = Archive::open(root, instance)?;
    Ok(ArchiveFound::Archive {
        clusters: archive
            .manifest()
            .clusters
            .iter()
            .map(|cluster| cluster.system_identifier)
            .collect(),
        holds: archive.something()?,
    })
}

/// Looks at the directory of the base backups.
fn base_backups(root: &Path, instance: &str) -> Result<BaseBackupsFound> {
    if !Repository::is_at(root)? {
        return Ok(match durable_file::something_in(root)? {
            None => BaseBackupsFound::Nothing,
            Some(something) => BaseBackupsFound::SomethingElse(something),
        });
    }
    Ok(BaseBackupsFound::Ours {
        holds: Repository::open(root, instance)?.something()?,
    })
}

/// Clusters beside the data directory that are this instance's by their name: another version's
/// directory beside `16`, or what a restore has kept.
fn beside(data: &Path) -> Result<Vec<PathBuf>> {
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
