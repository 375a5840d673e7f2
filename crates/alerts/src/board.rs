//! The board for Grafana.

use serde_json::{Value, json};
use textfile::Metric;
use textfile::table::{
    BACKUP_COUNT, BACKUP_DURATION, BACKUP_LAST_RUN, BACKUP_LAST_RUN_SUCCESS, BACKUP_LAST_SUCCESS,
    BACKUP_SIZE, BACKUP_STORED, CHECKSUM_FAILURES, COLLATION_OUTDATED, CONNECTIONS,
    CONNECTIONS_MAXIMUM, DATABASE_PROVISIONED, DATABASES, DATABASES_FAILED, DATABASES_HASH,
    DATABASES_LAST_RUN, DATABASES_PROVISIONED, DATABASES_PROVISIONED_AT, DEADLOCKS, DRILL_DURATION,
    DRILL_EXACT, DRILL_FAILURE, DRILL_LAST_RUN, DRILL_LAST_RUN_SUCCESS, DRILL_LAST_SUCCESS,
    DRILL_RECOVERY, DRILL_RELATIONS, DRILL_RESTORED, DRILL_TARGET, DUMP_LAST_RUN_SUCCESS,
    DUMP_LAST_SUCCESS, DUMP_MAXIMUM_AGE, DUMP_SIZE, FREE_BYTES, HEALTH, HEALTH_CHECK_STATUS,
    HEALTH_LAST_CHECK, HEALTH_STATUS, IN_RECOVERY, INSTANCE_SINCE, LONGEST_TRANSACTION,
    MAXIMUM_AGE, MULTIXACT_AGE, OBJECTIVE, OFFSITE_EXPOSURE, OFFSITE_LAST_SUCCESS,
    PRESEED_LAST_COMPLETION, PRESEED_LAST_DURATION, PRESEED_RESTORED, PRESEED_STATUS,
    PRUNE_LAST_RUN, PRUNE_LAST_RUN_SUCCESS, PRUNE_REMOVED_BACKUPS, PRUNE_REMOVED_WAL, REPLICA_AGE,
    REPLICATION_LAG, SIZE_BYTES, SLOT_RETAINED, SNAPSHOT_COUNT, SNAPSHOT_LAST_RUN,
    SNAPSHOT_LAST_RUN_SUCCESS, SNAPSHOT_LAST_SUCCESS, TIME_TO_FULL, UP, WAL_BYTES, WAL_FAILURES,
    WAL_FILES_PRESENT, WAL_LAST_SUCCESS, WAL_MISSING, WAL_NOT_ARCHIVED, WAL_WAITING,
    WAL_WAITING_SINCE, WINDOW_START, XID_AGE,
};

/// The legend of a panel with one series for each instance.
const ONE: &str = "{{cluster}}";

/// Columns of Grafana's grid.
const WIDTH: u32 = 24;

/// How a panel shows its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The last value, large.
    Stat,
    /// Values over time, as lines.
    Lines,
    /// States over time, as bars.
    States,
}

/// What a panel's values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scale {
    Seconds,
    Bytes,
    Number,
    Share,
    /// 1 is well, 0 is not.
    Truth,
    /// 0 is well, more is not.
    None,
    /// An exit status of `pg-healthcheck`.
    Status,
}

