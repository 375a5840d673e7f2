//! What every program shares: how it ends, how it fails and how it speaks.
//!
//! A program's `main` is one call of [`run`]. It parses the command line, runs the program, prints
//! an error once and turns the outcome into an exit status that its caller understands.

use std::fmt;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use settings::{Problems, Settings};

/// How a program ends when it cannot do its work.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// The sentence that an error completes: `could not archive WAL file`.
    pub complaint: &'static str,
    /// Exit status for every failure: an error, a panic, a usage error, a deadline that passed.
    pub failure: u8,
}

/// Parses the command line, calls `program` and returns the status to exit with.
///
/// A panic ends the process at once with `spec.failure`: the status of an ordinary panic, 101,
/// means "no such WAL file" to PostgreSQL. So does 2, clap's status for a usage error.
pub fn run<Arguments: clap::Parser>(
    spec: Program,
    program: impl FnOnce(Arguments) -> Result<ExitCode>,
) -> ExitCode {
    std::panic::set_hook(Box::new(move |info| {
        log(Level::Error, format_args!("{}: {info}", spec.complaint));
        exit_now(spec.failure);
    }));
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(err) => {
            // A closed stderr is no reason to end differently.
            let _ = err.print();
            return if err.use_stderr() {
                spec.failure.into()
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    program(arguments).unwrap_or_else(|err| {
        report(spec.complaint, &err);
        spec.failure.into()
    })
}

/// Writes an error as one line, and its hint, if it has one, as the next.
pub fn report(complaint: &str, err: &anyhow::Error) {
    log(Level::Error, format_args!("{complaint}: {err:#}"));
    if let Some(hint) = hint_of(err) {
        log(Level::Error, format_args!("hint: {hint}"));
    }
}

/// The hint that `err` carries, if any.
#[must_use]
pub fn hint_of(err: &anyhow::Error) -> Option<&str> {
    err.chain()
        .find_map(|cause| cause.downcast_ref::<Hinted>())
        .map(|hinted| hinted.hint.as_str())
}

/// An error with a way out for the person who reads it.
#[derive(Debug)]
pub struct Hinted {
    what: String,
    hint: String,
}

impl Hinted {
    /// Makes an error that says `what` is wrong and gives a `hint`.
    #[must_use]
    pub fn new(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            hint: hint.into(),
        }
    }
}

impl fmt::Display for Hinted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Hinted {}

/// Adds a hint to an error.
pub trait WithHint<T> {
    /// Says `hint` on the line after the error.
    ///
    /// # Errors
    ///
    /// Returns the error that it was given, now with the hint.
    fn with_hint(self, hint: impl FnOnce() -> String) -> Result<T>;
}

impl<T> WithHint<T> for Result<T> {
    fn with_hint(self, hint: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|err| Hinted::new(format!("{err:#}"), hint()).into())
    }
}

/// Priorities of sd-daemon(3), named for what a person does about them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Look now.
    Error = 3,
    /// Look this week.
    Warning = 4,
    /// The state changed, as it should.
    Info = 6,
}

/// Writes one line to stderr, with a priority prefix when stderr is the journal.
///
/// A closed or full stderr is not an error: the work matters more than the message.
pub fn log(level: Level, message: fmt::Arguments<'_>) {
    let mut stderr = io::stderr().lock();
    let prefix = std::env::var_os("JOURNAL_STREAM").map(|_| format!("<{}>", level as u8));
    for line in message.to_string().lines() {
        let _ = writeln!(stderr, "{}{line}", prefix.as_deref().unwrap_or_default());
    }
}

/// Writes data to stdout.
///
/// # Errors
///
/// Fails when stdout cannot be written, except when its reader has gone: then there is nobody left
/// to tell.
pub fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(err) if err.kind() != io::ErrorKind::BrokenPipe => Err(err).context("write to stdout"),
        _ => Ok(()),
    }
}

/// Ends the process now, whatever its other threads do.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that ends a process; a thread that hangs in a system call cannot be joined"
)]
pub fn exit_now(status: u8) -> ! {
    std::process::exit(i32::from(status))
}

/// Ends the process with `program.failure` once `deadline` has passed.
///
/// A call that hangs on a dead disk would otherwise block the server's shutdown for ever. What the
/// process was doing is left as a crash would leave it.
pub fn end_after(deadline: Duration, program: Program) {
    std::thread::spawn(move || {
        std::thread::sleep(deadline);
        log(
            Level::Error,
            format_args!(
                "{}: not done after {} seconds\nhint: is the storage responding? the limit is set in the settings file",
                program.complaint,
                deadline.as_secs()
            ),
        );
        exit_now(program.failure);
    });
}

/// Reads and checks the settings file at `path`.
///
/// # Errors
///
/// Fails when the file cannot be read, and with every problem at once when it cannot be used.
pub fn read_settings(path: &Path) -> Result<Settings> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("read settings \"{}\"", path.display()))
        .with_hint(|| {
            "--config names the settings file of the instance, which this user has to be able to read; NixOS puts it into /etc/backstay".into()
        })?;
    Settings::parse(&text)
        .map_err(|problems: Problems| anyhow::Error::new(problems))
        .with_context(|| format!("use settings \"{}\"", path.display()))
}
