//! The rules.

use textfile::Metric;
use textfile::table::{
    BACKUP_LAST_RUN, BACKUP_LAST_RUN_SUCCESS, DATABASE_PROVISIONED, DRILL_FAILURE, DRILL_LAST_RUN,
    DRILL_LAST_RUN_SUCCESS, DRILL_LAST_SUCCESS, DUMP_LAST_RUN_SUCCESS, DUMP_LAST_SUCCESS,
    DUMP_MAXIMUM_AGE, HEALTH, HEALTH_CHECK_STATUS, HEALTH_LAST_CHECK, INSTANCE_SINCE, MAXIMUM_AGE,
    PRESEED_STATUS, PRUNE_LAST_RUN, PRUNE_LAST_RUN_SUCCESS, SNAPSHOT_LAST_RUN,
    SNAPSHOT_LAST_RUN_SUCCESS, TIME_TO_FULL,
};

use crate::rule::{Case, Expected, Labels, Rule, Series, Severity};
use crate::{ON_INSTANCE, checks};

/// The file of `pg-healthcheck`, as the exporter names it.
const HEALTH_FILE: &str = "/var/lib/node_exporter/textfile_collector/postgresql_health_main.prom";

/// Every rule: about the watching itself, about each check, and about each job.
#[must_use]
pub fn rules() -> Vec<Rule> {
    let mut rules = watching();
    rules.extend(files());
    rules.push(never_ran());
    rules.extend(checks::rules());
    rules.extend(of_checks());
    rules.extend(backups());
    rules.extend(drills());
    rules.extend(databases());
    rules.push(preseed());
    rules
}

/// The moment `of` something is longer ago than is declared for `job`.
fn older(of: &Metric, job: &str) -> String {
    format!("time() - {of} > on ({ON_INSTANCE}) group_left () {MAXIMUM_AGE}{{of=\"{job}\"}}")
}

fn series(metric: &Metric, labels: Labels, values: &'static str) -> Series {
    Series {
        metric: metric.name,
        labels,
        values,
    }
}

/// What fires at minute 40, with one alert about the instance.
fn fires(what: &'static str, series: Vec<Series>, labels: Labels, value: &'static str) -> Case {
    Case {
        what,
        series,
        at_minutes: 40,
        expected: vec![Expected::of_instance(labels, value)],
    }
}

/// What is quiet at minute 40.
fn quiet(what: &'static str, series: Vec<Series>) -> Case {
    Case {
        what,
        series,
        at_minutes: 40,
        expected: Vec::new(),
    }
}

/// That Prometheus hears of the instance at all, and that what it hears is fresh. All other rules are
/// about what was said last, and would stay silent with it.
fn watching() -> Vec<Rule> {
    let of_the_exporter = Expected {
        has_instance: false,
        ..Expected::of_instance(&[], "")
    };
    vec![
        Rule {
            name: "PostgreSQLNotWatched",
            expression: format!("absent({HEALTH})"),
            hold_minutes: 15,
            severity: Severity::Critical,
            summary: "No PostgreSQL instance reports its health to Prometheus".into(),
            description: "Nothing of what pg-healthcheck writes reaches Prometheus, so nobody would be told of an archive or a backup that has stopped.".into(),
            command: "systemctl list-timers 'postgresql-healthcheck-*'; ls -l /var/lib/node_exporter/textfile_collector".into(),
            cases: vec![
                Case {
                    what: "there is nothing",
                    series: Vec::new(),
                    at_minutes: 40,
                    expected: vec![Expected { has_target: false, ..of_the_exporter }],
                },
                quiet("an instance is ill and says so", vec![series(&HEALTH, &[], "0x60")]),
            ],
        },
        Rule {
            name: "PostgreSQLInstanceVanished",
            expression: format!("last_over_time({HEALTH}[1d]) unless {HEALTH}"),
            hold_minutes: 15,
            severity: Severity::Critical,
            summary: "PostgreSQL instance {instance} has stopped reporting to Prometheus".into(),
            description: "It reported within the last day and does not any more: its host is down, its exporter, or its file of metrics is gone. After a day of silence this alert ends by itself.".into(),
            command: "systemctl status prometheus-node-exporter.service postgresql-healthcheck-{instance}.timer; ls -l /var/lib/node_exporter/textfile_collector".into(),
            cases: vec![
                fires("it was there for five minutes", vec![series(&HEALTH, &[], "1x5 _x60")], &[], ""),
                quiet("it is there", vec![series(&HEALTH, &[], "1x60")]),
                quiet("it was away for ten minutes", vec![series(&HEALTH, &[], "1x20 _x10 1x30")]),
            ],
        },
        Rule {
            name: "PostgreSQLChecksStopped",
            expression: older(&HEALTH_LAST_CHECK, "check"),
            hold_minutes: 1,
            severity: Severity::Critical,
            summary: "PostgreSQL instance {instance} has not been checked for {duration}".into(),
            description: "The timer of the health check is off, or the check hangs. What every other alert about this instance says is as old as that.".into(),
            command: "systemctl start postgresql-healthcheck-{instance}.timer postgresql-healthcheck-{instance}.service; systemctl status postgresql-healthcheck-{instance}.timer; journalctl --unit postgresql-healthcheck-{instance}.service --since -1h".into(),
            cases: vec![
                fires(
                    "h11: the check has not run for 40 minutes, and 8 are declared",
                    vec![
                        series(&HEALTH_LAST_CHECK, &[], "0x60"),
                        series(&MAXIMUM_AGE, &[("of", "check")], "480x60"),
                    ],
                    &[],
                    "40m 0s",
                ),
                quiet(
                    "it runs every minute",
                    vec![
                        series(&HEALTH_LAST_CHECK, &[], "0+60x60"),
                        series(&MAXIMUM_AGE, &[("of", "check")], "480x60"),
                    ],
                ),
                quiet(
                    "it runs every hour, as declared",
                    vec![
                        series(&HEALTH_LAST_CHECK, &[], "0x60"),
                        series(&MAXIMUM_AGE, &[("of", "check")], "11100x60"),
                    ],
                ),
            ],
        },
    ]
}

