# Copies by restic: repositories, jobs, pruning.
{
  imports = [
    ./options.nix
    ./jobs.nix
    ./repositories.nix
    ./assertions.nix
    # Read here: where datasets are mounted, notifications.
    ../notifications
    ../storage/options.nix
  ];
}
