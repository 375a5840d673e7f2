//! `backstay verify`: whether what is kept is what was recorded.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use archive::{Archive, Listing};
use base_backups::{Record, Repository};
use restore_plan::Window;
use serde::Serialize;
use tool::Level;
use verification::Fault;
use wal::{SegmentName, TimelineId};

use crate::instance::{Instance, Unarchived, starting_points, stretch};
use crate::windows::history_of;

/// Everything was looked at, and something is damaged or missing.
const NOT_GOOD: u8 = 2;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Read every record of the WAL as well, by which damage is found that was archived as it was
    #[arg(long)]
    deep: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What was looked at, and what was found.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    wal_files: usize,
    base_backups: usize,
    faults: Vec<Found>,
    gaps: Vec<Gap>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Found {
    /// Archived file or base backup.
    name: String,
    what: String,
}

/// WAL that a restore from a base backup would need.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Gap {
    after_base_backup: String,
    timeline: TimelineId,
    count: u64,
    /// The first thousand, if there are more.
    missing: Vec<SegmentName>,
}

pub fn verify(instance: &Instance, arguments: &Arguments) -> Result<ExitCode> {
    let repository = match &instance.settings.base_backup {
        Some(_) => Some(instance.repository()?),
        None => None,
    };
    // Nothing is removed while it is being read.
    let _lease = repository.as_ref().map(Repository::lease).transpose()?;
    let records = match &repository {
        Some(repository) => repository.list()?,
        None => Vec::new(),
    };
    let mut report = Report::default();
    wal_files(&instance.archive, &mut report)?;
    for directory in &instance.settings.archive.further_directories {
        match Archive::open(directory, &instance.settings.instance) {
            Ok(archive) => wal_files(&archive, &mut report)?,
            Err(err) => report.faults.push(Found {
                name: directory.display().to_string(),
                what: format!("{err:#}"),
            }),
        }
    }
    if let Some(repository) = &repository {
        backups(repository, &records, &mut report);
    }
    // The plan reads history files; one that is damaged has been found by now.
    match gaps(instance, &records, arguments.deep) {
        Ok((gaps, faults)) => {
            report.gaps = gaps;
            report.faults.extend(faults);
        }
        Err(err) if !report.faults.is_empty() => report.faults.push(Found {
            name: "gaps in the WAL".into(),
            what: format!("could not be looked for: {err:#}"),
        }),
        Err(err) => return Err(err),
    }
    tool::print(&if arguments.json {
        serde_json::to_string_pretty(&report)? + "\n"
    } else {
        text(&instance.settings.instance, &report, arguments.deep)?
    })?;
    Ok(if report.faults.is_empty() && report.gaps.is_empty() {
        ExitCode::SUCCESS
    } else {
        NOT_GOOD.into()
    })
}

/// Compares every file that `archive` holds, of whatever cluster, with its hash.
fn wal_files(archive: &Archive, report: &mut Report) -> Result<()> {
    for cluster in &archive.manifest().clusters {
        let Listing { files, .. } = archive.list(cluster)?;
        let mut done = 0;
        let mut last_line = Instant::now();
        let faults = verification::wal_files(
            archive,
            cluster,
            files.iter().map(|(name, _)| *name),
            || {
                done += 1;
                if last_line.elapsed() >= Duration::from_mins(1) {
                    last_line = Instant::now();
                    tool::log(
                        Level::Info,
                        format_args!("{done} of {} WAL files", files.len()),
                    );
                }
            },
        );
        report.wal_files += files.len();
        report.faults.extend(faults.into_iter().map(found));
    }
    Ok(())
}

/// Compares every file of every base backup with the manifest.
fn backups(repository: &Repository, records: &[Record], report: &mut Report) {
    for record in records {
        if let Err(err) = record.chain(records) {
            report.faults.push(Found {
                name: record.name.clone(),
                what: format!("{err:#}"),
            });
        }
        report
            .faults
            .extend(verification::base_backup(repository, record).map(found));
        report.base_backups += 1;
    }
}

