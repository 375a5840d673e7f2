//! What `pg-base-backup` makes of faults, and whether what it calls good can be restored: every test
//! ends in a restore and a comparison, or in a backup that does not count.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use base_backups::{Record, Repository};
use command::Command;
use serde_json::{Value, json};
use testbed::{Cluster, ClusterOptions, Run, StopMode, Testbed, wait_until};

const FAKETIME: &str = "/usr/bin/faketime";
/// What must not appear in a message.
const SECRET: &str = "canary-7f3a";
/// KiB per second: a copy of the cluster takes some three seconds.
const SLOW: u32 = 8 << 10;

/// A running cluster with a table.
struct Source {
    testbed: Testbed,
    cluster: Cluster,
}

impl Source {
    fn new() -> Result<Self> {
        Self::with(&json!({}), &[])
    }

    fn with(base_backup: &Value, configuration: &[&str]) -> Result<Self> {
        let testbed = Testbed::new()?;
        let mut options = ClusterOptions::archiving()
            .segment_size_mib(1)
            .settings(&json!({ "baseBackup": base_backup }));
        for line in configuration {
            options = options.configure(*line);
        }
        let cluster = testbed.cluster("main", options)?;
        cluster.start()?;
        cluster.psql(
            "CREATE TABLE rows AS SELECT i, md5(i::text) AS t FROM generate_series(1, 5000) i",
        )?;
        Ok(Self { testbed, cluster })
    }

    fn change(&self, base_backup: &Value) -> Result<()> {
        self.cluster
            .change_settings(&json!({ "baseBackup": base_backup }))
    }

    fn back_up(&self, arguments: &[&str]) -> Result<Run> {
        self.cluster.run("pg-base-backup", arguments)
    }

    /// Takes a backup that has to succeed, and returns its record and what was said.
    fn good(&self, arguments: &[&str]) -> Result<(Record, String)> {
        let mut all = vec!["--json"];
        all.extend(arguments);
        let run = self.back_up(&all)?.expect_success()?;
        Ok((serde_json::from_value(run.json()?)?, run.stderr))
    }

    /// Takes a backup that has to fail, and returns what was said.
    fn fails(&self, arguments: &[&str]) -> Result<String> {
        Ok(self.back_up(arguments)?.expect_code(1)?.stderr)
    }

    fn write(&self, i: i32) -> Result<()> {
        self.cluster
            .psql(&format!("INSERT INTO rows VALUES ({i}, 'late')"))
            .map(drop)
    }

    fn content_of(cluster: &Cluster) -> Result<String> {
        cluster.psql("SELECT count(*), md5(string_agg(i || t, ',' ORDER BY i, t)) FROM rows")
    }

    /// The backups that `backstay windows` offers, and the whole answer.
    fn offered(&self) -> Result<Vec<String>> {
        let windows = self
            .cluster
            .run("backstay", ["windows", "main", "--json"])?
            .expect_success()?
            .json()?;
        windows["windows"]
            .as_array()
            .context("no list of windows")?
            .iter()
            .map(|window| {
                window["point"]
                    .as_str()
                    .map(ToOwned::to_owned)
                    .context("a window without its base backup")
            })
            .collect()
    }

    fn restore(&self, into: &Path, arguments: &[&str]) -> Result<Run> {
        let mut all = vec!["restore", "main", "--yes", "--to", "latest", "--into"];
        let into = into.display().to_string();
        all.push(&into);
        all.extend(arguments);
        self.cluster.run("backstay", all)
    }

    /// Restores to the latest state beside the server, compares, and removes the copy.
    fn restores_exactly(&self, arguments: &[&str]) -> Result<()> {
        self.cluster.archive_everything()?;
        let into = self.testbed.path().join("copy");
        self.restore(&into, arguments)?.expect_success()?;
        let copy = self.testbed.adopt(&into, self.cluster.settings_path())?;
        copy.start()?;
        assert_eq!(Self::content_of(&copy)?, Self::content_of(&self.cluster)?);
        copy.stop(StopMode::Immediate)?;
        fs::remove_dir_all(&into)?;
        Ok(())
    }

    fn repository(&self) -> Result<Repository> {
        Repository::open(&self.cluster.backups(), "main")
    }

    /// Names in the directory of the backups that are not finished backups.
    fn unfinished(&self) -> Result<Vec<PathBuf>> {
        Ok(self
            .repository()?
            .unfinished()?
            .into_iter()
            .map(|unfinished| unfinished.0)
            .collect())
    }

