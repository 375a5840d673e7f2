//! What is noted of a replica by what it answers. `ssh` and `zfs` are stand-ins here: what they print is what OpenSSH
//! 10 and OpenZFS 2.3.9 print. The real ones are asked in the scenario `replication`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use settings::ReplicaContent;
use testbed::Run;

/// A directory with stand-ins in it, and settings with one replica here and one there.
struct House {
    directory: tempfile::TempDir,
}

impl House {
    /// `zfs` lists the pool with `names`, and the snapshots of the replica with `snapshots`, if that is there.
    fn new(names: &str, snapshots: Option<&str>) -> Result<Self> {
        let house = Self {
            directory: tempfile::tempdir()?,
        };
        let listed = snapshots.map_or_else(
            || "echo \"cannot open '$dataset': dataset does not exist\" >&2; exit 1".to_owned(),
            |snapshots| format!("printf '{snapshots}'"),
        );
        house.program(
            "zfs",
            &format!(
                "for dataset; do :; done\ncase \"$*\" in *'-t snapshot'*) {listed} ;; *) printf '{names}' ;; esac"
            ),
        )?;
        house.program("zpool", "exit 1")?;
        // As sshd does: the last word goes to a shell.
        house.program(
            "ssh",
            &format!(
                "echo \"$@\" > '{0}/ssh-arguments'\nfor word; do case $word in -oUserKnownHostsFile=*) cat \"${{word#*=}}\" > '{0}/ssh-key';; esac; done\nexec sh -c \"$word\"",
                house.path().display()
            ),
        )?;
        fs::write(house.key(), "a private key")?;
        fs::write(
            house.settings(),
            json!({
                "instance": "main",
                "stateDirectory": house.state(),
                "postgresql": { "binDirectory": "/bin", "dataDirectory": "/data", "socketDirectory": "/run" },
                "archive": { "directory": "/archive" },
                "snapshots": { "dataset": "tank/main", "replicas": [
                    { "content": "data", "dataset": "vault/main", "unit": "syncoid-tank-main.service" },
                    { "content": "wal", "dataset": "vault/main", "unit": "syncoid-tank-wal.service", "ssh": {
                        "host": "nas.example.org", "user": "receiver", "port": 2222,
                        "sshKeyFile": house.key(), "knownHosts": "[nas.example.org]:2222 ssh-ed25519 AAAA",
                    } },
                ] },
            })
            .to_string(),
        )?;
        Ok(house)
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn state(&self) -> PathBuf {
        self.path().join("state")
    }

    fn key(&self) -> PathBuf {
        self.path().join("key")
    }

    fn settings(&self) -> PathBuf {
        self.path().join("settings.json")
    }

    fn program(&self, name: &str, text: &str) -> Result<()> {
        let path = self.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n"))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(())
    }

    fn ask(&self, content: ReplicaContent) -> Result<Run> {
        let path = std::env::var("PATH").unwrap_or_default();
        Run::of(
            &testbed::program("pg-replica")?
                .arg("--config")
                .arg(self.settings())
                .args(["--content", content.name()])
                .env("PATH", format!("{}:{path}", self.path().display())),
        )
    }

    fn noted(&self, content: ReplicaContent) -> Result<Value> {
        let path = self
            .state()
            .join(format!("replica-{}.json", content.name()));
        Ok(serde_json::from_slice(&fs::read(path)?)?)
    }
}

const TWO: &str = "vault/main@first\\t11\\t1763700000\\nvault/main@second\\t12\\t1763703600\\n";

#[test]
fn the_newest_snapshot_is_noted_here_and_there() -> Result<()> {
    let house = House::new("vault\\nvault/main\\n", Some(TWO))?;
    for content in [ReplicaContent::Data, ReplicaContent::Wal] {
        house.ask(content)?.expect_success()?;
        let noted = house.noted(content)?;
        assert_eq!(
            noted["newest"],
            json!({ "name": "second", "createdAt": "2025-11-21T05:40:00Z" }),
        );
        assert_eq!(noted["dataset"], "vault/main");
    }
    let arguments = fs::read_to_string(house.path().join("ssh-arguments"))?;
    for expected in [
        &format!("-i {}", house.key().display()),
        "-p 2222",
        "-l receiver",
        "BatchMode=yes",
        "StrictHostKeyChecking=yes",
        "GlobalKnownHostsFile=/dev/null",
        "-- nas.example.org zfs list",
    ] {
        ensure!(
            arguments.contains(expected),
            "\"{expected}\" not in {arguments}"
        );
    }
    assert_eq!(
        fs::read_to_string(house.path().join("ssh-key"))?,
        "[nas.example.org]:2222 ssh-ed25519 AAAA\n"
    );
    Ok(())
}

#[test]
fn a_replica_without_snapshots_and_one_that_is_not_there_are_noted_as_empty() -> Result<()> {
    for (names, snapshots) in [("vault\\nvault/main\\n", Some("")), ("vault\\n", None)] {
        let house = House::new(names, snapshots)?;
        for content in [ReplicaContent::Data, ReplicaContent::Wal] {
            house.ask(content)?.expect_success()?;
            ensure!(house.noted(content)?["newest"].is_null());
        }
    }
    Ok(())
}

#[test]
fn a_target_that_does_not_answer_leaves_the_last_note() -> Result<()> {
    let house = House::new("vault\\nvault/main\\n", Some(TWO))?;
    house.ask(ReplicaContent::Wal)?.expect_success()?;
    let before = house.noted(ReplicaContent::Wal)?;
    house.program(
        "ssh",
        "echo 'ssh: connect to host nas.example.org port 2222: Connection refused' >&2; exit 255",
    )?;
    let run = house.ask(ReplicaContent::Wal)?.expect_code(1)?;
    ensure!(
        run.stderr.contains("could not note what the replica holds: host \"nas.example.org\" could not be asked: ssh: connect to host nas.example.org port 2222: Connection refused")
            && run.stderr.contains("hint: "),
        "{}",
        run.stderr
    );
    assert_eq!(house.noted(ReplicaContent::Wal)?, before);
    Ok(())
}

#[test]
fn a_pool_that_cannot_be_listed_proves_nothing() -> Result<()> {
    let house = House::new("", None)?;
    house.program(
        "zfs",
        "echo \"cannot open 'vault': no such pool\" >&2; exit 1",
    )?;
    let run = house.ask(ReplicaContent::Data)?.expect_code(1)?;
    ensure!(run.stderr.contains("no such pool"), "{}", run.stderr);
    ensure!(!house.state().exists(), "something was noted");
    Ok(())
}

#[test]
fn a_key_that_systemd_could_not_find_is_named_as_missing() -> Result<()> {
    let house = House::new("vault\\nvault/main\\n", Some(TWO))?;
    fs::write(house.key(), "\n")?;
    let run = house.ask(ReplicaContent::Wal)?.expect_code(1)?;
    ensure!(
        run.stderr.contains("would let this machine in, is missing")
            && run.stderr.contains(&house.key().display().to_string()),
        "{}",
        run.stderr
    );
    Ok(())
}
