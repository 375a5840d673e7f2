//! `cargo xtask test`: everything that this machine can test, and a list of what it cannot.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::artifacts::{self, TestExecutable, cargo};
use crate::libtest::{self, Skipped, Tally};
use crate::place::{Place, RunDirectory};
use crate::process::{self, End, Output};
use crate::{debian, lab, modules, rootfs};

/// Run every test that this machine can run, and list what was skipped
///
/// Installs what is missing where it may (Debian, root). Run by root, the tests run as user
/// "postgres". The last line has the numbers of test functions.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Run only executables (`<crate>/<target>`) whose name contains this; if there is none, only
    /// test functions whose name does. Formatting, lints, examples in documentation and the NixOS
    /// modules are left out
    #[arg(long, value_name = "SUBSTRING")]
    only: Option<String>,

    /// Major versions of PostgreSQL that the tests in `on_postgresql*.rs` run on
    ///
    /// The default is the host's and those that a Debian system can be made with.
    #[arg(long, value_name = "MAJOR", value_delimiter = ',')]
    postgresql: Vec<u32>,

    /// Longest time that one executable may run, in seconds
    #[arg(long, value_name = "N", default_value_t = 900)]
    time_limit_seconds: u64,
}

/// Runs the command.
///
/// # Errors
///
/// Fails when the tests cannot be built or prepared. A test that fails is no error: it is in the status.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let begun = Instant::now();
    let mut tally = Tally::default();
    let mut missing = debian::install(&debian::TEST_TOOLS)?;
    if arguments.only.is_none() {
        check_sources(&mut tally);
        modules::check(&mut tally);
    }
    tally.add(run_tests(
        &Selection {
            only: arguments.only.as_deref(),
            majors: &arguments.postgresql,
            variables: &[],
        },
        Duration::from_secs(arguments.time_limit_seconds),
    )?);
    if arguments.only.is_none() {
        missing.extend(debian::install(&debian::LAB_TOOLS)?);
        lab::check(&mut tally)?;
    }
    missing.dedup();
    for line in missing {
        println!("missing: {line}");
    }
    Ok(conclude(&tally, begun.elapsed()))
}

/// Prints what was skipped and the numbers, and turns them into the exit status.
pub fn conclude(tally: &Tally, elapsed: Duration) -> ExitCode {
    if !tally.skipped.is_empty() {
        println!("\nskipped:");
        let mut skipped = tally.skipped.clone();
        skipped.sort();
        for Skipped { what, why } in skipped {
            println!("  {what}: {why}");
        }
    }
    println!("\n{} seconds", elapsed.as_secs());
    println!("{}", tally.line());
    if tally.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Formatting, lints and the examples in documentation.
fn check_sources(tally: &mut Tally) {
    for arguments in [
        &["fmt", "--check"][..],
        &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--quiet",
            "--",
            "-D",
            "warnings",
        ],
    ] {
        let begun = Instant::now();
        let mut command = cargo(arguments);
        let name = format!("cargo {}", arguments.join(" "));
        match process::run(&mut command) {
            Ok(()) => report("ok", &name, "", begun.elapsed()),
            Err(err) => {
                println!("{err:#}");
                report("FAILED", &name, "", begun.elapsed());
                tally.failed += 1;
            }
        }
    }
    let begun = Instant::now();
    let mut examples = cargo(&["test", "--workspace", "--doc", "--quiet"]);
    let outcome = examples
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("run cargo")
        .map(|output| {
            let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
            let mut read = libtest::read(&stdout, "").unwrap_or_default();
            if !output.status.success() {
                println!("{stdout}");
                read.failed = read.failed.max(1);
            }
            read
        });
    match outcome {
        Ok(read) => {
            let verdict = if read.failed == 0 { "ok" } else { "FAILED" };
            report(
                verdict,
                "examples in documentation",
                &summary(&read),
                begun.elapsed(),
            );
            tally.add(read);
        }
        Err(err) => {
            println!("{err:#}");
            tally.failed += 1;
        }
    }
}

