use super::*;
use crate::databases::Pattern;

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

/// The smallest file with `more` in it.
fn with(more: &str) -> String {
    SMALLEST.trim_end().trim_end_matches('}').to_owned() + &format!(", {more} }}")
}

/// The smallest file with `more` in its section `postgresql`.
fn with_server(more: &str) -> String {
    SMALLEST.replace(
        r#""socketDirectory""#,
        &format!(r#"{more}, "socketDirectory""#),
    )
}

#[track_caller]
fn assert_problems(text: &str, expected: &[&str]) {
    let mut found = problems(text);
    found.sort();
    assert_eq!(found, expected, "{text}");
}

#[test]
fn an_unknown_choice_is_answered_with_the_choices() {
    assert_problems(
        &with(r#""baseBackup": { "directory": "/b", "format": "tgz", "tarCompression": "xz" }"#),
        &[
            r#"baseBackup.format: "tgz" is not "plain" or "tar""#,
            r#"baseBackup.tarCompression: "xz" is not "none", "gzip", "lz4" or "zstd""#,
        ],
    );
    assert_problems(
        &with(
            r#""restic": [{ "name": "r", "repository": "/r", "passwordFile": "/p", "jobs": [{ "job": "all", "unit": "u.service" }] }]"#,
        ),
        &[r#"restic.[0].jobs.[0].job: "all" is not "wal" or "base""#],
    );
}

#[test]
fn a_list_is_read_to_its_end_whatever_is_wrong_with_an_entry() {
    assert_problems(
        &with(
            r#""preseed": { "sources": [
                { "kind": "ftp" },
                { "kind": "syncoid", "host": "nas", "user": "backup" },
                { "kind": "restic", "repository": "/r", "passwordFile": "p", "host": "nas" },
                { "kind": "baseBackups" },
                7
            ] }"#,
        ),
        &[
            r#"preseed.sources.[0].kind: "ftp" is not "syncoid", "local", "restic" or "baseBackups""#,
            "preseed.sources.[1].dataset: is missing",
            "preseed.sources.[1].knownHosts: is missing",
            "preseed.sources.[1].sshKeyFile: is missing",
            "preseed.sources.[1].targetDataset: is missing",
            "preseed.sources.[2].host: is no such key; expected one of `kind`, `repository`, `passwordFile`, `environmentFile`",
            r#"preseed.sources.[2].passwordFile: "p" is not an absolute path"#,
            r#"preseed.sources.[3].kind: "baseBackups" needs baseBackup.directory, which is not declared"#,
            "preseed.sources.[4]: invalid type: integer `7`, expected an object with a kind",
        ],
    );
}

#[test]
fn the_server_as_systemd_runs_it() {
    let text = with_server(
        r#""unit": "postgresql-main.service", "configFile": "/etc/postgresql/main/postgresql.conf",
           "requiredMounts": ["/var/lib/pg", "/var/lib/pg/main-wal"],
           "initdb": { "localeProvider": "icu", "arguments": ["--wal-segsize=64"] }"#,
    );
    let server = Settings::parse(&text).unwrap().postgresql;
    let initdb = server.initdb.unwrap();
    assert!(initdb.data_checksums);
    assert_eq!(initdb.encoding, "UTF8");
    assert_eq!(initdb.locale_provider, Some(LocaleProvider::Icu));
    assert_eq!(server.required_mounts.len(), 2);

    assert_problems(
        &with_server(
            r#""unit": "postgresql-main", "configFile": "/var/lib/pg/15/postgresql.conf",
               "requiredMounts": ["/m", "pool/data", "/m", "/"],
               "initdb": { "encoding": "-x", "locale": "de DE", "localeProvider": "posix",
                           "arguments": ["--pgdata=/x", "-D", "-U", "--waldir=/w", "-N", "--no-clean", "-s", "", "--set=a=b"] }"#,
        ),
        &[
            r#"postgresql.configFile: "/var/lib/pg/15/postgresql.conf" is inside postgresql.dataDirectory, which a restore replaces"#,
            r#"postgresql.initdb.arguments.[0]: "--pgdata=/x" names the data directory, which is postgresql.dataDirectory"#,
            r#"postgresql.initdb.arguments.[1]: "-D" names the data directory, which is postgresql.dataDirectory"#,
            r#"postgresql.initdb.arguments.[2]: "-U" names the superuser, which is postgresql.role"#,
            r#"postgresql.initdb.arguments.[3]: "--waldir=/w" puts WAL outside the data directory, where neither a snapshot nor a restore would find it"#,
            r#"postgresql.initdb.arguments.[4]: "-N" leaves a cluster that a power cut can destroy"#,
            r#"postgresql.initdb.arguments.[5]: "--no-clean" leaves half a cluster behind"#,
            r#"postgresql.initdb.arguments.[6]: "-s" makes no cluster"#,
            "postgresql.initdb.arguments.[7]: is empty",
            r#"postgresql.initdb.encoding: "-x" is no name of an encoding"#,
            r#"postgresql.initdb.locale: "de DE" is no name of a locale"#,
            r#"postgresql.initdb.localeProvider: "posix" is not "libc", "icu" or "builtin""#,
            r#"postgresql.requiredMounts.[1]: "pool/data" is not an absolute path"#,
            r#"postgresql.requiredMounts.[2]: "/m" is there twice"#,
            r#"postgresql.requiredMounts.[3]: "/" is the root directory"#,
            r#"postgresql.unit: "postgresql-main" is not the name of a systemd service, such as "postgresql-main.service""#,
        ],
    );
}

#[test]
fn what_is_remembered_is_kept_outside_of_what_a_restore_replaces() {
    let settings = Settings::parse(SMALLEST).unwrap();
    assert_eq!(
        settings.state_directory(),
        Path::new("/var/lib/backstay/main")
    );
    assert_problems(
        &with(
            r#""stateDirectory": "/var/lib/pg/15/state", "metrics": { "directory": "/var/lib/pg/main-wal" }, "drill": { "directory": "/var/lib/pg" }"#,
        ),
        &[
            r#"archive.directory: "/var/lib/pg/main-wal" is inside drill.directory"#,
            r#"archive.directory: "/var/lib/pg/main-wal" is metrics.directory too"#,
            r#"metrics.directory: "/var/lib/pg/main-wal" is inside drill.directory"#,
            r#"postgresql.dataDirectory: "/var/lib/pg/15" is inside drill.directory"#,
            r#"stateDirectory: "/var/lib/pg/15/state" is inside drill.directory"#,
            r#"stateDirectory: "/var/lib/pg/15/state" is inside postgresql.dataDirectory"#,
        ],
    );
}

#[test]
fn thresholds_and_objectives_have_defaults_and_ranges() {
    let settings = Settings::parse(&with(r#""healthCheck": {}, "objectives": {}"#)).unwrap();
    assert_eq!(settings.health_check, HealthCheck::default());
    assert_eq!(settings.health_check.maximum_archive_lag_seconds, 900);
    assert_eq!(settings.objectives, Objectives::default());
    assert_problems(
        &with(
            r#""objectives": { "rpoSeconds": 0, "offsiteRpoSeconds": 2592001, "rtoSeconds": 0 },
               "healthCheck": { "maximumConnectionsPercent": 101, "maximumReplicationLagSeconds": 0, "maximumBaseBackupAgeSeconds": 0, "minimumFreeBytes": -1 }"#,
        ),
        &[
            "healthCheck.maximumBaseBackupAgeSeconds: 0 is not 1 to 4294967295",
            "healthCheck.maximumConnectionsPercent: 101 is not 1 to 100",
            "healthCheck.maximumReplicationLagSeconds: 0 is not 1 to 2592000",
            "healthCheck.minimumFreeBytes: invalid value: integer `-1`, expected u64",
            "objectives.offsiteRpoSeconds: 2592001 is not 1 to 2592000",
            "objectives.rpoSeconds: 0 is not 1 to 2592000",
            "objectives.rtoSeconds: 0 is not 1 to 2592000",
        ],
    );
}

const SYNCOID: &str = r#"{ "kind": "syncoid", "host": "nas", "user": "backup", "dataset": "tank/copies/main",
    "targetDataset": "tank/pg/main", "sshKeyFile": "/run/credentials/u/key", "knownHosts": "nas ssh-ed25519 AAAA" }"#;

#[test]
fn every_kind_of_source_is_read() {
    let text = with(&format!(
        r#""baseBackup": {{ "directory": "/b" }}, "preseed": {{ "choose": "freshest", "sources": [ {SYNCOID},
            {{ "kind": "local", "dataset": "tank/pg/main", "archiveDataset": "tank/pg/main-wal" }},
            {{ "kind": "restic", "repository": "sftp:nas:/r", "passwordFile": "/p" }},
            {{ "kind": "baseBackups" }} ] }}"#
    ));
    let settings = Settings::parse(&text).unwrap();
    let preseed = settings.preseed.clone().unwrap();
    assert_eq!(preseed.choose, Choose::Freshest);
    assert_eq!(preseed.target, "latest");
    assert!(preseed.clear_replication_slots && !preseed.allow_empty_start_without_proof);
    let [
        PreseedSource::Syncoid(syncoid),
        PreseedSource::Local { dataset, .. },
        PreseedSource::Restic(restic),
        PreseedSource::BaseBackups,
    ] = preseed.sources.as_slice()
    else {
        panic!("{:?}", preseed.sources);
    };
    assert_eq!((syncoid.ssh.port, syncoid.archive.as_ref()), (22, None));
    assert_eq!(dataset, "tank/pg/main");
    assert_eq!(restic.environment_file, None);
    let written = serde_json::to_string(&settings).unwrap();
    assert_eq!(Settings::parse(&written).unwrap(), settings);
}

