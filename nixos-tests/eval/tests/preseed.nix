# Restores by declaration: preseed and recovery.
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
  replicate = dataset: replication: {
    modules.backup.sanoid.datasets."tank/services/postgresql/${dataset}".replication = {
      targetHost = "nas-1.example.org";
      targetDataset = "backup/forge/services/postgresql/${dataset}";
      inherit hostKey;
    }
    // replication;
  };
  nas = {
    modules.backup.restic.repositories.nas = {
      url = "rest:https://nas.example.org/forge";
      passwordFile = "/run/secrets/restic/password";
      environmentFile = "/run/secrets/restic/env";
    };
  };

  main = declaration: {
    modules.services.postgresql.instances.main = lib.mkMerge [
      { enable = true; }
      declaration
    ];
  };
  hostWith = modules: evalHost ([ surroundings ] ++ modules);
  host = declaration: hostWith [ (main declaration) ];

  section =
    name: evaluated:
    (builtins.fromJSON evaluated.files."/etc/backstay/main.json").${name} or null;
  sources = evaluated: (section "preseed" evaluated).sources;

  # The values of one directive of a unit.
  values =
    directive: unit: evaluated:
    map (lib.removePrefix "${directive}=") (
      lib.filter (lib.hasPrefix "${directive}=") (lib.splitString "\n" evaluated.units.${unit})
    );
  words = directive: unit: evaluated: lib.concatMap (lib.splitString " ") (values directive unit evaluated);
  unit = "preseed-postgresql-main.service";

  refused = expected: declaration: {
    expr = (host declaration).failedAssertions;
    inherit expected;
  };
  refusedOn = expected: modules: {
    expr = (hostWith modules).failedAssertions;
    inherit expected;
  };
  warnedOn = expected: modules: {
    expr = {
      inherit (hostWith modules) failedAssertions warnings;
    };
    expected = {
      failedAssertions = [ ];
      warnings = expected;
    };
  };

  at = path: "modules.services.postgresql.instances.main.${path}";
  methods = at "preseed.restoreMethods";

  # A host that has everything a restore can come from.
  everything = hostWith [
    onZfs
    (replicate "main" { })
    (replicate "main-wal" { })
    nas
    (main {
      backup.restic.repositoryName = "nas";
      preseed.enable = true;
      preseed.restoreMethods = [
        "syncoid"
        "local"
        "restic"
        "baseBackups"
      ];
    })
  ];

  fromBaseBackups = host { preseed.enable = true; };
  fromRestic =
    declaration:
    hostWith [
      nas
      (main {
        backup.restic.repositoryName = "nas";
        preseed = {
          enable = true;
          restoreMethods = [ "restic" ];
        }
        // declaration;
      })
    ];

  # The target that the settings have for a recovery.
  targetOf =
    recovery:
    let
      evaluated = host {
        recovery = {
          enable = true;
          id = "test";
        }
        // recovery;
      };
    in
    if evaluated.failedAssertions == [ ] then
      (section "recovery" evaluated).target
    else
      evaluated.failedAssertions;

  refusedTarget = option: problem: recovery: {
    expr = targetOf recovery;
    expected = [ "${at "recovery.${option}"}: ${problem}." ];
  };
