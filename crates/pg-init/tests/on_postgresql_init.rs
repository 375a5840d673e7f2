//! `pg-init` before a real server: what it makes, what it leaves alone and what it refuses.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use archive::Archive;
use base_backups::Repository;
use command::Command;
use instance_state::{
    InstanceRecord, PreseedOutcome, PreseedRecord, PreseedStep, RecoveryRecord, RecoveryState,
};
use restore_journal::{Journal, Places, Step};
use testbed::{ClusterOptions, Run, Testbed};

/// A machine with the declared directories and nothing in them.
struct Machine {
    testbed: Testbed,
}

impl Machine {
    fn new() -> Result<Self> {
        Self::with(&serde_json::json!({}))
    }

    /// A machine whose `initdb` section has `initdb` added to it.
    fn with(initdb: &serde_json::Value) -> Result<Self> {
        let machine = Self {
            testbed: Testbed::new()?,
        };
        for directory in ["pg", "archive", "backups", "state", "s"] {
            fs::create_dir(machine.path(directory))?;
        }
        let program = testbed::program("pg-archive-wal")?.line();
        fs::write(
            machine.path("declared.conf"),
            format!(
                "listen_addresses = ''\n\
                 unix_socket_directories = '{socket}'\n\
                 shared_buffers = 32MB\n\
                 dynamic_shared_memory_type = mmap\n\
                 work_mem = 5MB\n\
                 archive_mode = on\n\
                 archive_command = '{program} --config {settings} %p'\n",
                socket = machine.path("s").display(),
                settings = machine.settings().display(),
            ),
        )?;
        let mut settings = serde_json::json!({
            "instance": "main",
            "stateDirectory": machine.path("state"),
            "postgresql": {
                "binDirectory": machine.testbed.server().bin(),
                "dataDirectory": machine.data(),
                "socketDirectory": machine.path("s"),
                "configFile": machine.path("declared.conf"),
                // Whoever runs the tests need not be called as the role is.
                "initdb": { "arguments": ["--auth-local=trust"] },
            },
            "archive": { "directory": machine.path("archive") },
            "baseBackup": { "directory": machine.path("backups"), "fastCheckpoint": true },
        });
        if let (Some(section), Some(more)) = (
            settings["postgresql"]["initdb"].as_object_mut(),
            initdb.as_object(),
        ) {
            section.extend(more.clone());
        }
        machine.write_settings(&settings)?;
        Ok(machine)
    }

    fn write_settings(&self, settings: &serde_json::Value) -> Result<()> {
        fs::write(self.settings(), settings.to_string())?;
        Ok(())
    }

    /// Adds a section to the settings.
    fn declare(&self, key: &str, section: serde_json::Value) -> Result<()> {
        let mut settings: serde_json::Value =
            serde_json::from_str(&fs::read_to_string(self.settings())?)?;
        settings[key] = section;
        self.write_settings(&settings)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.testbed.path().join(name)
    }

    fn data(&self) -> PathBuf {
        self.path("pg/data")
    }

    fn settings(&self) -> PathBuf {
        self.path("main.json")
    }

    fn init(&self, arguments: &[&str]) -> Result<Run> {
        let command = testbed::program("pg-init")?
            .arg("--config")
            .arg(self.settings());
        Run::of(&command.args(arguments))
    }

    /// Runs it and expects the refusal `what` with a hint that has `hint` in it.
    fn refuses(&self, what: &str, hint: &str) -> Result<()> {
        let run = self.init(&[])?.expect_code(1)?;
        let lines: Vec<&str> = run.stderr.lines().collect();
        let [error, given] = lines.as_slice() else {
            anyhow::bail!("not an error and a hint: {}", run.stderr);
        };
        ensure!(
            *error == format!("could not prepare the start of the server: {what}"),
            "{error}"
        );
        ensure!(
            given.starts_with("hint: ") && given.contains(hint),
            "{given}"
        );
        Ok(())
    }

    fn backstay(&self, arguments: &[&str]) -> Result<Run> {
        let command = testbed::program("backstay")?
            .args(&arguments[..1])
            .args(["main", "--config"])
            .arg(self.settings());
        Run::of(&command.args(&arguments[1..]))
    }

