# Messages to people: one notifier for the failures of all units.
{
  imports = [
    ./options.nix
    ./notifier.nix
    ./assertions.nix
    # Read here: the names of the instances.
    ../instances/options.nix
  ];
}
