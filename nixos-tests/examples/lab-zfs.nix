# What the lab boots in an emulated machine to see everything that needs ZFS: one instance, its datasets below tank/services.
{
  networking.hostName = "machine";
  networking.hostId = "8425e349";

  # There is one pool, and it is thrown away.
  modules.backup.allowEveryCopyOnThisHost = true;

  modules.storage.datasets = {
    enable = true;
    parentDataset = "tank/services";
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
