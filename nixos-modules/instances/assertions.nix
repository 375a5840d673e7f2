# Mistakes in a declaration that can be told before anything runs. Each message says the option, the
# value and a way out.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  blib = import ../lib.nix { inherit lib pkgs; };
  settings = import ./settings.nix { inherit lib blib; };
  extensions = import ./extensions.nix { inherit lib; };
  hba = import ./hba.nix { inherit lib; };

  cfg = config.modules.services.postgresql;
  instances = blib.enabled cfg.instances;
  names = builtins.attrNames instances;

  root = "modules.services.postgresql";
  at = name: option: "${root}.instances.${name}.${option}";
  list = lib.concatStringsSep ", ";
  quoted = text: "\"${text}\"";

  fail = message: {
    assertion = false;
    inherit message;
  };
  # Only what is wrong becomes an assertion: 50 instances with 40 checks each would make 2000.
  unless = condition: message: lib.optional (!condition) (fail message);

  # The keys of `pairs` ([ { key; name; } ]) that more than one name has: [ { key; names; } ].
  shared =
    pairs:
    let
      grouped = builtins.groupBy (pair: pair.key) pairs;
    in
    lib.mapAttrsToList (key: group: {
      inherit key;
      names = map (pair: pair.name) group;
    }) (lib.filterAttrs (_: group: builtins.length group > 1) grouped);

  # Names.

  nameProblems =
    name:
    if builtins.match "[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?" name == null then
      [
        (fail "${root}.instances: ${quoted name} is no name for an instance; use 1 to 32 lower-case letters, digits and inner hyphens.")
      ]
    else if builtins.match "[0-9]+" name != null then
      [
        (fail "${root}.instances: ${quoted name} would put its data where the directories of the versions are, in /var/lib/postgresql; choose a name with a letter.")
      ]
    else
      unless (name != "provisioning")
        "${root}.instances: ${quoted name} would put its data where the stamps of database provisioning are, in /var/lib/postgresql/provisioning; choose another name.";

  # What an instance takes for itself beside its own name.
  unitsOf = name: [
    "postgresql-${name}"
    "postgresql-basebackup-${name}"
    "postgresql-basebackup-requested-${name}"
    "postgresql-healthcheck-${name}"
    "postgresql-walprune-${name}"
    "postgresql-restore-drill-${name}"
    "postgresql-canary-${name}"
  ];
  # Of declared databases ("postgresql-database-<name>", "postgresql-dump-<name>"), and of nixpkgs' own
  # module.
  isReserved = name: name == "setup" || lib.hasPrefix "database-" name || lib.hasPrefix "dump-" name;
  datasetsOf = name: [
    name
    "${name}-wal"
    "${name}-backup"
  ];

  collisions =
    let
      among =
        kind: of:
        map (
          both:
          fail "${root}.instances: ${list both.names} both need the ${kind} ${quoted both.key}; rename one of them."
        ) (
          shared (
            lib.concatMap (name: map (key: { inherit key name; }) (of name)) names
          )
        );
    in
    among "unit" (name: map (unit: "${unit}.service") (unitsOf name))
    ++ among "directory" (name: map (dataset: "/var/lib/postgresql/${dataset}") (datasetsOf name))
    ++ lib.concatMap (
      name:
      unless (!isReserved name)
        "${root}.instances: the unit of ${quoted name}, \"postgresql-${name}.service\", has another meaning; choose another name."
    ) names;

  # Ports.

  otherPorts = import ./ports.nix { inherit lib config; };

  portProblems =
    map
      (
        both:
        fail "${root}.instances: port ${both.key} is used by ${list both.names}; give each instance its own port."
      )
      (
        shared (
          lib.mapAttrsToList (name: instance: {
            key = toString instance.port;
            inherit name;
          }) instances
        )
      )
    ++ lib.concatLists (
      lib.mapAttrsToList (
        name: instance:
        map
          (
            other:
            fail "${at name "port"}: ${toString instance.port} is the port of ${other.name} too (${other.option}); change one of them."
          )
          (
            builtins.filter (
              other: other.port == instance.port && instance.listenAddresses != [ ]
            ) otherPorts
          )
      ) instances
    );

  # NixOS' own module for one server.

  nixpkgsProblems =
    let
      other = config.services.postgresql;
      theirs = toString other.dataDir;
    in
    lib.optionals (instances != { } && lib.attrByPath [ "services" "postgresql" "enable" ] false config) (
      unless (cfg.defaultInstance == null)
        "${root}.defaultInstance: ${quoted (toString cfg.defaultInstance)} answers to postgresql.service, and so does services.postgresql; set services.postgresql.enable = false, or ${root}.defaultInstance = null."
      # systemd gives a state directory, with all that is in it, to the user of the unit.
      ++ unless (!isAtOrBelow "/var/lib/postgresql" theirs)
        "services.postgresql.dataDir: ${quoted theirs} is in /var/lib/postgresql, where the instances ${list names} have their data; use a directory outside it."
    );

  # Another module that writes to systemd.services.postgresql means a unit that the alias replaces.
  aliasProblems =
    lib.optional
      (
        cfg.defaultInstance != null
        && config.systemd.services ? postgresql
        && !(lib.attrByPath [ "services" "postgresql" "enable" ] false config)
      )
      (
        fail "systemd.services.postgresql: this unit is an alias of postgresql-${cfg.defaultInstance}.service; write to systemd.services.\"postgresql-${cfg.defaultInstance}\" instead."
      );

  # Memory.

  # The autovacuum workers that PostgreSQL starts unless told otherwise.
  autovacuumWorkers = 3;
  demand =
    instance:
    blib.sizeBytes instance.sharedBuffers
    + instance.maxConnections * blib.sizeBytes instance.workMem
    + autovacuumWorkers * blib.sizeBytes instance.maintenanceWorkMem;

  memoryProblems =
    lib.concatLists (
      lib.mapAttrsToList (
        name: instance:
        lib.optional
          (instance.memoryBudget != null && demand instance > blib.sizeBytes instance.memoryBudget)
          (
            fail "${at name "memoryBudget"}: ${instance.memoryBudget} is less than the ${blib.showSize (demand instance)} that sharedBuffers (${instance.sharedBuffers}), ${toString instance.maxConnections} connections with workMem (${instance.workMem}) and ${toString autovacuumWorkers} times maintenanceWorkMem (${instance.maintenanceWorkMem}) add up to; raise it, or leave those out that it can derive."
          )
      ) instances
    )
    ++ lib.optionals (cfg.memoryBudget != null) (
      let
        share =
          instance:
          if instance.memoryBudget != null then blib.sizeBytes instance.memoryBudget else demand instance;
        total = lib.foldl' (sum: instance: sum + share instance) 0 (builtins.attrValues instances);
        parts = lib.mapAttrsToList (name: instance: "${name} ${blib.showSize (share instance)}") instances;
      in
      unless (total <= blib.sizeBytes cfg.memoryBudget)
        "${root}.memoryBudget: ${cfg.memoryBudget} is less than the ${blib.showSize total} that all instances may take (${list parts}); raise it, or give the instances smaller budgets."
    );

  # Directories.

  isAtOrBelow = above: below: above == below || lib.hasPrefix (above + "/") below;
  overlap = one: other: isAtOrBelow one other || isAtOrBelow other one;

  # Directories that the sandbox of the unit hides or replaces.
  hidden = [
    "/dev"
    "/home"
    "/nix"
    "/proc"
    "/root"
    "/run/user"
    "/sys"
    "/tmp"
    "/var/tmp"
  ];

  tablespaceProblems =
    name: instance:
    lib.concatMap (
      tablespace:
      let
        hiding = lib.findFirst (directory: isAtOrBelow directory tablespace) null hidden;
        taken = lib.concatLists (
          lib.mapAttrsToList (
            other: instance:
            [
              {
                directory = instance.paths.root;
                what = "data of ${other}";
              }
              {
                directory = instance.paths.archive;
                what = "WAL archive of ${other}";
              }
              {
                directory = instance.paths.backups;
                what = "base backups of ${other}";
              }
            ]
            ++ lib.optionals (other != name) (
              map (directory: {
                inherit directory;
                what = "tablespaces of ${other}";
              }) instance.tablespaces
            )
          ) instances
        );
        clash = lib.findFirst (entry: overlap entry.directory tablespace) null taken;
      in
      if hiding != null then
        [
          (fail "${at name "tablespaces"}: ${quoted tablespace} is in ${hiding}, which the server's sandbox hides or replaces; use a directory such as /srv/postgresql-${name}.")
        ]
      else
        lib.optional (clash != null) (
          fail "${at name "tablespaces"}: ${quoted tablespace} overlaps ${quoted clash.directory}, the ${clash.what}; use a directory of its own."
        )
    ) instance.tablespaces
    ++ map (
      both:
      fail "${at name "tablespaces"}: ${quoted both.key} is listed ${toString (builtins.length both.names)} times; list it once."
    ) (
      shared (
        map (key: {
          inherit key;
          name = key;
        }) instance.tablespaces
      )
    );

  # Version and package.

  packageProblems =
    name: instance:
    let
      packaged = lib.versions.major (lib.getVersion instance.package);
      major = lib.toIntBase10 instance.version;
      inherit (instance.initdb) localeProvider locale;
      missing = extensions.missingFrom (instance.package.pkgs or { }) instance.extensions;
      builtinLocales = [
        "C"
        "C.UTF-8"
      ]
      ++ lib.optional (major >= 18) "PG_UNICODE_FAST";
      # Options that initdb gets from an option of ours, or that would end or misplace the cluster.
      ours = {
        "-D" = "the instance's name and version";
        "--pgdata" = "the instance's name and version";
        "-E" = "initdb.encoding";
        "--encoding" = "initdb.encoding";
        "-k" = "initdb.dataChecksums";
        "--data-checksums" = "initdb.dataChecksums";
        "--no-data-checksums" = "initdb.dataChecksums";
        "--locale" = "initdb.locale";
        "--no-locale" = "initdb.locale";
        "--icu-locale" = "initdb.locale";
        "--builtin-locale" = "initdb.locale";
        "--locale-provider" = "initdb.localeProvider";
        "-A" = "authentication";
        "--auth" = "authentication";
        "--auth-host" = "authentication";
        "--auth-local" = "authentication";
        "-U" = "the module, which needs the role postgres";
        "--username" = "the module, which needs the role postgres";
        "-W" = "the module, which needs no password";
        "--pwprompt" = "the module, which needs no password";
        "--pwfile" = "the module, which needs no password";
        "-X" = "the module, which keeps pg_wal where snapshots find it";
        "--waldir" = "the module, which keeps pg_wal where snapshots find it";
        "-N" = "the module, which makes success mean durable";
        "--no-sync" = "the module, which makes success mean durable";
      };
      flag =
        argument:
        let
          long = builtins.match "(--[a-z-]+)(=.*)?" argument;
          short = builtins.match "(-[A-Za-z]).*" argument;
        in
        if long != null then
          builtins.head long
        else if short != null then
          builtins.head short
        else
          argument;
    in
    lib.optional (packaged != "" && packaged != instance.version) (
      fail "${at name "package"}: the package is PostgreSQL ${lib.getVersion instance.package}, and version is ${instance.version}; set both to the same major version."
    )
    ++ lib.optional (missing != [ ]) (
      fail "${at name "extensions"}: PostgreSQL ${instance.version} has no package for ${list missing}; correct the name, or add the package to extraPackages."
    )
    ++ lib.optional (localeProvider == "icu" && major < 15) (
      fail "${at name "initdb.localeProvider"}: icu needs PostgreSQL 15, and version is ${instance.version}; use \"libc\", or a later version."
    )
    ++ lib.optional (localeProvider == "builtin" && major < 17) (
      fail "${at name "initdb.localeProvider"}: builtin needs PostgreSQL 17, and version is ${instance.version}; use \"libc\", or a later version."
    )
    ++ lib.optional (localeProvider == "builtin" && !builtins.elem (toString locale) builtinLocales) (
      fail "${at name "initdb.locale"}: ${quoted (toString locale)} is no locale of the provider builtin of PostgreSQL ${instance.version}, which has ${list builtinLocales}; use one of them, or another initdb.localeProvider."
    )
    ++
      lib.optional
        (
          localeProvider == "icu"
          && builtins.elem locale [
            "C"
            "C.UTF-8"
            "POSIX"
          ]
        )
        (
          fail "${at name "initdb.locale"}: ${quoted locale} is no locale of the provider icu; use a language such as \"de-DE\", or \"und\" for none."
        )
    ++ lib.concatMap (
      argument:
      lib.optional (ours ? ${flag argument}) (
        fail "${at name "initdb.arguments"}: ${quoted argument} is set by ${ours.${flag argument}}; remove it."
      )
    ) instance.initdb.arguments;

  # postgresql.conf.

  settingProblems =
    name: instance:
    let
      given = instance.extraSettings;
      here = setting: at name "extraSettings.${setting}";
      major = lib.toIntBase10 instance.version;
      required = lib.listToAttrs (
        map (setting: lib.nameValuePair setting.name setting) (
          settings.required { inherit name instance; }
        )
      );
      value = setting: settings.plain given.${setting};

      # Settings that are wrong in a way that no other value of the module could show.
      refused = {
        archive_library = lib.optionalString instance.backup.isArchiving "takes the place of archive_command, so that the WAL would not reach this instance's archive; remove it, or set backup.walArchive.enable = false";
        archive_cleanup_command = lib.optionalString instance.backup.isArchiving "would remove WAL from the archive that a restore needs; remove it: pg-prune knows what may go";
        config_file = "moves what the module writes; remove it";
        data_directory = "moves the cluster to where the module does not look; remove it";
        external_pid_file = "is not needed by systemd, and the sandbox has no place for it; remove it";
      }
      // lib.genAttrs (builtins.filter (lib.hasPrefix "recovery_target") (builtins.attrNames given)) (
        setting:
        "would end every later recovery at the same place, also after a crash of a restored server; use recovery, which holds once"
      );

      problem =
        setting:
        if builtins.match "[a-z_][a-z0-9_$]*(\\.[a-zA-Z_][a-zA-Z0-9_$]*)?" setting == null then
          "${here setting}: this is not the name of a setting; write it in lower case, as in pg_settings."
        else if (settings.introduced.${setting} or 0) > major then
          "${here setting}: PostgreSQL ${instance.version} has no such setting, version ${toString settings.introduced.${setting}} brought it; remove it, or use a later version."
        else if (settings.removed.${setting} or 99) <= major then
          "${here setting}: PostgreSQL ${instance.version} has no such setting any more, version ${toString settings.removed.${setting}} removed it; remove it."
        else if refused.${setting} or "" != "" then
          "${here setting}: ${quoted (value setting)} ${refused.${setting}}."
        else if setting == "wal_level" && value setting == "minimal" && instance.backup.enable then
          "${here setting}: minimal leaves out what the archive and base backups need; use \"replica\" or \"logical\", or set backup.enable = false."
        else if
          setting == "archive_mode" && instance.backup.isArchiving && settings.same given.archive_mode false
        then
          "${here setting}: off stops archiving, and no restore would reach past the last base backup; remove it, or set backup.walArchive.enable = false."
        else if
          setting == "max_wal_senders"
          && instance.backup.takesBaseBackups
          && builtins.isInt given.max_wal_senders
          && given.max_wal_senders < 2
        then
          "${here setting}: ${value setting} leaves no connections for a base backup, which takes two; use 2 or more, or set backup.baseBackup.enable = false."
        else if setting == "log_directory" && lib.hasPrefix "/" (value setting) then
          "${here setting}: ${quoted (value setting)} is outside the data directory, where the server's sandbox may not write; use a name without a slash at the start."
        else if
          setting == "shared_preload_libraries" || settings.same instance.serverSettings.${setting} given.${setting}
        then
          null
        else if required.${setting}.option or null != null then
          "${here setting}: ${quoted (value setting)} differs from ${at name required.${setting}.option}; set that option instead."
        else if required ? ${setting} then
          "${here setting}: ${quoted (value setting)} ${required.${setting}.why}; remove it."
        else
          "${here setting}: ${quoted (value setting)} differs from ${
            quoted (settings.plain instance.serverSettings.${setting})
          }, which the module needs; remove it, and use the option that sets it.";
    in
    map fail (builtins.filter (text: text != null) (map problem (builtins.attrNames given)));

  # Who gets in.

  authenticationProblems =
    name: instance:
    let
      typed = builtins.filter builtins.isAttrs instance.authentication;
      beyond = builtins.filter (
        address: address != "localhost" && address != "::1" && !lib.hasPrefix "127." address
      ) instance.listenAddresses;
      badAddresses = builtins.filter (
        address: builtins.match "\\*|[A-Za-z0-9.:_-]+" address == null
      ) instance.listenAddresses;
    in
    map (
      line:
      fail "${at name "authentication"}: ${quoted line} lets somebody in without a proof, or with a password that can be read or replayed; use scram-sha-256, or peer on the socket."
    ) (hba.weakLines instance.authentication)
    ++ lib.concatMap (
      entry:
      let
        line = hba.line entry;
      in
      lib.optional (entry.type == "local" && entry.address != null) (
        fail "${at name "authentication"}: ${quoted line} is for the socket, which has no addresses; leave address out."
      )
      ++ lib.optional (entry.type != "local" && entry.address == null) (
        fail "${at name "authentication"}: ${quoted line} has no address; say from where, as in \"192.0.2.0/24\"."
      )
      ++ lib.optional (entry.type != "local" && entry.method == "peer") (
        fail "${at name "authentication"}: ${quoted line} asks the system who a client on the network is; peer works on the socket only, use scram-sha-256."
      )
    ) typed
    ++ map (
      line:
      fail "${at name "identMap"}: ${quoted line} adds to the map backstay, which lets in the superuser; use another name."
    ) (
      builtins.filter (line: builtins.match "\"?backstay\"?[ \t].*" line != null) (
        map lib.trim (lib.splitString "\n" instance.identMap)
      )
    )
    ++ map (
      address:
      fail "${at name "listenAddresses"}: ${quoted address} is no address; use a host name, an IP address or \"*\"."
    ) badAddresses
    ++ lib.optional (instance.openFirewall && beyond == [ ]) (
      fail "${at name "openFirewall"}: true opens port ${toString instance.port}, and nothing outside this host is listened on; add an address to listenAddresses, or set openFirewall = false."
    );

  # Users.

  userProblems =
    lib.concatMap (
      name:
      unless (instances.${name}.user != "root")
        "${at name "user"}: PostgreSQL refuses to run as root; use \"postgres\" or a user of its own."
    ) names
    ++ lib.concatLists (
      lib.mapAttrsToList (
        user: group:
        let
          groups = lib.unique (map (instance: instance.group) group);
        in
        lib.optional (builtins.length groups > 1) (
          fail "${root}.instances: the user ${quoted user} has the groups ${list (lib.naturalSort groups)}; give instances of one user one group."
        )
      ) (builtins.groupBy (instance: instance.user) (builtins.attrValues instances))
    );

  defaultProblems = unless (cfg.defaultInstance == null || instances ? ${cfg.defaultInstance}) (
    "${root}.defaultInstance: ${quoted (toString cfg.defaultInstance)} is not an enabled instance; "
    + (
      if instances == { } then
        "declare it, or leave defaultInstance out."
      else
        "use ${lib.concatMapStringsSep " or " quoted names}, or null for none."
    )
  );

  # The sandbox is a list of the server's own unit, and a user may have replaced it.
  sandboxWarnings = lib.concatLists (
    lib.mapAttrsToList (
      name: instance:
      let
        allowed = lib.toList (config.systemd.services."postgresql-${name}".serviceConfig.ReadWritePaths or [ ]);
        needed = [
          instance.paths.root
          instance.paths.socketDirectory
        ]
        ++ lib.optional instance.backup.isArchiving instance.paths.archive
        ++ instance.writablePaths;
        missing = builtins.filter (
          path: !builtins.any (directory: isAtOrBelow directory path) allowed
        ) (lib.unique needed);
      in
      lib.optional (missing != [ ])
        "systemd.services.\"postgresql-${name}\".serviceConfig.ReadWritePaths: ${list missing} is missing, so the server cannot write there and will not start or archive; add to the list with lib.mkAfter instead of replacing it with lib.mkForce."
    ) instances
  );
in
{
  config = {
    assertions = lib.concatLists [
      (lib.concatMap nameProblems names)
      collisions
      portProblems
      nixpkgsProblems
      aliasProblems
      memoryProblems
      userProblems
      defaultProblems
      (lib.concatLists (
        lib.mapAttrsToList (
          name: instance:
          lib.concatMap (check: check name instance) [
            packageProblems
            settingProblems
            tablespaceProblems
            authenticationProblems
          ]
        ) instances
      ))
    ];
    warnings = sandboxWarnings;
  };
}
