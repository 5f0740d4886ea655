"""Tasks, clocks and blocking work: the only place that touches the event loop's machinery.

`spawn` is the one way to start a task. It names it, keeps a reference, and makes a crash visible: an eternal task that
ends ends the daemon with its reason.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

_log = logging.getLogger(__name__)
T = TypeVar("T")
_tasks: set[asyncio.Task[Any]] = set()


class Clock(Protocol):
    """Where time comes from; tests bring their own."""

    def time(self) -> float:
        """Seconds since the epoch (wall clock, may jump)."""

    def monotonic(self) -> float:
        """Seconds that only go forward."""


class SystemClock:
    def time(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


def spawn(
    coroutine: Coroutine[Any, Any, T],
    *,
    name: str,
    on_crash: Callable[[BaseException], None] | None = None,
) -> asyncio.Task[T]:
    """Start a task that is referenced, named and whose crash is reported.

    Without `on_crash` a crash is logged as an error unless somebody awaits the task; with it the callback gets the
    exception (the daemon's stop, for eternal tasks). Cancellation is never a crash.
    """
    task = asyncio.get_running_loop().create_task(coroutine, name=name)
    _tasks.add(task)

    def _done(finished: asyncio.Task[T]) -> None:
        _tasks.discard(finished)
        if finished.cancelled():
            return
        exc = finished.exception()
        if exc is None:
            return
        if on_crash is not None:
            on_crash(exc)
        else:
            _log.error("task %s failed: %s", finished.get_name(), exc, exc_info=exc)

    task.add_done_callback(_done)
    return task


async def cancel(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancel tasks and wait until they have ended; their exceptions are not raised (they were reported by `spawn`)."""
    live = [task for task in tasks if task is not None and task is not asyncio.current_task()]
    for task in live:
        task.cancel()
    if live:
        await asyncio.gather(*live, return_exceptions=True)


async def uninterrupted(work: Coroutine[Any, Any, T], *, name: str) -> T:
    """Run `work` to its end even when the caller is cancelled meanwhile; the cancellation is raised afterwards.

    For the short steps that must not be abandoned half done: a commit, a clean-up.
    """
    task = asyncio.get_running_loop().create_task(work, name=name)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as exc:
            if task.cancelled():
                raise
            cancelled = exc
        except BaseException:  # noqa: BLE001 - the task's own, raised below
            break
    if cancelled is not None:
        with contextlib.suppress(BaseException):
            task.result()
        raise cancelled
    return task.result()


class BlockingPool:
    """A bounded thread pool for work that blocks; one per kind of work so that slow disks do not starve lookups."""

    def __init__(self, name: str, threads: int) -> None:
        self._executor = ThreadPoolExecutor(max_workers=threads, thread_name_prefix=name)

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """Run `function` in the pool. On cancellation the thread goes on; the function must be safe to abandon."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, *args)

    def close(self) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)


async def run_blocking(function: Callable[..., T], *args: Any) -> T:
    """Run short blocking work in the default pool."""
    return await asyncio.to_thread(function, *args)


@contextlib.contextmanager
def traced(logger: logging.Logger, step: str, **fields: object) -> Iterator[None]:
    """Log the duration of a slow step (pull, clone, boot, ssh) once, at DEBUG, whatever its outcome."""
    started = time.monotonic()
    outcome = "failed"
    try:
        yield
        outcome = "done"
    finally:
        logger.debug("%s %s in %.3f s %s", step, outcome, time.monotonic() - started, fields or "")
