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

use anyhow::{Context as _, Result, bail};
use base_backups::{Progress, Record, Repository};
use cluster::Programs;
use restore_journal::{Journal, Places, Step, Taken};
use settings::Format;
use tool::{Hinted, Level, WithHint as _};

/// The place where a restore is built, and the place where it goes.
pub struct Staging {
    /// Where the restored cluster goes.
    pub destination: PathBuf,
    /// Where it is built.
    pub directory: PathBuf,
    places: Places,
    _lock: durable_file::Lock,
}

impl Staging {
    /// Takes the place beside `destination`.
    pub fn take(destination: &Path) -> Result<Self> {
        let places = Places::beside(destination);
        let lock = places
            .try_lock()
            .with_hint(|| {
                format!(
                    "user \"{}\", whom the data belongs to or who runs this, has to be able to write in the directory above \"{}\"",
                    user_name(),
                    destination.display()
                )
            })?
            .ok_or_else(|| {
                Hinted::new(
                    format!(
                        "another restore into \"{}\" is running",
                        destination.display()
                    ),
                    "wait until that has ended",
                )
            })?;
        Ok(Self {
            destination: destination.to_owned(),
            directory: places.staging.clone(),
            places,
            _lock: lock,
        })
    }

    /// Writes down how far the restore has come, durably.
    pub fn write_journal(&self, journal: &Journal) -> Result<()> {
        self.places.write_journal(journal)
    }

    /// Gives up a restore that was interrupted or has failed, and goes on with the present cluster.
    pub fn abandon(&self, programs: &Programs) -> Result<()> {
        let Some(journal) = self.places.read_journal()? else {
            bail!(
                "no restore into \"{}\" is unfinished",
                self.destination.display()
            );
        };
        if journal.step == Step::Swapping {
            return Err(Hinted::new(
                "the restored cluster is complete and only has to be put in its place",
                "run the same restore again, which does so; the cluster as it was before is kept",
            )
            .into());
        }
        self.stop_recovery(programs)?;
        self.discard(&journal.tablespaces)
    }

    /// Stops a recovery that has outlived the restore that started it.
    fn stop_recovery(&self, programs: &Programs) -> Result<()> {
        if self.directory.join("PG_VERSION").exists()
            && cluster::is_running_in(programs, &self.directory)?
        {
            cluster::stop_in(programs, &self.directory, Duration::from_hours(1))?;
        }
        Ok(())
    }

    /// Whether the restored cluster is complete, and has to be put in its place yet.
    pub fn lacks_only_its_name(&self) -> bool {
        self.places
            .read_journal()
            .is_ok_and(|journal| journal.is_some_and(|journal| journal.step == Step::Swapping))
    }

    /// Deals with what an interrupted restore left: finishes it if only its last step was missing,
    /// removes it otherwise. Returns whether it was finished.
    pub fn resume(&self, programs: &Programs) -> Result<bool> {
        let Some(journal) = self.places.read_journal()? else {
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
        self.stop_recovery(programs)?;
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
    pub fn discard(&self, tablespaces: &[Taken]) -> Result<()> {
        for taken in tablespaces {
            if !taken.give_back()? {
                tool::log(
                    Level::Warning,
                    format_args!(
                        "\"{}\" is not the directory that the interrupted restore made, and is left alone",
                        taken.path.display()
                    ),
                );
            }
        }
        match fs::remove_dir_all(&self.directory) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => {
                return Err(err)
                    .with_context(|| format!("remove \"{}\"", self.directory.display()));
            }
            _ => {}
        }
        self.places.remove_journal()
    }

    /// Gives the restored cluster its name; what had it is kept under the name `kept`.
    pub fn swap(&self, kept: Option<&Path>) -> Result<()> {
        self.places.swap(kept)
    }
}

/// The user as whom this works.
fn user_name() -> String {
    let user = nix::unistd::geteuid();
    nix::unistd::User::from_uid(user)
        .ok()
        .flatten()
        .map_or_else(|| user.to_string(), |user| user.name)
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
