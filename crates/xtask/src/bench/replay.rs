//! Recovery replays WAL that it fetches from an archive.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::contender::Contender;
use super::corpus::Corpus;
use super::report::{Cell, Report, Table, median, print_table};
use super::server::{Server, processor_time};
use super::{archiving, contender, progress, turns};

/// The name in the report of the replay of WAL that needs no fetching.
const IN_PLACE: &str = "WAL already in pg_wal";
/// The name in the report of the replay whose `restore_command` has nothing to do.
const READY: &str = "mv of files that are ready";

/// Where the WAL comes from.
#[derive(Clone, Copy, Debug)]
enum Source<'a> {
    /// From nowhere: it is in `pg_wal`.
    InPlace,
    /// From a directory with every segment as PostgreSQL wrote it, by a `mv`. No `restore_command` can
    /// cost less: PostgreSQL starts a shell and a program, and makes what it was given durable.
    Ready,
    /// From an archive.
    Archive(&'a Contender),
}

/// What one run gave.
#[derive(Clone, Copy, Debug)]
struct Replay {
    elapsed: Duration,
    processor: Duration,
}

/// Replays the corpus `runs` times from each archive, in turn.
pub fn measure(
    corpus: &Corpus,
    contenders: &[Contender],
    runs: u32,
    report: &mut Report,
) -> Result<()> {
    let mut sources = vec![Source::InPlace, Source::Ready];
    for contender in contenders.iter().filter(|contender| contender.replays) {
        if !corpus.root(contender).exists() {
            progress(format_args!("archiving for {}", contender.name));
            archiving::fill(corpus, contender)?;
        }
        sources.push(Source::Archive(contender));
    }
    let mut replays: Vec<Vec<Replay>> = vec![Vec::new(); sources.len()];
    for run in 1..=runs {
        for turn in turns(sources.len(), run) {
            let source = sources[turn];
            progress(format_args!(
                "replay, {}, run {run} of {runs}: {}",
                corpus.kind.name(),
                name(source)
            ));
            replays[turn].push(replay(corpus, source)?);
        }
    }
    let mut table = Table::new(&[
        "",
        "segments/s",
        "of the rate in place",
        "CPU ms/segment",
        "fetches ahead",
    ]);
    let segments = f64::from(corpus.count());
    let per_second = |replays: &[Replay]| {
        median(
            replays
                .iter()
                .map(|replay| segments / replay.elapsed.as_secs_f64()),
        )
    };
    let in_place = per_second(&replays[0]);
    for (source, replays) in sources.iter().zip(&replays) {
        let rate = per_second(replays);
        let processor = median(
            replays
                .iter()
                .map(|replay| replay.processor.as_secs_f64() * 1000.0 / segments),
        );
        report.remember(corpus.kind, "replay", name(*source), rate);
        table.row(vec![
            Cell::text(name(*source)),
            Cell::number(rate, 1),
            Cell::percent(rate / in_place),
            Cell::number(processor, 1),
            Cell::text(match source {
                Source::InPlace | Source::Ready => "",
                Source::Archive(contender) if contender.prefetches() => "yes",
                Source::Archive(_) => "no",
            }),
        ]);
    }
    print_table(
        &format!(
            "Replaying {} {} segments, medians of {runs} runs",
            corpus.count(),
            corpus.kind.name()
        ),
        "From the first record that is replayed to the recovery target, by the times in the server's log.",
        &table,
    );
    for ours in [contender::OURS_LZ4_AHEAD, contender::OURS_ZSTD_AHEAD] {
        report.target(corpus.kind, "replay", (ours, IN_PLACE), 0.97);
        report.target(corpus.kind, "replay", (ours, READY), 0.97);
    }
    Ok(())
}

fn name(source: Source<'_>) -> &'static str {
    match source {
        Source::InPlace => IN_PLACE,
        Source::Ready => READY,
        Source::Archive(contender) => contender.name,
    }
}

fn replay(corpus: &Corpus, source: Source<'_>) -> Result<Replay> {
    let data = match source {
        Source::InPlace => corpus.cluster_before(true, "restore_command = '/bin/false'")?,
        Source::Ready => {
            let ready = corpus.ready_segments()?;
            let restoring = format!("restore_command = 'mv \"{}/%f\" \"%p\"'", ready.display());
            corpus.cluster_before(false, &restoring)?
        }
        Source::Archive(contender) => {
            let data = corpus.data_of_run();
            let root = corpus.root(contender);
            let set_up = contender.attach(&root, &data, &corpus.server)?;
            set_up.forget_prefetched()?;
            corpus.cluster_before(false, &set_up.restoring())?
        }
    };
    nix::unistd::sync();
    let before = processor_time()?;
    let log = Server::start(&corpus.server, &data, &[])?.wait_for_end()?;
    Ok(Replay {
        elapsed: replay_time(&log)
            .with_context(|| format!("find the replay in the log:\n{log}"))?,
        processor: processor_time()?.saturating_sub(before),
    })
}

/// The time between the line that says where replay starts and the one that says where it stops.
fn replay_time(log: &str) -> Option<Duration> {
    let at = |words: &str| -> Option<jiff::Timestamp> {
        let line = log.lines().find(|line| line.contains(words))?;
        // `%m` with the time zone UTC.
        let text = line.get(..23)?;
        format!("{text}Z").parse().ok()
    };
    let started = at("redo starts at")?;
    let stopped = at("recovery stopping")?;
    Duration::try_from(stopped - started).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_replay_is_read_from_the_log_of_postgresql_15() {
        let log = "2026-11-21 12:00:00.100 UTC [7] LOG:  starting point-in-time recovery\n\
                   2026-11-21 12:00:00.250 UTC [7] LOG:  redo starts at 0/1500110\n\
                   2026-11-21 12:00:02.000 UTC [7] LOG:  recovery stopping after WAL location (LSN) \"0/4C00028\"\n\
                   2026-11-21 12:00:02.300 UTC [7] LOG:  shutting down\n";
        assert_eq!(replay_time(log), Some(Duration::from_millis(1750)));
        assert_eq!(replay_time(""), None);
    }
}
