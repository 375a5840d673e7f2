use std::collections::{BTreeMap, BTreeSet};

use instance_state::{DrillRecord, OffSiteHoldings, OffSiteRecord, ReplicaRecord, ReplicaSnapshot};
use restore_plan::{ArchiveContents, StartingPoint};
use serde_json::json;
use settings::{ReplicaContent, ResticContent};
use wal::{SegmentName, SegmentSize, SystemIdentifier, TimelineId};

use super::*;
use crate::report;
use crate::seen::{
    Archiving, Backups, Drift, NotedCopy, NotedReplica, Recovery, Seen, Slot, Storage, Sync,
    Volume, Waiting,
};

const CLUSTER: SystemIdentifier = SystemIdentifier(7_710_581_305_782_851_992);
/// 2026-11-21 00:00 UTC.
pub const NOW: f64 = 1_795_219_200.0;
const HOUR: f64 = 3600.0;

fn settings(change: &serde_json::Value) -> Settings {
    let mut text = json!({
        "instance": "main",
        "postgresql": {
            "binDirectory": "/bin", "dataDirectory": "/data", "socketDirectory": "/run",
            "requiredMounts": ["/data-mount"],
        },
        "archive": { "directory": "/archive" },
        "baseBackup": { "directory": "/backups" },
        "healthCheck": { "maximumBaseBackupAgeSeconds": 30 * 3600 },
    });
    for (key, value) in change.as_object().unwrap() {
        text[key] = value.clone();
    }
    Settings::parse(&text.to_string()).unwrap()
}

fn segment(number: u64) -> SegmentName {
    SegmentName::from_number(TimelineId::FIRST, number, SegmentSize::DEFAULT).unwrap()
}

/// A server in daily use.
pub fn live() -> Live {
    Live {
        system_identifier: CLUSTER,
        timeline: TimelineId::FIRST,
        started: NOW - 240.0 * HOUR,
        recovery: None,
        fsync: true,
        archiving: Archiving {
            mode: "on".into(),
            has_command: true,
            timeout_seconds: 300,
            archived: 100,
            failed: 2,
            last_archived: Some((segment(100).to_string(), NOW - 200.0)),
            last_failed: Some((segment(7).to_string(), NOW - 100.0 * HOUR)),
            archiver_started: Some(NOW - 240.0 * HOUR),
            archiver_is_visible: true,
        },
        position: Some((segment(101).start(SegmentSize::DEFAULT), 5000)),
        connections: (10, 100),
        oldest_transaction: Some((30.0, "process 1 of role \"app\"".into())),
        deadlocks: 3,
        checksum_failures: Vec::new(),
        ages: vec![("app".into(), 150_000_000, 1000)],
        standbys: Vec::new(),
        slots: vec![Slot {
            name: "standby".into(),
            active: true,
            status: "reserved".into(),
            retained_bytes: 1 << 20,
        }],
        collations: vec![("app".into(), Ok(Drift::default()))],
    }
}

fn point(number: u64, at: f64) -> StartingPoint {
    let size = SegmentSize::DEFAULT;
    StartingPoint {
        id: format!("backup-{number}"),
        system_identifier: CLUSTER,
        timeline: TimelineId::FIRST,
        start: segment(number).start(size),
        stop: segment(number).end(size),
        #[expect(clippy::cast_possible_truncation, reason = "a moment of our time")]
        stop_time: jiff::Timestamp::from_second(at as i64).unwrap(),
        postgres_major: 15,
    }
}

fn archive(segments: impl IntoIterator<Item = u64>) -> Archive {
    let segments: BTreeSet<SegmentName> = segments.into_iter().map(segment).collect();
    Archive {
        files: segments.len(),
        stored_bytes: 1 << 30,
        holds_last_archived: Some(true),
        contents: ArchiveContents {
            system_identifier: CLUSTER,
            segment_size: SegmentSize::DEFAULT,
            segments,
            histories: BTreeMap::new(),
        },
    }
}

const ROOMY: Storage = Storage {
    device: 1,
    free_bytes: 50 << 30,
    size_bytes: 100 << 30,
    free_files: 1000,
    files: 2000,
};

fn instance(live: Live) -> Instance {
    let newest = point(90, NOW - 20.0 * HOUR);
    Instance {
        now: NOW,
        since: Some(NOW - 240.0 * HOUR),
        server: Server::Up(Box::new(live)),
        mounts: vec![("/data-mount".into(), Ok(Mounted::Yes))],
        volumes: vec![Volume {
            source: "tank/pg".into(),
            places: vec!["archive".into(), "data".into()],
            sync: Ok(Sync::Kept),
        }],
        waiting: Ok(vec![Waiting {
            name: segment(101).to_string(),
            since: NOW - 2.0,
        }]),
        archive: Ok(archive(50..=100)),
        backups: Some(Ok(Backups {
            points: vec![point(60, NOW - 44.0 * HOUR), newest.clone()],
            newest_good: Some(newest),
            suspect: Vec::new(),
            stored_bytes: 1 << 30,
        })),
        copies: Vec::new(),
        replicas: Vec::new(),
        drill: Ok(None),
        storage: vec![("data".into(), Ok(ROOMY)), ("archive".into(), Ok(ROOMY))],
    }
}

