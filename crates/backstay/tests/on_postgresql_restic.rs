//! Restoring from restic repositories, made by restic as the NixOS module has it made.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use command::Command;
use serde_json::{Value, json};
use testbed::{Cluster, ClusterOptions, Testbed};

/// Where restic is, if it is installed.
fn restic() -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|directory| directory.join("restic"))
        .find(|program| program.is_file())
}

/// A cluster whose archive and base backups are copied into restic repositories.
struct Copied {
    testbed: Testbed,
    cluster: Cluster,
    restic: PathBuf,
}

impl Copied {
    fn new(restic: PathBuf, repositories: &[&str]) -> Result<Self> {
        let testbed = Testbed::new()?;
        fs::write(testbed.path().join("password"), "correct horse\n")?;
        fs::write(testbed.path().join("wrong"), "battery staple\n")?;
        let declared: Vec<Value> = repositories
            .iter()
            .map(|name| {
                json!({
                    "name": name,
                    "repository": testbed.path().join(name),
                    "passwordFile": testbed.path().join("password"),
                })
            })
            .collect();
        let cluster = testbed.cluster(
            "main",
            ClusterOptions::archiving().segment_size_mib(1).settings(
                &json!({ "restic": declared, "stateDirectory": testbed.path().join("state") }),
            ),
        )?;
        fs::create_dir(testbed.path().join("state"))?;
        cluster.start()?;
        cluster.psql("CREATE TABLE rows (i int)")?;
        let copied = Self {
            testbed,
            cluster,
            restic,
        };
        for name in repositories {
            copied.restic(name, &["init", "--quiet"])?;
        }
        Ok(copied)
    }

    fn restic(&self, repository: &str, arguments: &[&str]) -> Result<String> {
        let password = self.testbed.path().join("password");
        Ok(Command::new(&self.restic)
            .args(arguments)
            .arg("--no-cache")
            .env("RESTIC_REPOSITORY", self.testbed.path().join(repository))
            .env("RESTIC_PASSWORD_FILE", password)
            .run()?
            .stdout)
    }

    /// Copies archive and base backups, with the tags that the module gives.
    fn copy(&self, repository: &str, host: &str) -> Result<()> {
        let archive = self.cluster.archive().display().to_string();
        let backups = self.cluster.backups().display().to_string();
        let host = format!("--host={host}");
        self.restic(
            repository,
            &[
                "backup",
                "--quiet",
                &host,
                "--tag=postgresql,main,base-backup,postgresql-main-base",
                &format!("--exclude={backups}/*.partial"),
                &backups,
            ],
        )?;
        self.restic(
            repository,
            &[
                "backup",
                "--quiet",
                &host,
                "--tag=postgresql,main,wal-archive,postgresql-main-wal",
                &format!("--exclude={archive}/incoming"),
                &archive,
            ],
        )?;
        Ok(())
    }

    fn take_base_backup(&self) -> Result<()> {
        self.cluster
            .run("pg-base-backup", ["--full"])?
            .expect_success()?;
        Ok(())
    }

    fn insert(&self, row: u32) -> Result<()> {
        self.cluster
            .psql(&format!("INSERT INTO rows VALUES ({row})"))?;
        self.cluster.archive_everything()?;
        Ok(())
    }

    /// Takes away all that was on the machine. The settings have been declared again, as they are.
    fn lose_the_host(&self) -> Result<()> {
        self.cluster.kill_hard()?;
        for directory in [
            self.cluster.data().to_owned(),
            self.cluster.archive(),
            self.cluster.backups(),
        ] {
            fs::remove_dir_all(directory)?;
        }
        Ok(())
    }

    fn rows_in(&self, directory: &Path) -> Result<String> {
        let copy = self
            .testbed
            .adopt(directory, self.cluster.settings_path())?;
        copy.start()?;
        copy.psql("SELECT string_agg(i::text, ' ' ORDER BY i) FROM rows")
    }
}

