//! Running cargo, apt and the tests: with the caller's environment, and never longer than they may.
//!
//! The `command` crate clears the environment, as a program that works for a database should. Here it
//! is wanted: cargo and apt are configured by it, and a person watches what they print.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

/// How often a running program is looked at.
const TICK: Duration = Duration::from_millis(20);
/// How long what a program started may outlive it: the last call of an archive command, for example.
const GRACE: Duration = Duration::from_secs(3);

/// Prepares to run a program, found in `PATH`, with the environment of the caller.
#[expect(
    clippy::disallowed_methods,
    reason = "cargo and apt need the environment that the command crate clears"
)]
pub fn command(program: impl AsRef<OsStr>) -> Command {
    Command::new(program)
}

/// The command line as a person would type it.
pub fn line(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| command::quoted(&word.to_string_lossy()))
        .collect::<Vec<_>>()
        .join(" ")
}

/// Runs a program whose output is the caller's.
///
/// # Errors
///
/// Fails when it cannot be started or ends with another status than 0.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("run {}", line(command)))?;
    if !status.success() {
        bail!("{} {}", line(command), command::how_it_ended(status));
    }
    Ok(())
}

/// Runs a program and returns its standard output; standard error is the caller's.
///
/// # Errors
///
/// Fails when it cannot be started or ends with another status than 0.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("run {}", line(command)))?;
    if !output.status.success() {
        bail!("{} {}", line(command), command::how_it_ended(output.status));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether `program` is in `PATH`.
pub fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        // A user's PATH often lacks these, and root's has them.
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|directory| directory.join(program).is_file())
}

/// Where a watched program writes.
#[derive(Clone, Copy, Debug)]
pub enum Output<'a> {
    /// To the caller's standard output and standard error.
    Inherited,
    /// To these two files. Not to pipes: a process left behind would hold them open.
    Files {
        /// For standard output.
        stdout: &'a Path,
        /// For standard error.
        stderr: &'a Path,
    },
}

/// How a watched program ended.
#[derive(Debug)]
pub enum End {
    /// By itself.
    Status(ExitStatus),
    /// It was killed because its time was over.
    TooLate,
}

/// What became of a watched program.
#[derive(Debug)]
pub struct Watched {
    /// How it ended.
    pub end: End,
    /// How long it ran.
    pub elapsed: Duration,
    /// Names of the processes that it left behind, with their number; they were killed.
    left_behind: BTreeMap<String, usize>,
}

impl Watched {
    /// Says which processes it left behind, if it did.
    pub fn left_behind(&self) -> Option<String> {
        let names: Vec<String> = self
            .left_behind
            .iter()
            .map(|(name, count)| format!("{count} {name}"))
            .collect();
        (!names.is_empty()).then(|| format!("left processes behind: {}", names.join(", ")))
    }
}

/// Makes this process the parent of whatever its descendants leave behind.
///
/// A server started in the background loses its parent and becomes our child then, whatever session it
/// moved to, so that it can be found and ended.
///
/// # Errors
///
/// Fails when the operating system refuses.
pub fn adopt_orphans() -> Result<()> {
    nix::sys::prctl::set_child_subreaper(true).context("become the parent of orphans")
}

/// Waits until no child is left; meant for a process that adopts orphans and has nothing else running.
///
/// # Errors
///
/// Fails when the operating system cannot say.
pub fn wait_for_orphans() -> Result<()> {
    loop {
        match waitpid(None::<Pid>, None) {
            Ok(_) => {}
            Err(Errno::ECHILD) => return Ok(()),
            Err(err) => return Err(err).context("wait for orphans"),
        }
    }
}

/// Runs a program, kills it when `limit` has passed, and kills whatever it left running.
///
/// # Errors
///
/// Fails when it cannot be started or the files cannot be made, and when a person interrupts.
pub fn watch(command: &mut Command, limit: Duration, output: Output<'_>) -> Result<Watched> {
    adopt_orphans()?;
    command.stdin(Stdio::null());
    if let Output::Files { stdout, stderr } = output {
        let create = |path: &Path| {
            File::create(path).with_context(|| format!("create \"{}\"", path.display()))
        };
        command.stdout(create(stdout)?).stderr(create(stderr)?);
    }
    let (mut child, interruptions) = start(command)?;
    let own = Pid::from_raw(i32::try_from(child.id()).context("read a process id")?);
    let begun = Instant::now();
    let end = loop {
        if let Some(status) = child.try_wait().context("wait for a program")? {
            break End::Status(status);
        }
        if begun.elapsed() > limit {
            kill_descendants()?;
            child.wait().context("wait for a program")?;
            break End::TooLate;
        }
        if interruptions.has_come()? {
            kill_descendants()?;
            child.wait().context("wait for a program")?;
            bail!("interrupted");
        }
        reap_orphans(own)?;
        std::thread::sleep(TICK);
    };
    let elapsed = begun.elapsed();
    let mut left_behind = BTreeMap::new();
    let ended = Instant::now();
    loop {
        reap_orphans(own)?;
        let orphans = children_of(Pid::this())?;
        if orphans.is_empty() {
            break;
        }
        if ended.elapsed() > GRACE {
            if left_behind.is_empty() {
                for process in descendants()? {
                    *left_behind.entry(process.name).or_default() += 1;
                }
            }
            kill_descendants()?;
        }
        std::thread::sleep(TICK);
    }
    Ok(Watched {
        end,
        elapsed,
        left_behind,
    })
}

