//! From the settings to a plan: the part that asks the server.

mod apply;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use postgres::Client;
use serde::Serialize;
use settings::Settings;
use settings::databases::{Database as Declared, Databases, Pattern};
use tool::Hinted;

use crate::catalog::{self, Cluster, Whole};
use crate::change::{self, Change, Script};
use crate::files::{self, Files};
use crate::plan::{self, DatabasePlan, Offered, Password, Past};
use crate::record::{self, Record};
use crate::rights;
use crate::scram::{SALT_LENGTH, Verifier};
use crate::scripts::{self, Pending};
use crate::secret;
use crate::session::Address;
use crate::state::{Database, Stored};

/// The database whose session serves for everything that is not inside one database.
const MAINTENANCE: &str = "postgres";

/// Everything that has to change.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Plan {
    /// In roles.
    pub roles: Vec<Item>,
    /// In databases.
    pub databases: Vec<Item>,
}

/// What has to change in one role or database.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Item {
    /// Its name.
    pub name: String,
    /// The steps.
    pub changes: Vec<Change>,
    /// What is left alone, and why.
    pub remarks: Vec<String>,
    /// Why nothing can be done.
    pub problem: Option<String>,
    /// A way out of that.
    pub hint: Option<String>,
}

impl Plan {
    /// Whether everything is as it should be.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.roles
            .iter()
            .chain(&self.databases)
            .all(|item| item.changes.is_empty() && item.problem.is_none())
    }

    /// The plan as a person would tell it.
    #[must_use]
    pub fn text(&self) -> String {
        let mut lines = Vec::new();
        for (what, items) in [("role", &self.roles), ("database", &self.databases)] {
            for item in items {
                let mut said: Vec<String> = change::sentences(&item.changes);
                said.extend(item.remarks.iter().map(|remark| format!("note: {remark}")));
                if let Some(problem) = &item.problem {
                    said.push(format!("cannot be brought about: {problem}"));
                }
                if let Some(hint) = &item.hint {
                    said.push(format!("hint: {hint}"));
                }
                if !said.is_empty() {
                    lines.push(format!("{what} \"{}\"", item.name));
                    lines.extend(said.into_iter().map(|line| format!("  {line}")));
                }
            }
        }
        if self.is_empty() {
            lines.push("nothing has to change".into());
        }
        lines.join("\n") + "\n"
    }
}

impl Item {
    fn failed(name: &str, err: &anyhow::Error) -> Self {
        Self {
            name: name.into(),
            problem: Some(format!("{err:#}")),
            hint: tool::hint_of(err).map(ToOwned::to_owned),
            ..Self::default()
        }
    }
}

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Roles and databases that could not be brought about: `database "app"`.
    pub failed: Vec<String>,
    /// Databases, and whether they are as they are declared.
    pub databases: BTreeMap<String, bool>,
    /// Hash of everything that is declared, if nothing failed.
    pub hash: Option<String>,
}

/// One look at the server.
struct Survey {
    cluster: Cluster,
    record: Record,
}

/// The work on one instance.
pub struct Provision<'a> {
    declared: &'a Databases,
    address: Address<'a>,
    data_directory: &'a Path,
    /// Whether passwords that cannot be read are only remarked on.
    lenient: bool,
    offered: Mutex<Option<Offered>>,
    files: BTreeMap<&'a str, std::result::Result<Files, Item>>,
}

impl<'a> Provision<'a> {
    /// Prepares the work that `settings` declare.
    ///
    /// # Errors
    ///
    /// Fails when they declare no databases.
    pub fn new(settings: &'a Settings, lenient: bool) -> Result<Self> {
        let declared = settings.databases.as_ref().ok_or_else(|| {
            Hinted::new(
                "the settings declare no databases",
                "add the section databases, which may be empty but for its stampFile",
            )
        })?;
        let files = declared
            .declared
            .iter()
            .map(|(name, database)| {
                let read = Files::of(database).map_err(|err| Item::failed(name, &err));
                (name.as_str(), read)
            })
            .collect();
        Ok(Self {
            declared,
            address: Address::new(
                &settings.postgresql,
                Duration::from_secs(declared.lock_deadline_seconds.into()),
            ),
            data_directory: &settings.postgresql.data_directory,
            lenient,
            offered: Mutex::new(None),
            files,
        })
    }

