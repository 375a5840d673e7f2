//! What there is: the data directory, the archive, the base backups and what is remembered of them.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use archive::Archive;
use base_backups::Repository;
use cluster::Programs;
use data_directory::Data;
use instance_state::{InstanceRecord, PreseedOutcome, PreseedRecord, Reach};
use restore_journal::{Places, Step};
use settings::Settings;
use tool::Hinted;
use wal::control::ClusterState;
use wal::{ControlFile, LongPageHeader, SystemIdentifier, WalFileName};

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The data directory.
    pub data: Data,
    /// A restore that was begun and is not complete.
    pub restore: Option<Step>,
    /// The archive.
    pub archive: ArchiveFound,
    /// The base backups, if any are declared.
    pub base_backups: Option<BaseBackupsFound>,
    /// What was remembered of the cluster.
    pub record: Option<InstanceRecord>,
    /// That the cluster is an older state of itself, if it is.
    pub rolled_back: Option<RolledBack>,
    /// What the preseed came to.
    pub preseed: Option<PreseedOutcome>,
    /// The major version of the programs.
    pub programs_major: u32,
    /// Clusters beside the data directory: of another version, or kept by a restore.
    pub beside: Vec<PathBuf>,
}

/// A cluster that is an older state of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RolledBack {
    /// How far its own WAL reaches.
    pub own: Reach,
    /// How far what had been archived of it reached.
    pub archived: Reach,
    /// Where that is remembered.
    pub by: PathBuf,
}

/// What the archive's directory is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArchiveFound {
    /// It holds nothing, or there is none.
    Nothing,
    /// It holds something, this for one, and no manifest.
    SomethingElse(PathBuf),
    /// It is the archive of this instance.
    Archive {
        /// The clusters whose WAL it takes, the newest last.
        clusters: Vec<SystemIdentifier>,
        /// A file in it, if there is one.
        holds: Option<PathBuf>,
    },
}

/// What the directory of the base backups is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BaseBackupsFound {
    /// It holds nothing, or there is none.
    Nothing,
    /// It holds something, this for one, and does not say whose base backups these are.
    SomethingElse(PathBuf),
    /// It is this instance's.
    Ours {
        /// Something in it, if there is anything.
        holds: Option<PathBuf>,
    },
}

/// Refuses root: the server that is started afterwards must own everything that is made.
pub fn check_user() -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Err(Hinted::new(
            "PostgreSQL does not run as root",
            "run this as the server's user, as User= of its unit does",
        )
        .into());
    }
    Ok(())
}

/// Refuses to go on without the declared configuration: the server would start without an archive.
pub fn check_config_file(settings: &Settings) -> Result<()> {
    let Some(file) = &settings.postgresql.config_file else {
        return Ok(());
    };
    match fs::File::open(file) {
        Ok(_) => Ok(()),
        Err(err) => Err(Hinted::new(
            format!("open \"{}\": {err}", file.display()),
            "it is the server's configuration, postgresql.configFile in the settings; has the system been activated?",
        )
        .into()),
    }
}

impl Facts {
    /// Looks at everything, without changing anything.
    ///
    /// # Errors
    ///
    /// Fails when something cannot be seen. That is never taken for its absence.
    pub fn gather(settings: &Settings) -> Result<Self> {
        let server = &settings.postgresql;
        let programs = Programs::in_directory(&server.bin_directory);
        let state = settings.state_directory();
        let data = data_directory::look_at(&server.data_directory, &programs)?;
        // Where there is a cluster, what is beside it does not matter.
        let beside = match data {
            Data::Cluster(_) => Vec::new(),
            _ => data_directory::clusters_beside(&server.data_directory)?,
        };
        let remembered = InstanceRecord::remembered(
            &state,
            &settings.archive.directory,
            settings
                .base_backup
                .as_ref()
                .map(|declared| declared.directory.as_path()),
        )?;
        // A copy warns; only the record itself says what the instance is.
        let record = remembered
            .as_ref()
            .filter(|(_, by)| *by == InstanceRecord::path(&state))
            .map(|(record, _)| record.clone());
        let rolled_back = match (&data, remembered) {
            (Data::Cluster(found), Some((record, by))) => match &found.control {
                Ok(control) => rolled_back(&server.data_directory, control, &record, by)?,
                Err(_) => None,
            },
            _ => None,
        };
        Ok(Self {
            data,
            rolled_back,
            restore: Places::beside(&server.data_directory)
                .read_journal()?
                .map(|journal| journal.step),
            archive: archive(&settings.archive.directory, &settings.instance)?,
            base_backups: settings
                .base_backup
                .as_ref()
                .map(|declared| base_backups(&declared.directory, &settings.instance))
                .transpose()?,
            record,
            preseed: PreseedRecord::read(&state)?.map(|record| record.outcome),
            programs_major: programs.major()?,
            beside,
        })
    }
}

