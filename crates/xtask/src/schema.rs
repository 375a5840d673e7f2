//! `cargo xtask schema`: the settings file in the reference, as a JSON Schema and as a page to read.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::artifacts;

/// Where the schema stands, from the root of the workspace.
const SCHEMA: &str = "docs/reference/settings.schema.json";
/// Where the page stands.
const PAGE: &str = "docs/reference/settings.md";

/// Write `docs/reference/settings.schema.json` and `settings.md` from the settings type
#[derive(Debug, clap::Args)]
pub struct Arguments {}

/// Runs the command.
///
/// # Errors
///
/// Fails when the file cannot be written.
pub fn run(_arguments: &Arguments) -> Result<ExitCode> {
    for (file, text) in [(SCHEMA, schema()), (PAGE, page())] {
        let path = artifacts::workspace().join(file);
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)
                .with_context(|| format!("create \"{}\"", directory.display()))?;
        }
        std::fs::write(&path, text).with_context(|| format!("write \"{}\"", path.display()))?;
        println!("wrote {}", Path::new(file).display());
    }
    Ok(ExitCode::SUCCESS)
}

/// The schema as it is written to the file.
fn schema() -> String {
    format!("{:#}\n", settings::Settings::schema())
}

/// The page as it is written to the file.
fn page() -> String {
    let schema = settings::Settings::schema();
    let mut page = String::from(
        "# The settings file\n\nOne JSON file describes one instance, usually `/etc/backstay/<instance>.json`. The NixOS module writes it;\n\
         elsewhere you do. Unknown keys are refused. `backstay check-config FILE` names every problem at once.\n\n\
         This page and `settings.schema.json` are written by `cargo xtask schema`.\n\n\
         | key | type | default | meaning |\n|---|---|---|---|\n",
    );
    describe(&schema, &schema, "", &mut page);
    page
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
            kind(target),
            meaning.replace('\n', " ")
        );
        describe(root, target, &format!("{path}."), page);
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

fn kind(property: &Value) -> String {
    if let Some(choices) = property["oneOf"].as_array() {
        let names: Vec<String> = choices
            .iter()
            .map(|choice| format!("`{}`", choice["const"]))
            .collect();
        return names.join(", ");
    }
    match &property["type"] {
        Value::String(name) => name.clone(),
        Value::Array(names) => names
            .iter()
            .filter_map(Value::as_str)
            .find(|name| *name != "null")
            .unwrap_or_default()
            .to_owned(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_settings_in_the_reference_are_current() {
        let hint = "the settings type has changed; run `cargo xtask schema` and commit the files";
        let schema = include_str!("../../../docs/reference/settings.schema.json");
        assert!(super::schema() == schema, "{hint}");
        assert!(
            super::page() == include_str!("../../../docs/reference/settings.md"),
            "{hint}"
        );
    }

    #[test]
    fn every_key_has_a_row_with_a_meaning() {
        let page = super::page();
        assert!(
            page.contains("| `archive.compression.algorithm` |"),
            "{page}"
        );
        for row in page.lines().filter(|line| line.starts_with("| `")) {
            assert!(!row.ends_with("|  |"), "{row}");
        }
    }
}
