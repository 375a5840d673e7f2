use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use durable_file::{Published, Temporary};
use serde::{Deserialize, Serialize};
use tool::{Hinted, WithHint as _};
use wal::control::ControlFile;
use wal::page::{LONG_HEADER_BYTES, LongPageHeader};
use wal::{SegmentName, SegmentSize, SystemIdentifier, TimelineHistory, TimelineId, WalFileName};

use crate::format::{self, BLOCK_BYTES, Codec, Damaged, FORMAT_VERSION, Threads};

/// Name of the manifest. A directory without it is no archive: an unmounted one, for example.
const MANIFEST: &str = "archive.json";
/// Directory for files that are being written.
const INCOMING: &str = "incoming";
/// Directory of a cluster's timeline history files.
const HISTORY: &str = "history";
/// Directory of what was moved aside.
const DAMAGED: &str = "damaged";
/// How many leftovers of dead writers one call removes.
const SWEEP_LIMIT: usize = 64;

/// Directory below `pg_wal` in which files wait that were fetched ahead.
pub const SEGMENT_STAGING: &str = "backstay-prefetch";

/// Whose archive a directory is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT_VERSION`].
    pub format: u32,
    /// The instance whose archive this is.
    pub instance: String,
    /// The clusters that this instance has been, the newest last. Only their WAL is taken.
    pub clusters: Vec<Cluster>,
}

/// A cluster whose WAL the archive takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cluster {
    /// System identifier, from the cluster's control file.
    pub system_identifier: SystemIdentifier,
    /// Segment size, in bytes.
    pub segment_size_bytes: u64,
    /// Major version of PostgreSQL.
    pub postgres_major: u32,
    /// When it was admitted, in RFC 3339.
    pub admitted_at: String,
    /// Why it was admitted.
    pub because: String,
}

impl Cluster {
    /// The segment size.
    ///
    /// # Errors
    ///
    /// Fails when the manifest holds a size that PostgreSQL does not know.
    pub fn segment_size(&self) -> Result<SegmentSize> {
        SegmentSize::new(self.segment_size_bytes).map_err(|err| anyhow!("{err}"))
    }
}

/// What [`Archive::put`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// The file is in the archive, durably.
    Stored,
    /// The same content was there already, and is durable now.
    AlreadyThere,
}

/// What [`Archive::get`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetched {
    /// The file was written and is what was archived.
    Yes,
    /// The archive has proven that it does not hold the file.
    NotInArchive,
}

/// What the archive holds of one cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Archived files with their stored size in bytes, in the order of their names.
    pub files: Vec<(WalFileName, u64)>,
    /// Files that are not the archive's. They are never touched.
    pub foreign: Vec<PathBuf>,
}

impl Listing {
    /// The segments among the files, in the order of their names.
    pub fn segments(&self) -> impl Iterator<Item = SegmentName> + '_ {
        self.files.iter().filter_map(|(name, _)| match name {
            WalFileName::Segment(segment) => Some(*segment),
            _ => None,
        })
    }
}

/// An archive that has shown that it is the right one.
#[derive(Clone, Debug)]
pub struct Archive {
    root: PathBuf,
    manifest: Manifest,
}

impl Archive {
    /// Whether the directory `root` has the manifest of an archive, of whichever instance.
    ///
    /// # Errors
    ///
    /// Fails when that cannot be seen.
    pub fn is_at(root: &Path) -> Result<bool> {
        let path = root.join(MANIFEST);
        path.try_exists()
            .with_context(|| format!("examine \"{}\"", path.display()))
    }

    /// Opens the archive of `instance` in the directory `root`.
    ///
    /// # Errors
    ///
    /// Fails when the manifest cannot be read, is of another format or of another instance. An
    /// empty directory fails: a dataset that is not mounted is empty too.
    pub fn open(root: &Path, instance: &str) -> Result<Self> {
        let path = root.join(MANIFEST);
        let text = fs::read(&path)
            .with_context(|| format!("open \"{}\"", path.display()))
            .with_hint(|| {
                format!(
                    "is the archive mounted at \"{}\"? a new one is made by `backstay archive init {instance}`",
                    root.display()
                )
            })?;
        let manifest: Manifest = serde_json::from_slice(&text)
            .with_context(|| format!("read \"{}\"", path.display()))?;
        ensure!(
            manifest.format == FORMAT_VERSION,
            "\"{}\" is of format {}, this program reads format {FORMAT_VERSION}",
            path.display(),
            manifest.format
        );
        if manifest.instance != instance {
            return Err(Hinted::new(
                format!(
                    "\"{}\" is the archive of instance \"{}\", not of \"{instance}\"",
                    root.display(),
                    manifest.instance
                ),
                "each instance needs an archive directory of its own",
            )
            .into());
        }
        Ok(Self {
            root: root.to_owned(),
            manifest,
        })
    }

