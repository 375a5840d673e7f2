# The Nix snippets of the guides that this project began with, as they stand, and what they have to mean.
#
# Stubbed: what the guides take from elsewhere (`sops.secrets`, `primaryRepo`, containers, a package that nixpkgs does not have).
# Left out: lines of Nix that show how the guides' own modules are made and configure nothing, and the configuration files of
# other tools. The snippets for NixOS' own `services.postgresql` and for other backup tools are here because they have to go on
# evaluating beside our modules; they configure those tools and nothing of ours.
{ lib, evalHost, ... }:
let
  primaryRepo = {
    name = "nas-primary";
    url = "/mnt/nas-backup";
    passwordFile = "/run/secrets/restic/password";
  };
  secondaryRepo = {
    name = "r2-offsite";
    url = "s3:https://s3.example.org/forge";
    passwordFile = "/run/secrets/restic/offsite-password";
  };

  # What the guides expect to be there: a pool, the repositories, secrets.
  surroundings = {
    options.sops.secrets = lib.mkOption {
      type = lib.types.attrsOf (
        lib.types.submodule (
          { name, ... }:
          {
            freeformType = lib.types.attrsOf lib.types.anything;
            options.path = lib.mkOption {
              type = lib.types.str;
              default = "/run/secrets/${name}";
            };
          }
        )
      );
      default = { };
    };
    options.virtualisation.oci-containers.containers = lib.mkOption {
      type = lib.types.attrsOf lib.types.anything;
      default = { };
    };
    config = {
      networking.hostName = "forge";
      networking.hostId = "8425e349";
      modules.storage.datasets = {
        enable = true;
        parentDataset = "tank/services";
      };
      modules.backup.restic.repositories = lib.mapAttrs' (
        _: repository: lib.nameValuePair repository.name (removeAttrs repository [ "name" ])
      ) { inherit primaryRepo secondaryRepo; };
    };
  };

  host = snippets: evalHost ([ surroundings ] ++ snippets);

  # Values of a directive of a unit, in order.
  directive =
    evaluated: unit: name:
    map (lib.removePrefix "${name}=") (
      lib.filter (lib.hasPrefix "${name}=") (lib.splitString "\n" evaluated.units.${unit})
    );

  # A setting of postgresql.conf, without its quotes.
  setting =
    evaluated: instance: name:
    let
      found = lib.filter (line: lib.hasPrefix "${name} = " line) (
        lib.splitString "\n" evaluated.files."/etc/postgresql/${instance}/postgresql.conf"
      );
      value = lib.removePrefix "${name} = " (lib.last found);
    in
    if found == [ ] then null else lib.removePrefix "'" (lib.removeSuffix "'" value);

  problems = evaluated: evaluated.failedAssertions ++ evaluated.warnings;

  basic = {
    modules.services.postgresql.instances.main = {
      enable = true;
      version = "16";  # PostgreSQL 16 (default)
      port = 5432;

      # Memory tuning (adjust based on available RAM)
      sharedBuffers = "2GB";           # 25% of RAM
      effectiveCacheSize = "6GB";      # 75% of RAM
      workMem = "64MB";                # For complex queries
      maintenanceWorkMem = "512MB";    # For VACUUM, CREATE INDEX

      # Create initial databases
      databases = [ "app1" "app2" ];

      # Backup configuration
      backup = {
        walArchive.enable = true;
        walArchive.syncInterval = "*/5";    # 5-minute RPO
        walArchive.retentionDays = 30;

        baseBackup.enable = true;
        baseBackup.schedule = "daily";      # Daily full backups

        restic = {
          enable = true;
          repositoryName = primaryRepo.name;
          repositoryUrl = primaryRepo.url;
          passwordFile = primaryRepo.passwordFile;
        };
      };

      # Health checks
      healthCheck.enable = true;
      healthCheck.interval = "1min";

      # Monitoring integration
      monitoring.enable = true;
    };
  };

  # "… existing config …" of the guide is `basic`.
  rebuild =
    { config, ... }:
    {
      modules.services.postgresql.instances.main = {
        # ... existing config ...

        preseed = {
          enable = true;  # Enable self-healing restore
          restoreMethods = [ "syncoid" "local" "restic" ];

          # Restic config for disaster recovery
          repositoryUrl = primaryRepo.url;
          passwordFile = primaryRepo.passwordFile;
          environmentFile = config.sops.secrets."restic/env".path;
        };
      };

      sops.secrets."restic/env" = { };
    };

  several = {
    modules.services.postgresql.instances = {
      # Production instance
      main = {
        enable = true;
        version = "16";
        port = 5432;
        databases = [ "app1" "app2" ];

        sharedBuffers = "4GB";
        effectiveCacheSize = "12GB";

        backup = {
          enable = true;
          restic.repositoryName = primaryRepo.name;
          walArchive.enable = true;
          baseBackup.enable = true;
        };

        preseed.enable = false;  # Safety first
        healthCheck.enable = true;
        monitoring.enable = true;
      };

      # Development instance
      dev = {
        enable = true;
        version = "15";  # Different version OK
        port = 5433;     # MUST be unique per instance
        databases = [ "dev_db" "test_db" ];

        sharedBuffers = "1GB";   # Lower resources
        effectiveCacheSize = "3GB";

        backup = {
          enable = true;
          restic.repositoryName = primaryRepo.name;
          walArchive = {
            enable = true;
            syncInterval = "*/15";  # Less frequent OK for dev
            retentionDays = 7;      # Shorter retention
          };
          baseBackup = {
            enable = true;
            schedule = "daily";
          };
        };

        preseed.enable = false;
        healthCheck.enable = true;
      };

      # Analytics instance
      analytics = {
        enable = true;
        version = "16";
        port = 5434;     # MUST be unique
        databases = [ "warehouse" "metrics" ];

        sharedBuffers = "8GB";   # Higher for analytics workload
        effectiveCacheSize = "24GB";
        workMem = "256MB";       # Larger for complex queries

        backup = {
          enable = true;
          restic.repositoryName = secondaryRepo.name;  # Different repo OK
          walArchive.enable = true;
          baseBackup.schedule = "daily";
        };

        preseed.enable = false;
        healthCheck.enable = true;
      };
    };
  };

  connections = {
    # Increase max_connections in configuration
    modules.services.postgresql.instances.main = {
      maxConnections = 200;  # Increase from default 100
    };
  };

  checkpoints = {
    modules.services.postgresql.instances.main = {
      extraSettings = {
        checkpoint_timeout = "30min";  # Increase from 15min
        max_wal_size = "4GB";          # Increase from 2GB
      };
    };
  };

  allInOne = {
    modules.services.postgresql.instances.main = {
      databases = [ "app1" "app2" "app3" ];  # All in one instance
    };
  };

  dispatcharr =
    { config, ... }:
    {
      # In your service module (e.g., modules/nixos/services/dispatcharr/default.nix)
      modules.services.postgresql.databases = {
        dispatcharr = {
          owner = "dispatcharr";
          ownerPasswordFile = config.sops.secrets."dispatcharr/db_password".path;
          extensions = [ "uuid-ossp" "pg_trgm" ];
          permissions = {
            dispatcharr = [ "ALL" ];
            readonly = [ "SELECT" ];
          };
        };
      };

      # Define the SOPS secret
      sops.secrets."dispatcharr/db_password" = {
        sopsFile = ./secrets.sops.yaml;
        mode = "0400";
        owner = "postgres";
      };
    };

  # modules/nixos/services/immich/default.nix
  immich =
    { config, lib, pkgs, ... }:
    let
      cfg = config.modules.services.immich;
    in {
      options.modules.services.immich = {
        enable = lib.mkEnableOption "Immich photo management";
      };

      config = lib.mkIf cfg.enable {
        # Declare database needs
        modules.services.postgresql.databases = {
          immich = {
            owner = "immich";
            ownerPasswordFile = config.sops.secrets."immich/db_password".path;
            extensions = [
              "vectors"      # pgvector for AI embeddings
              "earthdistance"
              "pg_trgm"
            ];
            permissions = {
              immich = [ "ALL" ];
              backup = [ "SELECT" ];  # Read-only backup user
            };
          };
        };

        # Define SOPS secret
        sops.secrets."immich/db_password" = {
          sopsFile = ./secrets.sops.yaml;
          mode = "0400";
          owner = "postgres";
        };

        # Service reads password from its own secret
        sops.secrets."immich/app_db_password" = {
          sopsFile = ./secrets.sops.yaml;
          mode = "0400";
          owner = "immich";
        };

        # Service container configuration
        virtualisation.oci-containers.containers.immich = {
          image = "ghcr.io/immich-app/immich-server:release";
          environment = {
            DB_HOSTNAME = "localhost";
            DB_DATABASE_NAME = "immich";
            DB_USERNAME = "immich";
            DB_PASSWORD_FILE = config.sops.secrets."immich/app_db_password".path;
          };
          # ...
        };
      };
    };

  # The guide writes <name> here.
  availableOptions = {
    modules.services.postgresql.databases.myapp = {
      # Required: Database owner role
      owner = "myapp";

      # Required: Path to file containing owner password
      # MUST be readable by postgres user, use SOPS with owner = "postgres"
      ownerPasswordFile = "/run/secrets/myapp_db_password";

      # Optional: PostgreSQL extensions to enable
      extensions = [ "uuid-ossp" "pg_trgm" "hstore" ];

      # Optional: Role → Privileges mapping
      # Creates roles if they don't exist, grants specified privileges
      permissions = {
        myapp = [ "ALL" ];           # Full access for app
        readonly = [ "SELECT" ];      # Read-only for monitoring
        backup = [ "SELECT" ];        # Read-only for backups
      };
    };
  };

  extensionPackages =
    { pkgs, ... }:
    {
      modules.services.postgresql.instances.main = {
        extraPackages = with pkgs.postgresql_15.pkgs; [
          postgis
          timescaledb
          pg_vectors  # For pgvector
        ];
      };
    };

  # nixpkgs has no extension of that name; pgvector is called so.
  withPgVectors = {
    nixpkgs.overlays = [
      (_: previous: {
        postgresql_15 = previous.postgresql_15 // {
          pkgs = previous.postgresql_15.pkgs // {
            pg_vectors = previous.postgresql_15.pkgs.pgvector;
          };
        };
      })
    ];
  };

  multiService =
    { config, ... }:
    {
      # Configuration that provisions databases for multiple services
      modules.services.postgresql = {
        instances.main = {
          enable = true;
          version = "15";
          maxConnections = 200;
          backup.enable = true;
        };

        # Service databases declared here or in service modules
        databases = {
          immich = {
            owner = "immich";
            ownerPasswordFile = config.sops.secrets."immich/db_password".path;
            extensions = [ "vectors" "earthdistance" ];
            permissions.immich = [ "ALL" ];
          };

          grafana = {
            owner = "grafana";
            ownerPasswordFile = config.sops.secrets."grafana/db_password".path;
            extensions = [ "uuid-ossp" ];
            permissions.grafana = [ "ALL" ];
          };

          nextcloud = {
            owner = "nextcloud";
            ownerPasswordFile = config.sops.secrets."nextcloud/db_password".path;
            permissions = {
              nextcloud = [ "ALL" ];
              readonly = [ "SELECT" ];
            };
          };
        };
      };

      sops.secrets = lib.genAttrs [
        "immich/db_password"
        "grafana/db_password"
        "nextcloud/db_password"
      ] (_: { });
    };

  schedules = {
    modules.services.postgresql.instances.main = {
      backup.baseBackup.schedule = "02:00";  # Daily at 2 AM
      backup.walArchive.syncInterval = "*/15";  # Every 15 minutes for lower RPO
    };
  };

  replication = {
    # On primary (forge)
    modules.services.postgresql.instances.main = {
      # ... standard config ...

      extraSettings = {
        wal_level = "replica";
        max_wal_senders = 3;
        wal_keep_size = "1GB";
      };
    };
  };

  keep = {
    modules.backup.restic.jobs."postgresql-main-base" = {
      keep = {
        daily = 7;
        weekly = 4;
        monthly = 12;
        yearly = 3;
      };
    };
  };

  # From the guide to pgBackRest: settings of NixOS' own server …
  pgbackrestSettings =
    { pkgs, ... }:
    {
      services.postgresql.settings = {
        archive_mode = "on";
        archive_command = "${pkgs.pgbackrest}/bin/pgbackrest --stanza=main archive-push %p";
        archive_timeout = "300"; # 5-minute RPO
      };
    };

  # … and snapshots with sanoid.
  snapshots = {
    services.sanoid.datasets."tank/services/postgresql/main" = {
      use_template = [ "prod" ];
      recursive = false;
    };

    services.sanoid.datasets."tank/services/postgresql/main-wal" = {
      use_template = [ "wal-frequent" ]; # 12x5min, 48h hourly, 7d daily
      recursive = false;
    };
  };

  # From the text about WAL-G.
  walg =
    { pkgs, ... }:
    {
      # walg-backup-push will do a full backup and clean unnessary wal files from the backup
      systemd.services."walg-backup-push" = {
        script = ''
        set -eu
        export AWS_ENDPOINT=
        export WALG_S3_PREFIX=s3://<bucket_name>/<custom_suffix>
        export AWS_ACCESS_KEY_ID=<agenix+cat>
        export AWS_SECRET_ACCESS_KEY=<agenix+cat>
        export PGPASSWORD=<agenix>

          ${pkgs.wal-g}/bin/wal-g backup-push $WALG_PGDATA && ${pkgs.wal-g}/bin/wal-g delete garbage
        '';
        serviceConfig = {
          Type = "oneshot";
          User = "root";
        };
        environment = {
          WALG_PGDATA = "/var/lib/postgres/data";
          PGHOST = "localhost";
          PGPORT = "5432";
          PGUSER = "postgres";
        };
      };
      systemd.timers."walg-backup-push" = {
        wantedBy = [ "timers.target" ];
        timerConfig = {
          OnCalendar = "weekly"; # my db updates non-frequently, OK with 1 week worth of WAL
          Persistent = true;
          Unit = "walg-backup-push.service";
        };
      };
    };

  # What the guide's text says of replication, where its snippets leave it to other files.
  replicated = {
    modules.backup.sanoid.datasets =
      lib.mapAttrs'
        (
          name: _:
          lib.nameValuePair "tank/services/postgresql/${name}" {
            replication = {
              targetHost = "nas-1.example.org";
              targetDataset = "backup/forge/services/postgresql/${name}";
              hostKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGJhY2tzdGF5L2V4YW1wbGUvbm90LWEtcmVhbC1r";
            };
          }
        )
        {
          main = { };
          main-wal = { };
        };
  };

  # The template that the guide to pgBackRest takes for granted; it says "24h/7d/4w" of the same snapshots elsewhere.
  prodTemplate = {
    services.sanoid.templates.prod = {
      hourly = 24;
      daily = 7;
      weekly = 4;
    };
  };

  settingsOf = evaluated: instance: builtins.fromJSON evaluated.files."/etc/backstay/${instance}.json";

  first = host [ basic ];
  three = host [ several ];
  rebuilt = host [
    basic
    rebuild
    replicated
  ];
  services = host [ multiService ];
  withDispatcharr = host [
    basic
    dispatcharr
  ];
  withImmich = host [
    basic
    immich
    { modules.services.immich.enable = true; }
  ];
  declared = evaluated: (settingsOf evaluated "main").databases.declared;
  extensionNames = database: map (extension: extension.name) database.extensions;
