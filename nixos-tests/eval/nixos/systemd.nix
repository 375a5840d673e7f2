{ lib, config, ... }:
let
  inherit (lib) mkOption types;
  unitOptions = import ../unit-options.nix { inherit lib; };
  cfg = config.systemd;

  tmpfilesEntry =
    { name, ... }:
    {
      options = {
        type = mkOption {
          type = types.str;
          default = name;
        };
        mode = mkOption {
          type = types.str;
          default = "-";
        };
        user = mkOption {
          type = types.str;
          default = "-";
        };
        group = mkOption {
          type = types.str;
          default = "-";
        };
        age = mkOption {
          type = types.str;
          default = "-";
        };
        argument = mkOption {
          type = types.str;
          default = "";
        };
      };
    };

  tmpfilesLine =
    path: entry:
    "'${entry.type}' '${path}' '${entry.mode}' '${entry.user}' '${entry.group}' '${entry.age}'"
    + lib.optionalString (entry.argument != "") " ${
      lib.escape [
        "\t"
        "\n"
        "\r"
        " "
        "\\"
      ] entry.argument
    }";

  tmpfilesText =
    paths:
    lib.concatLines (
      lib.concatLists (
        lib.mapAttrsToList (path: entries: map (tmpfilesLine path) (lib.attrValues entries)) paths
      )
    );

  isScheduled = service: service.enable && service.startAt != [ ];
in
{
  options.systemd = {
    services = unitOptions.unitsWith unitOptions.service;
    timers = unitOptions.unitsWith unitOptions.timer;
    targets = unitOptions.unitsWith unitOptions.target;
    paths = unitOptions.unitsWith unitOptions.path;
    sockets = unitOptions.unitsWith unitOptions.socket;
    slices = unitOptions.unitsWith unitOptions.slice;
    mounts = unitOptions.listOfUnitsWith unitOptions.mount;
    automounts = unitOptions.listOfUnitsWith unitOptions.automount;

    tmpfiles.rules = mkOption {
      type = types.listOf types.str;
      default = [ ];
    };
    tmpfiles.settings = mkOption {
      type = types.attrsOf (types.attrsOf (types.attrsOf (types.submodule tmpfilesEntry)));
      default = { };
    };
  };

  config = {
    systemd.timers = lib.mapAttrs (_: service: {
      wantedBy = [ "timers.target" ];
      timerConfig.OnCalendar = service.startAt;
    }) (lib.filterAttrs (_: isScheduled) cfg.services);

    environment.etc =
      lib.mapAttrs' (
        name: paths: lib.nameValuePair "tmpfiles.d/${name}.conf" { text = tmpfilesText paths; }
      ) cfg.tmpfiles.settings
      // lib.optionalAttrs (cfg.tmpfiles.rules != [ ]) {
        "tmpfiles.d/00-nixos.conf".text = lib.concatLines cfg.tmpfiles.rules;
      };

    # The warnings that NixOS itself gives about units.
    warnings =
      let
        about =
          name: service:
          let
            type = service.serviceConfig.Type or "";
            restart = service.serviceConfig.Restart or "no";
          in
          lib.optional (type == "oneshot" && (restart == "always" || restart == "on-success"))
            "Service '${name}.service' with 'Type=oneshot' cannot have 'Restart=always' or 'Restart=on-success'"
          ++ lib.optional (
            service.serviceConfig ? StartLimitInterval
          ) "Service '${name}.service' uses the deprecated 'StartLimitInterval' in the Service section"
          ++ lib.optional (
            service.reloadIfChanged && service.reloadTriggers != [ ]
          ) "Service '${name}.service' has both 'reloadIfChanged' and 'reloadTriggers' set"
          ++
            lib.optional
              (
                lib.elem "network-online.target" service.after
                && !lib.elem "network-online.target" (service.wants ++ service.requires ++ service.bindsTo)
              )
              "${name}.service is ordered after 'network-online.target' but doesn't depend on it";
      in
      lib.concatLists (lib.mapAttrsToList about cfg.services);
  };
}
