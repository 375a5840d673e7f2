//! What `pg-prune` removes from the archive and the base backups of a real server, what it leaves, and
//! whether what it leaves can still be restored.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use archive::Archive;
use base_backups::{Record, Repository};
use command::Command;
use jiff::SignedDuration;
use serde_json::{Value, json};
use testbed::{Cluster, ClusterOptions, Commit, Run, StopMode, Testbed, strace, wait_until};
use wal::{TimelineHistory, WalFileName};

const FAKETIME: &str = "/usr/bin/faketime";

/// A cluster with base backups and rows between them.
struct House {
    testbed: Testbed,
    cluster: Cluster,
    /// The backups in the order in which they were taken, each with a commit after it.
    backups: Vec<(String, Commit)>,
}

impl House {
    fn new(retention: &Value) -> Result<Self> {
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
    fn with_two(retention: &Value, old: i64, new: i64) -> Result<Self> {
        let mut house = Self::new(retention)?;
        house.back_up()?;
        house.back_up()?;
        house.age(0, old)?;
        house.age(1, new)?;
        Ok(house)
    }

    /// Takes a backup and writes a row and some segments after it.
    fn back_up(&mut self) -> Result<()> {
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
    fn snapshots(&self) -> PathBuf {
        self.cluster.home().join(".zfs/snapshot")
    }

    /// Copies the data directory to where a snapshot would be, then writes `row` and some segments.
    fn snapshot(&self, name: &str, row: i32) -> Result<Commit> {
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

    fn name(&self, backup: usize) -> &str {
        &self.backups[backup].0
    }

    /// Makes the record of a backup say that it was taken `days` earlier than it says.
    fn age(&self, backup: usize, days: i64) -> Result<()> {
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

    fn prune(&self, arguments: &[&str]) -> Result<Run> {
        self.cluster.run("pg-prune", arguments)
    }

    fn archive(&self) -> Result<Archive> {
        Archive::open(&self.cluster.archive(), "main")
    }

    fn repository(&self) -> Result<Repository> {
        Repository::open(&self.cluster.backups(), "main")
    }

    /// Names of the archived files.
    fn wal(&self) -> Result<BTreeSet<String>> {
        names_in(&self.archive()?)
    }

    /// Names of the backups that count.
    fn counted(&self) -> Result<BTreeSet<String>> {
        Ok(self
            .repository()?
            .list()?
            .into_iter()
            .map(|record| record.name)
            .collect())
    }

    /// Everything that can be removed, to be compared.
    fn stock(&self) -> Result<(BTreeSet<String>, BTreeSet<String>)> {
        Ok((self.counted()?, self.wal()?))
    }

    /// Restores to `target` beside the server and returns the rows there.
    fn rows_at(&self, target: &str) -> Result<String> {
        self.rows_from("base-backup", target)
    }

    /// As [`House::rows_at`], and the restore begins with `from`.
    fn rows_from(&self, from: &str, target: &str) -> Result<String> {
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
    fn after(&self, backup: usize) -> String {
        format!("lsn:{}", self.backups[backup].1.start)
    }

    /// What must hold whatever happened: each backup that counts is whole and has its WAL.
    fn index_is_true(&self) -> Result<()> {
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
    fn refuses(&self, run: Run, expected: &str) -> Result<()> {
        let run = run.expect_code(1)?;
        ensure!(
            run.stderr.contains(expected) && run.stderr.contains("hint: "),
            "\"{expected}\" not in {}",
            run.stderr
        );
        self.index_is_true()
    }
}

fn names_in(archive: &Archive) -> Result<BTreeSet<String>> {
    let listing = archive.list(archive.newest_cluster()?)?;
    Ok(listing
        .files
        .iter()
        .map(|(name, _)| name.to_string())
        .collect())
}

/// Keeps what the window needs, and nothing for days, weeks or months before it.
fn window(days: u32) -> Value {
    json!({ "days": days, "daily": 0, "weekly": 0, "monthly": 0 })
}

#[test]
fn p11_the_plan_is_what_is_removed_and_what_is_kept_can_be_restored() -> Result<()> {
    let mut house = House::new(&window(10))?;
    house.back_up()?;
    house.back_up()?;
    // Onto a second timeline.
    house
        .cluster
        .run(
            "backstay",
            ["restore", "main", "--yes", "--no-backup", "--to", "latest"],
        )?
        .expect_success()?;
    house.back_up()?;
    house.back_up()?;
    for (backup, days) in [(0, 100), (1, 60), (2, 20), (3, 1)] {
        house.age(backup, days)?;
    }
    let (backups, wal) = house.stock()?;
    let plan = house
        .prune(&["--plan", "--json"])?
        .expect_success()?
        .json()?;
    ensure!(
        house.stock()? == (backups.clone(), wal.clone()),
        "the plan removed something"
    );
    house.prune(&[])?.expect_success()?;

    let planned = |key: &str, name: &str| -> Result<BTreeSet<String>> {
        plan[key]
            .as_array()
            .context("no list")?
            .iter()
            .map(|value| {
                value
                    .pointer(name)
                    .and_then(Value::as_str)
                    .map(ToOwned::to_owned)
                    .with_context(|| format!("{key}: {value}"))
            })
            .collect()
    };
    let planned_backups = planned("removeBackups", "/id")?;
    let planned_wal = planned("removeWal", "/1")?;
    let (left_backups, left_wal) = house.stock()?;
    assert_eq!(&backups - &left_backups, planned_backups);
    assert_eq!(&wal - &left_wal, planned_wal);
    assert_eq!(
        planned_backups,
        BTreeSet::from([house.name(0).to_owned(), house.name(1).to_owned()])
    );
    ensure!(!planned_wal.is_empty(), "no WAL was to be removed");
    ensure!(
        left_wal.contains("00000002.history"),
        "the history file is gone: {left_wal:?}"
    );
    house.index_is_true()?;
    assert_eq!(house.rows_at(&house.after(2))?, "0,1,2");
    assert_eq!(house.rows_at("latest")?, "0,1,2,3");

    // Nothing is left to do.
    house.prune(&[])?.expect_success()?;
    assert_eq!(house.stock()?, (left_backups, left_wal));
    Ok(())
}

#[test]
fn what_a_snapshot_leads_to_can_still_be_restored_after_the_base_backups_before_it_are_gone()
-> Result<()> {
    let mut house = House::new(&window(10))?;
    house.back_up()?;
    let commit = house.snapshot("daily", 100)?;
    house.back_up()?;
    house.back_up()?;
    for (backup, days) in [(0, 30), (1, 20), (2, 1)] {
        house.age(backup, days)?;
    }
    let before = house.wal()?;
    let run = house.prune(&[])?.expect_success()?;
    ensure!(
        run.stdout
            .contains("keep    WAL for snapshot daily: in the last 10 days"),
        "{}",
        run.stdout
    );
    // The first base backup and its WAL went; what came after the snapshot did not.
    ensure!(!house.counted()?.contains(house.name(0)), "nothing expired");
    ensure!(house.wal()? != before, "no WAL expired");
    let after = format!("lsn:{}", commit.start);
    assert_eq!(house.rows_from("snapshot:daily", &after)?, "0,100");
    assert_eq!(house.rows_from("snapshot:daily", "latest")?, "0,1,2,100");

    // With the snapshot goes what only it needed.
    let with = house.wal()?;
    fs::remove_dir_all(house.snapshots().join("daily"))?;
    house.prune(&[])?.expect_success()?;
    ensure!(house.wal()?.len() < with.len(), "its WAL is still there");
    assert_eq!(house.rows_at("latest")?, "0,1,2,100");
    Ok(())
}

#[test]
fn a_snapshot_that_cannot_be_read_keeps_all_wal_and_is_named() -> Result<()> {
    let house = House::with_two(&window(1), 20, 10)?;
    house.snapshot("daily", 100)?;
    let (_, wal) = house.stock()?;
    let data = house.cluster.data().file_name().context("no name")?;
    let control = house
        .snapshots()
        .join("daily")
        .join(data)
        .join("global/pg_control");
    fs::write(&control, [0; 8192])?;
    let run = house.prune(&[])?.expect_success()?;
    ensure!(
        run.stderr
            .contains("snapshot \"daily\" cannot be read, so all WAL is kept: use \"")
            && run.stderr.contains("hint: "),
        "{}",
        run.stderr
    );
    assert_eq!(house.wal()?, wal);
    // Base backups need no snapshot.
    assert_eq!(house.counted()?, BTreeSet::from([house.name(1).to_owned()]));

    fs::remove_dir_all(house.snapshots().join("daily"))?;
    house.prune(&[])?.expect_success()?;
    ensure!(house.wal()?.len() < wal.len(), "nothing expired");
    house.index_is_true()
}

#[test]
fn for_a_snapshot_from_before_the_window_no_wal_is_kept_and_windows_says_so() -> Result<()> {
    if !Path::new(FAKETIME).exists() {
        testbed::skip!("faketime is not installed");
    }
    let mut house = House::new(&window(1))?;
    house.back_up()?;
    house.snapshot("first", 100)?;
    house.snapshot("second", 200)?;
    house.snapshot("third", 300)?;
    house.back_up()?;
    house.prune(&[])?.expect_success()?;
    assert_eq!(
        house.rows_from("snapshot:first", "latest")?,
        "0,1,100,200,300"
    );
    // In twenty days no moment is promised that only the first could lead to.
    let command = house
        .cluster
        .program("pg-prune", [""; 0])?
        .wrapped_in(FAKETIME, ["-f", "+20d"]);
    let run = Run::of(&command)?.expect_success()?;
    ensure!(
        run.stdout
            .contains("keep    WAL for snapshot second: begins the last 1 day")
            && run.stdout.contains("snapshot third: begins the last 1 day")
            && !run.stdout.contains("snapshot first"),
        "{}",
        run.stdout
    );
    assert_eq!(
        house.rows_from("snapshot:second", "latest")?,
        "0,1,100,200,300"
    );
    let windows = house.cluster.run("backstay", ["windows", "main"])?;
    let shown = windows.expect_success()?.stdout;
    ensure!(
        shown.matches("    only to before 0000").count() == 1,
        "{shown}"
    );
    let into = house.testbed.path().join("no").display().to_string();
    let run = house.cluster.run(
        "backstay",
        [
            "restore",
            "main",
            "--yes",
            "--from",
            "snapshot:first",
            "--to",
            "latest",
            "--into",
            &into,
        ],
    )?;
    house.refuses(run, "missing")
}

#[test]
fn p4_the_newest_good_backup_stays_when_everything_is_expired() -> Result<()> {
    let house = House::with_two(&window(1), 28, 25)?;
    house.prune(&[])?.expect_success()?;
    assert_eq!(house.counted()?, BTreeSet::from([house.name(1).to_owned()]));
    assert_eq!(house.rows_at("latest")?, "0,1");
    Ok(())
}

#[test]
fn p4_the_last_good_backup_stays_when_the_newest_is_damaged() -> Result<()> {
    let mut house = House::with_two(&window(1), 28, 26)?;
    house.back_up()?;
    house.age(2, 25)?;
    let backups = house.cluster.backups();
    let manifest = backups.join(house.name(2)).join("backup_manifest");
    let text = fs::read_to_string(&manifest)?;
    fs::write(&manifest, &text[..text.len() - 10])?;
    house.prune(&[])?.expect_success()?;
    let left = house.counted()?;
    ensure!(
        left.contains(house.name(1)) && !left.contains(house.name(0)),
        "{left:?}"
    );
    assert_eq!(house.rows_at(&house.after(1))?, "0,1");
    // And on past the damaged one, once it is out of the way.
    durable_file::move_to_new_name(
        &backups.join(house.name(2)),
        &house.testbed.path().join("damaged"),
    )?;
    assert_eq!(house.rows_at("latest")?, "0,1,2");
    Ok(())
}

#[test]
fn p8_foreign_files_are_left_alone_and_counted() -> Result<()> {
    let house = House::with_two(&window(1), 20, 10)?;
    let archive = house.archive()?;
    let segment = house
        .wal()?
        .into_iter()
        .find(|name| name.len() == 24)
        .context("no segment")?;
    let name = WalFileName::parse(&segment).map_err(|err| anyhow!("{err}"))?;
    let stored = archive.path_of(archive.newest_cluster()?, &name)?;
    let beside = stored.parent().context("no directory")?;
    let backups = house.cluster.backups();
    let foreign = [
        beside.join("notes.txt"),
        beside.join(format!("{segment}.zst")),
        beside.join("00000001000000FF000000FF"),
        house.cluster.archive().join("README"),
        backups.join("README"),
        backups.join("20200101-000000"),
        backups.join("mine/file"),
        backups.join(".backstay/notes.json"),
    ];
    for path in &foreign {
        fs::create_dir_all(path.parent().context("no directory")?)?;
        fs::write(path, "mine")?;
    }
    let run = house.prune(&[])?.expect_success()?;
    ensure!(
        run.stderr
            .contains("3 files in the archive are not the archive's"),
        "{}",
        run.stderr
    );
    assert_eq!(house.counted()?.len(), 1);
    for path in &foreign {
        ensure!(
            fs::read(path).is_ok_and(|text| text == b"mine"),
            "\"{}\" was touched",
            path.display()
        );
    }
    Ok(())
}

#[test]
fn p3_nothing_is_removed_while_a_base_backup_is_taken() -> Result<()> {
    let house = House::with_two(&window(1), 20, 10)?;
    let before = house.stock()?;
    house
        .cluster
        .change_settings(&json!({ "baseBackup": { "maximumRateKibibytesPerSecond": 8 << 10 } }))?;
    std::thread::scope(|scope| -> Result<()> {
        let taking = scope.spawn(|| house.cluster.run("pg-base-backup", ["--full"]));
        wait_until("a backup is being taken", || {
            Ok(fs::read_dir(house.cluster.backups())?
                .flatten()
                .any(|entry| entry.path().extension().is_some_and(|e| e == "partial"))
                .then_some(()))
        })?;
        let refused = house.refuses(house.prune(&[])?, "another program is at work");
        taking
            .join()
            .map_err(|_| anyhow!("a panic"))??
            .expect_success()?;
        refused
    })?;
    ensure!(before.0.is_subset(&house.counted()?), "a backup is gone");
    ensure!(before.1.is_subset(&house.wal()?), "WAL is gone");
    house.prune(&[])?.expect_success()?;
    house.index_is_true()
}

#[test]
fn p14_nothing_is_removed_while_a_restore_reads_and_a_killed_one_holds_nothing() -> Result<()> {
    let house = House::with_two(&window(1), 20, 10)?;
    let before = house.stock()?;
    let into = house.testbed.path().join("copy");
    let into_text = into.display().to_string();
    let mut restore = house
        .cluster
        .program(
            "backstay",
            [
                "restore", "main", "--yes", "--to", "latest", "--into", &into_text,
            ],
        )?
        .start_with_log(&house.testbed.path().join("restore.log"))?;
    let signal = |name: &str, id: u32| {
        Command::new("/bin/kill")
            .args([name, &id.to_string()])
            .run()
            .map(drop)
    };
    wait_until("the restore has begun", || {
        ensure!(restore.has_ended()?.is_none(), "the restore has ended");
        Ok(durable_file::with_suffix(&into, ".backstay-staging")
            .exists()
            .then_some(()))
    })?;
    signal("-STOP", restore.id())?;
    house.refuses(house.prune(&[])?, "a restore is reading")?;
    assert_eq!(house.stock()?, before);
    signal("-KILL", restore.id())?;
    restore.wait()?;
    house.prune(&[])?.expect_success()?;
    assert_eq!(house.counted()?.len(), 1);
    assert_eq!(house.rows_at("latest")?, "0,1");
    Ok(())
}

#[test]
fn p5_nothing_is_removed_when_the_clock_is_wrong() -> Result<()> {
    let house = House::with_two(&window(1), 20, 10)?;
    let before = house.stock()?;
    // What a clock that is ten years behind, or ahead, makes of the records.
    for days in [-3650, 3650] {
        house.age(0, days)?;
        house.age(1, days)?;
        house.refuses(house.prune(&[])?, "and the clock says")?;
        house.refuses(house.prune(&["--plan"])?, "and the clock says")?;
        house.age(0, -days)?;
        house.age(1, -days)?;
    }
    assert_eq!(house.stock()?, before);
    if !Path::new(FAKETIME).exists() {
        testbed::skip!("faketime is not installed, so that only the records were changed");
    }
    for (clock, expected) in [
        ("+3650d", "and the clock says"),
        ("-3650d", "which cannot be"),
        ("-1000d", "and the clock says"),
        ("@1970-01-02 00:00:00", "which cannot be"),
    ] {
        let command = house
            .cluster
            .program("pg-prune", [""; 0])?
            .wrapped_in(FAKETIME, ["-f", clock]);
        house
            .refuses(Run::of(&command)?, expected)
            .with_context(|| clock.to_owned())?;
    }
    assert_eq!(house.stock()?, before);
    Ok(())
}

/// A house whose server is stopped, with a copy of what is about to be pruned.
struct Pruned {
    house: House,
    pristine: PathBuf,
    expected: (BTreeSet<String>, BTreeSet<String>),
}

impl Pruned {
    fn new() -> Result<Self> {
        let house = House::with_two(&window(1), 20, 10)?;
        house.cluster.stop(StopMode::Fast)?;
        let pristine = house.testbed.path().join("pristine");
        fs::create_dir(&pristine)?;
        for directory in [house.cluster.archive(), house.cluster.backups()] {
            copy_into(&directory, &pristine)?;
        }
        house.prune(&[])?.expect_success()?;
        let expected = house.stock()?;
        let pruned = Self {
            house,
            pristine,
            expected,
        };
        pruned.reset()?;
        ensure!(pruned.house.stock()? != pruned.expected, "nothing to prune");
        Ok(pruned)
    }

    fn reset(&self) -> Result<()> {
        for directory in [self.house.cluster.archive(), self.house.cluster.backups()] {
            fs::remove_dir_all(&directory)?;
            let name = directory.file_name().context("no name")?;
            copy_into(&self.pristine.join(name), self.house.cluster.home())?;
        }
        Ok(())
    }

    /// After anything: what counts is whole, nothing needed is gone, and the next run goes on to the
    /// end.
    fn converges(&self) -> Result<()> {
        self.house.index_is_true()?;
        let (backups, wal) = self.house.stock()?;
        ensure!(
            self.expected.0.is_subset(&backups) && self.expected.1.is_subset(&wal),
            "something that is kept is gone"
        );
        let all_wal = names_in(&Archive::open(&self.pristine.join("archive"), "main")?)?;
        ensure!(
            wal == all_wal || backups == self.expected.0,
            "WAL went before the backup that needs it"
        );
        self.house.prune(&[])?.expect_success()?;
        ensure!(self.house.stock()? == self.expected, "another end");
        ensure!(self.house.repository()?.unfinished()?.is_empty());
        Ok(())
    }

    /// Faults at calls that remove or rename, at most `limit` for each; returns how many.
    fn fault_everywhere(
        &self,
        fault: &str,
        limit: u32,
        judge: impl Fn(&Run) -> Result<()>,
    ) -> Result<u32> {
        let log = self.house.testbed.path().join("strace");
        let command = self.house.cluster.program("pg-prune", [""; 0])?;
        let calls = strace::count_calls(&command, &log)?;
        self.reset()?;
        let mut points = 0;
        for name in [
            "unlink",
            "unlinkat",
            "rmdir",
            "rename",
            "renameat",
            "renameat2",
            "fsync",
        ] {
            let count = calls.get(name).copied().unwrap_or(0);
            let limit = limit.min(count);
            // The first, the last, and some between.
            let chosen: BTreeSet<u32> = (0..limit)
                .map(|n| 1 + n * (count - 1) / (limit - 1).max(1))
                .collect();
            for number in chosen {
                let run = strace::run_with_fault(&command, &log, name, fault, number)?;
                let at = || format!("{fault} at call {number} of {count} of {name}");
                judge(&run).with_context(at)?;
                self.converges().with_context(at)?;
                self.reset()?;
                points += 1;
            }
        }
        println!("{points} points with {fault}");
        Ok(points)
    }
}

fn copy_into(from: &Path, directory: &Path) -> Result<()> {
    Command::new("/bin/cp")
        .arg("-a")
        .arg(from)
        .arg(directory)
        .run()
        .map(drop)
}

#[test]
fn p2_a_kill_at_any_removal_leaves_a_true_index_and_the_next_run_goes_on() -> Result<()> {
    if !strace::is_available() {
        testbed::skip!("strace is not installed");
    }
    let pruned = Pruned::new()?;
    let points = pruned.fault_everywhere("signal=SIGKILL", 8, |_| Ok(()))?;
    ensure!(points >= 10, "only {points} points");
    Ok(())
}

#[test]
fn p10_a_removal_that_fails_is_an_error_and_the_next_run_goes_on() -> Result<()> {
    if !strace::is_available() {
        testbed::skip!("strace is not installed");
    }
    let pruned = Pruned::new()?;
    let mut points = 0;
    for error in ["EIO", "EACCES"] {
        points += pruned.fault_everywhere(&format!("error={error}"), 3, |run| {
            if run.code() == Some(1) && run.stderr.contains("could not prune") {
                return Ok(());
            }
            bail!("{}: {}", command::how_it_ended(run.status), run.stderr)
        })?;
    }
    ensure!(points >= 10, "only {points} points");
    Ok(())
}

#[test]
fn p10_a_directory_that_cannot_be_written_is_an_error_that_names_the_file() -> Result<()> {
    let pruned = Pruned::new()?;
    let house = &pruned.house;
    let first = (&house.wal()? - &pruned.expected.1)
        .pop_first()
        .context("no WAL to remove")?;
    let archive = house.archive()?;
    let name = WalFileName::parse(&first).map_err(|err| anyhow!("{err}"))?;
    let path = archive.path_of(archive.newest_cluster()?, &name)?;
    let directory = path.parent().context("no directory")?;
    let mode = |mode| fs::set_permissions(directory, fs::Permissions::from_mode(mode));
    mode(0o550)?;
    let run = house.prune(&[]);
    mode(0o750)?;
    let run = run?.expect_code(1)?;
    ensure!(
        run.stderr.contains(&first) && run.stderr.contains("Permission denied"),
        "{}",
        run.stderr
    );
    pruned.converges()
}
