//! One cluster: initdb, configuration, start, stop, and the questions a test asks it.

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use command::Command;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use postgres::NoTls;
use wal::{Lsn, TimelineId};

use crate::ledger::{Ledger, LedgerOptions};
use crate::programs::{self, Run};
use crate::server::Server;
use crate::{complain, wait_until};

/// The instance that every cluster's settings file describes.
const INSTANCE: &str = "main";
/// The longest path of a Unix socket, in bytes, without the final zero: `sun_path` in unix(7).
const LONGEST_SOCKET_PATH: usize = 107;

/// How to make a cluster. The default has 16 MiB segments, checksums and no archiving.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// Size of a WAL segment, in MiB.
    pub segment_size_mib: u32,
    /// Whether data pages carry checksums.
    pub checksums: bool,
    /// Whether to archive with our programs. Then `backstay archive init` is run too.
    pub archiving: bool,
    /// Lines at the end of `postgresql.conf`, after ours.
    pub configuration: Vec<String>,
    /// What to change in the settings file: objects are merged, any other value replaces ours, and
    /// null removes the key.
    pub settings: serde_json::Value,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            segment_size_mib: 16,
            checksums: true,
            archiving: false,
            configuration: Vec::new(),
            settings: serde_json::json!({}),
        }
    }
}

impl ClusterOptions {
    /// The default, with archiving by our programs.
    #[must_use]
    pub fn archiving() -> Self {
        Self {
            archiving: true,
            ..Self::default()
        }
    }

    /// Sets the size of a WAL segment, in MiB.
    #[must_use]
    pub fn segment_size_mib(mut self, mebibytes: u32) -> Self {
        self.segment_size_mib = mebibytes;
        self
    }

    /// Adds a line to `postgresql.conf`.
    #[must_use]
    pub fn configure(mut self, line: impl Into<String>) -> Self {
        self.configuration.push(line.into());
        self
    }

    /// Merges `change` into the settings file.
    #[must_use]
    pub fn settings(mut self, change: &serde_json::Value) -> Self {
        merge(&mut self.settings, change);
        self
    }
}

/// How to stop a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    /// Waits for the clients to leave.
    Smart,
    /// Ends the clients, writes a checkpoint and archives what is left.
    Fast,
    /// Ends everything at once, so that the next start recovers.
    Immediate,
}

impl StopMode {
    fn as_str(self) -> &'static str {
        match self {
            Self::Smart => "smart",
            Self::Fast => "fast",
            Self::Immediate => "immediate",
        }
    }
}

/// Where a transaction was committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Its transaction id.
    pub xid: u64,
    /// The timeline it was committed on.
    pub timeline: TimelineId,
    /// Where its commit record starts: replaying up to here, exclusively, leaves it out.
    pub start: Lsn,
    /// Where the record after its commit record starts.
    pub end: Lsn,
    /// The time in the commit record, to the microsecond, which `recovery_target_time` is compared with.
    pub time: jiff::Timestamp,
}

/// A cluster. Dropping it ends its server, gently if possible.
#[derive(Debug)]
pub struct Cluster {
    server: Server,
    home: PathBuf,
    data: PathBuf,
    socket: PathBuf,
    port: u16,
    settings: PathBuf,
    made_with: Vec<String>,
}

impl Cluster {
    pub(crate) fn create(server: &Server, home: &Path, options: ClusterOptions) -> Result<Self> {
        let mut cluster = Self {
            server: server.clone(),
            home: home.to_owned(),
            data: home.join("data"),
            socket: home.join("socket"),
            port: 5432,
            settings: home.join("settings.json"),
            made_with: Vec::new(),
        };
        for directory in [
            home,
            &cluster.socket,
            &cluster.archive(),
            &cluster.backups(),
        ] {
            fs::create_dir_all(directory)
                .with_context(|| format!("create \"{}\"", directory.display()))?;
        }
        check_socket_path(&cluster.socket, cluster.port)?;
        let initdb = cluster.initdb(&options);
        initdb.run()?;
        cluster.made_with.push(initdb.line());
        cluster.write_settings(&options.settings)?;
        let mut lines = cluster.base_configuration();
        if options.archiving {
            lines.extend(cluster.archiving_configuration()?);
        }
        lines.extend(options.configuration);
        for line in lines {
            cluster.configure(&line)?;
        }
        if options.archiving {
            let init = cluster
                .run("backstay", ["archive", "init", INSTANCE])?
                .expect_success()?;
            cluster.made_with.push(init.line);
        }
        Ok(cluster)
    }

