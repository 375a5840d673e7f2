import json
import os
import shlex
import time

BOOTS = int(os.environ.get("BACKSTAY_BOOTS", "3"))
OURS = "--unit='postgresql*' --unit='preseed-*' --unit='restic-*'"


def sql(statement: str, database: str = "postgres") -> str:
    words = ["runuser", "-u", "postgres", "--", "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", statement]
    return machine.succeed(shlex.join(words)).strip()


def allow_empty(word: str) -> None:
    machine.succeed(f"sed -i -E 's/(\"allowEmptyStartWithoutProof\": ?)(true|false)/\\1{word}/' /etc/backstay/main.json")


def unchanged() -> dict[str, str]:
    """What no boot may change."""
    return {
        "cluster": sql("SELECT system_identifier, timeline_id FROM pg_control_system(), pg_control_checkpoint()"),
        "databases": sql("SELECT oid, datname, datdba, datacl FROM pg_database ORDER BY oid"),
        "roles": sql("SELECT oid, rolname, rolsuper, rolcanlogin FROM pg_roles ORDER BY oid"),
        "rows": sql("SELECT count(*), md5(string_agg(t::text, E'\\n' ORDER BY id)) FROM ledger AS t", "app"),
        "tables": sql("SELECT oid, relname, relfilenode FROM pg_class WHERE relkind = 'r' AND oid >= 16384 ORDER BY oid", "app"),
        "beside the cluster": machine.succeed("ls -A /var/lib/postgresql/main"),
        "its files": machine.succeed("cd /var/lib/postgresql/main/17 && sha256sum PG_VERSION postgresql.conf pg_hba.conf postgresql.auto.conf"),
        "how it came": machine.succeed("cat /var/lib/backstay/main/preseed.json"),
        "provisioning": machine.succeed("cat /var/lib/postgresql/provisioning/provisioned.sha256"),
        "failed units": machine.succeed("systemctl list-units --failed --plain --no-legend"),
    }


def stored(directory: str) -> dict[str, str]:
    lines = machine.succeed(f"find {directory} -type f -not -path '*/incoming/*' -exec sha256sum {{}} +", timeout=600).splitlines()
    return {name: digest for digest, name in (line.split(maxsplit=1) for line in lines)}


def segments() -> dict[str, str]:
    return {name: digest for name, digest in stored("/var/lib/postgresql/main-wal").items() if name.count("/") > 5}


def complaints() -> str:
    """What our units and the server have complained of since the machine was switched on."""
    said = machine.succeed(f"journalctl --boot --priority=warning --output=cat --quiet {OURS}")
    # Each start of the server begins a file, and its name is the time.
    log = "$(find /var/lib/postgresql/main/17/log -name '*.log' | sort | tail -n 1)"
    server = machine.succeed(f"grep -E ' (WARNING|ERROR|FATAL|PANIC): ' \"{log}\" || true")
    return said + server


machine.start()

with subtest("a host with data, an archive, a base backup and a declared database"):
    machine.wait_until_succeeds("systemctl is-failed preseed-postgresql-main.service", timeout=300)
    allow_empty("true")
    machine.succeed("systemctl reset-failed", "systemctl start postgresql-main.service", timeout=900)
    allow_empty("false")
    machine.wait_until_succeeds("runuser -u postgres -- psql -d app -c 'SELECT 1'", timeout=300)
    sql("CREATE TABLE ledger (id bigint PRIMARY KEY, what text)", "app")
    sql("INSERT INTO ledger SELECT i, md5(i::text) FROM generate_series(1, 5000) AS i", "app")
    machine.succeed("systemctl start postgresql-basebackup-main.service", timeout=900)
    machine.wait_until_succeeds("journalctl -u restic-backups-postgresql-main-base.service | grep -F 'snapshot '", timeout=120)
    machine.succeed("systemctl reset-failed")
    before = unchanged()
    archived = segments()
    backups = stored("/var/backup/postgresql/main/2*")

took = []
for boot in range(1, BOOTS + 1):
    with subtest(f"boot {boot} of {BOOTS}"):
        machine.shutdown()
        begin = time.monotonic()
        machine.start()
        machine.wait_for_unit("postgresql-main.service")
        took.append(time.monotonic() - begin)
        machine.wait_for_unit("postgresql-canary-main.service")
        machine.wait_until_fails("systemctl list-jobs --no-legend | grep -F postgresql", timeout=300)
        t.assertEqual(unchanged(), before)
        t.assertEqual(complaints(), "")
        now = segments()
        t.assertEqual({name: now.get(name) for name in archived}, archived)
        archived = now

with subtest("the archive has no gap, and nothing in it or in the base backups has been touched"):
    now = stored("/var/backup/postgresql/main/2*")
    t.assertEqual({name: now.get(name) for name in backups}, backups)
    windows = json.loads(machine.succeed("backstay windows main --json"))["windows"]
    t.assertEqual([(window["restorable"], window["missing"]["count"]) for window in windows], [(True, 0)])
    machine.succeed("backstay verify main", timeout=900)
    print(f"{BOOTS} boots: the server was there after {min(took):.1f} s to {max(took):.1f} s, and {len(archived)} archived files are as they were")
    machine.shutdown()
