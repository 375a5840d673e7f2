//! `backstay branch`: a cluster as it was at a moment, running beside the instance.
//!
//! A branch is a restore into a directory of its own with a server on a socket of its own. It can be
//! written to, and nothing of that reaches the instance, its archive or its standbys.

mod place;
mod server;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use cluster::{Client, Programs};
use durable_file::Lock;
use jiff::{Span, Timestamp, tz::TimeZone};
use serde::Serialize;
use settings::Settings;
use tool::Hinted;

use crate::control::{BranchUnit, Control};
use crate::instance::Instance;
use crate::restore::{Moment, restore_beside, say};
use crate::windows::instant;
use place::{Made, Place, Record};

/// Where branches are.
#[derive(Debug, clap::Args)]
pub struct Where {
    /// Directory with the branches [default: the data directory's path with `.branches` after it]
    #[arg(long, value_name = "DIRECTORY", value_parser = crate::absolute)]
    branches: Option<PathBuf>,
}

impl Where {
    fn directory(&self, settings: &Settings) -> PathBuf {
        place::directory(settings, self.branches.as_deref())
    }
}

#[derive(Debug, clap::Args)]
pub struct CreateArguments {
    #[command(flatten)]
    moment: Moment,

    /// Its name [default: the time of day]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// Take TCP connections from this machine on this port; without it there is only a socket
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,

    /// How long it is wanted, "90 minutes" or 7d
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse_span)]
    ttl: Span,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    place: Where,
}

#[derive(Debug, clap::Args)]
pub struct ListArguments {
    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    place: Where,
}

#[derive(Debug, clap::Args)]
pub struct DestroyArguments {
    /// Its name
    #[arg(value_name = "NAME", required_unless_present = "expired")]
    name: Option<String>,

    /// Destroy those whose time is over, and what interrupted commands have left
    #[arg(long, conflicts_with = "name")]
    expired: bool,

    #[command(flatten)]
    place: Where,
}

fn parse_span(text: &str) -> Result<Span, String> {
    let span: Span = text
        .parse()
        .map_err(|err: jiff::Error| format!("{err}; write it as \"90 minutes\", 24h or 7d"))?;
    if span.is_positive() {
        Ok(span)
    } else {
        Err("a branch has to live for a while".into())
    }
}

/// A branch whose server runs, and which this process has to itself.
pub struct Running {
    place: Place,
    record: Record,
    _lock: Lock,
}

impl Running {
    /// Connects to a database of it.
    pub fn client(&self, settings: &Settings, database: &str) -> Result<Client> {
        server::client(settings, &self.place, &self.record, database)
    }

    /// Arguments with which PostgreSQL's client programs reach it.
    pub fn connection_arguments(&self, settings: &Settings) -> Vec<String> {
        vec![
            "--host".into(),
            self.place.socket().display().to_string(),
            "--port".into(),
            self.record.port.to_string(),
            "--username".into(),
            settings.postgresql.role.clone(),
            "--no-password".into(),
        ]
    }

    /// Stops its server and removes it.
    pub fn destroy(self, settings: &Settings) -> Result<()> {
        remove(&programs_of(settings), &self.place)
    }
}

fn programs_of(settings: &Settings) -> Programs {
    Programs::in_directory(&settings.postgresql.bin_directory)
}

/// `backstay branch create`.
///
/// Its server is a unit of systemd where `control` can make it one.
pub fn create(
    instance: &Instance,
    control: &mut Control,
    arguments: &CreateArguments,
) -> Result<()> {
    let settings = &instance.settings;
    let now = Timestamp::now();
    let name = arguments
        .name
        .clone()
        .unwrap_or_else(|| now.strftime("%Y%m%d-%H%M%S").to_string());
    let expires = expiry(now, arguments.ttl)?;
    let mut record = Record::new(
        &settings.instance,
        &name,
        arguments.moment.target(),
        (now, expires),
    );
    if let Some(port) = arguments.port {
        record.port = port;
        record.tcp = true;
    }
    let branches = arguments.place.directory(settings);
    let running = make(
        instance,
        &branches,
        &arguments.moment,
        record,
        Some(control),
    )?;
    if arguments.json {
        let state = State {
            record: &running.record,
            condition: "running",
            is_expired: false,
            socket_directory: running.place.socket(),
            connect: connection_line(settings, &running.place, &running.record),
        };
        return tool::print(&(serde_json::to_string_pretty(&state)? + "\n"));
    }
    tool::print(&created_text(settings, &running)?)
}