    pub(crate) fn adopt(server: &Server, data: &Path, settings: &Path) -> Result<Self> {
        let home = data
            .parent()
            .with_context(|| format!("find the directory of \"{}\"", data.display()))?;
        // Short, whatever the name of the data directory is: a socket's path has little room.
        let socket = tempfile::Builder::new()
            .prefix("s")
            .rand_bytes(4)
            .disable_cleanup(true)
            .tempdir_in(home)
            .with_context(|| format!("make a directory in \"{}\"", home.display()))?;
        let cluster = Self {
            server: server.clone(),
            home: home.to_owned(),
            data: data.to_owned(),
            socket: socket.path().to_owned(),
            port: 5432,
            settings: settings.to_owned(),
            made_with: Vec::new(),
        };
        check_socket_path(&cluster.socket, cluster.port)?;
        Ok(cluster)
    }

    pub(crate) fn take_over(
        server: &Server,
        data: &Path,
        socket: &Path,
        port: u16,
        settings: &Path,
    ) -> Self {
        Self {
            server: server.clone(),
            home: data.parent().unwrap_or(data).to_owned(),
            data: data.to_owned(),
            socket: socket.to_owned(),
            port,
            settings: settings.to_owned(),
            made_with: Vec::new(),
        }
    }

    fn initdb(&self, options: &ClusterOptions) -> Command {
        let initdb = self
            .server
            .command("initdb")
            // The files are synced when the server first stops or a base backup is taken; a test
            // that loses power right after initdb has lost nothing.
            .args(["--no-sync", "--auth=trust", "--username=postgres"])
            .args(["--encoding=UTF8", "--locale=C"])
            .arg(format!("--wal-segsize={}", options.segment_size_mib))
            .arg("--pgdata")
            .arg(&self.data);
        if options.checksums {
            initdb.arg("--data-checksums")
        } else if self.server.major() >= 18 {
            // On by default from PostgreSQL 18 on; older ones do not have the option.
            initdb.arg("--no-data-checksums")
        } else {
            initdb
        }
    }

    fn base_configuration(&self) -> Vec<String> {
        vec![
            "listen_addresses = ''".into(),
            format!("unix_socket_directories = {}", literal(&self.socket)),
            format!("port = {}", self.port),
            "wal_level = replica".into(),
            "shared_buffers = 32MB".into(),
            // A killed server would leave segments behind in /dev/shm; like this everything of it
            // lies below its data directory.
            "dynamic_shared_memory_type = mmap".into(),
            "timezone = 'UTC'".into(),
            "log_timezone = 'UTC'".into(),
            "log_line_prefix = '%m [%p] '".into(),
        ]
    }

    /// The lines of `postgresql.conf` that archive and restore with our programs.
    fn archiving_configuration(&self) -> Result<Vec<String>> {
        let command = |name: &str, rest: &str| -> Result<String> {
            let line = programs::program(name)?
                .arg("--config")
                .arg(&self.settings)
                .line();
            // PostgreSQL replaces %p and %f, and reads %% as %.
            Ok(literal(format!("{} {rest}", line.replace('%', "%%"))))
        };
        Ok(vec![
            "archive_mode = on".into(),
            format!("archive_command = {}", command("pg-archive-wal", "%p")?),
            format!("restore_command = {}", command("pg-restore-wal", "%f %p")?),
        ])
    }

    fn write_settings(&self, change: &serde_json::Value) -> Result<()> {
        let mut settings = serde_json::json!({
            "instance": INSTANCE,
            "postgresql": {
                "binDirectory": self.server.bin(),
                "dataDirectory": self.data,
                "socketDirectory": self.socket,
                "port": self.port,
            },
            "archive": { "directory": self.archive() },
            "baseBackup": { "directory": self.backups(), "fastCheckpoint": true },
        });
        merge(&mut settings, change);
        self.replace_settings(&settings)
    }

