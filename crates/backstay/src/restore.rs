//! `backstay restore`: an instance as it was at a moment.
//!
//! Everything that can be known is checked before the server is stopped. The restored cluster is
//! built and recovered beside the present one, without archiving, and takes its place only after
//! the recovery has been seen to end where it should.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use archive::SEGMENT_STAGING;
use base_backups::Progress;
use cluster::{Recovery, RecoveryEnd, Tablespace};
use command::{Command, quoted};
use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use restore_journal::{Journal, Step, Taken};
use restore_plan::{
    Choice, RecoveryTarget, Refusal, StartingPoint, Target, TargetPosition, TimelineChoice,
};
use serde::Serialize;
use settings::Postgresql;
use snapshot_keeping::{Held, Holds};
use tool::{Hinted, Level, WithHint as _};
use wal::{Lsn, SegmentName, SegmentSize, WalFileName};
use zfs::Zfs;

use crate::control::Control;
use crate::copied::other_version;
use crate::instance::{Contents, Instance, Unarchived, stretch};
use crate::locate::Trail;
use crate::off_site::From;
use crate::staging::{self, Staging};
use crate::windows::{history_of, instant};

mod sources;

use sources::{Found, Sources};

/// Directory below `pg_wal` for segments that only the old server has, while a copy is recovered.
const UNARCHIVED: &str = "backstay-unarchived";

#[derive(Debug, clap::Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of the command line"
)]
pub struct Arguments {
    /// The moment: "10 minutes ago", "2026-10-11 14:30 Europe/Berlin", xid:742, lsn:0/7000028,
    /// `name:before_upgrade`, latest or immediate
    #[arg(
        long,
        value_name = "TARGET",
        required = false,
        required_unless_present = "abandon",
        default_value_if("abandon", "true", "latest")
    )]
    to: String,

    /// Stop just before the target instead of just after it
    #[arg(long)]
    exclusive: bool,

    /// Which timeline to follow: latest, current or a number
    #[arg(long, value_name = "TIMELINE", default_value = "latest")]
    timeline: TimelineChoice,

    /// Restore into this directory, beside the running server, and leave the server alone
    #[arg(long, value_name = "DIRECTORY", value_parser = crate::absolute)]
    into: Option<PathBuf>,

    /// What to begin with: `restic` for base backups and WAL of the first restic repository that has
    /// them, restic:NAME for this one, base-backup for those of this machine, `snapshot` for the newest
    /// ZFS snapshot that is early enough, snapshot:NAME for this one, directory:DIR for a copy of the
    /// data directory as it was at one moment [default: base backups and snapshots of this machine]
    #[arg(long, value_name = "SOURCE", conflicts_with = "abandon")]
    from: Option<Origin>,

    /// With a snapshot or directory:DIR, take the tablespace that was at OLD from COPY, of the same moment
    #[arg(long, value_name = "OLD=COPY", value_parser = parse_mapping, requires = "from")]
    tablespace_from: Vec<(PathBuf, PathBuf)>,

    /// Put the tablespace that was at OLD into NEW
    #[arg(long, value_name = "OLD=NEW", value_parser = parse_mapping)]
    tablespace_mapping: Vec<(PathBuf, PathBuf)>,

    /// Show the plan and change nothing
    #[arg(long)]
    plan: bool,

    /// Give up a restore that was interrupted or has failed, and keep the present cluster
    #[arg(long, conflicts_with_all = ["to", "plan", "json"])]
    abandon: bool,

    /// The server does not run; leave it to somebody else to start it
    #[arg(long, conflicts_with_all = ["into", "abandon"])]
    no_start: bool,

    /// Leave a standby, which replays WAL once it is started and goes on doing so; with --no-start, and
    /// to the latest state
    #[arg(long, requires = "no_start")]
    as_standby: bool,

    /// Do not ask
    #[arg(long)]
    yes: bool,

    /// Take no base backup after the restore
    #[arg(long)]
    no_backup: bool,

    /// Print what was done as JSON
    #[arg(long)]
    json: bool,

    /// Where tablespaces go that are not mapped, each into a directory named by its number.
    #[arg(skip)]
    tablespace_directory: Option<PathBuf>,
}

/// Which moment, and what to begin with: what a restore beside the server is asked for.
#[derive(Debug, clap::Args)]
pub struct Moment {
    /// The moment: "10 minutes ago", "2026-10-11 14:30 Europe/Berlin", xid:742, lsn:0/7000028,
    /// `name:before_upgrade`, latest or immediate
    #[arg(long, value_name = "TARGET")]
    at: String,

    /// Stop just before the target instead of just after it
    #[arg(long)]
    exclusive: bool,

    /// Which timeline to follow: latest, current or a number
    #[arg(long, value_name = "TIMELINE", default_value = "latest")]
    timeline: TimelineChoice,

    /// What to begin with: base-backup, `snapshot`, snapshot:NAME, or directory:DIR for a copy of the data
    /// directory as it was at one moment [default: base backups and snapshots of this machine]
    #[arg(long, value_name = "SOURCE", value_parser = parse_local)]
    from: Option<Origin>,
}

impl Moment {
    /// The moment, as it was written.
    pub fn target(&self) -> &str {
        &self.at
    }
}

/// Reads an origin on this machine.
fn parse_local(text: &str) -> Result<Origin, String> {
    match text.parse()? {
        Origin::OffSite(_) => Err("it has to be on this machine; for restic, get base backups and WAL with `backstay fetch` and pass the settings that it makes as --config".into()),
        origin => Ok(origin),
    }
}