    fn wait_for_partial(&self) -> Result<()> {
        wait_until("a backup is being taken", || {
            Ok(fs::read_dir(self.cluster.backups())?
                .flatten()
                .any(|entry| {
                    let path = entry.path();
                    path.extension() == Some(OsStr::new("partial")) && path.join("base").exists()
                })
                .then_some(()))
        })
    }

    fn no_slot_is_left(&self) -> Result<()> {
        // The server notices that a client is gone when it writes to it.
        wait_until("no replication slot is left", || {
            let slots = self
                .cluster
                .psql("SELECT count(*) FROM pg_replication_slots")?;
            Ok((slots == "0").then_some(()))
        })
    }
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    Command::new("/bin/cp")
        .args([OsStr::new("-a"), from.as_os_str(), to.as_os_str()])
        .run()
        .map(drop)
}

#[test]
fn a_record_says_what_was_backed_up() -> Result<()> {
    let source = Source::new()?;
    let (record, said) = source.good(&["--full", "--pin"])?;
    ensure!(said.contains("is good"), "{said}");
    let server = source.testbed.server();
    assert_eq!(record.postgres_major, server.major());
    assert_eq!(record.segment_size_bytes, 1 << 20);
    assert_eq!(record.timeline.get(), 1);
    assert_eq!(record.parent, None);
    ensure!(record.pinned && record.data_checksums);
    ensure!(record.start_lsn < record.stop_lsn, "{record:?}");
    ensure!(record.started_at <= record.stopped_at, "{record:?}");
    ensure!(record.content_bytes > 1 << 20, "{record:?}");
    ensure!(record.stored_bytes > 1 << 20, "{record:?}");
    ensure!(
        record.copy_seconds > 0.0 && record.copy_seconds < 100.0,
        "{record:?}"
    );
    ensure!(
        record.verified_with.starts_with("pg_verifybackup"),
        "{record:?}"
    );
    let identifier = source
        .cluster
        .psql("SELECT system_identifier FROM pg_control_system()")?;
    assert_eq!(record.system_identifier.to_string(), identifier);
    assert_eq!(source.offered()?, [record.name]);
    source.write(-1)?;
    source.restores_exactly(&[])
}

#[test]
fn b1_b14_a_killed_backup_is_never_offered_and_the_next_one_succeeds() -> Result<()> {
    let source = Source::new()?;
    source.good(&["--full"])?;
    for delay in [0.02, 0.1, 0.3, 0.6, 1.0, 1.4, 1.9, 2.4, 2.9, 3.4] {
        source.change(&json!({ "maximumRateKibibytesPerSecond": SLOW }))?;
        let before = source.offered()?;
        let killed = source.cluster.program("pg-base-backup", ["--full"])?;
        Run::killed_after(delay, &killed, source.testbed.path())?;
        for name in source.offered()? {
            // A kill right after the last step takes nothing back.
            ensure!(
                before.contains(&name) || source.unfinished()?.is_empty(),
                "\"{name}\", killed after {delay} s, is offered"
            );
        }
        // At once: what pg_basebackup still writes is in the way then.
        source.change(&json!({ "maximumRateKibibytesPerSecond": null }))?;
        let (record, _) = source
            .good(&["--full"])
            .with_context(|| format!("after a kill after {delay} s"))?;
        ensure!(source.offered()?.contains(&record.name));
        ensure!(
            source.unfinished()?.is_empty(),
            "left after a kill after {delay} s: {:?}",
            source.unfinished()?
        );
    }
    source.no_slot_is_left()?;
    source.restores_exactly(&[])
}

#[test]
fn b2_a_backup_of_a_server_that_dies_does_not_count() -> Result<()> {
    let source = Source::with(&json!({ "maximumRateKibibytesPerSecond": SLOW }), &[])?;
    std::thread::scope(|scope| -> Result<()> {
        let taking = scope.spawn(|| source.fails(&["--full"]));
        source.wait_for_partial()?;
        source.cluster.kill_hard()?;
        let said = taking.join().map_err(|_| anyhow!("a panic"))??;
        ensure!(said.contains("could not take a base backup"), "{said}");
        Ok(())
    })?;
    source.cluster.start()?;
    ensure!(source.offered()?.is_empty(), "it is offered");
    source.change(&json!({ "maximumRateKibibytesPerSecond": null }))?;
    source.good(&["--full"])?;
    ensure!(source.unfinished()?.is_empty());
    source.restores_exactly(&[])
}

