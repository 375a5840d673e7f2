//! Brings roles and databases to their declared state.
//!
//! What is declared is compared with what the catalogs hold, and the difference is carried out: nothing
//! is written where there is none. What is no longer declared is revoked, and nothing that holds data is
//! ever dropped. Each database is changed in a transaction of its own; one that fails does not
//! stop the others.

mod catalog;
mod change;
mod files;
mod metrics;
mod parameters;
mod plan;
mod provision;
mod record;
mod rights;
mod scram;
mod scripts;
mod secret;
mod session;
mod state;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use settings::Settings;
use tool::{Level, Program};

use crate::provision::{Outcome, Provision};

const PROGRAM: Program = Program {
    complaint: "could not provision databases",
    failure: 2,
};

/// With `--check`: something is not as it is declared.
const DRIFT: u8 = 1;

/// Bring roles and databases to their declared state
#[derive(Debug, Parser)]
#[command(version, about)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of the command line"
)]
struct Cli {
    /// Settings file, JSON
    #[arg(long, value_name = "FILE")]
    config: PathBuf,

    /// Check the settings file, then exit
    #[arg(long)]
    check_config: bool,

    /// Show what would be done, and change nothing
    #[arg(long)]
    plan: bool,

    /// As --plan, and exit with status 1 if anything would be done
    #[arg(long)]
    check: bool,

    /// Print the plan as JSON
    #[arg(long)]
    json: bool,

    /// Only say whether this database has been brought to what is declared of it now
    #[arg(long, value_name = "DATABASE", conflicts_with_all = ["plan", "check", "json"])]
    ready: Option<String>,
}

fn main() -> ExitCode {
    tool::run(PROGRAM, |cli: Cli| {
        let settings = tool::read_settings(&cli.config)?;
        if cli.check_config {
            return Ok(ExitCode::SUCCESS);
        }
        run(&settings, &cli)
    })
}

fn run(settings: &Settings, cli: &Cli) -> Result<ExitCode> {
    let only_looks = cli.plan || cli.check || cli.json || cli.ready.is_some();
    let provision = Provision::new(settings, only_looks)?;
    if !only_looks {
        return bring_about(settings, &provision);
    }
    let Some(mut client) = provision.connect()? else {
        return Ok(of_a_standby());
    };
    if let Some(name) = &cli.ready {
        provision.expect_ready(&mut client, name)?;
        return Ok(ExitCode::SUCCESS);
    }
    let plan = provision.plan(&mut client)?;
    if cli.json {
        tool::print(&(serde_json::to_string_pretty(&plan)? + "\n"))?;
    } else {
        tool::print(&plan.text())?;
    }
    Ok(if cli.check && !plan.is_empty() {
        DRIFT.into()
    } else {
        ExitCode::SUCCESS
    })
}

fn of_a_standby() -> ExitCode {
    tool::log(
        Level::Info,
        format_args!("the server is a standby; its databases come from elsewhere"),
    );
    ExitCode::SUCCESS
}

/// Carries out what has to be done, and leaves stamp and metrics.
fn bring_about(settings: &Settings, provision: &Provision<'_>) -> Result<ExitCode> {
    let stamp = provision.stamp();
    let done = match provision.connect() {
        Ok(None) => return Ok(of_a_standby()),
        Ok(Some(mut client)) => provision.apply(&mut client),
        Err(err) => Err(err),
    };
    let outcome = match done {
        Ok(outcome) => outcome,
        Err(err) => {
            metrics::write(settings, stamp, &provision.nothing_done());
            return Err(err);
        }
    };
    leave_stamp(stamp, &outcome)?;
    metrics::write(settings, stamp, &outcome);
    ensure!(
        outcome.failed.is_empty(),
        "{}; everything else is as it is declared",
        outcome.failed.join(", ")
    );
    Ok(ExitCode::SUCCESS)
}

/// Leaves the hash of everything that was brought about. The time of the file says when that was
/// found to hold last.
fn leave_stamp(stamp: &Path, outcome: &Outcome) -> Result<()> {
    let Some(hash) = &outcome.hash else {
        return Ok(());
    };
    let text = format!("{hash}\n");
    let write = || format!("write stamp \"{}\"", stamp.display());
    if std::fs::read(stamp).is_ok_and(|old| old == text.as_bytes()) {
        tool::log(Level::Info, format_args!("everything is as it is declared"));
        return std::fs::File::options()
            .write(true)
            .open(stamp)
            .and_then(|file| file.set_modified(SystemTime::now()))
            .with_context(write);
    }
    durable_file::replace(stamp, text.as_bytes()).with_context(write)
}
