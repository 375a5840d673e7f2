# A database host of the lab with copies on another host, by ssh, and in a directory.
{ lib, ... }:
{
  imports = [ ./lab-off-site.nix ];

  # A file of its own, so that a password can be wrong for one repository only.
  environment.etc."lab/second-password".text = "lab";

  modules.backup.restic.repositories.second-copy = {
    url = "/srv/second-copy";
    passwordFile = "/etc/lab/second-password";
    # On the root file system, which is always there.
    mountPoint = "/";
  };

  modules.services.postgresql.instances.main = {
    backup.restic.furtherRepositories = [ "second-copy" ];
    preseed.enable = lib.mkForce false;
    # What is late is told within a test.
    healthCheck.maxOffsiteLagSeconds = 30;
  };
}
