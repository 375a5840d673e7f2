//! What earlier checks saw, as far as this one needs it.
//!
//! Some things show only over time: how fast a disk fills, how many deadlocks there were in the last
//! hour, and since when a change waits to be archived. It is evidence, not truth: without it these are
//! not known, and the next check begins anew.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use wal::{Lsn, SystemIdentifier, TimelineId};

use crate::seen::{Free, Instance, Live, Server};

/// Name of the file in the state directory.
const NAME: &str = "healthcheck.json";
/// Version of its form.
const FORMAT: u32 = 1;
/// How far back samples go, in seconds.
const LONGEST: f64 = 25.0 * HOUR;
/// Older samples than this are kept further apart.
const DENSE: f64 = HOUR;
/// How far apart these are at least.
const SPARSE_SPACING: f64 = 600.0;
/// How long a file system has to be watched before its growth means something: a day has its base
/// backup and its prune.
const GROWTH_WINDOW: f64 = 20.0 * HOUR;

pub const HOUR: f64 = 3600.0;

/// What earlier checks saw, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct History {
    format: u32,
    samples: Vec<Sample>,
}

/// What one check saw.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Sample {
    at: f64,
    server: Option<ServerSample>,
    free_bytes: Free,
}

/// What a server that takes changes said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ServerSample {
    system_identifier: SystemIdentifier,
    timeline: TimelineId,
    position: Lsn,
    next_transaction: u64,
    deadlocks: i64,
}

impl History {
    /// Where it is in the state directory.
    fn path(state_directory: &Path) -> PathBuf {
        state_directory.join(NAME)
    }

    /// Reads it. What is absent, or of another form, is empty.
    ///
    /// # Errors
    ///
    /// Fails when it is there and cannot be read.
    pub fn read(state_directory: &Path) -> Result<Self> {
        let path = Self::path(state_directory);
        match fs::read(&path) {
            Ok(text) => Ok(serde_json::from_slice(&text)
                .ok()
                .filter(|history: &Self| history.format == FORMAT)
                .unwrap_or_default()),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(err) => Err(err).with_context(|| format!("read \"{}\"", path.display())),
        }
    }

    /// Writes it.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be written; the old one stays then.
    pub fn write(&self, state_directory: &Path) -> Result<()> {
        durable_file::ensure_directory(state_directory)?;
        let text = serde_json::to_vec(self).context("write the history of the checks")?;
        durable_file::replace(&Self::path(state_directory), &text)
    }

    /// Adds what is seen now, and forgets what is old or, after the clock was set back, of the future.
    pub fn add(&mut self, seen: &Instance) {
        self.format = FORMAT;
        let now = seen.now;
        self.samples
            .retain(|sample| sample.at <= now && now - sample.at <= LONGEST);
        let mut last_kept = f64::NEG_INFINITY;
        self.samples.retain(|sample| {
            let keep = now - sample.at <= DENSE || sample.at - last_kept >= SPARSE_SPACING;
            if keep {
                last_kept = sample.at;
            }
            keep
        });
        self.samples.push(Sample {
            at: now,
            server: match &seen.server {
                Server::Up(live) => ServerSample::of(live),
                Server::Mute(_) | Server::NotYet { .. } | Server::Down(_) => None,
            },
            free_bytes: seen
                .storage
                .iter()
                .filter_map(|(place, storage)| {
                    Some((place.clone(), storage.as_ref().ok()?.free_bytes))
                })
                .collect(),
        });
    }

    /// The samples of the server as it is now: of its cluster, on its timeline, up to the newest.
    fn of_server(&self, live: &Live) -> Vec<(f64, &ServerSample)> {
        let samples = self
            .samples
            .iter()
            .filter_map(|sample| Some((sample.at, sample.server.as_ref()?)));
        let mut same: Vec<(f64, &ServerSample)> = Vec::new();
        for (at, sample) in samples {
            let is_same = sample.system_identifier == live.system_identifier
                && sample.timeline == live.timeline;
            let follows = same
                .last()
                .is_none_or(|(_, last)| sample.position >= last.position);
            if !is_same || !follows {
                same.clear();
            }
            if is_same {
                same.push((at, sample));
            }
        }
        same
    }

    /// For how many seconds at least there has been a change that is not in the archive, whose WAL ends
    /// at `archived`. 0 when there is none that is known.
    ///
    /// WAL alone proves no change: a checkpoint writes some too. A change has a transaction id, so it
    /// is known to have come between two checks that saw different next ones.
    pub fn exposure_seconds(&self, live: &Live, now: f64, archived: Lsn) -> f64 {
        self.of_server(live)
            .windows(2)
            .find_map(|pair| {
                let [(_, before), (at, after)] = pair else {
                    return None;
                };
                (after.next_transaction > before.next_transaction && before.position >= archived)
                    .then_some((now - at).max(0.0))
            })
            .unwrap_or(0.0)
    }

    /// How many deadlocks there were in the last hour, as far as that is known.
    pub fn deadlocks_in_an_hour(&self, live: &Live, now: f64) -> i64 {
        let earliest = self
            .of_server(live)
            .into_iter()
            .find(|(at, _)| now - at <= HOUR)
            .map_or(live.deadlocks, |(_, sample)| sample.deadlocks);
        if live.deadlocks < earliest {
            // The counter was reset.
            live.deadlocks
        } else {
            live.deadlocks - earliest
        }
    }

    /// In how many seconds `place` is full if it goes on as in the last day. Nothing when it does not
    /// fill, or has not been watched for long.
    pub fn seconds_to_full(&self, place: &str, free_bytes: u64, now: f64) -> Option<f64> {
        let (at, then) = self.samples.iter().find_map(|sample| {
            let then = *sample.free_bytes.get(place)?;
            Some((sample.at, then))
        })?;
        let span = now - at;
        if span < GROWTH_WINDOW || then <= free_bytes {
            return None;
        }
        #[expect(
            clippy::cast_precision_loss,
            reason = "an estimate; 2^53 bytes are eight petabytes"
        )]
        let (free, written) = (free_bytes as f64, (then - free_bytes) as f64);
        Some(free * span / written)
    }
}

impl ServerSample {
    fn of(live: &Live) -> Option<Self> {
        let (position, next_transaction) = live.position?;
        Some(Self {
            system_identifier: live.system_identifier,
            timeline: live.timeline,
            position,
            next_transaction,
            deadlocks: live.deadlocks,
        })
    }
}

#[cfg(test)]
mod tests;
