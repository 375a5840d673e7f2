//! A look at a base backup that reads none of its files.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use settings::Format;

use crate::manifest::{self, Manifest};
use crate::{Record, Repository};

/// Looks whether everything that a restore of `record` needs is there: every backup that it builds on,
/// each with a sound manifest and, in plain format, with every file in its length.
///
/// This is quick and finds what was removed or cut off. A changed byte is found by [`crate::check`].
///
/// # Errors
///
/// Fails with the first thing that is missing or different.
pub fn look_over(repository: &Repository, record: &Record, all: &[Record]) -> Result<()> {
    for link in record.chain(all)? {
        let directory = repository.directory(&link.name);
        look_at(repository, link, &directory)
            .with_context(|| format!("base backup \"{}\"", link.name))?;
    }
    Ok(())
}

fn look_at(repository: &Repository, record: &Record, directory: &Path) -> Result<()> {
    let path = directory.join(manifest::FILE_NAME);
    let bytes = fs::read(&path).with_context(|| format!("read \"{}\"", path.display()))?;
    let manifest =
        Manifest::parse(&bytes).with_context(|| format!("use \"{}\"", path.display()))?;
    if record.format == Format::Tar {
        // The manifest speaks of what is inside the tar files.
        return Ok(());
    }
    let tablespaces = repository.tablespaces(&record.name);
    for (file, entry) in &manifest.files {
        let place = place_of(file, directory, &tablespaces);
        let length = fs::symlink_metadata(&place)
            .with_context(|| format!("examine \"{}\"", place.display()))?
            .len();
        ensure!(
            length == entry.length_bytes,
            "\"{}\" has {length} bytes, the manifest says {}",
            place.display(),
            entry.length_bytes
        );
    }
    Ok(())
}

/// Where a file of the manifest is: what `pg_tblspc` links to is beside the backup.
fn place_of(file: &Path, directory: &Path, tablespaces: &Path) -> PathBuf {
    match file.strip_prefix("pg_tblspc") {
        Ok(below) => tablespaces.join(below),
        Err(_) => directory.join(file),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_a_tablespace_is_looked_for_beside_the_backup() {
        let place = |file: &str| place_of(Path::new(file), Path::new("/b"), Path::new("/t"));
        assert_eq!(place("base/1/2"), Path::new("/b/base/1/2"));
        assert_eq!(
            place("pg_tblspc/16400/PG_15/1/2"),
            Path::new("/t/16400/PG_15/1/2")
        );
    }
}
