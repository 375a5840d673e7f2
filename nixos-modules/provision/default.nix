# Databases and roles by declaration: from options to the settings that pg-provision reads, and its units.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  blib = import ../lib.nix { inherit lib pkgs; };
  helper = import ../backup/helper.nix { inherit lib pkgs; };
  names = import ./names.nix { inherit lib; };
  declared = import ./declared.nix { inherit lib config; };
  sql = import ./sql.nix { inherit lib; };

  cfg = config.modules.services.postgresql;
  instances = blib.enabled cfg.instances;
  units = names.units cfg.defaultInstance;
  inherit (config.modules) notifications;

  stamps = "/var/lib/postgresql/provisioning";

  # Parameters as PostgreSQL writes them.
  parameters = lib.mapAttrs (
    _: value:
    if builtins.isBool value then
      (if value then "on" else "off")
    else if builtins.isString value then
      value
    else
      builtins.toJSON value
  );

  # Without what says nothing: every program of the instance reads the file, the one that archives WAL
  # with each segment.
  sparse = lib.filterAttrs (
    _: value:
    !builtins.elem value [
      null
      { }
      [ ]
    ]
  );

  roleSettings =
    name: role:
    let
      value = if role.full == [ ] then null else (builtins.head role.full).value;
    in
    sparse (
      {
        login = if value == null then role.login else value.login;
        passwordFile = if role.files != [ ] then names.credential name else null;
      }
      // lib.optionalAttrs (value != null) {
        inherit (value)
          createDb
          createRole
          replication
          connectionLimit
          ;
        memberOf = value.grantRoles;
        settings = parameters value.settings;
      }
    );

  policies = {
    custom = "custom";
    owner-only = "ownerOnly";
    "owner-readwrite+readonly-select" = "ownerReadwriteReadonlySelect";
  };

  databaseSettings =
    instance:
    { name, value, ... }:
    sparse (
      {
        inherit (value)
          managed
          owner
          encoding
          localeProvider
          locale
          collation
          lcCtype
          template
          tablespace
          isTemplate
          connectionLimit
          extensions
          revokePublic
          permissions
          databasePermissions
          schemaPermissions
          tablePermissions
          functionPermissions
          defaultPrivileges
          schemaMigrations
          ;
        settings = parameters value.settings;
        permissionsPolicy = policies.${value.permissionsPolicy};
        readonlyRole =
          if value.permissionsPolicy == "owner-readwrite+readonly-select" then value.readonlyRole else null;
        dump =
          if value.dump.enable then
            {
              inherit (value.dump) directory;
              maximumAgeSeconds = value.dump.maxAgeSeconds;
            }
            // value.dump.retention
          else
            null;
      }
      // (sql instance name value).settings
    );

  instanceModule =
    { name, config, ... }:
    let
      mine = declared.of name;
      runsSql =
        value:
        value.initScripts != [ ] || value.migrations != null || value.schemaMigrations != null;
    in
    {
      # The packages of declared extensions. pgvector is called "vectors" in some guides.
      extensions = lib.unique (
        lib.concatMap (
          database:
          map (
            extension: if extension.name == "vectors" then "vector" else extension.name
          ) database.value.extensions
        ) mine.databases
      );

      provisionedOwners = lib.naturalSort (
        lib.unique (
          map (database: database.value.owner) (
            builtins.filter (
              database: database.value.managed && database.value.owner != null && runsSql database.value
            ) mine.databases
          )
        )
      );

      programSettings.databases = {
        stampFile = "${stamps}/provisioned${lib.optionalString (!config.isDefault) "-${name}"}.sha256";
        inherit (config.provisioning) readyDeadlineSeconds lockDeadlineSeconds;
        roles = lib.mapAttrs roleSettings mine.roles;
        declared = lib.listToAttrs (
          map (database: lib.nameValuePair database.name (databaseSettings name database)) mine.databases
        );
      };
    };

  # What the units of our programs have in common here.
  unit =
    {
      name,
      instance,
      program,
      arguments ? [ ],
      writable ? [ ],
    }:
    lib.mkMerge [
      (helper {
        inherit
          name
          instance
          program
          arguments
          writable
          ;
        preset = blib.hardening.helper;
      })
      {
        # The server has to answer first.
        after = [ "postgresql-${name}.service" ];
      }
    ];

  # One unit reads all passwords, of which one may be missing. Without a second source for it the
  # unit would not even start, and no database would be brought about; with the empty one, only those
  # fail that need the password. (systemd.exec(5), SetCredential=.)
  credentials =
    roles:
    let
      withFile = lib.filterAttrs (_: role: role.files != [ ]) roles;
      source = role: lib.replaceStrings [ "%" ] [ "%%" ] (builtins.head role.files).file;
    in
    {
      LoadCredential = lib.mapAttrsToList (name: role: "${names.credential name}:${source role}") withFile;
      SetCredential = lib.mapAttrsToList (name: _: "${names.credential name}:\\n") withFile;
    };

  provisioningUnit =
    name: instance:
    let
      mine = declared.of name;
      sqlFiles = lib.concatMap (
        database: builtins.attrNames (sql name database.name database.value).files
      ) mine.databases;
    in
    {
      ${units.provisioning name} = lib.mkMerge [
        (unit {
          inherit name instance;
          program = "pg-provision";
          writable = [ stamps ];
        })
        {
          description = "Databases and roles of the PostgreSQL instance ${name} as they are declared";
          # At every boot and every switch, since it does not stay active. And with every start of the
          # server: what a restore has brought back is declared as it was back then.
          wantedBy = [
            "multi-user.target"
            "postgresql-${name}.service"
          ];
          # Started by hand it starts the server too. The end of a recovery it awaits by itself.
          requires = [ "postgresql-${name}.service" ];
          # Where a unit puts secrets in place, they are there afterwards.
          after = [ "sops-install-secrets.service" ];
          # A run that a switch finds in progress has the old settings. What it has not committed is
          # rolled back, and the next run begins at once.
          restartIfChanged = lib.mkForce true;
          restartTriggers = map (file: config.environment.etc.${file}.source) (
            [ "backstay/${name}.json" ] ++ sqlFiles
          );
          onFailure = notifications.onFailure "postgresql-provision-failure";
          onSuccess = notifications.onSuccess "postgresql-provision-failure";
          serviceConfig = credentials mine.roles;
        }
      ];
    };

  # What a service is ordered after that needs one database. One that fails does not keep the others
  # from their services, as the unit above would.
  databaseUnit =
    instanceName: instance:
    { name, ... }:
    {
      ${units.database instanceName name} = lib.mkMerge [
        (unit {
          name = instanceName;
          inherit instance;
          program = "pg-provision";
          arguments = [
            "--ready"
            name
          ];
        })
        {
          description = "Database ${lib.replaceStrings [ "%" ] [ "%%" ] name} of the PostgreSQL instance ${instanceName} is as declared";
          # It only looks, and what it looks for is brought about there.
          after = [ "${units.provisioning instanceName}.service" ];
          wants = [ "${units.provisioning instanceName}.service" ];
        }
      ];
    };

  dumpUnit =
    instanceName: instance:
    { name, value, ... }:
    {
      ${units.dump instanceName name} = lib.mkMerge [
        (unit {
          name = instanceName;
          inherit instance;
          program = "pg-dump-database";
          arguments = [
            "--database"
            name
          ];
          writable = [ value.dump.directory ];
        })
        {
          description = "Dump of database ${lib.replaceStrings [ "%" ] [ "%%" ] name} of the PostgreSQL instance ${instanceName}";
          onFailure = notifications.onFailure "postgresql-backup-failure";
          onSuccess = notifications.onSuccess "postgresql-backup-failure";
          serviceConfig = {
            # Reading all of a database leaves the disks to the queries.
            Nice = 10;
            IOSchedulingClass = "idle";
          };
        }
      ];
    };

  dumpTimer =
    instance:
    { name, value, ... }:
    {
      ${units.dump instance name} = {
        description = "Schedule of the dumps of database ${lib.replaceStrings [ "%" ] [ "%%" ] name} of the PostgreSQL instance ${instance}";
        wantedBy = [ "timers.target" ];
        timerConfig = {
          OnCalendar = value.dump.schedule;
          # What was due while the host was off is made up for.
          Persistent = true;
          # Databases with the same schedule are not all read at once.
          RandomizedDelaySec = "30min";
        };
      };
    };

  dumped = name: builtins.filter (database: database.value.dump.enable) (declared.of name).databases;
  forEachDump = make: forEach (name: instance: lib.mkMerge (map (make name instance) (dumped name)));
  forEach = make: lib.mkMerge (lib.mapAttrsToList make instances);

  # Dumps that are copied off-site with the rest of the instance.
  copied =
    name: instance:
    lib.optionals instance.backup.copiesOffSite (
      builtins.filter (database: database.value.dump.restic.enable) (dumped name)
    );
