//! What is mounted where, by the kernel's word.
//!
//! A directory on which nothing is mounted is empty, and so is a new one. Only the kernel can tell the
//! two apart, and it does so in `/proc/self/mountinfo`.
//!
//! A sandbox makes it harder: systemd mounts each of a unit's `ReadWritePaths=` onto itself, so that a
//! plain directory is a mount point for the processes of the unit. Such a mount shows what would be
//! there without it, and counts as none.

use std::fs::{self, OpenOptions};
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use nix::fcntl::OFlag;

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    id: u64,
    parent: u64,
    device: String,
    /// The directory of the file system that is shown.
    root: PathBuf,
    /// Where it is mounted.
    pub point: PathBuf,
    /// The kind of file system, `zfs` for example.
    pub filesystem: String,
    /// What is mounted: a device, or the name of a dataset.
    pub source: String,
    /// Whether the file system itself takes no changes, for anybody. A sandbox in which it takes none
    /// is another thing.
    pub is_read_only: bool,
    /// Whether it does not make the disk write down what it holds in its own memory.
    pub has_no_barriers: bool,
}

/// What a directory is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A mount point with this mount on it.
    MountPoint(Mount),
    /// A directory of this mount.
    Directory(Mount),
    /// A mount point on which two are mounted: the second hides the first.
    Hiding {
        /// What is seen.
        seen: Mount,
        /// What is hidden below it.
        hidden: Mount,
    },
}

/// Every mount that this process can see.
#[derive(Clone, Debug)]
pub struct Mounts {
    mounts: Vec<Mount>,
}

impl Mounts {
    /// Asks the kernel.
    ///
    /// # Errors
    ///
    /// Fails when the kernel's answer cannot be read or understood.
    pub fn read() -> Result<Self> {
        const PATH: &str = "/proc/self/mountinfo";
        let text = fs::read(PATH).with_context(|| format!("read \"{PATH}\""))?;
        Self::parse(&text)
    }

