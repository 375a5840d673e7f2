//! The NixOS modules: their evaluation tests, what the example hosts become, and the option reference.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, bail};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::artifacts;
use crate::libtest::{Skipped, Tally};
use crate::process;
use crate::test::report;

/// Where the evaluation tests are, from the root of the workspace.
const EVALUATION: &str = "nixos-tests/eval";
/// What the example hosts become.
pub const RENDERED: &str = "nixos-tests/rendered";
/// The option reference.
const REFERENCE: &str = "docs/reference/options.md";

/// Write what the example hosts become, and the option reference, from the NixOS modules
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Print how long hosts with 1 and with 50 instances take to evaluate, and write nothing
    #[arg(long)]
    times: bool,
}

/// Runs the command.
///
/// # Errors
///
/// Fails when Nix or nixpkgs' `lib` is missing, when the modules do not evaluate, and when a file
/// cannot be written.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    if let Some(why) = why_not() {
        bail!("{why}");
    }
    if arguments.times {
        return print_times();
    }
    let root = artifacts::workspace();
    let expected = expected_files()?;
    for path in present_files(&root)?.keys() {
        if !expected.contains_key(path) {
            let path = root.join(path);
            fs::remove_file(&path).with_context(|| format!("remove \"{}\"", path.display()))?;
        }
    }
    for (path, text) in &expected {
        let path = root.join(path);
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)
                .with_context(|| format!("create \"{}\"", directory.display()))?;
        }
        fs::write(&path, text).with_context(|| format!("write \"{}\"", path.display()))?;
    }
    println!("wrote {} files", expected.len());
    Ok(ExitCode::SUCCESS)
}

/// What `run.nix` says of the evaluation tests.
#[derive(Debug, Deserialize)]
struct Outcome {
    passed: usize,
    failures: Vec<Failure>,
}

/// An evaluation test that failed.
#[derive(Debug, Deserialize)]
struct Failure {
    area: String,
    name: String,
    expected: serde_json::Value,
    result: serde_json::Value,
}

/// Runs the evaluation tests, and compares what is committed with what the modules give.
///
/// Where Nix or nixpkgs' `lib` is missing, both are skipped, and whatever else uses the committed files
/// uses them as they are.
pub fn check(tally: &mut Tally) {
    let tests = "evaluation of the NixOS modules";
    let committed = "rendered examples and option reference";
    if let Some(why) = why_not() {
        for what in [tests, committed] {
            tally.skipped.push(Skipped {
                what: what.into(),
                why: why.clone(),
            });
        }
        return;
    }
    let begun = Instant::now();
    let (passed, complaints) = match evaluate::<Outcome>("run.nix", &[]) {
        Ok(outcome) => (
            outcome.passed,
            outcome
                .failures
                .iter()
                .map(|failure| {
                    format!(
                        "{}: {}\n  expected {}\n  got      {}",
                        failure.area, failure.name, failure.expected, failure.result
                    )
                })
                .collect(),
        ),
        Err(err) => (0, vec![format!("{err:#}")]),
    };
    conclude(tally, tests, passed, &complaints, begun);

    let begun = Instant::now();
    let (passed, complaints) = match differences() {
        Ok((same, different)) => (same, different),
        Err(err) => (0, vec![format!("{err:#}")]),
    };
    conclude(tally, committed, passed, &complaints, begun);
}

fn conclude(tally: &mut Tally, name: &str, passed: usize, complaints: &[String], begun: Instant) {
    tally.passed += passed;
    tally.failed += complaints.len();
    if complaints.is_empty() {
        report("ok", name, &format!("{passed} passed"), begun.elapsed());
        return;
    }
    for complaint in complaints {
        println!("{complaint}");
    }
    let summary = format!("{passed} passed, {} failed", complaints.len());
    report("FAILED", name, &summary, begun.elapsed());
}

/// Why the modules cannot be evaluated here.
fn why_not() -> Option<String> {
    if !process::is_installed("nix-instantiate") {
        return Some("nix-instantiate is not installed; Debian's package nix-bin has it".into());
    }
    let found = process::command("nix-instantiate")
        .args(["--eval", "--expr", "(import <nixpkgs/lib>).version"])
        .stdin(Stdio::null())
        .output()
        .is_ok_and(|output| output.status.success());
    (!found).then(|| {
        "<nixpkgs/lib> is not on Nix' path; set nix-path = nixpkgs=DIRECTORY in nix.conf, where \
         DIRECTORY holds nixpkgs or the repository nix-community/nixpkgs.lib"
            .into()
    })
}

