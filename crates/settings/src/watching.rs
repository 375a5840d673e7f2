//! The sections `metrics`, `objectives` and `healthCheck`: how the instance is watched.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::problem::{Findings, LONGEST_DEADLINE_SECONDS};

/// Where measurements go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metrics {
    /// Directory for `postgresql_*_<instance>.prom`, which the Prometheus node exporter reads. It has
    /// to be there.
    pub directory: PathBuf,
}

/// What the instance is meant to survive, to be compared with what is measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Objectives {
    /// The most that may be lost when the server's storage is, in seconds of committed changes.
    #[serde(default)]
    pub rpo_seconds: Option<u32>,
    /// The most that may be lost when the whole machine is, in seconds of committed changes.
    #[serde(default)]
    pub offsite_rpo_seconds: Option<u32>,
    /// The longest that a restore may take, in seconds.
    #[serde(default)]
    pub rto_seconds: Option<u32>,
}

/// When `pg-healthcheck` calls the instance ill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HealthCheck {
    /// Whether the lag of standbys is looked at.
    #[serde(default)]
    pub check_replication_lag: bool,
    /// How far a standby may be behind, in seconds.
    #[serde(default = "default_replication_lag")]
    pub maximum_replication_lag_seconds: u32,
    /// How long a WAL file may wait to be archived, in seconds.
    #[serde(default = "default_archive_lag")]
    pub maximum_archive_lag_seconds: u32,
    /// What has to be free on each file system that the instance writes to, in bytes.
    #[serde(default = "default_free_bytes")]
    pub minimum_free_bytes: u64,
    /// How old the newest base backup may be, in seconds. Without it any age will do.
    #[serde(default)]
    pub maximum_base_backup_age_seconds: Option<u32>,
    /// Time from the start of one check to the start of the next, in seconds. After three of them and
    /// five minutes without a check an alert fires.
    #[serde(default = "default_interval")]
    pub interval_seconds: u32,
    /// How long ago `pg-base-backup --method snapshot` may have run last, in seconds. Without it any time
    /// will do.
    #[serde(default)]
    pub maximum_snapshot_age_seconds: Option<u32>,
    /// How long ago `pg-prune` may have run last, in seconds. Without it any time will do.
    #[serde(default)]
    pub maximum_prune_age_seconds: Option<u32>,
    /// How long ago the last restore drill that succeeded may be, in seconds. Without it any time will
    /// do.
    #[serde(default)]
    pub maximum_drill_age_seconds: Option<u32>,
    /// How far a copy of the archive off-site may be behind, in seconds: the age of the oldest change
    /// that is not in it. Without it any age will do.
    #[serde(default)]
    pub maximum_offsite_lag_seconds: Option<u32>,
    /// How old the newest snapshot of a replica may be, in seconds. Without it any age will do.
    #[serde(default)]
    pub maximum_replica_age_seconds: Option<u32>,
    /// How many of the possible connections may be in use, in per cent.
    #[serde(default = "default_connections_percent")]
    pub maximum_connections_percent: u32,
    /// How much of each of these file systems may be in use, in per cent. Past it is a warning, below
    /// `minimumFreeBytes` is worse.
    #[serde(default = "default_used_percent")]
    pub maximum_used_percent: u32,
    /// How long a transaction may be open or prepared, in seconds. It keeps rows and locks.
    #[serde(default = "default_transaction")]
    pub maximum_transaction_seconds: u32,
    /// How many deadlocks there may be in an hour.
    #[serde(default = "default_deadlocks")]
    pub maximum_deadlocks_per_hour: u32,
    /// How much WAL the server may keep for one replication slot, in bytes.
    #[serde(default = "default_slot_bytes")]
    pub maximum_slot_bytes: u64,
    /// How old a transaction id or multixact id may be that is not frozen, in transactions. The server
    /// refuses to work shortly before 2147483648.
    #[serde(default = "default_transaction_id_age")]
    pub maximum_transaction_id_age: u32,
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self {
            check_replication_lag: false,
            maximum_replication_lag_seconds: default_replication_lag(),
            maximum_archive_lag_seconds: default_archive_lag(),
            minimum_free_bytes: default_free_bytes(),
            maximum_base_backup_age_seconds: None,
            interval_seconds: default_interval(),
            maximum_snapshot_age_seconds: None,
            maximum_prune_age_seconds: None,
            maximum_drill_age_seconds: None,
            maximum_offsite_lag_seconds: None,
            maximum_replica_age_seconds: None,
            maximum_connections_percent: default_connections_percent(),
            maximum_used_percent: default_used_percent(),
            maximum_transaction_seconds: default_transaction(),
            maximum_deadlocks_per_hour: default_deadlocks(),
            maximum_slot_bytes: default_slot_bytes(),
            maximum_transaction_id_age: default_transaction_id_age(),
        }
    }
}

