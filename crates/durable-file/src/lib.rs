//! Files that are complete or absent, and durable when they are reported so.
//!
//! This crate alone links, renames and syncs. A name appears only once its content is on stable
//! storage, and a function that changes a directory returns after that directory has been synced:
//! POSIX lets a crash undo a link or a rename whose directory was not.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use nix::fcntl::{FcntlArg, FdFlag, Flock, FlockArg, OFlag, fcntl};

/// Mode of files that this crate creates: WAL holds everything that the database holds.
pub const FILE_MODE: u32 = 0o640;
/// Mode of directories that this crate creates.
pub const DIRECTORY_MODE: u32 = 0o750;

/// Makes the entries of a directory durable.
///
/// # Errors
///
/// Fails when the directory cannot be opened or synced.
pub fn sync_directory(directory: &Path) -> Result<()> {
    File::open(directory)
        .and_then(|d| d.sync_all())
        .with_context(|| format!("sync directory \"{}\"", directory.display()))
}

/// Creates `directory` and its missing parents, and makes them durable.
///
/// # Errors
///
/// Fails when one cannot be created or synced. Those created before it remain.
pub fn ensure_directory(directory: &Path) -> Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    let parent = parent_of(directory);
    if parent != directory {
        ensure_directory(parent)?;
    }
    match DirBuilder::new().mode(DIRECTORY_MODE).create(directory) {
        Ok(()) => {}
        // Another process was faster. Its sync may still be under way, so ours is needed too.
        Err(err) if err.kind() == io::ErrorKind::AlreadyExists && directory.is_dir() => {}
        Err(err) => {
            return Err(err)
                .with_context(|| format!("create directory \"{}\"", directory.display()));
        }
    }
    sync_directory(parent)
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) => Path::new("."),
        None => path,
    }
}

/// A file that is being written, under a name that nobody reads.
///
/// It is locked for as long as its writer lives, so that [`sweep`] can tell a leftover from work in
/// progress. Dropping it removes it.
#[derive(Debug)]
pub struct Temporary {
    path: PathBuf,
    file: Flock<File>,
    published: bool,
}

/// What came of [`Temporary::publish`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// The file has its name, durably.
    Yes,
    /// There is something under that name already. It was left as it is.
    NameTaken,
}

