//! Receiving the replica: beside the declared datasets, with rights over that place alone, and from where an
//! interrupted receive was.
//!
//! Root has made the place ([`crate::take_over::let_receive`]), and gives what was received whole the declared name
//! ([`crate::take_over::run`]). What is here runs as the server's user. It never touches a declared dataset.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use jiff::Timestamp;
use settings::{Preseed, Settings, SyncoidSource};
use tool::{Hinted, Level};
use zfs::{SentSnapshot, Zfs, pool_of};

use crate::fill::{self, PAUSES, say};
use crate::received::{self, MARK, Record, place_of, staging_of};
use crate::replica::{Remote, Replica, Replicas, Stream};
use crate::situation::Situation;

/// How often is told how much has come.
const TELL_EVERY: Duration = Duration::from_secs(30);
/// A try that brought so much, in bytes, was none in vain.
const PROGRESS: u64 = 64 << 20;

/// Properties that a stream may bring and that count for nothing: this machine mounts where it is declared here.
const OURS: [(&str, &str); 2] = [("canmount", "noauto"), ("mountpoint", "none")];

/// Receives the declared replica, if there is no cluster in the data directory.
///
/// # Errors
///
/// Fails when not all of it could be received, with the reason, which the record keeps for whoever fills the data
/// directory. What has come stays, and the next run goes on there.
pub fn run(settings: &Settings, preseed: &Preseed) -> Result<()> {
    let Some(declared) = received::declared(preseed) else {
        return Ok(());
    };
    if Situation::look(settings)? != Situation::Empty {
        return Ok(());
    }
    let _lock = fill::lock(settings)?;
    let mut record = Record::new(Timestamp::now());
    if let Some(before) = Record::read(settings)? {
        // One that goes on began with the first one.
        record.begun_at = before.begun_at;
    }
    record.write(settings)?;
    let deadline = preseed
        .deadline_seconds
        .map(|seconds| Instant::now() + Duration::from_secs(seconds.into()));
    let receive = || {
        Receiving {
            settings,
            declared,
            zfs: Zfs::find()?,
            remote: Remote::open(declared)?,
            deadline,
        }
        .all()
    };
    let received = receive();
    record.at = Timestamp::now();
    match &received {
        Ok(snapshot) => record.snapshot.clone_from(snapshot),
        Err(err) => {
            record.why = Some(format!("{err:#}"));
            record.hint = tool::hint_of(err).map(ToOwned::to_owned);
        }
    }
    record.write(settings)?;
    received.map(drop)
}

struct Receiving<'a> {
    settings: &'a Settings,
    declared: &'a SyncoidSource,
    zfs: Zfs,
    remote: Remote<'a>,
    deadline: Option<Instant>,
}

/// What a declared dataset is to a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Standing {
    /// It has been received from it, up to this snapshot.
    InPlace(String),
    /// It holds something of its own, this for one.
    Own(std::path::PathBuf),
    /// It is empty.
    Empty,
}

