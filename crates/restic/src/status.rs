use std::fmt;

/// How restic ended.
///
/// # Source
///
/// restic, "Scripting", "Exit codes": "if an unknown exit code is returned, then it must be treated as a
/// command failure". 10, 11 and 12 are given from version 0.17 on; older ones end with 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// 0: done.
    Success,
    /// 1: failed, for whatever reason.
    Failed,
    /// 2: the Go runtime ended it.
    Crashed,
    /// 3: a backup could not read everything.
    Incomplete,
    /// 10: there is no repository.
    NoRepository,
    /// 11: the repository is locked.
    Locked,
    /// 12: the password is wrong.
    WrongPassword,
    /// 130: interrupted.
    Interrupted,
    /// Another status, which a newer version may give.
    Unknown(i32),
    /// A signal ended it.
    Killed,
}

impl Status {
    /// Reads an exit status. Nothing is the status of what a signal ended.
    #[must_use]
    pub fn of(code: Option<i32>) -> Self {
        match code {
            Some(0) => Self::Success,
            Some(1) => Self::Failed,
            Some(2) => Self::Crashed,
            Some(3) => Self::Incomplete,
            Some(10) => Self::NoRepository,
            Some(11) => Self::Locked,
            Some(12) => Self::WrongPassword,
            Some(130) => Self::Interrupted,
            Some(other) => Self::Unknown(other),
            None => Self::Killed,
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub fn hint(self) -> &'static str {
        match self {
            Self::Success => "nothing",
            Self::Failed => {
                "is the repository reachable, and are password and credentials right? the same restic command by hand says more"
            }
            Self::Crashed | Self::Killed => "is there enough memory?",
            Self::Incomplete => "the snapshot is not complete; an earlier one may be",
            Self::NoRepository => {
                "is the repository's address right, and is it mounted? a mistyped address looks like this too"
            }
            Self::Locked => {
                "another restic is at work; a lock of one that died is removed by `restic unlock`"
            }
            Self::WrongPassword => "is passwordFile that of this repository?",
            Self::Interrupted => "run it again",
            Self::Unknown(_) => "this version of restic knows a status that backstay does not",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Success => f.write_str("restic succeeded"),
            Self::Failed => f.write_str("restic failed"),
            Self::Crashed => f.write_str("restic crashed"),
            Self::Incomplete => f.write_str("restic could not read everything"),
            Self::NoRepository => f.write_str("there is no repository"),
            Self::Locked => f.write_str("the repository is locked"),
            Self::WrongPassword => f.write_str("the password is wrong"),
            Self::Interrupted => f.write_str("restic was interrupted"),
            Self::Unknown(code) => write!(f, "restic exited with the unknown status {code}"),
            Self::Killed => f.write_str("restic was killed by a signal"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t59_every_documented_status_is_told_apart_and_no_other_is_a_success() {
        let known = [
            (0, Status::Success),
            (1, Status::Failed),
            (2, Status::Crashed),
            (3, Status::Incomplete),
            (10, Status::NoRepository),
            (11, Status::Locked),
            (12, Status::WrongPassword),
            (130, Status::Interrupted),
        ];
        for code in 0..=255 {
            let expected = known
                .iter()
                .find(|(known, _)| *known == code)
                .map_or(Status::Unknown(code), |(_, status)| *status);
            assert_eq!(Status::of(Some(code)), expected);
            assert_eq!(Status::of(Some(code)) == Status::Success, code == 0);
        }
        assert_eq!(Status::of(None), Status::Killed);
    }
}
