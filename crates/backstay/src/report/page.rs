//! The report as HTML: one file, no script, nothing from elsewhere. Pure.

use std::fmt::Write as _;

use anyhow::Result;
use health::{Severity, bytes, span};
use jiff::Timestamp;

use super::chart;
use crate::status::{Finding, Objective, ServerState, Status, shown_time};

const STYLE: &str = include_str!("style.css");
/// Base backups, and snapshots, in a table: the newest.
const NEWEST: usize = 12;

/// Text as HTML.
pub fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// The page.
pub fn html(all: &[(String, Result<Status>)], at: Timestamp) -> String {
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <title>Backstay: what can be restored</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<header><h1>What can be restored</h1><p>{}</p></header>\n",
        shown_time(at)
    );
    for (instance, status) in all {
        match status {
            Ok(status) => section(status, &mut page),
            Err(err) => {
                let hint = tool::hint_of(err).map_or_else(String::new, |hint| {
                    format!("<p class=\"hint\">{}</p>", escaped(hint))
                });
                let _ = writeln!(
                    page,
                    "<section>\n<h2>{} <span class=\"badge unknown\">unknown</span></h2>\n<div class=\"finding unknown\"><p>{}</p>{hint}</div>\n</section>",
                    escaped(instance),
                    escaped(&format!("{err:#}"))
                );
            }
        }
    }
    page.push_str("<footer><p>Written by backstay report.</p></footer>\n</body>\n</html>\n");
    page
}

fn section(status: &Status, page: &mut String) {
    let headline = match status.findings.len() {
        0 => format!("{} checks found nothing wrong", status.checks.len()),
        1 => "1 finding".into(),
        number => format!("{number} findings"),
    };
    let _ = writeln!(
        page,
        "<section>\n<h2>{} <span class=\"badge {}\">{}</span> <small>{headline}</small></h2>",
        escaped(&status.instance),
        class(status.severity),
        status.severity
    );
    for finding in &status.findings {
        one_finding(finding, page);
    }
    facts(status, page);
    match chart::time_line(status) {
        Some(drawing) => {
            page.push_str("<h3>What a restore can reach</h3>\n");
            page.push_str(&drawing);
            page.push_str(
                "<p class=\"legend\"><span class=\"key reach\"></span>can be restored <span class=\"key gap\"></span>gap \
                 <span class=\"key full\"></span>full base backup <span class=\"key incremental\"></span>incremental \
                 <span class=\"key damaged\"></span>damaged",
            );
            if !status.snapshots.is_empty() {
                page.push_str(" <span class=\"key snapshot\"></span>snapshot");
            }
            page.push_str("; times are UTC</p>\n");
        }
        None => page.push_str(
            "<p>There is nothing to draw: no base backup, no snapshot and no drill is known.</p>\n",
        ),
    }
    objectives(status, page);
    page.push_str("<h3>Space of the backups</h3>\n");
    match chart::space(status) {
        Some(drawing) => {
            page.push_str(&drawing);
            page.push_str(
                "<p class=\"legend\"><span class=\"key base-backups\"></span>base backups <span class=\"key archive\"></span>WAL archive</p>\n",
            );
        }
        None => page.push_str("<p>It has not been measured for long enough to be drawn; the health check does that every hour.</p>\n"),
    }
    backups(status, page);
    snapshots(status, page);
    page.push_str("</section>\n");
}

fn one_finding(finding: &Finding, page: &mut String) {
    let _ = writeln!(
        page,
        "<div class=\"finding {}\"><p><b>{}: {}</b> {}</p><p class=\"hint\">{}</p>",
        class(finding.severity),
        finding.severity,
        escaped(&finding.check),
        escaped(&finding.what),
        escaped(&finding.hint)
    );
    if !finding.commands.is_empty() {
        let _ = writeln!(page, "<pre>{}</pre>", escaped(&finding.commands.join("\n")));
    }
    page.push_str("</div>\n");
}

fn class(severity: Severity) -> &'static str {
    match severity {
        Severity::Ok => "ok",
        Severity::Warning => "warning",
        Severity::Critical => "critical",
        Severity::Unknown => "unknown",
    }
}

/// What can be restored, in short and in full.
fn reach(status: &Status) -> (String, String) {
    let ago = |then: Timestamp| span(status.at.duration_since(then).as_secs_f64());
    if let (Some(from), Some(to)) = (status.earliest(), status.latest()) {
        let short = if status.reaches_the_present() {
            format!("{} to now", ago(from))
        } else {
            format!("{} to {} ago, NOT NOW", ago(from), ago(to))
        };
        let full = format!("from {} to {}", shown_time(from), shown_time(to));
        return (short, full);
    }
    // Who has snapshots can do without base backups.
    let snapshot = status
        .snapshots
        .iter()
        .find_map(|snapshot| snapshot.checkpoint_at);
    match snapshot {
        Some(from) => (
            "from snapshots only".into(),
            format!("the oldest is of {}", shown_time(from)),
        ),
        None => (
            "nothing".into(),
            "there is no base backup and no snapshot to begin with".into(),
        ),
    }
}

