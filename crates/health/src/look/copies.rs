//! What was noted of copies and rehearsals by those who made them.

use instance_state::{DrillRecord, OffSiteRecord, ReplicaRecord};
use settings::Settings;

use crate::seen::{NotedCopy, NotedReplica, Seen, Unseen};

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

/// What is noted of each declared replica. None is asked, for the same reason.
pub fn replicas(settings: &Settings) -> Vec<NotedReplica> {
    let state = settings.state_directory();
    settings
        .snapshots
        .iter()
        .flat_map(|snapshots| &snapshots.replicas)
        .map(|replica| NotedReplica {
            content: replica.content,
            record: ReplicaRecord::read(&state, replica.content).map_err(Unseen::from),
        })
        .collect()
}

/// What the last rehearsal came to.
pub fn drill(settings: &Settings) -> Seen<Option<DrillRecord>> {
    DrillRecord::read(&settings.state_directory()).map_err(Unseen::from)
}
