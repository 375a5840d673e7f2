# NixOS' services.syncoid: its options, and what it makes of them.
#
# NixOS locks each service into a directory of its own that shows it little more than the Nix store. On a system whose programs
# are not in the store that directory would be empty, so it is left out here; the rest of the sandbox is there.
{
  lib,
  config,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.services.syncoid;

  strings =
    default:
    mkOption {
      type = types.listOf types.str;
      inherit default;
    };
  key = types.nullOr (types.coercedTo types.path toString types.str);
  unitSettings = mkOption {
    type = types.attrs;
    default = { };
  };
  options' = mkOption {
    type = types.separatedString " ";
    default = "";
  };

  command =
    { name, ... }:
    {
      options = {
        source = mkOption { type = types.str; };
        target = mkOption { type = types.str; };
        recursive = mkOption {
          type = types.bool;
          default = false;
        };
        sshKey = mkOption { type = key; };
        localSourceAllow = mkOption { type = types.listOf types.str; };
        localTargetAllow = mkOption { type = types.listOf types.str; };
        sendOptions = options';
        recvOptions = options';
        useCommonArgs = mkOption {
          type = types.bool;
          default = true;
        };
        service = unitSettings;
        extraArgs = strings [ ];
      };
      config = {
        source = lib.mkDefault name;
        sshKey = lib.mkDefault cfg.sshKey;
        localSourceAllow = lib.mkDefault cfg.localSourceAllow;
        localTargetAllow = lib.mkDefault cfg.localTargetAllow;
      };
    };

  # A dataset of this host has no "user@host:" before it.
  isLocal = dataset: !lib.hasInfix "@" dataset;

  # Debian's zfs; NixOS uses the one of the booted system. A target that is not there yet is made by the first transfer, with rights
  # over its parent, which are taken back from both.
  zfs =
    action: permissions: dataset:
    "/usr/sbin/zfs ${action} ${cfg.user} ${lib.concatStringsSep "," permissions} ${lib.escapeShellArg dataset}";
  asRoot = script: "-+/bin/sh -c ${lib.escapeShellArg script}";
  allow =
    permissions: dataset:
    lib.optional (isLocal dataset) (
      asRoot "if /usr/sbin/zfs list ${lib.escapeShellArg dataset}; then ${zfs "allow" permissions dataset}; else ${zfs "allow" permissions (dirOf dataset)}; fi"
    );
  unallow =
    permissions: dataset:
    lib.optional (isLocal dataset) (
      asRoot "${zfs "unallow" permissions dataset}; ${zfs "unallow" permissions (dirOf dataset)}"
    );

  unitName =
    name:
    lib.concatMapStrings (part: if lib.isList part then "-" else part) (
      builtins.split "[^a-zA-Z0-9_.\\-]+" name
    );

  service = name: command: {
    name = "syncoid-${unitName name}";
    value = lib.mkMerge [
      {
        description = "Syncoid ZFS synchronization from ${command.source} to ${command.target}";
        after = [ "zfs.target" ];
        startAt = cfg.interval;
        serviceConfig = {
          ExecStartPre =
            allow command.localSourceAllow command.source
            ++ allow command.localTargetAllow command.target;
          ExecStopPost =
            unallow command.localSourceAllow command.source
            ++ unallow command.localTargetAllow command.target;
          ExecStart = lib.escapeShellArgs (
            [ "${cfg.package}/sbin/syncoid" ]
            ++ lib.optionals command.useCommonArgs cfg.commonArgs
            ++ lib.optional command.recursive "-r"
            ++ lib.optionals (command.sshKey != null) [
              "--sshkey"
              command.sshKey
            ]
            ++ command.extraArgs
            ++ [
              "--sendoptions"
              command.sendOptions
              "--recvoptions"
              command.recvOptions
              "--no-privilege-elevation"
              command.source
              command.target
            ]
          );
          User = cfg.user;
          Group = cfg.group;
          StateDirectory = [ "syncoid" ];
          StateDirectoryMode = "700";
          PrivateTmp = true;
          ProcSubset = "all";
          ProtectProc = "default";
          AmbientCapabilities = "";
          CapabilityBoundingSet = "";
          DeviceAllow = [ "/dev/zfs" ];
          LockPersonality = true;
          MemoryDenyWriteExecute = true;
          NoNewPrivileges = true;
          PrivateDevices = true;
          PrivateMounts = true;
          PrivateNetwork = lib.mkDefault false;
          PrivateUsers = false;
          ProtectClock = true;
          ProtectControlGroups = true;
          ProtectHome = true;
          ProtectHostname = true;
          ProtectKernelLogs = true;
          ProtectKernelModules = true;
          ProtectKernelTunables = true;
          ProtectSystem = "strict";
          RemoveIPC = true;
          RestrictAddressFamilies = [
            "AF_UNIX"
            "AF_INET"
            "AF_INET6"
          ];
          RestrictNamespaces = true;
          RestrictRealtime = true;
          RestrictSUIDSGID = true;
          # PrivateDevices hides the device otherwise.
          BindPaths = [ "/dev/zfs" ];
          SystemCallArchitectures = "native";
        };
      }
      cfg.service
      command.service
    ];
  };
in
{
  options.services.syncoid = {
    enable = mkOption {
      type = types.bool;
      default = false;
    };
    package = mkOption {
      type = types.package;
      default = pkgs.sanoid;
    };
    interval = mkOption {
      type = types.either types.str (types.listOf types.str);
      default = "hourly";
    };
    user = mkOption {
      type = types.str;
      default = "syncoid";
    };
    group = mkOption {
      type = types.str;
      default = "syncoid";
    };
    sshKey = mkOption {
      type = key;
      default = null;
    };
    localSourceAllow = strings [
      "bookmark"
      "hold"
      "send"
      "snapshot"
      "destroy"
      "mount"
    ];
    localTargetAllow = strings [
      "change-key"
      "compression"
      "create"
      "mount"
      "mountpoint"
      "receive"
      "rollback"
    ];
    commonArgs = strings [ ];
    service = unitSettings;
    commands = mkOption {
      type = types.attrsOf (types.submodule command);
      default = { };
    };
  };

  config = lib.mkIf cfg.enable {
    users.users = lib.mkIf (cfg.user == "syncoid") {
      syncoid = {
        group = cfg.group;
        isSystemUser = true;
        home = "/var/lib/syncoid";
        createHome = false;
      };
    };
    users.groups = lib.mkIf (cfg.group == "syncoid") { syncoid = { }; };

    systemd.services = lib.mapAttrs' service cfg.commands;
  };
}
