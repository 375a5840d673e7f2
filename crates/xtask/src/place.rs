//! Where tests run and as whom: on this host or in a Debian system with another PostgreSQL, and never as
//! root, as PostgreSQL refuses root.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use nix::unistd::{Gid, Uid, User, chown};

use crate::rootfs::{self, Recipe};
use crate::{debian, process};

/// The user whom PostgreSQL's packages make and who runs the tests when root starts them.
const USER: &str = "postgres";
/// `PATH` in a Debian system.
const DEBIAN_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Variables with these beginnings reach the tests.
const KEPT_PREFIXES: [&str; 2] = ["BACKSTAY_", "PROPTEST_"];

/// Enters a system. Its files are read-only but for the directory of temporary files, and with the
/// namespaces everything ends that was mounted or started in it.
///
/// The shell stays process 1 in there instead of giving its place to the test: it collects orphans,
/// and signals do what they do elsewhere.
const ENTER: &str = r#"
set -eu
root=$1 run=$2 temporary=$3
shift 3
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/dev/shm"
mount --bind "$run" "$root/mnt"
mount --bind "$temporary" "$root/tmp"
status=0
chroot "$root" "$@" || status=$?
exit "$status"
"#;

/// A directory with everything that tests need while they run, readable for their user. The checkout
/// may not be.
#[derive(Debug)]
pub struct RunDirectory {
    directory: tempfile::TempDir,
}

impl RunDirectory {
    /// Makes the directory and puts `programs` into it.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be made or written.
    pub fn new(programs: &[PathBuf]) -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("backstay-run-")
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir()
            .context("make the directory of this run")?;
        let run = Self { directory };
        for name in ["bin", "tests", "crates", "output"] {
            make_directory(&run.path().join(name))?;
        }
        for program in programs {
            let name = program.file_name().context("find the name of a program")?;
            place_file(program, &run.path().join("bin").join(name))?;
        }
        Ok(run)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Puts the executable `from` below `tests` and returns its path within the directory.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be written.
    pub fn add_test(&self, from: &Path) -> Result<PathBuf> {
        let name = from.file_name().context("find the name of a test")?;
        let within = Path::new("tests").join(name);
        place_file(from, &self.path().join(&within))?;
        Ok(within)
    }

    /// Copies the directories of the packages, whose tests may read files in them.
    ///
    /// # Errors
    ///
    /// Fails when something cannot be read or written.
    pub fn add_packages(&self, crates: &Path) -> Result<()> {
        copy_tree(crates, &self.path().join("crates"))
    }
}

/// Where and as whom tests run.
#[derive(Clone, Debug)]
pub struct Place {
    /// Major version of the server there.
    pub major: u32,
    server: PathBuf,
    user: Option<(Uid, Gid)>,
    system: Option<PathBuf>,
}

impl Place {
    /// This host, with the server programs in `bin`.
    ///
    /// # Errors
    ///
    /// Fails when the programs cannot tell their version, and for root when there is no user `postgres`.
    pub fn host(bin: &Path) -> Result<Self> {
        let user = if debian::is_root() {
            let user = User::from_name(USER)
                .with_context(|| format!("look up user \"{USER}\""))?
                .with_context(|| {
                    format!("find user \"{USER}\", whom PostgreSQL's packages make")
                })?;
            Some((user.uid, user.gid))
        } else {
            None
        };
        Ok(Self {
            major: testbed::Server::at(bin)?.major(),
            server: bin.to_owned(),
            user,
            system: None,
        })
    }

    /// The system that `recipe` makes, with PostgreSQL `major`.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be made; the reason is fit for a list of what was skipped.
    pub fn system(major: u32, recipe: Recipe) -> Result<Self> {
        let system = rootfs::get(recipe)?;
        let path = system.join("etc/passwd");
        let passwd =
            fs::read_to_string(&path).with_context(|| format!("read \"{}\"", path.display()))?;
        Ok(Self {
            major,
            server: format!("/usr/lib/postgresql/{major}/bin").into(),
            user: Some(
                find_user(&passwd)
                    .with_context(|| format!("find user \"{USER}\" in \"{}\"", path.display()))?,
            ),
            system: Some(system),
        })
    }

    /// The place with PostgreSQL `major`: this host if it has that version, a system otherwise.
    ///
    /// # Errors
    ///
    /// Fails when neither is possible; the reason is fit for a list of what was skipped.
    pub fn with(major: u32, host: &Self) -> Result<Self> {
        if host.major == major {
            return Ok(host.clone());
        }
        if let Some(bin) = debian::server_of(major) {
            return Self::host(&bin);
        }
        let recipe = Recipe::of(major).with_context(|| {
            format!(
                "PostgreSQL {major} is not installed, and there is no recipe for a system with it"
            )
        })?;
        Self::system(major, recipe)
    }

    /// The name in reports.
    pub fn name(&self) -> String {
        format!("PostgreSQL {}", self.major)
    }

    /// The directory for temporary files of what runs here.
    pub fn temporary(&self, run: &RunDirectory) -> PathBuf {
        run.path().join(format!("tmp-{}", self.major))
    }

