//! What a restore can begin with: base backups, or a copy of the data directory.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use base_backups::{Progress, Record, Repository};
use cluster::Tablespace;
use cluster_copy::snapshots::{self, Snapshot};
use durable_file::Lock;
use jiff::Timestamp;
use restore_plan::{Choice, StartingPoint, Target};
use tool::Hinted;
use wal::Lsn;

use super::{Arguments, Beginning, Origin, Plan};
use crate::copied::Copied;
use crate::instance::{Contents, Instance, Unarchived, starting_points};
use crate::staging::{self, Staging};

/// What a restore can begin with.
pub enum Sources {
    /// The base backups of a directory.
    BaseBackups(BaseBackups),
    /// A copy of the data directory as it was at one moment.
    Copy(Box<Copied>),
}

/// The base backups of a directory, which stay there for as long as this lives.
pub struct BaseBackups {
    repository: Repository,
    records: Vec<Record>,
    _lease: Lock,
}

/// What there is of WAL.
pub struct Found {
    /// All of it, for a plan.
    pub contents: Contents,
    /// What the archive has not, for reading.
    pub unarchived: Unarchived,
    /// Of that, what the server has.
    pub of_server: Unarchived,
}

impl Found {
    /// Adds what `sources` have to what the archive and the server have.
    pub fn new((mut contents, of_server): (Contents, Unarchived), sources: &Sources) -> Self {
        let mut unarchived = of_server.clone();
        sources.add_to(&mut contents, &mut unarchived);
        Self {
            contents,
            unarchived,
            of_server,
        }
    }
}

/// Something that a restore may begin with, not yet looked at closely.
pub enum Candidate {
    /// The base backups.
    BaseBackups,
    /// A snapshot.
    Snapshot(Snapshot),
    /// A copy in this directory.
    Directory(PathBuf),
}

/// What a restore may begin with, by `arguments`: what is closest to the target first.
///
/// # Errors
///
/// Fails when `arguments` name something that is not there.
pub fn candidates(
    instance: &Instance,
    arguments: &Arguments,
    contents: &Contents,
) -> Result<Vec<Candidate>> {
    let is_copy = matches!(
        arguments.from,
        Some(Origin::Directory(_) | Origin::Snapshot(_))
    );
    if !arguments.tablespace_from.is_empty() && !is_copy {
        return Err(Hinted::new(
            "--tablespace-from is for restores that begin with a copy",
            "leave it out: a base backup holds its tablespaces; --tablespace-mapping says where they go",
        )
        .into());
    }
    let target = Target::parse(&arguments.to, Timestamp::now())
        .map_err(|err| Hinted::new(err.to_string(), err.hint().to_owned()))?;
    let data = &instance.settings.postgresql.data_directory;
    let all = || snapshots::all(data, contents.plan.system_identifier);
    // The newest first: it has the least to replay.
    let early = |all: Vec<Snapshot>| -> Vec<Snapshot> {
        all.into_iter()
            .rev()
            .filter(|snapshot| snapshot.may_lead_to(&target))
            .collect()
    };
    match &arguments.from {
        Some(Origin::Directory(directory)) => Ok(vec![Candidate::Directory(directory.clone())]),
        Some(Origin::BaseBackup | Origin::OffSite(_)) => Ok(vec![Candidate::BaseBackups]),
        Some(Origin::Snapshot(Some(name))) => {
            let (named, others): (Vec<_>, Vec<_>) =
                all()?.into_iter().partition(|found| found.name == *name);
            if named.is_empty() {
                return Err(no_snapshot(
                    &format!("no snapshot \"{name}\""),
                    data,
                    &others,
                ));
            }
            Ok(named.into_iter().map(Candidate::Snapshot).collect())
        }
        Some(Origin::Snapshot(None)) => {
            let all = all()?;
            let found = early(all.clone());
            if found.is_empty() {
                let what = format!("no snapshot from before \"{target}\"");
                return Err(no_snapshot(&what, data, &all));
            }
            Ok(found.into_iter().map(Candidate::Snapshot).collect())
        }
        None => {
            let mut found: Vec<Candidate> =
                early(all()?).into_iter().map(Candidate::Snapshot).collect();
            if found.is_empty() || instance.settings.base_backup.is_some() {
                let newest = newest_base_backup(instance, &target);
                let is_newer = |candidate: &Candidate| match candidate {
                    Candidate::Snapshot(snapshot) => {
                        newest.is_none_or(|newest| snapshot.control.checkpoint > newest)
                    }
                    _ => false,
                };
                let at = found
                    .iter()
                    .position(|candidate| !is_newer(candidate))
                    .unwrap_or(found.len());
                found.insert(at, Candidate::BaseBackups);
            }
            Ok(found)
        }
    }
}

/// Where the newest base backup ended that may lead to `target`. What is wrong with the base backups is
/// told when they are opened.
fn newest_base_backup(instance: &Instance, target: &Target) -> Option<Lsn> {
    let records = instance.repository().and_then(|found| found.list()).ok()?;
    records
        .iter()
        .filter(|record| match target {
            Target::Time(time) => record.stopped_at < *time,
            Target::Lsn(lsn) => record.stop_lsn < *lsn,
            _ => true,
        })
        .map(|record| record.stop_lsn)
        .max()
}

