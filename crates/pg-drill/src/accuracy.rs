//! Whether a restore ended at the right transaction.
//!
//! The judge is the archived WAL, read by `pg_waldump`: not the recovery that is being judged, and not
//! the server in production, which is not asked. The canary says where to read.

use std::collections::HashSet;
use std::ops::ControlFlow;

use anyhow::{Result, bail, ensure};
use archive::{Archive, Cluster};
use canary::Rows;
use cluster::{Client, Programs};
use jiff::Timestamp;
use wal::{Lsn, SegmentName, TimelineHistory};
use wal_scan::{Segment, Source, WalRecord};

use crate::moment::Moment;

/// The WAL to judge by.
pub struct Wal<'a> {
    pub archive: &'a Archive,
    pub cluster: &'a Cluster,
    pub programs: &'a Programs,
}

impl Wal<'_> {
    /// Compares the canaries of a copy, over a connection to their database, with the WAL up to
    /// `moment`, and returns the number of the last one. Nothing if the copy has none.
    ///
    /// # Errors
    ///
    /// Fails when the copy has more or fewer than it should, or when the recovery ended elsewhere than
    /// just before the first transaction that is later than `moment`.
    pub fn judge(
        &self,
        client: &mut Client,
        moment: &Moment,
        started_at: Lsn,
        ended_at: Lsn,
    ) -> Result<Option<i64>> {
        let Some(rows) = canary::read(client)? else {
            return Ok(None);
        };
        let mut judge = Judge::new(&rows, moment.time, started_at);
        wal_scan::scan(
            self.archive,
            self.cluster,
            self.programs,
            &self.segments_from(judge.from, moment)?,
            |record| Ok(judge.record(record)),
        )?;
        judge.verdict(ended_at)?;
        Ok(Some(rows.last))
    }

    /// The archived segments from the one with `lsn` on, on the way to the moment's timeline.
    fn segments_from(&self, lsn: Lsn, moment: &Moment) -> Result<Vec<Segment>> {
        let (_, contents) = verification::contents(self.archive, self.cluster)?;
        let history = contents
            .histories
            .get(&moment.timeline)
            .cloned()
            .unwrap_or_else(|| TimelineHistory::without_parents(moment.timeline));
        let size = contents.segment_size;
        let mut segments = Vec::new();
        let mut at = Some(SegmentName::containing(history.timeline_at(lsn), lsn, size));
        while let Some(name) = at {
            // The segment in which a timeline ends is whole under the name of the one that follows.
            let found = history.timelines().rev().find_map(|timeline| {
                let begin = history.begin_of(timeline)?;
                let left = history.switch_point_of(timeline);
                let name = name.with_timeline(timeline);
                (begin < name.end(size)
                    && left.is_none_or(|left| left > name.start(size))
                    && contents.segments.contains(&name))
                .then_some(name)
            });
            let Some(found) = found else { break };
            segments.push(Segment {
                name: found,
                source: Source::Archive,
            });
            at = found.next(size);
        }
        ensure!(
            !segments.is_empty(),
            "the archive lacks the WAL at {lsn}, in which the last canary was written"
        );
        Ok(segments)
    }
}

/// What the WAL says of the canaries.
struct Judge<'a> {
    rows: &'a Rows,
    moment: Option<Timestamp>,
    /// From where on the WAL is read: from the last canary of the copy, or from the start of its base
    /// backup, before which there need not be any WAL.
    from: Lsn,
    /// Transactions that have written a canary and have not ended yet.
    open: HashSet<u32>,
    /// Transactions that have committed a canary in time, from the last one of the copy on.
    committed: Vec<u32>,
    /// The end of the first transaction that is too late: where the record is, and the one before it.
    too_late: Option<(Lsn, Lsn)>,
}

impl<'a> Judge<'a> {
    fn new(rows: &'a Rows, moment: Option<Timestamp>, started_at: Lsn) -> Self {
        Self {
            rows,
            moment,
            from: rows.last_lsn.max(started_at),
            open: HashSet::new(),
            committed: Vec::new(),
            too_late: None,
        }
    }

    fn record(&mut self, record: &WalRecord<'_>) -> ControlFlow<()> {
        // The segment begins with what was there before the last canary.
        if record.lsn < self.from {
            return ControlFlow::Continue(());
        }
        if let Some(has_committed) = record.commits() {
            // Recovery stops before the first commit or abort that is later than its target:
            // `recoveryStopsBefore()` in `xlogrecovery.c`.
            let is_late = self
                .moment
                .is_some_and(|moment| record.transaction_time().is_some_and(|time| time > moment));
            if is_late {
                self.too_late = Some((record.lsn, record.previous));
                return ControlFlow::Break(());
            }
            let xid = record.ended_transaction();
            if self.open.remove(&xid) && has_committed {
                self.committed.push(xid);
            }
        } else if record.manager == "Heap"
            && record.description.starts_with("INSERT")
            && record.blocks.first().is_some_and(|block| {
                block.database == self.rows.database && block.file == self.rows.file
            })
        {
            self.open.insert(record.xid);
        }
        ControlFlow::Continue(())
    }

