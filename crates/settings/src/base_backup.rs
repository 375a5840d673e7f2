//! The sections `baseBackup` and `retention`: what is taken, and what is kept.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::problem::Findings;

/// Base backups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BaseBackup {
    /// Directory that holds the base backups, one directory each, named by their UTC start time.
    pub directory: PathBuf,
    /// Form on disk.
    #[serde(default)]
    pub format: Format,
    /// Server-side compression of the tar format. Refused with the plain format, which is left to
    /// the file system to compress.
    #[serde(default)]
    pub tar_compression: TarCompression,
    /// Incremental backups between full ones (PostgreSQL 17 or later, with `summarize_wal = on`).
    /// Without it every backup is a full one.
    #[serde(default)]
    pub incremental: Option<Incremental>,
    /// Limit on the transfer rate, in KiB per second (32 to 1048576). Without it there is none.
    #[serde(default)]
    pub maximum_rate_kibibytes_per_second: Option<u32>,
    /// Whether to begin with an immediate checkpoint. It starts sooner and costs a burst of writes.
    #[serde(default)]
    pub fast_checkpoint: bool,
    /// Longest time, in seconds, to wait for the last WAL file of a backup to reach the archive.
    /// Past it the backup does not count.
    #[serde(default = "default_wal_deadline")]
    pub wal_deadline_seconds: u32,
}

/// Form of a base backup on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Format {
    /// The files as they are in a data directory.
    #[default]
    Plain,
    /// One tar file for each tablespace, as `pg_basebackup --format=tar` writes it.
    Tar,
}

/// Compression of a base backup in tar format, done by the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum TarCompression {
    /// Plain tar files.
    #[default]
    None,
    /// gzip. With PostgreSQL 13 and 14 the client compresses, as those servers cannot.
    Gzip,
    /// LZ4 (PostgreSQL 15 or later).
    Lz4,
    /// Zstandard (PostgreSQL 15 or later).
    Zstd,
}

/// Incremental base backups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Incremental {
    /// How many incremental backups may follow one full backup before the next full one, 1 to 100.
    /// A restore needs every one of the chain.
    pub chain_length: u32,
}

/// What `pg-prune` keeps. A restore point that any of these rules names is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Retention {
    /// Days for which every second can be restored, at least 1.
    #[serde(default = "default_days")]
    pub days: u32,
    /// For how many days the newest base backup of the day is kept.
    #[serde(default = "default_daily")]
    pub daily: u32,
    /// For how many ISO weeks the newest base backup of the week is kept.
    #[serde(default = "default_weekly")]
    pub weekly: u32,
    /// For how many months the newest base backup of the month is kept.
    #[serde(default = "default_monthly")]
    pub monthly: u32,
    /// How many of the newest good base backups are kept whatever the other rules say, at least 1.
    #[serde(default = "default_minimum")]
    pub minimum_good: u32,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            days: default_days(),
            daily: default_daily(),
            weekly: default_weekly(),
            monthly: default_monthly(),
            minimum_good: default_minimum(),
        }
    }
}

impl BaseBackup {
    pub(crate) fn check(&self, findings: &mut Findings) {
        if self.format == Format::Plain && self.tar_compression != TarCompression::None {
            findings.say(
                "baseBackup.tarCompression",
                "has no effect on the plain format; set format to \"tar\" or leave it out",
            );
        }
        if let Some(incremental) = self.incremental {
            findings.range(
                "baseBackup.incremental.chainLength",
                incremental.chain_length,
                &(1..=100),
            );
            if self.format == Format::Tar {
                findings.say(
                    "baseBackup.incremental",
                    "cannot be combined from tar files; set format to \"plain\"",
                );
            }
        }
        if let Some(rate) = self.maximum_rate_kibibytes_per_second
            && !(32..=1_048_576).contains(&rate)
        {
            findings.say(
                "baseBackup.maximumRateKibibytesPerSecond",
                format!("{rate} is not 32 to 1048576, the limits of pg_basebackup"),
            );
        }
        findings.range(
            "baseBackup.walDeadlineSeconds",
            self.wal_deadline_seconds,
            &(1..=86_400),
        );
    }
}

impl Retention {
    pub(crate) fn check(&self, findings: &mut Findings) {
        for (key, value, least) in [
            ("retention.days", self.days, 1),
            ("retention.daily", self.daily, 0),
            ("retention.weekly", self.weekly, 0),
            ("retention.monthly", self.monthly, 0),
            ("retention.minimumGood", self.minimum_good, 1),
        ] {
            findings.range(key, value, &(least..=36_500));
        }
    }
}

fn default_wal_deadline() -> u32 {
    600
}
fn default_days() -> u32 {
    30
}
fn default_daily() -> u32 {
    7
}
fn default_weekly() -> u32 {
    4
}
fn default_monthly() -> u32 {
    3
}
fn default_minimum() -> u32 {
    1
}
