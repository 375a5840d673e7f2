# Archive, base backups, retention and restic jobs of an instance.
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

  main = declaration: {
    modules.services.postgresql.instances.main = lib.mkMerge [
      { enable = true; }
      declaration
    ];
  };
  dev = declaration: {
    modules.services.postgresql.instances.dev = lib.mkMerge [
      {
        enable = true;
        port = 5433;
      }
      declaration
    ];
  };

  hostWith = modules: evalHost ([ surroundings ] ++ modules);
  host = declaration: hostWith [ (main declaration) ];

  nas = {
    modules.backup.restic.repositories.nas = {
      url = "rest:https://nas.example.org/forge";
      passwordFile = "/run/secrets/restic/password";
      environmentFile = "/run/secrets/restic/env";
    };
  };
  offSite = hostWith [
    nas
    (main { backup.restic.repositoryName = "nas"; })
  ];

  settings = evaluated: builtins.fromJSON evaluated.files."/etc/backstay/main.json";
  section = name: evaluated: (settings evaluated).${name} or null;

  # The values of one directive of a unit.
  values =
    directive: unit: evaluated:
    map (lib.removePrefix "${directive}=") (
      lib.filter (lib.hasPrefix "${directive}=") (lib.splitString "\n" evaluated.units.${unit})
    );
  words = directive: unit: evaluated: lib.concatMap (lib.splitString " ") (values directive unit evaluated);

  conf =
    setting: evaluated:
    map (lib.removePrefix "${setting} = ") (
      lib.filter (lib.hasPrefix "${setting} = ") (
        lib.splitString "\n" evaluated.files."/etc/postgresql/main/postgresql.conf"
      )
    );

  unitsOf = prefix: evaluated: lib.filter (lib.hasPrefix prefix) (lib.attrNames evaluated.units);

  # What a declaration is told: nothing but this.
  refused = expected: declaration: {
    expr = (host declaration).failedAssertions;
    inherit expected;
  };
  refusedOn = expected: modules: {
    expr = (hostWith modules).failedAssertions;
    inherit expected;
  };
  warned = expected: declaration: {
    expr = {
      inherit (host declaration) failedAssertions warnings;
    };
    expected = {
      failedAssertions = [ ];
      warnings = expected;
    };
  };
  # Values that the type of an option does not take. Its message has option, value and type.
  noValue = declaration: {
    expr = evaluates (host declaration).state;
    expected = false;
  };

  interval = import ../../../nixos-modules/backup/interval.nix { inherit lib; };
  at = path: "modules.services.postgresql.instances.main.${path}";
  plain = host { };

  zfs.modules.storage.datasets = {
    enable = true;
    parentDataset = "tank/services";
  };
  onZfs = hostWith [
    zfs
    (main { backup.baseBackup.snapshots.enable = true; })
  ];
