//! The recovery that is declared: done once for each `recovery.id`, by `backstay restore`.

use std::path::Path;

use anyhow::Result;
use command::Command;
use instance_state::{RecoveryRecord, RecoveryState};
use jiff::Timestamp;
use restore_journal::{Places, Step};
use settings::{DeclaredRecovery, Settings};
use tool::{Hinted, Level};

/// The declared recovery, if it has not been done.
///
/// # Errors
///
/// Fails when the record of the last one cannot be read, and when this one has been tried and has failed:
/// it would fail again, after as long.
pub fn pending(settings: &Settings) -> Result<Option<&DeclaredRecovery>> {
    let Some(declared) = &settings.recovery else {
        return Ok(None);
    };
    match record_of(settings, declared)? {
        Some(RecoveryRecord {
            state: RecoveryState::Done,
            ..
        }) => Ok(None),
        Some(RecoveryRecord {
            state: RecoveryState::Failed { why },
            target,
            ..
        }) if target == declared.target => Err(failed(settings, declared, &why)),
        _ => Ok(Some(declared)),
    }
}

fn record_of(settings: &Settings, declared: &DeclaredRecovery) -> Result<Option<RecoveryRecord>> {
    let record = RecoveryRecord::read(&settings.state_directory())?;
    Ok(record.filter(|record| record.id == declared.id))
}

/// Goes on with a recovery that was interrupted: puts a restored cluster in its place that only lacked
/// that, and clears away half a one.
///
/// # Errors
///
/// Fails when somebody else restores into the data directory, and when something cannot be moved.
pub fn resume(config: &Path, settings: &Settings) -> Result<()> {
    let Some(declared) = &settings.recovery else {
        return Ok(());
    };
    let is_begun =
        record_of(settings, declared)?.is_some_and(|record| record.state == RecoveryState::Begun);
    let places = Places::beside(&settings.postgresql.data_directory);
    let (true, Some(journal)) = (is_begun, places.read_journal()?) else {
        return Ok(());
    };
    tool::log(
        Level::Info,
        format_args!("recovery \"{}\" was interrupted", declared.id),
    );
    if journal.step == Step::Swapping {
        let _lock = places.try_lock()?.ok_or_else(|| {
            Hinted::new(
                format!(
                    "a restore into \"{}\" is running",
                    places.destination.display()
                ),
                "wait for it to end, and start the server again",
            )
        })?;
        return places.swap(journal.kept.as_deref());
    }
    backstay(config, settings)?.arg("--abandon").run()?;
    Ok(())
}

/// Does the declared recovery, if it has not been done.
///
/// # Errors
///
/// Fails when the target cannot be reached or the restore fails. The cluster in the data directory is as it
/// was then.
pub fn apply(config: &Path, settings: &Settings) -> Result<()> {
    let Some(declared) = pending(settings)? else {
        return Ok(());
    };
    let timeline = archive::read_control_file(&settings.postgresql.data_directory)?.timeline;
    let record = |state| RecoveryRecord {
        format: RecoveryRecord::FORMAT,
        id: declared.id.clone(),
        target: declared.target.clone(),
        state,
        from_timeline: timeline,
        at: Timestamp::now(),
    };
    let state = settings.state_directory();
    if let Some(begun) = record_of(settings, declared)?
        && begun.state == RecoveryState::Begun
        && begun.from_timeline < timeline
    {
        // Only the word that it is done is missing.
        return conclude(settings, &record(RecoveryState::Done));
    }
    // What cannot be reached is refused before anything is begun, and may be reached another time.
    restore(config, settings, declared)?
        .arg("--plan")
        .run()
        .map_err(|err| failed(settings, declared, &format!("{err:#}")))?;
    record(RecoveryState::Begun).write(&state)?;
    tool::log(
        Level::Info,
        format_args!(
            "recovering to {}, as recovery \"{}\" declares",
            declared.target, declared.id
        ),
    );
    let told = restore(config, settings, declared)?
        .arg("--yes")
        .run_until(None, |line| tool::log(Level::Info, format_args!("{line}")))?;
    if !told.status.is_some_and(|status| status.success()) {
        let why = told
            .lines
            .iter()
            .rev()
            .find(|line| line.starts_with("could not "))
            .map_or("backstay restore failed", String::as_str)
            .to_owned();
        record(RecoveryState::Failed { why: why.clone() }).write(&state)?;
        return Err(failed(settings, declared, &why));
    }
    conclude(settings, &record(RecoveryState::Done))
}

/// Writes down that it is done, and asks for a base backup.
fn conclude(settings: &Settings, record: &RecoveryRecord) -> Result<()> {
    let state = settings.state_directory();
    if settings.base_backup.is_some() {
        durable_file::replace(
            &instance_state::base_backup_request(&state),
            b"after a recovery\n",
        )?;
    }
    record.write(&state)?;
    tool::log(
        Level::Info,
        format_args!(
            "recovery \"{}\" is done and will not be done again",
            record.id
        ),
    );
    Ok(())
}

fn failed(settings: &Settings, declared: &DeclaredRecovery, why: &str) -> anyhow::Error {
    Hinted::new(
        format!("recovery \"{}\" to {} was not done: {why}", declared.id, declared.target),
        format!(
            "the cluster is as it was: leave out recovery to go on with it, or declare a target that `backstay windows {}` shows, with another id",
            settings.instance
        ),
    )
    .into()
}

fn restore(config: &Path, settings: &Settings, declared: &DeclaredRecovery) -> Result<Command> {
    let mut command = backstay(config, settings)?
        .args(["--to", &declared.target])
        .args(["--no-start", "--no-backup"]);
    if declared.exclusive {
        command = command.arg("--exclusive");
    }
    if let Some(timeline) = &declared.timeline {
        command = command.args(["--timeline", timeline]);
    }
    Ok(command)
}

/// `backstay restore`, which is installed beside this program.
fn backstay(config: &Path, settings: &Settings) -> Result<Command> {
    Ok(Command::beside("backstay")?
        .args(["restore", &settings.instance])
        .arg("--config")
        .arg(config))
}
