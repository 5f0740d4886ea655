"""Sparse files: zeros are not written, holes are not read."""

import errno
import os
from collections.abc import Iterator

BLOCK_BYTES = 1024 * 1024
"""What is read, hashed and compared at once: large enough that Python's share of the work vanishes."""
_GRAIN_BYTES = 64 * 1024
"""Smallest run of zeros that becomes a hole, at multiples of itself."""
ZEROS = bytes(BLOCK_BYTES)
_ZERO_GRAIN = bytes(_GRAIN_BYTES)


def data_runs(block: bytes, offset: int = 0) -> Iterator[tuple[int, int]]:
    """The parts of a block (start, end) that are not zero, on the grid of the grain that `offset` in the file is on."""
    if not offset % _GRAIN_BYTES and ZEROS.startswith(block):
        return
    start: int | None = None
    position = 0
    while position < len(block):
        end = min(len(block), position + _GRAIN_BYTES - (offset + position) % _GRAIN_BYTES)
        is_whole = end - position == _GRAIN_BYTES
        is_zero = block.startswith(_ZERO_GRAIN, position) if is_whole else not block[position:end].strip(b"\0")
        if is_zero and start is not None:
            yield start, position
            start = None
        elif not is_zero and start is None:
            start = position
        position = end
    if start is not None:
        yield start, len(block)


def read_blocks(descriptor: int, size_bytes: int) -> Iterator[bytes]:
    """The content in blocks, the last one shorter. Holes are recognised by lseek(2) and cost no read.

    Raises:
        EOFError: the file is shorter than `size_bytes`.
    """
    offset = 0
    data_start, data_end = _data_extent(descriptor, 0, size_bytes)
    while offset < size_bytes:
        if offset >= data_end:
            data_start, data_end = _data_extent(descriptor, offset, size_bytes)
        length = min(BLOCK_BYTES, size_bytes - offset)
        if offset + length <= data_start:
            yield ZEROS if length == BLOCK_BYTES else bytes(length)
        else:
            block = os.pread(descriptor, length, offset)
            while len(block) < length:
                more = os.pread(descriptor, length - len(block), offset + len(block))
                if not more:
                    raise EOFError(f"the file is shorter than {size_bytes} bytes")
                block += more
            yield block
        offset += length


def _data_extent(descriptor: int, offset: int, size_bytes: int) -> tuple[int, int]:
    """The next run of data at or after `offset`; all of the rest where the file system cannot tell."""
    try:
        start = os.lseek(descriptor, offset, os.SEEK_DATA)
        return start, os.lseek(descriptor, start, os.SEEK_HOLE)
    except OSError as exc:
        if exc.errno == errno.ENXIO:  # no data any more: the rest is a hole
            return size_bytes, size_bytes
        return offset, size_bytes
