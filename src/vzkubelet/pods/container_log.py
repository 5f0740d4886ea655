"""A container's log on disk: one writer in this process, any number of readers in any process.

The file is its own ledger (`wire.log_lines.Ledger`): opening it for writing counts what it holds and cuts a line that a
crash tore, so that output continues at the exact byte.
"""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

from vzkubelet import aio, errors
from vzkubelet.model.logs import LogEntry, LogOptions, OutputStream
from vzkubelet.wire import log_lines

BLOCK_BYTES = 256 * 1024
READER_POLL_S = 0.5
"""How often a follower looks at a file that another process writes; within this process it is woken."""

_appended: dict[Path, asyncio.Event] = {}


class Writer:
    """`ports.OutputLog` on a file. Close it when the container has ended."""

    def __init__(self, path: Path, ledger: log_lines.Ledger) -> None:
        """`ledger` was fed the whole file. Raises Unavailable when the log cannot be opened."""
        self._path = path
        try:
            self._descriptor = _opened(path)
            os.ftruncate(self._descriptor, ledger.complete_bytes)
        except OSError as exc:
            raise errors.Unavailable(f"log {path} cannot be opened: {exc.strerror}") from exc
        self._received = {stream: ledger.received_bytes(stream) for stream in OutputStream}

    def received_bytes(self, stream: OutputStream) -> int:
        return self._received[stream]

    def append(self, stream: OutputStream, data: bytes) -> None:
        """Raises Exhausted when the disk is full; nothing of `data` counts as received then."""
        lines = log_lines.encode(stream, data, time.time_ns())
        position = os.lseek(self._descriptor, 0, os.SEEK_END)
        try:
            written = 0
            while written < len(lines):
                written += os.write(self._descriptor, lines[written:])
        except OSError as exc:
            os.ftruncate(self._descriptor, position)
            raise errors.Exhausted(f"log {self._path} cannot be written: {exc.strerror}") from exc
        self._received[stream] += len(data)
        wake(self._path)

    def close(self) -> None:
        os.close(self._descriptor)
        wake(self._path)


async def writer(path: Path) -> Writer:
    """A writer that goes on where the log ends. Raises Unavailable when the log cannot be opened."""
    return Writer(path, await aio.run_blocking(_counted, path))  # what is counted may be gigabytes


async def create(path: Path) -> None:
    """An empty log where there is none yet, so that readers find it. Raises Unavailable."""
    await aio.run_blocking(_counted, path, False)


def _counted(path: Path, count: bool = True) -> log_lines.Ledger:
    ledger = log_lines.Ledger()
    try:
        descriptor = _opened(path)
        try:
            while count and (block := os.read(descriptor, BLOCK_BYTES)):
                ledger.feed(block)
        finally:
            os.close(descriptor)
    except OSError as exc:
        raise errors.Unavailable(f"log {path} cannot be opened: {exc.strerror}") from exc
    return ledger


def _opened(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_APPEND, 0o600)


async def read(path: Path, options: LogOptions, has_ended: Callable[[], bool]) -> AsyncGenerator[LogEntry, None]:
    """Entries of a log by `tail_lines` and `since_ns`; with `follow` until the container has ended and all was read.

    Raises:
        NotFound: there is no such log.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError as exc:
        raise errors.NotFound("the container has no log") from exc
    with file:
        decoder = log_lines.Decoder()
        if options.tail_lines is not None:
            file.seek(_tail_offset(file.fileno(), options.tail_lines))
        while True:
            last_look = not options.follow or has_ended()
            block = file.read(BLOCK_BYTES)
            for entry in log_lines.since(decoder.feed(block), options.since_ns):
                yield entry
            if block:
                await asyncio.sleep(0)
                continue
            if last_look:
                return
            await _woken(path)


def _tail_offset(descriptor: int, lines: int) -> int:
    """Where the last lines begin, found from the end of the file in growing steps."""
    size = os.fstat(descriptor).st_size
    length = BLOCK_BYTES
    while True:
        start = max(0, size - length)
        block = os.pread(descriptor, size - start, start)
        offset = log_lines.tail_offset(block, lines, from_start=start == 0)
        if offset is not None:
            return start + offset
        length *= 4


async def _woken(path: Path) -> None:
    """Until something was appended in this process, or it is time to look for another's writes."""
    event = _appended.setdefault(path, asyncio.Event())
    event.clear()
    try:
        async with asyncio.timeout(READER_POLL_S):
            await event.wait()
    except TimeoutError:
        return


def wake(path: Path) -> None:
    """Let followers look again: something was appended, or the container has ended."""
    event = _appended.get(path)
    if event is not None:
        event.set()


def forget(directory: Path) -> None:
    """Drop the wake-up entries of logs that are being removed."""
    for path in [path for path in _appended if path.is_relative_to(directory)]:
        _appended.pop(path).set()
