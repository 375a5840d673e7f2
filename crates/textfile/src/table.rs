//! Every metric that any of our programs writes: the one source for names, labels, units and help.
//!
//! This module is pure. The reference is generated from it, and a rule or a panel that names a series
//! has to find it here.
//!
//! Every metric is a gauge. The textfile collector's parser knows an older form than `OpenMetrics`: it
//! refuses `info`, with the whole file, and takes the `_total` of an `OpenMetrics` counter for another
//! name. So build information would be a gauge of value 1, and what only grows is a gauge too.
//!
//! Every metric has the label `instance`. Prometheus renames it to `exported_instance` unless it is
//! told to honour labels.

use std::fmt;

/// A program that writes metrics, and the name of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Writer {
    /// `pg-healthcheck`.
    Health,
    /// `pg-base-backup`.
    Backup,
    /// `pg-base-backup --method snapshot`.
    Snapshot,
    /// `pg-prune`.
    Prune,
    /// `pg-provision`.
    Databases,
    /// `pg-dump-database`, with a file for each database.
    Dump,
    /// `pg-drill`.
    RestoreDrill,
    /// `pg-preseed`.
    Preseed,
}

impl Writer {
    /// Every writer.
    pub const ALL: [Self; 8] = [
        Self::Health,
        Self::Backup,
        Self::Snapshot,
        Self::Prune,
        Self::Databases,
        Self::Dump,
        Self::RestoreDrill,
        Self::Preseed,
    ];

    /// Its word in the names of its files: `health` in `postgresql_health_main.prom`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Health => "health",
            Self::Backup => "backup",
            Self::Snapshot => "snapshot",
            Self::Prune => "prune",
            Self::Databases => "databases",
            Self::Dump => "dump",
            Self::RestoreDrill => "restore_drill",
            Self::Preseed => "preseed",
        }
    }

    /// The program.
    #[must_use]
    pub fn program(self) -> &'static str {
        match self {
            Self::Health => "pg-healthcheck",
            Self::Backup | Self::Snapshot => "pg-base-backup",
            Self::Prune => "pg-prune",
            Self::Databases => "pg-provision",
            Self::Dump => "pg-dump-database",
            Self::RestoreDrill => "pg-drill",
            Self::Preseed => "pg-preseed",
        }
    }

    /// When the program writes.
    #[must_use]
    pub fn when(self) -> &'static str {
        match self {
            Self::Health => "at every check",
            Self::Backup | Self::Prune | Self::Databases | Self::Dump | Self::RestoreDrill => {
                "at the end of every run"
            }
            Self::Snapshot => "at the end of every run with `--method snapshot`",
            Self::Preseed => "when it begins to fill a data directory, and at the end of that",
        }
    }
}

/// What a value is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A moment, in seconds since 1970-01-01 00:00 UTC. A rule computes the age, so that it grows
    /// even when the writer is dead.
    Timestamp,
    /// A time span in seconds.
    Seconds,
    /// Bytes.
    Bytes,
    /// A number of things.
    Number,
    /// 1 for yes, 0 for no.
    Truth,
    /// An exit status of `pg-healthcheck`: 0 is well, 1 a warning, 2 critical, 3 cannot say.
    Status,
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Timestamp => "Unix time in seconds",
            Self::Seconds => "seconds",
            Self::Bytes => "bytes",
            Self::Number => "number",
            Self::Truth => "1 or 0",
            Self::Status => "0 to 3",
        })
    }
}

/// One metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// Who writes it.
    pub writer: Writer,
    /// Its labels beside `instance`, in the order in which values are given.
    pub labels: &'static [&'static str],
    /// What its value is counted in.
    pub unit: Unit,
    /// What it says, in one sentence without a period.
    pub help: &'static str,
}

