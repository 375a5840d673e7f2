use std::io::{BufRead as _, BufReader};
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
const POLL: Duration = Duration::from_millis(50);
/// How long the last words of a program are waited for: a child of it may hold the pipe open.
const PATIENCE: Duration = Duration::from_millis(500);

/// How a program ended whose messages were handed over while it ran.
#[derive(Clone, Debug)]
pub struct Told {
    /// Its status; nothing if it was killed because its time was over.
    pub status: Option<ExitStatus>,
    /// The lines of its standard error.
    pub lines: Vec<String>,
}

impl Command {
    /// Runs the program without its standard output, hands each line of its standard error to `line` as it
    /// comes, and kills it and its process group once `until` has come. What it has started in a group of
    /// its own goes on.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be started. How it ended is for the caller to judge.
    pub fn run_until(&self, until: Option<Instant>, mut line: impl FnMut(&str)) -> Result<Told> {
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
        let (send, receive) = mpsc::channel();
        thread::spawn(move || {
            for text in BufReader::new(stderr).split(b'\n') {
                let Ok(text) = text else { break };
                if send
                    .send(String::from_utf8_lossy(&text).into_owned())
                    .is_err()
                {
                    break;
                }
            }
        });
        let mut lines = Vec::new();
        let mut hear = |text: String| {
            line(&text);
            lines.push(text);
        };
        let status = loop {
            match receive.recv_timeout(POLL) {
                Ok(text) => hear(text),
                Err(mpsc::RecvTimeoutError::Disconnected) => thread::sleep(POLL),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
            }
            let ended = child
                .try_wait()
                .with_context(|| format!("wait for \"{}\"", self.program.display()))?;
            if ended.is_some() {
                break ended;
            }
            if until.is_some_and(|until| Instant::now() >= until) {
                let _ = killpg(group, Signal::SIGKILL);
                let _ = child.wait();
                break None;
            }
        };
        while let Ok(text) = receive.recv_timeout(PATIENCE) {
            hear(text);
        }
        Ok(Told { status, lines })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        Command::new("/bin/sh").args(["-c", script])
    }

    #[test]
    fn every_line_is_heard_and_the_status_told() {
        let mut heard = Vec::new();
        let told = shell("echo out; echo one >&2; echo two >&2; exit 3")
            .run_until(None, |line| heard.push(line.to_owned()))
            .unwrap();
        assert_eq!(told.status.and_then(|status| status.code()), Some(3));
        assert_eq!(told.lines, ["one", "two"]);
        assert_eq!(heard, told.lines);
    }

    #[test]
    fn a_program_whose_time_is_over_is_killed_and_has_no_status() {
        let told = shell("echo begun >&2; exec sleep 1000")
            .run_until(Some(Instant::now() + Duration::from_secs(1)), |_| ())
            .unwrap();
        assert!(told.status.is_none());
    }
}
