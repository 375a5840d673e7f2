//! Alert rules and a board, from the table of every metric.
//!
//! This crate is pure. A rule or a panel names a series by its constant in [`textfile::table`], so one
//! about a series that nothing writes does not compile. Each rule comes with the series that make it
//! fire and those that do not, of which promtool makes unit tests.
//!
//! Metrics have the label `instance`, which Prometheus renames to `exported_instance` unless the scrape
//! honours labels. Everything here works in both cases: series are joined [`ON_INSTANCE`], where a label
//! that is missing on both sides is equal, and texts take the one that is there.
//!
//! No rule has a number of its own that an option could say: limits come as metrics, from the instance
//! that they are declared for, so that one file of rules serves every host.

mod board;
mod checks;
mod rule;
mod rules;

pub use board::{board, expressions as board_expressions};
pub use rule::{Case, Expected, Labels, Rule, Series, Severity};
pub use rules::{rule_of_instance, rules};

use serde_json::{Value, json};

/// What makes an instance, whether labels are honoured or not.
pub const ON_INSTANCE: &str = "job, instance, exported_instance";

/// What the NixOS module replaces by the name of each instance.
pub const INSTANCE_PLACEHOLDER: &str = "@instance@";

/// Metrics of the node exporter itself that rules read: which files it has read, and whether it could.
pub const OF_THE_EXPORTER: [&str; 2] =
    ["node_textfile_mtime_seconds", "node_textfile_scrape_error"];

/// The rules as the file that Prometheus reads. It is JSON, which is YAML too.
#[must_use]
pub fn rule_file() -> Value {
    let rules: Vec<Value> = rules().iter().map(Rule::as_rule).collect();
    json!({ "groups": [{ "name": "backstay", "rules": rules }] })
}

/// The rule about a declared instance, as JSON in which [`INSTANCE_PLACEHOLDER`] stands for its name.
#[must_use]
pub fn template_of_instance() -> Value {
    rule_of_instance(INSTANCE_PLACEHOLDER).as_rule()
}

/// The names of all checks of `pg-healthcheck` that have a rule of their own.
pub fn checks() -> impl Iterator<Item = &'static str> {
    checks::CHECKS.iter().map(|check| check.word)
}

/// The severities with which a check of `pg-healthcheck` can end, as far as rules know.
#[must_use]
pub fn severities_of(check: &str) -> Vec<Severity> {
    checks::CHECKS
        .iter()
        .filter(|known| known.word == check)
        .flat_map(checks::CheckRule::severities)
        .collect()
}
