//! A new cluster, made beside its place and moved there once it is whole.

use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context as _, Result};
use cluster::Programs;
use durable_file::Lock;
use restore_journal::Places;
use settings::{Initdb, LocaleProvider, Postgresql, Settings};
use tool::{Hinted, Level};

use crate::configuration;

/// Suffix of the directory in which a cluster is made.
const STAGING: &str = ".backstay-init";

/// Takes the lock of whoever builds a cluster here, this program or a restore.
///
/// # Errors
///
/// Fails when another process has it.
pub fn lock(settings: &Settings) -> Result<Lock> {
    let data = &settings.postgresql.data_directory;
    Places::beside(data).try_lock()?.ok_or_else(|| {
        Hinted::new(
            format!(
                "something else is making a cluster for \"{}\"",
                data.display()
            ),
            "wait for the restore, or for the initdb that an interrupted start left behind",
        )
        .into()
    })
}

/// Makes the cluster.
///
/// `initdb` works in a directory beside and syncs what it writes; one rename puts the result in its
/// place. Whatever interrupts this leaves either no cluster or a whole one, and the next call
/// removes what is left over.
///
/// # Errors
///
/// Fails when the settings ask for what this version cannot do, when `initdb` fails, and when the
/// result cannot be moved. The data directory is then as it was, or absent if it was empty.
pub fn make(settings: &Settings, major: u32, lock: &Lock) -> Result<()> {
    let server = &settings.postgresql;
    let data = &server.data_directory;
    let initdb = server
        .initdb
        .as_ref()
        .context("the settings do not say how to make a cluster")?;
    let arguments = arguments(server, initdb, major)?;
    let staging = durable_file::with_suffix(data, STAGING);
    remove_leftovers(&staging)?;
    // A killed run leaves initdb behind, which goes on writing for a while.
    lock.share_with_children()?;
    Programs::in_directory(&server.bin_directory)
        .command("initdb")
        .arg("--pgdata")
        .arg(&staging)
        .args(arguments)
        .run()
        .context("make a new cluster")?;
    if let Some(file) = &server.config_file {
        configuration::include(&staging, file)?;
    }
    match fs::remove_dir(data) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => {
            return Err(err).with_context(|| format!("remove the empty \"{}\"", data.display()));
        }
        _ => {}
    }
    durable_file::move_to_new_name(&staging, data)?;
    tool::log(
        Level::Info,
        format_args!(
            "made a new cluster of PostgreSQL {major} in \"{}\"",
            data.display()
        ),
    );
    Ok(())
}

/// Removes what an interrupted run left. It was never anybody's cluster: it never had its name.
fn remove_leftovers(staging: &Path) -> Result<()> {
    match fs::symlink_metadata(staging) {
        Ok(metadata) if metadata.is_dir() => {
            tool::log(
                Level::Info,
                format_args!(
                    "removing what an interrupted start left in \"{}\"",
                    staging.display()
                ),
            );
            fs::remove_dir_all(staging).with_context(|| format!("remove \"{}\"", staging.display()))
        }
        Ok(_) => Err(Hinted::new(
            format!("\"{}\" is no directory", staging.display()),
            "move it away: a new cluster is made under this name",
        )
        .into()),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(err) => Err(err).with_context(|| format!("examine \"{}\"", staging.display())),
    }
}