#[test]
fn a_source_that_nothing_could_be_fetched_from_is_refused() {
    let text = with(&format!(
        r#""preseed": {{ "deadlineSeconds": 0, "asStandby": true, "target": "lsn:0/3000000", "sources": [
            {SYNCOID}, {SYNCOID}, {bad},
            {{ "kind": "syncoid", "archiveDataset": "tank/wal" }} ] }}"#,
        bad = r#"{ "kind": "syncoid", "host": "-oProxyCommand=x", "user": "a b", "port": 0, "dataset": "tank", "targetDataset": "tank//x",
            "sshKeyFile": "key", "knownHosts": "nas\nother", "sendOptions": "", "archiveDataset": "a/b", "archiveTargetDataset": "1/b" }"#
    ));
    assert_problems(
        &text,
        &[
            "preseed.asStandby: a standby follows its primary and has no target; leave out target",
            "preseed.deadlineSeconds: 0 is not 1 to 2592000",
            "preseed.sources.[1]: is the same as one before it",
            r#"preseed.sources.[2].archiveTargetDataset: "1/b" is no name of a dataset"#,
            r#"preseed.sources.[2].host: "-oProxyCommand=x" is no name of a host"#,
            r#"preseed.sources.[2].knownHosts: "nas\nother" is not one line with a host, a kind of key and the key"#,
            "preseed.sources.[2].port: 0 is no port; use 1 to 65535",
            "preseed.sources.[2].sendOptions: is empty",
            r#"preseed.sources.[2].sshKeyFile: "key" is not an absolute path"#,
            r#"preseed.sources.[2].targetDataset: "tank//x" is no name of a dataset"#,
            r#"preseed.sources.[2].user: "a b" is no name of a user"#,
            "preseed.sources.[3].archiveTargetDataset: is missing",
            "preseed.sources.[3].dataset: is missing",
            "preseed.sources.[3].host: is missing",
            "preseed.sources.[3].knownHosts: is missing",
            "preseed.sources.[3].sshKeyFile: is missing",
            "preseed.sources.[3].targetDataset: is missing",
            "preseed.sources.[3].user: is missing",
        ],
    );
    assert_problems(
        &with(r#""preseed": { "sources": [] }"#),
        &["preseed.sources: is empty; name a source or leave out preseed"],
    );
}