/// The rule about one declared instance, which knows of it before anything has been heard of it.
#[must_use]
pub fn rule_of_instance(instance: &str) -> Rule {
    Rule {
        name: "PostgreSQLInstanceNotWatched",
        expression: format!(
            "absent({HEALTH}{{instance=\"{instance}\"}}) unless on () {HEALTH}{{exported_instance=\"{instance}\"}}"
        ),
        hold_minutes: 15,
        severity: Severity::Critical,
        summary: "Prometheus hears nothing of PostgreSQL instance {instance}, which is declared".into(),
        description: "Its health check does not run, cannot write its metrics, or nobody scrapes its host.".into(),
        command: "systemctl status postgresql-healthcheck-{instance}.timer prometheus-node-exporter.service; ls -l /var/lib/node_exporter/textfile_collector".into(),
        cases: vec![
            Case {
                what: "nothing was ever heard of it",
                series: Vec::new(),
                at_minutes: 40,
                expected: vec![Expected {
                    labels: &[("instance", "main")],
                    value: "",
                    has_instance: true,
                    has_target: false,
                }],
            },
            quiet("it is ill and says so", vec![series(&HEALTH, &[], "0x60")]),
        ],
    }
}

/// That the files of metrics are fresh and whole, by what the exporter says of them.
fn files() -> Vec<Rule> {
    let of_the_exporter = Expected {
        has_instance: false,
        ..Expected::of_instance(&[], "")
    };
    vec![
        Rule {
            name: "PostgreSQLMetricsOld",
            expression: format!(
                "time() - node_textfile_mtime_seconds{{file=~\".*postgresql_health_.+[.]prom\"}} > on () group_left () max({MAXIMUM_AGE}{{of=\"check\"}})"
            ),
            hold_minutes: 5,
            severity: Severity::Warning,
            summary: "{file} has not been written for {duration}".into(),
            description: "Whatever stands in it is as old as that: the health check does not run, cannot write there, or belongs to an instance that is not declared any more. Remove the file in that case.".into(),
            command: "ls -l {file}; systemctl list-timers 'postgresql-healthcheck-*'; journalctl --unit 'postgresql-healthcheck-*' --since -1h".into(),
            cases: vec![
                Case {
                    what: "h11: nobody writes the file",
                    series: vec![
                        Series { metric: "node_textfile_mtime_seconds", labels: &[("file", HEALTH_FILE)], values: "0x60" },
                        series(&MAXIMUM_AGE, &[("of", "check")], "480x60"),
                    ],
                    at_minutes: 40,
                    expected: vec![Expected {
                        labels: &[("file", HEALTH_FILE)],
                        value: "40m 0s",
                        ..of_the_exporter
                    }],
                },
                quiet(
                    "the file is written every minute, and another one is old",
                    vec![
                        Series { metric: "node_textfile_mtime_seconds", labels: &[("file", HEALTH_FILE)], values: "0+60x60" },
                        Series { metric: "node_textfile_mtime_seconds", labels: &[("file", "/other/smart.prom")], values: "0x60" },
                        series(&MAXIMUM_AGE, &[("of", "check")], "480x60"),
                    ],
                ),
            ],
        },
        Rule {
            name: "PostgreSQLMetricsUnreadable",
            expression: "node_textfile_scrape_error > 0 and on (job, instance) node_textfile_mtime_seconds{file=~\".*postgresql_.+[.]prom\"}".into(),
            hold_minutes: 5,
            severity: Severity::Warning,
            summary: "The node exporter of a PostgreSQL host cannot read a file of metrics".into(),
            description: "A file in its directory is not in Prometheus' format, whoever wrote it, and its metrics are missing.".into(),
            command: "journalctl --unit prometheus-node-exporter.service --grep textfile --since -1h; ls -l /var/lib/node_exporter/textfile_collector".into(),
            cases: vec![
                Case {
                    what: "a file is broken",
                    series: vec![
                        Series { metric: "node_textfile_scrape_error", labels: &[], values: "1x60" },
                        Series { metric: "node_textfile_mtime_seconds", labels: &[("file", HEALTH_FILE)], values: "0x60" },
                    ],
                    at_minutes: 40,
                    expected: vec![of_the_exporter],
                },
                quiet(
                    "every file is whole",
                    vec![
                        Series { metric: "node_textfile_scrape_error", labels: &[], values: "0x60" },
                        Series { metric: "node_textfile_mtime_seconds", labels: &[("file", HEALTH_FILE)], values: "0x60" },
                    ],
                ),
                quiet(
                    "a host without an instance has a broken file",
                    vec![Series { metric: "node_textfile_scrape_error", labels: &[], values: "1x60" }],
                ),
            ],
        },
    ]
}

