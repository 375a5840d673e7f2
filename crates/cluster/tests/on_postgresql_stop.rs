//! Stopping a real server.

use std::time::Duration;

use anyhow::{Result, ensure};
use cluster::Programs;
use testbed::{ClusterOptions, Testbed};

#[test]
fn r20_a_server_that_has_ended_in_the_meantime_counts_as_stopped() -> Result<()> {
    let testbed = Testbed::new()?;
    let cluster = testbed.cluster("main", ClusterOptions::default())?;
    let programs = Programs::in_directory(testbed.server().bin());
    let stop = || cluster::stop_in(&programs, cluster.data(), Duration::from_mins(1));
    cluster.start()?;
    stop()?;
    ensure!(!cluster.is_running(), "it still runs");
    // pg_ctl calls this an error.
    stop()
}
