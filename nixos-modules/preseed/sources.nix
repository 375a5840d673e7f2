# What a data directory can be restored from, as far as the configuration says.
{ lib, config }:
let
  places = import ../backup/places.nix { inherit lib config; };
  inherit (config.modules.backup) sanoid;
  storage = config.modules.storage.datasets;
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

  # Whether the replica of the archive, which is fetched in the same way, is where that of the data is.
  archiveIsBeside =
    instance:
    let
      replicas = replicasOf instance;
    in
    replicas.archive != null && replicas.archive.host == replicas.data.host;

  # What was received is mounted as it is declared there.
  isDeclaredDataset =
    dataset:
    storage.enable
    && lib.any (declared: declared.dataset == dataset) (
      lib.attrValues storage.services ++ lib.attrValues storage.utility
    );

  # What each method needs.
  has = {
    syncoid =
      instance:
      let
        replica = (replicasOf instance).data;
      in
      # Of a replica on another pool of this host there is neither.
      replica != null
      && replica.knownHosts != null
      && replica.sshKeyFile != null
      && isDeclaredDataset (datasetsOf instance).data
      && instance.backup.isArchiving;
    # What came after a snapshot is in the archive.
    local = instance: (datasetsOf instance).data != null && instance.backup.isArchiving;
    restic =
      instance:
      instance.preseed.repository.url != null && instance.preseed.repository.passwordFile != null;
    baseBackups = instance: instance.backup.takesBaseBackups;
  };

  # Those that are asked unless others are named. Snapshots of this host are lost with the disks that a preseed is
  # for, so they are asked only where somebody names them. A replica without the archive's would keep the server down.
  available =
    instance:
    lib.optional (has.syncoid instance && archiveIsBeside instance) "syncoid"
    ++ lib.filter (method: has.${method} instance) [
      "restic"
      "baseBackups"
    ];
}
