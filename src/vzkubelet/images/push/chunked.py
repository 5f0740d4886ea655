"""A raw file in our chunked format: an index and packs, most of them those of an older version."""

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial

from vzkubelet.aio import cancel, run_blocking, spawn, uninterrupted
from vzkubelet.images.formats.artifact import Chunked, Content
from vzkubelet.images.formats.chunk_index import ChunkIndex
from vzkubelet.images.formats.chunked import index_blob
from vzkubelet.images.formats.tree import ChunkList
from vzkubelet.images.push.conveyor import stepped, until_cancelled
from vzkubelet.images.push.job import Job
from vzkubelet.images.push.ledger import Ledger
from vzkubelet.images.push.packs import (
    DEFAULT_LEVEL,
    Chunking,
    Frames,
    KnownPack,
    LostFrames,
    Pack,
    Packer,
    first_chunks,
    lost_frames,
    worth_reusing,
)
from vzkubelet.images.push.sources import Source
from vzkubelet.images.ranges import RangedBlob
from vzkubelet.model.oci import Descriptor

_log = logging.getLogger(__name__)
_OCTETS = "application/octet-stream"
"""The writer of the manifest knows better."""
_UPLOADS = 2
"""Packs on their way at once: one is sent while the registry syncs another. A kill loses what was sent of both."""
_QUESTIONS = 8


@dataclass(frozen=True, slots=True)
class Base:
    """An older version of a content."""

    index: ChunkIndex
    packs: tuple[Descriptor, ...]
    repository: str
    """``domain/path``."""

    def known(self) -> list[KnownPack]:
        return [
            KnownPack(pack.digest, pack.size, self.index.pack(number), (self.repository,))
            for number, pack in enumerate(self.packs)
        ]


async def write_content(job: Job, source: Source, title: str, base: Base | None, level: int | None) -> Content:
    """Have `source` in the registry in chunks; only packs with chunks that `base` does not have are made and sent.

    Raises:
        What the source raises; Unauthenticated, Forbidden, Unavailable.
    """
    what = ("packs", job.destination.name, str(level or DEFAULT_LEVEL), source.identity())
    ledger = await job.ledger(*what)
    done = False
    try:
        content = await _Writing(job, source, title, base, level, ledger).run()
        done = True
    finally:
        if ledger is not None:
            await uninterrupted(run_blocking(lambda: ledger.close(done=done)), name="close push ledger")
    return content


