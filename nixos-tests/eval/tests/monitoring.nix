# Checks, metrics, objectives and restore drills of an instance.
{
  lib,
  evalHost,
  evaluates,
  ...
}:
let
  surroundings = {
    networking.hostName = "forge";
    modules.backup.allowEveryCopyOnThisHost = true;
  };
  onZfs = {
    modules.storage.datasets = {
      enable = true;
      parentDataset = "tank/services";
    };
  };
  hostKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGJhY2tzdGF5L2V4YW1wbGUvbm90LWEtcmVhbC1r";
  replicatedData.modules.backup.sanoid.datasets."tank/services/postgresql/main".replication = {
    targetHost = "nas.example.org";
    targetPort = 2222;
    targetUser = "receiver";
    targetDataset = "backup/forge/main";
    inherit hostKey;
  };
  nas = {
    modules.backup.restic.repositories.nas = {
      url = "rest:https://nas.example.org/forge";
      passwordFile = "/run/secrets/restic/password";
      environmentFile = "/run/secrets/restic/env";
    };
  };
  told = {
    modules.notifications = {
      enable = true;
      ntfy = {
        enable = true;
        topic = "alerts";
      };
    };
  };

  instance = name: declaration: {
    modules.services.postgresql.instances.${name} = lib.mkMerge [
      { enable = true; }
      declaration
    ];
  };
  main = instance "main";
  hostWith = modules: evalHost ([ surroundings ] ++ modules);
  host = declaration: hostWith [ (main declaration) ];
  plain = host { };

  section =
    name: evaluated:
    (builtins.fromJSON evaluated.files."/etc/backstay/main.json").${name} or null;

  # The values of one directive of a unit.
  values =
    directive: unit: evaluated:
    map (lib.removePrefix "${directive}=") (
      lib.filter (lib.hasPrefix "${directive}=") (lib.splitString "\n" evaluated.units.${unit})
    );
  words = directive: unit: evaluated: lib.concatMap (lib.splitString " ") (values directive unit evaluated);
  check = "postgresql-healthcheck-main.service";
  drill = "postgresql-restore-drill-main.service";
  canary = "postgresql-canary-main.service";

  refusedOn = expected: modules: {
    expr = (hostWith modules).failedAssertions;
    inherit expected;
  };
  refused = expected: declaration: refusedOn expected [ (main declaration) ];
  warnedOn = expected: modules: {
    expr = {
      inherit (hostWith modules) failedAssertions warnings;
    };
    expected = {
      failedAssertions = [ ];
      warnings = expected;
    };
  };
  noValue = declaration: {
    expr = evaluates (host declaration).state;
    expected = false;
  };

  at = path: "modules.services.postgresql.instances.main.${path}";
  metrics = "/var/lib/node_exporter/textfile_collector";
