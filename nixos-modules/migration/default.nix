# Options that configurations from before this project may set: those of the system that its guide describes, and of what came
# after it. Where the meaning has another place the value goes there, with a warning; otherwise the message says what to
# write. Nothing is dropped without a word.
{ lib, ... }:
let
  services = [
    "modules"
    "services"
    "postgresql"
  ];
  backup = [
    "modules"
    "backup"
  ];
  notifications = [
    "modules"
    "notifications"
  ];

  removed =
    base: names: instead:
    map (name: lib.mkRemovedOptionModule (base ++ lib.splitString "." name) (instead name)) names;
  renamed =
    base: from: to:
    lib.mkRenamedOptionModule (base ++ lib.splitString "." from) (base ++ lib.splitString "." to);
in
{
  # Where a value goes to.
  imports = [
    ../notifications/options.nix
  ]
  # One server for each host: each of its options is one of an instance now.
  ++ removed services [
    "enable"
    "version"
    "package"
    "port"
    "listenAddresses"
    "openFirewall"
    "maxConnections"
    "sharedBuffers"
    "effectiveCacheSize"
    "workMem"
    "maintenanceWorkMem"
    "backup"
    "preseed"
    "recovery"
    "healthCheck"
    "monitoring"
    "extraSettings"
    "integration"
  ] (name: "Set modules.services.postgresql.instances.main.${name} instead.")
  ++ removed services [
    "preSeed"
  ] (_: "Set modules.services.postgresql.instances.main.preseed instead; its repository is one of restic.")
  ++ removed services [
    "dataRoot"
    "dataDir"
    "walArchiveDir"
  ] (_: "The places follow from the name of the instance; that of the archive is modules.services.postgresql.instances.main.backup.walArchive.directory.")
  ++ removed backup [
    "enable"
  ] (_: "A job of modules.backup.restic.jobs runs if it is declared; modules.backup.restic.enable = false stops all of them.")
  ++ removed backup [
    "zfs"
  ] (_: "Declare modules.backup.sanoid.datasets instead.")
  ++ removed backup [
    "monitoring"
  ] (_: "Failures of all units are told by modules.notifications; metrics of an instance are written by monitoring.enable.")
  ++ removed backup [
    "verification"
  ] (_: "Set modules.backup.restic.repositories.<name>.pruneSchedule and checkReadDataSubset instead: the repository is checked after each pruning.")
  ++ removed backup [
    "restoreTesting"
  ] (_: "Set modules.services.postgresql.instances.<name>.drill instead.")
  ++ removed backup [
    "validation"
    "performance"
    "security"
    "documentation"
  ] (_: "Units are checked, bounded and confined without it; resources of a job are modules.backup.restic.jobs.<name>.resources.")
  ++ removed [
    "modules"
    "storage"
  ] [ "preseed" ] (_: "Set modules.services.postgresql.instances.<name>.preseed instead.")
  ++ removed notifications [
    "pushover.defaultPriority"
    "ntfy.defaultPriority"
  ] (_: "Set modules.notifications.templates.<name>.priority instead.")
  # Every backend is tried as often and as long.
  ++ lib.concatMap (
    backend: [
      (renamed notifications "${backend}.retryAttempts" "retryAttempts")
      (renamed notifications "${backend}.timeout" "timeoutSeconds")
    ]
  ) [
    "pushover"
    "ntfy"
    "healthchecks"
  ];
}
