//! `cargo xtask fuzz`: every fuzz target for a while.

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};

use crate::{artifacts, process};

/// Run every fuzz target, with a nightly toolchain and cargo-fuzz
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// How long each target runs, in seconds
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u32,
}

/// Runs the command.
///
/// # Errors
///
/// Fails when cargo-fuzz or the toolchain is missing, and when a target finds something.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let directory = artifacts::workspace().join("fuzz");
    let fuzz = |words: &[&str]| {
        // Not the cargo of the environment, which belongs to the toolchain of the workspace.
        let mut command = process::command("cargo");
        command
            .args(["+nightly", "fuzz"])
            .args(words)
            .current_dir(artifacts::workspace())
            .env_remove("RUSTUP_TOOLCHAIN");
        command
    };
    let is_there = fuzz(&["--version"])
        .output()
        .is_ok_and(|output| output.status.success());
    ensure!(
        is_there,
        "cargo-fuzz does not run with a nightly toolchain\nhint: rustup toolchain install nightly; cargo install cargo-fuzz"
    );
    let targets = process::output(&mut fuzz(&["list"]))?;
    let targets: Vec<&str> = targets.lines().collect();
    ensure!(
        !targets.is_empty(),
        "there is no fuzz target in \"{}\"",
        directory.display()
    );
    for target in &targets {
        println!("fuzzing {target} for {} seconds", arguments.seconds);
        let seeds = directory.join("seeds").join(target);
        let corpus = directory.join("corpus").join(target);
        std::fs::create_dir_all(&corpus)
            .with_context(|| format!("create \"{}\"", corpus.display()))?;
        let mut command = fuzz(&["run", target]);
        // New inputs go to the first directory; the seeds are only read.
        command.arg(corpus);
        if seeds.is_dir() {
            command.arg(seeds);
        }
        command
            .arg("--")
            .arg(format!("-max_total_time={}", arguments.seconds));
        if let Err(err) = process::run(&mut command) {
            bail!("target {target} found something: {err:#}");
        }
    }
    println!("{} targets found nothing", targets.len());
    Ok(ExitCode::SUCCESS)
}
