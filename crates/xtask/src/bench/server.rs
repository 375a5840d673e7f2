//! A server that is started for one measurement, as a child of this process, so that the processor time
//! of everything it starts is counted.

use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::process;

/// How often the state of a server is looked at. It bounds the error of a measurement.
pub const TICK: Duration = Duration::from_millis(2);
/// How long a measurement waits for a server.
const PATIENCE: Duration = Duration::from_mins(10);

/// A running server.
#[derive(Debug)]
pub struct Server {
    child: Child,
    data: PathBuf,
    log: PathBuf,
    begun: Instant,
}

impl Server {
    /// Starts the server on `data`, below the program `around` if there is one.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be started.
    pub fn start(programs: &testbed::Server, data: &Path, around: &[String]) -> Result<Self> {
        let log = durable_file::with_suffix(data, ".log");
        let file =
            std::fs::File::create(&log).with_context(|| format!("create \"{}\"", log.display()))?;
        let errors = file.try_clone().context("share the log")?;
        let postgres = programs.bin().join("postgres");
        let mut words = around.iter().map(Into::into).collect::<Vec<PathBuf>>();
        words.extend([postgres, "-D".into(), data.to_owned()]);
        let mut command = process::command(&words[0]);
        command
            .args(&words[1..])
            .stdin(std::process::Stdio::null())
            .stdout(file)
            .stderr(errors);
        let begun = Instant::now();
        let child = command.spawn().context("start the server")?;
        Ok(Self {
            child,
            data: data.to_owned(),
            log,
            begun,
        })
    }

    /// Waits until `done` says so, and returns how long it took since the start.
    ///
    /// # Errors
    ///
    /// Fails when the server ends before, or takes too long.
    pub fn wait(&mut self, mut done: impl FnMut() -> Result<bool>) -> Result<Duration> {
        while !done()? {
            if let Some(status) = self.child.try_wait().context("wait for the server")? {
                bail!(
                    "the server {}: {}",
                    command::how_it_ended(status),
                    self.last_words()
                );
            }
            if self.begun.elapsed() > PATIENCE {
                bail!(
                    "the server took longer than {} seconds: {}",
                    PATIENCE.as_secs(),
                    self.last_words()
                );
            }
            std::thread::sleep(TICK);
        }
        Ok(self.begun.elapsed())
    }

    /// Waits until the server has ended by itself, and returns its log.
    ///
    /// # Errors
    ///
    /// Fails when it takes too long.
    pub fn wait_for_end(mut self) -> Result<String> {
        while self
            .child
            .try_wait()
            .context("wait for the server")?
            .is_none()
        {
            if self.begun.elapsed() > PATIENCE {
                bail!("the server did not end: {}", self.last_words());
            }
            std::thread::sleep(TICK);
        }
        process::wait_for_orphans()?;
        std::fs::read_to_string(&self.log)
            .with_context(|| format!("read \"{}\"", self.log.display()))
    }

    /// Ends the server at once, and waits for everything that it started.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be waited for.
    pub fn end(mut self) -> Result<()> {
        self.signal();
        self.child.wait().context("wait for the server")?;
        process::wait_for_orphans()
    }

    fn signal(&self) {
        // Its own number, not that of a program around it.
        let pid = std::fs::read_to_string(self.data.join("postmaster.pid"))
            .ok()
            .and_then(|text| text.lines().next()?.trim().parse().ok());
        if let Some(pid) = pid {
            let _ = kill(Pid::from_raw(pid), Signal::SIGQUIT);
        }
    }

    fn last_words(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("; ")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal();
            let _ = self.child.wait();
        }
    }
}

/// Processor time so far of all ended children and of what they waited for.
///
/// # Errors
///
/// Fails when the operating system cannot say.
pub fn processor_time() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).context("ask for processor time")?;
    let microseconds = |time: nix::sys::time::TimeVal| {
        u64::try_from(time.tv_sec() * 1_000_000 + time.tv_usec()).unwrap_or_default()
    };
    Ok(Duration::from_micros(
        microseconds(usage.user_time()) + microseconds(usage.system_time()),
    ))
}