/// What the checks say that is not about one of them.
fn of_checks() -> Vec<Rule> {
    vec![
        Rule {
            name: "PostgreSQLCheckUnknown",
            expression: format!("{HEALTH_CHECK_STATUS} == 3"),
            hold_minutes: 15,
            severity: Severity::Warning,
            summary: "The check {check} of PostgreSQL instance {instance} cannot be made".into(),
            description: "Whether something is wrong there is not known. The check says what is in its way.".into(),
            command: "pg-healthcheck --config /etc/backstay/{instance}.json".into(),
            cases: vec![
                fires(
                    "a directory cannot be read",
                    vec![series(&HEALTH_CHECK_STATUS, &[("check", "storage")], "3x60")],
                    &[("check", "storage")],
                    "",
                ),
                quiet(
                    "a check is critical",
                    vec![series(&HEALTH_CHECK_STATUS, &[("check", "storage")], "2x60")],
                ),
            ],
        },
        Rule {
            name: "PostgreSQLStorageFills",
            expression: format!("{TIME_TO_FULL} < 3 * 86400"),
            hold_minutes: 30,
            severity: Severity::Warning,
            summary: "The {place} of PostgreSQL instance {instance} is full in {duration}".into(),
            description: "If it goes on as in the last day. There is still time to enlarge the disk, or to keep fewer backups.".into(),
            command: "backstay status {instance}; pg-prune --config /etc/backstay/{instance}.json --plan; zfs list -o space".into(),
            cases: vec![
                fires(
                    "two days are left",
                    vec![series(&TIME_TO_FULL, &[("place", "archive")], "172800x60")],
                    &[("place", "archive")],
                    "2d 0h 0m 0s",
                ),
                quiet(
                    "ten days are left",
                    vec![series(&TIME_TO_FULL, &[("place", "archive")], "864000x60")],
                ),
            ],
        },
    ]
}

