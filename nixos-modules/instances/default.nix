# The PostgreSQL server of each instance: its unit, its files, its user and its directories.
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
  values = builtins.attrValues instances;

  forEach = make: lib.mkMerge (lib.mapAttrsToList make instances);

  # What an instance contributes to its own internal options.
  instanceModule =
    { name, config, ... }:
    let
      instance = config;
      arguments = { inherit name instance; };
      required = settings.required arguments;
      defaults = settings.defaults arguments;
      toSettings = lib.foldl' (all: setting: all // { ${setting.name} = setting.value; }) { };

      wantedLibraries =
        map (extension: extensions.preloaded.${extension}) (
          builtins.filter (extension: extensions.preloaded ? ${extension}) instance.extensions
        )
        ++ map lib.trim (
          lib.splitString "," (toString (instance.extraSettings.shared_preload_libraries or ""))
        );
      libraries = lib.unique (builtins.filter (library: library != "") wantedLibraries);

      # An extension built for another major version cannot be loaded.
      packageSet = instance.package.pkgs or { };
      ofThisVersion = package: packageSet.${lib.getName package} or package;
      extraPackages =
        if lib.isFunction instance.extraPackages then
          instance.extraPackages packageSet
        else
          map ofThisVersion instance.extraPackages;
    in
    {
      # A package that the user gives takes the place of the one that an extension's name stands for.
      extensionPackages =
        builtins.filter (package: !builtins.elem (lib.getName package) (map lib.getName extraPackages)) (
          extensions.packagesOf packageSet instance.extensions
        )
        ++ extraPackages;

      serverSettings = lib.mkMerge [
        (lib.mapAttrs (_: lib.mkDefault) (toSettings defaults))
        # Between the defaults and what must hold, so that the assertion on contradictions sees both.
        (lib.mapAttrs (_: lib.mkOverride 500) (
          removeAttrs instance.extraSettings [ "shared_preload_libraries" ]
        ))
        (toSettings required)
        (lib.mkIf (libraries != [ ]) {
          # The user's and those of the declared extensions together.
          shared_preload_libraries = lib.concatStringsSep "," libraries;
        })
      ];

      programSettings = {
        instance = name;
        postgresql = {
          binDirectory = "${instance.serverPackage}/bin";
          dataDirectory = instance.paths.data;
          inherit (instance.paths) socketDirectory;
          inherit (instance) port requiredMounts;
          unit = "postgresql-${name}.service";
          configFile = "/etc/postgresql/${name}/postgresql.conf";
          initdb = {
            inherit (instance.initdb)
              dataChecksums
              encoding
              localeProvider
              locale
              arguments
              ;
          };
        };
        archive.directory = instance.paths.archive;
      };

      writablePaths = instance.tablespaces;
    };

  # postgresql.conf, with the reason beside each line that the module wrote.
  postgresqlConf =
    name: instance:
    let
      arguments = { inherit name instance; };
      reasons =
        lib.listToAttrs (
          map (setting: lib.nameValuePair setting.name setting.why) (
            # What the user has set has the user's reason.
            builtins.filter (setting: !instance.extraSettings ? ${setting.name}) (settings.defaults arguments)
          )
        )
        // lib.listToAttrs (
          map (
            setting: lib.nameValuePair setting.name (setting.note or "From the option ${setting.option}.")
          ) (settings.required arguments)
        );
      entry =
        setting: value:
        lib.optionalString (reasons ? ${setting}) "# ${reasons.${setting}}\n"
        + "${setting} = ${settings.show value}\n";
    in
    ''
      # Made by the NixOS module. PGDATA/postgresql.conf includes this file; what ALTER SYSTEM has set stands in
      # postgresql.auto.conf and wins over it.

    ''
    + lib.concatStrings (lib.mapAttrsToList entry instance.serverSettings);

  # Whether anything that a client can reach from another machine is listened on.
  listensBeyondLoopback =
    instance:
    builtins.any (
      address:
      !builtins.elem address [
        "localhost"
        "::1"
      ]
      && !lib.hasPrefix "127." address
    ) instance.listenAddresses;

  # JIT compilers write code into memory and run it.
  compiles =
    instance:
    settings.same instance.serverSettings.jit true
    || builtins.any (extension: builtins.elem extension extensions.compiling) (
      instance.extensions ++ map lib.getName instance.extensionPackages
    );

  service =
    name: instance:
    let
      inherit (instance) paths;
      etc = file: config.environment.etc."postgresql/${name}/${file}".source;
      atStart = lib.filterAttrs (
        setting: _:
        builtins.elem setting settings.readAtStart
        # PostgreSQL 13 still reads restore_command once.
        || setting == "restore_command" && instance.version == "13"
      ) instance.serverSettings;
      preseed = lib.optional instance.preseed.enable "preseed-postgresql-${name}.service";
      archive = lib.optional instance.backup.isArchiving paths.archive;
      network = lib.optional (listensBeyondLoopback instance) "network-online.target";
    in
    {
      description = "PostgreSQL ${instance.version}, instance ${name}";
      documentation = [ "https://www.postgresql.org/docs/${instance.version}/" ];
      aliases = lib.optional instance.isDefault "postgresql.service";
      wantedBy = [ "multi-user.target" ];

      after =
        # An address that is not there yet cannot be bound, and PostgreSQL goes on without it.
        network
        # An empty data directory is filled before the server sees it.
        ++ preseed;
      # The target is only reached if something asks for it.
      wants = network;
      # Without its outcome nobody knows whether an empty directory may become an empty cluster.
      requires = preseed;

      unitConfig = {
        # Whatever mounts lie on the way to these directories.
        RequiresMountsFor = [
          paths.root
        ]
        ++ archive
        ++ instance.tablespaces;
        # An unmounted dataset is an empty directory; the server must not begin anew in it. This
        # fails the start, where a Condition would skip it without a word.
        AssertPathIsMountPoint = instance.requiredMounts;
      };

      # Five attempts, five seconds apart, and then the unit has failed and says so. The default
      # interval of 10 seconds would never be exceeded with this RestartSec.
      startLimitIntervalSec = 300;
      startLimitBurst = 5;
      # No onSuccess=: the unit succeeds by stopping, which is no recovery.
      onFailure = config.modules.notifications.onFailure "postgresql-failure";

      # A reload reads everything but the settings of the second list. Both are compared at a switch.
      reloadTriggers = map etc [
        "postgresql.conf"
        "pg_hba.conf"
        "pg_ident.conf"
      ];
      restartTriggers = [ (builtins.hashString "sha256" (builtins.toJSON atStart)) ];
      # A switch restarts the server in one step, instead of stopping it before the new system is
      # activated and starting it afterwards.
      stopIfChanged = false;

      environment = {
        # The server takes the protection below off its own children: when memory runs out one query
        # is lost, and not the server. (PostgreSQL manual, "Linux Memory Overcommit".)
        PG_OOM_ADJUST_FILE = "/proc/self/oom_score_adj";
        PG_OOM_ADJUST_VALUE = "0";
      };

      serviceConfig = blib.hardening.server // {
        Type = "notify";
        User = instance.user;
        Group = instance.group;
        ExecStartPre = blib.execStart [
          (blib.program "pg-init")
          "--config"
          paths.settingsFile
        ];
        ExecStart = blib.execStart [
          "${instance.serverPackage}/bin/postgres"
          "-D"
          paths.data
        ];
        ExecReload = "${pkgs.coreutils}/bin/kill -HUP $MAINPID";
        # SIGINT is a fast shutdown: sessions end, and the last WAL is archived. Only the server gets
        # it, and ends its children itself.
        KillMode = "mixed";
        KillSignal = "SIGINT";
        # Recovery takes as long as it takes. Each kill would make it start over.
        TimeoutStartSec = "infinity";
        # The shutdown checkpoint and the last calls of archive_command, each of which ends within a
        # deadline of its own. Past this the server is killed, and recovers at its next start.
        TimeoutStopSec = "10min";
        Restart = "on-failure";
        RestartSec = "5s";
        OOMScoreAdjust = -900;

        # Compilers of machine code are the one thing that this would break.
        MemoryDenyWriteExecute = !compiles instance;
        ReadWritePaths = lib.unique (
          [
            paths.root
            paths.socketDirectory
            paths.state
          ]
          ++ archive
          ++ instance.writablePaths
        );
      };
    };

  directory =
    instance: mode: {
      d = {
        inherit mode;
        inherit (instance) user group;
      };
    };
  rootDirectory.d = {
    mode = "0755";
    user = "root";
    group = "root";
  };

  tmpfiles =
    name: instance:
    let
      inherit (instance) paths;
      inherit (instance.backup) isArchiving takesBaseBackups;
      # A directory that something is mounted on is not made here: it would look like the mounted one
      # while that is missing.
      private = lib.subtractLists (instance.requiredMounts ++ instance.backupMounts) (
        [ paths.root ]
        ++ lib.optional isArchiving paths.archive
        ++ lib.optional takesBaseBackups paths.backups
        ++ instance.tablespaces
      );
    in
    lib.mkMerge [
      {
        # Owned by root: below a directory of another user, systemd-tmpfiles would refuse to make
        # directories for the users of other instances.
        "/var/lib/postgresql" = rootDirectory;
        "/var/lib/postgresql/${instance.version}" = rootDirectory;
        "/var/lib/backstay" = rootDirectory;

        ${paths.socketDirectory} = directory instance "0755";
        ${paths.state} = directory instance "0700";

        # The paths that people know. "L" and not "L+": what stands there already may be a cluster.
        ${paths.versionedData}.L.argument = paths.data;
        ${paths.versionedArchive} = lib.mkIf isArchiving { L.argument = paths.archive; };

        # Removes log files that are older. Does nothing while the directory is not there.
        "${paths.data}/log".e = {
          mode = "0700";
          inherit (instance) user group;
          age = "30d";
        };
      }
      (lib.genAttrs private (_: directory instance "0700"))
      (lib.mkIf (lib.any (lib.hasPrefix "/var/backup/postgresql/") private) {
        "/var/backup" = rootDirectory;
        "/var/backup/postgresql" = rootDirectory;
      })
    ];

  defaultInstances = lib.filterAttrs (_: instance: instance.isDefault) instances;
