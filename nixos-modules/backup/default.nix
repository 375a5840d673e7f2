# Archive, base backups and their copies off-site: from options to settings, units and restic jobs.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  blib = import ../lib.nix { inherit lib pkgs; };
  helper = import ./helper.nix { inherit lib pkgs; };
  privileges = import ./privileges.nix;
  messages = import ./messages.nix { inherit lib; };
  inherit (config.modules) notifications;
  inherit (config.modules.backup) restic;

  instances = blib.enabled config.modules.services.postgresql.instances;
  having = flag: lib.filterAttrs (_: instance: instance.backup.${flag}) instances;
  archiving = having "isArchiving";
  backedUp = having "takesBaseBackups";
  # Without a dataset there is nothing to snapshot; that is said in assertions.nix.
  snapshotted = lib.filterAttrs (
    _: instance: (sources.datasetsOf instance).data != null
  ) (having "takesSnapshots");

  units = import ./units.nix;
  sources = import ../preseed/sources.nix { inherit lib config; };
  credentials = import ./credentials.nix { inherit lib; };

  # An upload is only made where there is something to upload into; what is missing is said in
  # assertions.nix.
  usable = lib.filter (
    repository: !messages.hasPassword repository.url && repository.passwordFile != null
  );

  # What is copied, by whom and where to: [ { name, instance, repository, content } ].
  copies = lib.concatLists (
    lib.mapAttrsToList (
      name: instance:
      lib.concatMap (
        repository:
        map (content: {
          inherit
            name
            instance
            repository
            content
            ;
          job = (units name).job repository content;
        }) (contentsOf instance)
      ) (usable instance.backup.restic.all)
    ) (having "copiesOffSite")
  );
  contentsOf =
    instance:
    lib.optional instance.backup.isArchiving "wal"
    ++ lib.optional instance.backup.takesBaseBackups "base";
  copiesOf =
    name: content: lib.filter (copy: copy.name == name && copy.content == content) copies;
  unitOf = copy: (units copy.name).copy copy.repository copy.content;

  # Instances whose server can get WAL back from off-site.
  readingOffSite = lib.filterAttrs (
    _: instance: instance.backup.enable && usable instance.backup.restic.all != [ ]
  ) instances;

  instanceModule =
    { name, config, ... }:
    let
      cfg = config.backup;
      unit = units name;
      datasets = sources.datasetsOf config;
    in
    {
      config = {
        serverSettings = lib.mkIf cfg.isArchiving {
          archive_timeout = cfg.walArchive.archiveTimeout;
        };

        writablePaths =
          # The server runs pg-archive-wal.
          lib.optional cfg.isArchiving cfg.walArchive.directory
          # Before the server starts, pg-init marks the directory as this instance's. "-": a backup disk
          # that is missing must not keep the server down.
          ++ lib.optional cfg.takesBaseBackups "-${cfg.baseBackup.directory}";

        programSettings = {
          # Always there: pg-restore-wal reads the archive of an instance that no longer writes to it.
          archive = {
            inherit (cfg.walArchive)
              directory
              workAheadSegments
              threads
              archiveDeadlineSeconds
              restoreDeadlineSeconds
              prefetchMebibytes
              furtherDirectories
              ;
            compression = {
              inherit (cfg.walArchive.compression) algorithm level;
            };
          };

          baseBackup = lib.mkIf cfg.takesBaseBackups {
            inherit (cfg.baseBackup)
              directory
              format
              tarCompression
              maximumRateKibibytesPerSecond
              fastCheckpoint
              walDeadlineSeconds
              ;
            incremental =
              if cfg.baseBackup.incremental.enable then
                { inherit (cfg.baseBackup.incremental) chainLength; }
              else
                null;
          };

          retention = lib.mkIf (cfg.isArchiving || cfg.takesBaseBackups) {
            days = cfg.walArchive.retentionDays;
            inherit (cfg.baseBackup.retention) daily weekly monthly;
            inherit (cfg.baseBackup) minimumGood;
          };

          # On ZFS, snapshots are restore points too.
          snapshots = lib.mkIf (cfg.enable && datasets.data != null) {
            dataset = datasets.data;
            archiveDataset = datasets.archive;
            keep = if cfg.takesSnapshots then cfg.baseBackup.snapshots.keep else null;
          };

          # Read by people's `backstay` and by drills, not only by the jobs, so a repository is named
          # even where something else copies into it. The paths are those of the secrets themselves: a
          # unit that may not read them has them as the credentials restic-password-<name> and
          # restic-environment-<name>.
          restic = lib.mkIf (cfg.enable && cfg.restic.all != [ ]) (
            map (repository: {
              inherit (repository) name passwordFile environmentFile;
              repository = repository.url;
              # Our jobs store under this name; under which one something else does is not known.
              host = if cfg.copiesOffSite then restic.hostName else null;
              jobs = lib.optionals cfg.copiesOffSite (
                map (content: {
                  job = content;
                  unit = unit.copy repository content;
                }) (contentsOf config)
              );
            }) cfg.restic.all
          );
        };
      };
    };

  # What is in the way for a moment costs a quarter of an hour and not the whole run. OnFailure= comes
  # after the fifth try, which is well within the interval: a limit that is never reached would make
  # a unit fail for ever without a word.
  tryAgain = {
    startLimitIntervalSec = 2 * 60 * 60;
    startLimitBurst = 5;
    serviceConfig = {
      Restart = "on-failure";
      RestartSec = "15min";
    };
  };

  # Reading all data leaves the disks to the queries.
  inTheBackground.serviceConfig = {
    Nice = 10;
    IOSchedulingClass = "idle";
  };

  # In a recovery the server runs pg-restore-wal, which asks the repositories for what the archive lacks.
  serverUnit =
    name: instance:
    let
      repositories = usable instance.backup.restic.all;
      isOverSsh = lib.any (repository: lib.hasPrefix "sftp:" repository.url) repositories;
      secrets = credentials repositories;
    in
    lib.nameValuePair "postgresql-${name}" {
      path = [ pkgs.restic ] ++ lib.optional isOverSsh pkgs.openssh;
      # Where sops-nix decrypts in a unit and not before, the secrets come from there.
      after = [ "sops-install-secrets.service" ];
      serviceConfig = {
        inherit (secrets) LoadCredential SetCredential;
      };
    };

  baseBackupUnit =
    name: instance:
    let
      unit = units name;
    in
    lib.nameValuePair "postgresql-basebackup-${name}" (
      lib.mkMerge [
        (helper {
          inherit name instance;
          program = "pg-base-backup";
          preset = blib.hardening.helper;
          writable = [
            instance.backup.baseBackup.directory
            # Where a restore has asked for it. It takes the request back.
            instance.paths.state
          ];
          mounts = instance.backupMounts;
        })
        {
          description = "Base backup of the PostgreSQL instance ${name}";
          # The server has to answer. It is not required: a backup must not start a server that
          # somebody has stopped, for a restore perhaps. It fails and says so.
          after = [ unit.server ];
          # What was taken is copied off-site at once. The job's own timer tries again what fails here.
          onSuccess =
            map unitOf (lib.filter (copy: restic.jobs.${copy.job}.enable) (copiesOf name "base"))
            ++ notifications.onSuccess "postgresql-backup-failure";
          onFailure = notifications.onFailure "postgresql-backup-failure";
        }
        # The server may be restarting, pg-prune may hold the lock.
        tryAgain
        inTheBackground
      ]
    );

  # Takes a snapshot, then destroys those that have expired: nothing takes one without the other. It is one unit
  # because the rights for both are given and taken away with it, and two would take away each other's.
  snapshotUnit =
    name: instance:
    let
      dataset = (sources.datasetsOf instance).data;
      # zfs-allow(8): who destroys has to be allowed to mount as well, and who marks a snapshot to set user
      # properties. Said again in crates/snapshot-keeping, for the message to whom lacks them.
      rights = "destroy,mount,snapshot,userprop";
      # As root, outside of the sandbox: the userland that came with the running kernel's module.
      change =
        action:
        "+"
        + blib.execStart [
          "/run/booted-system/sw/bin/zfs"
          action
          "-u"
          instance.user
          rights
          dataset
        ];
    in
    lib.nameValuePair "postgresql-snapshot-${name}" (
      lib.mkMerge [
        (helper {
          inherit name instance;
          program = "pg-base-backup";
          arguments = [
            "--method"
            "snapshot"
          ];
          followedBy = {
            program = "pg-prune";
            arguments = [ "--snapshots" ];
          };
          preset = privileges.askingZfs blib.hardening.helper;
          # The lock.
          writable = [ instance.paths.state ];
        })
        {
          description = "Snapshot of the PostgreSQL instance ${name}";
          # The server has to answer, as for a base backup.
          after = [ (units name).server ];
          path = [ "/run/booted-system/sw" ];
          serviceConfig = {
            ExecStartPre = [ (change "allow") ];
            # Also when it failed.
            ExecStopPost = [ (change "unallow") ];
            # A pool that is suspended answers nothing, for ever. Failing says so.
            TimeoutStartSec = "15min";
          };
          # It is not tried again: the next one is due soon, and a limit on starts would stop a frequent schedule.
          onFailure = notifications.onFailure "postgresql-backup-failure";
          onSuccess = notifications.onSuccess "postgresql-backup-failure";
        }
      ]
    );

  pruneUnit =
    name: instance:
    let
      unit = units name;
    in
    lib.nameValuePair "postgresql-walprune-${name}" (
      lib.mkMerge [
        (helper {
          inherit name instance;
          program = "pg-prune";
          preset = blib.hardening.helper;
          writable = [
            instance.backup.walArchive.directory
            instance.backup.baseBackup.directory
          ];
          mounts = instance.backupMounts;
        })
        {
          description = "Removal of expired base backups and WAL of the PostgreSQL instance ${name}";
          # Whoever is reading or writing a backup finishes first: a file that is removed under an
          # upload makes the upload incomplete, and a drill or a backup holds a lock that would make
          # this fail. None of them is started by it.
          after = [
            unit.baseBackup
          ]
          ++ lib.optional instance.drill.enable unit.drill
          ++ map unitOf (copiesOf name "wal" ++ copiesOf name "base");
          onFailure = notifications.onFailure "postgresql-prune-failure";
          onSuccess = notifications.onSuccess "postgresql-prune-failure";
        }
        # A person may be restoring.
        tryAgain
        inTheBackground
      ]
    );

  # The mount points that a directory needs, out of those that the instance knows.
  mountsOf =
    instance: directory:
    lib.filter (mount: mount == directory || lib.hasPrefix (mount + "/") directory) (
      lib.unique (instance.requiredMounts ++ instance.backupMounts)
    );

  # A user may let a job run as somebody else.
  isOwner = instance: job: restic.jobs.${job}.user == instance.user;

  # What is copied off-site. A user may change all but what is copied and how it is found again.
  walJob =
    {
      name,
      instance,
      repository,
      job,
      ...
    }:
    let
      inherit (instance.backup.walArchive) directory syncInterval;
    in
    {
      repository = repository.name;
      # What a repository in a directory gets is readable for its writer only, and restores, drills and
      # pg-restore-wal read it as the server's user.
      user = lib.mkDefault instance.user;
      paths = [ directory ];
      # Files that are being written. They are not part of the archive yet.
      excludePatterns = [ "${directory}/incoming" ];
      tags = [
        "postgresql"
        name
        "wal-archive"
      ];
      # All files are the job's own, so in a user namespace none of them looks like nobody's.
      serviceConfig = lib.mkIf (isOwner instance job) {
        PrivateUsers = lib.mkDefault true;
      };
      schedule = lib.mkDefault syncInterval;
      # Short, since a copy that is late is late by that much when the host is lost.
      randomizedDelaySeconds = lib.mkDefault 10;
      requiredMounts = mountsOf instance directory;
      # The notes.
      writablePaths = [ instance.paths.state ];
    };

  baseJob =
    {
      name,
      instance,
      repository,
      job,
      ...
    }:
    let
      inherit (instance.backup.baseBackup) directory schedule;
    in
    {
      repository = repository.name;
      # What a repository in a directory gets is readable for its writer only, and restores, drills and
      # pg-restore-wal read it as the server's user.
      user = lib.mkDefault instance.user;
      paths = [ directory ];
      # A base backup that is being taken or removed.
      excludePatterns = [ "${directory}/*.partial" ];
      tags = [
        "postgresql"
        name
        "base-backup"
      ];
      # All files are the job's own, so in a user namespace none of them looks like nobody's.
      serviceConfig = lib.mkIf (isOwner instance job) {
        PrivateUsers = lib.mkDefault true;
      };
      # Each base backup starts this job when it has been taken. The timer is for what failed then: a
      # network that was away in the night must not cost the day's copy. If there is nothing new it
      # makes no snapshot.
      schedule = lib.mkDefault schedule;
      randomizedDelaySeconds = lib.mkDefault 3600;
      # One that is just being taken is waited for.
      after = [ (units name).baseBackup ];
      requiredMounts = mountsOf instance directory;
      # The notes.
      writablePaths = [ instance.paths.state ];
    };

  # The job notes what its copy holds, by which the health check knows how fresh the copy is. Without a
  # note nobody knows that; with "-", the copy is made all the same.
  noting =
    {
      name,
      instance,
      repository,
      content,
      job,
    }:
    let
      asOwner = isOwner instance job;
      # "%" begins a specifier in a unit file.
      escaped = lib.replaceStrings [ "%" ] [ "%%" ];
      note =
        moment:
        # The notes are the instance's. Somebody else's job writes them in its name, outside of the
        # sandbox, in which nobody becomes another.
        (if asOwner then "-" else "-+")
        + blib.execStart (
          lib.optionals (!asOwner) [
            "${pkgs.util-linux}/bin/runuser"
            "--user=${instance.user}"
            "--"
          ]
          ++ [
            (blib.program "pg-off-site")
            "--config"
            instance.paths.settingsFile
            "--repository=${repository.name}"
            "--content=${content}"
            "--${moment}"
          ]
        );
    in
    lib.nameValuePair "restic-backups-${job}" {
      # A restore takes the newest copy. On a new machine, before it has its data back, that would be one
      # of an empty directory. Nothing is copied until the archive shows its manifest, or a base backup
      # its record; that something is gone which was there is for the health check to tell.
      unitConfig =
        {
          wal.ConditionPathExists = escaped "${instance.backup.walArchive.directory}/archive.json";
          base.ConditionPathExistsGlob = escaped "${instance.backup.baseBackup.directory}/.backstay/????????-??????.json";
        }
        .${content};
      serviceConfig = {
        ExecStartPre = [ (note "begin") ];
        # systemd runs it after a copy that was made whole, and after no other.
        ExecStartPost = [ (note "end") ];
      };
    };

  # Repositories that instances describe themselves, which need no other declaration: the description of
  # the first instance. That all agree is checked in assertions.nix.
  described =
    let
      describing = lib.filterAttrs (
        _: instance:
        let
          inherit (instance.backup) enable restic;
        in
        enable
        && restic.enable
        && restic.repositoryUrl != null
        && !messages.hasPassword restic.repositoryUrl
      ) instances;
      nameOf = name: (units name).repository instances.${name}.backup.restic.repositoryName;
    in
    lib.mapAttrs (_: names: instances.${lib.head names}.backup.restic) (
      lib.groupBy nameOf (lib.attrNames describing)
    );

  timer = schedule: delay: {
    wantedBy = [ "timers.target" ];
    timerConfig = {
      OnCalendar = schedule;
      # What was due while the host was off is made up for.
      Persistent = true;
      # Instances with the same schedule do not read all disks at once.
      RandomizedDelaySec = delay;
    };
  };