/// A job that is declared, and of which there is no trace although the instance is older than that.
fn never_ran() -> Rule {
    let jobs = [
        (BACKUP_LAST_RUN, "base-backup"),
        (SNAPSHOT_LAST_RUN, "snapshot"),
        (PRUNE_LAST_RUN, "prune"),
        (DRILL_LAST_RUN, "drill"),
    ]
    .map(|(metric, job)| {
        format!("({MAXIMUM_AGE}{{of=\"{job}\"}} unless on ({ON_INSTANCE}) {metric})")
    })
    .join(" or ");
    let declared = |values| series(&MAXIMUM_AGE, &[("of", "drill")], values);
    Rule {
        name: "PostgreSQLJobNeverRan",
        expression: format!(
            "({jobs}) unless ({MAXIMUM_AGE} >= on ({ON_INSTANCE}) group_left () (time() - {INSTANCE_SINCE}))"
        ),
        hold_minutes: 15,
        severity: Severity::Critical,
        summary: "The job {of} of PostgreSQL instance {instance} has never run".into(),
        description: "It is declared, the instance is old enough, and nothing has been heard of it: its timer is off, or it cannot write its metrics.".into(),
        command: "systemctl list-timers --all 'postgresql-*-{instance}.timer'; systemctl status 'postgresql-*-{instance}.service'".into(),
        cases: vec![
            fires(
                "h11: the drill of an old instance has never run",
                vec![declared("1200x60"), series(&INSTANCE_SINCE, &[], "0x60")],
                &[("of", "drill")],
                "",
            ),
            fires(
                "nobody knows how old the instance is",
                vec![declared("1200x60")],
                &[("of", "drill")],
                "",
            ),
            quiet(
                "the instance is young",
                vec![declared("86400x60"), series(&INSTANCE_SINCE, &[], "0x60")],
            ),
            quiet(
                "it has run",
                vec![
                    declared("1200x60"),
                    series(&INSTANCE_SINCE, &[], "0x60"),
                    series(&DRILL_LAST_RUN, &[], "0x60"),
                ],
            ),
            quiet("no drill is declared", vec![series(&INSTANCE_SINCE, &[], "0x60")]),
        ],
    }
}

/// A job whose last run is too long ago.
fn stopped(
    name: &'static str,
    metric: &Metric,
    labels: Labels,
    job: &'static str,
    of: Labels,
    texts: [&str; 3],
) -> Rule {
    let [summary, description, command] = texts;
    let limit = || series(&MAXIMUM_AGE, of, "1200x60");
    Rule {
        name,
        expression: older(metric, job),
        hold_minutes: 10,
        severity: Severity::Warning,
        summary: summary.into(),
        description: description.into(),
        command: command.into(),
        cases: vec![
            fires(
                "h11: the last run is 40 minutes ago, and 20 are declared",
                vec![series(metric, labels, "0x60"), limit()],
                labels,
                "40m 0s",
            ),
            quiet(
                "it runs every minute",
                vec![series(metric, labels, "0+60x60"), limit()],
            ),
            quiet("no age is declared", vec![series(metric, labels, "0x60")]),
        ],
    }
}

/// A job whose last run failed.
fn failed(name: &'static str, metric: &Metric, labels: Labels, texts: [&str; 3]) -> Rule {
    let [summary, description, command] = texts;
    Rule {
        name,
        expression: format!("{metric} == 0"),
        hold_minutes: 0,
        severity: Severity::Warning,
        summary: summary.into(),
        description: description.into(),
        command: command.into(),
        cases: vec![
            fires(
                "it failed",
                vec![series(metric, labels, "0x60")],
                labels,
                "",
            ),
            quiet("it succeeded", vec![series(metric, labels, "1x60")]),
            quiet(
                "it failed, and then succeeded",
                vec![series(metric, labels, "0x20 1x40")],
            ),
        ],
    }
}

