//! Waiting for the attempt, cleaning up after it and telling what it came to.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use command::Command;
use durable_file::Lock;
use instance_state::{DrillFailure, DrillFindings, DrillReason, DrillRecord};
use jiff::Timestamp;
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use settings::{Drill, DrillSource, Settings};
use tool::{Hinted, Level};

use crate::attempt::Outcome;
use crate::failed::Failed;
use crate::metrics;
use crate::scratch::Scratch;

const POLL: Duration = Duration::from_millis(100);

/// Rehearses a restore, and returns whether it went well.
///
/// # Errors
///
/// Fails when another drill is running. Everything else is in the record.
pub fn drill(config: &Path, settings: &Settings, drill: &Drill) -> Result<bool> {
    let state = settings.state_directory();
    let started_at = Timestamp::now();
    let begin = Instant::now();
    let _lock = lock(&state)?;
    let signals = listen()?;
    // A record that cannot be read is no reason not to drill.
    let earlier = DrillRecord::read(&state).unwrap_or_else(|err| {
        tool::report("could not read the record of the last drill", &err);
        None
    });
    let source = next_source(drill, earlier.as_ref());
    tool::log(
        Level::Info,
        format_args!(
            "rehearsing a restore of instance \"{}\" in \"{}\"",
            settings.instance,
            drill.directory.display()
        ),
    );
    let scratch = Scratch::in_directory(&drill.directory);
    let attempted = attempt(config, drill, &scratch, source, &signals);
    let cleared = scratch.clear();
    let Outcome {
        findings,
        mut failure,
    } = attempted.unwrap_or_else(|failed| Outcome {
        findings: DrillFindings::default(),
        failure: Some(failed.into_record()),
    });
    if let Err(err) = cleared {
        tool::report("could not clean up", &err);
        // The next drill would fail for it.
        failure = failure.or_else(|| Some(Failed::from(err).into_record()));
    }
    let finished_at = Timestamp::now();
    let record = DrillRecord {
        format: DrillRecord::FORMAT,
        started_at,
        finished_at,
        source,
        last_success_at: if failure.is_none() {
            Some(finished_at)
        } else {
            earlier.and_then(|earlier| earlier.last_success_at)
        },
        failure,
        findings,
    };
    // Metrics first: where both are on a full disk, they are in the place that is looked at.
    let measured = metrics::write(settings, &record, begin.elapsed());
    let recorded = record.write(&state);
    for (complaint, outcome) in [
        ("could not write the metrics", &measured),
        ("could not write the record", &recorded),
    ] {
        if let Err(err) = outcome {
            tool::report(complaint, err);
        }
    }
    tell(&record);
    Ok(record.failure.is_none() && measured.is_ok() && recorded.is_ok())
}

/// Keeps a second drill from beginning.
fn lock(state: &Path) -> Result<Lock> {
    durable_file::ensure_directory(state)?;
    durable_file::try_lock(&state.join("restore-drill.lock"))?.ok_or_else(|| {
        Hinted::new(
            "another restore drill of this instance is running",
            "wait for it to end",
        )
        .into()
    })
}

/// Takes the signals that ask this process to end as something to read, instead of ending.
fn listen() -> Result<SignalFd> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        set.add(signal);
    }
    set.thread_block()
        .and_then(|()| SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC))
        .context("receive signals")
}

/// The source after the one of the last drill.
fn next_source(drill: &Drill, earlier: Option<&DrillRecord>) -> DrillSource {
    let last = earlier.and_then(|earlier| {
        drill
            .sources
            .iter()
            .position(|source| *source == earlier.source)
    });
    let next = last.map_or(0, |last| (last + 1) % drill.sources.len().max(1));
    drill
        .sources
        .get(next)
        .copied()
        .unwrap_or(DrillSource::Local)
}

