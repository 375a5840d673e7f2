//! Everything that a command needs to know about an instance, opened and checked once.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use archive::{Archive, Cluster};
use base_backups::Repository;
use cluster::Server;
use restore_plan::ArchiveContents;
use settings::Settings;
use snapshot_keeping::Holds;
use tool::Hinted;
pub use verification::starting_points;
use wal::{SegmentName, TimelineHistory, WalFileName};
use wal_scan::{Segment, Source};

/// An instance whose settings have been read and whose archive has shown itself.
pub struct Instance {
    /// The settings file, as an absolute path.
    pub config: PathBuf,
    /// The settings file for what comes after a restore. It is another one only where `config` is for
    /// a copy of archive and base backups.
    pub declared_config: PathBuf,
    /// What is in it.
    pub settings: Settings,
    /// Its archive.
    pub archive: Archive,
    /// Its server.
    pub server: Server,
    /// What keeps a snapshot from being destroyed while it is read. Nothing where there is no ZFS, and for
    /// commands that read none.
    pub holds: Option<Holds>,
}

/// What is in the archive, beyond names.
#[derive(Clone)]
pub struct Contents {
    /// The cluster that it is of.
    pub cluster: Cluster,
    /// What restores are planned with.
    pub plan: ArchiveContents,
}

impl Instance {
    /// Opens the instance that `settings`, which were read from `config`, describe.
    pub fn open(config: &Path, settings: Settings) -> Result<Self> {
        Ok(Self {
            config: config.to_owned(),
            declared_config: config.to_owned(),
            archive: Archive::open(&settings.archive.directory, &settings.instance)?,
            server: Server::new(&settings.postgresql),
            settings,
            holds: None,
        })
    }

    /// Its base backups.
    pub fn repository(&self) -> Result<Repository> {
        let declared = self.settings.base_backup.as_ref().ok_or_else(|| {
            Hinted::new(
                "the settings declare no base backups",
                "set baseBackup.directory; without base backups nothing can be restored",
            )
        })?;
        Repository::open(&declared.directory, &self.settings.instance)
    }

    /// What the archive holds of the newest cluster.
    pub fn contents(&self) -> Result<Contents> {
        let cluster = self.archive.newest_cluster()?.clone();
        let (_, plan) = verification::contents(&self.archive, &cluster)?;
        Ok(Contents { cluster, plan })
    }

    /// What there is of the newest cluster, in the archive and in the server's `pg_wal`, and what of it
    /// only `pg_wal` has.
    pub fn wal(&self) -> Result<(Contents, Unarchived)> {
        wal_in(&self.settings.postgresql.data_directory, || self.contents())
    }
}

/// What there is in the archive, by the word of `list`, and in the `pg_wal` of `data_directory`, and what of it
/// only `pg_wal` has.
///
/// The archive is listed before and after `pg_wal`: a segment that a running server archives and
/// recycles in the meantime would otherwise be in neither, and count as missing.
fn wal_in(
    data_directory: &Path,
    list: impl Fn() -> Result<Contents>,
) -> Result<(Contents, Unarchived)> {
    let before = list()?;
    let unarchived = Unarchived::in_data_directory(data_directory, &before)?;
    let mut contents = list()?;
    unarchived.add_to(&mut contents);
    Ok((contents, unarchived))
}

/// WAL that a data directory has and the archive has not.
#[derive(Clone, Debug, Default)]
pub struct Unarchived {
    /// Segments, in order. The last one may still be written.
    pub segments: Vec<(SegmentName, PathBuf)>,
    /// History files.
    pub histories: Vec<(TimelineHistory, PathBuf)>,
}

impl Unarchived {
    /// Looks for it in the `pg_wal` of `data_directory`.
    pub fn in_data_directory(data_directory: &Path, contents: &Contents) -> Result<Self> {
        let plan = &contents.plan;
        Self::collect(data_directory, contents, |name| match name {
            WalFileName::Segment(name) => !plan.segments.contains(name),
            WalFileName::History(timeline) => !plan.histories.contains_key(timeline),
            _ => false,
        })
    }

    /// What the `pg_wal` of `data_directory` has, whether or not the archive has it too.
    pub fn all_in(data_directory: &Path, contents: &Contents) -> Result<Self> {
        Self::collect(data_directory, contents, |_| true)
    }

