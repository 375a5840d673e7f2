# The harness itself: what it renders, and that it refuses what NixOS would refuse.
{
  lib,
  evalBareHost,
  evaluates,
  ...
}:
let
  host = evalBareHost [
    {
      systemd.services.example = {
        description = "An example";
        after = [ "network.target" ];
        wantedBy = [ "multi-user.target" ];
        aliases = [ "sample.service" ];
        restartIfChanged = false;
        startLimitBurst = 3;
        unitConfig.RequiresMountsFor = [
          "/a"
          "/b"
        ];
        environment.GREETING = "a \"b\"";
        enableDefaultPath = false;
        startAt = "daily";
        serviceConfig = {
          ExecStart = "/bin/true";
          PrivateTmp = true;
        };
      };
      systemd.mounts = [
        {
          what = "tank/x";
          where = "/var/lib/x-y";
          type = "zfs";
        }
      ];
      systemd.tmpfiles.settings.example."/var/lib/with space".d = {
        mode = "0700";
        user = "root";
      };
      users.users.app = {
        isSystemUser = true;
        group = "app";
        extraGroups = [ "wheel" ];
      };
      users.groups.app = { };
      environment.etc."example.conf".text = "a = 1\n";
      networking.firewall.allowedTCPPorts = [ 5432 ];
      assertions = [
        {
          assertion = false;
          message = "this fails";
        }
      ];
      warnings = [ "beware" ];
    }
  ];
in
{
  "test a service is rendered as systemd reads it" = {
    expr = host.units."example.service";
    expected = ''
      [Unit]
      After=network.target
      Description=An example
      RequiresMountsFor=/a
      RequiresMountsFor=/b
      StartLimitBurst=3

      [Service]
      Environment="GREETING=a \"b\""
      X-RestartIfChanged=false
      ExecStart=/bin/true
      PrivateTmp=true

      [Install]
      WantedBy=multi-user.target
    '';
  };

  "test startAt makes a timer" = {
    expr = host.units."example.timer";
    expected = ''
      [Unit]

      [Timer]
      OnCalendar=daily

      [Install]
      WantedBy=timers.target
    '';
  };

  "test a mount unit is named for its path" = {
    expr = lib.hasInfix "Where=/var/lib/x-y\n" host.units."var-lib-x\\x2dy.mount";
    expected = true;
  };

  "test what is wanted and aliased becomes links" = {
    expr = host.links;
    expected = {
      "/etc/systemd/system/multi-user.target.wants/example.service" = "../example.service";
      "/etc/systemd/system/timers.target.wants/example.timer" = "../example.timer";
      "/etc/systemd/system/sample.service" = "example.service";
    };
  };

  "test files, directories, users and ports are rendered" = {
    expr = {
      inherit (host) files firewall;
    };
    expected = {
      files = {
        "/etc/example.conf" = "a = 1\n";
        "/etc/tmpfiles.d/example.conf" = "'d' '/var/lib/with space' '0700' 'root' '-' '-'\n";
        "/etc/sysusers.d/nixos.conf" = ''
          g app -
          u app -:app "" /var/empty /usr/sbin/nologin
          m app wheel
        '';
      };
      firewall = [ "tcp 5432" ];
    };
  };

  "test failed assertions and warnings are listed" = {
    expr = {
      inherit (host) failedAssertions warnings;
    };
    expected = {
      failedAssertions = [ "this fails" ];
      warnings = [ "beware" ];
    };
  };

  "test a changed file changes the unit that is restarted for it" = {
    expr =
      let
        unit =
          text:
          (evalBareHost [
            (
              { config, ... }:
              {
                environment.etc."x".text = text;
                systemd.services.x.restartTriggers = [ config.environment.etc."x".source ];
              }
            )
          ]).units."x.service";
      in
      unit "a" == unit "b";
    expected = false;
  };

  "test an option that NixOS does not have is refused" = {
    expr = map (module: evaluates (evalBareHost [ module ]).state) [
      { services.postgresql.preStart = "true"; }
      { services.sanoid.minutely = 5; }
      { systemd.service.x = { }; }
      { systemd.services.x.serviceconfig = { }; }
      { services.restic.backups.x.keep.daily = 7; }
      { environment.etcetera = { }; }
    ];
    expected = lib.genList (_: false) 6;
  };

  "test a value of the wrong type is refused" = {
    expr = map (module: evaluates (evalBareHost [ module ]).state) [
      { systemd.services.x.serviceConfig.Type = "onehsot"; }
      { systemd.services.x.after = [ "network" ]; }
      { networking.firewall.allowedTCPPorts = [ 70000 ]; }
      {
        services.sanoid.enable = true;
        services.sanoid.datasets."tank/x".useTemplate = [ "no-such-template" ];
      }
    ];
    expected = lib.genList (_: false) 4;
  };

  "test a unit named with its suffix is refused" = {
    expr = evaluates (evalBareHost [ { systemd.services."x.service".script = "true"; } ]).units;
    expected = false;
  };

  "test two values for one directive are refused" = {
    expr =
      evaluates
        (evalBareHost [
          {
            systemd.services.x = {
              after = [ "network.target" ];
              unitConfig.After = "zfs.target";
            };
          }
        ]).units;
    expected = false;
  };

  "test sanoid gets a configuration of templates and datasets" = {
    expr =
      (evalBareHost [
        {
          services.sanoid = {
            enable = true;
            templates.services = {
              hourly = 24;
              autoprune = true;
            };
            datasets."tank/x" = {
              useTemplate = [ "services" ];
              recursive = true;
            };
          };
        }
      ]).files."/etc/sanoid/sanoid.conf";
    expected = ''
      [tank/x]
      process_children_only=false
      recursive=true
      use_template=services

      [template_services]
      autoprune=true
      hourly=24
    '';
  };

  "test a restic job becomes a service, its scripts and a timer" = {
    expr =
      let
        job = evalBareHost [
          {
            services.restic.backups.x = {
              repository = "/mnt/backup";
              passwordFile = "/run/secrets/restic";
              paths = [ "/var/lib/x" ];
              extraBackupArgs = [ "--tag=x" ];
              initialize = true;
              pruneOpts = [ "--keep-daily 7" ];
            };
          }
        ];
        lines = lib.splitString "\n" job.units."restic-backups-x.service";
      in
      {
        commands = lib.filter (lib.hasPrefix "Exec") lines;
        timer = lib.filter (lib.hasPrefix "OnCalendar") (
          lib.splitString "\n" job.units."restic-backups-x.timer"
        );
        paths = job.files."/etc/nixos-scripts/restic-backups-x-paths";
        prepare = job.files."/etc/nixos-scripts/restic-backups-x-pre-start";
      };
    expected = {
      commands = [
        "ExecStart=/usr/bin/restic backup --tag=x --files-from=/run/restic-backups-x/includes"
        "ExecStart=/usr/bin/restic unlock"
        "ExecStart=/usr/bin/restic forget --prune --keep-daily 7"
        "ExecStartPre=/bin/bash /etc/nixos-scripts/restic-backups-x-pre-start"
        "ExecStopPost=/bin/bash /etc/nixos-scripts/restic-backups-x-post-stop"
      ];
      timer = [ "OnCalendar=daily" ];
      paths = "/var/lib/x\n";
      prepare = ''
        #!/bin/bash
        set -e

        /usr/bin/restic cat config > /dev/null || /usr/bin/restic init
        cat /etc/nixos-scripts/restic-backups-x-paths >> /run/restic-backups-x/includes

      '';
    };
  };
}
