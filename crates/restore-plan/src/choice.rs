//! Where a restore has to begin to reach its target.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use wal::{Lsn, SegmentName, SystemIdentifier, TimelineHistory, TimelineId};

use crate::path::{Missing, Path, Survey};
use crate::target::utc;
use crate::window::window;
use crate::{ArchiveContents, StartingPoint, Target, Window};

/// Which of several timelines to follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TimelineChoice {
    /// The one with the highest number: the one that the cluster was on last.
    #[default]
    Latest,
    /// The one that the starting point is on.
    Current,
    /// This one.
    Id(TimelineId),
}

impl FromStr for TimelineChoice {
    type Err = wal::ParseIdError;

    /// Reads `latest`, `current` or a number, as PostgreSQL's `recovery_target_timeline`.
    fn from_str(text: &str) -> Result<Self, wal::ParseIdError> {
        match text {
            "latest" => Ok(Self::Latest),
            "current" => Ok(Self::Current),
            number => number.parse().map(Self::Id),
        }
    }
}

impl fmt::Display for TimelineChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => f.write_str("latest"),
            Self::Current => f.write_str("current"),
            Self::Id(timeline) => timeline.fmt(f),
        }
    }
}

/// What the caller has learned of where in the WAL the target is, by reading the WAL.
///
/// A transaction or a restore point can be placed in no other way. For a time this is optional, and
/// makes the answer sharper.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TargetPosition {
    /// The address of the record at which replay will stop.
    pub lsn: Option<Lsn>,
    /// The time in that record.
    pub time: Option<Timestamp>,
    /// The timeline on which it was found.
    pub timeline: Option<TimelineId>,
}

/// Where a restore begins, and along which path it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The starting point.
    pub point: String,
    /// The path to follow.
    pub history: TimelineHistory,
    /// What `recovery_target_timeline` has to be set to, so that PostgreSQL follows that path: a
    /// number, or `current` for a timeline whose history file is absent, which PostgreSQL would
    /// refuse by its number.
    ///
    /// Never `latest`: by that, PostgreSQL means the highest number that it reaches without a gap
    /// in the numbers.
    pub recovery_target_timeline: String,
    /// The segments that the recovery reads for certain, in order; all of them are there. They go
    /// up to `end`, or to the end of the base backup where that is not known.
    pub needed: Vec<SegmentName>,
    /// The recovery stops before this address, as far as is known.
    pub end: Option<Lsn>,
    /// Other timelines on which the target may lie as well, with WAL to reach it.
    ///
    /// After a restore to noon, "one o'clock" may mean the afternoon that was undone or the one
    /// after. The latest timeline knows only the second; who meant the first has to name the older
    /// timeline. Ask when this is not empty.
    pub also_on: Vec<TimelineId>,
}