in
{
  imports = [
    ./options.nix
    ./datasets.nix
    ./assertions.nix
    # Read here: what is backed up and where, whether there is a preseed, the datasets, who is told, and
    # as whom SQL of a database runs.
    ../backup/options.nix
    ../preseed/options.nix
    ../provision/options.nix
    ../storage/options.nix
    ../notifications
  ];

  options.modules.services.postgresql.instances = lib.mkOption {
    type = lib.types.attrsOf (lib.types.submodule instanceModule);
  };

  config = lib.mkIf (instances != { }) {
    systemd.services = forEach (name: instance: { "postgresql-${name}" = service name instance; });

    # What other modules of NixOS order themselves after.
    systemd.targets.postgresql = lib.mkIf (defaultInstances != { }) {
      description = "PostgreSQL is ready for the services of this host";
      wantedBy = [ "multi-user.target" ];
      # The target means the default instance, and goes when it goes.
      requires = map (name: "postgresql-${name}.service") (builtins.attrNames defaultInstances);
      after = map (name: "postgresql-${name}.service") (builtins.attrNames defaultInstances);
    };

    systemd.tmpfiles.settings."10-postgresql" = forEach tmpfiles;

    environment.etc = forEach (
      name: instance: {
        "postgresql/${name}/postgresql.conf".text = postgresqlConf name instance;
        "postgresql/${name}/pg_hba.conf".text = hba.hba instance;
        "postgresql/${name}/pg_ident.conf".text = hba.ident instance;
        "backstay/${name}.json".source = blib.settingsFile name "backstay" instance.programSettings;
      }
    );

    environment.systemPackages = [
      pkgs.backstay.backstay
    ]
    ++ map (instance: instance.serverPackage) (builtins.attrValues defaultInstances);

    networking.firewall.allowedTCPPorts = map (instance: instance.port) (
      builtins.filter (instance: instance.openFirewall) values
    );

    users.users = forEach (
      _: instance: {
        ${instance.user} = {
          isSystemUser = true;
          group = lib.mkDefault instance.group;
          description = lib.mkDefault "PostgreSQL server";
          home = lib.mkDefault "/var/lib/postgresql";
          # The number that NixOS keeps for this user (misc/ids.nix). It has to be the same on every
          # machine: a replicated dataset carries numbers, not names.
          uid = lib.mkIf (instance.user == "postgres") (lib.mkDefault 71);
        };
      }
    );
    users.groups = forEach (
      _: instance: {
        ${instance.group}.gid = lib.mkIf (instance.group == "postgres") (lib.mkDefault 71);
      }
    );
  };
}
