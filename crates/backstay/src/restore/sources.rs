//! What a restore can begin with: base backups, or a copy of the data directory.

use std::path::Path;

use anyhow::{Result, anyhow};
use base_backups::{Progress, Record, Repository};
use cluster::Tablespace;
use durable_file::Lock;
use restore_plan::{Choice, StartingPoint};
use tool::Hinted;

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

impl Sources {
    /// Opens what `arguments` name.
    pub fn open(instance: &Instance, arguments: &Arguments, contents: &Contents) -> Result<Self> {
        if let Some(Origin::Directory(directory)) = &arguments.from {
            let places = &arguments.tablespace_from;
            return Copied::examine(instance, contents, directory, places)
                .map(|copied| Self::Copy(Box::new(copied)));
        }
        if !arguments.tablespace_from.is_empty() {
            return Err(Hinted::new(
                "--tablespace-from is for restores that begin with a copy",
                "leave it out: a base backup holds its tablespaces; --tablespace-mapping says where they go",
            )
            .into());
        }
        let repository = instance.repository()?;
        let lease = repository.lease()?;
        Ok(Self::BaseBackups(BaseBackups {
            records: repository.list()?,
            repository,
            _lease: lease,
        }))
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
            Self::Copy(copied) => Beginning::Copy {
                directory: copied.copy.directory.clone(),
            },
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
