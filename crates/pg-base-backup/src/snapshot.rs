//! `--method snapshot`: one atomic ZFS snapshot of the data directory and of every tablespace.
//!
//! The server is not put into backup mode. A snapshot of everything at one moment is what a power cut
//! would have left, and PostgreSQL recovers from that by the WAL in the snapshot's own `pg_wal`, as it does
//! after every crash. (PostgreSQL documentation, 25.2 "File System Level Backup": a consistent snapshot is
//! possible where all file systems are snapshotted at the same moment; its WAL has to be in it, and a
//! checkpoint before it shortens the recovery.) Backup mode is for copies whose parts are of different
//! moments: its `backup_label` would have to be kept beside the snapshot, and be put into every copy of it.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use archive::Archive;
use cluster::{Client, Identity, Server};
use cluster_copy::ClusterCopy;
use cluster_copy::snapshots;
use jiff::Timestamp;
use serde::Serialize;
use settings::Settings;
use snapshot_keeping::{INSTANCE, LSN, Own, SYSTEM_IDENTIFIER, TIMELINE, VERIFIED, YES};
use tool::{Hinted, Level, WithHint as _};
use wal::{Lsn, SystemIdentifier, TimelineId};
use zfs::{SnapshotName, Zfs};

/// A snapshot that was taken and found whole.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Taken {
    name: String,
    snapshots: Vec<String>,
    system_identifier: SystemIdentifier,
    timeline: TimelineId,
    /// Everything before this is in it.
    lsn: Lsn,
    /// Where its recovery begins to count.
    checkpoint: Lsn,
    seconds: f64,
}

/// Where the server was just before the snapshot.
struct Position {
    timeline: TimelineId,
    checkpoint: Lsn,
    flushed: Lsn,
}

/// Takes a snapshot, reads it, and says in its properties that it is good.
///
/// # Errors
///
/// Fails when the data directory is not on the declared dataset, when a tablespace is on a dataset that is
/// not below that one, when this user may not do it, and when what the snapshot holds is not the whole
/// cluster. Nothing is left then but what ZFS refuses to destroy, which the next run tries again.
pub fn take(settings: &Settings) -> Result<Taken> {
    let (declared, _) = snapshot_keeping::declared(settings)?;
    let _lock = snapshot_keeping::lock(settings)?;
    let zfs = Zfs::find()?;
    let server = Server::new(&settings.postgresql);
    let mut client = server.connect("postgres")?;
    let identity = Server::identify(&mut client)?;
    check_server(settings, &server, &identity)?;
    let data = &settings.postgresql.data_directory;
    let datasets = datasets(&zfs, &declared.dataset, data, &mut client)?;
    let (shown, below) = snapshots::place_of(data).ok_or_else(|| {
        Hinted::new(
            format!("no snapshots are shown for \"{}\"", data.display()),
            format!(
                "nothing could be restored from one; dataset \"{}\" must not have snapdir=disabled",
                declared.dataset
            ),
        )
    })?;

    let own = snapshot_keeping::list(&zfs, &declared.dataset, &settings.instance)?;
    snapshot_keeping::destroy_unfinished(&zfs, &own)?;
    let name = snapshot_keeping::free_name(&own, Timestamp::now());
    let parts: Vec<SnapshotName> = datasets
        .iter()
        .map(|dataset| SnapshotName::new(dataset, &name))
        .collect::<Result<_>>()?;

    let begin = Instant::now();
    let position = checkpoint(&mut client)?;
    zfs.take_snapshots(
        &parts,
        &[
            (INSTANCE, settings.instance.clone()),
            (SYSTEM_IDENTIFIER, identity.system_identifier.to_string()),
            (TIMELINE, position.timeline.to_string()),
            (LSN, position.flushed.to_string()),
        ],
    )
    .with_hint(|| snapshot_keeping::who_may(&settings.instance, &declared.dataset, data))?;
    let read = check(&shown.join(&name).join(below), &identity, &position)
        .with_context(|| format!("check snapshot \"{name}\""))
        .and_then(|()| zfs.mark_snapshot(&parts[0], VERIFIED, YES));
    if let Err(err) = read {
        remove(&zfs, &name, parts);
        return Err(err);
    }
    let taken = Taken {
        snapshots: parts.iter().map(ToString::to_string).collect(),
        name,
        system_identifier: identity.system_identifier,
        timeline: position.timeline,
        lsn: position.flushed,
        checkpoint: position.checkpoint,
        seconds: begin.elapsed().as_secs_f64(),
    };
    tool::log(
        Level::Info,
        format_args!(
            "snapshot \"{}\" is good: {} in {:.1} s, timeline {}, everything before {}",
            taken.name,
            taken.snapshots.join(" and "),
            taken.seconds,
            taken.timeline,
            taken.lsn
        ),
    );
    Ok(taken)
}

