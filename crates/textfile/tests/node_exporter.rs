//! The real node exporter reads our files.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use command::Command;
use textfile::{File, METRICS, Writer, table};

const EXPORTER: &str = "/usr/bin/prometheus-node-exporter";

/// Ends the exporter when the test does.
struct Exporter(nix::unistd::Pid, command::Started);

impl Drop for Exporter {
    fn drop(&mut self) {
        let _ = nix::sys::signal::kill(self.0, nix::sys::signal::Signal::SIGKILL);
        let _ = self.1.wait();
    }
}

fn scrape(port: u16) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\nAccept: text/plain\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn the_node_exporter_takes_every_metric_with_its_labels_and_no_error() -> Result<()> {
    if !Path::new(EXPORTER).exists() {
        testbed::skip!("{EXPORTER} is not installed; the package prometheus-node-exporter has it");
    }
    let directory = tempfile::tempdir()?;
    for instance in ["main", "second"] {
        for writer in Writer::ALL {
            let mut file = File::new(writer, instance);
            for metric in METRICS.iter().filter(|metric| metric.writer == writer) {
                let values: Vec<&str> = metric.labels.iter().map(|_| "a \"b\" \\ ü\nc").collect();
                file.set_for(metric, &values, 1_795_000_000.5);
            }
            file.write(directory.path())?;
        }
    }
    let mut dump = File::of_part(Writer::Dump, "main", "other/database");
    dump.set_for(&table::DUMP_SIZE, &["other/database"], 1e30);
    dump.write(directory.path())?;

    // A port that was free a moment ago.
    let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
    let started = Command::new(EXPORTER)
        .args([
            "--collector.disable-defaults",
            "--collector.textfile",
            "--web.disable-exporter-metrics",
        ])
        .arg(format!(
            "--collector.textfile.directory={}",
            directory.path().display()
        ))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .start_with_log(&directory.path().join("log"))?;
    let exporter = Exporter(
        nix::unistd::Pid::from_raw(i32::try_from(started.id())?),
        started,
    );
    let answer = testbed::wait_until("the exporter answers", || Ok(scrape(port).ok()))?;
    drop(exporter);

    let log = std::fs::read_to_string(directory.path().join("log")).context("read the log")?;
    ensure!(
        answer.contains("\nnode_textfile_scrape_error 0\n"),
        "{answer}\n{log}"
    );
    ensure!(!log.contains("level=error"), "{log}");
    for metric in METRICS {
        let help = format!(
            "\n# HELP {} {}\n# TYPE {0} gauge\n",
            metric.name, metric.help
        );
        ensure!(answer.contains(&help), "{} in\n{answer}", metric.name);
        for instance in ["main", "second"] {
            let label = format!("instance=\"{instance}\"");
            let found = answer.lines().any(|line| {
                line.starts_with(&format!("{}{{", metric.name))
                    && line.contains(&label)
                    && line.ends_with(" 1.7950000005e+09")
            });
            ensure!(found, "{} of {instance} in\n{answer}", metric.name);
        }
    }
    ensure!(answer.contains(r#"="a \"b\" \\ ü\nc""#), "{answer}");
    Ok(())
}