fn judged_with(seen: &Instance, settings: &Settings) -> Verdict {
    let mut history = History::default();
    history.add(seen);
    judge(seen, settings, &history).0
}

fn judged(seen: &Instance) -> Verdict {
    judged_with(seen, &settings(&json!({})))
}

/// The one thing that is wrong.
fn finding(verdict: &Verdict) -> (Check, Severity, &str) {
    let [finding] = verdict.findings.as_slice() else {
        panic!("{:#?}", verdict.findings);
    };
    assert!(!finding.hint.is_empty());
    (finding.check, finding.severity, &finding.what)
}

fn lines(seen: &Instance) -> String {
    report::text(&settings(&json!({})), &judged(seen))
}

#[test]
fn h12_a_server_in_daily_use_has_no_finding() {
    assert_eq!(
        lines(&instance(live())),
        "ok: instance main: 16 checks, nothing is wrong\n"
    );
}

#[test]
fn h12_a_day_without_any_change_has_no_finding() {
    let mut seen = instance(live());
    // Nothing was written, so nothing was archived and no base backup was due.
    seen.now += 9.0 * HOUR;
    seen.waiting = Ok(Vec::new());
    assert_eq!(judged(&seen).findings, []);
}

#[test]
fn h12_a_restore_a_standby_and_a_start_of_either_have_no_finding() {
    for (standby, targeted) in [(true, false), (false, true)] {
        let mut restoring = live();
        restoring.position = None;
        restoring.recovery = Some(Recovery {
            standby,
            targeted,
            paused: false,
            lag_seconds: 5000.0,
        });
        // It replays what others wrote; its own old status files mean nothing yet.
        let mut seen = instance(restoring);
        seen.waiting = Ok(vec![Waiting {
            name: segment(3).to_string(),
            since: NOW - 100.0 * HOUR,
        }]);
        assert_eq!(judged(&seen).findings, []);
    }
    let mut seen = instance(live());
    seen.server = Server::NotYet { signalled: true };
    assert_eq!(judged(&seen).findings, []);
}

#[test]
fn a_server_that_does_not_answer_or_waits_in_recovery_is_critical() {
    let mut seen = instance(live());
    seen.server = Server::Down(Unseen {
        why: "connect to the server: No such file".into(),
        hint: None,
    });
    assert_eq!(
        lines(&seen),
        "critical: instance main: 7 checks, 1 findings\n\
         critical: server: connect to the server: No such file; hint: see the server's log, then start it\n"
    );
    for (recovery, what) in [
        (
            (false, true, true),
            "the server has stopped replaying WAL and waits: nothing can be written",
        ),
        (
            (false, false, false),
            "the server is in recovery, and no signal file says that it should be",
        ),
    ] {
        let mut stuck = live();
        stuck.position = None;
        stuck.recovery = Some(Recovery {
            standby: recovery.0,
            targeted: recovery.1,
            paused: recovery.2,
            lag_seconds: 0.0,
        });
        let verdict = judged(&instance(stuck));
        assert_eq!(finding(&verdict), (Check::Server, Severity::Critical, what));
    }
    seen.server = Server::NotYet { signalled: false };
    assert_eq!(finding(&judged(&seen)).1, Severity::Warning);
}

/// An instance whose archiver is as `change` makes it, with a file that has waited for `seconds`.
fn archiving(seconds: f64, change: impl FnOnce(&mut Archiving)) -> Instance {
    let mut live = live();
    change(&mut live.archiving);
    let mut seen = instance(live);
    seen.waiting = Ok(vec![Waiting {
        name: segment(101).to_string(),
        since: NOW - seconds,
    }]);
    seen
}

