//! Drawings for the report, as SVG inside of HTML. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use health::{Space, bytes};
use jiff::{SignedDuration, Timestamp};

use super::page::escaped;
use crate::status::{Status, shown_time};

/// Width of a drawing in its own units; it is scaled to the page.
const WIDTH: f64 = 1000.0;
/// Where the time axis begins and ends: names stand to the left of it.
const LEFT: f64 = 150.0;
const RIGHT: f64 = 985.0;
/// Height of a row of the time line.
const ROW: f64 = 34.0;
/// The least that is drawn of a window, so that it is seen.
const LEAST: f64 = 3.0;

/// A stretch of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stretch {
    from: Timestamp,
    to: Timestamp,
}

/// A time axis.
#[derive(Clone, Copy, Debug)]
struct Axis {
    from: Timestamp,
    to: Timestamp,
}

impl Axis {
    /// An axis over all of `times` and a little more.
    fn over(times: impl IntoIterator<Item = Timestamp>) -> Option<Self> {
        let mut times = times.into_iter();
        let first = times.next()?;
        let (from, to) = times.fold((first, first), |(from, to), time| {
            (from.min(time), to.max(time))
        });
        let margin = (to.duration_since(from) / 50).max(SignedDuration::from_secs(30));
        Some(Self {
            from: from - margin,
            to: to + margin,
        })
    }

    fn x(self, time: Timestamp) -> f64 {
        let all = self.to.duration_since(self.from).as_secs_f64().max(1.0);
        let share = time.duration_since(self.from).as_secs_f64() / all;
        LEFT + share.clamp(0.0, 1.0) * (RIGHT - LEFT)
    }

    /// Round moments, up to ten of them.
    fn ticks(self) -> Vec<Timestamp> {
        /// Steps in seconds: from ten seconds to a year.
        const STEPS: [i64; 17] = [
            10, 30, 60, 300, 900, 1800, 3600, 7200, 21_600, 43_200, 86_400, 172_800, 604_800,
            1_209_600, 2_592_000, 7_776_000, 31_536_000,
        ];
        let all = self.to.duration_since(self.from).as_secs();
        let step = STEPS
            .into_iter()
            .find(|step| all / step <= 8)
            .unwrap_or(10 * 31_536_000);
        let first = self.from.as_second().div_euclid(step) + 1;
        (first..)
            .map_while(|number| {
                let time = Timestamp::from_second(number * step).ok()?;
                (time <= self.to).then_some(time)
            })
            .collect()
    }

    fn label(self, time: Timestamp) -> String {
        let all = self.to.duration_since(self.from);
        let form = if all < SignedDuration::from_mins(10) {
            "%H:%M:%S"
        } else if all < SignedDuration::from_hours(36) {
            "%H:%M"
        } else if all < SignedDuration::from_hours(24 * 6) {
            "%b %-d %H:%M"
        } else {
            "%b %-d"
        };
        time.strftime(form).to_string()
    }

    /// Vertical lines with their moments below.
    fn draw(self, bottom: f64, svg: &mut String) {
        for tick in self.ticks() {
            let x = self.x(tick);
            let _ = writeln!(
                svg,
                "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"4\" y2=\"{bottom:.1}\"/><text class=\"tick\" x=\"{x:.1}\" y=\"{:.1}\">{}</text>",
                bottom + 16.0,
                self.label(tick)
            );
        }
    }
}

/// What a restore can reach, by timeline, oldest first: stretches that touch are one.
fn reach(status: &Status) -> BTreeMap<u32, Vec<Stretch>> {
    let mut reach: BTreeMap<u32, Vec<Stretch>> = BTreeMap::new();
    let mut windows: Vec<_> = status
        .windows
        .iter()
        .filter(|window| window.restorable)
        .collect();
    windows.sort_by_key(|window| window.from);
    for window in windows {
        let to = window.to.unwrap_or(window.from).max(window.from);
        let stretches = reach.entry(window.timeline).or_default();
        match stretches.last_mut() {
            Some(last) if window.from <= last.to => last.to = last.to.max(to),
            _ => stretches.push(Stretch {
                from: window.from,
                to,
            }),
        }
    }
    reach
}

/// Stretches of a timeline behind a gap that no restore can cross: from where the WAL breaks off to the
/// next base backup that can be restored.
fn gaps(status: &Status, timeline: u32, stretches: &[Stretch]) -> Vec<Stretch> {
    let breaks = status
        .windows
        .iter()
        .filter(|window| window.timeline == timeline && window.missing_files > 0);
    let mut gaps: Vec<Stretch> = Vec::new();
    for window in breaks {
        let from = window.to.unwrap_or(window.from);
        let to = stretches
            .iter()
            .map(|stretch| stretch.from)
            .find(|next| *next > from)
            .unwrap_or(status.at);
        let gap = Stretch { from, to };
        if !gaps.contains(&gap) {
            gaps.push(gap);
        }
    }
    gaps
}

