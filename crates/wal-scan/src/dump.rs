use std::fs::{self, File};
use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use archive::{Archive, Cluster};
use cluster::Programs;
use wal::{SegmentName, SegmentSize, WalFileName};

use crate::line::{WalRecord, parse_line};

/// How much unpacked WAL is held at a time, in bytes.
const UNPACKED_BYTES: u64 = 256 << 20;

/// Where a segment is read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The archive.
    Archive,
    /// A server's `pg_wal`, where it may still be written.
    File(PathBuf),
}

/// A segment to scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its name.
    pub name: SegmentName,
    /// Where it is.
    pub source: Source,
}

/// Reads the WAL in `segments`, which follow each other, and calls `record` with each record.
///
/// The end of the WAL within the last segment is no error: that is where the server is writing.
///
/// # Errors
///
/// Fails when a segment cannot be read or unpacked, when `pg_waldump` finds damage before the last
/// segment, and with the first error of `record`.
pub fn scan(
    archive: &Archive,
    cluster: &Cluster,
    programs: &Programs,
    segments: &[Segment],
    mut record: impl FnMut(&WalRecord<'_>) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let unpacked = tempfile::Builder::new()
        .prefix("backstay-wal")
        .tempdir()
        .context("create a directory for unpacked WAL")?;
    let size = cluster.segment_size()?;
    let at_a_time = usize::try_from(UNPACKED_BYTES / size.bytes())?.max(2);
    // Records cross from one segment to the next, so each stretch begins with the last segment of
    // the one before. `seen` keeps the records of that segment from being reported twice.
    let mut seen = None;
    let mut begin = 0;
    while begin < segments.len() {
        let end = (begin + at_a_time).min(segments.len());
        let stretch = &segments[begin..end];
        let (Some(first), Some(last)) = (stretch.first(), stretch.last()) else {
            break;
        };
        // One name for all timelines: pg_waldump follows only one, and the files tell it the rest.
        let timeline = last.name.timeline();
        let file_of = |segment: &Segment| {
            unpacked
                .path()
                .join(segment.name.with_timeline(timeline).to_string())
        };
        for segment in stretch {
            unpack(archive, cluster, segment, &file_of(segment))?;
        }
        let mut stopped = false;
        let command = programs
            .command("pg_waldump")
            .arg("--path")
            .arg(unpacked.path())
            .arg(first.name.with_timeline(timeline).to_string())
            .arg(last.name.with_timeline(timeline).to_string());
        let ended = command.for_each_line(|line| {
            let Some(parsed) = parse_line(line) else {
                return Ok(());
            };
            if stopped || seen.is_some_and(|seen| parsed.lsn <= seen) {
                return Ok(());
            }
            seen = Some(parsed.lsn);
            stopped = record(&parsed)?.is_break();
            Ok(())
        })?;
        if stopped {
            return Ok(());
        }
        let is_last = end == segments.len();
        if !ended.status.success() && !is_end_of_wal(&ended.stderr) {
            bail!("\"{}\": {}", command.line(), ended.stderr.trim());
        }
        if let Some(seen) = seen
            && !is_last
            && seen < last.name.start(size)
        {
            bail!(
                "the WAL ends at {seen}, before segment \"{}\": {}",
                last.name,
                ended.stderr.trim()
            );
        }
        for segment in stretch {
            let path = file_of(segment);
            fs::remove_file(&path).with_context(|| format!("remove \"{}\"", path.display()))?;
        }
        if is_last {
            break;
        }
        begin = end - 1;
    }
    Ok(())
}

/// Reads the WAL in `directory` from the segment `first` to the segment `last`, which are on one timeline
/// and are there with all between them, and calls `record` with each record.
///
/// The end of the WAL within the last segment is no error.
///
/// # Errors
///
/// Fails when `pg_waldump` fails or finds damage before the last segment, and with the first error of
/// `record`.
pub fn scan_directory(
    programs: &Programs,
    directory: &Path,
    first: SegmentName,
    last: SegmentName,
    size: SegmentSize,
    mut record: impl FnMut(&WalRecord<'_>) -> Result<()>,
) -> Result<()> {
    let command = programs
        .command("pg_waldump")
        .arg("--path")
        .arg(directory)
        .arg(first.to_string())
        .arg(last.to_string());
    let mut seen = None;
    let ended = command.for_each_line(|line| {
        let Some(parsed) = parse_line(line) else {
            return Ok(());
        };
        seen = Some(parsed.lsn);
        record(&parsed)
    })?;
    if !ended.status.success() && !is_end_of_wal(&ended.stderr) {
        bail!("\"{}\": {}", command.line(), ended.stderr.trim());
    }
    // A record may begin before the last segment and go on in it, and nothing follow.
    let whole = |seen: wal::Lsn| seen >= last.start(size) || last == first;
    if let Some(seen) = seen
        && !whole(seen)
        && SegmentName::containing(last.timeline(), seen, size).next(size) != Some(last)
    {
        bail!(
            "the WAL ends at {seen}, before segment \"{last}\": {}",
            ended.stderr.trim()
        );
    }
    Ok(())
}

/// Whether `pg_waldump` stopped where valid WAL ends, as it does in a segment that is being written.
fn is_end_of_wal(stderr: &str) -> bool {
    [
        "invalid record length",
        "invalid magic number",
        "unexpected pageaddr",
        "there is no contrecord flag",
        "invalid contrecord length",
        "record with incorrect prev-link",
        "could not find a valid record after",
        "could not find file",
        "out-of-sequence timeline",
        "incorrect resource manager data checksum",
        "invalid resource manager ID",
    ]
    .iter()
    .any(|end| stderr.contains(end))
}

fn unpack(archive: &Archive, cluster: &Cluster, segment: &Segment, to: &Path) -> Result<()> {
    let mut out = File::create(to).with_context(|| format!("create \"{}\"", to.display()))?;
    match &segment.source {
        Source::Archive => {
            archive.read(cluster, &WalFileName::Segment(segment.name), &mut |part| {
                out.write_all(part)
                    .with_context(|| format!("write \"{}\"", to.display()))
            })?;
        }
        Source::File(path) => {
            let mut file = durable_file::open_regular(path)
                .with_context(|| format!("open \"{}\"", path.display()))?;
            durable_file::copy_bytes(&mut file, &mut out)
                .map_err(|err| anyhow!("copy \"{}\": {err}", path.display()))?;
        }
    }
    Ok(())
}
