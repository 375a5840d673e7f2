//! The sections `preseed` and `recovery`: what brings data to a machine that has none, or back to a
//! moment that was declared.

use std::path::PathBuf;

use jiff::Timestamp;
use restore_plan::{Target, TimelineChoice};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::problem::{Findings, LONGEST_DEADLINE_SECONDS, is_dataset_name, is_plain_name};
use crate::ssh::SshHost;

/// How `pg-preseed` fills an empty data directory before the first start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is a key of the file")]
pub struct Preseed {
    /// Where data may come from, in the order in which they are asked.
    pub sources: Vec<PreseedSource>,
    /// Which of the sources that have something is taken.
    #[serde(default)]
    pub choose: Choose,
    /// The moment to recover to, as `backstay restore --to` takes it. It does not count from now:
    /// "10 minutes ago" is refused.
    #[serde(default = "default_target")]
    pub target: String,
    /// Whether to stop just before the target instead of just after it.
    #[serde(default)]
    pub exclusive: bool,
    /// Whether the result goes on as a standby instead of opening a new timeline.
    #[serde(default)]
    pub as_standby: bool,
    /// Whether replication slots that came along are dropped. Nobody reads them any more, and they
    /// would keep WAL for ever.
    #[serde(default = "default_true")]
    pub clear_replication_slots: bool,
    /// Longest time, in seconds, for all of it. Without it there is no limit.
    #[serde(default)]
    pub deadline_seconds: Option<u32>,
    /// Whether the server may start with an empty cluster although a source could not be asked. What
    /// that source holds is then on another history than what is written from now on.
    #[serde(default)]
    pub allow_empty_start_without_proof: bool,
}

/// Which of several sources is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Choose {
    /// The first one that has something.
    #[default]
    Order,
    /// The one whose data is newest.
    Freshest,
}

/// Where data may come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "SourceForm", into = "SourceForm")]
pub enum PreseedSource {
    /// A dataset on another machine, to which syncoid has sent it.
    Syncoid(Box<SyncoidSource>),
    /// A snapshot of a dataset on this machine.
    Local {
        /// The dataset of the data directory.
        dataset: String,
        /// The dataset of the WAL archive, if it goes along.
        archive_dataset: Option<String>,
    },
    /// A restic repository.
    Restic(ResticSource),
    /// The base backups of `baseBackup.directory`.
    BaseBackups,
}

/// A dataset on another machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncoidSource {
    /// The other machine, and how to log in there.
    pub ssh: SshHost,
    /// The dataset of the data directory there.
    pub dataset: String,
    /// The dataset that it becomes here.
    pub target_dataset: String,
    /// Options for `zfs send`, as syncoid's `--sendoptions` takes them. Of these `L`, `c`, `e` and `w` count on the
    /// way back.
    pub send_options: Option<String>,
    /// Options for `zfs receive`, as syncoid's `--recvoptions` takes them, for the way there. What comes back gets
    /// the declared properties.
    pub receive_options: Option<String>,
    /// The dataset of the WAL archive there and the one that it becomes here, if it goes along.
    pub archive: Option<(String, String)>,
}

/// A restic repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResticSource {
    /// Where it is, as `restic --repo` takes it.
    pub repository: String,
    /// File with its password.
    pub password_file: PathBuf,
    /// File with environment variables, such as keys of an object store.
    pub environment_file: Option<PathBuf>,
}