/// That the WAL of the cluster in `data` reaches less far than what `record` remembers as archived: the directory is
/// an older state of itself, and what it would write next has names that are taken.
///
/// A crash takes nothing of this away. The server archives a segment only once it is on disk, and recycles it
/// only once a later checkpoint is in the control file. A cluster that replays WAL of another has its own place in
/// that, and is not judged.
fn rolled_back(
    data: &Path,
    control: &ControlFile,
    record: &InstanceRecord,
    by: PathBuf,
) -> Result<Option<RolledBack>> {
    let (Some(archived), Some(size)) = (record.archived, control.segment_size) else {
        return Ok(None);
    };
    let mut own = Reach {
        timeline: control.timeline,
        lsn: control.checkpoint,
    };
    let replays = matches!(
        control.state,
        ClusterState::InArchiveRecovery | ClusterState::ShutDownInRecovery
    ) || ["standby.signal", "recovery.signal"]
        .iter()
        .any(|signal| data.join(signal).exists());
    if record.system_identifier != control.system_identifier || replays || own >= archived {
        return Ok(None);
    }
    let expected = wal::page::Expected {
        system_identifier: Some(control.system_identifier),
        segment_size: Some(size),
    };
    let directory = data.join("pg_wal");
    // That it is missing is told by whoever judges the cluster.
    if !directory.is_dir() {
        return Ok(None);
    }
    for entry in
        fs::read_dir(&directory).with_context(|| format!("list \"{}\"", directory.display()))?
    {
        let path = entry
            .with_context(|| format!("list \"{}\"", directory.display()))?
            .path();
        let name = path.file_name().and_then(|name| name.to_str());
        let Some(Ok(WalFileName::Segment(name))) = name.map(WalFileName::parse) else {
            continue;
        };
        // Segments that are made for later, or have been used before, have another header or none.
        let mut start = [0; wal::LONG_HEADER_BYTES];
        let is_written = durable_file::open_regular(&path)
            .and_then(|mut file| file.read_exact(&mut start))
            .is_ok()
            && LongPageHeader::parse(&start)
                .is_ok_and(|header| wal::check_segment(&header, name, expected).is_ok());
        if is_written {
            own = own.max(Reach {
                timeline: name.timeline(),
                lsn: name.end(size),
            });
        }
    }
    Ok((own < archived).then_some(RolledBack { own, archived, by }))
}

/// Looks at the directory of the archive.
fn archive(root: &Path, instance: &str) -> Result<ArchiveFound> {
    if !Archive::is_at(root)? {
        return Ok(match durable_file::something_in(root)? {
            None => ArchiveFound::Nothing,
            Some(something) => ArchiveFound::SomethingElse(something),
        });
    }
    let archive = Archive::open(root, instance)?;
    Ok(ArchiveFound::Archive {
        clusters: archive
            .manifest()
            .clusters
            .iter()
            .map(|cluster| cluster.system_identifier)
            .collect(),
        holds: archive.something()?,
    })
}

/// Looks at the directory of the base backups.
fn base_backups(root: &Path, instance: &str) -> Result<BaseBackupsFound> {
    if !Repository::is_at(root)? {
        return Ok(match durable_file::something_in(root)? {
            None => BaseBackupsFound::Nothing,
            Some(something) => BaseBackupsFound::SomethingElse(something),
        });
    }
    Ok(BaseBackupsFound::Ours {
        holds: Repository::open(root, instance)?.something()?,
    })
}
