use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use command::Started;
use tool::Hinted;
use wal::{Lsn, SegmentName, TimelineHistory, TimelineId};

use crate::{Programs, connect, major_of, stop_in};

/// How often a server in recovery is asked whether it is done.
const POLL: Duration = Duration::from_millis(100);
/// How long the recovered server may take to stop.
const STOP_DEADLINE: Duration = Duration::from_hours(1);

/// One archive recovery of a data directory that nobody else uses.
///
/// The server runs on a private socket, without TCP and without archiving: until its state has been
/// checked it must not be found by an application, nor write into the archive that it reads.
#[derive(Clone, Debug)]
pub struct Recovery {
    /// The programs, of the cluster's major version.
    pub programs: Programs,
    /// The data directory, with a backup's files in it.
    pub data_directory: PathBuf,
    /// Role for our own connections.
    pub role: String,
    /// File for the server's messages.
    pub log: PathBuf,
    /// `restore_command`.
    pub restore_command: String,
    /// `recovery_target…`, all but the timeline.
    pub target: Vec<(&'static str, String)>,
    /// `recovery_target_timeline`.
    pub timeline: String,
    /// Whether WAL of the new timeline is kept for archiving later, or will never be archived.
    pub will_archive: bool,
}

/// Where a recovery ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryEnd {
    /// The new timeline.
    pub timeline: TimelineId,
    /// The timeline that it leaves.
    pub parent: TimelineId,
    /// Where it leaves it: the end of what was replayed.
    pub switch_point: Lsn,
    /// Why replay ended there, in PostgreSQL's words.
    pub reason: String,
    /// Time of the last replayed commit, in PostgreSQL's words.
    pub last_commit: Option<String>,
}

impl Recovery {
    /// Replays WAL up to the target, opens a new timeline and stops the server.
    ///
    /// `progress` is called with each WAL file that was restored.
    ///
    /// # Errors
    ///
    /// Fails when the server ends before it has promoted: a WAL file is damaged, the target was not
    /// reached, the WAL ends before the backup does. Then the directory can be recovered again.
    pub fn run(&self, mut progress: impl FnMut(&str)) -> Result<RecoveryEnd> {
        for leftover in ["standby.signal", "postmaster.pid", "postmaster.opts"] {
            durable_file::remove(&self.data_directory.join(leftover))?;
        }
        durable_file::replace(&self.data_directory.join("recovery.signal"), b"")?;
        let sockets = tempfile::Builder::new()
            .prefix("backstay")
            .tempdir()
            .context("create a directory for the socket")?;
        let mut log = LogReader::at_end_of(&self.log)?;
        let mut server = self.start(sockets.path())?;
        let mut last_commit = None;
        let mut complaints: Vec<String> = Vec::new();
        let end = loop {
            let ended = server.has_ended()?;
            for line in log.new_lines()? {
                if let Some(name) = between(&line, "restored log file \"", "\"") {
                    progress(name);
                } else if let Some(time) =
                    between(&line, "last completed transaction was at log time ", "\n")
                {
                    last_commit = Some(time.to_owned());
                } else if is_complaint(&line) {
                    complaints.push(line.trim_end().to_owned());
                }
            }
            if let Some(status) = ended {
                let said = complaints[complaints.len().saturating_sub(4)..].join("; ");
                return Err(Hinted::new(
                    format!("recovery ended early: the server {}: {said}", command::how_it_ended(status)),
                    format!(
                        "nothing was promoted; the messages are in \"{}\", and the same command can be run again",
                        self.log.display()
                    ),
                )
                .into());
            }
            if let Ok(mut client) = connect(sockets.path(), PRIVATE_PORT, &self.role, "postgres") {
                break self.end_of(&mut client);
            }
            std::thread::sleep(POLL);
        };
        // The server is stopped also when the answer could not be understood.
        let stopped = stop_in(&self.programs, &self.data_directory, STOP_DEADLINE);
        server.wait()?;
        let mut end = end?;
        stopped?;
        end.last_commit = last_commit;
        Ok(end)
    }