impl Temporary {
    /// Creates an empty temporary file in `directory` for what will be called `name`.
    ///
    /// # Errors
    ///
    /// Fails when the file cannot be created or locked.
    pub fn create(directory: &Path, name: &str) -> Result<Self> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let path = directory.join(format!(
            "{TEMPORARY_PREFIX}{name}.{}.{}",
            std::process::id(),
            COUNTER.fetch_add(1, Ordering::Relaxed)
        ));
        // The name of a crashed writer can come back with its process id; that file is nobody's.
        let open = || {
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(FILE_MODE)
                .custom_flags(OFlag::O_NOFOLLOW.bits() | OFlag::O_CLOEXEC.bits())
                .open(&path)
        };
        let file = match open() {
            Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {
                fs::remove_file(&path)
                    .with_context(|| format!("remove leftover \"{}\"", path.display()))?;
                open()
            }
            other => other,
        }
        .with_context(|| format!("create \"{}\"", path.display()))?;
        let file = Flock::lock(file, FlockArg::LockExclusiveNonblock)
            .map_err(|(_, errno)| errno)
            .with_context(|| format!("lock \"{}\"", path.display()))?;
        Ok(Self {
            path,
            file,
            published: false,
        })
    }

    /// The file, for writing.
    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Syncs the file and gives it the name `destination`, unless that name is taken.
    ///
    /// The name is given by link(2), which never replaces anything. rename(2) would, and its
    /// `RENAME_NOREPLACE` is refused by OpenZFS before 2.2.
    ///
    /// # Errors
    ///
    /// Fails when the file cannot be synced, linked or its directory not be synced. After a failed
    /// sync the content is in doubt and is not published; after a failed sync of the directory the
    /// name may or may not survive a crash, but never names half a file.
    pub fn publish(mut self, destination: &Path) -> Result<Published> {
        self.file
            .sync_all()
            .with_context(|| format!("sync \"{}\"", self.path.display()))?;
        match fs::hard_link(&self.path, destination) {
            Ok(()) => {}
            Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {
                return Ok(Published::NameTaken);
            }
            Err(err) => {
                return Err(err).with_context(|| format!("link \"{}\"", destination.display()));
            }
        }
        sync_directory(parent_of(destination))?;
        self.published = true;
        fs::remove_file(&self.path)
            .with_context(|| format!("remove \"{}\"", self.path.display()))?;
        Ok(Published::Yes)
    }

    /// Syncs the file and gives it the name `destination`, in place of what has that name.
    ///
    /// # Errors
    ///
    /// Fails when the file cannot be synced or renamed, or the directory cannot be synced. Then
    /// `destination` is as it was or complete, never half.
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that renames files"
    )]
    pub fn replace(mut self, destination: &Path) -> Result<()> {
        self.file
            .sync_all()
            .with_context(|| format!("sync \"{}\"", self.path.display()))?;
        fs::rename(&self.path, destination)
            .with_context(|| format!("rename to \"{}\"", destination.display()))?;
        self.published = true;
        sync_directory(parent_of(destination))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.published {
            // What cannot be removed now is swept later.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Begins the names of temporary files. PostgreSQL archives no name with a leading dot.
const TEMPORARY_PREFIX: &str = ".tmp-";
/// Whether a living process is writing in `directory` what will be called `name`.
#[must_use]
pub fn is_being_written(directory: &Path, name: &str) -> bool {
    let is_for_name = |file: &std::ffi::OsStr| {
        file.to_str()
            .and_then(|file| file.strip_prefix(TEMPORARY_PREFIX))
            .and_then(|rest| rest.strip_prefix(name))
            .is_some_and(|rest| rest.starts_with('.'))
    };
    fs::read_dir(directory).is_ok_and(|entries| {
        entries
            .filter_map(Result::ok)
            .filter(|entry| is_for_name(&entry.file_name()))
            .filter_map(|entry| File::open(entry.path()).ok())
            .any(|file| Flock::lock(file, FlockArg::LockSharedNonblock).is_err())
    })
}

/// A temporary file younger than this may belong to a writer that has not locked it yet.
const YOUNGEST_LEFTOVER: Duration = Duration::from_mins(1);

/// Removes temporary files in `directory` whose writers are dead, at most `limit` of them.
///
/// A writer holds a lock on its file for as long as it lives, so a file that can be locked has
/// none. The limit keeps one call short when there are many; the next call goes on.
///
/// # Errors
///
/// Fails when the directory cannot be listed. A file that cannot be removed is passed over.
pub fn sweep(directory: &Path, limit: usize) -> Result<usize> {
    let mut removed = 0;
    for entry in
        fs::read_dir(directory).with_context(|| format!("list \"{}\"", directory.display()))?
    {
        let entry = entry.with_context(|| format!("list \"{}\"", directory.display()))?;
        let name = entry.file_name();
        if !name
            .as_encoded_bytes()
            .starts_with(TEMPORARY_PREFIX.as_bytes())
        {
            continue;
        }
        if removed >= limit {
            break;
        }
        if is_leftover(&entry.path()) && fs::remove_file(entry.path()).is_ok() {
            removed += 1;
        }
    }
    Ok(removed)
}

fn is_leftover(path: &Path) -> bool {
    let Ok(file) = OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_NOFOLLOW.bits() | OFlag::O_NONBLOCK.bits())
        .open(path)
    else {
        return false;
    };
    let Ok(written) = file.metadata().and_then(|m| m.modified()) else {
        return false;
    };
    // A clock that was set back makes files of the future; those are not young either.
    let now = SystemTime::now();
    let distance = now
        .duration_since(written)
        .or_else(|_| written.duration_since(now))
        .unwrap_or_default();
    distance >= YOUNGEST_LEFTOVER && Flock::lock(file, FlockArg::LockExclusiveNonblock).is_ok()
}

/// Writes `content` to `path` in place of what is there, complete or not at all.
///
/// # Errors
///
/// Fails when the content cannot be written, synced or renamed. Until the rename the old content
/// stays.
pub fn replace(path: &Path, content: &[u8]) -> Result<()> {
    let name = path
        .file_name()
        .with_context(|| format!("\"{}\" names no file", path.display()))?
        .to_string_lossy()
        .into_owned();
    let mut temporary = Temporary::create(parent_of(path), &name)?;
    temporary
        .file()
        .write_all(content)
        .with_context(|| format!("write \"{}\"", path.display()))?;
    temporary.replace(path)
}

/// Gives the file or directory `from` the name `to`, which nothing has, and makes that durable.
///
/// # Errors
///
/// Fails when something is called `to` already, when the two are on different file systems, and
/// when a directory cannot be synced. Nothing is ever replaced.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that renames files"
)]
pub fn move_to_new_name(from: &Path, to: &Path) -> Result<()> {
    ensure!(
        fs::symlink_metadata(to).is_err_and(|err| err.kind() == io::ErrorKind::NotFound),
        "\"{}\" exists already",
        to.display()
    );
    fs::rename(from, to)
        .with_context(|| format!("rename \"{}\" to \"{}\"", from.display(), to.display()))?;
    sync_directory(parent_of(to))?;
    if parent_of(from) != parent_of(to) {
        sync_directory(parent_of(from))?;
    }
    Ok(())
}

