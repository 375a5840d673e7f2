//! `cargo xtask bench`: how fast, at what cost, and against whom.
//!
//! All figures of a report come from one run on one machine, with the contenders taking turns, so that
//! what else the machine does falls on all of them. They are to be read as ratios.

mod archiving;
mod backup;
mod calls;
mod contender;
mod corpus;
mod replay;
mod report;
mod server;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use testbed::Random;

use crate::debian::Tool;
use crate::place::{Place, RunDirectory};
use crate::process::{self, End, Output};
use crate::{artifacts, debian};
use contender::Contender;
use report::Report;

/// Longest time that a benchmark may take.
const LIMIT: Duration = Duration::from_hours(6);

/// What is measured against, and what measures.
const TOOLS: [Tool; 3] = [
    Tool {
        program: "pgbackrest",
        package: "pgbackrest",
    },
    Tool {
        program: "strace",
        package: "strace",
    },
    Tool {
        program: "time",
        package: "time",
    },
];

/// Measure archiving, restoring and base backups side by side with pgBackRest, `basic_archive` and cp
///
/// Prints Markdown. Needs about 40 GiB for temporary files with the default number of segments.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    measure: Measure,
}

/// Measure here and now
#[derive(Clone, Debug, clap::Args)]
pub struct Measure {
    /// Number of WAL segments, of 16 MiB each, in a corpus
    #[arg(long, value_name = "N", default_value_t = 120, value_parser = clap::value_parser!(u32).range(10..))]
    segments: u32,

    /// Number of runs whose median is reported
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(5..))]
    runs: u32,

    /// What to measure
    #[arg(long, value_name = "PART", value_delimiter = ',', default_values_t = Part::ALL)]
    parts: Vec<Part>,
}

/// A part of the benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// How fast the archiver works off a backlog, and what is stored.
    Archiving,
    /// Time, processor time and memory of a single call.
    Calls,
    /// How fast recovery replays WAL from the archive.
    Replay,
    /// Base backups, and restoring them.
    Backup,
}

impl Part {
    const ALL: [Self; 4] = [Self::Archiving, Self::Calls, Self::Replay, Self::Backup];
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Archiving => "archiving",
            Self::Calls => "calls",
            Self::Replay => "replay",
            Self::Backup => "backup",
        })
    }
}

/// Prepares a place for the measurements and has them made there.
///
/// # Errors
///
/// Fails when the programs cannot be built or the place cannot be made.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let missing = debian::install(&TOOLS)?;
    if !missing.is_empty() {
        bail!("{}", missing.join("; "));
    }
    let place = Place::host(&debian::newest_server().context("find PostgreSQL's programs")?)?;
    let mut programs = artifacts::build_programs(true, &artifacts::ROUND_TRIP)?;
    programs.push(std::env::current_exe().context("find this program")?);
    let run = RunDirectory::new(&programs)?;
    let this = Path::new("bin").join(programs[programs.len() - 1].file_name().unwrap_or_default());
    let mut command = place.command(&run, &this, Path::new("bin"), &[])?;
    let measure = &arguments.measure;
    let parts: Vec<String> = measure.parts.iter().map(ToString::to_string).collect();
    command
        .arg("bench-measure")
        .arg(format!("--segments={}", measure.segments))
        .arg(format!("--runs={}", measure.runs))
        .arg(format!("--parts={}", parts.join(",")));
    match process::watch(&mut command, LIMIT, Output::Inherited)?.end {
        End::Status(status) if status.success() => Ok(ExitCode::SUCCESS),
        End::Status(status) => bail!("the benchmark {}", command::how_it_ended(status)),
        End::TooLate => bail!("not done after {} hours", LIMIT.as_secs() / 3600),
    }
}

impl Measure {
    /// Measures with the server and the programs that the environment names, and prints the report.
    ///
    /// # Errors
    ///
    /// Fails when a contender does.
    pub fn make(&self) -> Result<ExitCode> {
        process::adopt_orphans()?;
        let testbed = testbed::Testbed::new()?;
        let mut report = Report::default();
        report::print_introduction(&testbed, self)?;
        let has = |part| self.parts.contains(&part);
        if has(Part::Archiving) || has(Part::Calls) || has(Part::Replay) {
            let mut largest_call = 0.0_f64;
            for kind in corpus::Kind::ALL {
                let corpus = corpus::Corpus::make(&testbed, kind, self.segments)?;
                report::print_corpus(&corpus);
                let contenders = Contender::all();
                if has(Part::Archiving) {
                    archiving::measure(&corpus, &contenders, self.runs, &mut report)?;
                }
                if has(Part::Calls) {
                    let peak = calls::measure(&corpus, &contenders)?;
                    largest_call = largest_call.max(peak);
                }
                if has(Part::Replay) {
                    replay::measure(&corpus, &contenders, self.runs, &mut report)?;
                }
                corpus.remove()?;
            }
            if has(Part::Calls) {
                report.at_most("peak memory of our largest call", largest_call, 10.0, "MiB");
            }
        }
        if has(Part::Backup) {
            backup::measure(&testbed, self.runs, &mut report)?;
        }
        report.conclude();
        Ok(ExitCode::SUCCESS)
    }
}

/// The order in which `count` contenders take their turns in a run: each time another one, as it
/// matters to the disk who was there just before.
fn turns(count: usize, run: u32) -> Vec<usize> {
    let mut turns: Vec<usize> = (0..count).collect();
    Random::new(run.into()).shuffle(&mut turns);
    turns
}

/// Says on standard error what is being done; standard output has the report.
fn progress(what: std::fmt::Arguments<'_>) {
    eprintln!("{what}");
}

#[cfg(test)]
mod tests {
    #[test]
    fn everybody_has_a_turn_in_every_run_and_the_order_changes() {
        let runs: Vec<Vec<usize>> = (1..=5).map(|run| super::turns(7, run)).collect();
        for (index, run) in runs.iter().enumerate() {
            let mut sorted = run.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2, 3, 4, 5, 6]);
            assert!(!runs[..index].contains(run), "{run:?}");
        }
    }
}
