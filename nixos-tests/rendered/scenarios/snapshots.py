import json
import shlex

MAIN = "tank/services/postgresql/main"
SPACES = ["fast", "slow"]
ROWS = "SELECT count(*), md5(string_agg(t::text, E'\\n' ORDER BY id)) FROM orders AS t"


def sql(statement: str, host: str = "/run/postgresql", port: int = 5432) -> str:
    words = ["runuser", "-u", "postgres", "--", "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", host, "-p", str(port), "-d", "postgres"]
    return machine.succeed(shlex.join([*words, "-c", statement]), timeout=900).strip()


def snapshots() -> str:
    return machine.succeed(f"zfs list -H -t snapshot -o name,guid -s createtxg {MAIN}")


def branch(name: str, moment: str, ttl: str = "24h", source: str | None = None) -> dict:
    words = ["backstay", "branch", "create", "main", "--at", moment, "--name", name, "--ttl", ttl, "--json"]
    made = machine.succeed(shlex.join(words + (["--from", source] if source else [])), timeout=1200)
    return json.loads(made)


def names() -> list[str]:
    return machine.succeed(f"zfs list -H -r -t snapshot -s createtxg -o name {MAIN}").split()


def ours() -> list[str]:
    """The snapshots that our own programs took, the oldest first."""
    return [name.split("@")[1] for name in names() if name.startswith(f"{MAIN}@backstay-")]


def take() -> None:
    machine.succeed("systemctl start postgresql-snapshot-main.service", timeout=600)


machine.start()
machine.succeed("zpool create -m none tank /dev/vdb")
machine.succeed("systemctl start backstay-datasets.service", timeout=300)
machine.succeed("systemctl start postgresql-main.service", timeout=900)

with subtest("a snapshot is taken while rows are written, and then another one"):
    sql("CREATE TABLE orders (id bigserial PRIMARY KEY, what text)")
    insert = "INSERT INTO orders (what) SELECT clock_timestamp()::text FROM generate_series(1, 20) \\watch 0.1"
    machine.succeed(
        "systemd-run --unit=writer --uid=postgres sh -c "
        + shlex.quote("printf '%s\\n' " + shlex.quote(insert) + " | psql -h /run/postgresql -d postgres")
    )
    machine.sleep(5)
    machine.succeed(f"zfs snapshot {MAIN}@hourly")
    machine.sleep(5)
    machine.succeed("systemctl stop writer.service")
    t.assertGreater(int(sql("SELECT count(*) FROM orders")), 100)
    before = sql(ROWS)
    moment = sql("SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')")
    machine.sleep(1)
    sql("INSERT INTO orders (what) SELECT 'too late' FROM generate_series(1, 50)")
    machine.succeed(f"zfs snapshot {MAIN}@newer")
    sql("DROP TABLE orders")
    sql("SELECT pg_switch_wal()")
    listed = snapshots()

with subtest("pg-prune reads the snapshots from within its sandbox, before anybody else has mounted them"):
    machine.succeed("systemctl start postgresql-walprune-main.service", timeout=300)
    said = machine.succeed("journalctl -o cat -u postgresql-walprune-main.service")
    t.assertIn("keep    WAL for snapshot hourly: in the last ", said)
    t.assertIn("keep    WAL for snapshot newer: in the last ", said)
    t.assertNotIn("cannot be read", said)

with subtest("a person sees which snapshots a restore can begin with"):
    said = machine.succeed("backstay windows main")
    t.assertIn("hourly, timeline 1, after ", said)
    t.assertIn("newer, timeline 1, after ", said)

with subtest("the instance is looked at as it was, beside itself"):
    made = branch("yesterday", moment)
    machine.log(f"a branch of {machine.succeed('du -sh --apparent-size /var/lib/postgresql/main/17').split()[0]} took {made['made']['seconds']:.1f} s")
    t.assertEqual(made["made"]["from"], "snapshot hourly")
    t.assertEqual(sql(ROWS, made["socketDirectory"], made["port"]), before)
    sql("DROP TABLE orders", made["socketDirectory"], made["port"])
    t.assertEqual(made["unit"], "postgresql-branch-main-yesterday.service")
    t.assertEqual(machine.succeed(f"systemctl show --value --property=User,ActiveState {made['unit']}").split(), ["postgres", "active"])
    machine.succeed("backstay branch destroy main yesterday", timeout=300)
    machine.wait_until_succeeds(f"! systemctl is-active {made['unit']}", timeout=60)

