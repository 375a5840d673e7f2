//! Units that are there for as long as a program runs.

use anyhow::Result;
use command::Command;
use tool::{Hinted, WithHint as _};

use crate::program;

/// A service that is made when it is started, and forgotten when it has ended.
#[derive(Clone, Debug)]
pub struct Transient {
    /// Its name, which ends in `.service`.
    pub name: String,
    /// What it is, for people.
    pub description: String,
    /// The user that it runs as.
    pub user: String,
    /// Further properties, as systemd.service(5) and systemd.exec(5) have them.
    pub properties: Vec<String>,
    /// The program, by its whole path, and its arguments.
    pub command: Vec<String>,
}

impl Transient {
    /// Starts it, and returns once the program runs.
    ///
    /// # Errors
    ///
    /// Fails when there is a unit of this name already, when the program cannot be executed, and when this user may
    /// not start it.
    pub fn start(&self) -> Result<()> {
        let systemd_run = program("systemd-run").ok_or_else(|| {
            Hinted::new(
                format!("systemd-run is missing, which starts \"{}\"", self.name),
                "it comes with systemd",
            )
        })?;
        Command::new(systemd_run)
            .args([
                "--no-ask-password",
                "--quiet",
                "--collect",
                "--service-type=exec",
            ])
            .arg(format!("--unit={}", self.name))
            .arg(format!("--description={}", self.description))
            .arg(format!("--uid={}", self.user))
            .args(
                self.properties
                    .iter()
                    .map(|property| format!("--property={property}")),
            )
            .arg("--")
            .args(&self.command)
            .run()
            .map(drop)
            .with_hint(|| {
                format!(
                    "its messages are in the journal: `journalctl --unit={}`",
                    command::quoted(&self.name)
                )
            })
    }
}
