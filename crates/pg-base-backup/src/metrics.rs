//! What Prometheus is told of base backups.

use base_backups::{Record, Repository};
use jiff::Timestamp;
use settings::Settings;
use snapshot_keeping::Own;
use textfile::{File, Writer, table};
use zfs::Zfs;

/// The label `type` of everything here, as in the guide.
const TYPE: &[&str] = &["base"];

/// Writes the metrics after a run that has taken a base backup or not.
///
/// What there is comes from the records on disk and not from this run, so that a run that fails leaves
/// the last success as it is, also where the file with it was lost.
pub fn write(settings: &Settings, success: bool) {
    let Some(metrics) = &settings.metrics else {
        return;
    };
    let mut file = File::new(Writer::Backup, &settings.instance);
    let now = Timestamp::now().as_duration().as_secs_f64();
    file.set_for(&table::BACKUP_LAST_RUN, TYPE, now);
    file.set_for(
        &table::BACKUP_LAST_RUN_SUCCESS,
        TYPE,
        if success { 1.0 } else { 0.0 },
    );
    // A repository that cannot be read has no last success to tell, and the run has said why.
    let records = settings
        .base_backup
        .as_ref()
        .and_then(|declared| Repository::open(&declared.directory, &settings.instance).ok())
        .and_then(|repository| repository.list().ok());
    if let Some(records) = records {
        describe(&mut file, &records);
    }
    file.write_or_warn(Some(&metrics.directory));
}

#[expect(
    clippy::cast_precision_loss,
    reason = "Prometheus knows no other numbers; up to 2^53 they are exact"
)]
fn describe(file: &mut File, records: &[Record]) {
    file.set_for(&table::BACKUP_COUNT, TYPE, records.len() as f64);
    let Some(newest) = records.last() else {
        return;
    };
    let duration = newest.copy_seconds + newest.verify_seconds + newest.wal_wait_seconds;
    for (metric, value) in [
        (
            &table::BACKUP_LAST_SUCCESS,
            newest.stopped_at.as_duration().as_secs_f64(),
        ),
        (&table::BACKUP_SIZE, newest.content_bytes as f64),
        (&table::BACKUP_STORED, newest.stored_bytes as f64),
        (&table::BACKUP_DURATION, duration),
    ] {
        file.set_for(metric, TYPE, value);
    }
}

/// Writes the metrics after a run that has taken a snapshot or not.
///
/// As with base backups what there is comes from ZFS and not from this run.
#[expect(
    clippy::cast_precision_loss,
    reason = "Prometheus knows no other numbers; up to 2^53 they are exact"
)]
pub fn write_of_snapshots(settings: &Settings, success: bool) {
    let Some(metrics) = &settings.metrics else {
        return;
    };
    let mut file = File::new(Writer::Snapshot, &settings.instance);
    let now = Timestamp::now().as_duration().as_secs_f64();
    file.set(&table::SNAPSHOT_LAST_RUN, now);
    file.set(
        &table::SNAPSHOT_LAST_RUN_SUCCESS,
        if success { 1.0 } else { 0.0 },
    );
    let good: Option<Vec<Own>> = settings.snapshots.as_ref().and_then(|declared| {
        let all = snapshot_keeping::list(&Zfs::find().ok()?, &declared.dataset, &settings.instance);
        Some(
            all.ok()?
                .into_iter()
                .filter(|own| own.is_verified)
                .collect(),
        )
    });
    if let Some(good) = good {
        file.set(&table::SNAPSHOT_COUNT, good.len() as f64);
        if let Some(newest) = good.last() {
            file.set(&table::SNAPSHOT_LAST_SUCCESS, newest.created_seconds as f64);
        }
    }
    file.write_or_warn(Some(&metrics.directory));
}