    /// Makes `root` the archive of `instance`, whose first cluster is `cluster`.
    ///
    /// Running it again for the same cluster changes nothing.
    ///
    /// # Errors
    ///
    /// Fails when the directory holds anything but an archive of that cluster, or cannot be written.
    pub fn init(root: &Path, instance: &str, cluster: Cluster) -> Result<Self> {
        if Self::is_at(root)? {
            let archive = Self::open(root, instance)?;
            if archive.cluster(cluster.system_identifier).is_err() {
                return Err(archive.foreign_cluster(cluster.system_identifier));
            }
            return Ok(archive);
        }
        durable_file::ensure_directory(root)?;
        // The manifest comes last, after the directories: without it they are an interrupted beginning.
        if let Some(occupied) = durable_file::something_in(root)? {
            return Err(Hinted::new(
                format!(
                    "\"{}\" holds \"{}\" and no {MANIFEST}",
                    root.display(),
                    occupied.strip_prefix(root).unwrap_or(&occupied).display()
                ),
                "name an empty directory, or restore the archive's manifest",
            )
            .into());
        }
        let archive = Self {
            root: root.to_owned(),
            manifest: Manifest {
                format: FORMAT_VERSION,
                instance: instance.to_owned(),
                clusters: vec![cluster],
            },
        };
        archive.write_manifest()?;
        Ok(archive)
    }

    /// Lets the archive take the WAL of `cluster`, which replaces `replaced` as the instance's
    /// cluster.
    ///
    /// Naming the replaced cluster is the proof that the change is meant: a server that came up on
    /// an empty directory by accident does not know what it lost.
    ///
    /// # Errors
    ///
    /// Fails when `replaced` is not the newest cluster of the archive, or the manifest cannot be
    /// written.
    pub fn admit(&mut self, cluster: Cluster, replaced: SystemIdentifier) -> Result<()> {
        if self.cluster(cluster.system_identifier).is_ok() {
            return Ok(());
        }
        let newest = self.newest_cluster()?.system_identifier;
        if newest != replaced {
            return Err(Hinted::new(
                format!("the archive's newest cluster is {newest}, not {replaced}"),
                "name the cluster that the new one replaces; `backstay status` shows it",
            )
            .into());
        }
        self.manifest.clusters.push(cluster);
        self.write_manifest()
    }

    fn write_manifest(&self) -> Result<()> {
        durable_file::ensure_directory(&self.root.join(INCOMING))?;
        for cluster in &self.manifest.clusters {
            durable_file::ensure_directory(&self.directory_of(cluster).join(HISTORY))?;
        }
        let mut text = serde_json::to_vec_pretty(&self.manifest).context("write the manifest")?;
        text.push(b'\n');
        durable_file::replace(&self.root.join(MANIFEST), &text)
    }

    /// Whose archive this is.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The directory of the archive.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Directory for files that are being written.
    #[must_use]
    pub fn incoming(&self) -> PathBuf {
        self.root.join(INCOMING)
    }

    /// The cluster that was admitted last.
    ///
    /// # Errors
    ///
    /// Fails when the manifest names none.
    pub fn newest_cluster(&self) -> Result<&Cluster> {
        self.manifest
            .clusters
            .last()
            .ok_or_else(|| anyhow!("the archive's manifest names no cluster"))
    }

    /// The cluster with that system identifier.
    ///
    /// # Errors
    ///
    /// Fails when the archive does not take the WAL of that cluster.
    pub fn cluster(&self, system_identifier: SystemIdentifier) -> Result<&Cluster> {
        self.manifest
            .clusters
            .iter()
            .find(|cluster| cluster.system_identifier == system_identifier)
            .ok_or_else(|| self.foreign_cluster(system_identifier))
    }

