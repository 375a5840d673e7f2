//! What a restore refuses, and what it keeps when something goes wrong.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use archive::Archive;
use testbed::{Cluster, ClusterOptions, Run, StopMode, Testbed};
use wal::{SegmentName, WalFileName};

/// A cluster with a base backup and five segments of WAL after it, each with one row.
struct History {
    testbed: Testbed,
    cluster: Cluster,
    segments: Vec<SegmentName>,
}

impl History {
    fn new() -> Result<Self> {
        let testbed = Testbed::new()?;
        let cluster = testbed.cluster("main", ClusterOptions::archiving().segment_size_mib(1))?;
        cluster.start()?;
        cluster.psql("CREATE TABLE rows (i int)")?;
        cluster
            .run("pg-base-backup", ["--full"])?
            .expect_success()?;
        let mut segments = Vec::new();
        for i in 1..=5 {
            cluster.psql(&format!("INSERT INTO rows VALUES ({i})"))?;
            let name = cluster.archive_everything()?;
            segments.push(SegmentName::parse(&name)?);
        }
        Ok(Self {
            testbed,
            cluster,
            segments,
        })
    }

    fn stored(&self, segment: SegmentName) -> Result<PathBuf> {
        let archive = Archive::open(&self.cluster.archive(), "main")?;
        archive.path_of(archive.newest_cluster()?, &WalFileName::Segment(segment))
    }

    fn restore(&self, arguments: &[&str]) -> Result<Run> {
        let mut all = vec!["restore", "main", "--yes"];
        all.extend(arguments);
        self.cluster.run("backstay", all)
    }

    fn refuses(&self, arguments: &[&str], expected: &str) -> Result<()> {
        let run = self.restore(arguments)?.expect_code(1)?;
        ensure!(run.stderr.contains(expected), "{}", run.stderr);
        ensure!(run.stderr.contains("hint: "), "no hint: {}", run.stderr);
        ensure!(self.cluster.is_running(), "the server was stopped");
        assert_eq!(self.rows()?, "5");
        Ok(())
    }

    fn rows(&self) -> Result<String> {
        self.cluster.psql("SELECT count(*) FROM rows")
    }

    /// Starts what was restored into `directory` and counts its rows.
    fn rows_in(&self, directory: &Path) -> Result<String> {
        let copy = self
            .testbed
            .adopt(directory, self.cluster.settings_path())?;
        copy.start()?;
        copy.psql("SELECT count(*) FROM rows")
    }
}

#[test]
fn r7_a_gap_is_refused_before_anything_is_stopped_and_the_missing_file_is_named() -> Result<()> {
    let history = History::new()?;
    let gap = [history.segments[2], history.segments[3]];
    // The server still has the segments in pg_wal, where they do not help a restore on a new machine.
    for (number, path) in gap
        .iter()
        .flat_map(|segment| {
            let own = history
                .cluster
                .data()
                .join("pg_wal")
                .join(segment.to_string());
            history.stored(*segment).into_iter().chain([own])
        })
        .enumerate()
    {
        if path.exists() {
            let aside = history.testbed.path().join(format!("aside-{number}"));
            durable_file::move_to_new_name(&path, &aside)?;
        }
    }
    history.refuses(
        &["--to", "latest"],
        &format!("missing {} and 1 more between", gap[0]),
    )?;
    history.refuses(
        &["--to", "latest"],
        &format!("missing: {}, {}", gap[0], gap[1]),
    )?;
    let windows = history
        .cluster
        .run("backstay", ["windows", "main"])?
        .expect_success()?;
    ensure!(
        windows.stdout.contains(&gap[1].to_string()),
        "{}",
        windows.stdout
    );
    Ok(())
}

#[test]
fn r12_a_time_without_a_zone_and_other_nonsense_is_refused() -> Result<()> {
    let history = History::new()?;
    for target in [
        "2026-10-11 14:30",
        "2026-10-11 14:30 CEST",
        "infinity",
        "tomorrow",
        "xid:x",
        "now",
    ] {
        let run = history.restore(&["--to", target])?.expect_code(1)?;
        ensure!(run.stderr.contains("hint: "), "{target}: {}", run.stderr);
    }
    ensure!(history.cluster.is_running());
    Ok(())
}

#[test]
fn r13_a_time_before_the_first_backup_is_refused_with_the_window() -> Result<()> {
    let history = History::new()?;
    history.refuses(
        &["--to", "1 hour ago"],
        "is not after the end of any backup",
    )?;
    history.refuses(&["--to", "xid:4000000000"], "was not found")?;
    history.refuses(&["--to", "name:no_such_point"], "was not found")?;
    history.refuses(&["--to", "lsn:FF/0"], "is past the end")
}

