{
  modules.backup.restic.repositories = {
    nas = {
      url = "sftp:backup@nas.example.org:/restic";
      passwordFile = "/run/secrets/restic-nas";
    };
    object-store = {
      url = "s3:https://s3.example.org/db1";
      passwordFile = "/run/secrets/restic-object-store";
      environmentFile = "/run/secrets/restic-environment";
    };
  };

  modules.services.postgresql.instances.main = {
    enable = true;

    backup.restic.repositoryName = "nas";
    backup.restic.furtherRepositories = [ "object-store" ];

    objectives = {
      rpoSeconds = 600;
      offsiteRpoSeconds = 900;
      rtoSeconds = 3600;
    };

    drill.checks = [
      {
        database = "app";
        query = "SELECT max(ordered_at) > now() - interval '8 days' FROM orders";
      }
    ];
  };
}
