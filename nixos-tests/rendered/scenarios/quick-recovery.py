import json
import shlex
import time

MAIN = "tank/services/postgresql/main"


def sql(statement: str) -> str:
    words = ["runuser", "-u", "postgres", "--", "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", "postgres", "-c", statement]
    return machine.succeed(shlex.join(words), timeout=900).strip()


def ledger() -> str:
    return sql("SELECT count(*), max(id), md5(string_agg(t::text, E'\\n' ORDER BY id)) FROM ledger AS t")


def write(first: int, last: int) -> None:
    sql(f"INSERT INTO ledger SELECT i, md5(i::text) FROM generate_series({first}, {last}) AS i")


machine.start()
# Its timer would have it take the hour's snapshot before there is anything in it.
machine.succeed("systemctl stop sanoid.timer")

with subtest("the host of the guide, on its datasets"):
    machine.succeed("zpool create -m none tank /dev/vdb")
    machine.succeed("systemctl start backstay-datasets.service", timeout=300)
    machine.succeed("systemctl start postgresql-main.service", timeout=900)
    sql("CREATE TABLE ledger (id bigint PRIMARY KEY, what text)")
    write(1, 5000)

with subtest("sanoid takes its snapshots, and people go on"):
    machine.succeed("systemctl start sanoid.service", timeout=300)
    machine.wait_until_succeeds(f"zfs list -H -t snapshot -o name {MAIN} | grep -E 'autosnap_.*_hourly$'", timeout=300)
    taken = machine.succeed(f"zfs list -H -t snapshot -o name,guid {MAIN}")
    write(5001, 9000)
    before = ledger()
    moment = sql("SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US UTC')")
    machine.sleep(1)
    sql("DROP TABLE ledger")
    sql("CREATE TABLE written_later (id int)")

with subtest("the table is back, with what was written since the snapshot"):
    begin = time.monotonic()
    command = f"backstay restore main --from snapshot --to {shlex.quote(moment)} --yes --no-backup --json"
    outcome = json.loads(machine.succeed(command, timeout=1800))
    machine.wait_for_unit("postgresql-main.service")
    t.assertEqual(ledger(), before)
    print(f"scenario 1, a table was dropped: back {time.monotonic() - begin:.1f} s after the command, in emulation")
    t.assertEqual(outcome["plan"]["startingPoint"]["kind"], "snapshot")
    t.assertEqual(sql("SELECT to_regclass('written_later') IS NULL"), "t")
    t.assertEqual(sql("SELECT pg_is_in_recovery()"), "f")

with subtest("every snapshot is still there"):
    now = machine.succeed(f"zfs list -H -t snapshot -o name,guid {MAIN}").splitlines()
    t.assertEqual([line for line in taken.splitlines() if line not in now], [])
    machine.shutdown()
