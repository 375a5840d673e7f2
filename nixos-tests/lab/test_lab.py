"""Tests of what needs no machine: python3 -m unittest discover --start-directory nixos-tests/lab"""

from __future__ import annotations

import io
import random
import socket
import struct
import subprocess
import tempfile
import time
import unittest
from collections import Counter
from contextlib import redirect_stdout
from pathlib import Path

import host
from disk import BLOCK_BYTES, Disk
from emulated import EmulatedMachine
from log import Log
from machine import Machine, MachineError, Outcome, RequestedAssertionFailed
from verify import DATASETS_LIMIT, HELPER_LIMIT, SERVER_LIMIT, Example, Verdict


class Here(Machine):
    """A machine that is this host: its commands run with bash, and its systemctl says what a test wants."""

    def __init__(self, log: Log, systemctl: list[str] | None = None) -> None:
        super().__init__("here", log)
        self._systemctl = systemctl or []
        self.is_on = False

    def is_up(self) -> bool:
        return self.is_on

    def _start(self) -> None:
        self.is_on = True

    def _run(self, command: str, timeout: float | None) -> Outcome:
        if "systemctl " in command:
            if not self._systemctl:
                return Outcome(1, "", "no more answers")
            return Outcome(0, self._systemctl.pop(0), "")
        limit = [] if timeout is None else ["timeout", str(timeout)]
        done = subprocess.run([*limit, "bash", "-c", command], capture_output=True, text=True, check=False)
        return Outcome(done.returncode, done.stdout, done.stderr)

    def wait_for_shutdown(self) -> None:
        self.is_on = False

    def _cut(self) -> None:
        self.is_on = False

    def interact(self) -> None:
        raise NotImplementedError

    def save(self, directory: Path) -> None:
        raise NotImplementedError

    def release(self) -> None:
        self.is_on = False