/// Reads a mapping as `pg_basebackup` does: an equals sign that is part of a directory has a backslash
/// before it.
fn parse_mapping(text: &str) -> Result<(PathBuf, PathBuf), String> {
    let bytes = text.as_bytes();
    let is_escaped = |at: usize| at > 0 && bytes[at - 1] == b'\\';
    let mut ends = (0..bytes.len()).filter(|&at| bytes[at] == b'=' && !is_escaped(at));
    let parts = match (ends.next(), ends.next()) {
        (Some(_), Some(_)) => return Err("write an equals sign within a directory as \\=".into()),
        (Some(at), None) => {
            let path = |part: &str| PathBuf::from(part.replace("\\=", "="));
            Some((path(&text[..at]), path(&text[at + 1..])))
        }
        (None, _) => None,
    };
    match parts {
        Some((old, new)) if old.is_absolute() && new.is_absolute() => Ok((old, new)),
        _ => Err("write it as OLD=NEW, both absolute".into()),
    }
}

/// What a restore begins with, if not with base backups of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Base backups and WAL of a restic repository.
    OffSite(From),
    /// A copy of the data directory as it was at one moment.
    Directory(PathBuf),
    /// The snapshot of the data directory with this name, or the newest one that is early enough.
    Snapshot(Option<String>),
    /// The base backups of this machine.
    BaseBackup,
}

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "base-backup" => Ok(Self::BaseBackup),
            None if text == "snapshot" => Ok(Self::Snapshot(None)),
            Some(("snapshot", name)) if !name.is_empty() && !name.contains('/') => {
                Ok(Self::Snapshot(Some(name.to_owned())))
            }
            Some(("directory", directory)) if !directory.is_empty() => crate::absolute(directory)
                .map(Self::Directory)
                .map_err(|err| err.to_string()),
            _ => text.parse().map(Self::OffSite).map_err(|err: String| {
                format!(
                    "{err}; base-backup, snapshot, snapshot:NAME or directory:DIR are further ones"
                )
            }),
        }
    }
}

/// What is going to be done.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Plan {
    instance: String,
    /// The target in full: a time in UTC.
    target: String,
    inclusive: bool,
    /// Why the target is not the one that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    starting_point: Beginning,
    #[serde(skip_serializing_if = "Option::is_none")]
    base_backup: Option<String>,
    /// The base backups that it consists of, the full one first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    chain: Vec<String>,
    consistent_at: Lsn,
    consistent_time: Timestamp,
    timeline: String,
    /// Other timelines that the target may lie on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    also_on: Vec<wal::TimelineId>,
    wal_segments: usize,
    unarchived_segments: usize,
    destination: PathBuf,
    kept: Option<PathBuf>,
    tablespaces: BTreeMap<u32, PathBuf>,
    content_bytes: u64,
}

/// What the restored cluster is made from, in a plan.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
enum Beginning {
    /// A base backup.
    BaseBackup {
        /// Its name.
        name: String,
    },
    /// A copy of the data directory.
    Copy {
        /// Where it is.
        directory: PathBuf,
    },
    /// A snapshot of the data directory.
    Snapshot {
        /// Its name.
        name: String,
        /// Where the data directory is in it.
        directory: PathBuf,
    },
}

/// What was done.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    plan: Plan,
    new_timeline: u32,
    ended_at: Lsn,
    ended_because: String,
    last_commit: Option<String>,
    files_seconds: f64,
    replay_seconds: f64,
    downtime_seconds: Option<f64>,
}

/// The facts behind a plan.
struct Planned {
    plan: Plan,
    recovery: RecoveryTarget,
    choice: Choice,
    point: StartingPoint,
}

impl Outcome {
    /// Where the recovery ended.
    pub fn ended_at(&self) -> Lsn {
        self.ended_at
    }

    /// The target in full, and why it is not the one that was asked for, if so.
    pub fn target(&self) -> (&str, Option<&str>) {
        (&self.plan.target, self.plan.note.as_deref())
    }

    /// What it began with, in words.
    pub fn beginning(&self) -> String {
        self.plan.beginning()
    }
}

impl Plan {
    /// What it begins with, in words.
    fn beginning(&self) -> String {
        match &self.starting_point {
            Beginning::BaseBackup { .. } => format!("base backup {}", self.chain.join(" + ")),
            Beginning::Copy { directory } => format!("copy {}", directory.display()),
            Beginning::Snapshot { name, .. } => format!("snapshot {name}"),
        }
    }
}

impl Arguments {
    /// Whether the server of the instance will be stopped and started.
    pub fn controls_the_server(&self) -> bool {
        self.into.is_none() && !self.plan && !self.abandon && !self.no_start
    }

    /// Where base backups and WAL come from, if not from this machine.
    pub fn off_site(&self) -> Option<&From> {
        match &self.from {
            Some(Origin::OffSite(from)) => Some(from),
            _ => None,
        }
    }

    /// The moment, as it was written.
    pub fn target(&self) -> &str {
        &self.to
    }

    /// Whether more than a plan is wanted.
    pub fn changes_something(&self) -> bool {
        !self.plan
    }

    /// Where the restored cluster goes.
    pub fn destination<'a>(&'a self, present: &'a Path) -> &'a Path {
        self.into.as_deref().unwrap_or(present)
    }
}