#[test]
fn r14_two_targets_are_refused() -> Result<()> {
    let history = History::new()?;
    let run = history.restore(&["--to", "latest", "--to", "immediate"])?;
    ensure!(run.code() == Some(1), "{:?}", run.status);
    Ok(())
}

#[test]
fn a_time_after_the_last_commit_is_the_latest_state() -> Result<()> {
    let history = History::new()?;
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let into = history.testbed.path().join("copy");
    let run = history
        .restore(&[
            "--to",
            "1 second ago",
            "--into",
            &into.display().to_string(),
        ])?
        .expect_success()?;
    ensure!(
        run.stdout.contains("so this is the latest state"),
        "{}",
        run.stdout
    );
    assert_eq!(history.rows_in(&into)?, "5");
    Ok(())
}

#[test]
fn r11_a_restore_point_and_the_first_consistent_state_are_reached() -> Result<()> {
    let history = History::new()?;
    history
        .cluster
        .psql("SELECT pg_create_restore_point('before the ''upgrade''')")?;
    history.cluster.psql("INSERT INTO rows VALUES (6)")?;
    history.cluster.archive_everything()?;
    let into = history.testbed.path().join("copy");
    history
        .restore(&[
            "--to",
            "name:before the 'upgrade'",
            "--into",
            &into.display().to_string(),
        ])?
        .expect_success()?;
    assert_eq!(history.rows_in(&into)?, "5");
    let into = history.testbed.path().join("first");
    history
        .restore(&["--to", "immediate", "--into", &into.display().to_string()])?
        .expect_success()?;
    assert_eq!(history.rows_in(&into)?, "0");
    Ok(())
}

#[test]
fn r16_the_unarchived_tail_of_a_dead_server_is_recovered() -> Result<()> {
    let history = History::new()?;
    // From here on nothing is archived, and the server dies.
    history
        .cluster
        .psql("ALTER SYSTEM SET archive_command = 'false'")?;
    history.cluster.psql("SELECT pg_reload_conf()")?;
    history.cluster.psql("INSERT INTO rows VALUES (6)")?;
    history.cluster.switch_wal()?;
    history.cluster.psql("INSERT INTO rows VALUES (7)")?;
    history.cluster.kill_hard()?;
    std::fs::remove_file(history.cluster.data().join("global/pg_control"))?;
    history
        .restore(&["--to", "latest", "--no-backup"])?
        .expect_success()?;
    assert_eq!(history.rows()?, "7");
    Ok(())
}

#[test]
fn r17_a_directory_that_holds_something_is_never_restored_into() -> Result<()> {
    let history = History::new()?;
    let occupied = history.testbed.path().join("occupied");
    std::fs::create_dir(&occupied)?;
    std::fs::write(occupied.join("notes"), "mine")?;
    history.refuses(
        &["--to", "latest", "--into", &occupied.display().to_string()],
        "is not empty",
    )?;
    let own = history.cluster.data().display().to_string();
    history.refuses(&["--to", "latest", "--into", &own], "is not empty")?;
    assert_eq!(std::fs::read_to_string(occupied.join("notes"))?, "mine");

    let empty = history.testbed.path().join("empty");
    std::fs::create_dir(&empty)?;
    history
        .restore(&["--to", "latest", "--into", &empty.display().to_string()])?
        .expect_success()?;
    assert_eq!(history.rows_in(&empty)?, "5");
    Ok(())
}

#[test]
fn r18_the_restored_directory_has_the_mode_that_postgresql_wants() -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let history = History::new()?;
    let into = history.testbed.path().join("copy");
    history
        .restore(&["--to", "latest", "--into", &into.display().to_string()])?
        .expect_success()?;
    assert_eq!(
        std::fs::metadata(&into)?.permissions().mode() & 0o777,
        0o700
    );
    Ok(())
}

#[test]
fn r19_programs_of_another_major_version_are_refused_before_anything_is_touched() -> Result<()> {
    let history = History::new()?;
    let bin = history.testbed.path().join("bin");
    std::fs::create_dir(&bin)?;
    let postgres = bin.join("postgres");
    std::fs::write(&postgres, "#!/bin/sh\necho 'postgres (PostgreSQL) 99.1'\n")?;
    std::fs::set_permissions(
        &postgres,
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )?;
    for name in ["pg_ctl", "pg_waldump"] {
        std::os::unix::fs::symlink(history.testbed.server().bin().join(name), bin.join(name))?;
    }
    history
        .cluster
        .change_settings(&serde_json::json!({ "postgresql": { "binDirectory": bin } }))?;
    history.refuses(&["--to", "latest"], "the programs are of PostgreSQL 99")
}

