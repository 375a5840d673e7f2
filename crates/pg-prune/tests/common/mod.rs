//! A real server with base backups, WAL and copies of its data directory, from which `pg-prune` removes.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow, ensure};
use archive::Archive;
use base_backups::{Record, Repository};
use jiff::SignedDuration;
use serde_json::{Value, json};
use testbed::{Cluster, ClusterOptions, Commit, Run, StopMode, Testbed};
use wal::{TimelineHistory, WalFileName};

/// A cluster with base backups and rows between them.
pub struct House {
    /// Where everything lies.
    pub testbed: Testbed,
    /// The cluster.
    pub cluster: Cluster,
    /// The backups in the order in which they were taken, each with a commit after it.
    pub backups: Vec<(String, Commit)>,
}

#[allow(dead_code, reason = "each test file uses a part")]
impl House {
    pub fn new(retention: &Value) -> Result<Self> {
        let testbed = Testbed::new()?;
        let cluster = testbed.cluster(
            "main",
            ClusterOptions::archiving()
                .segment_size_mib(1)
                .settings(&json!({ "retention": retention })),
        )?;
        cluster.start()?;
        cluster.psql("CREATE TABLE rows (i int)")?;
        Ok(Self {
            testbed,
            cluster,
            backups: Vec::new(),
        })
    }

    /// Two backups, the first of them `old` days old, the second `new`.
    pub fn with_two(retention: &Value, old: i64, new: i64) -> Result<Self> {
        let mut house = Self::new(retention)?;
        house.back_up()?;
        house.back_up()?;
        house.age(0, old)?;
        house.age(1, new)?;
        Ok(house)
    }

    /// Takes a backup and writes a row and some segments after it.
    pub fn back_up(&mut self) -> Result<()> {
        let run = self
            .cluster
            .run("pg-base-backup", ["--full", "--json"])?
            .expect_success()?;
        let record: Record = serde_json::from_value(run.json()?)?;
        let commit = self
            .cluster
            .commit(&format!("INSERT INTO rows VALUES ({})", self.backups.len()))?;
        for _ in 0..3 {
            self.cluster.archive_everything()?;
        }
        self.backups.push((record.name, commit));
        Ok(())
    }

    /// Where ZFS would show the snapshots of the data directory.
    pub fn snapshots(&self) -> PathBuf {
        self.cluster.home().join(".zfs/snapshot")
    }

    /// Copies the data directory to where a snapshot would be, then writes `row` and some segments.
    pub fn snapshot(&self, name: &str, row: i32) -> Result<Commit> {
        self.cluster.psql("CHECKPOINT")?;
        let root = self.snapshots().join(name);
        fs::create_dir_all(&root)?;
        let data = self.cluster.data().file_name().context("no name")?;
        self.cluster.copy_at_one_moment(&root.join(data))?;
        let commit = self
            .cluster
            .commit(&format!("INSERT INTO rows VALUES ({row})"))?;
        for _ in 0..3 {
            self.cluster.archive_everything()?;
        }
        Ok(commit)
    }

    pub fn name(&self, backup: usize) -> &str {
        &self.backups[backup].0
    }

    /// Makes the record of a backup say that it was taken `days` earlier than it says.
    pub fn age(&self, backup: usize, days: i64) -> Result<()> {
        let path = self
            .cluster
            .backups()
            .join(".backstay")
            .join(format!("{}.json", self.name(backup)));
        let mut record: Record = serde_json::from_slice(&fs::read(&path)?)?;
        let by = SignedDuration::from_hours(24 * days);
        record.started_at -= by;
        record.stopped_at -= by;
        fs::write(&path, serde_json::to_vec_pretty(&record)?)?;
        Ok(())
    }

    pub fn prune(&self, arguments: &[&str]) -> Result<Run> {
        self.cluster.run("pg-prune", arguments)
    }

    pub fn archive(&self) -> Result<Archive> {
        Archive::open(&self.cluster.archive(), "main")
    }

    pub fn repository(&self) -> Result<Repository> {
        Repository::open(&self.cluster.backups(), "main")
    }

    /// Names of the archived files.
    pub fn wal(&self) -> Result<BTreeSet<String>> {
        names_in(&self.archive()?)
    }

    /// Names of the backups that count.
    pub fn counted(&self) -> Result<BTreeSet<String>> {
        Ok(self
            .repository()?
            .list()?
            .into_iter()
            .map(|record| record.name)
            .collect())
    }

    /// Everything that can be removed, to be compared.
    pub fn stock(&self) -> Result<(BTreeSet<String>, BTreeSet<String>)> {
        Ok((self.counted()?, self.wal()?))
    }

    /// Restores to `target` beside the server and returns the rows there.
    pub fn rows_at(&self, target: &str) -> Result<String> {
        self.rows_from("base-backup", target)
    }

    /// As [`House::rows_at`], and the restore begins with `from`.
    pub fn rows_from(&self, from: &str, target: &str) -> Result<String> {
        let into = self.testbed.path().join("copy");
        let into_text = into.display().to_string();
        self.cluster
            .run(
                "backstay",
                [
                    "restore", "main", "--yes", "--from", from, "--to", target, "--into",
                    &into_text,
                ],
            )?
            .expect_success()?;
        let copy = self.testbed.adopt(&into, self.cluster.settings_path())?;
        copy.start()?;
        let rows = copy.psql("SELECT string_agg(i::text, ',' ORDER BY i) FROM rows")?;
        copy.stop(StopMode::Immediate)?;
        fs::remove_dir_all(&into)?;
        Ok(rows)
    }

    /// The target right after the commit that followed `backup`.
    pub fn after(&self, backup: usize) -> String {
        format!("lsn:{}", self.backups[backup].1.start)
    }

    /// What must hold whatever happened: each backup that counts is whole and has its WAL.
    pub fn index_is_true(&self) -> Result<()> {
        let repository = self.repository()?;
        let archive = self.archive()?;
        for record in repository.list()? {
            base_backups::check(&repository, &record, &base_backups::Progress::default())?;
            let cluster = archive.cluster(record.system_identifier)?;
            let needed = wal::segments_needed(
                &TimelineHistory::without_parents(record.timeline),
                (record.timeline, record.start_lsn),
                record.stop_lsn,
                cluster.segment_size()?,
            )
            .map_err(|err| anyhow!("{err}"))?;
            for segment in needed {
                archive
                    .read(cluster, &WalFileName::Segment(segment), &mut |_| Ok(()))
                    .with_context(|| format!("\"{}\" counts", record.name))?;
            }
        }
        Ok(())
    }

    /// Refuses, with a hint, and leaves everything whole.
    pub fn refuses(&self, run: Run, expected: &str) -> Result<()> {
        let run = run.expect_code(1)?;
        ensure!(
            run.stderr.contains(expected) && run.stderr.contains("hint: "),
            "\"{expected}\" not in {}",
            run.stderr
        );
        self.index_is_true()
    }
}

pub fn names_in(archive: &Archive) -> Result<BTreeSet<String>> {
    let listing = archive.list(archive.newest_cluster()?)?;
    Ok(listing
        .files
        .iter()
        .map(|(name, _)| name.to_string())
        .collect())
}

/// Keeps what the window needs, and nothing for days, weeks or months before it.
pub fn window(days: u32) -> Value {
    json!({ "days": days, "daily": 0, "weekly": 0, "monthly": 0 })
}
