//! Which base backups and which WAL may be removed, so that every promised restore stays possible.
//!
//! Everything here is pure: [`plan`] is given what there is, what the user asked to keep and what
//! the time is, and says what would go and why. Whoever carries the plan out holds the lock that a
//! running backup or restore holds; a backup that is still being taken is not in the inventory.
//!
//! # What is promised
//!
//! - Every instant of the last [`days`](Policy::days) days that could be restored still can be, on
//!   every timeline that was in use then.
//! - Every backup that is kept can be restored to its own end. With an incremental backup the
//!   whole chain that it builds on is kept.
//! - The same holds for what could be restored from a snapshot that is there, as long as it is. But no
//!   backup and no WAL that another needs goes because of a snapshot: somebody else removes those.
//! - The newest good backup is kept, whatever the policy says, and so are the
//!   [`minimum_good`](Policy::minimum_good) newest. A backup that is not good protects nothing: it
//!   counts for no rule, and it goes only once a good one is as new.
//! - History files are kept for ever, and so is what cannot be judged, such as the WAL of a
//!   timeline whose history file is missing.
//!
//! # What is not known
//!
//! WAL and history files carry no time here, so only backups tell which timeline was in use when:
//! one that has no backup any more once another has some was left. That is right as long as every
//! cluster that is restored, and every one that was set aside and is brought back, gets a base
//! backup soon. Until the window holds a good backup again, no timeline is taken to have been left.
//!
//! # When the clock is wrong
//!
//! A clock that jumped ahead makes everything look expired. So nothing is removed when the newest
//! backup lies in the future, when it is not even 2020, or when the newest good backup is older
//! than the window by a month: then either the clock is wrong or no backup has succeeded for
//! weeks, and neither is a reason to remove the last ones. [`Refusal`] says which.

mod calendar;
mod clusters;
mod newest;
mod plan;
mod types;
mod wal_files;

pub use newest::newest_of_periods;
pub use plan::plan;
pub use types::{Backup, Inventory, Kept, KeptWal, Plan, Policy, Refusal, Removed, Snapshot};

#[cfg(test)]
mod oracle;
