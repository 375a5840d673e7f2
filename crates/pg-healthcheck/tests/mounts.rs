//! H4 and H13 with real mounts, in a mount namespace of its own.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use command::Command;
use serde_json::{Value, json};
use testbed::{Run, Testbed};

/// Runs `program` where the shell commands `mounts`, in which `$pg` is the mount point, were run before.
fn behind(testbed: &Testbed, mounts: &str, program: Command) -> Result<Run> {
    let pg = testbed.path().join("pg");
    let script = format!(
        "set -eu; pg={}; {mounts}; exec \"$@\"",
        command::quoted(&pg.to_string_lossy())
    );
    Run::of(&program.wrapped_in(
        "/usr/bin/unshare",
        [
            "--user",
            "--map-root-user",
            "--mount",
            "--",
            "/bin/sh",
            "-c",
            &script,
            "enter",
        ],
    ))
}

/// Whether this user may mount anything, and why not.
fn may_mount(testbed: &Testbed) -> Result<Result<(), String>> {
    fs::create_dir(testbed.path().join("pg"))?;
    let nothing = behind(
        testbed,
        "mount -t tmpfs none \"$pg\"",
        Command::new("/bin/true"),
    )?;
    Ok(if nothing.code() == Some(0) {
        Ok(())
    } else {
        Err(nothing.stderr.trim().to_owned())
    })
}

/// Writes the settings of an instance without a server whose data and archive are at the mount point.
fn settings(testbed: &Testbed, health: &Value) -> Result<PathBuf> {
    let pg = testbed.path().join("pg");
    let settings = json!({
        "instance": "main",
        "stateDirectory": testbed.path().join("state"),
        "postgresql": {
            "binDirectory": testbed.server().bin(),
            "dataDirectory": pg.join("16"),
            "socketDirectory": testbed.path().join("s"),
            "requiredMounts": [&pg],
        },
        "archive": { "directory": pg.join("archive") },
        "healthCheck": health,
    });
    let file = testbed.path().join("main.json");
    fs::write(&file, settings.to_string())?;
    Ok(file)
}

fn healthcheck(settings: &Path) -> Result<Command> {
    Ok(testbed::program("pg-healthcheck")?
        .args(["--json", "--config"])
        .arg(settings))
}

/// What `check` found: how bad it is, what is wrong and what to do.
fn findings(run: &Run, check: &str) -> Result<Vec<[String; 3]>> {
    let report = run.json()?;
    let findings = report["findings"].as_array().context("no findings")?;
    Ok(findings
        .iter()
        .filter(|finding| finding["check"] == check)
        .map(|finding| {
            ["severity", "what", "hint"]
                .map(|key| finding[key].as_str().unwrap_or_default().to_owned())
        })
        .collect())
}

#[test]
fn h13_a_mount_that_is_missing_doubled_or_read_only_is_red_and_a_sandbox_is_not() -> Result<()> {
    let testbed = Testbed::new()?;
    if let Err(why) = may_mount(&testbed)? {
        testbed::skip!("this user may not mount anything: {why}");
    }
    let settings = settings(&testbed, &json!({}))?;
    for (mounts, expected) in [
        ("true", Some("nothing is mounted at")),
        ("mount -t tmpfs data \"$pg\"", None),
        // What a unit with ProtectSystem=strict sees of it.
        (
            "mount -t tmpfs data \"$pg\"; mount --bind \"$pg\" \"$pg\"; mount -o remount,bind,ro \"$pg\"",
            None,
        ),
        (
            "mount -t tmpfs -o ro data \"$pg\"",
            Some("takes no changes: it is mounted read-only"),
        ),
        (
            "mount -t tmpfs one \"$pg\"; mount -t tmpfs two \"$pg\"",
            Some("\"two\" is mounted over \"one\""),
        ),
    ] {
        let found = findings(
            &behind(&testbed, mounts, healthcheck(&settings)?)?,
            "mounts",
        )?;
        match expected {
            None => ensure!(found.is_empty(), "{mounts}: {found:?}"),
            Some(expected) => ensure!(
                matches!(found.as_slice(), [[_, what, _]] if what.contains(expected)),
                "{mounts}: {found:?}"
            ),
        }
    }
    Ok(())
}

/// Puts a `zfs` into `directory` that answers as the files `sync` and `status` beside it say.
fn stand_in(directory: &Path) -> Result<()> {
    fs::create_dir(directory)?;
    let here = command::quoted(&directory.to_string_lossy());
    let script = format!(
        "#!/bin/sh\n\
         test \"$*\" = 'get -Hp -o property,value,source sync tank/pg' || {{ echo \"asked for $*\" >&2; exit 2; }}\n\
         cat {here}/sync; exit \"$(cat {here}/status)\"\n"
    );
    for name in ["zfs", "zpool"] {
        let program = directory.join(name);
        fs::write(&program, &script)?;
        fs::set_permissions(&program, Permissions::from_mode(0o755))?;
    }
    Ok(())
}