in
{
  # What is made of a declaration.

  "test an instance that is only enabled archives and takes base backups" = {
    expr = {
      inherit (settings plain) archive baseBackup retention;
      restic = section "restic" plain;
      archiveMode = conf "archive_mode" plain;
      archiveTimeout = conf "archive_timeout" plain;
      inherit (plain) failedAssertions warnings;
    };
    expected = {
      archive = {
        directory = "/var/lib/postgresql/main-wal";
        compression.algorithm = "zstd";
        archiveDeadlineSeconds = 60;
        restoreDeadlineSeconds = 300;
        workAheadSegments = 16;
        threads = 2;
        prefetchMebibytes = 256;
        furtherDirectories = [ ];
      };
      baseBackup = {
        directory = "/var/backup/postgresql/main";
        format = "plain";
        tarCompression = "none";
        fastCheckpoint = false;
        walDeadlineSeconds = 600;
      };
      retention = {
        days = 30;
        daily = 7;
        weekly = 4;
        monthly = 3;
        minimumGood = 1;
      };
      restic = null;
      archiveMode = [ "on" ];
      archiveTimeout = [ "300" ];
      failedAssertions = [ ];
      warnings = [ ];
    };
  };

  "test every option of the archive and of base backups reaches the settings" = {
    expr =
      let
        evaluated = host {
          version = "17";
          backup = {
            walArchive = {
              directory = "/srv/wal/main";
              archiveTimeout = 60;
              retentionDays = 14;
              compression.level = 3;
              workAheadSegments = 64;
              threads = 4;
              archiveDeadlineSeconds = 120;
              restoreDeadlineSeconds = 900;
              prefetchMebibytes = 1024;
              furtherDirectories = [ "/mnt/replica/main-wal" ];
            };
            baseBackup = {
              directory = "/srv/backup/main";
              incremental = {
                enable = true;
                chainLength = 13;
              };
              maximumRateKibibytesPerSecond = 51200;
              fastCheckpoint = true;
              walDeadlineSeconds = 1800;
              minimumGood = 2;
              retention = {
                daily = 14;
                weekly = 2;
                monthly = 0;
              };
            };
          };
        };
      in
      {
        inherit (settings evaluated) archive baseBackup retention;
        archiveTimeout = conf "archive_timeout" evaluated;
        summarize = conf "summarize_wal" evaluated;
        problems = evaluated.failedAssertions ++ evaluated.warnings;
      };
    expected = {
      archive = {
        directory = "/srv/wal/main";
        compression = {
          algorithm = "zstd";
          level = 3;
        };
        archiveDeadlineSeconds = 120;
        restoreDeadlineSeconds = 900;
        workAheadSegments = 64;
        threads = 4;
        prefetchMebibytes = 1024;
        furtherDirectories = [ "/mnt/replica/main-wal" ];
      };
      baseBackup = {
        directory = "/srv/backup/main";
        format = "plain";
        tarCompression = "none";
        incremental.chainLength = 13;
        maximumRateKibibytesPerSecond = 51200;
        fastCheckpoint = true;
        walDeadlineSeconds = 1800;
      };
      retention = {
        days = 14;
        daily = 14;
        weekly = 2;
        monthly = 0;
        minimumGood = 2;
      };
      archiveTimeout = [ "60" ];
      summarize = [ "on" ];
      problems = [ ];
    };
  };

  "test base backups in tar format are compressed by the server" = {
    expr = section "baseBackup" (host {
      backup.baseBackup = {
        format = "tar";
        tarCompression = "zstd";
      };
    });
    expected = {
      directory = "/var/backup/postgresql/main";
      format = "tar";
      tarCompression = "zstd";
      fastCheckpoint = false;
      walDeadlineSeconds = 600;
    };
  };

  "test the server may write the archive, and mark the base backups if their disk is there" = {
    expr = lib.filter (path: lib.hasInfix "/srv/" path) (
      values "ReadWritePaths" "postgresql-main.service" (host {
        backup.walArchive.directory = "/srv/wal";
        backup.baseBackup.directory = "/srv/backup";
      })
    );
    expected = [
      "/srv/wal"
      "-/srv/backup"
    ];
  };

  "test a base backup runs after the server, as its user, and is not cut short by a switch" = {
    expr = {
      after = words "After" "postgresql-basebackup-main.service" plain;
      requires = words "Requires" "postgresql-basebackup-main.service" plain;
      user = values "User" "postgresql-basebackup-main.service" plain;
      start = values "ExecStart" "postgresql-basebackup-main.service" plain;
      writes = values "ReadWritePaths" "postgresql-basebackup-main.service" plain;
      timeout = values "TimeoutStartSec" "postgresql-basebackup-main.service" plain;
      restart = values "X-RestartIfChanged" "postgresql-basebackup-main.service" plain;
      type = values "Type" "postgresql-basebackup-main.service" plain;
    };
    expected = {
      after = [ "postgresql-main.service" ];
      requires = [ ];
      user = [ "postgres" ];
      start = [ "/usr/lib/backstay/bin/pg-base-backup --config /etc/backstay/main.json" ];
      writes = [
        "/var/backup/postgresql/main"
        "/var/lib/backstay/main"
        "/var/lib/node_exporter/textfile_collector"
      ];
      timeout = [ "infinity" ];
      restart = [ "false" ];
      type = [ "oneshot" ];
    };
  };

  "test the timers of backups are persistent and spread" = {
    expr = {
      baseBackup = plain.units."postgresql-basebackup-main.timer";
      prune = plain.units."postgresql-walprune-main.timer";
      enabled = lib.filter (lib.hasInfix "timers.target.wants/postgresql-") (lib.attrNames plain.links);
    };
    expected = {
      baseBackup = ''
        [Unit]
        Description=Schedule of the base backups of the PostgreSQL instance main

        [Timer]
        OnCalendar=daily
        Persistent=true
        RandomizedDelaySec=30min

        [Install]
        WantedBy=timers.target
      '';
      prune = ''
        [Unit]
        Description=Schedule of the removal of expired backups of the PostgreSQL instance main

        [Timer]
        OnCalendar=04:30
        Persistent=true
        RandomizedDelaySec=15min

        [Install]
        WantedBy=timers.target
      '';
      enabled = map (name: "/etc/systemd/system/timers.target.wants/postgresql-${name}-main.timer") [
        "basebackup"
        "branches"
        "healthcheck"
        "restore-drill"
        "walprune"
      ];
    };
  };

  "test a failing backup reaches its start limit and so becomes a failure" = {
    expr =
      let
        number = directive: lib.toIntBase10 (lib.head (values directive "postgresql-basebackup-main.service" plain));
        retryMinutes = lib.toIntBase10 (
          lib.removeSuffix "min" (lib.head (values "RestartSec" "postgresql-basebackup-main.service" plain))
        );
      in
      number "StartLimitBurst" * retryMinutes * 60 < number "StartLimitIntervalSec";
    expected = true;
  };

  "test a snapshot and the removal of expired ones are one job, which has its rights for as long as it runs" = {
    expr =
      let
        unit = "postgresql-snapshot-main.service";
        of = directive: values directive unit onZfs;
      in
      {
        inherit (section "snapshots" onZfs) dataset keep;
        rights = of "ExecStartPre";
        start = of "ExecStart";
        noRights = of "ExecStopPost";
        user = of "User";
        namespace = of "PrivateUsers";
        device = of "DeviceAllow";
        writes = of "ReadWritePaths";
        timeout = of "TimeoutStartSec";
        after = words "After" unit onZfs;
        timer = lib.filter (lib.hasPrefix "OnCalendar=") (
          lib.splitString "\n" onZfs.units."postgresql-snapshot-main.timer"
        );
        age = (section "healthCheck" onZfs).maximumSnapshotAgeSeconds;
        inherit (onZfs) failedAssertions warnings;
      };
    expected = {
      dataset = "tank/services/postgresql/main";
      keep = 24;
      rights = [
        "+/run/booted-system/sw/bin/zfs allow -u postgres destroy,mount,snapshot,userprop tank/services/postgresql/main"
      ];
      start = [
        "/usr/lib/backstay/bin/pg-base-backup --config /etc/backstay/main.json --method snapshot"
        "/usr/lib/backstay/bin/pg-prune --config /etc/backstay/main.json --snapshots"
      ];
      noRights = [
        "+/run/booted-system/sw/bin/zfs unallow -u postgres destroy,mount,snapshot,userprop tank/services/postgresql/main"
      ];
      user = [ "postgres" ];
      # ZFS takes no delegated right from within a user namespace.
      namespace = [ "false" ];
      device = [ "/dev/zfs rw" ];
      writes = [
        "/var/lib/backstay/main"
        "/var/lib/node_exporter/textfile_collector"
      ];
      timeout = [ "15min" ];
      after = [ "postgresql-main.service" ];
      timer = [ "OnCalendar=hourly" ];
      age = 7200;
      failedAssertions = [ ];
      warnings = [ ];
    };
  };

  "test no snapshots of our own are taken where none are declared" = {
    expr = {
      units = unitsOf "postgresql-snapshot-" (hostWith [
        zfs
        (main { })
      ]);
      keep =
        (section "snapshots" (hostWith [
          zfs
          (main { })
        ])).keep or null;
      # Whatever the parts say.
      withoutBackups = unitsOf "postgresql-snapshot-" (hostWith [
        zfs
        (main {
          backup.enable = false;
          backup.baseBackup.snapshots.enable = true;
        })
      ]);
    };
    expected = {
      units = [ ];
      keep = null;
      withoutBackups = [ ];
    };
  };

  "test pruning waits for whoever reads or writes backups" = {
    expr = {
      offSite = words "After" "postgresql-walprune-main.service" offSite;
      alone = words "After" "postgresql-walprune-main.service" (host { drill.enable = false; });
      writes = values "ReadWritePaths" "postgresql-walprune-main.service" offSite;
    };
    expected = {
      offSite = [
        "postgresql-basebackup-main.service"
        "postgresql-restore-drill-main.service"
        "restic-backups-postgresql-main-wal.service"
        "restic-backups-postgresql-main-base.service"
      ];
      alone = [ "postgresql-basebackup-main.service" ];
      writes = [
        "/var/lib/postgresql/main-wal"
        "/var/backup/postgresql/main"
        "/var/lib/node_exporter/textfile_collector"
      ];
    };
  };

  "test backups on ZFS wait for their datasets, and snapshots are known" = {
    expr =
      let
        evaluated = hostWith [
          {
            modules.storage.datasets = {
              enable = true;
              parentDataset = "tank/services";
            };
          }
          (main { })
        ];
      in
      {
        base = values "RequiresMountsFor" "postgresql-basebackup-main.service" evaluated;
        # These would stop a unit without making it fail.
        asserted = values "AssertPathIsMountPoint" "postgresql-basebackup-main.service" evaluated;
        snapshots = section "snapshots" evaluated;
        prune = values "RequiresMountsFor" "postgresql-walprune-main.service" evaluated;
      };
    expected = rec {
      base = [
        "/var/lib/postgresql/main"
        "/var/lib/postgresql/main-wal"
        "/var/backup/postgresql/main"
      ];
      asserted = [ ];
      snapshots = {
        dataset = "tank/services/postgresql/main";
        archiveDataset = "tank/services/postgresql/main-wal";
      };
      prune = base;
    };
  };

  "test schedules as the guide writes them become calendar expressions" = {
    expr =
      let
        evaluated = hostWith [
          nas
          (main {
            backup.restic.repositoryName = "nas";
            backup.baseBackup.schedule = "02:00";
            backup.walArchive.syncInterval = "*/15";
          })
        ];
        calendar = unit: values "OnCalendar" "${unit}.timer" evaluated;
      in
      {
        base = calendar "postgresql-basebackup-main";
        uploadOfBase = calendar "restic-backups-postgresql-main-base";
        uploadOfWal = calendar "restic-backups-postgresql-main-wal";
        byDefault = values "OnCalendar" "restic-backups-postgresql-main-wal.timer" offSite;
      };
    expected = {
      base = [ "02:00" ];
      uploadOfBase = [ "02:00" ];
      uploadOfWal = [ "*:0/15" ];
      byDefault = [ "*:0/5" ];
    };
  };

  # Which parts are on.

  "test backup.enable on its own changes nothing" = {
    expr = (host { backup.enable = true; }).state == plain.state;
    expected = true;
  };

  "test backup.enable = false leaves no unit, no schedule and no archiving" = {
    expr =
      let
        evaluated = hostWith [
          nas
          (main {
            backup = {
              enable = false;
              walArchive.enable = true;
              baseBackup.enable = true;
              restic.repositoryName = "nas";
            };
          })
        ];
      in
      {
        units = lib.concatMap (prefix: unitsOf prefix evaluated) [
          "postgresql-basebackup"
          "postgresql-walprune"
          "postgresql-restore-drill"
          "restic-"
        ];
        archiveMode = conf "archive_mode" evaluated;
        archiveCommand = conf "archive_command" evaluated;
        archiveTimeout = conf "archive_timeout" evaluated;
        sections = lib.attrNames (settings evaluated);
        inherit (evaluated) failedAssertions;
      };
    expected = {
      units = [ ];
      archiveMode = [ "off" ];
      archiveCommand = [ ];
      archiveTimeout = [ ];
      sections = [
        "archive"
        "databases"
        "healthCheck"
        "instance"
        "metrics"
        "postgresql"
      ];
      failedAssertions = [ ];
    };
  };

  "test an instance that is not enabled changes nothing, whatever it declares" = {
    expr =
      let
        declared = hostWith [
          nas
          {
            modules.services.postgresql.instances.main = {
              enable = false;
              backup.restic.repositoryName = "nas";
              backup.restic.repositoryUrl = "rest:https://other.example.org/forge";
              preseed.enable = true;
              recovery.enable = true;
              drill.sources = [ ];
              objectives.offsiteRpoSeconds = 60;
            };
          }
        ];
        bare = hostWith [ nas ];
      in
      declared.state == bare.state
      && declared.failedAssertions == bare.failedAssertions
      && declared.warnings == bare.warnings;
    expected = true;
  };

  # Off-site.

  "test the name of a declared repository is enough for copies off-site" = {
    expr = {
      jobs = lib.mapAttrs (_: job: {
        inherit (job)
          repository
          paths
          tags
          excludePatterns
          schedule
          ;
      }) offSite.config.modules.backup.restic.jobs;
      units = lib.filter (lib.hasInfix "postgresql-main") (unitsOf "restic-backups-" offSite);
      settings = section "restic" offSite;
      inherit (offSite) failedAssertions warnings;
    };
    expected = {
      jobs = {
        postgresql-main-wal = {
          repository = "nas";
          paths = [ "/var/lib/postgresql/main-wal" ];
          tags = [
            "postgresql"
            "main"
            "wal-archive"
          ];
          excludePatterns = [ "/var/lib/postgresql/main-wal/incoming" ];
          schedule = "*:0/5";
        };
        postgresql-main-base = {
          repository = "nas";
          paths = [ "/var/backup/postgresql/main" ];
          tags = [
            "postgresql"
            "main"
            "base-backup"
          ];
          excludePatterns = [ "/var/backup/postgresql/main/*.partial" ];
          schedule = "daily";
        };
      };
      units = [
        "restic-backups-postgresql-main-base.service"
        "restic-backups-postgresql-main-base.timer"
        "restic-backups-postgresql-main-wal.service"
        "restic-backups-postgresql-main-wal.timer"
      ];
      settings = [
        {
          name = "nas";
          repository = "rest:https://nas.example.org/forge";
          passwordFile = "/run/secrets/restic/password";
          environmentFile = "/run/secrets/restic/env";
          host = "forge";
          jobs = [
            {
              job = "wal";
              unit = "restic-backups-postgresql-main-wal.service";
            }
            {
              job = "base";
              unit = "restic-backups-postgresql-main-base.service";
            }
          ];
        }
      ];
      failedAssertions = [ ];
      warnings = [ ];
    };
  };

  "test snapshots of what something else copies are of a host that nobody knows" = {
    expr = map (repository: repository.host or null) (
      section "restic" (host {
        integration.backup.enable = false;
        backup.restic = {
          repositoryUrl = "rest:https://nas.example.org/forge";
          passwordFile = "/run/secrets/restic/password";
        };
      })
    );
    expected = [ null ];
  };

  "test a server that recovers can get WAL out of the repository, and starts without its secrets" = {
    expr =
      let
        server = "postgresql-main.service";
        sftp = host {
          backup.restic = {
            repositoryUrl = "sftp:backup@nas.example.org:/restic";
            passwordFile = "/run/secrets/restic/password";
          };
        };
        path = evaluated: map lib.getName evaluated.config.systemd.services.postgresql-main.path;
      in
      {
        path = map (evaluated: lib.intersectLists [ "restic" "openssh" ] (path evaluated)) [
          plain
          offSite
          sftp
        ];
        credentials = values "LoadCredential" server offSite;
        instead = values "SetCredential" server offSite;
        none = values "LoadCredential" server plain;
        after = lib.elem "sops-install-secrets.service" (words "After" server offSite);
      };
    expected = {
      path = [
        [ ]
        [ "restic" ]
        [
          "restic"
          "openssh"
        ]
      ];
      credentials = [
        "restic-password-nas:/run/secrets/restic/password"
        "restic-environment-nas:/run/secrets/restic/env"
      ];
      instead = [
        "restic-password-nas:\\n"
        "restic-environment-nas:\\n"
      ];
      none = [ ];
      after = true;
    };
  };

  "test every repository has jobs of its own, and restores ask them in their order" = {
    expr =
      let
        evaluated = hostWith [
          nas
          {
            modules.backup.restic.repositories.second-site = {
              url = "sftp:backup@second.example.org:/restic";
              passwordFile = "/run/secrets/restic/second";
            };
          }
          (main {
            backup.restic = {
              repositoryName = "nas";
              furtherRepositories = [ "second-site" ];
            };
            drill.sources = [ "restic" ];
          })
        ];
        services = lib.filter (lib.hasSuffix ".service") (
          lib.filter (lib.hasInfix "postgresql-main") (unitsOf "restic-backups-" evaluated)
        );
      in
      {
        repositories = lib.genAttrs services (
          unit:
          lib.filter (lib.hasInfix "RESTIC_REPOSITORY=") (values "Environment" unit evaluated)
        );
        settings = map (repository: {
          inherit (repository) name;
          units = map (job: job.unit) repository.jobs;
        }) (section "restic" evaluated);
        # Nothing of one waits for the other.
        waits = lib.filter (lib.hasPrefix "restic-backups-postgresql") (
          words "After" "restic-backups-postgresql-main-wal-second-site.service" evaluated
        );
        after = words "OnSuccess" "postgresql-basebackup-main.service" evaluated;
        credentials = values "LoadCredential" "postgresql-restore-drill-main.service" evaluated;
        noted = lib.filter (lib.hasInfix "pg-off-site") (
          values "ExecStartPost" "restic-backups-postgresql-main-base-second-site.service" evaluated
        );
        problems = evaluated.failedAssertions ++ evaluated.warnings;
      };
    expected =
      let
        first = [ "\"RESTIC_REPOSITORY=rest:https://nas.example.org/forge\"" ];
        second = [ "\"RESTIC_REPOSITORY=sftp:backup@second.example.org:/restic\"" ];
      in
      {
        repositories = {
          "restic-backups-postgresql-main-base.service" = first;
          "restic-backups-postgresql-main-wal.service" = first;
          "restic-backups-postgresql-main-base-second-site.service" = second;
          "restic-backups-postgresql-main-wal-second-site.service" = second;
        };
        settings = [
          {
            name = "nas";
            units = [
              "restic-backups-postgresql-main-wal.service"
              "restic-backups-postgresql-main-base.service"
            ];
          }
          {
            name = "second-site";
            units = [
              "restic-backups-postgresql-main-wal-second-site.service"
              "restic-backups-postgresql-main-base-second-site.service"
            ];
          }
        ];
        waits = [ ];
        after = [
          "restic-backups-postgresql-main-base.service"
          "restic-backups-postgresql-main-base-second-site.service"
        ];
        credentials = [
          "restic-password-nas:/run/secrets/restic/password"
          "restic-environment-nas:/run/secrets/restic/env"
          "restic-password-second-site:/run/secrets/restic/second"
        ];
        noted = [
          "-/usr/lib/backstay/bin/pg-off-site --config /etc/backstay/main.json --repository=second-site --content=base --end"
        ];
        problems = [ ];
      };
  };

  "test E5 a further repository that is not there, has no password, or is the first, is refused" = {
    expr =
      (hostWith [
        nas
        { modules.backup.restic.repositories.open.url = "rest:https://open.example.org/forge"; }
        (main {
          backup.restic = {
            repositoryName = "nas";
            furtherRepositories = [
              "nas"
              "open"
              "elsewhere"
            ];
          };
        })
      ]).failedAssertions;
    expected = [
      "${at "backup.restic.furtherRepositories"}: \"nas\" is the first repository already; leave it out."
      "${at "backup.restic.furtherRepositories"}: \"open\" has no password file, and restic stores nothing without a password; set modules.backup.restic.repositories.open.passwordFile."
      "${at "backup.restic.furtherRepositories"}: \"elsewhere\" is not in modules.backup.restic.repositories (declared are \"nas\" and \"open\"); declare it there with its url, or leave it out."
    ];
  };

  "test E5 further repositories without a first one are refused" = {
    expr =
      (hostWith [
        nas
        (main { backup.restic.furtherRepositories = [ "nas" ]; })
      ]).failedAssertions;
    expected = [
      "${at "backup.restic.furtherRepositories"}: \"nas\" is named, and nothing is copied; set backup.restic.repositoryName, or leave the list empty."
    ];
  };

  "test a copy notes what it holds when it was made, and is made without a note if need be" = {
    expr =
      let
        noted = lib.filter (lib.hasInfix "pg-off-site");
        of =
          evaluated: directive:
          noted (values directive "restic-backups-postgresql-main-wal.service" evaluated);
      in
      {
        # What is not there yet is not copied.
        conditions = [
          (values "ConditionPathExists" "restic-backups-postgresql-main-wal.service" offSite)
          (values "ConditionPathExistsGlob" "restic-backups-postgresql-main-base.service" offSite)
        ];
        before = of offSite "ExecStartPre";
        after = of offSite "ExecStartPost";
        writes = lib.elem "/var/lib/backstay/main" (
          values "ReadWritePaths" "restic-backups-postgresql-main-wal.service" offSite
        );
        base = noted (values "ExecStartPost" "restic-backups-postgresql-main-base.service" offSite);
        # Somebody else may not write where the notes are, so it is done in the name of the owner.
        others = of (hostWith [
          nas
          (main { backup.restic.repositoryName = "nas"; })
          { modules.backup.restic.jobs.postgresql-main-wal.user = "root"; }
        ]) "ExecStartPost";
      };
    expected = {
      conditions = [
        [ "/var/lib/postgresql/main-wal/archive.json" ]
        [ "/var/backup/postgresql/main/.backstay/????????-??????.json" ]
      ];
      before = [
        "-/usr/lib/backstay/bin/pg-off-site --config /etc/backstay/main.json --repository=nas --content=wal --begin"
      ];
      after = [
        "-/usr/lib/backstay/bin/pg-off-site --config /etc/backstay/main.json --repository=nas --content=wal --end"
      ];
      writes = true;
      base = [
        "-/usr/lib/backstay/bin/pg-off-site --config /etc/backstay/main.json --repository=nas --content=base --end"
      ];
      others = [
        "-+/usr/bin/runuser --user=postgres -- /usr/lib/backstay/bin/pg-off-site --config /etc/backstay/main.json --repository=nas --content=wal --end"
      ];
    };
  };

  "test copies are made in a user namespace, unless somebody else makes them" = {
    expr =
      let
        namespaces = evaluated: lib.concatMap (unit: values "PrivateUsers" unit evaluated) [
          "restic-backups-postgresql-main-wal.service"
          "restic-backups-postgresql-main-base.service"
        ];
      in
      {
        own = namespaces offSite;
        others = namespaces (hostWith [
          nas
          (main { backup.restic.repositoryName = "nas"; })
          { modules.backup.restic.jobs.postgresql-main-wal.user = "root"; }
        ]);
      };
    expected = {
      own = [
        "true"
        "true"
      ];
      others = [
        "false"
        "true"
      ];
    };
  };

  "test a base backup is copied off-site as soon as it has been taken, and not while it is" = {
    expr = {
      then_ = words "OnSuccess" "postgresql-basebackup-main.service" offSite;
      alone = words "OnSuccess" "postgresql-basebackup-main.service" plain;
      waits = lib.elem "postgresql-basebackup-main.service" (
        words "After" "restic-backups-postgresql-main-base.service" offSite
      );
    };
    expected = {
      then_ = [ "restic-backups-postgresql-main-base.service" ];
      alone = [ ];
      waits = true;
    };
  };

  "test an instance can describe its repository itself" = {
    expr =
      let
        evaluated = host {
          backup.restic = {
            enable = true;
            repositoryName = "nas-primary";
            repositoryUrl = "s3:https://s3.example.org/forge";
            passwordFile = "/run/secrets/restic/password";
            environmentFile = "/run/secrets/restic/env";
          };
        };
        repository = evaluated.config.modules.backup.restic.repositories.nas-primary;
      in
      {
        inherit (repository) url passwordFile environmentFile;
        runs = lib.hasAttr "restic-backups-postgresql-main-wal.timer" evaluated.units;
        problems = evaluated.failedAssertions ++ evaluated.warnings;
      };
    expected = {
      url = "s3:https://s3.example.org/forge";
      passwordFile = "/run/secrets/restic/password";
      environmentFile = "/run/secrets/restic/env";
      runs = true;
      problems = [ ];
    };
  };

  "test a repository without a name is called after the instance" = {
    expr =
      let
        evaluated = host {
          backup.restic = {
            repositoryUrl = "s3:https://s3.example.org/forge";
            passwordFile = "/run/secrets/restic/password";
          };
        };
      in
      {
        repositories = lib.attrNames evaluated.config.modules.backup.restic.repositories;
        names = map (repository: repository.name) (section "restic" evaluated);
        inherit (evaluated) failedAssertions;
      };
    expected = {
      repositories = [ "postgresql-main" ];
      names = [ "postgresql-main" ];
      failedAssertions = [ ];
    };
  };

  "test what a job keeps can be set where the guide sets it" = {
    expr =
      let
        evaluated = hostWith [
          nas
          (main { backup.restic.repositoryName = "nas"; })
          {
            modules.backup.restic.jobs."postgresql-main-base".keep = {
              daily = 7;
              weekly = 4;
              monthly = 12;
              yearly = 3;
            };
          }
        ];
      in
      {
        inherit (evaluated.config.modules.backup.restic.jobs."postgresql-main-base".keep)
          daily
          weekly
          monthly
          yearly
          ;
        inherit (evaluated) failedAssertions;
      };
    expected = {
      daily = 7;
      weekly = 4;
      monthly = 12;
      yearly = 3;
      failedAssertions = [ ];
    };
  };

  "test integration.backup.enable = false makes no job and keeps the repository for restores" = {
    expr =
      let
        evaluated = hostWith [
          nas
          (main {
            backup.restic.repositoryName = "nas";
            integration.backup.enable = false;
          })
        ];
      in
      {
        units = unitsOf "restic-backups-postgresql" evaluated;
        then_ = words "OnSuccess" "postgresql-basebackup-main.service" evaluated;
        jobs = map (repository: repository.jobs) (section "restic" evaluated);
        inherit (evaluated) failedAssertions;
      };
    expected = {
      units = [ ];
      then_ = [ ];
      jobs = [ [ ] ];
      failedAssertions = [ ];
    };
  };

  "test a failure of a backup is told" = {
    expr =
      let
        evaluated = hostWith [
          {
            modules.notifications = {
              enable = true;
              ntfy = {
                enable = true;
                topic = "alerts";
              };
            };
          }
          (main { })
        ];
      in
      {
        base = words "OnFailure" "postgresql-basebackup-main.service" evaluated;
        prune = words "OnFailure" "postgresql-walprune-main.service" evaluated;
      };
    expected = {
      base = [ "notify@postgresql-backup-failure:%n.service" ];
      prune = [ "notify@postgresql-prune-failure:%n.service" ];
    };
  };

  # Mistakes.

  "test E1 an archive with a relative path is refused" = refused [
    "${at "backup.walArchive.directory"}: \"archive\" is not an absolute path; write the whole path, from \"/\" on."
  ] { backup.walArchive.directory = "archive"; };

  "test E1 an archive below /tmp is refused" = refused [
    "${at "backup.walArchive.directory"}: \"/tmp/archive\" is below \"/tmp\", which does not last; choose a directory that survives a restart and that nothing cleans up."
  ] { backup.walArchive.directory = "/tmp/archive"; };

  "test E1 an archive inside pg_wal is refused" = refused [
    "${at "backup.walArchive.directory"}: \"/var/lib/postgresql/main/16/pg_wal/archive\" is inside \"/var/lib/postgresql/main\", where the data is, and what goes away with the data is no backup of it; choose a directory apart from it."
  ] { backup.walArchive.directory = "/var/lib/postgresql/main/16/pg_wal/archive"; };

  "test E1 an archive around the data is refused" = refused [
    "${at "backup.walArchive.directory"}: \"/var/lib/postgresql\" contains \"/var/lib/postgresql/main\", where the data is, and what goes away with the data is no backup of it; choose a directory apart from it."
  ] { backup.walArchive.directory = "/var/lib/postgresql"; };

  "test E1 a path that units and shells would read differently is refused" = refused [
    "${at "backup.baseBackup.directory"}: \"/srv/100% safe\" is not a plain path; use letters, digits and the characters _ . : @ + = , - between single slashes, and no slash at the end."
  ] { backup.baseBackup.directory = "/srv/100% safe"; };

  "test E2 one directory for archive and base backups is refused" =
    refused
      [
        "${at "backup.baseBackup.directory"}: \"/srv/backup\" is the place of the WAL archive too; choose a directory apart from it."
      ]
      {
        backup.walArchive.directory = "/srv/backup";
        backup.baseBackup.directory = "/srv/backup";
      };

  "test E2 base backups inside the archive are refused" = refused [
    "${at "backup.baseBackup.directory"}: \"/var/lib/postgresql/main-wal/base\" is inside \"/var/lib/postgresql/main-wal\", the place of the WAL archive; choose a directory apart from it."
  ] { backup.baseBackup.directory = "/var/lib/postgresql/main-wal/base"; };

  "test E2 a further archive that is the archive itself is refused" = refused [
    "${at "backup.walArchive.furtherDirectories.[0]"}: \"/var/lib/postgresql/main-wal\" is the place of the WAL archive too; choose a directory apart from it."
  ] { backup.walArchive.furtherDirectories = [ "/var/lib/postgresql/main-wal" ]; };

  "test E10 one archive for two instances is refused" =
    refusedOn
      [
        "${at "backup.walArchive.directory"}: \"/srv/wal\" is the place of the WAL archive of \"dev\" too; give each instance a directory of its own."
      ]
      [
        (main { backup.walArchive.directory = "/srv/wal"; })
        (dev { backup.walArchive.directory = "/srv/wal"; })
      ];

  "test E10 base backups in the data of another instance are refused" =
    refusedOn
      [
        "${at "backup.baseBackup.directory"}: \"/var/lib/postgresql/dev/backups\" is inside \"/var/lib/postgresql/dev\", where the data of \"dev\" is; choose a directory apart from it."
      ]
      [
        (main { backup.baseBackup.directory = "/var/lib/postgresql/dev/backups"; })
        (dev { })
      ];

  "test an archive without base backups is refused" = refused [
    "${at "backup.baseBackup.enable"}: false leaves an archive that nothing can be restored from, since every restore starts from a base backup; set it to true, or set backup.walArchive.enable = false as well."
  ] { backup.baseBackup.enable = false; };

  "test base backups without an archive are refused" = refused [
    "${at "backup.walArchive.enable"}: false leaves base backups without the WAL that makes them consistent, so none would count; set it to true, or set backup.baseBackup.enable = false as well."
  ] { backup.walArchive.enable = false; };

  "test E8 a window shorter than the time between base backups is refused" =
    refused
      [
        "${at "backup.walArchive.retentionDays"}: 3 days are shorter than the 7 days between two base backups (backup.baseBackup.schedule is \"weekly\"), so the window would begin with a backup from before it; use at least 7, or take base backups more often."
      ]
      {
        backup.baseBackup.schedule = "weekly";
        backup.walArchive.retentionDays = 3;
      };

  "test E8 a window of one day suits base backups at night" = warned [ ] {
    backup.baseBackup.schedule = "02:00";
    backup.walArchive.retentionDays = 1;
  };

  "test E8 a retention of 0 days is no value" = noValue { backup.walArchive.retentionDays = 0; };
  "test snapshots need a dataset" =
    refused
      [
        "${at "backup.baseBackup.snapshots.enable"}: true, and no dataset is declared for \"/var/lib/postgresql/main\"; set modules.storage.datasets.enable = true, or declare the file system with its dataset in fileSystems."
      ]
      {
        backup.baseBackup.snapshots.enable = true;
      };

  "test E11 a tablespace that no snapshot takes together with the data is refused" = {
    expr =
      (hostWith [
        zfs
        {
          modules.storage.datasets.services = {
            "postgresql/main/below".mountpoint = "/srv/below";
            beside.mountpoint = "/srv/beside";
          };
        }
        (main {
          tablespaces = [
            "/srv/below/tablespace"
            "/srv/beside/tablespace"
          ];
          backup.baseBackup.snapshots.enable = true;
        })
      ]).failedAssertions;
    expected = [
      "${at "backup.baseBackup.snapshots.enable"}: the tablespace \"/srv/beside/tablespace\" is on the dataset \"tank/services/beside\", which is not below \"tank/services/postgresql/main\", that of the data, so no snapshot takes both at one moment; give it a dataset below that."
    ];
  };

  "test who replicates snapshots of our own hears that nothing destroys them there" = {
    expr =
      let
        warnings =
          replication:
          (hostWith [
            zfs
            {
              modules.backup.sanoid.datasets."tank/services/postgresql/main".replication = {
                targetHost = "nas";
                targetDataset = "backup/main";
                hostKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGJhY2tzdGF5L2V4YW1wbGUvbm90LWEtcmVhbC1r";
              }
              // replication;
            }
            (main { backup.baseBackup.snapshots.enable = true; })
          ]).warnings;
        ours = lib.filter (lib.hasInfix "baseBackup.snapshots");
      in
      {
        unknown = ours (warnings { });
        promised = ours (warnings {
          retentionDays = 60;
        });
      };
    expected = {
      unknown = [
        "${at "backup.baseBackup.snapshots.enable"}: the dataset \"tank/services/postgresql/main\" is replicated to \"backup/main\", which gets these snapshots too, and sanoid destroys none of them there; have the target destroy those named backstay-*, and say after how long in modules.backup.sanoid.datasets.\"tank/services/postgresql/main\".replication.retentionDays."
      ];
      promised = [ ];
    };
  };

  "test E8 a negative retention is no value" = noValue { backup.baseBackup.retention.daily = -1; };
  "test E8 a retention with a unit is no value" = noValue { backup.walArchive.retentionDays = "30d"; };
  "test E15 a schedule that systemd would skip is no value" = noValue {
    backup.baseBackup.schedule = "every day";
  };
  "test E15 a pruning at an hour that does not exist is no value" = noValue {
    backup.pruneSchedule = "25:00";
  };
  "test E16 a compression level out of range is no value" = noValue {
    backup.walArchive.compression.level = 20;
  };
  "test E16 an unknown compression is no value" = noValue {
    backup.walArchive.compression.algorithm = "brotli";
  };
  "test E6 a password file in the Nix store is no value" = noValue {
    backup.restic = {
      repositoryUrl = "s3:https://s3.example.org/forge";
      passwordFile = "/nix/store/00000000000000000000000000000000-password";
    };
  };
  "test E6 a password file that Nix would copy is no value" = noValue {
    backup.restic = {
      repositoryUrl = "s3:https://s3.example.org/forge";
      passwordFile = ./backup.nix;
    };
  };
  "test a rate below what pg_basebackup takes is no value" = noValue {
    backup.baseBackup.maximumRateKibibytesPerSecond = 31;
  };

  "test E16 a level for a compression without levels is refused" =
    refused
      [
        "${at "backup.walArchive.compression.level"}: 3 has no effect on \"lz4\", only zstd has levels; leave it out, or set backup.walArchive.compression.algorithm = \"zstd\"."
      ]
      {
        backup.walArchive.compression = {
          algorithm = "lz4";
          level = 3;
        };
      };

  "test E7 incremental backups of PostgreSQL 16 are refused" =
    refused
      [
        "${at "backup.baseBackup.incremental.enable"}: incremental base backups need PostgreSQL 17, and version is \"16\"; use a later version, or leave them off."
      ]
      {
        version = "16";
        backup.baseBackup.incremental.enable = true;
      };

  "test E7 incremental backups without WAL summaries are refused" = {
    expr = lib.length (host {
      version = "17";
      backup.baseBackup.incremental.enable = true;
      extraSettings.summarize_wal = false;
    }).failedAssertions;
    expected = 1;
  };

  "test E7 incremental backups as tar files are refused" =
    refused
      [
        "${at "backup.baseBackup.format"}: \"tar\" cannot be combined into a chain of incremental backups; use \"plain\", or set backup.baseBackup.incremental.enable = false."
      ]
      {
        version = "17";
        backup.baseBackup = {
          incremental.enable = true;
          format = "tar";
        };
      };

  "test a compression of the plain format is refused" = refused [
    "${at "backup.baseBackup.tarCompression"}: \"gzip\" has no effect on the plain format; set backup.baseBackup.format = \"tar\", or leave it out and let the file system compress."
  ] { backup.baseBackup.tarCompression = "gzip"; };

  "test a compression that the server does not have is refused" =
    refused
      [
        "${at "backup.baseBackup.tarCompression"}: \"zstd\" needs PostgreSQL 15, and version is \"14\"; use \"gzip\" or a later version."
      ]
      {
        version = "14";
        backup.baseBackup = {
          format = "tar";
          tarCompression = "zstd";
        };
      };

  "test E5 restic without a repository is refused" = refused [
    "${at "backup.restic.enable"}: true, and no repository is named; set backup.restic.repositoryName to a repository of modules.backup.restic.repositories (none is declared), or set backup.restic.repositoryUrl and passwordFile."
  ] { backup.restic.enable = true; };

  "test E5 a repository that nobody declared is refused" =
    refusedOn
      [
        "${at "backup.restic.repositoryName"}: \"nass\" is not in modules.backup.restic.repositories (declared is \"nas\"), and repositoryUrl is not set; declare it there, or set repositoryUrl and passwordFile here."
      ]
      [
        nas
        (main { backup.restic.repositoryName = "nass"; })
      ];

  "test E5 a repository without a password is refused" = refused [
    "${at "backup.restic.passwordFile"}: the repository \"s3:https://s3.example.org/forge\" has no password file, and restic stores nothing without a password; write the path of a file with the password, such as \"/run/secrets/restic-password\"."
  ] { backup.restic.repositoryUrl = "s3:https://s3.example.org/forge"; };

  "test a password in the URL of a repository is refused and not repeated" =
    refused
      [
        "${at "backup.restic.repositoryUrl"}: it has a password in it, and it becomes part of the Nix store, where every user can read it; put the password into environmentFile, as RESTIC_REST_PASSWORD."
      ]
      {
        backup.restic = {
          repositoryUrl = "rest:https://forge:hunter2@nas.example.org/";
          passwordFile = "/run/secrets/restic/password";
        };
      };

  "test another place than the declared one is refused" =
    refusedOn
      [
        "${at "backup.restic.repositoryUrl"}: \"/mnt/nas\" is not the place of the repository \"nas\", which is declared as \"rest:https://nas.example.org/forge\"; leave it out, or use another repositoryName."
      ]
      [
        nas
        (main {
          backup.restic = {
            repositoryName = "nas";
            repositoryUrl = "/mnt/nas";
          };
        })
      ];

  "test two instances that describe one repository differently are refused" =
    let
      described = url: {
        backup.restic = {
          repositoryName = "nas";
          repositoryUrl = url;
          passwordFile = "/run/secrets/restic/password";
        };
      };
    in
    refusedOn
      [
        "${at "backup.restic.repositoryUrl"}: \"s3:https://b.example.org/x\" is not the place of the repository \"nas\", which is declared as \"s3:https://a.example.org/x\"; leave it out, or use another repositoryName."
      ]
      [
        (dev (described "s3:https://a.example.org/x"))
        (main (described "s3:https://b.example.org/x"))
      ];

  "test another archive_timeout in extraSettings is refused" = {
    expr = lib.length (host { extraSettings.archive_timeout = 60; }).failedAssertions;
    expected = 1;
  };

  # What is allowed and has a price.

  "test base backups that outlive the WAL are told once somebody asks for them" = warned [
    "${at "backup.baseBackup.retention"}: base backups are kept for up to 372 days, and the WAL for every second of 30 (backup.walArchive.retentionDays); of the time before that, only the moments at which a base backup ended can be restored. Set retentionDays = 372 if every second is wanted."
  ] { backup.baseBackup.retention.monthly = 12; };

  "test rules within the window are not told" = warned [ ] {
    backup.walArchive.retentionDays = 100;
    backup.baseBackup.retention.daily = 30;
  };

  "test the guide's shorter retention of a development instance is not told" = warned [ ] {
    backup.walArchive.retentionDays = 7;
  };

  # How far apart two runs of a timer are.

  "test the time between two runs follows from the calendar expression" = {
    expr = lib.genAttrs [
      "*:0/5"
      "*:0/7"
      "02,14:00"
      "02:00"
      "02:00 Europe/Berlin"
      "*-*-01 04:00:00"
      "*-*~01"
      "Mon,Thu 03:00"
      "Sat,Sun *-*-* 0/6:00"
      "daily"
      "hourly"
      "monthly"
      "quarterly"
      "weekly"
      "yearly"
    ] interval;
    expected = {
      "*:0/5" = 300;
      # 56 minutes past and then the full hour; after 0, 7 minutes.
      "*:0/7" = 420;
      "02,14:00" = 43200;
      "02:00" = 86400;
      "02:00 Europe/Berlin" = 86400;
      "*-*-01 04:00:00" = 2678400;
      "*-*~01" = 2678400;
      # Thursday to Monday.
      "Mon,Thu 03:00" = 345600;
      # Sunday 18:00 to Saturday 00:00.
      "Sat,Sun *-*-* 0/6:00" = 453600;
      "daily" = 86400;
      "hourly" = 3600;
      "monthly" = 2678400;
      "quarterly" = 7948800;
      "weekly" = 604800;
      "yearly" = 31622400;
    };
  };

  "test no time is guessed for years or for weekdays within dates" = {
    expr = map interval [
      "2026-*-* 02:00"
      "Mon *-*-1..7 02:00"
      "@1800000000"
    ];
    expected = [
      null
      null
      null
    ];
  };

  # Branches.

  "test branches whose time is over are removed by a timer, where there are any" =
    let
      unit = "postgresql-branches-main.service";
      of = directive: values directive unit plain;
    in
    {
      expr = {
        start = of "ExecStart";
        user = of "User";
        condition = of "ConditionDirectoryNotEmpty";
        writes = lib.head (of "ReadWritePaths");
        when = values "OnCalendar" "postgresql-branches-main.timer" plain;
        # Without an archive no branch can be made.
        without = (host { backup.enable = false; }).units ? ${unit};
      };
      expected = {
        start = [
          "/usr/lib/backstay/bin/backstay branch destroy main --expired --config /etc/backstay/main.json"
        ];
        user = [ "postgres" ];
        condition = [ "/var/lib/postgresql/main/16.branches" ];
        writes = "-/var/lib/postgresql/main/16.branches";
        when = [ "*:0/10" ];
        without = false;
      };
    };
}
