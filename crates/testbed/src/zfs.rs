//! A `zfs` that keeps its snapshots in plain directories, for tests of what is done with it.
//!
//! What it promises is what the tests need of the real one: the words and forms of the output, that a held
//! snapshot cannot be destroyed, that what a dataset has is not what its snapshot has. That a snapshot is of
//! one moment it cannot promise; the server should stand still meanwhile.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use command::Command;

/// The program. `state` beside its directory has a file `datasets` with lines of name and mount point, a
/// file `calls` with what it was asked, and may have a file `refused` with words that are not permitted, a file
/// `busy` with snapshots that cannot be destroyed, and a file `torn`, with which the control file in every
/// new snapshot is damaged. The script `after-hold` runs when something has been held, with this program as `$1`
/// and the process that called it as `$PARENT`.
const PROGRAM: &str = r#"#!/bin/sh
set -eu
state=$(dirname "$0")/../state
printf '%s\n' "$*" >> "$state/calls"
word=$1
shift
if grep -qsx "$word" "$state/refused"; then
    echo "cannot $word: permission denied" >&2
    exit 1
fi
last() { for argument; do :; done; printf '%s' "$argument"; }
entry() { printf '%s/snapshots/%s' "$state" "$(printf '%s' "$1" | tr / +)"; }
mount_of() { awk -F '\t' -v name="$1" '$1 == name { print $2 }' "$state/datasets"; }
there() { [ -d "$(entry "$1")" ] || { echo "cannot open '$1': dataset does not exist" >&2; exit 1; }; }
case $word in
list)
    path=$(last "$@")
    found=$(awk -F '\t' -v path="$path/" 'index(path, $2 "/") == 1 && length($2) > best { best = length($2); name = $1 } END { print name }' "$state/datasets")
    [ -n "$found" ] || { echo "cannot open '$path': not a ZFS filesystem" >&2; exit 1; }
    printf '%s\n' "$found"
    ;;
