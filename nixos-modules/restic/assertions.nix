# Mistakes in the declaration of restic repositories and jobs.
{ config, lib, ... }:
let
  cfg = config.modules.backup.restic;
  names = import ../storage/names.nix { inherit lib; };
  places = import ./places.nix { inherit lib config; };
  inherit (import ./resolved.nix { inherit lib config; })
    enabledJobs
    repositoryNameOf
    ;

  quote = text: "\"${text}\"";
  refuse = message: {
    assertion = false;
    inherit message;
  };
  at =
    path:
    lib.showOption (
      [
        "modules"
        "backup"
        "restic"
      ]
      ++ path
    );
  inWords = lib.concatStringsSep " and ";
  unitName = "[A-Za-z0-9][A-Za-z0-9_.-]*";

  repositories = lib.attrNames cfg.repositories;
  jobsByRepository = lib.groupBy (name: toString (repositoryNameOf enabledJobs.${name})) (
    lib.attrNames enabledJobs
  );
  jobsIn = name: jobsByRepository.${name} or [ ];
  jobsInWords = name: inWords (map (job: at [ "jobs" job ]) (jobsIn name));

  primary = lib.filter (name: cfg.repositories.${name}.primary) repositories;

  knownRepositories =
    if repositories == [ ] then
      "declare modules.backup.restic.repositories first"
    else
      "use one of ${lib.concatStringsSep ", " repositories}, or declare it";

  hasSecret = url: builtins.match "[a-z0-9]+:([a-z0-9]+:)?//[^/@]*:[^/@]*@.*" url != null;
  isUrl =
    url:
    places.isDirectory url
    || builtins.match "(sftp|rest|s3|b2|azure|gs|swift|rclone):[^[:space:]]+" url != null;

  repositoryProblems =
    name:
    let
      repository = cfg.repositories.${name};
      inherit (repository) url mountPoint;
      isDirectory = places.isDirectory url;
      directory = places.directoryOf url;
      users = lib.unique (map (job: enabledJobs.${job}.user) (jobsIn name));
      isUsed = jobsIn name != [ ];
    in
    lib.optional (builtins.match unitName name == null) (
      refuse "${at [ "repositories" name ]}: the name becomes part of the names of units; use letters, digits, \"-\", \"_\" and \".\"."
    )
    ++ lib.optional (isUsed && repository.passwordFile == null) (
      refuse "${at [ "repositories" name "passwordFile" ]}: not set, but used by ${jobsInWords name}; write the path of a file with the password, such as \"/run/secrets/restic-password\"."
    )
    ++ (
      if url == null then
        lib.optional isUsed (
          refuse "${at [ "repositories" name "url" ]}: not set, but used by ${jobsInWords name}; write where the repository is, such as \"/mnt/nas-backup\" or \"rest:https://backup.example.org/forge\"."
        )
      else if hasSecret url then
        [
          # The URL itself is not shown: messages end up in logs.
          (refuse "${at [ "repositories" name "url" ]}: it has a password in it, and it becomes part of the Nix store, where every user can read it; put the password into environmentFile, as RESTIC_REST_PASSWORD.")
        ]
      else if !isUrl url then
        [
          (refuse "${at [ "repositories" name "url" ]}: ${quote url} is not a repository of restic; write an absolute directory, or sftp:, rest:, s3:, b2:, azure:, gs:, swift: or rclone: and what belongs to it.")
        ]
      else if isDirectory then
        let
          problem = names.mountPointProblem directory;
        in
        lib.optional (problem != null) (
          refuse "${at [ "repositories" name "url" ]}: ${quote directory} ${problem}; write the directory of the repository, such as \"/mnt/nas-backup\"."
        )
        ++ lib.optional (repository.initialize && mountPoint == null) (
          refuse "${at [ "repositories" name "initialize" ]}: true, but while nothing is mounted on ${quote directory} an empty repository would be made there and taken for the real one; set mountPoint as well, to \"/\" if the directory is on the root file system."
        )
        ++
          lib.optional (mountPoint != null && mountPoint != "/" && !names.isAtOrBelow mountPoint directory)
            (
              refuse "${at [ "repositories" name "mountPoint" ]}: ${quote mountPoint} is not above ${quote directory}; write the mount point that the repository is on."
            )
        ++ lib.optional (lib.length users > 1) (
          refuse "${at [ "repositories" name "url" ]}: ${quote directory} is a directory, and its jobs run as ${inWords users}, who cannot read each other's files; give ${jobsInWords name} one user, or use a server such as rest:."
        )
      else
        lib.optional (mountPoint != null) (
          refuse "${at [ "repositories" name "mountPoint" ]}: ${quote mountPoint} is set, but ${quote url} is not a directory; leave it out."
        )
    );

  jobProblems =
    name:
    let
      job = enabledJobs.${name};
      repositoryName = repositoryNameOf job;
      repository = cfg.repositories.${repositoryName};
      ownDirectory =
        if
          repositoryName != null
          && cfg.repositories ? ${repositoryName}
          && repository.url != null
          && places.isDirectory repository.url
        then
          places.directoryOf repository.url
        else
          null;
    in
    lib.optional (builtins.match unitName name == null || lib.hasPrefix "repository-" name) (
      refuse "${at [ "jobs" name ]}: the name becomes part of a unit's name; use letters, digits, \"-\", \"_\" and \".\", and do not begin with \"repository-\"."
    )
    ++ (
      if repositoryName == null then
        [
          (refuse "${at [ "jobs" name "repository" ]}: not set, and no repository is the primary one; ${knownRepositories}.")
        ]
      else
        lib.optional (!cfg.repositories ? ${repositoryName}) (
          refuse "${at [ "jobs" name "repository" ]}: ${quote repositoryName} is not a repository; ${knownRepositories}."
        )
    )
    ++ lib.optional (job.paths == [ ]) (
      refuse "${at [ "jobs" name "paths" ]}: empty, so there is nothing to back up; write absolute paths, or set enable = false."
    )
    ++ map (
      path:
      refuse "${at [ "jobs" name "paths" ]}: ${quote path} has the repository ${quote ownDirectory} in it, so each backup would hold all earlier ones; add the repository to excludePatterns, or move it."
    ) (
      lib.filter (
        path:
        ownDirectory != null
        && (path == "/" || names.isAtOrBelow path ownDirectory)
        && !lib.elem ownDirectory job.excludePatterns
      ) job.paths
    )
    ++ lib.concatMap (
      option:
      map (
        path:
        refuse "${at [ "jobs" name option ]}: ${quote path} is not an absolute path; write it from \"/\" on."
      ) (lib.filter (path: !lib.hasPrefix "/" path) job.${option})
    ) [
      "paths"
      "requiredMounts"
      "writablePaths"
    ]
    ++ map (
      tag:
      refuse "${at [ "jobs" name "tags" ]}: ${quote tag} is not a tag; a tag has at least one character, and neither a comma, which would make it two, nor a space."
    ) (lib.filter (tag: builtins.match "[^,[:space:]]+" tag == null) job.tags);

  # Who writes down what is to be kept expects that the rest goes.
  keepWarnings =
    name:
    let
      job = enabledJobs.${name};
      repositoryName = toString (repositoryNameOf job);
      repository = cfg.repositories.${repositoryName} or null;
    in
    lib.optional (job.keepIsDeclared && repository != null && repository.pruneSchedule == null)
      "${at [ "jobs" name "keep" ]}: it is set, and nothing is ever forgotten by this host, since ${
        at [ "repositories" repositoryName "pruneSchedule" ]
      } is null; set a schedule there, or leave keep out.";
in
{
  config = lib.mkIf cfg.enable {
    assertions =
      lib.optional (lib.length primary > 1) (
        refuse "modules.backup.restic.repositories: ${inWords primary} are all primary; leave it to one of them."
      )
      ++
        lib.optional (enabledJobs != { } && builtins.match "[A-Za-z0-9][A-Za-z0-9._-]*" cfg.hostName == null)
          (
            refuse "modules.backup.restic.hostName: ${quote cfg.hostName} is not a name of a host; write the name under which snapshots are stored, such as \"forge\"."
          )
      ++ lib.concatMap repositoryProblems repositories
      ++ lib.concatMap jobProblems (lib.attrNames enabledJobs);
    warnings = lib.concatMap keepWarnings (lib.attrNames enabledJobs);
  };
}
