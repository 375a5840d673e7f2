//! Removes base backups and WAL that no kept restore point needs.
//!
//! What goes is decided by the `retention` crate alone; this program looks at what there is, takes
//! the locks and carries the plan out: base backups first, so that no backup is ever left without
//! its WAL. Killed anywhere, the next run goes on.
//!
//! Snapshots are another matter: those that our own programs took are destroyed by `--snapshots`, which takes
//! rights over a dataset that nothing else here needs. All others are their owners'.

mod own_snapshots;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use archive::Archive;
use base_backups::manifest::{self, Manifest};
use base_backups::{Record, Repository};
use clap::Parser;
use cluster_copy::snapshots;
use jiff::Timestamp;
use retention::{Backup, Inventory, Plan, Policy, Snapshot};
use settings::Settings;
use textfile::{File, Writer, table};
use tool::{Hinted, Level, Program};
use wal::SegmentSize;

const PROGRAM: Program = Program {
    complaint: "could not prune",
    failure: 1,
};

/// Remove base backups and WAL that no kept restore point needs
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

    /// In place of all that, destroy the snapshots of `pg-base-backup --method snapshot` that have expired
    #[arg(long)]
    snapshots: bool,

    /// Show what would be removed and why, and change nothing
    #[arg(long)]
    plan: bool,

    /// Print the plan as JSON
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    tool::run(PROGRAM, |cli: Cli| {
        let settings = tool::read_settings(&cli.config)?;
        if cli.check_config {
            return Ok(ExitCode::SUCCESS);
        }
        if cli.snapshots {
            own_snapshots::prune(&settings, cli.plan, cli.json)?;
            return Ok(ExitCode::SUCCESS);
        }
        let pruned = prune(&settings, &cli);
        // To show a plan is no run of which somebody wants to know.
        if !cli.plan {
            measure(&settings, pruned.as_ref().ok());
        }
        pruned?;
        Ok(ExitCode::SUCCESS)
    })
}

/// What a run removed.
#[derive(Clone, Copy, Debug, Default)]
struct Removed {
    base_backups: usize,
    wal_files: usize,
}

/// Writes the metrics of a run that removed this, or failed.
#[expect(
    clippy::cast_precision_loss,
    reason = "Prometheus knows no other numbers; up to 2^53 they are exact"
)]
fn measure(settings: &Settings, removed: Option<&Removed>) {
    let mut file = File::new(Writer::Prune, &settings.instance);
    let now = Timestamp::now().as_duration().as_secs_f64();
    file.set(&table::PRUNE_LAST_RUN, now);
    let success = if removed.is_some() { 1.0 } else { 0.0 };
    file.set(&table::PRUNE_LAST_RUN_SUCCESS, success);
    if let Some(removed) = removed {
        file.set(&table::PRUNE_REMOVED_BACKUPS, removed.base_backups as f64);
        file.set(&table::PRUNE_REMOVED_WAL, removed.wal_files as f64);
    }
    file.write_or_warn(settings.metrics.as_ref().map(|m| m.directory.as_path()));
}

fn prune(settings: &Settings, cli: &Cli) -> Result<Removed> {
    let declared = settings.base_backup.as_ref().ok_or_else(|| {
        Hinted::new(
            "the settings declare no base backups",
            "without one all WAL is needed; set baseBackup.directory",
        )
    })?;
    let repository = Repository::open(&declared.directory, &settings.instance)?;
    let archive = Archive::open(&settings.archive.directory, &settings.instance)?;
    if cli.plan {
        let plan = plan(settings, &repository, &archive)?;
        show(&plan, cli.json)?;
        return Ok(Removed::default());
    }
    let lock = repository.lock()?;
    let _no_restores = repository.lock_out_restores()?;
    repository.clear_unfinished(&lock)?;
    let plan = plan(settings, &repository, &archive)?;
    show(&plan, cli.json)?;
    for removed in &plan.remove_backups {
        repository.remove(&removed.id, &lock)?;
    }
    for (system_identifier, name) in &plan.remove_wal {
        archive.remove(archive.cluster(*system_identifier)?, name)?;
    }
    tool::log(
        Level::Info,
        format_args!(
            "removed {} base backups and {} WAL files, kept {} base backups",
            plan.remove_backups.len(),
            plan.remove_wal.len(),
            plan.keep.len()
        ),
    );
    Ok(Removed {
        base_backups: plan.remove_backups.len(),
        wal_files: plan.remove_wal.len(),
    })
}

fn plan(settings: &Settings, repository: &Repository, archive: &Archive) -> Result<Plan> {
    let data = &settings.postgresql.data_directory;
    let inventory = take_stock(data, repository, archive)?;
    let keep = settings.retention;
    let policy = Policy {
        days: keep.days,
        daily: keep.daily,
        weekly: keep.weekly,
        monthly: keep.monthly,
        minimum_good: keep.minimum_good,
    };
    retention::plan(&inventory, &policy, Timestamp::now()).map_err(|refusal| {
        Hinted::new(format!("{refusal}; nothing was removed"), refusal.hint()).into()
    })
}