/// When a branch that is made `now` for `ttl` has had its time.
fn expiry(now: Timestamp, ttl: Span) -> Result<Timestamp> {
    now.to_zoned(TimeZone::UTC)
        .checked_add(ttl)
        .map(|expires| expires.timestamp())
        .context("find out when the branch has had its time")
}

/// Makes a branch that is there for one command only; the caller destroys it.
///
/// # Errors
///
/// Fails as a restore does. Nothing of the branch is left then.
pub fn temporary(instance: &Instance, place: &Where, moment: &Moment) -> Result<Running> {
    /// Should the command be killed, the next one that makes a branch removes it.
    const LIFETIME: jiff::SignedDuration = jiff::SignedDuration::from_hours(24);
    let settings = &instance.settings;
    let now = Timestamp::now();
    let name = format!("extract-{}", std::process::id());
    let mut record = Record::new(
        &settings.instance,
        &name,
        moment.target(),
        (now, now + LIFETIME),
    );
    record.is_temporary = true;
    make(instance, &place.directory(settings), moment, record, None)
}

fn make(
    instance: &Instance,
    branches: &Path,
    moment: &Moment,
    mut record: Record,
    control: Option<&mut Control>,
) -> Result<Running> {
    let settings = &instance.settings;
    place::check_name(&record.name)?;
    place::make_directory(branches)?;
    remove_expired(settings, branches)?;
    let place = Place::new(branches, &record.name);
    let lock = place.make(&record)?;
    let begin = Instant::now();
    let made =
        restore_beside(instance, moment, &place.data(), &place.tablespaces()).and_then(|outcome| {
            say(&format!("starting the server of branch {}", record.name));
            if server::start(settings, &place, &record, control)? {
                record.unit = Some(BranchUnit::name(&settings.instance, &record.name));
            }
            let (target, note) = outcome.target();
            if let Some(note) = note {
                say(note);
            }
            record.made = Some(Made {
                target: target.to_owned(),
                ended_at: outcome.ended_at(),
                from: outcome.beginning(),
                seconds: begin.elapsed().as_secs_f64(),
            });
            place.write(&record)
        });
    if let Err(err) = made {
        // Nobody can use half a branch, and it takes room.
        if let Err(err) = remove(instance.server.programs(), &place) {
            tool::report("could not remove the unfinished branch", &err);
        }
        return Err(err);
    }
    Ok(Running {
        place,
        record,
        _lock: lock,
    })
}

/// What is known of a branch, for a person or a program.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct State<'a> {
    #[serde(flatten)]
    record: &'a Record,
    #[serde(rename = "state")]
    condition: &'static str,
    is_expired: bool,
    socket_directory: PathBuf,
    connect: String,
}

fn connection_line(settings: &Settings, place: &Place, record: &Record) -> String {
    format!(
        "psql --host {} --port {} --username {}",
        command::quoted(&place.socket().display().to_string()),
        record.port,
        command::quoted(&settings.postgresql.role)
    )
}

fn created_text(settings: &Settings, running: &Running) -> Result<String> {
    let Running { place, record, .. } = running;
    let mut text = String::new();
    if let Some(made) = &record.made {
        writeln!(
            text,
            "Branch {} of instance \"{}\" is as it was at {} ({}), made from {} in {:.1} s.",
            record.name, record.instance, made.target, made.ended_at, made.from, made.seconds
        )?;
    }
    writeln!(text, "  {}", connection_line(settings, place, record))?;
    if record.tcp {
        writeln!(
            text,
            "  or with a password over TCP: localhost, port {}",
            record.port
        )?;
    }
    if let Some(unit) = &record.unit {
        writeln!(
            text,
            "  its messages: journalctl --unit={}",
            command::quoted(unit)
        )?;
    }
    writeln!(
        text,
        "It can be written to; nothing of that reaches the instance. Its time is over at {}.\nRemove it with: backstay branch destroy {} {}",
        instant(record.expires),
        record.instance,
        record.name
    )?;
    Ok(text)
}

