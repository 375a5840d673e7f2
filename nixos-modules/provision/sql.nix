# SQL that a user declares: files below /etc for what is part of the configuration, and paths of the
# host as they are.
{ lib }:
let
  names = import ./names.nix { inherit lib; };

  isOnHost =
    value: builtins.isString value && lib.hasPrefix "/" value && !lib.hasPrefix "/*" value;

  # A list of SQL: the paths that the settings file names, and the files that have to be made for that.
  listOf =
    directory: values:
    lib.imap1 (
      index: value:
      let
        number = lib.fixedWidthNumber 3 index;
        target = "${directory}/${number}${
          if builtins.isPath value then "-${baseNameOf value}" else ".sql"
        }";
      in
      if isOnHost value then
        { path = value; }
      else
        {
          path = "/etc/${target}";
          files.${target}.text = if builtins.isPath value then builtins.readFile value else value;
        }
    ) values;

  # A directory of SQL.
  directoryOf =
    directory: value:
    if value == null then
      { path = null; }
    else if isOnHost value then
      { path = value; }
    else
      {
        path = "/etc/${directory}";
        files = lib.mapAttrs' (
          name: _: lib.nameValuePair "${directory}/${name}" { text = builtins.readFile (value + "/${name}"); }
        ) (lib.filterAttrs (name: type: type == "regular" && lib.hasSuffix ".sql" name) (builtins.readDir value));
      };
in
# `path` and `files` of everything that a database declares.
instance: database: value:
let
  directory = kind: "backstay/sql/${instance}/${names.inPath database}/${kind}";
  custom = lib.mapAttrs (kind: listOf (directory kind)) {
    inherit (value.customSql)
      preCreate
      postCreate
      preConfig
      postConfig
      ;
  };
  initScripts = listOf (directory "init") value.initScripts;
  migrations = directoryOf (directory "migrations") value.migrations;
  paths = map (entry: entry.path);
in
{
  settings = {
    customSql = lib.filterAttrs (_: files: files != [ ]) (lib.mapAttrs (_: paths) custom);
    initScripts = paths initScripts;
    migrations = migrations.path;
  };
  files = lib.foldl' (all: entry: all // entry.files or { }) { } (
    lib.concatLists (builtins.attrValues custom) ++ initScripts ++ [ migrations ]
  );
}
