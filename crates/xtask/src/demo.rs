//! `cargo xtask demo`: a table is dropped and brought back, on a real server under load.
//!
//! The story is told by this same program, run a second time where PostgreSQL can run: as an ordinary
//! user, and in a Debian system when another version is wanted.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use command::Command;
use testbed::{Cluster, ClusterOptions, LedgerOptions, Run, Stop, StopMode, Testbed, Until};
use wal::TimelineId;

use crate::place::{Place, RunDirectory};
use crate::process::{self, End, Output};
use crate::{artifacts, debian};

/// Longest time that the story may take.
const LIMIT: Duration = Duration::from_mins(15);
/// Rows committed before the base backup, after it, and after the table was dropped.
const ROWS: [usize; 3] = [500, 2000, 300];

/// Drop a table on a busy server, find out when, and bring it back
///
/// Needs nothing else: installs the server where it may (Debian, root), leaves neither file nor
/// process behind, and fails if a single committed row is missing or too many.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Major version of PostgreSQL [default: the newest installed]
    #[arg(long, value_name = "MAJOR")]
    postgresql: Option<u32>,

    #[command(flatten)]
    story: Story,
}

/// Tell the story here and now
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Story {
    /// Size of a WAL segment, in MiB
    #[arg(long, value_name = "N", default_value_t = 16)]
    segment_size_mib: u32,
}

/// Prepares a place for the story and has it told there.
///
/// # Errors
///
/// Fails when the programs cannot be built or the place cannot be made.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    debian::install(&[])?;
    let host = Place::host(&debian::newest_server().context("find PostgreSQL's programs")?)?;
    let place = match arguments.postgresql {
        Some(major) => Place::with(major, &host)?,
        None => host,
    };
    println!("building");
    let mut programs = artifacts::build_programs(false, &artifacts::ROUND_TRIP)?;
    programs.push(std::env::current_exe().context("find this program")?);
    let run = RunDirectory::new(&programs)?;
    let this = Path::new("bin").join(programs[programs.len() - 1].file_name().unwrap_or_default());
    let mut command = place.command(&run, &this, Path::new("bin"), &[])?;
    command
        .arg("demo-story")
        .arg("--segment-size-mib")
        .arg(arguments.story.segment_size_mib.to_string());
    let watched = process::watch(&mut command, LIMIT, Output::Inherited)?;
    let files = std::fs::read_dir(place.temporary(&run))
        .context("look for files left behind")?
        .count();
    match (watched.left_behind(), files, &watched.end) {
        (Some(complaint), _, _) => bail!("the demonstration {complaint}"),
        (None, 0, End::Status(status)) if status.success() => {
            println!("No process and no file is left behind.");
            Ok(ExitCode::SUCCESS)
        }
        (None, 0, End::Status(status)) => {
            bail!("the demonstration {}", command::how_it_ended(*status))
        }
        (None, _, End::TooLate) => bail!("not done after {} seconds", LIMIT.as_secs()),
        (None, count, _) => bail!("the demonstration left {count} files behind"),
    }
}

impl Story {
    /// Tells the story on the server that the environment names.
    ///
    /// # Errors
    ///
    /// Fails when anything does, and when the restored rows are not exactly those committed.
    pub fn tell(self) -> Result<ExitCode> {
        let testbed = Testbed::new()?;
        let page = Page::new(&testbed);
        println!(
            "A dropped table comes back: PostgreSQL {}",
            testbed.server().version()
        );
        println!("D={}\n", testbed.path().join("main").display());

        page.step("A new cluster, with checksums; WAL goes to an archive of our own");
        let cluster = testbed.cluster(
            "main",
            ClusterOptions::archiving().segment_size_mib(self.segment_size_mib),
        )?;
        for line in cluster.made_with() {
            page.command(line);
        }
        page.show(&archiving_lines(&cluster)?);
        cluster.start()?;

        page.step(
            "Four writers commit rows to tables orders and events, and will go on to the end",
        );
        let ledger = cluster.ledger(&LedgerOptions {
            tables: vec!["orders".into(), "events".into()],
            ..LedgerOptions::default()
        })?;
        ledger.wait_for_commits(ROWS[0])?;
        page.show(&format!("{} commits acknowledged", ledger.acknowledged()));

        page.step("A base backup while they write");
        page.run(&cluster.program("pg-base-backup", ["--full"])?)?;
        ledger.wait_for_commits(ROWS[1])?;
        page.show(&format!("{} commits acknowledged", ledger.acknowledged()));

        page.step("A mistake");
        let dropped = cluster.commit("DROP TABLE orders")?;
        page.show("sql> DROP TABLE orders;");
        ledger.wait_for_commits(ROWS[2])?;
        page.show(&format!(
            "{} commits acknowledged: the writers of events have gone on",
            ledger.acknowledged()
        ));

        page.step("Who dropped orders, and when?");
        let find = ["find", "main", "--relation", "orders"];
        page.run(&cluster.program("backstay", find)?)?;
        let target = target_of(&cluster.run("backstay", find.iter().chain(&["--json"]))?)?;

        page.step("Back to just before it");
        let begun = Instant::now();
        page.run(&cluster.program("backstay", ["restore", "main", "--to", &target, "--yes"])?)?;
        let restored_in = begun.elapsed();

        page.step("The writers have found the server again by themselves");
        ledger.wait_for_commits(ROWS[0])?;
        ledger.stop()?;
        page.show(&format!("{} commits acknowledged", ledger.acknowledged()));

        page.step("Every row, compared with the ledger that the writers kept");
        let entries = ledger.entries();
        let is_old = |timeline: TimelineId| timeline == dropped.timeline;
        let newest = entries
            .iter()
            .map(|entry| entry.timeline)
            .max()
            .context("find the timeline of the restored server")?;
        ensure!(
            !is_old(newest),
            "the restored server is on the old timeline"
        );
        let undone = entries
            .iter()
            .filter(|e| is_old(e.timeline) && e.commit.is_some_and(|c| c.start > dropped.start))
            .count();
        let since = entries.iter().filter(|e| e.timeline == newest).count();
        let comparison = ledger
            .expected(&Until {
                ancestors: vec![(dropped.timeline, dropped.start)],
                timeline: newest,
                stop: Stop::End,
            })
            .compare(&cluster)?;
        page.show(&format!(
            "committed before the drop   {:>6}, all of them must be there\n\
             committed after the drop    {undone:>6}, none of them may be there\n\
             committed since the restore {since:>6}, all of them must be there\n\
             {comparison}",
            entries.len() - undone - since
        ));
        let comparison = comparison.expect_exact()?;
        ensure!(undone > 0 && since > 0, "the story lost a chapter");
        cluster.stop(StopMode::Fast)?;
        println!(
            "\nExact to the row: {} rows. The restore took {:.1} s, the story {:.1} s.",
            comparison.present + comparison.in_doubt_and_present,
            restored_in.as_secs_f64(),
            page.begun.elapsed().as_secs_f64()
        );
        Ok(ExitCode::SUCCESS)
    }
}