    fn verdict(&self, ended_at: Lsn) -> Result<()> {
        let Rows {
            last,
            last_written_at,
            last_transaction,
            ..
        } = self.rows;
        match self.committed.as_slice() {
            // The last canary was in the base backup.
            [] if self.from > self.rows.last_lsn => {}
            more if self.from > self.rows.last_lsn => bail!(
                "the copy ends with canary {last}, written at {last_written_at}, and the WAL has {} more before the target: the restore did not go far enough",
                more.len()
            ),
            [] => bail!(
                "the copy has canary {last}, written at {last_written_at} by transaction {last_transaction}, which the WAL does not have before the target: the restore went too far"
            ),
            [only] if only == last_transaction => {}
            [first, rest @ ..] if first == last_transaction => bail!(
                "the copy ends with canary {last}, written at {last_written_at}, and the WAL has {} more before the target: the restore did not go far enough",
                rest.len()
            ),
            [first, ..] => bail!(
                "the copy ends with canary {last} of transaction {last_transaction}, and in its place the WAL has one of transaction {first}: the copy is of another history"
            ),
        }
        if let Some((late, before)) = self.too_late {
            ensure!(
                before < ended_at && ended_at <= late,
                "the recovery ended at {ended_at}, and the first transaction after the target ends at {late}"
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOMENT: &str = "2026-11-21T11:50:00.500Z";

    fn rows(last_transaction: u32) -> Rows {
        Rows {
            first: 1,
            last: 7,
            last_written_at: "2026-11-21 11:50:00+00".into(),
            last_transaction,
            last_lsn: Lsn(0x100),
            database: 5,
            file: 16385,
        }
    }

    /// Judges a copy whose last canary is of `last_transaction`, by records of the form
    /// `Manager xid description`, each 0x100 after the one before.
    fn verdict(
        last_transaction: u32,
        ended_at: u64,
        records: &[(&str, u32, &str)],
    ) -> Result<(), String> {
        verdict_from(Lsn(0), last_transaction, ended_at, records)
    }

    fn verdict_from(
        started_at: Lsn,
        last_transaction: u32,
        ended_at: u64,
        records: &[(&str, u32, &str)],
    ) -> Result<(), String> {
        let rows = rows(last_transaction);
        let mut judge = Judge::new(&rows, Some(MOMENT.parse().unwrap()), started_at);
        for (number, (manager, xid, description)) in records.iter().enumerate() {
            let (lsn, previous) = ((number + 1) * 0x100, number * 0x100);
            let line = format!(
                "rmgr: {manager} len (rec/tot): 54/54, tx: {xid}, lsn: 0/{lsn:X}, prev 0/{previous:X}, desc: {description}"
            );
            if judge
                .record(&wal_scan::parse_line(&line).unwrap())
                .is_break()
            {
                break;
            }
        }
        judge.verdict(Lsn(ended_at)).map_err(|err| err.to_string())
    }

    const INSERT: &str = "INSERT off 1 flags 0x00, blkref #0: rel 1663/5/16385 blk 0";
    const FIRST: &str = "COMMIT 2026-11-21 11:50:00.000000 UTC";
    const AT_THE_MOMENT: &str = "COMMIT 2026-11-21 11:50:00.500000 UTC";
    const LATE: &str = "COMMIT 2026-11-21 11:50:00.500001 UTC";

    const RECORDS: [(&str, u32, &str); 6] = [
        ("Heap", 742, INSERT),
        ("Transaction", 742, FIRST),
        ("Heap", 743, INSERT),
        ("Transaction", 743, AT_THE_MOMENT),
        ("Heap", 744, INSERT),
        ("Transaction", 744, LATE),
    ];

    #[test]
    fn the_last_canary_before_the_target_is_right_and_the_one_before_it_is_not() {
        assert_eq!(verdict(743, 0x600, &RECORDS[2..]), Err("the recovery ended at 0/600, and the first transaction after the target ends at 0/400".into()));
        assert_eq!(verdict(743, 0x400, &RECORDS[2..]), Ok(()));
        let message = verdict(742, 0x300, &RECORDS).unwrap_err();
        assert!(
            message.ends_with(
                "the WAL has 1 more before the target: the restore did not go far enough"
            ),
            "{message}"
        );
    }

    #[test]
    fn a_canary_that_was_committed_a_microsecond_after_the_target_is_one_too_many() {
        let message = verdict(744, 0x300, &RECORDS[4..]).unwrap_err();
        assert!(message.ends_with("the restore went too far"), "{message}");
    }

    #[test]
    fn one_transaction_too_few_is_noticed_also_without_a_canary_in_it() {
        let records = [
            ("Heap", 742, INSERT),
            ("Transaction", 742, FIRST),
            ("Transaction", 743, AT_THE_MOMENT),
            ("Transaction", 744, LATE),
        ];
        assert_eq!(verdict(742, 0x400, &records), Ok(()));
        assert_eq!(verdict(742, 0x301, &records), Ok(()));
        for ended_at in [0x300, 0x401] {
            let message = verdict(742, ended_at, &records).unwrap_err();
            assert!(
                message.ends_with("the first transaction after the target ends at 0/400"),
                "{message}"
            );
        }
    }

    #[test]
    fn a_canary_from_before_the_base_backup_needs_no_wal_and_is_the_last_only_if_none_follows() {
        let from = Lsn(0x180);
        let none = [
            ("Heap", 742, INSERT),
            ("Transaction", 742, FIRST),
            ("Transaction", 744, LATE),
        ];
        assert_eq!(verdict_from(from, 742, 0x300, &none), Ok(()));
        let message = verdict_from(from, 741, 0x500, &RECORDS).unwrap_err();
        assert!(
            message.ends_with("has 1 more before the target: the restore did not go far enough"),
            "{message}"
        );
    }

    #[test]
    fn an_aborted_canary_does_not_count_and_one_of_another_history_does() {
        let aborted = [
            ("Heap", 742, INSERT),
            ("Transaction", 742, FIRST),
            ("Heap", 743, INSERT),
            ("Transaction", 743, "ABORT 2026-11-21 11:50:00.400000 UTC"),
            ("Transaction", 744, LATE),
        ];
        assert_eq!(verdict(742, 0x500, &aborted), Ok(()));
        let message = verdict(741, 0x500, &aborted).unwrap_err();
        assert!(
            message.ends_with("the copy is of another history"),
            "{message}"
        );
    }
}