#[test]
fn h1_each_way_not_to_archive_has_a_reason_of_its_own() {
    let off = archiving(1.0, |archiving| archiving.mode = "off".into());
    let empty = archiving(1.0, |archiving| archiving.has_command = false);
    let failing = archiving(30.0, |archiving| {
        archiving.last_failed = Some((segment(101).to_string(), NOW - 20.0));
        archiving.failed = 5;
    });
    let dying = archiving(90.0, |archiving| {
        archiving.last_archived = Some((segment(100).to_string(), NOW - 100.0));
        archiving.archiver_started = Some(NOW - 4.0);
    });
    let dead = archiving(90.0, |archiving| {
        archiving.last_archived = None;
        archiving.archiver_started = None;
    });
    let hanging = archiving(130.0, |_| ());
    let slow = archiving(1000.0, |archiving| {
        archiving.last_archived = Some((segment(100).to_string(), NOW - 1.0));
    });
    let mut pretending = archiving(1.0, |_| ());
    if let Ok(archive) = &mut pretending.archive {
        archive.holds_last_archived = Some(false);
    }
    for (seen, what) in [
        (
            off,
            "the server archives nothing: archive_mode is off".to_owned(),
        ),
        (
            empty,
            "archive_command is empty: WAL piles up in pg_wal until the disk is full".to_owned(),
        ),
        (
            failing,
            format!(
                "archive_command fails: \"{}\" 20 seconds ago, 5 failures in all, 1 WAL files wait",
                segment(101)
            ),
        ),
        (
            dying,
            format!(
                "the archiver dies again and again: 1 WAL files wait, \"{}\" for 90 seconds, and no failure was counted",
                segment(101)
            ),
        ),
        (
            dead,
            format!(
                "the archiver dies again and again: 1 WAL files wait, \"{}\" for 90 seconds, and no failure was counted",
                segment(101)
            ),
        ),
        (
            hanging,
            format!(
                "archive_command hangs: it has neither archived \"{}\" nor failed for 2 minutes, 1 WAL files wait",
                segment(101)
            ),
        ),
        (
            slow,
            format!(
                "archiving is too slow: 1 WAL files wait, \"{}\" for 16 minutes",
                segment(101)
            ),
        ),
        (
            pretending,
            format!(
                "the server counts \"{}\" as archived, and the archive does not hold it",
                segment(100)
            ),
        ),
    ] {
        let verdict = judged(&seen);
        assert_eq!(
            finding(&verdict),
            (Check::Archiver, Severity::Critical, what.as_str())
        );
    }
}

#[test]
fn h12_archiving_that_has_just_stumbled_or_just_started_has_no_finding() {
    let stumbled = archiving(3.0, |archiving| {
        archiving.last_failed = Some((segment(101).to_string(), NOW - 1.0));
    });
    // After a start the files of before the stop are waited for as if they were new.
    let mut started = archiving(5000.0, |archiving| {
        archiving.archiver_started = Some(NOW - 49.0);
    });
    if let Server::Up(live) = &mut started.server {
        live.started = NOW - 50.0;
    }
    // An old failure that has long been made up for.
    let recovered = archiving(30.0, |archiving| {
        archiving.last_failed = Some((segment(99).to_string(), NOW - 5000.0));
    });
    for seen in [stumbled, started, recovered] {
        assert_eq!(judged(&seen).findings, []);
    }
}

#[test]
fn h2_a_gap_of_one_file_in_ten_thousand_is_named_wherever_it_is() {
    const FILES: u64 = 10_000;
    let mut seen = instance(live());
    seen.backups = Some(Ok(Backups {
        points: vec![point(1, NOW - 20.0 * HOUR)],
        newest_good: Some(point(1, NOW - 20.0 * HOUR)),
        suspect: Vec::new(),
        stored_bytes: 1 << 30,
    }));
    seen.archive = Ok(archive(1..=FILES));
    let settings = settings(&json!({}));
    let mut history = History::default();
    history.add(&seen);
    assert_eq!(judge(&seen, &settings, &history).0.findings, []);
    for round in 0..50 {
        // The first file is the base backup's own, and the last one is newer than any gap.
        let number = 2 + round * 7919 % (FILES - 2);
        if let Ok(archive) = &mut seen.archive {
            archive.contents.segments.remove(&segment(number));
        }
        let (verdict, measured) = judge(&seen, &settings, &history);
        let what = format!("the archive has a gap: \"{}\" is missing", segment(number));
        assert_eq!(
            finding(&verdict),
            (Check::Continuity, Severity::Critical, what.as_str())
        );
        assert_eq!(measured.missing_files, Some(1));
        if let Ok(archive) = &mut seen.archive {
            archive.contents.segments.insert(segment(number));
        }
    }
}

#[test]
fn a_file_that_waits_to_be_archived_is_late_and_no_gap() {
    let mut seen = instance(live());
    seen.archive = Ok(archive((50..=100).filter(|number| *number != 95)));
    assert_eq!(finding(&judged(&seen)).0, Check::Continuity);
    seen.waiting = Ok(vec![Waiting {
        name: segment(95).to_string(),
        since: NOW - 2.0,
    }]);
    assert_eq!(judged(&seen).findings, []);
}

