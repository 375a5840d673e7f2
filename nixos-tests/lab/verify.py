"""Has systemd, PostgreSQL and our own program look at everything that the examples render to.

Each example is installed into a root file system as it would be for a boot. What is looked at:

- units: `systemd-analyze verify` has nothing to say;
- timers: `systemd-analyze calendar` and `timespan` read every time;
- sandboxes: `systemd-analyze security` gives no service more than the limit for its kind;
- settings: `backstay check-config` accepts every file of ours;
- servers: `postgres -C` reads every postgresql.conf, where that version of PostgreSQL is at hand.
"""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from host import PROGRAMS, SERVERS, Root, install
from machine import ENVIRONMENT

# The highest exposure that `systemd-analyze security` may give, out of 10.
SERVER_LIMIT = 1.5
HELPER_LIMIT = 0.5
# For what changes datasets, reaches other machines or reads what belongs to others.
OTHER_LIMIT = 3.5
# For what fetches a dataset from another machine and mounts it for everybody: it has the rights of both, and no mounts of its own.
FETCHING_LIMIT = 4.5

# NixOS' own, of which only what our modules set is rendered: its sandbox is not there to be looked at.
NOT_OURS = re.compile(r"prometheus-.*")

# Stands for the instance of a template unit.
INSTANCE = "lab-test"


@dataclass
class Verdict:
    """What came of it all."""

    passed: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    # What was not looked at, and why.
    skipped: dict[str, str] = field(default_factory=dict)

    def check(self, kind: str, what: str, complaint: str) -> None:
        """Takes down one thing that was looked at; it is right when there is no complaint."""
        if complaint:
            self.failures.append(f"{kind}: {what}: {complaint}")
        else:
            self.passed[kind] += 1


@dataclass(frozen=True)
class Server:
    """A place with the programs of one major version of PostgreSQL."""

    major: str
    # The root file system that has it; "/" is this host.
    root: Path

    @property
    def program(self) -> str:
        return f"/{SERVERS}/{self.major}/bin/postgres"


