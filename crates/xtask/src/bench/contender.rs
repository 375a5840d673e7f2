//! Who is measured, and how each is told to archive and to restore.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};

use crate::process;

/// Somebody who archives WAL.
#[derive(Clone, Debug)]
pub struct Contender {
    /// The name in the report.
    pub name: &'static str,
    /// What checksum is stored with a WAL file.
    pub checksum: &'static str,
    /// Whether recovery from its archive is measured too.
    pub replays: bool,
    engine: Engine,
}

#[derive(Clone, Copy, Debug)]
enum Engine {
    Nothing,
    Cp,
    BasicArchive,
    PgBackRest {
        compress: &'static str,
        asynchronous: bool,
    },
    Ours {
        algorithm: &'static str,
        threads: u32,
        ahead: u32,
        prefetch_mebibytes: u32,
    },
}

/// The names that the targets are about.
pub const OURS_LZ4: &str = "ours, one at a time, lz4";
pub const OURS_LZ4_AHEAD: &str = "ours, 2 threads ahead, lz4";
pub const OURS_ZSTD_AHEAD: &str = "ours, 2 threads ahead, zstd";
pub const PGBACKREST_LZ4: &str = "pgBackRest, lz4";
pub const PGBACKREST_ASYNC_LZ4: &str = "pgBackRest, async 2, lz4";

impl Contender {
    /// Everybody, in the order of the report.
    pub fn all() -> Vec<Self> {
        let pgbackrest = |name, compress, asynchronous, replays| Self {
            name,
            checksum: "SHA-1",
            replays,
            engine: Engine::PgBackRest {
                compress,
                asynchronous,
            },
        };
        let ours = |name, algorithm, threads, ahead, replays| Self {
            name,
            checksum: "SHA-256",
            replays,
            engine: Engine::Ours {
                algorithm,
                threads,
                ahead,
                prefetch_mebibytes: if ahead > 0 { 256 } else { 0 },
            },
        };
        let simple = |name, engine, replays| Self {
            name,
            checksum: "none",
            replays,
            engine,
        };
        vec![
            simple("nothing (`true`)", Engine::Nothing, false),
            simple("cp", Engine::Cp, true),
            simple("basic_archive", Engine::BasicArchive, false),
            pgbackrest(PGBACKREST_LZ4, "lz4", false, true),
            pgbackrest("pgBackRest, zst", "zst", false, false),
            pgbackrest("pgBackRest, default (gz)", "gz", false, false),
            pgbackrest(PGBACKREST_ASYNC_LZ4, "lz4", true, true),
            pgbackrest("pgBackRest, async 2, zst", "zst", true, false),
            ours("ours, one at a time, 1 thread, lz4", "lz4", 1, 0, false),
            // The first one also shows recovery without prefetching.
            ours(OURS_LZ4, "lz4", 2, 0, true),
            ours("ours, one at a time, zstd", "zstd", 2, 0, false),
            ours("ours, one at a time, none", "none", 2, 0, false),
            ours(OURS_LZ4_AHEAD, "lz4", 2, 16, true),
            ours(OURS_ZSTD_AHEAD, "zstd", 2, 16, true),
        ]
    }

    /// Whether one call does the work of one call and of no other, so that it can be measured.
    pub fn has_calls(&self) -> bool {
        match self.engine {
            Engine::Nothing | Engine::BasicArchive => false,
            Engine::Cp => true,
            Engine::PgBackRest { asynchronous, .. } => !asynchronous,
            Engine::Ours { ahead, .. } => ahead == 0,
        }
    }

    /// Whether it is ours.
    pub fn is_ours(&self) -> bool {
        matches!(self.engine, Engine::Ours { .. })
    }

    /// Whether restoring from its archive works ahead of recovery.
    pub fn prefetches(&self) -> bool {
        match self.engine {
            Engine::PgBackRest { asynchronous, .. } => asynchronous,
            Engine::Ours {
                prefetch_mebibytes, ..
            } => prefetch_mebibytes > 0,
            _ => false,
        }
    }

    /// Makes an empty archive for the cluster in `data`, with everything that belongs to it in `root`.
    ///
    /// # Errors
    ///
    /// Fails when the contender does.
    pub fn set_up(&self, root: &Path, data: &Path, server: &testbed::Server) -> Result<SetUp> {
        if root.exists() {
            fs::remove_dir_all(root).with_context(|| format!("remove \"{}\"", root.display()))?;
        }
        let set_up = self.attach(root, data, server)?;
        match self.engine {
            Engine::PgBackRest { .. } => {
                call(&set_up.pgbackrest(&["--no-online", "stanza-create"]))?;
            }
            Engine::Ours { .. } => {
                call(&set_up.ours("backstay", &["archive", "init", "main"]))?;
            }
            Engine::Nothing | Engine::Cp | Engine::BasicArchive => {}
        }
        Ok(set_up)
    }

