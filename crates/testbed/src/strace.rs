//! A program with a fault at one of its system calls, by way of strace.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use command::Command;

use crate::Run;

const STRACE: &str = "/usr/bin/strace";

/// Whether strace is there to be used.
#[must_use]
pub fn is_available() -> bool {
    Path::new(STRACE).exists()
}

/// How often `command` makes each system call, in all of its threads and children together.
///
/// # Errors
///
/// Fails when the program cannot be traced or does not end with status 0.
pub fn count_calls(command: &Command, log: &Path) -> Result<BTreeMap<String, u32>> {
    count(&traced(command, log, &["-f"]), log)
}

/// How often `command` makes each system call itself. Those of programs that it runs are not counted.
///
/// # Errors
///
/// Fails as [`count_calls`] does.
fn count_own_calls(command: &Command, log: &Path) -> Result<BTreeMap<String, u32>> {
    count(&traced(command, log, &[]), log)
}

fn count(traced: &Command, log: &Path) -> Result<BTreeMap<String, u32>> {
    let run = Run::of(traced)?.expect_success()?;
    let text = std::fs::read_to_string(log)
        .with_context(|| format!("read \"{}\" of {}", log.display(), run.line))?;
    let mut calls = BTreeMap::new();
    for line in text.lines() {
        // With -f each line begins with a process id; `<... read resumed>` is no call of its own.
        let rest = line.trim_start_matches(|c: char| c.is_ascii_digit());
        let Some((name, _)) = rest.trim_start().split_once('(') else {
            continue;
        };
        if name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && !name.is_empty() {
            *calls.entry(name.to_owned()).or_default() += 1;
        }
    }
    if calls.is_empty() {
        bail!("strace saw no system call of {}", run.line);
    }
    Ok(calls)
}

/// Runs `command` with `fault`, in strace's words (`signal=SIGKILL`, `error=ENOSPC`), at the
/// `number`th call of `name`.
///
/// # Errors
///
/// Fails when the program cannot be traced.
pub fn run_with_fault(
    command: &Command,
    log: &Path,
    name: &str,
    fault: &str,
    number: u32,
) -> Result<Run> {
    let inject = format!("inject={name}:{fault}:when={number}");
    Run::of(&traced(command, log, &["-f", "-e", &inject]))
}

/// Runs `command` with `fault` at each system call that it makes itself and that `is_wanted`, once for each.
/// After each run `look` has to find what must hold after anything, and to leave everything as it was at
/// first. Returns at how many calls that was.
///
/// # Errors
///
/// Fails when the program cannot be traced, and as `look` does, with the call.
pub fn fault_everywhere(
    command: &Command,
    log: &Path,
    fault: &str,
    is_wanted: impl Fn(&str) -> bool,
    look: impl Fn() -> Result<()>,
) -> Result<u32> {
    let calls = count_own_calls(command, log)?;
    look().context("without a fault")?;
    let mut points = 0;
    for (name, count) in calls.into_iter().filter(|(name, _)| is_wanted(name)) {
        for number in 1..=count {
            run_with_own_fault(command, log, &name, fault, number)?;
            look().with_context(|| format!("{fault} at call {number} of {name}"))?;
            points += 1;
        }
    }
    println!("{points} points with {fault}");
    Ok(points)
}

/// Runs `command` with `fault` at the `number`th call of `name` that it makes itself. What it runs goes
/// on undisturbed, even when `command` is killed.
///
/// # Errors
///
/// Fails when the program cannot be traced.
fn run_with_own_fault(
    command: &Command,
    log: &Path,
    name: &str,
    fault: &str,
    number: u32,
) -> Result<Run> {
    let inject = format!("inject={name}:{fault}:when={number}");
    Run::of(&traced(command, log, &["-e", &inject]))
}

fn traced(command: &Command, log: &Path, arguments: &[&str]) -> Command {
    command.clone().wrapped_in(
        STRACE,
        ["-qq", "-o", &log.display().to_string()]
            .iter()
            .copied()
            .chain(arguments.iter().copied()),
    )
}
