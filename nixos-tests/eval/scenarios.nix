# What the lab needs of the scenarios: "<name>.py", the steps, and "<name>.json", what they are run on.
#
# A scenario is a module of NixOS' test framework, and is built as such by the flake. Here only what it says itself is looked at.
# Each node is one example host, imported from `examples/`; what else it sets is for the virtual machine of a NixOS test, since the
# lab boots the example as it is rendered.
{ lib, nixFilesIn }:
let
  inherit (lib) mkOption types;

  # Those options of the framework that scenarios use, with their types and defaults.
  declarations.options = {
    name = mkOption { type = types.str; };
    globalTimeout = mkOption {
      type = types.int;
      default = 60 * 60;
    };
    nodes = mkOption { type = types.lazyAttrsOf types.raw; };
    passthru = mkOption {
      type = types.lazyAttrsOf types.raw;
      default = { };
    };
    testScript = mkOption { type = types.str; };
  };

  runner = types.enum [
    "container"
    "machine"
  ];

  # The lab's own part.
  lab = types.submodule {
    options = {
      # Which of its runners a scenario is for. "container" has no ZFS, "machine" is slower.
      runners = mkOption { type = types.nonEmptyListOf runner; };
      # Those of them in which it takes longer than a test of everything may. It runs there when it is asked for by its name.
      onlyByName = mkOption {
        type = types.listOf runner;
        default = [ ];
      };
    };
  };

  exampleOf =
    scenario: node:
    let
      # Its imports depend on nothing that only a NixOS test can give.
      module =
        if lib.isFunction node then
          node {
            inherit lib;
            config = throw "scenario ${scenario}: the imports of a node depend on its configuration";
            pkgs = throw "scenario ${scenario}: the imports of a node depend on its packages";
          }
        else
          node;
      examples = lib.filter (file: lib.isPath file && dirOf file == ../examples) (module.imports or [ ]);
    in
    if lib.length examples == 1 then
      lib.removeSuffix ".nix" (baseNameOf (lib.head examples))
    else
      throw "scenario ${scenario}: a node imports exactly one file of nixos-tests/examples";

  render =
    file:
    let
      name = lib.removeSuffix ".nix" (baseNameOf file);
      inherit
        (lib.evalModules {
          modules = [
            declarations
            file
          ];
        })
        config
        ;
      checked = lib.evalModules {
        modules = [
          {
            options.lab = mkOption { type = lab; };
            config.lab = config.passthru.lab;
          }
        ];
      };
    in
    assert lib.assertMsg (config.name == name) "scenario ${name}: its name is ${config.name}";
    {
      "${name}.py" = config.testScript;
      "${name}.json" =
        builtins.toJSON {
          inherit (checked.config.lab) runners onlyByName;
          nodes = lib.mapAttrs (_: exampleOf name) config.nodes;
          timeLimitSeconds = config.globalTimeout;
        }
        + "\n";
    };
in
lib.mergeAttrsList (map render (nixFilesIn ../scenarios))
