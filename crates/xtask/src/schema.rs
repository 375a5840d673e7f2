//! `cargo xtask schema`: the settings files in the reference, as JSON Schemas and as pages to read.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::{artifacts, metrics};

/// A kind of settings file.
struct Kind {
    /// Names its files below `docs/reference`: `<name>.schema.json` and `<name>.md`.
    name: &'static str,
    /// What stands above the table of keys.
    introduction: &'static str,
    schema: fn() -> Value,
}

const KINDS: [Kind; 3] = [
    Kind {
        name: "settings",
        introduction: "# The settings file\n\nOne JSON file describes one instance, usually `/etc/backstay/<instance>.json`. The NixOS module writes it;\n\
            elsewhere you do. Unknown keys are refused. `backstay check-config FILE` names every problem at once.",
        schema: settings::Settings::schema,
    },
    Kind {
        name: "datasets",
        introduction: "# The settings file of pg-datasets\n\nOne JSON file describes the ZFS datasets of a host, usually `/etc/backstay/datasets.json`. The NixOS module\n\
            writes it. Unknown keys are refused. `backstay check-config FILE` names every problem at once.",
        schema: settings::Datasets::schema,
    },
    Kind {
        name: "notifications",
        introduction: "# The settings file of backstay notify\n\nOne JSON file says whom to tell of a failure and in which words, usually `/etc/backstay/notifications.json`.\n\
            The NixOS module writes it. Unknown keys are refused. `backstay check-config FILE` names every problem at once.",
        schema: settings::Notifications::schema,
    },
];

/// Write the reference of settings files, metrics and alerts, and the rules and the board, from types and tables
#[derive(Debug, clap::Args)]
pub struct Arguments {}

/// Runs the command.
///
/// # Errors
///
/// Fails when a file cannot be written.
pub fn run(_arguments: &Arguments) -> Result<ExitCode> {
    let metrics = metrics::files()
        .into_iter()
        .map(|(file, text)| (file.to_owned(), text));
    for (file, text) in KINDS.iter().flat_map(Kind::files).chain(metrics) {
        let path = artifacts::workspace().join(&file);
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)
                .with_context(|| format!("create \"{}\"", directory.display()))?;
        }
        std::fs::write(&path, text).with_context(|| format!("write \"{}\"", path.display()))?;
        println!("wrote {file}");
    }
    Ok(ExitCode::SUCCESS)
}

impl Kind {
    /// Its files, from the root of the workspace, and what they hold.
    fn files(&self) -> [(String, String); 2] {
        let schema = (self.schema)();
        [
            (
                format!("docs/reference/{}.schema.json", self.name),
                format!("{schema:#}\n"),
            ),
            (
                format!("docs/reference/{}.md", self.name),
                self.page(&schema),
            ),
        ]
    }

    fn page(&self, schema: &Value) -> String {
        let mut page = format!(
            "{}\n\nThis page and `{}.schema.json` are written by `cargo xtask schema`. `[]` stands for each entry of a list,\n\
             `<name>` for each name in a set.\n\n\
             | key | type | default | meaning |\n|---|---|---|---|\n",
            self.introduction, self.name
        );
        describe(schema, schema, "", &mut page);
        page
    }
}

/// Adds a row for each property of `object`, and of the objects below it.
fn describe(root: &Value, object: &Value, prefix: &str, page: &mut String) {
    let Some(properties) = object["properties"].as_object() else {
        return;
    };
    for (key, property) in properties {
        let path = format!("{prefix}{key}");
        let target = resolved(root, property);
        let required = object["required"]
            .as_array()
            .is_some_and(|required| required.iter().any(|name| name == key));
        let is_object = target.get("properties").is_some();
        let default = match property.get("default") {
            _ if required => "required".to_owned(),
            Some(Value::Null) | None => String::new(),
            // The defaults of an object are those of its keys.
            Some(_) if is_object => String::new(),
            Some(value) => format!("`{value}`"),
        };
        let meaning = property["description"].as_str().unwrap_or_default();
        let _ = writeln!(
            page,
            "| `{path}` | {} | {default} | {} |",
            kind(root, target),
            meaning.replace('\n', " ")
        );
        describe_below(root, target, &path, page);
    }
}

