use super::*;

use instance_state::Reach;
use tool::hint_of;
use wal::{ControlFile, SegmentSize, TimelineId};

const DATA: &str = "/var/lib/postgresql/main/16";
const OWN: SystemIdentifier = SystemIdentifier(7_710_581_305_782_851_992);
const OTHER: SystemIdentifier = SystemIdentifier(7_710_000_000_000_000_001);

/// The settings of an instance that may be begun, with `more` sections.
fn settings(more: &str) -> Settings {
    let text = format!(
        r#"{{
            "instance": "main",
            "postgresql": {{
                "binDirectory": "/pg/bin", "dataDirectory": "{DATA}", "socketDirectory": "/run/postgresql",
                "initdb": {{}}
            }},
            "archive": {{ "directory": "/var/lib/postgresql/main-wal" }},
            "baseBackup": {{ "directory": "/var/backup/postgresql/main" }}
            {more}
        }}"#
    );
    Settings::parse(&text).unwrap()
}

/// A new machine: nothing anywhere.
fn new_machine() -> Facts {
    Facts {
        data: Data::Absent,
        restore: None,
        archive: ArchiveFound::Nothing,
        base_backups: Some(BaseBackupsFound::Nothing),
        record: None,
        rolled_back: None,
        preseed: None,
        programs_major: 16,
        beside: Vec::new(),
    }
}

fn whole_cluster() -> ClusterFound {
    ClusterFound {
        mode: 0o700,
        major: Ok(16),
        control: Ok(ControlFile {
            system_identifier: OWN,
            control_version: 1300,
            catalog_version: 202_307_071,
            state: wal::control::ClusterState::ShutDown,
            written_seconds: 1_791_700_000,
            checkpoint: wal::Lsn(0x0100_0028),
            redo: wal::Lsn(0x0100_0028),
            timeline: TimelineId::FIRST,
            segment_size: Some(SegmentSize::DEFAULT),
            checksum_verified: true,
        }),
        has_wal: true,
        is_running: false,
        missing_tablespaces: Vec::new(),
    }
}

/// A machine in use: a cluster whose archive and base backups are there.
fn in_use() -> Facts {
    Facts {
        data: Data::Cluster(Box::new(whole_cluster())),
        archive: ArchiveFound::Archive {
            clusters: vec![OTHER, OWN],
            holds: Some("/var/lib/postgresql/main-wal/1/000000010000000000000001".into()),
        },
        base_backups: Some(BaseBackupsFound::Ours {
            holds: Some("/var/backup/postgresql/main/20261121-020000".into()),
        }),
        record: Some(record(OWN)),
        ..new_machine()
    }
}

fn record(system_identifier: SystemIdentifier) -> InstanceRecord {
    InstanceRecord {
        format: InstanceRecord::FORMAT,
        system_identifier,
        postgres_major: 16,
        data_directory: DATA.into(),
        archive_directory: "/var/lib/postgresql/main-wal".into(),
        base_backup_directory: Some("/var/backup/postgresql/main".into()),
        since: "2026-11-21T00:00:00Z".into(),
        archived: None,
    }
}

#[track_caller]
fn assert_refused(settings: &Settings, facts: &Facts, what: &str, hint: &str) {
    let err = decide(settings, facts).unwrap_err();
    assert_eq!(err.to_string(), what);
    assert_eq!(hint_of(&err), Some(hint));
}

const RESTORE: &str = "bring it back with `backstay restore main --to latest`, or declare a preseed, which does so before the first start";

#[test]
fn a_new_machine_gets_a_cluster() {
    for data in [Data::Absent, Data::Empty] {
        let facts = Facts {
            data,
            ..new_machine()
        };
        let decision = decide(&settings(""), &facts).unwrap();
        assert_eq!(
            decision,
            Decision {
                make_cluster: true,
                archive: ArchiveStep::Init,
                base_backups: BaseBackupStep::Init,
                warnings: Vec::new(),
            }
        );
        assert_eq!(
            decision.text(&settings("")),
            "make     a new cluster in /var/lib/postgresql/main/16\n\
             begin    the archive in /var/lib/postgresql/main-wal\n\
             begin    the base backups in /var/backup/postgresql/main\n"
        );
    }
}

