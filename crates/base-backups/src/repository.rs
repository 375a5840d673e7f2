use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use cluster::{Relations, Tablespace};
use durable_file::Lock;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use settings::{Format, TarCompression};
use tool::{Hinted, WithHint as _};
use wal::{Lsn, SystemIdentifier, TimelineId};

/// Directory for what is ours beside what `pg_basebackup` writes. Its leading dot keeps it out of
/// `ls`, so that the newest entry of a listing is a base backup.
const OURS: &str = ".backstay";
const REPOSITORY: &str = "repository.json";
const PARTIAL: &str = ".partial";
const FORMAT_VERSION: u32 = 1;
/// How long the removal of an interrupted backup waits for a `pg_basebackup` that was left behind.
const ORPHAN_PATIENCE: Duration = Duration::from_secs(15);

/// Whether a base backup can stand alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// It holds every file whole.
    Full,
    /// It holds what changed since its parent.
    Incremental,
}

/// What is known of a finished base backup.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Record {
    /// Version of this record's form.
    pub format_version: u32,
    /// Name of the backup and of its directory: its UTC start time.
    pub name: String,
    /// Full or incremental.
    pub kind: Kind,
    /// The backup that an incremental one builds on.
    pub parent: Option<String>,
    /// The cluster.
    pub system_identifier: SystemIdentifier,
    /// Major version of the server.
    pub postgres_major: u32,
    /// Version of the server.
    pub server_version: String,
    /// Version of the `pg_basebackup` that wrote it.
    pub tool_version: String,
    /// Timeline on which it was taken.
    pub timeline: TimelineId,
    /// Where replay begins.
    pub start_lsn: Lsn,
    /// Where the backup is consistent.
    pub stop_lsn: Lsn,
    /// Segment size of the cluster, in bytes.
    pub segment_size_bytes: u64,
    /// When it was begun, by the server's clock.
    pub started_at: Timestamp,
    /// When its last file had been read, by the server's clock. The target of a restore from it is
    /// later than this.
    pub stopped_at: Timestamp,
    /// Form on disk.
    pub format: Format,
    /// Compression of the tar format.
    pub compression: TarCompression,
    /// Tablespaces outside the data directory, with their places at the time.
    pub tablespaces: Vec<Tablespace>,
    /// Whether data pages carry checksums. `pg_basebackup` has checked each of them then.
    pub data_checksums: bool,
    /// Length of all files, in bytes.
    pub content_bytes: u64,
    /// Length of what is stored, in bytes.
    pub stored_bytes: u64,
    /// What `pg_basebackup` took, in seconds.
    pub copy_seconds: f64,
    /// What verification took, in seconds.
    pub verify_seconds: f64,
    /// What waiting for the last WAL file in the archive took, in seconds.
    pub wal_wait_seconds: f64,
    /// What verified it, and in which version.
    pub verified_with: String,
    /// Whether it is kept whatever the retention says.
    #[serde(default)]
    pub pinned: bool,
}

/// Whose base backups a directory holds.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Owner {
    format_version: u32,
    instance: String,
}

/// The directory with the base backups of an instance.
#[derive(Clone, Debug)]
pub struct Repository {
    root: PathBuf,
}

/// What an interrupted backup or removal left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished(pub PathBuf);

impl Repository {
    /// Opens the base backups of `instance` in the directory `root`.
    ///
    /// # Errors
    ///
    /// Fails when the directory does not show that it holds this instance's base backups: it may not
    /// be mounted.
    pub fn open(root: &Path, instance: &str) -> Result<Self> {
        let path = root.join(OURS).join(REPOSITORY);
        let text = fs::read(&path)
            .with_context(|| format!("open \"{}\"", path.display()))
            .with_hint(|| {
                format!(
                    "is it mounted at \"{}\"? a new one is made by `backstay archive init {instance}`",
                    root.display()
                )
            })?;
        let owner: Owner = serde_json::from_slice(&text)
            .with_context(|| format!("read \"{}\"", path.display()))?;
        ensure!(
            owner.format_version == FORMAT_VERSION,
            "\"{}\" is of format {}, this program reads format {FORMAT_VERSION}",
            path.display(),
            owner.format_version
        );
        if owner.instance != instance {
            return Err(Hinted::new(
                format!(
                    "\"{}\" holds the base backups of instance \"{}\", not of \"{instance}\"",
                    root.display(),
                    owner.instance
                ),
                "each instance needs a base backup directory of its own",
            )
            .into());
        }
        Ok(Self {
            root: root.to_owned(),
        })
    }

