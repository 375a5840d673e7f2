//! The section `postgresql`: the server.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::problem::{Findings, is_service_name, what_is_wrong_with};

/// The server of the instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Postgresql {
    /// Directory with `postgres`, `pg_ctl`, `pg_basebackup` and the others, all of one version.
    pub bin_directory: PathBuf,
    /// The data directory (PGDATA).
    pub data_directory: PathBuf,
    /// Directory of the server's Unix socket.
    pub socket_directory: PathBuf,
    /// TCP port, which also names the socket.
    #[serde(default = "default_port")]
    pub port: u16,
    /// Role for the programs' own connections. It takes base backups and reads the catalogs.
    #[serde(default = "default_role")]
    pub role: String,
    /// File that receives the server's messages when `backstay restore` starts it; the default is
    /// `<dataDirectory>.log` beside the data directory. With `unit` they go to the journal instead.
    #[serde(default)]
    pub log_file: Option<PathBuf>,
    /// Longest time, in seconds, to wait for the server to stop before a restore gives up. The
    /// server is never killed.
    #[serde(default = "default_stop_deadline")]
    pub stop_deadline_seconds: u32,
    /// The systemd service that runs the server, `postgresql-main.service`. With it, the server is
    /// started and stopped through `systemctl`; without it, through `pg_ctl`.
    #[serde(default)]
    pub unit: Option<String>,
    /// The server's configuration, outside the data directory. `pg-init` sees to it that
    /// `postgresql.conf` in the data directory includes it.
    #[serde(default)]
    pub config_file: Option<PathBuf>,
    /// Directories that have to be mount points before `pg-init` makes or starts anything. An
    /// unmounted one is empty, and an empty one must not be taken for a new machine.
    #[serde(default)]
    pub required_mounts: Vec<PathBuf>,
    /// How `pg-init` makes a new cluster. Without it none is ever made.
    #[serde(default)]
    pub initdb: Option<Initdb>,
}

/// How a new cluster is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Initdb {
    /// Whether data pages carry checksums, by which damage is noticed when a page is read.
    #[serde(default = "default_checksums")]
    pub data_checksums: bool,
    /// Encoding of the template databases.
    #[serde(default = "default_encoding")]
    pub encoding: String,
    /// Whose rules order and compare text. Without it, PostgreSQL's own choice: `libc`.
    #[serde(default)]
    pub locale_provider: Option<LocaleProvider>,
    /// The locale. Without it, `C` (`C.UTF-8` for `builtin`, `und` for `icu`), in which the order of
    /// text does not change with the operating system.
    #[serde(default)]
    pub locale: Option<String>,
    /// Further arguments for `initdb`, one word each, `--wal-segsize=64` for example.
    #[serde(default)]
    pub arguments: Vec<String>,
}

/// Whose rules order and compare text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum LocaleProvider {
    /// The C library of the operating system. An upgrade of it can change the order of text, and
    /// indexes have to be rebuilt then.
    Libc,
    /// The ICU library (PostgreSQL 15 or later).
    Icu,
    /// PostgreSQL itself (17 or later).
    Builtin,
}

impl Postgresql {
    /// The file for the server's messages when one of our programs starts it.
    #[must_use]
    pub fn log_file(&self) -> PathBuf {
        self.log_file.clone().unwrap_or_else(|| {
            let mut name = self.data_directory.clone().into_os_string();
            name.push(".log");
            name.into()
        })
    }

    pub(crate) fn check(&self, findings: &mut Findings) {
        if self.port == 0 {
            findings.say("postgresql.port", "0 is no port; use 1 to 65535");
        }
        if self.role.is_empty() || self.role.len() > 63 || self.role.contains('\0') {
            findings.say(
                "postgresql.role",
                format!("\"{}\" is not 1 to 63 bytes", self.role),
            );
        }
        findings.range(
            "postgresql.stopDeadlineSeconds",
            self.stop_deadline_seconds,
            &(1..=86_400),
        );
        if let Some(unit) = &self.unit
            && !is_service_name(unit)
        {
            findings.say(
                "postgresql.unit",
                format!("\"{unit}\" is not the name of a systemd service, such as \"postgresql-main.service\""),
            );
        }
        if let Some(file) = &self.config_file
            && what_is_wrong_with(file).is_none()
            && file.starts_with(&self.data_directory)
        {
            findings.say(
                "postgresql.configFile",
                format!(
                    "\"{}\" is inside postgresql.dataDirectory, which a restore replaces",
                    file.display()
                ),
            );
        }
        findings.distinct(
            self.required_mounts
                .iter()
                .map(|mount| mount.display().to_string()),
            |index| format!("postgresql.requiredMounts.[{index}]"),
        );
        if let Some(initdb) = &self.initdb {
            initdb.check(findings);
        }
    }
}

impl Initdb {
    fn check(&self, findings: &mut Findings) {
        let is_word = |text: &str| {
            (1..=64).contains(&text.len())
                && !text.starts_with('-')
                && text
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-_.@=,+".contains(&b))
        };
        if !is_word(&self.encoding) {
            findings.say(
                "postgresql.initdb.encoding",
                format!("\"{}\" is no name of an encoding", self.encoding),
            );
        }
        if let Some(locale) = &self.locale
            && !is_word(locale)
        {
            findings.say(
                "postgresql.initdb.locale",
                format!("\"{locale}\" is no name of a locale"),
            );
        }
        for (index, argument) in self.arguments.iter().enumerate() {
            let key = format!("postgresql.initdb.arguments.[{index}]");
            if let Some(why) = why_not_passed_on(argument) {
                findings.say(key, format!("{argument:?} {why}"));
            } else {
                findings.text(key, argument, 4096);
            }
        }
    }
}

/// Why `argument` is not passed on to initdb, if so.
fn why_not_passed_on(argument: &str) -> Option<&'static str> {
    let is = |long: &str, short: &str| {
        argument == long
            || argument
                .strip_prefix(long)
                .is_some_and(|rest| rest.starts_with('='))
            || (!short.is_empty() && argument.starts_with(short) && !argument.starts_with("--"))
    };
    if is("--pgdata", "-D") {
        return Some("names the data directory, which is postgresql.dataDirectory");
    }
    if is("--username", "-U") {
        return Some("names the superuser, which is postgresql.role");
    }
    if is("--waldir", "-X") {
        return Some(
            "puts WAL outside the data directory, where neither a snapshot nor a restore would find it",
        );
    }
    if is("--no-sync", "-N") {
        return Some("leaves a cluster that a power cut can destroy");
    }
    if is("--sync-only", "-S") || is("--show", "-s") {
        return Some("makes no cluster");
    }
    if is("--no-clean", "-n") {
        return Some("leaves half a cluster behind");
    }
    None
}

fn default_port() -> u16 {
    5432
}
fn default_role() -> String {
    "postgres".into()
}
fn default_stop_deadline() -> u32 {
    300
}
fn default_checksums() -> bool {
    true
}
fn default_encoding() -> String {
    "UTF8".into()
}
