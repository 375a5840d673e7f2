{
  networking.hostId = "8425e349";

  modules.storage.datasets = {
    enable = true;
    parentDataset = "tank/services";
  };

  modules.backup.allowEveryCopyOnThisHost = true;
  modules.services.postgresql.instances.main = {
    enable = true;
    version = "17";
    memoryBudget = "4GB";
  };
}
