//! Whether an instance is well: what is seen of it, and what that means.
//!
//! [`look`] sees, [`judge`] decides, and nothing between them does both: what counts as ill is a pure
//! function of what was seen, what was declared and what the last day looked like.

mod chronicle;
mod finding;
mod history;
mod judge;
mod look;
mod report;
pub mod seen;

use settings::Settings;
use textfile::File;
use tool::Level;

pub use chronicle::{Chronicle, Drill, Space};
pub use finding::{Check, Finding, Severity, Verdict};
pub use judge::{Measured, bytes, span};
pub use report::moment;

use crate::history::History;
use crate::seen::Instance;

/// What a look at an instance came to.
#[derive(Debug)]
pub struct Checkup {
    /// What was seen.
    pub seen: Instance,
    /// What was found.
    pub verdict: Verdict,
    /// What was measured on the way.
    pub measured: Measured,
}

/// Looks at the instance, judges it, and remembers what was seen for the next time.
///
/// What cannot be seen is a finding and no error, and a memory that cannot be read or written is a
/// warning: the next check knows less then.
#[must_use]
pub fn check(settings: &Settings) -> Checkup {
    let state = settings.state_directory();
    let (checkup, history) = examine(settings);
    let remembered = history
        .write(&state)
        .and_then(|()| Chronicle::update(&state, &checkup.seen));
    if let Err(err) = remembered {
        tool::log(
            Level::Warning,
            format_args!("could not remember what this check saw: {err:#}"),
        );
    }
    checkup
}

/// Looks at the instance and judges it, for somebody who asks between two checks. Nothing is written.
#[must_use]
pub fn look(settings: &Settings) -> Checkup {
    examine(settings).0
}

fn examine(settings: &Settings) -> (Checkup, History) {
    let mut history = History::read(&settings.state_directory()).unwrap_or_else(|err| {
        tool::report("could not read what earlier checks saw", &err);
        History::default()
    });
    let seen = look::at(settings);
    history.add(&seen);
    let (verdict, measured) = judge::judge(&seen, settings, &history);
    let checkup = Checkup {
        seen,
        verdict,
        measured,
    };
    (checkup, history)
}

impl Checkup {
    /// One line for everything, then one for each finding with what to do about it.
    #[must_use]
    pub fn text(&self, settings: &Settings) -> String {
        report::text(settings, &self.verdict)
    }

    /// The same as JSON.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be written as JSON.
    pub fn json(&self, settings: &Settings) -> anyhow::Result<String> {
        report::json(settings, &self.seen, &self.verdict, &self.measured)
    }

    /// The same as metrics.
    #[must_use]
    pub fn metrics(&self, settings: &Settings) -> File {
        report::metrics(settings, &self.seen, &self.verdict, &self.measured)
    }
}
