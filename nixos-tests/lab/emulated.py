"""An emulated machine: QEMU in software, with Debian's kernel and ZFS, booted from a disk made of the root file system.

Everything inside is real, and roughly ten times slower than on the host. It has three disks: its own, and two empty ones for pools,
/dev/vdb and /dev/vdc. A crash ends QEMU at once: what the machine's kernel has not handed to its disks is lost, and of what it has
not flushed each block or not, as the coin falls.
"""

from __future__ import annotations

import base64
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

from disk import Disk
from host import Root
from log import Log
from machine import SAVED, Machine, MachineError, Outcome

# Longest time, in seconds, until a machine takes commands. One that is alone on two processors needs less than a minute.
BOOT_LIMIT = 600
# With several processors QEMU sometimes runs an instruction of the kernel that the kernel is just replacing (a breakpoint stands in
# its place meanwhile), which ends the boot of one machine in about ten. Such a boot, and no other, is tried again.
STUMBLE = "Oops: int3"
BOOTS = 4
# How much longer than it may run the answer to a command may take to come, in seconds.
ANSWER_GRACE = 120
ROOT_BYTES = 8 * 1024**3
POOL_BYTES = 16 * 1024**3
MEMORY_MEBIBYTES = 2048
# The machine's end of the socket that commands go through.
SHELL = "usr/local/lib/backstay-lab/guest-shell"

SHELL_UNIT = f"""\
[Unit]
Description=Shell for whoever looks at this machine from outside

[Service]
ExecStart=/{SHELL}
# A command that needs all memory must not be the end of this.
OOMScoreAdjust=-1000
KillMode=process

[Install]
WantedBy=multi-user.target
"""

AUTOLOGIN = """\
[Service]
ExecStart=
ExecStart=-/sbin/agetty --autologin root --noclear --keep-baud 115200 %I $TERM
"""

KERNEL_PARAMETERS = [
    "root=/dev/vda",
    "rw",
    "console=ttyS0",
    "loglevel=4",
    # Costs time on an emulated processor and protects nobody here.
    "mitigations=off",
    "nokaslr",
    # Instead of waiting for somebody to read the message.
    "panic=-1",
]


