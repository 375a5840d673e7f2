# What a user declares of a database, wherever it is declared.
{ lib, blib }:
let
  inherit (lib) mkOption types;
  role = import ./role.nix { inherit lib blib; };
  names = import ./names.nix { inherit lib; };
  intervalOf = import ../backup/interval.nix { inherit lib; };

  # A literal path is a file of the configuration. A string is SQL, unless it is the path of a file on
  # the host: no SQL begins with a slash, except for a comment.
  sql = types.either types.path types.lines // {
    description = "SQL, or the path of a file with it";
  };

  name = types.strMatching "[^[:cntrl:]]+" // {
    description = "name without control characters";
  };

  # Which words fit is checked by an assertion, which can say where another word belongs.
  privileges = types.listOf types.str // {
    description = "list of privileges";
  };
  byRole = types.attrsOf privileges // {
    description = "privileges by role";
  };
  byObject = types.attrsOf byRole // {
    description = "privileges by object and role";
  };

  extension = types.submodule {
    options = {
      name = mkOption {
        type = types.str;
        example = "pg_trgm";
        description = ''
          Name of the extension, as `CREATE EXTENSION` knows it.
        '';
      };
      schema = mkOption {
        type = types.nullOr name;
        default = null;
        example = "extensions";
        description = ''
          Schema for the extension's objects, which is created when it is missing. `null` is `public`, or the
          one that the extension insists on.
        '';
      };
      version = mkOption {
        type = types.nullOr types.str;
        default = null;
        example = "1.6";
        description = ''
          Version to have. With `null` a new extension gets the version that the server prefers, and one that is
          there stays as it is.
        '';
      };
      updateToLatest = mkOption {
        type = types.bool;
        default = false;
        example = true;
        description = ''
          Whether to update the extension whenever the server prefers a newer version than the one there is.
        '';
      };
    };
  };

  defaultPrivileges = types.submodule {
    options = {
      owner = mkOption {
        type = types.nullOr types.str;
        default = null;
        example = "importer";
        description = ''
          The role whose objects are meant; `null` is the owner of the database.
        '';
      };
      schema = mkOption {
        type = types.nullOr name;
        default = "public";
        example = "reports";
        description = ''
          The schema that the objects are in; `null` is any.
        '';
      };
      tables = mkOption {
        type = byRole;
        default = { };
        example = {
          grafana = [ "SELECT" ];
        };
        description = ''
          Privileges on tables and views.
        '';
      };
      sequences = mkOption {
        type = byRole;
        default = { };
        example = {
          grafana = [ "SELECT" ];
        };
        description = ''
          Privileges on sequences.
        '';
      };
      functions = mkOption {
        type = byRole;
        default = { };
        example = {
          grafana = [ "EXECUTE" ];
        };
        description = ''
          Privileges on functions and procedures.
        '';
      };
    };
  };

  schemaMigrations = types.submodule {
    options = {
      schema = mkOption {
        type = name;
        default = "public";
        example = "app";
        description = ''
          Schema of the table.
        '';
      };
      table = mkOption {
        type = name;
        default = "schema_migrations";
        example = "migrations";
        description = ''
          Name of the table.
        '';
      };
      column = mkOption {
        type = name;
        default = "version";
        example = "id";
        description = ''
          The column that holds the version.
        '';
      };
      columnType = mkOption {
        type = types.enum [
          "text"
          "varchar"
          "integer"
          "bigint"
        ];
        default = "text";
        example = "bigint";
        description = ''
          Type of the column where the table has to be made; `varchar` is `varchar(255)`.
        '';
      };
      ensureTable = mkOption {
        type = types.bool;
        default = false;
        example = true;
        description = ''
          Whether to make the table when it is missing. Otherwise nothing is done until the application has
          made it.
        '';
      };
      insertedAtColumn = mkOption {
        type = types.nullOr name;
        default = null;
        example = "inserted_at";
        description = ''
          A column that gets the time at which a row is added; `null` is none.
        '';
      };
      pruneUnknown = mkOption {
        type = types.bool;
        default = false;
        example = true;
        description = ''
          Whether to delete rows that are not among the entries.
        '';
      };
      entries = mkOption {
        type = types.listOf (types.coercedTo types.int toString types.str);
        default = [ ];
        example = [ "20260101000000" ];
        description = ''
          Versions that have to be in the table.
        '';
      };
    };
  };
