//! The report: tables in Markdown, and a line for each target.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};

use super::Measure;
use super::corpus::{Corpus, Kind};
use crate::process;

/// Figures that targets are about, and what became of the targets.
#[derive(Debug, Default)]
pub struct Report {
    measured: BTreeMap<(&'static str, &'static str, &'static str), f64>,
    targets: Vec<String>,
}

impl Report {
    /// Keeps a figure for a later target.
    pub fn remember(&mut self, kind: Kind, what: &'static str, who: &'static str, figure: f64) {
        self.measured.insert((kind.name(), what, who), figure);
    }

    /// Compares two figures that were remembered: the first should be `least` times the second.
    pub fn target(
        &mut self,
        kind: Kind,
        what: &'static str,
        (ours, theirs): (&'static str, &'static str),
        least: f64,
    ) {
        let figure = |who| self.measured.get(&(kind.name(), what, who)).copied();
        if let (Some(first), Some(second)) = (figure(ours), figure(theirs)) {
            self.at_least(
                &format!("{what}, {}: {ours} / {theirs}", kind.name()),
                first / second,
                least,
            );
        }
    }

    /// Notes whether a ratio is as large as it should be.
    pub fn at_least(&mut self, what: &str, ratio: f64, least: f64) {
        self.targets.push(format!(
            "{what} = {ratio:.2}; at least {least:.2}: {}",
            verdict(ratio >= least)
        ));
    }

    /// Notes whether a figure is as small as it should be.
    pub fn at_most(&mut self, what: &str, figure: f64, most: f64, unit: &str) {
        self.targets.push(format!(
            "{what} = {figure:.2} {unit}; at most {most:.2}: {}",
            verdict(figure <= most)
        ));
    }

    /// Prints the targets.
    pub fn conclude(&self) {
        println!("\n## Targets\n");
        for target in &self.targets {
            println!("- {target}");
        }
    }
}

/// Says on what machine and how it was measured.
pub fn print_introduction(testbed: &testbed::Testbed, measure: &Measure) -> Result<()> {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("processor of a kind it does not tell", |(_, model)| model);
    let processors = std::thread::available_parallelism().context("count the processors")?;
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let file_system = process::output(
        process::command("findmnt")
            .args(["--noheadings", "--output=FSTYPE", "--target"])
            .arg(testbed.path()),
    )?;
    let pgbackrest = process::output(process::command("pgbackrest").arg("version"))?;
    println!(
        "# Benchmark\n\n\
         PostgreSQL {}, {}, {processors} processors ({model}), Linux {}, {} for all files.\n\
         {} runs each, the contenders taking turns; figures of one machine, to be read as ratios.",
        testbed.server().version(),
        pgbackrest.trim(),
        kernel.trim(),
        file_system.trim(),
        measure.runs
    );
    Ok(())
}

/// Says what the WAL is.
pub fn print_corpus(corpus: &Corpus) {
    println!(
        "\nThe {} corpus: {} segments of 16 MiB, {:.2} times smaller with zstd -1, SHA-256 {}…",
        corpus.kind.name(),
        corpus.segments.len(),
        corpus.ratio,
        corpus.hash
    );
}

/// Prints a table.
pub fn print_table(title: &str, how: &str, table: &Table) {
    println!("\n## {title}\n\n{how}\n\n{}", table.markdown());
}

fn verdict(is_met: bool) -> &'static str {
    if is_met { "met" } else { "NOT MET" }
}

/// A table in Markdown.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<Cell>>,
}

/// A cell of a table.
#[derive(Clone, Debug)]
pub struct Cell {
    text: String,
    is_number: bool,
}

impl Cell {
    /// A cell with a text, at the left.
    pub fn text(text: &str) -> Self {
        Self {
            text: text.into(),
            is_number: false,
        }
    }

    /// A cell with a number, at the right.
    pub fn number(number: f64, decimals: usize) -> Self {
        Self {
            text: format!("{number:.decimals$}"),
            is_number: true,
        }
    }

