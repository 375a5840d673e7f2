//! What there is to say of an instance: data only, which is shown on a screen, as JSON and in a report.

use std::collections::BTreeMap;

use health::{Chronicle, Severity};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// An instance, as it was seen at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    pub instance: String,
    pub at: Timestamp,
    /// The worst of the findings.
    pub severity: Severity,
    /// What is wrong, worst first.
    pub findings: Vec<Finding>,
    /// Every check that was made, and what it came to.
    pub checks: BTreeMap<String, Severity>,
    pub server: Server,
    /// Unit of the server, where systemd runs it.
    pub unit: Option<String>,
    /// What restores can reach, by base backup and timeline, oldest first.
    pub windows: Vec<Window>,
    pub base_backups: Vec<BaseBackup>,
    /// Snapshots of the data that a restore can begin with, oldest first.
    #[serde(default)]
    pub snapshots: Vec<Snapshot>,
    /// What the archive holds; nothing if it cannot be read.
    pub archive: Option<Archive>,
    pub objectives: Vec<Objective>,
    /// Whether restores are rehearsed.
    pub drills_are_declared: bool,
    pub last_drill: Option<LastDrill>,
    pub storage: Vec<Storage>,
    /// What could not be looked at for this, beside what the findings say.
    pub unknown: Vec<String>,
    /// What happened in the last year.
    pub past: Chronicle,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    pub check: String,
    pub severity: Severity,
    pub what: String,
    pub hint: String,
    /// Commands or statements to type.
    #[serde(default)]
    pub commands: Vec<String>,
}

/// The server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Server {
    pub state: ServerState,
    /// Nothing where no cluster is known.
    pub system_identifier: Option<String>,
    pub timeline: Option<u32>,
    pub started_at: Option<Timestamp>,
}

/// What the server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ServerState {
    /// It answers and takes changes.
    Running,
    /// It answers and replays WAL.
    Replaying,
    /// It runs and lets nobody in yet.
    Starting,
    /// It does not answer, or not to us.
    NotAnswering,
}

/// From when to when a restore can reach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Window {
    pub base_backup: String,
    pub timeline: u32,
    pub from: Timestamp,
    /// Time of the last transaction; nothing where there is none after the backup.
    pub to: Option<Timestamp>,
    pub restorable: bool,
    /// WAL files that are missing after `to`, and the first of them.
    pub missing_files: u64,
    pub first_missing: Option<String>,
}

/// A base backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BaseBackup {
    pub name: String,
    pub incremental: bool,
    pub stopped_at: Timestamp,
    pub content_bytes: u64,
    pub stored_bytes: u64,
    /// What is wrong with it, if anything is.
    pub damage: Option<String>,
}

/// A snapshot of the data. With the archive, every moment after it can be restored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    pub name: String,
    /// When its last checkpoint was, if that can be told.
    pub checkpoint_at: Option<Timestamp>,
}

/// The WAL archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Archive {
    pub files: u64,
    pub stored_bytes: u64,
    /// When the server last saw a file archived; nothing if that cannot be asked.
    pub last_archived_at: Option<Timestamp>,
    /// Files that wait to be archived; nothing if that cannot be seen.
    pub waiting_files: Option<u64>,
}

/// What was declared, and what was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Objective {
    /// `rpo`, `offsite-rpo` or `rto`.
    pub name: String,
    /// What it is about, in a person's words.
    pub what: String,
    pub declared_seconds: Option<f64>,
    pub measured_seconds: Option<f64>,
}

/// The last restore drill.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastDrill {
    pub finished_at: Timestamp,
    /// Why it failed, if it did.
    pub failure: Option<String>,
    pub recovery_seconds: Option<f64>,
    pub restored_bytes: Option<u64>,
    pub target: Option<String>,
    pub last_success_at: Option<Timestamp>,
}

/// A place that the instance writes to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Storage {
    pub place: String,
    pub free_bytes: u64,
    pub size_bytes: u64,
    /// When it is full if it goes on like this; nothing if it does not fill.
    pub seconds_to_full: Option<f64>,
}

impl Objective {
    /// Whether it is kept, if both sides are known.
    pub fn is_kept(&self) -> Option<bool> {
        Some(self.measured_seconds? <= self.declared_seconds?)
    }
}

impl Status {
    /// The earliest moment that can be restored.
    pub fn earliest(&self) -> Option<Timestamp> {
        self.reachable().map(|window| window.from).min()
    }

    /// The latest moment of which is known that it can be restored.
    pub fn latest(&self) -> Option<Timestamp> {
        self.reachable()
            .map(|window| window.to.unwrap_or(window.from))
            .max()
    }

    /// Whether the WAL goes on from some base backup to the present. Behind a gap it does not.
    pub fn reaches_the_present(&self) -> bool {
        let newest = self.windows.iter().map(|window| window.timeline).max();
        self.reachable()
            .any(|window| Some(window.timeline) == newest && window.missing_files == 0)
    }

    fn reachable(&self) -> impl Iterator<Item = &Window> {
        self.windows.iter().filter(|window| window.restorable)
    }

    /// WAL files that are missing in what restores may want to cross. Windows that share a gap count
    /// it once.
    pub fn gaps(&self) -> BTreeMap<(u32, &str), u64> {
        self.windows
            .iter()
            .filter_map(|window| {
                let first = window.first_missing.as_deref()?;
                Some(((window.timeline, first), window.missing_files))
            })
            .collect()
    }
}
