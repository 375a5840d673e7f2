//! Recovery targets: read from what a person types, written as PostgreSQL's settings.

use std::fmt;

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::{AmbiguousOffset, Offset, TimeZoneDatabase};
use jiff::{SignedDuration, Timestamp, Unit};
use wal::Lsn;

/// The state that a restore should end in.
///
/// Displays in a form that [`parse`](Self::parse) reads back as the same target.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// The last commit at or before this instant, to the microsecond.
    Time(Timestamp),
    /// The commit of this transaction, by the 32-bit number that the WAL knows it by.
    Xid(u64),
    /// This address in the WAL.
    Lsn(Lsn),
    /// The restore point that `pg_create_restore_point` made under this name.
    Name(String),
    /// The end of the WAL.
    Latest,
    /// The end of the base backup, the first state that is consistent.
    Immediate,
}

/// What `hint` says to do when the text has no known form at all.
const FORMS: &str = "use a time with a zone (\"2026-10-11 14:30 Europe/Berlin\", \"10 minutes ago\"), \
                     xid:742, lsn:0/7000028, name:before_upgrade, latest or immediate";

impl Target {
    /// Reads a target as a person types it, at the instant `now`.
    ///
    /// The forms are `xid:742`, `lsn:0/7000028`, `name:before_upgrade`, `latest`, `immediate`, a
    /// duration before now (`10 minutes ago`, `1 hour 30 minutes ago`; a day has 24 hours) and a
    /// date with a time and a zone. The zone is an offset from UTC (`+02:00`, `+02`, `Z`, `UTC`) or
    /// the name of a region (`Europe/Berlin`); RFC 3339 is one of these forms.
    ///
    /// The time is never guessed. PostgreSQL takes a time without a zone to be in the server's
    /// own, so that the same command restores another state on another server, without an error.
    ///
    /// # Errors
    ///
    /// Fails when the text has none of these forms; when a time has no zone, or an abbreviation
    /// such as `CEST`, which means different things in different places; when the clocks showed
    /// that time twice or never; for second 60, `infinity`, `now` and whatever else is no instant;
    /// and for an instant after `now`.
    pub fn parse(text: &str, now: Timestamp) -> Result<Self, TargetError> {
        let text = text.trim_ascii();
        match text.split_once(':') {
            Some(("xid", xid)) => return parse_xid(xid),
            Some(("lsn", lsn)) => return parse_lsn(lsn),
            Some(("name", name)) => return parse_name(name),
            _ => {}
        }
        match text {
            "latest" => return Ok(Self::Latest),
            "immediate" => return Ok(Self::Immediate),
            _ => {}
        }
        let instant = if let Some(durations) = text.strip_suffix(" ago") {
            ago(text, durations, now)?
        } else {
            absolute(text)?
        };
        if instant > now {
            return Err(TargetError::new(
                format!(
                    "target {} is in the future, it is now {}",
                    utc(instant),
                    utc(now)
                ),
                "use \"latest\" for the newest state that can be restored",
            ));
        }
        Ok(Self::Time(instant))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Time(instant) => f.write_str(&utc(*instant)),
            Self::Xid(xid) => write!(f, "xid:{xid}"),
            Self::Lsn(lsn) => write!(f, "lsn:{lsn}"),
            Self::Name(name) => write!(f, "name:{name}"),
            Self::Latest => f.write_str("latest"),
            Self::Immediate => f.write_str("immediate"),
        }
    }
}

/// An instant as PostgreSQL reads it, to the microsecond: `2026-10-11 12:30:00.123456+00`.
pub(crate) fn utc(instant: Timestamp) -> String {
    instant.strftime("%Y-%m-%d %H:%M:%S%.6f+00").to_string()
}

fn parse_xid(text: &str) -> Result<Target, TargetError> {
    let refused = |why: &str, hint: String| {
        let what = format!("\"xid:{}\" {why}", shorten(text));
        Err(TargetError::new(what, hint))
    };
    let Some(xid) = digits::<u64>(text) else {
        return refused(
            "has no transaction number",
            "use the number that the log or pg_current_xact_id() showed, such as xid:742".into(),
        );
    };
    match u32::try_from(xid) {
        // 0 to 2 are no transactions, FirstNormalTransactionId in transam.h.
        Ok(0..=2) => refused(
            "is not a transaction that can commit",
            "ordinary transactions are numbered from 3 on".into(),
        ),
        Ok(_) => Ok(Target::Xid(xid)),
        Err(_) => refused(
            "has more than 32 bits, the WAL has only the lower 32 of a transaction's number",
            format!("use xid:{}", xid & 0xFFFF_FFFF),
        ),
    }
}

