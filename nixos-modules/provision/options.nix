# What a user declares of databases and roles.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  blib = import ../lib.nix { inherit lib pkgs; };
  database = import ./database.nix { inherit lib blib; };
  role = import ./role.nix { inherit lib blib; };
  inherit (lib) mkOption types;

  cfg = config.modules.services.postgresql;
  inherit (cfg) defaultInstance;

  databaseModule =
    { name, config, ... }:
    {
      options =
        database.options {
          inherit defaultInstance name config;
          instance = if config.instance == null then defaultInstance else config.instance;
        }
        // {
          instance = mkOption {
            type = types.nullOr types.str;
            default = null;
            example = "dev";
            description = ''
              The instance that the database belongs to; `null` is `modules.services.postgresql.defaultInstance`.
            '';
          };
        };
    };

  instanceModule =
    { name, ... }:
    let
      instance = name;
    in
    {
      options = {
        databases = mkOption {
          type = types.coercedTo (types.listOf types.str) database.fromList (
            types.attrsOf (
              types.submodule (
                { name, config, ... }:
                {
                  options = database.options {
                    inherit
                      defaultInstance
                      instance
                      name
                      config
                      ;
                  };
                }
              )
            )
          );
          default = { };
          example = [
            "app1"
            "app2"
          ];
          description = ''
            Databases of this instance: a list of names, each of which becomes a database of the superuser
            `postgres`, or a set of databases as in `modules.services.postgresql.databases`.

            A service that does not know the instances of the host declares its database there.
          '';
        };

        roles = mkOption {
          type = types.attrsOf (types.submodule { inherit (role) options; });
          default = { };
          example = {
            standby = {
              replication = true;
              passwordFile = "/run/secrets/standby/db_password";
            };
          };
          description = ''
            Roles of this instance that belong to no database in particular, and more to say about roles that
            databases name.

            A role that is no longer declared anywhere loses what was granted to it and the right to log
            in, and is never dropped. The same holds for the objects that it owns: they stay.
          '';
        };

        provisioning = {
          readyDeadlineSeconds = mkOption {
            type = types.ints.between 1 86400;
            default = 900;
            example = 3600;
            description = ''
              Longest time, in seconds, to wait until the server answers and has left recovery before databases and
              roles are brought to their declared state. Past it the unit fails; the server goes on.
            '';
          };
          lockDeadlineSeconds = mkOption {
            type = types.ints.between 1 86400;
            default = 30;
            example = 5;
            description = ''
              Longest time, in seconds, that one change waits for a lock that an application holds. Past it the database
              counts as failed, and what was changed in it is rolled back.
            '';
          };
        };

        provisionedOwners = mkOption {
          type = types.listOf types.str;
          internal = true;
          description = ''
            Owners of databases whose SQL runs in a session of their own: pg_hba.conf lets the user of
            the instance in as these.
          '';
        };
      };
    };
in
{
  options.modules.services.postgresql = {
    databases = mkOption {
      type = types.attrsOf (types.submodule databaseModule);
      default = { };
      example = {
        immich = {
          owner = "immich";
          ownerPasswordFile = "/run/secrets/immich/db_password";
          extensions = [ "pg_trgm" ];
          permissions.backup = [ "SELECT" ];
        };
      };
      description = ''
        Databases, by name. Any module may declare the ones that its service needs;
        `postgresql-database-provisioning.service` brings them about whenever the configuration is switched to, and
        at every boot.

        What is declared is created, granted or changed, and what is no longer declared is revoked. Nothing that
        holds data is ever dropped: neither a database nor a role, an extension or a schema. `pg-provision --plan`
        shows what would be done.
      '';
    };

    instances = mkOption {
      type = types.attrsOf (types.submodule instanceModule);
    };
  };
}
