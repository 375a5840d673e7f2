//! Takes, verifies and records a base backup.
//!
//! Most are streamed from the server into a directory; [`snapshot`] has the other way. A streamed backup counts only once `pg_basebackup` has ended well, every file has been checked against the
//! manifest, and the archive holds every WAL file that a restore of it needs. Until then it has
//! another name and no record.

mod metrics;
mod progress;
mod snapshot;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use archive::Archive;
use base_backups::manifest::{self, Manifest};
use base_backups::{Kind, Record, Repository, Unfinished};
use clap::Parser;
use cluster::{Identity, Relations, Server, Tablespace};
use command::Command;
use jiff::Timestamp;
use settings::{BaseBackup, Format, Settings, TarCompression};
use tool::{Hinted, Level, Program, WithHint as _};
use wal::{Lsn, TimelineHistory, WalFileName};

use crate::progress::Watcher;

const PROGRAM: Program = Program {
    complaint: "could not take a base backup",
    failure: 1,
};

/// How often the archive is asked whether the last WAL file has arrived.
const POLL: Duration = Duration::from_millis(200);
/// The first major version with incremental backups.
const INCREMENTAL_MAJOR: u32 = 17;
/// The first major version whose server compresses, and takes a level for it.
const SERVER_COMPRESSION_MAJOR: u32 = 15;
/// The first major version whose `pg_verifybackup` reads tar files.
const VERIFY_TAR_MAJOR: u32 = 18;

/// Take a base backup, verify it, and wait until its WAL is in the archive
#[derive(Debug, Parser)]
#[command(version, about)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of the command line"
)]
struct Cli {
    /// Settings file, JSON
    #[arg(long, value_name = "FILE")]
    config: PathBuf,

    /// Check the settings file, then exit
    #[arg(long)]
    check_config: bool,

    /// How the backup is taken
    #[arg(long, value_enum, default_value_t = Method::Stream)]
    method: Method,

    /// Take a full backup even where an incremental one is due
    #[arg(long)]
    full: bool,

    /// Keep this backup whatever the retention says
    #[arg(long)]
    pin: bool,

    /// Print the record of the backup as JSON
    #[arg(long)]
    json: bool,
}

/// How a base backup is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Method {
    /// Copied by `pg_basebackup` into the directory of the base backups
    Stream,
    /// One atomic ZFS snapshot of the data directory and of every tablespace
    Snapshot,
}

