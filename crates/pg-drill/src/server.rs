//! The server of the copy.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use cluster::{Client, Programs, connect, major_of};
use command::Started;
use tool::Hinted;

use crate::scratch::Scratch;

/// Names the socket in a directory of our own; no other server can be there.
const PORT: u16 = 5432;
const POLL: Duration = Duration::from_millis(100);
/// The longest path of a Unix socket, in bytes, without the final zero: `sun_path` in unix(7).
const LONGEST_SOCKET_PATH: usize = 107;
/// The first major version with event triggers that a login fires, and a way to keep them quiet.
const EVENT_TRIGGERS_MAJOR: u32 = 17;

/// A restored cluster with a server that nobody else finds.
///
/// It has no TCP and a socket in a directory of its own, does not archive, and starts no background
/// worker: a subscription of the copy would take over the slot of the original, and a job scheduler
/// would do the original's jobs once more.
#[derive(Debug)]
pub struct Copy {
    server: Started,
    socket: PathBuf,
    data: PathBuf,
    role: String,
    programs: Programs,
}

impl Copy {
    /// Starts the server and waits until it answers.
    pub fn start(programs: &Programs, scratch: &Scratch, role: &str) -> Result<Self> {
        let data = scratch.cluster();
        let socket = scratch.socket();
        let longest = socket.join(format!(".s.PGSQL.{PORT}"));
        ensure!(
            longest.as_os_str().len() <= LONGEST_SOCKET_PATH,
            "\"{}\" is too long for the path of a socket; set drill.directory to a shorter one",
            longest.display()
        );
        // Whoever can reach the socket may do everything. Nobody but this user can.
        fs::write(scratch.hba(), "local all all trust\n")?;
        let mut settings: Vec<(&str, String)> = vec![
            ("listen_addresses", String::new()),
            ("unix_socket_directories", socket.display().to_string()),
            ("unix_socket_permissions", "0700".into()),
            ("port", PORT.to_string()),
            ("hba_file", scratch.hba().display().to_string()),
            ("ssl", "off".into()),
            ("logging_collector", "off".into()),
            ("log_destination", "stderr".into()),
            ("lc_messages", "C".into()),
            ("archive_mode", "off".into()),
            ("archive_command", String::new()),
            ("restore_command", String::new()),
            ("primary_conninfo", String::new()),
            ("max_worker_processes", "0".into()),
            ("max_logical_replication_workers", "0".into()),
            ("autovacuum", "off".into()),
        ];
        if major_of(&data)? >= EVENT_TRIGGERS_MAJOR {
            settings.push(("event_triggers", "off".into()));
        }
        let mut command = programs.command("postgres").arg("-D").arg(&data);
        for (name, value) in settings {
            command = command.arg("-c").arg(format!("{name}={value}"));
        }
        let mut copy = Self {
            server: command.start_with_log(&scratch.log())?,
            socket,
            data,
            role: role.to_owned(),
            programs: programs.clone(),
        };
        while copy.connect("postgres").is_err() {
            if let Some(status) = copy.server.has_ended()? {
                let log = fs::read_to_string(scratch.log()).unwrap_or_default();
                let said: Vec<&str> = log
                    .lines()
                    .filter(|line| line.contains("FATAL") || line.contains("PANIC"))
                    .collect();
                return Err(Hinted::new(
                    format!(
                        "the server of the copy {}: {}",
                        command::how_it_ended(status),
                        said.join("; ")
                    ),
                    "restore to the same moment with `backstay restore --into` and look at the log of its server",
                )
                .into());
            }
            std::thread::sleep(POLL);
        }
        Ok(copy)
    }

    /// Connects to a database of the copy.
    pub fn connect(&self, database: &str) -> Result<Client> {
        connect(&self.socket, PORT, &self.role, database)
    }

    /// Arguments with which PostgreSQL's client programs reach the copy.
    pub fn connection_arguments(&self) -> Vec<String> {
        vec![
            "--host".into(),
            self.socket.display().to_string(),
            "--port".into(),
            PORT.to_string(),
            "--username".into(),
            self.role.clone(),
            "--no-password".into(),
        ]
    }

    /// Stops the server.
    pub fn stop(&mut self) -> Result<()> {
        cluster::stop_in(&self.programs, &self.data, Duration::from_mins(10))?;
        self.server.wait()?;
        Ok(())
    }
}
