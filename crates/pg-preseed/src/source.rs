//! What the sources have.

mod base_backups;
mod local;
mod restic;
mod syncoid;

use std::fmt;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use ::base_backups::Record;
use anyhow::{Result, anyhow};
use cluster::Programs;
use command::Command;
use instance_state::Reach;
use jiff::Timestamp;
use restore_plan::{ArchiveContents, Target, TargetPosition, TimelineChoice};
use settings::{Preseed, PreseedSource, Settings};
use tool::Hinted;
use wal::SystemIdentifier;

/// Longest time for one source to answer.
const ANSWER_WITHIN: Duration = Duration::from_mins(10);

/// A declared source, ready to be asked.
pub struct Source {
    /// Its place in the settings, from 1 on.
    number: usize,
    /// Its kind, as in the settings.
    pub kind: &'static str,
    asks: Arc<dyn Ask + Send + Sync>,
    /// What has to be fetched before a restore, if anything has.
    pub fetched_from: Option<settings::ResticRepository>,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.number, self.kind)
    }
}

/// What can be asked what it has.
trait Ask {
    /// Asks, without changing anything.
    ///
    /// # Errors
    ///
    /// An error is no proof of anything.
    fn ask(&self, settings: &Settings, target: &Target) -> Result<Answer>;
}

/// What a source says.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// It has a restore point that reaches the target.
    Has(Offer),
    /// It has a replica, and how far that reaches is known once it was received. Said for a plan only.
    HasToCome(Receivable),
    /// It has proven that it holds nothing of this instance.
    Nothing,
    /// It may hold something, and that cannot be had.
    CannotSay {
        /// Why.
        why: String,
        /// A way out.
        hint: Option<String>,
    },
}

/// A replica that was not received yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receivable {
    /// Its newest snapshot.
    pub snapshot: String,
    /// The other machine.
    pub host: String,
    /// When that snapshot was taken.
    pub taken: Timestamp,
    /// What data and archive take there with all snapshots, in bytes.
    pub bytes: u64,
}

/// A restore point.
#[derive(Clone, Debug, PartialEq)]
pub struct Offer {
    /// The cluster that it is of.
    pub system_identifier: SystemIdentifier,
    /// What a restore would begin with.
    pub starting_point: String,
    /// When that was complete.
    pub starting_time: Timestamp,
    /// How far the WAL reaches.
    pub reach: Reach,
    /// Every change in it was made before this time.
    pub changes_before: Option<Timestamp>,
    /// What has to be brought here first, in bytes.
    pub fetch_bytes: u64,
    /// What is restored, in bytes.
    pub content_bytes: u64,
    /// Whether the WAL comes from the archive of this machine, which reaches further than the source's.
    pub from_own_archive: bool,
    /// What a restore is told to begin with.
    pub origin: String,
}

impl Answer {
    /// What an error means.
    pub fn of_error(err: &anyhow::Error) -> Self {
        Self::CannotSay {
            why: format!("{err:#}"),
            hint: tool::hint_of(err).map(ToOwned::to_owned),
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Has(offer) => write!(
                f,
                "has {} and WAL up to {}",
                offer.starting_point, offer.reach
            ),
            Self::HasToCome(Receivable {
                snapshot,
                host,
                taken,
                ..
            }) => write!(
                f,
                "has {snapshot} of {taken} on host \"{host}\", which has to be received"
            ),
            Self::Nothing => f.write_str("has shown that it holds nothing of this instance"),
            Self::CannotSay { why, .. } => f.write_str(why),
        }
    }
}

/// Prepares to ask the sources that `config` declares, to restore from them or for a plan. One that cannot be prepared
/// cannot say what it has.
pub fn open(config: &Path, settings: &Settings, preseed: &Preseed, is_plan: bool) -> Vec<Source> {
    preseed
        .sources
        .iter()
        .enumerate()
        .map(|(index, declared)| {
            let (kind, asks, fetched_from): (_, Arc<dyn Ask + Send + Sync>, _) = match declared {
                PreseedSource::BaseBackups => {
                    ("baseBackups", Arc::new(base_backups::OnThisMachine), None)
                }
                PreseedSource::Restic(declared) => {
                    let repository = restic::declaration(settings, declared);
                    (
                        "restic",
                        Arc::new(restic::InRepository::open(&repository)),
                        Some(repository),
                    )
                }
                PreseedSource::Local { dataset, .. } => (
                    "local",
                    Arc::new(local::InSnapshots::of(dataset, config, preseed)),
                    None,
                ),
                PreseedSource::Syncoid(declared) => (
                    "syncoid",
                    Arc::new(syncoid::Received::of(declared, config, preseed, is_plan)),
                    None,
                ),
            };
            Source {
                number: index + 1,
                kind,
                asks,
                fetched_from,
            }
        })
        .collect()
}