snapshot)
    marks=
    while [ "$1" = -o ]; do marks="$marks $2"; shift 2; done
    for snapshot; do
        entry=$(entry "$snapshot")
        [ ! -e "$entry" ] || { echo "cannot create snapshot '$snapshot': dataset already exists" >&2; exit 1; }
        mkdir -p "$entry/marks" "$entry/holds"
        date +%s > "$entry/creation"
        for mark in $marks; do printf '%s' "${mark#*=}" > "$entry/marks/${mark%%=*}"; done
        mount=$(mount_of "${snapshot%@*}")
        shown=$mount/.zfs/snapshot/${snapshot#*@}
        mkdir -p "$shown"
        # A server that runs may remove a file meanwhile.
        cp -a "$mount"/* "$shown/" 2> /dev/null || :
        if [ -e "$state/torn" ]; then
            for control in "$shown"/*/global/pg_control; do
                [ ! -e "$control" ] || printf 'torn' | dd of="$control" conv=notrunc status=none
            done
        fi
    done
    ;;
get)
    while [ $# -gt 2 ]; do shift; done
    for entry in "$state"/snapshots/*; do
        [ -d "$entry" ] || continue
        name=$(basename "$entry" | tr + /)
        case $name in "$2"@* | "$2"/*) ;; *) continue ;; esac
        for property in $(printf '%s' "$1" | tr , ' '); do
            source=-
            case $property in
            userrefs) value=$(ls "$entry/holds" | wc -l) ;;
            creation) value=$(cat "$entry/creation") ;;
            *)
                value=-
                if [ -e "$entry/marks/$property" ]; then value=$(cat "$entry/marks/$property"); source=local
                elif [ -e "$state/inherited/$property" ]; then value=$(cat "$state/inherited/$property"); source="inherited from ${name%@*}"
                fi
                ;;
            esac
            printf '%s\t%s\t%s\t%s\n' "$name" "$property" "$value" "$source"
        done
    done
    ;;
set)
    there "$2"
    printf '%s' "${1#*=}" > "$(entry "$2")/marks/${1%%=*}"
    ;;
destroy)
    there "$1"
    entry=$(entry "$1")
    [ -z "$(ls "$entry/holds")" ] || { echo "cannot destroy snapshot $1: it's being held. Run 'zfs holds -r $1' to see holders." >&2; exit 1; }
    if grep -qsxF "$1" "$state/busy"; then echo "cannot destroy snapshot $1: dataset is busy" >&2; exit 1; fi
    rm -rf "$(mount_of "${1%@*}")/.zfs/snapshot/${1#*@}" "$entry"
    ;;
hold)
    tag=$1
    shift
    for snapshot; do
        there "$snapshot"
        : > "$(entry "$snapshot")/holds/$tag"
    done
    if [ -e "$state/after-hold" ]; then PARENT=$PPID sh "$state/after-hold" "$0"; fi
    ;;
release)
    there "$2"
    rm "$(entry "$2")/holds/$1"
    ;;
holds)
    snapshot=$(last "$@")
    there "$snapshot"
    for tag in $(ls "$(entry "$snapshot")/holds"); do printf '%s\t%s\tSun Nov 22 01:00 2026\n' "$snapshot" "$tag"; done
    ;;
*)
    echo "unrecognized command '$word'" >&2
    exit 2
    ;;
esac
"#;

/// A stand-in for `zfs` with its datasets.
#[derive(Debug)]
pub struct StandInZfs {
    directory: PathBuf,
}

impl StandInZfs {
    /// Puts one into `directory`, with datasets that are "mounted" at directories which are there: each with
    /// its name and mount point.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be written.
    pub fn new(directory: &Path, datasets: &[(&str, &Path)]) -> Result<Self> {
        let zfs = Self {
            directory: directory.to_owned(),
        };
        let programs = zfs.programs();
        fs::create_dir_all(&programs)?;
        fs::create_dir_all(directory.join("state/snapshots"))?;
        for (name, text) in [("zfs", PROGRAM), ("zpool", "#!/bin/sh\nexit 1\n")] {
            let program = programs.join(name);
            fs::write(&program, text)?;
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        }
        let mut lines = String::new();
        for (name, mount) in datasets {
            fs::create_dir_all(mount.join(".zfs/snapshot"))?;
            writeln!(lines, "{name}\t{}", mount.display())?;
        }
        zfs.tell("datasets", &lines)?;
        Ok(zfs)
    }

    fn programs(&self) -> PathBuf {
        self.directory.join("bin")
    }

    fn state(&self, name: &str) -> PathBuf {
        self.directory.join("state").join(name)
    }

    /// Lets `command` find it before any other.
    #[must_use]
    pub fn found_by(&self, command: Command) -> Command {
        let others = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{others}", self.programs().display()))
    }

    /// Runs it, as a person would.
    ///
    /// # Errors
    ///
    /// Fails when it does.
    pub fn run<const N: usize>(&self, arguments: [&str; N]) -> Result<String> {
        Ok(Command::new(self.programs().join("zfs"))
            .args(arguments)
            .run()?
            .stdout)
    }

    /// Writes a file of its state: `refused`, `busy`, `torn`, `after-hold`, or a property below `inherited/`.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be written.
    pub fn tell(&self, name: &str, text: &str) -> Result<()> {
        let path = self.state(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, text).with_context(|| format!("write \"{}\"", path.display()))
    }

    /// Takes back what [`StandInZfs::tell`] told.
    ///
    /// # Errors
    ///
    /// Fails when the file cannot be removed.
    pub fn take_back(&self, name: &str) -> Result<()> {
        let path = self.state(name);
        fs::remove_file(&path).with_context(|| format!("remove \"{}\"", path.display()))
    }

    /// What it was asked since it was last asked this, a line for each call.
    ///
    /// # Errors
    ///
    /// Fails when the file cannot be read.
    pub fn calls(&self) -> Result<Vec<String>> {
        let path = self.state("calls");
        let text = fs::read_to_string(&path).unwrap_or_default();
        fs::write(&path, "")?;
        Ok(text.lines().map(ToOwned::to_owned).collect())
    }

    /// The names of its snapshots, sorted.
    ///
    /// # Errors
    ///
    /// Fails when they cannot be listed.
    pub fn snapshots(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.state("snapshots"))? {
            names.push(entry?.file_name().to_string_lossy().replace('+', "/"));
        }
        names.sort();
        Ok(names)
    }

    /// A property that was set on a snapshot.
    #[must_use]
    pub fn mark(&self, snapshot: &str, property: &str) -> Option<String> {
        let entry = self.state("snapshots").join(snapshot.replace('/', "+"));
        fs::read_to_string(entry.join("marks").join(property)).ok()
    }

    /// Every hold that there is, as `SNAPSHOT TAG`, sorted.
    ///
    /// # Errors
    ///
    /// Fails when they cannot be listed.
    pub fn holds(&self) -> Result<Vec<String>> {
        let mut holds = Vec::new();
        for snapshot in self.snapshots()? {
            let entry = self.state("snapshots").join(snapshot.replace('/', "+"));
            for hold in fs::read_dir(entry.join("holds"))? {
                holds.push(format!(
                    "{snapshot} {}",
                    hold?.file_name().to_string_lossy()
                ));
            }
        }
        holds.sort();
        Ok(holds)
    }
}
