"""The index document of the chunked format: which chunk of a file lies where in the packs. Pure.

The layout is in docs/image-format.md. Integers are little-endian, columns follow each other, so that half a million
chunks are read by a few copies and cost about 45 bytes each.
"""

import hashlib
import struct
import sys
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

from vzkubelet.images.formats.tree import DIGEST_BYTES, ChunkList

CHUNK_BYTES = 256 * 1024
"""What writers take for files up to 128 GiB; figures are in docs/image-format.md."""
CHUNK_MIN_BYTES, CHUNK_LIMIT_BYTES = 4 * 1024, 16 * 1024 * 1024
"""A chunk is a power of two between these. A reader holds a few in memory."""
INDEX_LIMIT_BYTES = 32 * 1024 * 1024
"""Largest document. 128 GiB without a hole in chunks of 256 KiB have 20 MiB."""
PACK_LIMIT_BYTES = 256 * 1024 * 1024
COUNT_LIMIT = 1024 * 1024
"""Most chunks of a file: the list of all their digests is held in memory, however many are zeros."""
_CHUNKS = 512 * 1024
"""Most chunks that a writer makes."""
_MAGIC = b"VZKINDEX"
_VERSION = 1
_HEADER = struct.Struct("<8sIIQII32s")
"""Magic, version, size of a chunk, size of the file, packs, frames, sha256 of the file (zeros: not said)."""
_ITEM_BYTES = 4
_PASSES = 4


class Location(NamedTuple):
    """Where a chunk lies: `length` bytes at `offset` of a pack."""

    pack: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class PackFrames:
    """What a pack consists of: the stored length and the raw sha256 of each frame, in order."""

    lengths: Sequence[int]
    digests: bytes

    @property
    def size_bytes(self) -> int:
        return sum(self.lengths)


