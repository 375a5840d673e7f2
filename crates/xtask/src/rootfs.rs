//! Debian systems with other versions of PostgreSQL, each a directory made once and kept in a cache.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use crate::{debian, process};

/// How to make a system. Everything here is part of the name it has in the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// Major version of PostgreSQL.
    pub major: u32,
    suite: &'static str,
    packages: &'static str,
    options: &'static [&'static str],
}

/// Versions that the host's own Debian may lack.
pub const RECIPES: [Recipe; 2] = [
    Recipe {
        major: 17,
        suite: "trixie",
        packages: "postgresql-17,strace,zstd,lz4,faketime",
        options: &[],
    },
    Recipe {
        major: 18,
        suite: "sid",
        packages: "postgresql-18,strace,zstd,lz4,faketime",
        // A mirror that stands still has lists of sid past their date.
        options: &["--aptopt=Acquire::Check-Valid-Until \"false\""],
    },
];

impl Recipe {
    /// The recipe for version `major`, if there is one.
    pub fn of(major: u32) -> Option<Self> {
        RECIPES.into_iter().find(|recipe| recipe.major == major)
    }

    fn arguments(self) -> Vec<String> {
        [
            "--variant=minbase",
            "--components=main",
            "--mode=root",
            // Debian's server package would make a cluster of its own.
            "--essential-hook=mkdir -p \"$1/etc/postgresql-common/createcluster.d\"",
            "--essential-hook=echo 'create_main_cluster = false' > \"$1/etc/postgresql-common/createcluster.d/backstay.conf\"",
        ]
        .into_iter()
        .chain(self.options.iter().copied())
        .map(String::from)
        .chain([format!("--include={}", self.packages), self.suite.into()])
        .collect()
    }

    /// The name in the cache: whatever changes the content changes the name.
    fn key(self) -> String {
        let mut hash = Sha256::new();
        hash.update(std::env::consts::ARCH);
        for argument in self.arguments() {
            hash.update(argument);
            hash.update([0]);
        }
        let hash = hash.finalize();
        let hash = u64::from_be_bytes(std::array::from_fn(|index| hash[index]));
        format!("postgresql-{}-{hash:016x}", self.major)
    }
}

/// Returns the directory of the system, making it if it is not in the cache.
///
/// A second process that wants the same system at the same time waits for the first to make it.
///
/// # Errors
///
/// Fails when it cannot be made; the reason is fit for a list of what was skipped.
pub fn get(recipe: Recipe) -> Result<PathBuf> {
    if !debian::is_root() {
        bail!("not root, and only root can make and enter a Debian system");
    }
    for program in ["mmdebstrap", "unshare", "chroot"] {
        if !process::is_installed(program) {
            bail!("{program} is not installed");
        }
    }
    let cache = cache();
    std::fs::create_dir_all(&cache).with_context(|| format!("create \"{}\"", cache.display()))?;
    let directory = cache.join(recipe.key());
    let lock_file = cache.join(format!("{}.lock", recipe.key()));
    let lock =
        File::create(&lock_file).with_context(|| format!("create \"{}\"", lock_file.display()))?;
    lock.lock()
        .with_context(|| format!("lock \"{}\"", lock_file.display()))?;
    if !directory.exists() {
        make(recipe, &directory)?;
    }
    Ok(directory)
}

fn make(recipe: Recipe, directory: &Path) -> Result<()> {
    println!(
        "making a Debian system with PostgreSQL {} in \"{}\"",
        recipe.major,
        directory.display()
    );
    let partial = durable_file::with_suffix(directory, ".partial");
    // What an interrupted run left; the lock says that nobody works on it.
    if partial.exists() {
        std::fs::remove_dir_all(&partial)
            .with_context(|| format!("remove \"{}\"", partial.display()))?;
    }
    let log = durable_file::with_suffix(directory, ".log");
    let log_file = File::create(&log).with_context(|| format!("create \"{}\"", log.display()))?;
    let status = process::command("mmdebstrap")
        .args(recipe.arguments())
        .arg(&partial)
        .arg(debian::mirror()?)
        .stdin(Stdio::null())
        .stdout(log_file.try_clone().context("share the log")?)
        .stderr(log_file)
        .status()
        .context("run mmdebstrap")?;
    if !status.success() {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let reason = text
            .lines()
            .rev()
            .find(|line| line.starts_with("E:"))
            .unwrap_or("no reason given");
        bail!(
            "mmdebstrap {}: {reason} (whole log: \"{}\")",
            command::how_it_ended(status),
            log.display()
        );
    }
    durable_file::move_to_new_name(&partial, directory)
}

/// The directory that holds the systems: they outlive a checkout and are no part of it.
fn cache() -> PathBuf {
    std::env::var_os("XDG_CACHE_HOME")
        .map_or_else(|| PathBuf::from("/var/cache"), PathBuf::from)
        .join("backstay/rootfs")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_recipe_has_another_name() {
        let [first, second] = RECIPES;
        assert_ne!(first.key(), second.key());
        let changed = Recipe {
            packages: "postgresql-17",
            ..first
        };
        assert_ne!(first.key(), changed.key());
        assert!(first.key().starts_with("postgresql-17-"));
    }
}
