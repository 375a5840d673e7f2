//! Stopping and starting the server of an instance: through systemd where it runs the server, through
//! `pg_ctl` elsewhere. The server of a branch too is a unit where root asks for one. And holding a snapshot
//! while it is read.
//!
//! Only root may tell systemd and ZFS, and a restore is not root's work: what it writes has to belong to the
//! server's user. So root's part is a process of its own, which can do these few things and nothing
//! else, and ends with the restore. Whatever it is asked to start runs as the server's user.

use std::collections::BTreeMap;
use std::io::BufRead as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use cluster::Server;
use command::{Command, Conversation};
use serde::{Deserialize, Serialize};
use settings::Settings;
use snapshot_keeping::{Holder, Holds};
use systemd::{Service, Transient};
use tool::{Hinted, Level};
use zfs::{SnapshotName, Zfs};

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
                How::Helper(roots_part(settings, config)?)
            }
            Some(unit) if in_place => How::Unit(Unit::new(unit, settings)?),
            _ => How::PgCtl,
        };
        Ok(Self { server, how })
    }

    /// Prepares to start servers of branches. To be called before root becomes somebody else.
    ///
    /// # Errors
    ///
    /// Fails when root's part cannot be started.
    pub fn for_branches(settings: &Settings, config: &Path) -> Result<Self> {
        let is_roots = nix::unistd::geteuid().is_root();
        Self::new(settings, config, is_roots)
    }

    /// Has systemd start the server of a branch as a unit of its own. Returns whether it did: it takes root, and
    /// systemd.
    ///
    /// # Errors
    ///
    /// Fails when systemd does not start it.
    pub fn start_branch(&mut self, branch: &BranchUnit) -> Result<bool> {
        match &mut self.how {
            How::PgCtl | How::Unit(_) => Ok(false),
            How::Helper(helper) => {
                ask(helper, &Request::StartBranch(branch.clone())).map(|()| true)
            }
        }
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
            How::Helper(helper) => ask(helper, &Request::Stop)?,
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
            How::Helper(helper) => ask(helper, &Request::Start),
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

/// The server of a branch, to be started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BranchUnit {
    /// Name of the branch.
    pub branch: String,
    /// Everything that it may write to.
    pub directory: PathBuf,
    /// Whether it takes TCP connections from this machine.
    pub tcp: bool,
    /// The server program, by its whole path, and its arguments.
    pub command: Vec<String>,
}

impl BranchUnit {
    /// Name of the unit for a branch of `instance`.
    pub fn name(instance: &str, branch: &str) -> String {
        format!("postgresql-branch-{instance}-{branch}.service")
    }

    /// Starts it, as the owner of the instance's data.
    fn start(&self, settings: &Settings) -> Result<()> {
        let mut properties = vec![
            // The instance comes first: for memory, processors and disks.
            "OOMScoreAdjust=500".to_owned(),
            "CPUWeight=20".to_owned(),
            "IOWeight=20".to_owned(),
            "NoNewPrivileges=yes".to_owned(),
            "CapabilityBoundingSet=".to_owned(),
            "PrivateTmp=yes".to_owned(),
            "ProtectSystem=strict".to_owned(),
            "ProtectHome=read-only".to_owned(),
            format!("ReadWritePaths={}", unit_path(&self.directory)?),
            "RestrictSUIDSGID=yes".to_owned(),
            // A fast shutdown, as the instance's own unit has.
            "KillSignal=SIGINT".to_owned(),
            "KillMode=mixed".to_owned(),
            "TimeoutStopSec=5min".to_owned(),
        ];
        if !self.tcp {
            properties.push("PrivateNetwork=yes".to_owned());
        }
        let unit = Transient {
            name: Self::name(&settings.instance, &self.branch),
            description: format!(
                "Branch {} of the PostgreSQL instance {}",
                self.branch, settings.instance
            ),
            user: data_directory::owner(&settings.postgresql.data_directory)?.name,
            properties,
            command: self.command.clone(),
        };
        say(&format!("starting {}", unit.name));
        unit.start().context("start the server of the branch")
    }
}

/// A path in a list of paths of a unit, where a space would end it.
fn unit_path(path: &Path) -> Result<String> {
    let text = path
        .to_str()
        .with_context(|| format!("\"{}\" is no text", path.display()))?;
    Ok(format!(
        "\"{}\"",
        text.replace('\\', "\\\\").replace('"', "\\\"")
    ))
}

