//! What an archive and base backups hold, compared with what was recorded when they were written.
//!
//! Nothing is repaired and nothing is changed. What is found is for the caller to judge and to tell.

use anyhow::Result;
use archive::format::Damaged;
use archive::{Archive, Cluster, Listing};
use base_backups::{Progress, Record, Repository};
use restore_plan::{ArchiveContents, StartingPoint};
use wal::WalFileName;

/// Something that is not as it was recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The archived file or the base backup.
    pub name: String,
    /// Whether its content is another than what was recorded. If not, it could not be read.
    pub is_damage: bool,
    /// What is wrong with it.
    pub what: String,
}

/// Reads each of `names` to its end and compares it with the hash that was recorded with it. `done` is
/// called after each.
pub fn wal_files(
    archive: &Archive,
    cluster: &Cluster,
    names: impl IntoIterator<Item = WalFileName>,
    mut done: impl FnMut(),
) -> Vec<Fault> {
    let mut faults = Vec::new();
    for name in names {
        if let Err(err) = archive.read(cluster, &name, &mut |_| Ok(())) {
            faults.push(Fault {
                name: name.to_string(),
                is_damage: err
                    .chain()
                    .any(<dyn std::error::Error + 'static>::is::<Damaged>),
                what: format!("{err:#}"),
            });
        }
        done();
    }
    faults
}

/// Reads every file of a base backup and compares it with the manifest. Of an incremental backup, the
/// ones that it builds on are not read.
#[must_use]
pub fn base_backup(repository: &Repository, record: &Record) -> Option<Fault> {
    base_backups::check(repository, record, &Progress::default())
        .err()
        .map(|err| Fault {
            name: record.name.clone(),
            is_damage: true,
            what: format!("{err:#}"),
        })
}

/// What `archive` holds of `cluster`, for planning, without what only a server has.
///
/// # Errors
///
/// Fails when the archive cannot be listed or a history file cannot be read.
pub fn contents(archive: &Archive, cluster: &Cluster) -> Result<(Listing, ArchiveContents)> {
    let listing = archive.list(cluster)?;
    let histories = archive.histories(cluster, &listing)?;
    let contents = ArchiveContents {
        system_identifier: cluster.system_identifier,
        segment_size: cluster.segment_size()?,
        segments: listing.segments().collect(),
        histories,
    };
    Ok((listing, contents))
}

/// The starting point that a base backup is.
#[must_use]
pub fn starting_point(record: &Record) -> StartingPoint {
    StartingPoint {
        id: record.name.clone(),
        system_identifier: record.system_identifier,
        timeline: record.timeline,
        start: record.start_lsn,
        stop: record.stop_lsn,
        stop_time: record.stopped_at,
        postgres_major: record.postgres_major,
    }
}

/// The starting points that base backups are. One whose chain is broken is none.
#[must_use]
pub fn starting_points(records: &[Record]) -> Vec<StartingPoint> {
    records
        .iter()
        .filter(|record| record.chain(records).is_ok())
        .map(starting_point)
        .collect()
}
