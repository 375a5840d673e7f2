//! What is asked of `systemctl`, and what is made of its answers.
//!
//! No systemd runs where these tests run: a script stands in for `systemctl`, prints what the real one
//! (systemd 252) prints, and writes down what it was asked.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use systemd::Service;

/// A `systemctl` whose units are files that hold their state.
const SYSTEMCTL: &str = r#"#!/bin/sh
here=$(dirname "$0")
echo "$*" >> "$here/calls"
shift
verb=$1
shift
unit=
for word in "$@"; do unit=$word; done
state() { cat "$here/$1" 2>/dev/null || echo inactive; }
case $verb in
show)
    case "$*" in
    *LoadState*)
        if [ -e "$here/$unit" ]; then echo LoadState=loaded; else echo LoadState=not-found; fi
        echo "ActiveState=$(state "$unit")" ;;
    *)
        while [ "$1" != -- ]; do shift; done
        shift
        for one in "$@"; do printf 'Id=%s\nActiveState=%s\n\n' "$one" "$(state "$one")"; done ;;
    esac ;;
list-dependencies)
    printf '%s\n  app.service\n    web.service\n  idle.service\n  multi-user.target\n' "$unit" ;;
stop)
    if [ -e "$here/denied" ]; then
        echo "Failed to stop $unit: Access denied" >&2
        exit 4
    fi
    if [ ! -e "$here/hangs" ]; then
        echo inactive > "$here/$unit"
        echo inactive > "$here/app.service"
        echo inactive > "$here/web.service"
    fi ;;
start)
    if [ -e "$here/fails" ]; then
        echo "Job for $unit failed because the control process exited with error code." >&2
        exit 1
    fi
    while [ "$1" != -- ]; do shift; done
    shift
    for one in "$@"; do echo active > "$here/$one"; done ;;
esac
"#;

struct Machine {
    directory: tempfile::TempDir,
}

impl Machine {
    fn new() -> Result<Self> {
        let machine = Self {
            directory: tempfile::tempdir()?,
        };
        let systemctl = machine.path("systemctl");
        fs::write(&systemctl, SYSTEMCTL)?;
        fs::set_permissions(&systemctl, fs::Permissions::from_mode(0o755))?;
        for unit in ["postgresql-main.service", "app.service", "web.service"] {
            fs::write(machine.path(unit), "active\n")?;
        }
        fs::write(machine.path("idle.service"), "inactive\n")?;
        Ok(machine)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn service(&self) -> Service {
        Service::with_systemctl("postgresql-main.service", &self.path("systemctl"))
    }

    fn state(&self, unit: &str) -> Result<String> {
        Ok(fs::read_to_string(self.path(unit))?.trim().to_owned())
    }
}

const PATIENCE: Duration = Duration::from_mins(1);

#[test]
fn what_goes_down_with_a_service_is_named_and_comes_up_again() -> Result<()> {
    let machine = Machine::new()?;
    let service = machine.service();
    let along = service.stop(PATIENCE)?;
    assert_eq!(along, ["app.service", "web.service"]);
    assert_eq!(machine.state("postgresql-main.service")?, "inactive");
    service.start()?;
    service.start_others(&along)?;
    for unit in ["postgresql-main.service", "app.service", "web.service"] {
        assert_eq!(machine.state(unit)?, "active", "{unit}");
    }
    assert_eq!(machine.state("idle.service")?, "inactive");
    let calls = fs::read_to_string(machine.path("calls"))?;
    let orders: Vec<&str> = calls
        .lines()
        .filter(|call| !call.contains(" show ") && !call.contains(" list-dependencies "))
        .collect();
    assert_eq!(
        orders,
        [
            "--no-ask-password stop --no-block -- postgresql-main.service",
            "--no-ask-password reset-failed -- postgresql-main.service",
            "--no-ask-password start -- postgresql-main.service",
            "--no-ask-password start --no-block -- app.service web.service",
        ]
    );
    Ok(())
}

#[test]
fn a_service_that_may_not_be_stopped_or_does_not_exist_is_an_error_with_a_way_out() -> Result<()> {
    let machine = Machine::new()?;
    fs::write(machine.path("denied"), "")?;
    let err = machine.service().stop(PATIENCE).unwrap_err();
    ensure!(
        err.to_string().ends_with(
            "exited with status 4: Failed to stop postgresql-main.service: Access denied"
        ),
        "{err}"
    );
    assert_eq!(
        tool::hint_of(&err),
        Some("stopping \"postgresql-main.service\" takes root: put sudo before the command")
    );
    assert_eq!(machine.state("app.service")?, "active");

    let other = Service::with_systemctl("other.service", &machine.path("systemctl"));
    assert_eq!(
        other.stop(PATIENCE).unwrap_err().to_string(),
        "systemd has no unit \"other.service\""
    );
    Ok(())
}

#[test]
fn d12_a_service_that_hangs_while_it_stops_is_not_waited_for_for_ever() -> Result<()> {
    let machine = Machine::new()?;
    fs::write(machine.path("hangs"), "")?;
    let err = machine
        .service()
        .stop(Duration::from_millis(500))
        .unwrap_err();
    assert_eq!(
        err.to_string(),
        "\"postgresql-main.service\" has not stopped within 0 seconds"
    );
    ensure!(tool::hint_of(&err).is_some_and(|hint| hint.contains("an archive that hangs")));
    Ok(())
}

#[test]
fn a_service_that_does_not_start_leads_to_its_journal() -> Result<()> {
    let machine = Machine::new()?;
    fs::write(machine.path("fails"), "")?;
    let err = machine.service().start().unwrap_err();
    ensure!(
        err.to_string()
            .contains("Job for postgresql-main.service failed"),
        "{err}"
    );
    assert_eq!(
        tool::hint_of(&err),
        Some("its messages are in the journal: `journalctl --unit=postgresql-main.service`")
    );
    Ok(())
}
