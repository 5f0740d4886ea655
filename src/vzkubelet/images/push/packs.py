"""A raw file as chunks in packs: hashed and compressed by threads, packed in order, so always the same way."""

import hashlib
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import zstandard

from vzkubelet.errors import Conflict
from vzkubelet.images.formats.chunk_index import PackFrames, chunk_bytes_for, zero_digest
from vzkubelet.images.formats.tree import DIGEST_BYTES, ChunkList
from vzkubelet.images.push.conveyor import in_order
from vzkubelet.images.push.sources import PIECE_BYTES, FileSource, Piece, Source, is_zero
from vzkubelet.images.push.streams import THREADS

DEFAULT_LEVEL = 1
"""Measured on shared libraries in chunks of 256 KiB: 0.312 of the size; level 3 has 0.294 at half the speed."""
LEVELS = range(1, 20)
PACK_BYTES = 16 * 1024 * 1024
"""Where a pack ends. Half of what readers expect at most: each upload that a kill cuts off loses one."""
UNUSED_LIMIT = 0.4
"""Share of a pack that a new version may leave unused; above it, what is used is packed again.

A reader fetches ranges, so unused bytes cost the registry's space only; each version packs again at most what it uses
of packs that have lost two fifths, which keeps a long line of versions below 1.7 times the space of its newest one.
"""
_KEY_BYTES = 8
Known = Callable[[bytes], bool]


@dataclass(frozen=True, slots=True)
class KnownPack:
    """A pack that the registry should have."""

    digest: str
    size_bytes: int
    frames: PackFrames
    places: tuple[str, ...] = ()
    """Repositories (``domain/path``) that it can be taken over from."""
    is_own: bool = False
    """Whether an interrupted push of this very file made it: then all of it is used."""


@dataclass(frozen=True, slots=True)
class Pack:
    """A new pack."""

    data: bytes
    frames: PackFrames


class Frames:
    """Which chunks lie in some packs. Costs about 100 bytes each."""

    def __init__(self, packs: Collection[KnownPack]) -> None:
        self._pack_of: dict[bytes, int] = {}
        for number, pack in enumerate(packs):
            for digest in _digests(pack.frames.digests):
                self._pack_of.setdefault(digest[:_KEY_BYTES], number)

    def __contains__(self, digest: bytes) -> bool:
        return digest[:_KEY_BYTES] in self._pack_of

    def pack_of(self, digest: bytes) -> int | None:
        return self._pack_of.get(digest[:_KEY_BYTES])


def worth_reusing(packs: Collection[KnownPack], chunks: ChunkList) -> list[KnownPack]:
    """Those that hold enough of what a file with these chunks needs; in their order."""
    frames = Frames(packs)
    lengths = [dict(zip(_keys(pack.frames.digests), pack.frames.lengths, strict=True)) for pack in packs]
    live = [0] * len(packs)
    for key in set(_keys(chunks.digests)):
        number = frames.pack_of(key)
        if number is not None:
            live[number] += lengths[number][key]
    return [
        pack
        for pack, live_bytes in zip(packs, live, strict=True)
        if live_bytes and (pack.is_own or live_bytes >= pack.size_bytes * (1 - UNUSED_LIMIT))
    ]


LostFrames = tuple[KnownPack, list[tuple[bytes, int, int]]]
"""A pack, and of frames in it the digest, the first byte and the end."""


def lost_frames(
    before: Collection[KnownPack], kept: Sequence[KnownPack], new: Sequence[KnownPack], chunks: ChunkList
) -> list[LostFrames]:
    """What a file with these chunks needs of the packs `before` that are not among `kept`, and is not `new` either."""
    needed = set(_keys(chunks.digests))
    needed.difference_update(*(_keys(pack.frames.digests) for pack in (*kept, *new)))
    found: list[LostFrames] = []
    kept_digests = {pack.digest for pack in kept}
    for pack in before:
        if pack.digest in kept_digests:
            continue
        frames, offset = [], 0
        for digest, length in zip(_digests(pack.frames.digests), pack.frames.lengths, strict=True):
            if digest[:_KEY_BYTES] in needed:
                needed.discard(digest[:_KEY_BYTES])
                frames.append((digest, offset, offset + length))
            offset += length
        if frames:
            found.append((pack, frames))
    return found


def first_chunks(chunks: ChunkList, packs: Sequence[KnownPack]) -> list[int]:
    """For each pack the number of the first chunk that lies in it; what none lies in comes last."""
    frames = Frames(packs)
    first = [chunks.count] * len(packs)
    for number, key in enumerate(_keys(chunks.digests)):
        pack = frames.pack_of(key)
        if pack is not None and number < first[pack]:
            first[pack] = number
    return first


