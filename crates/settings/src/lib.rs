//! The settings file of one instance: the one type that every program reads, and its checks.
//!
//! The NixOS module writes the file; on another system a person does. Unknown keys are refused, so
//! that a misspelt option is an error and never a default.
//!
//! This crate reads no file and asks no clock: [`Settings::parse`] takes the text.

use std::fmt;
use std::path::{Component, Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Everything that the programs know about one PostgreSQL instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Settings {
    /// Name of the instance, as in `postgresql-<instance>.service`: 1 to 32 lower-case letters,
    /// digits and inner hyphens.
    pub instance: String,
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
}

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
    /// `<dataDirectory>.log` beside the data directory.
    #[serde(default)]
    pub log_file: Option<PathBuf>,
    /// Longest time, in seconds, to wait for the server to stop before a restore gives up. The
    /// server is never killed.
    #[serde(default = "default_stop_deadline")]
    pub stop_deadline_seconds: u32,
}

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

fn default_port() -> u16 {
    5432
}
fn default_role() -> String {
    "postgres".into()
}
fn default_stop_deadline() -> u32 {
    300
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
}

/// One thing that is wrong with a settings file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key, as a path from the top: `archive.compression.level`.
    pub key: String,
    /// What is wrong, with the value.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.what)
    }
}

/// Every problem of a settings file, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

impl Settings {
    /// Reads the text of a settings file and checks it.
    ///
    /// # Errors
    ///
    /// Returns every problem at once, each with its key: a file that has an unknown key, a string
    /// in place of a number and a level out of range gives three.
    pub fn parse(text: &str) -> Result<Self, Problems> {
        let (settings, mut problems) = read(text)?;
        for problem in check(&settings) {
            // A key that could not even be read stands in for itself; its stand-in is not judged.
            if !problems.iter().any(|p| p.key == problem.key) {
                problems.push(problem);
            }
        }
        if problems.is_empty() {
            Ok(settings)
        } else {
            Err(Problems(problems))
        }
    }

    /// The JSON Schema of the settings file, as it stands in `docs/reference`.
    #[must_use]
    pub fn schema() -> serde_json::Value {
        schemars::schema_for!(Settings).into()
    }
}

/// Values that take the place of what could not be read, so that reading can go on to the next
/// problem. They never reach a program: a file with a problem is refused.
const STAND_INS: &str = r#"{
    "instance": "main",
    "postgresql": {
        "binDirectory": "/bin-directory",
        "dataDirectory": "/data-directory",
        "socketDirectory": "/socket-directory"
    },
    "archive": { "directory": "/archive-directory" },
    "baseBackup": { "directory": "/base-backup-directory", "incremental": { "chainLength": 1 } }
}"#;

/// Deserializes `text`, putting a stand-in where something cannot be read and going on.
fn read(text: &str) -> Result<(Settings, Vec<Problem>), Problems> {
    let whole = |what: String| {
        Problems(vec![Problem {
            key: "(file)".into(),
            what,
        }])
    };
    let mut value: serde_json::Value =
        serde_json::from_str(text).map_err(|err| whole(format!("is not JSON: {err}")))?;
    let stand_ins: serde_json::Value = serde_json::from_str(STAND_INS)
        .map_err(|err| whole(format!("the stand-ins are not JSON: {err}")))?;
    let mut problems: Vec<Problem> = Vec::new();
    loop {
        let err = match serde_path_to_error::deserialize(value.clone()) {
            Ok(settings) => return Ok((settings, problems)),
            Err(err) => err,
        };
        let what = err.inner().to_string();
        let mut keys: Vec<String> = err
            .path()
            .iter()
            .map(ToString::to_string)
            .filter(|key| key != ".")
            .collect();
        for marker in ["missing field `", "unknown field `"] {
            if let Some(rest) = what.strip_prefix(marker)
                && let Some(field) = rest.split('`').next()
                && keys.last().is_none_or(|last| last != field)
            {
                keys.push(field.into());
            }
        }
        let problem = Problem {
            key: keys.join("."),
            what: in_our_words(&what),
        };
        // Each round removes one cause. Meeting a problem twice means that it cannot be removed.
        if keys.is_empty() || problems.contains(&problem) {
            problems.push(problem);
            return Err(Problems(problems));
        }
        problems.push(problem);
        replace(&mut value, &stand_ins, &keys);
    }
}

