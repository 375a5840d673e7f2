{
  description = "PostgreSQL that can always be brought back";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;

      forEachSystem =
        make:
        lib.genAttrs [
          "aarch64-linux"
          "x86_64-linux"
        ] (system: make (nixpkgs.legacyPackages.${system}.extend self.overlays.default));

      directoriesIn =
        directory:
        lib.attrNames (lib.filterAttrs (_: type: type == "directory") (builtins.readDir directory));
      nixFilesIn =
        directory:
        lib.optionals (builtins.pathExists directory) (
          lib.filter (lib.hasSuffix ".nix") (lib.attrNames (builtins.readDir directory))
        );
      # "on-a-new-machine.nix" becomes { on-a-new-machine = make …/on-a-new-machine.nix; }.
      fromFilesIn =
        directory: make:
        lib.listToAttrs (
          map (file: lib.nameValuePair (lib.removeSuffix ".nix" file) (make (directory + "/${file}"))) (
            nixFilesIn directory
          )
        );

      # Crates with a program in them; `xtask` is for developers and is packaged for the demonstration only.
      crates = directoriesIn ./crates;
      programs = lib.filter (
        crate: crate != "xtask" && builtins.pathExists (./crates + "/${crate}/src/main.rs")
      ) crates;

      source = lib.fileset.toSource {
        root = ./.;
        fileset = lib.fileset.unions [
          ./Cargo.lock
          ./Cargo.toml
          ./crates
          # Tests run the guides and compare the reference with the code.
          ./docs
        ];
      };

      # Programs that call others of ours, which they look for beside themselves.
      callees = {
        backstay = [
          "pg-base-backup"
          "pg-preseed"
          "pg-restore-wal"
        ];
        pg-drill = [ "backstay" ];
        pg-init = [ "backstay" ];
        pg-preseed = [
          "pg-base-backup"
          "pg-restore-wal"
        ];
      };

      # Programs that come with another one in the same derivation: each of the two calls the other, and derivations cannot.
      companions.pg-preseed = [ "backstay" ];

      # One derivation for each program, so that a host that runs two of them has the closures of two. None links libzfs: a ZFS
      # upgrade must not stop archiving, and what changes datasets runs the `zfs` of the booted system.
      build =
        pkgs: program:
        pkgs.rustPlatform.buildRustPackage {
          pname = program;
          version = (lib.importTOML ./Cargo.toml).workspace.package.version;
          src = source;
          cargoLock.lockFile = ./Cargo.lock;
          cargoBuildFlags = lib.concatMap (package: [
            "--package"
            package
          ]) ([ program ] ++ companions.${program} or [ ]);
          # All crates are tested together, as a check of this flake.
          doCheck = false;
          postInstall = lib.concatMapStrings (callee: ''
            ln -s ${build pkgs callee}/bin/${callee} $out/bin/${callee}
          '') (callees.${program} or [ ]);
          meta = {
            description = (lib.importTOML (./crates + "/${program}/Cargo.toml")).package.description;
            license = [
              lib.licenses.mit
              lib.licenses.asl20
            ];
            mainProgram = program;
            platforms = lib.platforms.linux;
          };
        };

      # The story of `cargo xtask demo`, told with programs that are built already.
      demonstration =
        pkgs:
        pkgs.writeShellApplication {
          name = "backstay-demo";
          runtimeEnv = {
            BACKSTAY_POSTGRESQL_BIN = "${pkgs.postgresql_17}/bin";
            BACKSTAY_PROGRAMS = "${
              pkgs.symlinkJoin {
                name = "backstay-programs";
                paths = lib.attrValues pkgs.backstay;
              }
            }/bin";
          };
          text = ''exec ${build pkgs "xtask"}/bin/xtask demo-story "$@"'';
        };

      areas = lib.filter (area: builtins.pathExists (./nixos-modules + "/${area}/default.nix")) (
        directoriesIn ./nixos-modules
      );
      withPackages = module: {
        imports = [
          module
          {
            # Importing several areas adds the overlay once.
            key = "backstay-overlay";
            nixpkgs.overlays = [ self.overlays.default ];
          }
        ];
      };
    in
    {
      overlays.default = final: _: { backstay = lib.genAttrs programs (build final); };

      packages = forEachSystem (pkgs: pkgs.backstay // { default = pkgs.backstay.backstay; });

      # `default` is everything; an area brings what it is built on.
      nixosModules =
        lib.genAttrs areas (area: withPackages (./nixos-modules + "/${area}"))
        // {
          default = withPackages ./nixos-modules;
        };

      checks = forEachSystem (
        pkgs:
        let
          evaluation = import ./nixos-tests/eval/run.nix { inherit lib; };
          rendered = import ./nixos-tests/eval/render.nix { inherit lib; };
          outdated = lib.filter (
            path:
            let
              file = ./nixos-tests/rendered + "/${path}";
            in
            !builtins.pathExists file || builtins.readFile file != rendered.${path}
          ) (lib.attrNames rendered);
        in
        # Modules over declarations of NixOS' options, as `cargo xtask test` runs them.
        {
          evaluation =
            if evaluation.failures == [ ] then
              pkgs.writeText "evaluation" "${toString evaluation.passed} passed\n"
            else
              throw (lib.generators.toPretty { } evaluation.failures);

          rendered-examples =
            if outdated == [ ] then
              pkgs.writeText "rendered-examples" "${toString (lib.length (lib.attrNames rendered))} files\n"
            else
              throw "nixos-tests/rendered is not current: ${toString outdated}";

          reference =
            if
              builtins.readFile ./docs/reference/options.md
              == import ./nixos-tests/eval/reference.nix { inherit lib; }
            then
              pkgs.writeText "reference" "current\n"
            else
              throw "docs/reference/options.md is not current";

          # Every test of every crate, with a server to run them on.
          programs = (build pkgs "backstay").overrideAttrs {
            pname = "backstay-tests";
            cargoBuildFlags = [ "--workspace" ];
            cargoTestFlags = [ "--workspace" ];
            doCheck = true;
            nativeCheckInputs = [
              pkgs.strace
              pkgs.zstd
            ];
            env.BACKSTAY_POSTGRESQL_BIN = "${pkgs.postgresql_17}/bin";
          };
        }
        # The same examples through all of NixOS: its own assertions hold, and every derivation of the system is known.
        // lib.mapAttrs' (name: lib.nameValuePair "host-${name}") (
          fromFilesIn ./nixos-tests/examples (
            file:
            let
              host = lib.nixosSystem {
                modules = [
                  self.nixosModules.default
                  file
                  {
                    nixpkgs.hostPlatform = pkgs.stdenv.hostPlatform.system;
                    boot.loader.grub.enable = false;
                    fileSystems."/" = {
                      device = "none";
                      fsType = "tmpfs";
                    };
                    system.stateVersion = lib.trivial.release;
                  }
                ];
              };
            in
            pkgs.writeText "toplevel" (
              builtins.unsafeDiscardStringContext host.config.system.build.toplevel.drvPath
            )
          )
        )
        # Machines that boot.
        // lib.mapAttrs' (name: lib.nameValuePair "vm-${name}") (
          fromFilesIn ./nixos-tests/scenarios (
            file:
            pkgs.testers.runNixOSTest {
              imports = [ file ];
              # The packages of a test's machines are those of the test, which has our overlay.
              defaults.imports = [ ./nixos-modules ];
            }
          )
        )
      );

      devShells = forEachSystem (pkgs: {
        default = pkgs.mkShell {
          packages = [
            pkgs.cargo
            pkgs.clippy
            pkgs.nixfmt
            pkgs.postgresql_17
            pkgs.restic
            pkgs.rustc
            pkgs.rustfmt
            pkgs.strace
            pkgs.zstd
          ];
          env.BACKSTAY_POSTGRESQL_BIN = "${pkgs.postgresql_17}/bin";
        };
      });

      formatter = forEachSystem (pkgs: pkgs.nixfmt-tree);

      apps = forEachSystem (pkgs: {
        demo = {
          type = "app";
          program = lib.getExe (demonstration pkgs);
          meta.description = "A table is dropped on a busy server and brought back, every row of it";
        };
      });

      templates.default = {
        path = ./templates/host;
        description = "A host with one PostgreSQL instance, its backups and its way back";
      };
    };
}