#[test]
fn wal_that_was_pruned_behind_an_old_backup_is_no_gap_and_in_the_window_it_is() {
    let mut seen = instance(live());
    // A monthly backup with its own WAL, and the window of 30 days from segment 60 on.
    let points = vec![
        point(5, NOW - 1500.0 * HOUR),
        point(60, NOW - 800.0 * HOUR),
        point(90, NOW - 20.0 * HOUR),
    ];
    seen.backups = Some(Ok(Backups {
        newest_good: points.last().cloned(),
        points,
        suspect: Vec::new(),
        stored_bytes: 1 << 30,
    }));
    seen.archive = Ok(archive([5].into_iter().chain(60..=100)));
    assert_eq!(judged(&seen).findings, []);
    // Behind the newest base backup it is only the past that is lost, and at it the present.
    seen.archive = Ok(archive([5].into_iter().chain(60..=70).chain(72..=100)));
    let verdict = judged(&seen);
    assert_eq!(finding(&verdict).1, Severity::Warning);
    assert_eq!(finding(&verdict).0, Check::Continuity);
    seen.archive = Ok(archive([5].into_iter().chain(60..=92).chain(94..=100)));
    assert_eq!(finding(&judged(&seen)).1, Severity::Critical);
}

#[test]
fn h3_a_base_backup_that_is_too_old_gone_or_changed_is_critical() {
    let with = |backups: Backups| {
        let mut seen = instance(live());
        seen.backups = Some(Ok(backups));
        judged(&seen)
    };
    let good = point(90, NOW - 20.0 * HOUR);
    let old = point(60, NOW - 31.0 * HOUR);
    let verdict = with(Backups {
        points: vec![old.clone()],
        newest_good: Some(old),
        suspect: Vec::new(),
        stored_bytes: 1 << 30,
    });
    assert_eq!(
        finding(&verdict),
        (
            Check::BaseBackup,
            Severity::Critical,
            "the newest good base backup, \"backup-60\", is 31 hours old, and 30 hours are allowed"
        )
    );
    let verdict = with(Backups::default());
    assert_eq!(
        finding(&verdict),
        (
            Check::BaseBackup,
            Severity::Critical,
            "there is no good base backup: nothing can be restored"
        )
    );
    let verdict = with(Backups {
        points: vec![good.clone()],
        newest_good: Some(good),
        suspect: vec![("backup-95".into(), "\"base/1/2\" is missing".into())],
        stored_bytes: 1 << 30,
    });
    assert_eq!(
        finding(&verdict),
        (
            Check::BaseBackup,
            Severity::Critical,
            "base backup \"backup-95\" is not what it was: \"base/1/2\" is missing"
        )
    );
}

#[test]
fn h4_room_is_judged_by_file_system_and_threshold() {
    let with = |storage: Storage| {
        let mut seen = instance(live());
        seen.storage = vec![
            ("archive".into(), Ok(storage)),
            ("data".into(), Ok(storage)),
        ];
        judged(&seen)
    };
    let left = |free_bytes: u64| Storage {
        free_bytes,
        ..ROOMY
    };
    assert_eq!(with(left(20 << 30)).findings, []);
    assert_eq!(
        finding(&with(left(9 << 30))),
        (
            Check::Storage,
            Severity::Warning,
            "the file system of archive, data is more than 90 per cent full: 9216 MiB of 100 GiB are left"
        )
    );
    assert_eq!(
        finding(&with(left(1 << 29))),
        (
            Check::Storage,
            Severity::Critical,
            "the file system of archive, data has 512 MiB left, and 1024 MiB have to be"
        )
    );
    let files = Storage {
        free_files: 10,
        ..ROOMY
    };
    assert_eq!(
        finding(&with(files)),
        (
            Check::Storage,
            Severity::Critical,
            "the file system of archive, data has room for 10 more files of 2000"
        )
    );
    // Some file systems have no number of files.
    let unlimited = Storage {
        files: 0,
        free_files: 0,
        ..ROOMY
    };
    assert_eq!(with(unlimited).findings, []);
}

#[test]
fn h5_a_slot_that_nobody_uses_is_critical_with_what_it_keeps() {
    let with = |active: bool, status: &str, retained_bytes: u64| {
        let mut live = live();
        live.slots = vec![Slot {
            name: "old".into(),
            active,
            status: status.into(),
            retained_bytes,
        }];
        judged(&instance(live))
    };
    assert_eq!(with(false, "reserved", 1 << 30).findings, []);
    assert_eq!(
        finding(&with(false, "extended", 3 << 30)),
        (
            Check::Slots,
            Severity::Critical,
            "nobody uses replication slot \"old\", and the server keeps 3072 MiB of WAL for it"
        )
    );
    assert_eq!(
        finding(&with(true, "extended", 3 << 30)).1,
        Severity::Warning
    );
    assert_eq!(
        finding(&with(false, "lost", 0)),
        (
            Check::Slots,
            Severity::Critical,
            "replication slot \"old\" has lost WAL that it needed"
        )
    );
}