/// Begins root's part.
fn roots_part(settings: &Settings, config: &Path) -> Result<Conversation> {
    let own = std::env::current_exe().context("find this program")?;
    Command::new(own)
        .args(["control", &settings.instance, "--config"])
        .arg(config)
        .converse()
}

/// What holds the snapshots of an instance. To be called before root becomes somebody else.
///
/// Nothing where the settings declare no snapshots, or this machine has no ZFS.
///
/// # Errors
///
/// Fails when root's part cannot be started.
pub fn holds(settings: &Settings, config: &Path) -> Result<Option<Holds>> {
    let Ok(zfs) = Zfs::find() else {
        return Ok(None);
    };
    if settings.snapshots.is_none() {
        return Ok(None);
    }
    let holder: Box<dyn Holder> = if nix::unistd::geteuid().is_root() {
        Box::new(Root(roots_part(settings, config)?))
    } else {
        Box::new(zfs)
    };
    Ok(Some(Holds::new(&settings.state_directory(), holder)))
}

/// Holds through root's part.
struct Root(Conversation);

impl Holder for Root {
    fn hold(&mut self, tag: &str, snapshots: &[SnapshotName]) -> Result<()> {
        ask(
            &mut self.0,
            &Request::Hold {
                tag: tag.to_owned(),
                snapshots: snapshots.iter().map(ToString::to_string).collect(),
            },
        )
    }

    fn release(&mut self, tag: &str, snapshots: &[SnapshotName]) -> Result<()> {
        ask(
            &mut self.0,
            &Request::Release {
                tag: tag.to_owned(),
                snapshots: snapshots.iter().map(ToString::to_string).collect(),
            },
        )
    }
}

/// What root's part can do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Request {
    /// Stop the server's unit.
    Stop,
    /// Start it, and what was stopped with it.
    Start,
    /// Start the server of a branch.
    StartBranch(BranchUnit),
    /// Keep snapshots of the instance from being destroyed.
    Hold {
        /// The name of the hold.
        tag: String,
        /// The snapshots.
        snapshots: Vec<String>,
    },
    /// Take that back.
    Release {
        /// The name of the hold.
        tag: String,
        /// The snapshots.
        snapshots: Vec<String>,
    },
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

fn ask(helper: &mut Conversation, request: &Request) -> Result<()> {
    let answer = helper.ask(&serde_json::to_string(request)?)?;
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
    let mut unit = match &settings.postgresql.unit {
        Some(name) => Some(Unit::new(name, settings)?),
        None => None,
    };
    let no_unit = "the settings name no unit";
    let mut held = BTreeMap::new();
    for line in std::io::stdin().lock().lines() {
        let line = line.context("read what is asked")?;
        let done = match serde_json::from_str(&line).context("understand what is asked")? {
            Request::StartBranch(branch) => branch.start(settings),
            Request::Stop => unit.as_mut().context(no_unit).and_then(Unit::stop),
            Request::Start => unit.as_mut().context(no_unit).and_then(Unit::start),
            Request::Hold { tag, snapshots } => hold(settings, &tag, &snapshots).map(|names| {
                held.insert(tag, names);
            }),
            Request::Release { tag, snapshots } => {
                held.remove(&tag);
                own_snapshots(settings, &tag, &snapshots)
                    .and_then(|names| Zfs::find()?.release(&tag, &names))
            }
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
    // Whoever asked was killed.
    for (tag, names) in held {
        Zfs::find()?.release(&tag, &names)?;
    }
    Ok(())
}

fn hold(settings: &Settings, tag: &str, snapshots: &[String]) -> Result<Vec<SnapshotName>> {
    let names = own_snapshots(settings, tag, snapshots)?;
    Zfs::find()?.hold(tag, &names)?;
    Ok(names)
}

/// Reads names of snapshots, and refuses any that is not of the declared dataset or one below it: whoever asks
/// is the server's user, who is asked nothing about the rest of the machine.
fn own_snapshots(
    settings: &Settings,
    tag: &str,
    snapshots: &[String],
) -> Result<Vec<SnapshotName>> {
    ensure!(
        snapshot_keeping::is_tag(tag),
        "\"{tag}\" is no name of a hold of ours"
    );
    let declared = settings
        .snapshots
        .as_ref()
        .context("the settings declare no dataset")?;
    snapshots
        .iter()
        .map(|name| {
            let name = SnapshotName::parse(name)?;
            let is_below = name
                .dataset()
                .strip_prefix(&declared.dataset)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
            ensure!(
                is_below,
                "snapshot \"{name}\" is not of dataset \"{}\" or one below it",
                declared.dataset
            );
            Ok(name)
        })
        .collect()
}
