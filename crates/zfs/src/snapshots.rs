//! Taking, marking, holding and destroying snapshots.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use command::Command;
use tool::WithHint as _;

use crate::{Zfs, fields, is_source};

/// The name of one snapshot of one dataset: `tank/pg@hourly`.
///
/// There is no other way to name what is destroyed. `zfs destroy` takes a name without `@` for the
/// dataset itself, and reads `,` and `%` as several snapshots; none of them is in here.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SnapshotName {
    dataset: String,
    name: String,
}

impl SnapshotName {
    /// Names the snapshot `name` of `dataset`.
    ///
    /// # Errors
    ///
    /// Fails on characters that no dataset or snapshot has in its name.
    ///
    /// # Source
    ///
    /// zfs(8), "ZFS Component Naming Requirements"; zfs-destroy(8).
    pub fn new(dataset: &str, name: &str) -> Result<Self> {
        let fits = |text: &str, further: &[u8]| {
            !text.is_empty()
                && !text.starts_with('-')
                && text.bytes().all(|byte| {
                    byte.is_ascii_alphanumeric()
                        || b"-_.: ".contains(&byte)
                        || further.contains(&byte)
                })
        };
        ensure!(
            fits(dataset, b"/") && fits(name, b""),
            "\"{dataset}@{name}\" is no name of a snapshot"
        );
        Ok(Self {
            dataset: dataset.to_owned(),
            name: name.to_owned(),
        })
    }

    /// Reads `tank/pg@hourly`.
    ///
    /// # Errors
    ///
    /// Fails as [`SnapshotName::new`] does.
    pub fn parse(text: &str) -> Result<Self> {
        let (dataset, name) = text
            .split_once('@')
            .ok_or_else(|| anyhow!("\"{text}\" is no name of a snapshot"))?;
        Self::new(dataset, name)
    }

    /// The dataset.
    #[must_use]
    pub fn dataset(&self) -> &str {
        &self.dataset
    }

    /// What stands after the `@`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for SnapshotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.dataset, self.name)
    }
}

/// A snapshot that there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Its name.
    pub name: SnapshotName,
    /// When it was taken, in seconds since 1970.
    pub created_seconds: i64,
    /// How many holds keep it from being destroyed.
    pub holds: u64,
    /// The user properties that were asked for and set on the snapshot itself. What it inherits from its
    /// dataset or brought from another machine is left out.
    pub marks: BTreeMap<String, String>,
}

impl Zfs {
    /// The dataset that the existing directory `path` is on.
    ///
    /// # Errors
    ///
    /// Fails when `zfs` does, above all when the directory is not on ZFS.
    pub fn dataset_of(&self, path: &Path) -> Result<String> {
        let output = Command::new(&self.zfs)
            .args(["list", "-H", "-o", "name"])
            .arg(path)
            .run()
            .with_context(|| format!("find out which dataset holds \"{}\"", path.display()))?;
        match output.stdout.lines().collect::<Vec<_>>().as_slice() {
            [name] => Ok((*name).to_owned()),
            _ => bail!(
                "find out which dataset holds \"{}\": zfs says \"{}\"",
                path.display(),
                output.stdout.trim_end()
            ),
        }
    }

    /// Takes all of `snapshots`, which are in one pool, at one moment, each with `marks`.
    ///
    /// # Errors
    ///
    /// Fails when `zfs` does; then there is none of them.
    ///
    /// # Source
    ///
    /// zfs-snapshot(8): all snapshots are taken atomically, so that they correspond to the same moment in
    /// time.
    pub fn take_snapshots(
        &self,
        snapshots: &[SnapshotName],
        marks: &[(&str, String)],
    ) -> Result<()> {
        let mut command = Command::new(&self.zfs).arg("snapshot");
        for (property, value) in marks {
            command = command.arg("-o").arg(format!("{property}={value}"));
        }
        command
            .args(snapshots.iter().map(ToString::to_string))
            .run()
            .with_context(|| format!("take snapshot {}", in_words(snapshots)))
            .map(drop)
    }

    /// Sets the user property `mark` on a snapshot.
    ///
    /// # Errors
    ///
    /// Fails when `zfs` does.
    pub fn mark_snapshot(&self, snapshot: &SnapshotName, mark: &str, value: &str) -> Result<()> {
        Command::new(&self.zfs)
            .arg("set")
            .arg(format!("{mark}={value}"))
            .arg(snapshot.to_string())
            .run()
            .with_context(|| format!("set {mark}={value} on snapshot \"{snapshot}\""))
            .map(drop)
    }

    /// Every snapshot of `dataset` and of the datasets below it, with those of the user properties `marks`
    /// that are its own.
    ///
    /// # Errors
    ///
    /// Fails when `zfs` does; then nothing is known.
    pub fn snapshots_below(&self, dataset: &str, marks: &[&str]) -> Result<Vec<Snapshot>> {
        let mut properties = vec![USER_HOLDS, CREATION];
        properties.extend(marks);
        let output = Command::new(&self.zfs)
            .args(["get", "-Hp", "-r", "-t", "snapshot"])
            .args(["-o", "name,property,value,source"])
            .arg(properties.join(","))
            .arg(dataset)
            .run()
            .with_context(|| format!("list the snapshots of dataset \"{dataset}\""))?;
        parse_snapshots(&output.stdout)
    }

    /// Destroys one snapshot.
    ///
    /// # Errors
    ///
    /// Fails when `zfs` does: when it is held, mounted and in use, or a clone of it is left.
    pub fn destroy_snapshot(&self, snapshot: &SnapshotName) -> Result<()> {
        Command::new(&self.zfs)
            .arg("destroy")
            .arg(snapshot.to_string())
            .run()
            .with_context(|| format!("destroy snapshot \"{snapshot}\""))
            .map(drop)
    }

