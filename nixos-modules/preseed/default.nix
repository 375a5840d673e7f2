# Restores by declaration: of an empty data directory before the first start, and once on request.
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
  restic = import ../restic/places.nix { inherit lib config; };
  sources = import ./sources.nix { inherit lib config; };
  targets = import ./target.nix { inherit lib; };
  units = import ../backup/units.nix;
  inherit (config.modules) notifications;
  storage = config.modules.storage.datasets;

  instances = blib.enabled config.modules.services.postgresql.instances;
  preseeding = lib.filterAttrs (_: instance: instance.preseed.enable) instances;
  recovering = lib.filterAttrs (_: instance: instance.recovery.enable) instances;

  # Where systemd puts the secrets of the unit.
  credential = name: id: "/run/credentials/${(units name).preseed}/${id}";
  sshKey = "ssh-key";
  resticPassword = repository: "restic-password${repository.suffix}";
  resticEnvironment = repository: "restic-environment${repository.suffix}";

  # Sections of the settings for each method. One that has no source is refused in assertions.nix.
  sourcesOf =
    name: instance: method:
    let
      datasets = sources.datasetsOf instance;
      replicas = sources.replicasOf instance;
      # One connection fetches both, so the archive's replica counts where it is beside the data's.
      archive = if sources.archiveIsBeside instance then replicas.archive.dataset else null;
    in
    {
      syncoid = lib.singleton {
        kind = "syncoid";
        inherit (replicas.data)
          host
          user
          port
          dataset
          knownHosts
          sendOptions
          receiveOptions
          ;
        # Its units get it as a credential. The file itself is read by root, for a plan.
        inherit (replicas.data) sshKeyFile;
        targetDataset = datasets.data;
        archiveDataset = archive;
        archiveTargetDataset = if archive == null then null else datasets.archive;
      };
      local = lib.singleton {
        kind = "local";
        dataset = datasets.data;
        archiveDataset = datasets.archive;
      };
      # Each is a source of its own, so one that is lost hides none of the others.
      restic = map (repository: {
        kind = "restic";
        repository = repository.url;
        passwordFile = credential name (resticPassword repository);
        environmentFile =
          if repository.environmentFile == null then
            null
          else
            credential name (resticEnvironment repository);
      }) instance.preseed.repositories;
      baseBackups = [ { kind = "baseBackups"; } ];
    }
    .${method};

  # The methods that have a source.
  methodsOf =
    instance:
    lib.unique (lib.filter (method: sources.has.${method} instance) instance.preseed.restoreMethods);

  valueOf =
    recovery:
    {
      time = recovery.targetTime;
      xid = recovery.targetXid;
      name = recovery.targetName;
      lsn = recovery.targetLsn;
    }
    .${recovery.target} or null;

  instanceModule =
    { name, config, ... }:
    let
      inherit (config) preseed recovery;
    in
    {
      config.programSettings = {
        preseed = lib.mkIf preseed.enable {
          sources = lib.concatMap (sourcesOf name config) (methodsOf config);
          inherit (preseed)
            choose
            asStandby
            clearReplicationSlots
            deadlineSeconds
            allowEmptyStartWithoutProof
            ;
          target = targets.text preseed.pitr.target preseed.pitr.targetValue;
          inherit (preseed.pitr) exclusive;
        };
        recovery = lib.mkIf recovery.enable {
          inherit (recovery) id exclusive timeline;
          target = targets.text recovery.target (valueOf recovery);
        };
      };
    };

  preseedUnit =
    name: instance:
    let
      inherit (instance) paths;
      methods = methodsOf instance;
      uses = lib.flip lib.elem methods;
      repositories = lib.optionals (uses "restic") instance.preseed.repositories;
      isDirectory = repository: restic.isDirectory repository.url;
      usesDirectory = lib.any isDirectory repositories;
      usesDatasets = uses "syncoid" || uses "local";
      usesNetwork = uses "syncoid" || !lib.all isDirectory repositories;

      # Files are read out of it, or asked for.
      reading =
        (if usesDirectory then privileges.readingEverything else lib.id) (
          if usesNetwork then blib.hardening.network else blib.hardening.helper
        );
      # This part of pg-preseed reads snapshots and changes no dataset.
      preset = if usesDatasets then privileges.readingSnapshots reading else reading;

      # "%" begins a specifier in a unit file.
      escape = lib.replaceStrings [ "%" ] [ "%%" ];
      secrets =
        lib.concatMap (
          repository:
          [
            {
              id = resticPassword repository;
              path = repository.passwordFile;
            }
          ]
          ++ lib.optional (repository.environmentFile != null) {
            id = resticEnvironment repository;
            path = repository.environmentFile;
          }
        ) repositories
        ++ lib.optional (uses "syncoid") {
          id = sshKey;
          path = (sources.replicasOf instance).data.sshKeyFile;
        };
    in
    lib.nameValuePair "preseed-postgresql-${name}" (
      lib.mkMerge [
        (helper {
          inherit name instance preset;
          program = "pg-preseed";
          writable = [
            paths.root
            paths.state
          ]
          ++ lib.optional instance.backup.isArchiving paths.archive
          # A restore from base backups takes a lock beside them. "-": a backup disk that is missing must
          # not keep a healthy server down; pg-preseed finds it missing if it has to look there.
          ++ lib.optional (uses "baseBackups") "-${paths.backups}";
        })
        {
          description = "Restore of the PostgreSQL instance ${name} into an empty data directory";
          # It is started by the server, which requires it, and before each start of the server it looks
          # at the data directory again; what it has done is known by that and by no unit's state.
          after =
            # An empty directory can only be told from a missing mount when the datasets are there.
            lib.optional (storage.enable && usesDatasets) "backstay-datasets.service"
            # What another host has as a replica was received by then, and has its place.
            ++ lib.optionals (uses "syncoid") [
              (units name).receive
              (units name).takeOver
            ]
            # Another host or a repository on one is asked. Methods that stay on this host do not wait
            # for a network that may be down.
            ++ lib.optional usesNetwork "network-online.target"
            # A repository is a directory, perhaps on a NAS.
            ++ lib.optional usesDirectory "remote-fs.target"
            # Where sops-nix decrypts in a unit and not before, the secrets come from there.
            ++ lib.optional (secrets != [ ]) "sops-install-secrets.service";
          # While the archive gets back what it had, half of it is no copy.
          before = lib.optionals (instance.backup.copiesOffSite && instance.backup.isArchiving) (
            map (repository: (units name).copy repository "wal") instance.backup.restic.all
          );
          # Wanted and not required: a data directory that holds a cluster needs none of this.
          wants =
            lib.optional (storage.enable && usesDatasets) "backstay-datasets.service"
            ++ lib.optionals (uses "syncoid") [
              (units name).receive
              (units name).takeOver
            ]
            ++ lib.optional usesNetwork "network-online.target"
            ++ lib.optional usesDirectory "remote-fs.target";
          onFailure = notifications.onFailure "preseed-failure";
          onSuccess = notifications.onSuccess "preseed-failure";
          path =
            lib.optional (uses "restic") pkgs.restic
            ++ lib.optional (uses "syncoid") pkgs.openssh
            # The userland that came with the running kernel's module; another version may not speak to it.
            ++ lib.optional usesDatasets "/run/booted-system/sw";
          serviceConfig = lib.mkIf (secrets != [ ]) {
            LoadCredential = map (secret: "${secret.id}:${escape secret.path}") secrets;
            # A secret that is missing would fail the unit, and with it the start of a server that has
            # all its data and needs no restore. So it is an empty line instead, and the source that
            # needs it cannot be asked. (systemd.exec(5): SetCredential= is the default of LoadCredential=.)
            SetCredential = map (secret: "${secret.id}:\\n") secrets;
          };
        }
      ]
    );

  # A replica on another host is received beside the declared datasets, by the server's user with rights over that
  # place alone, and gets the declared name by root, who speaks to no other host. Each time the server starts; where
  # there is a cluster both end at once.
  receiveUnit =
    name: instance:
    lib.nameValuePair "postgresql-receive-${name}" (
      lib.mkMerge [
        (helper {
          inherit name instance;
          program = "pg-preseed";
          arguments = [ "--receive" ];
          preset = privileges.askingZfs blib.hardening.network;
          writable = [ instance.paths.state ];
        })
        {
          description = "Receive the replica of the PostgreSQL instance ${name} from another host";
          after = [
            # What is received goes beside these, once they have shown that they are empty.
            "backstay-datasets.service"
            "network-online.target"
            "sops-install-secrets.service"
          ];
          wants = [
            "backstay-datasets.service"
            "network-online.target"
          ];
          onFailure = notifications.onFailure "preseed-failure";
          onSuccess = notifications.onSuccess "preseed-failure";
          path = [
            pkgs.openssh
            "/run/booted-system/sw"
          ];
          serviceConfig = {
            # "+": makes the place and hands over the rights, which only root can.
            ExecStartPre =
              "+"
              + blib.execStart [
                (blib.program "pg-preseed")
                "--config"
                instance.paths.settingsFile
                "--let-receive"
                instance.user
              ];
            LoadCredential = [
              "${sshKey}:${
                lib.replaceStrings [ "%" ] [ "%%" ] (sources.replicasOf instance).data.sshKeyFile
              }"
            ];
            # As in the unit of the preseed: a key that is missing is for the program to tell.
            SetCredential = [ "${sshKey}:\\n" ];
          };
        }
      ]
    );
  takeOverUnit =
    name: instance:
    lib.nameValuePair "postgresql-take-over-${name}" {
      description = "Give the received replica of the PostgreSQL instance ${name} its place";
      # Two at once would each find the other's mounts in its way.
      after = [
        (units name).receive
        "backstay-datasets.service"
      ];
      restartIfChanged = false;
      onFailure = notifications.onFailure "preseed-failure";
      onSuccess = notifications.onSuccess "preseed-failure";
      path = [ "/run/booted-system/sw" ];
      serviceConfig = lib.mkMerge [
        blib.hardening.datasets
        {
          Type = "oneshot";
          ExecStart = blib.execStart [
            (blib.program "pg-preseed")
            "--config"
            instance.paths.settingsFile
            "--take-over"
            "/etc/backstay/datasets.json"
          ];
          # Taking the data out of what was received, which its snapshot keeps, depends on the number of files.
          TimeoutStartSec = "infinity";
        }
      ];
    };
  receiving = lib.filterAttrs (
    _: instance: lib.elem "syncoid" (methodsOf instance)
  ) preseeding;

  # After a restore before its start the server's base backups are all of an older timeline. What restored asks for a new one, and
  # pg-base-backup takes the request back.
  baseBackupRequest =
    name: instance:
    lib.nameValuePair "postgresql-basebackup-requested-${name}" {
      description = "Wait for a request for a base backup of the PostgreSQL instance ${name}";
      # Only a server that runs can be backed up.
      after = [ (units name).server ];
      wantedBy = [ (units name).server ];
      # Otherwise it comes before paths.target, and so before the server, which is a cycle.
      unitConfig.DefaultDependencies = false;
      conflicts = [ "shutdown.target" ];
      before = [ "shutdown.target" ];
      pathConfig = {
        PathExists = "${instance.paths.state}/base-backup-requested";
        Unit = (units name).baseBackup;
        # The request stays if the base backup fails. Then the timer's next one takes it back.
        TriggerLimitIntervalSec = "1h";
        TriggerLimitBurst = 3;
      };
    };
