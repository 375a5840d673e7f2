//! The page of the reference about metrics, from the table in the crate `textfile`.

use std::fmt::Write as _;

use textfile::{METRICS, Writer};

/// Where the page stands, from the root of the workspace.
pub const PAGE: &str = "docs/reference/metrics.md";

/// The page as it is written to the file.
pub fn page() -> String {
    let mut page = String::from(
        "# Metrics\n\nWith `metrics.directory` in the settings, each program writes what it measures into a file of its own for each instance, for the textfile\n\
         collector of the Prometheus node exporter. A file appears whole, with mode 0644. A measurement that cannot be written is a warning; the work goes on.\n\n\
         Every metric is a gauge and has the label `instance`, which Prometheus renames to `exported_instance` unless the scrape has `honor_labels: true`.\n\
         A moment is given as Unix time, so that a rule computes the age and sees that it grows when the program does not run any more.\n\n\
         This page is written by `cargo xtask schema` from the table in `crates/textfile`.\n",
    );
    for writer in Writer::ALL {
        let part = match writer {
            Writer::Dump => "<instance>_<database>",
            _ => "<instance>",
        };
        let _ = write!(
            page,
            "\n## `postgresql_{}_{part}.prom`\n\nWritten by `{}` {}.\n\n| metric | further labels | unit | meaning |\n|---|---|---|---|\n",
            writer.word(),
            writer.program(),
            writer.when()
        );
        for metric in METRICS.iter().filter(|metric| metric.writer == writer) {
            let labels: Vec<String> = metric
                .labels
                .iter()
                .map(|label| format!("`{label}`"))
                .collect();
            let _ = writeln!(
                page,
                "| `{}` | {} | {} | {} |",
                metric.name,
                labels.join(", "),
                metric.unit,
                metric.help
            );
        }
    }
    page
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_metrics_in_the_reference_are_current() {
        let current = include_str!("../../../docs/reference/metrics.md");
        assert!(
            super::page() == current,
            "the table of metrics has changed; run `cargo xtask schema` and commit the file"
        );
    }
}
