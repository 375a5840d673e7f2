//! A PostgreSQL cluster: its programs, its data directory and its server.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use command::Command;
use postgres::NoTls;

/// A connection to a server.
pub use postgres::Client;
use serde::{Deserialize, Serialize};
use settings::Postgresql;
use tool::{Hinted, WithHint as _};
use wal::{ControlFile, Lsn, SegmentSize, SystemIdentifier, TimelineId};

mod answer;
mod recovery;
mod relations;

pub use answer::Answer;
pub use recovery::{Recovery, RecoveryEnd};
pub use relations::{Relation, Relations};

/// PostgreSQL's programs, all of one version.
#[derive(Clone, Debug)]
pub struct Programs {
    directory: PathBuf,
}

impl Programs {
    /// The programs in `directory`.
    #[must_use]
    pub fn in_directory(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
        }
    }

    /// Prepares to run the program `name`.
    #[must_use]
    pub fn command(&self, name: &str) -> Command {
        Command::new(self.directory.join(name))
    }

    /// The version that the program `name` says it has, as in `15.18`.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be run or says something else.
    pub fn version(&self, name: &str) -> Result<String> {
        let said = self.command(name).arg("--version").run()?.stdout;
        said.split_once("(PostgreSQL) ")
            .and_then(|(_, rest)| rest.split_whitespace().next())
            .map(ToOwned::to_owned)
            .ok_or_else(|| anyhow!("\"{name} --version\" said {:?}", said.trim()))
    }

    /// The major version of the server program.
    ///
    /// # Errors
    ///
    /// Fails as [`Programs::version`] does.
    pub fn major(&self) -> Result<u32> {
        let version = self.version("postgres")?;
        leading_number(&version).ok_or_else(|| anyhow!("\"{version}\" is no version of PostgreSQL"))
    }
}

fn leading_number(text: &str) -> Option<u32> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    text[..digits].parse().ok()
}

/// The major version of the cluster in `data_directory`.
///
/// # Errors
///
/// Fails when there is no `PG_VERSION`, or no number in it.
pub fn major_of(data_directory: &Path) -> Result<u32> {
    let path = data_directory.join("PG_VERSION");
    let text = fs::read_to_string(&path).with_context(|| format!("read \"{}\"", path.display()))?;
    text.trim()
        .parse()
        .with_context(|| format!("read \"{}\"", path.display()))
}

/// The server of an instance.
#[derive(Clone, Debug)]
pub struct Server {
    settings: Postgresql,
    programs: Programs,
}

/// What a running server says about its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// System identifier.
    pub system_identifier: SystemIdentifier,
    /// Version, as in `15.18`.
    pub version: String,
    /// Major version.
    pub major: u32,
    /// Timeline of the latest checkpoint.
    pub timeline: TimelineId,
    /// Segment size.
    pub segment_size: SegmentSize,
    /// Whether data pages carry checksums.
    pub data_checksums: bool,
    /// Whether it is replaying WAL.
    pub in_recovery: bool,
    /// `archive_mode`.
    pub archive_mode: String,
    /// Whether WAL is summarised for incremental backups.
    pub summarize_wal: bool,
    /// The data directory that it serves.
    pub data_directory: PathBuf,
}

/// A tablespace outside the data directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tablespace {
    /// Its object identifier, which names the link in `pg_tblspc`.
    pub oid: u32,
    /// The directory that the link leads to.
    pub location: PathBuf,
}

/// What PostgreSQL's archiver reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Archiver {
    /// Files archived since the counters were reset.
    pub archived_count: i64,
    /// Counted failures since then.
    pub failed_count: i64,
    /// The file archived last.
    pub last_archived_wal: Option<String>,
    /// The file that failed last.
    pub last_failed_wal: Option<String>,
    /// Whether the newest attempt failed.
    pub failing: bool,
}

impl Server {
    /// The server that `settings` describe.
    #[must_use]
    pub fn new(settings: &Postgresql) -> Self {
        Self {
            programs: Programs::in_directory(&settings.bin_directory),
            settings: settings.clone(),
        }
    }

    /// Its programs.
    #[must_use]
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// Its data directory.
    #[must_use]
    pub fn data_directory(&self) -> &Path {
        &self.settings.data_directory
    }

    /// Its control file.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be read.
    pub fn control(&self) -> Result<ControlFile> {
        archive::read_control_file(&self.settings.data_directory)
    }

