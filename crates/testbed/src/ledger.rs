//! Writers that commit rows, and the book they keep about it.
//!
//! A row counts as committed once the server has acknowledged its `COMMIT`. For each the ledger keeps
//! where its commit record is in the WAL, so that it can say exactly which rows there were at any
//! address, time or transaction. Where the server was lost between `COMMIT` and its answer, the row is
//! in doubt: present and absent are both right.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use postgres::{Client, NoTls, SimpleQueryMessage};
use wal::{Lsn, TimelineId};

use crate::cluster::{Cluster, Commit};
use crate::random::Random;

/// How long a writer waits before it tries again what the server refused.
const RETRY: Duration = Duration::from_millis(50);

/// What the writers do. The default: four writers, one table `ledger`, 200 bytes a row, no pauses.
#[derive(Clone, Debug)]
pub struct LedgerOptions {
    /// How many writers there are, each with a connection of its own.
    pub writers: u32,
    /// The tables, made if they are not there; writer 0 writes to the first, and so on in turn.
    pub tables: Vec<String>,
    /// Length of the text in each row, in bytes.
    pub payload_bytes: usize,
    /// How long a writer rests after each row.
    pub rest: Duration,
}

impl Default for LedgerOptions {
    fn default() -> Self {
        Self {
            writers: 4,
            tables: vec!["ledger".into()],
            payload_bytes: 200,
            rest: Duration::ZERO,
        }
    }
}

/// Names one row.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Row {
    /// The table.
    pub table: String,
    /// Who wrote it.
    pub writer: u32,
    /// The writer's number for it, from 1 up. No number is used twice, not even after a restore.
    pub sequence: u64,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({}, {})", self.table, self.writer, self.sequence)
    }
}

/// What the ledger knows about one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The row.
    pub row: Row,
    /// Whether the server acknowledged the commit.
    pub acknowledged: bool,
    /// The transaction that wrote it.
    pub xid: u64,
    /// The timeline it was written on.
    pub timeline: TimelineId,
    /// An address that the commit record, if there is one, does not start before.
    pub not_before: Lsn,
    /// Where it was committed; missing when the server was lost before it could say.
    pub commit: Option<Commit>,
}

/// Which rows of one history to expect: those of the ancestors up to where each was left, and those of
/// the timeline itself up to `stop`.
#[derive(Clone, Debug)]
pub struct Until {
    /// Earlier timelines, oldest first, each with the address at which it was left, as in a history file.
    pub ancestors: Vec<(TimelineId, Lsn)>,
    /// The timeline that was recovered along.
    pub timeline: TimelineId,
    /// Where recovery stopped.
    pub stop: Stop,
}

/// Where recovery stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// At the end of the WAL.
    End,
    /// Before the record at or after this address. Exact for a restore point too: give the address
    /// that `pg_create_restore_point()` returned.
    Before(Lsn),
    /// As `recovery_target_lsn` with `recovery_target_inclusive` on or off.
    Lsn(Lsn, bool),
    /// As `recovery_target_time` with `recovery_target_inclusive` on or off.
    Time(jiff::Timestamp, bool),
    /// As `recovery_target_xid` with `recovery_target_inclusive` on or off. The transaction has to be
    /// one of the ledger's; for another use the [`Commit`] that it returned and [`Stop::Before`].
    Xid(u64, bool),
}

impl Until {
    /// The end of the WAL of timeline 1.
    #[must_use]
    pub fn end() -> Self {
        Self::on_first_timeline(Stop::End)
    }

    /// The record at `lsn` of timeline 1, exclusively.
    #[must_use]
    pub fn before(lsn: Lsn) -> Self {
        Self::on_first_timeline(Stop::Before(lsn))
    }

    /// `stop` on timeline 1.
    #[must_use]
    pub fn on_first_timeline(stop: Stop) -> Self {
        Self {
            ancestors: Vec::new(),
            timeline: TimelineId::FIRST,
            stop,
        }
    }
}

