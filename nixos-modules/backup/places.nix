# Which disk or pool a directory is on, as far as the configuration says: from the declared datasets
# and from `fileSystems`.
{ lib, config }:
let
  names = import ../storage/names.nix { inherit lib; };
  storage = config.modules.storage.datasets;

  ofDatasets = lib.optionals storage.enable (
    map
      (dataset: {
        mountPoint = dataset.path;
        inherit (dataset) dataset;
        place = "the pool ${names.poolOf dataset.dataset}";
      })
      (
        lib.filter (dataset: dataset.path != null) (
          lib.attrValues storage.services ++ lib.attrValues storage.utility
        )
      )
  );

  ofFileSystems = map (fileSystem: {
    inherit (fileSystem) mountPoint;
    dataset = if fileSystem.fsType == "zfs" then fileSystem.device else null;
    place =
      if fileSystem.fsType == "zfs" && fileSystem.device != null then
        "the pool ${names.poolOf fileSystem.device}"
      else
        "the file system of ${fileSystem.mountPoint}";
  }) (lib.attrValues config.fileSystems);

  known = ofDatasets ++ ofFileSystems;
in
rec {
  # What `path` is on, with `mountPoint`, `dataset` (null without ZFS) and `place` (for people); null
  # where nothing is declared.
  at =
    path:
    let
      holding = lib.filter (
        entry: entry.mountPoint == "/" || names.isAtOrBelow entry.mountPoint path
      ) known;
      nearer =
        best: entry:
        if
          best == null || builtins.stringLength entry.mountPoint > builtins.stringLength best.mountPoint
        then
          entry
        else
          best;
    in
    lib.foldl' nearer null holding;

  # The dataset that is mounted at `path` itself, or null.
  datasetAt =
    path:
    let
      found = at path;
    in
    if found == null || found.mountPoint != path then null else found.dataset;
}
