"""Ends that come from outside: Ctrl-C is Python's own affair, SIGTERM is made its equal here.

Every command line imports this, so it imports next to nothing itself.
"""

import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")


class Terminated(BaseException):
    """SIGTERM has come. Like KeyboardInterrupt no `Exception`, so that nothing on the way out swallows it."""


def run(work: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run`, with SIGTERM cancelling the work as Ctrl-C does.

    Raises: Terminated, KeyboardInterrupt, after the work has cleaned up behind itself.
    """
    import asyncio

    is_terminated = False

    async def main() -> T:
        task = asyncio.current_task()
        assert task is not None

        def terminate() -> None:
            nonlocal is_terminated
            is_terminated = True
            task.cancel()

        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminate)
        return await work

    try:
        return asyncio.run(main())
    except asyncio.CancelledError:
        if is_terminated:
            raise Terminated from None
        raise


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """For work without an event loop in the main thread: SIGTERM raises `Terminated` where the work is."""

    def terminate(*_: object) -> NoReturn:
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
