import json
import os
import random
import shlex
import time

RUNS = int(os.environ.get("BACKSTAY_DESTROYED_HOSTS", "1"))
SSH = "/var/lib/postgresql/.ssh"


def sql(machine, statement: str) -> str:
    words = ["runuser", "-u", "postgres", "--", "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", "postgres", "-c", statement]
    return machine.succeed(shlex.join(words)).strip()


def clock(machine) -> float:
    return float(sql(machine, "SELECT extract(epoch FROM clock_timestamp())"))


def ledger(machine) -> list[tuple[int, float]]:
    """The rows that the server has acknowledged, with the time at which it did, by the machine's clock."""
    lines = sql(machine, "SELECT id, extract(epoch FROM at) FROM ledger ORDER BY id").splitlines()
    return [(int(number), float(at)) for number, at in (line.split("|") for line in lines)]


def writes_go_on(machine) -> None:
    """A row every quarter of a second. clock_timestamp() is before the commit, so no row counts as younger than it is."""
    script = "while sleep 0.25; do psql -Xq -d postgres -c 'INSERT INTO ledger DEFAULT VALUES'; done"
    machine.succeed(f"systemd-run --quiet --unit=writes --property=User=postgres bash -c {shlex.quote(script)}")


def copies() -> int:
    """How many copies there are, counted where they are."""
    return len(elsewhere.succeed("cd /srv/copies/forge/snapshots && find . -type f").split())


def told(machine) -> tuple[str, str | None]:
    record = json.loads(machine.succeed("cat /var/lib/backstay/main/preseed.json"))
    return record["outcome"], record["source"]


def gets_its_key(machine) -> None:
    machine.wait_until_succeeds("systemctl is-failed preseed-postgresql-main.service", timeout=300)
    machine.fail("systemctl is-active postgresql-main.service")
    machine.succeed(
        f"install -d -m 700 -o postgres -g postgres {SSH}",
        f"printf %s {shlex.quote(private)} > {SSH}/id_ed25519",
        f"printf %s {shlex.quote(known)} > {SSH}/known_hosts",
        f"chown postgres:postgres {SSH}/*",
        f"chmod 600 {SSH}/*",
    )


def comes_up(machine) -> None:
    machine.succeed("systemctl reset-failed", "systemctl start postgresql-main.service", timeout=900)
    machine.wait_for_unit("postgresql-main.service")


def is_emptied(machine) -> None:
    """Makes a new machine of one that was lost. It has not heard of that, and must not reach the copies."""
    elsewhere.succeed("mv /root/.ssh/authorized_keys /root/.ssh/away")
    machine.start()
    machine.succeed("systemctl stop '*.timer' 'postgresql-*' 'restic-backups-*'", timeout=300)
    places = ["/var/lib/postgresql", "/var/backup/postgresql", "/var/lib/backstay", "/var/cache", "/var/lib/systemd/timers"]
    machine.succeed(*(f"find {place} -mindepth 1 -delete" for place in places))
    machine.crash()
    elsewhere.succeed("mv /root/.ssh/away /root/.ssh/authorized_keys")


elsewhere.start()
elsewhere.succeed(
    "systemctl start sshd.service || systemctl start ssh.service",
    "install -d -m 700 /root/.ssh",
    "ssh-keygen -q -t ed25519 -N '' -f /root/forge",
    "cp /root/forge.pub /root/.ssh/authorized_keys",
)
# What is kept with the configuration of the host: its own key, and the one by which the other host is known.
private = elsewhere.succeed("cat /root/forge")
known = "elsewhere " + elsewhere.succeed("cat /etc/ssh/ssh_host_ed25519_key.pub")
host, spare = first, second

with subtest("a host that cannot ask for its copies stays down, and starts empty once they have proven to be none"):
    host.start()
    gets_its_key(host)
    host.succeed("systemctl start restic-backups-repository-nas.service", timeout=300)
    comes_up(host)
    t.assertEqual(told(host)[0], "nothingToRestore")
    objective = json.loads(host.succeed("cat /etc/backstay/main.json"))["objectives"]["offsiteRpoSeconds"]
    sql(host, "CREATE TABLE ledger (id bigserial PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp())")
    host.succeed("systemctl start postgresql-basebackup-main.service", timeout=900)
    host.wait_until_succeeds("test -e /var/lib/backstay/main/off-site-base-nas.json", timeout=300)

for run in range(1, RUNS + 1):
    with subtest(f"host {run} of {RUNS} is destroyed, and lost is at most what the objective allows"):
        writes_go_on(host)
        before = copies()
        with host.nested("waiting for copies"):
            retry(lambda _: copies() >= before + 3, timeout_seconds=300)
        time.sleep(random.uniform(0, 10))
        acknowledged = ledger(host)
        destroyed = clock(host)
        host.crash()

        begin = time.monotonic()
        spare.start()
        gets_its_key(spare)
        comes_up(spare)
        t.assertEqual(told(spare), ("restored", "1 (restic)"))
        took = time.monotonic() - begin
        restored = ledger(spare)
        # Each row up to some moment, and as it was.
        known_rows = min(len(restored), len(acknowledged))
        t.assertEqual(restored[:known_rows], acknowledged[:known_rows])
        lost = acknowledged[known_rows:]
        seconds = destroyed - lost[0][1] if lost else 0.0
        print(
            f"host {run}: of {len(acknowledged)} rows {len(lost)} are lost, the first of them {seconds:.1f} s old; "
            f"{objective} s are allowed; back after {took:.1f} s"
        )
        t.assertLessEqual(seconds, objective)
        t.assertGreater(known_rows, 0)
        host, spare = spare, host
        if run < RUNS:
            is_emptied(spare)

with subtest("it goes on from there, and is copied again"):
    before = copies()
    sql(host, "INSERT INTO ledger DEFAULT VALUES")
    with host.nested("waiting for a copy"):
        retry(lambda _: copies() > before, timeout_seconds=300)
    host.shutdown()
    elsewhere.shutdown()
