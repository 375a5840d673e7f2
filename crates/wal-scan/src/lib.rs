//! What happened in a stretch of WAL: commits, and what they did to which relations.
//!
//! The records are read by `pg_waldump`, which knows them in every version. It wants plain segments,
//! so the archived ones are unpacked a few at a time.

mod dump;
mod events;
mod line;

pub use dump::{Segment, Source, scan, scan_directory};
pub use events::{Commit, Events, Touched};
pub use line::{Block, WalRecord, parse_line};
