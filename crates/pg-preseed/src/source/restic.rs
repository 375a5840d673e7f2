//! A restic repository with copies of base backups and archive.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use archive::Archive;
use base_backups::Record;
use restic::{File, Repository, Snapshot};
use restore_plan::{ArchiveContents, Target};
use settings::{ResticContent, ResticRepository, ResticSource, Settings};
use tool::Hinted;
use wal::WalFileName;

use super::base_backups::own_archive;
use super::{Answer, Ask, Offer, offer};

/// What a repository is called that copies do not go to, and that has no name of its own.
const NAME: &str = "preseed";
/// Directory for what is ours beside the base backups.
const OURS: &str = ".backstay";
const ARCHIVE_MANIFEST: &str = "archive.json";

/// The repository of a source, as `backstay fetch` wants it declared.
///
/// The same repository may be in the list of those that copies go to. Then that says what it is called, whose
/// copies are meant if they are of several hosts, and where the password is for whoever runs this outside of its unit.
pub fn declaration(settings: &Settings, source: &ResticSource) -> ResticRepository {
    let same = settings
        .restic
        .iter()
        .find(|declared| declared.repository == source.repository);
    let or_same = |own: &Path, other: Option<&PathBuf>| match other {
        Some(other) if !own.exists() => other.clone(),
        _ => own.to_owned(),
    };
    ResticRepository {
        name: same.map_or_else(|| NAME.into(), |declared| declared.name.clone()),
        repository: source.repository.clone(),
        password_file: or_same(
            &source.password_file,
            same.map(|declared| &declared.password_file),
        ),
        environment_file: source.environment_file.as_ref().map(|own| {
            or_same(
                own,
                same.and_then(|declared| declared.environment_file.as_ref()),
            )
        }),
        host: same.and_then(|declared| declared.host.clone()),
        jobs: Vec::new(),
    }
}

/// A repository, or why it cannot be read.
pub struct InRepository {
    repository: Result<Repository, Answer>,
}

impl InRepository {
    /// Reads the password, while this process may.
    pub fn open(declared: &ResticRepository) -> Self {
        Self {
            repository: Repository::new(declared, None).map_err(|err| Answer::of_error(&err)),
        }
    }
}

impl Ask for InRepository {
    fn ask(&self, settings: &Settings, target: &Target) -> Result<Answer> {
        let repository = match &self.repository {
            Ok(repository) => repository,
            Err(cannot_say) => return Ok(cannot_say.clone()),
        };
        let newest = |content| repository.newest(&settings.instance, content);
        match (newest(ResticContent::Base)?, newest(ResticContent::Wal)?) {
            (None, None) => Ok(Answer::Nothing),
            (Some(base), Some(wal)) => Ok(Answer::Has(
                Copies {
                    repository,
                    base,
                    wal,
                }
                .offer(settings, target)?,
            )),
            (base, _) => {
                let (has, lacks) = match base {
                    Some(_) => ("base backups", "WAL archive"),
                    None => ("a WAL archive", "base backup"),
                };
                Err(Hinted::new(
                    format!("it holds {has} of this instance and no {lacks}"),
                    "both are needed for a restore; has the other job been run?",
                )
                .into())
            }
        }
    }
}

/// The newest copies of both.
struct Copies<'a> {
    repository: &'a Repository,
    base: Snapshot,
    wal: Snapshot,
}

