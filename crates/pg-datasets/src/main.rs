//! Brings ZFS datasets to their declared state, and ends by proving that they are in it.
//!
//! It creates, sets, mounts, and gives the mounted directory its owner. It never destroys, renames,
//! unmounts or empties anything. What stands in the way is an error that names both sides; the other
//! datasets are still brought about, and the exit status says that not everything was.

mod plan;
mod root;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use mounts::{Mounts, Place};
use settings::{Dataset, Datasets, Mountpoint};
use tool::{Hinted, Level, Program, WithHint as _};
use zfs::{Zfs, pool_of};

use crate::plan::{Plan, Present, Step};

const PROGRAM: Program = Program {
    complaint: "could not bring the datasets about",
    failure: 1,
};

/// Bring ZFS datasets to their declared state; never destroy anything
#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    /// File with the declared datasets, JSON
    #[arg(long, value_name = "FILE")]
    config: PathBuf,

    /// Check the file, then exit
    #[arg(long)]
    check_config: bool,

    /// Show what would be done and what stands in the way, and change nothing
    #[arg(long)]
    plan: bool,
}

fn main() -> ExitCode {
    tool::run(PROGRAM, |cli: Cli| {
        let declared = read(&cli.config)?;
        if cli.check_config {
            return Ok(ExitCode::SUCCESS);
        }
        let zfs = Zfs::find()?;
        if cli.plan {
            let plan = plan::plan(&declared, &look(&zfs, &declared)?);
            for step in &plan.steps {
                tool::print(&format!("{step}\n"))?;
            }
            tell(&plan);
            return Ok(ExitCode::SUCCESS);
        }
        bring_about(&zfs, &declared)?;
        Ok(ExitCode::SUCCESS)
    })
}

fn read(path: &Path) -> Result<Datasets> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("read settings \"{}\"", path.display()))?;
    Datasets::parse(&text)
        .map_err(anyhow::Error::new)
        .with_context(|| format!("use settings \"{}\"", path.display()))
}

/// Does what can be done, dataset by dataset, and fails at the end if anything is not as declared.
fn bring_about(zfs: &Zfs, declared: &Datasets) -> Result<()> {
    let plan = plan::plan(declared, &look(zfs, declared)?);
    tell(&plan);
    let mut failed: BTreeSet<&str> = plan
        .obstacles
        .iter()
        .map(|obstacle| obstacle.dataset.as_str())
        .collect();
    for step in &plan.steps {
        // What comes after a step that failed may rest on it.
        if failed.contains(step.dataset()) {
            continue;
        }
        match take(zfs, declared, step) {
            Ok(()) => tool::log(Level::Info, format_args!("{step}: done")),
            Err(err) => {
                tool::report(&format!("could not {step}"), &err);
                failed.insert(step.dataset());
            }
        }
    }
    for dataset in &declared.datasets {
        if let Mountpoint::At(path) = &dataset.mountpoint
            && !failed.contains(dataset.name.as_str())
            && let Err(err) =
                prove_mounted(dataset, path).and_then(|()| root::settle(dataset, path))
        {
            tool::report(&format!("dataset \"{}\"", dataset.name), &err);
            failed.insert(&dataset.name);
        }
    }
    prove(zfs, declared, &mut failed)?;
    if !failed.is_empty() {
        let names: Vec<String> = failed.iter().map(|name| format!("\"{name}\"")).collect();
        bail!("not as declared: {}", names.join(", "));
    }
    Ok(())
}

/// Asks again: everything that is declared exists now and is as it is declared.
fn prove<'a>(zfs: &Zfs, declared: &'a Datasets, failed: &mut BTreeSet<&'a str>) -> Result<()> {
    let left = plan::plan(declared, &look(zfs, declared)?);
    for name in declared
        .containers
        .iter()
        .chain(declared.datasets.iter().map(|dataset| &dataset.name))
    {
        if failed.contains(name.as_str()) {
            continue;
        }
        if let Some(step) = left.steps.iter().find(|step| step.dataset() == name) {
            tool::log(
                Level::Error,
                format_args!("everything was done, and still one would have to {step}"),
            );
            failed.insert(name);
        }
    }
    Ok(())
}

fn tell(plan: &Plan) {
    for obstacle in &plan.obstacles {
        tool::log(
            Level::Error,
            format_args!(
                "dataset \"{}\": {}\nhint: {}",
                obstacle.dataset, obstacle.what, obstacle.hint
            ),
        );
    }
}

