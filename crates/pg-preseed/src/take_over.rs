//! Root's part around a receive: a place that the server's user may receive into, and the declared name for what was
//! received whole.
//!
//! Root speaks to no other machine, and the server's user changes no declared dataset. Nothing that was there is
//! destroyed: a declared dataset has to be empty, and keeps what it has under another name all the same.

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use command::Command;
use jiff::Timestamp;
use mounts::{Mounts, Place};
use nix::mount::umount;
use settings::{Preseed, Settings};
use tool::{Hinted, Level};
use zfs::{Properties, Zfs, pool_of};

use crate::fill::say;
use crate::received::{self, MARK, place_of, staging_of};

/// What the server's user may do below the place, and nowhere else.
const RIGHTS: &str = "canmount,change-key,create,destroy,mount,mountpoint,receive,userprop";
/// What a dataset of another machine does not bring along: programs that run as somebody else, and devices.
const PRECAUTIONS: [(&str, &str); 4] = [
    ("canmount", "noauto"),
    ("mountpoint", "none"),
    ("setuid", "off"),
    ("devices", "off"),
];

/// Makes the places beside the declared datasets and lets `user` receive there, if there is no cluster yet.
///
/// # Errors
///
/// Fails when one cannot be made. Then nothing can be received.
pub fn let_receive(settings: &Settings, preseed: &Preseed, user: &str) -> Result<()> {
    let data = &settings.postgresql.data_directory;
    let Some(_) = received::declared(preseed) else {
        return Ok(());
    };
    if data.join("PG_VERSION").exists() {
        return Ok(());
    }
    let zfs = Zfs::find()?;
    for target in targets(preseed) {
        let place = place_of(target);
        if !zfs.names_in(pool_of(target))?.contains(&place) {
            zfs.create(&place, [("canmount", "off"), ("mountpoint", "none")])?;
        }
        zfs.allow(user, RIGHTS, &place)?;
    }
    Ok(())
}

/// The declared datasets that are received, the archive's first: data without it is not restored from.
fn targets(preseed: &Preseed) -> Vec<&str> {
    let declared = received::declared(preseed);
    declared
        .and_then(|declared| declared.archive.as_ref())
        .map(|(_, target)| target.as_str())
        .into_iter()
        .chain(declared.map(|declared| declared.target_dataset.as_str()))
        .collect()
}

/// Gives what was received whole the declared names, and has it mounted as it is declared in the file `datasets`.
///
/// Killed anywhere, the next run goes on. What had a declared name keeps what it has under another one.
///
/// # Errors
///
/// Fails when a declared dataset is not empty, and when `zfs` does. What was received is there then under its old name
/// or its new one.
pub fn run(settings: &Settings, preseed: &Preseed, datasets: &Path) -> Result<()> {
    let Some(declared) = received::declared(preseed) else {
        return Ok(());
    };
    let taking = Taking {
        zfs: Zfs::find()?,
        directory: PathBuf::from(format!("/run/backstay-receiving-{}", settings.instance)),
    };
    let mut waiting = Vec::new();
    for target in targets(preseed) {
        match taking.what_waits(target)? {
            Waiting::Nothing => {}
            Waiting::Part => {
                say(&format!(
                    "\"{}\" is not received whole yet",
                    staging_of(target)
                ));
                return Ok(());
            }
            Waiting::Whole { newest } => waiting.push((target, newest)),
        }
    }
    // All that can be refused is, before anything is changed.
    for (target, _) in &waiting {
        taking.check_free(target)?;
    }
    for (target, newest) in &waiting {
        let staging = staging_of(target);
        for (property, value) in PRECAUTIONS {
            taking.zfs.set(&staging, property, value)?;
        }
        if *target == declared.target_dataset {
            taking.clear(&staging, newest)?;
        }
        taking.swap(&staging, target)?;
    }
    if !waiting.is_empty() {
        mount_as_declared(datasets)?;
        for (target, _) in &waiting {
            taking.check_mounted(target)?;
        }
    }
    for target in targets(preseed) {
        let place = place_of(target);
        let names = taking.zfs.names_in(pool_of(target))?;
        if names.contains(&place) && !names.contains(&staging_of(target)) {
            taking.zfs.destroy_empty(&place)?;
        }
    }
    Ok(())
}

/// What waits for a declared name.
enum Waiting {
    /// Nothing.
    Nothing,
    /// Something that is not whole.
    Part,
    /// All of it.
    Whole {
        /// Its newest snapshot.
        newest: String,
    },
}

