# Alert rules for Prometheus and a board for Grafana. Both are generated from the table of every metric
# that our programs write (`cargo xtask schema`); here they reach the services of this host.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  blib = import ../lib.nix { inherit lib pkgs; };
  inherit (lib) mkOption types;

  cfg = config.modules.services.postgresql;
  instances = blib.enabled config.modules.services.postgresql.instances;
  watched = lib.attrNames (
    lib.filterAttrs (_: instance: instance.healthCheck.enable && instance.monitoring.enable) instances
  );

  general = (lib.importJSON ./alerts.json).groups;
  # For an instance that is declared, silence is a fault from the beginning. No rule without its name can
  # know of it.
  ofInstance =
    name:
    builtins.fromJSON (
      lib.replaceStrings [ "@instance@" ] [ name ] (builtins.readFile ./alert-of-instance.json)
    );
  all = general ++ [
    {
      name = "backstay-instances";
      rules = map ofInstance watched;
    }
  ];
  names = lib.unique (lib.concatMap (group: map (rule: rule.alert) group.rules) all);

  groups = map (
    group:
    group
    // {
      rules = map (rule: rule // { labels = rule.labels // cfg.alerts.labels; }) (
        lib.filter (rule: !lib.elem rule.alert cfg.alerts.disabled) group.rules
      );
    }
  ) all;
  boards = "backstay/boards";
in
{
  options.modules.services.postgresql = {
    alerts = {
      enable = mkOption {
        type = types.bool;
        default = config.services.prometheus.enable && watched != [ ];
        defaultText = lib.literalMD "`true`, if Prometheus runs on this host and an instance is checked";
        example = false;
        description = ''
          Whether the Prometheus of this host gets our alert rules. For one on another host,
          [](#opt-modules.services.postgresql.alerts.file) is the file to give to it.

          The rules work whether the scrape of the node exporter honours labels or not.
        '';
      };

      disabled = mkOption {
        type = types.listOf types.str;
        default = [ ];
        example = [ "PostgreSQLDeadlocks" ];
        description = ''
          Names of alerts that are left out. What each means is in `docs/reference/alerts.md`.
        '';
      };

      labels = mkOption {
        type = types.attrsOf types.str;
        default = { };
        example = {
          team = "storage";
        };
        description = ''
          Labels that every alert gets, for the routes of the Alertmanager. The label `severity` is
          `critical` (look now) or `warning` (look this week), unless it is set here.
        '';
      };

      file = mkOption {
        type = types.path;
        readOnly = true;
        default = pkgs.writeText "backstay-alerts.json" (blib.prettyJson { inherit groups; });
        defaultText = lib.literalMD "the file of rules";
        description = ''
          The rules as a file for `rule_files` of a Prometheus anywhere, for example by
          `services.prometheus.ruleFiles` of another host of the same flake. It has a rule for each instance of
          this host that fires when nothing is heard of it.
        '';
      };
    };

    board.enable = mkOption {
      type = types.bool;
      default = config.services.grafana.enable && watched != [ ];
      defaultText = lib.literalMD "`true`, if Grafana runs on this host and an instance is checked";
      example = false;
      description = ''
        Whether the Grafana of this host gets our board: whether everything is well, what can be restored,
        the archive, disks, the server, databases. Elsewhere import `nixos-modules/monitoring/board.json`.
      '';
    };
  };

  config = {
    assertions = map (name: {
      assertion = lib.elem name names;
      message = "modules.services.postgresql.alerts.disabled: there is no alert \"${name}\"; docs/reference/alerts.md lists them.";
    }) cfg.alerts.disabled;

    services.prometheus.ruleFiles = lib.mkIf cfg.alerts.enable [ cfg.alerts.file ];

    environment.etc = lib.mkIf cfg.board.enable {
      "${boards}/backstay.json".source = ./board.json;
    };
    services.grafana.provision = lib.mkIf cfg.board.enable {
      enable = true;
      dashboards.settings.providers = [
        {
          name = "backstay";
          type = "file";
          options.path = "/etc/${boards}";
        }
      ];
    };
  };
}
