//! What the server says of itself.

use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use cluster::{Answer, Client};
use settings::Postgresql;

use crate::seen::{Archiving, Drift, Live, Recovery, Seen, Server, Slot, Unseen};

/// Before anything is asked: names are looked for in the system catalog only, as the database may belong
/// to somebody whose functions must not run here; and nothing is waited for or changed.
const SESSION: &str = "set search_path = pg_catalog, pg_temp;
    set statement_timeout = '30s';
    set lock_timeout = '10s';
    set default_transaction_read_only = on";

/// The first major version that notes the version of a database's own collation.
const DATABASE_COLLATION_MAJOR: u32 = 15;
/// The first major version that shows its archiver among its processes.
const VISIBLE_ARCHIVER_MAJOR: u32 = 14;
/// The first major version with `archive_library`.
const ARCHIVE_LIBRARY_MAJOR: u32 = 15;

/// Asks the server everything.
pub fn look(settings: &Postgresql) -> Server {
    let server = cluster::Server::new(settings);
    let signalled = |name: &str| settings.data_directory.join(name).exists();
    match server.knock("postgres") {
        Answer::Open(mut client) => match ask(&server, &mut client, &settings.data_directory) {
            Ok(live) => Server::Up(Box::new(live)),
            Err(err) => Server::Mute(err.into()),
        },
        Answer::NotYet => Server::NotYet {
            signalled: signalled("standby.signal") || signalled("recovery.signal"),
        },
        Answer::No(err) => Server::Down(err.into()),
    }
}

fn ask(server: &cluster::Server, client: &mut Client, data_directory: &Path) -> Result<Live> {
    client.batch_execute(SESSION).context("begin a session")?;
    let identity = cluster::Server::identify(client)?;
    let (connections, started) = connections(client)?;
    Ok(Live {
        system_identifier: identity.system_identifier,
        timeline: identity.timeline,
        started,
        recovery: if identity.in_recovery {
            Some(recovery(client, data_directory)?)
        } else {
            None
        },
        fsync: client
            .query_one("select current_setting('fsync')::bool", &[])
            .context("ask whether the server syncs what it writes")?
            .get(0),
        archiving: archiving(client, identity.major, identity.archive_mode)?,
        position: if identity.in_recovery {
            None
        } else {
            Some(position(client)?)
        },
        connections,
        oldest_transaction: oldest_transaction(client)?,
        deadlocks: client
            .query_one(
                "select coalesce(sum(deadlocks), 0)::int8 from pg_stat_database",
                &[],
            )
            .context("count the deadlocks")?
            .get(0),
        checksum_failures: client
            .query(
                "select coalesce(datname, ''), checksum_failures from pg_stat_database
                 where checksum_failures > 0 order by datname",
                &[],
            )
            .context("count the checksum failures")?
            .iter()
            .map(|row| (row.get(0), row.get(1)))
            .collect(),
        ages: client
            .query(
                "select datname::text, age(datfrozenxid)::int8, mxid_age(datminmxid)::int8
                 from pg_database order by datname",
                &[],
            )
            .context("ask for the ages of transaction ids")?
            .iter()
            .map(|row| (row.get(0), row.get(1), row.get(2)))
            .collect(),
        standbys: standbys(client)?,
        slots: slots(client)?,
        collations: collations(server, client, identity.major)?,
    })
}

fn connections(client: &mut Client) -> Result<((i64, i64), f64)> {
    let row = client
        .query_one(
            "select (select count(*) from pg_stat_activity where backend_type = 'client backend'),
                    current_setting('max_connections')::int8,
                    extract(epoch from pg_postmaster_start_time())::float8",
            &[],
        )
        .context("count the connections")?;
    Ok(((row.get(0), row.get(1)), row.get(2)))
}

fn recovery(client: &mut Client, data_directory: &Path) -> Result<Recovery> {
    // The newest commit is old on a quiet day; it is behind only if there is WAL to replay.
    let row = client
        .query_one(
            "select pg_is_wal_replay_paused(),
                    case when coalesce(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())
                              = pg_last_wal_replay_lsn() then 0
                         else coalesce(extract(epoch from clock_timestamp() - pg_last_xact_replay_timestamp()), 0)
                    end::float8",
            &[],
        )
        .context("ask how recovery goes")?;
    Ok(Recovery {
        standby: data_directory.join("standby.signal").exists(),
        targeted: data_directory.join("recovery.signal").exists(),
        paused: row.get(0),
        lag_seconds: row.get(1),
    })
}

