"""Runs of raw files as compressed streams: one pass, several threads, and the digests of both sides."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, Protocol, TypeVar

from vzkubelet.images import gzip_encoder
from vzkubelet.images.push.conveyor import HashThread, in_order
from vzkubelet.images.push.sources import Piece, Source
from vzkubelet.wire import apple_lz4

E = TypeVar("E")
THREADS = min(8, os.cpu_count() or 1)
"""That compress; sha256 of a whole file has one thread only, and more compressors than this wait for it."""
PART_BYTES = 16 * 1024 * 1024
"""What is sent at once: bounds what waits in memory. With half of it a registry needs 1.4 times as long."""
PREFIX_BYTES = 64 * 1024 * 1024
"""A digest of all raw bytes so far is kept at multiples of this; see `history`."""

_LZ4_END = apple_lz4.encode(b"")


@dataclass(frozen=True, slots=True)
class Part:
    """A run of the compressed stream; `end` is the stream's length and `digest` its sha256, both with this part."""

    data: bytes
    end: int
    digest: Future[str]


@dataclass(frozen=True, slots=True)
class Compressed:
    """A stream that was compressed to its end."""

    digest: str
    size_bytes: int
    raw_digest: str
    raw_size_bytes: int
    prefixes: tuple[str, ...] = ()
    """Digests of the raw bytes up to each multiple of `PREFIX_BYTES`."""


class Codec(Protocol[E]):
    """Compresses pieces, on any thread, and joins them in order."""

    name: str
    """Equal for what gives equal output."""

    def encode(self, piece: Piece) -> E: ...

    def join(self, encoded: Iterator[E]) -> Iterator[bytes]: ...


class Gzip:
    """One gzip member; implements `Codec`."""

    def __init__(self, level: int | None = None) -> None:
        self._level = level or gzip_encoder.DEFAULT_LEVEL
        self.name = f"gzip-{self._level}"

    def encode(self, piece: Piece) -> gzip_encoder.Deflated:
        if piece.data is None:
            return gzip_encoder.deflate_zeros(piece.size_bytes)
        return gzip_encoder.deflate(piece.data, self._level)

    def join(self, encoded: Iterator[gzip_encoder.Deflated]) -> Iterator[bytes]:
        member = gzip_encoder.Member()
        yield member.header
        yield from map(member.add, encoded)
        yield member.finish()


class AppleLz4:
    """One frame of Apple's LZ4: its blocks are independent, and pieces are multiples of them. Implements `Codec`."""

    name = "apple-lz4"

    def encode(self, piece: Piece) -> bytes:
        if piece.data is None:
            return _lz4_zeros(piece.size_bytes)
        return apple_lz4.encode(piece.data)[: -len(_LZ4_END)]

    def join(self, encoded: Iterator[bytes]) -> Iterator[bytes]:
        yield from encoded
        yield _LZ4_END


class Identity:
    """The bytes as they are; implements `Codec`."""

    name = "identity"

    def encode(self, piece: Piece) -> bytes:
        return piece.content

    def join(self, encoded: Iterator[bytes]) -> Iterator[bytes]:
        return encoded


class Compression(Generic[E]):
    """A run of a source on its way: iterate `parts` once, then ask for `compressed`."""

    def __init__(
        self,
        source: Source,
        codec: Codec[E],
        advance: Callable[[int], None],
        *,
        start: int = 0,
        end: int | None = None,
        threads: int = THREADS,
    ) -> None:
        """`advance` hears, on some thread, of raw bytes that were read."""
        self._source = source
        self._codec = codec
        self._advance = advance
        self._start = start
        self._end = source.size_bytes if end is None else end
        self._threads = threads
        self.compressed: Compressed | None = None

    def parts(self) -> Iterator[Part]:
        """Parts of about `PART_BYTES`, the last one shorter. Blocks.

        Raises:
            What the source raises.
        """
        name = f"compress {self._source.name}"
        with HashThread(f"raw {name}") as raw, HashThread(f"blob {name}") as blob:
            prefixes: list[Future[str]] = []
            encoded = in_order(self._codec.encode, self._hashed(raw, prefixes), threads=self._threads, name=name)
            end = 0
            for data in _batches(self._codec.join(encoded)):
                blob.update(data)
                end += len(data)
                yield Part(data, end, blob.mark())
            self.compressed = Compressed(
                blob.mark().result(),
                end,
                raw.mark().result(),
                self._end - self._start,
                tuple(prefix.result() for prefix in prefixes),
            )

    def _hashed(self, raw: HashThread, prefixes: "list[Future[str]]") -> Iterator[Piece]:
        for piece in self._source.pieces(self._start, self._end):
            raw.update(piece.content)
            done = piece.offset + piece.size_bytes - self._start
            if done % PREFIX_BYTES == 0:
                prefixes.append(raw.mark())
            self._advance(piece.size_bytes)
            yield piece


def raw_digest(
    source: Source,
    start: int,
    end: int,
    go_on: Callable[[int, str], bool],
    advance: Callable[[int], None] = lambda _: None,
) -> str | None:
    """Hash a run without compressing it, as long as `go_on` wants it.

    `go_on` hears, for each `PREFIX_BYTES`, their number and the digest of all up to their end.

    Returns the digest; None when it was given up. Blocks.
    """
    with HashThread(f"hash {source.name}") as raw:
        for piece in source.pieces(start, end):
            raw.update(piece.content)
            advance(piece.size_bytes)
            number, rest = divmod(piece.offset + piece.size_bytes - start, PREFIX_BYTES)
            if not rest and not go_on(number - 1, raw.mark().result()):
                return None
        return raw.mark().result()


def _batches(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Joined to about `PART_BYTES`, always at the same places."""
    waiting: list[bytes] = []
    size = 0
    for chunk in chunks:
        waiting.append(chunk)
        size += len(chunk)
        if size >= PART_BYTES:
            yield b"".join(waiting)
            waiting, size = [], 0
    if size:
        yield b"".join(waiting)


@lru_cache(maxsize=8)
def _lz4_zeros(size_bytes: int) -> bytes:
    return apple_lz4.encode(bytes(size_bytes))[: -len(_LZ4_END)]
