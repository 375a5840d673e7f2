//! A systemd service, by way of `systemctl`.
//!
//! A server that systemd runs has to be stopped and started by systemd: one that `pg_ctl` stops looks
//! like a failure and is started again, and one that `pg_ctl` starts has none of the unit's limits.

mod transient;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use command::Command;
use tool::{Hinted, WithHint as _};

pub use transient::Transient;

/// How often a unit is asked whether it has stopped.
const POLL: Duration = Duration::from_millis(200);

/// Where systemd's programs are when `PATH` does not lead to them.
const PLACES: [&str; 2] = ["/run/current-system/sw/bin", "/usr/bin"];

/// Where the program `name` of systemd is, if it is on `PATH` or where it usually is.
#[must_use]
pub fn program(name: &str) -> Option<PathBuf> {
    command::in_path(name).or_else(|| {
        PLACES
            .map(|directory| Path::new(directory).join(name))
            .into_iter()
            .find(|program| program.exists())
    })
}

/// A service.
#[derive(Clone, Debug)]
pub struct Service {
    name: String,
    systemctl: PathBuf,
}

/// What systemd says of a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// `LoadState`: `loaded`, or `not-found` when there is no such unit.
    pub load: String,
    /// `ActiveState`: `active`, `activating`, `deactivating`, `inactive`, `failed`, `reloading`.
    pub active: String,
}

impl State {
    /// Whether nothing of the unit runs, and nothing is about to.
    #[must_use]
    pub fn is_down(&self) -> bool {
        matches!(self.active.as_str(), "inactive" | "failed")
    }
}

impl Service {
    /// The service `name`, which ends in `.service`.
    ///
    /// # Errors
    ///
    /// Fails when `systemctl` is neither on `PATH` nor where it usually is.
    pub fn new(name: &str) -> Result<Self> {
        let systemctl = program("systemctl").ok_or_else(|| {
            Hinted::new(
                format!("systemctl is missing, which starts and stops \"{name}\""),
                "without systemd, leave postgresql.unit out of the settings",
            )
        })?;
        Ok(Self::with_systemctl(name, &systemctl))
    }

    /// The service `name`, by way of the program `systemctl`.
    #[must_use]
    pub fn with_systemctl(name: &str, systemctl: &Path) -> Self {
        Self {
            name: name.to_owned(),
            systemctl: systemctl.to_owned(),
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    fn systemctl<S: AsRef<std::ffi::OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
    ) -> Command {
        // Whoever may do it does it: nobody is there to type a password for somebody else.
        Command::new(&self.systemctl)
            .arg("--no-ask-password")
            .args(arguments)
    }

    /// Asks systemd for its state.
    ///
    /// # Errors
    ///
    /// Fails when systemd does not answer.
    pub fn state(&self) -> Result<State> {
        let said = self
            .systemctl([
                "show",
                "--property=LoadState",
                "--property=ActiveState",
                "--",
                &self.name,
            ])
            .run()?
            .stdout;
        let property = |name: &str| {
            said.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
                .map(ToOwned::to_owned)
                .ok_or_else(|| anyhow!("systemctl did not say the {name} of \"{}\"", self.name))
        };
        Ok(State {
            load: property("LoadState")?,
            active: property("ActiveState")?,
        })
    }

    /// Stops it, waits at most `deadline`, and returns the other units that went down with it.
    ///
    /// A unit that requires this one is stopped too, and systemd does not start it again by itself.
    ///
    /// # Errors
    ///
    /// Fails when there is no such unit, when this user may not stop it, and when it is not down within
    /// `deadline`. Nothing here kills it; the unit's own `TimeoutStopSec=` may.
    pub fn stop(&self, deadline: Duration) -> Result<Vec<String>> {
        let before = self.state()?;
        if before.load == "not-found" {
            return Err(Hinted::new(
                format!("systemd has no unit \"{}\"", self.name),
                "name the service that runs the server as postgresql.unit",
            )
            .into());
        }
        let dependents = self.active_dependents()?;
        self.systemctl(["stop", "--no-block", "--", &self.name])
            .run()
            .with_hint(|| self.hint_for_rights())?;
        let begin = Instant::now();
        while !self.state()?.is_down() {
            if begin.elapsed() > deadline {
                return Err(Hinted::new(
                    format!(
                        "\"{}\" has not stopped within {} seconds",
                        self.name,
                        deadline.as_secs()
                    ),
                    "an archive that hangs blocks the shutdown; see `backstay status`, or stop it yourself and run this again",
                )
                .into());
            }
            std::thread::sleep(POLL);
        }
        let still_active = self.active_among(&dependents)?;
        Ok(dependents
            .into_iter()
            .filter(|unit| !still_active.contains(unit))
            .collect())
    }

    /// Starts it and waits until it has started, however long that takes: a server that recovers is
    /// not to be given up.
    ///
    /// # Errors
    ///
    /// Fails when it does not come up, or this user may not start it.
    pub fn start(&self) -> Result<()> {
        // A unit that failed too often in a row would be refused. Nothing is lost if it did not.
        let _ = self.systemctl(["reset-failed", "--", &self.name]).run();
        self.systemctl(["start", "--", &self.name])
            .run()
            .map(drop)
            .with_hint(|| {
                format!(
                    "its messages are in the journal: `journalctl --unit={}`",
                    command::quoted(&self.name)
                )
            })
    }

    /// Has `units` started, without waiting for them.
    ///
    /// # Errors
    ///
    /// Fails when systemd does not take the order.
    pub fn start_others(&self, units: &[String]) -> Result<()> {
        if units.is_empty() {
            return Ok(());
        }
        self.systemctl(["start", "--no-block", "--"])
            .args(units)
            .run()
            .map(drop)
    }

    fn hint_for_rights(&self) -> String {
        format!(
            "stopping \"{}\" takes root: put sudo before the command",
            self.name
        )
    }

    /// The units that are up and may go down with this one.
    fn active_dependents(&self) -> Result<Vec<String>> {
        let said = self
            .systemctl([
                "list-dependencies",
                "--reverse",
                "--all",
                "--plain",
                "--no-pager",
                "--",
                &self.name,
            ])
            .run()?
            .stdout;
        let mut units: Vec<String> = said
            .lines()
            .filter_map(|line| line.split_whitespace().last())
            .filter(|unit| *unit != self.name)
            .filter(|unit| {
                [".service", ".socket", ".timer", ".path"]
                    .iter()
                    .any(|kind| unit.ends_with(kind))
            })
            .map(ToOwned::to_owned)
            .collect();
        units.sort();
        units.dedup();
        self.active_among(&units)
    }

    fn active_among(&self, units: &[String]) -> Result<Vec<String>> {
        if units.is_empty() {
            return Ok(Vec::new());
        }
        let said = self
            .systemctl(["show", "--property=Id", "--property=ActiveState", "--"])
            .args(units)
            .run()?
            .stdout;
        let mut active = Vec::new();
        for block in said.split("\n\n") {
            let property = |name: &str| {
                block
                    .lines()
                    .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
            };
            if let (Some(id), Some("active" | "activating" | "reloading")) =
                (property("Id"), property("ActiveState"))
                && id != self.name
            {
                active.push(id.to_owned());
            }
        }
        Ok(active)
    }
}