pub fn restore(instance: &Instance, control: &mut Control, arguments: &Arguments) -> Result<()> {
    if arguments.abandon {
        return abandon(instance, arguments);
    }
    let present = instance.settings.postgresql.data_directory.clone();
    let destination = arguments.into.clone().unwrap_or_else(|| present.clone());
    let programs = instance.server.programs();
    let staging = Staging::take(&destination)?;
    if !arguments.plan && staging.resume(programs)? {
        tool::log(
            Level::Warning,
            format_args!(
                "an interrupted restore was finished: \"{}\" is the restored cluster; start the server and look at it before restoring again",
                destination.display()
            ),
        );
        return Ok(());
    }
    let (sources, planned) = plan_with_any(instance, arguments, &destination)?;
    if arguments.plan && arguments.json {
        return tool::print(&(serde_json::to_string_pretty(&planned.plan)? + "\n"));
    }
    if !arguments.json {
        tool::print(&text(&planned.plan, arguments.into.is_some())?)?;
    }
    if arguments.plan {
        return Ok(());
    }
    if !arguments.yes {
        confirm(&instance.settings.instance)?;
    }

    let kept = keep(instance, &sources);
    let begin = Instant::now();
    let in_place = arguments.into.is_none();
    let restarts = arguments.controls_the_server();
    if restarts {
        control.stop()?;
    } else if in_place {
        check_that_no_server_runs(instance)?;
    }
    let outcome =
        build(instance, &sources, &staging, planned, arguments, &present).inspect_err(|_| {
            if restarts {
                say_what_is_stopped(instance, &staging);
            }
        })?;
    // What was restored depends on no snapshot.
    drop(kept);
    if restarts {
        control.start()?;
    } else if !in_place {
        stay_out_of_the_archive(&destination)?;
    }
    let outcome = Outcome {
        downtime_seconds: restarts.then(|| begin.elapsed().as_secs_f64()),
        ..outcome
    };
    drop(sources);
    finish(instance, arguments, &outcome)
}

/// What keeps a snapshot while it is read.
struct Kept<'a> {
    _open: Vec<File>,
    _held: Option<Held<'a>>,
}

/// Keeps the snapshot that is restored from until the returned value is dropped.
///
/// Whoever may hold it does. What everybody can do is to keep it open: ZFS shows a snapshot by mounting it when
/// somebody looks, and takes that back after a while or when a `zfs destroy` was refused. Several threads that
/// look at the same moment then make the kernel panic, up to OpenZFS 2.3 (issue 17659, pull request 17943).
/// What is open stays mounted.
///
/// One that is destroyed all the same fails the restore, which says so then.
fn keep<'a>(instance: &'a Instance, sources: &Sources) -> Kept<'a> {
    let held = instance
        .holds
        .as_ref()
        .and_then(|holds| hold(holds, sources));
    Kept {
        _open: sources
            .directories()
            .into_iter()
            .filter_map(|directory| File::open(directory).ok())
            .collect(),
        _held: held,
    }
}

fn hold<'a>(holds: &'a Holds, sources: &Sources) -> Option<Held<'a>> {
    let held = Zfs::find()
        .and_then(|zfs| snapshot_keeping::snapshots_of(&zfs, sources.directories()))
        .and_then(|snapshots| {
            if snapshots.is_empty() {
                return Ok(None);
            }
            holds.keep(snapshots).map(Some)
        });
    held.unwrap_or_else(|err| {
        tool::log(
            Level::Info,
            format_args!("the snapshot is not held while it is read: {err:#}"),
        );
        None
    })
}

/// Says that the server does not run, and what brings it back: at night nobody thinks of that.
fn say_what_is_stopped(instance: &Instance, staging: &Staging) {
    let server = &instance.settings.postgresql;
    let start = match &server.unit {
        Some(unit) => format!("systemctl start {unit}"),
        None => format!(
            "{} start --pgdata {}",
            quoted(&server.bin_directory.join("pg_ctl").display().to_string()),
            quoted(&server.data_directory.display().to_string())
        ),
    };
    let message = if staging.lacks_only_its_name() {
        "the server is stopped, and the restored cluster only has to be put in its place: run the same restore again".to_owned()
    } else {
        format!(
            "the server is stopped, and the present cluster is what it was: `{start}` starts it again"
        )
    };
    tool::log(Level::Warning, format_args!("{message}"));
}

/// Restores the cluster as it was at `moment` into the new directory `into`, and its tablespaces into
/// `tablespaces`. Nothing is printed and nobody is asked; the server is left alone.
///
/// # Errors
///
/// Fails as a restore does. What was made by then remains, with the journal of the restore.
pub fn restore_beside(
    instance: &Instance,
    moment: &Moment,
    into: &Path,
    tablespaces: &Path,
) -> Result<Outcome> {
    let arguments = Arguments {
        to: moment.at.clone(),
        exclusive: moment.exclusive,
        timeline: moment.timeline,
        into: Some(into.to_owned()),
        from: moment.from.clone(),
        tablespace_from: Vec::new(),
        tablespace_mapping: Vec::new(),
        plan: false,
        abandon: false,
        no_start: false,
        as_standby: false,
        yes: true,
        no_backup: true,
        json: false,
        tablespace_directory: Some(tablespaces.to_owned()),
    };
    let staging = Staging::take(into)?;
    let (sources, planned) = plan_with_any(instance, &arguments, into)?;
    let present = &instance.settings.postgresql.data_directory;
    let _kept = keep(instance, &sources);
    let outcome = build(instance, &sources, &staging, planned, &arguments, present)?;
    stay_out_of_the_archive(into)?;
    Ok(outcome)
}

/// Refuses to exchange the data directory of a server that runs and is not to be stopped.
fn check_that_no_server_runs(instance: &Instance) -> Result<()> {
    let data = instance.server.data_directory();
    if data.join("PG_VERSION").exists() && instance.server.is_running()? {
        return Err(Hinted::new(
            format!("a server runs in \"{}\"", data.display()),
            "leave out --no-start, and it is stopped and started",
        )
        .into());
    }
    Ok(())
}

/// Gives up a restore that is unfinished.
fn abandon(instance: &Instance, arguments: &Arguments) -> Result<()> {
    let present = &instance.settings.postgresql.data_directory;
    let destination = arguments.into.as_ref().unwrap_or(present);
    Staging::take(destination)?.abandon(instance.server.programs())?;
    say(&format!(
        "the restore into \"{}\" was given up",
        destination.display()
    ));
    Ok(())
}

