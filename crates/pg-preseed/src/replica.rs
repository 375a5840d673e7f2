//! The replica of this instance on another machine, which is asked over ssh.
//!
//! `zfs` over there is run as the user that replicates to it. A dataset is absent only when a listing of its
//! whole pool that succeeded does not have it.

use anyhow::{Context as _, Result, anyhow};
use command::{Command, Piped};
use replica::{NO_CONNECTION, Ssh};
use settings::{SshHost, SyncoidSource};
use tool::Hinted;
use zfs::{SentSnapshot, list_snapshots, parse_snapshots, pool_of};

/// Options of `zfs send` that mean something on the way back: as it is on disk, and how blocks travel. Others are
/// about what goes along, and nothing but the data is to.
const SEND_OPTIONS: &str = "Lcew";

/// A dataset on the other machine. One that is not there has no snapshots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// Its name.
    pub dataset: String,
    /// What it takes there with all snapshots, in bytes.
    pub used: u64,
    /// Whether there are datasets below it.
    pub has_children: bool,
    /// The oldest first.
    pub snapshots: Vec<SentSnapshot>,
}

/// What is on the other machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replicas {
    /// The data.
    pub data: Replica,
    /// The WAL archive, if it is replicated to there.
    pub archive: Option<Replica>,
}

impl Replicas {
    /// Whether there is nothing of this instance.
    pub fn hold_nothing(&self) -> bool {
        std::iter::once(&self.data)
            .chain(&self.archive)
            .all(|replica| replica.snapshots.is_empty())
    }

    /// The newest snapshot of the data.
    ///
    /// # Errors
    ///
    /// Fails where there is none, or where there are datasets that would be left behind.
    pub fn newest(&self) -> Result<&SentSnapshot> {
        for replica in std::iter::once(&self.data).chain(&self.archive) {
            if replica.has_children {
                return Err(Hinted::new(
                    format!(
                        "there are datasets below the replica \"{}\", and a preseed does not receive those",
                        replica.dataset
                    ),
                    "receive them by hand with `zfs send -R` and `zfs receive`; a restore from base backups brings tablespaces along",
                )
                .into());
            }
        }
        self.data.snapshots.last().ok_or_else(|| {
            Hinted::new(
                format!(
                    "the replica \"{}\" has no snapshot, and there is one of the WAL archive",
                    self.data.dataset
                ),
                "both are needed for a restore; has the data been replicated?",
            )
            .into()
        })
    }
}

/// The other machine, ready to be asked.
pub struct Remote<'a> {
    declared: &'a SyncoidSource,
    ssh: Ssh,
}

impl<'a> Remote<'a> {
    /// Prepares to ask it.
    ///
    /// # Errors
    ///
    /// Fails when there is no ssh, or no key to log in with.
    pub fn open(declared: &'a SyncoidSource) -> Result<Self> {
        Ok(Self {
            declared,
            ssh: Ssh::to(&declared.ssh)?,
        })
    }

    /// `zfs` over there.
    fn zfs<S: AsRef<str>>(&self, words: &[S]) -> Command {
        self.ssh.command("zfs", words.iter().map(AsRef::as_ref))
    }

    /// What `zfs` with these `words` says.
    fn ask<S: AsRef<str>>(&self, words: &[S]) -> Result<String> {
        let (status, output) = self.zfs(words).run_any_status()?;
        if status.success() {
            Ok(output.stdout)
        } else {
            Err(self.failure(status.code(), &output.stderr))
        }
    }

    /// Why a command over there failed.
    fn failure(&self, status: Option<i32>, said: &str) -> anyhow::Error {
        let SshHost { host, user, .. } = &self.declared.ssh;
        let said = last_line(said);
        if status == Some(NO_CONNECTION) {
            self.ssh.unreachable(said)
        } else {
            Hinted::new(
                format!("host \"{host}\" could not say or send what it has: {said}"),
                format!(
                    "its pool has to be imported, and its user has to be allowed to send: `zfs allow -u {user} hold,send {}` over there",
                    self.declared.dataset
                ),
            )
            .into()
        }
    }

    /// What it has.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be asked. That proves nothing.
    pub fn look(&self) -> Result<Replicas> {
        let data = self.look_at(&self.declared.dataset)?;
        let archive = match &self.declared.archive {
            Some((dataset, _)) => Some(self.look_at(dataset)?),
            None => None,
        };
        Ok(Replicas { data, archive })
    }

