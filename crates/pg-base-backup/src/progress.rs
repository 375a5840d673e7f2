//! Showing how far `pg_basebackup` has come: a bar on a terminal, a line a minute in the journal.

use std::io::{IsTerminal as _, stderr};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tool::Level;

const BETWEEN_LINES: Duration = Duration::from_mins(1);

/// Follows the progress lines of `pg_basebackup`.
pub struct Watcher {
    bar: Option<ProgressBar>,
    last_line: Instant,
}

impl Watcher {
    /// Begins to watch.
    pub fn new() -> Self {
        let bar = stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(0);
            if let Ok(style) =
                ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}")
            {
                bar.set_style(style);
            }
            bar
        });
        Self {
            bar,
            last_line: Instant::now(),
        }
    }

    /// Takes in one line of `pg_basebackup`.
    pub fn line(&mut self, line: &str) {
        let Some((done, total)) = kilobytes(line) else {
            return;
        };
        if let Some(bar) = &self.bar {
            bar.set_length(total << 10);
            bar.set_position(done << 10);
        } else if self.last_line.elapsed() >= BETWEEN_LINES {
            self.last_line = Instant::now();
            tool::log(
                Level::Info,
                format_args!("copied {} of about {} MiB", done >> 10, total >> 10),
            );
        }
    }

    /// Removes the bar.
    pub fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Reads `12345/67890 kB (18%), 0/1 tablespace`.
fn kilobytes(line: &str) -> Option<(u64, u64)> {
    let (numbers, _) = line.split_once(" kB")?;
    let (done, total) = numbers.trim().split_once('/')?;
    Some((done.trim().parse().ok()?, total.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_lines_of_pg_basebackup_15_are_read() {
        assert_eq!(
            kilobytes("  1234/ 67890 kB (1%), 0/1 tablespace (…/base/5/1259)"),
            Some((1234, 67890))
        );
        assert_eq!(
            kilobytes("67890/67890 kB (100%), 1/1 tablespace"),
            Some((67890, 67890))
        );
        assert_eq!(kilobytes("pg_basebackup: initiating base backup"), None);
    }
}