class EmulatedMachine(Machine):
    """A machine over QEMU."""

    def __init__(self, name: str, log: Log, root: Root) -> None:
        super().__init__(name, log)
        self._root = root
        self._directory = root.path.parent
        self._console = log.directory / f"{name}-console"
        self._process: subprocess.Popen[bytes] | None = None
        self._shell: socket.socket | None = None
        self._answers = b""
        self._disks: dict[str, Disk] = {}

    def is_up(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            self._forget()
        return self._process is not None

    def _start(self) -> None:
        self._make_disks()
        for boots_left in reversed(range(BOOTS)):
            self._boot(["-serial", f"file:{self._console}"], None)
            limit = time.monotonic() + BOOT_LIMIT
            try:
                while self._line(limit) != "ready":
                    pass
                return
            except MachineError:
                if self.is_up() or not boots_left or STUMBLE not in self._console.read_text(errors="replace"):
                    raise
                self.log("QEMU ran code that the kernel was just changing, and the kernel stopped; once more")

    def _make_disks(self) -> None:
        if self._disks:
            return
        path = self._root.path
        shell = path / SHELL
        shell.parent.mkdir(parents=True)
        shutil.copyfile(Path(__file__).with_name("guest-shell"), shell)
        shell.chmod(0o755)
        units = path / "etc/systemd/system"
        (units / "backstay-lab-shell.service").write_text(SHELL_UNIT)
        login = units / "serial-getty@ttyS0.service.d"
        login.mkdir()
        (login / "autologin.conf").write_text(AUTOLOGIN)
        wants = units / "multi-user.target.wants"
        wants.mkdir(exist_ok=True)
        (wants / "backstay-lab-shell.service").symlink_to("../backstay-lab-shell.service")
        begun = time.monotonic()
        for seed, (name, size) in enumerate((("root", ROOT_BYTES), ("pool", POOL_BYTES), ("second", POOL_BYTES))):
            self._disks[name] = Disk(self._directory / f"{name}.img", size, seed)
        command = ["mke2fs", "-q", "-t", "ext4", "-d", str(path), str(self._directory / "root.img")]
        subprocess.run(command, check=True, env={**os.environ, "PATH": _sbin()})
        self.log(f"disk made in {time.monotonic() - begun:.1f} seconds")

    def _boot(self, console: list[str], terminal: int | None) -> None:
        kernels = sorted((self._root.base / "boot").glob("vmlinuz-*"))
        if not kernels:
            raise MachineError(f'no kernel in "{self._root.base}/boot"')
        kernel = kernels[-1]
        initrd = kernel.with_name(kernel.name.replace("vmlinuz", "initrd.img"))
        shell = self._directory / "shell"
        shell.unlink(missing_ok=True)
        command = [
            *["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"],
            *["-machine", "q35", "-accel", "tcg,thread=multi"],
            # Without cx16=off Debian's kernel panics at boot in QEMU 7.2.
            *["-cpu", "max,cx16=off", "-smp", str(min(4, os.cpu_count() or 1)), "-m", str(MEMORY_MEBIBYTES)],
            *["-kernel", str(kernel), "-initrd", str(initrd), "-append", " ".join(KERNEL_PARAMETERS)],
            *["-device", "virtio-rng-pci", "-device", "virtio-serial-pci"],
            *["-chardev", f"socket,id=shell,path={shell},server=on,wait=off"],
            *["-device", "virtserialport,chardev=shell,name=backstay-lab"],
            *console,
        ]
        for name, disk in self._disks.items():
            disk.serve(self._directory / f"{name}-disk")
            command += ["-drive", f"file=nbd:unix:{self._directory / name}-disk,format=raw,if=virtio,cache=writeback"]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL if terminal is None else terminal,
            stdout=subprocess.DEVNULL if terminal is None else None,
            stderr=subprocess.PIPE if terminal is None else None,
        )
        if terminal is None:
            self._shell = self._connect(shell)

    def _connect(self, path: Path) -> socket.socket:
        assert self._process is not None
        connection = socket.socket(socket.AF_UNIX)
        limit = time.monotonic() + 30
        while True:
            try:
                connection.connect(str(path))
                return connection
            except (FileNotFoundError, ConnectionRefusedError):
                if self._process.poll() is not None or time.monotonic() > limit:
                    assert self._process.stderr is not None
                    self._process.kill()
                    reason = self._process.stderr.read().decode(errors="replace").strip()
                    self._forget()
                    raise MachineError(f"QEMU did not start: {reason}") from None
                time.sleep(0.05)

    def _line(self, limit: float) -> str:
        """The next line from the machine."""
        assert self._shell is not None
        while b"\n" not in self._answers:
            self._shell.settimeout(max(0.1, limit - time.monotonic()))
            try:
                received = self._shell.recv(1 << 20)
            except TimeoutError:
                raise MachineError(f'no answer in time; the console\'s last lines are in "{self._console}"') from None
            if not received:
                if self._process is not None:
                    self._process.wait()
                self._forget()
                raise MachineError(f'the machine has gone; the console\'s last lines are in "{self._console}"')
            self._answers += received
        line, _, self._answers = self._answers.partition(b"\n")
        return line.decode()

    def _run(self, command: str, timeout: float | None) -> Outcome:
        assert self._shell is not None
        question = base64.b64encode(command.encode()).decode()
        self._shell.settimeout(ANSWER_GRACE)
        self._shell.sendall(f"{timeout or 0} {question}\n".encode())
        limit = time.monotonic() + (7 * 86400 if timeout is None else timeout + ANSWER_GRACE)
        status, *streams = self._line(limit).split(" ")
        stdout, stderr = ("" if text == "-" else base64.b64decode(text).decode(errors="replace") for text in streams)
        return Outcome(int(status), stdout, stderr)

    def wait_for_shutdown(self) -> None:
        if self._process is None:
            return
        self._wait_for(self._process)
        self._forget()

    def _cut(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        for name, disk in self._disks.items():
            kept, lost = disk.cut()
            self.log(f"disk {name}: of {kept + lost} blocks that were not flushed {lost} are lost")
        self._forget()

    def _forget(self) -> None:
        for disk in self._disks.values():
            disk.switch_off()
        if self._shell is not None:
            self._shell.close()
        self._process = None
        self._shell = None
        self._answers = b""

    def interact(self) -> None:
        self._make_disks()
        print("The machine's console; Ctrl-A X cuts its power, and `poweroff` switches it off.")
        self._boot(["-chardev", "stdio,id=console,mux=on,signal=off", "-serial", "chardev:console", "-mon", "console"], 0)
        assert self._process is not None
        self._process.wait()
        self._forget()

    def save(self, directory: Path) -> None:
        if not self.is_up():
            return
        try:
            for name, command in SAVED.items():
                (directory / f"{self.name}-{name}").write_text(self._run(command, 120).stdout)
        except (MachineError, OSError) as err:
            self.log(f"no journal: {err}")

    def release(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._forget()
        for disk in self._disks.values():
            disk.close()
        self._disks = {}
        self._root.remove()


def _sbin() -> str:
    # Where mke2fs is, which an ordinary PATH may lack.
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