/// Gives the complete and synced file `from` the name `to`, in place of what has it, for a reader
/// that makes it durable itself or asks again after a crash.
///
/// A crash may undo the rename; then the file has its old name and its content. Syncing the
/// directory would wait for everything else that the file system has to write.
///
/// # Errors
///
/// Fails when the rename fails.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that renames files"
)]
pub fn hand_over(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to)
        .with_context(|| format!("rename \"{}\" to \"{}\"", from.display(), to.display()))
}

/// Removes the file `path`, if it is there, and makes that durable.
///
/// # Errors
///
/// Fails when it cannot be removed or its directory cannot be synced.
pub fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Ok(()) => sync_directory(parent_of(path)),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(err) => Err(err).with_context(|| format!("remove \"{}\"", path.display())),
    }
}

/// Writes everything below `directory` to stable storage.
///
/// # Errors
///
/// Fails when the file system reports that something could not be written.
pub fn sync_file_system_of(directory: &Path) -> Result<()> {
    let open =
        File::open(directory).with_context(|| format!("open \"{}\"", directory.display()))?;
    nix::unistd::syncfs(&open)
        .with_context(|| format!("sync the file system of \"{}\"", directory.display()))
}

/// A lock that ends with the process that holds it, however that process ends.
#[derive(Debug)]
pub struct Lock {
    file: Flock<File>,
}

impl Lock {
    /// Lets the programs that this process starts from now on hold the lock too, for as long as one of
    /// them lives.
    ///
    /// A program that is left behind by a killed owner goes on writing. Whoever comes next must not
    /// take the place for free.
    ///
    /// # Errors
    ///
    /// Fails when the operating system refuses.
    pub fn share_with_children(&self) -> Result<()> {
        fcntl(&*self.file, FcntlArg::F_SETFD(FdFlag::empty()))
            .map(drop)
            .context("share a lock with the programs that are started")
    }
}

/// Takes the lock file `path`, which is created when absent.
///
/// # Errors
///
/// Fails when the file cannot be opened. Returns `None` when another process holds the lock.
pub fn try_lock(path: &Path) -> Result<Option<Lock>> {
    lock(path, FlockArg::LockExclusiveNonblock)
}

/// Takes the lock file `path` together with others who do the same.
///
/// # Errors
///
/// Fails when the file cannot be opened. Returns `None` when another process holds the lock alone.
pub fn try_lock_shared(path: &Path) -> Result<Option<Lock>> {
    lock(path, FlockArg::LockSharedNonblock)
}

fn lock(path: &Path, how: FlockArg) -> Result<Option<Lock>> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(FILE_MODE)
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(path)
        .with_context(|| format!("open lock \"{}\"", path.display()))?;
    match Flock::lock(file, how) {
        Ok(file) => Ok(Some(Lock { file })),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => Err(errno).with_context(|| format!("lock \"{}\"", path.display())),
    }
}

/// What identifies one state of one file: another content has another identity.
///
/// The status-change time cannot be set by a program, and the inode number of a file that replaces
/// another differs from it while both exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileIdentity {
    device: u64,
    inode: u64,
    length: u64,
    modified_nanoseconds: i128,
    changed_nanoseconds: i128,
}

impl FileIdentity {
    /// The identity of the file that `metadata` was read from.
    #[must_use]
    pub fn of(metadata: &fs::Metadata) -> Self {
        let nanoseconds = |s: i64, ns: i64| i128::from(s) * 1_000_000_000 + i128::from(ns);
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            modified_nanoseconds: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            changed_nanoseconds: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl std::fmt::Display for FileIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} {} {} {} {}",
            self.device,
            self.inode,
            self.length,
            self.modified_nanoseconds,
            self.changed_nanoseconds
        )
    }
}

/// Names of what a file system makes by itself at its top.
const OF_THE_FILE_SYSTEM: [&str; 2] = ["lost+found", ".zfs"];

/// Whether `name`, seen in a directory, is the file system's own and no content.
#[must_use]
pub fn is_of_the_file_system(name: &OsStr) -> bool {
    OF_THE_FILE_SYSTEM.iter().any(|own| name == *own)
}

/// Finds something below `directory` that somebody put there. Empty directories, temporary files of
/// this crate and what the file system makes by itself do not count: an interrupted beginning leaves
/// them.
///
/// # Errors
///
/// Fails when a directory cannot be listed: what cannot be seen must not pass for absent. One that
/// does not exist holds nothing.
pub fn something_in(directory: &Path) -> Result<Option<PathBuf>> {
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(err) if err.kind() == io::ErrorKind::NotFound => continue,
            Err(err) => {
                return Err(err).with_context(|| format!("list \"{}\"", directory.display()));
            }
        };
        for entry in entries {
            let entry = entry.with_context(|| format!("list \"{}\"", directory.display()))?;
            let name = entry.file_name();
            if is_of_the_file_system(&name) {
                continue;
            }
            let kind = entry
                .file_type()
                .with_context(|| format!("examine \"{}\"", entry.path().display()))?;
            if kind.is_dir() {
                directories.push(entry.path());
            } else if !name
                .as_encoded_bytes()
                .starts_with(TEMPORARY_PREFIX.as_bytes())
            {
                return Ok(Some(entry.path()));
            }
        }
    }
    Ok(None)
}