fn found(fault: Fault) -> Found {
    Found {
        name: fault.name,
        what: fault.what,
    }
}

/// Looks for WAL that is missing, and, if `deep`, reads all records of the rest.
fn gaps(instance: &Instance, records: &[Record], deep: bool) -> Result<(Vec<Gap>, Vec<Found>)> {
    let contents = instance.contents()?;
    let points = starting_points(records);
    let windows = restore_plan::windows(&points, &contents.plan);
    let gaps = windows
        .iter()
        .filter(|window| !window.restorable || !window.missing.is_empty())
        .map(gap)
        .collect();
    let mut faults = Vec::new();
    if !deep {
        return Ok((gaps, faults));
    }
    let mut read: BTreeSet<SegmentName> = BTreeSet::new();
    for window in &windows {
        let Some(point) = points.iter().find(|point| point.id == window.point) else {
            continue;
        };
        let first =
            SegmentName::containing(point.timeline, point.start, contents.plan.segment_size);
        let history = history_of(&contents, window.timeline);
        let mut segments = stretch(&contents, &Unarchived::default(), &history, first);
        // What another window had in common with this one has been read. The last of it is read again,
        // since a record may begin there and end in the next.
        let known = segments
            .iter()
            .take_while(|segment| read.contains(&segment.name))
            .count();
        segments.drain(..known.saturating_sub(1));
        if known > 0 && segments.len() == 1 {
            continue;
        }
        let mut seen = None;
        let scanned = wal_scan::scan(
            &instance.archive,
            &contents.cluster,
            instance.server.programs(),
            &segments,
            |record| {
                seen = Some(record.lsn);
                Ok(ControlFlow::Continue(()))
            },
        )
        .and_then(|()| {
            // Damage looks like the end of the WAL. The end is in the last file.
            match (segments.last(), seen) {
                (Some(last), seen)
                    if seen
                        .is_none_or(|seen| seen < last.name.start(contents.plan.segment_size)) =>
                {
                    let after =
                        seen.map_or_else(|| window.from.to_string(), |seen| seen.to_string());
                    bail!(
                        "the record after {after} is damaged, and there is WAL up to \"{}\"",
                        last.name
                    )
                }
                _ => Ok(()),
            }
        });
        if let Err(err) = scanned {
            faults.push(Found {
                name: format!("WAL after base backup {}", window.point),
                what: format!("{err:#}"),
            });
        }
        read.extend(segments.iter().map(|segment| segment.name));
    }
    Ok((gaps, faults))
}

fn gap(window: &Window) -> Gap {
    Gap {
        after_base_backup: window.point.clone(),
        timeline: window.timeline,
        count: window.missing.count,
        missing: window.missing.segments.clone(),
    }
}

fn text(instance: &str, report: &Report, deep: bool) -> Result<String> {
    let mut text = String::new();
    let read = if deep { ", all records read" } else { "" };
    writeln!(
        text,
        "Instance \"{instance}\": {} archived files and {} base backups compared with what was recorded{read}.",
        report.wal_files, report.base_backups
    )?;
    for Found { name, what } in &report.faults {
        writeln!(text, "  DAMAGED  {name}: {what}")?;
    }
    for Gap {
        after_base_backup,
        timeline,
        count,
        missing,
    } in &report.gaps
    {
        if missing.is_empty() {
            writeln!(
                text,
                "  MISSING  the WAL that base backup {after_base_backup} itself needs on timeline {timeline}"
            )?;
            continue;
        }
        let names: Vec<String> = missing.iter().map(ToString::to_string).collect();
        writeln!(
            text,
            "  MISSING  {count} WAL files after base backup {after_base_backup} on timeline {timeline}: {}",
            names.join(", ")
        )?;
    }
    if report.faults.is_empty() && report.gaps.is_empty() {
        writeln!(text, "Everything is as it was recorded, without a gap.")?;
    } else {
        writeln!(
            text,
            "hint: take a base backup now, so that what comes can be restored; `backstay windows {instance}` shows what can be restored of what was"
        )?;
    }
    Ok(text)
}
