# One instance on an ordinary file system. Its only copies elsewhere are in an object store, and it fetches itself back from there.
{
  networking.hostName = "db1";

  modules.backup.restic.repositories.offsite = {
    url = "s3:https://s3.example.org/db1";
    passwordFile = "/run/secrets/restic-password";
    environmentFile = "/run/secrets/restic-environment";
  };

  modules.services.postgresql.instances.main = {
    enable = true;
    version = "17";
    databases = [ "app" ];

    backup = {
      walArchive.archiveTimeout = 60;
      restic.repositoryName = "offsite";
    };

    preseed = {
      enable = true;
      restoreMethods = [ "restic" ];
    };
  };
}
