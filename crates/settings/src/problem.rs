//! What is wrong with a settings file, and the checks that several sections share.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Component, Path};

/// One thing that is wrong with a settings file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key, as a path from the top: `archive.compression.level`.
    pub key: String,
    /// What is wrong, with the value.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.what)
    }
}

/// Every problem of a settings file, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// The longest time that a setting may give a program, in seconds: 30 days.
pub(crate) const LONGEST_DEADLINE_SECONDS: u32 = 2_592_000;

/// Problems that are being collected.
#[derive(Debug, Default)]
pub(crate) struct Findings(pub(crate) Vec<Problem>);

impl Findings {
    /// Notes that `what` is wrong with the value of `key`.
    pub(crate) fn say(&mut self, key: impl Into<String>, what: impl Into<String>) {
        self.0.push(Problem {
            key: key.into(),
            what: what.into(),
        });
    }

    /// Notes a number that is not in `range`.
    pub(crate) fn range<T: Copy + PartialOrd + fmt::Display>(
        &mut self,
        key: impl Into<String>,
        value: T,
        range: &RangeInclusive<T>,
    ) {
        if !range.contains(&value) {
            let what = format!("{value} is not {} to {}", range.start(), range.end());
            self.say(key, what);
        }
    }

    /// Notes a number that is there and not in `range`.
    pub(crate) fn range_if_set<T: Copy + PartialOrd + fmt::Display>(
        &mut self,
        key: impl Into<String>,
        value: Option<T>,
        range: &RangeInclusive<T>,
    ) {
        if let Some(value) = value {
            self.range(key, value, range);
        }
    }

    /// Notes a path that no program can use.
    pub(crate) fn path(&mut self, key: impl Into<String>, path: &Path) {
        if let Some(what) = what_is_wrong_with(path) {
            self.say(key, what);
        }
    }

    /// Notes a text that is empty, has a control character in it, or is longer than `longest` bytes.
    pub(crate) fn text(&mut self, key: impl Into<String>, text: &str, longest: usize) {
        if text.is_empty() {
            self.say(key, "is empty");
        } else if text.len() > longest {
            self.say(
                key,
                format!("has {} bytes, {longest} are the most", text.len()),
            );
        } else if text.chars().any(char::is_control) {
            self.say(key, format!("{text:?} contains a control character"));
        }
    }

    /// Notes each value that was in the list before. `key` gives the key of the value at an index.
    pub(crate) fn distinct<T: Ord + fmt::Display>(
        &mut self,
        values: impl IntoIterator<Item = T>,
        key: impl Fn(usize) -> String,
    ) {
        let mut seen = BTreeSet::new();
        for (index, value) in values.into_iter().enumerate() {
            let shown = value.to_string();
            if !seen.insert(value) {
                self.say(key(index), format!("\"{shown}\" is there twice"));
            }
        }
    }
}

/// Whether `name` can stand in unit, file and metric names without quoting.
pub(crate) fn is_instance_name(name: &str) -> bool {
    (1..=32).contains(&name.len())
        && !name.starts_with('-')
        && !name.ends_with('-')
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// Whether `name` can be the name of a file and a word of a command line: 1 to 64 letters, digits,
/// dots, hyphens and underscores, the first a letter or a digit.
pub(crate) fn is_plain_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// Whether `name` is the name of a systemd service.
///
/// # Source
///
/// systemd.unit(5): at most 255 characters, of ASCII letters, digits and `:-_.\@`.
pub(crate) fn is_service_name(name: &str) -> bool {
    name.len() <= 255
        && name
            .strip_suffix(".service")
            .is_some_and(|stem| !stem.is_empty())
        && !name.starts_with(['-', '.'])
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b":-_.\\@".contains(&b))
}

/// Whether `name` is the name of a ZFS dataset.
///
/// # Source
///
/// zfs(8): components of letters, digits and `-_.: `, separated by slashes; fewer than 256 bytes. The
/// pool's name begins with a letter. A space is allowed by ZFS and not here: sanoid and syncoid take
/// it for the end of the name.
pub(crate) fn is_dataset_name(name: &str) -> bool {
    name.len() < 256
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.split('/').all(|component| {
            !component.is_empty()
                && component != "."
                && component != ".."
                && component
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b))
        })
}

/// Why no program can use `path`, if so.
pub(crate) fn what_is_wrong_with(path: &Path) -> Option<String> {
    let shown = path.display();
    if !path.is_absolute() {
        return Some(format!("\"{shown}\" is not an absolute path"));
    }
    if path == Path::new("/") {
        return Some("\"/\" is the root directory".into());
    }
    if path
        .components()
        .any(|c| matches!(c, Component::ParentDir | Component::CurDir))
    {
        return Some(format!("\"{shown}\" contains \"..\""));
    }
    // PostgreSQL reads %p and %f out of its commands, and its configuration is read line by line.
    if path
        .to_str()
        .is_none_or(|text| text.chars().any(char::is_control))
    {
        return Some(format!(
            "\"{shown}\" contains a control character or is not UTF-8"
        ));
    }
    None
}
