"""Contents on their way: each is moved once, however many want it, in this process or another."""

import asyncio
import errno
import logging
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from vzkubelet.aio import cancel, run_blocking, spawn, uninterrupted
from vzkubelet.errors import Exhausted, Forbidden, Integrity, InvalidInput, NotFound, Unauthenticated
from vzkubelet.images.formats.artifact import Chunked, Content, Streams
from vzkubelet.images.formats.chunk_index import ChunkIndex
from vzkubelet.images.formats.tree import ChunkList
from vzkubelet.images.pull import bases, ledger
from vzkubelet.images.pull.blocking import Stop, to_end
from vzkubelet.images.pull.chunked import ChunkedMove, read_index
from vzkubelet.images.pull.delta import Base
from vzkubelet.images.pull.place import Moved
from vzkubelet.images.pull.source import Source
from vzkubelet.images.pull.streamed import StreamedMove
from vzkubelet.images.rate import RateLimit
from vzkubelet.images.records import ContentRecord
from vzkubelet.images.registry import Repository
from vzkubelet.images.staging import Staging, allocated_below
from vzkubelet.images.store import Store, store_fault

_log = logging.getLogger(__name__)
_OTHER_PROCESS_POLL_S = 0.2
FULL = (errno.ENOSPC, errno.EDQUOT)
_ROOM_ATTEMPTS = 3
LEAST_ROOM_BYTES = 4 * 1024 * 1024
"""Less of it is not worth another attempt."""
MakeRoom = Callable[[int, str], Awaitable[int]]
"""Has that many bytes free on the volume, or raises Exhausted in the name that is given (`Upkeep.make_room`)."""
Advanced = Callable[[int, str], None]
"""Hears how many bytes of a content's blobs are done, and what is being done if it is not moving bytes."""


class _Fetch:
    """One content on its way; lives as long as somebody waits for it."""

    def __init__(self) -> None:
        self.done_bytes = 0
        self.stage = ""
        self.listeners: list[Callable[[], None]] = []
        self.task: asyncio.Task[ContentRecord] | None = None
        self.staging: Staging | None = None
        self.waiting = 0

    def advanced(self, done_bytes: int, stage: str = "") -> None:
        self.done_bytes, self.stage = done_bytes, stage
        for listener in self.listeners:
            listener()

    def say(self, stage: str) -> None:
        self.advanced(self.done_bytes, stage)


