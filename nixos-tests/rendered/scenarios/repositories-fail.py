import json
import shlex

guide = "\n".join(["export RESTIC_REPOSITORY=/mnt/nas-backup RESTIC_PASSWORD_FILE=/run/secrets/restic/password","restic snapshots --tag postgresql,main\nrestic snapshots --tag wal-archive,main --latest 10\nrestic snapshots --tag base-backup,main","restic find 000000010000000000000002 --json\nrestic restore latest --tag wal-archive,main --target /tmp/test-restore --include '**/000000010000000000000002'","restic restore latest --tag base-backup,main --target /tmp/base-backups --verify\nrestic restore latest --tag wal-archive,main --target /tmp/wal-archive --verify","restic unlock"])
# What people type, from a guide that is older than this project.
KNOWN = r"""
ssh forge.example.net "sudo restic -r /mnt/nas-backup snapshots --tag postgresql --tag main"
ssh forge.example.net "sudo restic -r /mnt/nas-backup snapshots --tag wal-archive --tag main --last 10"
ssh forge.example.net "sudo restic -r /mnt/nas-backup snapshots --tag base-backup --tag main"
ssh forge.example.net "sudo restic -r /mnt/nas-backup find $WAL_FILE --json"
ssh forge.example.net "sudo restic -r /mnt/nas-backup restore latest --target /tmp/test-restore --include '**/$WAL_FILE'"
ssh forge.example.net "sudo restic -r /mnt/nas-backup restore latest --target /var/lib/postgresql/16/main --tag base-backup --tag main"
ssh forge.example.net "sudo restic -r /mnt/nas-backup restore $SNAPSHOT_ID --target /var/lib/postgresql/16/main"
ssh forge.example.net "sudo restic -r /mnt/nas-backup restore latest --target /var/lib/postgresql/16/main-wal-archive --tag wal-archive --tag main"
ssh forge.example.net "sudo restic -r /mnt/nas-backup snapshots | head -20"
sudo restic -r /mnt/nas-backup unlock
sudo restic -r /mnt/nas-backup snapshots --tag main
"""
SSH = "/var/lib/postgresql/.ssh"
METRICS = "/var/lib/node_exporter/textfile_collector/postgresql_health_main.prom"
UNIT = {"nas": "restic-backups-postgresql-main-wal", "second-copy": "restic-backups-postgresql-main-wal-second-copy"}
SLOW_CHECK = "RESTIC_PASSWORD=lab restic --repo /srv/copies/forge --no-cache --retry-lock 10m --limit-download 1 check --read-data"


def sql(statement: str) -> str:
    words = ["runuser", "-u", "postgres", "--", "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", "postgres", "-c", statement]
    return machine.succeed(shlex.join(words)).strip()


def position(lsn: str) -> int:
    high, low = lsn.split("/")
    return int(high, 16) << 32 | int(low, 16)


def copied(repository: str) -> int:
    """Up to where the repository has the WAL."""
    status, note = machine.execute(f"cat /var/lib/backstay/main/off-site-wal-{repository}.json")
    end = json.loads(note)["holds"]["end"] if status == 0 else None
    return position(end) if end else 0


def write() -> int:
    """A change, archived. Returns where it ends."""
    failed = sql("SELECT failed_count FROM pg_stat_archiver")
    sql("INSERT INTO rows DEFAULT VALUES")
    end = position(sql("SELECT pg_current_wal_lsn()"))
    name = sql("SELECT pg_walfile_name(pg_switch_wal() - 1::numeric)")
    with machine.nested("waiting for the archiver"):
        retry(lambda _: sql("SELECT last_archived_wal FROM pg_stat_archiver") >= name, timeout_seconds=300)
    t.assertEqual(sql("SELECT failed_count FROM pg_stat_archiver"), failed)
    return end


def has(repository: str, end: int) -> None:
    with machine.nested(f"waiting for the copy in {repository}"):
        retry(lambda _: copied(repository) >= end, timeout_seconds=600)


def checked() -> str:
    machine.execute("systemctl start postgresql-healthcheck-main.service", timeout=300)
    _, said = machine.execute("runuser -u postgres -- /usr/lib/backstay/bin/pg-healthcheck --config /etc/backstay/main.json")
    return said


def exposure(repository: str) -> float:
    line = f'postgresql_offsite_exposure_seconds{{instance="main",repository="{repository}"}} '
    return float(machine.succeed(f"grep -F {shlex.quote(line)} {METRICS}").removeprefix(line))