in
{
  imports = [
    ./options.nix
    ./assertions.nix
    ./branches.nix
    # Read here: the instance itself, monitoring.enable and drill.enable, repositories and jobs, datasets,
    # notifications. Only options of the areas that import this one.
    ../instances
    ../monitoring/options.nix
    ../notifications
    ../restic
    ../storage
  ];

  options.modules.services.postgresql.instances = lib.mkOption {
    type = lib.types.attrsOf (lib.types.submodule instanceModule);
  };

  config = {
    modules.backup.restic = {
      repositories = lib.mapAttrs (
        _: repository:
        lib.mapAttrs (_: lib.mkDefault) (
          lib.filterAttrs (_: value: value != null) {
            url = repository.repositoryUrl;
            inherit (repository) passwordFile environmentFile;
          }
        )
      ) described;

      jobs = lib.listToAttrs (
        map (
          copy: lib.nameValuePair copy.job ((if copy.content == "wal" then walJob else baseJob) copy)
        ) copies
      );
    };

    systemd.services = lib.mkMerge [
      (lib.mapAttrs' serverUnit readingOffSite)
      # A job that a user has switched off is no unit.
      (lib.listToAttrs (map noting (lib.filter (copy: restic.jobs.${copy.job}.enable) copies)))
      (lib.mapAttrs' baseBackupUnit backedUp)
      (lib.mapAttrs' snapshotUnit snapshotted)
      (lib.mapAttrs' pruneUnit archiving)
    ];

    systemd.timers = lib.mkMerge [
      (lib.mapAttrs' (
        name: instance:
        lib.nameValuePair "postgresql-basebackup-${name}" (
          timer instance.backup.baseBackup.schedule "30min"
          // {
            description = "Schedule of the base backups of the PostgreSQL instance ${name}";
          }
        )
      ) backedUp)
      (lib.mapAttrs' (
        name: instance:
        lib.nameValuePair "postgresql-snapshot-${name}" (
          # Short: the moments are what they are taken for.
          timer instance.backup.baseBackup.snapshots.schedule "10s"
          // {
            description = "Schedule of the snapshots of the PostgreSQL instance ${name}";
          }
        )
      ) snapshotted)
      (lib.mapAttrs' (
        name: instance:
        lib.nameValuePair "postgresql-walprune-${name}" (
          timer instance.backup.pruneSchedule "15min"
          // {
            description = "Schedule of the removal of expired backups of the PostgreSQL instance ${name}";
          }
        )
      ) archiving)
    ];
  };
}
