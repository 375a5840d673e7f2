# Mistakes in the declaration of snapshots and replication.
{ config, lib, ... }:
let
  cfg = config.modules.backup.sanoid;
  names = import ./names.nix { inherit lib; };
  policy = import ./policy.nix { inherit lib; };

  quote = text: "\"${text}\"";
  option =
    source:
    lib.showOption [
      "modules"
      "backup"
      "sanoid"
      "datasets"
      source
    ];
  refuse = message: {
    assertion = false;
    inherit message;
  };
  # The problems of all datasets, in the order of their names.
  ofEach = problems: lib.concatLists (lib.mapAttrsToList problems cfg.datasets);

  policyProblems =
    source: dataset:
    let
      asksForPolicy =
        dataset.replication == null
        || dataset.autosnap != null
        || dataset.autoprune != null
        || dataset.retention.frequentPeriodMinutes != null;
    in
    lib.optional (!names.isDatasetName source) (
      refuse "${option source}: ${quote source} is not a name of a dataset; write the pool and the datasets below it, such as \"tank/services\"."
    )
    ++ map (
      template:
      refuse "${option source}.useTemplate: ${quote template} is not a template; declare modules.backup.sanoid.templates.${lib.strings.escapeNixIdentifier template}, or use one of ${lib.concatStringsSep ", " (lib.attrNames cfg.templates)}."
    ) (lib.filter (template: !cfg.templates ? ${template}) dataset.useTemplate)
    ++ lib.optional (asksForPolicy && !policy.hasPolicy dataset) (
      refuse "${option source}: neither useTemplate nor retention says what is kept; name a template, such as \"postgresql\", or set counts such as retention.daily = 7."
    );

  hostName = "[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*";
  keyTypes = "ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(256|384|521)|sk-ssh-ed25519@openssh.com|sk-ecdsa-sha2-nistp256@openssh.com";
  isHostKey = key: key == null || builtins.match "(${keyTypes}) [A-Za-z0-9+/]+=*( .*)?" key != null;

  replicationProblems =
    source: dataset:
    let
      inherit (dataset) replication;
      target = replication.targetDataset;
      host = replication.targetHost;
      at = "${option source}.replication";
    in
    lib.optionals (replication != null) (
      (
        if target == null then
          [
            (refuse "${at}.targetDataset: not set, so ${quote source} has nowhere to go; write the full name of the replica, such as \"backup/${config.networking.hostName}/${names.tailOf source}\".")
          ]
        # A pool may have a colon in its name. Here it is a host that stands in the wrong place.
        else if !names.isDatasetName target || lib.hasInfix ":" (names.poolOf target) then
          [
            (refuse "${at}.targetDataset: ${quote target} is not a name of a dataset; write the pool and the datasets below it, and the host in targetHost.")
          ]
        else if
          host == null && (names.isAtOrBelow source target || names.isAtOrBelow target source)
        then
          [
            (refuse "${at}.targetDataset: ${quote target} and its source ${quote source} are one inside the other; replicate to a dataset apart from it, on another pool or host.")
          ]
        else
          [ ]
      )
      ++ lib.optional (host != null && builtins.match hostName host == null) (
        refuse "${at}.targetHost: ${quote host} is not a name or an address of a host; write the user in targetUser and the port in targetPort."
      )
      ++ lib.optional (builtins.match "[A-Za-z_][A-Za-z0-9_.-]*" replication.targetUser == null) (
        refuse "${at}.targetUser: ${quote replication.targetUser} is not a name of a user; write the host in targetHost."
      )
      ++ lib.optional (host != null && replication.hostKey == null) (
        refuse "${at}.hostKey: not set, so anybody who answers as ${quote host} would be sent the data; write the key that \"ssh-keyscan ${host}\" prints after the name, compared with the one on the host itself."
      )
      ++ lib.optional (host == null && replication.hostKey != null) (
        refuse "${at}.hostKey: set without a host; set targetHost as well, or leave the key out to replicate to a pool of this host."
      )
      ++ lib.optional (!isHostKey replication.hostKey) (
        refuse "${at}.hostKey: ${quote replication.hostKey} is not a public key of a host; write its type and the key, such as \"ssh-ed25519 AAAA…\"."
      )
    );

  replicated = lib.filterAttrs (
    _: dataset: dataset.replication != null && dataset.replication.targetDataset != null
  ) cfg.datasets;
  remote = lib.filterAttrs (_: dataset: dataset.replication.targetHost != null) replicated;
  sources = lib.attrNames remote;

  inWords = lib.concatStringsSep " and ";
  # Sources that share something of their replication, by what they share.
  sharing =
    key: group:
    lib.filterAttrs (_: members: lib.length members > 1) (
      lib.groupBy (source: key cfg.datasets.${source}.replication) group
    );
  serverOf =
    replication:
    toString replication.targetHost
    + lib.optionalString (replication.targetPort != 22) " port ${toString replication.targetPort}";

  # The same replica for two sources: each would find the other's snapshots in its way.
  targetConflicts =
    let
      replicaOf = replication: "${serverOf replication}:${replication.targetDataset}";
      conflict =
        group:
        refuse "${option (lib.head group)}.replication.targetDataset: ${
          quote cfg.datasets.${lib.head group}.replication.targetDataset
        } is the replica of ${inWords (map quote group)}; give each source a replica of its own.";
    in
    map conflict (lib.attrValues (sharing replicaOf (lib.attrNames replicated)));

  keyConflicts =
    let
      keysOf =
        group:
        lib.remove null (
          lib.unique (map (source: cfg.datasets.${source}.replication.hostKey) group)
        );
      conflict =
        server: group:
        refuse "${option (lib.head group)}.replication.hostKey: the host ${quote server} has another key in ${
          inWords (map (source: "${option source}.replication.hostKey") (lib.tail group))
        }; write the one that the host shows in all of them.";
    in
    lib.mapAttrsToList conflict (
      lib.filterAttrs (_: group: lib.length (keysOf group) > 1) (sharing serverOf sources)
    );

  # Minutes between two runs, for the expressions whose answer is plain; null otherwise.
  minutesOf =
    calendar:
    let
      everyMinutes = builtins.match "\\*:0+/([0-9]+)" calendar;
    in
    if everyMinutes != null then
      lib.toIntBase10 (lib.head everyMinutes)
    else
      {
        hourly = 60;
        daily = 24 * 60;
        weekly = 7 * 24 * 60;
        monthly = 28 * 24 * 60;
      }
      .${calendar} or null;

  intervalMinutes = minutesOf cfg.snapshotInterval;
  isTooLong = period: intervalMinutes != null && intervalMinutes > period;
  frequentPeriodsOf =
    dataset:
    let
      effective = policy.effective cfg.templates dataset;
    in
    lib.optional (effective.frequently > 0) effective.frequentPeriodMinutes;

  intervalWarnings = ofEach (
    source: dataset:
    map (
      period:
      "modules.backup.sanoid.snapshotInterval: ${quote cfg.snapshotInterval} is longer than the ${toString period} minutes between two snapshots of ${quote source}, so some of them will never be taken; use \"*/${toString period}\", or a longer frequentPeriodMinutes."
    ) (lib.filter isTooLong (frequentPeriodsOf dataset))
  );

  samePoolWarnings = lib.concatLists (
    lib.mapAttrsToList (
      source: dataset:
      let
        target = dataset.replication.targetDataset;
      in
      lib.optional
        (dataset.replication.targetHost == null && names.poolOf target == names.poolOf source)
        "${option source}.replication.targetDataset: ${quote target} is on the pool ${quote (names.poolOf source)}, where its source is, so whatever breaks the pool takes both; choose another pool, or better another host."
    ) replicated
  );

  # What the replicas of an instance are kept for, against what the instance promises.
  retentionWarnings = lib.concatLists (
    lib.mapAttrsToList (
      name: instance:
      let
        window = instance.backup.walArchive.retentionDays;
        data = config.modules.storage.datasets.services."postgresql/${name}" or null;
        replica = if data == null then null else cfg.replicationOf data.dataset;
        kept = cfg.datasets.${replica.source}.replication.retentionDays;
      in
      lib.optional
        (
          instance.enable
          && instance.backup.walArchive.enable
          && replica != null
          && kept != null
          && kept < window
        )
        "${option replica.source}.replication.retentionDays: the replica of the instance ${quote name} is kept for ${toString kept} days, which is less than the ${toString window} days of modules.services.postgresql.instances.${lib.strings.escapeNixIdentifier name}.backup.walArchive.retentionDays, so with this host the older points in time are lost; have the target keep more, or promise less."
    ) config.modules.services.postgresql.instances
  );
in
{
  config = lib.mkIf cfg.enable {
    assertions =
      ofEach policyProblems
      ++ ofEach replicationProblems
      ++ targetConflicts
      ++ keyConflicts
      ++ lib.optional (sources != [ ] && cfg.sshKeyPath == null) (
        refuse "modules.backup.sanoid.sshKeyPath: not set, but ${inWords (map quote sources)} ${
          if lib.length sources == 1 then "is" else "are"
        } replicated to another host; write the path of the private ssh key, such as \"/run/secrets/zfs-replication\"."
      );

    warnings = intervalWarnings ++ samePoolWarnings ++ retentionWarnings;
  };
}
