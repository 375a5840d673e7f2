# Types and options of systemd units as NixOS declares them.
{ lib }:
let
  inherit (lib) mkOption types;

  unitName = types.strMatching "[a-zA-Z0-9@%:_.\\-]+[.](service|socket|device|mount|automount|swap|target|path|timer|scope|slice)";
  unitNames = mkOption {
    type = types.listOf unitName;
    default = [ ];
  };

  # A value of a unit file: lists from several definitions are joined, anything else has to agree.
  unitValue = lib.mkOptionType {
    name = "systemd option";
    merge =
      location: definitions:
      let
        strongest = lib.filterOverrides definitions;
        lists = lib.filter (definition: builtins.isList definition.value) strongest;
      in
      if lists == [ ] then
        lib.mergeEqualOption location strongest
      else if lib.length lists == lib.length strongest then
        lib.concatMap (definition: definition.value) strongest
      else
        throw "The definitions of ${lib.showOption location} mix lists and single values.${lib.options.showDefs strongest}";
  };

  section = mkOption {
    type = types.attrsOf unitValue;
    default = { };
  };

  # What a definition says before its properties are resolved: enough to check the few values that NixOS checks.
  plain =
    value:
    if value._type or "" == "override" || value._type or "" == "if" then value.content else value;
  oneOf =
    name: allowed: attributes:
    !attributes ? ${name} || lib.elem (plain attributes.${name}) allowed;

  serviceSection = mkOption {
    type = types.addCheck (types.attrsOf unitValue) (
      attributes:
      oneOf "Type" [
        "exec"
        "simple"
        "forking"
        "oneshot"
        "dbus"
        "notify"
        "notify-reload"
        "idle"
      ] attributes
      && oneOf "Restart" [
        "no"
        "on-success"
        "on-failure"
        "on-abnormal"
        "on-abort"
        "always"
      ] attributes
    );
    default = { };
  };

  lines = mkOption {
    type = types.lines;
    default = "";
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

  unit = {
    options = {
      enable = boolean true;
      overrideStrategy = mkOption {
        type = types.enum [
          "asDropinIfExists"
          "asDropin"
        ];
        default = "asDropinIfExists";
      };
      description = mkOption {
        type = types.singleLineStr;
        default = "";
      };
      documentation = strings;
      requires = unitNames;
      wants = unitNames;
      upholds = unitNames;
      after = unitNames;
      before = unitNames;
      bindsTo = unitNames;
      partOf = unitNames;
      conflicts = unitNames;
      requisite = unitNames;
      requiredBy = unitNames;
      wantedBy = unitNames;
      upheldBy = unitNames;
      onFailure = unitNames;
      onSuccess = unitNames;
      aliases = unitNames;
      unitConfig = section;
      # Without a default in NixOS too: a line is written only where one is set.
      startLimitBurst = mkOption { type = types.int; };
      startLimitIntervalSec = mkOption { type = types.int; };
      restartTriggers = mkOption {
        type = types.listOf types.unspecified;
        default = [ ];
      };
      reloadTriggers = mkOption {
        type = types.listOf unitValue;
        default = [ ];
      };
    };
  };

  # systemd learns whether the start limits are set from here, because a missing value cannot be asked for.
  withLimits =
    { options, ... }:
    {
      options.setStartLimits = mkOption {
        type = types.listOf types.str;
        internal = true;
        readOnly = true;
        default = lib.filter (name: options.${name}.isDefined) [
          "startLimitBurst"
          "startLimitIntervalSec"
        ];
      };
    };

  unitsWith =
    extra:
    mkOption {
      type = types.attrsOf (
        types.submodule [
          unit
          withLimits
          extra
        ]
      );
      default = { };
    };
in
{
  inherit unitValue unitsWith;

  service =
    { name, config, ... }:
    let
      script = part: "/bin/bash /etc/nixos-scripts/${name}-${part}";
    in
    {
      options = {
        environment = mkOption {
          type = types.attrsOf (
            types.nullOr (
              types.oneOf [
                types.str
                types.path
                types.package
              ]
            )
          );
          default = { };
        };
        path = mkOption {
          type = types.listOf (
            types.oneOf [
              types.package
              types.str
            ]
          );
          default = [ ];
        };
        enableDefaultPath = boolean true;
        serviceConfig = serviceSection;
        script = lines;
        scriptArgs = mkOption {
          type = types.str;
          default = "";
        };
        preStart = lines;
        postStart = lines;
        reload = lines;
        preStop = lines;
        postStop = lines;
        restartIfChanged = boolean true;
        reloadIfChanged = boolean false;
        stopIfChanged = boolean true;
        notSocketActivated = boolean false;
        startAt = mkOption {
          type = types.either types.str (types.listOf types.str);
          default = [ ];
          apply = lib.toList;
        };
      };
      config.serviceConfig = lib.mkMerge [
        (lib.mkIf (config.preStart != "") { ExecStartPre = [ (script "pre-start") ]; })
        (lib.mkIf (config.script != "") {
          ExecStart = script "start" + lib.optionalString (config.scriptArgs != "") " ${config.scriptArgs}";
        })
        (lib.mkIf (config.postStart != "") { ExecStartPost = [ (script "post-start") ]; })
        (lib.mkIf (config.reload != "") { ExecReload = script "reload"; })
        (lib.mkIf (config.preStop != "") { ExecStop = script "pre-stop"; })
        (lib.mkIf (config.postStop != "") { ExecStopPost = script "post-stop"; })
      ];
    };

  timer.options.timerConfig = section;
  path.options.pathConfig = section;
  slice.options.sliceConfig = section;
  target = { };
  socket.options = {
    listenStreams = strings;
    listenDatagrams = strings;
    socketConfig = section;
  };
  mount.options = {
    what = mkOption { type = types.str; };
    where = mkOption { type = types.str; };
    type = mkOption {
      type = types.str;
      default = "";
    };
    options = mkOption {
      type = types.commas;
      default = "";
    };
    mountConfig = section;
  };
  automount.options = {
    where = mkOption { type = types.str; };
    automountConfig = section;
  };

  # Mounts are a list in NixOS: their names follow from where they are.
  listOfUnitsWith =
    extra:
    mkOption {
      type = types.listOf (
        types.submodule [
          unit
          withLimits
          extra
        ]
      );
      default = [ ];
    };
}
