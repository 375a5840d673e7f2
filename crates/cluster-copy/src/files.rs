//! The files of a copy that make up a cluster, and putting them somewhere else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result};

use crate::{ClusterCopy, TABLESPACE_LINKS, WAL_DIRECTORY, not_mapped};

/// PostgreSQL refuses to start on anything wider.
const DIRECTORY_MODE: u32 = 0o700;
/// What is kept of the mode of a file.
const FILE_MODE: u32 = 0o740;
/// How many files are copied at a time: enough to keep a disk busy, too few to starve others.
const COPIERS: usize = 4;

/// Directories whose content belongs to the server that ran: its slots, its statistics, what it told
/// its sessions. The directories themselves are wanted.
///
/// # Source
///
/// `excludeDirContents` in `basebackup.c`, the same from PostgreSQL 13 to 18.
const EMPTIED: [&str; 7] = [
    "pg_stat_tmp",
    "pg_replslot",
    "pg_dynshmem",
    "pg_notify",
    "pg_serial",
    "pg_snapshots",
    "pg_subtrans",
];

/// Files that belong to the server that ran.
///
/// # Source
///
/// `excludeFiles` in `basebackup.c`.
const LEFT_OUT: [&str; 7] = [
    "postmaster.pid",
    "postmaster.opts",
    "postgresql.auto.conf.tmp",
    "current_logfiles.tmp",
    "backup_manifest",
    "tablespace_map",
    "tablespace_map.old",
];

/// What is in a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A directory.
    Directory,
    /// A file of so many bytes.
    File {
        /// Its length.
        bytes: u64,
    },
    /// A link that leads there.
    Link(PathBuf),
}

/// The files of a copy that make up a cluster.
#[derive(Clone, Debug)]
pub struct Files {
    entries: Vec<Entry>,
    /// Whether they are in a ZFS snapshot.
    is_snapshot: bool,
}

#[derive(Clone, Debug)]
struct Entry {
    source: PathBuf,
    /// The tablespace that it is in, if it is in one.
    tablespace: Option<u32>,
    /// Where it is in the data directory or in the tablespace.
    below: PathBuf,
    content: Content,
}

impl ClusterCopy {
    /// Lists its files. Of those in `pg_wal` only the ones that `wal` names count: the others are old,
    /// or have been made for later.
    ///
    /// # Errors
    ///
    /// Fails when a directory cannot be listed or something in it not be examined.
    pub fn files(&self, wal: &BTreeSet<PathBuf>) -> Result<Files> {
        let mut files = Files {
            entries: Vec::new(),
            is_snapshot: crate::snapshot_name(&self.directory).is_some(),
        };
        files.add_directory(&self.directory, None, Path::new(""), &|below| {
            is_wanted(below, wal)
        })?;
        let version = self.version_directory();
        for space in &self.tablespaces {
            let below = Path::new(&version);
            files.add_directory(
                &space.directory.join(below),
                Some(space.tablespace.oid),
                below,
                &|below| !is_temporary(below),
            )?;
        }
        Ok(files)
    }
}

/// Whether what is at `below` in the data directory makes up the cluster.
fn is_wanted(below: &Path, wal: &BTreeSet<PathBuf>) -> bool {
    let mut parts = below.components().map(std::path::Component::as_os_str);
    let (Some(first), second) = (parts.next(), parts.next()) else {
        return true;
    };
    if second.is_none() {
        return !LEFT_OUT.iter().any(|name| first == *name)
            && !durable_file::is_of_the_file_system(first)
            && !is_temporary(below);
    }
    if EMPTIED.iter().any(|name| first == *name) {
        return false;
    }
    if first == WAL_DIRECTORY {
        return wal.contains(below.strip_prefix(WAL_DIRECTORY).unwrap_or(below));
    }
    !is_temporary(below)
}

/// Whether a server removes it when it starts.
///
/// # Source
///
/// `PG_TEMP_FILE_PREFIX` and `RELCACHE_INIT_FILENAME`, both prefixes.
fn is_temporary(below: &Path) -> bool {
    below.file_name().is_some_and(|name| {
        let name = name.as_encoded_bytes();
        name.starts_with(b"pgsql_tmp") || name.starts_with(b"pg_internal.init")
    })
}

