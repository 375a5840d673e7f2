//! Running other programs: the one place that spawns processes.
//!
//! A program is named by its whole path, gets no shell, no standard input and a cleared
//! environment, and a failure says which program with which arguments ended how, and what it said.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

mod conversation;
mod input;
mod pipe;
mod within;

pub use conversation::Conversation;
pub use input::Answered;
pub use pipe::Piped;
pub use within::Told;

/// Environment variables that a program keeps: where it may put temporary files, who runs it, and
/// how to reach its libraries.
const KEPT_ENVIRONMENT: [&str; 7] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "LOCALE_ARCHIVE",
];

/// A program to run.
#[derive(Clone, Debug)]
pub struct Command {
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    directory: Option<PathBuf>,
}

/// Where another of our programs is: beside this one.
///
/// # Errors
///
/// Fails when it is not there.
pub fn sibling(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("find this program")?;
    let program = own.with_file_name(name);
    ensure!(program.exists(), "\"{}\" is missing", program.display());
    Ok(program)
}

/// Where the program `name` is, if it is in `PATH`.
#[must_use]
pub fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        // Anything else depends on where somebody happens to be.
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(name))
        .find(|program| program.is_file())
}

/// What a program that ended with status 0 wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// How a program ended whose output was handed over while it ran.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Its status.
    pub status: ExitStatus,
    /// Standard error.
    pub stderr: String,
}

