//! What has happened to an instance over a year: how its backups grew, and how its drills went.
//!
//! It is for people who look back, and judged by nobody. Metrics say the same to those who keep them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use instance_state::DrillRecord;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::seen::Instance;

/// Name of the file in the state directory.
const NAME: &str = "chronicle.json";
/// How long it goes back.
const LONGEST: SignedDuration = SignedDuration::from_hours(400 * 24);
/// Older entries than this are a day apart.
const DENSE: SignedDuration = SignedDuration::from_hours(48);
/// How far apart entries are at least.
const SPACING: SignedDuration = SignedDuration::from_hours(1);
/// A little less than a day, so that entries made at one hour of each day are kept.
const SPARSE_SPACING: SignedDuration = SignedDuration::from_hours(23);

/// What happened, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Chronicle {
    /// What backups took, by time.
    pub space: Vec<Space>,
    /// Restore drills.
    pub drills: Vec<Drill>,
}

/// What backups took at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Space {
    /// When.
    pub at: Timestamp,
    /// The WAL archive of the cluster, in bytes as they are stored.
    pub archive_bytes: Option<u64>,
    /// All base backups, in bytes as they are stored.
    pub base_backup_bytes: Option<u64>,
}

/// One restore drill.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Drill {
    /// When it had ended.
    pub finished_at: Timestamp,
    /// The word for why it failed, if it did.
    pub failure: Option<String>,
    /// Time until the copy answered, in seconds, if it did.
    pub recovery_seconds: Option<f64>,
}

impl Chronicle {
    fn path(state_directory: &Path) -> PathBuf {
        state_directory.join(NAME)
    }

    /// Reads it. What is absent or damaged is empty.
    ///
    /// # Errors
    ///
    /// Fails when it is there and cannot be read.
    pub fn read(state_directory: &Path) -> Result<Self> {
        let path = Self::path(state_directory);
        match fs::read(&path) {
            Ok(text) => Ok(serde_json::from_slice(&text).unwrap_or_default()),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(err) => Err(err).with_context(|| format!("read \"{}\"", path.display())),
        }
    }

    /// Adds what is seen now to what is in the file, if that is news.
    ///
    /// # Errors
    ///
    /// Fails when the file cannot be read or written; it stays as it was then.
    pub(crate) fn update(state_directory: &Path, seen: &Instance) -> Result<()> {
        let mut chronicle = Self::read(state_directory)?;
        let before = chronicle.clone();
        let archive_bytes = seen
            .archive
            .as_ref()
            .ok()
            .map(|archive| archive.stored_bytes);
        let base_backup_bytes = match &seen.backups {
            Some(Ok(backups)) => Some(backups.stored_bytes),
            Some(Err(_)) | None => None,
        };
        chronicle.add_space(Space {
            at: Timestamp::now(),
            archive_bytes,
            base_backup_bytes,
        });
        if let Ok(Some(record)) = DrillRecord::read(state_directory) {
            chronicle.add_drill(&record);
        }
        if chronicle == before {
            return Ok(());
        }
        durable_file::ensure_directory(state_directory)?;
        let text = serde_json::to_vec(&chronicle).context("write the chronicle")?;
        durable_file::replace(&Self::path(state_directory), &text)
    }

    fn add_space(&mut self, space: Space) {
        let now = space.at;
        // After the clock was set back there are entries of the future.
        self.space.retain(|other| other.at <= now);
        if self
            .space
            .last()
            .is_some_and(|last| now.duration_since(last.at) < SPACING)
        {
            return;
        }
        let mut last_kept: Option<Timestamp> = None;
        self.space.retain(|other| {
            let age = now.duration_since(other.at);
            let keep = age <= LONGEST
                && (age <= DENSE
                    || last_kept.is_none_or(|at| other.at.duration_since(at) >= SPARSE_SPACING));
            if keep {
                last_kept = Some(other.at);
            }
            keep
        });
        self.space.push(space);
    }

    fn add_drill(&mut self, record: &DrillRecord) {
        let finished_at = record.finished_at;
        if self
            .drills
            .iter()
            .any(|drill| drill.finished_at == finished_at)
        {
            return;
        }
        self.drills.push(Drill {
            finished_at,
            failure: record
                .failure
                .as_ref()
                .map(|failure| failure.reason.label().to_owned()),
            recovery_seconds: record.findings.recovery_seconds,
        });
        self.drills
            .retain(|drill| finished_at.duration_since(drill.finished_at) <= LONGEST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hours: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_hours(hours)
    }

    fn space(hours: i64) -> Space {
        Space {
            at: at(hours),
            archive_bytes: Some(hours.unsigned_abs()),
            base_backup_bytes: None,
        }
    }

    #[test]
    fn two_years_of_checks_become_one_of_days_and_two_days_of_hours() {
        let mut chronicle = Chronicle::default();
        for hour in 0..2 * 365 * 24 {
            chronicle.add_space(space(hour));
            // Within the hour there is no news.
            chronicle.add_space(Space {
                at: at(hour) + SignedDuration::from_mins(30),
                ..space(hour)
            });
        }
        let times: Vec<Timestamp> = chronicle.space.iter().map(|space| space.at).collect();
        assert!((440..480).contains(&times.len()), "{}", times.len());
        assert!(times.is_sorted());
        let last = *times.last().unwrap();
        assert_eq!(last, at(2 * 365 * 24 - 1));
        assert!(last.duration_since(times[0]) <= LONGEST);
        let steps: Vec<i64> = times
            .windows(2)
            .map(|pair| pair[1].duration_since(pair[0]).as_hours())
            .collect();
        assert!(
            steps[..400].iter().all(|hours| (23..=25).contains(hours)),
            "{steps:?}"
        );
        assert!(
            steps[steps.len() - 40..].iter().all(|hours| *hours == 1),
            "{steps:?}"
        );
    }

    #[test]
    fn h10_entries_of_the_future_are_forgotten() {
        let mut chronicle = Chronicle::default();
        chronicle.add_space(space(100));
        chronicle.add_space(space(10));
        assert_eq!(chronicle.space, [space(10)]);
    }

    #[test]
    fn a_drill_is_there_once() {
        let mut chronicle = Chronicle::default();
        let mut record: DrillRecord = serde_json::from_value(serde_json::json!({
            "format": DrillRecord::FORMAT,
            "startedAt": at(0), "finishedAt": at(1), "source": "local",
            "failure": { "reason": "noSpace", "message": "full", "hint": null },
            "findings": { "notes": [], "recoverySeconds": 1.5 }, "lastSuccessAt": null,
        }))
        .unwrap();
        chronicle.add_drill(&record);
        chronicle.add_drill(&record);
        record.finished_at = at(2);
        record.failure = None;
        chronicle.add_drill(&record);
        assert_eq!(
            chronicle.drills,
            [
                Drill {
                    finished_at: at(1),
                    failure: Some("noSpace".into()),
                    recovery_seconds: Some(1.5)
                },
                Drill {
                    finished_at: at(2),
                    failure: None,
                    recovery_seconds: Some(1.5)
                },
            ]
        );
    }

    #[test]
    fn a_damaged_file_is_empty() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(Chronicle::read(state.path()).unwrap(), Chronicle::default());
        fs::write(Chronicle::path(state.path()), "{").unwrap();
        assert_eq!(Chronicle::read(state.path()).unwrap(), Chronicle::default());
    }
}
