# A host with all its data is lost, and the machine that boots in its place, with nothing but the configuration and a copy elsewhere,
# has the rows up to the last change that was copied. The commands are those of the guide.
{ lib, ... }:
let
  guide = builtins.readFile ../../docs/guides/host-lost.md;
  # The `sh` blocks of the guide, in order.
  blocks = map (part: lib.head (lib.splitString "\n```" part)) (lib.tail (lib.splitString "\n```sh\n" guide));
in
{
  name = "host-lost";
  globalTimeout = 3600;
  passthru.lab.runners = [
    "container"
    "machine"
  ];
  # Minutes in emulation.
  passthru.lab.onlyByName = [ "machine" ];

  nodes.machine =
    { pkgs, ... }:
    {
      imports = [ ../examples/lab-preseed.nix ];
      environment.systemPackages = [ pkgs.restic ];
      virtualisation.memorySize = 2048;
      virtualisation.diskSize = 4096;
    };

  testScript = ''
    import json
    import shlex
    import time

    plan, watch, look = ${builtins.toJSON blocks}
    EVERYTHING = ["/var/lib/postgresql/main", "/var/lib/postgresql/main-wal", "/var/backup/postgresql/main", "/var/lib/backstay/main"]


    def sql(statement: str) -> str:
        words = ["runuser", "-u", "postgres", "--", "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", "postgres", "-c", statement]
        return machine.succeed(shlex.join(words)).strip()


    def ledger() -> str:
        return sql("SELECT count(*), max(id), md5(string_agg(t::text, E'\\n' ORDER BY id)) FROM ledger AS t")


    def archive_everything() -> None:
        name = sql("SELECT pg_walfile_name(pg_switch_wal() - 1::numeric)")
        with machine.nested("waiting for the archiver"):
            retry(lambda _: sql("SELECT last_archived_wal FROM pg_stat_archiver") >= name, timeout_seconds=120)


    def record() -> dict:
        return json.loads(machine.succeed("cat /var/lib/backstay/main/preseed.json"))


    def allow_empty(word: str) -> None:
        machine.succeed(f"sed -i -E 's/(\"allowEmptyStartWithoutProof\": ?)(true|false)/\\1{word}/' /etc/backstay/main.json")


    machine.start()

    with subtest("a machine whose copies cannot be asked stays down, and says what to do"):
        machine.wait_until_succeeds("systemctl is-failed preseed-postgresql-main.service", timeout=120)
        said = machine.succeed("journalctl --unit=preseed-postgresql-main.service")
        t.assertIn("nothing could be restored into", said)
        t.assertIn("preseed.allowEmptyStartWithoutProof", said)
        machine.fail("systemctl is-active postgresql-main.service", "test -e /var/lib/postgresql/main/17")
        t.assertEqual(record()["outcome"], "failed")

    with subtest("it begins with an empty cluster on one more word"):
        allow_empty("true")
        machine.succeed("systemctl reset-failed", "systemctl start postgresql-main.service", timeout=300)
        allow_empty("false")
        t.assertEqual(record()["outcome"], "emptyWithoutProof")
        sql("CREATE TABLE ledger (id bigint PRIMARY KEY, what text)")
        sql("INSERT INTO ledger SELECT i, md5(i::text) FROM generate_series(1, 5000) AS i")
        machine.succeed("systemctl start postgresql-basebackup-main.service", timeout=900)
        machine.wait_until_succeeds("journalctl -u restic-backups-postgresql-main-base.service | grep -F 'snapshot '", timeout=60)
        sql("INSERT INTO ledger SELECT i, md5(i::text) FROM generate_series(5001, 9000) AS i")
        archive_everything()
        machine.succeed("systemctl start restic-backups-postgresql-main-wal.service", timeout=300)
        copied = ledger()

    with subtest("what a new machine would find is known before it is needed"):
        said = machine.succeed(plan)
        t.assertIn("it holds a cluster", said)
        t.assertIn("1 (restic)", said)

    with subtest("a start with all its data changes nothing"):
        before = machine.succeed("cat /var/lib/backstay/main/preseed.json")
        machine.succeed("systemctl restart postgresql-main.service", timeout=300)
        t.assertEqual(machine.succeed("cat /var/lib/backstay/main/preseed.json"), before)

    for source, lost in (("1 (restic)", EVERYTHING), ("2 (baseBackups)", EVERYTHING[:1])):
        with subtest(f"what was lost comes back from source {source} by itself"):
            sql("INSERT INTO ledger VALUES (100000, 'that nobody has copied')")
            # The copy is away when it is not its turn.
            if source != "1 (restic)":
                archive_everything()
                copied = ledger()
                machine.succeed("mv /srv/second-copy /srv/away")
            machine.succeed("systemctl kill --signal=KILL postgresql-main.service || true")
            machine.succeed("systemctl stop 'postgresql-*' 'restic-backups-*'", timeout=120)
            for directory in lost:
                machine.succeed(f"find {directory} -mindepth 1 -delete")
            machine.crash()
            begin = time.monotonic()
            machine.start()
            machine.wait_for_unit("postgresql-main.service", timeout=900)
            print(f"back {time.monotonic() - begin:.1f} s after the machine was switched on")
            t.assertEqual(ledger(), copied)
            t.assertEqual(sql("SELECT pg_is_in_recovery()"), "f")
            told = record()
            t.assertEqual((told["outcome"], told["source"]), ("restored", source))
            for command in (watch + "\n" + look).splitlines():
                machine.succeed(command)
            # A base backup on the new timeline is taken without being asked for by a person.
            machine.wait_until_fails("test -e /var/lib/backstay/main/base-backup-requested", timeout=180)
            machine.succeed("ls /var/backup/postgresql/main/2*/backup_manifest")
            machine.execute("test -e /srv/away && mv /srv/away /srv/second-copy")

    with subtest("it goes on from there"):
        sql("INSERT INTO ledger VALUES (100001, 'afterwards')")
        archive_everything()
        machine.succeed("systemctl start postgresql-walprune-main.service", timeout=300)
        machine.shutdown()
  '';
}
