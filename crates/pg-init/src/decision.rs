//! What to do about what was found. Nothing is touched here, so every case can be tried.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use data_directory::{ClusterFound, Data};
use instance_state::{InstanceRecord, PreseedOutcome};
use restore_journal::Step;
use settings::Settings;
use tool::Hinted;
use wal::SystemIdentifier;

use crate::look::{ArchiveFound, BaseBackupsFound, Facts, RolledBack};

/// What is going to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether a new cluster is made.
    pub make_cluster: bool,
    /// What is done about the archive.
    pub archive: ArchiveStep,
    /// What is done about the base backups.
    pub base_backups: BaseBackupStep,
    /// What a person should look at although the server can start.
    pub warnings: Vec<String>,
}

/// What is done about the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArchiveStep {
    /// Nothing.
    Leave,
    /// The declared directory becomes the archive of the cluster.
    Init,
    /// The cluster takes the place of one of which nothing was archived.
    Admit {
        /// That one.
        replaces: SystemIdentifier,
    },
}

/// What is done about the base backups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BaseBackupStep {
    /// Nothing.
    Leave {
        /// Whether the declared directory is known as this instance's.
        marked: bool,
    },
    /// The declared directory is marked as this instance's.
    Init,
}

impl Decision {
    /// The decision as a person reads it.
    pub fn text(&self, settings: &Settings) -> String {
        let mut text = String::new();
        let data = settings.postgresql.data_directory.display();
        let _ = if self.make_cluster {
            writeln!(text, "make     a new cluster in {data}")
        } else {
            writeln!(text, "use      the cluster in {data}")
        };
        let archive = settings.archive.directory.display();
        let _ = match self.archive {
            ArchiveStep::Leave => Ok(()),
            ArchiveStep::Init => writeln!(text, "begin    the archive in {archive}"),
            ArchiveStep::Admit { replaces } => {
                writeln!(
                    text,
                    "admit    it to the archive in {archive}, in place of {replaces}"
                )
            }
        };
        if let (BaseBackupStep::Init, Some(declared)) = (self.base_backups, &settings.base_backup) {
            let _ = writeln!(
                text,
                "begin    the base backups in {}",
                declared.directory.display()
            );
        }
        for warning in &self.warnings {
            let _ = writeln!(text, "careful  {warning}");
        }
        text
    }
}

/// Decides what to do.
///
/// # Errors
///
/// Refuses, with a way out, whenever the server must not start.
pub fn decide(settings: &Settings, facts: &Facts) -> Result<Decision> {
    if let Some(refusal) = facts.data.refusal(&settings.postgresql.data_directory) {
        return Err(refusal);
    }
    match &facts.data {
        Data::Cluster(found) => present_cluster(settings, facts, found),
        _ => new_cluster(settings, facts),
    }
}

fn refuse<T>(what: impl Into<String>, hint: impl Into<String>) -> Result<T> {
    Err(Hinted::new(what, hint).into())
}

fn quoted(path: &Path) -> String {
    command::quoted(&path.display().to_string())
}

/// `path` as it is called within `directory`.
fn name_in(directory: &Path, path: &Path) -> String {
    path.strip_prefix(directory)
        .unwrap_or(path)
        .display()
        .to_string()
}

/// Refuses in the middle of a restore. One that has failed and said so is over.
fn check_restore(settings: &Settings, facts: &Facts) -> Result<()> {
    let data = settings.postgresql.data_directory.display();
    let instance = &settings.instance;
    match facts.restore {
        None | Some(Step::Failed) => Ok(()),
        Some(Step::Building) => refuse(
            format!("a restore into \"{data}\" was begun and is not complete"),
            format!(
                "if it still runs, wait for it; if it was interrupted, run the same `backstay restore {instance}` again, or `backstay restore {instance} --abandon` to go on with the cluster as it was"
            ),
        ),
        Some(Step::Swapping) => refuse(
            format!(
                "a restore into \"{data}\" was interrupted while it put the restored cluster in its place"
            ),
            format!("run the same `backstay restore {instance}` again: it finishes what is left"),
        ),
    }
}

