# Datasets, snapshots and replication: what they become, and what is refused.
{ lib, evalHost, ... }:
let
  zfs = {
    networking.hostName = "forge";
    modules.storage.datasets = {
      enable = true;
      parentDataset = "tank/services";
    };
  };
  host = modules: evalHost ([ zfs ] ++ modules);

  refusals = modules: (host modules).failedAssertions;
  datasets = services: refusals [ { modules.storage.datasets = { inherit services; }; } ];
  utility = utility: refusals [ { modules.storage.datasets = { inherit utility; }; } ];
  sanoid = settings: refusals [ { modules.backup.sanoid = settings; } ];

  # Warnings of these areas about these modules, whatever else there is to say about the host.
  warningsAbout =
    prefix: modules: lib.filter (lib.hasPrefix prefix) (host modules).warnings;

  # The values of a directive, in their order.
  directive =
    text: name:
    map (lib.removePrefix "${name}=") (
      lib.filter (lib.hasPrefix "${name}=") (lib.splitString "\n" text)
    );
  unit = modules: name: directive (host modules).units.${name};

  settings = modules: builtins.fromJSON (host modules).files."/etc/backstay/datasets.json";

  # A section of sanoid.conf as its lines.
  section =
    modules: name:
    lib.filter (line: line != "") (
      lib.splitString "\n" (
        lib.head (
          lib.splitString "\n[" (
            lib.last (
              lib.splitString "\n[${name}]\n" ("\n" + (host modules).files."/etc/sanoid/sanoid.conf")
            )
          )
        )
      )
    );

  photos = {
    modules.storage.datasets.services.photos = {
      mountpoint = "/var/lib/photos";
      owner = "photos";
      group = "users";
      mode = "0750";
      recordsize = "1M";
      compression = "zstd-3";
      properties.atime = "off";
      purpose = "pictures";
      usedBy = [ "photos.service" ];
    };
  };

  main.modules.services.postgresql.instances.main.enable = true;

  hostKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGJhY2tzdGF5L2V4YW1wbGUvbm90LWEtcmVhbC1r";
  toNas =
    changes:
    {
      targetHost = "nas";
      targetDataset = "backup/forge/services/postgresql/main";
      inherit hostKey;
    }
    // changes;
  # Replication of the data of `main`.
  replicated = changes: {
    modules.backup.sanoid.datasets."tank/services/postgresql/main".replication = toNas changes;
  };
  # The same for a dataset without a policy, to be refused.
  replication = changes: sanoid { datasets."tank/a".replication = toNas changes; };

  syncoid = "syncoid-tank-services-postgresql-main.service";

  # What NixOS runs as root before and after syncoid. The target may be about to be made, below its parent.
  delegates =
    rights: dataset:
    let
      zfs = action: on: "/usr/sbin/zfs ${action} zfs-replication ${rights} ${on}";
    in
    {
      before = "-+/bin/sh -c 'if /usr/sbin/zfs list ${dataset}; then ${zfs "allow" dataset}; else ${zfs "allow" (dirOf dataset)}; fi'";
      after = "-+/bin/sh -c '${zfs "unallow" dataset}; ${zfs "unallow" (dirOf dataset)}'";
    };
  sends = delegates "bookmark,hold,send";
  receives = delegates "change-key,compression,create,mount,mountpoint,receive";