    /// Whether the directory `root` says that it holds base backups, of whichever instance.
    ///
    /// # Errors
    ///
    /// Fails when that cannot be seen.
    pub fn is_at(root: &Path) -> Result<bool> {
        let path = root.join(OURS).join(REPOSITORY);
        path.try_exists()
            .with_context(|| format!("examine \"{}\"", path.display()))
    }

    /// Makes `root` the directory for the base backups of `instance`. Running it again changes
    /// nothing.
    ///
    /// # Errors
    ///
    /// Fails when it is another instance's, or cannot be written.
    pub fn init(root: &Path, instance: &str) -> Result<Self> {
        let ours = root.join(OURS);
        if !Self::is_at(root)? {
            durable_file::ensure_directory(&ours)?;
            let owner = Owner {
                format_version: FORMAT_VERSION,
                instance: instance.to_owned(),
            };
            let text = serde_json::to_vec_pretty(&owner).context("write the repository's owner")?;
            durable_file::replace(&ours.join(REPOSITORY), &text)?;
        }
        Self::open(root, instance)
    }

    /// The directory itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Takes the lock that keeps backups, removals and restores out of each other's way.
    ///
    /// # Errors
    ///
    /// Fails when another process holds it.
    pub fn lock(&self) -> Result<Lock> {
        durable_file::try_lock(&self.root.join(OURS).join("lock"))?.ok_or_else(|| {
            Hinted::new(
                format!("another program is at work in \"{}\"", self.root.display()),
                "wait for the base backup, the prune or the restore that is running",
            )
            .into()
        })
    }

    /// Keeps what is here from being removed for as long as the result lives. Several restores can
    /// hold it at once; a restore that dies lets go of it.
    ///
    /// # Errors
    ///
    /// Fails when something is being removed just now.
    pub fn lease(&self) -> Result<Lock> {
        durable_file::try_lock_shared(&self.lease_path())?.ok_or_else(|| {
            Hinted::new(
                format!(
                    "base backups are being removed in \"{}\"",
                    self.root.display()
                ),
                "wait for the prune that is running",
            )
            .into()
        })
    }

    /// Keeps restores from beginning for as long as the result lives.
    ///
    /// # Errors
    ///
    /// Fails when a restore is running.
    pub fn lock_out_restores(&self) -> Result<Lock> {
        durable_file::try_lock(&self.lease_path())?.ok_or_else(|| {
            Hinted::new(
                format!("a restore is reading from \"{}\"", self.root.display()),
                "wait for it to end; nothing was removed",
            )
            .into()
        })
    }

    fn lease_path(&self) -> PathBuf {
        self.root.join(OURS).join("lease")
    }