struct Panel {
    title: &'static str,
    kind: Kind,
    scale: Scale,
    width: u32,
    /// Expressions with their legends.
    targets: Vec<(String, &'static str)>,
}

/// Series of the chosen instances, each with its name in the label `cluster`, whichever label had it.
fn of(metric: &Metric) -> String {
    with(metric, "")
}

/// The same of those that `matcher` selects too.
fn with(metric: &Metric, matcher: &str) -> String {
    let chosen = format!(
        "{metric}{{{matcher}exported_instance=~\"$instance\"}} or {metric}{{{matcher}instance=~\"$instance\"}}"
    );
    named(&chosen)
}

/// Puts the name of the instance into the label `cluster`.
fn named(expression: &str) -> String {
    format!(
        "label_replace(label_replace({expression}, \"cluster\", \"$1\", \"instance\", \"(.+)\"), \"cluster\", \"$1\", \"exported_instance\", \"(.+)\")"
    )
}

/// How long ago the moment is that the metric says.
fn ago(metric: &Metric) -> String {
    format!("time() - {}", of(metric))
}

fn limit(job: &str) -> String {
    with(&MAXIMUM_AGE, &format!("of=\"{job}\", "))
}

fn objective(name: &str) -> String {
    with(&OBJECTIVE, &format!("objective=\"{name}\", "))
}

fn panel(
    title: &'static str,
    kind: Kind,
    scale: Scale,
    width: u32,
    targets: Vec<(String, &'static str)>,
) -> Panel {
    Panel {
        title,
        kind,
        scale,
        width,
        targets,
    }
}

/// The rows with their panels.
fn rows() -> Vec<(&'static str, Vec<Panel>)> {
    vec![
        ("Is everything well?", overview()),
        ("What can be restored?", restores()),
        ("What would be lost?", losses()),
        ("Base backups and drills", backups()),
        ("Filling an empty data directory", preseed()),
        ("Archive", archive()),
        ("Room", room()),
        ("Server", server()),
        ("Databases", databases()),
    ]
}

/// Whether anything is wrong.
fn overview() -> Vec<Panel> {
    vec![
        panel(
            "Health",
            Kind::Stat,
            Scale::Truth,
            4,
            vec![(of(&HEALTH), ONE)],
        ),
        panel(
            "Worst finding",
            Kind::Stat,
            Scale::Status,
            4,
            vec![(of(&HEALTH_STATUS), ONE)],
        ),
        panel(
            "Server answers",
            Kind::Stat,
            Scale::Truth,
            4,
            vec![(of(&UP), ONE)],
        ),
        panel(
            "Server replays WAL",
            Kind::Stat,
            Scale::None,
            4,
            vec![(of(&IN_RECOVERY), ONE)],
        ),
        panel(
            "Last check, ago",
            Kind::Stat,
            Scale::Seconds,
            4,
            vec![
                (ago(&HEALTH_LAST_CHECK), ONE),
                (limit("check"), "{{cluster}} overdue after"),
            ],
        ),
        panel(
            "On this host for",
            Kind::Stat,
            Scale::Seconds,
            4,
            vec![(ago(&INSTANCE_SINCE), ONE)],
        ),
        panel(
            "Checks",
            Kind::States,
            Scale::Status,
            24,
            vec![(of(&HEALTH_CHECK_STATUS), "{{cluster}} {{check}}")],
        ),
    ]
}

/// How much of the newest changes has no second copy.
fn losses() -> Vec<Panel> {
    vec![
        panel(
            "What would be lost with the server's disk",
            Kind::Lines,
            Scale::Seconds,
            12,
            vec![
                (of(&WAL_NOT_ARCHIVED), ONE),
                (objective("rpo"), "{{cluster}} objective"),
            ],
        ),
        panel(
            "What would be lost with the whole machine",
            Kind::Lines,
            Scale::Seconds,
            12,
            vec![
                (of(&OFFSITE_EXPOSURE), "{{cluster}} {{repository}}"),
                (objective("offsite-rpo"), "{{cluster}} objective"),
            ],
        ),
        panel(
            "Age of the newest snapshot of each replica",
            Kind::Lines,
            Scale::Seconds,
            12,
            vec![
                (of(&REPLICA_AGE), "{{cluster}} {{content}}"),
                (limit("replica"), "{{cluster}} limit"),
            ],
        ),
        panel(
            "Age of the last good copies off-site",
            Kind::Lines,
            Scale::Seconds,
            12,
            vec![(
                ago(&OFFSITE_LAST_SUCCESS),
                "{{cluster}} {{repository}} {{content}}",
            )],
        ),
    ]
}

/// What a restore can reach and how long it takes.
fn restores() -> Vec<Panel> {
    vec![
        panel(
            "Back to, ago",
            Kind::Stat,
            Scale::Seconds,
            4,
            vec![(ago(&WINDOW_START), ONE)],
        ),
        panel(
            "WAL files missing",
            Kind::Stat,
            Scale::None,
            4,
            vec![(of(&WAL_MISSING), ONE)],
        ),
        panel(
            "Good base backups",
            Kind::Stat,
            Scale::Number,
            4,
            vec![(of(&BACKUP_COUNT), ONE)],
        ),
        panel(
            "Last base backup",
            Kind::Stat,
            Scale::Truth,
            4,
            vec![(of(&BACKUP_LAST_RUN_SUCCESS), ONE)],
        ),
        panel(
            "Last drill",
            Kind::Stat,
            Scale::Truth,
            4,
            vec![(of(&DRILL_LAST_RUN_SUCCESS), ONE)],
        ),
        panel(
            "Why the last drill failed",
            Kind::Stat,
            Scale::None,
            4,
            vec![(of(&DRILL_FAILURE), "{{cluster}} {{reason}}")],
        ),
        panel(
            "How long a restore takes",
            Kind::Lines,
            Scale::Seconds,
            12,
            vec![
                (of(&DRILL_RECOVERY), ONE),
                (of(&DRILL_DURATION), "{{cluster}} whole drill"),
                (objective("rto"), "{{cluster}} objective"),
            ],
        ),
        panel(
            "Age of the newest good base backup",
            Kind::Lines,
            Scale::Seconds,
            12,
            vec![
                (ago(&BACKUP_LAST_SUCCESS), ONE),
                (ago(&BACKUP_LAST_RUN), "{{cluster}} last try"),
                (limit("base-backup"), "{{cluster}} limit"),
            ],
        ),
        panel(
            "Age of the last drill that succeeded",
            Kind::Lines,
            Scale::Seconds,
            12,
            vec![
                (ago(&DRILL_LAST_SUCCESS), ONE),
                (ago(&DRILL_LAST_RUN), "{{cluster}} last try"),
                (
                    ago(&DRILL_TARGET),
                    "{{cluster}} the moment that was restored",
                ),
                (limit("drill"), "{{cluster}} limit"),
            ],
        ),
    ]
}

/// What base backups and drills came to.
fn backups() -> Vec<Panel> {
    vec![
        panel(
            "What the drill looked at",
            Kind::States,
            Scale::Truth,
            12,
            vec![
                (
                    of(&DRILL_EXACT),
                    "{{cluster}} ended at the right transaction",
                ),
                (
                    of(&DRILL_RELATIONS),
                    "{{cluster}} tables and indexes are sound",
                ),
            ],
        ),
        panel(
            "Size of a base backup",
            Kind::Lines,
            Scale::Bytes,
            12,
            vec![
                (of(&BACKUP_SIZE), "{{cluster}} content"),
                (of(&BACKUP_STORED), "{{cluster}} stored"),
                (of(&DRILL_RESTORED), "{{cluster}} restored by the drill"),
            ],
        ),
        panel(
            "How long a base backup takes",
            Kind::Lines,
            Scale::Seconds,
            12,
            vec![(of(&BACKUP_DURATION), ONE)],
        ),
        panel(
            "Snapshots of our own",
            Kind::Stat,
            Scale::Number,
            6,
            vec![(of(&SNAPSHOT_COUNT), ONE)],
        ),
        panel(
            "Last snapshot of our own",
            Kind::Stat,
            Scale::Truth,
            6,
            vec![(of(&SNAPSHOT_LAST_RUN_SUCCESS), ONE)],
        ),
        panel(
            "Age of the newest good snapshot of our own",
            Kind::Lines,
            Scale::Seconds,
            12,
            vec![
                (ago(&SNAPSHOT_LAST_SUCCESS), ONE),
                (ago(&SNAPSHOT_LAST_RUN), "{{cluster}} last try"),
                (limit("snapshot"), "{{cluster}} limit"),
            ],
        ),
    ]
}

/// How the instance came by its data.
fn preseed() -> Vec<Panel> {
    vec![
        panel(
            "From",
            Kind::Stat,
            Scale::Truth,
            6,
            vec![(of(&PRESEED_STATUS), "{{cluster}} {{source}}")],
        ),
        panel(
            "Done, ago",
            Kind::Stat,
            Scale::Seconds,
            6,
            vec![(ago(&PRESEED_LAST_COMPLETION), ONE)],
        ),
        panel(
            "Took",
            Kind::Stat,
            Scale::Seconds,
            6,
            vec![(of(&PRESEED_LAST_DURATION), ONE)],
        ),
        panel(
            "Restored",
            Kind::Stat,
            Scale::Bytes,
            6,
            vec![(of(&PRESEED_RESTORED), ONE)],
        ),
    ]
}

/// The archive, and what is removed from it.
fn archive() -> Vec<Panel> {
    vec![
        panel(
            "Size",
            Kind::Lines,
            Scale::Bytes,
            8,
            vec![(of(&WAL_BYTES), ONE)],
        ),
        panel(
            "Files",
            Kind::Lines,
            Scale::Number,
            8,
            vec![(of(&WAL_FILES_PRESENT), ONE)],
        ),
        panel(
            "Last file archived, ago",
            Kind::Lines,
            Scale::Seconds,
            8,
            vec![(ago(&WAL_LAST_SUCCESS), ONE)],
        ),
        panel(
            "Files that wait",
            Kind::Lines,
            Scale::Number,
            8,
            vec![(of(&WAL_WAITING), ONE)],
        ),
        panel(
            "The oldest waits for",
            Kind::Lines,
            Scale::Seconds,
            8,
            vec![(ago(&WAL_WAITING_SINCE), ONE)],
        ),
        panel(
            "Failures of archive_command",
            Kind::Lines,
            Scale::Number,
            8,
            vec![(of(&WAL_FAILURES), ONE)],
        ),
        panel(
            "Last prune",
            Kind::Stat,
            Scale::Truth,
            8,
            vec![(of(&PRUNE_LAST_RUN_SUCCESS), ONE)],
        ),
        panel(
            "Last prune, ago",
            Kind::Lines,
            Scale::Seconds,
            8,
            vec![
                (ago(&PRUNE_LAST_RUN), ONE),
                (limit("prune"), "{{cluster}} limit"),
            ],
        ),
        panel(
            "Removed by the last prune",
            Kind::Lines,
            Scale::Number,
            8,
            vec![
                (of(&PRUNE_REMOVED_BACKUPS), "{{cluster}} base backups"),
                (of(&PRUNE_REMOVED_WAL), "{{cluster}} WAL files"),
            ],
        ),
    ]
}

/// Disks.
fn room() -> Vec<Panel> {
    vec![
        panel(
            "Free",
            Kind::Lines,
            Scale::Bytes,
            8,
            vec![(of(&FREE_BYTES), "{{cluster}} {{place}}")],
        ),
        panel(
            "Used",
            Kind::Lines,
            Scale::Share,
            8,
            vec![(
                format!("1 - ({}) / ({})", of(&FREE_BYTES), of(&SIZE_BYTES)),
                "{{cluster}} {{place}}",
            )],
        ),
        panel(
            "Full in",
            Kind::Lines,
            Scale::Seconds,
            8,
            vec![(of(&TIME_TO_FULL), "{{cluster}} {{place}}")],
        ),
    ]
}

/// What the server says of itself.
fn server() -> Vec<Panel> {
    vec![
        panel(
            "Connections",
            Kind::Lines,
            Scale::Number,
            8,
            vec![
                (of(&CONNECTIONS), ONE),
                (of(&CONNECTIONS_MAXIMUM), "{{cluster}} possible"),
            ],
        ),
        panel(
            "Longest transaction",
            Kind::Lines,
            Scale::Seconds,
            8,
            vec![(of(&LONGEST_TRANSACTION), ONE)],
        ),
        panel(
            "Deadlocks",
            Kind::Lines,
            Scale::Number,
            8,
            vec![(of(&DEADLOCKS), ONE)],
        ),
        panel(
            "Age of the oldest id",
            Kind::Lines,
            Scale::Number,
            8,
            vec![
                (of(&XID_AGE), "{{cluster}} transactions"),
                (of(&MULTIXACT_AGE), "{{cluster}} multixacts"),
            ],
        ),
        panel(
            "Lag of standbys",
            Kind::Lines,
            Scale::Seconds,
            8,
            vec![(of(&REPLICATION_LAG), "{{cluster}} {{standby}}")],
        ),
        panel(
            "WAL kept for slots",
            Kind::Lines,
            Scale::Bytes,
            8,
            vec![(of(&SLOT_RETAINED), "{{cluster}} {{slot}}")],
        ),
        panel(
            "Damaged pages met",
            Kind::Stat,
            Scale::None,
            12,
            vec![(of(&CHECKSUM_FAILURES), ONE)],
        ),
        panel(
            "Indexes in an outdated order",
            Kind::Stat,
            Scale::None,
            12,
            vec![(of(&COLLATION_OUTDATED), ONE)],
        ),
    ]
}

/// Databases that are declared, and their dumps.
fn databases() -> Vec<Panel> {
    vec![
        panel(
            "Declared databases",
            Kind::Stat,
            Scale::Number,
            6,
            vec![
                (of(&DATABASES), "{{cluster}} declared"),
                (of(&DATABASES_PROVISIONED), "{{cluster}} as declared"),
            ],
        ),
        panel(
            "Not as declared",
            Kind::Stat,
            Scale::None,
            6,
            vec![(of(&DATABASES_FAILED), ONE)],
        ),
        panel(
            "Last as declared, ago",
            Kind::Stat,
            Scale::Seconds,
            6,
            vec![
                (ago(&DATABASES_PROVISIONED_AT), ONE),
                (ago(&DATABASES_LAST_RUN), "{{cluster}} last try"),
            ],
        ),
        panel(
            "Declaration",
            Kind::Stat,
            Scale::Number,
            6,
            vec![(of(&DATABASES_HASH), "{{cluster}} {{hash}}")],
        ),
        panel(
            "Each database",
            Kind::States,
            Scale::Truth,
            24,
            vec![(of(&DATABASE_PROVISIONED), "{{cluster}} {{database}}")],
        ),
        panel(
            "Last dump",
            Kind::Stat,
            Scale::Truth,
            8,
            vec![(of(&DUMP_LAST_RUN_SUCCESS), "{{cluster}} {{database}}")],
        ),
        panel(
            "Age of the newest dump",
            Kind::Lines,
            Scale::Seconds,
            8,
            vec![
                (ago(&DUMP_LAST_SUCCESS), "{{cluster}} {{database}}"),
                (of(&DUMP_MAXIMUM_AGE), "{{cluster}} {{database}} limit"),
            ],
        ),
        panel(
            "Size of the newest dump",
            Kind::Lines,
            Scale::Bytes,
            8,
            vec![(of(&DUMP_SIZE), "{{cluster}} {{database}}")],
        ),
    ]
}

/// The expression of every panel.
#[must_use]
pub fn expressions() -> Vec<String> {
    let mut expressions: Vec<String> = rows()
        .into_iter()
        .flat_map(|(_, panels)| panels)
        .flat_map(|panel| panel.targets)
        .map(|(expression, _)| expression)
        .collect();
    expressions.push(instances());
    expressions
}

/// What the choice of instances is made from.
fn instances() -> String {
    named(HEALTH.name)
}

/// The board as Grafana imports it.
#[must_use]
pub fn board() -> Value {
    let mut panels = Vec::new();
    let mut top = 0;
    for (title, row) in rows() {
        panels.push(json!({
            "type": "row",
            "title": title,
            "collapsed": false,
            "gridPos": { "h": 1, "w": WIDTH, "x": 0, "y": top },
            "panels": [],
        }));
        top += 1;
        let mut left = 0;
        let mut height = 0;
        for panel in row {
            if left + panel.width > WIDTH {
                top += height;
                (left, height) = (0, 0);
            }
            panels.push(panel.as_json(left, top));
            left += panel.width;
            height = height.max(panel.height());
        }
        top += height;
    }
    for (number, panel) in panels.iter_mut().enumerate() {
        panel["id"] = json!(number + 1);
    }
    json!({
        "title": "PostgreSQL: can it be brought back?",
        "uid": "backstay",
        "tags": ["postgresql", "backup"],
        "schemaVersion": 38,
        "editable": true,
        "graphTooltip": 1,
        "refresh": "1m",
        "time": { "from": "now-2d", "to": "now" },
        "timezone": "",
        "annotations": { "list": [] },
        "templating": { "list": [
            {
                "name": "datasource",
                "label": "Prometheus",
                "type": "datasource",
                "query": "prometheus",
            },
            {
                "name": "instance",
                "label": "Instance",
                "type": "query",
                "datasource": { "type": "prometheus", "uid": "${datasource}" },
                "query": { "query": format!("query_result({})", instances()), "refId": "instances" },
                "regex": "/cluster=\"([^\"]+)\"/",
                "refresh": 2,
                "sort": 1,
                "multi": true,
                "includeAll": true,
                "allValue": ".+",
                "current": { "text": "All", "value": "$__all" },
            },
        ] },
        "panels": panels,
    })
}

impl Panel {
    fn height(&self) -> u32 {
        match self.kind {
            Kind::Stat => 4,
            Kind::Lines => 7,
            Kind::States => 8,
        }
    }

    fn as_json(&self, left: u32, top: u32) -> Value {
        let targets: Vec<Value> = self
            .targets
            .iter()
            .enumerate()
            .map(|(number, (expression, legend))| {
                json!({
                    "refId": format!("q{number}"),
                    "datasource": { "type": "prometheus", "uid": "${datasource}" },
                    "expr": expression,
                    "legendFormat": legend,
                    "instant": self.kind == Kind::Stat,
                    "range": self.kind != Kind::Stat,
                })
            })
            .collect();
        let (kind, options) = match self.kind {
            Kind::Stat => (
                "stat",
                json!({
                    "reduceOptions": { "calcs": ["lastNotNull"], "fields": "", "values": false },
                    "colorMode": self.scale.color_mode(),
                    "graphMode": "none",
                    "textMode": "value_and_name",
                }),
            ),
            Kind::Lines => (
                "timeseries",
                json!({
                    "legend": { "displayMode": "list", "placement": "bottom" },
                    "tooltip": { "mode": "multi", "sort": "desc" },
                }),
            ),
            Kind::States => (
                "state-timeline",
                json!({ "mergeValues": true, "showValue": "never", "rowHeight": 0.8 }),
            ),
        };
        json!({
            "type": kind,
            "title": self.title,
            "datasource": { "type": "prometheus", "uid": "${datasource}" },
            "gridPos": { "h": self.height(), "w": self.width, "x": left, "y": top },
            "fieldConfig": { "defaults": self.scale.defaults(), "overrides": [] },
            "options": options,
            "targets": targets,
        })
    }
}

impl Scale {
    fn color_mode(self) -> &'static str {
        match self {
            Self::Truth | Self::None | Self::Status => "background",
            Self::Seconds | Self::Bytes | Self::Number | Self::Share => "none",
        }
    }

    /// Grafana's unit, bounds, colours and words.
    fn defaults(self) -> Value {
        let mapped = |words: &[(&str, &str, &str)]| {
            let options: serde_json::Map<String, Value> = words
                .iter()
                .enumerate()
                .map(|(index, (value, text, color))| {
                    (
                        (*value).to_owned(),
                        json!({ "text": text, "color": color, "index": index }),
                    )
                })
                .collect();
            json!([{ "type": "value", "options": options }])
        };
        match self {
            Self::Seconds => json!({ "unit": "s", "min": 0 }),
            Self::Bytes => json!({ "unit": "bytes", "min": 0 }),
            Self::Number => json!({ "unit": "short", "min": 0 }),
            Self::Share => json!({ "unit": "percentunit", "min": 0, "max": 1 }),
            Self::Truth => {
                json!({ "mappings": mapped(&[("1", "yes", "green"), ("0", "NO", "red")]) })
            }
            Self::None => json!({
                "unit": "short",
                "thresholds": { "mode": "absolute", "steps": [
                    { "color": "green", "value": null },
                    { "color": "red", "value": 1 },
                ] },
                "color": { "mode": "thresholds" },
            }),
            Self::Status => json!({ "mappings": mapped(&[
                ("0", "ok", "green"),
                ("1", "warning", "yellow"),
                ("2", "CRITICAL", "red"),
                ("3", "unknown", "purple"),
            ]) }),
        }
    }
}
