"""Parts of a blob, several at the same time, each tried again until it is there.

Every range is closed, however the server advertises them. A range that fails is asked for again from where it broke
off, after an exponentially growing, jittered delay and with a fresh redirect; it gives up after `Patience.attempts`
failures without a byte in between. What no other try can mend (NotFound, Unauthenticated, Forbidden, a blob of another
size) fails at once. A server that answers with the whole blob is then read as one plain stream.
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass

from vzkubelet.aio import cancel, spawn
from vzkubelet.errors import Integrity, Unavailable
from vzkubelet.images.formats.artifact import PULL_REASON
from vzkubelet.images.rate import RateLimit
from vzkubelet.images.registry import Repository
from vzkubelet.model.oci import Descriptor

_log = logging.getLogger(__name__)
WINDOW_BYTES = 8 * 1024 * 1024
"""What one `read` has asked for and not yet handed on: what a kill loses, and what it holds in memory."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How a failing range is tried again."""

    attempts: int = 5
    """In a row, without a byte of progress."""
    delay_s: float = 0.5
    """Before the second one, doubled each time, half of it by chance."""
    delay_max_s: float = 15.0


class RangedBlob:
    """A blob of `repository`. Cheap to make; belongs to one event loop; may be used by several tasks at once."""

    def __init__(
        self,
        repository: Repository,
        descriptor: Descriptor,
        *,
        concurrency: int = 8,
        limit: RateLimit | None = None,
        patience: Patience | None = None,
    ) -> None:
        """`concurrency` is of each `read`; whoever calls `fetch` several times at once has a bound of its own."""
        self._repository = repository
        self._descriptor = descriptor
        self._limit = limit or RateLimit(0)
        self._patience = patience or Patience()
        self._concurrency = max(1, concurrency)

    async def read(self, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        """The bytes from `start` up to and without `end` (None = the blob's end), in order, in pieces of any size.

        At most `WINDOW_BYTES` are on the way or waiting for the consumer. Nothing is verified but the size. Consume it
        with ``contextlib.aclosing``: closing it ends what is on the way.

        Raises:
            NotFound, Unauthenticated, Forbidden, Unavailable; Integrity: the blob is longer or shorter than described.
        """
        end = self._descriptor.size if end is None else end
        position = start
        async with aclosing(self._ranges(start, end)) as pieces:
            async for piece in pieces:
                position += len(piece)
                yield piece
        if position < end:  # a server that does not know ranges
            async with aclosing(self._stream(position, end)) as pieces:
                async for piece in pieces:
                    yield piece

    async def fetch(self, start: int, end: int) -> bytes:
        """The bytes from `start` up to and without `end`, by one range at a time; all of them are held in memory.

        Raises:
            As `read`.
        """
        part = _Part(start, end)
        if not self._repository.blobs.is_rangeless:
            await self._fill(part)
        if part.position < end:
            async with aclosing(self._stream(part.position, end)) as pieces:
                async for piece in pieces:
                    part.add(piece)
        return b"".join(part.pieces)

    # --- Ranges

    async def _ranges(self, start: int, end: int) -> AsyncGenerator[bytes, None]:
        """In order, by several ranges at a time; ends early when the server turns out not to know ranges."""
        parts: deque[_Part] = deque()
        size = max(1, WINDOW_BYTES // self._concurrency)
        next_start = start
        # The first range goes alone: a server without ranges would send the whole blob to each of them.
        allowed = 1
        try:
            while (parts or next_start < end) and not (self._repository.blobs.is_rangeless and not parts):
                while len(parts) < allowed and next_start < end and not self._repository.blobs.is_rangeless:
                    parts.append(self._start(next_start, min(end, next_start + size)))
                    next_start = parts[-1].end
                head = parts[0]
                if head.pieces:
                    allowed = self._concurrency
                    yield head.take()
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
        """Have `part` complete, or return early when the server does not know ranges."""
        failures = 0
        while part.position < part.end:
            begun_at = part.position
            try:
                if not await self._try_range(part):
                    return
            except Unavailable as exc:
                failures = 1 if part.position > begun_at else failures + 1
                await self._delay(failures, part.position, exc)

    async def _try_range(self, part: "_Part") -> bool:
        async with self._repository.blobs.range(self._descriptor, part.position, part.end) as answer:
            if answer.start != part.position or self._repository.blobs.is_rangeless:
                return False
            async for chunk in answer.chunks:
                piece = chunk[: part.end - part.position]
                part.add(piece)
                await self._limit.take(len(piece))
                if part.position == part.end:
                    return True
        raise self._ended(part.position)

    # --- One plain stream

    async def _stream(self, position: int, end: int) -> AsyncGenerator[bytes, None]:
        """From a server that sends the whole blob each time: what comes before `position` is passed over."""
        failures = 0
        while position < end:
            begun_at = position
            try:
                async with self._repository.blobs.range(self._descriptor, 0, self._descriptor.size) as answer:
                    async with aclosing(self._rest(answer.chunks, position, end)) as pieces:
                        async for piece in pieces:
                            position += len(piece)
                            yield piece
                    if position < end:
                        raise self._ended(position)
            except Unavailable as exc:
                failures = 1 if position > begun_at else failures + 1
                await self._delay(failures, position, exc)

    async def _rest(self, chunks: AsyncIterator[bytes], start: int, end: int) -> AsyncGenerator[bytes, None]:
        passed = 0
        async for chunk in chunks:
            piece = chunk[max(0, start - passed) : end - passed]
            passed += len(chunk)
            await self._limit.take(len(chunk))
            if passed > self._descriptor.size:
                raise Integrity(
                    f"{self._repository.name}: blob {self._descriptor.digest} is longer than its "
                    f"{self._descriptor.size} bytes: damaged in the registry or on the way",
                    reason=PULL_REASON,
                )
            if piece:
                yield piece
            if passed >= end and end < self._descriptor.size:
                return

    # --- Failures

    def _ended(self, position: int) -> Unavailable:
        size = self._descriptor.size
        what = f"blob {self._descriptor.digest} broke off after {position} of {size} bytes"
        return Unavailable(f"{self._repository.name}: {what}", reason=PULL_REASON)

    async def _delay(self, failures: int, position: int, exc: Unavailable) -> None:
        """Wait before the next try, or raise `exc` when there is none."""
        if failures >= self._patience.attempts:
            raise exc
        _log.debug("try %d at byte %d of %s: %s", failures + 1, position, self._descriptor.digest, exc)
        longest_s = min(self._patience.delay_s * 2 ** (failures - 1), self._patience.delay_max_s)
        await asyncio.sleep(longest_s * random.uniform(0.5, 1.0))  # noqa: S311 - not a secret


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

    def take(self) -> bytes:
        return self.pieces.popleft()

    def wake(self) -> None:
        self._wakeup.set()

    async def changed(self) -> None:
        await self._wakeup.wait()
        self._wakeup.clear()
