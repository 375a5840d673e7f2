"""A machine under test, with the methods that a NixOS test driver gives its machines.

Scenarios are written against these methods, so that one text drives a container and an emulated machine here and a virtual
machine in a NixOS test. Names, arguments and what is raised when are those of the driver (NixOS manual, "Machine objects");
what only a screen or a network of NixOS' own can answer is left out.
"""

from __future__ import annotations

import base64
import re
import shlex
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from log import Log

# What a shell of root finds on NixOS and on Debian alike.
ENVIRONMENT = {
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "LOGNAME": "root",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "SHELL": "/bin/bash",
    "USER": "root",
}

# What is kept of a machine when a scenario has failed, and the command that prints it. The server writes its own log.
SAVED = {
    "journal": "journalctl --no-pager --output=short-precise",
    "postgresql": "tail -n +1 /var/lib/postgresql/*/*/log/*",
}

# Longest time, in seconds, that anything is waited for which says nothing about it; that of the NixOS driver.
DEFAULT_TIMEOUT = 900
# Longest time, in seconds, that it may take to stop: TimeoutStopSec of a server that archives its last segments.
STOP_LIMIT = 900
# A single argument of a program may have 128 KiB on Linux (MAX_ARG_STRLEN), and base64 is a third longer than what it says.
COPY_CHUNK_BYTES = 48 * 1024


class RequestedAssertionFailed(Exception):
    """What the scenario asked for is not so."""


class MachineError(Exception):
    """The machine does not do what machines do: it does not boot, or does not answer."""


@dataclass(frozen=True)
class Outcome:
    """What became of a command."""

    status: int
    stdout: str
    stderr: str


def retry(fn: Callable[[bool], bool], timeout_seconds: float = DEFAULT_TIMEOUT) -> None:
    """Calls `fn` once a second until it returns True. Its argument says whether this is the last time."""
    begun = time.monotonic()
    while time.monotonic() - begun < timeout_seconds:
        if fn(False):
            return
        time.sleep(1)
    if not fn(True):
        raise RequestedAssertionFailed(f"not so after {time.monotonic() - begun:.0f} seconds (timeout={timeout_seconds})")


