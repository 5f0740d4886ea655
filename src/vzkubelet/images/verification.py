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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vzkubelet.files import open_regular
from vzkubelet.images.formats.tree import ChunkList

BUFFER_BYTES = 4 * 1024 * 1024
"""Read at once: enough for full speed without read-ahead, little enough to stop soon."""
_ALIGNMENT_BYTES = 4096
_ZEROS = bytes(BUFFER_BYTES)
_HOLE_BYTES = 1024 * 1024 * 1024
"""Longest hole told at once, from multiples of it on: hashing the zeros of one takes about a second."""
_REPORTED_RANGES = 16
Pace = Callable[[int], None]
"""Told the bytes of the file that are done, holes included. May wait, and may raise to stop."""


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


def any_pace(done_bytes: int) -> None:
    """As fast as it goes."""


def find_damage(
    path: Path, digest: str, size_bytes: int, chunks: ChunkList | None = None, pace: Pace = any_pace
) -> Damage | None:
    """Compare a file with its digest; None when it is right.

    `chunks` is the list that `digest` is the tree digest of; a list of another digest only tells where damage lies.
    Raises: OSError: it cannot be read. Whatever `pace` raises.
    """
    try:
        actual_bytes = path.lstat().st_size
        if actual_bytes != size_bytes:
            return Damage(f"it has {actual_bytes} instead of {size_bytes} bytes")
        if chunks is not None and chunks.digest() == digest:
            return _compare_chunks(path, size_bytes, chunks, pace)
        actual = raw_digest(path, size_bytes, pace)
        if actual == digest:
            return None
        where = _compare_chunks(path, size_bytes, chunks, any_pace) if chunks is not None else None
        return Damage(f"its content has digest {actual} instead of {digest}", where.ranges if where else ())
    except EOFError:
        return Damage(f"it is shorter than {size_bytes} bytes")
    except OSError as exc:
        if exc.errno == errno.EIO:  # what a disk says of a sector that it cannot read
            return Damage(f"it cannot be read: {exc.strerror}")
        raise


def raw_digest(path: Path, size_bytes: int, pace: Pace = any_pace) -> str:
    """sha256 of the whole file. Raises: OSError, EOFError (shorter), whatever `pace` raises."""
    hasher = hashlib.sha256()
    for extent in extents(path, size_bytes, pace):
        for data in _pieces(extent):
            hasher.update(data)
    return f"sha256:{hasher.hexdigest()}"


def list_chunks(path: Path, size_bytes: int, chunk_bytes: int, pace: Pace = any_pace) -> ChunkList:
    """The digests of a file's chunks. Raises: OSError, EOFError (shorter), whatever `pace` raises."""
    digests, hasher, filled = bytearray(), hashlib.sha256(), 0
    zero_digest: bytes | None = None
    for extent in extents(path, size_bytes, pace):
        offset, end = extent.offset, extent.offset + extent.length
        while offset < end:
            step = min(chunk_bytes - filled, end - offset)
            if extent.data is None and step == chunk_bytes:
                zero_digest = zero_digest or _digest_of_zeros(chunk_bytes)
                digests += zero_digest
            else:
                for data in _pieces(_part(extent, offset, step)):
                    hasher.update(data)
                filled += step
                if filled == chunk_bytes:
                    digests += hasher.digest()
                    hasher, filled = hashlib.sha256(), 0
            offset += step
    if filled:
        digests += hasher.digest()
    return ChunkList(size_bytes, chunk_bytes, bytes(digests))


def extents(path: Path, size_bytes: int, pace: Pace = any_pace) -> Iterator[Extent]:
    """The whole file in order.

    Raises: OSError. EOFError: the file is shorter than `size_bytes`. Whatever `pace` raises.
    """
    descriptor = _open_uncached(path)
    buffer = mmap.mmap(-1, BUFFER_BYTES)  # aligned to pages, as direct reads want it
    view = memoryview(buffer)
    try:
        offset = 0
        while offset < size_bytes:
            start, end = _next_data(descriptor, offset, size_bytes)
            # What is next to a hole is read from the grid that direct reads want.
            start = max(offset, start - start % _ALIGNMENT_BYTES)
            while offset < start:
                length = min(start - offset, _HOLE_BYTES - offset % _HOLE_BYTES)
                yield Extent(offset, length, None)
                pace(length)
                offset += length
            while offset < end:
                wanted = min(BUFFER_BYTES, end - offset)
                length = min(_read(descriptor, view, wanted, offset), size_bytes - offset)
                if not length:
                    raise EOFError(f"the file is shorter than {size_bytes} bytes")
                yield Extent(offset, length, view[:length])
                pace(length)
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
    direct = getattr(os, "O_DIRECT", 0)
    if direct:
        with contextlib.suppress(OSError):  # tmpfs, some network file systems
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | direct)
    descriptor = open_regular(path)
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


def _compare_chunks(path: Path, size_bytes: int, expected: ChunkList, pace: Pace) -> Damage | None:
    if expected.size_bytes != size_bytes:
        return Damage(f"its list of chunks is of a file of {expected.size_bytes} bytes, not {size_bytes}")
    found = list_chunks(path, size_bytes, expected.chunk_bytes, pace)
    if found.digests == expected.digests:
        return None
    bad = [number for number in range(expected.count) if found.chunk(number) != expected.chunk(number)]
    ranges = _joined(bad, expected)
    return Damage(f"{len(bad)} of {expected.count} chunks are not as they were written", ranges[:_REPORTED_RANGES])


def _joined(numbers: list[int], chunks: ChunkList) -> tuple[tuple[int, int], ...]:
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