class Example:
    """One rendered example, installed."""

    def __init__(self, name: str, rendered: Path, root: Root, verdict: Verdict) -> None:
        self.name = name
        self._rendered = rendered
        self._root = root
        self._verdict = verdict
        self._units = sorted(path.name for path in (rendered / "units").iterdir())

    def look(self, servers: dict[str, Server]) -> None:
        """Looks at everything."""
        self._stand_in()
        self._look_at_units()
        self._look_at_times()
        self._look_at_sandboxes()
        self._look_at_settings()
        self._look_at_servers(servers)

    def _run(self, *command: str) -> tuple[int, str]:
        return _run(["chroot", str(self._root.path), *command])

    def _lines(self, unit: str, key: str) -> list[str]:
        """The values of a key in a unit. What is empty takes back what stands before."""
        values: list[str] = []
        for line in (self._rendered / "units" / unit).read_text().splitlines():
            name, _, value = line.partition("=")
            if name == key:
                values = [*values, value] if value else []
        return values

    def _stand_in(self) -> None:
        """Puts links where programs are missing that units name, so that the rest of the units is looked at, and says so."""
        text = "".join((self._rendered / "units" / unit).read_text() for unit in self._units)
        for major in sorted(set(re.findall(rf"/{SERVERS}/(\d+)/", text))):
            directory = self._root.path / SERVERS / major
            if not directory.exists():
                newest = max(int(path.name) for path in directory.parent.iterdir())
                directory.symlink_to(str(newest))
                self._verdict.skipped[f"programs of PostgreSQL {major} in units"] = (
                    f"Debian trixie has no such version; those of {newest} stood in"
                )
        for program in sorted(set(re.findall(rf"/{PROGRAMS}/([a-z-]+)", text))):
            path = self._root.path / PROGRAMS / program
            if not path.exists():
                path.symlink_to("backstay")
                self._verdict.skipped[f"program {program} in units"] = "this workspace has no such program yet"

    def _look_at_units(self) -> None:
        status, said = self._run("systemd-analyze", "verify", "--man=no", *self._units)
        complaints = [line for line in said.splitlines() if line.strip()]
        for unit in self._units:
            template = unit.replace("@.", "@[^ ]*.")
            of_unit = [line for line in complaints if re.search(rf"(^|[/ ]){template}\b", line)]
            complaints = [line for line in complaints if line not in of_unit]
            self._verdict.check("unit", f"{self.name}/{unit}", "; ".join(of_unit))
        if complaints or (status != 0 and not said):
            self._verdict.failures.append(f"units of example {self.name}: {'; '.join(complaints) or f'status {status}'}")

    def _look_at_times(self) -> None:
        for unit in self._units:
            if not unit.endswith(".timer"):
                continue
            for value in self._lines(unit, "OnCalendar"):
                status, said = self._run("systemd-analyze", "calendar", value)
                self._verdict.check("time", f"{self.name}/{unit}: OnCalendar={value}", said if status else "")
            for key in ("OnBootSec", "OnUnitActiveSec", "OnActiveSec", "RandomizedDelaySec", "AccuracySec"):
                for value in self._lines(unit, key):
                    status, said = self._run("systemd-analyze", "timespan", value)
                    self._verdict.check("time", f"{self.name}/{unit}: {key}={value}", said if status else "")

    def _look_at_sandboxes(self) -> None:
        for unit in self._units:
            if not unit.endswith(".service") or NOT_OURS.fullmatch(unit):
                continue
            instance = unit.replace("@.", f"@{INSTANCE}.")
            status, said = self._run("systemd-analyze", "security", "--offline=true", "--no-pager", instance)
            found = re.search(r"Overall exposure level for [^ ]+: ([0-9.]+)", said)
            limit = self._limit(unit)
            if found is None:
                complaint = f"no exposure: {said.strip()} ({status})"
            elif float(found[1]) > limit:
                complaint = f"exposure {found[1]}, and {limit} is the limit"
            else:
                complaint = ""
            self._verdict.check("sandbox", f"{self.name}/{unit}", complaint)

    def _limit(self, unit: str) -> float:
        if any("/bin/postgres -D" in command for command in self._lines(unit, "ExecStart")):
            return SERVER_LIMIT
        # A helper is by itself: without a network, without devices, without a right that its user has not.
        is_alone = self._lines(unit, "PrivateNetwork") == ["true"]
        is_powerless = not self._lines(unit, "CapabilityBoundingSet") and not self._lines(unit, "DeviceAllow")
        if is_alone and is_powerless:
            return HELPER_LIMIT
        mounts = "CAP_SYS_ADMIN" in self._lines(unit, "CapabilityBoundingSet")
        return FETCHING_LIMIT if mounts and not is_alone else OTHER_LIMIT

    def _look_at_settings(self) -> None:
        for file in sorted((self._rendered / "etc/backstay").glob("*.json")):
            status, said = self._run(f"/{PROGRAMS}/backstay", "check-config", f"/etc/backstay/{file.name}")
            self._verdict.check("settings", f"{self.name}/{file.name}", said.strip() if status else "")

    def _look_at_servers(self, servers: dict[str, Server]) -> None:
        for file in sorted((self._rendered / "etc/postgresql").glob("*/postgresql.conf")):
            instance = file.parent.name
            (command,) = self._lines(f"postgresql-{instance}.service", "ExecStart")
            major = command.split("/")[4]
            what = f"{self.name}/{instance}, PostgreSQL {major}"
            if major not in servers:
                self._verdict.skipped[f"postgresql.conf of {what}"] = f"no PostgreSQL {major} on this machine"
                continue
            self._verdict.check("server", what, _read_by_postgres(servers[major], file))


def _read_by_postgres(server: Server, file: Path) -> str:
    """What the server says of its configuration, or nothing if it reads it."""
    text = file.read_bytes()
    # It refuses to run as root, and reads the file while it is still nobody in particular.
    directory = server.root / "tmp"
    inside = (
        "mkdir /tmp/data && cat > /tmp/postgresql.conf && exec setpriv --reuid=postgres --clear-groups"
        f" {server.program} -D /tmp/data -c config_file=/tmp/postgresql.conf -C config_file"
    )
    outside = f"mount -t tmpfs -o mode=1777 tmpfs '{directory}' && exec chroot '{server.root}' sh -c \"$0\""
    status, said = _run(["unshare", "--mount", "sh", "-c", outside, inside], text)
    return said.strip() if status else ""


def _run(command: list[str], standard_input: bytes = b"") -> tuple[int, str]:
    done = subprocess.run(
        command,
        env=ENVIRONMENT,
        input=standard_input,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return done.returncode, done.stdout.decode(errors="replace")


def verify(rootfs: Path, rendered: Path, programs: Path, servers: Iterable[Server], temporary: Path) -> Verdict:
    """Looks at every example of `rendered`."""
    verdict = Verdict()
    by_major = {server.major: server for server in servers}
    for example in sorted(path for path in rendered.iterdir() if (path / "units").is_dir()):
        directory = temporary / example.name
        directory.mkdir()
        root = Root(rootfs, directory)
        root.mount()
        try:
            install(root, "machine", example, programs)
            subprocess.run(["mount", "-t", "proc", "proc", root.path / "proc"], check=True)
            try:
                Example(example.name, example, root, verdict).look(by_major)
            finally:
                subprocess.run(["umount", root.path / "proc"], check=True)
        finally:
            root.remove()
    return verdict
