use std::io::{Read, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::Command;

/// How often a program is asked whether it has ended.
const POLL: Duration = Duration::from_millis(20);
/// How long what a program wrote is waited for after its end: a child of it may hold the pipe open.
pub(crate) const PATIENCE: Duration = Duration::from_millis(500);

/// How a program ended that was given something to read.
#[derive(Clone, Debug)]
pub struct Answered {
    /// Its status; nothing if it was killed because it took too long.
    pub status: Option<ExitStatus>,
    /// Its standard output, then its standard error.
    pub said: String,
}

impl Command {
    /// Runs the program with `input` on its standard input, and kills it and what it has started when
    /// it has not ended after `deadline`.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be started. How it ended is for the caller to judge.
    pub fn run_with_input(&self, input: &str, deadline: Duration) -> Result<Answered> {
        let begun = Instant::now();
        let mut child = self
            .prepared()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .with_context(|| format!("run \"{}\"", self.program.display()))?;
        let group = Pid::from_raw(i32::try_from(child.id())?);
        let missing = || anyhow!("a pipe to \"{}\" is missing", self.program.display());
        let mut stdin = child.stdin.take().ok_or_else(missing)?;
        let input = input.to_owned();
        // A program that does not read its input to the end is none the worse for it.
        thread::spawn(move || {
            let _ = stdin.write_all(input.as_bytes());
        });
        let stdout = collect(child.stdout.take().ok_or_else(missing)?);
        let stderr = collect(child.stderr.take().ok_or_else(missing)?);
        let status = loop {
            let ended = child
                .try_wait()
                .with_context(|| format!("wait for \"{}\"", self.program.display()))?;
            if ended.is_some() {
                break ended;
            }
            if begun.elapsed() >= deadline {
                let _ = killpg(group, Signal::SIGKILL);
                let _ = child.wait();
                break None;
            }
            thread::sleep(POLL);
        };
        let said = |pipe: &mpsc::Receiver<String>| pipe.recv_timeout(PATIENCE).unwrap_or_default();
        Ok(Answered {
            status,
            said: said(&stdout) + &said(&stderr),
        })
    }
}

/// Reads a pipe to its end beside the program.
pub(crate) fn collect(mut pipe: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        let _ = send.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    receive
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        Command::new("/bin/sh").args(["-c", script])
    }

    #[test]
    fn a_program_reads_its_input_and_what_it_says_comes_back() {
        let long = "line\n".repeat(50_000);
        let answered = shell("wc -l; echo problem >&2; exit 3")
            .run_with_input(&long, Duration::from_mins(1))
            .unwrap();
        assert_eq!(answered.status.and_then(|status| status.code()), Some(3));
        assert_eq!(answered.said, "50000\nproblem\n");
    }

    #[test]
    fn a_program_that_takes_too_long_is_killed_with_what_it_has_started() {
        let directory = tempfile::tempdir().unwrap();
        let id = directory.path().join("id");
        let answered = shell("sleep 1000 & echo $! > \"$0\"; wait")
            .arg(&id)
            .run_with_input("", Duration::from_millis(500))
            .unwrap();
        assert!(answered.status.is_none());
        // Where the machine was too slow for the child to be started, there is nothing left to kill.
        let Ok(id) = std::fs::read_to_string(&id) else {
            return;
        };
        let state = format!("/proc/{}/stat", id.trim());
        while std::fs::read_to_string(&state).is_ok_and(|stat| !stat.contains(") Z ")) {
            thread::sleep(POLL);
        }
    }
}
