# Presets of blib.hardening with what single units need beyond them, each with its reason.
{ lib, pkgs }:
let
  blib = import ../lib.nix { inherit lib pkgs; };
  inherit (blib.hardening) datasets helper;
in
{
  # A program that works on datasets and runs a server on what it got there.
  datasets =
    { network }:
    removeAttrs datasets (
      # A replica is fetched over ssh, a repository over whatever restic speaks.
      lib.optionals network [
        "IPAddressDeny"
        "PrivateNetwork"
      ]
    )
    // {
      CapabilityBoundingSet = datasets.CapabilityBoundingSet ++ [
        # PostgreSQL refuses to run as root, so the server that replays the WAL is started, and stopped
        # again, as the user of the instance.
        "CAP_SETUID"
        "CAP_SETGID"
      ];
    }
    // lib.optionalAttrs network {
      RestrictAddressFamilies = [
        "AF_UNIX"
        "AF_INET"
        "AF_INET6"
      ];
    };

  # A program that reads a restic repository in a directory. Its files belong to root, who stored them.
  readingEverything = helper // {
    CapabilityBoundingSet = [ "CAP_DAC_READ_SEARCH" ];
    AmbientCapabilities = [ "CAP_DAC_READ_SEARCH" ];
    # In a user namespace of the unit the capability would hold for the unit's own files only.
    PrivateUsers = false;
  };
}
