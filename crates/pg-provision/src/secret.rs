//! Passwords from files.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use tool::Hinted;

use crate::scram::Password;

/// The longest password that is taken, in bytes. PostgreSQL's own limit lies above it.
const LONGEST: usize = 4096;
/// `O_NONBLOCK`: opening a FIFO that nobody writes to would wait for ever.
const WITHOUT_WAITING: i32 = 0o4000;

/// Where the file of a password is: an absolute path stays, and the name of a credential is looked
/// for in the directory that systemd names.
///
/// # Errors
///
/// Fails when there is no such directory: nobody has handed over credentials.
pub fn locate(file: &Path) -> Result<PathBuf> {
    if file.is_absolute() {
        return Ok(file.to_owned());
    }
    let directory = std::env::var_os("CREDENTIALS_DIRECTORY").ok_or_else(|| {
        Hinted::new(
            format!(
                "\"{}\" is the name of a credential, and CREDENTIALS_DIRECTORY is not set",
                file.display()
            ),
            "only the unit has the credentials; start it with systemctl, or give an absolute path",
        )
    })?;
    Ok(Path::new(&directory).join(file))
}

/// Reads the password in `path`, which is not shown in any error.
///
/// One newline at the end is not part of it.
///
/// # Errors
///
/// Fails when the file is missing, no regular file or open to everybody, and when its content cannot
/// be a password that somebody meant: empty, longer than 4 KiB, with a byte order mark, a zero byte
/// or a further line.
pub fn read(path: &Path) -> Result<Password> {
    let shown = path.display();
    let mut file = match OpenOptions::new()
        .read(true)
        .custom_flags(WITHOUT_WAITING)
        .open(path)
    {
        Ok(file) => file,
        Err(err) => {
            let missing = err.kind() == ErrorKind::NotFound;
            let failed = Err(err).with_context(|| format!("open \"{shown}\""));
            return if missing {
                tool::WithHint::with_hint(failed, || {
                    "has the secret been put in place on this host?".into()
                })
            } else {
                failed
            };
        }
    };
    let metadata = file
        .metadata()
        .with_context(|| format!("examine \"{shown}\""))?;
    ensure!(metadata.is_file(), "\"{shown}\" is no regular file");
    if metadata.mode() & 0o007 != 0 {
        return Err(Hinted::new(
            format!("\"{shown}\" is open to every user of this host"),
            "make it readable for its owner only: chmod 0600",
        )
        .into());
    }
    let mut content = Vec::new();
    file.by_ref()
        .take(LONGEST as u64 + 3)
        .read_to_end(&mut content)
        .with_context(|| format!("read \"{shown}\""))?;
    let password = content
        .strip_suffix(b"\r\n")
        .or_else(|| content.strip_suffix(b"\n"))
        .unwrap_or(&content);
    if let Some(problem) = what_is_wrong_with(password) {
        return Err(Hinted::new(
            format!("\"{shown}\" {problem}"),
            "write the password alone into the file; one newline at its end is not part of it",
        )
        .into());
    }
    Ok(Password::new(password))
}

fn what_is_wrong_with(password: &[u8]) -> Option<&'static str> {
    if password.is_empty() {
        Some("is empty, and an empty password would take the role's password away")
    } else if password.len() > LONGEST {
        Some("is longer than 4096 bytes")
    } else if password.starts_with("\u{feff}".as_bytes()) {
        Some("begins with a byte order mark")
    } else if password.contains(&0) {
        Some("has a zero byte in it")
    } else if password.iter().any(|&byte| byte == b'\n' || byte == b'\r') {
        Some("has more than one line")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn file(content: &[u8], mode: u32) -> Result<(tempfile::TempDir, PathBuf)> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("password");
        fs::write(&path, content)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        Ok((directory, path))
    }

    #[test]
    fn v3_one_newline_at_the_end_is_not_part_of_the_password() -> Result<()> {
        for content in ["secret", "secret\n", "secret\r\n"] {
            let (_directory, path) = file(content.as_bytes(), 0o400)?;
            assert_eq!(read(&path)?, Password::new(b"secret"), "{content:?}");
        }
        let (_directory, path) = file(b" secret \n", 0o400)?;
        assert_eq!(read(&path)?, Password::new(b" secret "));
        Ok(())
    }

    #[test]
    fn v3_what_cannot_be_a_password_is_refused_without_showing_it() -> Result<()> {
        let long = [b'x'; LONGEST + 1];
        for (content, problem) in [
            (
                &b""[..],
                "is empty, and an empty password would take the role's password away",
            ),
            (
                b"\n",
                "is empty, and an empty password would take the role's password away",
            ),
            (b"can\nary\n", "has more than one line"),
            (b"canary\n\n", "has more than one line"),
            (b"can\0ary", "has a zero byte in it"),
            (b"\xef\xbb\xbfcanary", "begins with a byte order mark"),
            (&long, "is longer than 4096 bytes"),
        ] {
            let (_directory, path) = file(content, 0o400)?;
            assert_eq!(
                format!("{:#}", read(&path).unwrap_err()),
                format!("\"{}\" {problem}", path.display())
            );
        }
        Ok(())
    }

    #[test]
    fn v3_a_file_that_everybody_can_read_is_refused() -> Result<()> {
        let (_directory, path) = file(b"secret", 0o644)?;
        let err = read(&path).unwrap_err();
        assert_eq!(
            format!("{err:#}"),
            format!("\"{}\" is open to every user of this host", path.display())
        );
        assert_eq!(
            tool::hint_of(&err),
            Some("make it readable for its owner only: chmod 0600")
        );
        Ok(())
    }

    #[test]
    fn v3_a_missing_file_a_directory_and_a_fifo_are_refused_without_waiting() -> Result<()> {
        let directory = tempfile::tempdir()?;
        let missing = directory.path().join("missing");
        assert_eq!(
            format!("{:#}", read(&missing).unwrap_err()),
            format!(
                "open \"{}\": No such file or directory (os error 2)",
                missing.display()
            )
        );
        assert_eq!(
            format!("{:#}", read(directory.path()).unwrap_err()),
            format!("\"{}\" is no regular file", directory.path().display())
        );
        let fifo = directory.path().join("fifo");
        command::Command::new("/usr/bin/mkfifo").arg(&fifo).run()?;
        assert_eq!(
            format!("{:#}", read(&fifo).unwrap_err()),
            format!("\"{}\" is no regular file", fifo.display())
        );
        Ok(())
    }

    #[test]
    fn the_name_of_a_credential_needs_the_directory_that_systemd_names() -> Result<()> {
        assert_eq!(
            locate(Path::new("/run/secrets/app"))?,
            Path::new("/run/secrets/app")
        );
        Ok(())
    }
}