    fn look_at(&self, dataset: &str) -> Result<Replica> {
        let listed = self.ask(&[
            "list",
            "-Hp",
            "-r",
            "-t",
            "filesystem,volume",
            "-o",
            "name,used",
            pool_of(dataset),
        ])?;
        let mut replica = in_listing(dataset, &listed)?;
        if let Some(found) = &mut replica {
            found.snapshots = parse_snapshots(&self.ask(&list_snapshots(dataset))?)
                .with_context(|| format!("read what host \"{}\" says", self.declared.ssh.host))?;
        }
        Ok(replica.unwrap_or_else(|| Replica {
            dataset: dataset.to_owned(),
            used: 0,
            has_children: false,
            snapshots: Vec::new(),
        }))
    }

    /// The command that sends `what` of `dataset` to standard output.
    pub fn send(&self, dataset: &str, what: &Stream) -> Command {
        let mut words = vec!["send".to_owned()];
        let at = |snapshot: &str| format!("{dataset}@{snapshot}");
        match what {
            // How it is sent is part of the token.
            Stream::Rest { token } => words.extend(["-t".to_owned(), token.clone()]),
            Stream::Whole { snapshot } => {
                words.extend(self.send_options());
                words.push(at(snapshot));
            }
            Stream::Since { from, to } => {
                words.extend(self.send_options());
                words.extend(["-I".to_owned(), at(from), at(to)]);
            }
        }
        self.zfs(&words)
    }

    fn send_options(&self) -> Vec<String> {
        self.declared
            .send_options
            .iter()
            .flat_map(|options| options.chars())
            .filter(|option| SEND_OPTIONS.contains(*option))
            .map(|option| format!("-{option}"))
            .collect()
    }

    /// Whether the other machine itself refused to send, without a word of the stream.
    pub fn has_refused(piped: &Piped) -> bool {
        piped.bytes == 0
            && piped
                .writer
                .and_then(|status| status.code())
                .is_some_and(|code| code != 0 && code != NO_CONNECTION)
    }

    /// Why nothing, or not everything, was received.
    pub fn complaint(&self, piped: &Piped, into: &str) -> anyhow::Error {
        let is_writers = piped.writer.is_some_and(|status| !status.success());
        let has_reader_spoken = !piped.reader_said.trim().is_empty();
        // A reader that fails takes the writer with it, which then has nothing to say.
        if is_writers && (!has_reader_spoken || !piped.writer_said.trim().is_empty()) {
            return self.failure(
                piped.writer.and_then(|status| status.code()),
                &piped.writer_said,
            );
        }
        Hinted::new(
            format!(
                "dataset \"{into}\" did not take what host \"{}\" sent: {}",
                self.declared.ssh.host,
                last_line(&piped.reader_said)
            ),
            "what has come is kept, and the next start goes on there",
        )
        .into()
    }
}

/// A stream of `zfs send`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stream {
    /// What is missing of one that was interrupted.
    Rest {
        /// As `zfs` wants it.
        token: String,
    },
    /// A snapshot with all that is in it.
    Whole {
        /// Its name.
        snapshot: String,
    },
    /// All snapshots after one, up to another.
    Since {
        /// The one that is there.
        from: String,
        /// The last one.
        to: String,
    },
}

/// Finds `dataset` in a listing of its pool.
fn in_listing(dataset: &str, listed: &str) -> Result<Option<Replica>> {
    let below = format!("{dataset}/");
    let mut found = None;
    let mut has_children = false;
    for line in listed.lines() {
        let (name, used) = line
            .split_once('\t')
            .ok_or_else(|| anyhow!("\"{line}\" is no line of zfs list"))?;
        if name == dataset {
            found = Some(used.parse().with_context(|| format!("read \"{line}\""))?);
        }
        has_children |= name.starts_with(&below);
    }
    Ok(found.map(|used| Replica {
        dataset: dataset.to_owned(),
        used,
        has_children,
        snapshots: Vec::new(),
    }))
}

/// The last line that says something.
fn last_line(text: &str) -> &str {
    text.lines()
        .rev()
        .map(str::trim)
        .find(|line| !line.is_empty())
        .unwrap_or("it did not say why")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dataset_is_absent_only_from_a_listing_of_its_pool() {
        let listed = "vault\t900\nvault/m\t800\nvault/m/main\t700\nvault/m/main-wal\t50\n";
        let main = in_listing("vault/m/main", listed).unwrap().unwrap();
        // A name that begins like it is not below it.
        assert_eq!((main.used, main.has_children), (700, false));
        assert!(in_listing("vault/m", listed).unwrap().unwrap().has_children);
        assert_eq!(in_listing("vault/m/mai", listed).unwrap(), None);
        assert!(in_listing("vault/m/main", "no datasets available\n").is_err());
    }

    #[test]
    fn the_last_line_that_says_something_is_told() {
        assert_eq!(
            last_line("warning: x\nPermission denied (publickey).\r\n\n"),
            "Permission denied (publickey)."
        );
        assert_eq!(last_line("\n"), "it did not say why");
    }
}