class MachineTest(unittest.TestCase):
    """What scenarios rely on."""

    def setUp(self) -> None:
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.directory = Path(temporary.name)
        self.log = Log(self.directory / "output")
        self.printed = io.StringIO()
        silence = redirect_stdout(self.printed)
        silence.__enter__()
        self.addCleanup(silence.__exit__, None, None, None)
        self.machine = Here(self.log)

    def test_a_command_switches_the_machine_on(self) -> None:
        self.assertEqual(self.machine.succeed("echo a", "echo b"), "a\nb\n")
        self.assertTrue(self.machine.is_on)
        self.assertEqual(len(self.machine.boots), 1)

    def test_commands_run_with_the_options_of_the_nixos_driver(self) -> None:
        for command in ("false; true", "false | true", 'echo "$unset"'):
            self.assertNotEqual(self.machine.execute(command)[0], 0, command)

    def test_a_command_that_fails_says_so_with_its_output(self) -> None:
        with self.assertRaisesRegex(RequestedAssertionFailed, "^command `echo why >&2; exit 3` failed \\(exit code 3\\)$"):
            self.machine.succeed("echo why >&2; exit 3")
        self.assertIn("stderr: why", self.printed.getvalue())

    def test_a_command_that_should_fail_and_succeeds_is_a_failure(self) -> None:
        self.assertEqual(self.machine.fail("echo x; false"), "x\n")
        with self.assertRaises(RequestedAssertionFailed):
            self.machine.fail("true")

    def test_a_command_that_takes_too_long_is_killed(self) -> None:
        begun = time.monotonic()
        self.assertEqual(self.machine.execute("sleep 60", timeout=0.2)[0], 124)
        self.assertLess(time.monotonic() - begun, 10)

    def test_waiting_ends_when_it_is_so_and_not_later_than_its_time(self) -> None:
        file = self.directory / "file"
        self.assertEqual(
            self.machine.wait_until_succeeds(f"test -e {file} && echo there || {{ touch {file}; false; }}", timeout=10), "there\n"
        )
        with self.assertRaises(RequestedAssertionFailed):
            self.machine.wait_until_fails("true", timeout=0)

    def test_a_unit_that_has_failed_is_not_waited_for(self) -> None:
        waiting = Here(self.log, ["ActiveState=activating\n", "ActiveState=failed\n"])
        with self.assertRaisesRegex(RequestedAssertionFailed, 'unit "x.service" has failed'):
            waiting.wait_for_unit("x.service", timeout=10)

    def test_a_unit_that_nothing_is_about_to_start_is_not_waited_for(self) -> None:
        waiting = Here(self.log, ["ActiveState=inactive\n", "No jobs running.\n", "ActiveState=inactive\n"])
        with self.assertRaisesRegex(RequestedAssertionFailed, "is inactive and there are no pending jobs"):
            waiting.wait_for_unit("x.service", timeout=10)
        # It became active after it was asked for the first time.
        Here(self.log, ["ActiveState=inactive\n", "No jobs.\n", "ActiveState=active\n", "ActiveState=active\n"]).wait_for_unit("x")

    def test_the_state_of_a_unit_is_required(self) -> None:
        Here(self.log, ["ActiveState=failed\n"]).require_unit_state("x", "failed")
        with self.assertRaises(RequestedAssertionFailed):
            Here(self.log, ["ActiveState=failed\n"]).require_unit_state("x")
        self.assertEqual(
            Here(self.log, ["Id=x\nEnvironment=A=b\n\nno property\n"]).get_unit_info("x"), {"Id": "x", "Environment": "A=b"}
        )

    def test_files_are_copied_in_and_out_with_every_byte(self) -> None:
        content = bytes(range(256)) * 1000
        tree = self.directory / "tree"
        (tree / "inner").mkdir(parents=True)
        (tree / "inner" / "file").write_bytes(content)
        (tree / "inner" / "file").chmod(0o750)
        copied = self.directory / "copied"
        self.machine.copy_from_host(str(tree), str(copied))
        self.assertEqual((copied / "inner" / "file").read_bytes(), content)
        self.assertEqual((copied / "inner" / "file").stat().st_mode & 0o777, 0o750)
        self.machine.copy_from_machine(str(copied), "sub")
        self.assertEqual((self.log.directory / "sub/copied/inner/file").read_bytes(), content)

    def test_after_a_crash_the_machine_starts_again(self) -> None:
        self.machine.start()
        self.machine.crash()
        self.assertFalse(self.machine.is_on)
        self.machine.succeed("true")
        self.assertEqual(len(self.machine.boots), 2)

    def test_subtests_are_counted_and_the_one_that_raises_has_failed(self) -> None:
        with self.log.subtest("good"):
            pass
        with self.assertRaises(MachineError), self.log.subtest("bad"):
            raise MachineError("x")
        self.assertEqual([(subtest.name, subtest.passed) for subtest in self.log.subtests], [("good", True), ("bad", False)])

    def test_a_port_is_open_when_something_listens(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            self.machine.wait_for_open_port(port, "127.0.0.1", timeout=5)
        self.machine.wait_for_closed_port(port, "127.0.0.1", timeout=5)


class HostTest(unittest.TestCase):
    """What is installed, as far as that needs no root."""

    def test_units_files_and_links_go_where_nixos_has_them(self) -> None:
        with tempfile.TemporaryDirectory() as name:
            directory = Path(name)
            rendered, programs = directory / "rendered", directory / "programs"
            (rendered / "units").mkdir(parents=True)
            (rendered / "etc/backstay").mkdir(parents=True)
            (rendered / "units/a.service").write_text("[Service]\n")
            (rendered / "etc/backstay/main.json").write_text("{}")
            (rendered / "links").write_text(
                "/etc/systemd/system/b.service -> a.service\n/etc/systemd/system/x.wants/a.service -> ../a.service\n"
            )
            programs.mkdir()
            (programs / "backstay").write_text("#!/bin/sh\n")
            root = host.Root(directory, directory)
            units = root.path / "etc/systemd/system"
            units.mkdir(parents=True)
            (root.path / "var/log").mkdir(parents=True)
            # Debian's own unit of that name is masked.
            (units / "a.service").symlink_to("/dev/null")
            host.install(root, "machine", rendered, programs, {"machine": "192.168.1.2", "elsewhere": "192.168.1.1"})
            self.assertEqual(
                (root.path / "etc/hosts").read_text(), "127.0.0.1 localhost machine\n::1 localhost\n192.168.1.1 elsewhere\n"
            )
            self.assertEqual((units / "a.service").read_text(), "[Service]\n")
            self.assertFalse((units / "a.service").is_symlink())
            self.assertEqual((units / "b.service").readlink(), Path("a.service"))
            self.assertEqual((units / "x.wants/a.service").readlink(), Path("../a.service"))
            self.assertEqual((root.path / "etc/backstay/main.json").read_text(), "{}")
            self.assertEqual((root.path / "etc/backstay/main.json").stat().st_mode & 0o777, 0o444)
            self.assertEqual((root.path / "usr/lib/backstay/bin/backstay").stat().st_mode & 0o777, 0o755)
            self.assertEqual((root.path / "usr/local/bin/backstay").readlink(), Path("/usr/lib/backstay/bin/backstay"))


class DiskTest(unittest.TestCase):
    """What a disk keeps, and what it loses."""

    SIZE = 1 << 20

    def setUp(self) -> None:
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.directory = Path(temporary.name)
        self.disk = Disk(self.directory / "disk", self.SIZE, seed=1)
        self.addCleanup(self.disk.close)

    def test_what_is_written_is_read_at_any_offset_and_length(self) -> None:
        expected = bytearray(self.SIZE)
        chance = random.Random(7)
        for _ in range(300):
            offset = chance.randrange(self.SIZE)
            data = chance.randbytes(min(chance.randrange(1, 20000), self.SIZE - offset))
            self.disk.write(offset, data)
            expected[offset : offset + len(data)] = data
            start = chance.randrange(self.SIZE)
            length = min(chance.randrange(1, 20000), self.SIZE - start)
            self.assertEqual(self.disk.read(start, length), expected[start : start + length])
        self.disk.switch_off()
        self.assertEqual((self.directory / "disk").read_bytes(), expected)

    def test_a_power_cut_loses_some_of_what_was_not_flushed_and_nothing_else(self) -> None:
        blocks = 64
        self.disk.write(0, b"a" * BLOCK_BYTES * blocks)
        self.disk.switch_off()
        self.disk.write(0, b"b" * BLOCK_BYTES * blocks)
        kept, lost = self.disk.cut()
        content = (self.directory / "disk").read_bytes()
        found = [content[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES] for block in range(blocks)]
        self.assertEqual((found.count(b"b" * BLOCK_BYTES), found.count(b"a" * BLOCK_BYTES)), (kept, lost))
        self.assertEqual(kept + lost, blocks)
        self.assertGreater(min(kept, lost), 0)

    def test_it_is_served_as_qemu_asks_for_it(self) -> None:
        self.disk.serve(self.directory / "socket")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(self.directory / "socket"))
            self.assertEqual(client.recv(18, socket.MSG_WAITALL), b"NBDMAGICIHAVEOPT\0\3")
            client.sendall(struct.pack(">I", 3))
            # An option that it does not know, and the one that every client ends with.
            client.sendall(struct.pack(">8sII", b"IHAVEOPT", 8, 0))
            self.assertEqual(struct.unpack(">QIII", client.recv(20, socket.MSG_WAITALL))[1:3], (8, 0x80000001))
            client.sendall(struct.pack(">8sIIIH", b"IHAVEOPT", 7, 6, 0, 0))
            client.recv(20 + 12 + 20, socket.MSG_WAITALL)

            def request(command: int, offset: int, length: int, data: bytes = b"") -> None:
                client.sendall(struct.pack(">IHHQQI", 0x25609513, 0, command, 99, offset, length) + data)
                self.assertEqual(client.recv(16, socket.MSG_WAITALL), struct.pack(">IIQ", 0x67446698, 0, 99))

            request(1, 8192, 4096, b"f" * 4096)
            request(3, 0, 0)
            request(1, 0, 4096, b"v" * 4096)
            request(0, 8192, 4)
            self.assertEqual(client.recv(4, socket.MSG_WAITALL), b"ffff")
        self.assertEqual(sum(self.disk.cut()), 1)
        self.assertEqual((self.directory / "disk").read_bytes()[8192:12288], b"f" * 4096)


