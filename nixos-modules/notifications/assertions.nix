# Mistakes in the declaration of messages.
{ config, lib, ... }:
let
  cfg = config.modules.notifications;
  inherit (config.modules.services.postgresql) instances;
  placeholders = import ./placeholders.nix;

  quote = text: "\"${text}\"";
  refuse = message: {
    assertion = false;
    inherit message;
  };
  at =
    path:
    lib.showOption (
      [
        "modules"
        "notifications"
      ]
      ++ path
    );

  backends = [
    "apprise"
    "pushover"
    "ntfy"
    "healthchecks"
  ];
  enabled = lib.filter (backend: cfg.${backend}.enable) backends;
  isMissing = backend: backend != "all" && !lib.elem backend enabled;

  needed = [
    {
      backend = "apprise";
      option = "urlFile";
      what = "a file with apprise URLs, such as \"/run/secrets/apprise\"";
    }
    {
      backend = "pushover";
      option = "tokenFile";
      what = "a file with the token of the application, such as \"/run/secrets/pushover-token\"";
    }
    {
      backend = "pushover";
      option = "userKeyFile";
      what = "a file with the key of the user, such as \"/run/secrets/pushover-user\"";
    }
    {
      backend = "ntfy";
      option = "topic";
      what = "the topic, such as \"forge-alerts\"";
    }
    {
      backend = "healthchecks";
      option = "uuidFile";
      what = "a file with the UUID of the check, such as \"/run/secrets/healthchecks-uuid\"";
    }
  ];

  isUnset = need: cfg.${need.backend}.enable && cfg.${need.backend}.${need.option} == null;

  # What stands in braces in a text.
  wordsInBraces =
    text:
    lib.concatLists (lib.filter builtins.isList (builtins.split "[{]([A-Za-z_]+)[}]" text));

  templateProblems = lib.concatLists (
    lib.mapAttrsToList (
      name: template:
      lib.optional (builtins.match "[A-Za-z0-9][A-Za-z0-9_.-]*" name == null) (
        refuse "${at [ "templates" name ]}: the name becomes part of a unit's name; use letters, digits, \"-\", \"_\" and \".\"."
      )
      ++ lib.optional (template.backend != null && isMissing template.backend) (
        refuse "${at [ "templates" name "backend" ]}: ${quote template.backend} is not enabled; set modules.notifications.${template.backend}.enable, or choose another backend."
      )
      ++ lib.concatMap (
        part:
        map (
          word:
          refuse "${at [ "templates" name part ]}: {${word}} is never filled in; use ${
            lib.concatMapStringsSep ", " (known: "{${known}}") placeholders
          }."
        ) (lib.subtractLists placeholders (lib.unique (wordsInBraces template.${part})))
      ) [
        "title"
        "body"
      ]
    ) cfg.templates
  );

  unitProblems = lib.concatLists (
    lib.mapAttrsToList (
      unit: template:
      lib.optional (lib.hasSuffix ".service" unit) (
        refuse "${at [ "units" unit ]}: ${quote unit} would become the unit ${quote "${unit}.service"}; leave out \".service\"."
      )
      ++ lib.optional (!cfg.templates ? ${template}) (
        refuse "${at [ "units" unit ]}: ${quote template} is not a template; use one of ${lib.concatStringsSep ", " (lib.attrNames cfg.templates)}, or declare it."
      )
    ) cfg.units
  );
in
{
  config = lib.mkIf cfg.enable {
    assertions =
      lib.optional (enabled == [ ]) (
        refuse "modules.notifications.enable: true, but nobody can be told; enable one of ${
          lib.concatMapStringsSep ", " (backend: "modules.notifications.${backend}") backends
        }."
      )
      ++ lib.optional (enabled != [ ] && isMissing cfg.defaultBackend) (
        refuse "modules.notifications.defaultBackend: ${quote cfg.defaultBackend} is not enabled; set modules.notifications.${cfg.defaultBackend}.enable, or choose ${
          lib.concatMapStringsSep " or " quote (enabled ++ [ "all" ])
        }."
      )
      ++ map (
        need:
        refuse "modules.notifications.${need.backend}.${need.option}: not set, but modules.notifications.${need.backend}.enable is true; write ${need.what}."
      ) (lib.filter isUnset needed)
      ++ lib.optional (instances ? notifications && instances.notifications.enable) (
        refuse "modules.services.postgresql.instances.notifications: its settings would be /etc/backstay/notifications.json, where those of the notifier are; choose another name."
      )
      ++ templateProblems
      ++ unitProblems;
  };
}