    /// A cell with a share, at the right.
    pub fn percent(share: f64) -> Self {
        Self {
            text: format!("{:.0} %", share * 100.0),
            is_number: true,
        }
    }
}

impl Table {
    /// Makes a table with these titles.
    pub fn new(titles: &[&str]) -> Self {
        Self {
            rows: vec![titles.iter().map(|title| Cell::text(title)).collect()],
        }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    /// The table, with its columns in line for those who read it as text.
    pub fn markdown(&self) -> String {
        let columns = self.rows.first().map_or(0, Vec::len);
        let column = |index: usize| self.rows.iter().filter_map(move |row| row.get(index));
        let widths: Vec<usize> = (0..columns)
            .map(|index| {
                let widest = column(index).map(|cell| cell.text.chars().count()).max();
                widest.unwrap_or_default().max(3)
            })
            .collect();
        let is_number: Vec<bool> = (0..columns)
            .map(|index| column(index).any(|cell| cell.is_number))
            .collect();
        let mut lines = Vec::new();
        for (number, row) in self.rows.iter().enumerate() {
            let cells: Vec<String> = row
                .iter()
                .zip(&widths)
                .zip(&is_number)
                .map(|((cell, &width), is_number)| {
                    if *is_number {
                        format!("{:>width$}", cell.text)
                    } else {
                        format!("{:<width$}", cell.text)
                    }
                })
                .collect();
            lines.push(format!("| {} |", cells.join(" | ")));
            if number == 0 {
                let rules: Vec<String> = widths
                    .iter()
                    .zip(&is_number)
                    .map(|(&width, is_number)| {
                        if *is_number {
                            format!("{}:", "-".repeat(width - 1))
                        } else {
                            "-".repeat(width)
                        }
                    })
                    .collect();
                lines.push(format!("| {} |", rules.join(" | ")));
            }
        }
        lines.join("\n")
    }
}

/// The value in the middle, or the mean of the two there; 0 of nothing.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match (values.len() % 2, values.get(middle)) {
        (_, None) => 0.0,
        (1, Some(value)) => *value,
        (_, Some(value)) => f64::midpoint(values[middle - 1], *value),
    }
}

/// How often `part` goes into `whole`.
#[expect(
    clippy::cast_precision_loss,
    reason = "sizes in bytes, far below 2^53, for a figure with two decimals"
)]
pub fn ratio(whole: u64, part: u64) -> f64 {
    whole as f64 / part as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_value_in_the_middle() {
        assert!((median([3.0, 1.0, 2.0].into_iter()) - 2.0).abs() < f64::EPSILON);
        assert!((median([4.0, 1.0, 2.0, 3.0].into_iter()) - 2.5).abs() < f64::EPSILON);
    }

    #[test]
    fn a_table_is_markdown_with_numbers_at_the_right() {
        let mut table = Table::new(&["", "segments/s"]);
        table.row(vec![Cell::text("cp"), Cell::number(61.25, 1)]);
        table.row(vec![Cell::text("pgBackRest"), Cell::number(7.0, 1)]);
        assert_eq!(
            table.markdown(),
            "|            | segments/s |\n\
             | ---------- | ---------: |\n\
             | cp         |       61.2 |\n\
             | pgBackRest |        7.0 |"
        );
    }

    #[test]
    fn a_target_is_met_or_not_and_says_by_how_much() {
        let mut report = Report::default();
        report.remember(Kind::Compressible, "archiving", "a", 30.0);
        report.remember(Kind::Compressible, "archiving", "b", 20.0);
        report.target(Kind::Compressible, "archiving", ("a", "b"), 1.4);
        report.at_most("peak memory", 12.0, 10.0, "MiB");
        assert_eq!(
            report.targets,
            [
                "archiving, compressible: a / b = 1.50; at least 1.40: met",
                "peak memory = 12.00 MiB; at most 10.00: NOT MET"
            ]
        );
    }
}
