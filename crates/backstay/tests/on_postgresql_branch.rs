//! Branches: running copies of a cluster as it was, beside it.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use archive::Archive;
use testbed::{Cluster, ClusterOptions, Commit, Ledger, LedgerOptions, Run, Stop, Testbed, Until};

/// A cluster with a base backup, a replication slot, and writers.
struct History {
    testbed: Testbed,
    cluster: Cluster,
    ledger: Ledger,
}

impl History {
    fn new() -> Result<Self> {
        let testbed = Testbed::new()?;
        let cluster = testbed.cluster("main", ClusterOptions::archiving().segment_size_mib(1))?;
        cluster.start()?;
        cluster.psql("SELECT pg_create_physical_replication_slot('standby')")?;
        let ledger = cluster.ledger(&LedgerOptions {
            writers: 2,
            tables: vec!["orders".into(), "events".into()],
            ..LedgerOptions::default()
        })?;
        ledger.wait_for_commits(50)?;
        cluster
            .run("pg-base-backup", ["--full"])?
            .expect_success()?;
        ledger.wait_for_commits(200)?;
        Ok(Self {
            testbed,
            cluster,
            ledger,
        })
    }

    /// The commit that is `back` commits old.
    fn commit(&self, back: usize) -> Result<Commit> {
        let entries = self.ledger.entries();
        entries[entries.len() - back].commit.context("no commit")
    }

    fn branches(&self) -> PathBuf {
        durable_file::with_suffix(self.cluster.data(), ".branches")
    }

    fn backstay(&self, arguments: &[&str]) -> Result<Run> {
        self.cluster.run("backstay", arguments)
    }

    fn create(&self, name: &str, more: &[&str]) -> Result<serde_json::Value> {
        let mut arguments = vec!["branch", "create", "main", "--json", "--name", name];
        arguments.extend(more);
        self.backstay(&arguments)?.expect_success()?.json()
    }

    fn list(&self) -> Result<Vec<serde_json::Value>> {
        let listed = self
            .backstay(&["branch", "list", "main", "--json"])?
            .expect_success()?
            .json()?;
        Ok(listed.as_array().context("no list")?.clone())
    }

    /// The branch `name` as its server shows it.
    fn look(&self, made: &serde_json::Value) -> Result<Cluster> {
        let name = made["name"].as_str().context("no name")?;
        let socket = made["socketDirectory"].as_str().context("no socket")?;
        let port = made["port"].as_u64().context("no port")?.try_into()?;
        Ok(self.testbed.take_over(
            &self.branches().join(name).join("data"),
            Path::new(socket),
            port,
            self.cluster.settings_path(),
        ))
    }

    fn refuses(&self, arguments: &[&str], expected: &str) -> Result<()> {
        let run = self.backstay(arguments)?.expect_code(1)?;
        ensure!(run.stderr.contains(expected), "{}", run.stderr);
        ensure!(run.stderr.contains("hint: "), "no hint: {}", run.stderr);
        Ok(())
    }

    /// Every file of the archive but the segments that the instance's own writers go on to fill.
    fn archived_timelines(&self) -> Result<usize> {
        let archive = Archive::open(&self.cluster.archive(), "main")?;
        let listing = archive.list(archive.newest_cluster()?)?;
        let newer = |name: &&wal::SegmentName| name.timeline() > wal::TimelineId::FIRST;
        let segments: Vec<_> = listing.segments().collect();
        Ok(segments.iter().filter(newer).count())
    }
}

#[test]
fn a_branch_is_the_cluster_as_it_was_and_the_instance_is_left_alone() -> Result<()> {
    let history = History::new()?;
    let (first, second) = (history.commit(150)?, history.commit(50)?);
    history.cluster.archive_everything()?;
    let at = [&first, &second].map(|commit| commit.time.to_string());
    let made = history.create("one", &["--at", &at[0]])?;
    let free = TcpListener::bind("127.0.0.1:0")?
        .local_addr()?
        .port()
        .to_string();
    let other = history.create("two", &["--at", &at[1], "--port", &free])?;

    // Both at once, each exact, while the instance goes on.
    history.ledger.wait_for_commits(50)?;
    let one = history.look(&made)?;
    let two = history.look(&other)?;
    for (branch, commit) in [(&one, &first), (&two, &second)] {
        let until = Until::on_first_timeline(Stop::Time(commit.time, true));
        history
            .ledger
            .expected(&until)
            .compare(branch)?
            .expect_exact()?;
        assert_eq!(
            branch.psql("SELECT count(*) FROM pg_replication_slots")?,
            "0"
        );
        assert_eq!(branch.psql("SHOW archive_mode")?, "off");
    }
    let socket = std::fs::metadata(one.socket())?.permissions();
    assert_eq!(socket.mode() & 0o777, 0o700);

    // It is written to, and nothing of that gets anywhere.
    one.psql("CREATE TABLE experiment AS SELECT generate_series(1, 10000) AS i")?;
    one.psql("SELECT pg_switch_wal()")?;
    one.psql("DROP TABLE orders")?;
    history.cluster.archive_everything()?;
    assert_eq!(history.archived_timelines()?, 0);
    let asked = "SELECT to_regclass('experiment') IS NULL AND to_regclass('orders') IS NOT NULL,
        (SELECT count(*) FROM pg_replication_slots), (SELECT count(*) FROM pg_stat_replication)";
    assert_eq!(history.cluster.psql(asked)?, "t|1|0");

    // Over TCP only with a password, and only the one that was asked for.
    let psql = |port: &str| {
        Run::of(&history.testbed.server().command("psql").args([
            "--no-password",
            "--host=127.0.0.1",
            "--username=postgres",
            "--port",
            port,
        ]))
    };
    ensure!(
        psql(&free)?.stderr.contains("password"),
        "{:?}",
        psql(&free)?
    );
    assert_eq!(one.psql("SHOW listen_addresses")?, "");

    let listed = history.list()?;
    let states: Vec<_> = listed
        .iter()
        .map(|branch| (branch["name"].as_str(), branch["state"].as_str()))
        .collect();
    assert_eq!(
        states,
        [
            (Some("one"), Some("running")),
            (Some("two"), Some("running"))
        ]
    );
    history.refuses(
        &[
            "branch", "create", "main", "--at", "latest", "--name", "one",
        ],
        "exists already",
    )?;
    history
        .backstay(&["branch", "destroy", "main", "one"])?
        .expect_success()?;
    ensure!(!history.branches().join("one").exists() && !one.is_running());
    history.ledger.stop()?;
    history
        .ledger
        .expected(&Until::end())
        .compare(&history.cluster)?
        .expect_exact()
        .map(drop)
}