/// A source as it stands in the file.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(
    rename_all = "camelCase",
    deny_unknown_fields,
    expecting = "an object with a kind"
)]
struct SourceForm {
    /// What kind of source it is. Each has its own keys, and those of another are refused.
    kind: SourceKind,
    /// `syncoid`: the other machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    /// `syncoid`: the user there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    /// `syncoid`: the port of its SSH server, 22 unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    /// `syncoid`, `local`: the dataset of the data directory, there or here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dataset: Option<String>,
    /// `syncoid`: the dataset that it becomes here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    target_dataset: Option<String>,
    /// `syncoid`: file with the private key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ssh_key_file: Option<PathBuf>,
    /// `syncoid`: a line as in `known_hosts(5)` with the key that the other machine has to show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    known_hosts: Option<String>,
    /// `syncoid`: options for `zfs send`, as syncoid's `--sendoptions` takes them. Of these `L`, `c`, `e` and `w`
    /// count on the way back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    send_options: Option<String>,
    /// `syncoid`: options for `zfs receive`, as syncoid's `--recvoptions` takes them, for the way there. What comes
    /// back gets the declared properties.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    receive_options: Option<String>,
    /// `syncoid`, `local`: the dataset of the WAL archive, there or here, if it goes along.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    archive_dataset: Option<String>,
    /// `syncoid`: the dataset that the archive's becomes here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    archive_target_dataset: Option<String>,
    /// `restic`: where the repository is, as `restic --repo` takes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    repository: Option<String>,
    /// `restic`: file with the password of the repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    password_file: Option<PathBuf>,
    /// `restic`: file with environment variables, such as keys of an object store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    environment_file: Option<PathBuf>,
}

/// What kind of source it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
enum SourceKind {
    /// A dataset on another machine, to which syncoid has sent it.
    Syncoid,
    /// A snapshot of a dataset on this machine.
    Local,
    /// A restic repository.
    Restic,
    /// The base backups of `baseBackup.directory`.
    BaseBackups,
}

/// Takes the value of a key that this kind of source has to have. The message is serde's, by which
/// the reader of the file finds the key.
fn required<T>(value: Option<T>, key: &str) -> Result<T, String> {
    value.ok_or_else(|| format!("missing field `{key}`"))
}

impl TryFrom<SourceForm> for PreseedSource {
    type Error = String;

    fn try_from(form: SourceForm) -> Result<Self, String> {
        let SourceForm {
            kind,
            host,
            user,
            port,
            dataset,
            target_dataset,
            ssh_key_file,
            known_hosts,
            send_options,
            receive_options,
            archive_dataset,
            archive_target_dataset,
            repository,
            password_file,
            environment_file,
        } = form;
        let of_syncoid: &[(&str, bool)] = &[
            ("host", host.is_some()),
            ("user", user.is_some()),
            ("port", port.is_some()),
            ("targetDataset", target_dataset.is_some()),
            ("sshKeyFile", ssh_key_file.is_some()),
            ("knownHosts", known_hosts.is_some()),
            ("sendOptions", send_options.is_some()),
            ("receiveOptions", receive_options.is_some()),
            ("archiveTargetDataset", archive_target_dataset.is_some()),
        ];
        let of_datasets: &[(&str, bool)] = &[
            ("dataset", dataset.is_some()),
            ("archiveDataset", archive_dataset.is_some()),
        ];
        let of_restic: &[(&str, bool)] = &[
            ("repository", repository.is_some()),
            ("passwordFile", password_file.is_some()),
            ("environmentFile", environment_file.is_some()),
        ];
        let (own, others): (Vec<_>, Vec<_>) = match kind {
            SourceKind::Syncoid => (vec![of_syncoid, of_datasets], vec![of_restic]),
            SourceKind::Local => (vec![of_datasets], vec![of_syncoid, of_restic]),
            SourceKind::Restic => (vec![of_restic], vec![of_syncoid, of_datasets]),
            SourceKind::BaseBackups => (vec![], vec![of_syncoid, of_datasets, of_restic]),
        };
        if let Some((foreign, _)) = others.into_iter().flatten().find(|(_, is_set)| *is_set) {
            let own: Vec<String> = std::iter::once("kind")
                .chain(own.into_iter().flatten().map(|(key, _)| *key))
                .map(|key| format!("`{key}`"))
                .collect();
            return Err(format!(
                "unknown field `{foreign}`, expected one of {}",
                own.join(", ")
            ));
        }
        Ok(match kind {
            SourceKind::Syncoid => {
                let archive = match (archive_dataset, archive_target_dataset) {
                    (Some(there), Some(here)) => Some((there, here)),
                    (None, None) => None,
                    (Some(_), None) => return Err("missing field `archiveTargetDataset`".into()),
                    (None, Some(_)) => return Err("missing field `archiveDataset`".into()),
                };
                Self::Syncoid(Box::new(SyncoidSource {
                    ssh: SshHost {
                        host: required(host, "host")?,
                        user: required(user, "user")?,
                        port: port.unwrap_or(SshHost::PORT),
                        ssh_key_file: required(ssh_key_file, "sshKeyFile")?,
                        known_hosts: required(known_hosts, "knownHosts")?,
                    },
                    dataset: required(dataset, "dataset")?,
                    target_dataset: required(target_dataset, "targetDataset")?,
                    send_options,
                    receive_options,
                    archive,
                }))
            }
            SourceKind::Local => Self::Local {
                dataset: required(dataset, "dataset")?,
                archive_dataset,
            },
            SourceKind::Restic => Self::Restic(ResticSource {
                repository: required(repository, "repository")?,
                password_file: required(password_file, "passwordFile")?,
                environment_file,
            }),
            SourceKind::BaseBackups => Self::BaseBackups,
        })
    }
}

