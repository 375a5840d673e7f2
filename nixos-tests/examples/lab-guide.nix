# The first instance of the guide as the lab boots it, prepared for the loss of its host and of the place that it stands in: what
# `guide-first-instance.nix` declares, a second repository in another place, and preseed.
#
# What is different is what a container has not: ZFS, PostgreSQL 16, gigabytes of memory, and sops-nix.
{ lib, ... }:
let
  secret = text: {
    f = {
      mode = "0400";
      argument = text;
    };
  };
in
{
  imports = [ ./guide-first-instance.nix ];

  modules.storage.datasets.enable = lib.mkForce false;
  modules.backup.allowEveryCopyOnThisHost = true;

  modules.backup.restic.repositories = {
    # A NAS in the same room: what is mounted there goes with it.
    nas-primary = {
      url = "/mnt/nas-backup";
      passwordFile = "/run/secrets/restic/password";
      mountPoint = "/mnt/nas-backup";
      initialize = true;
    };
    # In another place. A directory of the root file system stands for it, which the tests carry from host to host.
    offsite = {
      url = "/srv/offsite";
      passwordFile = "/run/secrets/restic/offsite-password";
      mountPoint = "/";
      initialize = true;
    };
  };

  modules.services.postgresql.instances.main = {
    version = lib.mkForce "17";
    sharedBuffers = lib.mkForce "64MB";
    effectiveCacheSize = lib.mkForce "256MB";
    workMem = lib.mkForce "4MB";
    maintenanceWorkMem = lib.mkForce "64MB";

    backup.restic.furtherRepositories = [ "offsite" ];
    # A checkpoint that takes its time would be most of the time of a test.
    backup.baseBackup.fastCheckpoint = true;

    preseed.enable = true;
    preseed.deadlineSeconds = 900;
  };

  # Nobody but the tests ever has these repositories. sops-nix would write these files, as early in the boot.
  systemd.tmpfiles.settings."10-secrets" = {
    "/run/secrets/restic/password" = secret "nas";
    "/run/secrets/restic/offsite-password" = secret "offsite";
  };
}