/// Starts a program that signals reach as usual, and holds them back from this one.
fn start(command: &mut Command) -> Result<(Child, Interruptions)> {
    let child = command
        .spawn()
        .with_context(|| format!("run {}", line(command)))?;
    Ok((child, Interruptions::hold_back()?))
}

/// The signals by which a person ends a program, held back so that there is time to end what was started.
///
/// A program inherits what is held back when it is started (`std::process` leaves the mask as it is), and then
/// nothing less than SIGKILL ends it: so this comes after the start, and ends with the watching.
struct Interruptions {
    held_back: SigSet,
    come: SignalFd,
}

impl Interruptions {
    fn hold_back() -> Result<Self> {
        let mut held_back = SigSet::empty();
        held_back.add(Signal::SIGINT);
        held_back.add(Signal::SIGTERM);
        held_back.thread_block().context("hold back signals")?;
        let come = SignalFd::with_flags(&held_back, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
            .context("ask for signals")?;
        Ok(Self { held_back, come })
    }

    fn has_come(&self) -> Result<bool> {
        let signal = self.come.read_signal().context("ask for signals")?;
        Ok(signal.is_some())
    }
}

impl Drop for Interruptions {
    fn drop(&mut self) {
        // Fails only for a mask that is none.
        let _ = self.held_back.thread_unblock();
    }
}

/// A process, as proc(5) describes it.
#[derive(Clone, Debug)]
struct Process {
    id: Pid,
    name: String,
    is_dead: bool,
}

/// The processes whose parent is `parent`.
fn children_of(parent: Pid) -> Result<Vec<Process>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").context("read \"/proc\"")? {
        let name = entry.context("read \"/proc\"")?.file_name();
        let Some(id) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // It may have ended since.
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{id}/stat")) else {
            continue;
        };
        // The name stands in parentheses and may hold some itself.
        let (Some((_, front)), Some((_, back))) = (
            stat.rsplit_once(')')
                .map(|(front, _)| front)
                .and_then(|f| f.split_once('(')),
            stat.rsplit_once(')'),
        ) else {
            continue;
        };
        let mut fields = back.split_whitespace();
        let state = fields.next().unwrap_or_default();
        if fields.next() == Some(&parent.to_string()) {
            found.push(Process {
                id: Pid::from_raw(id),
                name: front.to_owned(),
                is_dead: matches!(state, "Z" | "X"),
            });
        }
    }
    Ok(found)
}

/// Every process below this one.
fn descendants() -> Result<Vec<Process>> {
    let mut found = children_of(Pid::this())?;
    let mut next = 0;
    while let Some(process) = found.get(next) {
        found.extend(children_of(process.id)?);
        next += 1;
    }
    Ok(found)
}

fn kill_descendants() -> Result<()> {
    for process in descendants()? {
        // Gone already is as good.
        let _ = kill(process.id, Signal::SIGKILL);
    }
    Ok(())
}

/// Collects the dead among our children other than `own`, whose status somebody waits for.
fn reap_orphans(own: Pid) -> Result<()> {
    for process in children_of(Pid::this())? {
        if process.is_dead && process.id != own {
            let _ = waitpid(process.id, Some(WaitPidFlag::WNOHANG));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        reason = "a test ends by panicking when something cannot be arranged"
    )]

    use super::*;

    /// The second program is started after the first was watched: it must not inherit what was held back.
    #[test]
    fn signals_end_a_watched_program_and_every_one_after_it() {
        for _ in 0..2 {
            let mut sleep = command("sleep");
            let (mut child, interruptions) = start(sleep.arg("60")).unwrap();
            let id = Pid::from_raw(child.id().try_into().unwrap());
            let begun = Instant::now();
            let status = loop {
                kill(id, Signal::SIGTERM).unwrap();
                if let Some(status) = child.try_wait().unwrap() {
                    break status;
                }
                assert!(
                    begun.elapsed() < Duration::from_secs(20),
                    "it ignores SIGTERM"
                );
                std::thread::sleep(TICK);
            };
            assert_eq!(command::how_it_ended(status), "was killed by signal 15");
            assert!(!interruptions.has_come().unwrap());
        }
    }
}