#[test]
fn a_host_that_is_lost_with_everything_on_it_is_restored_from_restic_alone() -> Result<()> {
    let Some(restic) = restic() else {
        testbed::skip!("restic is not installed");
    };
    let copied = Copied::new(restic, &["nas"])?;
    copied.insert(1)?;
    copied.take_base_backup()?;
    copied.insert(2)?;
    copied.take_base_backup()?;
    copied.insert(3)?;
    let moment = copied.cluster.psql("SELECT clock_timestamp()")?;
    copied.insert(4)?;
    copied.copy("nas", "forge")?;
    let backups: Vec<_> =
        base_backups::Repository::open(&copied.cluster.backups(), "main")?.list()?;
    copied.lose_the_host()?;

    for (to, expected) in [("latest", "1 2 3 4"), (moment.as_str(), "1 2 3")] {
        let into = copied
            .testbed
            .path()
            .join(format!("copy-{expected}").replace(' ', "-"));
        copied
            .cluster
            .run(
                "backstay",
                [
                    "restore",
                    "main",
                    "--from",
                    "restic",
                    "--to",
                    to,
                    "--yes",
                    "--into",
                    &into.display().to_string(),
                ],
            )?
            .expect_success()?;
        assert_eq!(copied.rows_in(&into)?, expected);
        let left = durable_file::with_suffix(&into, ".backstay-off-site");
        ensure!(!left.exists(), "\"{}\" is left", left.display());
    }

    // Only what is needed is fetched: the newer base backup, and no WAL from before it.
    let into = copied.testbed.path().join("fetched");
    let run = copied
        .cluster
        .run(
            "backstay",
            ["fetch", "main", "--into", &into.display().to_string()],
        )?
        .expect_success()?;
    ensure!(
        run.stdout.contains("Restore from them with"),
        "{}",
        run.stdout
    );
    let text = fs::read_to_string(into.join("settings.json"))?;
    let settings = settings::Settings::parse(&text)?;
    let directory = settings.base_backup.context("no base backups")?.directory;
    let fetched = base_backups::Repository::open(&directory, "main")?.list()?;
    assert_eq!(fetched, backups[1..]);
    let archive = archive::Archive::open(&settings.archive.directory, "main")?;
    let cluster = archive.newest_cluster()?;
    let first = archive.list(cluster)?.segments().next().context("no WAL")?;
    ensure!(
        first.end(cluster.segment_size()?) > backups[1].start_lsn,
        "{first} was not needed"
    );
    // To the earlier moment, the earlier base backup.
    fs::remove_dir_all(&into)?;
    let before = (backups[1].stopped_at).to_string();
    copied
        .cluster
        .run(
            "backstay",
            [
                "fetch",
                "main",
                "--to",
                &before,
                "--into",
                &into.display().to_string(),
            ],
        )?
        .expect_success()?;
    let fetched = base_backups::Repository::open(&directory, "main")?.list()?;
    assert_eq!(fetched, backups[..1]);

    goes_on_in_place(&copied)
}

/// In the place of what was lost, with the server started, and archiving once there is an archive.
fn goes_on_in_place(copied: &Copied) -> Result<()> {
    let cluster = &copied.cluster;
    cluster
        .run(
            "backstay",
            [
                "restore",
                "main",
                "--from",
                "restic:nas",
                "--to",
                "latest",
                "--yes",
                "--no-backup",
            ],
        )?
        .expect_success()?;
    for directory in [cluster.archive(), cluster.backups()] {
        fs::create_dir(directory)?;
    }
    cluster
        .run("backstay", ["archive", "init", "main"])?
        .expect_success()?;
    copied.insert(5)?;
    copied.take_base_backup()?;
    assert_eq!(
        cluster.psql("SELECT string_agg(i::text, ' ' ORDER BY i) FROM rows")?,
        "1 2 3 4 5"
    );
    Ok(())
}

#[test]
fn s18_a_repository_that_fails_is_passed_over_and_named() -> Result<()> {
    let Some(restic) = restic() else {
        testbed::skip!("restic is not installed");
    };
    let copied = Copied::new(restic, &["first", "second"])?;
    copied.take_base_backup()?;
    copied.insert(1)?;
    copied.copy("second", "forge")?;
    copied.copy("first", "forge")?;
    let password = copied.testbed.path().join("password");
    let declare = |first: Value| {
        copied.cluster.change_settings(&json!({ "restic": [
            first,
            { "name": "second", "repository": copied.testbed.path().join("second"), "passwordFile": password },
        ] }))
    };
    let broken = [
        ("nothing", "password", "is the repository"),
        ("first", "wrong", "wrong password"),
        (
            "empty",
            "password",
            "has no base backups of instance \"main\"",
        ),
    ];
    copied.restic("empty", &["init", "--quiet"])?;
    for (number, (repository, password, said)) in broken.into_iter().enumerate() {
        declare(json!({
            "name": "first",
            "repository": copied.testbed.path().join(repository),
            "passwordFile": copied.testbed.path().join(password),
        }))?;
        let into = copied.testbed.path().join(format!("copy-{number}"));
        let run = copied
            .cluster
            .run(
                "backstay",
                [
                    "restore",
                    "main",
                    "--from",
                    "restic",
                    "--to",
                    "latest",
                    "--yes",
                    "--into",
                    &into.display().to_string(),
                ],
            )?
            .expect_success()?;
        ensure!(
            run.stderr
                .contains("could not use restic repository \"first\"")
                && run.stderr.contains(said),
            "{}",
            run.stderr
        );
        ensure!(!run.stderr.contains("battery"), "the password is shown");
        assert_eq!(copied.rows_in(&into)?, "1");
        // The one that is named is not replaced by another.
        let run = copied
            .cluster
            .run(
                "backstay",
                [
                    "restore",
                    "main",
                    "--from",
                    "restic:first",
                    "--to",
                    "latest",
                    "--yes",
                    "--into",
                    "/nonexistent/copy",
                ],
            )?
            .expect_code(1)?;
        ensure!(run.stderr.contains(said), "{}", run.stderr);
    }
    Ok(())
}