#[test]
fn a_declared_target_means_the_same_whenever_it_is_read() {
    for target in [
        "latest",
        "immediate",
        "lsn:0/3000000",
        "xid:742",
        "name:before_upgrade",
        "2036-10-11 14:30 Europe/Berlin",
    ] {
        let text = with(&format!(
            r#""recovery": {{ "id": "2026-10-11", "target": "{target}", "timeline": "3" }}"#
        ));
        assert_problems(&text, &[]);
    }
    for (recovery, expected) in [
        (
            r#"{ "id": "a", "target": "10 minutes ago" }"#,
            r#"recovery.target: "10 minutes ago" would mean another moment each time it is read; write the time itself, with its zone"#,
        ),
        (
            r#"{ "id": "a", "target": "2026-10-11 14:30" }"#,
            r#"recovery.target: "2026-10-11 14:30" has no time zone; add one: "2026-10-11 14:30 Europe/Berlin", "2026-10-11 14:30+02:00" or "2026-10-11 14:30 UTC""#,
        ),
        (
            r#"{ "id": "a", "target": "latest", "exclusive": true }"#,
            r#"recovery.exclusive: has no effect on target "latest"; it is for a time, a transaction or an LSN"#,
        ),
        (
            r#"{ "id": "../a", "target": "latest" }"#,
            r#"recovery.id: "../a" is not 1 to 64 letters, digits, dots, hyphens and underscores"#,
        ),
        (r#"{ "target": "latest" }"#, "recovery.id: is missing"),
        (
            r#"{ "id": "a", "target": "latest", "timeline": "newest" }"#,
            r#"recovery.timeline: "newest" is not latest, current or a number from 1 on"#,
        ),
    ] {
        assert_problems(&with(&format!(r#""recovery": {recovery}"#)), &[expected]);
    }
}

#[test]
fn copies_and_rehearsals_name_what_they_need() {
    let text = with(
        r#""restic": [
                { "name": "nas", "repository": "/r", "passwordFile": "/p", "environmentFile": "/e",
                  "jobs": [ { "job": "wal", "unit": "restic-backups-postgresql-main-wal.service" }, { "job": "base", "unit": "b.service" } ] },
                { "name": "cloud", "repository": "s3:https://s3.example/bucket", "passwordFile": "/p" } ],
           "snapshots": { "dataset": "tank/pg/main", "archiveDataset": "tank/pg/main-wal", "replicas": [
                { "content": "data", "dataset": "vault/main", "unit": "syncoid-tank-pg-main.service" },
                { "content": "wal", "dataset": "b/main-wal", "unit": "syncoid-tank-pg-main-wal.service", "ssh":
                  { "host": "nas", "user": "backup", "sshKeyFile": "/k", "knownHosts": "nas ssh-ed25519 AAAA" } } ] },
           "drill": { "directory": "/drill", "sources": ["local", "restic", "snapshot"],
                      "checks": [ { "database": "app", "query": "select count(*) > 0 from orders" } ],
                      "canary": {} }"#,
    );
    let settings = Settings::parse(&text).unwrap();
    let snapshots = settings.snapshots.unwrap();
    assert_eq!(snapshots.dataset, "tank/pg/main");
    let [here, there] = snapshots.replicas.as_slice() else {
        panic!("{:?}", snapshots.replicas);
    };
    assert_eq!((here.content, &here.ssh), (ReplicaContent::Data, &None));
    assert_eq!(there.ssh.as_ref().unwrap().port, 22);
    let drill = settings.drill.unwrap();
    assert_eq!(drill.deadline_seconds, 14_400);
    let canary = drill.canary.unwrap();
    assert_eq!(
        (canary.database.as_str(), canary.interval_seconds),
        ("backstay_canary", 5)
    );

    assert_problems(
        &with(
            r#""restic": [
                { "name": "a", "repository": "", "passwordFile": "p",
                  "jobs": [ { "job": "wal", "unit": "x" }, { "job": "wal", "unit": "y.service" } ] },
                { "name": "a", "repository": "/r", "passwordFile": "/p", "environmentFile": "../e" } ],
               "snapshots": { "dataset": "tank/a", "archiveDataset": "tank/a", "replicas": [
                    { "content": "data", "dataset": "1/b", "unit": "x" },
                    { "content": "data", "dataset": "b", "unit": "x.service", "ssh":
                      { "host": "-o", "user": "a", "port": 0, "sshKeyFile": "k", "knownHosts": "nas" } } ] },
               "drill": { "directory": "/drill", "sources": ["local", "local"], "deadlineSeconds": 0,
                          "checks": [ { "database": "", "query": " " } ],
                          "canary": { "database": "postgres", "intervalSeconds": 0, "rowsKept": 1 } }"#,
        ),
        &[
            r#"drill.canary.database: "postgres" is a database of PostgreSQL's own; the canary has one to itself"#,
            "drill.canary.intervalSeconds: 0 is not 1 to 3600",
            "drill.canary.rowsKept: 1 is not 2 to 1000000",
            "drill.checks.[0].database: is empty",
            "drill.checks.[0].query: is empty",
            "drill.deadlineSeconds: 0 is not 1 to 2592000",
            r#"drill.sources.[1]: "local" is there twice"#,
            r#"restic.[0].jobs.[0].unit: "x" is not the name of a systemd service"#,
            "restic.[0].jobs.[1].job: is the same as one before it",
            r#"restic.[0].passwordFile: "p" is not an absolute path"#,
            "restic.[0].repository: is empty",
            r#"restic.[1].environmentFile: "../e" is not an absolute path"#,
            r#"restic.[1].name: "a" is there twice"#,
            r#"snapshots.archiveDataset: "tank/a" is snapshots.dataset too"#,
            r#"snapshots.replicas.[0].dataset: "1/b" is no name of a dataset"#,
            r#"snapshots.replicas.[0].unit: "x" is not the name of a systemd service"#,
            r#"snapshots.replicas.[1].content: "data" is there twice"#,
            r#"snapshots.replicas.[1].ssh.host: "-o" is no name of a host"#,
            r#"snapshots.replicas.[1].ssh.knownHosts: "nas" is not one line with a host, a kind of key and the key"#,
            "snapshots.replicas.[1].ssh.port: 0 is no port; use 1 to 65535",
            r#"snapshots.replicas.[1].ssh.sshKeyFile: "k" is not an absolute path"#,
        ],
    );
    assert_problems(
        &with(r#""drill": { "directory": "/drill", "sources": ["restic", "snapshot"] }"#),
        &[
            r#"drill.sources.[0]: "restic" needs the section restic, which is not declared"#,
            r#"drill.sources.[1]: "snapshot" needs the section snapshots, which is not declared"#,
        ],
    );
}

#[test]
fn a_declaration_of_databases_is_read() {
    let text = with(
        r#""databases": {
            "stampFile": "/var/lib/postgresql/provisioning/provisioned.sha256",
            "roles": {
                "app": { "passwordFile": "password-app", "memberOf": ["pg_monitor", "team"] },
                "team": { "login": false }, "reader": {}
            },
            "declared": {
                "app": {
                    "owner": "app", "extensions": [{ "name": "pg_trgm" }, { "name": "hstore", "version": "1.8" }],
                    "permissionsPolicy": "ownerReadwriteReadonlySelect", "readonlyRole": "reader",
                    "permissions": { "reader": ["SELECT"] },
                    "databasePermissions": { "team": ["CONNECT", "TEMP"] },
                    "tablePermissions": { "public.orders": { "team": ["SELECT", "INSERT"] }, "public.*": { "postgres": ["ALL"] } },
                    "defaultPrivileges": { "mine": { "owner": "app", "sequences": { "team": ["USAGE"] } } },
                    "dump": { "directory": "/dumps" }
                }
            }
        }"#,
    );
    let settings = Settings::parse(&text).unwrap();
    let databases = settings.databases.clone().unwrap();
    assert_eq!(databases.ready_deadline_seconds, 900);
    let app = &databases.declared["app"];
    assert!(app.managed);
    assert!(app.database_permissions["team"].contains(&databases::Privilege::Temporary));
    let written = serde_json::to_string(&settings).unwrap();
    assert_eq!(Settings::parse(&written).unwrap(), settings);
}

#[test]
fn a_declaration_of_databases_that_cannot_be_brought_about_is_refused() {
    let long = "x".repeat(64);
    let text = with(&format!(
        r#""databases": {{
            "stampFile": "stamp", "lockDeadlineSeconds": 0,
            "roles": {{
                "pg_mine": {{}}, "postgres": {{}}, "public": {{}}, "{long}": {{}},
                "app": {{ "passwordFile": "secrets/app", "memberOf": ["app", "nobody"], "settings": {{ "role": "x", "a b": "c" }}, "connectionLimit": 262144 }}
            }},
            "declared": {{
                "template1": {{}},
                "a": {{ "owner": "ghost", "template": "b", "locale": "de", "readonlyRole": "app" }},
                "b": {{ "template": "a", "permissionsPolicy": "ownerReadwriteReadonlySelect", "permissionsPolice": "x" }},
                "c": {{
                    "permissions": {{ "ghost": ["SELECT"] }},
                    "databasePermissions": {{ "app": ["SELECT"] }},
                    "schemaPermissions": {{ "public": {{ "app": ["EXECUTE"] }} }},
                    "tablePermissions": {{ "orders": {{ "app": ["CONNECT"] }} }},
                    "functionPermissions": {{ "public.f": {{ "app": ["SELECT"] }} }},
                    "defaultPrivileges": {{ "x": {{ "owner": "ghost", "tables": {{ "app": ["USAGE"] }}, "functions": {{ "app": ["SELECT"] }} }} }},
                    "extensions": [{{ "name": "a", "version": "1", "updateToLatest": true }}, {{ "name": "a" }}, {{ "version": "1" }}],
                    "initScripts": ["a.sql"], "migrations": "m",
                    "dump": {{ "directory": "/var/lib/pg/main-wal/dumps", "daily": 0 }}
                }},
                "d": {{ "tablePermissions": {{ "public.t": {{ "app": ["READ"] }} }} }}
            }}
        }}"#
    ));
    let found = {
        let mut found = problems(&text);
        found.sort();
        found
    };
    let long_role = format!(
        "databases.roles.{long}: \"{long}\" is not 1 to 63 bytes without control characters"
    );
    let expected = [
        "databases.declared.a.locale: has no effect with the provider libc; set collation and lcCtype",
        r#"databases.declared.a.owner: role "ghost" is not in databases.roles"#,
        "databases.declared.a.readonlyRole: has no effect without the policy ownerReadwriteReadonlySelect",
        r#"databases.declared.a.template: "a" would be a copy of itself, by way of a, b"#,
        "databases.declared.b.readonlyRole: is missing; the policy ownerReadwriteReadonlySelect needs it",
        r#"databases.declared.b.template: "b" would be a copy of itself, by way of b, a"#,
        "databases.declared.c.databasePermissions.app: SELECT is no right on a database",
        "databases.declared.c.defaultPrivileges.x.functions.app: SELECT is no right on functions",
        r#"databases.declared.c.defaultPrivileges.x.owner: role "ghost" is not in databases.roles"#,
        "databases.declared.c.defaultPrivileges.x.tables.app: USAGE is no right on tables",
        r#"databases.declared.c.dump.directory: "/var/lib/pg/main-wal/dumps" is inside archive.directory"#,
        "databases.declared.c.dump: daily, weekly and monthly are all 0: no dump would be kept",
        "databases.declared.c.extensions.[0].updateToLatest: has no effect beside a version",
        r#"databases.declared.c.extensions.[1].name: "a" is there twice"#,
        "databases.declared.c.extensions.[2].name: is missing",
        "databases.declared.c.functionPermissions.public.f.app: SELECT is no right on a function",
        r#"databases.declared.c.initScripts.[0]: "a.sql" is not an absolute path"#,
        r#"databases.declared.c.migrations: "m" is not an absolute path"#,
        r#"databases.declared.c.permissions.ghost: role "ghost" is not in databases.roles"#,
        "databases.declared.c.schemaPermissions.public.app: EXECUTE is no right on a schema",
        "databases.declared.c.tablePermissions.orders.app: CONNECT is no right on a table, a view or a sequence",
        r#"databases.declared.c.tablePermissions.orders: "orders" is not schema.name or schema.*"#,
        r#"databases.declared.d.tablePermissions.public.t.app.[0]: "READ" is not "ALL", "CONNECT", "TEMP", "TEMPORARY", "CREATE", "USAGE", "SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER", "MAINTAIN" or "EXECUTE""#,
        "databases.declared.template1: is reserved by PostgreSQL",
        "databases.lockDeadlineSeconds: 0 is not 1 to 86400",
        "databases.roles.app.connectionLimit: 262144 is not 0 to 262143",
        "databases.roles.app.memberOf: a role is no member of itself",
        r#"databases.roles.app.memberOf: role "nobody" is not in databases.roles"#,
        r#"databases.roles.app.passwordFile: "secrets/app" is neither an absolute path nor the name of a credential"#,
        r#"databases.roles.app.settings: "a b" is no name of a server parameter"#,
        r#"databases.roles.app.settings: "role" makes a session that of another role"#,
        "databases.roles.pg_mine: is reserved by PostgreSQL",
        "databases.roles.postgres: is the role of the programs, which is left as it is",
        "databases.roles.public: is reserved by PostgreSQL",
        &long_role,
        r#"databases.stampFile: "stamp" is not an absolute path"#,
    ];
    let without_unknown: Vec<&str> = found
        .iter()
        .map(String::as_str)
        .filter(|problem| !problem.starts_with("databases.declared.b.permissionsPolice: "))
        .collect();
    assert_eq!(without_unknown, expected);
    assert_eq!(found.len(), expected.len() + 1, "the misspelt key is named");
}

