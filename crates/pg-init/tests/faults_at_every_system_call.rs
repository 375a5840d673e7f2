//! What `pg-init` leaves behind when it is killed, or when a system call fails, at each of its system
//! calls: no cluster, or a whole one, and a next run that ends well.
//!
//! `initdb` is PostgreSQL's. Here it copies a cluster that the real one made, without its tables and
//! WAL, which `pg-init` does not look at, so that hundreds of runs end in a minute.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use archive::Archive;
use base_backups::Repository;
use command::Command;
use instance_state::InstanceRecord;
use restore_journal::Places;
use testbed::{ClusterOptions, Run, Testbed, strace};

/// The fewest points that count as "every system call": a run that sees less is not looking.
const FEWEST_POINTS: u32 = 100;

/// Calls that change nothing outside of the process. Dying at one of them is dying at the next one.
const WITHOUT_TRACE: [&str; 38] = [
    "access",
    "arch_prctl",
    "brk",
    "exit_group",
    "fcntl",
    "fstat",
    "futex",
    "getcwd",
    "getdents64",
    "getegid",
    "geteuid",
    "getgid",
    "getrandom",
    "getuid",
    "ioctl",
    "lseek",
    "lstat",
    "madvise",
    "mmap",
    "mprotect",
    "munmap",
    "newfstatat",
    "pipe2",
    "poll",
    "pread64",
    "prlimit64",
    "read",
    "readlink",
    "rseq",
    "rt_sigaction",
    "rt_sigprocmask",
    "sched_getaffinity",
    "set_robust_list",
    "set_tid_address",
    "sigaltstack",
    "stat",
    "statx",
    "uname",
];

struct Bench {
    testbed: Testbed,
    programs: PathBuf,
}

