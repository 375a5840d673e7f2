# backstay-datasets.service: brings the declared datasets about.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.modules.storage.datasets;
  blib = import ../lib.nix { inherit lib pkgs; };
  names = import ./names.nix { inherit lib; };
  declared = import ./declared.nix { inherit lib config; };

  # Datasets that nobody declared and that have to be there for others to have a place. They are
  # made without a mount, and left alone if they exist: what else is in them is not known here.
  # Sorted by name, so parents come first. The pool itself is never made.
  containers =
    let
      above = lib.concatMap (dataset: lib.drop 1 (names.ancestorsOf dataset.dataset)) declared;
      known = map (dataset: dataset.dataset) declared;
    in
    lib.attrNames (removeAttrs (lib.genAttrs above (_: null)) known);

  settings = {
    inherit containers;
    datasets = map (dataset: {
      name = dataset.dataset;
      mountpoint = if dataset.mountpoint == null then dataset.path else dataset.mountpoint;
      owner = if dataset.path == null then null else dataset.owner;
      group = if dataset.path == null then null else dataset.group;
      mode = if dataset.path == null then null else dataset.mode;
      inherit (dataset) purpose;
      properties = dataset.properties // {
        inherit (dataset) compression recordsize;
      };
    }) declared;
  };

  users = lib.attrNames (
    lib.genAttrs (lib.concatMap (dataset: dataset.usedBy) declared) (_: null)
  );
in
{
  config = lib.mkIf cfg.enable {
    environment.etc."backstay/datasets.json".source =
      blib.settingsFile "datasets" "pg-datasets" settings;

    systemd.services.backstay-datasets = {
      description = "Create and check the declared ZFS datasets";
      # Without RemainAfterExit=, so every switch runs it again when it starts this target, and so
      # does the start of each unit that uses a dataset: what was changed by hand is found then.
      # The units want it and do not require it. A property that cannot be set, or a restart of this
      # unit, must not take a server down; that its datasets are mounted the server checks itself.
      wantedBy = [ "multi-user.target" ] ++ users;
      # Whatever works on a dataset comes after it is mounted with its owner and mode.
      before = users;
      # Before the pools are imported nothing can be told from nothing. Nothing here may come before
      # local-fs.target: this unit is after sysinit.target, as every ordinary service is, and that
      # is after local-fs.target, so it would be a circle.
      wants = [ "zfs-import.target" ];
      after = [
        "zfs-import.target"
        # Mounts the datasets that exist already. Two at once would each find the other's mounts
        # in its way.
        "zfs-mount.service"
      ];
      # A switch that comes while it runs: the old declaration is not worth finishing.
      restartTriggers = [ config.environment.etc."backstay/datasets.json".source ];
      onFailure = config.modules.notifications.onFailure "zfs-dataset-failure";
      onSuccess = config.modules.notifications.onSuccess "zfs-dataset-failure";
      # The userland that came with the running kernel's module; another version may not speak to it.
      path = [ "/run/booted-system/sw" ];
      serviceConfig = lib.mkMerge [
        blib.hardening.datasets
        {
          Type = "oneshot";
          ExecStart = blib.execStart [
            (blib.program "pg-datasets")
            "--config"
            "/etc/backstay/datasets.json"
          ];
          # A pool that is suspended answers nothing, for ever. Failing says so.
          TimeoutStartSec = "15min";
        }
      ];
    };
  };
}
