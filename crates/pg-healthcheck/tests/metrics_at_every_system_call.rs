//! H7: what a reader of the metrics sees when their writer is killed at any of its system calls: the old
//! file or the new one, whole, and no other that the exporter would read.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use testbed::strace;

/// The calls that touch the file and its directory.
const CALLS: [&str; 12] = [
    "openat",
    "flock",
    "fchmod",
    "write",
    "fsync",
    "rename",
    "renameat2",
    "close",
    "statx",
    "getdents64",
    "unlink",
    "mkdir",
];
/// The fewest points that count as "every system call": a run that sees less is not looking.
const FEWEST_POINTS: u32 = 60;

/// Settings of an instance that does not run. Its check is red, and its metrics are written.
fn settings(home: &Path) -> Result<()> {
    for name in ["metrics", "archive", "data", "socket"] {
        fs::create_dir(home.join(name))?;
    }
    let settings = serde_json::json!({
        "instance": "main",
        "stateDirectory": home.join("state"),
        "postgresql": {
            "binDirectory": "/usr/bin",
            "dataDirectory": home.join("data"),
            "socketDirectory": home.join("socket"),
        },
        "archive": { "directory": home.join("archive") },
        "metrics": { "directory": home.join("metrics") },
    });
    fs::write(home.join("settings.json"), settings.to_string())?;
    Ok(())
}

/// When the check was made whose metrics are there. They are whole, and alone.
fn checked_at(home: &Path) -> Result<String> {
    let directory = home.join("metrics");
    let files: Vec<PathBuf> = fs::read_dir(&directory)?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| end == "prom"))
        .collect();
    let file = directory.join("postgresql_health_main.prom");
    ensure!(files == [file.clone()], "{files:?}");
    let text = fs::read_to_string(file)?;
    let has = |line: &str| text.contains(line);
    ensure!(
        has("postgresql_health_status{instance=\"main\"} 2.0\n")
            && has("postgresql_storage_size_bytes{instance=\"main\",place=\"data\"} ")
            && text.ends_with('\n'),
        "{text}"
    );
    text.lines()
        .find_map(|line| {
            line.strip_prefix("postgresql_health_last_check_timestamp{instance=\"main\"} ")
        })
        .map(ToOwned::to_owned)
        .with_context(|| text.clone())
}

#[test]
fn h7_a_kill_at_any_system_call_leaves_the_old_metrics_or_the_new_ones() -> Result<()> {
    if !strace::is_available() {
        testbed::skip!("strace is not installed");
    }
    let directory = tempfile::tempdir()?;
    let home = directory.path();
    settings(home)?;
    let check = testbed::program("pg-healthcheck")?
        .arg("--config")
        .arg(home.join("settings.json"));
    let log = home.join("strace.log");
    // The check is red, which strace would hand on.
    let forgiving = check
        .clone()
        .wrapped_in("/bin/sh", ["-c", "\"$@\"; test $? -eq 2", "sh"]);
    let calls = strace::count_calls(&forgiving, &log)?;
    let mut points = 0;
    let (mut old, mut new) = (0, 0);
    for name in CALLS {
        for number in 1..=calls.get(name).copied().unwrap_or_default() {
            let before = checked_at(home)?;
            strace::run_with_fault(&check, &log, name, "signal=SIGKILL", number)?;
            let at = || format!("killed at call {number} of {name}");
            let after = checked_at(home).with_context(at)?;
            *(if before == after { &mut old } else { &mut new }) += 1;
            points += 1;
        }
    }
    ensure!(points >= FEWEST_POINTS, "only {points} points");
    ensure!(
        old > 0 && new > 0,
        "{old} left the old metrics, {new} the new ones"
    );
    // Whoever comes next writes as if nothing had been.
    let before = checked_at(home)?;
    let (status, _) = check.run_any_status()?;
    ensure!(status.code() == Some(2) && checked_at(home)? != before);
    Ok(())
}
