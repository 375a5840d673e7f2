//! Where branches are, and what is written down of each.
//!
//! ```text
//! 16.branches/yesterday/branch.json     what it is; written first and removed last
//! 16.branches/yesterday/lock            held by whoever makes it
//! 16.branches/yesterday/data/           its data directory
//! 16.branches/yesterday/tablespaces/16400/
//! 16.branches/yesterday/socket/         the directory of its socket, open to nobody else
//! 16.branches/yesterday/hba.conf        who may connect
//! 16.branches/yesterday/log             what its server says
//! ```

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use durable_file::Lock;
use jiff::Timestamp;
use restore_journal::Places;
use serde::{Deserialize, Serialize};
use settings::Settings;
use tool::{Hinted, WithHint as _};
use wal::Lsn;

/// Suffix of the directory with the branches, beside the data directory.
const BRANCHES: &str = ".branches";
const RECORD: &str = "branch.json";
const FORMAT_VERSION: u32 = 1;
/// The longest path of a Unix socket, in bytes, without the final zero: `sun_path` in unix(7).
const LONGEST_SOCKET_PATH: usize = 107;

/// What is written down of a branch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Record {
    /// Version of this record's form.
    pub format_version: u32,
    /// Its name, which is that of its directory.
    pub name: String,
    /// The instance that it is a branch of.
    pub instance: String,
    /// The moment that was asked for.
    pub target: String,
    /// The moment in full, and where its own history begins; nothing until it is made.
    pub made: Option<Made>,
    /// When it was begun.
    pub created: Timestamp,
    /// When its time is over.
    pub expires: Timestamp,
    /// Its port, which also names the socket.
    pub port: u16,
    /// Whether it takes TCP connections from this machine, on that port.
    pub tcp: bool,
    /// The unit that runs its server; nothing if the command that made it has started the server itself.
    #[serde(default)]
    pub unit: Option<String>,
    /// Whether it is there for one command only.
    pub is_temporary: bool,
}

/// What a branch was made from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Made {
    /// The target in full: a time in UTC.
    pub target: String,
    /// Where it left the history of the instance.
    pub ended_at: Lsn,
    /// What it was made from, in words.
    pub from: String,
    /// What making it took, in seconds, until its server answered.
    pub seconds: f64,
}

/// The directory of a branch.
#[derive(Clone, Debug)]
pub struct Place {
    /// The directory itself.
    pub root: PathBuf,
}

impl Place {
    /// The directory of branch `name` in `branches`.
    pub fn new(branches: &Path, name: &str) -> Self {
        Self {
            root: branches.join(name),
        }
    }

    /// Its data directory.
    pub fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    /// Where a restore builds it.
    pub fn staging(&self) -> PathBuf {
        Places::beside(&self.data()).staging
    }

    /// The directory of its tablespaces.
    pub fn tablespaces(&self) -> PathBuf {
        self.root.join("tablespaces")
    }

    /// The directory of its socket.
    pub fn socket(&self) -> PathBuf {
        self.root.join("socket")
    }

    /// Says who may connect.
    pub fn hba(&self) -> PathBuf {
        self.root.join("hba.conf")
    }

    /// Its server's messages.
    pub fn log(&self) -> PathBuf {
        self.root.join("log")
    }

    fn record_path(&self) -> PathBuf {
        self.root.join(RECORD)
    }

    /// Makes the directory with what `record` says, and takes it for this process.
    ///
    /// # Errors
    ///
    /// Fails when there is something of that name, when the path is too long for a socket, and when
    /// something cannot be written. A directory without a record is removed again.
    pub fn make(&self, record: &Record) -> Result<Lock> {
        let longest = self.socket().join(format!(".s.PGSQL.{}", record.port));
        if longest.as_os_str().len() > LONGEST_SOCKET_PATH {
            return Err(Hinted::new(
                format!("\"{}\" is too long for a socket", longest.display()),
                "choose a shorter name with --name, or another place with --branches",
            )
            .into());
        }
        let create = |directory: &Path| DirBuilder::new().mode(0o700).create(directory);
        match create(&self.root) {
            Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {
                return Err(Hinted::new(
                    format!("\"{}\" exists already", self.root.display()),
                    "choose another name with --name, or destroy that branch",
                )
                .into());
            }
            made => made.with_context(|| format!("create \"{}\"", self.root.display()))?,
        }
        let made = self.try_lock().and_then(|lock| {
            self.write(record)?;
            create(&self.socket()).context("create the directory of the socket")?;
            create(&self.tablespaces()).context("create the directory of the tablespaces")?;
            lock.with_context(|| format!("\"{}\" is somebody else's already", self.root.display()))
        });
        if made.is_err() && !self.record_path().exists() {
            // Ours, and nothing in it is worth anything.
            let _ = fs::remove_dir_all(&self.root);
        }
        made
    }

