//! Snapshots of one dataset, on this machine or as another one lists them.

use anyhow::{Context as _, Result};
use command::Command;

use crate::{Zfs, fields};

/// A snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentSnapshot {
    /// What stands after the `@`.
    pub name: String,
    /// What tells it from another one of its name; it is the same wherever the snapshot was sent.
    pub guid: u64,
    /// When it was taken, in seconds since 1970.
    pub created: i64,
}

/// The arguments with which `zfs` lists the snapshots of `dataset` for [`parse_snapshots`].
#[must_use]
pub fn list_snapshots(dataset: &str) -> [&str; 11] {
    [
        "list",
        "-Hp",
        "-d",
        "1",
        "-t",
        "snapshot",
        "-o",
        "name,guid,creation",
        "-s",
        "createtxg",
        dataset,
    ]
}

/// Reads what `zfs` printed for [`list_snapshots`]: the oldest first.
///
/// # Errors
///
/// Fails when a line is none of that.
pub fn parse_snapshots(text: &str) -> Result<Vec<SentSnapshot>> {
    text.lines()
        .map(|line| {
            let [name, guid, created] = fields(line)?;
            let (_, name) = name
                .split_once('@')
                .with_context(|| format!("\"{name}\" is no snapshot"))?;
            Ok(SentSnapshot {
                name: name.to_owned(),
                guid: guid.parse().with_context(|| format!("read \"{line}\""))?,
                created: created
                    .parse()
                    .with_context(|| format!("read \"{line}\""))?,
            })
        })
        .collect()
}

impl Zfs {
    /// The snapshots of the existing dataset `name`, the oldest first.
    ///
    /// # Errors
    ///
    /// Fails when `zfs` does.
    pub fn snapshots(&self, name: &str) -> Result<Vec<SentSnapshot>> {
        let output = Command::new(&self.zfs)
            .args(list_snapshots(name))
            .run()
            .with_context(|| format!("list the snapshots of dataset \"{name}\""))?;
        parse_snapshots(&output.stdout)
    }

    /// Rolls the dataset `name` back to `snapshot`, its newest one: what was changed since is lost.
    ///
    /// # Errors
    ///
    /// Fails when `zfs` does, and where that is not the newest snapshot; then nothing is lost.
    pub fn roll_back(&self, name: &str, snapshot: &str) -> Result<()> {
        self.told(&["rollback", &format!("{name}@{snapshot}")])
            .with_context(|| format!("roll dataset \"{name}\" back to its newest snapshot"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_are_read_as_zfs_lists_them() {
        let text = "vault/m/main@first\t17312345678901234567\t1763772001\nvault/m/main@autosnap_2026-11-22_01:00:00_hourly\t5\t1763773200\n";
        assert_eq!(
            parse_snapshots(text).unwrap(),
            [
                SentSnapshot {
                    name: "first".into(),
                    guid: 17_312_345_678_901_234_567,
                    created: 1_763_772_001,
                },
                SentSnapshot {
                    name: "autosnap_2026-11-22_01:00:00_hourly".into(),
                    guid: 5,
                    created: 1_763_773_200,
                }
            ]
        );
        assert!(parse_snapshots("").unwrap().is_empty());
        for wrong in ["vault/m/main\t1\t2\n", "a@b\t1\n", "a@b\t-\t2\n"] {
            assert!(parse_snapshots(wrong).is_err(), "{wrong}");
        }
    }
}
