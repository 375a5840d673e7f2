use super::*;

const SMALLEST: &str = r#"{
    "instance": "main",
    "postgresql": { "binDirectory": "/pg/bin", "dataDirectory": "/var/lib/pg/15", "socketDirectory": "/run/pg" },
    "archive": { "directory": "/var/lib/pg/main-wal" }
}"#;

fn problems(text: &str) -> Vec<String> {
    match Settings::parse(text) {
        Ok(_) => Vec::new(),
        Err(Problems(problems)) => problems.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn the_smallest_file_gets_the_documented_defaults() {
    let settings = Settings::parse(SMALLEST).unwrap();
    assert_eq!(settings.postgresql.port, 5432);
    assert_eq!(settings.archive.compression.algorithm, Algorithm::Zstd);
    assert_eq!(settings.archive.compression.zstd_level(), 1);
    assert_eq!(settings.retention, Retention::default());
    assert_eq!(settings.base_backup, None);
    assert_eq!(
        settings.postgresql.log_file(),
        Path::new("/var/lib/pg/15.log")
    );
}

#[test]
fn every_problem_is_reported_at_once_with_its_key() {
    let text = r#"{
        "instance": "Main DB",
        "postgresql": { "binDirectory": "pg/bin", "dataDirectory": "/d", "socketDirectory": "/run/pg", "port": "5432" },
        "archive": {
            "directory": "/d/pg_wal/archive",
            "compresion": { "algorithm": "zstd" },
            "compression": { "algorithm": "zstd", "level": 40 },
            "furtherDirectories": ["/x/../y"]
        },
        "baseBackup": { "format": "tar", "incremental": { "chainLength": 0 } },
        "retention": { "days": 0, "daily": -1 }
    }"#;
    let mut found = problems(text);
    found.sort();
    let expected = [
        "archive.compresion: is no such key; expected one of `directory`, `compression`, `archiveDeadlineSeconds`, `workAheadSegments`, `threads`, `restoreDeadlineSeconds`, `prefetchMebibytes`, `furtherDirectories`",
        "archive.compression.level: 40 is not 1 to 19",
        "archive.directory: \"/d/pg_wal/archive\" is inside postgresql.dataDirectory",
        "archive.furtherDirectories.[0]: \"/x/../y\" contains \"..\"",
        "baseBackup.directory: is missing",
        "baseBackup.incremental.chainLength: 0 is not 1 to 100",
        "baseBackup.incremental: cannot be combined from tar files; set format to \"plain\"",
        "instance: \"Main DB\" is not 1 to 32 lower-case letters, digits and inner hyphens",
        "postgresql.binDirectory: \"pg/bin\" is not an absolute path",
        "postgresql.port: invalid type: string \"5432\", expected u16",
        "retention.daily: invalid value: integer `-1`, expected u32",
        "retention.days: 0 is not 1 to 36500",
    ];
    assert_eq!(found, expected);
}

#[test]
fn p6_a_retention_that_is_zero_negative_or_misspelt_is_refused() {
    for (retention, expected) in [
        (r#"{ "days": 0 }"#, "retention.days: 0 is not 1 to 36500"),
        (
            r#"{ "minimumGood": 0 }"#,
            "retention.minimumGood: 0 is not 1 to 36500",
        ),
        (
            r#"{ "weekly": "2w" }"#,
            "retention.weekly: invalid type: string \"2w\", expected u32",
        ),
        (
            r#"{ "days": 4294967296 }"#,
            "retention.days: invalid value: integer `4294967296`, expected u32",
        ),
    ] {
        let text = SMALLEST.trim_end().trim_end_matches('}').to_owned()
            + &format!(", \"retention\": {retention} }}");
        assert_eq!(problems(&text), [expected]);
    }
}

#[test]
fn text_that_is_not_json_says_where() {
    assert_eq!(
        problems("{ \"instance\": "),
        ["(file): is not JSON: EOF while parsing a value at line 1 column 14"]
    );
}

#[test]
fn a_directory_inside_another_is_refused_either_way() {
    let text = SMALLEST.replace("/var/lib/pg/15", "/var/lib/pg/main-wal/data");
    assert_eq!(
        problems(&text),
        ["postgresql.dataDirectory: \"/var/lib/pg/main-wal/data\" is inside archive.directory"]
    );
}

#[test]
fn what_is_written_is_what_is_read() {
    let settings = Settings::parse(SMALLEST).unwrap();
    let text = serde_json::to_string(&settings).unwrap();
    assert_eq!(Settings::parse(&text).unwrap(), settings);
}

#[test]
fn every_key_of_the_schema_is_documented() {
    fn undocumented(schema: &serde_json::Value, path: &str, found: &mut Vec<String>) {
        let Some(map) = schema.as_object() else {
            return;
        };
        for (group, members) in map {
            if (group == "properties" || group == "$defs")
                && let Some(members) = members.as_object()
            {
                for (key, member) in members {
                    let here = format!("{path}.{key}");
                    if member.get("description").is_none() {
                        found.push(here.clone());
                    }
                    undocumented(member, &here, found);
                }
            }
        }
    }
    let mut found = Vec::new();
    undocumented(&Settings::schema(), "", &mut found);
    assert_eq!(found, Vec::<String>::new());
}
