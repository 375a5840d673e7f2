//! The settings file of one instance: the one type that every program reads, and its checks.
//!
//! The NixOS module writes the file; on another system a person does. Unknown keys are refused, so
//! that a misspelt option is an error and never a default.
//!
//! This crate reads no file and asks no clock: [`Settings::parse`] takes the text.

mod archive;
mod base_backup;
mod copies;
pub mod databases;
mod datasets;
pub mod notifications;
mod postgresql;
mod preseed;
mod problem;
mod reading;
mod ssh;
mod watching;

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use archive::{Algorithm, Archive, Compression};
pub use base_backup::{BaseBackup, Format, Incremental, Retention, TarCompression};
pub use copies::{
    Canary, Drill, DrillCheck, DrillSource, Replica, ReplicaContent, ResticContent, ResticJob,
    ResticRepository, Snapshots,
};
pub use datasets::{Dataset, Datasets, Mountpoint};
pub use notifications::Notifications;
pub use postgresql::{Initdb, LocaleProvider, Postgresql};
pub use preseed::{Choose, DeclaredRecovery, Preseed, PreseedSource, ResticSource, SyncoidSource};
pub use problem::{Problem, Problems};
pub use ssh::SshHost;
pub use watching::{HealthCheck, Metrics, Objectives};

use crate::problem::{Findings, is_instance_name, what_is_wrong_with};

/// Everything that the programs know about one PostgreSQL instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Settings {
    /// Name of the instance, as in `postgresql-<instance>.service`: 1 to 32 lower-case letters,
    /// digits and inner hyphens.
    pub instance: String,
    /// Directory for what the programs remember between their runs, outside of what a restore
    /// replaces. Without it, `/var/lib/backstay/<instance>`.
    #[serde(default)]
    pub state_directory: Option<PathBuf>,
    /// The server: where its programs, its data and its socket are.
    pub postgresql: Postgresql,
    /// Where WAL files go and come from.
    pub archive: Archive,
    /// How base backups are taken, and where they are kept. Without it the instance has none, and
    /// nothing can be restored.
    #[serde(default)]
    pub base_backup: Option<BaseBackup>,
    /// What `pg-prune` keeps.
    #[serde(default)]
    pub retention: Retention,
    /// Where measurements go. Without it none are written.
    #[serde(default)]
    pub metrics: Option<Metrics>,
    /// What the instance is meant to survive, to be compared with what is measured.
    #[serde(default)]
    pub objectives: Objectives,
    /// When `pg-healthcheck` calls the instance ill.
    #[serde(default)]
    pub health_check: HealthCheck,
    /// How `pg-preseed` fills an empty data directory before the first start.
    #[serde(default)]
    pub preseed: Option<Preseed>,
    /// A recovery to a moment, done once for each `id`.
    #[serde(default)]
    pub recovery: Option<DeclaredRecovery>,
    /// Restic repositories that receive copies of the WAL archive and of the base backups.
    #[serde(default)]
    pub restic: Vec<ResticRepository>,
    /// The ZFS datasets of the instance, whose snapshots are restore points too.
    #[serde(default)]
    pub snapshots: Option<Snapshots>,
    /// How `pg-drill` rehearses a restore. Without it there are no rehearsals.
    #[serde(default)]
    pub drill: Option<Drill>,
    /// Databases and roles that `pg-provision` brings about and keeps. Without it the instance has
    /// only what people make by hand.
    #[serde(default)]
    pub databases: Option<databases::Databases>,
}

/// Values that take the place of what could not be read, so that reading can go on to the next
/// problem. They never reach a program: a file with a problem is refused.
const STAND_INS: &str = r#"{
    "instance": "main",
    "postgresql": {
        "binDirectory": "/bin-directory",
        "dataDirectory": "/data-directory",
        "socketDirectory": "/socket-directory",
        "requiredMounts": ["/required-mount"],
        "initdb": { "arguments": ["--argument"] }
    },
    "archive": { "directory": "/archive-directory", "furtherDirectories": ["/further-directory"] },
    "baseBackup": { "directory": "/base-backup-directory", "incremental": { "chainLength": 1 } },
    "metrics": { "directory": "/metrics-directory" },
    "preseed": {
        "sources": [{ "kind": "local", "dataset": "stand-in/dataset" }, {
            "host": "host", "user": "user", "port": 22,
            "dataset": "pool/there", "targetDataset": "pool/here",
            "sshKeyFile": "/ssh-key-file", "knownHosts": "host kind key",
            "archiveDataset": "pool/there-wal", "archiveTargetDataset": "pool/here-wal",
            "repository": "repository", "passwordFile": "/password-file"
        }]
    },
    "recovery": { "id": "id", "target": "latest" },
    "restic": [{
        "name": "name", "repository": "repository", "passwordFile": "/password-file",
        "jobs": [{ "job": "wal", "unit": "job.service" }]
    }],
    "snapshots": {
        "dataset": "pool/dataset",
        "replicas": [{
            "content": "data", "dataset": "pool/replica", "unit": "replicate.service",
            "ssh": {
                "host": "host", "user": "user", "sshKeyFile": "/ssh-key-file",
                "knownHosts": "host kind key"
            }
        }]
    },
    "drill": {
        "directory": "/drill-directory",
        "checks": [{ "database": "postgres", "query": "select 1" }],
        "sources": ["local"]
    },
    "databases": {
        "stampFile": "/stamp-file",
        "declared": { "*": {
            "extensions": [{ "name": "extension" }],
            "dump": { "directory": "/dump-directory" }
        } }
    }
}"#;

