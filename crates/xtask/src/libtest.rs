//! Reading what Rust's test harness prints.

/// A test that did not run, and why.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Skipped {
    /// The test, or the group of tests.
    pub what: String,
    /// The reason.
    pub why: String,
}

/// What one or several test executables came to, in test functions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Functions that passed.
    pub passed: usize,
    /// Functions that failed.
    pub failed: usize,
    /// Functions that did not run.
    pub skipped: Vec<Skipped>,
}

impl Tally {
    /// Adds another tally.
    pub fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped.extend(other.skipped);
    }

    /// The last line of a test run.
    pub fn line(&self) -> String {
        format!(
            "{} passed, {} failed, {} skipped",
            self.passed,
            self.failed,
            self.skipped.len()
        )
    }
}

/// Reads the output of a test executable, or of several, that came to their end.
///
/// A test that calls `testbed::skip!` passes for the harness and prints a line `skipped: TEST: REASON`.
pub fn read(stdout: &str, stderr: &str) -> Option<Tally> {
    let results: Vec<&str> = stdout
        .lines()
        .filter_map(|line| line.strip_prefix("test result: "))
        .collect();
    if results.is_empty() {
        return None;
    }
    let count = |what| -> usize { results.iter().filter_map(|line| number(line, what)).sum() };
    let mut skipped: Vec<Skipped> = stdout.lines().filter_map(ignored).collect();
    let said = stderr.lines().filter_map(said_skipped);
    let passed = count("passed").saturating_sub(said.clone().count());
    skipped.extend(said);
    Some(Tally {
        passed,
        failed: count("failed"),
        skipped,
    })
}

/// Reads the output of a test executable that did not come to its end.
pub fn read_unfinished(stdout: &str) -> Tally {
    let ended = |how: &str| {
        stdout
            .lines()
            .filter(|line| line.starts_with("test ") && line.ends_with(how))
            .count()
    };
    Tally {
        passed: ended(" ... ok"),
        // At least the one that ended the executable.
        failed: ended(" ... FAILED").max(1),
        skipped: Vec::new(),
    }
}

/// Finds `3` in `ok. 3 passed; 0 failed` when asked for `passed`.
fn number(line: &str, what: &str) -> Option<usize> {
    line.split([';', '.'])
        .find_map(|part| part.trim().strip_suffix(what)?.trim().parse().ok())
}

/// Reads `test name ... ignored, reason`.
fn ignored(line: &str) -> Option<Skipped> {
    let (name, rest) = line.strip_prefix("test ")?.split_once(" ... ignored")?;
    Some(Skipped {
        what: name.into(),
        why: rest
            .strip_prefix(", ")
            .unwrap_or("marked as ignored")
            .into(),
    })
}

fn said_skipped(line: &str) -> Option<Skipped> {
    let (what, why) = line.strip_prefix("skipped: ")?.split_once(": ")?;
    Some(Skipped {
        what: what.into(),
        why: why.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Printed by the harness of Rust 1.95.
    const STDOUT: &str = "
running 4 tests
test a_test ... ok
test tests::other ... ok
test slow ... ignored, takes an hour
test broken ... FAILED

failures:

---- broken stdout ----
Error: reason


failures:
    broken

test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s

";

    #[test]
    fn functions_are_counted_and_one_that_said_it_was_skipped_has_not_passed() {
        let stderr = "a line\nskipped: tests::other: PostgreSQL 15 has no incremental backups\n";
        assert_eq!(
            read(STDOUT, stderr),
            Some(Tally {
                passed: 1,
                failed: 1,
                skipped: vec![
                    Skipped {
                        what: "slow".into(),
                        why: "takes an hour".into()
                    },
                    Skipped {
                        what: "tests::other".into(),
                        why: "PostgreSQL 15 has no incremental backups".into()
                    },
                ],
            })
        );
    }

    #[test]
    fn an_executable_that_was_killed_has_failed_at_least_once() {
        let stdout = "\nrunning 3 tests\ntest first ... ok\ntest second ... ";
        assert_eq!(read(stdout, ""), None);
        let tally = read_unfinished(stdout);
        assert_eq!((tally.passed, tally.failed), (1, 1));
    }

    #[test]
    fn the_last_line_has_its_fixed_form() {
        let mut tally = Tally::default();
        tally.add(read(STDOUT, "").unwrap());
        tally.add(read(STDOUT, "").unwrap());
        assert_eq!(tally.line(), "4 passed, 2 failed, 2 skipped");
    }
}
