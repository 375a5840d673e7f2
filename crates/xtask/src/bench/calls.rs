//! A single call: its time, its processor time and its memory.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use super::contender::{Contender, call};
use super::corpus::Corpus;
use super::progress;
use super::report::{Cell, Table, median, print_table};
use super::server::processor_time;

/// How many calls are made, each for another segment.
const CALLS: usize = 21;

/// For how many more the memory is measured.
const WEIGHED: usize = 5;

/// What the calls of one contender cost.
#[derive(Debug, Default)]
struct Costs {
    /// In milliseconds.
    elapsed: Vec<f64>,
    /// In milliseconds.
    processor: Vec<f64>,
    memory_mebibytes: f64,
}

/// Makes calls that archive and calls that restore, and returns the peak memory of ours, in MiB.
pub fn measure(corpus: &Corpus, contenders: &[Contender]) -> Result<f64> {
    let mut largest = 0.0_f64;
    let mut table = Table::new(&[
        "",
        "archive: ms",
        "CPU ms",
        "peak MiB",
        "restore: ms",
        "CPU ms",
        "peak MiB",
    ]);
    let calls = CALLS.min(corpus.segments.len() - WEIGHED);
    for contender in contenders.iter().filter(|contender| contender.has_calls()) {
        progress(format_args!(
            "calls, {}: {}",
            corpus.kind.name(),
            contender.name
        ));
        let data = corpus.cluster_after(0, &[])?;
        let root = durable_file::with_suffix(&corpus.root(contender), ".calls");
        let set_up = contender.set_up(&root, &data, &corpus.server)?;
        let destination = data.join("pg_wal/RECOVERYXLOG").display().to_string();
        let mut pushes = Costs::default();
        let mut gets = Costs::default();
        for (index, name) in corpus.segments[..calls + WEIGHED].iter().enumerate() {
            let path = data.join("pg_wal").join(name).display().to_string();
            let push = set_up
                .push(&path, name)
                .context("find the call that archives")?;
            let get = set_up
                .get(name, &destination)
                .context("find the call that restores")?;
            if index < calls {
                pushes.time(&push)?;
                gets.time(&get)?;
            } else {
                pushes.weigh(&push)?;
                gets.weigh(&get)?;
            }
            let (sent, back) = (std::fs::read(&path), std::fs::read(&destination));
            ensure!(
                sent.context("read a segment")? == back.context("read a restored segment")?,
                "{}: {name} came back altered",
                contender.name
            );
            std::fs::remove_file(&destination).context("remove a restored segment")?;
        }
        std::fs::remove_dir_all(&root).with_context(|| format!("remove \"{}\"", root.display()))?;
        let mut row = vec![Cell::text(contender.name)];
        for costs in [&pushes, &gets] {
            row.push(Cell::number(median(costs.elapsed.iter().copied()), 1));
            row.push(Cell::number(median(costs.processor.iter().copied()), 1));
            row.push(Cell::number(costs.memory_mebibytes, 1));
            if contender.is_ours() {
                largest = largest.max(costs.memory_mebibytes);
            }
        }
        table.row(row);
    }
    print_table(
        &format!("A single call, {} segments", corpus.kind.name()),
        &format!(
            "Medians of {calls} calls, each for another segment; the memory is the largest of {WEIGHED} more. The server is not running."
        ),
        &table,
    );
    Ok(largest)
}

impl Costs {
    fn time(&mut self, words: &[String]) -> Result<()> {
        let before = processor_time()?;
        let begun = Instant::now();
        call(words)?;
        self.elapsed.push(begun.elapsed().as_secs_f64() * 1000.0);
        let processor = processor_time()?.saturating_sub(before);
        self.processor.push(processor.as_secs_f64() * 1000.0);
        Ok(())
    }

    /// Makes the call below GNU time, which is small: the peak of a process counts from that of the one
    /// that started it, and this one is larger than what it measures.
    fn weigh(&mut self, words: &[String]) -> Result<()> {
        let mut timed: Vec<String> = ["/usr/bin/time", "-f", "%M"].map(String::from).into();
        timed.extend_from_slice(words);
        let said = call(&timed)?;
        let kibibytes: f64 = said
            .lines()
            .last()
            .and_then(|line| line.trim().parse().ok())
            .with_context(|| format!("read what time said: {said}"))?;
        self.memory_mebibytes = self.memory_mebibytes.max(kibibytes / 1024.0);
        Ok(())
    }
}
