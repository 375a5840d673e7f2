# modules.storage.datasets: the ZFS datasets of this host.
{ config, lib, ... }:
let
  cfg = config.modules.storage.datasets;

  unitName = lib.types.strMatching "[a-zA-Z0-9@:_.\\-]+[.](service|socket|mount|automount|swap|target|path|timer|slice)";

  userName = lib.types.strMatching "[A-Za-z_][A-Za-z0-9_.-]{0,30}[$]?";

  commonOptions = {
    recordsize = lib.mkOption {
      type = lib.types.str;
      default = "128K";
      example = "8K";
      description = ''
        Largest block that ZFS writes for a file of this dataset: a power of two from 512 to 16M.

        A database that changes 8 KiB pages reads and writes a whole block for each of them, so its
        files want 8K; an archive that is only ever written whole compresses better with large
        blocks. Changing it later affects files that are written from then on.

        Sets [`recordsize`](https://openzfs.github.io/openzfs-docs/man/master/7/zfsprops.7.html#recordsize).
      '';
    };

    compression = lib.mkOption {
      type = lib.types.str;
      default = "lz4";
      example = "zstd";
      description = ''
        How ZFS compresses the blocks of this dataset: `on`, `off`, `lz4`, `lzjb`, `zle`, `gzip`,
        `gzip-1` to `gzip-9`, `zstd`, `zstd-1` to `zstd-19`, `zstd-fast`, or `zstd-fast-N` with N
        one of 1 to 10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 500 and 1000.

        `lz4` costs next to nothing and gives up early on what is compressed already.

        Sets [`compression`](https://openzfs.github.io/openzfs-docs/man/master/7/zfsprops.7.html#compression).
      '';
    };

    properties = lib.mkOption {
      type = lib.types.attrsOf lib.types.str;
      default = { };
      example = {
        logbias = "throughput";
      };
      description = ''
        Further ZFS properties, as `zfs set` takes them. One that can only be set while a dataset is
        created is reported when it differs, and never changed.

        `sync=disabled` is refused: PostgreSQL would report commits that a power cut takes back.
        Properties that have an option of their own are refused here.
      '';
    };

    owner = lib.mkOption {
      type = userName;
      default = "root";
      example = "postgres";
      description = "User that owns the root directory of the mounted dataset.";
    };

    group = lib.mkOption {
      type = userName;
      default = "root";
      example = "postgres";
      description = "Group of the root directory of the mounted dataset.";
    };

    mode = lib.mkOption {
      type = lib.types.strMatching "0?[0-7]{3}";
      default = "0750";
      example = "0700";
      description = ''
        Mode of the root directory of the mounted dataset, in octal. Files below it are left alone.
      '';
    };

    purpose = lib.mkOption {
      type = lib.types.nullOr lib.types.singleLineStr;
      default = null;
      example = "data of the PostgreSQL instance main";
      description = ''
        What the dataset is for, in a few words. Messages about the dataset say it.
      '';
    };

    usedBy = lib.mkOption {
      type = lib.types.listOf unitName;
      default = [ ];
      example = [ "immich.service" ];
      description = ''
        Units that work on this dataset. Each is started after `backstay-datasets.service`, and asks
        for it. A unit that must not run on an unmounted directory has to say so itself, with
        `AssertPathIsMountPoint=`: this is an order, and an order does not fail.
      '';
    };
  };

  # What other modules read. The name of a dataset and the place of its mount are decided here and
  # nowhere else.
  resolved = {
    dataset = lib.mkOption {
      type = lib.types.str;
      internal = true;
      readOnly = true;
      description = "Full name of the dataset, from the pool on.";
    };
    path = lib.mkOption {
      type = lib.types.nullOr lib.types.str;
      internal = true;
      readOnly = true;
      description = "Where the dataset is mounted by ZFS; null if ZFS does not mount it.";
    };
  };

  pathOf =
    mountpoint:
    if mountpoint == "none" || mountpoint == "legacy" then null else mountpoint;

  serviceDataset =
    { name, config, ... }:
    {
      options =
        commonOptions
        // resolved
        // {
          mountpoint = lib.mkOption {
            type = lib.types.nullOr lib.types.str;
            default = null;
            example = "/var/lib/immich";
            description = ''
              Where the dataset is mounted; null means the name of the dataset below
              `modules.storage.datasets.parentMount`. With `legacy` the mount is left to
              `fileSystems`, with `none` the dataset only holds others.

              A dataset that is mounted somewhere else is never moved while anything uses it.
            '';
          };
        };
      config = {
        dataset = "${cfg.parentDataset}/${name}";
        path =
          if config.mountpoint == null then "${cfg.parentMount}/${name}" else pathOf config.mountpoint;
      };
    };

  utilityDataset =
    { name, config, ... }:
    {
      options =
        commonOptions
        // resolved
        // {
          mountpoint = lib.mkOption {
            type = lib.types.str;
            default = "none";
            example = "/mnt/media";
            description = ''
              Where the dataset is mounted. With `none` it only holds others, with `legacy` the mount
              is left to `fileSystems`.
            '';
          };
        };
      config = {
        dataset = name;
        path = pathOf config.mountpoint;
      };
    };
in
{
  options.modules.storage.datasets = {
    enable = lib.mkOption {
      type = lib.types.bool;
      default = false;
      example = true;
      description = ''
        Whether this host's ZFS datasets are declared here. `backstay-datasets.service` creates what is
        missing and sets what differs, at every boot and at every switch. It never destroys a dataset,
        never creates a pool, and fails if in the end something declared is not there.
      '';
    };

    parentDataset = lib.mkOption {
      type = lib.types.str;
      default = "rpool/safe/persist";
      example = "tank/services";
      description = ''
        Dataset below which those of
        `modules.storage.datasets.services` live. It is created, without a mount of its own, if
        only its pool exists.
      '';
    };

    parentMount = lib.mkOption {
      type = lib.types.str;
      default = "/srv";
      example = "/data";
      description = ''
        Directory below which datasets are mounted that do not say where.
      '';
    };

    services = lib.mkOption {
      type = lib.types.attrsOf (lib.types.submodule serviceDataset);
      default = { };
      example = {
        immich = {
          mountpoint = "/var/lib/immich";
          owner = "immich";
          recordsize = "1M";
        };
      };
      description = ''
        Datasets below `modules.storage.datasets.parentDataset`, by the rest of their name. A
        PostgreSQL instance declares its own here.
      '';
    };

    utility = lib.mkOption {
      type = lib.types.attrsOf (lib.types.submodule utilityDataset);
      default = { };
      example = {
        "tank/media" = {
          mountpoint = "/mnt/media";
          recordsize = "1M";
        };
      };
      description = ''
        Datasets anywhere else, by their full name. The datasets above one have to be declared as
        well, so that a misspelt name is not created quietly.
      '';
    };
  };
}
