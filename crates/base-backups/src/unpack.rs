//! Reading base backups back, each file checked against the manifest on the way.
//!
//! One pass: what is copied is what was checked. A restore that copies first and verifies after
//! reads everything twice, and verifies the copy in the page cache.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::{Component, Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use settings::Format;

use crate::manifest::{self, Entry, Hasher, Manifest};
use crate::{Record, Repository};

const BUFFER_BYTES: usize = 256 * 1024;
/// The cluster's own directory modes; PostgreSQL refuses to start on anything wider.
const DIRECTORY_MODE: u32 = 0o700;
const TABLESPACE_MAP: &str = "tablespace_map";
const WAL_DIRECTORY: &str = "pg_wal";
const TABLESPACE_LINKS: &str = "pg_tblspc";

/// How far a copy has come, to be read by another thread.
#[derive(Debug, Default)]
pub struct Progress {
    bytes: AtomicU64,
}

impl Progress {
    /// Content bytes copied and checked so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Counts `bytes` more.
    pub fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Checks every file of a backup against its manifest, without writing anything.
///
/// # Errors
///
/// Fails when a file is missing, damaged or one too many, or the manifest is damaged.
pub fn check(repository: &Repository, record: &Record, progress: &Progress) -> Result<()> {
    read_all(repository, record, None, progress)
}

/// Puts the files of a full backup into `destination`, each checked against the manifest.
///
/// `destination` must not exist. Each tablespace goes to the directory that `tablespaces` names for
/// its object identifier, which is there and empty, and is linked from `pg_tblspc`. Nothing is
/// synced: the caller syncs the file system once.
///
/// # Errors
///
/// Fails when a file is missing, damaged or one too many, when a tablespace is not mapped, and when
/// something cannot be written. What was written by then remains for the caller to remove.
pub fn restore_into(
    repository: &Repository,
    record: &Record,
    destination: &Path,
    tablespaces: &BTreeMap<u32, PathBuf>,
    progress: &Progress,
) -> Result<()> {
    create_directory(destination)?;
    let target = Target {
        destination,
        tablespaces,
    };
    read_all(repository, record, Some(&target), progress)?;
    if !tablespaces.is_empty() {
        let links = destination.join(TABLESPACE_LINKS);
        if !links.is_dir() {
            create_directory(&links)?;
        }
        for (oid, directory) in tablespaces {
            let link = links.join(oid.to_string());
            symlink(directory, &link).with_context(|| format!("link \"{}\"", link.display()))?;
        }
    }
    // With this file PostgreSQL would make the links again, to the old places.
    let map = destination.join(TABLESPACE_MAP);
    match fs::remove_file(&map) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => {
            Err(err).with_context(|| format!("remove \"{}\"", map.display()))
        }
        _ => Ok(()),
    }
}

struct Target<'a> {
    destination: &'a Path,
    tablespaces: &'a BTreeMap<u32, PathBuf>,
}

impl Target<'_> {
    /// Where a file of the backup goes.
    fn place_of(&self, path: &Path) -> Result<PathBuf> {
        if let Ok(below) = path.strip_prefix(TABLESPACE_LINKS) {
            let mut parts = below.components();
            if let Some(oid) = parts.next() {
                let oid = oid.as_os_str().to_string_lossy();
                if let Some(directory) = oid
                    .parse()
                    .ok()
                    .and_then(|oid: u32| self.tablespaces.get(&oid))
                {
                    return Ok(directory.join(parts.as_path()));
                }
                // A directory of that name is a tablespace inside the data directory, which only
                // PostgreSQL's own tests have.
                bail!("tablespace {oid} is not mapped to a directory");
            }
        }
        Ok(self.destination.join(path))
    }
}

fn read_all(
    repository: &Repository,
    record: &Record,
    target: Option<&Target<'_>>,
    progress: &Progress,
) -> Result<()> {
    let directory = repository.directory(&record.name);
    let directory = if directory.is_dir() {
        directory
    } else {
        repository.partial(&record.name)
    };
    let path = directory.join(manifest::FILE_NAME);
    let bytes = fs::read(&path).with_context(|| format!("read \"{}\"", path.display()))?;
    let manifest =
        Manifest::parse(&bytes).with_context(|| format!("use \"{}\"", path.display()))?;
    if let Some(found) = manifest.system_identifier {
        ensure!(
            found == record.system_identifier,
            "\"{}\" is of cluster {found}, its record says {}",
            path.display(),
            record.system_identifier
        );
    }
    match record.format {
        Format::Plain => read_plain(
            &directory,
            &repository.tablespaces(&record.name),
            &manifest,
            target,
            progress,
        ),
        Format::Tar => read_tar(&directory, &manifest, target, progress),
    }
    .with_context(|| format!("base backup \"{}\"", record.name))
}

