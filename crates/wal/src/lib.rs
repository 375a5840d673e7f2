//! PostgreSQL's write-ahead log, as data: names, addresses, page headers, timelines and the small
//! text files beside them.
//!
//! Everything here is pure. A caller reads the bytes, this crate says what they mean, and nothing
//! in it opens a file, asks the clock or panics on what it is given. The formats are those of
//! PostgreSQL 13 to 18.

mod ids;
mod label_lines;
#[cfg(test)]
mod label_tests;
mod names;
mod size;

pub mod backup_history;
pub mod backup_label;
pub mod control;
pub mod history;
pub mod needed;
pub mod page;
pub mod tablespace_map;

pub use backup_history::BackupHistory;
pub use backup_label::BackupLabel;
pub use control::ControlFile;
pub use history::{HistoryEntry, TimelineHistory};
pub use ids::{Lsn, ParseIdError, SystemIdentifier, TimelineId};
pub use names::{NameError, SegmentName, WalFileName};
pub use needed::{NotReachable, segments_needed};
pub use page::{LONG_HEADER_BYTES, LongPageHeader, check_segment};
pub use size::{SegmentSize, SegmentSizeError};

/// Serializes a type as the text it displays and reads it back with `FromStr`.
macro_rules! serde_as_text {
    ($type:ty) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text =
                    <std::borrow::Cow<'de, str> as serde::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
use serde_as_text;
