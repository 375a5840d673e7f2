//! The lines that `pg_waldump` prints. Pure.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use wal::Lsn;

/// One WAL record, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalRecord<'a> {
    /// Resource manager, as in `Heap`.
    pub manager: &'a str,
    /// Transaction that wrote it; 0 if none did.
    pub xid: u32,
    /// Where it is.
    pub lsn: Lsn,
    /// Where the record before it is.
    pub previous: Lsn,
    /// What it says, as in `DELETE off 3`.
    pub description: &'a str,
    /// The pages that it changes.
    pub blocks: Vec<Block>,
}

/// The relation that a page belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Database; 0 for shared relations.
    pub database: u32,
    /// Number of the relation's file.
    pub file: u32,
}

/// Reads a line of `pg_waldump`, or nothing if it is not about a record.
///
/// # Source
///
/// `XLogDumpDisplayRecord()` in `pg_waldump.c`, the same from PostgreSQL 13 to 18.
#[must_use]
pub fn parse_line(line: &str) -> Option<WalRecord<'_>> {
    let rest = line.strip_prefix("rmgr: ")?;
    let (manager, rest) = rest.split_once(' ')?;
    let (_, rest) = rest.split_once(", tx:")?;
    let (xid, rest) = rest.split_once(", lsn: ")?;
    let (lsn, rest) = rest.split_once(", prev ")?;
    let (previous, rest) = rest.split_once(", desc: ")?;
    let (description, blocks) = match rest.find(", blkref #") {
        Some(at) => (&rest[..at], &rest[at..]),
        None => (rest, ""),
    };
    Some(WalRecord {
        manager,
        xid: xid.trim().parse().ok()?,
        lsn: lsn.trim().parse().ok()?,
        previous: previous.trim().parse().ok()?,
        description: description.trim_end(),
        blocks: blocks
            .split(", blkref #")
            .filter_map(|part| {
                let (_, path) = part.split_once("rel ")?;
                let numbers = path.split(' ').next()?;
                let mut numbers = numbers.split('/');
                let _tablespace = numbers.next()?;
                Some(Block {
                    database: numbers.next()?.parse().ok()?,
                    file: numbers.next()?.parse().ok()?,
                })
            })
            .collect(),
    })
}

impl<'a> WalRecord<'a> {
    /// The time of a commit or abort record.
    ///
    /// `pg_waldump` prints the local time; we run it with `TZ=UTC`.
    #[must_use]
    pub fn transaction_time(&self) -> Option<Timestamp> {
        let (_, rest) = self.description.split_once(' ')?;
        // COMMIT_PREPARED and ABORT_PREPARED name their transaction first: `742: 2026-…`.
        let rest = match rest.split_once(": ") {
            Some((xid, rest)) if xid.bytes().all(|b| b.is_ascii_digit()) => rest,
            _ => rest,
        };
        let (time, _) = rest.split_once(" UTC")?;
        let time: DateTime = time.parse().ok()?;
        time.to_zoned(TimeZone::UTC)
            .ok()
            .map(|time| time.timestamp())
    }

    /// Whether this record ends a transaction, and if so whether by a commit.
    #[must_use]
    pub fn commits(&self) -> Option<bool> {
        if self.manager != "Transaction" {
            return None;
        }
        match self.description.split(' ').next()? {
            "COMMIT" | "COMMIT_PREPARED" => Some(true),
            "ABORT" | "ABORT_PREPARED" => Some(false),
            _ => None,
        }
    }

    /// The transaction that this record ends: its own, or the prepared one that it names.
    #[must_use]
    pub fn ended_transaction(&self) -> u32 {
        self.description
            .strip_prefix("COMMIT_PREPARED ")
            .or_else(|| self.description.strip_prefix("ABORT_PREPARED "))
            .and_then(|rest| rest.split(':').next()?.parse().ok())
            .unwrap_or(self.xid)
    }

    /// The values that follow `label` in a commit record, up to the next semicolon.
    fn list(&self, label: &str) -> impl Iterator<Item = &'a str> {
        self.description
            .split("; ")
            .find_map(|part| part.strip_prefix(label))
            .unwrap_or_default()
            .split_whitespace()
    }

    /// The subtransactions that committed with this one.
    #[must_use]
    pub fn subtransactions(&self) -> Vec<u32> {
        self.list("subxacts: ")
            .filter_map(|xid| xid.parse().ok())
            .collect()
    }

    /// The relation files that this commit removed.
    #[must_use]
    pub fn removed_files(&self) -> Vec<Block> {
        self.list("rels: ").filter_map(file_of_path).collect()
    }

    /// The relation file that a `Storage` record created.
    #[must_use]
    pub fn created_file(&self) -> Option<Block> {
        (self.manager == "Storage")
            .then(|| self.description.strip_prefix("CREATE "))
            .flatten()
            .and_then(file_of_path)
    }

    /// The name of a restore point, if this record is one.
    #[must_use]
    pub fn restore_point(&self) -> Option<&'a str> {
        (self.manager == "XLOG")
            .then(|| self.description.strip_prefix("RESTORE_POINT "))
            .flatten()
    }
}

