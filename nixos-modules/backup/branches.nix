# Branches (`backstay branch`) have a time to live. Here is who removes them when it is over.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  blib = import ../lib.nix { inherit lib pkgs; };
  helper = import ./helper.nix { inherit lib pkgs; };
  inherit (config.modules) notifications;

  # Of anything else there is no branch to be made.
  archiving = lib.filterAttrs (_: instance: instance.backup.isArchiving) (
    blib.enabled config.modules.services.postgresql.instances
  );
  directoryOf = instance: "${instance.paths.data}.branches";

  service =
    name: instance:
    lib.nameValuePair "postgresql-branches-${name}" (
      lib.mkMerge [
        (helper {
          inherit name instance;
          program = "backstay";
          words = [
            "branch"
            "destroy"
            name
            "--expired"
          ];
          preset = blib.hardening.helper;
          writable = [ "-${directoryOf instance}" ];
        })
        {
          description = "Removal of the branches of the PostgreSQL instance ${name} whose time is over";
          # "%" begins a specifier in a unit file.
          unitConfig.ConditionDirectoryNotEmpty = lib.replaceStrings [ "%" ] [ "%%" ] (directoryOf instance);
          onFailure = notifications.onFailure "postgresql-prune-failure";
          onSuccess = notifications.onSuccess "postgresql-prune-failure";
        }
      ]
    );

  timer =
    name: _:
    lib.nameValuePair "postgresql-branches-${name}" {
      description = "Schedule of the removal of branches of the PostgreSQL instance ${name} whose time is over";
      wantedBy = [ "timers.target" ];
      timerConfig = {
        OnCalendar = "*:0/10";
        # Several instances do not start in the same second.
        RandomizedDelaySec = "1min";
        AccuracySec = "1s";
      };
    };
in
{
  config.systemd.services = lib.mapAttrs' service archiving;
  config.systemd.timers = lib.mapAttrs' timer archiving;
}
