//! `cargo xtask lab`: hosts as the NixOS modules render them, booted in a container or in an emulated
//! machine, and scenarios that run on them.
//!
//! What boots and how is in `nixos-tests/lab`, in Python as the scenarios are. Here it gets what it needs:
//! a Debian system, the rendered hosts, our programs, and a limit of time.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Subcommand, ValueEnum};
use serde::Deserialize;

use crate::libtest::{Skipped, Tally};
use crate::process::{self, End, Output, Watched};
use crate::rootfs::{self, Recipe};
use crate::test::report;
use crate::{artifacts, debian, modules, rendered};

/// The runners, from the root of the workspace.
const LAB: &str = "nixos-tests/lab";
/// Where runs leave their logs, journals and consoles.
const OUTPUT: &str = "target/lab";
/// Where machines are made: not in `/tmp`, which may be in memory.
const TEMPORARY: &str = "/var/tmp";
/// How long a run may take to end its machines, after the scenario's own limit.
const GRACE: Duration = Duration::from_mins(3);

/// Boot example hosts as the NixOS modules render them, and run scenarios on them
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: LabCommand,
}

#[derive(Debug, Subcommand)]
enum LabCommand {
    /// List the scenarios and the example hosts
    List,
    /// Run a scenario, or all that `cargo xtask test` does in the lab
    Run {
        /// Name of the scenario [default: all]
        #[arg(value_name = "NAME")]
        name: Option<String>,
        /// Where to run it [default: wherever it can run]
        #[arg(long, value_enum, requires = "name")]
        runner: Option<Runner>,
    },
    /// Boot an example host and get a shell in it
    Shell {
        /// Name of the example
        #[arg(value_name = "EXAMPLE")]
        example: String,
        /// Where to boot it
        #[arg(long, value_enum, default_value = "container")]
        runner: Runner,
    },
}

/// What a host is booted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Runner {
    /// systemd-nspawn: native speed, no ZFS
    Container,
    /// QEMU in software: a kernel of its own with ZFS, roughly ten times slower
    Machine,
}

impl Runner {
    fn name(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Machine => "machine",
        }
    }

    fn recipe(self) -> Recipe {
        match self {
            Self::Container => rootfs::LAB,
            Self::Machine => rootfs::LAB_ZFS,
        }
    }

    fn programs(self) -> &'static [&'static str] {
        match self {
            Self::Container => &["systemd-nspawn", "nsenter", "unshare", "ip", "python3"],
            Self::Machine => &["qemu-system-x86_64", "mke2fs", "unshare", "python3"],
        }
    }

    /// The Debian system that it boots.
    ///
    /// # Errors
    ///
    /// Fails when this machine cannot boot it; the reason is fit for a list of what was skipped.
    pub fn system(self) -> Result<PathBuf> {
        ensure!(
            debian::is_root(),
            "not root, and only root can make and boot a Debian system"
        );
        for program in self.programs() {
            ensure!(process::is_installed(program), "{program} is not installed");
        }
        rootfs::get(self.recipe())
    }
}

/// What `nixos-tests/eval/scenarios.nix` says of a scenario.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Scenario {
    runners: Vec<Runner>,
    /// Those of them in which it takes too long for a test of everything.
    only_by_name: Vec<Runner>,
    /// Example by name of the machine.
    nodes: BTreeMap<String, String>,
    time_limit_seconds: u64,
}

/// What a run writes to `result.json`.
#[derive(Debug, Deserialize)]
struct Outcome {
    error: Option<String>,
    subtests: Vec<Subtest>,
    boots: BTreeMap<String, Vec<f64>>,
}

#[derive(Debug, Deserialize)]
struct Subtest {
    passed: bool,
}

