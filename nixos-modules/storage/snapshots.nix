# Snapshots by sanoid and replication by syncoid, both as NixOS runs them.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.modules.backup.sanoid;
  storage = config.modules.storage.datasets;
  notifications = config.modules.notifications;
  names = import ./names.nix { inherit lib; };
  policy = import ./policy.nix { inherit lib; };
  blib = import ../lib.nix { inherit lib pkgs; };

  # "%" begins a specifier in a unit file.
  unitText = lib.replaceStrings [ "%" ] [ "%%" ];

  known = lib.filter (template: cfg.templates ? ${template});

  # The words of sanoid.conf. What is null is left out.
  sanoidRetention = retention: {
    inherit (retention)
      frequently
      hourly
      daily
      weekly
      monthly
      yearly
      ;
    frequent_period = retention.frequentPeriodMinutes;
  };

  replicated = lib.filterAttrs (
    _: dataset: dataset.replication != null && dataset.replication.targetDataset != null
  ) cfg.datasets;
  isRemote = dataset: dataset.replication.targetHost != null;
  remote = lib.filterAttrs (_: isRemote) replicated;

  # As known_hosts(5) writes a host whose port is not 22.
  hostPattern =
    replication:
    if replication.targetPort == 22 then
      replication.targetHost
    else
      "[${replication.targetHost}]:${toString replication.targetPort}";

  snapshotted = lib.filterAttrs (_: policy.hasPolicy) cfg.datasets;

  # sanoid runs zfs, and zfs speaks to its device; both work on nothing else. NixOS gives it a user of
  # its own, with rights on the declared datasets. Left open: /proc, since sanoid looks there for
  # transfers that are running before it destroys a snapshot, and the user namespace, with which ZFS
  # takes no delegated right.
  sanoidSandbox = {
    AmbientCapabilities = "";
    CapabilityBoundingSet = "";
    DeviceAllow = [ "/dev/zfs rw" ];
    DevicePolicy = "closed";
    IPAddressDeny = "any";
    KeyringMode = "private";
    LockPersonality = true;
    MemoryDenyWriteExecute = true;
    NoNewPrivileges = true;
    PrivateNetwork = true;
    ProtectClock = true;
    ProtectControlGroups = true;
    ProtectHome = true;
    ProtectHostname = true;
    ProtectKernelLogs = true;
    ProtectKernelModules = true;
    ProtectKernelTunables = true;
    ProtectSystem = "strict";
    RestrictAddressFamilies = [ "AF_UNIX" ];
    RestrictNamespaces = true;
    RestrictRealtime = true;
    RestrictSUIDSGID = true;
    SystemCallArchitectures = "native";
    SystemCallErrorNumber = "EPERM";
    SystemCallFilter = [
      "@system-service"
      "~@privileged @resources"
    ];
    UMask = "0077";
  };

  # How NixOS names the unit of a syncoid command.
  syncoidUnit =
    dataset:
    "syncoid-"
    + lib.concatStringsSep "-" (
      lib.filter builtins.isString (builtins.split "[^a-zA-Z0-9_.-]+" dataset)
    );

  # The target as people call it.
  shownTarget =
    replication:
    (
      if replication.targetName != null then
        replication.targetName
      else if replication.targetHost != null then
        replication.targetHost
      else
        "the pool ${names.poolOf replication.targetDataset}"
    )
    + lib.optionalString (replication.targetLocation != null) " (${replication.targetLocation})";

  command = source: dataset: {
    target =
      lib.optionalString (isRemote dataset)
        "${dataset.replication.targetUser}@${dataset.replication.targetHost}:"
      + dataset.replication.targetDataset;
    recursive = dataset.recursive != false;
    inherit (dataset.replication) sendOptions recvOptions;
    sshKey = if isRemote dataset then cfg.sshKeyPath else null;
    # syncoid takes no snapshot of its own here, so it needs no right to take or destroy one.
    localSourceAllow = [
      "bookmark"
      "hold"
      "send"
    ];
    # Neither destroy nor rollback: see --no-rollback below.
    localTargetAllow = [
      "change-key"
      "compression"
      "create"
      "mount"
      "mountpoint"
      "receive"
    ];
    extraArgs = [
      # The snapshots are sanoid's. One more for each run would be kept by nobody's policy.
      "--no-sync-snap"
      # What was sent last stays known when its snapshot has been pruned here, so the target may
      # be away for longer than the retention is.
      "--create-bookmark"
      # By default syncoid rolls the target back to the newest snapshot that both have. After a
      # rollback of the source that would destroy the only copy of what was rolled back.
      "--no-rollback"
    ]
    ++ lib.optionals (isRemote dataset) [
      "--sshport=${toString dataset.replication.targetPort}"
      # Only the declared key is accepted: it is in the file of the whole host, and nothing may be
      # added for this user.
      "--sshoption=StrictHostKeyChecking=yes"
      "--sshoption=UserKnownHostsFile=/dev/null"
      # Nobody is there to type a password.
      "--sshoption=BatchMode=yes"
    ];
    service = {
      description = lib.mkForce (unitText "Replicate ${source} to ${shownTarget dataset.replication}");
      after = [
        # A snapshot that is being taken is sent in the same round.
        "sanoid.service"
      ]
      # What is to be sent has to be there.
      ++ lib.optional storage.enable "backstay-datasets.service";
      # A switch must not break off a transfer of hours.
      restartIfChanged = false;
      onFailure = notifications.onFailure "zfs-replication-failure";
      onSuccess = notifications.onSuccess "zfs-replication-failure";
      serviceConfig =
        # NixOS shows the service little of the host, and the key may be outside of that. A key that is
        # not there is for ssh to report, which names the file.
        lib.optionalAttrs (isRemote dataset && cfg.sshKeyPath != null) {
          BindReadOnlyPaths = [ "-${unitText cfg.sshKeyPath}" ];
        };
    };
  };

  replicationOf =
    dataset:
    let
      covers =
        source:
        replicated ? ${source} && (source == dataset || replicated.${source}.recursive != false);
      nearestFirst = lib.reverseList (names.ancestorsOf dataset ++ [ dataset ]);
      source = lib.findFirst covers null nearestFirst;
      inherit (replicated.${source}) replication;
      isLocal = replication.targetHost == null;
      unlessLocal = value: if isLocal then null else value;
    in
    if source == null then
      null
    else
      {
        inherit source;
        unit = "${syncoidUnit source}.service";
        local = isLocal;
        host = replication.targetHost;
        port = unlessLocal replication.targetPort;
        user = unlessLocal replication.targetUser;
        dataset = replication.targetDataset + lib.removePrefix source dataset;
        sshKeyFile = unlessLocal cfg.sshKeyPath;
        knownHosts =
          if isLocal || replication.hostKey == null then
            null
          else
            "${hostPattern replication} ${replication.hostKey}";
        inherit (replication) sendOptions;
        receiveOptions = replication.recvOptions;
      };

  instanceDatasets = lib.concatMapAttrs (
    instance: _:
    let
      data = "postgresql/${instance}";
      archive = "postgresql/${instance}-wal";
    in
    lib.optionalAttrs (storage.services ? ${data}) {
      ${storage.services.${data}.dataset} = {
        useTemplate = lib.mkDefault [ "postgresql" ];
        # Tablespaces that are datasets of their own are below this one. A cluster is only whole if
        # all of them are of the same instant.
        recursive = lib.mkDefault "zfs";
      };
    }
    // lib.optionalAttrs (storage.services ? ${archive}) {
      ${storage.services.${archive}.dataset}.useTemplate = lib.mkDefault [ "wal-frequent" ];
    }
  ) (blib.enabled config.modules.services.postgresql.instances);
