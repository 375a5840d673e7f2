use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use durable_file::FileIdentity;
use wal::WalFileName;

use crate::{Archive, Cluster};

/// Notes about files that were archived ahead of PostgreSQL's asking.
///
/// A receipt says: this very file in `pg_wal`, unchanged since, is this very file in the archive,
/// durably. It spares the comparison when PostgreSQL asks. It is written after the archived file
/// and its directory were synced, and is not synced itself: one that is lost or torn matches
/// nothing, and the files are compared as if there had been none.
#[derive(Debug)]
pub struct Receipts {
    directory: PathBuf,
}

impl Receipts {
    /// The receipts of `archive`.
    #[must_use]
    pub fn of(archive: &Archive) -> Self {
        Self {
            directory: archive.incoming().join("ahead"),
        }
    }

    fn path(&self, name: &WalFileName) -> PathBuf {
        self.directory.join(name.to_string())
    }

    /// Notes that `source` is archived as `archived`.
    ///
    /// # Errors
    ///
    /// Fails when either cannot be examined or the note cannot be written. That costs a comparison
    /// later and nothing else.
    pub fn write(&self, name: &WalFileName, source: &Path, archived: &Path) -> Result<()> {
        let text = statement(source, archived)?;
        if !self.directory.is_dir() {
            durable_file::ensure_directory(&self.directory)?;
        }
        let path = self.path(name);
        fs::write(&path, text).with_context(|| format!("write \"{}\"", path.display()))
    }

    /// Whether `source` was archived ahead and neither it nor the archived file changed since. The
    /// receipt is used up.
    #[must_use]
    pub fn redeem(
        &self,
        archive: &Archive,
        cluster: &Cluster,
        name: &WalFileName,
        source: &Path,
    ) -> bool {
        let path = self.path(name);
        let Ok(text) = fs::read_to_string(&path) else {
            return false;
        };
        let valid = archive
            .path_of(cluster, name)
            .and_then(|archived| statement(source, &archived))
            .is_ok_and(|expected| expected == text);
        let _ = fs::remove_file(&path);
        valid
    }

    /// Whether there is a receipt for `name`, valid or not.
    #[must_use]
    pub fn has(&self, name: &WalFileName) -> bool {
        self.path(name).exists()
    }
}

fn statement(source: &Path, archived: &Path) -> Result<String> {
    let identity = |path: &Path| {
        fs::symlink_metadata(path)
            .map(|metadata| FileIdentity::of(&metadata))
            .with_context(|| format!("examine \"{}\"", path.display()))
    };
    Ok(format!(
        "source {}\narchived {}\n",
        identity(source)?,
        identity(archived)?
    ))
}
