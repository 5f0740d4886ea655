"""A content of chunks in packs: what is missing is fetched in many places at once, each chunk verified by itself.

event loop: ranges of packs, several at a time -> threads: zstd or nothing -> sha256 of the chunk -> write

The packs' own digests are not looked at: the index is verified, and it has a digest for every chunk of the file, zeros
included. What else lies in a pack is not used.
"""

import asyncio
import hashlib
import logging
import os
import queue
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing

import zstandard

from vzkubelet import files
from vzkubelet.aio import BlockingPool, cancel, run_blocking, spawn, uninterrupted
from vzkubelet.errors import Integrity
from vzkubelet.images import frames
from vzkubelet.images.formats import chunked
from vzkubelet.images.formats.artifact import PULL_REASON, Chunked, Content
from vzkubelet.images.formats.chunk_index import ChunkIndex
from vzkubelet.images.formats.tree import DIGEST_BYTES
from vzkubelet.images.pull.blocking import Stop, to_end
from vzkubelet.images.pull.delta import Base, Runs, gaps, joined
from vzkubelet.images.pull.journal import Advanced, Journal
from vzkubelet.images.pull.ledger import Kept, Ledger
from vzkubelet.images.pull.place import Moved, Place
from vzkubelet.images.pull.source import Source
from vzkubelet.images.pull.spans import GAP_BYTES, Piece, Span, spans, stored_bytes
from vzkubelet.images.pull.writer import RawFile, Writer
from vzkubelet.images.records import ContentRecord
from vzkubelet.images.staging import Staging
from vzkubelet.images.verification import Chunker, extents

_log = logging.getLogger(__name__)
_WORKERS = max(4, min(8, os.cpu_count() or 4))
"""Each waits for the disk part of its time."""
_SPANS_AHEAD = 2
"""Spans that wait for a thread: enough that none is ever idle, and little that a kill loses."""
_READERS = 2
"""Ranges that are read at the same time at first. Near a registry more bring nothing and hold more in the air; where
bytes come slowly, and threads hardly ever let a reader wait, readers are added up to the source's concurrency."""
_FAST_BYTES_PER_S = 150 * 1024 * 1024
_HELD_UP_SHARE = 0.1
_GROUP_BYTES = 16 * 1024 * 1024
"""Longest range of one reader: Distribution's registry takes 3 to 4 ms for each, whatever its length."""


async def read_index(content: Content, source: Source, staging: Staging) -> ChunkIndex:
    """The index of a content, verified; kept in the staging place for whoever goes on.

    Raises:
        InvalidInput, Integrity, NotFound, Unauthenticated, Forbidden, Unavailable.
    """
    assert isinstance(content.layout, Chunked)
    described, path = content.layout.index, staging.directory / "index"
    document = await run_blocking(files.read_if_present, path)
    if document is None or f"sha256:{hashlib.sha256(document).hexdigest()}" != described.digest:
        document = await source.repository.document(described)
        await run_blocking(files.write_atomic, path, document)
    return await run_blocking(chunked.read_index, content, document, source.name)


