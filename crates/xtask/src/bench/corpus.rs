//! The WAL that everybody archives and restores: made once a run, and then only read.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};
use testbed::{Cluster, ClusterOptions, Random, StopMode, Testbed};

use super::progress;

/// Size of a segment, in bytes.
pub const SEGMENT_BYTES: u64 = 16 << 20;
/// What every random number begins with.
const SEED: u64 = 42;

/// What the WAL is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// pgbench and documents in JSON, with the page images that follow a checkpoint.
    Compressible,
    /// Rows of random bytes.
    Incompressible,
}

impl Kind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Compressible, Self::Incompressible];

    /// The name in the report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Compressible => "compressible",
            Self::Incompressible => "incompressible",
        }
    }
}

/// Some WAL, with the cluster that wrote it and the state from which it can be replayed.
#[derive(Debug)]
pub struct Corpus {
    /// What it is about.
    pub kind: Kind,
    /// The server programs.
    pub server: testbed::Server,
    /// The segments, in their order.
    pub segments: Vec<String>,
    /// Part of the SHA-256 of all segments.
    pub hash: String,
    /// How much smaller zstd at its level 1 makes it.
    pub ratio: f64,
    home: PathBuf,
    before: PathBuf,
    after: PathBuf,
}

impl Corpus {
    /// Writes `count` segments of WAL.
    ///
    /// # Errors
    ///
    /// Fails when the server does.
    pub fn make(testbed: &Testbed, kind: Kind, count: u32) -> Result<Self> {
        progress(format_args!("writing {count} {} WAL segments", kind.name()));
        let options = [
            // Nothing is handed out, and nothing is taken away before it is.
            "archive_mode = on",
            "archive_command = ''",
            "wal_keep_size = '1TB'",
            // A recycled segment would be overwritten, and its other names with it.
            "wal_recycle = off",
            "wal_init_zero = off",
            // Checkpoints only where they are asked for.
            "max_wal_size = '1TB'",
            "checkpoint_timeout = '1h'",
            "autovacuum = off",
            "shared_buffers = '256MB'",
            // The corpus is copied after a clean stop; until then nothing has to last.
            "fsync = off",
            "synchronous_commit = off",
        ]
        .into_iter()
        .fold(ClusterOptions::default(), ClusterOptions::configure);
        let cluster = testbed.cluster(kind.name(), options)?;
        let home = cluster.home().to_owned();
        let before = home.join("before");
        copy_directory(cluster.data(), &before, &|_| Treatment::Copy)?;
        cluster.start()?;
        match kind {
            Kind::Compressible => write_compressible(&cluster, count)?,
            Kind::Incompressible => write_incompressible(&cluster, count)?,
        }
        cluster.stop(StopMode::Fast)?;
        let mut corpus = Self {
            kind,
            server: cluster.server().clone(),
            segments: Vec::new(),
            hash: String::new(),
            ratio: 0.0,
            after: cluster.data().to_owned(),
            home,
            before,
        };
        corpus.keep_first(count as usize)?;
        corpus.describe()?;
        Ok(corpus)
    }

    /// How many segments there are.
    pub fn count(&self) -> u32 {
        u32::try_from(self.segments.len()).unwrap_or(u32::MAX)
    }

    fn status(&self) -> PathBuf {
        self.after.join("pg_wal/archive_status")
    }

    /// Keeps the first `count` segments waiting and marks the rest as archived.
    fn keep_first(&mut self, count: usize) -> Result<()> {
        self.segments = ready(&self.after)?;
        if self.segments.len() < count {
            bail!("only {} segments were written", self.segments.len());
        }
        for name in self.segments.split_off(count) {
            let status = self.status();
            durable_file::hand_over(
                &status.join(format!("{name}.ready")),
                &status.join(format!("{name}.done")),
            )?;
        }
        Ok(())
    }

    fn describe(&mut self) -> Result<()> {
        let mut hash = Sha256::new();
        let mut compressed = 0;
        for name in &self.segments {
            let path = self.segment(name);
            let mut bytes = Vec::new();
            fs::File::open(&path)
                .and_then(|mut file| file.read_to_end(&mut bytes))
                .with_context(|| format!("read \"{}\"", path.display()))?;
            hash.update(&bytes);
            compressed += zstd::bulk::compress(&bytes, 1)
                .with_context(|| format!("compress \"{}\"", path.display()))?
                .len() as u64;
        }
        let hash = hash.finalize();
        let hash = u64::from_be_bytes(std::array::from_fn(|index| hash[index]));
        self.hash = format!("{hash:016x}");
        self.ratio =
            super::report::ratio(u64::from(self.count()) * SEGMENT_BYTES, compressed.max(1));
        Ok(())
    }

    /// The path of a segment.
    pub fn segment(&self, name: &str) -> PathBuf {
        self.after.join("pg_wal").join(name)
    }

