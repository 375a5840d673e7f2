//! Looking at an instance for a person: everything that can be seen, whatever is broken.

use std::path::Path;

use base_backups::Repository;
use health::seen;
use health::{Checkup, Chronicle, Severity, moment};
use instance_state::DrillRecord;
use jiff::Timestamp;
use settings::Settings;

use super::data::{
    Archive, BaseBackup, Finding, LastDrill, Objective, ServerState, Snapshot, Status, Storage,
    Window,
};
use crate::instance::Instance;
use crate::windows;

/// Looks at the instance that `settings`, which were read from `config`, describe. Nothing is written.
pub fn collect(config: &Path, settings: Settings) -> Status {
    let checkup = health::look(&settings);
    let state = settings.state_directory();
    let mut unknown = Vec::new();
    let mut or_unknown = |what: &str, err: anyhow::Error| {
        unknown.push(format!("{what}: {err:#}"));
    };
    let past = Chronicle::read(&state).unwrap_or_else(|err| {
        or_unknown("what happened before", err);
        Chronicle::default()
    });
    let last_drill = DrillRecord::read(&state).unwrap_or_else(|err| {
        or_unknown("the last drill", err);
        None
    });
    let mut status = Status {
        instance: settings.instance.clone(),
        at: moment(checkup.seen.now).unwrap_or_else(Timestamp::now),
        severity: checkup.verdict.severity(),
        findings: findings(&checkup),
        checks: checkup
            .verdict
            .checked
            .iter()
            .map(|check| (check.word().to_owned(), checkup.verdict.of(*check)))
            .collect(),
        server: server(&checkup),
        unit: settings.postgresql.unit.clone(),
        windows: Vec::new(),
        base_backups: Vec::new(),
        snapshots: Vec::new(),
        archive: archive(&checkup),
        objectives: objectives(&settings, &checkup, last_drill.as_ref()),
        drills_are_declared: settings.drill.is_some(),
        last_drill: last_drill.map(|record| LastDrill {
            finished_at: record.finished_at,
            failure: record.failure.map(|failure| failure.message),
            recovery_seconds: record.findings.recovery_seconds,
            restored_bytes: record.findings.restored_bytes,
            target: record.findings.target,
            last_success_at: record.last_success_at,
        }),
        storage: storage(&checkup),
        unknown: Vec::new(),
        past,
    };
    // What is in the way of these is in the way of the checks too, and so among the findings. Base backups
    // are there without the archive: only what they reach is not known then.
    status.base_backups = base_backups(&settings, &checkup);
    if let Ok(instance) = Instance::open(config, settings) {
        status.snapshots = snapshots(&instance).unwrap_or_else(|err| {
            unknown.push(format!("snapshots: {err:#}"));
            Vec::new()
        });
        status.windows = windows_of(&instance, &mut unknown);
    }
    status.unknown = unknown;
    status
}

/// The snapshots of the data, oldest first.
fn snapshots(instance: &Instance) -> anyhow::Result<Vec<Snapshot>> {
    let identifier = instance.archive.newest_cluster()?.system_identifier;
    let data = &instance.settings.postgresql.data_directory;
    let mut shown: Vec<Snapshot> = cluster_copy::snapshots::all(data, identifier)?
        .into_iter()
        .map(|snapshot| Snapshot {
            checkpoint_at: snapshot.checkpoint_time(),
            name: snapshot.name,
        })
        .collect();
    shown.sort_by_key(|snapshot| snapshot.checkpoint_at);
    Ok(shown)
}

fn windows_of(instance: &Instance, unknown: &mut Vec<String>) -> Vec<Window> {
    if instance.settings.base_backup.is_none() {
        return Vec::new();
    }
    let windows = windows::collect(instance).unwrap_or_else(|err| {
        // Base backups that cannot be read are a finding.
        if instance
            .repository()
            .is_ok_and(|repository| repository.list().is_ok())
        {
            unknown.push(format!("what can be restored: {err:#}"));
        }
        Vec::new()
    });
    windows
        .into_iter()
        .map(|shown| Window {
            base_backup: shown.window.point,
            timeline: shown.window.timeline.get(),
            from: shown.window.from_time,
            to: shown.to_time,
            restorable: shown.window.restorable,
            missing_files: shown.window.missing.count,
            first_missing: shown
                .window
                .missing
                .segments
                .first()
                .map(ToString::to_string),
        })
        .collect()
}

