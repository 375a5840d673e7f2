//! Filling the data directory, step by step.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use command::Command;
use durable_file::Lock;
use instance_state::{PreseedOutcome, PreseedRecord, PreseedStep, Restored, SourceAnswer};
use jiff::Timestamp;
use restore_journal::Places;
use restore_plan::Target;
use settings::{Choose, Preseed, Settings};
use tool::{Hinted, Level};

use crate::received::Record;
use crate::situation::{Known, Situation};
use crate::source::{self, Answer, Offer, Source};
use crate::{choice, finish, metrics};

/// Pauses before the sources that could not say are asked again. A network is often seconds late at boot.
pub const PAUSES: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(5)];

/// Fills the data directory if there is nothing in it.
///
/// # Errors
///
/// Fails when nothing could be restored and the server must not begin anew either, with all reasons in one
/// message. Nothing that was there has been changed then.
pub fn run(
    config: &Path,
    settings: &Settings,
    preseed: &Preseed,
    sources: &[Source],
) -> Result<()> {
    if Situation::look(settings)? == Situation::Cluster {
        return Ok(());
    }
    let _lock = lock(settings)?;
    // Somebody else may have been at work since.
    let situation = Situation::look(settings)?;
    let mut filling = Filling::new(config, settings, preseed)?;
    match situation {
        Situation::Cluster => Ok(()),
        Situation::Unfinished => filling.finish(),
        Situation::Swapping(journal) => {
            say("an interrupted restore is finished");
            places(settings)?.swap(journal.kept.as_deref())?;
            // One that a person began is complete with that.
            if filling.record.source.is_none() {
                return Ok(());
            }
            filling.finish()
        }
        Situation::Empty => {
            places(settings)?;
            filling.fill(sources)
        }
    }
}

/// The moment that is declared.
///
/// # Errors
///
/// Fails when it cannot be read.
pub fn target_of(preseed: &Preseed) -> Result<Target> {
    Target::parse(&preseed.target, Timestamp::now())
        .map_err(|err| Hinted::new(err.to_string(), err.hint().to_owned()).into())
}

/// Keeps a second run from beginning.
///
/// # Errors
///
/// Fails when there is one.
pub fn lock(settings: &Settings) -> Result<Lock> {
    let state = settings.state_directory();
    durable_file::ensure_directory(&state)?;
    durable_file::try_lock(&state.join("preseed.lock"))?.ok_or_else(|| {
        Hinted::new(
            "another preseed of this instance is running",
            "wait for it to end, and start the server again",
        )
        .into()
    })
}

/// Keeps others from fetching. A fetch that is left behind by a killed run goes on writing.
fn lock_fetching(settings: &Settings) -> Result<Lock> {
    durable_file::try_lock(&settings.state_directory().join("preseed-fetch.lock"))?.ok_or_else(
        || {
            Hinted::new(
                "what an interrupted preseed has begun to fetch is still coming",
                "wait for it to end, and start the server again",
            )
            .into()
        },
    )
}

/// The places of restores into the data directory, in which nobody else is at work.
fn places(settings: &Settings) -> Result<Places> {
    let places = Places::beside(&settings.postgresql.data_directory);
    match places.try_lock()? {
        Some(_) => Ok(places),
        None => Err(Hinted::new(
            format!(
                "a restore into \"{}\" is running",
                settings.postgresql.data_directory.display()
            ),
            "wait for it to end, and start the server again",
        )
        .into()),
    }
}

struct Filling<'a> {
    config: &'a Path,
    settings: &'a Settings,
    preseed: &'a Preseed,
    target: Target,
    deadline: Option<Instant>,
    record: PreseedRecord,
    /// The kind of the source that was restored from, for the metrics.
    kind: Option<String>,
}

impl<'a> Filling<'a> {
    fn new(config: &'a Path, settings: &'a Settings, preseed: &'a Preseed) -> Result<Self> {
        let state = settings.state_directory();
        let fresh = PreseedRecord {
            target: Some(preseed.target.clone()),
            ..PreseedRecord::new(PreseedOutcome::Begun, PreseedStep::Asking, Timestamp::now())
        };
        // What an interrupted run had begun with is told by the run that completes it.
        let record = PreseedRecord::read(&state)?
            .filter(|record| record.outcome == PreseedOutcome::Begun)
            .unwrap_or(fresh);
        Ok(Self {
            config,
            settings,
            preseed,
            target: target_of(preseed)?,
            deadline: preseed
                .deadline_seconds
                .map(|seconds| Instant::now() + Duration::from_secs(seconds.into())),
            kind: record
                .source
                .as_deref()
                .and_then(kind_in)
                .map(ToOwned::to_owned),
            record,
        })
    }

