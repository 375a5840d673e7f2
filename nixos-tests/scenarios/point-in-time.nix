# The guide's scenario 2, on the host of the guide: a table is dropped while people write, and the instance goes back to the moment
# before by each of the three ways that the guide has for saying when: a time, a transaction, a named restore point.
{
  name = "point-in-time";
  globalTimeout = 3600;
  passthru.lab.runners = [
    "container"
    "machine"
  ];
  # Two minutes on a machine that has something else to do, and more in emulation: not in every test run.
  passthru.lab.onlyByName = [
    "container"
    "machine"
  ];

  nodes.machine = {
    imports = [ ../examples/lab-guide.nix ];
    system.name = "machine";
    virtualisation.memorySize = 2048;
    virtualisation.diskSize = 4096;
  };

  testScript = ''
    import re
    import shlex
    import time


    def sql(statement: str) -> str:
        words = ["runuser", "-u", "postgres", "--", "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", "app1", "-c", statement]
        return machine.succeed(shlex.join(words)).strip()


    def ledger() -> str:
        return sql("SELECT count(*), max(id), md5(string_agg(t::text, E'\\n' ORDER BY id)) FROM ledger AS t")


    def write(first: int, last: int) -> None:
        sql(f"INSERT INTO ledger SELECT i, md5(i::text) FROM generate_series({first}, {last}) AS i")


    def allow_empty(word: str) -> None:
        machine.succeed(f"sed -i -E 's/(\"allowEmptyStartWithoutProof\": ?)(true|false)/\\1{word}/' /etc/backstay/main.json")


    def goes_back(how: str, arguments: str, expected: str) -> None:
        """Restores, and what was dropped is back to the row, on a timeline of its own."""
        timeline = int(sql("SELECT timeline_id FROM pg_control_checkpoint()"))
        begin = time.monotonic()
        machine.succeed(f"backstay restore main {arguments} --yes", timeout=1800)
        machine.wait_for_unit("postgresql-main.service")
        t.assertEqual(ledger(), expected)
        print(f"scenario 2, back by {how}: {time.monotonic() - begin:.1f} s")
        t.assertEqual(sql("SELECT to_regclass('written_later') IS NULL"), "t")
        t.assertEqual(sql("SELECT pg_is_in_recovery()"), "f")
        t.assertGreater(int(sql("SELECT timeline_id FROM pg_control_checkpoint()")), timeline)


    machine.start()

    with subtest("the host of the guide, with a base backup"):
        machine.wait_until_succeeds("systemctl is-failed preseed-postgresql-main.service", timeout=300)
        allow_empty("true")
        machine.succeed("systemctl reset-failed", "systemctl start postgresql-main.service", timeout=900)
        allow_empty("false")
        machine.wait_until_succeeds("runuser -u postgres -- psql -d app1 -c 'SELECT 1'", timeout=300)
        sql("CREATE TABLE ledger (id bigint PRIMARY KEY, what text)")
        write(1, 5000)
        machine.succeed("systemctl start postgresql-basebackup-main.service", timeout=900)

    with subtest("to a time"):
        write(5001, 6000)
        before = ledger()
        moment = sql("SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US UTC')")
        machine.sleep(1)
        sql("DROP TABLE ledger")
        sql("CREATE TABLE written_later (id int)")
        goes_back("a time", f"--to {shlex.quote(moment)}", before)

    with subtest("to a transaction, which was not known and is found"):
        write(6001, 7000)
        before = ledger()
        sql("DROP TABLE ledger")
        sql("CREATE TABLE written_later (id int)")
        found = machine.succeed("backstay find main --relation ledger --since '1 hour ago'", timeout=600)
        transaction = re.findall(r"DROP app1\.public\.ledger +\(transaction ([0-9]+),", found)[-1]
        goes_back("a transaction", f"--to xid:{transaction} --exclusive", before)

    with subtest("to a named restore point"):
        write(7001, 8000)
        before = ledger()
        sql("SELECT pg_create_restore_point('before_major_upgrade')")
        sql("DROP TABLE ledger")
        sql("CREATE TABLE written_later (id int)")
        goes_back("a restore point", "--to name:before_major_upgrade", before)

    with subtest("each cluster that was left behind is kept, and the archive goes on"):
        kept = machine.succeed("ls /var/lib/postgresql/main").split()
        t.assertEqual(len([name for name in kept if ".before-restore-" in name]), 3)
        write(8001, 9000)
        name = sql("SELECT pg_walfile_name(pg_switch_wal() - 1::numeric)")
        with machine.nested("waiting for the archiver"):
            retry(lambda _: sql("SELECT last_archived_wal FROM pg_stat_archiver") >= name, timeout_seconds=120)
        t.assertEqual(sql("SELECT failed_count FROM pg_stat_archiver"), "0")
        machine.shutdown()
  '';
}