in
{
  # Health checks.

  "test a check asks ZFS where the instance is on ZFS and sees no device elsewhere" =
    let
      asks = evaluated: {
        device = values "BindPaths" check evaluated;
        users = values "PrivateUsers" check evaluated;
        path = lib.any (lib.hasInfix "/run/booted-system/sw/bin") (values "Environment" check evaluated);
      };
    in
    {
      expr = {
        zfs = asks (hostWith [
          (main { })
          onZfs
        ]);
        # Only the base backups are.
        mixed = asks (hostWith [
          (main { backup.baseBackup.directory = "/mnt/tank/base"; })
          {
            fileSystems."/mnt/tank" = {
              device = "tank/pg";
              fsType = "zfs";
            };
          }
        ]);
        plain = asks plain;
      };
      expected = {
        zfs = {
          device = [ "-/dev/zfs" ];
          users = [ "false" ];
          path = true;
        };
        mixed = {
          device = [ "-/dev/zfs" ];
          users = [ "false" ];
          path = true;
        };
        plain = {
          device = [ ];
          users = [ "true" ];
          path = false;
        };
      };
    };

  "test an instance is checked unless it says otherwise" = {
    expr = section "healthCheck" plain;
    expected = {
      checkReplicationLag = false;
      maximumReplicationLagSeconds = 300;
      maximumArchiveLagSeconds = 600;
      maximumBaseBackupAgeSeconds = 108000;
      intervalSeconds = 60;
      maximumPruneAgeSeconds = 108000;
      maximumDrillAgeSeconds = 691200;
      minimumFreeBytes = 1073741824;
      maximumConnectionsPercent = 90;
      maximumUsedPercent = 90;
      maximumTransactionSeconds = 14400;
      maximumDeadlocksPerHour = 5;
      maximumSlotBytes = 1073741824;
      maximumTransactionIdAge = 1000000000;
    };
  };

  "test every option of the check reaches the settings" = {
    expr = section "healthCheck" (host {
      healthCheck = {
        checkReplicationLag = true;
        maxReplicationLagSeconds = 60;
        maxArchiveLagSeconds = 900;
        maxBaseBackupAgeSeconds = 172800;
        interval = "1h 1500ms";
        maxSnapshotAgeSeconds = 7200;
        maxPruneAgeSeconds = 90000;
        maxDrillAgeSeconds = 1209600;
        minimumFree = "20GB";
        maxConnectionsPercent = 80;
        maxUsedPercent = 70;
        maxTransactionSeconds = 600;
        maxDeadlocksPerHour = 0;
        maxSlotSize = "4GB";
        maxTransactionIdAge = 500000000;
      };
    });
    expected = {
      checkReplicationLag = true;
      maximumReplicationLagSeconds = 60;
      maximumArchiveLagSeconds = 900;
      maximumBaseBackupAgeSeconds = 172800;
      intervalSeconds = 3602;
      maximumSnapshotAgeSeconds = 7200;
      maximumPruneAgeSeconds = 90000;
      maximumDrillAgeSeconds = 1209600;
      minimumFreeBytes = 21474836480;
      maximumConnectionsPercent = 80;
      maximumUsedPercent = 70;
      maximumTransactionSeconds = 600;
      maximumDeadlocksPerHour = 0;
      maximumSlotBytes = 4294967296;
      maximumTransactionIdAge = 500000000;
    };
  };

  "test how far a copy off-site may be behind follows from how often it is made" = {
    expr =
      map
        (
          declaration:
          (section "healthCheck" (hostWith [
            nas
            (main declaration)
          ])).maximumOffsiteLagSeconds or null
        )
        [
          { }
          { backup.restic.repositoryName = "nas"; }
          {
            backup.restic.repositoryName = "nas";
            backup.walArchive.syncInterval = "hourly";
            backup.walArchive.archiveTimeout = 60;
          }
          {
            backup.restic.repositoryName = "nas";
            healthCheck.maxOffsiteLagSeconds = 900;
          }
        ];
    expected = [
      null
      2400
      5460
      900
    ];
  };

  "test a replica is asked what it holds after each transfer, whatever became of that" =
    let
      evaluated = hostWith [
        (main { })
        onZfs
        replicatedData
        {
          modules.backup.sanoid.datasets."tank/services/postgresql/main-wal".replication.targetDataset =
            "vault/main-wal";
        }
      ];
      asks = content: "postgresql-replica-main-${content}.service";
      sends = dataset: "syncoid-tank-services-postgresql-${dataset}.service";
      of = unit: {
        start = values "ExecStart" unit evaluated;
        user = values "User" unit evaluated;
        key = values "LoadCredential" unit evaluated;
        device = values "BindPaths" unit evaluated;
      };
    in
    {
      expr = {
        inherit (evaluated) failedAssertions;
        declared = (section "snapshots" evaluated).replicas;
        data = of (asks "data");
        wal = of (asks "wal");
        after = map (directive: words directive (sends "main") evaluated) [
          "OnSuccess"
          "OnFailure"
        ];
        afterWal = words "OnSuccess" (sends "main-wal") evaluated;
      };
      expected = {
        failedAssertions = [ ];
        declared = [
          {
            content = "data";
            dataset = "backup/forge/main";
            unit = sends "main";
            ssh = {
              host = "nas.example.org";
              port = 2222;
              user = "receiver";
              sshKeyFile = "/run/credentials/${asks "data"}/ssh-key";
              knownHosts = "[nas.example.org]:2222 ${hostKey}";
            };
          }
          {
            content = "wal";
            dataset = "vault/main-wal";
            unit = sends "main-wal";
          }
        ];
        data = {
          start = [ "/usr/lib/backstay/bin/pg-replica --config /etc/backstay/main.json --content=data" ];
          user = [ "postgres" ];
          key = [ "ssh-key:/var/lib/zfs-replication/.ssh/id_ed25519" ];
          device = [ ];
        };
        wal = {
          start = [ "/usr/lib/backstay/bin/pg-replica --config /etc/backstay/main.json --content=wal" ];
          user = [ "postgres" ];
          key = [ ];
          device = [ "-/dev/zfs" ];
        };
        after = [
          [ (asks "data") ]
          [ (asks "data") ]
        ];
        afterWal = [ (asks "wal") ];
      };
    };

  "test nobody asks a replica for a check that is not made" = {
    expr =
      let
        evaluated = hostWith [
          (main { healthCheck.enable = false; })
          onZfs
          replicatedData
        ];
      in
      {
        unit = evaluated.units ? "postgresql-replica-main-data.service";
        declared = (section "snapshots" evaluated).replicas or [ ];
        after = words "OnSuccess" "syncoid-tank-services-postgresql-main.service" evaluated;
      };
    expected = {
      unit = false;
      declared = [ ];
      after = [ ];
    };
  };

  "test how old a replica may be follows from the snapshots and the transfers" = {
    expr =
      map
        (
          changes:
          (section "healthCheck" (hostWith (
            [
              (main { })
              onZfs
            ]
            ++ changes
          ))).maximumReplicaAgeSeconds or null
        )
        [
          [ ]
          # A snapshot each hour, a transfer each hour, and an hour for it.
          [ replicatedData ]
          [
            replicatedData
            { modules.backup.sanoid.replicationInterval = "*/15"; }
          ]
          [
            replicatedData
            {
              modules.backup.sanoid.datasets."tank/services/postgresql/main" = {
                useTemplate = [ ];
                retention.daily = 7;
              };
            }
          ]
          # Somebody else takes them, at times that are not known here.
          [
            replicatedData
            { modules.backup.sanoid.datasets."tank/services/postgresql/main".autosnap = false; }
          ]
          [
            replicatedData
            (main { healthCheck.maxReplicaAgeSeconds = 900; })
          ]
        ];
    expected = [
      null
      10800
      8100
      93600
      null
      900
    ];
  };

  "test a warning is no failure of the unit unless that is asked for" = {
    expr = map (evaluated: values "SuccessExitStatus" check evaluated) [
      plain
      (host { healthCheck.failOnWarning = true; })
    ];
    expected = [
      [ "1" ]
      [ ]
    ];
  };

  "test thresholds follow from what was declared about the backups" = {
    expr =
      map
        (
          declaration:
          let
            settings = section "healthCheck" (host declaration);
          in
          {
            archive = settings.maximumArchiveLagSeconds or null;
            baseBackup = settings.maximumBaseBackupAgeSeconds or null;
          }
        )
        [
          { backup.walArchive.archiveTimeout = 60; }
          { backup.baseBackup.schedule = "weekly"; }
          # Nobody can say when the next one is.
          { backup.baseBackup.schedule = "Mon *-*-1..7 02:00"; }
          { backup.enable = false; }
        ];
    expected = [
      {
        archive = 360;
        baseBackup = 108000;
      }
      {
        archive = 600;
        baseBackup = 626400;
      }
      {
        archive = 600;
        baseBackup = null;
      }
      {
        archive = 600;
        baseBackup = null;
      }
    ];
  };

  "test the check comes every minute, counted from the last one" = {
    expr = {
      timer = plain.units."postgresql-healthcheck-main.timer";
      other = values "OnUnitActiveSec" "postgresql-healthcheck-main.timer" (host {
        healthCheck.interval = "5min";
      });
    };
    expected = {
      timer = ''
        [Unit]
        Description=Schedule of the health checks of the PostgreSQL instance main

        [Timer]
        AccuracySec=1s
        OnBootSec=2min
        OnUnitActiveSec=1min
        RandomizedDelaySec=5s

        [Install]
        WantedBy=timers.target
      '';
      other = [ "5min" ];
    };
  };

  "test the check runs without the server" = {
    expr =
      let
        evaluated = hostWith [
          onZfs
          (main { })
        ];
      in
      {
        after = words "After" check evaluated;
        requires = words "Requires" check evaluated;
        start = values "ExecStart" check evaluated;
        user = values "User" check evaluated;
        writes = values "ReadWritePaths" check evaluated;
        timeout = values "TimeoutStartSec" check evaluated;
      };
    expected = {
      after = [ "postgresql-main.service" ];
      requires = [ ];
      start = [ "/usr/lib/backstay/bin/pg-healthcheck --config /etc/backstay/main.json" ];
      user = [ "postgres" ];
      writes = [
        "/var/lib/backstay/main"
        metrics
      ];
      timeout = [ "5min" ];
    };
  };

  "test healthCheck.enable = false leaves no unit and no settings" = {
    expr =
      let
        evaluated = host { healthCheck.enable = false; };
      in
      {
        units = lib.filter (lib.hasPrefix "postgresql-healthcheck") (lib.attrNames evaluated.units);
        settings = section "healthCheck" evaluated;
      };
    expected = {
      units = [ ];
      settings = null;
    };
  };

  "test spans of time are those of systemd" = {
    expr =
      map (interval: evaluates (host { healthCheck = { inherit interval; }; }).state)
        [
          "30s"
          "1h 30min"
          "90"
        ];
    expected = [
      true
      true
      true
    ];
  };
  "test a check without a pause is no value" = noValue { healthCheck.interval = "0"; };
  "test a span that systemd does not know is no value" = noValue {
    healthCheck.interval = "1 fortnight";
  };
  "test a size with a space is no value" = noValue { healthCheck.minimumFree = "20 GB"; };

  # Metrics.

  "test metrics go where every writer may write and the node exporter reads" = {
    expr =
      let
        evaluated = hostWith [
          { services.prometheus.exporters.node.enable = true; }
          (main { })
          (instance "dev" {
            port = 5433;
            user = "postgres-dev";
          })
        ];
      in
      {
        settings = section "metrics" evaluated;
        directory = lib.filter (lib.hasInfix metrics) (
          lib.splitString "\n" evaluated.files."/etc/tmpfiles.d/10-backstay-metrics.conf"
        );
        inherit (evaluated.config.users.groups.backstay-metrics) members;
        server = lib.elem metrics (values "ReadWritePaths" "postgresql-main.service" evaluated);
        exporter = evaluated.config.services.prometheus.exporters.node.extraFlags;
      };
    expected = {
      settings.directory = metrics;
      directory = [ "'d' '${metrics}' '3775' 'root' 'backstay-metrics' '-'" ];
      members = [
        "postgres"
        "postgres-dev"
      ];
      server = true;
      exporter = [ "--collector.textfile.directory=${metrics}" ];
    };
  };

  "test monitoring.enable = false writes no metrics and touches no exporter" = {
    expr =
      let
        evaluated = hostWith [
          { services.prometheus.exporters.node.enable = true; }
          (main { monitoring.enable = false; })
        ];
      in
      {
        settings = section "metrics" evaluated;
        writers = lib.filter (
          unit: lib.elem metrics (values "ReadWritePaths" unit evaluated)
        ) (lib.filter (lib.hasSuffix ".service") (lib.attrNames evaluated.units));
        group = evaluated.config.users.groups ? backstay-metrics;
        directory = lib.hasAttr "/etc/tmpfiles.d/10-backstay-metrics.conf" evaluated.files;
        exporter = evaluated.config.services.prometheus.exporters.node.extraFlags;
      };
    expected = {
      settings = null;
      writers = [ ];
      group = false;
      directory = false;
      exporter = [ ];
    };
  };

  # Objectives.

  "test objectives reach the settings, and only those that are set" = {
    expr = map (objectives: section "objectives" (host { inherit objectives; })) [
      { }
      { rtoSeconds = 3600; }
      {
        rpoSeconds = 600;
        rtoSeconds = 3600;
      }
    ];
    expected = [
      null
      { rtoSeconds = 3600; }
      {
        rpoSeconds = 600;
        rtoSeconds = 3600;
      }
    ];
  };

  "test an objective that the archive cannot keep is told" = warnedOn [
    "${at "objectives.rpoSeconds"}: 1 minute cannot be kept, since a change may wait 5 minutes before it is archived; set backup.walArchive.archiveTimeout to less than 60."
  ] [ (main { objectives.rpoSeconds = 60; }) ];

  "test an objective that the copies off-site cannot keep is told" =
    warnedOn
      [
        "${at "objectives.offsiteRpoSeconds"}: 15 minutes cannot be kept, since a change may wait 5 minutes before it is archived (backup.walArchive.archiveTimeout) and 15 minutes before the archive is copied (backup.walArchive.syncInterval); shorten them."
      ]
      [
        nas
        (main {
          backup.restic.repositoryName = "nas";
          backup.walArchive.syncInterval = "*/15";
          objectives.offsiteRpoSeconds = 900;
        })
      ];

  "test objectives that can be kept are not told" =
    warnedOn
      [ ]
      [
        nas
        (main {
          backup.restic.repositoryName = "nas";
          objectives = {
            rpoSeconds = 300;
            offsiteRpoSeconds = 600;
            rtoSeconds = 3600;
          };
        })
      ];

  "test a promise without an archive is refused" =
    refused
      [
        "${at "objectives.rpoSeconds"}: 600 is promised, and nothing is archived; set backup.enable and backup.walArchive.enable to true, or leave the objective out."
      ]
      {
        backup.enable = false;
        objectives.rpoSeconds = 600;
      };

  "test a promise for the loss of the host without a copy elsewhere is refused" = refused [
    "${at "objectives.offsiteRpoSeconds"}: 900 is promised, and nothing leaves this host; set backup.restic.repositoryName, replicate the datasets, or leave the objective out."
  ] { objectives.offsiteRpoSeconds = 900; };

  "test a promise that somebody else's copies keep is taken" = warnedOn [ ] [
    (main {
      integration.backup.enable = false;
      objectives.offsiteRpoSeconds = 900;
    })
  ];

  # Drills.

  "test a restore is rehearsed unless an instance says otherwise" = {
    expr = {
      settings = section "drill" plain;
      timer = plain.units."postgresql-restore-drill-main.timer";
      directory = lib.filter (lib.hasInfix "postgresql-drill") (
        lib.splitString "\n" plain.files."/etc/tmpfiles.d/10-postgresql-drill.conf"
      );
    };
    expected = {
      settings = {
        directory = "/var/backup/postgresql-drill/main";
        minimumFreeBytes = 1073741824;
        deadlineSeconds = 43200;
        sources = [ "local" ];
        checks = [ ];
        canary = {
          database = "backstay_canary";
          intervalSeconds = 5;
          rowsKept = 10000;
        };
      };
      timer = ''
        [Unit]
        Description=Schedule of the restore drills of the PostgreSQL instance main

        [Timer]
        OnCalendar=weekly
        Persistent=true
        RandomizedDelaySec=1h

        [Install]
        WantedBy=timers.target
      '';
      directory = [ "'d' '/var/backup/postgresql-drill/main' '0700' 'postgres' 'postgres' '-'" ];
    };
  };

  "test every option of a drill reaches the settings" = {
    expr =
      let
        evaluated = hostWith [
          nas
          onZfs
          (main {
            backup.restic.repositoryName = "nas";
            drill = {
              schedule = "Sat 03:00";
              directory = "/srv/scratch/main";
              minimumFree = "20GB";
              deadlineSeconds = 14400;
              sources = [
                "snapshot"
                "local"
                "restic"
              ];
              checks = [
                {
                  database = "app1";
                  query = "SELECT count(*) > 0 FROM orders";
                  expect = "t";
                }
                { query = "SELECT 1"; }
              ];
              canary = {
                database = "bird";
                intervalSeconds = 60;
                rowsKept = 1000;
              };
            };
          })
        ];
      in
      {
        settings = section "drill" evaluated;
        schedule = values "OnCalendar" "postgresql-restore-drill-main.timer" evaluated;
        timeout = values "TimeoutStartSec" drill evaluated;
        problems = evaluated.failedAssertions ++ evaluated.warnings;
      };
    expected = {
      settings = {
        directory = "/srv/scratch/main";
        minimumFreeBytes = 21474836480;
        deadlineSeconds = 14400;
        sources = [
          "snapshot"
          "local"
          "restic"
        ];
        checks = [
          {
            database = "app1";
            query = "SELECT count(*) > 0 FROM orders";
            expect = "t";
          }
          {
            database = "postgres";
            query = "SELECT 1";
          }
        ];
        canary = {
          database = "bird";
          intervalSeconds = 60;
          rowsKept = 1000;
        };
      };
      schedule = [ "Sat 03:00" ];
      timeout = [ "15300" ];
      problems = [ ];
    };
  };

  "test what is copied off-site is restored from there in its turn" = {
    expr =
      map
        (
          declaration:
          (section "drill" (hostWith [
            nas
            (main declaration)
          ])).sources
        )
        [
          { }
          { backup.restic.repositoryName = "nas"; }
          {
            backup.restic.repositoryName = "nas";
            integration.backup.enable = false;
          }
        ];
    expected = [
      [ "local" ]
      [
        "local"
        "restic"
      ]
      [ "local" ]
    ];
  };

  "test a drill of this host's backups has no network and writes where it has to" = {
    expr = {
      user = values "User" drill plain;
      network = values "PrivateNetwork" drill plain;
      writes = values "ReadWritePaths" drill plain;
      after = words "After" drill plain;
      mounts = values "RequiresMountsFor" drill plain;
      restart = values "X-RestartIfChanged" drill plain;
      credentials = values "LoadCredential" drill plain;
    };
    expected = {
      user = [ "postgres" ];
      network = [ "true" ];
      writes = [
        "/var/backup/postgresql-drill/main"
        "/var/lib/backstay/main"
        "/var/backup/postgresql/main"
        metrics
      ];
      after = [
        "postgresql-main.service"
        "postgresql-basebackup-main.service"
      ];
      mounts = [ "/var/backup/postgresql-drill/main" ];
      restart = [ "false" ];
      credentials = [ ];
    };
  };

  "test a drill of the repository has the network and the secrets" = {
    expr =
      let
        evaluated = hostWith [
          nas
          (main {
            backup.restic.repositoryName = "nas";
            drill.sources = [ "restic" ];
          })
        ];
      in
      {
        families = values "RestrictAddressFamilies" drill evaluated;
        credentials = values "LoadCredential" drill evaluated;
        after = words "After" drill evaluated;
        wants = words "Wants" drill evaluated;
        # It restores nothing from here.
        writes = lib.elem "/var/backup/postgresql/main" (values "ReadWritePaths" drill evaluated);
        user = values "User" drill evaluated;
      };
    expected = {
      families = [
        "AF_UNIX"
        "AF_INET"
        "AF_INET6"
      ];
      credentials = [
        "restic-password-nas:/run/secrets/restic/password"
        "restic-environment-nas:/run/secrets/restic/env"
      ];
      after = [
        "postgresql-main.service"
        "postgresql-basebackup-main.service"
        "network-online.target"
      ];
      wants = [ "network-online.target" ];
      writes = false;
      user = [ "postgres" ];
    };
  };

  "test a drill of a snapshot reads it as the server's user, without a right to change a dataset" = {
    expr =
      let
        evaluated = hostWith [
          onZfs
          (main { drill.sources = [ "snapshot" ]; })
        ];
      in
      lib.genAttrs [
        "CapabilityBoundingSet"
        "DeviceAllow"
        "PrivateNetwork"
        "ProtectSystem"
        "User"
      ] (directive: values directive drill evaluated);
    expected = {
      CapabilityBoundingSet = [ "" ];
      DeviceAllow = [ ];
      PrivateNetwork = [ "true" ];
      ProtectSystem = [ "strict" ];
      User = [ "postgres" ];
    };
  };

  "test the canary comes and goes with the server and never gives up" = {
    expr = {
      unit = lib.genAttrs [
        "After"
        "ExecStart"
        "PartOf"
        "PrivateNetwork"
        "Restart"
        "StartLimitIntervalSec"
        "Type"
        "User"
        "WantedBy"
        "X-RestartIfChanged"
      ] (directive: words directive canary plain);
      # It is started by the server and by nothing else.
      timer = plain.units ? "postgresql-canary-main.timer";
    };
    expected = {
      unit = {
        After = [ "postgresql-main.service" ];
        ExecStart = [
          "/usr/lib/backstay/bin/pg-canary"
          "--config"
          "/etc/backstay/main.json"
        ];
        PartOf = [ "postgresql-main.service" ];
        PrivateNetwork = [ "true" ];
        Restart = [ "always" ];
        StartLimitIntervalSec = [ "0" ];
        Type = [ "exec" ];
        User = [ "postgres" ];
        WantedBy = [ "postgresql-main.service" ];
        X-RestartIfChanged = [ ];
      };
      timer = false;
    };
  };

  "test there is no canary where nothing judges by it or where it could not be written" = {
    expr =
      map
        (declaration: {
          unit = (host declaration).units ? ${canary};
          settings = (section "drill" (host declaration)).canary or null;
        })
        [
          { drill.canary.enable = false; }
          { drill.enable = false; }
          { backup.enable = false; }
          {
            preseed.enable = true;
            preseed.asStandby = true;
          }
        ];
    expected = lib.genList (_: {
      unit = false;
      settings = null;
    }) 4;
  };

  "test another interval restarts the canary" = {
    expr =
      values "X-Restart-Triggers" canary plain
      == values "X-Restart-Triggers" canary (host { drill.canary.intervalSeconds = 60; });
    expected = false;
  };

  "test a canary in a database of PostgreSQL's is refused" = refused [
    "${at "drill.canary.database"}: \"postgres\" is a database of PostgreSQL's own, and the canary needs one to itself; choose another name."
  ] { drill.canary.database = "postgres"; };

  "test a canary in a declared database is refused" =
    refused
      [
        "${at "drill.canary.database"}: \"app1\" is a declared database too, and the canary needs one to itself; choose another name."
      ]
      {
        databases = [ "app1" ];
        drill.canary.database = "app1";
      };

  "test an instance without base backups has no drill" = {
    expr =
      let
        evaluated = host { backup.enable = false; };
      in
      {
        units = lib.filter (lib.hasPrefix "postgresql-restore-drill") (lib.attrNames evaluated.units);
        settings = section "drill" evaluated;
        directory = lib.hasAttr "/etc/tmpfiles.d/10-postgresql-drill.conf" evaluated.files;
        inherit (evaluated) failedAssertions;
      };
    expected = {
      units = [ ];
      settings = null;
      directory = false;
      failedAssertions = [ ];
    };
  };

  "test failures of checks and drills are told" = {
    expr =
      let
        evaluated = hostWith [
          told
          (main { })
        ];
      in
      map (unit: words "OnFailure" unit evaluated) [
        check
        drill
      ];
    expected = [
      [ "notify@postgresql-health-failure:%n.service" ]
      [ "notify@postgresql-drill-failure:%n.service" ]
    ];
  };

  "test a drill without sources is refused" = refused [
    "${at "drill.sources"}: the list is empty, so there is nothing to restore; name \"local\", \"restic\" or \"snapshot\", or set drill.enable = false."
  ] { drill.sources = [ ]; };

  "test a drill of base backups that nobody takes is refused" =
    refused
      [
        "${at "drill.sources"}: \"local\" restores a base backup, and backup.baseBackup.enable or backup.enable is false; take base backups, or set drill.enable = false."
      ]
      {
        backup.enable = false;
        drill.enable = true;
      };

  "test a drill of a repository that is not there, or of snapshots without ZFS, is refused" =
    refused
      [
        "${at "drill.sources"}: \"restic\" has no repository; set backup.restic.repositoryName, or leave \"restic\" out."
        "${at "drill.sources"}: \"snapshot\" needs the data on ZFS, and no dataset is declared at \"/var/lib/postgresql/main\"; set modules.storage.datasets.enable = true, or leave \"snapshot\" out."
      ]
      {
        drill.sources = [
          "restic"
          "snapshot"
        ];
      };

  "test a drill that would empty the data is refused" = refused [
    "${at "drill.directory"}: \"/var/lib/postgresql/main\" is the place of the data of \"main\" too, and a drill empties its directory; choose one that nothing else uses."
  ] { drill.directory = "/var/lib/postgresql/main"; };

  "test a drill around the base backups is refused" = refused [
    "${at "drill.directory"}: \"/var/backup/postgresql\" contains \"/var/backup/postgresql/main\", the place of the base backups of \"main\", and a drill empties its directory; choose one that nothing else uses."
  ] { drill.directory = "/var/backup/postgresql"; };

  "test two drills in one directory are refused" =
    refusedOn
      [
        "${at "drill.directory"}: \"/srv/scratch\" is the place of the restore drills of \"dev\" too, and a drill empties its directory; choose one that nothing else uses."
      ]
      [
        (main { drill.directory = "/srv/scratch"; })
        (instance "dev" {
          port = 5433;
          drill.directory = "/srv/scratch";
        })
      ];

  "test a drill with a relative path is refused" = refused [
    "${at "drill.directory"}: \"scratch\" is not an absolute path; write the whole path, from \"/\" on."
  ] { drill.directory = "scratch"; };

  "test E15 a schedule of drills that systemd would skip is no value" = noValue {
    drill.schedule = "sometimes";
  };

  # Alert rules and the board.

  "test a span of time is counted in whole seconds" = {
    expr = map (import ../../../nixos-modules/monitoring/span.nix { inherit lib; }) [
      "30"
      "90s"
      "1min"
      "1h 30min"
      "1 h 30 min"
      "2days"
      "1ms"
    ];
    expected = [
      30
      90
      60
      5400
      5400
      172800
      1
    ];
  };

  "test a job whose schedule cannot be foreseen has no age" = {
    expr =
      let
        health = section "healthCheck" (host {
          backup.pruneSchedule = "Mon *-*-1..7 02:00";
          drill.enable = false;
        });
      in
      {
        prune = health.maximumPruneAgeSeconds or null;
        drill = health.maximumDrillAgeSeconds or null;
      };
    expected = {
      prune = null;
      drill = null;
    };
  };

  "test the Prometheus and the Grafana of this host get rules and board" = {
    expr =
      let
        evaluated = hostWith [
          (main { })
          (instance "other" { healthCheck.enable = false; })
          {
            services.prometheus.enable = true;
            services.grafana.enable = true;
            modules.services.postgresql.alerts = {
              disabled = [ "PostgreSQLDeadlocks" ];
              labels.team = "storage";
            };
          }
        ];
        file = builtins.fromJSON evaluated.files."/etc/prometheus/rules/backstay-alerts.json";
        rules = lib.concatMap (group: group.rules) file.groups;
        named = name: lib.filter (rule: rule.alert == name) rules;
      in
      {
        deadlocks = named "PostgreSQLDeadlocks";
        silent = map (rule: rule.expr) (named "PostgreSQLInstanceNotWatched");
        labels = lib.unique (map (rule: rule.labels) rules);
        board = (builtins.fromJSON evaluated.files."/etc/backstay/boards/backstay.json").title;
        providers = map (
          provider: provider.options.path
        ) evaluated.config.services.grafana.provision.dashboards.settings.providers;
      };
    expected = {
      deadlocks = [ ];
      silent = [
        "absent(postgresql_health{instance=\"main\"}) unless on () postgresql_health{exported_instance=\"main\"}"
      ];
      labels = [
        {
          severity = "critical";
          team = "storage";
        }
        {
          severity = "warning";
          team = "storage";
        }
      ];
      board = "PostgreSQL: can it be brought back?";
      providers = [ "/etc/backstay/boards" ];
    };
  };

  "test a host without Prometheus has no rules, and still the file for one elsewhere" = {
    expr = {
      rules = plain.config.services.prometheus.ruleFiles;
      boards = plain.config.services.grafana.provision.enable;
      file = lib.hasInfix "PostgreSQLChecksStopped" plain.config.modules.services.postgresql.alerts.file.text;
    };
    expected = {
      rules = [ ];
      boards = false;
      file = true;
    };
  };

  "test an alert that does not exist cannot be disabled" =
    refusedOn
      [
        "modules.services.postgresql.alerts.disabled: there is no alert \"PostgresDown\"; docs/reference/alerts.md lists them."
      ]
      [
        (main { })
        {
          modules.services.postgresql.alerts.disabled = [
            "PostgresDown"
            "PostgreSQLServer"
          ];
        }
      ];
}