#[test]
fn h10_a_clock_that_was_set_back_gives_no_negative_age_and_no_finding() {
    let settings = settings(&json!({ "objectives": { "rpoSeconds": 600 } }));
    let mut seen = instance(live());
    let mut history = History::default();
    history.add(&seen);
    seen.now -= 1000.0 * HOUR;
    history.add(&seen);
    let (verdict, measured) = judge(&seen, &settings, &history);
    assert_eq!(verdict.findings, []);
    let text = report::metrics(&settings, &seen, &verdict, &measured)
        .text()
        .unwrap();
    let values = || text.lines().filter(|line| !line.starts_with('#'));
    assert!(values().count() > 30, "{text}");
    for line in values() {
        let (_, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().unwrap() >= 0.0, "{line}");
    }
}

#[test]
fn other_thresholds_are_those_of_the_settings() {
    let with = |change: &dyn Fn(&mut Live)| {
        let mut live = live();
        change(&mut live);
        judged_with(
            &instance(live),
            &settings(&json!({ "healthCheck": { "checkReplicationLag": true } })),
        )
    };
    let up_to_date = |live: &mut Live| live.standbys = vec![("b".into(), 10.0)];
    assert_eq!(with(&up_to_date).findings, []);
    for (change, expected) in [
        (
            &(|_: &mut Live| ()) as &dyn Fn(&mut Live),
            (Check::Replication, Severity::Critical),
        ),
        (
            &|live: &mut Live| live.standbys = vec![("b".into(), 301.0)],
            (Check::Replication, Severity::Critical),
        ),
        (
            &|live: &mut Live| {
                up_to_date(live);
                live.connections = (91, 100);
            },
            (Check::Connections, Severity::Critical),
        ),
        (
            &|live: &mut Live| {
                up_to_date(live);
                live.oldest_transaction = Some((14_401.0, "process 1".into()));
            },
            (Check::Transactions, Severity::Warning),
        ),
        (
            &|live: &mut Live| {
                up_to_date(live);
                live.ages = vec![("app".into(), 1_000_000_001, 0)];
            },
            (Check::TransactionIds, Severity::Warning),
        ),
        (
            &|live: &mut Live| {
                up_to_date(live);
                live.ages = vec![("app".into(), 0, 1_700_000_000)];
            },
            (Check::TransactionIds, Severity::Critical),
        ),
        (
            &|live: &mut Live| {
                up_to_date(live);
                live.checksum_failures = vec![("app".into(), 1)];
            },
            (Check::Checksums, Severity::Critical),
        ),
    ] {
        let verdict = with(change);
        let (check, severity, _) = finding(&verdict);
        assert_eq!((check, severity), expected);
    }
}

#[test]
fn h13_a_mount_that_is_missing_or_hides_another_is_critical() {
    for (mounted, what) in [
        (Mounted::No, "nothing is mounted at \"/data-mount\""),
        (
            Mounted::ReadOnly,
            "the file system at \"/data-mount\" takes no changes: it is mounted read-only",
        ),
        (
            Mounted::Hidden {
                seen: "tank/other".into(),
                hidden: "tank/main".into(),
            },
            "at \"/data-mount\", \"tank/other\" is mounted over \"tank/main\"",
        ),
    ] {
        let mut seen = instance(live());
        seen.mounts = vec![("/data-mount".into(), Ok(mounted))];
        let verdict = judged(&seen);
        assert_eq!(finding(&verdict), (Check::Mounts, Severity::Critical, what));
    }
}

#[test]
fn h13_a_sync_that_is_worth_nothing_is_critical_with_what_to_type() {
    let with = |sync: Seen<Sync>| {
        let mut seen = instance(live());
        seen.volumes[0].sync = sync;
        judged(&seen)
    };
    for (sync, severity, what, hint) in [
        (
            Ok(Sync::Disabled { by: "tank".into() }),
            Severity::Critical,
            "dataset \"tank/pg\" of archive, data has sync=disabled: a power cut takes back what it has reported as durable",
            "zfs set sync=standard tank",
        ),
        (
            Ok(Sync::WithoutBarriers),
            Severity::Critical,
            "\"tank/pg\" of archive, data is mounted without write barriers: a power cut takes back what the disk had not written yet",
            "take nobarrier, or barrier=0, out of its mount options, and mount it anew",
        ),
        (
            Err(Unseen {
                why: "zfs has not answered for 20 seconds".into(),
                hint: None,
            }),
            Severity::Unknown,
            "zfs has not answered for 20 seconds",
            "may this user open /dev/zfs, and does zpool status show the pool as well?",
        ),
    ] {
        let verdict = with(sync);
        assert_eq!(finding(&verdict), (Check::Durability, severity, what));
        assert_eq!(verdict.findings[0].hint, hint);
    }
    let mut seen = instance(Live {
        fsync: false,
        ..live()
    });
    let what = "fsync is off: a power cut loses committed changes and can leave a cluster that is beyond repair";
    assert_eq!(
        finding(&judged(&seen)),
        (Check::Durability, Severity::Critical, what)
    );
    // Neither the server nor a file system can be asked.
    seen.volumes.clear();
    seen.server = Server::NotYet { signalled: true };
    assert!(!judged(&seen).checked.contains(&Check::Durability));
}

