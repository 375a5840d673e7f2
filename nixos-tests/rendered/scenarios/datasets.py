import json
import shlex
from typing import Any

MAIN = "tank/services/postgresql/main"
DATA = "/var/lib/postgresql/main"


def sql(statement: str) -> str:
    words = ["runuser", "-u", "postgres", "--", "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", "postgres", "-c", statement]
    return machine.succeed(shlex.join(words)).strip()


def properties(dataset: str, names: str) -> str:
    return machine.succeed(f"zfs get -Hp -o value {names} {dataset}").split()


def checked() -> dict[str, Any]:
    """What the health check's own unit would find, without what it lets through."""
    _, found = machine.execute("runuser -u postgres -- /usr/lib/backstay/bin/pg-healthcheck --config /etc/backstay/main.json --json", timeout=300)
    return json.loads(found)


def of_durability() -> str:
    # The unit, with its sandbox: a warning or worse is for its exit status and the journal.
    machine.execute("systemctl start postgresql-healthcheck-main.service", timeout=300)
    said = machine.succeed("journalctl -u postgresql-healthcheck-main.service -o cat -n 30")
    found = checked()
    if found["checks"]["durability"] == "critical":
        t.assertIn("has sync=disabled: a power cut takes back", said)
        t.assertIn("zfs set sync=standard tank/services", said)
    return found["checks"]["durability"]


def refusal() -> str:
    """What the unit says when it does not bring the datasets about."""
    machine.succeed("journalctl --rotate --vacuum-time=1s -q || true")
    machine.fail("systemctl start backstay-datasets.service")
    return machine.succeed("journalctl -u backstay-datasets.service -o cat -n 40")


def server_refuses() -> None:
    """The server does not start, and does not go on trying while the test goes on."""
    machine.fail("systemctl start postgresql-main.service", timeout=600)
    machine.succeed("systemctl stop postgresql-main.service", timeout=600)
    machine.succeed("systemctl reset-failed postgresql-main.service || true")
    # While a unit waits for its restart, systemd already starts what it wants. That run has seen things as they were.
    machine.wait_until_fails("systemctl show -P ActiveState backstay-datasets.service | grep -x activating", timeout=300)


machine.start()

with subtest("without its pool there is no server, and nothing where its data would be"):
    machine.wait_until_succeeds("systemctl show -P ActiveState backstay-datasets.service | grep -Ex 'failed|inactive'")
    t.assertIn('pool "tank" is not imported', refusal())
    machine.fail("systemctl is-active postgresql-main.service")
    machine.fail(f"test -e {DATA}/17")

with subtest("the datasets are made as they are declared"):
    machine.succeed("zpool create -m none tank /dev/vdb")
    machine.succeed("systemctl start backstay-datasets.service", timeout=300)
    t.assertEqual(properties(MAIN, "recordsize,compression,atime,mountpoint,mounted"), ["8192", "lz4", "off", DATA, "yes"])
    t.assertEqual(properties(MAIN + "-wal", "recordsize,logbias,mounted"), ["131072", "throughput", "yes"])
    t.assertEqual(properties(MAIN + "-backup", "recordsize,compression,mounted"), ["1048576", "zstd", "yes"])
    t.assertEqual(properties("tank/services/postgresql", "canmount,mountpoint"), ["off", "none"])
    t.assertEqual(machine.succeed(f"stat -c '%U:%G %a' {DATA}").strip(), "postgres:postgres 700")

with subtest("the server starts on them, archives, and is backed up"):
    machine.succeed("systemctl start postgresql-main.service", timeout=900)
    sql("CREATE TABLE orders AS SELECT g AS id FROM generate_series(1, 1000) AS g")
    sql("SELECT pg_switch_wal()")
    machine.wait_until_succeeds(f"ls {DATA}-wal/[0-9]*/*/* | grep -q .", timeout=300)
    machine.succeed("systemctl start postgresql-basebackup-main.service", timeout=1800)
    machine.succeed("backstay status main", "backstay windows main")