fn facts(status: &Status, page: &mut String) {
    let ago = |then: Timestamp| span(status.at.duration_since(then).as_secs_f64());
    let reach = reach(status);
    let newest = status.base_backups.last().map_or_else(
        || ("none".to_owned(), String::new()),
        |newest| {
            (
                format!("{} ago", ago(newest.stopped_at)),
                format!("{}, {}", newest.name, bytes(newest.content_bytes)),
            )
        },
    );
    let archive = status.archive.as_ref().map_or_else(
        || ("cannot be read".to_owned(), String::new()),
        |archive| {
            let last = archive
                .last_archived_at
                .map_or_else(|| "not known".to_owned(), |at| format!("{} ago", ago(at)));
            let waiting = archive
                .waiting_files
                .map_or_else(|| "?".to_owned(), |number| number.to_string());
            (
                last,
                format!(
                    "{waiting} files wait; {} files, {}",
                    archive.files,
                    bytes(archive.stored_bytes)
                ),
            )
        },
    );
    let drill = match &status.last_drill {
        None => (
            "never".to_owned(),
            if status.drills_are_declared {
                "declared, none has run"
            } else {
                "none is declared"
            }
            .to_owned(),
        ),
        Some(drill) => {
            let how = drill.failure.as_ref().map_or_else(
                || {
                    drill.recovery_seconds.map_or_else(
                        || "succeeded".to_owned(),
                        |seconds| format!("succeeded in {}", span(seconds)),
                    )
                },
                |failure| format!("FAILED: {failure}"),
            );
            (format!("{} ago", ago(drill.finished_at)), how)
        }
    };
    let server = match status.server.state {
        ServerState::Running => "running",
        ServerState::Replaying => "replaying WAL",
        ServerState::Starting => "starting",
        ServerState::NotAnswering => "does not answer",
    };
    let since = status
        .server
        .started_at
        .map_or_else(String::new, |at| format!("for {}", ago(at)));
    page.push_str("<div class=\"facts\">\n");
    for (name, (value, more)) in [
        ("server", (server.to_owned(), since)),
        ("can be restored", reach),
        ("newest base backup", newest),
        ("last file archived", archive),
        ("last drill", drill),
    ] {
        let _ = writeln!(
            page,
            "<div><span>{name}</span><b>{}</b><small>{}</small></div>",
            escaped(&value),
            escaped(&more)
        );
    }
    page.push_str("</div>\n");
}

fn objectives(status: &Status, page: &mut String) {
    page.push_str("<h3>Objectives</h3>\n<table>\n<thead><tr><th>what</th><th>declared</th><th>measured</th><th></th></tr></thead>\n<tbody>\n");
    for objective in &status.objectives {
        let Objective {
            what,
            declared_seconds,
            measured_seconds,
            ..
        } = objective;
        let verdict = match objective.is_kept() {
            Some(true) => "<span class=\"badge ok\">kept</span>",
            Some(false) => "<span class=\"badge critical\">not kept</span>",
            None => "",
        };
        let _ = writeln!(
            page,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{verdict}</td></tr>",
            escaped(what),
            declared_seconds.map_or_else(
                || "none".to_owned(),
                |seconds| format!("at most {}", span(seconds))
            ),
            measured_seconds.map_or_else(|| "not measured".to_owned(), span)
        );
    }
    page.push_str("</tbody>\n</table>\n");
}

fn backups(status: &Status, page: &mut String) {
    if status.base_backups.is_empty() {
        return;
    }
    page.push_str("<h3>Newest base backups</h3>\n<table>\n<thead><tr><th>name</th><th>kind</th><th>ended</th><th>content</th><th>stored</th><th></th></tr></thead>\n<tbody>\n");
    for backup in status.base_backups.iter().rev().take(NEWEST) {
        let kind = if backup.incremental {
            "incremental"
        } else {
            "full"
        };
        let damage = backup.damage.as_ref().map_or_else(String::new, |why| {
            format!(
                "<span class=\"badge critical\">damaged</span> {}",
                escaped(why)
            )
        });
        let _ = writeln!(
            page,
            "<tr><td><code>{}</code></td><td>{kind}</td><td>{}</td><td>{}</td><td>{}</td><td>{damage}</td></tr>",
            escaped(&backup.name),
            shown_time(backup.stopped_at),
            bytes(backup.content_bytes),
            bytes(backup.stored_bytes)
        );
    }
    page.push_str("</tbody>\n</table>\n");
}

