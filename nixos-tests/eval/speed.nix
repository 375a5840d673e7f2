# Evaluates a host with many instances to the end and says how much text came out: what `cargo xtask` times.
#
#     nix-instantiate --eval --strict nixos-tests/eval/speed.nix --arg instances 50
{
  lib ? import <nixpkgs/lib>,
  instances ? 1,
}:
let
  harness = import ./. { inherit lib; };
  host = harness.evalHost [
    {
      modules.services.postgresql.instances = lib.listToAttrs (
        lib.genList (
          index:
          lib.nameValuePair "db${toString index}" {
            enable = true;
            port = 5432 + index;
            databases = [ "app" ];
          }
        ) instances
      );
      modules.services.postgresql.defaultInstance = "db0";
    }
  ];
  length = texts: lib.foldl' (sum: text: sum + builtins.stringLength text) 0 (lib.attrValues texts);
in
assert lib.assertMsg (host.failedAssertions == [ ]) (lib.concatLines host.failedAssertions);
length host.units + length host.files + length host.links
