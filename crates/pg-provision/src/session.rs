//! Sessions with the server that leave no traces of what they do, and SQL whose names are quoted by
//! the server.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use postgres::config::Config;
use postgres::error::SqlState;
use postgres::{Client, NoTls};
use settings::Postgresql;
use tool::{Hinted, Level, WithHint as _};

use crate::change::Statement;

/// Parameters of the sessions of our own role, from their first moment on.
///
/// A verifier that the server logs can be used to guess the password offline, so nothing that
/// these sessions say is logged, shown in `pg_stat_activity` or counted by `pg_stat_statements`. A search path
/// of its own keeps what others have put into a database from being called by a name that is meant to
/// be PostgreSQL's. The others undo what `ALTER ROLE` and `ALTER DATABASE` may have set.
const PARAMETERS: [(&str, &str); 15] = [
    ("search_path", "pg_catalog"),
    ("log_statement", "none"),
    ("log_min_error_statement", "panic"),
    ("log_min_duration_statement", "-1"),
    ("log_duration", "off"),
    ("track_activities", "off"),
    ("auto_explain.log_min_duration", "-1"),
    ("pg_stat_statements.track", "none"),
    ("default_transaction_read_only", "off"),
    ("row_security", "on"),
    ("session_replication_role", "origin"),
    ("statement_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("jit", "off"),
    ("client_min_messages", "warning"),
];

/// How long to wait before the server is asked again.
const PAUSE: Duration = Duration::from_millis(200);
/// The first key of the advisory lock; the second is the program's.
const LOCK: (i32, i32) = (0x0062_6163, 0x0070_726f);

/// Where the server is.
#[derive(Clone, Debug)]
pub struct Address<'a> {
    server: &'a Postgresql,
    lock_deadline: Duration,
}

impl<'a> Address<'a> {
    /// The server of `settings`, whose sessions wait at most `lock_deadline` for a lock.
    #[must_use]
    pub fn new(server: &'a Postgresql, lock_deadline: Duration) -> Self {
        Self {
            server,
            lock_deadline,
        }
    }

    /// Our own role.
    #[must_use]
    pub fn own_role(&self) -> &'a str {
        &self.server.role
    }

    fn config(&self, role: &str, database: &str) -> Config {
        let mut config = Config::new();
        config
            .host_path(&self.server.socket_directory)
            .port(self.server.port)
            .user(role)
            .dbname(database)
            .application_name("pg-provision")
            .connect_timeout(Duration::from_secs(10));
        config
    }

    /// Opens a session of our own role.
    ///
    /// # Errors
    ///
    /// Fails when the server does not answer or refuses.
    pub fn connect(&self, database: &str) -> Result<Client> {
        self.try_connect(database)
            .map_err(|err| self.could_not(&err, self.own_role(), database))
    }

    fn try_connect(&self, database: &str) -> Result<Client, postgres::Error> {
        let mut options = String::new();
        let lock_timeout = format!("{}", self.lock_deadline.as_millis());
        for (name, value) in PARAMETERS
            .into_iter()
            .chain([("lock_timeout", lock_timeout.as_str())])
        {
            options.push_str("-c ");
            options.push_str(name);
            options.push('=');
            options.push_str(value);
            options.push(' ');
        }
        self.config(self.own_role(), database)
            .options(options.trim_end())
            .connect(NoTls)
    }

    /// Opens a session of a database's owner, in which what an application has put there has no more
    /// rights than the application.
    ///
    /// # Errors
    ///
    /// Fails when the server does not answer or refuses.
    pub fn connect_as(&self, role: &str, database: &str) -> Result<Client> {
        if role == self.own_role() {
            return self.connect(database);
        }
        self.config(role, database)
            .connect(NoTls)
            .map_err(|err| self.could_not(&err, role, database))
            .with_hint(|| {
                format!(
                    "SQL of a database runs in a session of its owner, so pg_hba.conf has to let this program in over the socket as role \"{role}\""
                )
            })
    }

    fn could_not(&self, err: &postgres::Error, role: &str, database: &str) -> anyhow::Error {
        Hinted::new(
            format!(
                "connect as role \"{role}\" to database \"{database}\" at \"{}\", port {}: {}",
                self.server.socket_directory.display(),
                self.server.port,
                message_of(err)
            ),
            "is the server running, and may this user connect over the socket?",
        )
        .into()
    }

    /// Opens a session once the server answers and has left recovery.
    ///
    /// # Errors
    ///
    /// Fails when it has not by `deadline`, and at once when it refuses the role.
    pub fn wait_until_ready(&self, database: &str, deadline: Duration) -> Result<Client> {
        let begun = Instant::now();
        let mut told = false;
        let mut tell = |what: &str| {
            if !told {
                tool::log(Level::Info, format_args!("waiting: {what}"));
                told = true;
            }
        };
        loop {
            let state = match self.try_connect(database) {
                Ok(mut client) => {
                    let in_recovery: bool = client
                        .query_one("SELECT pg_is_in_recovery()", &[])
                        .context("ask whether the server is in recovery")?
                        .get(0);
                    if !in_recovery {
                        return Ok(client);
                    }
                    "the server is in recovery".to_owned()
                }
                Err(err) if may_come_up(&err) => {
                    format!("the server does not answer: {}", message_of(&err))
                }
                Err(err) => return Err(self.could_not(&err, self.own_role(), database)),
            };
            if begun.elapsed() >= deadline {
                return Err(Hinted::new(
                    format!("{state}, and that for {} seconds", deadline.as_secs()),
                    "databases and roles are as they were; start this again once the server is up",
                )
                .into());
            }
            tell(&state);
            std::thread::sleep(PAUSE);
        }
    }
}

