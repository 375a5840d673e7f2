//! Checks an instance before its server starts, and makes its cluster when that is proven safe.
//!
//! systemd runs this as `ExecStartPre=` of `postgresql-<instance>.service`. Status 0 lets the server
//! start, any other keeps it from starting: half a restore, a directory that is not mounted or the
//! data of another instance must not be served, and an empty directory is not yet a reason to begin
//! from nothing.
//!
//! What is there is looked at ([`look`]), what to do about it is decided without touching anything
//! ([`decision`]), and then it is done.

mod configuration;
mod decision;
mod look;
mod new_cluster;
mod recovery;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow};
use archive::{Archive, Cluster};
use base_backups::Repository;
use clap::Parser;
use instance_state::{InstanceRecord, Reach};
use jiff::Timestamp;
use settings::Settings;
use tool::{Hinted, Level, Program};

use crate::decision::{ArchiveStep, BaseBackupStep};
use crate::look::Facts;

/// The server must not start.
const REFUSED: u8 = 1;

const PROGRAM: Program = Program {
    complaint: "could not prepare the start of the server",
    failure: REFUSED,
};

/// Check an instance before its server starts, and make its cluster when that is proven safe
#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    /// Settings file, JSON
    #[arg(long, value_name = "FILE")]
    config: PathBuf,

    /// Check the settings file, then exit
    #[arg(long)]
    check_config: bool,

    /// Show what would be done and change nothing
    #[arg(long)]
    plan: bool,
}

