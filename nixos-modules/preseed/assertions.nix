# Mistakes in the declaration of restores.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  blib = import ../lib.nix { inherit lib pkgs; };
  messages = import ../backup/messages.nix { inherit lib; };
  places = import ../backup/places.nix { inherit lib config; };
  restic = import ../restic/places.nix { inherit lib config; };
  storageNames = import ../storage/names.nix { inherit lib; };
  sources = import ./sources.nix { inherit lib config; };
  targets = import ./target.nix { inherit lib; };
  inherit (messages)
    hasPassword
    inWords
    option
    quote
    refuse
    ;

  inherit (config.modules.backup) sanoid;
  instances = blib.enabled config.modules.services.postgresql.instances;
  preseeding = lib.filterAttrs (_: instance: instance.preseed.enable) instances;
  recovering = lib.filterAttrs (_: instance: instance.recovery.enable) instances;
  ofEach = check: of: lib.concatLists (lib.mapAttrsToList check of);

  # What a method lacks, as a message, or null.
  methodProblem =
    name: instance: method:
    let
      at = option name "preseed.restoreMethods";
      datasets = sources.datasetsOf instance;
      replica = (sources.replicasOf instance).data;
      inherit (instance.preseed) repository;
      without = "or leave ${quote method} out";
      noDataset = "${at}: ${quote method} needs the data on ZFS, and no dataset is declared at ${quote instance.paths.root}; set modules.storage.datasets.enable = true, ${without}.";
      noArchive =
        if instance.backup.isArchiving then
          null
        else
          "${at}: ${quote method} goes on from a snapshot through the WAL archive of this host, and ${
            if instance.backup.enable then "backup.walArchive.enable" else "backup.enable"
          } is false; archive, ${without}.";
      replication = "modules.backup.sanoid.datasets.${quote (toString datasets.data)}.replication";
    in
    {
      syncoid =
        if datasets.data == null then
          noDataset
        else if replica == null then
          "${at}: ${quote method} has no replica to fetch, since ${quote datasets.data} is not replicated; set ${replication}, ${without}."
        else if replica.local then
          "${at}: ${quote method} fetches a replica from another host, and ${quote replica.dataset} is on this one; set ${replication}.targetHost, ${without}."
        else if !sources.isDeclaredDataset datasets.data then
          "${at}: ${quote method} has what it received mounted by backstay-datasets.service, and ${quote datasets.data} is not declared in modules.storage.datasets; declare it there, ${without}."
        else
          # Without a pinned key or a key to log in with the replication itself is refused.
          noArchive;
      local = if datasets.data == null then noDataset else noArchive;
      restic =
        if repository.url == null then
          "${at}: ${quote method} has no repository; set preseed.repositoryUrl or backup.restic.repositoryName, ${without}."
        else if repository.passwordFile == null then
          "${at}: ${quote method} has no password for the repository ${quote repository.url}; set preseed.passwordFile, ${without}."
        else
          null;
      baseBackups =
        if instance.backup.takesBaseBackups then
          null
        else
          "${at}: ${quote method} restores from base backups on this host, and none are taken; set backup.baseBackup.enable = true, ${without}.";
    }
    .${method};

  sourceProblems =
    name: instance:
    let
      methods = lib.unique instance.preseed.restoreMethods;
      url = instance.preseed.repositoryUrl;
    in
    (
      if methods == [ ] then
        [
          (refuse "${option name "preseed.restoreMethods"}: there is nothing to restore from: no replica, no dataset, no repository and no base backups; declare one of them, or set preseed.enable = false.")
        ]
      else
        map refuse (
          lib.filter (problem: problem != null) (map (methodProblem name instance) methods)
        )
    )
    ++ lib.optional (url != null && hasPassword url) (
      # The URL is not shown: messages end up in logs.
      refuse "${option name "preseed.repositoryUrl"}: it has a password in it, and it becomes part of the Nix store, where every user can read it; put the password into preseed.environmentFile, as RESTIC_REST_PASSWORD."
    );

  # A snapshot of the data is restored together with the archive, and ZFS takes snapshots of several
  # datasets in one step within a pool only.
  poolProblems =
    name: instance:
    let
      datasets = sources.datasetsOf instance;
      pool = storageNames.poolOf;
      usesSnapshots = lib.any (lib.flip lib.elem [
        "syncoid"
        "local"
      ]) instance.preseed.restoreMethods;
    in
    lib.optional
      (
        usesSnapshots
        && datasets.data != null
        && datasets.archive != null
        && pool datasets.data != pool datasets.archive
      )
      (
        refuse "${option name "backup.walArchive.directory"}: the archive is on ${quote datasets.archive} and the data on ${quote datasets.data}, and snapshots of two pools are never of the same moment, so preseed.restoreMethods could restore an archive that is older than the data; put both on one pool, or leave \"syncoid\" and \"local\" out."
      );

  # One target, of the right kind, with a value that PostgreSQL and we understand.
  targetProblems =
    {
      kind,
      value,
      # The names of the options for kind and value.
      kindOption,
      valueOption,
      exclusive,
      exclusiveOption,
      # How they are called in full.
      at,
    }:
    let
      takesValue = lib.elem kind targets.kinds;
      problem = targets.problem kind value;
    in
    (
      if takesValue && value == null then
        [
          (refuse "${at kindOption}: ${quote kind} needs a value; set ${valueOption}.")
        ]
      else
        lib.optional (takesValue && problem != null) (
          refuse "${at valueOption}: ${quote value} ${problem}."
        )
    )
    ++ lib.optional (exclusive && !targets.mayBeExclusive kind) (
      refuse "${at exclusiveOption}: true has no meaning for the target ${quote kind}, only for a time, a transaction and an address; leave it out."
    );

  pitrProblems =
    name: instance:
    let
      inherit (instance.preseed) asStandby pitr;
      at = path: option name "preseed.${path}";
    in
    targetProblems {
      at = option name;
      kind = pitr.target;
      value = pitr.targetValue;
      kindOption = "preseed.pitr.target";
      valueOption = "preseed.pitr.targetValue";
      inherit (pitr) exclusive;
      exclusiveOption = "preseed.pitr.exclusive";
    }
    ++ lib.optional (!lib.elem pitr.target targets.kinds && pitr.targetValue != null) (
      refuse "${at "pitr.targetValue"}: ${quote pitr.targetValue} is no part of the target ${quote pitr.target}; set preseed.pitr.target to the kind it is, or leave it out."
    )
    ++ lib.optional (pitr.target != "latest" && !instance.backup.isArchiving) (
      refuse "${at "pitr.target"}: ${quote pitr.target} is reached through the archive, and backup.walArchive.enable or backup.enable is false; archive, or recover to \"latest\"."
    )
    ++ lib.optional (asStandby && pitr.target != "latest") (
      refuse "${at "asStandby"}: a standby goes on to the newest change, and preseed.pitr.target is ${quote pitr.target}; leave one of them out."
    );

  ownTargets = {
    time = "targetTime";
    xid = "targetXid";
    name = "targetName";
    lsn = "targetLsn";
  };

  recoveryProblems =
    name: instance:
    let
      inherit (instance) backup preseed recovery;
      at = path: option name "recovery.${path}";
      set = lib.filter (kind: recovery.${ownTargets.${kind}} != null) targets.kinds;
      wanted = ownTargets.${recovery.target} or null;
      stray = lib.filter (kind: kind != recovery.target) set;
    in
    lib.optional (recovery.id == null) (
      refuse "${at "id"}: not set, so nobody could tell whether this recovery has been done, and each start of the server would do it again; give it a name, such as \"2026-10-11-orders-dropped\", and each later recovery another one."
    )
    ++ lib.optional (!backup.takesBaseBackups || !backup.isArchiving) (
      refuse "${at "enable"}: a recovery starts from a base backup and replays the archive, and ${
        if !backup.enable then
          "backup.enable"
        else if !backup.takesBaseBackups then
          "backup.baseBackup.enable"
        else
          "backup.walArchive.enable"
      } is false; set it to true."
    )
    ++ (
      if lib.length set > 1 then
        [
          (refuse "${option name "recovery"}: ${inWords (map (kind: ownTargets.${kind}) set)} are set, and a recovery has one target; keep one of them.")
        ]
      else
        lib.optional (stray != [ ]) (
          refuse "${at "target"}: ${quote recovery.target} is another target than recovery.${ownTargets.${lib.head stray}}, which is set too; keep one of them."
        )
        ++ lib.optionals (stray == [ ]) (targetProblems {
          kind = recovery.target;
          value = if wanted == null then null else recovery.${wanted};
          at = option name;
          kindOption = "recovery.target";
          valueOption = "recovery.${toString wanted}";
          inherit (recovery) exclusive;
          exclusiveOption = "recovery.exclusive";
        })
    )
    ++ lib.optional (preseed.enable && preseed.pitr.target != "latest") (
      refuse "${at "enable"}: true beside preseed.pitr.target = ${quote preseed.pitr.target} is two targets for one cluster; leave one of them out."
    )
    ++ lib.optional (preseed.enable && preseed.asStandby) (
      refuse "${at "enable"}: true beside preseed.asStandby would promote the standby; leave one of them out."
    );

  # A secret of the preseed alone. Those of declared repositories are looked at with them.
  secretWarnings =
    name: instance:
    lib.concatMap (
      file:
      let
        path = instance.preseed.${file};
        dataset = if path == null then null else (places.at path).dataset or null;
      in
      lib.optional (dataset != null && lib.elem "restic" instance.preseed.restoreMethods)
        "${option name "preseed.${file}"}: ${quote path} is on the dataset ${quote dataset}, which is lost together with what this file is needed to bring back; keep it where this host's disks are not, and put it on the host apart from the datasets."
    ) [
      "passwordFile"
      "environmentFile"
    ];

  repositoryWarnings =
    name: instance:
    let
      inherit (instance.preseed.repository) url;
      mine = (places.at instance.paths.root).place or null;
      theirs = (places.at (restic.directoryOf url)).place or null;
    in
    lib.optional
      (
        instance.preseed.repositoryUrl != null
        && lib.elem "restic" instance.preseed.restoreMethods
        && restic.isDirectory url
        && mine != null
        && mine == theirs
      )
      "${option name "preseed.repositoryUrl"}: ${quote url} is on ${mine}, like the data, so both are lost together; restore from a repository in another place.";

  # What came after the last snapshot is in the archive, and without one there is nothing to go on with.
  replicaWarnings =
    name: instance:
    let
      replicas = sources.replicasOf instance;
      datasets = sources.datasetsOf instance;
      archive = if datasets.archive == null then instance.paths.archive else datasets.archive;
    in
    lib.optional
      (
        lib.elem "syncoid" instance.preseed.restoreMethods
        && sources.has.syncoid instance
        && !sources.archiveIsBeside instance
      )
      "${option name "preseed.restoreMethods"}: \"syncoid\" restores the data together with the WAL archive, and ${quote archive} is not replicated to ${quote replicas.data.host}, so a new machine cannot be restored from there; ${
        if datasets.archive == null then
          "put the archive on a dataset that is replicated there"
        else
          "set modules.backup.sanoid.datasets.${quote datasets.archive}.replication"
      }, or leave \"syncoid\" out.";
in
{
  config = {
    assertions = lib.concatLists [
      (ofEach sourceProblems preseeding)
      (ofEach poolProblems preseeding)
      (ofEach pitrProblems preseeding)
      (ofEach recoveryProblems recovering)
    ];
    warnings = lib.concatLists [
      (ofEach secretWarnings preseeding)
      (ofEach repositoryWarnings preseeding)
      (ofEach replicaWarnings preseeding)
    ];
  };
}