fn main() -> ExitCode {
    tool::run(PROGRAM, |cli: Cli| {
        let settings = tool::read_settings(&cli.config)?;
        if !cli.check_config && cli.method == Method::Snapshot {
            refuse_for_snapshots(&cli)?;
            let taken = snapshot::take(&settings);
            metrics::write_of_snapshots(&settings, taken.is_ok());
            let taken = taken?;
            if cli.json {
                tool::print(&(serde_json::to_string_pretty(&taken)? + "\n"))?;
            }
        } else if !cli.check_config {
            let taken = take(&settings, &cli);
            metrics::write(&settings, taken.is_ok());
            let record = taken?;
            forget_request(&settings);
            if cli.json {
                tool::print(&(serde_json::to_string_pretty(&record)? + "\n"))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// Refuses what a snapshot cannot be.
fn refuse_for_snapshots(cli: &Cli) -> Result<()> {
    for (flag, is_given, why) in [
        ("--full", cli.full, "every snapshot is whole"),
        (
            "--pin",
            cli.pin,
            "`zfs hold` keeps a snapshot from being destroyed",
        ),
    ] {
        if is_given {
            return Err(Hinted::new(
                format!("{flag} is not for --method snapshot"),
                format!("leave it out: {why}"),
            )
            .into());
        }
    }
    Ok(())
}

/// Takes back the request for a base backup, which is met now.
fn forget_request(settings: &Settings) {
    let request = instance_state::base_backup_request(&settings.state_directory());
    if let Err(err) = durable_file::remove(&request) {
        tool::report("could not take back the request for a base backup", &err);
    }
}

fn take(settings: &Settings, cli: &Cli) -> Result<Record> {
    let wanted = settings.base_backup.as_ref().ok_or_else(|| {
        Hinted::new(
            "the settings declare no base backups",
            "set baseBackup.directory",
        )
    })?;
    let repository = Repository::open(&wanted.directory, &settings.instance)?;
    let archive = Archive::open(&settings.archive.directory, &settings.instance)?;
    let lock = repository.lock()?;
    for Unfinished(path) in repository.clear_unfinished(&lock)? {
        tool::log(
            Level::Info,
            format_args!("removed unfinished \"{}\"", path.display()),
        );
    }

    let taken = Job {
        wanted,
        server: Server::new(&settings.postgresql),
        repository: &repository,
        archive: &archive,
    }
    .run(cli);
    // A backup that failed is worth nothing, and the disk may be full. After one that succeeded there can be
    // what a killed run's pg_basebackup, slow to start, has begun since.
    if let Err(err) = repository.clear_unfinished(&lock) {
        tool::report("could not remove an unfinished base backup", &err);
    }
    taken
}

/// One backup, under the lock.
struct Job<'a> {
    wanted: &'a BaseBackup,
    server: Server,
    repository: &'a Repository,
    archive: &'a Archive,
}

/// What is known once `pg_basebackup` has ended well.
struct Copied {
    name: String,
    parent: Option<String>,
    tablespaces: Vec<Tablespace>,
    started_at: Timestamp,
    stopped_at: Timestamp,
    seconds: f64,
}

impl Job<'_> {
    fn run(&self, cli: &Cli) -> Result<Record> {
        let mut client = self.server.connect("postgres")?;
        let identity = Server::identify(&mut client)?;
        self.archive.cluster(identity.system_identifier)?;
        check_server(&self.server, &identity)?;
        let earlier = self.repository.list()?;
        let parent = if cli.full {
            None
        } else {
            parent_for(self.wanted, &identity, &earlier, self.repository)
        };
        let relations = Relations::of(&self.server)?;
        let copied = self.copy(&mut client, &identity, parent)?;
        let mut record = self.describe(&identity, copied, cli.pin)?;
        prove(
            &self.server,
            self.wanted,
            self.repository,
            self.archive,
            &identity,
            &mut record,
        )?;
        durable_file::sync_file_system_of(&self.repository.partial(&record.name))?;
        self.repository.publish(&record, &relations)?;
        tool::log(
            Level::Info,
            format_args!(
                "base backup \"{}\" is good: {} MiB in {:.1} s, verified in {:.1} s, WAL {} to {} archived",
                record.name,
                record.content_bytes >> 20,
                record.copy_seconds,
                record.verify_seconds,
                record.start_lsn,
                record.stop_lsn
            ),
        );
        Ok(record)
    }

    /// Runs `pg_basebackup`.
    fn copy(
        &self,
        client: &mut cluster::Client,
        identity: &Identity,
        parent: Option<&Record>,
    ) -> Result<Copied> {
        let tablespaces = Server::tablespaces(client)?;
        let started_at = server_time(client)?;
        let name = self.repository.free_name(Timestamp::now());
        let kind = if parent.is_some() {
            "an incremental"
        } else {
            "a full"
        };
        tool::log(
            Level::Info,
            format_args!("taking {kind} base backup \"{name}\""),
        );
        let begin = Instant::now();
        let command = pg_basebackup(
            &self.server,
            self.wanted,
            identity,
            self.repository,
            &name,
            &tablespaces,
            parent
                .map(|parent| self.repository.directory(&parent.name))
                .as_deref(),
        )?;
        let mut watcher = Watcher::new();
        let outcome = command.run_watching(|line| watcher.line(line));
        watcher.finish();
        outcome.with_hint(|| {
        "to be let in, the role needs REPLICATION, and pg_hba.conf a line for the database \"replication\""
            .into()
    })?;
        Ok(Copied {
            name,
            parent: parent.map(|parent| parent.name.clone()),
            tablespaces,
            started_at,
            stopped_at: server_time(client)?,
            seconds: begin.elapsed().as_secs_f64(),
        })
    }

    /// Makes the record, as far as it is known before verification.
    fn describe(&self, identity: &Identity, copied: Copied, pinned: bool) -> Result<Record> {
        let partial = self.repository.partial(&copied.name);
        let manifest = read_manifest(&partial)?;
        let &[range] = manifest.wal_ranges.as_slice() else {
            bail!(
                "the server changed its timeline during the backup; its manifest names {} WAL ranges",
                manifest.wal_ranges.len()
            );
        };
        let tablespaces = self.repository.tablespaces(&copied.name);
        Ok(Record {
            format_version: Record::FORMAT_VERSION,
            kind: if copied.parent.is_some() {
                Kind::Incremental
            } else {
                Kind::Full
            },
            parent: copied.parent,
            system_identifier: identity.system_identifier,
            postgres_major: identity.major,
            server_version: identity.version.clone(),
            tool_version: self.server.programs().version("pg_basebackup")?,
            timeline: range.timeline,
            start_lsn: range.start,
            stop_lsn: range.end,
            segment_size_bytes: identity.segment_size.bytes(),
            started_at: copied.started_at,
            stopped_at: copied.stopped_at,
            format: self.wanted.format,
            compression: self.wanted.tar_compression,
            tablespaces: copied.tablespaces,
            data_checksums: identity.data_checksums,
            content_bytes: manifest.content_bytes(),
            stored_bytes: stored_bytes(&partial)? + stored_bytes(&tablespaces)?,
            copy_seconds: copied.seconds,
            verify_seconds: 0.0,
            wal_wait_seconds: 0.0,
            verified_with: String::new(),
            pinned,
            name: copied.name,
        })
    }
}

/// Verifies the backup and waits for its WAL, and notes in the record how long that took.
fn prove(
    server: &Server,
    wanted: &BaseBackup,
    repository: &Repository,
    archive: &Archive,
    identity: &Identity,
    record: &mut Record,
) -> Result<()> {
    let begin = Instant::now();
    record.verified_with = verify(server, repository, record)?;
    record.verify_seconds = begin.elapsed().as_secs_f64();

    let begin = Instant::now();
    let deadline = Duration::from_secs(wanted.wal_deadline_seconds.into());
    wait_for_wal(archive, record, identity, deadline)?;
    record.wal_wait_seconds = begin.elapsed().as_secs_f64();
    Ok(())
}

/// Refuses a server whose backups could not be restored to a later moment, or whose version the
/// programs do not have.
fn check_server(server: &Server, identity: &Identity) -> Result<()> {
    if identity.archive_mode == "off" {
        return Err(Hinted::new(
            "the server does not archive its WAL (archive_mode = off)",
            "a base backup without WAL cannot be restored to a later moment; set archive_mode = on and restart the server",
        )
        .into());
    }
    let major = server.programs().major()?;
    if major != identity.major {
        return Err(Hinted::new(
            format!(
                "the server is PostgreSQL {}, the programs are PostgreSQL {major}",
                identity.major
            ),
            "set postgresql.binDirectory to the programs of the server's version",
        )
        .into());
    }
    Ok(())
}

/// The backup that an incremental one may build on, or nothing where a full one is due.
fn parent_for<'a>(
    wanted: &BaseBackup,
    identity: &Identity,
    earlier: &'a [Record],
    repository: &Repository,
) -> Option<&'a Record> {
    let incremental = wanted.incremental?;
    let parent = earlier
        .iter()
        .rfind(|record| record.system_identifier == identity.system_identifier)?;
    let why_full = if identity.major < INCREMENTAL_MAJOR {
        format!("PostgreSQL {} takes no incremental ones", identity.major)
    } else if !identity.summarize_wal {
        "summarize_wal is off".into()
    } else if parent.format == Format::Tar {
        format!("\"{}\" is in tar format", parent.name)
    } else if parent.timeline != identity.timeline {
        format!(
            "\"{}\" was taken on timeline {}",
            parent.name, parent.timeline
        )
    } else if parent.data_checksums != identity.data_checksums {
        "data checksums were switched on or off".into()
    } else {
        match parent.chain(earlier) {
            Err(err) => format!("{err:#}"),
            Ok(chain) if chain.len() > incremental.chain_length as usize => return None,
            Ok(_) => match read_manifest(&repository.directory(&parent.name)) {
                Ok(_) => return Some(parent),
                Err(err) => format!("{err:#}"),
            },
        }
    };
    tool::log(
        Level::Warning,
        format_args!("taking a full base backup in place of an incremental one: {why_full}"),
    );
    None
}

fn read_manifest(directory: &Path) -> Result<Manifest> {
    let path = directory.join(manifest::FILE_NAME);
    let bytes = std::fs::read(&path).with_context(|| format!("read \"{}\"", path.display()))?;
    Manifest::parse(&bytes).with_context(|| format!("use \"{}\"", path.display()))
}

fn server_time(client: &mut cluster::Client) -> Result<Timestamp> {
    let text: String = client
        .query_one(
            "select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')",
            &[],
        )
        .context("ask the server for the time")?
        .get(0);
    text.parse()
        .with_context(|| format!("read the server's time \"{text}\""))
}

fn pg_basebackup(
    server: &Server,
    wanted: &BaseBackup,
    identity: &Identity,
    repository: &Repository,
    name: &str,
    tablespaces: &[Tablespace],
    parent: Option<&Path>,
) -> Result<Command> {
    let mut command = server
        .programs()
        .command("pg_basebackup")
        .args(server.connection_arguments())
        .arg("--pgdata")
        .arg(repository.partial(name))
        .args(["--wal-method", "stream", "--progress", "--label"])
        .arg(format!("backstay {name}"))
        .arg("--checkpoint")
        .arg(if wanted.fast_checkpoint {
            "fast"
        } else {
            "spread"
        });
    if let Some(rate) = wanted.maximum_rate_kibibytes_per_second {
        command = command.arg("--max-rate").arg(rate.to_string());
    }
    match wanted.format {
        Format::Plain => {
            // Without a mapping the files would be written to where the server has them.
            let directory = repository.tablespaces(name);
            for tablespace in tablespaces {
                let place = directory.join(tablespace.oid.to_string());
                durable_file::ensure_directory(&directory)?;
                command = command.arg("--tablespace-mapping").arg(format!(
                    "{}={}",
                    escaped(&tablespace.location)?,
                    escaped(&place)?
                ));
            }
        }
        Format::Tar => {
            command = command.args(["--format", "tar"]);
            if let Some(compression) = compression_argument(wanted.tar_compression, identity.major)?
            {
                command = command.args(compression);
            }
        }
    }
    if let Some(parent) = parent {
        command = command
            .arg("--incremental")
            .arg(parent.join(manifest::FILE_NAME));
    }
    Ok(command)
}

/// Writes a path as `--tablespace-mapping` wants it: an equals sign ends the old directory.
fn escaped(path: &Path) -> Result<String> {
    let text = path
        .to_str()
        .ok_or_else(|| anyhow!("\"{}\" is not UTF-8", path.display()))?;
    Ok(text.replace('\\', "\\\\").replace('=', "\\="))
}

fn compression_argument(
    compression: TarCompression,
    major: u32,
) -> Result<Option<[&'static str; 2]>> {
    let server_compresses = major >= SERVER_COMPRESSION_MAJOR;
    Ok(match compression {
        TarCompression::None => None,
        TarCompression::Gzip if server_compresses => Some(["--compress", "server-gzip"]),
        TarCompression::Gzip => Some(["--compress", "6"]),
        TarCompression::Lz4 if server_compresses => Some(["--compress", "server-lz4"]),
        TarCompression::Zstd if server_compresses => Some(["--compress", "server-zstd"]),
        TarCompression::Lz4 | TarCompression::Zstd => {
            return Err(Hinted::new(
                format!("PostgreSQL {major} compresses base backups with gzip only"),
                "set baseBackup.tarCompression to \"gzip\" or \"none\"",
            )
            .into());
        }
    })
}

/// Checks every file of the backup and says what did it.
fn verify(server: &Server, repository: &Repository, record: &Record) -> Result<String> {
    if record.format == Format::Tar && record.postgres_major < VERIFY_TAR_MAJOR {
        base_backups::check(repository, record, &base_backups::Progress::default())
            .context("verify the base backup")?;
        return Ok(format!("backstay {}", env!("CARGO_PKG_VERSION")));
    }
    let mut command = server
        .programs()
        .command("pg_verifybackup")
        .args(["--quiet", "--exit-on-error"]);
    if record.format == Format::Tar {
        // WAL inside a tar file is not read; ours comes from the archive, checked on the way.
        command = command.arg("--no-parse-wal");
    }
    command
        .arg(repository.partial(&record.name))
        .run()
        .context("verify the base backup")?;
    Ok(format!(
        "pg_verifybackup {}",
        server.programs().version("pg_verifybackup")?
    ))
}

/// Waits until the archive holds every WAL file between the backup's start and its end.
fn wait_for_wal(
    archive: &Archive,
    record: &Record,
    identity: &Identity,
    deadline: Duration,
) -> Result<()> {
    let cluster = archive.cluster(record.system_identifier)?;
    // Start and end are on one timeline, so its own history has no part in the answer.
    let history = TimelineHistory::without_parents(record.timeline);
    let needed = wal::segments_needed(
        &history,
        (record.timeline, record.start_lsn),
        record.stop_lsn,
        identity.segment_size,
    )
    .map_err(|err| anyhow!("{err}"))?;
    let begin = Instant::now();
    for segment in needed {
        let path = archive.path_of(cluster, &WalFileName::Segment(segment))?;
        while !path.exists() {
            if begin.elapsed() > deadline {
                return Err(Hinted::new(
                    format!(
                        "WAL file \"{segment}\" did not reach the archive within {} seconds",
                        deadline.as_secs()
                    ),
                    "the backup does not count without it; see the server's log for why archiving fails",
                )
                .into());
            }
            std::thread::sleep(POLL);
        }
    }
    ensure!(
        record.stop_lsn > Lsn(0) && record.start_lsn <= record.stop_lsn,
        "the manifest's WAL range ends before it starts"
    );
    Ok(())
}

fn stored_bytes(directory: &Path) -> Result<u64> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        Err(err) => return Err(err).with_context(|| format!("list \"{}\"", directory.display())),
    };
    let mut total = 0;
    for entry in entries {
        let entry = entry.with_context(|| format!("list \"{}\"", directory.display()))?;
        let metadata = entry
            .metadata()
            .with_context(|| format!("examine \"{}\"", entry.path().display()))?;
        total += if metadata.is_dir() {
            stored_bytes(&entry.path())?
        } else {
            metadata.len()
        };
    }
    Ok(total)
}
