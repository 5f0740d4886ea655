"""A content of streams: one for agoda's disks, one for each 512 MiB of tart's, gone on with where a kill ended it."""

import asyncio
import functools
import hashlib
import logging
import os
from collections import deque
from collections.abc import Coroutine, Sequence
from contextlib import aclosing

from vzkubelet.aio import cancel, spawn, uninterrupted
from vzkubelet.errors import Integrity
from vzkubelet.images.formats.artifact import Content, Encoding, Stream, Streams, invalid_image
from vzkubelet.images.pull import resumption
from vzkubelet.images.pull.blocking import Stop, to_end
from vzkubelet.images.pull.delta import Base
from vzkubelet.images.pull.journal import Advanced, Journal
from vzkubelet.images.pull.ledger import Kept, Ledger
from vzkubelet.images.pull.place import Moved, Place
from vzkubelet.images.pull.source import Source
from vzkubelet.images.pull.stream import Begin, StreamMove
from vzkubelet.images.pull.writer import RawFile
from vzkubelet.images.records import ContentRecord
from vzkubelet.images.staging import Staging
from vzkubelet.images.verification import extents

_log = logging.getLogger(__name__)
_PARALLEL = max(2, min(4, os.cpu_count() or 2))
"""Streams of one content at the same time: each has three threads, of which decoding takes the most."""
_EXPANSION = {Encoding.IDENTITY: 1, Encoding.GZIP: 1040, Encoding.APPLE_LZ4: 300}
"""What a byte can expand to at most, rounded up: more is declared by nobody honest."""
_HASH_BYTES = 1024 * 1024


