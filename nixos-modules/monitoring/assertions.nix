# Mistakes in the declaration of checks, objectives and drills.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  blib = import ../lib.nix { inherit lib pkgs; };
  messages = import ../backup/messages.nix { inherit lib; };
  intervalOf = import ../backup/interval.nix { inherit lib; };
  sources = import ../preseed/sources.nix { inherit lib config; };
  declared = import ../provision/declared.nix { inherit lib config; };
  inherit (messages)
    directoryProblem
    duration
    option
    overlap
    quote
    refuse
    ;

  instances = blib.enabled config.modules.services.postgresql.instances;
  drilled = lib.filterAttrs (_: instance: instance.drill.enable) instances;
  ofEach = check: lib.concatLists (lib.mapAttrsToList check instances);

  # A drill empties its directory.
  drillDirectoryProblems =
    name: instance:
    let
      at = option name "drill.directory";
      inherit (instance.drill) directory;
      problem = directoryProblem directory;
      taken = lib.concatLists (
        lib.mapAttrsToList (
          other: one:
          map (place: place // { inherit other; }) (
            [
              {
                what = "data";
                path = one.paths.root;
              }
              {
                what = "WAL archive";
                path = one.paths.archive;
              }
              {
                what = "base backups";
                path = one.paths.backups;
              }
              {
                what = "records";
                path = one.paths.state;
              }
              {
                what = "metrics";
                path = one.paths.metrics;
              }
            ]
            # Of a pair of drills the later name complains.
            ++ lib.optional (drilled ? ${other} && other < name) {
              what = "restore drills";
              path = one.drill.directory;
            }
          )
        ) instances
      );
      clash = lib.findFirst (text: text != null) null (
        map (
          place: overlap directory place.path "the place of the ${place.what} of ${quote place.other}"
        ) taken
      );
    in
    lib.optionals instance.drill.enable (
      if problem != null then
        [ (refuse "${at}: ${quote directory} ${problem}.") ]
      else
        lib.optional (clash != null) (
          refuse "${at}: ${clash}, and a drill empties its directory; choose one that nothing else uses."
        )
    );

  drillProblems =
    name: instance:
    let
      inherit (instance) backup drill;
      at = path: option name "drill.${path}";
      uses = lib.flip lib.elem drill.sources;
      inherit (backup.restic) resolved;
    in
    lib.optionals drill.enable (
      lib.optional (drill.sources == [ ]) (
        refuse "${at "sources"}: the list is empty, so there is nothing to restore; name \"local\", \"restic\" or \"snapshot\", or set drill.enable = false."
      )
      ++ lib.optional (uses "local" && !backup.takesBaseBackups) (
        refuse "${at "sources"}: \"local\" restores a base backup, and backup.baseBackup.enable or backup.enable is false; take base backups, or set drill.enable = false."
      )
      ++
        lib.optional
          (
            uses "restic"
            && !(
              backup.enable && backup.restic.enable && resolved.url != null && resolved.passwordFile != null
            )
          )
          (
            refuse "${at "sources"}: \"restic\" has no repository; set backup.restic.repositoryName, or leave \"restic\" out."
          )
      ++ lib.optional (uses "snapshot" && (sources.datasetsOf instance).data == null) (
        refuse "${at "sources"}: \"snapshot\" needs the data on ZFS, and no dataset is declared at ${quote instance.paths.root}; set modules.storage.datasets.enable = true, or leave \"snapshot\" out."
      )
    );

  # The canary writes all the time, and what else is in its database would be restored as the drill wants it.
  canaryProblems =
    name: instance:
    let
      inherit (instance.drill.canary) database enable;
      at = option name "drill.canary.database";
      isDeclared = lib.any (other: other.name == database) (declared.of name).databases;
    in
    lib.optionals (instance.drill.enable && enable) (
      if
        lib.elem database [
          "postgres"
          "template0"
          "template1"
        ]
      then
        [
          (refuse "${at}: ${quote database} is a database of PostgreSQL's own, and the canary needs one to itself; choose another name.")
        ]
      else
        lib.optional isDeclared (
          refuse "${at}: ${quote database} is a declared database too, and the canary needs one to itself; choose another name."
        )
    );

  objectiveProblems =
    name: instance:
    let
      inherit (instance) backup objectives;
      at = path: option name "objectives.${path}";
      # Copied off-site by something of ours, or by something of the user's.
      isCopied =
        backup.enable && backup.restic.enable
        || !instance.integration.backup.enable
        || (sources.replicasOf instance).archive != null
        || (sources.replicasOf instance).data != null;
    in
    lib.optional (objectives.rpoSeconds != null && !backup.isArchiving) (
      refuse "${at "rpoSeconds"}: ${toString objectives.rpoSeconds} is promised, and nothing is archived; set backup.enable and backup.walArchive.enable to true, or leave the objective out."
    )
    ++ lib.optional (objectives.offsiteRpoSeconds != null && !isCopied) (
      refuse "${at "offsiteRpoSeconds"}: ${toString objectives.offsiteRpoSeconds} is promised, and nothing leaves this host; set backup.restic.repositoryName, replicate the datasets, or leave the objective out."
    );

  objectiveWarnings =
    name: instance:
    let
      inherit (instance) backup objectives;
      inherit (backup.walArchive) archiveTimeout syncInterval;
      at = path: option name "objectives.${path}";
      interval = intervalOf syncInterval;
    in
    lib.optional
      (objectives.rpoSeconds != null && backup.isArchiving && archiveTimeout > objectives.rpoSeconds)
      "${at "rpoSeconds"}: ${duration objectives.rpoSeconds} cannot be kept, since a change may wait ${duration archiveTimeout} before it is archived; set backup.walArchive.archiveTimeout to less than ${toString objectives.rpoSeconds}."
    ++
      lib.optional
        (
          objectives.offsiteRpoSeconds != null
          && backup.copiesOffSite
          && interval != null
          && archiveTimeout + interval > objectives.offsiteRpoSeconds
        )
        "${at "offsiteRpoSeconds"}: ${duration objectives.offsiteRpoSeconds} cannot be kept, since a change may wait ${duration archiveTimeout} before it is archived (backup.walArchive.archiveTimeout) and ${duration interval} before the archive is copied (backup.walArchive.syncInterval); shorten them.";
in
{
  config = {
    assertions = lib.concatLists [
      (ofEach drillDirectoryProblems)
      (ofEach drillProblems)
      (ofEach canaryProblems)
      (ofEach objectiveProblems)
    ];
    warnings = ofEach objectiveWarnings;
  };
}