impl Command {
    /// Prepares to run `program`.
    #[must_use]
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            arguments: Vec::new(),
            // Messages and numbers are read by our own code, so they come in one language.
            environment: vec![("LC_ALL".into(), "C".into()), ("TZ".into(), "UTC".into())],
            directory: None,
        }
    }

    /// Prepares to run another of our programs, which is installed beside this one.
    ///
    /// # Errors
    ///
    /// Fails when it is not there.
    pub fn beside(name: &str) -> Result<Self> {
        sibling(name).map(Self::new)
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.arguments
            .extend(arguments.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    /// Turns this into a run of `program` with `arguments` and then this command line, as `strace`
    /// and `setpriv` want it.
    #[must_use]
    pub fn wrapped_in<S: AsRef<OsStr>>(
        mut self,
        program: impl Into<PathBuf>,
        arguments: impl IntoIterator<Item = S>,
    ) -> Self {
        let inner = std::mem::replace(&mut self.program, program.into());
        let mut all: Vec<OsString> = arguments
            .into_iter()
            .map(|argument| argument.as_ref().to_owned())
            .collect();
        all.push(inner.into());
        all.append(&mut self.arguments);
        self.arguments = all;
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.environment
            .push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Sets the working directory.
    #[must_use]
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// The command line as a person would type it, for messages.
    #[must_use]
    pub fn line(&self) -> String {
        std::iter::once(self.program.as_os_str())
            .chain(self.arguments.iter().map(OsString::as_os_str))
            .map(|word| quoted(&word.to_string_lossy()))
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// Runs the program to its end and returns what it wrote.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be started or ends with another status than 0; the error has its last
    /// lines on standard error.
    pub fn run(&self) -> Result<Output> {
        let (status, output) = self.run_any_status()?;
        if status.success() {
            Ok(output)
        } else {
            Err(self.failure(status, &output.stderr))
        }
    }

    /// Runs the program to its end and returns its status and what it wrote.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be started.
    pub fn run_any_status(&self) -> Result<(ExitStatus, Output)> {
        let output = self
            .prepared()
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .output()
            .with_context(|| format!("run \"{}\"", self.program.display()))?;
        Ok((
            output.status,
            Output {
                stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
                stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            },
        ))
    }

    /// Runs the program and hands each line of its standard output to `line`, without keeping it.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be started, and with the first error that `line` returns; the program
    /// is ended then. Its own status is for the caller to judge.
    pub fn for_each_line(&self, line: impl FnMut(&str) -> Result<()>) -> Result<Ended> {
        self.read_lines(line)
    }

    /// Runs the program and hands each line of its standard error to `line` as it comes. Lines that
    /// end with a carriage return, as progress reports do, count too.
    ///
    /// # Errors
    ///
    /// Fails as [`Command::run`] does.
    pub fn run_watching(&self, mut line: impl FnMut(&str)) -> Result<()> {
        let mut tail: Vec<String> = Vec::new();
        let status = self.watch_stderr(None, |text| {
            for part in text.split('\r').filter(|part| !part.trim().is_empty()) {
                line(part);
                if !part.trim_start().starts_with(|c: char| c.is_ascii_digit()) {
                    tail.push(part.to_owned());
                }
            }
        })?;
        let status = status.context("it was killed without having a time to end")?;
        if status.success() {
            Ok(())
        } else {
            Err(self.failure(status, &tail.join("\n")))
        }
    }

    /// Hands over the lines of standard error until the program has ended, and returns its status; nothing
    /// if it was killed because `until` had come.
    ///
    /// The program's end counts, not that of its standard error: `pg_basebackup` that failed has
    /// left the child that streams WAL behind, which then holds the pipe open for ever. What is left
    /// of the process group is ended.
    fn watch_stderr(
        &self,
        until: Option<Instant>,
        mut line: impl FnMut(&str),
    ) -> Result<Option<ExitStatus>> {
        const POLL: Duration = Duration::from_millis(50);
        let mut child = self
            .prepared()
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .with_context(|| format!("run \"{}\"", self.program.display()))?;
        let group = Pid::from_raw(i32::try_from(child.id())?);
        let stderr = child.stderr.take().ok_or_else(|| {
            anyhow!(
                "standard error of \"{}\" is missing",
                self.program.display()
            )
        })?;
        let (send, lines) = mpsc::channel();
        std::thread::spawn(move || {
            let mut reader = BufReader::new(stderr);
            let mut buffer = Vec::new();
            while reader
                .read_until(b'\n', &mut buffer)
                .is_ok_and(|read| read > 0)
            {
                let text = String::from_utf8_lossy(&buffer);
                if send.send(text.trim_end_matches('\n').to_owned()).is_err() {
                    break;
                }
                buffer.clear();
            }
        });
        let mut status = None;
        loop {
            match lines.recv_timeout(POLL) {
                Ok(text) => line(&text),
                // Nothing came for a while after the end: nothing more will.
                Err(_) if status.is_some() => return Ok(status),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => std::thread::sleep(POLL),
            }
            if status.is_some() {
                continue;
            }
            status = child
                .try_wait()
                .with_context(|| format!("wait for \"{}\"", self.program.display()))?;
            if status.is_some() {
                let _ = killpg(group, Signal::SIGTERM);
            } else if until.is_some_and(|until| Instant::now() >= until) {
                let _ = killpg(group, Signal::SIGKILL);
                let _ = child.wait();
                return Ok(None);
            }
        }
    }

    fn read_lines(&self, mut line: impl FnMut(&str) -> Result<()>) -> Result<Ended> {
        let mut child = self
            .prepared()
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("run \"{}\"", self.program.display()))?;
        let stdout = child.stdout.take().ok_or_else(|| {
            anyhow!(
                "standard output of \"{}\" is missing",
                self.program.display()
            )
        })?;
        // Both pipes are read at once: a program that fills the one that nobody reads would wait.
        let errors = child.stderr.take().map(|mut pipe| {
            std::thread::spawn(move || {
                let mut text = Vec::new();
                let _ = pipe.read_to_end(&mut text);
                String::from_utf8_lossy(&text).into_owned()
            })
        });
        let mut reader = BufReader::with_capacity(1 << 16, stdout);
        let mut buffer = Vec::new();
        let mut outcome = Ok(());
        loop {
            buffer.clear();
            let read = reader
                .read_until(b'\n', &mut buffer)
                .with_context(|| format!("read from \"{}\"", self.program.display()))?;
            if read == 0 {
                break;
            }
            outcome = line(String::from_utf8_lossy(&buffer).trim_end_matches('\n'));
            if outcome.is_err() {
                let _ = child.kill();
                break;
            }
        }
        let status = child
            .wait()
            .with_context(|| format!("wait for \"{}\"", self.program.display()))?;
        let errors = errors
            .map(|thread| thread.join().unwrap_or_default())
            .unwrap_or_default();
        outcome?;
        Ok(Ended {
            status,
            stderr: errors,
        })
    }

    /// Starts the program in a session of its own, with its output in `log` (appended), and returns
    /// without waiting.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be started or the log cannot be opened.
    pub fn start_with_log(&self, log: &Path) -> Result<Started> {
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("open \"{}\"", log.display()))?;
        let errors = file
            .try_clone()
            .with_context(|| format!("open \"{}\"", log.display()))?;
        let child = self
            .prepared()
            .stdout(file)
            .stderr(errors)
            // A terminal's Ctrl-C goes to the process group; a database should not get it.
            .process_group(0)
            .spawn()
            .with_context(|| format!("run \"{}\"", self.program.display()))?;
        Ok(Started { child })
    }

    /// Starts the program in a process group of its own, with the output of this process, and returns
    /// without waiting.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be started.
    pub fn start(&self) -> Result<Started> {
        let child = self
            .prepared()
            .process_group(0)
            .spawn()
            .with_context(|| format!("run \"{}\"", self.program.display()))?;
        Ok(Started { child })
    }

    /// Starts the program on its own, with no output, and forgets it.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be started.
    pub fn start_detached(&self) -> Result<()> {
        self.prepared()
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map(drop)
            .with_context(|| format!("run \"{}\"", self.program.display()))
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that spawns processes"
    )]
    fn prepared(&self) -> std::process::Command {
        let mut command = std::process::Command::new(&self.program);
        command.env_clear().stdin(Stdio::null());
        for name in KEPT_ENVIRONMENT {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.envs(self.environment.iter().map(|(n, v)| (n, v)));
        command.args(&self.arguments);
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        command
    }

    fn failure(&self, status: ExitStatus, stderr: &str) -> anyhow::Error {
        let lines: Vec<&str> = stderr.lines().filter(|l| !l.trim().is_empty()).collect();
        let said = lines[lines.len().saturating_sub(8)..].join("; ");
        let how = how_it_ended(status);
        if said.is_empty() {
            anyhow!("\"{}\" {how}", self.line())
        } else {
            anyhow!("\"{}\" {how}: {said}", self.line())
        }
    }
}

/// A program that was started and not waited for.
#[derive(Debug)]
pub struct Started {
    child: Child,
}

impl Started {
    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its status, if it has ended.
    ///
    /// # Errors
    ///
    /// Fails when the operating system cannot say.
    pub fn has_ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().context("wait for a program")
    }

    /// Waits for its end.
    ///
    /// # Errors
    ///
    /// Fails when the operating system cannot say.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        self.child.wait().context("wait for a program")
    }
}

