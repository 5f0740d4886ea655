"""Work on files that somebody is going to close: whoever is cancelled meanwhile waits for its end first.

A descriptor's number may belong to another file soon after it was closed; a thread that was left behind with it would
write there.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from vzkubelet.aio import BlockingPool, spawn, uninterrupted
from vzkubelet.images.pacing import Stopped

T = TypeVar("T")


class Stop:
    """Tells work that may take long that nobody wants it any more."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        self._event.set()

    def check(self) -> None:
        """Raises: Stopped."""
        if self._event.is_set():
            raise Stopped


async def to_end(function: Callable[..., T], *arguments: Any, stop: Stop | None = None) -> T:
    """Run `function` in a thread of its own. On cancellation `stop` is set, and the thread has ended when this returns.

    Raises what `function` does.
    """
    pool = BlockingPool("pull", 1)
    task = spawn(pool.run(function, *arguments), name=f"pull: {function.__name__}", on_crash=lambda _: None)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if stop is not None:
            stop.set()
        await uninterrupted(_ended(task), name=f"end of {function.__name__}")
        raise
    finally:
        pool.close()


async def _ended(task: "asyncio.Task[Any]") -> None:
    with contextlib.suppress(Exception):  # nobody is left to hear of it
        await task
