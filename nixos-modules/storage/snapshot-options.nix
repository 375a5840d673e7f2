# modules.backup.sanoid: which datasets are snapshotted, what is kept, and where it is replicated.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.modules.backup.sanoid;
  blib = import ../lib.nix { inherit lib pkgs; };

  # The divisors of an hour: sanoid counts the minutes of each hour from 0.
  frequentPeriods = lib.types.enum [
    1
    2
    3
    4
    5
    6
    10
    12
    15
    20
    30
  ];

  # The numbers of snapshots, once as a template has them and once as a dataset overrides them.
  retentionOptions =
    {
      counts,
      minutes,
      overrides,
    }:
    let
      count =
        example: what:
        lib.mkOption (
          counts
          // {
            inherit example;
            description = "How many ${what} snapshots are kept.${overrides}";
          }
        );
    in
    {
      frequently = count 12 "very frequent";
      frequentPeriodMinutes = lib.mkOption (
        minutes
        // {
          example = 5;
          description = ''
            Minutes between two very frequent snapshots: a divisor of 60, and no less than the interval
            of `modules.backup.sanoid.snapshotInterval`.${overrides}
          '';
        }
      );
      hourly = count 48 "hourly";
      daily = count 14 "daily";
      weekly = count 8 "weekly";
      monthly = count 6 "monthly";
      yearly = count 2 "yearly";
    };

  template = {
    options =
      retentionOptions {
        # Not null: sanoid keeps 48 hourly, 90 daily and 6 monthly snapshots of what is left open.
        counts = {
          type = lib.types.ints.unsigned;
          default = 0;
        };
        minutes = {
          type = frequentPeriods;
          default = 15;
        };
        overrides = "";
      }
      // {
        autosnap = lib.mkOption {
          type = lib.types.bool;
          default = true;
          example = false;
          description = "Whether sanoid takes snapshots.";
        };
        autoprune = lib.mkOption {
          type = lib.types.bool;
          default = true;
          example = false;
          description = ''
            Whether sanoid destroys its snapshots that are no longer wanted. It touches no snapshot that
            it did not take.
          '';
        };
      };
  };

  nullable = type: {
    type = lib.types.nullOr type;
    default = null;
  };

  replication = {
    options = {
      targetHost = lib.mkOption {
        type = lib.types.nullOr lib.types.str;
        default = null;
        example = "nas-1.example.org";
        description = ''
          Host that receives the snapshots, over ssh. Null means another pool of this host, which
          survives a broken pool and nothing else.
        '';
      };
      targetPort = lib.mkOption {
        type = lib.types.port;
        default = 22;
        example = 2222;
        description = "Port of the ssh server on the target host.";
      };
      targetUser = lib.mkOption {
        type = lib.types.str;
        default = cfg.replicationUser;
        defaultText = lib.literalExpression "config.modules.backup.sanoid.replicationUser";
        example = "backup";
        description = ''
          User on the target host. It needs these rights on the parent of the target dataset, and no
          others: `zfs allow -u USER change-key,compression,create,mount,mountpoint,receive PARENT`.
          Without `destroy` and `rollback` the key of this host cannot remove what it sent.
        '';
      };
      targetDataset = lib.mkOption {
        type = lib.types.nullOr lib.types.str;
        default = null;
        example = "backup/forge/services/postgresql/main";
        description = ''
          Dataset on the target that becomes the replica; its parent has to exist. It is given the
          snapshots and nothing else: nothing on it is rolled back or destroyed, so a replica that was
          changed, or a source that was rolled back, stops the replication with an error. Set
          `readonly=on` on the parent, so that nothing changes it.
        '';
      };
      sendOptions = lib.mkOption {
        type = lib.types.separatedString " ";
        default = "w";
        example = "w p";
        description = ''
          Options of `zfs send`, without their dashes. `w` sends the blocks as they are on disk:
          compressed, and encrypted if the dataset is, so the target never sees the key.
        '';
      };
      recvOptions = lib.mkOption {
        type = lib.types.separatedString " ";
        default = "u";
        example = "u o canmount=off";
        description = ''
          Options of `zfs receive`, without their dashes. `u` leaves the replica unmounted; mounted, its
          access times would change and the next increment would be refused. A property that is set with
          `o` needs a right of its own on the target, `canmount` for the one in the example.
        '';
      };
      hostKey = lib.mkOption {
        type = lib.types.nullOr lib.types.singleLineStr;
        default = null;
        example = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGJhY2tzdGF5L2V4YW1wbGUvbm90LWEtcmVhbC1r";
        description = ''
          The target host's public key, type and key, as `ssh-keyscan HOST` prints them after the name.
          Only a host that shows this key is sent anything. Required for a target host.
        '';
      };
      targetName = lib.mkOption {
        type = lib.types.nullOr lib.types.singleLineStr;
        default = null;
        example = "NAS";
        description = ''
          What people call the target, for the description of the unit and for messages; null means the
          name of the host.
        '';
      };
      targetLocation = lib.mkOption {
        type = lib.types.nullOr lib.types.singleLineStr;
        default = null;
        example = "second site";
        description = ''
          Where the target stands, for the description of the unit. With the name of this host it counts
          as a copy in the same place when the ways back are checked; null means that the target host is a
          place of its own.
        '';
      };
      retentionDays = lib.mkOption {
        type = lib.types.nullOr lib.types.ints.positive;
        default = null;
        example = 14;
        description = ''
          For how many days the target keeps what it receives. The target decides that, not this host:
          write here what its administrator promised, and a promise that is shorter than the recovery
          window of an instance is a warning. Null means unknown.
        '';
      };
    };
  };

  dataset = {
    options = {
      recursive = lib.mkOption {
        type = lib.types.either lib.types.bool (lib.types.enum [ "zfs" ]);
        default = false;
        example = "zfs";
        description = ''
          Whether the datasets below this one are snapshotted, and replicated, with it. `true` takes one
          snapshot after the other; `"zfs"` takes all of them in one atomic step, which a cluster whose
          tablespaces are datasets of their own needs.
        '';
      };
      useTemplate = lib.mkOption {
        type = lib.types.listOf lib.types.str;
        default = [ ];
        example = [ "wal-frequent" ];
        description = ''
          Templates of `modules.backup.sanoid.templates` for this dataset. What a later one says
          wins over an earlier one.
        '';
      };
      retention = lib.mkOption {
        type = lib.types.submodule {
          options = retentionOptions {
            counts = nullable lib.types.ints.unsigned;
            minutes = nullable frequentPeriods;
            overrides = " Null means what the templates say.";
          };
        };
        default = { };
        example = {
          daily = 30;
        };
        description = "What differs from the templates for this dataset.";
      };
      autosnap = lib.mkOption {
        type = lib.types.nullOr lib.types.bool;
        default = null;
        example = false;
        description = ''
          Whether sanoid takes snapshots of this dataset; null means what the templates say. A replica
          takes none: its snapshots arrive.
        '';
      };
      autoprune = lib.mkOption {
        type = lib.types.nullOr lib.types.bool;
        default = null;
        example = false;
        description = ''
          Whether sanoid destroys its snapshots of this dataset that are no longer wanted; null means
          what the templates say.
        '';
      };
      replication = lib.mkOption {
        type = lib.types.nullOr (lib.types.submodule replication);
        default = null;
        example = {
          targetHost = "nas-1.example.org";
          targetDataset = "backup/forge/services/postgresql/main";
          hostKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGJhY2tzdGF5L2V4YW1wbGUvbm90LWEtcmVhbC1r";
        };
        description = ''
          Where the snapshots of this dataset are sent. An interrupted transfer goes on where it
          stopped. Null means nowhere.
        '';
      };
    };
  };