/// The base backups that can be listed, oldest first.
fn base_backups(settings: &Settings, checkup: &Checkup) -> Vec<BaseBackup> {
    let Some(declared) = &settings.base_backup else {
        return Vec::new();
    };
    let damaged = match &checkup.seen.backups {
        Some(Ok(backups)) => backups.suspect.as_slice(),
        Some(Err(_)) | None => &[],
    };
    Repository::open(&declared.directory, &settings.instance)
        .and_then(|repository| repository.list())
        .unwrap_or_default()
        .into_iter()
        .map(|record| BaseBackup {
            damage: damaged
                .iter()
                .find(|(name, _)| *name == record.name)
                .map(|(_, why)| why.clone()),
            incremental: record.kind == base_backups::Kind::Incremental,
            stopped_at: record.stopped_at,
            content_bytes: record.content_bytes,
            stored_bytes: record.stored_bytes,
            name: record.name,
        })
        .collect()
}

/// The findings, worst first.
fn findings(checkup: &Checkup) -> Vec<Finding> {
    let mut findings: Vec<Finding> = checkup
        .verdict
        .findings
        .iter()
        .map(|finding| Finding {
            check: finding.check.word().to_owned(),
            severity: finding.severity,
            what: finding.what.clone(),
            hint: finding.hint.clone(),
            commands: finding.commands.clone(),
        })
        .collect();
    findings.sort_by_key(|finding| match finding.severity {
        Severity::Critical => 0,
        Severity::Unknown => 1,
        Severity::Warning => 2,
        Severity::Ok => 3,
    });
    findings
}

fn server(checkup: &Checkup) -> super::data::Server {
    let archived = checkup
        .seen
        .archive
        .as_ref()
        .ok()
        .map(|archive| archive.contents.system_identifier);
    let (state, live) = match &checkup.seen.server {
        seen::Server::Up(live) if live.recovery.is_some() => (ServerState::Replaying, Some(live)),
        seen::Server::Up(live) => (ServerState::Running, Some(live)),
        seen::Server::NotYet { .. } => (ServerState::Starting, None),
        seen::Server::Mute(_) | seen::Server::Down(_) => (ServerState::NotAnswering, None),
    };
    super::data::Server {
        state,
        system_identifier: live
            .map(|live| live.system_identifier)
            .or(archived)
            .map(|identifier| identifier.to_string()),
        timeline: live.map(|live| live.timeline.get()),
        started_at: live.and_then(|live| moment(live.started)),
    }
}

fn archive(checkup: &Checkup) -> Option<Archive> {
    let archive = checkup.seen.archive.as_ref().ok()?;
    let last_archived = match &checkup.seen.server {
        seen::Server::Up(live) => live.archiving.last_archived.as_ref(),
        seen::Server::Mute(_) | seen::Server::NotYet { .. } | seen::Server::Down(_) => None,
    };
    Some(Archive {
        files: archive.files as u64,
        stored_bytes: archive.stored_bytes,
        last_archived_at: last_archived.and_then(|(_, at)| moment(*at)),
        waiting_files: checkup
            .seen
            .waiting
            .as_ref()
            .ok()
            .map(|waiting| waiting.len() as u64),
    })
}

fn objectives(
    settings: &Settings,
    checkup: &Checkup,
    last_drill: Option<&DrillRecord>,
) -> Vec<Objective> {
    let declared = &settings.objectives;
    let objective = |name: &str, what: &str, declared: Option<u32>, measured| Objective {
        name: name.to_owned(),
        what: what.to_owned(),
        declared_seconds: declared.map(f64::from),
        measured_seconds: measured,
    };
    vec![
        objective(
            "rpo",
            "lost with this server's disk",
            declared.rpo_seconds,
            checkup.measured.exposure_seconds,
        ),
        objective(
            "offsite-rpo",
            "lost with this whole host",
            declared.offsite_rpo_seconds,
            checkup.measured.offsite_seconds,
        ),
        objective(
            "rto",
            "time that a restore takes",
            declared.rto_seconds,
            last_drill.and_then(|record| record.findings.recovery_seconds),
        ),
    ]
}

fn storage(checkup: &Checkup) -> Vec<Storage> {
    checkup
        .seen
        .storage
        .iter()
        .filter_map(|(place, storage)| {
            let storage = storage.as_ref().ok()?;
            Some(Storage {
                place: place.clone(),
                free_bytes: storage.free_bytes,
                size_bytes: storage.size_bytes,
                seconds_to_full: checkup
                    .measured
                    .seconds_to_full
                    .iter()
                    .find(|(other, _)| other == place)
                    .map(|(_, seconds)| *seconds),
            })
        })
        .collect()
}