fn archiving(client: &mut Client, major: u32, mode: String) -> Result<Archiving> {
    let library = if major >= ARCHIVE_LIBRARY_MAJOR {
        "current_setting('archive_library')"
    } else {
        "''"
    };
    let row = client
        .query_one(
            &format!(
                "select current_setting('archive_command') not in ('', '(disabled)') or {library} <> '',
                        extract(epoch from current_setting('archive_timeout')::interval)::int8,
                        archived_count, failed_count,
                        last_archived_wal, extract(epoch from last_archived_time)::float8,
                        last_failed_wal, extract(epoch from last_failed_time)::float8,
                        (select extract(epoch from max(backend_start))::float8
                         from pg_stat_activity where backend_type = 'archiver')
                 from pg_stat_archiver"
            ),
            &[],
        )
        .context("ask how archiving goes")?;
    let file = |name: usize, time: usize| -> Option<(String, f64)> {
        Some((
            row.get::<_, Option<String>>(name)?,
            row.get::<_, Option<f64>>(time)?,
        ))
    };
    Ok(Archiving {
        mode,
        has_command: row.get(0),
        timeout_seconds: row.get(1),
        archived: row.get(2),
        failed: row.get(3),
        last_archived: file(4, 5),
        last_failed: file(6, 7),
        archiver_started: row.get(8),
        archiver_is_visible: major >= VISIBLE_ARCHIVER_MAJOR,
    })
}

fn position(client: &mut Client) -> Result<(wal::Lsn, u64)> {
    let row = client
        .query_one(
            "select pg_current_wal_insert_lsn()::text, pg_snapshot_xmax(pg_current_snapshot())::text",
            &[],
        )
        .context("ask how far WAL was written")?;
    let next: String = row.get(1);
    Ok((
        cluster::lsn(row.get(0))?,
        next.parse()
            .with_context(|| format!("read the transaction id \"{next}\""))?,
    ))
}

fn oldest_transaction(client: &mut Client) -> Result<Option<(f64, String)>> {
    let row = client
        .query_opt(
            "select seconds, what from (
                select extract(epoch from clock_timestamp() - xact_start)::float8 as seconds,
                       format('process %s of role \"%s\" in database \"%s\" (%s)', pid, usename, datname, state) as what
                from pg_stat_activity
                where xact_start is not null and backend_type = 'client backend' and pid <> pg_backend_pid()
                union all
                select extract(epoch from clock_timestamp() - prepared)::float8,
                       format('prepared transaction \"%s\" of role \"%s\" in database \"%s\"', gid, owner, database)
                from pg_prepared_xacts
             ) open order by seconds desc limit 1",
            &[],
        )
        .context("look for open transactions")?;
    Ok(row.map(|row| (row.get(0), row.get(1))))
}

