//! Owner and mode of a mounted directory: of that directory alone, never of what is in it. And the
//! directories on the way to it.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use anyhow::{Context as _, Result};
use nix::fcntl::OFlag;
use nix::unistd::{Gid, Group, Uid, User, fchown};
use settings::Dataset;
use tool::Hinted;

/// Gives the directory at `path` the declared owner, group and mode, where they differ.
///
/// # Errors
///
/// Fails when there is no such user or group, and when the directory cannot be opened or changed.
pub fn settle(dataset: &Dataset, path: &Path) -> Result<()> {
    let directory = OpenOptions::new()
        .read(true)
        .custom_flags((OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW).bits())
        .open(path)
        .with_context(|| format!("open \"{}\"", path.display()))?;
    let owner = dataset.owner.as_deref().map(user).transpose()?;
    let group = dataset.group.as_deref().map(group).transpose()?;
    let now = metadata(&directory, path)?;
    let owner = owner.filter(|owner| owner.as_raw() != now.uid());
    let group = group.filter(|group| group.as_raw() != now.gid());
    if owner.is_some() || group.is_some() {
        fchown(&directory, owner, group)
            .with_context(|| format!("change the owner of \"{}\"", path.display()))?;
    }
    if let Some(mode) = &dataset.mode {
        let mode = u32::from_str_radix(mode, 8).context("read the mode")?;
        // After a change of the owner, which can take bits away.
        if metadata(&directory, path)?.permissions().mode() & 0o7777 != mode {
            directory
                .set_permissions(std::fs::Permissions::from_mode(mode))
                .with_context(|| format!("change the mode of \"{}\"", path.display()))?;
        }
    }
    Ok(())
}

/// Makes those of the directories above `path` that are missing, with mode 0755. What is there stays as
/// it is.
///
/// `zfs mount` would make them with the umask of this program, under which nobody but root gets to what
/// is mounted below.
///
/// # Errors
///
/// Fails when one cannot be made; those above it are there then.
pub fn make_parents(path: &Path) -> Result<()> {
    let missing: Vec<&Path> = path
        .ancestors()
        .skip(1)
        .take_while(|parent| !parent.exists())
        .collect();
    for parent in missing.into_iter().rev() {
        std::fs::create_dir(parent).with_context(|| format!("create \"{}\"", parent.display()))?;
        // Whatever the umask is.
        std::fs::set_permissions(parent, std::fs::Permissions::from_mode(0o755))
            .with_context(|| format!("set the mode of \"{}\"", parent.display()))?;
    }
    Ok(())
}

fn metadata(directory: &File, path: &Path) -> Result<std::fs::Metadata> {
    directory
        .metadata()
        .with_context(|| format!("examine \"{}\"", path.display()))
}

fn user(name: &str) -> Result<Uid> {
    match User::from_name(name).with_context(|| format!("look up user \"{name}\""))? {
        Some(user) => Ok(user.uid),
        None => Err(no_such("user", name)),
    }
}

fn group(name: &str) -> Result<Gid> {
    match Group::from_name(name).with_context(|| format!("look up group \"{name}\""))? {
        Some(group) => Ok(group.gid),
        None => Err(no_such("group", name)),
    }
}

fn no_such(kind: &str, name: &str) -> anyhow::Error {
    Hinted::new(
        format!("there is no {kind} \"{name}\""),
        "declare it in the configuration, or name another",
    )
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared(owner: Option<&str>, mode: Option<&str>) -> Dataset {
        Dataset {
            name: "tank/a".into(),
            mountpoint: settings::Mountpoint::At("/srv/a".into()),
            owner: owner.map(String::from),
            group: None,
            mode: mode.map(String::from),
            properties: std::collections::BTreeMap::new(),
            purpose: None,
        }
    }

    #[test]
    fn the_mode_of_the_directory_is_set_and_nothing_in_it_is_touched() {
        let directory = tempfile::tempdir().unwrap();
        let inside = directory.path().join("inside");
        std::fs::write(&inside, "").unwrap();
        std::fs::set_permissions(&inside, std::fs::Permissions::from_mode(0o600)).unwrap();
        settle(&declared(None, Some("0711")), directory.path()).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(directory.path()), mode(&inside)), (0o711, 0o600));
        settle(&declared(None, None), directory.path()).unwrap();
        assert_eq!(mode(directory.path()), 0o711);
    }

    #[test]
    fn an_owner_that_does_not_exist_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let err = settle(&declared(Some("nobody-at-all"), None), directory.path()).unwrap_err();
        assert_eq!(err.to_string(), "there is no user \"nobody-at-all\"");
        assert!(tool::hint_of(&err).is_some());
    }

    #[test]
    fn directories_on_the_way_to_a_mount_can_be_entered_by_everybody() {
        let directory = tempfile::tempdir().unwrap();
        let there = directory.path().join("there");
        std::fs::create_dir(&there).unwrap();
        std::fs::set_permissions(&there, std::fs::Permissions::from_mode(0o700)).unwrap();
        make_parents(&there.join("a/b/mount")).unwrap();
        make_parents(&there.join("a/b/mount")).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(&there), 0o700);
        assert_eq!(mode(&there.join("a")), 0o755);
        assert_eq!(mode(&there.join("a/b")), 0o755);
        assert!(!there.join("a/b/mount").exists());
    }

    #[test]
    fn a_link_in_the_place_of_the_directory_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink("/", &link).unwrap();
        assert!(settle(&declared(None, Some("0700")), &link).is_err());
    }
}
