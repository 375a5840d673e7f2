# Messages about units: what they become, and what is refused.
{ lib, evalHost, ... }:
let
  ntfy = {
    enable = true;
    ntfy = {
      enable = true;
      topic = "forge-alerts";
    };
  };
  host =
    settings:
    evalHost [
      {
        networking.hostName = "forge";
        modules.notifications = settings;
      }
    ];
  refusals = settings: (host settings).failedAssertions;
  changed = changes: refusals (lib.recursiveUpdate ntfy changes);

  settings = notifications: builtins.fromJSON (host notifications).files."/etc/backstay/notifications.json";

  directive =
    text: name:
    map (lib.removePrefix "${name}=") (
      lib.filter (lib.hasPrefix "${name}=") (lib.splitString "\n" text)
    );
  unit = notifications: name: directive (host notifications).units.${name};

  everyBackend = {
    enable = true;
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
      tokenFile = "/run/secrets/ntfy-100%";
    };
    healthchecks = {
      enable = true;
      uuidFile = "/run/secrets/healthchecks-uuid";
    };
  };

  templates = "backup-failure, postgresql-backup-failure, postgresql-drill-failure, postgresql-failure, postgresql-health-failure, postgresql-provision-failure, postgresql-prune-failure, preseed-failure, unit-failure, verification-failure, zfs-dataset-failure, zfs-replication-failure, zfs-snapshot-failure";
