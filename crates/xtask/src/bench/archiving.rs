//! The archiver works off a backlog.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::contender::{Contender, SetUp};
use super::corpus::{Corpus, SEGMENT_BYTES};
use super::report::{Cell, Report, Table, median, print_table, ratio};
use super::server::{Server, processor_time};
use super::{contender, progress, turns};

/// How many segments are archived to count what is synced.
const COUNTED: u32 = 8;

/// What one run of one contender gave.
#[derive(Clone, Copy, Debug)]
struct Drain {
    elapsed: Duration,
    processor: Duration,
}

/// Lets every contender work off the backlog `runs` times, in turn.
pub fn measure(
    corpus: &Corpus,
    contenders: &[Contender],
    runs: u32,
    report: &mut Report,
) -> Result<()> {
    let mut drains: Vec<Vec<Drain>> = vec![Vec::new(); contenders.len()];
    for run in 1..=runs {
        for turn in turns(contenders.len(), run) {
            let contender = &contenders[turn];
            progress(format_args!(
                "archiving, {}, run {run} of {runs}: {}",
                corpus.kind.name(),
                contender.name
            ));
            drains[turn].push(drain(corpus, contender)?);
        }
    }
    let segments = f64::from(corpus.count());
    let mut table = Table::new(&[
        "",
        "segments/s",
        "CPU ms/segment",
        "syncs/segment: file",
        "directory",
        "checksum",
        "stored MiB",
        "ratio",
        "files",
    ]);
    for (contender, drains) in contenders.iter().zip(&drains) {
        let per_second = median(
            drains
                .iter()
                .map(|drain| segments / drain.elapsed.as_secs_f64()),
        );
        let processor = median(
            drains
                .iter()
                .map(|drain| drain.processor.as_secs_f64() * 1000.0 / segments),
        );
        report.remember(corpus.kind, "archiving", contender.name, per_second);
        let stored = stored(&corpus.root(contender).join("repository"))?;
        let syncs = count_syncs(corpus, contender)?;
        table.row(vec![
            Cell::text(contender.name),
            Cell::number(per_second, 1),
            Cell::number(processor, 1),
            Cell::number(syncs.files, 1),
            Cell::number(syncs.directories, 1),
            Cell::text(contender.checksum),
            Cell::number(ratio(stored.bytes, 1 << 20), 0),
            if stored.bytes == 0 {
                Cell::text("")
            } else {
                Cell::number(
                    ratio(u64::from(corpus.count()) * SEGMENT_BYTES, stored.bytes),
                    2,
                )
            },
            Cell::number(ratio(stored.files, 1), 0),
        ]);
    }
    print_table(
        &format!(
            "Archiving {} {} segments, medians of {runs} runs",
            corpus.count(),
            corpus.kind.name()
        ),
        "From the start of the server to the last segment marked as archived. The processor time is that of \
         the server and of everything it started. Syncs are those below the archive's directory; a file or \
         directory that is not synced may be gone after a power failure although it was reported as archived.",
        &table,
    );
    report.target(
        corpus.kind,
        "archiving",
        (contender::OURS_LZ4, contender::PGBACKREST_LZ4),
        1.7,
    );
    report.target(
        corpus.kind,
        "archiving",
        (contender::OURS_LZ4_AHEAD, contender::PGBACKREST_ASYNC_LZ4),
        1.4,
    );
    Ok(())
}

/// Archives the corpus once, and leaves the archive for others to restore from.
pub fn fill(corpus: &Corpus, contender: &Contender) -> Result<()> {
    drain(corpus, contender).map(drop)
}

fn drain(corpus: &Corpus, contender: &Contender) -> Result<Drain> {
    let (data, _) = prepare(corpus, contender, corpus.segments.len())?;
    // What earlier runs wrote is not to be written during this one.
    nix::unistd::sync();
    let before = processor_time()?;
    let mut server = Server::start(&corpus.server, &data, &[])?;
    let elapsed = server.wait(|| Ok(archived(&data, corpus, corpus.segments.len())))?;
    server.end()?;
    Ok(Drain {
        elapsed,
        processor: processor_time()?.saturating_sub(before),
    })
}