    fn pg_ctl(&self, action: &str) -> Result<()> {
        let log = self.path("log");
        let mut command = self
            .testbed
            .server()
            .command("pg_ctl")
            .args([action, "--wait", "--silent", "--timeout", "120", "--pgdata"])
            .arg(self.data());
        if action == "start" {
            command = command.arg("--log").arg(&log);
        }
        command
            .run()
            .map(drop)
            .with_context(|| fs::read_to_string(&log).unwrap_or_default())
    }

    fn psql(&self, sql: &str) -> Result<String> {
        let output = self
            .testbed
            .server()
            .command("psql")
            .env("PGHOST", self.path("s"))
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"])
            .args(["-U", "postgres", "-d", "postgres", "-c", sql])
            .run()?;
        Ok(output.stdout.trim_end().to_owned())
    }

    /// What could be changed in everything that belongs to the instance.
    fn snapshot(&self) -> Result<BTreeMap<PathBuf, (u64, u64, i64, i64)>> {
        let mut found = BTreeMap::new();
        for directory in ["pg", "archive", "backups", "state"] {
            collect(&self.path(directory), &mut found)?;
        }
        Ok(found)
    }
}

fn collect(path: &Path, found: &mut BTreeMap<PathBuf, (u64, u64, i64, i64)>) -> Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    found.insert(
        path.to_owned(),
        (
            metadata.ino(),
            metadata.len(),
            metadata.ctime(),
            metadata.ctime_nsec(),
        ),
    );
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            collect(&entry?.path(), found)?;
        }
    }
    Ok(())
}

fn system_identifier(data: &Path) -> Result<wal::SystemIdentifier> {
    Ok(archive::read_control_file(data)?.system_identifier)
}

#[test]
fn a_new_machine_gets_a_cluster_that_runs_as_declared_and_a_second_run_changes_nothing()
-> Result<()> {
    let machine = Machine::new()?;
    let plan = machine.init(&["--plan"])?.expect_success()?;
    ensure!(
        plan.stdout.starts_with("make     a new cluster in "),
        "{}",
        plan.stdout
    );
    ensure!(!machine.data().exists(), "a plan made something");
    machine.init(&[])?.expect_success()?;

    let identifier = system_identifier(&machine.data())?;
    let archive = Archive::open(&machine.path("archive"), "main")?;
    assert_eq!(archive.newest_cluster()?.system_identifier, identifier);
    Repository::open(&machine.path("backups"), "main")?;
    let record = InstanceRecord::read(&machine.path("state"))?.context("a record is kept")?;
    assert_eq!(record.system_identifier, identifier);
    assert_eq!(record.base_backup_directory, Some(machine.path("backups")));
    assert_eq!(
        fs::metadata(machine.data())?.permissions().mode() & 0o777,
        0o700
    );

    let before = machine.snapshot()?;
    machine.init(&[])?.expect_success()?;
    ensure!(
        machine.snapshot()? == before,
        "a second run changed something"
    );

    machine.pg_ctl("start")?;
    assert_eq!(machine.psql("SHOW work_mem")?, "5MB");
    assert_eq!(machine.psql("SHOW data_checksums")?, "on");
    assert_eq!(machine.psql("SHOW server_encoding")?, "UTF8");
    assert_eq!(
        machine
            .psql("SELECT datcollate || datctype FROM pg_database WHERE datname = 'template0'")?,
        "CC"
    );
    machine.psql("CREATE TABLE rows AS SELECT generate_series(1, 100)")?;
    machine.psql("SELECT pg_switch_wal()")?;
    testbed::wait_until("a WAL file is archived", || {
        Ok(archive.something()?.map(drop))
    })?;
    machine.refuses(
        &format!("a server runs on \"{}\" already", machine.data().display()),
        "pg_ctl stop --pgdata",
    )?;
    machine.pg_ctl("stop")?;
    machine.init(&[])?.expect_success()?;
    Ok(())
}

