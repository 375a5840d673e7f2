//! The canary: a row that is written in production again and again, and looked for in a restored copy.
//!
//! Each row has a sequence number, the time and the place in the WAL where it was written. The last
//! row of a copy says where in the archived WAL to look, and the WAL from there on says which row the
//! last one has to be.

use anyhow::{Context as _, Result, anyhow, ensure};
use cluster::{Client, Server};
use settings::Canary;
use wal::Lsn;

/// Name of the table.
const TABLE: &str = "public.canary";

/// Opens the canary of an instance for writing. Database and table are made if they are absent.
///
/// # Errors
///
/// Fails when the server does not answer, is a standby, or refuses.
pub fn open(server: &Server, canary: &Canary) -> Result<Client> {
    let mut client = server.connect("postgres")?;
    let is_there = client
        .query_opt(
            "select from pg_database where datname = $1",
            &[&canary.database],
        )
        .context("look for the database of the canary")?
        .is_some();
    if !is_there {
        let name = canary.database.replace('"', "\"\"");
        client
            .batch_execute(&format!("create database \"{name}\""))
            .and_then(|()| {
                client.batch_execute(&format!("revoke all on database \"{name}\" from public"))
            })
            .context("create the database of the canary")?;
    }
    drop(client);
    let mut client = server.connect(&canary.database)?;
    client
        .batch_execute(&format!(
            "set application_name = 'pg-canary';
             -- A standby that does not answer is no reason to stop; the local WAL is what counts.
             set synchronous_commit = local;
             set statement_timeout = '60s';
             set lock_timeout = '60s';
             create table if not exists {TABLE} (
                 sequence bigint primary key,
                 written_at timestamptz not null,
                 lsn pg_lsn not null
             )"
        ))
        .context("create the table of the canary")?;
    Ok(client)
}

/// Writes the next row, and deletes the one that is too many.
///
/// # Errors
///
/// Fails when the server refuses; then nothing was written.
pub fn write(client: &mut Client, canary: &Canary) -> Result<i64> {
    let kept = i64::from(canary.rows_kept);
    let mut transaction = client.transaction().context("begin a transaction")?;
    let sequence: i64 = transaction
        .query_one(
            &format!(
                "insert into {TABLE} (sequence, written_at, lsn)
                 select coalesce(max(sequence), 0) + 1, clock_timestamp(), pg_current_wal_insert_lsn()
                 from {TABLE}
                 returning sequence"
            ),
            &[],
        )
        .context("write the canary")?
        .get(0);
    transaction
        .execute(
            &format!("delete from {TABLE} where sequence <= $1"),
            &[&(sequence - kept)],
        )
        .context("delete old rows of the canary")?;
    transaction.commit().context("commit the canary")?;
    Ok(sequence)
}

/// The rows that a restored copy has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows {
    /// Number of the first row.
    pub first: i64,
    /// Number of the last row.
    pub last: i64,
    /// When the last row was written, in PostgreSQL's words.
    pub last_written_at: String,
    /// The transaction that wrote the last row.
    pub last_transaction: u32,
    /// Where the WAL was when the last row was written; the row itself comes after it.
    pub last_lsn: Lsn,
    /// The database, as it is called in the WAL.
    pub database: u32,
    /// The file of the table, as it is called in the WAL.
    pub file: u32,
}

/// Reads the rows of a copy, over a connection to the canary's database, and checks that they are a
/// chain without a gap. Nothing if there is no table, or no row in it.
///
/// # Errors
///
/// Fails when the server cannot be asked, when a number is missing, and when a later row is at an
/// earlier place in the WAL.
pub fn read(client: &mut Client) -> Result<Option<Rows>> {
    let there: Option<String> = client
        .query_one(&format!("select to_regclass('{TABLE}')::text"), &[])
        .context("look for the table of the canary")?
        .get(0);
    if there.is_none() {
        return Ok(None);
    }
    let row = client
        .query_one(
            &format!(
                "select min(sequence), max(sequence), count(*),
                        bool_and(coalesce(lsn > before, true))
                 from (select sequence, lsn, lag(lsn) over (order by sequence) as before
                       from {TABLE}) as rows"
            ),
            &[],
        )
        .context("read the canary")?;
    let (Some(first), Some(last)) = (row.get::<_, Option<i64>>(0), row.get::<_, Option<i64>>(1))
    else {
        return Ok(None);
    };
    let count: i64 = row.get(2);
    ensure!(
        last - first + 1 == count,
        "the chain of canaries is broken: rows {first} to {last} are {count} and not {}",
        last - first + 1
    );
    ensure!(
        row.get::<_, Option<bool>>(3).unwrap_or(true),
        "the chain of canaries is broken: a row between {first} and {last} was written before the one that it follows"
    );
    let row = client
        .query_one(
            &format!(
                "select written_at::text, xmin::text, lsn::text,
                        (select oid from pg_database where datname = current_database()),
                        pg_relation_filenode('{TABLE}')
                 from {TABLE} where sequence = $1"
            ),
            &[&last],
        )
        .context("read the last canary")?;
    Ok(Some(Rows {
        first,
        last,
        last_written_at: row.get(0),
        last_transaction: row
            .get::<_, String>(1)
            .parse()
            .map_err(|err| anyhow!("read the transaction of canary {last}: {err}"))?,
        last_lsn: cluster::lsn(&row.get::<_, String>(2))?,
        database: row.get(3),
        file: row.get(4),
    }))
}