fn prepare(
    corpus: &Corpus,
    contender: &Contender,
    waiting: usize,
) -> Result<(std::path::PathBuf, SetUp)> {
    let data = corpus.cluster_after(waiting, &[])?;
    let set_up = contender.set_up(&corpus.root(contender), &data, &corpus.server)?;
    let data = corpus.cluster_after(waiting, &set_up.archiving())?;
    Ok((data, set_up))
}

/// Whether the first `count` segments are marked as archived.
fn archived(data: &Path, corpus: &Corpus, count: usize) -> bool {
    let status = data.join("pg_wal/archive_status");
    // The last one first: while it is not done, the others need not be asked for.
    corpus.segments[..count]
        .iter()
        .rev()
        .all(|name| status.join(format!("{name}.done")).exists())
}

/// How often something was synced below the archive, for each segment.
#[derive(Debug, Default)]
struct Syncs {
    files: f64,
    directories: f64,
}

fn count_syncs(corpus: &Corpus, contender: &Contender) -> Result<Syncs> {
    // In a place of its own, so that the archive of the runs stays.
    let root = corpus.root(contender);
    let count_root = durable_file::with_suffix(&root, ".count");
    let trace = durable_file::with_suffix(&root, ".trace");
    let data = corpus.cluster_after(COUNTED as usize, &[])?;
    let set_up = contender.set_up(&count_root, &data, &corpus.server)?;
    let data = corpus.cluster_after(COUNTED as usize, &set_up.archiving())?;
    let around: Vec<String> = [
        "strace",
        "-f",
        "-qq",
        "-y",
        "-e",
        "trace=fsync,fdatasync,syncfs",
        "-o",
    ]
    .into_iter()
    .map(String::from)
    .chain([trace.display().to_string()])
    .collect();
    let mut server = Server::start(&corpus.server, &data, &around)?;
    server.wait(|| Ok(archived(&data, corpus, COUNTED as usize)))?;
    server.end()?;
    let text =
        fs::read_to_string(&trace).with_context(|| format!("read \"{}\"", trace.display()))?;
    let (mut files, mut directories) = (0, 0);
    for path in synced_paths(&text) {
        if !Path::new(path).starts_with(set_up.repository()) {
            continue;
        }
        // A temporary file has another name by now, a directory has not.
        if Path::new(path).is_dir() {
            directories += 1;
        } else {
            files += 1;
        }
    }
    fs::remove_dir_all(&count_root)
        .with_context(|| format!("remove \"{}\"", count_root.display()))?;
    let per_segment = |count: u32| f64::from(count) / f64::from(COUNTED);
    Ok(Syncs {
        files: per_segment(files),
        directories: per_segment(directories),
    })
}

/// The paths in lines like `12 fsync(5</archive/x>) = 0` of strace.
fn synced_paths(trace: &str) -> impl Iterator<Item = &str> {
    trace.lines().filter_map(|line| {
        let (_, rest) = line.split_once("sync")?;
        let (_, rest) = rest.split_once('<')?;
        Some(rest.split_once('>')?.0)
    })
}

/// What lies in a directory.
#[derive(Clone, Copy, Debug, Default)]
struct Stored {
    bytes: u64,
    files: u64,
}

fn stored(directory: &Path) -> Result<Stored> {
    let mut sum = Stored::default();
    let context = || format!("read \"{}\"", directory.display());
    for entry in fs::read_dir(directory).with_context(context)? {
        let entry = entry.with_context(context)?;
        let metadata = entry.metadata().with_context(context)?;
        if metadata.is_dir() {
            let below = stored(&entry.path())?;
            sum.bytes += below.bytes;
            sum.files += below.files;
        } else {
            sum.bytes += metadata.len();
            sum.files += 1;
        }
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn synced_paths_are_read_from_strace_6_1() {
        let trace = "4711 fsync(4</tmp/a/repository/x.tmp>) = 0\n\
                     4711 fdatasync(7</tmp/data/pg_wal/1>) = 0\n\
                     4712 fsync(5</tmp/a/repository> <unfinished ...>\n\
                     4712 <... fsync resumed>)              = 0\n\
                     4712 +++ exited with 0 +++\n";
        assert_eq!(
            synced_paths(trace).collect::<Vec<_>>(),
            [
                "/tmp/a/repository/x.tmp",
                "/tmp/data/pg_wal/1",
                "/tmp/a/repository"
            ]
        );
    }
}
