# The jobs that are to run, each with its repository. A job whose declaration is refused anyway is
# left out, so that the refusal is what a person sees.
{ lib, config }:
let
  cfg = config.modules.backup.restic;

  primary = lib.filter (name: cfg.repositories.${name}.primary) (lib.attrNames cfg.repositories);
  all = lib.attrNames cfg.repositories;
in
rec {
  # The repository for jobs that name none, or null.
  primaryRepository =
    if primary != [ ] then
      lib.head primary
    else if lib.length all == 1 then
      lib.head all
    else
      null;

  repositoryNameOf = job: if job.repository != null then job.repository else primaryRepository;

  enabledJobs = lib.filterAttrs (_: job: job.enable) cfg.jobs;

  isUsable =
    name:
    name != null
    && cfg.repositories ? ${name}
    && cfg.repositories.${name}.url != null
    && cfg.repositories.${name}.passwordFile != null;

  jobs = lib.mapAttrs (_: job: job // { repositoryName = repositoryNameOf job; }) (
    lib.filterAttrs (_: job: job.paths != [ ] && isUsable (repositoryNameOf job)) enabledJobs
  );

  # Repositories that a job writes to, with the names of these jobs, sorted.
  jobsOf = lib.groupBy (name: jobs.${name}.repositoryName) (lib.attrNames jobs);
}
