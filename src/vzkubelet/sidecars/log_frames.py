"""The stream of ``GET /containers/{id}/logs`` with time stamps, as log entries. Without IO.

Without a terminal every message comes in a frame: one byte stream, three zero bytes, four bytes length (big endian).
With a terminal the messages follow each other bare. Each message is ``<RFC 3339 time> <text>``; a message without a
newline is a part of a line, which the engine cuts at 16 KiB.
"""

from collections.abc import Iterator

from vzkubelet.errors import RemoteProtocolError
from vzkubelet.ports import LogEntry, OutputStream
from vzkubelet.sidecars.objects import epoch_ns

PART_BYTES = 16 * 1024
"""Where Docker's copier cuts lines (moby ``daemon/logger/copier.go``, ``defaultBufSize``)."""
_HEADER_BYTES = 8
_FRAME_LIMIT_BYTES = 2**20
_STREAMS = {0: OutputStream.STDOUT, 1: OutputStream.STDOUT, 2: OutputStream.STDERR}
_TIME_LIMIT_BYTES = 40


class FramedEntries:
    """Of a container without a terminal."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[LogEntry]:
        """The entries that are complete now.

        Raises:
            RemoteProtocolError: not such a stream.
        """
        self._buffer += data
        position = 0
        while len(self._buffer) - position >= _HEADER_BYTES:
            stream = self._buffer[position]
            size = int.from_bytes(self._buffer[position + 4 : position + _HEADER_BYTES], "big")
            if stream not in _STREAMS or size > _FRAME_LIMIT_BYTES:
                raise RemoteProtocolError("the Docker engine sent a log frame with a header that is none")
            end = position + _HEADER_BYTES + size
            if len(self._buffer) < end:
                break
            yield _entry(bytes(self._buffer[position + _HEADER_BYTES : end]), _STREAMS[stream])
            position = end
        del self._buffer[:position]

    def end(self) -> Iterator[LogEntry]:
        """What is left at the end of the stream: nothing, a cut frame cannot be read."""
        return iter(())


class TerminalEntries:
    """Of a container with a terminal; all of it is stdout."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> Iterator[LogEntry]:
        """See `FramedEntries.feed`."""
        self._buffer += data
        while (message := self._next()) is not None:
            yield _entry(message, OutputStream.STDOUT)

    def end(self) -> Iterator[LogEntry]:
        """A last line without a newline."""
        rest, self._buffer = self._buffer, b""
        if rest:
            yield _entry(rest, OutputStream.STDOUT)

    def _next(self) -> bytes | None:
        """The first whole message: up to a newline, or a full part, which the next message follows without one."""
        space = self._buffer.find(b" ", 0, _TIME_LIMIT_BYTES)
        newline = self._buffer.find(b"\n")
        part_end = space + 1 + PART_BYTES
        if newline >= 0 and (space < 0 or newline < part_end):
            end = newline + 1
        elif space >= 0 and len(self._buffer) >= part_end:
            end = part_end
        else:
            return None
        message, self._buffer = self._buffer[:end], self._buffer[end:]
        return message


def _entry(message: bytes, stream: OutputStream) -> LogEntry:
    time, _, text = message.partition(b" ")
    partial = not text.endswith(b"\n")
    return LogEntry(epoch_ns(time.decode(errors="replace")), stream, text if partial else text[:-1], partial)
