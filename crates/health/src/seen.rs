//! What was seen of an instance: data only, to be judged elsewhere.
//!
//! Moments are seconds since 1970, by the clock of this machine, which is the server's too.

use std::collections::BTreeMap;
use std::path::PathBuf;

use instance_state::{DrillRecord, OffSiteRecord, ReplicaRecord};
use restore_plan::{ArchiveContents, StartingPoint};
use settings::{ReplicaContent, ResticContent};
use wal::{Lsn, SystemIdentifier, TimelineId};

/// Something that could be seen, or why not, with a hint.
pub type Seen<T> = Result<T, Unseen>;

/// Why something could not be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unseen {
    /// The reason.
    pub why: String,
    /// What to do about it, if that is known.
    pub hint: Option<String>,
}

impl From<anyhow::Error> for Unseen {
    fn from(err: anyhow::Error) -> Self {
        Self {
            hint: tool::hint_of(&err).map(ToOwned::to_owned),
            why: format!("{err:#}"),
        }
    }
}

/// Everything that was seen.
#[derive(Debug)]
pub struct Instance {
    /// When.
    pub now: f64,
    /// Since when this host has had the cluster, if its record can be read.
    pub since: Option<f64>,
    /// The server.
    pub server: Server,
    /// Each directory that has to be a mount point.
    pub mounts: Vec<(PathBuf, Seen<Mounted>)>,
    /// The file systems that the instance writes to and that can be asked what a sync is worth.
    pub volumes: Vec<Volume>,
    /// WAL files that wait to be archived.
    pub waiting: Seen<Vec<Waiting>>,
    /// The archive.
    pub archive: Seen<Archive>,
    /// The base backups, if any are declared.
    pub backups: Option<Seen<Backups>>,
    /// What was noted of each declared copy off-site.
    pub copies: Vec<NotedCopy>,
    /// What was noted of each declared replica.
    pub replicas: Vec<NotedReplica>,
    /// What the last rehearsed restore came to, if there was one.
    pub drill: Seen<Option<DrillRecord>>,
    /// The places that the instance writes to.
    pub storage: Vec<(String, Seen<Storage>)>,
}

/// What was noted of a copy off-site by the unit that makes it.
#[derive(Clone, Debug)]
pub struct NotedCopy {
    /// The repository.
    pub repository: String,
    /// What is copied.
    pub content: ResticContent,
    /// The note of the last copy that succeeded, if there is one.
    pub record: Seen<Option<OffSiteRecord>>,
}

/// What was noted of a replica by the unit that asks it.
#[derive(Clone, Debug)]
pub struct NotedReplica {
    /// What it is of.
    pub content: ReplicaContent,
    /// What it said when it answered last, if it ever did.
    pub record: Seen<Option<ReplicaRecord>>,
}

/// The server, as it answers.
#[derive(Debug)]
pub enum Server {
    /// It answers and says this.
    Up(Box<Live>),
    /// It answers, and something could not be asked.
    Mute(Unseen),
    /// It runs and lets nobody in yet.
    NotYet {
        /// Whether it is restoring, or becoming a standby, by a file in the data directory.
        signalled: bool,
    },
    /// It does not answer.
    Down(Unseen),
}

/// What a server says of itself.
#[derive(Clone, Debug)]
pub struct Live {
    /// Its cluster.
    pub system_identifier: SystemIdentifier,
    /// Its timeline.
    pub timeline: TimelineId,
    /// When it was started.
    pub started: f64,
    /// How it is in recovery, if it is.
    pub recovery: Option<Recovery>,
    /// `fsync`.
    pub fsync: bool,
    /// `archive_mode`, `archive_command`, `archive_library` and `archive_timeout`.
    pub archiving: Archiving,
    /// Up to where WAL was written, and the next transaction id. Nothing in recovery.
    pub position: Option<(Lsn, u64)>,
    /// Connections in use, and possible.
    pub connections: (i64, i64),
    /// The oldest open or prepared transaction: its age in seconds, and what it is.
    pub oldest_transaction: Option<(f64, String)>,
    /// Deadlocks since statistics were reset.
    pub deadlocks: i64,
    /// Databases in which damaged pages were met, and how many.
    pub checksum_failures: Vec<(String, i64)>,
    /// Databases with the ages of their oldest transaction id and multixact id.
    pub ages: Vec<(String, i64, i64)>,
    /// Connected standbys with their lag in seconds.
    pub standbys: Vec<(String, f64)>,
    /// Replication slots.
    pub slots: Vec<Slot>,
    /// What was built with another collation, or why that is not known, by database.
    pub collations: Vec<(String, Seen<Drift>)>,
}