    fn foreign_cluster(&self, found: SystemIdentifier) -> anyhow::Error {
        let known: Vec<String> = self
            .manifest
            .clusters
            .iter()
            .map(|cluster| cluster.system_identifier.to_string())
            .collect();
        Hinted::new(
            format!(
                "system identifier {found} is not that of the archive, which is {}",
                known.join(", ")
            ),
            format!(
                "if this cluster is meant to replace it (after an upgrade or a new initdb), run `backstay archive admit {} --replaces {}`",
                self.manifest.instance,
                known.last().map_or("…", String::as_str)
            ),
        )
        .into()
    }

    fn directory_of(&self, cluster: &Cluster) -> PathBuf {
        self.root.join(cluster.system_identifier.to_string())
    }

    /// Where the file `name` of `cluster` is, or would be.
    ///
    /// # Errors
    ///
    /// Fails when `name` is no segment of the cluster's segment size.
    pub fn path_of(&self, cluster: &Cluster, name: &WalFileName) -> Result<PathBuf> {
        let directory = self.directory_of(cluster);
        let directory = match name.segment() {
            None => directory.join(HISTORY),
            Some(segment) => {
                let number = segment
                    .number(cluster.segment_size()?)
                    .map_err(|err| anyhow!("{err}"))?;
                directory
                    .join(segment.timeline().hex())
                    .join(format!("{:06X}", number >> 16))
                    .join(format!("{:02X}", (number >> 8) & 0xFF))
            }
        };
        Ok(directory.join(name.to_string()))
    }

    /// Puts the file `source` into the archive under its own name, durably.
    ///
    /// A file that is there is never replaced. If it has the same content it is made durable and
    /// that is success, because PostgreSQL asks again after a crash; if it has another content that
    /// is an error.
    ///
    /// Before anything is written, a segment's own header has to show that it belongs to a cluster
    /// of this archive, has that cluster's segment size and version, and is the segment that its
    /// name says. Files without a header belong to `origin`, the cluster of their data directory.
    ///
    /// # Errors
    ///
    /// Fails when the source is not a WAL file, not of this archive, cannot be read, or is not the
    /// file that is archived under its name; when the archived file is [`Damaged`]; and when the
    /// archive cannot be written or synced. What was being written is removed, and what was there
    /// is as it was.
    ///
    /// # Source
    ///
    /// PostgreSQL, "Continuous Archiving", on a file that exists already; `basic_archive.c`.
    pub fn put(
        &self,
        source: &Path,
        origin: Option<SystemIdentifier>,
        codec: &mut Codec,
        threads: Threads,
    ) -> Result<Put> {
        let (name, mut file) = open_wal_file(source)?;
        let cluster = self.identify(&name, &mut file, origin)?;
        let destination = self.path_of(cluster, &name)?;
        match fs::symlink_metadata(&destination) {
            Ok(_) => return self.compare(&mut file, &name, cluster, &destination),
            Err(err) if err.kind() == io::ErrorKind::NotFound => {}
            Err(err) => {
                return Err(err).with_context(|| format!("examine \"{}\"", destination.display()));
            }
        }
        let incoming = self.incoming();
        durable_file::sweep(&incoming, SWEEP_LIMIT)?;
        let expected = file.metadata().context("examine the source")?.len();
        let mut temporary = Temporary::create(&incoming, &name.to_string())?;
        let record = format::encode(
            &mut file,
            temporary.file(),
            codec,
            &name.to_string(),
            cluster.system_identifier,
            threads,
        )
        .with_context(|| format!("store \"{}\"", source.display()))?;
        ensure!(
            record.length_bytes == expected,
            "\"{}\" changed while it was read: {expected} bytes, then {}",
            source.display(),
            record.length_bytes
        );
        if let Some(directory) = destination.parent() {
            durable_file::ensure_directory(directory)?;
        }
        match temporary.publish(&destination)? {
            Published::Yes => Ok(Put::Stored),
            // Another archiver was faster, on a standby that shares the archive for example.
            Published::NameTaken => {
                file.rewind().context("read the source again")?;
                self.compare(&mut file, &name, cluster, &destination)
            }
        }
    }

