//! A restore where systemd runs the server.
//!
//! No systemd runs where these tests run: a script stands in for `systemctl`. It starts the server as
//! the unit does, `pg-init` first, and writes down what it was asked. A booted system is for the
//! scenarios.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use restore_journal::{Places, Step};
use testbed::{Cluster, ClusterOptions, Run, StopMode, Testbed};

/// `@BIN@`, `@PROGRAMS@`, `@HOME@` and `@DATA@` are filled in.
const SYSTEMCTL: &str = r#"#!/bin/sh
here=$(dirname "$0")
echo "$*" >> "$here/calls"
shift
verb=$1
shift
unit=
for word in "$@"; do unit=$word; done
state() {
    case $1 in
    postgresql-main.service) if "@BIN@/pg_ctl" status -D "@DATA@" >/dev/null; then echo active; else echo inactive; fi ;;
    *) cat "$here/$1" ;;
    esac
}
case $verb in
show)
    case "$*" in
    *LoadState*) printf 'LoadState=loaded\nActiveState=%s\n' "$(state "$unit")" ;;
    *)
        while [ "$1" != -- ]; do shift; done
        shift
        for one in "$@"; do printf 'Id=%s\nActiveState=%s\n\n' "$one" "$(state "$one")"; done ;;
    esac ;;
list-dependencies) printf '%s\n  app.service\n' "$unit" ;;
stop)
    if [ -e "$here/denied" ]; then echo "Failed to stop $unit: Access denied" >&2; exit 4; fi
    echo inactive > "$here/app.service"
    "@BIN@/pg_ctl" stop -D "@DATA@" -m fast -w -s -t 120 ;;
start)
    if [ "$unit" = app.service ]; then echo active > "$here/app.service"; exit; fi
    "@PROGRAMS@/pg-init" --config "@HOME@/settings.json" &&
        "@BIN@/pg_ctl" start -D "@DATA@" -w -s -t 120 -l "@DATA@.log" ;;
esac
"#;

struct Machine {
    cluster: Cluster,
    _testbed: Testbed,
}

impl Machine {
    fn new() -> Result<Self> {
        let testbed = Testbed::new()?;
        let cluster = testbed.cluster(
            "main",
            ClusterOptions::archiving()
                .segment_size_mib(1)
                .settings(&serde_json::json!({
                    "stateDirectory": testbed.path().join("main/state"),
                    "postgresql": { "unit": "postgresql-main.service" },
                })),
        )?;
        let machine = Self {
            cluster,
            _testbed: testbed,
        };
        fs::create_dir(machine.fakes())?;
        let programs = testbed::program_directory()?;
        let script = SYSTEMCTL
            .replace("@BIN@", &machine.cluster.server().bin().to_string_lossy())
            .replace("@PROGRAMS@", &programs.to_string_lossy())
            .replace("@HOME@", &machine.cluster.home().to_string_lossy())
            .replace("@DATA@", &machine.cluster.data().to_string_lossy());
        let systemctl = machine.fakes().join("systemctl");
        fs::write(&systemctl, script)?;
        fs::set_permissions(&systemctl, fs::Permissions::from_mode(0o755))?;
        fs::write(machine.fakes().join("app.service"), "active\n")?;
        machine.cluster.start()?;
        machine.cluster.psql("CREATE TABLE rows (i int)")?;
        machine
            .cluster
            .run("pg-base-backup", ["--full"])?
            .expect_success()?;
        machine.cluster.psql("INSERT INTO rows VALUES (1)")?;
        machine.cluster.archive_everything()?;
        Ok(machine)
    }

    fn fakes(&self) -> PathBuf {
        self.cluster.home().join("fakes")
    }

    fn restore(&self, arguments: &[&str]) -> Result<Run> {
        let mut all = vec!["restore", "main", "--yes", "--no-backup"];
        all.extend(arguments);
        let path = format!("{}:/usr/bin:/bin", self.fakes().display());
        Run::of(&self.cluster.program("backstay", all)?.env("PATH", path))
    }

    /// What `systemctl` was asked to do.
    fn orders(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.fakes().join("calls")).unwrap_or_default();
        calls
            .lines()
            .filter_map(|call| call.strip_prefix("--no-ask-password "))
            .filter(|call| !call.starts_with("show ") && !call.starts_with("list-dependencies "))
            .map(ToOwned::to_owned)
            .collect()
    }

    fn rows(&self) -> Result<String> {
        self.cluster.psql("SELECT count(*) FROM rows")
    }
}