fn snapshots(status: &Status, page: &mut String) {
    if status.snapshots.is_empty() {
        return;
    }
    page.push_str("<h3>Newest snapshots</h3>\n<p class=\"legend\">On the disks of the data: no backup against their loss.</p>\n<table>\n<thead><tr><th>name</th><th>every moment after</th></tr></thead>\n<tbody>\n");
    for snapshot in status.snapshots.iter().rev().take(NEWEST) {
        let _ = writeln!(
            page,
            "<tr><td><code>{}</code></td><td>{}</td></tr>",
            escaped(&snapshot.name),
            snapshot
                .checkpoint_at
                .map_or_else(|| "an unknown time".to_owned(), shown_time)
        );
    }
    page.push_str("</tbody>\n</table>\n");
    let more = status.snapshots.len().saturating_sub(NEWEST);
    if more > 0 {
        let _ = writeln!(page, "<p class=\"legend\">and {more} older ones</p>");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::sample;

    /// Whether every element is closed in order; attributes have their quotes.
    fn assert_well_formed(page: &str) {
        let mut open: Vec<&str> = Vec::new();
        // The style sheet has no markup.
        let (before, rest) = page.split_once("<style>").unwrap();
        let (_, after) = rest.split_once("</style>").unwrap();
        for part in [before, after] {
            for tag in part.split('<').skip(1) {
                let (tag, _) = tag.split_once('>').expect("a tag ends");
                assert!(tag.matches('"').count() % 2 == 0, "<{tag}>");
                let name = tag.split([' ', '/']).find(|word| !word.is_empty()).unwrap();
                if let Some(closed) = tag.strip_prefix('/') {
                    assert_eq!(open.pop(), Some(closed));
                } else if !tag.ends_with('/') && !tag.starts_with('!') {
                    open.push(name);
                }
            }
        }
        assert_eq!(open, [""; 0]);
    }

    #[test]
    fn the_page_is_well_formed_needs_no_script_and_nothing_from_elsewhere() {
        let mut evil = sample::broken();
        evil.findings[0].what = "<script>alert(\"1\")</script> & more".into();
        evil.instance = "\"><b>".into();
        let all = [
            ("main".to_owned(), Ok(sample::healthy())),
            ("evil".to_owned(), Ok(evil)),
            ("gone".to_owned(), Err(anyhow::anyhow!("<nothing>"))),
        ];
        let page = html(&all, sample::NOW.parse().unwrap());
        assert_well_formed(&page);
        for forbidden in [
            "<script",
            "http:",
            "https:",
            "url(h",
            "@import",
            "src=",
            "href=",
            "javascript",
        ] {
            assert!(!page.contains(forbidden), "{forbidden}");
        }
        assert!(page.contains("&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt; &amp; more"));
        assert!(page.contains("&lt;nothing&gt;"));
    }

    #[test]
    fn a_healthy_instance_has_its_windows_objectives_and_base_backups() {
        let status = sample::healthy();
        let page = html(&[("main".to_owned(), Ok(status.clone()))], status.at);
        for expected in [
            "<span class=\"badge ok\">ok</span>",
            "class=\"reach\"",
            "<span class=\"badge ok\">kept</span>",
            "<polygon class=\"archive\"",
            "succeeded in",
            &status.base_backups[0].name,
        ] {
            assert!(page.contains(expected), "{expected}");
        }
        assert!(!page.contains("class=\"finding"));
    }

    #[test]
    fn snapshots_are_listed_and_drawn_and_are_a_way_back_without_any_base_backup() {
        let mut status = sample::healthy();
        for hour in 0..20 {
            status.snapshots.push(crate::status::Snapshot {
                name: format!("<hourly>-{hour:02}"),
                checkpoint_at: Some(status.at - jiff::SignedDuration::from_hours(20 - hour)),
            });
        }
        let shown = |status: &Status| html(&[("main".to_owned(), Ok(status.clone()))], status.at);
        let page = shown(&status);
        assert_well_formed(&page);
        for expected in [
            "<h3>Newest snapshots</h3>",
            "<code>&lt;hourly&gt;-19</code></td><td>2026-11-21 17:30:00 UTC</td>",
            "<p class=\"legend\">and 8 older ones</p>",
            "<span class=\"key snapshot\"></span>",
            "<title>snapshot &lt;hourly&gt;-00, of 2026-11-20 22:30:00 UTC</title>",
        ] {
            assert!(page.contains(expected), "{expected}");
        }
        assert_eq!(page.matches("class=\"snapshot\"").count(), 20);
        status.windows.clear();
        status.base_backups.clear();
        let page = shown(&status);
        assert_well_formed(&page);
        assert!(page.contains(
            "<b>from snapshots only</b><small>the oldest is of 2026-11-20 22:30:00 UTC</small>"
        ));
        for wrong in ["nothing restorable", "nothing to draw", "<b>nothing</b>"] {
            assert!(!page.contains(wrong), "{wrong}");
        }
        status.snapshots.clear();
        assert!(shown(&status).contains("there is no base backup and no snapshot to begin with"));
    }
}
