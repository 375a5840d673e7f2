//! `backstay status`: whether all is well, what can be restored, and what to type if something is wrong.

mod collect;
mod data;
#[cfg(test)]
pub mod sample;
pub mod screen;

use std::fs;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use command::Command;
use serde_json::Value;
use tool::Hinted;

pub use data::{Finding, Objective, ServerState, Status};
#[cfg(test)]
pub use data::{Snapshot, Window};

use crate::{InstanceArguments, SETTINGS_DIRECTORY};

/// Which instances, and how they are shown.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Name of the instance [default: every instance of this host]
    #[arg(value_name = "INSTANCE")]
    instance: Option<String>,

    #[command(flatten)]
    place: Place,

    /// Print JSON: an object for one instance, a list for all
    #[arg(long)]
    json: bool,
}

/// Where settings are.
#[derive(Debug, Args)]
pub struct Place {
    /// Settings file, JSON, of the one instance [default: /etc/backstay/INSTANCE.json]
    #[arg(long, value_name = "FILE", value_parser = crate::absolute)]
    config: Option<PathBuf>,

    /// Directory with a settings file for each instance
    #[arg(long, value_name = "DIRECTORY", default_value = SETTINGS_DIRECTORY, value_parser = crate::absolute)]
    settings_directory: PathBuf,
}

/// One instance after the other, each shown or with the reason why it is not.
pub type All = Vec<(String, Result<Status>)>;

/// Shows the instances.
///
/// # Errors
///
/// Fails when one of them could not be looked at at all; the others have been shown then. That
/// something is wrong with one is no error.
pub fn show(arguments: &Arguments) -> Result<()> {
    let mut all = match &arguments.instance {
        Some(instance) => vec![(instance.clone(), arguments.place.look_at(instance))],
        None => arguments.place.look_at_all()?,
    };
    // The one that was asked for, or nothing.
    if arguments.instance.is_some()
        && let Some((_, Err(_))) = all.first()
        && let Some((_, Err(err))) = all.pop()
    {
        return Err(err);
    }
    if arguments.json {
        let shown: Vec<&Status> = all
            .iter()
            .filter_map(|(_, status)| status.as_ref().ok())
            .collect();
        let text = match (&arguments.instance, shown.as_slice()) {
            (Some(_), [one]) => serde_json::to_string_pretty(one),
            _ => serde_json::to_string_pretty(&shown),
        };
        tool::print(&(text.context("write the status as JSON")? + "\n"))?;
    } else {
        let ink = screen::Ink::for_output(
            std::io::stdout().is_terminal(),
            std::env::var_os("NO_COLOR").as_deref(),
        );
        let texts: Vec<String> = all
            .iter()
            .map(|(instance, status)| match status {
                Ok(status) => screen::text(status, ink),
                Err(err) => screen::not_shown(instance, err, ink),
            })
            .collect();
        tool::print(&texts.join("\n"))?;
    }
    complain_of_failures(&all)
}

/// Fails with the names of the instances that could not be looked at.
pub fn complain_of_failures(all: &All) -> Result<()> {
    let failed: Vec<&str> = all
        .iter()
        .filter(|(_, status)| status.is_err())
        .map(|(instance, _)| instance.as_str())
        .collect();
    if failed.is_empty() {
        Ok(())
    } else {
        bail!("cannot look at {}", failed.join(", "))
    }
}

impl Place {
    /// Looks at one instance, as its owner if this is root.
    fn look_at(&self, instance: &str) -> Result<Status> {
        let instance = InstanceArguments {
            instance: instance.to_owned(),
            config: Some(self.config_of(instance)),
        };
        let config = instance.config();
        let settings = instance.settings_for_owner()?;
        Ok(collect::collect(&config, settings))
    }

    fn config_of(&self, instance: &str) -> PathBuf {
        self.config
            .clone()
            .unwrap_or_else(|| self.settings_directory.join(format!("{instance}.json")))
    }

    /// Looks at every instance of this host. Each has an owner, and whoever has become one of them is no
    /// longer root; so each is looked at by a process of its own.
    pub fn look_at_all(&self) -> Result<All> {
        let instances = match &self.config {
            Some(config) => {
                let settings = tool::read_settings(config)?;
                vec![(settings.instance, config.clone())]
            }
            None => self.instances()?,
        };
        let program = std::env::current_exe().context("find this program")?;
        Ok(instances
            .into_iter()
            .map(|(instance, config)| {
                let status = ask(&program, &instance, &config);
                (instance, status)
            })
            .collect())
    }

    /// The instances of which there are settings, by name.
    fn instances(&self) -> Result<Vec<(String, PathBuf)>> {
        let directory = &self.settings_directory;
        let entries = fs::read_dir(directory).map_err(|err| {
            Hinted::new(
                format!("list \"{}\": {err}", directory.display()),
                "name the settings of one instance with --config FILE, or where those of all are with --settings-directory DIRECTORY",
            )
        })?;
        let mut instances = Vec::new();
        for entry in entries {
            let path = entry
                .with_context(|| format!("list \"{}\"", directory.display()))?
                .path();
            if path.extension().is_none_or(|end| end != "json") {
                continue;
            }
            let text = fs::read(&path).with_context(|| format!("read \"{}\"", path.display()))?;
            // Beside them are settings of other programs. What is no JSON is somebody's mistake, which
            // is told when it is asked for.
            let value: Value = serde_json::from_slice(&text).unwrap_or_default();
            if value.get("postgresql").is_some()
                && let Some(name) = value["instance"].as_str()
            {
                instances.push((name.to_owned(), path));
            }
        }
        if instances.is_empty() {
            return Err(Hinted::new(
                format!("\"{}\" has no settings of an instance", directory.display()),
                "declare one, or name its settings with --config FILE",
            )
            .into());
        }
        instances.sort();
        Ok(instances)
    }
}

/// Asks another process of this program for the status of one instance.
fn ask(program: &Path, instance: &str, config: &Path) -> Result<Status> {
    let output = Command::new(program)
        .args(["status", instance, "--json", "--config"])
        .arg(config)
        .run()?;
    serde_json::from_str(&output.stdout)
        .with_context(|| format!("read the status of instance \"{instance}\""))
}

/// A time as a person reads it, in UTC and saying so.
pub fn shown_time(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}