#[test]
fn only_branches_are_destroyed_and_only_when_their_time_is_over_by_themselves() -> Result<()> {
    let history = History::new()?;
    history.ledger.stop()?;
    history.cluster.archive_everything()?;
    let kept = history.create("kept", &["--at", "latest"])?;
    history.create("short", &["--at", "latest", "--ttl", "1s"])?;
    std::thread::sleep(std::time::Duration::from_secs(1));
    let expired: Vec<_> = history
        .list()?
        .iter()
        .map(|branch| branch["isExpired"].as_bool())
        .collect();
    assert_eq!(expired, [Some(false), Some(true)]);
    let text = history
        .backstay(&["branch", "list", "main"])?
        .expect_success()?;
    ensure!(
        text.stdout.contains("short: running, its time is over"),
        "{}",
        text.stdout
    );

    // What somebody else put there is no branch.
    let notes = history.branches().join("notes");
    std::fs::create_dir(&notes)?;
    std::fs::write(notes.join("mine"), "text")?;
    history.refuses(&["branch", "destroy", "main", "notes"], "is no branch")?;
    history.refuses(&["branch", "destroy", "main", "../data"], "is no name")?;
    history
        .backstay(&["branch", "destroy", "main", "--expired"])?
        .expect_success()?;
    let left: Vec<_> = history
        .list()?
        .iter()
        .map(|branch| branch["name"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(left, [Some("kept".to_owned())]);
    ensure!(notes.join("mine").exists());
    assert_eq!(history.look(&kept)?.psql("SELECT 1")?, "1");

    // A moment that cannot be reached leaves nothing behind.
    history.refuses(
        &[
            "branch",
            "create",
            "main",
            "--at",
            "1 hour ago",
            "--name",
            "early",
        ],
        "is not after the end of any backup",
    )?;
    ensure!(!history.branches().join("early").exists());
    Ok(())
}

#[test]
fn a_killed_create_leaves_what_list_names_and_destroy_removes() -> Result<()> {
    let history = History::new()?;
    history.ledger.stop()?;
    history.cluster.archive_everything()?;
    let mut left_behind = 0;
    for (number, delay) in [0.1, 0.4, 0.8, 1.2, 1.8].into_iter().enumerate() {
        let name = format!("killed-{number}");
        let killed = history.cluster.program(
            "backstay",
            [
                "branch", "create", "main", "--at", "latest", "--name", &name,
            ],
        )?;
        Run::killed_after(delay, &killed, history.testbed.path())?;
        for branch in history.list()? {
            let name = branch["name"].as_str().context("no name")?.to_owned();
            if branch["state"] == "left behind" {
                left_behind += 1;
            }
            history
                .backstay(&["branch", "destroy", "main", &name])?
                .expect_success()?;
        }
        ensure!(history.list()?.is_empty());
    }
    ensure!(left_behind > 0, "no create was killed while it was at work");
    // The next one is not in the way of what was there.
    history.create("killed-0", &["--at", "latest"])?;
    history
        .backstay(&["branch", "destroy", "main", "killed-0"])?
        .expect_success()?;
    assert_eq!(std::fs::read_dir(history.branches())?.count(), 0);
    Ok(())
}

#[test]
fn a_dropped_table_is_extracted_and_put_back_to_the_row() -> Result<()> {
    let history = History::new()?;
    let cluster = &history.cluster;
    history.ledger.stop()?;
    let dropped = cluster.commit("DROP TABLE orders")?;
    cluster.psql("CREATE TABLE later (i int)")?;
    cluster.archive_everything()?;
    let file = history.testbed.path().join("orders.dump");
    let output = file.display().to_string();
    let target = format!("xid:{}", dropped.xid);
    let mut arguments = vec![
        "extract",
        "main",
        "--exclusive",
        "--at",
        &target,
        "--output",
        &output,
        "--database",
    ];
    let refuses = |more: &[&str], expected: &str| -> Result<()> {
        let all: Vec<&str> = arguments.iter().chain(more).copied().collect();
        history.refuses(&all, expected)?;
        ensure!(!file.exists() && history.list()?.is_empty());
        ensure!(!durable_file::with_suffix(&file, ".partial").exists());
        Ok(())
    };
    refuses(&["shop"], "there was no database \"shop\" at that moment")?;
    refuses(&["postgres", "--table", "later"], "no matching tables")?;

    arguments.extend(["postgres", "--table", "public.orders"]);
    history.backstay(&arguments)?.expect_success()?;
    ensure!(history.list()?.is_empty(), "the branch was left behind");
    history.refuses(&arguments, "exists already")?;
    cluster
        .client_program("pg_restore")
        .args(["--dbname=postgres", "--exit-on-error"])
        .arg(&file)
        .run()?;
    history
        .ledger
        .expected(&Until::before(dropped.start))
        .compare(cluster)?
        .expect_exact()
        .map(drop)
}