/// Evaluates a file of the evaluation tests.
fn evaluate<T: DeserializeOwned>(file: &str, arguments: &[&str]) -> Result<T> {
    let path = artifacts::workspace().join(EVALUATION).join(file);
    let output = process::command("nix-instantiate")
        // Otherwise Nix 2.8 spends most of its time collecting garbage in a heap that grows.
        .env("GC_INITIAL_HEAP_SIZE", "1G")
        .args(["--eval", "--strict", "--json"])
        .args(["--arg", "lib", "import <nixpkgs/lib>"])
        .args(arguments)
        .arg(&path)
        .stdin(Stdio::null())
        .output()
        .context("run nix-instantiate")?;
    if !output.status.success() {
        bail!(
            "nix-instantiate {file} {}:\n{}",
            command::how_it_ended(output.status),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    serde_json::from_slice(&output.stdout).with_context(|| format!("read what {file} gave"))
}

/// What the example hosts and the scenarios become by the modules as they are, by path below
/// [`RENDERED`]. Nothing where the modules cannot be evaluated; then there is what is committed.
pub fn rendered() -> Option<Result<BTreeMap<String, String>>> {
    why_not().is_none().then(|| evaluate("render.nix", &[]))
}

/// Every generated file, with its path from the root of the workspace.
fn expected_files() -> Result<BTreeMap<PathBuf, String>> {
    let rendered: BTreeMap<String, String> = evaluate("render.nix", &[])?;
    let mut files: BTreeMap<PathBuf, String> = rendered
        .into_iter()
        .map(|(path, text)| (Path::new(RENDERED).join(path), text))
        .collect();
    files.insert(REFERENCE.into(), evaluate("reference.nix", &[])?);
    Ok(files)
}

/// Every generated file that is there.
fn present_files(root: &Path) -> Result<BTreeMap<PathBuf, String>> {
    let mut files = BTreeMap::new();
    let mut waiting = vec![PathBuf::from(RENDERED)];
    while let Some(at) = waiting.pop() {
        let path = root.join(&at);
        if !path.exists() {
            continue;
        }
        for entry in fs::read_dir(&path).with_context(|| format!("read \"{}\"", path.display()))? {
            let entry = entry.with_context(|| format!("read \"{}\"", path.display()))?;
            let inside = at.join(entry.file_name());
            if entry.path().is_dir() {
                waiting.push(inside);
            } else {
                files.insert(inside, read(&entry.path())?);
            }
        }
    }
    let reference = root.join(REFERENCE);
    if reference.exists() {
        files.insert(REFERENCE.into(), read(&reference)?);
    }
    Ok(files)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("read \"{}\"", path.display()))
}

/// How many generated files are current, and what is wrong with the others.
fn differences() -> Result<(usize, Vec<String>)> {
    let expected = expected_files()?;
    let present = present_files(&artifacts::workspace())?;
    let hint = "the modules have changed; run `cargo xtask render` and commit the files";
    let mut complaints = Vec::new();
    let mut same = 0;
    for (path, text) in &expected {
        match present.get(path) {
            Some(there) if there == text => same += 1,
            Some(_) => complaints.push(format!("\"{}\" is not current: {hint}", path.display())),
            None => complaints.push(format!("\"{}\" is missing: {hint}", path.display())),
        }
    }
    for path in present.keys() {
        if !expected.contains_key(path) {
            complaints.push(format!("\"{}\" has no source: {hint}", path.display()));
        }
    }
    Ok((same, complaints))
}

/// Prints how long it takes to evaluate hosts of two sizes.
fn print_times() -> Result<ExitCode> {
    println!("evaluation of a host, everything rendered, best of three:");
    let mut seconds = Vec::new();
    for instances in [1_u32, 50] {
        let best = (0..3)
            .map(|_| {
                let begun = Instant::now();
                evaluate::<serde_json::Value>(
                    "speed.nix",
                    &["--arg", "instances", &instances.to_string()],
                )?;
                Ok(begun.elapsed())
            })
            .collect::<Result<Vec<_>>>()?
            .into_iter()
            .min()
            .ok_or_else(|| anyhow!("nothing was measured"))?;
        println!("{instances:>3} instances: {:.2} s", best.as_secs_f64());
        seconds.push(best.as_secs_f64());
    }
    if let [one, fifty] = seconds.as_slice() {
        println!("50 take {:.1} times as long as one", fifty / one);
    }
    Ok(ExitCode::SUCCESS)
}
