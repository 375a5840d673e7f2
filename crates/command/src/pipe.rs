//! Two programs of which one reads what the other writes.

use std::io::{ErrorKind, Read, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::Command;
use crate::input::{PATIENCE, collect};

/// How often is looked how far they are.
const POLL: Duration = Duration::from_millis(50);

/// How two programs ended of which one read what the other wrote.
#[derive(Clone, Debug)]
pub struct Piped {
    /// How the one that wrote ended; nothing if both were killed because their time was over.
    pub writer: Option<ExitStatus>,
    /// How the one that read ended.
    pub reader: Option<ExitStatus>,
    /// Standard error of the one that wrote.
    pub writer_said: String,
    /// Standard error of the one that read.
    pub reader_said: String,
    /// What the one that read was given, in bytes.
    pub bytes: u64,
}

impl Piped {
    /// Whether both ended with status 0.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        [self.writer, self.reader]
            .iter()
            .all(|status| status.is_some_and(|status| status.success()))
    }
}

impl Command {
    /// Runs this program and `reader` side by side, and gives `reader` what this one writes to standard output.
    /// `moved` is told now and then how many bytes that were so far. Both are killed once `until` has come.
    ///
    /// When one of them ends the other one sees the end of its pipe. What this process reads and does not pass on
    /// because it dies is lost to `reader`, which sees its input end in the middle.
    ///
    /// # Errors
    ///
    /// Fails when one of them cannot be started; then the other one is not left running. How they ended is for the
    /// caller to judge.
    pub fn run_into(
        &self,
        reader: &Self,
        until: Option<Instant>,
        mut moved: impl FnMut(u64),
    ) -> Result<Piped> {
        let mut second = reader.piped(Stdio::piped(), Stdio::null())?;
        let mut first = match self.piped(Stdio::null(), Stdio::piped()) {
            Ok(first) => first,
            Err(err) => {
                second.kill();
                return Err(err);
            }
        };
        let missing = || anyhow!("a pipe to \"{}\" is missing", self.program.display());
        let mut from = first.child.stdout.take().ok_or_else(missing)?;
        let mut to = second.child.stdin.take().ok_or_else(missing)?;
        let writer_said = collect(first.child.stderr.take().ok_or_else(missing)?);
        let reader_said = collect(second.child.stderr.take().ok_or_else(missing)?);
        let bytes = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&bytes);
        // Ends with either of the two pipes, and closes both then.
        let copying = thread::spawn(move || {
            let mut buffer = vec![0; 1 << 17];
            loop {
                match from.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(read) => {
                        if to.write_all(&buffer[..read]).is_err() {
                            break;
                        }
                        counted.fetch_add(read as u64, Ordering::Relaxed);
                    }
                    Err(err) if err.kind() == ErrorKind::Interrupted => {}
                    Err(_) => break,
                }
            }
        });
        let is_over = loop {
            moved(bytes.load(Ordering::Relaxed));
            if first.has_ended()? && second.has_ended()? {
                break false;
            }
            if until.is_some_and(|until| Instant::now() >= until) {
                first.kill();
                second.kill();
                break true;
            }
            thread::sleep(POLL);
        };
        // What was read last is counted a moment after it. A child of theirs that is left may hold a pipe open for
        // ever; then what was counted by now is what counts.
        let since = Instant::now();
        while !copying.is_finished() && since.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(1));
        }
        moved(bytes.load(Ordering::Relaxed));
        let status = |running: &Running| if is_over { None } else { running.status };
        Ok(Piped {
            writer: status(&first),
            reader: status(&second),
            writer_said: writer_said.recv_timeout(PATIENCE).unwrap_or_default(),
            reader_said: reader_said.recv_timeout(PATIENCE).unwrap_or_default(),
            bytes: bytes.load(Ordering::Relaxed),
        })
    }

    fn piped(&self, input: Stdio, output: Stdio) -> Result<Running> {
        let child = self
            .prepared()
            .stdin(input)
            .stdout(output)
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .with_context(|| format!("run \"{}\"", self.program.display()))?;
        Ok(Running {
            group: Pid::from_raw(i32::try_from(child.id())?),
            child,
            status: None,
        })
    }
}

struct Running {
    child: Child,
    group: Pid,
    status: Option<ExitStatus>,
}

impl Running {
    fn has_ended(&mut self) -> Result<bool> {
        if self.status.is_none() {
            self.status = self.child.try_wait().context("wait for a program")?;
        }
        Ok(self.status.is_some())
    }

    fn kill(&mut self) {
        if self.status.is_none() {
            let _ = killpg(self.group, Signal::SIGKILL);
            self.status = self.child.wait().ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        Command::new("/bin/sh").args(["-c", script])
    }

    #[test]
    fn what_one_writes_the_other_reads_and_it_is_counted() {
        let mut seen = 0;
        let piped = shell("head -c 1000000 /dev/zero; echo sent >&2")
            .run_into(
                &shell("test $(wc -c) = 1000000 && echo whole >&2"),
                None,
                |bytes| seen = seen.max(bytes),
            )
            .unwrap();
        assert!(piped.succeeded(), "{piped:?}");
        assert_eq!((piped.bytes, seen <= 1_000_000), (1_000_000, true));
        assert_eq!(
            (piped.writer_said.as_str(), piped.reader_said.as_str()),
            ("sent\n", "whole\n")
        );
    }

    #[test]
    fn each_ends_with_the_other_and_how_is_told() {
        // Would write for ever.
        let piped = shell("exec cat /dev/zero")
            .run_into(&shell("head -c 10 >/dev/null; exit 3"), None, |_| ())
            .unwrap();
        assert_eq!(piped.reader.and_then(|status| status.code()), Some(3));
        assert!(piped.writer.is_some_and(|status| !status.success()));
        // Would wait for ever.
        let piped = shell("exit 4")
            .run_into(&shell("exec cat >/dev/null"), None, |_| ())
            .unwrap();
        assert_eq!(piped.writer.and_then(|status| status.code()), Some(4));
        assert!(piped.reader.is_some_and(|status| status.success()));
        assert!(!piped.succeeded());
    }

    #[test]
    fn both_are_killed_when_their_time_is_over() {
        let piped = shell("exec sleep 1000")
            .run_into(
                &shell("exec cat >/dev/null"),
                Some(Instant::now() + Duration::from_millis(300)),
                |_| (),
            )
            .unwrap();
        assert!(piped.writer.is_none() && piped.reader.is_none());
    }

    #[test]
    fn one_that_cannot_be_started_leaves_no_other_behind() {
        let nowhere = Command::new("/nonexistent/zfs");
        for (writer, reader) in [
            (&nowhere, &shell("exec cat >/dev/null")),
            (&shell("exec sleep 1000"), &nowhere),
        ] {
            let err = writer.run_into(reader, None, |_| ()).unwrap_err();
            assert!(err.to_string().contains("/nonexistent/zfs"), "{err:#}");
        }
    }
}