    /// Where the backup `name` is.
    #[must_use]
    pub fn directory(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Where the backup `name` is while it is being taken.
    #[must_use]
    pub fn partial(&self, name: &str) -> PathBuf {
        self.root.join(format!("{name}{PARTIAL}"))
    }

    /// Where the tablespaces of the plain backup `name` are, each in a directory named by its object
    /// identifier.
    #[must_use]
    pub fn tablespaces(&self, name: &str) -> PathBuf {
        self.root.join(OURS).join(format!("{name}.tablespaces"))
    }

    fn record_path(&self, name: &str) -> PathBuf {
        self.root.join(OURS).join(format!("{name}.json"))
    }

    fn relations_path(&self, name: &str) -> PathBuf {
        self.root.join(OURS).join(format!("{name}.relations.json"))
    }

    /// A name for a backup that begins now: the UTC time, or the next second that is free. A clock
    /// that was set back does not give a name twice.
    #[must_use]
    pub fn free_name(&self, mut now: Timestamp) -> String {
        loop {
            let name = now.strftime("%Y%m%d-%H%M%S").to_string();
            let taken = [
                self.directory(&name),
                self.partial(&name),
                self.record_path(&name),
            ];
            if !taken.iter().any(|path| fs::symlink_metadata(path).is_ok()) {
                return name;
            }
            now += jiff::SignedDuration::from_secs(1);
        }
    }

    /// Makes the finished backup `record.name` count: its record first, its name last.
    ///
    /// # Errors
    ///
    /// Fails when the record cannot be written or the directory cannot be renamed. Then the backup
    /// does not count, and [`Repository::clear_unfinished`] removes what is left.
    pub fn publish(&self, record: &Record, relations: &Relations) -> Result<()> {
        let relations = serde_json::to_vec(relations).context("write the relations")?;
        durable_file::replace(&self.relations_path(&record.name), &relations)?;
        let mut text = serde_json::to_vec_pretty(record).context("write the record")?;
        text.push(b'\n');
        durable_file::replace(&self.record_path(&record.name), &text)?;
        durable_file::move_to_new_name(&self.partial(&record.name), &self.directory(&record.name))
    }

    /// Lists the finished backups in the order in which they ended: by time and LSN, never by name.
    ///
    /// # Errors
    ///
    /// Fails when the directory cannot be listed or a record cannot be read.
    pub fn list(&self) -> Result<Vec<Record>> {
        let mut records = Vec::new();
        for name in self.recorded_names()? {
            let path = self.record_path(&name);
            let text = fs::read(&path).with_context(|| format!("read \"{}\"", path.display()))?;
            let record: Record = serde_json::from_slice(&text)
                .with_context(|| format!("read \"{}\"", path.display()))?;
            ensure!(
                record.format_version == FORMAT_VERSION,
                "\"{}\" is of format {}, this program reads format {FORMAT_VERSION}",
                path.display(),
                record.format_version
            );
            if self.directory(&name).is_dir() {
                records.push(record);
            }
        }
        records.sort_by_key(|record| (record.stopped_at, record.stop_lsn));
        Ok(records)
    }

    /// The names that have a record, also of backups that are unfinished.
    fn recorded_names(&self) -> Result<Vec<String>> {
        let ours = self.root.join(OURS);
        let mut names: Vec<String> = fs::read_dir(&ours)
            .with_context(|| format!("list \"{}\"", ours.display()))?
            .filter_map(|entry| {
                let name = entry.ok()?.file_name();
                let name = name.to_str()?.strip_suffix(".json")?;
                is_backup_name(name).then(|| name.to_owned())
            })
            .collect();
        names.sort();
        Ok(names)
    }

    /// Finds a base backup, finished or not, or anything else that somebody put here.
    ///
    /// # Errors
    ///
    /// Fails when a directory cannot be listed: what cannot be seen must not pass for absent.
    pub fn something(&self) -> Result<Option<PathBuf>> {
        if let Some(name) = self.recorded_names()?.into_iter().next() {
            return Ok(Some(self.record_path(&name)));
        }
        for entry in
            fs::read_dir(&self.root).with_context(|| format!("list \"{}\"", self.root.display()))?
        {
            let entry = entry.with_context(|| format!("list \"{}\"", self.root.display()))?;
            let name = entry.file_name();
            if name == OURS || durable_file::is_of_the_file_system(&name) {
                continue;
            }
            let path = entry.path();
            let found = if entry.path().is_dir() {
                durable_file::something_in(&path)?
            } else {
                Some(path)
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// The relations of the cluster at the time of the backup `name`.
    ///
    /// # Errors
    ///
    /// Fails when they cannot be read.
    pub fn relations(&self, name: &str) -> Result<Relations> {
        let path = self.relations_path(name);
        let text = fs::read(&path).with_context(|| format!("read \"{}\"", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("read \"{}\"", path.display()))
    }

    /// Lists what interrupted backups and removals left behind. Meaningful to the holder of the
    /// lock only: to others a backup that is being taken looks the same.
    ///
    /// # Errors
    ///
    /// Fails when the directory cannot be listed.
    pub fn unfinished(&self) -> Result<Vec<Unfinished>> {
        let mut found = Vec::new();
        for directory in [self.root.clone(), self.root.join(OURS)] {
            for entry in fs::read_dir(&directory)
                .with_context(|| format!("list \"{}\"", directory.display()))?
            {
                let entry = entry.with_context(|| format!("list \"{}\"", directory.display()))?;
                let name = entry.file_name();
                let Some((stem, rest)) = name.to_str().and_then(|name| name.split_at_checked(15))
                else {
                    continue;
                };
                let unfinished = is_backup_name(stem)
                    && (rest == PARTIAL
                        || ([".json", ".relations.json", ".tablespaces"].contains(&rest)
                            && !self.directory(stem).is_dir()));
                if unfinished {
                    found.push(Unfinished(entry.path()));
                }
            }
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(found)
    }

    /// Removes what interrupted backups and removals left behind.
    ///
    /// # Errors
    ///
    /// Fails when something cannot be removed.
    pub fn clear_unfinished(&self, _lock: &Lock) -> Result<Vec<Unfinished>> {
        let found = self.unfinished()?;
        for Unfinished(path) in &found {
            remove_tree(path)?;
        }
        Ok(found)
    }

    /// Removes the backup `name`. First it stops counting, then its files go.
    ///
    /// # Errors
    ///
    /// Fails when something cannot be removed; the backup does not count any more then, and the
    /// next call goes on.
    pub fn remove(&self, name: &str, _lock: &Lock) -> Result<()> {
        ensure!(
            is_backup_name(name),
            "\"{name}\" is no name of a base backup"
        );
        let directory = self.directory(name);
        if directory.exists() {
            durable_file::move_to_new_name(&directory, &self.partial(name))?;
        }
        durable_file::remove(&self.record_path(name))?;
        for path in [
            self.partial(name),
            self.tablespaces(name),
            self.relations_path(name),
        ] {
            remove_tree(&path)?;
        }
        Ok(())
    }
}

/// Whether `name` has the form that [`Repository::free_name`] gives.
fn is_backup_name(name: &str) -> bool {
    name.len() == 15
        && name.bytes().enumerate().all(|(at, byte)| {
            if at == 8 {
                byte == b'-'
            } else {
                byte.is_ascii_digit()
            }
        })
}

/// Removes `path` and everything in it, if it is there.
///
/// A killed `pg-base-backup` leaves a `pg_basebackup` behind that goes on making files until it finds
/// that its directories are gone, so a directory that fills again is emptied again, for a while.
fn remove_tree(path: &Path) -> Result<()> {
    let deadline = Instant::now() + ORPHAN_PATIENCE;
    loop {
        let result = match fs::symlink_metadata(path) {
            Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
            Ok(_) => fs::remove_file(path),
            Err(err) => Err(err),
        };
        match result {
            Err(err)
                if err.kind() == io::ErrorKind::DirectoryNotEmpty && Instant::now() < deadline =>
            {
                thread::sleep(Duration::from_millis(20));
            }
            Err(err) if err.kind() != io::ErrorKind::NotFound => {
                return Err(err).with_context(|| format!("remove \"{}\"", path.display()));
            }
            _ => return Ok(()),
        }
    }
}

impl Record {
    /// The version of the record's form that this program writes.
    pub const FORMAT_VERSION: u32 = FORMAT_VERSION;

    /// The chain of backups that a restore of this one needs, the full one first.
    ///
    /// # Errors
    ///
    /// Fails when one of them is not among `all`.
    pub fn chain<'a>(&'a self, all: &'a [Record]) -> Result<Vec<&'a Record>> {
        let mut chain = vec![self];
        let mut at = self;
        while let Some(parent) = &at.parent {
            at = all
                .iter()
                .find(|record| record.name == *parent && !chain.contains(record))
                .ok_or_else(|| {
                    anyhow!(
                        "base backup \"{}\" needs \"{parent}\", which is gone",
                        at.name
                    )
                })?;
            chain.push(at);
        }
        chain.reverse();
        Ok(chain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_left_of_a_base_backup_is_something() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        assert!(!Repository::is_at(root).unwrap());
        let repository = Repository::init(root, "main").unwrap();
        assert!(Repository::is_at(root).unwrap());
        fs::create_dir(root.join("lost+found")).unwrap();
        fs::create_dir(root.join("20261121-020000.partial")).unwrap();
        assert_eq!(repository.something().unwrap(), None);
        // Half a backup, and a record whose backup is gone: there was a cluster.
        let file = root.join("20261121-020000.partial/PG_VERSION");
        fs::write(&file, "16\n").unwrap();
        assert_eq!(repository.something().unwrap(), Some(file.clone()));
        fs::remove_file(file).unwrap();
        let record = repository.record_path("20261121-020000");
        fs::write(&record, "{}").unwrap();
        assert_eq!(repository.something().unwrap(), Some(record));
    }
}