/// Running writers and what they committed. Dropping it stops them.
#[derive(Debug)]
pub struct Ledger {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    payload_bytes: usize,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    entries: Vec<Entry>,
    acknowledged: usize,
    orders: Orders,
    /// Writers that are between two transactions and see that they should be.
    resting: u32,
    failure: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Orders {
    #[default]
    Write,
    Pause,
    Stop,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn order(&self, orders: Orders) {
        self.lock().orders = orders;
        self.changed.notify_all();
    }

    /// Returns once the writer may write, or says that it should end.
    fn may_write(&self) -> bool {
        let mut state = self.lock();
        if state.orders == Orders::Pause {
            state.resting += 1;
            self.changed.notify_all();
            while state.orders == Orders::Pause {
                state = self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            state.resting -= 1;
        }
        state.orders == Orders::Write
    }

    /// Rests for `time`, or shorter if the orders change.
    fn rest(&self, time: Duration) {
        if time.is_zero() {
            return;
        }
        let state = self.lock();
        if state.orders == Orders::Write {
            drop(
                self.changed
                    .wait_timeout_while(state, time, |state| state.orders == Orders::Write)
                    .unwrap_or_else(PoisonError::into_inner),
            );
        }
    }
}

impl Ledger {
    pub(crate) fn start(cluster: &Cluster, options: &LedgerOptions) -> Result<Self> {
        if options.tables.is_empty() {
            bail!("a ledger needs a table");
        }
        let mut client = cluster.connect()?;
        install_reader(&mut client)?;
        for table in &options.tables {
            client
                .batch_execute(&format!(
                    "CREATE TABLE IF NOT EXISTS {table} (writer int, sequence bigint, payload text NOT NULL, PRIMARY KEY (writer, sequence))"
                ))
                .with_context(|| format!("create table \"{table}\""))?;
        }
        let directory = tempfile::Builder::new()
            .prefix("ledger-")
            .disable_cleanup(true)
            .tempdir_in(cluster.home())
            .context("make the directory of the ledger")?;
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let threads = (0..options.writers)
            .zip(options.tables.iter().cycle())
            .map(|(number, table)| {
                let mut writer = Writer {
                    shared: Arc::clone(&shared),
                    connection: cluster.connection(),
                    client: None,
                    book: create_book(directory.path(), number)?,
                    row: Row {
                        table: table.clone(),
                        writer: number,
                        sequence: 1,
                    },
                    payload_bytes: options.payload_bytes,
                    rest: options.rest,
                };
                std::thread::Builder::new()
                    .name(format!("ledger writer {number}"))
                    .spawn(move || writer.run())
                    .context("start a writer")
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            shared,
            threads: Mutex::new(threads),
            payload_bytes: options.payload_bytes,
        })
    }

    /// Waits until the writers have committed `count` more rows.
    ///
    /// # Errors
    ///
    /// Fails after [`crate::PATIENCE`], and when a writer met an error that is not the server's absence.
    pub fn wait_for_commits(&self, count: usize) -> Result<()> {
        let mut state = self.shared.lock();
        let goal = state.acknowledged + count;
        let begun = Instant::now();
        while state.acknowledged < goal {
            if let Some(failure) = &state.failure {
                bail!("{failure}");
            }
            if begun.elapsed() > crate::PATIENCE {
                bail!(
                    "the writers committed {} of {count} rows in {} seconds",
                    count - (goal - state.acknowledged),
                    crate::PATIENCE.as_secs()
                );
            }
            state = self
                .shared
                .changed
                .wait_timeout(state, Duration::from_millis(100))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        Ok(())
    }

    /// Lets the writers finish what they are at and rest; returns once no transaction is open.
    ///
    /// # Errors
    ///
    /// Fails when a writer met an error that is not the server's absence.
    pub fn pause(&self) -> Result<()> {
        self.shared.order(Orders::Pause);
        let writers = self.threads().len();
        crate::wait_until("every writer rests", || {
            let state = self.shared.lock();
            if let Some(failure) = &state.failure {
                bail!("{failure}");
            }
            Ok((state.resting as usize == writers).then_some(()))
        })
    }

    /// Lets the writers go on after [`Ledger::pause`].
    pub fn resume(&self) {
        self.shared.order(Orders::Write);
    }

    /// Lets the writers finish what they are at and ends them.
    ///
    /// # Errors
    ///
    /// Fails when a writer met an error that is not the server's absence.
    pub fn stop(&self) -> Result<()> {
        self.shared.order(Orders::Stop);
        for thread in self.threads().drain(..) {
            thread.join().map_err(|_| anyhow!("a writer panicked"))?;
        }
        match &self.shared.lock().failure {
            Some(failure) => bail!("{failure}"),
            None => Ok(()),
        }
    }

    fn threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything written so far, in the order in which the writers noted it.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        self.shared.lock().entries.clone()
    }

    /// How many commits were acknowledged so far.
    #[must_use]
    pub fn acknowledged(&self) -> usize {
        self.shared.lock().acknowledged
    }

    /// The rows that a cluster has that was recovered along one history.
    #[must_use]
    pub fn expected(&self, until: &Until) -> Expected {
        let state = self.shared.lock();
        let mut expected = self.nothing_expected(&state.entries);
        for (row, presence) in judge(&state.entries, until) {
            match presence {
                Presence::Certain => expected.rows.insert(row),
                Presence::InDoubt => expected.in_doubt.insert(row),
            };
        }
        expected
    }

    /// The acknowledged rows for which `present` says so; of the others, those that were not
    /// acknowledged may be there or not.
    #[must_use]
    pub fn expected_where(&self, present: impl Fn(&Entry) -> bool) -> Expected {
        let state = self.shared.lock();
        let mut expected = self.nothing_expected(&state.entries);
        for entry in &state.entries {
            if !entry.acknowledged {
                expected.in_doubt.insert(entry.row.clone());
            } else if present(entry) {
                expected.rows.insert(entry.row.clone());
            }
        }
        expected
    }

    fn nothing_expected(&self, entries: &[Entry]) -> Expected {
        Expected {
            rows: BTreeSet::new(),
            in_doubt: BTreeSet::new(),
            tables: entries
                .iter()
                .map(|entry| entry.row.table.clone())
                .collect(),
            payload_bytes: self.payload_bytes,
        }
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

enum Presence {
    Certain,
    InDoubt,
}

/// Says which rows are there, and which may be, on the history that `until` describes.
fn judge(entries: &[Entry], until: &Until) -> Vec<(Row, Presence)> {
    let on = |timeline| entries.iter().filter(move |e| e.timeline == timeline);
    let mut found = Vec::new();
    for (timeline, left_at) in &until.ancestors {
        found.extend(on(*timeline).filter_map(|e| judge_before(e, Some(*left_at))));
    }
    let own = || on(until.timeline);
    let start_of = |xid| {
        own()
            .filter_map(|e| e.commit)
            .find(|commit| commit.xid == xid)
            .map(|commit| commit.start)
    };
    // Everything but the two cases with a rest of doubt comes down to an address to stop before.
    let before = match until.stop {
        Stop::End => None,
        Stop::Before(lsn) | Stop::Lsn(lsn, false) => Some(lsn),
        Stop::Lsn(lsn, true) => {
            // The first record at or after the address is replayed as well. It is known to be a
            // commit only if it starts right there.
            let next = own().filter_map(|e| e.commit).map(|c| c.start);
            let next = next.filter(|start| *start >= lsn).min();
            if next == Some(lsn) {
                Some(after(lsn))
            } else {
                found.extend(
                    own()
                        .filter(|e| next.is_some() && e.commit.map(|c| c.start) == next)
                        .map(|e| (e.row.clone(), Presence::InDoubt)),
                );
                Some(lsn)
            }
        }
        // Commit times are not in the order of the WAL: the first commit past the time ends recovery,
        // and an earlier time behind it is not reached.
        Stop::Time(time, inclusive) => own()
            .filter_map(|e| e.commit)
            .filter(|c| c.time > time || (!inclusive && c.time == time))
            .map(|c| c.start)
            .min(),
        Stop::Xid(xid, inclusive) => {
            start_of(xid).map(|start| if inclusive { after(start) } else { start })
        }
    };
    found.extend(own().filter_map(|e| judge_before(e, before)));
    found
}

/// The next address: a record that starts at `lsn` starts before it, and no other does in addition.
fn after(lsn: Lsn) -> Lsn {
    lsn.checked_add(1).unwrap_or(lsn)
}

/// Whether `entry` is there when its timeline is replayed up to the address `before`, or to its end.
fn judge_before(entry: &Entry, before: Option<Lsn>) -> Option<(Row, Presence)> {
    let presence = match (entry.commit, before) {
        (Some(commit), Some(before)) => (commit.start < before).then_some(Presence::Certain),
        (None, Some(before)) if entry.not_before >= before => None,
        (Some(_), None) => Some(Presence::Certain),
        (None, None) if entry.acknowledged => Some(Presence::Certain),
        (None, _) => Some(Presence::InDoubt),
    };
    presence.map(|presence| (entry.row.clone(), presence))
}

/// The rows that a cluster should have, in the tables of one ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Rows that have to be there.
    pub rows: BTreeSet<Row>,
    /// Rows that may be there.
    pub in_doubt: BTreeSet<Row>,
    tables: BTreeSet<String>,
    payload_bytes: usize,
}

impl Expected {
    /// Adds what another ledger, of the same cluster, expects.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.rows.extend(other.rows);
        self.in_doubt.extend(other.in_doubt);
        self.tables.extend(other.tables);
        self
    }

    /// Reads the tables and compares every row, its text included.
    ///
    /// # Errors
    ///
    /// Fails when the server cannot be reached. A table that is not there has no rows.
    pub fn compare(&self, cluster: &Cluster) -> Result<Comparison> {
        let found = self.read(&mut cluster.connect()?)?;
        Ok(Comparison {
            present: found.keys().filter(|row| self.rows.contains(row)).count(),
            in_doubt_and_present: found
                .keys()
                .filter(|row| self.in_doubt.contains(row))
                .count(),
            missing: self
                .rows
                .iter()
                .filter(|row| !found.contains_key(row))
                .cloned()
                .collect(),
            extra: found
                .keys()
                .filter(|row| !self.rows.contains(row) && !self.in_doubt.contains(row))
                .cloned()
                .collect(),
            altered: found
                .iter()
                .filter(|(row, text)| **text != payload(row, self.payload_bytes))
                .map(|(row, _)| row.clone())
                .collect(),
        })
    }

    fn read(&self, client: &mut Client) -> Result<BTreeMap<Row, String>> {
        let mut found = BTreeMap::new();
        for table in &self.tables {
            let exists: bool = client
                .query_one("SELECT to_regclass($1) IS NOT NULL", &[table])
                .with_context(|| format!("look for table \"{table}\""))?
                .get(0);
            if !exists {
                continue;
            }
            let rows = client
                .query(
                    &format!("SELECT writer, sequence, payload FROM {table}"),
                    &[],
                )
                .with_context(|| format!("read table \"{table}\""))?;
            for row in rows {
                let name = Row {
                    table: table.clone(),
                    writer: u32::try_from(row.get::<_, i32>(0)).context("read a writer")?,
                    sequence: u64::try_from(row.get::<_, i64>(1)).context("read a sequence")?,
                };
                found.insert(name, row.get(2));
            }
        }
        Ok(found)
    }
}

/// How the rows of a cluster differ from those expected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// How many rows are there as they have to be.
    pub present: usize,
    /// How many rows are there of those that may be.
    pub in_doubt_and_present: usize,
    /// Rows that have to be there and are not.
    pub missing: Vec<Row>,
    /// Rows that are there and may not be.
    pub extra: Vec<Row>,
    /// Rows with another text than was committed.
    pub altered: Vec<Row>,
}

impl Comparison {
    /// Whether not a row is missing, too many or altered.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        self.missing.is_empty() && self.extra.is_empty() && self.altered.is_empty()
    }

