# Names of databases and roles in units, files and credentials. In PostgreSQL they may consist of any
# characters.
{ lib }:
rec {
  # A part of a path.
  inPath =
    name:
    if builtins.match "[A-Za-z0-9_][A-Za-z0-9_.-]*" name != null then
      name
    else
      builtins.substring 0 16 (builtins.hashString "sha256" name);

  # A part of the name of a unit: what it cannot hold is written as systemd-escape(1) writes it. That
  # needs the number of a character, which Nix only has for ASCII.
  inUnit =
    name:
    if builtins.match "[ -~]+" name != null then
      lib.stringAsChars (
        char:
        if builtins.match "[A-Za-z0-9_.-]" char != null then
          char
        else
          "\\x${lib.fixedWidthString 2 "0" (lib.toLower (lib.toHexString (lib.strings.charToInt char)))}"
      ) name
    else
      inPath name;

  credential = role: "password-${inPath role}";

  # Units of an instance, without their type. Those of the default instance go without its name, as in
  # the guide that this module began with.
  units =
    defaultInstance:
    let
      of = instance: lib.optionalString (instance != null && instance != defaultInstance) "-${instance}";
    in
    {
      provisioning = instance: "postgresql-database-provisioning${of instance}";
      database = instance: name: "postgresql-database-${inUnit name}${of instance}";
      dump = instance: name: "postgresql-dump-${inUnit name}${of instance}";
    };
}