/// What is decided where there is no cluster: to make one, if nothing speaks against it.
fn new_cluster(settings: &Settings, facts: &Facts) -> Result<Decision> {
    check_restore(settings, facts)?;
    if let Some(because) = why_no_new_cluster(settings, facts) {
        return Err(because);
    }
    Ok(Decision {
        make_cluster: true,
        archive: match &facts.archive {
            ArchiveFound::Archive { clusters, .. } => match clusters.last() {
                Some(&replaces) => ArchiveStep::Admit { replaces },
                None => ArchiveStep::Leave,
            },
            ArchiveFound::Nothing | ArchiveFound::SomethingElse(_) => ArchiveStep::Init,
        },
        base_backups: match &facts.base_backups {
            None => BaseBackupStep::Leave { marked: false },
            Some(BaseBackupsFound::Ours { .. }) => BaseBackupStep::Leave { marked: true },
            Some(_) => BaseBackupStep::Init,
        },
        warnings: Vec::new(),
    })
}

/// The first thing that speaks against a new cluster.
fn why_no_new_cluster(settings: &Settings, facts: &Facts) -> Option<anyhow::Error> {
    let data = settings.postgresql.data_directory.display();
    let instance = &settings.instance;
    let against = |because: String, hint: String| {
        Some(
            Hinted::new(
                format!("there is no cluster in \"{data}\", and {because}"),
                hint,
            )
            .into(),
        )
    };
    let restore = format!(
        "bring it back with `backstay restore {instance} --to latest`, or declare a preseed, which does so before the first start"
    );
    // What is left of the cluster that was here comes first: it says most.
    if let Some(other) = facts.beside.first() {
        return against(
            format!("\"{}\" beside it is one", other.display()),
            "a new version takes over the old one's data with pg_upgrade; to go on as before, declare the old version, or give the directory its name back".into(),
        );
    }
    let holding = [
        (
            "the archive",
            match &facts.archive {
                ArchiveFound::Archive { holds, .. } => holds.as_ref(),
                ArchiveFound::Nothing | ArchiveFound::SomethingElse(_) => None,
            },
        ),
        (
            "the directory of the base backups",
            match &facts.base_backups {
                Some(BaseBackupsFound::Ours { holds }) => holds.as_ref(),
                _ => None,
            },
        ),
    ];
    for (place, something) in holding {
        if let Some(something) = something {
            return against(
                format!(
                    "{place} holds data of one, \"{}\" for example",
                    something.display()
                ),
                format!(
                    "{restore}; if it may be lost, move {place} away and begin with an empty one"
                ),
            );
        }
    }
    if let Some(refusal) = foreign_contents(settings, facts) {
        return Some(refusal);
    }
    if let Some(record) = &facts.record {
        return against(
            format!(
                "there was one: system identifier {}, PostgreSQL {}, in \"{}\"",
                record.system_identifier,
                record.postgres_major,
                record.data_directory.display()
            ),
            format!(
                "is everything mounted? {restore}; if it may be lost, remove \"{}\"",
                InstanceRecord::path(&settings.state_directory()).display()
            ),
        );
    }
    if settings.preseed.is_some()
        && !facts
            .preseed
            .is_some_and(PreseedOutcome::allows_empty_cluster)
    {
        return against(
            "the preseed has not shown that its sources hold none".into(),
            format!("see what it says: `journalctl --unit=preseed-postgresql-{instance}.service`"),
        );
    }
    if let Some(recovery) = &settings.recovery {
        return against(
            format!("recovery \"{}\" is declared, which needs one", recovery.id),
            format!("{restore}; or leave out recovery"),
        );
    }
    if settings.postgresql.initdb.is_none() {
        return against(
            "the settings do not say how to make one".into(),
            format!("declare postgresql.initdb to begin with an empty one, or {restore}"),
        );
    }
    None
}

