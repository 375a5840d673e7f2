//! `backstay status`: how an instance, its archive and its base backups are.

use std::fmt::Write as _;

use anyhow::Result;
use cluster::{Archiver, Server};
use jiff::Timestamp;
use serde::Serialize;
use wal::{SegmentName, SystemIdentifier};

use crate::instance::Instance;
use crate::windows::instant;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    instance: String,
    running: bool,
    system_identifier: SystemIdentifier,
    /// What the running server says of its archiver.
    archiver: Option<Archiver>,
    /// WAL files that wait to be archived.
    waiting: Option<usize>,
    oldest_waiting: Option<String>,
    archived_segments: usize,
    archived_stored_bytes: u64,
    newest_archived: Option<SegmentName>,
    foreign_files: usize,
    base_backups: usize,
    newest_base_backup: Option<NewestBaseBackup>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct NewestBaseBackup {
    name: String,
    stopped_at: Timestamp,
    age_seconds: i64,
    content_bytes: u64,
}

pub fn show(instance: &Instance, json: bool) -> Result<()> {
    let status = collect(instance)?;
    if json {
        return tool::print(&(serde_json::to_string_pretty(&status)? + "\n"));
    }
    tool::print(&text(&status)?)
}

fn collect(instance: &Instance) -> Result<Status> {
    let cluster = instance.archive.newest_cluster()?;
    let listing = instance.archive.list(cluster)?;
    let running = instance.server.data_directory().exists() && instance.server.is_running()?;
    let archiver = if running {
        Some(Server::archiver(&mut instance.server.connect("postgres")?)?)
    } else {
        None
    };
    let waiting = instance.server.ready_files().ok();
    let segments: Vec<SegmentName> = listing.segments().collect();
    let backups = match &instance.settings.base_backup {
        Some(_) => instance.repository()?.list()?,
        None => Vec::new(),
    };
    Ok(Status {
        instance: instance.settings.instance.clone(),
        running,
        system_identifier: cluster.system_identifier,
        archiver,
        oldest_waiting: waiting.as_ref().and_then(|ready| ready.first().cloned()),
        waiting: waiting.map(|ready| ready.len()),
        archived_segments: segments.len(),
        archived_stored_bytes: listing.files.iter().map(|(_, bytes)| bytes).sum(),
        newest_archived: segments.last().copied(),
        foreign_files: listing.foreign.len(),
        base_backups: backups.len(),
        newest_base_backup: backups.last().map(|record| NewestBaseBackup {
            name: record.name.clone(),
            stopped_at: record.stopped_at,
            age_seconds: Timestamp::now().duration_since(record.stopped_at).as_secs(),
            content_bytes: record.content_bytes,
        }),
    })
}

fn text(status: &Status) -> Result<String> {
    let mut text = String::new();
    writeln!(
        text,
        "instance       {} ({})",
        status.instance,
        if status.running {
            "running"
        } else {
            "not running"
        }
    )?;
    writeln!(text, "cluster        {}", status.system_identifier)?;
    match &status.archiver {
        None => {}
        Some(archiver) if archiver.failing => writeln!(
            text,
            "archiving      FAILING at {}; see the server's log",
            archiver.last_failed_wal.as_deref().unwrap_or("?")
        )?,
        Some(archiver) => writeln!(
            text,
            "archiving      works, last {}",
            archiver
                .last_archived_wal
                .as_deref()
                .unwrap_or("nothing yet")
        )?,
    }
    match (status.waiting, &status.oldest_waiting) {
        (Some(waiting), Some(oldest)) => {
            writeln!(
                text,
                "waiting        {waiting} WAL files, the first is {oldest}"
            )?;
        }
        (Some(_), None) => writeln!(text, "waiting        no WAL file")?,
        (None, _) => writeln!(
            text,
            "waiting        not known: the data directory cannot be read"
        )?,
    }
    writeln!(
        text,
        "archive        {} segments in {} MiB, the newest is {}",
        status.archived_segments,
        status.archived_stored_bytes >> 20,
        status
            .newest_archived
            .map_or_else(|| "none".into(), |name| name.to_string())
    )?;
    if status.foreign_files > 0 {
        writeln!(
            text,
            "               {} files are not the archive's",
            status.foreign_files
        )?;
    }
    match &status.newest_base_backup {
        Some(newest) => writeln!(
            text,
            "base backups   {}, the newest is {} of {} ({} hours old, {} MiB)",
            status.base_backups,
            newest.name,
            instant(newest.stopped_at),
            newest.age_seconds / 3600,
            newest.content_bytes >> 20
        )?,
        None => writeln!(
            text,
            "base backups   NONE: nothing can be restored; take one with pg-base-backup"
        )?,
    }
    Ok(text)
}