/// Runs the command.
///
/// # Errors
///
/// Fails when there is no such scenario or example, and when something cannot be prepared. A
/// scenario that fails is no error: it is in the status.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let hosts = Hosts::new()?;
    let scenarios = hosts.scenarios()?;
    match &arguments.command {
        LabCommand::List => {
            for (name, scenario) in &scenarios {
                let runners: Vec<&str> = scenario
                    .runners
                    .iter()
                    .map(|runner| runner.name())
                    .collect();
                let examples: Vec<&str> = scenario.nodes.values().map(String::as_str).collect();
                println!(
                    "scenario {name:<24} {:<20} {}",
                    runners.join(", "),
                    examples.join(", ")
                );
            }
            for example in hosts.examples()? {
                println!("example  {example}");
            }
            Ok(ExitCode::SUCCESS)
        }
        LabCommand::Run { name: None, .. } => {
            debian::install(&debian::LAB_TOOLS)?;
            let mut tally = Tally::default();
            check(&mut tally)?;
            Ok(crate::test::conclude(&tally, hosts.begun.elapsed()))
        }
        LabCommand::Run {
            name: Some(name),
            runner,
        } => {
            let scenario = scenarios.get(name).with_context(|| {
                format!("find scenario \"{name}\" among those of `cargo xtask lab list`")
            })?;
            debian::install(&debian::LAB_TOOLS)?;
            let mut tally = Tally::default();
            let programs = Programs::build()?;
            for chosen in &scenario.runners {
                if runner.is_none_or(|wanted| wanted == *chosen) {
                    let system = chosen.system();
                    let job = Job {
                        name,
                        scenario,
                        runner: *chosen,
                        system: &system,
                        hosts: &hosts,
                        programs: &programs,
                        is_watched: true,
                    };
                    tally.add(job.run()?);
                }
            }
            if tally == Tally::default() {
                bail!("scenario \"{name}\" does not run there");
            }
            Ok(crate::test::conclude(&tally, hosts.begun.elapsed()))
        }
        LabCommand::Shell { example, runner } => {
            ensure!(
                hosts.examples()?.contains(example),
                "there is no example \"{example}\" among those of `cargo xtask lab list`"
            );
            debian::install(&debian::LAB_TOOLS)?;
            let programs = Programs::build()?;
            let output = empty_output(&format!("shell-{}", runner.name()))?;
            let mut command =
                hosts.command("shell", *runner, &runner.system()?, &programs, &output);
            command.arg("--node").arg(format!("machine={example}"));
            process::run(&mut command)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Looks at what the examples render to, and runs every scenario wherever it can run, in containers
/// first.
///
/// # Errors
///
/// Fails when something cannot be prepared that this machine has all for.
pub fn check(tally: &mut Tally) -> Result<()> {
    check_itself(tally)?;
    let hosts = Hosts::new()?;
    let programs = Programs::build()?;
    rendered::check(&hosts, &programs, tally)?;
    let scenarios = hosts.scenarios()?;
    for runner in [Runner::Container, Runner::Machine] {
        let its: Vec<_> = scenarios
            .iter()
            .filter(|(_, scenario)| scenario.runners.contains(&runner))
            .collect();
        if its.is_empty() {
            continue;
        }
        // Asked once: what failed after minutes would fail again.
        let system = runner.system();
        for (name, scenario) in its {
            let job = Job {
                name,
                scenario,
                runner,
                system: &system,
                hosts: &hosts,
                programs: &programs,
                is_watched: false,
            };
            if scenario.only_by_name.contains(&runner) {
                tally.skipped.push(Skipped {
                    what: job.name(),
                    why: format!("takes too long for every run; {} runs it", job.again()),
                });
            } else {
                tally.add(job.run()?);
            }
        }
    }
    Ok(())
}

/// The lab's own tests.
fn check_itself(tally: &mut Tally) -> Result<()> {
    const NAME: &str = "the lab's own tests";
    if !process::is_installed("python3") {
        tally.skipped.push(Skipped {
            what: NAME.into(),
            why: "python3 is not installed".into(),
        });
        return Ok(());
    }
    let begun = Instant::now();
    let output = process::command("python3")
        .args(["-B", "-m", "unittest", "discover", "--start-directory"])
        .arg(artifacts::workspace().join(LAB))
        .stdin(Stdio::null())
        .output()
        .context("run python3")?;
    let said = String::from_utf8_lossy(&output.stderr);
    // "Ran 15 tests in 3.7s"; how many of them failed is said in words.
    let count = said
        .lines()
        .find_map(|line| line.strip_prefix("Ran ")?.split(' ').next()?.parse().ok())
        .unwrap_or(0);
    if output.status.success() && count > 0 {
        report("ok", NAME, &format!("{count} passed"), begun.elapsed());
        tally.passed += count;
    } else {
        println!("{said}");
        report("FAILED", NAME, "", begun.elapsed());
        tally.failed += 1;
    }
    Ok(())
}

/// The rendered hosts and scenarios.
#[derive(Debug)]
pub struct Hosts {
    directory: PathBuf,
    machines: tempfile::TempDir,
    begun: Instant,
    // Removed when this goes.
    _temporary: Option<tempfile::TempDir>,
}

impl Hosts {
    /// Renders them from the modules as they are, or takes what is committed where that is impossible.
    ///
    /// # Errors
    ///
    /// Fails when the modules do not evaluate, or a file cannot be written.
    pub fn new() -> Result<Self> {
        let begun = Instant::now();
        let machines = tempfile::Builder::new()
            .prefix("backstay-lab-")
            .tempdir_in(TEMPORARY)
            .context("make a directory for machines")?;
        let Some(rendered) = modules::rendered() else {
            return Ok(Self {
                directory: artifacts::workspace().join(modules::RENDERED),
                machines,
                begun,
                _temporary: None,
            });
        };
        let temporary = tempfile::tempdir().context("make a directory for the rendered hosts")?;
        for (path, text) in rendered? {
            let path = temporary.path().join(path);
            if let Some(directory) = path.parent() {
                fs::create_dir_all(directory)
                    .with_context(|| format!("create \"{}\"", directory.display()))?;
            }
            fs::write(&path, text).with_context(|| format!("write \"{}\"", path.display()))?;
        }
        Ok(Self {
            directory: temporary.path().to_owned(),
            machines,
            begun,
            _temporary: Some(temporary),
        })
    }

    fn scenarios(&self) -> Result<BTreeMap<String, Scenario>> {
        let mut found = BTreeMap::new();
        for path in entries(&self.directory.join("scenarios"))? {
            if path
                .extension()
                .is_some_and(|extension| extension == "json")
            {
                let text =
                    fs::read(&path).with_context(|| format!("read \"{}\"", path.display()))?;
                let scenario = serde_json::from_slice(&text)
                    .with_context(|| format!("read what \"{}\" says", path.display()))?;
                found.insert(name_of(&path), scenario);
            }
        }
        Ok(found)
    }

    fn examples(&self) -> Result<Vec<String>> {
        let directories = entries(&self.directory)?;
        Ok(directories
            .iter()
            .filter(|path| path.join("units").is_dir())
            .map(|path| name_of(path))
            .collect())
    }

    /// A call of the lab, without the machines.
    ///
    /// What it makes machines of lies below `self`, and goes with it even if the lab is killed.
    pub fn command(
        &self,
        what: &str,
        runner: Runner,
        system: &Path,
        programs: &Programs,
        output: &Path,
    ) -> Command {
        let mut command = process::command("python3");
        command
            .arg("-B")
            .arg(artifacts::workspace().join(LAB))
            .arg(what)
            .args(["--runner", runner.name()])
            .arg("--rootfs")
            .arg(system)
            .arg("--rendered")
            .arg(&self.directory)
            .arg("--programs")
            .arg(programs.directory.path())
            .arg("--output")
            .arg(output)
            .env("TMPDIR", self.machines.path());
        command
    }
}

/// The directory that a run leaves its files in, without those of an earlier run, which would be taken
/// for its own.
///
/// # Errors
///
/// Fails when it cannot be made or emptied.
pub fn empty_output(name: &str) -> Result<PathBuf> {
    let output = artifacts::workspace().join(OUTPUT).join(name);
    if output.exists() {
        fs::remove_dir_all(&output).with_context(|| format!("remove \"{}\"", output.display()))?;
    }
    fs::create_dir_all(&output).with_context(|| format!("create \"{}\"", output.display()))?;
    Ok(output)
}

/// The entries of a directory, sorted; none where there is no directory.
fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    if !directory.is_dir() {
        return Ok(Vec::new());
    }
    let mut found = fs::read_dir(directory)
        .and_then(|entries| {
            entries
                .map(|entry| entry.map(|entry| entry.path()))
                .collect::<std::io::Result<Vec<_>>>()
        })
        .with_context(|| format!("read \"{}\"", directory.display()))?;
    found.sort();
    Ok(found)
}

fn name_of(path: &Path) -> String {
    path.file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// A directory with our programs, without what only a debugger reads: they are copied into every machine.
#[derive(Debug)]
pub struct Programs {
    directory: tempfile::TempDir,
}

impl Programs {
    /// Builds them.
    ///
    /// # Errors
    ///
    /// Fails when they cannot be built or copied.
    pub fn build() -> Result<Self> {
        let directory = tempfile::tempdir().context("make a directory for the programs")?;
        for program in artifacts::build_programs(false, &[])? {
            let to = directory
                .path()
                .join(program.file_name().context("find the name of a program")?);
            if process::is_installed("strip") {
                process::run(process::command("strip").arg("-o").arg(&to).arg(&program))?;
            } else {
                fs::read(&program)
                    .and_then(|content| fs::write(&to, content))
                    .with_context(|| format!("copy \"{}\"", program.display()))?;
            }
            fs::set_permissions(&to, fs::Permissions::from_mode(0o755))
                .with_context(|| format!("set the mode of \"{}\"", to.display()))?;
        }
        Ok(Self { directory })
    }
}

/// A scenario in one place.
struct Job<'a> {
    name: &'a str,
    scenario: &'a Scenario,
    runner: Runner,
    /// What the runner boots, or why there is nothing.
    system: &'a Result<PathBuf>,
    hosts: &'a Hosts,
    programs: &'a Programs,
    /// Whether somebody looks on, or wants to read only of what fails.
    is_watched: bool,
}

impl Job<'_> {
    fn name(&self) -> String {
        format!("scenario {} in a {}", self.name, self.runner.name())
    }

    /// The command line that runs only this.
    fn again(&self) -> String {
        format!(
            "cargo xtask lab run {} --runner {}",
            self.name,
            self.runner.name()
        )
    }

    fn run(&self) -> Result<Tally> {
        let system = match self.system {
            Ok(system) => system,
            Err(why) => {
                return Ok(Tally {
                    skipped: vec![Skipped {
                        what: self.name(),
                        why: format!("{why:#}"),
                    }],
                    ..Tally::default()
                });
            }
        };
        let output = empty_output(&format!("{}-{}", self.name, self.runner.name()))?;
        let mut command = self
            .hosts
            .command("run", self.runner, system, self.programs, &output);
        let script = format!("scenarios/{}.py", self.name);
        let limit = self.scenario.time_limit_seconds;
        command
            .arg("--script")
            .arg(self.hosts.directory.join(script))
            .args(["--time-limit", &limit.to_string()]);
        for (machine, example) in &self.scenario.nodes {
            command.arg("--node").arg(format!("{machine}={example}"));
        }
        let files = [output.join("log"), output.join("stderr")];
        let watched = process::watch(
            &mut command,
            Duration::from_secs(limit) + GRACE,
            if self.is_watched {
                Output::Inherited
            } else {
                Output::Files {
                    stdout: &files[0],
                    stderr: &files[1],
                }
            },
        )?;
        Ok(self.judge(&output, &watched, &files))
    }

    /// Says how it went.
    fn judge(&self, output: &Path, watched: &Watched, files: &[PathBuf]) -> Tally {
        let outcome: Option<Outcome> = fs::read(output.join("result.json"))
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok());
        let (passed, error) = match (&outcome, &watched.end) {
            (Some(outcome), _) => (
                outcome
                    .subtests
                    .iter()
                    .filter(|subtest| subtest.passed)
                    .count(),
                outcome.error.clone(),
            ),
            (None, End::TooLate) => (0, Some("was killed, its time was over".to_owned())),
            (None, End::Status(status)) => (0, Some(command::how_it_ended(*status))),
        };
        let Some(complaint) = error.or_else(|| watched.left_behind()) else {
            // A scenario without subtests is one test.
            let passed = passed.max(1);
            let boots: Vec<String> = outcome
                .iter()
                .flat_map(|outcome| outcome.boots.values().flatten())
                .map(|seconds| format!("{seconds:.1}"))
                .collect();
            let summary = format!("{passed} passed, up in {} s", boots.join(", "));
            report("ok", &self.name(), &summary, watched.elapsed);
            return Tally {
                passed,
                ..Tally::default()
            };
        };
        if !self.is_watched {
            for file in files {
                print!("{}", fs::read_to_string(file).unwrap_or_default());
            }
        }
        println!("{}: {complaint}", self.name());
        println!("       journal and console: \"{}\"", output.display());
        println!("       again: {}", self.again());
        let summary = format!("{passed} passed, 1 failed");
        report("FAILED", &self.name(), &summary, watched.elapsed);
        Tally {
            passed,
            failed: 1,
            skipped: Vec::new(),
        }
    }
}
