//! `backstay notify` with the real apprise, which reaches a server of ours in place of ntfy and
//! healthchecks. systemd is a script here that says what systemd 252 says.

use std::fs::{self, Permissions};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use testbed::Run;

const APPRISE: &str = "/usr/bin/apprise";
const EVENT: &str = "backup-failure:postgresql-basebackup-main.service";
const TOKEN: &str = "7f3a-secret-of-the-check";

/// What a server of ours was asked.
#[derive(Clone, Debug)]
struct Request {
    path: String,
    priority: Option<String>,
    body: Value,
}

/// An HTTP server that takes everything, with a status that can be changed.
struct Web {
    port: u16,
    status: Arc<AtomicU16>,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Web {
    fn new() -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let web = Self {
            port: listener.local_addr()?.port(),
            status: Arc::new(AtomicU16::new(200)),
            requests: Arc::default(),
        };
        let (status, requests) = (web.status.clone(), web.requests.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if let Ok(request) = answer(stream, status.load(Ordering::SeqCst))
                    && let Ok(mut requests) = requests.lock()
                {
                    requests.push(request);
                }
            }
        });
        Ok(web)
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn set_status(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }

    /// What it was asked since the last call.
    fn take(&self) -> Vec<Request> {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *requests)
    }
}

fn answer(stream: TcpStream, status: u16) -> Result<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).context("no path")?.to_owned();
    let (mut length, mut priority) = (0, None);
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim().split_once(": ") else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse()?,
            "x-priority" => priority = Some(value.to_owned()),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    write!(
        reader.get_mut(),
        "HTTP/1.1 {status} Status\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}"
    )?;
    Ok(Request {
        path,
        priority,
        body: serde_json::from_slice(&body)?,
    })
}

/// A host with the notifier.
struct Host {
    directory: tempfile::TempDir,
    ntfy: Web,
    healthchecks: Web,
}

