//! The settings file of `backstay notify`: whom to tell, and in which words.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::problem::{Findings, Problems, is_plain_name};
use crate::reading;

/// Whom `backstay notify` tells and in which words, usually `/etc/backstay/notifications.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Notifications {
    /// Name of this machine, in the messages.
    pub host_name: String,
    /// Directory in which it is remembered what was told and when.
    pub state_directory: PathBuf,
    /// The program `apprise`, which does the sending.
    pub apprise: PathBuf,
    /// How often a backend is tried that does not take a message, the first time included.
    #[serde(default = "default_attempts")]
    pub retry_attempts: u32,
    /// Longest time, in seconds, for one attempt.
    #[serde(default = "default_timeout")]
    pub timeout_seconds: u32,
    /// Time, in seconds, before the same failure of the same unit is told again.
    #[serde(default = "default_repeat_after")]
    pub repeat_after_seconds: u32,
    /// Where messages go. One that is left out is not used.
    pub backends: Backends,
    /// The kinds of messages.
    pub templates: BTreeMap<String, Template>,
}

/// Where messages go.
///
/// Secrets are not in this file: each is the name of a credential, the file of that name below
/// `$CREDENTIALS_DIRECTORY`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Backends {
    /// Whatever a configuration file of apprise says.
    #[serde(default)]
    pub apprise: Option<AppriseBackend>,
    /// Pushover.
    #[serde(default)]
    pub pushover: Option<PushoverBackend>,
    /// ntfy.
    #[serde(default)]
    pub ntfy: Option<NtfyBackend>,
    /// healthchecks.
    #[serde(default)]
    pub healthchecks: Option<HealthchecksBackend>,
}

/// Whatever a configuration file of apprise says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AppriseBackend {
    /// Credential that is the configuration file: a URL on each line.
    pub url_credential: String,
}

/// Pushover.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PushoverBackend {
    /// Credential with the token of the application.
    pub token_credential: String,
    /// Credential with the key of the user.
    pub user_key_credential: String,
}

/// ntfy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NtfyBackend {
    /// The server, `https://` or `http://` and the host.
    pub server: String,
    /// The topic.
    pub topic: String,
    /// Credential with an access token. Without it the topic is open to all.
    #[serde(default)]
    pub token_credential: Option<String>,
}

/// healthchecks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HealthchecksBackend {
    /// Where pings go, without the check's identifier.
    pub base_url: String,
    /// Credential with the identifier of the check.
    pub uuid_credential: String,
}

/// A kind of message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Template {
    /// The backends that get it.
    pub backends: Vec<Backend>,
    /// How loud it is.
    #[serde(default)]
    pub priority: Priority,
    /// The title, with the placeholders `{description}`, `{host}`, `{log}`, `{result}`, `{status}`,
    /// `{time}` and `{unit}`.
    pub title: String,
    /// The text, with the same placeholders.
    pub body: String,
}

/// A backend, by its key in `backends`.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub enum Backend {
    /// Whatever a configuration file of apprise says.
    Apprise,
    /// Pushover.
    Pushover,
    /// ntfy.
    Ntfy,
    /// healthchecks.
    Healthchecks,
}

/// How loud a message is.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub enum Priority {
    /// No sound and no light.
    Silent,
    /// No sound.
    Low,
    /// As other messages.
    #[default]
    Normal,
    /// Through a silent hour.
    High,
    /// Until somebody has seen it.
    Emergency,
}

/// The placeholders that a template may have.
pub const PLACEHOLDERS: [&str; 7] = [
    "description",
    "host",
    "log",
    "result",
    "status",
    "time",
    "unit",
];

/// As in [`crate::Settings::parse`].
const STAND_INS: &str = r#"{
    "hostName": "host",
    "stateDirectory": "/state-directory",
    "apprise": "/apprise",
    "backends": {
        "apprise": { "urlCredential": "credential" },
        "pushover": { "tokenCredential": "credential", "userKeyCredential": "credential" },
        "ntfy": { "server": "https://server", "topic": "topic" },
        "healthchecks": { "baseUrl": "https://server", "uuidCredential": "credential" }
    },
    "templates": { "*": { "backends": [], "title": "title", "body": "body" } }
}"#;

impl Notifications {
    /// Reads the text of the file and checks it.
    ///
    /// # Errors
    ///
    /// Returns every problem at once, each with its key.
    pub fn parse(text: &str) -> Result<Self, Problems> {
        reading::parse(text, STAND_INS, Self::check)
    }

    /// The JSON Schema of the file, as it stands in `docs/reference`.
    #[must_use]
    pub fn schema() -> serde_json::Value {
        schemars::schema_for!(Notifications).into()
    }

