//! What Debian's packages provide, and how to get it: from the machine's own package sources.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::process;

/// Where Debian keeps the server programs, one directory for each major version.
const SERVERS: &str = "/usr/lib/postgresql";

/// A program, and the package that has it.
#[derive(Clone, Copy, Debug)]
pub struct Tool {
    /// Name of the program.
    pub program: &'static str,
    /// Name of the package.
    pub package: &'static str,
}

/// What the tests use beside the server.
pub const TEST_TOOLS: [Tool; 10] = [
    Tool {
        program: "strace",
        package: "strace",
    },
    Tool {
        program: "zstd",
        package: "zstd",
    },
    Tool {
        program: "lz4",
        package: "lz4",
    },
    Tool {
        program: "faketime",
        package: "faketime",
    },
    Tool {
        program: "restic",
        package: "restic",
    },
    Tool {
        program: "apprise",
        package: "apprise",
    },
    Tool {
        program: "prometheus-node-exporter",
        package: "prometheus-node-exporter",
    },
    Tool {
        program: "promtool",
        package: "prometheus",
    },
    Tool {
        program: "nix-instantiate",
        package: "nix-bin",
    },
    Tool {
        program: "mmdebstrap",
        package: "mmdebstrap",
    },
];

/// What the lab boots hosts with.
pub const LAB_TOOLS: [Tool; 6] = [
    Tool {
        program: "mmdebstrap",
        package: "mmdebstrap",
    },
    Tool {
        program: "systemd-nspawn",
        package: "systemd-container",
    },
    Tool {
        program: "ip",
        package: "iproute2",
    },
    Tool {
        program: "qemu-system-x86_64",
        package: "qemu-system-x86",
    },
    Tool {
        program: "mke2fs",
        package: "e2fsprogs",
    },
    Tool {
        program: "python3",
        package: "python3",
    },
];

/// Whether this process may install packages and change users.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Installs the server and those of `tools` that are missing, where this process may.
///
/// Returns a line for each thing that is still missing.
///
/// # Errors
///
/// Fails when there is no server in the end, with a hint.
pub fn install(tools: &[Tool]) -> Result<Vec<String>> {
    let mut wanted: Vec<&str> = tools
        .iter()
        .filter(|tool| !process::is_installed(tool.program))
        .map(|tool| tool.package)
        .collect();
    if newest_server().is_none() {
        wanted.push("postgresql");
    }
    if !wanted.is_empty() && is_root() && process::is_installed("apt-get") {
        println!("installing {}", wanted.join(", "));
        // What stays missing is reported below, whatever the reason.
        if let Err(err) = without_a_cluster(|| apt_install(&wanted)) {
            println!("could not install every package: {err:#}");
        }
    }
    if newest_server().is_none() {
        bail!(
            "no PostgreSQL server below \"{SERVERS}\"\nhint: install the package postgresql, or set BACKSTAY_POSTGRESQL_BIN to the directory with initdb and postgres"
        );
    }
    Ok(tools
        .iter()
        .filter(|tool| !process::is_installed(tool.program))
        .map(|tool| {
            format!(
                "{}: not installed; the package {} has it",
                tool.program, tool.package
            )
        })
        .collect())
}

fn apt_install(packages: &[&str]) -> Result<()> {
    // The lists may be missing or older than the mirror. One source that cannot be reached does not
    // matter if the others have the packages.
    let _ = update();
    process::run(
        process::command("apt-get")
            .args(["install", "--yes", "--quiet", "--no-install-recommends"])
            .args(packages)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdout(std::process::Stdio::null()),
    )
}

fn update() -> Result<()> {
    process::run(
        process::command("apt-get")
            .args(["update", "--quiet"])
            .stdout(std::process::Stdio::null()),
    )
}

/// Runs `install` while Debian's server package is told not to make and start a cluster of its own.
fn without_a_cluster(install: impl FnOnce() -> Result<()>) -> Result<()> {
    let directory = Path::new("/etc/postgresql-common/createcluster.d");
    let file = directory.join("backstay-xtask.conf");
    std::fs::create_dir_all(directory)
        .and_then(|()| std::fs::write(&file, "create_main_cluster = false\n"))
        .with_context(|| format!("write \"{}\"", file.display()))?;
    let installed = install();
    std::fs::remove_file(&file).with_context(|| format!("remove \"{}\"", file.display()))?;
    installed
}

/// The server programs to use: those in `BACKSTAY_POSTGRESQL_BIN`, or the newest installed.
pub fn newest_server() -> Option<PathBuf> {
    match std::env::var_os("BACKSTAY_POSTGRESQL_BIN") {
        Some(bin) => Some(bin.into()),
        None => testbed::Server::find()
            .ok()
            .map(|server| server.bin().to_owned()),
    }
}

/// The server programs of version `major`, if they are installed.
pub fn server_of(major: u32) -> Option<PathBuf> {
    let bin = Path::new(SERVERS).join(major.to_string()).join("bin");
    bin.join("initdb").exists().then_some(bin)
}

/// The address of the machine's Debian mirror, read from its package sources.
///
/// # Errors
///
/// Fails when apt knows of no source of Debian itself.
pub fn mirror() -> Result<String> {
    let ask = || {
        process::output(process::command("apt-get").args([
            "indextargets",
            "--format",
            "$(ORIGIN)|$(LABEL)|$(REPO_URI)",
            "Created-By: Packages",
        ]))
    };
    let mut sources = ask()?;
    if find_mirror(&sources).is_none() {
        // Origin and label stand in the lists, which a fresh machine has not fetched.
        update()?;
        sources = ask()?;
    }
    find_mirror(&sources).context("find a source of Debian in apt's configuration")
}

/// Finds the address in lines of origin, label and address.
fn find_mirror(sources: &str) -> Option<String> {
    // The security archive has another label and does not have every suite.
    sources
        .lines()
        .find_map(|line| line.strip_prefix("Debian|Debian|"))
        .map(|address| address.trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_that_of_debian_and_not_of_its_security_archive_or_another_vendor() {
        let sources = "Vendor|Vendor|https://vendor.example/apt/\n\
                       Debian|Debian-Security|http://mirror.example/debian-security/\n\
                       Debian|Debian|http://mirror.example/debian/\n";
        assert_eq!(
            find_mirror(sources).as_deref(),
            Some("http://mirror.example/debian")
        );
        assert_eq!(find_mirror("Vendor|Debian|https://vendor.example/\n"), None);
    }
}
