//! Asking what the replica of a dataset holds, on another pool of this machine or on another machine over ssh.
//!
//! The answer is the target's own. What the source has sent, and when it believes it did, says nothing about what
//! is there: a target that was rolled back, or made anew, looks the same from here.
//!
//! Nothing here changes a dataset.

mod ssh;

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use jiff::Timestamp;
use settings::SshHost;
use zfs::pool_of;

pub use ssh::Ssh;

/// Longest time for one question. A pool that is suspended does not answer at all.
const ANSWER_WITHIN: Duration = Duration::from_mins(2);

/// The replica of a dataset.
#[derive(Debug)]
pub struct Replica {
    place: Place,
    dataset: String,
}

/// Where a replica is.
#[derive(Debug)]
enum Place {
    /// On this machine.
    Here(zfs::Zfs),
    /// On another one.
    There(Ssh),
}

/// A snapshot of a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Its name, without that of the dataset.
    pub name: String,
    /// What it has in common with the snapshot that it was sent from, and with nothing else.
    pub guid: u64,
    /// When it was taken, which is before it was sent.
    pub created_at: Timestamp,
    /// What it refers to, in bytes as they are stored there.
    pub referenced_bytes: u64,
}

impl Replica {
    /// The replica `dataset`, on `host` or, without one, on this machine.
    ///
    /// # Errors
    ///
    /// Fails when `ssh`, or `zfs` of this machine, is not installed.
    pub fn new(host: Option<&SshHost>, dataset: &str) -> Result<Self> {
        let place = match host {
            Some(host) => Place::There(Ssh::to(host)?),
            None => Place::Here(zfs::Zfs::find()?),
        };
        Ok(Self {
            place,
            dataset: dataset.to_owned(),
        })
    }

    /// Its snapshots, the oldest first; nothing if there is no such dataset.
    ///
    /// # Errors
    ///
    /// Fails when the machine or its pool cannot be asked. That proves nothing.
    pub fn snapshots(&self) -> Result<Option<Vec<Snapshot>>> {
        let dataset = &self.dataset;
        let listed = self.ask(&[
            "list",
            "-Hp",
            "-d",
            "1",
            "-t",
            "snapshot",
            "-o",
            "name,guid,creation,refer",
            "-s",
            "createtxg",
            dataset,
        ]);
        let err = match listed {
            Ok(listed) => return parse_snapshots(dataset, &listed).map(Some),
            Err(err) => err,
        };
        // A dataset is absent when a listing of its pool that succeeded does not have it.
        let pool = pool_of(dataset);
        match self.ask(&[
            "list",
            "-H",
            "-r",
            "-t",
            "filesystem,volume",
            "-o",
            "name",
            pool,
        ]) {
            Ok(names) if !names.lines().any(|name| name == dataset) => Ok(None),
            _ => Err(err),
        }
    }

    /// What `zfs` with these arguments prints.
    fn ask(&self, arguments: &[&str]) -> Result<String> {
        let command = match &self.place {
            Place::Here(zfs) => zfs.command().args(arguments),
            Place::There(ssh) => ssh.command("zfs", arguments),
        };
        let answered = command
            .run_with_input("", ANSWER_WITHIN)
            .with_context(|| format!("ask for the replica \"{}\"", self.dataset))?;
        let last = answered.said.trim_end().lines().last().unwrap_or_default();
        match (&self.place, answered.status) {
            (_, Some(status)) if status.success() => Ok(answered.said),
            (Place::There(ssh), Some(status)) => Err(ssh.failure(status, last)),
            (Place::Here(_), Some(status)) => {
                bail!("zfs {}: {last}", command::how_it_ended(status))
            }
            (_, None) => bail!(
                "\"{}\" has not answered for {} seconds",
                self.dataset,
                ANSWER_WITHIN.as_secs()
            ),
        }
    }
}

/// Reads what `zfs list -Hp -o name,guid,creation,refer` prints for snapshots of `dataset`.
fn parse_snapshots(dataset: &str, text: &str) -> Result<Vec<Snapshot>> {
    text.lines()
        // What ssh or the login there has to say comes after it, and has no tabs.
        .filter(|line| line.contains('\t'))
        .map(|line| {
            let parse = || -> Result<Snapshot> {
                let fields: Vec<&str> = line.split('\t').collect();
                let [name, guid, creation, refer] = fields[..] else {
                    bail!("it has {} fields", fields.len());
                };
                let (of, name) = name.split_once('@').context("it names no snapshot")?;
                if of != dataset {
                    bail!("it is of \"{of}\"");
                }
                Ok(Snapshot {
                    name: name.to_owned(),
                    guid: guid.parse()?,
                    created_at: Timestamp::from_second(creation.parse()?)?,
                    referenced_bytes: refer.parse()?,
                })
            };
            parse().map_err(|err| anyhow!("\"{line}\" is no line of zfs list: {err}"))
        })
        .collect()
}
