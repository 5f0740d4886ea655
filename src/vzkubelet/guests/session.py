"""One SSH session with back pressure in both directions."""

import asyncio
import contextlib
import signal
from collections import deque
from typing import cast

import asyncssh

from vzkubelet.errors import Unavailable
from vzkubelet.ports import ExitStatus, OutputStream, TerminalSize

QUEUE_BYTES = 256 * 1024
"""Output that waits for its reader here before the channel is paused; the rest waits within the channel's window."""

DRAIN_QUIET_S = 0.5
"""How long output may stay away after the command's end, when children of it keep the channel open."""

DRAIN_BYTES = 20 * 1024 * 1024
"""What can be under way when a command ends: the window and up to 16 MiB in OpenSSH's server (CHAN_INPUT_MAX)."""

END_S = 1.0
"""How long the server may take to close its side. Dropbear does when the command is gone, OpenSSH at once."""


class Session(asyncssh.SSHClientSession[bytes]):
    """What asyncssh calls is turned into `read`, `write` and `status`. One reader and one writer at a time."""

    def __init__(self) -> None:
        self.status: ExitStatus | None = None
        """How the command ended; None while it runs, or when the connection was lost."""
        self._channel: asyncssh.SSHClientChannel[bytes] | None = None
        self._chunks: deque[tuple[OutputStream, bytes]] = deque()
        self._queued_bytes = 0
        self._paused = False
        self._drained_bytes = 0
        self._changed = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._closed = False
        self._failure: BaseException | None = None

    # What asyncssh calls.

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        self._channel = chan
        chan.set_write_buffer_limits(QUEUE_BYTES)

    def data_received(self, data: bytes, datatype: int | None) -> None:
        stream = OutputStream.STDERR if datatype == asyncssh.EXTENDED_DATA_STDERR else OutputStream.STDOUT
        self._chunks.append((stream, data))
        self._queued_bytes += len(data)
        if self._queued_bytes > QUEUE_BYTES and not self._paused and self._channel is not None:
            self._paused = True
            self._channel.pause_reading()
        self._changed.set()

    def eof_received(self) -> bool:
        return True  # our own side stays open: closing it is for the peer

    def exit_status_received(self, status: int) -> None:
        self.status = ExitStatus(status & 0xFF)
        self._changed.set()

    def exit_signal_received(self, signal: str, core_dumped: bool, msg: str, lang: str) -> None:
        number = signal_number(signal)
        self.status = ExitStatus(128 + number, number)
        self._changed.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed = True
        self._changed.set()
        self._writable.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # What the room calls.

    @property
    def opened(self) -> bool:
        """Whether the server ever gave us the channel; if not, nothing was asked of it."""
        return self._channel is not None

    async def read(self) -> tuple[OutputStream, bytes] | None:
        """The next output, or None at its end.

        The end is the channel's, or a while after the command's own end when its children hold the channel open.
        Raises whatever `fail` was given.
        """
        while not self._chunks:
            if self._failure is not None:
                raise self._failure
            if self._closed:
                return None
            self._changed.clear()
            try:
                async with asyncio.timeout(None if self.status is None else DRAIN_QUIET_S):
                    await self._changed.wait()
            except TimeoutError:
                return None
        if self._failure is not None:
            raise self._failure
        if self.status is not None and self._drained_bytes > DRAIN_BYTES:
            return None
        return self._take()

    def _take(self) -> tuple[OutputStream, bytes]:
        """Everything of one stream that is at the head of the queue."""
        stream, data = self._chunks.popleft()
        parts = [data]
        while self._chunks and self._chunks[0][0] is stream:
            parts.append(self._chunks.popleft()[1])
        data = b"".join(parts)
        self._queued_bytes -= len(data)
        if self.status is not None and not self._closed:
            self._drained_bytes += len(data)
        if self._paused and self._channel is not None:
            self._paused = False
            self._channel.resume_reading()
        return stream, data

    async def write(self, data: bytes) -> None:
        """Returns when there is room for more. Raises Unavailable when the channel is closed."""
        await self._writable.wait()
        if self._closed or self._channel is None or self._channel.is_closing():
            raise Unavailable("the session has ended")
        self._channel.write(data)
        await self._writable.wait()

    def write_eof(self) -> None:
        if self._channel is not None and not self._channel.is_closing():
            self._channel.write_eof()

    def resize(self, size: TerminalSize) -> None:
        if self._channel is not None and not self._channel.is_closing():
            self._channel.change_terminal_size(size.columns, size.rows)

    def fail(self, exc: BaseException) -> None:
        """End the reader with this exception."""
        self._failure = exc
        self._changed.set()

    async def end(self) -> None:
        """Close the channel and wait a moment until the server has closed it too: only then it counts no more there."""
        if self._channel is None or self._closed:
            return
        self._channel.abort()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_S):
                await self._channel.wait_closed()


def signal_number(name: str) -> int:
    """The number of an SSH signal name (``TERM``, RFC 4254 section 6.10); 0 for one that this host does not know."""
    return cast("int", getattr(signal, f"SIG{name}", 0))
