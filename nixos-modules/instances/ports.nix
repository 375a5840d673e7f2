# TCP ports that other services of the host have declared: [ { port; service; option; } ].
#
# It is asked with attrByPath, since an option may not exist: NixOS renames and removes services, and
# the evaluation tests declare only a few of them.
{ lib, config }:
let
  # A service whose `enable` and port stand at fixed places.
  fixed = service: portPath: {
    name = service;
    enabled = lib.attrByPath (lib.splitString "." service ++ [ "enable" ]) false config;
    port = lib.attrByPath (lib.splitString "." service ++ lib.splitString "." portPath) null config;
    option = "${service}.${portPath}";
  };

  exporter =
    name: settings:
    # NixOS keeps the names of removed exporters, and evaluating one of those throws.
    let
      enabled = builtins.tryEval (builtins.isAttrs settings && settings.enable or false);
    in
    {
      name = "services.prometheus.exporters.${name}";
      enabled = enabled.success && enabled.value;
      port = settings.port or null;
      option = "services.prometheus.exporters.${name}.port";
    };

  redis = name: server: {
    name = "services.redis.servers.${name}";
    enabled = server.enable or false;
    port = server.port or null;
    option = "services.redis.servers.${name}.port";
  };

  candidates = [
    (fixed "services.postgresql" "settings.port")
    (fixed "services.pgbouncer" "settings.pgbouncer.listen_port")
    (fixed "services.mysql" "settings.mysqld.port")
    (fixed "services.prometheus" "port")
    (fixed "services.prometheus.alertmanager" "port")
    (fixed "services.grafana" "settings.server.http_port")
    (fixed "services.gitea" "settings.server.HTTP_PORT")
    (fixed "services.forgejo" "settings.server.HTTP_PORT")
    (fixed "services.vaultwarden" "config.ROCKET_PORT")
    (fixed "services.pgadmin" "port")
  ]
  ++ lib.mapAttrsToList exporter (
    lib.attrByPath [
      "services"
      "prometheus"
      "exporters"
    ] { } config
  )
  ++ lib.mapAttrsToList redis (
    lib.attrByPath [
      "services"
      "redis"
      "servers"
    ] { } config
  );
in
map (candidate: { inherit (candidate) name port option; }) (
  builtins.filter (candidate: candidate.enabled && builtins.isInt candidate.port) candidates
)
++ map (port: {
  name = "services.openssh";
  inherit port;
  option = "services.openssh.ports";
}) (
  lib.optionals (lib.attrByPath [ "services" "openssh" "enable" ] false config) (
    lib.attrByPath [ "services" "openssh" "ports" ] [ ] config
  )
)
