# What the units of our programs have in common that work for one instance: who they run as, where
# they may write, and what has to be mounted before.
{ lib, pkgs }:
let
  blib = import ../lib.nix { inherit lib pkgs; };
in
{
  name,
  instance,
  program,
  # What comes before the settings file on the command line.
  words ? [ ],
  # What follows it.
  arguments ? [ ],
  # A program that follows if this one succeeds, with its arguments.
  followedBy ? null,
  # One of blib.hardening.
  preset,
  # Directories that the program writes, beside the metrics.
  writable ? [ ],
  # Mount points that the program needs, beside those of data and archive.
  mounts ? [ ],
}:
let
  hasMountNamespace = preset ? ProtectSystem;
  command =
    program: words: arguments:
    blib.execStart (
      [ (blib.program program) ]
      ++ words
      ++ [
        "--config"
        instance.paths.settingsFile
      ]
      ++ arguments
    );
in
lib.mkMerge [
  {
    # A switch must not cut a backup, a check or a restore short; the next run takes the new settings.
    restartIfChanged = lib.mkDefault false;
    # Mounts them if that has not been done. What is not mounted all the same is found by the program,
    # since an archive and base backups say whose they are, and a directory that says nothing is
    # refused. An Assert…= here would stop the unit without making it fail, and nobody would be told.
    unitConfig.RequiresMountsFor = lib.unique (instance.requiredMounts ++ mounts);
    serviceConfig = lib.mkMerge [
      preset
      {
        Type = lib.mkDefault "oneshot";
        ExecStart =
          if followedBy == null then
            command program words arguments
          else
            [
              (command program words arguments)
              (command followedBy.program [ ] followedBy.arguments)
            ];
        # How long a copy takes depends on the size of the data. What must not take long has a
        # deadline in its settings.
        TimeoutStartSec = lib.mkDefault "infinity";
        # If memory runs out, this goes before the server does.
        OOMScoreAdjust = 500;
      }
      (lib.mkIf (!preset ? User) {
        User = instance.user;
        Group = instance.group;
      })
      (lib.mkIf hasMountNamespace {
        ReadWritePaths = writable ++ lib.optional instance.monitoring.enable instance.paths.metrics;
      })
    ];
  }
]