impl Host {
    fn new(change: &Value) -> Result<Self> {
        let host = Self {
            directory: tempfile::tempdir()?,
            ntfy: Web::new()?,
            healthchecks: Web::new()?,
        };
        for name in ["bin", "credentials", "tmp"] {
            fs::create_dir(host.path(name))?;
        }
        fs::write(host.path("credentials/check"), format!("{TOKEN}\n"))?;
        host.script(
            "systemctl",
            "cat <<'END'\nResult=exit-code\nExecMainStatus=1\nDescription=Base backup of the PostgreSQL instance main\n\
             InvocationID=0123456789abcdef0123456789abcdef\nInactiveEnterTimestamp=Sat 2026-11-21 02:00:03 UTC\nEND",
        )?;
        host.script(
            "journalctl",
            "case \"$*\" in *--unit=postgresql-basebackup-main.service*_SYSTEMD_INVOCATION_ID=0123456789abcdef0123456789abcdef*)\n\
             echo 'could not take a base backup: the disk is full — {host}';; *) exit 1;; esac",
        )?;
        let mut settings = json!({
            "hostName": "forge",
            "stateDirectory": host.path("state"),
            "apprise": APPRISE,
            "retryAttempts": 1,
            "timeoutSeconds": 120,
            "repeatAfterSeconds": 3600,
            "backends": {
                "ntfy": { "server": host.ntfy.url(), "topic": "forge-alerts" },
                "healthchecks": { "baseUrl": format!("{}/ping", host.healthchecks.url()), "uuidCredential": "check" },
            },
            "templates": {
                "backup-failure": {
                    "backends": ["ntfy", "healthchecks"],
                    "priority": "high",
                    "title": "{host}: base backup failed ({unit})",
                    "body": "{description} ended with {result}, status {status}, at {time}.\n\n{log}",
                },
            },
        });
        for (key, value) in change.as_object().context("no object")? {
            settings[key] = value.clone();
        }
        fs::write(host.path("notifications.json"), settings.to_string())?;
        Ok(host)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn script(&self, name: &str, text: &str) -> Result<()> {
        let path = self.path("bin").join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n"))?;
        fs::set_permissions(&path, Permissions::from_mode(0o755))?;
        Ok(())
    }

    fn notify(&self, arguments: &[&str]) -> Result<Run> {
        let program = testbed::program("backstay")?
            .args(["notify", "--config"])
            .arg(self.path("notifications.json"))
            .args(arguments)
            .env(
                "PATH",
                format!("{}:/usr/bin:/bin", self.path("bin").display()),
            )
            .env("HOME", self.path("tmp"))
            .env("TMPDIR", self.path("tmp"))
            .env("CREDENTIALS_DIRECTORY", self.path("credentials"));
        let run = Run::of(&program)?;
        ensure!(
            !run.stderr.contains(TOKEN) && !run.stdout.contains(TOKEN),
            "{}{}",
            run.stdout,
            run.stderr
        );
        Ok(run)
    }

    fn memory(&self) -> PathBuf {
        self.path("state/failed").join(EVENT)
    }
}

macro_rules! needs_apprise {
    () => {
        if !Path::new(APPRISE).exists() {
            testbed::skip!("{APPRISE} is not installed; the package apprise has it");
        }
    };
}

#[test]
fn a_failure_is_told_everywhere_once_and_its_end_once() -> Result<()> {
    needs_apprise!();
    let host = Host::new(&json!({}))?;
    host.notify(&["--failed", EVENT])?.expect_success()?;
    let body = "Base backup of the PostgreSQL instance main ended with exit-code, status 1, at Sat 2026-11-21 02:00:03 UTC.\n\n\
                could not take a base backup: the disk is full — {host}";
    let title = "forge: base backup failed (postgresql-basebackup-main.service)";
    let told = host.ntfy.take();
    let [request] = told.as_slice() else {
        panic!("{told:#?}");
    };
    // In words or as a number, by the version of apprise.
    let priority = request.priority.as_deref();
    ensure!(
        [Some("high"), Some("4")].contains(&priority),
        "{priority:?}"
    );
    assert_eq!(request.body["topic"], "forge-alerts");
    assert_eq!(request.body["title"], title);
    assert_eq!(request.body["message"], body);
    let told = host.healthchecks.take();
    let [request] = told.as_slice() else {
        panic!("{told:#?}");
    };
    assert_eq!(request.path, format!("/ping/{TOKEN}/fail"));
    assert_eq!(request.body["title"], title);
    assert_eq!(request.body["type"], "failure");

    // The same failure a minute later.
    let run = host.notify(&["--failed", EVENT])?.expect_success()?;
    ensure!(run.stderr.contains("told already"), "{}", run.stderr);
    ensure!(host.ntfy.take().is_empty() && host.healthchecks.take().is_empty());

    host.notify(&["--recovered", EVENT])?.expect_success()?;
    let told = host.ntfy.take();
    assert_eq!(told.len(), 1, "{told:#?}");
    assert_eq!(
        told[0].body["title"],
        "forge: postgresql-basebackup-main.service works again"
    );
    let told = host.healthchecks.take();
    assert_eq!(told.len(), 1, "{told:#?}");
    assert_eq!(told[0].path, format!("/ping/{TOKEN}"));
    assert_eq!(told[0].body["type"], "success");
    ensure!(!host.memory().exists());
    host.notify(&["--recovered", EVENT])?.expect_success()?;
    ensure!(host.ntfy.take().is_empty() && host.healthchecks.take().is_empty());
    // A new failure is told at once.
    host.notify(&["--failed", EVENT])?.expect_success()?;
    assert_eq!(host.ntfy.take().len(), 1);
    // Nothing with an address is left.
    let left: Vec<_> = fs::read_dir(host.path("tmp"))?
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("backstay"))
        .collect();
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}

#[test]
fn one_backend_that_fails_does_not_stop_the_other_and_is_told_by_the_next_run() -> Result<()> {
    needs_apprise!();
    let host = Host::new(&json!({ "retryAttempts": 2 }))?;
    host.ntfy.set_status(500);
    let run = host.notify(&["--failed", EVENT])?.expect_code(1)?;
    ensure!(
        run.stderr.contains(
            "could not tell everybody: ntfy: 2 attempts failed: apprise exited with status 1"
        ) && run.stderr.contains("\nhint: "),
        "{}",
        run.stderr
    );
    assert_eq!(host.ntfy.take().len(), 2);
    assert_eq!(host.healthchecks.take().len(), 1);
    ensure!(host.memory().exists());
    // systemd starts it again.
    host.ntfy.set_status(200);
    host.notify(&["--failed", EVENT])?.expect_success()?;
    assert_eq!(host.ntfy.take().len(), 1);
    assert_eq!(host.healthchecks.take().len(), 0);
    Ok(())
}

