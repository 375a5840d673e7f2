//! Debian systems, each a directory made once and kept in a cache: with other versions of PostgreSQL
//! for the tests, and with all that a host of ours runs for the lab.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use crate::{debian, process};

/// How to make a system. Everything here is part of the name it has in the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// What the system is for; the name in the cache begins with it.
    pub name: &'static str,
    suite: &'static str,
    components: &'static str,
    packages: &'static [&'static [&'static str]],
    options: &'static [&'static [&'static str]],
}

/// Systems with versions of PostgreSQL that the host's own Debian may lack, by major version.
pub const POSTGRESQL: [(u32, Recipe); 2] = [
    (
        17,
        Recipe {
            name: "postgresql-17",
            suite: "trixie",
            components: "main",
            packages: &[&["postgresql-17"], TEST_PACKAGES],
            options: &[NO_CLUSTER],
        },
    ),
    (
        18,
        Recipe {
            name: "postgresql-18",
            suite: "sid",
            components: "main",
            packages: &[&["postgresql-18"], TEST_PACKAGES],
            options: &[
                NO_CLUSTER,
                // A mirror that stands still has lists of sid past their date.
                &["--aptopt=Acquire::Check-Valid-Until \"false\""],
            ],
        },
    ),
];

/// The version of PostgreSQL in the systems of the lab.
pub const LAB_POSTGRESQL: u32 = 17;

/// What boots in a container of the lab.
pub const LAB: Recipe = Recipe {
    name: "lab",
    suite: "trixie",
    components: "main,contrib",
    packages: &[LAB_PACKAGES],
    options: &[NO_CLUSTER, SMALL, NIXOS_USER, UNITS],
};

/// What boots in an emulated machine of the lab: the same with a kernel, and ZFS built for it.
pub const LAB_ZFS: Recipe = Recipe {
    name: "lab-zfs",
    suite: "trixie",
    components: "main,contrib",
    packages: &[LAB_PACKAGES, KERNEL_PACKAGES],
    options: &[
        NO_CLUSTER,
        SMALL,
        NIXOS_USER,
        INITRAMFS,
        UNITS,
        WITHOUT_HEADERS,
    ],
};

const TEST_PACKAGES: &[&str] = &["strace", "zstd", "lz4", "faketime"];

const LAB_PACKAGES: &[&str] = &[
    "systemd",
    "systemd-sysv",
    "dbus",
    // Names of users that systemd makes for one service, such as sanoid's.
    "libnss-systemd",
    "postgresql-17",
    "restic",
    "sanoid",
    // Without it sanoid would bring zfs-fuse.
    "zfsutils-linux",
    "mbuffer",
    "apprise",
    "prometheus-node-exporter",
    "openssh-client",
    "openssh-server",
    "curl",
    "zstd",
    "lz4",
    "faketime",
    "strace",
    "procps",
    "iproute2",
];

const KERNEL_PACKAGES: &[&str] = &[
    "linux-image-cloud-amd64",
    "linux-headers-cloud-amd64",
    "zfs-dkms",
    "initramfs-tools",
    "udev",
];

/// Debian's server package would make a cluster of its own.
const NO_CLUSTER: &[&str] = &[
    "--essential-hook=mkdir -p \"$1/etc/postgresql-common/createcluster.d\"",
    "--essential-hook=echo 'create_main_cluster = false' > \"$1/etc/postgresql-common/createcluster.d/backstay.conf\"",
];

/// What nobody reads in a test makes its disk larger.
const SMALL: &[&str] = &[
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--dpkgopt=path-exclude=/usr/share/man/*",
];

/// The user of the server with the number that it has on NixOS. Debian's package takes the user that it
/// finds.
const NIXOS_USER: &[&str] = &[
    "--essential-hook=echo 'postgres:x:71:71:PostgreSQL server:/var/lib/postgresql:/bin/bash' >> \"$1/etc/passwd\"",
    "--essential-hook=echo 'postgres:!:1::::::' >> \"$1/etc/shadow\"",
    "--essential-hook=echo 'postgres:x:71:' >> \"$1/etc/group\"",
    "--essential-hook=echo 'postgres:!::' >> \"$1/etc/gshadow\"",
];

/// Only the modules that find the disk: an emulated processor takes its time to unpack all of them.
const INITRAMFS: &[&str] = &[
    "--essential-hook=mkdir -p \"$1/etc/initramfs-tools/conf.d\"",
    "--essential-hook=echo MODULES=list > \"$1/etc/initramfs-tools/conf.d/backstay\"",
    "--essential-hook=printf '%s\\n' virtio_pci virtio_blk ext4 > \"$1/etc/initramfs-tools/modules\"",
];

/// Debian's units that do what the units under test do, or that come at their own time. A unit of the
/// same name that is under test takes the place of the mask.
const UNITS: &[&str] = &[
    "--customize-hook=chroot \"$1\" systemctl disable --quiet postgresql.service sanoid.service sanoid-prune.service sanoid.timer prometheus-node-exporter.service ssh.service",
    "--customize-hook=chroot \"$1\" systemctl mask --quiet postgresql.service postgresql@.service sanoid.service sanoid-prune.service sanoid.timer prometheus-node-exporter.service",
    "--customize-hook=chroot \"$1\" systemctl mask --quiet apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer fstrim.timer",
];

/// Takes away what the module was built from, an eighth of the disk. apt would keep the headers of an
/// installed kernel.
const WITHOUT_HEADERS: &[&str] = &[
    "--customize-hook=cp -a \"$1\"/usr/lib/modules/*/updates \"$1/root/\"",
    "--customize-hook=chroot \"$1\" apt-get --yes --quiet purge zfs-dkms dkms 'linux-headers-*'",
    "--customize-hook=chroot \"$1\" apt-get --yes --quiet autoremove --purge",
    "--customize-hook=for kernel in \"$1\"/usr/lib/modules/*; do cp -a \"$1/root/updates\" \"$kernel/\" && chroot \"$1\" depmod \"${kernel##*/}\" || exit 1; done",
    "--customize-hook=rm -r \"$1/root/updates\"",
];

impl Recipe {
    /// The recipe for version `major` of PostgreSQL, if there is one.
    pub fn of(major: u32) -> Option<Self> {
        POSTGRESQL
            .into_iter()
            .find_map(|(version, recipe)| (version == major).then_some(recipe))
    }

    /// The directory of the system, if it has been made.
    pub fn made(self) -> Option<PathBuf> {
        let directory = cache().join(self.key());
        directory.exists().then_some(directory)
    }

    fn arguments(self) -> Vec<String> {
        [
            "--variant=minbase".to_owned(),
            format!("--components={}", self.components),
            "--mode=root".to_owned(),
        ]
        .into_iter()
        .chain(self.options.concat().into_iter().map(String::from))
        .chain([
            format!("--include={}", self.packages.concat().join(",")),
            self.suite.into(),
        ])
        .collect()
    }

    /// The name in the cache: whatever changes the content changes the name.
    fn key(self) -> String {
        let mut hash = Sha256::new();
        hash.update(std::env::consts::ARCH);
        for argument in self.arguments() {
            hash.update(argument);
            hash.update([0]);
        }
        let hash = hash.finalize();
        let hash = u64::from_be_bytes(std::array::from_fn(|index| hash[index]));
        format!("{}-{hash:016x}", self.name)
    }
}

/// Returns the directory of the system, making it if it is not in the cache.
///
/// A second process that wants the same system at the same time waits for the first to make it.
///
/// # Errors
///
/// Fails when it cannot be made; the reason is fit for a list of what was skipped.
pub fn get(recipe: Recipe) -> Result<PathBuf> {
    if !debian::is_root() {
        bail!("not root, and only root can make and enter a Debian system");
    }
    for program in ["mmdebstrap", "unshare", "chroot"] {
        if !process::is_installed(program) {
            bail!("{program} is not installed");
        }
    }
    let cache = cache();
    std::fs::create_dir_all(&cache).with_context(|| format!("create \"{}\"", cache.display()))?;
    let directory = cache.join(recipe.key());
    let lock_file = cache.join(format!("{}.lock", recipe.key()));
    let lock =
        File::create(&lock_file).with_context(|| format!("create \"{}\"", lock_file.display()))?;
    lock.lock()
        .with_context(|| format!("lock \"{}\"", lock_file.display()))?;
    if !directory.exists() {
        make(recipe, &directory)?;
    }
    Ok(directory)
}

fn make(recipe: Recipe, directory: &Path) -> Result<()> {
    println!(
        "making the Debian system {} in \"{}\"",
        recipe.name,
        directory.display()
    );
    let partial = durable_file::with_suffix(directory, ".partial");
    // What an interrupted run left; the lock says that nobody works on it.
    if partial.exists() {
        std::fs::remove_dir_all(&partial)
            .with_context(|| format!("remove \"{}\"", partial.display()))?;
    }
    let log = durable_file::with_suffix(directory, ".log");
    let log_file = File::create(&log).with_context(|| format!("create \"{}\"", log.display()))?;
    let status = process::command("mmdebstrap")
        .args(recipe.arguments())
        .arg(&partial)
        .arg(debian::mirror()?)
        .stdin(Stdio::null())
        .stdout(log_file.try_clone().context("share the log")?)
        .stderr(log_file)
        .status()
        .context("run mmdebstrap")?;
    if !status.success() {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let reason = text
            .lines()
            .rev()
            .find(|line| line.starts_with("E:"))
            .unwrap_or("no reason given");
        bail!(
            "mmdebstrap {}: {reason} (whole log: \"{}\")",
            command::how_it_ended(status),
            log.display()
        );
    }
    durable_file::move_to_new_name(&partial, directory)
}

/// The directory that holds the systems: they outlive a checkout and are no part of it.
fn cache() -> PathBuf {
    std::env::var_os("XDG_CACHE_HOME")
        .map_or_else(|| PathBuf::from("/var/cache"), PathBuf::from)
        .join("backstay/rootfs")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_recipe_has_another_name() {
        let [(_, first), (_, second)] = POSTGRESQL;
        assert_ne!(first.key(), second.key());
        let changed = Recipe {
            packages: &[&["postgresql-17"]],
            ..first
        };
        assert_ne!(first.key(), changed.key());
        assert!(first.key().starts_with("postgresql-17-"));
    }
}
