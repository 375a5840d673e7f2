//! A rule for each check of `pg-healthcheck`, which knows the thresholds and says what it saw.

use textfile::table::HEALTH_CHECK_STATUS;

use crate::rule::{Case, Expected, Labels, Rule, Series, Severity};

/// What there is to say when a check is not well.
pub(crate) struct CheckRule {
    /// The check's word in output and metrics.
    pub word: &'static str,
    /// As it is given as a label in tests.
    labels: Labels,
    /// Name of the alert.
    alert: &'static str,
    /// Summary of what is to be looked at now, if the check can come to that.
    critical: Option<&'static str>,
    /// Summary of what is to be looked at this week, if the check can come to that.
    warning: Option<&'static str>,
    /// What can be lost.
    description: &'static str,
    /// What to type beside the check itself.
    command: &'static str,
}

macro_rules! checks {
    ($($word:literal $alert:literal $critical:expr, $warning:expr, $description:literal, $command:literal;)*) => {
        /// Every check, in the order of `pg-healthcheck`.
        pub(crate) const CHECKS: &[CheckRule] = &[$(CheckRule {
            word: $word,
            labels: &[("check", $word)],
            alert: $alert,
            critical: $critical,
            warning: $warning,
            description: $description,
            command: $command,
        }),*];
    };
}

checks! {
    "server" "PostgreSQLServer"
        Some("PostgreSQL instance {instance} does not answer"),
        Some("PostgreSQL instance {instance} lets nobody in"),
        "Applications cannot work. What is committed is safe on its disk and in the archive.",
        "systemctl status postgresql-{instance}.service; journalctl --unit postgresql-{instance}.service --since -1h";
    "mounts" "PostgreSQLMounts"
        Some("A file system of PostgreSQL instance {instance} is not mounted, or hides another"),
        None,
        "What is written now goes to the wrong disk, and is hidden when the right one is mounted.",
        "findmnt --submounts /var/lib/postgresql; systemctl status backstay-datasets.service";
    "durability" "PostgreSQLDurability"
        Some("A power cut would take back what PostgreSQL instance {instance} has committed"),
        None,
        "The server, or a file system below it, calls durable what is in memory only. Commits and archived WAL do not outlive a power cut.",
        "pg-healthcheck --config /etc/backstay/{instance}.json; zfs get -r sync; psql --command 'show fsync'";
    "archiver" "PostgreSQLArchiver"
        Some("PostgreSQL instance {instance} does not archive its WAL"),
        None,
        "Changes since the last archived file are on one disk only. WAL piles up in pg_wal until that disk is full, and then the server stops.",
        "backstay status {instance}; journalctl --unit postgresql-{instance}.service --grep archive --since -1h";
    "archive" "PostgreSQLArchive"
        Some("The WAL archive of PostgreSQL instance {instance} cannot be used"),
        None,
        "Nothing can be archived into it, and nothing restored from it.",
        "backstay windows {instance}; findmnt --target /var/lib/postgresql/{instance}-wal";
    "freshness" "PostgreSQLArchiveLag"
        Some("The archive of PostgreSQL instance {instance} is behind its objective"),
        Some("Changes of PostgreSQL instance {instance} may wait for ever to be archived"),
        "If the server's disk is lost now, more committed changes are lost than was declared.",
        "backstay status {instance}";
    "continuity" "PostgreSQLArchiveGap"
        Some("The WAL archive of PostgreSQL instance {instance} has a gap, and no restore can cross it"),
        Some("The WAL archive of PostgreSQL instance {instance} has a gap behind its newest base backup"),
        "Moments after the gap can be restored from a newer base backup only. The missing file may still be in pg_wal or in a copy of the archive.",
        "backstay windows {instance}; systemctl start postgresql-basebackup-{instance}.service";
    "base-backup" "PostgreSQLBaseBackup"
        Some("PostgreSQL instance {instance} has no base backup that is good and young enough"),
        None,
        "A restore takes longer, or reaches less far, than was declared; without any base backup nothing can be restored.",
        "backstay status {instance}; systemctl start postgresql-basebackup-{instance}.service; journalctl --unit postgresql-basebackup-{instance}.service --since -2d";
    "off-site" "PostgreSQLOffSite"
        Some("Copies of PostgreSQL instance {instance} off-site are behind what was declared"),
        Some("A copy of PostgreSQL instance {instance} off-site is behind, and another one is not"),
        "If the whole machine is lost now, more committed changes are lost than was declared.",
        "pg-healthcheck --config /etc/backstay/{instance}.json; systemctl list-timers --all 'restic-backups-postgresql-{instance}-*'; journalctl --unit 'restic-backups-postgresql-{instance}-*' --since -1d";
    "replica" "PostgreSQLReplica"
        Some("A replica of PostgreSQL instance {instance} holds no snapshot that is young enough"),
        None,
        "What was committed since its newest snapshot is lost with this host, unless it is copied in another way.",
        "pg-healthcheck --config /etc/backstay/{instance}.json; journalctl --unit 'syncoid-*' --unit 'postgresql-replica-{instance}-*' --since -1d; systemctl list-timers --all 'syncoid-*'";
    "recovery-time" "PostgreSQLRestoreTooSlow"
        None,
        Some("A restore of PostgreSQL instance {instance} takes longer than its objective"),
        "The last restore drill measured it. More frequent base backups leave less WAL to replay.",
        "backstay status {instance}; journalctl --unit postgresql-restore-drill-{instance}.service --since -8d";
    "drill" "PostgreSQLDrill"
        Some("A restore of PostgreSQL instance {instance} has not been rehearsed with success"),
        None,
        "A backup is a hope until it has been restored. As things are, a restore may not work.",
        "backstay status {instance}; journalctl --unit postgresql-restore-drill-{instance}.service --since -8d; systemctl start postgresql-restore-drill-{instance}.service";
    "replication" "PostgreSQLReplication"
        Some("A standby of PostgreSQL instance {instance} is missing or behind"),
        None,
        "A switch to the standby would lose what it has not received.",
        "psql --command 'select * from pg_stat_replication'; pg-healthcheck --config /etc/backstay/{instance}.json";
    "slots" "PostgreSQLReplicationSlot"
        Some("A replication slot of PostgreSQL instance {instance} that nobody uses keeps WAL, or has lost some"),
        Some("The user of a replication slot of PostgreSQL instance {instance} is behind"),
        "pg_wal grows for as long as the slot is there, until the disk is full and the server stops.",
        "psql --command 'select slot_name, active, wal_status, restart_lsn from pg_replication_slots'";
    "storage" "PostgreSQLStorage"
        Some("A disk of PostgreSQL instance {instance} is almost full"),
        Some("A disk of PostgreSQL instance {instance} is filling up"),
        "A full disk of the data or of pg_wal stops the server; a full archive fills pg_wal.",
        "pg-healthcheck --config /etc/backstay/{instance}.json; zfs list -o space; df --human-readable";
    "transaction-ids" "PostgreSQLTransactionIds"
        Some("PostgreSQL instance {instance} is running out of transaction ids"),
        Some("Old transaction ids of PostgreSQL instance {instance} are not frozen"),
        "Something keeps vacuum from freezing. At the end of the ids the server takes no more changes.",
        "pg-healthcheck --config /etc/backstay/{instance}.json; vacuumdb --all --freeze";
    "checksums" "PostgreSQLChecksums"
        Some("PostgreSQL instance {instance} has met damaged pages"),
        None,
        "A disk or memory is failing. Base backups taken since may hold the damage too, and older ones do not.",
        "pg-healthcheck --config /etc/backstay/{instance}.json; journalctl --unit postgresql-{instance}.service --grep 'verification failed'; backstay windows {instance}";
    "collations" "PostgreSQLCollations"
        Some("Indexes of PostgreSQL instance {instance} are in an order of text that has changed"),
        None,
        "Queries can miss rows, and unique indexes let doubles in, until the indexes are built anew. The check lists the statements.",
        "pg-healthcheck --config /etc/backstay/{instance}.json";
    "transactions" "PostgreSQLLongTransaction"
        None,
        Some("A transaction of PostgreSQL instance {instance} has been open for too long"),
        "It keeps locks, and keeps vacuum from removing dead rows.",
        "psql --command 'select pid, usename, state, xact_start, query from pg_stat_activity order by xact_start limit 5'";
    "deadlocks" "PostgreSQLDeadlocks"
        None,
        Some("PostgreSQL instance {instance} has had many deadlocks within an hour"),
        "Applications lock rows in different orders, and the server ends one of them each time.",
        "journalctl --unit postgresql-{instance}.service --grep deadlock --since -2h";
    "connections" "PostgreSQLConnections"
        Some("PostgreSQL instance {instance} is running out of connections"),
        None,
        "The next clients are turned away.",
        "psql --command 'select usename, application_name, state, count(*) from pg_stat_activity group by 1, 2, 3 order by 4 desc'";
}