struct Taking {
    zfs: Zfs,
    /// Where what was received is mounted for a moment, for root alone.
    directory: PathBuf,
}

impl Taking {
    fn what_waits(&self, target: &str) -> Result<Waiting> {
        let staging = staging_of(target);
        if !self.zfs.names_in(pool_of(target))?.contains(&staging) {
            return Ok(Waiting::Nothing);
        }
        let properties = self.zfs.properties(&staging)?;
        let newest = self.zfs.snapshots(&staging)?.pop();
        let is_whole = value(&properties, "type") == "filesystem"
            // Of an interrupted stream.
            && value(&properties, "receive_resume_token").len() <= 1
            && newest
                .as_ref()
                .is_some_and(|newest| value(&properties, MARK) == newest.guid.to_string());
        let Some(newest) = newest.filter(|_| is_whole) else {
            return Ok(Waiting::Part);
        };
        if value(&properties, "keystatus") == "unavailable" {
            return Err(Hinted::new(
                format!("\"{staging}\" is encrypted, and its key is not loaded"),
                format!("zfs load-key {staging}"),
            )
            .into());
        }
        Ok(Waiting::Whole {
            newest: newest.name,
        })
    }

    /// Refuses a declared dataset that is not empty.
    fn check_free(&self, target: &str) -> Result<()> {
        let names = self.zfs.names_in(pool_of(target))?;
        if !names.contains(target) {
            return Ok(());
        }
        let below = format!("{target}/");
        if let Some(child) = names.iter().find(|name| name.starts_with(&below)) {
            return Err(Hinted::new(
                format!("\"{child}\" is below \"{target}\", which is to get another name"),
                "put it elsewhere, or bring the data back by hand",
            )
            .into());
        }
        let properties = self.zfs.properties(target)?;
        if value(&properties, "mounted") != "yes" {
            return Err(Hinted::new(
                format!("dataset \"{target}\" is not mounted, so nobody can see that it is empty"),
                "start backstay-datasets.service, which mounts it",
            )
            .into());
        }
        if let Some(found) = received::something_in(Path::new(value(&properties, "mountpoint")))? {
            return Err(Hinted::new(
                format!(
                    "dataset \"{target}\" is not empty, it holds \"{}\"; what was received waits in \"{}\"",
                    found.display(),
                    staging_of(target)
                ),
                "move away what is worth keeping, or rename the dataset, and start the server again",
            )
            .into());
        }
        Ok(())
    }

    /// Takes away what is in the dataset `staging` beside its snapshots. The newest of them, `newest`, has all of it.
    ///
    /// A data directory that is there as it was when the snapshot was taken would be started by whoever finds it,
    /// without the WAL that has been archived since.
    fn clear(&self, staging: &str, newest: &str) -> Result<()> {
        if value(&self.zfs.properties(staging)?, "mounted") == "yes" {
            self.zfs.unmount(staging)?;
        }
        self.zfs.roll_back(staging, newest)?;
        let directory = &self.directory;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .with_context(|| format!("create directory \"{}\"", directory.display()))?;
        self.zfs
            .set(staging, "mountpoint", &directory.to_string_lossy())?;
        self.zfs.mount(staging)?;
        match Mounts::read()?.place(directory)? {
            Place::MountPoint(mount) if mount.filesystem == "zfs" && mount.source == staging => {}
            _ => bail!(
                "\"{staging}\" is not what is mounted at \"{}\"",
                directory.display()
            ),
        }
        say(&format!(
            "what is in \"{staging}\" stays in its snapshot \"@{newest}\" and is taken out beside it"
        ));
        empty(directory)?;
        self.zfs.unmount(staging)?;
        self.zfs.set(staging, "mountpoint", "none")?;
        fs::remove_dir(directory).with_context(|| format!("remove \"{}\"", directory.display()))
    }

    /// Gives `staging` the name `target`. What has that keeps what it has under another name, and is mounted nowhere.
    fn swap(&self, staging: &str, target: &str) -> Result<()> {
        if self.zfs.names_in(pool_of(target))?.contains(target) {
            let aside = format!(
                "{target}.empty-{}",
                Timestamp::now().strftime("%Y%m%d-%H%M%S")
            );
            unmount_snapshots_of(target)?;
            self.zfs.unmount(target)?;
            // It would be mounted over the other one at the next start of the machine.
            self.zfs.set(target, "canmount", "noauto")?;
            self.zfs.set(target, "mountpoint", "none")?;
            self.zfs.rename(target, &aside)?;
            say(&format!(
                "\"{target}\", which is empty, is called \"{aside}\" now"
            ));
        }
        self.zfs.rename(staging, target)?;
        say(&format!("what was received is \"{target}\" now"));
        Ok(())
    }