    /// Where the hash of what was brought about is kept.
    #[must_use]
    pub fn stamp(&self) -> &'a Path {
        &self.declared.stamp_file
    }

    /// The outcome of a run that did not get to the databases.
    #[must_use]
    pub fn nothing_done(&self) -> Outcome {
        let managed = self.declared.declared.iter().filter(|(_, it)| it.managed);
        Outcome {
            databases: managed.map(|(name, _)| (name.clone(), false)).collect(),
            ..Outcome::default()
        }
    }

    /// Waits until the server answers and has left recovery. Returns nothing for a standby, whose
    /// databases come from elsewhere.
    ///
    /// # Errors
    ///
    /// Fails when it has not in the declared time.
    pub fn connect(&self) -> Result<Option<Client>> {
        if self.data_directory.join("standby.signal").exists() {
            return Ok(None);
        }
        let deadline = Duration::from_secs(self.declared.ready_deadline_seconds.into());
        self.address
            .wait_until_ready(MAINTENANCE, deadline)
            .map(Some)
    }

    /// Plans everything, and changes nothing.
    ///
    /// # Errors
    ///
    /// Fails when the server cannot be asked. What goes wrong with one role or database is in its part of
    /// the plan.
    pub fn plan(&self, client: &mut Client) -> Result<Plan> {
        let survey = self.survey(client)?;
        let force = !self.declared.stamp_file.exists();
        let mut passwords = self.passwords(&survey.cluster);
        let roles: Vec<Item> = self
            .role_names(&survey.record)
            .into_iter()
            .map(|name| self.plan_role(&name, &survey, passwords.remove(&name)))
            .collect();
        let names = self.database_names(&survey.record);
        let databases = in_parallel(&names, |name| {
            self.plan_database(name, &survey, force)
                .unwrap_or_else(|err| Item::failed(name, &err))
        });
        Ok(Plan { roles, databases })
    }

    /// Whether a database was brought to what is declared now, by an earlier run.
    ///
    /// # Errors
    ///
    /// Fails when it was not, saying so, and when the server cannot be asked.
    pub fn expect_ready(&self, client: &mut Client, name: &str) -> Result<()> {
        let declared = self
            .declared
            .declared
            .get(name)
            .with_context(|| format!("database \"{name}\" is not declared"))?;
        let survey = self.survey(client)?;
        let hash = match &self.files[name] {
            Ok(files) => files.hash(declared)?,
            Err(item) => return Err(anyhow!(item.problem.clone().unwrap_or_default())),
        };
        let is_there = survey.cluster.databases.contains_key(name);
        let is_done = survey
            .record
            .databases
            .get(name)
            .is_some_and(|entry| entry.is(declared, &hash));
        if is_there && (is_done || !declared.managed) {
            return Ok(());
        }
        Err(Hinted::new(
            format!("database \"{name}\" is not as it is declared"),
            "the provisioning of the instance says why; see its journal, or run pg-provision --plan",
        )
        .into())
    }

    fn survey(&self, client: &mut Client) -> Result<Survey> {
        Ok(Survey {
            cluster: catalog::cluster(client)?,
            record: record::read(client, self.address.own_role())?,
        })
    }

    /// Roles that are declared, or were and have something to be taken back.
    fn role_names(&self, record: &Record) -> Vec<String> {
        let own_role = self.address.own_role();
        let before = record
            .roles
            .iter()
            .filter(|(_, entry)| !entry.past.declarations.is_empty())
            .map(|(name, _)| name);
        let names: BTreeSet<&String> = self.declared.roles.keys().chain(before).collect();
        let mut names: Vec<String> = names
            .into_iter()
            .filter(|name| *name != own_role)
            .cloned()
            .collect();
        // A role comes after those whose rights it gets.
        in_order(&mut names, |name| {
            self.declared
                .roles
                .get(name)
                .map(|role| role.member_of.iter().cloned().collect())
                .unwrap_or_default()
        });
        names
    }

    /// Databases that are declared, or were and have something to be taken back.
    fn database_names(&self, record: &Record) -> Vec<String> {
        let before = record
            .databases
            .iter()
            .filter(|(_, entry)| !entry.past.declarations.is_empty())
            .map(|(name, _)| name);
        let names: BTreeSet<&String> = self.declared.declared.keys().chain(before).collect();
        let is_managed = |name: &&String| {
            self.declared
                .declared
                .get(*name)
                .is_none_or(|database| database.managed)
        };
        let mut names: Vec<String> = names.into_iter().filter(is_managed).cloned().collect();
        // A database comes after the one that it is a copy of.
        in_order(&mut names, |name| {
            self.declared
                .declared
                .get(name)
                .and_then(|database| database.template.clone())
                .into_iter()
                .collect()
        });
        names
    }

    /// Reads every declared password and compares it with what is stored. Each comparison costs
    /// thousands of hashes, so all processors take part.
    fn passwords(&self, cluster: &Cluster) -> BTreeMap<String, Result<(Password, Option<String>)>> {
        let names: Vec<String> = self
            .declared
            .roles
            .iter()
            .filter(|(_, role)| role.password_file.is_some())
            .map(|(name, _)| name.clone())
            .collect();
        let found = in_parallel(&names, |name| self.password(name, cluster));
        names.into_iter().zip(found).collect()
    }

    fn password(&self, name: &str, cluster: &Cluster) -> Result<(Password, Option<String>)> {
        let Some(file) = &self.declared.roles[name].password_file else {
            return Ok((Password::AsItIs, None));
        };
        let path = match secret::locate(file) {
            Err(err) if self.lenient => {
                let remark = format!("its password is not compared: {err:#}");
                return Ok((Password::AsItIs, Some(remark)));
            }
            other => other?,
        };
        let password =
            secret::read(&path).with_context(|| format!("read the password of role \"{name}\""))?;
        let stored = cluster.roles.get(name).map(|role| &role.password);
        if let Some(Stored::Scram(verifier)) = stored
            && verifier.is_of(&password)
        {
            return Ok((Password::Wanted(verifier.clone()), None));
        }
        let verifier = Verifier::new(&password, &salt()?, cluster.scram_iterations);
        Ok((Password::Wanted(verifier), None))
    }

    fn plan_role(
        &self,
        name: &str,
        survey: &Survey,
        password: Option<Result<(Password, Option<String>)>>,
    ) -> Item {
        let (password, remark) = match password {
            None => (Password::AsItIs, None),
            Some(Ok(found)) => found,
            Some(Err(err)) => return Item::failed(name, &err),
        };
        let current = survey.cluster.roles.get(name);
        let none = Past::default();
        let past = survey
            .record
            .roles
            .get(name)
            .map_or(&none, |entry| &entry.past);
        let declared = self.declared.roles.get(name);
        let (desired, mut remarks) = plan::desired_role(name, declared, past, current, password);
        remarks.extend(remark);
        if declared.is_some() && survey.cluster.superusers.contains(name) {
            remarks.push(format!(
                "role \"{name}\" is a superuser, which nothing declares; it is left so"
            ));
        }
        if declared.is_none() && current.is_some() {
            remarks.push(format!("role \"{name}\" is no longer declared; it stays"));
        }
        Item {
            name: name.into(),
            changes: desired
                .map(|desired| plan::between_roles(name, current, &desired))
                .unwrap_or_default(),
            remarks,
            ..Item::default()
        }
    }

    fn plan_database(&self, name: &str, survey: &Survey, force: bool) -> Result<Item> {
        let declared = self.declared.declared.get(name);
        let files = match self.files.get(name) {
            Some(Ok(files)) => Some(files),
            Some(Err(item)) => return Ok(item.clone()),
            None => None,
        };
        let entry = survey
            .record
            .databases
            .get(name)
            .cloned()
            .unwrap_or_default();
        let hooks = match (declared, files) {
            (Some(declared), Some(files)) => {
                let is_done = entry.is(declared, &files.hash(declared)?) && !force;
                (!is_done).then_some(files)
            }
            _ => None,
        };
        let hook = |kind: Script, files: &[files::SqlFile]| -> Vec<Change> {
            files
                .iter()
                .map(|file| Change::Run {
                    kind,
                    file: file.name.clone(),
                })
                .collect()
        };
        let mut changes = Vec::new();
        let (inner, pending) = if let Some(shared) = survey.cluster.databases.get(name) {
            if let Some(declared) = declared {
                self.compare_birth(name, declared, shared)?;
            }
            if let Some(files) = files.filter(|_| entry.fresh) {
                changes.extend(hook(Script::PostCreate, &files.post_create));
            }
            let mut client = self.address.connect(name)?;
            let whole = catalog::inside(
                &mut client,
                &survey.cluster,
                shared,
                &named_functions(declared, &entry.past),
            )?;
            let inner = self.plan_inside(name, declared, &entry.past, &whole, &survey.cluster)?;
            let pending = match (declared, files) {
                (Some(declared), Some(files)) if scripts::has_any(declared) => {
                    self.pending(name, declared, files, &whole.database.owner)?
                }
                _ => Vec::new(),
            };
            (inner, pending)
        } else {
            let (Some(declared), Some(files)) = (declared, files) else {
                return Ok(Item {
                    name: name.into(),
                    ..Item::default()
                });
            };
            changes.extend(hook(Script::PreCreate, &files.pre_create));
            let creation = plan::creation(name, declared, self.address.own_role());
            let whole = new_database(&creation.owner, &survey.cluster, self.address.own_role());
            changes.push(Change::CreateDatabase { creation });
            changes.extend(hook(Script::PostCreate, &files.post_create));
            let past = Past {
                created: true,
                ..Past::default()
            };
            (
                self.plan_inside(name, Some(declared), &past, &whole, &survey.cluster)?,
                Pending::in_new_database(declared, files).changes(),
            )
        };
        if let Some(files) = hooks {
            changes.extend(hook(Script::PreConfig, &files.pre_config));
        }
        changes.extend(inner.changes);
        changes.extend(pending);
        if let Some(files) = hooks {
            changes.extend(hook(Script::PostConfig, &files.post_config));
        }
        Ok(Item {
            name: name.into(),
            changes,
            remarks: inner.remarks,
            problem: inner.problem.as_ref().map(|problem| problem.what.clone()),
            hint: inner.problem.map(|problem| problem.hint),
        })
    }

    fn compare_birth(
        &self,
        name: &str,
        declared: &Declared,
        shared: &catalog::Shared,
    ) -> Result<()> {
        if !shared.allows_connections {
            return Err(Hinted::new(
                "it allows no connections",
                "ALTER DATABASE … ALLOW_CONNECTIONS true lets this program in",
            )
            .into());
        }
        let creation = plan::creation(name, declared, self.address.own_role());
        plan::compare_birth(&creation, &shared.birth)
            .map_err(|problem| Hinted::new(problem.what, problem.hint).into())
    }

    /// Plans what has to change in a database whose catalogs were read.
    fn plan_inside(
        &self,
        name: &str,
        declared: Option<&Declared>,
        past: &Past<Declared>,
        whole: &Whole,
        cluster: &Cluster,
    ) -> Result<DatabasePlan> {
        if let Some((trigger, owner)) = &whole.foreign_event_trigger {
            return Err(Hinted::new(
                format!(
                    "event trigger \"{trigger}\" calls a function of role \"{owner}\", which is no superuser; every change here would run it with all rights"
                ),
                "drop the trigger, or give its function to a superuser after reading it",
            )
            .into());
        }
        let needs_offers = declared.is_some_and(|declared| {
            declared.extensions.iter().any(|extension| {
                extension.update_to_latest
                    || extension.version.is_some()
                    || !whole.database.extensions.contains_key(&extension.name)
            })
        });
        let offered = if needs_offers {
            self.offered()?
        } else {
            Offered::new()
        };
        Ok(plan::for_database(
            name,
            declared,
            past,
            &whole.database,
            &whole.objects,
            plan::Server {
                major: cluster.major,
                offered: &offered,
            },
        ))
    }

    /// What the server offers; read once, as it reads a file for each extension.
    fn offered(&self) -> Result<Offered> {
        let mut offered = self
            .offered
            .lock()
            .map_err(|_| anyhow!("another thread failed"))?;
        if offered.is_none() {
            let mut client = self.address.connect(MAINTENANCE)?;
            *offered = Some(catalog::offered(&mut client)?);
        }
        Ok(offered.clone().unwrap_or_default())
    }

    fn pending(
        &self,
        name: &str,
        declared: &Declared,
        files: &Files,
        owner: &str,
    ) -> Result<Vec<Change>> {
        let mut client = self.address.connect_as(owner, name)?;
        Ok(Pending::find(&mut client, owner, declared, files)?.changes())
    }
}

