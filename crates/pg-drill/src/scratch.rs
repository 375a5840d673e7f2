//! The place where a copy is made and thrown away.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tool::Hinted;

/// The one entry of the drill's directory that is ours. What else is in it is never touched.
const NAME: &str = "scratch";
/// How long a server that was told to end at once may take, and how long something may go on writing
/// into a directory that is being removed: programs that fetch WAL ahead end by themselves.
const PATIENCE: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(50);

/// Where everything of a drill is.
#[derive(Clone, Debug)]
pub struct Scratch {
    root: PathBuf,
}

impl Scratch {
    pub fn in_directory(directory: &Path) -> Self {
        Self {
            root: directory.join(NAME),
        }
    }

    /// What the attempt came to.
    pub fn outcome(&self) -> PathBuf {
        self.root.join("outcome.json")
    }

    /// The settings of the instance as they would be on a new machine.
    pub fn settings(&self) -> PathBuf {
        self.root.join("settings.json")
    }

    /// What was fetched from off-site.
    pub fn off_site(&self) -> PathBuf {
        self.root.join("off-site")
    }

    /// The restored cluster.
    pub fn cluster(&self) -> PathBuf {
        self.root.join("cluster")
    }

    /// A data directory that does not exist: the drill has no server but the copy's.
    pub fn no_cluster(&self) -> PathBuf {
        self.root.join("no-cluster")
    }

    /// The directory of the copy's socket, and of nothing else.
    pub fn socket(&self) -> PathBuf {
        self.root.join("s")
    }

    pub fn tablespaces(&self) -> PathBuf {
        self.root.join("tablespaces")
    }

    /// Who may connect to the copy.
    pub fn hba(&self) -> PathBuf {
        self.root.join("pg_hba.conf")
    }

    /// The messages of the copy's server.
    pub fn log(&self) -> PathBuf {
        self.root.join("server.log")
    }

    /// Makes the directories, for nobody but this user.
    pub fn make(&self) -> Result<()> {
        let parent = self.root.parent().unwrap_or(&self.root);
        if !parent.is_dir() {
            return Err(Hinted::new(
                format!("\"{}\" is no directory", parent.display()),
                "is it mounted? it is not made by the drill, which would otherwise fill the disk that is there instead",
            )
            .into());
        }
        for directory in [&self.root, &self.socket(), &self.tablespaces()] {
            DirBuilder::new()
                .mode(0o700)
                .create(directory)
                .with_context(|| format!("create \"{}\"", directory.display()))?;
        }
        Ok(())
    }

    /// Ends the servers of copies and removes everything. Does nothing where there is nothing.
    pub fn clear(&self) -> Result<()> {
        if fs::symlink_metadata(&self.root).is_err() {
            return Ok(());
        }
        for data in self.data_directories()? {
            end_server(&data)?;
        }
        let begin = Instant::now();
        loop {
            match fs::remove_dir_all(&self.root) {
                Ok(()) => return Ok(()),
                Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(err)
                    if err.kind() != io::ErrorKind::DirectoryNotEmpty
                        || begin.elapsed() > PATIENCE =>
                {
                    return Err(err).with_context(|| format!("remove \"{}\"", self.root.display()));
                }
                Err(_) => std::thread::sleep(POLL),
            }
        }
    }

    /// The directories in which a server runs or has crashed.
    fn data_directories(&self) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for entry in
            fs::read_dir(&self.root).with_context(|| format!("list \"{}\"", self.root.display()))?
        {
            let path = entry
                .with_context(|| format!("list \"{}\"", self.root.display()))?
                .path();
            if path.join(PID_FILE).exists() {
                found.push(path);
            }
        }
        Ok(found)
    }
}

const PID_FILE: &str = "postmaster.pid";

/// Ends the server in `data` at once, and waits until it is gone.
///
/// The number in `postmaster.pid` is believed only if the process works in that very directory. A file
/// that a dead server left may name any process by now, the server of the instance for one, and
/// `pg_ctl` would end that.
fn end_server(data: &Path) -> Result<()> {
    let Some(pid) = server_in(data) else {
        return Ok(());
    };
    match kill(pid, Signal::SIGQUIT) {
        Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
        Err(err) => return Err(err).with_context(|| format!("end process {pid}")),
    }
    let begin = Instant::now();
    while server_in(data) == Some(pid) {
        if begin.elapsed() > PATIENCE {
            bail!(
                "the server in \"{}\", process {pid}, does not end",
                data.display()
            );
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

/// The process of the server in `data`, if there is one.
fn server_in(data: &Path) -> Option<Pid> {
    let text = fs::read_to_string(data.join(PID_FILE)).ok()?;
    let pid: i32 = text.lines().next()?.trim().parse().ok()?;
    let works_in = fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
    (works_in == fs::canonicalize(data).ok()?).then(|| Pid::from_raw(pid))
}

/// What is free on the file system of `directory`, in bytes.
pub fn free_bytes(directory: &Path) -> Result<u64> {
    let stat = nix::sys::statvfs::statvfs(directory)
        .with_context(|| format!("examine the file system of \"{}\"", directory.display()))?;
    Ok(stat.blocks_available() * stat.fragment_size())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_interrupted_drill_left_is_removed_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("foreign"), "").unwrap();
        let scratch = Scratch::in_directory(directory.path());
        scratch.clear().unwrap();
        scratch.make().unwrap();
        fs::create_dir(scratch.cluster()).unwrap();
        fs::write(scratch.cluster().join("PG_VERSION"), "15\n").unwrap();
        scratch.clear().unwrap();
        let left: Vec<_> = fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, ["foreign"]);
    }

    #[test]
    fn a_process_that_works_elsewhere_is_not_ended_whatever_a_stale_file_says() {
        let directory = tempfile::tempdir().unwrap();
        let scratch = Scratch::in_directory(directory.path());
        scratch.make().unwrap();
        fs::create_dir(scratch.cluster()).unwrap();
        let pid = std::process::id();
        fs::write(scratch.cluster().join(PID_FILE), format!("{pid}\n")).unwrap();
        // This test is that process, and would not survive.
        scratch.clear().unwrap();
        assert!(!scratch.cluster().exists());
    }

    #[test]
    fn a_missing_directory_is_not_made() {
        let scratch = Scratch::in_directory(Path::new("/nonexistent/drill"));
        assert_eq!(
            scratch.make().unwrap_err().to_string(),
            "\"/nonexistent/drill\" is no directory"
        );
    }
}