in
{
  # Datasets.

  "test a dataset becomes the settings of pg-datasets" = {
    expr = settings [ photos ];
    expected = {
      containers = [ "tank/services" ];
      datasets = [
        {
          name = "tank/services/photos";
          mountpoint = "/var/lib/photos";
          owner = "photos";
          group = "users";
          mode = "0750";
          purpose = "pictures";
          properties = {
            atime = "off";
            compression = "zstd-3";
            recordsize = "1M";
          };
        }
      ];
    };
  };

  "test parents come before their children and a pool is never made" = {
    expr =
      let
        made = settings [
          {
            modules.storage.datasets.services."a/b/c" = { };
            modules.storage.datasets.services."a/b" = { };
            modules.storage.datasets.utility."other/media" = { };
          }
        ];
      in
      {
        inherit (made) containers;
        names = map (dataset: dataset.name) made.datasets;
      };
    expected = {
      containers = [
        "tank/services"
        "tank/services/a"
      ];
      names = [
        "other/media"
        "tank/services/a/b"
        "tank/services/a/b/c"
      ];
    };
  };

  "test a dataset that does not say where is mounted below the common directory" = {
    expr = map (dataset: dataset.mountpoint) (settings [
      {
        modules.storage.datasets.parentMount = "/data";
        modules.storage.datasets.services.photos = { };
      }
    ]).datasets;
    expected = [ "/data/photos" ];
  };

  "test a dataset that ZFS does not mount has no owner to set" = {
    expr = (settings [ { modules.storage.datasets.utility."tank/media".mountpoint = "legacy"; } ]).datasets;
    expected = [
      {
        name = "tank/media";
        mountpoint = "legacy";
        properties = {
          compression = "lz4";
          recordsize = "128K";
        };
      }
    ];
  };

  "test an instance has its datasets with the properties of the guide" = {
    expr = map (dataset: {
      inherit (dataset) name mountpoint;
      inherit (dataset.properties) recordsize compression;
      logbias = dataset.properties.logbias or null;
    }) (settings [ main ]).datasets;
    expected = [
      {
        name = "tank/services/postgresql/main";
        mountpoint = "/var/lib/postgresql/main";
        recordsize = "8K";
        compression = "lz4";
        logbias = null;
      }
      {
        name = "tank/services/postgresql/main-backup";
        mountpoint = "/var/backup/postgresql/main";
        recordsize = "1M";
        compression = "zstd";
        logbias = null;
      }
      {
        name = "tank/services/postgresql/main-wal";
        mountpoint = "/var/lib/postgresql/main-wal";
        recordsize = "128K";
        compression = "lz4";
        logbias = "throughput";
      }
    ];
  };

  "test the datasets are there before whoever uses them and after the pools" = {
    expr =
      let
        of = unit [ photos ] "backstay-datasets.service";
      in
      {
        after = of "After";
        before = of "Before";
        wantedBy = of "WantedBy";
        requires = of "Requires";
        type = of "Type";
        # Without it every switch runs it again.
        remains = of "RemainAfterExit";
        start = of "ExecStart";
        user = of "User";
      };
    expected = {
      after = [ "zfs-import.target zfs-mount.service" ];
      before = [ "photos.service" ];
      wantedBy = [ "multi-user.target photos.service" ];
      requires = [ ];
      type = [ "oneshot" ];
      remains = [ ];
      start = [ "/usr/lib/backstay/bin/pg-datasets --config /etc/backstay/datasets.json" ];
      user = [ "root" ];
    };
  };

  "test a changed dataset changes the unit" = {
    expr =
      unit [ photos ] "backstay-datasets.service" "X-Restart-Triggers"
      == unit [
        photos
        { modules.storage.datasets.services.photos.mode = lib.mkForce "0700"; }
      ] "backstay-datasets.service" "X-Restart-Triggers";
    expected = false;
  };

  "test datasets that are not enabled change nothing" = {
    expr = (evalHost [ { modules.storage.datasets.services.photos.recordsize = "3K"; } ]).state;
    expected = (evalHost [ ]).state;
  };

  "test a record size that is no power of two is refused" = {
    expr = datasets { photos.recordsize = "12K"; };
    expected = [
      "modules.storage.datasets.services.photos.recordsize: \"12K\" is not a power of two from 512 to 16M; use 8K for a database, 128K for files of all sizes, 1M for large ones."
    ];
  };

  "test a record size above what OpenZFS takes is refused" = {
    expr = datasets { photos.recordsize = "32M"; };
    expected = [
      "modules.storage.datasets.services.photos.recordsize: \"32M\" is not a power of two from 512 to 16M; use 8K for a database, 128K for files of all sizes, 1M for large ones."
    ];
  };

  "test the largest and the smallest record are taken" = {
    expr = datasets {
      a.recordsize = "512";
      b.recordsize = "16M";
    };
    expected = [ ];
  };

  "test E16 a compression level that OpenZFS does not have is refused" = {
    expr = datasets { photos.compression = "zstd-20"; };
    expected = [
      "modules.storage.datasets.services.photos.compression: \"zstd-20\" is no compression of OpenZFS; use lz4, zstd, zstd-1 to zstd-19, gzip-1 to gzip-9 or off."
    ];
  };

  "test every kind of compression of OpenZFS is taken" = {
    expr = datasets (
      lib.listToAttrs (
        lib.imap0 (index: compression: lib.nameValuePair "d${toString index}" { inherit compression; }) [
          "on"
          "off"
          "lz4"
          "lzjb"
          "zle"
          "gzip"
          "gzip-9"
          "zstd"
          "zstd-19"
          "zstd-fast"
          "zstd-fast-1000"
        ]
      )
    );
    expected = [ ];
  };

  "test a property that makes ZFS lie about writes is refused" = {
    expr = datasets { photos.properties.sync = "disabled"; };
    expected = [
      "modules.storage.datasets.services.photos.properties.sync: \"disabled\" makes ZFS acknowledge writes that a power cut takes back, so committed changes are lost; leave it out, or use \"standard\" or \"always\"."
    ];
  };

  "test a property that is an option of its own is refused" = {
    expr = datasets { photos.properties.recordsize = "8K"; };
    expected = [
      "modules.storage.datasets.services.photos.properties.recordsize: \"8K\" stands beside an option of its own; set modules.storage.datasets.services.photos.recordsize instead."
    ];
  };

  "test a property that contradicts the mount point is refused" = {
    expr = datasets { photos.properties.canmount = "noauto"; };
    expected = [
      "modules.storage.datasets.services.photos.properties.canmount: \"noauto\" stands beside mountpoint, which says already whether the dataset is mounted; use mountpoint = \"none\" for one that only holds others, or \"legacy\" to mount it with fileSystems."
    ];
  };

  "test a property with a name that ZFS cannot have is refused" = {
    expr = datasets { photos.properties."Quota " = "1G"; };
    expected = [
      "modules.storage.datasets.services.photos.properties.\"Quota \": this is not a name of a ZFS property; use lower-case letters, digits, \":\", \"_\", \".\" and \"-\"."
    ];
  };

  "test two datasets on one mount point are refused with both names" = {
    expr = datasets {
      postgres.mountpoint = "/var/lib/postgresql/main";
      postgresql.mountpoint = "/var/lib/postgresql/main";
    };
    expected = [
      "modules.storage.datasets.services.postgres.mountpoint: the datasets \"tank/services/postgres\" and \"tank/services/postgresql\" would be mounted on \"/var/lib/postgresql/main\", where one hides the data of the other; give each a place of its own."
    ];
  };

  "test a dataset that is declared twice is refused with both options" = {
    expr = refusals [
      {
        modules.storage.datasets.services.photos = { };
        modules.storage.datasets.utility."tank/services/photos".mountpoint = "/srv/photos";
      }
    ];
    expected = [
      "modules.storage.datasets.services.photos: the dataset \"tank/services/photos\" is declared by modules.storage.datasets.utility.\"tank/services/photos\" as well; keep one of them."
    ];
  };

  "test a mount inside the mount of a dataset that is no parent is refused" = {
    expr = datasets {
      outer.mountpoint = "/srv/data";
      inner.mountpoint = "/srv/data/pictures/raw";
    };
    expected = [
      "modules.storage.datasets.services.inner.mountpoint: \"/srv/data/pictures/raw\" is inside \"/srv/data\", where \"tank/services/outer\" is mounted, but \"tank/services/inner\" is not a child of that dataset, so either may be mounted first and hide the other; make it a child, mount it elsewhere, or leave the outer mount to fileSystems with mountpoint = \"legacy\"."
    ];
  };

  "test a child may be mounted inside its parent" = {
    expr = datasets {
      data.mountpoint = "/srv/data";
      "data/tablespace".mountpoint = "/srv/data/tablespace";
    };
    expected = [ ];
  };

  "test a dataset whose parent nobody declared is refused" = {
    expr = utility { "tank/meida/films" = { }; };
    expected = [
      "modules.storage.datasets.utility.\"tank/meida/films\": its parent \"tank/meida\" is not declared; declare modules.storage.datasets.utility.\"tank/meida\" as well, or correct the name."
    ];
  };

  "test a dataset below a declared one, the common parent or a pool is taken" = {
    expr = utility {
      "tank/media" = { };
      "tank/media/films" = { };
      "tank/services/x" = { };
      "other/x" = { };
    };
    expected = [ ];
  };

  "test a pool is not made" = {
    expr = utility { "tank" = { }; };
    expected = [
      "modules.storage.datasets.utility.tank: \"tank\" is a pool, and pools are not created here; declare a dataset in it, such as \"tank/data\"."
    ];
  };

  "test a name that no dataset can have is refused" = {
    expr = datasets { "my photos" = { }; };
    expected = [
      "modules.storage.datasets.services.\"my photos\": \"tank/services/my photos\" is not a name of a dataset; use letters, digits, \"-\", \"_\", \".\" and \":\" between the slashes, begin the pool with a letter and each other part with a letter or a digit."
      "modules.storage.datasets.services.\"my photos\".mountpoint: \"/srv/my photos\" is not a plain path: no space, no \"//\" and no slash at the end; give the directory where the dataset is to appear, or \"none\" for a dataset that only holds others."
    ];
  };

  "test a parent that is no dataset is refused" = {
    expr = refusals [ { modules.storage.datasets.parentDataset = lib.mkForce "/tank/services"; } ];
    expected = [
      "modules.storage.datasets.parentDataset: \"/tank/services\" is not a name of a dataset; write the pool and the datasets below it, such as \"tank/services\"."
    ];
  };

  "test a common directory that is no path is refused" = {
    expr = refusals [ { modules.storage.datasets.parentMount = "srv"; } ];
    expected = [
      "modules.storage.datasets.parentMount: \"srv\" is not an absolute path; give the directory below which datasets are mounted, such as \"/srv\"."
    ];
  };

  "test a mount point over the root file system is refused" = {
    expr = datasets { photos.mountpoint = "/"; };
    expected = [
      "modules.storage.datasets.services.photos.mountpoint: \"/\" is the root file system; give the directory where the dataset is to appear, or \"none\" for a dataset that only holds others."
    ];
  };

  "test an instance whose settings would be those of the datasets is refused" = {
    expr = lib.filter (lib.hasInfix "datasets.json") (refusals [
      { modules.services.postgresql.instances.datasets.enable = true; }
    ]);
    expected = [
      "modules.services.postgresql.instances.datasets: its settings would be /etc/backstay/datasets.json, where the declared datasets are; choose another name."
    ];
  };

  # Snapshots.

  "test the datasets of an instance are snapshotted by the guide's policy" = {
    expr = {
      data = section [ main ] "tank/services/postgresql/main";
      archive = section [ main ] "tank/services/postgresql/main-wal";
      dataTemplate = section [ main ] "template_postgresql";
      archiveTemplate = section [ main ] "template_wal-frequent";
    };
    expected = {
      data = [
        "process_children_only=false"
        # One atomic step for the data and the tablespaces below it.
        "recursive=zfs"
        "use_template=postgresql"
      ];
      archive = [
        "process_children_only=false"
        "recursive=false"
        "use_template=wal-frequent"
      ];
      dataTemplate = [
        "autoprune=true"
        "autosnap=true"
        "daily=7"
        "frequent_period=15"
        "frequently=0"
        "hourly=24"
        "monthly=0"
        "weekly=4"
        "yearly=0"
      ];
      archiveTemplate = [
        "autoprune=true"
        "autosnap=true"
        "daily=7"
        "frequent_period=5"
        "frequently=12"
        "hourly=48"
        "monthly=0"
        "weekly=0"
        "yearly=0"
      ];
    };
  };

  "test a user's policy takes the place of the automatic one" = {
    expr = section [
      main
      {
        modules.backup.sanoid = {
          templates.production.daily = 30;
          datasets."tank/services/postgresql/main" = {
            useTemplate = [ "production" ];
            recursive = false;
            retention.hourly = 48;
            autoprune = false;
          };
        };
      }
    ] "tank/services/postgresql/main";
    expected = [
      "autoprune=false"
      "hourly=48"
      "process_children_only=false"
      "recursive=false"
      "use_template=production"
    ];
  };

  "test what somebody writes into NixOS' own options stands" = {
    expr =
      section
        [
          main
          {
            services.sanoid.templates.own.daily = 90;
            services.sanoid.datasets."tank/services/postgresql/main" = {
              use_template = [ "own" ];
              recursive = false;
            };
          }
        ]
        "tank/services/postgresql/main";
    expected = [
      "process_children_only=false"
      "recursive=false"
      "use_template=own"
    ];
  };

  "test sanoid looks often enough for the archive and makes up for what it missed" = {
    expr =
      let
        of = unit [ main ] "sanoid.timer";
      in
      {
        calendar = of "OnCalendar";
        persistent = of "Persistent";
        delay = of "RandomizedDelaySec";
        after = unit [ main ] "sanoid.service" "After";
      };
    expected = {
      calendar = [ "*:0/5" ];
      persistent = [ "true" ];
      delay = [ "10s" ];
      after = [ "zfs.target backstay-datasets.service" ];
    };
  };

  "test sanoid reaches the device of ZFS, and neither a network nor the kernel" = {
    expr =
      let
        of = unit [ main ] "sanoid.service";
      in
      map of [
        "DeviceAllow"
        "DevicePolicy"
        "PrivateNetwork"
        "CapabilityBoundingSet"
        "SystemCallFilter"
      ];
    expected = [
      [ "/dev/zfs rw" ]
      [ "closed" ]
      [ "true" ]
      [ "" ]
      [
        "@system-service"
        "~@privileged @resources"
      ]
    ];
  };

  "test snapshots that are switched off change nothing" = {
    expr =
      (host [
        main
        photos
        {
          modules.backup.sanoid = {
            enable = false;
            datasets."tank/services/photos".useTemplate = [ "nonsense" ];
          };
        }
      ]).files ? "/etc/sanoid/sanoid.conf";
    expected = false;
  };

  "test an unknown template is refused with the known ones" = {
    expr = sanoid { datasets."tank/a".useTemplate = [ "prod" ]; };
    expected = [
      "modules.backup.sanoid.datasets.\"tank/a\".useTemplate: \"prod\" is not a template; declare modules.backup.sanoid.templates.prod, or use one of postgresql, wal-frequent."
    ];
  };

  "test a dataset without a policy is not left to the one that sanoid has built in" = {
    expr = sanoid { datasets."tank/a".autosnap = true; };
    expected = [
      "modules.backup.sanoid.datasets.\"tank/a\": neither useTemplate nor retention says what is kept; name a template, such as \"postgresql\", or set counts such as retention.daily = 7."
    ];
  };

  "test a dataset that is only replicated has no policy of sanoid" = {
    expr =
      let
        made = host [ { modules.backup.sanoid.datasets."tank/a".replication = toNas { }; } ];
      in
      {
        inherit (made) failedAssertions;
        sanoid = made.files ? "/etc/sanoid/sanoid.conf";
        syncoid = made.units ? "syncoid-tank-a.service";
      };
    expected = {
      failedAssertions = [ ];
      sanoid = false;
      syncoid = true;
    };
  };

  "test a name that is no dataset is refused" = {
    expr = sanoid { datasets."/tank/a".useTemplate = [ "postgresql" ]; };
    expected = [
      "modules.backup.sanoid.datasets.\"/tank/a\": \"/tank/a\" is not a name of a dataset; write the pool and the datasets below it, such as \"tank/services\"."
    ];
  };

  "test an interval that is longer than the shortest period is told" = {
    expr = warningsAbout "modules.backup.sanoid" [
      main
      { modules.backup.sanoid.snapshotInterval = "hourly"; }
    ];
    expected = [
      "modules.backup.sanoid.snapshotInterval: \"hourly\" is longer than the 5 minutes between two snapshots of \"tank/services/postgresql/main-wal\", so some of them will never be taken; use \"*/5\", or a longer frequentPeriodMinutes."
    ];
  };

  "test E15 an interval that systemd cannot read is refused" = {
    expr =
      (builtins.tryEval (host [ { modules.backup.sanoid.snapshotInterval = "sometimes"; } ]).config.modules.backup.sanoid.snapshotInterval)
      .success;
    expected = false;
  };

  # Replication.

  "test replication sends raw, resumes, trusts one key and destroys nothing" = {
    expr =
      let
        of = unit [
          main
          (replicated { })
        ] syncoid;
      in
      {
        start = of "ExecStart";
        allowed = of "ExecStartPre";
        taken = of "ExecStopPost";
        user = of "User";
        key = of "BindReadOnlyPaths";
        description = of "Description";
        after = of "After";
        restart = of "X-RestartIfChanged";
      };
    expected = {
      start = [
        (lib.concatStringsSep " " [
          "/usr/sbin/syncoid -r --sshkey /var/lib/zfs-replication/.ssh/id_ed25519"
          "--no-sync-snap --create-bookmark --no-rollback"
          "'--sshport=22' '--sshoption=StrictHostKeyChecking=yes' '--sshoption=UserKnownHostsFile=/dev/null'"
          "'--sshoption=BatchMode=yes' --sendoptions w --recvoptions u --no-privilege-elevation"
          "tank/services/postgresql/main zfs-replication@nas:backup/forge/services/postgresql/main"
        ])
      ];
      allowed = [ (sends "tank/services/postgresql/main").before ];
      taken = [ (sends "tank/services/postgresql/main").after ];
      user = [ "zfs-replication" ];
      key = [ "-/var/lib/zfs-replication/.ssh/id_ed25519" ];
      description = [ "Replicate tank/services/postgresql/main to nas" ];
      after = [ "sanoid.service backstay-datasets.service zfs.target" ];
      restart = [ "false" ];
    };
  };

  "test the key of the target is the host's, with its port" = {
    expr =
      (host [
        main
        (replicated { targetPort = 2222; })
      ]).files."/etc/ssh/ssh_known_hosts";
    expected = "[nas]:2222 ${hostKey}\n";
  };

  "test replication makes up for what it missed" = {
    expr =
      let
        of = unit [
          main
          (replicated { })
          { modules.backup.sanoid.replicationInterval = "*/15"; }
        ] "syncoid-tank-services-postgresql-main.timer";
      in
      map of [
        "OnCalendar"
        "Persistent"
        "RandomizedDelaySec"
      ];
    expected = [
      [ "*:0/15" ]
      [ "true" ]
      [ "1min" ]
    ];
  };

  "test replication to another pool of this host needs no key" = {
    expr =
      let
        made = host [
          {
            modules.backup.sanoid.sshKeyPath = null;
            modules.backup.sanoid.datasets."tank/a".replication.targetDataset = "backup/a";
          }
        ];
      in
      {
        inherit (made) failedAssertions;
        start = directive made.units."syncoid-tank-a.service" "ExecStart";
        allowed = directive made.units."syncoid-tank-a.service" "ExecStartPre";
        description = directive made.units."syncoid-tank-a.service" "Description";
      };
    expected = {
      failedAssertions = [ ];
      start = [
        "/usr/sbin/syncoid --no-sync-snap --create-bookmark --no-rollback --sendoptions w --recvoptions u --no-privilege-elevation tank/a backup/a"
      ];
      allowed = [
        (sends "tank/a").before
        (receives "backup/a").before
      ];
      description = [ "Replicate tank/a to the pool backup" ];
    };
  };

  "test the description says what people call the target and where it stands" = {
    expr =
      unit
        [
          main
          (replicated {
            targetName = "NAS 100%";
            targetLocation = "second site";
          })
        ]
        syncoid
        "Description";
    expected = [ "Replicate tank/services/postgresql/main to NAS 100%% (second site)" ];
  };

  "test other modules find the replica of a dataset, also through a recursive parent" = {
    expr =
      let
        replicationOf =
          (host [
            main
            {
              modules.backup.sanoid.datasets."tank/services" = {
                recursive = true;
                replication = {
                  targetHost = "nas";
                  targetPort = 2222;
                  targetUser = "receiver";
                  targetDataset = "backup/forge/services";
                  inherit hostKey;
                };
              };
            }
          ]).config.modules.backup.sanoid.replicationOf;
      in
      {
        data = replicationOf "tank/services/postgresql/main";
        elsewhere = replicationOf "other/data";
      };
    expected = {
      data = {
        source = "tank/services";
        unit = "syncoid-tank-services.service";
        local = false;
        host = "nas";
        port = 2222;
        user = "receiver";
        dataset = "backup/forge/services/postgresql/main";
        sshKeyFile = "/var/lib/zfs-replication/.ssh/id_ed25519";
        knownHosts = "[nas]:2222 ${hostKey}";
        sendOptions = "w";
        receiveOptions = "u";
      };
      elsewhere = null;
    };
  };

  "test a replication that is not recursive does not cover what is below" = {
    expr =
      (host [
        { modules.backup.sanoid.datasets."tank/services".replication = toNas { }; }
      ]).config.modules.backup.sanoid.replicationOf
        "tank/services/postgresql/main";
    expected = null;
  };

  "test E5 replication without a target is refused" = {
    expr = replication { targetDataset = null; };
    expected = [
      "modules.backup.sanoid.datasets.\"tank/a\".replication.targetDataset: not set, so \"tank/a\" has nowhere to go; write the full name of the replica, such as \"backup/forge/a\"."
    ];
  };

  "test E5 replication to a host without its key is refused" = {
    expr = replication { hostKey = null; };
    expected = [
      "modules.backup.sanoid.datasets.\"tank/a\".replication.hostKey: not set, so anybody who answers as \"nas\" would be sent the data; write the key that \"ssh-keyscan nas\" prints after the name, compared with the one on the host itself."
    ];
  };

  "test E5 a key without a host is refused" = {
    expr = replication { targetHost = null; };
    expected = [
      "modules.backup.sanoid.datasets.\"tank/a\".replication.hostKey: set without a host; set targetHost as well, or leave the key out to replicate to a pool of this host."
    ];
  };

  "test E5 replication to a host without a key of our own is refused" = {
    expr = sanoid {
      sshKeyPath = null;
      datasets."tank/a".replication = toNas { };
    };
    expected = [
      "modules.backup.sanoid.sshKeyPath: not set, but \"tank/a\" is replicated to another host; write the path of the private ssh key, such as \"/run/secrets/zfs-replication\"."
    ];
  };

  "test E6 a key in the store is refused" = {
    expr =
      (builtins.tryEval (host [ { modules.backup.sanoid.sshKeyPath = ./storage.nix; } ]).config.modules.backup.sanoid.sshKeyPath)
      .success;
    expected = false;
  };

  "test a host key that is none is refused" = {
    expr = replication { hostKey = "SHA256:abcdef"; };
    expected = [
      "modules.backup.sanoid.datasets.\"tank/a\".replication.hostKey: \"SHA256:abcdef\" is not a public key of a host; write its type and the key, such as \"ssh-ed25519 AAAA…\"."
    ];
  };

  "test a host that would be an option of ssh is refused" = {
    expr = replication { targetHost = "-oProxyCommand=true"; };
    expected = [
      "modules.backup.sanoid.datasets.\"tank/a\".replication.targetHost: \"-oProxyCommand=true\" is not a name or an address of a host; write the user in targetUser and the port in targetPort."
    ];
  };

  "test a user with a host in it is refused" = {
    expr = replication { targetUser = "backup@nas"; };
    expected = [
      "modules.backup.sanoid.datasets.\"tank/a\".replication.targetUser: \"backup@nas\" is not a name of a user; write the host in targetHost."
    ];
  };

  "test a target with a host in it is refused" = {
    expr = replication { targetDataset = "nas:backup/a"; };
    expected = [
      "modules.backup.sanoid.datasets.\"tank/a\".replication.targetDataset: \"nas:backup/a\" is not a name of a dataset; write the pool and the datasets below it, and the host in targetHost."
    ];
  };

  "test a target that is no dataset is refused" = {
    expr = replication { targetDataset = "root@nas:backup/a"; };
    expected = [
      "modules.backup.sanoid.datasets.\"tank/a\".replication.targetDataset: \"root@nas:backup/a\" is not a name of a dataset; write the pool and the datasets below it, and the host in targetHost."
    ];
  };

  "test a replica inside its own source is refused" = {
    expr = sanoid { datasets."tank/a".replication.targetDataset = "tank/a/replica"; };
    expected = [
      "modules.backup.sanoid.datasets.\"tank/a\".replication.targetDataset: \"tank/a/replica\" and its source \"tank/a\" are one inside the other; replicate to a dataset apart from it, on another pool or host."
    ];
  };

  "test two sources with one replica are refused" = {
    expr = sanoid {
      datasets."tank/a".replication = toNas { };
      datasets."tank/b".replication = toNas { };
    };
    expected = [
      "modules.backup.sanoid.datasets.\"tank/a\".replication.targetDataset: \"backup/forge/services/postgresql/main\" is the replica of \"tank/a\" and \"tank/b\"; give each source a replica of its own."
    ];
  };

  "test two keys for one host are refused" = {
    expr = sanoid {
      datasets."tank/a".replication = toNas { };
      datasets."tank/b".replication = toNas {
        targetDataset = "backup/b";
        hostKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIG90aGVy";
      };
    };
    expected = [
      "modules.backup.sanoid.datasets.\"tank/a\".replication.hostKey: the host \"nas\" has another key in modules.backup.sanoid.datasets.\"tank/b\".replication.hostKey; write the one that the host shows in all of them."
    ];
  };

  # What Nix knows about the way back.

  "test a replica on the pool of its source is told" = {
    expr = warningsAbout "modules.backup.sanoid" [
      { modules.backup.sanoid.datasets."tank/a".replication.targetDataset = "tank/replicas/a"; }
    ];
    expected = [
      "modules.backup.sanoid.datasets.\"tank/a\".replication.targetDataset: \"tank/replicas/a\" is on the pool \"tank\", where its source is, so whatever breaks the pool takes both; choose another pool, or better another host."
    ];
  };

  "test a replica that is kept shorter than the window is told" = {
    expr = warningsAbout "modules.backup.sanoid" [
      main
      (replicated { retentionDays = 14; })
    ];
    expected = [
      "modules.backup.sanoid.datasets.\"tank/services/postgresql/main\".replication.retentionDays: the replica of the instance \"main\" is kept for 14 days, which is less than the 30 days of modules.services.postgresql.instances.main.backup.walArchive.retentionDays, so with this host the older points in time are lost; have the target keep more, or promise less."
    ];
  };

  "test a replica that is kept as long as the window is fine" = {
    expr = warningsAbout "modules.backup.sanoid" [
      main
      (replicated { retentionDays = 30; })
    ];
    expected = [ ];
  };

  "test an instance whose copies are all on its pool is told" = {
    expr = warningsAbout "modules.services.postgresql.instances.main: its data" [ main ];
    expected = [
      "modules.services.postgresql.instances.main: its data and every copy of it are on the pool \"tank\", so one accident takes all of it; replicate it with modules.backup.sanoid.datasets.\"tank/services/postgresql/main\".replication, or give it a restic repository in another place. modules.backup.allowEveryCopyOnThisHost = true accepts the risk."
    ];
  };

  "test an instance whose copies are all on this host is told" = {
    expr = warningsAbout "modules.services.postgresql.instances.main: its data" [
      main
      (replicated {
        targetHost = null;
        hostKey = null;
        targetDataset = "second/main";
      })
    ];
    expected = [
      "modules.services.postgresql.instances.main: its data and every copy of it are on this host, so one accident takes all of it; replicate it with modules.backup.sanoid.datasets.\"tank/services/postgresql/main\".replication, or give it a restic repository in another place. modules.backup.allowEveryCopyOnThisHost = true accepts the risk."
    ];
  };

  "test a target that stands where this host stands is no other place" = {
    expr = lib.length (
      warningsAbout "modules.services.postgresql.instances.main: its data" [
        main
        (replicated { targetLocation = "forge"; })
      ]
    );
    expected = 1;
  };

  "test a copy in another place, or the risk accepted, is nothing to tell" = {
    expr = map (warningsAbout "modules.services.postgresql.instances.main: its data") [
      [
        main
        (replicated { })
      ]
      [
        main
        { modules.backup.allowEveryCopyOnThisHost = true; }
      ]
    ];
    expected = [
      [ ]
      [ ]
    ];
  };

  "test a key that is lost with what it is to bring back is told" = {
    expr = warningsAbout "modules.backup.sanoid.sshKeyPath" [
      main
      (replicated { })
      {
        modules.storage.datasets.services.keys.mountpoint = "/srv/keys";
        modules.backup.sanoid.sshKeyPath = "/srv/keys/replication";
      }
    ];
    expected = [
      "modules.backup.sanoid.sshKeyPath: \"/srv/keys/replication\" is on the dataset \"tank/services/keys\", so the key to the replica is lost together with what it is to bring back; keep it where this host's disks are not, and put it on the host apart from the datasets."
    ];
  };
}
