import json
import shlex


def sql(statement: str) -> str:
    words = ["runuser", "-u", "postgres", "--", "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", "postgres", "-c", statement]
    return machine.succeed(shlex.join(words)).strip()


def archiver() -> tuple[int, int]:
    archived, failed = sql("SELECT archived_count, failed_count FROM pg_stat_archiver").split("|")
    return int(archived), int(failed)


def everything_in(table: str) -> str:
    return sql(f"SELECT count(*), md5(string_agg(t::text, E'\\n' ORDER BY id)) FROM {table} AS t")


machine.start()

with subtest("the server comes up, on a cluster that was made for it"):
    machine.wait_for_unit("postgresql-main.service")
    machine.wait_for_unit("postgresql.target")
    t.assertEqual(sql("SHOW data_directory"), "/var/lib/postgresql/main/17")
    t.assertEqual(sql("SHOW data_checksums"), "on")
    t.assertEqual(sql("SHOW archive_mode"), "on")
    # The names that people know.
    machine.succeed("test -e /var/lib/postgresql/17/main/PG_VERSION", "systemctl is-active postgresql.service")

with subtest("finished WAL files reach the archive, and none fails"):
    sql("CREATE TABLE orders (id bigint PRIMARY KEY, what text)")
    sql("INSERT INTO orders SELECT i, 'order ' || i FROM generate_series(1, 1000) AS i")
    sql("SELECT pg_switch_wal()")
    with machine.nested("waiting for the archiver"):
        retry(lambda _: archiver()[0] > 0, timeout_seconds=120)
    t.assertEqual(archiver()[1], 0)

with subtest("the timer's service takes a base backup, and both copies are made"):
    machine.succeed("systemctl start postgresql-basebackup-main.service", timeout=900)
    machine.succeed("test -e /var/backup/postgresql/main/2*/backup_manifest")
    # It starts the copy, whose own timer would have waited for tomorrow.
    machine.wait_until_succeeds("journalctl -u restic-backups-postgresql-main-base.service | grep -F 'snapshot '", timeout=60)
    machine.succeed("systemctl start restic-backups-postgresql-main-wal.service", timeout=300)
    snapshots = machine.succeed(
        "runuser -u postgres -- restic --repo /srv/second-copy --password-file /etc/lab/restic-password snapshots --json --no-cache"
    )
    tags = sorted(tag for snapshot in json.loads(snapshots) for tag in snapshot["tags"] if tag in ("base-backup", "wal-archive"))
    t.assertEqual(tags, ["base-backup", "wal-archive"])
    # Each copy has noted what it holds.
    for content in ("base", "wal"):
        note = json.loads(machine.succeed(f"cat /var/lib/backstay/main/off-site-{content}-second-copy.json"))
        t.assertEqual(note["holds"]["content"], content)

with subtest("a rehearsed restore finds the canary that the server's own unit writes"):
    machine.wait_for_unit("postgresql-canary-main.service")
    machine.succeed("systemctl start postgresql-restore-drill-main.service", timeout=1800)
    drill = json.loads(machine.succeed("cat /var/lib/backstay/main/restore-drill.json"))
    t.assertIsNone(drill["failure"])
    t.assertGreater(drill["findings"]["canary"], 0)

with subtest("the check of the server's own unit has nothing to say"):
    machine.succeed("systemctl start postgresql-healthcheck-main.service", timeout=300)
    # It knows by the note how fresh the copy is, and asks no repository.
    metrics = "/var/lib/node_exporter/textfile_collector/postgresql_health_main.prom"
    machine.succeed(
        f"grep -F 'postgresql_offsite_exposure_seconds{{instance=\"main\",repository=\"second-copy\"}} 0' {metrics}",
        f"grep -F 'postgresql_health_check_status{{instance=\"main\",check=\"off-site\"}} 0' {metrics}",
    )

with subtest("expiry keeps everything that is needed"):
    machine.succeed("systemctl start postgresql-walprune-main.service", timeout=300)

