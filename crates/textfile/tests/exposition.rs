//! H6 and H9: what a reader of the files sees, by a parser that is as strict as the exporter's.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, bail, ensure};
use proptest::prelude::*;
use textfile::{File, METRICS, Writer, table};

/// A series: its name and its labels.
type Series = (String, BTreeMap<String, String>);

/// Reads the Prometheus text format, version 0.0.4, as far as our files may use it.
///
/// # Source
///
/// `text_parse.go` of prometheus/common: a name has one HELP and one TYPE, both before its samples,
/// and one block of samples; no series is there twice; the text ends with a newline.
fn parse(text: &str) -> Result<BTreeMap<Series, f64>> {
    ensure!(
        text.is_empty() || text.ends_with('\n'),
        "the end is missing"
    );
    let mut series = BTreeMap::new();
    let mut helped = BTreeSet::new();
    let mut typed = BTreeSet::new();
    let mut blocks: Vec<String> = Vec::new();
    for line in text.split_terminator('\n') {
        if let Some(rest) = line.strip_prefix("# ") {
            let mut words = rest.splitn(3, ' ');
            let (keyword, name) = (words.next(), words.next().context("a bare comment")?);
            let rest = words.next().context("an unfinished comment")?;
            ensure!(!blocks.contains(&name.to_owned()), "{line:?} is late");
            match keyword {
                Some("HELP") => ensure!(helped.insert(name.to_owned()), "{line:?} is there twice"),
                Some("TYPE") => {
                    ensure!(rest == "gauge", "{line:?}");
                    ensure!(typed.insert(name.to_owned()), "{line:?} is there twice");
                }
                _ => bail!("{line:?} is no comment of ours"),
            }
            continue;
        }
        let (name, rest) = line.split_once('{').with_context(|| format!("{line:?}"))?;
        ensure!(helped.contains(name) && typed.contains(name), "{line:?}");
        if blocks.last().is_none_or(|last| last != name) {
            ensure!(
                !blocks.contains(&name.to_owned()),
                "{name} is in two places"
            );
            blocks.push(name.to_owned());
        }
        let (labels, value) = parse_labels(rest).with_context(|| format!("{line:?}"))?;
        let value: f64 = value.parse().with_context(|| format!("{line:?}"))?;
        ensure!(
            series.insert((name.to_owned(), labels), value).is_none(),
            "{line:?} is there twice"
        );
    }
    Ok(series)
}

