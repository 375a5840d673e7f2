//! Fills an empty data directory from a copy, before the server starts for the first time.
//!
//! systemd runs this before `postgresql-<instance>.service`, which requires it: status 0 lets the server
//! start, any other keeps it down. A directory that holds a cluster is left alone without a write.
//!
//! What there is is looked at ([`situation`]). Each source is asked what it has ([`source`]), and has it, has
//! nothing, or cannot say; only the proof of nothing by all of them lets the server begin anew. Which one is
//! taken is decided without touching anything ([`choice`]). The restore itself is `backstay restore`, run as a
//! person would run it ([`fill`]), and every step is written down before it is begun.
//!
//! What another machine has as a replica is received before that ([`receive`]), and gets its place from root
//! ([`take_over`]); both are runs of their own.

mod choice;
mod fill;
mod finish;
mod metrics;
mod plan;
mod receive;
mod received;
mod replica;
mod situation;
mod source;
mod take_over;

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

    /// Ask every source, show what would be done and change nothing
    #[arg(long)]
    plan: bool,

    /// Print the plan as JSON
    #[arg(long, requires = "plan")]
    json: bool,

    /// As root: make the places that a replica of another machine is received into, and let this user do that
    #[arg(long, value_name = "USER", conflicts_with_all = ["plan", "receive", "take_over"])]
    let_receive: Option<String>,

    /// Receive the replica of another machine, beside the declared datasets
    #[arg(long, conflicts_with_all = ["plan", "take_over"])]
    receive: bool,

    /// As root: give what was received the declared names, and mount it as this file, JSON, declares
    #[arg(long, value_name = "DATASETS", conflicts_with = "plan")]
    take_over: Option<PathBuf>,
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
        if let Some(user) = &cli.let_receive {
            take_over::let_receive(&settings, preseed, user)?;
            return Ok(ExitCode::SUCCESS);
        }
        if let Some(datasets) = &cli.take_over {
            take_over::run(&settings, preseed, datasets)?;
            return Ok(ExitCode::SUCCESS);
        }
        if cli.receive {
            data_directory::become_owner(&settings.postgresql.data_directory)?;
            receive::run(&settings, preseed)?;
            return Ok(ExitCode::SUCCESS);
        }
        // Passwords are read by whoever may; then nothing is done as root.
        let sources = source::open(&config, &settings, preseed, cli.plan);
        data_directory::become_owner(&settings.postgresql.data_directory)?;
        if cli.plan {
            plan::show(&settings, preseed, &sources, cli.json)?;
        } else {
            fill::run(&config, &settings, preseed, &sources)?;
        }
        Ok(ExitCode::SUCCESS)
    })
}