/// Reads `base/5/16385` and `pg_tblspc/16400/PG_15_202209061/5/16385`.
fn file_of_path(path: &str) -> Option<Block> {
    let mut parts = path.trim_end_matches(';').rsplit('/');
    let file = parts.next()?.parse().ok()?;
    let database = match parts.next()? {
        "global" => 0,
        database => database.parse().ok()?,
    };
    Some(Block { database, file })
}

#[cfg(test)]
mod tests {
    use super::*;

    // Captured from pg_waldump 15.18.
    const COMMIT: &str = "rmgr: Transaction len (rec/tot):    405/   405, tx:        742, lsn: 0/01947D88, prev 0/01947D50, desc: COMMIT 2026-11-21 11:50:00.123456 UTC; rels: base/5/16385 base/5/16388; subxacts: 743 744; inval msgs: catcache 80 catcache 79 relcache 16385";
    const DELETE: &str = "rmgr: Heap        len (rec/tot):     54/    54, tx:        742, lsn: 0/01947C00, prev 0/01947BC8, desc: DELETE off 3 flags 0x00 KEYS_UPDATED , blkref #0: rel 1663/5/1259 blk 0";
    // From pg_waldump 17.
    const DELETE_17: &str = "rmgr: Heap        len (rec/tot):     54/   150, tx:        742, lsn: 0/01947C00, prev 0/01947BC8, desc: DELETE xmax: 742, off: 3, infobits: [KEYS_UPDATED], flags: 0x00, blkref #0: rel 1663/5/1259 blk 0 FPW, blkref #1: rel 1663/5/2662 blk 1";

    #[test]
    fn a_commit_says_when_and_what_it_removed() {
        let record = parse_line(COMMIT).unwrap();
        assert_eq!((record.manager, record.xid), ("Transaction", 742));
        assert_eq!(record.lsn, Lsn(0x0194_7D88));
        assert_eq!(record.previous, Lsn(0x0194_7D50));
        assert_eq!(record.commits(), Some(true));
        assert_eq!(
            record.transaction_time().unwrap().to_string(),
            "2026-11-21T11:50:00.123456Z"
        );
        assert_eq!(record.subtransactions(), [743, 744]);
        assert_eq!(
            record.removed_files(),
            [
                Block {
                    database: 5,
                    file: 16385
                },
                Block {
                    database: 5,
                    file: 16388
                }
            ]
        );
    }

    #[test]
    fn a_change_says_which_relation() {
        assert_eq!(
            parse_line(DELETE).unwrap().blocks,
            [Block {
                database: 5,
                file: 1259
            }]
        );
        assert_eq!(parse_line(DELETE_17).unwrap().blocks.len(), 2);
        assert!(
            parse_line(DELETE_17)
                .unwrap()
                .description
                .starts_with("DELETE ")
        );
    }

    #[test]
    fn files_in_tablespaces_and_shared_ones_are_read() {
        assert_eq!(
            file_of_path("pg_tblspc/16400/PG_15_202209061/5/16385"),
            Some(Block {
                database: 5,
                file: 16385
            })
        );
        assert_eq!(
            file_of_path("global/1262"),
            Some(Block {
                database: 0,
                file: 1262
            })
        );
        assert_eq!(file_of_path("base/5/t3_16385"), None);
    }

    #[test]
    fn a_prepared_transaction_is_the_one_that_ends() {
        let line = "rmgr: Transaction len (rec/tot): 58/58, tx: 0, lsn: 0/01947D88, prev 0/01947D50, desc: COMMIT_PREPARED 751: 2026-11-21 11:50:00.123456 UTC";
        let record = parse_line(line).unwrap();
        assert_eq!(record.ended_transaction(), 751);
        assert!(record.transaction_time().is_some());
    }

    #[test]
    fn other_lines_are_passed_over() {
        assert_eq!(
            parse_line("first record is after 0/1000000, at 0/1000028, skipping over 40 bytes"),
            None
        );
        assert_eq!(parse_line(""), None);
        assert_eq!(parse_line("rmgr: Heap"), None);
    }
}
