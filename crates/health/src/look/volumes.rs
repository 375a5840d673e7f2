//! What a sync is worth on the file systems that the instance writes to.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use mounts::{Mount, Mounts, Place};
use zfs::Zfs;

use crate::seen::{Sync, Unseen, Volume};

/// How long ZFS may take to answer. A pool that is suspended never does.
const DEADLINE: Duration = Duration::from_secs(20);

/// Asks about each file system of `places` once. Without `zfs` nothing is known of a dataset, and a place
/// that is not there is told elsewhere.
pub fn of(places: &[(String, PathBuf)], mounts: &Mounts, zfs: Option<&Zfs>) -> Vec<Volume> {
    let mut mounted: BTreeMap<String, (Mount, Vec<String>)> = BTreeMap::new();
    for (name, path) in places {
        let Ok(place) = mounts.place(path) else {
            continue;
        };
        let (Place::MountPoint(mount)
        | Place::Directory(mount)
        | Place::Hiding { seen: mount, .. }) = place;
        mounted
            .entry(mount.source.clone())
            .or_insert_with(|| (mount, Vec::new()))
            .1
            .push(name.clone());
    }
    mounted
        .into_iter()
        .filter_map(|(source, (mount, places))| {
            let sync = match zfs {
                Some(zfs) if mount.filesystem == "zfs" => {
                    of_dataset(zfs, &source).map_err(Unseen::from)
                }
                _ if mount.has_no_barriers => Ok(Sync::WithoutBarriers),
                _ if mount.filesystem == "zfs" => return None,
                _ => Ok(Sync::Kept),
            };
            Some(Volume {
                source,
                places,
                sync,
            })
        })
        .collect()
}

fn of_dataset(zfs: &Zfs, name: &str) -> Result<Sync> {
    let sync = zfs.property(name, "sync", DEADLINE)?;
    Ok(if sync.value == "disabled" {
        Sync::Disabled {
            by: sync
                .source
                .strip_prefix("inherited from ")
                .unwrap_or(name)
                .to_owned(),
        }
    } else {
        Sync::Kept
    })
}