    fn collect(
        data_directory: &Path,
        contents: &Contents,
        wanted: impl Fn(&WalFileName) -> bool,
    ) -> Result<Self> {
        let directory = data_directory.join("pg_wal");
        let mut unarchived = Self::default();
        let mut candidates = Vec::new();
        let entries = match std::fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(unarchived),
            Err(err) => {
                return Err(err).with_context(|| format!("list \"{}\"", directory.display()));
            }
        };
        for entry in entries {
            let entry = entry.with_context(|| format!("list \"{}\"", directory.display()))?;
            let name = entry
                .file_name()
                .to_str()
                .and_then(|name| WalFileName::parse(name).ok())
                .filter(&wanted);
            match name {
                Some(WalFileName::Segment(name)) => candidates.push((name, entry.path())),
                Some(WalFileName::History(timeline)) => {
                    let path = entry.path();
                    let text = std::fs::read_to_string(&path)
                        .with_context(|| format!("read \"{}\"", path.display()))?;
                    let history = TimelineHistory::parse(timeline, &text)
                        .map_err(|err| anyhow!("read \"{}\": {err}", path.display()))?;
                    unarchived.histories.push((history, path));
                }
                _ => {}
            }
        }
        candidates.sort();
        for (name, path) in candidates {
            let history = unarchived
                .histories
                .iter()
                .map(|(history, _)| history)
                .chain(contents.plan.histories.values())
                .find(|history| history.timeline == name.timeline());
            if is_current(&path, name, history, contents) {
                unarchived.segments.push((name, path));
            }
        }
        Ok(unarchived)
    }

    /// Adds what `other` has and this has not.
    pub fn add_missing(&mut self, other: Self) {
        for (name, path) in other.segments {
            if !self.segments.iter().any(|(own, _)| *own == name) {
                self.segments.push((name, path));
            }
        }
        for (history, path) in other.histories {
            let timeline = history.timeline;
            if !self
                .histories
                .iter()
                .any(|(own, _)| own.timeline == timeline)
            {
                self.histories.push((history, path));
            }
        }
        self.segments.sort();
    }

    /// Counts it among what there is, for a plan.
    pub fn add_to(&self, contents: &mut Contents) {
        contents
            .plan
            .segments
            .extend(self.segments.iter().map(|(name, _)| *name));
        for (history, _) in &self.histories {
            contents
                .plan
                .histories
                .insert(history.timeline, history.clone());
        }
    }
}

/// Whether a file in `pg_wal` is the segment that its name says.
///
/// PostgreSQL renames segments that it needs no more to the names of later ones, also of another
/// timeline, and leaves their content until it gets there. The header tells: it has another address
/// or, after a promotion, the timeline that has been left.
fn is_current(
    path: &Path,
    name: SegmentName,
    history: Option<&TimelineHistory>,
    contents: &Contents,
) -> bool {
    use std::io::Read as _;
    let mut start = [0; wal::LONG_HEADER_BYTES];
    let read = durable_file::open_regular(path).and_then(|mut file| file.read_exact(&mut start));
    let writer = history.map_or(name.timeline(), |history| {
        history.timeline_at(name.start(contents.plan.segment_size))
    });
    read.is_ok()
        && wal::LongPageHeader::parse(&start).is_ok_and(|header| {
            let expected = wal::page::Expected {
                system_identifier: Some(contents.plan.system_identifier),
                segment_size: Some(contents.plan.segment_size),
            };
            wal::check_segment(&header, name, expected).is_ok() && header.timeline == writer
        })
}

/// The stretch of WAL on one timeline's path from `first` on: archived segments, then those that
/// only the server has. Ends at the first one that is nowhere.
pub fn stretch(
    contents: &Contents,
    unarchived: &Unarchived,
    history: &TimelineHistory,
    first: SegmentName,
) -> Vec<Segment> {
    let size = contents.plan.segment_size;
    let mut segments = Vec::new();
    let mut at = first;
    loop {
        // Recovery prefers the newest timeline that has the segment, as far as it is on the path.
        let found = history.timelines().rev().find_map(|timeline| {
            let left = history.switch_point_of(timeline);
            if history.begin_of(timeline)? >= at.end(size)
                || left.is_some_and(|left| left <= at.start(size))
            {
                return None;
            }
            let name = at.with_timeline(timeline);
            // Planning counts what only the server has among the archived segments.
            let source = match unarchived
                .segments
                .iter()
                .find(|(unarchived, _)| *unarchived == name)
            {
                Some((_, path)) => Source::File(path.clone()),
                None if contents.plan.segments.contains(&name) => Source::Archive,
                None => return None,
            };
            Some(Segment { name, source })
        });
        let Some(found) = found else {
            return segments;
        };
        segments.push(found);
        let Some(next) = at.next(size) else {
            return segments;
        };
        at = next;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::{BTreeMap, BTreeSet};

    use wal::{SegmentSize, SystemIdentifier};

    use super::*;

    #[test]
    fn a_segment_that_goes_from_the_server_to_the_archive_meanwhile_is_not_missing() {
        let data = tempfile::tempdir().unwrap();
        let name = SegmentName::parse("000000010000000000000001").unwrap();
        let system_identifier: SystemIdentifier = "7000000000000000001".parse().unwrap();
        let listings = Cell::new(0);
        // When the archive is asked first it does not have the segment yet, and when the server is
        // looked at that has it no more.
        let list = || {
            let is_archived = listings.replace(listings.get() + 1) > 0;
            Ok(Contents {
                cluster: Cluster {
                    system_identifier,
                    segment_size_bytes: 16 << 20,
                    postgres_major: 16,
                    admitted_at: "2026-11-21T02:00:00Z".into(),
                    because: "first cluster".into(),
                },
                plan: ArchiveContents {
                    system_identifier,
                    segment_size: SegmentSize::new(16 << 20).unwrap(),
                    segments: BTreeSet::from_iter(is_archived.then_some(name)),
                    histories: BTreeMap::new(),
                },
            })
        };
        let (contents, unarchived) = wal_in(data.path(), list).unwrap();
        assert_eq!(contents.plan.segments, BTreeSet::from([name]));
        assert!(unarchived.segments.is_empty());
    }
}
