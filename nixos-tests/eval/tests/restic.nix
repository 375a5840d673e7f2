# Repositories and jobs of restic: what they become, and what is refused.
{ lib, evalHost, ... }:
let
  nas = {
    url = "/mnt/nas-backup";
    mountPoint = "/mnt/nas-backup";
    passwordFile = "/run/secrets/restic";
  };
  offsite = {
    url = "rest:https://backup.example.org/forge";
    passwordFile = "/run/secrets/restic-offsite";
    environmentFile = "/run/secrets/restic-offsite-environment";
  };
  photos = {
    paths = [ "/srv/photos" ];
  };

  host =
    {
      repositories ? { inherit nas; },
      jobs ? { inherit photos; },
      further ? { },
    }:
    evalHost [
      {
        networking.hostName = "forge";
        modules.backup.restic = { inherit repositories jobs; };
      }
      further
    ];
  refusals = settings: (host settings).failedAssertions;
  repository = changes: refusals { repositories.nas = nas // changes; };
  remote = changes: refusals { repositories.offsite = offsite // changes; };
  job = changes: refusals { jobs.photos = photos // changes; };

  directive =
    text: name:
    map (lib.removePrefix "${name}=") (
      lib.filter (lib.hasPrefix "${name}=") (lib.splitString "\n" text)
    );
  unit = settings: name: directive (host settings).units.${name};
  environment = of: map (lib.removeSuffix "\"") (map (lib.removePrefix "\"") (of "Environment"));

  backup = "restic-backups-photos.service";

  # Warnings about these modules, whatever else there is to say about the host.
  warningsAbout =
    prefix: settings: lib.filter (lib.hasPrefix prefix) (host settings).warnings;
  # An instance whose base backups and archive are copied by a job.
  instance = {
    modules.services.postgresql.instances.main.enable = true;
    modules.backup.restic.jobs.everything.paths = [ "/var" ];
  };
in
{
  # Jobs.

  "test a job becomes a backup of NixOS with its tags in one argument" = {
    expr =
      let
        of =
          unit
            {
              jobs.photos = photos // {
                tags = [
                  "photos"
                  "family"
                ];
              };
            }
            backup;
      in
      {
        start = of "ExecStart";
        description = of "Description";
        user = of "User";
        credentials = of "LoadCredential";
        environment = lib.filter (lib.hasPrefix "RESTIC_") (environment of);
      };
    expected = {
      start = [
        "/usr/bin/restic backup --host=forge --tag=photos,family --retry-lock=1h --skip-if-unchanged --files-from=/run/restic-backups-photos/includes"
      ];
      description = [ "Back up photos into the restic repository nas" ];
      user = [ "root" ];
      credentials = [ "password:/run/secrets/restic" ];
      environment = [
        "RESTIC_CACHE_DIR=/var/cache/restic-backups-photos"
        "RESTIC_COMPRESSION=auto"
        "RESTIC_PASSWORD_FILE=/run/credentials/restic-backups-photos.service/password"
        "RESTIC_READ_CONCURRENCY=2"
        "RESTIC_REPOSITORY=/mnt/nas-backup"
      ];
    };
  };

  "test every snapshot has the name of its job, so that its retention finds it" = {
    expr = {
      stored = lib.elem "--tag=a,photos" (
        lib.splitString " " (lib.head (unit { jobs.photos = photos // { tags = [ "a" ]; }; } backup "ExecStart"))
      );
      forgotten = lib.filter (lib.hasInfix " forget ") (unit { } "restic-prune-nas.service" "ExecStart");
    };
    expected = {
      stored = true;
      forgotten = [
        "/usr/bin/restic forget --retry-lock=1h --host=forge --tag=photos --group-by=host --keep-daily=14 --keep-monthly=6 --keep-weekly=8 --keep-yearly=2"
      ];
    };
  };

  "test the guide's retention of base backups is what restic is told" = {
    expr = lib.filter (lib.hasInfix " forget ") (
      unit {
        further.imports = [
          { modules.backup.restic.jobs."postgresql-main-base".paths = [ "/var/backup/postgresql/main" ]; }
          {
            modules.backup.restic.jobs."postgresql-main-base" = {
              keep = {
                daily = 7;
                weekly = 4;
                monthly = 12;
                yearly = 3;
              };
            };
          }
        ];
        jobs = { };
      } "restic-prune-nas.service" "ExecStart"
    );
    expected = [
      "/usr/bin/restic forget --retry-lock=1h --host=forge --tag=postgresql-main-base --group-by=host --keep-daily=7 --keep-monthly=12 --keep-weekly=4 --keep-yearly=3"
    ];
  };

  "test an incomplete backup is a failure" = {
    # restic ends with status 3 when it could not read everything.
    expr = unit { } backup "SuccessExitStatus" ++ unit { } "restic-prune-nas.service" "SuccessExitStatus";
    expected = [ ];
  };

  "test a job runs when it says, and makes up for what it missed" = {
    expr =
      let
        of =
          unit
            {
              jobs.photos = photos // {
                schedule = "*/5";
                randomizedDelaySeconds = 30;
              };
            }
            "restic-backups-photos.timer";
      in
      map of [
        "OnCalendar"
        "Persistent"
        "AccuracySec"
        "RandomizedDelaySec"
      ];
    expected = [
      [ "*:0/5" ]
      [ "true" ]
      [ "1s" ]
      [ "30" ]
    ];
  };

  "test a job without a schedule runs at the common one" = {
    expr = unit { further.modules.backup.schedule = "04:30"; } "restic-backups-photos.timer" "OnCalendar";
    expected = [ "04:30" ];
  };

  "test a job that others start has no timer" = {
    expr = (host { jobs.photos = photos // { schedule = null; }; }).units ? "restic-backups-photos.timer";
    expected = false;
  };

  "test E15 a schedule that systemd cannot read is refused" = {
    expr =
      (builtins.tryEval (host { jobs.photos = photos // { schedule = "nightly"; }; }).config.modules.backup.restic.jobs.photos.schedule)
      .success;
    expected = false;
  };

  "test a job of root may read every file and do nothing else" = {
    expr =
      let
        of = unit { } backup;
      in
      map of [
        "CapabilityBoundingSet"
        "AmbientCapabilities"
        "NoNewPrivileges"
        "ProtectSystem"
        "PrivateUsers"
      ];
    expected = [
      [ "CAP_DAC_READ_SEARCH" ]
      [ "" ]
      [ "true" ]
      [ "strict" ]
      # The owners of the files are part of the backup.
      [ "false" ]
    ];
  };

  "test a job of another user has no capability, nor has what reads no files" = {
    expr = [
      (unit { jobs.photos = photos // { user = "photos"; }; } backup "CapabilityBoundingSet")
      (unit { } "restic-backups-repository-nas.service" "CapabilityBoundingSet")
      (unit { } "restic-prune-nas.service" "CapabilityBoundingSet")
    ];
    expected = [
      [ "" ]
      [ "" ]
      [ "" ]
    ];
  };

  "test a repository that is a directory needs no network, and nothing is written but that directory" = {
    expr =
      let
        of = unit { } backup;
      in
      map of [
        "PrivateNetwork"
        "RestrictAddressFamilies"
        "ReadWritePaths"
      ];
    expected = [
      [ "true" ]
      [ "AF_UNIX" ]
      [ "/mnt/nas-backup" ]
    ];
  };

  "test a repository elsewhere is reached over the network with its credentials" = {
    expr =
      let
        of = unit { repositories = { inherit offsite; }; } backup;
      in
      map of [
        "PrivateNetwork"
        "RestrictAddressFamilies"
        "EnvironmentFile"
        "ReadWritePaths"
      ];
    expected = [
      [ ]
      [
        "AF_UNIX"
        "AF_INET"
        "AF_INET6"
      ]
      [ "/run/secrets/restic-offsite-environment" ]
      [ ]
    ];
  };

  "test what is in a home can be read, and the ssh key of the user" = {
    expr = [
      (unit { jobs.photos.paths = [ "/home/ann" ]; } backup "ProtectHome")
      (unit { repositories.nas = offsite // { url = "sftp:nas:/restic"; }; } "restic-prune-nas.service"
        "ProtectHome"
      )
      # The key of somebody whose home is elsewhere is not hidden.
      (unit {
        repositories.nas = offsite // {
          url = "sftp:nas:/restic";
        };
        jobs.photos = photos // {
          user = "ann";
        };
        further.users = {
          users.ann = {
            isSystemUser = true;
            group = "ann";
            home = "/var/lib/ann";
          };
          groups.ann = { };
        };
      } "restic-prune-nas.service" "ProtectHome")
      (unit { } backup "ProtectHome")
    ];
    expected = [
      [ "read-only" ]
      [ "read-only" ]
      [ "true" ]
      [ "true" ]
    ];
  };

  "test a connection over ssh whose other end is gone ends" = {
    expr =
      let
        starts =
          url: name:
          map (lib.hasInfix "sftp.args=-oConnectTimeout=30 -oServerAliveInterval=15 -oServerAliveCountMax=4") (
            unit { repositories.nas = offsite // { inherit url; }; } name "ExecStart"
          );
      in
      {
        overSsh = map (starts "sftp:nas:/restic") [
          backup
          "restic-backups-repository-nas.service"
          "restic-prune-nas.service"
        ];
        # restic has deadlines for these.
        otherwise = starts "rest:https://nas.example.org/" backup;
      };
    expected = {
      overSsh = [
        [ true ]
        [ true ]
        [
          true
          true
          true
          true
        ]
      ];
      otherwise = [ false ];
    };
  };

  "test nothing that a user wrote is read by systemd or a shell" = {
    expr =
      let
        of =
          unit
            {
              repositories.odd = offsite // {
                url = "rest:https://backup.example.org/100%/$HOME";
              };
              jobs.photos = {
                paths = [ "/srv/my photos" ];
                tags = [ "100%$HOME;reboot" ];
                preCommands = [
                  [
                    "/bin/echo"
                    "a b"
                    "$HOME"
                    "50%"
                  ]
                ];
              };
            }
            backup;
      in
      {
        start = of "ExecStart";
        before = lib.filter (lib.hasPrefix "/bin/echo") (of "ExecStartPre");
        repository = lib.filter (lib.hasPrefix "RESTIC_REPOSITORY=") (environment of);
        mounts = of "RequiresMountsFor";
      };
    expected = {
      start = [
        "/usr/bin/restic backup --host=forge \"--tag=100%%$$HOME;reboot,photos\" --retry-lock=1h --skip-if-unchanged --files-from=/run/restic-backups-photos/includes"
      ];
      before = [ "/bin/echo \"a b\" \"$$HOME\" \"50%%\"" ];
      repository = [ "RESTIC_REPOSITORY=rest:https://backup.example.org/100%%/$HOME" ];
      mounts = [ "\"/srv/my photos\"" ];
    };
  };

  "test the settings of a job reach its unit" = {
    expr =
      let
        of =
          unit
            {
              jobs.photos = photos // {
                after = [ "photos.service" ];
                requiredMounts = [ "/srv/photos" ];
                writablePaths = [ "/srv/my photos" ];
                postCommands = [ [ "/bin/true" ] ];
                resources = {
                  memory = "2GB";
                  memoryReservation = "256MB";
                  cpus = 0.5;
                };
                deadlineSeconds = 3600;
                skipIfUnchanged = false;
                serviceConfig = {
                  IOSchedulingClass = "idle";
                  ProtectHome = false;
                };
              };
            }
            backup;
      in
      lib.genAttrs [
        "After"
        "ExecStartPre"
        "ReadWritePaths"
        "ExecStartPost"
        "MemoryMax"
        "MemoryLow"
        "CPUQuota"
        "TimeoutStartSec"
        "IOSchedulingClass"
        "ProtectHome"
        "ExecStart"
      ] of;
    expected = {
      After = [ "network-online.target restic-backups-repository-nas.service photos.service" ];
      # What has to be mounted is looked at first, and from outside of the sandbox. A failed
      # AssertPathIsMountPoint= would tell nobody.
      ExecStartPre = [
        "+/usr/bin/mountpoint /mnt/nas-backup"
        "+/usr/bin/mountpoint /srv/photos"
        "/bin/bash /etc/nixos-scripts/restic-backups-photos-pre-start"
      ];
      ReadWritePaths = [
        "/mnt/nas-backup"
        "\"/srv/my photos\""
      ];
      ExecStartPost = [ "/bin/true" ];
      MemoryMax = [ "2147483648" ];
      MemoryLow = [ "268435456" ];
      CPUQuota = [ "50%" ];
      TimeoutStartSec = [ "3600" ];
      IOSchedulingClass = [ "idle" ];
      ProtectHome = [ "false" ];
      ExecStart = [
        "/usr/bin/restic backup --host=forge --tag=photos --retry-lock=1h --files-from=/run/restic-backups-photos/includes"
      ];
    };
  };

  "test a job that is switched off, or a host that backs up nothing, has no unit" = {
    expr = map (settings: (host settings).units ? ${backup}) [
      { jobs.photos = photos // { enable = false; }; }
      { further.modules.backup.restic.enable = false; }
      { }
    ];
    expected = [
      false
      false
      true
    ];
  };

  "test jobs of a host that backs up nothing change nothing" = {
    expr =
      (host {
        repositories = { };
        jobs.photos = { };
        further.modules.backup.restic.enable = false;
      }).state;
    expected = (evalHost [ { networking.hostName = "forge"; } ]).state;
  };

  # Repositories.

  "test a repository is made once, before any job writes to it" = {
    expr =
      let
        of = unit { } "restic-backups-repository-nas.service";
      in
      {
        wanted = unit { } backup "Wants";
        required = unit { } backup "Requires";
        start = of "ExecStart";
        remains = of "RemainAfterExit";
        mounts = of "RequiresMountsFor";
        first = lib.head (of "ExecStartPre");
        script = (host { }).files."/etc/nixos-scripts/restic-backups-repository-nas-pre-start";
      };
    expected = {
      wanted = [ "network-online.target restic-backups-repository-nas.service" ];
      # A repository that is away must not keep restic from saying so.
      required = [ ];
      start = [ "/usr/bin/restic cat config" ];
      remains = [ "true" ];
      mounts = [ "/mnt/nas-backup" ];
      first = "+/usr/bin/mountpoint /mnt/nas-backup";
      script = "#!/bin/bash\nset -e\n\n/usr/bin/restic cat config > /dev/null || /usr/bin/restic init\n\n";
    };
  };

  "test a repository in a directory of the root file system has its directory, and one that is mounted has not" = {
    expr =
      let
        rules =
          mountPoint:
          (host {
            repositories.nas = nas // {
              inherit mountPoint;
            };
            jobs.photos = photos // {
              user = "photos";
            };
          }).files."/etc/tmpfiles.d/10-restic-repositories.conf" or null;
      in
      map rules [
        "/"
        "/mnt/nas-backup"
      ];
    expected = [
      "'d' '/mnt/nas-backup' ':0700' ':photos' '-' '-'\n"
      null
    ];
  };

  "test a repository elsewhere is made and pruned by somebody who is not root, if any job is" = {
    expr =
      let
        made = host {
          repositories = { inherit offsite; };
          jobs = {
            inherit photos;
            wal = {
              paths = [ "/srv/wal" ];
              user = "postgres";
            };
          };
        };
      in
      map (name: directive made.units.${name} "User") [
        "restic-backups-repository-offsite.service"
        "restic-prune-offsite.service"
        "restic-backups-photos.service"
      ];
    expected = [
      [ "postgres" ]
      [ "postgres" ]
      [ "root" ]
    ];
  };

  "test what is to be kept in a repository that is never pruned is told" = {
    expr =
      let
        warnings =
          job:
          warningsAbout "modules.backup.restic.jobs" {
            repositories.nas = nas // {
              pruneSchedule = null;
            };
            jobs.photos = photos // job;
          };
      in
      map warnings [
        { }
        { keep.daily = 7; }
      ];
    expected = [
      [ ]
      [
        "modules.backup.restic.jobs.photos.keep: it is set, and nothing is ever forgotten by this host, since modules.backup.restic.repositories.nas.pruneSchedule is null; set a schedule there, or leave keep out."
      ]
    ];
  };

  "test a directory on an unknown mount is never made into a repository" = {
    expr =
      (host { repositories.nas = removeAttrs nas [ "mountPoint" ]; }).units
      ? "restic-backups-repository-nas.service";
    expected = false;
  };

  "test pruning is apart from the backups, waits for them and reads some of the data back" = {
    expr =
      let
        of =
          unit
            {
              jobs = {
                inherit photos;
                films.paths = [ "/srv/films" ];
              };
            }
            "restic-prune-nas.service";
      in
      {
        after = of "After";
        first = of "ExecStartPre";
        start = of "ExecStart";
        restart = of "X-RestartIfChanged";
        backup = unit { } backup "ExecStart";
      };
    expected = {
      after = [ "restic-backups-films.service restic-backups-photos.service network-online.target" ];
      first = [ "+/usr/bin/mountpoint /mnt/nas-backup" ];
      start = [
        "/usr/bin/restic unlock"
        "/usr/bin/restic forget --retry-lock=1h --host=forge --tag=films --group-by=host --keep-daily=14 --keep-monthly=6 --keep-weekly=8 --keep-yearly=2"
        "/usr/bin/restic forget --retry-lock=1h --host=forge --tag=photos --group-by=host --keep-daily=14 --keep-monthly=6 --keep-weekly=8 --keep-yearly=2"
        "/usr/bin/restic prune --retry-lock=1h"
        "/usr/bin/restic check --retry-lock=1h \"--read-data-subset=1%%\""
      ];
      restart = [ "false" ];
      backup = [
        "/usr/bin/restic backup --host=forge --tag=photos --retry-lock=1h --skip-if-unchanged --files-from=/run/restic-backups-photos/includes"
      ];
    };
  };

  "test a job that keeps everything forgets nothing" = {
    expr = lib.filter (lib.hasInfix " forget ") (
      unit {
        jobs.photos = photos // {
          keep = {
            daily = null;
            weekly = null;
            monthly = null;
            yearly = null;
          };
        };
      } "restic-prune-nas.service" "ExecStart"
    );
    expected = [ ];
  };

  "test a repository that others prune is not pruned here" = {
    expr = (host { repositories.nas = nas // { pruneSchedule = null; }; }).units ? "restic-prune-nas.service";
    expected = false;
  };

  "test a repository of one's own for each job keeps a failure to one of them" = {
    expr =
      let
        made = host {
          repositories = { inherit nas offsite; };
          jobs = {
            here = photos // {
              repository = "nas";
            };
            there = photos // {
              repository = "offsite";
            };
          };
        };
        of = directive made.units."restic-backups-there.service";
      in
      {
        wants = of "Wants";
        mounts = of "RequiresMountsFor";
        before = of "ExecStartPre";
      };
    expected = {
      wants = [ "network-online.target restic-backups-repository-offsite.service" ];
      mounts = [ "/srv/photos" ];
      before = [ "/bin/bash /etc/nixos-scripts/restic-backups-there-pre-start" ];
    };
  };

  "test jobs without a repository use the primary one" = {
    expr = lib.filter (lib.hasPrefix "RESTIC_REPOSITORY=") (
      environment (
        unit {
          repositories = {
            inherit nas;
            offsite = offsite // {
              primary = true;
            };
          };
        } backup
      )
    );
    expected = [ "RESTIC_REPOSITORY=rest:https://backup.example.org/forge" ];
  };

  "test E5 a job without a repository is refused" = {
    expr = refusals { repositories = { }; };
    expected = [
      "modules.backup.restic.jobs.photos.repository: not set, and no repository is the primary one; declare modules.backup.restic.repositories first."
    ];
  };

  "test a job that cannot choose between repositories is refused" = {
    expr = refusals { repositories = { inherit nas offsite; }; };
    expected = [
      "modules.backup.restic.jobs.photos.repository: not set, and no repository is the primary one; use one of nas, offsite, or declare it."
    ];
  };

  "test an unknown repository is refused with the known ones" = {
    expr = job { repository = "nsa"; };
    expected = [
      "modules.backup.restic.jobs.photos.repository: \"nsa\" is not a repository; use one of nas, or declare it."
    ];
  };

  "test two primary repositories are refused" = {
    expr = refusals {
      repositories = {
        nas = nas // {
          primary = true;
        };
        offsite = offsite // {
          primary = true;
        };
      };
    };
    expected = [
      "modules.backup.restic.repositories: nas and offsite are all primary; leave it to one of them."
    ];
  };

  "test E5 a repository without a place is refused" = {
    expr = repository {
      url = null;
      mountPoint = null;
    };
    expected = [
      "modules.backup.restic.repositories.nas.url: not set, but used by modules.backup.restic.jobs.photos; write where the repository is, such as \"/mnt/nas-backup\" or \"rest:https://backup.example.org/forge\"."
    ];
  };

  "test E5 a repository without a password is refused" = {
    expr = repository { passwordFile = null; };
    expected = [
      "modules.backup.restic.repositories.nas.passwordFile: not set, but used by modules.backup.restic.jobs.photos; write the path of a file with the password, such as \"/run/secrets/restic-password\"."
    ];
  };

  "test E6 a password file in the store is refused" = {
    expr =
      map
        (
          passwordFile:
          (builtins.tryEval (host { repositories.nas = nas // { inherit passwordFile; }; }).config.modules.backup.restic.repositories.nas.passwordFile)
          .success
        )
        [
          ./restic.nix
          "/nix/store/00000000000000000000000000000000-password"
          "password"
          "/run/secrets/restic"
        ];
    expected = [
      false
      false
      false
      true
    ];
  };

  "test E6 a password in the URL is refused without showing it" = {
    expr = remote { url = "rest:https://forge:hunter2@backup.example.org/"; };
    expected = [
      "modules.backup.restic.repositories.offsite.url: it has a password in it, and it becomes part of the Nix store, where every user can read it; put the password into environmentFile, as RESTIC_REST_PASSWORD."
    ];
  };

  "test a URL that restic does not know is refused" = {
    expr = remote { url = "ftp://backup.example.org/"; };
    expected = [
      "modules.backup.restic.repositories.offsite.url: \"ftp://backup.example.org/\" is not a repository of restic; write an absolute directory, or sftp:, rest:, s3:, b2:, azure:, gs:, swift: or rclone: and what belongs to it."
    ];
  };

  "test every kind of repository is taken" = {
    expr = lib.concatMap (url: remote { inherit url; }) [
      "local:/mnt/backup"
      "sftp:backup@nas.example.org:/srv/restic"
      "sftp://backup@nas.example.org:2222//srv/restic"
      "rest:https://backup.example.org:8000/forge"
      "s3:https://s3.example.org/forge"
      "s3:s3.amazonaws.com/forge"
      "b2:forge:backups"
      "azure:forge:/"
      "gs:forge:/"
      "swift:forge:/"
      "rclone:remote:forge"
    ];
    expected = [ ];
  };

  "test a directory that an empty mount point could pass for is not made" = {
    expr = repository {
      mountPoint = null;
      initialize = true;
    };
    expected = [
      "modules.backup.restic.repositories.nas.initialize: true, but while nothing is mounted on \"/mnt/nas-backup\" an empty repository would be made there and taken for the real one; set mountPoint as well, to \"/\" if the directory is on the root file system."
    ];
  };

  "test a mount point beside the repository is refused" = {
    expr = repository { mountPoint = "/mnt/nas"; };
    expected = [
      "modules.backup.restic.repositories.nas.mountPoint: \"/mnt/nas\" is not above \"/mnt/nas-backup\"; write the mount point that the repository is on."
    ];
  };

  "test a mount point of a repository elsewhere is refused" = {
    expr = remote { mountPoint = "/mnt/nas"; };
    expected = [
      "modules.backup.restic.repositories.offsite.mountPoint: \"/mnt/nas\" is set, but \"rest:https://backup.example.org/forge\" is not a directory; leave it out."
    ];
  };

  "test two users in one directory are refused" = {
    expr = refusals {
      jobs = {
        inherit photos;
        films = {
          paths = [ "/srv/films" ];
          user = "films";
        };
      };
    };
    expected = [
      "modules.backup.restic.repositories.nas.url: \"/mnt/nas-backup\" is a directory, and its jobs run as films and root, who cannot read each other's files; give modules.backup.restic.jobs.films and modules.backup.restic.jobs.photos one user, or use a server such as rest:."
    ];
  };

  "test two users of a server are fine" = {
    expr = refusals {
      repositories = { inherit offsite; };
      jobs = {
        inherit photos;
        films = {
          paths = [ "/srv/films" ];
          user = "films";
        };
      };
    };
    expected = [ ];
  };

  "test snapshots of a host without a name are refused" = {
    expr = refusals { further.networking.hostName = lib.mkForce ""; };
    expected = [
      "modules.backup.restic.hostName: \"\" is not a name of a host; write the name under which snapshots are stored, such as \"forge\"."
    ];
  };

  "test a job with nothing to back up is refused" = {
    expr = job { paths = [ ]; };
    expected = [
      "modules.backup.restic.jobs.photos.paths: empty, so there is nothing to back up; write absolute paths, or set enable = false."
    ];
  };

  "test a relative path is refused" = {
    expr = job { paths = [ "srv/photos" ]; };
    expected = [
      "modules.backup.restic.jobs.photos.paths: \"srv/photos\" is not an absolute path; write it from \"/\" on."
    ];
  };

  "test relative places of a job are refused" = {
    expr = job {
      requiredMounts = [ "srv" ];
      writablePaths = [ "photos" ];
    };
    expected = [
      "modules.backup.restic.jobs.photos.requiredMounts: \"srv\" is not an absolute path; write it from \"/\" on."
      "modules.backup.restic.jobs.photos.writablePaths: \"photos\" is not an absolute path; write it from \"/\" on."
    ];
  };

  "test a backup of the repository into itself is refused" = {
    expr = job { paths = [ "/mnt" ]; };
    expected = [
      "modules.backup.restic.jobs.photos.paths: \"/mnt\" has the repository \"/mnt/nas-backup\" in it, so each backup would hold all earlier ones; add the repository to excludePatterns, or move it."
    ];
  };

  "test a repository that is left out may be inside" = {
    expr = job {
      paths = [ "/mnt" ];
      excludePatterns = [ "/mnt/nas-backup" ];
    };
    expected = [ ];
  };

  "test a tag that would be two is refused" = {
    expr = job { tags = [ "a,b" ]; };
    expected = [
      "modules.backup.restic.jobs.photos.tags: \"a,b\" is not a tag; a tag has at least one character, and neither a comma, which would make it two, nor a space."
    ];
  };

  "test names that would make strange units are refused" = {
    expr = refusals {
      repositories."my nas" = nas;
      jobs."repository-x" = photos;
    };
    expected = [
      "modules.backup.restic.repositories.\"my nas\": the name becomes part of the names of units; use letters, digits, \"-\", \"_\" and \".\"."
      "modules.backup.restic.jobs.repository-x: the name becomes part of a unit's name; use letters, digits, \"-\", \"_\" and \".\", and do not begin with \"repository-\"."
    ];
  };

  # What Nix knows about the way back.

  "test a repository on this host is no copy in another place" = {
    expr =
      map
        (
          settings:
          warningsAbout "modules.services.postgresql.instances.main: its data" {
            repositories.nas = {
              inherit (nas) passwordFile;
            }
            // settings.repository;
            jobs = { };
            further = {
              imports = [
                instance
                (settings.further or { })
              ];
              modules.backup.restic.jobs.everything.excludePatterns = [ "/var/restic" ];
            };
          } != [ ]
        )
        [
          {
            repository = {
              url = "/var/restic";
              mountPoint = "/";
            };
          }
          { repository.url = "/var/restic"; }
          { repository.url = "rest:http://localhost:8000/"; }
          { repository.url = "sftp:backup@forge:/srv/restic"; }
          {
            repository = {
              url = "s3:https://s3.example.org/forge";
              location = "forge";
            };
          }
          {
            repository.url = "/mnt/disk";
            further.fileSystems."/mnt/disk" = {
              device = "/dev/sdb1";
              fsType = "ext4";
            };
          }
        ];
    expected = [
      true
      true
      true
      true
      true
      true
    ];
  };

  "test a repository elsewhere, or on a mount that is not known, is a copy in another place" = {
    expr =
      map
        (
          settings:
          warningsAbout "modules.services.postgresql.instances.main: its data" {
            repositories.nas = {
              inherit (nas) passwordFile;
            }
            // settings.repository;
            jobs = { };
            further.imports = [
              instance
              (settings.further or { })
            ];
          } != [ ]
        )
        [
          { repository.url = "rest:https://backup.example.org/forge"; }
          { repository.url = "sftp:backup@nas:/srv/restic"; }
          { repository.url = "b2:forge:backups"; }
          { repository.url = "/mnt/nas-backup"; }
          {
            repository = {
              url = "rest:http://localhost:8000/";
              location = "through a tunnel to the second site";
            };
          }
          {
            repository.url = "/srv/nas";
            further.fileSystems."/srv/nas" = {
              device = "nas:/export/backup";
              fsType = "nfs4";
            };
          }
        ];
    expected = [
      false
      false
      false
      false
      false
      false
    ];
  };

  "test a password that is lost with what it is to bring back is told" = {
    expr = warningsAbout "modules.backup.restic" {
      repositories.offsite = offsite // {
        passwordFile = "/srv/keys/restic";
        environmentFile = "/srv/keys/environment";
      };
      jobs = { };
      further = {
        imports = [ instance ];
        modules.storage.datasets = {
          enable = true;
          parentDataset = "tank/services";
          services.keys.mountpoint = "/srv/keys";
        };
      };
    };
    expected = [
      "modules.backup.restic.repositories.offsite.passwordFile: \"/srv/keys/restic\" is on the dataset \"tank/services/keys\", so the password is lost together with what it is to bring back; keep it where this host's disks are not, and put it on the host apart from the datasets."
      "modules.backup.restic.repositories.offsite.environmentFile: \"/srv/keys/environment\" is on the dataset \"tank/services/keys\", so the access to the repository is lost together with what it is to bring back; keep it where this host's disks are not, and put it on the host apart from the datasets."
    ];
  };

  "test a repository inside what it is to restore is told" = {
    expr = warningsAbout "modules.backup.restic" {
      repositories.nas = {
        url = "/var/lib/postgresql/main/restic";
        inherit (nas) passwordFile;
      };
      jobs = { };
      further = {
        modules.services.postgresql.instances.main.enable = true;
        modules.backup.restic.jobs.base.paths = [ "/var/backup/postgresql/main" ];
      };
    };
    expected = [
      "modules.backup.restic.repositories.nas.url: \"/var/lib/postgresql/main/restic\" is inside the directories of the instance \"main\", so the repository has to be restored before it can restore anything; move it out of them, to another disk or host."
    ];
  };
}