/// Which tests to run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Selection<'a> {
    /// Part of the name of an executable or a test function.
    pub only: Option<&'a str>,
    /// Versions of PostgreSQL; none means all that are possible.
    pub majors: &'a [u32],
    /// What the tests find in their environment.
    pub variables: &'a [(&'a str, String)],
}

/// Builds and runs tests.
///
/// # Errors
///
/// Fails when they cannot be built or prepared.
pub fn run_tests(selection: &Selection<'_>, limit: Duration) -> Result<Tally> {
    let mut tally = Tally::default();
    let host = Place::host(&debian::newest_server().context("find PostgreSQL's programs")?)?;
    let begun = Instant::now();
    let executables = artifacts::build_tests()?;
    let run = RunDirectory::new(&artifacts::build_programs(false, &[])?)?;
    run.add_packages(&artifacts::workspace().join("crates"))?;
    report("ok", "build", "", begun.elapsed());

    let (executables, filter) = choose(executables, selection.only);
    let majors = versions(selection.majors, host.major);
    let mut places: Vec<(u32, Result<Place>)> = Vec::new();
    for executable in &executables {
        let within = run.add_test(&executable.path)?;
        let run_at = |place: &Place| {
            run_one(&Job {
                executable,
                within: &within,
                place,
                run: &run,
                filter,
                variables: selection.variables,
                limit,
            })
        };
        if !executable.is_per_version() {
            tally.add(run_at(&host)?);
            continue;
        }
        for &major in &majors {
            // A system is made when the first test needs it.
            if !places.iter().any(|(made, _)| *made == major) {
                places.push((major, Place::with(major, &host)));
            }
            match places.iter().find(|(made, _)| *made == major) {
                Some((_, Ok(place))) => tally.add(run_at(place)?),
                Some((_, Err(why))) => tally.skipped.push(Skipped {
                    what: format!("{} on PostgreSQL {major}", executable.name()),
                    why: format!("{why:#}"),
                }),
                None => {}
            }
        }
    }
    Ok(tally)
}

/// The versions to test on, without repetition: the wanted ones, or all that are possible.
fn versions(wanted: &[u32], host: u32) -> Vec<u32> {
    let mut versions: Vec<u32> = if wanted.is_empty() {
        std::iter::once(host)
            .chain(rootfs::POSTGRESQL.iter().map(|(major, _)| *major))
            .collect()
    } else {
        wanted.to_vec()
    };
    versions.sort_unstable();
    versions.dedup();
    versions
}

/// The executables whose name contains `only`, or all of them with `only` as a filter of functions.
fn choose(
    executables: Vec<TestExecutable>,
    only: Option<&str>,
) -> (Vec<TestExecutable>, Option<&str>) {
    let Some(only) = only else {
        return (executables, None);
    };
    let (named, others): (Vec<_>, Vec<_>) = executables
        .into_iter()
        .partition(|executable| executable.name().contains(only));
    if named.is_empty() {
        (others, Some(only))
    } else {
        (named, None)
    }
}

/// How many tests run at a time for each processor: most of them wait for a server, a disk or a program.
const TESTS_PER_PROCESSOR: usize = 2;

/// Executables whose tests wait for PostgreSQL's own intervals, of a minute, more than they work.
const THAT_WAIT: [&str; 1] = ["pg-healthcheck/on_postgresql_health"];

/// How many of those run at a time for each processor.
const WAITING_PER_PROCESSOR: usize = 4;

/// One executable at one place.
struct Job<'a> {
    executable: &'a TestExecutable,
    /// The executable's path within the run directory.
    within: &'a Path,
    place: &'a Place,
    run: &'a RunDirectory,
    filter: Option<&'a str>,
    variables: &'a [(&'a str, String)],
    limit: Duration,
}

