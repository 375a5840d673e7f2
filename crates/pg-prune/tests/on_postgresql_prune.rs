//! What `pg-prune` removes from the archive and the base backups of a real server, what it leaves, and
//! whether what it leaves can still be restored.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow, ensure};
use command::Command;
use serde_json::{Value, json};
use testbed::{Run, wait_until};
use wal::WalFileName;

use common::{House, window};

const FAKETIME: &str = "/usr/bin/faketime";

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