/// Picks the starting point for `target`: the newest one that is complete strictly before the
/// target, on the path to the chosen timeline.
///
/// "Strictly before", because a restore that should stop before the end of its base backup either
/// fails or, for a time, ends in the state at that end without a word.
///
/// # Errors
///
/// Refuses, with a [`Refusal`] that names the reason and the way out, when no such point exists,
/// when WAL is missing on the way, when the target is past the end of the WAL, when its place is
/// not known, or when a timeline has no history file.
pub fn choose(
    points: &[StartingPoint],
    contents: &ArchiveContents,
    target: &Target,
    timeline: TimelineChoice,
    position: &TargetPosition,
) -> Result<Choice, Refusal> {
    let points = contents.points(points);
    if points.is_empty() {
        return Err(Refusal::NoStartingPoint {
            system_identifier: contents.system_identifier,
        });
    }
    let place = Place::of(target, position)?;
    let candidates = candidates(&points, contents, timeline)?;
    let windows = || {
        candidates
            .iter()
            .map(|c| window(c.point, &c.path))
            .collect()
    };

    // The target's own timeline rules out every path that does not lead through it.
    let leads_there = |c: &&Candidate<'_>| match (position.timeline, place) {
        (Some(found), Place::At(lsn)) => c.path.history.timeline_at(lsn) == found,
        _ => true,
    };
    if let (Some(found), false) = (
        position.timeline,
        candidates.iter().any(|c| leads_there(&c)),
    ) {
        return Err(Refusal::OnAnotherTimeline {
            target: target.clone(),
            found,
            chosen: timeline,
        });
    }

    let before_target = |c: &&Candidate<'_>| match place {
        Place::At(lsn) => c.point.stop < lsn,
        Place::When(time) => c.point.stop_time < time,
        Place::EndOfBackup | Place::EndOfWal => true,
    };
    let usable: Vec<&Candidate<'_>> = candidates
        .iter()
        .filter(leads_there)
        .filter(before_target)
        .collect();
    let Some(newest) = usable.first() else {
        return Err(Refusal::BeforeFirst {
            target: target.clone(),
            windows: windows(),
        });
    };

    // An older point needs the WAL of the newer ones as well, except where two backups overlapped.
    // Another timeline would be another answer.
    let mut refusal = None;
    for candidate in &usable {
        if candidate.path.timeline() != newest.path.timeline() {
            continue;
        }
        // The end of an older backup is another state than that of the newest one.
        if matches!(place, Place::EndOfBackup) && refusal.is_some() {
            break;
        }
        match extent(candidate, &candidates, target, place) {
            Ok((needed, end)) => {
                return Ok(Choice {
                    point: candidate.point.id.clone(),
                    recovery_target_timeline: setting(candidate, contents),
                    needed,
                    end,
                    also_on: also_on(candidate, &candidates, contents, place, position),
                    history: candidate.path.history.clone(),
                });
            }
            Err(reason) => refusal = refusal.or(Some(reason)),
        }
    }
    Err(refusal.unwrap_or_else(|| Refusal::BeforeFirst {
        target: target.clone(),
        windows: windows(),
    }))
}

/// A starting point and a path that leads through it.
struct Candidate<'a> {
    point: &'a StartingPoint,
    path: std::rc::Rc<Path<'a>>,
}

/// Where a target is, as exactly as is known.
#[derive(Clone, Copy)]
enum Place {
    At(Lsn),
    When(Timestamp),
    EndOfBackup,
    EndOfWal,
}

impl Place {
    fn of(target: &Target, position: &TargetPosition) -> Result<Self, Refusal> {
        let learned = || match (position.lsn, position.time) {
            (Some(lsn), _) => Some(Self::At(lsn)),
            (None, time) => time.map(Self::When),
        };
        match target {
            Target::Latest => Ok(Self::EndOfWal),
            Target::Immediate => Ok(Self::EndOfBackup),
            Target::Lsn(lsn) => Ok(Self::At(*lsn)),
            Target::Time(time) => Ok(position.lsn.map_or(Self::When(*time), Self::At)),
            Target::Xid(_) | Target::Name(_) => learned().ok_or_else(|| Refusal::NotFound {
                target: target.clone(),
            }),
        }
    }
}