    /// Returns itself if the rows are exactly those expected.
    ///
    /// # Errors
    ///
    /// Fails otherwise, naming the rows.
    pub fn expect_exact(self) -> Result<Self> {
        if self.is_exact() {
            return Ok(self);
        }
        bail!("{self}");
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} rows present, {} missing, {} too many, {} altered",
            self.present + self.in_doubt_and_present,
            self.missing.len(),
            self.extra.len(),
            self.altered.len()
        )?;
        for (what, rows) in [
            ("missing", &self.missing),
            ("too many", &self.extra),
            ("altered", &self.altered),
        ] {
            if let (Some(first), Some(last)) = (rows.first(), rows.last()) {
                write!(f, "\n{what}: {first} to {last}")?;
            }
        }
        Ok(())
    }
}

/// One thread that inserts rows, each in a transaction of its own.
struct Writer {
    shared: Arc<Shared>,
    connection: postgres::Config,
    client: Option<Client>,
    book: File,
    row: Row,
    payload_bytes: usize,
    rest: Duration,
}

impl Writer {
    fn run(&mut self) {
        while self.shared.may_write() {
            match self.write_one() {
                Ok(true) => self.shared.rest(self.rest),
                Ok(false) => self.shared.rest(RETRY),
                Err(err) => {
                    let mut state = self.shared.lock();
                    state
                        .failure
                        .get_or_insert_with(|| format!("writer {}: {err:#}", self.row.writer));
                    drop(state);
                    self.shared.changed.notify_all();
                    // A paused ledger counts who rests; a writer that failed rests for good.
                    while self.shared.may_write() {
                        self.shared.rest(Duration::from_secs(1));
                    }
                }
            }
        }
    }

