//! Getting base backups and WAL out of a restic repository, as much as a restore needs.
//!
//! What comes out is an archive and a base backup directory like those that were copied, with settings
//! for them. From there a restore goes on as from those of this machine.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder};
use std::ops::ControlFlow;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context as _, Result, anyhow, bail};
use archive::{Archive, Cluster};
use base_backups::Record;
use cluster::Programs;
use jiff::Timestamp;
use restic::{Repository, Snapshot};
use restore_plan::Target;
use settings::{ResticContent, Settings};
use tool::{Hinted, Level};
use wal::{SegmentName, WalFileName};
use wal_scan::{Segment, Source};

use crate::staging;

/// How many WAL files are fetched before it is looked whether they reach far enough.
const AT_A_TIME: usize = 128;
/// Directory for what is ours beside the base backups.
const OURS: &str = ".backstay";
const ARCHIVE_MANIFEST: &str = "archive.json";

/// Where base backups and WAL come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum From {
    /// A restic repository: the one with this name, or the first that has them.
    Restic(Option<String>),
}

impl FromStr for From {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "restic" => Ok(Self::Restic(None)),
            Some(("restic", name)) if !name.is_empty() => Ok(Self::Restic(Some(name.to_owned()))),
            _ => Err("write it as restic, or as restic:NAME".into()),
        }
    }
}

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Where they come from: `restic` for the first restic repository that has them, restic:NAME for
    /// this one
    #[arg(long, value_name = "SOURCE", default_value = "restic")]
    from: From,

    /// The moment that is to be restored, as for `restore`
    #[arg(long, value_name = "TARGET", default_value = "latest")]
    to: String,

    /// Where they go; has to be empty or not to exist
    #[arg(long, value_name = "DIRECTORY", value_parser = crate::absolute)]
    into: PathBuf,
}

impl Arguments {
    /// Where they come from.
    pub fn from(&self) -> &From {
        &self.from
    }
}

/// The repositories that `from` means, ready to be read. Passwords are read now, by whoever may.
pub fn open(settings: &Settings, from: &From) -> Result<Vec<Repository>> {
    let From::Restic(wanted) = from;
    let state = settings.state_directory();
    let cache = state.is_dir().then(|| state.join("restic-cache"));
    let repositories = settings
        .restic
        .iter()
        .filter(|declared| wanted.as_ref().is_none_or(|name| *name == declared.name))
        .map(|declared| Repository::new(declared, cache.as_deref()))
        .collect::<Result<Vec<_>>>()?;
    if repositories.is_empty() {
        let names: Vec<&str> = settings.restic.iter().map(|r| r.name.as_str()).collect();
        return Err(Hinted::new(
            match wanted {
                Some(name) => format!("restic repository \"{name}\" is not in the settings"),
                None => "the settings declare no restic repository".into(),
            },
            if names.is_empty() {
                "declare it in the list restic".to_owned()
            } else {
                format!("use one of {}", names.join(", "))
            },
        )
        .into());
    }
    Ok(repositories)
}

/// `backstay fetch`: gets base backups and WAL into a directory.
pub fn fetch(
    settings: &Settings,
    arguments: &Arguments,
    repositories: &[Repository],
) -> Result<()> {
    let config = fetch_from_first(settings, repositories, &arguments.to, &arguments.into)?;
    tool::print(&format!(
        "Base backups and WAL are in \"{}\".\nRestore from them with: backstay restore {} --config {} …\n",
        arguments.into.display(),
        settings.instance,
        command::quoted(&config.display().to_string())
    ))
}

/// Gets what a restore to `target` needs into `directory`, from the first of `repositories` that has
/// it, and returns the settings for it.
///
/// # Errors
///
/// Fails when none has it, or something cannot be read or written. What was written by then is removed.
pub fn fetch_from_first(
    settings: &Settings,
    repositories: &[Repository],
    target: &str,
    directory: &Path,
) -> Result<PathBuf> {
    let target = Target::parse(target, Timestamp::now())
        .map_err(|err| Hinted::new(err.to_string(), err.hint().to_owned()))?;
    let mut first_error = None;
    for repository in repositories {
        clear(directory)?;
        match fetch_from(settings, repository, &target, directory) {
            Ok(config) => return Ok(config),
            Err(err) => {
                tool::report(
                    &format!("could not use restic repository \"{}\"", repository.name()),
                    &err,
                );
                first_error = first_error.or(Some(err));
            }
        }
        clear(directory)?;
    }
    Err(first_error.unwrap_or_else(|| anyhow!("there is no restic repository")))
}

/// Removes what an earlier call left in `directory`, which is known by the settings that it writes
/// first.
pub fn clear(directory: &Path) -> Result<()> {
    if !settings_in(directory).exists() {
        return Ok(());
    }
    fs::remove_dir_all(directory).with_context(|| format!("remove \"{}\"", directory.display()))
}

fn settings_in(directory: &Path) -> PathBuf {
    directory.join("settings.json")
}