/// The starting points on the chosen paths, newest first. At least one.
fn candidates<'a>(
    points: &[&'a StartingPoint],
    contents: &'a ArchiveContents,
    timeline: TimelineChoice,
) -> Result<Vec<Candidate<'a>>, Refusal> {
    let wanted = match timeline {
        TimelineChoice::Current => None,
        TimelineChoice::Id(id) => Some(id),
        TimelineChoice::Latest => Some(latest(points, contents)),
    };
    let mut candidates = Vec::new();
    if let Some(wanted) = wanted {
        let on_itself = points.iter().find(|p| p.timeline == wanted);
        let history = contents
            .history(wanted)
            .or_else(|| on_itself.map(|p| contents.own_history(p)))
            .ok_or(Refusal::NoHistory { timeline: wanted })?;
        let path = std::rc::Rc::new(Path::new(history, contents));
        for point in points.iter().filter(|p| path.passes(p)) {
            candidates.push(Candidate {
                point,
                path: path.clone(),
            });
        }
        // Along one path, addresses say which is newer, whatever the clock did.
        candidates.sort_by_key(|c| std::cmp::Reverse((c.point.stop, c.point.stop_time)));
        if candidates.is_empty() {
            return Err(Refusal::NotOnPath { timeline: wanted });
        }
    } else {
        for point in points {
            let path = std::rc::Rc::new(Path::new(contents.own_history(point), contents));
            if path.passes(point) {
                candidates.push(Candidate { point, path });
            }
        }
        candidates.sort_by_key(|c| std::cmp::Reverse((c.point.stop_time, c.point.stop)));
        if candidates.is_empty() {
            return Err(Refusal::NoStartingPoint {
                system_identifier: contents.system_identifier,
            });
        }
    }
    Ok(candidates)
}

/// The highest timeline that anything is known of. A segment without a history file counts too: to
/// pass over it would be to give up, silently, what was written last.
fn latest(points: &[&StartingPoint], contents: &ArchiveContents) -> TimelineId {
    let of_segments = contents.segments.iter().map(|s| s.timeline());
    points
        .iter()
        .map(|p| p.timeline)
        .chain(contents.histories.keys().copied())
        .chain(of_segments)
        .max()
        .unwrap_or(TimelineId::FIRST)
}

fn setting(candidate: &Candidate<'_>, contents: &ArchiveContents) -> String {
    let timeline = candidate.path.timeline();
    match contents.history(timeline) {
        Some(_) => timeline.to_string(),
        None => "current".to_owned(),
    }
}

