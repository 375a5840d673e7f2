# What the lab boots in an emulated machine to see snapshots as base backups: as lab-zfs.nix, with two tablespaces on datasets of their own.
{
  imports = [ ./lab-zfs.nix ];

  modules.storage.datasets.services =
    let
      tablespace = path: {
        mountpoint = path;
        recordsize = "8K";
        owner = "postgres";
        group = "postgres";
        mode = "0700";
        usedBy = [ "postgresql-main.service" ];
      };
    in
    {
      "postgresql/main/fast" = tablespace "/srv/fast";
      "postgresql/main/slow" = tablespace "/srv/slow";
    };

  modules.services.postgresql.instances.main = {
    tablespaces = [
      "/srv/fast"
      "/srv/slow"
    ];
    backup.baseBackup.snapshots = {
      enable = true;
      # The test starts the unit.
      schedule = "yearly";
      keep = 2;
    };
  };
}