#[test]
fn a_pattern_of_names_is_exact() {
    let some = |name: &str| Some(name.to_owned());
    for (text, schema, name) in [
        ("public.orders", some("public"), some("orders")),
        ("public.*", some("public"), None),
        ("*.*", None, None),
        ("Public.Orders", some("Public"), some("Orders")),
        (r#""a.b"."c""d*""#, some("a.b"), some("c\"d*")),
    ] {
        assert_eq!(text.parse(), Ok(Pattern { schema, name }), "{text}");
    }
    for text in [
        "orders", "*.orders", "a.b.c", "a.", ".b", "", "a.*b", r#""a.b"#, r#""".a"#, "a.b\"c\"",
    ] {
        assert!(text.parse::<Pattern>().is_err(), "{text}");
    }
}

#[test]
fn the_datasets_are_read_and_their_problems_named() {
    let text = r#"{
        "containers": ["tank/services"],
        "datasets": [
            { "name": "tank/services/pg", "mountpoint": "none" },
            { "name": "tank/services/pg/main", "mountpoint": "/var/lib/postgresql/main", "owner": "postgres", "group": "postgres",
              "mode": "0700", "properties": { "compression": "lz4", "com.sun:auto-snapshot": "false" }, "purpose": "data" }
        ]
    }"#;
    let datasets = Datasets::parse(text).unwrap();
    assert_eq!(datasets.datasets[0].mountpoint, Mountpoint::None);
    assert_eq!(
        datasets.datasets[1].mountpoint,
        Mountpoint::At("/var/lib/postgresql/main".into())
    );
    let written = serde_json::to_string(&datasets).unwrap();
    assert_eq!(Datasets::parse(&written).unwrap(), datasets);

    let wrong = r#"{
        "containers": ["tank", "tank/a", "tank/a"],
        "datasets": [
            { "name": "tank/a/b", "mountpoint": "/srv", "mode": "rwx", "properties": { "sync": "disabled", "mountpoint": "/x", "Name": "", "atime": "off" } },
            { "name": "tank/c", "mountpoint": "legacy", "owner": "postgres" },
            { "name": "tank/d/e", "mountpoint": "/srv" },
            { "name": "tank/f", "mountpoint": "/srv/f" },
            { "name": "tank/a/b/g", "mountpoint": "/srv/g" },
            { "name": "a b", "mountpoint": "srv" },
            { "mountpoint": "none" }
        ]
    }"#;
    let mut found: Vec<String> = Datasets::parse(wrong)
        .unwrap_err()
        .0
        .iter()
        .map(ToString::to_string)
        .collect();
    found.sort();
    assert_eq!(
        found,
        [
            r#"containers.[0]: "tank" is a pool, which is never made or changed"#,
            r#"containers.[2]: "tank/a" is containers.[1] too"#,
            r#"datasets.[0].mode: "rwx" is not three or four octal digits"#,
            "datasets.[0].properties.Name: is empty",
            "datasets.[0].properties.Name: is no name of a property",
            "datasets.[0].properties.mountpoint: is the key mountpoint",
            r#"datasets.[0].properties.sync: "disabled" lets a power cut undo what PostgreSQL was told is durable"#,
            r#"datasets.[1].owner: has no effect with mountpoint "legacy""#,
            r#"datasets.[2].mountpoint: "/srv" is that of "tank/a/b" too"#,
            r#"datasets.[2].name: "tank/d" above it is neither a container nor a dataset"#,
            r#"datasets.[3].mountpoint: "/srv/f" is inside that of "tank/a/b", of which "tank/f" is no child"#,
            r#"datasets.[3].mountpoint: "/srv/f" is inside that of "tank/d/e", of which "tank/f" is no child"#,
            r#"datasets.[4].mountpoint: "/srv/g" is inside that of "tank/d/e", of which "tank/a/b/g" is no child"#,
            r#"datasets.[5].mountpoint: "srv" is not an absolute path"#,
            r#"datasets.[5].name: "a b" is no name of a dataset"#,
            "datasets.[6].name: is missing",
        ]
    );
}

