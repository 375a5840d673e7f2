//! A real PostgreSQL in a temporary directory, and a ledger of what was committed to it.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use testbed::{ClusterOptions, LedgerOptions, StopMode, Testbed, Until};
//!
//! let testbed = Testbed::new()?;
//! let cluster = testbed.cluster("main", ClusterOptions::archiving())?;
//! cluster.start()?;
//! let ledger = cluster.ledger(&LedgerOptions::default())?;
//! cluster.run("pg-base-backup", ["--full"])?.expect_success()?;
//! ledger.wait_for_commits(100)?;
//! let dropped = cluster.commit("DROP TABLE orders")?;
//! ledger.stop()?;
//! cluster
//!     .run("backstay", ["restore", "main", "--yes", "--exclusive", "--to", &format!("xid:{}", dropped.xid)])?
//!     .expect_success()?;
//! let expected = ledger.expected(&Until::before(dropped.start));
//! expected.compare(&cluster)?.expect_exact()?;
//! # Ok(())
//! # }
//! ```
//!
//! # Which programs
//!
//! - PostgreSQL's: the directory in `BACKSTAY_POSTGRESQL_BIN`, or the newest below
//!   `/usr/lib/postgresql`.
//! - Ours: the directory in `BACKSTAY_PROGRAMS`, or the one that cargo built the test beside. `cargo
//!   test -p <crate>` builds only that crate's programs; `cargo xtask test` builds and uses them all.
//!
//! # Who may run it
//!
//! Any user but root, as PostgreSQL refuses root. `cargo xtask test` run by root runs the tests as
//! user `postgres`.

mod cluster;
mod ledger;
mod programs;
mod random;
mod server;
pub mod strace;
mod zfs;

use std::fmt;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

pub use cluster::{Cluster, ClusterOptions, Commit, StopMode};
pub use ledger::{
    Comparison, Entry, Expected, Ledger, LedgerOptions, Row, Stop, Until, postgresql_time,
};
pub use programs::{Run, program, program_directory, run};
pub use random::Random;
pub use server::Server;
pub use zfs::StandInZfs;

/// How long anything here waits for a server before it gives up.
pub const PATIENCE: Duration = Duration::from_mins(2);

/// A temporary directory with clusters in it.
///
/// Dropping it ends every server that still runs on a data directory below it, whoever started it, and
/// removes the directory. Set `BACKSTAY_KEEP` to keep the directory for a look at it.
#[derive(Debug)]
pub struct Testbed {
    directory: tempfile::TempDir,
    server: Server,
}

impl Testbed {
    /// Makes the directory, below `TMPDIR` if that is set.
    ///
    /// # Errors
    ///
    /// Fails for root, and when PostgreSQL is not installed.
    pub fn new() -> Result<Self> {
        Self::with_server(Server::find()?)
    }

