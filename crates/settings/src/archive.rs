//! The section `archive`: where WAL files go and come from.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::problem::Findings;

/// The WAL archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Archive {
    /// Directory of the archive. It holds `archive.json`; without that file nothing is read or
    /// written, because an unmounted directory is empty too.
    pub directory: PathBuf,
    /// Compression of newly archived files. Older files are read whatever they were written with.
    #[serde(default)]
    pub compression: Compression,
    /// Longest time, in seconds, that one call of `pg-archive-wal` may take. Past it the call fails
    /// and PostgreSQL tries again; without a limit a hanging disk would block the server's shutdown.
    #[serde(default = "default_deadline")]
    pub archive_deadline_seconds: u32,
    /// How many further ready WAL files one call of `pg-archive-wal` may publish ahead of
    /// PostgreSQL's asking. 0 archives one file per call.
    #[serde(default = "default_work_ahead")]
    pub work_ahead_segments: u32,
    /// Threads of one call of `pg-archive-wal`, the calling one included.
    #[serde(default = "default_threads")]
    pub threads: u32,
    /// Longest time, in seconds, that one call of `pg-restore-wal` may take. Past it the call fails
    /// with a status that stops recovery without promoting.
    #[serde(default = "default_restore_deadline")]
    pub restore_deadline_seconds: u32,
    /// How many mebibytes of WAL `pg-restore-wal` may fetch ahead of recovery. 0 fetches one file
    /// per call. The files wait below `pg_wal`, so that handing one over is a rename.
    #[serde(default = "default_prefetch")]
    pub prefetch_mebibytes: u32,
    /// Further archive directories, in this order, that `pg-restore-wal` asks for a file that the
    /// first does not hold: a replica of the archive, for example. A file is absent only when every
    /// one of them has proven it.
    #[serde(default)]
    pub further_directories: Vec<PathBuf>,
}

/// Compression of archived WAL files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Compression {
    /// Algorithm.
    #[serde(default)]
    pub algorithm: Algorithm,
    /// Level of zstd, 1 (fast) to 19 (small). Without effect on the other algorithms, and refused
    /// with them.
    #[serde(default)]
    pub level: Option<i32>,
}

/// A compression algorithm for archived WAL files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Algorithm {
    /// Stored as it is, in a zstd container, so that `zstd -d` still gives the file back. Runs of
    /// zeros take no space.
    None,
    /// LZ4: least work, larger files. Read by `lz4 -d`.
    Lz4,
    /// Zstandard. Read by `zstd -d`.
    #[default]
    Zstd,
}

impl Default for Compression {
    fn default() -> Self {
        Self {
            algorithm: Algorithm::Zstd,
            level: None,
        }
    }
}

impl Compression {
    /// The zstd level in force; 1 unless set. On WAL, level 1 is both faster and, within a few per
    /// cent, as small as level 3.
    #[must_use]
    pub fn zstd_level(self) -> i32 {
        self.level.unwrap_or(1)
    }
}

impl Archive {
    pub(crate) fn check(&self, findings: &mut Findings) {
        for (key, seconds) in [
            (
                "archive.archiveDeadlineSeconds",
                self.archive_deadline_seconds,
            ),
            (
                "archive.restoreDeadlineSeconds",
                self.restore_deadline_seconds,
            ),
        ] {
            findings.range(key, seconds, &(1..=86_400));
        }
        findings.range(
            "archive.workAheadSegments",
            self.work_ahead_segments,
            &(0..=1024),
        );
        findings.range("archive.threads", self.threads, &(1..=16));
        findings.range(
            "archive.prefetchMebibytes",
            self.prefetch_mebibytes,
            &(0..=65_536),
        );
        match (self.compression.algorithm, self.compression.level) {
            (Algorithm::Zstd, level) => {
                findings.range_if_set("archive.compression.level", level, &(1..=19));
            }
            (Algorithm::None | Algorithm::Lz4, Some(level)) => findings.say(
                "archive.compression.level",
                format!("{level} has no effect: only zstd has levels"),
            ),
            (Algorithm::None | Algorithm::Lz4, None) => {}
        }
    }
}

fn default_deadline() -> u32 {
    60
}
fn default_restore_deadline() -> u32 {
    300
}
fn default_work_ahead() -> u32 {
    16
}
fn default_threads() -> u32 {
    2
}
fn default_prefetch() -> u32 {
    256
}