    fn replace_settings(&self, settings: &serde_json::Value) -> Result<()> {
        let text = format!("{settings:#}\n");
        fs::write(&self.settings, text)
            .with_context(|| format!("write \"{}\"", self.settings.display()))
    }

    /// The settings file.
    #[must_use]
    pub fn settings_path(&self) -> &Path {
        &self.settings
    }

    /// The settings, read from their file.
    ///
    /// # Errors
    ///
    /// Fails when the file cannot be read or used.
    pub fn settings(&self) -> Result<settings::Settings> {
        let text = fs::read_to_string(&self.settings)
            .with_context(|| format!("read \"{}\"", self.settings.display()))?;
        settings::Settings::parse(&text)
            .with_context(|| format!("use \"{}\"", self.settings.display()))
    }

    /// Merges `change` into the settings file: objects are merged, any other value replaces what is
    /// there, and null removes the key.
    ///
    /// # Errors
    ///
    /// Fails when the file cannot be read or written. Whether the result can be used is not checked.
    pub fn change_settings(&self, change: &serde_json::Value) -> Result<()> {
        let text = fs::read_to_string(&self.settings)
            .with_context(|| format!("read \"{}\"", self.settings.display()))?;
        let mut settings = serde_json::from_str(&text)
            .with_context(|| format!("parse \"{}\"", self.settings.display()))?;
        merge(&mut settings, change);
        self.replace_settings(&settings)
    }

    /// Adds a line to `postgresql.conf`. It is in force after a restart or a reload.
    ///
    /// # Errors
    ///
    /// Fails when the file cannot be written.
    pub fn configure(&self, line: &str) -> Result<()> {
        let path = self.data.join("postgresql.conf");
        fs::File::options()
            .append(true)
            .open(&path)
            .and_then(|mut file| writeln!(file, "{line}"))
            .with_context(|| format!("write to \"{}\"", path.display()))
    }

    /// The command lines that made it: initdb, and `backstay archive init` where archiving is wanted.
    #[must_use]
    pub fn made_with(&self) -> &[String] {
        &self.made_with
    }

    /// The server programs it runs with.
    #[must_use]
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// The directory of everything that belongs to this cluster.
    #[must_use]
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The data directory (PGDATA).
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The directory of the server's Unix socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The port in the name of the socket.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The archive, unless the settings were changed to another.
    #[must_use]
    pub fn archive(&self) -> PathBuf {
        self.home.join("archive")
    }

    /// The directory of the base backups, unless the settings were changed to another.
    #[must_use]
    pub fn backups(&self) -> PathBuf {
        self.home.join("backups")
    }

