//! Fills an empty data directory from a copy, before the server starts for the first time.
//!
//! systemd runs this before `postgresql-<instance>.service`, which requires it: status 0 lets the server
//! start, any other keeps it down. A directory that holds a cluster is left alone without a write.
//!
//! What there is is looked at ([`situation`]). Each source is asked what it has ([`source`]), and has it, has
//! nothing, or cannot say; only the proof of nothing by all of them lets the server begin anew. Which one is
//! taken is decided without touching anything ([`choice`]). The restore itself is `backstay restore`, run as a
//! person would run it ([`fill`]), and every step is written down before it is begun.

mod choice;
mod fill;
mod finish;
mod metrics;
mod plan;
mod situation;
mod source;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use tool::{Hinted, Program};

const PROGRAM: Program = Program {
    complaint: "could not fill the data directory",
    failure: 1,
};

/// Fill an empty data directory from a copy before the server starts for the first time
#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    /// Settings file, JSON
    #[arg(long, value_name = "FILE")]
    config: PathBuf,

    /// Check the settings file, then exit
    #[arg(long)]
    check_config: bool,

    /// Ask every source, show what would be done and change nothing
    #[arg(long)]
    plan: bool,

    /// Print the plan as JSON
    #[arg(long, requires = "plan")]
    json: bool,
}

fn main() -> ExitCode {
    tool::run(PROGRAM, |cli: Cli| {
        let config = std::path::absolute(&cli.config)
            .with_context(|| format!("find \"{}\"", cli.config.display()))?;
        let settings = tool::read_settings(&config)?;
        if cli.check_config {
            return Ok(ExitCode::SUCCESS);
        }
        let preseed = settings.preseed.as_ref().ok_or_else(|| {
            Hinted::new(
                "the settings declare no preseed",
                "declare the section preseed with its sources",
            )
        })?;
        // Passwords are read by whoever may; then nothing is done as root.
        let sources = source::open(&config, &settings, preseed);
        data_directory::become_owner(&settings.postgresql.data_directory)?;
        if cli.plan {
            plan::show(&settings, preseed, &sources, cli.json)?;
        } else {
            fill::run(&config, &settings, preseed, &sources)?;
        }
        Ok(ExitCode::SUCCESS)
    })
}
