# Everything that there is to declare, with values that are not the defaults. No host needs all of it: this one shows how each
# option is written, and the tests change one option after the other in it.
{ pkgs, ... }:
let
  # A public key of a host, as `ssh-keyscan` prints it after the name.
  hostKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGJhY2tzdGF5L2V4YW1wbGUvbm90LWEtcmVhbC1r";
in
{
  networking.hostName = "forge";
  networking.hostId = "8425e349";

  services.prometheus.exporters.node.enable = true;
  # On the same host, so they get the alert rules and the board.
  services.prometheus.enable = true;
  services.grafana.enable = true;
  modules.services.postgresql.alerts.labels.team = "storage";

  modules.storage.datasets = {
    enable = true;
    parentDataset = "tank/services";
    parentMount = "/data";

    services.immich = {
      recordsize = "1M";
      compression = "zstd";
      properties.logbias = "throughput";
      mountpoint = "/var/lib/immich";
      owner = "immich";
      group = "immich";
      mode = "0700";
      purpose = "photos";
      usedBy = [ "immich.service" ];
    };
    # Without a place of its own it is mounted below parentMount.
    services.scratch = { };

    utility."tank/media" = {
      recordsize = "1M";
      compression = "off";
      properties.atime = "off";
      mountpoint = "/mnt/media";
      owner = "media";
      group = "media";
      mode = "0775";
      purpose = "films";
      usedBy = [ "media.service" ];
    };
  };

  users.users.immich = {
    isSystemUser = true;
    group = "immich";
  };
  users.groups.immich = { };
  users.users.media = {
    isSystemUser = true;
    group = "media";
  };
  users.groups.media = { };

  modules.backup = {
    schedule = "03:00";
    # The copies of the second instance are made by something that these modules do not know.
    allowEveryCopyOnThisHost = true;

    sanoid = {
      snapshotInterval = "*/5";
      replicationInterval = "*/15";
      replicationUser = "syncoid";
      sshKeyPath = "/run/secrets/zfs-replication";
      templates.production = {
        frequently = 12;
        frequentPeriodMinutes = 5;
        hourly = 48;
        daily = 30;
        weekly = 8;
        monthly = 6;
        yearly = 2;
        autosnap = true;
        autoprune = true;
      };
      datasets = {
        "tank/services/immich" = {
          useTemplate = [ "production" ];
          recursive = "zfs";
          retention.daily = 60;
        };
        "tank/services/postgresql/main".replication = {
          targetHost = "nas-1.example.org";
          targetPort = 2222;
          targetUser = "backup";
          targetDataset = "backup/forge/services/postgresql/main";
          sendOptions = "w p";
          recvOptions = "u o canmount=off";
          inherit hostKey;
          targetName = "NAS";
          targetLocation = "second site";
          retentionDays = 90;
        };
        "tank/services/postgresql/main-wal".replication = {
          targetHost = "nas-1.example.org";
          targetPort = 2222;
          targetUser = "backup";
          targetDataset = "backup/forge/services/postgresql/main-wal";
          inherit hostKey;
          retentionDays = 90;
        };
      };
    };

    restic = {
      hostName = "forge-1";
      globalSettings = {
        compression = "max";
        readConcurrency = 4;
        retention = {
          daily = 30;
          weekly = 12;
          monthly = 24;
          yearly = 10;
        };
      };

      repositories = {
        offsite = {
          url = "s3:https://s3.example.org/forge";
          passwordFile = "/run/secrets/restic/password";
          environmentFile = "/run/secrets/restic/environment";
          primary = true;
          pruneSchedule = "Sun 05:30";
          checkReadDataSubset = "5%";
          location = "object store";
        };
        second-site = {
          url = "rest:https://backup.example.net/forge";
          passwordFile = "/run/secrets/restic/second-site-password";
          # It takes what is added, and removes nothing for this host.
          pruneSchedule = null;
        };
        nas = {
          url = "/mnt/nas-backup/restic";
          mountPoint = "/mnt/nas-backup";
          passwordFile = "/run/secrets/restic/nas-password";
          initialize = false;
          pruneSchedule = "Sat 05:30";
          checkReadDataSubset = null;
          location = "nas-1";
        };
      };

      jobs = {
        immich = {
          repository = "nas";
          paths = [ "/var/lib/immich" ];
          tags = [ "photos" ];
          excludePatterns = [ "*.tmp" ];
          schedule = "hourly";
          randomizedDelaySeconds = 60;
          keep = {
            last = 12;
            hourly = 24;
            daily = 7;
            weekly = 4;
            monthly = 12;
            yearly = 3;
          };
          preCommands = [
            [
              "${pkgs.coreutils}/bin/touch"
              "/var/lib/immich/before-backup"
            ]
          ];
          postCommands = [
            [
              "${pkgs.coreutils}/bin/rm"
              "/var/lib/immich/before-backup"
            ]
          ];
          requiredMounts = [ "/var/lib/immich" ];
          resources = {
            memory = "2GB";
            memoryReservation = "256MB";
            cpus = 0.5;
          };
          deadlineSeconds = 14400;
          skipIfUnchanged = false;
          after = [ "immich.service" ];
          serviceConfig.IOSchedulingClass = "idle";
          failureTemplate = "photos-not-backed-up";
        };
        # Runs when the others do, into the primary repository.
        media.paths = [ "/mnt/media" ];
        # What an instance declares can be changed.
        "postgresql-main-base".keep.yearly = 3;
      };
    };
  };

  modules.notifications = {
    enable = true;
    hostname = "forge (cellar)";
    defaultBackend = "all";
    retryAttempts = 5;
    timeoutSeconds = 30;
    repeatAfterSeconds = 3600;
    apprise = {
      enable = true;
      urlFile = "/run/secrets/apprise";
    };
    pushover = {
      enable = true;
      tokenFile = "/run/secrets/pushover-token";
      userKeyFile = "/run/secrets/pushover-user";
    };
    ntfy = {
      enable = true;
      server = "https://ntfy.example.org";
      topic = "forge-alerts";
      tokenFile = "/run/secrets/ntfy-token";
    };
    healthchecks = {
      enable = true;
      baseUrl = "https://hc.example.org/ping";
      uuidFile = "/run/secrets/healthchecks-uuid";
    };
    templates.photos-not-backed-up = {
      priority = "high";
      title = "{host}: photos are not backed up";
      body = "{unit}: {result}\n{log}\n";
      backend = "ntfy";
    };
    units.prometheus-node-exporter = "photos-not-backed-up";
  };

  modules.services.postgresql = {
    defaultInstance = "main";
    memoryBudget = "24GB";

    instances.main = {
      enable = true;
      version = "17";
      port = 5433;
      listenAddresses = [
        "localhost"
        "192.0.2.10"
      ];
      openFirewall = true;
      maxConnections = 200;
      memoryBudget = "16GB";
      workMem = "16MB";
      extensions = [ "vector" ];
      extraPackages = ps: [ ps.timescaledb ];
      authentication = [
        "hostssl all all 198.51.100.0/24 scram-sha-256"
        {
          type = "hostssl";
          databases = [ "app" ];
          users = [ "app" ];
          address = "192.0.2.0/24";
        }
      ];
      identMap = "staff alice app";
      extraSettings = {
        checkpoint_timeout = "30min";
        max_wal_size = "4GB";
      };
      initdb = {
        encoding = "UTF8";
        localeProvider = "icu";
        locale = "de-DE";
        arguments = [ "--wal-segsize=64" ];
      };
      group = "databases";

      backup = {
        walArchive = {
          archiveTimeout = 60;
          syncInterval = "*/15";
          retentionDays = 62;
          compression.level = 3;
          workAheadSegments = 64;
          threads = 4;
          archiveDeadlineSeconds = 120;
          restoreDeadlineSeconds = 900;
          prefetchMebibytes = 1024;
          furtherDirectories = [ "/mnt/replica/postgresql-main-wal" ];
        };
        baseBackup = {
          schedule = "02:00";
          incremental = {
            enable = true;
            chainLength = 13;
          };
          maximumRateKibibytesPerSecond = 51200;
          fastCheckpoint = true;
          walDeadlineSeconds = 1800;
          retention = {
            daily = 14;
            weekly = 8;
            monthly = 2;
          };
          minimumGood = 2;
          snapshots = {
            enable = true;
            schedule = "*/30";
            keep = 48;
          };
        };
        pruneSchedule = "05:00";
        restic = {
          repositoryName = "offsite";
          furtherRepositories = [ "second-site" ];
        };
      };

      preseed = {
        enable = true;
        restoreMethods = [
          "baseBackups"
          "restic"
        ];
        choose = "freshest";
        clearReplicationSlots = false;
        pitr = {
          target = "time";
          targetValue = "2026-10-11 14:30 Europe/Berlin";
          exclusive = true;
        };
        deadlineSeconds = 14400;
      };

      healthCheck = {
        interval = "5min";
        checkReplicationLag = true;
        maxReplicationLagSeconds = 60;
        maxArchiveLagSeconds = 900;
        maxBaseBackupAgeSeconds = 172800;
        minimumFree = "20GB";
        maxConnectionsPercent = 80;
      };

      objectives = {
        rpoSeconds = 600;
        offsiteRpoSeconds = 1800;
        rtoSeconds = 3600;
      };

      drill = {
        schedule = "Sat 03:00";
        directory = "/srv/scratch/postgresql-main";
        minimumFree = "20GB";
        deadlineSeconds = 14400;
        sources = [
          "local"
          "restic"
          "snapshot"
        ];
        checks = [
          {
            database = "app";
            query = "SELECT count(*) > 0 FROM orders";
            expect = "t";
          }
        ];
      };

      provisioning = {
        readyDeadlineSeconds = 3600;
        lockDeadlineSeconds = 5;
      };

      roles.standby = {
        replication = true;
        passwordFile = "/run/secrets/standby/db_password";
        connectionLimit = 4;
      };
    };

    # Its own user, plain directories, backups in tar files, and databases as a mere list.
    instances.reports = {
      enable = true;
      version = "16";
      port = 5434;
      user = "postgres-reports";
      databases = [
        "warehouse"
        "metrics"
      ];
      sharedBuffers = "512MB";
      effectiveCacheSize = "2GB";
      maintenanceWorkMem = "128MB";
      tablespaces = [ "/srv/fast/postgresql-reports" ];
      integration.storage.enable = false;
      integration.backup.enable = false;

      backup = {
        walArchive = {
          directory = "/srv/archive/postgresql-reports";
          compression.algorithm = "lz4";
        };
        baseBackup = {
          directory = "/srv/backup/postgresql-reports";
          format = "tar";
          tarCompression = "zstd";
        };
        restic = {
          repositoryName = "reports";
          repositoryUrl = "sftp:backup@nas.example.org:/restic/reports";
          passwordFile = "/run/secrets/reports/restic-password";
          environmentFile = "/run/secrets/reports/restic-environment";
        };
      };

      recovery = {
        enable = true;
        id = "2026-10-11-orders-dropped";
        targetXid = "742";
        exclusive = true;
        timeline = 2;
      };
    };

    databases.app = {
      owner = "app";
      ownerPasswordFile = "/run/secrets/app/db_password";
      extensions = [
        "pg_trgm"
        {
          name = "vector";
          schema = "extensions";
          updateToLatest = true;
        }
      ];
      permissionsPolicy = "owner-readwrite+readonly-select";
      readonlyRole = "app_readonly";
      permissions.backup = [ "SELECT" ];
      databasePermissions.grafana = [ "CONNECT" ];
      schemaPermissions.reports.grafana = [ "USAGE" ];
      tablePermissions."public.*".grafana = [ "SELECT" ];
      functionPermissions."public.*".grafana = [ "EXECUTE" ];
      defaultPrivileges.imports = {
        owner = "importer";
        schema = "reports";
        tables.grafana = [ "SELECT" ];
        sequences.grafana = [ "SELECT" ];
        functions.grafana = [ "EXECUTE" ];
      };
      additionalRoles = {
        grafana = {
          passwordFile = "/run/secrets/grafana/db_password";
          connectionLimit = 20;
          grantRoles = [ "pg_monitor" ];
          settings.statement_timeout = "30s";
        };
        importer = {
          login = false;
          createDb = true;
          createRole = true;
        };
      };
      encoding = "UTF8";
      localeProvider = "icu";
      locale = "de-DE";
      template = "template0";
      tablespace = "fast";
      isTemplate = true;
      connectionLimit = 50;
      settings.search_path = "app, public";
      customSql = {
        preCreate = [ "CREATE ROLE legacy NOLOGIN;" ];
        postCreate = [ "CREATE SCHEMA reports;" ];
        preConfig = [ "CREATE SCHEMA IF NOT EXISTS reports;" ];
        postConfig = [ "ANALYZE;" ];
      };
      initScripts = [ "CREATE TABLE notes (id bigserial PRIMARY KEY, note text);" ];
      migrations = "/srv/app/migrations";
      schemaMigrations = {
        schema = "app";
        table = "versions";
        column = "id";
        columnType = "bigint";
        ensureTable = true;
        insertedAtColumn = "inserted_at";
        pruneUnknown = true;
        entries = [ "20260101000000" ];
      };
      dump = {
        enable = true;
        schedule = "*-*-* 00/6:00:00";
        directory = "/srv/dumps/app";
        retention = {
          daily = 14;
          weekly = 8;
          monthly = 12;
        };
      };
    };

    # Belongs to another application of the host, which makes the database itself.
    databases.legacy = {
      instance = "main";
      managed = false;
    };
  };
}