#[test]
fn b4_a_backup_whose_wal_is_not_archived_in_time_does_not_count() -> Result<()> {
    let source = Source::with(&json!({ "walDeadlineSeconds": 2 }), &[])?;
    source
        .cluster
        .psql("ALTER SYSTEM SET archive_command = 'false'")?;
    source.cluster.psql("SELECT pg_reload_conf()")?;
    let said = source.fails(&["--full"])?;
    ensure!(
        said.contains("WAL file \"00000001") && said.contains("hint: "),
        "{said}"
    );
    ensure!(source.offered()?.is_empty(), "it is offered");
    source.cluster.psql("ALTER SYSTEM RESET archive_command")?;
    source.cluster.psql("SELECT pg_reload_conf()")?;
    source.change(&json!({ "walDeadlineSeconds": 120 }))?;
    source.good(&["--full"])?;
    source.restores_exactly(&[])
}

/// A file of `backup` to damage.
fn victim(backup: &Path) -> Result<PathBuf> {
    let tar = backup.join("base.tar");
    if tar.exists() {
        return Ok(tar);
    }
    let database = fs::read_dir(backup.join("base"))?
        .flatten()
        .map(|entry| entry.path())
        .max()
        .context("no database")?;
    Ok(database.join("1259"))
}

fn change_file(path: &Path, change: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
    let mut bytes = fs::read(path).with_context(|| format!("read \"{}\"", path.display()))?;
    change(&mut bytes);
    fs::write(path, bytes).with_context(|| format!("write \"{}\"", path.display()))
}

fn change_manifest(backup: &Path, change: impl FnOnce(String) -> String) -> Result<()> {
    let path = backup.join("backup_manifest");
    let text = fs::read_to_string(&path)?;
    let changed = change(text.clone());
    ensure!(changed != text, "the manifest was not changed");
    fs::write(path, changed)?;
    Ok(())
}