def is_named(_last: bool) -> bool:
    said = checked()
    return 'in the repository "nas", changes of the last' in said and f"journalctl --unit {UNIT['nas']}.service" in said


def is_well(_last: bool) -> bool:
    write()
    return 'in the repository "nas"' not in checked()


elsewhere.start()
elsewhere.succeed(
    "systemctl start sshd.service || systemctl start ssh.service",
    "install -d -m 700 /root/.ssh",
    "ssh-keygen -q -t ed25519 -N '' -f /root/forge",
    "cp /root/forge.pub /root/.ssh/authorized_keys",
)
private = elsewhere.succeed("cat /root/forge")
known = "elsewhere " + elsewhere.succeed("cat /etc/ssh/ssh_host_ed25519_key.pub")
machine.start()
machine.wait_for_unit("postgresql-main.service")
machine.succeed(
    f"install -d -m 700 -o postgres -g postgres {SSH}",
    f"printf %s {shlex.quote(private)} > {SSH}/id_ed25519",
    f"printf %s {shlex.quote(known)} > {SSH}/known_hosts",
    f"chown postgres:postgres {SSH}/*",
    f"chmod 600 {SSH}/*",
)

with subtest("both repositories are written to, by nobody but the timers"):
    sql("CREATE TABLE rows (i bigserial)")
    machine.succeed("systemctl start postgresql-basebackup-main.service", timeout=900)
    end = write()
    for repository in UNIT:
        has(repository, end)
    with machine.nested("waiting until the check is content"):
        retry(is_well, timeout_seconds=300)

# What is done to it, how it is undone, and what the journal says of it.
SSHD = ("sshd.service", "ssh.service")
FAULTS = {
    "is unreachable": (
        elsewhere,
        "; ".join(f"systemctl stop {unit} || true" for unit in SSHD),
        " || ".join(f"systemctl start {unit}" for unit in SSHD),
        "Connection refused",
    ),
    # In the middle of a copy: nothing is refused, and nothing comes any more.
    "does not answer any more": (
        elsewhere,
        "until pkill -STOP -x sftp-server; do sleep 0.01; done; pkill -STOP sshd",
        "pkill -CONT sshd; pkill -CONT -x sftp-server || true",
        "not responding|timed out",
    ),
    "is locked": (
        elsewhere,
        f"systemd-run --quiet --unit=another bash -c {shlex.quote(SLOW_CHECK)}; until journalctl --unit=another | grep -q 'load indexes'; do sleep 0.2; done",
        "systemctl stop another.service",
        "already locked",
    ),
    "is read-only": (elsewhere, "mount -o remount,ro /srv/copies", "mount -o remount,rw /srv/copies", "lock|Failure|ermission"),
    "is full": (elsewhere, "head -c 2G /dev/zero > /srv/copies/fill || true", "rm /srv/copies/fill", "o space"),
    "has another password": (
        machine,
        "mv /etc/lab/restic-password /etc/lab/away && echo wrong > /etc/lab/restic-password && chmod 444 /etc/lab/restic-password",
        "mv /etc/lab/away /etc/lab/restic-password",
        "wrong password",
    ),
}

for what, (where, break_it, cure_it, said) in FAULTS.items():
    with subtest(f"one repository {what}: the other one goes on, the check says which, and it catches up"):
        begun = machine.succeed("date +@%s").strip()
        where.succeed(break_it, timeout=300)
        end = write()
        has("second-copy", end)
        machine.wait_until_succeeds(f"journalctl --unit={UNIT['nas']}.service --since={begun} | grep -E {shlex.quote(said)}", timeout=600)
        with machine.nested("waiting until the check names it"):
            retry(is_named, timeout_seconds=300)
        t.assertGreater(exposure("nas"), exposure("second-copy"))
        t.assertLess(copied("nas"), end)
        # It went on meanwhile.
        has("second-copy", write())
        where.succeed(cure_it, timeout=300)
        has("nas", end)
        with machine.nested("waiting until the check is content"):
            retry(is_well, timeout_seconds=600)