fn parse_lsn(text: &str) -> Result<Target, TargetError> {
    text.parse().map(Target::Lsn).map_err(|err| {
        TargetError::new(
            err.to_string(),
            "use an address as pg_current_wal_lsn() shows it, such as lsn:0/7000028",
        )
    })
}

fn parse_name(name: &str) -> Result<Target, TargetError> {
    // MAXFNAMELEN in xlog_internal.h, with its final zero.
    const LONGEST: usize = 63;
    let why = if name.is_empty() {
        "is empty"
    } else if name.len() > LONGEST {
        "has more than 63 bytes, which no restore point has"
    } else if name.contains(|c: char| c.is_control()) {
        "has a control character in it"
    } else {
        return Ok(Target::Name(name.to_owned()));
    };
    Err(TargetError::new(
        format!("restore point \"{}\" {why}", shorten(name)),
        "use the name that was given to pg_create_restore_point(), such as name:before_upgrade",
    ))
}

/// `durations` before `now`, cut to the microsecond.
fn ago(text: &str, durations: &str, now: Timestamp) -> Result<Timestamp, TargetError> {
    let units = [
        ("day", 86_400),
        ("hour", 3_600),
        ("minute", 60),
        ("second", 1),
    ];
    let read = || -> Option<SignedDuration> {
        let mut words = durations.split_ascii_whitespace();
        let mut seconds: i64 = 0;
        let mut allowed = units.as_slice();
        while let Some(number) = words.next() {
            let number: u32 = digits(number)?;
            let unit = words.next()?;
            let unit = unit.strip_suffix('s').unwrap_or(unit);
            // Largest first and each once, so that a slip of the keyboard does not add up.
            let position = allowed.iter().position(|(name, _)| *name == unit)?;
            seconds =
                seconds.checked_add(i64::from(number).checked_mul(allowed.get(position)?.1)?)?;
            allowed = allowed.get(position + 1..)?;
        }
        (allowed.len() < units.len()).then(|| SignedDuration::from_secs(seconds))
    };
    let Some(duration) = read() else {
        return Err(TargetError::new(
            format!("\"{}\" is not a duration before now", shorten(text)),
            "use days, hours, minutes and seconds in this order, such as \"1 hour 30 minutes ago\"",
        ));
    };
    now.checked_sub(duration)
        .and_then(|instant| instant.round(floor_to_microsecond()))
        .map_err(|_| {
            TargetError::new(
                format!("\"{}\" is before the beginning of time", shorten(text)),
                FORMS,
            )
        })
}

fn floor_to_microsecond() -> jiff::TimestampRound {
    jiff::TimestampRound::new()
        .smallest(Unit::Microsecond)
        .mode(jiff::RoundMode::Floor)
}

/// A date with a time and a zone.
fn absolute(text: &str) -> Result<Timestamp, TargetError> {
    let Some((date, rest)) = split_date(text) else {
        return Err(not_a_target(text));
    };
    if rest.is_empty() {
        return Err(TargetError::new(
            format!("\"{text}\" has no time of day"),
            format!("add one, and a zone: \"{text} 14:30 Europe/Berlin\""),
        ));
    }
    let Some((" " | "T" | "t", time)) = rest.split_at_checked(1) else {
        return Err(not_a_target(text));
    };
    let end = time
        .find(|c: char| !matches!(c, '0'..='9' | ':' | '.'))
        .unwrap_or(time.len());
    let (time, zone) = time.split_at(end);
    let civil = DateTime::from_parts(parse_date(text, date)?, parse_time(text, time)?);
    in_zone(text, civil, zone.trim_ascii())
}

/// The first ten characters, if they look like `2026-10-11`, and the rest.
fn split_date(text: &str) -> Option<(&str, &str)> {
    let (date, rest) = text.split_at_checked(10)?;
    let looks_right = date.bytes().enumerate().all(|(at, b)| match at {
        4 | 7 => b == b'-',
        _ => b.is_ascii_digit(),
    });
    looks_right.then_some((date, rest))
}

fn parse_date(text: &str, date: &str) -> Result<Date, TargetError> {
    date.parse().map_err(|_| {
        TargetError::new(
            format!("\"{}\" has a date that does not exist", shorten(text)),
            "write year, month and day, such as 2026-10-11",
        )
    })
}

