//! Writes a row into the instance every few seconds, by which restore drills are judged.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use cluster::Server;
use tool::{Hinted, Program};

const PROGRAM: Program = Program {
    complaint: "could not write the canary",
    failure: 1,
};

/// Write the canary row of an instance again and again
#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    /// Settings file, JSON
    #[arg(long, value_name = "FILE")]
    config: PathBuf,

    /// Check the settings file, then exit
    #[arg(long)]
    check_config: bool,

    /// Write one row, then exit
    #[arg(long)]
    once: bool,
}

fn main() -> ExitCode {
    tool::run(PROGRAM, |cli: Cli| {
        let settings = tool::read_settings(&cli.config)?;
        if cli.check_config {
            return Ok(ExitCode::SUCCESS);
        }
        let canary = settings
            .drill
            .as_ref()
            .and_then(|drill| drill.canary.as_ref())
            .ok_or_else(|| {
                Hinted::new(
                    "the settings declare no canary",
                    "set drill.canary, to {} for example",
                )
            })?;
        let server = Server::new(&settings.postgresql);
        let mut client = canary::open(&server, canary)?;
        let interval = Duration::from_secs(canary.interval_seconds.into());
        loop {
            let begin = Instant::now();
            canary::write(&mut client, canary)?;
            if cli.once {
                return Ok(ExitCode::SUCCESS);
            }
            std::thread::sleep(interval.saturating_sub(begin.elapsed()));
        }
    })
}
