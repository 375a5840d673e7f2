//! The status on one screen.

use std::ffi::OsStr;
use std::fmt::Write as _;

use health::{Severity, bytes, span};
use jiff::{SignedDuration, Timestamp};

use super::data::{Finding, Objective, ServerState, Status};
use super::shown_time;

/// Statements of one finding that are shown.
const COMMANDS: usize = 4;
/// Where values begin.
const INDENT: usize = 18;

/// Whether there is colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ink {
    /// For a terminal.
    Colour,
    /// For everything else.
    Plain,
}

impl Ink {
    /// Colour is for a terminal, unless `NO_COLOR` is set to anything.
    pub fn for_output(is_terminal: bool, no_color: Option<&OsStr>) -> Self {
        if is_terminal && no_color.is_none_or(OsStr::is_empty) {
            Self::Colour
        } else {
            Self::Plain
        }
    }

    fn paint(self, code: &str, text: &str) -> String {
        match self {
            Self::Colour => format!("\x1b[{code}m{text}\x1b[0m"),
            Self::Plain => text.to_owned(),
        }
    }

    fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    fn faint(self, text: &str) -> String {
        self.paint("2", text)
    }

    fn of(self, severity: Severity, text: &str) -> String {
        self.paint(
            match severity {
                Severity::Ok => "1;32",
                Severity::Warning => "1;33",
                Severity::Critical => "1;31",
                Severity::Unknown => "1;35",
            },
            text,
        )
    }
}

/// Everything about one instance.
pub fn text(status: &Status, ink: Ink) -> String {
    let mut text = String::new();
    let headline = match status.findings.len() {
        0 => format!("OK, {} checks found nothing wrong", status.checks.len()),
        1 => format!("{}, 1 finding", status.severity.to_string().to_uppercase()),
        number => format!(
            "{}, {number} findings",
            status.severity.to_string().to_uppercase()
        ),
    };
    let _ = writeln!(
        text,
        "{}  {}  {}",
        ink.bold(&status.instance),
        ink.of(status.severity, &headline),
        ink.faint(&shown_time(status.at))
    );
    for finding in &status.findings {
        text.push_str(&one_finding(finding, ink));
    }
    text.push('\n');
    let mut row = |name: &str, value: &str| {
        // Padded before it is painted: colours have no width.
        let _ = writeln!(text, "  {}{value}", ink.faint(&format!("{name:INDENT$}")));
    };
    row("server", &server(status, ink));
    for line in reach(status, ink) {
        row(line.0, &line.1);
    }
    row("base backups", &base_backups(status, ink));
    if let Some(snapshots) = snapshots(status) {
        row("snapshots", &snapshots);
    }
    row("WAL archive", &archive(status, ink));
    row("last drill", &drill(status, ink));
    for (number, objective) in status.objectives.iter().enumerate() {
        let name = if number == 0 { "objectives" } else { "" };
        row(name, &one_objective(objective, ink));
    }
    for (number, place) in status.storage.iter().enumerate() {
        let name = if number == 0 { "room" } else { "" };
        let full = place.seconds_to_full.map_or_else(String::new, |seconds| {
            format!(", full in {}", span(seconds))
        });
        row(
            name,
            &format!(
                "{}: {} of {} free{full}",
                place.place,
                bytes(place.free_bytes),
                bytes(place.size_bytes)
            ),
        );
    }
    for what in &status.unknown {
        row("not known", &ink.of(Severity::Unknown, what));
    }
    if let Some(command) = way_back(status) {
        text.push('\n');
        let _ = writeln!(
            text,
            "  {}{}",
            ink.faint(&format!("{:INDENT$}", "to go back")),
            ink.bold(&command)
        );
    }
    text
}

/// What to type to go back, with a target that can be reached.
fn way_back(status: &Status) -> Option<String> {
    let from = status.earliest()?;
    let instance = &status.instance;
    if !status.reaches_the_present() {
        return Some(format!("backstay windows {instance}"));
    }
    let target = if from <= status.at - SignedDuration::from_mins(10) {
        "\"10 minutes ago\""
    } else {
        "latest"
    };
    Some(format!("backstay restore {instance} --to {target}"))
}

/// An instance that could not be looked at.
pub fn not_shown(instance: &str, err: &anyhow::Error, ink: Ink) -> String {
    let mut text = format!(
        "{}  {}\n  {err:#}\n",
        ink.bold(instance),
        ink.of(Severity::Unknown, "UNKNOWN, it cannot be looked at")
    );
    if let Some(hint) = tool::hint_of(err) {
        let _ = writeln!(text, "  hint: {hint}");
    }
    text
}

fn one_finding(finding: &Finding, ink: Ink) -> String {
    let mut text = format!(
        "\n  {} {}\n      {}\n",
        ink.of(
            finding.severity,
            &format!("{}: {}:", finding.severity, finding.check)
        ),
        finding.what,
        finding.hint
    );
    for command in finding.commands.iter().take(COMMANDS) {
        let _ = writeln!(text, "      {}", ink.bold(command));
    }
    let more = finding.commands.len().saturating_sub(COMMANDS);
    if more > 0 {
        let _ = writeln!(text, "      and {more} more, which pg-healthcheck lists");
    }
    text
}

