//! Base backups on disk: their records, their checks, their way back.
//!
//! ```text
//! .backstay/repository.json            whose base backups these are
//! .backstay/20261011-020000.json       the record of a finished base backup
//! .backstay/20261011-020000.relations.json
//! .backstay/20261011-020000.tablespaces/16400/
//! 20261011-020000/                     what pg_basebackup wrote, and nothing else
//! 20261012-020000.partial/             one that is being taken, or was interrupted
//! ```
//!
//! The record stands beside the backup, not in it: `pg_verifybackup` takes every file that is not in
//! the backup's manifest for damage.

pub mod manifest;
mod presence;
mod repository;
mod unpack;

pub use presence::look_over;
pub use repository::{Kind, Record, Repository, Unfinished};
pub use unpack::{Progress, check, restore_into};
