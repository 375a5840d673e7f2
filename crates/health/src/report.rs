//! Saying what was found: to a person, to a program, and to Prometheus.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use serde::Serialize;
use settings::Settings;
use textfile::{File, Writer, table};

use crate::finding::{Finding, Severity, Verdict};
use crate::judge::Measured;
use crate::seen::{Instance, Live, Server};

/// How long a check may take, and how late its timer may be.
const OVERDUE_SECONDS: u32 = 300;

/// One line for everything, then one for each finding with what to do about it.
pub fn text(settings: &Settings, verdict: &Verdict) -> String {
    let instance = &settings.instance;
    let number = verdict.checked.len();
    let mut text = if verdict.findings.is_empty() {
        format!("ok: instance {instance}: {number} checks, nothing is wrong\n")
    } else {
        let found = verdict.findings.len();
        let severity = verdict.severity();
        format!("{severity}: instance {instance}: {number} checks, {found} findings\n")
    };
    for finding in &verdict.findings {
        let Finding {
            check,
            severity,
            what,
            hint,
            commands,
        } = finding;
        let _ = writeln!(text, "{severity}: {}: {what}; hint: {hint}", check.word());
        for command in commands {
            let _ = writeln!(text, "    {command}");
        }
    }
    text
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report<'a> {
    instance: &'a str,
    checked_at: Option<Timestamp>,
    severity: Severity,
    status: u8,
    /// Every check that was made, and what it came to.
    checks: BTreeMap<&'static str, Severity>,
    findings: &'a [Finding],
    /// Age of the oldest known change that is not in the archive.
    exposure_seconds: Option<f64>,
    missing_files: Option<u64>,
    /// The same for each repository off-site.
    offsite_exposure_seconds: BTreeMap<&'a str, f64>,
    /// Age of the newest snapshot of each replica.
    replica_age_seconds: BTreeMap<&'a str, f64>,
    window_start: Option<Timestamp>,
}

/// The same as JSON.
pub fn json(
    settings: &Settings,
    seen: &Instance,
    verdict: &Verdict,
    measured: &Measured,
) -> Result<String> {
    let report = Report {
        instance: &settings.instance,
        checked_at: moment(seen.now),
        severity: verdict.severity(),
        status: verdict.severity().status(),
        checks: verdict
            .checked
            .iter()
            .map(|check| (check.word(), verdict.of(*check)))
            .collect(),
        findings: &verdict.findings,
        exposure_seconds: measured.exposure_seconds,
        missing_files: measured.missing_files,
        offsite_exposure_seconds: measured
            .offsite_exposure_seconds
            .iter()
            .map(|(repository, seconds)| (repository.as_str(), *seconds))
            .collect(),
        replica_age_seconds: measured
            .replica_age_seconds
            .iter()
            .map(|(content, seconds)| (content.name(), *seconds))
            .collect(),
        window_start: measured.window_start.and_then(moment),
    };
    let text = serde_json::to_string_pretty(&report).context("write what was found as JSON")?;
    Ok(text + "\n")
}

/// The moment so many seconds after 1970, to a millisecond.
#[must_use]
pub fn moment(seconds: f64) -> Option<Timestamp> {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "no clock is 290 million years from 1970"
    )]
    let milliseconds = (seconds * 1000.0) as i64;
    Timestamp::from_millisecond(milliseconds).ok()
}