/// Runs the attempt in a process of its own, from an empty place.
fn attempt(
    config: &Path,
    drill: &Drill,
    scratch: &Scratch,
    source: DrillSource,
    signals: &SignalFd,
) -> Result<Outcome, Failed> {
    // What an interrupted drill left.
    scratch.clear()?;
    scratch.make()?;
    let own = std::env::current_exe().context("find this program")?;
    let source = serde_json::to_value(source).context("name the source")?;
    let mut command = Command::new(own)
        .arg("--config")
        .arg(config)
        .arg("--attempt")
        .arg(scratch.outcome())
        .arg("--source")
        .arg(source.as_str().unwrap_or_default());
    if let Some(credentials) = std::env::var_os("CREDENTIALS_DIRECTORY") {
        command = command.env("CREDENTIALS_DIRECTORY", credentials);
    }
    let mut child = command.start()?;
    let deadline = Duration::from_secs(drill.deadline_seconds.into());
    let begin = Instant::now();
    let cut_short = loop {
        if let Some(status) = child.has_ended()? {
            if status.success() {
                break None;
            }
            return Err(anyhow!("the attempt {}", command::how_it_ended(status)).into());
        }
        if signals.read_signal().context("receive signals")?.is_some() {
            break Some(Failed::new(
                DrillReason::Interrupted,
                anyhow!("it was told to end"),
            ));
        }
        if begin.elapsed() > deadline {
            break Some(Failed::new(
                DrillReason::Deadline,
                Hinted::new(
                    format!("it was not done after {} seconds", drill.deadline_seconds),
                    "if it needs that long, raise drill.deadlineSeconds; then a real restore takes that long too",
                ),
            ));
        }
        std::thread::sleep(POLL);
    };
    if let Some(cut_short) = cut_short {
        // Its whole group: the restore that it runs too. Servers are ended when the place is cleared.
        let group = i32::try_from(child.id()).context("name the process of the attempt")?;
        killpg(Pid::from_raw(group), Signal::SIGKILL).context("end the attempt")?;
        child.wait()?;
        return Err(cut_short);
    }
    let path = scratch.outcome();
    let text = std::fs::read(&path).with_context(|| format!("read \"{}\"", path.display()))?;
    Ok(serde_json::from_slice(&text).with_context(|| format!("read \"{}\"", path.display()))?)
}

fn tell(record: &DrillRecord) {
    for note in &record.findings.notes {
        tool::log(Level::Warning, format_args!("{note}"));
    }
    match &record.failure {
        Some(DrillFailure {
            reason,
            message,
            hint,
        }) => {
            tool::log(
                Level::Error,
                format_args!("the restore drill failed ({}): {message}", reason.label()),
            );
            if let Some(hint) = hint {
                tool::log(Level::Error, format_args!("hint: {hint}"));
            }
        }
        None => tool::log(
            Level::Info,
            format_args!(
                "restored to {} within {:.0} seconds, and everything that was looked at is right",
                record.findings.target.as_deref().unwrap_or_default(),
                record.findings.recovery_seconds.unwrap_or_default()
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_take_turns() {
        let drill: Drill = serde_json::from_str(
            r#"{ "directory": "/drill", "sources": ["local", "restic", "snapshot"] }"#,
        )
        .unwrap();
        let after = |source| {
            next_source(
                &drill,
                Some(&DrillRecord {
                    format: DrillRecord::FORMAT,
                    started_at: Timestamp::UNIX_EPOCH,
                    finished_at: Timestamp::UNIX_EPOCH,
                    source,
                    failure: None,
                    findings: DrillFindings::default(),
                    last_success_at: None,
                }),
            )
        };
        assert_eq!(next_source(&drill, None), DrillSource::Local);
        assert_eq!(after(DrillSource::Local), DrillSource::Restic);
        assert_eq!(after(DrillSource::Restic), DrillSource::Snapshot);
        assert_eq!(after(DrillSource::Snapshot), DrillSource::Local);
    }
}
