# The declared datasets as one list, sorted by name, each with the option that declares it.
{ lib, config }:
let
  cfg = config.modules.storage.datasets;

  of =
    kind:
    lib.mapAttrsToList (
      name: dataset:
      dataset
      // {
        option = lib.showOption [
          "modules"
          "storage"
          "datasets"
          kind
          name
        ];
        inherit kind;
      }
    ) cfg.${kind};
in
# A name sorts before every longer name that begins with it, so parents come before children.
lib.sort (a: b: a.dataset < b.dataset || a.dataset == b.dataset && a.option < b.option) (
  of "services" ++ of "utility"
)
