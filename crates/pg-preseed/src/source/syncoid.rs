//! The replica of this instance on another machine, once it was received.
//!
//! How far it reaches is known only then: another machine's `zfs` can say when a snapshot was taken, and not which
//! cluster is in it. So it is received before the sources are asked ([`crate::receive`]), and what is asked here is
//! what came of that.

use std::path::{Path, PathBuf};

use anyhow::Result;
use cluster_copy::snapshots;
use jiff::Timestamp;
use restore_plan::Target;
use settings::{Preseed, Settings, SyncoidSource};
use tool::Hinted;

use super::local::InSnapshots;
use super::{Answer, Ask, Receivable};
use crate::received::{Record, staging_of};
use crate::replica::{Remote, Replicas};

/// A declared replica.
pub struct Received {
    declared: SyncoidSource,
    in_snapshots: InSnapshots,
    /// What root, who may read the key, was told for a plan. Nobody else is asked then.
    told: Option<Result<Replicas>>,
    is_plan: bool,
}

impl Received {
    /// The replica that `declared` names, for a restore to where `preseed` says, or for its plan alone.
    pub fn of(declared: &SyncoidSource, config: &Path, preseed: &Preseed, is_plan: bool) -> Self {
        let is_root = nix::unistd::geteuid().is_root();
        Self {
            declared: declared.clone(),
            in_snapshots: InSnapshots::of(&declared.target_dataset, config, preseed),
            told: (is_plan && is_root).then(|| look(declared)),
            is_plan,
        }
    }
}

fn look(declared: &SyncoidSource) -> Result<Replicas> {
    Remote::open(declared)?.look()
}

impl Ask for Received {
    fn ask(&self, settings: &Settings, target: &Target) -> Result<Answer> {
        let record = Record::read(settings)?;
        if let Some(snapshot) = record.as_ref().and_then(|record| record.snapshot.as_ref())
            && shown_as(settings, snapshot).is_some()
        {
            return self.in_snapshots.ask(settings, target);
        }
        let replicas = match &self.told {
            Some(Ok(replicas)) => replicas.clone(),
            Some(Err(err)) => return Ok(Answer::of_error(err)),
            None => look(&self.declared)?,
        };
        if replicas.hold_nothing() {
            return Ok(Answer::Nothing);
        }
        let newest = replicas.newest()?;
        if self.is_plan {
            let of = std::iter::once(&replicas.data).chain(&replicas.archive);
            return Ok(Answer::HasToCome(Receivable {
                snapshot: format!("{}@{}", replicas.data.dataset, newest.name),
                host: self.declared.ssh.host.clone(),
                taken: Timestamp::from_second(newest.created)?,
                bytes: of.map(|replica| replica.used).sum(),
            }));
        }
        Err(self.why_not_here(settings, record).into())
    }
}

impl Received {
    /// Why there is nothing here of what the other machine has.
    fn why_not_here(&self, settings: &Settings, record: Option<Record>) -> Hinted {
        let host = &self.declared.ssh.host;
        let unit = |part: &str| format!("journalctl -u postgresql-{part}-{}", settings.instance);
        match record {
            Some(Record {
                why: Some(why),
                hint,
                ..
            }) => Hinted::new(
                format!("host \"{host}\" has a replica, and it could not be received: {why}"),
                hint.unwrap_or_else(|| format!("`{}` shows more", unit("receive"))),
            ),
            Some(Record {
                snapshot: Some(_), ..
            }) => Hinted::new(
                format!(
                    "the replica of host \"{host}\" was received into \"{}\", and did not get the declared name",
                    staging_of(&self.declared.target_dataset)
                ),
                format!("`{}` says why", unit("take-over")),
            ),
            _ => Hinted::new(
                format!("host \"{host}\" has a replica, and it was not received"),
                format!("`{}` says why", unit("receive")),
            ),
        }
    }
}

/// Where the data directory's file system shows its snapshot `name`, if it has that.
fn shown_as(settings: &Settings, name: &str) -> Option<PathBuf> {
    let (shown, _) = snapshots::place_of(&settings.postgresql.data_directory)?;
    Some(shown.join(name)).filter(|path| path.is_dir())
}
