//! `backstay archive`: making an archive, letting a new cluster in, checking what is stored.

use anyhow::{Result, anyhow, bail};
use archive::{Archive, Cluster};
use base_backups::Repository;
use clap::Subcommand;
use cluster::Server;
use jiff::Timestamp;
use settings::Settings;
use tool::{Hinted, Level};
use wal::{SystemIdentifier, WalFileName};

use crate::InstanceArguments;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make the declared directories the archive and the base backups of the instance's cluster
    Init {
        #[command(flatten)]
        instance: InstanceArguments,
    },
    /// Let the archive take the WAL of a new cluster, after an upgrade or a new initdb
    Admit {
        #[command(flatten)]
        instance: InstanceArguments,
        /// System identifier of the cluster that the new one replaces
        #[arg(long, value_name = "IDENTIFIER")]
        replaces: SystemIdentifier,
    },
    /// Read every archived file and check it
    Verify {
        #[command(flatten)]
        instance: InstanceArguments,
    },
    /// Move a damaged archived file aside, so that PostgreSQL can archive it again
    Quarantine {
        #[command(flatten)]
        instance: InstanceArguments,
        /// Name of the WAL file
        #[arg(value_name = "NAME")]
        name: String,
    },
}

pub fn run(command: &Command) -> Result<()> {
    match command {
        Command::Init { instance } => init(instance),
        Command::Admit { instance, replaces } => admit(instance, *replaces),
        Command::Verify { instance } => verify(instance),
        Command::Quarantine { instance, name } => {
            let archive = instance.open()?.archive;
            let name = WalFileName::parse(name).map_err(|err| anyhow!("{err}"))?;
            let aside = archive.quarantine(archive.newest_cluster()?, &name)?;
            tool::log(
                Level::Info,
                format_args!("moved \"{name}\" to \"{}\"", aside.display()),
            );
            Ok(())
        }
    }
}

/// The cluster that is in the declared data directory now, and nothing that anybody says about it.
fn cluster_on_disk(settings: &Settings, because: &str) -> Result<Cluster> {
    let server = Server::new(&settings.postgresql);
    let control = server.control()?;
    let segment_size = control.segment_size.ok_or_else(|| {
        anyhow!(
            "the control file in \"{}\" has an unfamiliar form",
            server.data_directory().display()
        )
    })?;
    Ok(Cluster {
        system_identifier: control.system_identifier,
        segment_size_bytes: segment_size.bytes(),
        postgres_major: cluster::major_of(server.data_directory())?,
        admitted_at: Timestamp::now().to_string(),
        because: because.to_owned(),
    })
}

fn init(arguments: &InstanceArguments) -> Result<()> {
    let settings = arguments.settings_for_owner()?;
    let archive = Archive::init(
        &settings.archive.directory,
        &settings.instance,
        cluster_on_disk(&settings, "first cluster")?,
    )?;
    if let Some(declared) = &settings.base_backup {
        Repository::init(&declared.directory, &settings.instance)?;
    }
    tool::log(
        Level::Info,
        format_args!(
            "\"{}\" is the archive of instance \"{}\", system identifier {}",
            archive.root().display(),
            settings.instance,
            archive.newest_cluster()?.system_identifier
        ),
    );
    Ok(())
}

fn admit(arguments: &InstanceArguments, replaces: SystemIdentifier) -> Result<()> {
    let mut instance = arguments.open()?;
    let cluster = cluster_on_disk(&instance.settings, &format!("replaces {replaces}"))?;
    let identifier = cluster.system_identifier;
    instance.archive.admit(cluster, replaces)?;
    tool::log(
        Level::Info,
        format_args!(
            "the archive takes the WAL of system identifier {identifier} now; take a base backup of it"
        ),
    );
    Ok(())
}

fn verify(arguments: &InstanceArguments) -> Result<()> {
    let instance = arguments.open()?;
    let (mut good, mut bad) = (0_u64, 0_u64);
    for cluster in &instance.archive.manifest().clusters {
        let listing = instance.archive.list(cluster)?;
        for (name, _) in &listing.files {
            match instance.archive.read(cluster, name, &mut |_| Ok(())) {
                Ok(_) => good += 1,
                Err(err) => {
                    bad += 1;
                    tool::log(Level::Error, format_args!("{err:#}"));
                }
            }
        }
        for path in &listing.foreign {
            tool::log(
                Level::Warning,
                format_args!("\"{}\" is not the archive's", path.display()),
            );
        }
    }
    tool::print(&format!(
        "{good} files are as they were archived, {bad} are not\n"
    ))?;
    if bad > 0 {
        return Err(Hinted::new(
            format!("{bad} archived files are damaged"),
            format!(
                "a file that the server still has in pg_wal is archived again after `backstay archive quarantine {} NAME`; otherwise take a base backup now",
                arguments.instance
            ),
        )
        .into());
    }
    if good == 0 {
        bail!("the archive holds no files");
    }
    Ok(())
}
