"""Makes a host out of a Debian root file system: what an example renders to goes in unchanged, and our programs with it.

Everything that is not the example's is listed in `_prepare`; it is what a container or an emulated machine needs to be looked at
from outside.
"""

from __future__ import annotations

import shutil
import subprocess
import uuid
from pathlib import Path

from machine import ENVIRONMENT, MachineError

# Where the stand-in packages of nixos-tests/eval/pkgs.nix have our programs.
PROGRAMS = Path("usr/lib/backstay/bin")
# Where the server's programs are, by major version.
SERVERS = Path("usr/lib/postgresql")

# The ZFS userland of the running kernel's module: where units of NixOS have it, and where Debian has it.
BOOTED_ZFS = "run/booted-system/sw/bin/zfs"
ZFS = "/usr/sbin/zfs"

# Databases of hardware, libraries and messages that systemd makes anew on a system that has not booted yet. They are there.
SLOW_UNITS = ["systemd-hwdb-update.service", "ldconfig.service", "systemd-journal-catalog-update.service"]

# No limit on what the journal takes down: a message that is missing because there were many is the one that is looked for.
JOURNAL = """\
[Journal]
Storage=persistent
RateLimitBurst=0
SystemMaxUse=1G
"""


class Root:
    """A writable root file system over a read-only one, in a directory that is removed with everything in it."""

    def __init__(self, base: Path, directory: Path) -> None:
        self.base = base
        self._directory = directory
        self.path = directory / "root"

    def mount(self) -> None:
        """Mounts it. This process has a mount namespace of its own, so nobody else sees it."""
        parts = {name: self._directory / name for name in ("changes", "work", "root")}
        for part in parts.values():
            part.mkdir(mode=0o755)
        options = f"lowerdir={self.base},upperdir={parts['changes']},workdir={parts['work']}"
        subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", self.path], check=True)

    def remove(self) -> None:
        """Unmounts it and removes what was written."""
        if self.path.is_mount():
            subprocess.run(["umount", self.path], check=True)
        shutil.rmtree(self._directory, ignore_errors=True)

    def run(self, *command: str) -> None:
        """Runs a program in it."""
        done = subprocess.run(
            ["chroot", self.path, *command],
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise MachineError(f"{' '.join(command)} in the root file system: {done.stdout.strip()} ({done.returncode})")


def install(root: Root, name: str, rendered: Path, programs: Path, addresses: dict[str, str] | None = None) -> None:
    """Puts a host into a root file system.

    `rendered` is a directory of nixos-tests/rendered: units and files go where NixOS has them, links are made, modes set.
    `addresses` are those of the hosts on its network, by their names.
    """
    _prepare(root, name, addresses or {})
    for unit in sorted((rendered / "units").iterdir()):
        _write(root.path / "etc/systemd/system" / unit.name, unit.read_bytes())
    etc = rendered / "etc"
    for file in sorted(path for path in etc.rglob("*") if path.is_file()):
        _write(root.path / "etc" / file.relative_to(etc), file.read_bytes())
    for line in _lines(rendered / "links"):
        path, _, target = line.partition(" -> ")
        link = _fresh(root.path / path.lstrip("/"))
        link.symlink_to(target)
    _install_programs(root, programs)
    modes = _lines(rendered / "modes")
    if modes:
        # Files may belong to users that are only described so far.
        root.run("systemd-sysusers")
    for line in modes:
        path, mode, owner = line.rsplit(" ", 2)
        # NixOS writes "+0" where the number is meant and not the name.
        root.run("chown", owner.replace("+", ""), path)
        root.run("chmod", mode, path)


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def _fresh(path: Path) -> Path:
    """Makes the directory of `path`, and removes what is there: a unit of Debian's that is masked, for example."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    return path


def _write(path: Path, content: bytes, mode: int = 0o444) -> None:
    # Files of NixOS' /etc are links into the store, which nobody can write; 0444 is what they look like.
    _fresh(path).write_bytes(content)
    path.chmod(mode)


def _install_programs(root: Root, programs: Path) -> None:
    directory = root.path / PROGRAMS
    directory.mkdir(parents=True, exist_ok=True)
    for program in sorted(programs.iterdir()):
        shutil.copyfile(program, directory / program.name)
        (directory / program.name).chmod(0o755)
    # What environment.systemPackages puts into everyone's PATH: `backstay`, and the server's programs without Debian's wrapper.
    local = root.path / "usr/local/bin"
    _fresh(local / "backstay").symlink_to(Path("/") / PROGRAMS / "backstay")
    servers = root.path / SERVERS
    if servers.is_dir():
        newest = max(servers.iterdir(), key=lambda path: int(path.name))
        for program in newest.joinpath("bin").iterdir():
            _fresh(local / program.name).symlink_to(Path("/") / program.relative_to(root.path))


def _prepare(root: Root, name: str, addresses: dict[str, str]) -> None:
    _write(root.path / "etc/hostname", f"{name}\n".encode(), 0o644)
    itself = f"127.0.0.1 localhost {name}\n::1 localhost\n"
    others = "".join(f"{address} {other}\n" for other, address in addresses.items() if other != name)
    _write(root.path / "etc/hosts", (itself + others).encode(), 0o644)
    # With a machine-id there is no "first boot", in which systemd would enable what Debian's presets say.
    _write(root.path / "etc/machine-id", f"{uuid.uuid4().hex}\n".encode())
    _write(root.path / "etc/systemd/journald.conf.d/lab.conf", JOURNAL.encode())
    (root.path / "var/log/journal").mkdir(exist_ok=True)
    # Where NixOS has the userland that came with the running kernel's module. /run is empty at boot, and not before that.
    _write(root.path / "etc/tmpfiles.d/booted-system.conf", f"L /{BOOTED_ZFS} - - - - {ZFS}\n".encode(), 0o644)
    _fresh(root.path / BOOTED_ZFS).symlink_to(ZFS)
    for unit in SLOW_UNITS:
        _fresh(root.path / "etc/systemd/system" / unit).symlink_to("/dev/null")