    /// Writes down what is begun now.
    fn note(&mut self, step: PreseedStep) -> Result<()> {
        self.record.step = step;
        self.record.at = Timestamp::now();
        self.record.write(&self.settings.state_directory())
    }

    /// Writes down what it came to.
    fn conclude(&mut self, outcome: PreseedOutcome) -> Result<()> {
        self.record.outcome = outcome;
        self.note(PreseedStep::Done)?;
        metrics::write(self.settings, &self.record, self.kind.as_deref());
        Ok(())
    }

    fn fill(&mut self, sources: &[Source]) -> Result<()> {
        self.record = PreseedRecord {
            target: Some(self.preseed.target.clone()),
            ..PreseedRecord::new(PreseedOutcome::Begun, PreseedStep::Asking, Timestamp::now())
        };
        // What was received for it is part of what it took.
        if let Some(received) = Record::read(self.settings)?
            && received.snapshot.is_some()
        {
            self.record.begun_at = received.begun_at;
        }
        self.note(PreseedStep::Asking)?;
        metrics::write(self.settings, &self.record, None);
        // What a run had fetched that was interrupted.
        let alone = lock_fetching(self.settings)?;
        finish::clear_fetched(self.settings)?;
        drop(alone);
        let known = Known::of(self.settings)?;
        say(&format!(
            "there is no cluster in \"{}\"; asking {} sources",
            self.settings.postgresql.data_directory.display(),
            sources.len()
        ));
        let mut asked: Vec<Asked<'_>> = sources.iter().map(Asked::new).collect();
        for pause in PAUSES.iter().map(Some).chain([None]) {
            if self.try_all(&mut asked, &known)? {
                // The cluster is in its place. What fails from here on is no reason to try another source.
                let data = &self.settings.postgresql.data_directory;
                if self.preseed.clear_replication_slots {
                    finish::clear_slots(data)?;
                }
                finish::check(data, self.preseed.as_standby)?;
                return self.finish();
            }
            let is_proven = choice::without_restore(&answers(&asked), false).allows_empty_cluster();
            let (false, Some(pause)) = (is_proven, pause) else {
                break;
            };
            if self.is_over(*pause) || !asked.iter().any(Asked::is_open) {
                break;
            }
            say(&format!(
                "asking those that could not say again in {} seconds",
                pause.as_secs()
            ));
            thread::sleep(*pause);
        }
        self.begin_empty_or_fail(&answers(&asked))
    }

    /// Whether the deadline comes within `time`.
    fn is_over(&self, time: Duration) -> bool {
        self.deadline
            .is_some_and(|deadline| Instant::now() + time >= deadline)
    }