    /// The file with the server's messages, the one that `backstay` uses as well.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        log_beside(&self.data)
    }

    /// The server's messages so far, or nothing if it never ran.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(self.log_path())
            .map(|text| String::from_utf8_lossy(&text).into_owned())
            .unwrap_or_default()
    }

    /// Starts the server and waits until it takes connections, which a server in recovery does once it
    /// is consistent.
    ///
    /// # Errors
    ///
    /// Fails when it does not come up, with the last lines of its log.
    pub fn start(&self) -> Result<()> {
        let run = Run::of(
            &self
                .pg_ctl("start")
                .args(["-w", "-s", "-t"])
                .arg(crate::PATIENCE.as_secs().to_string())
                .arg("-l")
                .arg(self.log_path())
                // Where an adopted cluster's configuration says otherwise.
                .arg("-o")
                .arg(format!(
                    "-p {} -k {}",
                    self.port,
                    command::quoted(&self.socket.to_string_lossy())
                )),
        )?;
        if run.code() == Some(0) {
            return Ok(());
        }
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        bail!(
            "start the server on \"{}\": {}{}",
            self.data.display(),
            run.stderr,
            lines[lines.len().saturating_sub(20)..].join("\n")
        );
    }

    /// Stops the server and waits until it has ended.
    ///
    /// # Errors
    ///
    /// Fails when it does not run or does not stop.
    pub fn stop(&self, mode: StopMode) -> Result<()> {
        stop(&self.server, &self.data, mode)
    }

    /// Stops the server in fast mode and starts it again.
    ///
    /// # Errors
    ///
    /// Fails when either does.
    pub fn restart(&self) -> Result<()> {
        self.stop(StopMode::Fast)?;
        self.start()
    }

    /// Kills the server, every process that it started and every process those started, all with
    /// SIGKILL, and waits until they are gone.
    ///
    /// # Errors
    ///
    /// Fails when the server does not run.
    pub fn kill_hard(&self) -> Result<()> {
        let postmaster = postmaster(&self.data)
            .with_context(|| format!("no server runs on \"{}\"", self.data.display()))?;
        kill_tree(postmaster)
    }

    /// Copies the data directory to `to` as it is at one moment, as a snapshot would: every process of the
    /// server, if one runs, stands still meanwhile.
    ///
    /// # Errors
    ///
    /// Fails when the processes cannot be halted or the files not be copied. The server goes on then.
    pub fn copy_at_one_moment(&self, to: &Path) -> Result<()> {
        let halted = match postmaster(&self.data) {
            Some(postmaster) => halt_tree(postmaster)?,
            None => Vec::new(),
        };
        let copied = Command::new("/bin/cp")
            .arg("--archive")
            .arg(&self.data)
            .arg(to)
            .run();
        for pid in halted {
            signal(pid, Signal::SIGCONT)?;
        }
        copied.map(drop)
    }

    /// Whether a server runs on the data directory.
    #[must_use]
    pub fn is_running(&self) -> bool {
        postmaster(&self.data).is_some()
    }

    /// Waits until no server runs on the data directory, because it ended by itself.
    ///
    /// # Errors
    ///
    /// Fails when it still runs after [`crate::PATIENCE`].
    pub fn wait_until_ended(&self) -> Result<()> {
        wait_until("the server has ended", || {
            Ok((!self.is_running()).then_some(()))
        })
    }

    /// Runs `sql` in psql on database `postgres`; values are separated by `|` and rows by newlines.
    ///
    /// Several statements are one transaction.
    ///
    /// # Errors
    ///
    /// Fails when the server cannot be reached or a statement fails.
    pub fn psql(&self, sql: &str) -> Result<String> {
        self.psql_in("postgres", sql)
    }

    /// Runs `sql` as [`Cluster::psql`] does, on another database.
    ///
    /// # Errors
    ///
    /// As [`Cluster::psql`].
    pub fn psql_in(&self, database: &str, sql: &str) -> Result<String> {
        let output = self
            .client_program("psql")
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d"])
            .arg(database)
            .arg("-c")
            .arg(sql)
            .run()?;
        Ok(output.stdout.trim_end_matches('\n').to_owned())
    }

    /// Prepares to run one of PostgreSQL's client programs against this server, as user `postgres`.
    #[must_use]
    pub fn client_program(&self, name: &str) -> Command {
        self.server
            .command(name)
            .env("PGHOST", &self.socket)
            .env("PGPORT", self.port.to_string())
            .env("PGUSER", "postgres")
    }

    /// Connects to database `postgres`.
    ///
    /// # Errors
    ///
    /// Fails when the server cannot be reached.
    pub fn connect(&self) -> Result<postgres::Client> {
        self.connection()
            .connect(NoTls)
            .with_context(|| format!("connect to the server on \"{}\"", self.data.display()))
    }

    /// How to connect to database `postgres`, for a thread that does so by itself.
    #[must_use]
    pub fn connection(&self) -> postgres::Config {
        let mut config = postgres::Config::new();
        config
            .host_path(&self.socket)
            .port(self.port)
            .user("postgres")
            .dbname("postgres")
            .connect_timeout(crate::PATIENCE);
        config
    }

    /// Runs `sql` in a transaction of its own and tells where it was committed.
    ///
    /// # Errors
    ///
    /// Fails when a statement does, and when the statements wrote nothing: then there is no commit record.
    pub fn commit(&self, sql: &str) -> Result<Commit> {
        let mut client = self.connect()?;
        crate::ledger::install_reader(&mut client)?;
        let open = crate::ledger::OpenTransaction::begin(&mut client, sql)?;
        client.batch_execute("COMMIT").context("commit")?;
        open.commit_record(&mut client)
    }

    /// Starts writers that keep a ledger of what they committed.
    ///
    /// # Errors
    ///
    /// Fails when the server cannot be reached or the tables cannot be made.
    pub fn ledger(&self, options: &LedgerOptions) -> Result<Ledger> {
        Ledger::start(self, options)
    }

    /// Ends the current WAL segment and returns its name. There is always one to end, as a small
    /// record is written first.
    ///
    /// # Errors
    ///
    /// Fails when the server cannot be reached or is in recovery.
    pub fn switch_wal(&self) -> Result<String> {
        self.psql("SELECT pg_logical_emit_message(true, 'testbed', '')")?;
        // One byte back: at the very start of a segment, versions differ in which one they name.
        self.psql("SELECT pg_walfile_name(pg_switch_wal() - 1::numeric)")
    }

    /// Waits until the WAL segment `name` and all before it on its timeline are archived.
    ///
    /// # Errors
    ///
    /// Fails after [`crate::PATIENCE`], with the end of the server's log.
    pub fn wait_archived(&self, name: &str) -> Result<()> {
        let status = self.data.join("pg_wal/archive_status");
        let timeline = &name[..8.min(name.len())];
        let done = || -> Result<Option<()>> {
            let waiting = fs::read_dir(&status)
                .with_context(|| format!("read \"{}\"", status.display()))?
                .flatten()
                .filter_map(|entry| entry.file_name().into_string().ok())
                .any(|file| {
                    file.strip_suffix(".ready")
                        .is_some_and(|ready| ready.starts_with(timeline) && ready <= name)
                });
            // A segment that was neither announced nor archived yet has no status file at all.
            let announced =
                status.join(format!("{name}.done")).exists() || !self.wal_file_exists(name);
            Ok((!waiting && announced).then_some(()))
        };
        wait_until(&format!("WAL file \"{name}\" is archived"), done).with_context(|| {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            lines[lines.len().saturating_sub(10)..].join("\n")
        })
    }

    /// The WAL files that PostgreSQL wants archived and that are not yet, in the order of their names.
    ///
    /// # Errors
    ///
    /// Fails when the directory cannot be read.
    pub fn ready_files(&self) -> Result<Vec<String>> {
        let status = self.data.join("pg_wal/archive_status");
        let mut ready: Vec<String> = fs::read_dir(&status)
            .with_context(|| format!("read \"{}\"", status.display()))?
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                name.strip_suffix(".ready").map(ToOwned::to_owned)
            })
            .collect();
        ready.sort();
        Ok(ready)
    }

    fn wal_file_exists(&self, name: &str) -> bool {
        self.data.join("pg_wal").join(name).exists()
    }

    /// Ends the current WAL segment, waits until it is archived and returns its name.
    ///
    /// # Errors
    ///
    /// Fails when either does.
    pub fn archive_everything(&self) -> Result<String> {
        let name = self.switch_wal()?;
        self.wait_archived(&name)?;
        Ok(name)
    }

    /// Waits until the server has left recovery.
    ///
    /// # Errors
    ///
    /// Fails when the server cannot be reached, and after [`crate::PATIENCE`].
    pub fn wait_until_promoted(&self) -> Result<()> {
        wait_until("the server has left recovery", || {
            Ok((self.psql("SELECT pg_is_in_recovery()")? == "f").then_some(()))
        })
    }

    /// Runs our program `name` with `arguments` and this cluster's `--config`, to its end, whatever
    /// that is.
    ///
    /// # Errors
    ///
    /// Fails when the program has not been built or cannot be started.
    pub fn run<S: AsRef<OsStr>>(
        &self,
        name: &str,
        arguments: impl IntoIterator<Item = S>,
    ) -> Result<Run> {
        Run::of(&self.program(name, arguments)?)
    }

    /// Prepares what [`Cluster::run`] runs, so that a test can add to it.
    ///
    /// # Errors
    ///
    /// Fails when the program has not been built.
    pub fn program<S: AsRef<OsStr>>(
        &self,
        name: &str,
        arguments: impl IntoIterator<Item = S>,
    ) -> Result<Command> {
        let command = programs::program(name)?
            .args(arguments)
            .arg("--config")
            .arg(&self.settings);
        // The server starts these two in its data directory and names files relative to it.
        let started_by_server = matches!(name, "pg-archive-wal" | "pg-restore-wal");
        Ok(if started_by_server && self.data.is_dir() {
            command.directory(&self.data)
        } else {
            command
        })
    }

    fn pg_ctl(&self, action: &str) -> Command {
        self.server
            .command("pg_ctl")
            .arg(action)
            .arg("-D")
            .arg(&self.data)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(err) = end_server(&self.server, &self.data) {
            complain(&err);
        }
    }
}

