//! Asks what can be restored, and restores it: the program for a person.

mod archive_command;
mod find;
mod instance;
mod locate;
mod restore;
mod staging;
mod status;
mod windows;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use settings::{Problems, Settings};
use tool::{Level, Program};

use crate::instance::Instance;

const PROGRAM: Program = Program {
    complaint: "could not run backstay",
    failure: 1,
};

/// Where the NixOS module puts the settings of each instance.
const SETTINGS_DIRECTORY: &str = "/etc/backstay";

/// Bring a PostgreSQL instance back: see what can be restored, find the moment, restore it
#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show how an instance, its archive and its base backups are
    Status {
        #[command(flatten)]
        instance: InstanceArguments,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show from when to when a restore can reach, and what is missing
    Windows {
        #[command(flatten)]
        instance: InstanceArguments,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Find the transaction that dropped, emptied or changed a relation
    Find {
        #[command(flatten)]
        instance: InstanceArguments,
        #[command(flatten)]
        arguments: find::Arguments,
    },
    /// Restore an instance to a moment
    Restore {
        #[command(flatten)]
        instance: InstanceArguments,
        #[command(flatten)]
        arguments: restore::Arguments,
    },
    /// Look after the archive itself
    #[command(subcommand)]
    Archive(archive_command::Command),
    /// Check a settings file and report every problem
    CheckConfig {
        /// Settings file, JSON
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

/// Which instance.
#[derive(Debug, Args)]
struct InstanceArguments {
    /// Name of the instance
    #[arg(value_name = "INSTANCE")]
    instance: String,

    /// Settings file, JSON [default: /etc/backstay/INSTANCE.json]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl InstanceArguments {
    fn open(&self) -> Result<Instance> {
        Instance::open(&self.config(), self.settings()?)
    }

    /// The settings file, as an absolute path: PostgreSQL runs our commands in its own directory.
    fn config(&self) -> PathBuf {
        let config = self.config.clone().unwrap_or_else(|| {
            PathBuf::from(SETTINGS_DIRECTORY).join(format!("{}.json", self.instance))
        });
        std::path::absolute(&config).unwrap_or(config)
    }

    fn settings(&self) -> Result<Settings> {
        let config = self.config();
        let settings = tool::read_settings(&config)?;
        anyhow::ensure!(
            settings.instance == self.instance,
            "\"{}\" is for instance \"{}\", not \"{}\"",
            config.display(),
            settings.instance,
            self.instance
        );
        Ok(settings)
    }
}

fn main() -> ExitCode {
    tool::run(PROGRAM, |cli: Cli| {
        let (complaint, outcome) = match &cli.command {
            Command::Status { instance, json } => (
                "could not show the status",
                instance
                    .open()
                    .and_then(|instance| status::show(&instance, *json)),
            ),
            Command::Windows { instance, json } => (
                "could not show what can be restored",
                instance
                    .open()
                    .and_then(|instance| windows::show(&instance, *json)),
            ),
            Command::Find {
                instance,
                arguments,
            } => (
                "could not search the WAL",
                instance
                    .open()
                    .and_then(|instance| find::show(&instance, arguments)),
            ),
            Command::Restore {
                instance,
                arguments,
            } => (
                "could not restore the instance",
                instance
                    .open()
                    .and_then(|instance| restore::restore(&instance, arguments)),
            ),
            Command::Archive(command) => (
                "could not do this to the archive",
                archive_command::run(command),
            ),
            Command::CheckConfig { file } => return check_config(file),
        };
        Ok(match outcome {
            Ok(()) => ExitCode::SUCCESS,
            Err(err) => {
                tool::report(complaint, &err);
                PROGRAM.failure.into()
            }
        })
    })
}

/// Reports every problem on a line of its own.
fn check_config(file: &std::path::Path) -> Result<ExitCode> {
    let text = std::fs::read_to_string(file)
        .map_err(|err| anyhow::anyhow!("read \"{}\": {err}", file.display()))?;
    match Settings::parse(&text) {
        Ok(_) => Ok(ExitCode::SUCCESS),
        Err(Problems(problems)) => {
            for problem in &problems {
                tool::log(Level::Error, format_args!("{}: {problem}", file.display()));
            }
            Ok(PROGRAM.failure.into())
        }
    }
}
