//! Reading a restic repository with restic itself: which snapshots there are, what is in them, and
//! getting it out.
//!
//! Nothing here writes into a repository, and no command takes a lock, so a restore neither waits for a
//! backup that died nor keeps one from running. `restic prune` may remove what is being read; restic
//! notices that, and it is an error.
//!
//! # Source
//!
//! restic, "Scripting" (exit codes), "Restoring from backup", "Working with repositories".

mod status;

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use command::Command;
use jiff::Timestamp;
use serde::Deserialize;
use settings::{ResticContent, ResticRepository};
use tool::Hinted;

pub use status::Status;

/// A repository, and restic to read it.
#[derive(Clone)]
pub struct Repository {
    name: String,
    host: Option<String>,
    program: PathBuf,
    environment: Vec<(String, String)>,
    /// Extended options, as `restic -o` takes them.
    options: Vec<&'static str>,
    cache: Option<PathBuf>,
}

/// Ends a connection over ssh whose other end is gone; without it, ssh waits for hours. What goes over HTTP has
/// restic's own deadlines.
///
/// # Source
///
/// restic, "Preparing a new repository", SFTP: `sftp.args`, new in 0.17.
const SFTP_ARGUMENTS: &str =
    "sftp.args=-oConnectTimeout=30 -oServerAliveInterval=15 -oServerAliveCountMax=4";

/// Without the password.
impl fmt::Debug for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Repository")
            .field("name", &self.name)
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}

/// A snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Snapshot {
    /// Its identifier, in full.
    pub id: String,
    /// When it was made.
    pub time: Timestamp,
    /// The host that it was made for.
    pub hostname: String,
    /// What was copied, as absolute paths. They are the paths inside the snapshot too.
    pub paths: Vec<PathBuf>,
}

/// A file in a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its path in the snapshot, absolute.
    pub path: PathBuf,
    /// Its length in bytes.
    pub length_bytes: u64,
}

/// A line of `restic ls --json`.
#[derive(Deserialize)]
struct Node {
    #[serde(rename = "type")]
    kind: Option<String>,
    path: Option<PathBuf>,
    #[serde(default)]
    size: u64,
}

impl Repository {
    /// The repository that `declared` describes.
    ///
    /// Password and environment are read from the unit's credentials `restic-password-<name>` and
    /// `restic-environment-<name>` where it has them, or `restic-password` and `restic-environment` in a
    /// unit with one repository: it may not be allowed to read the files themselves. A declaration whose
    /// password is a credential already says which ones are this repository's. They
    /// are read now, and handed to restic in its environment, which only the same user can see: root
    /// reads them and then becomes somebody who could not.
    ///
    /// `cache` is a directory for restic's cache, for speed; without it, there is none.
    ///
    /// # Errors
    ///
    /// Fails when restic is not installed, and when the password or the environment cannot be read.
    pub fn new(declared: &ResticRepository, cache: Option<&Path>) -> Result<Self> {
        let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
        let credential = |kind| credential(credentials.as_deref(), declared, kind);
        let password =
            credential("restic-password").unwrap_or_else(|| declared.password_file.clone());
        let password = std::fs::read_to_string(&password)
            .with_context(|| format!("read \"{}\"", password.display()))?;
        let mut environment = vec![
            // Not as arguments, which everybody on the machine can read.
            ("RESTIC_REPOSITORY".to_owned(), declared.repository.clone()),
            // Without the line's end, as restic reads it from a file.
            ("RESTIC_PASSWORD".to_owned(), password.trim().to_owned()),
        ];
        if let Some(file) =
            credential("restic-environment").or_else(|| declared.environment_file.clone())
        {
            let text = std::fs::read_to_string(&file)
                .with_context(|| format!("read \"{}\"", file.display()))?;
            environment.extend(variables(&text));
        }
        let program = installed()?;
        let options = if declared.repository.starts_with("sftp:") && knows_sftp_arguments(&program)?
        {
            vec![SFTP_ARGUMENTS]
        } else {
            Vec::new()
        };
        Ok(Self {
            name: declared.name.clone(),
            host: declared.host.clone(),
            program,
            environment,
            options,
            cache: cache.map(ToOwned::to_owned),
        })
    }

