import json
import shlex
import time

MAIN = "tank/services/postgresql/main"
WAL = "tank/services/postgresql/main-wal"
RECEIVED = {dataset: f"{dataset}.receiving/replica" for dataset in (MAIN, WAL)}
REPLICA = "vault/machine/main"
LAB = "/etc/backstay-lab"
HOME = "/var/lib/zfs-replication"
ROWS = "SELECT count(*), md5(string_agg(t::text, E'\\n' ORDER BY id)) FROM orders AS t"
NOBODYS_KEY = "AAAAC3NzaC1lZDI1NTE5AAAAIGJhY2tzdGF5L2V4YW1wbGUvbm90LWEtcmVhbC1r"


def sql(statement: str) -> str:
    words = ["runuser", "-u", "postgres", "--", "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", "postgres", "-c", statement]
    return machine.succeed(shlex.join(words), timeout=900).strip()


def archive_everything() -> None:
    name = sql("SELECT pg_walfile_name(pg_switch_wal() - 1::numeric)")
    with machine.nested("waiting for the archiver"):
        retry(lambda _: sql("SELECT last_archived_wal FROM pg_stat_archiver") >= name, timeout_seconds=300)


def send(dataset: str) -> None:
    machine.succeed(f"systemctl start --wait syncoid-{dataset.replace('/', '-')}.service", timeout=900)


def snapshots(dataset: str) -> list[str]:
    """The snapshots, each with what tells it from another one of its name, the oldest first."""
    return machine.succeed(f"zfs list -H -d 1 -t snapshot -o name,guid -s createtxg {dataset} | sed 's/.*@//'").splitlines()


def said(unit: str) -> str:
    of_the_last_run = f"_SYSTEMD_INVOCATION_ID=$(systemctl show -P InvocationID {unit})"
    return machine.succeed(f"journalctl --sync; journalctl -o cat {of_the_last_run}")


def record() -> dict:
    return json.loads(machine.succeed("cat /var/lib/backstay/main/preseed.json"))


def server_stays_down(reason: str) -> None:
    machine.fail("systemctl start postgresql-main.service", timeout=1800)
    t.assertIn(reason, said("preseed-postgresql-main.service"))
    down()


def down() -> None:
    machine.fail("systemctl is-active postgresql-main.service", "test -e /var/lib/postgresql/main/17")
    machine.execute("systemctl reset-failed")