impl Settings {
    /// Reads the text of a settings file and checks it.
    ///
    /// # Errors
    ///
    /// Returns every problem at once, each with its key: a file that has an unknown key, a string
    /// in place of a number and a level out of range gives three.
    pub fn parse(text: &str) -> Result<Self, Problems> {
        reading::parse(text, STAND_INS, Self::check)
    }

    /// The JSON Schema of the settings file, as it stands in `docs/reference`.
    #[must_use]
    pub fn schema() -> serde_json::Value {
        schemars::schema_for!(Settings).into()
    }

    /// The directory for what the programs remember between their runs.
    #[must_use]
    pub fn state_directory(&self) -> PathBuf {
        self.state_directory
            .clone()
            .unwrap_or_else(|| Path::new("/var/lib/backstay").join(&self.instance))
    }

    /// Checks what types cannot express.
    fn check(&self, findings: &mut Findings) {
        if !is_instance_name(&self.instance) {
            findings.say(
                "instance",
                format!(
                    "\"{}\" is not 1 to 32 lower-case letters, digits and inner hyphens",
                    self.instance
                ),
            );
        }
        self.check_paths(findings);
        self.postgresql.check(findings);
        self.archive.check(findings);
        if let Some(backup) = &self.base_backup {
            backup.check(findings);
        }
        self.retention.check(findings);
        self.objectives.check(findings);
        self.health_check.check(findings);
        if let Some(preseed) = &self.preseed {
            preseed.check(self.base_backup.is_some(), findings);
        }
        if let Some(recovery) = &self.recovery {
            recovery.check(findings);
        }
        copies::check_restic(&self.restic, findings);
        if let Some(snapshots) = &self.snapshots {
            snapshots.check(findings);
        }
        if let Some(drill) = &self.drill {
            drill.check(!self.restic.is_empty(), self.snapshots.is_some(), findings);
        }
        if let Some(databases) = &self.databases {
            let kept_apart: [(&str, &Path); 2] = [
                ("postgresql.dataDirectory", &self.postgresql.data_directory),
                ("archive.directory", &self.archive.directory),
            ];
            databases.check(&self.postgresql.role, &kept_apart, findings);
        }
    }

    /// Checks that every path can be used, and that nothing that is kept lies in what may go.
    fn check_paths(&self, findings: &mut Findings) {
        let server = &self.postgresql;
        let mut used: Vec<(String, &Path)> = vec![
            ("postgresql.binDirectory".into(), &server.bin_directory),
            (
                "postgresql.socketDirectory".into(),
                &server.socket_directory,
            ),
        ];
        if let Some(file) = &server.log_file {
            used.push(("postgresql.logFile".into(), file));
        }
        if let Some(file) = &server.config_file {
            used.push(("postgresql.configFile".into(), file));
        }
        for (index, mount) in server.required_mounts.iter().enumerate() {
            used.push((format!("postgresql.requiredMounts.[{index}]"), mount));
        }

        // What is removed or moved aside together with the cluster is no backup of it, and what a
        // drill throws away must be nothing else.
        let mut kept_apart: Vec<(String, &Path)> = vec![
            ("postgresql.dataDirectory".into(), &server.data_directory),
            ("archive.directory".into(), &self.archive.directory),
        ];
        for (index, directory) in self.archive.further_directories.iter().enumerate() {
            kept_apart.push((format!("archive.furtherDirectories.[{index}]"), directory));
        }
        if let Some(backup) = &self.base_backup {
            kept_apart.push(("baseBackup.directory".into(), &backup.directory));
        }
        if let Some(directory) = &self.state_directory {
            kept_apart.push(("stateDirectory".into(), directory));
        }
        if let Some(metrics) = &self.metrics {
            kept_apart.push(("metrics.directory".into(), &metrics.directory));
        }
        if let Some(drill) = &self.drill {
            kept_apart.push(("drill.directory".into(), &drill.directory));
        }
        kept_apart.sort();
        for (index, (key, path)) in kept_apart.iter().enumerate() {
            for (other_key, other) in &kept_apart[index + 1..] {
                if path == other {
                    findings.say(key, format!("\"{}\" is {other_key} too", path.display()));
                } else if path.starts_with(other) {
                    findings.say(key, format!("\"{}\" is inside {other_key}", path.display()));
                } else if other.starts_with(path) {
                    findings.say(
                        other_key,
                        format!("\"{}\" is inside {key}", other.display()),
                    );
                }
            }
        }

        used.extend(kept_apart);
        for (key, path) in used {
            if let Some(what) = what_is_wrong_with(path) {
                findings.say(key, what);
            }
        }
    }
}

#[cfg(test)]
mod tests;