impl Copies<'_> {
    fn offer(&self, settings: &Settings, target: &Target) -> Result<Offer> {
        let here = tempfile::tempdir().context("make a directory for what describes the copies")?;
        let base_files = self.repository.files(&self.base)?;
        let records = self.records(&base_files, &here.path().join("base"))?;
        if records.is_empty() {
            return Err(Hinted::new(
                "its copy of the base backups has no finished one",
                "has a base backup been taken before it was copied?",
            )
            .into());
        }
        let wal_files = self.repository.files(&self.wal)?;
        let contents = self.contents(settings, &wal_files, &here.path().join("wal"))?;
        let copied = offer(settings, &records, &contents, target).map(|offer| Offer {
            changes_before: Some(self.wal.time),
            fetch_bytes: base_bytes(&self.base, &base_files, &records, &offer)
                + wal_bytes(&wal_files, &contents, &records, &offer),
            ..offer
        });
        // What was archived since the last copy is still here if only the data is lost.
        let own = own_archive(settings).and_then(|(archive, cluster, contents)| {
            let offer = offer(settings, &records, &contents, target)?;
            Ok(Offer {
                changes_before: super::base_backups::changes_before(&archive, &cluster, &contents),
                fetch_bytes: base_bytes(&self.base, &base_files, &records, &offer),
                from_own_archive: true,
                ..offer
            })
        });
        match (copied, own) {
            (Ok(copied), Ok(own)) if own.reach > copied.reach => Ok(own),
            (Err(_), Ok(own)) => Ok(own),
            (copied, _) => copied,
        }
    }

    /// The records of the base backups whose files were copied too.
    fn records(&self, files: &[File], into: &Path) -> Result<Vec<Record>> {
        let root = self.base.root()?;
        let ours = root.join(OURS);
        let there: BTreeSet<&Path> = files
            .iter()
            .filter_map(|file| {
                file.path
                    .strip_prefix(root)
                    .ok()?
                    .iter()
                    .next()
                    .map(Path::new)
            })
            .collect();
        let described: Vec<PathBuf> = files
            .iter()
            .filter(|file| file.path.parent() == Some(&ours))
            .filter(|file| {
                file.path.extension().is_some_and(|kind| kind == "json")
                    && file
                        .path
                        .file_stem()
                        .is_some_and(|name| there.contains(Path::new(name)))
            })
            .map(|file| file.path.clone())
            .collect();
        if described.is_empty() {
            return Ok(Vec::new());
        }
        self.repository.restore(&self.base, &described, into)?;
        let mut records = Vec::new();
        for path in described {
            let copy = into.join(path.strip_prefix("/").unwrap_or(&path));
            let text = fs::read(&copy).with_context(|| format!("read \"{}\"", path.display()))?;
            let record: Record = serde_json::from_slice(&text)
                .with_context(|| format!("read \"{}\"", path.display()))?;
            records.push(record);
        }
        records.sort_by_key(|record| (record.stopped_at, record.stop_lsn));
        Ok(records)
    }

    /// The WAL that was copied, by the names of its files.
    fn contents(
        &self,
        settings: &Settings,
        files: &[File],
        into: &Path,
    ) -> Result<ArchiveContents> {
        let root = self.wal.root()?;
        // All that is not a segment is small: the manifest, and the histories of the timelines.
        let small: Vec<PathBuf> = files
            .iter()
            .map(|file| &file.path)
            .filter(|path| **path == root.join(ARCHIVE_MANIFEST) || is_history(path))
            .cloned()
            .collect();
        if small.is_empty() {
            return Err(anyhow!(
                "its copy of the WAL archive has no {ARCHIVE_MANIFEST}"
            ));
        }
        self.repository.restore(&self.wal, &small, into)?;
        let archive = Archive::open(&self.wal.restored_root(into)?, &settings.instance)?;
        let cluster = archive.newest_cluster()?.clone();
        let of_cluster = root.join(cluster.system_identifier.to_string());
        durable_file::ensure_directory(
            &archive
                .root()
                .join(cluster.system_identifier.to_string())
                .join("history"),
        )?;
        let (_, mut contents) = verification::contents(&archive, &cluster)?;
        contents.segments = files
            .iter()
            .filter(|file| file.path.starts_with(&of_cluster))
            .filter_map(|file| match name_of(&file.path)? {
                WalFileName::Segment(name) => Some(name),
                _ => None,
            })
            .collect();
        Ok(contents)
    }
}

fn name_of(path: &Path) -> Option<WalFileName> {
    WalFileName::parse(path.file_name()?.to_str()?).ok()
}

fn is_history(path: &Path) -> bool {
    matches!(name_of(path), Some(WalFileName::History(_)))
}

/// What the base backup of `offer` and those that it builds on take.
fn base_bytes(snapshot: &Snapshot, files: &[File], records: &[Record], offer: &Offer) -> u64 {
    let Ok(root) = snapshot.root() else { return 0 };
    let chain = records
        .iter()
        .find(|record| offer.starting_point.ends_with(&record.name))
        .and_then(|record| record.chain(records).ok())
        .unwrap_or_default();
    let wanted: Vec<PathBuf> = chain
        .iter()
        .flat_map(|link| {
            [
                root.join(&link.name),
                root.join(OURS).join(format!("{}.tablespaces", link.name)),
            ]
        })
        .collect();
    files
        .iter()
        .filter(|file| wanted.iter().any(|path| file.path.starts_with(path)))
        .map(|file| file.length_bytes)
        .sum()
}

/// What the WAL from the base backup of `offer` on takes.
fn wal_bytes(files: &[File], contents: &ArchiveContents, records: &[Record], offer: &Offer) -> u64 {
    let from = records
        .iter()
        .find(|record| offer.starting_point.ends_with(&record.name))
        .map(|record| record.start_lsn)
        .unwrap_or_default();
    files
        .iter()
        .filter(|file| {
            matches!(name_of(&file.path), Some(WalFileName::Segment(name)) if name.end(contents.segment_size) > from)
        })
        .map(|file| file.length_bytes)
        .sum()
}
