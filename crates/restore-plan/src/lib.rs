//! What a person may ask a restore for, how far back it can go, and where it has to begin.
//!
//! Everything here is pure. The caller says which base backups and which WAL files there are and
//! what the time is; this crate answers, and nothing in it opens a file or asks the clock.
//!
//! - [`Target`] is what was asked for, [`RecoveryTarget`] what PostgreSQL is told.
//! - [`windows`] says from when to when each starting point can be restored, and what is missing.
//! - [`choose`] picks the starting point for a target, or refuses with the reason and a way out.

mod choice;
mod path;
mod point;
mod target;
mod window;

pub use choice::{Choice, Refusal, TargetPosition, TimelineChoice, choose};
pub use path::Missing;
pub use point::{ArchiveContents, StartingPoint};
pub use target::{RecoveryTarget, Target, TargetError};
pub use window::{Window, windows};