/// Refuses a server whose snapshots could not be restored to a later moment.
fn check_server(settings: &Settings, server: &Server, identity: &Identity) -> Result<()> {
    if identity.in_recovery {
        return Err(Hinted::new(
            "the server replays WAL of another, and a copy of it is recovered by that one's WAL alone",
            "take the snapshot on the primary, or wait until the recovery has ended",
        )
        .into());
    }
    crate::check_server(server, identity)?;
    // A snapshot of a cluster that the archive has not seen leads nowhere.
    let archive = Archive::open(&settings.archive.directory, &settings.instance)?;
    archive.cluster(identity.system_identifier).map(drop)
}

/// The datasets that make up the cluster, that of the data directory first.
fn datasets(zfs: &Zfs, declared: &str, data: &Path, client: &mut Client) -> Result<Vec<String>> {
    let of_data = zfs
        .dataset_of(data)
        .with_hint(|| "snapshots are for data on ZFS; leave out --method snapshot".into())?;
    if of_data != declared {
        return Err(Hinted::new(
            format!(
                "\"{}\" is on dataset \"{of_data}\", and dataset \"{declared}\" is declared for it",
                data.display()
            ),
            format!("mount \"{declared}\" there, or declare \"{of_data}\" as snapshots.dataset"),
        )
        .into());
    }
    let mut datasets = vec![of_data];
    let wal = data.join("pg_wal");
    let of_wal = zfs.dataset_of(&wal)?;
    if of_wal != datasets[0] {
        return Err(Hinted::new(
            format!(
                "\"{}\" is on dataset \"{of_wal}\", and the data directory on dataset \"{declared}\": in a snapshot of that the WAL would be missing",
                wal.display()
            ),
            "move pg_wal into the data directory, or leave out --method snapshot",
        )
        .into());
    }
    for tablespace in Server::tablespaces(client)? {
        let dataset = zfs.dataset_of(&tablespace.location).with_hint(|| {
            "a tablespace has to be on ZFS too, on a dataset below that of the data directory; or leave out --method snapshot"
                .into()
        })?;
        let is_at_or_below = dataset == declared || dataset.starts_with(&format!("{declared}/"));
        if !is_at_or_below {
            let why = if zfs::pool_of(&dataset) == zfs::pool_of(declared) {
                "which is not below"
            } else {
                "which is in another pool than"
            };
            return Err(Hinted::new(
                format!(
                    "tablespace {} at \"{}\" is on dataset \"{dataset}\", {why} dataset \"{declared}\" of the data directory",
                    tablespace.oid,
                    tablespace.location.display()
                ),
                "a cluster is whole only if all of it is of one moment: move the tablespace to a dataset below, or leave out --method snapshot",
            )
            .into());
        }
        if !datasets.contains(&dataset) {
            datasets.push(dataset);
        }
    }
    Ok(datasets)
}

/// Makes the server write down what it has, so that the recovery from the snapshot is short.
fn checkpoint(client: &mut Client) -> Result<Position> {
    tool::log(Level::Info, format_args!("waiting for a checkpoint"));
    client
        .batch_execute("CHECKPOINT")
        .context("make a checkpoint")?;
    let row = client
        .query_one(
            "select timeline_id, checkpoint_lsn::text, pg_current_wal_flush_lsn()::text
             from pg_control_checkpoint()",
            &[],
        )
        .context("ask the server where it is")?;
    let timeline: i32 = row.get(0);
    Ok(Position {
        timeline: TimelineId::new(u32::try_from(timeline)?)
            .context("the server is on timeline 0")?,
        checkpoint: cluster::lsn(row.get(1))?,
        flushed: cluster::lsn(row.get(2))?,
    })
}

/// Checks that the data directory in the snapshot, `directory`, can be read and is a whole copy of the
/// cluster that the server is of, from after the checkpoint.
fn check(directory: &Path, identity: &Identity, position: &Position) -> Result<()> {
    let copy = ClusterCopy::examine(directory, &[])?;
    let found = copy.control.system_identifier;
    ensure!(
        found == identity.system_identifier,
        "\"{}\" is of cluster {found}, the server of cluster {}",
        directory.display(),
        identity.system_identifier
    );
    ensure!(
        copy.control.checkpoint >= position.checkpoint,
        "\"{}\" is of the checkpoint at {}, from before the one at {}",
        directory.display(),
        copy.control.checkpoint,
        position.checkpoint
    );
    Ok(())
}

/// Destroys a snapshot that is no good, and says what came of that.
fn remove(zfs: &Zfs, name: &str, parts: Vec<SnapshotName>) {
    let own = Own {
        name: name.to_owned(),
        parts,
        created_seconds: 0,
        is_verified: false,
        held: None,
    };
    match snapshot_keeping::destroy(zfs, &own) {
        Ok(()) => tool::log(
            Level::Info,
            format_args!("snapshot \"{name}\" was destroyed again"),
        ),
        Err(err) => tool::report(
            &format!("snapshot \"{name}\" does not count, and could not be destroyed"),
            &err,
        ),
    }
}
