//! Carrying out what was planned.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use postgres::{Client, GenericClient};
use settings::databases::{Database as Declared, Role as DeclaredRole};
use tool::{Hinted, Level};

use super::{Outcome, Provision, Survey, named_functions};
use crate::catalog;
use crate::change::{self, Change, Script, Statement};
use crate::files::{self, Files};
use crate::plan::{self, Password, Past};
use crate::record::{Entry, Record};
use crate::scripts::{self, Pending};
use crate::session::{self, failed};
use crate::state::{Database, Stored};

/// How often a database is tried whose change met somebody else's.
const ATTEMPTS: u32 = 3;
/// How long to wait in between.
const PAUSE: Duration = Duration::from_millis(500);
/// Extensions and schemas come first and bring objects along, on which rights are granted then.
const ROUNDS: u32 = 4;

impl Provision<'_> {
    /// Carries out what has to be done, and says what came of it.
    ///
    /// # Errors
    ///
    /// Fails when the server cannot be asked. What goes wrong with one role or database stops no other,
    /// and is in the outcome.
    pub fn apply(&self, client: &mut Client) -> Result<Outcome> {
        let plan = self.plan(client)?;
        let survey = self.survey(client)?;
        let force = !self.declared.stamp_file.exists();
        for item in plan.roles.iter().chain(&plan.databases) {
            for remark in &item.remarks {
                tool::log(Level::Info, format_args!("note: {remark}"));
            }
        }
        if !plan.is_empty() || self.is_record_behind(&survey.record, force)? {
            let deadline = Duration::from_secs(self.declared.ready_deadline_seconds.into());
            session::lock(client, deadline)?;
            return self.apply_locked(client, force);
        }
        self.outcome(client, Vec::new())
    }

    /// Whether something was declared that the record does not know, although nothing has to change.
    fn is_record_behind(&self, record: &Record, force: bool) -> Result<bool> {
        if force {
            return Ok(true);
        }
        for (name, role) in &self.declared.roles {
            let is_known = record.roles.get(name).is_some_and(|entry| {
                entry.past.declarations.as_slice() == std::slice::from_ref(role)
            });
            if !is_known && name != self.address.own_role() {
                return Ok(true);
            }
        }
        for (name, database) in self.declared.declared.iter().filter(|(_, it)| it.managed) {
            let Ok(files) = &self.files[name.as_str()] else {
                return Ok(true);
            };
            let hash = files.hash(database)?;
            if !record
                .databases
                .get(name)
                .is_some_and(|entry| entry.is(database, &hash))
            {
                return Ok(true);
            }
        }
        // What is no longer declared has something to be taken back until it is.
        let roles = self.role_names(record);
        let databases = self.database_names(record);
        Ok(roles
            .iter()
            .any(|name| !self.declared.roles.contains_key(name))
            || databases
                .iter()
                .any(|name| !self.declared.declared.contains_key(name)))
    }

    fn apply_locked(&self, client: &mut Client, force: bool) -> Result<Outcome> {
        let mut survey = self.survey(client)?;
        survey.record.create(client)?;
        let mut passwords = self.passwords(&survey.cluster);
        let mut failures = Vec::new();
        let mut failed_roles = BTreeSet::new();
        for name in self.role_names(&survey.record) {
            let password = passwords.remove(&name);
            if let Err(err) = self.apply_role(client, &name, &mut survey, password, &failed_roles) {
                tool::report(&format!("could not bring about role \"{name}\""), &err);
                failures.push(format!("role \"{name}\""));
                failed_roles.insert(name);
            }
        }
        for name in self.database_names(&survey.record) {
            if let Err(err) = self.apply_database(client, &name, &mut survey, force, &failed_roles)
            {
                tool::report(&format!("could not bring about database \"{name}\""), &err);
                failures.push(format!("database \"{name}\""));
            }
        }
        self.outcome(client, failures)
    }

    fn apply_role(
        &self,
        client: &mut Client,
        name: &str,
        survey: &mut Survey,
        password: Option<Result<(Password, Option<String>)>>,
        failed_roles: &BTreeSet<String>,
    ) -> Result<()> {
        let declared = self.declared.roles.get(name);
        if let Some(other) = declared
            .into_iter()
            .flat_map(|role| &role.member_of)
            .find(|other| failed_roles.contains(*other))
        {
            return Err(anyhow!("role \"{other}\" could not be brought about"));
        }
        let item = self.plan_role(name, survey, password);
        if let Some(problem) = item.problem {
            return Err(match item.hint {
                Some(hint) => Hinted::new(problem, hint).into(),
                None => anyhow!(problem),
            });
        }
        let mut entry = survey.record.roles.get(name).cloned().unwrap_or_default();
        let is_new = !survey.cluster.roles.contains_key(name);
        let is_known = declared
            .is_some_and(|role| entry.past.declarations.as_slice() == std::slice::from_ref(role));
        if item.changes.is_empty() && is_known {
            return Ok(());
        }
        entry.past.created |= is_new && declared.is_some();
        let mut transaction = client
            .transaction()
            .map_err(|err| failed(&err, "begin a transaction"))?;
        session::execute(&mut transaction, &statements(&item.changes))?;
        if is_new && declared.is_none() {
            Entry::<DeclaredRole>::forget(&mut transaction, name)?;
        } else {
            let hash = declared.map(files::hash).transpose()?.unwrap_or_default();
            entry.finish(
                &mut transaction,
                name,
                declared.map(|role| (role, hash.as_str())),
            )?;
        }
        transaction.commit().map_err(|err| failed(&err, "commit"))?;
        for sentence in change::sentences(&item.changes) {
            tool::log(Level::Info, format_args!("{sentence}"));
        }
        Ok(())
    }

    fn apply_database(
        &self,
        client: &mut Client,
        name: &str,
        survey: &mut Survey,
        force: bool,
        failed_roles: &BTreeSet<String>,
    ) -> Result<()> {
        let declared = self.declared.declared.get(name);
        let mut entry = survey
            .record
            .databases
            .get(name)
            .cloned()
            .unwrap_or_default();
        let Some(declared) = declared else {
            if survey.cluster.databases.contains_key(name) {
                self.configure(name, None, &entry.past)?;
                return entry.finish(client, name, None);
            }
            return Entry::<Declared>::forget(client, name);
        };
        if let Some(role) = roles_of(declared).find(|role| failed_roles.contains(*role)) {
            return Err(anyhow!("role \"{role}\" could not be brought about"));
        }
        let files = match &self.files[name] {
            Ok(files) => files,
            Err(item) => {
                return Err(anyhow!(item.problem.clone().unwrap_or_default()));
            }
        };
        let hash = files.hash(declared)?;
        // What is missing or cannot be is found out before anything is touched.
        let item = self.plan_database(name, survey, force)?;
        if let Some(problem) = item.problem {
            return Err(Hinted::new(problem, item.hint.unwrap_or_default()).into());
        }
        let is_done = entry.is(declared, &hash) && !force;
        if item.changes.is_empty() && entry.is(declared, &hash) {
            return Ok(());
        }
        let is_new = !survey.cluster.databases.contains_key(name);
        if is_new {
            entry.past.created = true;
            entry.fresh = true;
        }
        entry.begin(client, name, Some(declared))?;
        if is_new {
            self.create(client, name, declared, files)?;
        }
        let mut ran = false;
        let mut run = |kind: Script, files: &[files::SqlFile]| -> Result<()> {
            if files.is_empty() {
                return Ok(());
            }
            ran = true;
            let mut client = self.address.connect(name)?;
            scripts::run_hooks(&mut client, name, kind, files)
        };
        if entry.fresh {
            run(Script::PostCreate, &files.post_create)?;
        }
        if !is_done {
            run(Script::PreConfig, &files.pre_config)?;
        }
        let owner = self.configure(name, Some(declared), &entry.past)?;
        if scripts::has_any(declared) {
            let mut client = self.address.connect_as(&owner, name)?;
            let pending = Pending::find(&mut client, &owner, declared, files)?;
            ran |= !pending.changes().is_empty();
            pending.run(&mut client, name)?;
        }
        if !is_done && !files.post_config.is_empty() {
            ran = true;
            let mut client = self.address.connect(name)?;
            scripts::run_hooks(&mut client, name, Script::PostConfig, &files.post_config)?;
        }
        if ran {
            // What they have made is granted on like everything else.
            self.configure(name, Some(declared), &entry.past)?;
        }
        entry.finish(client, name, Some((declared, &hash)))
    }

    /// Creates a database. That is no part of a transaction, so the record has it before.
    fn create(
        &self,
        client: &mut Client,
        name: &str,
        declared: &Declared,
        files: &Files,
    ) -> Result<()> {
        scripts::run_hooks(client, name, Script::PreCreate, &files.pre_create)?;
        let change = Change::CreateDatabase {
            creation: plan::creation(name, declared, self.address.own_role()),
        };
        session::execute(client, &statements(std::slice::from_ref(&change)))?;
        tool::log(Level::Info, format_args!("{change}"));
        Ok(())
    }

    /// Brings extensions, properties and rights of a database about, in one transaction. Returns its
    /// owner.
    fn configure(
        &self,
        name: &str,
        declared: Option<&Declared>,
        past: &Past<Declared>,
    ) -> Result<String> {
        let mut attempt = 1;
        loop {
            match self.try_configure(name, declared, past) {
                Err(err) if attempt < ATTEMPTS && session::met_another_change(&err) => {
                    tool::log(
                        Level::Warning,
                        format_args!("database \"{name}\": {err:#}; trying again"),
                    );
                    attempt += 1;
                    std::thread::sleep(PAUSE);
                }
                other => return other,
            }
        }
    }

    fn try_configure(
        &self,
        name: &str,
        declared: Option<&Declared>,
        past: &Past<Declared>,
    ) -> Result<String> {
        let mut client = self.address.connect(name)?;
        let mut transaction = client
            .transaction()
            .map_err(|err| failed(&err, "begin a transaction"))?;
        let mut done: Vec<Change> = Vec::new();
        for _ in 0..ROUNDS {
            let cluster = catalog::cluster(&mut transaction)?;
            let shared = cluster
                .databases
                .get(name)
                .with_context(|| format!("database \"{name}\" is gone"))?;
            let functions = named_functions(declared, past);
            let whole = catalog::inside(&mut transaction, &cluster, shared, &functions)?;
            let plan = self.plan_inside(name, declared, past, &whole, &cluster)?;
            if let Some(problem) = plan.problem {
                return Err(Hinted::new(problem.what, problem.hint).into());
            }
            if plan.changes.is_empty() {
                break;
            }
            let makes_objects =
                |change: &Change| !matches!(change, Change::Grant { .. } | Change::Revoke { .. });
            let first: Vec<Change> = plan
                .changes
                .iter()
                .filter(|change| makes_objects(change))
                .cloned()
                .collect();
            let now = if first.is_empty() {
                plan.changes
            } else {
                first
            };
            hand_over_record(&mut transaction, &now, &whole.database)?;
            session::execute(&mut transaction, &statements(&now))?;
            done.extend(now);
        }
        let owner = catalog::cluster(&mut transaction)?
            .databases
            .remove(name)
            .map(|shared| shared.owner)
            .unwrap_or_default();
        transaction.commit().map_err(|err| failed(&err, "commit"))?;
        for sentence in change::sentences(&done) {
            tool::log(Level::Info, format_args!("database \"{name}\": {sentence}"));
        }
        Ok(owner)
    }

    /// Says what came of it, from what is there now.
    fn outcome(&self, client: &mut Client, failed: Vec<String>) -> Result<Outcome> {
        let survey = self.survey(client)?;
        let mut databases = BTreeMap::new();
        let mut hashes = BTreeMap::new();
        for (name, declared) in self.declared.declared.iter().filter(|(_, it)| it.managed) {
            let hash = match &self.files[name.as_str()] {
                Ok(files) => files.hash(declared)?,
                Err(_) => String::new(),
            };
            let is_done = survey
                .record
                .databases
                .get(name)
                .is_some_and(|entry| entry.is(declared, &hash));
            databases.insert(
                name.clone(),
                is_done && !failed.contains(&format!("database \"{name}\"")),
            );
            hashes.insert(name, hash);
        }
        // The hash is shown to everybody, and so must not tell who guesses whether a guess is right:
        // of a password it has the verifier, whose salt only the server knows.
        let verifiers: BTreeMap<&String, String> = self
            .declared
            .roles
            .iter()
            .filter(|(_, role)| role.password_file.is_some())
            .filter_map(
                |(name, _)| match &survey.cluster.roles.get(name)?.password {
                    Stored::Scram(verifier) => Some((name, verifier.text())),
                    Stored::Nothing | Stored::Other => None,
                },
            )
            .collect();
        let hash = failed
            .is_empty()
            .then(|| files::hash(&(self.declared, hashes, verifiers)))
            .transpose()?;
        Ok(Outcome {
            failed,
            databases,
            hash,
        })
    }
}