#[test]
fn a_failure_that_nobody_took_is_not_remembered_as_told() -> Result<()> {
    needs_apprise!();
    let host = Host::new(&json!({}))?;
    host.ntfy.set_status(503);
    host.healthchecks.set_status(503);
    host.notify(&["--failed", EVENT])?.expect_code(1)?;
    ensure!(!host.memory().exists());
    Ok(())
}

#[test]
fn secrets_are_in_no_argument_and_no_environment_and_their_file_is_closed_to_others() -> Result<()>
{
    let host = Host::new(&json!({}))?;
    let seen = host.path("seen");
    // In place of apprise, to see what it is given.
    host.script(
        "apprise",
        &format!(
            "{{ env; printf '%s\\n' \"$@\"; stat -c 'mode %a' \"$2\"; cat \"$2\"; echo '--'; cat; }} >> {}",
            seen.display()
        ),
    )?;
    let settings = fs::read_to_string(host.path("notifications.json"))?;
    fs::write(
        host.path("notifications.json"),
        settings.replace(APPRISE, &host.path("bin/apprise").display().to_string()),
    )?;
    host.notify(&["--failed", EVENT])?.expect_success()?;
    let seen = fs::read_to_string(seen)?;
    ensure!(seen.matches(TOKEN).count() == 1, "{seen}");
    ensure!(
        seen.contains(&format!("/ping/{TOKEN}/fail\n--\nBase backup of")),
        "{seen}"
    );
    ensure!(seen.matches("mode 600\n").count() == 2, "{seen}");
    Ok(())
}

#[test]
fn a_backend_that_hangs_is_ended_and_a_secret_that_is_missing_is_named() -> Result<()> {
    let host = Host::new(&json!({ "timeoutSeconds": 1 }))?;
    host.script("apprise", "sleep 1000")?;
    let settings = fs::read_to_string(host.path("notifications.json"))?;
    fs::write(
        host.path("notifications.json"),
        settings.replace(APPRISE, &host.path("bin/apprise").display().to_string()),
    )?;
    fs::remove_file(host.path("credentials/check"))?;
    let run = host.notify(&["--failed", EVENT])?.expect_code(1)?;
    for what in [
        "ntfy: apprise was not done within 1 seconds",
        "healthchecks: read credential ",
    ] {
        ensure!(run.stderr.contains(what), "{}", run.stderr);
    }
    Ok(())
}

#[test]
fn a_sample_can_be_sent_and_a_message_without_systemds_answers_too() -> Result<()> {
    needs_apprise!();
    let host = Host::new(&json!({}))?;
    let run = host
        .notify(&["--test", "backup-failure"])?
        .expect_success()?;
    assert_eq!(run.stdout, "sent to ntfy, healthchecks\n");
    let told = host.ntfy.take();
    assert_eq!(
        told[0].body["title"],
        "forge: base backup failed (sample.service)"
    );
    ensure!(!host.memory().exists());

    host.script("systemctl", "exit 1")?;
    host.script("journalctl", "exit 1")?;
    host.notify(&["--failed", EVENT])?.expect_success()?;
    let told = host.ntfy.take();
    assert_eq!(
        told[0].body["message"],
        "postgresql-basebackup-main.service ended with unknown, status unknown, at unknown.\n\n(the log could not be read)"
    );
    Ok(())
}

#[test]
fn settings_are_checked_without_credentials_and_a_wrong_event_is_refused() -> Result<()> {
    let host = Host::new(&json!({}))?;
    let config = host.path("notifications.json").display().to_string();
    testbed::run(
        "backstay",
        ["notify", "--config", &config, "--check-config"],
    )?
    .expect_success()?;
    fs::write(&config, "{}")?;
    let run = testbed::run(
        "backstay",
        ["notify", "--config", &config, "--check-config"],
    )?;
    ensure!(
        run.code() == Some(1) && run.stderr.contains("hostName"),
        "{}",
        run.stderr
    );
    for event in ["no-colon", "x:../../escape"] {
        testbed::run(
            "backstay",
            ["notify", "--config", &config, "--failed", event],
        )?
        .expect_code(1)?;
    }
    Ok(())
}