fn backups() -> Vec<Rule> {
    vec![
        failed(
            "PostgreSQLBaseBackupFailed",
            &BACKUP_LAST_RUN_SUCCESS,
            &[("type", "base")],
            [
                "The last base backup of PostgreSQL instance {instance} failed",
                "Older base backups and the archive still restore every moment, only slower.",
                "journalctl --unit postgresql-basebackup-{instance}.service --since -2d; systemctl start postgresql-basebackup-{instance}.service",
            ],
        ),
        stopped(
            "PostgreSQLBaseBackupsStopped",
            &BACKUP_LAST_RUN,
            &[("type", "base")],
            "base-backup",
            &[("of", "base-backup")],
            [
                "No base backup of PostgreSQL instance {instance} has been tried for {duration}",
                "The timer is off, the job hangs, or it cannot write its metrics.",
                "systemctl list-timers --all postgresql-basebackup-{instance}.timer; journalctl --unit postgresql-basebackup-{instance}.service --since -3d",
            ],
        ),
        failed(
            "PostgreSQLSnapshotFailed",
            &SNAPSHOT_LAST_RUN_SUCCESS,
            &[],
            [
                "The last snapshot of PostgreSQL instance {instance} failed",
                "Older snapshots, base backups and the archive still restore every moment, only slower.",
                "journalctl --unit postgresql-snapshot-{instance}.service --since -2d; systemctl start postgresql-snapshot-{instance}.service",
            ],
        ),
        stopped(
            "PostgreSQLSnapshotsStopped",
            &SNAPSHOT_LAST_RUN,
            &[],
            "snapshot",
            &[("of", "snapshot")],
            [
                "No snapshot of PostgreSQL instance {instance} has been tried for {duration}",
                "The timer is off, the job hangs, or it cannot write its metrics.",
                "systemctl list-timers --all postgresql-snapshot-{instance}.timer; journalctl --unit postgresql-snapshot-{instance}.service --since -3d",
            ],
        ),
        failed(
            "PostgreSQLPruneFailed",
            &PRUNE_LAST_RUN_SUCCESS,
            &[],
            [
                "Old backups of PostgreSQL instance {instance} could not be removed",
                "Nothing is lost. The disk of the archive and of the base backups fills.",
                "journalctl --unit postgresql-walprune-{instance}.service --since -2d; pg-prune --config /etc/backstay/{instance}.json --plan",
            ],
        ),
        stopped(
            "PostgreSQLPruneStopped",
            &PRUNE_LAST_RUN,
            &[],
            "prune",
            &[("of", "prune")],
            [
                "Old backups of PostgreSQL instance {instance} have not been removed for {duration}",
                "The timer is off, or the job hangs. The disk of the archive and of the base backups fills.",
                "systemctl list-timers --all postgresql-walprune-{instance}.timer; systemctl start postgresql-walprune-{instance}.service",
            ],
        ),
    ]
}

fn drills() -> Vec<Rule> {
    vec![
        Rule {
            name: "PostgreSQLDrillFailed",
            expression: format!(
                "{DRILL_FAILURE} == 1 or on ({ON_INSTANCE}) {DRILL_LAST_RUN_SUCCESS} == 0"
            ),
            hold_minutes: 0,
            severity: Severity::Critical,
            summary: "The last restore drill of PostgreSQL instance {instance} failed".into(),
            description: "As things are, a restore may not work. Reason: {reason}".into(),
            command: "backstay status {instance}; journalctl --unit postgresql-restore-drill-{instance}.service --since -8d; systemctl start postgresql-restore-drill-{instance}.service".into(),
            cases: vec![
                fires(
                    "it failed for a reason",
                    vec![
                        series(&DRILL_FAILURE, &[("reason", "missingWal")], "1x60"),
                        series(&DRILL_LAST_RUN_SUCCESS, &[], "0x60"),
                    ],
                    &[("reason", "missingWal")],
                    "",
                ),
                fires(
                    "it failed and nobody knows why",
                    vec![series(&DRILL_LAST_RUN_SUCCESS, &[], "0x60")],
                    &[],
                    "",
                ),
                quiet("it succeeded", vec![series(&DRILL_LAST_RUN_SUCCESS, &[], "1x60")]),
            ],
        },
        stopped(
            "PostgreSQLDrillOld",
            &DRILL_LAST_SUCCESS,
            &[],
            "drill",
            &[("of", "drill")],
            [
                "No restore of PostgreSQL instance {instance} has been rehearsed for {duration}",
                "A backup is a hope until it has been restored.",
                "systemctl list-timers --all postgresql-restore-drill-{instance}.timer; systemctl start postgresql-restore-drill-{instance}.service",
            ],
        ),
    ]
}

