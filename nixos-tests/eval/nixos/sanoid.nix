# NixOS' services.sanoid: its options, and what it makes of them.
{
  lib,
  config,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.services.sanoid;

  setting = types.attrsOf (
    types.nullOr (
      types.oneOf [
        types.str
        types.int
        types.bool
        (types.listOf types.str)
      ]
    )
  );

  number = mkOption {
    type = types.nullOr types.ints.unsigned;
    default = null;
  };
  choice = mkOption {
    type = types.nullOr types.bool;
    default = null;
  };
  retention = {
    hourly = number;
    daily = number;
    monthly = number;
    yearly = number;
    autoprune = choice;
    autosnap = choice;
  };

  # Only templates that exist may be named, so a misspelt one is found here and not by a missing snapshot.
  templates = mkOption {
    type = types.listOf (
      types.addCheck types.str (name: cfg.templates ? ${name}) // { description = "configured template name"; }
    );
    default = [ ];
  };
  boolean = mkOption {
    type = types.bool;
    default = false;
  };

  dataset =
    { options, ... }:
    {
      freeformType = setting;
      options = retention // {
        use_template = templates;
        useTemplate = templates;
        recursive = mkOption {
          type = types.either types.bool (types.enum [ "zfs" ]);
          default = false;
        };
        process_children_only = boolean;
        processChildrenOnly = boolean;
      };
      config = {
        use_template = lib.modules.mkAliasAndWrapDefsWithPriority lib.id options.useTemplate;
        process_children_only = lib.modules.mkAliasAndWrapDefsWithPriority lib.id options.processChildrenOnly;
      };
    };

  valueText =
    value:
    if builtins.isList value then
      lib.concatStringsSep "," value
    else if builtins.isBool value then
      lib.boolToString value
    else
      toString value;

  # The two spellings in camel case are for Nix alone; sanoid would complain about them.
  sectionText =
    name: settings:
    "[${name}]\n"
    + lib.concatStrings (
      lib.mapAttrsToList (key: value: "${key}=${valueText value}\n") (
        lib.filterAttrs (
          key: value: value != null && key != "useTemplate" && key != "processChildrenOnly"
        ) settings
      )
    );

  delegation =
    action: dataset:
    # Debian's zfs; NixOS uses the one of the booted system.
    "-+/usr/sbin/zfs ${action} sanoid snapshot,mount,destroy ${lib.escapeShellArg dataset}";
in
{
  options.services.sanoid = {
    enable = boolean;
    package = mkOption {
      type = types.package;
      default = pkgs.sanoid;
    };
    interval = mkOption {
      type = types.str;
      default = "hourly";
    };
    datasets = mkOption {
      type = types.attrsOf (types.submodule dataset);
      default = { };
    };
    templates = mkOption {
      type = types.attrsOf (
        types.submodule {
          freeformType = setting;
          options = retention;
        }
      );
      default = { };
    };
    settings = mkOption { type = types.attrsOf setting; };
    extraArgs = mkOption {
      type = types.listOf types.str;
      default = [ ];
    };
  };

  config = lib.mkIf cfg.enable {
    services.sanoid.settings = lib.mkMerge [
      (lib.mapAttrs' (name: lib.nameValuePair "template_${name}") cfg.templates)
      cfg.datasets
    ];

    # In the store on NixOS. sanoid reads its defaults from where its package has them, on both.
    environment.etc."sanoid/sanoid.conf".text = lib.concatStringsSep "\n" (
      lib.mapAttrsToList sectionText cfg.settings
    );

    systemd.services.sanoid = {
      description = "Sanoid snapshot service";
      after = [ "zfs.target" ];
      startAt = cfg.interval;
      environment.TZ = "UTC";
      serviceConfig = {
        ExecStartPre = map (delegation "allow") (lib.attrNames cfg.datasets);
        ExecStopPost = map (delegation "unallow") (lib.attrNames cfg.datasets);
        ExecStart = lib.escapeShellArgs (
          [
            "${cfg.package}/sbin/sanoid"
            "--cron"
            "--configdir"
            "/etc/sanoid"
          ]
          ++ cfg.extraArgs
        );
        User = "sanoid";
        Group = "sanoid";
        DynamicUser = true;
        RuntimeDirectory = "sanoid";
        CacheDirectory = "sanoid";
      };
    };
  };
}
