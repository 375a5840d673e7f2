//! `pg-init` with real mounts, in a mount namespace of its own.

use std::fs;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use command::Command;
use testbed::{Run, Testbed};

/// Mounts what it is told to mount, and then runs a program as the user who began: in the first
/// namespace that user is root, and PostgreSQL refuses root.
const ENTER: &str = r#"
set -eu
mounts=$1
shift
eval "$mounts"
exec unshare --user --map-user="$user" --map-group="$group" -- "$@"
"#;

struct Machine {
    testbed: Testbed,
}

impl Machine {
    fn new() -> Result<Self> {
        let machine = Self {
            testbed: Testbed::new()?,
        };
        for directory in ["pg", "archive", "state"] {
            fs::create_dir(machine.path(directory))?;
        }
        let settings = serde_json::json!({
            "instance": "main",
            "stateDirectory": machine.path("state"),
            "postgresql": {
                "binDirectory": machine.testbed.server().bin(),
                "dataDirectory": machine.path("pg/16"),
                "socketDirectory": machine.path("s"),
                "requiredMounts": [machine.path("pg")],
                "initdb": { "arguments": ["--auth-local=trust"] },
            },
            "archive": { "directory": machine.path("archive") },
        });
        fs::write(machine.path("main.json"), settings.to_string())?;
        Ok(machine)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.testbed.path().join(name)
    }

    /// Runs `program` where the shell commands `mounts`, in which `$pg` is the mount point, were run
    /// before.
    fn behind(&self, mounts: &str, program: Command) -> Result<Run> {
        let prepare = format!(
            "user={} group={} pg={}; {mounts}",
            nix::unistd::geteuid(),
            nix::unistd::getegid(),
            command::quoted(&self.path("pg").to_string_lossy()),
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
                ENTER,
                "enter",
                &prepare,
            ],
        ))
    }

    fn run_behind(&self, mounts: &str, program: &str) -> Result<Run> {
        let program = testbed::program(program)?
            .arg("--config")
            .arg(self.path("main.json"));
        self.behind(mounts, program)
    }

    fn init_behind(&self, mounts: &str) -> Result<Run> {
        self.run_behind(mounts, "pg-init")
    }

    /// Why this machine cannot do such a thing, if so.
    fn why_not(&self) -> Result<Option<String>> {
        let run = self.behind("mount -t tmpfs none \"$pg\"", Command::new("/bin/true"))?;
        Ok((run.code() != Some(0)).then_some(run.stderr))
    }
}

#[test]
fn s5_a_cluster_is_made_on_what_is_mounted_and_never_below_it() -> Result<()> {
    let machine = Machine::new()?;
    if let Some(why) = machine.why_not()? {
        testbed::skip!("this user may not mount anything: {}", why.trim());
    }
    // As a unit's ReadWritePaths= does: a mount point for its processes, and nothing is mounted.
    for mounts in ["true", "mount --bind \"$pg\" \"$pg\""] {
        let run = machine.init_behind(mounts)?.expect_code(1)?;
        ensure!(
            run.stderr.contains("nothing is mounted at"),
            "{}",
            run.stderr
        );
    }
    let run = machine
        .init_behind("mount -t tmpfs data \"$pg\"")?
        .expect_success()?;
    ensure!(run.stderr.contains("made a new cluster"), "{}", run.stderr);
    // It went with the namespace; below the mount point there is nothing.
    assert_eq!(fs::read_dir(machine.path("pg"))?.count(), 0);
    Ok(())
}

#[test]
fn s6_one_file_system_that_hides_another_is_refused_and_both_are_named() -> Result<()> {
    let machine = Machine::new()?;
    if let Some(why) = machine.why_not()? {
        testbed::skip!("this user may not mount anything: {}", why.trim());
    }
    let run = machine
        .init_behind("mount -t tmpfs old \"$pg\"; mount -t tmpfs new \"$pg\"")?
        .expect_code(1)?;
    ensure!(
        run.stderr.contains(&format!(
            "two file systems are mounted at \"{}\": tmpfs \"new\" hides tmpfs \"old\"",
            machine.path("pg").display()
        )),
        "{}",
        run.stderr
    );
    Ok(())
}

#[test]
fn s7_a_data_directory_that_is_a_mount_point_is_refused() -> Result<()> {
    let machine = Machine::new()?;
    if let Some(why) = machine.why_not()? {
        testbed::skip!("this user may not mount anything: {}", why.trim());
    }
    for (mounts, expected) in [
        (
            "mount -t tmpfs data \"$pg\"; mkdir \"$pg/16\"; mount -t tmpfs inner \"$pg/16\"",
            "is a mount point, which cannot be renamed",
        ),
        // The directory that ext4 makes at its top is no content, and tells that this is the top.
        (
            "mount -t tmpfs data \"$pg\"; mkdir -p \"$pg/16/lost+found\"",
            "is a mount point, which cannot be renamed",
        ),
        (
            "mount -t tmpfs data \"$pg\"; mkdir -p \"$pg/16\"; echo > \"$pg/16/notes\"",
            "holds \"notes\" and no PG_VERSION",
        ),
    ] {
        let run = machine.init_behind(mounts)?.expect_code(1)?;
        ensure!(run.stderr.contains(expected), "{mounts}: {}", run.stderr);
    }
    Ok(())
}

#[test]
fn s26_a_file_system_that_takes_no_changes_is_refused_before_anything_is_begun() -> Result<()> {
    let machine = Machine::new()?;
    if let Some(why) = machine.why_not()? {
        testbed::skip!("this user may not mount anything: {}", why.trim());
    }
    let path = machine.path("main.json");
    let mut settings: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path)?)?;
    settings["preseed"] = serde_json::json!({
        "sources": [{ "kind": "baseBackups" }],
        "allowEmptyStartWithoutProof": true,
    });
    settings["baseBackup"] = serde_json::json!({ "directory": machine.path("backups") });
    fs::write(path, settings.to_string())?;
    for program in ["pg-preseed", "pg-init"] {
        // With and without a cluster in it.
        for content in ["true", "mkdir \"$pg/16\"; echo 17 > \"$pg/16/PG_VERSION\""] {
            let mounts = format!(
                "mount -t tmpfs data \"$pg\"; {content}; mount -t tmpfs -o remount,ro data \"$pg\""
            );
            let run = machine.run_behind(&mounts, program)?.expect_code(1)?;
            ensure!(
                run.stderr.contains(&format!(
                    "tmpfs \"data\", which \"{}\" is in, takes no changes",
                    machine.path("pg/16").display()
                )),
                "{}",
                run.stderr
            );
        }
    }
    assert_eq!(fs::read_dir(machine.path("state"))?.count(), 0);
    Ok(())
}