/// Turns serde's message into one that names the cause in the style of the other checks.
fn in_our_words(message: &str) -> String {
    if message.starts_with("missing field") {
        return "is missing".into();
    }
    if let Some(rest) = message.strip_prefix("unknown field `") {
        return match rest.split_once("`, expected ") {
            Some((_, expected)) => format!("is no such key; expected {expected}"),
            None => "is no such key".into(),
        };
    }
    message.into()
}

/// Puts the stand-in at `keys` into `value`, or removes the key if there is none.
fn replace(value: &mut serde_json::Value, stand_ins: &serde_json::Value, keys: &[String]) {
    let Some((last, parents)) = keys.split_last() else {
        return;
    };
    let mut at = value;
    let mut stand_in = Some(stand_ins);
    for key in parents {
        stand_in = stand_in.and_then(|s| s.get(key));
        at = match key.trim_matches(['[', ']']).parse::<usize>() {
            Ok(index) if at.is_array() => match at.get_mut(index) {
                Some(next) => next,
                None => return,
            },
            _ => match at.get_mut(key) {
                Some(next) => next,
                None => return,
            },
        };
    }
    match at {
        serde_json::Value::Object(map) => match stand_in.and_then(|s| s.get(last)) {
            Some(stand_in) => {
                map.insert(last.clone(), stand_in.clone());
            }
            None => {
                map.remove(last);
            }
        },
        serde_json::Value::Array(items) => {
            if let Ok(index) = last.trim_matches(['[', ']']).parse::<usize>()
                && index < items.len()
            {
                items.remove(index);
            }
        }
        _ => {}
    }
}

/// Checks what types cannot express.
fn check(settings: &Settings) -> Vec<Problem> {
    let mut problems = Problems(Vec::new());
    let mut say = |key: &str, what: String| {
        problems.0.push(Problem {
            key: key.into(),
            what,
        });
    };

    if !is_instance_name(&settings.instance) {
        say(
            "instance",
            format!(
                "\"{}\" is not 1 to 32 lower-case letters, digits and inner hyphens",
                settings.instance
            ),
        );
    }

    check_paths(settings, &mut say);
    check_server_and_archive(&settings.postgresql, &settings.archive, &mut say);
    if let Some(backup) = &settings.base_backup {
        check_base_backup(backup, &mut say);
    }
    let retention = &settings.retention;
    for (key, value, least) in [
        ("retention.days", retention.days, 1),
        ("retention.daily", retention.daily, 0),
        ("retention.weekly", retention.weekly, 0),
        ("retention.monthly", retention.monthly, 0),
        ("retention.minimumGood", retention.minimum_good, 1),
    ] {
        if !(least..=36_500).contains(&value) {
            say(key, format!("{value} is not {least} to 36500"));
        }
    }
    problems.0
}

/// Checks that every path can be used, and that nothing that is kept lies in what may go.
fn check_paths(settings: &Settings, say: &mut impl FnMut(&str, String)) {
    let server = &settings.postgresql;
    let archive = &settings.archive;
    let mut paths: Vec<(String, &Path)> = vec![
        ("postgresql.binDirectory".into(), &server.bin_directory),
        ("postgresql.dataDirectory".into(), &server.data_directory),
        (
            "postgresql.socketDirectory".into(),
            &server.socket_directory,
        ),
        ("archive.directory".into(), &archive.directory),
    ];
    if let Some(file) = &server.log_file {
        paths.push(("postgresql.logFile".into(), file));
    }
    for (index, directory) in archive.further_directories.iter().enumerate() {
        paths.push((format!("archive.furtherDirectories.[{index}]"), directory));
    }
    if let Some(backup) = &settings.base_backup {
        paths.push(("baseBackup.directory".into(), &backup.directory));
    }
    for (key, path) in &paths {
        if let Some(what) = what_is_wrong_with(path) {
            say(key, what);
        }
    }

    // What is removed or moved aside together with the cluster is no backup of it.
    let mut kept_apart: Vec<(String, &Path)> = paths
        .iter()
        .filter(|(key, _)| {
            key.starts_with("archive.")
                || key.starts_with("baseBackup.")
                || key == "postgresql.dataDirectory"
        })
        .map(|(key, path)| (key.clone(), *path))
        .collect();
    kept_apart.sort();
    for (index, (key, path)) in kept_apart.iter().enumerate() {
        for (other_key, other) in &kept_apart[index + 1..] {
            if path == other {
                say(key, format!("\"{}\" is {other_key} too", path.display()));
            } else if path.starts_with(other) {
                say(key, format!("\"{}\" is inside {other_key}", path.display()));
            } else if other.starts_with(path) {
                say(
                    other_key,
                    format!("\"{}\" is inside {key}", other.display()),
                );
            }
        }
    }
}

