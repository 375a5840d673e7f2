# Presets of blib.hardening with what single units need beyond them, each with its reason.
rec {
  # A program that reads snapshots: they are listed over /dev/zfs, which anybody may ask, and their files
  # are below .zfs, where they belong to whom they belong in the dataset. It changes no dataset.
  readingSnapshots =
    preset:
    preset
    // {
      DeviceAllow = [ "/dev/zfs rw" ];
      # PrivateDevices= leaves it out. "-": without the module there is none, and no snapshot either.
      BindPaths = [ "-/dev/zfs" ];
    };

  # A program that asks ZFS for properties, which anybody may. It changes no dataset.
  askingZfs =
    preset:
    readingSnapshots preset
    // {
      # To a user namespace of its own ZFS shows only datasets that were handed to it (zfs_zone(8)), and says
      # of all others that they do not exist.
      PrivateUsers = false;
    };

  # A program that reads a restic repository in a directory. Its files may belong to root, who stored them.
  readingEverything =
    preset:
    preset
    // {
      CapabilityBoundingSet = [ "CAP_DAC_READ_SEARCH" ];
      AmbientCapabilities = [ "CAP_DAC_READ_SEARCH" ];
      # In a user namespace of the unit the capability would hold for the unit's own files only.
      PrivateUsers = false;
    };
}
