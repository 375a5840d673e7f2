# The parts of NixOS' Prometheus and Grafana that our modules look at: their ports, and the exporter that reads our metrics.
{
  lib,
  config,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  node = config.services.prometheus.exporters.node;

  boolean = mkOption {
    type = types.bool;
    default = false;
  };
  port =
    default:
    mkOption {
      type = types.port;
      inherit default;
    };
  strings = mkOption {
    type = types.listOf types.str;
    default = [ ];
  };
  text =
    default:
    mkOption {
      type = types.str;
      inherit default;
    };
in
{
  options.services.prometheus = {
    enable = boolean;
    port = port 9090;
    ruleFiles = mkOption {
      type = types.listOf types.path;
      default = [ ];
    };
    exporters.node = {
      enable = boolean;
      port = port 9100;
      listenAddress = text "0.0.0.0";
      openFirewall = boolean;
      extraFlags = strings;
      user = text "node-exporter";
      group = text "node-exporter";
      enabledCollectors = strings;
      disabledCollectors = strings;
    };
  };

  options.services.grafana = {
    enable = boolean;
    settings.server.http_port = port 3000;
    provision = {
      enable = boolean;
      dashboards.settings.providers = mkOption {
        type = types.listOf (types.attrsOf types.anything);
        default = [ ];
      };
    };
  };

  config = lib.mkMerge [
    {
      # NixOS puts their paths into a file that it makes for the service; here they stand by themselves.
      environment.etc = lib.mkIf config.services.prometheus.enable (
        lib.listToAttrs (
          map (
            file: lib.nameValuePair "prometheus/rules/${lib.getName file}" { source = file; }
          ) config.services.prometheus.ruleFiles
        )
      );
    }
    (lib.mkIf node.enable {
      networking.firewall.allowedTCPPorts = lib.mkIf node.openFirewall [ node.port ];

      users.users = lib.mkIf (node.user == "node-exporter") {
        node-exporter = {
          isSystemUser = true;
          inherit (node) group;
        };
      };
      users.groups = lib.mkIf (node.group == "node-exporter") { node-exporter = { }; };

      systemd.services.prometheus-node-exporter = {
        wantedBy = [ "multi-user.target" ];
        after = [ "network.target" ];
        serviceConfig = {
          Restart = "always";
          User = node.user;
          Group = node.group;
          ExecStart = lib.concatStringsSep " " (
            [ (lib.getExe pkgs.prometheus-node-exporter) ]
            ++ map (name: "--collector.${name}") node.enabledCollectors
            ++ map (name: "--no-collector.${name}") node.disabledCollectors
            ++ [ "--web.listen-address ${node.listenAddress}:${toString node.port}" ]
            ++ node.extraFlags
          );
        };
      };
    })
  ];
}
