//! What Prometheus is told of base backups.

use base_backups::{Record, Repository};
use jiff::Timestamp;
use settings::Settings;
use textfile::{File, Writer, table};

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
