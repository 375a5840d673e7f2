use std::fmt::{self, Write as _};
use std::fs::Permissions;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use durable_file::Temporary;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode_registry;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use tool::{Level, WithHint as _};

use crate::table::{METRICS, Metric, Writer};

/// Mode of the files: the exporter runs as a user of its own.
const MODE: u32 = 0o644;
/// How many leftovers of dead writers one call removes.
const SWEEP_LIMIT: usize = 8;
/// Bytes that a file system takes in one name.
const LONGEST_NAME: usize = 255;
/// By which the name of a temporary file is longer at most.
const TEMPORARY_BYTES: usize = 24;

/// The metrics of one writer about one instance, on their way into a file.
#[derive(Clone, Debug)]
pub struct File {
    writer: Writer,
    instance: String,
    part: Option<String>,
    samples: Vec<Sample>,
}

/// One series and its value.
#[derive(Clone, Debug, PartialEq)]
struct Sample {
    metric: &'static str,
    /// With `instance`, first.
    labels: Vec<(&'static str, String)>,
    value: f64,
}

impl File {
    /// A file without metrics.
    #[must_use]
    pub fn new(writer: Writer, instance: &str) -> Self {
        Self {
            writer,
            instance: instance.to_owned(),
            part: None,
            samples: Vec::new(),
        }
    }

    /// A file without metrics of a writer that has one for each `part`, a database for example.
    #[must_use]
    pub fn of_part(writer: Writer, instance: &str, part: &str) -> Self {
        Self {
            part: Some(part.to_owned()),
            ..Self::new(writer, instance)
        }
    }

    /// Sets a metric that has no label but `instance`.
    pub fn set(&mut self, metric: &Metric, value: f64) {
        self.set_for(metric, &[], value);
    }

    /// Sets a metric for these values of its labels, in the order of the table.
    ///
    /// The same series is never there twice, for which the exporter would refuse everything: what was
    /// set last counts. A value that is not finite says nothing and is left out.
    ///
    /// # Panics
    ///
    /// Panics in a debug build when the table gives the metric to another writer, or another number
    /// of labels.
    pub fn set_for(&mut self, metric: &Metric, labels: &[&str], value: f64) {
        debug_assert_eq!(metric.writer, self.writer, "{}", metric.name);
        debug_assert_eq!(metric.labels.len(), labels.len(), "{}", metric.name);
        if !value.is_finite() {
            return;
        }
        let labels = std::iter::once(("instance", self.instance.clone()))
            .chain(
                metric
                    .labels
                    .iter()
                    .zip(labels)
                    .map(|(name, value)| (*name, (*value).to_owned())),
            )
            .collect();
        let sample = Sample {
            metric: metric.name,
            labels,
            value,
        };
        self.samples
            .retain(|other| other.metric != sample.metric || other.labels != sample.labels);
        self.samples.push(sample);
    }

    /// The name of the file.
    ///
    /// Letters, digits, dots and hyphens of a part stay; every other byte is written as `_` and two
    /// hexadecimal digits, so that two parts never have one name.
    #[must_use]
    pub fn name(&self) -> String {
        let Self {
            writer, instance, ..
        } = self;
        let mut name = format!("postgresql_{}_{instance}", writer.word());
        if let Some(part) = &self.part {
            name.push('_');
            for byte in part.bytes() {
                if byte.is_ascii_alphanumeric() || b".-".contains(&byte) {
                    name.push(byte.into());
                } else {
                    let _ = write!(name, "_{byte:02x}");
                }
            }
        }
        name + ".prom"
    }

    /// The content of the file: the metrics in the order of the table, each with its help and its type.
    ///
    /// # Errors
    ///
    /// Fails when the encoder does.
    pub fn text(&self) -> Result<String> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self.clone()));
        let mut text = String::new();
        // Without the end mark of OpenMetrics: the exporter's own format has none.
        encode_registry(&mut text, &registry).context("encode the metrics")?;
        Ok(text)
    }

    /// Writes the file into `directory`, in place of the one that is there.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be written. Then the old one is there still, and none if there was none.
    pub fn write(&self, directory: &Path) -> Result<PathBuf> {
        let name = self.name();
        ensure!(
            name.len() + TEMPORARY_BYTES <= LONGEST_NAME,
            "\"{name}\" is too long for the name of a file"
        );
        let text = self.text()?;
        // Whoever died while writing has left something behind under a name that the exporter does
        // not read. What belongs to another user cannot be removed, and is left alone.
        durable_file::sweep(directory, SWEEP_LIMIT)?;
        let mut temporary = Temporary::create(directory, &name)?;
        let path = directory.join(&name);
        temporary
            .file()
            .set_permissions(Permissions::from_mode(MODE))
            .and_then(|()| temporary.file().write_all(text.as_bytes()))
            .with_context(|| format!("write \"{}\"", path.display()))?;
        temporary.replace(&path)?;
        Ok(path)
    }

    /// Writes the file into `directory`, if there is one, and only warns when that fails: the work that
    /// was measured matters more than the measurement.
    pub fn write_or_warn(&self, directory: Option<&Path>) {
        let Some(directory) = directory else {
            return;
        };
        let written = self.write(directory).with_hint(|| {
            format!(
                "does \"{}\" exist, has it room, and may this user write there?",
                directory.display()
            )
        });
        if let Err(err) = written {
            tool::log(
                Level::Warning,
                format_args!("could not write the metrics: {err:#}"),
            );
            if let Some(hint) = tool::hint_of(&err) {
                tool::log(Level::Warning, format_args!("hint: {hint}"));
            }
        }
    }
}

