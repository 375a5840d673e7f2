//! The archive: whether WAL gets there, in time and without gaps.

use std::collections::BTreeSet;

use restore_plan::StartingPoint;
use wal::SegmentName;

use super::{Judge, archived_end, live, span};
use crate::finding::Check;
use crate::seen::{Archive, Archiving, Live, Waiting};

/// The server tries three times within seconds, then waits for up to a minute. What still waits after
/// this many seconds, with a failure since, has failed three times.
const FAILED_FOR_GOOD: f64 = 10.0;
/// The server starts its archiver again ten seconds after the last start, at the earliest.
const DIED_FOR_GOOD: f64 = 60.0;
/// How much longer than our own program's deadline a call may take before it counts as hanging.
const HANGS_BEYOND_DEADLINE: f64 = 60.0;
/// An archiver that was started this soon after the server has not died before.
const STARTED_WITH_SERVER: f64 = 5.0;
/// How many missing files are named.
const NAMED: usize = 3;
const DAY: f64 = 86_400.0;

impl Judge<'_> {
    pub(super) fn archive(&mut self) {
        self.archiver();
        let seen = self.seen;
        self.verdict.checked(Check::Archive);
        let archive = match &seen.archive {
            Ok(archive) => archive,
            Err(unseen) => {
                let hint = unseen.hint.clone();
                self.critical(
                    Check::Archive,
                    unseen.why.clone(),
                    hint.unwrap_or_else(|| {
                        "is the archive mounted, and may this user read it?".into()
                    }),
                );
                return;
            }
        };
        self.continuity(archive);
        if let Some(live) = live(seen)
            && live.recovery.is_none()
        {
            self.freshness(archive, live);
        }
    }

    /// Whether the server hands its WAL over. Each way in which it does not has a reason of its own.
    fn archiver(&mut self) {
        let seen = self.seen;
        let waiting = match &seen.waiting {
            Ok(waiting) => waiting,
            Err(unseen) => {
                self.unknown(
                    Check::Archiver,
                    unseen,
                    "may this user read the data directory?",
                );
                return;
            }
        };
        let Some(live) = live(seen) else {
            // A server that is down archives nothing, and says so by being down.
            return;
        };
        self.verdict.checked(Check::Archiver);
        // In recovery archive_mode = on archives nothing.
        if live.recovery.is_some() && live.archiving.mode != "always" {
            return;
        }
        let archiving = &live.archiving;
        if archiving.mode == "off" {
            self.critical(
                Check::Archiver,
                "the server archives nothing: archive_mode is off",
                "set archive_mode = on and restart the server",
            );
        } else if !archiving.has_command {
            self.critical(
                Check::Archiver,
                "archive_command is empty: WAL piles up in pg_wal until the disk is full",
                "set archive_command to pg-archive-wal and reload the server",
            );
        } else if let Some((what, hint)) = self.why_it_waits(live, waiting) {
            self.critical(Check::Archiver, what, hint);
        }
        if let Ok(Archive {
            holds_last_archived: Some(false),
            ..
        }) = &seen.archive
            && let Some((name, _)) = &archiving.last_archived
        {
            self.critical(
                Check::Archiver,
                format!("the server counts \"{name}\" as archived, and the archive does not hold it"),
                "archive_command has to be pg-archive-wal with this instance's settings; hand the file to pg-archive-wal while it is still in pg_wal, or take a base backup",
            );
        }
    }

    /// Why WAL waits that should not, if it does.
    fn why_it_waits(&self, live: &Live, waiting: &[Waiting]) -> Option<(String, String)> {
        let archiving = &live.archiving;
        let oldest = waiting.iter().min_by(|a, b| a.since.total_cmp(&b.since))?;
        let now = self.seen.now;
        // While the server was down nothing could be archived.
        let since = oldest.since.max(live.started);
        let age = now - since;
        let number = waiting.len();
        let name = &oldest.name;
        let since_then = |file: &Option<(String, f64)>| file.as_ref().map(|(_, at)| *at);
        let failed_at = since_then(&archiving.last_failed);
        let archived_at = since_then(&archiving.last_archived);
        let is_failing = failed_at > archived_at;
        let see_log = || {
            let unit = self.settings.postgresql.unit.as_deref();
            unit.map_or_else(
                || "the server's log has what the command said".to_owned(),
                |unit| format!("journalctl --unit {unit} --since -1h has what the command said"),
            )
        };
        let deadline = f64::from(self.settings.archive.archive_deadline_seconds);
        let no_progress = archived_at.is_none_or(|at| at < since);

        if is_failing && failed_at.is_some_and(|at| at >= since) && age >= FAILED_FOR_GOOD {
            let failed = archiving
                .last_failed
                .as_ref()
                .map_or(name.as_str(), |(failed, _)| failed.as_str());
            return Some((
                format!(
                    "archive_command fails: \"{failed}\" {} ago, {} failures in all, {number} WAL files wait",
                    span(now - failed_at.unwrap_or(now)),
                    archiving.failed
                ),
                see_log(),
            ));
        }
        if no_progress && age >= DIED_FOR_GOOD && has_died(archiving, live.started, since) {
            return Some((
                format!(
                    "the archiver dies again and again: {number} WAL files wait, \"{name}\" for {}, and no failure was counted",
                    span(age)
                ),
                "archive_command ends by a signal or with a status above 125, which the server does not count: is the program there, and does the sandbox let it run? the server's log says".into(),
            ));
        }
        if no_progress && !is_failing && age >= deadline + HANGS_BEYOND_DEADLINE {
            return Some((
                format!(
                    "archive_command hangs: it has neither archived \"{name}\" nor failed for {}, {number} WAL files wait",
                    span(age)
                ),
                "does the archive's disk respond? a hanging command also keeps the server from stopping".into(),
            ));
        }
        let most = f64::from(self.settings.health_check.maximum_archive_lag_seconds);
        (age > most).then(|| {
            (
                format!(
                    "archiving is too slow: {number} WAL files wait, \"{name}\" for {}",
                    span(age)
                ),
                "is the archive's disk fast enough? raise archive.threads or lower the compression"
                    .into(),
            )
        })
    }

    /// Whether changes reach the archive in the time that is declared.
    fn freshness(&mut self, archive: &Archive, live: &Live) {
        self.verdict.checked(Check::Freshness);
        let now = self.seen.now;
        let exposed = self
            .history
            .exposure_seconds(live, now, archived_end(archive, live));
        self.measured.exposure_seconds = Some(exposed);
        let timeout = live.archiving.timeout_seconds;
        let lag = self.settings.health_check.maximum_archive_lag_seconds;
        #[expect(
            clippy::cast_precision_loss,
            reason = "archive_timeout is at most 2^30"
        )]
        let allowed = timeout as f64 + f64::from(lag);
        let objective = self.settings.objectives.rpo_seconds;
        if let Some(objective) = objective
            && exposed > f64::from(objective)
        {
            self.critical(
                Check::Freshness,
                format!(
                    "a change of {} ago is not in the archive; the objective is {objective} seconds (objectives.rpoSeconds)",
                    span(exposed)
                ),
                "find out why WAL is not archived; archive_timeout has to be shorter than the objective",
            );
        } else if timeout > 0 && exposed > allowed {
            self.critical(
                Check::Freshness,
                format!(
                    "a change of {} ago is not in the archive, and archive_timeout is {timeout} seconds",
                    span(exposed)
                ),
                "find out why WAL is not archived",
            );
        }
        if timeout == 0 && objective.is_some() {
            self.warning(
                Check::Freshness,
                "archive_timeout is 0: a change may wait for ever until its WAL file is full",
                "set archive_timeout to less than objectives.rpoSeconds",
            );
        }
    }

    /// Whether the archive has every file that a restore within the retention needs.
    fn continuity(&mut self, archive: &Archive) {
        self.verdict.checked(Check::Continuity);
        let points = self.points_with_windows(archive);
        let newest_good = match &self.seen.backups {
            Some(Ok(backups)) => backups.newest_good.as_ref().map(|point| point.id.as_str()),
            Some(Err(_)) | None => None,
        };
        let waiting: BTreeSet<SegmentName> = match &self.seen.waiting {
            Ok(waiting) => waiting
                .iter()
                .filter_map(|file| SegmentName::parse(&file.name).ok())
                .collect(),
            Err(_) => BTreeSet::new(),
        };
        let mut missing: BTreeSet<SegmentName> = BTreeSet::new();
        let mut uncounted = 0;
        // Whether restores to the present still work, by way of the newest base backup.
        let mut is_crossed = newest_good.is_some();
        for window in restore_plan::windows(&points, &archive.contents) {
            let named = window.missing.segments.len() as u64;
            let unnamed = window.missing.count - named;
            let before = missing.len();
            // What waits to be archived is late, and not missing.
            let lost = window
                .missing
                .segments
                .into_iter()
                .filter(|segment| !waiting.contains(segment));
            if Some(window.point.as_str()) == newest_good {
                let lost: Vec<SegmentName> = lost.collect();
                is_crossed &= lost.is_empty() && unnamed == 0;
                missing.extend(lost);
            } else {
                missing.extend(lost);
            }
            if missing.len() > before {
                uncounted = uncounted.max(unnamed);
            }
        }
        let count = missing.len() as u64 + uncounted;
        self.measured.missing_files = Some(count);
        if count == 0 {
            return;
        }
        let names: Vec<String> = missing
            .iter()
            .take(NAMED)
            .map(|segment| format!("\"{segment}\""))
            .collect();
        let more = count.saturating_sub(names.len() as u64);
        let more = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        let what = format!(
            "the archive has a gap: {}{more} is missing",
            names.join(", ")
        );
        if is_crossed {
            self.warning(
                Check::Continuity,
                what,
                "the newest base backup is behind it, so the present can be restored; what lies between the gap and that backup cannot: look for the file in copies of the archive",
            );
        } else {
            self.critical(
                Check::Continuity,
                what,
                "no restore can cross it: look for the file in pg_wal and in copies of the archive, and take a base backup now",
            );
        }
    }

    /// The starting points from which every moment has to be reachable: those that are younger than
    /// `retention.days`, and the newest of the others. What is older is kept with its own WAL only.
    fn points_with_windows(&self, archive: &Archive) -> Vec<StartingPoint> {
        let edge = self.seen.now - f64::from(self.settings.retention.days) * DAY;
        let mut points: Vec<StartingPoint> = match &self.seen.backups {
            Some(Ok(backups)) => {
                let is_old =
                    |point: &StartingPoint| point.stop_time.as_duration().as_secs_f64() < edge;
                let newest_old = backups
                    .points
                    .iter()
                    .filter(|point| is_old(point))
                    .max_by_key(|point| point.stop_time);
                backups
                    .points
                    .iter()
                    .filter(|point| !is_old(point))
                    .chain(newest_old)
                    .cloned()
                    .collect()
            }
            Some(Err(_)) | None => Vec::new(),
        };
        // Without a base backup the archive has to be unbroken from its first file on.
        if points.is_empty()
            && let Some(first) = archive.contents.segments.first()
        {
            let size = archive.contents.segment_size;
            points.push(StartingPoint {
                id: first.to_string(),
                system_identifier: archive.contents.system_identifier,
                timeline: first.timeline(),
                start: first.start(size),
                stop: first.end(size),
                stop_time: jiff::Timestamp::UNIX_EPOCH,
                postgres_major: 0,
            });
        }
        points
    }
}

/// Whether the archiver process is not the one that ran when the file began to wait.
fn has_died(archiving: &Archiving, server_started: f64, since: f64) -> bool {
    archiving.archiver_is_visible
        && archiving
            .archiver_started
            .is_none_or(|at| at > since && at - server_started > STARTED_WITH_SERVER)
}