in
{
  imports = [
    ./options.nix
    ./assertions.nix
    # Read here: the instance itself, its backups and their repository, datasets and their replicas.
    ../backup
    ../instances
    ../notifications
    ../restic
    ../storage
  ];

  options.modules.services.postgresql.instances = lib.mkOption {
    type = lib.types.attrsOf (lib.types.submodule instanceModule);
  };

  config.systemd.services = lib.mkMerge [
    (lib.mapAttrs' preseedUnit preseeding)
    (lib.mapAttrs' receiveUnit receiving)
    (lib.mapAttrs' takeOverUnit receiving)
    # A recovery is done by the next start, so a new one restarts the server at the switch.
    (lib.mapAttrs' (
      name: instance:
      lib.nameValuePair "postgresql-${name}" {
        restartTriggers = [ (builtins.toJSON instance.programSettings.recovery) ];
        # The restore takes a lock beside the base backups. "-": a backup disk that is missing keeps the server
        # down only as long as there is a recovery to do.
        serviceConfig.ReadWritePaths = [ "-${instance.paths.backups}" ];
      }
    ) recovering)
  ];

  config.systemd.paths = lib.mapAttrs' baseBackupRequest (
    lib.filterAttrs (_: instance: instance.backup.takesBaseBackups) (preseeding // recovering)
  );
}
