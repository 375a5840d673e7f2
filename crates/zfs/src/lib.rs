//! Asking ZFS and changing it, through `zfs` and `zpool`.
//!
//! A dataset is absent only when a listing of its pool that succeeded does not have it. A call that
//! failed proves nothing: the pool may not be imported, or the module not loaded.
//!
//! Properties are read as `zfs get -Hp` prints them. No library is linked for that: `lzc_exists()`
//! answers "no" to every error, and libzetta 0.5.0 panics on values such as `compression=zstd`.

mod history;
mod receive;
mod size;
mod snapshots;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use command::Command;
use tool::Hinted;

pub use history::{SentSnapshot, list_snapshots, parse_snapshots};
pub use size::same_value;
pub use snapshots::{Snapshot, SnapshotName};

/// `zfs` and `zpool` of this machine.
#[derive(Clone, Debug)]
pub struct Zfs {
    zfs: PathBuf,
    zpool: PathBuf,
}

/// A property of a dataset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Property {
    /// Its value, with numbers in full.
    pub value: String,
    /// Where the value comes from: `local`, `default`, `received`, `inherited from …`, or `-`.
    pub source: String,
}

/// The properties of one dataset, by name.
pub type Properties = BTreeMap<String, Property>;

/// A file system and where it belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSystem {
    /// Name of the dataset.
    pub name: String,
    /// Its property `mountpoint`.
    pub mountpoint: String,
    /// Its property `canmount`.
    pub canmount: String,
    /// Whether it is mounted.
    pub is_mounted: bool,
}

/// The state of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// As `zpool` says it: `ONLINE`, `DEGRADED`, `SUSPENDED`, …
    pub health: String,
    /// Whether it was imported read-only.
    pub is_read_only: bool,
}

impl Pool {
    /// Whether it answers what it is asked. One that is suspended waits for its disks to come back.
    #[must_use]
    pub fn answers(&self) -> bool {
        ["ONLINE", "DEGRADED"].contains(&self.health.as_str())
    }
}

impl Zfs {
    /// Finds the two programs in `PATH`.
    ///
    /// # Errors
    ///
    /// Fails when one is not there.
    pub fn find() -> Result<Self> {
        let find = |name: &str| {
            command::in_path(name).ok_or_else(|| {
                Hinted::new(
                    format!("find \"{name}\" in PATH"),
                    "does this machine have ZFS? on NixOS, set boot.supportedFilesystems.zfs = true",
                )
            })
        };
        Ok(Self {
            zfs: find("zfs")?,
            zpool: find("zpool")?,
        })
    }

    /// Prepares to run `zfs`, for what is not asked here.
    #[must_use]
    pub fn command(&self) -> Command {
        Command::new(&self.zfs)
    }

    /// The imported pools.
    ///
    /// # Errors
    ///
    /// Fails when `zpool` does: when the module is not loaded, for example.
    pub fn pools(&self) -> Result<BTreeMap<String, Pool>> {
        let output = Command::new(&self.zpool)
            .args(["list", "-Hp", "-o", "name,health,readonly"])
            .run()
            .context("list the pools")?;
        parse_pools(&output.stdout)
    }

    /// The names of every file system and volume of `pool`.
    ///
    /// # Errors
    ///
    /// Fails when `zfs` does. Then nothing is known of any dataset.
    pub fn names_in(&self, pool: &str) -> Result<BTreeSet<String>> {
        let output = Command::new(&self.zfs)
            .args(["list", "-H", "-r", "-t", "filesystem,volume", "-o", "name"])
            .arg(pool)
            .run()
            .with_context(|| format!("list the datasets of pool \"{pool}\""))?;
        Ok(output.stdout.lines().map(str::to_owned).collect())
    }

