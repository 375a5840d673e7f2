//! The server of a branch.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use cluster::{Client, Programs, Server, connect};
use command::Started;
use settings::Settings;
use systemd::Service;
use tool::Hinted;

use crate::control::{BranchUnit, Control};

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

/// What runs the server of a branch.
enum Run {
    /// This process has started it.
    Own(Started),
    /// systemd has.
    Unit(Service),
}

impl Run {
    /// How it has ended, if it has, and what a person does to find out why.
    fn has_ended(&mut self, place: &Place) -> Result<Option<String>> {
        match self {
            Self::Own(started) => {
                let Some(status) = started.has_ended()? else {
                    return Ok(None);
                };
                let log = std::fs::read_to_string(place.log()).unwrap_or_default();
                let said: Vec<&str> = log
                    .lines()
                    .filter(|line| line.contains("FATAL") || line.contains("PANIC"))
                    .collect();
                Ok(Some(format!(
                    "{}: {}",
                    command::how_it_ended(status),
                    said.join("; ")
                )))
            }
            Self::Unit(service) => Ok(service.state()?.is_down().then(|| {
                format!(
                    "has ended: journalctl --unit={} says why",
                    command::quoted(service.name())
                )
            })),
        }
    }
}

/// Starts the server of a branch and waits until it answers: as a unit where `control` can, and otherwise as a
/// process that is left behind. Returns whether it is a unit.
///
/// # Errors
///
/// Fails when it ends before.
pub fn start(
    settings: &Settings,
    place: &Place,
    record: &Record,
    control: Option<&mut Control>,
) -> Result<bool> {
    // Whoever reaches the socket may do everything, and nobody but this user can. Over TCP everybody on
    // this machine can, so it takes the password that the role has.
    let mut hba = "local all all trust\n".to_owned();
    if record.tcp {
        hba.push_str(
            "host all all 127.0.0.1/32 scram-sha-256\nhost all all ::1/128 scram-sha-256\n",
        );
    }
    durable_file::replace(&place.hba(), hba.as_bytes())?;
    let mut arguments = vec!["-D".to_owned(), place.data().display().to_string()];
    for (name, value) in settings_of(place, record) {
        arguments.extend(["-c".to_owned(), format!("{name}={value}")]);
    }
    let postgres = settings.postgresql.bin_directory.join("postgres");
    let unit = BranchUnit {
        branch: record.name.clone(),
        directory: place.root.clone(),
        tcp: record.tcp,
        command: std::iter::once(postgres.display().to_string())
            .chain(arguments.iter().cloned())
            .collect(),
    };
    let is_unit = match control {
        Some(control) => control.start_branch(&unit)?,
        None => false,
    };
    let mut run = if is_unit {
        Run::Unit(Service::new(&BranchUnit::name(
            &settings.instance,
            &record.name,
        ))?)
    } else {
        let command = Server::new(&settings.postgresql)
            .programs()
            .command("postgres")
            .args(&arguments);
        Run::Own(command.start_with_log(&place.log())?)
    };
    while client(settings, place, record, "postgres").is_err() {
        if let Some(how) = run.has_ended(place)? {
            return Err(Hinted::new(
                format!("the server of the branch {how}"),
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
    Ok(is_unit)
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
