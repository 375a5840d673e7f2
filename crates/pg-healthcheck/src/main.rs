//! Looks at an instance and says what is wrong with it, one line each, with what to do.
//!
//! [`look`] sees, [`judge`] decides, and nothing between them does both: what counts as ill is a pure
//! function of what was seen, what was declared and what the last day looked like.

mod finding;
mod history;
mod judge;
mod look;
mod report;
mod seen;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use settings::Settings;
use tool::{Level, Program};

use crate::finding::Verdict;
use crate::history::History;

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
        let verdict = check(&settings, cli.json)?;
        Ok(verdict.severity().status().into())
    })
}

fn check(settings: &Settings, json: bool) -> Result<Verdict> {
    let state = settings.state_directory();
    let mut history = History::read(&state).unwrap_or_else(|err| {
        tool::report("could not read what earlier checks saw", &err);
        History::default()
    });
    let seen = look::at(settings);
    history.add(&seen);
    let (verdict, measured) = judge::judge(&seen, settings, &history);
    // Without it the next check knows less; what this one found stands.
    if let Err(err) = history.write(&state) {
        tool::log(
            Level::Warning,
            format_args!("could not remember what this check saw: {err:#}"),
        );
    }
    let metrics = settings.metrics.as_ref().map(|m| m.directory.as_path());
    report::metrics(settings, &seen, &verdict, &measured).write_or_warn(metrics);
    tool::print(&if json {
        report::json(settings, &seen, &verdict, &measured)?
    } else {
        report::text(settings, &verdict)
    })?;
    Ok(verdict)
}