/// How a branch is.
fn condition_of(programs: &Programs, place: &Place, record: &Record) -> Result<&'static str> {
    if record.made.is_none() || record.is_temporary {
        let is_taken = place.try_lock()?.is_none();
        return Ok(if is_taken { "in use" } else { "left behind" });
    }
    Ok(if server::is_running(programs, place)? {
        "running"
    } else {
        "stopped"
    })
}

/// `backstay branch list`.
pub fn list(settings: &Settings, arguments: &ListArguments) -> Result<()> {
    let branches = arguments.place.directory(settings);
    let programs = programs_of(settings);
    let now = Timestamp::now();
    let found = place::all_in(&branches)?;
    let mut states = Vec::new();
    for (place, record) in &found {
        states.push(State {
            record,
            condition: condition_of(&programs, place, record)?,
            is_expired: record.expires <= now,
            socket_directory: place.socket(),
            connect: connection_line(settings, place, record),
        });
    }
    if arguments.json {
        return tool::print(&(serde_json::to_string_pretty(&states)? + "\n"));
    }
    let mut text = String::new();
    if states.is_empty() {
        writeln!(text, "Instance \"{}\" has no branches.", settings.instance)?;
    }
    for state in &states {
        let record = state.record;
        writeln!(
            text,
            "{}: {}{}",
            record.name,
            state.condition,
            if state.is_expired {
                ", its time is over"
            } else {
                ""
            }
        )?;
        let target = record
            .made
            .as_ref()
            .map_or(&record.target, |made| &made.target);
        writeln!(text, "  as of    {target}")?;
        writeln!(
            text,
            "  made at  {}, until {}",
            instant(record.created),
            instant(record.expires)
        )?;
        if state.condition == "running" {
            writeln!(text, "  {}", state.connect)?;
        }
    }
    tool::print(&text)
}

/// `backstay branch destroy`.
pub fn destroy(settings: &Settings, arguments: &DestroyArguments) -> Result<()> {
    let branches = arguments.place.directory(settings);
    let Some(name) = &arguments.name else {
        return remove_expired(settings, &branches);
    };
    place::check_name(name)?;
    let place = Place::new(&branches, name);
    let record = place.read()?.ok_or_else(|| {
        Hinted::new(
            format!("\"{}\" is no branch", place.root.display()),
            format!(
                "`backstay branch list {}` shows those that there are",
                settings.instance
            ),
        )
    })?;
    let _lock = place.try_lock()?.ok_or_else(|| {
        Hinted::new(
            format!("branch \"{}\" is in use by another command", record.name),
            "wait until that has ended",
        )
    })?;
    remove(&programs_of(settings), &place)?;
    say(&format!("branch {} is gone", record.name));
    Ok(())
}

/// Stops what runs of a branch and removes it.
fn remove(programs: &Programs, place: &Place) -> Result<()> {
    /// How long a server may write that was just being started when its starter was killed.
    const PATIENCE: Duration = Duration::from_secs(15);
    const POLL: Duration = Duration::from_millis(200);
    let begin = Instant::now();
    loop {
        let removed = server::stop(programs, place).and_then(|()| place.remove());
        if removed.is_ok() || begin.elapsed() > PATIENCE {
            return removed;
        }
        std::thread::sleep(POLL);
    }
}

/// Removes the branches whose time is over, and what interrupted commands have left of theirs.
fn remove_expired(settings: &Settings, branches: &Path) -> Result<()> {
    let now = Timestamp::now();
    for (place, record) in place::all_in(branches)? {
        let is_leftover = record.made.is_none() || record.is_temporary;
        if record.expires > now && !is_leftover {
            continue;
        }
        // Somebody is at work on it.
        let Some(_lock) = place.try_lock()? else {
            continue;
        };
        remove(&programs_of(settings), &place)?;
        say(&format!(
            "removed branch {}, {}",
            record.name,
            if record.expires <= now {
                "whose time is over"
            } else {
                "which an interrupted command has left"
            }
        ));
    }
    Ok(())
}
