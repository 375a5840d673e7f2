//! How a program that stands on `tool::run` ends: by running this very test executable again.

use std::process::{Command, ExitCode, Output};

use anyhow::{Result, anyhow};
use clap::Parser;
use tool::{Hinted, Program};

const PROGRAM: Program = Program {
    complaint: "could not do the test",
    failure: 200,
};

/// A program that does what it is told
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[arg(long)]
    what: String,
}

fn act(cli: &Cli) -> Result<ExitCode> {
    match cli.what.as_str() {
        "succeed" => Ok(ExitCode::SUCCESS),
        "fail" => Err(anyhow!("a reason").context("do a step")),
        "hint" => Err(Hinted::new("a reason", "a way out").into()),
        "panic" => panic!("a bug"),
        "panic-elsewhere" => {
            let thread = std::thread::spawn(|| panic!("a bug in a thread"));
            let _ = thread.join();
            Ok(ExitCode::SUCCESS)
        }
        "hang" => {
            tool::end_after(std::time::Duration::from_millis(50), PROGRAM);
            std::thread::sleep(std::time::Duration::from_mins(1));
            Ok(ExitCode::SUCCESS)
        }
        other => Err(anyhow!("\"{other}\" is not known")),
    }
}

const ACTING: &str = "TOOL_TEST_ARGUMENTS";

/// Not a test of its own: the program that the others run.
#[test]
fn acts_when_it_is_told_to() {
    let Ok(arguments) = std::env::var(ACTING) else {
        return;
    };
    let cli = Cli::try_parse_from(std::iter::once("program").chain(arguments.split(' ')));
    let code = match cli {
        Ok(cli) => {
            // `tool::run` reads the process's arguments, which here are the test harness's.
            tool::run(PROGRAM, move |_: NoArguments| act(&cli))
        }
        Err(_) => tool::run(PROGRAM, |_: Cli| Ok(ExitCode::SUCCESS)),
    };
    // An `ExitCode` cannot be read; its debug form can be compared.
    let status = (0..=255_u8)
        .find(|status| format!("{:?}", ExitCode::from(*status)) == format!("{code:?}"))
        .unwrap_or(99);
    tool::exit_now(status);
}

/// Takes whatever the test harness was called with.
#[derive(Debug, Parser)]
#[command(disable_help_flag = true)]
struct NoArguments {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    _all: Vec<String>,
}

#[expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "the test runs itself, with the environment that cargo gave it"
)]
fn run(arguments: &str) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "acts_when_it_is_told_to", "--nocapture"])
        .env(ACTING, arguments)
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn success_is_0_and_an_error_is_the_programs_own_status() {
    assert_eq!(run("--what succeed").status.code(), Some(0));
    let failed = run("--what fail");
    assert_eq!(failed.status.code(), Some(200));
    assert!(stderr(&failed).contains("could not do the test: do a step: a reason\n"));
}

#[test]
fn a_hint_stands_on_the_next_line() {
    let failed = run("--what hint");
    assert!(
        stderr(&failed).contains("could not do the test: a reason\nhint: a way out\n"),
        "{}",
        stderr(&failed)
    );
}

#[test]
fn a30_a_panic_ends_with_the_programs_own_status_also_in_another_thread() {
    for what in ["--what panic", "--what panic-elsewhere"] {
        let panicked = run(what);
        assert_eq!(panicked.status.code(), Some(200), "{}", stderr(&panicked));
        assert!(stderr(&panicked).contains("could not do the test: "));
    }
}

#[test]
fn a_usage_error_ends_with_the_programs_own_status() {
    assert_eq!(run("--nonsense").status.code(), Some(200));
}

#[test]
fn a28_a_program_that_hangs_ends_at_its_deadline() {
    let begin = std::time::Instant::now();
    let hung = run("--what hang");
    assert_eq!(hung.status.code(), Some(200));
    assert!(begin.elapsed().as_secs() < 30);
    assert!(stderr(&hung).contains("hint: is the storage responding?"));
}
