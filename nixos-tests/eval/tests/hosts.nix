# What holds for every host, whatever it declares: the example hosts, and hosts that declare nothing.
{
  lib,
  evalHost,
  nixFilesIn,
  ...
}:
let
  examples = lib.listToAttrs (
    map (
      file: lib.nameValuePair (lib.removeSuffix ".nix" (baseNameOf file)) (evalHost [ file ])
    ) (nixFilesIn ../../examples)
  );

  # For every example, what `find` finds wrong in it.
  inEveryExample = find: {
    expr = lib.mapAttrs (_: find) examples;
    expected = lib.mapAttrs (_: _: [ ]) examples;
  };

  lines = lib.splitString "\n";
  # Values of these directives of all units, with the unit that has them.
  directives =
    host: names:
    lib.concatLists (
      lib.mapAttrsToList (
        unit: text:
        lib.concatMap (
          line:
          let
            parts = lib.splitString "=" line;
          in
          lib.optional (lib.elem (lib.head parts) names) {
            inherit unit;
            directive = lib.head parts;
            value = lib.concatStringsSep "=" (lib.tail parts);
          }
        ) (lines text)
      ) host.units
    );
  words = text: lib.filter (word: word != "") (lib.splitString " " text);

  # Units of ours, and those that NixOS makes for us. Units of applications may be anywhere.
  isOurs =
    name:
    lib.any (prefix: lib.hasPrefix prefix name) [
      "backstay-"
      "notify"
      "postgresql-"
      "preseed-"
      "restic-"
      "syncoid-"
    ];
  template = name: lib.head (builtins.match "([^@]*@?).*" name) + ".service";
  missingUnits =
    host:
    lib.concatMap
      (
        { unit, directive, value }:
        map (name: "${unit}: ${directive}=${name}") (
          lib.filter (
            name: isOurs name && !host.units ? ${name} && !host.units ? ${template name}
          ) (words value)
        )
      )
      (
        directives host [
          "After"
          "Before"
          "BindsTo"
          "Conflicts"
          "OnFailure"
          "OnSuccess"
          "PartOf"
          "Requires"
          "Requisite"
          "Unit"
          "Wants"
        ]
      );

  missingFiles =
    host:
    lib.concatMap
      (
        { unit, value, ... }:
        map (path: "${unit}: ${path}") (
          lib.filter (path: !lib.any (lib.hasPrefix path) (lib.attrNames (host.files // host.links))) (
            lib.concatMap (word: builtins.match "[^/]*(/etc/[^ \"']*)" word) (
              lib.filter (word: builtins.match "[^/]*(/etc/[^ \"']*)" word != null) (words value)
            )
          )
        )
      )
      (
        directives host [
          "ExecStart"
          "ExecStartPre"
          "ExecStartPost"
          "ExecStop"
          "ExecStopPost"
          "ExecReload"
          "EnvironmentFile"
        ]
      );

  # Directories that are made: by tmpfiles, as the mount point of a dataset, or by systemd for a unit.
  madeBy =
    host:
    let
      tmpfiles = lib.concatMap (
        name:
        lib.concatMap (
          line:
          let
            found = builtins.match "'?[dDvqQ][+!=~^$-]*'?[[:space:]]+'?([^' ]+)'?[[:space:]].*" line;
          in
          lib.optionals (found != null) found
        ) (lines host.files.${name})
      ) (lib.filter (lib.hasPrefix "/etc/tmpfiles.d/") (lib.attrNames host.files));
      datasets = map (dataset: dataset.mountpoint) (
        (builtins.fromJSON (host.files."/etc/backstay/datasets.json" or ''{"datasets":[]}'')).datasets
      );
      state = map ({ value, ... }: "/var/lib/${value}") (directives host [ "StateDirectory" ]);
      cache = map ({ value, ... }: "/var/cache/${value}") (directives host [ "CacheDirectory" ]);
    in
    tmpfiles ++ datasets ++ state ++ cache;
  missingDirectories =
    host:
    let
      # A repository that is a directory is on a mount that the administrator makes, and the job asks for.
      made = madeBy host ++ [ "/mnt" ];
      isMade = path: lib.any (directory: path == directory || lib.hasPrefix "${directory}/" path) made;
    in
    map ({ unit, value, ... }: "${unit}: ${value}") (
      # "-": a directory that need not be there.
      lib.filter ({ value, ... }: !lib.hasPrefix "-" value && !isMade value) (
        directives host [ "ReadWritePaths" ]
      )
    );

  nothing = evalHost [ ];
  withoutInstance = evalHost [
    ../../examples/minimal.nix
    { modules.services.postgresql.instances.main.enable = lib.mkForce false; }
  ];
in
{
  "test E17 every example deploys without a complaint" = inEveryExample (
    host: host.failedAssertions ++ host.warnings
  );

  "test E18 the modules change nothing on a host that declares nothing" = {
    expr = nothing.state;
    expected = {
      units = { };
      files = { };
      links = { };
      modes = { };
      packages = [ ];
      firewall = [ ];
    };
  };

  "test E18 an instance that is not enabled changes nothing" = {
    expr = withoutInstance.state == nothing.state;
    expected = true;
  };

  "test every unit of ours that a unit names is there" = inEveryExample missingUnits;

  "test every file in /etc that a command reads is there" = inEveryExample missingFiles;

  # systemd refuses to start a unit when one of them is missing.
  "test every directory that a sandbox opens for writing is made by something" = inEveryExample missingDirectories;

  "test no unit runs a shell, but those of NixOS' own restic and syncoid modules" = inEveryExample (
    host:
    lib.filter (text: !lib.hasPrefix "restic-backups-" text && !lib.hasPrefix "syncoid-" text) (
      map ({ unit, value, ... }: "${unit}: ${value}") (
        lib.filter ({ value, ... }: builtins.match "[^ ]*/(ba)?sh .*" value != null) (
          directives host [
            "ExecStart"
            "ExecStartPre"
            "ExecStop"
            "ExecStopPost"
          ]
        )
      )
    )
  );
}
