# What the lab loses with all its disks and gets back from the host that it was replicated to: one instance whose data and WAL archive
# are sent over ssh. The second host is the first one under another name, with a pool of its own.
let
  replicated = dataset: {
    replication = {
      targetHost = "nas.example.org";
      targetUser = "receiver";
      targetDataset = "vault/machine/${dataset}";
      # Nobody has this key: the first attempt has to be refused.
      hostKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGJhY2tzdGF5L2V4YW1wbGUvbm90LWEtcmVhbC1r";
    };
  };
in
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
      "tank/services/postgresql/main" = replicated "main";
      "tank/services/postgresql/main-wal" = replicated "main-wal";
    };
  };

  modules.services.postgresql.instances.main = {
    enable = true;
    version = "17";
    sharedBuffers = "64MB";
    effectiveCacheSize = "256MB";
    # A checkpoint that takes its time would be most of the time of a test.
    backup.baseBackup.fastCheckpoint = true;
    preseed = {
      enable = true;
      restoreMethods = [ "syncoid" ];
    };
  };
}
