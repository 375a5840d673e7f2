//! Rehearses a restore: into a scratch cluster, to a random moment, with a look at what came back.
//!
//! Two processes do it. One makes the attempt. The other waits for it, at most until the deadline,
//! then stops whatever server is left, removes the copy, and writes the record and the metrics: however
//! the attempt ended, by a panic or by a signal too.
//!
//! The restore itself is `backstay restore --into`, run as a person would run it. So its command line and
//! its messages are rehearsed as well, and a restore that dies takes nothing of the drill with it.
//! Its settings are those of the instance without the server: what is not in the archive and in the
//! base backups is not there, as on a new machine.

mod accuracy;
mod attempt;
mod examine;
mod failed;
mod metrics;
mod moment;
mod scratch;
mod server;
mod snapshot;
mod supervise;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser;
use nix::sys::signal::{SigSet, Signal};
use settings::DrillSource;
use tool::{Hinted, Program};

const PROGRAM: Program = Program {
    complaint: "the restore drill failed",
    failure: 1,
};

/// Rehearse a restore and check what came back
#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    /// Settings file, JSON
    #[arg(long, value_name = "FILE")]
    config: PathBuf,

    /// Check the settings file, then exit
    #[arg(long)]
    check_config: bool,

    /// Make the attempt and write what it came to into FILE; started by an ordinary call
    #[arg(long, hide = true, value_name = "FILE", requires = "source")]
    attempt: Option<PathBuf>,

    /// What the attempt restores from
    #[arg(long, hide = true, value_name = "SOURCE", value_parser = parse_source)]
    source: Option<DrillSource>,
}

fn parse_source(text: &str) -> Result<DrillSource, String> {
    serde_json::from_value(text.into()).map_err(|err| err.to_string())
}

fn main() -> ExitCode {
    // The attempt is started by a process that blocks signals, and has inherited that.
    let unblocked = SigSet::all().thread_unblock();
    tool::run(PROGRAM, |cli: Cli| {
        unblocked.context("receive signals")?;
        let config = std::path::absolute(&cli.config)
            .with_context(|| format!("find \"{}\"", cli.config.display()))?;
        let settings = tool::read_settings(&config)?;
        if cli.check_config {
            return Ok(ExitCode::SUCCESS);
        }
        let drill = settings.drill.clone().ok_or_else(|| {
            Hinted::new(
                "the settings declare no restore drills",
                "set drill.directory",
            )
        })?;
        if let (Some(outcome), Some(source)) = (&cli.attempt, cli.source) {
            // Without the process that waits, nobody would clean up after this one.
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).context("be ended with the drill")?;
            attempt::make(&config, &settings, &drill, source, outcome)?;
            return Ok(ExitCode::SUCCESS);
        }
        Ok(if supervise::drill(&config, &settings, &drill)? {
            ExitCode::SUCCESS
        } else {
            PROGRAM.failure.into()
        })
    })
}