#[test]
fn r24_a_copy_beside_the_server_stays_out_of_its_archive() -> Result<()> {
    let history = History::new()?;
    let into = history.testbed.path().join("copy");
    history
        .restore(&["--to", "latest", "--into", &into.display().to_string()])?
        .expect_success()?;
    let listing = || -> Result<usize> {
        let archive = Archive::open(&history.cluster.archive(), "main")?;
        Ok(archive.list(archive.newest_cluster()?)?.files.len())
    };
    let before = listing()?;
    let copy = history
        .testbed
        .adopt(&into, history.cluster.settings_path())?;
    copy.start()?;
    copy.psql("INSERT INTO rows VALUES (99)")?;
    copy.psql("SELECT pg_switch_wal()")?;
    copy.stop(StopMode::Fast)?;
    assert_eq!(listing()?, before);
    assert_eq!(history.rows()?, "5");
    Ok(())
}

#[test]
fn the_old_cluster_is_kept_and_still_starts() -> Result<()> {
    let history = History::new()?;
    let outcome = history
        .restore(&["--to", "immediate", "--json", "--no-backup"])?
        .expect_success()?
        .json()?;
    assert_eq!(history.rows()?, "0");
    let kept = outcome["plan"]["kept"]
        .as_str()
        .context("nothing was kept")?;
    assert_eq!(history.rows_in(Path::new(kept))?, "5");
    Ok(())
}

#[test]
fn what_is_written_after_a_restore_can_be_restored_too() -> Result<()> {
    let history = History::new()?;
    history
        .restore(&["--to", "immediate", "--no-backup"])?
        .expect_success()?;
    history.cluster.psql("INSERT INTO rows VALUES (100)")?;
    history.cluster.archive_everything()?;
    // The history file and the first segment of the new timeline were kept for the archive.
    history.restore(&["--to", "latest"])?.expect_success()?;
    assert_eq!(history.rows()?, "1");
    Ok(())
}

#[test]
fn what_only_the_old_server_had_gets_into_the_archive() -> Result<()> {
    let history = History::new()?;
    let cluster = &history.cluster;
    // A setting of after the base backup: the restored server archives again.
    cluster.psql("ALTER SYSTEM SET archive_command = 'false'")?;
    cluster.psql("SELECT pg_reload_conf()")?;
    for i in 6..=8 {
        cluster.psql(&format!("INSERT INTO rows VALUES ({i})"))?;
        cluster.psql("SELECT pg_switch_wal()")?;
    }
    for _ in 0..2 {
        history
            .restore(&["--to", "latest", "--no-backup"])?
            .expect_success()?;
        assert_eq!(history.rows()?, "8");
        cluster.archive_everything()?;
    }
    // Timeline 4 is opened and never seen by a server that archives.
    cluster.stop(StopMode::Fast)?;
    for _ in 4..=5 {
        history
            .restore(&["--to", "latest", "--no-start"])?
            .expect_success()?;
    }
    cluster.start()?;
    cluster.archive_everything()?;

    // The archive alone has all of it, and each timeline that the last one grew out of.
    let into = history.testbed.path().join("copy");
    let lost = history.testbed.path().join("lost");
    cluster.stop(StopMode::Fast)?;
    durable_file::move_to_new_name(cluster.data(), &lost)?;
    history
        .restore(&["--to", "latest", "--into", &into.display().to_string()])?
        .expect_success()?;
    assert_eq!(history.rows_in(&into)?, "8");
    let archive = Archive::open(&cluster.archive(), "main")?;
    let files = archive.list(archive.newest_cluster()?)?.files;
    for timeline in 2..=5 {
        let name = format!("{timeline:08X}.history");
        ensure!(
            files.iter().any(|(file, _)| file.to_string() == name),
            "no {name}"
        );
    }
    Ok(())
}

#[test]
fn r20_r22_a_restore_that_is_killed_can_be_run_again() -> Result<()> {
    let history = History::new()?;
    for delay in [0.1, 0.3, 0.5, 0.8, 1.1, 1.5, 2.0] {
        let killed = history.cluster.program(
            "backstay",
            ["restore", "main", "--yes", "--no-backup", "--to", "latest"],
        )?;
        Run::killed_after(delay, &killed, history.testbed.path())?;
        let again = history
            .restore(&["--to", "latest", "--no-backup"])?
            .expect_success()?;
        if !history.cluster.is_running() {
            // Only the last step was missing, and it was made up for.
            ensure!(
                again.stderr.contains("an interrupted restore was finished"),
                "{}",
                again.stderr
            );
            history.cluster.start()?;
        }
        assert_eq!(history.rows()?, "5", "killed after {delay} s");
    }
    Ok(())
}

