//! What the examples render to, looked at by systemd, by PostgreSQL and by our own program, in the lab's
//! Debian system.

use std::collections::BTreeMap;
use std::fs;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::debian;
use crate::lab::{self, Hosts, Programs, Runner};
use crate::libtest::{Skipped, Tally};
use crate::process::{self, End, Output};
use crate::rootfs::{self, Recipe};
use crate::test::report;

const NAME: &str = "rendered units, sandboxes, settings, servers";
/// Versions of PostgreSQL that the examples can name.
const VERSIONS: RangeInclusive<u32> = 13..=18;
/// Longest time that it may take.
const LIMIT: Duration = Duration::from_mins(10);

/// What `nixos-tests/lab/verify.py` writes to `result.json`.
#[derive(Debug, Deserialize)]
struct Verdict {
    passed: BTreeMap<String, usize>,
    failures: Vec<String>,
    skipped: BTreeMap<String, String>,
    /// The least exposure of a service that does this, where that is above the limit.
    limits: BTreeMap<String, f64>,
}

/// Looks at all of it.
///
/// # Errors
///
/// Fails when it cannot be looked at although this machine has all that it takes.
pub fn check(hosts: &Hosts, programs: &Programs, tally: &mut Tally) -> Result<()> {
    let begun = Instant::now();
    let system = match Runner::Container.system() {
        Ok(system) => system,
        Err(why) => {
            tally.skipped.push(Skipped {
                what: NAME.into(),
                why: format!("{why:#}"),
            });
            return Ok(());
        }
    };
    let output = lab::empty_output("verify")?;
    let mut command = hosts.command("verify", Runner::Container, &system, programs, &output);
    let mut servers = other_servers();
    servers.push((rootfs::LAB_POSTGRESQL, system));
    for (major, root) in servers {
        command
            .arg("--server")
            .arg(format!("{major}={}", root.display()));
    }
    let (stdout, stderr) = (output.join("log"), output.join("stderr"));
    let watched = process::watch(
        &mut command,
        LIMIT,
        Output::Files {
            stdout: &stdout,
            stderr: &stderr,
        },
    )?;
    let read = || -> Result<Verdict> {
        let path = output.join("result.json");
        let text = fs::read(&path).with_context(|| format!("read \"{}\"", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("read \"{}\"", path.display()))
    };
    let verdict = read().with_context(|| {
        let how = match &watched.end {
            End::TooLate => "was killed, its time was over".to_owned(),
            End::Status(status) => command::how_it_ended(*status),
        };
        format!(
            "python3 {how}:\n{}",
            fs::read_to_string(&stderr).unwrap_or_default()
        )
    })?;

    for failure in &verdict.failures {
        println!("{failure}");
    }
    let counts: Vec<String> = verdict
        .passed
        .iter()
        .map(|(kind, count)| format!("{count} {kind}"))
        .collect();
    let passed: usize = verdict.passed.values().sum();
    let (sign, summary) = if verdict.failures.is_empty() {
        ("ok", format!("{passed} passed"))
    } else {
        (
            "FAILED",
            format!("{passed} passed, {} failed", verdict.failures.len()),
        )
    };
    report(sign, NAME, &summary, begun.elapsed());
    println!("       {}", counts.join(", "));
    for (what, exposure) in &verdict.limits {
        println!("       least exposure of what {what}: {exposure:.1}");
    }
    tally.passed += passed;
    tally.failed += verdict.failures.len();
    tally.skipped.extend(
        verdict
            .skipped
            .into_iter()
            .map(|(what, why)| Skipped { what, why }),
    );
    Ok(())
}

/// Roots of systems that have other versions of PostgreSQL than the lab's: this host, and what the
/// tests have made already.
fn other_servers() -> Vec<(u32, PathBuf)> {
    VERSIONS
        .filter(|major| *major != rootfs::LAB_POSTGRESQL)
        .filter_map(|major| {
            let root = if debian::server_of(major).is_some() {
                "/".into()
            } else {
                Recipe::of(major)?.made()?
            };
            Some((major, root))
        })
        .collect()
}
