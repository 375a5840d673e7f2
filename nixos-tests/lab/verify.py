"""Has systemd, PostgreSQL and our own program look at everything that the examples render to.

Each example is installed into a root file system as it would be for a boot. What is looked at:

- units: `systemd-analyze verify` has nothing to say;
- timers: `systemd-analyze calendar` and `timespan` read every time;
- sandboxes: `systemd-analyze security` gives no service more than the limit for its kind, or than the least that systemd's own table
  leaves to what it is there for;
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
# For what changes datasets.
DATASETS_LIMIT = 3.5

# A service with every protection that a program of ours can have: it is on the host's root file system, speaks to the journal and
# the server over Unix sockets, and shares its user, and so its memory segments, with the server.
STRICTEST = {
    "User": "postgres",
    "AmbientCapabilities": "",
    "CapabilityBoundingSet": "",
    "DevicePolicy": "closed",
    "IPAddressDeny": "any",
    "KeyringMode": "private",
    "LockPersonality": "yes",
    "MemoryDenyWriteExecute": "yes",
    "NoNewPrivileges": "yes",
    "PrivateDevices": "yes",
    "PrivateMounts": "yes",
    "PrivateNetwork": "yes",
    "PrivateTmp": "yes",
    "PrivateUsers": "yes",
    "ProcSubset": "pid",
    "ProtectClock": "yes",
    "ProtectControlGroups": "yes",
    "ProtectHome": "yes",
    "ProtectHostname": "yes",
    "ProtectKernelLogs": "yes",
    "ProtectKernelModules": "yes",
    "ProtectKernelTunables": "yes",
    "ProtectProc": "invisible",
    "ProtectSystem": "strict",
    "RestrictAddressFamilies": "AF_UNIX",
    "RestrictNamespaces": "yes",
    "RestrictRealtime": "yes",
    "RestrictSUIDSGID": "yes",
    "SystemCallArchitectures": "native",
    # The second line is taken off the first.
    "SystemCallFilter": "@system-service\nSystemCallFilter=~@privileged @resources",
    "UMask": "0077",
}


@dataclass(frozen=True)
class Duty:
    """Something that only some units are there for, and that they cannot do with every protection."""

    name: str
    # The units whose duty it is. No other is allowed what it takes.
    units: re.Pattern[str]
    # How a unit that does it is told.
    key: str
    value: re.Pattern[str]
    # What the strictest service has to give up for it; None is a protection that it goes without.
    price: dict[str, str | None]


DUTIES = [
    Duty(
        "reaches other hosts",
        re.compile(
            r"(notify|notify-recovered)@|restic-|preseed-|postgresql-receive-|postgresql-restore-drill-|postgresql-replica-|syncoid-"
        ),
        "RestrictAddressFamilies",
        re.compile(r"AF_INET6?"),
        {"PrivateNetwork": None, "IPAddressDeny": None, "RestrictAddressFamilies": "AF_UNIX AF_INET AF_INET6"},
    ),
    Duty(
        "reads everybody's files",
        # restic, or what reads a repository in a directory that restic has written as somebody else.
        re.compile(r"restic-|preseed-|postgresql-restore-drill-"),
        "CapabilityBoundingSet",
        re.compile(r"CAP_DAC_READ_SEARCH"),
        {
            "CapabilityBoundingSet": "CAP_DAC_READ_SEARCH",
            "AmbientCapabilities": "CAP_DAC_READ_SEARCH",
            # In a user namespace everybody else's files look like nobody's, and the capability does not hold for them.
            "PrivateUsers": None,
        },
    ),
    Duty(
        "receives datasets",
        # With rights over one place, which ZFS does not know in a user namespace of the unit.
        re.compile(r"postgresql-receive-"),
        "PrivateUsers",
        re.compile(r"false|no"),
        {"PrivateUsers": None},
    ),
    Duty(
        "is root",
        # A job of restic whose repository is a directory, where root's files are read by root only.
        re.compile(r"restic-"),
        "User",
        re.compile(r"root"),
        {"User": None, "AmbientCapabilities": ""},
    ),
]

# What makes, snapshots, sends and renames datasets; no other unit changes one.
CHANGES_DATASETS = re.compile(r"backstay-datasets|postgresql-take-over-|sanoid|syncoid-")

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
    # The least exposure that a service can have with what a kind of unit is there for.
    limits: dict[str, float] = field(default_factory=dict)

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
            exposure, said = self._exposure(unit.replace("@.", f"@{INSTANCE}."))
            limit = self._limit(unit)
            if exposure is None:
                complaint = f"no exposure: {said}"
            elif exposure > limit:
                complaint = f"exposure {exposure}, and {limit} is the limit"
            else:
                complaint = ""
            self._verdict.check("sandbox", f"{self.name}/{unit}", complaint)

    def _limit(self, unit: str) -> float:
        if any("/bin/postgres -D" in command for command in self._lines(unit, "ExecStart")):
            return SERVER_LIMIT
        duties = [
            duty
            for duty in DUTIES
            if duty.units.match(unit) and any(duty.value.fullmatch(value) for value in self._lines(unit, duty.key))
        ]
        limit = DATASETS_LIMIT if CHANGES_DATASETS.match(unit) else HELPER_LIMIT
        if not duties:
            return limit
        service = dict(STRICTEST)
        for duty in duties:
            service |= duty.price
        what = ", ".join(duty.name for duty in duties)
        return max(limit, self._least_exposure(what, service))

    def _least_exposure(self, what: str, service: dict[str, str | None]) -> float:
        """What systemd says of a service that has every protection but those that its duties cost."""
        if what not in self._verdict.limits:
            lines = [f"{key}={value}" for key, value in service.items() if value is not None]
            unit = "backstay-strictest.service"
            path = self._root.path / "etc/systemd/system" / unit
            path.write_text("\n".join(["[Service]", "ExecStart=/bin/true", *lines, ""]))
            self._verdict.limits[what] = self._exposure(unit)[0] or 0.0
            path.unlink()
        return self._verdict.limits[what]

    def _exposure(self, unit: str) -> tuple[float | None, str]:
        """What systemd says of a service, and all that it says if that is not a number."""
        status, said = self._run("systemd-analyze", "security", "--offline=true", "--no-pager", unit)
        found = re.search(r"Overall exposure level for [^ ]+: ([0-9.]+)", said)
        return (float(found[1]) if found else None), f"{said.strip()} ({status})"

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
