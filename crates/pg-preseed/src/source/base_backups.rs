//! The base backups and the archive of this machine.

use std::fs;

use anyhow::{Result, anyhow};
use archive::{Archive, Cluster};
use base_backups::Repository;
use jiff::Timestamp;
use restore_plan::{ArchiveContents, Target};
use settings::Settings;
use tool::Hinted;

use super::{Answer, Ask, offer};

/// The directory `baseBackup.directory`.
pub struct OnThisMachine;

impl Ask for OnThisMachine {
    fn ask(&self, settings: &Settings, target: &Target) -> Result<Answer> {
        let root = settings
            .base_backup
            .as_ref()
            .map(|declared| &declared.directory)
            .ok_or_else(|| anyhow!("the settings declare no base backups"))?;
        if !Repository::is_at(root)? {
            return Err(Hinted::new(
                format!(
                    "\"{}\" does not show that it is the place of this instance's base backups: it may be a mount point on which nothing is mounted",
                    root.display()
                ),
                "mount what belongs there",
            )
            .into());
        }
        let repository = Repository::open(root, &settings.instance)?;
        let records = repository.list()?;
        if records.is_empty() {
            return nothing(settings, &repository);
        }
        let (archive, cluster, contents) = own_archive(settings)?;
        let mut offer = offer(settings, &records, &contents, target)?;
        offer.changes_before = changes_before(&archive, &cluster, &contents);
        Ok(Answer::Has(offer))
    }
}

/// Whether a place without a finished base backup holds nothing at all.
fn nothing(settings: &Settings, repository: &Repository) -> Result<Answer> {
    let root = &settings.archive.directory;
    let left = match repository.something()? {
        Some(left) => Some(left),
        None if Archive::is_at(root)? => Archive::open(root, &settings.instance)?.something()?,
        None => durable_file::something_in(root)?,
    };
    match left {
        None => Ok(Answer::Nothing),
        Some(left) => Err(Hinted::new(
            format!(
                "there is no finished base backup, and \"{}\" is left of a cluster",
                left.display()
            ),
            "if it may be lost, move it away",
        )
        .into()),
    }
}

/// The archive of this machine and what it holds of its newest cluster.
pub fn own_archive(settings: &Settings) -> Result<(Archive, Cluster, ArchiveContents)> {
    let archive = Archive::open(&settings.archive.directory, &settings.instance)?;
    let cluster = archive.newest_cluster()?.clone();
    let (_, contents) = verification::contents(&archive, &cluster)?;
    Ok((archive, cluster, contents))
}

/// When the newest segment was archived; every change in the archive was made before.
pub fn changes_before(
    archive: &Archive,
    cluster: &Cluster,
    contents: &ArchiveContents,
) -> Option<Timestamp> {
    let newest = *contents.segments.last()?;
    let path = archive
        .path_of(cluster, &wal::WalFileName::Segment(newest))
        .ok()?;
    let written = fs::metadata(path).ok()?.modified().ok()?;
    Timestamp::try_from(written).ok()
}
