//! What `pg-preseed --receive` leaves behind with another machine that answers, does not, or stops in the middle.
//!
//! `zfs` and `ssh` are stand-ins that keep datasets as directories of text files; a stream is the list of its
//! snapshots. What the real ones do is seen by the scenario `replica-preseed`.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use testbed::Run;

const DATA: &str = "tank/pg/main";
const WAL: &str = "tank/pg/main-wal";
const STAGED: &str = "tank/pg/main.receiving/replica";
const STAGED_WAL: &str = "tank/pg/main-wal.receiving/replica";

/// The datasets of this machine are below `here`, those of the other one below `there`. Each has the files .ds,
/// .snapshots, .properties and, after half a stream, .token. A file `break` breaks the next stream off once.
const ZFS: &str = r#"#!/bin/sh
root=$(dirname "$0")/..
pools=$root/${SIDE:-here}
echo "${SIDE:-here}: $*" >> "$root/log"
for last; do :; done
all=$*
case "$1" in
list)
    [ -e "$pools/$last/.ds" ] || { echo "cannot open '$last': dataset does not exist" >&2; exit 1; }
    case "$*" in
    *" snapshot "*) sed "s|^|$last@|" "$pools/$last/.snapshots" ;;
    *) cd "$pools" && find "$last" -name .ds | sed 's|/.ds$||' | sort | case "$*" in *,used*) sed 's|$|\t4096|' ;; *) cat ;; esac ;;
    esac ;;
get)
    cat "$pools/$last/.properties"
    [ ! -e "$pools/$last/.token" ] || printf 'receive_resume_token\t%s\t-\n' "$(cat "$pools/$last/.token")" ;;
set) printf '%s\t%s\tlocal\n' "${2%%=*}" "${2#*=}" >> "$pools/$last/.properties" ;;
destroy) rm -r "$pools/$last" ;;
send)
    dataset=${last%%@*}
    case "$*" in
    *gone*) echo "cannot resume send: it is no longer the same snapshot" >&2; exit 1 ;;
    *" -t "*) dataset=${dataset#1-}; lines=$(grep "^${last#*@}	" "$pools/$dataset/.snapshots") ;;
    *" -I "*) from=${all#*-I }; from=${from%% *}; lines=$(sed "0,/^${from#*@}	/d" "$pools/$dataset/.snapshots") ;;
    *) lines=$(grep "^${last#*@}	" "$pools/$dataset/.snapshots") ;;
    esac
    echo "begin $dataset"
    echo "$lines" | while read -r name rest; do
        if [ -e "$root/break" ]; then rm "$root/break"; echo "half $name"; exit 1; fi
        echo "$name $rest"
    done || exit 1
    echo end ;;
receive)
    if [ "$2" = -A ]; then
        rm "$pools/$last/.token"
        [ -s "$pools/$last/.snapshots" ] || rm -r "$pools/$last"
        exit 0
    fi
    read -r word source || { echo "cannot receive: failed to read from stream" >&2; exit 1; }
    if [ ! -e "$pools/$last/.ds" ]; then
        mkdir -p "$pools/$last"
        : > "$pools/$last/.ds"; : > "$pools/$last/.snapshots"
        printf 'used\t0\t-\nkeystatus\t%s\t-\n' "$(cat "$root/keystatus")" > "$pools/$last/.properties"
    fi
    while read -r name rest; do
        case "$name" in
        end) exit 0 ;;
        half) echo "1-$source@$rest" > "$pools/$last/.token" ;;
        *) printf '%s\t%s\n' "$name" "$rest" | tr ' ' '\t' >> "$pools/$last/.snapshots"; rm -f "$pools/$last/.token" ;;
        esac
    done
    echo "cannot receive: incomplete stream" >&2
    exit 1 ;;
*) exit 2 ;;
esac
"#;

/// Runs its last argument as the other machine, unless there is a file `down`.
const SSH: &str = r#"#!/bin/sh
root=$(dirname "$0")/..
for last; do :; done
echo "ssh: $*" >> "$root/log"
if [ -e "$root/down" ]; then echo "ssh: connect to host nas port 2222: Connection refused" >&2; exit 255; fi
SIDE=there exec sh -c "$last"
"#;

/// No pools are asked for, and no server runs (`pg_ctl status`).
const FAILS: &str = "#!/bin/sh\nexit 3\n";

struct Bench {
    directory: tempfile::TempDir,
}

