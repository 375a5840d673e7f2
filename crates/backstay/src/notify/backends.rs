//! Where messages go: apprise, with a configuration file for each message.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use command::Command;
use settings::Notifications;
use settings::notifications::{Backend, Priority};
use tool::Hinted;

use super::message::Message;

/// Sends messages by way of apprise.
pub struct Sender<'a> {
    settings: &'a Notifications,
    /// Where systemd puts the credentials.
    credentials: PathBuf,
}

/// What apprise is told, and what must not be repeated of it.
struct Address {
    /// The line of its configuration file.
    url: String,
    secrets: Vec<String>,
}

impl<'a> Sender<'a> {
    /// A sender with the credentials that systemd has given to this process.
    pub fn new(settings: &'a Notifications) -> Result<Self> {
        let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").ok_or_else(|| {
            Hinted::new(
                "CREDENTIALS_DIRECTORY is not set, so there are no secrets to send with",
                "start it by way of systemd: systemctl start notify@TEMPLATE:UNIT.service",
            )
        })?;
        Ok(Self {
            settings,
            credentials: credentials.into(),
        })
    }

    /// Gives the message to one backend, once.
    ///
    /// The secret is in a file that nobody else can read, and neither in the arguments nor in the
    /// environment, which every process of the user can see.
    pub fn send(&self, backend: Backend, message: &Message) -> Result<()> {
        let declared = &self.settings.backends;
        let missing = || anyhow!("it is not declared");
        let address = match backend {
            Backend::Apprise => {
                let apprise = declared.apprise.as_ref().ok_or_else(missing)?;
                let file = self.credentials.join(&apprise.url_credential);
                let secrets = self
                    .secret(&apprise.url_credential)?
                    .lines()
                    .map(|line| line.trim().to_owned())
                    .collect();
                return self.run(&file, secrets, message);
            }
            Backend::Pushover => {
                let pushover = declared.pushover.as_ref().ok_or_else(missing)?;
                let user = self.secret(&pushover.user_key_credential)?;
                let token = self.secret(&pushover.token_credential)?;
                pushover_address(user, token, message.priority)
            }
            Backend::Ntfy => {
                let ntfy = declared.ntfy.as_ref().ok_or_else(missing)?;
                let token = match &ntfy.token_credential {
                    Some(name) => Some(self.secret(name)?),
                    None => None,
                };
                ntfy_address(&ntfy.server, &ntfy.topic, token, message.priority)?
            }
            Backend::Healthchecks => {
                let healthchecks = declared.healthchecks.as_ref().ok_or_else(missing)?;
                let uuid = self.secret(&healthchecks.uuid_credential)?;
                healthchecks_address(&healthchecks.base_url, uuid, message.is_failure)?
            }
        };
        // Its mode is 0600 from the start, and it goes when this is over.
        let mut file = tempfile::Builder::new()
            .prefix("backstay-notify-")
            .suffix(".conf")
            .tempfile()
            .context("make a file for the address")?;
        writeln!(file, "{}", address.url).context("write the address")?;
        self.run(file.path(), address.secrets, message)
    }

    /// Reads a credential; one newline at its end is the editor's.
    fn secret(&self, name: &str) -> Result<String> {
        let path = self.credentials.join(name);
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("read credential \"{}\"", path.display()))?;
        let text = text.strip_suffix('\n').unwrap_or(&text);
        if text.is_empty() {
            bail!("credential \"{}\" is empty", path.display());
        }
        Ok(text.to_owned())
    }

    fn run(&self, config: &Path, secrets: Vec<String>, message: &Message) -> Result<()> {
        let limit = Duration::from_secs(self.settings.timeout_seconds.into());
        // With an empty text apprise would send nothing.
        let body = if message.body.trim().is_empty() {
            &message.title
        } else {
            &message.body
        };
        let answered = Command::new(&self.settings.apprise)
            .arg("--config")
            .arg(config)
            .arg("--title")
            .arg(&message.title)
            .arg("--notification-type")
            .arg(if message.is_failure {
                "failure"
            } else {
                "success"
            })
            // The log of a unit may be in any language.
            .env("LC_ALL", "C.UTF-8")
            .run_with_input(body, limit)?;
        let said = redacted(answered.said.trim(), secrets);
        match answered.status {
            Some(status) if status.success() => Ok(()),
            Some(status) => bail!(
                "apprise {}: {}",
                command::how_it_ended(status),
                said.lines().collect::<Vec<_>>().join("; ")
            ),
            None => bail!("apprise was not done within {} seconds", limit.as_secs()),
        }
    }
}

