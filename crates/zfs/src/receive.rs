//! Receiving datasets from another machine, and giving them another name.

use anyhow::{Context as _, Result};
use command::Command;

use crate::Zfs;

impl Zfs {
    /// The command that receives a stream from its standard input into the dataset `name`, which is not mounted by
    /// that. What came before an interruption is kept, and `zfs send -t` goes on there by the property
    /// `receive_resume_token`. `properties` are set in the place of those that the stream may bring.
    #[must_use]
    pub fn receive(&self, name: &str, properties: &[(&str, &str)]) -> Command {
        let mut command = Command::new(&self.zfs).args(["receive", "-s", "-u"]);
        for (property, value) in properties {
            command = command.arg("-o").arg(format!("{property}={value}"));
        }
        command.arg(name)
    }

    /// Removes what an interrupted receive has left of a stream. A dataset that had none before is removed with it.
    ///
    /// # Errors
    ///
    /// Fails when `zfs` does.
    pub fn abort_receive(&self, name: &str) -> Result<()> {
        self.told(&["receive", "-A", name])
            .with_context(|| format!("remove what was received in part of dataset \"{name}\""))
    }

    /// Lets the user `user` do what `rights` name with the dataset `name` and all below it.
    ///
    /// # Errors
    ///
    /// Fails when `zfs` does.
    pub fn allow(&self, user: &str, rights: &str, name: &str) -> Result<()> {
        self.told(&["allow", "-u", user, rights, name])
            .with_context(|| format!("give user \"{user}\" rights over dataset \"{name}\""))
    }

    /// Gives the dataset `name` another name in the same pool.
    ///
    /// # Errors
    ///
    /// Fails when `zfs` does; then it has its old one.
    pub fn rename(&self, name: &str, to: &str) -> Result<()> {
        self.told(&["rename", name, to])
            .with_context(|| format!("rename dataset \"{name}\" to \"{to}\""))
    }

    /// Unmounts the file system `name`.
    ///
    /// # Errors
    ///
    /// Fails when `zfs` does: while somebody uses it, for example.
    pub fn unmount(&self, name: &str) -> Result<()> {
        self.told(&["unmount", name])
            .with_context(|| format!("unmount dataset \"{name}\""))
    }

    /// Destroys the dataset `name`, which has neither snapshots nor datasets below it.
    ///
    /// # Errors
    ///
    /// Fails when `zfs` does, and where it has any; then nothing is destroyed.
    pub fn destroy_empty(&self, name: &str) -> Result<()> {
        self.told(&["destroy", name])
            .with_context(|| format!("destroy dataset \"{name}\""))
    }

    /// Destroys the dataset `name` with its snapshots and everything below it.
    ///
    /// # Errors
    ///
    /// Fails when `zfs` does; a part may be destroyed then.
    pub fn destroy_with_snapshots(&self, name: &str) -> Result<()> {
        self.told(&["destroy", "-r", name])
            .with_context(|| format!("destroy dataset \"{name}\" with its snapshots"))
    }

    pub(crate) fn told(&self, arguments: &[&str]) -> Result<()> {
        Command::new(&self.zfs).args(arguments).run().map(drop)
    }
}
