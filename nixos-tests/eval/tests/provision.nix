# Databases and roles by declaration: what becomes of a declaration, and which ones are refused.
{
  lib,
  evalHost,
  evaluates,
  pkgs,
  ...
}:
let
  blib = import ../../../nixos-modules/lib.nix { inherit lib pkgs; };

  main.modules.services.postgresql.instances.main.enable = true;
  host = modules: evalHost ([ main ] ++ modules);
  databases = declared: { modules.services.postgresql.databases = declared; };
  settings = evaluated: instance: builtins.fromJSON evaluated.files."/etc/backstay/${instance}.json";
  section = modules: (settings (host modules) "main").databases;

  guide = host [
    (databases {
      dispatcharr = {
        owner = "dispatcharr";
        ownerPasswordFile = "/run/secrets/dispatcharr/db_password";
        extensions = [
          "uuid-ossp"
          "pg_trgm"
        ];
        permissions = {
          dispatcharr = [ "ALL" ];
          readonly = [ "SELECT" ];
        };
      };
      immich = {
        owner = "immich";
        ownerPasswordFile = "/run/secrets/immich/db_password";
        extensions = [
          "vectors"
          "earthdistance"
          "pg_trgm"
        ];
        permissions = {
          immich = [ "ALL" ];
          backup = [ "SELECT" ];
        };
      };
    })
    { modules.services.postgresql.instances.main.databases = [ "legacy" ]; }
  ];

  # Lines of a unit that set one of `directives`.
  directives =
    names: text:
    lib.filter (line: lib.any (name: lib.hasPrefix "${name}=" line) names) (lib.splitString "\n" text);

  # The failed assertions of a configuration. Each case has one mistake and is refused with one message.
  refused = modules: messages: {
    expr = (host modules).failedAssertions;
    expected = messages;
  };
  refusedDatabase = declared: message: refused [ (databases { app = declared; }) ] [ message ];

  long = lib.concatStrings (lib.genList (_: "a") 64);
