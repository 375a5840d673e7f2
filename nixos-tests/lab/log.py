"""The log of a run: what is done, how long it took, and which subtests there were."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Subtest:
    """A block of a scenario that has a name."""

    name: str
    passed: bool
    seconds: float


class Log:
    """Writes to standard output, with the seconds since the run began."""

    def __init__(self, directory: Path) -> None:
        # Where a run leaves its files.
        self.directory = directory
        self.subtests: list[Subtest] = []
        self._begun = time.monotonic()
        self._depth = 0

    def line(self, text: str) -> None:
        """Writes a line, or several."""
        for part in text.splitlines() or [""]:
            print(f"{time.monotonic() - self._begun:8.2f} {'  ' * self._depth}{part}")
        sys.stdout.flush()

    # A scenario calls it `log.info` or `log.warning`, as in a NixOS test.
    info = line
    warning = line

    @contextmanager
    def nested(self, text: str) -> Iterator[None]:
        """Writes a line, and indents what is written inside the block."""
        self.line(text)
        begun = time.monotonic()
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            seconds = time.monotonic() - begun
            if seconds >= 1:
                self.line(f"({seconds:.1f} seconds: {text.splitlines()[0]})")

    @contextmanager
    def subtest(self, name: str) -> Iterator[None]:
        """A block with a name, which passes when nothing is raised in it."""
        begun = time.monotonic()
        try:
            with self.nested(f"subtest: {name}"):
                yield
        except BaseException:
            self.subtests.append(Subtest(name, False, time.monotonic() - begun))
            raise
        self.subtests.append(Subtest(name, True, time.monotonic() - begun))
