use std::ffi::CString;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use nix::unistd::{Uid, User, initgroups, setgid, setuid};
use tool::Hinted;

/// Gives up root's rights for those of the owner of the data directory `data`, for good. Whoever is not
/// root stays who they are. Where there is no such directory yet, the owner of the one above counts.
///
/// What root would write the server could not read, PostgreSQL's programs do not run as root, and the
/// server lets its own user in over the socket. Paths of the command line have to be absolute by now:
/// the working directory of root is often closed to others, so it is left.
///
/// # Errors
///
/// Fails when the owner cannot be found, is root, or cannot be become.
pub fn become_owner(data: &Path) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let user = owner(data)?;
    let become_user = || -> Result<()> {
        let name = CString::new(user.name.as_str()).context("read its name")?;
        initgroups(&name, user.gid).context("take its groups")?;
        setgid(user.gid).context("take its group")?;
        setuid(user.uid).context("take its identity")?;
        std::env::set_current_dir("/").context("leave the working directory")
    };
    become_user().with_context(|| format!("become user \"{}\"", user.name))
}

/// The owner of the data directory `data`; where there is no such directory yet, that of the one above.
///
/// # Errors
///
/// Fails when the owner cannot be found, or is root.
pub fn owner(data: &Path) -> Result<User> {
    let above = data.parent().unwrap_or(data);
    let owner = fs::metadata(data)
        .or_else(|_| fs::metadata(above))
        .with_context(|| format!("examine \"{}\"", above.display()))?
        .uid();
    if owner == 0 {
        return Err(Hinted::new(
            format!(
                "\"{}\" belongs to root, and PostgreSQL does not run as root",
                if data.exists() { data } else { above }.display()
            ),
            "give it to the server's user, or run this as that user: `runuser -u USER -- backstay …`",
        )
        .into());
    }
    User::from_uid(Uid::from_raw(owner))
        .with_context(|| format!("look up user {owner}"))?
        .with_context(|| format!("user {owner}, to whom the data belongs, does not exist"))
}
