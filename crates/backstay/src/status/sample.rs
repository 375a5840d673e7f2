//! Instances for tests and pictures.

use health::{Chronicle, Drill, Severity, Space};
use jiff::{SignedDuration, Timestamp};

use super::data::{
    Archive, BaseBackup, Finding, LastDrill, Objective, Server, ServerState, Status, Storage,
    Window,
};

/// When the instances are seen.
pub const NOW: &str = "2026-11-21T18:30:00Z";

fn ago(hours: i64) -> Timestamp {
    let now: Timestamp = NOW.parse().unwrap();
    now - SignedDuration::from_hours(hours)
}

fn gib(number: u64) -> u64 {
    number << 30
}

/// Nightly at 02:00, the first of each week full.
fn base_backups() -> Vec<BaseBackup> {
    (0..14)
        .rev()
        .map(|day| {
            let stopped_at = ago(16 + 24 * day) - SignedDuration::from_mins(18);
            BaseBackup {
                name: stopped_at.strftime("%Y%m%d-020000").to_string(),
                incremental: day % 7 != 6,
                stopped_at,
                content_bytes: gib(42) + u64::try_from(13 - day).unwrap() * (1 << 28),
                stored_bytes: if day % 7 == 6 { gib(11) } else { 3 << 28 },
                damage: None,
            }
        })
        .collect()
}

/// What they reach. From one that is older than the restore, both timelines can be reached.
fn windows(base_backups: &[BaseBackup], fork: Timestamp) -> Vec<Window> {
    base_backups
        .iter()
        .flat_map(|backup| {
            let window = |timeline, to| Window {
                base_backup: backup.name.clone(),
                timeline,
                from: backup.stopped_at,
                to: Some(to),
                restorable: true,
                missing_files: 0,
                first_missing: None,
            };
            let abandoned = (backup.stopped_at <= fork)
                .then(|| window(1, fork + SignedDuration::from_mins(30)));
            let present = window(2, ago(0) - SignedDuration::from_secs(74));
            abandoned.into_iter().chain([present])
        })
        .collect()
}

fn objectives() -> Vec<Objective> {
    [
        ("rpo", "lost with this server's disk", 600.0, 74.0),
        ("offsite-rpo", "lost with this whole host", 1800.0, 1140.0),
        ("rto", "time that a restore takes", 3600.0, 412.0),
    ]
    .map(|(name, what, declared, measured)| Objective {
        name: name.into(),
        what: what.into(),
        declared_seconds: Some(declared),
        measured_seconds: Some(measured),
    })
    .into()
}

fn past() -> Chronicle {
    Chronicle {
        space: (0..60)
            .rev()
            .map(|day| {
                let number = u64::try_from(60 - day).unwrap();
                Space {
                    at: ago(24 * day),
                    // A fortnight is kept, so both grow and then only follow the week.
                    archive_bytes: Some((number.min(14) << 30) + ((number % 7) << 28)),
                    base_backup_bytes: Some((number.min(14) << 31) + ((number % 7) << 29)),
                }
            })
            .collect(),
        drills: [62 + 168, 62]
            .map(|hours| Drill {
                finished_at: ago(hours),
                failure: None,
                recovery_seconds: Some(412.0),
            })
            .into(),
    }
}

/// An instance of which everything is well: it was restored once, on the way to timeline 2, which gave up
/// half an hour of timeline 1.
pub fn healthy() -> Status {
    let fork = ago(108);
    let base_backups = base_backups();
    let windows = windows(&base_backups, fork);
    Status {
        instance: "main".into(),
        at: ago(0),
        severity: Severity::Ok,
        findings: Vec::new(),
        checks: [
            "server",
            "archiver",
            "archive",
            "freshness",
            "continuity",
            "base-backup",
            "storage",
        ]
        .map(|check| (check.to_owned(), Severity::Ok))
        .into(),
        server: Server {
            state: ServerState::Running,
            system_identifier: Some("7710581305782851992".into()),
            timeline: Some(2),
            started_at: Some(fork),
        },
        unit: Some("postgresql-main.service".into()),
        windows,
        base_backups,
        snapshots: Vec::new(),
        archive: Some(Archive {
            files: 4127,
            stored_bytes: gib(17),
            last_archived_at: Some(ago(0) - SignedDuration::from_secs(131)),
            waiting_files: Some(0),
        }),
        objectives: objectives(),
        drills_are_declared: true,
        last_drill: Some(LastDrill {
            finished_at: ago(62),
            failure: None,
            recovery_seconds: Some(412.0),
            restored_bytes: Some(gib(43)),
            target: Some("2026-11-19 02:41:00 UTC".into()),
            last_success_at: Some(ago(62)),
        }),
        storage: vec![
            Storage {
                place: "data".into(),
                free_bytes: gib(212),
                size_bytes: gib(400),
                seconds_to_full: None,
            },
            Storage {
                place: "archive".into(),
                free_bytes: gib(1630),
                size_bytes: gib(1800),
                seconds_to_full: Some(86_400.0 * 190.0),
            },
        ],
        unknown: Vec::new(),
        past: past(),
    }
}

/// Takes a WAL file out of the first days.
pub fn with_a_gap(status: &mut Status) {
    let broken = ago(24 * 11 + 4);
    for window in &mut status.windows {
        if window.from < broken {
            window.to = Some(broken);
            window.missing_files = 1;
            window.first_missing = Some("000000010000002A000000F3".into());
        }
    }
    status.severity = Severity::Warning;
    status.findings.push(Finding {
        check: "continuity".into(),
        severity: Severity::Warning,
        what: "the archive has a gap: \"000000010000002A000000F3\" is missing".into(),
        hint: "the newest base backup is behind it, so the present can be restored; what lies between the gap and that backup cannot: look for the file in copies of the archive".into(),
        commands: Vec::new(),
    });
}

/// An instance whose server is down, and of which there is nothing.
pub fn broken() -> Status {
    Status {
        instance: "reports".into(),
        severity: Severity::Critical,
        findings: vec![
            Finding {
                check: "server".into(),
                severity: Severity::Critical,
                what: "could not connect to the server on \"/run/postgresql\": connection refused"
                    .into(),
                hint: "journalctl --unit postgresql-reports.service says why; systemctl start postgresql-reports.service".into(),
                commands: Vec::new(),
            },
            Finding {
                check: "base-backup".into(),
                severity: Severity::Critical,
                what: "there is no good base backup: nothing can be restored".into(),
                hint: "take one with pg-base-backup".into(),
                commands: (1..=6).map(|number| format!("command {number}")).collect(),
            },
        ],
        server: Server {
            state: ServerState::NotAnswering,
            system_identifier: None,
            timeline: None,
            started_at: None,
        },
        windows: Vec::new(),
        base_backups: Vec::new(),
        archive: None,
        objectives: Vec::new(),
        last_drill: Some(LastDrill {
            finished_at: ago(30),
            failure: Some("the archive lacks \"00000001000000000000000A\"".into()),
            recovery_seconds: None,
            restored_bytes: None,
            target: None,
            last_success_at: None,
        }),
        storage: Vec::new(),
        unknown: vec!["what happened before: permission denied".into()],
        past: Chronicle::default(),
        ..healthy()
    }
}
