//! `backstay find`: which transaction was it?

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::ops::ControlFlow;

use anyhow::{Result, anyhow};
use cluster::{Relation, Relations};
use jiff::{SignedDuration, Timestamp};
use restore_plan::Target;
use serde::Serialize;
use tool::{Hinted, Level};
use wal::Lsn;
use wal_scan::{Commit, Events};

use crate::instance::{Contents, Instance, starting_points};
use crate::locate::Trail;
use crate::windows::{history_of, instant};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Look from this time on, as in "2 hours ago" or "2026-10-11 14:30 Europe/Berlin"
    #[arg(long, value_name = "TIME", default_value = "1 day ago")]
    since: String,

    /// Look up to this time [default: now]
    #[arg(long, value_name = "TIME")]
    until: Option<String>,

    /// Show only what happened to this relation: NAME, SCHEMA.NAME or DATABASE.SCHEMA.NAME
    #[arg(long, value_name = "NAME")]
    relation: Option<String>,

    /// Show every changed row count too, not only the largest
    #[arg(long)]
    all: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What a commit did to a relation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    kind: EventKind,
    /// Database, schema and name, or what is known in their place.
    relation: String,
    /// Rows deleted or updated.
    #[serde(skip_serializing_if = "Option::is_none")]
    rows: Option<u64>,
    time: Timestamp,
    xid: u32,
    /// Where the commit is.
    lsn: Lsn,
    /// Pass this to `backstay restore --to` to get the state just before the commit.
    restore_to: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
enum EventKind {
    Drop,
    Truncate,
    /// Its file was replaced by a new one that holds the same rows: VACUUM FULL, CLUSTER or some
    /// forms of ALTER TABLE; or it was dropped in a transaction that made other relations.
    RewriteOrDrop,
    Delete,
    Update,
}

impl EventKind {
    fn word(self) -> &'static str {
        match self {
            Self::Drop => "DROP",
            Self::Truncate => "TRUNCATE",
            Self::RewriteOrDrop => "REWRITE OR DROP",
            Self::Delete => "DELETE",
            Self::Update => "UPDATE",
        }
    }

    fn removes_a_file(self) -> bool {
        matches!(self, Self::Drop | Self::Truncate | Self::RewriteOrDrop)
    }
}

/// How many deletes and updates are shown without `--all`.
const SHOWN_CHANGES: usize = 20;

pub fn show(instance: &Instance, arguments: &Arguments) -> Result<()> {
    let now = Timestamp::now();
    let since = time("since", &arguments.since, now)?;
    let until = match &arguments.until {
        Some(until) => time("until", until, now)?,
        None => now + SignedDuration::from_hours(1),
    };
    let mut events = collect(instance, since, until)?;
    if let Some(wanted) = &arguments.relation {
        let suffix = format!(".{wanted}");
        events.retain(|event| event.relation == *wanted || event.relation.ends_with(&suffix));
    }
    if arguments.json {
        return tool::print(&(serde_json::to_string_pretty(&events)? + "\n"));
    }
    tool::print(&text(&instance.settings.instance, arguments, &events)?)
}

fn time(option: &str, text: &str, now: Timestamp) -> Result<Timestamp> {
    match Target::parse(text, now) {
        Ok(Target::Time(time)) => Ok(time),
        Ok(_) => Err(anyhow!("--{option} \"{text}\" is no time")),
        Err(err) => Err(Hinted::new(format!("--{option}: {err}"), err.hint().to_owned()).into()),
    }
}