in
{
  "test the guide's databases, and a legacy list beside them, become settings" = {
    expr = (settings guide "main").databases;
    expected = {
      stampFile = "/var/lib/postgresql/provisioning/provisioned.sha256";
      readyDeadlineSeconds = 900;
      lockDeadlineSeconds = 30;
      roles = {
        backup.login = true;
        dispatcharr = {
          login = true;
          passwordFile = "password-dispatcharr";
        };
        immich = {
          login = true;
          passwordFile = "password-immich";
        };
        readonly.login = true;
      };
      declared = {
        dispatcharr = {
          managed = true;
          owner = "dispatcharr";
          isTemplate = false;
          revokePublic = true;
          permissionsPolicy = "custom";
          extensions = [
            {
              name = "uuid-ossp";
              updateToLatest = false;
            }
            {
              name = "pg_trgm";
              updateToLatest = false;
            }
          ];
          permissions = {
            dispatcharr = [ "ALL" ];
            readonly = [ "SELECT" ];
          };
        };
        immich = {
          managed = true;
          owner = "immich";
          isTemplate = false;
          revokePublic = true;
          permissionsPolicy = "custom";
          extensions = [
            {
              name = "vectors";
              updateToLatest = false;
            }
            {
              name = "earthdistance";
              updateToLatest = false;
            }
            {
              name = "pg_trgm";
              updateToLatest = false;
            }
          ];
          permissions = {
            backup = [ "SELECT" ];
            immich = [ "ALL" ];
          };
        };
        legacy = {
          managed = true;
          isTemplate = false;
          revokePublic = false;
          permissionsPolicy = "custom";
        };
      };
    };
  };

  "test the guide's databases are accepted" = {
    expr = guide.failedAssertions;
    expected = [ ];
  };

  "test passwords come as credentials, and a missing one does not stop the unit" = {
    expr = directives [
      "LoadCredential"
      "SetCredential"
      "LimitCORE"
    ] guide.units."postgresql-database-provisioning.service";
    expected = [
      "LimitCORE=0"
      "LoadCredential=password-dispatcharr:/run/secrets/dispatcharr/db_password"
      "LoadCredential=password-immich:/run/secrets/immich/db_password"
      "SetCredential=password-dispatcharr:\\n"
      "SetCredential=password-immich:\\n"
    ];
  };

  "test no file or unit holds the path of a password but the unit that loads it" = {
    expr = lib.attrNames (
      lib.filterAttrs (_: lib.hasInfix "/run/secrets/immich") (guide.units // guide.files)
    );
    expected = [ "postgresql-database-provisioning.service" ];
  };

  "test provisioning runs after its server, with each start of it and at each switch" = {
    expr = directives [
      "After"
      "Requires"
      "WantedBy"
      "Type"
      "RemainAfterExit"
      "ExecStart"
      "ReadWritePaths"
      "User"
    ] guide.units."postgresql-database-provisioning.service";
    expected = [
      "After=sops-install-secrets.service postgresql-main.service"
      "Requires=postgresql-main.service"
      "ExecStart=/usr/lib/backstay/bin/pg-provision --config /etc/backstay/main.json"
      "ReadWritePaths=/var/lib/postgresql/provisioning"
      "ReadWritePaths=/var/lib/node_exporter/textfile_collector"
      "Type=oneshot"
      "User=postgres"
      "WantedBy=multi-user.target postgresql-main.service"
    ];
  };

  "test a service can be ordered after its database" = {
    expr = directives [
      "After"
      "Wants"
      "Requires"
      "ExecStart"
    ] guide.units."postgresql-database-immich.service";
    expected = [
      "After=postgresql-database-provisioning.service postgresql-main.service"
      "Wants=postgresql-database-provisioning.service"
      "ExecStart=/usr/lib/backstay/bin/pg-provision --config /etc/backstay/main.json --ready immich"
    ];
  };

  "test the name of that unit can be read from the declaration" = {
    expr = lib.mapAttrs (_: database: database.unit) guide.config.modules.services.postgresql.databases;
    expected = {
      dispatcharr = "postgresql-database-dispatcharr.service";
      immich = "postgresql-database-immich.service";
    };
  };

  "test declared extensions bring their packages, and the guide's name for pgvector its own" = {
    expr = map lib.getName guide.config.modules.services.postgresql.instances.main.extensionPackages;
    expected = [ "pgvector" ];
  };

  "test another instance has units and a stamp of its own" = {
    expr =
      let
        both = host [
          {
            modules.services.postgresql.instances.dev = {
              enable = true;
              port = 5433;
              databases.scratch.owner = "scratch";
            };
          }
          (databases {
            tried = {
              instance = "dev";
              owner = "tried";
            };
          })
        ];
      in
      {
        units = lib.filter (lib.hasPrefix "postgresql-database-") (lib.attrNames both.units);
        main = (settings both "main").databases.declared or { };
        dev = lib.attrNames (settings both "dev").databases.declared;
        stamp = (settings both "dev").databases.stampFile;
      };
    expected = {
      units = [
        "postgresql-database-provisioning-dev.service"
        "postgresql-database-provisioning.service"
        "postgresql-database-scratch-dev.service"
        "postgresql-database-tried-dev.service"
      ];
      main = { };
      dev = [
        "scratch"
        "tried"
      ];
      stamp = "/var/lib/postgresql/provisioning/provisioned-dev.sha256";
    };
  };

  "test an instance without databases still provisions, since something may have to be revoked" = {
    expr = section [ ];
    expected = {
      stampFile = "/var/lib/postgresql/provisioning/provisioned.sha256";
      readyDeadlineSeconds = 900;
      lockDeadlineSeconds = 30;
      roles = { };
      declared = { };
    };
  };

  "test lists of databases from several modules are joined with declarations" = {
    expr = lib.attrNames (section [
      { modules.services.postgresql.instances.main.databases = [ "app1" ]; }
      { modules.services.postgresql.instances.main.databases = [ "app2" ]; }
      { modules.services.postgresql.instances.main.databases.app1.owner = "app1"; }
    ]).declared;
    expected = [
      "app1"
      "app2"
    ];
  };

  "test roles are gathered from everywhere, with all that is said about them" = {
    expr =
      (section [
        {
          modules.services.postgresql.instances.main.roles = {
            standby = {
              replication = true;
              passwordFile = "/run/secrets/standby";
            };
            app = {
              connectionLimit = 20;
              settings = {
                statement_timeout = "30s";
                jit = false;
                work_mem = 8192;
              };
              grantRoles = [
                "pg_monitor"
                "standby"
              ];
            };
          };
        }
        (databases {
          app = {
            owner = "app";
            ownerPasswordFile = "/run/secrets/app";
            permissionsPolicy = "owner-readwrite+readonly-select";
            additionalRoles."App writer".login = false;
            tablePermissions."public.*"."App writer" = [ "INSERT" ];
          };
        })
      ]).roles;
    expected = {
      "App writer" = {
        login = false;
        createDb = false;
        createRole = false;
        replication = false;
      };
      app = {
        login = true;
        passwordFile = "password-app";
        createDb = false;
        createRole = false;
        replication = false;
        connectionLimit = 20;
        memberOf = [
          "pg_monitor"
          "standby"
        ];
        settings = {
          jit = "off";
          statement_timeout = "30s";
          work_mem = "8192";
        };
      };
      app_readonly.login = false;
      standby = {
        login = true;
        passwordFile = "password-standby";
        createDb = false;
        createRole = false;
        replication = true;
      };
    };
  };

  "test every property of a database reaches the settings" = {
    expr =
      (section [
        (databases {
          app = {
            managed = false;
            owner = "app";
            encoding = "UTF8";
            localeProvider = "icu";
            locale = "de-DE";
            collation = "C";
            lcCtype = "C";
            template = "template0";
            tablespace = "fast";
            isTemplate = true;
            connectionLimit = 5;
            revokePublic = false;
            permissionsPolicy = "owner-only";
            extensions = [
              {
                name = "pg_trgm";
                schema = "extensions";
                version = "1.6";
              }
            ];
            settings.search_path = "app, public";
            databasePermissions.reader = [ "CONNECT" ];
            schemaPermissions.reports.reader = [ "USAGE" ];
            tablePermissions."public.orders".reader = [ ];
            functionPermissions."public.*".reader = [ "EXECUTE" ];
            defaultPrivileges.later = {
              schema = null;
              tables.reader = [ "SELECT" ];
            };
            customSql.preCreate = [ "SELECT 1;" ];
            migrations = "/srv/app/migrations";
            schemaMigrations.entries = [ 20260101 ];
          };
        })
      ]).declared.app;
    expected = {
      managed = false;
      owner = "app";
      encoding = "UTF8";
      localeProvider = "icu";
      locale = "de-DE";
      collation = "C";
      lcCtype = "C";
      template = "template0";
      tablespace = "fast";
      isTemplate = true;
      connectionLimit = 5;
      revokePublic = false;
      permissionsPolicy = "ownerOnly";
      extensions = [
        {
          name = "pg_trgm";
          schema = "extensions";
          version = "1.6";
          updateToLatest = false;
        }
      ];
      settings.search_path = "app, public";
      databasePermissions.reader = [ "CONNECT" ];
      schemaPermissions.reports.reader = [ "USAGE" ];
      tablePermissions."public.orders".reader = [ ];
      functionPermissions."public.*".reader = [ "EXECUTE" ];
      defaultPrivileges.later = {
        tables.reader = [ "SELECT" ];
        sequences = { };
        functions = { };
      };
      customSql.preCreate = [ "/etc/backstay/sql/main/app/preCreate/001.sql" ];
      migrations = "/srv/app/migrations";
      schemaMigrations = {
        schema = "public";
        table = "schema_migrations";
        column = "version";
        columnType = "text";
        ensureTable = false;
        pruneUnknown = false;
        entries = [ "20260101" ];
      };
    };
  };

  "test SQL becomes files that the unit is restarted for, and files of the host stay where they are" = {
    expr =
      let
        with_ =
          script:
          host [
            (databases {
              app = {
                owner = "app";
                initScripts = [
                  script
                  "/* a comment */ SELECT 2;"
                  "/srv/app/schema.sql"
                ];
              };
            })
          ];
        one = with_ "SELECT 1;";
        other = with_ "SELECT 3;";
        unit = evaluated: evaluated.units."postgresql-database-provisioning.service";
      in
      {
        named = (settings one "main").databases.declared.app.initScripts;
        files = lib.filterAttrs (path: _: lib.hasPrefix "/etc/backstay/sql/" path) one.files;
        changed = unit one != unit other;
        owners = one.config.modules.services.postgresql.instances.main.provisionedOwners;
      };
    expected = {
      named = [
        "/etc/backstay/sql/main/app/init/001.sql"
        "/etc/backstay/sql/main/app/init/002.sql"
        "/srv/app/schema.sql"
      ];
      files = {
        "/etc/backstay/sql/main/app/init/001.sql" = "SELECT 1;";
        "/etc/backstay/sql/main/app/init/002.sql" = "/* a comment */ SELECT 2;";
      };
      changed = true;
      owners = [ "app" ];
    };
  };

  "test a database whose name no unit or file could hold gets names that they can" = {
    expr =
      let
        odd = host [
          (databases {
            "a b/c%d" = {
              owner = "it's";
              ownerPasswordFile = "/run/secrets/100%";
              initScripts = [ "SELECT 1;" ];
            };
            "größe" = { };
          })
        ];
      in
      {
        units = lib.filter (name: lib.hasPrefix "postgresql-database-" name) (lib.attrNames odd.units);
        description = directives [ "Description" ] odd.units."postgresql-database-a\\x20b\\x2fc\\x25d.service";
        start = directives [ "ExecStart" ] odd.units."postgresql-database-a\\x20b\\x2fc\\x25d.service";
        credential = directives [ "LoadCredential" ] odd.units."postgresql-database-provisioning.service";
        file = (settings odd "main").databases.roles."it's".passwordFile;
        scripts = (settings odd "main").databases.declared."a b/c%d".initScripts;
      };
    expected = {
      units = [
        "postgresql-database-a\\x20b\\x2fc\\x25d.service"
        "postgresql-database-${builtins.substring 0 16 (builtins.hashString "sha256" "größe")}.service"
        "postgresql-database-provisioning.service"
      ];
      description = [
        "Description=Database a b/c%%d of the PostgreSQL instance main is as declared"
      ];
      start = [
        "ExecStart=/usr/lib/backstay/bin/pg-provision --config /etc/backstay/main.json --ready \"a b/c%%d\""
      ];
      credential = [
        "LoadCredential=password-${builtins.substring 0 16 (builtins.hashString "sha256" "it's")}:/run/secrets/100%%"
      ];
      file = "password-${builtins.substring 0 16 (builtins.hashString "sha256" "it's")}";
      scripts = [
        "/etc/backstay/sql/main/${
          builtins.substring 0 16 (builtins.hashString "sha256" "a b/c%d")
        }/init/001.sql"
      ];
    };
  };

  "test dumps have a timer, a directory and a copy off-site" = {
    expr =
      let
        dumping = host [
          (databases {
            app.dump = {
              enable = true;
              schedule = "*/30";
              retention.daily = 14;
            };
            other = { };
          })
          {
            modules.backup.restic.repositories.nas = {
              url = "rest:https://backup.example.org/forge";
              passwordFile = "/run/secrets/restic";
            };
            modules.services.postgresql.instances.main.backup.restic = {
              enable = true;
              repositoryName = "nas";
            };
          }
        ];
        job = dumping.config.modules.backup.restic.jobs."postgresql-main-dumps";
      in
      {
        units = lib.filter (lib.hasPrefix "postgresql-dump-") (lib.attrNames dumping.units);
        timer = directives [
          "OnCalendar"
          "Persistent"
        ] dumping.units."postgresql-dump-app.timer";
        start = directives [
          "ExecStart"
          "ReadWritePaths"
        ] dumping.units."postgresql-dump-app.service";
        settings = (settings dumping "main").databases.declared.app.dump;
        job = {
          inherit (job) repository paths tags;
        };
      };
    expected = {
      units = [
        "postgresql-dump-app.service"
        "postgresql-dump-app.timer"
      ];
      timer = [
        "OnCalendar=*:0/30"
        "Persistent=true"
      ];
      start = [
        "ExecStart=/usr/lib/backstay/bin/pg-dump-database --config /etc/backstay/main.json --database app"
        "ReadWritePaths=/var/backup/postgresql/main-dumps/app"
        "ReadWritePaths=/var/lib/node_exporter/textfile_collector"
      ];
      settings = {
        directory = "/var/backup/postgresql/main-dumps/app";
        daily = 14;
        maximumAgeSeconds = 23400;
        weekly = 4;
        monthly = 3;
      };
      job = {
        repository = "nas";
        paths = [ "/var/backup/postgresql/main-dumps/app" ];
        tags = [
          "postgresql"
          "main"
          "dump"
        ];
      };
    };
  };

  "test dumps go into a directory together with archive and base backups" = {
    expr =
      let
        dumping = host [
          (databases { app.dump.enable = true; })
          {
            modules.backup.restic.repositories.postgresql-main = {
              mountPoint = "/mnt/nas-backup";
            };
            modules.services.postgresql.instances.main.backup.restic = {
              repositoryUrl = "/mnt/nas-backup";
              passwordFile = "/run/secrets/restic";
            };
          }
        ];
      in
      {
        inherit (dumping) failedAssertions;
        job = directives [
          "User"
          "PrivateUsers"
        ] dumping.units."restic-backups-postgresql-main-dumps.service";
      };
    expected = {
      failedAssertions = [ ];
      job = [
        "PrivateUsers=true"
        "User=postgres"
      ];
    };
  };

  "test E18 an instance that is not enabled leaves no trace of its databases" = {
    expr =
      (evalHost [
        {
          modules.services.postgresql.instances.main = {
            enable = false;
            databases.app = {
              owner = "app";
              dump.enable = true;
            };
          };
        }
      ]).state == (evalHost [ ]).state;
    expected = true;
  };

  "test E6 a password in the store or as a path literal is refused" = {
    expr = map (
      file:
      evaluates
        (host [
          (databases {
            app = {
              owner = "app";
              ownerPasswordFile = file;
            };
          })
        ]).units."postgresql-database-provisioning.service"
    ) [
      ./provision.nix
      "/nix/store/00000000000000000000000000000000-password"
      "secrets/password"
      "/run/secrets/password"
    ];
    expected = [
      false
      false
      false
      true
    ];
  };

  "test E6 the refusal of a password in the store says what to do" = {
    expr = map blib.externalPathProblem [
      "/nix/store/00000000000000000000000000000000-password"
      "secrets/password"
    ];
    expected = [
      "\"/nix/store/00000000000000000000000000000000-password\" is in the Nix store, where every user can read it; give a file that is put on the host apart from the store, such as \"/run/secrets/name\""
      "\"secrets/password\" is not an absolute path; give the path of a file on the host, such as \"/run/secrets/name\""
    ];
  };

  "test E9 a role with two password files is refused" =
    refused
      [
        (databases {
          app1 = {
            owner = "app";
            ownerPasswordFile = "/run/secrets/app1";
          };
          app2 = {
            owner = "app";
            ownerPasswordFile = "/run/secrets/app2";
          };
        })
      ]
      [
        "modules.services.postgresql.instances.main: the role \"app\" has 2 password files, \"/run/secrets/app1\" (modules.services.postgresql.databases.app1.ownerPasswordFile) and \"/run/secrets/app2\" (modules.services.postgresql.databases.app2.ownerPasswordFile); a role has one password, so name one file, or use roles of different names."
      ];

  "test one owner of two databases with one password file is accepted" = refused [
    (databases (
      lib.genAttrs
        [
          "app1"
          "app2"
        ]
        (_: {
          owner = "app";
          ownerPasswordFile = "/run/secrets/app";
        })
    ))
  ] [ ];

  "test E9 an over-long database name is refused" = refused [ (databases { ${long} = { }; }) ] [
    "modules.services.postgresql.databases.${long}: the name \"${long}\" has 64 bytes and PostgreSQL keeps 63 of them, so that two names could become one database; shorten it."
  ];

  "test V11 two roles that PostgreSQL would cut to one name are refused" =
    refused
      [
        (databases {
          app1.owner = "${long}1";
          app2.owner = "${long}2";
        })
      ]
      [
        "modules.services.postgresql.databases.app1.owner: the name \"${long}1\" has 65 bytes and PostgreSQL keeps 63 of them, so that two names could become one role; shorten it."
        "modules.services.postgresql.databases.app2.owner: the name \"${long}2\" has 65 bytes and PostgreSQL keeps 63 of them, so that two names could become one role; shorten it."
      ];

  "test a name of 63 bytes is accepted" = refused [
    (databases { ${builtins.substring 0 63 long} = { }; })
  ] [ ];

  "test E9 a database that is declared in two places is refused" =
    refused
      [
        (databases { app.owner = "app"; })
        { modules.services.postgresql.instances.main.databases = [ "app" ]; }
      ]
      [
        "modules.services.postgresql.databases.app: modules.services.postgresql.instances.main.databases.app declares the same database of instance main; declare it in one place."
      ];

  "test E9 a database that is listed twice is refused" =
    refused
      [
        {
          modules.services.postgresql.instances.main.databases = [
            "app"
            "app"
          ];
        }
      ]
      [
        "modules.services.postgresql.instances.main.databases: \"app\" is listed 2 times; list it once."
      ];

  "test an unknown instance is refused" = refusedDatabase { instance = "dev"; } "modules.services.postgresql.databases.app: there is no enabled instance \"dev\"; enable it, or choose from main.";

  "test databases without any instance are refused" = {
    expr = (evalHost [ (databases { app = { }; }) ]).failedAssertions;
    expected = [
      "modules.services.postgresql.databases.app: there is no instance to create it in; enable one in modules.services.postgresql.instances."
    ];
  };

  "test several instances without a default one are refused" = {
    expr =
      (evalHost [
        {
          modules.services.postgresql.instances = {
            one.enable = true;
            two = {
              enable = true;
              port = 5433;
            };
          };
        }
        (databases { app = { }; })
      ]).failedAssertions;
    expected = [
      "modules.services.postgresql.databases.app: several instances are enabled (one, two) and none is the default; set its instance, or modules.services.postgresql.defaultInstance."
    ];
  };

  "test a role that PostgreSQL keeps for itself is refused" = refusedDatabase { owner = "pg_app"; } "modules.services.postgresql.databases.app.owner: the role \"pg_app\" begins with \"pg_\", which PostgreSQL keeps for its own roles; choose another name.";

  "test a role that means everybody is refused" =
    refusedDatabase
      {
        permissions.public = [ "SELECT" ];
      }
      "modules.services.postgresql.databases.app.permissions: \"public\" has a meaning of its own in SQL and cannot be a role; choose another name.";

  "test a database of PostgreSQL's own is refused" = refused [ (databases { template1 = { }; }) ] [
    "modules.services.postgresql.databases.template1: \"template1\" is PostgreSQL's own; choose another name."
  ];

  "test a line break in a name is refused" = refusedDatabase { owner = "a\nb"; } "modules.services.postgresql.databases.app.owner: the name of a role cannot contain a control character; choose another.";

  "test roles that differ only in capital letters are refused" =
    refusedDatabase
      {
        owner = "app";
        additionalRoles.App = { };
      }
      "modules.services.postgresql.instances.main: the roles \"App\" and \"app\" differ only in capital letters, and SQL that does not quote them means one of them; rename the other.";

  "test databases that differ only in capital letters are refused" =
    refused
      [
        (databases {
          App = { };
          app = { };
        })
      ]
      [
        "modules.services.postgresql.instances.main: the databases \"App\" and \"app\" differ only in capital letters, and SQL that does not quote them means one of them; rename the other."
      ];

  "test two declarations of one role that differ are refused" =
    refused
      [
        (databases {
          app1.additionalRoles.grafana.connectionLimit = 5;
          app2.additionalRoles.grafana = { };
        })
      ]
      [
        "modules.services.postgresql.databases.app2.additionalRoles.grafana: modules.services.postgresql.databases.app1.additionalRoles.grafana says something else about the role \"grafana\" of instance main; a role belongs to the whole instance, so declare it once."
      ];

  "test membership in an unknown role is refused" =
    refusedDatabase
      {
        additionalRoles.grafana.grantRoles = [ "readers" ];
      }
      "modules.services.postgresql.databases.app.additionalRoles.grafana.grantRoles: there is no role \"readers\" in instance main; declare it in modules.services.postgresql.instances.main.roles, or name one that PostgreSQL brings along, such as \"pg_monitor\".";

  "test a role that is a member of itself is refused" =
    refusedDatabase
      {
        additionalRoles.grafana.grantRoles = [ "grafana" ];
      }
      "modules.services.postgresql.databases.app.additionalRoles.grafana.grantRoles: a role cannot be a member of itself; leave \"grafana\" out.";

  "test a password without an owner is refused" =
    refusedDatabase
      {
        ownerPasswordFile = "/run/secrets/app";
      }
      "modules.services.postgresql.databases.app.ownerPasswordFile: the owner is the superuser postgres, whose password is not managed; set owner to a role of its own.";

  "test an unknown privilege is refused" =
    refusedDatabase
      {
        databasePermissions.reader = [ "LOGIN" ];
      }
      "modules.services.postgresql.databases.app.databasePermissions.reader: \"LOGIN\" is no privilege; use ALL, CONNECT, CREATE, TEMP, TEMPORARY.";

  "test a privilege in small letters is refused with the right spelling" =
    refusedDatabase
      {
        permissions.reader = [ "select" ];
      }
      "modules.services.postgresql.databases.app.permissions.reader: \"select\" is no privilege; use \"SELECT\".";

  "test SELECT on a database is refused" =
    refusedDatabase
      {
        databasePermissions.reader = [ "SELECT" ];
      }
      "modules.services.postgresql.databases.app.databasePermissions.reader: \"SELECT\" is no privilege on a database; it belongs into permissions or tablePermissions.";

  "test CONNECT on a table is refused" =
    refusedDatabase
      {
        tablePermissions."public.*".reader = [ "CONNECT" ];
      }
      "modules.services.postgresql.databases.app.tablePermissions.\"public.*\".reader: \"CONNECT\" is no privilege on a table or sequence; it belongs into databasePermissions.";

  "test a privilege of a newer PostgreSQL is refused" =
    refusedDatabase
      {
        permissions.keeper = [ "MAINTAIN" ];
      }
      "modules.services.postgresql.databases.app.permissions.keeper: \"MAINTAIN\" needs PostgreSQL 17, and the instance has 16; leave it out, or upgrade the instance.";

  "test less than everything for the owner is refused" =
    refusedDatabase
      {
        owner = "app";
        permissions.app = [ "SELECT" ];
      }
      "modules.services.postgresql.databases.app.permissions.app: the owner of a database may do everything in it, whatever is declared; write [ \"ALL\" ], or leave it out.";

  "test a table without its schema is refused" =
    refusedDatabase
      {
        tablePermissions.orders.reader = [ "SELECT" ];
      }
      "modules.services.postgresql.databases.app.tablePermissions.orders: \"orders\" is not schema.name, schema.* or *.*; put the schema before the name, and double quotes around a part with a dot, a star or a quote in it.";

  "test quoted names of tables are accepted" = refused [
    (databases {
      app.tablePermissions = {
        "\"my.schema\".\"Order\"\"s\"".reader = [ "SELECT" ];
        "\"my.schema\".*".reader = [ "SELECT" ];
        "*.*".reader = [ "SELECT" ];
      };
    })
  ] [ ];

  "test an extension that is listed twice is refused" =
    refusedDatabase
      {
        extensions = [
          "pg_trgm"
          {
            name = "pg_trgm";
            schema = "extensions";
          }
        ];
      }
      "modules.services.postgresql.databases.app.extensions: \"pg_trgm\" is listed 2 times; list it once.";

  "test an extension with a version that is always updated is refused" =
    refusedDatabase
      {
        extensions = [
          {
            name = "pg_trgm";
            version = "1.6";
            updateToLatest = true;
          }
        ];
      }
      "modules.services.postgresql.databases.app.extensions: \"pg_trgm\" has a version and updateToLatest, which contradict each other; leave one out.";

  "test E9 default privileges of an unknown owner are refused" =
    refusedDatabase
      {
        defaultPrivileges.imports.owner = "importer";
      }
      "modules.services.postgresql.databases.app.defaultPrivileges.imports.owner: nothing declares the role \"importer\", so it creates nothing; declare it in additionalRoles.";

  "test a parameter that decides who a session is is refused" =
    refusedDatabase
      {
        settings.role = "admin";
      }
      "modules.services.postgresql.databases.app.settings.role: it decides who a session is and cannot be a default; grant the role instead.";

  "test a locale provider that the version lacks is refused" =
    refusedDatabase
      {
        localeProvider = "builtin";
        locale = "C.UTF-8";
      }
      "modules.services.postgresql.databases.app.localeProvider: \"builtin\" needs PostgreSQL 17, and instance main has 16; use \"libc\", or upgrade the instance.";

  "test a locale without its provider is refused" = refusedDatabase { locale = "de-DE"; } "modules.services.postgresql.databases.app.locale: it is for the providers icu and builtin; set localeProvider to one of them, or set collation and lcCtype.";

  "test scripts of an owner that may not log in are refused" =
    refusedDatabase
      {
        owner = "app";
        additionalRoles.app.login = false;
        initScripts = [ "SELECT 1;" ];
      }
      "modules.services.postgresql.databases.app.owner: initScripts, migrations and schemaMigrations run in a session of \"app\", which may not log in; let it log in, or declare another owner.";

  "test scripts of an owner whom pg_hba.conf cannot name are refused" =
    refusedDatabase
      {
        owner = "/app";
        initScripts = [ "SELECT 1;" ];
      }
      "modules.services.postgresql.databases.app.owner: initScripts, migrations and schemaMigrations need a line for /app in pg_hba.conf and pg_ident.conf, which cannot hold a double quote, nor a slash at the start; choose another name.";

  "test the server lets the provisioning in as the owners whose SQL it runs" = {
    expr =
      let
        owners = host [
          (databases {
            app = {
              owner = "app";
              initScripts = [ "SELECT 1;" ];
            };
            other.owner = "other";
          })
        ];
        about = file: lib.filter (lib.hasInfix "\"app\"") (lib.splitString "\n" owners.files.${file});
      in
      {
        hba = about "/etc/postgresql/main/pg_hba.conf";
        ident = about "/etc/postgresql/main/pg_ident.conf";
      };
    expected = {
      hba = [ "local all \"app\" peer map=backstay" ];
      ident = [
        "backstay postgres \"app\""
        "backstay \"app\" \"app\""
      ];
    };
  };

  "test rows that would all be pruned are refused" =
    refusedDatabase
      {
        schemaMigrations.pruneUnknown = true;
      }
      "modules.services.postgresql.databases.app.schemaMigrations.pruneUnknown: without entries it would delete every row; list the entries, or set it to false.";

  "test a reader that is the owner is refused" =
    refusedDatabase
      {
        owner = "app";
        permissionsPolicy = "owner-readwrite+readonly-select";
        readonlyRole = "app";
      }
      "modules.services.postgresql.databases.app.readonlyRole: \"app\" is the owner, which may write; name another role.";

  "test a database that is a copy of itself over another is refused" =
    refused
      [
        (databases {
          a.template = "b";
          b.template = "a";
          c.template = "a";
        })
      ]
      [
        "modules.services.postgresql.databases.a.template: a is a copy of b is a copy of a; one of them has to come first, so change its template."
      ];

  "test a database whose unit would be another's is refused" =
    refused [ (databases { provisioning = { }; }) ]
      [
        "modules.services.postgresql.databases.provisioning: its unit would be postgresql-database-provisioning.service, which is also that of the provisioning of instance main; rename the database."
      ];

  "test dumps inside the archive are refused" =
    refusedDatabase
      {
        dump = {
          enable = true;
          directory = "/var/lib/postgresql/main-wal/dumps";
        };
      }
      "modules.services.postgresql.databases.app.dump.directory: \"/var/lib/postgresql/main-wal/dumps\" and the WAL archive of instance main, \"/var/lib/postgresql/main-wal\", are one inside the other; choose a directory apart from it.";

  "test dumps that are not kept are refused" =
    refusedDatabase
      {
        dump = {
          enable = true;
          retention = {
            daily = 0;
            weekly = 0;
            monthly = 0;
          };
        };
      }
      "modules.services.postgresql.databases.app.dump.retention: daily, weekly and monthly are all 0, which keeps nothing but the newest dump; keep at least one day.";

  "test two databases that dump into one directory are refused" =
    refused
      [
        (databases (
          lib.genAttrs
            [
              "app1"
              "app2"
            ]
            (_: {
              dump = {
                enable = true;
                directory = "/srv/dumps";
              };
            })
        ))
      ]
      [
        "modules.services.postgresql.databases.app1.dump.directory: \"/srv/dumps\" is also that of modules.services.postgresql.databases.app2.dump.directory; a dump of one would count as a dump of the other, so give each a directory of its own."
      ];
}