impl From<PreseedSource> for SourceForm {
    fn from(source: PreseedSource) -> Self {
        let empty = |kind| Self {
            kind,
            host: None,
            user: None,
            port: None,
            dataset: None,
            target_dataset: None,
            ssh_key_file: None,
            known_hosts: None,
            send_options: None,
            receive_options: None,
            archive_dataset: None,
            archive_target_dataset: None,
            repository: None,
            password_file: None,
            environment_file: None,
        };
        match source {
            PreseedSource::Syncoid(source) => {
                let (archive_dataset, archive_target_dataset) = source.archive.unzip();
                Self {
                    host: Some(source.ssh.host),
                    user: Some(source.ssh.user),
                    port: Some(source.ssh.port),
                    dataset: Some(source.dataset),
                    target_dataset: Some(source.target_dataset),
                    ssh_key_file: Some(source.ssh.ssh_key_file),
                    known_hosts: Some(source.ssh.known_hosts),
                    send_options: source.send_options,
                    receive_options: source.receive_options,
                    archive_dataset,
                    archive_target_dataset,
                    ..empty(SourceKind::Syncoid)
                }
            }
            PreseedSource::Local {
                dataset,
                archive_dataset,
            } => Self {
                dataset: Some(dataset),
                archive_dataset,
                ..empty(SourceKind::Local)
            },
            PreseedSource::Restic(source) => Self {
                repository: Some(source.repository),
                password_file: Some(source.password_file),
                environment_file: source.environment_file,
                ..empty(SourceKind::Restic)
            },
            PreseedSource::BaseBackups => empty(SourceKind::BaseBackups),
        }
    }
}

/// A recovery that is declared and done once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeclaredRecovery {
    /// Names this recovery: 1 to 64 letters, digits, dots, hyphens and underscores. It is done once
    /// for each name.
    pub id: String,
    /// The moment to recover to, as `backstay restore --to` takes it. It does not count from now:
    /// "10 minutes ago" is refused.
    pub target: String,
    /// Whether to stop just before the target instead of just after it.
    #[serde(default)]
    pub exclusive: bool,
    /// Which timeline to follow: `latest`, `current` or a number. Without it, `latest`.
    #[serde(default)]
    pub timeline: Option<String>,
}

