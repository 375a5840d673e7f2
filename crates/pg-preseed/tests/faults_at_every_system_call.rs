//! What `pg-preseed` leaves behind when it is killed, or when a system call fails, at each of its system
//! calls: no cluster, or the whole restored one, and a next run that ends well.
//!
//! The restore itself is `backstay`'s, whose own interruptions are tested where it is. Here it copies a
//! cluster and renames it into its place, so that hundreds of runs end in a minute.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use command::Command;
use instance_state::{PreseedOutcome, PreseedRecord};
use testbed::{ClusterOptions, Run, Testbed, strace};

/// The fewest points that count as "every system call": a run that sees less is not looking.
const FEWEST_POINTS: u32 = 40;

/// Calls that change something outside of the process, or wait for it. Dying at any other is dying at the
/// next of these.
const WITH_TRACE: [&str; 19] = [
    "chdir", "clone", "clone3", "close", "flock", "fsync", "kill", "link", "linkat", "mkdir",
    "openat", "rename", "rmdir", "unlink", "unlinkat", "vfork", "wait4", "waitid", "write",
];

struct Bench {
    testbed: Testbed,
    settings: PathBuf,
}

impl Bench {
    fn new() -> Result<Self> {
        let testbed = Testbed::new()?;
        let cluster = testbed.cluster(
            "main",
            ClusterOptions::archiving()
                .segment_size_mib(1)
                .settings(&serde_json::json!({
                    "stateDirectory": testbed.path().join("state"),
                    "preseed": { "sources": [{ "kind": "baseBackups" }] },
                })),
        )?;
        cluster.start()?;
        cluster.psql("CREATE TABLE rows AS SELECT 1")?;
        cluster
            .run("pg-base-backup", ["--full"])?
            .expect_success()?;
        cluster.archive_everything()?;
        cluster.stop(testbed::StopMode::Fast)?;
        let bench = Self {
            settings: cluster.settings_path().to_owned(),
            testbed,
        };
        durable_file::move_to_new_name(cluster.data(), &bench.path("template"))?;
        remove_tables(&bench.path("template"))?;
        let programs = bench.path("programs");
        fs::create_dir(&programs)?;
        // Its siblings are looked for where it really is, so a link would not do.
        let own = programs.join("pg-preseed");
        let program = testbed::program_directory()?.join("pg-preseed");
        fs::write(&own, fs::read(program)?)?;
        fs::set_permissions(&own, fs::Permissions::from_mode(0o755))?;
        let backstay = programs.join("backstay");
        fs::write(
            &backstay,
            format!(
                "#!/bin/sh\nset -eu\ncase $1 in restore) ;; *) exit 1 ;; esac\nrm -rf '{data}.copy'\ncp -a '{template}' '{data}.copy'\nrmdir '{data}' 2>/dev/null || true\nmv -T '{data}.copy' '{data}'\n",
                template = bench.path("template").display(),
                data = bench.data().display(),
            ),
        )?;
        fs::set_permissions(&backstay, fs::Permissions::from_mode(0o755))?;
        bench.clear()?;
        Ok(bench)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.testbed.path().join(name)
    }

    fn data(&self) -> PathBuf {
        self.path("main/data")
    }

    fn command(&self) -> Command {
        Command::new(self.path("programs/pg-preseed"))
            .arg("--config")
            .arg(&self.settings)
    }

    /// A machine without its data again.
    fn clear(&self) -> Result<()> {
        for directory in [self.path("state"), self.data()] {
            if directory.exists() {
                fs::remove_dir_all(&directory)?;
            }
            fs::create_dir(&directory)?;
        }
        Ok(())
    }

    /// What must hold after anything: there is no cluster, or the whole one.
    fn nothing_half_is_there(&self) -> Result<()> {
        let is_empty = match fs::read_dir(self.data()) {
            Ok(mut entries) => entries.next().is_none(),
            Err(_) => true,
        };
        let record = PreseedRecord::read(&self.path("state"))?;
        let consents = record
            .as_ref()
            .is_some_and(|record| record.outcome.allows_empty_cluster());
        ensure!(!consents, "an empty cluster would be made: {record:?}");
        if !is_empty {
            return self.is_whole();
        }
        let is_told = record.is_some_and(|record| record.outcome == PreseedOutcome::Restored);
        ensure!(!is_told, "a cluster is told of that is not there");
        Ok(())
    }

    fn is_whole(&self) -> Result<()> {
        let control = archive::read_control_file(&self.data())?;
        let template = archive::read_control_file(&self.path("template"))?;
        ensure!(control == template, "it is another cluster");
        for name in [
            "PG_VERSION",
            "global/pg_filenode.map",
            "pg_wal",
            "postgresql.conf",
        ] {
            ensure!(self.data().join(name).exists(), "\"{name}\" is missing");
        }
        Ok(())
    }

    /// Runs it again without a fault, which has to succeed, and looks at everything.
    fn retry(&self) -> Result<()> {
        // A restore that a killed run has left behind ends by itself.
        let copy = durable_file::with_suffix(&self.data(), ".copy");
        testbed::wait_until("the restore that was left behind has ended", || {
            let run = Run::of(&Command::new("/usr/bin/pgrep").args([
                "-f",
                &format!("{}/backstay", self.path("programs").display()),
            ]))?;
            Ok((run.code() == Some(1)).then_some(()))
        })?;
        Run::of(&self.command())?.expect_success()?;
        self.is_whole()?;
        let record = PreseedRecord::read(&self.path("state"))?;
        // A run that was killed before it wrote anything, after the restore was complete, cannot be.
        let record = record.context("no record")?;
        ensure!(record.outcome == PreseedOutcome::Restored, "{record:?}");
        ensure!(
            instance_state::base_backup_request(&self.path("state")).exists(),
            "no base backup is asked for"
        );
        ensure!(!copy.exists(), "a copy is left");
        Ok(())
    }

    /// Faults at each call of the program itself; those of the programs that it runs are theirs.
    fn fault_everywhere(&self, names: &[&str], fault: &str) -> Result<u32> {
        strace::fault_everywhere(
            &self.command(),
            &self.path("strace"),
            fault,
            |name| names.contains(&name),
            || {
                self.nothing_half_is_there()?;
                self.retry()?;
                self.clear()
            },
        )
    }
}

/// Removes the files of tables and of WAL, whose names begin with a digit: nobody looks at them here.
fn remove_tables(directory: &std::path::Path) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tables(&entry.path())?;
        } else if entry.file_name().as_encoded_bytes()[0].is_ascii_digit() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[test]
fn s23_a_kill_at_any_system_call_leaves_no_cluster_or_the_whole_one_and_the_next_run_ends_well()
-> Result<()> {
    if !strace::is_available() {
        testbed::skip!("strace is not installed");
    }
    let points = Bench::new()?.fault_everywhere(&WITH_TRACE, "signal=SIGKILL")?;
    ensure!(points >= FEWEST_POINTS, "only {points} points");
    Ok(())
}

#[test]
fn s21_a_full_or_broken_disk_leaves_no_cluster_or_the_whole_one_and_the_next_run_ends_well()
-> Result<()> {
    if !strace::is_available() {
        testbed::skip!("strace is not installed");
    }
    let bench = Bench::new()?;
    let mut points = 0;
    for (names, error) in [
        (&["fsync", "mkdir", "rename"][..], "ENOSPC"),
        (&["fsync", "rename"][..], "EIO"),
    ] {
        points += bench.fault_everywhere(names, &format!("error={error}"))?;
    }
    ensure!(points >= 10, "only {points} points");
    Ok(())
}