    /// Every file system of these pools, which have to be imported. One that is suspended may keep the
    /// question for ever.
    ///
    /// # Errors
    ///
    /// Fails when `zfs` does.
    pub fn file_systems<'a>(
        &self,
        pools: impl IntoIterator<Item = &'a str>,
    ) -> Result<Vec<FileSystem>> {
        let pools: Vec<&str> = pools.into_iter().collect();
        if pools.is_empty() {
            // Without a name it would be those of every pool.
            return Ok(Vec::new());
        }
        let output = Command::new(&self.zfs)
            .args(["list", "-Hp", "-r", "-t", "filesystem"])
            .args(["-o", "name,mountpoint,canmount,mounted"])
            .args(pools)
            .run()
            .context("list the file systems")?;
        output.stdout.lines().map(parse_file_system).collect()
    }

    /// Every property of the existing dataset `name`.
    ///
    /// # Errors
    ///
    /// Fails when `zfs` does.
    pub fn properties(&self, name: &str) -> Result<Properties> {
        let output = Command::new(&self.zfs)
            .args(["get", "-Hp", "-o", "property,value,source", "all", name])
            .run()
            .with_context(|| format!("read the properties of dataset \"{name}\""))?;
        let mut properties = parse_properties(&output.stdout)?;
        if let Some(xattr) = properties.get_mut("xattr")
            && xattr.value == "on"
        {
            meaning_of_xattr_on(self.version()?).clone_into(&mut xattr.value);
        }
        Ok(properties)
    }

    /// One property of the existing dataset `name`, for somebody who cannot wait: a pool that is suspended
    /// does not answer.
    ///
    /// # Errors
    ///
    /// Fails when `zfs` does, and when it has not answered after `deadline`.
    pub fn property(&self, name: &str, property: &str, deadline: Duration) -> Result<Property> {
        let context = || format!("read the property {property} of dataset \"{name}\"");
        let answered = Command::new(&self.zfs)
            .args(["get", "-Hp", "-o", "property,value,source", property, name])
            .run_with_input("", deadline)
            .with_context(context)?;
        match answered.status {
            // Standard error follows, and may hold a warning.
            Some(status) if status.success() => answered
                .said
                .lines()
                .find(|line| line.starts_with(&format!("{property}\t")))
                .and_then(|line| parse_properties(line).ok()?.remove(property))
                .ok_or_else(|| anyhow!("zfs says \"{}\"", answered.said.trim_end()))
                .with_context(context),
            Some(status) => {
                Err(anyhow!("{}: {status}", answered.said.trim_end())).with_context(context)
            }
            None => Err(anyhow!(
                "zfs has not answered for {} seconds",
                deadline.as_secs()
            ))
            .with_context(context),
        }
    }

    /// The version of OpenZFS: `(2, 3)`.
    fn version(&self) -> Result<(u32, u32)> {
        let output = Command::new(&self.zfs)
            .arg("version")
            .run()
            .context("ask for the version of ZFS")?;
        parse_version(&output.stdout)
    }

    /// Makes the file system `name` with `properties`, and does not mount it. Its parent has to be
    /// there.
    ///
    /// # Errors
    ///
    /// Fails when `zfs` does; then there is no such file system.
    pub fn create<'a>(
        &self,
        name: &str,
        properties: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<()> {
        let mut command = Command::new(&self.zfs).args(["create", "-u"]);
        for (property, value) in properties {
            command = command.arg("-o").arg(format!("{property}={value}"));
        }
        command
            .arg(name)
            .run()
            .with_context(|| format!("create dataset \"{name}\""))
            .map(drop)
    }

    /// Sets one property of the dataset `name`. A new mount point is written down only: nothing is
    /// mounted there by it.
    ///
    /// # Errors
    ///
    /// Fails when `zfs` does; then the property is as it was.
    pub fn set(&self, name: &str, property: &str, value: &str) -> Result<()> {
        let mut command = Command::new(&self.zfs).arg("set");
        if property == "mountpoint" {
            command = command.arg("-u");
        }
        command
            .arg(format!("{property}={value}"))
            .arg(name)
            .run()
            .with_context(|| format!("set {property}={value} on dataset \"{name}\""))
            .map(drop)
    }

    /// Mounts the file system `name` where its property `mountpoint` says.
    ///
    /// # Errors
    ///
    /// Fails when `zfs` does.
    pub fn mount(&self, name: &str) -> Result<()> {
        Command::new(&self.zfs)
            .args(["mount", name])
            .run()
            .with_context(|| format!("mount dataset \"{name}\""))
            .map(drop)
    }
}

/// What `xattr=on` stands for, which is also what `zfs get` prints for that.
///
/// # Source
///
/// `zfs_prop.c`: `on` is another name of `dir` up to OpenZFS 2.2. In 2.3.9 a dataset that was made with
/// `xattr=sa` shows `on`.
fn meaning_of_xattr_on(version: (u32, u32)) -> &'static str {
    if version >= (2, 3) { "sa" } else { "dir" }
}

/// Reads `zfs-2.3.9-1` in the first line of `zfs version`.
fn parse_version(text: &str) -> Result<(u32, u32)> {
    let read = || {
        let mut numbers = text.strip_prefix("zfs-")?.split('.');
        let major = numbers.next()?.parse().ok()?;
        let minor = numbers.next()?;
        let digits = minor
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(minor.len());
        Some((major, minor[..digits].parse().ok()?))
    };
    read().with_context(|| format!("\"{}\" is no version of ZFS", text.trim_end()))
}

/// The pool of the dataset `name`.
#[must_use]
pub fn pool_of(name: &str) -> &str {
    name.split('/').next().unwrap_or(name)
}

