//! Another machine, over ssh.

use std::ffi::OsStr;
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use command::Command;
use settings::SshHost;
use tempfile::NamedTempFile;
use tool::Hinted;

/// The status of ssh for a connection that could not be made, or was lost.
///
/// # Source
///
/// ssh(1), EXIT STATUS.
pub const NO_CONNECTION: i32 = 255;

/// What a unit calls the key that ssh logs in with.
const CREDENTIAL: &str = "ssh-key";

/// Another machine that only the declared key is taken from, and where nobody is asked for a password.
#[derive(Debug)]
pub struct Ssh {
    program: PathBuf,
    host: SshHost,
    key: PathBuf,
    /// The key that the host has to show, as ssh wants it: in a file, which goes with this.
    known_hosts: NamedTempFile,
}

impl Ssh {
    /// Prepares to log in at `host`, with the key that systemd has handed to the unit, or else the declared one.
    ///
    /// # Errors
    ///
    /// Fails when `ssh` is not installed, there is no key to log in with, or no temporary file can be made.
    pub fn to(host: &SshHost) -> Result<Self> {
        let program = command::in_path("ssh").ok_or_else(|| {
            Hinted::new(
                "find \"ssh\" in PATH",
                "install OpenSSH; another machine cannot be asked without it",
            )
        })?;
        let declared = host.ssh_key_file.display();
        let key = std::env::var_os("CREDENTIALS_DIRECTORY")
            .map(|directory| PathBuf::from(directory).join(CREDENTIAL))
            .filter(|credential| credential.exists())
            .unwrap_or_else(|| host.ssh_key_file.clone());
        let text = std::fs::read(&key).with_context(|| format!("read the key \"{declared}\""))?;
        // What systemd gives a unit in the place of a file that is missing is empty.
        if text.iter().all(u8::is_ascii_whitespace) {
            return Err(Hinted::new(
                format!(
                    "the key \"{declared}\", with which \"{}\" would let this machine in, is missing",
                    host.host
                ),
                "put it there; a new machine needs it before anything has been restored",
            )
            .into());
        }
        let mut known_hosts = NamedTempFile::new().context("make a file for the host's key")?;
        writeln!(known_hosts, "{}", host.known_hosts)
            .context("write the key that the host has to show")?;
        Ok(Self {
            program,
            host: host.clone(),
            key,
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
            // What is configured for people on this machine is not meant.
            .args(["-F", "none", "-T", "-i"])
            .arg(&self.key)
            .args([
                "-oIdentitiesOnly=yes",
                // Nobody is there to type anything, and nobody but the declared host is believed.
                "-oBatchMode=yes",
                "-oStrictHostKeyChecking=yes",
                "-oGlobalKnownHostsFile=/dev/null",
                "-oUpdateHostKeys=no",
                "-oLogLevel=ERROR",
                // A host that falls silent is given up within a minute.
                "-oConnectTimeout=20",
                "-oServerAliveInterval=15",
                "-oServerAliveCountMax=4",
            ])
            .arg(format!("-oUserKnownHostsFile={known_hosts}"))
            .args(["-p", &host.port.to_string(), "-l", &host.user])
            .args(["--", &host.host, &line])
    }

    /// What it means that ssh ended with [`NO_CONNECTION`] and `said` this.
    #[must_use]
    pub fn unreachable(&self, said: &str) -> anyhow::Error {
        let SshHost {
            host, user, port, ..
        } = &self.host;
        Hinted::new(
            format!("host \"{host}\" could not be asked: {said}"),
            format!(
                "is it on, can it be reached, does it show the declared host key, and does it know this machine's key? `ssh -p {port} {user}@{host}` shows more"
            ),
        )
        .into()
    }
}
