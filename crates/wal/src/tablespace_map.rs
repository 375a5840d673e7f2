//! `tablespace_map`, which tells PostgreSQL where the tablespaces of a base backup belong.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One tablespace of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tablespace {
    /// Its number, which is also the name of its link in `pg_tblspc`.
    pub oid: u32,
    /// The directory it had on the server that was backed up.
    pub path: String,
}

/// Reads the text of a `tablespace_map`: lines of number, space and path.
///
/// In a path, PostgreSQL writes a backslash before every newline, carriage return and backslash.
///
/// # Errors
///
/// Fails where PostgreSQL would stop with an error: a line without number and path, or a last line
/// without an end. A number that is listed twice is refused as well.
///
/// # Source
///
/// `read_tablespace_map()` in `xlogrecovery.c`, `do_pg_backup_start()` in `xlog.c`.
pub fn parse(text: &str) -> Result<Vec<Tablespace>, TablespaceMapError> {
    let mut tablespaces: Vec<Tablespace> = Vec::new();
    let mut line = String::new();
    let mut escaped = false;
    for c in text.chars() {
        match c {
            _ if escaped => {
                line.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            '\n' | '\r' => {
                // Nothing between "\r" and "\n".
                if line.is_empty() {
                    continue;
                }
                let number = tablespaces.len() + 1;
                let tablespace =
                    read_line(&line).ok_or(TablespaceMapError::Syntax { line: number })?;
                if tablespaces
                    .iter()
                    .any(|earlier| earlier.oid == tablespace.oid)
                {
                    return Err(TablespaceMapError::Twice {
                        oid: tablespace.oid,
                    });
                }
                tablespaces.push(tablespace);
                line.clear();
            }
            _ => line.push(c),
        }
    }
    if escaped || !line.is_empty() {
        return Err(TablespaceMapError::CutShort);
    }
    Ok(tablespaces)
}

fn read_line(line: &str) -> Option<Tablespace> {
    let (oid, path) = line.split_once(' ')?;
    if path.is_empty() || !oid.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(Tablespace {
        oid: oid.parse().ok().filter(|oid| *oid != 0)?,
        path: path.to_owned(),
    })
}

/// The text of a `tablespace_map`, as PostgreSQL writes it. A restore that moves tablespaces writes
/// its own.
#[must_use]
pub fn render(tablespaces: &[Tablespace]) -> String {
    let mut text = String::new();
    for tablespace in tablespaces {
        text.push_str(&tablespace.oid.to_string());
        text.push(' ');
        for c in tablespace.path.chars() {
            if matches!(c, '\n' | '\r' | '\\') {
                text.push('\\');
            }
            text.push(c);
        }
        text.push('\n');
    }
    text
}

/// Why a text is not a `tablespace_map`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TablespaceMapError {
    /// A line is not a number, a space and a path.
    Syntax {
        /// The line, counted from 1; an escaped newline does not end one.
        line: usize,
    },
    /// A tablespace is listed twice.
    Twice {
        /// Its number.
        oid: u32,
    },
    /// The last line has no end.
    CutShort,
}

impl fmt::Display for TablespaceMapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax { line } => write!(
                f,
                "line {line}: expected the number of a tablespace and a path"
            ),
            Self::Twice { oid } => write!(f, "tablespace {oid} is listed twice"),
            Self::CutShort => f.write_str("the last line has no end"),
        }
    }
}

impl std::error::Error for TablespaceMapError {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const REAL: &str = include_str!("../fixtures/15.20/tablespace_map");

    #[test]
    fn a_real_map_is_read_and_written_back_byte_for_byte() {
        let tablespaces = parse(REAL).unwrap();
        assert_eq!(
            tablespaces,
            [
                Tablespace {
                    oid: 16389,
                    path: "/srv/tablespaces/two\nlines\\x".into()
                },
                Tablespace {
                    oid: 16387,
                    path: "/srv/tablespaces/one".into()
                },
            ]
        );
        assert_eq!(render(&tablespaces), REAL);
    }

    #[test]
    fn a_map_without_tablespaces_is_empty() {
        assert_eq!(parse(""), Ok(vec![]));
        assert_eq!(render(&[]), "");
    }

    #[test]
    fn a_path_may_hold_spaces_and_lines_may_end_in_carriage_returns() {
        assert_eq!(
            parse("1 /a b \r\n2 /c\r\n").unwrap(),
            [
                Tablespace {
                    oid: 1,
                    path: "/a b ".into()
                },
                Tablespace {
                    oid: 2,
                    path: "/c".into()
                },
            ]
        );
    }

    #[test]
    fn each_defect_is_named() {
        for (text, message) in [
            ("16387 /a", "the last line has no end"),
            ("16387 /a\\\n", "the last line has no end"),
            (
                "1 /a\n16387\n",
                "line 2: expected the number of a tablespace and a path",
            ),
            (
                "16387 \n",
                "line 1: expected the number of a tablespace and a path",
            ),
            (
                "0 /a\n",
                "line 1: expected the number of a tablespace and a path",
            ),
            (
                "+1 /a\n",
                "line 1: expected the number of a tablespace and a path",
            ),
            (
                "4294967296 /a\n",
                "line 1: expected the number of a tablespace and a path",
            ),
            ("7 /a\n7 /b\n", "tablespace 7 is listed twice"),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), message, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn every_map_is_read_back_as_written(paths in proptest::collection::btree_map(1_u32.., "(?s)..{0,9}", 0..4)) {
            let tablespaces: Vec<_> = paths.into_iter().map(|(oid, path)| Tablespace { oid, path }).collect();
            prop_assert_eq!(parse(&render(&tablespaces)), Ok(tablespaces));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[0-9 a\\\\\\n\\r]{0,40}") {
            if let Ok(tablespaces) = parse(&text) {
                prop_assert_eq!(parse(&render(&tablespaces)), Ok(tablespaces));
            }
        }
    }
}
