//! Snapshots of the data directory that are still on this machine, and its archive.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use archive::Archive;
use cluster_copy::snapshots::{self, Snapshot};
use command::Command;
use instance_state::Reach;
use jiff::Timestamp;
use mounts::{Mounts, Place};
use restore_plan::{ArchiveContents, StartingPoint, Target};
use serde::Deserialize;
use settings::{Preseed, Settings};
use tool::Hinted;
use wal::Lsn;

use super::base_backups::{changes_before, own_archive};
use super::{Answer, Ask, Offer};

/// The snapshots of the dataset that the data directory is in.
///
/// They are read as directories. Nothing is rolled back, so a restore from one of them takes none away.
pub struct InSnapshots {
    /// The dataset as it is declared.
    dataset: String,
    /// The settings file.
    config: PathBuf,
    /// The moment, as it is declared.
    target: String,
    exclusive: bool,
}

impl InSnapshots {
    /// Those of `dataset`, for a restore to where `preseed` says.
    pub fn of(dataset: &str, config: &Path, preseed: &Preseed) -> Self {
        Self {
            dataset: dataset.to_owned(),
            config: config.to_owned(),
            target: preseed.target.clone(),
            exclusive: preseed.exclusive,
        }
    }
}

impl Ask for InSnapshots {
    fn ask(&self, settings: &Settings, _: &Target) -> Result<Answer> {
        let data = &settings.postgresql.data_directory;
        let (shown, below) = snapshots::place_of(data).ok_or_else(|| {
            Hinted::new(
                format!(
                    "no snapshots are shown for \"{}\": its file system is not ZFS, or \"{}\" is not mounted",
                    data.display(),
                    self.dataset
                ),
                format!("mount \"{}\"; it must not have snapdir=disabled", self.dataset),
            )
        })?;
        let archived = archived(settings)?;
        match (holding(&shown, &below)?, archived) {
            (None, None) => {
                check_mounted(&shown, "zfs", &self.dataset)?;
                Ok(Answer::Nothing)
            }
            (Some(held), None) => Err(Hinted::new(
                format!(
                    "\"{}\" is of a cluster, and there is no WAL of it in \"{}\"",
                    held.display(),
                    settings.archive.directory.display()
                ),
                "bring the archive back first, or mount it; if the cluster may be lost, destroy its snapshots",
            )
            .into()),
            (None, Some(left)) => Err(Hinted::new(
                format!(
                    "no snapshot holds a cluster, and \"{}\" is left of one",
                    left.display()
                ),
                "if it may be lost, move it away",
            )
            .into()),
            (Some(held), Some(_)) => self.offer(settings, &held).map(Answer::Has),
        }
    }
}

/// A file in the archive of this machine, if it is there and holds any.
fn archived(settings: &Settings) -> Result<Option<PathBuf>> {
    let root = &settings.archive.directory;
    if Archive::is_at(root)? {
        Archive::open(root, &settings.instance)?.something()
    } else {
        durable_file::something_in(root)
    }
}

/// What one of the snapshots in `shown` holds of a cluster, whose data directory is at `below` in each: that
/// directory, one of another version beside it, or one that a restore has kept.
fn holding(shown: &Path, below: &Path) -> Result<Option<PathBuf>> {
    let mut newest = None;
    for entry in fs::read_dir(shown).with_context(|| format!("list \"{}\"", shown.display()))? {
        let snapshot = entry
            .with_context(|| format!("list \"{}\"", shown.display()))?
            .path();
        let data = snapshot.join(below);
        if durable_file::something_in(&data)?.is_some() {
            newest = newest.max(Some(data));
            continue;
        }
        // One from before the instance has not even the directory above.
        if data.parent().is_some_and(Path::is_dir) {
            let beside = data_directory::clusters_beside(&data)?;
            newest = newest.max(beside.into_iter().next());
        }
    }
    Ok(newest)
}

/// Checks that the snapshots in `shown` are those of the file system `source`: where it is not mounted, those
/// of the one below are seen instead, and say nothing.
fn check_mounted(shown: &Path, kind: &str, source: &str) -> Result<()> {
    let mount = shown
        .ancestors()
        .nth(2)
        .ok_or_else(|| anyhow!("\"{}\" is in no directory", shown.display()))?;
    let (Place::MountPoint(seen) | Place::Directory(seen) | Place::Hiding { seen, .. }) =
        Mounts::read()?.place(mount)?;
    if seen.filesystem == kind && seen.source == source {
        return Ok(());
    }
    Err(Hinted::new(
        format!(
            "dataset \"{source}\" is not mounted at \"{}\", {} \"{}\" is: that it shows no snapshots is no proof",
            mount.display(),
            seen.filesystem,
            seen.source
        ),
        format!("mount it: `zfs mount {source}`"),
    )
    .into())
}

/// What `backstay restore --plan` says of a restore.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Planned {
    starting_point: Beginning,
    consistent_at: String,
    consistent_time: Timestamp,
    content_bytes: u64,
}

/// What it would begin with.
#[derive(Debug, Deserialize)]
struct Beginning {
    name: String,
}

