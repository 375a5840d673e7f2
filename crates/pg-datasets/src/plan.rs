//! What has to be done to bring datasets to their declared state, and what stands in the way.
//!
//! Pure: the present state comes in, steps and obstacles go out. Nothing here destroys, renames or
//! unmounts anything, because there is no such step.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use settings::{Dataset, Datasets, Mountpoint};
use zfs::{FileSystem, Pool, Properties, pool_of, same_value};

/// Properties that a dataset gets when it is made and keeps for ever.
///
/// # Source
///
/// `PROP_ONETIME` and `PROP_ONETIME_DEFAULT` in `zfs_prop.c` of OpenZFS 2.3.
const SET_ONCE: [&str; 8] = [
    "casesensitivity",
    "encryption",
    "keyformat",
    "normalization",
    "pbkdf2iters",
    "utf8only",
    "volblocksize",
    "volsize",
];

/// What there is.
#[derive(Clone, Debug, Default)]
pub struct Present {
    /// The imported pools.
    pub pools: BTreeMap<String, Pool>,
    /// Every dataset of the pools that matter, by name.
    pub names: BTreeSet<String>,
    /// The properties of the declared datasets that exist.
    pub properties: BTreeMap<String, Properties>,
    /// Every file system of every pool.
    pub file_systems: Vec<FileSystem>,
}

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make a dataset that only holds others.
    CreateContainer(String),
    /// Make a declared dataset, with its properties, unmounted.
    Create {
        /// Its name.
        name: String,
        /// Its properties, the mount point among them.
        properties: BTreeMap<String, String>,
    },
    /// Set a property.
    Set {
        /// Name of the dataset.
        name: String,
        /// Name of the property.
        property: String,
        /// Its declared value.
        value: String,
        /// The value that it has.
        was: String,
    },
    /// Mount a dataset where its mount point says, if nothing is hidden by that.
    Mount {
        /// Name of the dataset.
        name: String,
    },
}

impl Step {
    /// The dataset that it is about.
    pub fn dataset(&self) -> &str {
        match self {
            Self::CreateContainer(name)
            | Self::Create { name, .. }
            | Self::Set { name, .. }
            | Self::Mount { name } => name,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateContainer(name) => {
                write!(f, "create dataset \"{name}\", which only holds others")
            }
            Self::Create { name, properties } => {
                write!(f, "create dataset \"{name}\" with")?;
                for (property, value) in properties {
                    write!(f, " {property}={value}")?;
                }
                Ok(())
            }
            Self::Set {
                name,
                property,
                value,
                was,
            } => {
                write!(
                    f,
                    "set {property}={value} on dataset \"{name}\" (it was {was})"
                )?;
                if property == "recordsize" {
                    f.write_str(", for files that are written from now on")?;
                }
                Ok(())
            }
            Self::Mount { name } => write!(f, "mount dataset \"{name}\""),
        }
    }
}

/// Why a dataset cannot be as it is declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// The dataset.
    pub dataset: String,
    /// What is wrong.
    pub what: String,
    /// A way out.
    pub hint: String,
}

/// What to do, in this order, and what stands in the way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What to do.
    pub steps: Vec<Step>,
    /// What cannot be done.
    pub obstacles: Vec<Obstacle>,
}

impl Plan {
    fn refuse(&mut self, dataset: &str, what: impl Into<String>, hint: impl Into<String>) {
        self.obstacles.push(Obstacle {
            dataset: dataset.into(),
            what: what.into(),
            hint: hint.into(),
        });
    }

    fn is_refused(&self, dataset: &str) -> bool {
        self.obstacles
            .iter()
            .any(|obstacle| obstacle.dataset == dataset)
    }
}

/// Compares what is declared with what there is.
pub fn plan(declared: &Datasets, present: &Present) -> Plan {
    let mut plan = Plan::default();
    for name in &declared.containers {
        if check_pool(name, present, &mut plan) && !present.names.contains(name) {
            plan.steps.push(Step::CreateContainer(name.clone()));
        }
    }
    for dataset in &declared.datasets {
        if !check_pool(&dataset.name, present, &mut plan) {
            continue;
        }
        check_mountpoint(dataset, present, &mut plan);
        match present.properties.get(&dataset.name) {
            None if plan.is_refused(&dataset.name) => {}
            None => create(dataset, &mut plan),
            Some(properties) => change(dataset, properties, &mut plan),
        }
    }
    plan
}

/// Whether anything can be known of the pool of `name`.
fn check_pool(name: &str, present: &Present, plan: &mut Plan) -> bool {
    let pool = pool_of(name);
    match present.pools.get(pool) {
        None => {
            plan.refuse(
                name,
                format!("pool \"{pool}\" is not imported"),
                format!(
                    "`zpool import` lists what can be imported; is a disk missing, or is \"{pool}\" not among boot.zfs.extraPools?"
                ),
            );
            false
        }
        Some(state) if !state.answers() => {
            plan.refuse(
                name,
                format!("pool \"{pool}\" is {}", state.health),
                format!("`zpool status -x {pool}` says what it needs"),
            );
            false
        }
        Some(state) if state.is_read_only => {
            plan.refuse(
                name,
                format!("pool \"{pool}\" is imported read-only"),
                format!("zpool export {pool} && zpool import {pool}"),
            );
            false
        }
        Some(_) => true,
    }
}

