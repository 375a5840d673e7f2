# A database host whose only copies that outlive it are on another host of the lab, by ssh. It fetches itself back from there.
{
  # Whichever machine has this configuration is this host.
  modules.backup.restic.hostName = "forge";

  # No secret: nobody but the tests ever has this repository.
  environment.etc."lab/restic-password".text = "lab";

  modules.backup.restic.repositories.nas = {
    url = "sftp:root@elsewhere:/srv/copies/forge";
    passwordFile = "/etc/lab/restic-password";
  };

  modules.backup.restic.jobs.postgresql-main-wal.randomizedDelaySeconds = 1;

  modules.services.postgresql.instances.main = {
    enable = true;
    version = "17";
    sharedBuffers = "64MB";
    effectiveCacheSize = "256MB";

    backup = {
      # Several of them in the time that a test has.
      walArchive.archiveTimeout = 3;
      walArchive.syncInterval = "*:*:0/5";
      restic.repositoryName = "nas";
      # A checkpoint that takes its time would be most of the time of a test.
      baseBackup.fastCheckpoint = true;
    };
    objectives.offsiteRpoSeconds = 60;

    preseed = {
      enable = true;
      restoreMethods = [ "restic" ];
      deadlineSeconds = 900;
    };
  };
}
