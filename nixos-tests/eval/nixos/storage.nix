{ lib, ... }:
let
  inherit (lib) mkOption types;

  fileSystem =
    { name, config, ... }:
    {
      options = {
        mountPoint = mkOption {
          type = types.str;
          default = name;
        };
        device = mkOption {
          type = types.nullOr types.str;
          default = null;
        };
        fsType = mkOption {
          type = types.str;
          default = "auto";
        };
        options = mkOption {
          type = types.nonEmptyListOf types.str;
          default = [ "defaults" ];
        };
        depends = mkOption {
          type = types.listOf types.str;
          default = [ ];
        };
        neededForBoot = mkOption {
          type = types.bool;
          default = false;
        };
      };
    };
in
{
  options = {
    fileSystems = mkOption {
      type = types.attrsOf (types.submodule fileSystem);
      default = { };
    };
    boot.supportedFilesystems = mkOption {
      type = types.coercedTo (types.listOf types.str) (
        names: lib.genAttrs names (_: true)
      ) (types.attrsOf types.bool);
      default = { };
    };
    boot.zfs = {
      extraPools = mkOption {
        type = types.listOf types.str;
        default = [ ];
      };
      forceImportRoot = mkOption {
        type = types.bool;
        default = true;
      };
    };
  };
}