    /// Its name in the settings.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(&self.program).arg(name).arg("--no-lock");
        command = match &self.cache {
            Some(cache) => command.arg("--cache-dir").arg(cache),
            None => command.arg("--no-cache"),
        };
        for option in &self.options {
            command = command.args(["-o", option]);
        }
        for (name, value) in &self.environment {
            command = command.env(name, value);
        }
        command
    }

    /// Turns the end of restic into an error, unless it was a success.
    fn judge(&self, status: Status, stderr: &str) -> Result<()> {
        if status == Status::Success {
            return Ok(());
        }
        let lines: Vec<&str> = stderr.lines().filter(|l| !l.trim().is_empty()).collect();
        let said = lines[lines.len().saturating_sub(4)..].join("; ");
        Err(Hinted::new(
            format!("restic repository \"{}\": {status}: {said}", self.name),
            status.hint(),
        )
        .into())
    }

    /// Finds the newest snapshot of what the jobs of `instance` copy.
    ///
    /// Nothing means that the repository was read and has none: it is a proof.
    ///
    /// # Errors
    ///
    /// Fails when the repository cannot be read, and when it has snapshots of several hosts for an
    /// instance of this name and the settings do not say which host is meant.
    pub fn newest(&self, instance: &str, content: ResticContent) -> Result<Option<Snapshot>> {
        let tag = match content {
            ResticContent::Wal => "wal-archive",
            ResticContent::Base => "base-backup",
        };
        let mut command = self
            .command("snapshots")
            .arg("--json")
            // One argument: snapshots that have all three.
            .arg(format!("--tag=postgresql,{instance},{tag}"));
        if let Some(host) = &self.host {
            command = command.arg(format!("--host={host}"));
        }
        let (status, output) = command.run_any_status()?;
        self.judge(Status::of(status.code()), &output.stderr)?;
        // A repository without a snapshot: older versions of restic print null.
        let snapshots: Option<Vec<Snapshot>> = serde_json::from_str(&output.stdout)
            .with_context(|| format!("read the snapshots of \"{}\"", self.name))?;
        let snapshots = snapshots.unwrap_or_default();
        let mut hosts: Vec<&str> = snapshots
            .iter()
            .map(|snapshot| snapshot.hostname.as_str())
            .collect();
        hosts.sort_unstable();
        hosts.dedup();
        if hosts.len() > 1 {
            return Err(Hinted::new(
                format!(
                    "restic repository \"{}\" has snapshots of an instance \"{instance}\" on several hosts: {}",
                    self.name,
                    hosts.join(", ")
                ),
                "say which one is meant with restic.host in the settings",
            )
            .into());
        }
        Ok(snapshots.into_iter().max_by_key(|snapshot| snapshot.time))
    }

    /// Lists the files of `snapshot`.
    ///
    /// # Errors
    ///
    /// Fails when the repository cannot be read.
    pub fn files(&self, snapshot: &Snapshot) -> Result<Vec<File>> {
        let mut files = Vec::new();
        let ended = self
            .command("ls")
            .arg("--json")
            .arg(&snapshot.id)
            .for_each_line(|line| {
                let node: Node = serde_json::from_str(line)
                    .with_context(|| format!("read what restic said: {line}"))?;
                if let (Some("file"), Some(path)) = (node.kind.as_deref(), node.path) {
                    files.push(File {
                        path,
                        length_bytes: node.size,
                    });
                }
                Ok(())
            })?;
        self.judge(Status::of(ended.status.code()), &ended.stderr)?;
        Ok(files)
    }

    /// Gets what is at `paths` of `snapshot` into the directory `target`, below which it has its whole
    /// path again, and has restic compare what it wrote with what is stored.
    ///
    /// What the snapshot does not hold is passed over. `target` has to be empty or from an earlier call.
    ///
    /// # Errors
    ///
    /// Fails when anything could not be read or written; what was written by then is left, and worth
    /// nothing.
    pub fn restore(&self, snapshot: &Snapshot, paths: &[PathBuf], target: &Path) -> Result<()> {
        let mut command = self
            .command("restore")
            .arg("--verify")
            .arg("--target")
            .arg(target);
        for path in paths {
            command = command.arg(format!("--include={}", pattern(path)?));
        }
        let (status, output) = command.arg(&snapshot.id).run_any_status()?;
        self.judge(Status::of(status.code()), &output.stderr)
    }
}

impl Snapshot {
    /// The one directory that was copied.
    ///
    /// # Errors
    ///
    /// Fails when it is not one.
    pub fn root(&self) -> Result<&Path> {
        match self.paths.as_slice() {
            [root] if root.is_absolute() => Ok(root),
            _ => bail!(
                "restic snapshot {} is not of one directory but of {:?}",
                self.id,
                self.paths
            ),
        }
    }

