//! R9 and R11: random targets over a history of three timelines, each compared with the ledger.

use anyhow::{Context as _, Result};
use testbed::{Cluster, ClusterOptions, Entry, Ledger, LedgerOptions, Stop, Testbed, Until};
use wal::{Lsn, TimelineId};

/// How many targets are tried on each version of PostgreSQL; the campaign asks for more.
fn targets() -> usize {
    std::env::var("BACKSTAY_TARGETS")
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(17)
}

/// A repeatable source of choices.
struct Choices(u64);

impl Choices {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).unwrap_or(0)
    }
}

/// Writes, then goes back to the middle of what was written; returns where the old timeline ended.
fn write_and_go_back(cluster: &Cluster, ledger: &Ledger) -> Result<Lsn> {
    let before = ledger.entries().len();
    ledger.resume();
    ledger.wait_for_commits(300)?;
    ledger.pause()?;
    let entries = ledger.entries();
    let middle = entries[before..]
        .iter()
        .filter_map(|entry| entry.commit)
        .nth(200)
        .context("too few commits")?;
    let outcome = cluster
        .run(
            "backstay",
            [
                "restore",
                "main",
                "--yes",
                "--json",
                "--to",
                &format!("lsn:{}", middle.start),
            ],
        )?
        .expect_success()?
        .json()?;
    outcome["endedAt"]
        .as_str()
        .context("no end")?
        .parse()
        .map_err(|err| anyhow::anyhow!("{err}"))
}

#[test]
fn r9_r11_random_targets_over_three_timelines_reach_exactly_what_the_ledger_has() -> Result<()> {
    let testbed = Testbed::new()?;
    let cluster = testbed.cluster("main", ClusterOptions::archiving().segment_size_mib(1))?;
    cluster.start()?;
    let ledger = cluster.ledger(&LedgerOptions {
        writers: 3,
        payload_bytes: 2000,
        ..LedgerOptions::default()
    })?;
    ledger.wait_for_commits(20)?;
    ledger.pause()?;
    cluster
        .run("pg-base-backup", ["--full"])?
        .expect_success()?;
    let from = ledger.entries().len();
    let left_first = write_and_go_back(&cluster, &ledger)?;
    let left_second = write_and_go_back(&cluster, &ledger)?;
    ledger.resume();
    ledger.wait_for_commits(300)?;
    ledger.stop()?;
    cluster.archive_everything()?;

    let timeline = |id| TimelineId::new(id).context("no timeline");
    let left = [(timeline(1)?, left_first), (timeline(2)?, left_second)];
    let entries = ledger.entries();
    let mut choices = Choices(0x9E37_79B9_7F4A_7C15);
    for number in 0..targets() {
        let id = 1 + choices.below(3);
        let ancestors = left[..id - 1].to_vec();
        let is_on_path = |entry: &&Entry| {
            entry.commit.is_some_and(|commit| {
                commit.timeline.get() as usize == id
                    || ancestors
                        .iter()
                        .any(|(old, end)| commit.timeline == *old && commit.start < *end)
            })
        };
        let candidates: Vec<&Entry> = entries[from..].iter().filter(is_on_path).collect();
        let entry = candidates[choices.below(candidates.len())];
        let commit = entry.commit.context("no commit")?;
        let inclusive = choices.below(2) == 0;
        let (target, stop) = match choices.below(3) {
            0 => (commit.time.to_string(), Stop::Time(commit.time, inclusive)),
            1 => (
                format!("xid:{}", commit.xid),
                Stop::Xid(commit.xid, inclusive),
            ),
            _ => (
                format!("lsn:{}", commit.start),
                Stop::Lsn(commit.start, inclusive),
            ),
        };
        // The path may go on to a later timeline; the target is on the one of its commit.
        let until = Until {
            ancestors: left[..commit.timeline.get() as usize - 1].to_vec(),
            timeline: commit.timeline,
            stop,
        };
        let place = (number, id);
        reach(
            &testbed, &cluster, &ledger, place, &target, inclusive, &until,
        )
        .with_context(|| {
            format!("target {number}: {target} (inclusive: {inclusive}) on timeline {id}")
        })?;
    }
    println!("{} targets, each exact to the row", targets());
    Ok(())
}

fn reach(
    testbed: &Testbed,
    cluster: &Cluster,
    ledger: &Ledger,
    (number, timeline): (usize, usize),
    target: &str,
    inclusive: bool,
    until: &Until,
) -> Result<()> {
    let directory = testbed.path().join(format!("copy-{number}"));
    let into = directory.display().to_string();
    let timeline = timeline.to_string();
    let mut arguments = vec![
        "restore",
        "main",
        "--yes",
        "--to",
        target,
        "--timeline",
        &timeline,
        "--into",
        &into,
    ];
    if !inclusive {
        arguments.push("--exclusive");
    }
    let restored = cluster.run("backstay", arguments)?.expect_success()?;
    let copy = testbed.adopt(&directory, cluster.settings_path())?;
    copy.start()?;
    ledger
        .expected(until)
        .compare(&copy)?
        .expect_exact()
        .with_context(|| format!("{until:?}\n{}{}", restored.stdout, restored.stderr))?;
    copy.stop(testbed::StopMode::Immediate)?;
    std::fs::remove_dir_all(&directory)?;
    Ok(())
}
