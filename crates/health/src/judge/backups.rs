//! Base backups: whether there is a good one, and how old it is.

use super::{Judge, span};
use crate::finding::Check;

impl Judge<'_> {
    pub(super) fn base_backups(&mut self) {
        let seen = self.seen;
        let Some(backups) = &seen.backups else {
            return;
        };
        self.verdict.checked(Check::BaseBackup);
        let backups = match backups {
            Ok(backups) => backups,
            Err(unseen) => {
                let hint = unseen.hint.clone();
                self.critical(
                    Check::BaseBackup,
                    unseen.why.clone(),
                    hint.unwrap_or_else(|| {
                        "are the base backups mounted, and may this user read them?".into()
                    }),
                );
                return;
            }
        };
        for (name, why) in &backups.suspect {
            self.critical(
                Check::BaseBackup,
                format!("base backup \"{name}\" is not what it was: {why}"),
                "it cannot be restored: find out what happened to the disk, and take a new one with pg-base-backup",
            );
        }
        let seconds = |time: jiff::Timestamp| time.as_duration().as_secs_f64();
        let Some(newest) = &backups.newest_good else {
            self.critical(
                Check::BaseBackup,
                "there is no good base backup: nothing can be restored",
                "take one with pg-base-backup",
            );
            return;
        };
        self.measured.window_start = match &seen.archive {
            Ok(archive) => restore_plan::windows(&backups.points, &archive.contents)
                .iter()
                .filter(|window| window.restorable)
                .map(|window| seconds(window.from_time))
                .min_by(f64::total_cmp),
            Err(_) => None,
        };
        let age = seen.now - seconds(newest.stop_time);
        if let Some(most) = self.settings.health_check.maximum_base_backup_age_seconds
            && age > f64::from(most)
        {
            self.critical(
                Check::BaseBackup,
                format!(
                    "the newest good base backup, \"{}\", is {} old, and {} are allowed",
                    newest.id,
                    span(age),
                    span(most.into())
                ),
                "the journal of the base backup's unit says why there is no newer one; take one with pg-base-backup",
            );
        }
    }
}
