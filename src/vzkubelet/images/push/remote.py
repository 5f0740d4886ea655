"""A raw file as it comes out of a registry, decoded and verified on the way, for a push that converts it."""

import asyncio
import concurrent.futures
import hashlib
from collections import deque
from collections.abc import AsyncGenerator, Coroutine, Generator, Iterator, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, assert_never

from vzkubelet.aio import cancel, spawn
from vzkubelet.errors import Integrity, Unavailable, Unsupported
from vzkubelet.images import frames
from vzkubelet.images.formats.artifact import Chunked, Content, Encoding, Stream, Streams
from vzkubelet.images.formats.chunk_index import ChunkIndex
from vzkubelet.images.gzip_stream import DamagedGzip, Inflater
from vzkubelet.images.push.conveyor import HashThread
from vzkubelet.images.push.sources import PIECE_BYTES, Piece, is_zero
from vzkubelet.images.ranges import RangedBlob
from vzkubelet.images.registry import Repository
from vzkubelet.model.oci import Descriptor
from vzkubelet.wire import apple_lz4

T = TypeVar("T")
_SPAN_BYTES = 4 * 1024 * 1024
"""Of a pack, asked for at once."""
_SPANS = 4
_BATCH_BYTES = 1024 * 1024


class RemoteSource:
    """A content of an image in a registry; implements `sources.Source`. Made on the event loop that does its requests,
    read on other threads."""

    is_local = False

    def __init__(self, content: Content, index: ChunkIndex | None, repository: Repository) -> None:
        """`index` is that of chunks, verified.

        Raises:
            Unsupported: the format does not say how large the file is.
        """
        if content.raw_size_bytes is None:
            raise Unsupported(
                f"{repository.name}: an image of the old Tart format does not say how large its disk is: "
                "pull it, then convert it from the store"
            )
        self.name = repository.name
        self.size_bytes = content.raw_size_bytes
        self.raw_digest = content.raw_digest if index is None else None
        self._content = content
        self._index = index
        self._repository = repository
        self._loop = asyncio.get_running_loop()
        self._interrupted = False
        self._waiting: concurrent.futures.Future[Any] | None = None
        self._live: Generator[Piece, None, None] | None = None
        self._position = 0
        self._decompressor = frames.decompressor()

    def identity(self) -> str:
        return self._content.key

    def pieces(self, start: int = 0, end: int | None = None) -> Iterator[Piece]:
        """A run that begins where the last one ended goes on with it; any other begins again at the first byte."""
        end = self.size_bytes if end is None else end
        if self._live is None or start != self._position:
            self._rewind()
            assert self._live is not None
        while self._position < end:
            piece = next(self._live, None)
            if piece is None:
                raise self._damaged(f"the content ends after {self._position} of {self.size_bytes} bytes")
            self._position += piece.size_bytes
            if piece.offset >= start:
                yield piece
        if end == self.size_bytes and next(self._live, None) is not None:  # the end is where digests are compared
            raise self._damaged(f"the content is longer than {self.size_bytes} bytes")

    def interrupt(self) -> None:
        self._interrupted = True
        waiting = self._waiting
        if waiting is not None:
            waiting.cancel()

    def close(self) -> None:
        """Blocks, but not on the event loop's thread."""
        if self._live is not None:
            self._live.close()
            self._live = None

    def _rewind(self) -> None:
        self.close()
        self._interrupted = False
        self._position = 0
        self._live = self._verified()

    # --- Decoding, on the reading thread

    def _verified(self) -> Generator[Piece, None, None]:
        """Pieces of `PIECE_BYTES`, and the comparison of the whole digest where the streams do not say it."""
        layout = self._content.layout
        is_said_by_stream = isinstance(layout, Streams) and len(layout.streams) == 1
        expected = None if is_said_by_stream else self.raw_digest
        with HashThread(f"verify {self.name}") as raw, closing(self._blocks()) as blocks:
            offset = 0
            for data in _exactly(blocks, PIECE_BYTES):
                if expected is not None:
                    raw.update(data)
                yield Piece(offset, len(data), None if is_zero(data) else data)
                offset += len(data)
            if expected is not None and (actual := raw.mark().result()) != expected:
                raise self._damaged(f"the content has digest {actual} instead of {expected}", expected, actual)

    def _blocks(self) -> Generator[bytes, None, None]:
        layout = self._content.layout
        if isinstance(layout, Chunked):
            yield from self._chunks(layout)
            return
        for stream in layout.streams:
            yield from self._decoded(stream)

    def _decoded(self, stream: Stream) -> Generator[bytes, None, None]:
        decoder, what = _decoder(stream.encoding), f"blob {stream.blobs[-1].digest}"
        size, limit = 0, stream.raw_size_bytes
        with HashThread(f"decode {self.name}") as raw:
            try:
                for encoded in self._joined(stream.blobs):
                    for data in decoder.feed(encoded):
                        raw.update(data)
                        size += len(data)
                        if limit is not None and size > limit:
                            raise self._damaged(f"{what} becomes more than {limit} bytes")
                        yield data
                decoder.finish()
            except (DamagedGzip, apple_lz4.DamagedFrame) as exc:
                raise self._damaged(f"{what}: {exc}") from exc
            if limit is not None and size != limit:
                raise self._damaged(f"{what} becomes {size} of {limit} bytes")
            actual = raw.mark().result()
            if stream.raw_digest is not None and actual != stream.raw_digest:
                raise self._damaged(f"the content of {what} has digest {actual}", stream.raw_digest, actual)

    def _joined(self, blobs: Sequence[Descriptor]) -> Generator[bytes, None, None]:
        """The bytes of blobs, each verified at its end."""
        for blob in blobs:
            with (
                HashThread(f"blob {self.name}") as hasher,
                closing(self._awaited(_batches(RangedBlob(self._repository, blob).read()))) as parts,
            ):
                for part in parts:
                    hasher.update(part)
                    yield part
                actual = hasher.mark().result()
            if actual != blob.digest:
                raise self._damaged(f"blob {blob.digest} has digest {actual}", blob.digest, actual)

    def _chunks(self, layout: Chunked) -> Generator[bytes, None, None]:
        index = self._index
        assert index is not None
        with closing(self._awaited(_fetched(self._repository, layout.packs, _spans(index)))) as fetched:
            for span, data in fetched:
                for number in range(span.first, span.first + span.count):
                    yield self._chunk(index, number, span, data)

    def _chunk(self, index: ChunkIndex, number: int, span: "_Span", data: memoryview) -> bytes:
        length = index.length(number)
        if span.pack is None:
            return bytes(length)
        _, offset, stored = index.location(number)
        frame = data[offset - span.start : offset - span.start + stored]
        try:
            chunk = frames.expanded(frame, length, self._decompressor)
        except frames.DamagedFrame as exc:
            raise self._damaged(f"chunk {number} {exc}") from exc
        if hashlib.sha256(chunk).digest() != index.digest(number):
            raise self._damaged(f"chunk {number} has another digest than its index says")
        return chunk

    def _damaged(self, what: str, expected: str = "", actual: str = "") -> Integrity:
        message = f"{self.name}: {what}: damaged in the registry or on the way"
        return Integrity(message, expected=expected, actual=actual)

    # --- The event loop, from the reading thread

    def _awaited(self, items: AsyncGenerator[T, None]) -> Generator[T, None, None]:
        """What an asynchronous generator yields; it runs on the loop."""

        async def following() -> list[T]:
            async for item in items:
                return [item]
            return []

        try:
            while found := self._wait(following()):
                yield found[0]
        finally:
            asyncio.run_coroutine_threadsafe(items.aclose(), self._loop).result()

    def _wait(self, request: Coroutine[Any, Any, T]) -> T:
        waiting = asyncio.run_coroutine_threadsafe(request, self._loop)
        self._waiting = waiting
        if self._interrupted:
            waiting.cancel()
        try:
            return waiting.result()
        except concurrent.futures.CancelledError as exc:
            raise Unavailable(f"{self.name}: reading was interrupted") from exc


