# All areas. Each is a directory whose default.nix can also be imported alone; it imports what it
# reads of the others.
{ lib, ... }:
let
  isArea = name: type: type == "directory" && builtins.pathExists (./. + "/${name}/default.nix");
in
{
  imports = map (name: ./. + "/${name}") (
    builtins.attrNames (lib.filterAttrs isArea (builtins.readDir ./.))
  );
}