with subtest("the restic commands that people know find and restore what was copied, and so do those of the guide"):
    machine.succeed("systemctl stop '*.timer'")
    # What is running has ended when this has.
    machine.succeed(*(f"systemctl start {unit}.service" for unit in UNIT.values()), timeout=300)
    wal = sql("SELECT last_archived_wal FROM pg_stat_archiver")
    stored = machine.succeed(f"find /var/lib/postgresql/main-wal/[0-9]* -name {wal}").strip()
    password = "export RESTIC_PASSWORD_FILE=/etc/lab/second-password"
    restic = f"{password}; restic -r /srv/second-copy"
    base = json.loads(machine.succeed(f"{restic} snapshots --json --tag base-backup,main"))[-1]["short_id"]
    # In this order: one of the places begins with another.
    replaced = {
        "sudo ": "",
        "/mnt/nas-backup": "/srv/second-copy",
        "/tmp/test-restore": "/root/typed/wal-file",
        "/var/lib/postgresql/16/main-wal-archive": "/root/typed/wal",
        "/var/lib/postgresql/16/main": "/root/typed/base",
        "$WAL_FILE": wal,
        "$SNAPSHOT_ID": base,
        "RESTIC_PASSWORD_FILE=/run/secrets/restic/password": "RESTIC_PASSWORD_FILE=/etc/lab/second-password",
        "/tmp/base-backups": "/root/guide/base",
        "/tmp/wal-archive": "/root/guide/wal",
        "000000010000000000000002": wal,
    }


    def typed(line: str) -> str:
        for known, here in replaced.items():
            line = line.replace(known, here)
        # `head` leaves before all is said.
        return machine.succeed(f"set +o pipefail; {password}; {line}", timeout=600)


    said = []
    for line in filter(None, map(str.strip, KNOWN.splitlines())):
        said.append(typed(line.removeprefix('ssh forge.example.net "').removesuffix('"') if line.startswith("ssh") else line))
    t.assertEqual(len(said), 11)
    t.assertIn("wal-archive", said[0])
    t.assertIn("base-backup", said[0])
    t.assertIn(base, said[2])
    t.assertIn(stored, said[3])
    t.assertIn(base, said[10])
    machine.succeed(f"cmp {stored} /root/typed/wal-file{stored}", f"cmp {stored} /root/typed/wal{stored}")
    machine.succeed("pg_verifybackup --no-parse-wal $(ls -d /root/typed/base/var/backup/postgresql/main/2* | tail -1)")

    typed(guide)
    machine.succeed(f"cmp {stored} /root/typed/wal-file{stored}", f"cmp {stored} /root/guide/wal{stored}")
    machine.succeed("pg_verifybackup --no-parse-wal $(ls -d /root/guide/base/var/backup/postgresql/main/2* | tail -1)")
    machine.succeed("systemctl start timers.target " + " ".join(f"{unit}.timer" for unit in UNIT.values()))

with subtest("a disk that is full makes a rehearsed restore fail with its own reason"):
    scratch = "/var/backup/postgresql-drill/main"
    machine.succeed(f"mount -t tmpfs -o size=8m,mode=700,uid=$(id -u postgres),gid=$(id -g postgres) drill {scratch}")
    machine.fail("systemctl start postgresql-restore-drill-main.service", timeout=900)
    drill = json.loads(machine.succeed("cat /var/lib/backstay/main/restore-drill.json"))
    t.assertEqual(drill["failure"]["reason"], "noSpace")
    machine.succeed(f"umount {scratch}")

with subtest("what was written meanwhile can be restored from the repository that had failed"):
    sql("SELECT pg_switch_wal()")
    has("nas", write())
    rows = sql("SELECT count(*), max(i) FROM rows")
    machine.succeed("systemctl stop '*.timer'")
    machine.succeed(*(f"systemctl start {unit}.service" for unit in UNIT.values()), timeout=300)
    machine.succeed("systemctl kill --signal=KILL postgresql-main.service || true")
    machine.succeed("systemctl stop postgresql-main.service", timeout=300)
    for place in ("/var/lib/postgresql/main", "/var/lib/postgresql/main-wal", "/var/backup/postgresql/main", "/srv/second-copy"):
        machine.succeed(f"find {place} -mindepth 1 -delete")
    machine.succeed("backstay restore main --from restic:nas --to latest --yes --no-backup", timeout=900)
    machine.wait_for_unit("postgresql-main.service")
    t.assertEqual(sql("SELECT count(*), max(i) FROM rows"), rows)
    machine.shutdown()
    elsewhere.shutdown()