in
{
  imports = [
    ./options.nix
    ./assertions.nix
    # Read here: the server's options, whether its backups go off-site, the notifier.
    ../instances
    ../backup
    ../notifications
    ../restic/options.nix
  ];

  options.modules.services.postgresql.instances = lib.mkOption {
    type = lib.types.attrsOf (lib.types.submodule instanceModule);
  };

  config = lib.mkIf (instances != { }) {
    systemd.services = lib.mkMerge [
      (forEach provisioningUnit)
      (forEach (
        name: instance: lib.mkMerge (map (databaseUnit name instance) (declared.of name).databases)
      ))
      (forEachDump dumpUnit)
    ];
    systemd.timers = forEachDump (name: _: dumpTimer name);

    environment.etc = forEach (
      name: _:
      lib.mkMerge (
        map (database: (sql name database.name database.value).files) (declared.of name).databases
      )
    );

    # Each instance's user replaces its own stamp in it, and nobody else's.
    users.groups.backstay-provisioning = { };
    users.users = forEach (
      _: instance: { ${instance.user}.extraGroups = [ "backstay-provisioning" ]; }
    );
    systemd.tmpfiles.settings."10-postgresql-provisioning" = lib.mkMerge [
      {
        ${stamps}.d = {
          mode = "3770";
          user = "root";
          group = "backstay-provisioning";
        };
      }
      (forEachDump (
        _: instance: { value, ... }: {
          ${value.dump.directory}.d = {
            mode = "0700";
            inherit (instance) user group;
          };
        }
      ))
    ];

    modules.backup.restic.jobs = forEach (
      name: instance:
      lib.mkIf (copied name instance != [ ]) {
        "postgresql-${name}-dumps" = {
          repository = instance.backup.restic.resolved.name;
          # Whoever copies archive and base backups: in a repository that is a directory each reads only
          # what it wrote itself.
          user = lib.mkDefault instance.user;
          paths = map (database: database.value.dump.directory) (copied name instance);
          tags = [
            "postgresql"
            name
            "dump"
          ];
          # All files are the job's own, so in a user namespace none of them looks like nobody's.
          serviceConfig =
            lib.mkIf (config.modules.backup.restic.jobs."postgresql-${name}-dumps".user == instance.user)
              {
                PrivateUsers = lib.mkDefault true;
              };
        };
      }
    );
  };
}
