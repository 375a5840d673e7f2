# Declarations of databases and roles that cannot be what somebody meant.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  blib = import ../lib.nix { inherit lib pkgs; };
  names = import ./names.nix { inherit lib; };
  declared = import ./declared.nix { inherit lib config; };
  privileges = import ./privileges.nix { inherit lib; };

  cfg = config.modules.services.postgresql;
  instances = blib.enabled cfg.instances;
  units = names.units cfg.defaultInstance;

  list = lib.concatStringsSep ", ";
  # What is there more than once.
  repeated = values: lib.filterAttrs (_: same: builtins.length same > 1) (lib.groupBy lib.id values);
  quoted = text: "\"${text}\"";

  # What is wrong with a name, or null.
  nameProblem =
    kind: name:
    if name == "" then
      "the name of a ${kind} cannot be empty; give it one"
    else if builtins.stringLength name > 63 then
      "the name ${quoted name} has ${toString (builtins.stringLength name)} bytes and PostgreSQL keeps 63 of them, so that two names could become one ${kind}; shorten it"
    else if builtins.match "[^[:cntrl:]]*" name == null then
      "the name of a ${kind} cannot contain a control character; choose another"
    else
      null;

  roleNameProblem =
    name:
    let
      problem = nameProblem "role" name;
    in
    if problem != null then
      problem
    else if lib.hasPrefix "pg_" name then
      "the role ${quoted name} begins with \"pg_\", which PostgreSQL keeps for its own roles; choose another name"
    else if
      builtins.elem name [
        "public"
        "none"
      ]
    then
      "${quoted name} has a meaning of its own in SQL and cannot be a role; choose another name"
    else
      null;

  databaseNameProblem =
    name:
    let
      problem = nameProblem "database" name;
    in
    if problem != null then
      problem
    else if
      builtins.elem name [
        "template0"
        "template1"
      ]
    then
      "${quoted name} is PostgreSQL's own; choose another name"
    else
      null;

  parameterProblems =
    option: settings:
    lib.concatMap (
      name:
      if
        builtins.elem name [
          "role"
          "session_authorization"
        ]
      then
        [ "${option}.${name}: it decides who a session is and cannot be a default; grant the role instead." ]
      else if builtins.match "[A-Za-z_][A-Za-z0-9_$.]*" name == null then
        [ "${option}.${lib.showOption [ name ]}: this is no name of a parameter; look it up in pg_settings." ]
      else
        [ ]
    ) (builtins.attrNames settings);

  # A database that any module may declare needs an instance.
  instanceProblems = lib.concatMap (
    { value, option, ... }:
    let
      instance = declared.instanceOf value;
      enabled = builtins.attrNames instances;
    in
    if enabled == [ ] then
      [ "${option}: there is no instance to create it in; enable one in modules.services.postgresql.instances." ]
    else if instance == null then
      [
        "${option}: several instances are enabled (${list enabled}) and none is the default; set its instance, or modules.services.postgresql.defaultInstance."
      ]
    else if !instances ? ${instance} then
      [
        "${option}: there is no enabled instance ${quoted instance}; enable it, or choose from ${list enabled}."
      ]
    else
      [ ]
  ) declared.central;

  # Two declarations of one database.
  duplicates =
    instance: mine:
    lib.concatLists (
      lib.mapAttrsToList (
        _: same:
        let
          options = lib.naturalSort (map (database: database.option) same);
        in
        lib.optional (builtins.length same > 1)
          "${builtins.head options}: ${builtins.elemAt options 1} declares the same database of instance ${instance}; declare it in one place."
      ) (lib.groupBy (database: database.name) mine.databases)
    )
    ++ lib.concatLists (
      lib.mapAttrsToList (
        name: database:
        lib.optional (builtins.length database.listed > 1)
          "modules.services.postgresql.instances.${instance}.databases: ${quoted name} is listed ${toString (builtins.length database.listed)} times; list it once."
      ) cfg.instances.${instance}.databases
    );

  # Names that SQL without quotes takes for the same.
  lookalikes =
    instance: kind: all:
    lib.concatLists (
      lib.mapAttrsToList (
        _: same:
        lib.optional (builtins.length same > 1)
          "modules.services.postgresql.instances.${instance}: the ${kind}s ${
            lib.concatMapStringsSep " and " quoted (lib.naturalSort same)
          } differ only in capital letters, and SQL that does not quote them means one of them; rename the other."
      ) (lib.groupBy lib.toLower (lib.unique all))
    );

  roleProblems =
    instance: mine: name: role:
    let
      nameIs = roleNameProblem name;
      files = lib.groupBy (place: place.file) role.files;
      sorted = lib.sort (a: b: a.option < b.option) role.full;
      first = builtins.head sorted;
      differing = builtins.filter (place: place.value != first.value) sorted;
      isKnown = other: mine.roles ? ${other} || other == "postgres" || lib.hasPrefix "pg_" other;
      grantProblems = lib.concatMap (
        place:
        map (
          other:
          if other == name then
            "${place.option}.grantRoles: a role cannot be a member of itself; leave ${quoted name} out."
          else
            "${place.option}.grantRoles: there is no role ${quoted other} in instance ${instance}; declare it in modules.services.postgresql.instances.${instance}.roles, or name one that PostgreSQL brings along, such as \"pg_monitor\"."
        ) (builtins.filter (other: other == name || !isKnown other) place.value.grantRoles)
      ) sorted;
    in
    lib.optional (nameIs != null) "${(builtins.head role.places).option}: ${nameIs}."
    ++ lib.optional (builtins.length (builtins.attrNames files) > 1) (
      let
        # One option for each file.
        one = map (file: builtins.head (lib.sort (a: b: a.option < b.option) files.${file})) (
          builtins.attrNames files
        );
      in
      "modules.services.postgresql.instances.${instance}: the role ${quoted name} has ${toString (builtins.length one)} password files, ${
        lib.concatMapStringsSep " and " (place: "${quoted place.file} (${place.option})") one
      }; a role has one password, so name one file, or use roles of different names."
    )
    ++ lib.optional (differing != [ ])
      "${(builtins.head differing).option}: ${first.option} says something else about the role ${quoted name} of instance ${instance}; a role belongs to the whole instance, so declare it once."
    ++ grantProblems
    ++ lib.concatMap (
      place: parameterProblems "${place.option}.settings" place.value.settings
    ) role.full;

  databaseProblems =
    name: instance: mine: database:
    let
      inherit (database) value option;
      inherit (instance) version;
      nameIs = databaseNameProblem database.name;
      extensionNames = map (extension: extension.name) value.extensions;
      patterns = lib.concatMap (
        kind:
        map (text: {
          inherit kind text;
        }) (builtins.attrNames value.${kind})
      ) [
        "tablePermissions"
        "functionPermissions"
      ];
      runsSql =
        value.initScripts != [ ] || value.migrations != null || value.schemaMigrations != null;
      ownerMayLogIn =
        value.owner == null || !mine.roles ? ${value.owner} ||
        builtins.all (place: place.value.login) mine.roles.${value.owner}.full;
      least = {
        icu = "15";
        builtin = "17";
      };
      kept = [
        {
          path = instance.paths.root;
          what = "the data directory";
        }
        {
          path = instance.paths.archive;
          what = "the WAL archive";
        }
        {
          path = instance.paths.backups;
          what = "the directory of the base backups";
        }
      ];
      isWithin = outer: inner: inner == outer || lib.hasPrefix "${outer}/" inner;
    in
    lib.optional (nameIs != null) "${option}: ${nameIs}."
    ++ lib.optional (value.ownerPasswordFile != null && (value.owner == null || value.owner == "postgres"))
      "${option}.ownerPasswordFile: the owner is the superuser postgres, whose password is not managed; set owner to a role of its own."
    ++ lib.optional (
      value.owner != null && value.permissions ? ${value.owner} && value.permissions.${value.owner} != [ "ALL" ]
    ) "${option}.permissions.${lib.showOption [ value.owner ]}: the owner of a database may do everything in it, whatever is declared; write [ \"ALL\" ], or leave it out."
    ++ lib.optional (
      value.permissionsPolicy == "owner-readwrite+readonly-select" && value.readonlyRole == value.owner
    ) "${option}.readonlyRole: ${quoted value.readonlyRole} is the owner, which may write; name another role."
    ++ privileges.problems version database
    ++ map (
      { kind, text }:
      "${option}.${kind}.${lib.showOption [ text ]}: ${quoted text} is not schema.name, schema.* or *.*; put the schema before the name, and double quotes around a part with a dot, a star or a quote in it."
    ) (builtins.filter ({ text, ... }: !privileges.isPattern text) patterns)
    ++ lib.mapAttrsToList (
      extension: same:
      "${option}.extensions: ${quoted extension} is listed ${toString (builtins.length same)} times; list it once."
    ) (repeated extensionNames)
    ++ map (
      extension:
      "${option}.extensions: ${quoted extension.name} has a version and updateToLatest, which contradict each other; leave one out."
    ) (
      builtins.filter (
        extension: extension.version != null && extension.updateToLatest
      ) value.extensions
    )
    ++ lib.concatLists (
      lib.mapAttrsToList (
        policy: { owner, ... }:
        lib.optional (owner != null && owner != "postgres" && !mine.roles ? ${owner})
          "${option}.defaultPrivileges.${lib.showOption [ policy ]}.owner: nothing declares the role ${quoted owner}, so it creates nothing; declare it in additionalRoles."
      ) value.defaultPrivileges
    )
    ++ parameterProblems "${option}.settings" value.settings
    ++ lib.optional (
      value.localeProvider != null
      && least ? ${value.localeProvider}
      && lib.versionOlder version least.${value.localeProvider}
    ) "${option}.localeProvider: ${quoted value.localeProvider} needs PostgreSQL ${least.${value.localeProvider}}, and instance ${name} has ${version}; use \"libc\", or upgrade the instance."
    ++ lib.optional (
      value.locale != null
      && (value.localeProvider == null || value.localeProvider == "libc")
    ) "${option}.locale: it is for the providers icu and builtin; set localeProvider to one of them, or set collation and lcCtype."
    ++ lib.optional (runsSql && !ownerMayLogIn)
      "${option}.owner: initScripts, migrations and schemaMigrations run in a session of ${quoted value.owner}, which may not log in; let it log in, or declare another owner."
    ++ lib.optional (
      runsSql && value.owner != null && (lib.hasInfix "\"" value.owner || lib.hasPrefix "/" value.owner)
    ) "${option}.owner: initScripts, migrations and schemaMigrations need a line for ${value.owner} in pg_hba.conf and pg_ident.conf, which cannot hold a double quote, nor a slash at the start; choose another name."
    ++ lib.optional (
      value.schemaMigrations != null && value.schemaMigrations.pruneUnknown && value.schemaMigrations.entries == [ ]
    ) "${option}.schemaMigrations.pruneUnknown: without entries it would delete every row; list the entries, or set it to false."
    ++ lib.optionals value.dump.enable (
      lib.optional (
        value.dump.retention.daily == 0
        && value.dump.retention.weekly == 0
        && value.dump.retention.monthly == 0
      ) "${option}.dump.retention: daily, weekly and monthly are all 0, which keeps nothing but the newest dump; keep at least one day."
      ++ map (
        { path, what }:
        "${option}.dump.directory: ${quoted value.dump.directory} and ${what} of instance ${name}, ${quoted path}, are one inside the other; choose a directory apart from it."
      ) (
        builtins.filter (
          { path, ... }: isWithin path value.dump.directory || isWithin value.dump.directory path
        ) kept
      )
    );

  # A database that is, over others, its own template.
  templateProblems =
    mine:
    let
      byName = lib.listToAttrs (
        map (database: lib.nameValuePair database.name database) mine.databases
      );
      leadsBack =
        start: seen: name:
        let
          template = byName.${name}.value.template;
        in
        if template == start then
          seen ++ [ start ]
        # The end, or a circle that `start` only leads to.
        else if template == null || !byName ? ${template} || builtins.elem template seen then
          null
        else
          leadsBack start (seen ++ [ template ]) template;
      # Told once, by the first of the circle.
      circle =
        { name, option, ... }:
        let
          found = leadsBack name [ name ] name;
        in
        lib.optional (found != null && name == builtins.head (lib.naturalSort found))
          "${option}.template: ${lib.concatStringsSep " is a copy of " found}; one of them has to come first, so change its template.";
    in
    lib.concatMap circle mine.databases;

  perInstance =
    name: instance:
    let
      mine = declared.of name;
      sorted = lib.sort (a: b: a.option < b.option) mine.databases;
    in
    duplicates name mine
    ++ lookalikes name "database" (map (database: database.name) mine.databases)
    ++ lookalikes name "role" (builtins.attrNames mine.roles)
    ++ lib.concatLists (lib.mapAttrsToList (roleProblems name mine) mine.roles)
    ++ lib.concatMap (databaseProblems name instance mine) sorted
    ++ templateProblems mine;

  # Units of one name, and dumps of one directory.
  collisions =
    let
      # One that is declared in two places is told about above, and has one unit.
      all = lib.concatMap (
        instance:
        map (same: builtins.head same // { inherit instance; }) (
          builtins.attrValues (lib.groupBy (database: database.name) (declared.of instance).databases)
        )
      ) (builtins.attrNames instances);
      taken =
        map (instance: {
          unit = "postgresql-${instance}";
          what = "the server of instance ${instance}";
        }) (builtins.attrNames instances)
        ++ map (instance: {
          unit = units.provisioning instance;
          what = "the provisioning of instance ${instance}";
        }) (builtins.attrNames instances);
      unitsOf =
        { name, option, instance, value, ... }:
        [
          {
            unit = units.database instance name;
            what = option;
          }
        ]
        ++ lib.optional value.dump.enable {
          unit = units.dump instance name;
          what = option;
        };
      dumps = builtins.filter (database: database.value.dump.enable) all;
    in
    lib.concatLists (
      lib.mapAttrsToList (
        unit: same:
        let
          options = lib.naturalSort (map (entry: entry.what) same);
        in
        lib.optional (builtins.length same > 1)
          "${builtins.head options}: its unit would be ${unit}.service, which is also that of ${builtins.elemAt options 1}; rename the database."
      ) (lib.groupBy (entry: entry.unit) (taken ++ lib.concatMap unitsOf all))
    )
    ++ lib.concatLists (
      lib.mapAttrsToList (
        directory: same:
        let
          options = lib.naturalSort (map (database: "${database.option}.dump.directory") same);
        in
        lib.optional (builtins.length same > 1)
          "${builtins.head options}: ${quoted directory} is also that of ${builtins.elemAt options 1}; a dump of one would count as a dump of the other, so give each a directory of its own."
      ) (lib.groupBy (database: database.value.dump.directory) dumps)
    );

  problems =
    instanceProblems
    ++ lib.concatLists (lib.mapAttrsToList perInstance instances)
    ++ collisions;
in
{
  assertions = map (message: {
    assertion = false;
    inherit message;
  }) problems;
}
