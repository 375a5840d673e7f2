//! Asking what the replica of a dataset holds, on another pool of this machine or on another machine over ssh.
//!
//! The answer is the target's own. What the source has sent, and when it believes it did, says nothing about what
//! is there: a target that was rolled back, or made anew, looks the same from here.
//!
//! Nothing here changes a dataset.

mod ssh;

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use settings::SshHost;
use zfs::{SentSnapshot, list_snapshots, parse_snapshots, pool_of};

pub use ssh::{NO_CONNECTION, Ssh};

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
    pub fn snapshots(&self) -> Result<Option<Vec<SentSnapshot>>> {
        let dataset = &self.dataset;
        let listed = self.ask(&list_snapshots(dataset));
        let err = match listed {
            Ok(listed) => return parse_snapshots(&listed).map(Some),
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
        let (zfs, ssh) = match &self.place {
            Place::Here(zfs) => (zfs.command().args(arguments), None),
            Place::There(ssh) => (ssh.command("zfs", arguments), Some(ssh)),
        };
        let answered = zfs
            .run_with_input("", ANSWER_WITHIN)
            .with_context(|| format!("ask for the replica \"{}\"", self.dataset))?;
        let Some(status) = answered.status else {
            bail!(
                "\"{}\" has not answered for {} seconds",
                self.dataset,
                ANSWER_WITHIN.as_secs()
            );
        };
        let last = answered.said.trim_end().lines().last().unwrap_or_default();
        match ssh {
            _ if status.success() => Ok(answered.said),
            Some(ssh) if status.code() == Some(NO_CONNECTION) => Err(ssh.unreachable(last)),
            _ => bail!("zfs {}: {last}", command::how_it_ended(status)),
        }
    }
}
