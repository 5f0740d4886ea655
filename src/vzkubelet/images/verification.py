"""Whether a file is what its digest says, read from the disk itself and not from the page cache.

Reading past the cache shows what the medium holds and leaves the memory to the machines that run: O_DIRECT on Linux,
F_NOCACHE on macOS, plain where the file system refuses. Holes cost no read.
"""

import contextlib
import errno
import fcntl
import hashlib
import mmap
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vzkubelet.images.formats.tree import ChunkList

BUFFER_BYTES = 4 * 1024 * 1024
"""Read at once: enough for full speed without read-ahead, little enough to stop soon."""
_ALIGNMENT_BYTES = 4096
_NO_DIRECT = frozenset({errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP})
_ZEROS = bytes(BUFFER_BYTES)
_HOLE_BYTES = 512 * 1024 * 1024
"""Longest hole told at once, from multiples of it on: hashing the zeros of one takes half a second."""
Pace = Callable[[int, int], None]
"""Told the bytes of the file that are done and, of these, those that were read. May wait, and may raise to stop."""


@dataclass(frozen=True, slots=True)
class Damage:
    """What is wrong with a content: for a message, and the byte ranges (start, end) where that can be told."""

    reason: str
    ranges: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Extent:
    """A run of a file: its bytes, valid until the next one is asked for; None for a hole, which may be long."""

    offset: int
    length: int
    data: memoryview | None


def any_pace(done_bytes: int, read_bytes: int) -> None:
    """As fast as it goes."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of reading a file: its damage, if any, and the list of its chunks, if there is one."""

    damage: Damage | None
    chunks: ChunkList | None = None


def examine(
    path: Path,
    digest: str,
    size_bytes: int,
    told: ChunkList | None = None,
    *,
    list_bytes: int = 0,
    pace: Pace = any_pace,
) -> Verdict:
    """Read a file once and compare it with its digest.

    `told` is a list of the chunks that the file should have. If `digest` is the digest of that list, the chunks decide;
    else the digest of the whole file does, and the list tells where damage lies. Without one and with `list_bytes` the
    verdict has a list of chunks of that size.
    Raises: OSError: it cannot be read. Whatever `pace` raises.
    """
    actual_bytes = path.lstat().st_size
    if actual_bytes != size_bytes or (told is not None and told.size_bytes != size_bytes):
        return Verdict(Damage(f"it has {actual_bytes} instead of {size_bytes} bytes"))
    is_tree = told is not None and told.digest() == digest
    chunk_bytes = told.chunk_bytes if told is not None else list_bytes
    chunker = Chunker(chunk_bytes) if chunk_bytes else None
    hasher = None if is_tree else hashlib.sha256()
    try:
        for extent in extents(path, size_bytes, pace=pace):
            if chunker is not None:
                chunker.update(extent)
            if hasher is not None:
                for data in _pieces(extent):
                    hasher.update(data)
    except EOFError:
        return Verdict(Damage(f"it is shorter than {size_bytes} bytes"))
    except OSError as exc:
        if exc.errno != errno.EIO:
            raise
        return Verdict(unreadable(exc))
    chunks = ChunkList(size_bytes, chunk_bytes, chunker.finish()) if chunker is not None else None
    return _judge(digest, hasher.hexdigest() if hasher is not None else "", chunks, told)


def _judge(digest: str, actual: str, chunks: ChunkList | None, told: ChunkList | None) -> Verdict:
    ranges = differences(chunks, told) if chunks is not None and told is not None else ()
    if actual:
        if f"sha256:{actual}" == digest:
            return Verdict(None, chunks)
        return Verdict(Damage(f"its digest is sha256:{actual} instead of {digest}", ranges))
    if not ranges:
        return Verdict(None, chunks)
    bad_bytes = sum(end - start for start, end in ranges)
    return Verdict(Damage(f"{bad_bytes} bytes of it are in chunks that are not as they were written", ranges))


def unreadable(exc: OSError) -> Damage:
    """What a disk says of a sector that it cannot read (EIO)."""
    return Damage(f"it cannot be read: {exc.strerror}")


class Chunker:
    """The digests of the chunks of what is fed. Chunks in holes cost nothing."""

    def __init__(self, chunk_bytes: int) -> None:
        self._chunk_bytes = chunk_bytes
        self._digests = bytearray()
        self._hasher = hashlib.sha256()
        self._filled = 0
        self._zero_digest = b""

    def update(self, extent: Extent) -> None:
        offset, end = extent.offset, extent.offset + extent.length
        while offset < end:
            step = min(self._chunk_bytes - self._filled, end - offset)
            if extent.data is None and step == self._chunk_bytes:
                self._zero_digest = self._zero_digest or _digest_of_zeros(self._chunk_bytes)
                self._digests += self._zero_digest
            else:
                for data in _pieces(_part(extent, offset, step)):
                    self._hasher.update(data)
                self._filled += step
                if self._filled == self._chunk_bytes:
                    self._close()
            offset += step

    def take(self) -> bytes:
        """The digests of the chunks that became whole since the last call, joined."""
        digests = bytes(self._digests)
        self._digests.clear()
        return digests

    def finish(self) -> bytes:
        """As `take`; what is left is the last chunk."""
        if self._filled:
            self._close()
        return self.take()

    def _close(self) -> None:
        self._digests += self._hasher.digest()
        self._hasher, self._filled = hashlib.sha256(), 0


