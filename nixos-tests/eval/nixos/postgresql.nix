# NixOS' own PostgreSQL, which runs one server. Our modules do not use it; they have to notice it, and settings for it in other
# modules have to evaluate.
{
  lib,
  config,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.services.postgresql;
in
{
  options.services.postgresql = {
    enable = mkOption {
      type = types.bool;
      default = false;
    };
    package = mkOption {
      type = types.package;
      default = pkgs.postgresql_17;
    };
    dataDir = mkOption {
      type = types.path;
      default = "/var/lib/postgresql/${cfg.package.psqlSchema}";
    };
    settings = mkOption {
      type = types.submodule {
        freeformType = types.attrsOf (
          types.oneOf [
            types.bool
            types.float
            types.int
            types.str
          ]
        );
        options.port = mkOption {
          type = types.port;
          default = 5432;
        };
      };
      default = { };
    };
  };

  config.systemd.services.postgresql = lib.mkIf cfg.enable {
    description = "PostgreSQL Server";
    wantedBy = [ "multi-user.target" ];
    serviceConfig.ExecStart = "${cfg.package}/bin/postgres -D ${cfg.dataDir}";
  };
}
