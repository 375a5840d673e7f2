//! What systemd knows of a unit that failed.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow};
use command::Command;
use tool::Level;

/// How many lines of its log go into a message.
const LINES: &str = "20";

/// What there is to say of a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Its name.
    pub unit: String,
    /// Its description.
    pub description: String,
    /// How it ended, in systemd's word.
    pub result: String,
    /// The status that its program ended with.
    pub status: String,
    /// When it ended.
    pub time: String,
    /// The last lines that it wrote.
    pub log: String,
}

impl Facts {
    /// Asks systemd. What cannot be asked is missing in the message, and does not stop it.
    pub fn of(unit: &str) -> Self {
        let properties = properties(unit).unwrap_or_else(|err| {
            tool::log(
                Level::Warning,
                format_args!("could not ask systemd for \"{unit}\": {err:#}"),
            );
            BTreeMap::new()
        });
        let property = |name: &str| match properties.get(name) {
            Some(value) if !value.is_empty() => value.clone(),
            _ => "unknown".to_owned(),
        };
        let invocation = properties.get("InvocationID").cloned().unwrap_or_default();
        let log = log(unit, &invocation).unwrap_or_else(|err| {
            tool::log(
                Level::Warning,
                format_args!("could not read the log of \"{unit}\": {err:#}"),
            );
            "(the log could not be read)".into()
        });
        Self {
            unit: unit.to_owned(),
            description: properties
                .get("Description")
                .filter(|description| !description.is_empty())
                .cloned()
                .unwrap_or_else(|| unit.to_owned()),
            result: property("Result"),
            status: property("ExecMainStatus"),
            time: property("InactiveEnterTimestamp"),
            log,
        }
    }

    /// A unit that does not exist, to try out a template.
    pub fn sample() -> Self {
        Self {
            unit: "sample.service".into(),
            description: "Sample of a message".into(),
            result: "exit-code".into(),
            status: "1".into(),
            time: "now".into(),
            log: "This is a test. Nothing has failed.".into(),
        }
    }
}

fn program(name: &str) -> Result<Command> {
    systemd::program(name)
        .map(Command::new)
        .ok_or_else(|| anyhow!("{name} is missing"))
}

fn properties(unit: &str) -> Result<BTreeMap<String, String>> {
    let said = program("systemctl")?
        .args(["show", "--no-pager"])
        .arg("--property=Description,Result,ExecMainStatus,InactiveEnterTimestamp,InvocationID")
        .args(["--", unit])
        .run()?
        .stdout;
    Ok(said
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect())
}

/// The last lines of its last run.
fn log(unit: &str, invocation: &str) -> Result<String> {
    let mut journalctl = program("journalctl")?
        .args(["--quiet", "--no-pager", "--output=cat", "--lines", LINES])
        .arg(format!("--unit={unit}"));
    if !invocation.is_empty() {
        journalctl = journalctl.arg(format!("_SYSTEMD_INVOCATION_ID={invocation}"));
    }
    Ok(journalctl.run()?.stdout.trim_end().to_owned())
}