in
{
  # Turns the legacy list of names into the attribute set. `listed` keeps how often each was named.
  fromList = names: lib.mapAttrs (_: same: { listed = same; }) (lib.groupBy lib.id names);

  # The options of database `name`, whose declaration is `config`, in `instance`, which may be null.
  options =
    {
      defaultInstance,
      instance,
      name,
      config,
    }:
    {
      managed = mkOption {
        type = types.bool;
        default = true;
        example = false;
        description = ''
          Whether the database is brought to what is declared. One that is not managed is left as it is:
          nothing in it is changed, and nothing that was granted in it is revoked.
        '';
      };

      owner = mkOption {
        type = types.nullOr types.str;
        default = null;
        example = "immich";
        description = ''
          The role that owns the database and may do everything in it. It is created with the right to log in;
          `null` is the superuser `postgres`.
        '';
      };

      ownerPasswordFile = mkOption {
        type = types.nullOr blib.types.externalPath;
        default = null;
        example = "/run/secrets/immich/db_password";
        description = ''
          File with the password of the owner, as a string. It is handed over by systemd, so root alone has to be
          able to read it. One newline at its end is not part of the password.

          Without a file a new owner has no password: over the socket it is open to the system user of
          its name, and over the network to nobody.
        '';
      };

      extensions = mkOption {
        type = types.listOf (types.coercedTo types.str (name: { inherit name; }) extension);
        default = [ ];
        example = [
          "pg_trgm"
          {
            name = "vector";
            updateToLatest = true;
          }
        ];
        description = ''
          Extensions to create, by name or with more to say about them. What an extension requires is created
          too, as `cube` is for `earthdistance`; the package of one that does not come with PostgreSQL is added to
          the instance.

          pgvector calls its extension `vector`. Where `vectors` is declared and the server does not offer
          it, `vector` is created. An extension that is no longer declared stays: the data may need it.
        '';
      };

      permissions = mkOption {
        type = byRole;
        default = { };
        example = {
          immich = [ "ALL" ];
          backup = [ "SELECT" ];
        };
        description = ''
          What roles may do in the whole database, with everything that is there and everything that the owner
          creates later. A role that nothing else declares is created; it may log in, and has no password.

          `SELECT`, `INSERT`, `UPDATE`, `DELETE`, `TRUNCATE`, `REFERENCES`, `TRIGGER` and `MAINTAIN` are for tables
          and views, and for sequences as far as they fit; they bring along the right to connect and to look
          into the schemas. `EXECUTE` is for functions, `CREATE` for making schemas, `TEMP` for temporary
          tables, `CONNECT` for connecting, `USAGE` for schemas, and `ALL` for all of these and for making
          tables.

          The list is everything that the role may do: what it has beyond it is revoked. Of the more special
          options below, the one that is closest to an object decides.
        '';
      };

      permissionsPolicy = mkOption {
        type = types.enum [
          "custom"
          "owner-only"
          "owner-readwrite+readonly-select"
        ];
        default = "custom";
        example = "owner-readwrite+readonly-select";
        description = ''
          A whole set of permissions by one word. With `owner-only` the owner may do everything, with
          `owner-readwrite+readonly-select` the role `readonlyRole` may also read; `custom` is only what the other
          options say.
        '';
      };

      readonlyRole = mkOption {
        type = types.str;
        default = "${name}_readonly";
        defaultText = lib.literalExpression ''"<name>_readonly"'';
        example = "readers";
        description = ''
          The role that may read with the policy `owner-readwrite+readonly-select`. It cannot log in; grant it to
          roles that can. Roles belong to the whole instance, so one that several databases share reads all
          of them.
        '';
      };

      revokePublic = mkOption {
        type = types.bool;
        default = config.owner != null;
        defaultText = lib.literalMD "`true` where there is an `owner`";
        example = false;
        description = ''
          Whether to take from `PUBLIC` what every role has by default: to connect to the database, to make
          temporary tables, and, before PostgreSQL 15, to make tables in the schema `public`.
        '';
      };

      databasePermissions = mkOption {
        type = byRole;
        default = { };
        example = {
          grafana = [ "CONNECT" ];
        };
        description = ''
          Privileges on the database itself, by role: `ALL`, `CONNECT`, `CREATE`, `TEMP`. An empty list revokes
          them all. For a role that is named here, it takes the place of what `permissions` says about the
          database itself.
        '';
      };

      schemaPermissions = mkOption {
        type = byObject;
        default = { };
        example = {
          reports.grafana = [ "USAGE" ];
        };
        description = ''
          Privileges on schemas, by schema and role: `ALL`, `USAGE`, `CREATE`. An empty list revokes them all.
        '';
      };

      tablePermissions = mkOption {
        type = byObject;
        default = { };
        example = {
          "public.*".grafana = [ "SELECT" ];
          "public.secrets".grafana = [ ];
        };
        description = ''
          Privileges on tables, views and sequences, by object and role: `ALL`, `SELECT`, `INSERT`, `UPDATE`, `DELETE`,
          `TRUNCATE`, `REFERENCES`, `TRIGGER`, `MAINTAIN`, and `USAGE` of sequences. An empty list revokes them all.

          An object is `schema.name`, `schema.*` or `*.*`, where a part with a dot or a star in it stands in double
          quotes. Names are meant as they are, capital letters included. Of several that fit an
          object, the closest decides. Those with a star also hold for what the owner creates later.
        '';
      };

      functionPermissions = mkOption {
        type = byObject;
        default = { };
        example = {
          "public.*".grafana = [ "EXECUTE" ];
        };
        description = ''
          Privileges on functions and procedures, by object and role: `ALL`, `EXECUTE`. An object is named as in
          `tablePermissions`; `schema.name` means all functions of this name.

          PostgreSQL lets everybody execute a new function. That right of `PUBLIC` is not touched.
        '';
      };

      defaultPrivileges = mkOption {
        type = types.attrsOf defaultPrivileges;
        default = { };
        example = {
          imports = {
            owner = "importer";
            tables.grafana = [ "SELECT" ];
          };
        };
        description = ''
          Privileges on everything that one role creates, by a name of your own: what is there already, and, as
          in `ALTER DEFAULT PRIVILEGES`, what comes later.
        '';
      };

      additionalRoles = mkOption {
        type = types.attrsOf (types.submodule { inherit (role) options; });
        default = { };
        example = {
          grafana.passwordFile = "/run/secrets/grafana/db_password";
        };
        description = ''
          Further roles, or more to say about a role that is named above. A role belongs to the whole instance:
          if several databases declare it, they have to say the same.
        '';
      };

      encoding = mkOption {
        type = types.nullOr (types.strMatching "[A-Za-z0-9_]+");
        default = null;
        example = "SQL_ASCII";
        description = ''
          Character set of the database; `null` is that of its template. Like the four options after it, it
          cannot be changed once the database is there: a difference fails the unit and changes nothing.
        '';
      };

      localeProvider = mkOption {
        type = types.nullOr (
          types.enum [
            "libc"
            "icu"
            "builtin"
          ]
        );
        default = null;
        example = "icu";
        description = ''
          Where the sort order of text comes from; `null` is as in the template. `icu` needs PostgreSQL 15,
          `builtin` PostgreSQL 17.
        '';
      };

      locale = mkOption {
        type = types.nullOr types.str;
        default = null;
        example = "de-DE";
        description = ''
          Locale of the provider `icu` or `builtin`.
        '';
      };

      collation = mkOption {
        type = types.nullOr types.str;
        default = null;
        example = "de_DE.UTF-8";
        description = ''
          Sort order by the operating system (`LC_COLLATE`); `null` is that of the template.
        '';
      };

      lcCtype = mkOption {
        type = types.nullOr types.str;
        default = null;
        example = "de_DE.UTF-8";
        description = ''
          Classes of characters by the operating system (`LC_CTYPE`); `null` is that of the template.
        '';
      };

      template = mkOption {
        type = types.nullOr types.str;
        default = null;
        example = "template0";
        description = ''
          Database that a new one is a copy of; `null` is `template1`, or `template0` where encoding or locale are
          declared. A declared database that is a template is brought about first. Nobody may be
          connected to it while it is copied.
        '';
      };

      tablespace = mkOption {
        type = types.nullOr types.str;
        default = null;
        example = "fast";
        description = ''
          Tablespace of a new database, which has to be there; `null` is that of the template.
        '';
      };

      isTemplate = mkOption {
        type = types.bool;
        default = false;
        example = true;
        description = ''
          Whether every role with the right to create databases may copy this one.
        '';
      };

      connectionLimit = mkOption {
        type = types.nullOr (types.ints.between 0 262143);
        default = null;
        example = 50;
        description = ''
          How many connections the database takes at the same time. `null` is no limit but the instance's own.
        '';
      };

      settings = role.parameters "the database";

      customSql = {
        preCreate = mkOption {
          type = types.listOf sql;
          default = [ ];
          example = [ "CREATE ROLE legacy NOLOGIN;" ];
          description = ''
            SQL that the superuser runs in the database `postgres` before this one is created.

            All SQL of `customSql` is run with `search_path = pg_catalog`, so names have to be written with
            their schema. It becomes part of the Nix store, which everybody can read. A string that begins with
            a slash is the path of a file on the host.
          '';
        };
        postCreate = mkOption {
          type = types.listOf sql;
          default = [ ];
          example = [ "CREATE SCHEMA reports;" ];
          description = ''
            SQL that the superuser runs in the database once, after it was created.
          '';
        };
        preConfig = mkOption {
          type = types.listOf sql;
          default = [ ];
          example = [ "CREATE SCHEMA IF NOT EXISTS reports;" ];
          description = ''
            SQL that the superuser runs in the database before extensions and permissions are brought about,
            whenever the declaration of the database has changed. It has to be able to run again.
          '';
        };
        postConfig = mkOption {
          type = types.listOf sql;
          default = [ ];
          example = [ "ANALYZE;" ];
          description = ''
            SQL that the superuser runs in the database after that.
          '';
        };
      };

      initScripts = mkOption {
        type = types.listOf sql;
        default = [ ];
        example = [ "CREATE TABLE notes (id bigserial PRIMARY KEY, note text);" ];
        description = ''
          SQL that the owner runs in the database, in this order, each once for each content, in a transaction
          of its own. A literal path is a file of your configuration, a string that begins with a slash the
          path of a file on the host, and any other string is SQL.

          It runs in a session of the owner, so it can do what the owner can do and no more. It becomes part of
          the Nix store, which everybody can read.
        '';
      };

      migrations = mkOption {
        type = types.nullOr types.path;
        default = null;
        example = "/srv/app/migrations";
        description = ''
          Directory with SQL files that the owner runs in the order of their names, each once and in a transaction of
          its own. Their checksums are recorded in the database: a file that was changed or removed after
          it ran is refused, and so is a new one that sorts before the last one that ran.

          A literal path is a directory of your configuration, a string the path of one on the host.
        '';
      };

      schemaMigrations = mkOption {
        type = types.nullOr schemaMigrations;
        default = null;
        example = {
          entries = [ "20260101000000" ];
        };
        description = ''
          Rows of the application's own table of migrations, for an application that is told by them which of its
          migrations not to run.
        '';
      };

      dump = {
        enable = mkOption {
          type = types.bool;
          default = false;
          example = true;
          description = ''
            Whether to dump this database by itself, with pg_dump in its custom format. Each dump is checked with
            `pg_restore --list` before it counts.

            Base backups and the archive restore all databases of an instance together; a dump restores this
            one alone, to the state that it had when the dump was taken.
          '';
        };
        schedule = mkOption {
          type = blib.types.calendar;
          default = "daily";
          example = "*-*-* 00/6:00:00";
          description = ''
            When dumps are taken.
          '';
        };
        maxAgeSeconds = mkOption {
          type = types.nullOr types.ints.positive;
          default =
            let
              interval = intervalOf config.dump.schedule;
            in
            if interval == null then null else interval + 6 * 60 * 60;
          defaultText = lib.literalMD "the time between two runs of `schedule` and 6 hours more, or `null` where that is not known";
          example = 172800;
          description = ''
            How old the newest good dump may get, in seconds, before an alert says so. `null` does not check
            it.
          '';
        };
        directory = mkOption {
          type = types.strMatching "/[^[:cntrl:]]*[^/[:cntrl:]]" // {
            description = "absolute path, without a slash at the end";
          };
          default = "/var/backup/postgresql/${toString instance}-dumps/${names.inPath name}";
          defaultText = lib.literalExpression ''"/var/backup/postgresql/<instance>-dumps/<name>"'';
          example = "/srv/dumps/immich";
          description = ''
            Directory of the dumps, apart from data, archive and base backups.
          '';
        };
        retention = {
          daily = mkOption {
            type = types.ints.between 0 36500;
            default = 7;
            example = 14;
            description = ''
              For how many days the newest dump of the day is kept. The newest dump of all is never removed.
            '';
          };
          weekly = mkOption {
            type = types.ints.between 0 36500;
            default = 4;
            example = 8;
            description = ''
              For how many ISO weeks the newest dump of the week is kept.
            '';
          };
          monthly = mkOption {
            type = types.ints.between 0 36500;
            default = 3;
            example = 12;
            description = ''
              For how many months the newest dump of the month is kept.
            '';
          };
        };
        restic.enable = mkOption {
          type = types.bool;
          default = true;
          example = false;
          description = ''
            Whether the dumps are copied off-site with the instance's backups, where those are.
          '';
        };
      };

      listed = mkOption {
        type = types.listOf types.str;
        default = [ ];
        internal = true;
        description = ''
          The name, as often as a list of databases holds it.
        '';
      };

      unit = mkOption {
        type = types.str;
        readOnly = true;
        default = "${(names.units defaultInstance).database instance name}.service";
        defaultText = lib.literalExpression ''"postgresql-database-<name>.service"'';
        description = ''
          The unit that is started once the database has been brought to its declared state. A service
          that needs the database requires it and is ordered after it.
        '';
      };
    };
}
