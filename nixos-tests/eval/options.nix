# Every option of ours, those of submodules included, in the order of their names.
{ lib }:
let
  collect =
    options:
    lib.concatMap (
      option:
      let
        below = option.type.getSubOptions option.loc;
      in
      [ option ] ++ lib.optionals (below != { }) (collect below)
    ) (lib.collect lib.isOption options);

  # `_module` is the module system's own, in every submodule.
  isOurs = option: !lib.elem "_module" option.loc;
  isForUsers = option: !(option.internal or false) && (option.visible or true) == true;
in
options:
lib.sort (a: b: a.loc < b.loc) (
  lib.filter (option: isOurs option && isForUsers option) (collect options.modules)
)
