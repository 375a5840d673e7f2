//! Replicas of the instance's datasets, by their own word.

use instance_state::ReplicaRecord;
use settings::Replica;

use super::{Judge, span};
use crate::finding::Check;

impl Judge<'_> {
    /// Whether what each replica holds is as young as declared. That something was sent is not asked: a source can
    /// have fresh snapshots, and transfers that succeed, while the target has lost what it was sent.
    pub(super) fn replicas(&mut self) {
        let (seen, settings) = (self.seen, self.settings);
        let declared = settings.snapshots.iter().flat_map(|it| &it.replicas);
        for replica in declared {
            self.verdict.checked(Check::Replica);
            let noted = seen
                .replicas
                .iter()
                .find(|noted| noted.content == replica.content);
            match noted.map(|noted| &noted.record) {
                Some(Ok(record)) => self.replica(replica, record.as_ref()),
                Some(Err(unseen)) => self.unknown(
                    Check::Replica,
                    unseen,
                    "may this user read the state directory?",
                ),
                None => {}
            }
        }
    }

    fn replica(&mut self, replica: &Replica, record: Option<&ReplicaRecord>) {
        // A note of what was declared before is none.
        let record = record.filter(|record| record.dataset == replica.dataset);
        let newest = record.and_then(|record| record.newest.as_ref());
        // Before the first transfer, the age of the instance counts.
        let Some(since) = newest
            .map(|newest| newest.created_at.as_duration().as_secs_f64())
            .or(self.seen.since)
        else {
            return;
        };
        let age = (self.seen.now - since).max(0.0);
        self.measured
            .replica_age_seconds
            .push((replica.content, age));
        let Some(most) = self.settings.health_check.maximum_replica_age_seconds else {
            return;
        };
        if age <= f64::from(most) {
            return;
        }
        let of = replica.ssh.as_ref().map_or_else(
            || format!("\"{}\"", replica.dataset),
            |ssh| format!("\"{}\" on \"{}\"", replica.dataset, ssh.host),
        );
        let what = match (record, newest) {
            (Some(_), Some(newest)) => format!(
                "the newest snapshot of the replica {of}, \"{}\", is {} old",
                newest.name,
                span(age)
            ),
            (Some(_), None) => format!("the replica {of} holds no snapshot"),
            (None, _) => format!("the replica {of} has never been asked what it holds"),
        };
        let unit = &replica.unit;
        self.critical(
            Check::Replica,
            format!("{what}, and {} are allowed", span(most.into())),
            format!(
                "the journal says why: journalctl --unit {unit} --unit {} --since -1d; it tries again by itself, and at once by systemctl start {unit}",
                asking_unit(&self.settings.instance, replica)
            ),
        );
    }
}

/// The service that asks the replica, as the NixOS module names it.
fn asking_unit(instance: &str, replica: &Replica) -> String {
    format!(
        "postgresql-replica-{instance}-{}.service",
        replica.content.name()
    )
}