#[test]
fn s18_snapshots_of_another_host_are_never_taken_for_ones_of_this() -> Result<()> {
    let Some(restic) = restic() else {
        testbed::skip!("restic is not installed");
    };
    let copied = Copied::new(restic, &["nas"])?;
    copied.take_base_backup()?;
    copied.insert(1)?;
    copied.copy("nas", "forge")?;
    copied.insert(2)?;
    copied.copy("nas", "anvil")?;
    copied.lose_the_host()?;
    let into = copied.testbed.path().join("copy");
    let path = into.display().to_string();
    let restore = || {
        copied.cluster.run(
            "backstay",
            [
                "restore", "main", "--from", "restic", "--to", "latest", "--yes", "--into", &path,
            ],
        )
    };
    let run = restore()?.expect_code(1)?;
    ensure!(
        run.stderr.contains("on several hosts: anvil, forge"),
        "{}",
        run.stderr
    );
    copied.cluster.change_settings(&json!({ "restic": [{
        "name": "nas",
        "host": "forge",
        "repository": copied.testbed.path().join("nas"),
        "passwordFile": copied.testbed.path().join("password"),
    }] }))?;
    restore()?.expect_success()?;
    assert_eq!(copied.rows_in(&into)?, "1");
    Ok(())
}

/// What people type, from a guide that is older than this project: its host, its repository and its places
/// are replaced, and nothing else.
const KNOWN_COMMANDS: &str = r#"
ssh forge.example.net "sudo restic -r /mnt/nas-backup snapshots --tag postgresql --tag main"
ssh forge.example.net "sudo restic -r /mnt/nas-backup snapshots --tag wal-archive --tag main --last 10"
ssh forge.example.net "sudo restic -r /mnt/nas-backup snapshots --tag base-backup --tag main"
ssh forge.example.net "sudo restic -r /mnt/nas-backup find $WAL_FILE --json"
ssh forge.example.net "sudo restic -r /mnt/nas-backup restore latest --target /tmp/test-restore --include '**/$WAL_FILE'"
ssh forge.example.net "sudo restic -r /mnt/nas-backup restore latest --target /var/lib/postgresql/16/main --tag base-backup --tag main"
ssh forge.example.net "sudo restic -r /mnt/nas-backup restore $SNAPSHOT_ID --target /var/lib/postgresql/16/main"
ssh forge.example.net "sudo restic -r /mnt/nas-backup restore latest --target /var/lib/postgresql/16/main-wal-archive --tag wal-archive --tag main"
ssh forge.example.net "sudo restic -r /mnt/nas-backup snapshots | head -20"
sudo restic -r /mnt/nas-backup unlock
sudo restic -r /mnt/nas-backup snapshots --tag main
"#;

impl Copied {
    /// Runs a line in a shell, with the places of these tests in it. Returns what it prints.
    fn types(&self, line: &str, replaced: &[(&str, &str)]) -> Result<String> {
        let inner = line
            .strip_prefix("ssh forge.example.net \"")
            .and_then(|line| line.strip_suffix('"'))
            .unwrap_or(line);
        let text = replaced
            .iter()
            .fold(inner.replace("sudo ", ""), |text, (name, value)| {
                text.replace(name, value)
            });
        let run = testbed::Run::of(
            &Command::new("/bin/bash")
                .args(["-c", &format!("set -euo pipefail; {text}")])
                .env("PATH", "/usr/local/bin:/usr/bin:/bin")
                .env("HOME", self.testbed.path())
                .env("RESTIC_PASSWORD_FILE", self.testbed.path().join("password")),
        )?;
        Ok(run.expect_success()?.stdout)
    }