/// Asks ZFS what there is. A pool that does not answer is an error, and no absence of datasets.
fn look(zfs: &Zfs, declared: &Datasets) -> Result<Present> {
    let pools = zfs.pools()?;
    // No other one is asked for anything.
    let answering: BTreeSet<&str> = pools
        .iter()
        .filter(|(_, pool)| pool.answers())
        .map(|(name, _)| name.as_str())
        .collect();
    let wanted: BTreeSet<&str> = declared
        .containers
        .iter()
        .chain(declared.datasets.iter().map(|dataset| &dataset.name))
        .map(|name| pool_of(name))
        .collect();
    let mut names = BTreeSet::new();
    for pool in wanted.intersection(&answering) {
        names.append(&mut zfs.names_in(pool)?);
    }
    let mut present = Present {
        file_systems: zfs.file_systems(answering)?,
        names,
        pools,
        ..Present::default()
    };
    for dataset in &declared.datasets {
        if present.names.contains(&dataset.name) {
            let properties = zfs.properties(&dataset.name)?;
            present.properties.insert(dataset.name.clone(), properties);
        }
    }
    Ok(present)
}

fn take(zfs: &Zfs, declared: &Datasets, step: &Step) -> Result<()> {
    match step {
        Step::CreateContainer(name) => {
            zfs.create(name, [("canmount", "off"), ("mountpoint", "none")])
        }
        Step::Create { name, properties } => zfs.create(
            name,
            properties
                .iter()
                .map(|(property, value)| (property.as_str(), value.as_str())),
        ),
        Step::Set {
            name,
            property,
            value,
            ..
        } => zfs.set(name, property, value),
        Step::Mount { name } => {
            let path = declared
                .datasets
                .iter()
                .find(|dataset| dataset.name == *name)
                .and_then(|dataset| match &dataset.mountpoint {
                    Mountpoint::At(path) => Some(path),
                    Mountpoint::None | Mountpoint::Legacy => None,
                })
                .context("find where to mount it")?;
            check_that_nothing_is_hidden(path)?;
            root::make_parents(path)?;
            zfs.mount(name)
        }
    }
}

/// Refuses a place where the dataset would hide something: a mount, or files.
fn check_that_nothing_is_hidden(path: &Path) -> Result<()> {
    if path.exists()
        && let Place::MountPoint(mount) | Place::Hiding { seen: mount, .. } =
            Mounts::read()?.place(path)?
        // An automount waits for what it is to mount, and is hidden by that.
        && mount.filesystem != "autofs"
    {
        return Err(Hinted::new(
            format!(
                "\"{}\" is mounted at \"{}\" already, and it would hide that",
                mount.source,
                path.display()
            ),
            format!(
                "look who mounted it and what is in it; then: umount {}",
                path.display()
            ),
        )
        .into());
    }
    let is_free =
        plan::hides_nothing(path).with_context(|| format!("list \"{}\"", path.display()))?;
    if !is_free {
        return Err(Hinted::new(
            format!("\"{}\" holds files, which it would hide", path.display()),
            "something wrote there while the dataset was not mounted; look what it is, and move it away",
        )
        .into());
    }
    Ok(())
}

/// Proves by the kernel's word that the dataset, and nothing else, is what is seen at `path`.
fn prove_mounted(dataset: &Dataset, path: &Path) -> Result<()> {
    let hint = || {
        format!(
            "`findmnt --all {}` and `zfs list -o name,mountpoint,mounted` show what is there",
            path.display()
        )
    };
    let place = Mounts::read()?.place(path).with_hint(hint)?;
    let wrong = match &place {
        Place::MountPoint(mount) if mount.filesystem == "zfs" && mount.source == dataset.name => {
            return Ok(());
        }
        Place::MountPoint(mount) => format!(
            "\"{}\" is mounted at \"{}\" in its place",
            mount.source,
            path.display()
        ),
        Place::Directory(mount) => format!(
            "nothing is mounted at \"{}\", a directory of \"{}\"",
            path.display(),
            mount.source
        ),
        Place::Hiding { seen, hidden } => format!(
            "at \"{}\", \"{}\" hides \"{}\"",
            path.display(),
            seen.source,
            hidden.source
        ),
    };
    Err(Hinted::new(wrong, hint()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_mounted_over_another_file_system() {
        let err = check_that_nothing_is_hidden(Path::new("/proc")).unwrap_err();
        assert_eq!(
            err.to_string(),
            "\"proc\" is mounted at \"/proc\" already, and it would hide that"
        );
        assert_eq!(
            tool::hint_of(&err),
            Some("look who mounted it and what is in it; then: umount /proc")
        );
    }

    #[test]
    fn nothing_is_mounted_over_files() {
        let directory = tempfile::tempdir().unwrap();
        let vacant = directory.path().join("vacant");
        check_that_nothing_is_hidden(&vacant).unwrap();
        std::fs::create_dir(&vacant).unwrap();
        check_that_nothing_is_hidden(&vacant).unwrap();
        std::fs::write(vacant.join("file"), "").unwrap();
        let err = check_that_nothing_is_hidden(&vacant).unwrap_err();
        assert_eq!(
            err.to_string(),
            format!("\"{}\" holds files, which it would hide", vacant.display())
        );
    }
}
