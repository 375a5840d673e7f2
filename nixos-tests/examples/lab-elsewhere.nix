# The host of the lab that keeps other hosts' copies. They reach it by ssh.
{
  networking.hostName = "elsewhere";

  # Small enough to be filled by a test.
  systemd.mounts = [
    {
      description = "Copies of other hosts";
      what = "tmpfs";
      where = "/srv/copies";
      type = "tmpfs";
      options = "mode=0700,size=1G";
      wantedBy = [ "local-fs.target" ];
    }
  ];
}
