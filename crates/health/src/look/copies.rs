//! What was noted of copies and rehearsals by those who made them.

use instance_state::{DrillRecord, OffSiteRecord};
use settings::Settings;

use crate::seen::{NotedCopy, Seen, Unseen};

/// What is noted of each declared copy. No repository is asked: that takes seconds and a network.
pub fn of(settings: &Settings) -> Vec<NotedCopy> {
    let state = settings.state_directory();
    settings
        .restic
        .iter()
        .flat_map(|repository| {
            let state = &state;
            repository.jobs.iter().map(move |job| NotedCopy {
                repository: repository.name.clone(),
                content: job.job,
                record: OffSiteRecord::read(state, &repository.name, job.job).map_err(Unseen::from),
            })
        })
        .collect()
}

/// What the last rehearsal came to.
pub fn drill(settings: &Settings) -> Seen<Option<DrillRecord>> {
    DrillRecord::read(&settings.state_directory()).map_err(Unseen::from)
}
