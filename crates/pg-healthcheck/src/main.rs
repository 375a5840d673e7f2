//! Looks at an instance and says what is wrong with it, one line each, with what to do.
//!
//! What is looked at, and what counts as ill, is in the crate `health`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use health::Severity;
use settings::Settings;
use tool::Program;

/// Usage errors, unusable settings and panics say nothing about the instance: 3, cannot say.
const PROGRAM: Program = Program {
    complaint: "could not check the instance",
    failure: 3,
};

/// A disk that does not answer would hold the check for ever.
const DEADLINE: Duration = Duration::from_mins(4);

/// Check whether an instance is up, archiving, and within its objectives
///
/// Exit status: 0 nothing is wrong, 1 look this week, 2 look now, 3 it could not be said.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    /// Settings file, JSON
    #[arg(long, value_name = "FILE")]
    config: PathBuf,

    /// Check the settings file, then exit
    #[arg(long)]
    check_config: bool,

    /// Print what was found as JSON
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    tool::run(PROGRAM, |cli: Cli| {
        let settings = tool::read_settings(&cli.config)?;
        if cli.check_config {
            return Ok(ExitCode::SUCCESS);
        }
        tool::end_after(DEADLINE, PROGRAM);
        Ok(check(&settings, cli.json)?.status().into())
    })
}

fn check(settings: &Settings, json: bool) -> Result<Severity> {
    let checkup = health::check(settings);
    let metrics = settings.metrics.as_ref().map(|m| m.directory.as_path());
    checkup.metrics(settings).write_or_warn(metrics);
    tool::print(&if json {
        checkup.json(settings)?
    } else {
        checkup.text(settings)
    })?;
    Ok(checkup.verdict.severity())
}
