# Which privileges there are on what, and where a word belongs that was written in the wrong place.
{ lib }:
let
  onTables = [
    "SELECT"
    "INSERT"
    "UPDATE"
    "DELETE"
    "TRUNCATE"
    "REFERENCES"
    "TRIGGER"
    "MAINTAIN"
  ];
  kinds = {
    databases = [
      "CONNECT"
      "CREATE"
      "TEMP"
      "TEMPORARY"
    ];
    schemas = [
      "USAGE"
      "CREATE"
    ];
    tables = onTables ++ [ "USAGE" ];
    onlyTables = onTables;
    sequences = [
      "USAGE"
      "SELECT"
      "UPDATE"
    ];
    functions = [ "EXECUTE" ];
  };
  every = lib.unique (lib.concatLists (builtins.attrValues kinds));

  nouns = {
    databases = "a database";
    schemas = "a schema";
    tables = "a table or sequence";
    onlyTables = "a table";
    sequences = "a sequence";
    functions = "a function";
  };

  # The option that a privilege belongs to.
  homes = {
    CONNECT = "databasePermissions";
    TEMP = "databasePermissions";
    TEMPORARY = "databasePermissions";
    CREATE = "databasePermissions or schemaPermissions";
    USAGE = "schemaPermissions";
    EXECUTE = "functionPermissions";
  };

  # What is wrong with one word, or null.
  wordProblem =
    allowed: noun: version: word:
    let
      known = [ "ALL" ] ++ every;
    in
    if !builtins.elem word known then
      "\"${word}\" is no privilege; use ${
        if builtins.elem (lib.toUpper word) known then
          "\"${lib.toUpper word}\""
        else
          lib.concatStringsSep ", " ([ "ALL" ] ++ allowed)
      }"
    else if word != "ALL" && !builtins.elem word allowed then
      "\"${word}\" is no privilege on ${noun}; it belongs into ${homes.${word} or "permissions or tablePermissions"}"
    else if word == "MAINTAIN" && lib.versionOlder version "17" then
      "\"MAINTAIN\" needs PostgreSQL 17, and the instance has ${version}; leave it out, or upgrade the instance"
    else
      null;

  # Problems of a set of privileges by role, each with the option.
  ofGrants =
    allowed: noun: version: option: grants:
    lib.concatLists (
      lib.mapAttrsToList (
        role: words:
        map (problem: "${option}.${lib.showOption [ role ]}: ${problem}.") (
          builtins.filter (problem: problem != null) (map (wordProblem allowed noun version) words)
        )
      ) grants
    );
  of = kind: ofGrants kinds.${kind} nouns.${kind};
  ofObjects =
    kind: version: option: objects:
    lib.concatLists (
      lib.mapAttrsToList (object: of kind version "${option}.${lib.showOption [ object ]}") objects
    );
in
{
  # Everything that is wrong with the privileges of a database.
  problems =
    version:
    { value, option, ... }:
    ofGrants every "anything" version "${option}.permissions" value.permissions
    ++ of "databases" version "${option}.databasePermissions" value.databasePermissions
    ++ ofObjects "schemas" version "${option}.schemaPermissions" value.schemaPermissions
    ++ ofObjects "tables" version "${option}.tablePermissions" value.tablePermissions
    ++ ofObjects "functions" version "${option}.functionPermissions" value.functionPermissions
    ++ lib.concatLists (
      lib.mapAttrsToList (
        name: policy:
        let
          path = "${option}.defaultPrivileges.${lib.showOption [ name ]}";
        in
        of "onlyTables" version "${path}.tables" policy.tables
        ++ of "sequences" version "${path}.sequences" policy.sequences
        ++ of "functions" version "${path}.functions" policy.functions
      ) value.defaultPrivileges
    );

  # Whether `text` is schema.name, schema.* or *.*, with parts in double quotes where they need it.
  isPattern =
    text:
    let
      plain = "[^.*\"]+";
      quoted = "\"([^\"]|\"\")+\"";
      part = "(${plain}|${quoted})";
    in
    text == "*.*" || builtins.match "${part}\\.(\\*|${plain}|${quoted})" text != null;
}
