# What the lab boots to see replication: one instance whose data is sent to a second pool of the host and whose WAL archive is sent over
# ssh. The second machine is the first one under another name, so the pool receives both.
{
  networking.hostName = "machine";
  networking.hostId = "8425e349";

  # Both pools are thrown away.
  modules.backup.allowEveryCopyOnThisHost = true;

  modules.storage.datasets = {
    enable = true;
    parentDataset = "tank/services";
  };

  modules.backup.sanoid = {
    # Nothing is sent at a time that a test does not choose.
    replicationInterval = "yearly";
    snapshotInterval = "yearly";
    datasets = {
      "tank/services/postgresql/main".replication.targetDataset = "vault/machine/main";
      "tank/services/postgresql/main-wal".replication = {
        targetHost = "nas.example.org";
        targetUser = "receiver";
        targetDataset = "vault/machine/main-wal";
        # Nobody has this key: the first transfer has to be refused.
        hostKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGJhY2tzdGF5L2V4YW1wbGUvbm90LWEtcmVhbC1r";
      };
    };
  };

  modules.services.postgresql.instances.main = {
    enable = true;
    version = "17";
    databases = [ "app" ];
    sharedBuffers = "64MB";
    effectiveCacheSize = "256MB";
    # A checkpoint that takes its time would be most of the time of a test.
    backup.baseBackup.fastCheckpoint = true;
  };
}