fn fetch_from(
    settings: &Settings,
    repository: &Repository,
    target: &Target,
    directory: &Path,
) -> Result<PathBuf> {
    let newest = |content: ResticContent, what: &str| {
        repository
            .newest(&settings.instance, content)?
            .ok_or_else(|| {
                anyhow!(
                    "restic repository \"{}\" has no {what} of instance \"{}\"",
                    repository.name(),
                    settings.instance
                )
            })
    };
    let base = newest(ResticContent::Base, "base backups")?;
    let wal = newest(ResticContent::Wal, "WAL archive")?;
    let base_target = directory.join("base-backups");
    let wal_target = directory.join("wal");
    let base_root = base.restored_root(&base_target)?;
    let wal_root = wal.restored_root(&wal_target)?;

    match fs::read_dir(directory).map(|mut entries| entries.next().is_some()) {
        Ok(true) => bail!("\"{}\" is not empty", directory.display()),
        Ok(false) => {}
        Err(_) => DirBuilder::new()
            .mode(0o700)
            .create(directory)
            .with_context(|| format!("create \"{}\"", directory.display()))?,
    }
    let config = write_settings(settings, directory, &base_root, &wal_root)?;
    say(&format!(
        "reading restic repository \"{}\": WAL as of {}, base backups as of {}",
        repository.name(),
        wal.time,
        base.time
    ));
    let starts = fetch_base_backups(settings, repository, &base, target, &base_target)?;
    let fetched = Wal {
        repository,
        snapshot: &wal,
        target: &wal_target,
        root: &wal_root,
    };
    fetched.fetch(settings, &starts, target)?;
    Ok(config)
}

/// Writes the settings for what is fetched: those of the instance, with another archive and other base
/// backups.
fn write_settings(
    settings: &Settings,
    directory: &Path,
    base_root: &Path,
    wal_root: &Path,
) -> Result<PathBuf> {
    let mut settings = settings.clone();
    wal_root.clone_into(&mut settings.archive.directory);
    settings.archive.further_directories.clear();
    if let Some(backup) = &mut settings.base_backup {
        base_root.clone_into(&mut backup.directory);
    }
    settings.restic.clear();
    settings.drill = None;
    settings.preseed = None;
    let path = settings_in(directory);
    let text = serde_json::to_vec_pretty(&settings).context("write the settings")?;
    durable_file::replace(&path, &text)?;
    Ok(path)
}

/// Fetches the base backups from which `target` may be reached, and returns their records.
fn fetch_base_backups(
    settings: &Settings,
    repository: &Repository,
    snapshot: &Snapshot,
    target: &Target,
    into: &Path,
) -> Result<Vec<Record>> {
    let root = snapshot.root()?;
    let files = repository.files(snapshot)?;
    let ours = root.join(OURS);
    let descriptions: Vec<PathBuf> = files
        .iter()
        .filter(|file| {
            file.path.parent() == Some(&ours)
                && file.path.extension().is_some_and(|kind| kind == "json")
        })
        .map(|file| file.path.clone())
        .collect();
    repository.restore(snapshot, &descriptions, into)?;
    let restored = snapshot.restored_root(into)?;
    let there: BTreeSet<&std::ffi::OsStr> = files
        .iter()
        .filter_map(|file| file.path.strip_prefix(root).ok()?.iter().next())
        .collect();
    // A record counts only together with its directory, which is empty for now.
    let directories: Vec<PathBuf> = there
        .iter()
        .filter(|name| **name != OURS)
        .map(|name| restored.join(name))
        .collect();
    for directory in &directories {
        durable_file::ensure_directory(directory)?;
    }
    let copied = base_backups::Repository::open(&restored, &settings.instance)?;
    let records = copied.list()?;
    for directory in &directories {
        fs::remove_dir(directory).with_context(|| format!("remove \"{}\"", directory.display()))?;
    }
    let chosen = candidates(&records, target);
    let mut names = BTreeSet::new();
    for record in &chosen {
        names.extend(record.chain(&records)?.iter().map(|link| link.name.clone()));
    }
    let wanted: Vec<PathBuf> = names
        .iter()
        .flat_map(|name| [root.join(name), ours.join(format!("{name}.tablespaces"))])
        .collect();
    let bytes = files
        .iter()
        .filter(|file| wanted.iter().any(|path| file.path.starts_with(path)))
        .map(|file| file.length_bytes)
        .sum();
    staging::check_space(into, bytes)?;
    say(&format!(
        "fetching {} base backups, {} MiB",
        names.len(),
        bytes >> 20
    ));
    if !wanted.is_empty() {
        repository.restore(snapshot, &wanted, into)?;
    }
    Ok(chosen.into_iter().cloned().collect())
}

