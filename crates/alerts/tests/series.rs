//! What rules and panels read is what programs write, and the other way round.

use std::collections::BTreeSet;

use alerts::{OF_THE_EXPORTER, Rule, board, board_expressions, checks, rules, severities_of};
use textfile::{METRICS, Metric, table};

/// The words of an expression that can be names of series or labels.
fn words(expression: &str) -> impl Iterator<Item = &str> {
    // What stands in quotes is a value.
    expression
        .split('"')
        .step_by(2)
        .flat_map(|part| part.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')))
        .filter(|word| word.contains('_'))
}

fn series(expression: &str) -> impl Iterator<Item = &str> {
    words(expression).filter(|word| word.starts_with("postgresql_") || word.starts_with("node_"))
}

fn metric(name: &str) -> Option<&'static Metric> {
    METRICS.iter().find(|metric| metric.name == name)
}

/// The selectors of an expression: the metric with each of its labels and values in braces.
fn selectors(expression: &str) -> Vec<(&str, Vec<(&str, &str)>)> {
    let mut found = Vec::new();
    let mut rest = expression;
    while let Some((before, after)) = rest.split_once('{') {
        let name = before
            .rsplit(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
            .next()
            .unwrap_or_default();
        let (inside, after) = after.split_once('}').unwrap_or((after, ""));
        let labels = inside
            .split(", ")
            .filter_map(|matcher| matcher.split_once('='))
            .map(|(label, value)| (label, value.trim_start_matches('~').trim_matches('"')))
            .collect();
        found.push((name, labels));
        rest = after;
    }
    found
}

#[test]
fn every_series_of_a_rule_or_a_panel_is_in_the_table() {
    let expressions = rules()
        .into_iter()
        .map(|rule| rule.expression)
        .chain(board_expressions());
    for expression in expressions {
        let mut any = false;
        for name in series(&expression) {
            assert!(
                metric(name).is_some() || OF_THE_EXPORTER.contains(&name),
                "{name} is written by nobody: {expression}"
            );
            any = true;
        }
        assert!(any, "no series in {expression}");
    }
}

#[test]
fn every_metric_is_read_by_a_rule_or_a_panel() {
    let read: BTreeSet<String> = rules()
        .into_iter()
        .map(|rule| rule.expression)
        .chain(board_expressions())
        .flat_map(|expression| series(&expression).map(str::to_owned).collect::<Vec<_>>())
        .collect();
    for metric in METRICS {
        assert!(read.contains(metric.name), "nothing reads {}", metric.name);
    }
}

#[test]
fn a_selector_names_labels_that_the_metric_has_and_values_that_there_are() {
    let of_jobs = [
        "check",
        "base-backup",
        "snapshot",
        "prune",
        "drill",
        "replica",
    ];
    let objectives = ["rpo", "offsite-rpo", "rto"];
    for expression in rules()
        .into_iter()
        .map(|rule| rule.expression)
        .chain(board_expressions())
    {
        for (name, labels) in selectors(&expression) {
            let Some(metric) = metric(name) else {
                continue;
            };
            for (label, value) in labels {
                if ["instance", "exported_instance"].contains(&label) {
                    continue;
                }
                assert!(metric.labels.contains(&label), "{label} in {expression}");
                let is_known = match label {
                    "check" => checks().any(|check| check == value),
                    "of" => of_jobs.contains(&value),
                    "objective" => objectives.contains(&value),
                    _ => false,
                };
                assert!(is_known, "{label}=\"{value}\" in {expression}");
            }
        }
    }
}

#[test]
fn every_rule_says_what_is_wrong_what_it_means_and_what_to_type() {
    let mut seen = BTreeSet::new();
    for rule in rules() {
        let Rule {
            name,
            severity,
            summary,
            description,
            command,
            cases,
            ..
        } = &rule;
        assert!(seen.insert((*name, *severity)), "{name} is there twice");
        assert!(name.starts_with("PostgreSQL"), "{name}");
        for text in [summary, description, command] {
            assert!(!text.is_empty() && text.trim() == text, "{name}: {text:?}");
        }
        assert!(
            cases.iter().any(|case| !case.expected.is_empty()),
            "{name} never fires"
        );
        assert!(
            cases.iter().any(|case| case.expected.is_empty()),
            "{name} is never quiet"
        );
    }
}

#[test]
fn h11_every_job_that_can_die_has_a_rule_that_fires_when_it_is_dead() {
    for job in [
        table::HEALTH_LAST_CHECK,
        table::BACKUP_LAST_RUN,
        table::SNAPSHOT_LAST_RUN,
        table::PRUNE_LAST_RUN,
        table::DRILL_LAST_SUCCESS,
        table::DUMP_LAST_SUCCESS,
    ] {
        let is_noticed = rules().iter().any(|rule| {
            rule.expression.starts_with(&format!("time() - {job} > "))
                && rule
                    .cases
                    .iter()
                    .any(|case| case.what.starts_with("h11: ") && !case.expected.is_empty())
        });
        assert!(is_noticed, "{job}");
    }
}

#[test]
fn a_check_that_can_be_a_warning_and_critical_has_a_rule_for_each() {
    for check in checks() {
        let matcher = format!("check=\"{check}\"");
        let rules = rules();
        let mut of_check: Vec<_> = rules
            .iter()
            .filter(|rule| rule.expression.contains(&matcher))
            .map(|rule| rule.severity)
            .collect();
        of_check.sort();
        assert_eq!(of_check, severities_of(check), "{check}");
        assert!(!of_check.is_empty(), "{check}");
    }
    assert!(severities_of("no such check").is_empty());
}

#[test]
fn panels_do_not_overlap_and_each_has_a_number_of_its_own() {
    let board = board();
    let panels = board["panels"].as_array().expect("panels");
    let mut taken = BTreeSet::new();
    let mut numbers = BTreeSet::new();
    for panel in panels {
        let at = |key: &str| panel["gridPos"][key].as_u64().expect("a number");
        assert!(at("x") + at("w") <= 24, "{panel:#}");
        for x in at("x")..at("x") + at("w") {
            for y in at("y")..at("y") + at("h") {
                assert!(taken.insert((x, y)), "{panel:#}");
            }
        }
        assert!(numbers.insert(panel["id"].as_u64()));
    }
    assert!(panels.len() > 40);
    assert!(board.to_string().contains(table::HEALTH.name));
}
