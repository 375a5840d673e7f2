//! Metrics files for the textfile collector of the Prometheus node exporter.
//!
//! One promise: a reader sees a file that is whole, the old one or the new one, with mode 0644, in the
//! form that the exporter's parser takes. Each writer has a file of its own for each instance,
//! `postgresql_<writer>_<instance>.prom`, so that nobody overwrites what somebody else measured.
//!
//! What may be in these files is in one table, [`table`], from which the reference is generated. A
//! measurement that cannot be written is a warning and never the failure of the work that it is about.

mod file;
pub mod table;

pub use file::File;
pub use table::{METRICS, Metric, Unit, Writer};