#[test]
fn an_archive_of_which_nothing_is_left_to_lose_takes_the_new_cluster() {
    let facts = Facts {
        archive: ArchiveFound::Archive {
            clusters: vec![OTHER],
            holds: None,
        },
        base_backups: Some(BaseBackupsFound::Ours { holds: None }),
        ..new_machine()
    };
    let decision = decide(&settings(""), &facts).unwrap();
    assert!(decision.make_cluster);
    assert_eq!(decision.archive, ArchiveStep::Admit { replaces: OTHER });
    assert_eq!(
        decision.base_backups,
        BaseBackupStep::Leave { marked: true }
    );
}

#[test]
fn s9_no_cluster_is_made_where_the_archive_or_the_base_backups_hold_one() {
    let archive = Facts {
        archive: ArchiveFound::Archive {
            clusters: vec![OTHER],
            holds: Some("/var/lib/postgresql/main-wal/1/000000010000000000000001".into()),
        },
        ..new_machine()
    };
    assert_refused(
        &settings(""),
        &archive,
        "there is no cluster in \"/var/lib/postgresql/main/16\", and the archive holds data of one, \
         \"/var/lib/postgresql/main-wal/1/000000010000000000000001\" for example",
        &format!("{RESTORE}; if it may be lost, move the archive away and begin with an empty one"),
    );
    let base_backups = Facts {
        base_backups: Some(BaseBackupsFound::Ours {
            holds: Some("/var/backup/postgresql/main/20261121-020000".into()),
        }),
        ..new_machine()
    };
    assert_refused(
        &settings(""),
        &base_backups,
        "there is no cluster in \"/var/lib/postgresql/main/16\", and the directory of the base backups holds data of one, \
         \"/var/backup/postgresql/main/20261121-020000\" for example",
        &format!(
            "{RESTORE}; if it may be lost, move the directory of the base backups away and begin with an empty one"
        ),
    );
}

#[test]
fn s4_no_cluster_is_made_where_there_was_one() {
    let facts = Facts {
        record: Some(record(OTHER)),
        ..new_machine()
    };
    assert_refused(
        &settings(""),
        &facts,
        "there is no cluster in \"/var/lib/postgresql/main/16\", and there was one: system identifier \
         7710000000000000001, PostgreSQL 16, in \"/var/lib/postgresql/main/16\"",
        &format!(
            "is everything mounted? {RESTORE}; if it may be lost, remove \"/var/lib/backstay/main/instance.json\""
        ),
    );
}

#[test]
fn a_cluster_of_another_version_beside_it_is_not_passed_over() {
    let facts = Facts {
        beside: vec!["/var/lib/postgresql/main/15".into()],
        ..new_machine()
    };
    assert_refused(
        &settings(""),
        &facts,
        "there is no cluster in \"/var/lib/postgresql/main/16\", and \"/var/lib/postgresql/main/15\" beside it is one",
        "a new version takes over the old one's data with pg_upgrade; to go on as before, declare the old version, or give the directory its name back",
    );
}