#[test]
fn s9_a_machine_that_lost_its_data_directory_gets_no_new_cluster_but_the_way_back() -> Result<()> {
    let machine = Machine::new()?;
    machine.init(&[])?.expect_success()?;
    machine.pg_ctl("start")?;
    machine.psql("CREATE TABLE rows AS SELECT generate_series(1, 100)")?;
    Run::of(
        &testbed::program("pg-base-backup")?
            .arg("--config")
            .arg(machine.settings()),
    )?
    .expect_success()?;
    machine.psql("INSERT INTO rows SELECT generate_series(101, 150)")?;
    machine.pg_ctl("stop")?;
    let identifier = system_identifier(&machine.data())?;

    fs::remove_dir_all(machine.data())?;
    for empty in [false, true] {
        if empty {
            fs::create_dir(machine.data())?;
        }
        let run = machine.init(&[])?.expect_code(1)?;
        ensure!(
            run.stderr.contains("and the archive holds data of one"),
            "{}",
            run.stderr
        );
        ensure!(
            run.stderr.contains(
                "hint: bring it back with `backstay restore main --to latest`, or declare a preseed"
            ),
            "{}",
            run.stderr
        );
    }
    fs::remove_dir(machine.data())?;
    ensure!(!machine.data().exists(), "something was made");

    machine
        .backstay(&["restore", "--to", "latest", "--yes", "--no-backup"])?
        .expect_success()?;
    assert_eq!(machine.psql("SELECT count(*) FROM rows")?, "150");
    assert_eq!(system_identifier(&machine.data())?, identifier);
    machine.pg_ctl("stop")?;
    // What is remembered is newer: the archive reaches further than at the first start.
    let without_the_record = || -> Result<_> {
        let mut found = machine.snapshot()?;
        found.retain(|path, _| !path.starts_with(machine.path("state")));
        // Its copies, and the directories that they are in.
        for holder in ["archive", "backups/.backstay"] {
            found.remove(&machine.path(holder).join("instance.json"));
            found.remove(&machine.path(holder));
        }
        Ok(found)
    };
    let before = without_the_record()?;
    machine.init(&[])?.expect_success()?;
    ensure!(
        without_the_record()? == before,
        "what a restore brought back was changed"
    );
    let record = InstanceRecord::read(&machine.path("state"))?.context("a record is kept")?;
    ensure!(
        record
            .archived
            .is_some_and(|reach| reach.timeline.get() == 2),
        "{record:?}"
    );
    Ok(())
}

#[test]
fn a_machine_that_remembers_a_cluster_gets_no_new_one_even_when_the_archive_is_gone() -> Result<()>
{
    let machine = Machine::new()?;
    machine.init(&[])?.expect_success()?;
    let identifier = system_identifier(&machine.data())?;
    for directory in [
        machine.data(),
        machine.path("archive"),
        machine.path("backups"),
    ] {
        fs::remove_dir_all(directory)?;
    }
    machine.refuses(
        &format!(
            "there is no cluster in \"{data}\", and there was one: system identifier {identifier}, PostgreSQL {}, in \"{data}\"",
            machine.testbed.server().major(),
            data = machine.data().display(),
        ),
        "is everything mounted? bring it back with `backstay restore main --to latest`",
    )?;
    // A person who knows better says so.
    fs::remove_file(InstanceRecord::path(&machine.path("state")))?;
    machine.init(&[])?.expect_success()?;
    ensure!(system_identifier(&machine.data())? != identifier);
    Ok(())
}