/// Plans with the first of the possible beginnings that leads to the target. The reason why the first one
/// of them does not is the one that is told.
fn plan_with_any(
    instance: &Instance,
    arguments: &Arguments,
    destination: &Path,
) -> Result<(Sources, Planned)> {
    let wal = instance.wal()?;
    let mut first_error = None;
    for candidate in sources::candidates(instance, arguments, &wal.0)? {
        let planned = Sources::open(instance, arguments, &candidate, &wal.0).and_then(|sources| {
            let found = Found::new(wal.clone(), &sources);
            let planned = plan(instance, arguments, &sources, &found, destination)?;
            Ok((sources, planned))
        });
        match planned {
            Ok(planned) => return Ok(planned),
            Err(err) => first_error = first_error.or(Some(err)),
        }
    }
    Err(first_error.unwrap_or_else(|| anyhow!("there is nothing to begin with")))
}

fn plan(
    instance: &Instance,
    arguments: &Arguments,
    sources: &Sources,
    found: &Found,
    destination: &Path,
) -> Result<Planned> {
    let now = Timestamp::now();
    let contents = &found.contents;
    let points = sources.points();
    let Aim {
        target,
        note,
        position,
    } = aim(instance, arguments, sources, found, &points, now)?;
    let choice = restore_plan::choose(
        &points,
        &contents.plan,
        &target,
        arguments.timeline,
        &position,
    )
    .map_err(|refusal| refused(instance, sources, &refusal))?;
    let point = points
        .into_iter()
        .find(|point| point.id == choice.point)
        .ok_or_else(|| anyhow!("base backup \"{}\" is gone", choice.point))?;
    let programs_major = instance.server.programs().major()?;
    if programs_major != point.postgres_major {
        return Err(other_version(point.postgres_major, programs_major));
    }
    let in_place = arguments.into.is_none();
    let id = free_id(destination, now);
    if in_place {
        staging::check_swappable(destination)?;
    } else {
        check_vacant(destination)?;
    }
    let tablespaces = place_tablespaces(&sources.tablespaces(&choice)?, arguments, &id)?;
    let chain = sources.chain(&choice)?;
    let content_bytes = sources.content_bytes(&chain);
    staging::check_space(destination, sources.needed_bytes(&chain, destination))?;
    let plan = Plan {
        instance: instance.settings.instance.clone(),
        target: target.to_string(),
        inclusive: !arguments.exclusive,
        note,
        starting_point: sources.beginning(&choice),
        base_backup: chain.last().map(|record| record.name.clone()),
        chain: chain.iter().map(|link| link.name.clone()).collect(),
        consistent_at: point.stop,
        consistent_time: point.stop_time,
        timeline: choice.recovery_target_timeline.clone(),
        also_on: choice.also_on.clone(),
        wal_segments: choice.needed.len(),
        unarchived_segments: found.of_server.segments.len(),
        destination: destination.to_owned(),
        kept: (in_place && holds_something(destination)?).then(|| kept_name(destination, &id)),
        tablespaces,
        content_bytes,
    };
    Ok(Planned {
        plan,
        recovery: RecoveryTarget {
            target,
            inclusive: !arguments.exclusive,
        },
        choice,
        point,
    })
}

/// Says why there is no way to the target, and what to do instead.
fn refused(instance: &Instance, sources: &Sources, refusal: &Refusal) -> Hinted {
    let name = &instance.settings.instance;
    if let (Sources::Copy(copied), Refusal::BeforeFirst { target, .. }) = (sources, refusal) {
        return Hinted::new(
            format!(
                "target \"{target}\" is not after the moment of the copy \"{}\", {} ({})",
                copied.point.id,
                instant(copied.point.stop_time),
                copied.point.stop
            ),
            format!(
                "a later target, or an older copy; `backstay windows {name}` shows what can be restored without it"
            ),
        );
    }
    Hinted::new(
        refusal.to_string(),
        format!(
            "{}; `backstay windows {name}` shows what can be restored{}",
            refusal.hint(),
            names_of_missing(refusal)
        ),
    )
}

/// Whether something has the name, other than an empty directory.
fn holds_something(destination: &Path) -> Result<bool> {
    if fs::symlink_metadata(destination).is_err() {
        return Ok(false);
    }
    let mut entries =
        fs::read_dir(destination).with_context(|| format!("list \"{}\"", destination.display()))?;
    Ok(entries.next().is_some())
}

/// The names of missing files beyond the first, which the refusal itself has.
fn names_of_missing(refusal: &Refusal) -> String {
    /// More would push the reason off the screen; `backstay windows` has them.
    const SHOWN: usize = 20;
    let Refusal::Gap { missing, .. } = refusal else {
        return String::new();
    };
    if missing.count < 2 {
        return String::new();
    }
    let names: Vec<String> = missing
        .segments
        .iter()
        .take(SHOWN)
        .map(ToString::to_string)
        .collect();
    format!("; missing: {}", names.join(", "))
}

/// Where the present cluster is kept.
fn kept_name(destination: &Path, id: &str) -> PathBuf {
    durable_file::with_suffix(destination, &format!(".before-restore-{id}"))
}

/// Names this restore by the UTC time; a second one within a second gets a number as well.
fn free_id(destination: &Path, now: Timestamp) -> String {
    let time = now.strftime("%Y%m%d-%H%M%S").to_string();
    let mut id = time.clone();
    let mut number = 1;
    while fs::symlink_metadata(kept_name(destination, &id)).is_ok() {
        number += 1;
        id = format!("{time}-{number}");
    }
    id
}

/// What to recover to, as exactly as can be known.
struct Aim {
    target: Target,
    /// Why it is not what was asked for.
    note: Option<String>,
    position: TargetPosition,
}