class ChunkedMove:
    """Moves the chunks of `index` to a staging place that its caller has locked."""

    def __init__(self, content: Content, index: ChunkIndex, source: Source, staging: Staging, advanced: Advanced):
        if not isinstance(content.layout, Chunked):
            raise TypeError("not a content of chunks")
        self._content = content
        self._layout = content.layout
        self._index = index
        self._source = source
        self._staging = staging
        self._advanced = advanced
        self._done_bytes = 0
        self._stop = Stop()
        self._held_up_s = 0.0
        """What readers have waited for threads, all together."""

    async def run(self, base: Base | None) -> Moved:
        """Ends when all is verified and synced. What an error or a cancellation leaves can be gone on with.

        Raises:
            Integrity, NotFound, Unauthenticated, Forbidden, Unavailable, OSError.
        """
        place = Place(self._staging)
        try:
            await to_end(place.open, self._content.plan)
            file, journal = place.file, Journal(place.ledger, place.file)
            missing = await to_end(self._what_is_missing, place.ledger, file, base, stop=self._stop)
            needed_bytes = await run_blocking(stored_bytes, self._index, missing)
            self._came(self._content.blob_bytes - needed_bytes)
            journal.begin({}, self._done_bytes)
            await self._fetch(missing, file, journal)
            await to_end(file.sync)
            chunks = await run_blocking(self._index.chunk_list)
            digest = await run_blocking(chunks.digest)
            return Moved(ContentRecord(digest, self._index.size_bytes), await run_blocking(chunks.to_bytes))
        finally:
            await uninterrupted(to_end(place.close), name="end of a pull")

    # --- What is there

    def _what_is_missing(self, ledger: Ledger, file: RawFile, base: Base | None) -> list[int]:
        """Have what is there in its place, and everything else zeros; the chunks that are missing. Raises: Stopped."""
        kept, index = ledger.kept, self._index
        if not kept or file.size_bytes != index.size_bytes:
            ledger.clear()
            file.resize(0)
            file.resize(index.size_bytes)
            runs: Runs = []
            if base is not None:
                runs = base.take_over(index.chunk_list(), file, self._stop)
                file.sync()
            ledger.renew(Kept(chunks=runs))
        else:
            runs = joined(sorted(kept.chunks))
            if not kept.same_boot:
                runs = list(self._right(runs, file))
                ledger.renew(Kept(chunks=runs))
        missing = []
        for first, count in gaps(runs, index.count):
            file.clear(first * index.chunk_bytes, (first + count) * index.chunk_bytes)
            missing += [number for number in range(first, first + count) if index.frames[number]]
        return missing

    def _right(self, runs: Runs, file: RawFile) -> Iterator[tuple[int, int]]:
        """Of what an earlier boot recorded, the chunks that have reached the disk."""
        index = self._index
        for first, count in runs:
            start = first * index.chunk_bytes
            chunker = Chunker(index.chunk_bytes)
            for extent in extents(file.path, min(start + count * index.chunk_bytes, index.size_bytes), start=start):
                self._stop.check()
                chunker.update(extent)
            found = chunker.finish()
            for number in range(count):
                if found[number * DIGEST_BYTES : (number + 1) * DIGEST_BYTES] == index.digest(first + number):
                    yield first + number, 1

    # --- What is fetched

    async def _fetch(self, missing: list[int], file: RawFile, journal: Journal) -> None:
        desk = _Desk(self._index, file, journal, self._damaged)
        pool = BlockingPool("pull", _WORKERS)
        storing = asyncio.Semaphore(_WORKERS + _SPANS_AHEAD)
        readers: set[asyncio.Task[None]] = set()
        began_s, began_at = time.monotonic(), self._done_bytes

        async def read(group: list[Span]) -> None:
            await self._read(group, desk, pool, storing)

        try:
            groups = await run_blocking(_Groups, spans(self._index, missing))  # it sorts them all
            wanted = min(_READERS, self._source.concurrency)
            while True:
                while len(readers) < wanted and (group := groups.take()) is not None:
                    readers.add(spawn(read(group), name="a range of a pull", on_crash=lambda _: None))
                if not readers:
                    break
                done, readers = await asyncio.wait(readers, return_when=asyncio.FIRST_COMPLETED)
                for reader in done:
                    reader.result()
                elapsed_s = max(time.monotonic() - began_s, 1e-6)
                is_slow = self._done_bytes - began_at < elapsed_s * _FAST_BYTES_PER_S
                if is_slow and self._held_up_s < elapsed_s * _HELD_UP_SHARE and wanted < self._source.concurrency:
                    wanted += 1
        finally:
            await uninterrupted(cancel(*readers), name="end of ranges")
            # What is being written is written: a thread cannot be stopped, and its file is closed next.
            await uninterrupted(run_blocking(pool.close), name="end of chunks")
            desk.close()

    async def _read(self, group: list[Span], desk: "_Desk", pool: BlockingPool, storing: asyncio.Semaphore) -> None:
        """Read a row of spans as one range, and hand each to a thread as soon as it is complete."""
        stores: list[asyncio.Task[None]] = []
        left = deque(group)
        blob = self._source.blob(self._layout.packs[group[0].pack], 1)
        position, parts, size = group[0].start, list[bytes | memoryview](), 0
        try:
            async with aclosing(blob.read(position, group[-1].end)) as pieces:
                async for piece in pieces:
                    parts.append(piece)
                    size += len(piece)
                    while left and position + size >= left[0].end:
                        span = left.popleft()
                        waiting_since_s = time.monotonic()
                        await storing.acquire()
                        self._held_up_s += time.monotonic() - waiting_since_s
                        stores.append(
                            spawn(
                                self._store(span, parts, position, desk, pool, storing),
                                name="chunks of a pull",
                                on_crash=lambda _: None,
                            )
                        )
                        # Joining them is for the thread; the loop copies nothing.
                        rest = position + size - span.end
                        parts = [memoryview(parts[-1])[len(parts[-1]) - rest :]] if rest else []
                        position, size = span.end, rest
                        _raise_first(stores)
            await asyncio.gather(*stores)
        finally:
            await uninterrupted(cancel(*stores), name="end of chunks of a range")

    async def _store(
        self,
        span: Span,
        parts: list[bytes | memoryview],
        position: int,
        desk: "_Desk",
        pool: BlockingPool,
        storing: asyncio.Semaphore,
    ) -> None:
        """`parts` begin at `position` of the pack."""
        try:
            try:
                await pool.run(desk.store, span, parts, span.start - position)
            except Integrity as exc:
                _log.warning("%s; fetching it again", exc)
                data = await self._source.blob(self._layout.packs[span.pack]).fetch(span.start, span.end)
                await pool.run(desk.store, span, [data], 0)
        finally:
            storing.release()
        self._came(sum(_distinct(span.pieces)))

    def _came(self, size_bytes: int) -> None:
        self._done_bytes += size_bytes
        self._advanced(self._done_bytes)

    def _damaged(self, piece: Piece, span: Span, why: str) -> Integrity:
        pack = self._layout.packs[span.pack]
        where = f"chunk {piece.number} at byte {span.start + piece.offset} of pack {pack.digest}"
        return Integrity(
            f"{self._source.name}: {where} {why}: damaged in the registry or on the way", reason=PULL_REASON
        )


