{
  networking.hostName = "db1";
  # ZFS wants eight hexadecimal digits of the machine's own: `head -c4 /dev/urandom | od -A none -t x4`.
  networking.hostId = "deadbeef";

  # Datasets are made below this one. Leave the block out on a machine without ZFS.
  modules.storage.datasets = {
    enable = true;
    parentDataset = "tank/services";
  };

  # Where copies go that survive this machine.
  modules.backup.restic.repositories.offsite = {
    url = "s3:https://s3.example.org/db1";
    # Files on the machine, put there by hand or by sops-nix or agenix. Keep a copy of the password elsewhere.
    passwordFile = "/run/secrets/restic-password";
    environmentFile = "/run/secrets/restic-environment";
  };

  modules.services.postgresql.instances.main = {
    enable = true;
    version = "17";
    databases = [ "app" ];

    backup.restic = {
      enable = true;
      repositoryName = "offsite";
    };

    # On a new machine: fill the empty data directory from the copies, before the first start.
    preseed.enable = true;
  };
}