impl Bench {
    /// A new machine with empty datasets and places to receive into, and another one with a history of both.
    fn new() -> Result<Self> {
        let bench = Self {
            directory: tempfile::tempdir()?,
        };
        for directory in ["bin", "main", "wal", "sockets", "state"] {
            fs::create_dir(bench.path(directory))?;
        }
        for (name, script) in [
            ("zfs", ZFS),
            ("zpool", FAILS),
            ("ssh", SSH),
            ("pg_ctl", FAILS),
        ] {
            let path = bench.path("bin").join(name);
            fs::write(&path, script)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
        bench.write("key", "a private key\n")?;
        bench.write("keystatus", "none\n")?;
        bench.write("log", "")?;
        for (dataset, mount) in [(DATA, "main"), (WAL, "wal")] {
            let mount = bench.path(mount);
            let properties = format!("mounted\tyes\t-\nmountpoint\t{}\tlocal\n", mount.display());
            bench.dataset("here", dataset, &properties, "")?;
            let place = format!("{dataset}.receiving");
            bench.dataset("here", &place, "available\t1000000\t-\nused\t0\t-\n", "")?;
        }
        bench.dataset("here", "tank", "", "")?;
        bench.dataset("there", "vault", "", "")?;
        bench.dataset(
            "there",
            "vault/main",
            "",
            "first\t11\t100\nsecond\t12\t200\nthird\t13\t300\n",
        )?;
        bench.dataset(
            "there",
            "vault/main-wal",
            "",
            "first\t21\t100\nlater\t22\t400\n",
        )?;
        let settings = json!({
            "instance": "main",
            "postgresql": {
                "binDirectory": bench.path("bin"),
                "dataDirectory": bench.path("main/17"),
                "socketDirectory": bench.path("sockets"),
            },
            "archive": { "directory": bench.path("wal") },
            "stateDirectory": bench.path("state"),
            "preseed": { "sources": [{
                "kind": "syncoid", "host": "nas", "user": "backup", "port": 2222,
                "dataset": "vault/main", "targetDataset": DATA,
                "archiveDataset": "vault/main-wal", "archiveTargetDataset": WAL,
                "sshKeyFile": bench.path("key"), "knownHosts": "[nas]:2222 ssh-ed25519 AAAA", "sendOptions": "w",
            }]},
        });
        bench.write("settings.json", &settings.to_string())?;
        Ok(bench)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        fs::write(self.path(name), text).with_context(|| format!("write {name}"))
    }

    fn dataset(&self, side: &str, name: &str, properties: &str, snapshots: &str) -> Result<()> {
        let directory = self.path(side).join(name);
        fs::create_dir_all(&directory)?;
        fs::write(directory.join(".ds"), "")?;
        fs::write(directory.join(".properties"), properties)?;
        fs::write(directory.join(".snapshots"), snapshots)?;
        Ok(())
    }

    fn receive(&self) -> Result<Run> {
        self.run(&["--receive"])
    }

    fn run(&self, arguments: &[&str]) -> Result<Run> {
        let path = format!("{}:/usr/bin:/bin", self.path("bin").display());
        let command = testbed::program("pg-preseed")?
            .arg("--config")
            .arg(self.path("settings.json"))
            .args(arguments)
            .env("PATH", path)
            .env("TMPDIR", self.directory.path());
        Run::of(&command)
    }

    /// What was asked of the stand-ins since the last time.
    fn log(&self) -> Result<String> {
        let text = fs::read_to_string(self.path("log"))?;
        self.write("log", "")?;
        Ok(text)
    }

    fn record(&self) -> Result<Value> {
        Ok(serde_json::from_slice(&fs::read(
            self.path("state/preseed-receive.json"),
        )?)?)
    }

    /// The names of the snapshots of a dataset of this machine.
    fn snapshots(&self, dataset: &str) -> Result<Vec<String>> {
        let text = fs::read_to_string(self.path("here").join(dataset).join(".snapshots"))?;
        Ok(text
            .lines()
            .filter_map(|line| line.split('\t').next())
            .map(ToOwned::to_owned)
            .collect())
    }

    /// Whether root may take over what was received for data or archive.
    fn is_marked(&self, staged: &str, guid: &str) -> bool {
        fs::read_to_string(self.path("here").join(staged).join(".properties"))
            .is_ok_and(|text| text.contains(&format!("backstay:received\t{guid}\t")))
    }

    /// The declared datasets and what is mounted from them.
    fn declared(&self) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
        let mut files = BTreeMap::new();
        for directory in [
            format!("here/{DATA}"),
            format!("here/{WAL}"),
            "main".into(),
            "wal".into(),
        ] {
            for entry in fs::read_dir(self.path(&directory))? {
                let path = entry?.path();
                if path.is_file() {
                    files.insert(path.clone(), fs::read(path)?);
                }
            }
        }
        Ok(files)
    }

    fn received_whole(&self) -> Result<()> {
        assert_eq!(self.snapshots(STAGED)?, ["first", "second", "third"]);
        assert_eq!(self.snapshots(STAGED_WAL)?, ["first", "later"]);
        ensure!(self.is_marked(STAGED, "13") && self.is_marked(STAGED_WAL, "22"));
        assert_eq!(self.record()?["snapshot"], "third");
        Ok(())
    }
}