type Mutilation = (&'static str, fn(&Path) -> Result<()>);

/// What a stored backup of either form can suffer.
const MUTILATIONS: [Mutilation; 12] = [
    ("the manifest is gone", |backup| {
        Ok(fs::remove_file(backup.join("backup_manifest"))?)
    }),
    ("the manifest is empty", |backup| {
        Ok(fs::write(backup.join("backup_manifest"), "")?)
    }),
    ("the manifest is cut off", |backup| {
        change_manifest(backup, |text| text[..text.len() / 2].to_owned())
    }),
    ("a size in the manifest is edited", |backup| {
        change_manifest(backup, |text| text.replacen("\"Size\": ", "\"Size\": 1", 1))
    }),
    ("a checksum in the manifest is edited", |backup| {
        change_manifest(backup, |text| {
            let at = text.find("\"Checksum\": \"").map_or(0, |at| at + 13);
            let digit = if text.as_bytes()[at] == b'0' {
                "1"
            } else {
                "0"
            };
            format!("{}{digit}{}", &text[..at], &text[at + 1..])
        })
    }),
    ("a file is left out of the manifest", |backup| {
        change_manifest(backup, |text| {
            text.lines()
                .filter(|line| !line.contains("PG_VERSION"))
                .collect::<Vec<_>>()
                .join("\n")
        })
    }),
    ("a file is gone", |backup| {
        Ok(fs::remove_file(victim(backup)?)?)
    }),
    ("a file is empty", |backup| {
        Ok(fs::write(victim(backup)?, "")?)
    }),
    ("a file is cut off", |backup| {
        change_file(&victim(backup)?, |bytes| bytes.truncate(bytes.len() / 2))
    }),
    ("a bit of a file is flipped", |backup| {
        change_file(&victim(backup)?, |bytes| {
            // Not past the middle: the end of a tar file is padding, which means nothing.
            let at = bytes.len() / 2;
            bytes[at] ^= 4;
        })
    }),
    ("a file is a directory", |backup| {
        let victim = victim(backup)?;
        fs::remove_file(&victim)?;
        Ok(fs::create_dir(victim)?)
    }),
    ("a file is a link to another", |backup| {
        let victim = victim(backup)?;
        let aside = backup.with_extension("aside");
        durable_file::move_to_new_name(&victim, &aside)?;
        Ok(std::os::unix::fs::symlink(aside, victim)?)
    }),
];

const MUTILATIONS_OF_PLAIN: [Mutilation; 3] = [
    ("a file is too many", |backup| {
        Ok(fs::write(backup.join("base/1/99999"), "extra")?)
    }),
    ("a file is longer", |backup| {
        change_file(&victim(backup)?, |bytes| bytes.push(0))
    }),
    ("a directory is empty", |backup| {
        fs::remove_dir_all(backup.join("global"))?;
        Ok(fs::create_dir(backup.join("global"))?)
    }),
];

const MUTILATIONS_OF_TAR: [Mutilation; 3] = [
    ("a member is too many", |backup| {
        let tar = backup.join("base.tar");
        fs::write(backup.with_extension("extra"), "extra")?;
        Command::new("/bin/tar")
            .arg("-C")
            .arg(backup.parent().context("no parent")?)
            .arg("-rf")
            .arg(&tar)
            .arg(
                backup
                    .with_extension("extra")
                    .file_name()
                    .context("no name")?,
            )
            .run()
            .map(drop)
    }),
    ("a name in the tar file is another", |backup| {
        change_file(&victim(backup)?, |bytes| {
            if let Some(at) = bytes.windows(10).position(|part| part == b"PG_VERSION") {
                bytes[at] = b'Q';
            }
        })
    }),
    ("a tar file is garbage", |backup| {
        change_file(&victim(backup)?, |bytes| {
            for byte in bytes {
                *byte ^= 0x5A;
            }
        })
    }),
];

fn refuses_every_mutilation(format: &str, further: &[Mutilation]) -> Result<()> {
    let source = Source::with(&json!({ "format": format }), &[])?;
    let (record, _) = source.good(&["--full"])?;
    source.write(-1)?;
    source.cluster.archive_everything()?;
    let backup = source.cluster.backups().join(&record.name);
    let pristine = source.testbed.path().join("pristine");
    copy_tree(&backup, &pristine)?;
    let into = source.testbed.path().join("into").join("copy");
    let above = into.parent().context("no parent")?;
    fs::create_dir(above)?;
    let mut refused = 0;
    for (what, mutilate) in MUTILATIONS.iter().chain(further) {
        mutilate(&backup).with_context(|| (*what).to_owned())?;
        let run = source
            .restore(&into, &[])?
            .expect_code(1)
            .with_context(|| (*what).to_owned())?;
        ensure!(run.stderr.contains("could not "), "{what}: {}", run.stderr);
        // The lock is a file that stays: to remove it would let two take it.
        let left: Vec<_> = fs::read_dir(above)?
            .flatten()
            .filter(|entry| entry.path().extension() != Some(OsStr::new("lock")))
            .collect();
        ensure!(left.is_empty(), "{what}: left behind: {left:?}");
        let _ = fs::remove_file(backup.with_extension("aside"));
        let _ = fs::remove_file(backup.with_extension("extra"));
        fs::remove_dir_all(&backup)?;
        copy_tree(&pristine, &backup)?;
        refused += 1;
    }
    println!("{refused} mutilations of a {format} backup, each refused");
    source.restores_exactly(&[])
}

#[test]
fn b5_a_plain_backup_that_was_mutilated_is_not_restored() -> Result<()> {
    refuses_every_mutilation("plain", &MUTILATIONS_OF_PLAIN)
}

#[test]
fn b5_a_tar_backup_that_was_mutilated_is_not_restored() -> Result<()> {
    refuses_every_mutilation("tar", &MUTILATIONS_OF_TAR)
}

#[test]
fn b6_a_flipped_bit_in_a_stored_page_is_found_when_the_backup_is_checked() -> Result<()> {
    let source = Source::new()?;
    let (record, _) = source.good(&["--full"])?;
    let repository = source.repository()?;
    let check = || base_backups::check(&repository, &record, &base_backups::Progress::default());
    check()?;
    let table = source.cluster.psql("SELECT pg_relation_filepath('rows')")?;
    let path = repository.directory(&record.name).join(table);
    let whole = fs::read(&path)?;
    for number in 0..8 {
        let mut bytes = whole.clone();
        let at = (number * 7919 + 131) * 8191 % bytes.len();
        bytes[at] ^= 1 << number;
        fs::write(&path, bytes)?;
        ensure!(check().is_err(), "a flip in byte {at} was not found");
    }
    fs::write(&path, whole)?;
    check()
}

#[test]
fn b7_a_backup_of_a_damaged_page_fails_and_the_previous_one_is_kept() -> Result<()> {
    let source = Source::new()?;
    let (first, _) = source.good(&["--full"])?;
    let table = source.cluster.psql("SELECT pg_relation_filepath('rows')")?;
    source.cluster.stop(StopMode::Fast)?;
    let path = source.cluster.data().join(table);
    change_file(&path, |bytes| bytes[8192 + 5000] ^= 1)?;
    source.cluster.start()?;
    let said = source.fails(&["--full"])?;
    ensure!(said.contains("checksum"), "{said}");
    assert_eq!(source.offered()?, [first.name]);
    change_file(&path, |bytes| bytes[8192 + 5000] ^= 1)?;
    source.restores_exactly(&[])
}

#[test]
fn b12_tablespaces_with_any_path_are_backed_up_and_restored() -> Result<()> {
    let source = Source::new()?;
    let places =
        ["plain", "with a space and=an equals sign"].map(|n| source.testbed.path().join(n));
    for (number, place) in places.iter().enumerate() {
        fs::create_dir(place)?;
        source.cluster.psql(&format!(
            "CREATE TABLESPACE space{number} LOCATION '{}'",
            place.display()
        ))?;
        source.cluster.psql(&format!(
            "CREATE TABLE rows{number} TABLESPACE space{number} AS SELECT * FROM rows"
        ))?;
    }
    for format in ["plain", "tar"] {
        source.change(&json!({ "format": format }))?;
        let (record, _) = source.good(&["--full"])?;
        assert_eq!(record.tablespaces.len(), 2);
        source.write(-1)?;
        source.cluster.archive_everything()?;
        let into = source.testbed.path().join(format!("copy-{format}"));
        let mut arguments = Vec::new();
        for (number, place) in places.iter().enumerate() {
            let new = source.testbed.path().join(format!("{format} new={number}"));
            arguments.push("--tablespace-mapping".to_owned());
            // As for pg_basebackup: the first equals sign without a backslash is the one between.
            arguments.push(
                format!("{}\n{}", place.display(), new.display())
                    .replace('=', "\\=")
                    .replace('\n', "="),
            );
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        source.restore(&into, &arguments)?.expect_success()?;
        let copy = source
            .testbed
            .adopt(&into, source.cluster.settings_path())?;
        copy.start()?;
        assert_eq!(
            Source::content_of(&copy)?,
            Source::content_of(&source.cluster)?
        );
        for number in 0..places.len() {
            let sql =
                format!("SELECT count(*), md5(string_agg(t, '' ORDER BY i)) FROM rows{number}");
            assert_eq!(copy.psql(&sql)?, source.cluster.psql(&sql)?);
            // Not the running server's.
            copy.psql(&format!("DELETE FROM rows{number}"))?;
            copy.psql("CHECKPOINT")?;
            assert_ne!(copy.psql(&sql)?, source.cluster.psql(&sql)?);
        }
        copy.stop(StopMode::Immediate)?;
    }
    Ok(())
}

#[test]
fn b13_a_second_backup_at_the_same_time_is_refused() -> Result<()> {
    let source = Source::with(&json!({ "maximumRateKibibytesPerSecond": SLOW }), &[])?;
    let record = std::thread::scope(|scope| {
        let first = scope.spawn(|| source.good(&["--full"]));
        source.wait_for_partial()?;
        let said = source.fails(&["--full"])?;
        ensure!(
            said.contains("another program is at work") && said.contains("hint: "),
            "{said}"
        );
        first.join().map_err(|_| anyhow!("a panic"))?
    })?
    .0;
    // And the rate was kept: the WAL streamed beside it has no limit.
    let kibibytes = u32::try_from(record.content_bytes / 1024)?;
    let least = f64::from(kibibytes) / f64::from(SLOW) * 0.8;
    ensure!(record.copy_seconds > least, "{record:?}");
    assert_eq!(source.offered()?, [record.name]);
    source.restores_exactly(&[])
}

#[test]
fn b15_a_server_that_lets_nobody_in_is_one_message_without_secrets() -> Result<()> {
    let source = Source::new()?;
    let fails = |expected: &str| -> Result<()> {
        let command = source
            .cluster
            .program("pg-base-backup", ["--full"])?
            .env("PGPASSWORD", SECRET);
        let run = Run::of(&command)?.expect_code(1)?;
        let said = format!("{}{}", run.stdout, run.stderr);
        ensure!(said.contains(expected), "\"{expected}\" not in {said}");
        ensure!(said.contains("hint: "), "no hint: {said}");
        ensure!(!said.contains(SECRET), "a secret in {said}");
        ensure!(said.lines().count() <= 6, "more than one message: {said}");
        ensure!(source.offered()?.is_empty(), "it is offered");
        Ok(())
    };
    source
        .cluster
        .change_settings(&json!({ "postgresql": { "role": "nobody_here" } }))?;
    fails("role \"nobody_here\" does not exist")?;
    source.cluster.psql("CREATE ROLE plain LOGIN")?;
    source
        .cluster
        .change_settings(&json!({ "postgresql": { "role": "plain" } }))?;
    // As versions say it: "must be superuser or ...", "permission denied ...".
    fails("could not take a base backup: ask the server who it is")?;
    source.cluster.psql("GRANT pg_read_all_settings TO plain")?;
    fails("pg_basebackup")?;
    source
        .cluster
        .change_settings(&json!({ "postgresql": { "role": null } }))?;
    let access = source.cluster.data().join("pg_hba.conf");
    let usual = fs::read_to_string(&access)?;
    fs::write(&access, format!("local replication all reject\n{usual}"))?;
    source.cluster.psql("SELECT pg_reload_conf()")?;
    fails("pg_hba.conf rejects replication connection")?;
    fs::write(&access, format!("local all all scram-sha-256\n{usual}"))?;
    source.cluster.psql("SELECT pg_reload_conf()")?;
    std::thread::sleep(Duration::from_millis(300));
    let command = source
        .cluster
        .program("pg-base-backup", ["--full"])?
        .env("PGPASSWORD", SECRET);
    let run = Run::of(&command)?.expect_code(1)?;
    ensure!(!run.stderr.contains(SECRET), "{}", run.stderr);
    ensure!(run.stderr.contains("hint: "), "{}", run.stderr);
    Ok(())
}

#[test]
fn x11_a_role_that_is_no_superuser_takes_a_backup() -> Result<()> {
    let source = Source::new()?;
    source
        .cluster
        .psql("CREATE ROLE backup LOGIN REPLICATION")?;
    source
        .cluster
        .psql("GRANT pg_read_all_settings TO backup")?;
    source
        .cluster
        .change_settings(&json!({ "postgresql": { "role": "backup" } }))?;
    source.good(&["--full"])?;
    source
        .cluster
        .change_settings(&json!({ "postgresql": { "role": null } }))?;
    source.restores_exactly(&[])
}

#[test]
fn b19_a_clock_that_is_set_back_gives_no_name_twice() -> Result<()> {
    if !Path::new(FAKETIME).exists() {
        testbed::skip!("faketime is not installed");
    }
    let source = Source::new()?;
    let mut names = vec![source.good(&["--full"])?.0.name];
    source.write(-1)?;
    for clock in ["-1d", "-1d", "@2026-02-03 04:05:06", "@2026-02-03 04:05:06"] {
        let command = source
            .cluster
            .program("pg-base-backup", ["--full", "--json"])?
            .wrapped_in(FAKETIME, ["-f", clock]);
        let record: Record = serde_json::from_value(Run::of(&command)?.expect_success()?.json()?)?;
        ensure!(
            !names.contains(&record.name),
            "\"{}\" was given twice",
            record.name
        );
        names.push(record.name);
    }
    source.write(-2)?;
    // By what the server says, not by their names.
    assert_eq!(source.offered()?, names);
    source.restores_exactly(&[])
}

#[test]
fn a_tar_backup_in_every_compression_is_restored_exactly() -> Result<()> {
    let source = Source::with(&json!({ "format": "tar" }), &[])?;
    for (number, compression) in ["none", "gzip", "lz4", "zstd"].into_iter().enumerate() {
        source.change(&json!({ "tarCompression": compression }))?;
        let (record, _) = source.good(&["--full"])?;
        assert_eq!(
            serde_json::to_value(&record)?["compression"],
            json!(compression)
        );
        ensure!(
            (record.stored_bytes < record.content_bytes / 2) == (compression != "none"),
            "{record:?}"
        );
        source.write(-1 - i32::try_from(number)?)?;
        source
            .restores_exactly(&[])
            .with_context(|| compression.to_owned())?;
    }
    Ok(())
}

/// A cluster whose backups are incremental, with `chain_length` of them after each full one.
fn incremental(chain_length: u32) -> Result<Source> {
    let settings = json!({ "incremental": { "chainLength": chain_length } });
    let source = Source::with(&settings, &["summarize_wal = on"])?;
    // Large enough that what did not change makes a difference.
    source.cluster.psql(
        "CREATE TABLE still AS SELECT i, md5(i::text) AS t FROM generate_series(1, 100000) i",
    )?;
    Ok(source)
}

#[test]
fn b9_a_chain_of_incremental_backups_is_restored_exactly_and_has_the_declared_length() -> Result<()>
{
    let testbed = Testbed::new()?;
    if testbed.server().major() < 17 {
        testbed::skip!(
            "PostgreSQL {} takes no incremental backups",
            testbed.server().major()
        );
    }
    let source = incremental(4)?;
    let mut parent = None;
    let mut full_bytes = 0;
    for number in 0..5 {
        let (record, _) = source.good(&[])?;
        assert_eq!(record.parent, parent, "backup {number}");
        if number == 0 {
            full_bytes = record.stored_bytes;
        } else {
            ensure!(
                record.stored_bytes < full_bytes,
                "{record:?}, the full one has {full_bytes}"
            );
        }
        parent = Some(record.name);
        source
            .cluster
            .psql("UPDATE rows SET t = md5(t) WHERE i % 7 = 0")?;
        source.write(-1 - number)?;
    }
    let into = source.testbed.path().join("plan");
    let plan = source
        .restore(&into, &["--plan", "--json"])?
        .expect_success()?;
    ensure!(
        plan.stdout.contains(parent.as_deref().unwrap_or("?")),
        "the last link is not what is restored: {}",
        plan.stdout
    );
    source.restores_exactly(&[])?;
    let (record, said) = source.good(&[])?;
    assert_eq!(record.parent, None, "the chain is longer than declared");
    ensure!(!said.contains("in place of an incremental one"), "{said}");
    Ok(())
}

/// The files of the second database have the names that those of the first one had, and their pages never went
/// through WAL: only the summaries tell that none of the first one's blocks is left.
#[test]
fn b11_a_database_that_was_copied_as_files_again_under_its_old_number_is_restored() -> Result<()> {
    let testbed = Testbed::new()?;
    if testbed.server().major() < 17 {
        testbed::skip!(
            "PostgreSQL {} takes no incremental backups",
            testbed.server().major()
        );
    }
    let source = incremental(4)?;
    let create = "CREATE DATABASE copied OID = 100000 TEMPLATE = template1 STRATEGY = FILE_COPY";
    source.cluster.psql(create)?;
    source.cluster.psql_in(
        "copied",
        "CREATE TABLE of_the_first AS SELECT i FROM generate_series(1, 10000) i",
    )?;
    let (full, _) = source.good(&[])?;
    source.cluster.psql("DROP DATABASE copied")?;
    source.cluster.psql_in(
        "template1",
        "CREATE TABLE of_the_second AS SELECT i FROM generate_series(1, 5000) i",
    )?;
    source.cluster.psql(create)?;
    let (record, _) = source.good(&[])?;
    assert_eq!(record.parent, Some(full.name));

    source.cluster.archive_everything()?;
    let into = source.testbed.path().join("copy");
    source.restore(&into, &[])?.expect_success()?;
    let copy = source
        .testbed
        .adopt(&into, source.cluster.settings_path())?;
    copy.start()?;
    for (what, sql, expected) in [
        (
            "rows",
            "SELECT count(*), sum(i) FROM of_the_second",
            "5000|12502500",
        ),
        (
            "a table of the first",
            "SELECT to_regclass('of_the_first') IS NULL",
            "t",
        ),
        // Every row of the catalog is read, and its indexes with it.
        (
            "relations",
            "SELECT count(*) > 300 FROM pg_class WHERE relname = relname",
            "t",
        ),
    ] {
        assert_eq!(copy.psql_in("copied", sql)?, expected, "{what}");
    }
    assert_eq!(
        Source::content_of(&copy)?,
        Source::content_of(&source.cluster)?
    );
    copy.stop(StopMode::Immediate)
}

#[test]
fn b8_an_incremental_backup_without_its_parent_is_not_offered_and_the_next_is_full() -> Result<()> {
    let testbed = Testbed::new()?;
    if testbed.server().major() < 17 {
        testbed::skip!(
            "PostgreSQL {} takes no incremental backups",
            testbed.server().major()
        );
    }
    let source = incremental(4)?;
    let (full, _) = source.good(&[])?;
    source.write(-1)?;
    let (middle, _) = source.good(&[])?;
    source.write(-2)?;
    let (last, _) = source.good(&[])?;
    assert_eq!(last.parent.as_ref(), Some(&middle.name));
    source.write(-3)?;

    let aside = source.testbed.path().join("aside");
    let place = source.cluster.backups().join(&middle.name);
    durable_file::move_to_new_name(&place, &aside)?;
    assert_eq!(source.offered()?, std::slice::from_ref(&full.name));
    // From the full one, with all the WAL since.
    source.restores_exactly(&[])?;
    let (record, said) = source.good(&[])?;
    assert_eq!(record.parent, None);
    ensure!(
        said.contains("taking a full base backup in place of an incremental one"),
        "{said}"
    );
    Ok(())
}

#[test]
fn b8_a_full_backup_is_taken_and_said_to_be_where_an_incremental_one_is_not_possible() -> Result<()>
{
    let testbed = Testbed::new()?;
    let settings = json!({ "incremental": { "chainLength": 4 } });
    let expect_full = |source: &Source, why: &str| -> Result<()> {
        source.write(-1)?;
        let (record, said) = source.good(&[])?;
        assert_eq!(record.parent, None, "{why}");
        ensure!(
            said.contains("taking a full base backup in place of an incremental one")
                && said.contains(why),
            "{said}"
        );
        Ok(())
    };
    if testbed.server().major() < 17 {
        let source = Source::with(&settings, &[])?;
        source.good(&[])?;
        expect_full(&source, "takes no incremental ones")?;
        return source.restores_exactly(&[]);
    }
    let source = incremental(4)?;
    source.good(&[])?;
    source
        .cluster
        .psql("ALTER SYSTEM SET summarize_wal = off")?;
    source.cluster.psql("SELECT pg_reload_conf()")?;
    wait_until("the server has reloaded", || {
        Ok((source.cluster.psql("SHOW summarize_wal")? == "off").then_some(()))
    })?;
    expect_full(&source, "summarize_wal is off")?;
    source.cluster.psql("ALTER SYSTEM SET summarize_wal = on")?;
    source.cluster.psql("SELECT pg_reload_conf()")?;
    wait_until("the server has reloaded", || {
        Ok((source.cluster.psql("SHOW summarize_wal")? == "on").then_some(()))
    })?;
    let (parent, _) = source.good(&["--full"])?;
    change_manifest(&source.cluster.backups().join(&parent.name), |text| {
        text.replacen("\"Size\": ", "\"Size\": 1", 1)
    })?;
    expect_full(&source, "backup_manifest")?;
    source.restores_exactly(&[])
}

#[test]
fn b8_an_incremental_backup_without_wal_summaries_fails_and_does_not_count() -> Result<()> {
    let testbed = Testbed::new()?;
    if testbed.server().major() < 17 {
        testbed::skip!(
            "PostgreSQL {} takes no incremental backups",
            testbed.server().major()
        );
    }
    let source = incremental(4)?;
    let (full, _) = source.good(&[])?;
    for i in 1..=3 {
        source.write(-i)?;
        source.cluster.archive_everything()?;
        source.cluster.psql("CHECKPOINT")?;
    }
    source.cluster.stop(StopMode::Fast)?;
    for entry in fs::read_dir(source.cluster.data().join("pg_wal/summaries"))? {
        fs::remove_file(entry?.path())?;
    }
    source.cluster.start()?;
    // The server makes the summaries again where the WAL is still there, and else says so.
    let run = source.back_up(&["--json"])?;
    if run.code() == Some(0) {
        source.restores_exactly(&[])
    } else {
        ensure!(run.stderr.contains("summar"), "{}", run.stderr);
        assert_eq!(source.offered()?, [full.name]);
        source.good(&["--full"])?;
        source.restores_exactly(&[])
    }
}
