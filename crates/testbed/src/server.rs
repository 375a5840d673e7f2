//! The server programs of one PostgreSQL version.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use command::Command;

/// Where Debian keeps the server programs, one directory for each major version.
const DEBIAN: &str = "/usr/lib/postgresql";

/// The server programs of one PostgreSQL version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    bin: PathBuf,
    major: u32,
    version: String,
}

impl Server {
    /// Finds the programs: in `BACKSTAY_POSTGRESQL_BIN`, or the newest that Debian's packages installed.
    ///
    /// # Errors
    ///
    /// Fails when there are none, with a hint.
    pub fn find() -> Result<Self> {
        if let Some(bin) = std::env::var_os("BACKSTAY_POSTGRESQL_BIN") {
            return Self::at(Path::new(&bin));
        }
        let newest = installed(Path::new(DEBIAN)).pop().ok_or_else(|| {
            anyhow!(
                "no PostgreSQL server below \"{DEBIAN}\"\nhint: install the package postgresql, or set BACKSTAY_POSTGRESQL_BIN to the directory with initdb and postgres"
            )
        })?;
        Self::at(&newest.1)
    }

    /// Takes the programs in the directory `bin`.
    ///
    /// # Errors
    ///
    /// Fails when `postgres` there cannot tell its version.
    pub fn at(bin: &Path) -> Result<Self> {
        let said = Command::new(bin.join("postgres"))
            .arg("--version")
            .run()?
            .stdout;
        let (version, major) = parse_version(&said)
            .with_context(|| format!("read a version from \"{}\"", said.trim()))?;
        Ok(Self {
            bin: bin.to_owned(),
            major,
            version,
        })
    }

    /// The directory with the programs.
    #[must_use]
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// The major version, 15 for example.
    #[must_use]
    pub fn major(&self) -> u32 {
        self.major
    }

    /// The whole version, `15.18` for example.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Prepares to run one of the programs.
    #[must_use]
    pub fn command(&self, name: &str) -> Command {
        Command::new(self.bin.join(name))
    }
}

/// Every version installed below `directory`, oldest first.
fn installed(directory: &Path) -> Vec<(u32, PathBuf)> {
    let mut found: Vec<(u32, PathBuf)> = std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
        .map(|(major, path)| (major, path.join("bin")))
        .filter(|(_, bin)| bin.join("postgres").exists() && bin.join("initdb").exists())
        .collect();
    found.sort();
    found
}

/// Reads `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)` as `15.18` and 15.
fn parse_version(said: &str) -> Option<(String, u32)> {
    let version = said.split_whitespace().nth(2)?;
    let digits = version
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(version.len());
    Some((version.to_owned(), version[..digits].parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_postgres_prints_them() {
        for (said, version, major) in [
            (
                "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n",
                "15.18",
                15,
            ),
            ("postgres (PostgreSQL) 17.6\n", "17.6", 17),
            ("postgres (PostgreSQL) 18beta1 (Debian)\n", "18beta1", 18),
        ] {
            assert_eq!(parse_version(said), Some((version.into(), major)));
        }
        assert_eq!(parse_version("no version"), None);
    }

    #[test]
    fn the_newest_installed_version_comes_last_and_17_is_newer_than_9() -> Result<()> {
        let directory = tempfile::tempdir()?;
        for version in ["17", "9", "15", "16-without-programs"] {
            let bin = directory.path().join(version).join("bin");
            std::fs::create_dir_all(&bin)?;
            for program in ["postgres", "initdb"] {
                std::fs::write(bin.join(program), "")?;
            }
        }
        std::fs::create_dir_all(directory.path().join("18/lib"))?;
        let majors: Vec<u32> = installed(directory.path()).iter().map(|i| i.0).collect();
        assert_eq!(majors, [9, 15, 17]);
        Ok(())
    }
}