class Stumbling(EmulatedMachine):
    """An emulated machine whose boots end as a test wants: with what is on the console, or with taking commands."""

    def __init__(self, log: Log, root: host.Root, boots: list[str]) -> None:
        super().__init__("here", log, root)
        self._boots = boots

    def _make_disks(self) -> None:
        pass

    def _boot(self, console: list[str], terminal: int | None) -> None:
        del console, terminal
        said = self._boots.pop(0)
        self._console.write_text(said)
        self._shell, guest = socket.socketpair()
        if said == "login:":
            self._process = subprocess.Popen(["sleep", "600"])
            guest.sendall(b"ready\n")
        else:
            self._process = subprocess.Popen(["true"])
        guest.close()


class EmulatedMachineTest(unittest.TestCase):
    """When a boot is tried again."""

    def boot(self, *boots: str) -> list[str]:
        """Boots, and returns the boots that were not needed."""
        with tempfile.TemporaryDirectory() as name, redirect_stdout(io.StringIO()):
            log = Log(Path(name))
            machine = Stumbling(log, host.Root(Path(name), Path(name)), list(boots))
            try:
                machine.start()
            finally:
                if machine.is_up():
                    machine.crash()
            return machine._boots

    def test_a_boot_that_the_emulator_spoiled_is_tried_again(self) -> None:
        spoiled = "[    2.653220] Oops: int3: 0000 [#2] PREEMPT SMP NOPTI"
        self.assertEqual(self.boot(spoiled, spoiled, "login:", "login:"), ["login:"])

    def test_a_machine_that_is_off_before_it_has_answered_has_been_shut_down(self) -> None:
        for goes in (True, False):
            with tempfile.TemporaryDirectory() as name, redirect_stdout(io.StringIO()):
                machine = Stumbling(Log(Path(name)), host.Root(Path(name), Path(name)), ["login:"])
                machine.start()

                def is_told(*_: object, goes: bool = goes, machine: Stumbling = machine) -> None:
                    if goes:
                        machine._cut()
                    raise MachineError("the machine has gone")

                machine._run = is_told
                try:
                    if goes:
                        machine.shutdown()
                    else:
                        self.assertRaises(MachineError, machine.shutdown)
                    self.assertEqual(machine.is_up(), not goes)
                finally:
                    if machine.is_up():
                        machine.crash()

    def test_any_other_boot_that_fails_has_failed(self) -> None:
        with self.assertRaisesRegex(MachineError, "the machine has gone"):
            self.boot("Kernel panic - not syncing: VFS: Unable to mount root fs", "login:")