fn check_server_and_archive(
    server: &Postgresql,
    archive: &Archive,
    say: &mut impl FnMut(&str, String),
) {
    if server.port == 0 {
        say("postgresql.port", "0 is no port; use 1 to 65535".into());
    }
    if server.role.is_empty() || server.role.len() > 63 || server.role.contains('\0') {
        say(
            "postgresql.role",
            format!("\"{}\" is not 1 to 63 bytes", server.role),
        );
    }
    for (key, seconds) in [
        (
            "postgresql.stopDeadlineSeconds",
            server.stop_deadline_seconds,
        ),
        (
            "archive.archiveDeadlineSeconds",
            archive.archive_deadline_seconds,
        ),
        (
            "archive.restoreDeadlineSeconds",
            archive.restore_deadline_seconds,
        ),
    ] {
        if !(1..=86_400).contains(&seconds) {
            say(key, format!("{seconds} is not 1 to 86400"));
        }
    }
    if archive.work_ahead_segments > 1024 {
        say(
            "archive.workAheadSegments",
            format!("{} is not 0 to 1024", archive.work_ahead_segments),
        );
    }
    if !(1..=16).contains(&archive.threads) {
        say(
            "archive.threads",
            format!("{} is not 1 to 16", archive.threads),
        );
    }
    if archive.prefetch_mebibytes > 65_536 {
        say(
            "archive.prefetchMebibytes",
            format!("{} is not 0 to 65536", archive.prefetch_mebibytes),
        );
    }
    match (archive.compression.algorithm, archive.compression.level) {
        (Algorithm::Zstd, Some(level)) if !(1..=19).contains(&level) => say(
            "archive.compression.level",
            format!("{level} is not 1 to 19"),
        ),
        (Algorithm::None | Algorithm::Lz4, Some(level)) => say(
            "archive.compression.level",
            format!("{level} has no effect: only zstd has levels"),
        ),
        _ => {}
    }
}

fn check_base_backup(backup: &BaseBackup, say: &mut impl FnMut(&str, String)) {
    if backup.format == Format::Plain && backup.tar_compression != TarCompression::None {
        say(
            "baseBackup.tarCompression",
            "has no effect on the plain format; set format to \"tar\" or leave it out".into(),
        );
    }
    if let Some(incremental) = backup.incremental {
        if !(1..=100).contains(&incremental.chain_length) {
            say(
                "baseBackup.incremental.chainLength",
                format!("{} is not 1 to 100", incremental.chain_length),
            );
        }
        if backup.format == Format::Tar {
            say(
                "baseBackup.incremental",
                "cannot be combined from tar files; set format to \"plain\"".into(),
            );
        }
    }
    if let Some(rate) = backup.maximum_rate_kibibytes_per_second
        && !(32..=1_048_576).contains(&rate)
    {
        say(
            "baseBackup.maximumRateKibibytesPerSecond",
            format!("{rate} is not 32 to 1048576, the limits of pg_basebackup"),
        );
    }
    if !(1..=86_400).contains(&backup.wal_deadline_seconds) {
        say(
            "baseBackup.walDeadlineSeconds",
            format!("{} is not 1 to 86400", backup.wal_deadline_seconds),
        );
    }
}

/// Whether `name` can stand in unit, file and metric names without quoting.
fn is_instance_name(name: &str) -> bool {
    (1..=32).contains(&name.len())
        && !name.starts_with('-')
        && !name.ends_with('-')
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn what_is_wrong_with(path: &Path) -> Option<String> {
    let shown = path.display();
    if !path.is_absolute() {
        return Some(format!("\"{shown}\" is not an absolute path"));
    }
    if path == Path::new("/") {
        return Some("\"/\" is the root directory".into());
    }
    if path
        .components()
        .any(|c| matches!(c, Component::ParentDir | Component::CurDir))
    {
        return Some(format!("\"{shown}\" contains \"..\""));
    }
    // PostgreSQL reads %p and %f out of its commands, and its configuration is read line by line.
    if path
        .to_str()
        .is_none_or(|text| text.chars().any(char::is_control))
    {
        return Some(format!(
            "\"{shown}\" contains a control character or is not UTF-8"
        ));
    }
    None
}

#[cfg(test)]
mod tests;