/// Lists everything that there is.
fn take_stock(data: &Path, repository: &Repository, archive: &Archive) -> Result<Inventory> {
    let records = repository.list()?;
    let mut wal = Vec::new();
    let mut histories = BTreeMap::new();
    for cluster in &archive.manifest().clusters {
        let listing = archive.list(cluster)?;
        for (timeline, history) in archive.histories(cluster, &listing)? {
            histories.insert((cluster.system_identifier, timeline), history);
        }
        if !listing.foreign.is_empty() {
            tool::log(
                Level::Warning,
                format_args!(
                    "{} files in the archive are not the archive's and are left alone, \"{}\" for one",
                    listing.foreign.len(),
                    listing.foreign[0].display()
                ),
            );
        }
        wal.extend(
            listing
                .files
                .into_iter()
                .map(|(name, _)| (cluster.system_identifier, name)),
        );
    }
    let backups = records
        .iter()
        .map(|record| {
            Ok(Backup {
                id: record.name.clone(),
                system_identifier: record.system_identifier,
                segment_size: SegmentSize::new(record.segment_size_bytes)
                    .map_err(|err| anyhow::anyhow!("{err}"))?,
                timeline: record.timeline,
                start: record.start_lsn,
                stop: record.stop_lsn,
                stop_time: record.stopped_at,
                parent: record.parent.clone(),
                good: is_good(repository, record, &records),
                pinned: record.pinned,
            })
        })
        .collect::<Result<_>>()?;
    // Last, so that one is not missed which came in the meantime.
    let (snapshots, unreadable_snapshots) = snapshots_of(data, archive)?;
    Ok(Inventory {
        backups,
        wal,
        snapshots,
        unreadable_snapshots,
        histories,
    })
}

/// The snapshots of the data directory, and the names of those that cannot be read.
fn snapshots_of(data: &Path, archive: &Archive) -> Result<(Vec<Snapshot>, Vec<String>)> {
    let found = snapshots::look(data).map_err(|err| {
        Hinted::new(
            format!("what snapshots need cannot be seen: {err:#}"),
            "snapshots are read below .zfs/snapshot of the file system of the data directory; nothing was removed",
        )
    })?;
    let mut unreadable = Vec::new();
    for (name, err) in found.unreadable {
        tool::log(
            Level::Warning,
            format_args!(
                "snapshot \"{name}\" cannot be read, so all WAL is kept: {err:#}\n\
                 hint: destroy it with zfs destroy if nothing is to be restored from it"
            ),
        );
        unreadable.push(name);
    }
    let mut usable = Vec::new();
    for snapshot in found.snapshots {
        let control = snapshot.control;
        // Without it in the archive no WAL is of its cluster.
        let Ok(cluster) = archive.cluster(control.system_identifier) else {
            continue;
        };
        let Some(checkpoint_time) = snapshot.checkpoint_time() else {
            unreadable.push(snapshot.name);
            continue;
        };
        usable.push(Snapshot {
            id: snapshot.name,
            system_identifier: control.system_identifier,
            segment_size: match control.segment_size {
                Some(size) => size,
                None => cluster.segment_size()?,
            },
            timeline: control.timeline,
            redo: control.redo,
            checkpoint: control.checkpoint,
            checkpoint_time,
        });
    }
    Ok((usable, unreadable))
}

/// Whether a backup can be counted on: it was verified when it was taken, so what is asked is
/// whether what a restore begins with is still there.
fn is_good(repository: &Repository, record: &Record, all: &[Record]) -> bool {
    record.chain(all).is_ok_and(|chain| {
        chain.iter().all(|link| {
            let path = repository.directory(&link.name).join(manifest::FILE_NAME);
            std::fs::read(path).is_ok_and(|bytes| Manifest::parse(&bytes).is_ok())
        })
    })
}

fn show(plan: &Plan, json: bool) -> Result<()> {
    if json {
        return tool::print(&(serde_json::to_string_pretty(plan)? + "\n"));
    }
    let mut text = String::new();
    for kept in &plan.keep {
        writeln!(
            text,
            "keep    base backup {}: {}",
            kept.id,
            kept.reasons.join(", ")
        )?;
    }
    for kept in &plan.keep_wal_for {
        writeln!(
            text,
            "keep    WAL for snapshot {}: {}",
            kept.id,
            kept.reasons.join(", ")
        )?;
    }
    for kept in &plan.keep_wal_from {
        writeln!(
            text,
            "keep    WAL of timeline {}: {}",
            kept.timeline, kept.text
        )?;
    }
    for removed in &plan.remove_backups {
        writeln!(
            text,
            "remove  base backup {}: {}",
            removed.id, removed.reason
        )?;
    }
    match (plan.remove_wal.first(), plan.remove_wal.last()) {
        (Some((_, first)), Some((_, last))) => writeln!(
            text,
            "remove  {} WAL files, {first} to {last}: no kept restore point needs them",
            plan.remove_wal.len()
        )?,
        _ => writeln!(text, "remove  no WAL file")?,
    }
    tool::print(&text)
}
