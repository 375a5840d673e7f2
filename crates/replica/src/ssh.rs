//! Another machine, over ssh.

use std::ffi::OsStr;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitStatus;

use anyhow::{Context as _, Result};
use command::Command;
use settings::SshHost;
use tempfile::NamedTempFile;
use tool::Hinted;

/// The status of ssh when it got no answer from the program that it was to run.
///
/// # Source
///
/// ssh(1), EXIT STATUS.
const NO_ANSWER: i32 = 255;

/// Another machine that only the declared key is taken from, and nobody is asked for a password.
#[derive(Debug)]
pub struct Ssh {
    program: PathBuf,
    host: SshHost,
    /// The declared key, as ssh wants it: in a file, which goes with this.
    known_hosts: NamedTempFile,
}

impl Ssh {
    /// Prepares to log in at `host`.
    ///
    /// # Errors
    ///
    /// Fails when `ssh` is not installed, or no temporary file can be made.
    pub fn to(host: &SshHost) -> Result<Self> {
        let program = command::in_path("ssh").ok_or_else(|| {
            Hinted::new(
                "find \"ssh\" in PATH",
                "install OpenSSH; another machine cannot be asked without it",
            )
        })?;
        let mut known_hosts = NamedTempFile::new().context("make a file for the host's key")?;
        writeln!(known_hosts, "{}", host.known_hosts).context("write the host's key to a file")?;
        Ok(Self {
            program,
            host: host.clone(),
            known_hosts,
        })
    }

    /// Runs `program` with `arguments` there. What the shell there would take for something else is quoted.
    #[must_use]
    pub fn command<S: AsRef<OsStr>>(
        &self,
        program: &str,
        arguments: impl IntoIterator<Item = S>,
    ) -> Command {
        let host = &self.host;
        let line = std::iter::once(command::quoted(program))
            .chain(
                arguments
                    .into_iter()
                    .map(|word| command::quoted(&word.as_ref().to_string_lossy())),
            )
            .collect::<Vec<_>>()
            .join(" ");
        let known_hosts = self.known_hosts.path().display();
        Command::new(&self.program)
            // Nobody's own configuration counts, so that what works here works everywhere.
            .args(["-F", "none"])
            .arg("-i")
            .arg(&host.ssh_key_file)
            .args(["-p", &host.port.to_string(), "-l", &host.user])
            .args(
                [
                    "IdentitiesOnly=yes".to_owned(),
                    "BatchMode=yes".to_owned(),
                    "StrictHostKeyChecking=yes".to_owned(),
                    format!("UserKnownHostsFile={known_hosts}"),
                    "GlobalKnownHostsFile=none".to_owned(),
                    "UpdateHostKeys=no".to_owned(),
                    "ConnectTimeout=30".to_owned(),
                    // A connection whose other end is gone ends after a minute.
                    "ServerAliveInterval=15".to_owned(),
                    "ServerAliveCountMax=4".to_owned(),
                ]
                .iter()
                .flat_map(|option| ["-o", option]),
            )
            .args(["--", &host.host, &line])
    }

    /// What it means that ssh, or the program there, ended with `status` and said `last`.
    #[must_use]
    pub fn failure(&self, status: ExitStatus, last: &str) -> anyhow::Error {
        let SshHost { host, user, .. } = &self.host;
        if status.code() == Some(NO_ANSWER) {
            return Hinted::new(
                format!("\"{host}\" cannot be reached: {last}"),
                format!("does it run, does it show the declared host key, and may user \"{user}\" log in there with the declared key?"),
            )
            .into();
        }
        Hinted::new(
            format!("on \"{host}\": {last}"),
            format!("log in there as \"{user}\" and try the same"),
        )
        .into()
    }
}
