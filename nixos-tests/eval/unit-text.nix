# The text of systemd units as NixOS writes them, and the links that enable them.
#
# Left out: `LOCALE_ARCHIVE` and `TZDIR`, which NixOS sets in every unit and which name parts of the Nix store.
{ lib }:
let
  inherit (lib)
    concatLists
    concatMap
    concatStrings
    concatStringsSep
    concatMapStrings
    mapAttrsToList
    nameValuePair
    optionalAttrs
    optionalString
    ;
  pkgs = import ./pkgs.nix { inherit lib; };

  valueText =
    value:
    if value == true then
      "true"
    else if value == false then
      "false"
    else
      toString value;

  # A list is the same directive on several lines.
  section =
    name: attributes:
    "[${name}]\n"
    + concatStrings (
      concatLists (
        mapAttrsToList (
          directive: value: map (one: "${directive}=${valueText one}\n") (lib.toList value)
        ) attributes
      )
    );

  # A changed trigger changes the path, and so the unit; switch-to-configuration compares units.
  triggers =
    kind: name: list:
    optionalAttrs (list != [ ]) {
      "X-${kind}-Triggers" = "${pkgs.writeText "X-${kind}-Triggers-${name}" (
        toString (lib.flatten list)
      )}";
    };

  units =
    attribute: directive: unit:
    optionalAttrs (unit.${attribute} != [ ]) { ${directive} = toString unit.${attribute}; };

  # NixOS refuses two different values for one directive, so does this.
  joined =
    name: sets:
    lib.zipAttrsWith (
      directive: values:
      if lib.length (lib.unique values) == 1 then
        lib.head values
      else
        throw "unit ${name} sets ${directive} twice: ${concatStringsSep " and " (map valueText (lib.unique values))}"
    ) sets;

  unitSection =
    name: unit:
    section "Unit" (
      joined name [
        unit.unitConfig
        (optionalAttrs (unit.description != "") { Description = unit.description; })
        (optionalAttrs (unit.documentation != [ ]) { Documentation = toString unit.documentation; })
        (units "requires" "Requires" unit)
        (units "wants" "Wants" unit)
        (units "upholds" "Upholds" unit)
        (units "after" "After" unit)
        (units "before" "Before" unit)
        (units "bindsTo" "BindsTo" unit)
        (units "partOf" "PartOf" unit)
        (units "conflicts" "Conflicts" unit)
        (units "requisite" "Requisite" unit)
        (units "onFailure" "OnFailure" unit)
        (units "onSuccess" "OnSuccess" unit)
        (triggers "Restart" name unit.restartTriggers)
        (triggers "Reload" name unit.reloadTriggers)
        (optionalAttrs (lib.elem "startLimitBurst" unit.setStartLimits) {
          StartLimitBurst = unit.startLimitBurst;
        })
        (optionalAttrs (lib.elem "startLimitIntervalSec" unit.setStartLimits) {
          StartLimitIntervalSec = unit.startLimitIntervalSec;
        })
      ]
    );

  installSection =
    unit:
    optionalString (
      unit.wantedBy != [ ]
    ) "\n[Install]\nWantedBy=${concatStringsSep " " unit.wantedBy}\n";

  withSection =
    name: unit: middle:
    unitSection name unit + "\n" + middle + installSection unit;

  # What NixOS puts into the PATH of every service unless told otherwise.
  defaultPath = [
    pkgs.coreutils
    pkgs.findutils
    pkgs.gnugrep
    pkgs.gnused
    pkgs.systemd
  ];

  pathOf =
    service:
    let
      packages = service.path ++ lib.optionals service.enableDefaultPath defaultPath;
      # The stand-ins of most packages are one directory; on NixOS they are all different.
      below = directory: lib.unique (map (package: "${package}/${directory}") packages);
    in
    optionalAttrs (packages != [ ]) {
      PATH = concatStringsSep ":" (below "bin" ++ below "sbin");
    };

  serviceText =
    name: service:
    withSection name service (
      "[Service]\n"
      + concatStrings (
        mapAttrsToList (
          variable: value:
          optionalString (value != null) "Environment=${builtins.toJSON "${variable}=${toString value}"}\n"
        ) (pathOf service // service.environment)
      )
      + (
        if service.reloadIfChanged then
          "X-ReloadIfChanged=true\n"
        else
          optionalString (!service.restartIfChanged) "X-RestartIfChanged=false\n"
      )
      + optionalString (!service.stopIfChanged) "X-StopIfChanged=false\n"
      + optionalString service.notSocketActivated "X-NotSocketActivated=true\n"
      + lib.removePrefix "[Service]\n" (section "Service" service.serviceConfig)
    );

  socketText =
    name: socket:
    withSection name socket (
      section "Socket" socket.socketConfig
      + concatMapStrings (address: "ListenStream=${address}\n") socket.listenStreams
      + concatMapStrings (address: "ListenDatagram=${address}\n") socket.listenDatagrams
    );

  mountText =
    name: mount:
    withSection name mount (
      section "Mount" (
        joined name [
          mount.mountConfig
          {
            What = mount.what;
            Where = mount.where;
          }
          (optionalAttrs (mount.type != "") { Type = mount.type; })
          (optionalAttrs (mount.options != "") { Options = mount.options; })
        ]
      )
    );

  automountText =
    name: automount:
    withSection name automount (
      section "Automount" (
        joined name [
          automount.automountConfig
          { Where = automount.where; }
        ]
      )
    );

  simpleText =
    sectionName: attribute: name: unit:
    withSection name unit (section sectionName unit.${attribute});

  # The name of a unit for a path, as `systemd-escape --path` gives it.
  escapeSystemdPath =
    path:
    let
      parts = lib.filter (part: part != "" && part != ".") (lib.splitString "/" path);
      hex = number: lib.fixedWidthString 2 "0" (lib.toLower (lib.toHexString number));
      escapeCharacter =
        character:
        if builtins.match "[a-zA-Z0-9:_.]" character != null then
          character
        else
          "\\x${hex (lib.strings.charToInt character)}";
      escapePart = part: concatMapStrings escapeCharacter (lib.stringToCharacters part);
      escaped = concatStringsSep "-" (map escapePart parts);
    in
    if parts == [ ] then
      "-"
    else if lib.hasPrefix "." escaped then
      "\\x2e" + lib.removePrefix "." escaped
    else
      escaped;

  scriptParts = {
    pre-start = "preStart";
    start = "script";
    post-start = "postStart";
    reload = "reload";
    pre-stop = "preStop";
    post-stop = "postStop";
  };

  scriptsOf =
    name: service:
    concatLists (
      mapAttrsToList (
        part: attribute:
        lib.optional (service.${attribute} != "") (
          nameValuePair "/etc/nixos-scripts/${name}-${part}" "#!/bin/bash\nset -e\n\n${service.${attribute}}\n"
        )
      ) scriptParts
    );

  named =
    suffix: text: declared:
    mapAttrsToList (
      name: unit:
      if lib.hasSuffix ".${suffix}" name then
        throw "systemd.${suffix}s.\"${name}\" would become the unit ${name}.${suffix}, which nothing refers to; leave the suffix out"
      else
        {
          name = "${name}.${suffix}";
          inherit unit;
          text = text "${name}.${suffix}" unit;
        }
    ) declared;

  placed =
    suffix: text: declared:
    map (
      unit:
      let
        name = "${escapeSystemdPath unit.where}.${suffix}";
      in
      {
        inherit name unit;
        text = text name unit;
      }
    ) declared;

  directory = "/etc/systemd/system";

  fileName =
    { name, unit, ... }: if unit.overrideStrategy == "asDropin" then "${name}.d/overrides.conf" else name;

  linksOf =
    { name, unit, ... }:
    lib.optional (!unit.enable) (nameValuePair "${directory}/${name}" "/dev/null")
    ++ lib.optionals unit.enable (
      map (alias: nameValuePair "${directory}/${alias}" name) unit.aliases
      ++ concatMap
        (
          { attribute, suffix }:
          map (other: nameValuePair "${directory}/${other}.${suffix}/${name}" "../${name}") unit.${attribute}
        )
        [
          {
            attribute = "wantedBy";
            suffix = "wants";
          }
          {
            attribute = "upheldBy";
            suffix = "upholds";
          }
          {
            attribute = "requiredBy";
            suffix = "requires";
          }
        ]
    );
in
{
  /**
    Renders `config.systemd`: `units` (text by name), `links` (target by path) and `scripts` (text by path) of services that are
    given as shell text.
  */
  render =
    declared:
    let
      all =
        named "service" serviceText declared.services
        ++ named "timer" (simpleText "Timer" "timerConfig") declared.timers
        ++ named "target" unitSection declared.targets
        ++ named "path" (simpleText "Path" "pathConfig") declared.paths
        ++ named "slice" (simpleText "Slice" "sliceConfig") declared.slices
        ++ named "socket" socketText declared.sockets
        ++ placed "mount" mountText declared.mounts
        ++ placed "automount" automountText declared.automounts;
    in
    {
      units = lib.listToAttrs (
        map (entry: nameValuePair (fileName entry) entry.text) (lib.filter (entry: entry.unit.enable) all)
      );
      links = lib.listToAttrs (concatMap linksOf all);
      scripts = lib.listToAttrs (concatLists (mapAttrsToList scriptsOf declared.services));
    };
}