fn create(dataset: &Dataset, plan: &mut Plan) {
    let mut properties = dataset.properties.clone();
    properties.insert("mountpoint".into(), dataset.mountpoint.to_string());
    plan.steps.push(Step::Create {
        name: dataset.name.clone(),
        properties,
    });
    if matches!(dataset.mountpoint, Mountpoint::At(_)) {
        plan.steps.push(Step::Mount {
            name: dataset.name.clone(),
        });
    }
}

/// Refuses a mount point that another dataset claims: which of the two is seen would depend on the
/// order in which they are mounted.
fn check_mountpoint(dataset: &Dataset, present: &Present, plan: &mut Plan) {
    let Mountpoint::At(path) = &dataset.mountpoint else {
        return;
    };
    for other in &present.file_systems {
        if other.name != dataset.name && other.claims(path) {
            plan.refuse(
                &dataset.name,
                format!(
                    "dataset \"{}\" {} at \"{}\" too",
                    other.name,
                    if other.is_mounted {
                        "is mounted"
                    } else {
                        "would be mounted"
                    },
                    path.display()
                ),
                format!(
                    "look which of the two has the data; then take the other's mount point away: zfs set mountpoint=none {}",
                    other.name
                ),
            );
        }
    }
}

fn change(dataset: &Dataset, properties: &Properties, plan: &mut Plan) {
    let name = &dataset.name;
    let value = |property: &str| {
        properties
            .get(property)
            .map_or("", |property| property.value.as_str())
    };
    if value("type") != "filesystem" {
        plan.refuse(
            name,
            format!("it is a {}, not a file system", value("type")),
            "give the declared dataset another name",
        );
        return;
    }
    for (property, declared) in &dataset.properties {
        let was = value(property);
        if same_value(declared, was) {
            continue;
        }
        if SET_ONCE.contains(&property.as_str()) {
            plan.refuse(
                name,
                format!(
                    "{property} is {was} and is declared to be {declared}, which only a new dataset can get"
                ),
                format!(
                    "declare {property} = \"{was}\", or send the data to a new dataset that has it"
                ),
            );
            continue;
        }
        plan.steps.push(Step::Set {
            name: name.clone(),
            property: property.clone(),
            value: declared.clone(),
            was: was.to_owned(),
        });
    }
    if value("sync") == "disabled" && !dataset.properties.contains_key("sync") {
        plan.refuse(
            name,
            "sync is disabled, so a power cut undoes what PostgreSQL was told is durable",
            format!("zfs set sync=standard {name}, or declare properties.sync = \"standard\""),
        );
    }
    mount(dataset, properties, plan);
}

/// Brings the mount point of an existing dataset about, unless something may be using it.
fn mount(dataset: &Dataset, properties: &Properties, plan: &mut Plan) {
    let name = &dataset.name;
    let value = |property: &str| {
        properties
            .get(property)
            .map_or("", |property| property.value.as_str())
    };
    let is_mounted = value("mounted") == "yes";
    let declared = dataset.mountpoint.to_string();
    if value("mountpoint") != declared {
        if is_mounted {
            plan.refuse(
                name,
                format!(
                    "it is mounted at \"{}\" and declared to be at \"{declared}\"",
                    value("mountpoint")
                ),
                format!(
                    "stop what uses it, then: zfs unmount {name} && zfs set mountpoint={declared} {name}"
                ),
            );
            return;
        }
        plan.steps.push(Step::Set {
            name: name.clone(),
            property: "mountpoint".into(),
            value: declared,
            was: value("mountpoint").to_owned(),
        });
    }
    let Mountpoint::At(_) = &dataset.mountpoint else {
        return;
    };
    if value("keystatus") == "unavailable" {
        plan.refuse(
            name,
            "its key is not loaded",
            format!("zfs load-key {name}"),
        );
        return;
    }
    if value("readonly") == "on" && !dataset.properties.contains_key("readonly") {
        plan.refuse(
            name,
            "it is read-only, as a replica is",
            format!("if this machine is to write to it: zfs set readonly=off {name}"),
        );
        return;
    }
    if value("canmount") != "on" {
        plan.steps.push(Step::Set {
            name: name.clone(),
            property: "canmount".into(),
            value: "on".into(),
            was: value("canmount").to_owned(),
        });
    }
    if !is_mounted && !plan.is_refused(name) {
        plan.steps.push(Step::Mount { name: name.clone() });
    }
}

/// Whether `directory` is empty as far as a dataset that is mounted over it could hide something.
pub fn hides_nothing(directory: &Path) -> std::io::Result<bool> {
    match std::fs::read_dir(directory) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(err) => Err(err),
    }
}

#[cfg(test)]
mod tests;
