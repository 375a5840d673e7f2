# Datasets, snapshots and replication.
{
  imports = [
    ./options.nix
    ./datasets.nix
    ./assertions.nix
    ./snapshot-options.nix
    ./snapshots.nix
    ./snapshot-assertions.nix
    ./copies.nix
    # Read here: the instances and what they promise, the restic jobs, notifications. Only the options of
    # an area that imports this one: modules that import each other are an endless recursion.
    ../backup/options.nix
    ../instances
    ../notifications
    ../restic
  ];
}
