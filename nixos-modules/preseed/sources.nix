# What a data directory can be restored from, as far as the configuration says.
{ lib, config }:
let
  places = import ../backup/places.nix { inherit lib config; };
  inherit (config.modules.backup) sanoid;
in
rec {
  # The datasets that data and archive are mounted from; null where they are not on ZFS.
  datasetsOf = instance: {
    data = places.datasetAt instance.paths.root;
    archive = if instance.backup.isArchiving then places.datasetAt instance.paths.archive else null;
  };

  # Where these datasets are replicated to, or null.
  replicasOf =
    instance:
    let
      of = dataset: if dataset == null then null else sanoid.replicationOf dataset;
    in
    lib.mapAttrs (_: of) (datasetsOf instance);

  # What each method needs.
  has = {
    syncoid =
      instance:
      let
        replica = (replicasOf instance).data;
      in
      # Of a replica on another pool of this host there is neither.
      replica != null && replica.knownHosts != null && replica.sshKeyFile != null;
    # What came after a snapshot is in the archive.
    local = instance: (datasetsOf instance).data != null && instance.backup.isArchiving;
    restic =
      instance:
      instance.preseed.repository.url != null && instance.preseed.repository.passwordFile != null;
    baseBackups = instance: instance.backup.takesBaseBackups;
  };

  # Those that pg-preseed can restore from. Asked for another one it answers that it cannot say, and an
  # empty data directory stays empty.
  restorable = [
    "local"
    "restic"
    "baseBackups"
  ];

  # Those that are asked unless others are named. Snapshots are lost with the disks that a preseed is for, so
  # they are asked only where somebody names them.
  available = instance: lib.filter (method: has.${method} instance) (lib.remove "local" restorable);
}
