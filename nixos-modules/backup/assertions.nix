# Mistakes in the declaration of archive, base backups and their copies.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  blib = import ../lib.nix { inherit lib pkgs; };
  messages = import ./messages.nix { inherit lib; };
  names = import ../storage/names.nix { inherit lib; };
  places = import ./places.nix { inherit lib config; };
  sources = import ../preseed/sources.nix { inherit lib config; };
  intervalOf = import ./interval.nix { inherit lib; };
  inherit (messages)
    directoryProblem
    duration
    hasPassword
    inWords
    option
    overlap
    quote
    refuse
    ;

  inherit (config.modules.backup) restic;
  instances = lib.filterAttrs (_: instance: instance.backup.enable) (
    blib.enabled config.modules.services.postgresql.instances
  );
  ofEach = check: lib.concatLists (lib.mapAttrsToList check instances);

  # The directories of an instance that are used, each with the option that says where it is.
  directoriesOf =
    name: instance:
    let
      inherit (instance) backup;
    in
    lib.optional backup.isArchiving {
      what = "the WAL archive";
      option = option name "backup.walArchive.directory";
      path = backup.walArchive.directory;
    }
    ++ lib.optional backup.takesBaseBackups {
      what = "the base backups";
      option = option name "backup.baseBackup.directory";
      path = backup.baseBackup.directory;
    }
    ++ lib.imap0 (index: path: {
      what = "a further archive";
      option = option name "backup.walArchive.furtherDirectories.[${toString index}]";
      inherit path;
      isOnlyRead = true;
    }) backup.walArchive.furtherDirectories;

  directoryProblems =
    name: instance:
    let
      directories = directoriesOf name instance;
      wrong = lib.filter (directory: directoryProblem directory.path != null) directories;
      right = lib.subtractLists wrong directories;

      withData = lib.concatMap (
        directory:
        let
          clash = overlap directory.path instance.paths.root "where the data is";
        in
        lib.optional (clash != null) (
          refuse "${directory.option}: ${clash}, and what goes away with the data is no backup of it; choose a directory apart from it."
        )
      ) right;

      # Every pair once.
      withEachOther = lib.concatLists (
        lib.imap1 (
          index: first:
          lib.concatMap (
            second:
            let
              clash = overlap second.path first.path "the place of ${first.what}";
            in
            lib.optional (clash != null) (
              refuse "${second.option}: ${clash}; choose a directory apart from it."
            )
          ) (lib.drop index right)
        ) right
      );
    in
    map (
      directory: refuse "${directory.option}: ${quote directory.path} ${directoryProblem directory.path}."
    ) wrong
    ++ withData
    ++ withEachOther;

  # Two instances in one directory, each pair once. What is only read may be another's: a replica.
  sharedDirectories =
    let
      all = lib.concatLists (
        lib.mapAttrsToList (
          name: instance:
          map (directory: directory // { inherit name; }) (
            lib.filter (
              directory: !(directory.isOnlyRead or false) && directoryProblem directory.path == null
            ) (directoriesOf name instance)
          )
        ) instances
      );
      # Names that give every directory of two instances the same default are refused with the names.
      isDefault = directory: {
        "the WAL archive" = "/var/lib/postgresql/${directory.name}-wal";
        "the base backups" = "/var/backup/postgresql/${directory.name}";
      }.${directory.what} == directory.path;
    in
    lib.concatLists (
      lib.imap1 (
        index: first:
        lib.concatMap (
          second:
          let
            clash = overlap second.path first.path "the place of ${first.what} of ${quote first.name}";
          in
          lib.optional
            (first.name != second.name && clash != null && !(isDefault first && isDefault second))
            (refuse "${second.option}: ${clash}; give each instance a directory of its own.")
        ) (lib.drop index all)
      ) all
    )
    ++ lib.concatMap (
      directory:
      lib.concatLists (
        lib.mapAttrsToList (
          other: instance:
          let
            clash = overlap directory.path instance.paths.root "where the data of ${quote other} is";
          in
          lib.optional (other != directory.name && clash != null && !isDefault directory) (
            refuse "${directory.option}: ${clash}; choose a directory apart from it."
          )
        ) instances
      )
    ) all;

  partProblems =
    name: instance:
    let
      inherit (instance) backup;
    in
    lib.optional (backup.isArchiving && !backup.takesBaseBackups) (
      refuse "${option name "backup.baseBackup.enable"}: false leaves an archive that nothing can be restored from, since every restore starts from a base backup; set it to true, or set backup.walArchive.enable = false as well."
    )
    ++ lib.optional (backup.takesBaseBackups && !backup.isArchiving) (
      refuse "${option name "backup.walArchive.enable"}: false leaves base backups without the WAL that makes them consistent, so none would count; set it to true, or set backup.baseBackup.enable = false as well."
    );

  retentionProblems =
    name: instance:
    let
      inherit (instance.backup) baseBackup walArchive;
      interval = intervalOf baseBackup.schedule;
      days = walArchive.retentionDays;
      enough = (interval + 86399) / 86400;
    in
    lib.optional
      (instance.backup.takesBaseBackups && interval != null && days * 86400 < interval)
      (
        refuse "${option name "backup.walArchive.retentionDays"}: ${duration (days * 86400)} are shorter than the ${duration interval} between two base backups (backup.baseBackup.schedule is ${quote baseBackup.schedule}), so the window would begin with a backup from before it; use at least ${toString enough}, or take base backups more often."
      );

  compressionProblems =
    name: instance:
    let
      inherit (instance.backup.walArchive.compression) algorithm level;
    in
    lib.optional (algorithm != "zstd" && level != null) (
      refuse "${option name "backup.walArchive.compression.level"}: ${toString level} has no effect on ${quote algorithm}, only zstd has levels; leave it out, or set backup.walArchive.compression.algorithm = \"zstd\"."
    );

  baseBackupProblems =
    name: instance:
    let
      inherit (instance) version;
      inherit (instance.backup) baseBackup;
      inherit (baseBackup) format incremental tarCompression;
      at = path: option name "backup.baseBackup.${path}";
    in
    lib.optionals instance.backup.takesBaseBackups (
      lib.optional (incremental.enable && lib.versionOlder version "17") (
        refuse "${at "incremental.enable"}: incremental base backups need PostgreSQL 17, and version is ${quote version}; use a later version, or leave them off."
      )
      ++ lib.optional (incremental.enable && format == "tar") (
        refuse "${at "format"}: \"tar\" cannot be combined into a chain of incremental backups; use \"plain\", or set backup.baseBackup.incremental.enable = false."
      )
      ++ lib.optional (format == "plain" && tarCompression != "none") (
        refuse "${at "tarCompression"}: ${quote tarCompression} has no effect on the plain format; set backup.baseBackup.format = \"tar\", or leave it out and let the file system compress."
      )
      ++
        lib.optional
          (
            format == "tar"
            && lib.elem tarCompression [
              "lz4"
              "zstd"
            ]
            && lib.versionOlder version "15"
          )
          (
            refuse "${at "tarCompression"}: ${quote tarCompression} needs PostgreSQL 15, and version is ${quote version}; use \"gzip\" or a later version."
          )
    );

  snapshotProblems =
    name: instance:
    let
      at = option name "backup.baseBackup.snapshots.enable";
      dataset = (sources.datasetsOf instance).data;
      # What is known of the places of tablespaces. One that is made later is checked by pg-base-backup.
      apart = lib.filter (
        path:
        let
          found = (places.at path).dataset or null;
        in
        found != null && !names.isAtOrBelow dataset found
      ) instance.tablespaces;
    in
    lib.optionals instance.backup.takesSnapshots (
      if !instance.backup.isArchiving then
        [
          (refuse "${at}: true, and no WAL is archived, so nothing would lead on from a snapshot; set backup.walArchive.enable = true.")
        ]
      else if dataset == null then
        [
          (refuse "${at}: true, and no dataset is declared for ${quote instance.paths.root}; set modules.storage.datasets.enable = true, or declare the file system with its dataset in fileSystems.")
        ]
      else
        map (
          path:
          refuse "${at}: the tablespace ${quote path} is on the dataset ${quote (places.at path).dataset}, which is not below ${quote dataset}, that of the data, so no snapshot takes both at one moment; give it a dataset below that."
        ) apart
    );

  declaredRepositories =
    let
      names = lib.attrNames restic.repositories;
    in
    if names == [ ] then
      "none is declared"
    else
      "declared ${if lib.length names == 1 then "is" else "are"} ${inWords (map quote names)}";

  resticProblems =
    name: instance:
    let
      cfg = instance.backup.restic;
      inherit (cfg) repositoryName repositoryUrl resolved;
      at = path: option name "backup.restic.${path}";
      declaredUrl = restic.repositories.${resolved.name}.url or null;
    in
    lib.optionals cfg.enable (
      if repositoryName == null && repositoryUrl == null then
        [
          (refuse "${at "enable"}: true, and no repository is named; set backup.restic.repositoryName to a repository of modules.backup.restic.repositories (${declaredRepositories}), or set backup.restic.repositoryUrl and passwordFile.")
        ]
      else if resolved.url == null then
        [
          (refuse "${at "repositoryName"}: ${quote repositoryName} is not in modules.backup.restic.repositories (${declaredRepositories}), and repositoryUrl is not set; declare it there, or set repositoryUrl and passwordFile here.")
        ]
      else if repositoryUrl != null && hasPassword repositoryUrl then
        [
          # The URL is not shown: messages end up in logs.
          (refuse "${at "repositoryUrl"}: it has a password in it, and it becomes part of the Nix store, where every user can read it; put the password into environmentFile, as RESTIC_REST_PASSWORD.")
        ]
      else
        lib.optional (resolved.passwordFile == null) (
          refuse "${at "passwordFile"}: the repository ${quote resolved.url} has no password file, and restic stores nothing without a password; write the path of a file with the password, such as \"/run/secrets/restic-password\"."
        )
        ++ lib.optional (declaredUrl != null && declaredUrl != resolved.url) (
          refuse "${at "repositoryUrl"}: ${quote resolved.url} is not the place of the repository ${quote resolved.name}, which is declared as ${quote declaredUrl}; leave it out, or use another repositoryName."
        )
    )
    ++ lib.concatMap (
      further:
      if further == resolved.name then
        [
          (refuse "${at "furtherRepositories"}: ${quote further} is the first repository already; leave it out.")
        ]
      else if (restic.repositories.${further} or { }).url or null == null then
        [
          (refuse "${at "furtherRepositories"}: ${quote further} is not in modules.backup.restic.repositories (${declaredRepositories}); declare it there with its url, or leave it out.")
        ]
      else
        lib.optional (restic.repositories.${further}.passwordFile == null) (
          refuse "${at "furtherRepositories"}: ${quote further} has no password file, and restic stores nothing without a password; set modules.backup.restic.repositories.${further}.passwordFile."
        )
    ) (lib.unique cfg.furtherRepositories)
    ++ lib.optional (!cfg.enable && cfg.furtherRepositories != [ ]) (
      refuse "${at "furtherRepositories"}: ${inWords (map quote cfg.furtherRepositories)} ${
        if lib.length cfg.furtherRepositories == 1 then "is" else "are"
      } named, and nothing is copied; set backup.restic.repositoryName, or leave the list empty."
    );

  # Snapshots go wherever their dataset is replicated to. sanoid on the target prunes what has names of its own.
  snapshotWarnings =
    name: instance:
    let
      dataset = (sources.datasetsOf instance).data;
      replica = if dataset == null then null else config.modules.backup.sanoid.replicationOf dataset;
      kept = config.modules.backup.sanoid.datasets.${replica.source}.replication.retentionDays;
    in
    lib.optional (instance.backup.takesSnapshots && replica != null && kept == null)
      "${option name "backup.baseBackup.snapshots.enable"}: the dataset ${quote dataset} is replicated to ${quote replica.dataset}, which gets these snapshots too, and sanoid destroys none of them there; have the target destroy those named backstay-*, and say after how long in modules.backup.sanoid.datasets.${quote replica.source}.replication.retentionDays.";

  # Days that a base backup is kept for by the calendar, at most.
  reach =
    { daily, weekly, monthly, ... }:
    lib.foldl' lib.max daily [
      (weekly * 7)
      (monthly * 31)
    ];

  retentionWarnings =
    name: instance:
    let
      inherit (instance.backup) baseBackup walArchive;
      kept = reach baseBackup.retention;
    in
    # The defaults mean what they do: older backups are spots, not windows. Who sets a rule may expect more.
    lib.optional
      (
        instance.backup.takesBaseBackups
        && baseBackup.retention.isDeclared
        && kept > walArchive.retentionDays
      )
      "${option name "backup.baseBackup.retention"}: base backups are kept for up to ${toString kept} days, and the WAL for every second of ${toString walArchive.retentionDays} (backup.walArchive.retentionDays); of the time before that, only the moments at which a base backup ended can be restored. Set retentionDays = ${toString kept} if every second is wanted.";
in
{
  config = {
    assertions = lib.concatLists [
      (ofEach partProblems)
      (ofEach directoryProblems)
      sharedDirectories
      (ofEach retentionProblems)
      (ofEach compressionProblems)
      (ofEach baseBackupProblems)
      (ofEach snapshotProblems)
      (ofEach resticProblems)
    ];
    warnings = ofEach retentionWarnings ++ ofEach snapshotWarnings;
  };
}
