//! How another machine is reached.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::problem::Findings;

/// Another machine, and how to log in there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SshHost {
    /// The machine.
    pub host: String,
    /// The user there.
    pub user: String,
    /// The port of its SSH server.
    #[serde(default = "default_port")]
    pub port: u16,
    /// The private key.
    pub ssh_key_file: PathBuf,
    /// A line as in `known_hosts(5)` with the key that the other machine has to show.
    pub known_hosts: String,
}

impl SshHost {
    /// The port of an SSH server that was not told otherwise.
    pub(crate) const PORT: u16 = 22;

    /// Checks what types cannot express. The keys begin with `key`.
    pub(crate) fn check(&self, key: &str, findings: &mut Findings) {
        // ssh and syncoid would read a leading hyphen as an option, and `@` and `:` as separators.
        for (name, value, what) in [("host", &self.host, "host"), ("user", &self.user, "user")] {
            let is_plain = (1..=255).contains(&value.len())
                && !value.starts_with('-')
                && value
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
            if !is_plain {
                findings.say(
                    format!("{key}.{name}"),
                    format!("\"{value}\" is no name of a {what}"),
                );
            }
        }
        if self.port == 0 {
            findings.say(format!("{key}.port"), "0 is no port; use 1 to 65535");
        }
        findings.path(format!("{key}.sshKeyFile"), &self.ssh_key_file);
        if self.known_hosts.contains('\n') || self.known_hosts.split_whitespace().count() < 3 {
            findings.say(
                format!("{key}.knownHosts"),
                format!(
                    "{:?} is not one line with a host, a kind of key and the key",
                    self.known_hosts
                ),
            );
        }
    }
}

fn default_port() -> u16 {
    SshHost::PORT
}
