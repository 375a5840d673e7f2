//! Prometheus' own tool reads the rules and the panels, and runs each rule on series that make it fire and on
//! series that do not.

use std::path::Path;

use alerts::{
    INSTANCE_PLACEHOLDER, Severity, board_expressions, rule_file, rule_of_instance, rules,
    template_of_instance,
};
use anyhow::{Context as _, Result, ensure};
use command::Command;
use serde_json::{Value, json};
use textfile::{METRICS, Unit};

const PROMTOOL: &str = "/usr/bin/promtool";

fn is_installed() -> bool {
    Path::new(PROMTOOL).exists()
}

fn promtool(directory: &Path, arguments: &[&str]) -> Result<String> {
    let output = Command::new(PROMTOOL)
        .args(arguments)
        .directory(directory)
        .run()?;
    Ok(output.stdout)
}

fn write(directory: &Path, name: &str, value: &Value) -> Result<()> {
    std::fs::write(directory.join(name), format!("{value:#}")).context("write a file for promtool")
}

/// Runs unit tests on a file of rules.
fn test(file: &Value, tests: &[Value]) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let name = write_tests(directory.path(), 0, file, tests)?;
    promtool(directory.path(), &["test", "rules", &name]).map(drop)
}

/// Writes a file of rules and a file of tests of them.
fn write_tests(directory: &Path, number: usize, file: &Value, tests: &[Value]) -> Result<String> {
    let rules = format!("rules{number}.json");
    write(directory, &rules, file)?;
    let name = format!("tests{number}.json");
    let tests = json!({ "rule_files": [rules], "evaluation_interval": "1m", "tests": tests });
    write(directory, &name, &tests)?;
    Ok(name)
}

/// Leaves only the rules of one name.
fn only(mut file: Value, name: &str) -> Result<Value> {
    file.pointer_mut("/groups/0/rules")
        .and_then(Value::as_array_mut)
        .context("there are no rules")?
        .retain(|rule| rule["alert"] == name);
    Ok(file)
}

#[test]
fn promtool_takes_the_file_of_rules() -> Result<()> {
    if !is_installed() {
        testbed::skip!("{PROMTOOL} is not installed; the package prometheus has it");
    }
    let directory = tempfile::tempdir()?;
    write(directory.path(), "rules.json", &rule_file())?;
    let said = promtool(directory.path(), &["check", "rules", "rules.json"])?;
    let expected = format!("SUCCESS: {} rules found", rules().len());
    ensure!(said.contains(&expected), "{said}");
    Ok(())
}

#[test]
fn every_rule_fires_when_it_should_and_is_quiet_when_it_should_be() -> Result<()> {
    if !is_installed() {
        testbed::skip!("{PROMTOOL} is not installed; the package prometheus has it");
    }
    let directory = tempfile::tempdir()?;
    let mut arguments = vec!["test".to_owned(), "rules".to_owned()];
    // Each name by itself: promtool evaluates all rules of a file for every test.
    for (number, rule) in rules().iter().enumerate() {
        let tests = rule.tests();
        ensure!(tests.len() >= 4, "{} has {} tests", rule.name, tests.len());
        let file = only(rule_file(), rule.name)?;
        arguments.push(write_tests(directory.path(), number, &file, &tests)?);
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    promtool(directory.path(), &arguments).map(drop)
}

#[test]
fn the_rule_about_a_declared_instance_fires_when_nothing_is_heard_of_it() -> Result<()> {
    if !is_installed() {
        testbed::skip!("{PROMTOOL} is not installed; the package prometheus has it");
    }
    let template = template_of_instance().to_string();
    let rule: Value = serde_json::from_str(&template.replace(INSTANCE_PLACEHOLDER, "main"))?;
    let file = json!({ "groups": [{ "name": "instances", "rules": [rule] }] });
    test(&file, &rule_of_instance("main").tests())
}

/// An expression that is broken, a threshold that is moved or a text that is changed is noticed.
#[test]
fn a_rule_that_is_wrong_does_not_pass_its_tests() -> Result<()> {
    if !is_installed() {
        testbed::skip!("{PROMTOOL} is not installed; the package prometheus has it");
    }
    let rule = rules()
        .into_iter()
        .find(|rule| rule.name == "PostgreSQLChecksStopped" && rule.severity == Severity::Critical)
        .context("the rule is gone")?;
    for (path, value) in [
        (
            "/groups/0/rules/0/expr",
            "time() - postgresql_health_last_check_timestamp > 1e9",
        ),
        (
            "/groups/0/rules/0/expr",
            "time() - postgresql_health_last_check_timestamp >= 0",
        ),
        ("/groups/0/rules/0/for", "45m"),
        ("/groups/0/rules/0/annotations/summary", "another"),
    ] {
        let mut file = only(rule_file(), rule.name)?;
        ensure!(test(&file, &rule.tests()).is_ok(), "as it is, it fails");
        *file.pointer_mut(path).context("no such place")? = json!(value);
        ensure!(
            test(&file, &rule.tests()).is_err(),
            "{path} = {value} passes"
        );
    }
    Ok(())
}

/// Every panel has something to show of a host that writes every metric, with labels honoured and not, and
/// for one chosen instance as for all.
#[test]
fn every_panel_shows_something_whether_labels_are_honoured_or_not() -> Result<()> {
    if !is_installed() {
        testbed::skip!("{PROMTOOL} is not installed; the package prometheus has it");
    }
    let values = |label: &str| match label {
        "of" => &[
            "check",
            "base-backup",
            "snapshot",
            "prune",
            "drill",
            "replica",
        ][..],
        "objective" => &["rpo", "offsite-rpo", "rto"],
        _ => &["x"],
    };
    let mut tests = Vec::new();
    for target in [
        "job=\"node\",instance=\"main\"",
        "job=\"node\",instance=\"forge:9100\",exported_instance=\"main\"",
    ] {
        let mut series = Vec::new();
        for metric in METRICS {
            let value = if metric.unit == Unit::Timestamp {
                "0x60"
            } else {
                "1x60"
            };
            let labels: Vec<(&str, &[&str])> = metric
                .labels
                .iter()
                .map(|label| (*label, values(label)))
                .collect();
            // No metric has two labels with several values.
            let longest = labels
                .iter()
                .map(|(_, values)| values.len())
                .max()
                .unwrap_or(1);
            for number in 0..longest {
                let labels: Vec<String> = labels
                    .iter()
                    .map(|(name, values)| {
                        format!("{name}=\"{}\"", values[number.min(values.len() - 1)])
                    })
                    .collect();
                let labels = [&[target.to_owned()], &*labels].concat().join(",");
                series.push(json!({
                    "series": format!("{}{{{labels}}}", metric.name),
                    "values": value,
                }));
            }
        }
        let count = |chosen: &str, found: u8| -> Vec<Value> {
            board_expressions()
                .iter()
                .map(|expression| {
                    let expression = expression.replace("$instance", chosen);
                    let found = if expression.contains("=~") { found } else { 1 };
                    json!({
                        "expr": format!("clamp_max(count({expression}), 1) or vector(0)"),
                        "eval_time": "30m",
                        "exp_samples": [{ "labels": "{}", "value": found }],
                    })
                })
                .collect()
        };
        let mut queries = count(".+", 1);
        queries.extend(count("main", 1));
        queries.extend(count("other", 0));
        tests
            .push(json!({ "interval": "1m", "input_series": series, "promql_expr_test": queries }));
    }
    test(&json!({ "groups": [] }), &tests)
}
