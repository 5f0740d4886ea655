"""One push on its way: where it goes to, what is remembered of earlier ones, who hears of its progress."""

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from vzkubelet.aio import run_blocking, uninterrupted
from vzkubelet.images.formats.artifact import Content, Encoding, Streams
from vzkubelet.images.push.conveyor import until_cancelled
from vzkubelet.images.push.destination import Destination
from vzkubelet.images.push.history import BlobRecord, History
from vzkubelet.images.push.ledger import Ledger, Ledgers
from vzkubelet.images.push.request import Listener, PushProgress
from vzkubelet.images.push.sources import Source
from vzkubelet.images.push.streams import Codec, Compression, raw_digest

_log = logging.getLogger(__name__)
_HASHED_ANYWAY_BYTES = 256 * 1024 * 1024
"""A run up to this is hashed before it is compressed whenever the registry might have it: a fraction of a second."""


class Meter:
    """Counts bytes of one stage on any thread, and tells the listener on the loop, no more often than it can hear."""

    def __init__(self, listener: Listener, stage: str, total_bytes: int) -> None:
        self._listener = listener
        self._stage = stage
        self._total_bytes = total_bytes
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._done_bytes = 0
        self._is_due = False
        listener(PushProgress(stage, 0, total_bytes))

    def advance(self, size_bytes: int) -> None:
        with self._lock:
            self._done_bytes += size_bytes
            is_due, self._is_due = self._is_due, True
        if not is_due:
            self._loop.call_soon_threadsafe(self._tell)

    def rewind(self, done_bytes: int) -> None:
        """What was done beyond `done_bytes` has to be done again."""
        with self._lock:
            self._done_bytes = done_bytes

    @property
    def done_bytes(self) -> int:
        return self._done_bytes

    def _tell(self) -> None:
        with self._lock:
            self._is_due = False
            done_bytes = self._done_bytes
        self._listener(PushProgress(self._stage, done_bytes, self._total_bytes))


@dataclass(frozen=True, slots=True)
class Run:
    """A run of a source that becomes one blob."""

    source: Source
    title: str
    """For progress."""
    start: int
    end: int

    @property
    def size_bytes(self) -> int:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Known:
    """A content that some repository (``domain/path``) has, of whatever format."""

    content: Content
    repository: str


@dataclass(frozen=True, slots=True)
class Job:
    destination: Destination
    history: History
    ledgers: Ledgers
    listener: Listener

    def meter(self, stage: str, total_bytes: int) -> Meter:
        return Meter(self.listener, stage, total_bytes)

    async def ledger(self, *what: str) -> Ledger | None:
        """Where a push of what these words name stands; None where that cannot be kept, which is no reason to fail."""
        try:
            return await run_blocking(self.ledgers.open, *what)
        except OSError as exc:
            _log.warning("a push that is killed cannot be gone on with: %s", exc)
            return None

    async def remembered(self, codec: Codec[Any], size_bytes: int) -> list[BlobRecord]:
        """What runs of that size have become in earlier pushes of this host."""
        return await run_blocking(lambda: list(self.history.candidates(codec.name, size_bytes)))

    async def recognised(
        self, run: Run, candidates: Sequence[BlobRecord], codec: Codec[Any], *, thorough: bool = False
    ) -> BlobRecord | None:
        """The blob that `run` became before, if the registry has it; found without compressing.

        A long run is hashed only as far as it begins like one of which beginnings are known; `thorough`: in any case.
        """
        candidates = [record for record in candidates if record.raw_size_bytes == run.size_bytes]
        whole = run.size_bytes == run.source.size_bytes
        digest = run.source.raw_digest if whole else None
        if digest is None and run.source.is_local:
            digest = await self._hash(run, candidates, thorough)
        for record in candidates:
            if record.raw_digest != digest:
                continue
            if await self.destination.has(record.digest, record.size_bytes, record.repositories):
                await self._remember(codec, record)
                return record
        return None

    async def stream(self, run: Run, codec: Codec[Any], meter: Meter) -> BlobRecord:
        """Send a run, compressed; goes on where a push of the same bytes was killed.

        Raises:
            As `Destination.stream`.
        """
        begun_at = meter.done_bytes
        what = ("stream", self.destination.name, codec.name, run.source.identity(), str(run.start), str(run.end))
        ledger = await self.ledger(*what)

        def compress() -> Compression[Any]:
            meter.rewind(begun_at)
            return Compression(run.source, codec, meter.advance, start=run.start, end=run.end)

        done = False
        try:
            compressed = await self.destination.stream(compress, ledger, interrupt=run.source.interrupt)
            done = True
        finally:
            if ledger is not None:
                await uninterrupted(run_blocking(lambda: ledger.close(done=done)), name="close push ledger")
        record = BlobRecord(
            raw_digest=compressed.raw_digest,
            raw_size_bytes=compressed.raw_size_bytes,
            digest=compressed.digest,
            size_bytes=compressed.size_bytes,
            prefixes=compressed.prefixes,
        )
        await self._remember(codec, record)
        return record

    async def _remember(self, codec: Codec[Any], record: BlobRecord) -> None:
        try:
            await run_blocking(self.history.add_blob, codec.name, record, self.destination.name)
        except OSError as exc:
            _log.warning("blob %s will not be recognised: %s", record.digest, exc)

    async def _hash(self, run: Run, candidates: Sequence[BlobRecord], thorough: bool) -> str | None:
        """The digest of a run that begins like a candidate; None as soon as it does not."""
        if not thorough and run.size_bytes > _HASHED_ANYWAY_BYTES:
            candidates = [record for record in candidates if record.prefixes]
        if not candidates:
            return None
        meter = self.meter(f"compare {run.title}", run.size_bytes)
        agrees = agreement(candidates)
        return await until_cancelled(
            lambda is_wanted: raw_digest(
                run.source,
                run.start,
                run.end,
                lambda number, digest: is_wanted() and agrees(number, digest),
                meter.advance,
            )
        )


def agreement(candidates: Sequence[BlobRecord]) -> Callable[[int, str], bool]:
    """Hears the digests of longer and longer beginnings; False when no candidate begins like that."""
    left = list(candidates)

    def agrees(number: int, digest: str) -> bool:
        # A record without prefixes says nothing about beginnings.
        left[:] = [record for record in left if number >= len(record.prefixes) or record.prefixes[number] == digest]
        return bool(left)

    return agrees


def records(known: Sequence[Known], encoding: Encoding) -> list[BlobRecord]:
    """Blobs in that encoding of contents that a registry has, as if this host had pushed them."""
    found = []
    for place in known:
        if not isinstance(place.content.layout, Streams):
            continue
        for stream in place.content.layout.streams:
            if stream.encoding is encoding and len(stream.blobs) == 1 and stream.raw_digest and stream.raw_size_bytes:
                (blob,) = stream.blobs
                found.append(
                    BlobRecord(
                        raw_digest=stream.raw_digest,
                        raw_size_bytes=stream.raw_size_bytes,
                        digest=blob.digest,
                        size_bytes=blob.size,
                        repositories=(place.repository,),
                    )
                )
    return found