impl Receiving<'_> {
    /// Receives what is missing, and returns the newest snapshot of the data; nothing where the other machine has
    /// nothing.
    fn all(&self) -> Result<Option<String>> {
        let replicas = self.look()?;
        if replicas.hold_nothing() {
            say(&format!(
                "host \"{}\" has shown that it holds nothing of this instance",
                self.declared.ssh.host
            ));
            return Ok(None);
        }
        let newest = replicas.newest()?.name.clone();
        let (data, wanted) = self.wanted(&replicas)?;
        self.check_space(&wanted)?;
        for (replica, target) in &wanted {
            self.receive(replica, target)?;
        }
        // Only now, so that root finds both whole or touches neither.
        for (replica, target) in &wanted {
            self.mark(replica, target)?;
        }
        Ok(Some(match data {
            Standing::InPlace(snapshot) => snapshot,
            _ => newest,
        }))
    }

    /// Asks the other machine, and again if it does not answer: a network is often seconds late at boot.
    fn look(&self) -> Result<Replicas> {
        let mut pauses = PAUSES.iter();
        loop {
            match (self.remote.look(), pauses.next()) {
                (Err(err), Some(pause)) if !self.is_over(*pause) => {
                    tool::report("could not ask for the replica", &err);
                    say(&format!("asking again in {} seconds", pause.as_secs()));
                    thread::sleep(*pause);
                }
                (looked, _) => return looked,
            }
        }
    }

    fn is_over(&self, time: Duration) -> bool {
        self.deadline
            .is_some_and(|deadline| Instant::now() + time >= deadline)
    }

    /// How the declared dataset of the data stands to its replica, and what has to be received into which
    /// declared dataset.
    fn wanted<'a>(
        &'a self,
        replicas: &'a Replicas,
    ) -> Result<(Standing, Vec<(&'a Replica, &'a str)>)> {
        let mut wanted = Vec::new();
        let data = self.standing(&replicas.data, &self.declared.target_dataset)?;
        match &data {
            Standing::InPlace(_) => {}
            Standing::Empty => wanted.push((&replicas.data, self.declared.target_dataset.as_str())),
            Standing::Own(found) => {
                return Err(Hinted::new(
                    format!(
                        "dataset \"{}\" is not empty, it holds \"{}\": nothing is received in its place",
                        self.declared.target_dataset,
                        found.display()
                    ),
                    "if that is a snapshot of the data, the source local restores from it; if it may be lost, rename the dataset, and let backstay-datasets.service make a new one",
                )
                .into());
            }
        }
        let archive = replicas
            .archive
            .as_ref()
            .filter(|archive| !archive.snapshots.is_empty())
            .zip(self.declared.archive.as_ref());
        match archive {
            Some((replica, (_, target))) => match self.standing(replica, target)? {
                Standing::InPlace(_) => {}
                Standing::Own(_) => say(&format!(
                    "the archive in dataset \"{target}\" is this machine's own, and stays"
                )),
                Standing::Empty => wanted.push((replica, target.as_str())),
            },
            None if received::something_in(&self.settings.archive.directory)?.is_none() => {
                return Err(Hinted::new(
                    format!(
                        "host \"{}\" has a replica of the data and none of the WAL archive, and there is none in \"{}\"",
                        self.declared.ssh.host,
                        self.settings.archive.directory.display()
                    ),
                    "bring the archive back first; a replica of it has to go to the same host",
                )
                .into());
            }
            None => {}
        }
        Ok((data, wanted))
    }

    fn standing(&self, replica: &Replica, target: &str) -> Result<Standing> {
        let missing = |what: &str| {
            Hinted::new(
                format!("dataset \"{target}\", which is declared, {what}"),
                "backstay-datasets.service makes and mounts it, and says why if it cannot",
            )
        };
        if !self.zfs.names_in(pool_of(target))?.contains(target) {
            return Err(missing("does not exist").into());
        }
        let here = self.zfs.snapshots(target)?;
        if let Some(common) = newest_common(&here, &replica.snapshots) {
            return Ok(Standing::InPlace(common.name.clone()));
        }
        let properties = self.zfs.properties(target)?;
        let value = |name: &str| {
            properties
                .get(name)
                .map_or("", |property| property.value.as_str())
        };
        if value("mounted") != "yes" {
            return Err(missing("is not mounted").into());
        }
        Ok(
            match received::something_in(Path::new(value("mountpoint")))? {
                Some(found) => Standing::Own(found),
                None => Standing::Empty,
            },
        )
    }

    /// Refuses to begin what would not fit. What has come already counts.
    fn check_space(&self, wanted: &[(&Replica, &str)]) -> Result<()> {
        let Some((_, first)) = wanted.first() else {
            return Ok(());
        };
        let mut needed = 0;
        let mut available = 0;
        for (replica, target) in wanted {
            let place = place_of(target);
            if !self.zfs.names_in(pool_of(target))?.contains(&place) {
                return Err(Hinted::new(
                    format!("dataset \"{place}\", which what is received is put below, does not exist"),
                    "root makes it and gives this user its rights: `pg-preseed --config FILE --let-receive USER`, as the unit does",
                )
                .into());
            }
            let properties = self.zfs.properties(&place)?;
            let bytes = |name: &str| -> u64 {
                properties
                    .get(name)
                    .and_then(|property| property.value.parse().ok())
                    .unwrap_or(0)
            };
            needed += replica.used.saturating_sub(bytes("used"));
            available = bytes("available");
        }
        if available < needed {
            return Err(Hinted::new(
                format!(
                    "pool \"{}\" has {} MiB free, and the replica takes {} MiB more",
                    pool_of(first),
                    available >> 20,
                    needed >> 20
                ),
                "make room, or use larger disks; nothing was begun",
            )
            .into());
        }
        Ok(())
    }

    /// Receives `replica` for the declared dataset `target`, until its newest snapshot is there.
    fn receive(&self, replica: &Replica, target: &str) -> Result<()> {
        let staging = staging_of(target);
        let mut in_vain = 0;
        loop {
            let here = self.staged(&staging)?;
            let stream = match next(&replica.snapshots, here.as_ref())? {
                Next::Nothing => return Ok(()),
                Next::StartOver => {
                    say(&format!(
                        "removing \"{staging}\", which is of nothing that host \"{}\" has now",
                        self.declared.ssh.host
                    ));
                    self.zfs.destroy_with_snapshots(&staging)?;
                    continue;
                }
                Next::Stream(stream) => stream,
            };
            let Some((err, bytes)) = self.transfer(replica, &staging, &stream)? else {
                continue;
            };
            if bytes >= PROGRESS {
                in_vain = 0;
            }
            let Some(pause) = PAUSES.get(in_vain).filter(|pause| !self.is_over(**pause)) else {
                return Err(err);
            };
            in_vain += 1;
            tool::report("could not receive all of the replica", &err);
            say(&format!("trying again in {} seconds", pause.as_secs()));
            thread::sleep(*pause);
        }
    }

    /// Lets one stream through. Returns why it has not come whole, if so, and how much of it has come.
    fn transfer(
        &self,
        replica: &Replica,
        staging: &str,
        stream: &Stream,
    ) -> Result<Option<(anyhow::Error, u64)>> {
        let host = &self.declared.ssh.host;
        let source = &replica.dataset;
        say(&match stream {
            Stream::Rest { .. } => format!(
                "receiving \"{source}\" from host \"{host}\" into \"{staging}\", going on where it was interrupted"
            ),
            Stream::Whole { snapshot } => format!(
                "receiving \"{source}@{snapshot}\" from host \"{host}\" into \"{staging}\"; all snapshots are about {} MiB",
                replica.used >> 20
            ),
            Stream::Since { from, to } => format!(
                "receiving what came after \"{source}@{from}\" up to \"@{to}\" from host \"{host}\" into \"{staging}\""
            ),
        });
        let mut told = Instant::now();
        let piped = self.remote.send(source, stream).run_into(
            &self.zfs.receive(staging, &OURS),
            self.deadline,
            |bytes| {
                if told.elapsed() >= TELL_EVERY {
                    told = Instant::now();
                    say(&format!("received {} MiB into \"{staging}\"", bytes >> 20));
                }
            },
        )?;
        if piped.succeeded() {
            say(&format!(
                "received {} MiB into \"{staging}\"",
                piped.bytes >> 20
            ));
            return Ok(None);
        }
        if piped.writer.is_none() && self.is_over(Duration::ZERO) {
            return Err(Hinted::new(
                "the replica is not received yet, and preseed.deadlineSeconds are over",
                "start the server again, which goes on where this was; if it needs that long, raise preseed.deadlineSeconds",
            )
            .into());
        }
        let err = self.remote.complaint(&piped, staging);
        if matches!(stream, Stream::Rest { .. }) && Remote::has_refused(&piped) {
            tool::log(
                Level::Warning,
                format_args!("beginning over, since what was interrupted cannot go on: {err:#}"),
            );
            self.zfs.abort_receive(staging)?;
        }
        Ok(Some((err, piped.bytes)))
    }

    /// What is there of the dataset `staging`.
    fn staged(&self, staging: &str) -> Result<Option<Staged>> {
        if !self.zfs.names_in(pool_of(staging))?.contains(staging) {
            return Ok(None);
        }
        let properties = self.zfs.properties(staging)?;
        let token = properties
            .get("receive_resume_token")
            .map(|property| property.value.clone())
            .filter(|token| token.len() > 1);
        Ok(Some(Staged {
            snapshots: self.zfs.snapshots(staging)?,
            token,
        }))
    }

    /// Says for root that what was received for `target` is whole.
    fn mark(&self, replica: &Replica, target: &str) -> Result<()> {
        let staging = staging_of(target);
        let properties = self.zfs.properties(&staging)?;
        if properties
            .get("keystatus")
            .is_some_and(|property| property.value == "unavailable")
        {
            return Err(Hinted::new(
                format!(
                    "the replica was received into \"{staging}\" as it is on disk, encrypted, and its key is not loaded"
                ),
                format!("zfs load-key {staging}"),
            )
            .into());
        }
        let newest = replica
            .snapshots
            .last()
            .ok_or_else(|| anyhow!("\"{}\" has no snapshots", replica.dataset))?;
        self.zfs.set(&staging, MARK, &newest.guid.to_string())
    }
}

