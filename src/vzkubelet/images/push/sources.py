"""Raw files as a push reads them: in pieces and in order, zeros not read, and changes meanwhile noticed."""

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from vzkubelet.errors import Conflict, InvalidInput, NotFound, Unavailable
from vzkubelet.files import open_regular

PIECE_BYTES = 1024 * 1024
"""What is read, hashed and compressed at once; see `gzip_encoder.PIECE_BYTES`. Pieces lie at multiples of it."""
ZEROS = bytes(PIECE_BYTES)


@dataclass(frozen=True, slots=True)
class Piece:
    offset: int
    size_bytes: int
    data: bytes | None
    """None = zeros."""

    @property
    def content(self) -> bytes:
        if self.data is not None:
            return self.data
        return ZEROS if self.size_bytes == PIECE_BYTES else bytes(self.size_bytes)


class Source(Protocol):
    """A raw file, wherever it comes from. Its methods block and are used by one thread at a time."""

    name: str
    """For messages."""
    size_bytes: int
    raw_digest: str | None
    """Of the whole file, where it is known before it is read."""
    is_local: bool
    """Whether reading it twice costs no network."""

    def identity(self) -> str:
        """Equal only for what has the same content; other with every change."""

    def pieces(self, start: int = 0, end: int | None = None) -> Iterator[Piece]:
        """The content from `start`, a multiple of `PIECE_BYTES`, to `end`; all pieces but the last have that size.

        Raises:
            Conflict: it was written to meanwhile. Integrity: it is damaged. Unavailable: it cannot be read.
        """

    def interrupt(self) -> None:
        """Let a thread that waits in `pieces` for a network raise soon. From any thread."""

    def close(self) -> None: ...


class FileSource:
    """A file on this host; implements `Source`."""

    is_local = True

    def __init__(self, path: Path, raw_digest: str | None = None) -> None:
        """Raises: NotFound, InvalidInput, Unavailable: what a push would say about this file."""
        self.name = str(path)
        self.raw_digest = raw_digest
        self._descriptor = _opened(path)
        self._status = os.fstat(self._descriptor)
        self.size_bytes = self._status.st_size
        if not self.size_bytes:
            os.close(self._descriptor)
            raise InvalidInput(f"{path} is empty")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def identity(self) -> str:
        status = self._status
        return f"{status.st_dev}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}"

    def pieces(self, start: int = 0, end: int | None = None) -> Iterator[Piece]:
        try:
            yield from self._pieces(start, self.size_bytes if end is None else end)
        except (OSError, EOFError) as exc:
            raise Unavailable(f"cannot read {self.name}: {exc}") from exc
        self.check_unchanged()

    def read(self, offset: int, size_bytes: int) -> bytes:
        """Exactly these bytes.

        Raises:
            Unavailable: they cannot be read.
        """
        try:
            return _read(self._descriptor, size_bytes, offset)
        except (OSError, EOFError) as exc:
            raise Unavailable(f"cannot read {self.name}: {exc}") from exc

    def check_unchanged(self) -> None:
        """Raises Conflict when the file was written to since it was opened."""
        now = os.fstat(self._descriptor)
        if (now.st_size, now.st_mtime_ns) != (self._status.st_size, self._status.st_mtime_ns):
            raise Conflict(f"{self.name} was written to while it was read: stop its virtual machine first")

    def interrupt(self) -> None:
        """A file answers soon enough."""

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _pieces(self, start: int, end: int) -> Iterator[Piece]:
        """Holes are recognised by lseek(2) and cost no read; data that is all zeros is found by looking."""
        data_start, data_end = 0, 0
        for offset in range(start, end, PIECE_BYTES):
            if offset >= data_end:
                data_start, data_end = _data_extent(self._descriptor, offset, self.size_bytes)
            size = min(PIECE_BYTES, end - offset)
            if offset + size <= data_start:
                yield Piece(offset, size, None)
                continue
            data = _read(self._descriptor, size, offset)
            yield Piece(offset, size, None if is_zero(data) else data)


def is_zero(data: bytes) -> bool:
    """Whether there is nothing but zeros in at most `PIECE_BYTES`."""
    return data == ZEROS if len(data) == PIECE_BYTES else ZEROS.startswith(data)


def check_file(path: Path) -> None:
    """Raises: NotFound, InvalidInput, Unavailable: what a push would say after hours about this file."""
    FileSource(path).close()


def _opened(path: Path) -> int:
    try:
        return open_regular(path)
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise NotFound(f"{path} does not exist") from exc
    except OSError as exc:
        kind = InvalidInput if exc.errno == errno.EINVAL else Unavailable
        raise kind(f"cannot read {path}: {exc.strerror}") from exc


def _read(descriptor: int, size_bytes: int, offset: int) -> bytes:
    data = os.pread(descriptor, size_bytes, offset)
    while len(data) < size_bytes:
        more = os.pread(descriptor, size_bytes - len(data), offset + len(data))
        if not more:
            raise EOFError("it has become shorter")
        data += more
    return data


def _data_extent(descriptor: int, offset: int, size_bytes: int) -> tuple[int, int]:
    """The next run of data at or after `offset`; all of the rest where the file system cannot tell."""
    try:
        start = os.lseek(descriptor, offset, os.SEEK_DATA)
        return start, os.lseek(descriptor, start, os.SEEK_HOLE)
    except OSError as exc:
        if exc.errno == errno.ENXIO:  # no data any more: the rest is a hole
            return size_bytes, size_bytes
        return offset, size_bytes