/// `14:30`, `14:30:05` or `14:30:05.123456`.
fn parse_time(text: &str, time: &str) -> Result<Time, TargetError> {
    let refused = |why: &str, hint: &str| {
        Err(TargetError::new(
            format!("\"{}\" {why}", shorten(text)),
            hint,
        ))
    };
    let (whole, fraction) = match time.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (time, None),
    };
    let fields: Option<Vec<i8>> = whole
        .split(':')
        .map(|field| digits(field).filter(|_| field.len() == 2))
        .collect();
    let (hour, minute, second) = match (fields.as_deref(), fraction) {
        (Some(&[hour, minute]), None) => (hour, minute, 0),
        (Some(&[hour, minute, second]), _) => (hour, minute, second),
        _ => {
            return refused(
                "has no time of day",
                "write hour and minute, such as 14:30 or 14:30:05.25",
            );
        }
    };
    if second == 60 {
        return refused(
            "has a second 60, which PostgreSQL does not have",
            "use second 59, or second 0 of the next minute",
        );
    }
    let nanosecond = match fraction.map(str::as_bytes) {
        None => 0,
        Some(fraction) => {
            let digit = |at: usize| {
                fraction
                    .get(at)
                    .map_or(0, |b| i32::from(b.wrapping_sub(b'0')))
            };
            if fraction.is_empty() || !fraction.iter().all(u8::is_ascii_digit) {
                return refused(
                    "has no digits after the point",
                    "write them, or leave the point away",
                );
            }
            if fraction.iter().skip(6).any(|b| *b != b'0') {
                return refused(
                    "is more exact than a microsecond, which PostgreSQL is not",
                    "write at most six digits after the point",
                );
            }
            (0..6).fold(0, |number, at| number * 10 + digit(at)) * 1000
        }
    };
    Time::new(hour, minute, second, nanosecond).or_else(|_| {
        refused(
            "has a time of day that does not exist",
            "write a time from 00:00:00 to 23:59:59.999999",
        )
    })
}

/// The instant at which clocks in `zone` showed `civil`.
fn in_zone(text: &str, civil: DateTime, zone: &str) -> Result<Timestamp, TargetError> {
    let refused = |why: String, hint: String| {
        Err(TargetError::new(
            format!("\"{}\" {why}", shorten(text)),
            hint,
        ))
    };
    let out_of_range = |_| {
        let why = format!("\"{}\" is not a time that can be restored", shorten(text));
        TargetError::new(why, FORMS)
    };
    if zone.is_empty() {
        return refused(
            "has no time zone".into(),
            format!("add one: \"{text} Europe/Berlin\", \"{text}+02:00\" or \"{text} UTC\""),
        );
    }
    if zone.eq_ignore_ascii_case("Z") || zone.eq_ignore_ascii_case("UTC") {
        return Offset::UTC.to_timestamp(civil).map_err(out_of_range);
    }
    if zone.starts_with(['+', '-']) {
        return match parse_offset(zone) {
            Some(offset) => offset.to_timestamp(civil).map_err(out_of_range),
            None => refused(
                format!("has the offset \"{}\", which does not exist", shorten(zone)),
                "write the offset from UTC, such as +02:00 or -05".into(),
            ),
        };
    }
    if !zone.contains('/') {
        return refused(
            format!(
                "has the zone \"{}\", and an abbreviation means different things in different places",
                shorten(zone)
            ),
            "write the offset (+02:00) or the region (Europe/Berlin) instead".into(),
        );
    }
    let Ok(zone) = TimeZoneDatabase::bundled().get(zone) else {
        return refused(
            format!("has the zone \"{}\", which is not known", shorten(zone)),
            "write the offset (+02:00) or a region of the tz database (Europe/Berlin)".into(),
        );
    };
    let ambiguous = zone.to_ambiguous_timestamp(civil);
    // Clocks that are put forward skip an hour, clocks that are put back show one twice.
    let (why, before, after) = match ambiguous.offset() {
        AmbiguousOffset::Unambiguous { offset } => {
            return offset.to_timestamp(civil).map_err(out_of_range);
        }
        AmbiguousOffset::Gap { before, after } => ("never", before, after),
        AmbiguousOffset::Fold { before, after } => ("twice", before, after),
    };
    let name = zone.iana_name().unwrap_or_default();
    let either = |offset: Offset| {
        let instant = offset.to_timestamp(civil).map_err(out_of_range)?;
        Ok(format!(
            "\"{} {}{}\" ({})",
            civil.date(),
            civil.time(),
            offset_text(offset),
            utc(instant)
        ))
    };
    refused(
        format!("is a time that the clocks of {name} showed {why}, as they were changed"),
        format!("write {} or {}", either(before)?, either(after)?),
    )
}