#[test]
fn the_notifications_are_read_and_their_problems_named() {
    let text = r#"{
        "hostName": "forge", "stateDirectory": "/var/lib/backstay-notify", "apprise": "/usr/bin/apprise",
        "backends": {
            "apprise": { "urlCredential": "apprise-url" },
            "ntfy": { "server": "https://ntfy.example:8443", "topic": "alerts" },
            "healthchecks": { "baseUrl": "https://hc.example/ping", "uuidCredential": "uuid" }
        },
        "templates": { "backup-failure": { "backends": ["ntfy", "healthchecks"], "priority": "emergency", "title": "{unit} on {host}", "body": "{log}\n{ not one }" } }
    }"#;
    let notifications = Notifications::parse(text).unwrap();
    assert_eq!(notifications.retry_attempts, 3);
    assert!(notifications.backends.has(notifications::Backend::Ntfy));
    let written = serde_json::to_string(&notifications).unwrap();
    assert_eq!(Notifications::parse(&written).unwrap(), notifications);

    let wrong = r#"{
        "hostName": "", "stateDirectory": "state", "apprise": "/usr/bin/apprise", "retryAttempts": 0, "timeoutSeconds": 0,
        "backends": { "ntfy": { "server": "ntfy.example", "topic": "a/b", "tokenCredential": "../token" }, "pushover": { "tokenCredential": "t" } },
        "templates": { "a:b": { "backends": ["ntfy", "ntfy", "apprise", "mail"], "priority": "loud", "title": " ", "body": "{secret}" } }
    }"#;
    let mut found: Vec<String> = Notifications::parse(wrong)
        .unwrap_err()
        .0
        .iter()
        .map(ToString::to_string)
        .collect();
    found.sort();
    assert_eq!(
        found,
        [
            r#"backends.ntfy.server: "ntfy.example" is not https:// or http:// and a host"#,
            r#"backends.ntfy.tokenCredential: "../token" is no name of a credential"#,
            r#"backends.ntfy.topic: "a/b" is no name of a topic"#,
            "backends.pushover.userKeyCredential: is missing",
            "hostName: is empty",
            "retryAttempts: 0 is not 1 to 100",
            r#"stateDirectory: "state" is not an absolute path"#,
            "templates.a:b.backends.[1]: is there twice",
            "templates.a:b.backends.[2]: is not in backends",
            r#"templates.a:b.backends.[3]: "mail" is not "apprise", "pushover", "ntfy" or "healthchecks""#,
            "templates.a:b.body: {secret} is no placeholder; there are {description}, {host}, {log}, {result}, {status}, {time}, {unit}",
            r#"templates.a:b.priority: "loud" is not "silent", "low", "normal", "high" or "emergency""#,
            "templates.a:b.title: is empty",
            "templates.a:b: is not named by 1 to 64 letters, digits, dots, hyphens and underscores",
            "timeoutSeconds: 0 is not 1 to 3600",
        ]
    );
}

#[test]
fn the_stand_ins_are_a_file_that_can_be_read() {
    // What a stand-in lacks would be a problem that no round of reading can remove.
    let mut stand_ins: serde_json::Value =
        serde_json::from_str(&STAND_INS.replace("\"*\"", "\"any\"")).unwrap();
    let sources = stand_ins["preseed"]["sources"].as_array_mut().unwrap();
    sources.truncate(1);
    assert_eq!(problems(&stand_ins.to_string()), Vec::<String>::new());
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
    for schema in [
        Settings::schema(),
        Datasets::schema(),
        Notifications::schema(),
    ] {
        undocumented(&schema, "", &mut found);
    }
    assert_eq!(found, Vec::<String>::new());
}
