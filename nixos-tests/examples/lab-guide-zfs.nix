# The first instance of the guide as the lab boots it in an emulated machine: what `guide-first-instance.nix` declares, with its
# datasets and their hourly snapshots.
#
# What is different is what the machine has not: PostgreSQL 16, gigabytes of memory, a NAS.
{ lib, ... }:
{
  imports = [ ./guide-first-instance.nix ];

  # There is one pool, and it is thrown away.
  modules.backup.allowEveryCopyOnThisHost = true;

  modules.services.postgresql.instances.main = {
    version = lib.mkForce "17";
    sharedBuffers = lib.mkForce "64MB";
    effectiveCacheSize = lib.mkForce "256MB";
    workMem = lib.mkForce "4MB";
    maintenanceWorkMem = lib.mkForce "64MB";

    backup.restic.enable = lib.mkForce false;
    # A checkpoint that takes its time would be most of the time of a test.
    backup.baseBackup.fastCheckpoint = true;
  };
}
