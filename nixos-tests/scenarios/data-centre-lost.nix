# The guide's scenario 4. A host is lost, and with it all that stood beside it, such as the NAS with the first repository. What is left is
# the configuration and a repository in another place. The machine that boots there has every row up to the last copy in that
# repository, and goes on from there. The commands are those of our guide.
{ lib, ... }:
let
  guide = builtins.readFile ../../docs/guides/data-centre-lost.md;
  # The `sh` blocks of the guide, in order, for the repository of the example.
  blocks = map (
    part: lib.replaceStrings [ "object-store" ] [ "offsite" ] (lib.head (lib.splitString "\n```" part))
  ) (lib.tail (lib.splitString "\n```sh\n" guide));

  host =
    name:
    { ... }:
    {
      imports = [ ../examples/lab-guide.nix ];
      # One configuration, so they have one host name.
      system = { inherit name; };
      virtualisation.memorySize = 2048;
      virtualisation.diskSize = 4096;
    };
in
{
  name = "data-centre-lost";
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

  nodes.here = host "here";
  nodes.elsewhere = host "elsewhere";

  testScript = ''
    import base64
    import json
    import shlex
    import tempfile
    import time

    plan, watch, look, afterwards = ${builtins.toJSON blocks}


    def sql(machine, statement: str) -> str:
        words = ["runuser", "-u", "postgres", "--", "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", "app1", "-c", statement]
        return machine.succeed(shlex.join(words)).strip()


    def ledger(machine) -> str:
        return sql(machine, "SELECT count(*), max(id), md5(string_agg(t::text, E'\\n' ORDER BY id)) FROM ledger AS t")


    def write(machine, first: int, last: int) -> None:
        sql(machine, f"INSERT INTO ledger SELECT i, md5(i::text) FROM generate_series({first}, {last}) AS i")


    def archive_everything(machine) -> None:
        name = sql(machine, "SELECT pg_walfile_name(pg_switch_wal() - 1::numeric)")
        with machine.nested("waiting for the archiver"):
            retry(lambda _: sql(machine, "SELECT last_archived_wal FROM pg_stat_archiver") >= name, timeout_seconds=120)


    def copy_wal(machine, repository: str) -> None:
        machine.succeed(f"systemctl start restic-backups-postgresql-main-wal{repository}.service", timeout=600)


    def record(machine) -> dict:
        return json.loads(machine.succeed("cat /var/lib/backstay/main/preseed.json"))


    def allow_empty(machine, word: str) -> None:
        machine.succeed(f"sed -i -E 's/(\"allowEmptyStartWithoutProof\": ?)(true|false)/\\1{word}/' /etc/backstay/main.json")


    here.start()

    with subtest("a host with two repositories begins"):
        here.wait_until_succeeds("systemctl is-failed preseed-postgresql-main.service", timeout=300)
        here.succeed("mkdir -p /mnt/nas-backup /srv/nas && chown postgres: /srv/nas && mount --bind /srv/nas /mnt/nas-backup")
        allow_empty(here, "true")
        here.succeed("systemctl reset-failed", "systemctl start postgresql-main.service postgresql.target", timeout=900)
        allow_empty(here, "false")
        here.wait_until_succeeds("runuser -u postgres -- psql -d app1 -c 'SELECT 1'", timeout=300)
        sql(here, "CREATE TABLE ledger (id bigint PRIMARY KEY, what text)")
        write(here, 1, 5000)
        here.succeed("systemctl start postgresql-basebackup-main.service", timeout=900)
        for unit in ("base", "base-offsite"):
            here.wait_until_succeeds(f"journalctl -u restic-backups-postgresql-main-{unit}.service | grep -F 'snapshot '", timeout=120)

    with subtest("its changes are copied off-site, and then some more into the NAS only"):
        write(here, 5001, 9000)
        archive_everything(here)
        copy_wal(here, "-offsite")
        off_site = ledger(here)
        write(here, 9001, 10000)
        archive_everything(here)
        copy_wal(here, "")
        said = here.succeed(plan)
        t.assertIn("1 (restic)", said)
        t.assertIn("2 (restic)", said)

    with subtest("the data centre is lost"):
        # It is in another place, and so it is not.
        repository = here.succeed("tar --create --directory=/srv offsite | base64 --wrap=0", timeout=300)
        here.crash()

    elsewhere.start()

    with subtest("a machine in another place that reaches no copy stays down, and says why of each"):
        elsewhere.wait_until_succeeds("systemctl is-failed preseed-postgresql-main.service", timeout=300)
        said = elsewhere.succeed("journalctl --unit=preseed-postgresql-main.service")
        t.assertIn("/mnt/nas-backup", said)
        t.assertIn("/srv/offsite", said)
        t.assertEqual(record(elsewhere)["outcome"], "failed")
        elsewhere.fail("systemctl is-active postgresql-main.service")
        elsewhere.fail("test -e /var/lib/postgresql/main/17")
        # Nor has it made a repository where the lost one would be mounted.
        elsewhere.fail("test -e /mnt/nas-backup/config")

    with subtest("it reaches the off-site copy, boots, and has every row up to the last one that was copied there"):
        with tempfile.NamedTemporaryFile() as file:
            file.write(base64.b64decode(repository))
            file.flush()
            elsewhere.copy_from_host(file.name, "/srv/offsite.tar")
        elsewhere.succeed("tar --extract --directory=/srv --file=/srv/offsite.tar", "sync")
        elsewhere.crash()
        begin = time.monotonic()
        elsewhere.start()
        elsewhere.wait_for_unit("postgresql-main.service", timeout=1800)
        print(f"scenario 4, the data centre is lost: back {time.monotonic() - begin:.1f} s after the new machine was switched on")
        t.assertEqual(ledger(elsewhere), off_site)
        t.assertEqual(sql(elsewhere, "SELECT pg_is_in_recovery()"), "f")
        told = record(elsewhere)
        t.assertEqual((told["outcome"], told["source"]), ("restored", "2 (restic)"))

    with subtest("what was lost is named, and the rest goes on"):
        said = elsewhere.succeed(watch)
        t.assertIn("/mnt/nas-backup", said)
        for command in look.splitlines():
            elsewhere.succeed(command)
        elsewhere.wait_until_fails("test -e /var/lib/backstay/main/base-backup-requested", timeout=300)
        write(elsewhere, 20001, 21000)
        archive_everything(elsewhere)
        for command in afterwards.splitlines():
            elsewhere.succeed(command, timeout=900)
        t.assertIn("2 (restic)", elsewhere.succeed(plan))
        # The unit of the repository that is gone fails, and no other does.
        elsewhere.fail("systemctl start restic-backups-postgresql-main-wal.service", timeout=600)
        elsewhere.shutdown()
  '';
}
