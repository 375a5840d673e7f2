//! One rehearsal, from the look at the space to the last question.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow};
use archive::{Archive, Cluster};
use base_backups::{Record, Repository};
use cluster::Programs;
use command::Command;
use instance_state::{DrillFailure, DrillFindings, DrillReason};
use jiff::Timestamp;
use restore_plan::Window;
use serde::{Deserialize, Serialize};
use settings::{Drill, DrillSource, Settings};
use tool::{Hinted, Level};
use wal::{Lsn, WalFileName};

use crate::accuracy;
use crate::examine;
use crate::failed::{Because as _, Failed};
use crate::moment::{self, Moment, Printed};
use crate::scratch::{Scratch, free_bytes};
use crate::server::Copy;
use crate::snapshot;

/// How many of the newest snapshots are looked at: they may be minutes apart, and the archive an hour behind.
const SNAPSHOTS_TRIED: usize = 24;

/// What an attempt came to.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Outcome {
    pub findings: DrillFindings,
    pub failure: Option<DrillFailure>,
}

/// What `backstay restore --json` says, as far as it matters here.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Restored {
    plan: RestorePlan,
    ended_at: Lsn,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RestorePlan {
    /// Nothing for a restore that begins with a copy of the data directory.
    base_backup: Option<String>,
    consistent_at: Lsn,
    consistent_time: Timestamp,
    content_bytes: u64,
}

/// A snapshot to begin with.
struct Snapshot {
    /// The data directory in it.
    directory: PathBuf,
    /// When a copy of it is consistent.
    plan: RestorePlan,
}

/// Makes the attempt and writes what it came to into the file `outcome`.
pub fn make(
    config: &Path,
    settings: &Settings,
    drill: &Drill,
    source: DrillSource,
    outcome: &Path,
) -> Result<()> {
    let mut findings = DrillFindings::default();
    let failure = Attempt {
        settings: settings.clone(),
        drill,
        scratch: Scratch::in_directory(&drill.directory),
        programs: Programs::in_directory(&settings.postgresql.bin_directory),
    }
    .run(source, config, &mut findings)
    .err()
    .map(Failed::into_record);
    let text = serde_json::to_vec(&Outcome { findings, failure }).context("write the outcome")?;
    durable_file::replace(outcome, &text)
}

struct Attempt<'a> {
    /// Of the instance, or of what was fetched from off-site.
    settings: Settings,
    drill: &'a Drill,
    scratch: Scratch,
    programs: Programs,
}

/// The source of the restore, as the library reads it.
struct Source {
    archive: Archive,
    cluster: Cluster,
    repository: Repository,
    records: Vec<Record>,
    windows: Vec<Window>,
    wal_files: Vec<WalFileName>,
}

