"""Stages of work in threads, one after another, with bounded queues between them.

The first failure of whatever stage is the cause, and ends all: each stage looks at `Pipeline.has_failed` between two
items, and each queue is read to its end whatever happens, so that nobody ever waits for a stage that is gone.
"""

import asyncio
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Generic, Self, TypeVar

from vzkubelet.aio import BlockingPool, spawn, uninterrupted

T = TypeVar("T")


class Inlet(Generic[T]):
    """The queue before a stage: `put` and `end` are for threads, `send` for the event loop."""

    def __init__(self, depth: int, loop: asyncio.AbstractEventLoop) -> None:
        self._items: queue.SimpleQueue[T | None] = queue.SimpleQueue()
        self._places = threading.Semaphore(depth)
        self._loop = loop
        self._waiting: asyncio.Future[None] | None = None

    def put(self, item: T) -> None:
        self._places.acquire()
        self._items.put(item)

    def end(self) -> None:
        self._items.put(None)

    async def send(self, item: T) -> None:
        """For one task at a time."""
        while not self._places.acquire(blocking=False):
            self._waiting = self._loop.create_future()
            # A place may have become free before anybody knew that it is waited for.
            if self._places.acquire(blocking=False):
                break
            await self._waiting
        self._waiting = None
        self._items.put(item)

    def __iter__(self) -> Iterator[T]:
        while (item := self._items.get()) is not None:
            self._places.release()
            if self._waiting is not None:
                self._loop.call_soon_threadsafe(self._wake)
            yield item

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


class Pipeline:
    """Threads while it is entered. Leaving it waits for them: they use what the caller removes afterwards.

    Leaving without an error raises the failure of the stage that failed first.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._loop = asyncio.get_running_loop()
        self._failure: BaseException | None = None
        self._stages: list[Callable[[], None]] = []
        self._ends: list[Callable[[], None]] = []

    def has_failed(self) -> bool:
        return self._failure is not None

    def stage(
        self,
        work: Callable[[Iterator[T]], None],
        depth: int,
        *,
        feeds: Sequence[Callable[[], None]] = (),
        is_first: bool = False,
    ) -> Inlet[T]:
        """Add a stage. `work` takes all items; when it has ended, `feeds` end what it feeds. What nobody feeds but
        whoever entered the pipeline `is_first`."""
        inlet: Inlet[T] = Inlet(depth, self._loop)

        def run() -> None:
            items = iter(inlet)
            try:
                work(items)
            except BaseException as exc:  # noqa: BLE001 - carried to the event loop
                self.fail(exc)
            for _ in items:
                pass
            for end in feeds:
                end()

        self._stages.append(run)
        if is_first:
            self._ends.append(inlet.end)
        return inlet

    def fail(self, exc: BaseException) -> None:
        """Later failures are consequences of the first."""
        if self._failure is None:
            self._failure = exc

    async def __aenter__(self) -> Self:
        self._pool = BlockingPool("pull", len(self._stages))
        self._tasks = [spawn(self._pool.run(stage), name=f"stage of {self._name}") for stage in self._stages]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.fail(error)
        for end in self._ends:
            end()
        await uninterrupted(self._ended(), name=f"end of {self._name}")
        self._pool.close()
        if self._failure is not None and error is None:
            raise self._failure

    async def _ended(self) -> None:
        await asyncio.gather(*self._tasks)