/// Takes out of what apprise says what must not be in a log.
fn redacted(said: &str, secrets: Vec<String>) -> String {
    let mut said = said.to_owned();
    for secret in secrets {
        for form in [quoted(&secret), secret] {
            if !form.is_empty() {
                said = said.replace(&form, "…");
            }
        }
    }
    said
}

/// Writes `text` as a part of a URL.
fn quoted(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
            byte if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

/// Splits `http[s]://HOST[/PATH]` into whether it is https, the host and the path.
fn parts(url: &str) -> Result<(bool, &str, &str)> {
    let (secure, rest) = match url.strip_prefix("https://") {
        Some(rest) => (true, rest),
        None => (
            false,
            url.strip_prefix("http://")
                .ok_or_else(|| anyhow!("\"{url}\" is not https:// or http:// and a host"))?,
        ),
    };
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    Ok((secure, host, path.trim_matches('/')))
}

fn pushover_address(user: String, token: String, priority: Priority) -> Address {
    let priority = match priority {
        Priority::Silent => -2,
        Priority::Low => -1,
        Priority::Normal => 0,
        Priority::High => 1,
        Priority::Emergency => 2,
    };
    Address {
        url: format!(
            "pover://{}@{}?priority={priority}",
            quoted(&user),
            quoted(&token)
        ),
        secrets: vec![user, token],
    }
}

fn ntfy_address(
    server: &str,
    topic: &str,
    token: Option<String>,
    priority: Priority,
) -> Result<Address> {
    let (secure, host, path) = parts(server)?;
    if !path.is_empty() {
        return Err(Hinted::new(
            format!("\"{server}\" has a path, and apprise reaches ntfy only at the top of a host"),
            "give ntfy a host name of its own",
        )
        .into());
    }
    let scheme = if secure { "ntfys" } else { "ntfy" };
    let priority = match priority {
        Priority::Silent => 1,
        Priority::Low => 2,
        Priority::Normal => 3,
        Priority::High => 4,
        Priority::Emergency => 5,
    };
    // Without the mode apprise guesses from the host's name whether it is a topic of ntfy.sh.
    let (login, query) = match &token {
        Some(token) => (format!("{}@", quoted(token)), "auth=token&"),
        None => (String::new(), ""),
    };
    Ok(Address {
        url: format!(
            "{scheme}://{login}{host}/{}?{query}mode=private&priority={priority}",
            quoted(topic)
        ),
        secrets: token.into_iter().collect(),
    })
}

/// apprise has no service of that name; a check is pinged by any request, with the message in it.
fn healthchecks_address(base_url: &str, uuid: String, is_failure: bool) -> Result<Address> {
    let (secure, host, path) = parts(base_url)?;
    let scheme = if secure { "jsons" } else { "json" };
    let slash = if path.is_empty() { "" } else { "/" };
    let end = if is_failure { "/fail" } else { "" };
    Ok(Address {
        url: format!("{scheme}://{host}/{path}{slash}{}{end}", quoted(&uuid)),
        secrets: vec![uuid],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_backend_has_an_address_in_apprises_form() {
        let ntfy = |server: &str, token: Option<&str>| {
            ntfy_address(server, "alerts", token.map(Into::into), Priority::High)
                .unwrap()
                .url
        };
        assert_eq!(
            ntfy("https://ntfy.sh", None),
            "ntfys://ntfy.sh/alerts?mode=private&priority=4"
        );
        assert_eq!(
            ntfy("http://[::1]:8080/", Some("tk_a/b")),
            "ntfy://tk_a%2Fb@[::1]:8080/alerts?auth=token&mode=private&priority=4"
        );
        let check = |url: &str, is_failure| {
            healthchecks_address(url, "u-1".into(), is_failure)
                .unwrap()
                .url
        };
        assert_eq!(
            check("https://hc-ping.com", true),
            "jsons://hc-ping.com/u-1/fail"
        );
        assert_eq!(
            check("http://hc.example.org/ping/", false),
            "json://hc.example.org/ping/u-1"
        );
        assert_eq!(
            pushover_address("user".into(), "to@ken".into(), Priority::Emergency).url,
            "pover://user@to%40ken?priority=2"
        );
    }

    #[test]
    fn a_server_that_apprise_cannot_reach_is_refused_with_a_way_out() {
        let err = ntfy_address("https://example.org/ntfy", "alerts", None, Priority::Low);
        let Err(err) = err else { panic!("taken") };
        assert_eq!(
            tool::hint_of(&err),
            Some("give ntfy a host name of its own")
        );
    }

    #[test]
    fn secrets_are_taken_out_of_what_apprise_says() {
        assert_eq!(
            redacted("bad URL x://a%2Fb@host of a/b", vec!["a/b".into()]),
            "bad URL x://…@host of …"
        );
    }
}