    fn check_mounted(&self, target: &str) -> Result<()> {
        if value(&self.zfs.properties(target)?, "mounted") == "yes" {
            return Ok(());
        }
        Err(Hinted::new(
            format!("dataset \"{target}\" was received and is not mounted"),
            "backstay-datasets.service mounts it, and says why if it cannot",
        )
        .into())
    }
}

fn value<'a>(properties: &'a Properties, name: &str) -> &'a str {
    properties
        .get(name)
        .map_or("", |property| property.value.as_str())
}

/// Removes everything in the directory `path`, and not what the file system makes by itself.
fn empty(path: &Path) -> Result<()> {
    for entry in fs::read_dir(path).with_context(|| format!("list \"{}\"", path.display()))? {
        let entry = entry.with_context(|| format!("list \"{}\"", path.display()))?;
        if durable_file::is_of_the_file_system(&entry.file_name()) {
            continue;
        }
        let is_directory = entry
            .file_type()
            .with_context(|| format!("examine \"{}\"", entry.path().display()))?
            .is_dir();
        if is_directory {
            fs::remove_dir_all(entry.path())
        } else {
            fs::remove_file(entry.path())
        }
        .with_context(|| format!("remove \"{}\"", entry.path().display()))?;
    }
    Ok(())
}

/// Unmounts the snapshots of `dataset` that are mounted because somebody has looked into them. They would keep the
/// dataset busy for minutes.
fn unmount_snapshots_of(dataset: &str) -> Result<()> {
    let text = fs::read_to_string("/proc/self/mounts").context("read what is mounted")?;
    for point in snapshots_mounted(dataset, &text) {
        umount(point).with_context(|| format!("unmount \"{point}\""))?;
    }
    Ok(())
}

/// Where they are mounted, by the lines of `/proc/self/mounts`.
fn snapshots_mounted<'a>(dataset: &str, mounts: &'a str) -> Vec<&'a str> {
    let of_it = format!("{dataset}@");
    mounts
        .lines()
        .filter(|line| line.starts_with(&of_it))
        .filter_map(|line| line.split(' ').nth(1))
        .collect()
}

/// Brings what is declared about, as at the start of the machine. Other datasets are none of this.
fn mount_as_declared(datasets: &Path) -> Result<()> {
    let told = Command::beside("pg-datasets")?
        .arg("--config")
        .arg(datasets)
        .run_until(None, say)?;
    if !told.status.is_some_and(|status| status.success()) {
        tool::log(
            Level::Warning,
            format_args!("not every declared dataset is as it is declared"),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_taken_out_of_a_directory_and_the_directory_stays() {
        let directory = tempfile::tempdir().unwrap();
        let at = |path: &str| directory.path().join(path);
        fs::create_dir_all(at("17/base/1")).unwrap();
        fs::create_dir(at("lost+found")).unwrap();
        fs::write(at("17/PG_VERSION"), "17").unwrap();
        fs::write(at("noise"), "x").unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("kept"), "x").unwrap();
        std::os::unix::fs::symlink(outside.path(), at("17/pg_wal")).unwrap();
        std::os::unix::fs::symlink(outside.path(), at("link")).unwrap();
        empty(directory.path()).unwrap();
        let left: Vec<_> = fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, ["lost+found"]);
        assert!(outside.path().join("kept").exists());
    }

    #[test]
    fn snapshots_of_one_dataset_are_told_from_those_of_others() {
        let mounts = "\
            tank/pg/main /var/lib/postgresql/main zfs rw 0 0\n\
            tank/pg/main@a /var/lib/postgresql/main/.zfs/snapshot/a zfs ro 0 0\n\
            tank/pg/main-wal@b /var/lib/postgresql/main-wal/.zfs/snapshot/b zfs ro 0 0\n";
        assert_eq!(
            snapshots_mounted("tank/pg/main", mounts),
            ["/var/lib/postgresql/main/.zfs/snapshot/a"]
        );
    }
}
