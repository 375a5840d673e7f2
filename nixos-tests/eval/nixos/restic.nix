# NixOS' services.restic.backups: its options, and what it makes of them.
{
  lib,
  config,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  unitOptions = import ../unit-options.nix { inherit lib; };

  optional =
    type:
    mkOption {
      type = types.nullOr type;
      default = null;
    };
  strings = mkOption {
    type = types.listOf types.str;
    default = [ ];
  };
  boolean =
    default:
    mkOption {
      type = types.bool;
      inherit default;
    };
  rclone = optional (types.attrsOf (types.either types.str types.bool));

  backup =
    { config, ... }:
    {
      options = {
        passwordFile = mkOption { type = types.str; };
        environmentFile = optional types.str;
        rcloneOptions = rclone;
        rcloneConfig = rclone;
        rcloneConfigFile = optional types.path;
        inhibitsSleep = boolean false;
        repository = optional types.str;
        repositoryFile = optional types.path;
        paths = mkOption {
          type = types.nullOr (types.listOf types.str);
          default = [ ];
        };
        exclude = strings;
        timerConfig = mkOption {
          type = types.nullOr (types.attrsOf unitOptions.unitValue);
          default = {
            OnCalendar = "daily";
            Persistent = true;
          };
        };
        user = mkOption {
          type = types.str;
          default = "root";
        };
        extraBackupArgs = strings;
        extraOptions = strings;
        initialize = boolean false;
        pruneOpts = strings;
        runCheck = boolean (config.checkOpts != [ ]);
        checkOpts = strings;
        dynamicFilesFrom = optional types.str;
        backupPrepareCommand = optional types.str;
        backupCleanupCommand = optional types.str;
        package = mkOption {
          type = types.package;
          default = pkgs.restic;
        };
        createWrapper = boolean true;
        progressFps = optional types.numbers.nonnegative;
      };
    };

  service =
    name: backup:
    let
      restic = lib.concatStringsSep " " (
        [ (lib.getExe backup.package) ] ++ map (option: "-o ${option}") backup.extraOptions
      );
      hasPaths = backup.paths != null && backup.paths != [ ];
      backsUp = hasPaths || backup.dynamicFilesFrom != null;
      includes = "/run/restic-backups-${name}/includes";
      arguments =
        backup.extraBackupArgs
        ++ lib.optional (backup.exclude != [ ]) "--exclude-file=/etc/nixos-scripts/restic-backups-${name}-exclude";
      # Both are written to a script in NixOS too, and run by the shell.
      prepare =
        lib.optional (backup.backupPrepareCommand != null) backup.backupPrepareCommand
        ++ lib.optional backup.initialize "${restic} cat config > /dev/null || ${restic} init"
        ++ lib.optional hasPaths "cat /etc/nixos-scripts/restic-backups-${name}-paths >> ${includes}"
        ++ lib.optional (
          backup.dynamicFilesFrom != null
        ) "(\n${backup.dynamicFilesFrom}\n) >> ${includes}";
      cleanUp =
        lib.optional (backup.backupCleanupCommand != null) backup.backupCleanupCommand
        ++ lib.optional backsUp "rm ${includes}";
    in
    lib.nameValuePair "restic-backups-${name}" {
      environment = {
        RESTIC_CACHE_DIR = "/var/cache/restic-backups-${name}";
        RESTIC_PASSWORD_FILE = backup.passwordFile;
        RESTIC_REPOSITORY = backup.repository;
        RESTIC_REPOSITORY_FILE = backup.repositoryFile;
        RCLONE_CONFIG = backup.rcloneConfigFile;
        RESTIC_PROGRESS_FPS = if backup.progressFps == null then null else toString backup.progressFps;
      };
      path = [ pkgs.openssh ];
      restartIfChanged = false;
      wants = [ "network-online.target" ];
      after = [ "network-online.target" ];
      preStart = lib.concatLines prepare;
      postStop = lib.concatLines cleanUp;
      serviceConfig = {
        Type = "oneshot";
        ExecStart =
          lib.optional backsUp (
            lib.concatStringsSep " " ([ "${restic} backup" ] ++ arguments ++ [ "--files-from=${includes}" ])
          )
          ++ lib.optionals (backup.pruneOpts != [ ]) [
            "${restic} unlock"
            (lib.concatStringsSep " " ([ "${restic} forget --prune" ] ++ backup.pruneOpts))
          ]
          ++ lib.optional backup.runCheck (
            lib.concatStringsSep " " ([ "${restic} check" ] ++ backup.checkOpts)
          );
        User = backup.user;
        RuntimeDirectory = "restic-backups-${name}";
        CacheDirectory = "restic-backups-${name}";
        CacheDirectoryMode = "0700";
        PrivateTmp = true;
      }
      // lib.optionalAttrs (backup.environmentFile != null) {
        EnvironmentFile = backup.environmentFile;
      };
    };

  cfg = config.services.restic.backups;
  scheduled = lib.filterAttrs (_: backup: backup.timerConfig != null) cfg;

  # Lists that NixOS keeps in the store.
  lists =
    name: backup:
    lib.optionalAttrs (backup.paths != null && backup.paths != [ ]) {
      "nixos-scripts/restic-backups-${name}-paths".text = lib.concatLines backup.paths;
    }
    // lib.optionalAttrs (backup.exclude != [ ]) {
      "nixos-scripts/restic-backups-${name}-exclude".text = lib.concatStringsSep "\n" backup.exclude;
    };
in
{
  options.services.restic.backups = mkOption {
    type = types.attrsOf (types.submodule backup);
    default = { };
  };

  config = {
    assertions = lib.mapAttrsToList (name: backup: {
      assertion = (backup.repository == null) != (backup.repositoryFile == null);
      message = "services.restic.backups.${name}: exactly one of repository or repositoryFile should be set";
    }) cfg;
    systemd.services = lib.mapAttrs' service cfg;
    systemd.timers = lib.mapAttrs' (
      name: backup:
      lib.nameValuePair "restic-backups-${name}" {
        wantedBy = [ "timers.target" ];
        inherit (backup) timerConfig;
      }
    ) scheduled;
    environment.etc = lib.mkMerge (lib.mapAttrsToList lists cfg);
    environment.systemPackages = lib.mapAttrsToList (
      name: _: pkgs.writeText "restic-${name}" "restic of the job ${name}"
    ) (lib.filterAttrs (_: backup: backup.createWrapper) cfg);
  };
}