#[test]
fn the_whole_history_is_received_over_a_connection_that_trusts_one_key() -> Result<()> {
    let bench = Bench::new()?;
    let before = bench.declared()?;
    bench.receive()?.expect_success()?;
    bench.received_whole()?;
    assert_eq!(bench.declared()?, before);
    let log = bench.log()?;
    for wanted in [
        "-oBatchMode=yes",
        "-oStrictHostKeyChecking=yes",
        "-oGlobalKnownHostsFile=/dev/null",
        "-p 2222 -l backup -- nas zfs list",
        "there: send -w vault/main@first\n",
        "there: send -w -I vault/main@first vault/main@third\n",
        "here: receive -s -u -o canmount=noauto -o mountpoint=none tank/pg/main.receiving/replica\n",
    ] {
        ensure!(log.contains(wanted), "{wanted:?} is missing in\n{log}");
    }
    // What is whole is not sent again.
    bench.receive()?.expect_success()?;
    ensure!(!bench.log()?.contains("send"));
    bench.received_whole()
}

#[test]
fn s11_a_stream_that_is_broken_off_goes_on_and_one_that_cannot_begins_anew() -> Result<()> {
    let bench = Bench::new()?;
    bench.write("break", "")?;
    let run = bench.receive()?.expect_success()?;
    ensure!(
        run.stderr.contains("going on where it was interrupted"),
        "{}",
        run.stderr
    );
    ensure!(bench.log()?.contains("there: send -t 1-vault/main@first\n"));
    bench.received_whole()?;

    // A later run finds half of something that the other machine has pruned since.
    let bench = Bench::new()?;
    let before = bench.declared()?;
    bench.dataset("here", STAGED, "used\t0\t-\n", "")?;
    bench.write(&format!("here/{STAGED}/.token"), "1-vault/main@gone\n")?;
    let run = bench.receive()?.expect_success()?;
    ensure!(run.stderr.contains("beginning over"), "{}", run.stderr);
    bench.received_whole()?;

    // And whole snapshots, of which it has none any more.
    bench.dataset("here", STAGED, "used\t0\t-\n", "of-old\t1\t1\n")?;
    bench.receive()?.expect_success()?;
    bench.received_whole()?;
    assert_eq!(bench.declared()?, before);
    Ok(())
}

#[test]
fn s11_what_is_not_whole_is_not_marked_for_root() -> Result<()> {
    let bench = Bench::new()?;
    bench.write("keystatus", "unavailable\n")?;
    let run = bench.receive()?.expect_code(1)?;
    ensure!(
        run.stderr
            .contains("hint: zfs load-key tank/pg/main.receiving/replica"),
        "{}",
        run.stderr
    );
    // Both are there, and neither may be taken.
    assert_eq!(bench.snapshots(STAGED_WAL)?, ["first", "later"]);
    ensure!(!bench.is_marked(STAGED, "13") && !bench.is_marked(STAGED_WAL, "22"));
    let record = bench.record()?;
    assert_eq!(record["snapshot"], Value::Null);
    assert_eq!(
        record["hint"],
        "zfs load-key tank/pg/main.receiving/replica"
    );
    // The last value counts.
    for staged in [STAGED, STAGED_WAL] {
        let path = bench.path("here").join(staged).join(".properties");
        let text = fs::read_to_string(&path)? + "keystatus\tavailable\t-\n";
        fs::write(&path, text)?;
    }
    bench.receive()?.expect_success()?;
    bench.received_whole()
}

#[test]
fn only_a_listing_that_succeeded_proves_that_there_is_nothing() -> Result<()> {
    let bench = Bench::new()?;
    fs::remove_dir_all(bench.path("there/vault/main"))?;
    fs::remove_dir_all(bench.path("there/vault/main-wal"))?;
    bench.receive()?.expect_success()?;
    let record = bench.record()?;
    assert_eq!(
        (&record["snapshot"], &record["why"]),
        (&Value::Null, &Value::Null)
    );
    let plan = bench.run(&["--plan", "--json"])?.expect_success()?.json()?;
    assert_eq!(
        (&plan["action"], &plan["sources"][0]["answer"]),
        (&json!("beginEmpty"), &json!("nothing"))
    );

    // The pool is not imported over there.
    fs::remove_dir_all(bench.path("there/vault"))?;
    let plan = bench.run(&["--plan", "--json"])?.expect_success()?.json()?;
    assert_eq!(
        (&plan["action"], &plan["sources"][0]["answer"]),
        (&json!("refuse"), &json!("cannotSay"))
    );
    bench.write("down", "")?;
    let plan = bench.run(&["--plan", "--json"])?.expect_success()?.json()?;
    assert_eq!(plan["action"], "refuse");
    assert_eq!(
        plan["sources"][0]["why"],
        "host \"nas\" could not be asked: ssh: connect to host nas port 2222: Connection refused"
    );
    Ok(())
}