impl Files {
    fn add_directory(
        &mut self,
        source: &Path,
        tablespace: Option<u32>,
        below: &Path,
        wanted: &dyn Fn(&Path) -> bool,
    ) -> Result<()> {
        self.entries.push(Entry {
            source: source.to_owned(),
            tablespace,
            below: below.to_owned(),
            content: Content::Directory,
        });
        for entry in
            fs::read_dir(source).with_context(|| format!("list \"{}\"", source.display()))?
        {
            let entry = entry.with_context(|| format!("list \"{}\"", source.display()))?;
            let path = entry.path();
            let below = below.join(entry.file_name());
            if !wanted(&below) {
                continue;
            }
            let metadata = fs::symlink_metadata(&path)
                .with_context(|| format!("examine \"{}\"", path.display()))?;
            let content = if metadata.is_dir() {
                self.add_directory(&path, tablespace, &below, wanted)?;
                continue;
            } else if metadata.is_symlink() {
                // Tablespaces get links to where they are put.
                if below.parent() == Some(Path::new(TABLESPACE_LINKS)) {
                    continue;
                }
                Content::Link(
                    fs::read_link(&path)
                        .with_context(|| format!("read link \"{}\"", path.display()))?,
                )
            } else if metadata.is_file() {
                Content::File {
                    bytes: metadata.len(),
                }
            } else {
                // A socket is of no use to anybody.
                continue;
            };
            self.entries.push(Entry {
                source: path,
                tablespace,
                below,
                content,
            });
        }
        Ok(())
    }

    /// Length of all files, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.entries
            .iter()
            .map(|entry| match entry.content {
                Content::File { bytes } => bytes,
                _ => 0,
            })
            .sum()
    }

    /// Puts the files into `destination`, and each tablespace into the directory that `tablespaces` names
    /// for its object identifier, linked from `pg_tblspc`. `destination` must not exist; the directories
    /// for the tablespaces are there, and empty.
    ///
    /// Where the file system can, the files share their blocks with those of the copy. Nothing is
    /// synced: the caller syncs the file systems once. `progress` is called with each count of bytes, by
    /// several threads.
    ///
    /// # Errors
    ///
    /// Fails when something cannot be read or written, or a tablespace is not mapped. What was written by
    /// then remains for the caller to remove.
    pub fn put_into(
        &self,
        destination: &Path,
        tablespaces: &BTreeMap<u32, PathBuf>,
        progress: &(impl Fn(u64) + Sync),
    ) -> Result<()> {
        let place = |entry: &Entry| -> Result<PathBuf> {
            let root = match entry.tablespace {
                None => destination,
                Some(oid) => tablespaces.get(&oid).ok_or_else(|| not_mapped(oid))?,
            };
            Ok(if entry.below.as_os_str().is_empty() {
                root.to_owned()
            } else {
                root.join(&entry.below)
            })
        };
        let mut files = Vec::new();
        // A directory stands before what is in it.
        for entry in &self.entries {
            let to = place(entry)?;
            match &entry.content {
                Content::Directory => create_directory(&to)?,
                Content::Link(target) => {
                    symlink(target, &to).with_context(|| format!("link \"{}\"", to.display()))?;
                }
                Content::File { .. } => files.push((entry.source.as_path(), to)),
            }
        }
        copy_all(&files, self.is_snapshot, progress)?;
        for (oid, directory) in tablespaces {
            let link = destination.join(TABLESPACE_LINKS).join(oid.to_string());
            symlink(directory, &link).with_context(|| format!("link \"{}\"", link.display()))?;
        }
        Ok(())
    }
}

fn create_directory(directory: &Path) -> Result<()> {
    DirBuilder::new()
        .mode(DIRECTORY_MODE)
        .create(directory)
        .with_context(|| format!("create directory \"{}\"", directory.display()))
}

/// Copies each file, a few at a time, until all are copied or one fails.
fn copy_all(
    files: &[(&Path, PathBuf)],
    is_snapshot: bool,
    progress: &(impl Fn(u64) + Sync),
) -> Result<()> {
    let next = AtomicUsize::new(0);
    let failure = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..COPIERS.min(files.len()) {
            scope.spawn(|| {
                while let Some((from, to)) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(err) = copy(from, to, is_snapshot, progress) {
                        next.store(files.len(), Ordering::Relaxed);
                        if let Ok(mut failure) = failure.lock() {
                            failure.get_or_insert(err);
                        }
                    }
                }
            });
        }
    });
    match failure.into_inner() {
        Ok(None) => Ok(()),
        Ok(Some(err)) => Err(err),
        Err(_) => anyhow::bail!("a thread that copied files has panicked"),
    }
}

fn copy(from: &Path, to: &Path, is_snapshot: bool, progress: &impl Fn(u64)) -> Result<()> {
    let mode = fs::symlink_metadata(from)
        .with_context(|| format!("examine \"{}\"", from.display()))?
        .permissions()
        .mode()
        & FILE_MODE;
    let copied = if is_snapshot {
        durable_file::copy_file_of_snapshot(from, to, mode, progress)
    } else {
        durable_file::copy_file(from, to, mode, progress)
    };
    copied.with_context(|| format!("copy \"{}\" to \"{}\"", from.display(), to.display()))
}