    /// Finds the cluster that the file belongs to, and checks the file's header against its name.
    fn identify(
        &self,
        name: &WalFileName,
        file: &mut File,
        origin: Option<SystemIdentifier>,
    ) -> Result<&Cluster> {
        let segment = match name {
            WalFileName::Segment(segment) | WalFileName::Partial(segment) => *segment,
            WalFileName::History(_) | WalFileName::BackupHistory { .. } => {
                let origin = origin.ok_or_else(|| {
                    Hinted::new(
                        format!("\"{name}\" does not say which cluster it belongs to"),
                        "archive it from its data directory, as PostgreSQL does",
                    )
                })?;
                return self.cluster(origin);
            }
        };
        let mut start = [0; LONG_HEADER_BYTES];
        file.read_exact(&mut start)
            .with_context(|| format!("read the header of \"{name}\""))?;
        file.rewind()
            .with_context(|| format!("read \"{name}\" from its start"))?;
        let header = LongPageHeader::parse(&start)
            .map_err(|err| anyhow!("\"{name}\" is no WAL segment: {err}"))?;
        let cluster = self.cluster(header.system_identifier)?;
        wal::page::check_segment(
            &header,
            segment,
            wal::page::Expected {
                system_identifier: Some(cluster.system_identifier),
                segment_size: Some(cluster.segment_size()?),
            },
        )
        .map_err(|mismatch| anyhow!("\"{name}\" is not what its name says: {mismatch}"))?;
        if let Some(major) = header.postgres_major()
            && major != cluster.postgres_major
        {
            bail!(
                "\"{name}\" was written by PostgreSQL {major}, the archive's cluster is PostgreSQL {}",
                cluster.postgres_major
            );
        }
        let length = file.metadata().context("examine the source")?.len();
        ensure!(
            length == cluster.segment_size_bytes,
            "\"{name}\" has {length} bytes, a segment has {}",
            cluster.segment_size_bytes
        );
        Ok(cluster)
    }

    /// Compares the source with what is archived under its name, and makes that durable.
    fn compare(
        &self,
        source: &mut File,
        name: &WalFileName,
        cluster: &Cluster,
        destination: &Path,
    ) -> Result<Put> {
        let mut archived = durable_file::open_regular(destination)
            .with_context(|| format!("open \"{}\"", destination.display()))?;
        let mut block = vec![0; BLOCK_BYTES];
        let mut same = true;
        let record = format::decode(&mut archived, &mut |content| {
            let part = &mut block[..content.len()];
            match source.read_exact(part) {
                Ok(()) => same &= part == content,
                Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => same = false,
                Err(err) => return Err(err).context("read the source"),
            }
            Ok(())
        })
        .and_then(|record| Self::check_record(&record, name, cluster).map(|()| record))
        .with_context(|| format!("compare with \"{}\"", destination.display()))
        .with_hint(|| self.hint_for_damage(name))?;
        let length = source.metadata().context("examine the source")?.len();
        if !same || record.length_bytes != length {
            return Err(Hinted::new(
                format!("\"{name}\" is in the archive with another content"),
                "two servers may be archiving into one archive: find the other one; nothing was replaced",
            )
            .into());
        }
        archived
            .sync_all()
            .with_context(|| format!("sync \"{}\"", destination.display()))?;
        if let Some(directory) = destination.parent() {
            durable_file::sync_directory(directory)?;
        }
        Ok(Put::AlreadyThere)
    }

    fn hint_for_damage(&self, name: &WalFileName) -> String {
        format!(
            "if the archived file is damaged, `backstay archive quarantine {} {name}` moves it aside so that PostgreSQL can archive it again",
            self.manifest.instance
        )
    }

    /// Whether a stored file is the one that its place says.
    fn check_record(record: &format::Record, name: &WalFileName, cluster: &Cluster) -> Result<()> {
        if record.name != name.to_string() {
            return Err(Damaged(format!("it holds \"{}\", not \"{name}\"", record.name)).into());
        }
        if record.system_identifier != cluster.system_identifier {
            return Err(Damaged(format!(
                "it holds WAL of cluster {}, not of {}",
                record.system_identifier, cluster.system_identifier
            ))
            .into());
        }
        if matches!(name, WalFileName::Segment(_) | WalFileName::Partial(_))
            && record.length_bytes != cluster.segment_size_bytes
        {
            return Err(Damaged(format!(
                "it holds {} bytes, a segment has {}",
                record.length_bytes, cluster.segment_size_bytes
            ))
            .into());
        }
        Ok(())
    }

