//! Stopping and starting the server of an instance: through systemd where it runs the server, through
//! `pg_ctl` elsewhere.
//!
//! Only root may tell systemd, and a restore is not root's work: what it writes has to belong to the
//! server's user. So root's part is a process of its own, which can do these two things and nothing
//! else, and ends with the restore.

use std::io::BufRead as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use cluster::Server;
use command::{Command, Conversation};
use serde::{Deserialize, Serialize};
use settings::Settings;
use systemd::Service;
use tool::{Hinted, Level};

use crate::restore::say;

/// What stops and starts the server of an instance.
pub struct Control {
    server: Server,
    how: How,
}

enum How {
    PgCtl,
    Unit(Unit),
    Helper(Conversation),
}

impl Control {
    /// Prepares to stop and start the server, or only to look at a plan. To be called before root
    /// becomes somebody else.
    ///
    /// # Errors
    ///
    /// Fails when `systemctl` is missing or root's part cannot be started.
    pub fn new(settings: &Settings, config: &Path, in_place: bool) -> Result<Self> {
        let server = Server::new(&settings.postgresql);
        let how = match &settings.postgresql.unit {
            Some(_) if in_place && nix::unistd::geteuid().is_root() => {
                let own = std::env::current_exe().context("find this program")?;
                How::Helper(
                    Command::new(own)
                        .args(["control", &settings.instance, "--config"])
                        .arg(config)
                        .converse()?,
                )
            }
            Some(unit) if in_place => How::Unit(Unit::new(unit, settings)?),
            _ => How::PgCtl,
        };
        Ok(Self { server, how })
    }

    /// Stops the server, if it runs, and keeps systemd from starting it again.
    ///
    /// # Errors
    ///
    /// Fails when it has not stopped within the declared time, and when this user may not stop it.
    /// Then nothing has been changed.
    pub fn stop(&mut self) -> Result<()> {
        match &mut self.how {
            How::PgCtl => {}
            How::Unit(unit) => unit.stop()?,
            How::Helper(helper) => ask(helper, Request::Stop)?,
        }
        // One that somebody has started by hand is not systemd's.
        if self.server.data_directory().join("PG_VERSION").exists() && self.server.is_running()? {
            say("stopping the server");
            self.server.stop()?;
        }
        Ok(())
    }

    /// Starts the server as it is configured and waits until it accepts connections.
    ///
    /// # Errors
    ///
    /// Fails when it does not come up.
    pub fn start(&mut self) -> Result<()> {
        match &mut self.how {
            How::PgCtl => {
                say("starting the server");
                self.server.start()
            }
            How::Unit(unit) => unit.start(),
            How::Helper(helper) => ask(helper, Request::Start),
        }
    }
}

/// The unit that runs the server.
struct Unit {
    service: Service,
    deadline: Duration,
    /// What went down with it.
    along: Vec<String>,
}

impl Unit {
    fn new(name: &str, settings: &Settings) -> Result<Self> {
        Ok(Self {
            service: Service::new(name)?,
            deadline: Duration::from_secs(settings.postgresql.stop_deadline_seconds.into()),
            along: Vec::new(),
        })
    }

    fn stop(&mut self) -> Result<()> {
        say(&format!("stopping {}", self.service.name()));
        self.along = self
            .service
            .stop(self.deadline)
            .context("stop the server")?;
        if !self.along.is_empty() {
            say(&format!("stopped with it: {}", self.along.join(", ")));
        }
        Ok(())
    }

    fn start(&mut self) -> Result<()> {
        say(&format!("starting {}", self.service.name()));
        self.service.start().context("start the server")?;
        let along = std::mem::take(&mut self.along);
        if !along.is_empty() {
            say(&format!("starting again: {}", along.join(", ")));
        }
        if let Err(err) = self.service.start_others(&along) {
            // The restore is complete; what is left is for a person to see.
            tool::log(
                Level::Warning,
                format_args!("could not start what was stopped with the server: {err:#}"),
            );
        }
        Ok(())
    }
}

/// What root's part can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Request {
    /// Stop the server's unit.
    Stop,
    /// Start it, and what was stopped with it.
    Start,
}

/// Whether it was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Answer {
    /// It was.
    Done,
    /// It was not.
    Failed {
        /// Why.
        what: String,
        /// A way out.
        hint: Option<String>,
    },
}

fn ask(helper: &mut Conversation, request: Request) -> Result<()> {
    let answer = helper.ask(&serde_json::to_string(&request)?)?;
    match serde_json::from_str(&answer).context("read the answer of root's part")? {
        Answer::Done => Ok(()),
        Answer::Failed {
            what,
            hint: Some(hint),
        } => Err(Hinted::new(what, hint).into()),
        Answer::Failed { what, hint: None } => Err(anyhow!(what)),
    }
}

/// Does what is asked on standard input until that ends.
///
/// # Errors
///
/// Fails when the settings name no unit or the input cannot be understood.
pub fn serve(settings: &Settings) -> Result<()> {
    let name = settings
        .postgresql
        .unit
        .as_ref()
        .context("the settings name no unit")?;
    let mut unit = Unit::new(name, settings)?;
    for line in std::io::stdin().lock().lines() {
        let line = line.context("read what is asked")?;
        let done = match serde_json::from_str(&line).context("understand what is asked")? {
            Request::Stop => unit.stop(),
            Request::Start => unit.start(),
        };
        let answer = match done {
            Ok(()) => Answer::Done,
            Err(err) => Answer::Failed {
                what: format!("{err:#}"),
                hint: tool::hint_of(&err).map(ToOwned::to_owned),
            },
        };
        tool::print(&(serde_json::to_string(&answer)? + "\n"))?;
    }
    Ok(())
}