with subtest("the lost table comes back from the snapshot, to the row, and every snapshot is still there"):
    outcome = json.loads(machine.succeed(f"backstay restore main --to {moment} --yes --no-backup --json", timeout=1800))
    t.assertEqual(outcome["plan"]["startingPoint"]["kind"], "snapshot")
    t.assertEqual(outcome["plan"]["startingPoint"]["name"], "hourly")
    t.assertEqual(sql(ROWS), before)
    t.assertEqual(snapshots(), listed)
    machine.succeed(f"zfs send -i @hourly {MAIN}@newer > /dev/null")

with subtest("what is written on the new timeline is archived, and can be gone back to"):
    sql("INSERT INTO orders (what) VALUES ('after the restore')")
    machine.succeed(f"zfs snapshot {MAIN}@later")
    sql("SELECT pg_switch_wal()")
    made = branch("now", "latest")
    t.assertEqual(made["made"]["from"], "snapshot later")
    t.assertEqual(sql(ROWS, made["socketDirectory"], made["port"]), sql(ROWS))
    # Its time is over before anybody has thought of it.
    machine.succeed("systemctl start postgresql-branches-main.service", timeout=300)
    t.assertEqual([it["name"] for it in json.loads(machine.succeed("backstay branch list main --json"))], ["now"])
    made = branch("short", "latest", ttl="1 second")
    machine.sleep(2)
    machine.succeed("systemctl start postgresql-branches-main.service", timeout=300)
    t.assertEqual([it["name"] for it in json.loads(machine.succeed("backstay branch list main --json"))], ["now"])
    machine.fail(f"test -e {made['socketDirectory']}")
    machine.succeed("backstay branch destroy main now", timeout=300)

with subtest("ten times the size is branched in about the same time"):
    sql("CREATE TABLE big AS SELECT g, repeat(md5(g::text), 60) FROM generate_series(1, 120000) AS g")
    sql("CHECKPOINT")
    machine.succeed(f"zfs snapshot {MAIN}@big")
    made = branch("big", "latest")
    machine.log(f"a branch of {machine.succeed('du -sh --apparent-size /var/lib/postgresql/main/17').split()[0]} took {made['made']['seconds']:.1f} s")
    t.assertEqual(sql("SELECT count(*) FROM big", made["socketDirectory"], made["port"]), "120000")
    machine.log(machine.succeed("zpool get -H -o property,value bcloneused,bclonesaved tank"))
    machine.succeed("backstay branch destroy main big", timeout=300)
    sql("DROP TABLE big")

with subtest("a base backup is one snapshot of data and tablespaces, and its unit has the rights for that while it runs"):
    for space in SPACES:
        machine.succeed(f"runuser -u postgres -- mkdir /srv/{space}/space")
        sql(f"CREATE TABLESPACE {space} LOCATION '/srv/{space}/space'")
        sql(f"CREATE TABLE in_{space} (id bigint) TABLESPACE {space}")
    both = "WITH new AS (INSERT INTO in_fast SELECT count(*) FROM in_fast RETURNING id) INSERT INTO in_slow SELECT id FROM new \\watch 0.1"
    machine.succeed(
        "systemd-run --unit=both --uid=postgres sh -c "
        + shlex.quote("printf '%s\n' " + shlex.quote(both) + " | psql -h /run/postgresql -d postgres")
    )
    take()
    (first,) = ours()
    parts = [f"{MAIN}@{first}", *(f"{MAIN}/{space}@{first}" for space in SPACES)]
    moments = [machine.succeed(f"zfs get -Hp -o value createtxg {part}").strip() for part in parts]
    t.assertEqual(len(set(moments)), 1)
    for part in parts:
        marks = machine.succeed(f"zfs get -H -s local -o property,value all {part}")
        t.assertIn("backstay:instance\tmain\n", marks)
        t.assertIn(f"backstay:system-identifier\t{sql('SELECT system_identifier FROM pg_control_system()')}\n", marks)
        t.assertIn("backstay:timeline\t2\n", marks)
    t.assertEqual(machine.succeed(f"zfs get -H -o value backstay:verified {parts[0]}").strip(), "yes")
    t.assertNotIn("postgres", machine.succeed(f"zfs allow {MAIN}"))
    status, said = machine.execute(
        "runuser -u postgres -- /usr/lib/backstay/bin/pg-base-backup --config /etc/backstay/main.json --method snapshot 2>&1", timeout=600
    )
    t.assertEqual(status, 1)
    t.assertIn("permission denied", said)
    t.assertIn("hint: postgresql-snapshot-main.service has the rights for as long as it runs", said)
    t.assertEqual(ours(), [first])
    t.assertIn(f"{first}, timeline 2, after ", machine.succeed("backstay windows main"))

