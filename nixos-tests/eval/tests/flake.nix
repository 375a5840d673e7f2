# The flake over a stand-in for nixpkgs: its outputs are there and mean what they say. Building is for machines that can.
{
  lib,
  evalBareHost,
  evalHost,
  ...
}:
let
  flake = import ../../../flake.nix;
  lock = lib.importJSON ../../../flake.lock;

  derivation =
    arguments:
    arguments
    // {
      type = "derivation";
      name = arguments.name or arguments.pname or "unnamed";
      outPath = "/nix/store/00000000000000000000000000000000-${
        arguments.name or arguments.pname or "unnamed"
      }";
      overrideAttrs = change: derivation (arguments // change);
    };

  legacyPackages = lib.genAttrs [ "aarch64-linux" "x86_64-linux" ] (
    system:
    lib.makeExtensible (
      self:
      lib.genAttrs [
        "cargo"
        "clippy"
        "nixfmt"
        "nixfmt-tree"
        "postgresql_17"
        "restic"
        "rustc"
        "rustfmt"
        "strace"
        "zstd"
      ] (name: derivation { inherit name; })
      // {
        stdenv.hostPlatform.system = system;
        rustPlatform.buildRustPackage = derivation;
        symlinkJoin = derivation;
        mkShell = arguments: derivation (arguments // { name = "shell"; });
        writeText = name: text: derivation { inherit name text; };
        writeShellApplication =
          arguments: derivation (arguments // { meta.mainProgram = arguments.name; });
        testers.runNixOSTest = _: derivation { name = "vm"; };
      }
    )
  );

  nixpkgs = {
    inherit legacyPackages;
    lib = lib // {
      nixosSystem = arguments: { inherit arguments; };
    };
  };

  outputs = flake.outputs {
    inherit nixpkgs;
    self = outputs;
  };

  packages = outputs.packages.x86_64-linux;

  directoriesIn =
    directory:
    lib.attrNames (lib.filterAttrs (_: type: type == "directory") (builtins.readDir directory));
  programs = lib.filter (
    crate: crate != "xtask" && builtins.pathExists (../../../crates + "/${crate}/src/main.rs")
  ) (directoriesIn ../../../crates);
  areas = lib.filter (area: builtins.pathExists (../../../nixos-modules + "/${area}/default.nix")) (
    directoriesIn ../../../nixos-modules
  );
  examples = map (lib.removeSuffix ".nix") (lib.attrNames (builtins.readDir ../../examples));
in
{
  "test the only input is nixpkgs, pinned" = {
    expr = {
      declared = lib.attrNames flake.inputs;
      locked = lib.attrNames lock.nodes;
      inherit (lock.nodes.nixpkgs.locked) owner repo rev;
    };
    expected = {
      declared = [ "nixpkgs" ];
      locked = [
        "nixpkgs"
        "root"
      ];
      owner = "NixOS";
      repo = "nixpkgs";
      rev = "ffb3c9b700e759be2ef13237c9d8f953b32a1e46";
    };
  };

  "test every program is a package of its own" = {
    expr = lib.mapAttrs (_: package: package.cargoBuildFlags) (removeAttrs packages [ "default" ]);
    expected =
      lib.genAttrs programs (program: [
        "--package"
        program
      ])
      // {
        # Each of the two calls the other.
        pg-preseed = [
          "--package"
          "pg-preseed"
          "--package"
          "backstay"
        ];
      };
  };

  # An upgrade of ZFS would otherwise stop archiving.
  "test no program links a library of the system" = {
    expr = lib.filterAttrs (_: package: package ? buildInputs) packages;
    expected = { };
  };

  "test the overlay puts every program into pkgs.backstay" = {
    expr = lib.attrNames (outputs.overlays.default legacyPackages.x86_64-linux { }).backstay;
    expected = programs;
  };

  "test there is a module for every area, and one for all" = {
    expr = lib.attrNames outputs.nixosModules;
    expected = lib.sort lib.lessThan (areas ++ [ "default" ]);
  };

  "test every area evaluates alone" = {
    expr = lib.genAttrs areas (
      area: (evalBareHost [ (../../../nixos-modules + "/${area}") ]).failedAssertions
    );
    expected = lib.genAttrs areas (_: [ ]);
  };

  "test the modules bring the overlay once" = {
    expr =
      lib.length
        (evalBareHost (
          lib.attrValues outputs.nixosModules
        )).config.nixpkgs.overlays;
    expected = 1;
  };

  "test the checks hold the evaluation, the programs and every example" = {
    expr = lib.attrNames outputs.checks.x86_64-linux;
    expected = lib.sort lib.lessThan (
      [
        "evaluation"
        "programs"
        "reference"
        "rendered-examples"
      ]
      ++ map (name: "host-${name}") examples
      ++ map (name: "vm-${lib.removeSuffix ".nix" name}") (
        lib.optionals (builtins.pathExists ../../scenarios) (
          lib.attrNames (builtins.readDir ../../scenarios)
        )
      )
    );
  };

  "test the demonstration runs the story with our programs and a server" = {
    expr =
      let
        app = outputs.apps.x86_64-linux.demo;
      in
      {
        inherit (app) type;
        isPath = lib.hasPrefix "/nix/store/" app.program;
      };
    expected = {
      type = "app";
      isPath = true;
    };
  };

  "test there are a shell and a formatter" = {
    expr = [
      outputs.devShells.x86_64-linux.default.name
      outputs.formatter.x86_64-linux.name
    ];
    expected = [
      "shell"
      "nixfmt-tree"
    ];
  };

  "test the template is a host that would deploy" = {
    expr =
      let
        host = evalHost [ (outputs.templates.default.path + "/configuration.nix") ];
      in
      {
        inherit (host) failedAssertions warnings;
        runs = host.units ? "postgresql-main.service";
      };
    expected = {
      failedAssertions = [ ];
      warnings = [ ];
      runs = true;
    };
  };

  "test a program that calls others has them beside it" = {
    expr = lib.mapAttrs (_: package: lib.length (lib.splitString "ln -s" package.postInstall) - 1) (
      lib.getAttrs [
        "backstay"
        "pg-drill"
        "pg-archive-wal"
      ] packages
    );
    expected = {
      backstay = 3;
      pg-drill = 1;
      pg-archive-wal = 0;
    };
  };
}
