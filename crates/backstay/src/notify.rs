//! `backstay notify`: tells people that a unit failed, and once more when it works again.
//!
//! systemd starts it for one message. apprise does the sending; what is ours is what to say, whom to,
//! and not to say it every minute.

mod backends;
mod memory;
mod message;
mod unit;

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use jiff::Timestamp;
use settings::Notifications;
use settings::notifications::{Backend, Template};
use tool::{Hinted, Level};

use self::backends::Sender;
use self::memory::Memory;
use self::message::Message;
use self::unit::Facts;

/// Pause before the next attempt, in seconds, for each attempt that was made.
const PAUSE_SECONDS: u64 = 2;

/// What to tell.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("what").required(true)))]
pub struct Arguments {
    /// Settings file, JSON
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/backstay/notifications.json"
    )]
    config: PathBuf,

    /// Tell that a unit failed
    #[arg(long, value_name = "TEMPLATE:UNIT", group = "what")]
    failed: Option<Event>,

    /// Tell that a unit works again whose failure was told
    #[arg(long, value_name = "TEMPLATE:UNIT", group = "what")]
    recovered: Option<Event>,

    /// Send a sample
    #[arg(long, value_name = "TEMPLATE", group = "what")]
    test: Option<String>,

    /// Check the settings file, then exit
    #[arg(long, group = "what")]
    check_config: bool,
}

/// A template and the unit that it is about, as in the name of the notifier's instance.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Event {
    template: String,
    unit: String,
}

impl std::str::FromStr for Event {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (template, unit) = text
            .split_once(':')
            .ok_or("it has no colon between the template and the unit")?;
        // Both become part of a file name.
        let is_name =
            |name: &str| !name.is_empty() && !name.contains('/') && !name.starts_with('.');
        if !is_name(template) || !is_name(unit) {
            return Err("it is not a template, a colon and a unit".into());
        }
        Ok(Self {
            template: template.into(),
            unit: unit.into(),
        })
    }
}

impl std::fmt::Display for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.template, self.unit)
    }
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<()> {
    let settings = read(&arguments.config)?;
    if arguments.check_config {
        return Ok(());
    }
    if let Some(event) = &arguments.failed {
        return failed(&settings, event);
    }
    if let Some(event) = &arguments.recovered {
        return recovered(&settings, event);
    }
    if let Some(name) = &arguments.test {
        return test(&settings, name);
    }
    Ok(())
}

fn read(path: &Path) -> Result<Notifications> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("read settings \"{}\"", path.display()))?;
    Notifications::parse(&text)
        .map_err(anyhow::Error::new)
        .with_context(|| format!("use settings \"{}\"", path.display()))
}

fn template<'a>(settings: &'a Notifications, name: &str) -> Result<&'a Template> {
    settings.templates.get(name).ok_or_else(|| {
        let known: Vec<&str> = settings.templates.keys().map(String::as_str).collect();
        Hinted::new(
            format!("\"{name}\" is no template"),
            format!("there are {}", known.join(", ")),
        )
        .into()
    })
}

/// Tells of a failure whoever has not heard of it for a while.
fn failed(settings: &Notifications, event: &Event) -> Result<()> {
    let template = template(settings, &event.template)?;
    let mut memory = Memory::read(&settings.state_directory, &event.to_string())?;
    let now = Timestamp::now().as_second();
    let due: Vec<Backend> = template
        .backends
        .iter()
        .copied()
        .filter(|backend| memory.is_due(*backend, now, settings.repeat_after_seconds))
        .collect();
    if due.is_empty() {
        tool::log(
            Level::Info,
            format_args!(
                "\"{}\": told already, and too early to tell again",
                event.unit
            ),
        );
        return Ok(());
    }
    let facts = Facts::of(&event.unit);
    let message = Message::of_failure(template, &facts, &settings.host_name);
    // Each is remembered as soon as it has taken the message: whoever ends this run, the next one
    // does not tell it again.
    tell(settings, &due, &message, |backend| {
        memory.told(backend, now);
        memory.write()
    })
}

/// Tells that it is over whoever heard that it had begun.
fn recovered(settings: &Notifications, event: &Event) -> Result<()> {
    let mut memory = Memory::read(&settings.state_directory, &event.to_string())?;
    let told: Vec<Backend> = memory
        .who_was_told()
        .filter(|backend| settings.backends.has(*backend))
        .collect();
    let description = Facts::of(&event.unit).description;
    let priority = template(settings, &event.template).map(|template| template.priority)?;
    let message = Message::of_recovery(priority, &event.unit, &description, &settings.host_name);
    tell(settings, &told, &message, |backend| {
        memory.forget(backend);
        memory.write()
    })?;
    // Backends that are not declared any more cannot be told.
    memory.remove()
}

fn test(settings: &Notifications, name: &str) -> Result<()> {
    let template = template(settings, name)?;
    let message = Message::of_failure(template, &Facts::sample(), &settings.host_name);
    tell(settings, &template.backends, &message, |_| Ok(()))?;
    let names: Vec<String> = template.backends.iter().map(|b| word(*b).into()).collect();
    tool::print(&format!("sent to {}\n", names.join(", ")))
}

/// Gives the message to each of `backends`, whatever becomes of the others, and calls `taken` for each
/// that takes it.
fn tell(
    settings: &Notifications,
    backends: &[Backend],
    message: &Message,
    mut taken: impl FnMut(Backend) -> Result<()>,
) -> Result<()> {
    let sender = Sender::new(settings)?;
    let mut failures = Vec::new();
    for backend in backends {
        let sent =
            attempt(settings, || sender.send(*backend, message)).and_then(|()| taken(*backend));
        if let Err(err) = sent {
            failures.push(format!("{}: {err:#}", word(*backend)));
        }
    }
    if failures.is_empty() {
        return Ok(());
    }
    Err(Hinted::new(
        failures.join("; "),
        "is the network up, and are the credentials right? `backstay notify --test TEMPLATE` sends a sample",
    )
    .into())
}

fn attempt(settings: &Notifications, send: impl Fn() -> Result<()>) -> Result<()> {
    let mut last = anyhow!("it was never tried");
    for number in 1..=settings.retry_attempts {
        match send() {
            Ok(()) => return Ok(()),
            Err(err) => last = err,
        }
        if number < settings.retry_attempts {
            thread::sleep(Duration::from_secs(PAUSE_SECONDS * u64::from(number)));
        }
    }
    match settings.retry_attempts {
        0 | 1 => Err(last),
        attempts => bail!("{attempts} attempts failed: {last:#}"),
    }
}

/// The key of a backend in the settings.
fn word(backend: Backend) -> &'static str {
    match backend {
        Backend::Apprise => "apprise",
        Backend::Pushover => "pushover",
        Backend::Ntfy => "ntfy",
        Backend::Healthchecks => "healthchecks",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_split_at_the_first_colon_and_cannot_leave_its_directory() {
        let event: Event = "backup-failure:a:b.service".parse().unwrap();
        assert_eq!(event.template, "backup-failure");
        assert_eq!(event.unit, "a:b.service");
        assert_eq!(event.to_string(), "backup-failure:a:b.service");
        for wrong in ["", "x", ":x", "x:", "../x:y", "x:../../etc/passwd", "x:a/b"] {
            assert!(wrong.parse::<Event>().is_err(), "{wrong}");
        }
    }
}