#[test]
fn an_objective_that_is_not_kept_is_told_with_what_was_measured() {
    let settings = settings(&json!({ "objectives": { "rpoSeconds": 600 } }));
    let mut seen = instance(live());
    seen.waiting = Ok(Vec::new());
    let mut history = History::default();
    let position = segment(101).start(SegmentSize::DEFAULT);
    for (minutes, next) in [(30, 5000), (29, 5001), (15, 5001), (0, 5001)] {
        seen.now = NOW - f64::from(minutes) * 60.0;
        if let Server::Up(live) = &mut seen.server {
            live.position = Some((Lsn(position.0 + next), next));
        }
        history.add(&seen);
    }
    let (verdict, measured) = judge(&seen, &settings, &history);
    assert_eq!(measured.exposure_seconds, Some(29.0 * 60.0));
    assert_eq!(
        finding(&verdict),
        (
            Check::Freshness,
            Severity::Critical,
            "a change of 29 minutes ago is not in the archive; the objective is 600 seconds (objectives.rpoSeconds)"
        )
    );
    // Its segment was archived.
    seen.archive = Ok(archive(50..=101));
    let (verdict, measured) = judge(&seen, &settings, &history);
    assert_eq!(
        (verdict.findings, measured.exposure_seconds),
        (vec![], Some(0.0))
    );
}

/// The settings of copies into two repositories.
fn copied_to_two() -> Settings {
    let repository = |name: &str| {
        json!({
            "name": name, "repository": format!("/{name}"), "passwordFile": "/password",
            "jobs": [
                { "job": "wal", "unit": format!("wal-{name}.service") },
                { "job": "base", "unit": format!("base-{name}.service") },
            ],
        })
    };
    settings(&json!({
        "restic": [repository("nas"), repository("far")],
        "healthCheck": { "maximumOffsiteLagSeconds": 1800 },
        "objectives": { "offsiteRpoSeconds": 3600, "rtoSeconds": 600 },
    }))
}

fn moment(at: f64) -> jiff::Timestamp {
    #[expect(clippy::cast_possible_truncation, reason = "a moment of our time")]
    jiff::Timestamp::from_second(at as i64).unwrap()
}

/// What was noted of a copy that has the WAL up to the segment `number`, and the base backup that ended at `backup`.
fn noted(repository: &str, number: u64, backup: f64) -> [NotedCopy; 2] {
    let copy = |content, holds| NotedCopy {
        repository: repository.into(),
        content,
        record: Ok(Some(OffSiteRecord {
            format: OffSiteRecord::FORMAT,
            began_at: moment(NOW - 100.0),
            finished_at: Some(moment(NOW - 90.0)),
            holds,
        })),
    };
    [
        copy(
            ResticContent::Wal,
            OffSiteHoldings::Wal {
                system_identifier: CLUSTER,
                timeline: Some(TimelineId::FIRST),
                end: Some(segment(number).end(SegmentSize::DEFAULT)),
            },
        ),
        copy(
            ResticContent::Base,
            OffSiteHoldings::Base {
                newest: Some("backup".into()),
                newest_stopped_at: Some(moment(backup)),
            },
        ),
    ]
}

/// What the check of copies off-site finds on a server that changes something every ten minutes, one segment each.
fn off_site(copies: Vec<NotedCopy>) -> (Vec<(Severity, String)>, Measured) {
    let mut history = History::default();
    let mut seen = instance(live());
    for age in (0..=20u32).rev() {
        let mut server = live();
        let number = u64::from(100 - age);
        server.position = Some((
            segment(number + 1).start(SegmentSize::DEFAULT),
            5000 + number,
        ));
        seen = instance(server);
        seen.now = NOW - f64::from(age) * 600.0;
        history.add(&seen);
    }
    seen.copies = copies;
    let (verdict, measured) = judge(&seen, &copied_to_two(), &history);
    let found = verdict
        .findings
        .into_iter()
        .filter(|finding| finding.check == Check::OffSite)
        .map(|finding| (finding.severity, finding.what))
        .collect();
    (found, measured)
}

#[test]
fn copies_that_are_fresh_are_well_and_measured() {
    let newest = NOW - 20.0 * HOUR;
    let (found, measured) =
        off_site([noted("nas", 100, newest), noted("far", 99, newest)].concat());
    assert_eq!(found, []);
    assert_eq!(
        measured.offsite_exposure_seconds,
        [("nas".to_owned(), 0.0), ("far".to_owned(), 0.0)]
    );
}