    /// A directory for the files of one contender.
    pub fn root(&self, contender: &super::Contender) -> PathBuf {
        let name: String = contender
            .name
            .chars()
            .filter(char::is_ascii_alphanumeric)
            .collect();
        self.home.join(name)
    }

    /// Makes a copy of the cluster as it was after the WAL was written. Only the first `waiting`
    /// segments wait to be archived.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be written.
    pub fn cluster_after(&self, waiting: usize, lines: &[String]) -> Result<PathBuf> {
        let data = self.fresh_data()?;
        copy_directory(&self.after, &data, &|path| self.share_segments(path))?;
        let status = data.join("pg_wal/archive_status");
        for name in &self.segments[waiting.min(self.segments.len())..] {
            durable_file::hand_over(
                &status.join(format!("{name}.ready")),
                &status.join(format!("{name}.done")),
            )?;
        }
        configure(
            &data,
            &["fsync = on".into(), "synchronous_commit = on".into()],
        )?;
        configure(&data, lines)?;
        Ok(data)
    }

    /// Makes a copy of the cluster as it was before, that will recover to the end of the last segment
    /// and then stop. `with_wal` puts the segments into `pg_wal`.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be written.
    pub fn cluster_before(&self, with_wal: bool, restoring: &str) -> Result<PathBuf> {
        let data = self.fresh_data()?;
        copy_directory(&self.before, &data, &|_| Treatment::Copy)?;
        if with_wal {
            for name in &self.segments {
                let to = data.join("pg_wal").join(name);
                let _ = fs::remove_file(&to);
                fs::hard_link(self.segment(name), &to)
                    .with_context(|| format!("link \"{}\"", to.display()))?;
            }
        }
        let last = self.segments.last().context("find the last segment")?;
        let lines = [
            "fsync = on".into(),
            "archive_mode = off".into(),
            "wal_keep_size = 0".into(),
            restoring.to_owned(),
            // A record in the last segment, so that no later one is asked for.
            format!("recovery_target_lsn = '{}'", last_quarter(last)?),
            "recovery_target_action = shutdown".into(),
        ];
        configure(&data, &lines)?;
        let signal = data.join("recovery.signal");
        fs::write(&signal, "").with_context(|| format!("write \"{}\"", signal.display()))?;
        Ok(data)
    }

    /// Removes everything.
    ///
    /// # Errors
    ///
    /// Fails when something cannot be removed.
    pub fn remove(self) -> Result<()> {
        fs::remove_dir_all(&self.home)
            .with_context(|| format!("remove \"{}\"", self.home.display()))
    }

    /// Makes a directory with every segment in it, to be moved away, and returns it.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be made.
    pub fn ready_segments(&self) -> Result<PathBuf> {
        let ready = self.data_of_run().with_extension("ready");
        if ready.exists() {
            fs::remove_dir_all(&ready)
                .with_context(|| format!("remove \"{}\"", ready.display()))?;
        }
        fs::create_dir(&ready).with_context(|| format!("create \"{}\"", ready.display()))?;
        for name in &self.segments {
            let to = ready.join(name);
            fs::hard_link(self.segment(name), &to)
                .with_context(|| format!("link \"{}\"", to.display()))?;
        }
        Ok(ready)
    }

    /// Where the cluster of a run lies.
    pub fn data_of_run(&self) -> PathBuf {
        self.home.join("run")
    }

    fn fresh_data(&self) -> Result<PathBuf> {
        let data = self.data_of_run();
        if data.exists() {
            fs::remove_dir_all(&data).with_context(|| format!("remove \"{}\"", data.display()))?;
        }
        Ok(data)
    }

    /// The segments are read and never written, so a second name is as good as a copy.
    fn share_segments(&self, path: &Path) -> Treatment {
        let name = path.file_name().and_then(|name| name.to_str());
        if name.is_some_and(|name| self.segments.iter().any(|segment| segment == name)) {
            Treatment::Link
        } else {
            Treatment::Copy
        }
    }
}

/// The segments that wait to be archived in the cluster `data`, in their order.
pub fn ready(data: &Path) -> Result<Vec<String>> {
    let status = data.join("pg_wal/archive_status");
    let mut names: Vec<String> = fs::read_dir(&status)
        .with_context(|| format!("read \"{}\"", status.display()))?
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            name.strip_suffix(".ready").map(String::from)
        })
        .collect();
    names.sort();
    Ok(names)
}

/// The address three quarters into segment `name` of 16 MiB.
fn last_quarter(name: &str) -> Result<wal::Lsn> {
    let number = |digits: &str| {
        u64::from_str_radix(digits, 16)
            .with_context(|| format!("read the name of segment \"{name}\""))
    };
    let (high, low) = (number(&name[8..16])?, number(&name[16..24])?);
    Ok(wal::Lsn(
        (high << 32) + low * SEGMENT_BYTES + SEGMENT_BYTES / 4 * 3,
    ))
}

