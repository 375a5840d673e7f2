//! Asks what can be restored, and restores it: the program for a person.

mod archive_command;
mod branch;
mod check_config;
mod control;
mod copied;
mod extract;
mod find;
mod instance;
mod locate;
mod notify;
mod off_site;
mod report;
mod restore;
mod staging;
mod status;
mod verify;
mod windows;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use settings::Settings;
use tool::Program;

use crate::control::Control;
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
    /// Show whether all is well, what can be restored, and what to type if something is wrong
    Status(status::Arguments),
    /// Write a page about every instance: what can be restored, drawn on a time line
    Report(report::Arguments),
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
    /// Fill an empty data directory from the declared sources, as is done before the first start
    Preseed {
        #[command(flatten)]
        instance: InstanceArguments,
        /// Ask every source, show what would be done and change nothing
        #[arg(long)]
        plan: bool,
        /// Print the plan as JSON
        #[arg(long, requires = "plan")]
        json: bool,
    },
    /// Have a cluster as it was at a moment, running beside the instance
    #[command(subcommand)]
    Branch(BranchCommand),
    /// Get a database or some of its tables as they were at a moment, as a file for `pg_restore`
    Extract {
        #[command(flatten)]
        instance: InstanceArguments,
        #[command(flatten)]
        arguments: extract::Arguments,
    },
    /// Get what a restore needs out of a restic repository, without restoring it
    Fetch {
        #[command(flatten)]
        instance: InstanceArguments,
        #[command(flatten)]
        arguments: off_site::Arguments,
    },
    /// Compare every archived file and base backup with what was recorded of it, and name gaps
    Verify {
        #[command(flatten)]
        instance: InstanceArguments,
        #[command(flatten)]
        arguments: verify::Arguments,
    },
    /// Look after the archive itself
    #[command(subcommand)]
    Archive(archive_command::Command),
    /// Tell people that a unit failed or works again
    Notify(notify::Arguments),
    /// Check a settings file and report every problem
    CheckConfig(check_config::Arguments),
    /// Stop and start the server's unit and hold snapshots for a restore that is not root
    #[command(hide = true)]
    Control {
        #[command(flatten)]
        instance: InstanceArguments,
    },
}

#[derive(Debug, Subcommand)]
enum BranchCommand {
    /// Make one and start its server
    Create {
        #[command(flatten)]
        instance: InstanceArguments,
        #[command(flatten)]
        arguments: branch::CreateArguments,
    },
    /// List those that there are
    List {
        #[command(flatten)]
        instance: InstanceArguments,
        #[command(flatten)]
        arguments: branch::ListArguments,
    },
    /// Stop one and remove it
    Destroy {
        #[command(flatten)]
        instance: InstanceArguments,
        #[command(flatten)]
        arguments: branch::DestroyArguments,
    },
}

/// Which instance.
#[derive(Debug, Args)]
struct InstanceArguments {
    /// Name of the instance
    #[arg(value_name = "INSTANCE")]
    instance: String,

    /// Settings file, JSON [default: /etc/backstay/INSTANCE.json]
    #[arg(long, value_name = "FILE", value_parser = absolute)]
    config: Option<PathBuf>,
}

/// Makes a path of the command line absolute: PostgreSQL runs our commands in its own directory, and
/// root's is left.
fn absolute(path: &str) -> std::io::Result<PathBuf> {
    std::path::absolute(path)
}

impl InstanceArguments {
    /// Opens the instance, as its owner if this is root.
    fn open(&self) -> Result<Instance> {
        Instance::open(&self.config(), self.settings_for_owner()?)
    }

    /// Opens the instance as [`InstanceArguments::open`] does, for a command that may read a snapshot.
    fn open_for_reading(&self) -> Result<Instance> {
        let settings = self.settings()?;
        let holds = control::holds(&settings, &self.config())?;
        data_directory::become_owner(&settings.postgresql.data_directory)?;
        let mut instance = Instance::open(&self.config(), settings)?;
        instance.holds = holds;
        Ok(instance)
    }

    /// The settings file.
    fn config(&self) -> PathBuf {
        self.config.clone().unwrap_or_else(|| {
            PathBuf::from(SETTINGS_DIRECTORY).join(format!("{}.json", self.instance))
        })
    }