#[test]
fn r21_tablespaces_are_mapped_or_refused_and_the_running_one_is_untouched() -> Result<()> {
    let history = History::new()?;
    let place = history.testbed.path().join("fast");
    std::fs::create_dir(&place)?;
    let cluster = &history.cluster;
    cluster.psql(&format!(
        "CREATE TABLESPACE fast LOCATION '{}'",
        place.display()
    ))?;
    cluster.psql("CREATE TABLE spaced (i int) TABLESPACE fast")?;
    cluster.psql("INSERT INTO spaced SELECT generate_series(1, 1000)")?;
    cluster
        .run("pg-base-backup", ["--full"])?
        .expect_success()?;
    cluster.psql("INSERT INTO spaced VALUES (1001)")?;
    cluster.archive_everything()?;
    let into = history.testbed.path().join("copy");
    let into_text = into.display().to_string();
    history.refuses(&["--to", "latest", "--into", &into_text], "is not mapped")?;

    let new = history.testbed.path().join("slow");
    let mapping = format!("{}={}", place.display(), new.display());
    history
        .restore(&[
            "--to",
            "latest",
            "--into",
            &into_text,
            "--tablespace-mapping",
            &mapping,
        ])?
        .expect_success()?;
    {
        let copy = history.testbed.adopt(&into, cluster.settings_path())?;
        copy.start()?;
        assert_eq!(copy.psql("SELECT count(*) FROM spaced")?, "1001");
        copy.psql("DELETE FROM spaced")?;
        copy.psql("CHECKPOINT")?;
    }
    assert_eq!(cluster.psql("SELECT count(*) FROM spaced")?, "1001");

    // In place, the restored tablespace gets a directory of its own beside the old one.
    history.restore(&["--to", "latest"])?.expect_success()?;
    assert_eq!(cluster.psql("SELECT count(*) FROM spaced")?, "1001");
    ensure!(place.is_dir(), "the old tablespace is gone");
    Ok(())
}

#[test]
fn r21_what_got_the_name_of_a_tablespace_after_a_failed_restore_is_left_alone() -> Result<()> {
    let history = History::new()?;
    let cluster = &history.cluster;
    let place = history.testbed.path().join("fast");
    std::fs::create_dir(&place)?;
    cluster.psql(&format!(
        "CREATE TABLESPACE fast LOCATION '{}'",
        place.display()
    ))?;
    cluster
        .run("pg-base-backup", ["--full"])?
        .expect_success()?;
    let last = SegmentName::parse(&cluster.archive_everything()?)?;
    let path = history.stored(last)?;
    let mut stored = std::fs::read(&path)?;
    let middle = stored.len() / 2;
    stored[middle] ^= 0x40;
    std::fs::write(&path, stored)?;
    // The server has it too, undamaged, and would help out.
    cluster.stop(StopMode::Fast)?;
    durable_file::remove(&cluster.data().join("pg_wal").join(last.to_string()))?;

    let into = history.testbed.path().join("copy").display().to_string();
    let new = history.testbed.path().join("slow");
    let mapping = format!("{}={}", place.display(), new.display());
    // An empty directory, such as the root of a file system, is as good as none.
    std::fs::create_dir(&new)?;
    history
        .restore(&[
            "--to",
            "latest",
            "--into",
            &into,
            "--tablespace-mapping",
            &mapping,
        ])?
        .expect_code(1)?;
    let made = new.read_dir()?.next().context("it was not used")??;
    ensure!(made.file_name().to_string_lossy().starts_with("PG_"));

    durable_file::move_to_new_name(&new, &history.testbed.path().join("elsewhere"))?;
    std::fs::create_dir(&new)?;
    std::fs::write(new.join("data"), "of somebody else")?;
    let run = cluster
        .run(
            "backstay",
            ["restore", "main", "--abandon", "--into", &into],
        )?
        .expect_success()?;
    ensure!(run.stderr.contains("is left alone"), "{}", run.stderr);
    assert_eq!(
        std::fs::read_to_string(new.join("data"))?,
        "of somebody else"
    );
    Ok(())
}

#[test]
fn r26_two_restores_of_one_archive_do_not_disturb_each_other() -> Result<()> {
    let history = History::new()?;
    let copies = [1, 2].map(|n| history.testbed.path().join(format!("copy-{n}")));
    let restore = |into: &PathBuf| {
        history
            .restore(&["--to", "latest", "--into", &into.display().to_string()])
            .and_then(Run::expect_success)
            .map(drop)
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(|| restore(&copies[0]));
        restore(&copies[1])?;
        other
            .join()
            .map_err(|_| anyhow::anyhow!("the other restore panicked"))?
    })?;
    for copy in &copies {
        assert_eq!(history.rows_in(copy)?, "5");
    }
    Ok(())
}

#[test]
fn r8_an_unmounted_archive_is_refused_although_the_backup_could_stand_alone() -> Result<()> {
    let history = History::new()?;
    let archive = history.cluster.archive();
    durable_file::move_to_new_name(&archive, &history.testbed.path().join("elsewhere"))?;
    std::fs::create_dir(&archive)?;
    history.refuses(&["--to", "latest"], "archive.json")?;
    history.refuses(&["--to", "immediate"], "archive.json")
}