/// Reads the target and finds out where in the WAL it is.
fn aim(
    instance: &Instance,
    arguments: &Arguments,
    sources: &Sources,
    found: &Found,
    points: &[StartingPoint],
    now: Timestamp,
) -> Result<Aim> {
    let contents = &found.contents;
    let mut target = Target::parse(&arguments.to, now)
        .map_err(|err| Hinted::new(err.to_string(), err.hint().to_owned()))?;
    let mut note = None;
    let mut position = TargetPosition::default();

    // The trail of the newest timeline, or of the one that was asked for.
    let followed = match arguments.timeline {
        TimelineChoice::Id(id) => id,
        TimelineChoice::Current => points
            .last()
            .map_or(wal::TimelineId::FIRST, |point| point.timeline),
        TimelineChoice::Latest => contents
            .plan
            .segments
            .iter()
            .map(|name| name.timeline())
            .chain(contents.plan.histories.keys().copied())
            .max()
            .unwrap_or(wal::TimelineId::FIRST),
    };
    let trail = Trail::new(
        instance,
        contents,
        &found.unarchived,
        history_of(contents, followed),
    );
    if matches!(target, Target::Xid(_) | Target::Name(_)) {
        position = trail.locate(&target, points)?;
    }
    if let Target::Time(time) = target
        && let Some(newest) = points
            .iter()
            .filter(|point| point.stop_time < time)
            .max_by_key(|point| point.stop)
    {
        let last = trail.last_transaction(&trail.segments_from(newest))?;
        if last.is_none_or(|last| last < time) {
            // PostgreSQL looks for a later commit to stop at, and fails when there is none.
            note = Some(format!(
                "no transaction ended at or after {}, so this is the latest state",
                instant(time)
            ));
            target = Target::Latest;
        }
    }
    if let (Target::Immediate, Sources::Copy(copied)) = (&target, sources)
        && !trail.goes_on_after(&copied.point)?
    {
        // PostgreSQL looks for a record to stop at, and fails when there is none.
        note = Some("there is no WAL after the copy, so this is the latest state".into());
        target = Target::Latest;
    }

    Ok(Aim {
        target,
        note,
        position,
    })
}

/// Refuses a directory for `--into` that holds anything.
fn check_vacant(destination: &Path) -> Result<()> {
    match fs::read_dir(destination) {
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(err) => Err(err).with_context(|| format!("list \"{}\"", destination.display())),
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(Hinted::new(
                format!("\"{}\" is not empty", destination.display()),
                "name a directory that does not exist yet; nothing was changed",
            )
            .into()),
        },
    }
}

/// Decides where each tablespace goes: where the user says, or, in place, to a new directory beside
/// the old one, which stays with the cluster that is kept.
fn place_tablespaces(
    tablespaces: &[Tablespace],
    arguments: &Arguments,
    id: &str,
) -> Result<BTreeMap<u32, PathBuf>> {
    /// Between a tablespace's own name and the time of the restore that moved it.
    const MOVED: &str = ".restored-";
    let mut placed = BTreeMap::new();
    for tablespace in tablespaces {
        let mapped = arguments
            .tablespace_mapping
            .iter()
            .find(|(old, _)| *old == tablespace.location)
            .map(|(_, new)| new.clone());
        let place = match mapped {
            Some(new) => new,
            None if let Some(directory) = &arguments.tablespace_directory => {
                directory.join(tablespace.oid.to_string())
            }
            None if arguments.into.is_none() => {
                let old = tablespace.location.display().to_string();
                let stem = old.split(MOVED).next().unwrap_or(&old);
                PathBuf::from(format!("{stem}{MOVED}{id}"))
            }
            None => {
                return Err(Hinted::new(
                    format!(
                        "tablespace {} at \"{}\" is not mapped",
                        tablespace.oid,
                        tablespace.location.display()
                    ),
                    format!(
                        "say where it should go, or it would overwrite the running server's: --tablespace-mapping {}=DIRECTORY",
                        command::quoted(&tablespace.location.display().to_string().replace('=', "\\="))
                    ),
                )
                .into());
            }
        };
        if holds_something(&place)? {
            return Err(Hinted::new(
                format!("\"{}\" is not empty", place.display()),
                "name a directory for the tablespace that is empty or does not exist yet; nothing was changed",
            )
            .into());
        }
        placed.insert(tablespace.oid, place);
    }
    Ok(placed)
}

fn text(plan: &Plan, beside: bool) -> Result<String> {
    let mut text = String::new();
    writeln!(text, "Restore of instance \"{}\"", plan.instance)?;
    writeln!(
        text,
        "  target          {}{}",
        plan.target,
        if plan.inclusive { "" } else { ", exclusive" }
    )?;
    if let Some(note) = &plan.note {
        writeln!(text, "                  ({note})")?;
    }
    writeln!(
        text,
        "  starting point  {}, consistent at {} ({})",
        plan.beginning(),
        plan.consistent_at,
        instant(plan.consistent_time)
    )?;
    writeln!(
        text,
        "  WAL             timeline {}, at least {} archived files, {} that only the server has",
        plan.timeline, plan.wal_segments, plan.unarchived_segments
    )?;
    writeln!(
        text,
        "  into            {} ({} MiB)",
        plan.destination.display(),
        plan.content_bytes >> 20
    )?;
    for timeline in &plan.also_on {
        writeln!(
            text,
            "  CAREFUL         this moment is on timeline {timeline} too, which was left by a restore: --timeline {timeline} goes there"
        )?;
    }
    for (oid, place) in &plan.tablespaces {
        writeln!(text, "  tablespace      {oid} into {}", place.display())?;
    }
    match &plan.kept {
        Some(kept) => writeln!(
            text,
            "  present cluster is stopped and kept as {}",
            kept.display()
        )?,
        None if beside => writeln!(text, "  present cluster is left alone")?,
        None => writeln!(text, "  present cluster: there is none")?,
    }
    Ok(text)
}

fn confirm(instance: &str) -> Result<()> {
    if !std::io::stdin().is_terminal() {
        return Err(Hinted::new(
            "nobody is there to confirm",
            "look at the plan with --plan, then pass --yes",
        )
        .into());
    }
    tool::print(&format!(
        "\nType the name of the instance to go on ({instance}): "
    ))?;
    let mut line = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut line)
        .context("read the answer")?;
    ensure!(
        line.trim() == instance,
        "not confirmed; nothing was changed"
    );
    Ok(())
}

