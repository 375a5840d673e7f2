# The first instance of the guide that this project began with: one server on ZFS, with its WAL and base backups copied into a
# restic repository on another machine.
{ ... }:
let
  primaryRepo = {
    name = "nas-primary";
    url = "/mnt/nas-backup";
    passwordFile = "/run/secrets/restic/password";
  };
in
{
  networking.hostName = "forge";
  networking.hostId = "8425e349";

  modules.storage.datasets = {
    enable = true;
    parentDataset = "tank/services";
  };

  modules.services.postgresql.instances.main = {
    enable = true;
    version = "16";
    port = 5432;

    sharedBuffers = "2GB";
    effectiveCacheSize = "6GB";
    workMem = "64MB";
    maintenanceWorkMem = "512MB";

    databases = [
      "app1"
      "app2"
    ];

    backup = {
      walArchive.enable = true;
      walArchive.syncInterval = "*/5";
      walArchive.retentionDays = 30;

      baseBackup.enable = true;
      baseBackup.schedule = "daily";

      restic = {
        enable = true;
        repositoryName = primaryRepo.name;
        repositoryUrl = primaryRepo.url;
        passwordFile = primaryRepo.passwordFile;
      };
    };

    healthCheck.enable = true;
    healthCheck.interval = "1min";

    monitoring.enable = true;
  };
}
