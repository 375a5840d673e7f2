//! A real Prometheus reads our rules, and what a real node exporter makes of our files, with labels honoured
//! and not: no rule fails, and the right ones fire.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use alerts::{rule_file, rules};
use anyhow::{Context as _, Result, ensure};
use command::{Command, Started};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use textfile::{File, METRICS, Metric, Unit, Writer, table};

const PROMETHEUS: &str = "/usr/bin/prometheus";
const EXPORTER: &str = "/usr/bin/prometheus-node-exporter";

/// Alerts about an instance of which nothing is heard.
const SILENCE: [&str; 2] = ["PostgreSQLNotWatched", "PostgreSQLInstanceVanished"];

/// Ends a program when the test does.
struct Running(Pid, Started);

impl Running {
    fn start(command: &Command, log: &Path) -> Result<Self> {
        let started = command.start_with_log(log)?;
        Ok(Self(Pid::from_raw(i32::try_from(started.id())?), started))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGKILL);
        let _ = self.1.wait();
    }
}

/// A port that was free a moment ago.
fn port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

fn get(port: u16, path: &str) -> Result<Value> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    serde_json::from_str(body).with_context(|| format!("read {body:?}"))
}

/// What an instance writes that was checked `age` seconds ago.
fn write(directory: &Path, instance: &str, now: f64, age: f64) -> Result<()> {
    for writer in Writer::ALL {
        let mut file = File::new(writer, instance);
        for metric in METRICS.iter().filter(|metric| metric.writer == writer) {
            if let Some(value) = value_of(metric, now) {
                for label in values_of(metric) {
                    let labels: Vec<&str> = metric.labels.iter().map(|_| label).collect();
                    file.set_for(metric, &labels, value);
                }
            }
        }
        if writer == Writer::Health {
            file.set(&table::HEALTH_LAST_CHECK, now - age);
        }
        file.write(directory)?;
    }
    Ok(())
}

/// A value of a metric with which everything is well.
fn value_of(metric: &Metric, now: f64) -> Option<f64> {
    match metric.unit {
        _ if *metric == table::DRILL_FAILURE => None,
        Unit::Timestamp => Some(now),
        Unit::Status => Some(0.0),
        // A limit, or how long until a disk is full: both are long.
        Unit::Seconds if metric.name.contains("maximum") || *metric == table::TIME_TO_FULL => {
            Some(1e6)
        }
        Unit::Truth | Unit::Seconds | Unit::Bytes | Unit::Number => Some(1.0),
    }
}

/// The values of a metric's label, as far as rules know them.
fn values_of(metric: &Metric) -> Vec<&'static str> {
    match metric.labels {
        ["of"] => vec!["check", "base-backup", "prune", "drill", "replica"],
        ["objective"] => vec!["rpo", "offsite-rpo", "rto"],
        ["check"] => alerts::checks().collect(),
        _ => vec!["x"],
    }
}

#[test]
fn h11_prometheus_itself_takes_every_rule_and_sees_an_instance_that_nobody_checks() -> Result<()> {
    for program in [PROMETHEUS, EXPORTER] {
        if !Path::new(program).exists() {
            testbed::skip!(
                "{program} is not installed; the packages prometheus and prometheus-node-exporter have it"
            );
        }
    }
    let directory = tempfile::tempdir()?;
    let at = |name: &str| directory.path().join(name);
    let files = at("textfiles");
    std::fs::create_dir(&files)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
    write(&files, "main", now, 2e6)?;
    write(&files, "other", now, 0.0)?;
    let exporter_port = port()?;
    let _exporter = Running::start(
        &Command::new(EXPORTER)
            .args(["--collector.disable-defaults", "--collector.textfile"])
            .arg(format!(
                "--collector.textfile.directory={}",
                files.display()
            ))
            .arg(format!("--web.listen-address=127.0.0.1:{exporter_port}")),
        &at("exporter.log"),
    )?;

    let target = format!("127.0.0.1:{exporter_port}");
    let scrape = |job: &str, honoured: bool| {
        json!({
            "job_name": job, "honor_labels": honoured, "scrape_interval": "2s", "scrape_timeout": "2s",
            "static_configs": [{ "targets": [target] }],
        })
    };
    std::fs::write(at("rules.json"), rule_file().to_string())?;
    let configuration = json!({
        "global": { "evaluation_interval": "1s" },
        "rule_files": [at("rules.json")],
        "scrape_configs": [scrape("honoured", true), scrape("exported", false)],
    });
    std::fs::write(at("prometheus.yml"), configuration.to_string())?;
    let prometheus_port = port()?;
    let _prometheus = Running::start(
        &Command::new(PROMETHEUS)
            .arg(format!("--config.file={}", at("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", at("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{prometheus_port}")),
        &at("prometheus.log"),
    )?;

    // Two samples of each way, so that every rule has been evaluated on both.
    let alerts = testbed::wait_until("Prometheus sees the instance that nobody checks", || {
        let Ok(answer) = get(prometheus_port, "/api/v1/alerts") else {
            return Ok(None);
        };
        let alerts = answer["data"]["alerts"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let stopped = alerts
            .iter()
            .filter(|alert| alert["labels"]["alertname"] == "PostgreSQLChecksStopped")
            .count();
        Ok((stopped == 2).then_some(alerts))
    })?;
    let mut named: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for alert in &alerts {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let name = text(&alert["labels"]["alertname"]);
        // A scrape that comes too late on a busy machine is a silence of seconds, which is only pending.
        if SILENCE.contains(&name.as_str()) && alert["state"] == "pending" {
            continue;
        }
        let summary = text(&alert["annotations"]["summary"]);
        named
            .entry(name)
            .or_default()
            .insert(summary.split(" for ").next().unwrap_or_default().to_owned());
    }
    // With labels honoured or not, the text names the instance, and the other one is quiet.
    let expected = BTreeMap::from([(
        "PostgreSQLChecksStopped".to_owned(),
        BTreeSet::from(["PostgreSQL instance main has not been checked".to_owned()]),
    )]);
    ensure!(named == expected, "{alerts:#?}");

    let evaluated = testbed::wait_until("every rule has been evaluated", || {
        let answer = get(prometheus_port, "/api/v1/rules")?;
        let rules = answer
            .pointer("/data/groups/0/rules")
            .and_then(Value::as_array)
            .context("there are no rules")?;
        let is_over = rules.iter().all(|rule| rule["health"] != "unknown");
        Ok(is_over.then(|| rules.clone()))
    })?;
    assert_eq!(evaluated.len(), rules().len());
    for rule in evaluated {
        ensure!(rule["health"] == "ok", "{rule:#}");
    }
    Ok(())
}
