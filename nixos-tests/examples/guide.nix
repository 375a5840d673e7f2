# The three instances of the guide that this project began with, on one host: production, development and analytics, with
# separate data, archives, backups and repositories.
{ ... }:
let
  primaryRepo = {
    name = "nas-primary";
    url = "/mnt/nas-backup";
    passwordFile = "/run/secrets/restic/password";
  };
  secondaryRepo = {
    name = "offsite";
    url = "s3:https://s3.example.org/forge";
    passwordFile = "/run/secrets/restic/offsite-password";
    environmentFile = "/run/secrets/restic/offsite-env";
  };
in
{
  networking.hostName = "forge";
  networking.hostId = "8425e349";

  modules.storage.datasets = {
    enable = true;
    parentDataset = "tank/services";
  };

  modules.backup.restic.repositories = {
    ${primaryRepo.name} = {
      inherit (primaryRepo) url passwordFile;
    };
    ${secondaryRepo.name} = {
      inherit (secondaryRepo) url passwordFile environmentFile;
    };
  };

  modules.services.postgresql.instances = {
    main = {
      enable = true;
      version = "16";
      port = 5432;
      databases = [
        "app1"
        "app2"
      ];

      sharedBuffers = "4GB";
      effectiveCacheSize = "12GB";

      backup = {
        enable = true;
        restic.repositoryName = primaryRepo.name;
        walArchive.enable = true;
        baseBackup.enable = true;
      };

      preseed.enable = false;
      healthCheck.enable = true;
      monitoring.enable = true;
    };

    dev = {
      enable = true;
      version = "15";
      port = 5433;
      databases = [
        "dev_db"
        "test_db"
      ];

      sharedBuffers = "1GB";
      effectiveCacheSize = "3GB";

      backup = {
        enable = true;
        restic.repositoryName = primaryRepo.name;
        walArchive = {
          enable = true;
          syncInterval = "*/15";
          retentionDays = 7;
        };
        baseBackup = {
          enable = true;
          schedule = "daily";
        };
      };

      preseed.enable = false;
      healthCheck.enable = true;
    };

    analytics = {
      enable = true;
      version = "16";
      port = 5434;
      databases = [
        "warehouse"
        "metrics"
      ];

      sharedBuffers = "8GB";
      effectiveCacheSize = "24GB";
      workMem = "256MB";

      backup = {
        enable = true;
        restic.repositoryName = secondaryRepo.name;
        walArchive.enable = true;
        baseBackup.schedule = "daily";
      };

      preseed.enable = false;
      healthCheck.enable = true;
    };
  };
}