#[test]
fn a_cluster_that_was_here_before_is_taken_up_with_its_own_lines() -> Result<()> {
    let machine = Machine::new()?;
    let other = machine.testbed.cluster(
        "other",
        ClusterOptions::default().configure("lock_timeout = 7s"),
    )?;
    durable_file::move_to_new_name(other.data(), &machine.data())?;
    machine.init(&[])?.expect_success()?;
    let archive = Archive::open(&machine.path("archive"), "main")?;
    assert_eq!(
        archive.newest_cluster()?.system_identifier,
        system_identifier(&machine.data())?
    );
    machine.pg_ctl("start")?;
    assert_eq!(machine.psql("SHOW lock_timeout")?, "7s");
    assert_eq!(machine.psql("SHOW work_mem")?, "5MB");
    machine.pg_ctl("stop")?;

    // A line that a person adds at the end wins, and that is said at each start.
    let conf = machine.data().join("postgresql.conf");
    let text = fs::read_to_string(&conf)? + "work_mem = 6MB\n";
    fs::write(&conf, &text)?;
    let run = machine.init(&[])?.expect_success()?;
    ensure!(
        run.stderr.contains(
            "has a line after the declared settings, which wins over them: work_mem = 6MB"
        ),
        "{}",
        run.stderr
    );
    assert_eq!(fs::read_to_string(&conf)?, text);

    // One that came without any configuration gets the declared one.
    fs::remove_file(&conf)?;
    machine.init(&[])?.expect_success()?;
    machine.pg_ctl("start")?;
    assert_eq!(machine.psql("SHOW work_mem")?, "5MB");
    machine.pg_ctl("stop")?;
    Ok(())
}

#[test]
fn s12_the_cluster_of_another_instance_is_not_started() -> Result<()> {
    let machine = Machine::new()?;
    machine.init(&[])?.expect_success()?;
    machine.pg_ctl("start")?;
    machine.psql("SELECT pg_switch_wal()")?;
    machine.psql("CREATE TABLE t ()")?;
    machine.psql("SELECT pg_switch_wal()")?;
    let archive = Archive::open(&machine.path("archive"), "main")?;
    testbed::wait_until("a WAL file is archived", || {
        Ok(archive.something()?.map(drop))
    })?;
    machine.pg_ctl("stop")?;
    let own = system_identifier(&machine.data())?;
    fs::remove_dir_all(machine.data())?;

    let other = machine
        .testbed
        .cluster("other", ClusterOptions::default())?;
    let foreign = system_identifier(other.data())?;
    durable_file::move_to_new_name(other.data(), &machine.data())?;
    machine.refuses(
        &format!(
            "the cluster in \"{}\" has system identifier {foreign}, the archive in \"{}\" is that of {own}",
            machine.data().display(),
            machine.path("archive").display()
        ),
        &format!("`backstay archive admit main --replaces {own}`"),
    )
}

#[test]
fn a_cluster_that_was_rolled_back_is_announced_and_goes_on_only_on_a_timeline_of_its_own()
-> Result<()> {
    let machine = Machine::new()?;
    machine.init(&[])?.expect_success()?;
    machine.pg_ctl("start")?;
    machine.psql("CREATE TABLE before ()")?;
    machine.psql("SELECT pg_switch_wal()")?;
    machine.pg_ctl("stop")?;
    // What somebody takes a snapshot of, and rolls back to.
    let older = machine.path("pg/older");
    let copy = |from: &Path, to: &Path| -> Result<()> {
        Command::new("/bin/cp").arg("-a").args([from, to]).run()?;
        Ok(())
    };
    copy(&machine.data(), &older)?;
    machine.pg_ctl("start")?;
    for table in ["after_1", "after_2"] {
        machine.psql(&format!("CREATE TABLE {table} ()"))?;
        machine.psql("SELECT pg_switch_wal()")?;
    }
    // At its end a server archives all that it has.
    machine.pg_ctl("stop")?;
    let newest = machine.path("pg/newest");
    copy(&machine.data(), &newest)?;
    machine.init(&[])?.expect_success()?;
    let record = InstanceRecord::read(&machine.path("state"))?.context("no record")?;
    ensure!(record.archived.is_some(), "nothing was archived");

    let roll_back = || -> Result<()> {
        fs::remove_dir_all(machine.data())?;
        copy(&older, &machine.data())
    };
    roll_back()?;
    // What is remembered is remembered in the archive too.
    let state = InstanceRecord::path(&machine.path("state"));
    let aside = machine.path("aside.json");
    durable_file::move_to_new_name(&state, &aside)?;
    let refused = machine.init(&[])?.expect_code(1)?.stderr;
    ensure!(
        refused.contains(&format!(
            "had been archived by \"{}\"",
            machine.path("archive/instance.json").display()
        )),
        "{refused}"
    );
    durable_file::move_to_new_name(&aside, &state)?;
    let refused = machine.init(&[])?.expect_code(1)?.stderr;
    ensure!(
        refused.contains("was rolled back: its WAL reaches to ")
            && refused.contains("hint: `backstay restore main --no-start --to latest`"),
        "{refused}"
    );
    ensure!(
        fs::read(older.join("global/pg_control"))?
            == fs::read(machine.data().join("global/pg_control"))?,
        "it was changed"
    );

    // The second of the two ways out.
    let from = format!("directory:{}", machine.data().display());
    machine
        .backstay(&[
            "restore",
            "--no-start",
            "--yes",
            "--from",
            &from,
            "--to",
            "immediate",
        ])?
        .expect_success()?;
    machine.init(&[])?.expect_success()?;
    machine.pg_ctl("start")?;
    assert_eq!(
        machine.psql(
            "SELECT timeline_id, to_regclass('before') IS NOT NULL, to_regclass('after_1') IS NULL FROM pg_control_checkpoint()"
        )?,
        "2|t|t"
    );
    machine.psql("SELECT pg_switch_wal()")?;
    machine.pg_ctl("stop")?;
    machine.init(&[])?.expect_success()?;

    // The state that the rolled-back one left behind is on the older timeline by now.
    fs::remove_dir_all(machine.data())?;
    copy(&newest, &machine.data())?;
    let refused = machine.init(&[])?.expect_code(1)?.stderr;
    ensure!(
        refused.contains("on timeline 2 had been archived"),
        "{refused}"
    );
    Ok(())
}

