# E19: options of the systems that came before are not dropped without a word.
{ lib, evalHost, ... }:
let
  host = module: evalHost [ module ];
  # The first line of such a message names the file that sets the option, which here is none.
  wayOut =
    module:
    map (message: lib.last (lib.splitString "\n" (lib.trim message))) (host module).failedAssertions;
in
{
  "test E19 a server of the host becomes an instance" = {
    expr = map wayOut [
      { modules.services.postgresql.enable = true; }
      { modules.services.postgresql.backup.walArchive.enable = true; }
      { modules.services.postgresql.preSeed.enable = true; }
      { modules.services.postgresql.dataRoot = "/var/lib/postgresql"; }
    ];
    expected = [
      [ "Set modules.services.postgresql.instances.main.enable instead." ]
      [ "Set modules.services.postgresql.instances.main.backup instead." ]
      [
        "Set modules.services.postgresql.instances.main.preseed instead; its repository is one of restic."
      ]
      [
        "The places follow from the name of the instance; that of the archive is modules.services.postgresql.instances.main.backup.walArchive.directory."
      ]
    ];
  };

  "test E19 what a backup of the whole host was made of says where it is now" = {
    expr = map wayOut [
      { modules.backup.enable = true; }
      { modules.backup.zfs.enable = true; }
      { modules.backup.monitoring.enable = true; }
      { modules.backup.verification.schedule = "weekly"; }
      { modules.backup.restoreTesting.enable = true; }
      { modules.backup.performance.cacheDir = "/var/cache/restic"; }
      { modules.storage.preseed.enable = true; }
      { modules.notifications.pushover.defaultPriority = 1; }
    ];
    expected = [
      [
        "A job of modules.backup.restic.jobs runs if it is declared; modules.backup.restic.enable = false stops all of them."
      ]
      [ "Declare modules.backup.sanoid.datasets instead." ]
      [
        "Failures of all units are told by modules.notifications; metrics of an instance are written by monitoring.enable."
      ]
      [
        "Set modules.backup.restic.repositories.<name>.pruneSchedule and checkReadDataSubset instead: the repository is checked after each pruning."
      ]
      [ "Set modules.services.postgresql.instances.<name>.drill instead." ]
      [
        "Units are checked, bounded and confined without it; resources of a job are modules.backup.restic.jobs.<name>.resources."
      ]
      [ "Set modules.services.postgresql.instances.<name>.preseed instead." ]
      [ "Set modules.notifications.templates.<name>.priority instead." ]
    ];
  };

  "test E19 the message names the option as it was written" = {
    expr = (host { modules.backup.zfs.enable = true; }).failedAssertions;
    expected = [
      "The option definition `modules.backup.zfs' in `<unknown-file>' no longer has any effect; please remove it.\nDeclare modules.backup.sanoid.datasets instead.\n"
    ];
  };

  "test E19 a value that has another place goes there, with a warning" = {
    expr =
      let
        evaluated = host {
          modules.notifications.pushover = {
            retryAttempts = 7;
            timeout = 42;
          };
        };
      in
      {
        inherit (evaluated.config.modules.notifications) retryAttempts timeoutSeconds;
        inherit (evaluated) warnings failedAssertions;
      };
    expected = {
      retryAttempts = 7;
      timeoutSeconds = 42;
      warnings = [
        "The option `modules.notifications.pushover.timeout' defined in `<unknown-file>' has been renamed to `modules.notifications.timeoutSeconds'."
        "The option `modules.notifications.pushover.retryAttempts' defined in `<unknown-file>' has been renamed to `modules.notifications.retryAttempts'."
      ];
      failedAssertions = [ ];
    };
  };

  "test E19 a host that sets none of them hears nothing" = {
    expr = {
      inherit (host { }) warnings failedAssertions;
    };
    expected = {
      warnings = [ ];
      failedAssertions = [ ];
    };
  };
}