#[test]
fn a_plan_says_what_would_be_received_and_receives_nothing() -> Result<()> {
    let bench = Bench::new()?;
    let plan = bench.run(&["--plan", "--json"])?.expect_success()?.json()?;
    assert_eq!(
        (&plan["action"], &plan["from"]),
        (&json!("restore"), &json!("1 (syncoid)"))
    );
    let source = &plan["sources"][0];
    assert_eq!(source["snapshot"], "vault/main@third");
    assert_eq!(source["snapshotTime"], "1970-01-01T00:05:00Z");
    assert_eq!(source["receiveBytes"], 8192);
    ensure!(!bench.path("here").join(STAGED).exists());
    // Nor does the run that fills the data directory: it is told what came of the receive.
    bench.write("keystatus", "unavailable\n")?;
    bench.receive()?.expect_code(1)?;
    let run = bench.run(&[])?.expect_code(1)?;
    ensure!(
        run.stderr
            .contains("and it could not be received: the replica was received into"),
        "{}",
        run.stderr
    );
    ensure!(!bench.path("main/17").exists());
    Ok(())
}

#[test]
fn nothing_is_received_for_a_dataset_that_is_not_empty_or_that_it_does_not_fit_into() -> Result<()>
{
    let refused = |bench: &Bench, words: &str| -> Result<()> {
        let before = bench.declared()?;
        let run = bench.receive()?.expect_code(1)?;
        ensure!(
            run.stderr.contains(words),
            "{words:?} is missing in {}",
            run.stderr
        );
        ensure!(!bench.log()?.contains("receive -s"));
        assert_eq!(bench.declared()?, before);
        Ok(())
    };
    let with = |change: fn(&Bench) -> Result<()>| -> Result<Bench> {
        let bench = Bench::new()?;
        change(&bench)?;
        Ok(bench)
    };
    let foreign = with(|bench| bench.write("main/notes.txt", "mine"))?;
    refused(&foreign, "is not empty, it holds")?;
    let snapshot = with(|bench| {
        fs::create_dir_all(bench.path("main/.zfs/snapshot/old/17"))?;
        bench.write("main/.zfs/snapshot/old/17/PG_VERSION", "17\n")
    })?;
    refused(&snapshot, "main/.zfs/snapshot/old/17/PG_VERSION\"")?;
    let small = with(|bench| {
        bench.dataset(
            "here",
            &format!("{WAL}.receiving"),
            "available\t5000\t-\nused\t0\t-\n",
            "",
        )
    })?;
    refused(&small, "pool \"tank\" has 0 MiB free")?;
    let below = with(|bench| bench.dataset("there", "vault/main/tablespace", "", ""))?;
    refused(
        &below,
        "there are datasets below the replica \"vault/main\"",
    )?;
    let halved = with(|bench| Ok(fs::remove_dir_all(bench.path("there/vault/main-wal"))?))?;
    refused(
        &halved,
        "has a replica of the data and none of the WAL archive",
    )?;
    let keyless = with(|bench| bench.write("key", "\n"))?;
    refused(&keyless, "is missing\n")
}

#[test]
fn an_archive_of_this_machines_own_stays_and_a_cluster_ends_it_at_once() -> Result<()> {
    let bench = Bench::new()?;
    bench.write("wal/archive.json", "{}")?;
    bench.receive()?.expect_success()?;
    assert_eq!(bench.snapshots(STAGED)?.len(), 3);
    ensure!(!bench.path("here").join(STAGED_WAL).exists());

    fs::create_dir(bench.path("main/17"))?;
    bench.write("main/17/PG_VERSION", "17\n")?;
    bench.log()?;
    bench.receive()?.expect_success()?;
    bench
        .run(&["--let-receive", "postgres"])?
        .expect_success()?;
    assert_eq!(bench.log()?, "");
    Ok(())
}

#[test]
fn what_has_its_place_is_not_received_again() -> Result<()> {
    let bench = Bench::new()?;
    bench.dataset(
        "here",
        DATA,
        "",
        "first\t11\t100\nsecond\t12\t200\nown\t99\t500\n",
    )?;
    bench.dataset("here", WAL, "", "first\t21\t100\nlater\t22\t400\n")?;
    bench.receive()?.expect_success()?;
    assert_eq!(bench.record()?["snapshot"], "second");
    ensure!(!bench.log()?.contains("receive -s"));
    Ok(())
}