with subtest("what was written while it was taken is in all tablespaces or in none"):
    machine.succeed("systemctl stop both.service")
    sql("SELECT pg_switch_wal()")
    for moment in ("immediate", "latest"):
        made = branch("whole", moment, source=f"snapshot:{first}")
        rows = [sql(f"SELECT count(*), max(id) FROM in_{space}", made["socketDirectory"], made["port"]) for space in SPACES]
        machine.log(f"{moment}: {rows}")
        t.assertEqual(rows[0], rows[1])
        machine.succeed("backstay branch destroy main whole", timeout=300)
    t.assertEqual(rows[0], sql("SELECT count(*), max(id) FROM in_fast"))

with subtest("a tablespace that no snapshot takes at the same moment is refused, and nothing is taken"):
    machine.succeed("zfs create -o mountpoint=/srv/fast/elsewhere tank/elsewhere && chown postgres: /srv/fast/elsewhere")
    sql("CREATE TABLESPACE elsewhere LOCATION '/srv/fast/elsewhere'")
    machine.fail("systemctl start postgresql-snapshot-main.service", timeout=600)
    machine.succeed("systemctl stop postgresql-snapshot-main.service")
    said = machine.succeed("journalctl -o cat -u postgresql-snapshot-main.service")
    t.assertIn(f'is on dataset "tank/elsewhere", which is not below dataset "{MAIN}" of the data directory', said)
    t.assertEqual(ours(), [first])
    t.assertNotIn("postgres", machine.succeed(f"zfs allow {MAIN}"))
    sql("DROP TABLESPACE elsewhere")

with subtest("t62: what is restored from cannot be destroyed, and no hold is left of it"):
    def held() -> list[str]:
        return [part for part in parts if machine.succeed(f"zfs get -Hp -o value userrefs {part}").strip() != "0"]

    # Held by root's part, for a restore that is the server's user's.
    make = f"backstay branch create main --at latest --from snapshot:{first} --name"
    for name in ("good", "killed"):
        machine.succeed(f"systemd-run --unit={name} {make} {name}")
        machine.wait_until_succeeds(f"test $(zfs get -Hp -o value userrefs {parts[-1]}) = 1", timeout=300)
        t.assertEqual(held(), parts)
        for part in parts:
            t.assertIn("held", machine.fail(f"zfs destroy {part} 2>&1"))
        if name == "killed":
            machine.succeed("systemctl kill --signal=KILL killed.service")
        machine.wait_until_fails(f"systemctl is-active {name}.service", timeout=900)
        if name == "good":
            t.assertEqual(held(), [])
            machine.succeed("backstay branch destroy main good", timeout=300)
    # The machine's power could have gone as well.
    t.assertEqual(held(), parts)
    branch("next", "latest", source=f"snapshot:{first}")
    t.assertEqual(held(), [])
    machine.succeed("backstay branch destroy main next", timeout=300)
    # Who is not root may not, and goes on.
    said = machine.succeed(f"runuser -u postgres -- {make} unheld 2>&1", timeout=900)
    t.assertIn("the snapshot is not held while it is read: ", said)
    machine.succeed("backstay branch destroy main unheld", timeout=300)
    t.assertEqual(held(), [])

with subtest("expired snapshots of our own go, but those that are held, and nobody else's"):
    others = [name for name in names() if "@backstay-" not in name]
    machine.succeed(f"zfs hold mine {MAIN}@{first}")
    for _ in range(3):
        take()
    newest = ours()
    t.assertEqual(len(newest), 3)
    t.assertIn(first, newest)
    machine.succeed(f"zfs release mine {MAIN}@{first}")
    take()
    t.assertEqual(len(ours()), 2)
    t.assertNotIn(first, ours())
    t.assertEqual([name for name in names() if "@backstay-" not in name], others)
    machine.shutdown()