/// Builds the restored cluster, recovers it, checks it and puts it in its place.
fn build(
    instance: &Instance,
    sources: &Sources,
    staging: &Staging,
    planned: Planned,
    arguments: &Arguments,
    present: &Path,
) -> Result<Outcome> {
    let Planned {
        plan,
        recovery,
        choice,
        point,
    } = planned;
    let mut journal = Journal {
        step: Step::Building,
        kept: plan.kept.clone(),
        tablespaces: Vec::new(),
    };
    staging.write_journal(&journal)?;

    let begin = Instant::now();
    let filled = take_tablespaces(staging, &plan, &mut journal)
        .and_then(|()| restore_files(instance, sources, &choice, staging, &plan));
    if let Err(err) = filled {
        // Half of a damaged backup is of no use to anybody, and it takes the space that the next
        // attempt needs.
        if let Err(err) = staging.discard(&journal.tablespaces) {
            tool::report("could not remove the unfinished restore", &err);
        }
        return Err(err);
    }
    let replayed = if arguments.as_standby {
        leave_as_standby(staging, &point)
    } else {
        Replay {
            instance,
            sources,
            staging,
            recovery: &recovery,
            choice: &choice,
            point: &point,
            in_place: arguments.into.is_none(),
        }
        .run(present)
    };
    let Replayed {
        end,
        files_end,
        replay_seconds,
    } = match replayed {
        Ok(replayed) => replayed,
        Err(err) => {
            // What was made stays for a person to look at, and the present cluster may start again.
            let failed = Journal {
                step: Step::Failed,
                ..journal
            };
            if let Err(err) = staging.write_journal(&failed) {
                tool::report("could not note that the restore has failed", &err);
            }
            return Err(err);
        }
    };
    let files_seconds = files_end.duration_since(begin).as_secs_f64();

    for name in [SEGMENT_STAGING, UNARCHIVED] {
        let spool = staging.directory.join("pg_wal").join(name);
        match fs::remove_dir_all(&spool) {
            Err(err) if err.kind() != std::io::ErrorKind::NotFound => {
                return Err(err).with_context(|| format!("remove \"{}\"", spool.display()));
            }
            _ => {}
        }
    }
    staging.write_journal(&Journal {
        step: Step::Swapping,
        ..journal
    })?;
    staging.swap(plan.kept.as_deref())?;
    Ok(Outcome {
        plan,
        new_timeline: end.timeline.get(),
        ended_at: end.switch_point,
        ended_because: end.reason,
        last_commit: end.last_commit,
        files_seconds,
        replay_seconds,
        downtime_seconds: None,
    })
}

/// Takes the directories for the tablespaces, and notes which they are.
fn take_tablespaces(staging: &Staging, plan: &Plan, journal: &mut Journal) -> Result<()> {
    for place in plan.tablespaces.values() {
        journal.tablespaces.push(Taken::take(place)?);
        staging.write_journal(journal)?;
    }
    Ok(())
}

/// What replaying the WAL came to.
struct Replayed {
    end: RecoveryEnd,
    /// When the last file was in place.
    files_end: Instant,
    replay_seconds: f64,
}

/// Marks the restored files as a standby. It replays from where the starting point began, and nobody is
/// answered before it is consistent.
fn leave_as_standby(staging: &Staging, point: &StartingPoint) -> Result<Replayed> {
    durable_file::replace(&staging.directory.join("standby.signal"), b"")?;
    durable_file::sync_file_system_of(&staging.directory)?;
    Ok(Replayed {
        end: RecoveryEnd {
            timeline: point.timeline,
            parent: point.timeline,
            switch_point: point.stop,
            reason: "left as a standby".into(),
            last_commit: None,
        },
        files_end: Instant::now(),
        replay_seconds: 0.0,
    })
}

/// What a replay needs to know.
struct Replay<'a> {
    instance: &'a Instance,
    sources: &'a Sources,
    staging: &'a Staging,
    recovery: &'a RecoveryTarget,
    choice: &'a Choice,
    point: &'a StartingPoint,
    in_place: bool,
}

