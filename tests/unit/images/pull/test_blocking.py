"""Nobody closes a file under a thread: a cancelled caller waits for its end, and can hasten it."""

import asyncio
import threading

import pytest

from vzkubelet.images.pacing import Stopped
from vzkubelet.images.pull.blocking import Stop, to_end


async def test_result_and_failure_come_through() -> None:
    assert await to_end(lambda a, b: a + b, 1, 2) == 3

    def fail() -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        await to_end(fail)


async def test_cancelled_caller_waits_for_the_thread() -> None:
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go_on.wait()
        ended.set()

    task = asyncio.get_running_loop().create_task(to_end(work))
    await asyncio.to_thread(begun.wait)
    task.cancel()
    for _ in range(10):
        await asyncio.sleep(0)
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


async def test_long_work_is_told_to_stop() -> None:
    stop, begun = Stop(), threading.Event()
    outcome: list[str] = []

    def work() -> None:
        begun.set()
        try:
            while True:
                stop.check()
        except Stopped:
            outcome.append("stopped")
            raise

    task = asyncio.get_running_loop().create_task(to_end(work, stop=stop))
    await asyncio.to_thread(begun.wait)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert outcome == ["stopped"]