    /// Writes the configuration for the cluster in `data`, and leaves the archive in `root` as it is.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be written.
    pub fn attach(&self, root: &Path, data: &Path, server: &testbed::Server) -> Result<SetUp> {
        let set_up = SetUp {
            engine: self.engine,
            programs: testbed::program_directory()?,
            root: root.to_owned(),
        };
        for directory in ["repository", "spool", "lock", "log"] {
            let directory = root.join(directory);
            fs::create_dir_all(&directory)
                .with_context(|| format!("create \"{}\"", directory.display()))?;
        }
        let text = match self.engine {
            Engine::PgBackRest {
                compress,
                asynchronous,
            } => format!(
                "[global]\nrepo1-path={repository}\nspool-path={root}/spool\nlock-path={root}/lock\n\
                 log-path={root}/log\nlog-level-file=off\nlog-level-console=warn\n\
                 compress-type={compress}\nprocess-max=2\narchive-async={asynchronous}\n\
                 archive-get-queue-max=1GiB\n\n[bench]\npg1-path={data}\n",
                repository = set_up.repository().display(),
                root = root.display(),
                asynchronous = if asynchronous { "y" } else { "n" },
                data = data.display(),
            ),
            Engine::Ours {
                algorithm,
                threads,
                ahead,
                prefetch_mebibytes,
            } => serde_json::json!({
                "instance": "main",
                "postgresql": {
                    "binDirectory": server.bin(),
                    "dataDirectory": data,
                    "socketDirectory": root,
                },
                "archive": {
                    "directory": set_up.repository(),
                    "compression": { "algorithm": algorithm },
                    "workAheadSegments": ahead,
                    "threads": threads,
                    "prefetchMebibytes": prefetch_mebibytes,
                },
            })
            .to_string(),
            Engine::Nothing | Engine::Cp | Engine::BasicArchive => String::new(),
        };
        let path = set_up.configuration();
        fs::write(&path, text).with_context(|| format!("write \"{}\"", path.display()))?;
        Ok(set_up)
    }
}

/// A contender with an archive.
#[derive(Debug)]
pub struct SetUp {
    engine: Engine,
    programs: PathBuf,
    root: PathBuf,
}

impl SetUp {
    /// The directory that holds what was archived.
    pub fn repository(&self) -> PathBuf {
        self.root.join("repository")
    }

    /// Removes what an earlier recovery was given ahead, so that each begins alike.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be removed.
    pub fn forget_prefetched(&self) -> Result<()> {
        let spool = self.root.join("spool");
        fs::remove_dir_all(&spool)
            .and_then(|()| fs::create_dir(&spool))
            .with_context(|| format!("empty \"{}\"", spool.display()))
    }

    fn configuration(&self) -> PathBuf {
        self.root.join("configuration")
    }

    /// The lines of `postgresql.conf` that make the server archive.
    pub fn archiving(&self) -> Vec<String> {
        if matches!(self.engine, Engine::BasicArchive) {
            return vec![
                "archive_library = 'basic_archive'".into(),
                "archive_command = ''".into(),
                format!(
                    "basic_archive.archive_directory = '{}'",
                    self.repository().display()
                ),
            ];
        }
        let words = self.push("%p", "%f");
        let words = words.unwrap_or_else(|| vec!["/bin/true".into()]);
        vec![format!("archive_command = '{}'", line(&words))]
    }

    /// The line of `postgresql.conf` that makes the server restore; without an archive, from `pg_wal`.
    pub fn restoring(&self) -> String {
        let words = self.get("%f", "%p");
        let words = words.unwrap_or_else(|| vec!["/bin/false".into()]);
        format!("restore_command = '{}'", line(&words))
    }

    /// The call that archives the file at `path` under `name`, if there is such a call.
    pub fn push(&self, path: &str, name: &str) -> Option<Vec<String>> {
        let words = match self.engine {
            Engine::Nothing | Engine::BasicArchive => return None,
            Engine::Cp => vec!["/bin/cp".into(), path.into(), self.archived(name)],
            Engine::PgBackRest { .. } => self.pgbackrest(&["archive-push", path]),
            Engine::Ours { .. } => self.ours("pg-archive-wal", &[path]),
        };
        Some(words)
    }

    /// The call that fetches the file `name` to `path`, if there is such a call.
    pub fn get(&self, name: &str, path: &str) -> Option<Vec<String>> {
        let words = match self.engine {
            Engine::Nothing | Engine::BasicArchive => return None,
            Engine::Cp => vec!["/bin/cp".into(), self.archived(name), path.into()],
            Engine::PgBackRest { .. } => self.pgbackrest(&["archive-get", name, path]),
            Engine::Ours { .. } => self.ours("pg-restore-wal", &[name, path]),
        };
        Some(words)
    }

    fn archived(&self, name: &str) -> String {
        self.repository().join(name).display().to_string()
    }

    fn pgbackrest(&self, arguments: &[&str]) -> Vec<String> {
        let mut words = vec![
            "/usr/bin/pgbackrest".into(),
            format!("--config={}", self.configuration().display()),
            "--stanza=bench".into(),
        ];
        words.extend(arguments.iter().copied().map(String::from));
        words
    }

    fn ours(&self, program: &str, arguments: &[&str]) -> Vec<String> {
        let mut words = vec![self.programs.join(program).display().to_string()];
        words.extend(arguments.iter().copied().map(String::from));
        words.extend([
            "--config".into(),
            self.configuration().display().to_string(),
        ]);
        words
    }
}

/// The words as a line for a shell. The placeholders of PostgreSQL need no quotes.
fn line(words: &[String]) -> String {
    words
        .iter()
        .map(|word| command::quoted(word))
        .collect::<Vec<_>>()
        .join(" ")
}

/// Makes a call, and returns what it wrote to standard error.
///
/// # Errors
///
/// Fails when it does, with what it wrote.
pub fn call(words: &[String]) -> Result<String> {
    let output = process::command(&words[0])
        .args(&words[1..])
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("run {}", line(words)))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        bail!(
            "{} {}: {said}",
            line(words),
            command::how_it_ended(output.status)
        );
    }
    Ok(said)
}
