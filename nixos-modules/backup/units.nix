# Names of what belongs to an instance and is referred to elsewhere. A name that is written twice is
# misspelt once, and systemd orders after a unit that does not exist without a word.
name: {
  server = "postgresql-${name}.service";
  baseBackup = "postgresql-basebackup-${name}.service";
  snapshot = "postgresql-snapshot-${name}.service";
  canary = "postgresql-canary-${name}.service";
  drill = "postgresql-restore-drill-${name}.service";
  preseed = "preseed-postgresql-${name}.service";
  replica = content: "postgresql-replica-${name}-${content}.service";
  receive = "postgresql-receive-${name}.service";
  takeOver = "postgresql-take-over-${name}.service";

  # The jobs that copy into one of instance.backup.restic.all, and the units of such a job.
  job = repository: content: "postgresql-${name}-${content}${repository.jobSuffix}";
  copy =
    repository: content: "restic-backups-postgresql-${name}-${content}${repository.jobSuffix}.service";

  # The restic repository that the instance names, or describes without a name.
  repository = named: if named != null then named else "postgresql-${name}";
}