class VerdictTest(unittest.TestCase):
    """How it is counted."""

    def test_what_has_no_complaint_is_counted_by_its_kind(self) -> None:
        verdict = Verdict()
        verdict.check("unit", "a/b.service", "")
        verdict.check("unit", "a/c.service", "is wrong")
        self.assertEqual((verdict.passed, verdict.failures), (Counter(unit=1), ["unit: a/c.service: is wrong"]))


class LimitsOfExposure(unittest.TestCase):
    """Which unit may be exposed how much."""

    def limit(self, unit: str, *lines: str) -> float:
        with tempfile.TemporaryDirectory() as directory:
            units = Path(directory, "units")
            units.mkdir()
            units.joinpath(unit).write_text("\n".join(lines))
            verdict = Verdict()
            # As if systemd had been asked.
            network = "reaches other hosts"
            verdict.limits = {network: 1.1, "is root": 0.4}
            return Example("host", Path(directory), host.Root(Path("/"), Path(directory)), verdict)._limit(unit)

    def test_a_network_is_for_units_whose_duty_it_is(self) -> None:
        self.assertEqual(self.limit("notify@.service", "RestrictAddressFamilies=AF_INET"), 1.1)
        self.assertEqual(self.limit("notify@.service", "RestrictAddressFamilies=AF_UNIX"), HELPER_LIMIT)
        self.assertEqual(self.limit("postgresql-walprune-main.service", "RestrictAddressFamilies=AF_INET"), HELPER_LIMIT)

    def test_a_limit_is_never_lower_than_that_of_the_kind(self) -> None:
        self.assertEqual(self.limit("restic-prune-nas.service", "User=root"), HELPER_LIMIT)

    def test_servers_and_what_changes_datasets_have_limits_of_their_own(self) -> None:
        self.assertEqual(self.limit("postgresql-main.service", "ExecStart=/usr/lib/postgresql/17/bin/postgres -D /data"), SERVER_LIMIT)
        mounts = "CapabilityBoundingSet=CAP_SYS_ADMIN"
        self.assertEqual(self.limit("backstay-datasets.service", mounts), DATASETS_LIMIT)
        self.assertEqual(self.limit("preseed-postgresql-main.service", mounts), HELPER_LIMIT)
        self.assertEqual(self.limit("preseed-postgresql-main.service", mounts, "RestrictAddressFamilies=AF_INET6"), 1.1)
        self.assertEqual(self.limit("postgresql-dump-app.service", mounts), HELPER_LIMIT)


if __name__ == "__main__":
    unittest.main()
