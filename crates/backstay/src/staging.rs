//! Building the restored cluster beside the present one, and putting it in its place.
//!
//! A journal beside the data directory says how far a restore has come, so that one that was
//! interrupted is either started over or finished, and half a restore is never taken for a cluster.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use base_backups::{Progress, Record, Repository};
use cluster::Programs;
use serde::{Deserialize, Serialize};
use settings::Format;
use tool::{Hinted, Level};

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
    /// Directories for tablespaces that this restore made.
    pub tablespaces: Vec<PathBuf>,
}

/// A step of a restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Step {
    /// The staging directory is being filled or recovered. It is worth nothing yet.
    Building,
    /// The staging directory is the restored cluster, checked. It only has to get its name.
    Swapping,
}

/// The place where a restore is built, and the place where it goes.
pub struct Staging {
    /// Where the restored cluster goes.
    pub destination: PathBuf,
    /// Where it is built.
    pub directory: PathBuf,
    journal: PathBuf,
    _lock: durable_file::Lock,
}

impl Staging {
    /// Takes the place beside `destination`.
    pub fn take(destination: &Path) -> Result<Self> {
        let lock = durable_file::try_lock(&durable_file::with_suffix(destination, LOCK))?
            .ok_or_else(|| {
                anyhow!(
                    "another restore into \"{}\" is running",
                    destination.display()
                )
            })?;
        Ok(Self {
            destination: destination.to_owned(),
            directory: durable_file::with_suffix(destination, STAGING),
            journal: durable_file::with_suffix(destination, JOURNAL),
            _lock: lock,
        })
    }

    fn read_journal(&self) -> Result<Option<Journal>> {
        match fs::read(&self.journal) {
            Ok(text) => serde_json::from_slice(&text)
                .with_context(|| format!("read \"{}\"", self.journal.display())),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(err) => Err(err).with_context(|| format!("read \"{}\"", self.journal.display())),
        }
    }

    /// Writes down how far the restore has come, durably.
    pub fn write_journal(&self, journal: &Journal) -> Result<()> {
        let text = serde_json::to_vec_pretty(journal).context("write the journal")?;
        durable_file::replace(&self.journal, &text)
    }

    /// Deals with what an interrupted restore left: finishes it if only its last step was missing,
    /// removes it otherwise. Returns whether it was finished.
    pub fn resume(&self, programs: &Programs) -> Result<bool> {
        let Some(journal) = self.read_journal()? else {
            if fs::symlink_metadata(&self.directory).is_ok() {
                return Err(Hinted::new(
                    format!(
                        "\"{}\" exists, and no restore made it",
                        self.directory.display()
                    ),
                    "move it away",
                )
                .into());
            }
            return Ok(false);
        };
        if journal.step == Step::Swapping {
            self.swap(journal.kept.as_deref())?;
            return Ok(true);
        }
        if self.directory.join("PG_VERSION").exists()
            && cluster::is_running_in(programs, &self.directory)?
        {
            // The recovery outlived the restore that started it.
            cluster::stop_in(programs, &self.directory, Duration::from_hours(1))?;
        }
        tool::log(
            Level::Info,
            format_args!(
                "removing what an interrupted restore left in \"{}\"",
                self.directory.display()
            ),
        );
        self.discard(&journal.tablespaces)?;
        Ok(false)
    }

    /// Removes the unfinished restore.
    pub fn discard(&self, tablespaces: &[PathBuf]) -> Result<()> {
        for directory in tablespaces.iter().chain([&self.directory]) {
            match fs::remove_dir_all(directory) {
                Err(err) if err.kind() != io::ErrorKind::NotFound => {
                    return Err(err).with_context(|| format!("remove \"{}\"", directory.display()));
                }
                _ => {}
            }
        }
        durable_file::remove(&self.journal)
    }