#[test]
fn s3_s25_a_damaged_cluster_and_one_that_postgresql_would_refuse_are_refused_with_a_way_out()
-> Result<()> {
    let machine = Machine::new()?;
    machine.init(&[])?.expect_success()?;
    let data = machine.data();
    let shown = data.display();

    fs::set_permissions(&data, fs::Permissions::from_mode(0o755))?;
    machine.refuses(
        &format!("\"{shown}\" has mode 0755, with which PostgreSQL does not start"),
        "chmod 0700",
    )?;
    fs::set_permissions(&data, fs::Permissions::from_mode(0o700))?;

    let version = data.join("PG_VERSION");
    let major = machine.testbed.server().major();
    fs::write(&version, "12\n")?;
    machine.refuses(
        &format!(
            "\"{shown}\" is a cluster of PostgreSQL 12, the programs are of PostgreSQL {major}"
        ),
        "declare version 12 again, or upgrade the cluster with pg_upgrade",
    )?;
    fs::remove_file(&version)?;
    let run = machine.init(&[])?.expect_code(1)?;
    ensure!(run.stderr.contains("and no PG_VERSION"), "{}", run.stderr);
    fs::write(&version, format!("{major}\n"))?;

    let wal = data.join("pg_wal");
    let aside = machine.path("pg_wal");
    durable_file::move_to_new_name(&wal, &aside)?;
    machine.refuses(
        &format!("\"{shown}\" has no directory \"pg_wal\""),
        "pg_resetwal would lose committed data",
    )?;
    durable_file::move_to_new_name(&aside, &wal)?;

    let control = data.join("global/pg_control");
    let good = fs::read(&control)?;
    fs::write(&control, vec![0; good.len()])?;
    let run = machine.init(&[])?.expect_code(1)?;
    ensure!(run.stderr.contains("is damaged: read"), "{}", run.stderr);
    ensure!(
        run.stderr
            .contains("hint: `backstay restore main --to latest` brings it back"),
        "{}",
        run.stderr
    );
    fs::write(&control, &good)?;
    machine.init(&[])?.expect_success()?;
    Ok(())
}

#[test]
fn an_unmounted_tablespace_keeps_the_server_from_starting() -> Result<()> {
    let machine = Machine::new()?;
    machine.init(&[])?.expect_success()?;
    machine.pg_ctl("start")?;
    let space = machine.path("space");
    fs::create_dir(&space)?;
    machine.psql(&format!(
        "CREATE TABLESPACE fast LOCATION '{}'",
        space.display()
    ))?;
    machine.pg_ctl("stop")?;
    machine.init(&[])?.expect_success()?;
    durable_file::move_to_new_name(&space, &machine.path("unmounted"))?;
    fs::create_dir(&space)?;
    machine.refuses(
        &format!(
            "tablespace \"{}\" holds nothing of this cluster",
            space.display()
        ),
        "is its file system mounted?",
    )
}

