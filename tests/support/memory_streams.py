"""The far end of an exec or attach in memory: `ports.Streams` for tests."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence

from vzkubelet.ports import TerminalSize


class MemoryStreams:
    """Gives `stdin` and `sizes`, keeps what is written.

    With `stdin_open` the input does not end after its last chunk. `stdout_bytes_per_s` makes a slow reader; with
    `keep` off only lengths and a digest are kept.
    """

    def __init__(
        self,
        stdin: Sequence[bytes] | None = None,
        *,
        stdin_open: bool = False,
        sizes: Sequence[TerminalSize] | None = None,
        stdout_bytes_per_s: float | None = None,
        keep: bool = True,
    ) -> None:
        self._stdin = stdin
        self._stdin_open = stdin_open
        self._sizes = sizes
        self._pace = stdout_bytes_per_s
        self._keep = keep
        self.stdin_taken_bytes = 0
        self.out = bytearray()
        self.err = bytearray()
        self.out_bytes = 0
        self.out_digest = hashlib.sha256()
        self.wrote = asyncio.Event()

    def stdin(self) -> AsyncIterator[bytes] | None:
        return None if self._stdin is None else self._input(self._stdin)

    def resizes(self) -> AsyncIterator[TerminalSize] | None:
        return None if self._sizes is None else self._terminal(self._sizes)

    async def write_stdout(self, data: bytes) -> None:
        self.out_bytes += len(data)
        self.out_digest.update(data)
        if self._keep:
            self.out += data
        self.wrote.set()
        if self._pace:
            await asyncio.sleep(len(data) / self._pace)

    async def write_stderr(self, data: bytes) -> None:
        self.err += data
        self.wrote.set()

    async def until_stdout(self, text: bytes) -> None:
        """Wait until this was written."""
        while text not in self.out:
            self.wrote.clear()
            await self.wrote.wait()

    async def _input(self, chunks: Sequence[bytes]) -> AsyncIterator[bytes]:
        for chunk in chunks:
            self.stdin_taken_bytes += len(chunk)
            yield chunk
        if self._stdin_open:
            await asyncio.Event().wait()

    async def _terminal(self, sizes: Sequence[TerminalSize]) -> AsyncIterator[TerminalSize]:
        for size in sizes:
            yield size
        await asyncio.Event().wait()
