# What the lab loses and gets back: the host of `lab-container.nix`, which fills an empty data directory from its copies before the
# server starts for the first time.
{
  imports = [ ./lab-container.nix ];

  modules.services.postgresql.instances.main.preseed = {
    enable = true;
    deadlineSeconds = 900;
  };
}