/// Refuses directories that hold something that is not ours.
fn foreign_contents(settings: &Settings, facts: &Facts) -> Option<anyhow::Error> {
    if let ArchiveFound::SomethingElse(something) = &facts.archive {
        let root = &settings.archive.directory;
        return Some(
            Hinted::new(
                format!(
                    "\"{}\" holds \"{}\" and no archive.json, so it is not known whose archive it is",
                    root.display(),
                    name_in(root, something)
                ),
                "name an empty directory as archive.directory, or restore the archive's manifest",
            )
            .into(),
        );
    }
    if let (Some(BaseBackupsFound::SomethingElse(something)), Some(declared)) =
        (&facts.base_backups, &settings.base_backup)
    {
        let root = &declared.directory;
        return Some(
            Hinted::new(
                format!(
                    "\"{}\" holds \"{}\" and does not say whose base backups they are",
                    root.display(),
                    name_in(root, something)
                ),
                "name an empty directory as baseBackup.directory, or restore .backstay/repository.json in it",
            )
            .into(),
        );
    }
    None
}

/// What is decided where there is a cluster: to use it, if it is whole and ours.
fn present_cluster(settings: &Settings, facts: &Facts, found: &ClusterFound) -> Result<Decision> {
    check_cluster(settings, facts, found)?;
    check_restore(settings, facts)?;
    let control = found
        .control
        .as_ref()
        .map_err(|err| anyhow::anyhow!("{err}"))?;
    let mut warnings = Vec::new();
    if facts.restore == Some(Step::Failed) {
        warnings.push(format!(
            "a restore has failed, and what it made is beside the cluster; `backstay restore {} --abandon` removes it",
            settings.instance
        ));
    }
    check_not_rolled_back(settings, facts)?;
    let archive = archive_step(settings, facts, control.system_identifier, &mut warnings)?;
    let base_backups = base_backup_step(settings, facts, &mut warnings);
    Ok(Decision {
        make_cluster: false,
        archive,
        base_backups,
        warnings,
    })
}

/// Refuses a cluster that PostgreSQL could not start, or would damage.
fn check_cluster(settings: &Settings, facts: &Facts, found: &ClusterFound) -> Result<()> {
    let server = &settings.postgresql;
    let data = &server.data_directory;
    let shown = data.display();
    let bring_back = format!(
        "`backstay restore {} --to latest` brings it back and keeps what is there",
        settings.instance
    );
    // Whoever starts a server twice on one directory loses it, so this comes first.
    if found.is_running {
        return refuse(
            format!("a server runs on \"{shown}\" already"),
            format!(
                "stop it where it was started, or with `{} stop --pgdata {}`",
                quoted(&server.bin_directory.join("pg_ctl")),
                quoted(data)
            ),
        );
    }
    match &found.major {
        Err(err) => return refuse(format!("\"{shown}\" is damaged: {err}"), bring_back),
        Ok(major) if *major != facts.programs_major => {
            return refuse(
                format!(
                    "\"{shown}\" is a cluster of PostgreSQL {major}, the programs are of PostgreSQL {}",
                    facts.programs_major
                ),
                format!("declare version {major} again, or upgrade the cluster with pg_upgrade"),
            );
        }
        Ok(_) => {}
    }
    if let Err(err) = &found.control {
        return refuse(format!("\"{shown}\" is damaged: {err}"), bring_back);
    }
    if !found.has_wal {
        return refuse(
            format!("\"{shown}\" has no directory \"pg_wal\""),
            format!(
                "if it is elsewhere, is it mounted? otherwise {bring_back}; pg_resetwal would lose committed data"
            ),
        );
    }
    if let Some(missing) = found.missing_tablespaces.first() {
        return refuse(
            format!(
                "tablespace \"{}\" holds nothing of this cluster",
                missing.display()
            ),
            "is its file system mounted? the server would make new files below the mount point",
        );
    }
    // PostgreSQL allows the group to read and nothing more, in checkDataDir() of miscinit.c.
    if found.mode & 0o027 != 0 {
        return refuse(
            format!(
                "\"{shown}\" has mode {:04o}, with which PostgreSQL does not start",
                found.mode
            ),
            format!("`chmod 0700 {}`", quoted(data)),
        );
    }
    Ok(())
}

