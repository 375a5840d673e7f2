//! What is generated from the table of metrics in the crate `textfile`, and from the rules about them in the
//! crate `alerts`: pages of the reference, the rules for Prometheus, and the board for Grafana.

use std::fmt::Write as _;

use textfile::{METRICS, Writer};

/// Every file with its text, by its path from the root of the workspace.
pub fn files() -> [(&'static str, String); 5] {
    [
        ("docs/reference/metrics.md", metrics_page()),
        ("docs/reference/alerts.md", alerts_page()),
        (
            "nixos-modules/monitoring/alerts.json",
            format!("{:#}\n", alerts::rule_file()),
        ),
        (
            "nixos-modules/monitoring/alert-of-instance.json",
            format!("{:#}\n", alerts::template_of_instance()),
        ),
        (
            "nixos-modules/monitoring/board.json",
            one_line_each(&alerts::board()),
        ),
    ]
}

/// An object as JSON with a line for each of its values, and for each panel: a board has thousands of values.
fn one_line_each(object: &serde_json::Value) -> String {
    let values = object.as_object().into_iter().flatten();
    let lines: Vec<String> = values
        .map(|(key, value)| match value.as_array() {
            Some(elements) if elements.len() > 1 => {
                let elements: Vec<String> = elements
                    .iter()
                    .map(|element| format!("    {element}"))
                    .collect();
                format!("  \"{key}\": [\n{}\n  ]", elements.join(",\n"))
            }
            _ => format!("  \"{key}\": {value}"),
        })
        .collect();
    format!("{{\n{}\n}}\n", lines.join(",\n"))
}

/// The page about metrics.
fn metrics_page() -> String {
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

/// The page about alerts.
fn alerts_page() -> String {
    let mut page = String::from(
        "# Alerts\n\nThe rules are in [`nixos-modules/monitoring/alerts.json`](../../nixos-modules/monitoring/alerts.json), which Prometheus reads as it is (JSON is YAML too):\n\n\
         ```yaml\nrule_files:\n  - /etc/prometheus/backstay-alerts.json\n```\n\n\
         The NixOS module gives it to a Prometheus on the same host by itself; `modules.services.postgresql.alerts.file` is its path for one elsewhere. The board for\n\
         Grafana, [`board.json`](../../nixos-modules/monitoring/board.json), is imported as it is.\n\n\
         Rules and board work with `honor_labels: true` and without. Limits are declared with the instance and come as metrics, so the rules have no number to adapt. *critical*\n\
         means: look now; *warning*: look this week. `<i>` below stands for the instance.\n\n\
         This page is written by `cargo xtask schema` from the rules in `crates/alerts`, each of which has unit tests for promtool.\n",
    );
    for rule in alerts::rules()
        .into_iter()
        .chain([alerts::rule_of_instance("{instance}")])
    {
        let shown = |text: &str| {
            text.replace("{instance}", "<i>")
                .replace('{', "<")
                .replace('}', ">")
        };
        let _ = write!(
            page,
            "\n## {} ({})\n\n{}. {}\n\n```promql\n{}\n```\n\n`for: {}m`. What to type:\n\n```sh\n{}\n```\n",
            rule.name,
            rule.severity.word(),
            escaped(&shown(&rule.summary)),
            escaped(&shown(&rule.description)),
            shown_expression(&rule.expression),
            rule.hold_minutes,
            shown(&rule.command).replace("; ", "\n"),
        );
    }
    page
}

/// The expression, with the instance of a rule about one as in the texts.
fn shown_expression(expression: &str) -> String {
    expression.replace("{instance}", "<i>")
}

/// Text in which Markdown takes no word in angle brackets for HTML.
fn escaped(text: &str) -> String {
    text.replace('<', "\\<")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::artifacts;

    #[test]
    fn what_is_generated_from_metrics_and_rules_is_current() {
        for (file, text) in files() {
            let current = std::fs::read_to_string(artifacts::workspace().join(file));
            assert!(
                current.is_ok_and(|current| current == text),
                "\"{file}\" is not current; run `cargo xtask schema` and commit the file"
            );
        }
    }

    /// The sources of a crate, one after the other.
    fn sources(directory: &Path, text: &mut String) {
        for entry in std::fs::read_dir(directory).expect("a directory").flatten() {
            let path = entry.path();
            if path.is_dir() {
                sources(&path, text);
            } else if path.extension().is_some_and(|end| end == "rs") {
                text.push_str(&std::fs::read_to_string(&path).expect("a source"));
            }
        }
    }

    /// The constants of the table by the names of their metrics.
    fn constants() -> Vec<(String, String)> {
        let mut table = String::new();
        sources(
            &artifacts::workspace().join("crates/textfile/src"),
            &mut table,
        );
        table
            .lines()
            .filter_map(|line| {
                let (constant, rest) = line.trim().split_once(" = \"postgresql_")?;
                let (name, _) = rest.split_once('"')?;
                Some((format!("postgresql_{name}"), constant.to_owned()))
            })
            .collect()
    }

    #[test]
    fn every_metric_of_the_table_is_written_by_the_program_that_it_names() {
        let constants = constants();
        for metric in METRICS {
            let (_, constant) = constants
                .iter()
                .find(|(name, _)| name == metric.name)
                .unwrap_or_else(|| panic!("{} is not found in the table", metric.name));
            let crates = artifacts::workspace().join("crates");
            let mut text = String::new();
            sources(&crates.join(metric.writer.program()).join("src"), &mut text);
            if metric.writer == Writer::Health {
                sources(&crates.join("health/src"), &mut text);
            }
            let used = format!("table::{constant}");
            let is_written = text.match_indices(&used).any(|(at, _)| {
                !text[at + used.len()..]
                    .starts_with(|c: char| c == '_' || c.is_ascii_alphanumeric())
            });
            assert!(
                is_written,
                "{} does not write {}",
                metric.writer.program(),
                metric.name
            );
        }
    }
}
