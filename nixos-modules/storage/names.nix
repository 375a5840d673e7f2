# Names of datasets, and where they are mounted: facts about text, without the configuration.
{ lib }:
let
  # A pool begins with a letter, what is below it may begin with a digit too.
  following = "[A-Za-z0-9_.:-]*";
  pool = "[A-Za-z]${following}";
  component = "[A-Za-z0-9]${following}";
in
rec {
  # The characters are those of zfs(8), without the space: it is legal in OpenZFS and splits words
  # in every tool around it.
  isDatasetName =
    text: builtins.stringLength text <= 255 && builtins.match "${pool}(/${component})*" text != null;

  # The pool is the first part of a name.
  poolOf = dataset: lib.head (lib.splitString "/" dataset);

  # A name without its pool, or the pool itself if there is nothing else.
  tailOf =
    dataset: if lib.hasInfix "/" dataset then lib.removePrefix "${poolOf dataset}/" dataset else dataset;

  # Every dataset above one, the pool's own first: "tank" and "tank/a" for "tank/a/b".
  ancestorsOf =
    dataset:
    let
      parts = lib.splitString "/" dataset;
    in
    lib.genList (index: lib.concatStringsSep "/" (lib.take (index + 1) parts)) (lib.length parts - 1);

  # Whether one name or path lies below another. Both are without a slash at the end.
  isBelow = above: below: lib.hasPrefix (above + "/") below;
  isAtOrBelow = above: below: above == below || isBelow above below;

  # What is wrong with the path of a mount point, or null. systemd and ZFS both compare paths as
  # text, so there is one spelling for each.
  mountPointProblem =
    text:
    if !lib.hasPrefix "/" text then
      "is not an absolute path"
    else if text == "/" then
      "is the root file system"
    else if builtins.match "(/[^/[:space:][:cntrl:]]+)+" text == null then
      "is not a plain path: no space, no \"//\" and no slash at the end"
    else if lib.any (part: part == "." || part == "..") (lib.splitString "/" text) then
      "has a \".\" or \"..\" in it"
    else if isAtOrBelow builtins.storeDir text then
      "is in the Nix store"
    else
      null;
}