    /// Takes it for this process, unless another one has it.
    pub fn try_lock(&self) -> Result<Option<Lock>> {
        durable_file::try_lock(&self.root.join("lock"))
    }

    /// Writes what is known of it, durably.
    pub fn write(&self, record: &Record) -> Result<()> {
        let text = serde_json::to_vec_pretty(record).context("write the record of the branch")?;
        durable_file::replace(&self.record_path(), &text)
    }

    /// Reads what is known of it. Nothing when this is no branch.
    pub fn read(&self) -> Result<Option<Record>> {
        let path = self.record_path();
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(err)
                if matches!(
                    err.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(None);
            }
            Err(err) => return Err(err).with_context(|| format!("read \"{}\"", path.display())),
        };
        let record: Record = serde_json::from_slice(&text)
            .with_context(|| format!("read \"{}\"", path.display()))?;
        ensure!(
            record.format_version == FORMAT_VERSION,
            "\"{}\" is of format {}, this program reads format {FORMAT_VERSION}",
            path.display(),
            record.format_version
        );
        Ok(Some(record))
    }

    /// Removes all of it, the record last: what is left of an interrupted removal is still known for what
    /// it is.
    pub fn remove(&self) -> Result<()> {
        let list = || format!("list \"{}\"", self.root.display());
        for entry in fs::read_dir(&self.root).with_context(list)? {
            let path = entry.with_context(list)?.path();
            if path == self.record_path() {
                continue;
            }
            let is_directory = fs::symlink_metadata(&path)
                .with_context(|| format!("examine \"{}\"", path.display()))?
                .is_dir();
            if is_directory {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            }
            .with_context(|| format!("remove \"{}\"", path.display()))?;
        }
        durable_file::remove(&self.record_path())?;
        fs::remove_dir(&self.root).with_context(|| format!("remove \"{}\"", self.root.display()))
    }
}

impl Record {
    /// A new one, of a branch that is being made.
    pub fn new(instance: &str, name: &str, target: &str, lifetime: (Timestamp, Timestamp)) -> Self {
        Self {
            format_version: FORMAT_VERSION,
            name: name.to_owned(),
            instance: instance.to_owned(),
            target: target.to_owned(),
            made: None,
            created: lifetime.0,
            expires: lifetime.1,
            port: 5432,
            tcp: false,
            unit: None,
            is_temporary: false,
        }
    }
}

/// The directory with the branches of an instance.
pub fn directory(settings: &Settings, chosen: Option<&Path>) -> PathBuf {
    chosen.map_or_else(
        || durable_file::with_suffix(&settings.postgresql.data_directory, BRANCHES),
        Path::to_owned,
    )
}

/// Makes the directory with the branches.
pub fn make_directory(branches: &Path) -> Result<()> {
    if branches.is_dir() {
        return Ok(());
    }
    DirBuilder::new()
        .mode(0o700)
        .create(branches)
        .with_context(|| format!("create \"{}\"", branches.display()))
        .with_hint(|| {
            "branches are made beside the data directory, by the user whom it belongs to; --branches names another place".into()
        })
}

/// Every branch in `branches`, by name.
pub fn all_in(branches: &Path) -> Result<Vec<(Place, Record)>> {
    let mut found = Vec::new();
    let entries = match fs::read_dir(branches) {
        Ok(entries) => entries,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(found),
        Err(err) => return Err(err).with_context(|| format!("list \"{}\"", branches.display())),
    };
    for entry in entries {
        let place = Place {
            root: entry
                .with_context(|| format!("list \"{}\"", branches.display()))?
                .path(),
        };
        if let Some(record) = place.read()? {
            found.push((place, record));
        }
    }
    found.sort_by(|a, b| a.1.name.cmp(&b.1.name));
    Ok(found)
}

/// Refuses what is no name for a directory and a socket.
pub fn check_name(name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    if (1..=32).contains(&name.len()) && name.chars().all(plain) && !name.starts_with('-') {
        return Ok(());
    }
    Err(Hinted::new(
        format!("\"{name}\" is no name of a branch"),
        "use 1 to 32 letters, digits, hyphens and underscores",
    )
    .into())
}