/// Stops the server on `data` and waits until it has ended.
fn stop(server: &Server, data: &Path, mode: StopMode) -> Result<()> {
    server
        .command("pg_ctl")
        .args(["stop", "-s", "-w", "-m", mode.as_str(), "-t"])
        .arg(crate::PATIENCE.as_secs().to_string())
        .arg("-D")
        .arg(data)
        .run()
        .map(drop)
}

/// Ends whatever server runs on `data` and removes what a killed one left outside of it.
pub(crate) fn end_server(server: &Server, data: &Path) -> Result<()> {
    if let Some(postmaster) = postmaster(data) {
        // A test is over: nobody reads what it left, so there is no need for a checkpoint.
        stop(server, data, StopMode::Immediate).or_else(|_| kill_tree(postmaster))?;
    }
    remove_shared_memory(data)
}

/// The process id of the server that runs on `data`, if one does.
fn postmaster(data: &Path) -> Option<Pid> {
    let text = fs::read_to_string(data.join("postmaster.pid")).ok()?;
    let pid = Pid::from_raw(text.lines().next()?.trim().parse().ok()?);
    // The file of a killed server stays, and its number may be another process's by now.
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    (name.trim() == "postgres" && !has_ended(pid)).then_some(pid)
}

/// Whether process `pid` is gone, or dead and only waits for its parent to ask.
fn has_ended(pid: Pid) -> bool {
    process_state(pid).is_none_or(|(state, _)| matches!(state, 'Z' | 'X'))
}