/// The files that are needed for certain and where the recovery ends, or what is in its way.
fn extent(
    candidate: &Candidate<'_>,
    candidates: &[Candidate<'_>],
    target: &Target,
    place: Place,
) -> Result<(Vec<SegmentName>, Option<Lsn>), Refusal> {
    let (point, path) = (candidate.point, &candidate.path);
    let survey = path.survey(point);
    let gap = |survey: Survey| match survey.stray {
        Some(stray) => Refusal::Stray {
            timeline: path.timeline(),
            absent: survey.absent,
            stray,
            left_at: path
                .history
                .switch_point_of(stray.timeline())
                .unwrap_or(survey.reach),
        },
        None => Refusal::Gap {
            point: point.id.clone(),
            absent: survey.absent,
            before: survey.before_absent,
            count: survey.after_absent.map_or(1, |(_, count)| count),
            after: survey.after_absent.map(|(after, _)| after),
            missing: survey.missing,
        },
    };
    if survey.reach < point.stop {
        return Err(gap(survey));
    }
    let end = match place {
        Place::EndOfBackup => Some(point.stop),
        Place::EndOfWal => {
            if !survey.missing.is_empty() || survey.stray.is_some() {
                return Err(gap(survey));
            }
            Some(survey.reach)
        }
        Place::At(lsn) => {
            if lsn >= survey.reach {
                if survey.missing.is_empty() && survey.stray.is_none() {
                    return Err(Refusal::PastEnd {
                        target: target.clone(),
                        timeline: path.timeline(),
                        end: survey.reach,
                    });
                }
                return Err(gap(survey));
            }
            // The record at the target has to be read at least to its first byte.
            lsn.checked_add(1)
        }
        Place::When(time) => {
            // Every commit after the end of a later backup is later than the target, so replay
            // stops there at the latest.
            let bound = candidates
                .iter()
                .filter(|c| c.path.timeline() == path.timeline() && c.point.stop_time > time)
                .map(|c| c.point.stop)
                .min();
            let is_whole = survey.missing.is_empty() && survey.stray.is_none();
            match bound {
                Some(bound) if bound <= survey.reach => Some(bound),
                _ if is_whole => None,
                _ => return Err(gap(survey)),
            }
        }
    };
    let needed = path.files(point, end.unwrap_or(point.stop));
    Ok((needed, end))
}

/// The other timelines that a recovery from the same point could follow to this target.
fn also_on(
    chosen: &Candidate<'_>,
    candidates: &[Candidate<'_>],
    contents: &ArchiveContents,
    place: Place,
    position: &TargetPosition,
) -> Vec<TimelineId> {
    let own = contents.own_history(chosen.point);
    let mut others = Vec::new();
    if position.timeline.is_some() {
        return others;
    }
    for history in contents.histories.values().chain(std::iter::once(&own)) {
        if history.timeline == chosen.path.timeline() || others.contains(&history.timeline) {
            continue;
        }
        let other = Path::new(history.clone(), contents);
        let Some(parting) = chosen.path.parts_from(&other) else {
            continue;
        };
        // The chosen point may lie past the parting, and then decides.
        if !other.passes(chosen.point) {
            continue;
        }
        let reach = other.survey(chosen.point).reach;
        let may_hold_target = match place {
            Place::At(lsn) => parting <= lsn && lsn < reach,
            Place::When(time) => {
                let target_is_before_parting = candidates.iter().any(|c| {
                    c.path.timeline() == chosen.path.timeline()
                        && c.point.stop_time > time
                        && c.point.stop <= parting
                });
                !target_is_before_parting && parting < reach
            }
            Place::EndOfBackup | Place::EndOfWal => false,
        };
        if may_hold_target {
            others.push(history.timeline);
        }
    }
    others.sort_unstable();
    others
}

/// Why no restore is planned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no usable backup of this cluster at all.
    NoStartingPoint {
        /// The cluster.
        system_identifier: SystemIdentifier,
    },
    /// The timeline has no history file, so nobody can say where it comes from.
    NoHistory {
        /// The timeline.
        timeline: TimelineId,
    },
    /// No backup is on the path to the timeline.
    NotOnPath {
        /// The timeline.
        timeline: TimelineId,
    },
    /// Every backup ends at the target or after it.
    BeforeFirst {
        /// What was asked for.
        target: Target,
        /// What can be restored instead, newest backup first.
        windows: Vec<Window>,
    },
    /// WAL that is needed is not in the archive.
    Gap {
        /// The starting point.
        point: String,
        /// The first segment that is missing.
        absent: SegmentName,
        /// The segment before it, unless the backup starts with the missing one.
        before: Option<SegmentName>,
        /// How many are missing in a row, as far as is known.
        count: u64,
        /// The next segment that is there.
        after: Option<SegmentName>,
        /// All that is missing between the first and the newest segment that is there.
        missing: Missing,
    },
    /// In place of a missing segment PostgreSQL would read one that leads away from the timeline.
    Stray {
        /// The timeline to be followed.
        timeline: TimelineId,
        /// The segment that is missing.
        absent: SegmentName,
        /// The segment of an older timeline that would be read.
        stray: SegmentName,
        /// Where the path leaves that older timeline.
        left_at: Lsn,
    },
    /// The WAL ends before the target.
    PastEnd {
        /// What was asked for.
        target: Target,
        /// The timeline to be followed.
        timeline: TimelineId,
        /// Where its WAL ends.
        end: Lsn,
    },
    /// The caller did not find the transaction or the restore point in the WAL.
    NotFound {
        /// What was asked for.
        target: Target,
    },
    /// The target was found on a timeline that the chosen path does not lead through.
    OnAnotherTimeline {
        /// What was asked for.
        target: Target,
        /// Where it was found.
        found: TimelineId,
        /// What was chosen.
        chosen: TimelineChoice,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoStartingPoint { system_identifier } => {
                write!(
                    f,
                    "no good backup of the cluster {system_identifier} was found"
                )
            }
            Self::NoHistory { timeline } => write!(
                f,
                "timeline {timeline} has no history file in the archive, \"{}.history\"",
                timeline.hex()
            ),
            Self::NotOnPath { timeline } => {
                write!(f, "no good backup is on the way to timeline {timeline}")
            }
            Self::BeforeFirst { target, windows } => {
                write!(f, "target \"{target}\" is not after the end of any backup")?;
                if let Some(timeline) = windows.first().map(|w| w.timeline)
                    && windows.iter().all(|w| w.timeline == timeline)
                {
                    write!(f, " on the way to timeline {timeline}")?;
                }
                Ok(())
            }
            Self::Gap {
                point,
                absent,
                before,
                count,
                after,
                ..
            } => {
                write!(f, "missing {absent}")?;
                if *count > 1 {
                    write!(f, " and {} more", count - 1)?;
                }
                match (before, after) {
                    (Some(before), Some(after)) => write!(f, " between {before} and {after}"),
                    (Some(before), None) => write!(f, " after {before}"),
                    (None, Some(_)) => write!(f, ", the first WAL that backup \"{point}\" needs"),
                    (None, None) => write!(f, ", all WAL that backup \"{point}\" needs"),
                }
            }
            Self::Stray {
                timeline,
                absent,
                stray,
                left_at,
            } => write!(
                f,
                "missing {absent}: PostgreSQL would replay {stray} instead and go on past {left_at}, \
                 where timeline {timeline} left timeline {}",
                stray.timeline()
            ),
            Self::PastEnd {
                target,
                timeline,
                end,
            } => write!(
                f,
                "target \"{target}\" is past the end of the archived WAL of timeline {timeline}, {end}"
            ),
            Self::NotFound { target } => {
                write!(f, "target \"{target}\" was not found in the archived WAL")
            }
            Self::OnAnotherTimeline {
                target,
                found,
                chosen,
            } => write!(
                f,
                "target \"{target}\" is on timeline {found}, which timeline \"{chosen}\" does not lead through"
            ),
        }
    }
}