    /// Keeps all of `snapshots`, which are in one pool, from being destroyed until [`Zfs::release`].
    ///
    /// # Errors
    ///
    /// Fails when `zfs` does. Some of them may be held then: release them all.
    pub fn hold(&self, tag: &str, snapshots: &[SnapshotName]) -> Result<()> {
        Command::new(&self.zfs)
            .args(["hold", tag])
            .args(snapshots.iter().map(ToString::to_string))
            .run()
            .with_context(|| format!("hold snapshot {}", in_words(snapshots)))
            .map(drop)
    }

    /// Takes back the hold `tag` on each of `snapshots` that has it.
    ///
    /// # Errors
    ///
    /// Fails when `zfs` does. A snapshot that is gone, or has no such hold, is no error.
    pub fn release(&self, tag: &str, snapshots: &[SnapshotName]) -> Result<()> {
        for snapshot in snapshots {
            let released = Command::new(&self.zfs)
                .args(["release", tag])
                .arg(snapshot.to_string())
                .run();
            if let Err(err) = released
                && self.has_hold(tag, snapshot)?
            {
                return Err(err)
                    .with_context(|| format!("release snapshot \"{snapshot}\""))
                    .with_hint(|| format!("release it by hand: zfs release {tag} {snapshot}"));
            }
        }
        Ok(())
    }

    /// Whether `snapshot` is there and has the hold `tag`.
    fn has_hold(&self, tag: &str, snapshot: &SnapshotName) -> Result<bool> {
        if !self
            .snapshots_below(snapshot.dataset(), &[])?
            .iter()
            .any(|found| found.name == *snapshot)
        {
            return Ok(false);
        }
        let output = Command::new(&self.zfs)
            .args(["holds", "-H"])
            .arg(snapshot.to_string())
            .run()
            .with_context(|| format!("list the holds of snapshot \"{snapshot}\""))?;
        Ok(output
            .stdout
            .lines()
            .any(|line| line.split('\t').nth(1) == Some(tag)))
    }
}

/// How many holds there are, zfsprops(7).
const USER_HOLDS: &str = "userrefs";
const CREATION: &str = "creation";

/// Names of snapshots for a message.
fn in_words(snapshots: &[SnapshotName]) -> String {
    snapshots
        .iter()
        .map(|snapshot| format!("\"{snapshot}\""))
        .collect::<Vec<_>>()
        .join(" and ")
}

/// Reads lines of `zfs get -Hp -o name,property,value,source`, of properties whose values are of one line.
fn parse_snapshots(text: &str) -> Result<Vec<Snapshot>> {
    let mut found: BTreeMap<SnapshotName, Snapshot> = BTreeMap::new();
    let number = |value: &str| -> Result<i64> {
        value
            .parse()
            .map_err(|_| anyhow!("zfs gives \"{value}\" for a number"))
    };
    for line in text.lines() {
        let [name, property, value, source] = fields(line)?;
        ensure!(is_source(source), "\"{line}\" is no line of zfs get");
        let name = SnapshotName::parse(name)?;
        let snapshot = found.entry(name.clone()).or_insert_with(|| Snapshot {
            name,
            created_seconds: 0,
            holds: 0,
            marks: BTreeMap::new(),
        });
        match property {
            USER_HOLDS => snapshot.holds = number(value)?.unsigned_abs(),
            CREATION => snapshot.created_seconds = number(value)?,
            _ if source == "local" => {
                snapshot.marks.insert(property.to_owned(), value.to_owned());
            }
            _ => {}
        }
    }
    Ok(found.into_values().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_one_snapshot_can_be_named() {
        for name in ["hourly", "autosnap_2026-11-22_01:00:00_daily", "with space"] {
            let whole = format!("tank/pg/main@{name}");
            assert_eq!(SnapshotName::parse(&whole).unwrap().to_string(), whole);
        }
        for text in [
            "tank/pg",
            "tank/pg@",
            "@hourly",
            "tank/pg@a,b",
            "tank/pg@a%b",
            "tank/pg@a@b",
            "-r@a",
            "tank@-r",
            "tank@a/b",
        ] {
            assert!(SnapshotName::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn only_what_is_set_on_the_snapshot_itself_counts_as_its_mark() {
        let text = "tank/pg@a\tuserrefs\t1\t-\n\
                    tank/pg@a\tcreation\t1795309200\t-\n\
                    tank/pg@a\tbackstay:instance\tmain\tlocal\n\
                    tank/pg@b\tuserrefs\t0\t-\n\
                    tank/pg@b\tcreation\t1795309260\t-\n\
                    tank/pg@b\tbackstay:instance\tmain\tinherited from tank/pg\n\
                    tank/pg@c\tuserrefs\t0\t-\n\
                    tank/pg@c\tcreation\t1795309261\t-\n\
                    tank/pg@c\tbackstay:instance\tmain\treceived\n\
                    tank/pg@d\tuserrefs\t0\t-\n\
                    tank/pg@d\tcreation\t1795309262\t-\n\
                    tank/pg@d\tbackstay:instance\t-\t-\n";
        let found = parse_snapshots(text).unwrap();
        let marked: Vec<_> = found
            .iter()
            .map(|snapshot| (snapshot.name.name(), snapshot.holds, snapshot.marks.len()))
            .collect();
        assert_eq!(marked, [("a", 1, 1), ("b", 0, 0), ("c", 0, 0), ("d", 0, 0)]);
        assert_eq!(found[0].created_seconds, 1_795_309_200);
        assert!(parse_snapshots("").unwrap().is_empty());
        assert!(parse_snapshots("tank/pg@a\tcreation\tyesterday\t-\n").is_err());
        assert!(parse_snapshots("no datasets available\n").is_err());
    }
}