fn statements(changes: &[Change]) -> Vec<Statement> {
    changes.iter().filter_map(Change::statement).collect()
}

/// Every role that a declaration names.
fn roles_of(declared: &Declared) -> impl Iterator<Item = &String> {
    let policies = declared.default_privileges.values();
    let grants = [&declared.permissions, &declared.database_permissions]
        .into_iter()
        .chain(declared.schema_permissions.values())
        .chain(declared.table_permissions.values())
        .chain(declared.function_permissions.values())
        .chain(
            policies
                .clone()
                .flat_map(|policy| [&policy.tables, &policy.sequences, &policy.functions]),
        );
    declared
        .owner
        .iter()
        .chain(&declared.readonly_role)
        .chain(policies.filter_map(|policy| policy.owner.as_ref()))
        .chain(grants.flat_map(BTreeMap::keys))
}

/// Gives the record of what was run in a database to its new owner, in whose session it is read.
fn hand_over_record(
    client: &mut impl GenericClient,
    changes: &[Change],
    database: &Database,
) -> Result<()> {
    let Some(owner) = changes.iter().find_map(|change| match change {
        Change::SetOwner { owner, .. } => Some(owner),
        _ => None,
    }) else {
        return Ok(());
    };
    let tables = client
        .query(
            "SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             JOIN pg_roles r ON r.oid = n.nspowner
             WHERE n.nspname = 'backstay' AND r.rolname = $1 AND c.relkind = 'r'",
            &[&database.owner],
        )
        .map_err(|err| failed(&err, "look for the record of what was run"))?;
    if tables.is_empty() {
        return Ok(());
    }
    let mut handed: Vec<Statement> = tables
        .iter()
        .map(|row| Statement {
            template: "ALTER TABLE backstay.%I OWNER TO %I".into(),
            arguments: vec![row.get(0), owner.clone()],
        })
        .collect();
    handed.push(Statement {
        template: "ALTER SCHEMA backstay OWNER TO %I".into(),
        arguments: vec![owner.clone()],
    });
    session::execute(client, &handed)
}
