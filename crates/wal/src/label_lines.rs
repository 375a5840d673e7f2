//! What `backup_label` and the `.backup` file in the archive have in common: lines of `KEY: value`,
//! in a fixed order.

use std::fmt;

use crate::{Lsn, SegmentName, TimelineId};

/// The lines of a label that are still to be read.
pub(crate) struct Lines<'a> {
    rest: &'a str,
}

impl<'a> Lines<'a> {
    /// # Errors
    ///
    /// Fails when the last line has no end: the file was cut short.
    pub(crate) fn new(text: &'a str) -> Result<Self, LabelError> {
        if text.ends_with('\n') {
            Ok(Self { rest: text })
        } else {
            Err(LabelError::CutShort)
        }
    }

    /// The value of the next line, which has to carry `key`.
    pub(crate) fn value(&mut self, key: &'static str) -> Result<&'a str, LabelError> {
        self.optional(key).ok_or(LabelError::Missing { key })
    }

    /// The value of the next line, if it carries `key`.
    pub(crate) fn optional(&mut self, key: &str) -> Option<&'a str> {
        let (line, rest) = self.rest.split_once('\n')?;
        let value = line.strip_prefix(key)?.strip_prefix(": ")?;
        self.rest = rest;
        Some(value)
    }

    /// The value of the line `LABEL`, up to the last line that carries `next`.
    ///
    /// A label may hold newlines (`pg_basebackup --label`) and so anything that looks like another
    /// line. What PostgreSQL wrote itself comes after it, so the last line of that key is the true
    /// one.
    pub(crate) fn label_before(&mut self, next: &str) -> Result<&'a str, LabelError> {
        let missing = LabelError::Missing { key: "LABEL" };
        let Some(rest) = self.rest.strip_prefix("LABEL: ") else {
            return Err(missing);
        };
        let Some(end) = rest.rfind(&format!("\n{next}: ")) else {
            return Err(missing);
        };
        let (label, rest) = rest.split_at(end);
        self.rest = &rest[1..];
        Ok(label)
    }

    /// `0/3000028 (file 000000010000000000000003)`.
    pub(crate) fn location(&mut self, key: &'static str) -> Result<(Lsn, SegmentName), LabelError> {
        let value = self.value(key)?;
        let read = || {
            let (lsn, file) = value.strip_suffix(')')?.split_once(" (file ")?;
            Some((lsn.parse().ok()?, SegmentName::parse(file).ok()?))
        };
        read().ok_or(LabelError::Value { key })
    }

    pub(crate) fn lsn(&mut self, key: &'static str) -> Result<Lsn, LabelError> {
        self.value(key)?
            .parse()
            .map_err(|_| LabelError::Value { key })
    }

    pub(crate) fn timeline(&mut self, key: &'static str) -> Result<TimelineId, LabelError> {
        self.value(key)?
            .parse()
            .map_err(|_| LabelError::Value { key })
    }

    /// The two lines that PostgreSQL 17 and later append to an incremental backup.
    pub(crate) fn incremental(&mut self) -> Result<Option<(Lsn, TimelineId)>, LabelError> {
        const LSN: &str = "INCREMENTAL FROM LSN";
        let Some(lsn) = self.optional(LSN) else {
            return Ok(None);
        };
        let lsn = lsn.parse().map_err(|_| LabelError::Value { key: LSN })?;
        Ok(Some((lsn, self.timeline("INCREMENTAL FROM TLI")?)))
    }

    /// Checks that every line was read.
    pub(crate) fn end(self) -> Result<(), LabelError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(LabelError::TooMuch)
        }
    }
}

/// Why a text is not a `backup_label`, or not a backup history file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LabelError {
    /// The last line has no end.
    CutShort,
    /// The line of this key is not where it should be.
    Missing {
        /// The key.
        key: &'static str,
    },
    /// The line of this key has a value that PostgreSQL would not write.
    Value {
        /// The key.
        key: &'static str,
    },
    /// There are lines after the last that PostgreSQL writes.
    TooMuch,
}

impl fmt::Display for LabelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CutShort => f.write_str("the last line has no end"),
            Self::Missing { key } => write!(f, "line \"{key}\" is not where it should be"),
            Self::Value { key } => write!(
                f,
                "line \"{key}\" has a value that PostgreSQL does not write"
            ),
            Self::TooMuch => {
                f.write_str("there are lines after the last one that PostgreSQL writes")
            }
        }
    }
}

impl std::error::Error for LabelError {}