    /// Commits the next row. Returns whether it used up its number; if not, nothing was committed and
    /// the same number is tried again: the server is away, in recovery, or has lost the table.
    fn write_one(&mut self) -> Result<bool> {
        let Some(mut client) = self.client.take().or_else(|| self.connect()) else {
            return Ok(false);
        };
        let insert = format!(
            "INSERT INTO {} VALUES ({}, {}, '{}')",
            self.row.table,
            self.row.writer,
            self.row.sequence,
            payload(&self.row, self.payload_bytes)
        );
        let Ok(open) = OpenTransaction::begin(&mut client, &insert) else {
            if client.batch_execute("ROLLBACK").is_ok() {
                self.client = Some(client);
            }
            return Ok(false);
        };
        let acknowledged = client.batch_execute("COMMIT").is_ok();
        let commit = if acknowledged {
            open.commit_record(&mut client).ok()
        } else {
            None
        };
        if commit.is_some() {
            self.client = Some(client);
        }
        self.note(Entry {
            row: self.row.clone(),
            acknowledged,
            xid: open.xid,
            timeline: open.timeline,
            not_before: open.not_before,
            commit,
        })?;
        self.row.sequence += 1;
        Ok(true)
    }

    fn connect(&self) -> Option<Client> {
        let mut client = self.connection.connect(NoTls).ok()?;
        client
            .batch_execute("SET synchronous_commit = on; SET application_name = 'ledger'")
            .ok()?;
        Some(client)
    }