fn main() -> ExitCode {
    tool::run(PROGRAM, |cli: Cli| {
        let config = std::path::absolute(&cli.config)
            .with_context(|| format!("find \"{}\"", cli.config.display()))?;
        let settings = tool::read_settings(&config)?;
        if !cli.check_config {
            prepare(&config, &settings, cli.plan)?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// Looks, decides and does it.
fn prepare(config: &Path, settings: &Settings, plan_only: bool) -> Result<()> {
    look::check_user()?;
    data_directory::check_mounts(&settings.postgresql.required_mounts)?;
    data_directory::check_takes_changes(&settings.postgresql.data_directory)?;
    look::check_config_file(settings)?;
    if !plan_only {
        recovery::resume(config, settings)?;
    }
    let facts = Facts::gather(settings)?;
    let decision = decision::decide(settings, &facts)?;
    if plan_only {
        let mut text = decision.text(settings);
        if let Some(declared) = recovery::pending(settings)? {
            let _ = writeln!(
                text,
                "recover  it to {}, once, as recovery \"{}\"",
                declared.target, declared.id
            );
        }
        return tool::print(&text);
    }
    for warning in &decision.warnings {
        tool::log(Level::Warning, format_args!("{warning}"));
    }
    if decision.make_cluster {
        // Somebody else may have been at work since; nothing is begun on what was true a moment ago.
        let lock = new_cluster::lock(settings)?;
        let again = decision::decide(settings, &Facts::gather(settings)?)?;
        if again != decision {
            return Err(Hinted::new(
                "what there is changed while it was looked at",
                "find out what else works on this instance, and start the server again",
            )
            .into());
        }
        new_cluster::make(settings, facts.programs_major, &lock)?;
    } else {
        recovery::apply(config, settings)?;
    }
    let cluster = cluster_on_disk(settings)?;
    admit_wal(settings, decision.archive, &cluster)?;
    let marked = mark_base_backups(settings, decision.base_backups);
    if let Some(file) = &settings.postgresql.config_file {
        configuration::include(&settings.postgresql.data_directory, file)?;
    }
    remember(settings, marked, facts.record.as_ref(), &cluster)
}

/// The cluster that is in the data directory now.
fn cluster_on_disk(settings: &Settings) -> Result<Cluster> {
    let data = &settings.postgresql.data_directory;
    let control = archive::read_control_file(data)?;
    let segment_size = control.segment_size.ok_or_else(|| {
        anyhow!(
            "the control file in \"{}\" has an unfamiliar form",
            data.display()
        )
    })?;
    Ok(Cluster {
        system_identifier: control.system_identifier,
        segment_size_bytes: segment_size.bytes(),
        postgres_major: cluster::major_of(data)?,
        admitted_at: Timestamp::now().to_string(),
        because: "first cluster".into(),
    })
}

/// Sees to it that the cluster's WAL has a place.
fn admit_wal(settings: &Settings, step: ArchiveStep, cluster: &Cluster) -> Result<()> {
    let root = &settings.archive.directory;
    match step {
        ArchiveStep::Leave => return Ok(()),
        ArchiveStep::Init => {
            Archive::init(root, &settings.instance, cluster.clone())?;
        }
        ArchiveStep::Admit { replaces } => {
            let because = format!("replaces {replaces}, of which nothing was archived");
            Archive::open(root, &settings.instance)?.admit(
                Cluster {
                    because,
                    ..cluster.clone()
                },
                replaces,
            )?;
        }
    }
    tool::log(
        Level::Info,
        format_args!(
            "\"{}\" takes the WAL of system identifier {} now",
            root.display(),
            cluster.system_identifier
        ),
    );
    Ok(())
}

/// Sees to it that base backups have a place, and returns whether they have. A server can do without
/// one, so what fails here is said and no more.
fn mark_base_backups(settings: &Settings, step: BaseBackupStep) -> bool {
    match (step, &settings.base_backup) {
        (BaseBackupStep::Leave { marked }, _) => marked,
        (BaseBackupStep::Init, None) => false,
        (BaseBackupStep::Init, Some(declared)) => {
            match Repository::init(&declared.directory, &settings.instance) {
                Ok(_) => true,
                Err(err) => {
                    tool::log(
                        Level::Warning,
                        format_args!(
                            "could not make \"{}\" the directory of the base backups: {err:#}",
                            declared.directory.display()
                        ),
                    );
                    false
                }
            }
        }
    }
}

/// How far the archived WAL of `cluster` reaches. Where there is no archive, nothing is known of that.
fn archived(settings: &Settings, cluster: &Cluster) -> Result<Option<Reach>> {
    let root = &settings.archive.directory;
    if !Archive::is_at(root)? {
        return Ok(None);
    }
    let archive = Archive::open(root, &settings.instance)?;
    let newest = archive.list(cluster)?.segments().max();
    let size = cluster.segment_size()?;
    Ok(newest.map(|name| Reach {
        timeline: name.timeline(),
        lsn: name.end(size),
    }))
}

/// Writes down what is in place now, where nothing that a restore replaces can take it away.
fn remember(
    settings: &Settings,
    base_backups_are_marked: bool,
    known: Option<&InstanceRecord>,
    cluster: &Cluster,
) -> Result<()> {
    let of_this_cluster =
        known.filter(|known| known.system_identifier == cluster.system_identifier);
    let record = InstanceRecord {
        format: InstanceRecord::FORMAT,
        system_identifier: cluster.system_identifier,
        postgres_major: cluster.postgres_major,
        data_directory: settings.postgresql.data_directory.clone(),
        archive_directory: settings.archive.directory.clone(),
        base_backup_directory: settings
            .base_backup
            .as_ref()
            .filter(|_| base_backups_are_marked)
            .map(|declared| declared.directory.clone())
            // One that was there and is out of sight is not forgotten.
            .or_else(|| of_this_cluster.and_then(|known| known.base_backup_directory.clone())),
        since: of_this_cluster
            .map_or_else(|| Timestamp::now().to_string(), |known| known.since.clone()),
        archived: archived(settings, cluster)?
            .max(of_this_cluster.and_then(|known| known.archived)),
    };
    if known != Some(&record) {
        record.write(&settings.state_directory())?;
    }
    // The server can do without them; where they belong may be missing.
    if let Err(err) = record.write_copies() {
        tool::log(
            Level::Warning,
            format_args!("could not copy the record of the instance: {err:#}"),
        );
    }
    Ok(())
}
