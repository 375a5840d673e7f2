# The replicas of an instance's datasets that can be asked what they hold.
{ lib, config }:
let
  sources = import ../preseed/sources.nix { inherit lib config; };
  askable =
    { replica, ... }:
    # Without a pinned key or a key to log in with the replication itself is refused.
    replica != null && (replica.local || (replica.knownHosts != null && replica.sshKeyFile != null));
in
{
  # Each with its content, the dataset here (`own`) and where the replica is.
  of =
    instance:
    let
      own = sources.datasetsOf instance;
      replicas = sources.replicasOf instance;
    in
    lib.filter askable [
      {
        content = "data";
        own = own.data;
        replica = replicas.data;
      }
      {
        content = "wal";
        own = own.archive;
        replica = replicas.archive;
      }
    ];
}
