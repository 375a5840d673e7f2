# The modules evaluated without a machine and without nixpkgs' packages.
#
# `lib` is real nixpkgs `lib`. The NixOS options that the modules write to are declared in `nixos/`, with the names, types and
# defaults they have in NixOS, so that writing to anything else is an error. `pkgs` is a set of stand-ins whose paths lead into
# Debian's tree: the rendered units run unchanged on the machines of the lab.
{ lib }:
let
  nixFilesIn =
    directory:
    lib.mapAttrsToList (name: _: directory + "/${name}") (
      lib.filterAttrs (name: type: type == "regular" && lib.hasSuffix ".nix" name) (
        builtins.readDir directory
      )
    );

  declarations = nixFilesIn ./nixos;

  pkgs = import ./pkgs.nix { inherit lib; };
  systemd = import ./unit-text.nix { inherit lib; };

  /**
    Evaluates a host that consists of `modules`, without ours.

    # Output

    - `config`, `options`: as from `lib.evalModules`;
    - `failedAssertions`, `warnings`: lists of messages, in the order of the modules;
    - `units`: text of each systemd unit, by name ("postgresql-main.service");
    - `files`: text of each generated file, by path ("/etc/backstay/main.json");
    - `links`: target of each symbolic link, by path: what enables and aliases units;
    - `modes`: mode, user and group of each file that NixOS copies instead of linking, by path;
    - `packages`: names of what is in everyone's PATH;
    - `firewall`: the open ports, one line each;
    - `state`: all of these that describe the machine, to compare two hosts.

    A failed assertion is listed and stops nothing: units can be looked at all the same.
  */
  evalBareHost =
    modules:
    let
      evaluated = lib.evalModules {
        class = "nixos";
        modules =
          declarations
          ++ [
            (
              { config, ... }:
              {
                _file = ./default.nix;
                # As NixOS does it: each overlay sees the set with all overlays, and the set before it.
                _module.args.pkgs = lib.fix (
                  lib.foldl' (lib.flip lib.extends) (_: pkgs) config.nixpkgs.overlays
                );
              }
            )
          ]
          ++ modules;
      };
      inherit (evaluated) config options;
      rendered = systemd.render config.systemd;
      etc = import ./etc.nix { inherit lib config; };
    in
    rec {
      inherit config options;
      inherit (config) warnings;
      failedAssertions = map (assertion: assertion.message) (
        builtins.filter (assertion: !assertion.assertion) config.assertions
      );
      inherit (rendered) units;
      files = etc.files // rendered.scripts;
      links = etc.links // rendered.links;
      inherit (etc) modes;
      packages = lib.sort lib.lessThan (
        lib.unique (map lib.getName config.environment.systemPackages)
      );
      firewall = import ./firewall.nix { inherit lib; } config.networking.firewall;
      state = {
        inherit
          units
          files
          links
          modes
          packages
          firewall
          ;
      };
    };
in
{
  inherit
    evalBareHost
    nixFilesIn
    pkgs
    ;

  /**
    Evaluates a host that consists of our modules and `modules`; see `evalBareHost` for what comes out.
  */
  evalHost = modules: evalBareHost ([ ../../nixos-modules ] ++ modules);

  /**
    Whether `value` can be evaluated to its end. Catches `throw` and failed `assert`, so every error of the module system, but
    neither a missing attribute nor an infinite recursion: those end the whole evaluation.
  */
  evaluates = value: (builtins.tryEval (builtins.deepSeq value true)).success;
}