fn run_one(job: &Job<'_>) -> Result<Tally> {
    let name = if job.executable.is_per_version() {
        format!("{} on {}", job.executable.name(), job.place.name())
    } else {
        job.executable.name()
    };
    let directory = Path::new("crates").join(&job.executable.package);
    let mut command = job
        .place
        .command(job.run, job.within, &directory, job.variables)?;
    command.args(job.filter);
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let each = if THAT_WAIT.contains(&job.executable.name().as_str()) {
        WAITING_PER_PROCESSOR
    } else {
        TESTS_PER_PROCESSOR
    };
    command.arg(format!("--test-threads={}", processors * each));
    let outputs = job.run.path().join("output");
    let (stdout_file, stderr_file) = (outputs.join("stdout"), outputs.join("stderr"));
    let output = Output::Files {
        stdout: &stdout_file,
        stderr: &stderr_file,
    };
    let watched = process::watch(&mut command, job.limit, output)?;
    let read = |path: &Path| -> Result<String> {
        let text = std::fs::read(path).with_context(|| format!("read \"{}\"", path.display()))?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    };
    let (stdout, stderr) = (read(&stdout_file)?, read(&stderr_file)?);

    let mut complaints = Vec::new();
    let mut tally = match (libtest::read(&stdout, &stderr), &watched.end) {
        (Some(tally), End::Status(status)) if status.success() || tally.failed > 0 => tally,
        (_, end) => {
            complaints.push(match end {
                End::TooLate => format!("killed after {} seconds", job.limit.as_secs()),
                End::Status(status) => command::how_it_ended(*status),
            });
            libtest::read_unfinished(&stdout)
        }
    };
    if let Some(complaint) = watched.left_behind() {
        complaints.push(complaint);
        tally.failed = tally.failed.max(1);
    }
    for skipped in &mut tally.skipped {
        skipped.what = format!("{name}: {}", skipped.what);
    }
    if tally.failed == 0 {
        // With a filter, most executables have nothing to do.
        if tally != Tally::default() {
            report("ok", &name, &summary(&tally), watched.elapsed);
        }
    } else {
        println!("{stdout}{stderr}");
        for complaint in complaints {
            println!("{name}: {complaint}");
        }
        report("FAILED", &name, &summary(&tally), watched.elapsed);
        println!("       again: {}", again(job));
    }
    Ok(tally)
}

/// The command line that runs only what failed.
fn again(job: &Job<'_>) -> String {
    let only = format!("cargo xtask test --only {}", job.executable.name());
    if job.executable.is_per_version() {
        format!("{only} --postgresql {}", job.place.major)
    } else {
        only
    }
}

fn summary(tally: &Tally) -> String {
    [
        (tally.passed, "passed"),
        (tally.failed, "failed"),
        (tally.skipped.len(), "skipped"),
    ]
    .into_iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, what)| format!("{count} {what}"))
    .collect::<Vec<_>>()
    .join(", ")
}

/// Prints one line of the report.
pub fn report(verdict: &str, name: &str, summary: &str, elapsed: Duration) {
    println!(
        "{verdict:<6} {name:<60} {summary:<24} {:>6.1} s",
        elapsed.as_secs_f64()
    );
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn executable(package: &str, target: &str) -> TestExecutable {
        TestExecutable {
            package: package.into(),
            target: target.into(),
            path: PathBuf::new(),
        }
    }

    #[test]
    fn only_names_an_executable_or_else_a_function() {
        let all = || vec![executable("wal", "wal"), executable("archive", "faults")];
        let (chosen, filter) = choose(all(), Some("archive"));
        assert_eq!((chosen.len(), filter), (1, None));
        let (chosen, filter) = choose(all(), Some("a_torn_segment"));
        assert_eq!((chosen.len(), filter), (2, Some("a_torn_segment")));
        let (chosen, filter) = choose(all(), None);
        assert_eq!((chosen.len(), filter), (2, None));
    }

    #[test]
    fn the_hosts_version_is_tested_once_even_if_a_system_has_it_too() {
        assert_eq!(versions(&[], 15), [15, 17, 18]);
        assert_eq!(versions(&[], 17), [17, 18]);
        assert_eq!(versions(&[18, 15, 18], 15), [15, 18]);
    }
}
