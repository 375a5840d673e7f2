//! Judging what was seen. Pure: nothing here touches the server, a file or the clock.

mod archiving;
mod backups;
mod copies;
mod drill;
mod durability;
mod replicas;
mod server;
mod storage;

use settings::{ReplicaContent, Settings};
use wal::Lsn;

use crate::finding::{Check, Severity, Verdict};
use crate::history::History;
use crate::seen::{Archive, Instance, Live, Mounted, Server, Unseen};

/// What is measured on the way, for the metrics.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measured {
    /// WAL files that a restore would need and that are nowhere; nothing if that is not known.
    pub missing_files: Option<u64>,
    /// For how long the oldest known change has not been in the archive.
    pub exposure_seconds: Option<f64>,
    /// For how long the oldest known change has not been in any repository off-site.
    pub offsite_seconds: Option<f64>,
    /// For how long the oldest known change has not been in a repository off-site, by its name.
    pub offsite_exposure_seconds: Vec<(String, f64)>,
    /// The earliest moment that can be restored.
    pub window_start: Option<f64>,
    /// Indexes that were built with another collation.
    pub outdated_indexes: Option<usize>,
    /// The age of the newest snapshot of each replica.
    pub replica_age_seconds: Vec<(ReplicaContent, f64)>,
    /// When each place is full.
    pub seconds_to_full: Vec<(String, f64)>,
}

/// Judges what was seen by what was declared and by what `history` knows, which has what was seen in it
/// already.
pub fn judge(seen: &Instance, settings: &Settings, history: &History) -> (Verdict, Measured) {
    let mut judge = Judge {
        seen,
        settings,
        history,
        verdict: Verdict::default(),
        measured: Measured::default(),
    };
    judge.mounts();
    judge.durability();
    judge.server();
    judge.archive();
    judge.base_backups();
    judge.off_site();
    judge.replicas();
    judge.recovery_time();
    judge.drill();
    judge.storage();
    (judge.verdict, judge.measured)
}

/// A judgement that is being made.
struct Judge<'a> {
    seen: &'a Instance,
    settings: &'a Settings,
    history: &'a History,
    verdict: Verdict,
    measured: Measured,
}

impl Judge<'_> {
    fn critical(&mut self, check: Check, what: impl Into<String>, hint: impl Into<String>) {
        self.verdict.found(check, Severity::Critical, what, hint);
    }

    fn warning(&mut self, check: Check, what: impl Into<String>, hint: impl Into<String>) {
        self.verdict.found(check, Severity::Warning, what, hint);
    }

    /// Notes that something could not be looked at.
    fn unknown(&mut self, check: Check, unseen: &Unseen, hint: &str) {
        self.verdict.found(
            check,
            Severity::Unknown,
            unseen.why.clone(),
            unseen.hint.as_deref().unwrap_or(hint),
        );
    }

    fn mounts(&mut self) {
        let seen = self.seen;
        if seen.mounts.is_empty() {
            return;
        }
        self.verdict.checked(Check::Mounts);
        for (path, mounted) in &seen.mounts {
            let path = path.display();
            match mounted {
                Ok(Mounted::Yes) => {}
                Ok(Mounted::ReadOnly) => self.critical(
                    Check::Mounts,
                    format!("the file system at \"{path}\" takes no changes: it is mounted read-only"),
                    "zfs get readonly, and dmesg, say whether somebody or a failing disk did that; on ZFS: zfs set readonly=off DATASET",
                ),
                Ok(Mounted::No) => self.critical(
                    Check::Mounts,
                    format!("nothing is mounted at \"{path}\""),
                    "mount it before anything else: what is written there now will be hidden",
                ),
                Ok(Mounted::Hidden { seen, hidden }) => self.critical(
                    Check::Mounts,
                    format!("at \"{path}\", \"{seen}\" is mounted over \"{hidden}\""),
                    "find out which of the two has the data, stop the server and unmount the other",
                ),
                // A directory that is not there has nothing mounted on it.
                Err(unseen) => self.verdict.found(
                    Check::Mounts,
                    Severity::Critical,
                    unseen.why.clone(),
                    "mount it before anything else",
                ),
            }
        }
    }
}

/// The server, if it answers.
fn live(seen: &Instance) -> Option<&Live> {
    match &seen.server {
        Server::Up(live) => Some(live),
        Server::Mute(_) | Server::NotYet { .. } | Server::Down(_) => None,
    }
}

/// Up to where the archive has the WAL of the server's timeline.
fn archived_end(archive: &Archive, live: &Live) -> Lsn {
    let size = archive.contents.segment_size;
    archive
        .contents
        .segments
        .iter()
        .rfind(|segment| segment.timeline() == live.timeline)
        .map_or(Lsn(0), |segment| segment.end(size))
}

/// Says a time span as a person would.
#[must_use]
pub fn span(seconds: f64) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "cut off below, and no span is longer than the age of the universe"
    )]
    let seconds = seconds.max(0.0).round() as u64;
    match seconds {
        0..120 => format!("{seconds} seconds"),
        120..7200 => format!("{} minutes", seconds / 60),
        7200..172_800 => format!("{} hours", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// Says a number of bytes as a person would.
#[must_use]
pub fn bytes(bytes: u64) -> String {
    match bytes {
        0..10_485_760 => format!("{} KiB", bytes >> 10),
        10_485_760..10_737_418_240 => format!("{} MiB", bytes >> 20),
        _ => format!("{} GiB", bytes >> 30),
    }
}

#[cfg(test)]
pub mod tests;
