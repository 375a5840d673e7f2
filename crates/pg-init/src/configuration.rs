//! `postgresql.conf` in the data directory, which includes the declared configuration.
//!
//! The file in the data directory stays a real one: `pg_ctl`, `pg_basebackup` and a restore elsewhere
//! work without anything being told to them. What `initdb` or a person wrote into it stays too. At its
//! end stand three lines of ours, so that the declared settings come later and hold.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use tool::Level;

/// PostgreSQL's name for it.
const FILE: &str = "postgresql.conf";
/// Begins the first of our lines.
const BEGIN: &str = "# BEGIN backstay";
/// Begins the last of our lines.
const END: &str = "# END backstay";

/// Sees to it that the configuration in `data_directory` includes `file`.
///
/// A link, which other modules put there, gives way to a file and is kept under another name: a base
/// backup would leave it out.
///
/// # Errors
///
/// Fails when the file cannot be read or replaced; it is as it was then.
pub fn include(data_directory: &Path, file: &Path) -> Result<()> {
    let path = data_directory.join(FILE);
    let old = match fs::symlink_metadata(&path) {
        Ok(metadata) if metadata.is_symlink() => {
            let aside = free_name(&path);
            durable_file::move_to_new_name(&path, &aside)?;
            tool::log(
                Level::Info,
                format_args!(
                    "\"{}\" was a link and is now \"{}\"",
                    path.display(),
                    aside.display()
                ),
            );
            Vec::new()
        }
        Ok(metadata) if metadata.is_file() => {
            fs::read(&path).with_context(|| format!("read \"{}\"", path.display()))?
        }
        Ok(_) => bail!("\"{}\" is no file", path.display()),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(err) => return Err(err).with_context(|| format!("examine \"{}\"", path.display())),
    };
    let new = with_include(&old, file);
    if new != old {
        durable_file::replace(&path, &new)?;
    }
    for line in lines_after(&new) {
        tool::log(
            Level::Warning,
            format_args!(
                "\"{}\" has a line after the declared settings, which wins over them: {line}",
                path.display()
            ),
        );
    }
    Ok(())
}

fn free_name(path: &Path) -> PathBuf {
    let mut name = durable_file::with_suffix(path, ".before-backstay");
    let mut number = 1;
    while fs::symlink_metadata(&name).is_ok() {
        number += 1;
        name = durable_file::with_suffix(path, &format!(".before-backstay-{number}"));
    }
    name
}

/// The text `old` with our lines in it, at their place if it had them, otherwise at the end. A text that
/// includes `file` by a person's own line is left as it is.
fn with_include(old: &[u8], file: &Path) -> Vec<u8> {
    let ours = format!(
        "{BEGIN}: pg-init writes these lines. What stands after them wins over the declared settings.\n\
         include_if_exists '{}'\n\
         {END}\n",
        file.display()
            .to_string()
            .replace('\\', "\\\\")
            .replace('\'', "''")
    );
    let lines: Vec<&[u8]> = old.split_inclusive(|&byte| byte == b'\n').collect();
    if let Some((begin, end)) = our_lines(&lines) {
        return [
            lines[..begin].concat(),
            ours.into_bytes(),
            lines[end + 1..].concat(),
        ]
        .concat();
    }
    let is_included = lines
        .iter()
        .filter_map(|line| included(&String::from_utf8_lossy(line)))
        .any(|included| included == file);
    let mut new = old.to_vec();
    if !is_included {
        if !new.is_empty() && !new.ends_with(b"\n") {
            new.push(b'\n');
        }
        new.extend(ours.into_bytes());
    }
    new
}

/// Where our lines are: the first and the last of them.
fn our_lines(lines: &[&[u8]]) -> Option<(usize, usize)> {
    let end = lines
        .iter()
        .position(|line| line.starts_with(END.as_bytes()))?;
    let begin = lines[..end]
        .iter()
        .rposition(|line| line.starts_with(BEGIN.as_bytes()))?;
    Some((begin, end))
}

/// The settings that stand after our lines.
fn lines_after(text: &[u8]) -> Vec<String> {
    let lines: Vec<&[u8]> = text.split_inclusive(|&byte| byte == b'\n').collect();
    let Some((_, end)) = our_lines(&lines) else {
        return Vec::new();
    };
    lines[end + 1..]
        .iter()
        .map(|line| String::from_utf8_lossy(line).trim().to_owned())
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect()
}

