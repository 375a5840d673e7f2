"""A container: systemd-nspawn boots the root file system at native speed, on the host's kernel.

It has its own processes, mounts, users' sessions and network, and no ZFS. A container that is alone has nothing but the loopback;
several have a network between them, and no way out of it. A crash kills all processes at once; unlike after a power cut, what they have
written is still there.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from host import Root
from log import Log
from machine import ENVIRONMENT, SAVED, Machine, MachineError, Outcome

# Longest time, in seconds, until a container takes commands. One that is alone on the machine needs two.
BOOT_LIMIT = 120
TICK = 0.05
# The names of control groups begin with this and the number of the process that made them.
GROUP = "backstay-lab"
# Where ip-netns(8) has the names of network namespaces.
NAMED = Path("/run/netns")


class ControlGroup:
    """Control groups of our own, one in each hierarchy that systemd uses.

    Where systemd is process 1 of the host it makes them and removes them; elsewhere systemd-nspawn would use those of its
    caller, and two containers would share them.
    """

    def __init__(self, name: str) -> None:
        self._paths: list[Path] = []
        if not Path("/run/systemd/system").is_dir():
            top = Path("/sys/fs/cgroup")
            mounts = [top] if (top / "cgroup.procs").exists() else [top / "unified", top / "systemd"]
            mounts = [mount for mount in mounts if (mount / "cgroup.procs").exists()]
            _remove_abandoned(mounts)
            self._paths = [mount / name for mount in mounts]
        for path in self._paths:
            path.mkdir()

    @property
    def is_ours(self) -> bool:
        """Whether there are any: not where systemd is process 1."""
        return bool(self._paths)

    def enter(self) -> None:
        """Moves this process in. Called between fork and exec."""
        for path in self._paths:
            (path / "cgroup.procs").write_text("0")

    def kill(self) -> None:
        """Kills whatever is in them, and waits until nothing is."""
        for path in self._paths:
            while members := [pid for file in path.rglob("cgroup.procs") for pid in file.read_text().split()]:
                for pid in members:
                    with suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)
                time.sleep(TICK)

    def remove(self) -> None:
        """Kills whatever is in them and removes them."""
        self.kill()
        for path in self._paths:
            _remove(path)
        self._paths = []


def _remove(path: Path) -> None:
    """Removes a control group and those in it, in which no process is."""
    inner = sorted((entry for entry in path.rglob("*") if entry.is_dir()), reverse=True)
    for directory in [*inner, path]:
        directory.rmdir()


def _remove_abandoned(mounts: list[Path]) -> None:
    """Removes the control groups of runs that were killed, and of which nothing is left but these."""
    for path in (found for mount in mounts for found in mount.glob(f"{GROUP}-*")):
        owner = path.name.removeprefix(f"{GROUP}-").split("-")[0]
        if not Path("/proc", owner).exists():
            with suppress(OSError):
                _remove(path)


class Network:
    """A network between machines, with the addresses that the NixOS driver gives them: by the order of their names.

    It lies in this process's own network namespace and goes with it, however it ends. Each machine's end has its addresses before
    the machine boots, and keeps them when it crashes.
    """

    def __init__(self, names: list[str]) -> None:
        self.addresses = {name: f"192.168.1.{number}" for number, name in enumerate(sorted(names), 1)}
        # ip gives the namespaces names there. Mounted for us alone, so that nothing of them is left and no other run is in the way.
        NAMED.mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", NAMED], check=True)
        _ip("link", "add", "lab", "type", "bridge")
        _ip("link", "set", "lab", "up")
        for number, (name, address) in enumerate(self.addresses.items(), 1):
            _ip("netns", "add", name)
            _ip("link", "add", f"lab{number}", "type", "veth", "peer", "name", "eth1", "netns", name)
            _ip("link", "set", f"lab{number}", "master", "lab", "up")
            _ip("-netns", name, "address", "add", f"{address}/24", "dev", "eth1")
            for device in ("lo", "eth1"):
                _ip("-netns", name, "link", "set", device, "up")

    @staticmethod
    def namespace_of(name: str) -> Path:
        """The network namespace of a machine."""
        return NAMED / name


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise MachineError(f"ip {' '.join(arguments)}: {done.stderr.strip()} ({done.returncode})")


class Container(Machine):
    """A machine over systemd-nspawn."""

    def __init__(self, name: str, log: Log, root: Root, network: Network | None) -> None:
        super().__init__(name, log)
        self._root = root
        self._network = network
        self._console = log.directory / f"{name}-console"
        self._process: subprocess.Popen[bytes] | None = None
        self._group: ControlGroup | None = None
        self._init = 0

    def is_up(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            self._forget()
        return self._process is not None

    def _start(self) -> None:
        self._group = ControlGroup(f"{GROUP}-{os.getpid()}-{self.name}")
        command = [
            "systemd-nspawn",
            "--boot",
            f"--directory={self._root.path}",
            f"--machine=lab-{os.getpid()}-{self.name}",
            "--private-network" if self._network is None else f"--network-namespace-path={self._network.namespace_of(self.name)}",
            "--register=no",
            "--link-journal=no",
            "--resolv-conf=off",
            "--timezone=off",
            "--console=pipe",
            "--quiet",
        ]
        if self._group.is_ours:
            command.append("--keep-unit")
        with self._console.open("ab") as console:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                # The containers of this release of Debian want the unified hierarchy, whatever the host uses itself.
                env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
                preexec_fn=self._group.enter,
            )
        limit = time.monotonic() + BOOT_LIMIT
        while not self._takes_commands():
            if self._process.poll() is not None:
                status = self._process.returncode
                self._forget()
                raise MachineError(f"systemd-nspawn ended with status {status}: {self._console.read_text()}")
            if time.monotonic() > limit:
                raise MachineError(f"the container did not reach basic.target within {BOOT_LIMIT} seconds")
            time.sleep(TICK)

    def _takes_commands(self) -> bool:
        self._init = self._find_init()
        return self._init != 0 and self._run("systemctl is-active --quiet basic.target", 10).status == 0

    def _find_init(self) -> int:
        """The process on the host that is process 1 of the container, or 0."""
        assert self._process is not None
        waiting = [self._process.pid]
        while waiting:
            parent = waiting.pop()
            try:
                children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
                for child in children:
                    status = Path(f"/proc/{child}/status").read_text()
                    numbers = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()
                    if len(numbers) > 2 and numbers[-1] == "1":
                        return int(child)
                    waiting.append(int(child))
            except FileNotFoundError:
                continue
        return 0

    def _enter(self, *command: str) -> list[str]:
        namespaces = ["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wdns=/root"]
        environment = [f"{name}={value}" for name, value in ENVIRONMENT.items()]
        return ["nsenter", f"--target={self._init}", *namespaces, "env", "--ignore-environment", *environment, *command]

    def _run(self, command: str, timeout: float | None) -> Outcome:
        limit = [] if timeout is None else ["timeout", "--kill-after=5", str(timeout)]
        done = subprocess.run(
            self._enter(*limit, "bash", "-c", command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        return Outcome(
            # A shell gives the death by a signal as 128 and its number.
            done.returncode if done.returncode >= 0 else 128 - done.returncode,
            done.stdout.decode(errors="replace"),
            done.stderr.decode(errors="replace"),
        )

    def wait_for_shutdown(self) -> None:
        if self._process is None:
            return
        self._wait_for(self._process)
        self._forget()

    def _cut(self) -> None:
        assert self._process is not None
        # Process 1 dies with systemd-nspawn, and everything in its namespace with it.
        self._process.kill()
        self._process.wait()
        self._forget()

    def _forget(self) -> None:
        if self._group is not None:
            self._group.remove()
        self._process = None
        self._group = None
        self._init = 0

    def interact(self) -> None:
        self.start()
        # The terminal's signals are for the shell.
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            environment = [f"TERM={os.environ.get('TERM', 'dumb')}"]
            subprocess.run(self._enter("env", *environment, "bash", "--login"), check=False)
        finally:
            signal.signal(signal.SIGINT, handler)

    def save(self, directory: Path) -> None:
        # By way of the files, which are there whether the container runs or not.
        for name, command in SAVED.items():
            done = subprocess.run(["chroot", str(self._root.path), "bash", "-c", command], capture_output=True, check=False)
            (directory / f"{self.name}-{name}").write_bytes(done.stdout)

    def release(self) -> None:
        if self._process is not None:
            self._cut()
        self._root.remove()