fn no_snapshot(what: &str, data: &Path, others: &[Snapshot]) -> anyhow::Error {
    let names: Vec<&str> = others.iter().map(|other| other.name.as_str()).collect();
    Hinted::new(
        format!("there is {what} that holds \"{}\"", data.display()),
        if names.is_empty() {
            "on ZFS snapshots are seen below .zfs/snapshot of its file system; restore from base backups with --from base-backup".to_owned()
        } else {
            format!("there are {}", names.join(", "))
        },
    )
    .into()
}

impl Sources {
    /// Opens what `candidate` names.
    pub fn open(
        instance: &Instance,
        arguments: &Arguments,
        candidate: &Candidate,
        contents: &Contents,
    ) -> Result<Self> {
        let copy = |directory: &Path, snapshot: Option<&str>| {
            let places = &arguments.tablespace_from;
            let mut copied = Copied::examine(instance, contents, directory, places)?;
            copied.snapshot = snapshot.map(ToOwned::to_owned);
            Ok(Self::Copy(Box::new(copied)))
        };
        match candidate {
            Candidate::Directory(directory) => copy(directory, None),
            Candidate::Snapshot(snapshot) => copy(&snapshot.directory, Some(&snapshot.name)),
            Candidate::BaseBackups => {
                let repository = instance.repository()?;
                let lease = repository.lease()?;
                Ok(Self::BaseBackups(BaseBackups {
                    records: repository.list()?,
                    repository,
                    _lease: lease,
                }))
            }
        }
    }

    /// The directories that a copy is read from: of the data directory and of its tablespaces.
    pub fn directories(&self) -> Vec<&Path> {
        match self {
            Self::BaseBackups(_) => Vec::new(),
            Self::Copy(copied) => std::iter::once(copied.copy.directory.as_path())
                .chain(
                    copied
                        .copy
                        .tablespaces
                        .iter()
                        .map(|space| space.directory.as_path()),
                )
                .collect(),
        }
    }

    /// Counts WAL that comes with them among what there is.
    pub fn add_to(&self, contents: &mut Contents, unarchived: &mut Unarchived) {
        if let Self::Copy(copied) = self {
            copied.add_to(contents, unarchived);
        }
    }

    /// The starting points that they are.
    pub fn points(&self) -> Vec<StartingPoint> {
        match self {
            Self::BaseBackups(backups) => starting_points(&backups.records),
            Self::Copy(copied) => vec![copied.point.clone()],
        }
    }

    /// The base backups that make up the chosen one, the full one first. A copy has none.
    pub fn chain(&self, choice: &Choice) -> Result<Vec<&Record>> {
        match self {
            Self::BaseBackups(backups) => backups.record(choice)?.chain(&backups.records),
            Self::Copy(_) => Ok(Vec::new()),
        }
    }

    /// The tablespaces of the chosen one.
    pub fn tablespaces(&self, choice: &Choice) -> Result<Vec<Tablespace>> {
        match self {
            Self::BaseBackups(backups) => Ok(backups.record(choice)?.tablespaces.clone()),
            Self::Copy(copied) => Ok(copied
                .copy
                .tablespaces
                .iter()
                .map(|space| space.tablespace.clone())
                .collect()),
        }
    }

    /// The chosen one, for a plan.
    pub fn beginning(&self, choice: &Choice) -> Beginning {
        match self {
            Self::BaseBackups(_) => Beginning::BaseBackup {
                name: choice.point.clone(),
            },
            Self::Copy(copied) => {
                let directory = copied.copy.directory.clone();
                match &copied.snapshot {
                    Some(name) => Beginning::Snapshot {
                        name: name.clone(),
                        directory,
                    },
                    None => Beginning::Copy { directory },
                }
            }
        }
    }

    /// Length of the files of the chosen one, whose chain this is.
    pub fn content_bytes(&self, chain: &[&Record]) -> u64 {
        match self {
            Self::BaseBackups(_) => chain.iter().map(|link| link.content_bytes).sum(),
            Self::Copy(copied) => copied.files.bytes(),
        }
    }

    /// What the files are going to take beside `destination`.
    pub fn needed_bytes(&self, chain: &[&Record], destination: &Path) -> u64 {
        match self {
            Self::BaseBackups(_) => self.content_bytes(chain),
            Self::Copy(copied) => {
                let version = copied.copy.directory.join("PG_VERSION");
                let beside = destination.parent().unwrap_or(destination);
                if durable_file::would_share_blocks(&version, beside) {
                    0
                } else {
                    copied.files.bytes()
                }
            }
        }
    }

    /// Puts the files of the chosen one into the staging directory.
    pub fn put_files(
        &self,
        instance: &Instance,
        choice: &Choice,
        staging: &Staging,
        plan: &Plan,
        progress: &Progress,
    ) -> Result<()> {
        match self {
            Self::BaseBackups(backups) => staging::restore_files(
                instance.server.programs(),
                &backups.repository,
                backups.record(choice)?,
                &backups.records,
                &staging.directory,
                &plan.tablespaces,
                progress,
            ),
            Self::Copy(copied) => {
                copied
                    .files
                    .put_into(&staging.directory, &plan.tablespaces, &|bytes| {
                        progress.add(bytes);
                    })?;
                copied.copy.check_unchanged()?;
                for place in plan.tablespaces.values() {
                    durable_file::sync_file_system_of(place)?;
                }
                Ok(())
            }
        }
    }
}

impl BaseBackups {
    fn record(&self, choice: &Choice) -> Result<&Record> {
        self.records
            .iter()
            .find(|record| record.name == choice.point)
            .ok_or_else(|| anyhow!("base backup \"{}\" is gone", choice.point))
    }
}