impl std::error::Error for Refusal {}

impl Refusal {
    /// What to do instead, in one line.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::NoStartingPoint { .. } => {
                "take a base backup, or give the place where the backups are".to_owned()
            }
            Self::NoHistory { timeline } => {
                format!("bring the file back, or choose another timeline than {timeline}")
            }
            Self::NotOnPath { .. } => {
                "choose a timeline that a backup leads to, or \"current\" for that of the newest backup".to_owned()
            }
            Self::BeforeFirst { windows, .. } => {
                let restorable = windows.iter().filter(|w| w.restorable);
                match restorable.min_by_key(|w| (w.from_time, w.from)) {
                    Some(first) => format!(
                        "the earliest state that can be restored is that after {} ({}), from backup \"{}\"",
                        utc(first.from_time),
                        first.from,
                        first.point
                    ),
                    None => "none of these backups can be restored, their WAL is missing".to_owned(),
                }
            }
            Self::Gap { before, .. } => match before {
                Some(before) => format!(
                    "bring the file back, or choose a target no later than the end of {before}; \
                     if a time is before that, give its address as lsn:… instead"
                ),
                None => "bring the file back, or choose another backup's time".to_owned(),
            },
            Self::Stray {
                timeline,
                stray,
                left_at,
                ..
            } => format!(
                "stop just before lsn:{left_at} to get the state with which timeline {timeline} began, \
                 or choose timeline {} to follow the older one",
                stray.timeline()
            ),
            Self::PastEnd { .. } => "use \"latest\" for the end of the WAL".to_owned(),
            Self::NotFound { target } => match target {
                Target::Name(_) => {
                    "check the spelling, or find the time of the change and restore to that".to_owned()
                }
                _ => "check the number, or find the time of the change and restore to that".to_owned(),
            },
            Self::OnAnotherTimeline { found, .. } => format!("choose timeline {found}"),
        }
    }
}

#[cfg(test)]
mod tests;