class Chunking:
    """One file on its way into packs. Iterate `packs` once, then ask for `chunks`."""

    def __init__(
        self,
        source: Source,
        advance: Callable[[int], None],
        *,
        level: int | None = None,
        threads: int = THREADS,
        chunk_bytes: int | None = None,
    ) -> None:
        """`advance` hears, on some thread, of raw bytes that were read."""
        self._source = source
        self._advance = advance
        self._level = level or DEFAULT_LEVEL
        self._threads = threads
        self._local = threading.local()
        self.chunk_bytes = chunk_bytes or chunk_bytes_for(source.size_bytes)
        self.chunks: ChunkList | None = None

    def hash(self, is_wanted: Callable[[], bool]) -> ChunkList:
        """Only the digests of all chunks. Blocks; ends early, with an error, when `is_wanted` says no."""
        digests = bytearray()
        for results in self._examined(lambda _: True):
            digests += b"".join([digest for digest, _ in results])
            if not is_wanted():
                break
        return ChunkList(self._source.size_bytes, self.chunk_bytes, bytes(digests))

    def packs(self, known: Known, digests: ChunkList | None = None) -> Iterator[Pack]:
        """New packs for what `known` says is not in others. Blocks; one pass over the file.

        With `digests`, from `hash` on the same file, only what goes into the packs is read.

        Raises:
            What the source raises; Conflict: the file is not the one of `digests`.
        """
        packer = Packer()
        if digests is not None:
            assert isinstance(self._source, FileSource)
            for digest, frame in in_order(
                self._read, self._missing(digests, known), threads=self._threads, name="compress"
            ):
                yield from packer.add(digest, frame)
            self._source.check_unchanged()
            self.chunks = digests
        else:
            examined = bytearray()
            for results in self._examined(known):
                for digest, new in results:
                    examined += digest
                    if new is not None:
                        yield from packer.add(digest, new)
            self.chunks = ChunkList(self._source.size_bytes, self.chunk_bytes, bytes(examined))
        yield from packer.rest()

    def _examined(self, known: Known) -> Iterator[list[tuple[bytes, bytes | None]]]:
        """Digest of each chunk, and its frame where it is neither known nor zeros."""

        def examine(piece: Piece) -> list[tuple[bytes, bytes | None]]:
            if piece.data is None:
                return [(zero_digest(length), None) for length in _lengths(piece.size_bytes, self.chunk_bytes)]
            starts = range(0, piece.size_bytes, self.chunk_bytes)
            return [self._chunk(piece.data[start : start + self.chunk_bytes], known) for start in starts]

        return in_order(examine, self._pieces(), threads=self._threads, name=f"chunk {self._source.name}")

    def _pieces(self) -> Iterator[Piece]:
        """Pieces of at least a chunk, which is more than what a source yields only beyond 512 GiB."""
        waiting: list[Piece] = []
        for piece in self._source.pieces():
            self._advance(piece.size_bytes)
            waiting.append(piece)
            end = piece.offset + piece.size_bytes
            if end % self.chunk_bytes == 0 or end == self._source.size_bytes or self.chunk_bytes <= PIECE_BYTES:
                yield _joined(waiting)
                waiting = []

    def _missing(self, digests: ChunkList, known: Known) -> Iterator[tuple[int, bytes]]:
        """Numbers and digests of what goes into packs, each once."""
        seen: set[bytes] = set()
        for number in range(digests.count):
            digest = digests.chunk(number)
            self._advance(digests.length(number))
            if digest == zero_digest(digests.length(number)) or digest[:_KEY_BYTES] in seen or known(digest):
                continue
            seen.add(digest[:_KEY_BYTES])
            yield number, digest

    def _read(self, wanted: tuple[int, bytes]) -> tuple[bytes, bytes]:
        assert isinstance(self._source, FileSource)
        number, expected = wanted
        start = number * self.chunk_bytes
        digest, frame = self._chunk(
            self._source.read(start, min(self.chunk_bytes, self._source.size_bytes - start)), lambda _: False
        )
        if digest != expected or frame is None:
            raise Conflict(f"{self._source.name} was written to while it was read: stop its virtual machine first")
        return digest, frame

    def _chunk(self, data: bytes, known: Known) -> tuple[bytes, bytes | None]:
        if is_zero_chunk(data):
            return zero_digest(len(data)), None
        digest = hashlib.sha256(data).digest()
        return digest, None if known(digest) else self._frame(data)

    def _frame(self, data: bytes) -> bytes:
        """A chunk that is not made smaller is stored as it is."""
        if not hasattr(self._local, "compressor"):
            self._local.compressor = zstandard.ZstdCompressor(level=self._level)
        frame: bytes = self._local.compressor.compress(data)
        return frame if len(frame) < len(data) else data


class Packer:
    """Puts frames into packs in the order they come, each chunk once."""

    def __init__(self) -> None:
        self._placed: set[bytes] = set()
        self._frames: list[bytes] = []
        self._digests = bytearray()
        self._size_bytes = 0

    def add(self, digest: bytes, frame: bytes) -> Iterator[Pack]:
        key = digest[:_KEY_BYTES]
        if key in self._placed:
            return
        self._placed.add(key)
        self._frames.append(frame)
        self._digests += digest
        self._size_bytes += len(frame)
        if self._size_bytes >= PACK_BYTES:
            yield from self.rest()

    def rest(self) -> Iterator[Pack]:
        if self._frames:
            frames = PackFrames([len(frame) for frame in self._frames], bytes(self._digests))
            yield Pack(b"".join(self._frames), frames)
        self._frames, self._digests, self._size_bytes = [], bytearray(), 0


def is_zero_chunk(data: bytes) -> bool:
    if len(data) <= PIECE_BYTES:
        return is_zero(data)
    return not data[0] and not data.strip(b"\0")


def _joined(pieces: list[Piece]) -> Piece:
    if len(pieces) == 1:
        return pieces[0]
    size = sum(piece.size_bytes for piece in pieces)
    is_data = any(piece.data is not None for piece in pieces)
    return Piece(pieces[0].offset, size, b"".join([piece.content for piece in pieces]) if is_data else None)


def _lengths(size_bytes: int, chunk_bytes: int) -> list[int]:
    return [min(chunk_bytes, size_bytes - start) for start in range(0, size_bytes, chunk_bytes)]


def _digests(joined: bytes) -> Iterator[bytes]:
    return (joined[start : start + DIGEST_BYTES] for start in range(0, len(joined), DIGEST_BYTES))


def _keys(joined: bytes) -> Iterator[bytes]:
    return (joined[start : start + _KEY_BYTES] for start in range(0, len(joined), DIGEST_BYTES))