fn create_directory(path: &Path) -> Result<()> {
    DirBuilder::new()
        .mode(DIRECTORY_MODE)
        .create(path)
        .with_context(|| format!("create directory \"{}\"", path.display()))
}

fn is_outside_manifest(path: &Path) -> bool {
    path == Path::new(manifest::FILE_NAME) || path.starts_with(WAL_DIRECTORY)
}

fn read_plain(
    directory: &Path,
    tablespaces: &Path,
    manifest: &Manifest,
    target: Option<&Target<'_>>,
    progress: &Progress,
) -> Result<()> {
    let mut found = Tree::default();
    found.walk(directory, Path::new(""))?;
    if tablespaces.is_dir() {
        found.walk(tablespaces, Path::new(TABLESPACE_LINKS))?;
    }
    if let Some(extra) = found
        .files
        .keys()
        .find(|path| !manifest.files.contains_key(*path) && !is_outside_manifest(path))
    {
        bail!("\"{}\" is not in the manifest", extra.display());
    }
    if let Some(target) = target {
        for path in &found.directories {
            let place = target.place_of(path)?;
            if !place.is_dir() {
                create_directory(&place)?;
            }
        }
    }
    let jobs: Vec<(&Path, &Path, Option<&Entry>)> = manifest
        .files
        .iter()
        .map(|(path, entry)| {
            let source = found
                .files
                .get(path)
                .ok_or_else(|| anyhow!("\"{}\" is missing", path.display()))?;
            Ok((path.as_path(), source.as_path(), Some(entry)))
        })
        .chain(
            found
                .files
                .iter()
                .filter(|(path, _)| target.is_some() && path.starts_with(WAL_DIRECTORY))
                .map(|(path, source)| Ok((path.as_path(), source.as_path(), None))),
        )
        .collect::<Result<_>>()?;

    // Two threads: one reads and checks while the other writes. More would only wait for the disk.
    let queue = Mutex::new(jobs.into_iter());
    let failed = AtomicBool::new(false);
    let work = || -> Result<()> {
        let mut buffer = vec![0; BUFFER_BYTES];
        while !failed.load(Ordering::Relaxed) {
            let Some((path, source, entry)) = queue.lock().ok().and_then(|mut queue| queue.next())
            else {
                break;
            };
            let result = (|| {
                let mut file = durable_file::open_regular(source)
                    .with_context(|| format!("open \"{}\"", source.display()))?;
                let mode = file.metadata()?.permissions().mode() & 0o740;
                let place = target.map(|target| target.place_of(path)).transpose()?;
                copy(
                    &mut file,
                    place.as_deref(),
                    mode,
                    path,
                    entry,
                    &mut buffer,
                    progress,
                )
            })();
            if result.is_err() {
                failed.store(true, Ordering::Relaxed);
                return result;
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(work);
        let own = work();
        let other = other
            .join()
            .unwrap_or_else(|_| bail!("a copying thread ended early"));
        own.and(other)
    })
}

/// The files and directories of a backup.
#[derive(Default)]
struct Tree {
    /// Path in the backup, and where that is.
    files: BTreeMap<PathBuf, PathBuf>,
    directories: BTreeSet<PathBuf>,
}

impl Tree {
    fn walk(&mut self, directory: &Path, prefix: &Path) -> Result<()> {
        for entry in
            fs::read_dir(directory).with_context(|| format!("list \"{}\"", directory.display()))?
        {
            let entry = entry.with_context(|| format!("list \"{}\"", directory.display()))?;
            let path = prefix.join(entry.file_name());
            let kind = entry
                .file_type()
                .with_context(|| format!("examine \"{}\"", entry.path().display()))?;
            if kind.is_dir() {
                self.walk(&entry.path(), &path)?;
                self.directories.insert(path);
            } else if kind.is_file() {
                self.files.insert(path, entry.path());
            } else if !(kind.is_symlink() && prefix == Path::new(TABLESPACE_LINKS)) {
                bail!(
                    "\"{}\" is neither a file nor a directory",
                    entry.path().display()
                );
            }
        }
        Ok(())
    }
}

/// Reads `source` to its end, checks it against `entry` and writes it to `place`.
fn copy(
    source: &mut impl Read,
    place: Option<&Path>,
    mode: u32,
    path: &Path,
    entry: Option<&Entry>,
    buffer: &mut [u8],
    progress: &Progress,
) -> Result<()> {
    let mut sink = place
        .map(|place| {
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(mode)
                .open(place)
                .with_context(|| format!("create \"{}\"", place.display()))
        })
        .transpose()?;
    let mut hasher = entry.map(|entry| Hasher::like(&entry.checksum));
    let mut length = 0;
    loop {
        let read = match source.read(buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
            Err(err) => return Err(err).with_context(|| format!("read \"{}\"", path.display())),
        };
        let part = &buffer[..read];
        if let Some(hasher) = &mut hasher {
            hasher.update(part);
        }
        if let Some(sink) = &mut sink {
            sink.write_all(part)
                .with_context(|| format!("write \"{}\"", path.display()))?;
        }
        length += read as u64;
        progress.add(read as u64);
    }
    if let (Some(entry), Some(hasher)) = (entry, hasher) {
        ensure!(
            length == entry.length_bytes,
            "\"{}\" has {length} bytes, the manifest says {}",
            path.display(),
            entry.length_bytes
        );
        ensure!(
            hasher.agrees_with(&entry.checksum),
            "\"{}\" does not have the checksum of the manifest",
            path.display()
        );
    }
    Ok(())
}

fn read_tar(
    directory: &Path,
    manifest: &Manifest,
    target: Option<&Target<'_>>,
    progress: &Progress,
) -> Result<()> {
    let mut seen = BTreeSet::new();
    let mut has_base = false;
    let mut names: Vec<String> = fs::read_dir(directory)
        .with_context(|| format!("list \"{}\"", directory.display()))?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    for name in names {
        if name == manifest::FILE_NAME {
            continue;
        }
        let Some((stem, compression)) = name.split_once(".tar") else {
            bail!("\"{name}\" is no part of a base backup in tar format");
        };
        let prefix = match stem {
            "base" => {
                has_base = true;
                PathBuf::new()
            }
            WAL_DIRECTORY => WAL_DIRECTORY.into(),
            oid if oid.parse::<u32>().is_ok() => Path::new(TABLESPACE_LINKS).join(oid),
            _ => bail!("\"{name}\" is no part of a base backup in tar format"),
        };
        let path = directory.join(&name);
        let file = durable_file::open_regular(&path)
            .with_context(|| format!("open \"{}\"", path.display()))?;
        let decoded: Box<dyn Read> = match compression {
            "" => Box::new(file),
            ".gz" => Box::new(flate2::read::MultiGzDecoder::new(file)),
            ".lz4" => Box::new(lz4::Decoder::new(file).context("set up LZ4 decompression")?),
            ".zst" => Box::new(
                zstd::stream::read::Decoder::new(file).context("set up zstd decompression")?,
            ),
            other => bail!("\"{name}\" has the unfamiliar compression \"{other}\""),
        };
        read_one_tar(decoded, &prefix, manifest, target, &mut seen, progress)
            .with_context(|| format!("read \"{}\"", path.display()))?;
    }
    ensure!(has_base, "\"base.tar\" is missing");
    match manifest.files.keys().find(|path| !seen.contains(*path)) {
        None => Ok(()),
        Some(missing) => bail!("\"{}\" is missing", missing.display()),
    }
}

fn read_one_tar(
    reader: impl Read,
    prefix: &Path,
    manifest: &Manifest,
    target: Option<&Target<'_>>,
    seen: &mut BTreeSet<PathBuf>,
    progress: &Progress,
) -> Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut tar = tar::Archive::new(reader);
    for entry in tar.entries().context("read the tar file")? {
        let mut entry = entry.context("read the tar file")?;
        let inner = entry
            .path()
            .context("read a name in the tar file")?
            .into_owned();
        // PostgreSQL writes "./pg_wal/archive_status" for this one directory.
        let inner: PathBuf = inner
            .components()
            .filter(|part| *part != Component::CurDir)
            .collect();
        let path = prefix.join(&inner);
        let kind = entry.header().entry_type();
        if path.as_os_str().is_empty() || (kind.is_dir() && inner.as_os_str().is_empty()) {
            continue;
        }
        ensure!(
            manifest::is_inside(&path),
            "\"{}\" is not inside the backup",
            path.display()
        );
        if kind.is_dir() {
            if let Some(target) = target {
                let place = target.place_of(&path)?;
                if !place.is_dir() {
                    create_directory(&place)?;
                }
            }
        } else if kind.is_file() {
            let expected = manifest.files.get(&path);
            ensure!(
                expected.is_some() || is_outside_manifest(&path),
                "\"{}\" is not in the manifest",
                path.display()
            );
            ensure!(
                seen.insert(path.clone()),
                "\"{}\" is there twice",
                path.display()
            );
            let mode = entry.header().mode().unwrap_or(0o600) & 0o740;
            let place = target.map(|target| target.place_of(&path)).transpose()?;
            copy(
                &mut entry,
                place.as_deref(),
                mode,
                &path,
                expected,
                &mut buffer,
                progress,
            )?;
        } else {
            // pg_tblspc holds links to the tablespaces, which are made anew.
            ensure!(
                kind.is_symlink() && path.starts_with(TABLESPACE_LINKS),
                "\"{}\" is neither a file nor a directory",
                path.display()
            );
        }
    }
    Ok(())
}
