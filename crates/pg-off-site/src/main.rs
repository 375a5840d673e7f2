//! Notes what a copy off-site holds: before the copy what there is to copy, after it that it was made.
//!
//! Asking a repository what it holds takes seconds and a network, and the health check runs every
//! minute. So the unit that copies says it: a file that was there when the copy began is in it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use archive::Archive;
use base_backups::Repository;
use clap::Parser;
use instance_state::{OffSiteHoldings, OffSiteRecord};
use jiff::Timestamp;
use settings::{ResticContent, Settings};
use tool::{Hinted, Program};
use wal::SegmentName;

const PROGRAM: Program = Program {
    complaint: "could not note what the copy off-site holds",
    failure: 1,
};

/// Note what a copy off-site holds
#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    /// Settings file, JSON
    #[arg(long, value_name = "FILE")]
    config: PathBuf,

    /// Check the settings file, then exit
    #[arg(long)]
    check_config: bool,

    /// Name of the restic repository, as the settings have it
    #[arg(long, value_name = "NAME", required_unless_present = "check_config")]
    repository: Option<String>,

    /// What is copied: wal or base
    #[arg(long, value_name = "CONTENT", value_parser = parse_content, required_unless_present = "check_config")]
    content: Option<ResticContent>,

    /// The copy is about to begin
    #[arg(long, conflicts_with = "end", required_unless_present_any = ["end", "check_config"])]
    begin: bool,

    /// The copy has been made
    #[arg(long)]
    end: bool,
}

fn parse_content(text: &str) -> Result<ResticContent, String> {
    serde_json::from_value(text.into()).map_err(|err| err.to_string())
}

fn main() -> ExitCode {
    tool::run(PROGRAM, |cli: Cli| {
        let settings = tool::read_settings(&cli.config)?;
        let (false, Some(repository), Some(content)) =
            (cli.check_config, &cli.repository, cli.content)
        else {
            return Ok(ExitCode::SUCCESS);
        };
        let is_declared = settings.restic.iter().any(|declared| {
            declared.name == *repository && declared.jobs.iter().any(|job| job.job == content)
        });
        if !is_declared {
            return Err(Hinted::new(
                format!("no such copy into the repository \"{repository}\" is declared"),
                "the settings list the repositories and their jobs in restic",
            )
            .into());
        }
        let state = settings.state_directory();
        if cli.end {
            end(&state, repository, content)?;
        } else {
            begin(&settings, &state, repository, content)?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// Notes what there is to copy.
fn begin(
    settings: &Settings,
    state: &Path,
    repository: &str,
    content: ResticContent,
) -> Result<()> {
    // First: what comes while this looks need not be in the copy.
    let began_at = Timestamp::now();
    let holds = match content {
        ResticContent::Wal => archived(settings)?,
        ResticContent::Base => backed_up(settings)?,
    };
    OffSiteRecord {
        format: OffSiteRecord::FORMAT,
        began_at,
        finished_at: None,
        holds,
    }
    .write(state, repository)
}

fn archived(settings: &Settings) -> Result<OffSiteHoldings> {
    let archive = Archive::open(&settings.archive.directory, &settings.instance)?;
    let cluster = archive.newest_cluster()?;
    let size = cluster.segment_size()?;
    let listing = archive.list(cluster)?;
    let newest = listing
        .segments()
        .max_by_key(|segment| (segment.timeline(), segment.end(size)));
    Ok(OffSiteHoldings::Wal {
        system_identifier: cluster.system_identifier,
        timeline: newest.map(SegmentName::timeline),
        end: newest.map(|segment| segment.end(size)),
    })
}

fn backed_up(settings: &Settings) -> Result<OffSiteHoldings> {
    let declared = settings.base_backup.as_ref().ok_or_else(|| {
        Hinted::new(
            "the settings declare no base backups",
            "set baseBackup.directory",
        )
    })?;
    let records = Repository::open(&declared.directory, &settings.instance)?.list()?;
    let newest = records.last();
    Ok(OffSiteHoldings::Base {
        newest: newest.map(|record| record.name.clone()),
        newest_stopped_at: newest.map(|record| record.stopped_at),
    })
}

/// Notes that what was noted last has been copied.
///
/// Should this copy have begun without a note, it is the note of an earlier one: what was there then is
/// in this copy too.
fn end(state: &Path, repository: &str, content: ResticContent) -> Result<()> {
    let begun = OffSiteRecord::read_begun(state, repository, content)?
        .context("nobody has noted when the copy began")?;
    OffSiteRecord {
        finished_at: Some(Timestamp::now()),
        ..begun
    }
    .write(state, repository)
}
