//! What a developer runs: tests, demonstration, benchmark.

mod artifacts;
mod bench;
mod campaign;
mod debian;
mod demo;
mod fuzz;
mod lab;
mod libtest;
mod metrics;
mod modules;
mod place;
mod process;
mod rendered;
mod rootfs;
mod schema;
mod screenshots;
mod test;

use std::process::ExitCode;

use clap::Parser;

/// What a developer of Backstay runs
#[derive(Debug, Parser)]
#[command(version, about, bin_name = "cargo xtask")]
enum Command {
    Test(test::Arguments),
    Demo(demo::Arguments),
    #[command(hide = true)]
    DemoStory(demo::Story),
    Bench(bench::Arguments),
    #[command(hide = true)]
    BenchMeasure(bench::Measure),
    Campaign(campaign::Arguments),
    Fuzz(fuzz::Arguments),
    Schema(schema::Arguments),
    Screenshots(screenshots::Arguments),
    Render(modules::Arguments),
    Lab(lab::Arguments),
}

fn main() -> ExitCode {
    let outcome = match Command::parse() {
        Command::Test(arguments) => test::run(&arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::DemoStory(story) => story.tell(),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::BenchMeasure(measure) => measure.make(),
        Command::Campaign(arguments) => campaign::run(&arguments),
        Command::Fuzz(arguments) => fuzz::run(&arguments),
        Command::Schema(arguments) => schema::run(&arguments),
        Command::Screenshots(arguments) => screenshots::run(&arguments),
        Command::Render(arguments) => modules::run(&arguments),
        Command::Lab(arguments) => lab::run(&arguments),
    };
    outcome.unwrap_or_else(|err| {
        eprintln!("could not do it: {err:#}");
        ExitCode::FAILURE
    })
}