    /// Writes the file `name` of cluster `system_identifier` to `destination`, by way of a temporary
    /// file in `staging`, and makes it durable.
    ///
    /// "Not in the archive" is an answer only an archive can give: the manifest was read when it was
    /// opened, and the cluster's directory has to be there. Any other error than that the file does
    /// not exist is an error here too.
    ///
    /// # Errors
    ///
    /// Fails when the archive does not know the cluster, when the file cannot be read or is
    /// [`Damaged`], and when the copy cannot be written. Until the last step `destination` is as it
    /// was.
    pub fn get(
        &self,
        system_identifier: SystemIdentifier,
        name: &WalFileName,
        staging: &Path,
        destination: &Path,
    ) -> Result<Fetched> {
        let Some(temporary) = self.fetch(system_identifier, name, staging)? else {
            return Ok(Fetched::NotInArchive);
        };
        temporary.replace(destination)?;
        Ok(Fetched::Yes)
    }

    /// Writes the file `name` into a temporary file in `staging`, checked but not yet published.
    ///
    /// # Errors
    ///
    /// Fails as [`Archive::get`] does.
    pub fn fetch(
        &self,
        system_identifier: SystemIdentifier,
        name: &WalFileName,
        staging: &Path,
    ) -> Result<Option<Temporary>> {
        let cluster = self.cluster(system_identifier)?;
        let path = self.path_of(cluster, name)?;
        let mut file = match durable_file::open_regular(&path) {
            Ok(file) => file,
            Err(err) if err.kind() == io::ErrorKind::NotFound => {
                self.prove_presence_of(cluster)?;
                return Ok(None);
            }
            Err(err) => return Err(err).with_context(|| format!("open \"{}\"", path.display())),
        };
        let mut temporary = Temporary::create(staging, &name.to_string())?;
        let record = format::decode(&mut file, &mut |content| {
            temporary
                .file()
                .write_all(content)
                .with_context(|| format!("write into \"{}\"", staging.display()))
        })
        .and_then(|record| Self::check_record(&record, name, cluster).map(|()| record));
        record.with_context(|| format!("restore \"{}\"", path.display()))?;
        Ok(Some(temporary))
    }

    /// Shows that the cluster's part of the archive can be listed, so that a missing file in it is
    /// missing and not merely out of sight.
    fn prove_presence_of(&self, cluster: &Cluster) -> Result<()> {
        let history = self.directory_of(cluster).join(HISTORY);
        fs::read_dir(&history)
            .with_context(|| format!("list \"{}\"", history.display()))
            .with_hint(|| "is everything below the archive mounted?".into())?;
        Ok(())
    }

