//! `cargo xtask screenshots`: the pictures in the reference, drawn by a browser.

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::artifacts::{cargo, workspace};
use crate::debian::{self, Tool};
use crate::process;

/// The browser.
const BROWSER: Tool = Tool {
    program: "chromium",
    package: "chromium",
};

/// Let a browser draw the report and the status for the reference
///
/// Installs the browser where it may (Debian, root). The test that draws them runs with all others too,
/// where the browser is there, and throws its pictures away.
#[derive(Debug, clap::Args)]
pub struct Arguments {}

/// Runs the command.
///
/// # Errors
///
/// Fails when there is no browser, and when the test fails.
pub fn run(_arguments: &Arguments) -> Result<ExitCode> {
    if let Some(missing) = debian::install(&[BROWSER])?.first() {
        bail!("{missing}");
    }
    let kept = workspace().join("docs/reference");
    process::run(
        cargo(&[
            "test", "--quiet", "-p", "backstay", "--bin", "backstay", "pictures",
        ])
        .env("BACKSTAY_SCREENSHOTS", &kept),
    )?;
    println!("wrote docs/reference/report.png and docs/reference/status.png");
    Ok(ExitCode::SUCCESS)
}
