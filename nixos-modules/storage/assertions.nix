# Mistakes in the declaration of datasets.
{ config, lib, ... }:
let
  cfg = config.modules.storage.datasets;
  inherit (config.modules.services.postgresql) instances;
  names = import ./names.nix { inherit lib; };
  declared = import ./declared.nix { inherit lib config; };

  quote = text: "\"${text}\"";
  option = name: "modules.storage.datasets.${name}";

  # One assertion for each problem of each dataset; null is no problem.
  ofEach =
    problem:
    lib.concatMap (
      dataset:
      let
        found = problem dataset;
      in
      lib.optional (found != null) {
        assertion = false;
        message = "${dataset.option}${found}";
      }
    ) declared;

  wellNamed = dataset: names.isDatasetName dataset.dataset;

  nameProblem =
    dataset:
    if wellNamed dataset then
      null
    else
      ": ${quote dataset.dataset} is not a name of a dataset; use letters, digits, \"-\", \"_\", \".\" and \":\" between the slashes, begin the pool with a letter and each other part with a letter or a digit.";

  poolProblem =
    dataset:
    if wellNamed dataset && dataset.kind == "utility" && !lib.hasInfix "/" dataset.dataset then
      ": ${quote dataset.dataset} is a pool, and pools are not created here; declare a dataset in it, such as ${quote "${dataset.dataset}/data"}."
    else
      null;

  knownParents = lib.genAttrs (
    map (dataset: dataset.dataset) declared
    ++ [ cfg.parentDataset ]
    ++ names.ancestorsOf cfg.parentDataset
  ) (_: null);
  parentProblem =
    dataset:
    let
      parent = lib.last (names.ancestorsOf dataset.dataset);
    in
    if
      wellNamed dataset
      && dataset.kind == "utility"
      && lib.hasInfix "/" dataset.dataset
      && lib.hasInfix "/" parent
      && !knownParents ? ${parent}
    then
      ": its parent ${quote parent} is not declared; declare modules.storage.datasets.utility.${quote parent} as well, or correct the name."
    else
      null;

  # 512, then K and M up to 16M.
  recordSizes = [
    "512"
    "1K"
    "2K"
    "4K"
    "8K"
    "16K"
    "32K"
    "64K"
    "128K"
    "256K"
    "512K"
    "1M"
    "2M"
    "4M"
    "8M"
    "16M"
  ];
  recordsizeProblem =
    dataset:
    if lib.elem dataset.recordsize recordSizes then
      null
    else
      ".recordsize: ${quote dataset.recordsize} is not a power of two from 512 to 16M; use 8K for a database, 128K for files of all sizes, 1M for large ones.";

  numbered = prefix: numbers: map (number: "${prefix}${toString number}") numbers;
  compressions = [
    "on"
    "off"
    "lz4"
    "lzjb"
    "zle"
    "gzip"
    "zstd"
    "zstd-fast"
  ]
  ++ numbered "gzip-" (lib.range 1 9)
  ++ numbered "zstd-" (lib.range 1 19)
  ++ numbered "zstd-fast-" (
    lib.range 1 10
    ++ [
      20
      30
      40
      50
      60
      70
      80
      90
      100
      500
      1000
    ]
  );
  compressionProblem =
    dataset:
    if lib.elem dataset.compression compressions then
      null
    else
      ".compression: ${quote dataset.compression} is no compression of OpenZFS; use lz4, zstd, zstd-1 to zstd-19, gzip-1 to gzip-9 or off.";

  mountpointProblem =
    dataset:
    let
      found = names.mountPointProblem dataset.path;
    in
    if dataset.path == null || found == null then
      null
    else
      ".mountpoint: ${quote dataset.path} ${found}; give the directory where the dataset is to appear, or \"none\" for a dataset that only holds others.";

  ownOptions = {
    recordsize = "recordsize";
    compression = "compression";
    mountpoint = "mountpoint";
  };
  propertyProblem =
    dataset: name: value:
    if ownOptions ? ${name} then
      ".properties.${name}: ${quote value} stands beside an option of its own; set ${dataset.option}.${ownOptions.${name}} instead."
    else if name == "canmount" then
      ".properties.canmount: ${quote value} stands beside mountpoint, which says already whether the dataset is mounted; use mountpoint = \"none\" for one that only holds others, or \"legacy\" to mount it with fileSystems."
    else if name == "sync" && value == "disabled" then
      ".properties.sync: ${quote value} makes ZFS acknowledge writes that a power cut takes back, so committed changes are lost; leave it out, or use \"standard\" or \"always\"."
    else if builtins.match "[a-z0-9][a-z0-9:_.@-]*" name == null then
      ".properties.${quote name}: this is not a name of a ZFS property; use lower-case letters, digits, \":\", \"_\", \".\" and \"-\"."
    else
      null;
  propertyAssertions = lib.concatMap (
    dataset:
    lib.concatLists (
      lib.mapAttrsToList (
        name: value:
        let
          found = propertyProblem dataset name value;
        in
        lib.optional (found != null) {
          assertion = false;
          message = "${dataset.option}${found}";
        }
      ) dataset.properties
    )
  ) declared;

  inWords = lib.concatStringsSep " and ";
  mounted = lib.filter (dataset: dataset.path != null) declared;
  # Datasets that share something, in groups.
  sharing =
    key: datasets:
    lib.filter (group: lib.length group > 1) (lib.attrValues (lib.groupBy key datasets));

  declaredTwice =
    let
      conflict = group: {
        assertion = false;
        message = "${(lib.head group).option}: the dataset ${quote (lib.head group).dataset} is declared by ${
          inWords (map (dataset: dataset.option) (lib.tail group))
        } as well; keep one of them.";
      };
    in
    map conflict (sharing (dataset: dataset.dataset) declared);

  onOneMountpoint =
    let
      # A dataset that is declared twice is reported as that.
      once = map lib.head (lib.attrValues (lib.groupBy (dataset: dataset.dataset) mounted));
      conflict = group: {
        assertion = false;
        message = "${(lib.head group).option}.mountpoint: the datasets ${
          inWords (map (dataset: quote dataset.dataset) group)
        } would be mounted on ${quote (lib.head group).path}, where one hides the data of the other; give each a place of its own.";
      };
    in
    map conflict (sharing (dataset: dataset.path) once);

  # The dataset that is mounted further out has to be mounted first, and only a child waits for its
  # parent. Otherwise it is mounted over the other.
  byPath = lib.groupBy (dataset: dataset.path) mounted;
  directoriesAbove =
    path: map (directory: "/${directory}") (names.ancestorsOf (lib.removePrefix "/" path));
  nestedProblem =
    inner:
    let
      outer = lib.filter (dataset: !names.isBelow dataset.dataset inner.dataset) (
        lib.concatMap (directory: byPath.${directory} or [ ]) (directoriesAbove inner.path)
      );
    in
    if inner.path == null || outer == [ ] then
      null
    else
      ".mountpoint: ${quote inner.path} is inside ${quote (lib.head outer).path}, where ${quote (lib.head outer).dataset} is mounted, but ${quote inner.dataset} is not a child of that dataset, so either may be mounted first and hide the other; make it a child, mount it elsewhere, or leave the outer mount to fileSystems with mountpoint = \"legacy\".";
in
{
  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion = names.isDatasetName cfg.parentDataset;
        message = "${option "parentDataset"}: ${quote cfg.parentDataset} is not a name of a dataset; write the pool and the datasets below it, such as \"tank/services\".";
      }
      {
        assertion = names.mountPointProblem cfg.parentMount == null;
        message = "${option "parentMount"}: ${quote cfg.parentMount} ${
          toString (names.mountPointProblem cfg.parentMount)
        }; give the directory below which datasets are mounted, such as \"/srv\".";
      }
    ]
    ++ lib.optionals (names.isDatasetName cfg.parentDataset) (
      ofEach nameProblem ++ ofEach poolProblem ++ ofEach parentProblem
    )
    ++ ofEach recordsizeProblem
    ++ ofEach compressionProblem
    ++ lib.optionals (names.mountPointProblem cfg.parentMount == null) (ofEach mountpointProblem)
    ++ propertyAssertions
    ++ lib.optional (instances ? datasets && instances.datasets.enable) {
      assertion = false;
      message = "modules.services.postgresql.instances.datasets: its settings would be /etc/backstay/datasets.json, where the declared datasets are; choose another name.";
    }
    ++ declaredTwice
    ++ onOneMountpoint
    ++ ofEach nestedProblem;
  };
}
