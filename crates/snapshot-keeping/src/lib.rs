//! Which snapshots are our own, and which of them have expired.
//!
//! `pg-base-backup --method snapshot` takes them, and `pg-prune --snapshots` destroys them. They are known
//! by user properties that were set on the snapshots themselves, never by their names: a name can be
//! anybody's, and a property of the dataset would be shown for every snapshot of it.

mod holds;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use durable_file::Lock;
use jiff::Timestamp;
use settings::{Settings, Snapshots};
use tool::{Hinted, Level};
use zfs::{SnapshotName, Zfs};

pub use holds::{Held, Holder, Holds, is_tag, snapshots_of};

/// The instance that a snapshot was taken for. zfsprops(7) has no capitals in names of properties.
pub const INSTANCE: &str = "backstay:instance";
/// The cluster that is in it.
pub const SYSTEM_IDENTIFIER: &str = "backstay:system-identifier";
/// The timeline that the cluster was on.
pub const TIMELINE: &str = "backstay:timeline";
/// A position in the WAL: everything before it is in the snapshot.
pub const LSN: &str = "backstay:lsn";
/// Set to [`YES`] once the snapshot has been read and found whole. Until then it does not count.
pub const VERIFIED: &str = "backstay:verified";
/// The value of [`VERIFIED`].
pub const YES: &str = "yes";

/// A snapshot that was taken for an instance: of its data directory's dataset and, at the same moment, of
/// those of its tablespaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Own {
    /// Its name, which all parts have after the `@`.
    pub name: String,
    /// Its parts, that of the data directory first.
    pub parts: Vec<SnapshotName>,
    /// When it was taken, in seconds since 1970.
    pub created_seconds: i64,
    /// Whether it was found whole.
    pub is_verified: bool,
    /// The first part that somebody holds.
    pub held: Option<SnapshotName>,
}

/// Takes the lock of those who take or destroy snapshots of an instance, which belongs to its user.
///
/// # Errors
///
/// Fails when another one has it, and when it cannot be taken.
pub fn lock(settings: &Settings) -> Result<Lock> {
    let directory = settings.state_directory();
    durable_file::ensure_directory(&directory)?;
    let path = directory.join("snapshots.lock");
    durable_file::try_lock(&path)?.ok_or_else(|| {
        Hinted::new(
            format!("another run holds \"{}\"", path.display()),
            "wait until it has ended: one snapshot is taken or destroyed at a time",
        )
        .into()
    })
}

/// What is declared about own snapshots: the dataset of the data directory, and how many are kept.
///
/// # Errors
///
/// Fails where nothing is declared: nobody would ever destroy such a snapshot.
pub fn declared(settings: &Settings) -> Result<(&Snapshots, u32)> {
    settings
        .snapshots
        .as_ref()
        .and_then(|snapshots| Some((snapshots, snapshots.keep?)))
        .ok_or_else(|| {
            Hinted::new(
                "the settings do not say how many snapshots are kept",
                "set snapshots.dataset and snapshots.keep; on NixOS, backup.baseBackup.snapshots.enable = true",
            )
            .into()
        })
}

/// Lists the snapshots that were taken for `instance`, whose data directory is on `dataset`, the oldest
/// first.
///
/// # Errors
///
/// Fails when ZFS cannot be asked. Then nothing is known of any.
pub fn list(zfs: &Zfs, dataset: &str, instance: &str) -> Result<Vec<Own>> {
    let mut found: BTreeMap<String, Own> = BTreeMap::new();
    for snapshot in zfs.snapshots_below(dataset, &[INSTANCE, VERIFIED])? {
        if snapshot.marks.get(INSTANCE).map(String::as_str) != Some(instance) {
            continue;
        }
        let own = found
            .entry(snapshot.name.name().to_owned())
            .or_insert_with(|| Own {
                name: snapshot.name.name().to_owned(),
                parts: Vec::new(),
                created_seconds: snapshot.created_seconds,
                is_verified: false,
                held: None,
            });
        if snapshot.holds > 0 && own.held.is_none() {
            own.held = Some(snapshot.name.clone());
        }
        // The part with the data directory speaks for all. Without it the others are what an interrupted
        // removal has left.
        if snapshot.name.dataset() == dataset {
            own.is_verified = snapshot.marks.get(VERIFIED).map(String::as_str) == Some(YES);
            own.parts.insert(0, snapshot.name);
        } else {
            own.parts.push(snapshot.name);
        }
    }
    let mut found: Vec<Own> = found.into_values().collect();
    found.sort_by(|a, b| (a.created_seconds, &a.name).cmp(&(b.created_seconds, &b.name)));
    Ok(found)
}

