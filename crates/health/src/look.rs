//! Looking: everything that touches the server or a file.

mod copies;
mod server;
mod storage;
mod volumes;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use base_backups::Repository;
use instance_state::InstanceRecord;
use mounts::{Mounts, Place};
use restore_plan::ArchiveContents;
use settings::Settings;
use wal::{SystemIdentifier, WalFileName};
use zfs::Zfs;

use crate::seen::{Archive, Backups, Instance, Mounted, Seen, Server, Unseen, Waiting};

/// Looks at everything that belongs to the instance.
pub fn at(settings: &Settings) -> Instance {
    let server = server::look(&settings.postgresql);
    let live = match &server {
        Server::Up(live) => Some(live),
        Server::Mute(_) | Server::NotYet { .. } | Server::Down(_) => None,
    };
    let archive = archive(
        settings,
        live.map(|live| live.system_identifier),
        live.and_then(|live| live.archiving.last_archived.as_ref())
            .map(|(name, _)| name.as_str()),
    )
    .map_err(Unseen::from);
    let backups = settings.base_backup.as_ref().map(|declared| {
        Repository::open(&declared.directory, &settings.instance)
            .and_then(|repository| backups(&repository))
            .map_err(Unseen::from)
    });
    let mounts = Mounts::read();
    let places = storage::places(settings);
    Instance {
        now: now(),
        since: since(&settings.state_directory()),
        mounts: mounted(&mounts, &settings.postgresql.required_mounts),
        volumes: mounts
            .as_ref()
            .map(|mounts| volumes::of(&places, mounts, Zfs::find().ok().as_ref()))
            .unwrap_or_default(),
        waiting: waiting(&settings.postgresql.data_directory).map_err(Unseen::from),
        archive,
        backups,
        copies: copies::of(settings),
        replicas: copies::replicas(settings),
        drill: copies::drill(settings),
        storage: storage::of(&places),
        server,
    }
}

/// The time, in seconds since 1970.
fn now() -> f64 {
    seconds(SystemTime::now())
}

fn seconds(time: SystemTime) -> f64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_secs_f64(),
        Err(before) => -before.duration().as_secs_f64(),
    }
}

/// When the record of the cluster was begun. It only tells how much can have happened since, so that one
/// which cannot be read is no finding.
fn since(state_directory: &Path) -> Option<f64> {
    let record = InstanceRecord::read(state_directory).ok()??;
    let since: jiff::Timestamp = record.since.parse().ok()?;
    Some(since.as_duration().as_secs_f64())
}

fn mounted(mounts: &Result<Mounts>, required: &[PathBuf]) -> Vec<(PathBuf, Seen<Mounted>)> {
    required
        .iter()
        .map(|path| {
            let seen = match mounts {
                Ok(mounts) => mounts.place(path).map(described).map_err(Unseen::from),
                Err(err) => Err(Unseen {
                    why: format!("{err:#}"),
                    hint: None,
                }),
            };
            (path.clone(), seen)
        })
        .collect()
}

fn described(place: Place) -> Mounted {
    match place {
        Place::MountPoint(mount) if mount.is_read_only => Mounted::ReadOnly,
        Place::MountPoint(_) => Mounted::Yes,
        Place::Directory(_) => Mounted::No,
        Place::Hiding { seen, hidden } => Mounted::Hidden {
            seen: seen.source,
            hidden: hidden.source,
        },
    }
}

/// The WAL files that wait, whatever the server says: it counts no failure when `archive_command` dies.
fn waiting(data_directory: &Path) -> Result<Vec<Waiting>> {
    let directory = data_directory.join("pg_wal/archive_status");
    let mut waiting = Vec::new();
    for entry in
        fs::read_dir(&directory).with_context(|| format!("list \"{}\"", directory.display()))?
    {
        let entry = entry.with_context(|| format!("list \"{}\"", directory.display()))?;
        let file = entry.file_name();
        let Some(name) = file.to_str().and_then(|name| name.strip_suffix(".ready")) else {
            continue;
        };
        match entry.metadata().and_then(|metadata| metadata.modified()) {
            Ok(since) => waiting.push(Waiting {
                name: name.to_owned(),
                since: seconds(since),
            }),
            // Archived since the directory was read.
            Err(err) if err.kind() == io::ErrorKind::NotFound => {}
            Err(err) => {
                return Err(err).with_context(|| format!("examine \"{}\"", entry.path().display()));
            }
        }
    }
    waiting.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(waiting)
}

fn archive(
    settings: &Settings,
    cluster: Option<SystemIdentifier>,
    last_archived: Option<&str>,
) -> Result<Archive> {
    let archive = archive::Archive::open(&settings.archive.directory, &settings.instance)?;
    let cluster = match cluster {
        Some(cluster) => archive.cluster(cluster)?,
        None => archive.newest_cluster()?,
    };
    let listing = archive.list(cluster)?;
    let histories = archive.histories(cluster, &listing)?;
    // Asked for after the listing, by its own name: it may have been archived in between.
    let holds_last_archived = last_archived
        .and_then(|name| WalFileName::parse(name).ok())
        .map(|name| {
            let path = archive.path_of(cluster, &name)?;
            path.try_exists()
                .with_context(|| format!("examine \"{}\"", path.display()))
        })
        .transpose()?;
    Ok(Archive {
        contents: ArchiveContents {
            system_identifier: cluster.system_identifier,
            segment_size: cluster.segment_size()?,
            segments: listing.segments().collect(),
            histories,
        },
        files: listing.files.len(),
        stored_bytes: listing.files.iter().map(|(_, bytes)| bytes).sum(),
        holds_last_archived,
    })
}

fn backups(repository: &Repository) -> Result<Backups> {
    let records = repository.list()?;
    let mut backups = Backups {
        points: verification::starting_points(&records),
        stored_bytes: records.iter().map(|record| record.stored_bytes).sum(),
        ..Backups::default()
    };
    // From the newest on, and no further than to one that is whole: each look takes as many calls as
    // the cluster has files.
    for record in records.iter().rev() {
        match base_backups::look_over(repository, record, &records) {
            Ok(()) => {
                backups.newest_good = Some(verification::starting_point(record));
                break;
            }
            Err(err) => backups
                .suspect
                .push((record.name.clone(), format!("{err:#}"))),
        }
    }
    Ok(backups)
}
