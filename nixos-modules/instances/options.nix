# What a user declares of a PostgreSQL server, and the internal options of an instance that the other
# areas read and contribute to.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  blib = import ../lib.nix { inherit lib pkgs; };
  inherit (lib) mkOption types;

  cfg = config.modules.services.postgresql;

  documentation =
    page: parameter:
    "https://www.postgresql.org/docs/current/${page}.html#GUC-${
      lib.toUpper (builtins.replaceStrings [ "_" ] [ "-" ] parameter)
    }";

  versions = map toString (lib.range 13 18);

  settingValue =
    types.oneOf [
      types.bool
      types.int
      types.float
      types.str
    ]
    // {
      description = "boolean, number or string";
    };

  json =
    types.nullOr (
      types.oneOf [
        types.bool
        types.int
        types.float
        types.str
        (types.attrsOf json)
        (types.listOf json)
      ]
    )
    // {
      description = "JSON value";
    };

  # A path that PostgreSQL, systemd and systemd-tmpfiles take as it stands.
  absolutePath =
    types.addCheck (types.strMatching "(/[A-Za-z0-9_.:@+-]+)+") (
      path: !lib.any (part: part == "." || part == "..") (lib.splitString "/" path)
    )
    // {
      description = "absolute path of letters, digits and the characters _.:@+-, without a slash at the end";
    };

  # One field of a pg_hba.conf line. A quote or a line break would end it early.
  hbaField = types.strMatching "[^\"[:cntrl:]]+" // {
    description = "name without quotes or control characters";
  };

  hbaLine = types.submodule {
    options = {
      type = mkOption {
        type = types.enum [
          "local"
          "host"
          "hostssl"
          "hostnossl"
          "hostgssenc"
          "hostnogssenc"
        ];
        example = "hostssl";
        description = ''
          How the client connects: `local` is the Unix socket, the others are TCP.
        '';
      };
      databases = mkOption {
        type = types.nonEmptyListOf hbaField;
        default = [ "all" ];
        example = [ "app1" ];
        description = ''
          Databases that the line is for. `all` does not include `replication`.
        '';
      };
      users = mkOption {
        type = types.nonEmptyListOf hbaField;
        default = [ "all" ];
        example = [ "+readers" ];
        description = ''
          Roles that the line is for; `+name` means every member of the role.
        '';
      };
      address = mkOption {
        type = types.nullOr hbaField;
        default = null;
        example = "192.0.2.0/24";
        description = ''
          Addresses of the client, as a network, a host name, `samehost`, `samenet` or `all`. Needed by
          every type but `local`, which has none.
        '';
      };
      method = mkOption {
        type = types.enum [
          "scram-sha-256"
          "peer"
          "cert"
          "gss"
          "ident"
          "ldap"
          "pam"
          "radius"
          "reject"
        ];
        default = "scram-sha-256";
        example = "reject";
        description = ''
          How the client proves who it is. `trust`, `password` and `md5` are not offered: the first asks for
          no proof, the second sends the password as it is, and the third can be replayed by whoever
          reads the verifier.
        '';
      };
      options = mkOption {
        type = types.attrsOf hbaField;
        default = { };
        example = {
          map = "staff";
        };
        description = ''
          Options of the method.
        '';
      };
    };
  };

  instanceModule =
    { name, config, ... }:
    let
      # Shares of the budget. Half of it goes to queries: every connection may use workMem at
      # the same time, and a complex query more than once. Three autovacuum workers (PostgreSQL's
      # default) may each use maintenanceWorkMem. A tenth is left for the connections themselves.
      share =
        {
          perMille,
          divisor ? 1,
          least ? "64kB",
          most ? null,
        }:
        let
          bytes = blib.sizeBytes config.memoryBudget * perMille / 1000 / divisor;
          # Whole megabytes read better, and a megabyte more or less changes nothing.
          rounded = if bytes >= 8 * 1024 * 1024 then bytes / (1024 * 1024) * (1024 * 1024) else bytes;
          atLeast = lib.max rounded (blib.sizeBytes least);
        in
        blib.showSize (if most == null then atLeast else lib.min atLeast (blib.sizeBytes most));
      derived = fallback: shares: if config.memoryBudget == null then fallback else share shares;
    in
    {
      options = {
        enable = mkOption {
          type = types.bool;
          default = false;
          example = true;
          description = ''
            Whether to run this PostgreSQL instance, with its archive, its backups and its checks.

            Setting it back to `false` removes the units and settings. Data, archive and backups
            stay where they are.
          '';
        };

        version = mkOption {
          type = types.coercedTo types.int toString (types.enum versions);
          default = "16";
          example = "17";
          description = ''
            Major version of PostgreSQL, 13 to 18.

            Every version has a data directory of its own below the instance's, so changing the version
            starts no cluster of another version on old data. It does not bring the data along either:
            the instance does not start until the data has been upgraded or restored.
          '';
        };

        package = mkOption {
          type = types.package;
          default =
            let
              # nixpkgs removes a version some time after its end of life, and leaves a throw in its place.
              found = builtins.tryEval (pkgs."postgresql_${config.version}" or null);
            in
            if found.success && found.value != null then
              found.value
            else
              throw "modules.services.postgresql.instances.${name}.version: this nixpkgs has no PostgreSQL ${config.version}; use a later version, or set modules.services.postgresql.instances.${name}.package.";
          defaultText = lib.literalExpression "pkgs.\"postgresql_\${version}\"";
          example = lib.literalExpression "pkgs.postgresql_16_jit";
          description = ''
            PostgreSQL package, of the major version that `version` says. Server, backups and restores of
            the instance all use it.
          '';
        };

        port = mkOption {
          # 0 is a port to the type of NixOS, and none to PostgreSQL.
          type = types.ints.between 1 65535;
          default = 5432;
          example = 5433;
          description = ''
            TCP port, which also names the Unix socket. No other instance may have it.
          '';
        };

        listenAddresses = mkOption {
          type = types.coercedTo types.str (text: map lib.trim (lib.splitString "," text)) (
            types.listOf types.str
          );
          default = "localhost";
          example = [
            "localhost"
            "192.0.2.10"
          ];
          description = ''
            Addresses on which the server listens for TCP connections, as a list or as one string with
            commas. `*` means all of them, an empty list none.

            Who may connect is another question: see `authentication`. Beyond this host, the default
            lets nobody in.

            Sets [`listen_addresses`](${documentation "runtime-config-connection" "listen_addresses"}).
          '';
        };

        openFirewall = mkOption {
          type = types.bool;
          default = false;
          example = true;
          description = ''
            Whether to open the port in the firewall of the host.
          '';
        };

        maxConnections = mkOption {
          type = types.ints.between 1 262143;
          default = 100;
          example = 200;
          description = ''
            Largest number of connections at the same time.

            Each may use `workMem`, so raising this number raises what the instance can take.
            Changing it restarts the server.

            Sets [`max_connections`](${documentation "runtime-config-connection" "max_connections"}).
          '';
        };

        memoryBudget = mkOption {
          type = types.nullOr blib.types.size;
          default = null;
          example = "8GB";
          description = ''
            Memory that the instance may use, as a size such as `"8GB"`.

            Those of `sharedBuffers`, `effectiveCacheSize`, `workMem` and `maintenanceWorkMem` that are not set
            are derived from it: 25 %, 75 %, 50 % divided by `maxConnections`, and 5 % (at most 2GB). The
            ones that are set have to fit: `sharedBuffers`, `maxConnections` times `workMem` and three times
            `maintenanceWorkMem` together may not exceed it.

            It is a calculation and not a limit: nothing is killed that goes above it.
          '';
        };

        sharedBuffers = mkOption {
          type = blib.types.size;
          default = derived "256MB" {
            perMille = 250;
            least = "128kB";
          };
          defaultText = lib.literalMD "`\"256MB\"`, or a quarter of `memoryBudget`";
          example = "2GB";
          description = ''
            Memory for PostgreSQL's own cache. A quarter of the machine's memory is a usual choice; on ZFS,
            whose ARC caches the same data, more seldom helps. Changing it restarts the server.

            Sets [`shared_buffers`](${documentation "runtime-config-resource" "shared_buffers"}).
          '';
        };

        effectiveCacheSize = mkOption {
          type = blib.types.size;
          default = derived "1GB" { perMille = 750; };
          defaultText = lib.literalMD "`\"1GB\"`, or three quarters of `memoryBudget`";
          example = "6GB";
          description = ''
            What the planner assumes to be cached in all, by PostgreSQL and by the operating system. It
            takes no memory. Three quarters of the machine's memory is a usual choice.

            Sets [`effective_cache_size`](${documentation "runtime-config-query" "effective_cache_size"}).
          '';
        };

        workMem = mkOption {
          type = blib.types.size;
          default = derived "4MB" {
            perMille = 500;
            divisor = config.maxConnections;
          };
          defaultText = lib.literalMD "`\"4MB\"`, or half of `memoryBudget` divided by `maxConnections`";
          example = "64MB";
          description = ''
            Memory that one sort or hash may use before it writes to disk. Every connection may use it, and
            a complex query several times.

            Sets [`work_mem`](${documentation "runtime-config-resource" "work_mem"}).
          '';
        };

        maintenanceWorkMem = mkOption {
          type = blib.types.size;
          default = derived "64MB" {
            perMille = 50;
            least = "1MB";
            most = "2GB";
          };
          defaultText = lib.literalMD "`\"64MB\"`, or a twentieth of `memoryBudget`, at most `\"2GB\"`";
          example = "512MB";
          description = ''
            Memory that one VACUUM or CREATE INDEX may use. Up to three autovacuum workers use it at the same
            time.

            Sets [`maintenance_work_mem`](${documentation "runtime-config-resource" "maintenance_work_mem"}).
          '';
        };

        extensions = mkOption {
          type = types.listOf types.str;
          default = [ ];
          example = [
            "pg_cron"
            "vector"
          ];
          description = ''
            Names of extensions, as `CREATE EXTENSION` knows them, that the server has to be able to load.
            Those that come with PostgreSQL need no package, the others are taken from the package set of
            the instance's version; a library that has to be loaded at the start is added to
            `shared_preload_libraries`.

            It creates no extension in a database; `modules.services.postgresql.databases.<name>.extensions` does, and
            adds its names here.
          '';
        };

        extraPackages = mkOption {
          type = types.either (types.functionTo (types.listOf types.package)) (types.listOf types.package);
          default = [ ];
          example = lib.literalExpression "ps: [ ps.postgis ps.timescaledb ]";
          description = ''
            Further extension packages, as a function of the package set of the instance's version, or as a
            list. A package in the list is replaced by the one of the same name in the instance's own set,
            if it has one: an extension built for another major version cannot be loaded.
          '';
        };

        authentication = mkOption {
          type = types.coercedTo types.lines lib.singleton (
            types.listOf (
              types.either types.str hbaLine
              // {
                # So that the options of a typed line are documented and tested like all others.
                inherit (hbaLine) getSubOptions;
              }
            )
          );
          default = [ ];
          example = [
            {
              type = "hostssl";
              databases = [ "app1" ];
              users = [ "app1" ];
              address = "192.0.2.0/24";
            }
          ];
          description = ''
            Lines of `pg_hba.conf`, typed or as text; the first line that fits a connection decides.

            Before them stand the lines by which this module's own programs reach the server over
            the socket; after them, `peer` on the socket and `scram-sha-256` on loopback. Nobody else gets
            in until a line here says so. The methods `trust`, `password` and `md5` are refused.

            See [the manual](https://www.postgresql.org/docs/current/auth-pg-hba-conf.html).
          '';
        };

        identMap = mkOption {
          type = types.lines;
          default = "";
          example = "staff alice app1_admin";
          description = ''
            Lines of `pg_ident.conf`: map, operating system user, role. A line in `authentication` names the
            map with the option `map`. The map `backstay` is the module's own.

            See [the manual](https://www.postgresql.org/docs/current/auth-username-maps.html).
          '';
        };

        extraSettings = mkOption {
          type = types.attrsOf settingValue;
          default = { };
          example = {
            checkpoint_timeout = "30min";
            max_wal_size = "4GB";
          };
          description = ''
            Further lines of `postgresql.conf`, which win over the module's defaults. What the backups rest on
            (`fsync`, `archive_command` …) and what has an option of its own is refused here instead of
            being overridden without a word.

            A change of a setting that PostgreSQL reads only at its start restarts the server; every other
            change reloads it.
          '';
        };

        initdb = {
          dataChecksums = mkOption {
            type = types.bool;
            default = true;
            example = false;
            description = ''
              Whether a new cluster has checksums on its pages. Without them a page that a disk or a
              controller has damaged is noticed when it is read in vain, and travels into backups until then.

              It is used when the cluster is made, and never changes one that exists.
            '';
          };
          encoding = mkOption {
            type = types.strMatching "[A-Za-z0-9_]+" // {
              description = "name of a character set";
            };
            default = "UTF8";
            example = "SQL_ASCII";
            description = ''
              Character set of a new cluster.
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
            default = if lib.versionAtLeast config.version "17" then "builtin" else null;
            defaultText = lib.literalMD "`\"builtin\"` from PostgreSQL 17 on, else `null`";
            example = "icu";
            description = ''
              Where the sort order of text comes from. `icu` needs PostgreSQL 15, `builtin` PostgreSQL 17;
              `null` is `libc`, which older versions know alone.

              The order of `libc` may change when the system's C library does; indexes over text are wrong
              afterwards until they are rebuilt. The order of `builtin` does not change.
            '';
          };
          locale = mkOption {
            type = types.nullOr (
              types.strMatching "[A-Za-z0-9_.@-]+"
              // {
                description = "name of a locale";
              }
            );
            default = if config.initdb.localeProvider == "icu" then "und" else "C.UTF-8";
            defaultText = lib.literalMD "`\"C.UTF-8\"`, or `\"und\"` with the provider `icu`";
            example = "de-DE";
            description = ''
              Locale of a new cluster. `C.UTF-8` sorts by code point, which is fast and the same everywhere; a query
              can always ask for the order of a language with `COLLATE`. `und` is the order that ICU has for
              all languages together. `null` is `C`, without a meaning for letters beyond ASCII.
            '';
          };
          arguments = mkOption {
            type = types.listOf types.str;
            default = [ ];
            example = [ "--wal-segsize=64" ];
            description = ''
              Further arguments for initdb, each one element.

              See [the manual](https://www.postgresql.org/docs/current/app-initdb.html).
            '';
          };
        };

        user = mkOption {
          type = types.strMatching "[a-z_][a-z0-9_-]{0,30}" // {
            description = "name of a user";
          };
          default = "postgres";
          example = "postgres-dev";
          description = ''
            User that the server and its helpers run as; it is created. Instances of one user can read each
            other's data. Instances of different users cannot, and an instance whose user is not `postgres`
            has its socket in a directory of its own, `/run/postgresql-<instance>`.

            The superuser role of the cluster is `postgres` in any case.
          '';
        };

        group = mkOption {
          type = types.strMatching "[a-z_][a-z0-9_-]{0,30}" // {
            description = "name of a group";
          };
          default = config.user;
          defaultText = lib.literalExpression "user";
          example = "databases";
          description = ''
            Group that the server and its helpers run as; it is created.
          '';
        };

        tablespaces = mkOption {
          type = types.listOf absolutePath;
          default = [ ];
          example = [ "/srv/fast/postgresql-main" ];
          description = ''
            Directories outside the data directory that hold tablespaces. The server may write nowhere
            else, so `CREATE TABLESPACE` fails for a directory that is not listed here.

            A directory that is neither a declared file system nor a declared dataset is created.
            Snapshots of the data's dataset hold it only where it is on a dataset below that one.
          '';
        };

        integration.storage.enable = mkOption {
          type = types.bool;
          default = true;
          example = false;
          description = ''
            Whether data, archive and base backups of this instance get datasets of their own where
            `modules.storage.datasets` is on. Otherwise they are plain directories.
          '';
        };

        # Internal: what the other areas read.

        paths = mkOption {
          type = types.attrsOf types.str;
          readOnly = true;
          internal = true;
          default = {
            root = "/var/lib/postgresql/${name}";
            data = "/var/lib/postgresql/${name}/${config.version}";
            archive = config.backup.walArchive.directory;
            versionedData = "/var/lib/postgresql/${config.version}/${name}";
            versionedArchive = "/var/lib/postgresql/${config.version}/${name}-wal-archive";
            backups = config.backup.baseBackup.directory;
            socketDirectory =
              if config.user == "postgres" then "/run/postgresql" else "/run/postgresql-${name}";
            settingsFile = "/etc/backstay/${name}.json";
            state = "/var/lib/backstay/${name}";
            metrics = "/var/lib/node_exporter/textfile_collector";
          };
          description = ''
            Places of the instance; the names are those of `docs/reference`.
          '';
        };

        isDefault = mkOption {
          type = types.bool;
          readOnly = true;
          internal = true;
          default = cfg.defaultInstance == name;
          description = ''
            Whether this is the instance that answers to `postgresql.service`.
          '';
        };

        serverPackage = mkOption {
          type = types.package;
          readOnly = true;
          internal = true;
          default =
            if config.extensionPackages == [ ] then
              config.package
            else
              config.package.withPackages (_: config.extensionPackages);
          description = ''
            The package with its extensions: what runs, and what backups and restores use.
          '';
        };

        extensionPackages = mkOption {
          type = types.listOf types.package;
          internal = true;
          description = ''
            Extension packages that the server can load.
          '';
        };

        serverSettings = mkOption {
          type = types.attrsOf settingValue;
          default = { };
          internal = true;
          description = ''
            What becomes `postgresql.conf`. An area contributes with `mkDefault` what a user may change in
            `extraSettings`, and at normal priority what must hold; a user's value that differs from the
            latter is refused by an assertion.
          '';
        };

        programSettings = mkOption {
          type = types.attrsOf json;
          default = { };
          internal = true;
          description = ''
            What becomes the settings file of our programs. Null values are left out.
          '';
        };

        writablePaths = mkOption {
          type = types.listOf types.str;
          default = [ ];
          internal = true;
          description = ''
            What the server's sandbox may write beside data, archive, state and socket.
          '';
        };

        requiredMounts = mkOption {
          type = types.listOf types.str;
          default = [ ];
          internal = true;
          description = ''
            Mount points that have to be there before the server or any helper runs: those of the data, the
            archive and the tablespaces. The base backups' is not among them, since a missing backup disk
            must not keep the server down; see `backupMounts`.
          '';
        };

        isOnZfs = mkOption {
          type = types.bool;
          internal = true;
          description = ''
            Whether the data directory, with the WAL that the server writes, is on ZFS.
          '';
        };

        backupMounts = mkOption {
          type = types.listOf types.str;
          default = [ ];
          internal = true;
          description = ''
            Mount points that a program needs which reads or writes base backups, beside `requiredMounts`.
          '';
        };
      };
    };