    /// Where the directory is once it has been restored into `target`.
    ///
    /// # Errors
    ///
    /// Fails when the snapshot is not of one directory.
    pub fn restored_root(&self, target: &Path) -> Result<PathBuf> {
        let root = self.root()?;
        Ok(target.join(root.strip_prefix("/").unwrap_or(root)))
    }
}

/// A path as a pattern that matches nothing else.
fn pattern(path: &Path) -> Result<String> {
    let text = path
        .to_str()
        .ok_or_else(|| anyhow!("\"{}\" is no text", path.display()))?;
    let mut pattern = String::with_capacity(text.len());
    for character in text.chars() {
        if ['*', '?', '[', '\\'].contains(&character) {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    Ok(pattern)
}

/// Where restic is.
fn installed() -> Result<PathBuf> {
    command::in_path("restic").ok_or_else(|| {
        Hinted::new(
            "restic is not installed, or not in PATH",
            "install restic; the repository cannot be read without it",
        )
        .into()
    })
}

/// Whether this restic takes arguments for ssh; an older one refuses to run with them.
fn knows_sftp_arguments(program: &Path) -> Result<bool> {
    let output = Command::new(program).arg("version").run()?;
    Ok(version(&output.stdout).is_some_and(|version| version >= (0, 17)))
}

/// Reads `restic 0.18.0 compiled with …`.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.strip_prefix("restic ")?.split(['.', ' ', '-']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// The credential in `directory` that stands for the `kind` of secret of a repository, if there is one.
fn credential(
    directory: Option<&Path>,
    declared: &ResticRepository,
    kind: &str,
) -> Option<PathBuf> {
    let directory = directory?;
    // The one without a name may be another repository's.
    if declared.password_file.starts_with(directory) {
        return None;
    }
    let own = directory.join(format!("{kind}-{}", declared.name));
    [own, directory.join(kind)]
        .into_iter()
        .find(|path| path.exists())
}

/// The variables of a file as systemd's `EnvironmentFile=` reads it, without continued lines.
fn variables(text: &str) -> Vec<(String, String)> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with(['#', ';']))
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| {
            let value = value.trim();
            let unquoted = ['"', '\'']
                .iter()
                .find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote));
            (name.trim().to_owned(), unquoted.unwrap_or(value).to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_matches_nothing_but_itself() {
        assert_eq!(
            pattern(Path::new("/a*b/c?d[e]\\f")).unwrap(),
            "/a\\*b/c\\?d\\[e]\\\\f"
        );
    }

    #[test]
    fn only_a_restic_that_knows_them_gets_arguments_for_ssh() {
        let knows = |text: &str| version(text).is_some_and(|version| version >= (0, 17));
        assert!(knows(
            "restic 0.17.3 compiled with go1.23.2 on linux/amd64\n"
        ));
        assert!(knows(
            "restic 0.18.0-dev (compiled manually) compiled with go1.24\n"
        ));
        assert!(knows("restic 1.0.0 compiled with go1.30 on linux/amd64\n"));
        assert!(!knows(
            "restic 0.14.0 compiled with go1.19.8 on linux/amd64\n"
        ));
        assert!(!knows("restic unknown\n"));
    }

    #[test]
    fn a_credential_is_taken_for_the_repository_that_it_is_of() -> Result<()> {
        let directory = tempfile::tempdir()?;
        let credentials = directory.path();
        let declared = |password_file: PathBuf| ResticRepository {
            name: "offsite".into(),
            repository: "/srv/offsite".into(),
            password_file,
            environment_file: None,
            host: None,
            jobs: Vec::new(),
        };
        let elsewhere = declared("/run/secrets/password".into());
        let found = |declared: &ResticRepository| {
            credential(Some(credentials), declared, "restic-password")
        };
        assert_eq!(found(&elsewhere), None);
        let only = credentials.join("restic-password");
        std::fs::write(&only, "nas")?;
        assert_eq!(found(&elsewhere), Some(only));
        let own = credentials.join("restic-password-offsite");
        std::fs::write(&own, "offsite")?;
        assert_eq!(found(&elsewhere), Some(own.clone()));
        // Several sources of one unit, each of which names its own.
        assert_eq!(found(&declared(own)), None);
        assert_eq!(found(&declared(credentials.join("second"))), None);
        assert_eq!(credential(None, &elsewhere, "restic-password"), None);
        Ok(())
    }

    #[test]
    fn an_environment_file_is_read_as_systemd_does() {
        assert_eq!(
            variables("# a comment\n\nA=1\n B = \"two words\" \nC='x=y'\n;D=4\nno variable\nE=\n"),
            [("A", "1"), ("B", "two words"), ("C", "x=y"), ("E", "")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
        );
    }
}