#[test]
fn nothing_starts_in_the_middle_of_a_restore_and_an_abandoned_one_is_over() -> Result<()> {
    let machine = Machine::new()?;
    machine.init(&[])?.expect_success()?;
    let places = Places::beside(&machine.data());
    fs::create_dir(&places.staging)?;
    for (step, code) in [(Step::Building, 1), (Step::Swapping, 1), (Step::Failed, 0)] {
        places.write_journal(&Journal {
            step,
            kept: None,
            tablespaces: Vec::new(),
        })?;
        let run = machine.init(&[])?.expect_code(code)?;
        ensure!(
            run.stderr.contains("backstay restore main"),
            "{}",
            run.stderr
        );
    }
    machine
        .backstay(&["restore", "--abandon"])?
        .expect_success()?;
    ensure!(!places.staging.exists() && !places.journal.exists());
    let run = machine.init(&[])?.expect_success()?;
    assert_eq!(run.stderr, "");
    // There is nothing to give up any more, and a restore that is nearly done is not given up.
    machine
        .backstay(&["restore", "--abandon"])?
        .expect_code(1)?;
    places.write_journal(&Journal {
        step: Step::Swapping,
        kept: None,
        tablespaces: Vec::new(),
    })?;
    machine
        .backstay(&["restore", "--abandon"])?
        .expect_code(1)?;
    ensure!(places.journal.exists());
    Ok(())
}

#[test]
fn s19_an_empty_start_waits_for_the_proof_of_the_preseed() -> Result<()> {
    let machine = Machine::new()?;
    machine.declare(
        "preseed",
        serde_json::json!({ "sources": [{ "kind": "baseBackups" }] }),
    )?;
    machine.refuses(
        &format!(
            "there is no cluster in \"{}\", and the preseed has not shown that its sources hold none",
            machine.data().display()
        ),
        "journalctl --unit=preseed-postgresql-main.service",
    )?;
    PreseedRecord::new(
        PreseedOutcome::NothingToRestore,
        PreseedStep::Done,
        jiff::Timestamp::UNIX_EPOCH,
    )
    .write(&machine.path("state"))?;
    machine.init(&[])?.expect_success()?;
    Ok(())
}

#[test]
fn the_server_does_not_start_without_its_declared_configuration() -> Result<()> {
    let machine = Machine::new()?;
    fs::remove_file(machine.path("declared.conf"))?;
    machine.refuses(
        &format!(
            "open \"{}\": No such file or directory (os error 2)",
            machine.path("declared.conf").display()
        ),
        "has the system been activated?",
    )?;
    ensure!(!machine.data().exists());
    Ok(())
}

#[test]
fn s5_a_directory_that_should_be_mounted_and_is_not_is_refused() -> Result<()> {
    let machine = Machine::new()?;
    let mut settings: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(machine.settings())?)?;
    settings["postgresql"]["requiredMounts"] = serde_json::json!([machine.path("pg")]);
    machine.write_settings(&settings)?;
    let run = machine.init(&[])?.expect_code(1)?;
    ensure!(
        run.stderr.contains(&format!(
            "nothing is mounted at \"{}\": it is a directory of ",
            machine.path("pg").display()
        )),
        "{}",
        run.stderr
    );
    ensure!(
        !machine.data().exists(),
        "a cluster was made below the mount point"
    );
    Ok(())
}

#[test]
fn every_locale_provider_of_this_version_makes_a_cluster() -> Result<()> {
    let major = Testbed::new()?.server().major();
    for (least, provider, expected) in [(15, "icu", "i"), (15, "libc", "c"), (17, "builtin", "b")] {
        let machine = Machine::with(&serde_json::json!({ "localeProvider": provider }))?;
        if major < least {
            let run = machine.init(&[])?.expect_code(1)?;
            ensure!(
                run.stderr
                    .contains("cannot make a cluster with the locale provider"),
                "{}",
                run.stderr
            );
            ensure!(!machine.data().exists());
            continue;
        }
        machine.init(&[])?.expect_success()?;
        machine.pg_ctl("start")?;
        assert_eq!(
            machine.psql("SELECT datlocprovider FROM pg_database WHERE datname = 'template0'")?,
            expected
        );
        machine.pg_ctl("stop")?;
    }
    Ok(())
}