/// Whether a server that refused like this may come up.
fn may_come_up(err: &postgres::Error) -> bool {
    match err.code() {
        Some(code) => *code == SqlState::CANNOT_CONNECT_NOW,
        // Nothing was said: no socket yet, or nobody behind it.
        None => std::error::Error::source(err).is_some_and(|source| {
            source.downcast_ref::<std::io::Error>().is_some()
                || source.to_string().contains("connection closed")
        }),
    }
}

/// What the server said, or why it could not be asked.
#[must_use]
pub fn message_of(err: &postgres::Error) -> String {
    if let Some(said) = err.as_db_error() {
        let mut message = said.message().to_owned();
        for more in [said.detail(), said.hint()].into_iter().flatten() {
            message.push_str("; ");
            message.push_str(more);
        }
        return message;
    }
    std::error::Error::source(err).map_or_else(|| err.to_string(), ToString::to_string)
}

/// A refusal of the server.
#[derive(Debug)]
struct Refused {
    what: String,
    code: Option<SqlState>,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Refused {}

/// Says what could not be done, in the server's words.
pub fn failed(err: &postgres::Error, what: impl fmt::Display) -> anyhow::Error {
    Refused {
        what: format!("{what}: {}", message_of(err)),
        code: err.code().cloned(),
    }
    .into()
}

/// Whether something was refused only because somebody else was changing the same.
#[must_use]
pub fn met_another_change(err: &anyhow::Error) -> bool {
    let codes = [
        SqlState::T_R_DEADLOCK_DETECTED,
        SqlState::T_R_SERIALIZATION_FAILURE,
        // "tuple concurrently updated" has no code of its own.
        SqlState::INTERNAL_ERROR,
    ];
    err.chain()
        .filter_map(|cause| cause.downcast_ref::<Refused>())
        .any(|refused| {
            refused
                .code
                .as_ref()
                .is_some_and(|code| codes.contains(code))
        })
}

/// Takes the lock that keeps two of these programs apart, and holds it as long as `client` lives.
///
/// # Errors
///
/// Fails when another holds it past `deadline`.
pub fn lock(client: &mut Client, deadline: Duration) -> Result<()> {
    let begun = Instant::now();
    loop {
        let taken: bool = client
            .query_one("SELECT pg_try_advisory_lock($1, $2)", &[&LOCK.0, &LOCK.1])
            .context("take the lock")?
            .get(0);
        if taken {
            return Ok(());
        }
        if begun.elapsed() >= deadline {
            bail!(
                "another pg-provision has been at work on this server for {} seconds",
                deadline.as_secs()
            );
        }
        std::thread::sleep(PAUSE);
    }
}

/// Turns statements into SQL, in which the server has quoted every name and value.
///
/// # Errors
///
/// Fails when the server cannot be asked.
pub fn quoted(
    client: &mut impl postgres::GenericClient,
    statements: &[Statement],
) -> Result<String> {
    let templates: Vec<(&str, &[String])> = statements
        .iter()
        .map(|statement| (statement.template.as_str(), statement.arguments.as_slice()))
        .collect();
    let text = serde_json::to_string(&templates)?;
    let row = client
        .query_one(
            "SELECT coalesce(string_agg(format(s.item->>0,
                        VARIADIC ARRAY(SELECT jsonb_array_elements_text(s.item->1))), E';\\n' ORDER BY s.ordinality), '')
             FROM jsonb_array_elements($1::text::jsonb) WITH ORDINALITY AS s(item, ordinality)",
            &[&text],
        )
        .map_err(|err| failed(&err, "quote names"))?;
    Ok(row.get(0))
}

/// Carries out statements, one after the other.
///
/// # Errors
///
/// Fails with what the server says of the first that fails.
pub fn execute(client: &mut impl postgres::GenericClient, statements: &[Statement]) -> Result<()> {
    if statements.is_empty() {
        return Ok(());
    }
    let sql = quoted(client, statements)?;
    client.batch_execute(&sql).map_err(|err| {
        Refused {
            what: message_of(&err),
            code: err.code().cloned(),
        }
        .into()
    })
}