    /// Asks the sources that have not said anything that counts, and restores from the first one that can
    /// be restored from. Returns whether one was.
    fn try_all(&mut self, asked: &mut [Asked<'_>], known: &Known) -> Result<bool> {
        for index in 0..asked.len() {
            if !asked[index].is_open() {
                continue;
            }
            let source = asked[index].source;
            let said = source.ask(self.settings, &self.target, self.deadline);
            let answer = choice::judged(said.clone(), known);
            // What is turned down would be turned down again.
            asked[index].is_spent = answer != said;
            let level = match answer {
                Answer::CannotSay { .. } => Level::Warning,
                _ => Level::Info,
            };
            tool::log(level, format_args!("source {source}: {answer}"));
            asked[index].answer = Some(answer);
            self.record.answers = answers_for_record(asked);
            // In the declared order the next one is asked only if this one is of no use.
            if self.preseed.choose == Choose::Order && self.restore_best(asked)? {
                return Ok(true);
            }
        }
        self.restore_best(asked)
    }

    /// Restores from the best one that has something, and from the next one if that fails. Returns whether
    /// one was restored from.
    fn restore_best(&mut self, asked: &mut [Asked<'_>]) -> Result<bool> {
        while let Some(&index) = choice::in_order(&answers(asked), self.preseed.choose).first() {
            let source = asked[index].source;
            let Some(Answer::Has(offer)) = asked[index].answer.clone() else {
                break;
            };
            let Err(err) = self.restore(source, &offer) else {
                return Ok(true);
            };
            tool::report(&format!("could not restore from source {source}"), &err);
            asked[index].is_spent = true;
            asked[index].answer = Some(Answer::of_error(&err.context("it could not be restored")));
            self.record.answers = answers_for_record(asked);
            finish::clear_fetched(self.settings)?;
        }
        Ok(false)
    }

    fn restore(&mut self, source: &Source, offer: &Offer) -> Result<()> {
        self.record.source = Some(source.to_string());
        self.record.restored = Some(Restored {
            system_identifier: offer.system_identifier,
            reach: offer.reach,
            starting_point: offer.starting_point.clone(),
            content_bytes: offer.content_bytes,
            as_standby: self.preseed.as_standby,
        });
        self.kind = Some(source.kind.to_owned());
        let config = match &source.fetched_from {
            None => self.config.to_owned(),
            Some(repository) => {
                self.note(PreseedStep::Fetching)?;
                self.fetch(repository, offer)?
            }
        };
        self.note(PreseedStep::Restoring)?;
        let mut arguments = vec!["--yes", "--no-backup", "--no-start"];
        if self.preseed.exclusive {
            arguments.push("--exclusive");
        }
        if self.preseed.as_standby {
            arguments.push("--as-standby");
        }
        let command = self
            .backstay("restore", &config)?
            .args(["--to", &self.preseed.target])
            .args(["--from", &offer.origin])
            .args(arguments);
        if let Err(err) = self.run(&command) {
            self.give_up(&config);
            return Err(err);
        }
        Ok(())
    }

    /// Fetches what the restore needs, and returns the settings for it.
    fn fetch(
        &self,
        repository: &settings::ResticRepository,
        offer: &Offer,
    ) -> Result<std::path::PathBuf> {
        let mut settings = self.settings.clone();
        settings.restic = vec![repository.clone()];
        let source = self.settings.state_directory().join("preseed-source.json");
        durable_file::replace(&source, &serde_json::to_vec_pretty(&settings)?)?;
        let into = finish::fetched(self.settings);
        let mut command = self
            .backstay("fetch", &source)?
            .args(["--from", &format!("restic:{}", repository.name)])
            .args(["--to", &self.preseed.target])
            .arg("--into")
            .arg(&into);
        // Where the unit has the password.
        if let Some(credentials) = std::env::var_os("CREDENTIALS_DIRECTORY") {
            command = command.env("CREDENTIALS_DIRECTORY", credentials);
        }
        let lock = lock_fetching(self.settings)?;
        lock.share_with_children()?;
        self.run(&command)?;
        drop(lock);
        let config = into.join("settings.json");
        if offer.from_own_archive {
            let mut fetched = tool::read_settings(&config)?;
            self.settings
                .archive
                .directory
                .clone_into(&mut fetched.archive.directory);
            durable_file::replace(&config, &serde_json::to_vec_pretty(&fetched)?)?;
        }
        Ok(config)
    }

    /// `backstay`, which is installed beside this program.
    fn backstay(&self, command: &str, config: &Path) -> Result<Command> {
        Ok(Command::beside("backstay")?
            .arg(command)
            .arg(&self.settings.instance)
            .arg("--config")
            .arg(config))
    }

    /// Runs it until the deadline, with what it says in the journal.
    fn run(&self, command: &Command) -> Result<()> {
        let told = command.run_until(self.deadline, say)?;
        match told.status {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(source::complaint(command, status, &told.lines)),
            None => Err(Hinted::new(
                format!(
                    "not done after {} seconds",
                    self.preseed.deadline_seconds.unwrap_or_default()
                ),
                "if it needs that long, raise preseed.deadlineSeconds",
            )
            .into()),
        }
    }

    /// Stops the recovery that a restore has left behind, and removes what it made, so that the next one
    /// has the room. A journal that a failed restore has not even begun is none to give up.
    fn give_up(&self, config: &Path) {
        let begun = Places::beside(&self.settings.postgresql.data_directory)
            .read_journal()
            .is_ok_and(|journal| journal.is_some());
        if !begun {
            return;
        }
        let given_up = self
            .backstay("restore", config)
            .and_then(|command| command.arg("--abandon").run());
        if let Err(err) = given_up {
            tool::report("could not remove what the restore has left", &err);
        }
    }

    /// Does what is left around the restored cluster.
    fn finish(&mut self) -> Result<()> {
        self.note(PreseedStep::Finishing)?;
        finish::take_over_archive(self.settings)?;
        finish::clear_fetched(self.settings)?;
        if !self.preseed.as_standby {
            finish::request_base_backup(self.settings)?;
        }
        let data = &self.settings.postgresql.data_directory;
        if !self.preseed.as_standby {
            let control = archive::read_control_file(data)?;
            if let Some(restored) = &mut self.record.restored {
                restored.reach.timeline = control.timeline;
                restored.reach.lsn = control.checkpoint;
            }
        }
        self.conclude(PreseedOutcome::Restored)?;
        Record::forget(self.settings)?;
        say(&format!(
            "\"{}\" was filled from source {}",
            data.display(),
            self.record.source.as_deref().unwrap_or("unknown")
        ));
        Ok(())
    }

    /// Lets the server begin anew, if that is proven safe or consented to.
    fn begin_empty_or_fail(&mut self, answers: &[Answer]) -> Result<()> {
        let outcome =
            choice::without_restore(answers, self.preseed.allow_empty_start_without_proof);
        let reasons: Vec<String> = self
            .record
            .answers
            .iter()
            .map(|said| format!("source {}: {}", said.source, said.answer))
            .collect();
        let reasons = reasons.join("; ");
        self.record.source = None;
        self.record.restored = None;
        match outcome {
            PreseedOutcome::NothingToRestore => {
                say("every source has shown that it holds nothing of this instance");
                self.conclude(outcome)
            }
            PreseedOutcome::EmptyWithoutProof => {
                tool::log(
                    Level::Error,
                    format_args!(
                        "THE SERVER MAY START WITHOUT DATA, as preseed.allowEmptyStartWithoutProof says, although there may be some: {reasons}"
                    ),
                );
                self.conclude(outcome)
            }
            _ => {
                let what = format!(
                    "nothing could be restored into \"{}\": {reasons}",
                    self.settings.postgresql.data_directory.display()
                );
                let hint = way_out(&self.settings.instance, answers);
                self.record.failure = Some(format!("{what}; {hint}"));
                self.conclude(PreseedOutcome::Failed)?;
                Err(Hinted::new(what, hint).into())
            }
        }
    }
}

/// A source and what has come of asking it.
struct Asked<'a> {
    source: &'a Source,
    answer: Option<Answer>,
    /// What it has is of no use, and would be of none again.
    is_spent: bool,
}

impl<'a> Asked<'a> {
    fn new(source: &'a Source) -> Self {
        Self {
            source,
            answer: None,
            is_spent: false,
        }
    }