class _Decoder(Protocol):
    def feed(self, data: bytes) -> Iterator[bytes]: ...

    def finish(self) -> None: ...


class _AsItIs:
    def feed(self, data: bytes) -> Iterator[bytes]:
        yield data

    def finish(self) -> None:
        """Any end is a good one."""


def _decoder(encoding: Encoding) -> _Decoder:
    match encoding:
        case Encoding.GZIP:
            return Inflater(PIECE_BYTES)
        case Encoding.APPLE_LZ4:
            return apple_lz4.Decoder(PIECE_BYTES)
        case Encoding.IDENTITY:
            return _AsItIs()
        case _:
            assert_never(encoding)


@dataclass(frozen=True, slots=True)
class _Span:
    """Chunks one after the other in the file and in a pack, or zeros (`pack` is None)."""

    first: int
    count: int
    pack: int | None
    start: int
    end: int


def _spans(index: ChunkIndex) -> Iterator[_Span]:
    """All chunks in the order of the file."""
    number = 0
    while number < index.count:
        first = number
        if index.is_zero(number):
            while number < index.count and index.is_zero(number) and (number - first) * index.chunk_bytes < _SPAN_BYTES:
                number += 1
            yield _Span(first, number - first, None, 0, 0)
            continue
        pack, start, length = index.location(number)
        end = start + length
        number += 1
        while number < index.count and end - start < _SPAN_BYTES and not index.is_zero(number):
            next_pack, next_start, length = index.location(number)
            if (next_pack, next_start) != (pack, end):
                break
            end += length
            number += 1
        yield _Span(first, number - first, pack, start, end)


async def _fetched(
    repository: Repository, packs: Sequence[Descriptor], spans: Iterator[_Span]
) -> AsyncGenerator[tuple[_Span, memoryview], None]:
    """Spans with their bytes, in order, some of them on their way ahead."""
    ahead: deque[tuple[_Span, asyncio.Task[bytes] | None]] = deque()
    try:
        for span in spans:
            task = None
            if span.pack is not None:
                blob = RangedBlob(repository, packs[span.pack])
                task = spawn(blob.fetch(span.start, span.end), name="fetch chunks", on_crash=lambda _: None)
            ahead.append((span, task))
            if len(ahead) > _SPANS:
                yield await _first(ahead)
        while ahead:
            yield await _first(ahead)
    finally:
        await cancel(*[task for _, task in ahead])


async def _first(ahead: "deque[tuple[_Span, asyncio.Task[bytes] | None]]") -> tuple[_Span, memoryview]:
    span, task = ahead[0]
    data = memoryview(b"" if task is None else await task)
    ahead.popleft()
    return span, data


async def _batches(pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """Pieces joined, so that few of them have to change threads."""
    waiting: list[bytes] = []
    size = 0
    async with aclosing(pieces):
        async for piece in pieces:
            waiting.append(piece)
            size += len(piece)
            if size >= _BATCH_BYTES:
                yield b"".join(waiting)
                waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)


def _exactly(blocks: Iterator[bytes], size_bytes: int) -> Iterator[bytes]:
    """The same bytes in blocks of this size, the last one shorter."""
    waiting: list[bytes] = []
    size = 0
    for block in blocks:
        position = 0
        while position < len(block):
            part = block[position : position + size_bytes - size]
            position += len(part)
            size += len(part)
            waiting.append(part)
            if size == size_bytes:
                yield waiting[0] if len(waiting) == 1 else b"".join(waiting)
                waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)
