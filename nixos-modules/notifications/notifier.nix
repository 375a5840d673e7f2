# notify@.service and notify-recovered@.service: one run for one message.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.modules.notifications;
  blib = import ../lib.nix { inherit lib pkgs; };

  user = "backstay-notify";
  stateDirectory = "/var/lib/${user}";
  settingsPath = "/etc/backstay/notifications.json";

  # The unit's name is in the name of the instance, so that the notifier learns it from systemd and
  # not from the environment, which OnFailure= does not pass on.
  instanceOf =
    notifier: name:
    if !cfg.enable then
      [ ]
    else if !cfg.templates ? ${name} then
      throw "modules.notifications.templates: \"${name}\" is not a template; use one of ${lib.concatStringsSep ", " (lib.attrNames cfg.templates)}, or declare it."
    else
      lib.optional cfg.templates.${name}.enable "${notifier}@${name}:%n.service";

  # What each backend needs beside its secrets, and the credential that each secret arrives as.
  backends = {
    apprise = {
      settings = { };
      secrets.url = cfg.apprise.urlFile;
    };
    pushover = {
      settings = { };
      secrets = {
        token = cfg.pushover.tokenFile;
        userKey = cfg.pushover.userKeyFile;
      };
    };
    ntfy = {
      settings = { inherit (cfg.ntfy) server topic; };
      secrets.token = cfg.ntfy.tokenFile;
    };
    healthchecks = {
      settings = { inherit (cfg.healthchecks) baseUrl; };
      secrets.uuid = cfg.healthchecks.uuidFile;
    };
  };
  enabled = lib.filterAttrs (name: _: cfg.${name}.enable) backends;
  secretsOf = backend: lib.filterAttrs (_: file: file != null) backend.secrets;
  credential = backend: secret: "${backend}-${secret}";

  settings = {
    hostName = cfg.hostname;
    inherit stateDirectory;
    apprise = "${pkgs.apprise}/bin/apprise";
    inherit (cfg) retryAttempts timeoutSeconds repeatAfterSeconds;
    backends = lib.mapAttrs (
      name: backend:
      backend.settings
      // lib.mapAttrs' (
        secret: _: lib.nameValuePair "${secret}Credential" (credential name secret)
      ) (secretsOf backend)
    ) enabled;
    templates = lib.mapAttrs (
      _: template:
      let
        chosen = if template.backend == null then cfg.defaultBackend else template.backend;
      in
      {
        backends = if chosen == "all" then lib.attrNames enabled else [ chosen ];
        inherit (template) priority title body;
      }
    ) (lib.filterAttrs (_: template: template.enable) cfg.templates);
  };

  settingsFile = pkgs.writeTextFile {
    name = "notifications.json";
    text = blib.prettyJson settings;
    # Left out where the machine that builds cannot run the programs of the host.
    checkPhase = lib.optionalString (pkgs.stdenv.buildPlatform.canExecute pkgs.stdenv.hostPlatform) ''
      ${blib.program "backstay"} notify --config "$out" --check-config
    '';
  };

  notifier = argument: description: {
    inherit description;
    # A message of the first minute needs a network too. It waits for that, nothing waits for it.
    wants = [ "network-online.target" ];
    after = [ "network-online.target" ];
    # Each message is a run of its own; a switch has nothing to restart.
    restartIfChanged = false;
    # A network that is away for some minutes: one more run a minute, ten in all.
    startLimitIntervalSec = 3600;
    startLimitBurst = 10;
    serviceConfig = lib.mkMerge [
      blib.hardening.network
      {
        Type = "oneshot";
        ExecStart =
          blib.execStart [
            (blib.program "backstay")
            "notify"
            "--config"
            settingsPath
            argument
          ]
          # TEMPLATE:UNIT, as systemd has it. Not %I, which would turn each dash into a slash.
          + " %i";
        User = user;
        Group = user;
        # This user has nothing but the notifier.
        RemoveIPC = true;
        # The last lines of the unit that failed are part of the message.
        SupplementaryGroups = [ "systemd-journal" ];
        StateDirectory = user;
        StateDirectoryMode = "0700";
        LoadCredential = lib.concatLists (
          lib.mapAttrsToList (
            name: backend:
            lib.mapAttrsToList (
              secret: file: "${credential name secret}:${lib.replaceStrings [ "%" ] [ "%%" ] file}"
            ) (secretsOf backend)
          ) enabled
        );
        Restart = "on-failure";
        RestartSec = 60;
        TimeoutStartSec = "5min";
      }
    ];
  };
in
{
  config = lib.mkMerge [
    {
      modules.notifications.onFailure = instanceOf "notify";
      modules.notifications.onSuccess = instanceOf "notify-recovered";

      modules.notifications.templates = lib.mapAttrs (_: lib.mapAttrs (_: lib.mkDefault)) {
        # Any unit of the host.
        unit-failure = { };
        postgresql-failure = {
          priority = "emergency";
          title = "{host}: PostgreSQL is down ({unit})";
        };
        postgresql-health-failure = {
          priority = "high";
          title = "{host}: PostgreSQL is not well ({unit})";
        };
        postgresql-backup-failure = {
          priority = "high";
          title = "{host}: base backup failed ({unit})";
        };
        postgresql-prune-failure.title = "{host}: old backups were not removed ({unit})";
        postgresql-provision-failure = {
          priority = "high";
          title = "{host}: databases are not as declared ({unit})";
        };
        postgresql-drill-failure = {
          priority = "high";
          title = "{host}: restore drill failed ({unit})";
        };
        preseed-failure = {
          priority = "emergency";
          title = "{host}: restoring the cluster failed ({unit})";
        };
        backup-failure = {
          priority = "high";
          title = "{host}: off-site backup failed ({unit})";
        };
        verification-failure = {
          priority = "high";
          title = "{host}: backup repository is not well ({unit})";
        };
        zfs-dataset-failure = {
          priority = "high";
          title = "{host}: datasets are not as declared ({unit})";
        };
        zfs-snapshot-failure.title = "{host}: snapshots failed ({unit})";
        zfs-replication-failure = {
          priority = "high";
          title = "{host}: replication failed ({unit})";
        };
      };
    }

    (lib.mkIf cfg.enable {
      environment.etc."backstay/notifications.json".source = settingsFile;

      systemd.services = lib.mkMerge [
        {
          "notify@" = notifier "--failed" "Tell that a unit failed (%i)";
          "notify-recovered@" = lib.mkMerge [
            (notifier "--recovered" "Tell that a unit works again (%i)")
            {
              # Written when the failure was told. Without it this is the success of a healthy unit.
              unitConfig.ConditionPathExists = "${stateDirectory}/failed/%i";
              # systemd says with level info that the condition was not met: once a minute for a check
              # that is well.
              serviceConfig.LogLevelMax = "notice";
            }
          ];
        }
        (lib.mapAttrs (_: template: {
          onFailure = cfg.onFailure template;
          onSuccess = cfg.onSuccess template;
        }) (lib.filterAttrs (_: template: cfg.templates ? ${template}) cfg.units))
      ];

      users.users.${user} = {
        isSystemUser = true;
        group = user;
        description = "sends messages about failed units";
        home = stateDirectory;
      };
      users.groups.${user} = { };
    })
  ];
}