/// State and parent of process `pid`, as in proc(5).
fn process_state(pid: Pid) -> Option<(char, Pid)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field, the name in parentheses, may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, Pid::from_raw(fields.next()?.parse().ok()?)))
}

/// Kills `root` and everything that it started, directly or not, and waits until all are gone.
fn kill_tree(root: Pid) -> Result<()> {
    // Stopped first, so that it starts nothing while its children are looked for.
    signal(root, Signal::SIGSTOP)?;
    let mut doomed = vec![root];
    let mut next = 0;
    while let Some(&parent) = doomed.get(next) {
        doomed.extend(children(parent)?);
        next += 1;
    }
    for &pid in &doomed {
        signal(pid, Signal::SIGKILL)?;
    }
    // To the bitter end: a dead process that its new parent has not yet asked for still has its
    // number, and PostgreSQL would take the number in postmaster.pid for a running server.
    wait_until("the killed processes are gone", || {
        let gone = |&pid: &Pid| process_state(pid).is_none();
        Ok(doomed.iter().all(gone).then_some(()))
    })
}

/// Halts `root` and everything that it started, and returns once none of them does anything.
fn halt_tree(root: Pid) -> Result<Vec<Pid>> {
    signal(root, Signal::SIGSTOP)?;
    let is_still = |pid: Pid| process_state(pid).is_none_or(|(state, _)| "TZX".contains(state));
    wait_until("the server's first process stands still", || {
        Ok(is_still(root).then_some(()))
    })?;
    let mut halted = vec![root];
    let mut next = 0;
    while let Some(&parent) = halted.get(next) {
        for child in children(parent)? {
            signal(child, Signal::SIGSTOP)?;
            halted.push(child);
        }
        next += 1;
    }
    wait_until("the server's processes stand still", || {
        Ok(halted.iter().all(|&pid| is_still(pid)).then_some(()))
    })?;
    Ok(halted)
}

