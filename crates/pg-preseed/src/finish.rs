//! What is left to do around a cluster that was restored.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, ensure};
use archive::Archive;
use durable_file::Temporary;
use settings::Settings;
use tool::Level;

/// The directory for what is fetched. The name is this program's own: whatever is there is left over.
pub fn fetched(settings: &Settings) -> PathBuf {
    durable_file::with_suffix(&settings.postgresql.data_directory, ".backstay-preseed")
}

/// Removes what was fetched.
///
/// # Errors
///
/// Fails when it cannot be removed.
pub fn clear_fetched(settings: &Settings) -> Result<()> {
    let directory = fetched(settings);
    match fs::remove_dir_all(&directory) {
        Err(err) if err.kind() != std::io::ErrorKind::NotFound => {
            Err(err).with_context(|| format!("remove \"{}\"", directory.display()))
        }
        _ => Ok(()),
    }
}

/// Checks that the cluster in `data` is as a server may start on it.
///
/// # Errors
///
/// Fails when it is not: the restore has done something else than it said.
pub fn check(data: &Path, as_standby: bool) -> Result<()> {
    let mode = fs::metadata(data)
        .with_context(|| format!("examine \"{}\"", data.display()))?
        .permissions()
        .mode()
        & 0o7777;
    ensure!(
        mode & 0o027 == 0,
        "\"{}\" has mode {mode:04o}, with which PostgreSQL does not start",
        data.display()
    );
    for (signal, is_expected) in [("recovery.signal", false), ("standby.signal", as_standby)] {
        let path = data.join(signal);
        let is_there = path
            .try_exists()
            .with_context(|| format!("examine \"{}\"", path.display()))?;
        ensure!(
            is_there == is_expected,
            "\"{}\" is {}",
            path.display(),
            if is_there { "there" } else { "missing" }
        );
    }
    Ok(())
}

/// Removes replication slots that came along in the cluster in `data`, on which no server has run here yet.
/// Nobody reads them any more, and they would keep WAL for ever.
///
/// # Errors
///
/// Fails when they cannot be listed or removed.
pub fn clear_slots(data: &Path) -> Result<()> {
    let slots = data.join("pg_replslot");
    for entry in fs::read_dir(&slots).with_context(|| format!("list \"{}\"", slots.display()))? {
        let entry = entry.with_context(|| format!("list \"{}\"", slots.display()))?;
        fs::remove_dir_all(entry.path())
            .with_context(|| format!("remove \"{}\"", entry.path().display()))?;
        tool::log(
            Level::Info,
            format_args!(
                "dropped the replication slot {}",
                entry.file_name().display()
            ),
        );
    }
    durable_file::sync_directory(&slots)
}

/// Puts the WAL that was fetched into the archive of this machine, so that it goes on where the lost one
/// ended: a restore that begins with an older base backup finds it in one place with what comes.
///
/// What the archive has already stays as it is. A second run goes on.
///
/// # Errors
///
/// Fails when something cannot be read or written.
pub fn take_over_archive(settings: &Settings) -> Result<()> {
    let directory = fetched(settings);
    let config = directory.join("settings.json");
    if !config.exists() {
        return Ok(());
    }
    let root = &settings.archive.directory;
    let source = tool::read_settings(&config)?.archive.directory;
    if source == *root {
        return Ok(());
    }
    let source = Archive::open(&source, &settings.instance)?;
    let cluster = source.newest_cluster()?.clone();
    let own = Archive::init(root, &settings.instance, cluster.clone())?;
    let mut taken = 0;
    for (name, _) in &source.list(&cluster)?.files {
        let to = own.path_of(&cluster, name)?;
        if to.exists() {
            continue;
        }
        let from = source.path_of(&cluster, name)?;
        durable_file::ensure_directory(to.parent().unwrap_or(root))?;
        let mut copy = Temporary::create(&own.incoming(), &name.to_string())?;
        durable_file::open_regular(&from)
            .and_then(|mut file| durable_file::copy_bytes(&mut file, copy.file()))
            .and_then(|_| copy.file().flush())
            .with_context(|| format!("copy \"{}\" into the archive", from.display()))?;
        copy.publish(&to)?;
        taken += 1;
    }
    if taken > 0 {
        tool::log(
            Level::Info,
            format_args!("{taken} WAL files were put into \"{}\"", root.display()),
        );
    }
    Ok(())
}

/// Asks for a base backup, so that a restore from now on need not go the way over the old timeline.
///
/// # Errors
///
/// Fails when the request cannot be written.
pub fn request_base_backup(settings: &Settings) -> Result<()> {
    if settings.base_backup.is_none() {
        return Ok(());
    }
    let path = instance_state::base_backup_request(&settings.state_directory());
    durable_file::replace(&path, b"after a preseed\n")
        .map_err(|err| anyhow!("ask for a base backup: {err:#}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_that_came_along_are_dropped_and_nothing_else() {
        let data = tempfile::tempdir().unwrap();
        let slot = data.path().join("pg_replslot/of_the_old_server");
        fs::create_dir_all(&slot).unwrap();
        fs::write(slot.join("state"), "slot").unwrap();
        fs::write(data.path().join("PG_VERSION"), "17").unwrap();
        clear_slots(data.path()).unwrap();
        assert!(!slot.exists() && data.path().join("pg_replslot").is_dir());
        assert!(data.path().join("PG_VERSION").exists());
        clear_slots(data.path()).unwrap();
        assert!(clear_slots(&data.path().join("elsewhere")).is_err());
    }

    #[test]
    fn s25_a_cluster_with_a_mode_or_a_signal_that_it_should_not_have_is_refused() {
        let data = tempfile::tempdir().unwrap();
        let set_mode = |mode| {
            fs::set_permissions(data.path(), fs::Permissions::from_mode(mode)).unwrap();
        };
        set_mode(0o700);
        check(data.path(), false).unwrap();
        assert!(check(data.path(), true).is_err());
        set_mode(0o755);
        assert!(check(data.path(), false).is_err());
        set_mode(0o750);
        check(data.path(), false).unwrap();
        fs::write(data.path().join("standby.signal"), "").unwrap();
        assert!(check(data.path(), false).is_err());
        check(data.path(), true).unwrap();
        fs::write(data.path().join("recovery.signal"), "").unwrap();
        assert!(check(data.path(), true).is_err());
    }
}