fn write_compressible(cluster: &Cluster, count: u32) -> Result<()> {
    cluster
        .client_program("pgbench")
        .args(["-i", "-q", "-s", "10", "postgres"])
        .run()?;
    // pgbench fills its rows with spaces, which no application does.
    cluster.psql("UPDATE pgbench_accounts SET filler = md5(aid::text) || md5((-aid)::text)")?;
    cluster.psql("CREATE TABLE documents (id bigint PRIMARY KEY, body jsonb)")?;
    let rows = 20_000;
    for round in 0_u64.. {
        if enough(cluster, count)? {
            return Ok(());
        }
        cluster
            .client_program("pgbench")
            .args(["-n", "-c", "2", "-t", "2500"])
            .arg(format!("--random-seed={}", SEED + round))
            .arg("postgres")
            .run()?;
        cluster.psql(&format!(
            "INSERT INTO documents SELECT i, jsonb_build_object(\
                 'id', i, 'customer', 'customer-' || (i * 7919 % 5003), \
                 'mail', md5((i % 5003)::text) || '@shop.example', \
                 'placed', timestamptz '2026-01-01 00:00+00' + i * interval '7 seconds', \
                 'lines', (SELECT jsonb_agg(jsonb_build_object(\
                     'article', 1000 + (i * 31 + j * 17) % 900, 'count', 1 + (i + j) % 5, \
                     'price', ((i * 13 + j * 7) % 10000) / 100.0)) FROM generate_series(1, 3) j), \
                 'token', md5(i::text) || md5((i + 1)::text) || md5((i + 2)::text)) \
             FROM generate_series({}, {}) i",
            round * rows + 1,
            (round + 1) * rows,
        ))?;
        // The pages touched next are written to the WAL whole, as they are on any busy server.
        cluster.psql("CHECKPOINT")?;
    }
    Ok(())
}

fn write_incompressible(cluster: &Cluster, count: u32) -> Result<()> {
    cluster.psql("CREATE TABLE noise (bytes bytea)")?;
    cluster.psql("ALTER TABLE noise ALTER bytes SET STORAGE EXTERNAL")?;
    let mut client = cluster.connect()?;
    let mut random = Random::new(SEED);
    // Four rows fill a page.
    let mut row = [0; 1960];
    while !enough(cluster, count)? {
        let mut copy = client
            .copy_in("COPY noise FROM STDIN (FORMAT binary)")
            .context("write random rows")?;
        let write = |copy: &mut postgres::CopyInWriter<'_>, bytes: &[u8]| {
            copy.write_all(bytes).context("write random rows")
        };
        // Signature, flags and the length of an extension that there is not; then rows of one field.
        write(&mut copy, b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0")?;
        for _ in 0..8192 {
            for word in row.chunks_mut(8) {
                word.copy_from_slice(&random.next_u64().to_le_bytes());
            }
            write(&mut copy, &1_i16.to_be_bytes())?;
            write(&mut copy, &1960_i32.to_be_bytes())?;
            write(&mut copy, &row)?;
        }
        write(&mut copy, &(-1_i16).to_be_bytes())?;
        copy.finish().context("write random rows")?;
    }
    Ok(())
}

fn enough(cluster: &Cluster, count: u32) -> Result<bool> {
    Ok(ready(cluster.data())?.len() >= count as usize)
}

/// How a file comes into a copy.
enum Treatment {
    Copy,
    Link,
}

/// Copies a directory with its modes.
fn copy_directory(from: &Path, to: &Path, treat: &impl Fn(&Path) -> Treatment) -> Result<()> {
    let context = || format!("copy \"{}\"", from.display());
    fs::create_dir(to).with_context(context)?;
    for entry in fs::read_dir(from).with_context(context)? {
        let entry = entry.with_context(context)?;
        let target = to.join(entry.file_name());
        if entry.file_type().with_context(context)?.is_dir() {
            copy_directory(&entry.path(), &target, treat)?;
        } else if matches!(treat(&entry.path()), Treatment::Link) {
            fs::hard_link(entry.path(), &target).with_context(context)?;
        } else {
            copy_file(&entry.path(), &target)
                .with_context(|| format!("copy \"{}\"", entry.path().display()))?;
        }
    }
    fs::set_permissions(to, fs::Permissions::from_mode(0o700)).with_context(context)
}

fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    io::copy(&mut fs::File::open(from)?, &mut fs::File::create(to)?)?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o600))
}

fn configure(data: &Path, lines: &[String]) -> Result<()> {
    let path = data.join("postgresql.conf");
    fs::File::options()
        .append(true)
        .open(&path)
        .and_then(|mut file| writeln!(file, "{}", lines.join("\n")))
        .with_context(|| format!("write to \"{}\"", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_of_a_replay_is_in_the_last_segment() -> Result<()> {
        assert_eq!(
            last_quarter("000000010000000200000003")?.to_string(),
            "2/3C00000"
        );
        Ok(())
    }
}
