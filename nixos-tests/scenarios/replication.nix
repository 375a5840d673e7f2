# Snapshots of the data are sent to a second pool and those of the archive over ssh, with rights that are there only while they are
# needed. After a restore on the source everything that was sent is still there, and the next increment goes through.
{
  name = "replication";
  globalTimeout = 3600;
  passthru.lab.runners = [ "machine" ];
  # Fifteen minutes, and ten more for a Debian system with ZFS where none is cached: not in every test run.
  passthru.lab.onlyByName = [ "machine" ];

  nodes.machine = {
    imports = [ ../examples/lab-replication.nix ];
    virtualisation.memorySize = 2048;
    virtualisation.emptyDiskImages = [
      4096
      4096
    ];
  };

  testScript = ''
    import json
    import shlex
    from typing import Any

    MAIN = "tank/services/postgresql/main"
    REPLICA = "vault/machine/main"
    LAB = "/etc/backstay-lab"
    HOME = "/var/lib/zfs-replication"
    RECEIVING = "change-key,compression,create,mount,mountpoint,receive"
    SENDING = "bookmark,hold,send"
    # sshd of the second machine.
    SERVE = (
        f"systemd-run --quiet --unit=nas $(readlink -f $(command -v sshd)) -D -e -f /dev/null -h {LAB}/host-key"
        f" -o ListenAddress=127.0.0.2 -o AuthorizedKeysFile={LAB}/authorized -o StrictModes=no -o UsePAM=no -o PidFile=none"
        " -o SetEnv=PATH=/run/current-system/sw/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    )
    ROWS = "SELECT count(*), md5(string_agg(t::text, E'\\n' ORDER BY id)) FROM orders AS t"


    def sql(statement: str) -> str:
        words = ["runuser", "-u", "postgres", "--", "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", "postgres", "-c", statement]
        return machine.succeed(shlex.join(words), timeout=900).strip()


    def unit(dataset: str) -> str:
        return f"syncoid-{dataset.replace('/', '-')}.service"


    def send(dataset: str) -> str:
        """Sends what is new, and returns what is said about it."""
        machine.succeed(f"systemctl start --wait {unit(dataset)}", timeout=900)
        return said(dataset)


    def said(dataset: str) -> str:
        of_the_last_run = f"_SYSTEMD_INVOCATION_ID=$(systemctl show -P InvocationID {unit(dataset)})"
        return machine.succeed(f"journalctl --sync; journalctl -o cat {of_the_last_run}")


    def snapshots(dataset: str) -> list[str]:
        """The snapshots, each with what tells it from another one of its name, the oldest first."""
        return machine.succeed(f"zfs list -H -d 1 -t snapshot -o name,guid -s createtxg {dataset} | sed 's/.*@//'").splitlines()


    def rights(*datasets: str) -> str:
        return machine.succeed(f"for dataset in {' '.join(datasets)}; do zfs allow $dataset; done | grep zfs-replication || true")


    def replace(file: str, line: str, keep: bool) -> None:
        """Writes a line into a file of /etc, which may be a link into the store."""
        before = f"cat {file};" if keep else ""
        machine.succeed(f"({before} echo {shlex.quote(line)}) > {file}.new && mv {file}.new {file}")


    def asked(content: str) -> bool:
        """Asks a replica what it holds, and returns whether it answered."""
        status, _ = machine.execute(f"systemctl start postgresql-replica-main-{content}.service", timeout=300)
        return status == 0


    def noted(content: str) -> dict[str, Any]:
        return json.loads(machine.succeed(f"cat /var/lib/backstay/main/replica-{content}.json"))


    def newest(dataset: str) -> str:
        return snapshots(dataset)[-1].split()[0]


    machine.start()
    machine.succeed("zpool create -m none tank /dev/vdb", "zpool create -m none vault /dev/vdc")
    # What is encrypted is readable on the target only if it was not sent as it is on disk.
    machine.succeed(
        f"mkdir -p {LAB}",
        f"head -c 32 /dev/urandom > {LAB}/key",
        f"zfs create -o encryption=aes-256-gcm -o keyformat=raw -o keylocation=file://{LAB}/key -o canmount=off -o mountpoint=none tank/services",
    )
    # As the option for the target's dataset says.
    machine.succeed("zfs create -o readonly=on vault/machine")
    machine.succeed("systemctl start backstay-datasets.service", timeout=300)
    machine.succeed("systemctl start postgresql-main.service", timeout=900)
    sql("CREATE TABLE orders AS SELECT g AS id, md5(g::text) AS what FROM generate_series(1, 5000) AS g")
    sql("SELECT pg_switch_wal()")
    # What takes long enough to be sent for the power to fail meanwhile.
    machine.succeed("dd if=/dev/urandom of=/var/lib/postgresql/main/noise bs=1M count=192 status=none")
    machine.succeed("systemctl start --wait sanoid.service", timeout=600)

    # The second machine.
    machine.succeed(
        "mkdir -p /run/sshd",
        f"ssh-keygen -q -t ed25519 -N ''' -f {LAB}/host-key",
        f"mkdir -m 700 {HOME}/.ssh",
        f"ssh-keygen -q -t ed25519 -N ''' -f {HOME}/.ssh/id_ed25519",
        f"cp {HOME}/.ssh/id_ed25519.pub {LAB}/authorized",
        f"chown -R zfs-replication: {HOME}",
        "useradd --password '*' --shell /bin/sh --create-home receiver",
        SERVE,
        # As the option for the target's user says.
        f"zfs allow -u receiver {RECEIVING} vault/machine",
    )
    replace("/etc/hosts", "127.0.0.2 nas.example.org", keep=True)

    with subtest("a host that does not show the declared key is sent nothing"):
        machine.succeed(f"systemctl start --wait {unit(MAIN + '-wal')} || true", timeout=300)
        t.assertIn("Host key verification failed", said(MAIN + "-wal"))
        machine.fail("zfs list vault/machine/main-wal")

    with subtest("the archive is sent over ssh, whole"):
        key = machine.succeed(f"cut -d ' ' -f 1,2 {LAB}/host-key.pub").strip()
        replace("/etc/ssh/ssh_known_hosts", f"nas.example.org {key}", keep=False)
        send(MAIN + "-wal")
        t.assertEqual(snapshots(REPLICA + "-wal"), snapshots(MAIN + "-wal"))

    with subtest("a replica is as old as the replica says, and one that cannot be asked says nothing"):
        # The settings have the key that nobody has.
        t.assertFalse(asked("wal"))
        machine.fail("test -e /var/lib/backstay/main/replica-wal.json")
        declared = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGJhY2tzdGF5L2V4YW1wbGUvbm90LWEtcmVhbC1r"
        settings = machine.succeed("cat /etc/backstay/main.json").replace(declared, key)
        replace("/etc/backstay/main.json", settings, keep=False)
        # After a transfer it is asked without being told to.
        send(MAIN + "-wal")
        machine.wait_until_succeeds("test -e /var/lib/backstay/main/replica-wal.json", timeout=300)
        t.assertEqual(noted("wal")["newest"]["name"], newest(REPLICA + "-wal"))
        # What was sent is lost there; here everything looks as before.
        machine.succeed(f"zfs rename {REPLICA}-wal vault/aside")
        t.assertTrue(asked("wal"))
        t.assertIsNone(noted("wal")["newest"])
        machine.succeed(f"zfs rename vault/aside {REPLICA}-wal")
        t.assertTrue(asked("wal"))
        known = noted("wal")
        machine.succeed("systemctl stop nas.service")
        t.assertFalse(asked("wal"))
        t.assertEqual(noted("wal"), known)
        machine.succeed(SERVE)
        _, health = machine.execute("runuser -u postgres -- /usr/lib/backstay/bin/pg-healthcheck --config /etc/backstay/main.json --json", timeout=300)
        t.assertGreater(json.loads(health)["replicaAgeSeconds"]["wal"], 0)

    with subtest("the data is sent to the other pool as it is on disk, with rights that end with the transfer"):
        machine.succeed(f"systemctl start --no-block {unit(MAIN)}")
        machine.wait_until_succeeds(f"zfs get -H -o value receive_resume_token {REPLICA} | grep -qv '^-'", timeout=300)
        # The replica did not exist: the rights to receive it are those over its parent, and nothing else is there.
        t.assertEqual(rights("vault/machine").split(), ["user", "zfs-replication", RECEIVING])
        t.assertEqual(rights(MAIN).split(), ["user", "zfs-replication", SENDING])

    with subtest("the transfer is broken off, and goes on where it was"):
        machine.succeed("pkill -KILL -x zfs")
        machine.wait_until_succeeds(f"systemctl is-failed {unit(MAIN)}", timeout=300)
        t.assertEqual(rights(MAIN, "vault/machine"), "")
        t.assertEqual(snapshots(REPLICA), [])
        t.assertIn("Resuming interrupted zfs send/receive", send(MAIN))
        t.assertEqual(snapshots(REPLICA), snapshots(MAIN))
        t.assertEqual(rights(MAIN, "vault/machine", REPLICA), "")
        machine.wait_until_succeeds("test -e /var/lib/backstay/main/replica-data.json", timeout=300)
        t.assertTrue(asked("data"))
        t.assertEqual(noted("data")["newest"]["name"], newest(REPLICA))
        # The target has never seen the key.
        properties = machine.succeed(f"zfs get -H -o value mounted,readonly,encryption,keystatus {REPLICA}").split()
        t.assertEqual(properties, ["no", "on", "aes-256-gcm", "unavailable"])

    with subtest("a table is lost, and comes back from a snapshot on the source; what was sent is still there"):
        before = sql(ROWS)
        moment = sql("SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')")
        machine.sleep(1)
        sql("INSERT INTO orders VALUES (0, 'too late')")
        machine.succeed(f"zfs snapshot -r {MAIN}@newer")
        send(MAIN)
        sql("DROP TABLE orders")
        sql("SELECT pg_switch_wal()")
        here, there = snapshots(MAIN), snapshots(REPLICA)
        t.assertEqual(there, here)
        outcome = json.loads(machine.succeed(f"backstay restore main --to {moment} --from snapshot --yes --no-backup --json", timeout=1800))
        t.assertEqual(outcome["plan"]["startingPoint"]["kind"], "snapshot")
        t.assertEqual(sql(ROWS), before)
        t.assertEqual(snapshots(MAIN), here)
        t.assertEqual(snapshots(REPLICA), there)

    with subtest("the next increment goes through, and holds what was restored"):
        machine.succeed(f"zfs snapshot -r {MAIN}@restored")
        t.assertIn("incremental", send(MAIN))
        t.assertEqual(snapshots(REPLICA), snapshots(MAIN))
        t.assertEqual(len(snapshots(REPLICA)), len(there) + 1)
        machine.succeed(f"zfs load-key -L file://{LAB}/key {REPLICA}")
        machine.succeed("zfs clone -o readonly=on -o mountpoint=/srv/replica vault/machine/main@restored vault/look")
        machine.succeed("diff -r --exclude=noise /srv/replica /var/lib/postgresql/main/.zfs/snapshot/restored")
        machine.succeed("zfs destroy vault/look", f"zfs unload-key {REPLICA}")
        machine.shutdown()
  '';
}
