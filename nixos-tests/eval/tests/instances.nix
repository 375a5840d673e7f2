# The server of each instance: its unit, its files, its directories, and the mistakes that are found before it starts.
{
  lib,
  evalBareHost,
  evaluates,
  pkgs,
  ...
}:
let
  area = ../../../nixos-modules/instances;
  evalArea = modules: evalBareHost ([ area ] ++ modules);

  instances = declared: { modules.services.postgresql.instances = declared; };
  # One enabled instance "main" with `settings`.
  main = settings: instances { main = lib.mkMerge [ { enable = true; } settings ]; };
  hostOf = settings: evalArea [ (main settings) ];
  onZfs = {
    modules.storage.datasets = {
      enable = true;
      parentDataset = "tank/services";
    };
  };

  failures = modules: (evalArea modules).failedAssertions;
  # What is wrong with one instance "main" with `settings`.
  wrong = settings: failures [ (main settings) ];

  instancePath = "modules.services.postgresql.instances";

  linesOf = text: lib.filter (line: line != "") (lib.splitString "\n" text);
  valuesOf =
    unit: directive:
    map (lib.removePrefix "${directive}=") (lib.filter (lib.hasPrefix "${directive}=") (linesOf unit));
  unitOf = host: host.units."postgresql-main.service";
  confOf = host: host.files."/etc/postgresql/main/postgresql.conf";
  settingLines = host: lib.filter (line: !lib.hasPrefix "#" line) (linesOf (confOf host));
  settingNames = host: map (line: lib.head (lib.splitString " " line)) (settingLines host);
  lineFor =
    host: setting:
    lib.findFirst (lib.hasPrefix "${setting} = ") "" (settingLines host);
  tmpfilesOf = host: linesOf host.files."/etc/tmpfiles.d/10-postgresql.conf";
  settingsOf = host: builtins.fromJSON host.files."/etc/backstay/main.json";

  # The lines of a unit that change with every change of a file.
  withoutTriggers =
    unit:
    lib.concatStringsSep "\n" (
      lib.filter (line: builtins.match "X-(Reload|Restart)-Triggers=.*" line == null) (
        lib.splitString "\n" unit
      )
    );
  restartTrigger = host: valuesOf (unitOf host) "X-Restart-Triggers";
  reloadTrigger = host: valuesOf (unitOf host) "X-Reload-Triggers";