    /// Reads the text of `/proc/self/mountinfo`.
    ///
    /// # Errors
    ///
    /// Fails on a line that has another form.
    ///
    /// # Source
    ///
    /// proc(5): `id parent major:minor root point options [tag…] - filesystem source options`.
    pub fn parse(text: &[u8]) -> Result<Self> {
        let mounts = text
            .split(|&byte| byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| {
                parse_line(line).ok_or_else(|| {
                    anyhow!(
                        "\"{}\" is no line of mountinfo",
                        String::from_utf8_lossy(line)
                    )
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self { mounts })
    }

    /// What the existing directory `path` is. Links in it are followed.
    ///
    /// # Errors
    ///
    /// Fails when it does not exist or cannot be opened, and with the operating system's error.
    pub fn place(&self, path: &Path) -> Result<Place> {
        let path =
            fs::canonicalize(path).with_context(|| format!("examine \"{}\"", path.display()))?;
        // Opened without the right to read it, and asked for the mount that it was reached through:
        // a path alone can lead below another mount that hides the one that the path names.
        let open = OpenOptions::new()
            .read(true)
            .custom_flags(OFlag::O_PATH.bits())
            .open(&path)
            .with_context(|| format!("open \"{}\"", path.display()))?;
        let info = format!("/proc/self/fdinfo/{}", open.as_raw_fd());
        let text = fs::read_to_string(&info).with_context(|| format!("read \"{info}\""))?;
        let id = text
            .lines()
            .find_map(|line| line.strip_prefix("mnt_id:"))
            .and_then(|id| id.trim().parse().ok())
            .ok_or_else(|| anyhow!("\"{info}\" names no mount"))?;
        self.place_on(id, &path)
            .ok_or_else(|| anyhow!("\"{}\" is on a mount that is not listed", path.display()))
    }

    /// What `path` is, which was reached through the mount `id`.
    fn place_on(&self, id: u64, path: &Path) -> Option<Place> {
        let seen = self.shown(self.by_id(id)?, path);
        if seen.point != path {
            return Some(Place::Directory(seen.clone()));
        }
        let mut below = seen;
        while let Some(next) = self.by_id(below.parent)
            && next.point == path
        {
            // An automount waits below what it has mounted.
            if next.filesystem != "autofs" && self.repeated_by(below, path).is_none() {
                return Some(Place::Hiding {
                    seen: seen.clone(),
                    hidden: next.clone(),
                });
            }
            below = next;
        }
        Some(Place::MountPoint(seen.clone()))
    }

    /// The mount that brings what is seen at `path`: `mount`, or the one that `mount` shows again.
    fn shown<'a>(&'a self, mut mount: &'a Mount, path: &Path) -> &'a Mount {
        while let Some(repeated) = self.repeated_by(mount, path) {
            mount = repeated;
        }
        mount
    }

    /// The mount that would be seen at `path` without `mount`, if it would show the same.
    fn repeated_by(&self, mount: &Mount, path: &Path) -> Option<&Mount> {
        let parent = self.by_id(mount.parent)?;
        let within = path.strip_prefix(&parent.point).ok()?;
        (mount.point == path
            && parent.device == mount.device
            && parent.root.join(within) == mount.root)
            .then_some(parent)
    }

    fn by_id(&self, id: u64) -> Option<&Mount> {
        self.mounts.iter().find(|mount| mount.id == id)
    }
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&byte| byte == b' ');
    let mut text = || fields.next();
    let number = |field: &[u8]| std::str::from_utf8(field).ok()?.parse().ok();
    let id = number(text()?)?;
    let parent = number(text()?)?;
    let device = String::from_utf8(text()?.to_vec()).ok()?;
    let root = unescaped(text()?);
    let point = unescaped(text()?);
    // Options, then any number of tags up to a hyphen.
    while text()? != b"-" {}
    let filesystem = unescaped(text()?);
    let source = unescaped(text()?);
    let options = text()?;
    let has = |wanted: &[u8]| {
        options
            .split(|&byte| byte == b',')
            .any(|option| option == wanted)
    };
    Some(Mount {
        id,
        parent,
        device,
        root,
        point,
        filesystem: filesystem.to_string_lossy().into_owned(),
        source: source.to_string_lossy().into_owned(),
        is_read_only: has(b"ro"),
        has_no_barriers: has(b"nobarrier") || has(b"barrier=0"),
    })
}

/// A field of mountinfo: a space, a tab, a newline and a backslash are written as three octal digits.
fn unescaped(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        if byte == b'\\'
            && let Some((digits, after)) = tail.split_at_checked(3)
            && let Ok(digits) = std::str::from_utf8(digits)
            && let Ok(value) = u8::from_str_radix(digits, 8)
        {
            bytes.push(value);
            rest = after;
        } else {
            bytes.push(byte);
            rest = tail;
        }
    }
    std::ffi::OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines as Linux 6.1 prints them, of a machine with two datasets.
    const HOST: &str = "\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:25 / /var/lib/postgresql/main rw,noatime shared:20 - zfs tank/services/postgresql/main rw,xattr,posixacl
31 22 0:26 / /var/lib/postgresql/with\\040space rw shared:21 - zfs tank/space rw
";

    fn place(more: &str, id: u64, path: &str) -> Place {
        Mounts::parse(format!("{HOST}{more}").as_bytes())
            .unwrap()
            .place_on(id, Path::new(path))
            .unwrap()
    }

    fn source(place: &Place) -> &str {
        match place {
            Place::MountPoint(mount) | Place::Directory(mount) => &mount.source,
            Place::Hiding { seen, .. } => &seen.source,
        }
    }

    #[test]
    fn a_mounted_dataset_is_told_from_a_directory() {
        let mounted = place("", 30, "/var/lib/postgresql/main");
        assert!(matches!(&mounted, Place::MountPoint(_)), "{mounted:?}");
        assert_eq!(source(&mounted), "tank/services/postgresql/main");
        let below = place("", 30, "/var/lib/postgresql/main/16");
        assert!(matches!(&below, Place::Directory(_)), "{below:?}");
        let unmounted = place("", 22, "/var/lib/postgresql/other");
        assert!(matches!(&unmounted, Place::Directory(_)), "{unmounted:?}");
        assert_eq!(source(&unmounted), "/dev/sda1");
    }

    #[test]
    fn h13_a_file_system_that_takes_no_changes_is_told_from_a_sandbox_that_lets_none_through() {
        for (line, expected) in [
            ("90 22 0:44 / /pg ro - zfs tank/pg ro,xattr\n", true),
            ("90 22 0:44 / /pg rw - zfs tank/pg rw,xattr\n", false),
            // What ProtectSystem=strict makes of it.
            (
                "90 22 0:44 / /pg ro,relatime - zfs tank/pg rw,xattr\n",
                false,
            ),
            (
                "90 22 0:44 / /pg rw - zfs tank/pg rw,errors=remount-ro\n",
                false,
            ),
        ] {
            let Place::MountPoint(mount) = place(line, 90, "/pg") else {
                panic!("{line}");
            };
            assert_eq!(mount.is_read_only, expected, "{line}");
        }
    }

    #[test]
    fn h13_a_file_system_that_does_not_flush_the_disk_is_told() {
        for (line, expected) in [
            (
                "90 22 8:5 / /pg rw,noatime - ext4 /dev/sdb1 rw,nobarrier,errors=remount-ro\n",
                true,
            ),
            ("90 22 8:5 / /pg rw - ext3 /dev/sdb1 rw,barrier=0\n", true),
            ("90 22 8:5 / /pg rw - ext3 /dev/sdb1 rw,barrier=1\n", false),
            (
                "90 22 8:5 / /pg rw - btrfs /dev/sdb1 rw,space_cache=v2\n",
                false,
            ),
        ] {
            let Place::MountPoint(mount) = place(line, 90, "/pg") else {
                panic!("{line}");
            };
            assert_eq!(mount.has_no_barriers, expected, "{line}");
        }
    }

    #[test]
    fn an_escaped_name_is_read() {
        let mounted = place("", 31, "/var/lib/postgresql/with space");
        assert!(matches!(mounted, Place::MountPoint(_)), "{mounted:?}");
    }

    #[test]
    fn a_sandbox_that_mounts_a_directory_onto_itself_makes_no_mount_point() {
        let sandbox = "90 22 8:1 /var/lib/postgresql/other /var/lib/postgresql/other rw,relatime shared:40 - ext4 /dev/sda1 rw\n";
        let plain = place(sandbox, 90, "/var/lib/postgresql/other");
        assert!(matches!(plain, Place::Directory(_)), "{plain:?}");
        // The same on top of a dataset is the dataset, and hides nothing.
        let sandbox = "91 30 0:25 / /var/lib/postgresql/main rw,noatime - zfs tank/services/postgresql/main rw\n";
        let mounted = place(sandbox, 91, "/var/lib/postgresql/main");
        assert!(matches!(&mounted, Place::MountPoint(_)), "{mounted:?}");
    }

    #[test]
    fn a_directory_of_the_same_file_system_mounted_elsewhere_is_a_mount_point() {
        let bound = "90 22 8:1 /srv/pg /var/lib/postgresql/other rw,relatime - ext4 /dev/sda1 rw\n";
        let mounted = place(bound, 90, "/var/lib/postgresql/other");
        assert!(matches!(mounted, Place::MountPoint(_)), "{mounted:?}");
    }

    #[test]
    fn s6_a_dataset_that_hides_another_is_seen() {
        let second =
            "40 30 0:33 / /var/lib/postgresql/main rw,noatime - zfs tank/services/postgres rw\n";
        let place = place(second, 40, "/var/lib/postgresql/main");
        let Place::Hiding { seen, hidden } = place else {
            panic!("{place:?}");
        };
        assert_eq!(seen.source, "tank/services/postgres");
        assert_eq!(hidden.source, "tank/services/postgresql/main");
    }

    #[test]
    fn an_automount_hides_nothing() {
        let automount = "\
50 22 0:40 / /mnt/nas rw - autofs systemd-1 rw,fd=42
51 50 0:41 / /mnt/nas rw - nfs4 nas:/pg rw
";
        let mounted = place(automount, 51, "/mnt/nas");
        assert!(matches!(mounted, Place::MountPoint(_)), "{mounted:?}");
    }

    #[test]
    fn a_line_of_another_form_is_refused() {
        assert_eq!(
            Mounts::parse(b"no mount\n").unwrap_err().to_string(),
            "\"no mount\" is no line of mountinfo"
        );
    }

    #[test]
    fn this_machine_is_read() {
        let mounts = Mounts::read().unwrap();
        let proc = mounts.place(Path::new("/proc")).unwrap();
        assert!(
            matches!(&proc, Place::MountPoint(mount) if mount.filesystem == "proc"),
            "{proc:?}"
        );
        let inside = mounts.place(Path::new("/proc/self/fd")).unwrap();
        assert!(matches!(inside, Place::Directory(_)), "{inside:?}");
    }
}
