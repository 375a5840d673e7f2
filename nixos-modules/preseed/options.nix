# What a user declares of restores: of an empty data directory (preseed), and once on request (recovery).
{
  config,
  lib,
  pkgs,
  ...
}:
let
  blib = import ../lib.nix { inherit lib pkgs; };
  sources = import ./sources.nix { inherit lib config; };
  inherit (lib) mkOption types;

  exclusive = mkOption {
    type = types.bool;
    default = false;
    example = true;
    description = ''
      Whether to stop just before the target instead of just after it: to be rid of a transaction, name
      it and stop before it. Has a meaning for a time, a transaction and an address in the WAL.
    '';
  };

  instanceModule =
    { name, config, ... }:
    let
      cfg = config.preseed;
      inherit (config) recovery;
      inherit (config.backup.restic) all resolved;
      of = own: fallback: if own != null then own else fallback;
    in
    {
      options.preseed = {
        enable = mkOption {
          type = types.bool;
          default = false;
          example = true;
          description = ''
            Whether an empty data directory is filled from a copy before the server starts for the first
            time: on new hardware, or after the disks were lost. A directory that holds a cluster is left
            alone, whatever the copies have.

            If a source cannot be asked, the server does not start: emptiness is believed only when every
            source has proven that it has nothing for this instance. Then a new cluster is made.
          '';
        };

        restoreMethods = mkOption {
          type = types.listOf (
            types.enum [
              "syncoid"
              "local"
              "restic"
              "baseBackups"
            ]
          );
          default = sources.available config;
          defaultText = lib.literalMD ''
            those of `"syncoid"`, `"restic"` and `"baseBackups"`, in this order, that the configuration has a source for'';
          example = [
            "syncoid"
            "restic"
          ];
          description = ''
            Where a restore may come from, in the order in which they are asked:

            - `syncoid`: the replica that `modules.backup.sanoid.datasets` sends this instance's datasets to, on another
              host. It is received over ssh with all its snapshots, beside the declared datasets, and then takes their
              place, so the next replication goes on where the last one ended. How far it reaches is known only then:
              wherever it is in the list, it is received before the sources are asked. The user on the other host has to be
              allowed to send it: `zfs allow -u USER hold,send DATASET`;
            - `local`: a snapshot of the instance's own dataset, and what came after it from the WAL archive on this host; no
              snapshot is rolled back or destroyed;
            - `restic`: base backups and WAL out of a restic repository; of several each is asked for itself, so one that
              is lost hides none of the others;
            - `baseBackups`: base backups and WAL that are still on this host.

            A method without a source is refused.
          '';
        };

        choose = mkOption {
          type = types.enum [
            "order"
            "freshest"
          ];
          default = "order";
          example = "freshest";
          description = ''
            Which source is used: the first one in the order of `restoreMethods` that has something, or the
            one that reaches furthest, for which all are asked.
          '';
        };

        asStandby = mkOption {
          type = types.bool;
          default = false;
          example = true;
          description = ''
            Whether the restored cluster stays a standby, which goes on replaying what arrives in the archive
            (and from `primary_conninfo`, if `extraSettings` has one), until somebody promotes it.
          '';
        };

        clearReplicationSlots = mkOption {
          type = types.bool;
          default = true;
          example = false;
          description = ''
            Whether replication slots that came along in the copy are dropped. Their readers follow the old
            server; here they would only keep WAL.
          '';
        };

        pitr = {
          target = mkOption {
            type = types.enum [
              "latest"
              "immediate"
              "time"
              "xid"
              "name"
              "lsn"
            ];
            default = "latest";
            example = "time";
            description = ''
              How far to recover after the restore: to the end of the archive (`latest`), to the first state
              that is consistent (`immediate`), or to `targetValue`.
            '';
          };
          targetValue = mkOption {
            type = types.nullOr types.str;
            default = null;
            example = "2026-10-11 14:30 Europe/Berlin";
            description = ''
              The time with its zone, the number of the transaction, the name of the restore point or the
              address in the WAL.
            '';
          };
          inherit exclusive;
        };

        repositoryUrl = mkOption {
          type = types.nullOr types.str;
          default = null;
          example = "s3:https://s3.example.org/forge";
          description = ''
            Restic repository to restore from, and the only one. `null` are those that `backup.restic` copies into, the
            first and then `furtherRepositories`. A password has no place in it.
          '';
        };

        passwordFile = mkOption {
          type = types.nullOr blib.types.externalPath;
          default = null;
          example = "/run/secrets/restic/password";
          description = ''
            File with the password of the repository, of the first one if there are several. `null` takes the one of
            `backup.restic`.

            A new machine needs this file before anything has been restored.
          '';
        };

        environmentFile = mkOption {
          type = types.nullOr blib.types.externalPath;
          default = null;
          example = "/run/secrets/restic/env";
          description = ''
            File with environment variables for restic, for the first repository if there are several. `null` takes
            the one of `backup.restic`, if it has one.
          '';
        };

        deadlineSeconds = mkOption {
          # At most 30 days, the longest time that the programs take from their settings.
          type = types.nullOr (types.ints.between 1 2592000);
          default = null;
          example = 14400;
          description = ''
            Longest time, in seconds, that the restore may take. Past it the unit fails, the server does not
            start, and the next try begins over or goes on where it can. `null` waits as long as it takes.
          '';
        };

        allowEmptyStartWithoutProof = mkOption {
          type = types.bool;
          default = false;
          example = true;
          description = ''
            Whether the server may start on a new, empty cluster although not every source could be asked.

            **This loses data** when a source was only unreachable: applications fill the new cluster while
            the old data waits in the copy. Use it for a first start without any copies, and take it out again.
          '';
        };

        repository = mkOption {
          type = types.attrsOf (types.nullOr types.str);
          readOnly = true;
          internal = true;
          default = {
            url = of cfg.repositoryUrl resolved.url;
            passwordFile = of cfg.passwordFile resolved.passwordFile;
            environmentFile = of cfg.environmentFile resolved.environmentFile;
          };
          description = ''
            The repository with what `backup.restic` fills in.
          '';
        };

        repositories = mkOption {
          type = types.listOf (types.attrsOf (types.nullOr types.str));
          readOnly = true;
          internal = true;
          default = [
            (cfg.repository // { suffix = ""; })
          ]
          ++ lib.optionals (cfg.repositoryUrl == null) (
            map (further: {
              inherit (further) url passwordFile environmentFile;
              suffix = further.jobSuffix;
            }) (lib.filter (one: one.jobSuffix != "") all)
          );
          description = ''
            All repositories to restore from, in the order in which they are asked, and what the names of their
            secrets end with.
          '';
        };
      };

      options.recovery = {
        enable = mkOption {
          type = types.bool;
          default = false;
          example = true;
          description = ''
            Whether the next start of the server is a restore to `target`. It is done once for each `id`: the
            server is restarted by the switch, the cluster as it was is kept beside the new one, and
            later starts leave it alone, so the declaration may stay.

            `backstay restore` does the same without a switch, and shows its plan first.
          '';
        };

        id = mkOption {
          type = types.nullOr (
            types.strMatching "[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
            // {
              description = "1 to 64 letters, digits, dots, hyphens and underscores";
            }
          );
          default = null;
          example = "2026-10-11-orders-dropped";
          description = ''
            Name of this recovery. What has been done is known by it; a new recovery needs a new one.
          '';
        };

        target = mkOption {
          type = types.enum [
            "immediate"
            "latest"
            "time"
            "xid"
            "name"
            "lsn"
          ];
          default =
            if recovery.targetTime != null then
              "time"
            else if recovery.targetXid != null then
              "xid"
            else if recovery.targetName != null then
              "name"
            else if recovery.targetLsn != null then
              "lsn"
            else
              "immediate";
          defaultText = lib.literalMD "the one of `targetTime`, `targetXid`, `targetName` and `targetLsn` that is set, else `\"immediate\"`";
          example = "latest";
          description = ''
            How far to recover: to the first consistent state after the base backup (`immediate`), to the end
            of the archive (`latest`), or to the target of that kind.
          '';
        };

        targetTime = mkOption {
          type = types.nullOr types.str;
          default = null;
          example = "2026-10-11 14:30 Europe/Berlin";
          description = ''
            Moment to recover to, with its zone: a region, an offset (`+02:00`) or `UTC`.
          '';
        };

        targetXid = mkOption {
          type = types.nullOr (types.coercedTo types.ints.unsigned toString types.str);
          default = null;
          example = "742";
          description = ''
            Transaction to recover to, as `backstay find` shows it.
          '';
        };

        targetName = mkOption {
          type = types.nullOr types.str;
          default = null;
          example = "before_major_upgrade";
          description = ''
            Restore point to recover to, as `pg_create_restore_point()` named it.
          '';
        };

        targetLsn = mkOption {
          type = types.nullOr types.str;
          default = null;
          example = "0/7000028";
          description = ''
            Address in the WAL to recover to.
          '';
        };

        inherit exclusive;

        timeline = mkOption {
          type = types.coercedTo types.ints.positive toString (
            types.strMatching "latest|current|[1-9][0-9]*"
            // {
              description = "\"latest\", \"current\" or a number";
            }
          );
          default = "latest";
          example = 2;
          description = ''
            Which timeline to follow. A moment that a former restore has left behind is on an older one;
            `backstay windows` shows them.
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
