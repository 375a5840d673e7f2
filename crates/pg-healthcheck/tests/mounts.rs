//! H13 with real mounts, in a mount namespace of its own.

use anyhow::{Result, ensure};
use command::Command;
use testbed::{Run, Testbed};

/// Runs `program` where the shell commands `mounts`, in which `$pg` is the mount point, were run before.
fn behind(testbed: &Testbed, mounts: &str, program: Command) -> Result<Run> {
    let pg = testbed.path().join("pg");
    let script = format!(
        "set -eu; pg={}; {mounts}; exec \"$@\"",
        command::quoted(&pg.to_string_lossy())
    );
    Run::of(&program.wrapped_in(
        "/usr/bin/unshare",
        [
            "--user",
            "--map-root-user",
            "--mount",
            "--",
            "/bin/sh",
            "-c",
            &script,
            "enter",
        ],
    ))
}

#[test]
fn h13_a_mount_that_is_missing_doubled_or_read_only_is_red_and_a_sandbox_is_not() -> Result<()> {
    let testbed = Testbed::new()?;
    let pg = testbed.path().join("pg");
    std::fs::create_dir(&pg)?;
    let nothing = behind(
        &testbed,
        "mount -t tmpfs none \"$pg\"",
        Command::new("/bin/true"),
    )?;
    if nothing.code() != Some(0) {
        testbed::skip!(
            "this user may not mount anything: {}",
            nothing.stderr.trim()
        );
    }
    let settings = serde_json::json!({
        "instance": "main",
        "stateDirectory": testbed.path().join("state"),
        "postgresql": {
            "binDirectory": testbed.server().bin(),
            "dataDirectory": pg.join("16"),
            "socketDirectory": testbed.path().join("s"),
            "requiredMounts": [&pg],
        },
        "archive": { "directory": testbed.path().join("archive") },
    });
    let file = testbed.path().join("main.json");
    std::fs::write(&file, settings.to_string())?;
    for (mounts, expected) in [
        ("true", Some("nothing is mounted at")),
        ("mount -t tmpfs data \"$pg\"", None),
        // What a unit with ProtectSystem=strict sees of it.
        (
            "mount -t tmpfs data \"$pg\"; mount --bind \"$pg\" \"$pg\"; mount -o remount,bind,ro \"$pg\"",
            None,
        ),
        (
            "mount -t tmpfs -o ro data \"$pg\"",
            Some("takes no changes: it is mounted read-only"),
        ),
        (
            "mount -t tmpfs one \"$pg\"; mount -t tmpfs two \"$pg\"",
            Some("\"two\" is mounted over \"one\""),
        ),
    ] {
        let program = testbed::program("pg-healthcheck")?
            .args(["--json", "--config"])
            .arg(&file);
        let report = behind(&testbed, mounts, program)?.json()?;
        let found: Vec<&str> = report["findings"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|finding| finding["check"] == "mounts")
            .filter_map(|finding| finding["what"].as_str())
            .collect();
        match expected {
            None => ensure!(found.is_empty(), "{mounts}: {found:?}"),
            Some(expected) => ensure!(
                matches!(found.as_slice(), [one] if one.contains(expected)),
                "{mounts}: {report:#}"
            ),
        }
    }
    Ok(())
}
