//! The WAL archive on disk.
//!
//! ```text
//! archive.json                       the manifest: whose archive this is; written first
//! incoming/                          files that are being written
//! <system identifier>/
//!     history/00000002.history
//!     00000001/000000/00/000000010000000000000001
//! ```
//!
//! A cluster has a directory of its own, so the WAL of two clusters can never mix. Below it a file
//! is found by its timeline and its segment number, whose last eight bits count within a
//! directory, so that no directory holds more than a few hundred entries.
//!
//! Nothing is ever replaced: see [`Archive::put`]. Absence needs proof: see [`Archive::get`].

pub mod format;
mod receipt;
mod store;

pub use receipt::Receipts;
pub use store::{
    Archive, Cluster, Fetched, Listing, Manifest, Put, SEGMENT_STAGING, read_control_file,
};
