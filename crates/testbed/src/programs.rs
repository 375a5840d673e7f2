//! Our own programs, as a test runs them.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use anyhow::{Context as _, Result, bail};
use command::Command;

/// How a program ended and what it wrote.
#[derive(Clone, Debug)]
pub struct Run {
    /// The command line, as a person would type it.
    pub line: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Run {
    /// Runs `command` to its end, whatever that is.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be started.
    pub fn of(command: &Command) -> Result<Self> {
        let (status, output) = command.run_any_status()?;
        Ok(Self {
            line: command.line(),
            status,
            stdout: output.stdout,
            stderr: output.stderr,
        })
    }

    /// Runs `command`, and kills it and the programs that it has started in its process group after
    /// `seconds`. When this returns it has ended, so its locks are free: a kill alone does not wait for
    /// what the kernel still does for the killed. `temporary` is where what it leaves behind goes.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be started.
    pub fn killed_after(seconds: f64, command: &Command, temporary: &Path) -> Result<Self> {
        let script = format!(
            "set -m; {} & child=$!; sleep {seconds}; kill -KILL -- -$child; wait $child; exit 0",
            command.line()
        );
        Self::of(
            &Command::new("/bin/bash")
                .args(["-c", &script])
                .env("TMPDIR", temporary),
        )
    }

    /// The exit status, or nothing when a signal ended it.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Returns itself if the program ended with status 0.
    ///
    /// # Errors
    ///
    /// Fails for any other end, with the command line and everything the program wrote.
    pub fn expect_success(self) -> Result<Self> {
        self.expect_code(0)
    }

    /// Returns itself if the program ended with status `code`.
    ///
    /// # Errors
    ///
    /// Fails for any other end, with the command line and everything the program wrote.
    pub fn expect_code(self, code: i32) -> Result<Self> {
        if self.code() == Some(code) {
            return Ok(self);
        }
        bail!(
            "{}\n{} instead of status {code}\nstdout:\n{}\nstderr:\n{}",
            self.line,
            command::how_it_ended(self.status),
            self.stdout,
            self.stderr
        );
    }

    /// Reads standard output as JSON.
    ///
    /// # Errors
    ///
    /// Fails when it is not JSON, with everything the program wrote.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_str(&self.stdout).with_context(|| {
            format!(
                "read what {} printed as JSON: {:?}, stderr {:?}",
                self.line, self.stdout, self.stderr
            )
        })
    }
}

/// Prepares to run our program `name`.
///
/// # Errors
///
/// Fails when it has not been built, with a hint.
pub fn program(name: &str) -> Result<Command> {
    Ok(Command::new(program_path(name)?))
}

/// Runs our program `name` to its end, whatever that is.
///
/// # Errors
///
/// Fails when it has not been built or cannot be started.
pub fn run<S: AsRef<OsStr>>(name: &str, arguments: impl IntoIterator<Item = S>) -> Result<Run> {
    Run::of(&program(name)?.args(arguments))
}

/// The directory with our programs.
///
/// # Errors
///
/// Fails when the caller's own executable cannot be found.
pub fn program_directory() -> Result<PathBuf> {
    if let Some(directory) = std::env::var_os("BACKSTAY_PROGRAMS") {
        return Ok(directory.into());
    }
    Ok(std::env::current_exe()
        .context("find this test's executable")?
        .parent()
        .and_then(Path::parent)
        .context("find the directory above this test's executable")?
        .to_owned())
}

fn program_path(name: &str) -> Result<PathBuf> {
    let directory = program_directory()?;
    let path = directory.join(name);
    if !path.exists() {
        bail!(
            "program \"{name}\" is not in \"{}\"\nhint: `cargo build --workspace` builds it, and `cargo xtask test` does so by itself",
            directory.display()
        );
    }
    Ok(path)
}
