"""Parts of a blob, several at the same time, each tried again until it is there.

Every range is closed, however the server advertises them. A range that fails is asked for again from where it broke
off, after an exponentially growing, jittered delay and with a fresh redirect; it gives up after `Patience.attempts`
failures without a byte in between. What no other try can mend (NotFound, Unauthenticated, Forbidden, a blob of another
size) fails at once. A server that answers with the whole blob is then read as one plain stream.

Runs on the caller's event loop, and needs no other: see `RangedBlob`.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable
from contextlib import AbstractAsyncContextManager, aclosing

from vzkubelet.aio import cancel, spawn
from vzkubelet.errors import Integrity, Unavailable
from vzkubelet.images.blobs import BlobRange
from vzkubelet.images.formats.artifact import PULL_REASON
from vzkubelet.images.patience import Patience, Tries
from vzkubelet.images.rate import RateLimit
from vzkubelet.images.registry import Repository
from vzkubelet.model.oci import Descriptor

WINDOW_BYTES = 8 * 1024 * 1024
"""What one `read` has asked for by several ranges and not yet handed on: what a kill loses, and what it holds."""
_STREAM_BYTES_PER_S = 8 * 1024 * 1024
"""What one stream is good for: a rate limit of less needs no second one."""
_SLOW_BYTES_PER_S = 16 * 1024
_SLOW_AFTER_S = 20.0
"""A connection that brings less than that over this time is given up: the next one may lead elsewhere."""


class RangedBlob:
    """A blob of `repository`. Cheap to make; belongs to one event loop; may be used by several tasks at once.

    The bytes come through the caller's loop: 0.35 s of CPU per GiB, 1.1 s with TLS, in steps of some 0.1 ms. Threads
    with blocking sockets took 0.28 and 0.95 s, so a loop of its own is not worth it.

    Few long requests are cheap and many short ones are not: each costs Distribution 3 to 4 ms of CPU, for it reads
    4 MiB of the file whatever was asked for. What lies close together is better read than fetched.
    """

    def __init__(
        self,
        repository: Repository,
        descriptor: Descriptor,
        *,
        concurrency: int = 8,
        limit: RateLimit | None = None,
        patience: Patience | None = None,
    ) -> None:
        """`concurrency` is of each `read`; whoever calls `fetch` several times at once has a bound of its own.

        `limit` takes turns between repositories, that is, between pulls.
        """
        self._repository = repository
        self._blobs = repository.blobs
        self._descriptor = descriptor
        self._limit = limit or RateLimit(0)
        self._patience = patience or repository.patience
        if self._limit.bytes_per_s:
            concurrency = min(concurrency, self._limit.bytes_per_s // _STREAM_BYTES_PER_S)
        self._concurrency = max(1, concurrency)

    async def read(self, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        """The bytes from `start` up to and without `end` (None = the blob's end), in order, in pieces of any size.

        By one range after the other, or by several at a time: whatever turns out to be faster. At most `WINDOW_BYTES`
        are on the way or waiting for the consumer (of one range, what the socket holds: 6 MiB). Nothing is verified
        but the size. Consume it with
        ``contextlib.aclosing``: closing it ends what is on the way.

        Raises:
            NotFound, Unauthenticated, Forbidden, Unavailable; Integrity: the blob is longer or shorter than described.
        """
        end = self._descriptor.size if end is None else end
        pace = self._blobs.pace
        position = start
        while position < end:
            waiting, begun_s, begun_at = _Stopwatch(), _now_s(), position
            round_end = min(end, position + pace.round_bytes)
            several = pace.is_several and self._concurrency > 1 and not self._blobs.is_rangeless
            pieces = self._several(position, round_end) if several else self._one(position, round_end, end)
            async with aclosing(pieces):
                while piece := await waiting.timed(anext(pieces, b"")):
                    position += len(piece)
                    yield piece
            if self._concurrency > 1:
                pace.measured(position - begun_at, _now_s() - begun_s, waiting.total_s, several=several)

    async def fetch(self, start: int, end: int) -> bytes:
        """The bytes from `start` up to and without `end`, by one range; for a moment they are held in memory twice.

        Raises:
            As `read`.
        """
        async with aclosing(self._one(start, end, end)) as pieces:
            return b"".join([piece async for piece in pieces])

    # --- Ranges

    async def _one(self, position: int, end: int, whole_end: int | None) -> AsyncGenerator[bytes, None]:
        """By one request at a time. From a server that sends the whole blob instead, up to `whole_end`, or nothing."""
        tries = Tries(self._patience, self._blobs.progress)
        while position < end:
            try:
                async with self._asked(position, end) as answer:
                    if answer.is_whole:
                        if whole_end is not None:
                            end = whole_end
                        elif self._blobs.is_rangeless:
                            return
                    async with aclosing(self._pieces(answer, position, end)) as pieces:
                        async for piece in pieces:
                            position += len(piece)
                            tries.progressed(len(piece))
                            yield piece
            except Unavailable as exc:
                await tries.failed(exc)

    async def _several(self, start: int, end: int) -> AsyncGenerator[bytes, None]:
        """By several ranges at a time, in order; ends early when the server turns out not to know ranges."""
        parts: deque[_Part] = deque()
        size = max(1, WINDOW_BYTES // self._concurrency)
        try:
            while parts or start < end:
                while len(parts) < self._concurrency and start < end:
                    parts.append(self._start(start, min(end, start + size)))
                    start = parts[-1].end
                head = parts[0]
                if head.pieces:
                    yield head.pieces.popleft()
                elif head.position == head.end:
                    parts.popleft()
                elif head.task is not None and head.task.done():
                    head.task.result()
                    return  # without ranges
                else:
                    await head.changed()
        finally:
            await cancel(*[part.task for part in parts])

    def _start(self, start: int, end: int) -> "_Part":
        part = _Part(start, end)
        part.task = spawn(
            self._fill(part),
            name=f"bytes {start}-{end} of {self._descriptor.digest}",
            on_crash=lambda _: None,  # whoever reads gets it
        )
        part.task.add_done_callback(lambda _: part.wake())
        return part

    async def _fill(self, part: "_Part") -> None:
        async with aclosing(self._one(part.position, part.end, None)) as pieces:
            async for piece in pieces:
                part.add(piece)

    # --- One answer

    def _asked(self, start: int, end: int) -> AbstractAsyncContextManager[BlobRange]:
        return self._blobs.range(self._descriptor, start, end, read_timeout_s=self._patience.read_timeout_s)

    async def _pieces(self, answer: BlobRange, start: int, end: int) -> AsyncGenerator[bytes, None]:
        """What `answer` has of the bytes from `start` to `end`.

        Raises:
            Unavailable: it ends before, breaks off or is too slow. Integrity: the blob goes on after its end.
        """
        position = answer.start
        waiting = _Stopwatch()
        while chunk := await waiting.timed(anext(answer.chunks, b"")):
            if waiting.total_s > _SLOW_AFTER_S and position - answer.start < waiting.total_s * _SLOW_BYTES_PER_S:
                raise self._broken(f"comes with less than {_SLOW_BYTES_PER_S} bytes per second")
            await self._limit.take(len(chunk), id(self._blobs))
            piece = chunk
            if position < start or position + len(chunk) > end:
                piece = chunk[max(0, start - position) : max(0, end - position)]
            position += len(chunk)
            if answer.is_whole and position > self._descriptor.size:
                raise self._too_long()
            if piece:
                yield piece
            if position >= end and not (answer.is_whole and end == self._descriptor.size):
                return
        if position < end:
            raise self._broken(f"broke off after {position} of {self._descriptor.size} bytes")

    def _broken(self, what: str) -> Unavailable:
        return Unavailable(f"{self._repository.name}: blob {self._descriptor.digest} {what}", reason=PULL_REASON)

    def _too_long(self) -> Integrity:
        what = f"blob {self._descriptor.digest} is longer than its {self._descriptor.size} bytes"
        return Integrity(f"{self._repository.name}: {what}: damaged in the registry or on the way", reason=PULL_REASON)


def _now_s() -> float:
    return asyncio.get_running_loop().time()


class _Stopwatch:
    """Adds up how long it took to get things."""

    def __init__(self) -> None:
        self.total_s = 0.0

    async def timed(self, wanted: Awaitable[bytes]) -> bytes:
        begun_s = _now_s()
        try:
            return await wanted
        finally:
            self.total_s += _now_s() - begun_s


class _Part:
    """A range on its way: filled by one task, taken from by another."""

    def __init__(self, start: int, end: int) -> None:
        self.position = start
        """Up to where it has come."""
        self.end = end
        self.pieces: deque[bytes] = deque()
        self.task: asyncio.Task[None] | None = None
        self._wakeup = asyncio.Event()

    def add(self, piece: bytes) -> None:
        self.pieces.append(piece)
        self.position += len(piece)
        self._wakeup.set()

    def wake(self) -> None:
        self._wakeup.set()

    async def changed(self) -> None:
        await self._wakeup.wait()
        self._wakeup.clear()