/// The base backups with which a restore to `target` may begin: of each timeline the newest one that is
/// early enough, or all of them where only the WAL can tell. Should none be early enough, the oldest
/// one, so that the refusal can say from when on there is something.
fn candidates<'a>(records: &'a [Record], target: &Target) -> Vec<&'a Record> {
    let usable: Vec<&Record> = records
        .iter()
        .filter(|record| record.chain(records).is_ok())
        .collect();
    let is_early = |record: &Record| match target {
        Target::Time(time) => record.stopped_at < *time,
        Target::Lsn(lsn) => record.stop_lsn <= *lsn,
        Target::Latest | Target::Immediate | Target::Xid(_) | Target::Name(_) => true,
    };
    let early: Vec<&Record> = usable
        .iter()
        .copied()
        .filter(|record| is_early(record))
        .collect();
    if early.is_empty() {
        return usable.first().copied().into_iter().collect();
    }
    if matches!(target, Target::Xid(_) | Target::Name(_)) {
        return early;
    }
    let newest_of = |timeline| {
        early
            .iter()
            .rev()
            .find(|record| record.timeline == timeline)
            .copied()
    };
    let timelines: BTreeSet<_> = early.iter().map(|record| record.timeline).collect();
    timelines.into_iter().filter_map(newest_of).collect()
}

/// The archive in a snapshot, and where it goes.
struct Wal<'a> {
    repository: &'a Repository,
    snapshot: &'a Snapshot,
    target: &'a Path,
    root: &'a Path,
}

impl Wal<'_> {
    /// Fetches what a restore from one of `starts` to `target` reads.
    fn fetch(&self, settings: &Settings, starts: &[Record], target: &Target) -> Result<()> {
        let root = self.snapshot.root()?;
        let Some(newest) = starts.last() else {
            bail!(
                "restic repository \"{}\" has no finished base backup of instance \"{}\"",
                self.repository.name(),
                settings.instance
            );
        };
        let of_cluster = root.join(newest.system_identifier.to_string());
        let files = self.repository.files(self.snapshot)?;
        // All that is not a segment is small: the manifest, and the histories of the timelines.
        let first = [root.join(ARCHIVE_MANIFEST), of_cluster.join("history")];
        self.repository
            .restore(self.snapshot, &first, self.target)?;
        let archive = Archive::open(self.root, &settings.instance)?;
        let cluster = archive.cluster(newest.system_identifier)?.clone();
        durable_file::ensure_directory(
            &self
                .root
                .join(newest.system_identifier.to_string())
                .join("history"),
        )?;
        let size = cluster.segment_size()?;
        let from = starts
            .iter()
            .map(|record| record.start_lsn)
            .min()
            .unwrap_or_default();
        let mut segments: Vec<(SegmentName, &restic::File)> = files
            .iter()
            .filter(|file| file.path.starts_with(&of_cluster))
            .filter_map(|file| {
                let name = file.path.file_name()?.to_str()?;
                match WalFileName::parse(name) {
                    Ok(WalFileName::Segment(name)) => Some((name, file)),
                    _ => None,
                }
            })
            .filter(|(name, _)| name.end(size) > from)
            // A record may begin in the segment of the target and end in the next.
            .filter(|(name, _)| match target {
                Target::Lsn(lsn) => name
                    .start(size)
                    .bytes_since(*lsn)
                    .is_none_or(|past| past <= size.bytes()),
                _ => true,
            })
            .collect();
        segments.sort_by_key(|(name, _)| (name.start(size), name.timeline()));
        let timelines: BTreeSet<_> = segments.iter().map(|(name, _)| name.timeline()).collect();
        let programs = Programs::in_directory(&settings.postgresql.bin_directory);
        for (number, part) in segments.chunks(AT_A_TIME).enumerate() {
            let bytes = part.iter().map(|(_, file)| file.length_bytes).sum();
            staging::check_space(self.target, bytes)?;
            say(&format!(
                "fetching WAL from {}, {} of at most {} files",
                part.first()
                    .map_or_else(String::new, |(name, _)| name.to_string()),
                number * AT_A_TIME + part.len(),
                segments.len()
            ));
            let paths: Vec<PathBuf> = part.iter().map(|(_, file)| file.path.clone()).collect();
            self.repository
                .restore(self.snapshot, &paths, self.target)?;
            // On several timelines one may be past the target and another not yet.
            if let Target::Time(time) = target
                && timelines.len() == 1
                && is_past(&archive, &cluster, &programs, part, *time)?
            {
                break;
            }
        }
        Ok(())
    }
}

/// Whether a transaction in the last of `segments` ended after `time`.
fn is_past(
    archive: &Archive,
    cluster: &Cluster,
    programs: &Programs,
    segments: &[(SegmentName, &restic::File)],
    time: Timestamp,
) -> Result<bool> {
    let last: Vec<Segment> = segments
        .last()
        .map(|(name, _)| Segment {
            name: *name,
            source: Source::Archive,
        })
        .into_iter()
        .collect();
    let mut is_past = false;
    wal_scan::scan(archive, cluster, programs, &last, |record| {
        is_past = record.commits().is_some()
            && record.transaction_time().is_some_and(|ended| ended > time);
        Ok(if is_past {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        })
    })?;
    Ok(is_past)
}

fn say(what: &str) {
    tool::log(Level::Info, format_args!("{what}"));
}