class StreamedMove:
    """Moves `content` to a staging place that its caller has locked."""

    def __init__(self, content: Content, source: Source, staging: Staging, advanced: Advanced) -> None:
        if not isinstance(content.layout, Streams):
            raise TypeError("not a content of streams")
        self._content = content
        self._streams: Sequence[Stream] = content.layout.streams
        self._source = source
        self._staging = staging
        self._advanced = advanced
        self._came_bytes: dict[int, int] = {}
        self._stop = Stop()

    async def run(self, base: Base | None) -> Moved:
        """Ends when all is verified and synced. What an error or a cancellation leaves can be gone on with.

        Raises:
            Integrity, InvalidInput, NotFound, Unauthenticated, Forbidden, Unavailable, OSError.
        """
        for stream in self._streams:
            self._check_expansion(stream)
        place = Place(self._staging)
        try:
            await to_end(place.open, self._content.plan)
            return await self._run(place.ledger, place.file, base)
        finally:
            await uninterrupted(to_end(place.close), name="end of a pull")

    async def _run(self, ledger: Ledger, file: RawFile, base: Base | None) -> Moved:
        kept = await to_end(self._what_is_there, ledger, file, base, stop=self._stop)
        journal = Journal(ledger, file)
        done = {number: sum(blob.size for blob in self._streams[number].blobs) for number in kept.finished}
        journal.begin({number: at.compressed_bytes for number, at in kept.checkpoints.items()} | done)
        self._came_bytes = done
        if done:
            self._came(0, 0)
        left = deque(number for number in range(len(self._streams)) if number not in kept.finished)
        digests: dict[int, tuple[str, int]] = {}

        async def work() -> None:
            while left:
                number = left.popleft()
                digests[number] = await self._move(number, kept, file, journal)

        await _all([work() for _ in range(min(_PARALLEL, len(left)))])
        moved = await to_end(self._outcome, file, digests, stop=self._stop)
        await to_end(file.sync)
        return moved

    def _outcome(self, file: RawFile, digests: dict[int, tuple[str, int]]) -> Moved:
        size_bytes = self._content.raw_size_bytes
        if len(self._streams) == 1:
            digest, size = digests.get(0) or (self._streams[0].raw_digest or "", size_bytes or 0)
            file.resize(size)
            return Moved(ContentRecord(digest, size))
        chunks = self._content.chunk_list()
        if chunks is not None:
            return Moved(ContentRecord(chunks.digest(), chunks.size_bytes), chunks.to_bytes())
        # Parts of several lengths: each was verified, and together they have the digest that they have.
        size = file.size_bytes if size_bytes is None else size_bytes
        return Moved(ContentRecord(_digest(file, 0, size, self._stop), size))

    # --- What is there

    def _what_is_there(self, ledger: Ledger, file: RawFile, base: Base | None) -> Kept:
        kept = ledger.kept
        size_bytes = self._content.raw_size_bytes
        if not kept or file.size_bytes != size_bytes:
            ledger.clear()
            file.resize(0)
            kept = ledger.kept
            if size_bytes is not None:
                file.resize(size_bytes)
            self._take_over(kept, file, base)
            ledger.renew(kept)
        elif not kept.same_boot:
            kept.finished = {number for number in kept.finished if self._is_right(number, file)}
            ledger.renew(kept)
        return kept

    def _take_over(self, kept: Kept, file: RawFile, base: Base | None) -> None:
        """Finish what need not be fetched: what an older version has at the same place, and zeros."""
        if len(self._streams) == 1:
            return
        for number, stream in enumerate(self._streams):
            if stream.raw_digest is not None and stream.raw_digest == _digest_of_zeros(stream.raw_size_bytes or 0):
                kept.finished.add(number)
        chunks = self._content.chunk_list()
        if base is not None and chunks is not None:
            for first, count in base.take_over(chunks, file, self._stop):
                kept.finished.update(range(first, first + count))
            file.sync()

    def _is_right(self, number: int, file: RawFile) -> bool:
        """Whether a stream that an earlier boot finished has reached the disk."""
        stream = self._streams[number]
        end = stream.offset + (stream.raw_size_bytes or 0)
        return _digest(file, stream.offset, end, self._stop) == stream.raw_digest

    # --- One stream

    async def _move(self, number: int, kept: Kept, file: RawFile, journal: Journal) -> tuple[str, int]:
        stream = self._streams[number]
        at = kept.checkpoints.get(number, resumption.START)
        begin = await resumption.begin(stream, at, file, self._source)
        if begin.at != resumption.START:
            try:
                return await self._move_from(begin, number, file, journal)
            except Integrity as exc:
                # What was kept may be at fault: the stream is right when it comes as a whole.
                _log.warning("%s; fetching it anew", exc)
        await to_end(journal.forget, number)
        return await self._move_from(resumption.anew(stream), number, file, journal)

    async def _move_from(self, begin: Begin, number: int, file: RawFile, journal: Journal) -> tuple[str, int]:
        stream = self._streams[number]
        start = stream.offset + begin.at.raw_bytes
        end = file.size_bytes if stream.raw_size_bytes is None else stream.offset + stream.raw_size_bytes
        await to_end(file.clear, start, end)
        self._came_bytes[number] = begin.at.compressed_bytes
        move = StreamMove(stream, number, begin, file, journal, self._source.name)
        async with aclosing(self._source.read(stream.blobs, begin.at.compressed_bytes, self._concurrency)) as pieces:
            outcome = await move.run(pieces, functools.partial(self._came, number))
        if stream.raw_digest is not None:
            await to_end(journal.finished, number, sum(blob.size for blob in stream.blobs))
        return outcome

    @property
    def _concurrency(self) -> int:
        parallel = min(_PARALLEL, len(self._streams))
        return max(1, self._source.concurrency // parallel)

    def _came(self, number: int, size_bytes: int) -> None:
        self._came_bytes[number] = self._came_bytes.get(number, 0) + size_bytes
        self._advanced(sum(self._came_bytes.values()))

    def _check_expansion(self, stream: Stream) -> None:
        blob_bytes = sum(blob.size for blob in stream.blobs)
        limit_bytes = (blob_bytes + 1) * _EXPANSION[stream.encoding]
        if stream.raw_size_bytes is not None and stream.raw_size_bytes > limit_bytes:
            raise invalid_image(
                f"{self._source.name}: blob {stream.blobs[0].digest} of {blob_bytes} bytes cannot expand to "
                f"{stream.raw_size_bytes} bytes"
            )


async def _all(works: Sequence[Coroutine[object, object, None]]) -> None:
    """Run all side by side; the first failure ends the others and is raised."""
    tasks = [spawn(work, name="streams of a pull", on_crash=lambda _: None) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        await uninterrupted(cancel(*tasks), name="end of streams")


def _digest(file: RawFile, start: int, end: int, stop: Stop) -> str:
    """sha256 of a range, as it is on the disk. Raises: Stopped."""
    hasher = hashlib.sha256()
    for extent in extents(file.path, end, start=start):
        stop.check()
        if extent.data is not None:
            hasher.update(extent.data)
        else:
            _hash_zeros(hasher, extent.length)
    return f"sha256:{hasher.hexdigest()}"


@functools.lru_cache(maxsize=8)
def _digest_of_zeros(length: int) -> str:
    hasher = hashlib.sha256()
    _hash_zeros(hasher, length)
    return f"sha256:{hasher.hexdigest()}"


def _hash_zeros(hasher: "hashlib._Hash", length: int) -> None:
    zeros = bytes(_HASH_BYTES)
    for done in range(0, length, _HASH_BYTES):
        hasher.update(memoryview(zeros)[: length - done])
