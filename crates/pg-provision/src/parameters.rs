//! Server parameters of a role or a database, as `ALTER … SET` stores them.

/// Parameters that hold a list of names, where a comma in the value separates and is no part of it.
///
/// # Source
///
/// PostgreSQL 18, `variable_is_guc_list_quote()` in `dumputils.c`.
const LISTS: [&str; 6] = [
    "local_preload_libraries",
    "search_path",
    "session_preload_libraries",
    "shared_preload_libraries",
    "temp_tablespaces",
    "unix_socket_directories",
];

/// The values of `SET name TO …`, each of which is quoted on its own.
#[must_use]
pub fn values(name: &str, value: &str) -> Vec<String> {
    if LISTS.contains(&name) {
        names(value)
    } else {
        vec![value.to_owned()]
    }
}

/// Whether two values of a parameter are the same to the server.
#[must_use]
pub fn same(name: &str, left: &str, right: &str) -> bool {
    values(name, left) == values(name, right)
}

/// Splits a list of names at its commas. In double quotes a comma is part of a name, and two quotes
/// are one.
fn names(list: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut name = String::new();
    let mut was_quoted = false;
    let mut in_quotes = false;
    let mut characters = list.chars().peekable();
    let finished = |name: &mut String, was_quoted: &mut bool| {
        let whole = std::mem::take(name);
        if std::mem::take(was_quoted) {
            whole
        } else {
            whole.trim().to_owned()
        }
    };
    while let Some(character) = characters.next() {
        match character {
            '"' if in_quotes && characters.peek() == Some(&'"') => {
                name.push('"');
                characters.next();
            }
            '"' => {
                if !in_quotes && name.trim().is_empty() {
                    name.clear();
                    was_quoted = true;
                }
                in_quotes = !in_quotes;
            }
            ',' if !in_quotes => names.push(finished(&mut name, &mut was_quoted)),
            ' ' if was_quoted && !in_quotes => {}
            _ => name.push(character),
        }
    }
    names.push(finished(&mut name, &mut was_quoted));
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_split_at_its_commas_and_anything_else_is_one_value() {
        assert_eq!(values("search_path", "app, public"), ["app", "public"]);
        assert_eq!(
            values("search_path", r#""$user", "a,b" ,"c""d",e"#),
            ["$user", "a,b", "c\"d", "e"]
        );
        assert_eq!(values("search_path", ""), [""]);
        assert_eq!(values("search_path", r#""""#), [""]);
        assert_eq!(values("datestyle", "ISO, DMY"), ["ISO, DMY"]);
    }

    #[test]
    fn what_the_server_stores_is_the_same_as_what_was_declared() {
        assert!(same("search_path", "app,public", "app, public"));
        assert!(same("search_path", "$user, public", "\"$user\", public"));
        assert!(!same("search_path", "app", "app, public"));
        assert!(!same("work_mem", "64MB", "65536kB"));
    }
}
