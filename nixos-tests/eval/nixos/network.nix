{ lib, config, ... }:
let
  inherit (lib) mkOption types;

  ports = {
    allowedTCPPorts = mkOption {
      type = types.listOf types.port;
      default = [ ];
      apply = list: lib.sort lib.lessThan (lib.unique list);
    };
    allowedUDPPorts = mkOption {
      type = types.listOf types.port;
      default = [ ];
      apply = list: lib.sort lib.lessThan (lib.unique list);
    };
  };

  knownHost =
    { name, config, ... }:
    {
      options = {
        certAuthority = mkOption {
          type = types.bool;
          default = false;
        };
        extraHostNames = mkOption {
          type = types.listOf types.str;
          default = [ ];
        };
        hostNames = mkOption {
          type = types.listOf types.str;
          default = [ name ] ++ config.extraHostNames;
        };
        publicKey = mkOption {
          type = types.nullOr types.str;
          default = null;
        };
        publicKeyFile = mkOption {
          type = types.nullOr types.path;
          default = null;
        };
      };
    };
  knownHosts = lib.attrValues config.programs.ssh.knownHosts;
in
{
  options = {
    networking.hostName = mkOption {
      type = types.strMatching "^$|^[[:alnum:]]([[:alnum:]_-]{0,61}[[:alnum:]])?$";
      default = "nixos";
    };
    networking.hostId = mkOption {
      type = types.nullOr types.str;
      default = null;
    };
    networking.firewall = {
      enable = mkOption {
        type = types.bool;
        default = true;
      };
      interfaces = mkOption {
        type = types.attrsOf (types.submodule { options = ports; });
        default = { };
      };
    }
    // ports;

    programs.ssh.knownHosts = mkOption {
      type = types.attrsOf (types.submodule knownHost);
      default = { };
    };
  };

  config = {
    environment.etc = lib.optionalAttrs (knownHosts != [ ]) {
      "ssh/ssh_known_hosts".text = lib.concatLines (
        map (
          host:
          lib.optionalString host.certAuthority "@cert-authority "
          + lib.concatStringsSep "," host.hostNames
          + " "
          + (if host.publicKey == null then builtins.readFile host.publicKeyFile else host.publicKey)
        ) knownHosts
      );
    };
    assertions = map (host: {
      assertion = (host.publicKey == null) != (host.publicKeyFile == null);
      message = "programs.ssh.knownHosts.\"${lib.head host.hostNames}\" needs exactly one of publicKey and publicKeyFile.";
    }) knownHosts;
  };
}
