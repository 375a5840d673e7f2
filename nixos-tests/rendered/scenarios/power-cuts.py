import json
import os
import random
import shlex
import time

CUTS = int(os.environ.get("BACKSTAY_POWER_CUTS", "3"))
ARCHIVE = "/var/lib/postgresql/main-wal"
# Rows that the server has acknowledged: each is still there after every cut.
acknowledged: list[int] = []
# Segments that the server was told are in the archive, and what they were.
archived: dict[str, str] = {}


def sql(statement: str) -> str:
    words = ["runuser", "-u", "postgres", "--", "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", "postgres", "-c", statement]
    return machine.succeed(shlex.join(words)).strip()


def stored() -> dict[str, str]:
    """The archived files and their hashes."""
    lines = machine.succeed(f"cd {ARCHIVE} && find . -path './[0-9]*' -type f -exec sha256sum {{}} +", timeout=600).splitlines()
    return {name: digest for digest, name in (line.split(maxsplit=1) for line in lines)}


def writes_go_on() -> None:
    """More than the server archives at leisure: there is always a segment on its way."""
    script = "while true; do psql -Xq -d postgres -c \"INSERT INTO noise SELECT md5(g::text) FROM generate_series(1, 2000) AS g\" -c 'SELECT pg_switch_wal()' > /dev/null; done"
    machine.succeed(f"systemd-run --quiet --unit=writes --property=User=postgres bash -c {shlex.quote(script)}")


def some_rows_are_acknowledged() -> None:
    for _ in range(random.randint(3, 8)):
        number = len(acknowledged) + 1
        sql(f"INSERT INTO ledger VALUES ({number})")
        acknowledged.append(number)


def what_was_promised_is_there() -> None:
    numbers = [int(line) for line in sql("SELECT id FROM ledger ORDER BY id").splitlines()]
    t.assertEqual(numbers, acknowledged)
    # Every page of the table is read, and the server checks each.
    sql("SELECT count(*), max(length(t)) FROM noise")
    now = stored()
    t.assertEqual({name: now.get(name) for name in archived}, archived)
    machine.succeed("backstay verify main", timeout=900)


machine.start()
machine.succeed("zpool create -m none tank /dev/vdb")
machine.succeed("systemctl start backstay-datasets.service", timeout=300)
machine.succeed("systemctl start postgresql-main.service", timeout=900)
sql("CREATE TABLE ledger (id bigint PRIMARY KEY)")
sql("CREATE TABLE noise (t text)")
machine.succeed("systemctl start postgresql-basebackup-main.service", timeout=1800)

for cut in range(1, CUTS + 1):
    with subtest(f"power cut {cut} of {CUTS}"):
        writes_go_on()
        some_rows_are_acknowledged()
        archived.update(stored())
        some_rows_are_acknowledged()
        time.sleep(random.uniform(0, 5))
        machine.crash()
        machine.start()
        machine.wait_for_unit("postgresql-main.service", timeout=900)
        what_was_promised_is_there()

with subtest("what was archived before, between and after the cuts is one history without a gap"):
    sql("INSERT INTO ledger VALUES (0)")
    acknowledged.insert(0, 0)
    last = sql("SELECT pg_walfile_name(pg_switch_wal())")
    machine.wait_until_succeeds(f"find {ARCHIVE} -name {last} | grep -q .", timeout=900)
    windows = json.loads(machine.succeed("backstay windows main --json"))["windows"]
    t.assertEqual([(window["restorable"], window["missing"]["count"]) for window in windows], [(True, 0)])
    print(f"{CUTS} power cuts: {len(acknowledged)} acknowledged rows and {len(stored())} archived files are all there")
    machine.shutdown()