/// The time line: windows by timeline, gaps, base backups, drills.
pub fn time_line(status: &Status) -> Option<String> {
    let reach = reach(status);
    let times = status
        .windows
        .iter()
        .flat_map(|window| [Some(window.from), window.to])
        .chain(status.base_backups.iter().map(|b| Some(b.stopped_at)))
        .chain(status.snapshots.iter().map(|one| one.checkpoint_at))
        .flatten();
    // Drills from before anything that can be restored would only squeeze it.
    let mut axis = Axis::over(times.chain([status.at]))?;
    if status.windows.is_empty() && status.base_backups.is_empty() && status.snapshots.is_empty() {
        axis = Axis::over(status.past.drills.iter().map(|drill| drill.finished_at))?;
    }
    let mut svg = String::new();
    let has_snapshots = !status.snapshots.is_empty();
    // Without a window it is said that there is none, unless a snapshot is a way back.
    let says_nothing = reach.is_empty() && !has_snapshots;
    let rows = reach.len() + usize::from(says_nothing) + usize::from(has_snapshots) + 2;
    #[expect(clippy::cast_precision_loss, reason = "a handful of rows")]
    let bottom = rows as f64 * ROW + 8.0;
    let _ = writeln!(
        svg,
        "<svg class=\"time-line\" viewBox=\"0 0 {WIDTH} {:.0}\" role=\"img\" aria-label=\"What a restore can reach\">",
        bottom + 26.0
    );
    svg.push_str(
        "<defs><pattern id=\"hatch\" width=\"8\" height=\"8\" patternUnits=\"userSpaceOnUse\" patternTransform=\"rotate(45)\"><rect class=\"hatch\" width=\"4\" height=\"8\"/></pattern></defs>\n",
    );
    axis.draw(bottom, &mut svg);
    let mut top = 8.0;
    if says_nothing {
        row_name(&mut svg, top, "nothing restorable");
        top += ROW;
    }
    for (timeline, stretches) in &reach {
        row_name(&mut svg, top, &format!("timeline {timeline}"));
        for stretch in stretches {
            bar(&mut svg, axis, top, *stretch, "reach", "can be restored");
        }
        for gap in gaps(status, *timeline, stretches) {
            bar(&mut svg, axis, top, gap, "gap", "a gap: cannot be restored");
        }
        top += ROW;
    }
    row_name(&mut svg, top, "base backups");
    for backup in &status.base_backups {
        let class = match (&backup.damage, backup.incremental) {
            (Some(_), _) => "damaged",
            (None, true) => "incremental",
            (None, false) => "full",
        };
        let kind = if backup.incremental {
            "incremental"
        } else {
            "full"
        };
        let damage = backup
            .damage
            .as_ref()
            .map_or_else(String::new, |why| format!(", damaged: {why}"));
        let _ = writeln!(
            svg,
            "<circle class=\"{class}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"6\"><title>{}</title></circle>",
            axis.x(backup.stopped_at),
            top + ROW / 2.0,
            escaped(&format!(
                "{} ({kind}, {}{damage})",
                backup.name,
                bytes(backup.content_bytes)
            ))
        );
    }
    top += ROW;
    if has_snapshots {
        snapshots(status, axis, top, &mut svg);
        top += ROW;
    }
    row_name(&mut svg, top, "restore drills");
    for drill in &status.past.drills {
        if drill.finished_at < axis.from {
            continue;
        }
        let (x, y) = (axis.x(drill.finished_at), top + ROW / 2.0);
        let (class, path, what) = match &drill.failure {
            None => ("good", "m-6 0 l4 5 l8 -10", "succeeded".to_owned()),
            Some(why) => (
                "bad",
                "m-5 -5 l10 10 m0 -10 l-10 10",
                format!("failed: {why}"),
            ),
        };
        let _ = writeln!(
            svg,
            "<path class=\"{class}\" d=\"M{x:.1} {y:.1} {path}\"><title>{}</title></path>",
            escaped(&format!("{}: {what}", shown_time(drill.finished_at)))
        );
    }
    svg.push_str("</svg>\n");
    Some(svg)
}

/// The row of snapshots, by what each of them holds.
fn snapshots(status: &Status, axis: Axis, top: f64, svg: &mut String) {
    row_name(svg, top, "snapshots");
    for snapshot in &status.snapshots {
        let Some(at) = snapshot.checkpoint_at else {
            continue;
        };
        let _ = writeln!(
            svg,
            "<rect class=\"snapshot\" x=\"{:.1}\" y=\"{:.1}\" width=\"4\" height=\"16\" rx=\"2\"><title>{}</title></rect>",
            axis.x(at) - 2.0,
            top + ROW / 2.0 - 8.0,
            escaped(&format!(
                "snapshot {}, of {}",
                snapshot.name,
                shown_time(at)
            ))
        );
    }
}

