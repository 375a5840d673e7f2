# modules.notifications: who is told what when a unit fails.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  blib = import ../lib.nix { inherit lib pkgs; };

  backends = [
    "apprise"
    "pushover"
    "ntfy"
    "healthchecks"
  ];
  backend = lib.types.enum (backends ++ [ "all" ]);

  secret =
    example: description:
    lib.mkOption {
      type = lib.types.nullOr blib.types.externalPath;
      default = null;
      inherit example description;
    };

  enable =
    what:
    lib.mkOption {
      type = lib.types.bool;
      default = false;
      example = true;
      description = "Whether messages are sent to ${what}.";
    };

  template = {
    options = {
      enable = lib.mkOption {
        type = lib.types.bool;
        default = true;
        example = false;
        description = "Whether messages of this kind are sent.";
      };
      priority = lib.mkOption {
        type = lib.types.enum [
          "emergency"
          "high"
          "normal"
          "low"
          "silent"
        ];
        default = "normal";
        example = "high";
        description = ''
          How loud the message is, as far as the receiving service knows such a thing: `emergency` may
          ring until somebody confirms, `silent` is only there to be read.
        '';
      };
      title = lib.mkOption {
        type = lib.types.singleLineStr;
        default = "{host}: {unit} failed";
        example = "Backup failed on {host}";
        description = ''
          First line of the message. These are filled in: `{host}`, `{unit}`, `{description}` of the
          unit, `{result}` as systemd names it, `{status}` the program exited with, `{time}`, and
          `{log}`, the last lines that the unit wrote.
        '';
      };
      body = lib.mkOption {
        type = lib.types.lines;
        default = ''
          {description} ({unit}) ended with {result}, status {status}, at {time}.

          {log}

          Look there: systemctl status {unit}
        '';
        example = ''
          {unit}: {result}
          {log}
        '';
        description = "The message itself, with the same parts filled in as in the title.";
      };
      backend = lib.mkOption {
        type = lib.types.nullOr backend;
        default = null;
        example = "ntfy";
        description = ''
          Where messages of this kind go; `all` is every one that is enabled. Null means
          `modules.notifications.defaultBackend`.
        '';
      };
    };
  };
in
{
  options.modules.notifications = {
    enable = lib.mkOption {
      type = lib.types.bool;
      default = false;
      example = true;
      description = ''
        Whether somebody is told when a unit of this host fails, and once more when it works again. The
        messages are sent by apprise, so what it can reach can be told.
      '';
    };

    hostname = lib.mkOption {
      type = lib.types.singleLineStr;
      default = config.networking.hostName;
      defaultText = lib.literalExpression "config.networking.hostName";
      example = "forge (cellar)";
      description = "What this host is called in messages.";
    };

    defaultBackend = lib.mkOption {
      type = backend;
      default = "all";
      example = "ntfy";
      description = ''
        Where messages go whose template does not say; `all` is every one that is enabled.
      '';
    };

    retryAttempts = lib.mkOption {
      type = lib.types.ints.between 1 100;
      default = 3;
      example = 5;
      description = ''
        How often it is tried to send a message before the notifier ends. It starts over once a minute,
        for ten minutes.
      '';
    };

    timeoutSeconds = lib.mkOption {
      type = lib.types.ints.between 1 3600;
      default = 10;
      example = 30;
      description = "Seconds that one attempt may take.";
    };

    repeatAfterSeconds = lib.mkOption {
      type = lib.types.ints.between 0 (30 * 24 * 60 * 60);
      default = 6 * 60 * 60;
      example = 3600;
      description = ''
        Seconds after which the same failure of the same unit is worth another message. A check that
        fails every minute says so once in that time.
      '';
    };

    apprise = {
      enable = enable "the services in a file of apprise";
      urlFile = secret "/run/secrets/apprise" ''
        File with one apprise URL per line, such as `mailto://user:password@example.org`. See
        [its list of services](https://github.com/caronc/apprise/wiki).
      '';
    };

    pushover = {
      enable = enable "Pushover";
      tokenFile = secret "/run/secrets/pushover-token" "File with the token of the application.";
      userKeyFile = secret "/run/secrets/pushover-user" "File with the key of the user or the group.";
    };

    ntfy = {
      enable = enable "a topic of ntfy";
      server = lib.mkOption {
        type = lib.types.strMatching "https?://[^[:space:]/@]+(/[^[:space:]@]*)?";
        default = "https://ntfy.sh";
        example = "https://ntfy.example.org";
        description = "Where the server of ntfy is.";
      };
      topic = lib.mkOption {
        type = lib.types.nullOr (lib.types.strMatching "[A-Za-z0-9_-]{1,64}");
        default = null;
        example = "forge-alerts";
        description = ''
          The topic. On a server without access control everybody who knows it can read along.
        '';
      };
      tokenFile = secret "/run/secrets/ntfy-token" ''
        File with an access token; null means that the topic takes messages from everybody.
      '';
    };

    healthchecks = {
      enable = enable "healthchecks, as a failure signal of one check";
      baseUrl = lib.mkOption {
        type = lib.types.strMatching "https?://[^[:space:]/@]+(/[^[:space:]@]*)?";
        default = "https://hc-ping.com";
        example = "https://hc.example.org/ping";
        description = "Where the checks are pinged.";
      };
      uuidFile = secret "/run/secrets/healthchecks-uuid" "File with the UUID of the check.";
    };

    templates = lib.mkOption {
      type = lib.types.attrsOf (lib.types.submodule template);
      default = { };
      example = {
        backup-failure = {
          priority = "high";
        };
      };
      description = ''
        Kinds of messages by name. Those that the units of Backstay use are there already, and can be
        changed here.
      '';
    };

    units = lib.mkOption {
      type = lib.types.attrsOf lib.types.str;
      default = { };
      example = {
        zfs-scrub = "unit-failure";
      };
      description = ''
        Further services of this host whose failures are told, by their names without `.service`, and
        the template of the message.
      '';
    };

    onFailure = lib.mkOption {
      type = lib.types.raw;
      internal = true;
      readOnly = true;
      description = ''
        Function from the name of a template to the list for `onFailure` of a unit; the list is empty
        when nothing is to be sent.
      '';
    };
    onSuccess = lib.mkOption {
      type = lib.types.raw;
      internal = true;
      readOnly = true;
      description = ''
        The same for `onSuccess`: who heard of a failure hears once that it is over.
      '';
    };
  };
}
