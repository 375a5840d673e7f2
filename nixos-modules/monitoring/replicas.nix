# Units that ask the replicas of an instance's datasets what they hold, after each transfer.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  blib = import ../lib.nix { inherit lib pkgs; };
  helper = import ../backup/helper.nix { inherit lib pkgs; };
  privileges = import ../backup/privileges.nix;
  replicated = import ./replicated.nix { inherit lib config; };
  units = import ../backup/units.nix;

  sshKey = "ssh-key";

  asked =
    instance:
    lib.optionals (instance.healthCheck.enable && instance.backup.enable) (replicated.of instance);

  # The instances with what is asked for each.
  asking = lib.concatLists (
    lib.mapAttrsToList (
      name: instance: map (replica: replica // { inherit name instance; }) (asked instance)
    ) (blib.enabled config.modules.services.postgresql.instances)
  );

  instanceModule =
    { name, config, ... }:
    {
      config.programSettings.snapshots = lib.mkIf (asked config != [ ]) {
        replicas = map (
          { content, replica, ... }:
          {
            inherit content;
            inherit (replica) dataset unit;
            ssh =
              if replica.local then
                null
              else
                {
                  inherit (replica)
                    host
                    user
                    port
                    knownHosts
                    ;
                  sshKeyFile = "/run/credentials/${(units name).replica content}/${sshKey}";
                };
          }
        ) (asked config);
      };
    };

  service =
    {
      name,
      instance,
      content,
      replica,
      ...
    }:
    lib.nameValuePair (lib.removeSuffix ".service" ((units name).replica content)) (
      lib.mkMerge [
        (helper {
          inherit name instance;
          program = "pg-replica";
          arguments = [ "--content=${content}" ];
          preset =
            if replica.local then
              privileges.askingZfs blib.hardening.helper
            else
              blib.hardening.network;
          writable = [ instance.paths.state ];
        })
        {
          description = "Ask the replica ${replica.dataset} of the PostgreSQL instance ${name} what it holds";
          # The userland that came with the running kernel's module; another version may not speak to it.
          path = if replica.local then [ "/run/booted-system/sw" ] else [ pkgs.openssh ];
          serviceConfig = {
            TimeoutStartSec = "10min";
          }
          // lib.optionalAttrs (!replica.local) {
            LoadCredential = [ "${sshKey}:${lib.replaceStrings [ "%" ] [ "%%" ] replica.sshKeyFile}" ];
          };
        }
      ]
    );

  # Whatever became of the transfer: one that fails every night leaves a replica that is a month old.
  afterTransfer =
    {
      name,
      content,
      replica,
      ...
    }:
    {
      ${lib.removeSuffix ".service" replica.unit} = {
        onSuccess = [ ((units name).replica content) ];
        onFailure = [ ((units name).replica content) ];
      };
    };
in
{
  imports = [
    # Read here: the instance itself, its datasets and their replicas.
    ../backup
    ../instances
    ../storage
  ];

  options.modules.services.postgresql.instances = lib.mkOption {
    type = lib.types.attrsOf (lib.types.submodule instanceModule);
  };

  config.systemd.services = lib.mkMerge (
    [ (lib.listToAttrs (map service asking)) ] ++ map afterTransfer asking
  );
}
