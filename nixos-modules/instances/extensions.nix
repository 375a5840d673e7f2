# Extensions: which come with PostgreSQL, and which package holds the others.
{ lib }:
rec {
  # What "make world" of PostgreSQL 13 to 18 installs besides the server.
  bundled = [
    "adminpack"
    "amcheck"
    "auto_explain"
    "autoinc"
    "bloom"
    "bool_plperl"
    "bool_plperlu"
    "btree_gin"
    "btree_gist"
    "citext"
    "cube"
    "dblink"
    "dict_int"
    "dict_xsyn"
    "earthdistance"
    "file_fdw"
    "fuzzystrmatch"
    "hstore"
    "hstore_plperl"
    "hstore_plperlu"
    "hstore_plpython3u"
    "insert_username"
    "intagg"
    "intarray"
    "isn"
    "jsonb_plperl"
    "jsonb_plperlu"
    "jsonb_plpython3u"
    "lo"
    "ltree"
    "ltree_plpython3u"
    "moddatetime"
    "old_snapshot"
    "pageinspect"
    "pg_buffercache"
    "pg_freespacemap"
    "pg_logicalinspect"
    "pg_overexplain"
    "pg_prewarm"
    "pg_stat_statements"
    "pg_surgery"
    "pg_trgm"
    "pg_visibility"
    "pg_walinspect"
    "pgcrypto"
    "pgrowlocks"
    "pgstattuple"
    "plperl"
    "plperlu"
    "plpgsql"
    "plpython3u"
    "pltcl"
    "pltclu"
    "postgres_fdw"
    "refint"
    "seg"
    "sslinfo"
    "tablefunc"
    "tcn"
    "tsm_system_rows"
    "tsm_system_time"
    "unaccent"
    "uuid-ossp"
    "xml2"
  ];

  # Extensions whose package in nixpkgs has another name.
  packageNames = {
    address_standardizer = "postgis";
    address_standardizer_data_us = "postgis";
    postgis_raster = "postgis";
    postgis_sfcgal = "postgis";
    postgis_tiger_geocoder = "postgis";
    postgis_topology = "postgis";
    hll = "pg_hll";
    vector = "pgvector";
  };

  packageName = name: packageNames.${name} or name;

  # Libraries that have to be loaded when the server starts, or their extension cannot be created.
  preloaded = {
    auto_explain = "auto_explain";
    citus = "citus";
    pg_cron = "pg_cron";
    pg_net = "pg_net";
    pg_stat_statements = "pg_stat_statements";
    pgaudit = "pgaudit";
    pgsodium = "pgsodium";
    timescaledb = "timescaledb";
  };

  # Extensions that make machine code while they run.
  compiling = [
    "plv8"
    "pljava"
  ];

  # The packages of extensions, out of the package set of one version; and the names that have none.
  packagesOf =
    set: names:
    let
      wanted = lib.unique (map packageName (lib.subtractLists bundled names));
    in
    map (name: set.${name}) (builtins.filter (name: set ? ${name}) wanted);
  missingFrom =
    set: names:
    builtins.filter (name: !set ? ${packageName name}) (
      lib.subtractLists bundled (lib.naturalSort (lib.unique names))
    );
}
