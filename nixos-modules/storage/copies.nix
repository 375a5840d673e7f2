# What Nix knows about the way back: where the copies of an instance are, and what is needed to read
# them.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.modules.backup;
  storage = config.modules.storage.datasets;
  blib = import ../lib.nix { inherit lib pkgs; };
  names = import ./names.nix { inherit lib; };
  places = import ../restic/places.nix { inherit lib config; };
  restic = import ../restic/resolved.nix { inherit lib config; };

  quote = text: "\"${text}\"";
  inWords = lib.concatStringsSep " and ";

  instances = lib.filterAttrs (_: instance: instance.backup.enable) (
    blib.enabled config.modules.services.postgresql.instances
  );
  instanceOption =
    name:
    lib.showOption [
      "modules"
      "services"
      "postgresql"
      "instances"
      name
    ];

  # The jobs that store a directory, with everything below it.
  jobsFor =
    directory:
    lib.filter (name: lib.any (path: names.isAtOrBelow path directory) restic.jobs.${name}.paths) (
      lib.attrNames restic.jobs
    );
  jobsOfInstance =
    instance: lib.unique (jobsFor instance.paths.archive ++ jobsFor instance.paths.backups);
  repositoriesFor =
    directory:
    if cfg.restic.enable then
      lib.unique (map (name: restic.jobs.${name}.repositoryName) (jobsFor directory))
    else
      [ ];

  replicaOf =
    name:
    let
      data = storage.services."postgresql/${name}" or null;
    in
    if data == null || !storage.enable || !cfg.sanoid.enable then
      null
    else
      cfg.sanoid.replicationOf data.dataset;

  # Where the copies of an instance are, as far as that is known.
  copiesOf =
    name: instance:
    let
      replica = replicaOf name;
      inherit (cfg.sanoid.datasets.${replica.source}) replication;
    in
    lib.optional instance.backup.takesBaseBackups {
      isHere = true;
      pool = places.poolOf instance.paths.backups;
    }
    ++ lib.optional (replica != null) {
      isHere =
        replica.local
        || places.isThisHost (
          if replication.targetLocation != null then replication.targetLocation else replica.host
        );
      pool = names.poolOf replica.dataset;
    }
    ++ map (
      repository:
      let
        inherit (cfg.restic.repositories.${repository}) url;
      in
      {
        isHere = places.isHere cfg.restic.repositories.${repository};
        pool = if places.isDirectory url then places.poolOf (places.directoryOf url) else null;
      }
    ) (repositoriesFor instance.paths.backups);

  domainWarning =
    name: instance:
    let
      copies = copiesOf name instance;
      pools = lib.unique (map (copy: copy.pool) copies ++ [ (places.poolOf instance.paths.root) ]);
      onePool = if lib.length pools == 1 then lib.head pools else null;
      dataset = storage.services."postgresql/${name}".dataset or null;
      replicate = lib.optionalString (
        storage.enable && dataset != null
      ) "replicate it with modules.backup.sanoid.datasets.${quote dataset}.replication, or ";
    in
    lib.optional (!cfg.allowEveryCopyOnThisHost && lib.all (copy: copy.isHere) copies)
      "${instanceOption name}: ${
        if copies == [ ] then
          "there is no copy of its data"
        else if onePool != null then
          "its data and every copy of it are on the pool ${quote onePool}"
        else
          "its data and every copy of it are on this host"
      }, so one accident takes all of it; ${replicate}give it a restic repository in another place. modules.backup.allowEveryCopyOnThisHost = true accepts the risk.";

  # A secret or a repository on a dataset of this host is gone when this host's disks are, and that
  # is when it is needed.
  onDataset =
    option: path: what:
    let
      dataset = places.datasetOf path;
    in
    lib.optional (path != null && dataset != null)
      "${option}: ${quote path} is on the dataset ${quote dataset}, so ${what} is lost together with what it is to bring back; keep it where this host's disks are not, and put it on the host apart from the datasets.";

  usedRepositories = lib.unique (
    map (name: restic.jobs.${name}.repositoryName) (
      lib.concatMap jobsOfInstance (lib.attrValues instances)
    )
  );
  repositoryOption =
    name: option:
    lib.showOption [
      "modules"
      "backup"
      "restic"
      "repositories"
      name
      option
    ];
  repositoryWarnings =
    name:
    let
      repository = cfg.restic.repositories.${name};
    in
    onDataset (repositoryOption name "passwordFile") repository.passwordFile "the password"
    ++ lib.optionals (repository.environmentFile != null) (
      onDataset (repositoryOption name "environmentFile") repository.environmentFile "the access to the repository"
    );

  # A repository inside what it is a copy of: mounting it needs what it is to restore.
  insideWarnings =
    name:
    let
      inherit (cfg.restic.repositories.${name}) url;
      directory = places.directoryOf url;
      within = lib.filter (
        instance:
        lib.any (path: names.isAtOrBelow path directory) [
          instances.${instance}.paths.root
          instances.${instance}.paths.archive
        ]
      ) (lib.attrNames instances);
    in
    lib.optional (places.isDirectory url && within != [ ])
      "${repositoryOption name "url"}: ${quote directory} is inside the directories of the instance ${inWords (map quote within)}, so the repository has to be restored before it can restore anything; move it out of them, to another disk or host.";

  replicas = lib.filter (replica: replica != null && !replica.local) (
    map replicaOf (lib.attrNames instances)
  );
in
{
  options.modules.backup.allowEveryCopyOnThisHost = lib.mkOption {
    type = lib.types.bool;
    default = false;
    example = true;
    description = ''
      Whether it is accepted that a PostgreSQL instance has no copy in another place: a fire, a theft or
      one wrong command on this host then takes the data and all its backups. Otherwise there is a
      warning for each such instance.
    '';
  };

  config.warnings =
    lib.concatLists (lib.mapAttrsToList domainWarning instances)
    ++ lib.optionals cfg.restic.enable (
      lib.concatMap repositoryWarnings usedRepositories
      ++ lib.concatMap insideWarnings usedRepositories
    )
    ++ lib.optionals (replicas != [ ] && cfg.sanoid.sshKeyPath != null) (
      onDataset "modules.backup.sanoid.sshKeyPath" cfg.sanoid.sshKeyPath "the key to the replica"
    );
}