    /// The settings. Root becomes the owner of the instance, who does everything else.
    fn settings_for_owner(&self) -> Result<Settings> {
        let settings = self.settings()?;
        data_directory::become_owner(&settings.postgresql.data_directory)?;
        Ok(settings)
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
            Command::Status(arguments) => ("could not show the status", status::show(arguments)),
            Command::Report(arguments) => ("could not write the report", report::run(arguments)),
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
                restore(instance, arguments),
            ),
            Command::Preseed {
                instance,
                plan,
                json,
            } => (
                "could not fill the data directory",
                preseed(instance, *plan, *json),
            ),
            Command::Branch(command) => branch(command),
            Command::Extract {
                instance,
                arguments,
            } => ("could not extract", extract(instance, arguments)),
            Command::Fetch {
                instance,
                arguments,
            } => ("could not fetch from off-site", fetch(instance, arguments)),
            Command::Verify {
                instance,
                arguments,
            } => {
                let verdict = instance
                    .open()
                    .and_then(|instance| verify::verify(&instance, arguments));
                match verdict {
                    Ok(status) => return Ok(status),
                    Err(err) => ("could not verify the archive", Err(err)),
                }
            }
            Command::Archive(command) => (
                "could not do this to the archive",
                archive_command::run(command),
            ),
            Command::Notify(arguments) => ("could not tell everybody", notify::run(arguments)),
            Command::CheckConfig(arguments) => return check_config::run(arguments),
            Command::Control { instance } => (
                "could not control the server",
                instance
                    .settings()
                    .and_then(|settings| control::serve(&settings)),
            ),
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

/// Extracts.
fn extract(instance: &InstanceArguments, arguments: &extract::Arguments) -> Result<()> {
    extract::extract(&instance.open_for_reading()?, arguments)
}

/// Does something about branches; returns what could not be done otherwise, and whether it was done.
fn branch(command: &BranchCommand) -> (&'static str, Result<()>) {
    match command {
        BranchCommand::Create {
            instance,
            arguments,
        } => (
            "could not make the branch",
            create_branch(instance, arguments),
        ),
        BranchCommand::List {
            instance,
            arguments,
        } => (
            "could not list the branches",
            instance
                .settings_for_owner()
                .and_then(|settings| branch::list(&settings, arguments)),
        ),
        BranchCommand::Destroy {
            instance,
            arguments,
        } => (
            "could not destroy the branch",
            instance
                .settings_for_owner()
                .and_then(|settings| branch::destroy(&settings, arguments)),
        ),
    }
}

/// Makes a branch, with root's help where systemd is to run its server.
fn create_branch(instance: &InstanceArguments, arguments: &branch::CreateArguments) -> Result<()> {
    let mut control = Control::for_branches(&instance.settings()?, &instance.config())?;
    branch::create(&instance.open_for_reading()?, &mut control, arguments)
}

/// Restores, with root's help where systemd runs the server.
fn restore(instance: &InstanceArguments, arguments: &restore::Arguments) -> Result<()> {
    let settings = instance.settings()?;
    let config = instance.config();
    let mut control = Control::new(&settings, &config, arguments.controls_the_server())?;
    let Some(from) = arguments.off_site() else {
        let holds = if arguments.changes_something() {
            control::holds(&settings, &config)?
        } else {
            None
        };
        data_directory::become_owner(&settings.postgresql.data_directory)?;
        let mut instance = Instance::open(&config, settings)?;
        instance.holds = holds;
        return restore::restore(&instance, &mut control, arguments);
    };
    let repositories = off_site::open(&settings, from)?;
    data_directory::become_owner(&settings.postgresql.data_directory)?;
    let destination = arguments.destination(&settings.postgresql.data_directory);
    let directory = durable_file::with_suffix(destination, ".backstay-off-site");
    let fetched =
        off_site::fetch_from_first(&settings, &repositories, arguments.target(), &directory)?;
    let restored = tool::read_settings(&fetched)
        .and_then(|settings| Instance::open(&fetched, settings))
        .and_then(|mut instance| {
            instance.declared_config = config;
            restore::restore(&instance, &mut control, arguments)
        });
    let cleared = off_site::clear(&directory);
    restored?;
    cleared
}

/// Runs `pg-preseed`, which does this before the first start, in the place of this process.
fn preseed(instance: &InstanceArguments, plan: bool, json: bool) -> Result<()> {
    let mut arguments = vec!["--config".into(), instance.config().into_os_string()];
    let flags = [("--plan", plan), ("--json", json)];
    arguments.extend(
        flags
            .into_iter()
            .filter(|(_, is_wanted)| *is_wanted)
            .map(|(flag, _)| flag.into()),
    );
    let program = command::sibling("pg-preseed")?;
    match ::command::replace_process(&program, &arguments)? {}
}

/// Fetches, with passwords that root has read.
fn fetch(instance: &InstanceArguments, arguments: &off_site::Arguments) -> Result<()> {
    let settings = instance.settings()?;
    let repositories = off_site::open(&settings, arguments.from())?;
    data_directory::become_owner(&settings.postgresql.data_directory)?;
    off_site::fetch(&settings, arguments, &repositories)
}
