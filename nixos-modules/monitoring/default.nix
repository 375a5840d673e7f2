# Checks, metrics, objectives and rehearsed restores: from options to settings and units.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  blib = import ../lib.nix { inherit lib pkgs; };
  helper = import ../backup/helper.nix { inherit lib pkgs; };
  privileges = import ../backup/privileges.nix;
  places = import ../backup/places.nix { inherit lib config; };
  messages = import ../backup/messages.nix { inherit lib; };
  restic = import ../restic/places.nix { inherit lib config; };
  credentials = import ../backup/credentials.nix { inherit lib; };
  secondsOf = import ./span.nix { inherit lib; };
  units = import ../backup/units.nix;
  inherit (config.modules) notifications;

  instances = blib.enabled config.modules.services.postgresql.instances;
  checked = lib.filterAttrs (_: instance: instance.healthCheck.enable) instances;
  drilled = lib.filterAttrs (_: instance: instance.drill.enable) instances;
  withCanary = lib.filterAttrs (_: instance: instance.drill.canary.enable) drilled;
  measured = lib.filterAttrs (_: instance: instance.monitoring.enable) instances;

  # Every instance has the same one.
  metricsDirectory = (lib.head (lib.attrValues measured)).paths.metrics;
  metricsGroup = "backstay-metrics";

  instanceModule =
    { config, ... }:
    let
      inherit (config)
        drill
        healthCheck
        monitoring
        objectives
        ;
      whenAny = values: lib.mkIf (lib.any (value: value != null) (lib.attrValues values)) values;
    in
    {
      config = {
        # pg-archive-wal is run by the server, and writes its metrics from there.
        writablePaths = lib.mkIf monitoring.enable [ config.paths.metrics ];

        programSettings = {
          metrics = lib.mkIf monitoring.enable { directory = config.paths.metrics; };

          objectives = whenAny { inherit (objectives) rpoSeconds offsiteRpoSeconds rtoSeconds; };

          healthCheck = lib.mkIf healthCheck.enable {
            inherit (healthCheck) checkReplicationLag;
            maximumReplicationLagSeconds = healthCheck.maxReplicationLagSeconds;
            maximumArchiveLagSeconds = healthCheck.maxArchiveLagSeconds;
            maximumBaseBackupAgeSeconds = healthCheck.maxBaseBackupAgeSeconds;
            maximumOffsiteLagSeconds = healthCheck.maxOffsiteLagSeconds;
            maximumReplicaAgeSeconds = healthCheck.maxReplicaAgeSeconds;
            intervalSeconds = secondsOf healthCheck.interval;
            maximumSnapshotAgeSeconds = healthCheck.maxSnapshotAgeSeconds;
            maximumPruneAgeSeconds = healthCheck.maxPruneAgeSeconds;
            maximumDrillAgeSeconds = healthCheck.maxDrillAgeSeconds;
            minimumFreeBytes = blib.sizeBytes healthCheck.minimumFree;
            maximumConnectionsPercent = healthCheck.maxConnectionsPercent;
            maximumUsedPercent = healthCheck.maxUsedPercent;
            maximumTransactionSeconds = healthCheck.maxTransactionSeconds;
            maximumDeadlocksPerHour = healthCheck.maxDeadlocksPerHour;
            maximumSlotBytes = blib.sizeBytes healthCheck.maxSlotSize;
            maximumTransactionIdAge = healthCheck.maxTransactionIdAge;
          };

          drill = lib.mkIf drill.enable {
            inherit (drill) directory deadlineSeconds;
            sources = lib.unique drill.sources;
            minimumFreeBytes = blib.sizeBytes drill.minimumFree;
            checks = map (check: { inherit (check) database query expect; }) drill.checks;
            canary =
              if drill.canary.enable then
                { inherit (drill.canary) database intervalSeconds rowsKept; }
              else
                null;
          };
        };
      };
    };

  # Whether anything that the instance writes is known to be on ZFS.
  writesToZfs =
    { backup, paths, ... }@instance:
    lib.any (path: (places.at path).dataset or null != null) (
      [ paths.root ]
      ++ lib.optional backup.isArchiving paths.archive
      ++ lib.optional backup.takesBaseBackups paths.backups
      ++ instance.tablespaces
    );

  healthCheckUnit =
    name: instance:
    let
      asksZfs = writesToZfs instance;
    in
    lib.nameValuePair "postgresql-healthcheck-${name}" (
      lib.mkMerge [
        (helper {
          inherit name instance;
          program = "pg-healthcheck";
          # A dataset with sync=disabled is a finding.
          preset = (if asksZfs then privileges.askingZfs else lib.id) blib.hardening.helper;
          writable = [ instance.paths.state ];
        })
        {
          description = "Health check of the PostgreSQL instance ${name}";
          # While the server is still starting there is nothing to say. It is not required: that it does
          # not run is what this has to find.
          after = [ (units name).server ];
          # The userland that came with the running kernel's module; another version may not speak to it.
          path = lib.optional asksZfs "/run/booted-system/sw";
          onFailure = notifications.onFailure "postgresql-health-failure";
          onSuccess = notifications.onSuccess "postgresql-health-failure";
          serviceConfig = {
            # A check that hangs has found something.
            TimeoutStartSec = "5min";
            # 1 is a warning: something to look at this week, which is no failure at three in the morning.
            SuccessExitStatus = lib.mkIf (!instance.healthCheck.failOnWarning) 1;
          };
        }
      ]
    );

  healthCheckTimer =
    name: instance:
    lib.nameValuePair "postgresql-healthcheck-${name}" {
      description = "Schedule of the health checks of the PostgreSQL instance ${name}";
      wantedBy = [ "timers.target" ];
      timerConfig = {
        OnBootSec = "2min";
        OnUnitActiveSec = instance.healthCheck.interval;
        # The default of a minute would be as long as the interval.
        AccuracySec = "1s";
        # The checks of many instances do not start in the same second.
        RandomizedDelaySec = "5s";
      };
    };

  drillUnit =
    name: instance:
    let
      inherit (instance) drill;
      uses = lib.flip lib.elem drill.sources;
      # What is missing is said in assertions.nix.
      repositories = lib.optionals (uses "restic") (
        lib.filter (repository: repository.passwordFile != null) instance.backup.restic.all
      );
      usesRestic = repositories != [ ];
      isDirectory = lib.any (repository: restic.isDirectory repository.url) repositories;
      usesNetwork = lib.any (repository: !restic.isDirectory repository.url) repositories;
      # A snapshot is read as files below .zfs, which belong to the server's user.
      preset = (if isDirectory then privileges.readingEverything else lib.id) (
        if usesNetwork then blib.hardening.network else blib.hardening.helper
      );
    in
    lib.nameValuePair "postgresql-restore-drill-${name}" (
      lib.mkMerge [
        (helper {
          inherit name instance preset;
          program = "pg-drill";
          writable = [
            drill.directory
            instance.paths.state
          ]
          # A restore takes a lock beside the base backups.
          ++ lib.optional (uses "local") instance.paths.backups;
          mounts = lib.optionals (uses "local") instance.backupMounts;
        })
        {
          description = "Restore drill of the PostgreSQL instance ${name}";
          # Whatever is mounted on the way to the scratch directory.
          unitConfig.RequiresMountsFor = [ drill.directory ];
          # The copy is compared with the server, so a server that is starting is waited for. It is not
          # required: a backup can be restored without it.
          after = [
            (units name).server
          ]
          # A base backup that is being taken is the one to restore.
          ++ lib.optional instance.backup.takesBaseBackups (units name).baseBackup
          # The repository is on another host.
          ++ lib.optional usesNetwork "network-online.target"
          # The repository is a directory, perhaps on a NAS.
          ++ lib.optional isDirectory "remote-fs.target";
          wants =
            lib.optional usesNetwork "network-online.target" ++ lib.optional isDirectory "remote-fs.target";
          onFailure = notifications.onFailure "postgresql-drill-failure";
          onSuccess = notifications.onSuccess "postgresql-drill-failure";
          path = lib.optionals usesRestic [
            pkgs.restic
            # For repositories behind sftp.
            pkgs.openssh
          ];
          serviceConfig = lib.mkMerge [
            {
              # A rehearsal leaves the disks and the processors to the real thing.
              Nice = 15;
              IOSchedulingClass = "idle";
              # The drill ends itself before, and removes the copy.
              TimeoutStartSec = drill.deadlineSeconds + 15 * 60;
            }
            # A secret that is missing fails the drill, which is what it is for.
            { inherit (credentials repositories) LoadCredential; }
          ];
        }
      ]
    );

  canaryUnit =
    name: instance:
    lib.nameValuePair "postgresql-canary-${name}" (
      lib.mkMerge [
        (helper {
          inherit name instance;
          program = "pg-canary";
          preset = blib.hardening.helper;
        })
        {
          description = "Canary of the PostgreSQL instance ${name}, by which restore drills are judged";
          # It comes and goes with the server, and starts none by itself.
          wantedBy = [ (units name).server ];
          partOf = [ (units name).server ];
          after = [ (units name).server ];
          # It runs all the time, so it has to be told of new settings.
          restartIfChanged = true;
          restartTriggers = [ (builtins.toJSON instance.programSettings.drill.canary) ];
          # A server that restarts or recovers refuses it for a while. It is nobody's emergency and never
          # gives up; a drill whose canary stopped says so.
          startLimitIntervalSec = 0;
          serviceConfig = {
            Type = "exec";
            Restart = "always";
            RestartSec = 15;
          };
        }
      ]
    );

  drillTimer =
    name: instance:
    lib.nameValuePair "postgresql-restore-drill-${name}" {
      description = "Schedule of the restore drills of the PostgreSQL instance ${name}";
      wantedBy = [ "timers.target" ];
      timerConfig = {
        OnCalendar = instance.drill.schedule;
        # What was due while the host was off is made up for.
        Persistent = true;
        # Instances with the same schedule do not read all disks at once.
        RandomizedDelaySec = "1h";
      };
    };
