//! What would be done, as a person or a program reads it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use instance_state::{DrillRecord, PreseedOutcome, PreseedRecord};
use jiff::Timestamp;
use serde::Serialize;
use settings::{Preseed, Settings};

use crate::choice;
use crate::fill::target_of;
use crate::situation::{Known, Situation};
use crate::source::{Answer, Offer, Source};

/// What would be done.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Plan {
    instance: String,
    data_directory: PathBuf,
    /// `leave`, `finish`, `restore`, `beginEmpty` or `refuse`.
    action: &'static str,
    target: String,
    sources: Vec<Asked>,
    /// The one that would be restored from first.
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    /// How long it takes, as far as anything like it has been measured.
    #[serde(flatten)]
    estimate: Option<Estimate>,
}

/// How long a restore takes, by one that was measured.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Estimate {
    /// In seconds, for as much data, without the fetch.
    estimated_seconds: f64,
    /// What was measured: `drill` or `preseed`.
    estimated_by: &'static str,
}

/// What a source said.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Asked {
    source: String,
    /// `has`, `hasToCome`, `nothing` or `cannotSay`.
    answer: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    #[serde(flatten)]
    offer: Option<Offered>,
    #[serde(flatten)]
    replica: Option<ToCome>,
}

/// What has to be received before it is known how far it reaches.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ToCome {
    host: String,
    snapshot: String,
    snapshot_time: Timestamp,
    receive_bytes: u64,
}

/// What it has.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Offered {
    starting_point: String,
    starting_time: Timestamp,
    timeline: String,
    lsn: String,
    changes_before: Option<Timestamp>,
    fetch_bytes: u64,
    content_bytes: u64,
}

/// Asks every source, prints what would be done and changes nothing.
///
/// # Errors
///
/// Fails where the data directory must not be filled at all, with the reason.
pub fn show(
    settings: &Settings,
    preseed: &Preseed,
    sources: &[Source],
    as_json: bool,
) -> Result<()> {
    let situation = Situation::look(settings)?;
    let known = Known::of(settings)?;
    let target = target_of(preseed)?;
    let answers: Vec<Answer> = sources
        .iter()
        .map(|source| choice::judged(source.ask(settings, &target, None), &known))
        .collect();
    let first = choice::first(&answers, preseed.choose);
    let action = match situation {
        Situation::Cluster => "leave",
        Situation::Unfinished | Situation::Swapping(_) => "finish",
        Situation::Empty if first.is_some() => "restore",
        Situation::Empty => {
            let allow = preseed.allow_empty_start_without_proof;
            if choice::without_restore(&answers, allow).allows_empty_cluster() {
                "beginEmpty"
            } else {
                "refuse"
            }
        }
    };
    let offer = first.and_then(|index| match answers.get(index) {
        Some(Answer::Has(offer)) => Some(offer),
        _ => None,
    });
    let plan = Plan {
        instance: settings.instance.clone(),
        data_directory: settings.postgresql.data_directory.clone(),
        action,
        target: target.to_string(),
        from: first.map(|index| sources[index].to_string()),
        estimate: offer.and_then(|offer| estimate(&settings.state_directory(), offer)),
        sources: sources
            .iter()
            .zip(&answers)
            .map(|(source, answer)| asked(source, answer))
            .collect(),
    };
    if as_json {
        tool::print(&(serde_json::to_string_pretty(&plan)? + "\n"))
    } else {
        tool::print(&text(&plan)?)
    }
}

fn asked(source: &Source, answer: &Answer) -> Asked {
    let mut asked = Asked {
        source: source.to_string(),
        answer: "nothing",
        why: None,
        hint: None,
        offer: None,
        replica: None,
    };
    match answer {
        Answer::Nothing => {}
        Answer::HasToCome(replica) => {
            asked.answer = "hasToCome";
            asked.replica = Some(ToCome {
                host: replica.host.clone(),
                snapshot: replica.snapshot.clone(),
                snapshot_time: replica.taken,
                receive_bytes: replica.bytes,
            });
        }
        Answer::CannotSay { why, hint } => {
            asked.answer = "cannotSay";
            asked.why = Some(why.clone());
            asked.hint.clone_from(hint);
        }
        Answer::Has(offer) => {
            asked.answer = "has";
            asked.offer = Some(Offered {
                starting_point: offer.starting_point.clone(),
                starting_time: offer.starting_time,
                timeline: offer.reach.timeline.to_string(),
                lsn: offer.reach.lsn.to_string(),
                changes_before: offer.changes_before,
                fetch_bytes: offer.fetch_bytes,
                content_bytes: offer.content_bytes,
            });
        }
    }
    asked
}

/// By what the last restore drill took for each byte, or the last preseed. A new machine has neither.
#[expect(
    clippy::cast_precision_loss,
    reason = "an estimate of seconds needs no more than 53 bits"
)]
fn estimate(state: &Path, offer: &Offer) -> Option<Estimate> {
    let (seconds, bytes, estimated_by) = by_drill(state).or_else(|| by_preseed(state))?;
    Some(Estimate {
        estimated_seconds: seconds * offer.content_bytes as f64 / bytes as f64,
        estimated_by,
    })
}

