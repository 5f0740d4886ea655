"""This process's terminal as `ports.Streams`, for verbs that talk to a container."""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import termios
import tty
from collections.abc import AsyncIterator, Iterator

from vzkubelet import ports

BLOCK_BYTES = 64 * 1024


class Terminal:
    """stdin, stdout and stderr of this process."""

    def __init__(self, *, stdin: bool, terminal: bool) -> None:
        self._stdin = stdin
        self._terminal = terminal

    def stdin(self) -> AsyncIterator[bytes] | None:
        return _read(sys.stdin.fileno()) if self._stdin else None

    def resizes(self) -> AsyncIterator[ports.TerminalSize] | None:
        return _sizes() if self._terminal else None

    async def write_stdout(self, data: bytes) -> None:
        await asyncio.to_thread(_write_all, sys.stdout.fileno(), data)

    async def write_stderr(self, data: bytes) -> None:
        await asyncio.to_thread(_write_all, sys.stderr.fileno(), data)


async def _read(descriptor: int) -> AsyncIterator[bytes]:
    """Chunks until end of file; waits for input without a thread, so that a quiet keyboard never holds up the exit."""
    while True:
        await _readable(descriptor)
        chunk = os.read(descriptor, BLOCK_BYTES)
        if not chunk:
            return
        yield chunk


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    try:
        loop.add_reader(descriptor, lambda: _resolve(ready))
    except PermissionError:  # a regular file: always ready, and not for epoll
        return
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)


async def _sizes() -> AsyncIterator[ports.TerminalSize]:
    changed = asyncio.Event()
    changed.set()
    asyncio.get_running_loop().add_signal_handler(signal.SIGWINCH, changed.set)
    while True:
        await changed.wait()
        changed.clear()
        size = shutil.get_terminal_size()
        yield ports.TerminalSize(size.columns, size.lines)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


@contextlib.contextmanager
def raw_mode(enabled: bool) -> Iterator[None]:
    """The local terminal hands every key to the far side; restored on leaving."""
    if not enabled or not sys.stdin.isatty():
        yield
        return
    saved = termios.tcgetattr(sys.stdin)
    tty.setraw(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, saved)


def _resolve(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