/// Opens the regular file `path` for reading, without following a link and without waiting.
///
/// # Errors
///
/// Fails with the operating system's error, and with `InvalidInput` for anything that is not a
/// regular file: reading a FIFO would wait for ever.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_NOFOLLOW.bits() | OFlag::O_NONBLOCK.bits())
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a regular file",
        ));
    }
    Ok(file)
}

/// Copies what is left of `source` to `sink`, by reading and writing.
///
/// `std::io::copy` lets the kernel copy between files, which has handed out zeros for data that was
/// still being written (OpenZFS issues 15526 and 15933).
///
/// # Errors
///
/// Fails with the first error of reading or writing.
pub fn copy_bytes(source: &mut impl io::Read, sink: &mut impl io::Write) -> io::Result<u64> {
    let mut buffer = vec![0; 256 * 1024];
    let mut total = 0;
    loop {
        match source.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(read) => {
                sink.write_all(&buffer[..read])?;
                total += read as u64;
            }
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
}

/// Copies the regular file `from` to `to`, which does not exist, and gives it `mode`.
///
/// Where the file system can, the two share their blocks until one of them is written to; then the
/// copy takes neither time nor space. Nothing is synced.
///
/// # Errors
///
/// Fails when `from` is no regular file, when `to` exists, and with the first error of reading or
/// writing. What was written by then remains.
pub fn copy_file(
    from: &Path,
    to: &Path,
    mode: u32,
    mut progress: impl FnMut(u64),
) -> io::Result<()> {
    let mut source = open_regular(from)?;
    let mut sink = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(to)?;
    // Whole files, by the file system's own word, or not at all: copy_file_range(2) may do half.
    if rustix::fs::ioctl_ficlone(&sink, &source).is_ok() {
        progress(source.metadata()?.len());
        return Ok(());
    }
    let mut counted = Counted {
        sink: &mut sink,
        progress: &mut progress,
    };
    copy_bytes(&mut source, &mut counted).map(drop)
}

/// Copies as [`copy_file`] does from a file of a snapshot, which nobody can be writing.
///
/// The kernel copies, so that ZFS shares blocks between a snapshot and its dataset. For a file that is
/// being written this has handed out zeros (OpenZFS issues 15526 and 15933); a snapshot holds no
/// unwritten data.
///
/// # Errors
///
/// As [`copy_file`].
pub fn copy_file_of_snapshot(
    from: &Path,
    to: &Path,
    mode: u32,
    mut progress: impl FnMut(u64),
) -> io::Result<()> {
    /// What is copied by one call, so that progress is seen.
    const AT_A_TIME: usize = 64 << 20;
    let source = open_regular(from)?;
    let sink = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(to)?;
    let length = source.metadata()?.len();
    let mut copied = 0;
    while copied < length {
        match rustix::fs::copy_file_range(&source, None, &sink, None, AT_A_TIME) {
            Ok(0) | Err(_) => break,
            Ok(part) => {
                copied += part as u64;
                progress(part as u64);
            }
        }
    }
    if copied == length {
        return Ok(());
    }
    // The kernel would not, or not to the end: from the beginning, by reading and writing.
    drop(sink);
    fs::remove_file(to)?;
    copy_file(from, to, mode, |_| {})
}

/// Whether a copy of `from` in `directory` would share its blocks, so that it takes no space.
#[must_use]
pub fn would_share_blocks(from: &Path, directory: &Path) -> bool {
    // A file without a name: nothing is left of it, whatever happens.
    let probe = OpenOptions::new()
        .write(true)
        .mode(FILE_MODE)
        .custom_flags(OFlag::O_TMPFILE.bits())
        .open(directory);
    match (open_regular(from), probe) {
        (Ok(source), Ok(probe)) => rustix::fs::ioctl_ficlone(&probe, &source).is_ok(),
        _ => false,
    }
}

/// Tells how much goes through it.
struct Counted<'a, F: FnMut(u64)> {
    sink: &'a mut File,
    progress: &'a mut F,
}

impl<F: FnMut(u64)> io::Write for Counted<'_, F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.sink.write(bytes)?;
        (self.progress)(written as u64);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

/// Appends `suffix` to the last component of `path`: `/data/16` becomes `/data/16.staging`.
#[must_use]
pub fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests;