#[test]
fn a_failing_initdb_leaves_nothing_behind() -> Result<()> {
    let machine = Machine::with(&serde_json::json!({ "encoding": "NOSUCHENCODING" }))?;
    let run = machine.init(&[])?.expect_code(1)?;
    ensure!(
        run.stderr
            .contains("could not prepare the start of the server: make a new cluster: "),
        "{}",
        run.stderr
    );
    let left: Vec<_> = fs::read_dir(machine.path("pg"))?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    assert_eq!(left, ["data.backstay-restore.lock"]);
    assert_eq!(fs::read_dir(machine.path("archive"))?.count(), 0);
    Ok(())
}

#[test]
fn initdb_that_a_killed_run_left_behind_is_not_worked_against() -> Result<()> {
    let machine = Machine::new()?;
    // Like the child of a killed run: it holds the lock, and nobody waits for it.
    let lock = Places::beside(&machine.data())
        .try_lock()?
        .context("the lock is free")?;
    lock.share_with_children()?;
    let go_on = machine.path("go-on");
    let mut orphan = Command::new("/bin/sh")
        .args(["-c", "until [ -e \"$0\" ]; do sleep 0.05; done"])
        .arg(&go_on)
        .start_with_log(&machine.path("orphan.log"))?;
    // Not released, as an exiting owner would: the process that dies does not say so either.
    std::mem::forget(lock);
    machine.refuses(
        &format!(
            "something else is making a cluster for \"{}\"",
            machine.data().display()
        ),
        "wait for the restore, or for the initdb that an interrupted start left behind",
    )?;
    ensure!(!machine.data().exists());
    fs::write(&go_on, "")?;
    orphan.wait()?;
    Ok(())
}

/// A machine whose ledger of numbers goes on after a moment, which is returned, all of it archived.
fn with_history() -> Result<(Machine, String)> {
    let machine = Machine::new()?;
    machine.init(&[])?.expect_success()?;
    machine.pg_ctl("start")?;
    machine.psql("CREATE TABLE rows AS SELECT generate_series(1, 100) AS i")?;
    Run::of(
        &testbed::program("pg-base-backup")?
            .arg("--config")
            .arg(machine.settings()),
    )?
    .expect_success()?;
    machine.psql("INSERT INTO rows VALUES (101)")?;
    let moment = machine.psql("SELECT clock_timestamp() AT TIME ZONE 'UTC'")?;
    machine.psql("INSERT INTO rows VALUES (102)")?;
    machine.pg_ctl("stop")?;
    Ok((machine, format!("{moment} UTC")))
}

#[test]
fn a_declared_recovery_is_done_once_and_never_again() -> Result<()> {
    let (machine, moment) = with_history()?;
    let declared = serde_json::json!({ "id": "before-the-mistake", "target": moment });
    machine.declare("recovery", declared)?;
    let plan = machine.init(&["--plan"])?.expect_success()?;
    ensure!(
        plan.stdout
            .contains("once, as recovery \"before-the-mistake\""),
        "{}",
        plan.stdout
    );
    let run = machine.init(&[])?.expect_success()?;
    ensure!(
        run.stderr
            .contains("recovery \"before-the-mistake\" is done and will not be done again"),
        "{}",
        run.stderr
    );
    ensure!(instance_state::base_backup_request(&machine.path("state")).exists());
    let rows = || machine.psql("SELECT count(*) || '/' || max(i) FROM rows");
    machine.pg_ctl("start")?;
    assert_eq!(rows()?, "101/101");
    machine.psql("INSERT INTO rows VALUES (200)")?;
    machine.pg_ctl("stop")?;

    let run = machine.init(&[])?.expect_success()?;
    assert_eq!(run.stderr, "");
    // As a power cut leaves it that came before the last word.
    let state = machine.path("state");
    let mut record = RecoveryRecord::read(&state)?.context("a record")?;
    record.state = RecoveryState::Begun;
    record.write(&state)?;
    machine.init(&[])?.expect_success()?;
    assert_eq!(
        RecoveryRecord::read(&state)?.map(|record| record.state),
        Some(RecoveryState::Done)
    );
    machine.pg_ctl("start")?;
    assert_eq!(rows()?, "102/200");
    machine.pg_ctl("stop")?;
    Ok(())
}