/// The lines of `postgresql.conf` that archive and restore.
fn archiving_lines(cluster: &Cluster) -> Result<String> {
    let path = cluster.data().join("postgresql.conf");
    let text =
        std::fs::read_to_string(&path).with_context(|| format!("read \"{}\"", path.display()))?;
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("archive_") || line.starts_with("restore_command"))
        .collect();
    Ok(lines.join("\n"))
}

/// The one target that `backstay find --json` gives for the one dropped relation.
fn target_of(run: &Run) -> Result<String> {
    let events = run.json()?;
    let drops: Vec<&serde_json::Value> = events
        .as_array()
        .into_iter()
        .flatten()
        .filter(|event| event["kind"] == "drop")
        .collect();
    let [drop] = drops.as_slice() else {
        bail!("{} names {} drops instead of one", run.line, drops.len());
    };
    Ok(drop["restoreTo"]
        .as_str()
        .context("find restoreTo in what backstay find printed")?
        .to_owned())
}

/// The page that the story is told on.
struct Page {
    begun: Instant,
    /// Long beginnings of paths, and what stands for them.
    short: Vec<(String, &'static str)>,
}

impl Page {
    fn new(testbed: &Testbed) -> Self {
        let home = testbed.path().join("main").display().to_string();
        let mut short = vec![(home, "$D")];
        // Programs are called by their name, as a person with them in PATH would.
        let programs = std::env::var("BACKSTAY_PROGRAMS").unwrap_or_default();
        let server = testbed.server().bin().display().to_string();
        for directory in [programs, server] {
            if !directory.is_empty() {
                short.push((format!("{directory}/"), ""));
            }
        }
        Self {
            begun: Instant::now(),
            short,
        }
    }

    /// Begins a paragraph, with the time since the story began.
    fn step(&self, title: &str) {
        println!("[{:>5.1} s] {title}", self.begun.elapsed().as_secs_f64());
    }

    fn show(&self, text: &str) {
        let mut text = text.to_owned();
        for (long, short) in &self.short {
            text = text.replace(long, short);
        }
        for line in text.lines() {
            println!("          {line}");
        }
    }

    fn command(&self, line: &str) {
        self.show(&format!("$ {line}"));
    }

    /// Runs a command and shows it with what it prints, in the order in which a terminal would.
    fn run(&self, command: &Command) -> Result<()> {
        let line = command.line();
        self.command(&line);
        let (status, output) = Command::new("/bin/sh")
            .arg("-c")
            .arg(format!("exec {line} 2>&1"))
            .run_any_status()?;
        self.show(&output.stdout);
        ensure!(status.success(), "{line} {}", command::how_it_ended(status));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    fn printed(stdout: &str) -> Run {
        Run {
            line: "backstay find".into(),
            status: std::process::ExitStatus::from_raw(0),
            stdout: stdout.into(),
            stderr: String::new(),
        }
    }

    #[test]
    fn the_target_is_that_of_the_one_drop() -> Result<()> {
        let delete = r#"{"kind":"delete","restoreTo":"lsn:0/1"}"#;
        let drop = r#"{"kind":"drop","restoreTo":"lsn:0/2"}"#;
        assert_eq!(
            target_of(&printed(&format!("[{delete},{drop}]")))?,
            "lsn:0/2"
        );
        assert!(target_of(&printed(&format!("[{drop},{drop}]"))).is_err());
        assert!(target_of(&printed("[]")).is_err());
        Ok(())
    }
}