    /// Makes the directory for clusters of a server that the caller chose.
    ///
    /// # Errors
    ///
    /// Fails for root, and when the directory cannot be made.
    pub fn with_server(server: Server) -> Result<Self> {
        if nix::unistd::geteuid().is_root() {
            bail!(
                "PostgreSQL does not run as root\nhint: use `cargo xtask test`, which runs the tests as user \"postgres\""
            );
        }
        let directory = tempfile::Builder::new()
            .prefix("backstay-")
            .disable_cleanup(std::env::var_os("BACKSTAY_KEEP").is_some())
            .tempdir()
            .context("make a temporary directory")?;
        Ok(Self { directory, server })
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The server programs in use.
    #[must_use]
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Makes a cluster below the directory `name` of the testbed, without starting it.
    ///
    /// Below it are `data`, `archive`, `backups`, `socket` and `settings.json`; the server's messages
    /// go to `data.log`.
    ///
    /// # Errors
    ///
    /// Fails when initdb does, or `backstay archive init` where archiving is wanted.
    pub fn cluster(&self, name: &str, options: ClusterOptions) -> Result<Cluster> {
        Cluster::create(&self.server, &self.path().join(name), options)
    }

    /// Takes up a cluster that something else made, `backstay restore --into` for one.
    ///
    /// It is started with a socket of its own and a log `<data directory>.log`; `settings` is the
    /// settings file that [`Cluster::run`] passes to our programs.
    ///
    /// # Errors
    ///
    /// Fails when the directory for the socket cannot be made.
    pub fn adopt(&self, data: &Path, settings: &Path) -> Result<Cluster> {
        Cluster::adopt(&self.server, data, settings)
    }

    /// Takes over a cluster whose server something else has started, with its socket in `socket`.
    #[must_use]
    pub fn take_over(&self, data: &Path, socket: &Path, port: u16, settings: &Path) -> Cluster {
        Cluster::take_over(&self.server, data, socket, port, settings)
    }
}

impl Drop for Testbed {
    fn drop(&mut self) {
        for data in data_directories(self.path(), 4) {
            if let Err(err) = cluster::end_server(&self.server, &data) {
                complain(&err);
            }
        }
    }
}

/// The directories below `directory` that a server runs on or crashed on, down to `depth` levels.
fn data_directories(directory: &Path, depth: u32) -> Vec<PathBuf> {
    if directory.join("postmaster.pid").exists() {
        return vec![directory.to_owned()];
    }
    if depth == 0 {
        return Vec::new();
    }
    std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .flat_map(|entry| data_directories(&entry.path(), depth - 1))
        .collect()
}

/// Says that tidying up failed. A `Drop` can do no more.
fn complain(err: &anyhow::Error) {
    let _ = writeln!(std::io::stderr(), "could not tidy up a testbed: {err:#}");
}

/// Asks `done` again and again until it returns a value.
///
/// # Errors
///
/// Fails after [`PATIENCE`], saying what it waited for, and with the first error of `done`.
pub fn wait_until<T>(what: &str, mut done: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let begun = Instant::now();
    loop {
        if let Some(value) = done()? {
            return Ok(value);
        }
        if begun.elapsed() > PATIENCE {
            bail!("{what}: not within {} seconds", PATIENCE.as_secs());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Ends a test that cannot run here, saying why; the test returns a `Result`.
///
/// `cargo xtask test` counts such a test as skipped and lists the reason.
///
/// ```no_run
/// #[test]
/// fn an_incremental_backup_is_restored() -> anyhow::Result<()> {
///     let testbed = testbed::Testbed::new()?;
///     if testbed.server().major() < 17 {
///         testbed::skip!("PostgreSQL {} has no incremental backups", testbed.server().major());
///     }
///     Ok(())
/// }
/// ```
#[macro_export]
macro_rules! skip {
    ($($reason:tt)+) => {{
        fn here() {}
        $crate::say_skipped(::std::any::type_name_of_val(&here), ::std::format_args!($($reason)+));
        return ::std::result::Result::Ok(());
    }};
}

/// Says that the function around `here` was skipped, in the form that `cargo xtask test` reads.
#[doc(hidden)]
pub fn say_skipped(here: &str, reason: fmt::Arguments<'_>) {
    // Straight to stderr: libtest shows what goes through `println!` only when a test fails.
    let _ = writeln!(std::io::stderr(), "skipped: {}: {reason}", test_name(here));
}

/// The name libtest gives the function that contains `here`: `crate::module::test::here` is `module::test`.
fn test_name(here: &str) -> String {
    let words: Vec<&str> = here
        .split("::")
        .filter(|word| *word != "{{closure}}")
        .collect();
    match words.as_slice() {
        [_, name @ .., _] => name.join("::"),
        _ => here.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_skipped_test_is_named_as_libtest_names_it() {
        fn here() {}
        assert_eq!(
            super::test_name(std::any::type_name_of_val(&here)),
            "tests::a_skipped_test_is_named_as_libtest_names_it"
        );
        assert_eq!(
            super::test_name("on_postgresql::a_test::{{closure}}::here"),
            "a_test"
        );
    }
}
