//! From records to what a person looks for: which commit dropped, emptied or changed what. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::Timestamp;
use wal::Lsn;

use crate::line::{Block, WalRecord};

/// `pg_class`, whose file has this number in a new database. A rewrite of the catalog itself, by
/// `VACUUM FULL pg_class`, gives it another one; then drops are reported as unspecified removals.
const PG_CLASS: u32 = 1259;

/// A committed transaction and what it did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Its transaction identifier.
    pub xid: u32,
    /// When it committed.
    pub time: Timestamp,
    /// Where its commit record is.
    pub lsn: Lsn,
    /// Where the record before that is: a recovery that ends there has everything but this commit.
    pub previous: Lsn,
    /// The relation files that it removed, without those that it had made itself.
    pub removed: Vec<Block>,
    /// Databases in which it removed entries of `pg_class`.
    pub dropped_in: BTreeSet<u32>,
    /// Databases in which it made new relation files.
    pub created_in: BTreeSet<u32>,
    /// Rows that it deleted and updated, by relation file.
    pub touched: BTreeMap<(u32, u32), Touched>,
}

/// How many rows of a relation a transaction changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Rows deleted.
    pub deleted: u64,
    /// Rows updated.
    pub updated: u64,
}

/// What one transaction has done so far.
#[derive(Debug, Default)]
struct Pending {
    created: Vec<Block>,
    dropped_in: BTreeSet<u32>,
    touched: BTreeMap<(u32, u32), Touched>,
}

/// Collects records into commits.
#[derive(Debug, Default)]
pub struct Events {
    pending: HashMap<u32, Pending>,
}

impl Events {
    /// Takes in the next record; returns a commit once it is complete.
    pub fn record(&mut self, record: &WalRecord<'_>) -> Option<Commit> {
        if let Some(committed) = record.commits() {
            let xid = record.ended_transaction();
            let mut whole = self.pending.remove(&xid).unwrap_or_default();
            for sub in record.subtransactions() {
                whole.add(self.pending.remove(&sub).unwrap_or_default());
            }
            if committed {
                whole.into_commit(xid, record)
            } else {
                None
            }
        } else {
            self.change(record);
            None
        }
    }

    fn change(&mut self, record: &WalRecord<'_>) {
        if record.xid == 0 {
            return;
        }
        if let Some(created) = record.created_file() {
            self.pending
                .entry(record.xid)
                .or_default()
                .created
                .push(created);
            return;
        }
        if record.manager != "Heap" {
            return;
        }
        let Some(block) = record.blocks.first() else {
            return;
        };
        let operation = record
            .description
            .split([' ', '+'])
            .next()
            .unwrap_or_default();
        let pending = self.pending.entry(record.xid).or_default();
        if block.file == PG_CLASS && operation == "DELETE" {
            pending.dropped_in.insert(block.database);
        }
        // Catalogs have numbers below 16384; what happens in them is reported as what it means.
        if block.file < FIRST_USER_OBJECT {
            return;
        }
        let touched = pending
            .touched
            .entry((block.database, block.file))
            .or_default();
        match operation {
            "DELETE" => touched.deleted += 1,
            "UPDATE" | "HOT_UPDATE" => touched.updated += 1,
            _ => {}
        }
    }
}

/// `FirstNormalObjectId` in `transam.h`.
const FIRST_USER_OBJECT: u32 = 16384;

impl Pending {
    fn add(&mut self, other: Pending) {
        self.created.extend(other.created);
        self.dropped_in.extend(other.dropped_in);
        for (relation, more) in other.touched {
            let touched = self.touched.entry(relation).or_default();
            touched.deleted += more.deleted;
            touched.updated += more.updated;
        }
    }

    fn into_commit(self, xid: u32, record: &WalRecord<'_>) -> Option<Commit> {
        Some(Commit {
            xid,
            time: record.transaction_time()?,
            lsn: record.lsn,
            previous: record.previous,
            removed: record
                .removed_files()
                .into_iter()
                .filter(|file| !self.created.contains(file))
                .collect(),
            dropped_in: self.dropped_in,
            created_in: self.created.iter().map(|file| file.database).collect(),
            touched: self
                .touched
                .into_iter()
                .filter(|(_, touched)| *touched != Touched::default())
                .collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse_line;

    /// Feeds records of the form `Manager xid description`, one address after the other.
    fn commits(records: &[(&str, u32, &str)]) -> Vec<Commit> {
        let mut events = Events::default();
        let mut found = Vec::new();
        for (number, (manager, xid, description)) in records.iter().enumerate() {
            let (lsn, previous) = ((number + 1) * 0x100, number * 0x100);
            let line = format!(
                "rmgr: {manager} len (rec/tot): 54/54, tx: {xid}, lsn: 0/{lsn:X}, prev 0/{previous:X}, desc: {description}"
            );
            found.extend(events.record(&parse_line(&line).unwrap()));
        }
        found
    }

    const COMMITTED: &str = "COMMIT 2026-11-21 11:50:00.000000 UTC";

    #[test]
    fn a_drop_is_seen_with_the_place_to_stop_before_it() {
        let found = commits(&[
            (
                "Heap",
                742,
                "DELETE off 3 flags 0x00, blkref #0: rel 1663/5/1259 blk 0",
            ),
            (
                "Transaction",
                742,
                &format!("{COMMITTED}; rels: base/5/16385; inval msgs: relcache 16385"),
            ),
        ]);
        assert_eq!(found.len(), 1);
        assert_eq!(
            found[0].removed,
            [Block {
                database: 5,
                file: 16385
            }]
        );
        assert!(found[0].dropped_in.contains(&5));
        assert_eq!((found[0].lsn, found[0].previous), (Lsn(0x200), Lsn(0x100)));
    }

    #[test]
    fn changes_of_subtransactions_count_for_their_parent_and_aborted_ones_do_not() {
        let delete = "DELETE off 3, blkref #0: rel 1663/5/16385 blk 0";
        let update = "HOT_UPDATE off 3, blkref #0: rel 1663/5/16385 blk 0";
        let found = commits(&[
            ("Heap", 742, delete),
            ("Heap", 743, delete),
            ("Heap", 744, delete),
            ("Heap", 743, update),
            ("Transaction", 744, "ABORT 2026-11-21 11:50:00.000000 UTC"),
            ("Heap", 750, delete),
            ("Transaction", 742, &format!("{COMMITTED}; subxacts: 743")),
            ("Transaction", 750, "ABORT 2026-11-21 11:50:00.000000 UTC"),
        ]);
        assert_eq!(found.len(), 1);
        assert_eq!(
            found[0].touched[&(5, 16385)],
            Touched {
                deleted: 2,
                updated: 1
            }
        );
    }

    #[test]
    fn a_file_that_the_transaction_made_itself_is_not_reported_as_removed() {
        let found = commits(&[
            ("Storage", 742, "CREATE base/5/16390"),
            (
                "Transaction",
                742,
                &format!("{COMMITTED}; rels: base/5/16390 base/5/16385"),
            ),
        ]);
        assert_eq!(
            found[0].removed,
            [Block {
                database: 5,
                file: 16385
            }]
        );
        assert!(found[0].created_in.contains(&5));
    }

    #[test]
    fn an_operation_that_initialises_its_page_counts() {
        let found = commits(&[
            (
                "Heap",
                742,
                "UPDATE+INIT off 3, blkref #0: rel 1663/5/16385 blk 0",
            ),
            ("Transaction", 742, COMMITTED),
        ]);
        assert_eq!(found[0].touched[&(5, 16385)].updated, 1);
    }
}