    /// Connects to `database` over the server's socket.
    ///
    /// # Errors
    ///
    /// Fails when the server does not answer or refuses.
    pub fn connect(&self, database: &str) -> Result<Client> {
        let server = &self.settings;
        connect(
            &server.socket_directory,
            server.port,
            &server.role,
            database,
        )
    }

    /// Arguments with which PostgreSQL's client programs reach the server.
    #[must_use]
    pub fn connection_arguments(&self) -> Vec<String> {
        let server = &self.settings;
        vec![
            "--host".into(),
            server.socket_directory.display().to_string(),
            "--port".into(),
            server.port.to_string(),
            "--username".into(),
            server.role.clone(),
            "--no-password".into(),
        ]
    }

    /// Asks the server who it is.
    ///
    /// # Errors
    ///
    /// Fails when the question or an answer cannot be understood.
    pub fn identify(client: &mut Client) -> Result<Identity> {
        let row = client
            .query_one(
                "select s.system_identifier::text, c.timeline_id, i.bytes_per_wal_segment,
                        i.data_page_checksum_version <> 0, pg_is_in_recovery(),
                        current_setting('server_version'),
                        current_setting('server_version_num')::int,
                        current_setting('archive_mode'),
                        coalesce(current_setting('summarize_wal', true), 'off') = 'on',
                        current_setting('data_directory')
                 from pg_control_system() s, pg_control_checkpoint() c, pg_control_init() i",
                &[],
            )
            .context("ask the server who it is")
            .with_hint(|| {
                "a role that is no superuser needs REPLICATION and the rights of pg_read_all_settings"
                    .into()
            })?;
        let version: String = row.get(5);
        let number: i32 = row.get(6);
        let timeline: i32 = row.get(1);
        let segment: i32 = row.get(2);
        Ok(Identity {
            system_identifier: row
                .get::<_, String>(0)
                .parse()
                .map_err(|err| anyhow!("{err}"))?,
            version: version.split_whitespace().next().unwrap_or_default().into(),
            major: u32::try_from(number / 10_000)?,
            timeline: TimelineId::new(u32::try_from(timeline)?)
                .ok_or_else(|| anyhow!("the server is on timeline 0"))?,
            segment_size: SegmentSize::new(u64::try_from(segment)?)
                .map_err(|err| anyhow!("{err}"))?,
            data_checksums: row.get(3),
            in_recovery: row.get(4),
            archive_mode: row.get(7),
            summarize_wal: row.get(8),
            data_directory: row.get::<_, String>(9).into(),
        })
    }

    /// Lists the tablespaces outside the data directory.
    ///
    /// # Errors
    ///
    /// Fails when the server cannot be asked.
    pub fn tablespaces(client: &mut Client) -> Result<Vec<Tablespace>> {
        let rows = client
            .query(
                "select oid, pg_tablespace_location(oid) from pg_tablespace
                 where pg_tablespace_location(oid) like '/%' order by oid",
                &[],
            )
            .context("list the tablespaces")?;
        Ok(rows
            .iter()
            .map(|row| Tablespace {
                oid: row.get(0),
                location: row.get::<_, String>(1).into(),
            })
            .collect())
    }

    /// Asks how archiving goes.
    ///
    /// # Errors
    ///
    /// Fails when the server cannot be asked.
    pub fn archiver(client: &mut Client) -> Result<Archiver> {
        let row = client
            .query_one(
                "select archived_count, failed_count, last_archived_wal, last_failed_wal,
                        coalesce(last_failed_time > coalesce(last_archived_time, '-infinity'), false)
                 from pg_stat_archiver",
                &[],
            )
            .context("ask how archiving goes")?;
        Ok(Archiver {
            archived_count: row.get(0),
            failed_count: row.get(1),
            last_archived_wal: row.get(2),
            last_failed_wal: row.get(3),
            failing: row.get(4),
        })
    }

    /// Whether a server runs in the data directory, by the word of `pg_ctl status`.
    ///
    /// # Errors
    ///
    /// Fails when `pg_ctl` cannot tell, for want of a data directory for example.
    pub fn is_running(&self) -> Result<bool> {
        is_running_in(&self.programs, &self.settings.data_directory)
    }

    /// Stops the server and waits for it.
    ///
    /// A fast shutdown ends the sessions, archives what can be archived and writes a checkpoint.
    ///
    /// # Errors
    ///
    /// Fails when it has not stopped within the declared time. It is never killed.
    pub fn stop(&self) -> Result<()> {
        stop_in(
            &self.programs,
            &self.settings.data_directory,
            Duration::from_secs(self.settings.stop_deadline_seconds.into()),
        )
    }