/// `+02`, `+0200`, `+02:00` or `+02:00:30`, to 15:59:59 as in PostgreSQL.
fn parse_offset(text: &str) -> Option<Offset> {
    let (sign, number) = match text.split_at_checked(1)? {
        ("+", number) => (1, number),
        ("-", number) => (-1, number),
        _ => return None,
    };
    let fields: Vec<&str> = match number.split_at_checked(2) {
        Some((hours, minutes)) if number.len() == 4 && !number.contains(':') => {
            vec![hours, minutes]
        }
        _ => number.split(':').collect(),
    };
    if fields.len() > 3 {
        return None;
    }
    let mut seconds = 0;
    for (index, limit) in [15, 59, 59].into_iter().enumerate() {
        let field = match fields.get(index) {
            Some(field) if field.len() == 2 => digits::<i32>(field)?,
            Some(_) => return None,
            None => 0,
        };
        if field > limit {
            return None;
        }
        seconds = seconds * 60 + field;
    }
    Offset::from_seconds(sign * seconds).ok()
}

/// An offset in the form that [`parse_offset`] reads.
fn offset_text(offset: Offset) -> String {
    let seconds = offset.seconds();
    let sign = if seconds < 0 { '-' } else { '+' };
    let (hours, minutes, seconds) = (
        seconds.abs() / 3600,
        seconds.abs() / 60 % 60,
        seconds.abs() % 60,
    );
    let text = format!("{sign}{hours:02}:{minutes:02}");
    if seconds == 0 {
        text
    } else {
        format!("{text}:{seconds:02}")
    }
}

fn not_a_target(text: &str) -> TargetError {
    let hint = match text.to_ascii_lowercase().as_str() {
        "now" | "infinity" | "+infinity" => {
            "use \"latest\" for the newest state that can be restored"
        }
        "-infinity" | "epoch" => "use \"immediate\" for the state at the end of a base backup",
        "today" | "yesterday" | "tomorrow" | "midnight" | "noon" => {
            "write the date and the time with a zone, such as \"2026-10-11 00:00 Europe/Berlin\""
        }
        _ => FORMS,
    };
    TargetError::new(
        format!("\"{}\" is not a recovery target", shorten(text)),
        hint,
    )
}

/// Digits and nothing else; `parse` alone would accept a sign.
fn digits<T: std::str::FromStr>(text: &str) -> Option<T> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// The beginning of a text, escaped, for a message that has to stay one readable line.
fn shorten(text: &str) -> String {
    const LONGEST: usize = 64;
    let (shown, more) = match text.char_indices().nth(LONGEST) {
        Some((end, _)) => (&text[..end], "…"),
        None => (text, ""),
    };
    format!("{}{more}", shown.escape_debug())
}

/// Why a text is not a target that can be restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetError {
    message: String,
    hint: String,
}

impl TargetError {
    fn new(message: String, hint: impl Into<String>) -> Self {
        Self {
            message,
            hint: hint.into(),
        }
    }

    /// What to type instead, in one line.
    #[must_use]
    pub fn hint(&self) -> &str {
        &self.hint
    }
}

impl fmt::Display for TargetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for TargetError {}

/// A target and whether the transaction that stands exactly at it belongs to the restored state.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RecoveryTarget {
    /// Where to stop.
    pub target: Target,
    /// Whether to stop just after the target (`true`) or just before it. Matters for times,
    /// transactions and addresses; a restore point is neither before nor after itself.
    pub inclusive: bool,
}

impl RecoveryTarget {
    /// The settings that make PostgreSQL stop here, names and values; none for [`Target::Latest`].
    ///
    /// Values are plain text: whoever writes them to a configuration file quotes them.
    ///
    /// # Source
    ///
    /// "Recovery Target" in PostgreSQL's documentation of its settings. `recovery_target_time` is
    /// in UTC, since PostgreSQL reads a time without an offset in the server's own zone.
    #[must_use]
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        let inclusive = ("recovery_target_inclusive", self.inclusive.to_string());
        match &self.target {
            Target::Time(instant) => vec![("recovery_target_time", utc(*instant)), inclusive],
            Target::Xid(xid) => vec![("recovery_target_xid", xid.to_string()), inclusive],
            Target::Lsn(lsn) => vec![("recovery_target_lsn", lsn.to_string()), inclusive],
            Target::Name(name) => vec![("recovery_target_name", name.clone())],
            Target::Immediate => vec![("recovery_target", "immediate".to_owned())],
            Target::Latest => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests;
