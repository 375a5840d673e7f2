//! What of a preseed is measured.

use instance_state::{PreseedOutcome, PreseedRecord};
use settings::Settings;
use textfile::{File, Writer, table};

/// The source of a server that may begin without data.
const EMPTY: &str = "empty";
/// The source while there is none.
const NONE: &str = "none";

/// Writes the metrics, where the settings say that there are some.
///
/// A server that has its data again is not kept down by a directory of metrics that cannot be written, so
/// that is said and no more.
pub fn write(settings: &Settings, record: &PreseedRecord, kind: Option<&str>) {
    let Some(metrics) = &settings.metrics else {
        return;
    };
    if let Err(err) = of(&settings.instance, record, kind).write(&metrics.directory) {
        tool::report("could not write the metrics", &err);
    }
}

fn of(instance: &str, record: &PreseedRecord, kind: Option<&str>) -> File {
    let mut file = File::new(Writer::Preseed, instance);
    let (source, status) = match record.outcome {
        PreseedOutcome::Restored => (kind.unwrap_or(NONE), 1.0),
        PreseedOutcome::NothingToRestore | PreseedOutcome::EmptyWithoutProof => (EMPTY, 1.0),
        PreseedOutcome::Begun | PreseedOutcome::Failed => (NONE, 0.0),
    };
    file.set_for(&table::PRESEED_STATUS, &[source], status);
    if record.outcome != PreseedOutcome::Begun {
        let took = record.at.duration_since(record.begun_at).as_secs_f64();
        file.set(&table::PRESEED_LAST_DURATION, took);
    }
    if status > 0.0 {
        file.set(
            &table::PRESEED_LAST_COMPLETION,
            record.at.as_duration().as_secs_f64(),
        );
    }
    #[expect(
        clippy::cast_precision_loss,
        reason = "a metric has 53 bits, which is petabytes to the byte"
    )]
    if let Some(restored) = &record.restored {
        file.set(&table::PRESEED_RESTORED, restored.content_bytes as f64);
    }
    file
}