in
{
  imports = [
    ./options.nix
    ./assertions.nix
    ./alerts.nix
    ./replicas.nix
    # Read here: the instance itself, its backups and their repository, notifications.
    ../backup
    ../instances
    ../notifications
    ../restic
  ];

  options.modules.services.postgresql.instances = lib.mkOption {
    type = lib.types.attrsOf (lib.types.submodule instanceModule);
  };

  config = {
    systemd.services = lib.mkMerge [
      (lib.mapAttrs' healthCheckUnit checked)
      (lib.mapAttrs' drillUnit drilled)
      (lib.mapAttrs' canaryUnit withCanary)
    ];
    systemd.timers = lib.mkMerge [
      (lib.mapAttrs' healthCheckTimer checked)
      (lib.mapAttrs' drillTimer drilled)
    ];

    systemd.tmpfiles.settings = lib.mkMerge [
      (lib.mkIf (measured != { }) {
        # Written by root and by the users of all instances, read by everybody. With the sticky bit
        # nobody removes or replaces a file of somebody else, which one directory for several users
        # would otherwise allow.
        "10-backstay-metrics".${metricsDirectory}.d = {
          mode = "3775";
          user = "root";
          group = metricsGroup;
        };
      })
      (lib.mkIf (drilled != { }) {
        "10-postgresql-drill" = lib.mkMerge (
          lib.mapAttrsToList (
            _: instance:
            # One that cannot be used is refused in assertions.nix.
            lib.optionalAttrs (messages.directoryProblem instance.drill.directory == null) {
              ${instance.drill.directory}.d = {
                mode = "0700";
                inherit (instance) user group;
              };
            }
          ) drilled
        );
      })
    ];

    users.groups = lib.mkIf (measured != { }) {
      ${metricsGroup}.members = lib.naturalSort (
        lib.unique (lib.mapAttrsToList (_: instance: instance.user) measured)
      );
    };

    services.prometheus.exporters.node.extraFlags = lib.mkIf (measured != { }) [
      "--collector.textfile.directory=${metricsDirectory}"
    ];
  };
}