in
{
  options.modules.backup.sanoid = {
    enable = lib.mkOption {
      type = lib.types.bool;
      default = config.modules.storage.datasets.enable;
      defaultText = lib.literalExpression "config.modules.storage.datasets.enable";
      example = false;
      description = ''
        Whether snapshots are taken, pruned and replicated as declared here, by sanoid and syncoid. The
        datasets of each PostgreSQL instance are declared by themselves: its data with the template
        `postgresql`, its WAL archive with `wal-frequent`.
      '';
    };

    snapshotInterval = lib.mkOption {
      type = blib.types.calendar;
      default = "*/5";
      example = "*/15";
      description = ''
        When sanoid looks whether a snapshot is due. It takes none that is not, so this is at most as
        long as the shortest period that is declared.
      '';
    };

    replicationInterval = lib.mkOption {
      type = blib.types.calendar;
      default = "hourly";
      example = "*/15";
      description = ''
        When new snapshots are sent. What was committed since the last time is lost with this host,
        unless it is copied in another way.
      '';
    };

    replicationUser = lib.mkOption {
      type = lib.types.str;
      default = "zfs-replication";
      example = "syncoid";
      description = ''
        User on this host that sends snapshots. While it sends, it may `bookmark`, `hold` and `send` the
        datasets that are replicated, and nothing else.
      '';
    };

    sshKeyPath = lib.mkOption {
      type = lib.types.nullOr blib.types.externalPath;
      default = "/var/lib/zfs-replication/.ssh/id_ed25519";
      example = "/run/secrets/zfs-replication";
      description = ''
        File with the private ssh key for replication to other hosts, readable by
        `modules.backup.sanoid.replicationUser`. Keep a copy of it where this host's disks are
        not: a new machine needs it to fetch the replica.
      '';
    };

    templates = lib.mkOption {
      type = lib.types.attrsOf (lib.types.submodule template);
      default = { };
      example = {
        production = {
          hourly = 48;
          daily = 30;
        };
      };
      description = ''
        Retention policies by name. `postgresql` keeps 24 hourly, 7 daily and 4 weekly snapshots;
        `wal-frequent` keeps one for every five minutes of the last hour, 48 hourly and 7 daily ones.
        Both can be changed here.
      '';
    };

    datasets = lib.mkOption {
      type = lib.types.attrsOf (lib.types.submodule dataset);
      default = { };
      example = {
        "tank/services/immich" = {
          useTemplate = [ "production" ];
        };
      };
      description = "Datasets to snapshot and to replicate, by their full name.";
    };

    replicationOf = lib.mkOption {
      type = lib.types.raw;
      internal = true;
      readOnly = true;
      description = ''
        Function from the name of a dataset to where its replica is, or null. A dataset is replicated
        by its own declaration, or by a recursive one above it.
      '';
    };
  };
}