fn server(status: &Status, ink: Ink) -> String {
    let state = match status.server.state {
        ServerState::Running => "running".into(),
        ServerState::Replaying => ink.of(Severity::Warning, "replaying WAL"),
        ServerState::Starting => ink.of(Severity::Warning, "starting, lets nobody in yet"),
        ServerState::NotAnswering => ink.of(Severity::Critical, "DOES NOT ANSWER"),
    };
    let mut text = state;
    if let Some(started) = status.server.started_at {
        let _ = write!(text, " for {}", age(status.at, started));
    }
    if let Some(timeline) = status.server.timeline {
        let _ = write!(text, ", timeline {timeline}");
    }
    if let Some(identifier) = &status.server.system_identifier {
        let _ = write!(text, ", cluster {identifier}");
    }
    text
}

fn reach(status: &Status, ink: Ink) -> Vec<(&'static str, String)> {
    let (Some(from), Some(to)) = (status.earliest(), status.latest()) else {
        if let Some(oldest) = status.snapshots.iter().find_map(|one| one.checkpoint_at) {
            return vec![(
                "can be restored",
                format!("from  {}, by a snapshot", shown_time(oldest)),
            )];
        }
        return vec![(
            "can be restored",
            ink.of(Severity::Critical, "NOTHING that is known"),
        )];
    };
    let ago = age(status.at, to);
    let end = if status.reaches_the_present() {
        ink.faint(&format!("last change {ago} ago"))
    } else {
        ink.of(
            Severity::Critical,
            &format!("{ago} ago, NOT THE PRESENT: WAL is missing after it"),
        )
    };
    let mut lines = vec![
        ("can be restored", format!("from  {}", shown_time(from))),
        ("", format!("to    {}  {end}", shown_time(to))),
    ];
    for ((timeline, first), number) in status.gaps() {
        lines.push((
            "",
            ink.of(
                Severity::Warning,
                &format!("a gap of {number} WAL files on timeline {timeline}, from {first} on"),
            ),
        ));
    }
    lines
}

fn base_backups(status: &Status, ink: Ink) -> String {
    let Some(newest) = status.base_backups.last() else {
        // Who has snapshots can do without.
        let severity = if status.snapshots.is_empty() {
            Severity::Critical
        } else {
            Severity::Warning
        };
        return ink.of(severity, "NONE that is known");
    };
    let damaged = status
        .base_backups
        .iter()
        .filter(|backup| backup.damage.is_some())
        .count();
    let mut text = format!(
        "{}, newest {} ago ({}, {})",
        status.base_backups.len(),
        age(status.at, newest.stopped_at),
        newest.name,
        bytes(newest.content_bytes)
    );
    if damaged > 0 {
        text += &ink.of(Severity::Critical, &format!(", {damaged} DAMAGED"));
    }
    text
}

fn snapshots(status: &Status) -> Option<String> {
    let newest = status.snapshots.last()?;
    let when = newest.checkpoint_at.map_or_else(
        || "of an unknown time".to_owned(),
        |at| format!("{} ago", age(status.at, at)),
    );
    Some(format!(
        "{}, newest {when} ({})",
        status.snapshots.len(),
        newest.name
    ))
}

fn archive(status: &Status, ink: Ink) -> String {
    let Some(archive) = &status.archive else {
        return ink.of(Severity::Critical, "CANNOT BE READ");
    };
    let last = archive.last_archived_at.map_or_else(String::new, |at| {
        format!("last file {} ago, ", age(status.at, at))
    });
    let waiting = match archive.waiting_files {
        Some(number) => format!("{number} wait"),
        None => "what waits is not known".into(),
    };
    format!(
        "{last}{waiting}; {} files, {}",
        archive.files,
        bytes(archive.stored_bytes)
    )
}

fn drill(status: &Status, ink: Ink) -> String {
    let Some(drill) = &status.last_drill else {
        let text = if status.drills_are_declared {
            "none yet"
        } else {
            "none, and none is declared: nobody knows whether a restore works"
        };
        return ink.of(Severity::Warning, text);
    };
    let when = age(status.at, drill.finished_at);
    if let Some(failure) = &drill.failure {
        let last = drill.last_success_at.map_or_else(
            || "none ever succeeded".to_owned(),
            |at| format!("the last good one was {} ago", age(status.at, at)),
        );
        return ink.of(
            Severity::Critical,
            &format!("FAILED {when} ago: {failure}; {last}"),
        );
    }
    let mut text = format!("{} {when} ago", ink.of(Severity::Ok, "succeeded"));
    if let (Some(seconds), Some(restored)) = (drill.recovery_seconds, drill.restored_bytes) {
        let _ = write!(text, ": {} in {}", bytes(restored), span(seconds));
    }
    text
}

fn one_objective(objective: &Objective, ink: Ink) -> String {
    let measured = objective
        .measured_seconds
        .map_or_else(|| "not measured".to_owned(), span);
    let text = format!("{}: {measured}", objective.what);
    match (objective.declared_seconds, objective.is_kept()) {
        (None, _) => format!("{text} {}", ink.faint("(no objective)")),
        (Some(declared), None) => format!("{text}, at most {}", span(declared)),
        (Some(declared), Some(true)) => format!(
            "{text}, at most {}: {}",
            span(declared),
            ink.of(Severity::Ok, "kept")
        ),
        (Some(declared), Some(false)) => format!(
            "{text}, at most {}: {}",
            span(declared),
            ink.of(Severity::Critical, "NOT KEPT")
        ),
    }
}

fn age(now: Timestamp, then: Timestamp) -> String {
    span(now.duration_since(then).as_secs_f64())
}

#[cfg(test)]
mod tests;