class Fetches:
    """Moves contents into the store."""

    def __init__(
        self,
        store: Store,
        make_room: MakeRoom,
        *,
        streams: int = 2,
        concurrency: int = 8,
        limit: RateLimit | None = None,
    ) -> None:
        """`streams` = contents at the same time, `concurrency` = ranges of one on their way at the same time."""
        self._store = store
        self._slots = asyncio.Semaphore(streams)
        self._concurrency = concurrency
        self._limit = limit
        self._make_room = make_room
        self._running: dict[str, _Fetch] = {}

    async def ensure(self, content: Content, repository: Repository, family: str, advanced: Advanced) -> ContentRecord:
        """Have a content in the store; under which digest. Whoever else wants it meanwhile waits for the same download.

        `family` is the repository (``host/path``) whose older contents this one may have much in common with.
        Cancelling the last one who waits stops the download; what there is of it is kept for the next.

        Raises:
            Integrity, InvalidInput, NotFound, Unauthenticated, Forbidden, Unavailable, Exhausted.
        """
        while True:
            record = await run_blocking(self._present, content)
            if record is not None:
                break
            fetch = self._running.get(content.key)
            joined = fetch is not None
            if fetch is None:
                fetch = self._start(content, repository, family)
            try:
                record = await self._wait(fetch, content, advanced)
                break
            except (Unauthenticated, Forbidden, NotFound):
                if not joined:
                    raise
                # The other one's login was refused in the middle, which some registries call not found; ours may still
                # be good.
        advanced(content.blob_bytes, "")
        return record

    async def close(self) -> None:
        await cancel(*[fetch.task for fetch in self._running.values()])

    # --- Who waits for what

    def _start(self, content: Content, repository: Repository, family: str) -> _Fetch:
        fetch = self._running[content.key] = _Fetch()
        fetch.task = spawn(
            self._run(content, repository, family, fetch),
            name=f"fetch {content.key}",
            on_crash=lambda _: None,  # whoever waits gets it
        )
        return fetch

    async def _wait(self, fetch: _Fetch, content: Content, advanced: Advanced) -> ContentRecord:
        assert fetch.task is not None

        def listener() -> None:
            advanced(fetch.done_bytes, fetch.stage)

        fetch.listeners.append(listener)
        fetch.waiting += 1
        listener()
        try:
            return await asyncio.shield(fetch.task)
        finally:
            fetch.listeners.remove(listener)
            fetch.waiting -= 1
            if not fetch.waiting and not fetch.task.done():
                self._forget(fetch, content)  # whoever comes now starts anew
                await uninterrupted(cancel(fetch.task), name=f"cancel fetch {content.key}")

    def _forget(self, fetch: _Fetch, content: Content) -> None:
        if self._running.get(content.key) is fetch:
            del self._running[content.key]

    # --- One fetch

    async def _run(self, content: Content, repository: Repository, family: str, fetch: _Fetch) -> ContentRecord:
        is_worth_keeping = True
        try:
            with faults_named(repository.name):
                found = await self._stage(content, fetch)
                return found or await self._move(content, repository, family, fetch)
        except Integrity:
            is_worth_keeping = _has_parts(content)  # those that were verified are right
            raise
        except (InvalidInput, Exhausted):
            is_worth_keeping = False  # wrong, or in the way
            raise
        finally:
            if fetch.staging is not None:
                leave = (
                    fetch.staging.release if is_worth_keeping and _is_begun(fetch.staging) else fetch.staging.discard
                )
                await uninterrupted(run_blocking(leave), name=f"leave {content.key}")
            self._forget(fetch, content)

    async def _stage(self, content: Content, fetch: _Fetch) -> ContentRecord | None:
        """Take the place to write to; the content itself when another process has brought it meanwhile."""

        async def take() -> None:
            fetch.staging = await run_blocking(self._store.stage, content.key)

        while True:
            # Not to be abandoned with the lock taken.
            await uninterrupted(take(), name=f"stage {content.key}")
            found = await run_blocking(self._present, content)
            if found is not None or fetch.staging is not None:
                break
            path = self._store.staging_root / content.key.removeprefix("sha256:") / "ledger"
            fetch.advanced(await run_blocking(ledger.done_bytes, path), "another process is pulling it")
            await asyncio.sleep(_OTHER_PROCESS_POLL_S)
        if found is not None and fetch.staging is not None:
            await uninterrupted(run_blocking(fetch.staging.discard), name=f"leave {content.key}")
            fetch.staging = None
        return found

    async def _move(self, content: Content, repository: Repository, family: str, fetch: _Fetch) -> ContentRecord:
        staging = fetch.staging
        assert staging is not None
        async with self._slots:
            source = Source(repository, self._concurrency, self._limit)
            found = await self._move_here(content, source, family, fetch, staging)
        if isinstance(found, ContentRecord):
            return found

        async def commit() -> None:
            await run_blocking(self._store.commit_content, staging, found.content, found.chunks)
            fetch.staging = None

        await uninterrupted(commit(), name=f"commit {content.key}")
        return found.content

    async def _move_here(
        self, content: Content, source: Source, family: str, fetch: _Fetch, staging: Staging
    ) -> Moved | ContentRecord:
        """What is in the staging place then, or a content of the store that is the same."""
        index: ChunkIndex | None = None
        target = content.chunk_list()
        if isinstance(content.layout, Chunked):
            index = await read_index(content, source, staging)
            target = await run_blocking(index.chunk_list)
            same = await self._same(index, target, fetch)
            if same is not None:
                return same
        base = await self._base(target, family, staging, fetch)
        if base is not None and base.chunks == target:
            return base.content  # the same file, which came in another format
        if base is not None:
            # A clone is not read: should the older version have rotted, the next scrub is to find it in both.
            await run_blocking(staging.inherit, await run_blocking(self._store.verified_at, base.content))
        for attempt in range(_ROOM_ATTEMPTS):
            if attempt:
                await self._make_more_room(content, source.name, staging)
            elif base is None:
                await self._make_room(await run_blocking(_wanted_bytes, content, index, staging), source.name)
            try:
                if index is not None:
                    return await ChunkedMove(content, index, source, staging, fetch.advanced).run(base)
                return await StreamedMove(content, source, staging, fetch.advanced).run(base)
            except OSError as exc:
                if exc.errno not in FULL or attempt + 1 == _ROOM_ATTEMPTS:
                    raise
                _log.warning("%s: the volume of the cache is full: looking for what may go", source.name)
        raise AssertionError("unreachable")

    async def _make_more_room(self, content: Content, name: str, staging: Staging) -> None:
        """After the volume was full. What is missing is only a guess then: while something is freed, it is tried."""
        before = await run_blocking(self._free_bytes)
        try:
            await self._make_room(await run_blocking(_missing_bytes, content, staging), name)
        except Exhausted:
            if await run_blocking(self._free_bytes) < before + LEAST_ROOM_BYTES:
                raise

    # --- What is here already

    def _present(self, content: Content) -> ContentRecord | None:
        record = self._store.content_of(content.key)
        if record is None or content.raw_size_bytes not in (None, record.size_bytes):
            return None
        return record if self._store.has_content(record) else None

    async def _same(self, index: ChunkIndex, target: ChunkList, fetch: _Fetch) -> ContentRecord | None:
        """The file of an index under another digest: that of the same chunks in other packs, or of the whole file, as
        the index claims and the file on this disk proves."""
        tree = ContentRecord(await run_blocking(target.digest), target.size_bytes)
        if await run_blocking(self._store.has_content, tree):
            return tree
        if index.raw_digest is None:
            return None
        raw = ContentRecord(index.raw_digest, index.size_bytes)
        if await run_blocking(self._store.has_content, raw):
            fetch.say("comparing with the same disk in another format")
            if await run_blocking(self._store.chunk_list, raw, index.chunk_bytes) == target:
                return raw
        return None

    async def _base(self, target: ChunkList | None, family: str, staging: Staging, fetch: _Fetch) -> Base | None:
        """An older version to begin with; none is looked for where something has been begun already."""
        if _is_begun(staging):
            fetch.say("verifying what came before")
            return None
        if target is None:
            return None
        fetch.say("looking for an older version")
        stop = Stop()
        found = await to_end(bases.find, self._store, family, target, stop, stop=stop)
        fetch.say("taking over what has not changed" if found is not None else "")
        return found

    def _free_bytes(self) -> int:
        status = os.statvfs(self._store.staging_root)
        return status.f_bavail * status.f_frsize


