//! The server: whether it answers, and what it says.

use super::{Judge, bytes, span};
use crate::finding::{Check, Finding, Severity};
use crate::history::HOUR;
use crate::seen::{Live, Server};

impl Judge<'_> {
    pub(super) fn server(&mut self) {
        self.verdict.checked(Check::Server);
        let seen = self.seen;
        let unit = self.settings.postgresql.unit.as_deref();
        match &seen.server {
            Server::Up(live) => self.live(live),
            Server::Mute(unseen) => self.unknown(
                Check::Server,
                unseen,
                "the server answers, but not to this role; see its log",
            ),
            // A restore that reads its WAL is at work; so is a standby that catches up.
            Server::NotYet { signalled: true } => {}
            Server::NotYet { signalled: false } => self.warning(
                Check::Server,
                "the server is starting, stopping or recovering from a crash, and lets nobody in",
                "if it stays like this, its log says what it waits for",
            ),
            Server::Down(unseen) => {
                let hint = unit.map_or_else(
                    || "see the server's log, then start it".to_owned(),
                    |unit| format!("journalctl --unit {unit} says why; systemctl start {unit}"),
                );
                self.critical(Check::Server, unseen.why.clone(), hint);
            }
        }
    }

    fn live(&mut self, live: &Live) {
        self.recovery(live);
        self.connections(live);
        self.transactions(live);
        self.transaction_ids(live);
        self.checksums(live);
        self.collations(live);
        self.slots(live);
        if self.settings.health_check.check_replication_lag {
            self.replication(live);
        }
    }

    fn recovery(&mut self, live: &Live) {
        let Some(recovery) = live.recovery else {
            return;
        };
        if recovery.paused {
            self.critical(
                Check::Server,
                "the server has stopped replaying WAL and waits: nothing can be written",
                "look whether this is the state that was wanted, then: select pg_wal_replay_resume();",
            );
        } else if !recovery.standby && !recovery.targeted {
            self.critical(
                Check::Server,
                "the server is in recovery, and no signal file says that it should be",
                "if it is to take writes: select pg_promote();",
            );
        }
    }

    fn connections(&mut self, live: &Live) {
        self.verdict.checked(Check::Connections);
        let (used, possible) = live.connections;
        let limit = i64::from(self.settings.health_check.maximum_connections_percent);
        if used.saturating_mul(100) > possible.saturating_mul(limit) {
            self.critical(
                Check::Connections,
                format!("{used} of {possible} connections are in use"),
                "find who holds them in pg_stat_activity, raise max_connections, or put a pool before it",
            );
        }
    }

    fn transactions(&mut self, live: &Live) {
        self.verdict.checked(Check::Transactions);
        self.verdict.checked(Check::Deadlocks);
        let health = &self.settings.health_check;
        if let Some((seconds, what)) = &live.oldest_transaction
            && *seconds > f64::from(health.maximum_transaction_seconds)
        {
            let hint = if what.starts_with("prepared") {
                "it keeps rows and locks until it is committed or rolled back: commit prepared, or rollback prepared, with its name"
            } else {
                "it keeps rows and locks; end it with select pg_terminate_backend(…) if nobody needs it"
            };
            self.warning(
                Check::Transactions,
                format!("{what} has been open for {}", span(*seconds)),
                hint,
            );
        }
        let deadlocks = self.history.deadlocks_in_an_hour(live, self.seen.now);
        if deadlocks > i64::from(health.maximum_deadlocks_per_hour) {
            self.warning(
                Check::Deadlocks,
                format!("there were {deadlocks} deadlocks within {}", span(HOUR)),
                "the server's log names the statements; applications have to lock rows in one order",
            );
        }
    }

    fn transaction_ids(&mut self, live: &Live) {
        /// `vacuum_failsafe_age` and `vacuum_multixact_failsafe_age`, as PostgreSQL has them: from here
        /// on it drops everything else to freeze.
        const FAILSAFE: i64 = 1_600_000_000;
        self.verdict.checked(Check::TransactionIds);
        let warning = i64::from(self.settings.health_check.maximum_transaction_id_age);
        for (what, database, age) in live.ages.iter().flat_map(|(database, xid, multixact)| {
            [
                ("transaction id", database, *xid),
                ("multixact id", database, *multixact),
            ]
        }) {
            if age <= warning {
                continue;
            }
            let what = format!(
                "the oldest {what} of database \"{database}\" is {age} transactions old; the server stops short of 2147483648"
            );
            let hint = format!(
                "look for old transactions, prepared transactions and slots, then: vacuumdb --freeze --dbname {database}"
            );
            if age >= FAILSAFE {
                self.critical(Check::TransactionIds, what, hint);
            } else {
                self.warning(Check::TransactionIds, what, hint);
            }
        }
    }

    fn checksums(&mut self, live: &Live) {
        self.verdict.checked(Check::Checksums);
        for (database, failures) in &live.checksum_failures {
            let place = if database.is_empty() {
                "the relations that all databases share".to_owned()
            } else {
                format!("database \"{database}\"")
            };
            self.critical(
                Check::Checksums,
                format!("{failures} damaged pages were met in {place}"),
                "the disk or the memory is failing: the server's log names the files; restore, then select pg_stat_reset() there",
            );
        }
    }

    fn collations(&mut self, live: &Live) {
        self.verdict.checked(Check::Collations);
        let mut outdated = 0;
        for (database, drift) in &live.collations {
            match drift {
                Ok(drift) if drift.statements.is_empty() => {}
                Ok(drift) => {
                    outdated += drift.indexes;
                    self.verdict.add(Finding {
                        check: Check::Collations,
                        severity: Severity::Critical,
                        what: format!(
                            "database \"{database}\" has {} indexes in an order of text that has changed ({})",
                            drift.indexes,
                            drift.collations.join("; ")
                        ),
                        hint: format!(
                            "queries can miss rows, and unique indexes let doubles in; in psql --dbname {database}:"
                        ),
                        commands: drift.statements.clone(),
                    });
                }
                Err(unseen) => self.unknown(
                    Check::Collations,
                    unseen,
                    "each database is asked by itself; may this role connect to it?",
                ),
            }
        }
        self.measured.outdated_indexes = Some(outdated);
    }

    fn slots(&mut self, live: &Live) {
        self.verdict.checked(Check::Slots);
        for slot in &live.slots {
            let name = &slot.name;
            let retained = bytes(slot.retained_bytes);
            let drop = format!(
                "bring back who uses it, or: select pg_drop_replication_slot('{}');",
                name.replace('\'', "''")
            );
            if slot.status == "lost" {
                self.critical(
                    Check::Slots,
                    format!("replication slot \"{name}\" has lost WAL that it needed"),
                    "whoever used it has to begin anew; then drop the slot",
                );
            } else if slot.retained_bytes > self.settings.health_check.maximum_slot_bytes {
                if slot.active {
                    self.warning(
                        Check::Slots,
                        format!("replication slot \"{name}\" is behind: the server keeps {retained} of WAL for it"),
                        "look at who uses it; pg_wal grows until it has caught up",
                    );
                } else {
                    self.critical(
                        Check::Slots,
                        format!("nobody uses replication slot \"{name}\", and the server keeps {retained} of WAL for it"),
                        drop,
                    );
                }
            }
        }
    }

    fn replication(&mut self, live: &Live) {
        self.verdict.checked(Check::Replication);
        let most = f64::from(self.settings.health_check.maximum_replication_lag_seconds);
        if let Some(recovery) = live.recovery {
            if recovery.standby && recovery.lag_seconds > most {
                self.critical(
                    Check::Replication,
                    format!("this standby is {} behind", span(recovery.lag_seconds)),
                    "is the primary reachable, and is the network fast enough?",
                );
            }
            return;
        }
        if live.standbys.is_empty() {
            self.critical(
                Check::Replication,
                "no standby is connected",
                "see the standby's log; without a standby, set healthCheck.checkReplicationLag to false",
            );
        }
        for (name, lag) in &live.standbys {
            if *lag > most {
                self.critical(
                    Check::Replication,
                    format!("standby \"{name}\" is {} behind", span(*lag)),
                    "look at its log, its disks and the network",
                );
            }
        }
    }
}
