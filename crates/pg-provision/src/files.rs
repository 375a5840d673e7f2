//! The SQL files that a declaration names, and the hash of a declaration together with them.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use settings::databases::Database as Declared;
use sha2::{Digest as _, Sha256};
use tool::WithHint as _;

/// One file of SQL.
#[derive(Clone, PartialEq, Eq)]
pub struct SqlFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its last component.
    pub name: String,
    /// SHA-256 of its content.
    pub checksum: String,
    /// Its content.
    pub text: String,
}

/// The SQL files of one database.
#[derive(Clone, Default)]
pub struct Files {
    /// `customSql.preCreate`
    pub pre_create: Vec<SqlFile>,
    /// `customSql.postCreate`
    pub post_create: Vec<SqlFile>,
    /// `customSql.preConfig`
    pub pre_config: Vec<SqlFile>,
    /// `customSql.postConfig`
    pub post_config: Vec<SqlFile>,
    /// `initScripts`
    pub init_scripts: Vec<SqlFile>,
    /// `migrations`, in the order of their names.
    pub migrations: Vec<SqlFile>,
}

impl Files {
    /// Reads the files that `declared` names.
    ///
    /// # Errors
    ///
    /// Fails when one cannot be read or is not UTF-8.
    pub fn of(declared: &Declared) -> Result<Self> {
        let all = |paths: &[PathBuf]| -> Result<Vec<SqlFile>> {
            paths.iter().map(|path| read(path)).collect()
        };
        let custom = &declared.custom_sql;
        Ok(Self {
            pre_create: all(&custom.pre_create)?,
            post_create: all(&custom.post_create)?,
            pre_config: all(&custom.pre_config)?,
            post_config: all(&custom.post_config)?,
            init_scripts: all(&declared.init_scripts)?,
            migrations: match &declared.migrations {
                Some(directory) => all(&sql_files_in(directory)?)?,
                None => Vec::new(),
            },
        })
    }

    /// Hash of `declared` and of the content of these files.
    ///
    /// # Errors
    ///
    /// Fails when the declaration cannot be written as JSON.
    pub fn hash(&self, declared: &Declared) -> Result<String> {
        let Self {
            pre_create,
            post_create,
            pre_config,
            post_config,
            init_scripts,
            migrations,
        } = self;
        let checksums: Vec<Vec<&str>> = [
            pre_create,
            post_create,
            pre_config,
            post_config,
            init_scripts,
            migrations,
        ]
        .map(|files| files.iter().map(|file| file.checksum.as_str()).collect())
        .into();
        hash(&(declared, checksums))
    }
}

/// Hash of anything that can be written as JSON.
///
/// # Errors
///
/// Fails when it cannot.
pub fn hash(value: &impl Serialize) -> Result<String> {
    let text = serde_json::to_vec(value).context("hash a declaration")?;
    Ok(hex::encode(Sha256::digest(text)))
}

fn read(path: &Path) -> Result<SqlFile> {
    let shown = path.display();
    let bytes = std::fs::read(path).with_context(|| format!("read SQL \"{shown}\""))?;
    let checksum = hex::encode(Sha256::digest(&bytes));
    let text = String::from_utf8(bytes)
        .ok()
        .with_context(|| format!("read SQL \"{shown}\": it is not UTF-8"))?;
    ensure!(
        !text.contains('\0'),
        "read SQL \"{shown}\": it has a zero byte in it"
    );
    Ok(SqlFile {
        path: path.to_owned(),
        name: path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default(),
        checksum,
        text,
    })
}

/// The files `*.sql` in a directory, in the order of their names.
fn sql_files_in(directory: &Path) -> Result<Vec<PathBuf>> {
    let shown = directory.display();
    let entries = std::fs::read_dir(directory)
        .with_context(|| format!("list migrations \"{shown}\""))
        .with_hint(|| "is it there, and may the user of the instance read it?".into())?;
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry
            .with_context(|| format!("list migrations \"{shown}\""))?
            .path();
        if path.extension().is_some_and(|extension| extension == "sql") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_changes_with_a_file_and_with_the_declaration() -> Result<()> {
        let directory = tempfile::tempdir()?;
        let script = directory.path().join("one.sql");
        std::fs::write(&script, "SELECT 1")?;
        let text = format!(
            r#"{{ "initScripts": [{:?}] }}"#,
            script.display().to_string()
        );
        let declared: Declared = serde_json::from_str(&text)?;
        let first = Files::of(&declared)?.hash(&declared)?;
        assert_eq!(Files::of(&declared)?.hash(&declared)?, first);
        std::fs::write(&script, "SELECT 2")?;
        let second = Files::of(&declared)?.hash(&declared)?;
        assert_ne!(second, first);
        let other = Declared {
            is_template: true,
            ..declared.clone()
        };
        assert_ne!(Files::of(&declared)?.hash(&other)?, second);
        Ok(())
    }

    #[test]
    fn migrations_come_in_the_order_of_their_names_and_other_files_are_left_out() -> Result<()> {
        let directory = tempfile::tempdir()?;
        for name in ["10.sql", "2.sql", "README.md", "1.sql"] {
            std::fs::write(directory.path().join(name), "")?;
        }
        let names: Vec<String> = sql_files_in(directory.path())?
            .iter()
            .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
            .collect();
        assert_eq!(names, ["1.sql", "10.sql", "2.sql"]);
        Ok(())
    }
}