    fn start(&self, sockets: &Path) -> Result<Started> {
        let major = major_of(&self.data_directory)?;
        let mut settings: Vec<(&str, String)> = vec![
            ("listen_addresses", String::new()),
            ("unix_socket_directories", sockets.display().to_string()),
            ("unix_socket_permissions", "0700".into()),
            ("port", PRIVATE_PORT.to_string()),
            // Its absence would be no reason to fail: nobody connects but us.
            ("ssl", "off".into()),
            ("logging_collector", "off".into()),
            ("log_destination", "stderr".into()),
            ("log_min_messages", "warning".into()),
            ("lc_messages", "C".into()),
            // Queries are not needed, and with them recovery stops where a setting of the primary
            // was raised after the backup.
            ("hot_standby", "off".into()),
            // Nothing but the recovery writes.
            ("autovacuum", "off".into()),
            // A subscription of the restored cluster would take over the slot that the original uses.
            ("max_logical_replication_workers", "0".into()),
            // With an empty command PostgreSQL keeps what is to be archived until there is one.
            (
                "archive_mode",
                if self.will_archive { "on" } else { "off" }.into(),
            ),
            ("archive_command", String::new()),
            ("archive_cleanup_command", String::new()),
            ("recovery_end_command", String::new()),
            ("restore_command", self.restore_command.clone()),
            ("recovery_target_action", "promote".into()),
            ("recovery_target_timeline", self.timeline.clone()),
        ];
        if major >= 15 {
            settings.push(("archive_library", String::new()));
        }
        // Targets that a configuration file names would be a second target, which is refused. They
        // are emptied first: emptying one after another was set counts as a second one too.
        for name in TARGETS {
            if !self.target.iter().any(|(set, _)| *set == name) {
                settings.push((name, String::new()));
            }
        }
        settings.extend(self.target.iter().cloned());
        let mut command = self
            .programs
            .command("postgres")
            .arg("-D")
            .arg(&self.data_directory);
        for (name, value) in settings {
            command = command.arg("-c").arg(format!("{name}={value}"));
        }
        command.start_with_log(&self.log)
    }

    fn end_of(&self, client: &mut postgres::Client) -> Result<RecoveryEnd> {
        let name: String = client
            .query_one("select pg_walfile_name(pg_current_wal_lsn())", &[])
            .context("ask for the new timeline")?
            .get(0);
        let timeline = SegmentName::parse(&name)
            .map_err(|err| anyhow!("{err}"))?
            .timeline();
        let path = self
            .data_directory
            .join(format!("pg_wal/{}.history", timeline.hex()));
        let text =
            fs::read_to_string(&path).with_context(|| format!("read \"{}\"", path.display()))?;
        let history = TimelineHistory::parse(timeline, &text).map_err(|err| anyhow!("{err}"))?;
        let Some(last) = history.entries.last() else {
            bail!("\"{}\" names no parent timeline", path.display());
        };
        client
            .batch_execute("checkpoint")
            .context("write a checkpoint")?;
        Ok(RecoveryEnd {
            timeline,
            parent: last.timeline,
            switch_point: last.switch_point,
            reason: last.reason.clone(),
            last_commit: None,
        })
    }
}

/// Names the socket in a directory of our own; no other server can be there.
const PRIVATE_PORT: u16 = 5432;

/// The settings that name a recovery target.
const TARGETS: [&str; 5] = [
    "recovery_target",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_xid",
];

fn between<'a>(line: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let (_, rest) = line.split_once(before)?;
    Some(rest.split_once(after).map_or(rest, |(inner, _)| inner))
}

/// Whether a line of the log says why a recovery failed: PostgreSQL's own words, or ours.
fn is_complaint(line: &str) -> bool {
    ["FATAL:", "PANIC:", "could not ", "hint: "]
        .iter()
        .any(|mark| line.contains(mark))
}

/// Reads what is added to a file.
struct LogReader {
    file: File,
    rest: String,
}

impl LogReader {
    fn at_end_of(path: &Path) -> Result<Self> {
        let open = || -> std::io::Result<File> {
            File::options().create(true).append(true).open(path)?;
            let mut file = File::open(path)?;
            file.seek(SeekFrom::End(0))?;
            Ok(file)
        };
        Ok(Self {
            file: open().with_context(|| format!("open \"{}\"", path.display()))?,
            rest: String::new(),
        })
    }

    fn new_lines(&mut self) -> Result<Vec<String>> {
        let mut added = Vec::new();
        self.file
            .read_to_end(&mut added)
            .context("read the server's messages")?;
        self.rest.push_str(&String::from_utf8_lossy(&added));
        let Some(end) = self.rest.rfind('\n') else {
            return Ok(Vec::new());
        };
        let complete: String = self.rest.drain(..=end).collect();
        Ok(complete.lines().map(ToOwned::to_owned).collect())
    }
}
