//! What the run came to, for the Prometheus node exporter.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use settings::Settings;
use textfile::table;
use textfile::{File, Writer};

use crate::provision::Outcome;

/// Writes the metrics, or warns that they could not be written.
///
/// A run that failed leaves the time and the hash of the last one that did not, which its stamp has
/// kept.
pub fn write(settings: &Settings, stamp: &Path, outcome: &Outcome) {
    let directory = settings.metrics.as_ref().map(|metrics| &*metrics.directory);
    file(&settings.instance, stamp, outcome, SystemTime::now()).write_or_warn(directory);
}

fn file(instance: &str, stamp: &Path, outcome: &Outcome, now: SystemTime) -> File {
    let mut file = File::new(Writer::Databases, instance);
    let done = outcome.databases.values().filter(|done| **done).count();
    let all = outcome.databases.len();
    file.set(&table::DATABASES, number(all));
    file.set(&table::DATABASES_PROVISIONED, number(done));
    file.set(&table::DATABASES_FAILED, number(all - done));
    file.set(&table::DATABASES_LAST_RUN, seconds(now));
    for (name, done) in &outcome.databases {
        file.set_for(
            &table::DATABASE_PROVISIONED,
            &[name],
            f64::from(u8::from(*done)),
        );
    }
    let modified = std::fs::metadata(stamp).and_then(|metadata| metadata.modified());
    if let (Ok(hash), Ok(modified)) = (std::fs::read_to_string(stamp), modified) {
        file.set(&table::DATABASES_PROVISIONED_AT, seconds(modified));
        file.set_for(&table::DATABASES_HASH, &[hash.trim()], 1.0);
    }
    file
}

#[expect(clippy::cast_precision_loss, reason = "exact below 2^53")]
fn number(count: usize) -> f64 {
    count as f64
}

/// A clock before 1970 gives no number, and the metric is left out.
fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(f64::NAN, |since| since.as_secs_f64().floor())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use anyhow::Result;

    use super::*;

    #[test]
    fn a_run_that_failed_keeps_the_time_and_the_hash_of_the_last_that_did_not() -> Result<()> {
        let directory = tempfile::tempdir()?;
        let stamp = directory.path().join("provisioned.sha256");
        std::fs::write(&stamp, "abc\n")?;
        std::fs::File::options()
            .write(true)
            .open(&stamp)?
            .set_modified(UNIX_EPOCH + Duration::from_secs(1000))?;
        let outcome = Outcome {
            failed: vec!["database \"app\"".into()],
            databases: BTreeMap::from([("app".to_owned(), false), ("other".to_owned(), true)]),
            hash: None,
        };
        let now = UNIX_EPOCH + Duration::from_secs(2000);
        let text = file("main", &stamp, &outcome, now).text()?;
        let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            samples,
            [
                "postgresql_databases_total{instance=\"main\"} 2.0",
                "postgresql_databases_provisioned_count{instance=\"main\"} 1.0",
                "postgresql_databases_failed{instance=\"main\"} 1.0",
                "postgresql_databases_provisioned_timestamp{instance=\"main\"} 1000.0",
                "postgresql_databases_provisioned_hash{instance=\"main\",hash=\"abc\"} 1.0",
                "postgresql_databases_last_run_timestamp{instance=\"main\"} 2000.0",
                "postgresql_database_provisioned{instance=\"main\",database=\"app\"} 0.0",
                "postgresql_database_provisioned{instance=\"main\",database=\"other\"} 1.0",
            ]
        );
        Ok(())
    }
}
