use instance_state::{DrillFailure, DrillReason};

/// An error with the kind of reason that it is.
#[derive(Debug)]
pub struct Failed {
    pub reason: DrillReason,
    pub error: anyhow::Error,
}

impl Failed {
    pub fn new(reason: DrillReason, error: impl Into<anyhow::Error>) -> Self {
        Self {
            reason,
            error: error.into(),
        }
    }

    pub fn into_record(self) -> DrillFailure {
        DrillFailure {
            reason: self.reason,
            message: format!("{:#}", self.error),
            hint: tool::hint_of(&self.error).map(ToOwned::to_owned),
        }
    }
}

/// What has no other reason is in the way of the drill itself, and says nothing about the backups.
impl From<anyhow::Error> for Failed {
    fn from(error: anyhow::Error) -> Self {
        Self::new(DrillReason::NotPossible, error)
    }
}

/// Gives an error its kind of reason.
pub trait Because<T> {
    fn because(self, reason: DrillReason) -> Result<T, Failed>;
}

impl<T> Because<T> for anyhow::Result<T> {
    fn because(self, reason: DrillReason) -> Result<T, Failed> {
        self.map_err(|error| Failed::new(reason, error))
    }
}
