{
  modules.services.postgresql.instances.main = {
    enable = true;
    databases = [ "app" ];

    backup.restic = {
      repositoryName = "offsite";
      repositoryUrl = "s3:https://s3.example.org/db1";
      passwordFile = "/run/secrets/restic-password";
      environmentFile = "/run/secrets/restic-environment";
    };
  };
}
