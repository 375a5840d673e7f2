# Whatever happens to a pool or to what is mounted from it: the server never gets a new cluster in the place of its own, nothing that was
# promised is lost, the message says what to do, and after that everything goes on.
{
  name = "pool-faults";
  globalTimeout = 2 * 3600;
  passthru.lab.runners = [ "machine" ];
  # Half an hour, and ten minutes more for a Debian system with ZFS where none is cached: not in every test run.
  passthru.lab.onlyByName = [ "machine" ];

  nodes.machine = {
    imports = [ ../examples/lab-zfs.nix ];
    virtualisation.memorySize = 2048;
    virtualisation.emptyDiskImages = [ 4096 ];
  };

  testScript = ''
    import json
    import shlex

    PARENT = "tank/services/postgresql"
    MAIN = f"{PARENT}/main"
    DATA = "/var/lib/postgresql/main"
    ARCHIVE = "/var/lib/postgresql/main-wal"
    rows = 0


    def postgres(*words: str) -> str:
        return shlex.join(["runuser", "-u", "postgres", "--", *words])


    def sql(statement: str) -> str:
        return machine.succeed(postgres("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", "postgres", "-c", statement), timeout=600).strip()


    def row_is_acknowledged() -> None:
        global rows
        sql(f"INSERT INTO ledger VALUES ({rows + 1}, repeat('x', 1000))")
        rows += 1


    def switched() -> str:
        """Ends a WAL file that holds something, and returns its name."""
        row_is_acknowledged()
        return sql("SELECT pg_walfile_name(pg_switch_wal())")


    def is_archived(segment: str) -> str:
        return f"find {ARCHIVE} -name {segment} | grep -q ."


    def waits(segment: str) -> str:
        return f"test -e {DATA}/17/pg_wal/archive_status/{segment}.ready"


    def all_is_well() -> None:
        """The server is the one that it was, every acknowledged row is there, and what was written meanwhile is archived."""
        found = sql("SELECT (SELECT system_identifier FROM pg_control_system()), count(*), coalesce(max(id), 0) FROM ledger")
        t.assertEqual(found, f"{identifier}|{rows}|{rows}")
        machine.wait_until_succeeds(is_archived(switched()), timeout=600)
        windows = json.loads(machine.succeed("backstay windows main --json"))["windows"]
        t.assertEqual([(window["restorable"], window["missing"]["count"]) for window in windows], [(True, 0)])


    def refusal() -> str:
        """What the unit says when it does not bring the datasets about."""
        machine.succeed("journalctl --rotate --vacuum-time=1s -q || true")
        machine.fail("systemctl start backstay-datasets.service", timeout=600)
        return machine.succeed("journalctl -u backstay-datasets.service -o cat -n 60")


    def server_refuses() -> None:
        """The server does not start, and does not go on trying while the test goes on."""
        machine.fail("systemctl start postgresql-main.service", timeout=600)
        stop_server()
        # While a unit waits for its restart, systemd already starts what it wants. That run has seen things as they were.
        machine.wait_until_fails("systemctl show -P ActiveState backstay-datasets.service | grep -x activating", timeout=300)


    def stop_server() -> None:
        machine.succeed("systemctl stop postgresql-main.service", timeout=900)
        machine.succeed("systemctl reset-failed postgresql-main.service || true")


    def start_server() -> None:
        """Starts it. After a fault it may be back by itself, still replay its WAL, or have given up."""
        machine.succeed("systemctl reset-failed postgresql-main.service || true")
        machine.succeed("systemctl start postgresql-main.service", timeout=900)
        machine.wait_until_succeeds(postgres("psql", "-XAtq", "-d", "postgres", "-c", "SELECT"), timeout=900)


    def nothing_below(path: str) -> None:
        """No file is in the directory that a file system should be mounted over."""
        t.assertEqual(machine.succeed(f"find {path} -xdev -mindepth 1 -print -quit"), "")


    machine.start()
    machine.succeed("zpool create -m none tank /dev/vdb")
    machine.succeed("systemctl start backstay-datasets.service", timeout=300)
    start_server()
    programs = machine.succeed("dirname $(systemctl show -P ExecStart backstay-datasets.service | sed 's/.*path=\\([^ ]*\\).*/\\1/')").strip()
    identifier = sql("SELECT system_identifier FROM pg_control_system()")
    sql("CREATE TABLE ledger (id bigint PRIMARY KEY, t text)")
    machine.succeed("systemctl start postgresql-basebackup-main.service", timeout=1800)
    all_is_well()

    with subtest("A7: the archive has reached its quota: the segments wait, and nothing of one is in the archive"):
        # ZFS counts what was written a few seconds later, and takes no quota below that.
        machine.wait_until_succeeds(f"zpool sync tank; zfs set refquota=$(zfs get -Hp -o value referenced {MAIN}-wal) {MAIN}-wal", timeout=300)
        first, second = switched(), switched()
        machine.wait_until_succeeds(f"grep -rq 'Disk quota exceeded' {DATA}/17/log || journalctl -u postgresql-main.service | grep -q 'Disk quota exceeded'", timeout=300)
        machine.succeed(waits(second))
        machine.fail(is_archived(second))
        t.assertEqual(machine.succeed(f"find {ARCHIVE} -name '*{second}*' -not -path '*/incoming/*'"), "")
        machine.log(machine.execute("systemctl start postgresql-healthcheck-main.service; backstay status main")[1])
        machine.succeed(f"zfs set refquota=none {MAIN}-wal")
        machine.wait_until_succeeds(is_archived(second), timeout=600)
        machine.succeed(is_archived(first))
        all_is_well()

    with subtest("the data has reached its quota: what cannot be written is not acknowledged, and nothing else is lost"):
        # The server writes between the question and the answer, so there is room for a little.
        machine.succeed(f"zfs set refquota=$(( $(zfs get -Hp -o value referenced {MAIN}) + (4 << 20) )) {MAIN}")
        for _ in range(40):
            status, _ = machine.execute(postgres("psql", "-XAtq", "-d", "postgres", "-c", "CREATE TABLE IF NOT EXISTS filler (t text)", "-c", "INSERT INTO filler SELECT md5(random()::text) FROM generate_series(1, 40000)"), timeout=600)
            if status != 0:
                break
        t.assertNotEqual(status, 0)
        machine.succeed(f"zfs set refquota=none {MAIN}")
        start_server()
        all_is_well()
        sql("DROP TABLE IF EXISTS filler")

    with subtest("the pool is full: the server and its archive wait for space, and go on"):
        machine.succeed("zfs create -o mountpoint=none tank/hog")
        machine.succeed("zfs set refreservation=$(( $(zfs get -Hp -o value available tank) - (8 << 20) )) tank/hog")
        status = 0
        for _ in range(40):
            status, _ = machine.execute(postgres("psql", "-XAtq", "-d", "postgres", "-c", "CREATE TABLE IF NOT EXISTS filler (t text)", "-c", "INSERT INTO filler SELECT md5(random()::text) FROM generate_series(1, 40000)", "-c", "SELECT pg_switch_wal()"), timeout=600)
            if status != 0:
                break
        t.assertNotEqual(status, 0)
        machine.succeed("zfs destroy tank/hog")
        start_server()
        all_is_well()
        sql("DROP TABLE IF EXISTS filler")

    with subtest("A11: the archive is not mounted: nothing is written into the directory in its place"):
        stop_server()
        machine.succeed(f"zfs unmount {MAIN}-wal")
        segment = machine.succeed(f"ls {DATA}/17/pg_wal | grep -E '^[0-9A-F]{{24}}$' | head -1").strip()
        by_hand = postgres(f"{programs}/pg-archive-wal", "--config", "/etc/backstay/main.json", f"{DATA}/17/pg_wal/{segment}")
        status, said = machine.execute(f"{by_hand} 2>&1")
        t.assertEqual(status, 1)
        t.assertIn(f'hint: is the archive mounted at "{ARCHIVE}"?', said)
        nothing_below(ARCHIVE)

    with subtest("R8: nor is anything restored from it, although a base backup would do"):
        fetch = postgres(f"{programs}/pg-restore-wal", "--config", "/etc/backstay/main.json", segment, "/tmp/fetched")
        status, said = machine.execute(f"{fetch} 2>&1")
        t.assertGreater(status, 125, said)
        status, said = machine.execute("backstay restore main --to latest --yes --no-backup 2>&1", timeout=600)
        t.assertNotEqual(status, 0)
        t.assertIn(f'hint: is the archive mounted at "{ARCHIVE}"?', said)
        machine.succeed(f"test -e {DATA}/17/PG_VERSION")
        machine.fail(f"ls -d {DATA}/17.before-restore-*")
        nothing_below(ARCHIVE)
        machine.succeed("systemctl start backstay-datasets.service", timeout=300)
        start_server()
        all_is_well()

    with subtest("A12: another dataset hides the archive: refused, and both are named"):
        stop_server()
        machine.succeed("zfs create -o mountpoint=legacy tank/other", f"mount -t zfs tank/other {ARCHIVE}", f"chown postgres: {ARCHIVE}")
        status, said = machine.execute(f"{by_hand} 2>&1")
        t.assertEqual(status, 1)
        t.assertIn(f'hint: is the archive mounted at "{ARCHIVE}"?', said)
        said = refusal()
        t.assertIn("tank/other", said)
        t.assertIn(f"{MAIN}-wal", said)
        server_refuses()
        t.assertEqual(machine.succeed(f"find {ARCHIVE} -mindepth 1"), "")
        machine.succeed(f"umount {ARCHIVE}", "zfs destroy tank/other")
        start_server()
        all_is_well()

    with subtest("T46: a second dataset hides the data, and its files were removed: no new cluster, and both are named"):
        stop_server()
        machine.succeed(f"zfs create -o mountpoint={DATA} tank/services/postgres", f"chown postgres: {DATA}", f"chmod 700 {DATA}", f"rm -rf {DATA}/*")
        said = refusal()
        t.assertIn(f'dataset "{MAIN}"', said)
        t.assertIn('dataset "tank/services/postgres" is mounted at', said)
        server_refuses()
        t.assertEqual(machine.succeed(f"find {DATA} -mindepth 1"), "")
        machine.succeed("zfs destroy tank/services/postgres")
        start_server()
        all_is_well()

    with subtest("a dataset is declared twice, or two for one place: refused before anything is asked"):
        declared = json.loads(machine.succeed("cat /etc/backstay/datasets.json"))
        first = declared["datasets"][0]
        for change, complaint in [({}, f'"{first["name"]}" is datasets.[0].name too'), ({"name": first["name"] + "-2"}, f'"{first["mountpoint"]}" is that of "{first["name"]}" too')]:
            twice = {**declared, "datasets": [*declared["datasets"], {**first, **change}]}
            machine.succeed(f"echo {shlex.quote(json.dumps(twice))} > /tmp/datasets.json")
            status, said = machine.execute(f"{programs}/pg-datasets --config /tmp/datasets.json 2>&1")
            t.assertEqual(status, 1)
            t.assertIn(complaint, said)

    with subtest("the parent is missing, its datasets are somewhere else: no second ones are made, and the server has its own data"):
        stop_server()
        machine.succeed("zfs rename tank/services tank/renamed")
        said = refusal()
        t.assertIn(f'dataset "{MAIN}": dataset "tank/renamed/postgresql/main" is mounted at "{DATA}" too', said)
        machine.fail(f"zfs list {MAIN}")
        start_server()
        all_is_well()
        stop_server()
        machine.succeed("zfs destroy -r tank/services", "zfs rename tank/renamed tank/services")
        start_server()
        all_is_well()

    with subtest("a snapshot is gone between the plan of a restore and the restore: the present cluster stays as it is"):
        machine.succeed(f"zfs snapshot {MAIN}@fleeting", "mkfifo /tmp/answer")
        row_is_acknowledged()
        machine.succeed(
            "systemd-run --quiet --unit=restoring sh -c "
            + shlex.quote("script -qefc 'backstay restore main --to latest --from snapshot --no-backup' /dev/null < /tmp/answer > /tmp/said 2>&1"),
            "systemd-run --quiet --unit=answering sh -c 'exec 3> /tmp/answer; while ! test -e /tmp/gone; do sleep 1; done; echo main >&3; sleep 60'",
        )
        machine.wait_until_succeeds("grep -q 'Type the name of the instance' /tmp/said", timeout=600)
        # While it is being looked at, ZFS keeps it. That ends by itself.
        machine.wait_until_succeeds(f"zfs destroy {MAIN}@fleeting", timeout=600)
        machine.succeed("touch /tmp/gone")
        machine.wait_until_fails("systemctl is-active restoring.service", timeout=900)
        said = machine.succeed("cat /tmp/said")
        machine.log(said)
        t.assertIn('snapshot "fleeting" has been destroyed meanwhile', said)
        t.assertIn("`systemctl start postgresql-main.service` starts it again", said)
        machine.succeed("systemctl stop answering.service", f"test -e {DATA}/17/PG_VERSION")
        machine.fail(f"ls -d {DATA}/17.before-restore-*")
        start_server()
        all_is_well()
        machine.shutdown()
  '';
}
