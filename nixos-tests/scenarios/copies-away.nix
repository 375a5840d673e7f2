# A data directory is lost while copies of it are away: each in turn, some of them, all of them. The next copy is taken; with none the server
# stays down and says why, and with every one proven empty it begins anew. S18, S19, S20
{
  name = "copies-away";
  globalTimeout = 3600;
  passthru.lab.runners = [
    "container"
    "machine"
  ];
  # Three minutes on a machine that has something else to do, and more in emulation: not in every test run.
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
    import json
    import shlex

    # How each copy goes away, and how it comes back.
    NAS = ("umount /mnt/nas-backup", "mount --bind /srv/nas /mnt/nas-backup")
    OFFSITE = ("mv /srv/offsite /srv/away", "mv /srv/away /srv/offsite")
    BACKUPS = (
        "mv /var/backup/postgresql/main /srv/unmounted && install -d -o postgres -g postgres -m 700 /var/backup/postgresql/main",
        "rmdir /var/backup/postgresql/main && mv /srv/unmounted /var/backup/postgresql/main",
    )


    def sql(statement: str) -> str:
        words = ["runuser", "-u", "postgres", "--", "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", "app1", "-c", statement]
        return machine.succeed(shlex.join(words)).strip()


    def ledger() -> str:
        return sql("SELECT count(*), max(id), md5(string_agg(t::text, E'\\n' ORDER BY id)) FROM ledger AS t")


    def archive_everything() -> None:
        name = sql("SELECT pg_walfile_name(pg_switch_wal() - 1::numeric)")
        with machine.nested("waiting for the archiver"):
            retry(lambda _: sql("SELECT last_archived_wal FROM pg_stat_archiver") >= name, timeout_seconds=120)


    def record() -> tuple[str, str | None]:
        told = json.loads(machine.succeed("cat /var/lib/backstay/main/preseed.json"))
        return told["outcome"], told.get("source")


    def allow_empty(word: str) -> None:
        machine.succeed(f"sed -i -E 's/(\"allowEmptyStartWithoutProof\": ?)(true|false)/\\1{word}/' /etc/backstay/main.json")


    def lose_the_data() -> None:
        machine.succeed("systemctl stop 'postgresql-*' 'restic-backups-*'", timeout=300)
        machine.succeed("find /var/lib/postgresql/main -mindepth 1 -delete", "systemctl reset-failed")


    def start() -> None:
        machine.succeed("systemctl start postgresql-main.service", timeout=900)


    machine.start()
    # Those that are only an hour away would come in between.
    machine.succeed("systemctl stop '*.timer'")

    with subtest("copies that cannot be asked are no proof: there is no server and no cluster"):
        machine.wait_until_succeeds("systemctl is-failed preseed-postgresql-main.service", timeout=300)
        t.assertEqual(record(), ("failed", None))
        machine.fail("test -e /var/lib/postgresql/main/17")

    with subtest("with every copy proven empty the server begins anew"):
        machine.succeed(f"mkdir -p /mnt/nas-backup /srv/nas && chown postgres: /srv/nas && {NAS[1]}")
        machine.succeed("systemctl start restic-backups-repository-nas-primary.service restic-backups-repository-offsite.service", timeout=300)
        # The place of the base backups shows what it is once there has been a server. That one, which had nothing, goes altogether.
        allow_empty("true")
        machine.succeed("systemctl reset-failed")
        start()
        allow_empty("false")
        t.assertEqual(record(), ("emptyWithoutProof", None))
        lose_the_data()
        machine.succeed("find /var/lib/postgresql/main-wal /var/lib/backstay/main -mindepth 1 -delete")
        start()
        t.assertEqual(record(), ("nothingToRestore", None))
        machine.wait_until_succeeds("runuser -u postgres -- psql -d app1 -c 'SELECT 1'", timeout=300)
        sql("CREATE TABLE ledger (id bigint PRIMARY KEY, what text)")
        sql("INSERT INTO ledger SELECT i, md5(i::text) FROM generate_series(1, 5000) AS i")
        machine.succeed("systemctl start postgresql-basebackup-main.service", timeout=900)
        for unit in ("base", "base-offsite"):
            machine.wait_until_succeeds(f"journalctl -u restic-backups-postgresql-main-{unit}.service | grep -F 'snapshot '", timeout=120)
        archive_everything()
        machine.succeed("systemctl start restic-backups-postgresql-main-wal.service restic-backups-postgresql-main-wal-offsite.service", timeout=600)

    cases = [
        ("nothing", [], "1 (restic)"),
        ("the first repository", [NAS], "2 (restic)"),
        ("the second repository", [OFFSITE], "1 (restic)"),
        ("the disk with the base backups", [BACKUPS], "1 (restic)"),
        ("both repositories", [NAS, OFFSITE], "3 (baseBackups)"),
        ("all but the second repository", [NAS, BACKUPS], "2 (restic)"),
    ]
    for number, (what, away, source) in enumerate(cases):
        with subtest(f"away is {what}: the data comes back from {source}"):
            sql(f"INSERT INTO ledger VALUES ({100000 + number}, 'archived here, and copied nowhere')")
            archive_everything()
            archived = ledger()
            lose_the_data()
            for goes, _ in away:
                machine.succeed(goes)
            start()
            t.assertEqual(record(), ("restored", source))
            t.assertEqual(ledger(), archived)
            # It asks for a base backup, which needs its disk.
            for _, comes in away:
                machine.succeed("systemctl stop 'postgresql-basebackup*'", timeout=300)
                machine.succeed(comes)

    with subtest("all are away: the server stays down and says of each why, and the data directory stays empty"):
        archived = ledger()
        archive_everything()
        lose_the_data()
        for goes, _ in (NAS, OFFSITE, BACKUPS):
            machine.succeed(goes)
        machine.fail("systemctl start postgresql-main.service", timeout=900)
        t.assertEqual(record(), ("failed", None))
        machine.fail("test -e /var/lib/postgresql/main/17")
        said = machine.succeed("journalctl --unit=preseed-postgresql-main.service --output=cat | grep -A 1 -F 'nothing could be restored' | tail -n 2")
        for place in ("/mnt/nas-backup", "/srv/offsite", "/var/backup/postgresql/main", "hint: "):
            t.assertIn(place, said)

    with subtest("one is back: so is the data"):
        machine.succeed(OFFSITE[1], "systemctl reset-failed")
        start()
        t.assertEqual(record(), ("restored", "2 (restic)"))
        t.assertEqual(ledger(), archived)
        machine.shutdown()
  '';
}
