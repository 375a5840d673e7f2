//! What cargo builds: the test executables and the programs.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::process;

/// An executable with tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestExecutable {
    /// Directory of its package, below `crates`.
    pub package: String,
    /// Name of the target: that of the library or program, or of the file below `tests`.
    pub target: String,
    /// Where cargo put it.
    pub path: PathBuf,
}

impl TestExecutable {
    /// The name in reports: `wal/names` for the file `crates/wal/tests/names.rs`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.package, self.target)
    }

    /// Whether its tests are about the server and run on every version of it.
    pub fn is_per_version(&self) -> bool {
        self.target.starts_with("on_postgresql")
    }
}

/// A cargo command in the workspace.
pub fn cargo(arguments: &[&str]) -> Command {
    let mut command = process::command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(workspace());
    command
}

/// The root of the workspace.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .map(Path::to_owned)
        .unwrap_or_default()
}

/// Builds every test executable of the workspace.
///
/// # Errors
///
/// Fails when the build does.
pub fn build_tests() -> Result<Vec<TestExecutable>> {
    let messages = process::output(&mut cargo(&[
        "test",
        "--workspace",
        "--no-run",
        "--quiet",
        "--message-format=json-render-diagnostics",
    ]))?;
    executables(&messages, |message| {
        message["profile"]["test"] == Value::Bool(true)
    })
}

/// The programs of a round trip: archive, back up, find, restore.
pub const ROUND_TRIP: [&str; 4] = [
    "backstay",
    "pg-archive-wal",
    "pg-base-backup",
    "pg-restore-wal",
];

/// Builds the programs `wanted`, or every program of the workspace but this one where none is named,
/// and returns where they are.
///
/// # Errors
///
/// Fails when the build does.
pub fn build_programs(release: bool, wanted: &[&str]) -> Result<Vec<PathBuf>> {
    let mut build = cargo(&[
        "build",
        "--bins",
        "--quiet",
        "--message-format=json-render-diagnostics",
    ]);
    if wanted.is_empty() {
        // Building this program again while it runs would only cost time.
        build.args(["--workspace", "--exclude", env!("CARGO_PKG_NAME")]);
    }
    for package in wanted {
        build.args(["--package", package]);
    }
    if release {
        build.arg("--release");
    }
    let programs = executables(&process::output(&mut build)?, |message| {
        message["target"]["kind"] == serde_json::json!(["bin"])
    })?;
    Ok(programs.into_iter().map(|program| program.path).collect())
}

/// The executables in cargo's messages that `wanted` chooses.
fn executables(messages: &str, wanted: impl Fn(&Value) -> bool) -> Result<Vec<TestExecutable>> {
    let mut found = Vec::new();
    for line in messages.lines() {
        let message: Value =
            serde_json::from_str(line).with_context(|| format!("read cargo's message {line}"))?;
        let Some(path) = message["executable"].as_str().filter(|_| wanted(&message)) else {
            continue;
        };
        let manifest = Path::new(message["manifest_path"].as_str().unwrap_or_default());
        found.push(TestExecutable {
            package: manifest
                .parent()
                .and_then(Path::file_name)
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            target: message["target"]["name"]
                .as_str()
                .unwrap_or_default()
                .into(),
            path: path.into(),
        });
    }
    found.sort_by_key(TestExecutable::name);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_executables_are_told_from_programs_and_libraries_in_cargos_messages() -> Result<()> {
        // As cargo 1.95 prints them, shortened.
        let messages = r#"{"reason":"compiler-artifact","manifest_path":"/w/crates/wal/Cargo.toml","target":{"kind":["lib"],"name":"wal"},"profile":{"test":false},"executable":null}
{"reason":"compiler-artifact","manifest_path":"/w/crates/wal/Cargo.toml","target":{"kind":["lib"],"name":"wal"},"profile":{"test":true},"executable":"/t/deps/wal-1"}
{"reason":"compiler-artifact","manifest_path":"/w/crates/backstay/Cargo.toml","target":{"kind":["bin"],"name":"backstay"},"profile":{"test":false},"executable":"/t/backstay"}
{"reason":"compiler-artifact","manifest_path":"/w/crates/backstay/Cargo.toml","target":{"kind":["test"],"name":"on_postgresql"},"profile":{"test":true},"executable":"/t/deps/on_postgresql-1"}
{"reason":"build-finished","success":true}
"#;
        let found = executables(messages, |m| m["profile"]["test"] == Value::Bool(true))?;
        let names: Vec<String> = found.iter().map(TestExecutable::name).collect();
        assert_eq!(names, ["backstay/on_postgresql", "wal/wal"]);
        assert_eq!(
            found
                .iter()
                .map(TestExecutable::is_per_version)
                .collect::<Vec<_>>(),
            [true, false]
        );
        Ok(())
    }
}