with subtest("the read-only commands of the guide answer"):
    machine.succeed(
        "zfs list | grep postgresql",
        "systemctl status postgresql --no-pager",
        "systemctl list-timers --no-pager 'postgresql-*' | grep postgresql-basebackup-main.timer",
        "ls -l /var/lib/postgresql/17/main/ /var/lib/postgresql/17/main-wal-archive/",
        "ls -td /var/backup/postgresql/main/* | head -1",
        "zfs list -t snapshot tank/services/postgresql/main",
    )

with subtest("a second run changes nothing"):
    machine.succeed("systemctl start backstay-datasets.service", timeout=300)
    machine.fail("journalctl -u backstay-datasets.service -o cat _SYSTEMD_INVOCATION_ID=$(systemctl show -P InvocationID backstay-datasets.service) | grep ': done'")

with subtest("what was changed by hand is set again, under the running server"):
    machine.succeed(f"zfs set recordsize=128K {MAIN}", "systemctl start backstay-datasets.service", timeout=300)
    t.assertEqual(properties(MAIN, "recordsize"), ["8192"])
    t.assertEqual(sql("SELECT count(*) FROM orders"), "1000")

with subtest("a fsync that lies is refused, and the check of the running server tells it (H13)"):
    t.assertEqual(of_durability(), "ok")
    machine.succeed("zfs set sync=disabled tank/services")
    t.assertIn("sync is disabled", refusal())
    t.assertEqual(of_durability(), "critical")
    # As the finding says.
    machine.succeed("zfs set sync=standard tank/services")
    t.assertEqual(of_durability(), "ok")
    machine.succeed("zfs inherit sync tank/services", "systemctl start backstay-datasets.service", timeout=300)

with subtest("a dataset that takes no changes is told, and that it does again (H13)"):
    machine.succeed(f"zfs set readonly=on {MAIN}-wal")
    t.assertEqual(checked()["checks"]["mounts"], "critical")
    machine.succeed(f"zfs inherit readonly {MAIN}-wal")
    t.assertEqual(checked()["checks"]["mounts"], "ok")

with subtest("a mount point is not changed under the running server"):
    machine.succeed(f"systemctl stop postgresql-main.service && zfs unmount {MAIN} && zfs set mountpoint=/srv/elsewhere {MAIN} && zfs mount {MAIN} || true", timeout=600)
    t.assertIn(f'it is mounted at "/srv/elsewhere" and declared to be at "{DATA}"', refusal())
    machine.succeed(f"zfs unmount {MAIN} && zfs set -u mountpoint={DATA} {MAIN}")

with subtest("files in the way of a mount are not hidden"):
    machine.succeed(f"mkdir -p {DATA} && touch {DATA}/written-too-early")
    t.assertIn(f'"{DATA}" holds files, which it would hide', refusal())
    server_refuses()
    machine.succeed(f"rm {DATA}/written-too-early", "systemctl start backstay-datasets.service", timeout=300)

with subtest("two datasets at one place: refused, both are named, and no new cluster is made"):
    # T46: a second dataset hid the first, a marker was found on the hidden one, and initdb made an empty cluster.
    machine.succeed(f"zfs unmount {MAIN}")
    machine.succeed(f"zfs create -o mountpoint={DATA} tank/services/postgres")
    said = refusal()
    t.assertIn(f'dataset "{MAIN}"', said)
    t.assertIn('dataset "tank/services/postgres" is mounted at', said)
    server_refuses()
    machine.fail(f"test -e {DATA}/17")
    machine.succeed("zfs set mountpoint=none tank/services/postgres", "systemctl start postgresql-main.service", timeout=900)
    t.assertEqual(sql("SELECT count(*) FROM orders"), "1000")

with subtest("the power is cut: the pool is imported, the datasets are mounted, and the server comes back by itself"):
    sql("INSERT INTO orders VALUES (1001)")
    machine.crash()
    machine.start()
    machine.wait_for_unit("postgresql-main.service")
    t.assertEqual(sql("SELECT count(*) FROM orders"), "1001")
    machine.shutdown()