class _Writing:
    def __init__(
        self, job: Job, source: Source, title: str, base: Base | None, level: int | None, ledger: Ledger | None
    ) -> None:
        self._job = job
        self._source = source
        self._title = title
        self._base = base
        self._level = level
        self._ledger = ledger
        self._chunk_bytes = base.index.chunk_bytes if base is not None else None

    async def run(self) -> Content:
        own = await self._own_packs()
        older = self._base.known() if self._base is not None else []
        if older and self._source.is_local:
            hashing = self._chunking(f"compare {self._title}")
            digests = await until_cancelled(hashing.hash)
            reused = await self._available(worth_reusing([*older, *own], digests))
            new, chunks = await self._pack(reused, digests)
        else:
            # What comes from a registry is read once: all that is there counts, until it is known what is used of it.
            there = await self._available([*older, *own])
            new, chunks = await self._pack(there, None)
            reused = worth_reusing(there, chunks)
            new += await self._packed_again(lost_frames(there, reused, new, chunks))
        return await self._index(chunks, reused, new)

    async def _pack(self, there: Sequence[KnownPack], digests: ChunkList | None) -> tuple[list[KnownPack], ChunkList]:
        chunking = self._chunking(f"push {self._title}")
        new = await self._upload(chunking.packs(Frames(there).__contains__, digests))
        assert chunking.chunks is not None
        return new, chunking.chunks

    async def _packed_again(self, lost: Sequence[LostFrames]) -> list[KnownPack]:
        """New packs with the frames that are used of packs that hold too little else, as they are."""
        packer, sent = Packer(), list[KnownPack]()
        for pack, frames in lost:
            blob = RangedBlob(
                self._job.destination.repository,
                Descriptor(media_type=_OCTETS, digest=pack.digest, size=pack.size_bytes),
            )
            for digest, start, end in frames:
                frame = bytes(await blob.fetch(start, end))
                for full in packer.add(digest, frame):
                    await self._send(full, sent)
        for full in packer.rest():
            await self._send(full, sent)
        return sent

    def _chunking(self, stage: str) -> Chunking:
        meter = self._job.meter(stage, self._source.size_bytes)
        return Chunking(self._source, meter.advance, level=self._level, chunk_bytes=self._chunk_bytes)

    async def _own_packs(self) -> list[KnownPack]:
        """What an interrupted push of the same file has sent."""
        ledger = self._ledger
        if ledger is None:
            return []
        records = await run_blocking(lambda: list(ledger.packs()))
        return [KnownPack(record.digest, record.size_bytes, frames, is_own=True) for record, frames in records]

    async def _available(self, packs: Sequence[KnownPack]) -> list[KnownPack]:
        has = self._job.destination.has
        there = await _all([partial(has, pack.digest, pack.size_bytes, pack.places) for pack in packs])
        return [pack for pack, is_there in zip(packs, there, strict=True) if is_there]

    async def _upload(self, packs: Iterator[Pack]) -> list[KnownPack]:
        running: set[asyncio.Task[None]] = set()
        sent: list[KnownPack] = []
        steps = stepped(packs, name=f"pack {self._title}", interrupt=self._source.interrupt)
        try:
            async with aclosing(steps):
                async for pack in steps:
                    if len(running) == _UPLOADS:
                        await _one_of(running)
                    name = f"upload pack {len(sent) + len(running)}"
                    running.add(spawn(self._send(pack, sent), name=name, on_crash=lambda _: None))
                while running:
                    await _one_of(running)
        finally:
            await cancel(*running)
        return sent

    async def _send(self, pack: Pack, sent: list[KnownPack]) -> None:
        digest = f"sha256:{(await run_blocking(hashlib.sha256, pack.data)).hexdigest()}"
        size = len(pack.data)
        if not await self._job.destination.has(digest, size):
            await self._job.destination.put(pack.data, digest)
        if self._ledger is not None:
            try:
                # A small write to the page cache, and never two at once.
                self._ledger.add_pack(digest, size, pack.frames)
            except OSError as exc:
                _log.warning("a push that is killed cannot be gone on with from here: %s", exc)
        sent.append(KnownPack(digest, size, pack.frames, is_own=True))

    async def _index(self, chunks: ChunkList, reused: Sequence[KnownPack], new: Sequence[KnownPack]) -> Content:
        packs = await run_blocking(_ordered, chunks, [*reused, *new])
        raw_digest = self._source.raw_digest
        base = self._base
        if raw_digest is None and base is not None and base.index.raw_digest is not None:
            is_same = await run_blocking(lambda: base.index.chunk_list() == chunks)
            raw_digest = base.index.raw_digest if is_same else None
        frames = [pack.frames for pack in packs]
        descriptor, document = await run_blocking(lambda: index_blob(ChunkIndex.build(chunks, frames, raw_digest)))
        await self._job.destination.document(document)
        blobs = tuple(Descriptor(media_type=_OCTETS, digest=pack.digest, size=pack.size_bytes) for pack in packs)
        return Content(chunks.size_bytes, raw_digest, Chunked(descriptor, blobs))


def _ordered(chunks: ChunkList, packs: Sequence[KnownPack]) -> list[KnownPack]:
    """Those of the base as they were, then those made for this file in its order, whichever of two pushes made them."""
    own = [pack for pack in packs if pack.is_own]
    first = first_chunks(chunks, own)
    base = [pack for pack in packs if not pack.is_own]
    return base + [pack for _, pack in sorted(zip(first, own, strict=True), key=lambda numbered: numbered[0])]


async def _one_of(running: "set[asyncio.Task[None]]") -> None:
    """Wait until one has ended, and raise what it raised."""
    ended, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    running -= ended
    for task in ended:
        task.result()


async def _all(requests: Sequence[Callable[[], Awaitable[bool]]]) -> list[bool]:
    """Some at a time."""
    slots = asyncio.Semaphore(_QUESTIONS)

    async def ask(request: Callable[[], Awaitable[bool]]) -> bool:
        async with slots:
            return await request()

    tasks = [spawn(ask(request), name="look for a pack", on_crash=lambda _: None) for request in requests]
    try:
        return [await task for task in tasks]
    finally:
        await cancel(*tasks)