in
{
  "test a failure starts the notifier with the template and the unit" = {
    expr =
      let
        of = unit ntfy "notify@.service";
      in
      {
        start = of "ExecStart";
        type = of "Type";
        user = of "User";
        groups = of "SupplementaryGroups";
        retry = of "Restart" ++ of "RestartSec" ++ of "StartLimitBurst" ++ of "StartLimitIntervalSec";
        credentials = of "LoadCredential";
      };
    expected = {
      start = [
        "/usr/lib/backstay/bin/backstay notify --config /etc/backstay/notifications.json --failed %i"
      ];
      type = [ "oneshot" ];
      user = [ "backstay-notify" ];
      groups = [ "systemd-journal" ];
      retry = [
        "on-failure"
        "60"
        "10"
        "3600"
      ];
      credentials = [ ];
    };
  };

  "test a unit that works again is told only if its failure was" = {
    expr =
      let
        of = unit ntfy "notify-recovered@.service";
      in
      {
        start = of "ExecStart";
        condition = of "ConditionPathExists";
        log = of "LogLevelMax";
      };
    expected = {
      start = [
        "/usr/lib/backstay/bin/backstay notify --config /etc/backstay/notifications.json --recovered %i"
      ];
      condition = [ "/var/lib/backstay-notify/failed/%i" ];
      log = [ "notice" ];
    };
  };

  "test other modules get what to write into a unit" = {
    expr =
      let
        made = host ntfy;
      in
      {
        failure = made.config.modules.notifications.onFailure "postgresql-backup-failure";
        success = made.config.modules.notifications.onSuccess "postgresql-backup-failure";
      };
    expected = {
      failure = [ "notify@postgresql-backup-failure:%n.service" ];
      success = [ "notify-recovered@postgresql-backup-failure:%n.service" ];
    };
  };

  "test nothing is written into a unit when nobody is to be told" = {
    expr =
      map
        (
          notifications:
          (host notifications).config.modules.notifications.onFailure "postgresql-backup-failure"
        )
        [
          { }
          (ntfy // { templates.postgresql-backup-failure.enable = false; })
        ];
    expected = [
      [ ]
      [ ]
    ];
  };

  "test a template that no module declared is an error of that module" = {
    expr = (builtins.tryEval ((host ntfy).config.modules.notifications.onFailure "backup-failed")).success;
    expected = false;
  };

  "test messages that are not enabled change nothing" = {
    expr = (host (everyBackend // { enable = false; })).state;
    expected = (evalHost [ { networking.hostName = "forge"; } ]).state;
  };

  "test secrets are credentials, and only their names are in the settings" = {
    expr = {
      credentials = unit everyBackend "notify@.service" "LoadCredential";
      inherit (settings everyBackend) backends;
    };
    expected = {
      credentials = [
        "apprise-url:/run/secrets/apprise"
        "healthchecks-uuid:/run/secrets/healthchecks-uuid"
        "ntfy-token:/run/secrets/ntfy-100%%"
        "pushover-token:/run/secrets/pushover-token"
        "pushover-userKey:/run/secrets/pushover-user"
      ];
      backends = {
        apprise.urlCredential = "apprise-url";
        healthchecks = {
          baseUrl = "https://hc-ping.com";
          uuidCredential = "healthchecks-uuid";
        };
        ntfy = {
          server = "https://ntfy.example.org";
          topic = "forge-alerts";
          tokenCredential = "ntfy-token";
        };
        pushover = {
          tokenCredential = "pushover-token";
          userKeyCredential = "pushover-userKey";
        };
      };
    };
  };

  "test no secret is anywhere in the host" = {
    expr = lib.filter (lib.hasInfix "/run/secrets") (
      lib.attrValues (host everyBackend).files ++ unit everyBackend "notify@.service" "ExecStart"
    );
    expected = [ ];
  };

  "test the settings of the notifier are whole" = {
    expr =
      let
        made = settings (
          ntfy
          // {
            hostname = "forge (cellar)";
            retryAttempts = 5;
            timeoutSeconds = 30;
            repeatAfterSeconds = 3600;
          }
        );
      in
      removeAttrs made [ "templates" ]
      // {
        template = made.templates.zfs-replication-failure;
      };
    expected = {
      hostName = "forge (cellar)";
      stateDirectory = "/var/lib/backstay-notify";
      apprise = "/usr/bin/apprise";
      retryAttempts = 5;
      timeoutSeconds = 30;
      repeatAfterSeconds = 3600;
      backends.ntfy = {
        server = "https://ntfy.sh";
        topic = "forge-alerts";
      };
      template = {
        backends = [ "ntfy" ];
        priority = "high";
        title = "{host}: replication failed ({unit})";
        body = "{description} ({unit}) ended with {result}, status {status}, at {time}.\n\n{log}\n\nLook there: systemctl status {unit}\n";
      };
    };
  };

  "test a template goes where it says, and else where the host says" = {
    expr =
      let
        made = settings (
          everyBackend
          // {
            defaultBackend = "ntfy";
            templates.backup-failure.backend = "pushover";
            templates.preseed-failure.backend = "all";
          }
        );
      in
      map (name: made.templates.${name}.backends) [
        "backup-failure"
        "preseed-failure"
        "unit-failure"
      ];
    expected = [
      [ "pushover" ]
      [
        "apprise"
        "healthchecks"
        "ntfy"
        "pushover"
      ]
      [ "ntfy" ]
    ];
  };

  "test a kind of message that is switched off is not in the settings" = {
    expr = (settings (ntfy // { templates.backup-failure.enable = false; })).templates ? backup-failure;
    expected = false;
  };

  "test any unit of the host can be told about" = {
    expr =
      let
        of = unit (ntfy // { units.zfs-scrub = "unit-failure"; }) "zfs-scrub.service";
      in
      {
        failure = of "OnFailure";
        success = of "OnSuccess";
      };
    expected = {
      failure = [ "notify@unit-failure:%n.service" ];
      success = [ "notify-recovered@unit-failure:%n.service" ];
    };
  };

  "test the units of datasets, snapshots and copies are told about" = {
    expr =
      let
        made = evalHost [
          {
            networking.hostName = "forge";
            modules.notifications = ntfy;
            modules.storage.datasets = {
              enable = true;
              parentDataset = "tank/services";
              services.photos = { };
            };
            modules.backup.sanoid.datasets."tank/services/photos" = {
              useTemplate = [ "postgresql" ];
              replication.targetDataset = "backup/photos";
            };
            modules.backup.restic = {
              repositories.offsite = {
                url = "rest:https://backup.example.org/forge";
                passwordFile = "/run/secrets/restic";
              };
              jobs.photos.paths = [ "/srv/photos" ];
            };
          }
        ];
      in
      lib.genAttrs [
        "backstay-datasets.service"
        "sanoid.service"
        "syncoid-tank-services-photos.service"
        "restic-backups-photos.service"
        "restic-backups-repository-offsite.service"
        "restic-prune-offsite.service"
      ] (name: directive made.units.${name} "OnFailure");
    expected = {
      "backstay-datasets.service" = [ "notify@zfs-dataset-failure:%n.service" ];
      "sanoid.service" = [ "notify@zfs-snapshot-failure:%n.service" ];
      "syncoid-tank-services-photos.service" = [ "notify@zfs-replication-failure:%n.service" ];
      "restic-backups-photos.service" = [ "notify@backup-failure:%n.service" ];
      "restic-backups-repository-offsite.service" = [ "notify@backup-failure:%n.service" ];
      "restic-prune-offsite.service" = [ "notify@verification-failure:%n.service" ];
    };
  };

  "test messages to nobody are refused" = {
    expr = refusals { enable = true; };
    expected = [
      "modules.notifications.enable: true, but nobody can be told; enable one of modules.notifications.apprise, modules.notifications.pushover, modules.notifications.ntfy, modules.notifications.healthchecks."
    ];
  };

  "test a default backend that is not enabled is refused" = {
    expr = changed { defaultBackend = "pushover"; };
    expected = [
      "modules.notifications.defaultBackend: \"pushover\" is not enabled; set modules.notifications.pushover.enable, or choose \"ntfy\" or \"all\"."
    ];
  };

  "test a template for a backend that is not enabled is refused" = {
    expr = changed { templates.backup-failure.backend = "healthchecks"; };
    expected = [
      "modules.notifications.templates.backup-failure.backend: \"healthchecks\" is not enabled; set modules.notifications.healthchecks.enable, or choose another backend."
    ];
  };

  "test a backend without its secrets is refused" = {
    expr = refusals {
      enable = true;
      apprise.enable = true;
      pushover.enable = true;
      ntfy.enable = true;
      healthchecks.enable = true;
    };
    expected = [
      "modules.notifications.apprise.urlFile: not set, but modules.notifications.apprise.enable is true; write a file with apprise URLs, such as \"/run/secrets/apprise\"."
      "modules.notifications.pushover.tokenFile: not set, but modules.notifications.pushover.enable is true; write a file with the token of the application, such as \"/run/secrets/pushover-token\"."
      "modules.notifications.pushover.userKeyFile: not set, but modules.notifications.pushover.enable is true; write a file with the key of the user, such as \"/run/secrets/pushover-user\"."
      "modules.notifications.ntfy.topic: not set, but modules.notifications.ntfy.enable is true; write the topic, such as \"forge-alerts\"."
      "modules.notifications.healthchecks.uuidFile: not set, but modules.notifications.healthchecks.enable is true; write a file with the UUID of the check, such as \"/run/secrets/healthchecks-uuid\"."
    ];
  };

  "test an unknown template of a unit is refused with the known ones" = {
    expr = changed { units.nginx = "backup-failed"; };
    expected = [
      "modules.notifications.units.nginx: \"backup-failed\" is not a template; use one of ${templates}, or declare it."
    ];
  };

  "test a unit with its suffix is refused, which would be another unit" = {
    expr = changed { units."nginx.service" = "unit-failure"; };
    expected = [
      "modules.notifications.units.\"nginx.service\": \"nginx.service\" would become the unit \"nginx.service.service\"; leave out \".service\"."
    ];
  };

  "test a part that nothing fills in is refused" = {
    expr = changed { templates.backup-failure.title = "{hostname}: {unit} failed"; };
    expected = [
      "modules.notifications.templates.backup-failure.title: {hostname} is never filled in; use {description}, {host}, {log}, {result}, {status}, {time}, {unit}."
    ];
  };

  "test a template whose name cannot be part of a unit is refused" = {
    expr = changed { templates."disk:full" = { }; };
    expected = [
      "modules.notifications.templates.\"disk:full\": the name becomes part of a unit's name; use letters, digits, \"-\", \"_\" and \".\"."
    ];
  };

  "test an instance whose settings would be those of the notifier is refused" = {
    expr = lib.filter (lib.hasInfix "notifications.json") (
      (evalHost [
        {
          modules.notifications = ntfy;
          modules.services.postgresql.instances.notifications.enable = true;
        }
      ]).failedAssertions
    );
    expected = [
      "modules.services.postgresql.instances.notifications: its settings would be /etc/backstay/notifications.json, where those of the notifier are; choose another name."
    ];
  };

  "test a priority that does not exist is refused" = {
    expr =
      (builtins.tryEval (host (ntfy // { templates.backup-failure.priority = "medium"; })).config.modules.notifications.templates.backup-failure.priority)
      .success;
    expected = false;
  };

  "test E6 a token in the store is refused" = {
    expr =
      (builtins.tryEval (host { ntfy.tokenFile = ./notifications.nix; }).config.modules.notifications.ntfy.tokenFile)
      .success;
    expected = false;
  };
}
