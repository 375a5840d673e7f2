# What a user declares of checks, metrics, objectives and rehearsed restores of an instance.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  blib = import ../lib.nix { inherit lib pkgs; };
  intervalOf = import ../backup/interval.nix { inherit lib; };
  policy = import ../storage/policy.nix { inherit lib; };
  replicas = import ./replicated.nix { inherit lib config; };
  inherit (config.modules.backup) sanoid;
  inherit (lib) mkOption types;

  # systemd.time(7), "Parsing Time Spans". A span of 0 would run the check without a pause.
  timeSpan =
    let
      unit = "(ms|msec|s|sec|second|seconds|m|min|minute|minutes|h|hr|hour|hours|d|day|days|w|week|weeks)?";
    in
    types.strMatching "[1-9][0-9]{0,8} ?${unit}( ?[1-9][0-9]{0,8} ?${unit})*"
    // {
      description = "systemd time span, such as \"30s\", \"1min\" or \"1h 30min\"";
    };

  # The longest time that the programs take from their settings: 30 days.
  seconds = types.ints.between 1 2592000;

  objective =
    example: description:
    mkOption {
      type = types.nullOr seconds;
      default = null;
      inherit example description;
    };

  check = {
    options = {
      database = mkOption {
        type = types.strMatching "[^[:cntrl:]]{1,63}" // {
          description = "name of a database";
        };
        default = "postgres";
        example = "app1";
        description = ''
          Database of the restored copy in which the query runs.
        '';
      };
      query = mkOption {
        type = types.str;
        example = "SELECT count(*) > 0 FROM orders";
        description = ''
          Query that returns one value. It runs in a read-only transaction. It ends up in the Nix store,
          where every user can read it.
        '';
      };
      expect = mkOption {
        type = types.nullOr types.str;
        default = null;
        example = "t";
        description = ''
          The value that it has to return, as text. Without it (`null`), any value will do that is neither
          null nor false.
        '';
      };
    };
  };

  instanceModule =
    { name, config, ... }:
    let
      inherit (config) backup drill;
      baseBackupInterval = intervalOf backup.baseBackup.schedule;
      # How old the last run of a job on a schedule may get before the job itself counts as dead, or null
      # where nobody can say when the next one is.
      ageOf =
        isDeclared: schedule: more:
        let
          interval = intervalOf schedule;
        in
        if isDeclared && interval != null then interval + more else null;
    in
    {
      options = {
        healthCheck = {
          enable = mkOption {
            type = types.bool;
            default = true;
            example = false;
            description = ''
              Whether the instance is checked regularly: that it answers, that it archives, that its backups
              are fresh and its disks are not full. Each reason for a failure is in the journal, and a check
              that fails makes its unit fail.
            '';
          };

          interval = mkOption {
            type = timeSpan;
            default = "1min";
            example = "5min";
            description = ''
              Time from the start of one check to the start of the next. The first one is two minutes after
              boot.
            '';
          };

          checkReplicationLag = mkOption {
            type = types.bool;
            default = false;
            example = true;
            description = ''
              Whether a standby that lags behind, or is not connected, is a failure.
            '';
          };

          maxReplicationLagSeconds = mkOption {
            type = seconds;
            default = 300;
            example = 60;
            description = ''
              How many seconds a standby may lag behind, if `checkReplicationLag` is on.
            '';
          };

          maxArchiveLagSeconds = mkOption {
            type = seconds;
            default = backup.walArchive.archiveTimeout + 300;
            defaultText = lib.literalMD "`backup.walArchive.archiveTimeout` and 300 seconds more";
            example = 900;
            description = ''
              How old the oldest WAL file may get that waits to be archived, in seconds.
            '';
          };

          maxBaseBackupAgeSeconds = mkOption {
            type = types.nullOr types.ints.positive;
            default =
              if backup.takesBaseBackups && baseBackupInterval != null then
                baseBackupInterval + 6 * 60 * 60
              else
                null;
            defaultText = lib.literalMD "the time between two runs of `backup.baseBackup.schedule` and 6 hours more, or `null` where that is not known";
            example = 172800;
            description = ''
              How old the newest good base backup may get, in seconds. `null` does not check it.
            '';
          };

          maxSnapshotAgeSeconds = mkOption {
            type = types.nullOr types.ints.positive;
            default = ageOf backup.takesSnapshots backup.baseBackup.snapshots.schedule (60 * 60);
            defaultText = lib.literalMD "the time between two runs of `backup.baseBackup.snapshots.schedule` and an hour more, or `null` where that is not known or no snapshots are taken";
            example = 7200;
            description = ''
              How long ago the last snapshot of `backup.baseBackup.snapshots` may have been tried, in seconds,
              before an alert says that the job is dead. `null` does not check it.
            '';
          };

          maxPruneAgeSeconds = mkOption {
            type = types.nullOr types.ints.positive;
            default = ageOf backup.isArchiving backup.pruneSchedule (6 * 60 * 60);
            defaultText = lib.literalMD "the time between two runs of `backup.pruneSchedule` and 6 hours more, or `null` where that is not known";
            example = 172800;
            description = ''
              How long ago old backups may have been removed last, in seconds, before an alert says that the
              job is dead. `null` does not check it.
            '';
          };

          maxDrillAgeSeconds = mkOption {
            type = types.nullOr types.ints.positive;
            default = ageOf drill.enable drill.schedule (24 * 60 * 60);
            defaultText = lib.literalMD "the time between two runs of `drill.schedule` and a day more, or `null` where that is not known";
            example = 1209600;
            description = ''
              How long ago the last restore drill that succeeded may be, in seconds, before an alert says so.
              `null` does not check it.
            '';
          };

          maxOffsiteLagSeconds = mkOption {
            type = types.nullOr seconds;
            default =
              let
                interval = intervalOf backup.walArchive.syncInterval;
              in
              if backup.copiesOffSite && backup.isArchiving && interval != null then
                backup.walArchive.archiveTimeout + interval + 30 * 60
              else
                null;
            defaultText = lib.literalMD "`backup.walArchive.archiveTimeout`, the time between two runs of `backup.walArchive.syncInterval`, and 30 minutes more, or `null` where nothing is copied";
            example = 3600;
            description = ''
              How far a copy of the archive off-site may be behind, in seconds: the age of the oldest change that
              is not in it. One repository that is behind is a warning while another one is not. `null` does
              not check it.
            '';
          };

          maxReplicaAgeSeconds = mkOption {
            type = types.nullOr types.ints.positive;
            default =
              let
                interval = intervalOf sanoid.replicationInterval;
                between =
                  replica:
                  if sanoid.datasets ? ${replica.own} then
                    policy.secondsBetween sanoid.templates sanoid.datasets.${replica.own}
                  else
                    null;
                periods = map between (replicas.of config);
              in
              if periods == [ ] || interval == null || lib.elem null periods then
                null
              else
                lib.foldl' lib.max 0 periods + interval + 60 * 60;
            defaultText = lib.literalMD "the time between two snapshots of the dataset that has fewer of them, the time between two runs of `modules.backup.sanoid.replicationInterval`, and an hour more, or `null` where nothing is replicated or that is not known";
            example = 14400;
            description = ''
              How old the newest snapshot of a replica of the data or of the archive may be, in seconds. The
              replica itself is asked, after each transfer. `null` does not check it.
            '';
          };

          minimumFree = mkOption {
            type = blib.types.size;
            default = "1GB";
            example = "20GB";
            description = ''
              Free space below which a disk of the instance is too full: that of the data, of the archive or
              of the base backups. A full data disk stops the server.
            '';
          };

          maxUsedPercent = mkOption {
            type = types.ints.between 1 100;
            default = 90;
            example = 80;
            description = ''
              How much of each of these disks may be in use, in per cent. Above it is a warning, below
              `minimumFree` is worse.
            '';
          };

          maxTransactionSeconds = mkOption {
            type = seconds;
            default = 4 * 60 * 60;
            example = 600;
            description = ''
              How long a transaction may be open or prepared, in seconds. It keeps locks, and the rows that
              VACUUM would remove.
            '';
          };

          maxDeadlocksPerHour = mkOption {
            type = types.ints.between 0 1000000;
            default = 5;
            example = 0;
            description = ''
              How many deadlocks there may be in an hour.
            '';
          };

          maxSlotSize = mkOption {
            type = blib.types.size;
            default = "1GB";
            example = "4GB";
            description = ''
              How much WAL the server may keep for one replication slot before that is a warning. At
              `max_slot_wal_keep_size` it keeps no more, and whoever reads the slot is lost.
            '';
          };

          maxTransactionIdAge = mkOption {
            type = types.ints.between 1 1600000000;
            default = 1000000000;
            example = 500000000;
            description = ''
              How old a transaction id or multixact id may get that is not frozen, in transactions. At two
              billions the server stops taking writes.
            '';
          };

          failOnWarning = mkOption {
            type = types.bool;
            default = false;
            example = true;
            description = ''
              Whether a warning makes the check's unit fail, so that it is told like a failure. A warning is
              worth a look this week; it is in the journal and in the metrics either way.
            '';
          };

          maxConnectionsPercent = mkOption {
            type = types.ints.between 1 100;
            default = 90;
            example = 80;
            description = ''
              Share of `maxConnections` in use, in per cent, above which the check fails: before clients are
              turned away.
            '';
          };
        };

        monitoring.enable = mkOption {
          type = types.bool;
          default = true;
          example = false;
          description = ''
            Whether the programs of this instance write metrics for Prometheus' node exporter, into
            `/var/lib/node_exporter/textfile_collector/postgresql_*_<name>.prom`. A node exporter of this host
            is told to read that directory.

            Metrics that cannot be written are a warning and stop nothing.
          '';
        };

        objectives = {
          rpoSeconds = objective 600 ''
            How much of the latest changes may be lost when the server's disk is lost and the archive is
            not, in seconds. It is measured, and told when it is not kept; it changes nothing by itself.
          '';
          offsiteRpoSeconds = objective 1800 ''
            How much of the latest changes may be lost when the whole host is lost, in seconds.
          '';
          rtoSeconds = objective 3600 ''
            How long a restore may take until the server answers again, in seconds. Restore drills measure
            it.
          '';
        };

        drill = {
          enable = mkOption {
            type = types.bool;
            default = backup.takesBaseBackups;
            defaultText = lib.literalMD "`true`, if base backups are taken";
            example = false;
            description = ''
              Whether a restore is rehearsed regularly: into a scratch directory, on a private socket, without
              archiving. A backup that has never been restored is a hope.
            '';
          };

          schedule = mkOption {
            type = blib.types.calendar;
            default = "weekly";
            example = "Sat 03:00";
            description = ''
              When a restore is rehearsed. A random delay of up to an hour is added; a run that was missed is
              made up for after boot.
            '';
          };

          directory = mkOption {
            type = types.str;
            default = "/var/backup/postgresql-drill/${name}";
            defaultText = lib.literalExpression ''"/var/backup/postgresql-drill/<name>"'';
            example = "/srv/scratch/postgresql-main";
            description = ''
              Scratch directory, which has room for a copy of the whole cluster. It is emptied before and
              after each drill, so it belongs to nothing else.
            '';
          };

          minimumFree = mkOption {
            type = blib.types.size;
            default = "1GB";
            example = "20GB";
            description = ''
              Space that has to stay free on that disk beside the copy. A drill that would leave less fails
              before it begins.
            '';
          };

          deadlineSeconds = mkOption {
            type = seconds;
            default = 12 * 60 * 60;
            example = 14400;
            description = ''
              Longest time, in seconds, that a drill may take. Past it the drill has failed.
            '';
          };

          sources = mkOption {
            type = types.listOf (
              types.enum [
                "local"
                "restic"
                "snapshot"
              ]
            );
            default = [
              "local"
            ]
            ++ lib.optional (
              backup.copiesOffSite
              && lib.any (repository: repository.passwordFile != null) backup.restic.all
            ) "restic";
            defaultText = lib.literalMD "`[ \"local\" ]`, and `\"restic\"` where archive and base backups are copied off-site";
            example = [ "local" ];
            description = ''
              What is restored, each in turn: the base backups and the archive of this host (`local`), those in
              the restic repository (`restic`, which transfers a whole base backup), or the newest snapshot of
              the data dataset (`snapshot`).
            '';
          };

          canary = {
            enable = mkOption {
              type = types.bool;
              default = config.drill.enable && backup.isArchiving && !config.preseed.asStandby;
              defaultText = lib.literalMD "`true`, if there are drills and the instance archives and is no standby";
              example = false;
              description = ''
                Whether a row is written into the instance every few seconds, in a database of its own, by which
                each drill sees whether a restore ended at the right transaction.

                The writes let the WAL of an idle server be archived every `backup.walArchive.archiveTimeout`,
                so the newest moment that can be restored is never older than that.
              '';
            };

            database = mkOption {
              type = types.strMatching "[^[:cntrl:]]{1,63}" // {
                description = "name of a database";
              };
              default = "backstay_canary";
              example = "canary";
              description = ''
                Database of the canary. It is made when it is absent, and nothing else belongs into it.
              '';
            };

            intervalSeconds = mkOption {
              type = types.ints.between 1 3600;
              default = 5;
              example = 60;
              description = ''
                Time between two rows, in seconds. A drill is as exact as that.
              '';
            };

            rowsKept = mkOption {
              type = types.ints.between 2 1000000;
              default = 10000;
              example = 100000;
              description = ''
                How many rows are kept; older ones are deleted. 10,000 take about a megabyte.
              '';
            };
          };

          checks = mkOption {
            type = types.listOf (types.submodule check);
            default = [ ];
            example = [
              {
                database = "app1";
                query = "SELECT count(*) > 0 FROM orders";
                expect = "t";
              }
            ];
            description = ''
              Questions to the restored copy, beyond those that every drill asks: that it starts, that every
              database can be read, that its indexes and heaps are sound.
            '';
          };
        };
      };
    };
in
{
  options.modules.services.postgresql.instances = mkOption {
    type = types.attrsOf (types.submodule instanceModule);
  };
}
