# What the units of restic have in common.
{
  lib,
  pkgs,
  config,
}:
let
  cfg = config.modules.backup.restic;
  blib = import ../lib.nix { inherit lib pkgs; };
  places = import ./places.nix { inherit lib config; };
  names = import ../storage/names.nix { inherit lib; };
in
rec {
  # "%" begins a specifier in a unit file.
  unitText = lib.replaceStrings [ "%" ] [ "%%" ];

  # A path in a list of paths of a unit file, where a space would end it.
  unitPath =
    path:
    let
      text = unitText path;
    in
    if builtins.match "[^[:space:]\"'\\\\]+" text != null then
      text
    else
      "\"${lib.escape [ "\\" "\"" ] text}\"";

  # The repository as people call it.
  shownRepository =
    name:
    let
      inherit (cfg.repositories.${name}) location;
    in
    unitText ("restic repository ${name}" + lib.optionalString (location != null) " (${location})");

  # Whether ProtectHome= hides it.
  inHomes =
    path:
    lib.any (home: names.isAtOrBelow home path) [
      "/home"
      "/root"
      "/run/user"
    ];

  # Options of restic for a repository. Its other protocols have deadlines of their own; without this, ssh waits for
  # hours on a connection whose other end is gone.
  extendedOptions =
    repository:
    lib.optional (lib.hasPrefix "sftp:" repository.url)
      "sftp.args=-oConnectTimeout=30 -oServerAliveInterval=15 -oServerAliveCountMax=4";

  # As a list in NixOS' own module, which writes them into a script and into a unit alike.
  quotedOptions = repository: map (option: "'${option}'") (extendedOptions repository);

  repositoryUnit = name: "restic-backups-repository-${name}.service";

  environment = {
    RESTIC_COMPRESSION = cfg.globalSettings.compression;
    RESTIC_READ_CONCURRENCY = toString cfg.globalSettings.readConcurrency;
  };

  passwordCredential = unit: "/run/credentials/${unit}.service/password";

  # The sandbox around restic, with what it needs for this repository.
  serviceConfig =
    {
      repository,
      user,
      # Whether files are backed up, and whether those of every owner.
      readsFiles ? false,
      readsEverything ? false,
      backsUpHomes ? false,
      writes ? [ ],
    }:
    let
      isDirectory = places.isDirectory repository.url;
      preset = if isDirectory then blib.hardening.helper else blib.hardening.network;
      # Whoever is not declared may have its home anywhere.
      home = config.users.users.${user}.home or "/root";
    in
    preset
    // {
      LoadCredential = [ "password:${unitText repository.passwordFile}" ];
    }
    // lib.optionalAttrs readsFiles {
      # restic stores the owner of each file. In a user namespace all but its own would be stored as
      # nobody's.
      PrivateUsers = false;
    }
    // lib.optionalAttrs (isDirectory || writes != [ ]) {
      # The repository is the one thing that restic itself writes.
      ReadWritePaths = map unitPath (
        lib.optional isDirectory (
          if repository.mountPoint != null && repository.mountPoint != "/" then
            repository.mountPoint
          else
            places.directoryOf repository.url
        )
        ++ writes
      );
    }
    # Root reads files of every owner, and needs nothing else of what root may do.
    // lib.optionalAttrs readsEverything { CapabilityBoundingSet = [ "CAP_DAC_READ_SEARCH" ]; }
    // lib.optionalAttrs (backsUpHomes || lib.hasPrefix "sftp:" repository.url && inHomes home) {
      # What is to be backed up is there, or the ssh key of the user.
      ProtectHome = "read-only";
    };

  # A directory that is only there when something is mounted is asked for. Nothing but the
  # repository's own mount: one that is away must not stop another.
  requiredMountsFor =
    repository:
    lib.optional (places.isDirectory repository.url) (unitPath (places.directoryOf repository.url));

  # Commands that fail unless something is mounted. AssertPathIsMountPoint= would keep the unit from
  # starting as well, but a unit whose assertion fails has not failed: nobody is told. With "+" they run
  # in the host's mount namespace; in that of the unit what it may write is always a mount point.
  mountChecks =
    repository: mounts:
    map
      (
        mount:
        "+"
        + blib.execStart [
          "${pkgs.util-linux}/bin/mountpoint"
          mount
        ]
      )
      (
        lib.unique (
          lib.optional (repository.mountPoint != null && repository.mountPoint != "/") repository.mountPoint
          ++ mounts
        )
      );
}
