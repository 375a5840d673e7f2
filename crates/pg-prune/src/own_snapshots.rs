//! `--snapshots`: destroys snapshots that `pg-base-backup --method snapshot` took, and no others.

use std::fmt::Write as _;

use anyhow::Result;
use serde::Serialize;
use settings::Settings;
use snapshot_keeping::{Fate, Own};
use tool::{Hinted, Level};
use zfs::Zfs;

/// What becomes of one snapshot, for a person or a program.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown<'a> {
    name: &'a str,
    fate: &'static str,
    reason: String,
}

/// Destroys what has expired, or shows what would be destroyed.
///
/// # Errors
///
/// Fails when the snapshots cannot be listed, and when one could not be destroyed. The others are destroyed
/// all the same.
pub fn prune(settings: &Settings, plan: bool, json: bool) -> Result<()> {
    let (declared, keep) = snapshot_keeping::declared(settings)?;
    let _lock = if plan {
        None
    } else {
        Some(snapshot_keeping::lock(settings)?)
    };
    let zfs = Zfs::find()?;
    let own = snapshot_keeping::list(&zfs, &declared.dataset, &settings.instance)?;
    let fates = snapshot_keeping::fates(&own, keep);
    let decided: Vec<(&Own, Fate)> = own.iter().zip(fates).collect();
    show(&decided, keep, json)?;
    if plan {
        return Ok(());
    }
    let mut destroyed = 0;
    let mut failed = Vec::new();
    for (own, _) in decided.iter().filter(|(own, fate)| goes(own, *fate)) {
        match snapshot_keeping::destroy(&zfs, own) {
            Ok(()) => destroyed += 1,
            Err(err) => {
                tool::report(
                    &format!("could not destroy snapshot \"{}\"", own.name),
                    &err,
                );
                failed.push(own.name.as_str());
            }
        }
    }
    tool::log(
        Level::Info,
        format_args!(
            "destroyed {destroyed} snapshots of our own, {} are left",
            own.len() - destroyed
        ),
    );
    if !failed.is_empty() {
        return Err(Hinted::new(
            format!("snapshots could not be destroyed: {}", failed.join(", ")),
            snapshot_keeping::who_may(
                &settings.instance,
                &declared.dataset,
                &settings.postgresql.data_directory,
            ),
        )
        .into());
    }
    Ok(())
}

/// Whether a snapshot is destroyed. Whoever holds one is reading it, or wants it kept.
fn goes(own: &Own, fate: Fate) -> bool {
    fate != Fate::Kept && own.held.is_none()
}

fn show(decided: &[(&Own, Fate)], keep: u32, json: bool) -> Result<()> {
    let shown: Vec<Shown> = decided
        .iter()
        .map(|(own, fate)| {
            let reason = match fate {
                Fate::Kept if keep == 1 => "the newest".to_owned(),
                Fate::Kept => format!("one of the newest {keep}"),
                Fate::Expired if keep == 1 => "there is a newer one".to_owned(),
                Fate::Expired => format!("there are {keep} newer ones"),
                Fate::Unfinished => "it was never found whole".to_owned(),
            };
            match &own.held {
                Some(held) if *fate != Fate::Kept => Shown {
                    name: &own.name,
                    fate: "held",
                    reason: format!("{reason}, and it is held; `zfs holds {held}` shows by whom"),
                },
                _ => Shown {
                    name: &own.name,
                    fate: if *fate == Fate::Kept {
                        "keep"
                    } else {
                        "remove"
                    },
                    reason,
                },
            }
        })
        .collect();
    if json {
        return tool::print(&(serde_json::to_string_pretty(&shown)? + "\n"));
    }
    let mut text = String::new();
    for Shown { name, fate, reason } in shown {
        writeln!(text, "{fate:<7} snapshot {name}: {reason}")?;
    }
    tool::print(&text)
}