impl FileSystem {
    /// Whether it is mounted at `path`, or is going to be when the pool is next imported.
    #[must_use]
    pub fn claims(&self, path: &Path) -> bool {
        Path::new(&self.mountpoint) == path && (self.is_mounted || self.canmount == "on")
    }
}

fn parse_pools(text: &str) -> Result<BTreeMap<String, Pool>> {
    text.lines()
        .map(|line| {
            let [name, health, readonly] = fields(line)?;
            let pool = Pool {
                health: health.to_owned(),
                is_read_only: readonly == "on",
            };
            Ok((name.to_owned(), pool))
        })
        .collect()
}

fn parse_file_system(line: &str) -> Result<FileSystem> {
    let [name, mountpoint, canmount, mounted] = fields(line)?;
    Ok(FileSystem {
        name: name.to_owned(),
        mountpoint: mountpoint.to_owned(),
        canmount: canmount.to_owned(),
        is_mounted: mounted == "yes",
    })
}

fn parse_properties(text: &str) -> Result<Properties> {
    let mut properties = Properties::new();
    // A value of a user's property may go on over several lines, and may hold a tab.
    let mut waiting = String::new();
    for line in text.lines() {
        if !waiting.is_empty() {
            waiting.push('\n');
        }
        waiting.push_str(line);
        let Some((property, rest)) = waiting.split_once('\t') else {
            continue;
        };
        let Some((value, source)) = rest.rsplit_once('\t') else {
            continue;
        };
        if !is_source(source) {
            continue;
        }
        properties.insert(
            property.to_owned(),
            Property {
                value: value.to_owned(),
                source: source.to_owned(),
            },
        );
        waiting.clear();
    }
    if !waiting.is_empty() {
        bail!("\"{waiting}\" is no line of zfs get");
    }
    Ok(properties)
}

/// zfs-get(8), the column SOURCE.
fn is_source(text: &str) -> bool {
    ["default", "local", "temporary", "received", "none", "-"].contains(&text)
        || text.starts_with("inherited from ")
}

/// The fields of a line of `-H` output.
fn fields<const N: usize>(line: &str) -> Result<[&str; N]> {
    let fields: Vec<&str> = line.split('\t').collect();
    fields
        .try_into()
        .map_err(|_| anyhow!("\"{line}\" does not have {N} fields"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_are_read_as_zpool_2_3_prints_them() {
        let pools =
            parse_pools("tank\tONLINE\toff\nbackup\tSUSPENDED\toff\nold\tONLINE\ton\n").unwrap();
        assert_eq!(pools.len(), 3);
        assert_eq!(pools["backup"].health, "SUSPENDED");
        assert!(pools["old"].is_read_only && !pools["tank"].is_read_only);
        assert!(parse_pools("no pools available\n").is_err());
        assert!(parse_pools("").unwrap().is_empty());
    }

    #[test]
    fn what_xattr_on_means_depends_on_the_version() {
        let of = |text: &str| parse_version(text).map(meaning_of_xattr_on);
        assert_eq!(of("zfs-2.3.9-1\nzfs-kmod-2.3.9-1\n").unwrap(), "sa");
        assert_eq!(of("zfs-2.1.11-1+deb12u1\n").unwrap(), "dir");
        assert_eq!(of("zfs-2.4-rc1\n").unwrap(), "sa");
        assert_eq!(of("zfs-3.0.0\n").unwrap(), "sa");
        assert!(of("zfs 2.3\n").is_err());
    }

    #[test]
    fn a_property_whose_value_has_tabs_and_lines_is_read_whole() {
        let text = "recordsize\t8192\tlocal\norg.example:note\ta\tb\nc\tinherited from tank\nmounted\tyes\t-\n";
        let properties = parse_properties(text).unwrap();
        assert_eq!(properties["recordsize"].value, "8192");
        assert_eq!(properties["org.example:note"].value, "a\tb\nc");
        assert_eq!(properties["org.example:note"].source, "inherited from tank");
        assert_eq!(properties["mounted"].source, "-");
        assert!(parse_properties("recordsize 8192 local\n").is_err());
    }

    #[test]
    fn a_file_system_claims_its_mount_point_unless_it_is_never_mounted_by_itself() {
        let at = |canmount: &str, mounted: &str| {
            parse_file_system(&format!("tank/a\t/srv/a\t{canmount}\t{mounted}"))
                .unwrap()
                .claims(Path::new("/srv/a"))
        };
        assert!(at("on", "no") && at("on", "yes") && at("noauto", "yes"));
        assert!(!at("noauto", "no") && !at("off", "no"));
    }
}
