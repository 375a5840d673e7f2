//! What a check comes to.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How bad something is, with the exit status that says so.
///
/// The statuses are those of monitoring plugins, which Nagios and its heirs understand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Severity {
    /// Nothing is wrong.
    Ok,
    /// Look this week.
    Warning,
    /// Look now.
    Critical,
    /// It could not be looked at.
    Unknown,
}

impl Severity {
    /// The exit status.
    #[must_use]
    pub fn status(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Warning => 1,
            Self::Critical => 2,
            Self::Unknown => 3,
        }
    }

    /// How much it counts beside others: what is known to be critical is worse than what is not known.
    fn weight(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Warning => 1,
            Self::Unknown => 2,
            Self::Critical => 3,
        }
    }

    /// The worse of two.
    #[must_use]
    pub fn or_worse(self, other: Self) -> Self {
        if other.weight() > self.weight() {
            other
        } else {
            self
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Critical => "critical",
            Self::Unknown => "unknown",
        })
    }
}

macro_rules! checks {
    ($($(#[doc = $doc:literal])* $name:ident = $word:literal),* $(,)?) => {
        /// What is looked at.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
        pub enum Check {
            $($(#[doc = $doc])* #[serde(rename = $word)] $name),*
        }

        impl Check {
            /// Every check, in order.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// Its name in output and metrics.
            #[must_use]
            pub fn word(self) -> &'static str {
                match self {
                    $(Self::$name => $word),*
                }
            }
        }
    };
}

checks! {
    /// The server answers, and is not in a recovery that nobody wants.
    Server = "server",
    /// What has to be mounted is, and hides nothing.
    Mounts = "mounts",
    /// What the server was told is durable is.
    Durability = "durability",
    /// The server hands its WAL over.
    Archiver = "archiver",
    /// The archive can be read and is this cluster's.
    Archive = "archive",
    /// Changes reach the archive in time.
    Freshness = "freshness",
    /// Nothing is missing in the archive.
    Continuity = "continuity",
    /// There is a good base backup that is young enough.
    BaseBackup = "base-backup",
    /// Copies off-site are as fresh as declared.
    OffSite = "off-site",
    /// Replicas of the datasets hold snapshots that are young enough.
    Replica = "replica",
    /// A restore takes as long as it may.
    RecoveryTime = "recovery-time",
    /// A restore was rehearsed not long ago, and the last rehearsal succeeded.
    Drill = "drill",
    /// Standbys keep up.
    Replication = "replication",
    /// Replication slots do not keep too much WAL.
    Slots = "slots",
    /// There is room.
    Storage = "storage",
    /// Transaction and multixact ids are frozen in time.
    TransactionIds = "transaction-ids",
    /// The server has met no damaged page.
    Checksums = "checksums",
    /// Indexes fit the operating system's order of text.
    Collations = "collations",
    /// No transaction is open for too long.
    Transactions = "transactions",
    /// Deadlocks are rare.
    Deadlocks = "deadlocks",
    /// Connections are left.
    Connections = "connections",
}

/// One thing that is wrong, or could not be looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// What was looked at.
    pub check: Check,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub hint: String,
    /// Commands or statements to type, if they can be told exactly.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<String>,
}

/// What all checks came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Every check that was made, in order.
    pub checked: Vec<Check>,
    /// What is wrong, in the order of the checks.
    pub findings: Vec<Finding>,
}

impl Verdict {
    /// Notes that `check` was made.
    pub fn checked(&mut self, check: Check) {
        if !self.checked.contains(&check) {
            self.checked.push(check);
            self.checked.sort_unstable();
        }
    }

    /// Notes something that is wrong.
    pub fn found(
        &mut self,
        check: Check,
        severity: Severity,
        what: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.add(Finding {
            check,
            severity,
            what: what.into(),
            hint: hint.into(),
            commands: Vec::new(),
        });
    }

    /// Notes something that is wrong.
    pub fn add(&mut self, finding: Finding) {
        self.checked(finding.check);
        self.findings.push(finding);
        self.findings.sort_by_key(|finding| finding.check);
    }

    /// What `check` came to.
    #[must_use]
    pub fn of(&self, check: Check) -> Severity {
        self.findings
            .iter()
            .filter(|finding| finding.check == check)
            .fold(Severity::Ok, |worst, finding| {
                worst.or_worse(finding.severity)
            })
    }

    /// What everything came to.
    #[must_use]
    pub fn severity(&self) -> Severity {
        self.findings.iter().fold(Severity::Ok, |worst, finding| {
            worst.or_worse(finding.severity)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_check_has_an_alert() {
        let words: Vec<&str> = Check::ALL.iter().map(|check| check.word()).collect();
        let alerts: Vec<&str> = alerts::checks().collect();
        assert_eq!(words, alerts, "see crates/alerts/src/checks.rs");
    }

    #[test]
    fn h14_the_exit_status_is_that_of_the_worst_finding() {
        use Severity::{Critical, Ok, Unknown, Warning};
        for (findings, status) in [
            (&[][..], 0),
            (&[Warning], 1),
            (&[Warning, Critical, Warning], 2),
            (&[Unknown], 3),
            (&[Warning, Unknown], 3),
            (&[Unknown, Critical], 2),
            (&[Ok], 0),
        ] {
            let mut verdict = Verdict::default();
            for severity in findings {
                verdict.found(Check::Server, *severity, "", "");
            }
            assert_eq!(verdict.severity().status(), status, "{findings:?}");
        }
    }
}
