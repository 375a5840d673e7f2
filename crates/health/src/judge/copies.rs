//! Copies off-site and rehearsed restores, against what was declared.

use instance_state::{OffSiteHoldings, OffSiteRecord};
use settings::{ResticContent, ResticJob};
use wal::Lsn;

use super::{Judge, live, span};
use crate::finding::{Check, Severity};
use crate::seen::{Live, Unseen};

/// A base backup is copied as soon as it was taken; the upload of a large one takes its time.
const UPLOAD_SECONDS: f64 = 6.0 * 3600.0;

/// A repository whose copy is not what it should be.
struct Late<'a> {
    repository: &'a str,
    unit: &'a str,
    what: String,
}

impl Judge<'_> {
    /// Whether what would be lost with this machine is bounded as declared. One repository that is late is
    /// worth a look while another one is not; if all are, it is worth one now.
    pub(super) fn off_site(&mut self) {
        let settings = self.settings;
        for content in [ResticContent::Wal, ResticContent::Base] {
            let mut fresh = 0;
            let mut late = Vec::new();
            for repository in &settings.restic {
                let Some(job) = repository.jobs.iter().find(|job| job.job == content) else {
                    continue;
                };
                self.verdict.checked(Check::OffSite);
                let noted = self
                    .seen
                    .copies
                    .iter()
                    .find(|copy| copy.repository == repository.name && copy.content == content)
                    .map(|copy| copy.record.clone());
                match noted {
                    Some(Ok(record)) => {
                        match self.why_it_is_late(&repository.name, job, record.as_ref()) {
                            Some(what) => late.push(Late {
                                repository: &repository.name,
                                unit: &job.unit,
                                what,
                            }),
                            None => fresh += 1,
                        }
                    }
                    Some(Err(unseen)) => self.unreadable(&unseen),
                    None => {}
                }
            }
            let severity = if fresh == 0 {
                Severity::Critical
            } else {
                Severity::Warning
            };
            for Late {
                repository,
                unit,
                what,
            } in late
            {
                self.verdict.found(
                    Check::OffSite,
                    severity,
                    format!("in the repository \"{repository}\", {what}"),
                    format!(
                        "the journal says why: journalctl --unit {unit} --since -1d; it tries again by itself, and at once by systemctl start {unit}"
                    ),
                );
            }
        }
        self.offsite_objective();
    }

    fn unreadable(&mut self, unseen: &Unseen) {
        self.unknown(
            Check::OffSite,
            unseen,
            "may this user read the state directory?",
        );
    }

    /// Why a copy is late, if it is.
    fn why_it_is_late(
        &mut self,
        repository: &str,
        job: &ResticJob,
        record: Option<&OffSiteRecord>,
    ) -> Option<String> {
        match job.job {
            ResticContent::Wal => {
                // A server that is down changes nothing, and is told by itself.
                let exposed = self.exposed_off_site(live(self.seen)?, record);
                self.measured
                    .offsite_exposure_seconds
                    .push((repository.to_owned(), exposed));
                let most = self.settings.health_check.maximum_offsite_lag_seconds?;
                (exposed > f64::from(most)).then(|| {
                    format!(
                        "changes of the last {} are missing, and {} are allowed",
                        span(exposed),
                        span(most.into())
                    )
                })
            }
            ResticContent::Base => self.uncopied_base_backup(record),
        }
    }

    /// For how long the oldest known change has not been in a copy of the archive.
    fn exposed_off_site(&self, live: &Live, record: Option<&OffSiteRecord>) -> f64 {
        let end = match record.map(|record| &record.holds) {
            Some(OffSiteHoldings::Wal {
                system_identifier,
                timeline,
                end,
            }) if *system_identifier == live.system_identifier
                && *timeline == Some(live.timeline) =>
            {
                end.unwrap_or(Lsn(0))
            }
            // Nothing of this timeline is there.
            _ => Lsn(0),
        };
        self.history.exposure_seconds(live, self.seen.now, end)
    }

    fn uncopied_base_backup(&self, record: Option<&OffSiteRecord>) -> Option<String> {
        let newest = self
            .seen
            .backups
            .as_ref()?
            .as_ref()
            .ok()?
            .newest_good
            .as_ref()?;
        let held = match record.map(|record| &record.holds) {
            Some(OffSiteHoldings::Base {
                newest_stopped_at, ..
            }) => *newest_stopped_at,
            _ => None,
        };
        if held.is_some_and(|held| held >= newest.stop_time) {
            return None;
        }
        let age = self.seen.now - newest.stop_time.as_duration().as_secs_f64();
        (age > UPLOAD_SECONDS).then(|| match held {
            Some(_) => format!(
                "the newest base backup, \"{}\", is missing, {} after it was taken",
                newest.id,
                span(age)
            ),
            None => "there is no base backup: nothing can be restored from it".to_owned(),
        })
    }

    /// The objective is kept by the repository that is furthest.
    fn offsite_objective(&mut self) {
        let best = self
            .measured
            .offsite_exposure_seconds
            .iter()
            .map(|(_, seconds)| *seconds)
            .min_by(f64::total_cmp);
        self.measured.offsite_seconds = best;
        if let Some(exposed) = best
            && let Some(objective) = self.settings.objectives.offsite_rpo_seconds
            && exposed > f64::from(objective)
        {
            self.critical(
                Check::OffSite,
                format!(
                    "if this machine were lost now, the changes of the last {} would be: objectives.offsiteRpoSeconds allows {}",
                    span(exposed),
                    span(objective.into())
                ),
                "copy the archive more often, or find out why the copies fail; `backstay status` shows each",
            );
        }
    }

    /// Whether a restore takes as long as it may, by the last rehearsal that came to an answer.
    pub(super) fn recovery_time(&mut self) {
        let seen = self.seen;
        let Some(objective) = self.settings.objectives.rto_seconds else {
            return;
        };
        let recovery = match &seen.drill {
            Ok(record) => record
                .as_ref()
                .and_then(|record| record.findings.recovery_seconds),
            Err(unseen) => {
                self.unknown(
                    Check::RecoveryTime,
                    unseen,
                    "may this user read the state directory?",
                );
                return;
            }
        };
        let Some(seconds) = recovery else {
            return;
        };
        self.verdict.checked(Check::RecoveryTime);
        if seconds > f64::from(objective) {
            self.warning(
                Check::RecoveryTime,
                format!(
                    "the last rehearsed restore took {} until the server answered: objectives.rtoSeconds allows {}",
                    span(seconds),
                    span(objective.into())
                ),
                "take base backups more often, so that less WAL is replayed, or restore from faster disks",
            );
        }
    }
}
