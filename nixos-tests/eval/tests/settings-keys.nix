# No key of the settings files is out of reach: each one stands in the files of a host that declares everything, or is listed
# here with the reason.
{
  lib,
  evalHost,
  nixFilesIn,
  ...
}:
let
  # Keys that no option sets, and why.
  unset = {
    "postgresql.logFile" = "a server without a unit writes there; this one has a unit and logs by its own collector";
    "postgresql.role" = "the superuser is postgres in every cluster that the modules make";
    "postgresql.stopDeadlineSeconds" = "systemd stops the server, with a time limit of the unit";
    "stateDirectory" = "the default is the directory that the modules make";
  };

  # What the examples cannot have at the same time as what they have.
  further = {
    modules.storage.datasets = {
      enable = true;
      parentDataset = "tank/services";
    };
    modules.backup.sanoid.datasets = lib.genAttrs [
      "tank/services/postgresql/main"
      "tank/services/postgresql/main-wal"
    ] (dataset: {
      replication = {
        targetHost = "nas-1.example.org";
        targetDataset = "backup/${dataset}";
        hostKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGJhY2tzdGF5L2V4YW1wbGUvbm90LWEtcmVhbC1r";
      };
    });
    modules.services.postgresql = {
      instances.main = {
        enable = true;
        preseed = {
          enable = true;
          restoreMethods = [
            "syncoid"
            "local"
          ];
        };
      };
      databases.other = {
        extensions = [
          {
            name = "hstore";
            version = "1.8";
          }
        ];
        collation = "de_DE.UTF-8";
        lcCtype = "de_DE.UTF-8";
        template = "template0";
      };
    };
  };

  hosts = map (modules: evalHost modules) (
    map lib.singleton (nixFilesIn ../../examples) ++ [ [ further ] ]
  );

  filesOf =
    isWanted: host:
    map (path: builtins.fromJSON host.files.${path}) (
      lib.filter (
        path: builtins.match "/etc/backstay/[^/]+[.]json" path != null && isWanted (baseNameOf path)
      ) (lib.attrNames host.files)
    );

  # Every key of a schema, as "databases.declared.<name>.owner" or "preseed.sources[].host".
  keysOf =
    schema:
    let
      resolved =
        node:
        if node ? "$ref" then
          resolved schema."$defs".${lib.last (lib.splitString "/" node."$ref")}
        else
          node;
      below =
        prefix: node:
        let
          here = resolved node;
        in
        lib.concatMap (below prefix) (here.anyOf or [ ] ++ here.oneOf or [ ])
        ++ lib.concatLists (
          lib.mapAttrsToList (
            key: value:
            let
              path = if prefix == "" then key else "${prefix}.${key}";
            in
            [ path ] ++ below path value
          ) (here.properties or { })
        )
        ++ lib.optionals (here ? items) (below "${prefix}[]" here.items)
        ++ lib.optionals (builtins.isAttrs (here.additionalProperties or null)) (
          below (if prefix == "" then "<name>" else "${prefix}.<name>") here.additionalProperties
        );
    in
    lib.unique (below "" schema);

  # The keys that stand in a file. Names that users chose look like keys, and match none.
  keysIn =
    let
      below =
        prefix: value:
        if builtins.isAttrs value then
          lib.concatLists (
            lib.mapAttrsToList (
              key: item:
              let
                dot = if prefix == "" then "" else "${prefix}.";
              in
              [ "${dot}${key}" ]
              ++ below "${dot}${key}" item
              ++ below "${dot}<name>" item
            ) value
          )
        else if builtins.isList value then
          lib.concatMap (below "${prefix}[]") value
        else
          [ ];
    in
    below "";

  unreached =
    kind: isWanted:
    let
      keys = keysOf (
        builtins.fromJSON (builtins.readFile (../../../docs/reference + "/${kind}.schema.json"))
      );
      reached = lib.genAttrs (lib.concatMap keysIn (lib.concatMap (filesOf isWanted) hosts)) (_: true);
    in
    lib.filter (key: !reached ? ${key}) keys;

  others = [
    "datasets.json"
    "notifications.json"
  ];
in
{
  "test every key of an instance's settings is set by an option or has a reason not to be" = {
    expr = lib.naturalSort (unreached "settings" (file: !lib.elem file others));
    expected = lib.attrNames unset;
  };

  "test every key of the notifier's settings is set by an option" = {
    expr = unreached "notifications" (file: file == "notifications.json");
    expected = [ ];
  };

  "test every key of the datasets' settings is set by an option" = {
    expr = unreached "datasets" (file: file == "datasets.json");
    expected = [ ];
  };
}
