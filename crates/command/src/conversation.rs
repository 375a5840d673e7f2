use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::{Command, how_it_ended};

/// A program that answers each line on its standard input with a line on its standard output.
///
/// It is told to end by the end of its input, when this is dropped or its owner dies.
#[derive(Debug)]
pub struct Conversation {
    program: PathBuf,
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Command {
    /// Starts the program for a conversation. Its standard error is that of this process.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be started.
    pub fn converse(&self) -> Result<Conversation> {
        let mut child = self
            .prepared()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("run \"{}\"", self.program.display()))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("the pipes to \"{}\" are missing", self.program.display());
        };
        Ok(Conversation {
            program: self.program.clone(),
            child,
            input: Some(input),
            output: BufReader::new(output),
        })
    }
}

impl Conversation {
    /// Says `line` and returns the answer.
    ///
    /// # Errors
    ///
    /// Fails when the program has ended, with how it did.
    pub fn ask(&mut self, line: &str) -> Result<String> {
        let said = match &mut self.input {
            Some(input) => writeln!(input, "{line}").and_then(|()| input.flush()),
            None => Ok(()),
        };
        let mut answer = String::new();
        if said.is_ok()
            && self
                .output
                .read_line(&mut answer)
                .with_context(|| format!("read from \"{}\"", self.program.display()))?
                > 0
        {
            return Ok(answer.trim_end_matches('\n').to_owned());
        }
        let status = self
            .child
            .wait()
            .with_context(|| format!("wait for \"{}\"", self.program.display()))?;
        bail!(
            "\"{}\" {} without an answer",
            self.program.display(),
            how_it_ended(status)
        )
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        self.input = None;
        // It has nothing left to do; not waiting would leave its entry in the process table.
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_is_answered_and_the_end_of_the_input_ends_the_program() {
        let mut echo = Command::new("/bin/sh")
            .args(["-c", "while read -r line; do echo \"said $line\"; done"])
            .converse()
            .unwrap();
        assert_eq!(echo.ask("stop").unwrap(), "said stop");
        assert_eq!(echo.ask("start").unwrap(), "said start");
        drop(echo);
    }

    #[test]
    fn a_program_that_has_ended_is_named() {
        let mut gone = Command::new("/bin/sh")
            .args(["-c", "read -r line; exit 7"])
            .converse()
            .unwrap();
        assert_eq!(
            gone.ask("stop").unwrap_err().to_string(),
            "\"/bin/sh\" exited with status 7 without an answer"
        );
    }
}