in
{
  # Where a restore comes from.

  "test without a list those are asked that can be restored from" = {
    expr =
      (hostWith [
        onZfs
        (replicate "main" { })
        (replicate "main-wal" { })
        nas
        (main {
          backup.restic.repositoryName = "nas";
          preseed.enable = true;
        })
      ]).config.modules.services.postgresql.instances.main.preseed.restoreMethods;
    expected = [
      "syncoid"
      "restic"
      "baseBackups"
    ];
  };

  "test a replica without the archive's is not asked without being named" = {
    expr =
      (hostWith [
        onZfs
        (replicate "main" { })
        (main { preseed.enable = true; })
      ]).config.modules.services.postgresql.instances.main.preseed.restoreMethods;
    expected = [ "baseBackups" ];
  };

  "test of methods that have all they need nothing is said" = {
    expr = lib.filter (lib.hasPrefix methods) everything.warnings;
    expected = [ ];
  };

  "test a replica is received by the server's user and gets its place from root, before the preseed" = {
    expr =
      let
        receive = "postgresql-receive-main.service";
        takeOver = "postgresql-take-over-main.service";
        of = directive: unit: words directive unit everything;
        ordered =
          unit: after: lib.all (one: lib.elem one (of "After" unit) && lib.elem one (of "Wants" unit)) after;
      in
      {
        receives = values "ExecStart" receive everything;
        rights = values "ExecStartPre" receive everything;
        key = values "LoadCredential" receive everything;
        user = values "User" receive everything;
        takesOver = values "ExecStart" takeOver everything;
        root = values "User" takeOver everything;
        # Root speaks to nobody, and mounts for everybody.
        network = values "PrivateNetwork" takeOver everything;
        namespace = values "ProtectSystem" takeOver everything;
        before = ordered unit [
          receive
          takeOver
        ];
        inTurn = lib.elem receive (of "After" takeOver);
        datasets = ordered receive [ "backstay-datasets.service" ];
        others = lib.filter (name: lib.hasPrefix "postgresql-receive" name) (
          lib.attrNames fromBaseBackups.units
        );
      };
    expected = {
      receives = [ "/usr/lib/backstay/bin/pg-preseed --config /etc/backstay/main.json --receive" ];
      rights = [
        "+/usr/lib/backstay/bin/pg-preseed --config /etc/backstay/main.json --let-receive postgres"
      ];
      key = [ "ssh-key:/var/lib/zfs-replication/.ssh/id_ed25519" ];
      user = [ "postgres" ];
      takesOver = [
        "/usr/lib/backstay/bin/pg-preseed --config /etc/backstay/main.json --take-over /etc/backstay/datasets.json"
      ];
      root = [ "root" ];
      network = [ "true" ];
      namespace = [ ];
      before = true;
      inTurn = true;
      datasets = true;
      others = [ ];
    };
  };

  "test every source that is named is asked, in the order of the guide" = {
    expr = section "preseed" everything;
    expected = {
      sources = [
        {
          kind = "syncoid";
          host = "nas-1.example.org";
          port = 22;
          user = "zfs-replication";
          dataset = "backup/forge/services/postgresql/main";
          targetDataset = "tank/services/postgresql/main";
          archiveDataset = "backup/forge/services/postgresql/main-wal";
          archiveTargetDataset = "tank/services/postgresql/main-wal";
          knownHosts = "nas-1.example.org ${hostKey}";
          sshKeyFile = "/var/lib/zfs-replication/.ssh/id_ed25519";
          sendOptions = "w";
          receiveOptions = "u";
        }
        {
          kind = "local";
          dataset = "tank/services/postgresql/main";
          archiveDataset = "tank/services/postgresql/main-wal";
        }
        {
          kind = "restic";
          repository = "rest:https://nas.example.org/forge";
          passwordFile = "/run/credentials/preseed-postgresql-main.service/restic-password";
          environmentFile = "/run/credentials/preseed-postgresql-main.service/restic-environment";
        }
        { kind = "baseBackups"; }
      ];
      choose = "order";
      target = "latest";
      exclusive = false;
      asStandby = false;
      clearReplicationSlots = true;
      allowEmptyStartWithoutProof = false;
    };
  };

  "test a host without copies elsewhere asks its own base backups" = {
    expr = {
      sources = sources fromBaseBackups;
      problems = fromBaseBackups.failedAssertions ++ fromBaseBackups.warnings;
    };
    expected = {
      sources = [ { kind = "baseBackups"; } ];
      problems = [ ];
    };
  };

  "test the order of the methods is the order of the sources, and each is asked once" = {
    expr = map (source: source.kind) (
      sources (hostWith [
        onZfs
        nas
        (main {
          backup.restic.repositoryName = "nas";
          preseed = {
            enable = true;
            restoreMethods = [
              "restic"
              "local"
              "restic"
            ];
          };
        })
      ])
    );
    expected = [
      "restic"
      "local"
    ];
  };

  "test a replica is found by the replication of a dataset above" = {
    expr =
      let
        evaluated = hostWith [
          onZfs
          {
            modules.backup.sanoid.datasets."tank/services/postgresql" = {
              useTemplate = [ "postgresql" ];
              recursive = true;
              replication = {
                targetHost = "nas-1.example.org";
                targetPort = 2222;
                targetDataset = "backup/forge/postgresql";
                inherit hostKey;
              };
            };
          }
          (main {
            preseed = {
              enable = true;
              restoreMethods = [ "syncoid" ];
            };
          })
        ];
      in
      map (source: {
        inherit (source)
          dataset
          archiveDataset
          port
          knownHosts
          ;
      }) (sources evaluated);
    expected = [
      {
        dataset = "backup/forge/postgresql/main";
        archiveDataset = "backup/forge/postgresql/main-wal";
        port = 2222;
        knownHosts = "[nas-1.example.org]:2222 ${hostKey}";
      }
    ];
  };

  "test datasets that fileSystems mounts are found" = {
    expr = sources (hostWith [
      {
        fileSystems."/var/lib/postgresql/main" = {
          device = "tank/pg/main";
          fsType = "zfs";
        };
        fileSystems."/var/lib/postgresql/main-wal" = {
          device = "tank/pg/wal";
          fsType = "zfs";
        };
      }
      (main {
        preseed = {
          enable = true;
          restoreMethods = [ "local" ];
        };
      })
    ]);
    expected = [
      {
        kind = "local";
        dataset = "tank/pg/main";
        archiveDataset = "tank/pg/wal";
      }
    ];
  };

  "test the pool of the root file system is no dataset of an instance" = {
    expr = sources (hostWith [
      {
        fileSystems."/" = {
          device = "rpool/root";
          fsType = "zfs";
        };
      }
      (main { preseed.enable = true; })
    ]);
    expected = [ { kind = "baseBackups"; } ];
  };

  "test the repository of the backups is the one to restore from, unless another is named" = {
    expr =
      let
        secretsOf = values "LoadCredential" unit;
        own = fromRestic {
          repositoryUrl = "s3:https://s3.example.org/forge";
          passwordFile = "/run/secrets/other/password";
          environmentFile = "/run/secrets/other/env";
        };
        mixed = fromRestic { passwordFile = "/run/secrets/other/password"; };
      in
      {
        fallback = secretsOf (fromRestic { });
        explicitNull = secretsOf (fromRestic {
          repositoryUrl = null;
          passwordFile = null;
          environmentFile = null;
        });
        own = secretsOf own;
        ownUrl = map (source: source.repository) (sources own);
        mixed = secretsOf mixed;
        mixedUrl = map (source: source.repository) (sources mixed);
      };
    expected = rec {
      fallback = [
        "restic-password:/run/secrets/restic/password"
        "restic-environment:/run/secrets/restic/env"
      ];
      explicitNull = fallback;
      own = [
        "restic-password:/run/secrets/other/password"
        "restic-environment:/run/secrets/other/env"
      ];
      ownUrl = [ "s3:https://s3.example.org/forge" ];
      mixed = [
        "restic-password:/run/secrets/other/password"
        "restic-environment:/run/secrets/restic/env"
      ];
      mixedUrl = [ "rest:https://nas.example.org/forge" ];
    };
  };

  "test every repository of the backups is a source of its own, with its own secrets" = {
    expr =
      let
        offsite = {
          modules.backup.restic.repositories.offsite = {
            url = "/srv/offsite";
            passwordFile = "/run/secrets/restic/offsite-password";
            mountPoint = "/";
          };
        };
        declaring =
          preseed:
          hostWith [
            nas
            offsite
            (main {
              backup.restic.repositoryName = "nas";
              backup.restic.furtherRepositories = [ "offsite" ];
              preseed = {
                enable = true;
                restoreMethods = [ "restic" ];
              }
              // preseed;
            })
          ];
        both = declaring { };
      in
      {
        sources = sources both;
        secrets = values "LoadCredential" unit both;
        # The first is on a network, the second a directory.
        after = words "After" unit both;
        one = map (source: source.repository) (
          sources (declaring {
            repositoryUrl = "s3:https://s3.example.org/forge";
          })
        );
      };
    expected = {
      sources = [
        {
          kind = "restic";
          repository = "rest:https://nas.example.org/forge";
          passwordFile = "/run/credentials/preseed-postgresql-main.service/restic-password";
          environmentFile = "/run/credentials/preseed-postgresql-main.service/restic-environment";
        }
        {
          kind = "restic";
          repository = "/srv/offsite";
          passwordFile = "/run/credentials/preseed-postgresql-main.service/restic-password-offsite";
        }
      ];
      secrets = [
        "restic-password:/run/secrets/restic/password"
        "restic-environment:/run/secrets/restic/env"
        "restic-password-offsite:/run/secrets/restic/offsite-password"
      ];
      after = [
        "network-online.target"
        "remote-fs.target"
        "sops-install-secrets.service"
      ];
      one = [ "s3:https://s3.example.org/forge" ];
    };
  };

  "test every option of preseed reaches the settings" = {
    expr = removeAttrs (section "preseed" (host {
      preseed = {
        enable = true;
        choose = "freshest";
        clearReplicationSlots = false;
        deadlineSeconds = 14400;
        allowEmptyStartWithoutProof = true;
        pitr = {
          target = "xid";
          targetValue = "742";
          exclusive = true;
        };
      };
    })) [ "sources" ];
    expected = {
      choose = "freshest";
      asStandby = false;
      clearReplicationSlots = false;
      deadlineSeconds = 14400;
      allowEmptyStartWithoutProof = true;
      target = "xid:742";
      exclusive = true;
    };
  };

  "test a standby stays one" = {
    expr = (section "preseed" (host {
      preseed = {
        enable = true;
        asStandby = true;
      };
    })).asStandby;
    expected = true;
  };

  # The unit.

  "test the server starts after the preseed and not without it" = {
    expr = {
      after = lib.elem unit (words "After" "postgresql-main.service" fromBaseBackups);
      requires = lib.elem unit (words "Requires" "postgresql-main.service" fromBaseBackups);
      # Nothing else starts it.
      links = lib.filter (lib.hasInfix "preseed-") (lib.attrNames fromBaseBackups.links);
    };
    expected = {
      after = true;
      requires = true;
      links = [ ];
    };
  };

  "test a restore from this host's base backups is a sandboxed unit without a network" = {
    expr = {
      after = words "After" unit fromBaseBackups;
      wants = words "Wants" unit fromBaseBackups;
      user = values "User" unit fromBaseBackups;
      start = values "ExecStart" unit fromBaseBackups;
      network = values "PrivateNetwork" unit fromBaseBackups;
      writes = values "ReadWritePaths" unit fromBaseBackups;
      timeout = values "TimeoutStartSec" unit fromBaseBackups;
      restart = values "X-RestartIfChanged" unit fromBaseBackups;
      credentials = values "LoadCredential" unit fromBaseBackups;
    };
    expected = {
      after = [ ];
      wants = [ ];
      user = [ "postgres" ];
      start = [ "/usr/lib/backstay/bin/pg-preseed --config /etc/backstay/main.json" ];
      network = [ "true" ];
      writes = [
        "/var/lib/postgresql/main"
        "/var/lib/backstay/main"
        "/var/lib/postgresql/main-wal"
        "-/var/backup/postgresql/main"
        "/var/lib/node_exporter/textfile_collector"
      ];
      timeout = [ "infinity" ];
      restart = [ "false" ];
      credentials = [ ];
    };
  };

  "test a restore over the network waits for it, and no other does" = {
    expr = {
      rest = words "After" unit (fromRestic { });
      directory = words "After" unit (fromRestic {
        repositoryUrl = "/mnt/nas-backup";
        environmentFile = null;
      });
      all = words "After" unit everything;
      required = lib.concatMap (directive: words directive unit everything) [
        "Requires"
        "BindsTo"
        "Requisite"
      ];
      wanted = words "Wants" unit everything;
    };
    expected = {
      rest = [
        "network-online.target"
        "sops-install-secrets.service"
      ];
      directory = [
        "remote-fs.target"
        "sops-install-secrets.service"
      ];
      all = [
        "backstay-datasets.service"
        "postgresql-receive-main.service"
        "postgresql-take-over-main.service"
        "network-online.target"
        "sops-install-secrets.service"
      ];
      required = [ ];
      wanted = [
        "backstay-datasets.service"
        "postgresql-receive-main.service"
        "postgresql-take-over-main.service"
        "network-online.target"
      ];
    };
  };

  "test half of an archive that is being brought back is not copied" = {
    expr = words "Before" unit (fromRestic { });
    expected = [ "restic-backups-postgresql-main-wal.service" ];
  };

  "test a repository in a directory is read whoever its files belong to, and nothing more is allowed" = {
    expr =
      let
        evaluated = fromRestic { repositoryUrl = "/mnt/nas-backup"; };
      in
      {
        user = values "User" unit evaluated;
        capabilities = values "CapabilityBoundingSet" unit evaluated;
        ambient = values "AmbientCapabilities" unit evaluated;
        # In a user namespace the capability would not reach files of root.
        userNamespace = values "PrivateUsers" unit evaluated;
        network = values "PrivateNetwork" unit evaluated;
      };
    expected = {
      user = [ "postgres" ];
      userNamespace = [ "false" ];
      capabilities = [ "CAP_DAC_READ_SEARCH" ];
      ambient = [ "CAP_DAC_READ_SEARCH" ];
      network = [ "true" ];
    };
  };

  "test a snapshot of one's own is read without a right to change a dataset" = {
    expr =
      let
        evaluated = hostWith [
          onZfs
          (main {
            preseed = {
              enable = true;
              restoreMethods = [ "local" ];
            };
          })
        ];
      in
      lib.genAttrs [
        "BindPaths"
        "CapabilityBoundingSet"
        "DeviceAllow"
        "PrivateNetwork"
        "ProtectSystem"
        "User"
      ] (directive: values directive unit evaluated);
    expected = {
      BindPaths = [ "-/dev/zfs" ];
      CapabilityBoundingSet = [ "" ];
      DeviceAllow = [ "/dev/zfs rw" ];
      PrivateNetwork = [ "true" ];
      ProtectSystem = [ "strict" ];
      User = [ "postgres" ];
    };
  };

  "test a preseed asks for datasets and has no rights over them" = {
    expr = {
      user = values "User" unit everything;
      capabilities = values "CapabilityBoundingSet" unit everything;
      device = values "DeviceAllow" unit everything;
      system = values "ProtectSystem" unit everything;
      mounts = values "RequiresMountsFor" unit everything;
      families = values "RestrictAddressFamilies" unit everything;
    };
    expected = {
      user = [ "postgres" ];
      capabilities = [ "" ];
      device = [ "/dev/zfs rw" ];
      system = [ "strict" ];
      mounts = [
        "/var/lib/postgresql/main"
        "/var/lib/postgresql/main-wal"
      ];
      families = [
        "AF_UNIX"
        "AF_INET"
        "AF_INET6"
      ];
    };
  };

  "test a restore from snapshots of this host needs no network" = {
    expr =
      let
        evaluated = hostWith [
          onZfs
          (main {
            preseed = {
              enable = true;
              restoreMethods = [ "local" ];
            };
          })
        ];
      in
      {
        families = values "RestrictAddressFamilies" unit evaluated;
        network = values "PrivateNetwork" unit evaluated;
        after = words "After" unit evaluated;
      };
    expected = {
      families = [ "AF_UNIX" ];
      network = [ "true" ];
      after = [ "backstay-datasets.service" ];
    };
  };

  "test secrets arrive as credentials, and one that is missing does not fail a healthy server" = {
    expr = {
      load = values "LoadCredential" unit everything;
      set = values "SetCredential" unit everything;
    };
    expected = {
      load = [
        "restic-password:/run/secrets/restic/password"
        "restic-environment:/run/secrets/restic/env"
        "ssh-key:/var/lib/zfs-replication/.ssh/id_ed25519"
      ];
      set = [
        "restic-password:\\n"
        "restic-environment:\\n"
        "ssh-key:\\n"
      ];
    };
  };

  "test a failing preseed is told" = {
    expr = words "OnFailure" unit (hostWith [
      {
        modules.notifications = {
          enable = true;
          ntfy = {
            enable = true;
            topic = "alerts";
          };
        };
      }
      (main { preseed.enable = true; })
    ]);
    expected = [ "notify@preseed-failure:%n.service" ];
  };

  "test preseed.enable = false leaves no unit and no settings" = {
    expr =
      let
        evaluated = host {
          preseed = {
            enable = false;
            restoreMethods = [ "syncoid" ];
          };
        };
      in
      {
        units = lib.filter (lib.hasPrefix "preseed-") (lib.attrNames evaluated.units);
        settings = section "preseed" evaluated;
        requires = words "Requires" "postgresql-main.service" evaluated;
        inherit (evaluated) failedAssertions;
      };
    expected = {
      units = [ ];
      settings = null;
      requires = [ ];
      failedAssertions = [ ];
    };
  };

  "test what restored before the start of the server has a base backup taken once it runs" = {
    expr =
      let
        path = "postgresql-basebackup-requested-main.path";
        declared = declaration: evaluated: values declaration path evaluated;
        recovering = host {
          recovery = {
            enable = true;
            id = "a";
          };
        };
      in
      {
        file = declared "PathExists" fromBaseBackups;
        unit = declared "Unit" fromBaseBackups;
        after = declared "After" fromBaseBackups;
        wanted = declared "WantedBy" fromBaseBackups;
        recovering = declared "Unit" recovering;
        # The restore takes a lock beside the base backups.
        writes = lib.elem "-/var/backup/postgresql/main" (
          values "ReadWritePaths" "postgresql-main.service" recovering
        );
        neither = (host { }).units ? ${path};
      };
    expected = {
      file = [ "/var/lib/backstay/main/base-backup-requested" ];
      unit = [ "postgresql-basebackup-main.service" ];
      after = [ "postgresql-main.service" ];
      wanted = [ "postgresql-main.service" ];
      recovering = [ "postgresql-basebackup-main.service" ];
      writes = true;
      neither = false;
    };
  };

  # Recovery.

  "test a recovery reaches the settings with its id" = {
    expr = section "recovery" (host {
      recovery = {
        enable = true;
        id = "2026-10-11-orders-dropped";
        targetTime = "2026-10-11 14:30 Europe/Berlin";
        exclusive = true;
        timeline = 2;
      };
    });
    expected = {
      id = "2026-10-11-orders-dropped";
      target = "2026-10-11 14:30 Europe/Berlin";
      exclusive = true;
      timeline = "2";
    };
  };

  "test the target is the one that is set, in the words of backstay restore" = {
    expr = map targetOf [
      { }
      { target = "latest"; }
      { targetTime = "2026-10-11T14:30:05.25+02:00"; }
      { targetTime = "2026-10-11 12:30Z"; }
      { targetXid = "742"; }
      { targetXid = 742; }
      { targetName = "before_major_upgrade"; }
      { targetLsn = "0/7000028"; }
      {
        target = "xid";
        targetXid = "742";
      }
    ];
    expected = [
      "immediate"
      "latest"
      "2026-10-11T14:30:05.25+02:00"
      "2026-10-11 12:30Z"
      "xid:742"
      "xid:742"
      "name:before_major_upgrade"
      "lsn:0/7000028"
      "xid:742"
    ];
  };

  "test a recovery restarts the server at the switch, and another one again" = {
    expr =
      let
        triggers =
          id:
          values "X-Restart-Triggers" "postgresql-main.service" (host {
            recovery = {
              enable = true;
              inherit id;
            };
          });
        none = values "X-Restart-Triggers" "postgresql-main.service" (host { });
      in
      {
        starts = triggers "a" != none;
        again = triggers "a" != triggers "b";
        once = triggers "a" == triggers "a";
      };
    expected = {
      starts = true;
      again = true;
      once = true;
    };
  };

  "test recovery.enable = false leaves no settings" = {
    expr = section "recovery" (host {
      recovery = {
        enable = false;
        id = "a";
        targetXid = "742";
      };
    });
    expected = null;
  };

  # Mistakes.

  "test E5 preseed without a source is refused" =
    refused
      [
        "${methods}: there is nothing to restore from: no replica, no dataset, no repository and no base backups; declare one of them, or set preseed.enable = false."
      ]
      {
        backup.enable = false;
        preseed.enable = true;
      };

  "test snapshots without the archive of what came after them are refused" =
    refusedOn
      [
        "${methods}: \"local\" goes on from a snapshot through the WAL archive of this host, and backup.walArchive.enable is false; archive, or leave \"local\" out."
      ]
      [
        onZfs
        (main {
          backup.walArchive.enable = false;
          backup.baseBackup.enable = false;
          preseed = {
            enable = true;
            restoreMethods = [ "local" ];
          };
        })
      ];

  "test E5 methods without a source are refused, each with its way out" =
    refused
      [
        "${methods}: \"syncoid\" needs the data on ZFS, and no dataset is declared at \"/var/lib/postgresql/main\"; set modules.storage.datasets.enable = true, or leave \"syncoid\" out."
        "${methods}: \"local\" needs the data on ZFS, and no dataset is declared at \"/var/lib/postgresql/main\"; set modules.storage.datasets.enable = true, or leave \"local\" out."
        "${methods}: \"restic\" has no repository; set preseed.repositoryUrl or backup.restic.repositoryName, or leave \"restic\" out."
      ]
      {
        preseed = {
          enable = true;
          restoreMethods = [
            "syncoid"
            "local"
            "restic"
          ];
        };
      };

  "test E5 syncoid without a replication is refused" =
    refusedOn
      [
        "${methods}: \"syncoid\" has no replica to fetch, since \"tank/services/postgresql/main\" is not replicated; set modules.backup.sanoid.datasets.\"tank/services/postgresql/main\".replication, or leave \"syncoid\" out."
      ]
      [
        onZfs
        (main {
          preseed = {
            enable = true;
            restoreMethods = [ "syncoid" ];
          };
        })
      ];

  "test E5 syncoid from another pool of this host is refused" =
    refusedOn
      [
        "${methods}: \"syncoid\" fetches a replica from another host, and \"vault/main\" is on this one; set modules.backup.sanoid.datasets.\"tank/services/postgresql/main\".replication.targetHost, or leave \"syncoid\" out."
      ]
      [
        onZfs
        (replicate "main" {
          targetHost = null;
          targetDataset = "vault/main";
          hostKey = null;
        })
        (main {
          preseed = {
            enable = true;
            restoreMethods = [ "syncoid" ];
          };
        })
      ];

  "test E5 syncoid for a dataset that nothing mounts again is refused" =
    refusedOn
      [
        "${methods}: \"syncoid\" has what it received mounted by backstay-datasets.service, and \"tank/pg/main\" is not declared in modules.storage.datasets; declare it there, or leave \"syncoid\" out."
      ]
      [
        {
          fileSystems."/var/lib/postgresql/main" = {
            device = "tank/pg/main";
            fsType = "zfs";
          };
          modules.backup.sanoid.datasets."tank/pg/main" = {
            useTemplate = [ "postgresql" ];
            replication = {
              targetHost = "nas-1.example.org";
              targetDataset = "backup/forge/main";
              inherit hostKey;
            };
          };
        }
        (main {
          preseed = {
            enable = true;
            restoreMethods = [ "syncoid" ];
          };
        })
      ];

  "test E5 syncoid without the key of the host, or a key for it, is refused once" =
    let
      problems =
        module:
        (hostWith [
          onZfs
          module
          (main {
            preseed = {
              enable = true;
              restoreMethods = [
                "syncoid"
                "baseBackups"
              ];
            };
          })
        ]).failedAssertions;
      count = module: lib.length (problems module);
    in
    {
      expr = {
        hostKey = count (replicate "main" { hostKey = null; });
        key = count {
          imports = [ (replicate "main" { }) ];
          modules.backup.sanoid.sshKeyPath = null;
        };
      };
      expected = {
        hostKey = 1;
        key = 1;
      };
    };

  "test E5 a repository without a password is refused" =
    refused
      [
        "${methods}: \"restic\" has no password for the repository \"s3:https://s3.example.org/forge\"; set preseed.passwordFile, or leave \"restic\" out."
      ]
      {
        preseed = {
          enable = true;
          restoreMethods = [ "restic" ];
          repositoryUrl = "s3:https://s3.example.org/forge";
        };
      };

  "test E5 base backups that nobody takes are refused" =
    refused
      [
        "${methods}: \"baseBackups\" restores from base backups on this host, and none are taken; set backup.baseBackup.enable = true, or leave \"baseBackups\" out."
      ]
      {
        backup.enable = false;
        preseed = {
          enable = true;
          restoreMethods = [ "baseBackups" ];
        };
      };

  "test a password in the URL is refused and not repeated" =
    refused
      [
        "${at "preseed.repositoryUrl"}: it has a password in it, and it becomes part of the Nix store, where every user can read it; put the password into preseed.environmentFile, as RESTIC_REST_PASSWORD."
      ]
      {
        preseed = {
          enable = true;
          restoreMethods = [ "restic" ];
          repositoryUrl = "rest:https://forge:hunter2@nas.example.org/";
          passwordFile = "/run/secrets/restic/password";
        };
      };

  "test E6 a password file in the Nix store is no value" = {
    expr = evaluates (host {
      preseed = {
        enable = true;
        repositoryUrl = "s3:https://s3.example.org/forge";
        passwordFile = "/nix/store/00000000000000000000000000000000-password";
      };
    }).state;
    expected = false;
  };

  "test E11 data and archive on two pools are refused where snapshots are restored" =
    refusedOn
      [
        "${at "backup.walArchive.directory"}: the archive is on \"bulk/wal\" and the data on \"tank/pg\", and snapshots of two pools are never of the same moment, so preseed.restoreMethods could restore an archive that is older than the data; put both on one pool, or leave \"syncoid\" and \"local\" out."
      ]
      [
        {
          fileSystems."/var/lib/postgresql/main" = {
            device = "tank/pg";
            fsType = "zfs";
          };
          fileSystems."/srv/wal" = {
            device = "bulk/wal";
            fsType = "zfs";
          };
        }
        (main {
          backup.walArchive.directory = "/srv/wal";
          preseed.enable = true;
          preseed.restoreMethods = [ "local" ];
        })
      ];

  "test a point in time without its value is refused" =
    refused [ "${at "preseed.pitr.target"}: \"time\" needs a value; set preseed.pitr.targetValue." ]
      {
        preseed = {
          enable = true;
          pitr.target = "time";
        };
      };

  "test a value without its target is refused" =
    refused
      [
        "${at "preseed.pitr.targetValue"}: \"742\" is no part of the target \"latest\"; set preseed.pitr.target to the kind it is, or leave it out."
      ]
      {
        preseed = {
          enable = true;
          pitr.targetValue = "742";
        };
      };

  "test a point in time without a zone is refused" =
    refused
      [
        "${at "preseed.pitr.targetValue"}: \"2026-10-11 14:30\" has no time zone, and would be another moment on a server with another one; add one: \"2026-10-11 14:30 Europe/Berlin\", \"2026-10-11 14:30+02:00\" or \"2026-10-11 14:30 UTC\"."
      ]
      {
        preseed = {
          enable = true;
          pitr = {
            target = "time";
            targetValue = "2026-10-11 14:30";
          };
        };
      };

  "test a point in time without an archive is refused" =
    refused
      [
        "${at "preseed.pitr.target"}: \"xid\" is reached through the archive, and backup.walArchive.enable or backup.enable is false; archive, or recover to \"latest\"."
      ]
      {
        backup.enable = false;
        preseed = {
          enable = true;
          restoreMethods = [ "restic" ];
          repositoryUrl = "s3:https://s3.example.org/forge";
          passwordFile = "/run/secrets/restic/password";
          pitr = {
            target = "xid";
            targetValue = "742";
          };
        };
      };

  "test a standby at a point in time is refused" =
    refused
      [
        "${at "preseed.asStandby"}: a standby goes on to the newest change, and preseed.pitr.target is \"immediate\"; leave one of them out."
      ]
      {
        preseed = {
          enable = true;
          asStandby = true;
          pitr.target = "immediate";
        };
      };

  "test a recovery without an id is refused" = refused [
    "${at "recovery.id"}: not set, so nobody could tell whether this recovery has been done, and each start of the server would do it again; give it a name, such as \"2026-10-11-orders-dropped\", and each later recovery another one."
  ] { recovery.enable = true; };

  "test a recovery without base backups is refused" =
    refused
      [
        "${at "recovery.enable"}: a recovery starts from a base backup and replays the archive, and backup.enable is false; set it to true."
      ]
      {
        backup.enable = false;
        recovery = {
          enable = true;
          id = "a";
        };
      };

  "test two targets are refused" = {
    expr = targetOf {
      targetTime = "2026-10-11 14:30 UTC";
      targetXid = "742";
      targetLsn = "0/7000028";
    };
    expected = [
      "${at "recovery"}: targetTime, targetXid and targetLsn are set, and a recovery has one target; keep one of them."
    ];
  };

  "test a target of another kind is refused" =
    refusedTarget "target"
      "\"latest\" is another target than recovery.targetXid, which is set too; keep one of them"
      {
        target = "latest";
        targetXid = "742";
      };

  "test a kind without its target is refused" =
    refusedTarget "target" "\"name\" needs a value; set recovery.targetName"
      { target = "name"; };

  "test a time without a zone is refused" =
    refusedTarget "targetTime"
      "\"2026-10-11 14:30\" has no time zone, and would be another moment on a server with another one; add one: \"2026-10-11 14:30 Europe/Berlin\", \"2026-10-11 14:30+02:00\" or \"2026-10-11 14:30 UTC\""
      { targetTime = "2026-10-11 14:30"; };

  "test a time with an abbreviated zone is refused" =
    refusedTarget "targetTime"
      "\"2026-10-11 14:30 CEST\" has the zone \"CEST\", and an abbreviation means different things in different places; write the offset (+02:00) or the region (Europe/Berlin) instead"
      { targetTime = "2026-10-11 14:30 CEST"; };

  "test a time that moves is refused" =
    refusedTarget "targetTime"
      "\"10 minutes ago\" is another moment each time it is read; write the moment itself, such as \"2026-10-11 14:30 Europe/Berlin\""
      { targetTime = "10 minutes ago"; };

  "test what is no time is refused" =
    refusedTarget "targetTime"
      "\"yesterday\" is not a date with a time of day and a zone; write it like \"2026-10-11 14:30 Europe/Berlin\""
      { targetTime = "yesterday"; };

  "test what is no transaction is refused" =
    refusedTarget "targetXid"
      "\"2\" is not the number of a transaction that can commit; write one from 3 to 4294967295, as the WAL has it"
      { targetXid = 2; };

  "test what is no address is refused" =
    refusedTarget "targetLsn"
      "\"7000028\" is not an address in the WAL; write one as pg_current_wal_lsn() shows it, such as \"0/7000028\""
      { targetLsn = "7000028"; };

  "test a restore point without a name is refused" =
    refusedTarget "targetName"
      "\"\" is empty; write the name that was given to pg_create_restore_point()"
      { targetName = ""; };

  "test stopping before the end of the archive is refused" =
    refusedTarget "exclusive"
      "true has no meaning for the target \"latest\", only for a time, a transaction and an address; leave it out"
      {
        target = "latest";
        exclusive = true;
      };

  "test a recovery beside a preseed to a point in time is refused" =
    refused
      [
        "${at "recovery.enable"}: true beside preseed.pitr.target = \"immediate\" is two targets for one cluster; leave one of them out."
      ]
      {
        preseed = {
          enable = true;
          pitr.target = "immediate";
        };
        recovery = {
          enable = true;
          id = "a";
        };
      };

  "test a recovery of what stays a standby is refused" =
    refused
      [
        "${at "recovery.enable"}: true beside preseed.asStandby would promote the standby; leave one of them out."
      ]
      {
        preseed = {
          enable = true;
          asStandby = true;
        };
        recovery = {
          enable = true;
          id = "a";
        };
      };

  # What is allowed and has a price.

  "test a password that is lost with the data is told" =
    warnedOn
      [
        "${at "preseed.passwordFile"}: \"/var/lib/postgresql/main/password\" is on the dataset \"tank/services/postgresql/main\", which is lost together with what this file is needed to bring back; keep it where this host's disks are not, and put it on the host apart from the datasets."
      ]
      [
        onZfs
        (main {
          preseed = {
            enable = true;
            repositoryUrl = "s3:https://s3.example.org/forge";
            passwordFile = "/var/lib/postgresql/main/password";
          };
        })
      ];

  "test a repository beside the data is told" =
    warnedOn
      [
        "${at "preseed.repositoryUrl"}: \"/tank/restic\" is on the pool tank, like the data, so both are lost together; restore from a repository in another place."
      ]
      [
        onZfs
        {
          fileSystems."/tank/restic" = {
            device = "tank/restic";
            fsType = "zfs";
          };
        }
        (main {
          preseed = {
            enable = true;
            repositoryUrl = "/tank/restic";
            passwordFile = "/run/secrets/restic/password";
          };
        })
      ];

  "test a replica without its archive is told" =
    warnedOn
      [
        "${methods}: \"syncoid\" restores the data together with the WAL archive, and \"tank/services/postgresql/main-wal\" is not replicated to \"nas-1.example.org\", so a new machine cannot be restored from there; set modules.backup.sanoid.datasets.\"tank/services/postgresql/main-wal\".replication, or leave \"syncoid\" out."
      ]
      [
        onZfs
        (replicate "main" { })
        (main {
          preseed = {
            enable = true;
            restoreMethods = [ "syncoid" ];
          };
        })
      ];
}