in
{
  "test the first instance of the guide deploys without a complaint" = {
    expr = problems first;
    expected = [ ];
  };

  "test its server is PostgreSQL 16 on port 5432 with the memory that was asked for" = {
    expr = {
      program = directive first "postgresql-main.service" "ExecStart";
      settings = lib.genAttrs [
        "port"
        "shared_buffers"
        "effective_cache_size"
        "work_mem"
        "maintenance_work_mem"
      ] (setting first "main");
    };
    expected = {
      program = [ "/usr/lib/postgresql/16/bin/postgres -D /var/lib/postgresql/main/16" ];
      settings = {
        port = "5432";
        shared_buffers = "2GB";
        effective_cache_size = "6GB";
        work_mem = "64MB";
        maintenance_work_mem = "512MB";
      };
    };
  };

  "test it is the postgresql.service that the guide's commands name" = {
    expr = first.links."/etc/systemd/system/postgresql.service";
    expected = "postgresql-main.service";
  };

  "test the timers that the guide lists are there and elapse when it says" = {
    expr = {
      base = directive first "postgresql-basebackup-main.timer" "OnCalendar";
      health = directive first "postgresql-healthcheck-main.timer" "OnUnitActiveSec";
      prune = lib.length (directive first "postgresql-walprune-main.timer" "OnCalendar");
      wal = directive first "restic-backups-postgresql-main-wal.timer" "OnCalendar";
      offsiteBase = directive first "restic-backups-postgresql-main-base.timer" "OnCalendar";
      missed = directive first "postgresql-basebackup-main.timer" "Persistent";
    };
    expected = {
      base = [ "daily" ];
      health = [ "1min" ];
      prune = 1;
      # The guide's "*/5" is no calendar expression; this is the one it means.
      wal = [ "*:0/5" ];
      offsiteBase = [ "daily" ];
      missed = [ "true" ];
    };
  };

  "test the archive loses at most five minutes and is kept for 30 days" = {
    expr = {
      timeout = setting first "main" "archive_timeout";
      mode = setting first "main" "archive_mode";
      inherit ((settingsOf first "main").retention) days;
      inherit ((settingsOf first "main").archive) directory;
    };
    expected = {
      timeout = "300";
      mode = "on";
      days = 30;
      directory = "/var/lib/postgresql/main-wal";
    };
  };

  "test its initial databases are declared" = {
    expr = lib.attrNames (declared first);
    expected = [
      "app1"
      "app2"
    ];
  };

  "test the restic jobs copy archive and base backups, with the guide's tags" = {
    expr =
      let
        job = part: {
          paths = first.files."/etc/nixos-scripts/restic-backups-postgresql-main-${part}-paths";
          tags = lib.filter (lib.hasPrefix "--tag=") (
            lib.splitString " " (
              lib.head (directive first "restic-backups-postgresql-main-${part}.service" "ExecStart")
            )
          );
        };
      in
      {
        wal = job "wal";
        base = job "base";
        repository = lib.elem ''"RESTIC_REPOSITORY=/mnt/nas-backup"'' (
          directive first "restic-backups-postgresql-main-wal.service" "Environment"
        );
      };
    expected = {
      wal = {
        paths = "/var/lib/postgresql/main-wal\n";
        tags = [ "--tag=postgresql,main,wal-archive,postgresql-main-wal" ];
      };
      base = {
        paths = "/var/backup/postgresql/main\n";
        tags = [ "--tag=postgresql,main,base-backup,postgresql-main-base" ];
      };
      repository = true;
    };
  };

  "test its datasets have the names and record sizes of the guide" = {
    expr = lib.listToAttrs (
      map (dataset: lib.nameValuePair dataset.name dataset.properties.recordsize)
        (builtins.fromJSON first.files."/etc/backstay/datasets.json").datasets
    );
    expected = {
      "tank/services/postgresql/main" = "8K";
      "tank/services/postgresql/main-wal" = "128K";
      "tank/services/postgresql/main-backup" = "1M";
    };
  };

  "test a rebuilt node asks the replica, the snapshots and restic, in this order" = {
    expr = {
      problems = problems rebuilt;
      sources = map (source: source.kind) (settingsOf rebuilt "main").preseed.sources;
      environment = lib.elem "restic-environment:/run/secrets/restic/env" (
        directive rebuilt "preseed-postgresql-main.service" "LoadCredential"
      );
      before = lib.hasInfix "preseed-postgresql-main.service" (
        toString (directive rebuilt "postgresql-main.service" "After")
      );
      required = directive rebuilt "postgresql-main.service" "Requires";
    };
    expected = {
      problems = [ ];
      sources = [
        "syncoid"
        "local"
        "restic"
      ];
      environment = true;
      before = true;
      required = [ "preseed-postgresql-main.service" ];
    };
  };

  "test the three instances of the guide deploy without a complaint" = {
    expr = problems three;
    expected = [ ];
  };

  "test each of the three has its server, version, port and memory" = {
    expr = lib.genAttrs [ "main" "dev" "analytics" ] (instance: {
      program = directive three "postgresql-${instance}.service" "ExecStart";
      port = setting three instance "port";
      sharedBuffers = setting three instance "shared_buffers";
      cache = setting three instance "effective_cache_size";
    });
    expected = {
      main = {
        program = [ "/usr/lib/postgresql/16/bin/postgres -D /var/lib/postgresql/main/16" ];
        port = "5432";
        sharedBuffers = "4GB";
        cache = "12GB";
      };
      dev = {
        program = [ "/usr/lib/postgresql/15/bin/postgres -D /var/lib/postgresql/dev/15" ];
        port = "5433";
        sharedBuffers = "1GB";
        cache = "3GB";
      };
      analytics = {
        program = [ "/usr/lib/postgresql/16/bin/postgres -D /var/lib/postgresql/analytics/16" ];
        port = "5434";
        sharedBuffers = "8GB";
        cache = "24GB";
      };
    };
  };

  "test every unit that the guide says is created is there for each of the three" = {
    expr = lib.filter (unit: !three.units ? ${unit}) (
      lib.concatMap
        (instance: [
          "postgresql-${instance}.service"
          "postgresql-basebackup-${instance}.service"
          "postgresql-basebackup-${instance}.timer"
          "postgresql-healthcheck-${instance}.service"
          "postgresql-healthcheck-${instance}.timer"
          "postgresql-walprune-${instance}.service"
          "postgresql-walprune-${instance}.timer"
          "restic-backups-postgresql-${instance}-wal.service"
          "restic-backups-postgresql-${instance}-wal.timer"
          "restic-backups-postgresql-${instance}-base.service"
          "restic-backups-postgresql-${instance}-base.timer"
        ])
        [
          "main"
          "dev"
          "analytics"
        ]
    );
    expected = [ ];
  };

  "test the three differ in what the guide says they differ in" = {
    expr = {
      sync = lib.genAttrs [ "main" "dev" "analytics" ] (
        instance: directive three "restic-backups-postgresql-${instance}-wal.timer" "OnCalendar"
      );
      days = lib.genAttrs [ "main" "dev" "analytics" ] (
        instance: (settingsOf three instance).retention.days
      );
      repositories = lib.genAttrs [ "main" "dev" "analytics" ] (
        instance: map (copy: copy.repository) (settingsOf three instance).restic
      );
      workMem = setting three "analytics" "work_mem";
      databases = lib.attrNames (settingsOf three "analytics").databases.declared;
    };
    expected = {
      sync = {
        main = [ "*:0/5" ];
        dev = [ "*:0/15" ];
        analytics = [ "*:0/5" ];
      };
      days = {
        main = 30;
        dev = 7;
        analytics = 30;
      };
      repositories = {
        main = [ "/mnt/nas-backup" ];
        dev = [ "/mnt/nas-backup" ];
        analytics = [ "s3:https://s3.example.org/forge" ];
      };
      workMem = "256MB";
      databases = [
        "metrics"
        "warehouse"
      ];
    };
  };

  "test no preseed runs where the guide switches it off" = {
    expr = lib.filter (lib.hasPrefix "preseed") (lib.attrNames three.units);
    expected = [ ];
  };

  "test more connections, longer checkpoints and settings for a replica reach the server" = {
    expr =
      let
        tuned = host [
          basic
          connections
          checkpoints
          replication
        ];
      in
      {
        problems = problems tuned;
        settings = lib.genAttrs [
          "max_connections"
          "checkpoint_timeout"
          "max_wal_size"
          "wal_level"
          "max_wal_senders"
          "wal_keep_size"
        ] (setting tuned "main");
      };
    expected = {
      problems = [ ];
      settings = {
        max_connections = "200";
        checkpoint_timeout = "30min";
        max_wal_size = "4GB";
        wal_level = "replica";
        max_wal_senders = "3";
        wal_keep_size = "1GB";
      };
    };
  };

  "test a base backup at two and a copy every quarter of an hour are what the short forms mean" = {
    expr =
      let
        scheduled = host [
          # The same keys as in the first instance, which has other values for them.
          { modules.services.postgresql.instances.main.enable = true; }
          { modules.services.postgresql.instances.main.backup.restic.repositoryName = primaryRepo.name; }
          schedules
        ];
      in
      {
        problems = problems scheduled;
        base = directive scheduled "postgresql-basebackup-main.timer" "OnCalendar";
        wal = directive scheduled "restic-backups-postgresql-main-wal.timer" "OnCalendar";
      };
    expected = {
      problems = [ ];
      base = [ "02:00" ];
      wal = [ "*:0/15" ];
    };
  };

  "test a list of databases is merged with databases that services declare" = {
    expr =
      let
        merged = host [
          { modules.services.postgresql.instances.main.enable = true; }
          { modules.services.postgresql.instances.main.backup.restic.repositoryName = primaryRepo.name; }
          allInOne
          dispatcharr
        ];
      in
      {
        problems = problems merged;
        databases = lib.attrNames (declared merged);
      };
    expected = {
      problems = [ ];
      databases = [
        "app1"
        "app2"
        "app3"
        "dispatcharr"
      ];
    };
  };

  "test a service's database has its owner, password, extensions and permissions" = {
    expr =
      let
        database = (declared withDispatcharr).dispatcharr;
        unit = withDispatcharr.units."postgresql-database-provisioning.service";
      in
      {
        problems = problems withDispatcharr;
        inherit (database) owner permissions;
        extensions = extensionNames database;
        password = lib.hasInfix "LoadCredential=password-dispatcharr:/run/secrets/dispatcharr/db_password\n" unit;
        readonly = (settingsOf withDispatcharr "main").databases.roles ? readonly;
      };
    expected = {
      problems = [ ];
      owner = "dispatcharr";
      permissions = {
        dispatcharr = [ "ALL" ];
        readonly = [ "SELECT" ];
      };
      extensions = [
        "uuid-ossp"
        "pg_trgm"
      ];
      password = true;
      readonly = true;
    };
  };

  "test the module of a whole service declares its database, with the extension that is meant" = {
    expr =
      let
        database = (declared withImmich).immich;
      in
      {
        problems = problems withImmich;
        inherit (database) owner;
        extensions = extensionNames database;
        # What the guide calls vectors is pgvector, whose extension is called vector: its package has to be there.
        server = lib.getName withImmich.config.modules.services.postgresql.instances.main.serverPackage;
        backup = database.permissions.backup;
      };
    expected = {
      problems = [ ];
      owner = "immich";
      extensions = [
        "vectors"
        "earthdistance"
        "pg_trgm"
      ];
      server = "postgresql-with-pgvector";
      backup = [ "SELECT" ];
    };
  };

  "test the options that the guide lists for a database evaluate" = {
    expr =
      let
        listed = host [
          basic
          availableOptions
        ];
        database = (declared listed).myapp;
      in
      {
        problems = problems listed;
        inherit (database) owner permissions;
        extensions = extensionNames database;
      };
    expected = {
      problems = [ ];
      owner = "myapp";
      permissions = {
        myapp = [ "ALL" ];
        readonly = [ "SELECT" ];
        backup = [ "SELECT" ];
      };
      extensions = [
        "uuid-ossp"
        "pg_trgm"
        "hstore"
      ];
    };
  };

  "test extension packages are in the server of the instance" = {
    expr =
      let
        extended = host [
          withPgVectors
          extensionPackages
          {
            modules.services.postgresql.instances.main = {
              enable = true;
              version = "15";
              backup.restic.repositoryName = primaryRepo.name;
            };
          }
        ];
      in
      {
        problems = problems extended;
        server = lib.getName extended.config.modules.services.postgresql.instances.main.serverPackage;
      };
    expected = {
      problems = [ ];
      server = "postgresql-with-pgvector-with-postgis-with-timescaledb";
    };
  };

  "test an instance with databases for several services deploys, but for the warning that nothing leaves the host" = {
    expr = {
      inherit (services) failedAssertions;
      warnings = map (lib.hasInfix "modules.backup.allowEveryCopyOnThisHost") services.warnings;
      server = directive services "postgresql-main.service" "ExecStart";
      connections = setting services "main" "max_connections";
      databases = lib.mapAttrs (_: database: database.owner) (declared services);
      passwords = lib.filter (lib.hasInfix "db_password") (
        directive services "postgresql-database-provisioning.service" "LoadCredential"
      );
    };
    expected = {
      failedAssertions = [ ];
      warnings = [ true ];
      server = [ "/usr/lib/postgresql/15/bin/postgres -D /var/lib/postgresql/main/15" ];
      connections = "200";
      databases = {
        grafana = "grafana";
        immich = "immich";
        nextcloud = "nextcloud";
      };
      passwords = [
        "password-grafana:/run/secrets/grafana/db_password"
        "password-immich:/run/secrets/immich/db_password"
        "password-nextcloud:/run/secrets/nextcloud/db_password"
      ];
    };
  };

  "test what a repository keeps can be set on the job of an instance" = {
    expr =
      let
        kept = host [
          basic
          keep
        ];
        commands = toString (directive kept "restic-prune-nas-primary.service" "ExecStart");
      in
      {
        problems = problems kept;
        keeps = map (option: lib.hasInfix option commands) [
          "--keep-daily=7"
          "--keep-weekly=4"
          "--keep-monthly=12"
          "--keep-yearly=3"
        ];
      };
    expected = {
      problems = [ ];
      keeps = [
        true
        true
        true
        true
      ];
    };
  };

  "test settings of NixOS' own server for pgBackRest go on evaluating beside an instance" = {
    expr =
      let
        both = host [
          basic
          pgbackrestSettings
        ];
      in
      {
        problems = problems both;
        theirs = both.config.services.postgresql.settings.archive_command;
        # That server is not enabled, so the settings belong to nothing that runs.
        ours = lib.hasInfix "pgbackrest" both.files."/etc/postgresql/main/postgresql.conf";
      };
    expected = {
      problems = [ ];
      theirs = "/usr/bin/pgbackrest --stanza=main archive-push %p";
      ours = false;
    };
  };

  "test the template wal-frequent is what the guide says it is" = {
    expr =
      let
        inherit ((host [ basic ]).config.services.sanoid.templates) wal-frequent;
      in
      {
        inherit (wal-frequent)
          frequently
          frequent_period
          hourly
          daily
          ;
      };
    expected = {
      frequently = 12;
      frequent_period = 5;
      hourly = 48;
      daily = 7;
    };
  };

  "test a snapshot policy for the datasets of an instance, written with NixOS' own options, deploys" = {
    expr =
      let
        both = host [
          basic
          snapshots
          prodTemplate
        ];
      in
      {
        problems = problems both;
        datasets = lib.mapAttrs (_: dataset: {
          inherit (dataset) recursive;
          # The last one wins where sanoid finds two.
          template = lib.last dataset.use_template;
        }) both.config.services.sanoid.datasets;
      };
    expected = {
      problems = [ ];
      datasets = {
        "tank/services/postgresql/main" = {
          recursive = false;
          template = "prod";
        };
        "tank/services/postgresql/main-wal" = {
          recursive = false;
          template = "wal-frequent";
        };
      };
    };
  };

  "test the unit and timer for WAL-G go on evaluating beside an instance" = {
    expr =
      let
        both = host [
          basic
          walg
        ];
      in
      {
        problems = problems both;
        command = directive both "walg-backup-push.service" "ExecStart";
        script = lib.hasInfix "/usr/bin/wal-g backup-push $WALG_PGDATA" both.files."/etc/nixos-scripts/walg-backup-push-start";
        timer = directive both "walg-backup-push.timer" "OnCalendar";
      };
    expected = {
      problems = [ ];
      command = [ "/bin/bash /etc/nixos-scripts/walg-backup-push-start" ];
      script = true;
      timer = [ "weekly" ];
    };
  };
}