#[test]
fn a_restore_stops_and_starts_the_unit_and_what_depends_on_it() -> Result<()> {
    let machine = Machine::new()?;
    let run = machine.restore(&["--to", "latest"])?.expect_success()?;
    assert_eq!(machine.rows()?, "1");
    assert_eq!(
        machine.orders(),
        [
            "stop --no-block -- postgresql-main.service",
            "reset-failed -- postgresql-main.service",
            "start -- postgresql-main.service",
            "start --no-block -- app.service",
        ]
    );
    assert_eq!(
        fs::read_to_string(machine.fakes().join("app.service"))?,
        "active\n"
    );
    for said in [
        "stopping postgresql-main.service\n",
        "stopped with it: app.service\n",
        "starting postgresql-main.service\n",
        "starting again: app.service\n",
    ] {
        ensure!(run.stderr.contains(said), "{}", run.stderr);
    }
    Ok(())
}

#[test]
fn a_restore_that_may_not_stop_the_unit_changes_nothing() -> Result<()> {
    let machine = Machine::new()?;
    fs::write(machine.fakes().join("denied"), "")?;
    // Also when nothing is there to stop: whoever may not stop it may not start it afterwards.
    for running in [true, false] {
        if !running {
            machine.cluster.stop(StopMode::Fast)?;
        }
        let run = machine.restore(&["--to", "latest"])?.expect_code(1)?;
        ensure!(run.stderr.contains("Access denied"), "{}", run.stderr);
        ensure!(
            run.stderr.contains(
                "hint: stopping \"postgresql-main.service\" takes root: put sudo before the command"
            ),
            "{}",
            run.stderr
        );
        assert_eq!(machine.cluster.is_running(), running);
    }
    let places = Places::beside(machine.cluster.data());
    ensure!(places.read_journal()?.is_none(), "a restore was begun");
    machine.cluster.start()?;
    assert_eq!(machine.rows()?, "1");
    Ok(())
}

#[test]
fn a_plan_and_a_restore_beside_the_server_leave_the_unit_alone() -> Result<()> {
    let machine = Machine::new()?;
    machine
        .restore(&["--to", "latest", "--plan"])?
        .expect_success()?;
    let beside = machine.cluster.home().join("beside").display().to_string();
    machine
        .restore(&["--to", "latest", "--into", &beside])?
        .expect_success()?;
    assert_eq!(machine.orders(), Vec::<String>::new());
    ensure!(machine.cluster.is_running());
    Ok(())
}

#[test]
fn a_restore_that_fails_lets_the_unit_start_with_the_cluster_as_it_was() -> Result<()> {
    let machine = Machine::new()?;
    // The WAL that the restore needs is there and is damaged, which nobody can know beforehand.
    let archive = archive::Archive::open(&machine.cluster.archive(), "main")?;
    let listing = archive.list(archive.newest_cluster()?)?;
    let last = listing.segments().last().context("a segment is archived")?;
    let path = archive.path_of(archive.newest_cluster()?, &wal::WalFileName::Segment(last))?;
    let mut stored = fs::read(&path)?;
    let middle = stored.len() / 2;
    stored[middle] ^= 0x40;
    fs::write(&path, stored)?;
    // The server has it too, undamaged, and would help out.
    let own = machine.cluster.data().join("pg_wal").join(last.to_string());
    if own.exists() {
        fs::remove_file(own)?;
    }

    let run = machine.restore(&["--to", "latest"])?.expect_code(1)?;
    ensure!(!machine.cluster.is_running(), "the server was not stopped");
    ensure!(
        run.stderr
            .contains("`systemctl start postgresql-main.service` starts it again"),
        "{}",
        run.stderr
    );
    let places = Places::beside(machine.cluster.data());
    let journal = places.read_journal()?.context("the restore is noted")?;
    assert_eq!(journal.step, Step::Failed);
    ensure!(
        places.staging.exists(),
        "what failed is not there to look at"
    );

    let start = command::Command::new(machine.fakes().join("systemctl"))
        .args([
            "--no-ask-password",
            "start",
            "--",
            "postgresql-main.service",
        ])
        .env("PATH", "/usr/bin:/bin");
    Run::of(&start)?.expect_success()?;
    assert_eq!(machine.rows()?, "1");
    machine
        .cluster
        .run("backstay", ["restore", "main", "--abandon"])?
        .expect_success()?;
    ensure!(!places.staging.exists() && !places.journal.exists());
    assert_eq!(machine.rows()?, "1");
    Ok(())
}
