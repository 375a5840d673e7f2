{ lib, ... }:
let
  inherit (lib) mkOption types;
in
{
  options = {
    assertions = mkOption {
      type = types.listOf types.unspecified;
      internal = true;
      default = [ ];
    };
    warnings = mkOption {
      type = types.listOf types.str;
      internal = true;
      default = [ ];
    };
    nixpkgs.overlays = mkOption {
      type = types.listOf (
        lib.mkOptionType {
          name = "nixpkgs-overlay";
          description = "nixpkgs overlay";
          check = lib.isFunction;
          merge = lib.mergeOneOption;
        }
      );
      default = [ ];
    };
    time.timeZone = mkOption {
      type = types.nullOr (
        types.addCheck types.str (zone: !lib.hasInfix " " zone) // { description = "null or string without spaces"; }
      );
      default = null;
    };
    system.stateVersion = mkOption {
      type = types.str;
      default = "26.11";
    };
  };
}
