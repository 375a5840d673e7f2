import json
import shlex

MAIN = "tank/services/postgresql/main"
ROWS = "SELECT count(*), md5(string_agg(t::text, E'\\n' ORDER BY id)) FROM orders AS t"


def sql(statement: str, host: str = "/run/postgresql", port: int = 5432) -> str:
    words = ["runuser", "-u", "postgres", "--", "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", host, "-p", str(port), "-d", "postgres"]
    return machine.succeed(shlex.join([*words, "-c", statement]), timeout=900).strip()


def snapshots() -> str:
    return machine.succeed(f"zfs list -H -t snapshot -o name,guid -s createtxg {MAIN}")


def branch(name: str, moment: str, ttl: str = "24h") -> dict:
    words = ["backstay", "branch", "create", "main", "--at", moment, "--name", name, "--ttl", ttl, "--json"]
    made = machine.succeed(shlex.join(words), timeout=1200)
    return json.loads(made)


machine.start()
machine.succeed("zpool create -m none tank /dev/vdb")
machine.succeed("systemctl start backstay-datasets.service", timeout=300)
machine.succeed("systemctl start postgresql-main.service", timeout=900)

with subtest("a snapshot is taken while rows are written, and then another one"):
    sql("CREATE TABLE orders (id bigserial PRIMARY KEY, what text)")
    insert = "INSERT INTO orders (what) SELECT clock_timestamp()::text FROM generate_series(1, 20) \\watch 0.1"
    machine.succeed(
        "systemd-run --unit=writer --uid=postgres sh -c "
        + shlex.quote("printf '%s\\n' " + shlex.quote(insert) + " | psql -h /run/postgresql -d postgres")
    )
    machine.sleep(5)
    machine.succeed(f"zfs snapshot {MAIN}@hourly")
    machine.sleep(5)
    machine.succeed("systemctl stop writer.service")
    t.assertGreater(int(sql("SELECT count(*) FROM orders")), 100)
    before = sql(ROWS)
    moment = sql("SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')")
    machine.sleep(1)
    sql("INSERT INTO orders (what) SELECT 'too late' FROM generate_series(1, 50)")
    machine.succeed(f"zfs snapshot {MAIN}@newer")
    sql("DROP TABLE orders")
    sql("SELECT pg_switch_wal()")
    listed = snapshots()

with subtest("pg-prune reads the snapshots from within its sandbox, before anybody else has mounted them"):
    machine.succeed("systemctl start postgresql-walprune-main.service", timeout=300)
    said = machine.succeed("journalctl -o cat -u postgresql-walprune-main.service")
    t.assertIn("keep    WAL for snapshot hourly: in the last ", said)
    t.assertIn("keep    WAL for snapshot newer: in the last ", said)
    t.assertNotIn("cannot be read", said)

with subtest("a person sees which snapshots a restore can begin with"):
    said = machine.succeed("backstay windows main")
    t.assertIn("hourly, timeline 1, after ", said)
    t.assertIn("newer, timeline 1, after ", said)

with subtest("the instance is looked at as it was, beside itself"):
    made = branch("yesterday", moment)
    machine.log(f"a branch of {machine.succeed('du -sh --apparent-size /var/lib/postgresql/main/17').split()[0]} took {made['made']['seconds']:.1f} s")
    t.assertEqual(made["made"]["from"], "snapshot hourly")
    t.assertEqual(sql(ROWS, made["socketDirectory"], made["port"]), before)
    sql("DROP TABLE orders", made["socketDirectory"], made["port"])
    t.assertEqual(made["unit"], "postgresql-branch-main-yesterday.service")
    t.assertEqual(machine.succeed(f"systemctl show --value --property=User,ActiveState {made['unit']}").split(), ["postgres", "active"])
    machine.succeed("backstay branch destroy main yesterday", timeout=300)
    machine.wait_until_succeeds(f"! systemctl is-active {made['unit']}", timeout=60)

with subtest("the lost table comes back from the snapshot, to the row, and every snapshot is still there"):
    outcome = json.loads(machine.succeed(f"backstay restore main --to {moment} --yes --no-backup --json", timeout=1800))
    t.assertEqual(outcome["plan"]["startingPoint"]["kind"], "snapshot")
    t.assertEqual(outcome["plan"]["startingPoint"]["name"], "hourly")
    t.assertEqual(sql(ROWS), before)
    t.assertEqual(snapshots(), listed)
    machine.succeed(f"zfs send -i @hourly {MAIN}@newer > /dev/null")

with subtest("what is written on the new timeline is archived, and can be gone back to"):
    sql("INSERT INTO orders (what) VALUES ('after the restore')")
    machine.succeed(f"zfs snapshot {MAIN}@later")
    sql("SELECT pg_switch_wal()")
    made = branch("now", "latest")
    t.assertEqual(made["made"]["from"], "snapshot later")
    t.assertEqual(sql(ROWS, made["socketDirectory"], made["port"]), sql(ROWS))
    # Its time is over before anybody has thought of it.
    machine.succeed("systemctl start postgresql-branches-main.service", timeout=300)
    t.assertEqual([it["name"] for it in json.loads(machine.succeed("backstay branch list main --json"))], ["now"])
    made = branch("short", "latest", ttl="1 second")
    machine.sleep(2)
    machine.succeed("systemctl start postgresql-branches-main.service", timeout=300)
    t.assertEqual([it["name"] for it in json.loads(machine.succeed("backstay branch list main --json"))], ["now"])
    machine.fail(f"test -e {made['socketDirectory']}")
    machine.succeed("backstay branch destroy main now", timeout=300)

with subtest("ten times the size is branched in about the same time"):
    sql("CREATE TABLE big AS SELECT g, repeat(md5(g::text), 60) FROM generate_series(1, 120000) AS g")
    sql("CHECKPOINT")
    machine.succeed(f"zfs snapshot {MAIN}@big")
    made = branch("big", "latest")
    machine.log(f"a branch of {machine.succeed('du -sh --apparent-size /var/lib/postgresql/main/17').split()[0]} took {made['made']['seconds']:.1f} s")
    t.assertEqual(sql("SELECT count(*) FROM big", made["socketDirectory"], made["port"]), "120000")
    machine.log(machine.succeed("zpool get -H -o property,value bcloneused,bclonesaved tank"))
    machine.succeed("backstay branch destroy main big", timeout=300)
    machine.shutdown()