impl Replay<'_> {
    /// Adds what only the old server has, replays, and checks where that ended.
    fn run(&self, present: &Path) -> Result<Replayed> {
        // Now that the server has stopped, what it has not archived is complete.
        let mut contents = self.instance.contents()?;
        let of_server = Unarchived::in_data_directory(present, &contents)?;
        let is_aside = self.offer(&of_server, &contents)?;
        of_server.add_to(&mut contents);
        let mut unarchived = of_server;
        self.sources.add_to(&mut contents, &mut unarchived);
        let directory = &self.staging.directory;
        durable_file::sync_file_system_of(directory)?;
        let files_end = Instant::now();

        let aside = directory.join("pg_wal").join(UNARCHIVED);
        let begin = Instant::now();
        let end = recover(
            self.instance,
            self.staging,
            self.recovery,
            self.choice,
            is_aside.then_some(aside.as_path()),
            self.in_place,
        )?;
        let replay_seconds = begin.elapsed().as_secs_f64();
        let last = last_segment(&contents, &unarchived, self.choice, self.point);
        check_end(self.recovery, self.point, &end, last, &contents).map_err(|err| {
            Hinted::new(
                format!("the recovery ended in another place than it should: {err:#}"),
                format!(
                    "the restored files are in \"{}\" for you to look at; the present cluster was not touched, start it again or restore to another target",
                    directory.display()
                ),
            )
        })?;
        if self.in_place {
            self.leave_to_archive(&unarchived, end.switch_point, contents.plan.segment_size)?;
        }
        say(&format!(
            "recovery ended at {} ({}), timeline {}",
            end.switch_point, end.reason, end.timeline
        ));
        Ok(Replayed {
            end,
            files_end,
            replay_seconds,
        })
    }

    /// Puts what only the old server has where PostgreSQL looks after the archive: into `pg_wal`. What it
    /// may not find there before it has left the WAL of a copy behind goes into a directory for
    /// `pg-restore-wal`. Returns whether there is any of that.
    ///
    /// A copy is recovered from its own `pg_wal` first, as after a crash, and all that is found there
    /// counts as part of it: the restore could stop nowhere before its end.
    fn offer(&self, of_server: &Unarchived, contents: &Contents) -> Result<bool> {
        let directory = self.staging.directory.join("pg_wal");
        for (_, path) in &of_server.histories {
            offer(path, &directory)?;
        }
        let first = SegmentName::containing(
            self.point.timeline,
            self.point.start,
            contents.plan.segment_size,
        );
        let is_later = |name: &SegmentName| {
            matches!(self.sources, Sources::Copy(_))
                && (name.timeline() != first.timeline() || *name >= first)
        };
        let (later, earlier): (Vec<_>, Vec<_>) = of_server
            .segments
            .iter()
            .partition(|(name, _)| is_later(name));
        for (_, path) in earlier {
            offer(path, &directory)?;
        }
        let aside = directory.join(UNARCHIVED);
        if !later.is_empty() {
            durable_file::ensure_directory(&aside)?;
        }
        for (_, path) in &later {
            offer(path, &aside)?;
        }
        Ok(!later.is_empty())
    }

    /// Sees to it that PostgreSQL archives those of `unarchived` that the restored cluster is made of: a
    /// restore from an older starting point would find a gap there. Recovery takes all that it replays for
    /// archived, and recycles it before it ends (`XLogArchiveCheckDone`).
    fn leave_to_archive(
        &self,
        unarchived: &Unarchived,
        switch_point: Lsn,
        size: SegmentSize,
    ) -> Result<()> {
        let directory = self.staging.directory.join("pg_wal");
        let history = &self.choice.history;
        let mut names = Vec::new();
        for (name, path) in &unarchived.segments {
            let left = match history.switch_point_of(name.timeline()) {
                None if name.timeline() == history.timeline => switch_point,
                Some(left) => left.min(switch_point),
                None => continue,
            };
            // The segment of a switch is whole on the newer timeline only.
            if name.end(size) <= left {
                offer(path, &directory)?;
                names.push(name.to_string());
            }
        }
        for (history_of_one, path) in &unarchived.histories {
            if history
                .timelines()
                .any(|timeline| timeline == history_of_one.timeline)
            {
                offer(path, &directory)?;
                names.push(WalFileName::History(history_of_one.timeline).to_string());
            }
        }
        durable_file::sync_file_system_of(&directory)?;
        let status = directory.join("archive_status");
        for name in names {
            durable_file::remove(&status.join(format!("{name}.done")))?;
            durable_file::replace(&status.join(format!("{name}.ready")), b"")?;
        }
        Ok(())
    }
}

/// Says what happens now.
pub fn say(what: &str) {
    tool::log(Level::Info, format_args!("{what}"));
}

fn restore_files(
    instance: &Instance,
    sources: &Sources,
    choice: &Choice,
    staging: &Staging,
    plan: &Plan,
) -> Result<()> {
    match &plan.starting_point {
        Beginning::BaseBackup { name } => {
            say(&format!("restoring the files of base backup {name}"));
        }
        Beginning::Copy { directory } | Beginning::Snapshot { directory, .. } => {
            say(&format!("copying the files of {}", directory.display()));
        }
    }
    let progress = Progress::default();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| show_progress(&progress, plan.content_bytes, &done));
        let result = sources.put_files(instance, choice, staging, plan, &progress);
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        match &plan.starting_point {
            Beginning::Snapshot { name, directory } if !directory.exists() => {
                result.with_hint(|| {
                    format!(
                        "snapshot \"{name}\" has been destroyed meanwhile: the same restore again begins with another, unless --from names this one"
                    )
                })
            }
            _ => result,
        }
    })
}

/// A bar on a terminal, a line a minute otherwise.
fn show_progress(progress: &Progress, total: u64, done: &std::sync::atomic::AtomicBool) {
    const TICK: Duration = Duration::from_millis(100);
    let bar = std::io::stderr().is_terminal().then(|| {
        let bar = ProgressBar::new(total);
        if let Ok(style) =
            ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}")
        {
            bar.set_style(style);
        }
        bar
    });
    let mut last_line = Instant::now();
    while !done.load(std::sync::atomic::Ordering::Relaxed) {
        std::thread::sleep(TICK);
        match &bar {
            Some(bar) => bar.set_position(progress.bytes()),
            None if last_line.elapsed() >= Duration::from_mins(1) => {
                last_line = Instant::now();
                say(&format!(
                    "{} of {} MiB",
                    progress.bytes() >> 20,
                    total >> 20
                ));
            }
            None => {}
        }
    }
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
}

/// Copies a WAL file that only the old cluster has to where PostgreSQL looks after the archive.
fn offer(from: &Path, directory: &Path) -> Result<()> {
    let to = directory.join(from.file_name().unwrap_or_default());
    let copy = || -> std::io::Result<()> {
        let mut source = durable_file::open_regular(from)?;
        let mut sink = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&to)?;
        durable_file::copy_bytes(&mut source, &mut sink)?;
        sink.flush()
    };
    copy().with_context(|| format!("copy \"{}\" to \"{}\"", from.display(), to.display()))
}