impl Collector for File {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for metric in METRICS {
            let mut samples = self
                .samples
                .iter()
                .filter(|sample| sample.metric == metric.name)
                .peekable();
            if samples.peek().is_none() {
                continue;
            }
            // The unit is part of the name already; given apart, the encoder would add it again.
            let kind = ConstGauge::new(0.0).metric_type();
            let mut family = encoder.encode_descriptor(metric.name, metric.help, None, kind)?;
            for sample in samples {
                let labels: Vec<(&str, &str)> = sample
                    .labels
                    .iter()
                    .map(|(name, value)| (*name, value.as_str()))
                    .collect();
                ConstGauge::new(sample.value).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table;

    #[test]
    fn the_text_is_what_the_exporter_reads() {
        let mut file = File::new(Writer::Health, "main");
        // Given in another order than the table's.
        file.set_for(&table::HEALTH_CHECK_STATUS, &["archiver"], 2.0);
        file.set(&table::HEALTH, 0.0);
        file.set_for(&table::HEALTH_CHECK_STATUS, &["server"], 0.0);
        file.set(&table::HEALTH_LAST_CHECK, 1_795_000_000.25);
        file.set(&table::XID_AGE, f64::NAN);
        assert_eq!(
            file.text().unwrap(),
            "\
# HELP postgresql_health Whether no check found anything critical, and every check could be made
# TYPE postgresql_health gauge
postgresql_health{instance=\"main\"} 0.0
# HELP postgresql_health_last_check_timestamp When the last check ended
# TYPE postgresql_health_last_check_timestamp gauge
postgresql_health_last_check_timestamp{instance=\"main\"} 1795000000.25
# HELP postgresql_health_check_status What one check came to
# TYPE postgresql_health_check_status gauge
postgresql_health_check_status{instance=\"main\",check=\"archiver\"} 2.0
postgresql_health_check_status{instance=\"main\",check=\"server\"} 0.0
"
        );
    }

    #[test]
    fn a_series_is_there_once_with_the_value_that_was_set_last() {
        let mut file = File::new(Writer::Dump, "main");
        file.set_for(&table::DUMP_SIZE, &["app"], 1.0);
        file.set_for(&table::DUMP_SIZE, &["app"], 2.0);
        assert_eq!(
            file.text().unwrap().lines().last(),
            Some("postgresql_dump_size_bytes{instance=\"main\",database=\"app\"} 2.0")
        );
        assert_eq!(file.samples.len(), 1);
    }

    #[test]
    fn a_file_is_named_for_its_writer_and_instance_and_no_part_reaches_out_of_the_directory() {
        let name = |part: &str| File::of_part(Writer::Dump, "main", part).name();
        assert_eq!(
            File::new(Writer::Health, "main").name(),
            "postgresql_health_main.prom"
        );
        assert_eq!(name("app-1.x"), "postgresql_dump_main_app-1.x.prom");
        assert_eq!(name("../a_b"), "postgresql_dump_main_.._2fa_5fb.prom");
        assert_ne!(name("a_b"), name("a_5fb"));
    }

    #[test]
    fn a_file_is_written_whole_with_mode_0644_and_alone() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = File::new(Writer::Prune, "main");
        for value in [0.0, 1.0] {
            file.set(&table::PRUNE_LAST_RUN_SUCCESS, value);
            let path = file.write(directory.path()).unwrap();
            assert_eq!(
                std::fs::read_to_string(&path).unwrap(),
                file.text().unwrap()
            );
            let mode = std::fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o644);
        }
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn h8_a_directory_that_is_missing_is_a_warning_with_the_old_file_as_it_was() {
        let file = File::new(Writer::Prune, "main");
        let missing = Path::new("/nonexistent/metrics");
        file.write_or_warn(Some(missing));
        assert_eq!(
            format!("{:#}", file.write(missing).unwrap_err()),
            "list \"/nonexistent/metrics\": No such file or directory (os error 2)"
        );
    }

    #[test]
    fn a_name_that_no_file_system_takes_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = File::of_part(Writer::Dump, "main", &"ü".repeat(63));
        let message = file.write(directory.path()).unwrap_err().to_string();
        assert!(
            message.ends_with("is too long for the name of a file"),
            "{message}"
        );
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