/// Puts this program in the place of the current process; returns only when that fails.
///
/// # Errors
///
/// Fails when the program cannot be run.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that spawns processes"
)]
pub fn replace_process(program: &Path, arguments: &[OsString]) -> Result<std::convert::Infallible> {
    let err = std::process::Command::new(program).args(arguments).exec();
    bail!("run \"{}\": {err}", program.display())
}

/// Says how a program ended: `exited with status 3`, `was killed by signal 9`.
#[must_use]
pub fn how_it_ended(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with status {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => format!("ended with {status}"),
    }
}

/// Quotes `word` for a POSIX shell when it needs it.
///
/// Our programs never go through a shell. PostgreSQL's `archive_command` and `restore_command` do,
/// and so does what a person copies from our messages.
#[must_use]
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_which_program_how_and_what_it_said() {
        let err = Command::new("/bin/sh")
            .args(["-c", "echo a reason >&2; exit 3"])
            .run()
            .unwrap_err();
        assert_eq!(
            err.to_string(),
            "\"/bin/sh -c 'echo a reason >&2; exit 3'\" exited with status 3: a reason"
        );
    }

    #[test]
    fn a_missing_program_is_named() {
        let err = Command::new("/nonexistent/pg_ctl").run().unwrap_err();
        assert_eq!(
            format!("{err:#}"),
            "run \"/nonexistent/pg_ctl\": No such file or directory (os error 2)"
        );
    }

    #[test]
    fn the_environment_is_cleared_and_the_language_is_fixed() {
        let out = Command::new("/usr/bin/env").run().unwrap().stdout;
        assert!(
            out.contains("LC_ALL=C\n") && out.contains("TZ=UTC\n"),
            "{out}"
        );
        assert!(!out.contains("CARGO"), "{out}");
    }

    #[test]
    fn lines_are_handed_over_while_the_other_pipe_fills() {
        let mut lines = 0;
        Command::new("/bin/sh")
            .args([
                "-c",
                "for i in $(seq 20000); do echo out; echo error-error-error >&2; done",
            ])
            .for_each_line(|_| {
                lines += 1;
                Ok(())
            })
            .unwrap();
        assert_eq!(lines, 20000);
    }

    #[test]
    fn progress_lines_that_end_in_carriage_returns_are_seen() {
        let mut seen = Vec::new();
        Command::new("/bin/sh")
            .args(["-c", r"printf '1/3 kB\r2/3 kB\r3/3 kB\n' >&2"])
            .run_watching(|line| seen.push(line.to_owned()))
            .unwrap();
        assert_eq!(seen, ["1/3 kB", "2/3 kB", "3/3 kB"]);
    }

    #[test]
    fn a_child_that_is_left_behind_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let end = directory.path().join("end");
        // The child keeps the pipe open until it is ended or the test lets it end.
        let script = "{ until [ -e \"$0\" ]; do sleep 0.05; done; } & echo $! > \"$0.id\"; echo a reason >&2; exit 1";
        let err = Command::new("/bin/sh")
            .args(["-c", script])
            .arg(&end)
            .run_watching(|_| ())
            .unwrap_err();
        let message = err.to_string();
        assert!(
            message.ends_with("exited with status 1: a reason"),
            "{message}"
        );
        std::fs::write(&end, "").unwrap();
        let id = std::fs::read_to_string(directory.path().join("end.id")).unwrap();
        let state = format!("/proc/{}/stat", id.trim());
        // Gone, or dead and not yet collected by whoever has become its parent.
        while std::fs::read_to_string(&state).is_ok_and(|stat| !stat.contains(") Z ")) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    #[test]
    fn quoting_leaves_plain_words_alone() {
        assert_eq!(quoted("/a/b-c_d.e"), "/a/b-c_d.e");
        assert_eq!(quoted(""), "''");
        assert_eq!(quoted("it's $HOME"), r"'it'\''s $HOME'");
    }
}