impl Attempt<'_> {
    fn run(
        &mut self,
        source: DrillSource,
        config: &Path,
        findings: &mut DrillFindings,
    ) -> Result<(), Failed> {
        let begin = Instant::now();
        match source {
            DrillSource::Local | DrillSource::Snapshot => {}
            DrillSource::Restic => {
                self.settings = self.fetch(config).because(DrillReason::SourceFailed)?;
            }
        }
        let fetch = begin.elapsed();
        let from_snapshot = source == DrillSource::Snapshot;
        let source = self.open().because(DrillReason::SourceFailed)?;
        if !source.windows.iter().any(moment::is_whole) {
            check_gaps(&source.windows)?;
            return Err(Failed::new(
                DrillReason::NothingToRestore,
                Hinted::new(
                    format!(
                        "there is no base backup of cluster {}, so nothing can be restored",
                        source.cluster.system_identifier
                    ),
                    "take one with pg-base-backup",
                ),
            ));
        }
        let config = self.write_settings()?;
        let snapshot = if from_snapshot {
            Some(self.newest_snapshot(&config, &source)?)
        } else {
            None
        };
        let content = match &snapshot {
            Some(snapshot) => snapshot.plan.content_bytes,
            None => largest(&source.records),
        };
        self.check_space(content).because(DrillReason::NoSpace)?;
        self.verify_wal(&source, findings)?;
        let moment = self.pick(&config, snapshot.as_ref())?;
        findings.target = Some(moment.target());

        let begin = Instant::now();
        let restored = self.restore(&config, &source, snapshot.as_ref(), &moment)?;
        findings.base_backup.clone_from(&restored.plan.base_backup);
        if let Some(snapshot) = &snapshot {
            findings
                .notes
                .push(format!("began with \"{}\"", snapshot.directory.display()));
        }
        findings.ended_at = Some(restored.ended_at);
        findings.restored_bytes = Some(restored.plan.content_bytes);
        let restore = begin.elapsed();

        self.check_pages(&source, &restored, findings)?;

        let begin = Instant::now();
        let mut copy = Copy::start(
            &self.programs,
            &self.scratch,
            &self.settings.postgresql.role,
        )
        .because(DrillReason::DoesNotStart)?;
        findings.recovery_seconds = Some((fetch + restore + begin.elapsed()).as_secs_f64());
        let examined = self.examine(&copy, &source, &moment, &restored, findings);
        copy.stop()?;
        examined?;
        check_gaps(&source.windows)
    }

    /// Fetches the newest base backup and the WAL after it from restic, and returns the settings for
    /// them.
    fn fetch(&self, config: &Path) -> Result<Settings> {
        tool::log(Level::Info, format_args!("fetching from restic"));
        let into = self.scratch.off_site();
        let mut command = self
            .backstay("fetch", config)?
            .args(["--from", "restic", "--to", "latest", "--into"])
            .arg(&into);
        // Where the unit has the password.
        if let Some(credentials) = std::env::var_os("CREDENTIALS_DIRECTORY") {
            command = command.env("CREDENTIALS_DIRECTORY", credentials);
        }
        command.run()?;
        tool::read_settings(&into.join("settings.json"))
    }

    /// Opens what is restored from, and sees how far it reaches.
    fn open(&self) -> Result<Source> {
        let archive = Archive::open(&self.settings.archive.directory, &self.settings.instance)?;
        let cluster = archive.newest_cluster()?.clone();
        let declared = self.settings.base_backup.as_ref().ok_or_else(|| {
            Hinted::new(
                "the settings declare no base backups",
                "set baseBackup.directory; without base backups nothing can be restored",
            )
        })?;
        let repository = Repository::open(&declared.directory, &self.settings.instance)?;
        let records = repository.list()?;
        let (listing, contents) = verification::contents(&archive, &cluster)?;
        let windows = restore_plan::windows(&verification::starting_points(&records), &contents);
        // History files have been read; what no window needs is none of a restore's business.
        let first = windows
            .iter()
            .filter(|window| window.restorable)
            .filter_map(|window| records.iter().find(|record| record.name == window.point))
            .map(|record| record.start_lsn)
            .min();
        let wal_files = listing
            .segments()
            .filter(|name| first.is_some_and(|first| name.end(contents.segment_size) > first))
            .map(WalFileName::Segment)
            .collect();
        Ok(Source {
            archive,
            cluster,
            repository,
            records,
            windows,
            wal_files,
        })
    }

    /// The newest snapshot whose own WAL ends in what the archive has. A later one has nothing in the
    /// archive that its restore could be judged by.
    fn newest_snapshot(&self, config: &Path, source: &Source) -> Result<Snapshot, Failed> {
        let end = source
            .windows
            .iter()
            .max_by_key(|window| (window.timeline, window.to))
            .map_or(Lsn(0), |window| window.to);
        let snapshots = snapshot::newest_first(
            &self.settings.postgresql.data_directory,
            source.cluster.system_identifier,
        )
        .because(DrillReason::NothingToRestore)?;
        for directory in snapshots.into_iter().take(SNAPSHOTS_TRIED) {
            let said = self
                .backstay("restore", config)?
                .args(["--to", "latest", "--plan", "--json", "--from"])
                .arg(from_directory(&directory))
                .arg("--into")
                .arg(self.scratch.cluster())
                .run()
                .because(DrillReason::RestoreFailed)?;
            let plan: RestorePlan = serde_json::from_str(&said.stdout)
                .context("read the plan that `backstay restore` printed")?;
            if plan.consistent_at < end {
                return Ok(Snapshot { directory, plan });
            }
        }
        Err(Failed::new(
            DrillReason::NothingToRestore,
            Hinted::new(
                format!("the archive ends at {end}, before each of the newest snapshots"),
                "is the server archiving? `backstay status` says so; on a quiet server a later drill finds one",
            ),
        ))
    }

    /// Refuses to begin what would not fit.
    fn check_space(&self, content: u64) -> Result<()> {
        let waiting = u64::from(self.settings.archive.prefetch_mebibytes) << 20;
        let needed = content + waiting + self.drill.minimum_free_bytes;
        let free = free_bytes(&self.drill.directory)?;
        if free < needed {
            return Err(Hinted::new(
                format!(
                    "\"{}\" has {} MiB free, the drill needs {} MiB: {} for the copy, {} for WAL on its way, {} that have to stay free",
                    self.drill.directory.display(),
                    free >> 20,
                    needed.div_ceil(1 << 20),
                    content.div_ceil(1 << 20),
                    waiting >> 20,
                    self.drill.minimum_free_bytes >> 20
                ),
                "make room, set drill.directory to a larger disk, or lower drill.minimumFreeBytes",
            )
            .into());
        }
        Ok(())
    }

    /// Compares the WAL that any restore could need with its hashes: the restore that follows reads
    /// only some of it.
    fn verify_wal(&self, source: &Source, findings: &mut DrillFindings) -> Result<(), Failed> {
        let faults = verification::wal_files(
            &source.archive,
            &source.cluster,
            source.wal_files.iter().copied(),
            || (),
        );
        findings.wal_files_verified = Some(source.wal_files.len().try_into().unwrap_or(u64::MAX));
        let Some(first) = faults.first() else {
            return Ok(());
        };
        let others = match faults.len() - 1 {
            0 => String::new(),
            others => format!(", and {others} more"),
        };
        Err(Failed::new(
            if first.is_damage {
                DrillReason::DamagedWal
            } else {
                DrillReason::SourceFailed
            },
            Hinted::new(
                format!(
                    "archived WAL file \"{}\"{others}: {}",
                    first.name, first.what
                ),
                format!(
                    "`backstay verify {}` lists them; take a base backup now, so that what comes can be restored without them",
                    self.settings.instance
                ),
            ),
        ))
    }

    /// Writes the settings of the instance as they would be on a new machine: without its server, and
    /// without what is not for restores.
    fn write_settings(&self) -> Result<PathBuf> {
        let mut settings = self.settings.clone();
        settings.state_directory = None;
        settings.postgresql.data_directory = self.scratch.no_cluster();
        settings.postgresql.socket_directory = self.scratch.socket();
        settings.postgresql.log_file = None;
        settings.postgresql.unit = None;
        settings.postgresql.config_file = None;
        settings.postgresql.required_mounts.clear();
        settings.postgresql.initdb = None;
        settings.metrics = None;
        settings.preseed = None;
        settings.recovery = None;
        settings.restic.clear();
        settings.snapshots = None;
        settings.drill = None;
        settings.databases = None;
        let path = self.scratch.settings();
        let text = serde_json::to_vec_pretty(&settings).context("write the settings")?;
        durable_file::replace(&path, &text)?;
        Ok(path)
    }

    /// Prepares to run `backstay`, which is installed beside this program.
    fn backstay(&self, command: &str, config: &Path) -> Result<Command> {
        Ok(Command::beside("backstay")?
            .arg(command)
            .arg(&self.settings.instance)
            .arg("--config")
            .arg(config))
    }

    fn pick(&self, config: &Path, snapshot: Option<&Snapshot>) -> Result<Moment, Failed> {
        let said = self
            .backstay("windows", config)?
            .arg("--json")
            .run()
            .because(DrillReason::SourceFailed)?;
        let Printed { mut windows } =
            serde_json::from_str(&said.stdout).context("read what `backstay windows` printed")?;
        if let Some(snapshot) = snapshot {
            windows = moment::from_copy(windows, snapshot.plan.consistent_time);
        }
        let moment = moment::pick(&windows, moment::random_below)
            .ok_or_else(|| anyhow!("`backstay windows` shows no window"))?;
        Ok(moment)
    }

    fn restore(
        &self,
        config: &Path,
        source: &Source,
        snapshot: Option<&Snapshot>,
        moment: &Moment,
    ) -> Result<Restored, Failed> {
        tool::log(
            Level::Info,
            format_args!(
                "restoring to {} on timeline {}",
                moment.target(),
                moment.timeline
            ),
        );
        let mut command = self
            .backstay("restore", config)?
            .arg("--to")
            .arg(moment.target())
            .arg("--timeline")
            .arg(moment.timeline.to_string())
            .arg("--into")
            .arg(self.scratch.cluster())
            .args(["--yes", "--json"]);
        command = command.arg("--from");
        command = match snapshot {
            Some(snapshot) => command.arg(from_directory(&snapshot.directory)),
            None => command.arg("base-backup"),
        };
        // Every tablespace that any base backup has, so none is ever made in its old place. A snapshot is of
        // one dataset, and of a cluster with tablespaces elsewhere it is refused.
        let places: BTreeSet<&Path> = source
            .records
            .iter()
            .filter(|_| snapshot.is_none())
            .flat_map(|record| &record.tablespaces)
            .map(|tablespace| tablespace.location.as_path())
            .collect();
        for (number, place) in places.into_iter().enumerate() {
            let escaped = |path: &Path| path.display().to_string().replace('=', "\\=");
            let copy = self.scratch.tablespaces().join(number.to_string());
            command = command.arg("--tablespace-mapping").arg(format!(
                "{}={}",
                escaped(place),
                escaped(&copy)
            ));
        }
        let said = command
            .run()
            .map_err(|error| self.explain(source, snapshot, moment, error))?;
        serde_json::from_str(&said.stdout)
            .context("read what `backstay restore` printed")
            .map_err(Failed::from)
    }

    /// Finds out why a restore failed, by a look at what it needed.
    fn explain(
        &self,
        source: &Source,
        snapshot: Option<&Snapshot>,
        moment: &Moment,
        error: anyhow::Error,
    ) -> Failed {
        /// What the operating system says of a full disk: our programs with its number, PostgreSQL in
        /// its words.
        const FULL: [&str; 3] = ["(os error 28)", "(os error 122)", "No space left on device"];
        let said = format!("{error:#}");
        if FULL.iter().any(|full| said.contains(full)) {
            return Failed::new(
                DrillReason::NoSpace,
                Hinted::new(said, "make room, or set drill.directory to a larger disk"),
            );
        }
        if snapshot.is_some() {
            return Failed::new(DrillReason::RestoreFailed, error);
        }
        let candidates = source.records.iter().rev().filter(|record| {
            moment.time.is_none_or(|time| record.stopped_at < time)
                && record.system_identifier == source.cluster.system_identifier
        });
        // The newest one before the target is what a restore begins with.
        let chain = candidates
            .clone()
            .find_map(|record| record.chain(&source.records).ok())
            .unwrap_or_default();
        for record in chain {
            if let Some(fault) = verification::base_backup(&source.repository, record) {
                return Failed::new(
                    DrillReason::DamagedBaseBackup,
                    Hinted::new(
                        format!("base backup \"{}\": {}", fault.name, fault.what),
                        format!(
                            "take a new one now; `backstay verify {}` shows which others are good",
                            self.settings.instance
                        ),
                    ),
                );
            }
        }
        Failed::new(DrillReason::RestoreFailed, error)
    }

    /// Compares every page of the copy with its checksum, where pages have one. The server is stopped.
    fn check_pages(
        &self,
        source: &Source,
        restored: &Restored,
        findings: &mut DrillFindings,
    ) -> Result<(), Failed> {
        // A snapshot has no record; its cluster is the one that the newest base backup is of.
        let record = match &restored.plan.base_backup {
            Some(name) => source.records.iter().find(|record| record.name == *name),
            None => source.records.last(),
        };
        let has_checksums = record.is_some_and(|record| record.data_checksums);
        if has_checksums {
            let verdict = examine::pages(&self.programs, &self.scratch.cluster());
            findings.checksums_are_right = Some(verdict.is_ok());
            verdict
        } else {
            findings
                .notes
                .push("data pages carry no checksums, so damage in them shows only in use".into());
            Ok(())
        }
    }

    fn examine(
        &self,
        copy: &Copy,
        source: &Source,
        moment: &Moment,
        restored: &Restored,
        findings: &mut DrillFindings,
    ) -> Result<(), Failed> {
        let databases = examine::databases(copy)?;
        findings.databases = Some(databases.len().try_into().unwrap_or(u64::MAX));
        if let Some(canary) = &self.drill.canary {
            if databases.contains(&canary.database) {
                let mut client = copy
                    .connect(&canary.database)
                    .because(DrillReason::DatabaseDoesNotAnswer)?;
                let wal = accuracy::Wal {
                    archive: &source.archive,
                    cluster: &source.cluster,
                    programs: &self.programs,
                };
                let record = source
                    .records
                    .iter()
                    .find(|record| Some(&record.name) == restored.plan.base_backup.as_ref());
                // What comes before this is in a copy, in WAL that need not be in the archive.
                let started_at =
                    record.map_or(restored.plan.consistent_at, |record| record.start_lsn);
                findings.canary = wal
                    .judge(&mut client, moment, started_at, restored.ended_at)
                    .because(DrillReason::NotAccurate)?;
            }
            if findings.canary.is_none() {
                findings.notes.push(
                    "the copy has no canary, so nobody knows whether the restore is exact; does pg-canary run?".into(),
                );
            }
        } else {
            findings
                .notes
                .push("no canary is declared, so nobody knows whether the restore is exact".into());
        }
        for check in &self.drill.checks {
            examine::check(copy, check)?;
            findings.checks = Some(findings.checks.unwrap_or_default() + 1);
        }
        match examine::relations(&self.programs, copy)? {
            examine::Relations::Sound => findings.relations_are_sound = Some(true),
            examine::Relations::NotLookedAt(why) => findings.notes.push(why),
        }
        Ok(())
    }
}