impl fmt::Display for Metric {
    /// Writes the name, as a rule or a panel has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

macro_rules! metrics {
    ($($writer:ident { $($constant:ident = $name:literal [$($label:literal),*] $unit:ident, $help:literal;)* })*) => {
        $($(
            #[doc = concat!("`", $name, "`: ", $help, ".")]
            pub const $constant: Metric = Metric {
                name: $name,
                writer: Writer::$writer,
                labels: &[$($label),*],
                unit: Unit::$unit,
                help: $help,
            };
        )*)*

        /// Every metric that there is, by writer.
        pub const METRICS: &[Metric] = &[$($($constant),*),*];
    };
}

metrics! {
    Health {
        HEALTH = "postgresql_health" [] Truth,
            "Whether no check found anything critical, and every check could be made";
        HEALTH_STATUS = "postgresql_health_status" [] Status,
            "Exit status of the last check as a whole";
        HEALTH_LAST_CHECK = "postgresql_health_last_check_timestamp" [] Timestamp,
            "When the last check ended";
        HEALTH_CHECK_STATUS = "postgresql_health_check_status" ["check"] Status,
            "What one check came to";
        UP = "postgresql_up" [] Truth,
            "Whether the server answers";
        IN_RECOVERY = "postgresql_in_recovery" [] Truth,
            "Whether the server is replaying WAL";
        CONNECTIONS = "postgresql_connections" [] Number,
            "Connections in use";
        CONNECTIONS_MAXIMUM = "postgresql_connections_maximum" [] Number,
            "Connections that the server allows";
        LONGEST_TRANSACTION = "postgresql_longest_transaction_seconds" [] Seconds,
            "Age of the oldest open or prepared transaction, 0 if there is none";
        DEADLOCKS = "postgresql_deadlocks" [] Number,
            "Deadlocks since the server's statistics were reset";
        XID_AGE = "postgresql_transaction_id_age" [] Number,
            "Age of the oldest transaction id that is not frozen; the server stops short of 2147483648";
        MULTIXACT_AGE = "postgresql_multixact_id_age" [] Number,
            "Age of the oldest multixact id that is not frozen; the server stops short of 2147483648";
        CHECKSUM_FAILURES = "postgresql_checksum_failures" [] Number,
            "Damaged pages that the server has met since its statistics were reset";
        COLLATION_OUTDATED = "postgresql_collation_outdated_indexes" [] Number,
            "Indexes that were built with another version of a collation than there is now";
        REPLICATION_LAG = "postgresql_replication_lag_seconds" ["standby"] Seconds,
            "How far a connected standby is behind";
        SLOT_RETAINED = "postgresql_replication_slot_retained_bytes" ["slot"] Bytes,
            "WAL that the server keeps for a replication slot";
        WAL_FILES_PRESENT = "postgresql_wal_archive_files_present" [] Number,
            "Files in the WAL archive of the present cluster";
        WAL_BYTES = "postgresql_wal_archive_size_bytes" [] Bytes,
            "What these files take, as they are stored";
        WAL_LAST_SUCCESS = "postgresql_wal_archive_last_success_timestamp" [] Timestamp,
            "When the server last saw a WAL file archived";
        WAL_FAILURES = "postgresql_wal_archive_failures" [] Number,
            "Failures of archive_command that the server has counted; a death by signal is not counted";
        WAL_WAITING = "postgresql_wal_archive_waiting_files" [] Number,
            "WAL files that wait to be archived";
        WAL_WAITING_SINCE = "postgresql_wal_archive_waiting_since_timestamp" [] Timestamp,
            "Since when the one of them waits that waits longest; absent if none does";
        WAL_MISSING = "postgresql_wal_archive_missing_files" [] Number,
            "WAL files that a restore within the retention would need and the archive does not hold";
        WAL_NOT_ARCHIVED = "postgresql_wal_archive_exposure_seconds" [] Seconds,
            "Age of the oldest known change that is not in the archive, 0 if there is none";
        OFFSITE_EXPOSURE = "postgresql_offsite_exposure_seconds" ["repository"] Seconds,
            "Age of the oldest known change that is not in the copy of the archive in this repository, 0 if there is none";
        OFFSITE_LAST_SUCCESS = "postgresql_offsite_last_success_timestamp" ["repository", "content"] Timestamp,
            "When the last good copy of the archive (wal) or of the base backups (base) into this repository began";
        REPLICA_AGE = "postgresql_replica_age_seconds" ["content"] Seconds,
            "Age of the newest snapshot that the replica of the data (data) or of the archive (wal) had when it answered last; before the first, the age of the instance";
        WINDOW_START = "postgresql_recovery_window_start_timestamp" [] Timestamp,
            "The earliest moment that can be restored; absent if none can";
        OBJECTIVE = "postgresql_objective_seconds" ["objective"] Seconds,
            "What was declared as rpo, offsite-rpo or rto";
        INSTANCE_SINCE = "postgresql_instance_since_timestamp" [] Timestamp,
            "Since when this host has had this cluster; absent if that is not known";
        MAXIMUM_AGE = "postgresql_maximum_age_seconds" ["of"] Seconds,
            "How old the newest check, base-backup, prune, drill or snapshot of a replica may get; absent for what is not declared";
        DUMP_MAXIMUM_AGE = "postgresql_dump_maximum_age_seconds" ["database"] Seconds,
            "How old the newest dump of this database may get; absent if that is not declared";
        FREE_BYTES = "postgresql_storage_free_bytes" ["place"] Bytes,
            "What the instance may still write where its data, its WAL, its archive or its base backups are";
        SIZE_BYTES = "postgresql_storage_size_bytes" ["place"] Bytes,
            "Size of that file system";
        TIME_TO_FULL = "postgresql_storage_time_to_full_seconds" ["place"] Seconds,
            "When that file system is full if it goes on like this; absent if it does not fill";
    }
    Backup {
        BACKUP_LAST_SUCCESS = "postgresql_backup_last_success_timestamp" ["type"] Timestamp,
            "When the newest good base backup ended; a run that fails leaves it as it is";
        BACKUP_SIZE = "postgresql_backup_size_bytes" ["type"] Bytes,
            "Content of the newest good base backup";
        BACKUP_STORED = "postgresql_backup_stored_bytes" ["type"] Bytes,
            "What the newest good base backup takes, as it is stored";
        BACKUP_DURATION = "postgresql_backup_duration_seconds" ["type"] Seconds,
            "How long the newest good base backup took, verified and with its WAL archived";
        BACKUP_COUNT = "postgresql_backup_count" ["type"] Number,
            "Good base backups that there are";
        BACKUP_LAST_RUN = "postgresql_backup_last_run_timestamp" ["type"] Timestamp,
            "When pg-base-backup last ended, well or not";
        BACKUP_LAST_RUN_SUCCESS = "postgresql_backup_last_run_success" ["type"] Truth,
            "Whether that run took a base backup";
    }
    Snapshot {
        SNAPSHOT_LAST_SUCCESS = "postgresql_snapshot_last_success_timestamp" [] Timestamp,
            "When the newest good snapshot of our own was taken; a run that fails leaves it as it is";
        SNAPSHOT_COUNT = "postgresql_snapshot_count" [] Number,
            "Good snapshots of our own that there are";
        SNAPSHOT_LAST_RUN = "postgresql_snapshot_last_run_timestamp" [] Timestamp,
            "When pg-base-backup --method snapshot last ended, well or not";
        SNAPSHOT_LAST_RUN_SUCCESS = "postgresql_snapshot_last_run_success" [] Truth,
            "Whether that run took a snapshot";
    }
    Prune {
        PRUNE_LAST_RUN = "postgresql_prune_last_run_timestamp" [] Timestamp,
            "When pg-prune last ended, well or not";
        PRUNE_LAST_RUN_SUCCESS = "postgresql_prune_last_run_success" [] Truth,
            "Whether that run did what it had planned";
        PRUNE_REMOVED_BACKUPS = "postgresql_prune_removed_base_backups" [] Number,
            "Base backups that the last run removed; absent if it failed";
        PRUNE_REMOVED_WAL = "postgresql_prune_removed_wal_files" [] Number,
            "WAL files that the last run removed; absent if it failed";
    }
    Databases {
        DATABASES = "postgresql_databases_total" [] Number,
            "Databases that are declared";
        DATABASES_PROVISIONED = "postgresql_databases_provisioned_count" [] Number,
            "Declared databases that are as declared";
        DATABASES_FAILED = "postgresql_databases_failed" [] Number,
            "Declared databases that could not be brought to their declared state";
        DATABASES_PROVISIONED_AT = "postgresql_databases_provisioned_timestamp" [] Timestamp,
            "When every database was last as declared";
        DATABASES_HASH = "postgresql_databases_provisioned_hash" ["hash"] Truth,
            "1, for the hash of the declaration that was last brought about";
        DATABASES_LAST_RUN = "postgresql_databases_last_run_timestamp" [] Timestamp,
            "When pg-provision last ended, well or not";
        DATABASE_PROVISIONED = "postgresql_database_provisioned" ["database"] Truth,
            "Whether this database is as declared";
    }
    Dump {
        DUMP_LAST_SUCCESS = "postgresql_dump_last_success_timestamp" ["database"] Timestamp,
            "When the newest good dump of this database ended";
        DUMP_SIZE = "postgresql_dump_size_bytes" ["database"] Bytes,
            "Size of that dump";
        DUMP_LAST_RUN_SUCCESS = "postgresql_dump_last_run_success" ["database"] Truth,
            "Whether the last run of pg-dump-database made a dump";
    }
    RestoreDrill {
        DRILL_LAST_SUCCESS = "postgresql_restore_drill_last_success_timestamp" [] Timestamp,
            "When the last restore drill that succeeded ended; a run that fails leaves it as it is";
        DRILL_LAST_RUN = "postgresql_restore_drill_last_run_timestamp" [] Timestamp,
            "When pg-drill last ended, well or not";
        DRILL_LAST_RUN_SUCCESS = "postgresql_restore_drill_last_run_success" [] Truth,
            "Whether that run restored everything and found it right";
        DRILL_FAILURE = "postgresql_restore_drill_failure" ["reason"] Truth,
            "1, for the reason for which that run failed; absent if it did not";
        DRILL_DURATION = "postgresql_restore_drill_duration_seconds" [] Seconds,
            "How long that run took, with everything that was looked at";
        DRILL_RECOVERY = "postgresql_restore_drill_recovery_seconds" [] Seconds,
            "Time from the start of the restore until the copy answered; absent if it did not";
        DRILL_RESTORED = "postgresql_restore_drill_restored_bytes" [] Bytes,
            "Content of the base backup that was restored; absent if none was";
        DRILL_TARGET = "postgresql_restore_drill_target_timestamp" [] Timestamp,
            "The moment that was restored; absent if there was none";
        DRILL_EXACT = "postgresql_restore_drill_canary_checked" [] Truth,
            "Whether the canary has shown that the restore ended at the right transaction";
        DRILL_RELATIONS = "postgresql_restore_drill_relations_checked" [] Truth,
            "Whether pg_amcheck has found tables and indexes sound";
    }
    Preseed {
        PRESEED_STATUS = "postgresql_preseed_status" ["source"] Truth,
            "1 for the source that the data directory was filled from, or for empty if the server may start without data; 0 for none while nothing has come of it";
        PRESEED_LAST_DURATION = "postgresql_preseed_last_duration_seconds" [] Seconds,
            "How long the last run took that had something to do; absent while it runs";
        PRESEED_LAST_COMPLETION = "postgresql_preseed_last_completion_timestamp" [] Timestamp,
            "When the last run ended that filled the data directory, or proved that there is nothing to fill it with";
        PRESEED_RESTORED = "postgresql_preseed_restored_bytes" [] Bytes,
            "Content of what was restored; absent if nothing was";
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_metric_has_a_name_of_its_own_in_the_exporters_alphabet() {
        let mut names = BTreeSet::new();
        for metric in METRICS {
            let name = metric.name;
            assert!(names.insert(name), "{name} is there twice");
            assert!(name.starts_with("postgresql_"), "{name}");
            let plain = |text: &str| text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
            assert!(plain(name), "{name}");
            for label in metric.labels {
                assert!(plain(label) && *label != "instance", "{name}: {label}");
            }
        }
    }

    #[test]
    fn a_name_ends_in_its_unit() {
        for metric in METRICS {
            let name = metric.name;
            match metric.unit {
                Unit::Timestamp => assert!(name.ends_with("_timestamp"), "{name}"),
                Unit::Seconds => assert!(name.ends_with("_seconds"), "{name}"),
                Unit::Bytes => assert!(name.ends_with("_bytes"), "{name}"),
                Unit::Number | Unit::Truth | Unit::Status => {
                    for suffix in ["_timestamp", "_seconds", "_bytes"] {
                        assert!(!name.ends_with(suffix), "{name}");
                    }
                }
            }
        }
    }

    #[test]
    fn help_is_one_line_that_needs_no_escaping() {
        for metric in METRICS {
            assert!(
                !metric.help.is_empty() && !metric.help.contains(['\n', '\\']),
                "{}",
                metric.name
            );
            assert!(!metric.help.ends_with('.'), "{}", metric.name);
        }
    }

    #[test]
    fn every_writer_has_a_metric_and_a_word_of_its_own() {
        let words: BTreeSet<_> = Writer::ALL.iter().map(|writer| writer.word()).collect();
        assert_eq!(words.len(), Writer::ALL.len());
        for writer in Writer::ALL {
            assert!(METRICS.iter().any(|metric| metric.writer == writer));
        }
    }
}
