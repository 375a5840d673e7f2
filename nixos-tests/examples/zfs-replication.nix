# One instance on ZFS, whose snapshots are sent to a second machine every quarter of an hour. No object store is involved.
{
  networking.hostName = "db1";
  networking.hostId = "1c2d3e4f";

  modules.storage.datasets = {
    enable = true;
    parentDataset = "tank/services";
  };

  modules.backup.sanoid = {
    replicationInterval = "*/15";
    sshKeyPath = "/run/secrets/zfs-replication";
    datasets =
      let
        replica = name: {
          targetHost = "nas-1.example.org";
          targetDataset = "backup/db1/services/postgresql/${name}";
          hostKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGJhY2tzdGF5L2V4YW1wbGUvbm90LWEtcmVhbC1r";
          retentionDays = 60;
        };
      in
      {
        "tank/services/postgresql/main".replication = replica "main";
        "tank/services/postgresql/main-wal".replication = replica "main-wal";
      };
  };

  modules.services.postgresql.instances.main = {
    enable = true;
    version = "17";
    databases = [ "app" ];
  };
}