_Damaged = Callable[[Piece, Span, str], Integrity]


class _Desk:
    """Where threads turn ranges of packs into chunks of the file."""

    def __init__(self, index: ChunkIndex, file: RawFile, journal: Journal, damaged: _Damaged) -> None:
        self._index = index
        self._file = file
        self._journal = journal
        self._damaged = damaged
        self._idle: queue.SimpleQueue[tuple[Writer, zstandard.ZstdDecompressor]] = queue.SimpleQueue()
        self._writers: list[Writer] = []

    def store(self, span: Span, parts: Sequence[bytes | memoryview], start: int) -> None:
        """Verify and write the chunks of a span, which begins at `start` of the joined parts, and record them.

        Raises: Integrity, OSError.
        """
        try:
            writer, decompressor = self._idle.get_nowait()
        except queue.Empty:
            writer = Writer(self._file)
            decompressor = frames.decompressor()
            self._writers.append(writer)
        try:
            before = writer.written_bytes
            self._store(span, b"".join(parts), start, writer, decompressor)
            self._journal.wrote(writer.written_bytes - before)
        finally:
            writer.drop()
            self._idle.put((writer, decompressor))

    def _store(
        self, span: Span, data: bytes, start: int, writer: Writer, decompressor: zstandard.ZstdDecompressor
    ) -> None:
        index = self._index
        offset, chunk = -1, b""
        for piece in span.pieces:
            if piece.offset != offset:  # several chunks may be one frame
                frame = data[start + piece.offset : start + piece.offset + piece.length]
                chunk = self._decoded(piece, span, frame, decompressor)
                offset = piece.offset
            if hashlib.sha256(chunk).digest() != index.digest(piece.number):
                raise self._damaged(piece, span, "has another digest")
            position = piece.number * index.chunk_bytes
            if position != writer.position:
                writer.seek(position)
            writer.write(chunk)
        writer.flush()
        for first, count, size_bytes in _recorded(span.pieces):
            self._journal.chunks(first, count, size_bytes)

    def _decoded(self, piece: Piece, span: Span, frame: bytes, decompressor: zstandard.ZstdDecompressor) -> bytes:
        try:
            return frames.expanded(frame, self._index.length(piece.number), decompressor)
        except frames.DamagedFrame as exc:
            raise self._damaged(piece, span, str(exc)) from exc

    def close(self) -> None:
        for writer in self._writers:
            writer.close()


def _recorded(pieces: list[Piece]) -> Iterator[tuple[int, int, int]]:
    """Runs of chunks with the stored bytes they came from: (first, count, bytes)."""
    sizes = list(_distinct(pieces))
    by_number = sorted(zip((piece.number for piece in pieces), sizes, strict=True))
    first, count, total = by_number[0][0], 0, 0
    for number, size in by_number:
        if number != first + count:
            yield first, count, total
            first, count, total = number, 0, 0
        count += 1
        total += size
    yield first, count, total


def _distinct(pieces: list[Piece]) -> Iterator[int]:
    """The stored length of each piece; 0 where it is the frame of the one before."""
    offset = -1
    for piece in pieces:
        yield 0 if piece.offset == offset else piece.length
        offset = piece.offset


class _Groups:
    """Rows of spans that lie close together, as several readers take them."""

    def __init__(self, found: Iterator[Span]) -> None:
        self._found = found
        self._next = next(found, None)

    def take(self) -> list[Span] | None:
        """The next row; None when there is none."""
        group: list[Span] = []
        while self._next is not None and self._belongs(group, self._next):
            group.append(self._next)
            self._next = next(self._found, None)
        return group or None

    def _belongs(self, group: list[Span], span: Span) -> bool:
        if not group:
            return True
        first, last = group[0], group[-1]
        is_near = span.pack == last.pack and span.start - last.end <= GAP_BYTES
        return is_near and span.end - first.start <= _GROUP_BYTES


def _raise_first(tasks: list[asyncio.Task[None]]) -> None:
    """Raise the failure of a task that has failed, and forget those that are done."""
    for task in [task for task in tasks if task.done()]:
        task.result()
        tasks.remove(task)