    /// Reads the archived file `name` of `cluster` and hands its content to `content`.
    ///
    /// # Errors
    ///
    /// Fails when the file is absent, cannot be read, or is [`Damaged`]; what was handed over by
    /// then does not count.
    pub fn read(
        &self,
        cluster: &Cluster,
        name: &WalFileName,
        content: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<format::Record> {
        let path = self.path_of(cluster, name)?;
        let mut file = durable_file::open_regular(&path)
            .with_context(|| format!("open \"{}\"", path.display()))?;
        format::decode(&mut file, content)
            .and_then(|record| Self::check_record(&record, name, cluster).map(|()| record))
            .with_context(|| format!("read \"{}\"", path.display()))
    }

    /// Lists what the archive holds of `cluster`.
    ///
    /// # Errors
    ///
    /// Fails when a directory cannot be listed: what cannot be seen must not pass for absent.
    pub fn list(&self, cluster: &Cluster) -> Result<Listing> {
        let mut listing = Listing::default();
        self.prove_presence_of(cluster)?;
        let mut directories = vec![self.directory_of(cluster)];
        while let Some(directory) = directories.pop() {
            let entries = fs::read_dir(&directory)
                .with_context(|| format!("list \"{}\"", directory.display()))?;
            for entry in entries {
                let entry = entry.with_context(|| format!("list \"{}\"", directory.display()))?;
                let path = entry.path();
                let metadata = match fs::symlink_metadata(&path) {
                    Ok(metadata) => metadata,
                    // Pruned since the directory was read.
                    Err(err) if err.kind() == io::ErrorKind::NotFound => continue,
                    Err(err) => {
                        return Err(err).with_context(|| format!("examine \"{}\"", path.display()));
                    }
                };
                if metadata.is_dir() {
                    directories.push(path);
                    continue;
                }
                let name = entry
                    .file_name()
                    .to_str()
                    .and_then(|name| WalFileName::parse(name).ok())
                    .filter(|_| metadata.is_file());
                match name {
                    Some(name) if self.path_of(cluster, &name).is_ok_and(|p| p == path) => {
                        listing.files.push((name, metadata.len()));
                    }
                    _ => listing.foreign.push(path),
                }
            }
        }
        listing.files.sort();
        listing.foreign.sort();
        Ok(listing)
    }

    /// Finds a file that was archived, of whatever cluster, or that was moved aside.
    ///
    /// # Errors
    ///
    /// Fails when a directory cannot be listed: what cannot be seen must not pass for absent.
    pub fn something(&self) -> Result<Option<PathBuf>> {
        for cluster in &self.manifest.clusters {
            self.prove_presence_of(cluster)?;
            let found = durable_file::something_in(&self.directory_of(cluster))?;
            if found.is_some() {
                return Ok(found);
            }
        }
        durable_file::something_in(&self.root.join(DAMAGED))
    }

    /// Reads the timeline history files of `cluster` that are in `listing`.
    ///
    /// # Errors
    ///
    /// Fails when one cannot be read, is [`Damaged`] or is no history file.
    pub fn histories(
        &self,
        cluster: &Cluster,
        listing: &Listing,
    ) -> Result<BTreeMap<TimelineId, TimelineHistory>> {
        let mut histories = BTreeMap::new();
        for (name, _) in &listing.files {
            let WalFileName::History(timeline) = name else {
                continue;
            };
            let mut text = Vec::new();
            self.read(cluster, name, &mut |part| {
                text.extend_from_slice(part);
                Ok(())
            })?;
            let history = TimelineHistory::parse(*timeline, &String::from_utf8_lossy(&text))
                .map_err(|err| anyhow!("read \"{name}\": {err}"))?;
            histories.insert(*timeline, history);
        }
        Ok(histories)
    }

    /// Removes the archived file `name` of `cluster`, durably.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be removed. A file that is absent is no error.
    pub fn remove(&self, cluster: &Cluster, name: &WalFileName) -> Result<()> {
        durable_file::remove(&self.path_of(cluster, name)?)
    }

    /// Moves the archived file `name` of `cluster` to `damaged/`, so that PostgreSQL can archive it
    /// again, and returns its new place. It is not deleted: what is damaged may still be needed.
    ///
    /// # Errors
    ///
    /// Fails when the file is not there, or is not damaged.
    pub fn quarantine(&self, cluster: &Cluster, name: &WalFileName) -> Result<PathBuf> {
        match self.read(cluster, name, &mut |_| Ok(())) {
            Ok(_) => bail!("\"{name}\" is not damaged"),
            Err(err)
                if err
                    .chain()
                    .any(<dyn std::error::Error + 'static>::is::<Damaged>) => {}
            Err(err) => return Err(err),
        }
        let aside = self.root.join(DAMAGED);
        durable_file::ensure_directory(&aside)?;
        let path = self.path_of(cluster, name)?;
        for attempt in 0.. {
            let destination = aside.join(format!("{}-{name}-{attempt}", cluster.system_identifier));
            if fs::symlink_metadata(&destination).is_err() {
                durable_file::move_to_new_name(&path, &destination)?;
                return Ok(destination);
            }
        }
        bail!("no name is left in \"{}\"", aside.display())
    }
}

/// Opens a WAL file under the name that PostgreSQL gave it.
fn open_wal_file(source: &Path) -> Result<(WalFileName, File)> {
    let name = source
        .file_name()
        .and_then(|name| name.to_str())
        .ok_or_else(|| anyhow!("\"{}\" has no name of a WAL file", source.display()))?;
    let name = WalFileName::parse(name).map_err(|err| anyhow!("{err}"))?;
    let file = durable_file::open_regular(source)
        .with_context(|| format!("open \"{}\"", source.display()))?;
    Ok((name, file))
}

/// Reads the control file of the cluster in `data_directory`.
///
/// # Errors
///
/// Fails when it cannot be read or is no control file.
pub fn read_control_file(data_directory: &Path) -> Result<ControlFile> {
    let path = data_directory.join("global/pg_control");
    let bytes = fs::read(&path).with_context(|| format!("read \"{}\"", path.display()))?;
    ControlFile::parse(&bytes).map_err(|err| anyhow!("read \"{}\": {err}", path.display()))
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "test segments are small")]
mod tests;