fn collect(instance: &Instance, since: Timestamp, until: Timestamp) -> Result<Vec<Event>> {
    let repository = instance.repository()?;
    let records = repository.list()?;
    let mut names = Names::default();
    for record in &records {
        match repository.relations(&record.name) {
            Ok(relations) => names.add(relations),
            Err(err) => tool::log(Level::Warning, format_args!("{err:#}")),
        }
    }
    match Relations::of(&instance.server) {
        Ok(relations) => names.add(relations),
        Err(err) => tool::log(
            Level::Warning,
            format_args!("relations made since the last base backup cannot be named: {err:#}"),
        ),
    }

    let (contents, unarchived) = instance.wal()?;
    let newest = contents
        .plan
        .segments
        .iter()
        .map(|name| name.timeline())
        .max()
        .ok_or_else(|| anyhow!("the archive holds no WAL"))?;
    let history = history_of(&contents, newest);
    let trail = Trail::new(instance, &contents, &unarchived, history);
    let Some(first) = first_segment(&contents, &records, since) else {
        return Err(anyhow!("the archive holds no WAL"));
    };
    let segments = crate::instance::stretch(
        &contents,
        &unarchived,
        &history_of(&contents, newest),
        first,
    );
    let mut collector = Events::default();
    let mut events = Vec::new();
    trail.scan(&segments, |record| {
        if let Some(commit) = collector.record(record)
            && (since..=until).contains(&commit.time)
        {
            events.extend(names.describe(&commit));
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(events)
}

/// Where to begin: the newest base backup that ended before `since`, or the oldest WAL there is.
///
/// A commit after `since` is not before the end of that backup, and a transaction that was open
/// then is seen from there on.
fn first_segment(
    contents: &Contents,
    records: &[base_backups::Record],
    since: Timestamp,
) -> Option<wal::SegmentName> {
    let size = contents.plan.segment_size;
    let before = starting_points(records)
        .into_iter()
        .rfind(|point| {
            point.stop_time < since && point.system_identifier == contents.plan.system_identifier
        })
        .map(|point| wal::SegmentName::containing(point.timeline, point.start, size));
    if before.is_some_and(|name| contents.plan.segments.contains(&name)) {
        return before;
    }
    // After a gap, what follows it is all that can be read in one go.
    let mut first = None;
    let mut previous: Option<wal::SegmentName> = None;
    for name in &contents.plan.segments {
        let follows = previous.is_some_and(|previous| {
            previous
                .next(size)
                .is_some_and(|next| next.start(size) >= name.start(size))
        });
        if !follows {
            first = Some(*name);
        }
        previous = Some(*name);
    }
    first
}

/// Names of relations, from the newest source that has them.
#[derive(Default)]
struct Names {
    by_file: HashMap<(u32, u32), Relation>,
    databases: BTreeMap<u32, String>,
}

impl Names {
    fn add(&mut self, relations: Relations) {
        for relation in relations.relations {
            self.databases
                .insert(relation.database, relation.database_name.clone());
            self.by_file
                .insert((relation.database, relation.file), relation);
        }
    }

    /// What a commit did to relations that a person knows: tables, materialized views, sequences.
    fn describe(&self, commit: &Commit) -> Vec<Event> {
        let mut events = Vec::new();
        let mut unknown: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        let mut push = |kind, relation: String, rows| {
            events.push(Event {
                kind,
                relation,
                rows,
                time: commit.time,
                xid: commit.xid,
                lsn: commit.lsn,
                restore_to: format!("lsn:{}", commit.previous),
            });
        };
        for file in &commit.removed {
            match self.by_file.get(&(file.database, file.file)) {
                Some(relation) if is_of_interest(relation) => {
                    push(
                        Self::kind_of_removal(commit, file.database),
                        name(relation),
                        None,
                    );
                }
                // Indexes and TOAST tables go with their table.
                Some(_) => {}
                None => unknown.entry(file.database).or_default().push(file.file),
            }
        }
        for (database, files) in unknown {
            // Those of a table that is known have been reported with it.
            if commit.removed.iter().any(|file| {
                file.database == database && self.by_file.contains_key(&(database, file.file))
            }) {
                continue;
            }
            let files: Vec<String> = files.iter().map(ToString::to_string).collect();
            push(
                Self::kind_of_removal(commit, database),
                format!("{}.(file {})", self.database(database), files.join(", ")),
                None,
            );
        }
        for (&(database, file), touched) in &commit.touched {
            let relation = match self.by_file.get(&(database, file)) {
                Some(relation) if is_of_interest(relation) => name(relation),
                Some(_) => continue,
                None => format!("{}.(file {file})", self.database(database)),
            };
            if touched.deleted > 0 {
                push(EventKind::Delete, relation.clone(), Some(touched.deleted));
            }
            if touched.updated > 0 {
                push(EventKind::Update, relation, Some(touched.updated));
            }
        }
        events
    }

    fn kind_of_removal(commit: &Commit, database: u32) -> EventKind {
        match (
            commit.dropped_in.contains(&database),
            commit.created_in.contains(&database),
        ) {
            (true, false) => EventKind::Drop,
            (false, _) => EventKind::Truncate,
            (true, true) => EventKind::RewriteOrDrop,
        }
    }

    fn database(&self, oid: u32) -> String {
        self.databases
            .get(&oid)
            .cloned()
            .unwrap_or_else(|| format!("(database {oid})"))
    }
}

fn is_of_interest(relation: &Relation) -> bool {
    ["r", "m", "S"].contains(&relation.kind.as_str())
}

fn name(relation: &Relation) -> String {
    format!(
        "{}.{}.{}",
        relation.database_name, relation.schema, relation.name
    )
}

fn text(instance: &str, arguments: &Arguments, events: &[Event]) -> Result<String> {
    let mut text = String::new();
    let (removals, mut changes): (Vec<&Event>, Vec<&Event>) =
        events.iter().partition(|event| event.kind.removes_a_file());
    if events.is_empty() {
        writeln!(
            text,
            "No commit since {} dropped, emptied or changed {}.",
            arguments.since,
            arguments.relation.as_deref().unwrap_or("a relation")
        )?;
        writeln!(
            text,
            "hint: look further back with --since, or at everything without --relation"
        )?;
        return Ok(text);
    }
    for event in &removals {
        line(&mut text, event)?;
        writeln!(text, "    to get the state just before it:")?;
        writeln!(
            text,
            "    backstay restore {instance} --to {}",
            event.restore_to
        )?;
    }
    if !changes.is_empty() {
        let hidden = if arguments.all {
            0
        } else {
            changes.len().saturating_sub(SHOWN_CHANGES)
        };
        if hidden > 0 {
            changes.sort_by_key(|event| std::cmp::Reverse(event.rows));
            changes.truncate(SHOWN_CHANGES);
            changes.sort_by_key(|event| event.lsn);
        }
        if !removals.is_empty() {
            writeln!(text)?;
        }
        for event in changes {
            line(&mut text, event)?;
            writeln!(text, "    --to {}", event.restore_to)?;
        }
        if hidden > 0 {
            writeln!(text, "and {hidden} smaller changes; --all shows them")?;
        }
    }
    Ok(text)
}

fn line(text: &mut String, event: &Event) -> Result<()> {
    write!(
        text,
        "{}  {} {}",
        instant(event.time),
        event.kind.word(),
        event.relation
    )?;
    if let Some(rows) = event.rows {
        write!(text, ", {rows} rows")?;
    }
    writeln!(
        text,
        "  (transaction {}, committed at {})",
        event.xid, event.lsn
    )?;
    Ok(())
}