impl Objectives {
    pub(crate) fn check(&self, findings: &mut Findings) {
        for (key, seconds) in [
            ("objectives.rpoSeconds", self.rpo_seconds),
            ("objectives.offsiteRpoSeconds", self.offsite_rpo_seconds),
            ("objectives.rtoSeconds", self.rto_seconds),
        ] {
            findings.range_if_set(key, seconds, &(1..=LONGEST_DEADLINE_SECONDS));
        }
    }
}

impl HealthCheck {
    pub(crate) fn check(&self, findings: &mut Findings) {
        findings.range(
            "healthCheck.maximumReplicationLagSeconds",
            self.maximum_replication_lag_seconds,
            &(1..=LONGEST_DEADLINE_SECONDS),
        );
        findings.range(
            "healthCheck.maximumArchiveLagSeconds",
            self.maximum_archive_lag_seconds,
            &(1..=LONGEST_DEADLINE_SECONDS),
        );
        for (key, seconds) in [
            (
                "healthCheck.maximumBaseBackupAgeSeconds",
                self.maximum_base_backup_age_seconds,
            ),
            (
                "healthCheck.maximumSnapshotAgeSeconds",
                self.maximum_snapshot_age_seconds,
            ),
            (
                "healthCheck.maximumPruneAgeSeconds",
                self.maximum_prune_age_seconds,
            ),
            (
                "healthCheck.maximumDrillAgeSeconds",
                self.maximum_drill_age_seconds,
            ),
            (
                "healthCheck.maximumOffsiteLagSeconds",
                self.maximum_offsite_lag_seconds,
            ),
            (
                "healthCheck.maximumReplicaAgeSeconds",
                self.maximum_replica_age_seconds,
            ),
        ] {
            findings.range_if_set(key, seconds, &(1..=u32::MAX));
        }
        findings.range(
            "healthCheck.intervalSeconds",
            self.interval_seconds,
            &(1..=LONGEST_DEADLINE_SECONDS),
        );
        findings.range(
            "healthCheck.maximumConnectionsPercent",
            self.maximum_connections_percent,
            &(1..=100),
        );
        findings.range(
            "healthCheck.maximumUsedPercent",
            self.maximum_used_percent,
            &(1..=100),
        );
        findings.range(
            "healthCheck.maximumTransactionSeconds",
            self.maximum_transaction_seconds,
            &(1..=LONGEST_DEADLINE_SECONDS),
        );
        // vacuum_failsafe_age, from which on the server drops everything else to freeze.
        findings.range(
            "healthCheck.maximumTransactionIdAge",
            self.maximum_transaction_id_age,
            &(1..=1_600_000_000),
        );
    }
}

fn default_interval() -> u32 {
    300
}
fn default_replication_lag() -> u32 {
    300
}
fn default_archive_lag() -> u32 {
    900
}
fn default_free_bytes() -> u64 {
    1 << 30
}
fn default_connections_percent() -> u32 {
    90
}
fn default_used_percent() -> u32 {
    90
}
fn default_transaction() -> u32 {
    4 * 3600
}
fn default_deadlocks() -> u32 {
    5
}
fn default_slot_bytes() -> u64 {
    1 << 30
}
fn default_transaction_id_age() -> u32 {
    1_000_000_000
}
