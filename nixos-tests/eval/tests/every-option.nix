# No option is unread: each one, set to another value in a host that has everything, changes a unit, a file, a link, a port or a
# package; a few are there for an assertion or a warning, and are listed. And each says what it is.
{ lib, evalHost, ... }:
let
  effects = import ../effects.nix { inherit lib; };
  options = import ../options.nix { inherit lib; } (evalHost [ ]).options;
  nameOf = option: lib.showOption option.loc;

  # The option's path in the host: names for "<name>", and what comes after the list for "*".
  nest =
    loc: value:
    let
      go =
        done: rest:
        let
          here = lib.showOption done;
          segment = lib.head rest;
          deeper = go (done ++ [ segment ]) (lib.tail rest);
        in
        if rest == [ ] then
          lib.mkForce value
        else if segment == "*" then
          # One element instead of those that are there, so that the two hosts differ in nothing else.
          lib.mkForce [
            (lib.mkMerge [
              effects.elements.${here}
              deeper
            ])
          ]
        else if segment == "<name>" then
          { ${effects.names.${here}} = deeper; }
        else
          { ${segment} = deeper; };
    in
    go [ ] loc;

  # The same host before the option is set: with the one element that the option is changed in.
  beforeList =
    loc:
    let
      list = lib.lists.findFirstIndex (segment: segment == "*") null loc;
      path = lib.take list loc;
    in
    if list == null then [ ] else [ (nest path [ effects.elements.${lib.showOption path} ]) ];

  contextsOf =
    name: lib.filter (prefix: lib.hasPrefix prefix name) (lib.attrNames effects.contexts);
  contextModules = name: map (prefix: effects.contexts.${prefix}) (contextsOf name);

  hostWith =
    modules:
    evalHost (
      [
        ../../examples/everything.nix
        # All options are changed in the other instance, so this one would only cost time.
        { modules.services.postgresql.instances.reports.enable = lib.mkForce false; }
      ]
      ++ modules
    );
  stateOf =
    option: modules:
    let
      host = hostWith modules;
    in
    if isMessage option then { inherit (host) failedAssertions warnings; } else host.state;
  isMessage = option: lib.elem (nameOf option) effects.onlyMessages;

  before = option: contextModules (nameOf option) ++ beforeList option.loc;
  keyOf = option: builtins.toJSON [
    (isMessage option)
    (contextsOf (nameOf option))
    (lib.take (lib.lists.findFirstIndex (segment: segment == "*") 0 option.loc) option.loc)
  ];
  # Hosts to compare with, one for all options that share it.
  baselines = lib.listToAttrs (
    map (option: lib.nameValuePair (keyOf option) (stateOf option (before option))) options
  );

  # Values to try: the one of the table, or example and default, of which at most one is there already.
  candidates =
    option:
    if effects.values ? ${nameOf option} then
      [ effects.values.${nameOf option} ]
    else
      lib.optional (option ? example && !(option.example ? _type)) option.example
      ++ lib.optional (option ? default) option.default;

  changes =
    option: value:
    stateOf option (before option ++ [ (nest option.loc value) ]) != baselines.${keyOf option};

  # Sets of settings have no value of their own: what is in them is tried.
  isGroup =
    option: (option.type.getSubOptions option.loc) != { } && !(effects.values ? ${nameOf option});

  tried = lib.filter (option: !(option.readOnly or false) && !isGroup option) options;

  # What "<name>" stands for has to be there already: one more of its kind would change the host by itself.
  isThere =
    prefix:
    let
      found =
        lib.foldl'
          (
            { config, done }:
            segment:
            let
              here = lib.concatStringsSep "." done;
            in
            {
              config = config.${if segment == "<name>" then effects.names.${here} else segment} or { };
              done = done ++ [ segment ];
            }
          )
          {
            inherit ((hostWith (contextModules prefix))) config;
            done = [ ];
          }
          (lib.splitString "." prefix);
    in
    found.config ? ${effects.names.${prefix}};

  text = description: description.text or description;

  # Names in links such as [](#opt-modules.backup.restic.jobs._name_.keep), which may be those of groups too.
  linksIn =
    option:
    map (found: lib.replaceStrings [ "._name_" ] [ ".<name>" ] (lib.head found)) (
      lib.filter lib.isList (builtins.split "\\(#opt-([^)]*)\\)" (text (option.description or "")))
    );
  exists =
    name:
    lib.any (option: nameOf option == name || lib.hasPrefix "${name}." (nameOf option)) options;
  isSilent =
    option:
    let
      described = option ? description && lib.trim (text option.description) != "";
      typed = option ? type && option.type.description or "" != "";
      exemplified =
        option ? example || isGroup option || option.readOnly or false || option.type.name == "bool";
    in
    !(described && typed && exemplified);
in
{
  "test every option has a description, a type and an example" = {
    expr = map nameOf (lib.filter isSilent options);
    expected = [ ];
  };

  "test descriptions link to options that exist" = {
    expr = lib.filter (name: !exists name) (lib.concatMap linksIn options);
    expected = [ ];
  };

  "test what the table of effects calls by name is in the host" = {
    expr = lib.filter (prefix: !isThere prefix) (lib.attrNames effects.names);
    expected = [ ];
  };

  "test the table of effects names no option that is gone" = {
    expr = lib.subtractLists (map nameOf options) (lib.attrNames effects.values ++ effects.onlyMessages);
    expected = [ ];
  };
}
// lib.listToAttrs (
  map (
    option:
    lib.nameValuePair "test ${nameOf option} changes something" {
      expr = lib.any (changes option) (candidates option);
      expected = true;
    }
  ) tried
)