impl Source {
    /// Asks what it has, and waits for the answer until `deadline`, and not for ever.
    pub fn ask(&self, settings: &Settings, target: &Target, deadline: Option<Instant>) -> Answer {
        let patience = deadline.map_or(ANSWER_WITHIN, |deadline| {
            ANSWER_WITHIN.min(deadline.saturating_duration_since(Instant::now()))
        });
        let (send, receive) = mpsc::channel();
        let (asks, settings, target) = (self.asks.clone(), settings.clone(), target.clone());
        // A disk or a network that hangs is left behind with the thread that hangs on it.
        thread::spawn(move || {
            let answer = asks
                .ask(&settings, &target)
                .unwrap_or_else(|err| Answer::of_error(&err));
            let _ = send.send(answer);
        });
        receive.recv_timeout(patience).unwrap_or_else(|_| {
            Answer::of_error(&anyhow!("no answer within {} seconds", patience.as_secs()))
        })
    }
}

/// The restore point for `target` that base backups with these `records` and the WAL in `contents` are.
///
/// # Errors
///
/// Fails when the target cannot be reached, with the reason and a way out.
fn offer(
    settings: &Settings,
    records: &[Record],
    contents: &ArchiveContents,
    target: &Target,
) -> Result<Offer> {
    let points = verification::starting_points(records);
    // A transaction or a restore point is found by reading the WAL, which the restore does.
    let aim = match target {
        Target::Xid(_) | Target::Name(_) => &Target::Latest,
        known => known,
    };
    let choice = restore_plan::choose(
        &points,
        contents,
        aim,
        TimelineChoice::Latest,
        &TargetPosition::default(),
    )
    .map_err(|refusal| {
        anyhow::Error::from(Hinted::new(
            format!("it holds base backups, and none can be used: {refusal}"),
            refusal.hint(),
        ))
    })?;
    let record = records
        .iter()
        .find(|record| record.name == choice.point)
        .ok_or_else(|| anyhow!("base backup \"{}\" is gone", choice.point))?;
    let programs = Programs::in_directory(&settings.postgresql.bin_directory).major()?;
    if record.postgres_major != programs {
        return Err(Hinted::new(
            format!(
                "its base backup \"{}\" is of PostgreSQL {}, the programs are of PostgreSQL {programs}",
                record.name, record.postgres_major
            ),
            format!("declare version {} again, and upgrade the cluster once it is back", record.postgres_major),
        )
        .into());
    }
    let timeline = choice.history.timeline;
    let reach = restore_plan::windows(&points, contents)
        .into_iter()
        .find(|window| window.point == choice.point && window.timeline == timeline)
        .map_or(record.stop_lsn, |window| window.to);
    let content_bytes = record
        .chain(records)?
        .iter()
        .map(|link| link.content_bytes)
        .sum();
    Ok(Offer {
        system_identifier: record.system_identifier,
        starting_point: format!("base backup {}", record.name),
        starting_time: record.stopped_at,
        reach: Reach {
            timeline,
            lsn: reach,
        },
        changes_before: None,
        fetch_bytes: 0,
        content_bytes,
        from_own_archive: false,
        origin: "base-backup".to_owned(),
    })
}

/// What went wrong in a run of one of our programs, by the `lines` that it said.
pub fn complaint(command: &Command, status: ExitStatus, lines: &[String]) -> anyhow::Error {
    let last = |prefix: &str| lines.iter().rev().find(|line| line.starts_with(prefix));
    let what = last("could not ").map_or_else(
        || format!("\"{}\" {}", command.line(), command::how_it_ended(status)),
        Clone::clone,
    );
    match last("hint: ").and_then(|line| line.strip_prefix("hint: ")) {
        Some(hint) => Hinted::new(what, hint).into(),
        None => anyhow!(what),
    }
}