/// What has come of a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Staged {
    /// The oldest first.
    snapshots: Vec<SentSnapshot>,
    /// How one that was interrupted goes on.
    token: Option<String>,
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Next {
    /// The newest snapshot is there.
    Nothing,
    /// What is there leads to nothing that the other machine has.
    StartOver,
    /// This is to be received.
    Stream(Stream),
}

/// What is missing of the snapshots that are `there`.
fn next(there: &[SentSnapshot], here: Option<&Staged>) -> Result<Next> {
    let (Some(oldest), Some(newest)) = (there.first(), there.last()) else {
        return Err(anyhow!("the replica has no snapshots any more"));
    };
    let Some(here) = here else {
        return Ok(Next::Stream(Stream::Whole {
            snapshot: oldest.name.clone(),
        }));
    };
    if let Some(token) = &here.token {
        return Ok(Next::Stream(Stream::Rest {
            token: token.clone(),
        }));
    }
    let last = here.snapshots.last();
    if last.is_some_and(|last| last.guid == newest.guid) {
        return Ok(Next::Nothing);
    }
    let from = last.and_then(|last| there.iter().find(|one| one.guid == last.guid));
    Ok(match from {
        Some(from) => Next::Stream(Stream::Since {
            from: from.name.clone(),
            to: newest.name.clone(),
        }),
        None => Next::StartOver,
    })
}

