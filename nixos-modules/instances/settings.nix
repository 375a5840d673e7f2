# postgresql.conf: what the module sets, why, and how it is written.
#
# `defaults` may be changed by the user. `required` must hold; a user's value that differs is refused
# with `why`. A name stands here only for the versions that know it: PostgreSQL does not start on a
# name that it does not know.
{ lib, blib }:
let
  inherit (lib) optionals versionAtLeast versionOlder;

  quote =
    text:
    "'${
      builtins.replaceStrings
        [
          "\\"
          "'"
          "\n"
        ]
        [
          "\\\\"
          "''"
          "\\n"
        ]
        text
    }'";
in
rec {
  # A value as postgresql.conf writes it.
  show =
    value:
    if builtins.isBool value then
      (if value then "on" else "off")
    else if builtins.isString value then
      quote value
    else
      # Floats are written as JSON does; toString would always give six decimals.
      builtins.toJSON value;

  # A value for a message, without the quotes of the file.
  plain = value: if builtins.isString value then value else show value;

  # Whether PostgreSQL reads two values as the same.
  same =
    left: right:
    let
      flag =
        value:
        {
          on = true;
          off = false;
          true = true;
          false = false;
          yes = true;
          no = false;
          "1" = true;
          "0" = false;
        }
        .${lib.toLower (plain value)} or null;
      isSize = value: builtins.isString value && blib.sizeProblem value == null;
    in
    plain left == plain right
    || (builtins.isBool left || builtins.isBool right) && flag left != null && flag left == flag right
    || isSize left && isSize right && blib.sizeBytes left == blib.sizeBytes right;

  defaults =
    {
      name,
      instance,
    }:
    let
      inherit (instance) version;
    in
    [
      {
        name = "cluster_name";
        value = name;
        why = "Tells the processes of several instances apart in ps and top.";
      }
      {
        name = "jit";
        value = false;
        why = "Compiled queries need memory that is writable and executable, which the unit's sandbox denies. Setting it to on in extraSettings lifts that.";
      }

      # Durability and the WAL.
      {
        name = "wal_level";
        value = "replica";
        why = "The least that an archive, a base backup or a standby can work with.";
      }
      {
        name = "archive_mode";
        value = instance.backup.isArchiving;
        why = "Hands finished WAL files to archive_command, once the database is out of recovery.";
      }
      {
        name = "checkpoint_timeout";
        value = "15min";
        why = "Fewer checkpoints write fewer full pages into the WAL, and so into the archive. The price is a longer replay after a crash.";
      }
      {
        name = "max_wal_size";
        value = "2GB";
        why = "Enough that the time and not the amount of WAL starts a checkpoint on a usual load.";
      }
      {
        name = "min_wal_size";
        value = "512MB";
        why = "Keeps segments for the next burst instead of removing and creating them.";
      }
      {
        name = "wal_compression";
        # Before 15 there is one algorithm and the setting is a switch.
        value = if versionAtLeast version "15" then "lz4" else true;
        why = "Full pages are most of the WAL after a checkpoint; compressing them costs less than writing, archiving and sending them.";
      }
      {
        name = "max_slot_wal_keep_size";
        value = "10GB";
        why = "Without a bound, a replication slot that nobody reads keeps WAL until the disk is full and the server stops.";
      }
    ]
    ++ optionals (versionOlder version "14") [
      {
        name = "checkpoint_completion_target";
        value = 0.9;
        why = "Spreads the writes of a checkpoint over most of the time until the next; the default since 14.";
      }
    ]
    ++ optionals instance.isOnZfs [
      {
        name = "wal_init_zero";
        value = false;
        why = "ZFS writes every block to a new place, so filling a segment with zeros first reserves nothing and is written twice.";
      }
      {
        name = "wal_recycle";
        value = false;
        why = "For the same reason an old segment is no better than a new one, and its blocks have left the cache.";
      }
    ]
    ++ [
      # Planner and input/output.
      {
        name = "random_page_cost";
        value = 1.1;
        why = "On solid-state disks, and from a cache, a random page costs hardly more than the next one.";
      }
    ]
    ++ optionals (versionOlder version "18") [
      {
        # From 18 on, workers read asynchronously, and its own default (16) is made for them.
        name = "effective_io_concurrency";
        value = 200;
        why = "How many pages a bitmap scan asks for ahead; the default of 1 is made for one rotating disk.";
      }
    ]
    ++ [
      # Logging.
      {
        name = "logging_collector";
        value = true;
        why = "Keeps the log in files that stay with the data and are bounded below; a message is never lost to a rate limit.";
      }
      {
        name = "log_directory";
        value = "log";
        why = "Below the data directory, where the server may write.";
      }
      {
        name = "log_filename";
        value = "postgresql-%Y-%m-%d_%H%M%S.log";
        why = "One file a day; systemd-tmpfiles removes those that are older than 30 days.";
      }
      {
        name = "log_rotation_age";
        value = "1d";
        why = "See log_filename.";
      }
      {
        name = "log_rotation_size";
        value = "100MB";
        why = "A file that can still be opened on a bad day.";
      }
      {
        name = "log_line_prefix";
        value = "%m [%p]: [%l-1] user=%u,db=%d,app=%a,client=%h ";
        why = "Who, where from and when to the millisecond; a target for a restore is found by it.";
      }
      {
        name = "log_timezone";
        value = "UTC";
        why = "The names of base backups are UTC too, and no hour happens twice a year.";
      }
      {
        name = "timezone";
        value = "UTC";
        why = "What a client sees that asks for no time zone; the same on every machine that the data is restored to.";
      }
      {
        name = "lc_messages";
        value = "C";
        why = "Messages in English, which is what people search for.";
      }
      {
        name = "log_checkpoints";
        value = true;
        why = "Shows when WAL forces checkpoints; one line for each.";
      }
      {
        name = "log_lock_waits";
        value = true;
        why = "A query that waits for another one says so.";
      }
      {
        name = "track_io_timing";
        value = true;
        why = "Tells a slow disk from a slow query in EXPLAIN and in the statistics.";
      }
    ]
    ++ optionals (versionAtLeast version "14") [
      {
        name = "track_wal_io_timing";
        value = true;
        why = "The same for the WAL, whose disk every commit waits for.";
      }
    ];

  # `option` is the instance's option that sets the value, where there is one. `why` follows the
  # value in a message, as in "off would …"; `note` is for the file.
  required =
    {
      name,
      instance,
    }:
    let
      inherit (instance) paths;
      incremental = (instance.programSettings.baseBackup.incremental or null) != null;
      program = file: "${blib.program file} --config ${paths.settingsFile}";
    in
    [
      {
        name = "listen_addresses";
        value = lib.concatStringsSep "," instance.listenAddresses;
        option = "listenAddresses";
      }
      {
        name = "port";
        value = instance.port;
        option = "port";
      }
      {
        name = "max_connections";
        value = instance.maxConnections;
        option = "maxConnections";
      }
      {
        name = "shared_buffers";
        value = instance.sharedBuffers;
        option = "sharedBuffers";
      }
      {
        name = "effective_cache_size";
        value = instance.effectiveCacheSize;
        option = "effectiveCacheSize";
      }
      {
        name = "work_mem";
        value = instance.workMem;
        option = "workMem";
      }
      {
        name = "maintenance_work_mem";
        value = instance.maintenanceWorkMem;
        option = "maintenanceWorkMem";
      }
      {
        name = "unix_socket_directories";
        value = paths.socketDirectory;
        why = "would put the socket where no program of the module looks for it";
        note = "Where the module's programs look for the server.";
      }
      {
        name = "hba_file";
        value = "/etc/postgresql/${name}/pg_hba.conf";
        why = "would take the place of the lines in authentication";
        note = "From the option authentication.";
      }
      {
        name = "ident_file";
        value = "/etc/postgresql/${name}/pg_ident.conf";
        why = "would take the place of the lines in identMap";
        note = "From the option identMap.";
      }
      {
        name = "password_encryption";
        value = "scram-sha-256";
        why = "would store passwords in a form that can be replayed";
        note = "The other form, md5, can be replayed by whoever reads it.";
      }
      {
        name = "fsync";
        value = true;
        why = "would lose or damage committed data when the machine stops, and no backup could tell";
        note = "A commit is on disk before the client hears of it.";
      }
      {
        name = "full_page_writes";
        value = true;
        why = "would leave a half-written page unrepaired after a crash wherever the file system does not write a whole page at once";
        # ZFS writes a record whole or not at all, so with recordsize=8K no page is torn there.
        note =
          if instance.isOnZfs then
            "On, although ZFS with recordsize=8K never leaves a page half written: the record size holds only for files written since it was set, and this data may be restored to a machine without ZFS. wal_compression takes most of the price."
          else
            "Repairs a page that a crash left half written.";
      }
      {
        name = "restore_command";
        # Read in recovery only. PostgreSQL replaces %f and %p, and runs the line with a shell;
        # everything else is in the settings file.
        value = "${program "pg-restore-wal"} \"%f\" \"%p\"";
        why = "would keep a restore from reading this instance's archive";
        note = "Used in recovery only.";
      }
    ]
    ++ optionals instance.backup.isArchiving [
      {
        name = "archive_command";
        value = "${program "pg-archive-wal"} \"%p\"";
        why = "would send the WAL elsewhere, so that backups could not be restored";
        note = "Puts a finished WAL file into the archive; the settings are in the file that it names.";
      }
    ]
    ++ optionals (incremental && versionAtLeast instance.version "17") [
      {
        name = "summarize_wal";
        value = true;
        why = "would leave out the summaries from which incremental base backups are made";
        note = "Incremental base backups read from the summaries which blocks have changed.";
      }
    ];

  # Settings that PostgreSQL reads at its start only (context "postmaster" in pg_settings, 13 to 18).
  # A change of one restarts the server; any other is reloaded.
  readAtStart = [
    "archive_mode"
    "autovacuum_freeze_max_age"
    "autovacuum_max_workers"
    "autovacuum_multixact_freeze_max_age"
    "autovacuum_worker_slots"
    "bonjour"
    "bonjour_name"
    "cluster_name"
    "commit_timestamp_buffers"
    "config_file"
    "data_directory"
    "data_sync_retry"
    "debug_io_direct"
    "dynamic_shared_memory_type"
    "event_source"
    "external_pid_file"
    "hba_file"
    "hot_standby"
    "huge_page_size"
    "huge_pages"
    "ident_file"
    "ignore_invalid_pages"
    "io_max_combine_limit"
    "io_max_concurrency"
    "io_method"
    "jit_provider"
    "listen_addresses"
    "logging_collector"
    "max_active_replication_origins"
    "max_connections"
    "max_files_per_process"
    "max_locks_per_transaction"
    "max_logical_replication_workers"
    "max_notify_queue_pages"
    "max_pred_locks_per_transaction"
    "max_prepared_transactions"
    "max_replication_slots"
    "max_wal_senders"
    "max_worker_processes"
    "min_dynamic_shared_memory"
    "multixact_member_buffers"
    "multixact_offset_buffers"
    "notify_buffers"
    "old_snapshot_threshold"
    "port"
    "recovery_target"
    "recovery_target_action"
    "recovery_target_inclusive"
    "recovery_target_lsn"
    "recovery_target_name"
    "recovery_target_time"
    "recovery_target_timeline"
    "recovery_target_xid"
    "reserved_connections"
    "serializable_buffers"
    "shared_buffers"
    "shared_memory_type"
    "shared_preload_libraries"
    "subtransaction_buffers"
    "superuser_reserved_connections"
    "track_activity_query_size"
    "track_commit_timestamp"
    "transaction_buffers"
    "unix_socket_directories"
    "unix_socket_group"
    "unix_socket_permissions"
    "wal_buffers"
    "wal_decode_buffer_size"
    "wal_level"
    "wal_log_hints"
  ];

  # First version that knows a setting, where that is not 13 or older.
  introduced = {
    allow_alter_system = 17;
    allow_in_place_tablespaces = 15;
    archive_library = 15;
    autovacuum_vacuum_max_threshold = 18;
    autovacuum_worker_slots = 18;
    client_connection_check_interval = 14;
    commit_timestamp_buffers = 17;
    compute_query_id = 14;
    createrole_self_grant = 16;
    debug_io_direct = 16;
    debug_parallel_query = 16;
    default_toast_compression = 14;
    enable_async_append = 14;
    enable_distinct_reordering = 18;
    enable_group_by_reordering = 17;
    enable_memoize = 14;
    enable_presorted_aggregate = 16;
    enable_self_join_elimination = 18;
    event_triggers = 17;
    extension_control_path = 18;
    file_copy_method = 18;
    gss_accept_delegation = 16;
    huge_page_size = 14;
    icu_validation_level = 16;
    idle_replication_slot_timeout = 18;
    idle_session_timeout = 14;
    io_combine_limit = 17;
    io_max_combine_limit = 18;
    io_max_concurrency = 18;
    io_method = 18;
    io_workers = 18;
    log_lock_failures = 18;
    log_recovery_conflict_waits = 14;
    log_startup_progress_interval = 15;
    max_active_replication_origins = 18;
    max_notify_queue_pages = 17;
    max_parallel_apply_workers_per_subscription = 16;
    md5_password_warnings = 18;
    min_dynamic_shared_memory = 14;
    multixact_member_buffers = 17;
    multixact_offset_buffers = 17;
    notify_buffers = 17;
    oauth_validator_libraries = 18;
    recovery_init_sync_method = 14;
    recovery_prefetch = 15;
    remove_temp_files_after_crash = 14;
    reserved_connections = 16;
    scram_iterations = 16;
    send_abort_for_crash = 16;
    send_abort_for_kill = 16;
    serializable_buffers = 17;
    ssl_crl_dir = 14;
    ssl_groups = 18;
    ssl_tls13_ciphers = 18;
    stats_fetch_consistency = 15;
    subtransaction_buffers = 17;
    summarize_wal = 17;
    sync_replication_slots = 17;
    synchronized_standby_slots = 17;
    trace_connection_negotiation = 17;
    track_cost_delay_timing = 18;
    track_wal_io_timing = 14;
    transaction_buffers = 17;
    transaction_timeout = 17;
    vacuum_buffer_usage_limit = 16;
    vacuum_failsafe_age = 14;
    vacuum_max_eager_freeze_failure_rate = 18;
    vacuum_multixact_failsafe_age = 14;
    vacuum_truncate = 18;
    wal_decode_buffer_size = 15;
    wal_summary_keep_time = 17;
  };

  # First version that no longer knows a setting.
  removed = {
    db_user_namespace = 17;
    force_parallel_mode = 16;
    old_snapshot_threshold = 17;
    operator_precedence_warning = 14;
    promote_trigger_file = 16;
    stats_temp_directory = 15;
    trace_recovery_messages = 17;
    vacuum_cleanup_index_scale_factor = 14;
    vacuum_defer_cleanup_age = 16;
  };
}
