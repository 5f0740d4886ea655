"""Contents on their way: each is moved once, however many want it, in this process or another."""

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vzkubelet.aio import cancel, run_blocking, spawn, uninterrupted
from vzkubelet.errors import Exhausted, Forbidden, Unauthenticated
from vzkubelet.images.formats.artifact import PULL_REASON
from vzkubelet.images.receiver import Layer, receive
from vzkubelet.images.records import ContentRecord
from vzkubelet.images.registry import Repository
from vzkubelet.images.staging import Staging
from vzkubelet.images.store import Store, store_fault

_OTHER_PROCESS_POLL_S = 0.2
Listener = Callable[[], None]


class _Fetch:
    """One content on its way; lives as long as somebody waits for it."""

    def __init__(self) -> None:
        self.done_bytes = 0
        self.listeners: list[Listener] = []
        self.task: asyncio.Task[None] | None = None
        self.staging: Staging | None = None
        self.waiting = 0

    def advance(self, size_bytes: int) -> None:
        self.done_bytes += size_bytes
        for listener in self.listeners:
            listener()


class Fetches:
    """Moves contents into the store. `streams` = how many at the same time."""

    def __init__(self, store: Store, streams: int) -> None:
        self._store = store
        self._slots = asyncio.Semaphore(streams)
        self._running: dict[str, _Fetch] = {}

    async def ensure(self, layer: Layer, repository: Repository, advanced: Callable[[int], None]) -> None:
        """Have the content of `layer` in the store. `advanced` hears how many compressed bytes of it have come.

        Cancelling the last one who waits for a content stops its download and removes what there was of it.
        """
        content = ContentRecord(layer.raw_digest, layer.raw_size_bytes)
        while not await run_blocking(self._store.has_content, content):
            fetch = self._running.get(layer.raw_digest)
            joined = fetch is not None
            if fetch is None:
                fetch = self._start(layer, repository)
            try:
                await self._wait(fetch, layer, advanced)
            except (Unauthenticated, Forbidden):
                if not joined:
                    raise
                # The other one's login was refused in the middle; ours may still be good.
        advanced(layer.blob.size)

    async def close(self) -> None:
        await cancel(*[fetch.task for fetch in self._running.values()])

    def _start(self, layer: Layer, repository: Repository) -> _Fetch:
        fetch = self._running[layer.raw_digest] = _Fetch()
        fetch.task = spawn(
            self._run(layer, repository, fetch),
            name=f"fetch {layer.raw_digest}",
            on_crash=lambda _: None,  # whoever waits gets it
        )
        return fetch

    async def _wait(self, fetch: _Fetch, layer: Layer, advanced: Callable[[int], None]) -> None:
        assert fetch.task is not None

        def listener() -> None:
            advanced(fetch.done_bytes)

        fetch.listeners.append(listener)
        fetch.waiting += 1
        try:
            await asyncio.shield(fetch.task)
        finally:
            fetch.listeners.remove(listener)
            fetch.waiting -= 1
            if not fetch.waiting and not fetch.task.done():
                self._forget(fetch, layer)  # whoever comes now starts anew
                await uninterrupted(cancel(fetch.task), name=f"cancel fetch {layer.raw_digest}")

    async def _run(self, layer: Layer, repository: Repository, fetch: _Fetch) -> None:
        try:
            with faults_named(repository.name):
                if await self._stage(layer, fetch):
                    await self._move(layer, repository, fetch)
        finally:
            if fetch.staging is not None:
                await uninterrupted(run_blocking(fetch.staging.discard), name=f"discard {layer.raw_digest}")
            self._forget(fetch, layer)

    def _forget(self, fetch: _Fetch, layer: Layer) -> None:
        if self._running.get(layer.raw_digest) is fetch:
            del self._running[layer.raw_digest]

    async def _stage(self, layer: Layer, fetch: _Fetch) -> bool:
        """Take the place to write to; False when another process has brought the content meanwhile."""
        content = ContentRecord(layer.raw_digest, layer.raw_size_bytes)

        async def take() -> None:
            fetch.staging = await run_blocking(self._stage_anew, content)

        while True:
            # Not to be abandoned with the lock taken, and a leftover of a crash takes a while to remove.
            await uninterrupted(take(), name=f"stage {content.digest}")
            if fetch.staging is not None:
                return True
            if await run_blocking(self._store.has_content, content):
                return False
            await asyncio.sleep(_OTHER_PROCESS_POLL_S)

    def _stage_anew(self, content: ContentRecord) -> Staging | None:
        staging = self._store.stage(content.digest)
        if staging is not None and self._store.has_content(content):
            staging.discard()
            return None
        if staging is not None:
            staging.data.unlink(missing_ok=True)
        return staging

    async def _move(self, layer: Layer, repository: Repository, fetch: _Fetch) -> None:
        staging = fetch.staging
        assert staging is not None
        async with self._slots:
            self._check_space(layer, repository)
            async with repository.blob(layer.blob) as chunks:
                await receive(chunks, layer, staging.data, repository.name, fetch.advance)

        async def commit() -> None:
            content = ContentRecord(layer.raw_digest, layer.raw_size_bytes)
            await run_blocking(self._store.commit_content, staging, content)
            fetch.staging = None

        await uninterrupted(commit(), name=f"commit {layer.raw_digest}")

    def _check_space(self, layer: Layer, repository: Repository) -> None:
        """Fail before hours of download where the volume cannot possibly take the content.

        Content is hardly ever smaller than 9/10 of its blob: gzip shrinks everything but noise, holes cost nothing.
        """
        status = os.statvfs(self._store.staging_root)
        free_bytes = status.f_bavail * status.f_frsize
        if free_bytes < layer.blob.size * 9 // 10:
            raise Exhausted(
                f"{repository.name}: no space for blob {layer.blob.digest}: {layer.blob.size} bytes compressed, "
                f"{free_bytes} bytes free on the volume of the cache directory",
                reason=PULL_REASON,
            )


@contextmanager
def faults_named(name: str) -> Iterator[None]:
    """Failures of the store's volume as errors that name the image."""
    try:
        yield
    except OSError as exc:
        raise store_fault(exc, name) from exc