/// Refuses a cluster that is an older state of itself. It would write other WAL under the names of what is in the
/// archive, and a restore ends what it goes on from with a new timeline.
fn check_not_rolled_back(settings: &Settings, facts: &Facts) -> Result<()> {
    let Some(RolledBack { own, archived, by }) = &facts.rolled_back else {
        return Ok(());
    };
    let server = &settings.postgresql;
    let restore = format!("backstay restore {} --no-start", settings.instance);
    refuse(
        format!(
            "the cluster in \"{}\" was rolled back: its WAL reaches to {own}, and {archived} had been archived by \"{}\"",
            server.data_directory.display(),
            by.display()
        ),
        format!(
            "`{restore} --to latest` brings back what came after, and keeps what is there; to go on from here, on a timeline of its own, `{restore} --from directory:{} --to immediate`",
            quoted(&server.data_directory)
        ),
    )
}

fn archive_step(
    settings: &Settings,
    facts: &Facts,
    own: SystemIdentifier,
    warnings: &mut Vec<String>,
) -> Result<ArchiveStep> {
    let root = settings.archive.directory.display();
    match &facts.archive {
        ArchiveFound::Archive { clusters, .. } if clusters.contains(&own) => Ok(ArchiveStep::Leave),
        ArchiveFound::Archive { clusters, holds } => {
            let has_base_backups = matches!(
                &facts.base_backups,
                Some(BaseBackupsFound::Ours { holds: Some(_) })
            );
            // Nothing can mix with nothing.
            if let (Some(&replaces), None, false) = (clusters.last(), holds, has_base_backups) {
                return Ok(ArchiveStep::Admit { replaces });
            }
            let known: Vec<String> = clusters.iter().map(ToString::to_string).collect();
            refuse(
                format!(
                    "the cluster in \"{}\" has system identifier {own}, the archive in \"{root}\" is that of {}",
                    settings.postgresql.data_directory.display(),
                    known.join(", ")
                ),
                format!(
                    "if it is meant to replace it (after an upgrade or a new initdb), run `backstay archive admit {} --replaces {}`; otherwise find out whose data this is",
                    settings.instance,
                    known.last().map_or("…", String::as_str)
                ),
            )
        }
        ArchiveFound::SomethingElse(_) => match foreign_contents(settings, facts) {
            Some(refusal) => Err(refusal),
            None => Ok(ArchiveStep::Leave),
        },
        ArchiveFound::Nothing => match &facts.record {
            None => Ok(ArchiveStep::Init),
            Some(record) if record.system_identifier == own => {
                warnings.push(format!(
                    "there is no archive in \"{root}\", and there was one in \"{}\": WAL stays in pg_wal until it is back; if it is lost, `backstay archive init {}` begins a new one",
                    record.archive_directory.display(),
                    settings.instance
                ));
                Ok(ArchiveStep::Leave)
            }
            Some(record) => refuse(
                format!(
                    "the cluster in \"{}\" has system identifier {own}, the one that was here had {}, and its archive is gone",
                    settings.postgresql.data_directory.display(),
                    record.system_identifier
                ),
                format!(
                    "is the archive mounted at \"{root}\"? if this cluster is the right one, remove \"{}\"",
                    InstanceRecord::path(&settings.state_directory()).display()
                ),
            ),
        },
    }
}

fn base_backup_step(
    settings: &Settings,
    facts: &Facts,
    warnings: &mut Vec<String>,
) -> BaseBackupStep {
    let (Some(found), Some(declared)) = (&facts.base_backups, &settings.base_backup) else {
        return BaseBackupStep::Leave { marked: false };
    };
    let root: &PathBuf = &declared.directory;
    match found {
        BaseBackupsFound::Ours { .. } => BaseBackupStep::Leave { marked: true },
        BaseBackupsFound::SomethingElse(_) => {
            if let Some(refusal) = foreign_contents(settings, facts) {
                warnings.push(format!("{refusal:#}; no base backup can be taken"));
            }
            BaseBackupStep::Leave { marked: false }
        }
        BaseBackupsFound::Nothing => {
            let was = facts
                .record
                .as_ref()
                .and_then(|record| record.base_backup_directory.as_ref());
            match was {
                None => BaseBackupStep::Init,
                Some(was) => {
                    warnings.push(format!(
                        "there are no base backups in \"{}\", and there were some in \"{}\": is everything mounted? if they are lost, `backstay archive init {}` begins anew",
                        root.display(),
                        was.display(),
                        settings.instance
                    ));
                    BaseBackupStep::Leave { marked: false }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