fn row_name(svg: &mut String, top: f64, name: &str) {
    let _ = writeln!(
        svg,
        "<text class=\"row\" x=\"0\" y=\"{:.1}\">{}</text>",
        top + ROW / 2.0 + 5.0,
        escaped(name)
    );
}

fn bar(svg: &mut String, axis: Axis, top: f64, stretch: Stretch, class: &str, what: &str) {
    let x = axis.x(stretch.from);
    let width = (axis.x(stretch.to) - x).max(LEAST);
    let _ = writeln!(
        svg,
        "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{:.1}\" rx=\"3\"><title>{}</title></rect>",
        top + 7.0,
        ROW - 14.0,
        escaped(&format!(
            "{what}: {} to {}",
            shown_time(stretch.from),
            shown_time(stretch.to)
        ))
    );
}

/// What backups took over time: the archive, and base backups on top of it.
pub fn space(status: &Status) -> Option<String> {
    const TOP: f64 = 12.0;
    const BOTTOM: f64 = 170.0;
    let entries = &status.past.space;
    if entries.len() < 2 {
        return None;
    }
    let axis = Axis::over(entries.iter().map(|space| space.at))?;
    let archive = |space: &Space| space.archive_bytes.unwrap_or(0);
    let both = |space: &Space| archive(space) + space.base_backup_bytes.unwrap_or(0);
    let most = entries.iter().map(both).max().filter(|most| *most > 0)?;
    #[expect(clippy::cast_precision_loss, reason = "a drawing")]
    let y = |bytes: u64| BOTTOM - (BOTTOM - TOP) * (bytes as f64 / most as f64) * 0.95;
    let mut svg = format!(
        "<svg class=\"space\" viewBox=\"0 0 {WIDTH} 196\" role=\"img\" aria-label=\"Space over time\">\n"
    );
    axis.draw(BOTTOM, &mut svg);
    for share in [most / 2, most] {
        let _ = writeln!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{0:.1}\" y2=\"{0:.1}\"/><text class=\"row\" x=\"0\" y=\"{1:.1}\">{2}</text>",
            y(share),
            y(share) + 5.0,
            bytes(share)
        );
    }
    for (class, value) in [
        ("base-backups", &both as &dyn Fn(&Space) -> u64),
        ("archive", &archive),
    ] {
        let mut points = String::new();
        for space in entries {
            let _ = write!(points, "{:.1},{:.1} ", axis.x(space.at), y(value(space)));
        }
        let (first, last) = (entries.first()?.at, entries.last()?.at);
        let _ = writeln!(
            svg,
            "<polygon class=\"{class}\" points=\"{:.1},{BOTTOM} {points}{:.1},{BOTTOM}\"/>",
            axis.x(first),
            axis.x(last)
        );
    }
    svg.push_str("</svg>\n");
    Some(svg)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::sample;

    #[test]
    fn windows_that_touch_are_one_bar_and_a_gap_is_drawn_between_them() {
        let mut status = sample::healthy();
        assert_eq!(
            reach(&status).values().map(Vec::len).collect::<Vec<_>>(),
            [1, 1]
        );
        let drawn = time_line(&status).unwrap();
        assert_eq!(drawn.matches("class=\"reach\"").count(), 2);
        assert_eq!(drawn.matches("class=\"gap\"").count(), 0);
        assert_eq!(drawn.matches("<circle").count(), status.base_backups.len());
        sample::with_a_gap(&mut status);
        let drawn = time_line(&status).unwrap();
        assert_eq!(drawn.matches("class=\"reach\"").count(), 4);
        assert_eq!(drawn.matches("class=\"gap\"").count(), 2);
    }

    #[test]
    fn an_axis_has_a_few_round_ticks_whatever_its_length() {
        for hours in [0, 1, 30, 24 * 7, 24 * 400, 24 * 4000] {
            let from: Timestamp = "2026-11-21T12:34:56Z".parse().unwrap();
            let axis = Axis::over([from, from + SignedDuration::from_hours(hours)]).unwrap();
            let ticks = axis.ticks();
            assert!((1..=9).contains(&ticks.len()), "{hours}: {}", ticks.len());
            for tick in ticks {
                assert!((LEFT..=RIGHT).contains(&axis.x(tick)));
                assert!(tick.as_second() % 10 == 0);
            }
        }
    }

    #[test]
    fn nothing_to_draw_is_no_drawing() {
        let status = sample::broken();
        assert_eq!(space(&status), None);
    }
}
