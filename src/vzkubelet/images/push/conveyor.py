"""Blocking work in order on several threads, and in step with an event loop. Nothing here outlives its iteration."""

import asyncio
import hashlib
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from types import TracebackType
from typing import Self, TypeVar

from vzkubelet.aio import BlockingPool, run_blocking, spawn, uninterrupted

T = TypeVar("T")
R = TypeVar("R")
_HASHES_AHEAD = 16


def in_order(work: Callable[[T], R], items: Iterable[T], *, threads: int, name: str) -> Iterator[R]:
    """`work` of each item on `threads` threads, results in the order of the items.

    Items are taken as results are: at most a few more than there are threads are in memory.
    """
    executor = ThreadPoolExecutor(threads, thread_name_prefix=name)
    window: deque[Future[R]] = deque()
    try:
        for item in items:
            window.append(executor.submit(work, item))
            if len(window) > 2 * threads + 2:
                yield window.popleft().result()
        while window:
            yield window.popleft().result()
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


class HashThread:
    """sha256 on a thread of its own, a bounded way behind whoever feeds it. Marks are digests of what came so far."""

    def __init__(self, name: str) -> None:
        self._hasher = hashlib.sha256()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._pending: deque[Future[None]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)

    def update(self, data: bytes) -> None:
        self._pending.append(self._executor.submit(self._hasher.update, data))
        if len(self._pending) > _HASHES_AHEAD:
            self._pending.popleft().result()

    def mark(self) -> "Future[str]":
        """``sha256:…`` of what was fed until now; there when the thread has come so far."""
        return self._executor.submit(lambda: f"sha256:{self._hasher.copy().hexdigest()}")


async def until_cancelled(work: Callable[[Callable[[], bool]], T]) -> T:
    """Run blocking work that asks from time to time whether it is still wanted; when cancelled, wait for its end."""
    wanted = True
    task = spawn(run_blocking(work, lambda: wanted), name="push", on_crash=lambda _: None)
    try:
        return await asyncio.shield(task)
    finally:
        wanted = False
        await uninterrupted(_over(task), name="end of push step")


async def stepped(
    work: Iterator[T], *, name: str, interrupt: Callable[[], None] = lambda: None
) -> AsyncGenerator[T, None]:
    """What a blocking iterator yields, each step on a thread, one step ahead of the consumer.

    Consume it with ``contextlib.aclosing``. Closing it, as cancelling its consumer, calls `interrupt` and returns when
    the thread has ended its step and `work`, when it is a generator, its ``finally``.
    """
    pool = BlockingPool(name, 1)
    step = _step(work, pool, name)
    try:
        while True:
            values = await asyncio.shield(step)
            if not values:
                return
            step = _step(work, pool, name)
            yield values[0]
    finally:
        interrupt()
        await uninterrupted(_end(step, work, pool), name=f"end of {name}")


def _step(work: Iterator[T], pool: BlockingPool, name: str) -> "asyncio.Task[list[T]]":
    """The next value, or nothing."""
    return spawn(pool.run(lambda: list(islice(work, 1))), name=name, on_crash=lambda _: None)


async def _over(task: "asyncio.Task[T]") -> None:
    await asyncio.wait([task])


async def _end(step: "asyncio.Task[list[T]]", work: Iterator[T], pool: BlockingPool) -> None:
    await _over(step)
    close = getattr(work, "close", None)
    if close is not None:
        await pool.run(close)
    pool.close()
