//! The last source: copies of the archive in restic repositories.
//!
//! A call of restic takes seconds where an archive takes milliseconds, so one call brings as many
//! segments as may wait, into a directory that is an archive itself. Only when that lacks the file is
//! the repository asked again.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use archive::{Archive, Cluster, Fetched};
use restic::Repository;
use settings::{ResticContent, Settings};
use wal::WalFileName;

/// Directory below the staging directory for what restic restores, one for each repository.
const NAME: &str = "off-site";
const MANIFEST: &str = "archive.json";

/// The declared repositories.
pub struct OffSite {
    settings: Settings,
}

impl OffSite {
    pub fn of(settings: &Settings) -> Self {
        Self {
            settings: settings.clone(),
        }
    }

    /// Writes the file `name` to `destination`, from the first repository that holds it.
    ///
    /// `archive` is the instance's own, by whose layout files are found.
    ///
    /// # Errors
    ///
    /// Fails when no repository gives it and one of them cannot be read: then nobody knows whether it
    /// is absent.
    pub fn get(
        &self,
        archive: &Archive,
        cluster: &Cluster,
        name: &WalFileName,
        staging: &Path,
        destination: &Path,
    ) -> Result<Fetched> {
        let mut first_error = None;
        for declared in &self.settings.restic {
            let copy = staging.join(format!("{NAME}-{}", declared.name));
            let ask = || -> Result<Fetched> {
                if let Some(waiting) = self.open(&copy)
                    && waiting.get(cluster.system_identifier, name, staging, destination)?
                        == Fetched::Yes
                {
                    return Ok(Fetched::Yes);
                }
                clear(&copy)?;
                let state = self.settings.state_directory();
                let cache = state.is_dir().then(|| state.join("restic-cache"));
                let repository = Repository::new(declared, cache.as_deref())?;
                let Some(fetched) = self.fetch(&repository, archive, cluster, name, &copy)? else {
                    return Ok(Fetched::NotInArchive);
                };
                fetched.get(cluster.system_identifier, name, staging, destination)
            };
            match ask() {
                Ok(Fetched::Yes) => {
                    if let Some(err) = first_error {
                        tool::report("took a WAL file from another repository", &err);
                    }
                    return Ok(Fetched::Yes);
                }
                // What waits there is behind recovery by now, or was never anything.
                Ok(Fetched::NotInArchive) => clear(&copy)?,
                Err(err) => {
                    clear(&copy)?;
                    first_error = first_error.or(Some(err));
                }
            }
        }
        first_error.map_or(Ok(Fetched::NotInArchive), Err)
    }

    /// What an earlier call has brought, if it is whole.
    fn open(&self, copy: &Path) -> Option<Archive> {
        let root = fs::read_to_string(copy.join("root")).ok()?;
        Archive::open(Path::new(&root), &self.settings.instance).ok()
    }

    /// Brings `name` and the segments after it. Nothing if the repository has no copy of the archive.
    fn fetch(
        &self,
        repository: &Repository,
        archive: &Archive,
        cluster: &Cluster,
        name: &WalFileName,
        copy: &Path,
    ) -> Result<Option<Archive>> {
        let Some(snapshot) = repository.newest(&self.settings.instance, ResticContent::Wal)? else {
            return Ok(None);
        };
        let size = cluster.segment_size()?;
        let waiting = (u64::from(self.settings.archive.prefetch_mebibytes) << 20) / size.bytes();
        let mut names = vec![*name];
        if let WalFileName::Segment(mut segment) = *name {
            for _ in 0..waiting {
                let Some(next) = segment.next(size) else {
                    break;
                };
                segment = next;
                names.push(WalFileName::Segment(segment));
            }
        }
        let there = snapshot.root()?;
        let history = Path::new(&cluster.system_identifier.to_string()).join("history");
        let mut paths = vec![there.join(MANIFEST), there.join(&history)];
        for name in names {
            let path = archive.path_of(cluster, &name)?;
            let below = path
                .strip_prefix(archive.root())
                .context("find the place")?;
            paths.push(there.join(below));
        }
        repository.restore(&snapshot, &paths, copy)?;
        let root = snapshot.restored_root(copy)?;
        // The manifest has come, so all else that is not there was not in the snapshot either.
        let fetched = Archive::open(&root, &self.settings.instance)?;
        durable_file::ensure_directory(&root.join(&history))?;
        // Written last: without it nothing here counts.
        write_root(copy, &root)?;
        Ok(Some(fetched))
    }
}

fn write_root(copy: &Path, root: &Path) -> Result<()> {
    let path: PathBuf = copy.join("root");
    fs::write(&path, root.display().to_string())
        .with_context(|| format!("write \"{}\"", path.display()))
}

fn clear(copy: &Path) -> Result<()> {
    match fs::remove_dir_all(copy) {
        Err(err) if err.kind() != std::io::ErrorKind::NotFound => {
            Err(err).with_context(|| format!("remove \"{}\"", copy.display()))
        }
        _ => Ok(()),
    }
}