def _wanted_bytes(content: Content, index: ChunkIndex | None, staging: Staging) -> int:
    """What the content will certainly take of the volume, so that a pull fails before hours of download.

    A file is hardly ever smaller than 9/10 of its blobs: compressing shrinks everything but noise, holes cost nothing.
    """
    match content.layout:
        case Chunked() if index is not None:
            wanted = index.data_bytes
        case Chunked() | Streams():
            wanted = content.blob_bytes * 9 // 10
    return max(0, wanted - allocated_below(staging.directory))


def _missing_bytes(content: Content, staging: Staging) -> int:
    """What the rest of a content will take if it is like what came already."""
    taken, done = allocated_below(staging.directory), ledger.done_bytes(staging.ledger)
    expected = taken * content.blob_bytes // done if done else content.blob_bytes
    if content.raw_size_bytes is not None:
        expected = min(expected, content.raw_size_bytes)
    return max(expected - taken, LEAST_ROOM_BYTES)


def _has_parts(content: Content) -> bool:
    """Whether parts of the content are verified one by one."""
    match content.layout:
        case Chunked():
            return True
        case Streams(streams):
            return len(streams) > 1


def _is_begun(staging: Staging) -> bool:
    return ledger.done_bytes(staging.ledger) > 0


@contextmanager
def faults_named(name: str) -> Iterator[None]:
    """Failures of the store's volume as errors that name the image."""
    try:
        yield
    except OSError as exc:
        raise store_fault(exc, name) from exc
