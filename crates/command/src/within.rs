use std::process::ExitStatus;
use std::time::Instant;

use anyhow::Result;

use crate::Command;

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
        let mut lines = Vec::new();
        let status = self.watch_stderr(until, |text| {
            line(text);
            lines.push(text.to_owned());
        })?;
        Ok(Told { status, lines })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
