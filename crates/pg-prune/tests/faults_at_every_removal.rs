//! A kill and an error at every call that removes something: what is left counts and is whole, and the next
//! run goes on to the end. Once, not on each PostgreSQL: the removing asks no server.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use archive::Archive;
use command::Command;
use testbed::{Run, StopMode, strace};
use wal::WalFileName;

use common::{House, names_in, window};

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
