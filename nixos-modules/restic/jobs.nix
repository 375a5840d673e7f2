# The jobs, as NixOS' services.restic.backups.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.modules.backup.restic;
  notifications = config.modules.notifications;
  blib = import ../lib.nix { inherit lib pkgs; };
  unit = import ./unit.nix { inherit lib pkgs config; };
  inherit (import ./resolved.nix { inherit lib config; }) jobs;

  argument = text: blib.execStart [ text ];

  backup = name: job: {
    repository = unit.unitText cfg.repositories.${job.repositoryName}.url;
    passwordFile = unit.passwordCredential "restic-backups-${name}";
    environmentFile =
      lib.mapNullable unit.unitText
        cfg.repositories.${job.repositoryName}.environmentFile;
    extraOptions = unit.quotedOptions cfg.repositories.${job.repositoryName};
    inherit (job) paths user;
    exclude = job.excludePatterns;
    extraBackupArgs = map argument (
      [
        "--host=${cfg.hostName}"
        # One argument: a snapshot that has all of these. Several arguments would each find their own.
        "--tag=${lib.concatStringsSep "," (lib.unique (job.tags ++ [ name ]))}"
        # While the repository is pruned a backup waits, and so does a pruning while one is running.
        "--retry-lock=1h"
      ]
      ++ lib.optional job.skipIfUnchanged "--skip-if-unchanged"
    );
    timerConfig =
      if job.schedule == null then
        null
      else
        {
          OnCalendar = job.schedule;
          Persistent = true;
          # The declared delay is all there is: by default systemd may add a minute of its own.
          AccuracySec = "1s";
          RandomizedDelaySec = job.randomizedDelaySeconds;
        };
    # The wrapper reads the password where the unit finds it, and there is nothing outside of the unit.
    createWrapper = false;
  };

  describe = name: job: "Back up ${name} into the ${unit.shownRepository job.repositoryName}";

  service =
    name: job:
    let
      repository = cfg.repositories.${job.repositoryName};
      checks = unit.mountChecks repository job.requiredMounts;
    in
    lib.nameValuePair "restic-backups-${name}" {
      # NixOS gives none.
      description = lib.mkDefault (describe name job);
      # The repository is made once, before the first job writes to it. Wanted and not required: if it
      # cannot be made, restic says better than systemd what is the matter.
      wants = lib.optional repository.initialize (unit.repositoryUnit job.repositoryName);
      after =
        lib.optional repository.initialize (unit.repositoryUnit job.repositoryName) ++ job.after;
      onFailure = notifications.onFailure job.failureTemplate;
      onSuccess = notifications.onSuccess job.failureTemplate;
      unitConfig.RequiresMountsFor =
        unit.requiredMountsFor repository ++ map unit.unitPath job.paths;
      inherit (unit) environment;
      serviceConfig = lib.mkMerge [
        # By default, so that a job can say otherwise. There is no SuccessExitStatus=: restic ends with
        # status 3 when it could not read everything, and that is a failure.
        (lib.mapAttrs (_: lib.mkDefault) (
          unit.serviceConfig {
            inherit repository;
            inherit (job) user;
            readsFiles = true;
            readsEverything = job.user == "root";
            backsUpHomes = lib.any unit.inHomes job.paths;
            writes = job.writablePaths;
          }
        ))
        # Before anything else, also of what NixOS runs first.
        (lib.optionalAttrs (checks != [ ]) { ExecStartPre = lib.mkBefore checks; })
        (lib.optionalAttrs (job.preCommands != [ ]) {
          ExecStartPre = map blib.execStart job.preCommands;
        })
        (lib.optionalAttrs (job.postCommands != [ ]) {
          ExecStartPost = map blib.execStart job.postCommands;
        })
        (lib.optionalAttrs (job.resources.memory != null) {
          MemoryMax = blib.sizeBytes job.resources.memory;
        })
        (lib.optionalAttrs (job.resources.memoryReservation != null) {
          MemoryLow = blib.sizeBytes job.resources.memoryReservation;
        })
        (lib.optionalAttrs (job.resources.cpus != null) {
          CPUQuota = "${toString (builtins.floor (job.resources.cpus * 100))}%";
        })
        (lib.optionalAttrs (job.deadlineSeconds != null) { TimeoutStartSec = job.deadlineSeconds; })
        job.serviceConfig
      ];
    };
in
{
  config = lib.mkIf (cfg.enable && jobs != { }) {
    services.restic.backups = lib.mapAttrs backup jobs;
    systemd.services = lib.mapAttrs' service jobs;
    systemd.timers = lib.mapAttrs' (
      name: job:
      lib.nameValuePair "restic-backups-${name}" {
        description = lib.mkDefault (describe name job);
      }
    ) (lib.filterAttrs (_: job: job.schedule != null) jobs);
  };
}