/// The newest of the snapshots `here` that is `there` too.
fn newest_common<'a>(here: &'a [SentSnapshot], there: &[SentSnapshot]) -> Option<&'a SentSnapshot> {
    here.iter()
        .rev()
        .find(|one| there.iter().any(|other| other.guid == one.guid))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshots(guids: &[u64]) -> Vec<SentSnapshot> {
        guids
            .iter()
            .map(|guid| SentSnapshot {
                name: format!("s{guid}"),
                guid: *guid,
                created: 0,
            })
            .collect()
    }

    fn staged(guids: &[u64], token: Option<&str>) -> Staged {
        Staged {
            snapshots: snapshots(guids),
            token: token.map(ToOwned::to_owned),
        }
    }

    #[test]
    fn s11_what_is_missing_follows_from_what_is_there() {
        let there = snapshots(&[1, 2, 3]);
        let stream = |here: Option<&Staged>| next(&there, here).unwrap();
        assert_eq!(
            stream(None),
            Next::Stream(Stream::Whole {
                snapshot: "s1".into()
            })
        );
        // The whole history, so that the next increment finds what it builds on.
        assert_eq!(
            stream(Some(&staged(&[1], None))),
            Next::Stream(Stream::Since {
                from: "s1".into(),
                to: "s3".into()
            })
        );
        assert_eq!(
            stream(Some(&staged(&[1], Some("1-abc")))),
            Next::Stream(Stream::Rest {
                token: "1-abc".into()
            })
        );
        assert_eq!(stream(Some(&staged(&[1, 2, 3], None))), Next::Nothing);
        // What was pruned over there meanwhile is none to go on from.
        for useless in [staged(&[0], None), staged(&[], None), staged(&[1, 4], None)] {
            assert_eq!(stream(Some(&useless)), Next::StartOver, "{useless:?}");
        }
        assert!(next(&[], Some(&staged(&[1], None))).is_err());
    }

    #[test]
    fn a_dataset_that_shares_a_snapshot_is_the_replicas_even_if_it_has_newer_ones() {
        let there = snapshots(&[1, 2, 3]);
        let common = |guids: &[u64]| newest_common(&snapshots(guids), &there).map(|one| one.guid);
        assert_eq!(common(&[1, 2, 9]), Some(2));
        assert_eq!(common(&[9]), None);
        assert_eq!(common(&[]), None);
    }
}