/// How a server is in recovery.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recovery {
    /// `standby.signal` is there.
    pub standby: bool,
    /// `recovery.signal` is there.
    pub targeted: bool,
    /// Replay is paused.
    pub paused: bool,
    /// How old the newest replayed commit is, if there is more to replay.
    pub lag_seconds: f64,
}

/// How archiving is set up and how it goes.
#[derive(Clone, Debug, PartialEq)]
pub struct Archiving {
    /// `archive_mode`.
    pub mode: String,
    /// Whether `archive_command` or `archive_library` is set.
    pub has_command: bool,
    /// `archive_timeout`, in seconds.
    pub timeout_seconds: i64,
    /// Files archived since statistics were reset.
    pub archived: i64,
    /// Failures counted since then.
    pub failed: i64,
    /// The file that was archived last, and when.
    pub last_archived: Option<(String, f64)>,
    /// The file that failed last, and when.
    pub last_failed: Option<(String, f64)>,
    /// When the archiver process was started, if it runs and can be seen (PostgreSQL 14 or later).
    pub archiver_started: Option<f64>,
    /// Whether an archiver process can be seen by this version.
    pub archiver_is_visible: bool,
}

/// A WAL file that waits to be archived.
#[derive(Clone, Debug, PartialEq)]
pub struct Waiting {
    /// Its name.
    pub name: String,
    /// Since when.
    pub since: f64,
}

/// A replication slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its name.
    pub name: String,
    /// Whether somebody uses it.
    pub active: bool,
    /// `wal_status`: `reserved`, `extended`, `unreserved`, `lost`.
    pub status: String,
    /// WAL that the server keeps for it.
    pub retained_bytes: u64,
}

/// What does not fit the present collations in one database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drift {
    /// The collations, each with the version that was noted and the one that there is.
    pub collations: Vec<String>,
    /// Statements that put it right, in order: indexes first, then the versions.
    pub statements: Vec<String>,
    /// How many of them rebuild an index.
    pub indexes: usize,
}

/// What a directory is that has to be a mount point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mounted {
    /// A mount point.
    Yes,
    /// A mount point of a file system that takes no changes.
    ReadOnly,
    /// An ordinary directory.
    No,
    /// A mount point on which something hides something else.
    Hidden {
        /// What is seen.
        seen: String,
        /// What is hidden.
        hidden: String,
    },
}

/// A file system that the instance writes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// What is mounted: a device, or the name of a dataset.
    pub source: String,
    /// The places of the instance that are on it.
    pub places: Vec<String>,
    /// What a sync on it is worth.
    pub sync: Seen<Sync>,
}

/// What a sync is worth: whether what was written before it outlives a power cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sync {
    /// It outlives one.
    Kept,
    /// ZFS was told to report as durable what is in memory.
    Disabled {
        /// The dataset that says so, itself or one above it.
        by: String,
    },
    /// The disk is not made to write down what it holds in its own memory.
    WithoutBarriers,
}

/// What the archive holds.
#[derive(Clone, Debug)]
pub struct Archive {
    /// Segments and histories of the cluster.
    pub contents: ArchiveContents,
    /// Files of the cluster.
    pub files: usize,
    /// What they take.
    pub stored_bytes: u64,
    /// Whether it holds the file that the server saw archived last.
    pub holds_last_archived: Option<bool>,
}

/// The base backups.
#[derive(Clone, Debug, Default)]
pub struct Backups {
    /// Every one that is recorded and has its chain, oldest first.
    pub points: Vec<StartingPoint>,
    /// The newest one of which everything is there.
    pub newest_good: Option<StartingPoint>,
    /// Newer ones that are not what their manifests say: name, and what is wrong.
    pub suspect: Vec<(String, String)>,
    /// What all of them take, as they are stored.
    pub stored_bytes: u64,
}

/// The file system of one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Storage {
    /// Which device it is: places on one file system fill together.
    pub device: u64,
    /// Bytes that may still be written.
    pub free_bytes: u64,
    /// Its size.
    pub size_bytes: u64,
    /// Files that may still be made, and how many there may be in all. 0 of 0 where there is no limit.
    pub free_files: u64,
    /// See `free_files`.
    pub files: u64,
}

/// Free bytes by place.
pub type Free = BTreeMap<String, u64>;
