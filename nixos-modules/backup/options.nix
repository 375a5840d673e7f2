# What a user declares of the backups of an instance.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  blib = import ../lib.nix { inherit lib pkgs; };
  inherit (lib) mkOption types;

  units = import ./units.nix;
  inherit (config.modules.backup) restic;

  instanceModule =
    {
      name,
      config,
      options,
      ...
    }:
    let
      cfg = config.backup;
      furtherNames = lib.optionals cfg.restic.enable (
        lib.subtractLists [ cfg.restic.repositoryName ] (lib.unique cfg.restic.furtherRepositories)
      );
      keeps = options.backup.baseBackup.retention;
    in
    {
      options = {
        backup = {
          enable = mkOption {
            type = types.bool;
            default = true;
            example = false;
            description = ''
              Whether this instance is backed up at all.

              An instance that is enabled archives its WAL and takes base backups unless told otherwise, and
              copies both off-site once a restic repository is named. `walArchive.enable`,
              `baseBackup.enable` and `restic.enable` switch the parts; `false` here switches off all of
              them, whatever they say. What has been archived and backed up stays.
            '';
          };

          walArchive = {
            enable = mkOption {
              type = types.bool;
              default = true;
              example = false;
              description = ''
                Whether PostgreSQL hands its finished WAL files to `pg-archive-wal`. Together with a base
                backup they restore every moment; without them only the moments at which base backups ended.

                Switching it on or off restarts the server.

                Sets [`archive_mode`](https://www.postgresql.org/docs/current/runtime-config-wal.html#GUC-ARCHIVE-MODE) and
                [`archive_command`](https://www.postgresql.org/docs/current/runtime-config-wal.html#GUC-ARCHIVE-COMMAND).
              '';
            };

            directory = mkOption {
              type = types.str;
              default = "/var/lib/postgresql/${name}-wal";
              defaultText = lib.literalExpression ''"/var/lib/postgresql/<name>-wal"'';
              example = "/srv/archive/postgresql-main";
              description = ''
                Directory of the archive, which no other instance has and which is apart from the data and
                from the base backups: what goes away together with the cluster is no backup of it.

                A change moves nothing. Move the archive there yourself while the server is stopped; WAL that
                is in the old place only is not found any more.
              '';
            };

            archiveTimeout = mkOption {
              type = types.ints.between 1 86400;
              default = 300;
              example = 60;
              description = ''
                Longest time, in seconds, that a committed change waits before PostgreSQL closes the WAL file
                that holds it and hands it to the archive. It bounds what is lost if the host is destroyed.

                Short values cost little here: the unused rest of a closed file takes no space in the archive.

                Sets [`archive_timeout`](https://www.postgresql.org/docs/current/runtime-config-wal.html#GUC-ARCHIVE-TIMEOUT).
              '';
            };

            syncInterval = mkOption {
              type = blib.types.calendar;
              default = "*/5";
              example = "*/15";
              description = ''
                How often the archive is copied off-site, if `restic.enable` is on. `"*/5"` is every 5 minutes.

                If the host is destroyed, changes up to `archiveTimeout` and this interval together are lost.
              '';
            };

            retentionDays = mkOption {
              type = types.ints.between 1 36500;
              default = 30;
              example = 7;
              description = ''
                Days for which every second can be restored. The WAL of these days is kept, and the base backup
                that they begin with.

                Older base backups that `baseBackup.retention` keeps are kept with the WAL that they need to
                be consistent, and restore the moment at which they ended.
              '';
            };

            compression = {
              algorithm = mkOption {
                type = types.enum [
                  "none"
                  "lz4"
                  "zstd"
                ];
                default = "zstd";
                example = "lz4";
                description = ''
                  Compression of the files in the archive. `zstd -dc FILE` (for `lz4`, `lz4 -dc FILE`) gives back
                  what PostgreSQL wrote. Files that are there already are read whatever they were
                  written with.
                '';
              };
              level = mkOption {
                type = types.nullOr (types.ints.between 1 19);
                default = null;
                example = 3;
                description = ''
                  Level of zstd, 1 (fast) to 19 (small). `null` is level 1, which on WAL is both faster than level
                  3 and, within a few per cent, as small.
                '';
              };
            };

            workAheadSegments = mkOption {
              type = types.ints.between 0 1024;
              default = 16;
              example = 64;
              description = ''
                How many further finished WAL files one call of `pg-archive-wal` may archive ahead of
                PostgreSQL's asking, each as durably as the first. 0 archives one file per call.
              '';
            };

            threads = mkOption {
              type = types.ints.between 1 16;
              default = 2;
              example = 4;
              description = ''
                Threads of one call of `pg-archive-wal`, the calling one included.
              '';
            };

            archiveDeadlineSeconds = mkOption {
              type = types.ints.between 1 300;
              default = 60;
              example = 120;
              description = ''
                Longest time, in seconds, that one call of `pg-archive-wal` may take. Past it the call fails
                and PostgreSQL tries again. Without a limit a hanging disk would keep the server from
                stopping; two calls fit into the ten minutes after which systemd kills it.
              '';
            };

            restoreDeadlineSeconds = mkOption {
              type = types.ints.between 1 86400;
              default = 300;
              example = 900;
              description = ''
                Longest time, in seconds, that one call of `pg-restore-wal` may take. Past it the call fails
                with a status that stops recovery without promoting.
              '';
            };

            prefetchMebibytes = mkOption {
              type = types.ints.between 0 65536;
              default = 256;
              example = 1024;
              description = ''
                How many mebibytes of WAL `pg-restore-wal` may fetch ahead of recovery. They wait below
                `pg_wal`. 0 fetches one file per call.
              '';
            };

            furtherDirectories = mkOption {
              type = types.listOf types.str;
              default = [ ];
              example = [ "/mnt/replica/postgresql-main-wal" ];
              description = ''
                Further archive directories, in this order, that `pg-restore-wal` asks for a file that the
                first does not hold: a replica of the archive, for example. They are only read. A file is
                absent only when every one of them has proven it, so a directory that is not mounted
                stops recovery.
              '';
            };
          };

          baseBackup = {
            enable = mkOption {
              type = types.bool;
              default = true;
              example = false;
              description = ''
                Whether base backups are taken on a schedule. A restore starts from one of them.
              '';
            };

            directory = mkOption {
              type = types.str;
              default = "/var/backup/postgresql/${name}";
              defaultText = lib.literalExpression ''"/var/backup/postgresql/<name>"'';
              example = "/srv/backup/postgresql-main";
              description = ''
                Directory of the base backups, one directory for each, named by the UTC time of its start.
                On another disk than the data it survives that disk.

                A change moves nothing: backups in the old place are neither found nor pruned.
              '';
            };

            schedule = mkOption {
              type = blib.types.calendar;
              default = "daily";
              example = "02:00";
              description = ''
                When a base backup is taken. A random delay of up to half an hour is added, so that the
                instances of a host do not all begin at once; a run that was missed is made up for after boot.

                Restoring takes longer the more WAL has to be replayed on top of the base backup.
              '';
            };

            format = mkOption {
              type = types.enum [
                "plain"
                "tar"
              ];
              default = "plain";
              example = "tar";
              description = ''
                Form on disk. `plain` is a data directory: it is verified entirely, it deduplicates off-site,
                and an incremental backup can build on it. `tar` is one file for each tablespace, as
                pg_basebackup writes it.
              '';
            };

            tarCompression = mkOption {
              type = types.enum [
                "none"
                "gzip"
                "lz4"
                "zstd"
              ];
              default = "none";
              example = "zstd";
              description = ''
                Compression of the tar format, done by the server. `lz4` and `zstd` need PostgreSQL 15. The plain
                format is left to the file system to compress.
              '';
            };

            incremental = {
              enable = mkOption {
                type = types.bool;
                default = false;
                example = true;
                description = ''
                  Whether only the blocks that changed are copied, most of the time. Needs PostgreSQL 17, and
                  sets [`summarize_wal`](https://www.postgresql.org/docs/current/runtime-config-wal.html#GUC-SUMMARIZE-WAL).

                  A restore needs every backup of the chain since the last full one, so one damaged backup
                  costs all that build on it.
                '';
              };
              chainLength = mkOption {
                type = types.ints.between 1 100;
                default = 6;
                example = 13;
                description = ''
                  How many incremental backups may follow one full backup before the next full one.
                '';
              };
            };

            maximumRateKibibytesPerSecond = mkOption {
              type = types.nullOr (types.ints.between 32 1048576);
              default = null;
              example = 51200;
              description = ''
                Limit on the transfer rate, in KiB per second, so that a backup leaves the disks to the
                queries. `null` is no limit.
              '';
            };

            fastCheckpoint = mkOption {
              type = types.bool;
              default = false;
              example = true;
              description = ''
                Whether a backup begins with an immediate checkpoint instead of waiting for the next one. It
                starts sooner and costs a burst of writes.
              '';
            };

            walDeadlineSeconds = mkOption {
              type = types.ints.between 1 86400;
              default = 600;
              example = 1800;
              description = ''
                Longest time, in seconds, to wait for the last WAL file of a backup to reach the archive. Past
                it the backup does not count.
              '';
            };

            retention = {
              daily = mkOption {
                type = types.ints.between 0 36500;
                default = 7;
                example = 14;
                description = ''
                  For how many days the newest base backup of the day is kept. Days, weeks and months are those
                  of UTC, and the current one counts.
                '';
              };
              weekly = mkOption {
                type = types.ints.between 0 36500;
                default = 4;
                example = 8;
                description = ''
                  For how many weeks, Monday to Sunday, the newest base backup of the week is kept.
                '';
              };
              monthly = mkOption {
                type = types.ints.between 0 36500;
                default = 3;
                example = 12;
                description = ''
                  For how many months the newest base backup of the month is kept.
                '';
              };
              isDeclared = mkOption {
                type = types.bool;
                readOnly = true;
                internal = true;
                default = lib.any (rule: rule.highestPrio < (lib.mkOptionDefault null).priority) [
                  keeps.daily
                  keeps.weekly
                  keeps.monthly
                ];
                description = ''
                  Whether the user has set one of the rules.
                '';
              };
            };

            snapshots = {
              enable = mkOption {
                type = types.bool;
                default = false;
                example = true;
                description = ''
                  Whether ZFS snapshots are taken as a further kind of base backup: the data and every
                  tablespace at one moment, after a checkpoint, read and found whole. A restore can begin
                  with one, as with the snapshots that sanoid takes, whose policy knows nothing of these.

                  A snapshot is on the disks of the data and goes away with them. It is there beside
                  the base backups in `directory`, and in place of none.

                  While the job runs, the server's user may `destroy`, `mount` and `snapshot` the dataset of
                  the data and those below, and set their user properties; before and after, it may not.
                '';
              };
              schedule = mkOption {
                type = blib.types.calendar;
                default = "hourly";
                example = "*:0/15";
                description = ''
                  When a snapshot is taken, and those that have expired are destroyed. Each begins with an
                  immediate checkpoint, which is a burst of writes.
                '';
              };
              keep = mkOption {
                type = types.ints.between 1 100000;
                default = 24;
                example = 96;
                description = ''
                  How many of these snapshots are kept. Older ones are destroyed unless somebody holds them
                  (`zfs hold`). No other snapshot is ever destroyed, whatever its name.
                '';
              };
            };

            minimumGood = mkOption {
              type = types.ints.between 1 36500;
              default = 1;
              example = 2;
              description = ''
                How many of the newest good base backups are kept whatever the other rules say.
              '';
            };
          };

          pruneSchedule = mkOption {
            type = blib.types.calendar;
            default = "04:30";
            example = "Sun 05:00";
            description = ''
              When `pg-prune` removes base backups that no rule keeps any more, and WAL that no kept restore
              point needs. It waits until a base backup, a restore drill or an upload that is running
              has ended. The last good base backup is never removed.
            '';
          };

          restic = {
            enable = mkOption {
              type = types.bool;
              default = cfg.restic.repositoryName != null || cfg.restic.repositoryUrl != null;
              defaultText = lib.literalMD "whether `repositoryName` or `repositoryUrl` is set";
              example = false;
              description = ''
                Whether archive and base backups are copied into a restic repository: the archive every
                `walArchive.syncInterval`, base backups after each one that was taken. The jobs are
                `modules.backup.restic.jobs."postgresql-<name>-wal"` and `…-base"`, where what they keep can be set.
              '';
            };

            repositoryName = mkOption {
              type = types.nullOr (
                types.strMatching "[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
                // {
                  description = "name of a repository";
                }
              );
              default = null;
              example = "nas-primary";
              description = ''
                Name of the repository. If `modules.backup.restic.repositories` declares it, nothing else is
                needed; otherwise `repositoryUrl` and `passwordFile` say what it is.
              '';
            };

            repositoryUrl = mkOption {
              type = types.nullOr types.str;
              default = null;
              example = "sftp:backup@nas.example.org:/restic";
              description = ''
                Place of the repository, as restic reads it. `null` takes it from the declared repository.
                A password has no place in it: it would be in the Nix store. Put it into `environmentFile`.
              '';
            };

            passwordFile = mkOption {
              type = types.nullOr blib.types.externalPath;
              default = null;
              example = "/run/secrets/restic/password";
              description = ''
                File with the password of the repository. `null` takes the declared repository's.

                Keep a copy where this host's fate does not reach: without the password the repository is
                worth nothing.
              '';
            };

            environmentFile = mkOption {
              type = types.nullOr blib.types.externalPath;
              default = null;
              example = "/run/secrets/restic/env";
              description = ''
                File with environment variables for restic, such as the credentials of an object store.
                `null` takes the declared repository's, if it has one.
              '';
            };

            furtherRepositories = mkOption {
              type = types.listOf types.str;
              default = [ ];
              example = [ "second-site" ];
              description = ''
                Names of further repositories of `modules.backup.restic.repositories` that archive and base backups
                are copied into, each by jobs of its own
                (`modules.backup.restic.jobs."postgresql-<name>-wal-<repository>"` and `…-base-<repository>"`): one that is away
                stops none of the others. Restores ask them in this order, after the first.
              '';
            };

            all = mkOption {
              type = types.listOf (types.attrsOf (types.nullOr types.str));
              readOnly = true;
              internal = true;
              default =
                lib.optional (cfg.restic.enable && cfg.restic.resolved.url != null) (
                  cfg.restic.resolved // { jobSuffix = ""; }
                )
                # One that is not there is refused in assertions.nix.
                ++ map (name: {
                  inherit name;
                  inherit (restic.repositories.${name}) url passwordFile environmentFile;
                  jobSuffix = "-${name}";
                }) (lib.filter (name: (restic.repositories.${name} or { }).url or null != null) furtherNames);
              description = ''
                The repositories, and what the names of their jobs end with.
              '';
            };

            resolved = mkOption {
              type = types.attrsOf (types.nullOr types.str);
              readOnly = true;
              internal = true;
              default =
                let
                  own = cfg.restic;
                  declared =
                    if own.repositoryName == null then { } else restic.repositories.${own.repositoryName} or { };
                  of = mine: theirs: if mine != null then mine else declared.${theirs} or null;
                in
                {
                  name = (units name).repository own.repositoryName;
                  url = of own.repositoryUrl "url";
                  passwordFile = of own.passwordFile "passwordFile";
                  environmentFile = of own.environmentFile "environmentFile";
                };
              description = ''
                The repository with what the declared one fills in.
              '';
            };
          };

          isArchiving = mkOption {
            type = types.bool;
            readOnly = true;
            internal = true;
            default = cfg.enable && cfg.walArchive.enable;
            description = ''
              Whether the server archives.
            '';
          };

          takesSnapshots = mkOption {
            type = types.bool;
            readOnly = true;
            internal = true;
            default = cfg.enable && cfg.baseBackup.snapshots.enable;
            description = ''
              Whether snapshots are taken as base backups.
            '';
          };

          takesBaseBackups = mkOption {
            type = types.bool;
            readOnly = true;
            internal = true;
            default = cfg.enable && cfg.baseBackup.enable;
            description = ''
              Whether base backups are taken.
            '';
          };

          copiesOffSite = mkOption {
            type = types.bool;
            readOnly = true;
            internal = true;
            default =
              cfg.enable && cfg.restic.enable && config.integration.backup.enable && restic.enable;
            description = ''
              Whether our restic jobs copy archive and base backups.
            '';
          };
        };

        integration.backup.enable = mkOption {
          type = types.bool;
          default = true;
          example = false;
          description = ''
            Whether the restic jobs of this instance are made. Switch it off to copy archive and base
            backups off-site with something else; preseed and drills can still read the repository.
          '';
        };
      };
    };
in
{
  options.modules.services.postgresql.instances = mkOption {
    type = types.attrsOf (types.submodule instanceModule);
  };
}