/// Reads `name="value",…} value`.
fn parse_labels(mut rest: &str) -> Result<(BTreeMap<String, String>, &str)> {
    let mut labels = BTreeMap::new();
    loop {
        let (name, after) = rest.split_once("=\"").context("no label")?;
        let mut value = String::new();
        let mut characters = after.char_indices();
        let end = loop {
            match characters.next().context("no closing quote")? {
                (at, '"') => break at,
                (_, '\\') => value.push(match characters.next().context("nothing escaped")?.1 {
                    'n' => '\n',
                    '\\' => '\\',
                    '"' => '"',
                    other => bail!("\\{other} is no escape"),
                }),
                (_, character) => value.push(character),
            }
        };
        ensure!(
            labels.insert(name.to_owned(), value).is_none(),
            "{name} twice"
        );
        rest = &after[end + 1..];
        match rest.strip_prefix(',') {
            Some(next) => rest = next,
            None => return Ok((labels, rest.strip_prefix("} ").context("no end")?)),
        }
    }
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

#[test]
fn every_metric_of_the_table_can_be_written() {
    for writer in Writer::ALL {
        let mut file = File::new(writer, "main");
        let mut expected = BTreeMap::new();
        for metric in METRICS.iter().filter(|metric| metric.writer == writer) {
            let values: Vec<&str> = metric.labels.iter().map(|_| "x").collect();
            file.set_for(metric, &values, 1.5);
            let mut all = labels(&[("instance", "main")]);
            all.extend(
                metric
                    .labels
                    .iter()
                    .map(|l| ((*l).to_owned(), "x".to_owned())),
            );
            expected.insert((metric.name.to_owned(), all), 1.5);
        }
        assert_eq!(parse(&file.text().unwrap()).unwrap(), expected);
    }
}

#[test]
fn the_parser_refuses_what_the_exporter_would() {
    for (text, why) in [
        (
            "# HELP a b\n# TYPE a gauge\na{i=\"x\"} 1",
            "the end is missing",
        ),
        ("# HELP a b\na{i=\"x\"} 1\n", "a{i"),
        ("# HELP a b\n# TYPE a info\na{i=\"x\"} 1\n", "TYPE a info"),
        (
            "# HELP a b\n# TYPE a gauge\na{i=\"x\"} 1\na{i=\"x\"} 2\n",
            "there twice",
        ),
        (
            "# HELP a b\n# TYPE a gauge\na{i=\"x\n\"} 1\n",
            "no closing quote",
        ),
    ] {
        let message = format!("{:#}", parse(text).unwrap_err());
        assert!(message.contains(why), "{text:?}: {message}");
    }
}

proptest! {
    #[test]
    fn h9_any_label_value_comes_back_as_it_was(
        value in any::<String>(), other in "[\"\\\\\n,}{=]{0,12}", number in -1e18..1e18_f64
    ) {
        let mut file = File::new(Writer::Health, "main");
        file.set_for(&table::SLOT_RETAINED, &[&value], number);
        file.set_for(&table::REPLICATION_LAG, &[&other], 0.0);
        let read = parse(&file.text().unwrap()).unwrap();
        let slot = labels(&[("instance", "main"), ("slot", &value)]);
        prop_assert_eq!(read.get(&(table::SLOT_RETAINED.name.to_owned(), slot)), Some(&number));
        let standby = labels(&[("instance", "main"), ("standby", &other)]);
        prop_assert!(read.contains_key(&(table::REPLICATION_LAG.name.to_owned(), standby)));
        prop_assert_eq!(read.len(), 2);
    }
}

/// A directory in memory where there is one: ten thousand files that are synced are no test of a disk.
fn directory() -> std::io::Result<tempfile::TempDir> {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())
}

#[test]
fn h6_a_reader_sees_no_torn_and_no_missing_file_through_ten_thousand_writes() {
    const WRITES: u32 = 10_000;
    let directory = directory().unwrap();
    let over = AtomicBool::new(false);
    let write = |number: u32| {
        let mut file = File::new(Writer::Health, "main");
        // Short and long files in turn, so that a torn one would show.
        for check in 0..(number % 2) * 100 {
            file.set_for(&table::HEALTH_CHECK_STATUS, &[&check.to_string()], 0.0);
        }
        file.set(&table::WAL_WAITING, number.into());
        file.write(directory.path()).unwrap()
    };
    let path = write(0);
    let seen = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut seen = BTreeSet::new();
            while !over.load(Ordering::Relaxed) {
                let text = std::fs::read_to_string(&path).expect("the file is missing");
                let series = parse(&text).expect("the file is torn");
                let name = (
                    table::WAL_WAITING.name.to_owned(),
                    labels(&[("instance", "main")]),
                );
                let number = series.get(&name).expect("the file is not whole");
                assert!([1, 101].contains(&series.len()), "{text}");
                assert_eq!(files_of_the_exporter(directory.path()), 1);
                seen.insert(number.to_bits());
            }
            seen
        });
        for number in 1..=WRITES {
            write(number);
        }
        over.store(true, Ordering::Relaxed);
        reader.join().unwrap()
    });
    assert!(seen.len() > 10, "the reader saw {} files", seen.len());
}

/// How many files the exporter would read.
fn files_of_the_exporter(directory: &Path) -> usize {
    std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().extension().is_some_and(|end| end == "prom"))
        .count()
}
