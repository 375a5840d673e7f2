//! Whether what is called durable is: without that, no commit and no archived file outlives a power cut.

use super::{Judge, live};
use crate::finding::Check;
use crate::seen::Sync;

impl Judge<'_> {
    pub(super) fn durability(&mut self) {
        let seen = self.seen;
        if let Some(live) = live(seen) {
            self.verdict.checked(Check::Durability);
            if !live.fsync {
                self.critical(
                    Check::Durability,
                    "fsync is off: a power cut loses committed changes and can leave a cluster that is beyond repair",
                    "alter system set fsync = on; select pg_reload_conf(); then take a base backup",
                );
            }
        }
        for volume in &seen.volumes {
            self.verdict.checked(Check::Durability);
            let (source, places) = (&volume.source, volume.places.join(", "));
            match &volume.sync {
                Ok(Sync::Kept) => {}
                Ok(Sync::Disabled { by }) => self.critical(
                    Check::Durability,
                    format!(
                        "dataset \"{source}\" of {places} has sync=disabled: a power cut takes back what it has reported as durable"
                    ),
                    format!("zfs set sync=standard {by}"),
                ),
                Ok(Sync::WithoutBarriers) => self.critical(
                    Check::Durability,
                    format!(
                        "\"{source}\" of {places} is mounted without write barriers: a power cut takes back what the disk had not written yet"
                    ),
                    "take nobarrier, or barrier=0, out of its mount options, and mount it anew",
                ),
                Err(unseen) => self.unknown(
                    Check::Durability,
                    unseen,
                    "may this user open /dev/zfs, and does zpool status show the pool as well?",
                ),
            }
        }
    }
}