#[test]
fn h13_a_dataset_with_sync_disabled_is_red_until_it_is_set_again() -> Result<()> {
    // The kernel of this machine may have no ZFS, so another file system is listed under its name.
    const DATASET: &str = "mount -t tmpfs tank/pg \"$pg\"; mkdir \"$pg/16\" \"$pg/archive\"; \
        sed '/ tmpfs tank/s/- tmpfs /- zfs /' /proc/self/mountinfo > \"$pg/mountinfo\"; \
        mount --bind \"$pg/mountinfo\" /proc/$$/mountinfo";
    let testbed = Testbed::new()?;
    if let Err(why) = may_mount(&testbed)? {
        testbed::skip!("this user may not mount anything: {why}");
    }
    let listed = behind(
        &testbed,
        DATASET,
        Command::new("/usr/bin/grep").args(["--", "- zfs tank/pg", "/proc/self/mountinfo"]),
    )?;
    if listed.code() != Some(0) {
        testbed::skip!(
            "nothing can be mounted over a file of /proc: {}",
            listed.stderr
        );
    }
    let settings = settings(&testbed, &json!({}))?;
    let zfs = testbed.path().join("zfs");
    stand_in(&zfs)?;
    let check = |path: &Path| -> Result<Vec<[String; 3]>> {
        let path = format!("{}:/usr/bin:/bin", path.display());
        let program = healthcheck(&settings)?.env("PATH", path);
        findings(&behind(&testbed, DATASET, program)?, "durability")
    };
    let answers = |sync: &str, status: &str| -> Result<Vec<[String; 3]>> {
        fs::write(zfs.join("sync"), sync)?;
        fs::write(zfs.join("status"), status)?;
        check(&zfs)
    };
    ensure!(answers("sync\tstandard\tdefault\n", "0")?.is_empty());
    ensure!(answers("sync\talways\tlocal\n", "0")?.is_empty());
    for (answer, by) in [
        ("sync\tdisabled\tinherited from tank\n", "tank"),
        ("sync\tdisabled\tlocal\n", "tank/pg"),
        ("sync\tdisabled\treceived\n", "tank/pg"),
    ] {
        let found = answers(answer, "0")?;
        let expected = [
            "critical".to_owned(),
            "dataset \"tank/pg\" of archive, data has sync=disabled: a power cut takes back what it has reported as durable".to_owned(),
            format!("zfs set sync=standard {by}"),
        ];
        ensure!(found == [expected], "{found:#?}");
    }
    ensure!(answers("sync\tstandard\tlocal\n", "0")?.is_empty());
    // It cannot be said, and is not taken for well.
    let found = answers("cannot open 'tank/pg': permission denied\n", "1")?;
    ensure!(
        matches!(found.as_slice(), [[severity, what, hint]]
            if severity == "unknown" && what.contains("permission denied") && hint.contains("/dev/zfs")),
        "{found:#?}"
    );
    // Without ZFS's own program there is nobody to ask.
    let found = check(&testbed.path().join("nothing"))?;
    ensure!(found.is_empty(), "{found:#?}");
    Ok(())
}

#[test]
fn h4_a_disk_is_red_when_its_bytes_or_its_files_run_out_and_well_with_room() -> Result<()> {
    let testbed = Testbed::new()?;
    if let Err(why) = may_mount(&testbed)? {
        testbed::skip!("this user may not mount anything: {why}");
    }
    // 10 MiB and 100 files, of which `kib` and `files` are taken, and freed again before the check.
    let check = |percent: u32, kib: u32, files: u32, freed: bool| -> Result<Vec<[String; 3]>> {
        let state = testbed.path().join("state");
        if state.exists() {
            // How fast the disk fills is another matter.
            fs::remove_dir_all(&state)?;
        }
        let settings = settings(
            &testbed,
            &json!({ "minimumFreeBytes": 512 << 10, "maximumUsedPercent": percent }),
        )?;
        let cure = if freed { "rm \"$pg\"/16/*" } else { "true" };
        let mounts = format!(
            "mount -t tmpfs -o size=10m,nr_inodes=100 data \"$pg\"; mkdir \"$pg/16\" \"$pg/archive\"; \
             head --bytes={kib}K /dev/zero > \"$pg/16/bytes\"; \
             for i in $(seq {files}); do : > \"$pg/16/file-$i\"; done; {cure}"
        );
        findings(
            &behind(&testbed, &mounts, healthcheck(&settings)?)?,
            "storage",
        )
    };
    let is = |found: &[[String; 3]], severity: &str, what: &str| -> Result<()> {
        ensure!(
            matches!(found, [[bad, said, hint]]
                if bad == severity && said.contains(what) && !hint.is_empty()),
            "{what}: {found:#?}"
        );
        Ok(())
    };
    for percent in [80, 90] {
        let kib = 10 * 1024 * percent / 100;
        ensure!(check(percent, kib - 100, 0, false)?.is_empty(), "{percent}");
        let what = format!("the file system of archive, data is more than {percent} per cent full");
        is(&check(percent, kib + 100, 0, false)?, "warning", &what)?;
        ensure!(check(percent, kib + 100, 0, true)?.is_empty(), "{percent}");
    }
    let least = " KiB left, and 512 KiB have to be";
    is(
        &check(90, 10 * 1024 * 96 / 100, 0, false)?,
        "critical",
        least,
    )?;
    ensure!(check(90, 0, 80, false)?.is_empty());
    is(&check(90, 0, 94, false)?, "critical", " more files of 100")?;
    ensure!(check(90, 0, 94, true)?.is_empty());
    Ok(())
}