    /// Prepares to run `executable`, a path within `run`, in the directory `within` of `run`, with
    /// `variables` in its environment.
    ///
    /// # Errors
    ///
    /// Fails when the directory for temporary files cannot be made.
    pub fn command(
        &self,
        run: &RunDirectory,
        executable: &Path,
        within: &Path,
        variables: &[(&str, String)],
    ) -> Result<Command> {
        let temporary = self.temporary(run);
        if !temporary.exists() {
            make_directory(&temporary)?;
            if let Some((user, group)) = self.user {
                chown(&temporary, Some(user), Some(group))
                    .with_context(|| format!("give \"{}\" away", temporary.display()))?;
            }
        }
        // As they are called from where the tests run.
        let (run_there, temporary_there, path) = if self.system.is_some() {
            ("/mnt".into(), "/tmp".into(), DEBIAN_PATH.into())
        } else {
            (
                run.path().to_owned(),
                temporary.clone(),
                std::env::var_os("PATH").unwrap_or_else(|| DEBIAN_PATH.into()),
            )
        };
        let mut words: Vec<std::ffi::OsString> = Vec::new();
        if let Some(system) = &self.system {
            words.extend(["unshare", "--mount", "--propagation=private", "--pid"].map(Into::into));
            words.extend(["--ipc", "--fork", "--kill-child", "sh", "-c"].map(Into::into));
            words.extend([ENTER.into(), "enter".into(), system.into()]);
            words.extend([run.path().into(), temporary.into()]);
        }
        if let Some((user, group)) = self.user {
            words.extend([
                "setpriv".into(),
                format!("--reuid={user}").into(),
                format!("--regid={group}").into(),
                "--clear-groups".into(),
                "--".into(),
            ]);
        }
        words.extend(["env".into(), "-i".into(), "-C".into()]);
        words.push(run_there.join(within).into());
        let mut set = |name: &str, value: &std::ffi::OsStr| {
            let mut word = std::ffi::OsString::from(name);
            word.push("=");
            word.push(value);
            words.push(word);
        };
        set("PATH", &path);
        set("HOME", temporary_there.as_os_str());
        set("TMPDIR", temporary_there.as_os_str());
        set("LC_ALL", "C.UTF-8".as_ref());
        for (name, value) in std::env::vars_os() {
            if let Some(name) = name.to_str()
                && KEPT_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
            {
                set(name, &value);
            }
        }
        for (name, value) in variables {
            set(name, value.as_ref());
        }
        set("BACKSTAY_PROGRAMS", run_there.join("bin").as_os_str());
        set("BACKSTAY_POSTGRESQL_BIN", self.server.as_os_str());
        set("CARGO_MANIFEST_DIR", run_there.join(within).as_os_str());
        words.push(run_there.join(executable).into());

        let mut command = process::command(&words[0]);
        command.args(&words[1..]);
        Ok(command)
    }
}

/// Finds the numbers of the user in the text of `/etc/passwd`.
fn find_user(passwd: &str) -> Option<(Uid, Gid)> {
    let mut fields = passwd
        .lines()
        .map(|line| line.split(':'))
        .find_map(|mut fields| (fields.next() == Some(USER)).then_some(fields))?
        .skip(1);
    let user = fields.next()?.parse().ok()?;
    let group = fields.next()?.parse().ok()?;
    Some((Uid::from_raw(user), Gid::from_raw(group)))
}

fn make_directory(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("create \"{}\"", path.display()))?;
    set_mode(path, 0o755)
}

/// Sets the mode whatever the umask was.
fn set_mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| format!("set the mode of \"{}\"", path.display()))
}

/// Puts the executable `from` at `to`.
fn place_file(from: &Path, to: &Path) -> Result<()> {
    // A second name costs nothing, where both are on one file system.
    if fs::hard_link(from, to).is_err() {
        copy_file(from, to)?;
    }
    set_mode(to, 0o755)
}

fn copy_file(from: &Path, to: &Path) -> Result<()> {
    fs::File::open(from)
        .and_then(|mut source| io::copy(&mut source, &mut fs::File::create(to)?))
        .with_context(|| format!("copy \"{}\" to \"{}\"", from.display(), to.display()))
        .map(drop)
}

/// Copies directories and files; anything else has no place among sources.
fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    make_directory(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("read \"{}\"", from.display()))? {
        let entry = entry.with_context(|| format!("read \"{}\"", from.display()))?;
        let kind = entry
            .file_type()
            .with_context(|| format!("read \"{}\"", entry.path().display()))?;
        let target = to.join(entry.file_name());
        if kind.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else if kind.is_file() {
            copy_file(&entry.path(), &target)?;
            set_mode(&target, 0o644)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_of_a_system_is_found_by_its_whole_name() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\n\
                      postgres-exporter:x:7:8::/:/bin/false\n\
                      postgres:x:101:103:PostgreSQL administrator:/var/lib/postgresql:/bin/bash\n";
        assert_eq!(
            find_user(passwd),
            Some((Uid::from_raw(101), Gid::from_raw(103)))
        );
        assert_eq!(find_user("root:x:0:0::/:/bin/sh\n"), None);
    }
}