class Machine(ABC):
    """A machine that can be switched on, asked and switched off."""

    def __init__(self, name: str, log: Log) -> None:
        self.name = name
        self.logger = log
        # Seconds that each boot took until the machine answered.
        self.boots: list[float] = []

    # What a runner provides.

    @abstractmethod
    def is_up(self) -> bool:
        """Whether the machine is switched on."""

    @abstractmethod
    def _start(self) -> None:
        """Switches the machine on and waits until it takes commands, which is after `basic.target`."""

    @abstractmethod
    def _run(self, command: str, timeout: float | None) -> Outcome:
        """Runs `command` with bash as root, and kills it when `timeout` seconds have passed (status 124)."""

    @abstractmethod
    def wait_for_shutdown(self) -> None:
        """Waits until the machine has switched itself off. Does not tell it to."""

    def _wait_for(self, process: subprocess.Popen[bytes]) -> None:
        """Waits until `process`, which the machine is, has ended because the machine has switched itself off."""
        with self.nested("waiting until it has switched itself off"):
            try:
                process.wait(STOP_LIMIT)
            except subprocess.TimeoutExpired:
                raise MachineError(f"still running after {STOP_LIMIT} seconds") from None

    @abstractmethod
    def _cut(self) -> None:
        """Switches the machine off in the middle of whatever it does."""

    @abstractmethod
    def interact(self) -> None:
        """Gives the person at the terminal a shell in the machine, until they leave it."""

    @abstractmethod
    def save(self, directory: Path) -> None:
        """Writes what helps to understand a failure into `directory`."""

    @abstractmethod
    def release(self) -> None:
        """Ends everything and removes what the machine was made of."""

    # Power.

    def start(self, allow_reboot: bool = False) -> None:
        """Switches the machine on. Nothing happens to one that is on."""
        del allow_reboot  # Here every machine may be restarted.
        if self.is_up():
            return
        with self.nested("starting"):
            begun = time.monotonic()
            self._start()
            self.boots.append(time.monotonic() - begun)
            self.log(f"answers after {self.boots[-1]:.1f} seconds")

    def shutdown(self) -> None:
        """Has the machine switch itself off, and waits for it."""
        if not self.is_up():
            return
        with self.nested("shutting down"):
            try:
                self._run("systemctl --no-block poweroff", 60)
            except MachineError:
                # A slow machine may be off before it has answered.
                if self.is_up():
                    raise
            self.wait_for_shutdown()

    def reboot(self) -> None:
        """Has the machine switch itself off properly, and switches it on again."""
        self.shutdown()
        self.start()

    def crash(self) -> None:
        """Cuts the power. What the machine has not written is lost; `start` boots from the same disks."""
        if self.is_up():
            self.log("power cut")
            self._cut()

    # Commands.

    def execute(
        self,
        command: str,
        check_return: bool = True,
        check_output: bool = True,
        timeout: float | None = DEFAULT_TIMEOUT,
    ) -> tuple[int, str]:
        """Runs a command with bash and `set -euo pipefail`; returns its status and its standard output.

        It is over when its standard output is closed by everything that it started. Status 124 means that it was not over
        within `timeout` seconds and was killed.
        """
        del check_output  # Waiting for it costs nothing here.
        outcome = self._execute(command, timeout)
        return (outcome.status if check_return else -1, outcome.stdout)

    def _execute(self, command: str, timeout: float | None) -> Outcome:
        self.start()
        return self._run(f"set -euo pipefail; {command}", timeout)

    def succeed(self, *commands: str, timeout: float | None = None) -> str:
        """Runs commands that have to succeed, and returns what they print."""
        printed = ""
        for command in commands:
            with self.nested(f"must succeed: {command}"):
                outcome = self._execute(command, timeout)
                if outcome.status != 0:
                    self._show(outcome)
                    raise RequestedAssertionFailed(f"command `{command}` failed (exit code {outcome.status})")
                printed += outcome.stdout
        return printed

    def fail(self, *commands: str, timeout: float | None = None) -> str:
        """Runs commands that have to fail, and returns what they print."""
        printed = ""
        for command in commands:
            with self.nested(f"must fail: {command}"):
                outcome = self._execute(command, timeout)
                if outcome.status == 0:
                    self._show(outcome)
                    raise RequestedAssertionFailed(f"command `{command}` unexpectedly succeeded")
                printed += outcome.stdout
        return printed

    def _show(self, outcome: Outcome) -> None:
        for stream, text in (("output", outcome.stdout), ("stderr", outcome.stderr)):
            for line in text.splitlines():
                self.log(f"{stream}: {line}")

    def wait_until_succeeds(self, command: str, timeout: float = DEFAULT_TIMEOUT) -> str:
        """Runs a command once a second until it succeeds, and returns what it then prints."""
        return self._wait_until(command, timeout, lambda status: status == 0, "success")

    def wait_until_fails(self, command: str, timeout: float = DEFAULT_TIMEOUT) -> str:
        """Runs a command once a second until it fails, and returns what it then prints."""
        return self._wait_until(command, timeout, lambda status: status != 0, "failure")

    def _wait_until(self, command: str, timeout: float, wanted: Callable[[int], bool], what: str) -> str:
        last = Outcome(0, "", "")

        def so(last_try: bool) -> bool:
            nonlocal last
            last = self._execute(command, timeout)
            if last_try and not wanted(last.status):
                self._show(last)
            return wanted(last.status)

        with self.nested(f"waiting for {what}: {command}"):
            retry(so, timeout)
        return last.stdout

    def sleep(self, secs: float) -> None:
        """Waits by the machine's own clock."""
        self.succeed(f"sleep {secs}")

    # Units.

    def systemctl(self, q: str, user: str | None = None) -> tuple[int, str]:
        """Runs `systemctl q`, for `user`'s own service manager if there is one."""
        if user is None:
            return self.execute(f"systemctl {q}")
        inner = f"XDG_RUNTIME_DIR=/run/user/$(id -u) systemctl --user {q}"
        return self.execute(f"su -l {user} --shell /bin/sh -c {shlex.quote(inner)}")

    def get_unit_info(self, unit: str, user: str | None = None) -> dict[str, str]:
        """Returns the properties that `systemctl show` prints."""
        status, printed = self.systemctl(f'--no-pager show "{unit}"', user)
        if status != 0:
            raise RequestedAssertionFailed(f'systemctl show "{unit}" failed with exit code {status}')
        return dict(line.split("=", 1) for line in printed.splitlines() if re.match(r"[A-Za-z0-9]+=", line))

    def get_unit_property(self, unit: str, property: str, user: str | None = None) -> str:
        """Returns one property of a unit."""
        status, printed = self.systemctl(f'--no-pager show "{unit}" --property="{property}"', user)
        name, _, value = printed.partition("=")
        if status != 0 or name != property:
            raise RequestedAssertionFailed(f'systemctl show --property "{property}" "{unit}" printed "{printed}" ({status})')
        return value.rstrip("\n")

    def require_unit_state(self, unit: str, require_state: str = "active") -> None:
        """Fails unless the unit's ActiveState is `require_state`."""
        state = self.get_unit_property(unit, "ActiveState")
        if state != require_state:
            raise RequestedAssertionFailed(f'unit "{unit}" is {state} and not {require_state}')

    def wait_for_unit(self, unit: str, user: str | None = None, timeout: float = DEFAULT_TIMEOUT) -> None:
        """Waits until a unit is active. Fails at once when it has failed, or is inactive with nothing about to start it."""

        def is_active(_last_try: bool) -> bool:
            state = self.get_unit_property(unit, "ActiveState", user)
            if state == "failed":
                raise RequestedAssertionFailed(f'unit "{unit}" has failed')
            if state == "inactive":
                _, jobs = self.systemctl("list-jobs --full 2>&1", user)
                # It may have become active between the two questions.
                if "No jobs" in jobs and self.get_unit_property(unit, "ActiveState", user) == state:
                    raise RequestedAssertionFailed(f'unit "{unit}" is inactive and there are no pending jobs')
            return state == "active"

        with self.nested(f"waiting for unit {unit}"):
            retry(is_active, timeout)

    def start_job(self, jobname: str, user: str | None = None) -> tuple[int, str]:
        """Starts a unit."""
        return self.systemctl(f"start {jobname}", user)

    def stop_job(self, jobname: str, user: str | None = None) -> tuple[int, str]:
        """Stops a unit."""
        return self.systemctl(f"stop {jobname}", user)

    # Files and ports.

    def wait_for_file(self, filename: str, timeout: float = DEFAULT_TIMEOUT) -> None:
        """Waits until a file exists."""
        self._wait_until(f"test -e {filename}", timeout, lambda status: status == 0, "success")

    def wait_for_open_port(self, port: int, addr: str = "localhost", timeout: float = DEFAULT_TIMEOUT) -> None:
        """Waits until something listens on a TCP port."""
        self._wait_until(_connect(addr, port), timeout, lambda status: status == 0, "success")

    def wait_for_closed_port(self, port: int, addr: str = "localhost", timeout: float = DEFAULT_TIMEOUT) -> None:
        """Waits until nothing listens on a TCP port."""
        self._wait_until(_connect(addr, port), timeout, lambda status: status != 0, "failure")

    def copy_from_host(self, source: str, target: str) -> None:
        """Copies a file or a directory into the machine, as `cp -r` would, owned by root."""
        path = Path(source)
        if path.is_dir():
            self.succeed(f"mkdir -p {shlex.quote(target)}")
            for entry in sorted(path.iterdir()):
                self.copy_from_host(str(entry), f"{target}/{entry.name}")
            return
        quoted = shlex.quote(target)
        self.succeed(f'mkdir -p "$(dirname {quoted})"', f": > {quoted}", f"chmod {path.stat().st_mode & 0o777:o} {quoted}")
        with path.open("rb") as file:
            while chunk := file.read(COPY_CHUNK_BYTES):
                encoded = base64.b64encode(chunk).decode()
                # Not through `succeed`, which would log all of it.
                if self._execute(f"printf %s {encoded} | base64 -d >> {quoted}", DEFAULT_TIMEOUT).status != 0:
                    raise MachineError(f'could not copy "{source}" to "{target}"')

    def copy_from_machine(self, source: str, target_dir: str = "") -> None:
        """Copies a file or a directory out of the machine, below the directory of the run's output."""
        name = Path(source).name
        target = self.logger.directory / target_dir
        target.mkdir(parents=True, exist_ok=True)
        if self._execute(f"test -d {shlex.quote(source)}", DEFAULT_TIMEOUT).status == 0:
            listed = self.succeed(f"find {shlex.quote(source)} -mindepth 1 -maxdepth 1 -print0")
            (target / name).mkdir(exist_ok=True)
            for entry in filter(None, listed.split("\0")):
                self.copy_from_machine(entry, f"{target_dir}/{name}" if target_dir else name)
            return
        (target / name).write_bytes(base64.b64decode(self.succeed(f"base64 -w 0 {shlex.quote(source)}")))

    # The log.

    def log(self, msg: str) -> None:
        """Writes a line to the log of the run."""
        self.logger.line(f"{self.name}: {msg}")

    def nested(self, msg: str) -> AbstractContextManager[None]:
        """Writes a line to the log, and how long it took at the end of the block."""
        return self.logger.nested(f"{self.name}: {msg}")


def _connect(address: str, port: int) -> str:
    # A shell of our own: bash opens the connection, and the file descriptor goes with the shell.
    return f"timeout 5 bash -c {shlex.quote(f': </dev/tcp/{address}/{port}')} 2>/dev/null"
