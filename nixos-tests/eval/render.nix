# What every example host becomes: "example/path" -> text.
#
#     nix-instantiate --eval --strict --json nixos-tests/eval/render.nix --arg lib "import <nixpkgs/lib>"
#
# Below each example:
#
#     units/postgresql-main.service    text of each systemd unit
#     etc/backstay/main.json           text of each file below /etc
#     links                            "path -> target", one a line: what enables and aliases units
#     modes                            "path mode user:group" of files in /etc that are copies and no links, if there are any
#     firewall                         open ports, if there are any
#     packages                         what is in everyone's PATH
#
# And below "scenarios" what the lab needs of each scenario; see scenarios.nix.
{
  lib ? import <nixpkgs/lib>,
}:
let
  harness = import ./. { inherit lib; };

  lines = list: lib.concatLines list;
  fileUnlessEmpty = name: list: lib.optionalAttrs (list != [ ]) { ${name} = lines list; };

  renderExample =
    file:
    let
      example = lib.removeSuffix ".nix" (baseNameOf file);
      host = harness.evalHost [ file ];
      broken = host.failedAssertions ++ host.warnings;
      rendered =
        lib.mapAttrs' (name: lib.nameValuePair "units/${name}") host.units
        // lib.mapAttrs' (path: lib.nameValuePair (lib.removePrefix "/" path)) host.files
        // fileUnlessEmpty "links" (lib.mapAttrsToList (path: target: "${path} -> ${target}") host.links)
        // fileUnlessEmpty "modes" (lib.mapAttrsToList (path: mode: "${path} ${mode}") host.modes)
        // fileUnlessEmpty "firewall" host.firewall
        // fileUnlessEmpty "packages" host.packages;
    in
    # An example that would not deploy as it stands is no example.
    assert lib.assertMsg (
      broken == [ ]
    ) "example ${example} has failed assertions or warnings:\n${lines broken}";
    lib.mapAttrs' (path: lib.nameValuePair "${example}/${path}") rendered;
in
lib.mergeAttrsList (map renderExample (harness.nixFilesIn ../examples))
// lib.mapAttrs' (path: lib.nameValuePair "scenarios/${path}") (
  import ./scenarios.nix {
    inherit lib;
    inherit (harness) nixFilesIn;
  }
)