in
{
  options.modules.services.postgresql = {
    instances = mkOption {
      type = types.attrsOf (types.submodule instanceModule);
      default = { };
      example = {
        main = {
          enable = true;
          databases = [ "app1" ];
        };
      };
      description = ''
        PostgreSQL instances, by name. A name is 1 to 32 lower-case letters, digits and inner hyphens, and
        stands in the names of units, datasets and directories.
      '';
    };

    defaultInstance = mkOption {
      type = types.nullOr types.str;
      default =
        let
          names = builtins.attrNames (blib.enabled cfg.instances);
        in
        if builtins.elem "main" names then
          "main"
        else if builtins.length names == 1 then
          builtins.head names
        else
          null;
      defaultText = lib.literalMD "`\"main\"` if there is such an instance, else the only instance, else `null`";
      example = "analytics";
      description = ''
        The instance that answers to `postgresql.service` and `postgresql.target`, whose programs are in the
        system's path, and that declared databases belong to unless they name another.
      '';
    };

    memoryBudget = mkOption {
      type = types.nullOr blib.types.size;
      default = null;
      example = "64GB";
      description = ''
        Memory that all instances together may use, as a size such as `"64GB"`. If their budgets add up to more,
        the configuration is refused. An instance without a `memoryBudget` of its own counts with
        `sharedBuffers`, `maxConnections` times `workMem` and three times `maintenanceWorkMem`.
      '';
    };
  };
}
