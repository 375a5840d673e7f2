//! `cargo xtask campaign`: the tests again, with counts that take hours.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::debian;
use crate::test::{Selection, conclude, run_tests};

/// A test with a larger count.
#[derive(Clone, Copy, Debug)]
struct Campaign {
    name: &'static str,
    /// Part of the name of the executable, or of the test function.
    only: &'static str,
    /// The variable that the test reads its count from.
    variable: &'static str,
    count: u32,
}

/// Every campaign there is.
const CAMPAIGNS: [Campaign; 6] = [
    Campaign {
        name: "histories",
        only: "random_pasts",
        variable: "BACKSTAY_HISTORIES",
        count: 1_000_000,
    },
    Campaign {
        name: "targets",
        only: "random_targets",
        variable: "BACKSTAY_TARGETS",
        count: 1_000,
    },
    Campaign {
        name: "flips",
        only: "every_random_flip",
        variable: "BACKSTAY_FLIPS",
        count: 100_000,
    },
    Campaign {
        name: "recoveries",
        only: "stops_at_a_flipped_byte",
        variable: "BACKSTAY_RECOVERIES",
        count: 20,
    },
    Campaign {
        name: "declarations",
        only: "any_sequence_of_declarations",
        variable: "BACKSTAY_DECLARATIONS",
        count: 1_000,
    },
    Campaign {
        name: "databases",
        only: "many_databases_are_looked_at",
        variable: "BACKSTAY_DATABASES",
        count: 200,
    },
];

/// Run the same tests with larger counts, for hours
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Which campaign
    #[arg(value_name = "NAME", value_parser = names())]
    name: String,

    /// The count, in place of the campaign's own
    #[arg(long, value_name = "N")]
    count: Option<u32>,

    /// Major versions of PostgreSQL, as for `test`
    #[arg(long, value_name = "MAJOR", value_delimiter = ',')]
    postgresql: Vec<u32>,

    /// Longest time that one executable may run, in hours
    #[arg(long, value_name = "N", default_value_t = 24)]
    time_limit_hours: u64,
}

fn names() -> clap::builder::PossibleValuesParser {
    CAMPAIGNS.map(|campaign| campaign.name).into()
}

/// Runs the command.
///
/// # Errors
///
/// Fails when the tests cannot be built or prepared. A test that fails is no error: it is in the status.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let begun = Instant::now();
    let campaign = CAMPAIGNS
        .into_iter()
        .find(|campaign| campaign.name == arguments.name)
        .context("find the campaign")?;
    debian::install(&debian::TEST_TOOLS)?;
    let count = arguments.count.unwrap_or(campaign.count);
    let tally = run_tests(
        &Selection {
            only: Some(campaign.only),
            majors: &arguments.postgresql,
            variables: &[(campaign.variable, count.to_string())],
        },
        Duration::from_hours(arguments.time_limit_hours),
    )?;
    ensure!(
        tally.passed + tally.failed > 0,
        "no test whose name contains \"{}\" could run",
        campaign.only
    );
    Ok(conclude(&tally, begun.elapsed()))
}
