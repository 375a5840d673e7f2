//! The server of a branch.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use cluster::{Client, Programs, Server, connect};
use settings::Settings;
use tool::Hinted;

use super::place::{Place, Record};

const POLL: Duration = Duration::from_millis(100);
/// How long the server may take to stop. What it has not written is going to be removed.
const STOP_DEADLINE: Duration = Duration::from_mins(5);

/// The settings that make a branch harmless: it archives nothing, does no job of the original once more,
/// waits for no standby, and takes little memory.
fn settings_of(place: &Place, record: &Record) -> Vec<(&'static str, String)> {
    vec![
        (
            "listen_addresses",
            if record.tcp { "localhost" } else { "" }.into(),
        ),
        (
            "unix_socket_directories",
            place.socket().display().to_string(),
        ),
        ("unix_socket_permissions", "0700".into()),
        ("port", record.port.to_string()),
        ("hba_file", place.hba().display().to_string()),
        ("ssl", "off".into()),
        ("external_pid_file", String::new()),
        ("logging_collector", "off".into()),
        ("log_destination", "stderr".into()),
        ("cluster_name", format!("branch {}", record.name)),
        ("archive_mode", "off".into()),
        ("archive_command", String::new()),
        ("restore_command", String::new()),
        ("primary_conninfo", String::new()),
        ("primary_slot_name", String::new()),
        ("synchronous_standby_names", String::new()),
        // A subscription would take over the slot of the original, and a job scheduler would do its jobs
        // once more. Queries run without parallel workers for that.
        ("max_worker_processes", "0".into()),
        ("max_logical_replication_workers", "0".into()),
        ("shared_buffers", "64MB".into()),
        ("huge_pages", "off".into()),
        ("max_wal_size", "256MB".into()),
        ("min_wal_size", "80MB".into()),
    ]
}

/// Starts the server of a branch and waits until it answers.
///
/// # Errors
///
/// Fails when it ends before.
pub fn start(settings: &Settings, place: &Place, record: &Record) -> Result<()> {
    // Whoever reaches the socket may do everything, and nobody but this user can. Over TCP everybody on
    // this machine can, so it takes the password that the role has.
    let mut hba = "local all all trust\n".to_owned();
    if record.tcp {
        hba.push_str(
            "host all all 127.0.0.1/32 scram-sha-256\nhost all all ::1/128 scram-sha-256\n",
        );
    }
    durable_file::replace(&place.hba(), hba.as_bytes())?;
    let server = Server::new(&settings.postgresql);
    let mut command = server
        .programs()
        .command("postgres")
        .arg("-D")
        .arg(place.data());
    for (name, value) in settings_of(place, record) {
        command = command.arg("-c").arg(format!("{name}={value}"));
    }
    let mut started = command.start_with_log(&place.log())?;
    while client(settings, place, record, "postgres").is_err() {
        if let Some(status) = started.has_ended()? {
            let log = std::fs::read_to_string(place.log()).unwrap_or_default();
            let said: Vec<&str> = log
                .lines()
                .filter(|line| line.contains("FATAL") || line.contains("PANIC"))
                .collect();
            return Err(Hinted::new(
                format!(
                    "the server of the branch {}: {}",
                    command::how_it_ended(status),
                    said.join("; ")
                ),
                if record.tcp {
                    "is the port free? another one can be chosen with --port"
                } else {
                    "restore to the same moment with `backstay restore --into` and look at the log of its server"
                },
            )
            .into());
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

/// Connects to a database of a branch.
pub fn client(
    settings: &Settings,
    place: &Place,
    record: &Record,
    database: &str,
) -> Result<Client> {
    connect(
        &place.socket(),
        record.port,
        &settings.postgresql.role,
        database,
    )
}

/// Whether the server of a branch runs.
pub fn is_running(programs: &Programs, place: &Place) -> Result<bool> {
    runs_in(programs, &place.data())
}

fn runs_in(programs: &Programs, data: &Path) -> Result<bool> {
    Ok(data.join("PG_VERSION").exists() && cluster::is_running_in(programs, data)?)
}

/// Stops what runs of a branch: its server, or the recovery that was making it.
pub fn stop(programs: &Programs, place: &Place) -> Result<()> {
    for data in [place.data(), place.staging()] {
        if runs_in(programs, &data)? {
            cluster::stop_in(programs, &data, STOP_DEADLINE)
                .with_context(|| format!("stop the server in \"{}\"", data.display()))?;
        }
    }
    Ok(())
}