/// `--from` of a restore that begins with a copy.
fn from_directory(directory: &Path) -> String {
    format!("directory:{}", directory.display())
}

/// The content of the largest base backup with its chain, whichever it will be.
fn largest(records: &[Record]) -> u64 {
    records
        .iter()
        .filter_map(|record| record.chain(records).ok())
        .map(|chain| chain.iter().map(|link| link.content_bytes).sum())
        .max()
        .unwrap_or(0)
}

/// Refuses an archive with a gap. The rest of the drill has shown by then what can be restored still.
fn check_gaps(windows: &[Window]) -> Result<(), Failed> {
    let Some(broken) = windows
        .iter()
        .find(|window| !window.missing.is_empty() || !window.restorable)
    else {
        return Ok(());
    };
    let names: Vec<String> = broken
        .missing
        .segments
        .iter()
        .take(10)
        .map(ToString::to_string)
        .collect();
    let what = if names.is_empty() {
        format!(
            "the archive lacks WAL that base backup \"{}\" itself needs, from {} on",
            broken.point, broken.to
        )
    } else {
        format!(
            "the archive lacks {} WAL files after base backup \"{}\": {}",
            broken.missing.count,
            broken.point,
            names.join(", ")
        )
    };
    Err(Failed::new(
        DrillReason::MissingWal,
        Hinted::new(
            what,
            "nothing from there up to the next base backup can be restored; take a base backup now, and look where the files went",
        ),
    ))
}