    /// Writes the entry to the book, durably, and then lets it count.
    fn note(&mut self, entry: Entry) -> Result<()> {
        let mut line = format!(
            "{} {} {}",
            if entry.acknowledged {
                "committed"
            } else {
                "in-doubt"
            },
            entry.row,
            entry.xid
        );
        if let Some(commit) = entry.commit {
            write!(
                line,
                " {} {} {}",
                commit.timeline, commit.start, commit.time
            )?;
        }
        writeln!(self.book, "{line}").context("write to the ledger")?;
        self.book.sync_data().context("sync the ledger")?;
        let mut state = self.shared.lock();
        state.acknowledged += usize::from(entry.acknowledged);
        state.entries.push(entry);
        drop(state);
        self.shared.changed.notify_all();
        Ok(())
    }
}

fn create_book(directory: &Path, number: u32) -> Result<File> {
    let path = directory.join(format!("writer-{number}"));
    File::options()
        .create_new(true)
        .append(true)
        .open(&path)
        .with_context(|| format!("create \"{}\"", path.display()))
}

/// The text of a row: letters that look random and depend on the row alone.
fn payload(row: &Row, bytes: usize) -> String {
    let mut random = Random::new(u64::from(row.writer) << 48 ^ row.sequence);
    let mut text = String::with_capacity(bytes + 16);
    while text.len() < bytes {
        let _ = write!(text, "{:016x}", random.next_u64());
    }
    text.truncate(bytes);
    text
}

