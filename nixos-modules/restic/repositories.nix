# What a repository needs beside its jobs: to be made, and to be pruned and checked.
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
  places = import ./places.nix { inherit lib config; };
  inherit (import ./resolved.nix { inherit lib config; }) jobs jobsOf;

  restic = "${pkgs.restic}/bin/restic";
  used = lib.mapAttrs (
    name: jobNames:
    cfg.repositories.${name}
    // {
      inherit name jobNames;
      # In a directory only the one who wrote a file can be counted on to read it, and all jobs are one
      # user's. Elsewhere each of them may do; not root, if there is somebody else.
      user =
        let
          users = map (job: jobs.${job}.user) jobNames;
        in
        lib.findFirst (user: user != "root") (lib.head users) users;
    }
  ) jobsOf;

  toInitialize = lib.filterAttrs (_: repository: repository.initialize) used;
  toMake = lib.filterAttrs (_: isOnRoot) toInitialize;
  toPrune = lib.filterAttrs (_: repository: repository.pruneSchedule != null) used;

  isOnRoot = repository: places.isDirectory repository.url && repository.mountPoint == "/";

  jobUnits = repository: map (name: "restic-backups-${name}.service") repository.jobNames;

  initialization =
    repository:
    lib.nameValuePair "restic-backups-repository-${repository.name}" {
      description = lib.mkDefault "Make sure that the ${unit.shownRepository repository.name} is there";
      onFailure = notifications.onFailure "backup-failure";
      onSuccess = notifications.onSuccess "backup-failure";
      unitConfig.RequiresMountsFor = unit.requiredMountsFor repository;
      serviceConfig = lib.mkMerge [
        (unit.serviceConfig {
          inherit repository;
          inherit (repository) user;
        })
        {
          ExecStartPre = lib.mkBefore (unit.mountChecks repository [ ]);
          # What comes before is NixOS': it asks for the repository, and makes it if it is not there.
          # This proves that it can be opened with the password.
          ExecStart = [
            (blib.execStart (
              resticFor repository
              ++ [
                "cat"
                "config"
              ]
            ))
          ];
          # The answer is in the exit status; the journal has no use for the repository's parameters.
          StandardOutput = "null";
          # Once per boot. All jobs wait for it, so two of them never make the repository at once.
          RemainAfterExit = true;
        }
      ];
    };

  # The command, up to what it is to do.
  resticFor =
    repository:
    [ restic ]
    ++ lib.concatMap (option: [
      "-o"
      option
    ]) (unit.extendedOptions repository);

  # How each count of a job's `keep` is called by restic; null is not said.
  keepArguments =
    keep:
    lib.mapAttrsToList (period: count: "--keep-${period}=${toString count}") (
      lib.filterAttrs (_: count: count != null) keep
    );

  # Only what this job of this host stored: by host and by the tag that every job's name is.
  forget =
    repository: name:
    resticFor repository
    ++ [
      "forget"
      "--retry-lock=1h"
      "--host=${cfg.hostName}"
      "--tag=${name}"
      # By default each set of paths is counted apart, and those of an older declaration would be kept
      # for ever.
      "--group-by=host"
    ]
    ++ keepArguments jobs.${name}.keep;

  pruning =
    repository:
    lib.nameValuePair "restic-prune-${repository.name}" {
      description = "Forget old snapshots in the ${unit.shownRepository repository.name} and check it";
      # Apart from the backups, so that a failure here is no failure there. A backup that is starting
      # goes first; one that starts meanwhile waits for restic's own lock, on this host and on others.
      after = jobUnits repository ++ [ "network-online.target" ];
      wants = [ "network-online.target" ];
      onFailure = notifications.onFailure "verification-failure";
      onSuccess = notifications.onSuccess "verification-failure";
      # A switch must not break off hours of work.
      restartIfChanged = false;
      path = [ pkgs.openssh ];
      unitConfig.RequiresMountsFor = unit.requiredMountsFor repository;
      environment = unit.environment // {
        RESTIC_REPOSITORY = unit.unitText repository.url;
        RESTIC_PASSWORD_FILE = unit.passwordCredential "restic-prune-${repository.name}";
        RESTIC_CACHE_DIR = "/var/cache/restic-prune-${repository.name}";
      };
      serviceConfig = lib.mkMerge [
        (unit.serviceConfig {
          inherit repository;
          inherit (repository) user;
        })
        {
          Type = "oneshot";
          User = repository.user;
          ExecStartPre = unit.mountChecks repository [ ];
          CacheDirectory = "restic-prune-${repository.name}";
          CacheDirectoryMode = "0700";
          ExecStart = map blib.execStart (
            [
              # Removes the locks of processes that are gone, and no others.
              (resticFor repository ++ [ "unlock" ])
            ]
            ++ map (forget repository) (
              lib.filter (name: keepArguments jobs.${name}.keep != [ ]) repository.jobNames
            )
            ++ [
              (
                resticFor repository
                ++ [
                  "prune"
                  "--retry-lock=1h"
                ]
              )
              (
                resticFor repository
                ++ [
                  "check"
                  "--retry-lock=1h"
                ]
                ++ lib.optional (
                  repository.checkReadDataSubset != null
                ) "--read-data-subset=${repository.checkReadDataSubset}"
              )
            ]
          );
        }
        (lib.optionalAttrs (repository.environmentFile != null) {
          EnvironmentFile = unit.unitText repository.environmentFile;
        })
      ];
    };
in
{
  config = lib.mkIf (cfg.enable && used != { }) {
    services.restic.backups = lib.mapAttrs' (
      name: repository:
      lib.nameValuePair "repository-${name}" {
        repository = unit.unitText repository.url;
        passwordFile = unit.passwordCredential "restic-backups-repository-${name}";
        environmentFile = lib.mapNullable unit.unitText repository.environmentFile;
        extraOptions = unit.quotedOptions repository;
        inherit (repository) user;
        initialize = true;
        # Started by the jobs, and by nothing else.
        timerConfig = null;
        createWrapper = false;
      }
    ) toInitialize;

    systemd.services = lib.mkMerge [
      (lib.listToAttrs (map initialization (lib.attrValues toInitialize)))
      (lib.listToAttrs (map pruning (lib.attrValues toPrune)))
    ];

    # Below another mount point it is not made here: while nothing is mounted there, it would be made
    # on the root file system, and hidden later. restic makes it, if its user may.
    systemd.tmpfiles.settings = lib.mkIf (toMake != { }) {
      "10-restic-repositories" = lib.mapAttrs' (
        _: repository:
        lib.nameValuePair (places.directoryOf repository.url) {
          # ":" leaves alone what is there already.
          d = {
            mode = ":0700";
            user = ":${repository.user}";
          };
        }
      ) toMake;
    };

    systemd.timers = lib.mapAttrs' (
      name: repository:
      lib.nameValuePair "restic-prune-${name}" {
        description = "Forget old snapshots in the ${unit.shownRepository name} and check it";
        wantedBy = [ "timers.target" ];
        timerConfig = {
          OnCalendar = repository.pruneSchedule;
          Persistent = true;
          # Hosts that share a repository take turns.
          RandomizedDelaySec = "1h";
        };
      }
    ) toPrune;
  };
}
