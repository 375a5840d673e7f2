//! A rule, its texts, and the series that it is tested with.

use serde_json::{Map, Value, json};

/// The instance, whichever label has it.
const INSTANCE: &str =
    "{{ with $labels.exported_instance }}{{ . }}{{ else }}{{ $labels.instance }}{{ end }}";

/// Pairs of a name and a value.
pub type Labels = &'static [(&'static str, &'static str)];

/// What a person does when it fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Look this week.
    Warning,
    /// Look now.
    Critical,
}

impl Severity {
    /// Its word in the label `severity`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// An alert rule.
///
/// In its texts `{instance}` stands for the instance, `{value}` and `{duration}` for the value as a number
/// and as a time span, and any other word in braces for the label of that name.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Its name. A warning and a critical rule about one thing share it.
    pub name: &'static str,
    /// When it fires.
    pub expression: String,
    /// For how many minutes that has to hold.
    pub hold_minutes: u32,
    /// What to do.
    pub severity: Severity,
    /// What is wrong, in a few words.
    pub summary: String,
    /// What it means.
    pub description: String,
    /// What to type.
    pub command: String,
    /// Series that make it fire, and series that do not.
    pub cases: Vec<Case>,
}

/// Series, and what the rule makes of them.
#[derive(Clone, Debug)]
pub struct Case {
    /// Says what this is, as a sentence.
    pub what: &'static str,
    /// What there is.
    pub series: Vec<Series>,
    /// After how many minutes the rule is looked at.
    pub at_minutes: u32,
    /// The alerts that fire then. None where the rule is quiet.
    pub expected: Vec<Expected>,
}

/// A series, with a value for every minute.
#[derive(Clone, Debug)]
pub struct Series {
    /// Name of the metric.
    pub metric: &'static str,
    /// Its labels beside those that Prometheus adds, and beside `instance`.
    pub labels: Labels,
    /// Its values in promtool's notation: `1x30` is 1 for 31 minutes, `_x5` nothing for five.
    pub values: &'static str,
}

/// An alert that fires.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    /// Labels of its series beside those that Prometheus adds, and beside `instance`.
    pub labels: Labels,
    /// What `{value}` or `{duration}` becomes.
    pub value: &'static str,
    /// Whether the series is one of ours, and so has the instance.
    pub has_instance: bool,
    /// Whether the series has the labels of a target at all.
    pub has_target: bool,
}

impl Expected {
    /// An alert about an instance.
    #[must_use]
    pub fn of_instance(labels: Labels, value: &'static str) -> Self {
        Self {
            labels,
            value,
            has_instance: true,
            has_target: true,
        }
    }
}

/// How a host is scraped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scrape {
    /// `honor_labels: true`: our `instance` stays.
    Honoured,
    /// Prometheus' default: ours becomes `exported_instance`.
    Exported,
}

/// What Prometheus calls the scraped host in the tests.
const TARGET: &str = "forge:9100";

impl Scrape {
    fn labels(self, has_instance: bool) -> Vec<(String, String)> {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let mut labels = vec![pair("job", "node")];
        match (self, has_instance) {
            (Self::Honoured, true) => labels.push(pair("instance", "main")),
            (_, false) => labels.push(pair("instance", TARGET)),
            (Self::Exported, true) => {
                labels.push(pair("instance", TARGET));
                labels.push(pair("exported_instance", "main"));
            }
        }
        labels
    }
}

impl Rule {
    /// The rule as Prometheus reads it.
    pub(crate) fn as_rule(&self) -> Value {
        json!({
            "alert": self.name,
            "expr": self.expression,
            "for": format!("{}m", self.hold_minutes),
            "labels": { "severity": self.severity.word() },
            "annotations": self.annotations(&template),
        })
    }

    fn annotations(&self, rendered: &dyn Fn(&str) -> String) -> Value {
        json!({
            "summary": fill(&self.summary, rendered),
            "description": fill(&self.description, rendered),
            "runbook": fill(&self.command, rendered),
        })
    }

    /// A group of promtool's unit tests for each case, with labels honoured and not.
    #[must_use]
    pub fn tests(&self) -> Vec<Value> {
        [Scrape::Honoured, Scrape::Exported]
            .iter()
            .flat_map(|scrape| self.cases.iter().map(|case| self.test(case, *scrape)))
            .collect()
    }

    fn test(&self, case: &Case, scrape: Scrape) -> Value {
        let series: Vec<Value> = case
            .series
            .iter()
            .map(|series| json!({ "series": series.selector(scrape), "values": series.values }))
            .collect();
        let alerts: Vec<Value> = case
            .expected
            .iter()
            .map(|expected| {
                let mut labels: Vec<(String, String)> = if expected.has_target {
                    scrape.labels(expected.has_instance)
                } else {
                    Vec::new()
                };
                labels.extend(owned(expected.labels));
                let annotations = self.annotations(&|word| match word {
                    "instance" if expected.has_instance => "main".into(),
                    "value" | "duration" => expected.value.into(),
                    label => labels
                        .iter()
                        .find(|(name, _)| name == label)
                        .map_or_else(String::new, |(_, value)| value.clone()),
                });
                let mut named: Map<String, Value> = labels
                    .iter()
                    .map(|(name, value)| (name.clone(), json!(value)))
                    .collect();
                named.insert("severity".into(), json!(self.severity.word()));
                json!({ "exp_labels": named, "exp_annotations": annotations })
            })
            .collect();
        json!({
            "name": format!("{}: {} ({scrape:?})", self.name, case.what),
            "interval": "1m",
            "input_series": series,
            "alert_rule_test": [{
                "eval_time": format!("{}m", case.at_minutes),
                "alertname": self.name,
                "exp_alerts": alerts,
            }],
        })
    }
}

impl Series {
    fn selector(&self, scrape: Scrape) -> String {
        let is_ours = !crate::OF_THE_EXPORTER.contains(&self.metric);
        let mut labels = scrape.labels(is_ours);
        labels.extend(owned(self.labels));
        let labels: Vec<String> = labels
            .iter()
            .map(|(name, value)| format!("{name}=\"{value}\""))
            .collect();
        format!("{}{{{}}}", self.metric, labels.join(","))
    }
}

fn owned(labels: Labels) -> impl Iterator<Item = (String, String)> {
    labels
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
}

/// The template of Prometheus for a word in braces.
fn template(word: &str) -> String {
    match word {
        "instance" => INSTANCE.into(),
        "value" => "{{ $value }}".into(),
        "duration" => "{{ $value | humanizeDuration }}".into(),
        label => format!("{{{{ $labels.{label} }}}}"),
    }
}

/// Replaces each word in braces. Text without a closing brace stays as it is.
fn fill(text: &str, rendered: &dyn Fn(&str) -> String) -> String {
    let mut filled = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        let Some((word, after)) = after.split_once('}') else {
            break;
        };
        filled.push_str(before);
        filled.push_str(&rendered(word));
        rest = after;
    }
    filled + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_in_braces_become_templates() {
        assert_eq!(
            fill("a {instance}, {check}: {duration}", &template),
            format!("a {INSTANCE}, {{{{ $labels.check }}}}: {{{{ $value | humanizeDuration }}}}")
        );
        assert_eq!(fill("no end {", &template), "no end {");
    }
}