#[test]
fn one_repository_that_is_behind_is_a_warning_and_all_of_them_are_more() {
    let newest = NOW - 20.0 * HOUR;
    let (found, _) = off_site([noted("nas", 100, newest), noted("far", 90, newest)].concat());
    let late = "in the repository \"far\", changes of the last 90 minutes are missing, and 30 minutes are allowed";
    assert_eq!(found, [(Severity::Warning, late.to_owned())]);

    let (found, measured) = off_site([noted("nas", 92, newest), noted("far", 90, newest)].concat());
    assert_eq!(measured.offsite_seconds, Some(70.0 * 60.0));
    assert_eq!(
        found,
        [
            (
                Severity::Critical,
                "in the repository \"nas\", changes of the last 70 minutes are missing, and 30 minutes are allowed".to_owned()
            ),
            (Severity::Critical, late.to_owned()),
            (
                Severity::Critical,
                "if this machine were lost now, the changes of the last 70 minutes would be: objectives.offsiteRpoSeconds allows 60 minutes".to_owned()
            ),
        ]
    );
}

#[test]
fn a_base_backup_that_is_not_copied_is_told_once_the_upload_had_its_time() {
    let newest = NOW - 20.0 * HOUR;
    let (found, _) =
        off_site([noted("nas", 100, newest), noted("far", 100, newest - 1.0)].concat());
    assert_eq!(
        found,
        [(
            Severity::Warning,
            "in the repository \"far\", the newest base backup, \"backup-90\", is missing, 20 hours after it was taken".to_owned()
        )]
    );
}

#[test]
fn a_copy_that_was_never_made_is_late_from_the_first_change_on() {
    let none = |content| NotedCopy {
        repository: "nas".into(),
        content,
        record: Ok(None),
    };
    let newest = NOW - 20.0 * HOUR;
    let (found, _) = off_site(
        [
            vec![none(ResticContent::Wal), none(ResticContent::Base)],
            noted("far", 100, newest).to_vec(),
        ]
        .concat(),
    );
    assert_eq!(
        found,
        [
            (
                Severity::Warning,
                "in the repository \"nas\", changes of the last 3 hours are missing, and 30 minutes are allowed".to_owned()
            ),
            (
                Severity::Warning,
                "in the repository \"nas\", there is no base backup: nothing can be restored from it".to_owned()
            ),
        ]
    );
}

/// What is judged of the replica "vault/main" by its record, with an hour and a half allowed.
fn replica(record: Seen<Option<ReplicaRecord>>) -> (Verdict, Measured) {
    let declared = settings(&json!({
        "snapshots": { "dataset": "tank/main", "replicas": [{
            "content": "data", "dataset": "vault/main", "unit": "syncoid-tank-main.service",
            "ssh": { "host": "nas", "user": "backup", "sshKeyFile": "/key", "knownHosts": "nas ssh-ed25519 AAAA" },
        }] },
        "healthCheck": { "maximumReplicaAgeSeconds": 5400 },
    }));
    let mut seen = instance(live());
    seen.replicas = vec![NotedReplica {
        content: ReplicaContent::Data,
        record,
    }];
    judge(&seen, &declared, &History::default())
}

fn answered(dataset: &str, asked: f64, newest: Option<f64>) -> ReplicaRecord {
    ReplicaRecord {
        format: ReplicaRecord::FORMAT,
        asked_at: moment(asked),
        dataset: dataset.into(),
        newest: newest.map(|at| ReplicaSnapshot {
            name: "hourly".into(),
            created_at: moment(at),
        }),
    }
}

#[test]
fn a_replica_is_as_old_as_its_newest_snapshot_whenever_it_was_asked() {
    let (verdict, measured) = replica(Ok(Some(answered(
        "vault/main",
        NOW - 60.0,
        Some(NOW - 3600.0),
    ))));
    assert_eq!(verdict.of(Check::Replica), Severity::Ok);
    assert!(verdict.checked.contains(&Check::Replica));
    assert_eq!(
        measured.replica_age_seconds,
        [(ReplicaContent::Data, 3600.0)]
    );

    // Nobody has asked since, or the target has not answered: the age grows.
    for asked in [NOW - 60.0, NOW - 7000.0] {
        let (verdict, measured) =
            replica(Ok(Some(answered("vault/main", asked, Some(NOW - 7200.0)))));
        assert_eq!(
            finding(&verdict),
            (
                Check::Replica,
                Severity::Critical,
                "the newest snapshot of the replica \"vault/main\" on \"nas\", \"hourly\", is 2 hours old, and 90 minutes are allowed"
            )
        );
        assert_eq!(
            measured.replica_age_seconds,
            [(ReplicaContent::Data, 7200.0)]
        );
    }
}