/// Calls `work` for each name, in several threads, and returns the results in the order of the
/// names.
fn in_parallel<T: Send>(names: &[String], work: impl Fn(&str) -> T + Sync) -> Vec<T> {
    let threads = std::thread::available_parallelism()
        .map_or(2, |count| count.get() * 2)
        .clamp(2, 8)
        .min(names.len().max(1));
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<(usize, T)>> = Mutex::new(Vec::with_capacity(names.len()));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((index, name)) = {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    names.get(index).map(|name| (index, name))
                } {
                    let result = work(name);
                    if let Ok(mut results) = results.lock() {
                        results.push((index, result));
                    }
                }
            });
        }
    });
    let mut results = results
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

/// Functions that are named one by one, now or before.
fn named_functions(declared: Option<&Declared>, past: &Past<Declared>) -> Vec<(String, String)> {
    declared
        .into_iter()
        .chain(&past.declarations)
        .flat_map(|database| database.function_permissions.keys())
        .filter_map(|text| {
            let pattern: Pattern = text.parse().ok()?;
            Some((pattern.schema?, pattern.name?))
        })
        .collect()
}

/// Puts each name after those that it depends on. A circle stays as it is.
fn in_order(names: &mut Vec<String>, dependencies: impl Fn(&str) -> Vec<String>) {
    let mut ordered: Vec<String> = Vec::with_capacity(names.len());
    let mut waiting = std::mem::take(names);
    while !waiting.is_empty() {
        let (ready, rest): (Vec<String>, Vec<String>) = waiting.iter().cloned().partition(|name| {
            dependencies(name)
                .iter()
                .all(|other| other == name || !waiting.contains(other))
        });
        if ready.is_empty() {
            ordered.extend(rest);
            break;
        }
        ordered.extend(ready);
        waiting = rest;
    }
    *names = ordered;
}