/// The file that a line includes, if it does.
///
/// # Source
///
/// `guc-file.l`: a name in any case, an equals sign or none, and a value in quotes, in which `''` is a
/// quote and a backslash escapes.
fn included(line: &str) -> Option<PathBuf> {
    let line = line.trim_start();
    let end = line.find(|c: char| !c.is_ascii_alphanumeric() && c != '_')?;
    let (name, rest) = line.split_at(end);
    if !["include", "include_if_exists"].contains(&name.to_ascii_lowercase().as_str()) {
        return None;
    }
    let rest = rest.trim_start();
    let rest = rest.strip_prefix('=').unwrap_or(rest).trim_start();
    let mut characters = rest.strip_prefix('\'')?.chars().peekable();
    let mut path = String::new();
    loop {
        match characters.next()? {
            '\'' if characters.peek() == Some(&'\'') => {
                characters.next();
                path.push('\'');
            }
            '\'' => return Some(path.into()),
            '\\' => path.push(characters.next()?),
            other => path.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "/etc/postgresql/main/postgresql.conf";
    const OURS: &str = "\
# BEGIN backstay: pg-init writes these lines. What stands after them wins over the declared settings.
include_if_exists '/etc/postgresql/main/postgresql.conf'
# END backstay
";

    fn with(old: &str) -> String {
        String::from_utf8(with_include(old.as_bytes(), Path::new(FILE))).unwrap()
    }

    #[test]
    fn our_lines_come_after_what_is_there_and_are_added_once() {
        assert_eq!(with(""), OURS);
        let initdb = "max_connections = 100\n#port = 5432\n";
        assert_eq!(with(initdb), format!("{initdb}{OURS}"));
        assert_eq!(with(&with(initdb)), with(initdb));
        assert_eq!(with("work_mem = 4MB"), format!("work_mem = 4MB\n{OURS}"));
    }

    #[test]
    fn the_file_of_another_instance_gives_way_and_a_persons_lines_stay() {
        let other = OURS.replace("main", "other");
        let text = format!("a = 1\n{other}b = 2\n");
        assert_eq!(with(&text), format!("a = 1\n{OURS}b = 2\n"));
        assert_eq!(lines_after(with(&text).as_bytes()), ["b = 2"]);
        assert!(lines_after(with("a = 1\n").as_bytes()).is_empty());
    }

    #[test]
    fn half_of_our_lines_never_takes_a_persons_lines_along() {
        let begin = OURS.lines().next().unwrap();
        let text = format!("{begin}\na = 1\n");
        let new = with(&text);
        assert_eq!(new, format!("{text}{OURS}"));
        assert_eq!(with(&new), new);
    }

    #[test]
    fn a_file_that_a_person_includes_is_not_included_twice() {
        for line in [
            format!("include '{FILE}'\n"),
            format!("  INCLUDE = '{FILE}' # ours\n"),
            format!("include_if_exists='{FILE}'\n"),
        ] {
            assert_eq!(with(&line), line);
        }
        for line in [
            format!("#include '{FILE}'\n"),
            format!("include '{FILE}.d'\n"),
            "include_dir 'conf.d'\n".to_owned(),
        ] {
            assert_eq!(with(&line), format!("{line}{OURS}"));
        }
    }

    #[test]
    fn a_name_with_quotes_is_read_as_it_was_written() {
        let odd = Path::new(r"/etc/it's\odd.conf");
        let text = with_include(b"", odd);
        let text = String::from_utf8(text).unwrap();
        assert!(
            text.contains(r"include_if_exists '/etc/it''s\\odd.conf'"),
            "{text}"
        );
        assert_eq!(included(text.lines().nth(1).unwrap()).unwrap(), odd);
    }

    #[test]
    fn bytes_that_are_no_text_stay() {
        let latin = b"# f\xfcr uns\nwork_mem = 4MB\n";
        let new = with_include(latin, Path::new(FILE));
        assert!(new.starts_with(latin));
    }

    #[test]
    fn a_link_is_kept_and_gives_way_to_a_file() -> Result<()> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("postgresql.conf");
        std::os::unix::fs::symlink("/nonexistent/postgresql.conf", &path)?;
        include(directory.path(), Path::new(FILE))?;
        assert_eq!(fs::read_to_string(&path)?, OURS);
        let kept = directory.path().join("postgresql.conf.before-backstay");
        assert_eq!(
            fs::read_link(kept)?,
            Path::new("/nonexistent/postgresql.conf")
        );
        include(directory.path(), Path::new(FILE))?;
        assert_eq!(fs::read_dir(directory.path())?.count(), 2);
        Ok(())
    }
}
