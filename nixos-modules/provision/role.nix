# What a user declares of a role.
{ lib, blib }:
let
  inherit (lib) mkOption types;

  parameterValue =
    types.oneOf [
      types.bool
      types.int
      types.float
      types.str
    ]
    // {
      description = "boolean, number or string";
    };
in
rec {
  # Server parameters, as in ALTER ROLE … SET and ALTER DATABASE … SET.
  parameters =
    whose:
    mkOption {
      type = types.attrsOf parameterValue;
      default = { };
      example = {
        statement_timeout = "30s";
        search_path = "app, public";
      };
      description = ''
        Server parameters that sessions of ${whose} begin with. One that is taken out of the declaration is
        reset; one that somebody has set by hand and nothing declares is left alone.
      '';
    };

  options = {
    passwordFile = mkOption {
      type = types.nullOr blib.types.externalPath;
      default = null;
      example = "/run/secrets/grafana/db_password";
      description = ''
        File with the password, as a string. It is handed over by systemd, so root alone has to be able to
        read it. One newline at its end is not part of the password.

        The server only ever gets a SCRAM verifier that is computed from it, so the password is in no
        log and in no statistics. Without a file the role's password is left as it is, and a new role
        has none: over the socket it is open to the system user of its name, and over the network to
        nobody.
      '';
    };

    login = mkOption {
      type = types.bool;
      default = true;
      example = false;
      description = ''
        Whether the role may log in. One that may not serves to be granted to others.
      '';
    };

    createDb = mkOption {
      type = types.bool;
      default = false;
      example = true;
      description = ''
        Whether the role may create databases.
      '';
    };

    createRole = mkOption {
      type = types.bool;
      default = false;
      example = true;
      description = ''
        Whether the role may create roles, and change those that are no superusers.
      '';
    };

    replication = mkOption {
      type = types.bool;
      default = false;
      example = true;
      description = ''
        Whether the role may stream WAL and take base backups. That is all data of the instance.
      '';
    };

    connectionLimit = mkOption {
      type = types.nullOr (types.ints.between 0 262143);
      default = null;
      example = 20;
      description = ''
        How many connections the role may have at the same time. `null` is no limit but the instance's own.
      '';
    };

    grantRoles = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "pg_monitor" ];
      description = ''
        Roles whose rights this one gets: declared ones, or those that PostgreSQL brings along, whose names
        begin with `pg_`.
      '';
    };

    settings = parameters "the role";
  };
}