/// A database that was just created.
fn new_database(owner: &str, cluster: &Cluster, own_role: &str) -> Whole {
    let (mut objects, rights) = rights::of_new_database(cluster.major, own_role);
    if let Some(facts) = objects.get_mut(&crate::state::Object::Database) {
        facts.owner = owner.into();
    }
    Whole {
        database: Database {
            owner: owner.into(),
            is_template: false,
            connection_limit: None,
            parameters: BTreeMap::new(),
            schemas: BTreeSet::from(["public".into()]),
            extensions: BTreeMap::new(),
            rights,
        },
        objects,
        foreign_event_trigger: None,
    }
}

/// Random bytes for a verifier.
fn salt() -> Result<[u8; SALT_LENGTH]> {
    let mut salt = [0; SALT_LENGTH];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut salt))
        .context("read \"/dev/urandom\"")?;
    Ok(salt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_comes_after_those_that_it_depends_on() {
        let mut names: Vec<String> = ["a", "b", "c", "d"].map(Into::into).into();
        in_order(&mut names, |name| match name {
            "a" => vec!["c".into()],
            "c" => vec!["d".into(), "elsewhere".into()],
            _ => Vec::new(),
        });
        assert_eq!(names, ["b", "d", "c", "a"]);
        in_order(&mut names, |name| match name {
            "a" => vec!["b".into()],
            "b" => vec!["a".into()],
            _ => Vec::new(),
        });
        assert_eq!(names, ["d", "c", "b", "a"]);
    }
}
