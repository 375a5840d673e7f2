//! Notes what a replica of the instance's datasets holds, by asking it.
//!
//! That a transfer succeeded says nothing about what is at the other end a week later, and the health check, which
//! runs every minute, cannot ask over the network. So after each transfer, whatever became of it, the target is
//! asked for its newest snapshot. A target that does not answer leaves the note of the last time, whose age
//! grows.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser;
use instance_state::{ReplicaRecord, ReplicaSnapshot};
use jiff::Timestamp;
use replica::Replica;
use settings::ReplicaContent;
use tool::{Hinted, Level, Program};

const PROGRAM: Program = Program {
    complaint: "could not note what the replica holds",
    failure: 1,
};

/// Ask a replica of the instance's datasets for its newest snapshot, and note it
#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    /// Settings file, JSON
    #[arg(long, value_name = "FILE")]
    config: PathBuf,

    /// Check the settings file, then exit
    #[arg(long)]
    check_config: bool,

    /// What the replica is of: data or wal
    #[arg(long, value_name = "CONTENT", value_parser = parse_content, required_unless_present = "check_config")]
    content: Option<ReplicaContent>,
}

fn parse_content(text: &str) -> Result<ReplicaContent, String> {
    serde_json::from_value(text.into()).map_err(|err| err.to_string())
}

fn main() -> ExitCode {
    tool::run(PROGRAM, |cli: Cli| {
        let settings = tool::read_settings(&cli.config)?;
        let (false, Some(content)) = (cli.check_config, cli.content) else {
            return Ok(ExitCode::SUCCESS);
        };
        let declared = settings
            .snapshots
            .as_ref()
            .and_then(|snapshots| snapshots.replicas.iter().find(|it| it.content == content))
            .ok_or_else(|| {
                Hinted::new(
                    format!("no replica of \"{}\" is declared", content.name()),
                    "the settings list them in snapshots.replicas",
                )
            })?;
        let replica = Replica::new(declared.ssh.as_ref(), &declared.dataset)?;
        // First: what comes while the target answers need not be in the answer.
        let asked_at = Timestamp::now();
        let snapshots = replica.snapshots()?;
        let newest = snapshots
            .iter()
            .flatten()
            .max_by_key(|snapshot| snapshot.created)
            .map(|snapshot| -> Result<ReplicaSnapshot> {
                Ok(ReplicaSnapshot {
                    name: snapshot.name.clone(),
                    created_at: Timestamp::from_second(snapshot.created)
                        .context("read when the newest snapshot was taken")?,
                })
            })
            .transpose()?;
        match &newest {
            Some(newest) => tool::log(
                Level::Info,
                format_args!(
                    "\"{}\" holds snapshots up to \"{}\" of {}",
                    declared.dataset, newest.name, newest.created_at
                ),
            ),
            None => tool::log(
                Level::Warning,
                format_args!(
                    "\"{}\" {}",
                    declared.dataset,
                    if snapshots.is_some() {
                        "holds no snapshot"
                    } else {
                        "does not exist"
                    }
                ),
            ),
        }
        ReplicaRecord {
            format: ReplicaRecord::FORMAT,
            asked_at,
            dataset: declared.dataset.clone(),
            newest,
        }
        .write(&settings.state_directory(), content)?;
        Ok(ExitCode::SUCCESS)
    })
}
