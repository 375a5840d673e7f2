# What is declared for one instance, from everywhere: its databases as one list, and its roles with every
# place that says something about them.
{ lib, config }:
let
  cfg = config.modules.services.postgresql;
  base = [
    "modules"
    "services"
    "postgresql"
  ];

  # A list of databases, each with its name and the option that declares it.
  listOf =
    path:
    lib.mapAttrsToList (
      name: value: {
        inherit name value;
        option = lib.showOption (path ++ [ name ]);
      }
    );

  instanceOf =
    database: if database.instance == null then cfg.defaultInstance else database.instance;

  central = listOf (base ++ [ "databases" ]) cfg.databases;
in
{
  inherit central instanceOf;

  of =
    instance:
    let
      databases =
        builtins.filter (database: instanceOf database.value == instance) central
        ++ listOf (
          base
          ++ [
            "instances"
            instance
            "databases"
          ]
        ) cfg.instances.${instance}.databases;

      # Places that say something about a role: { role, option } and one of
      # - `file`: a file with its password;
      # - `value`: all its properties;
      # - `reader`: it is the role that may read by the policy of a database.
      # What says no more than the name makes sure that the role is there.
      fromDatabase =
        { value, option, ... }:
        let
          named = optionName: role: {
            inherit role;
            option = "${option}.${optionName}";
          };
          inGrants = optionName: grants: map (named optionName) (builtins.attrNames grants);
          inObjects =
            optionName: objects: lib.concatMap (inGrants optionName) (builtins.attrValues objects);
        in
        lib.optional (value.owner != null) (
          named "owner" value.owner
          // lib.optionalAttrs (value.ownerPasswordFile != null) {
            option = "${option}.ownerPasswordFile";
            file = value.ownerPasswordFile;
          }
        )
        ++ lib.optional (value.permissionsPolicy == "owner-readwrite+readonly-select") (
          named "readonlyRole" value.readonlyRole // { reader = true; }
        )
        ++ inGrants "permissions" value.permissions
        ++ inGrants "databasePermissions" value.databasePermissions
        ++ inObjects "schemaPermissions" value.schemaPermissions
        ++ inObjects "tablePermissions" value.tablePermissions
        ++ inObjects "functionPermissions" value.functionPermissions
        ++ lib.concatMap (
          # Not its owner: a role that nothing else declares creates nothing either.
          policy:
          lib.concatMap (inGrants "defaultPrivileges") [
            policy.tables
            policy.sequences
            policy.functions
          ]
        ) (builtins.attrValues value.defaultPrivileges)
        ++ inRoles "${option}.additionalRoles" value.additionalRoles;

      inRoles =
        option: roles:
        lib.mapAttrsToList (role: value: {
          inherit role value;
          option = "${option}.${lib.showOption [ role ]}";
        }) roles;

      mentions = builtins.filter (mention: mention.role != "postgres") (
        # A database that is not managed names its roles too, or they would count as no longer declared.
        lib.concatMap fromDatabase databases
        ++ inRoles "modules.services.postgresql.instances.${instance}.roles" cfg.instances.${instance}.roles
      );
    in
    {
      inherit databases;
      # By role: the places, those with all properties, and those with a password file.
      roles = lib.mapAttrs (_: places: {
        inherit places;
        full = builtins.filter (place: place ? value) places;
        files =
          map (place: {
            inherit (place) option file;
          }) (builtins.filter (place: place ? file) places)
          ++ map (place: {
            option = "${place.option}.passwordFile";
            file = place.value.passwordFile;
          }) (builtins.filter (place: place ? value && place.value.passwordFile != null) places);
        login = builtins.any (place: !place ? reader) places;
      }) (lib.groupBy (place: place.role) mentions);
    };
}