/// The same as metrics.
pub fn metrics(
    settings: &Settings,
    seen: &Instance,
    verdict: &Verdict,
    measured: &Measured,
) -> File {
    let mut file = File::new(Writer::Health, &settings.instance);
    let severity = verdict.severity();
    file.set(
        &table::HEALTH,
        truth(matches!(severity, Severity::Ok | Severity::Warning)),
    );
    file.set(&table::HEALTH_STATUS, severity.status().into());
    file.set(&table::HEALTH_LAST_CHECK, seen.now);
    for check in &verdict.checked {
        file.set_for(
            &table::HEALTH_CHECK_STATUS,
            &[check.word()],
            verdict.of(*check).status().into(),
        );
    }
    file.set(
        &table::UP,
        truth(matches!(&seen.server, Server::Up(_) | Server::Mute(_))),
    );
    if let Server::Up(live) = &seen.server {
        of_server(&mut file, live);
    }
    let objectives = &settings.objectives;
    for (name, seconds) in [
        ("rpo", objectives.rpo_seconds),
        ("offsite-rpo", objectives.offsite_rpo_seconds),
        ("rto", objectives.rto_seconds),
    ] {
        if let Some(seconds) = seconds {
            file.set_for(&table::OBJECTIVE, &[name], seconds.into());
        }
    }
    limits(&mut file, settings);
    if let Some(since) = seen.since {
        file.set(&table::INSTANCE_SINCE, since);
    }
    if let Ok(waiting) = &seen.waiting {
        file.set(&table::WAL_WAITING, float(waiting.len() as u64));
        let oldest = waiting.iter().map(|file| file.since).min_by(f64::total_cmp);
        if let Some(since) = oldest {
            file.set(&table::WAL_WAITING_SINCE, since);
        }
    }
    if let Ok(archive) = &seen.archive {
        file.set(&table::WAL_FILES_PRESENT, float(archive.files as u64));
        file.set(&table::WAL_BYTES, float(archive.stored_bytes));
    }
    for (metric, value) in [
        (&table::WAL_MISSING, measured.missing_files.map(float)),
        (&table::WAL_NOT_ARCHIVED, measured.exposure_seconds),
        (&table::WINDOW_START, measured.window_start),
        (
            &table::COLLATION_OUTDATED,
            measured.outdated_indexes.map(|number| float(number as u64)),
        ),
    ] {
        if let Some(value) = value {
            file.set(metric, value);
        }
    }
    for (content, seconds) in &measured.replica_age_seconds {
        file.set_for(&table::REPLICA_AGE, &[content.name()], *seconds);
    }
    for (repository, seconds) in &measured.offsite_exposure_seconds {
        file.set_for(&table::OFFSITE_EXPOSURE, &[repository], *seconds);
    }
    for copy in &seen.copies {
        if let Ok(Some(record)) = &copy.record {
            let began = record.began_at.as_duration().as_secs_f64();
            let content = copy.content.name();
            file.set_for(
                &table::OFFSITE_LAST_SUCCESS,
                &[&copy.repository, content],
                began,
            );
        }
    }
    for (place, storage) in &seen.storage {
        if let Ok(storage) = storage {
            file.set_for(&table::FREE_BYTES, &[place], float(storage.free_bytes));
            file.set_for(&table::SIZE_BYTES, &[place], float(storage.size_bytes));
        }
    }
    for (place, seconds) in &measured.seconds_to_full {
        file.set_for(&table::TIME_TO_FULL, &[place], *seconds);
    }
    file
}

/// What is declared of how old things may get, for the rules that notice when a job is dead.
fn limits(file: &mut File, settings: &Settings) {
    let health = &settings.health_check;
    // A check that is late is no news; one that was missed three times is.
    let check = health
        .interval_seconds
        .saturating_mul(3)
        .saturating_add(OVERDUE_SECONDS);
    for (of, seconds) in [
        ("check", Some(check)),
        ("base-backup", health.maximum_base_backup_age_seconds),
        ("snapshot", health.maximum_snapshot_age_seconds),
        ("prune", health.maximum_prune_age_seconds),
        ("drill", health.maximum_drill_age_seconds),
        ("replica", health.maximum_replica_age_seconds),
    ] {
        if let Some(seconds) = seconds {
            file.set_for(&table::MAXIMUM_AGE, &[of], seconds.into());
        }
    }
    for (database, declared) in settings
        .databases
        .iter()
        .flat_map(|databases| &databases.declared)
    {
        let most = declared.dump.as_ref().and_then(|d| d.maximum_age_seconds);
        if let Some(seconds) = most {
            file.set_for(&table::DUMP_MAXIMUM_AGE, &[database], seconds.into());
        }
    }
}

fn of_server(file: &mut File, live: &Live) {
    file.set(&table::IN_RECOVERY, truth(live.recovery.is_some()));
    let (used, possible) = live.connections;
    file.set(&table::CONNECTIONS, signed(used));
    file.set(&table::CONNECTIONS_MAXIMUM, signed(possible));
    let longest = live.oldest_transaction.as_ref();
    file.set(
        &table::LONGEST_TRANSACTION,
        longest.map_or(0.0, |(seconds, _)| seconds.max(0.0)),
    );
    file.set(&table::DEADLOCKS, signed(live.deadlocks));
    let oldest = |age: fn(&(String, i64, i64)) -> i64| live.ages.iter().map(age).max();
    if let (Some(xid), Some(multixact)) = (oldest(|ages| ages.1), oldest(|ages| ages.2)) {
        file.set(&table::XID_AGE, signed(xid));
        file.set(&table::MULTIXACT_AGE, signed(multixact));
    }
    file.set(
        &table::CHECKSUM_FAILURES,
        signed(
            live.checksum_failures
                .iter()
                .map(|(_, number)| number)
                .sum(),
        ),
    );
    for (standby, seconds) in &live.standbys {
        file.set_for(&table::REPLICATION_LAG, &[standby], seconds.max(0.0));
    }
    for slot in &live.slots {
        file.set_for(
            &table::SLOT_RETAINED,
            &[&slot.name],
            float(slot.retained_bytes),
        );
    }
    if let Some((_, at)) = &live.archiving.last_archived {
        file.set(&table::WAL_LAST_SUCCESS, *at);
    }
    file.set(&table::WAL_FAILURES, signed(live.archiving.failed));
}

fn truth(is: bool) -> f64 {
    if is { 1.0 } else { 0.0 }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "Prometheus knows no other numbers; up to 2^53 they are exact"
)]
fn float(number: u64) -> f64 {
    number as f64
}

#[expect(clippy::cast_precision_loss, reason = "as above")]
fn signed(number: i64) -> f64 {
    number as f64
}
