{
  modules.backup.allowEveryCopyOnThisHost = true;
  modules.services.postgresql.instances.main.enable = true;
}