    /// Gives the restored cluster its name; what had it is kept under the name `kept`.
    ///
    /// Each of the two renames can be found done: this is also how an interrupted one goes on.
    pub fn swap(&self, kept: Option<&Path>) -> Result<()> {
        if let Some(kept) = kept
            && self.directory.is_dir()
            && fs::symlink_metadata(&self.destination).is_ok()
        {
            durable_file::move_to_new_name(&self.destination, kept)?;
        }
        if self.directory.is_dir() {
            if kept.is_none() && self.destination.is_dir() {
                // An empty directory, or remove_dir refuses.
                fs::remove_dir(&self.destination)
                    .with_context(|| format!("remove \"{}\"", self.destination.display()))?;
            }
            durable_file::move_to_new_name(&self.directory, &self.destination)?;
        }
        durable_file::remove(&self.journal)
    }
}

/// Refuses a destination that cannot be swapped: a mount point, or one on another file system.
pub fn check_swappable(destination: &Path) -> Result<()> {
    let Some(parent) = destination.parent() else {
        bail!("\"{}\" has no parent directory", destination.display());
    };
    let examine =
        |path: &Path| fs::metadata(path).with_context(|| format!("examine \"{}\"", path.display()));
    let parent = examine(parent)?;
    if fs::symlink_metadata(destination).is_ok_and(|m| m.is_symlink()) {
        return Err(Hinted::new(
            format!("\"{}\" is a link", destination.display()),
            "name the directory itself as postgresql.dataDirectory",
        )
        .into());
    }
    match fs::metadata(destination) {
        Ok(metadata) if metadata.dev() != parent.dev() => Err(Hinted::new(
            format!(
                "\"{}\" is a mount point, which cannot be renamed",
                destination.display()
            ),
            "make the data directory a directory below the mount, or restore with --into",
        )
        .into()),
        Ok(_) => Ok(()),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(err) => Err(err).with_context(|| format!("examine \"{}\"", destination.display())),
    }
}

/// Refuses to begin what would not fit.
pub fn check_space(directory: &Path, needed_bytes: u64) -> Result<()> {
    let parent = directory.parent().unwrap_or(directory);
    let stat = nix::sys::statvfs::statvfs(parent)
        .with_context(|| format!("examine the file system of \"{}\"", parent.display()))?;
    let free = stat.blocks_available() * stat.fragment_size();
    if free < needed_bytes {
        return Err(Hinted::new(
            format!(
                "\"{}\" has {} MiB free, the restore takes {} MiB",
                parent.display(),
                free >> 20,
                needed_bytes >> 20
            ),
            "make room, or restore to another file system with --into; nothing was changed",
        )
        .into());
    }
    Ok(())
}

/// Puts the files of `record`, combined with those that it builds on, into `directory`.
pub fn restore_files(
    programs: &Programs,
    repository: &Repository,
    record: &Record,
    all: &[Record],
    directory: &Path,
    tablespaces: &BTreeMap<u32, PathBuf>,
    progress: &Progress,
) -> Result<()> {
    let chain = record.chain(all)?;
    if let [only] = chain.as_slice() {
        return base_backups::restore_into(repository, only, directory, tablespaces, progress);
    }
    // pg_combinebackup checks how the backups relate, not what is in them.
    for link in &chain {
        base_backups::check(repository, link, progress)?;
    }
    let mut command = programs
        .command("pg_combinebackup")
        .args(chain.iter().map(|link| repository.directory(&link.name)))
        .arg("--output")
        .arg(directory)
        .arg("--no-sync");
    for (oid, place) in tablespaces {
        let stored = repository.tablespaces(&record.name).join(oid.to_string());
        command = command.arg("--tablespace-mapping").arg(format!(
            "{}={}",
            escaped(&stored),
            escaped(place)
        ));
    }
    command.run().context("combine the base backups")?;
    programs
        .command("pg_verifybackup")
        .args(["--quiet", "--exit-on-error", "--no-parse-wal"])
        .arg(directory)
        .run()
        .context("verify the combined base backup")?;
    if record.format != Format::Plain {
        bail!(
            "base backup \"{}\" is incremental and in tar format",
            record.name
        );
    }
    Ok(())
}

/// Writes a path as `--tablespace-mapping` wants it: an equals sign ends the old directory.
fn escaped(path: &Path) -> String {
    path.display().to_string().replace('=', "\\=")
}