    fn check(&self, findings: &mut Findings) {
        findings.text("hostName", &self.host_name, 253);
        findings.path("stateDirectory", &self.state_directory);
        findings.path("apprise", &self.apprise);
        findings.range("retryAttempts", self.retry_attempts, &(1..=100));
        findings.range("timeoutSeconds", self.timeout_seconds, &(1..=3600));
        findings.range(
            "repeatAfterSeconds",
            self.repeat_after_seconds,
            &(0..=2_592_000),
        );
        self.backends.check(findings);
        for (name, template) in &self.templates {
            let key = format!("templates.{name}");
            // The unit's name follows the template's and a colon in the name of an instance.
            if !is_plain_name(name) {
                findings.say(
                    &key,
                    "is not named by 1 to 64 letters, digits, dots, hyphens and underscores",
                );
            }
            template.check(&key, &self.backends, findings);
        }
    }
}

impl Backends {
    /// Whether `backend` is declared.
    #[must_use]
    pub fn has(&self, backend: Backend) -> bool {
        match backend {
            Backend::Apprise => self.apprise.is_some(),
            Backend::Pushover => self.pushover.is_some(),
            Backend::Ntfy => self.ntfy.is_some(),
            Backend::Healthchecks => self.healthchecks.is_some(),
        }
    }

    fn check(&self, findings: &mut Findings) {
        let Self {
            apprise,
            pushover,
            ntfy,
            healthchecks,
        } = self;
        let mut credentials = Vec::new();
        let mut servers = Vec::new();
        if let Some(apprise) = apprise {
            credentials.push(("backends.apprise.urlCredential", &apprise.url_credential));
        }
        if let Some(pushover) = pushover {
            credentials.push((
                "backends.pushover.tokenCredential",
                &pushover.token_credential,
            ));
            credentials.push((
                "backends.pushover.userKeyCredential",
                &pushover.user_key_credential,
            ));
        }
        if let Some(ntfy) = ntfy {
            servers.push(("backends.ntfy.server", &ntfy.server));
            if !is_plain_name(&ntfy.topic) {
                findings.say(
                    "backends.ntfy.topic",
                    format!("\"{}\" is no name of a topic", ntfy.topic),
                );
            }
            if let Some(token) = &ntfy.token_credential {
                credentials.push(("backends.ntfy.tokenCredential", token));
            }
        }
        if let Some(healthchecks) = healthchecks {
            servers.push(("backends.healthchecks.baseUrl", &healthchecks.base_url));
            credentials.push((
                "backends.healthchecks.uuidCredential",
                &healthchecks.uuid_credential,
            ));
        }
        for (key, name) in credentials {
            if !is_plain_name(name) {
                findings.say(key, format!("\"{name}\" is no name of a credential"));
            }
        }
        for (key, url) in servers {
            let host = url
                .strip_prefix("https://")
                .or_else(|| url.strip_prefix("http://"));
            let is_url = host.is_some_and(|host| {
                host.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '[')
                    && host
                        .bytes()
                        .all(|b| b.is_ascii_graphic() && !b"@?#\"'".contains(&b))
            });
            if !is_url {
                findings.say(
                    key,
                    format!("\"{url}\" is not https:// or http:// and a host"),
                );
            }
        }
    }
}

impl Template {
    fn check(&self, key: &str, backends: &Backends, findings: &mut Findings) {
        for (index, backend) in self.backends.iter().enumerate() {
            let key = format!("{key}.backends.[{index}]");
            if self.backends[..index].contains(backend) {
                findings.say(key, "is there twice");
            } else if !backends.has(*backend) {
                findings.say(key, "is not in backends");
            }
        }
        if self.title.trim().is_empty() {
            findings.say(format!("{key}.title"), "is empty");
        }
        for (field, text) in [("title", &self.title), ("body", &self.body)] {
            for name in placeholders(text) {
                if !PLACEHOLDERS.contains(&name) {
                    findings.say(
                        format!("{key}.{field}"),
                        format!(
                            "{{{name}}} is no placeholder; there are {}",
                            PLACEHOLDERS.map(|known| format!("{{{known}}}")).join(", ")
                        ),
                    );
                }
            }
        }
    }
}

/// The words of letters in braces that are in `text`.
fn placeholders(text: &str) -> impl Iterator<Item = &str> {
    text.split('{').skip(1).filter_map(|rest| {
        let (name, _) = rest.split_once('}')?;
        (!name.is_empty() && name.bytes().all(|b| b.is_ascii_alphabetic())).then_some(name)
    })
}

fn default_attempts() -> u32 {
    3
}
fn default_timeout() -> u32 {
    10
}
fn default_repeat_after() -> u32 {
    21_600
}