#[test]
fn a_replica_that_is_empty_or_was_never_asked_is_as_old_as_the_instance() {
    for (record, what) in [
        (
            Some(answered("vault/main", NOW - 60.0, None)),
            "the replica \"vault/main\" on \"nas\" holds no snapshot, and 90 minutes are allowed",
        ),
        (
            None,
            "the replica \"vault/main\" on \"nas\" has never been asked what it holds, and 90 minutes are allowed",
        ),
        // Yesterday it was declared to be elsewhere.
        (
            Some(answered("old/main", NOW - 60.0, Some(NOW - 60.0))),
            "the replica \"vault/main\" on \"nas\" has never been asked what it holds, and 90 minutes are allowed",
        ),
    ] {
        let (verdict, measured) = replica(Ok(record));
        assert_eq!(
            finding(&verdict),
            (Check::Replica, Severity::Critical, what)
        );
        assert_eq!(
            measured.replica_age_seconds,
            [(ReplicaContent::Data, 240.0 * HOUR)]
        );
    }
    let unseen = Unseen {
        why: "read \"replica-data.json\": Permission denied".into(),
        hint: None,
    };
    assert_eq!(replica(Err(unseen)).0.of(Check::Replica), Severity::Unknown);
}

#[test]
fn h3_a_drill_that_failed_or_is_overdue_is_critical() {
    let day = 24.0 * HOUR;
    let record = |failure: Option<&str>, last_success: Option<f64>| DrillRecord {
        format: DrillRecord::FORMAT,
        started_at: moment(NOW - HOUR),
        finished_at: moment(NOW - HOUR / 2.0),
        source: settings::DrillSource::Local,
        failure: failure.map(|message| instance_state::DrillFailure {
            reason: instance_state::DrillReason::DamagedBaseBackup,
            message: message.into(),
            hint: None,
        }),
        findings: instance_state::DrillFindings::default(),
        last_success_at: last_success.map(moment),
    };
    let declared = settings(&json!({
        "drill": { "directory": "/drill" },
        "healthCheck": { "maximumDrillAgeSeconds": 8 * 86_400 },
    }));
    let of = |record: Seen<Option<DrillRecord>>, settings: &Settings| {
        let mut seen = instance(live());
        seen.drill = record;
        judged_with(&seen, settings)
    };
    for (record, what) in [
        (
            Some(record(
                Some("\"base/1/2\" is damaged"),
                Some(NOW - 7.0 * day),
            )),
            "the last restore drill failed: \"base/1/2\" is damaged",
        ),
        (
            Some(record(None, Some(NOW - 9.0 * day))),
            "no restore has been rehearsed with success for 9 days, and 8 days are allowed",
        ),
        // There was none since the instance was made, ten days ago.
        (
            None,
            "no restore has been rehearsed with success for 10 days, and 8 days are allowed",
        ),
    ] {
        let verdict = of(Ok(record), &declared);
        assert_eq!(finding(&verdict), (Check::Drill, Severity::Critical, what));
    }
    let unseen = Err(Unseen {
        why: "read \"restore-drill.json\": Permission denied".into(),
        hint: None,
    });
    assert_eq!(finding(&of(unseen, &declared)).1, Severity::Unknown);
    assert_eq!(
        of(Ok(Some(record(None, Some(NOW - 7.0 * day)))), &declared).findings,
        []
    );
    // Drills that are not declared any more fail nobody.
    let undeclared = of(
        Ok(Some(record(Some("it failed"), None))),
        &settings(&json!({})),
    );
    assert_eq!(undeclared.findings, []);
}

#[test]
fn a_rehearsed_restore_that_took_too_long_is_told() {
    let drill = |seconds| DrillRecord {
        format: DrillRecord::FORMAT,
        started_at: moment(NOW - HOUR),
        finished_at: moment(NOW - HOUR / 2.0),
        source: settings::DrillSource::Local,
        failure: None,
        findings: instance_state::DrillFindings {
            recovery_seconds: Some(seconds),
            ..instance_state::DrillFindings::default()
        },
        last_success_at: None,
    };
    for (seconds, expected) in [
        (599.0, None),
        (
            1300.0,
            Some(
                "the last rehearsed restore took 21 minutes until the server answered: objectives.rtoSeconds allows 10 minutes",
            ),
        ),
    ] {
        let mut seen = instance(live());
        seen.drill = Ok(Some(drill(seconds)));
        let verdict = judged_with(&seen, &copied_to_two());
        let found: Vec<&str> = verdict
            .findings
            .iter()
            .filter(|finding| finding.check == Check::RecoveryTime)
            .map(|finding| finding.what.as_str())
            .collect();
        assert_eq!(found, expected.into_iter().collect::<Vec<_>>());
    }
}
