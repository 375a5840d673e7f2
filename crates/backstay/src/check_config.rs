//! `backstay check-config`: whether the programs can use a settings file.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use serde_json::Value;
use settings::{Datasets, Notifications, Problems, Settings};
use tool::Level;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Settings file, JSON
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// What the file is for [default: what its keys say]
    #[arg(long, value_name = "KIND")]
    kind: Option<Kind>,
}

/// What a settings file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// An instance of PostgreSQL; has the key `instance`
    Instance,
    /// `pg-datasets`; has the key `datasets`
    Datasets,
    /// `backstay notify`; has the key `templates`
    Notifications,
}

impl Kind {
    /// What the keys of the file say. A file that says nothing is taken for the usual kind.
    fn of(text: &str) -> Self {
        let keys: Value = serde_json::from_str(text).unwrap_or_default();
        let has = |key: &str| keys.get(key).is_some();
        if has("instance") {
            Self::Instance
        } else if has("datasets") {
            Self::Datasets
        } else if has("templates") {
            Self::Notifications
        } else {
            Self::Instance
        }
    }
}

/// Reports every problem on a line of its own.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let file = &arguments.file;
    let text =
        std::fs::read_to_string(file).with_context(|| format!("read \"{}\"", file.display()))?;
    let checked = match arguments.kind.unwrap_or_else(|| Kind::of(&text)) {
        Kind::Instance => Settings::parse(&text).map(drop),
        Kind::Datasets => Datasets::parse(&text).map(drop),
        Kind::Notifications => Notifications::parse(&text).map(drop),
    };
    let Err(Problems(problems)) = checked else {
        return Ok(ExitCode::SUCCESS);
    };
    for problem in &problems {
        tool::log(Level::Error, format_args!("{}: {problem}", file.display()));
    }
    Ok(crate::PROGRAM.failure.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_what_it_is_for() {
        for (text, kind) in [
            (r#"{ "instance": "main", "databases": {} }"#, Kind::Instance),
            (r#"{ "datasets": [] }"#, Kind::Datasets),
            (
                r#"{ "templates": {}, "hostName": "x" }"#,
                Kind::Notifications,
            ),
            ("{}", Kind::Instance),
            ("no JSON", Kind::Instance),
        ] {
            assert_eq!(Kind::of(text), kind, "{text}");
        }
    }
}