/// The processes that `parent` started and that still run.
fn children(parent: Pid) -> Result<Vec<Pid>> {
    Ok(fs::read_dir("/proc")
        .context("read \"/proc\"")?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .map(Pid::from_raw)
        .filter(|&pid| process_state(pid).is_some_and(|(_, of)| of == parent))
        .collect())
}

/// Sends a signal; a process that has just ended is no error.
fn signal(pid: Pid, signal: Signal) -> Result<()> {
    match kill(pid, signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(err) => Err(err).with_context(|| format!("send {signal} to process {pid}")),
    }
}

/// Removes the System V segment of a killed server, by which a second server would notice it.
///
/// # Source
///
/// `AddToDataDirLockFile()` in `miscinit.c`: key and id of the segment are line 7 of `postmaster.pid`.
fn remove_shared_memory(data: &Path) -> Result<()> {
    let Ok(text) = fs::read_to_string(data.join("postmaster.pid")) else {
        return Ok(());
    };
    if let Some(id) = text
        .lines()
        .nth(6)
        .and_then(|line| line.split_whitespace().nth(1))
    {
        // It may be gone already.
        Command::new("/usr/bin/ipcrm")
            .args(["-m", id])
            .run_any_status()?;
    }
    Ok(())
}

/// The log file of the server on `data`, the default of our settings.
fn log_beside(data: &Path) -> PathBuf {
    let mut name = data.as_os_str().to_owned();
    name.push(".log");
    name.into()
}

/// Writes `value` as a string of `postgresql.conf`.
fn literal(value: impl AsRef<OsStr>) -> String {
    format!("'{}'", value.as_ref().to_string_lossy().replace('\'', "''"))
}

/// Fails when the server could not make its socket below `directory`.
fn check_socket_path(directory: &Path, port: u16) -> Result<()> {
    let socket = directory.join(format!(".s.PGSQL.{port}"));
    let length = socket.as_os_str().len();
    if length > LONGEST_SOCKET_PATH {
        bail!(
            "socket \"{}\" has {length} bytes in its path, and {LONGEST_SOCKET_PATH} are possible\nhint: set TMPDIR to a shorter path",
            socket.display()
        );
    }
    Ok(())
}

/// Merges `change` into `value`: objects key by key, with null removing a key; anything else replaces.
fn merge(value: &mut serde_json::Value, change: &serde_json::Value) {
    let serde_json::Value::Object(changes) = change else {
        *value = change.clone();
        return;
    };
    if !value.is_object() {
        *value = serde_json::json!({});
    }
    for (key, change) in changes {
        if change.is_null() {
            if let Some(object) = value.as_object_mut() {
                object.remove(key);
            }
        } else {
            merge(&mut value[key], change);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_change_of_settings_reaches_into_objects_and_null_removes_a_key() {
        let mut settings = json!({ "archive": { "directory": "/a", "threads": 2 }, "port": 1 });
        merge(
            &mut settings,
            &json!({ "archive": { "threads": 1 }, "port": null, "new": { "a": [1] } }),
        );
        assert_eq!(
            settings,
            json!({ "archive": { "directory": "/a", "threads": 1 }, "new": { "a": [1] } })
        );
    }

    #[test]
    fn a_socket_that_the_server_could_not_make_is_refused_with_a_way_out() {
        let long = PathBuf::from(format!("/{}", "a".repeat(100)));
        let message = check_socket_path(&long, 5432).unwrap_err().to_string();
        assert!(
            message.ends_with("hint: set TMPDIR to a shorter path"),
            "{message}"
        );
        check_socket_path(Path::new("/tmp/backstay-abcdef/main/socket"), 5432).unwrap();
    }

    #[test]
    fn quotes_in_a_path_survive_the_configuration_file() {
        assert_eq!(literal("it's"), "'it''s'");
    }
}