impl Preseed {
    pub(crate) fn check(&self, has_base_backups: bool, findings: &mut Findings) {
        if self.sources.is_empty() {
            findings.say(
                "preseed.sources",
                "is empty; name a source or leave out preseed",
            );
        }
        for (index, source) in self.sources.iter().enumerate() {
            source.check(
                &format!("preseed.sources.[{index}]"),
                has_base_backups,
                findings,
            );
            if self.sources[..index].contains(source) {
                findings.say(
                    format!("preseed.sources.[{index}]"),
                    "is the same as one before it",
                );
            }
        }
        check_target("preseed", &self.target, self.exclusive, findings);
        if self.as_standby && self.target != default_target() {
            findings.say(
                "preseed.asStandby",
                "a standby follows its primary and has no target; leave out target",
            );
        }
        findings.range_if_set(
            "preseed.deadlineSeconds",
            self.deadline_seconds,
            &(1..=LONGEST_DEADLINE_SECONDS),
        );
    }
}

impl PreseedSource {
    fn check(&self, key: &str, has_base_backups: bool, findings: &mut Findings) {
        let mut dataset = |name: &str, value: &str| {
            if !is_dataset_name(value) {
                findings.say(
                    format!("{key}.{name}"),
                    format!("\"{value}\" is no name of a dataset"),
                );
            }
        };
        match self {
            Self::Syncoid(source) => {
                dataset("dataset", &source.dataset);
                dataset("targetDataset", &source.target_dataset);
                if let Some((there, here)) = &source.archive {
                    dataset("archiveDataset", there);
                    dataset("archiveTargetDataset", here);
                }
                source.check(key, findings);
            }
            Self::Local {
                dataset: data,
                archive_dataset,
            } => {
                dataset("dataset", data);
                if let Some(archive) = archive_dataset {
                    dataset("archiveDataset", archive);
                }
            }
            Self::Restic(source) => {
                findings.text(format!("{key}.repository"), &source.repository, 4096);
                findings.path(format!("{key}.passwordFile"), &source.password_file);
                if let Some(file) = &source.environment_file {
                    findings.path(format!("{key}.environmentFile"), file);
                }
            }
            Self::BaseBackups => {
                if !has_base_backups {
                    findings.say(
                        format!("{key}.kind"),
                        "\"baseBackups\" needs baseBackup.directory, which is not declared",
                    );
                }
            }
        }
    }
}

impl SyncoidSource {
    fn check(&self, key: &str, findings: &mut Findings) {
        self.ssh.check(key, findings);
        for (name, options) in [
            ("sendOptions", &self.send_options),
            ("receiveOptions", &self.receive_options),
        ] {
            if let Some(options) = options {
                findings.text(format!("{key}.{name}"), options, 4096);
            }
        }
    }
}

impl DeclaredRecovery {
    pub(crate) fn check(&self, findings: &mut Findings) {
        if !is_plain_name(&self.id) {
            findings.say(
                "recovery.id",
                format!(
                    "\"{}\" is not 1 to 64 letters, digits, dots, hyphens and underscores",
                    self.id
                ),
            );
        }
        check_target("recovery", &self.target, self.exclusive, findings);
        if let Some(timeline) = &self.timeline
            && timeline.parse::<TimelineChoice>().is_err()
        {
            findings.say(
                "recovery.timeline",
                format!("\"{timeline}\" is not latest, current or a number from 1 on"),
            );
        }
    }
}

/// Checks a target that stands in a file, and so means the same whenever it is read.
fn check_target(section: &str, text: &str, exclusive: bool, findings: &mut Findings) {
    let key = format!("{section}.target");
    if text.trim_end().ends_with(" ago") {
        findings.say(
            key,
            format!("\"{text}\" would mean another moment each time it is read; write the time itself, with its zone"),
        );
        return;
    }
    // Whether a time has come yet is for the program to see: this file is checked on another day.
    match Target::parse(text, Timestamp::MAX) {
        Err(err) => findings.say(key, format!("{err}; {}", err.hint())),
        Ok(Target::Latest | Target::Immediate | Target::Name(_)) if exclusive => findings.say(
            format!("{section}.exclusive"),
            format!(
                "has no effect on target \"{text}\"; it is for a time, a transaction or an LSN"
            ),
        ),
        Ok(_) => {}
    }
}

fn default_target() -> String {
    "latest".into()
}
fn default_true() -> bool {
    true
}