fn recover(
    instance: &Instance,
    staging: &Staging,
    target: &RecoveryTarget,
    choice: &Choice,
    unarchived: Option<&Path>,
    will_archive: bool,
) -> Result<RecoveryEnd> {
    say(&format!("replaying WAL up to {}", target.target));
    let server: &Postgresql = &instance.settings.postgresql;
    let recovery = Recovery {
        programs: instance.server.programs().clone(),
        data_directory: staging.directory.clone(),
        role: server.role.clone(),
        log: durable_file::with_suffix(&staging.destination, ".restore.log"),
        restore_command: restore_command(&instance.config, unarchived)?,
        target: target.settings(),
        timeline: choice.recovery_target_timeline.clone(),
        will_archive,
    };
    let mut files = 0_u64;
    let mut last_line = Instant::now();
    recovery.run(|name| {
        files += 1;
        if last_line.elapsed() >= Duration::from_mins(1) {
            last_line = Instant::now();
            say(&format!("{files} WAL files replayed, now {name}"));
        }
    })
}

/// The restore command with our program, quoted for the shell that PostgreSQL runs it in.
fn restore_command(config: &Path, unarchived: Option<&Path>) -> Result<String> {
    let program = command::sibling("pg-restore-wal")?;
    // A percent sign would begin one of PostgreSQL's own placeholders.
    let word = |path: &Path| quoted(&path.display().to_string()).replace('%', "%%");
    let unarchived = unarchived.map_or_else(String::new, |directory| {
        format!("--unarchived {} ", word(directory))
    });
    Ok(format!(
        // What is restored from was chosen; an off-site copy that is away is none of its business.
        "{} --config {} --local {unarchived}\"%f\" \"%p\"",
        word(&program),
        word(config)
    ))
}

/// The last segment that the recovery could have read.
fn last_segment(
    contents: &Contents,
    unarchived: &Unarchived,
    choice: &Choice,
    point: &StartingPoint,
) -> Option<SegmentName> {
    let first = SegmentName::containing(point.timeline, point.start, contents.plan.segment_size);
    stretch(contents, unarchived, &choice.history, first)
        .last()
        .map(|segment| segment.name)
}

/// Whether a recovery ended where it was meant to. PostgreSQL says in the history of the new
/// timeline why it ended; for some ends it says so only there.
fn check_end(
    target: &RecoveryTarget,
    point: &StartingPoint,
    end: &RecoveryEnd,
    last: Option<SegmentName>,
    contents: &Contents,
) -> Result<()> {
    let reason = end.reason.trim();
    ensure!(
        end.switch_point >= point.stop,
        "it ended at {}, before the base backup is consistent at {}",
        end.switch_point,
        point.stop
    );
    let side = if target.inclusive { "after" } else { "before" };
    let as_meant = match &target.target {
        Target::Latest => {
            let last = last.ok_or_else(|| anyhow!("there is no WAL"))?;
            let start = last.start(contents.plan.segment_size);
            ensure!(
                end.switch_point >= start,
                "it ended at {}, but there is WAL up to \"{last}\"",
                end.switch_point
            );
            reason == "no recovery target specified"
        }
        Target::Immediate => reason == "reached consistency",
        Target::Time(_) => reason.starts_with("before 2") || reason.starts_with("after 2"),
        Target::Xid(xid) => reason == format!("{side} transaction {xid}"),
        Target::Lsn(_) => reason.starts_with(&format!("{side} LSN ")),
        Target::Name(name) => reason == format!("at restore point \"{name}\""),
    };
    if !as_meant {
        bail!("it ended at {} for this reason: {reason}", end.switch_point);
    }
    Ok(())
}

/// Keeps a cluster that was restored beside the running one from writing into its archive.
fn stay_out_of_the_archive(data_directory: &Path) -> Result<()> {
    let path = data_directory.join("postgresql.auto.conf");
    let mut text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(err) => return Err(err).with_context(|| format!("read \"{}\"", path.display())),
    };
    text.push_str("# This is a copy. Its WAL must not get into the archive of the original.\narchive_mode = 'off'\n");
    durable_file::replace(&path, text.as_bytes())
}

fn finish(instance: &Instance, arguments: &Arguments, outcome: &Outcome) -> Result<()> {
    if arguments.json {
        tool::print(&(serde_json::to_string_pretty(outcome)? + "\n"))?;
    } else {
        tool::print(&done_text(instance, outcome, arguments.into.is_none())?)?;
    }
    let wants_backup = instance.settings.base_backup.is_some() && !arguments.no_backup;
    if !arguments.controls_the_server() || !wants_backup {
        return Ok(());
    }
    // Restores to a moment from now on start here, without the way over the old timeline.
    say("taking a base backup of the restored cluster");
    Command::beside("pg-base-backup")?
        .arg("--config")
        .arg(&instance.declared_config)
        .arg("--full")
        .run()
        .map(drop)
        .map_err(|err| {
            Hinted::new(
                format!("the restore is complete, but the base backup after it failed: {err:#}"),
                "run pg-base-backup once its cause is mended",
            )
            .into()
        })
}

fn done_text(instance: &Instance, outcome: &Outcome, in_place: bool) -> Result<String> {
    let plan = &outcome.plan;
    let mut text = String::new();
    writeln!(
        text,
        "\nRestored to {} on timeline {}, files in {:.1} s, replay in {:.1} s{}.",
        outcome.ended_at,
        outcome.new_timeline,
        outcome.files_seconds,
        outcome.replay_seconds,
        outcome
            .downtime_seconds
            .map_or_else(String::new, |seconds| format!(
                ", {seconds:.1} s without a server"
            ))
    )?;
    if let Some(time) = &outcome.last_commit {
        writeln!(text, "The last transaction in it was at {time}.")?;
    }
    if let Some(kept) = &plan.kept {
        writeln!(
            text,
            "The cluster as it was before is in {}; remove it when you are sure.",
            kept.display()
        )?;
    }
    if !in_place {
        let programs = &instance.settings.postgresql.bin_directory;
        writeln!(
            text,
            "Start it on another port and socket, with archiving off as it is:\n  {} start --pgdata {} --options '-p 5433 -k {}'",
            programs.join("pg_ctl").display(),
            plan.destination.display(),
            plan.destination.display()
        )?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
