"""Boots a host of nixos-tests/rendered and runs a scenario on it, or gives a person a shell in it, or only looks at the files.

    python3 nixos-tests/lab run --script FILE --node machine=EXAMPLE …
    python3 nixos-tests/lab shell --node machine=EXAMPLE …
    python3 nixos-tests/lab verify --server 17=DIR …

`cargo xtask lab` calls this, with the root file systems that it makes and the programs that it builds.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import TestCase

from container import Container, Network
from emulated import EmulatedMachine
from host import Root, install
from log import Log
from machine import Machine, MachineError, RequestedAssertionFailed, retry
from verify import Server, verify

# Set in the process that has a mount namespace of its own.
NAMESPACE = "BACKSTAY_LAB_NAMESPACE"


class TooLate(BaseException):
    """The time of the run is over. Nothing that a scenario catches."""


class Assertions(TestCase):
    """What a scenario knows as `t`: the assertions of unittest."""

    failureException = RequestedAssertionFailed


def main() -> int:
    arguments = _arguments()
    if NAMESPACE not in os.environ:
        # What is mounted here is seen by nobody else and goes with this process, however it ends; so does a network.
        namespaces = ["--mount", "--propagation=private"] + ["--net"] * _needs_network(arguments)
        command = ["unshare", *namespaces, sys.executable, *sys.argv]
        os.execvpe(command[0], command, {**os.environ, NAMESPACE: "1"})
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupted)
    arguments.output.mkdir(parents=True, exist_ok=True)
    if arguments.command == "verify":
        return _verify(arguments)
    log = Log(arguments.output)
    with _machines(arguments, log) as machines:
        if arguments.command == "shell":
            (machine,) = machines
            machine.interact()
            return 0
        return _run(arguments, log, machines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="lab", description="Boots a rendered host in a container or an emulated machine")
    parser.add_argument("command", choices=["run", "shell", "verify"])
    parser.add_argument("--node", action="append", default=[], metavar="NAME=EXAMPLE", help="a machine and what it is")
    parser.add_argument("--server", action="append", default=[], metavar="MAJOR=DIR", help="a system with this PostgreSQL")
    parser.add_argument("--script", type=Path, metavar="FILE", help="the scenario's steps in Python")
    parser.add_argument("--runner", choices=["container", "machine"], default="container")
    parser.add_argument("--rootfs", type=Path, required=True, metavar="DIR", help="a Debian system; it is not written to")
    parser.add_argument("--rendered", type=Path, required=True, metavar="DIR", help="with a directory for each example")
    parser.add_argument("--programs", type=Path, required=True, metavar="DIR", help="our programs")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="for result.json and what failures leave")
    parser.add_argument("--time-limit", type=int, default=1800, metavar="SECONDS")
    arguments = parser.parse_args()
    if (arguments.command == "run") != (arguments.script is not None):
        parser.error("--script goes with run, and only with it")
    if (arguments.command == "verify") != (not arguments.node):
        parser.error("--node goes with run and shell")
    if len(arguments.node) > 1 and arguments.runner != "container":
        parser.error("only containers have a network between them")
    return arguments


def _needs_network(arguments: argparse.Namespace) -> bool:
    return len(arguments.node) > 1


def _temporary() -> tempfile.TemporaryDirectory[str]:
    # Not in /tmp, which may be in memory.
    return tempfile.TemporaryDirectory(prefix="backstay-lab-", dir=os.environ.get("TMPDIR", "/var/tmp"))


def _verify(arguments: argparse.Namespace) -> int:
    """Looks at all examples, and writes what came of it to result.json."""
    servers = [Server(major, Path(root)) for major, _, root in (text.partition("=") for text in arguments.server)]
    with _temporary() as temporary:
        verdict = verify(arguments.rootfs, arguments.rendered, arguments.programs, servers, Path(temporary))
    (arguments.output / "result.json").write_text(json.dumps(vars(verdict), indent=2) + "\n")
    for failure in verdict.failures:
        print(failure)
    return 1 if verdict.failures else 0


@contextmanager
def _machines(arguments: argparse.Namespace, log: Log) -> Iterator[list[Machine]]:
    """Makes the machines, and removes them and what they were made of."""
    with _temporary() as temporary:
        machines: list[Machine] = []
        nodes = dict(node.split("=", 1) for node in arguments.node)
        network = Network(list(nodes)) if _needs_network(arguments) else None
        try:
            for name, example in nodes.items():
                directory = Path(temporary, name)
                directory.mkdir()
                root = Root(arguments.rootfs, directory)
                root.mount()
                install(root, name, arguments.rendered / example, arguments.programs, network and network.addresses)
                if arguments.runner == "container":
                    machines.append(Container(name, log, root, network))
                else:
                    machines.append(EmulatedMachine(name, log, root))
            yield machines
        finally:
            for machine in machines:
                machine.release()


def _run(arguments: argparse.Namespace, log: Log, machines: list[Machine]) -> int:
    """Runs the scenario, and writes what came of it to result.json."""
    text = arguments.script.read_text()
    name = str(arguments.script)
    signal.signal(signal.SIGALRM, _too_late)
    signal.alarm(arguments.time_limit)
    error = None
    try:
        exec(compile(text, name, "exec"), _symbols(log, machines))  # noqa: S102 - that is what scenarios are
    except TooLate:
        error = f"not done after {arguments.time_limit} seconds"
        log.line(traceback.format_exc())
    except (Exception, SystemExit) as raised:
        error = f"{type(raised).__name__}: {raised}" if str(raised) else _what_was_asserted(raised)
        frames = [frame for frame in traceback.extract_tb(raised.__traceback__) if frame.filename == name]
        for frame in frames:
            log.line(f"{name}:{frame.lineno}: {text.splitlines()[(frame.lineno or 1) - 1].strip()}")
        if not isinstance(raised, (RequestedAssertionFailed, MachineError, AssertionError)):
            log.line(traceback.format_exc())
    finally:
        signal.alarm(0)
    if error is not None:
        log.line(f"FAILED: {error}")
        for machine in machines:
            machine.save(arguments.output)
    result = {
        "error": error,
        "subtests": [vars(subtest) for subtest in log.subtests],
        "boots": {machine.name: machine.boots for machine in machines},
    }
    (arguments.output / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    return 0 if error is None else 1


def _what_was_asserted(raised: BaseException) -> str:
    frame = traceback.extract_tb(raised.__traceback__)[-1]
    return f"{type(raised).__name__} in line {frame.lineno}"


def _symbols(log: Log, machines: list[Machine]) -> dict[str, Any]:
    """What a scenario finds defined, as the NixOS driver defines it."""

    def start_all() -> None:
        for machine in machines:
            machine.start()

    def join_all() -> None:
        for machine in machines:
            machine.wait_for_shutdown()

    named = {re.sub(r"^[^A-Za-z_]|[^A-Za-z0-9_]", "_", machine.name): machine for machine in machines}
    if len(machines) == 1:
        named["machine"] = machines[0]
    return {
        "__name__": "scenario",
        "join_all": join_all,
        "log": log,
        "machines": machines,
        "os": os,
        "retry": retry,
        "start_all": start_all,
        "subtest": log.subtest,
        "t": Assertions(),
        **named,
    }


def _too_late(_number: int, _frame: FrameType | None) -> None:
    raise TooLate


def _interrupted(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