with subtest("a person sees what can be restored"):
    machine.succeed("backstay status main", "backstay windows main")
    # Root asks for all instances, and becomes the owner of each in a process of its own.
    shown = machine.succeed("backstay status")
    t.assertIn("  server            running for ", shown)
    t.assertIn("  last drill        succeeded ", shown)
    machine.succeed("backstay report /root/report.html", "grep -F 'class=\"reach\"' /root/report.html")

with subtest("the instance is looked at as it is, beside itself, by a server with a unit of its own"):
    words = ["backstay", "branch", "create", "main", "--at", "latest", "--name", "look", "--ttl", "3 seconds", "--json"]
    made = json.loads(machine.succeed(shlex.join(words), timeout=900))
    t.assertEqual(made["unit"], "postgresql-branch-main-look.service")
    t.assertEqual(machine.succeed(f"systemctl show --value --property=User,ActiveState {made['unit']}").split(), ["postgres", "active"])
    asked = ["runuser", "-u", "postgres", "--", "psql", "-XAtq", "-h", made["socketDirectory"], "-p", str(made["port"]), "-d", "postgres"]
    t.assertEqual(machine.succeed(shlex.join([*asked, "-c", "SELECT count(*) FROM orders"])).strip(), "1000")
    # It may write to nothing that is not its own.
    machine.fail(shlex.join([*asked, "-c", "COPY (SELECT 1) TO '/var/lib/postgresql/main/foreign'"]))
    # Nobody has to remember it.
    machine.sleep(4)
    machine.succeed("systemctl start postgresql-branches-main.service", timeout=300)
    machine.fail(f"systemctl is-active {made['unit']}", f"test -e {made['socketDirectory']}")

with subtest("a dropped table comes back, to the row"):
    sql("INSERT INTO orders SELECT i, 'order ' || i FROM generate_series(1001, 2000) AS i")
    before = everything_in("orders")
    moment = sql("SELECT clock_timestamp()")
    machine.sleep(2)
    sql("DROP TABLE orders")
    sql("CREATE TABLE written_later (id int)")
    machine.succeed(f"backstay restore main --to {shlex.quote(moment)} --yes", timeout=1800)
    machine.wait_for_unit("postgresql-main.service")
    t.assertEqual(everything_in("orders"), before)
    t.assertEqual(sql("SELECT to_regclass('written_later') IS NULL"), "t")
    t.assertEqual(sql("SELECT pg_is_in_recovery()"), "f")
    # It went with the server, and came back with it.
    machine.wait_for_unit("postgresql-canary-main.service")

with subtest("the power is cut, and the server comes back by itself"):
    sql("INSERT INTO orders VALUES (3000, 'the last before the power cut')")
    before = everything_in("orders")
    machine.crash()
    machine.start()
    machine.wait_for_unit("postgresql-main.service")
    t.assertEqual(everything_in("orders"), before)
    sql("SELECT pg_switch_wal()")
    with machine.nested("waiting for the archiver"):
        retry(lambda _: archiver()[0] > 0, timeout_seconds=120)
    t.assertEqual(archiver()[1], 0)

with subtest("a second start changes nothing"):
    describe = "SELECT system_identifier, timeline_id FROM pg_control_system(), pg_control_checkpoint()"
    files = "cd /var/lib/postgresql/main/17 && sha256sum PG_VERSION postgresql.conf pg_hba.conf && ls -A .."
    before = (sql(describe), machine.succeed(files))
    machine.succeed("systemctl restart postgresql-main.service", timeout=300)
    machine.wait_for_unit("postgresql-main.service")
    t.assertEqual((sql(describe), machine.succeed(files)), before)

with subtest("a server whose repository's secret is missing starts all the same"):
    machine.succeed("mv /etc/lab/restic-password /etc/lab/away")
    machine.succeed("systemctl restart postgresql-main.service", timeout=300)
    machine.wait_for_unit("postgresql-main.service")
    t.assertEqual(everything_in("orders")[0:4], "2001")
    machine.succeed("mv /etc/lab/away /etc/lab/restic-password")
    machine.shutdown()
