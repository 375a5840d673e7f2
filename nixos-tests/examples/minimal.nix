# The least that is worth having: one instance on an ordinary file system, with a WAL archive, base backups, checks and rehearsed
# restores.
{
  # Nothing leaves this machine, and that is said: it would be a warning.
  modules.backup.allowEveryCopyOnThisHost = true;

  modules.services.postgresql.instances.main = {
    enable = true;
    databases = [ "app" ];
  };
}