#[test]
fn s19_no_cluster_is_made_before_the_preseed_has_shown_that_there_is_nothing() {
    let with_preseed =
        settings(r#", "preseed": { "sources": [{ "kind": "local", "dataset": "tank/pg" }] }"#);
    for preseed in [
        None,
        Some(PreseedOutcome::Begun),
        Some(PreseedOutcome::Failed),
        Some(PreseedOutcome::Restored),
    ] {
        let facts = Facts {
            preseed,
            ..new_machine()
        };
        assert_refused(
            &with_preseed,
            &facts,
            "there is no cluster in \"/var/lib/postgresql/main/16\", and the preseed has not shown that its sources hold none",
            "see what it says: `journalctl --unit=preseed-postgresql-main.service`",
        );
    }
    for preseed in [
        PreseedOutcome::NothingToRestore,
        PreseedOutcome::EmptyWithoutProof,
    ] {
        let facts = Facts {
            preseed: Some(preseed),
            ..new_machine()
        };
        assert!(decide(&with_preseed, &facts).unwrap().make_cluster);
    }
}

#[test]
fn no_cluster_is_made_where_a_recovery_is_declared_or_making_one_is_not() {
    assert_refused(
        &settings(r#", "recovery": { "id": "a", "target": "latest" }"#),
        &new_machine(),
        "there is no cluster in \"/var/lib/postgresql/main/16\", and recovery \"a\" is declared, which needs one",
        &format!("{RESTORE}; or leave out recovery"),
    );
    let mut without_initdb = settings("");
    without_initdb.postgresql.initdb = None;
    assert_refused(
        &without_initdb,
        &new_machine(),
        "there is no cluster in \"/var/lib/postgresql/main/16\", and the settings do not say how to make one",
        &format!("declare postgresql.initdb to begin with an empty one, or {RESTORE}"),
    );
}

#[test]
fn directories_that_hold_something_else_are_refused() {
    let facts = Facts {
        archive: ArchiveFound::SomethingElse("/var/lib/postgresql/main-wal/photos/1.jpg".into()),
        ..new_machine()
    };
    assert_refused(
        &settings(""),
        &facts,
        "\"/var/lib/postgresql/main-wal\" holds \"photos/1.jpg\" and no archive.json, so it is not known whose archive it is",
        "name an empty directory as archive.directory, or restore the archive's manifest",
    );
    let facts = Facts {
        base_backups: Some(BaseBackupsFound::SomethingElse(
            "/var/backup/postgresql/main/dump.sql".into(),
        )),
        ..new_machine()
    };
    assert_refused(
        &settings(""),
        &facts,
        "\"/var/backup/postgresql/main\" holds \"dump.sql\" and does not say whose base backups they are",
        "name an empty directory as baseBackup.directory, or restore .backstay/repository.json in it",
    );
}

#[test]
fn s7_a_data_directory_that_is_no_cluster_and_not_empty_is_refused() {
    for (data, what, hint) in [
        (
            Data::SomethingElse("/var/lib/postgresql/main/16/base".into()),
            "\"/var/lib/postgresql/main/16\" holds \"base\" and no PG_VERSION: it is no cluster, and not empty",
            "move what does not belong there away; nothing is ever removed",
        ),
        (
            Data::EmptyMountPoint,
            "\"/var/lib/postgresql/main/16\" is a mount point, which cannot be renamed",
            "make the data directory a directory below the mount, so that a restore can keep the old cluster beside the new one",
        ),
        (
            Data::NoDirectory,
            "\"/var/lib/postgresql/main/16\" is a link or a file",
            "name the directory itself as postgresql.dataDirectory; a restore gives it another name",
        ),
        (
            Data::OfAnotherUser {
                owner: "root".into(),
                user: "postgres".into(),
            },
            "\"/var/lib/postgresql/main/16\" belongs to user \"root\", the server runs as \"postgres\"",
            "if it is this instance's, give it to its user: `chown -R postgres: /var/lib/postgresql/main/16`",
        ),
    ] {
        let facts = Facts {
            data,
            ..new_machine()
        };
        assert_refused(&settings(""), &facts, what, hint);
    }
}

#[test]
fn s1_a_cluster_in_use_is_left_alone() {
    let decision = decide(&settings(""), &in_use()).unwrap();
    assert_eq!(
        decision,
        Decision {
            make_cluster: false,
            archive: ArchiveStep::Leave,
            base_backups: BaseBackupStep::Leave { marked: true },
            warnings: Vec::new(),
        }
    );
    assert_eq!(
        decision.text(&settings("")),
        "use      the cluster in /var/lib/postgresql/main/16\n"
    );
}

#[test]
fn a_cluster_that_is_an_older_state_of_itself_is_refused() {
    let reach = |timeline, lsn| Reach {
        timeline: TimelineId::new(timeline).unwrap(),
        lsn: wal::Lsn(lsn),
    };
    let facts = Facts {
        rolled_back: Some(RolledBack {
            own: reach(1, 0x0200_0000),
            archived: reach(2, 0x0100_0000),
            by: "/var/lib/backstay/main/instance.json".into(),
        }),
        ..in_use()
    };
    assert_refused(
        &settings(""),
        &facts,
        "the cluster in \"/var/lib/postgresql/main/16\" was rolled back: its WAL reaches to 0/2000000 on timeline 1, and 0/1000000 on timeline 2 had been archived by \"/var/lib/backstay/main/instance.json\"",
        "`backstay restore main --no-start --to latest` brings back what came after, and keeps what is there; to go on from here, on a timeline of its own, `backstay restore main --no-start --from directory:/var/lib/postgresql/main/16 --to immediate`",
    );
}

#[test]
fn s2_a_cluster_that_nobody_remembers_is_taken_up() {
    let facts = Facts {
        data: Data::Cluster(Box::new(whole_cluster())),
        ..new_machine()
    };
    let decision = decide(&settings(""), &facts).unwrap();
    assert!(!decision.make_cluster);
    assert_eq!(decision.archive, ArchiveStep::Init);
    assert_eq!(decision.base_backups, BaseBackupStep::Init);
}

#[test]
fn s3_s8_s24_s25_a_cluster_that_must_not_be_started_is_refused() {
    let bring_back = "`backstay restore main --to latest` brings it back and keeps what is there";
    let cases: [(ClusterFound, &str, &str); 7] = [
        (
            ClusterFound {
                is_running: true,
                mode: 0o755,
                ..whole_cluster()
            },
            "a server runs on \"/var/lib/postgresql/main/16\" already",
            "stop it where it was started, or with `/pg/bin/pg_ctl stop --pgdata /var/lib/postgresql/main/16`",
        ),
        (
            ClusterFound {
                major: Ok(15),
                ..whole_cluster()
            },
            "\"/var/lib/postgresql/main/16\" is a cluster of PostgreSQL 15, the programs are of PostgreSQL 16",
            "declare version 15 again, or upgrade the cluster with pg_upgrade",
        ),
        (
            ClusterFound {
                major: Err("read \"PG_VERSION\": invalid digit".into()),
                ..whole_cluster()
            },
            "\"/var/lib/postgresql/main/16\" is damaged: read \"PG_VERSION\": invalid digit",
            bring_back,
        ),
        (
            ClusterFound {
                control: Err("pg_control does not match its checksum".into()),
                ..whole_cluster()
            },
            "\"/var/lib/postgresql/main/16\" is damaged: pg_control does not match its checksum",
            bring_back,
        ),
        (
            ClusterFound {
                has_wal: false,
                ..whole_cluster()
            },
            "\"/var/lib/postgresql/main/16\" has no directory \"pg_wal\"",
            "if it is elsewhere, is it mounted? otherwise `backstay restore main --to latest` brings it back and keeps what is there; pg_resetwal would lose committed data",
        ),
        (
            ClusterFound {
                missing_tablespaces: vec!["/mnt/fast".into()],
                ..whole_cluster()
            },
            "tablespace \"/mnt/fast\" holds nothing of this cluster",
            "is its file system mounted? the server would make new files below the mount point",
        ),
        (
            ClusterFound {
                mode: 0o755,
                ..whole_cluster()
            },
            "\"/var/lib/postgresql/main/16\" has mode 0755, with which PostgreSQL does not start",
            "`chmod 0700 /var/lib/postgresql/main/16`",
        ),
    ];
    for (found, what, hint) in cases {
        let facts = Facts {
            data: Data::Cluster(Box::new(found)),
            ..in_use()
        };
        assert_refused(&settings(""), &facts, what, hint);
    }
    for mode in [0o700, 0o750] {
        let found = ClusterFound {
            mode,
            ..whole_cluster()
        };
        let facts = Facts {
            data: Data::Cluster(Box::new(found)),
            ..in_use()
        };
        assert!(decide(&settings(""), &facts).is_ok(), "{mode:o}");
    }
}

#[test]
fn nothing_is_started_in_the_middle_of_a_restore() {
    let building = "a restore into \"/var/lib/postgresql/main/16\" was begun and is not complete";
    let swapping = "a restore into \"/var/lib/postgresql/main/16\" was interrupted while it put the restored cluster in its place";
    for facts in [in_use(), new_machine()] {
        let with = |step| Facts {
            restore: Some(step),
            ..facts.clone()
        };
        assert_refused(
            &settings(""),
            &with(Step::Building),
            building,
            "if it still runs, wait for it; if it was interrupted, run the same `backstay restore main` again, or `backstay restore main --abandon` to go on with the cluster as it was",
        );
        assert_refused(
            &settings(""),
            &with(Step::Swapping),
            swapping,
            "run the same `backstay restore main` again: it finishes what is left",
        );
    }
    // One that has failed and said so is over: the cluster that was there is the instance's.
    let failed = Facts {
        restore: Some(Step::Failed),
        ..in_use()
    };
    assert_eq!(
        decide(&settings(""), &failed).unwrap().warnings,
        [
            "a restore has failed, and what it made is beside the cluster; `backstay restore main --abandon` removes it"
        ]
    );
}

#[test]
fn s12_a_cluster_that_is_not_the_archives_is_refused() {
    let foreign = ArchiveFound::Archive {
        clusters: vec![OTHER],
        holds: Some("/var/lib/postgresql/main-wal/1/000000010000000000000001".into()),
    };
    let what = "the cluster in \"/var/lib/postgresql/main/16\" has system identifier 7710581305782851992, \
                the archive in \"/var/lib/postgresql/main-wal\" is that of 7710000000000000001";
    let hint = "if it is meant to replace it (after an upgrade or a new initdb), run `backstay archive admit main --replaces 7710000000000000001`; otherwise find out whose data this is";
    let facts = Facts {
        archive: foreign,
        ..in_use()
    };
    assert_refused(&settings(""), &facts, what, hint);
    // Base backups are enough to lose something.
    let empty = |holds| Facts {
        archive: ArchiveFound::Archive {
            clusters: vec![OTHER],
            holds: None,
        },
        base_backups: Some(BaseBackupsFound::Ours { holds }),
        ..in_use()
    };
    assert_refused(
        &settings(""),
        &empty(Some("/var/backup/postgresql/main/20261121-020000".into())),
        what,
        hint,
    );
    assert_eq!(
        decide(&settings(""), &empty(None)).unwrap().archive,
        ArchiveStep::Admit { replaces: OTHER }
    );
}

#[test]
fn an_archive_that_is_out_of_sight_is_not_begun_anew() {
    let facts = Facts {
        archive: ArchiveFound::Nothing,
        base_backups: Some(BaseBackupsFound::Nothing),
        ..in_use()
    };
    let decision = decide(&settings(""), &facts).unwrap();
    assert_eq!(decision.archive, ArchiveStep::Leave);
    assert_eq!(
        decision.base_backups,
        BaseBackupStep::Leave { marked: false }
    );
    assert_eq!(
        decision.warnings,
        [
            "there is no archive in \"/var/lib/postgresql/main-wal\", and there was one in \"/var/lib/postgresql/main-wal\": WAL stays in pg_wal until it is back; if it is lost, `backstay archive init main` begins a new one",
            "there are no base backups in \"/var/backup/postgresql/main\", and there were some in \"/var/backup/postgresql/main\": is everything mounted? if they are lost, `backstay archive init main` begins anew",
        ]
    );
    let other = Facts {
        record: Some(record(OTHER)),
        ..facts
    };
    assert_refused(
        &settings(""),
        &other,
        "the cluster in \"/var/lib/postgresql/main/16\" has system identifier 7710581305782851992, the one that was here had 7710000000000000001, and its archive is gone",
        "is the archive mounted at \"/var/lib/postgresql/main-wal\"? if this cluster is the right one, remove \"/var/lib/backstay/main/instance.json\"",
    );
}

#[test]
fn a_cluster_does_not_wait_for_its_base_backups() {
    let facts = Facts {
        base_backups: Some(BaseBackupsFound::SomethingElse(
            "/var/backup/postgresql/main/dump.sql".into(),
        )),
        ..in_use()
    };
    assert_eq!(
        decide(&settings(""), &facts).unwrap().warnings,
        [
            "\"/var/backup/postgresql/main\" holds \"dump.sql\" and does not say whose base backups they are; no base backup can be taken"
        ]
    );
}
