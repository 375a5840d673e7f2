//! What of a drill is measured.

use std::time::Duration;

use anyhow::Result;
use instance_state::DrillRecord;
use jiff::Timestamp;
use settings::Settings;
use textfile::{File, Writer, table};

/// Writes the metrics, where the settings say that there are some.
///
/// # Errors
///
/// Fails when they cannot be written: whoever waits for the drill's age would never hear of it.
pub fn write(settings: &Settings, record: &DrillRecord, took: Duration) -> Result<()> {
    let Some(metrics) = &settings.metrics else {
        return Ok(());
    };
    of(&settings.instance, record, took)
        .write(&metrics.directory)
        .map(drop)
}

fn of(instance: &str, record: &DrillRecord, took: Duration) -> File {
    let seconds = |time: Timestamp| time.as_duration().as_secs_f64();
    let truth = |is: bool| if is { 1.0 } else { 0.0 };
    let mut file = File::new(Writer::RestoreDrill, instance);
    file.set(&table::DRILL_LAST_RUN, seconds(record.finished_at));
    file.set(
        &table::DRILL_LAST_RUN_SUCCESS,
        truth(record.failure.is_none()),
    );
    file.set(&table::DRILL_DURATION, took.as_secs_f64());
    if let Some(time) = record.last_success_at {
        file.set(&table::DRILL_LAST_SUCCESS, seconds(time));
    }
    if let Some(failure) = &record.failure {
        file.set_for(&table::DRILL_FAILURE, &[failure.reason.label()], 1.0);
    }
    let findings = &record.findings;
    if let Some(time) = findings
        .target
        .as_deref()
        .and_then(|target| target.parse::<Timestamp>().ok())
    {
        file.set(&table::DRILL_TARGET, seconds(time));
    }
    if let Some(took) = findings.recovery_seconds {
        file.set(&table::DRILL_RECOVERY, took);
    }
    #[expect(
        clippy::cast_precision_loss,
        reason = "a metric has 53 bits, which is petabytes to the byte"
    )]
    if let Some(bytes) = findings.restored_bytes {
        file.set(&table::DRILL_RESTORED, bytes as f64);
    }
    file.set(&table::DRILL_EXACT, truth(findings.canary.is_some()));
    file.set(
        &table::DRILL_RELATIONS,
        truth(findings.relations_are_sound == Some(true)),
    );
    file
}
