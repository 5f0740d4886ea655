"""Writing past the page cache with nothing around it: what the bare loops end with."""

import mmap
import os
import queue
from pathlib import Path
from types import TracebackType
from typing import Self

BUFFER_BYTES = 1024 * 1024
_ZERO_BLOCK = 64 * 1024
_ZEROS = bytes(_ZERO_BLOCK)


class DirectFile:
    """A new file of a known size whose zeros stay holes. `write` may be called by several threads."""

    def __init__(self, path: Path, size_bytes: int, *, buffers: int = 4) -> None:
        """Where the volume refuses direct writes they go through the page cache."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            self._descriptor = os.open(path, flags | getattr(os, "O_DIRECT", 0), 0o600)
        except OSError:
            path.unlink(missing_ok=True)
            self._descriptor = os.open(path, flags, 0o600)
        os.ftruncate(self._descriptor, size_bytes)
        self._free: queue.SimpleQueue[mmap.mmap] = queue.SimpleQueue()
        for _ in range(buffers):
            self._free.put(mmap.mmap(-1, BUFFER_BYTES))  # page-aligned, as direct writes want it

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                os.fsync(self._descriptor)
        finally:
            os.close(self._descriptor)

    def write(self, data: bytes, offset: int) -> None:
        """At most `BUFFER_BYTES`; offset and length are multiples of 4096."""
        buffer = self._free.get()
        try:
            buffer[: len(data)] = data
            for start, end in _runs(data):
                part = memoryview(buffer)[start:end]
                with part:
                    os.pwrite(self._descriptor, part, offset + start)
        finally:
            self._free.put(buffer)


def _runs(data: bytes) -> list[tuple[int, int]]:
    """Start and end of what is not zeros, in blocks."""
    runs: list[tuple[int, int]] = []
    for start in range(0, len(data), _ZERO_BLOCK):
        if data.startswith(_ZEROS, start):  # as quick as memory is; views are compared byte by byte
            continue
        end = min(start + _ZERO_BLOCK, len(data))
        if runs and runs[-1][1] == start:
            runs[-1] = (runs[-1][0], end)
        else:
            runs.append((start, end))
    return runs
