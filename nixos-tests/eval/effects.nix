# How `tests/every-option.nix` sets each option in the example `everything`.
#
# `names`: what "<name>" stands for. `elements`: an element for a list whose elements have options. `values`: a value where
# neither the option's example nor its default makes a difference there. `onlyMessages`: options that change an assertion or a
# warning instead of a unit or a file. `contexts`: further modules for the options that begin so, because they have a meaning
# only then.
{ lib }:
let
  instance = "modules.services.postgresql.instances.<name>";
  database = "modules.services.postgresql.databases.<name>";
  # Databases can be declared in two places, with the same options.
  inBoth =
    f:
    lib.mergeAttrsList (
      map f [
        database
        "${instance}.databases.<name>"
      ]
    );
in
{
  names = {
    "modules.backup.restic.jobs" = "immich";
    "modules.backup.restic.repositories" = "offsite";
    "modules.backup.sanoid.datasets" = "tank/services/postgresql/main";
    "modules.backup.sanoid.templates" = "production";
    "modules.notifications.templates" = "photos-not-backed-up";
    "modules.services.postgresql.instances" = "main";
    "${instance}.roles" = "standby";
    "modules.storage.datasets.services" = "immich";
    "modules.storage.datasets.utility" = "tank/media";
  }
  // inBoth (prefix: {
    ${lib.removeSuffix ".<name>" prefix} = "app";
    "${prefix}.additionalRoles" = "grafana";
    "${prefix}.defaultPrivileges" = "imports";
  });

  elements = {
    "${instance}.authentication" = {
      type = "hostssl";
      address = "192.0.2.0/24";
    };
    "${instance}.drill.checks" = {
      query = "SELECT true";
    };
  }
  // inBoth (prefix: {
    "${prefix}.extensions".name = "pg_trgm";
  });

  # Options that are there for what is said about the host, and change no unit and no file.
  onlyMessages = [
    "modules.backup.allowEveryCopyOnThisHost"
    "modules.backup.sanoid.datasets.<name>.replication.retentionDays"
    "modules.services.postgresql.memoryBudget"
  ];

  values = {
    # The examples are what the repository `offsite` says already.
    "${instance}.backup.restic.passwordFile" = "/run/secrets/main/restic-password";
    "${instance}.preseed.passwordFile" = "/run/secrets/main/restic-password";
    "${instance}.preseed.repositoryUrl" = "s3:https://s3.example.org/another-host";
    # A function, of which the documentation has the text.
    "${instance}.extraPackages" = extensions: [ extensions.postgis ];
    # Less than the instances have.
    "modules.services.postgresql.memoryBudget" = "1GB";
  };

  contexts = {
    # The database is declared in the instance instead, as it stands there.
    "${instance}.databases" =
      { pkgs, ... }:
      {
        modules.services.postgresql = {
          databases = lib.mkForce { };
          instances.main.databases.app =
            (import ../examples/everything.nix { inherit pkgs; }).modules.services.postgresql.databases.app;
        };
      };
    "${instance}.recovery" = {
      modules.services.postgresql.instances.main = {
        recovery.enable = true;
        recovery.id = "one";
        # One restore has one target.
        preseed.pitr = lib.mapAttrs (_: lib.mkForce) {
          target = "latest";
          targetValue = null;
          exclusive = false;
        };
      };
    };
    # The instance whose copies are made elsewhere.
    "modules.backup.allowEveryCopyOnThisHost".modules.services.postgresql.instances.reports.enable =
      lib.mkOverride 40 true;
    # What a restore from the replica knows the other host by.
    "modules.backup.sanoid.datasets.<name>.replication.hostKey".modules.services.postgresql.instances.main.preseed.restoreMethods =
      lib.mkForce [ "syncoid" ];
    "${instance}.recovery.exclusive".modules.services.postgresql.instances.main.recovery.targetXid = "742";
  };
}
