//! Rehearsed restores: a backup that has not been restored is a hope.

use super::{Judge, span};
use crate::finding::Check;

impl Judge<'_> {
    pub(super) fn drill(&mut self) {
        let seen = self.seen;
        if self.settings.drill.is_none() {
            return;
        }
        self.verdict.checked(Check::Drill);
        let record = match &seen.drill {
            Ok(record) => record.as_ref(),
            Err(unseen) => {
                self.unknown(
                    Check::Drill,
                    unseen,
                    "may this user read the state directory?",
                );
                return;
            }
        };
        if let Some(failure) = record.and_then(|record| record.failure.as_ref()) {
            self.critical(
                Check::Drill,
                format!("the last restore drill failed: {}", failure.message),
                failure.hint.clone().unwrap_or_else(|| {
                    "as things are, a restore may not work: the journal of the drill's unit has all of it; put it right, then run pg-drill".into()
                }),
            );
        }
        // Before the first one, the age of the instance counts.
        let success = record
            .and_then(|record| record.last_success_at)
            .map(|at| at.as_duration().as_secs_f64())
            .or(seen.since);
        if let Some(most) = self.settings.health_check.maximum_drill_age_seconds
            && let Some(success) = success
            && seen.now - success > f64::from(most)
        {
            self.critical(
                Check::Drill,
                format!(
                    "no restore has been rehearsed with success for {}, and {} are allowed",
                    span(seen.now - success),
                    span(most.into())
                ),
                "the journal of the drill's unit says why; run pg-drill",
            );
        }
    }
}