/// An empty data directory that is not filled: the server waits for it, and so does everybody.
fn preseed() -> Rule {
    let at_minute_400 = |what, series, expected| Case {
        what,
        series,
        at_minutes: 400,
        expected,
    };
    let none: Labels = &[("source", "none")];
    Rule {
        name: "PostgreSQLPreseedUnfinished",
        expression: format!("{PRESEED_STATUS} == 0"),
        // What a large restore over a network takes.
        hold_minutes: 360,
        severity: Severity::Critical,
        summary: "The data directory of PostgreSQL instance {instance} has been empty for hours, and nothing has filled it".into(),
        description: "The server does not start before a source has given the data or every source has proven that it holds none.".into(),
        command: "systemctl status preseed-postgresql-{instance}.service; journalctl --unit preseed-postgresql-{instance}.service".into(),
        cases: vec![
            at_minute_400(
                "nothing has come of it",
                vec![series(&PRESEED_STATUS, none, "0x500")],
                vec![Expected::of_instance(none, "")],
            ),
            at_minute_400(
                "it took three hours",
                vec![
                    series(&PRESEED_STATUS, none, "0x180 _x300"),
                    series(&PRESEED_STATUS, &[("source", "restic")], "_x180 1x320"),
                ],
                Vec::new(),
            ),
            quiet("it runs", vec![series(&PRESEED_STATUS, none, "0x60")]),
        ],
    }
}

fn databases() -> Vec<Rule> {
    let app: Labels = &[("database", "app")];
    let limit = || series(&DUMP_MAXIMUM_AGE, app, "1200x60");
    let is_due = format!(
        "({DUMP_MAXIMUM_AGE} unless on ({ON_INSTANCE}, database) {DUMP_LAST_SUCCESS}) unless ({DUMP_MAXIMUM_AGE} >= on ({ON_INSTANCE}) group_left () (time() - {INSTANCE_SINCE}))"
    );
    vec![
        Rule {
            hold_minutes: 10,
            ..failed(
                "PostgreSQLDatabaseNotAsDeclared",
                &DATABASE_PROVISIONED,
                app,
                [
                    "Database {database} of PostgreSQL instance {instance} is not as declared",
                    "A role, a right, an extension or a migration is missing. Nothing was dropped.",
                    "journalctl --unit 'postgresql-database-provisioning*' --since -1d; pg-provision --config /etc/backstay/{instance}.json --plan",
                ],
            )
        },
        failed(
            "PostgreSQLDumpFailed",
            &DUMP_LAST_RUN_SUCCESS,
            app,
            [
                "The last dump of database {database} of PostgreSQL instance {instance} failed",
                "Older dumps are still there, and base backups with the archive restore the whole instance.",
                "systemctl list-units --all 'postgresql-dump-*'; pg-dump-database --config /etc/backstay/{instance}.json --database {database}",
            ],
        ),
        Rule {
            name: "PostgreSQLDumpOld",
            expression: format!(
                "time() - {DUMP_LAST_SUCCESS} > on ({ON_INSTANCE}, database) group_left () {DUMP_MAXIMUM_AGE}"
            ),
            hold_minutes: 10,
            severity: Severity::Warning,
            summary: "The newest good dump of database {database} of PostgreSQL instance {instance} is {duration} old".into(),
            description: "Its timer is off, or it fails again and again.".into(),
            command: "systemctl list-timers --all 'postgresql-dump-*'; pg-dump-database --config /etc/backstay/{instance}.json --database {database}".into(),
            cases: vec![
                fires(
                    "h11: it is 40 minutes old, and 20 are declared",
                    vec![series(&DUMP_LAST_SUCCESS, app, "0x60"), limit()],
                    app,
                    "40m 0s",
                ),
                quiet(
                    "there is one every minute",
                    vec![series(&DUMP_LAST_SUCCESS, app, "0+60x60"), limit()],
                ),
            ],
        },
        Rule {
            name: "PostgreSQLDumpNeverMade",
            expression: is_due,
            hold_minutes: 15,
            severity: Severity::Warning,
            summary: "Database {database} of PostgreSQL instance {instance} has never been dumped".into(),
            description: "Dumps of it are declared, and the instance is old enough to have one.".into(),
            command: "systemctl list-timers --all 'postgresql-dump-*'; pg-dump-database --config /etc/backstay/{instance}.json --database {database}".into(),
            cases: vec![
                fires(
                    "an old instance has none",
                    vec![limit(), series(&INSTANCE_SINCE, &[], "0x60")],
                    app,
                    "",
                ),
                quiet(
                    "the instance is young",
                    vec![
                        series(&DUMP_MAXIMUM_AGE, app, "86400x60"),
                        series(&INSTANCE_SINCE, &[], "0x60"),
                    ],
                ),
                quiet("there is one", vec![limit(), series(&DUMP_LAST_SUCCESS, app, "0x60")]),
            ],
        },
    ]
}
