//! What would be done, as a person or a program reads it.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::Result;
use instance_state::DrillRecord;
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
    /// How long the last restore drill takes for as much data, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    estimated_seconds: Option<f64>,
}

/// What a source said.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Asked {
    source: String,
    /// `has`, `nothing` or `cannotSay`.
    answer: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    #[serde(flatten)]
    offer: Option<Offered>,
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
    let first = choice::in_order(&answers, preseed.choose).first().copied();
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
        estimated_seconds: offer.and_then(|offer| estimate(settings, offer)),
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
    };
    match answer {
        Answer::Nothing => {}
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

/// By what the last restore drill took for each byte. A machine without one has nothing to go by.
#[expect(
    clippy::cast_precision_loss,
    reason = "an estimate of seconds needs no more than 53 bits"
)]
fn estimate(settings: &Settings, offer: &Offer) -> Option<f64> {
    let record = DrillRecord::read(&settings.state_directory()).ok()??;
    let restored = record.findings.restored_bytes.filter(|bytes| *bytes > 0)?;
    let seconds = record.findings.recovery_seconds?;
    Some(seconds * offer.content_bytes as f64 / restored as f64)
}

fn text(plan: &Plan) -> Result<String> {
    let mut text = String::new();
    let data = plan.data_directory.display();
    for asked in &plan.sources {
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
    if let Some(seconds) = plan.estimated_seconds {
        writeln!(
            text,
            "it takes about {seconds:.0} s, by the last restore drill, and the fetch"
        )?;
    }
    Ok(text)
}