/// Installs what reads WAL records inside the server.
pub(crate) fn install_reader(client: &mut Client) -> Result<()> {
    client
        .batch_execute("CREATE EXTENSION IF NOT EXISTS pg_walinspect")
        .context("install pg_walinspect, which PostgreSQL has from version 15 on")
}

/// A transaction that has written and not yet committed.
pub(crate) struct OpenTransaction {
    xid: u64,
    timeline: TimelineId,
    not_before: Lsn,
}

impl OpenTransaction {
    /// Begins a transaction and runs `sql` in it.
    pub(crate) fn begin(client: &mut Client, sql: &str) -> Result<Self> {
        client.batch_execute("BEGIN").context("begin")?;
        client
            .batch_execute(sql)
            .with_context(|| format!("run {sql:.200}"))?;
        // The commit record cannot start before what was written up to here.
        let row = one_row(
            client,
            "SELECT pg_current_xact_id(), pg_current_wal_insert_lsn(), substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)",
        )?;
        Ok(Self {
            xid: row[0].parse().context("read a transaction id")?,
            not_before: row[1].parse().context("read an address")?,
            timeline: u32::from_str_radix(&row[2], 16)
                .ok()
                .and_then(TimelineId::new)
                .context("read a timeline")?,
        })
    }

    /// Finds the commit record of this transaction, which the server has just acknowledged.
    pub(crate) fn commit_record(&self, client: &mut Client) -> Result<Commit> {
        let row = one_row(
            client,
            &format!(
                "SELECT start_lsn, end_lsn, (extract(epoch FROM split_part(description, ';', 1)::timestamptz) * 1000000)::bigint \
                 FROM pg_get_wal_records_info('{}', pg_current_wal_flush_lsn()) \
                 WHERE xid = '{}' AND resource_manager = 'Transaction' AND record_type LIKE 'COMMIT%'",
                self.not_before,
                // The record has the lower 32 bits of the id.
                self.xid & u64::from(u32::MAX)
            ),
        )
        .with_context(|| format!("find the commit record of transaction {}", self.xid))?;
        Ok(Commit {
            xid: self.xid,
            timeline: self.timeline,
            start: row[0].parse().context("read an address")?,
            end: row[1].parse().context("read an address")?,
            time: jiff::Timestamp::from_microsecond(row[2].parse().context("read a time")?)
                .context("read a time")?,
        })
    }
}

/// Writes a time in the one form that every setting of PostgreSQL takes: `recovery_target_time` is read
/// before time zone names are known, so not even `Z` is possible.
#[must_use]
pub fn postgresql_time(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%S%.6f+00").to_string()
}

/// Runs a query of one row in a single round trip and returns its values as text.
fn one_row(client: &mut Client, sql: &str) -> Result<Vec<String>> {
    let messages = client.simple_query(sql).context("ask the server")?;
    let mut rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let (Some(row), None) = (rows.next(), rows.next()) else {
        bail!("the server did not answer with one row");
    };
    Ok((0..row.len())
        .map(|column| row.get(column).unwrap_or_default().to_owned())
        .collect())
}