/// Adds the rows of what is in `target`: an object, a list or a set of objects.
fn describe_below(root: &Value, target: &Value, path: &str, page: &mut String) {
    describe(root, target, &format!("{path}."), page);
    if target["items"].is_object() {
        describe_below(
            root,
            resolved(root, &target["items"]),
            &format!("{path}[]"),
            page,
        );
    }
    if target["additionalProperties"].is_object() {
        describe_below(
            root,
            resolved(root, &target["additionalProperties"]),
            &format!("{path}.<name>"),
            page,
        );
    }
}

/// Follows a reference to a named type, also where the value may be left out.
fn resolved<'a>(root: &'a Value, property: &'a Value) -> &'a Value {
    if let Some(name) = property["$ref"]
        .as_str()
        .and_then(|path| path.rsplit('/').next())
    {
        return &root["$defs"][name];
    }
    match property["anyOf"].as_array() {
        Some(choices) => choices
            .iter()
            .find(|choice| choice["type"] != "null")
            .map_or(property, |choice| resolved(root, choice)),
        None => property,
    }
}

/// What stands in the column "type".
fn kind(root: &Value, property: &Value) -> String {
    if let Some(choices) = property["oneOf"].as_array() {
        let names: Vec<String> = choices
            .iter()
            .map(|choice| format!("`{}`", choice["const"]))
            .collect();
        return names.join(", ");
    }
    let name = match &property["type"] {
        Value::String(name) => name.as_str(),
        Value::Array(names) => names
            .iter()
            .filter_map(Value::as_str)
            .find(|name| *name != "null")
            .unwrap_or_default(),
        _ => "",
    };
    match name {
        "array" => format!("list of {}", kind(root, resolved(root, &property["items"]))),
        "object" if property["additionalProperties"].is_object() => format!(
            "set of {}",
            kind(root, resolved(root, &property["additionalProperties"]))
        ),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_in_the_reference_are_current() {
        // Read when this is built: where tests run, the checkout may not be readable.
        macro_rules! written {
            ($name:literal) => {
                [
                    include_str!(concat!("../../../docs/reference/", $name, ".schema.json")),
                    include_str!(concat!("../../../docs/reference/", $name, ".md")),
                ]
            };
        }
        let written = [
            written!("settings"),
            written!("datasets"),
            written!("notifications"),
        ];
        for (kind, written) in KINDS.iter().zip(written) {
            for ((file, text), found) in kind.files().into_iter().zip(written) {
                assert!(
                    found == text,
                    "the type behind {file} has changed; run `cargo xtask schema` and commit the files"
                );
            }
        }
    }

    #[test]
    fn every_key_has_a_row_with_a_meaning() {
        for (kind, row) in [
            ("settings", "| `archive.compression.algorithm` | `\"none\"`"),
            ("settings", "| `preseed.sources[].knownHosts` | string |"),
            ("settings", "| `databases.declared.<name>.owner` | string |"),
            ("settings", "| `drill.sources` | list of `\"local\"`"),
            (
                "datasets",
                "| `datasets[].mountpoint` | string | required |",
            ),
            (
                "notifications",
                "| `templates.<name>.title` | string | required |",
            ),
        ] {
            let page = KINDS
                .iter()
                .find(|known| known.name == kind)
                .map(|kind| kind.page(&(kind.schema)()))
                .unwrap_or_default();
            assert!(page.contains(row), "{row} is not in {page}");
            for row in page.lines().filter(|line| line.starts_with("| `")) {
                assert!(!row.ends_with("|  |"), "{row}");
            }
        }
    }
}