@dataclass(frozen=True, slots=True)
class ChunkIndex:
    """Chunks of a file and the frames in packs that they come from; several chunks may come from one frame.

    A frame as long as its chunk is the chunk, a shorter one is a zstd frame of it. Chunks of zeros have none.

    Raises:
        ValueError: figures that contradict each other or break a limit.
    """

    size_bytes: int
    chunk_bytes: int
    raw_digest: str | None
    """Of the whole file, as the writer says."""
    pack_frames: "array[int]"
    """How many frames each pack has."""
    lengths: "array[int]"
    """Stored length of each frame."""
    digests: bytes
    """sha256 of the raw content of each frame, joined."""
    frames: "array[int]"
    """For each chunk the number of its frame plus 1, or 0: zeros."""
    _first_frames: list[int] = field(init=False, compare=False, repr=False)
    _ends: "array[int]" = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        _check_sizes(self.size_bytes, self.chunk_bytes)
        if len(self.frames) != self.count:
            raise ValueError(f"{len(self.frames)} entries for {self.count} chunks")
        if len(self.digests) != DIGEST_BYTES * len(self.lengths):
            raise ValueError("frames without digest, or digests without frame")
        if sum(self.pack_frames) != len(self.lengths) or 0 in self.pack_frames:
            raise ValueError("the packs do not have the frames that there are")
        if self.lengths and (min(self.lengths) < 1 or max(self.lengths) > self.chunk_bytes):
            raise ValueError(f"a frame is empty or longer than a chunk of {self.chunk_bytes} bytes")
        if max(self.frames) > len(self.lengths):
            raise ValueError("a chunk has a frame that does not exist")
        last = self.frames[-1]
        if last and self.lengths[last - 1] > self.length(self.count - 1):
            raise ValueError("the frame of the last chunk is longer than the chunk")
        object.__setattr__(self, "_first_frames", list(accumulate(self.pack_frames, initial=0))[:-1])
        object.__setattr__(self, "_ends", array("Q", accumulate(self.lengths, initial=0)))
        if any(self.pack_bytes(pack) > PACK_LIMIT_BYTES for pack in range(self.pack_count)):
            raise ValueError(f"a pack has more than {PACK_LIMIT_BYTES} bytes")

    # --- Chunks

    @property
    def count(self) -> int:
        return -(-self.size_bytes // self.chunk_bytes)

    def length(self, number: int) -> int:
        """Raw bytes of chunk `number`."""
        return min(self.chunk_bytes, self.size_bytes - number * self.chunk_bytes)

    def is_zero(self, number: int) -> bool:
        return not self.frames[number]

    def digest(self, number: int) -> bytes:
        """The sha256 of chunk `number`."""
        frame = self.frames[number]
        if not frame:
            return zero_digest(self.length(number))
        return self.digests[(frame - 1) * DIGEST_BYTES : frame * DIGEST_BYTES]

    def location(self, number: int) -> Location:
        """Where the frame of chunk `number` lies.

        Raises:
            KeyError: the chunk is zeros, nothing is stored of it.
        """
        frame = self.frames[number] - 1
        if frame < 0:
            raise KeyError(number)
        pack = bisect_right(self._first_frames, frame) - 1
        return Location(pack, self._ends[frame] - self._ends[self._first_frames[pack]], self.lengths[frame])

    @property
    def data_bytes(self) -> int:
        """Raw bytes of the chunks that are not zeros: what the file takes of a volume, at most."""
        stored = self.count - self.frames.count(0)
        missing = self.count * self.chunk_bytes - self.size_bytes if self.frames[-1] else 0
        return stored * self.chunk_bytes - missing

    def chunk_list(self) -> ChunkList:
        """The digests of all chunks, those of zeros included."""
        return ChunkList(self.size_bytes, self.chunk_bytes, bytes(self._all_digests()))

    def _all_digests(self) -> bytearray:
        digests = bytearray(zero_digest(self.chunk_bytes) * self.count)
        digests[-DIGEST_BYTES:] = zero_digest(self.length(self.count - 1))
        number, frames, count = 0, self.frames, self.count
        while number < count:
            frame, start = frames[number], number
            number += 1
            if not frame:
                continue
            while number < count and frames[number] == frame + number - start:
                number += 1
            digests[start * DIGEST_BYTES : number * DIGEST_BYTES] = self.digests[
                (frame - 1) * DIGEST_BYTES : (frame - 1 + number - start) * DIGEST_BYTES
            ]
        return digests

    # --- Packs

    @property
    def pack_count(self) -> int:
        return len(self.pack_frames)

    def pack_bytes(self, pack: int) -> int:
        first = self._first_frames[pack]
        return self._ends[first + self.pack_frames[pack]] - self._ends[first]

    def pack(self, pack: int) -> PackFrames:
        """The frames of a pack, those that no chunk uses included."""
        first = self._first_frames[pack]
        end = first + self.pack_frames[pack]
        return PackFrames(self.lengths[first:end], self.digests[first * DIGEST_BYTES : end * DIGEST_BYTES])

    # --- Documents

    @classmethod
    def build(cls, chunks: ChunkList, packs: Sequence[PackFrames], raw_digest: str | None = None) -> "ChunkIndex":
        """The index of a file whose chunks have these digests and lie in these packs. Frames may be unused.

        Raises:
            ValueError: a chunk that is not zeros is in no pack.
        """
        digests = b"".join(pack.digests for pack in packs)
        lengths = array("I")
        for pack in packs:
            lengths.extend(pack.lengths)
        index = cls(
            chunks.size_bytes,
            chunks.chunk_bytes,
            raw_digest,
            array("I", (len(pack.lengths) for pack in packs)),
            lengths,
            digests,
            _frames_of(chunks, digests),
        )
        if index._all_digests() != chunks.digests:  # digests are looked up by a part of them
            raise ValueError("a chunk is in none of the packs")
        return index

    def encode(self) -> bytes:
        """The document; equal indexes have equal bytes."""
        raw_digest = bytes.fromhex(self.raw_digest.removeprefix("sha256:")) if self.raw_digest else bytes(DIGEST_BYTES)
        header = _HEADER.pack(
            _MAGIC, _VERSION, self.chunk_bytes, self.size_bytes, self.pack_count, len(self.lengths), raw_digest
        )
        columns = (_column_bytes(self.pack_frames), _column_bytes(self.lengths), self.digests)
        return b"".join((header, *columns, _column_bytes(self.frames)))

    @classmethod
    def parse(cls, document: bytes) -> "ChunkIndex":
        """Raises ValueError: not what `encode` returns."""
        if not _HEADER.size <= len(document) <= INDEX_LIMIT_BYTES:
            raise ValueError(f"an index of {len(document)} bytes; {_HEADER.size} to {INDEX_LIMIT_BYTES} are read")
        magic, version, chunk_bytes, size_bytes, packs, frames, raw_digest = _HEADER.unpack_from(document)
        if magic != _MAGIC or version != _VERSION:
            raise ValueError(f"not an index of version {_VERSION}")
        _check_sizes(size_bytes, chunk_bytes)
        count = -(-size_bytes // chunk_bytes)
        expected = _HEADER.size + _ITEM_BYTES * (packs + frames + count) + DIGEST_BYTES * frames
        if len(document) != expected:
            raise ValueError(f"an index of {len(document)} bytes should have {expected}")
        lengths_at = _HEADER.size + _ITEM_BYTES * packs
        digests_at = lengths_at + _ITEM_BYTES * frames
        frames_at = digests_at + DIGEST_BYTES * frames
        view = memoryview(document)
        return cls(
            size_bytes,
            chunk_bytes,
            f"sha256:{raw_digest.hex()}" if any(raw_digest) else None,
            _column(view[_HEADER.size : lengths_at]),
            _column(view[lengths_at:digests_at]),
            document[digests_at:frames_at],
            _column(view[frames_at:]),
        )


def chunk_bytes_for(size_bytes: int) -> int:
    """The size of chunks that a writer takes for a file: larger ones above 128 GiB, so that the index stays small."""
    chunk_bytes = CHUNK_BYTES
    while chunk_bytes * _CHUNKS < size_bytes and chunk_bytes < CHUNK_LIMIT_BYTES:
        chunk_bytes *= 2
    return chunk_bytes


@lru_cache(maxsize=16)
def zero_digest(length: int) -> bytes:
    """The sha256 of that many zero bytes, at most a chunk."""
    return hashlib.sha256(bytes(length)).digest()


def _check_sizes(size_bytes: int, chunk_bytes: int) -> None:
    if not CHUNK_MIN_BYTES <= chunk_bytes <= CHUNK_LIMIT_BYTES or chunk_bytes & (chunk_bytes - 1):
        raise ValueError(f"chunks of {chunk_bytes} bytes: not a power of two in the limits")
    if not 0 < size_bytes < 2**63 or size_bytes > chunk_bytes * COUNT_LIMIT:
        raise ValueError(f"a file of {size_bytes} bytes in chunks of {chunk_bytes}: 1 to {COUNT_LIMIT} chunks are read")


def _column(view: memoryview) -> "array[int]":
    column = array("I")
    column.frombytes(view)
    if sys.byteorder == "big":
        column.byteswap()
    return column


def _column_bytes(column: "array[int]") -> bytes:
    if sys.byteorder == "big":
        column = column[:]
        column.byteswap()
    return column.tobytes()


def _frames_of(chunks: ChunkList, digests: bytes) -> "array[int]":
    """For each chunk the number of its frame plus 1, or 0."""
    frames = array("I", bytes(_ITEM_BYTES * chunks.count))
    frame_keys, chunk_keys = _keys(digests), _keys(chunks.digests)
    zeros = {_keys(zero_digest(length))[0] for length in (chunks.chunk_bytes, chunks.length(chunks.count - 1))}
    elsewhere, following, frame_count = array("I"), 0, len(frame_keys)
    for chunk, key in enumerate(chunk_keys):
        if following < frame_count and frame_keys[following] == key:  # most are in the order of the file
            following += 1
            frames[chunk] = following
        elif key not in zeros:
            elsewhere.append(chunk)
    # In passes, so that the dictionary has a part of the frames only.
    for remainder in range(_PASSES if elsewhere else 0):
        numbers = {key: number for number, key in enumerate(frame_keys, 1) if key % _PASSES == remainder}
        for chunk in elsewhere:
            key = chunk_keys[chunk]
            if key % _PASSES == remainder:
                frames[chunk] = numbers.get(key, 0)
    return frames


def _keys(digests: bytes) -> "array[int]":
    """The first 8 bytes of each digest."""
    return array("Q", memoryview(digests).cast("Q")[:: DIGEST_BYTES // 8])