    /// Whether asking it may bring something new.
    fn is_open(&self) -> bool {
        !self.is_spent && matches!(self.answer, None | Some(Answer::CannotSay { .. }))
    }
}

/// The answers so far. Who was not asked has not said anything.
fn answers(asked: &[Asked<'_>]) -> Vec<Answer> {
    let not_asked = || Answer::CannotSay {
        why: "it was not asked".to_owned(),
        hint: None,
    };
    asked
        .iter()
        .map(|asked| asked.answer.clone().unwrap_or_else(not_asked))
        .collect()
}

/// The answers so far, for the record.
fn answers_for_record(asked: &[Asked<'_>]) -> Vec<SourceAnswer> {
    asked
        .iter()
        .filter_map(|asked| {
            Some(SourceAnswer {
                source: asked.source.to_string(),
                answer: asked.answer.as_ref()?.to_string(),
            })
        })
        .collect()
}

/// What a person does when nothing could be restored.
fn way_out(instance: &str, answers: &[Answer]) -> String {
    let mut hints: Vec<&str> = answers
        .iter()
        .filter_map(|answer| match answer {
            Answer::CannotSay {
                hint: Some(hint), ..
            } => Some(hint.as_str()),
            _ => None,
        })
        .collect();
    hints.dedup();
    let first = if hints.is_empty() {
        "make one of them answer".to_owned()
    } else {
        hints.join("; ")
    };
    format!(
        "{first}; then start the server again, or restore by hand with `backstay restore {instance} --to latest`. To begin with an empty cluster although there may be data, set preseed.allowEmptyStartWithoutProof"
    )
}

/// The kind in the name of a source, `2 (restic)`.
fn kind_in(source: &str) -> Option<&str> {
    source.split_once('(')?.1.strip_suffix(')')
}

/// Tells what is going on.
pub fn say(what: &str) {
    tool::log(Level::Info, format_args!("{what}"));
}
