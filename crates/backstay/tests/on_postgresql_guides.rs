//! The guides, command by command, as a person would type them.

use anyhow::{Context as _, Result, ensure};
use testbed::{Run, Testbed};

/// The commands of a guide: its `sh` blocks, in order.
fn commands(guide: &str) -> String {
    let mut commands = String::new();
    let mut inside = false;
    for line in guide.lines() {
        match line {
            "```sh" => inside = true,
            "```" => inside = false,
            _ if inside => {
                commands.push_str(line);
                commands.push('\n');
            }
            _ => {}
        }
    }
    commands
}

#[test]
fn the_guides_do_what_they_say() -> Result<()> {
    let testbed = Testbed::new()?;
    let programs = testbed::program("backstay")?.line();
    let programs = std::path::Path::new(&programs)
        .parent()
        .context("programs have a directory")?;
    let first = commands(include_str!("../../../docs/guides/first-restore.md"));
    let night = commands(include_str!("../../../docs/guides/at-3-am.md"));
    let watching = commands(include_str!("../../../docs/guides/watching.md"));
    let yesterday = commands(include_str!("../../../docs/guides/look-at-yesterday.md"));
    let table = commands(include_str!("../../../docs/guides/one-table-back.md"));
    ensure!(first.lines().count() > 20 && night.lines().count() > 5);
    ensure!(watching.lines().count() == 3);
    ensure!(yesterday.lines().count() > 6 && table.lines().count() > 6);
    // The others are for a server that runs: they come before the last command of the first.
    let (setup, stop) = first
        .trim_end()
        .rsplit_once('\n')
        .context("the first guide has commands")?;
    let script =
        format!("set -euo pipefail\n{setup}\n{night}\n{watching}\n{yesterday}\n{table}\n{stop}\n");
    let path = format!(
        "{}:{}:/usr/bin:/bin",
        programs.display(),
        testbed.server().bin().display()
    );
    let run = Run::of(
        &command::Command::new("/bin/bash")
            .args(["-c", &script])
            .env("PATH", path)
            .env("HOME", testbed.path())
            .directory(testbed.path()),
    )?
    .expect_success()?;
    ensure!(
        run.stdout.contains("DROP postgres.public.orders"),
        "{}",
        run.stdout
    );
    // The rows of yesterday, and those of the table that came back.
    for count in ["100", "1001"] {
        ensure!(
            run.stdout.lines().any(|line| line.trim() == count),
            "{}",
            run.stdout
        );
    }
    Ok(())
}
