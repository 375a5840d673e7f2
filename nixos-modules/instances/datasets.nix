# The datasets of an instance, and the mounts that follow from them.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  blib = import ../lib.nix { inherit lib pkgs; };

  cfg = config.modules.services.postgresql;
  inherit (config.modules.storage) datasets;

  hasDatasets = instance: datasets.enable && instance.integration.storage.enable;

  # A user who moves archive or backups elsewhere has a disk in mind, which is not ours to choose.
  hasArchiveDataset =
    name: instance:
    hasDatasets instance
    && instance.backup.isArchiving
    && instance.paths.archive == "/var/lib/postgresql/${name}-wal";
  hasBackupDataset =
    name: instance:
    hasDatasets instance
    && instance.backup.takesBaseBackups
    && instance.paths.backups == "/var/backup/postgresql/${name}";

  # Mount points of this host, as far as Nix can know, with the type of what is mounted there.
  mounts =
    lib.mapAttrs (_: fileSystem: fileSystem.fsType) config.fileSystems
    // lib.optionalAttrs datasets.enable (
      lib.listToAttrs (
        map (dataset: lib.nameValuePair dataset.path "zfs") (
          builtins.filter (dataset: dataset.path != null) (
            builtins.attrValues datasets.services ++ builtins.attrValues datasets.utility
          )
        )
      )
    );

  # The mount point that a path is on, or null where none is declared.
  mountOf =
    path:
    if builtins.hasAttr path mounts then
      path
    else if path == "/" || !lib.hasPrefix "/" path then
      null
    else
      mountOf (builtins.dirOf path);

  # These are mounted in the initrd; nothing runs without them.
  mountedForBoot = [
    null
    "/"
    "/nix"
    "/usr"
    "/var"
    "/var/lib"
    "/var/log"
  ];
  requiredFor = paths: lib.subtractLists mountedForBoot (lib.unique (map mountOf paths));

  datasetsOf =
    name: instance:
    let
      common = {
        inherit (instance) group;
        owner = instance.user;
        mode = "0700";
        # Started after the datasets are there; what makes it fail without them is
        # AssertPathIsMountPoint= in the unit.
        usedBy = [ "postgresql-${name}.service" ];
      };
      # Nobody asks for access times, and keeping them would make every read a write. Extended
      # attributes, where something sets them, stay with the file instead of in a hidden directory.
      properties = {
        atime = lib.mkDefault "off";
        xattr = lib.mkDefault "sa";
        dnodesize = lib.mkDefault "auto";
      };
    in
    # What is only a good choice can be set otherwise in modules.storage.datasets.services.
    {
      "postgresql/${name}" = common // {
        inherit properties;
        purpose = "data of the PostgreSQL instance ${name}";
        mountpoint = instance.paths.root;
        # PostgreSQL's page. A larger record is read, changed and written whole for every page.
        recordsize = lib.mkDefault "8K";
        compression = lib.mkDefault "lz4";
      };
    }
    // lib.optionalAttrs (hasArchiveDataset name instance) {
      "postgresql/${name}-wal" = common // {
        properties = properties // {
          # Files are written once and from front to back, so bandwidth counts and the intent log does not.
          logbias = lib.mkDefault "throughput";
        };
        purpose = "WAL archive of the PostgreSQL instance ${name}";
        mountpoint = instance.paths.archive;
        recordsize = lib.mkDefault "128K";
        # The files are compressed already; lz4 notices that and gives up early.
        compression = lib.mkDefault "lz4";
      };
    }
    // lib.optionalAttrs (hasBackupDataset name instance) {
      "postgresql/${name}-backup" = common // {
        inherit properties;
        purpose = "base backups of the PostgreSQL instance ${name}";
        mountpoint = instance.paths.backups;
        # Large files that are read and written whole, and seldom read at all.
        recordsize = lib.mkDefault "1M";
        compression = lib.mkDefault "zstd";
      };
    };
in
{
  options.modules.services.postgresql.instances = lib.mkOption {
    type = lib.types.attrsOf (
      lib.types.submodule (
        { config, ... }:
        let
          inherit (config) backup paths tablespaces;
        in
        {
          config = {
            requiredMounts = requiredFor (
              [ paths.root ] ++ lib.optional backup.isArchiving paths.archive ++ tablespaces
            );
            backupMounts = requiredFor (lib.optional backup.takesBaseBackups paths.backups);
            isOnZfs = mounts.${toString (mountOf paths.root)} or null == "zfs";
          };
        }
      )
    );
  };

  config.modules.storage.datasets.services = lib.mkMerge (
    lib.mapAttrsToList datasetsOf (
      lib.filterAttrs (_: hasDatasets) (blib.enabled cfg.instances)
    )
  );
}