/// Standbys, not the base backups and WAL receivers that come and go.
fn standbys(client: &mut Client) -> Result<Vec<(String, f64)>> {
    // replay_lag stays at its last value when a standby has stopped answering.
    let rows = client
        .query(
            "select coalesce(nullif(application_name, ''), client_addr::text, pid::text),
                    greatest(coalesce(extract(epoch from replay_lag), 0),
                             case when replay_lsn < sent_lsn
                                  then coalesce(extract(epoch from clock_timestamp() - reply_time), 0)
                                  else 0 end)::float8
             from pg_stat_replication
             where state <> 'backup' and application_name <> 'pg_basebackup'
             order by 1",
            &[],
        )
        .context("ask for the standbys")?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

fn slots(client: &mut Client) -> Result<Vec<Slot>> {
    let rows = client
        .query(
            "select slot_name::text, active, coalesce(wal_status, ''),
                    greatest(coalesce(pg_wal_lsn_diff(
                        case when pg_is_in_recovery() then pg_last_wal_replay_lsn()
                             else pg_current_wal_insert_lsn() end,
                        restart_lsn), 0), 0)::int8
             from pg_replication_slots where not temporary order by 1",
            &[],
        )
        .context("ask for the replication slots")?;
    rows.iter()
        .map(|row| {
            Ok(Slot {
                name: row.get(0),
                active: row.get(1),
                status: row.get(2),
                retained_bytes: u64::try_from(row.get::<_, i64>(3))?,
            })
        })
        .collect()
}

fn collations(
    server: &cluster::Server,
    client: &mut Client,
    major: u32,
) -> Result<Vec<(String, Seen<Drift>)>> {
    let version = if major >= DATABASE_COLLATION_MAJOR {
        "datcollversion, pg_database_collation_actual_version(oid)"
    } else {
        "null::text, null::text"
    };
    let rows = client
        .query(
            &format!(
                "select datname::text, {version} from pg_database where datallowconn order by 1"
            ),
            &[],
        )
        .context("ask for the collations of the databases")?;
    Ok(rows
        .iter()
        .map(|row| {
            let database: String = row.get(0);
            let noted: Option<String> = row.get(1);
            let actual: Option<String> = row.get(2);
            let own = noted
                .filter(|noted| actual.as_ref() != Some(noted))
                .map(|noted| {
                    format!(
                        "its own, version {noted} when it was built, {} now",
                        actual.as_deref().unwrap_or("unknown")
                    )
                });
            let seen = drift(server, &database, own.as_deref()).map_err(Unseen::from);
            (database, seen)
        })
        .collect())
}

/// What in one database was built with another collation; `own` tells of the database's own one.
fn drift(server: &cluster::Server, database: &str, own: Option<&str>) -> Result<Drift> {
    /// `pg_collation`: the collation `default`, which is the database's own.
    const DEFAULT: u32 = 100;
    let mut client = server.connect(database)?;
    client.batch_execute(SESSION).context("begin a session")?;
    let is_outdated = "c.collversion is not null and c.collversion is distinct from pg_collation_actual_version(c.oid)";
    // Only collations that an index uses are looked at: there are hundreds of others, and each takes
    // the operating system a while to open.
    let rows = client
        .query(
            &format!(
                "with used as (
                    select i.indexrelid, i.indisexclusion, c.oid as coll
                    from pg_index i, unnest(i.indcollation::oid[]) as c(oid)
                    where c.oid <> 0
                 ), outdated as (
                    select c.oid, format('%I.%I', n.nspname, c.collname) as name,
                           c.collversion as noted, pg_collation_actual_version(c.oid) as actual
                    from pg_collation c join pg_namespace n on n.oid = c.collnamespace
                    where c.oid in (select coll from used) and c.oid <> $1 and {is_outdated}
                 )
                 select format('%I.%I', n.nspname, r.relname), bool_or(u.indisexclusion),
                        array_agg(distinct o.name) filter (where o.name is not null),
                        array_agg(distinct format('%s, version %s when it was built, %s now',
                            o.name, o.noted, coalesce(o.actual, 'unknown'))) filter (where o.name is not null)
                 from used u
                 join pg_class r on r.oid = u.indexrelid
                 join pg_namespace n on n.oid = r.relnamespace
                 left join outdated o on o.oid = u.coll
                 where r.relkind = 'i' and (o.oid is not null or ($2 and u.coll = $1))
                 group by 1 order by 1"
            ),
            &[&DEFAULT, &own.is_some()],
        )
        .with_context(|| format!("look for indexes with other collations in database \"{database}\""))?;
    let mut statements: Vec<String> = Vec::new();
    let mut names: Vec<String> = Vec::new();
    let mut described: Vec<String> = own.map(ToOwned::to_owned).into_iter().collect();
    for row in &rows {
        // An index of an exclusion constraint cannot be rebuilt beside the old one.
        let how = if row.get(1) { "" } else { "concurrently " };
        statements.push(format!("reindex index {how}{};", row.get::<_, String>(0)));
        names.extend(row.get::<_, Option<Vec<String>>>(2).unwrap_or_default());
        described.extend(row.get::<_, Option<Vec<String>>>(3).unwrap_or_default());
    }
    for list in [&mut names, &mut described] {
        list.sort();
        list.dedup();
    }
    let indexes = statements.len();
    for name in names {
        statements.push(format!("alter collation {name} refresh version;"));
    }
    if own.is_some() {
        let quoted: String = client
            .query_one("select quote_ident($1)", &[&database])
            .map_err(|err| anyhow!(err))
            .context("quote the name of a database")?
            .get(0);
        statements.push(format!(
            "alter database {quoted} refresh collation version;"
        ));
    }
    Ok(Drift {
        collations: described,
        statements,
        indexes,
    })
}