impl InSnapshots {
    /// The restore point that the snapshots and the archive are. It is planned by who would make the restore:
    /// where the WAL of a snapshot ends is found by reading it.
    fn offer(&self, settings: &Settings, held: &Path) -> Result<Offer> {
        let (archive, cluster, contents) = own_archive(settings)?;
        let data = &settings.postgresql.data_directory;
        let usable = snapshots::all(data, cluster.system_identifier)?;
        if usable.is_empty() {
            return Err(Hinted::new(
                format!(
                    "its snapshots hold no whole cluster of system identifier {}, which the archive \"{}\" is of; \"{}\" is something else",
                    cluster.system_identifier,
                    archive.root().display(),
                    held.display()
                ),
                "find out whose data this is",
            )
            .into());
        }
        let planned = self.plan(settings)?;
        let snapshot = usable
            .iter()
            .find(|snapshot| snapshot.name == planned.starting_point.name)
            .ok_or_else(|| anyhow!("snapshot \"{}\" is gone", planned.starting_point.name))?;
        let stop: Lsn = planned
            .consistent_at
            .parse()
            .map_err(|err| anyhow!("read where the snapshot is consistent: {err}"))?;
        Ok(Offer {
            system_identifier: cluster.system_identifier,
            starting_point: format!("snapshot {}", snapshot.name),
            starting_time: planned.consistent_time,
            reach: reach(snapshot, stop, planned.consistent_time, &contents)?,
            changes_before: changes_before(&archive, &cluster, &contents)
                .max(Some(planned.consistent_time)),
            fetch_bytes: 0,
            content_bytes: planned.content_bytes,
            from_own_archive: true,
            origin: format!("snapshot:{}", snapshot.name),
        })
    }

    fn plan(&self, settings: &Settings) -> Result<Planned> {
        let mut command = Command::beside("backstay")?
            .args(["restore", &settings.instance, "--config"])
            .arg(&self.config)
            .args(["--from", "snapshot", "--to", &self.target])
            .args(["--plan", "--json"]);
        if self.exclusive {
            command = command.arg("--exclusive");
        }
        let (status, output) = command.run_any_status()?;
        if !status.success() {
            let lines: Vec<String> = output.stderr.lines().map(ToOwned::to_owned).collect();
            return Err(super::complaint(&command, status, &lines));
        }
        serde_json::from_str(&output.stdout).context("read the plan of `backstay restore`")
    }
}

/// How far WAL leads from `snapshot`, which is consistent at `stop`.
fn reach(
    snapshot: &Snapshot,
    stop: Lsn,
    stop_time: Timestamp,
    contents: &ArchiveContents,
) -> Result<Reach> {
    let point = StartingPoint {
        id: snapshot.name.clone(),
        system_identifier: snapshot.control.system_identifier,
        timeline: snapshot.control.timeline,
        start: snapshot.control.redo,
        stop,
        stop_time,
        postgres_major: cluster::major_of(&snapshot.directory)?,
    };
    // What the snapshot holds itself may reach further than what was archived.
    let own = Reach {
        timeline: point.timeline,
        lsn: stop,
    };
    Ok(restore_plan::windows(&[point], contents)
        .into_iter()
        .map(|window| Reach {
            timeline: window.timeline,
            lsn: window.to,
        })
        .fold(own, Reach::max))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A place where snapshots are shown, with these files in them.
    fn shown(files: &[&str]) -> (tempfile::TempDir, PathBuf) {
        let mount = tempfile::tempdir().unwrap();
        let shown = mount.path().join(".zfs/snapshot");
        fs::create_dir_all(&shown).unwrap();
        for file in files {
            let path = shown.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "17").unwrap();
        }
        (mount, shown)
    }

    #[test]
    fn a_snapshot_holds_nothing_only_without_any_cluster_of_the_instance() {
        let below = Path::new("17");
        let (mount, empty) = shown(&["before/notes.txt"]);
        fs::create_dir_all(empty.join("made/17")).unwrap();
        assert_eq!(holding(&empty, below).unwrap(), None);
        for left in [
            "a/17/PG_VERSION",
            // Half of one counts: somebody has to look.
            "a/17/base/1/1259",
            "a/16/PG_VERSION",
            "a/17.before-restore-20261121-000000/PG_VERSION",
        ] {
            let (_mount, shown) = shown(&[left]);
            assert!(holding(&shown, below).unwrap().is_some(), "{left}");
        }
        assert!(holding(&mount.path().join("nowhere"), below).is_err());
    }

    #[test]
    fn only_the_snapshots_of_the_declared_dataset_are_a_proof() {
        let (mount, shown) = shown(&[]);
        let (Place::MountPoint(seen) | Place::Directory(seen) | Place::Hiding { seen, .. }) =
            Mounts::read().unwrap().place(mount.path()).unwrap();
        check_mounted(&shown, &seen.filesystem, &seen.source).unwrap();
        for (kind, source) in [
            ("zfs", seen.source.as_str()),
            (&seen.filesystem, "tank/pg/main"),
        ] {
            let err = check_mounted(&shown, kind, source).unwrap_err();
            let text = err.to_string();
            assert!(
                text.starts_with(&format!("dataset \"{source}\" is not mounted at ")),
                "{text}"
            );
        }
    }
}
