# Stand-ins for `pkgs`: sets that look like derivations and whose paths lead into Debian's tree.
#
# A package that is not listed is an error, as it would be one in nixpkgs; add what a module really needs.
{ lib }:
let
  standIn =
    {
      pname,
      version ? "0",
      outPath ? "/usr",
      mainProgram ? pname,
      ...
    }@arguments:
    removeAttrs arguments [ "mainProgram" ]
    // {
      type = "derivation";
      name = "${pname}-${version}";
      inherit pname version outPath;
      meta = {
        inherit mainProgram;
      };
    };

  # A written file keeps its text, and has a path that changes with it: units that are restarted when a file changes show that
  # in their text, as they do on NixOS.
  written =
    name: text:
    standIn {
      pname = name;
      outPath = "/nix/store/${
        builtins.substring 0 32 (builtins.hashString "sha256" "${name}:${text}")
      }-${name}";
    }
    // {
      inherit name text;
    };

  extensions = lib.genAttrs [
    "cube"
    "hypopg"
    "pg_cron"
    "pg_partman"
    "pg_repack"
    "pgaudit"
    "pgvector"
    "postgis"
    "timescaledb"
    "vectorchord"
  ] (pname: standIn { inherit pname; });

  # The last minor versions known here; only the major one has a meaning in the modules.
  postgresql =
    major: version:
    let
      outPath = "/usr/lib/postgresql/${major}";
      package = standIn {
        pname = "postgresql";
        inherit version outPath;
        mainProgram = "postgres";
        psqlSchema = major;
        pkgs = extensions;
        # On Debian extensions are installed into the server's own tree, so the path stays. The name says what was chosen.
        withPackages =
          choose:
          package
          // rec {
            pname = lib.concatStringsSep "-with-" (
              [ "postgresql" ] ++ lib.naturalSort (lib.unique (map lib.getName (choose extensions)))
            );
            name = "${pname}-${version}";
          };
      };
    in
    package;

  backstay = lib.genAttrs [
    "backstay"
    "pg-archive-wal"
    "pg-base-backup"
    "pg-canary"
    "pg-datasets"
    "pg-drill"
    "pg-dump-database"
    "pg-healthcheck"
    "pg-init"
    "pg-off-site"
    "pg-preseed"
    "pg-provision"
    "pg-prune"
    "pg-replica"
    "pg-restore-wal"
  ] (
    pname:
    standIn {
      inherit pname;
      outPath = "/usr/lib/backstay";
    }
  );

  platform = {
    system = "x86_64-linux";
    isLinux = true;
    canExecute = _: true;
  };
in
lib.genAttrs [
  "apprise"
  "bash"
  "coreutils"
  "findutils"
  "gnugrep"
  "gnused"
  "openssh"
  "restic"
  "sanoid"
  "systemd"
  "util-linux"
] (pname: standIn { inherit pname; })
// {
  postgresql_13 = postgresql "13" "13.22";
  postgresql_14 = postgresql "14" "14.19";
  postgresql_15 = postgresql "15" "15.14";
  postgresql_16 = postgresql "16" "16.10";
  postgresql_17 = postgresql "17" "17.6";
  postgresql_18 = postgresql "18" "18.0";

  pgbackrest = standIn { pname = "pgbackrest"; };
  wal-g = standIn { pname = "wal-g"; };
  prometheus-node-exporter = standIn {
    pname = "node_exporter";
    mainProgram = "prometheus-node-exporter";
  };

  inherit backstay;

  stdenv = {
    buildPlatform = platform;
    hostPlatform = platform;
  };

  writeText = written;
  writeTextFile =
    {
      name,
      text,
      # Run by Nix where packages are built. Here it is only looked at.
      checkPhase ? "",
      ...
    }:
    written name text // { inherit checkPhase; };
}