    /// The identifier of the only snapshot with this tag.
    fn snapshot(&self, tag: &str) -> Result<String> {
        let found: Vec<Value> = serde_json::from_str(
            &self.restic("nas", &["snapshots", "--json", &format!("--tag={tag}")])?,
        )?;
        ensure!(found.len() == 1, "{found:?}");
        Ok(found[0]["short_id"]
            .as_str()
            .context("a snapshot has an identifier")?
            .to_owned())
    }
}

/// Where a path is below the directory that it was restored into.
fn below(target: &Path, path: &Path) -> Result<PathBuf> {
    Ok(target.join(path.strip_prefix("/")?))
}

#[test]
fn the_restic_commands_that_people_know_find_and_restore_what_was_copied() -> Result<()> {
    let Some(restic) = restic() else {
        testbed::skip!("restic is not installed");
    };
    let copied = Copied::new(restic, &["nas"])?;
    copied.take_base_backup()?;
    copied.cluster.psql("INSERT INTO rows VALUES (1)")?;
    let wal = copied.cluster.archive_everything()?;
    copied.copy("nas", "forge")?;
    let base = copied.snapshot("base-backup")?;
    let place = |name: &str| copied.testbed.path().join(name);
    let text = |path: &Path| path.display().to_string();
    let archive = archive::Archive::open(&copied.cluster.archive(), "main")?;
    let stored = archive.path_of(archive.newest_cluster()?, &wal::WalFileName::parse(&wal)?)?;
    let is_stored = |target: &Path| -> Result<()> {
        assert_eq!(
            fs::read(below(target, &stored)?)?,
            fs::read(&stored)?,
            "{wal} as it is in the archive"
        );
        Ok(())
    };
    let backups = base_backups::Repository::open(&copied.cluster.backups(), "main")?.list()?;
    let backup = copied.cluster.backups().join(&backups[0].name);
    let (repository, small, data, archived) = (
        text(&place("nas")),
        text(&place("test-restore")),
        text(&place("data")),
        text(&place("archived")),
    );
    let replaced = [
        ("/mnt/nas-backup", repository.as_str()),
        ("/tmp/test-restore", small.as_str()),
        ("/var/lib/postgresql/16/main-wal-archive", archived.as_str()),
        ("/var/lib/postgresql/16/main", data.as_str()),
        ("$WAL_FILE", wal.as_str()),
        ("$SNAPSHOT_ID", base.as_str()),
    ];
    let mut said = Vec::new();
    for line in KNOWN_COMMANDS.lines().filter(|line| !line.is_empty()) {
        said.push(copied.types(line, &replaced)?);
    }
    // Both copies, those with the tag of either, and what is neither.
    ensure!(
        said[0].contains("wal-archive") && said[0].contains("base-backup"),
        "{}",
        said[0]
    );
    ensure!(said[2].contains(&base), "{}", said[2]);
    ensure!(said[3].contains(&text(&stored)), "{}", said[3]);
    is_stored(&place("test-restore"))?;
    is_stored(&place("archived"))?;
    let server = copied.testbed.server().bin();
    copied.types(
        &format!(
            "'{}/pg_verifybackup' --no-parse-wal '{}'",
            server.display(),
            below(&place("data"), &backup)?.display()
        ),
        &[],
    )?;
    ensure!(said[10].contains(&base), "{}", said[10]);

    // What our own guide says, line by line.
    let guide = include_str!("../../../docs/guides/restic.md");
    let lines: Vec<&str> = guide
        .split("\n```sh\n")
        .skip(1)
        .filter_map(|block| block.split("\n```").next())
        .flat_map(str::lines)
        .collect();
    let script = lines.join("\n");
    ensure!(lines.len() == 9, "{script}");
    let places = ["/tmp/guide-restore", "/tmp/guide-base", "/tmp/guide-wal"]
        .map(|name| text(&place(name.trim_start_matches("/tmp/"))));
    let password = text(&place("password"));
    copied.types(
        &script,
        &[
            ("/mnt/nas-backup", repository.as_str()),
            ("/run/secrets/restic/password", password.as_str()),
            ("/tmp/test-restore", places[0].as_str()),
            ("/tmp/base-backups", places[1].as_str()),
            ("/tmp/wal-archive", places[2].as_str()),
            ("000000010000000000000002", wal.as_str()),
        ],
    )?;
    is_stored(&place("guide-restore"))?;
    is_stored(&place("guide-wal"))?;
    ensure!(
        below(&place("guide-base"), &backup)?
            .join("backup_manifest")
            .is_file()
    );
    Ok(())
}
