"""A disk that loses what was not flushed when its power is cut, as a real one with a write cache may.

QEMU hands every write to the host's cache, where it survives the end of QEMU: a program that forgets to sync its files would pass
every test. This disk keeps what is written in memory until the machine flushes it. When the power is cut, each block that was not
flushed is kept or lost by the toss of a coin, so that writes are also seen out of their order.

It is served to QEMU by the NBD protocol over a socket (https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md).
"""

from __future__ import annotations

import os
import random
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

# What survives or is lost as a whole.
BLOCK_BYTES = 4096
# A real cache is finite; what exceeds it is written, the oldest first.
CACHE_BYTES = 64 * 1024**2

OPTION_MAGIC = 0x49484156454F5054
OPTION_REPLY_MAGIC = 0x0003E889045565A9
REQUEST_MAGIC = 0x25609513
REPLY_MAGIC = 0x67446698

OPTION_ABORT, OPTION_GO = 2, 7
REPLY_ACKNOWLEDGED, REPLY_INFORMATION, REPLY_UNSUPPORTED = 1, 3, 0x80000001
READ, WRITE, DISCONNECT, FLUSH, TRIM, WRITE_ZEROES = 0, 1, 2, 3, 4, 6
FORCE_UNIT_ACCESS = 1
# Has flags, flush, force unit access, trim, write zeroes.
TRANSMISSION_FLAGS = 1 | 4 | 8 | 32 | 64
INVALID_ARGUMENT = 22


class Cut(Exception):
    """The connection has ended without a word."""


class Disk:
    """A disk in a file."""

    def __init__(self, file: Path, size: int, seed: int) -> None:
        self._size = size
        self._file = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
        if os.fstat(self._file).st_size < size:
            os.truncate(self._file, size)
        # Blocks that were written and not flushed, in the order in which they were first written.
        self._cache: dict[int, bytes] = {}
        self._random = random.Random(seed)
        self._listener: socket.socket | None = None
        self._connection: socket.socket | None = None
        self._thread: threading.Thread | None = None

    def serve(self, path: Path) -> None:
        """Listens on a socket for one connection, and serves it from another thread."""
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(1)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def cut(self) -> tuple[int, int]:
        """Cuts the power after QEMU has ended. Returns how many blocks that were not flushed are kept, and how many are lost."""
        self._stop()
        unflushed = len(self._cache)
        self._cache = {block: data for block, data in self._cache.items() if self._random.random() < 0.5}
        kept = len(self._cache)
        self._write_out()
        return kept, unflushed - kept

    def switch_off(self) -> None:
        """Ends it after the machine has switched itself off: everything is written."""
        self._stop()
        self._write_out()

    def close(self) -> None:
        """Ends it for good."""
        self._stop()
        os.close(self._file)

    def _stop(self) -> None:
        for connection in (self._listener, self._connection):
            if connection is not None:
                # It may not be connected any more.
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
                connection.close()
        if self._thread is not None:
            self._thread.join()
        self._listener = self._connection = self._thread = None

    def _run(self) -> None:
        assert self._listener is not None
        # QEMU is killed, or this is told to stop.
        with suppress(Cut, OSError):
            self._connection, _ = self._listener.accept()
            if self._negotiate(self._connection):
                while self._answer(self._connection):
                    pass

    def _negotiate(self, connection: socket.socket) -> bool:
        # Fixed newstyle, no zeroes.
        connection.sendall(struct.pack(">8sQH", b"NBDMAGIC", OPTION_MAGIC, 3))
        _receive(connection, 4)
        while True:
            _, option, length = struct.unpack(">QII", _receive(connection, 16))
            _receive(connection, length)
            if option == OPTION_GO:
                information = struct.pack(">HQH", 0, self._size, TRANSMISSION_FLAGS)
                _reply_to_option(connection, option, REPLY_INFORMATION, information)
                _reply_to_option(connection, option, REPLY_ACKNOWLEDGED)
                return True
            if option == OPTION_ABORT:
                _reply_to_option(connection, option, REPLY_ACKNOWLEDGED)
                return False
            _reply_to_option(connection, option, REPLY_UNSUPPORTED)

    def _answer(self, connection: socket.socket) -> bool:
        """Answers one request. Returns whether there may be more."""
        _, flags, command, handle, offset, length = struct.unpack(">IHHQQI", _receive(connection, 28))
        if command == DISCONNECT:
            return False
        data = b""
        error = 0
        if command == READ:
            data = self.read(offset, length)
        elif command in (WRITE, WRITE_ZEROES):
            self.write(offset, _receive(connection, length) if command == WRITE else bytes(length))
            if flags & FORCE_UNIT_ACCESS:
                self._write_out(offset, length)
        elif command == FLUSH:
            self._write_out()
        elif command != TRIM:
            error = INVALID_ARGUMENT
        connection.sendall(struct.pack(">IIQ", REPLY_MAGIC, error, handle) + data)
        return True

    def read(self, offset: int, length: int) -> bytes:
        """What the machine sees."""
        data = bytearray(os.pread(self._file, length, offset))
        if self._cache:
            for block in _blocks(offset, length):
                cached = self._cache.get(block)
                if cached is not None:
                    start = block * BLOCK_BYTES - offset
                    within = slice(max(0, start), min(length, start + BLOCK_BYTES))
                    data[within] = cached[max(0, -start) : max(0, -start) + within.stop - within.start]
        return bytes(data)

    def write(self, offset: int, data: bytes) -> None:
        """What the machine writes and does not flush yet."""
        for block in _blocks(offset, len(data)):
            start = block * BLOCK_BYTES - offset
            end = start + BLOCK_BYTES
            if start >= 0 and end <= len(data):
                self._cache[block] = data[start:end]
            else:
                whole = bytearray(self.read(block * BLOCK_BYTES, BLOCK_BYTES))
                part = data[max(0, start) : min(len(data), end)]
                whole[max(0, -start) : max(0, -start) + len(part)] = part
                self._cache[block] = bytes(whole)
        while len(self._cache) * BLOCK_BYTES > CACHE_BYTES:
            block = next(iter(self._cache))
            os.pwrite(self._file, self._cache.pop(block), block * BLOCK_BYTES)

    def _write_out(self, offset: int = 0, length: int | None = None) -> None:
        """Writes what is in the cache, or what of it lies in a range."""
        chosen = sorted(self._cache) if length is None else [block for block in _blocks(offset, length) if block in self._cache]
        first = 0
        while first < len(chosen):
            # As many blocks as follow one another, in one call.
            last = first
            while last + 1 < len(chosen) and chosen[last + 1] == chosen[last] + 1:
                last += 1
            data = b"".join(self._cache.pop(block) for block in chosen[first : last + 1])
            os.pwrite(self._file, data, chosen[first] * BLOCK_BYTES)
            first = last + 1


def _blocks(offset: int, length: int) -> Iterator[int]:
    return iter(range(offset // BLOCK_BYTES, (offset + length + BLOCK_BYTES - 1) // BLOCK_BYTES))


def _receive(connection: socket.socket, length: int) -> bytes:
    data = bytearray(length)
    view = memoryview(data)
    received = 0
    while received < length:
        count = connection.recv_into(view[received:])
        if count == 0:
            raise Cut
        received += count
    return bytes(data)


def _reply_to_option(connection: socket.socket, option: int, kind: int, data: bytes = b"") -> None:
    connection.sendall(struct.pack(">QIII", OPTION_REPLY_MAGIC, option, kind, len(data)) + data)