/// What is to become of one snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is one of the newest that are kept.
    Kept,
    /// There are enough newer ones.
    Expired,
    /// It was never found whole: whoever took it was interrupted, or could not remove it again.
    Unfinished,
}

/// What becomes of each of `own`, which are sorted from the oldest to the newest, if the newest `keep` that
/// were found whole are kept. With `keep` of at least 1 the newest one that can be restored from stays.
#[must_use]
pub fn fates(own: &[Own], keep: u32) -> Vec<Fate> {
    let mut room = keep.max(1);
    let mut fates: Vec<Fate> = own
        .iter()
        .rev()
        .map(|snapshot| {
            if !snapshot.is_verified {
                return Fate::Unfinished;
            }
            if room == 0 {
                return Fate::Expired;
            }
            room -= 1;
            Fate::Kept
        })
        .collect();
    fates.reverse();
    fates
}

/// Destroys a snapshot with all its parts, that of the data directory first: what an interruption leaves
/// does not count, and goes in the next run.
///
/// # Errors
///
/// Fails at the first part that cannot be destroyed.
pub fn destroy(zfs: &Zfs, own: &Own) -> Result<()> {
    own.parts
        .iter()
        .try_for_each(|part| zfs.destroy_snapshot(part))
}

/// Destroys what interrupted runs have left, and says so.
///
/// # Errors
///
/// Fails when one of them cannot be destroyed.
pub fn destroy_unfinished(zfs: &Zfs, own: &[Own]) -> Result<()> {
    for left in own
        .iter()
        .filter(|own| !own.is_verified && own.held.is_none())
    {
        destroy(zfs, left)
            .with_context(|| format!("remove unfinished snapshot \"{}\"", left.name))?;
        tool::log(
            Level::Info,
            format_args!("removed unfinished snapshot \"{}\"", left.name),
        );
    }
    Ok(())
}

/// A name for a snapshot that is taken `now` which none of `own` has.
#[must_use]
pub fn free_name(own: &[Own], mut now: Timestamp) -> String {
    loop {
        let name = now.strftime("backstay-%Y%m%d-%H%M%S").to_string();
        if !own.iter().any(|own| own.name == name) {
            return name;
        }
        now += jiff::SignedDuration::from_secs(1);
    }
}

/// What the user of the server needs to be allowed on a dataset to take and destroy snapshots of it.
///
/// # Source
///
/// zfs-allow(8): who destroys has to be allowed to mount as well, and who sets user properties `userprop`.
pub const RIGHTS: &str = "destroy,mount,snapshot,userprop";

/// How somebody who may not take or destroy a snapshot gets it done.
#[must_use]
pub fn who_may(instance: &str, dataset: &str, data: &Path) -> String {
    format!(
        "postgresql-snapshot-{instance}.service has the rights for as long as it runs; without it root gives them to the owner of \"{}\": zfs allow -u USER {RIGHTS} {dataset}",
        data.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(name: &str, created_seconds: i64, is_verified: bool) -> Own {
        Own {
            name: name.to_owned(),
            parts: vec![SnapshotName::new("tank/pg", name).unwrap()],
            created_seconds,
            is_verified,
            held: None,
        }
    }

    #[test]
    fn the_newest_that_are_whole_are_kept_and_unfinished_ones_take_nobodys_place() {
        use Fate::{Expired, Kept, Unfinished};
        let all = [
            own("a", 1, true),
            own("b", 2, true),
            own("c", 3, false),
            own("d", 4, true),
            own("e", 5, false),
        ];
        assert_eq!(
            fates(&all, 2),
            [Expired, Kept, Unfinished, Kept, Unfinished]
        );
        assert_eq!(fates(&all, 9), [Kept, Kept, Unfinished, Kept, Unfinished]);
        // Whatever a settings file says, the newest stays.
        assert_eq!(fates(&all[..2], 0), [Expired, Kept]);
        assert!(fates(&[], 1).is_empty());
    }

    #[test]
    fn a_second_snapshot_within_a_second_gets_a_name_of_its_own() {
        let now: Timestamp = "2026-11-22T01:02:03Z".parse().unwrap();
        let taken = [own("backstay-20261122-010203", 1, true)];
        assert_eq!(free_name(&[], now), "backstay-20261122-010203");
        assert_eq!(free_name(&taken, now), "backstay-20261122-010204");
    }
}
