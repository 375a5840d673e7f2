//! `backstay report`: one page about every instance, to be looked at in a browser and kept.

mod chart;
mod page;
#[cfg(test)]
mod pictures;

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use jiff::Timestamp;
use tool::{Hinted, Level};

use crate::status::Place;

/// Where the page goes.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The page, HTML; one that is there is replaced
    #[arg(value_name = "FILE", value_parser = crate::absolute)]
    file: PathBuf,

    #[command(flatten)]
    place: Place,
}

/// Writes the page. It appears whole or not at all.
///
/// # Errors
///
/// Fails when it cannot be written, or when one of the instances cannot be looked at; the page is
/// written then all the same, and says so.
pub fn run(arguments: &Arguments) -> Result<()> {
    // Looking takes a while, and what is in the way of the page can be told at once.
    if let Some(directory) = arguments.file.parent()
        && !directory.is_dir()
    {
        return Err(Hinted::new(
            format!("there is no directory \"{}\"", directory.display()),
            "make it, or name another file",
        )
        .into());
    }
    let all = arguments.place.look_at_all()?;
    let page = page::html(&all, Timestamp::now());
    durable_file::replace(&arguments.file, page.as_bytes())?;
    tool::log(
        Level::Info,
        format_args!("wrote \"{}\"", arguments.file.display()),
    );
    crate::status::complain_of_failures(&all)
}
