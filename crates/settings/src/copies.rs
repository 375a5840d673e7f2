//! The sections `restic`, `snapshots` and `drill`: copies elsewhere, copies in time, and the proof that
//! they are good.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::problem::{
    Findings, LONGEST_DEADLINE_SECONDS, is_dataset_name, is_plain_name, is_service_name,
};
use crate::ssh::SshHost;

/// A restic repository that receives copies of the WAL archive and of the base backups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ResticRepository {
    /// Name of the repository, in messages and metrics.
    pub name: String,
    /// Where it is, as `restic --repo` takes it.
    pub repository: String,
    /// File with its password.
    pub password_file: PathBuf,
    /// File with environment variables, such as keys of an object store.
    #[serde(default)]
    pub environment_file: Option<PathBuf>,
    /// The host under whose name the copies are stored. Without it the snapshots of an instance of this
    /// name have to be of one host.
    #[serde(default)]
    pub host: Option<String>,
    /// What is copied there, and by which unit.
    #[serde(default)]
    pub jobs: Vec<ResticJob>,
}

/// One copy into a restic repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ResticJob {
    /// What is copied.
    pub job: ResticContent,
    /// The systemd service that does it.
    pub unit: String,
}

/// What is copied into a restic repository.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub enum ResticContent {
    /// The WAL archive.
    Wal,
    /// The base backups.
    Base,
}

impl ResticContent {
    /// Its word in the settings, in names of files and in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Wal => "wal",
            Self::Base => "base",
        }
    }
}

/// The ZFS datasets of the instance, whose snapshots are restore points too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Snapshots {
    /// The dataset of the data directory.
    pub dataset: String,
    /// The dataset of the WAL archive.
    #[serde(default)]
    pub archive_dataset: Option<String>,
    /// How many of the snapshots that `pg-base-backup --method snapshot` has taken are kept, at least 1.
    /// `pg-prune --snapshots` destroys the older ones, and no others. Without it none are taken.
    #[serde(default)]
    pub keep: Option<u32>,
    /// Where the snapshots are sent to.
    #[serde(default)]
    pub replicas: Vec<Replica>,
}

/// A dataset that the snapshots of one of the instance's datasets are sent to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Replica {
    /// What is sent there.
    pub content: ReplicaContent,
    /// The other machine, and how to log in there. Without it the dataset is on this one.
    #[serde(default)]
    pub ssh: Option<SshHost>,
    /// The dataset there.
    pub dataset: String,
    /// The systemd service that sends.
    pub unit: String,
}

/// What is sent to a replica.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub enum ReplicaContent {
    /// The data directory.
    Data,
    /// The WAL archive.
    Wal,
}

impl ReplicaContent {
    /// Its word in the settings, in names of files and in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Wal => "wal",
        }
    }
}

/// How `pg-drill` rehearses a restore.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Drill {
    /// Directory in which a cluster is restored and thrown away. Nothing else may be in it.
    pub directory: PathBuf,
    /// What has to stay free on that file system, in bytes.
    #[serde(default = "default_free_bytes")]
    pub minimum_free_bytes: u64,
    /// Longest time, in seconds, that a drill may take.
    #[serde(default = "default_drill_deadline")]
    pub deadline_seconds: u32,
    /// Questions to the restored cluster.
    #[serde(default)]
    pub checks: Vec<DrillCheck>,
    /// What is restored from, one drill after the other.
    #[serde(default = "default_drill_sources")]
    pub sources: Vec<DrillSource>,
    /// The canary, by which a drill sees whether a restore ended at the right transaction. Without it
    /// that is not looked at.
    #[serde(default)]
    pub canary: Option<Canary>,
}

/// A row that `pg-canary` writes into the instance again and again.
///
/// Every drill compares the last row of the restored copy with the archived WAL. The writes also let
/// the WAL be archived on a server that is idle otherwise, so the newest moment that can be restored
/// is never older than `archive_timeout`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Canary {
    /// The database of the canary, made by `pg-canary`. Nothing else belongs into it.
    #[serde(default = "default_canary_database")]
    pub database: String,
    /// Time between two rows, in seconds.
    #[serde(default = "default_canary_interval")]
    pub interval_seconds: u32,
    /// How many rows are kept; older ones are deleted. 10,000 take about a megabyte.
    #[serde(default = "default_canary_rows")]
    pub rows_kept: u32,
}

/// A question to a restored cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DrillCheck {
    /// The database to ask.
    pub database: String,
    /// A query that returns one value.
    pub query: String,
    /// The value that it has to return, as text. Without it, the query has to return a row whose value
    /// is neither null nor false.
    #[serde(default)]
    pub expect: Option<String>,
}

/// What a drill restores from.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub enum DrillSource {
    /// The base backups and the archive on this machine.
    Local,
    /// The first restic repository that has both.
    Restic,
    /// The newest snapshot.
    Snapshot,
}

impl DrillSource {
    fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Restic => "restic",
            Self::Snapshot => "snapshot",
        }
    }
}