in
{
  # The unit.

  "test the server's unit is what PostgreSQL's manual asks for, hardened" = {
    expr = withoutTriggers (unitOf (hostOf { }));
    expected = ''
      [Unit]
      Description=PostgreSQL 16, instance main
      Documentation=https://www.postgresql.org/docs/16/
      RequiresMountsFor=/var/lib/postgresql/main
      RequiresMountsFor=/var/lib/postgresql/main-wal
      StartLimitBurst=5
      StartLimitIntervalSec=300

      [Service]
      Environment="PATH=/usr/bin:/usr/sbin"
      Environment="PG_OOM_ADJUST_FILE=/proc/self/oom_score_adj"
      Environment="PG_OOM_ADJUST_VALUE=0"
      X-StopIfChanged=false
      AmbientCapabilities=
      CapabilityBoundingSet=
      DevicePolicy=closed
      ExecReload=/usr/bin/kill -HUP $MAINPID
      ExecStart=/usr/lib/postgresql/16/bin/postgres -D /var/lib/postgresql/main/16
      ExecStartPre=/usr/lib/backstay/bin/pg-init --config /etc/backstay/main.json
      Group=postgres
      KeyringMode=private
      KillMode=mixed
      KillSignal=SIGINT
      LimitCORE=0
      LockPersonality=true
      MemoryDenyWriteExecute=true
      NoNewPrivileges=true
      OOMScoreAdjust=-900
      PrivateDevices=true
      PrivateMounts=true
      PrivateTmp=true
      ProcSubset=pid
      ProtectClock=true
      ProtectControlGroups=true
      ProtectHome=true
      ProtectHostname=true
      ProtectKernelLogs=true
      ProtectKernelModules=true
      ProtectKernelTunables=true
      ProtectProc=invisible
      ProtectSystem=strict
      ReadWritePaths=/var/lib/postgresql/main
      ReadWritePaths=/run/postgresql
      ReadWritePaths=/var/lib/backstay/main
      ReadWritePaths=/var/lib/postgresql/main-wal
      Restart=on-failure
      RestartSec=5s
      RestrictAddressFamilies=AF_UNIX
      RestrictAddressFamilies=AF_INET
      RestrictAddressFamilies=AF_INET6
      RestrictAddressFamilies=AF_NETLINK
      RestrictNamespaces=true
      RestrictRealtime=true
      RestrictSUIDSGID=true
      SystemCallArchitectures=native
      SystemCallErrorNumber=EPERM
      SystemCallFilter=@system-service
      SystemCallFilter=~@privileged @resources
      TimeoutStartSec=infinity
      TimeoutStopSec=10min
      Type=notify
      UMask=0077
      User=postgres

      [Install]
      WantedBy=multi-user.target
    '';
  };

  "test the default instance answers to the names that other modules know" = {
    expr =
      let
        host = hostOf { };
      in
      {
        inherit (host) links;
        target = host.units."postgresql.target";
      };
    expected = {
      links = {
        "/etc/systemd/system/multi-user.target.wants/postgresql-main.service" = "../postgresql-main.service";
        "/etc/systemd/system/multi-user.target.wants/postgresql.target" = "../postgresql.target";
        "/etc/systemd/system/postgresql.service" = "postgresql-main.service";
      };
      target = ''
        [Unit]
        After=postgresql-main.service
        Description=PostgreSQL is ready for the services of this host
        Requires=postgresql-main.service
      '';
    };
  };

  "test the default instance is main, or the only one, or none" = {
    expr =
      let
        defaultOf =
          declared:
          (evalArea [ (instances declared) ]).config.modules.services.postgresql.defaultInstance;
        on.enable = true;
      in
      map defaultOf [
        { }
        {
          main = on;
          a = on;
        }
        { a = on; }
        {
          a = on;
          b = on;
        }
        {
          a = on;
          main = { };
        }
      ];
    expected = [
      null
      "main"
      "a"
      null
      "a"
    ];
  };

  "test without a default instance nothing answers to postgresql.service" = {
    expr =
      let
        host = evalArea [
          (main { })
          { modules.services.postgresql.defaultInstance = null; }
        ];
      in
      [
        (lib.filter (lib.hasSuffix "/postgresql.service") (lib.attrNames host.links))
        (host.units ? "postgresql.target")
        host.packages
      ];
    expected = [
      [ ]
      false
      [ "backstay" ]
    ];
  };

  "test the tools of the default instance are in the path" = {
    expr = (hostOf { }).packages;
    expected = [
      "backstay"
      "postgresql"
    ];
  };

  "test a server on addresses beyond loopback waits for the network" = {
    expr =
      map
        (
          listenAddresses:
          let
            unit = unitOf (hostOf { inherit listenAddresses; });
          in
          valuesOf unit "After" ++ valuesOf unit "Wants"
        )
        [
          "localhost"
          "127.0.0.1,::1"
          [ ]
          "*"
          "localhost, 192.0.2.10"
        ];
    expected = [
      [ ]
      [ ]
      [ ]
      [
        "network-online.target"
        "network-online.target"
      ]
      [
        "network-online.target"
        "network-online.target"
      ]
    ];
  };

  "test the server does not start before its preseed has succeeded" = {
    expr =
      let
        unit = unitOf (hostOf { preseed.enable = true; });
      in
      {
        after = valuesOf unit "After";
        requires = valuesOf unit "Requires";
      };
    expected = {
      after = [ "preseed-postgresql-main.service" ];
      requires = [ "preseed-postgresql-main.service" ];
    };
  };

  "test somebody is told when the server has given up" = {
    expr =
      let
        unit = unitOf (evalArea [
          (main { })
          {
            modules.notifications = {
              enable = true;
              defaultBackend = "ntfy";
              ntfy = {
                enable = true;
                topic = "forge";
              };
            };
          }
        ]);
      in
      {
        onFailure = valuesOf unit "OnFailure";
        onSuccess = valuesOf unit "OnSuccess";
      };
    expected = {
      onFailure = [ "notify@postgresql-failure:%n.service" ];
      onSuccess = [ ];
    };
  };

  "test machine code is forbidden unless something compiles" = {
    expr =
      map (settings: valuesOf (unitOf (hostOf settings)) "MemoryDenyWriteExecute")
        [
          { }
          { extraSettings.jit = true; }
          { extraSettings.jit = "on"; }
          { extraSettings.jit = "off"; }
          {
            extraPackages = _: [
              (pkgs.bash // { pname = "plv8"; })
            ];
          }
        ];
    expected = [
      [ "true" ]
      [ "false" ]
      [ "false" ]
      [ "true" ]
      [ "false" ]
    ];
  };

  "test a change that a reload takes does not restart the server" = {
    expr =
      map
        (
          settings:
          let
            before = hostOf { };
            after = hostOf settings;
          in
          {
            reloads = reloadTrigger before != reloadTrigger after;
            restarts = restartTrigger before != restartTrigger after;
          }
        )
        [
          { workMem = "8MB"; }
          { authentication = "host all all 192.0.2.0/24 scram-sha-256"; }
          { identMap = "staff alice app1"; }
          { sharedBuffers = "512MB"; }
          { extraSettings.wal_level = "logical"; }
          { extraSettings."pg_stat_statements.track" = "all"; }
        ];
    expected =
      let
        reload = {
          reloads = true;
          restarts = false;
        };
        restart = {
          reloads = true;
          restarts = true;
        };
      in
      [
        reload
        reload
        reload
        restart
        restart
        reload
      ];
  };

  "test PostgreSQL 13 is restarted for another restore_command, later ones are reloaded" = {
    expr =
      map
        (
          version:
          let
            trigger =
              overlay:
              restartTrigger (evalArea [
                (main { inherit version; })
                { nixpkgs.overlays = overlay; }
              ]);
            moved = _: previous: {
              backstay = lib.mapAttrs (_: package: package // { outPath = "/elsewhere"; }) previous.backstay;
            };
          in
          trigger [ ] != trigger [ moved ]
        )
        [
          13
          14
        ];
    expected = [
      true
      false
    ];
  };

  # postgresql.conf

  "test postgresql.conf gives a reason for what it sets" = {
    expr = confOf (hostOf { });
    expected = ''
      # Made by the NixOS module. PGDATA/postgresql.conf includes this file; what ALTER SYSTEM has set stands in
      # postgresql.auto.conf and wins over it.

      # Puts a finished WAL file into the archive; the settings are in the file that it names.
      archive_command = '/usr/lib/backstay/bin/pg-archive-wal --config /etc/backstay/main.json "%p"'
      # Hands finished WAL files to archive_command, once the database is out of recovery.
      archive_mode = on
      # Fewer checkpoints write fewer full pages into the WAL, and so into the archive. The price is a longer replay after a crash.
      checkpoint_timeout = '15min'
      # Tells the processes of several instances apart in ps and top.
      cluster_name = 'main'
      # From the option effectiveCacheSize.
      effective_cache_size = '1GB'
      # How many pages a bitmap scan asks for ahead; the default of 1 is made for one rotating disk.
      effective_io_concurrency = 200
      # A commit is on disk before the client hears of it.
      fsync = on
      # Repairs a page that a crash left half written.
      full_page_writes = on
      # From the option authentication.
      hba_file = '/etc/postgresql/main/pg_hba.conf'
      # From the option identMap.
      ident_file = '/etc/postgresql/main/pg_ident.conf'
      # Compiled queries need memory that is writable and executable, which the unit's sandbox denies. Setting it to on in extraSettings lifts that.
      jit = off
      # Messages in English, which is what people search for.
      lc_messages = 'C'
      # From the option listenAddresses.
      listen_addresses = 'localhost'
      # Shows when WAL forces checkpoints; one line for each.
      log_checkpoints = on
      # Below the data directory, where the server may write.
      log_directory = 'log'
      # One file a day; systemd-tmpfiles removes those that are older than 30 days.
      log_filename = 'postgresql-%Y-%m-%d_%H%M%S.log'
      # Who, where from and when to the millisecond; a target for a restore is found by it.
      log_line_prefix = '%m [%p]: [%l-1] user=%u,db=%d,app=%a,client=%h '
      # A query that waits for another one says so.
      log_lock_waits = on
      # See log_filename.
      log_rotation_age = '1d'
      # A file that can still be opened on a bad day.
      log_rotation_size = '100MB'
      # The names of base backups are UTC too, and no hour happens twice a year.
      log_timezone = 'UTC'
      # Keeps the log in files that stay with the data and are bounded below; a message is never lost to a rate limit.
      logging_collector = on
      # From the option maintenanceWorkMem.
      maintenance_work_mem = '64MB'
      # From the option maxConnections.
      max_connections = 100
      # Without a bound, a replication slot that nobody reads keeps WAL until the disk is full and the server stops.
      max_slot_wal_keep_size = '10GB'
      # Enough that the time and not the amount of WAL starts a checkpoint on a usual load.
      max_wal_size = '2GB'
      # Keeps segments for the next burst instead of removing and creating them.
      min_wal_size = '512MB'
      # The other form, md5, can be replayed by whoever reads it.
      password_encryption = 'scram-sha-256'
      # From the option port.
      port = 5432
      # On solid-state disks, and from a cache, a random page costs hardly more than the next one.
      random_page_cost = 1.1
      # Used in recovery only.
      restore_command = '/usr/lib/backstay/bin/pg-restore-wal --config /etc/backstay/main.json "%f" "%p"'
      # From the option sharedBuffers.
      shared_buffers = '256MB'
      # What a client sees that asks for no time zone; the same on every machine that the data is restored to.
      timezone = 'UTC'
      # Tells a slow disk from a slow query in EXPLAIN and in the statistics.
      track_io_timing = on
      # The same for the WAL, whose disk every commit waits for.
      track_wal_io_timing = on
      # Where the module's programs look for the server.
      unix_socket_directories = '/run/postgresql'
      # Full pages are most of the WAL after a checkpoint; compressing them costs less than writing, archiving and sending them.
      wal_compression = 'lz4'
      # The least that an archive, a base backup or a standby can work with.
      wal_level = 'replica'
      # From the option workMem.
      work_mem = '4MB'
    '';
  };

  "test each version gets the settings that it knows" = {
    expr = lib.genAttrs (map toString (lib.range 13 18)) (
      version:
      let
        names = settingNames (hostOf { inherit version; });
        usual = settingNames (hostOf { version = "16"; });
      in
      {
        more = lib.subtractLists usual names;
        fewer = lib.subtractLists names usual;
        compression = lineFor (hostOf { inherit version; }) "wal_compression";
      }
    );
    expected = {
      "13" = {
        more = [ "checkpoint_completion_target" ];
        fewer = [ "track_wal_io_timing" ];
        compression = "wal_compression = on";
      };
      "14" = {
        more = [ ];
        fewer = [ ];
        compression = "wal_compression = on";
      };
      "15" = {
        more = [ ];
        fewer = [ ];
        compression = "wal_compression = 'lz4'";
      };
      "16" = {
        more = [ ];
        fewer = [ ];
        compression = "wal_compression = 'lz4'";
      };
      "17" = {
        more = [ ];
        fewer = [ ];
        compression = "wal_compression = 'lz4'";
      };
      "18" = {
        more = [ ];
        fewer = [ "effective_io_concurrency" ];
        compression = "wal_compression = 'lz4'";
      };
    };
  };

  "test on ZFS no WAL is written twice, and pages are protected all the same" = {
    expr =
      map
        (
          host:
          map (lineFor host) [
            "wal_init_zero"
            "wal_recycle"
            "full_page_writes"
          ]
        )
        [
          (hostOf { })
          (evalArea [
            (main { })
            onZfs
          ])
          (evalArea [
            (main { })
            { fileSystems."/".fsType = "zfs"; }
          ])
          (evalArea [
            (main { integration.storage.enable = false; })
            onZfs
          ])
        ];
    expected =
      let
        elsewhere = [
          ""
          ""
          "full_page_writes = on"
        ];
        zfs = [
          "wal_init_zero = off"
          "wal_recycle = off"
          "full_page_writes = on"
        ];
      in
      [
        elsewhere
        zfs
        zfs
        elsewhere
      ];
  };

  "test a user's setting wins over a default and has no reason of ours" = {
    expr =
      let
        host = hostOf { extraSettings.checkpoint_timeout = "30min"; };
      in
      [
        (lineFor host "checkpoint_timeout")
        (lib.hasInfix "Fewer checkpoints" (confOf host))
      ];
    expected = [
      "checkpoint_timeout = '30min'"
      false
    ];
  };

  "test a setting keeps every character of its value" = {
    expr =
      map
        (
          value:
          lineFor (hostOf {
            extraSettings.log_line_prefix = value;
          }) "log_line_prefix"
        )
        [
          "it's"
          "back\\slash"
          "a\nport = 1"
          0.25
          7
          true
        ];
    expected = [
      "log_line_prefix = 'it''s'"
      "log_line_prefix = 'back\\\\slash'"
      "log_line_prefix = 'a\\nport = 1'"
      "log_line_prefix = 0.25"
      "log_line_prefix = 7"
      "log_line_prefix = on"
    ];
  };

  "test the guide's replication settings are taken" = {
    expr =
      let
        host = hostOf {
          extraSettings = {
            wal_level = "replica";
            max_wal_senders = 3;
            wal_keep_size = "1GB";
          };
        };
      in
      {
        inherit (host) failedAssertions;
        lines = map (lineFor host) [
          "wal_level"
          "max_wal_senders"
          "wal_keep_size"
        ];
      };
    expected = {
      failedAssertions = [ ];
      lines = [
        "wal_level = 'replica'"
        "max_wal_senders = 3"
        "wal_keep_size = '1GB'"
      ];
    };
  };

  "test what a user repeats in other words is not a contradiction" = {
    expr = wrong {
      sharedBuffers = "2GB";
      extraSettings = {
        fsync = "on";
        full_page_writes = "yes";
        shared_buffers = "2048MB";
        port = "5432";
        archive_mode = "on";
      };
    };
    expected = [ ];
  };

  "test an instance without an archive does not archive" = {
    expr =
      let
        host = hostOf { backup.walArchive.enable = false; };
      in
      {
        inherit (host) failedAssertions;
        archiveMode = lineFor host "archive_mode";
        archiveCommand = lineFor host "archive_command";
        writable = valuesOf (unitOf host) "ReadWritePaths";
      };
    expected = {
      failedAssertions = [ ];
      archiveMode = "archive_mode = off";
      archiveCommand = "";
      writable = [
        "/var/lib/postgresql/main"
        "/run/postgresql"
        "/var/lib/backstay/main"
      ];
    };
  };

  # Memory.

  "test a budget gives the four memory settings" = {
    expr =
      map
        (
          memoryBudget:
          let
            host = hostOf { inherit memoryBudget; };
          in
          {
            inherit (host) failedAssertions;
            lines = map (lineFor host) [
              "shared_buffers"
              "effective_cache_size"
              "work_mem"
              "maintenance_work_mem"
            ];
          }
        )
        [
          "8GB"
          "512MB"
          "128GB"
        ];
    expected = [
      {
        failedAssertions = [ ];
        lines = [
          "shared_buffers = '2GB'"
          "effective_cache_size = '6GB'"
          "work_mem = '40MB'"
          "maintenance_work_mem = '409MB'"
        ];
      }
      {
        failedAssertions = [ ];
        lines = [
          "shared_buffers = '128MB'"
          "effective_cache_size = '384MB'"
          "work_mem = '2621kB'"
          "maintenance_work_mem = '25MB'"
        ];
      }
      {
        failedAssertions = [ ];
        lines = [
          "shared_buffers = '32GB'"
          "effective_cache_size = '96GB'"
          "work_mem = '655MB'"
          "maintenance_work_mem = '2GB'"
        ];
      }
    ];
  };

  "test a budget leaves what the user has set" = {
    expr =
      let
        host = hostOf {
          memoryBudget = "8GB";
          sharedBuffers = "1GB";
          workMem = "32MB";
        };
      in
      map (lineFor host) [
        "shared_buffers"
        "work_mem"
      ];
    expected = [
      "shared_buffers = '1GB'"
      "work_mem = '32MB'"
    ];
  };

  # Who gets in.

  "test typed and written lines stand between the module's and everybody's" = {
    expr =
      (hostOf {
        authentication = [
          {
            type = "hostssl";
            databases = [
              "app1"
              "my db"
            ];
            users = [
              "app1"
              "+readers"
            ];
            address = "192.0.2.0/24";
          }
          {
            type = "local";
            databases = [ "app2" ];
            method = "peer";
            options.map = "staff";
          }
          "host replication standby 192.0.2.20/32 scram-sha-256"
        ];
      }).files."/etc/postgresql/main/pg_hba.conf";
    expected = ''
      # The module's own programs come in over the socket: they are who they are to the system.
      # "all" does not include replication, which base backups need.
      local all postgres peer map=backstay
      local replication postgres peer map=backstay

      # modules.services.postgresql.instances.<name>.authentication
      hostssl app1,"my db" app1,+readers 192.0.2.0/24 scram-sha-256
      local app2 all peer map=staff
      host replication standby 192.0.2.20/32 scram-sha-256

      # Everybody else: their own name on the socket, a password on loopback, nobody from elsewhere.
      local all all peer
      host all all 127.0.0.1/32 scram-sha-256
      host all all ::1/128 scram-sha-256
    '';
  };

  "test authentication may be one text" = {
    expr =
      let
        host = hostOf { authentication = "# offices\nhost all all 192.0.2.0/24 scram-sha-256\n"; };
      in
      [
        host.failedAssertions
        (lib.hasInfix "\n# offices\nhost all all 192.0.2.0/24 scram-sha-256\n\n# Everybody" host.files."/etc/postgresql/main/pg_hba.conf")
      ];
    expected = [
      [ ]
      true
    ];
  };

  "test the user of the server and root are the superuser on the socket, with the user's map below" = {
    expr =
      (hostOf {
        user = "databases";
        identMap = "staff alice app1_admin";
      }).files."/etc/postgresql/main/pg_ident.conf";
    expected = ''
      # Who may be the superuser postgres on the socket: the user of the server and its helpers, and root,
      # who can become that user anyway.
      backstay databases postgres
      backstay root postgres

      # modules.services.postgresql.instances.<name>.identMap
      staff alice app1_admin
    '';
  };

  "test the firewall is opened only where it is asked for" = {
    expr = map (settings: (hostOf settings).firewall) [
      { listenAddresses = "*"; }
      {
        listenAddresses = "*";
        openFirewall = true;
        port = 5440;
      }
    ];
    expected = [
      [ ]
      [ "tcp 5440" ]
    ];
  };

  # Extensions.

  "test extensions are found in the package set of the version, and those that need it are preloaded" = {
    expr =
      let
        host = hostOf {
          version = 17;
          extensions = [
            "vector"
            "hstore"
            "pg_cron"
            "pg_stat_statements"
          ];
          extraPackages = ps: [ ps.postgis ];
          extraSettings.shared_preload_libraries = "auto_explain, pg_cron";
        };
      in
      {
        inherit (host) failedAssertions;
        packages = map lib.getName host.config.modules.services.postgresql.instances.main.extensionPackages;
        preloaded = lineFor host "shared_preload_libraries";
        installed = host.packages;
      };
    expected = {
      failedAssertions = [ ];
      packages = [
        "pgvector"
        "pg_cron"
        "postgis"
      ];
      preloaded = "shared_preload_libraries = 'pg_cron,pg_stat_statements,auto_explain'";
      installed = [
        "backstay"
        "postgresql-with-pg_cron-with-pgvector-with-postgis"
      ];
    };
  };

  "test a list of packages of another version becomes this version's" = {
    expr =
      let
        foreign = pkgs.postgresql_15.pkgs.postgis // {
          outPath = "/built-for-15";
        };
        own = pkgs.bash // {
          pname = "own-extension";
        };
        host = hostOf {
          extraPackages = [
            foreign
            own
          ];
        };
      in
      map (package: "${package}") host.config.modules.services.postgresql.instances.main.extensionPackages;
    expected = [
      "${pkgs.postgresql_16.pkgs.postgis}"
      "/usr"
    ];
  };

  # Settings of the programs.

  "test the programs learn where the server is and how a new cluster is made" = {
    expr = (settingsOf (hostOf { version = "17"; })).postgresql;
    expected = {
      binDirectory = "/usr/lib/postgresql/17/bin";
      configFile = "/etc/postgresql/main/postgresql.conf";
      dataDirectory = "/var/lib/postgresql/main/17";
      initdb = {
        arguments = [ ];
        dataChecksums = true;
        encoding = "UTF8";
        locale = "C.UTF-8";
        localeProvider = "builtin";
      };
      port = 5432;
      requiredMounts = [ ];
      socketDirectory = "/run/postgresql";
      unit = "postgresql-main.service";
    };
  };

  "test a version may be a number" = {
    expr = valuesOf (unitOf (hostOf { version = 14; })) "ExecStart";
    expected = [ "/usr/lib/postgresql/14/bin/postgres -D /var/lib/postgresql/main/14" ];
  };

  # Directories and datasets.

  "test directories are made on a host without datasets" = {
    expr = tmpfilesOf (hostOf {
      tablespaces = [ "/srv/fast" ];
    });
    expected = [
      "'d' '/run/postgresql' '0755' 'postgres' 'postgres' '-'"
      "'d' '/srv/fast' '0700' 'postgres' 'postgres' '-'"
      "'d' '/var/backup' '0755' 'root' 'root' '-'"
      "'d' '/var/backup/postgresql' '0755' 'root' 'root' '-'"
      "'d' '/var/backup/postgresql/main' '0700' 'postgres' 'postgres' '-'"
      "'d' '/var/lib/backstay' '0755' 'root' 'root' '-'"
      "'d' '/var/lib/backstay/main' '0700' 'postgres' 'postgres' '-'"
      "'d' '/var/lib/postgresql' '0755' 'root' 'root' '-'"
      "'d' '/var/lib/postgresql/16' '0755' 'root' 'root' '-'"
      "'L' '/var/lib/postgresql/16/main' '-' '-' '-' '-' /var/lib/postgresql/main/16"
      "'L' '/var/lib/postgresql/16/main-wal-archive' '-' '-' '-' '-' /var/lib/postgresql/main-wal"
      "'d' '/var/lib/postgresql/main' '0700' 'postgres' 'postgres' '-'"
      "'d' '/var/lib/postgresql/main-wal' '0700' 'postgres' 'postgres' '-'"
      "'e' '/var/lib/postgresql/main/16/log' '0700' 'postgres' 'postgres' '30d'"
    ];
  };

  "test a mount point that something else provides is never made" = {
    expr = tmpfilesOf (evalArea [
      (main { tablespaces = [ "/srv/fast" ]; })
      onZfs
      { fileSystems."/srv/fast".fsType = "ext4"; }
    ]);
    expected = [
      "'d' '/run/postgresql' '0755' 'postgres' 'postgres' '-'"
      "'d' '/var/lib/backstay' '0755' 'root' 'root' '-'"
      "'d' '/var/lib/backstay/main' '0700' 'postgres' 'postgres' '-'"
      "'d' '/var/lib/postgresql' '0755' 'root' 'root' '-'"
      "'d' '/var/lib/postgresql/16' '0755' 'root' 'root' '-'"
      "'L' '/var/lib/postgresql/16/main' '-' '-' '-' '-' /var/lib/postgresql/main/16"
      "'L' '/var/lib/postgresql/16/main-wal-archive' '-' '-' '-' '-' /var/lib/postgresql/main-wal"
      "'e' '/var/lib/postgresql/main/16/log' '0700' 'postgres' 'postgres' '30d'"
    ];
  };

  "test the server starts only on its mounts" = {
    expr =
      let
        host = evalArea [
          (main {
            tablespaces = [ "/srv/fast/main" ];
            backup.baseBackup.directory = "/mnt/backup/main";
          })
          onZfs
          {
            fileSystems."/".fsType = "ext4";
            fileSystems."/srv/fast".fsType = "ext4";
            fileSystems."/mnt/backup".fsType = "nfs";
          }
        ];
        mounts = [
          "/var/lib/postgresql/main"
          "/var/lib/postgresql/main-wal"
          "/srv/fast"
        ];
      in
      {
        asserted = valuesOf (unitOf host) "AssertPathIsMountPoint" == mounts;
        toldToPrograms = (settingsOf host).postgresql.requiredMounts == mounts;
        ordered = valuesOf (unitOf host) "RequiresMountsFor";
        ofBackups = host.config.modules.services.postgresql.instances.main.backupMounts;
      };
    expected = {
      asserted = true;
      toldToPrograms = true;
      ordered = [
        "/var/lib/postgresql/main"
        "/var/lib/postgresql/main-wal"
        "/srv/fast/main"
      ];
      ofBackups = [ "/mnt/backup" ];
    };
  };

  "test an instance declares the datasets of the guide" = {
    expr =
      lib.mapAttrs
        (
          _: dataset:
          removeAttrs dataset [
            "purpose"
            "usedBy"
          ]
        )
        (evalArea [
          (main { })
          onZfs
        ]).config.modules.storage.datasets.services;
    expected =
      let
        common = {
          owner = "postgres";
          group = "postgres";
          mode = "0700";
        };
        properties = {
          atime = "off";
          dnodesize = "auto";
          xattr = "sa";
        };
      in
      {
        "postgresql/main" = common // {
          dataset = "tank/services/postgresql/main";
          mountpoint = "/var/lib/postgresql/main";
          path = "/var/lib/postgresql/main";
          recordsize = "8K";
          compression = "lz4";
          inherit properties;
        };
        "postgresql/main-wal" = common // {
          dataset = "tank/services/postgresql/main-wal";
          mountpoint = "/var/lib/postgresql/main-wal";
          path = "/var/lib/postgresql/main-wal";
          recordsize = "128K";
          compression = "lz4";
          properties = properties // {
            logbias = "throughput";
          };
        };
        "postgresql/main-backup" = common // {
          dataset = "tank/services/postgresql/main-backup";
          mountpoint = "/var/backup/postgresql/main";
          path = "/var/backup/postgresql/main";
          recordsize = "1M";
          compression = "zstd";
          inherit properties;
        };
      };
  };

  "test datasets follow the options, and a user may tune them" = {
    expr =
      let
        namesOf =
          settings:
          lib.attrNames
            (evalArea [
              (main settings)
              onZfs
            ]).config.modules.storage.datasets.services;
      in
      {
        opted = namesOf { integration.storage.enable = false; };
        elsewhere = namesOf {
          backup.walArchive.directory = "/srv/archive";
          backup.baseBackup.enable = false;
        };
        tuned =
          (evalArea [
            (main { })
            onZfs
            { modules.storage.datasets.services."postgresql/main".recordsize = "16K"; }
          ]).config.modules.storage.datasets.services."postgresql/main".recordsize;
      };
    expected = {
      opted = [ ];
      elsewhere = [ "postgresql/main" ];
      tuned = "16K";
    };
  };

  # Users.

  "test an instance of another user keeps its socket and its data apart" = {
    expr =
      let
        host = evalArea [
          (instances {
            main.enable = true;
            dev = {
              enable = true;
              port = 5433;
              user = "postgres-dev";
            };
          })
        ];
        unit = host.units."postgresql-dev.service";
      in
      {
        inherit (host) failedAssertions;
        users = linesOf host.files."/etc/sysusers.d/nixos.conf";
        user = valuesOf unit "User" ++ valuesOf unit "Group";
        writable = valuesOf unit "ReadWritePaths";
        directories = lib.filter (lib.hasInfix "postgres-dev") (tmpfilesOf host);
        alias = host.links ? "/etc/systemd/system/postgresql.service";
      };
    expected = {
      failedAssertions = [ ];
      users = [
        "g postgres 71"
        "g postgres-dev -"
        "u postgres 71:postgres \"PostgreSQL server\" /var/lib/postgresql /usr/sbin/nologin"
        "u postgres-dev -:postgres-dev \"PostgreSQL server\" /var/lib/postgresql /usr/sbin/nologin"
      ];
      user = [
        "postgres-dev"
        "postgres-dev"
      ];
      writable = [
        "/var/lib/postgresql/dev"
        "/run/postgresql-dev"
        "/var/lib/backstay/dev"
        "/var/lib/postgresql/dev-wal"
      ];
      directories = [
        "'d' '/run/postgresql-dev' '0755' 'postgres-dev' 'postgres-dev' '-'"
        "'d' '/var/backup/postgresql/dev' '0700' 'postgres-dev' 'postgres-dev' '-'"
        "'d' '/var/lib/backstay/dev' '0700' 'postgres-dev' 'postgres-dev' '-'"
        "'d' '/var/lib/postgresql/dev' '0700' 'postgres-dev' 'postgres-dev' '-'"
        "'d' '/var/lib/postgresql/dev-wal' '0700' 'postgres-dev' 'postgres-dev' '-'"
        "'e' '/var/lib/postgresql/dev/16/log' '0700' 'postgres-dev' 'postgres-dev' '30d'"
      ];
      alias = true;
    };
  };

  # Nothing where nothing is enabled (E18).

  "test an instance that is not enabled changes nothing" = {
    expr =
      (evalArea [
        (instances {
          main = {
            port = 5433;
            extraSettings.fsync = false;
            listenAddresses = "*";
            openFirewall = true;
          };
        })
        onZfs
      ]).state == (evalArea [ onZfs ]).state;
    expected = true;
  };

  "test a host without instances has no mistakes" = {
    expr = {
      inherit (evalArea [ ]) failedAssertions warnings;
    };
    expected = {
      failedAssertions = [ ];
      warnings = [ ];
    };
  };

  # Wrong types.

  "test values of the wrong type are refused" = {
    expr =
      map
        (settings: evaluates (hostOf settings).state)
        [
          { sharedBuffers = "2 GB"; }
          { version = "12"; }
          { version = 19; }
          { port = 0; }
          { port = 65536; }
          { maxConnections = 0; }
          { tablespaces = [ "srv/fast" ]; }
          { tablespaces = [ "/srv/fast/" ]; }
          { tablespaces = [ "/srv/my tables" ]; }
          {
            authentication = [
              {
                type = "host";
                address = "all";
                method = "trust";
              }
            ];
          }
          {
            authentication = [
              {
                type = "host";
                address = "all\"";
              }
            ];
          }
          { user = "Postgres"; }
          { initdb.localeProvider = "glibc"; }
          { paths.data = "/srv"; }
        ];
    expected = lib.genList (_: false) 14;
  };

  # Mistakes, each with its whole message.

  "test two instances on one port are refused" = {
    expr = failures [
      (instances {
        main.enable = true;
        other.enable = true;
      })
    ];
    expected = [
      "modules.services.postgresql.instances: port 5432 is used by main, other; give each instance its own port."
    ];
  };

  "test an instance that is off keeps no port" = {
    expr = failures [
      (instances {
        main.enable = true;
        other.port = 5432;
      })
    ];
    expected = [ ];
  };

  "test a port of another service of the host is refused" = {
    expr = failures [
      (main { port = 9100; })
      { services.prometheus.exporters.node.enable = true; }
    ];
    expected = [
      "${instancePath}.main.port: 9100 is the port of services.prometheus.exporters.node too (services.prometheus.exporters.node.port); change one of them."
    ];
  };

  "test the port of a service that is off, or on a host that is not listened on, is free" = {
    expr = failures [
      (instances {
        main = {
          enable = true;
          port = 9100;
        };
        quiet = {
          enable = true;
          port = 9090;
          listenAddresses = [ ];
        };
      })
      { services.prometheus.enable = true; }
    ];
    expected = [ ];
  };

  "test NixOS' own PostgreSQL beside an instance is refused" = {
    expr = failures [
      (main { })
      { services.postgresql.enable = true; }
    ];
    expected = [
      "${instancePath}.main.port: 5432 is the port of services.postgresql too (services.postgresql.settings.port); change one of them."
      "modules.services.postgresql.defaultInstance: \"main\" answers to postgresql.service, and so does services.postgresql; set services.postgresql.enable = false, or modules.services.postgresql.defaultInstance = null."
      "services.postgresql.dataDir: \"/var/lib/postgresql/17\" is in /var/lib/postgresql, where the instances main have their data; use a directory outside it."
    ];
  };

  "test NixOS' own PostgreSQL apart from an instance is none of our business" = {
    expr = failures [
      (main { })
      {
        modules.services.postgresql.defaultInstance = null;
        services.postgresql = {
          enable = true;
          dataDir = "/srv/postgresql";
          settings.port = 5440;
        };
      }
    ];
    expected = [ ];
  };

  "test a unit that hides behind the alias is refused" = {
    expr = failures [
      (main { })
      { systemd.services.postgresql.serviceConfig.Nice = 5; }
    ];
    expected = [
      "systemd.services.postgresql: this unit is an alias of postgresql-main.service; write to systemd.services.\"postgresql-main\" instead."
    ];
  };

  "test a default instance that does not exist is refused" = {
    expr = [
      (failures [
        (instances {
          a.enable = true;
          b = {
            enable = true;
            port = 5433;
          };
        })
        { modules.services.postgresql.defaultInstance = "main"; }
      ])
      (failures [ { modules.services.postgresql.defaultInstance = "main"; } ])
    ];
    expected = [
      [
        "modules.services.postgresql.defaultInstance: \"main\" is not an enabled instance; use \"a\" or \"b\", or null for none."
      ]
      [
        "modules.services.postgresql.defaultInstance: \"main\" is not an enabled instance; declare it, or leave defaultInstance out."
      ]
    ];
  };

  "test names that do not fit units, datasets and directories are refused" = {
    expr = failures [
      (instances (
        lib.listToAttrs (
          lib.imap0
            (
              index: name:
              lib.nameValuePair name {
                enable = true;
                port = 5432 + index;
              }
            )
            [
              "My_DB"
              "-main"
              "main-"
              "a-name-that-is-longer-than-32-bytes"
              "16"
              "provisioning"
              "a"
              "a-name-that-is-exactly-32-bytes-"
            ]
        )
      ))
    ];
    expected = [
      "${instancePath}: \"-main\" is no name for an instance; use 1 to 32 lower-case letters, digits and inner hyphens."
      "${instancePath}: \"16\" would put its data where the directories of the versions are, in /var/lib/postgresql; choose a name with a letter."
      "${instancePath}: \"My_DB\" is no name for an instance; use 1 to 32 lower-case letters, digits and inner hyphens."
      "${instancePath}: \"a-name-that-is-exactly-32-bytes-\" is no name for an instance; use 1 to 32 lower-case letters, digits and inner hyphens."
      "${instancePath}: \"a-name-that-is-longer-than-32-bytes\" is no name for an instance; use 1 to 32 lower-case letters, digits and inner hyphens."
      "${instancePath}: \"main-\" is no name for an instance; use 1 to 32 lower-case letters, digits and inner hyphens."
      "${instancePath}: \"provisioning\" would put its data where the stamps of database provisioning are, in /var/lib/postgresql/provisioning; choose another name."
    ];
  };

  "test names whose units or directories collide are refused" = {
    expr = failures [
      (instances {
        main.enable = true;
        main-wal = {
          enable = true;
          port = 5433;
        };
        basebackup-main = {
          enable = true;
          port = 5434;
        };
        database-provisioning = {
          enable = true;
          port = 5435;
        };
        setup = {
          enable = true;
          port = 5436;
        };
      })
    ];
    expected = [
      "${instancePath}: basebackup-main, main both need the unit \"postgresql-basebackup-main.service\"; rename one of them."
      "${instancePath}: main, main-wal both need the directory \"/var/lib/postgresql/main-wal\"; rename one of them."
      "${instancePath}: the unit of \"database-provisioning\", \"postgresql-database-provisioning.service\", has another meaning; choose another name."
      "${instancePath}: the unit of \"setup\", \"postgresql-setup.service\", has another meaning; choose another name."
    ];
  };

  "test more memory than the budget of an instance is refused" = {
    expr = wrong {
      memoryBudget = "1GB";
      workMem = "64MB";
    };
    expected = [
      "${instancePath}.main.memoryBudget: 1GB is less than the 6809MB that sharedBuffers (256MB), 100 connections with workMem (64MB) and 3 times maintenanceWorkMem (51MB) add up to; raise it, or leave those out that it can derive."
    ];
  };

  "test more memory than the budget of the host is refused" = {
    expr = failures [
      (instances {
        main = {
          enable = true;
          sharedBuffers = "4GB";
        };
        analytics = {
          enable = true;
          port = 5434;
          memoryBudget = "24GB";
        };
      })
      { modules.services.postgresql.memoryBudget = "16GB"; }
    ];
    expected = [
      "modules.services.postgresql.memoryBudget: 16GB is less than the 29264MB that all instances may take (analytics 24GB, main 4688MB); raise it, or give the instances smaller budgets."
    ];
  };

  "test settings that endanger the data are refused (E3)" = {
    expr = wrong {
      extraSettings = {
        fsync = false;
        full_page_writes = "off";
        wal_level = "minimal";
        archive_mode = "off";
      };
    };
    expected = [
      "${instancePath}.main.extraSettings.archive_mode: off stops archiving, and no restore would reach past the last base backup; remove it, or set backup.walArchive.enable = false."
      "${instancePath}.main.extraSettings.fsync: \"off\" would lose or damage committed data when the machine stops, and no backup could tell; remove it."
      "${instancePath}.main.extraSettings.full_page_writes: \"off\" would leave a half-written page unrepaired after a crash wherever the file system does not write a whole page at once; remove it."
      "${instancePath}.main.extraSettings.wal_level: minimal leaves out what the archive and base backups need; use \"replica\" or \"logical\", or set backup.enable = false."
    ];
  };

  "test another archiver is refused (E4)" = {
    expr = wrong {
      extraSettings = {
        archive_command = "pgbackrest --stanza=main archive-push %p";
        archive_library = "basic_archive";
      };
    };
    expected = [
      "${instancePath}.main.extraSettings.archive_command: \"pgbackrest --stanza=main archive-push %p\" would send the WAL elsewhere, so that backups could not be restored; remove it."
      "${instancePath}.main.extraSettings.archive_library: \"basic_archive\" takes the place of archive_command, so that the WAL would not reach this instance's archive; remove it, or set backup.walArchive.enable = false."
    ];
  };

  "test another archiver is taken where ours is off" = {
    expr = wrong {
      backup.walArchive.enable = false;
      extraSettings = {
        archive_mode = "on";
        archive_command = "pgbackrest --stanza=main archive-push %p";
      };
    };
    expected = [ ];
  };

  "test a cleanup of the archive is refused (E12)" = {
    expr = wrong {
      extraSettings.archive_cleanup_command = "pg_archivecleanup /var/lib/postgresql/main-wal %r";
    };
    expected = [
      "${instancePath}.main.extraSettings.archive_cleanup_command: \"pg_archivecleanup /var/lib/postgresql/main-wal %r\" would remove WAL from the archive that a restore needs; remove it: pg-prune knows what may go."
    ];
  };

  "test a recovery target that would stay is refused" = {
    expr = wrong { extraSettings.recovery_target_time = "2026-10-11 14:30:00+00"; };
    expected = [
      "${instancePath}.main.extraSettings.recovery_target_time: \"2026-10-11 14:30:00+00\" would end every later recovery at the same place, also after a crash of a restored server; use recovery, which holds once."
    ];
  };

  "test settings with an option of their own, and those that the module needs, are refused" = {
    expr = wrong {
      extraSettings = {
        port = 5440;
        shared_buffers = "1GB";
        data_directory = "/srv/data";
        hba_file = "/etc/pg_hba.conf";
        password_encryption = "md5";
        restore_command = "cp /archive/%f %p";
        unix_socket_directories = "/tmp";
      };
    };
    expected = [
      "${instancePath}.main.extraSettings.data_directory: \"/srv/data\" moves the cluster to where the module does not look; remove it."
      "${instancePath}.main.extraSettings.hba_file: \"/etc/pg_hba.conf\" would take the place of the lines in authentication; remove it."
      "${instancePath}.main.extraSettings.password_encryption: \"md5\" would store passwords in a form that can be replayed; remove it."
      "${instancePath}.main.extraSettings.port: \"5440\" differs from ${instancePath}.main.port; set that option instead."
      "${instancePath}.main.extraSettings.restore_command: \"cp /archive/%f %p\" would keep a restore from reading this instance's archive; remove it."
      "${instancePath}.main.extraSettings.shared_buffers: \"1GB\" differs from ${instancePath}.main.sharedBuffers; set that option instead."
      "${instancePath}.main.extraSettings.unix_socket_directories: \"/tmp\" would put the socket where no program of the module looks for it; remove it."
    ];
  };

  "test a setting that an area needs is refused" = {
    expr = failures [
      (main { extraSettings.archive_timeout = 60; })
      # As the area "backup" does it.
      (instances { main.serverSettings.archive_timeout = 300; })
    ];
    expected = [
      "${instancePath}.main.extraSettings.archive_timeout: \"60\" differs from \"300\", which the module needs; remove it, and use the option that sets it."
    ];
  };

  "test too few connections for a base backup are refused" = {
    expr = wrong { extraSettings.max_wal_senders = 1; };
    expected = [
      "${instancePath}.main.extraSettings.max_wal_senders: 1 leaves no connections for a base backup, which takes two; use 2 or more, or set backup.baseBackup.enable = false."
    ];
  };

  "test WAL is summarized for incremental backups, where the version can" = {
    expr =
      map
        (
          version:
          lineFor (hostOf {
            inherit version;
            programSettings.baseBackup.incremental.chainLength = 6;
          }) "summarize_wal"
        )
        [
          16
          17
        ];
    expected = [
      ""
      "summarize_wal = on"
    ];
  };

  "test incremental backups without summaries are refused" = {
    expr = wrong {
      version = 17;
      programSettings.baseBackup.incremental.chainLength = 6;
      extraSettings.summarize_wal = "off";
    };
    expected = [
      "${instancePath}.main.extraSettings.summarize_wal: \"off\" would leave out the summaries from which incremental base backups are made; remove it."
    ];
  };

  "test a setting that the version does not know is refused" = {
    expr = wrong {
      extraSettings = {
        io_method = "io_uring";
        promote_trigger_file = "/tmp/promote";
        Work_Mem = "1GB";
      };
    };
    expected = [
      "${instancePath}.main.extraSettings.Work_Mem: this is not the name of a setting; write it in lower case, as in pg_settings."
      "${instancePath}.main.extraSettings.io_method: PostgreSQL 16 has no such setting, version 18 brought it; remove it, or use a later version."
      "${instancePath}.main.extraSettings.promote_trigger_file: PostgreSQL 16 has no such setting any more, version 16 removed it; remove it."
    ];
  };

  "test a log where the server may not write is refused (E14)" = {
    expr = wrong { extraSettings.log_directory = "/var/log/postgresql"; };
    expected = [
      "${instancePath}.main.extraSettings.log_directory: \"/var/log/postgresql\" is outside the data directory, where the server's sandbox may not write; use a name without a slash at the start."
    ];
  };

  "test a package of another version is refused (E13)" = {
    expr = wrong {
      version = "17";
      package = pkgs.postgresql_16;
    };
    expected = [
      "${instancePath}.main.package: the package is PostgreSQL 16.10, and version is 17; set both to the same major version."
    ];
  };

  "test a version that nixpkgs lacks stops the evaluation" = {
    expr = evaluates (evalArea [
      (main { version = 13; })
      { nixpkgs.overlays = [ (_: _: { postgresql_13 = throw "removed"; }) ]; }
    ]).units;
    expected = false;
  };

  "test an extension without a package is refused" = {
    expr = wrong {
      extensions = [
        "vectors"
        "pg_trgm"
        "nonsense"
      ];
    };
    expected = [
      "${instancePath}.main.extensions: PostgreSQL 16 has no package for nonsense, vectors; correct the name, or add the package to extraPackages."
    ];
  };

  "test a locale provider that the version lacks is refused" = {
    expr = [
      (wrong {
        version = 14;
        initdb.localeProvider = "icu";
      })
      (wrong { initdb.localeProvider = "builtin"; })
      (wrong {
        version = 17;
        initdb.locale = "de_DE.UTF-8";
      })
      (wrong {
        version = 18;
        initdb.locale = "PG_UNICODE_FAST";
      })
      (wrong {
        initdb.localeProvider = "icu";
        initdb.locale = "C.UTF-8";
      })
      (wrong { initdb.localeProvider = "icu"; })
    ];
    expected = [
      [
        "${instancePath}.main.initdb.localeProvider: icu needs PostgreSQL 15, and version is 14; use \"libc\", or a later version."
      ]
      [
        "${instancePath}.main.initdb.localeProvider: builtin needs PostgreSQL 17, and version is 16; use \"libc\", or a later version."
      ]
      [
        "${instancePath}.main.initdb.locale: \"de_DE.UTF-8\" is no locale of the provider builtin of PostgreSQL 17, which has C, C.UTF-8; use one of them, or another initdb.localeProvider."
      ]
      [ ]
      [
        "${instancePath}.main.initdb.locale: \"C.UTF-8\" is no locale of the provider icu; use a language such as \"de-DE\", or \"und\" for none."
      ]
      [ ]
    ];
  };

  "test arguments of initdb that have an option of their own are refused" = {
    expr = wrong {
      initdb.arguments = [
        "--wal-segsize=64"
        "--pgdata=/srv"
        "-E"
        "--no-sync"
      ];
    };
    expected = [
      "${instancePath}.main.initdb.arguments: \"--pgdata=/srv\" is set by the instance's name and version; remove it."
      "${instancePath}.main.initdb.arguments: \"-E\" is set by initdb.encoding; remove it."
      "${instancePath}.main.initdb.arguments: \"--no-sync\" is set by the module, which makes success mean durable; remove it."
    ];
  };

  "test tablespaces that the sandbox hides, or that overlap, are refused" = {
    expr = failures [
      (instances {
        main = {
          enable = true;
          tablespaces = [
            "/home/postgres/fast"
            "/var/lib/postgresql/main/16/fast"
            "/var/lib/postgresql/other-wal"
            "/srv/twice"
            "/srv/twice"
          ];
        };
        other = {
          enable = true;
          port = 5433;
          tablespaces = [ "/srv" ];
        };
      })
    ];
    expected = [
      "${instancePath}.main.tablespaces: \"/home/postgres/fast\" is in /home, which the server's sandbox hides or replaces; use a directory such as /srv/postgresql-main."
      "${instancePath}.main.tablespaces: \"/var/lib/postgresql/main/16/fast\" overlaps \"/var/lib/postgresql/main\", the data of main; use a directory of its own."
      "${instancePath}.main.tablespaces: \"/var/lib/postgresql/other-wal\" overlaps \"/var/lib/postgresql/other-wal\", the WAL archive of other; use a directory of its own."
      "${instancePath}.main.tablespaces: \"/srv/twice\" overlaps \"/srv\", the tablespaces of other; use a directory of its own."
      "${instancePath}.main.tablespaces: \"/srv/twice\" overlaps \"/srv\", the tablespaces of other; use a directory of its own."
      "${instancePath}.main.tablespaces: \"/srv/twice\" is listed 2 times; list it once."
      "${instancePath}.other.tablespaces: \"/srv\" overlaps \"/srv/twice\", the tablespaces of main; use a directory of its own."
    ];
  };

  "test ways in without a proof are refused" = {
    expr = wrong {
      authentication = ''
        # host all all 0.0.0.0/0 trust
        host  all all 0.0.0.0/0 trust
        local app md5 md5
        host "trust" all samenet scram-sha-256
      '';
    };
    expected = [
      "${instancePath}.main.authentication: \"host  all all 0.0.0.0/0 trust\" lets somebody in without a proof, or with a password that can be read or replayed; use scram-sha-256, or peer on the socket."
      "${instancePath}.main.authentication: \"local app md5 md5\" lets somebody in without a proof, or with a password that can be read or replayed; use scram-sha-256, or peer on the socket."
    ];
  };

  "test lines for the socket and for the network are told apart" = {
    expr = wrong {
      authentication = [
        {
          type = "local";
          address = "127.0.0.1/32";
        }
        { type = "host"; }
        {
          type = "host";
          address = "samenet";
          method = "peer";
        }
      ];
    };
    expected = [
      "${instancePath}.main.authentication: \"local all all 127.0.0.1/32 scram-sha-256\" is for the socket, which has no addresses; leave address out."
      "${instancePath}.main.authentication: \"host all all scram-sha-256\" has no address; say from where, as in \"192.0.2.0/24\"."
      "${instancePath}.main.authentication: \"host all all samenet peer\" asks the system who a client on the network is; peer works on the socket only, use scram-sha-256."
    ];
  };

  "test nobody is added to the map of the superuser" = {
    expr = wrong { identMap = "staff alice app1\nbackstay alice postgres"; };
    expected = [
      "${instancePath}.main.identMap: \"backstay alice postgres\" adds to the map backstay, which lets in the superuser; use another name."
    ];
  };

  "test an address that is none is refused" = {
    expr = wrong { listenAddresses = "localhost,,10.0.0.1 10.0.0.2"; };
    expected = [
      "${instancePath}.main.listenAddresses: \"\" is no address; use a host name, an IP address or \"*\"."
      "${instancePath}.main.listenAddresses: \"10.0.0.1 10.0.0.2\" is no address; use a host name, an IP address or \"*\"."
    ];
  };

  "test a firewall opened for nothing is refused" = {
    expr = wrong { openFirewall = true; };
    expected = [
      "${instancePath}.main.openFirewall: true opens port 5432, and nothing outside this host is listened on; add an address to listenAddresses, or set openFirewall = false."
    ];
  };

  "test users that PostgreSQL or the system cannot have are refused" = {
    expr = failures [
      (instances {
        a = {
          enable = true;
          user = "root";
        };
        b = {
          enable = true;
          port = 5433;
          user = "databases";
          group = "one";
        };
        c = {
          enable = true;
          port = 5434;
          user = "databases";
          group = "two";
        };
      })
      # What the module system makes of two groups is not at issue here.
      { users.users.databases.group = "one"; }
      { users.users.root.isSystemUser = lib.mkForce true; }
    ];
    expected = [
      "${instancePath}.a.user: PostgreSQL refuses to run as root; use \"postgres\" or a user of its own."
      "${instancePath}: the user \"databases\" has the groups one, two; give instances of one user one group."
    ];
  };

  "test a sandbox that a user has narrowed is warned about (E14)" = {
    expr =
      (evalArea [
        (main { tablespaces = [ "/srv/fast" ]; })
        {
          systemd.services."postgresql-main".serviceConfig.ReadWritePaths = lib.mkForce [
            "/var/lib/postgresql"
          ];
        }
      ]).warnings;
    expected = [
      "systemd.services.\"postgresql-main\".serviceConfig.ReadWritePaths: /run/postgresql, /srv/fast is missing, so the server cannot write there and will not start or archive; add to the list with lib.mkAfter instead of replacing it with lib.mkForce."
    ];
  };
}
