# modules.backup.restic: repositories, and the jobs that fill them.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.modules.backup.restic;
  blib = import ../lib.nix { inherit lib pkgs; };
  places = import ./places.nix { inherit lib config; };

  count = lib.types.nullOr lib.types.ints.positive;

  keep =
    {
      what,
      default,
      example,
      defaultText ? null,
    }:
    lib.mkOption (
      {
        type = count;
        inherit default example;
        description = "For how many ${what} the newest snapshot is kept; null asks for none of them.";
      }
      // lib.optionalAttrs (defaultText != null) { inherit defaultText; }
    );

  repository =
    { config, ... }:
    {
      options = {
        url = lib.mkOption {
          type = lib.types.nullOr lib.types.str;
          default = null;
          example = "rest:https://backup.example.org/forge";
          description = ''
            Where the repository is, as restic writes it: a directory, or `sftp:`, `rest:`, `s3:`, `b2:`,
            `azure:`, `gs:`, `swift:` or `rclone:` and what belongs to it. It ends up in the Nix store, so
            user names and passwords go into
            `modules.backup.restic.repositories.<name>.environmentFile`.

            `sftp:` uses the ssh configuration of the user that the job runs as; pin the host's key with
            `programs.ssh.knownHosts`.
          '';
        };

        passwordFile = lib.mkOption {
          type = lib.types.nullOr blib.types.externalPath;
          default = null;
          example = "/run/secrets/restic-password";
          description = ''
            File with the password of the repository. Without it nothing that was ever stored can be read
            again, so keep a copy where this host's disks are not.
          '';
        };

        environmentFile = lib.mkOption {
          type = lib.types.nullOr blib.types.externalPath;
          default = null;
          example = "/run/secrets/restic-environment";
          description = ''
            File with `NAME=value` lines for restic, such as `AWS_ACCESS_KEY_ID` and
            `AWS_SECRET_ACCESS_KEY`, or `RESTIC_REST_USERNAME` and `RESTIC_REST_PASSWORD`. systemd reads it
            as root.
          '';
        };

        primary = lib.mkOption {
          type = lib.types.bool;
          default = false;
          example = true;
          description = ''
            Whether jobs that name no repository use this one. If there is only one repository it is the
            primary one in any case.
          '';
        };

        mountPoint = lib.mkOption {
          type = lib.types.nullOr lib.types.str;
          default = null;
          example = "/mnt/nas-backup";
          description = ''
            For a repository that is a directory: the mount point it is on. Nothing is written unless
            something is mounted there, so a NAS that is away is an error, and not an empty directory on
            the root file system. Write `"/"` for a directory that is on the root file system on purpose.
          '';
        };

        initialize = lib.mkOption {
          type = lib.types.bool;
          default =
            config.url != null && (!places.isDirectory config.url || config.mountPoint != null);
          defaultText = lib.literalMD "`true`, except for a directory whose `mountPoint` is not known";
          example = false;
          description = ''
            Whether the repository is created if it is not there. restic itself proves that it is not; only
            an empty mount point could pass for a repository that is gone.
          '';
        };

        pruneSchedule = lib.mkOption {
          type = lib.types.nullOr blib.types.calendar;
          default = "weekly";
          example = "Sun 03:30";
          description = ''
            When snapshots that no job wants to keep are forgotten, and their space is given back. It waits
            for backups into the repository to end, and they wait for it. Null means that another host
            does it, as with a repository that this host can only add to.
          '';
        };

        checkReadDataSubset = lib.mkOption {
          type = lib.types.nullOr (lib.types.strMatching "[0-9]+/[0-9]+|[0-9]+([.][0-9]+)?%|[0-9]+[KMGT]");
          default = "1%";
          example = "5%";
          description = ''
            How much of the stored data is read back and compared with its checksum after each pruning: a
            share of it (`"5%"`), an amount (`"2G"`), or one part of several (`"1/52"`). Null checks that
            every piece is there, and reads none of them.
          '';
        };

        location = lib.mkOption {
          type = lib.types.nullOr lib.types.singleLineStr;
          default = null;
          example = "second site";
          description = ''
            Where the repository stands, for the descriptions of its units. With the name of this host it
            counts as a copy in the same place when the ways back are checked. Null means what the URL
            shows: the host in it, the server of a network mount, or this host.
          '';
        };
      };
    };

  job =
    { options, ... }:
    {
      options = {
        enable = lib.mkOption {
          type = lib.types.bool;
          default = true;
          example = false;
          description = ''
            Whether the job exists. Its old snapshots stay in the repository either way.
          '';
        };

        repository = lib.mkOption {
          type = lib.types.nullOr lib.types.str;
          default = null;
          example = "offsite";
          description = ''
            Name of the repository in `modules.backup.restic.repositories`. Null means the primary one.
          '';
        };

        paths = lib.mkOption {
          type = lib.types.listOf lib.types.str;
          default = [ ];
          example = [ "/var/lib/immich" ];
          description = "Files and directories to back up, as absolute paths.";
        };

        tags = lib.mkOption {
          type = lib.types.listOf lib.types.str;
          default = [ ];
          example = [
            "immich"
            "photos"
          ];
          description = ''
            Tags of each snapshot. The name of the job is added to them, and says later which snapshots
            `modules.backup.restic.jobs.<name>.keep` may remove.

            To find snapshots that have several tags, give restic all of them in one argument:
            `--tag immich,photos`. Two arguments find what has either.
          '';
        };

        excludePatterns = lib.mkOption {
          type = lib.types.listOf lib.types.str;
          default = [ ];
          example = [ "*.tmp" ];
          description = ''
            What is left out, in the
            [patterns of restic](https://restic.readthedocs.io/en/stable/040_backup.html#excluding-files).
          '';
        };

        schedule = lib.mkOption {
          type = lib.types.nullOr blib.types.calendar;
          default = config.modules.backup.schedule;
          defaultText = lib.literalExpression "config.modules.backup.schedule";
          example = "hourly";
          description = ''
            When the job runs. A run that was missed is made up for at the next boot. Null means never by
            itself, for a job that another unit starts.
          '';
        };

        randomizedDelaySeconds = lib.mkOption {
          type = lib.types.ints.unsigned;
          default = 600;
          example = 60;
          description = ''
            Longest delay, in seconds, that is added to each run by chance, so that the jobs of many hosts do
            not start in the same second.
          '';
        };

        keep = {
          last = lib.mkOption {
            type = count;
            default = null;
            example = 12;
            description = "How many of the newest snapshots are kept in any case.";
          };
          hourly = keep {
            what = "hours";
            default = null;
            example = 24;
          };
          daily = keep {
            what = "days";
            default = cfg.globalSettings.retention.daily;
            defaultText = lib.literalExpression "config.modules.backup.restic.globalSettings.retention.daily";
            example = 7;
          };
          weekly = keep {
            what = "weeks";
            default = cfg.globalSettings.retention.weekly;
            defaultText = lib.literalExpression "config.modules.backup.restic.globalSettings.retention.weekly";
            example = 4;
          };
          monthly = keep {
            what = "months";
            default = cfg.globalSettings.retention.monthly;
            defaultText = lib.literalExpression "config.modules.backup.restic.globalSettings.retention.monthly";
            example = 12;
          };
          yearly = keep {
            what = "years";
            default = cfg.globalSettings.retention.yearly;
            defaultText = lib.literalExpression "config.modules.backup.restic.globalSettings.retention.yearly";
            example = 3;
          };
        };

        keepIsDeclared = lib.mkOption {
          type = lib.types.bool;
          readOnly = true;
          internal = true;
          default = lib.any (rule: rule.highestPrio < (lib.mkOptionDefault null).priority) (
            lib.attrValues options.keep
          );
          description = "Whether the user has set one of the counts.";
        };

        preCommands = lib.mkOption {
          type = lib.types.listOf (lib.types.nonEmptyListOf lib.types.str);
          default = [ ];
          example = lib.literalExpression ''[ [ "''${pkgs.sqlite}/bin/sqlite3" "/var/lib/app/app.db" ".backup /var/lib/app/app.backup" ] ]'';
          description = ''
            Commands before the backup, each as the list of its program and its arguments; no shell reads
            them. They run as the user of the job and in its sandbox, so what they write has to be in
            `modules.backup.restic.jobs.<name>.writablePaths`. If one fails, nothing is backed up and
            the job has failed.
          '';
        };

        postCommands = lib.mkOption {
          type = lib.types.listOf (lib.types.nonEmptyListOf lib.types.str);
          default = [ ];
          example = lib.literalExpression ''[ [ "''${pkgs.coreutils}/bin/rm" "/var/lib/app/app.backup" ] ]'';
          description = ''
            Commands after a backup that succeeded, each as the list of its program and its arguments.
          '';
        };

        writablePaths = lib.mkOption {
          type = lib.types.listOf lib.types.str;
          default = [ ];
          example = [ "/var/lib/app" ];
          description = ''
            Directories that the commands before and after the backup write to. restic itself writes to the
            repository and to its cache only.
          '';
        };

        requiredMounts = lib.mkOption {
          type = lib.types.listOf lib.types.str;
          default = [ ];
          example = [ "/var/lib/immich" ];
          description = ''
            Mount points that have to be mounted, or the job fails. A dataset that is not mounted is an empty
            directory, and its backup would push out the good ones.
          '';
        };

        resources = {
          memory = lib.mkOption {
            type = lib.types.nullOr blib.types.size;
            default = null;
            example = "2GB";
            description = ''
              Most memory that restic may use; above it, the job is killed. restic keeps the index of the
              whole repository in memory, so what suffices today may not suffice next year.
            '';
          };
          memoryReservation = lib.mkOption {
            type = lib.types.nullOr blib.types.size;
            default = null;
            example = "256MB";
            description = "Memory that is not taken from restic as long as others have some to spare.";
          };
          cpus = lib.mkOption {
            type = lib.types.nullOr lib.types.numbers.positive;
            default = null;
            example = 0.5;
            description = "Most processors that restic may keep busy.";
          };
        };

        deadlineSeconds = lib.mkOption {
          type = lib.types.nullOr lib.types.ints.positive;
          default = null;
          example = 14400;
          description = ''
            Seconds after which a run has failed. A repository that answers no more would hold up all later
            runs. Null waits for ever.
          '';
        };

        user = lib.mkOption {
          type = lib.types.str;
          default = "root";
          example = "postgres";
          description = ''
            User that the job runs as. root gets nothing beyond the right to read every file, and writes only
            what belongs to root; any other user reads what it may read. All jobs of a repository that is a
            directory need the same user, since each could not read what another one wrote there.
          '';
        };

        skipIfUnchanged = lib.mkOption {
          type = lib.types.bool;
          default = true;
          example = false;
          description = "Whether a snapshot is left out if nothing has changed since the last one.";
        };

        after = lib.mkOption {
          type = lib.types.listOf (
            lib.types.strMatching "[a-zA-Z0-9@:_.\\-]+[.](service|mount|target)"
          );
          default = [ ];
          example = [ "immich.service" ];
          description = ''
            Units that the job waits for when they are starting at the same time.
          '';
        };

        serviceConfig = lib.mkOption {
          type = lib.types.attrsOf lib.types.anything;
          default = { };
          example = {
            IOSchedulingClass = "idle";
          };
          description = ''
            Further settings of the unit's `[Service]` section; they win over those of Backstay's sandbox.
          '';
        };

        failureTemplate = lib.mkOption {
          type = lib.types.str;
          default = "backup-failure";
          example = "unit-failure";
          description = ''
            Template in `modules.notifications.templates` of the message about a failure.
          '';
        };
      };
    };
in
{
  options.modules.backup = {
    schedule = lib.mkOption {
      type = blib.types.calendar;
      default = "02:00";
      example = "04:30";
      description = "When jobs run that have no schedule of their own.";
    };

    restic = {
      enable = lib.mkOption {
        type = lib.types.bool;
        default = true;
        example = false;
        description = ''
          Whether this host runs its restic jobs. A copy of this host, made to try something out, must not
          write into the repositories of the original: set it to false there.
        '';
      };

      hostName = lib.mkOption {
        type = lib.types.str;
        default = config.networking.hostName;
        defaultText = lib.literalExpression "config.networking.hostName";
        example = "forge";
        description = ''
          Name under which snapshots are stored. Retention removes snapshots of this name only, so hosts can
          share a repository.
        '';
      };

      globalSettings = {
        compression = lib.mkOption {
          type = lib.types.enum [
            "auto"
            "off"
            "max"
          ];
          default = "auto";
          example = "max";
          description = "How restic compresses what it stores.";
        };
        readConcurrency = lib.mkOption {
          type = lib.types.ints.positive;
          default = 2;
          example = 4;
          description = "How many files restic reads at once.";
        };
        retention = {
          daily = keep {
            what = "days";
            default = 14;
            example = 30;
          };
          weekly = keep {
            what = "weeks";
            default = 8;
            example = 12;
          };
          monthly = keep {
            what = "months";
            default = 6;
            example = 24;
          };
          yearly = keep {
            what = "years";
            default = 2;
            example = 10;
          };
        };
      };

      repositories = lib.mkOption {
        type = lib.types.attrsOf (lib.types.submodule repository);
        default = { };
        example = {
          nas = {
            url = "/mnt/nas-backup";
            mountPoint = "/mnt/nas-backup";
            passwordFile = "/run/secrets/restic-password";
          };
        };
        description = "Repositories by name.";
      };

      jobs = lib.mkOption {
        type = lib.types.attrsOf (lib.types.submodule job);
        default = { };
        example = {
          immich = {
            repository = "nas";
            paths = [ "/var/lib/immich" ];
          };
        };
        description = ''
          What is backed up. Each job is `restic-backups-NAME.service` with a timer of the same name. The jobs
          of PostgreSQL instances, `postgresql-INSTANCE-wal` and `postgresql-INSTANCE-base`, are declared by
          themselves, and can be changed here.
        '';
      };
    };
  };
}
