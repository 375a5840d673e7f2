//! What `backstay` makes of its command line and of settings files.

use std::fs;

use anyhow::{Result, ensure};

#[test]
fn an_instance_is_found_by_its_name_where_the_module_puts_its_settings() -> Result<()> {
    for command in [
        &["status"][..],
        &["windows"],
        &["find"],
        &["restore", "--to", "latest"],
        &["restore", "--abandon"],
        &["archive", "verify"],
    ] {
        let run = testbed::run("backstay", [command, &["no-such-instance"]].concat())?;
        ensure!(
            run.stderr.contains(
                "read settings \"/etc/backstay/no-such-instance.json\": No such file or directory"
            ) && run.stderr.contains("\nhint: --config names "),
            "{command:?}: {}",
            run.stderr
        );
    }
    Ok(())
}

#[test]
fn every_settings_file_is_checked_as_what_it_is_for() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("settings.json");
    let instance = r#"{ "instance": "main", "archive": { "directory": "/a" },
        "postgresql": { "binDirectory": "/b", "dataDirectory": "/d", "socketDirectory": "/s" } }"#;
    let datasets = r#"{ "datasets": [{ "name": "tank/pg", "mountpoint": "none" }] }"#;
    let notifications = r#"{ "hostName": "h", "stateDirectory": "/s", "apprise": "/a", "backends": {}, "templates": {} }"#;
    let check = |arguments: &[&str]| {
        let path = file.display().to_string();
        testbed::run(
            "backstay",
            [&["check-config", path.as_str()], arguments].concat(),
        )
    };
    for (kind, text) in [
        ("instance", instance),
        ("datasets", datasets),
        ("notifications", notifications),
    ] {
        fs::write(&file, text)?;
        let run = check(&[])?.expect_success()?;
        assert_eq!(run.stderr, "");
        check(&["--kind", kind])?.expect_success()?;
        for other in ["instance", "datasets", "notifications"] {
            if other != kind {
                check(&["--kind", other])?.expect_code(1)?;
            }
        }
    }
    fs::write(
        &file,
        r#"{ "datasets": [{ "name": "tank", "mountpoint": "pg" }] }"#,
    )?;
    let run = check(&[])?.expect_code(1)?;
    assert_eq!(
        run.stderr,
        format!(
            "{file}: datasets.[0].name: \"tank\" is a pool, which is never made or changed\n\
             {file}: datasets.[0].mountpoint: \"pg\" is not an absolute path\n",
            file = file.display()
        )
    );
    Ok(())
}