#[test]
fn a_declared_recovery_that_cannot_be_done_changes_nothing_and_says_so_each_time() -> Result<()> {
    let (machine, _) = with_history()?;
    let cluster_files = || -> Result<_> {
        let mut found = machine.snapshot()?;
        found.retain(|path, _| path.starts_with(machine.data()));
        Ok(found)
    };
    let before = cluster_files()?;
    let declare = |target: &str| {
        let declared = serde_json::json!({ "id": "too-early", "target": target });
        machine.declare("recovery", declared)
    };
    declare("2020-01-01 00:00 UTC")?;
    for _ in 0..2 {
        let run = machine.init(&[])?.expect_code(1)?;
        ensure!(
            run.stderr
                .contains("recovery \"too-early\" to 2020-01-01 00:00 UTC was not done: ")
                && run
                    .stderr
                    .contains("hint: the cluster is as it was: leave out recovery"),
            "{}",
            run.stderr
        );
    }
    let after = cluster_files()?;
    ensure!(after == before, "something was changed");
    // One that was begun and has failed is not tried again.
    let state = machine.path("state");
    RecoveryRecord {
        format: RecoveryRecord::FORMAT,
        id: "too-early".into(),
        target: "latest".into(),
        state: RecoveryState::Failed {
            why: "a WAL file is damaged".into(),
        },
        from_timeline: wal::TimelineId::FIRST,
        at: jiff::Timestamp::UNIX_EPOCH,
    }
    .write(&state)?;
    declare("latest")?;
    machine.refuses(
        "recovery \"too-early\" to latest was not done: a WAL file is damaged",
        "with another id",
    )?;
    machine.declare("recovery", serde_json::Value::Null)?;
    machine.init(&[])?.expect_success()?;
    machine.pg_ctl("start")?;
    assert_eq!(machine.psql("SELECT count(*) FROM rows")?, "102");
    machine.pg_ctl("stop")?;
    Ok(())
}

#[test]
fn a_declared_recovery_that_was_interrupted_goes_on() -> Result<()> {
    let (machine, moment) = with_history()?;
    let declared = serde_json::json!({ "id": "again", "target": moment });
    machine.declare("recovery", declared)?;
    let state = machine.path("state");
    let begun = RecoveryRecord {
        format: RecoveryRecord::FORMAT,
        id: "again".into(),
        target: moment,
        state: RecoveryState::Begun,
        from_timeline: wal::TimelineId::FIRST,
        at: jiff::Timestamp::UNIX_EPOCH,
    };
    // Half a restore is beside the cluster.
    begun.write(&state)?;
    let places = Places::beside(&machine.data());
    fs::create_dir(&places.staging)?;
    let journal = Journal {
        step: Step::Building,
        kept: None,
        tablespaces: Vec::new(),
    };
    places.write_journal(&journal)?;
    machine.init(&[])?.expect_success()?;
    machine.pg_ctl("start")?;
    assert_eq!(machine.psql("SELECT max(i) FROM rows")?, "101");
    machine.pg_ctl("stop")?;
    // A whole one only lacks its name.
    begun.write(&state)?;
    durable_file::move_to_new_name(&machine.data(), &places.staging)?;
    places.write_journal(&Journal {
        step: Step::Swapping,
        ..journal
    })?;
    machine.init(&[])?.expect_success()?;
    assert_eq!(
        RecoveryRecord::read(&state)?.map(|record| record.state),
        Some(RecoveryState::Done)
    );
    machine.pg_ctl("start")?;
    assert_eq!(machine.psql("SELECT max(i) FROM rows")?, "101");
    machine.pg_ctl("stop")?;
    Ok(())
}