impl Bench {
    fn new() -> Result<Self> {
        let testbed = Testbed::new()?;
        let template = testbed.cluster("template", ClusterOptions::default())?;
        remove_numbered_files(template.data())?;
        let programs = testbed.path().join("bin");
        fs::create_dir(&programs)?;
        for entry in fs::read_dir(testbed.server().bin())? {
            let entry = entry?;
            if entry.file_name() != "initdb" {
                std::os::unix::fs::symlink(entry.path(), programs.join(entry.file_name()))?;
            }
        }
        let initdb = programs.join("initdb");
        // The data directory is the argument after --pgdata, the first one.
        fs::write(
            &initdb,
            format!(
                "#!/bin/sh\nset -eu\ntest \"$1\" = --pgdata\ncp -a '{}' \"$2\"\n",
                template.data().display()
            ),
        )?;
        let mut mode = fs::metadata(&initdb)?.permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut mode, 0o755);
        fs::set_permissions(&initdb, mode)?;
        fs::write(testbed.path().join("declared.conf"), "work_mem = 5MB\n")?;
        let bench = Self { testbed, programs };
        let settings = serde_json::json!({
            "instance": "main",
            "stateDirectory": bench.path("state"),
            "postgresql": {
                "binDirectory": bench.programs,
                "dataDirectory": bench.data(),
                "socketDirectory": bench.path("s"),
                "configFile": bench.path("declared.conf"),
                "initdb": {},
            },
            "archive": { "directory": bench.path("archive") },
            "baseBackup": { "directory": bench.path("backups") },
        });
        fs::write(bench.path("main.json"), settings.to_string())?;
        bench.clear()?;
        Ok(bench)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.testbed.path().join(name)
    }

    fn data(&self) -> PathBuf {
        self.path("pg/data")
    }

    fn command(&self) -> Result<Command> {
        Ok(testbed::program("pg-init")?
            .arg("--config")
            .arg(self.path("main.json")))
    }

    /// A new machine again, with the data directory there or not.
    fn clear(&self) -> Result<()> {
        for directory in ["pg", "archive", "backups", "state"] {
            let path = self.path(directory);
            if path.exists() {
                fs::remove_dir_all(&path)?;
            }
            fs::create_dir(&path)?;
        }
        fs::create_dir(self.data())?;
        Ok(())
    }

    /// What must hold after anything: there is no cluster, or a whole one with our configuration.
    fn nothing_half_is_there(&self) -> Result<()> {
        let data = self.data();
        let is_empty = match fs::read_dir(&data) {
            Ok(mut entries) => entries.next().is_none(),
            Err(_) => true,
        };
        if is_empty {
            ensure!(
                !Archive::is_at(&self.path("archive"))?
                    && InstanceRecord::read(&self.path("state"))?.is_none(),
                "something is remembered of a cluster that never was"
            );
            return Ok(());
        }
        self.is_whole(&data)
    }

    fn is_whole(&self, data: &Path) -> Result<()> {
        archive::read_control_file(data)?;
        let template = self.path("template/data");
        for name in [
            "PG_VERSION",
            "global/pg_filenode.map",
            "pg_wal/archive_status",
            "base/1",
        ] {
            ensure!(
                template.join(name).exists() && data.join(name).exists(),
                "\"{name}\" is missing"
            );
        }
        let conf = fs::read_to_string(data.join("postgresql.conf"))?;
        let include = format!(
            "include_if_exists '{}'",
            self.path("declared.conf").display()
        );
        ensure!(conf.contains(&include), "the configuration is not included");
        Ok(())
    }

    /// Runs it again without a fault, which has to succeed, and looks at everything.
    fn retry(&self) -> Result<()> {
        // What a killed run has left behind ends by itself.
        let places = Places::beside(&self.data());
        testbed::wait_until("initdb that was left behind has ended", || {
            Ok(places.try_lock()?.map(drop))
        })?;
        Run::of(&self.command()?)?.expect_success()?;
        self.is_whole(&self.data())?;
        let identifier = archive::read_control_file(&self.data())?.system_identifier;
        let archive = Archive::open(&self.path("archive"), "main")?;
        ensure!(archive.newest_cluster()?.system_identifier == identifier);
        Repository::open(&self.path("backups"), "main")?;
        let record = InstanceRecord::read(&self.path("state"))?.context("no record")?;
        ensure!(record.system_identifier == identifier);
        ensure!(
            !durable_file::with_suffix(&self.data(), ".backstay-init").exists(),
            "a leftover was not swept"
        );
        Ok(())
    }

    /// Faults at each call of the program itself; those of the programs that it runs are theirs.
    fn fault_everywhere(&self, names: &[&str], fault: &str) -> Result<u32> {
        strace::fault_everywhere(
            &self.command()?,
            &self.path("strace"),
            fault,
            |name| {
                if names.is_empty() {
                    !WITHOUT_TRACE.contains(&name)
                } else {
                    names.contains(&name)
                }
            },
            || {
                self.nothing_half_is_there()?;
                self.retry()?;
                self.clear()
            },
        )
    }
}

/// Removes the files of tables and of WAL, whose names begin with a digit.
fn remove_numbered_files(directory: &Path) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_numbered_files(&entry.path())?;
        } else if entry.file_name().as_encoded_bytes()[0].is_ascii_digit() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[test]
fn s23_a_kill_at_any_system_call_leaves_no_cluster_or_a_whole_one_and_the_next_run_ends_well()
-> Result<()> {
    if !strace::is_available() {
        testbed::skip!("strace is not installed");
    }
    let points = Bench::new()?.fault_everywhere(&[], "signal=SIGKILL")?;
    ensure!(points >= FEWEST_POINTS, "only {points} points");
    Ok(())
}

#[test]
fn s21_a_full_or_broken_disk_leaves_no_cluster_or_a_whole_one_and_the_next_run_ends_well()
-> Result<()> {
    if !strace::is_available() {
        testbed::skip!("strace is not installed");
    }
    let bench = Bench::new()?;
    let mut points = 0;
    for (names, error) in [
        (&["write", "fsync", "mkdir", "rename"][..], "ENOSPC"),
        (&["fsync", "rename", "rmdir", "getdents64"][..], "EIO"),
        (&["mkdir", "rename", "rmdir"][..], "EACCES"),
    ] {
        points += bench.fault_everywhere(names, &format!("error={error}"))?;
    }
    ensure!(points > 20, "only {points} points");
    Ok(())
}