in
{
  config = lib.mkMerge [
    { modules.backup.sanoid.replicationOf = replicationOf; }

    (lib.mkIf cfg.enable {
      modules.backup.sanoid.templates = {
        postgresql = {
          hourly = lib.mkDefault 24;
          daily = lib.mkDefault 7;
          weekly = lib.mkDefault 4;
        };
        # The archive is replicated by its snapshots, so they decide how much is lost with the host.
        wal-frequent = {
          frequently = lib.mkDefault 12;
          frequentPeriodMinutes = lib.mkDefault 5;
          hourly = lib.mkDefault 48;
          daily = lib.mkDefault 7;
        };
      };
      modules.backup.sanoid.datasets = lib.mkIf storage.enable instanceDatasets;
    })

    (lib.mkIf (cfg.enable && snapshotted != { }) {
      services.sanoid = {
        enable = true;
        # By default, so that what somebody writes into NixOS' own options stands.
        interval = lib.mkDefault cfg.snapshotInterval;
        templates = lib.mapAttrs (
          _: template:
          lib.mapAttrs (_: lib.mkDefault) (
            sanoidRetention template
            // {
              inherit (template) autosnap autoprune;
            }
          )
        ) cfg.templates;
        datasets = lib.mapAttrs (
          _: dataset:
          lib.mapAttrs (_: lib.mkDefault) (
            lib.filterAttrs (_: value: value != null) (sanoidRetention dataset.retention)
            // {
              useTemplate = known dataset.useTemplate;
              inherit (dataset) recursive autosnap autoprune;
            }
          )
        ) snapshotted;
      };

      systemd.services.sanoid = {
        # By default, so that NixOS has the last word about its unit.
        serviceConfig = lib.mapAttrs (_: lib.mkDefault) sanoidSandbox;
        # What is to be snapshotted has to be there.
        after = lib.optional storage.enable "backstay-datasets.service";
        onFailure = notifications.onFailure "zfs-snapshot-failure";
        onSuccess = notifications.onSuccess "zfs-snapshot-failure";
      };
      systemd.timers.sanoid.timerConfig = {
        # After a night without power the daily snapshot is taken in the morning.
        Persistent = true;
        # Small, since a snapshot that is late is late for the replication too.
        RandomizedDelaySec = "10s";
      };
    })

    (lib.mkIf (cfg.enable && replicated != { }) {
      services.syncoid = {
        enable = true;
        interval = lib.mkDefault cfg.replicationInterval;
        user = cfg.replicationUser;
        group = cfg.replicationUser;
        commands = lib.mapAttrs command replicated;
      };

      systemd.timers = lib.mapAttrs' (
        source: _:
        lib.nameValuePair (syncoidUnit source) {
          timerConfig = {
            Persistent = true;
            # Several datasets would be sent in the same second otherwise.
            RandomizedDelaySec = "1min";
          };
        }
      ) replicated;

      programs.ssh.knownHosts = lib.mapAttrs' (
        _: dataset:
        let
          pattern = hostPattern dataset.replication;
        in
        lib.nameValuePair pattern {
          hostNames = [ pattern ];
          publicKey = dataset.replication.hostKey;
        }
      ) (lib.filterAttrs (_: dataset: dataset.replication.hostKey != null) remote);

      # NixOS makes the user "syncoid" itself, and root is there.
      users = lib.mkIf (cfg.replicationUser != "syncoid" && cfg.replicationUser != "root") {
        users.${cfg.replicationUser} = {
          isSystemUser = true;
          group = cfg.replicationUser;
          description = "sends ZFS snapshots";
          home = "/var/lib/${cfg.replicationUser}";
          createHome = true;
        };
        groups.${cfg.replicationUser} = { };
      };
    })
  ];
}