def nas_is_on() -> None:
    machine.succeed(
        "mkdir -p /run/sshd",
        f"systemd-run --quiet --unit=nas $(readlink -f $(command -v sshd)) -D -e -f /dev/null -h {LAB}/host-key"
        f" -o ListenAddress=127.0.0.2 -o AuthorizedKeysFile={LAB}/authorized -o StrictModes=no -o UsePAM=no -o PidFile=none"
        f" -o SetEnv=PATH={LAB}/nas:/run/current-system/sw/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    )
    machine.wait_until_succeeds("ssh-keyscan 127.0.0.2 2>/dev/null | grep -q ssh-ed25519", timeout=120)


def receiving() -> None:
    """Starts the server, and returns while the data is on its way."""
    machine.succeed("systemctl start --no-block postgresql-main.service")
    machine.wait_until_succeeds(f"zfs get -H -o value receive_resume_token {RECEIVED[MAIN]} | grep -qv '^-'", timeout=600)


machine.start()
machine.succeed("zpool create -m none tank /dev/vdb", "zpool create -m none vault /dev/vdc")
machine.succeed(
    f"mkdir -p {LAB}/nas",
    f"head -c 32 /dev/urandom > {LAB}/key",
    f"zfs create -o encryption=aes-256-gcm -o keyformat=raw -o keylocation=file://{LAB}/key -o canmount=off -o mountpoint=none tank/services",
    "zfs create -o readonly=on -o mountpoint=none vault/machine",
)
machine.succeed("systemctl start backstay-datasets.service", timeout=300)
# The other host is a bad one: it sends the properties of its datasets along, whoever asked it for them.
evil = (
    'PATH=${PATH#*:}',
    'case "$1 $2" in',
    '"send -t") exec zfs "$@" ;;',
    'send*) shift; exec zfs send -p "$@" ;;',
    '*) exec zfs "$@" ;;',
    'esac',
)
machine.succeed(
    f"ssh-keygen -q -t ed25519 -N '' -f {LAB}/host-key",
    f"mkdir -p -m 700 {HOME}/.ssh",
    f"ssh-keygen -q -t ed25519 -N '' -f {HOME}/.ssh/id_ed25519",
    f"cp {HOME}/.ssh/id_ed25519.pub {LAB}/authorized",
    f"chown -R zfs-replication: {HOME}",
    "useradd --password '*' --shell /bin/sh --create-home receiver",
    f"echo '#!/bin/sh' > {LAB}/nas/zfs",
    *(f"echo {shlex.quote(line)} >> {LAB}/nas/zfs" for line in evil),
    f"chmod 755 {LAB} {LAB}/nas {LAB}/nas/zfs",
    # As the options for the target's user and for the methods of restores say.
    "zfs allow -u receiver change-key,compression,create,mount,mountpoint,receive vault/machine",
    "zfs allow -u receiver hold,send vault/machine",
    "cat /etc/hosts > /etc/hosts.new && echo 127.0.0.2 nas.example.org >> /etc/hosts.new && mv /etc/hosts.new /etc/hosts",
)
key = machine.succeed(f"cut -d ' ' -f 2 {LAB}/host-key.pub").strip()

with subtest("a replica that cannot be asked keeps the server down"):
    server_stays_down('host "nas.example.org" could not be asked')
    nas_is_on()
    # It does not show the declared key.
    server_stays_down("Host key verification failed")

with subtest("a replica that has shown that it holds nothing lets it begin"):
    machine.succeed(f"sed -i 's|{NOBODYS_KEY}|{key}|' /etc/backstay/main.json")
    machine.succeed(f"echo nas.example.org ssh-ed25519 {key} > /etc/ssh/known.new && mv /etc/ssh/known.new /etc/ssh/ssh_known_hosts")
    machine.succeed("systemctl start postgresql-main.service", timeout=900)
    t.assertEqual(record()["outcome"], "nothingToRestore")

with subtest("data and archive are replicated, and then only the archive"):
    sql("CREATE TABLE orders AS SELECT g AS id, md5(g::text) AS what FROM generate_series(1, 5000) AS g")
    archive_everything()
    # What takes long enough to be sent for the power to fail meanwhile.
    machine.succeed("dd if=/dev/urandom of=/var/lib/postgresql/main/noise bs=1M count=64 status=none")
    machine.succeed(f"zfs snapshot {MAIN}@first {WAL}@first")
    sql("INSERT INTO orders SELECT g, 'between' FROM generate_series(5001, 6000) AS g")
    machine.succeed(f"zfs snapshot {MAIN}@second {WAL}@second")
    send(MAIN)
    sql("INSERT INTO orders SELECT g, 'in the archive' FROM generate_series(6001, 8000) AS g")
    archive_everything()
    machine.succeed(f"zfs snapshot {WAL}@third")
    send(WAL)
    replicated = sql(ROWS)
    history = snapshots(REPLICA)
    t.assertEqual(history, snapshots(MAIN))
    sql("INSERT INTO orders VALUES (100000, 'that nobody has replicated')")
    machine.succeed(f"zfs set -u mountpoint=/evil {REPLICA} && zfs set canmount=on {REPLICA}")

with subtest("the host loses everything, and a new one has the configuration and the key to the other host"):
    machine.succeed("systemctl kill --signal=KILL postgresql-main.service || true")
    # systemd may be about to start it again, with all that comes before it.
    ours = "systemctl stop 'postgresql-*' 'preseed-*' 'sanoid*' 'syncoid-*'"
    machine.execute(ours, timeout=300)
    machine.succeed(ours, timeout=300)
    machine.succeed("zpool destroy -f tank")
    machine.succeed("find /var/lib/backstay/main /var/lib/postgresql/provisioning -mindepth 1 -delete")
    machine.succeed("zpool create -f -m none tank /dev/vdb", "systemctl reset-failed")
    machine.succeed("systemctl start backstay-datasets.service", timeout=300)
    guid = machine.succeed(f"zfs get -H -o value guid {MAIN}")
    plan = json.loads(machine.succeed("backstay preseed main --plan --json", timeout=300))
    (source,) = plan["sources"]
    t.assertEqual((plan["action"], plan["from"], source["answer"]), ("restore", "1 (syncoid)", "hasToCome"))
    t.assertEqual(source["snapshot"], f"{REPLICA}@second")
    t.assertGreater(source["receiveBytes"], 64 << 20)
    t.assertIn("MiB to receive", machine.succeed("backstay preseed main --plan", timeout=300))

with subtest("S11 a receive that is killed leaves the declared dataset as it was"):
    receiving()
    machine.succeed("systemctl kill --signal=KILL postgresql-receive-main.service")
    machine.wait_until_succeeds("systemctl is-failed preseed-postgresql-main.service", timeout=300)
    t.assertIn("was not received", said("preseed-postgresql-main.service"))
    t.assertEqual(machine.succeed(f"zfs get -H -o value guid {MAIN}"), guid)
    down()

with subtest("S11 the power fails while the rest comes"):
    receiving()
    machine.sleep(1)
    machine.crash()
    machine.start()
    machine.wait_until_succeeds("systemctl is-failed preseed-postgresql-main.service", timeout=600)
    t.assertIn('host "nas.example.org" could not be asked', said("preseed-postgresql-main.service"))
    t.assertEqual(machine.succeed(f"zfs get -H -o value guid {MAIN}"), guid)
    down()

with subtest("what was encrypted waits for its key, whole"):
    nas_is_on()
    begin = time.monotonic()
    server_stays_down(f"zfs load-key {RECEIVED[MAIN]}")
    t.assertIn("going on where it was interrupted", machine.succeed("journalctl -o cat -u postgresql-receive-main.service"))
    t.assertEqual(machine.succeed(f"zfs get -H -o value guid {MAIN}"), guid)
    for dataset in RECEIVED.values():
        machine.succeed(f"zfs load-key -L file://{LAB}/key {dataset}")

with subtest("S13 the next start has the rows, and nothing is mounted where the other host said"):
    machine.succeed("systemctl start postgresql-main.service", timeout=1800)
    print(f"back {time.monotonic() - begin:.1f} s after the other host was")
    t.assertEqual(sql(ROWS), replicated)
    t.assertEqual(sql("SELECT pg_is_in_recovery()"), "f")
    told = record()
    t.assertEqual((told["outcome"], told["source"]), ("restored", "1 (syncoid)"))
    t.assertEqual(told["restored"]["startingPoint"], "snapshot second")
    properties = machine.succeed(f"zfs get -H -o property,value,source mountpoint,canmount,setuid,mounted {MAIN}").splitlines()
    t.assertEqual(
        properties,
        ["mountpoint\t/var/lib/postgresql/main\tlocal", "canmount\ton\tlocal", "setuid\toff\tlocal", "mounted\tyes\t-"],
    )
    machine.fail("mountpoint -q /evil", f"zfs list {MAIN}.receiving", f"zfs list {WAL}.receiving")
    # What had the name is kept, and mounted nowhere.
    aside = machine.succeed(f"zfs list -H -o name,mounted,mountpoint -r tank/services/postgresql | grep -F {MAIN}.empty-").split()
    t.assertEqual(aside[1:], ["no", "none"])
    # All that was beside the data directory is in the snapshots, and those are all there.
    t.assertEqual(snapshots(MAIN), history)
    machine.succeed("test -s /var/lib/postgresql/main/.zfs/snapshot/second/noise", "! test -e /var/lib/postgresql/main/noise")

with subtest("the next increments go through, and a start changes nothing"):
    sql("INSERT INTO orders VALUES (100001, 'afterwards')")
    archive_everything()
    machine.succeed(f"zfs snapshot {MAIN}@afterwards {WAL}@afterwards")
    for dataset in (MAIN, WAL):
        send(dataset)
    t.assertEqual(snapshots(REPLICA), snapshots(MAIN))
    t.assertEqual(snapshots(f"{REPLICA}-wal"), snapshots(WAL))
    before = machine.succeed("cat /var/lib/backstay/main/preseed.json; zfs list -H -o name,guid -r tank")
    machine.succeed("systemctl restart postgresql-main.service", timeout=900)
    t.assertEqual(machine.succeed("cat /var/lib/backstay/main/preseed.json; zfs list -H -o name,guid -r tank"), before)
    t.assertEqual(sql("SELECT count(*) FROM orders"), "8001")
    machine.shutdown()
