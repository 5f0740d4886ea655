"""The peer's side of a guest: container logs and exec streams that keep what they were given."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from vzkubelet.ports import OutputStream, TerminalSize


class MemoryLog:
    """A log that forgets with its test."""

    def __init__(self) -> None:
        self.data = {stream: bytearray() for stream in OutputStream}
        self.grown = asyncio.Event()

    @property
    def stdout(self) -> bytes:
        return bytes(self.data[OutputStream.STDOUT])

    @property
    def stderr(self) -> bytes:
        return bytes(self.data[OutputStream.STDERR])

    def received_bytes(self, stream: OutputStream) -> int:
        return len(self.data[stream])

    def append(self, stream: OutputStream, data: bytes) -> None:
        self.data[stream] += data
        self.grown.set()

    async def until(self, stdout_bytes: int) -> None:
        """Wait until that much has arrived on stdout."""
        while len(self.data[OutputStream.STDOUT]) < stdout_bytes:
            self.grown.clear()
            await self.grown.wait()


class FileLog:
    """A log in two files: what was appended survives the process."""

    def __init__(self, directory: Path) -> None:
        self._paths = {stream: directory / stream.value for stream in OutputStream}

    def received_bytes(self, stream: OutputStream) -> int:
        path = self._paths[stream]
        return path.stat().st_size if path.exists() else 0

    def append(self, stream: OutputStream, data: bytes) -> None:
        with self._paths[stream].open("ab", buffering=0) as file:
            file.write(data)


class MemoryStreams:
    """An exec's peer. `input` None is a session without stdin; `bytes_per_s` makes it a slow reader."""

    def __init__(
        self,
        input: Sequence[bytes] | AsyncIterator[bytes] | None = None,  # noqa: A002 - the word of the domain
        sizes: AsyncIterator[TerminalSize] | None = None,
        bytes_per_s: float | None = None,
    ) -> None:
        self.stdout = bytearray()
        self.stderr = bytearray()
        self.arrived = asyncio.Event()
        self._input = input
        self._sizes = sizes
        self._bytes_per_s = bytes_per_s

    def stdin(self) -> AsyncIterator[bytes] | None:
        if self._input is None or isinstance(self._input, AsyncIterator):
            return self._input
        return _each(self._input)

    def resizes(self) -> AsyncIterator[TerminalSize] | None:
        return self._sizes

    async def write_stdout(self, data: bytes) -> None:
        self.stdout += data
        self.arrived.set()
        if self._bytes_per_s:
            await asyncio.sleep(len(data) / self._bytes_per_s)

    async def write_stderr(self, data: bytes) -> None:
        self.stderr += data
        self.arrived.set()

    async def until(self, text: bytes) -> None:
        """Wait until stdout holds `text`."""
        while text not in self.stdout:
            self.arrived.clear()
            await self.arrived.wait()


async def _each(chunks: Sequence[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk
