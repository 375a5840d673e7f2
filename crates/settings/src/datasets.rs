//! The settings file of `pg-datasets`: which ZFS datasets there are to be.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::problem::{Findings, Problems, is_dataset_name, what_is_wrong_with};
use crate::reading;

/// The datasets that `pg-datasets` brings to their declared state, usually
/// `/etc/backstay/datasets.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Datasets {
    /// Datasets above the declared ones. One that is missing is made, without a mount point; one that
    /// is there is left as it is. A pool is never made.
    #[serde(default)]
    pub containers: Vec<String>,
    /// The declared datasets.
    pub datasets: Vec<Dataset>,
}

/// A declared dataset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Dataset {
    /// Its name, with that of the pool.
    pub name: String,
    /// Where it is mounted: a directory, `none` or `legacy`.
    pub mountpoint: Mountpoint,
    /// The user who owns the mounted directory. Without it the owner is left as it is.
    #[serde(default)]
    pub owner: Option<String>,
    /// The group of the mounted directory. Without it the group is left as it is.
    #[serde(default)]
    pub group: Option<String>,
    /// The mode of the mounted directory, in octal digits: `0700`. Without it the mode is left as it
    /// is.
    #[serde(default)]
    pub mode: Option<String>,
    /// Its properties, with values as `zfs set` takes them.
    #[serde(default)]
    pub properties: BTreeMap<String, String>,
    /// What it is for, in a person's words.
    #[serde(default)]
    pub purpose: Option<String>,
}

/// Where a dataset is mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(from = "String", into = "String")]
pub enum Mountpoint {
    /// At this directory.
    At(PathBuf),
    /// Nowhere.
    None,
    /// Where `/etc/fstab` or a mount unit says.
    Legacy,
}

impl From<String> for Mountpoint {
    fn from(text: String) -> Self {
        match text.as_str() {
            "none" => Self::None,
            "legacy" => Self::Legacy,
            _ => Self::At(text.into()),
        }
    }
}

impl From<Mountpoint> for String {
    fn from(mountpoint: Mountpoint) -> Self {
        mountpoint.to_string()
    }
}

impl fmt::Display for Mountpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(path) => path.display().fmt(f),
            Self::None => f.write_str("none"),
            Self::Legacy => f.write_str("legacy"),
        }
    }
}

/// As in [`crate::Settings::parse`].
const STAND_INS: &str = r#"{
    "containers": ["pool/container"],
    "datasets": [{ "name": "pool/container/dataset", "mountpoint": "none" }]
}"#;

/// Properties that have a key of their own, or are not for a running system.
const NOT_A_PROPERTY: [(&str, &str); 2] = [
    ("mountpoint", "is the key mountpoint"),
    ("canmount", "follows from mountpoint"),
];

impl Datasets {
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
        schemars::schema_for!(Datasets).into()
    }

    fn check(&self, findings: &mut Findings) {
        let mut names: Vec<(String, &str)> = Vec::new();
        for (index, name) in self.containers.iter().enumerate() {
            names.push((format!("containers.[{index}]"), name));
        }
        for (index, dataset) in self.datasets.iter().enumerate() {
            names.push((format!("datasets.[{index}].name"), &dataset.name));
        }
        for (index, (key, name)) in names.iter().enumerate() {
            if !is_dataset_name(name) {
                findings.say(key, format!("\"{name}\" is no name of a dataset"));
                continue;
            }
            if let Some((first, _)) = names[..index].iter().find(|(_, other)| other == name) {
                findings.say(key, format!("\"{name}\" is {first} too"));
            }
            match name.rsplit_once('/') {
                None => findings.say(
                    key,
                    format!("\"{name}\" is a pool, which is never made or changed"),
                ),
                Some((parent, _)) => {
                    if parent.contains('/') && !names.iter().any(|(_, other)| *other == parent) {
                        findings.say(
                            key,
                            format!("\"{parent}\" above it is neither a container nor a dataset"),
                        );
                    }
                }
            }
        }
        for (index, dataset) in self.datasets.iter().enumerate() {
            dataset.check(&format!("datasets.[{index}]"), findings);
        }
        self.check_mountpoints(findings);
    }

    /// Checks that no dataset hides another: at each place at most one, and below it only its
    /// children.
    fn check_mountpoints(&self, findings: &mut Findings) {
        let mounted: Vec<(usize, &Dataset, &Path)> = self
            .datasets
            .iter()
            .enumerate()
            .filter_map(|(index, dataset)| match &dataset.mountpoint {
                Mountpoint::At(path) => Some((index, dataset, path.as_path())),
                Mountpoint::None | Mountpoint::Legacy => None,
            })
            .collect();
        for (at, (index, dataset, path)) in mounted.iter().enumerate() {
            let key = format!("datasets.[{index}].mountpoint");
            for (other_at, (_, other, other_path)) in mounted.iter().enumerate() {
                if at > other_at && path == other_path {
                    findings.say(
                        &key,
                        format!("\"{}\" is that of \"{}\" too", path.display(), other.name),
                    );
                } else if path != other_path
                    && path.starts_with(other_path)
                    && !is_below(&dataset.name, &other.name)
                {
                    findings.say(
                        &key,
                        format!(
                            "\"{}\" is inside that of \"{}\", of which \"{}\" is no child",
                            path.display(),
                            other.name,
                            dataset.name
                        ),
                    );
                }
            }
        }
    }
}

/// Whether the dataset `name` is below the dataset `above`.
fn is_below(name: &str, above: &str) -> bool {
    name.strip_prefix(above)
        .is_some_and(|rest| rest.starts_with('/'))
}

impl Dataset {
    fn check(&self, key: &str, findings: &mut Findings) {
        let key = |name: &str| format!("{key}.{name}");
        if let Mountpoint::At(path) = &self.mountpoint {
            if let Some(what) = what_is_wrong_with(path) {
                findings.say(key("mountpoint"), what);
            }
        } else {
            for (name, value) in [
                ("owner", &self.owner),
                ("group", &self.group),
                ("mode", &self.mode),
            ] {
                if value.is_some() {
                    findings.say(
                        key(name),
                        format!("has no effect with mountpoint \"{}\"", self.mountpoint),
                    );
                }
            }
        }
        for (name, value) in [("owner", &self.owner), ("group", &self.group)] {
            if let Some(value) = value {
                findings.text(key(name), value, 32);
            }
        }
        if let Some(mode) = &self.mode {
            let is_octal =
                (3..=4).contains(&mode.len()) && mode.bytes().all(|b| (b'0'..=b'7').contains(&b));
            if !is_octal {
                findings.say(
                    key("mode"),
                    format!("\"{mode}\" is not three or four octal digits"),
                );
            }
        }
        for (property, value) in &self.properties {
            let key = key(&format!("properties.{property}"));
            // zfs(8), "User Properties", and the names of the native ones.
            let is_property = !property.starts_with('-')
                && (1..256).contains(&property.len())
                && property
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.:@".contains(&b));
            if !is_property {
                findings.say(&key, "is no name of a property");
            }
            if let Some((_, why)) = NOT_A_PROPERTY.iter().find(|(name, _)| name == property) {
                findings.say(&key, *why);
            }
            if property == "sync" && value == "disabled" {
                findings.say(
                    &key,
                    "\"disabled\" lets a power cut undo what PostgreSQL was told is durable",
                );
            }
            findings.text(key, value, 8191);
        }
    }
}