impl CheckRule {
    /// The severities that the check can come to.
    pub(crate) fn severities(&self) -> impl Iterator<Item = Severity> + use<> {
        [
            self.warning.map(|_| Severity::Warning),
            self.critical.map(|_| Severity::Critical),
        ]
        .into_iter()
        .flatten()
    }

    fn rule(&self, severity: Severity, summary: &str) -> Rule {
        // A warning waits: most of what is one goes by itself.
        let (status, hold_minutes, values, other) = match severity {
            Severity::Warning => (1, 15, "1x40", "2x40"),
            Severity::Critical => (2, 2, "2x40", "1x40"),
        };
        let word = self.word;
        let series = |values| Series {
            metric: HEALTH_CHECK_STATUS.name,
            labels: self.labels,
            values,
        };
        let case = |what, series, expected| Case {
            what,
            series: vec![series],
            at_minutes: 20,
            expected,
        };
        let mut cases = vec![
            case(
                "the check says so",
                series(values),
                vec![Expected::of_instance(self.labels, "")],
            ),
            case("the check is well", series("0x40"), Vec::new()),
            case(
                "it was for a moment",
                series(if status == 1 {
                    "0x18 1x3 0x20"
                } else {
                    "0x18 2x1 0x20"
                }),
                Vec::new(),
            ),
        ];
        // The other severity of the same name fires instead, and is expected by its own rule.
        if self.severities().count() == 1 {
            cases.push(case(
                "it is of the other severity",
                series(other),
                Vec::new(),
            ));
        }
        Rule {
            name: self.alert,
            expression: format!("{HEALTH_CHECK_STATUS}{{check=\"{word}\"}} == {status}"),
            hold_minutes,
            severity,
            summary: summary.to_owned(),
            description: self.description.to_owned(),
            command: self.command.to_owned(),
            cases,
        }
    }
}

/// The rules about the checks.
pub(crate) fn rules() -> Vec<Rule> {
    CHECKS
        .iter()
        .flat_map(|check| {
            [
                (Severity::Critical, check.critical),
                (Severity::Warning, check.warning),
            ]
            .into_iter()
            .filter_map(move |(severity, summary)| Some(check.rule(severity, summary?)))
        })
        .collect()
}