/// The arguments of `initdb`, but for the directory.
///
/// # Source
///
/// PostgreSQL, "initdb": `--locale-provider` from 15 on, `builtin` from 17 on; checksums are the
/// default from 18 on, and only there can they be declined.
fn arguments(server: &Postgresql, initdb: &Initdb, major: u32) -> Result<Vec<String>> {
    let mut arguments = vec![
        format!("--username={}", server.role),
        format!("--encoding={}", initdb.encoding),
        // Where the declared configuration names no other pg_hba.conf: over the socket everybody is
        // who the operating system says, over the network nobody comes in without a password.
        "--auth-local=peer".into(),
        "--auth-host=scram-sha-256".into(),
    ];
    if initdb.data_checksums {
        arguments.push("--data-checksums".into());
    } else if major >= 18 {
        arguments.push("--no-data-checksums".into());
    }
    let needs = |least: u32, what: &str| {
        if major >= least {
            return Ok(());
        }
        Err(Hinted::new(
            format!("PostgreSQL {major} cannot make a cluster with the locale provider {what}"),
            format!("leave out postgresql.initdb.localeProvider, or use version {least}"),
        ))
    };
    let locale = initdb.locale.as_deref();
    match initdb.locale_provider {
        None => arguments.push(format!("--locale={}", locale.unwrap_or("C"))),
        Some(LocaleProvider::Libc) => {
            if major >= 15 {
                arguments.push("--locale-provider=libc".into());
            }
            arguments.push(format!("--locale={}", locale.unwrap_or("C")));
        }
        Some(LocaleProvider::Icu) => {
            needs(15, "icu")?;
            arguments.extend([
                "--locale-provider=icu".into(),
                format!("--icu-locale={}", locale.unwrap_or("und")),
                "--locale=C".into(),
            ]);
        }
        Some(LocaleProvider::Builtin) => {
            needs(17, "builtin")?;
            arguments.extend([
                "--locale-provider=builtin".into(),
                format!("--builtin-locale={}", locale.unwrap_or("C.UTF-8")),
                "--locale=C".into(),
            ]);
        }
    }
    arguments.extend(initdb.arguments.iter().cloned());
    Ok(arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments_of(initdb: &str, major: u32) -> Result<String> {
        let text = format!(
            r#"{{
                "instance": "main",
                "postgresql": {{
                    "binDirectory": "/b", "dataDirectory": "/d/16", "socketDirectory": "/s",
                    "role": "admin", "initdb": {initdb}
                }},
                "archive": {{ "directory": "/a" }}
            }}"#
        );
        let settings = Settings::parse(&text)?;
        let initdb = settings.postgresql.initdb.as_ref().context("is declared")?;
        Ok(arguments(&settings.postgresql, initdb, major)?.join(" "))
    }

    const ALWAYS: &str =
        "--username=admin --encoding=UTF8 --auth-local=peer --auth-host=scram-sha-256";

    #[test]
    fn the_default_has_checksums_and_an_order_of_text_that_no_upgrade_changes() -> Result<()> {
        for major in [13, 15, 18] {
            assert_eq!(
                arguments_of("{}", major)?,
                format!("{ALWAYS} --data-checksums --locale=C")
            );
        }
        Ok(())
    }

    #[test]
    fn what_is_declared_is_passed_on_last() -> Result<()> {
        let initdb = r#"{ "dataChecksums": false, "locale": "de_DE.UTF-8", "arguments": ["--wal-segsize=64"] }"#;
        assert_eq!(
            arguments_of(initdb, 16)?,
            format!("{ALWAYS} --locale=de_DE.UTF-8 --wal-segsize=64")
        );
        assert_eq!(
            arguments_of(initdb, 18)?,
            format!("{ALWAYS} --no-data-checksums --locale=de_DE.UTF-8 --wal-segsize=64")
        );
        Ok(())
    }

    #[test]
    fn a_locale_provider_is_named_to_versions_that_know_it() -> Result<()> {
        let libc = r#"{ "localeProvider": "libc" }"#;
        assert_eq!(
            arguments_of(libc, 14)?,
            format!("{ALWAYS} --data-checksums --locale=C")
        );
        assert_eq!(
            arguments_of(libc, 15)?,
            format!("{ALWAYS} --data-checksums --locale-provider=libc --locale=C")
        );
        let icu = r#"{ "localeProvider": "icu", "locale": "de-DE" }"#;
        assert_eq!(
            arguments_of(icu, 15)?,
            format!(
                "{ALWAYS} --data-checksums --locale-provider=icu --icu-locale=de-DE --locale=C"
            )
        );
        let builtin = r#"{ "localeProvider": "builtin" }"#;
        assert_eq!(
            arguments_of(builtin, 17)?,
            format!(
                "{ALWAYS} --data-checksums --locale-provider=builtin --builtin-locale=C.UTF-8 --locale=C"
            )
        );
        assert_eq!(
            arguments_of(builtin, 16).unwrap_err().to_string(),
            "PostgreSQL 16 cannot make a cluster with the locale provider builtin"
        );
        Ok(())
    }
}