/// Checks the list `restic`.
pub(crate) fn check_restic(repositories: &[ResticRepository], findings: &mut Findings) {
    findings.distinct(
        repositories.iter().map(|repository| &repository.name),
        |index| format!("restic.[{index}].name"),
    );
    for (index, repository) in repositories.iter().enumerate() {
        let key = |name: &str| format!("restic.[{index}].{name}");
        if !is_plain_name(&repository.name) {
            findings.say(
                key("name"),
                format!(
                    "\"{}\" is not 1 to 64 letters, digits, dots, hyphens and underscores",
                    repository.name
                ),
            );
        }
        findings.text(key("repository"), &repository.repository, 4096);
        if let Some(host) = &repository.host
            && !is_plain_name(host)
        {
            findings.say(key("host"), format!("\"{host}\" is no name of a host"));
        }
        findings.path(key("passwordFile"), &repository.password_file);
        if let Some(file) = &repository.environment_file {
            findings.path(key("environmentFile"), file);
        }
        for (at, job) in repository.jobs.iter().enumerate() {
            if !is_service_name(&job.unit) {
                findings.say(
                    key(&format!("jobs.[{at}].unit")),
                    format!("\"{}\" is not the name of a systemd service", job.unit),
                );
            }
            if repository.jobs[..at]
                .iter()
                .any(|other| other.job == job.job)
            {
                findings.say(
                    key(&format!("jobs.[{at}].job")),
                    "is the same as one before it",
                );
            }
        }
    }
}

impl Snapshots {
    pub(crate) fn check(&self, findings: &mut Findings) {
        let datasets = [
            ("snapshots.dataset", Some(&self.dataset)),
            ("snapshots.archiveDataset", self.archive_dataset.as_ref()),
        ];
        for (key, dataset) in datasets {
            if let Some(dataset) = dataset
                && !is_dataset_name(dataset)
            {
                findings.say(key, format!("\"{dataset}\" is no name of a dataset"));
            }
        }
        findings.range_if_set("snapshots.keep", self.keep, &(1..=100_000));
        if self.archive_dataset.as_ref() == Some(&self.dataset) {
            findings.say(
                "snapshots.archiveDataset",
                format!("\"{}\" is snapshots.dataset too", self.dataset),
            );
        }
        findings.distinct(
            self.replicas.iter().map(|replica| replica.content.name()),
            |index| format!("snapshots.replicas.[{index}].content"),
        );
        for (index, replica) in self.replicas.iter().enumerate() {
            replica.check(&format!("snapshots.replicas.[{index}]"), findings);
        }
    }
}

impl Replica {
    fn check(&self, key: &str, findings: &mut Findings) {
        if !is_dataset_name(&self.dataset) {
            findings.say(
                format!("{key}.dataset"),
                format!("\"{}\" is no name of a dataset", self.dataset),
            );
        }
        if !is_service_name(&self.unit) {
            findings.say(
                format!("{key}.unit"),
                format!("\"{}\" is not the name of a systemd service", self.unit),
            );
        }
        if let Some(ssh) = &self.ssh {
            ssh.check(&format!("{key}.ssh"), findings);
        }
    }
}

impl Drill {
    pub(crate) fn check(&self, has_restic: bool, has_snapshots: bool, findings: &mut Findings) {
        findings.range(
            "drill.deadlineSeconds",
            self.deadline_seconds,
            &(1..=LONGEST_DEADLINE_SECONDS),
        );
        for (index, check) in self.checks.iter().enumerate() {
            let key = |name: &str| format!("drill.checks.[{index}].{name}");
            findings.text(key("database"), &check.database, 63);
            if check.query.trim().is_empty() {
                findings.say(key("query"), "is empty");
            }
        }
        if self.sources.is_empty() {
            findings.say(
                "drill.sources",
                "is empty; name a source or leave out drill",
            );
        }
        findings.distinct(self.sources.iter().map(|source| source.name()), |index| {
            format!("drill.sources.[{index}]")
        });
        if let Some(canary) = &self.canary {
            canary.check(findings);
        }
        for (index, source) in self.sources.iter().enumerate() {
            let missing = match source {
                DrillSource::Restic if !has_restic => "restic",
                DrillSource::Snapshot if !has_snapshots => "snapshots",
                _ => continue,
            };
            findings.say(
                format!("drill.sources.[{index}]"),
                format!(
                    "\"{}\" needs the section {missing}, which is not declared",
                    source.name()
                ),
            );
        }
    }
}

impl Canary {
    fn check(&self, findings: &mut Findings) {
        findings.text("drill.canary.database", &self.database, 63);
        if ["postgres", "template0", "template1"].contains(&self.database.as_str()) {
            findings.say(
                "drill.canary.database",
                format!(
                    "\"{}\" is a database of PostgreSQL's own; the canary has one to itself",
                    self.database
                ),
            );
        }
        findings.range(
            "drill.canary.intervalSeconds",
            self.interval_seconds,
            &(1..=3600),
        );
        findings.range("drill.canary.rowsKept", self.rows_kept, &(2..=1_000_000));
    }
}

fn default_canary_database() -> String {
    "backstay_canary".into()
}
fn default_canary_interval() -> u32 {
    5
}
fn default_canary_rows() -> u32 {
    10_000
}
fn default_free_bytes() -> u64 {
    1 << 30
}
fn default_drill_deadline() -> u32 {
    14_400
}
fn default_drill_sources() -> Vec<DrillSource> {
    vec![DrillSource::Local]
}