def list_chunks(path: Path, size_bytes: int, chunk_bytes: int, pace: Pace = any_pace) -> ChunkList:
    """The digests of a file's chunks. Raises: OSError, EOFError (shorter), whatever `pace` raises."""
    chunker = Chunker(chunk_bytes)
    for extent in extents(path, size_bytes, pace=pace):
        chunker.update(extent)
    return ChunkList(size_bytes, chunk_bytes, chunker.finish())


def extents(path: Path, size_bytes: int, *, start: int = 0, pace: Pace = any_pace) -> Iterator[Extent]:
    """The whole file in order, or from `start` on, a multiple of 4 KiB.

    Raises: OSError. EOFError: the file is shorter than `size_bytes`. Whatever `pace` raises.
    """
    descriptor = _open_uncached(path)
    buffer = mmap.mmap(-1, BUFFER_BYTES)  # aligned to pages, as direct reads want it
    view = memoryview(buffer)
    try:
        offset = start
        while offset < size_bytes:
            data_start, data_end = _next_data(descriptor, offset, size_bytes)
            # What is next to a hole is read from the grid that direct reads want.
            data_start = max(offset, data_start - data_start % _ALIGNMENT_BYTES)
            while offset < data_start:
                length = min(data_start - offset, _HOLE_BYTES - offset % _HOLE_BYTES)
                yield Extent(offset, length, None)
                pace(length, 0)
                offset += length
            while offset < data_end:
                wanted = min(BUFFER_BYTES, data_end - offset)
                length = min(_read(descriptor, view, wanted, offset), size_bytes - offset)
                if not length:
                    raise EOFError(f"the file is shorter than {size_bytes} bytes")
                yield Extent(offset, length, view[:length])
                pace(length, length)
                offset += length
    finally:
        view.release()
        with contextlib.suppress(BufferError):  # the consumer still looks at the last piece
            buffer.close()
        os.close(descriptor)


def _read(descriptor: int, view: memoryview, wanted: int, offset: int) -> int:
    """Read at least to the next multiple of the grid, as direct reads want it; what is behind `wanted` is not used."""
    length = -(-wanted // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
    with view[:length] as part:
        try:
            count = os.preadv(descriptor, [part], offset)
        except OSError as exc:
            direct = getattr(os, "O_DIRECT", 0)
            if exc.errno != errno.EINVAL or not direct or not fcntl.fcntl(descriptor, fcntl.F_GETFL) & direct:
                raise
            # A file system with a coarser grid than ours: go on through the cache.
            fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) & ~direct)
            count = os.preadv(descriptor, [part], offset)
    count = min(count, wanted)
    if count < wanted:  # a short read keeps the next one on the grid, except at the end of the file
        count -= count % _ALIGNMENT_BYTES if count > _ALIGNMENT_BYTES else 0
    return count


def _open_uncached(path: Path) -> int:
    """Raises OSError: also of what is no regular file, or a link to one."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    direct = getattr(os, "O_DIRECT", 0)
    try:
        descriptor = os.open(path, flags | direct)
    except OSError as exc:
        if exc.errno not in _NO_DIRECT:  # some network file systems
            raise
        descriptor = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    uncached = getattr(fcntl, "F_NOCACHE", None)
    if uncached is not None:
        with contextlib.suppress(OSError):
            fcntl.fcntl(descriptor, uncached, 1)
    return descriptor


def _next_data(descriptor: int, offset: int, size_bytes: int) -> tuple[int, int]:
    """The next run of data at or after `offset`; all of the rest where the file system cannot tell."""
    try:
        start = os.lseek(descriptor, offset, os.SEEK_DATA)
        end = os.lseek(descriptor, start, os.SEEK_HOLE)
        return min(start, size_bytes), min(end, size_bytes)
    except OSError as exc:
        if exc.errno != errno.ENXIO:
            return offset, size_bytes
    # No data any more. A hole up to the end, unless the end comes before what it should be.
    if os.fstat(descriptor).st_size < size_bytes:
        raise EOFError(f"the file is shorter than {size_bytes} bytes")
    return size_bytes, size_bytes


def differences(found: ChunkList, told: ChunkList) -> tuple[tuple[int, int], ...]:
    """Byte ranges (start, end) of the chunks in which two files of one size differ, neighbours joined."""
    if found.digests == told.digests:
        return ()
    bad = [number for number in range(told.count) if found.chunk(number) != told.chunk(number)]
    return chunk_ranges(bad, told)


def chunk_ranges(numbers: list[int], chunks: ChunkList) -> tuple[tuple[int, int], ...]:
    """Byte ranges (start, end) of chunks in ascending order, neighbours joined."""
    ranges: list[tuple[int, int]] = []
    for number in numbers:
        start = number * chunks.chunk_bytes
        end = start + chunks.length(number)
        if ranges and ranges[-1][1] == start:
            ranges[-1] = (ranges[-1][0], end)
        else:
            ranges.append((start, end))
    return tuple(ranges)


def _part(extent: Extent, offset: int, length: int) -> Extent:
    if extent.data is None:
        return Extent(offset, length, None)
    start = offset - extent.offset
    return Extent(offset, length, extent.data[start : start + length])


def _pieces(extent: Extent) -> Iterator[memoryview | bytes]:
    if extent.data is not None:
        yield extent.data
        return
    left = extent.length
    while left:
        step = min(left, BUFFER_BYTES)
        yield _ZEROS if step == BUFFER_BYTES else _ZEROS[:step]
        left -= step


def _digest_of_zeros(length: int) -> bytes:
    hasher = hashlib.sha256()
    for data in _pieces(Extent(0, length, None)):
        hasher.update(data)
    return hasher.digest()