/// What the last drill took, in seconds, for so many bytes.
fn by_drill(state: &Path) -> Option<(f64, u64, &'static str)> {
    let findings = DrillRecord::read(state).ok()??.findings;
    let bytes = findings.restored_bytes.filter(|bytes| *bytes > 0)?;
    Some((findings.recovery_seconds?, bytes, "drill"))
}

/// What the last preseed took, in seconds, for so many bytes. The fetch is part of that.
fn by_preseed(state: &Path) -> Option<(f64, u64, &'static str)> {
    let record = PreseedRecord::read(state).ok()??;
    let restored = record.restored.filter(|restored| {
        record.outcome == PreseedOutcome::Restored && restored.content_bytes > 0
    })?;
    let took = record.at.duration_since(record.begun_at).as_secs_f64();
    Some((took, restored.content_bytes, "preseed"))
}

fn text(plan: &Plan) -> Result<String> {
    let mut text = String::new();
    let data = plan.data_directory.display();
    for asked in &plan.sources {
        if let Some(replica) = &asked.replica {
            writeln!(
                text,
                "{:<18} {} of {} on host \"{}\", {} MiB to receive with all snapshots; how far it reaches is known then",
                asked.source,
                replica.snapshot,
                replica.snapshot_time,
                replica.host,
                replica.receive_bytes.div_ceil(1 << 20)
            )?;
            continue;
        }
        match (&asked.offer, &asked.why) {
            (Some(offer), _) => {
                writeln!(
                    text,
                    "{:<18} {} of {}, WAL up to {} on timeline {}{}",
                    asked.source,
                    offer.starting_point,
                    offer.starting_time,
                    offer.lsn,
                    offer.timeline,
                    offer
                        .changes_before
                        .map_or_else(String::new, |time| format!(", archived by {time}")),
                )?;
                writeln!(
                    text,
                    "{:<18} {} MiB to fetch, {} MiB to restore",
                    "",
                    offer.fetch_bytes.div_ceil(1 << 20),
                    offer.content_bytes.div_ceil(1 << 20)
                )?;
            }
            (None, Some(why)) => {
                writeln!(text, "{:<18} cannot say: {why}", asked.source)?;
                if let Some(hint) = &asked.hint {
                    writeln!(text, "{:<18} hint: {hint}", "")?;
                }
            }
            (None, None) => writeln!(
                text,
                "{:<18} has shown that it holds nothing of this instance",
                asked.source
            )?,
        }
    }
    let action = match plan.action {
        "leave" => format!("leave {data} alone: it holds a cluster"),
        "finish" => format!("finish the restore into {data} that was interrupted"),
        "restore" => format!(
            "restore {} into {data}, up to {}",
            plan.from.as_deref().unwrap_or_default(),
            plan.target
        ),
        "beginEmpty" => format!("let the server begin with an empty cluster in {data}"),
        _ => "keep the server from starting, until a source can be restored or all have shown that they hold nothing".to_owned(),
    };
    writeln!(text, "would {action}")?;
    if plan.action == "restore" {
        match &plan.estimate {
            Some(estimate) => writeln!(
                text,
                "it takes about {:.0} s, by the last {}",
                estimate.estimated_seconds.ceil(),
                if estimate.estimated_by == "drill" {
                    "restore drill, and the fetch"
                } else {
                    "preseed of this machine"
                }
            )?,
            None => writeln!(
                text,
                "how long that takes has not been measured on this machine: a restore drill does so"
            )?,
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use instance_state::{PreseedStep, Reach, Restored};
    use wal::{Lsn, SystemIdentifier, TimelineId};

    use super::*;

    #[test]
    fn how_long_it_takes_is_told_by_what_was_measured_and_by_nothing_else() {
        let state = tempfile::tempdir().unwrap();
        let reach = Reach {
            timeline: TimelineId::FIRST,
            lsn: Lsn(5),
        };
        let offer = Offer {
            system_identifier: SystemIdentifier(7),
            starting_point: "base backup 20261121-000000".into(),
            starting_time: Timestamp::UNIX_EPOCH,
            reach,
            changes_before: None,
            fetch_bytes: 0,
            content_bytes: 3000,
            from_own_archive: false,
            origin: "base-backup".into(),
        };
        assert_eq!(estimate(state.path(), &offer), None);
        let mut record = PreseedRecord::new(
            PreseedOutcome::Failed,
            PreseedStep::Done,
            Timestamp::UNIX_EPOCH,
        );
        record.at = Timestamp::from_second(20).unwrap();
        record.restored = Some(Restored {
            system_identifier: SystemIdentifier(7),
            reach,
            starting_point: "base backup 20261120-000000".into(),
            content_bytes: 1000,
            as_standby: false,
        });
        record.write(state.path()).unwrap();
        // What has failed took no time that says anything.
        assert_eq!(estimate(state.path(), &offer), None);
        record.outcome = PreseedOutcome::Restored;
        record.write(state.path()).unwrap();
        assert_eq!(
            estimate(state.path(), &offer),
            Some(Estimate {
                estimated_seconds: 60.0,
                estimated_by: "preseed",
            })
        );
    }
}
