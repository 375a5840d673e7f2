//! Who was told of which failure, and when.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use settings::notifications::Backend;

/// Directory of what was told, below the state directory. A unit's `ConditionPathExists=` looks here.
const FAILED: &str = "failed";

/// Who was told of one failure.
#[derive(Debug)]
pub struct Memory {
    path: PathBuf,
    told: Told,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Told {
    /// When each backend took the message last, in seconds since 1970.
    backends: BTreeMap<Backend, i64>,
}

impl Memory {
    /// Reads what is known of `event`. A file that cannot be understood knows nothing: to tell twice is
    /// better than not to tell.
    pub fn read(state_directory: &Path, event: &str) -> Result<Self> {
        let path = state_directory.join(FAILED).join(event);
        let told = match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).unwrap_or_default(),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Told::default(),
            Err(err) => return Err(err).with_context(|| format!("read \"{}\"", path.display())),
        };
        Ok(Self { path, told })
    }

    /// Whether `backend` is to be told at `now`.
    pub fn is_due(&self, backend: Backend, now: i64, repeat_after_seconds: u32) -> bool {
        self.told.backends.get(&backend).is_none_or(|told| {
            // A clock that was set back must not silence a failure.
            *told > now || now - told >= i64::from(repeat_after_seconds)
        })
    }

    /// Notes that `backend` was told.
    pub fn told(&mut self, backend: Backend, now: i64) {
        self.told.backends.insert(backend, now);
    }

    /// Notes that there is nothing left to tell `backend`.
    pub fn forget(&mut self, backend: Backend) {
        self.told.backends.remove(&backend);
    }

    /// Those who were told.
    pub fn who_was_told(&self) -> impl Iterator<Item = Backend> + use<> {
        self.told
            .backends
            .keys()
            .copied()
            .collect::<Vec<_>>()
            .into_iter()
    }

    /// Writes it; when nobody is left in it, it goes.
    pub fn write(&self) -> Result<()> {
        if self.told.backends.is_empty() {
            return self.remove();
        }
        if let Some(directory) = self.path.parent() {
            durable_file::ensure_directory(directory)?;
        }
        let text = serde_json::to_vec(&self.told).context("write what was told")?;
        durable_file::replace(&self.path, &text)
    }

    /// Forgets everything.
    pub fn remove(&self) -> Result<()> {
        durable_file::remove(&self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_again_after_a_while_and_after_the_clock_was_set_back() {
        let state = tempfile::tempdir().unwrap();
        let mut memory = Memory::read(state.path(), "t:u.service").unwrap();
        assert!(memory.is_due(Backend::Ntfy, 1000, 60));
        memory.told(Backend::Ntfy, 1000);
        memory.write().unwrap();
        let mut memory = Memory::read(state.path(), "t:u.service").unwrap();
        assert!(!memory.is_due(Backend::Ntfy, 1059, 60));
        assert!(memory.is_due(Backend::Ntfy, 1060, 60));
        assert!(memory.is_due(Backend::Ntfy, 999, 60));
        assert!(memory.is_due(Backend::Pushover, 1001, 60));
        memory.forget(Backend::Ntfy);
        memory.write().unwrap();
        assert!(!state.path().join("failed/t:u.service").exists());
    }

    #[test]
    fn a_file_that_cannot_be_understood_silences_nobody() {
        let state = tempfile::tempdir().unwrap();
        fs::create_dir(state.path().join("failed")).unwrap();
        fs::write(state.path().join("failed/t:u.service"), "x").unwrap();
        let memory = Memory::read(state.path(), "t:u.service").unwrap();
        assert!(memory.is_due(Backend::Ntfy, 1000, 60));
    }
}