    /// Starts the server as it is configured and waits until it accepts connections.
    ///
    /// # Errors
    ///
    /// Fails when it does not come up; its messages are in its log.
    pub fn start(&self) -> Result<()> {
        let log = self.settings.log_file();
        self.programs
            .command("pg_ctl")
            .arg("start")
            .arg("--pgdata")
            .arg(&self.settings.data_directory)
            .arg("--log")
            .arg(&log)
            .args(["--wait", "--silent", "--timeout", "86400"])
            .run()
            .with_hint(|| format!("the server's messages are in \"{}\"", log.display()))
            .context("start the server")?;
        Ok(())
    }

    /// How many WAL files wait to be archived, and the first of them.
    ///
    /// PostgreSQL counts no failure when `archive_command` dies of a signal or exits above 125, so
    /// this directory tells more than `pg_stat_archiver`.
    ///
    /// # Errors
    ///
    /// Fails when the directory cannot be listed.
    pub fn ready_files(&self) -> Result<Vec<String>> {
        let directory = self.settings.data_directory.join("pg_wal/archive_status");
        let mut ready: Vec<String> = fs::read_dir(&directory)
            .with_context(|| format!("list \"{}\"", directory.display()))?
            .filter_map(|entry| {
                Some(
                    entry
                        .ok()?
                        .file_name()
                        .to_str()?
                        .strip_suffix(".ready")?
                        .to_owned(),
                )
            })
            .collect();
        ready.sort();
        Ok(ready)
    }
}

/// Connects to `database` as `role` over the socket in `directory`.
///
/// # Errors
///
/// Fails when the server does not answer or refuses.
pub fn connect(directory: &Path, port: u16, role: &str, database: &str) -> Result<Client> {
    configuration(directory, port, role, database)
        .connect(NoTls)
        .map_err(|err| refused(&err, directory, port))
}

fn configuration(directory: &Path, port: u16, role: &str, database: &str) -> postgres::Config {
    let mut config = postgres::Config::new();
    config
        .host_path(directory)
        .port(port)
        .user(role)
        .dbname(database)
        .application_name("backstay")
        .connect_timeout(Duration::from_secs(10));
    config
}

fn refused(err: &postgres::Error, directory: &Path, port: u16) -> anyhow::Error {
    let cause = std::error::Error::source(err).map_or_else(|| err.to_string(), ToString::to_string);
    Hinted::new(
        format!(
            "connect to the server at \"{}\", port {port}: {cause}",
            directory.display()
        ),
        "is the server running, and may this user connect over the socket?",
    )
    .into()
}

/// Whether a server runs in `data_directory`.
///
/// # Errors
///
/// Fails when `pg_ctl` cannot tell.
pub fn is_running_in(programs: &Programs, data_directory: &Path) -> Result<bool> {
    /// `pg_ctl status`: no server is running.
    const NOT_RUNNING: i32 = 3;
    let command = programs
        .command("pg_ctl")
        .arg("status")
        .arg("--pgdata")
        .arg(data_directory);
    let (status, output) = command.run_any_status()?;
    match status.code() {
        Some(0) => Ok(true),
        Some(NOT_RUNNING) => Ok(false),
        _ => bail!(
            "\"{}\" {}: {}",
            command.line(),
            command::how_it_ended(status),
            output.stderr.trim()
        ),
    }
}

/// Stops the server in `data_directory` and waits at most `deadline` for it. One that has ended in the
/// meantime counts as stopped.
///
/// # Errors
///
/// Fails when it has not stopped by then.
pub fn stop_in(programs: &Programs, data_directory: &Path, deadline: Duration) -> Result<()> {
    let stopped = programs
        .command("pg_ctl")
        .arg("stop")
        .arg("--pgdata")
        .arg(data_directory)
        .args(["--mode", "fast", "--wait", "--silent", "--timeout"])
        .arg(deadline.as_secs().max(1).to_string())
        .run()
        .with_hint(|| {
            "an archive that hangs blocks the shutdown; see `backstay status`, or stop it yourself and run this again".into()
        })
        .context("stop the server");
    // It may have been on its way out already: the PID file is gone then, which pg_ctl calls an error.
    if stopped.is_err() && !is_running_in(programs, data_directory)? {
        return Ok(());
    }
    stopped.map(drop)
}

/// Reads an LSN that the server sent as text.
///
/// # Errors
///
/// Fails when it is none.
pub fn lsn(text: &str) -> Result<Lsn> {
    text.parse().map_err(|err| anyhow!("{err}"))
}
