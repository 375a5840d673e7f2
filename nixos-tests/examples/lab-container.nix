# What the lab boots in a container, and in an emulated machine: one instance on an ordinary file system with all that needs no
# ZFS. The second copy goes to another directory, where a real host would have another machine.
{
  networking.hostName = "machine";

  # There is one disk, and it is thrown away.
  modules.backup.allowEveryCopyOnThisHost = true;

  # No secret: nobody but the tests ever has this repository.
  environment.etc."lab/restic-password".text = "lab";

  modules.backup.restic.repositories.second-copy = {
    url = "/srv/second-copy";
    passwordFile = "/etc/lab/restic-password";
    # On the root file system, which is always there.
    mountPoint = "/";
    initialize = true;
  };

  modules.services.postgresql.instances.main = {
    enable = true;
    version = "17";
    databases = [ "app" ];
    sharedBuffers = "64MB";
    effectiveCacheSize = "256MB";

    backup.restic.repositoryName = "second-copy";
    # A checkpoint that takes its time would be most of the time of a test.
    backup.baseBackup.fastCheckpoint = true;
  };
}
